//! Circles in the simulator: who is in one sees what is for it, and nobody else, whatever changes
//! while links come and go.

use kith_crypto::content::ReadCap;
use kith_onion::catalogue::Audience;
use kith_onion::{FriendKey, Route};
use kith_tests::sim::{NodeId, Outcome, World, seeds};
use std::collections::BTreeSet;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);
const CIRCLE: u64 = 7;

/// Node 0 with friends 1 to 3, of whom 1 and 2 are friends, too.
fn hub(seed: u64) -> World {
    let mut world = World::with_nodes(seed, 4);
    (1..4).for_each(|id| world.link(0, id));
    world.link(1, 2);
    world
}

fn set(world: &mut World, members: &[NodeId]) {
    let members: BTreeSet<FriendKey> = members.iter().map(|id| world.nodes[*id].key()).collect();
    world.act(0, |core, now| core.set_circle(now, CIRCLE, members));
}

fn seeing(world: &World, cap: &ReadCap) -> Vec<NodeId> {
    (1..4).filter(|id| world.distance(*id, cap).is_some()).collect()
}

#[test]
fn membership_decides_at_every_time() {
    seeds::run("membership_decides_at_every_time", 20, |seed| {
        let mut world = hub(seed);
        set(&mut world, &[1]);
        let cap = world.publish(0, "circle", 70_000, Audience::Circle(CIRCLE));
        assert!(world.run_until(MINUTE, |w| seeing(w, &cap) == [1]));
        world.run(2 * MINUTE);
        assert_eq!(seeing(&world, &cap), [1], "no friend of a member, no other friend");
        assert_eq!(world.fetch_now(1, &cap, Route::Direct, MINUTE), Outcome::Complete);
        for outsider in [2, 3] {
            assert_eq!(world.fetch_now(outsider, &cap, Route::Auto, MINUTE), Outcome::Unreachable);
        }
        // Another member instead, while nothing is published anew.
        set(&mut world, &[2, 3]);
        assert!(world.run_until(MINUTE, |w| seeing(w, &cap) == [2, 3]));
        assert_eq!(world.fetch_now(3, &cap, Route::Direct, MINUTE), Outcome::Complete);
        // Somebody who was away meanwhile hears of it with the next link.
        world.crash(2);
        set(&mut world, &[3]);
        world.start(2);
        assert!(world.run_until(2 * MINUTE, |w| w.linked(0, 2) && seeing(w, &cap) == [3]));
        set(&mut world, &[]);
        assert!(world.run_until(MINUTE, |w| seeing(w, &cap).is_empty()));
        // An unknown circle is an empty one.
        let other = world.publish(0, "nobody", 1_000, Audience::Circle(CIRCLE + 1));
        world.run(MINUTE);
        assert_eq!(seeing(&world, &other), [0; 0]);
        assert_eq!(world.distance(0, &other), Some(0), "its publisher has it");
    });
}

// Membership ended while the answer to a request waited for its time: the session was judged before
// and began afterwards, and the whole object went to somebody outside. It is judged again.
#[test]
fn a_session_ends_with_membership() {
    seeds::run("a_session_ends_with_membership", 10, |seed| {
        for dropped in [false, true] {
            let mut world = hub(seed);
            set(&mut world, &[1, 3]);
            let cap = world.publish(0, "long", 2_500_000, Audience::Circle(CIRCLE));
            assert!(world.run_until(MINUTE, |w| seeing(w, &cap) == [1, 3]));
            world.fetch(1, &cap, Route::Direct);
            assert!(world.run_until(MINUTE, |w| w.nodes[0].core().load().tunnels > 0));
            assert_eq!(world.outcome(1, &cap), None, "still under way");
            if dropped {
                set(&mut world, &[3]);
            }
            // The control: who stays in the circle gets it whole.
            let done = world.run_until(5 * MINUTE, |w| w.outcome(1, &cap).is_some());
            let wanted = if dropped { Outcome::Unreachable } else { Outcome::Complete };
            assert!(done, "it ends");
            assert_eq!(world.outcome(1, &cap), Some(wanted));
        }
    });
}
