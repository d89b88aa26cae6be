//! What must leave no trace at all: searching, and requests that spread; and lists that must not be
//! comparable.

use super::{Effort, Row, hits};
use crate::sim::{Hostile, NodeId, Outcome, World, Write};
use kith_onion::catalogue::Audience;
use kith_onion::{CircuitSettings, OwnState, Privacy, Route};
use std::collections::BTreeSet;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn quick(relay: bool) -> CircuitSettings {
    CircuitSettings {
        pace: Duration::from_millis(500),
        snapshot: 2 * SECOND,
        relay,
        ..CircuitSettings::default()
    }
}

/// All that anybody wrote in a minute in which one node searched, or fetched.
fn minute(seed: u64, searches: bool, fetches: bool) -> Vec<Write> {
    let mut world = World::ring(seed, 7, quick(true));
    let caps: Vec<_> = (0..7).map(|id| world.publish(id, "Otters", 50_000, Audience::Fof)).collect();
    world.run(MINUTE);
    world.writes = Some(Vec::new());
    for n in 0..60 {
        if searches {
            let core = world.nodes[2].core.as_mut().expect("it runs");
            while core.next_unsearched().is_some() {}
            let roots: Vec<_> = core.listed().collect();
            roots.iter().for_each(|root| drop(core.listing(root)));
        }
        if fetches && n == 30 {
            world.fetch(2, &caps[0], Route::Auto);
        }
        world.run(SECOND);
    }
    world.writes.take().unwrap_or_default()
}

/// Somebody watches all links while a node searches.
pub fn search(effort: Effort) -> Vec<Row> {
    let (mut same, mut differs, mut writes) = (0, 0, 0);
    for seed in 1..=effort.seeds {
        let idle = minute(seed, false, false);
        writes += idle.len();
        same += usize::from(minute(seed, true, false) == idle);
        differs += usize::from(minute(seed, false, true) != idle);
    }
    let of = effort.seeds as usize;
    vec![Row {
        id: "quiet",
        attack: "compares every byte on every link, with and without searches by a node",
        figure: format!("the same in {} worlds, {writes} writes", hits(same, of)),
        bound: "all the same".into(),
        control: format!("a fetch: {} differ", hits(differs, of)),
        verdict: (same == of).into(),
        control_succeeds: Some(differs == of),
        promised: true,
    }]
}

/// Requests that spread, of all that came to anybody, while a node fetched in all ways.
fn spreads(seed: u64, circuits: bool) -> (u64, usize) {
    let mut world = World::ring(seed, 7, quick(circuits));
    let near = world.publish(1, "Near otters", 50_000, Audience::Fof);
    let far = world.publish(0, "Far otters", 50_000, Audience::Fof);
    world.run_until(MINUTE, |w| w.distance(2, &far).is_some() && w.distance(2, &near).is_some());
    let ready = |w: &World, id: NodeId| {
        let report = w.nodes[id].core().circuit_report(w.time(id));
        report.own.iter().any(|c| c.state == OwnState::Ready)
    };
    world.run_until(if circuits { 2 * MINUTE } else { 20 * SECOND }, |w| ready(w, 2));
    let mut complete = 0;
    for privacy in [Privacy::Fast, Privacy::Normal, Privacy::Strict] {
        world.set_circuits(2, privacy, quick(circuits));
        for cap in [&near, &far] {
            for route in [Route::Auto, Route::Direct, Route::Fof, Route::Onion] {
                world.fetch(2, cap, route);
                world.run_until(MINUTE, |w| w.outcome(2, cap).is_some());
                complete += usize::from(world.outcome(2, cap) == Some(Outcome::Complete));
                // Forgets it again, so that the next way has something to do.
                world.nodes[2].objects.remove(&cap.root);
                world.act(2, |core, _| core.release(&cap.root));
            }
        }
    }
    (world.nodes.iter().map(|n| n.core().load().spread).sum(), complete)
}

/// Requests that flood from the node that wants something.
pub fn spread(effort: Effort) -> Vec<Row> {
    let all = (1..=effort.seeds).map(|seed| spreads(seed, false)).collect::<Vec<_>>();
    let with = (1..=effort.seeds).map(|seed| spreads(100 + seed, true)).collect::<Vec<_>>();
    let sum: u64 = all.iter().map(|a| a.0).sum();
    let complete: usize = all.iter().map(|a| a.1).sum();
    vec![Row {
        id: "spread",
        attack: "friends look for requests of a node's own that spread (fetches in all modes over all routes, no circuits)",
        figure: format!("{sum} in {} fetches, {complete} complete", all.len() * 24),
        bound: "0".into(),
        control: format!(
            "through circuits: {} came to friends of their ends",
            with.iter().map(|w| w.0).sum::<u64>()
        ),
        verdict: (sum == 0 && complete > 0).into(),
        // Where an end knows whom to ask, nothing spreads.
        control_succeeds: Some(with.iter().any(|w| w.0 > 0)),
        promised: true,
    }]
}

/// Handles and keys that two relays show to somebody who compares them: common ones, and all.
fn compared(seed: u64, other: NodeId) -> Option<(usize, usize)> {
    let mut world = World::ring(seed, 7, CircuitSettings { pace: 10 * MINUTE, ..quick(true) });
    world.run(20 * SECOND);
    let mut lists = Vec::new();
    for relay in [1, other] {
        let built = (0..5).find_map(|_| {
            world.run(SECOND);
            Hostile::begin(&mut world, 0, relay)
        })?;
        lists.push(built.lists[0].clone());
        built.end(&mut world);
    }
    let names = |list: &[kith_onion::handle::Listed]| -> BTreeSet<Vec<u8>> {
        list.iter().flat_map(|l| [l.handle.0.to_vec(), l.key.to_vec()]).collect()
    };
    let (a, b) = (names(&lists[0]), names(&lists[1]));
    Some((a.intersection(&b).count(), a.len().min(b.len())))
}

/// Lists of two relays that have friends in common are laid side by side.
pub fn listers(effort: Effort) -> Vec<Row> {
    let of = |other| {
        let all: Vec<_> = (1..=effort.seeds).filter_map(|seed| compared(seed, other)).collect();
        (all.iter().map(|a| a.0).sum::<usize>(), all.iter().map(|a| a.1).sum::<usize>())
    };
    // In this ring 1 and 3 are both friends of 2 and 4.
    let (common, all) = of(3);
    let (same, same_all) = of(1);
    vec![Row {
        id: "listers",
        attack: "compares the lists of two relays that have friends in common",
        figure: format!("{} handles and keys in both", hits(common, all)),
        bound: "0".into(),
        control: format!("one relay asked twice: {}", hits(same, same_all)),
        verdict: (common == 0 && all > 0).into(),
        control_succeeds: Some(same == same_all && same_all > 0),
        promised: true,
    }]
}
