//! Circuits while everything fails, what they leave behind, and what cover costs. The faults are drawn
//! from the seed: wires cut with and without a word, crashes, restarts, machines that sleep.

use kith_crypto::content::ReadCap;
use kith_onion::catalogue::{Audience, Pace};
use kith_onion::link::WINDOW_MAX;
use kith_onion::{CircuitSettings, Cover, Privacy, Route};
use kith_tests::sim::{Disk, NodeId, Outcome, Quality, World, seeds};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A ring of nine in which everybody also knows the one three further on.
const COUNT: usize = 9;

fn friends() -> Vec<(NodeId, NodeId)> {
    (0..COUNT).flat_map(|id| [(id, (id + 1) % COUNT), (id, (id + 3) % COUNT)]).collect()
}

fn random_fault(world: &mut World) {
    let node = world.rng.range(0, COUNT as u64 - 1) as usize;
    match world.rng.range(0, 6) {
        0..=2 => {
            let wires = world.nodes[node].wires();
            if !wires.is_empty() {
                let wire = wires[world.rng.range(0, wires.len() as u64 - 1) as usize];
                let told = world.rng.range(0, 2) > 0;
                world.cut(wire, told);
            }
        }
        3 => {
            if world.nodes[node].core.is_some() {
                let time = Duration::from_secs(world.rng.range(1, 100));
                let counted = world.rng.range(0, 1) > 0;
                world.sleep(node, time, counted);
                if !counted {
                    world.act(node, |core, now| core.resumed(now));
                }
            }
        }
        4 => {
            let other = (node + 1) % COUNT;
            if !world.refused.remove(&(node, other)) {
                world.refused.insert((node, other));
            }
        }
        _ => match world.nodes[node].core {
            Some(_) => world.crash(node),
            None => world.start(node),
        },
    }
}

/// What must hold at any moment.
fn is_bounded(world: &World) {
    for id in (0..COUNT).filter(|id| world.nodes[*id].core.is_some()) {
        let load = world.nodes[id].core().load();
        assert!(load.relayed <= 64 * WINDOW_MAX as usize, "{load:?}");
        assert!(load.circuits <= 4 * 64 && load.tunnels <= 4 * 128, "{load:?}");
        assert!(load.urgent < 1_000 && load.timers < 1_000, "{load:?}");
        assert!(world.circuits(id).own.len() <= 24);
    }
}

#[test]
fn faults_heal_and_leave_nothing() {
    seeds::run("faults_heal_and_leave_nothing", 8, |seed| {
        let mode = if seed % 2 == 0 { Privacy::Fast } else { Privacy::Normal };
        let mut world = World::of_friends(seed, COUNT, &friends(), mode, World::quick_circuits());
        world.quality =
            Quality { latency: millis(world.rng.range(2, 20)), bandwidth: 500_000, buffer: 128 * 1024 };
        for node in &mut world.nodes {
            node.disk = Disk { persist_ms: (0, 200), read_ms: (0, 100), write_ms: (0, 100) };
        }
        let caps: Vec<ReadCap> =
            (0..3).map(|n| world.publish(n * 3, "clip", 900_000, Audience::Fof)).collect();
        // Everybody who is two links away wants it, through circuits or as the mode says.
        let mut wanted = Vec::new();
        for (n, cap) in caps.iter().enumerate() {
            let publisher = n * 3;
            for (by, route) in [(2, Route::Onion), (4, Route::Auto), (7, Route::Onion)] {
                wanted.push(((publisher + by) % COUNT, cap.clone(), route));
            }
        }
        let known = |w: &World| wanted.iter().all(|(n, cap, _)| w.distance(*n, cap).is_some());
        assert!(world.run_until(2 * MINUTE, known));
        world.run(20 * SECOND);
        wanted.iter().for_each(|(node, cap, route)| world.fetch(*node, cap, *route));
        for _ in 0..30 {
            let pause = millis(world.rng.range(100, 5_000));
            world.run(pause);
            random_fault(&mut world);
            is_bounded(&world);
        }
        world.refused.clear();
        (0..COUNT)
            .filter(|id| world.nodes[*id].core.is_none())
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|id| world.start(id));
        let linked = |w: &World| friends().iter().all(|(a, b)| w.linked(*a, *b));
        assert!(world.run_until(20 * MINUTE, linked), "all links come back");
        // What gave up meanwhile is asked for again, now that all is well.
        for (node, cap, route) in &wanted {
            let ended = |w: &World| w.outcome(*node, cap).is_some();
            assert!(world.run_until(15 * MINUTE, ended), "{node} does not hang");
            let mut outcome = world.outcome(*node, cap);
            for _ in 0..4 {
                if outcome != Some(Outcome::Complete) {
                    world.run(4 * MINUTE);
                    outcome = Some(world.fetch_now(*node, cap, *route, 15 * MINUTE));
                }
            }
            assert_eq!(outcome, Some(Outcome::Complete), "{node} {:?}", world.circuits(*node));
        }
        nothing_is_left(&mut world);
    });
}

/// When nothing is fetched there are circuits, as many relays as they have, and nothing else. When
/// those who built them are gone, there is nothing at all.
fn nothing_is_left(world: &mut World) {
    let at_rest = |w: &World| {
        let loads = (0..COUNT).map(|id| w.nodes[id].core().load());
        let (relayed, own) = w.circuit_sums();
        relayed == own
            && loads.into_iter().all(|l| (l.tunnels, l.relayed, l.timers, l.serving) == (0, 0, 0, 0))
    };
    let loads: Vec<_> = (0..COUNT).map(|id| world.nodes[id].core().load()).collect();
    assert!(world.run_until(10 * MINUTE, at_rest), "{:?}, {loads:?}", world.circuit_sums());
    (1..COUNT).for_each(|id| world.crash(id));
    let gone = |w: &World| {
        let load = w.nodes[0].core().load();
        (load.circuits, load.tunnels, load.relayed, load.timers, load.connections) == (0, 0, 0, 0, 0)
    };
    assert!(world.run_until(5 * MINUTE, gone), "{:?}", world.nodes[0].core().load());
}

/// Builders that vanish without a word on a wire that nobody closes: their circuits end with the link,
/// and everything behind it.
#[test]
fn circuits_of_dead_builders_end() {
    seeds::run("circuits_of_dead_builders_end", 3, |seed| {
        let mut world = World::of_friends(seed, COUNT, &friends(), Privacy::Fast, World::quick_circuits());
        (0..COUNT).for_each(|id| world.wait_for_circuits(id, 4));
        let with = world.circuit_sums();
        for wire in world.nodes[4].wires() {
            world.cut(wire, false);
        }
        world.crash(4);
        world.run(4 * MINUTE);
        let same = |w: &World| w.circuit_sums().0 == w.circuit_sums().1;
        assert!(world.run_until(5 * MINUTE, same), "{:?}, and with it {with:?}", world.circuit_sums());
    });
}

// Cover.

/// Bytes a second in each direction on the link of two nodes where nothing happens.
fn idle_rates(cover: [Cover; 2], time: Duration) -> [f64; 2] {
    let mut world = World::new(7);
    for name in ["Ana", "Bo"] {
        // Catalogues wait for hours.
        let hours = 100 * HOUR;
        world.add_node(name, Pace { batch: hours, spread: hours });
    }
    world.link(0, 1);
    world.run(30 * SECOND);
    for (id, cover) in cover.into_iter().enumerate() {
        // Nobody relays, so that no circuit is built.
        let circuits = CircuitSettings { cover, relay: false, ..CircuitSettings::default() };
        world.set_circuits(id, Privacy::Normal, circuits);
    }
    world.run(MINUTE);
    let wires = world.wires_between(0, 1);
    let written = |w: &World| [0, 1].map(|node| w.wires[wires[0]].written_by(node));
    let before = written(&world);
    world.run(time);
    assert!(world.linked(0, 1) && world.wires_between(0, 1) == wires, "the link stays");
    let after = written(&world);
    [0, 1].map(|n| (after[n] - before[n]) as f64 / time.as_secs_f64())
}

#[test]
fn cover_costs_what_it_says() {
    // Off: a pad a minute keeps the link. Idle: one in thirty seconds on average, and no more than one
    // a second however it is drawn.
    let record = 4096.0 + 34.0;
    for rate in idle_rates([Cover::Off; 2], 2 * HOUR) {
        assert!((record / 61.0..=record / 40.0).contains(&rate), "off: {rate} bytes a second");
    }
    for rate in idle_rates([Cover::Idle; 2], 4 * HOUR) {
        // Cut at a minute, the mean is some 26 seconds.
        assert!((record / 32.0..=record / 18.0).contains(&rate), "idle: {rate} bytes a second");
    }
    for wanted in [2_000, 16_000, 200_000] {
        let time = if wanted > 100_000 { MINUTE } else { 5 * MINUTE };
        for rate in idle_rates([Cover::Constant(wanted); 2], time) {
            println!("constant {wanted}: {rate:.0} bytes a second");
            // At least that much; a third more on average.
            assert!((1.0..1.5).contains(&(rate / wanted as f64)), "constant {wanted}: {rate}");
        }
    }
    // Each side pays for its own direction.
    let [one, other] = idle_rates([Cover::Constant(16_000), Cover::Off], 5 * MINUTE);
    assert!(one > 15_800.0 && other < 150.0, "{one}, {other}");
}
