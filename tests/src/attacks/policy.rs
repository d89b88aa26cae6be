//! What the choice of relays alone gives away over time (A28, A30, A35, A37), and what it tells a guard
//! before any cell is looked at.

use super::{Effort, Row, Verdict, percent};
use crate::graphs::{Graph, Kind, below, unit};
use crate::paths::network::{Network, UNIX_MS, number};
use crate::paths::repeated::MIN_DEGREE;
use crate::paths::{Adversary, Capture, Estimate, capture, seeded};
use kith_crypto::rng::Rng;
use kith_onion::route::{Pair, Routes, SLOTS, Trust};
use std::collections::{BTreeMap, BTreeSet};

const NODES: usize = 1000;
const MINUTE_MS: u64 = 60_000;
const DAY_MS: u64 = 24 * 60 * MINUTE_MS;

fn graph(seed: u64) -> Graph {
    Graph::new(Kind::Com, NODES, 15, &mut seeded(seed, 0))
}

/// A network in which such a share is hostile, and an honest node in it.
fn honest<'a>(
    graph: &'a Graph,
    share: f64,
    adversary: Adversary,
    seed: u64,
    trial: u64,
) -> (Network<'a>, u32, Rng) {
    let mut rng = seeded(seed, trial);
    let is_hostile: Vec<bool> = (0..graph.len()).map(|_| unit(&mut rng) < share).collect();
    let network = Network::new(graph, is_hostile, adversary, &mut rng);
    loop {
        let node = below(&mut rng, graph.len()) as u32;
        if !network.is_hostile(node) && graph.degree(node) >= MIN_DEGREE {
            return (network, node, rng);
        }
    }
}

// The prior.

/// What a guard can say of a circuit by policy and topology alone.
#[derive(Clone, Copy, Debug)]
pub struct Prior {
    /// Share of circuits from a friend that has marked this node close which are the friend's own.
    pub own: Estimate,
    /// Share of right guesses that this gives.
    pub guess: f64,
    /// The same, if it is also counted how many circuits go on to the same next friend.
    pub counted: f64,
}

/// Everybody marks `close` friends (`None`: all), and keeps a pool of circuits.
pub fn prior(close: Option<usize>, seeds: u64) -> Prior {
    let (mut shares, mut all) = (Vec::new(), BTreeMap::<usize, [usize; 2]>::new());
    for seed in 1..=seeds {
        let graph = graph(seed);
        let mut rng = seeded(seed, 11);
        let mut network = Network::new(&graph, vec![false; NODES], Adversary::Honest, &mut rng);
        let mut marked = BTreeSet::new();
        // By relay, friend it came from and next one: circuits of the friend's own, and others.
        let mut seen: BTreeMap<(u32, u32, u32), [usize; 2]> = BTreeMap::new();
        for origin in 0..NODES as u32 {
            let mut candidates = network.candidates(origin);
            for _ in 0..close.unwrap_or(0).min(candidates.len()) {
                let left: Vec<usize> =
                    (0..candidates.len()).filter(|i| candidates[*i].trust != Trust::Close).collect();
                candidates[left[below(&mut rng, left.len())]].trust = Trust::Close;
            }
            let is = |trust: Trust| close.is_none() || trust == Trust::Close;
            marked.extend(candidates.iter().filter(|c| is(c.trust)).map(|c| (origin, number(c.friend))));
            let mut routes = Routes::default();
            routes.refresh(UNIX_MS, &candidates, &mut rng);
            // The pool: one for each third hop, one spare, and one over the reserve guard.
            let spare = below(&mut rng, SLOTS);
            let mut pool: Vec<(Pair, usize)> =
                (0..SLOTS).chain([spare]).map(|s| (Pair::Primary, s)).collect();
            pool.push((Pair::Reserve, below(&mut rng, SLOTS)));
            for place in pool {
                if let Some([guard, second, third]) = network.walk(origin, &mut routes, place, &mut rng) {
                    seen.entry((guard, origin, second)).or_default()[0] += 1;
                    seen.entry((second, guard, third)).or_default()[1] += 1;
                }
            }
        }
        let mut sum = [0; 2];
        for ((relay, friend, _), [own, other]) in &seen {
            if marked.contains(&(*friend, *relay)) {
                sum = [sum[0] + own, sum[1] + other];
                let of = all.entry(own + other).or_default();
                *of = [of[0] + own, of[1] + other];
            }
        }
        shares.push(sum[0] as f64 / (sum[0] + sum[1]).max(1) as f64);
    }
    let total: usize = all.values().flatten().sum();
    let best = |of: &[usize; 2]| of[0].max(of[1]);
    let sum = all.values().fold([0; 2], |a, b| [a[0] + b[0], a[1] + b[1]]);
    Prior {
        own: Estimate::of(&shares),
        guess: best(&sum) as f64 / total.max(1) as f64,
        counted: all.values().map(best).sum::<usize>() as f64 / total.max(1) as f64,
    }
}

/// The prior as rows of the table: what is known without timing.
pub fn prior_rows(effort: Effort) -> Vec<Row> {
    let seeds = effort.or(effort.seeds.min(10), 1);
    let names = [("1", Some(1)), ("3", Some(3)), ("8", Some(8)), ("all", None)];
    let priors = names.map(|(name, close)| (name, prior(close, seeds)));
    let list = |of: &dyn Fn(&Prior) -> String| {
        priors.iter().map(|(name, p)| format!("{name}: {}", of(p))).collect::<Vec<_>>().join("; ")
    };
    let added = priors.iter().map(|(_, p)| p.counted - p.guess).fold(0.0, f64::max);
    vec![
        Row {
            id: "A11",
            attack: "guard by policy and topology alone: circuits from a friend that are its own, by friends marked close",
            figure: format!("{} ({seeds} graphs of {NODES})", list(&|p| percent(p.own))),
            bound: "printed: what marking one friend costs".into(),
            control: "not needed: nothing is defended".into(),
            verdict: Verdict::Reported,
            control_succeeds: None,
            promised: false,
        },
        Row {
            id: "A11",
            attack: "the same guard counts how many of a friend's circuits go on to the same next friend",
            figure: format!(
                "right guesses {}, without counting {}",
                list(&|p| format!("{:.1} %", p.counted * 100.0)),
                list(&|p| format!("{:.1} %", p.guess * 100.0))
            ),
            bound: "2 points more than without counting".into(),
            control: "not needed".into(),
            verdict: (added <= 0.02).into(),
            control_succeeds: None,
            promised: false,
        },
    ]
}

// A28: guards over a year.

/// Shares of nodes that had a hostile guard after those of 30, 90 and 365 days that were reached, and a hostile guard and end of
/// one circuit in a year.
fn year(share: f64, rotating: bool, trials: u64, days: u64) -> (Vec<Estimate>, Estimate) {
    let graph = graph(28);
    let (mut guards, mut both) = ([const { Vec::new() }; 3], Vec::new());
    for trial in 0..trials {
        let (mut network, node, mut rng) = honest(&graph, share, Adversary::CapturesAndShines, 28, trial);
        let candidates = network.candidates(node);
        let mut routes = Routes::default();
        let (mut guard, mut whole) = (false, false);
        for day in 0..days {
            let unix_ms = UNIX_MS + day * DAY_MS;
            network.set_time(unix_ms);
            if rotating {
                routes = Routes::default();
            }
            routes.refresh(unix_ms, &candidates, &mut rng);
            for pair in [Pair::Primary, Pair::Reserve] {
                guard |= routes.guard(pair).is_some_and(|g| network.is_hostile(number(g)));
            }
            if let Some([first, _, last]) =
                network.walk(node, &mut routes, (Pair::Primary, day as usize % SLOTS), &mut rng)
            {
                whole |= network.is_hostile(first) && network.is_hostile(last);
            }
            for (at, seen) in [30, 90, 365].into_iter().zip(&mut guards) {
                if day + 1 == at {
                    seen.push(f64::from(u8::from(guard)));
                }
            }
        }
        both.push(f64::from(u8::from(whole)));
    }
    let reached = guards.iter().filter(|guards| !guards.is_empty());
    (reached.map(|guards| Estimate::of_shares(guards)).collect(), Estimate::of_shares(&both))
}

/// Hostile friends and friends' friends that wait, are always on line and claim most, for a year.
pub fn a28(effort: Effort) -> Vec<Row> {
    let share = 0.05;
    let (trials, days) = (effort.or(300, 40), effort.or(365, 90));
    let (guards, both) = year(share, false, trials, days);
    let (rotated, rotated_both) = year(share, true, effort.or(100, 20), effort.or(365, 90));
    // Whoever is always there is drawn as if it were this much more of them.
    let weight = share * 287.0 / 192.0;
    let most = |draws: i32| 1.0 - (1.0 - weight).powi(draws);
    let verdict =
        guards.iter().zip([2, 4, 14]).map(|(seen, draws)| Verdict::at_most(*seen, most(draws))).max();
    vec![Row {
        id: "A28",
        attack: "5 % hostile nodes, always on line, claim most and list only each other: wait to be a guard",
        figure: format!(
            "hostile guard (either of two) after 30 / 90 / 365 days: {}; and end in a year: {} ({trials} nodes, {days} days)",
            guards.iter().map(|g| percent(*g)).collect::<Vec<_>>().join(" / "),
            percent(both)
        ),
        bound: format!(
            "two guards of 60 days and more: {:.0} / {:.0} / {:.0} %",
            most(2) * 100.0,
            most(4) * 100.0,
            most(14) * 100.0
        ),
        control: format!(
            "guards drawn daily: {}; and end: {}",
            rotated.iter().map(|g| percent(*g)).collect::<Vec<_>>().join(" / "),
            percent(rotated_both)
        ),
        verdict: verdict.unwrap_or(Verdict::Fails),
        control_succeeds: Some(rotated[0].mean > guards[0].mean + 0.15),
        promised: true,
    }]
}

// A30: failing what is not wholly theirs.

/// Shares of circuits that carried something and had both ends hostile, of nodes that had one such, and
/// of plays that found a circuit, over ten days. `fresh`: all is drawn anew for each play and after each
/// failure.
fn selective(share: f64, fresh: bool, trials: u64) -> [Estimate; 3] {
    let graph = graph(30);
    let (mut shares, mut users, mut served) = (Vec::new(), Vec::new(), Vec::new());
    for trial in 0..trials {
        let (mut network, node, mut rng) = honest(&graph, share, Adversary::Honest, 30, trial);
        let mut routes = network.fresh(node, &mut rng);
        let (mut good, mut bad, mut plays) = (0_usize, 0_usize, 0_usize);
        // A slot of the pool is built every four minutes until it stands, and is used three times a day.
        for play in 0..30 {
            let slot = below(&mut rng, SLOTS);
            plays += 1;
            for attempt in 0..40 {
                let unix_ms = UNIX_MS + (play * 480 + attempt * 4) * MINUTE_MS;
                if fresh {
                    routes = network.fresh(node, &mut rng);
                }
                let Some(route) = network.walk(node, &mut routes, (Pair::Primary, slot), &mut rng) else {
                    continue;
                };
                let hostile = route.map(|relay| network.is_hostile(relay));
                let theirs = hostile[0] && hostile[2];
                if hostile.contains(&true) && !theirs {
                    // They wait until it is whole: then the last relay is held responsible.
                    routes.failed(Pair::Primary, slot, 3, unix_ms, false);
                    continue;
                }
                routes.worked(Pair::Primary, slot);
                good += 1;
                bad += usize::from(theirs);
                break;
            }
        }
        if good > 0 {
            shares.push(bad as f64 / good as f64);
        }
        served.push(good as f64 / plays as f64);
        users.push(f64::from(u8::from(bad > 0)));
    }
    [shares, users, served].map(|samples| Estimate::of_shares(&samples))
}

/// Hostile nodes fail every circuit of which they do not hold both ends.
pub fn a30(effort: Effort) -> Vec<Row> {
    let share = 0.10;
    let trials = effort.or(6000, 60);
    let [circuits, users, served] = selective(share, false, trials);
    let [free, free_users, _] = selective(share, true, effort.or(200, 30));
    let bound = share * share + 0.02;
    vec![Row {
        id: "A30",
        attack: "10 % hostile nodes fail every circuit of which they do not hold both ends",
        figure: format!(
            "both ends hostile: {} of circuits, {} of nodes in ten days; {} of plays served ({trials} nodes)",
            percent(circuits),
            percent(users),
            percent(served)
        ),
        bound: format!("{:.0} % of circuits", bound * 100.0),
        control: format!(
            "all drawn anew for each play and after each failure: {} of circuits, {} of nodes",
            percent(free),
            percent(free_users)
        ),
        verdict: Verdict::at_most(circuits, bound),
        control_succeeds: Some(free_users.mean > users.mean + 0.1),
        promised: false,
    }]
}

// A35: capture.

/// Hostile relays list hostile relays only.
pub fn a35(effort: Effort) -> Vec<Row> {
    let (share, graph) = (0.05, graph(35));
    let trials = effort.or(15_000, 2_000);
    let of = |adversary| capture(&graph, graph.len(), share, adversary, trials, 35);
    let Capture { end, both, guard, .. } = of(Adversary::Captures);
    let honest = of(Adversary::Honest);
    vec![Row {
        id: "A35",
        attack: "5 % hostile relays list only hostile relays",
        figure: format!(
            "end hostile {}, guard {}, both {} ({trials} routes)",
            percent(end),
            percent(guard),
            percent(both)
        ),
        bound: "1.2 times 5 % = 6 %".into(),
        control: format!("honest lists: end {}, both {}", percent(honest.end), percent(honest.both)),
        verdict: Verdict::at_most(end, 1.2 * share),
        control_succeeds: Some(end.mean > honest.end.mean + 0.05),
        promised: false,
    }]
}

// A37: predecessors.

/// Whether the origin is most often seen before the first hostile relay of its circuits, by origin.
fn predecessors(fresh: bool, origins: u64, reformations: usize) -> (usize, usize) {
    let graph = graph(37);
    let (mut top, mut of) = (0, 0);
    for trial in 0..origins {
        let (mut network, node, mut rng) = honest(&graph, 0.10, Adversary::Honest, 37, trial);
        let mut routes = network.fresh(node, &mut rng);
        // What is promised is for honest guards; a hostile one sees its friend anyway.
        if routes.guard(Pair::Primary).is_none_or(|g| network.is_hostile(number(g))) {
            continue;
        }
        // Who has no hostile friend is never seen, whatever the policy.
        if fresh && !graph.friends(node).iter().any(|f| network.is_hostile(*f)) {
            continue;
        }
        let mut before: BTreeMap<u32, usize> = BTreeMap::new();
        for n in 0..reformations {
            if fresh {
                routes = network.fresh(node, &mut rng);
            }
            let slot = below(&mut rng, SLOTS);
            let Some(route) = network.walk(node, &mut routes, (Pair::Primary, slot), &mut rng) else {
                continue;
            };
            if n % 3 == 0 && !fresh {
                routes.failed(Pair::Primary, slot, below(&mut rng, 4), UNIX_MS, true);
            }
            let path = [node, route[0], route[1], route[2]];
            let hostile = (1..4).find(|at| network.is_hostile(path[*at]));
            // The end is theirs, too.
            *before.entry(path[hostile.unwrap_or(4) - 1]).or_default() += 1;
        }
        of += 1;
        let most = before.iter().max_by_key(|(_, n)| **n).map(|(node, _)| *node);
        top += usize::from(most == Some(node));
    }
    (top, of)
}

/// Hostile relays count who stands before them, over many circuits of one origin.
pub fn a37(effort: Effort) -> Vec<Row> {
    let reformations = effort.or(10_000, 1_000);
    let (top, of) = predecessors(false, effort.or(100, 15), reformations);
    let (free, free_of) = predecessors(true, effort.or(20, 5), reformations);
    vec![Row {
        id: "A37",
        attack: "10 % hostile nodes and the end count who stands before them, an origin's circuits all known",
        figure: format!(
            "origin is first in the count: {} behind honest guards, {reformations} circuits each",
            super::hits(top, of)
        ),
        bound: format!("chance: 1 of {NODES}"),
        control: format!("fresh routes: {}", super::hits(free, free_of)),
        verdict: (top == 0).into(),
        control_succeeds: Some(free * 10 >= free_of * 9 && free_of > 0),
        promised: true,
    }]
}
