//! Prints what the shipped route policy gives away, beside policies that were rejected:
//! `cargo run --release -p kith-tests --example tables -- [--nodes N] [--trials N] [--seed N]`.
//! Without `--nodes` it runs 1000, 2000 and 10,000 nodes. What the figures mean:
//! `docs/protocol/circuit.md`.

use kith_tests::graphs::{Graph, Kind};
use kith_tests::paths::{AFTER, Adversary, Estimate, Policy, capture, repeated, seeded};

struct Options {
    nodes: Vec<usize>,
    trials: usize,
    seed: u64,
}

fn main() {
    let options = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(what) => {
            eprintln!("tables: {what}. Usage: tables [--nodes N] [--trials N] [--seed N]");
            std::process::exit(2);
        }
    };
    println!("Seed {}, {} origins a row; ± and brackets are 95 % intervals.", options.seed, options.trials);
    for n in &options.nodes {
        for (kind, degree) in [(Kind::Com, 15), (Kind::Ws, 14), (Kind::Ba, 15)] {
            let graph = Graph::new(kind, *n, degree, &mut seeded(options.seed, *n as u64));
            println!(
                "\n## {kind:?}, {n} nodes, {:.1} friends on average, clustering {:.2}",
                graph.mean_degree(),
                graph.clustering()
            );
            print_repeated(&graph, &options);
            print_capture(&graph, &options, kind);
        }
    }
}

fn options(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options { nodes: vec![1000, 2000, 10_000], trials: 300, seed: 1 };
    while let Some(name) = args.next() {
        let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
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

fn show(estimate: &Estimate, digits: usize) -> String {
    format!("{:.digits$}±{:.digits$}", estimate.mean, estimate.half).replace("0.", ".")
}
