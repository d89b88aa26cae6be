//! What circuits are used for: who serves what in which mode, which way a fetch takes, how many routes
//! it shows itself over, and what a restart keeps. Bad input and faults: `circuits.rs`.

use kith_crypto::content::ReadCap;
use kith_onion::catalogue::{Audience, Pace};
use kith_onion::cell::Command;
use kith_onion::{CircuitSettings, NoOnion, Noted, Privacy, Route, Trust, Way};
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
    seeds::run("a_slow_circuit_in_use_is_not_ended", 7, |seed| {
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

// Holders.

/// A builder (0) behind a line of relays, 1, 2 and 3, whose end has four friends.
fn line_with_holders(seed: u64) -> (World, ReadCap) {
    let friends = [(0, 1), (1, 2), (2, 3), (3, 4), (3, 5), (3, 6), (3, 7)];
    let mut world = World::of_friends(seed, 8, &friends, Privacy::Fast, quick());
    let cap = world.publish(4, "Otters", 4_000_000, Audience::Fof);
    [5, 6, 7].into_iter().for_each(|n| world.publish_copy(n, cap.root, Audience::Fof));
    world.run(20 * SECOND);
    world.wait_for_circuits(0, 2);
    (world, cap)
}

#[test]
fn several_holders_serve_at_once_through_one_end() {
    seeds::run("several_holders_serve_at_once_through_one_end", 3, |seed| {
        let (mut world, cap) = line_with_holders(seed);
        assert_eq!(world.fetch_now(0, &cap, Route::Onion, MINUTE), Outcome::Complete);
        assert_eq!(sessions(&world, 0, &cap), [4; 4], "four answers of four holders, all over four links");
        let end = world.nodes[3].key();
        for holder in 4..8 {
            let sent = world.nodes[holder].core().traffic(end).sent;
            assert!(sent > 300_000, "holder {holder} sent {sent} bytes");
        }
        assert_eq!(routes_of(&world, 0, &cap), 1, "and all through one circuit");
        // One of them goes in the middle of another fetch: the rest go on.
        let more = world.publish(4, "more", 6_000_000, Audience::Fof);
        [5, 6, 7].into_iter().for_each(|n| world.publish_copy(n, more.root, Audience::Fof));
        world.run(10 * SECOND);
        world.fetch(0, &more, Route::Onion);
        world.run_until(MINUTE, |w| w.nodes[0].partial.get(&more.root).is_some_and(|b| b.len() > 10));
        world.crash(5);
        assert!(world.run_until(2 * MINUTE, |w| w.outcome(0, &more).is_some()));
        assert_eq!(world.outcome(0, &more), Some(Outcome::Complete));
        assert_eq!(routes_of(&world, 0, &more), 1);
    });
}

#[test]
fn the_end_serves_what_it_published_itself() {
    seeds::run("the_end_serves_what_it_published_itself", 3, |seed| {
        let friends = [(0, 1), (1, 2), (2, 3), (3, 4)];
        let mut world = World::of_friends(seed, 5, &friends, Privacy::Normal, quick());
        let cap = world.publish(3, "Otters", 2_000_000, Audience::Fof);
        let friends_only = world.publish(3, "for friends", 1_000, Audience::Friends);
        world.wait_for_circuits(0, 2);
        let sent =
            |w: &World| [1, 2, 3].map(|n: NodeId| w.nodes[n].core().traffic(w.nodes[n - 1].key()).sent);
        let before = sent(&world);
        assert_eq!(world.fetch_now(0, &cap, Route::Onion, MINUTE), Outcome::Complete);
        assert_eq!(sessions(&world, 0, &cap), [4]);
        let [first, second, end] = std::array::from_fn(|i| sent(&world)[i] - before[i]);
        assert!(end > 2_000_000, "the end's owner sees what it gave: {end}");
        // Their own circuits have a cell now and then.
        assert!(first < 50_000 && second < 50_000, "relays give nothing: {first} and {second}");
        let refused = world.fetch_now(0, &friends_only, Route::Onion, MINUTE);
        assert_eq!(refused, Outcome::NoOnion(NoOnion::NotFound), "what is for friends only is not");
        world.run(10 * SECOND);
        assert_eq!(world.nodes[3].core().load().serving, 0);
    });
}

/// A request of a node's own that comes back to it is passed on like any other, and its answer is never
/// chosen; somebody else's request on the same way is answered.
#[test]
fn an_own_request_that_comes_back_is_not_answered_through_oneself() {
    seeds::run("an_own_request_that_comes_back_is_not_answered_through_oneself", 3, |seed| {
        // The holder, 0, has one friend: node 1. Whoever asks comes by it, and so does it itself.
        let friends =
            [(0, 1), (1, 2), (2, 3), (3, 4), (4, 1), (2, 5), (5, 6), (6, 3), (5, 4), (6, 7), (7, 4)];
        let mut world = World::of_friends(seed, 8, &friends, Privacy::Fast, quick());
        // The holder knows nobody else, and would be no good as a first relay.
        world.set_trust(1, 2, Trust::Close);
        let cap = world.publish(0, "Otters", 10_000, Audience::Fof);
        world.run(10 * SECOND);
        world.wait_for_circuits(1, 4);
        world.wait_for_circuits(7, 4);
        world.listen(0, false);
        world.fetch(1, &cap, Route::Onion);
        let at_the_holder = |w: &World| w.nodes[0].core().load().tunnels > 0;
        assert!(world.run_until(MINUTE, at_the_holder), "it came back and was passed on");
        assert!(world.run_until(MINUTE, |w| w.outcome(1, &cap).is_some()));
        assert_eq!(world.outcome(1, &cap), Some(Outcome::NoOnion(NoOnion::NotFound)));
        assert!(sessions(&world, 1, &cap).is_empty());
        // How soon the answer is let go does not say whose request it was: not before a builder who chose
        // somebody else could have said so (holder's and relay's delay are 50 ms at least).
        let heard = world.heard(0).to_vec();
        let at = |c: Command| heard.iter().filter(move |n| matches!(n.what, Noted::Came(k, _) if k == c));
        for open in at(Command::TunOpen) {
            let end = at(Command::Destroy).find(|n| n.circ == open.circ).expect("it is let go");
            assert!(end.at - open.at >= millis(250), "let go after {:?}", end.at - open.at);
        }
        assert_eq!(world.fetch_now(7, &cap, Route::Onion, MINUTE), Outcome::Complete, "the control");
        world.run(5 * SECOND);
        let loads = (0..8).map(|n| world.nodes[n].core().load());
        assert!(loads.into_iter().all(|l| (l.tunnels, l.relayed, l.timers) == (0, 0, 0)), "nothing is left");
    });
}

// The first relay.

fn way(world: &World, node: NodeId, cap: &ReadCap, route: Route) -> Way {
    world.nodes[node].core().way_of(world.time(node), &cap.root, route)
}

/// Friends 1 and 3 of node 2 tell of what node 0 publishes; 5 does not.
#[test]
fn who_carries_an_item_is_not_its_first_relay() {
    seeds::run("who_carries_an_item_is_not_its_first_relay", 3, |seed| {
        for close in [[1, 5], [1, 3]] {
            // A ring with chords, without a link between 5 and 6: node 5 would tell of it too.
            let friends = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (6, 0), (0, 3), (1, 4), (2, 5), (3, 6)];
            let mut world = World::of_friends(seed, 7, &friends, Privacy::Fast, quick());
            close.into_iter().for_each(|friend| world.set_trust(2, friend, Trust::Close));
            let cap = world.publish(0, "Otters", 10_000, Audience::Fof);
            world.run(20 * SECOND);
            world.wait_for_circuits(2, ALL);
            let strict = |w: &mut World, mode| set_privacy(w, 2, mode);
            if close == [1, 5] {
                // One of the two pairs is clean: it is used in every mode.
                for mode in [Privacy::Fast, Privacy::Normal, Privacy::Strict] {
                    strict(&mut world, mode);
                    assert_eq!(way(&world, 2, &cap, Route::Onion), Way::Onion { reduced: false }, "{mode:?}");
                }
                let before = world.nodes[2].core().traffic(world.nodes[1].key()).received;
                assert_eq!(world.fetch_now(2, &cap, Route::Onion, MINUTE), Outcome::Complete);
                let carried = world.nodes[2].core().traffic(world.nodes[1].key()).received - before;
                assert!(carried < 40_000, "node 1, who told of it, carried {carried} bytes");
            } else {
                assert_eq!(way(&world, 2, &cap, Route::Onion), Way::Onion { reduced: true });
                strict(&mut world, Privacy::Strict);
                assert_eq!(way(&world, 2, &cap, Route::Onion), Way::No(NoOnion::GuardCarries));
                let refused = world.fetch_now(2, &cap, Route::Auto, MINUTE);
                assert_eq!(refused, Outcome::NoOnion(NoOnion::GuardCarries));
                strict(&mut world, Privacy::Normal);
                assert_eq!(world.fetch_now(2, &cap, Route::Onion, MINUTE), Outcome::Complete);
            }
        }
    });
}

#[test]
fn too_few_relays_are_told() {
    seeds::run("too_few_relays_are_told", 3, |seed| {
        let mut world = World::of_friends(seed, 3, &[(0, 1), (1, 2)], Privacy::Normal, quick());
        let cap = world.publish(2, "Otters", 10_000, Audience::Fof);
        assert!(world.run_until(MINUTE, |w| knows(w, 0, &cap)));
        world.run(MINUTE);
        for (mode, route) in
            [(Privacy::Normal, Route::Auto), (Privacy::Strict, Route::Auto), (Privacy::Fast, Route::Onion)]
        {
            set_privacy(&mut world, 0, mode);
            assert_eq!(way(&world, 0, &cap, route), Way::No(NoOnion::TooFewRelays));
            let outcome = world.fetch_now(0, &cap, route, MINUTE);
            assert_eq!(outcome, Outcome::NoOnion(NoOnion::TooFewRelays), "{mode:?}");
            assert!(sessions(&world, 0, &cap).is_empty(), "and it did not come by the common friend");
        }
        set_privacy(&mut world, 0, Privacy::Fast);
        assert_eq!(world.fetch_now(0, &cap, Route::Auto, MINUTE), Outcome::Complete);
        assert_eq!(sessions(&world, 0, &cap), [2]);
    });
}

#[test]
fn a_friend_marked_low_is_no_relay() {
    seeds::run("a_friend_marked_low_is_no_relay", 3, |seed| {
        let mut world = World::ring(seed, 7, quick());
        world.wait_for_circuits(2, ALL);
        let guard = |w: &World| [1, 3, 5].map(|n| w.nodes[2].core().traffic(w.nodes[n].key()).received);
        for low in [1, 3] {
            world.set_trust(2, low, Trust::Low);
        }
        world.run(10 * SECOND);
        let before = guard(&world);
        world.run(2 * MINUTE);
        let after = guard(&world);
        let cells = [0, 1, 2].map(|i| (after[i] - before[i]) / 4096);
        assert!(cells[0] == 0 && cells[1] == 0 && cells[2] > 50, "{cells:?}");
    });
}

// Modes.

/// What a watcher serves to others, by its mode. Node 1 is a friend of the publisher, 0; node 2 is a
/// friend of node 1. Both watched the same thing; the publisher is off line.
#[test]
fn each_mode_serves_what_it_says() {
    seeds::run("each_mode_serves_what_it_says", 2, |seed| {
        for (mode, near) in [(Privacy::Fast, true), (Privacy::Normal, true), (Privacy::Strict, false)] {
            let friends = [(0, 1), (1, 2), (1, 3), (2, 3), (2, 4), (3, 5), (5, 6), (4, 6)];
            let mut world = World::of_friends(seed, 7, &friends, Privacy::Fast, quick());
            let cap = world.publish(0, "Otters", 10_000, Audience::Fof);
            let own = world.publish(2, "own", 10_000, Audience::Fof);
            assert!(
                world
                    .run_until(MINUTE, |w| [1, 2, 3].iter().all(|n| knows(w, *n, &cap)) && knows(w, 3, &own))
            );
            [1, 2].into_iter().for_each(|n| world.give_copy(n, cap.root));
            world.crash(0);
            [1, 2].into_iter().for_each(|n| set_privacy(&mut world, n, mode));
            world.run(5 * SECOND);
            // A direct friend's thing, to that friend's other friends.
            let outcome = world.fetch_now(3, &cap, Route::Fof, MINUTE);
            assert_eq!(outcome == Outcome::Complete, near, "{mode:?}: {outcome:?}");
            // What was watched from further away: not in normal and strict, whoever asks.
            world.crash(1);
            world.nodes[3].partial.clear();
            let outcome = world.fetch_now(3, &cap, Route::Auto, MINUTE);
            assert!(mode == Privacy::Fast || outcome != Outcome::Complete, "{mode:?}: {outcome:?}");
            // Own things always.
            assert_eq!(world.fetch_now(3, &own, Route::Direct, MINUTE), Outcome::Complete, "{mode:?}");
        }
    });
}

/// Which way `auto` goes in each mode: never from circuits to the common friend.
#[test]
fn auto_goes_as_the_mode_says() {
    seeds::run("auto_goes_as_the_mode_says", 2, |seed| {
        let mut world = World::ring(seed, 7, quick());
        let near = world.publish(1, "near", 10_000, Audience::Fof);
        let far = world.publish(0, "far", 10_000, Audience::Fof);
        assert!(world.run_until(MINUTE, |w| knows(w, 2, &near) && knows(w, 2, &far)));
        // One of these two tells of neither.
        [1, 5].into_iter().for_each(|friend| world.set_trust(2, friend, Trust::Close));
        world.run(10 * SECOND);
        world.wait_for_circuits(2, ALL);
        let came = |w: &mut World, cap: &ReadCap| {
            w.nodes[2].objects.remove(&cap.root);
            w.act(2, |core, _| core.release(&cap.root));
            w.wait_for_circuits(2, 3);
            (w.fetch_now(2, cap, Route::Auto, MINUTE), sessions(w, 2, cap).first().copied())
        };
        for (mode, of_near, of_far) in
            [(Privacy::Fast, 1, 2), (Privacy::Normal, 1, 4), (Privacy::Strict, 4, 4)]
        {
            set_privacy(&mut world, 2, mode);
            assert_eq!(came(&mut world, &near), (Outcome::Complete, Some(of_near)), "{mode:?}");
            assert_eq!(came(&mut world, &far), (Outcome::Complete, Some(of_far)), "{mode:?}");
        }
        // Without circuits: it waits or fails, and nobody else is asked.
        (3..7)
            .for_each(|n| world.set_circuits(n, Privacy::Fast, CircuitSettings { relay: false, ..quick() }));
        world.set_circuits(0, Privacy::Fast, CircuitSettings { relay: false, ..quick() });
        world.run(MINUTE);
        for mode in [Privacy::Normal, Privacy::Strict] {
            set_privacy(&mut world, 2, mode);
            let (outcome, session) = came_without(&mut world, &far);
            assert!(matches!(outcome, Outcome::NoOnion(_)) && session.is_none(), "{mode:?}: {outcome:?}");
        }
    });
}

fn came_without(world: &mut World, cap: &ReadCap) -> (Outcome, Option<u8>) {
    world.nodes[2].objects.remove(&cap.root);
    (world.fetch_now(2, cap, Route::Auto, MINUTE), sessions(world, 2, cap).first().copied())
}

// Routes.

/// First relay and second hop, as they are stored: `version 1 | tier 1 | 1 | friend 32 | until 8 | 1 |
/// handle 8`.
fn first_two(world: &mut World, node: NodeId) -> (Vec<u8>, Vec<u8>) {
    world.nodes[node].journal.sync_all();
    let routes = world.nodes[node].journal.routes.clone().expect("routes are stored");
    (routes[3..35].to_vec(), routes[44..52].to_vec())
}

#[test]
fn twenty_objects_share_guard_and_second_hop_and_a_restart_keeps_them() {
    seeds::run("twenty_objects_share_guard_and_second_hop_and_a_restart_keeps_them", 2, |seed| {
        let mut world = World::ring(seed, 7, quick());
        let caps: Vec<_> = (0..20).map(|_| world.publish(0, "clip", 1_000, Audience::Fof)).collect();
        assert!(world.run_until(MINUTE, |w| caps.iter().all(|c| knows(w, 2, c))));
        world.wait_for_circuits(2, ALL);
        let before = first_two(&mut world, 2);
        for cap in &caps {
            world.wait_for_circuits(2, ALL);
            assert_eq!(world.fetch_now(2, cap, Route::Onion, MINUTE), Outcome::Complete);
            assert_eq!(first_two(&mut world, 2), before);
        }
        let routes: Vec<usize> = caps.iter().map(|c| routes_of(&world, 2, c)).collect();
        for _ in 0..3 {
            world.crash(2);
            world.run(2 * SECOND);
            world.start(2);
            world.wait_for_circuits(2, ALL);
            assert_eq!(first_two(&mut world, 2), before, "a restart draws nothing anew");
        }
        assert_eq!(caps.iter().map(|c| routes_of(&world, 2, c)).collect::<Vec<_>>(), routes);
        world.nodes[2].objects.clear();
        assert_eq!(
            world.fetch_now(2, &caps[7], Route::Onion, MINUTE),
            Outcome::Complete,
            "nothing is refused"
        );
        assert_eq!(routes_of(&world, 2, &caps[7]), routes[7]);
    });
}

/// An object that nobody gives, asked for again and again while relays come and go: each time all
/// circuits fail, some fifty in all.
#[test]
fn circuits_that_fail_again_and_again_make_four_routes_at_most() {
    seeds::run("circuits_that_fail_again_and_again_make_four_routes_at_most", 1, |seed| {
        const COUNT: usize = 14;
        let friends: Vec<_> =
            (0..COUNT).flat_map(|id| [1, 3, 5].map(|step| (id, (id + step) % COUNT))).collect();
        let mut world = World::of_friends(seed, COUNT, &friends, Privacy::Fast, quick());
        let cap = world.publish(7, "clip", 1_000, Audience::One(world.nodes[8].key()));
        world.wait_for_circuits(0, ALL);
        // Only one node matters: the others are quiet, or ten hours would take long.
        let slow = CircuitSettings { pace: 10 * MINUTE, ..quick() };
        (1..COUNT).for_each(|n| world.set_circuits(n, Privacy::Fast, slow));
        world.set_circuits(0, Privacy::Fast, CircuitSettings { pace: MINUTE, ..quick() });
        let (mut most, mut refused) = (0, 0);
        for round in 0..14 {
            let victim = 1 + (round * 5) % (COUNT - 1);
            world.nodes[victim].journal.sync_all();
            world.crash(victim);
            // Long enough for relays that are away to be replaced.
            world.run(13 * MINUTE);
            world.run_until(5 * MINUTE, |w| w.ready(0) > 2);
            let outcome = world.fetch_now(0, &cap, Route::Onion, MINUTE);
            refused += usize::from(outcome == Outcome::NoOnion(NoOnion::TooManyRoutes));
            assert!(outcome != Outcome::Complete);
            most = most.max(routes_of(&world, 0, &cap));
            world.start(victim);
        }
        assert!((3..=4).contains(&most), "{most} routes, {refused} refused");
    });
}

// What others are shown.

#[test]
fn relaying_off_is_no_relay_and_on_again_is_one() {
    seeds::run("relaying_off_is_no_relay_and_on_again_is_one", 2, |seed| {
        let mut world = World::ring(seed, 7, quick());
        world.add_node("Zoe", world.nodes[0].pace);
        world.link(7, 0);
        world.run(5 * SECOND);
        let mut rogue = world.rogue(7, 0);
        let listed = |w: &mut World, r: &mut kith_tests::sim::Rogue| {
            let list = r.create(w).expect("a circuit").list;
            list.iter().any(|l| l.handle == w.handle(0, 1))
        };
        assert!(listed(&mut world, &mut rogue));
        let off = CircuitSettings { relay: false, ..quick() };
        world.set_circuits(1, Privacy::Fast, off);
        rogue.run(&mut world, 2 * SECOND);
        assert!(!listed(&mut world, &mut rogue), "who does not relay is not listed");
        // Over a restart of either side too.
        for node in [1, 0] {
            world.nodes[node].journal.sync_all();
            world.crash(node);
            world.run(SECOND);
            world.start(node);
            assert!(world.run_until(MINUTE, |w| w.linked(0, 1)));
        }
        world.run(10 * SECOND);
        let mut rogue = world.rogue(7, 0);
        assert!(!listed(&mut world, &mut rogue));
        world.set_circuits(0, Privacy::Fast, off);
        rogue.run(&mut world, SECOND);
        assert!(rogue.create(&mut world).is_none(), "nothing is answered");
        assert_eq!(world.circuits(0).relayed, 0, "{:?}", world.circuits(0));
        world.set_circuits(0, Privacy::Fast, quick());
        world.set_circuits(1, Privacy::Fast, quick());
        rogue.run(&mut world, 10 * SECOND);
        assert!(listed(&mut world, &mut rogue), "on again");
    });
}

/// The list that builders are shown changes with the draw and with nothing else. A friend was missing
/// from it while its link was new, and its classes were those of the moment.
#[test]
fn lists_do_not_show_who_comes_and_goes() {
    seeds::run("lists_do_not_show_who_comes_and_goes", 1, |seed| {
        let mut world = World::ring(seed, 7, quick());
        world.add_node("Zoe", world.nodes[0].pace);
        world.link(7, 0);
        world.run(5 * SECOND);
        world.set_circuits(0, Privacy::Fast, CircuitSettings { snapshot: 90 * MINUTE, ..quick() });
        (1..7).for_each(|n| {
            world.set_circuits(n, Privacy::Fast, CircuitSettings { pace: 10 * MINUTE, ..quick() })
        });
        world.run(10 * SECOND); // the next draw is an hour and a half away at least
        let mut rogue = world.rogue(7, 0);
        let shown = |w: &mut World, r: &mut kith_tests::sim::Rogue| {
            let circuit = r.create(w)?;
            r.say(w, circuit.circ, Command::Destroy, &[]);
            Some(circuit.list.iter().map(|l| (l.handle, l.uptime, l.rate)).collect::<Vec<_>>())
        };
        let first = shown(&mut world, &mut rogue).expect("a circuit");
        assert!(first.len() >= 3, "{first:?}");
        world.nodes[1].journal.sync_all();
        world.crash(1);
        for _ in 0..10 {
            rogue.run(&mut world, MINUTE);
            assert_eq!(shown(&mut world, &mut rogue), Some(first.clone()), "a friend is away");
        }
        // It comes back: looked at all the time, as often as a friend may.
        world.start(1);
        for _ in 0..40 {
            rogue.run(&mut world, millis(260));
            if let Some(list) = shown(&mut world, &mut rogue) {
                assert_eq!(list, first, "a friend came back");
            }
        }
        // A new friend is not shown before the next draw.
        world.add_node("Yan", world.nodes[0].pace);
        world.link(8, 0);
        for _ in 0..5 {
            rogue.run(&mut world, MINUTE);
            assert_eq!(shown(&mut world, &mut rogue), Some(first.clone()), "a new friend");
        }
        for _ in 0..6 {
            rogue.run(&mut world, 30 * MINUTE);
        }
        let later = shown(&mut world, &mut rogue).expect("a circuit");
        assert!(later.iter().any(|l| l.0 == world.handle(0, 8)), "{} are shown then", later.len());
    });
}

/// A key counts on its day and on the next.
#[test]
fn the_key_of_yesterday_counts_and_the_one_before_does_not() {
    // Days are cheap where catalogues wait for long.
    let mut world = World::new(1);
    for name in ["Ana", "Bo", "Zoe"] {
        let id = world.add_node(name, Pace { batch: 6000 * MINUTE, spread: MINUTE });
        world.set_circuits(id, Privacy::Fast, CircuitSettings { pace: 20 * MINUTE, ..quick() });
    }
    world.link(0, 1);
    world.link(2, 0);
    world.run(5 * SECOND);
    let mut rogue = world.rogue(2, 0);
    let first = rogue.key.expect("a key");
    let mut epochs = Vec::new();
    for hour in 0..72 {
        if rogue.is_closed(&world) {
            // Links are renewed now and then.
            rogue = world.rogue(2, 0);
        }
        let now = rogue.key.expect("a key");
        epochs.push(now.0 - first.0);
        assert!(rogue.create(&mut world).is_some(), "hour {hour}: today's key");
        rogue.key = Some(first);
        let counts = rogue.create(&mut world).is_some();
        assert_eq!(counts, now.0 - first.0 <= 1, "hour {hour}: the key of {} days before", now.0 - first.0);
        rogue.key = Some(now);
        rogue.run(&mut world, 60 * MINUTE);
    }
    assert_eq!(epochs.last(), Some(&2), "{epochs:?}");
}
