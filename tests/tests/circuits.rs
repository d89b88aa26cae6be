//! Circuits in the simulator: building, use, faults and limits, with many seeds.

use kith_onion::catalogue::Audience;
use kith_onion::{CircuitSettings, OwnState, Route};
use kith_tests::sim::{NodeId, Outcome, World, seeds};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Circuits stand after seconds.
fn quick() -> CircuitSettings {
    CircuitSettings { pace: Duration::from_millis(500), snapshot: 2 * SECOND, ..CircuitSettings::default() }
}

fn ready(world: &World, node: NodeId) -> usize {
    let report = world.nodes[node].core().circuit_report(world.time(node));
    report.own.iter().filter(|c| c.state == OwnState::Ready).count()
}

fn wait_for_circuits(world: &mut World, node: NodeId, count: usize) {
    let there = world.run_until(2 * MINUTE, |w| ready(w, node) >= count);
    assert!(there, "{count} circuits: {:?}", world.nodes[node].core().circuit_report(world.time(node)));
}

#[test]
fn a_ring_of_seven_fetches_through_three_relays() {
    seeds::run("a_ring_of_seven_fetches_through_three_relays", 10, |seed| {
        let mut world = World::ring(seed, 7, quick());
        let cap = world.publish(0, "Otters", 700_000, Audience::Fof);
        assert!(world.run_until(MINUTE, |w| w.distance(2, &cap).is_some()), "it is found two links away");
        wait_for_circuits(&mut world, 2, 3);
        assert_eq!(world.fetch_now(2, &cap, Route::Onion, MINUTE), Outcome::Complete);
        let sessions = &world.nodes[2].fetches[&cap.root].sessions;
        assert!(sessions.iter().all(|links| *links == 4), "{sessions:?}");
    });
}
