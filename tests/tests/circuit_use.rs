//! What circuits are used for: who serves what in which mode, which way a fetch takes, how many routes
//! it shows itself over, and what a restart keeps. Bad input and faults: `circuits.rs`.

use kith_crypto::content::ReadCap;
use kith_onion::catalogue::Audience;
use kith_onion::{CircuitSettings, NoOnion, Privacy, Route, Trust, Way};
use kith_tests::sim::{NodeId, Outcome, Quality, World, seeds};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Three third relays and a spare behind the first relay, and one circuit behind the reserve.
const ALL: usize = 5;

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn quick() -> CircuitSettings {
    World::quick_circuits()
}

fn set_privacy(world: &mut World, node: NodeId, privacy: Privacy) {
    let settings = world.nodes[node].circuits;
    world.set_circuits(node, privacy, settings);
}

fn knows(world: &World, node: NodeId, cap: &ReadCap) -> bool {
    world.distance(node, cap).is_some()
}

fn sessions<'a>(world: &'a World, node: NodeId, cap: &ReadCap) -> &'a [u8] {
    &world.nodes[node].fetches[&cap.root].sessions
}

/// A node asked for an object, cancelled, and asked again within three seconds. The end of the circuit
/// still waited for answers to the first request and ended the circuit over the second, which was
/// counted against its last relay, so that the object was soon fetched over another route.
#[test]
fn asking_again_at_once_keeps_the_circuit() {
    seeds::run("asking_again_at_once_keeps_the_circuit", 5, |seed| {
        let mut world = World::ring(seed, 7, quick());
        let cap = world.publish(0, "Otters", 200_000, Audience::Fof);
        assert!(world.run_until(MINUTE, |w| knows(w, 2, &cap)));
        world.wait_for_circuits(2, ALL);
        world.run(10 * SECOND); // all that tell of it have told
        let verify = cap.verify_cap();
        let stood = |w: &World| w.circuits(2).own.len();
        let before = stood(&world);
        for _ in 0..6 {
            let id = world.act(2, |core, now| core.start_fetch(now, verify.clone(), Route::Onion, None));
            world.run(millis(700));
            world.act(2, |core, now| core.cancel_fetch(now, id.unwrap()));
            world.run(millis(100));
        }
        assert!(stood(&world) >= before, "no circuit ended");
        assert_eq!(world.fetch_now(2, &cap, Route::Onion, MINUTE), Outcome::Complete);
        assert_eq!(routes_of(&world, 2, &cap), 1, "one object, one route");
    });
}

/// Different routes that an object was fetched over, as they are stored.
fn routes_of(world: &World, node: NodeId, cap: &ReadCap) -> usize {
    world.nodes[node].core().route_count(world.time(node), &cap.root)
}

/// When a holder went away in the middle of a fetch, its circuit stayed with the fetch without being
/// used again: the next request went over another third relay, until there were too many routes.
#[test]
fn a_holder_that_comes_and_goes_costs_no_route() {
    seeds::run("a_holder_that_comes_and_goes_costs_no_route", 5, |seed| {
        let mut world = World::ring(seed, 7, quick());
        world.quality.bandwidth = 600_000;
        let cap = world.publish(0, "Otters", 6_000_000, Audience::Fof);
        assert!(world.run_until(MINUTE, |w| knows(w, 2, &cap)));
        world.wait_for_circuits(2, ALL);
        world.run(10 * SECOND); // all that tell of it have told
        world.fetch(2, &cap, Route::Onion);
        // The holder's storage fails: sessions end, links and circuits stay.
        for _ in 0..4 {
            let had = |w: &World| w.nodes[2].partial.get(&cap.root).map_or(0, |b| b.len());
            let more = had(&world) + 5;
            assert!(world.run_until(MINUTE, |w| had(w) >= more || w.outcome(2, &cap).is_some()));
            world.nodes[0].mischief = kith_tests::sim::Mischief::Lacking;
            world.run(SECOND);
            world.nodes[0].mischief = kith_tests::sim::Mischief::None;
        }
        assert!(world.run_until(5 * MINUTE, |w| w.outcome(2, &cap).is_some()));
        assert_eq!(world.outcome(2, &cap), Some(Outcome::Complete));
        assert!(routes_of(&world, 2, &cap) <= 2, "{} routes", routes_of(&world, 2, &cap));
    });
}

/// Each object has a circuit of its own, which stays until its end. After some twenty objects there
/// were as many as there may be, and nothing could be fetched for hours.
#[test]
fn many_objects_in_an_hour_all_come() {
    seeds::run("many_objects_in_an_hour_all_come", 2, |seed| {
        let mut world = World::ring(seed, 7, quick());
        let caps: Vec<_> = (0..40).map(|_| world.publish(0, "clip", 1_000, Audience::Fof)).collect();
        assert!(world.run_until(MINUTE, |w| caps.iter().all(|c| knows(w, 2, c))));
        for (n, cap) in caps.iter().enumerate() {
            world.wait_for_circuits(2, 3);
            assert_eq!(world.fetch_now(2, cap, Route::Onion, MINUTE), Outcome::Complete, "object {n}");
        }
        assert!(world.circuits(2).own.len() <= 24);
    });
}

/// On slow links the end's answer to a ping, or that nobody more answers a request, waits behind what
/// is fetched. The circuit was ended for it, and its last relay replaced.
#[test]
fn a_slow_circuit_in_use_is_not_ended() {
    seeds::run("a_slow_circuit_in_use_is_not_ended", 3, |seed| {
        let mut world = World::ring(seed, 7, CircuitSettings { pace: MINUTE, ..quick() });
        let cap = world.publish(0, "Otters", 8_000_000, Audience::Fof);
        assert!(world.run_until(2 * MINUTE, |w| knows(w, 2, &cap)));
        world.wait_for_circuits(2, ALL);
        world.run(10 * SECOND); // all that tell of it have told
        for wire in &mut world.wires {
            wire.quality = Quality { bandwidth: 100_000, ..wire.quality };
        }
        assert_eq!(world.fetch_now(2, &cap, Route::Onion, 10 * MINUTE), Outcome::Complete);
        let (sessions, routes) = (sessions(&world, 2, &cap), routes_of(&world, 2, &cap));
        assert!(sessions.len() <= 4 && routes == 1, "{sessions:?} over {routes} routes");
    });
}

/// What was withdrawn went on being served to whoever had come by a circuit.
#[test]
fn what_is_withdrawn_is_no_longer_served_through_circuits() {
    seeds::run("what_is_withdrawn_is_no_longer_served_through_circuits", 3, |seed| {
        // The end of each circuit of node 3 is node 0: a line of four, and the holder is the end.
        let mut world = World::of_friends(seed, 5, &[(3, 1), (1, 2), (2, 0), (0, 4)], Privacy::Fast, quick());
        world.quality.bandwidth = 200_000;
        let cap = world.publish(0, "Otters", 3_000_000, Audience::Fof);
        world.wait_for_circuits(3, 2);
        world.fetch(3, &cap, Route::Onion);
        let had = |w: &World| w.nodes[3].partial.get(&cap.root).map_or(0, |b| b.len());
        assert!(world.run_until(MINUTE, |w| had(w) > 4), "the end itself serves");
        world.withdraw(0, cap.root);
        world.run(5 * SECOND);
        let rest = had(&world);
        world.run(20 * SECOND);
        assert!(
            world.outcome(3, &cap) != Some(Outcome::Complete) && had(&world) == rest,
            "nothing more comes"
        );
    });
}
