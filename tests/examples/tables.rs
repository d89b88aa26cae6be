//! Prints what the shipped route policy gives away, beside policies that were rejected, and how far
//! requests reach from the end of a circuit:
//! `cargo run --release -p kith-tests --example tables -- [--table repeated|capture|reach|mirrors|swarm] [--nodes N]
//! [--trials N] [--seed N]`. Without `--nodes` it runs 1000, 2000 and 10,000 nodes, and whole nodes on a
//! graph of 200 for the reach. What the figures mean: `docs/protocol/circuit.md`.

use kith_onion::fetch::Rules;
use kith_tests::graphs::{Graph, Kind};
use kith_tests::paths::{
    AFTER, Adversary, Estimate, Policy, availability, capture, cores, reach, repeated, seeded,
};
use kith_tests::swarm::{Leaves, Outcome, Scenario, play};

struct Options {
    nodes: Vec<usize>,
    trials: usize,
    seed: u64,
    table: Option<String>,
}

const TABLES: [&str; 5] = ["repeated", "capture", "reach", "mirrors", "swarm"];
/// Whole nodes of which one graph is made.
const WHOLE: usize = 200;

impl Options {
    fn wants(&self, table: &str) -> bool {
        self.table.as_ref().is_none_or(|only| only == table)
    }
}

fn main() {
    let options = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(what) => {
            eprintln!(
                "tables: {what}. Usage: tables [--table repeated|capture|reach|mirrors|swarm] [--nodes N] [--trials N] [--seed N]"
            );
            std::process::exit(2);
        }
    };
    println!("Seed {}, {} origins a row; ± and brackets are 95 % intervals.", options.seed, options.trials);
    let graphs = TABLES.iter().filter(|table| **table != "swarm").any(|table| options.wants(table));
    for n in options.nodes.iter().filter(|_| graphs) {
        for (kind, degree) in [(Kind::Com, 15), (Kind::Ws, 14), (Kind::Ba, 15)] {
            let graph = Graph::new(kind, *n, degree, &mut seeded(options.seed, *n as u64));
            println!(
                "\n## {kind:?}, {n} nodes, {:.1} friends on average, clustering {:.2}",
                graph.mean_degree(),
                graph.clustering()
            );
            if options.wants("repeated") {
                print_repeated(&graph, &options);
            }
            if options.wants("capture") {
                print_capture(&graph, &options, kind);
            }
        }
    }
    if options.wants("reach") {
        print_reach(&options);
    }
    if options.wants("mirrors") {
        print_mirrors(&options);
    }
    if options.wants("swarm") {
        print_swarm(&options);
    }
}

fn options(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options { nodes: vec![1000, 2000, 10_000], trials: 300, seed: 1, table: None };
    while let Some(name) = args.next() {
        let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
        if name == "--table" {
            if !TABLES.contains(&value.as_str()) {
                return Err(format!("--table is one of {}, not '{value}'", TABLES.join(", ")));
            }
            options.table = Some(value);
            continue;
        }
        let number: u64 = value.parse().map_err(|_| format!("{name} needs a number, not '{value}'"))?;
        match (name.as_str(), number) {
            ("--nodes", 100..=1_000_000) => options.nodes = vec![number as usize],
            ("--nodes", _) => return Err("--nodes is 100 to 1,000,000".into()),
            ("--trials", 1..) => options.trials = number as usize,
            ("--seed", _) => options.seed = number,
            _ => return Err(format!("there is no option {name} {value}")),
        }
    }
    Ok(options)
}

fn print_repeated(graph: &Graph, options: &Options) {
    println!("\nRepeated circuits to one hostile end: effective set [interval] / share of origins named.\n");
    println!("| hostile | policy | {} | guard hostile | refused |", AFTER.map(|n| n.to_string()).join(" | "));
    println!("|---|---|---|---|---|---|---|---|");
    for percent in [1, 5, 10] {
        for policy in Policy::ALL {
            let row = repeated(graph, f64::from(percent) / 100.0, policy, options.trials, options.seed);
            let cell = |(bits, named): (&Estimate, &Estimate)| {
                let [low, mid, high] = [-bits.half, 0.0, bits.half].map(|d| (bits.mean + d).exp2());
                format!("{mid:.0} [{low:.0} to {high:.0}] / {}", show(named, 2))
            };
            let cells: Vec<_> = row.bits.iter().zip(&row.named).map(cell).collect();
            println!(
                "| {percent} % | {} | {} | {} | {:.2} |",
                name(policy),
                cells.join(" | "),
                show(&row.hostile_guard, 2),
                row.refused
            );
        }
    }
}

const fn name(policy: Policy) -> &'static str {
    match policy {
        Policy::OneContext => "**shipped**, one context",
        Policy::ManyContexts => "**shipped**, a context per circuit",
        Policy::Failures => "**shipped**, one context, a third of the builds fail",
        Policy::Fresh => "control: fresh every time",
        Policy::TwoGuards => "control: two guards in turn",
    }
}

fn print_capture(graph: &Graph, options: &Options, kind: Kind) {
    println!("\nRoute capture: guard / end / both / end behind an honest guard hostile.\n");
    println!(
        "| hostile | honest lists | hostile hops capture the rest | and are always there and claim most |"
    );
    println!("|---|---|---|---|");
    let row = |graph: &Graph, honest: usize, share: f64, what: &str| {
        let cells = [Adversary::Honest, Adversary::Captures, Adversary::CapturesAndShines].map(|adversary| {
            let c = capture(graph, honest, share, adversary, options.trials * 50, options.seed);
            [c.guard, c.end, c.both, c.end_behind_honest_guard].map(|e| show(&e, 3)).join(" / ")
        });
        println!("| {what} | {} |", cells.join(" | "));
    };
    for percent in [1, 2, 5, 10] {
        row(graph, graph.len(), f64::from(percent) / 100.0, &format!("{percent} % of the nodes"));
    }
    if kind == Kind::Com {
        for per_node in [0.1, 0.5, 1.0] {
            let with_fakes = graph.with_fake_friends(per_node, &mut seeded(options.seed, 2));
            row(&with_fakes, graph.len(), 0.0, &format!("fake friends, {per_node} per node"));
        }
    }
}

/// Availability of what its publisher and some friends keep (table 9.6 of the design).
fn print_mirrors(options: &Options) {
    for nodes in &options.nodes {
        for degree in [8, 15] {
            let graph = Graph::new(Kind::Com, *nodes, degree, &mut seeded(options.seed, *nodes as u64));
            println!(
                "\n## Copies: {nodes} nodes, degree {degree}; publisher two links away, on line or not like everybody"
            );
            println!(
                "| on line | copies | a copy within 2 / 3 / 4 / 6 links | through common friends | through circuits | either |"
            );
            println!("|---|---|---|---|---|---|");
            for percent in [30, 50, 70] {
                for copies in [0, 1, 2, 3, 5] {
                    let online = f64::from(percent) / 100.0;
                    let a = availability(&graph, online, copies, options.trials, options.seed);
                    let within = a.within.map(|w| format!("{:.2}", w.mean)).join(" / ");
                    println!(
                        "| {percent} % | {copies} | {within} | {:.2} | {:.2} | {:.2} |",
                        a.fof.mean, a.circuits.mean, a.either.mean
                    );
                }
            }
        }
    }
}

fn print_reach(options: &Options) {
    println!("\n## Reach of a request from the end of a circuit to a publisher two links from the origin\n");
    println!(
        "| graph | on line | by the end's catalogue | spread 1 | spread 2 | all three third relays | links | \
         requests | first relay carries it, too |\n|---|---|---|---|---|---|---|---|---|"
    );
    let kinds = [(Kind::Com, 15), (Kind::Ws, 14), (Kind::Com, 8)];
    for (kind, degree) in kinds {
        for n in &options.nodes {
            let graph = Graph::new(kind, *n, degree, &mut seeded(options.seed, *n as u64));
            for percent in [100, 70, 50] {
                let r = reach(&graph, f64::from(percent) / 100.0, options.trials, options.seed);
                let once = r.once.map(|e| show(&e, 2)).join(" | ");
                println!(
                    "| {kind:?} {n} d{degree} | {percent} % | {once} | {} | {:.1}±{:.1} | {:.0}±{:.0} | {} |",
                    show(&r.all, 2),
                    r.links.mean,
                    r.links.half,
                    r.messages.mean,
                    r.messages.half,
                    show(&r.reduced, 2)
                );
            }
        }
    }
    if options.nodes.len() > 1 {
        println!("\nWhole nodes, {WHOLE} of them, all on line, beside the same graph in the table's way:\n");
        println!("| graph | fetched through circuits | by the table | requests that spread | by the table |");
        println!("|---|---|---|---|---|");
        for (kind, degree) in kinds {
            let graph = Graph::new(kind, WHOLE, degree, &mut seeded(options.seed, WHOLE as u64));
            let served = cores(&graph, (options.trials / 5).min(WHOLE / 4), options.seed);
            let table = reach(&graph, 1.0, options.trials, options.seed);
            println!(
                "| {kind:?} {WHOLE} d{degree} | {} | {} | {:.0}±{:.0} | {:.0}±{:.0} |",
                show(&served.whole, 2),
                show(&table.all, 2),
                served.spread.mean,
                served.spread.half,
                table.spread.mean,
                table.spread.half
            );
        }
    }
}

fn show(estimate: &Estimate, digits: usize) -> String {
    format!("{:.digits$}±{:.digits$}", estimate.mean, estimate.half).replace("0.", ".")
}

fn mean(scenario: impl Fn(u64) -> Scenario, runs: u64) -> Outcome {
    let all: Vec<Outcome> = (1..=runs).map(|seed| play(scenario(seed))).collect();
    let of = |value: fn(&Outcome) -> f64| all.iter().map(value).sum::<f64>() / all.len() as f64;
    Outcome {
        start_s: (of(|o| o.start_s.0), of(|o| o.start_s.1)),
        stalled: of(|o| o.stalled),
        disturbed: of(|o| o.disturbed),
        finished: of(|o| o.finished),
        alive: of(|o| o.alive),
        copies: of(|o| o.copies),
        useful: of(|o| o.useful),
    }
}

fn print_swarm(options: &Options) {
    let runs = options.trials.min(3) as u64;
    let shipped = Rules::default();
    let in_order = Rules { rarest: false, ..shipped };
    let rarest = Rules { by_deadline: false, ..shipped };
    let any = Rules { parts_first: false, ..shipped };
    let row = |name: &str, o: Outcome| {
        println!(
            "| {name} | {:.1} / {:.1} s | {:.3} | {:.2} | {:.2} | {:.2} | {:.2} | {:.3} |",
            o.start_s.0, o.start_s.1, o.stalled, o.disturbed, o.finished, o.alive, o.copies, o.useful
        );
    };
    let head = |what: &str| {
        println!(
            "\n| {what} | start mean / p90 | stalled | > 2 % stalled | finished | alive | copies | useful |"
        );
        println!("|---|---|---|---|---|---|---|---|");
    };
    println!("\n## Swarm: 600 s of film, six sessions a viewer, {runs} runs a row");
    let base = |upload: (f64, f64), seed: u64| Scenario::eighty(upload, seed + options.seed * 1000);
    head("4 Mbit/s, within 60 s, uploads 1.5 and 4");
    for viewers in [5, 10, 20] {
        let few =
            move |seed| Scenario { viewers, arrive_s: 60.0, bitrate: 500_000, ..base((1.5, 4.0), seed) };
        row(&format!("{viewers} viewers"), mean(few, runs));
    }
    head("1 Mbit/s, 80 viewers within 300 s, uploads 1.5 and 6; the publisher leaves");
    for leaves in [Leaves::Sent(1.2), Leaves::After(240.0), Leaves::After(400.0)] {
        for (name, rules, least_sent) in [
            ("**shipped**", shipped, true),
            ("any source, in order of asking", any, false),
            ("parts first", shipped, false),
            ("in order ahead, both rules", in_order, true),
        ] {
            let scenario = |seed| {
                let leaves = Some(leaves);
                Scenario { rules, least_sent, leaves, ..base((1.5, 6.0), seed) }
            };
            row(&format!("{leaves:?}, {name}"), mean(scenario, runs));
        }
    }
    head("1 Mbit/s, 80 viewers within 300 s, publisher 4; viewers' upload, rules");
    for upload in [2.5, 1.5, 1.0, 0.6] {
        for (name, rules) in [("**shipped**", shipped), ("in order", in_order), ("rarest only", rarest)] {
            row(
                &format!("{upload}, {name}"),
                mean(|seed| Scenario { rules, ..base((upload, 4.0), seed) }, runs),
            );
        }
    }
    head("larger");
    row("80 viewers, 4 Mbit/s", mean(|seed| Scenario { bitrate: 500_000, ..base((1.5, 4.0), seed) }, 1));
    row("1,000 viewers, 1 Mbit/s", mean(|seed| Scenario { viewers: 1000, ..base((1.5, 4.0), seed) }, 1));
}
