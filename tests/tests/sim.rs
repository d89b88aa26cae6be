//! Scenarios of the simulator. Each runs with some twenty seeds; `KITH_SIM_SEEDS=n` runs more, and a
//! failure prints the line that replays its seed.

use kith_crypto::content::ReadCap;
use kith_onion::catalogue::{Audience, Pace};
use kith_onion::link::WINDOW_MAX;
use kith_onion::{InviteOutcome, Route};
use kith_tests::sim::{Disk, Mischief, NodeId, Object, Outcome, Quality, World, Write, seeds};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// So many nodes, each a friend of the next.
fn line_of(seed: u64, count: usize) -> World {
    let mut world = World::with_nodes(seed, count);
    for id in 1..count {
        world.link(id - 1, id);
    }
    world
}

/// The same with catalogues of this pace.
fn paced_line(seed: u64, count: usize, batch: Duration, spread: Duration) -> World {
    let mut world = World::new(seed);
    for name in ["Ana", "Bo", "Cid", "Dora"].into_iter().take(count) {
        world.add_node(name, Pace { batch, spread });
    }
    for id in 1..count {
        world.link(id - 1, id);
    }
    world
}

fn shows(world: &World, node: NodeId, cap: &ReadCap) -> bool {
    world.distance(node, cap).is_some()
}

fn wait_for(world: &mut World, node: NodeId, cap: &ReadCap) {
    assert!(world.run_until(MINUTE, |w| shows(w, node, cap)), "node {node} learns of it");
}

// (a) The line of three.

#[test]
fn a_line_of_three_finds_and_fetches() {
    seeds::run("a_line_of_three_finds_and_fetches", 20, |seed| {
        let mut world = World::with_nodes(seed, 3);
        world.befriend(1, 0);
        world.befriend(2, 1);
        let cap = world.publish(0, "Otters", 700_000, Audience::Fof);
        wait_for(&mut world, 2, &cap);
        let listing = world.nodes[2].core().listing(&cap.root).unwrap();
        assert_eq!((listing.distance, listing.sources), (2, vec![(world.nodes[1].key(), 2)]));
        assert_eq!(listing.entry.title, "Otters");
        assert_eq!(world.distance(1, &cap), Some(1));
        assert_eq!(world.fetch_now(2, &cap, Route::Fof, MINUTE), Outcome::Complete);
        assert_eq!(world.nodes[2].fetches[&cap.root].sessions, [2]);
        assert_eq!(world.fetch_now(1, &cap, Route::Direct, MINUTE), Outcome::Complete);
        // The node two links away has it too by now, and gives it back to whom it has it from.
        let sessions = &world.nodes[1].fetches[&cap.root].sessions;
        assert!(sessions.len() <= 2 && sessions.iter().all(|links| *links == 1), "{sessions:?}");
        // Nothing of the tunnels is left behind.
        world.run(5 * SECOND);
        for node in &world.nodes {
            let load = node.core().load();
            assert_eq!((load.tunnels, load.relayed, load.timers), (0, 0, 0), "{}", node.name);
        }
    });
}

// (b) Audiences.

#[test]
fn audiences_hold() {
    seeds::run("audiences_hold", 20, |seed| {
        let mut world = line_of(seed, 4);
        let only = Audience::One(world.nodes[0].key());
        let fof = world.publish(0, "fof", 70_000, Audience::Fof);
        let friends = world.publish(0, "friends", 70_000, Audience::Friends);
        let one = world.publish(1, "one", 70_000, only);
        wait_for(&mut world, 2, &fof);
        wait_for(&mut world, 1, &friends);
        wait_for(&mut world, 0, &one);
        world.run(MINUTE);
        assert!(!shows(&world, 3, &fof), "no third link");
        assert!(!shows(&world, 2, &friends) && !shows(&world, 3, &friends), "friends only");
        assert!(!shows(&world, 2, &one) && !shows(&world, 3, &one), "one friend only");

        // Whoever got the capability elsewhere is still not in the audience.
        for (node, cap) in [(2, &friends), (2, &one), (3, &fof)] {
            assert_eq!(world.fetch_now(node, cap, Route::Auto, MINUTE), Outcome::Unreachable);
        }
        // A smaller audience: it leaves the third node. Withdrawn: it leaves everybody.
        let entry = world.nodes[0].core().listing(&fof.root).unwrap().entry;
        world.act(0, |core, now| core.publish(now, entry, Audience::Friends, true));
        assert!(world.run_until(MINUTE, |w| !shows(w, 2, &fof)) && shows(&world, 1, &fof));
        world.withdraw(0, fof.root);
        assert!(world.run_until(MINUTE, |w| !shows(w, 1, &fof) && !shows(w, 0, &fof)));
        assert_eq!(world.fetch_now(2, &fof, Route::Fof, MINUTE), Outcome::Unreachable);
    });
}

// (c) Faults.

fn random_fault(world: &mut World, count: usize) {
    let node = world.rng.range(0, count as u64 - 1) as usize;
    match world.rng.range(0, 3) {
        0 | 1 => {
            let wires = world.nodes[node].wires();
            if !wires.is_empty() {
                let wire = wires[world.rng.range(0, wires.len() as u64 - 1) as usize];
                let told = world.rng.range(0, 2) > 0;
                world.cut(wire, told);
            }
        }
        2 => {
            let other = (node + 1) % count;
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

#[test]
fn faults_heal() {
    seeds::run("faults_heal", 20, |seed| {
        const COUNT: usize = 4;
        let mut world = World::with_nodes(seed, COUNT);
        world.quality =
            Quality { latency: millis(world.rng.range(2, 120)), bandwidth: 300_000, buffer: 128 * 1024 };
        for node in &mut world.nodes {
            node.disk = Disk { persist_ms: (0, 400), read_ms: (0, 200), write_ms: (0, 300) };
        }
        let ring: Vec<(NodeId, NodeId)> = (0..COUNT).map(|id| (id, (id + 1) % COUNT)).collect();
        ring.iter().for_each(|(a, b)| world.link(*a, *b));
        let cap = world.publish(0, "clip", 1_200_000, Audience::Fof);
        wait_for(&mut world, 2, &cap);
        wait_for(&mut world, 1, &cap);
        world.fetch(2, &cap, Route::Auto);
        world.fetch(1, &cap, Route::Direct);
        for _ in 0..20 {
            let pause = millis(world.rng.range(100, 4_000));
            world.run(pause);
            random_fault(&mut world, COUNT);
        }
        world.refused.clear();
        for id in 0..COUNT {
            if world.nodes[id].core.is_none() {
                world.start(id);
            }
        }
        let ended = |w: &World| [1, 2].iter().all(|n| w.outcome(*n, &cap).is_some());
        let linked = |w: &World| ring.iter().all(|(a, b)| w.linked(*a, *b));
        assert!(world.run_until(10 * MINUTE, |w| ended(w) && linked(w)), "all is well again");
        // One link a pair, and what gave up can be had now.
        world.run(2 * MINUTE);
        // A new handshake takes the place of a link before that one ends: two for a moment.
        let single = |w: &World| ring.iter().all(|(a, b)| w.wires_between(*a, *b).len() == 1);
        assert!(world.run_until(10 * SECOND, single), "one link a pair");
        for node in [1, 2] {
            if world.outcome(node, &cap) == Some(Outcome::Unreachable) {
                assert!(shows(&world, node, &cap), "what it knew survived");
                assert_eq!(world.fetch_now(node, &cap, Route::Auto, 5 * MINUTE), Outcome::Complete);
            }
        }
    });
}

#[test]
fn nothing_leaves_before_it_is_stored() {
    seeds::run("nothing_leaves_before_it_is_stored", 5, |seed| {
        let mut world = World::with_nodes(seed, 2);
        for node in &mut world.nodes {
            node.disk.persist_ms = (3_600_000, 3_600_000);
        }
        world.introduce(0, 1);
        world.run(MINUTE);
        assert!(!world.wires.is_empty() && world.wires.iter().all(|w| w.flows[0].written == 0));
        // An answering side that cannot store says nothing either.
        world.nodes[0].disk.persist_ms = (0, 0);
        world.crash(0);
        world.start(0);
        let before = world.wires.len();
        world.run(MINUTE);
        assert!(world.wires[before..].iter().any(|w| w.flows[0].written > 0));
        assert!(world.wires.iter().all(|w| w.flows[1].written == 0));
    });
}

#[test]
fn a_view_survives_a_restart() {
    seeds::run("a_view_survives_a_restart", 20, |seed| {
        let mut world = line_of(seed, 3);
        let caps: Vec<ReadCap> = (0..5).map(|i| world.publish(0, "clip", 1_000 + i, Audience::Fof)).collect();
        assert!(world.run_until(MINUTE, |w| caps.iter().all(|cap| shows(w, 2, cap))));
        let restart = millis(world.rng.range(0, 10_000));
        world.run(restart);
        world.nodes[1].journal.sync_all();
        world.nodes[2].journal.sync_all();
        world.crash(0);
        world.crash(1);
        world.crash(2);
        world.start(2);
        assert!(caps.iter().all(|cap| shows(&world, 2, cap)), "known without any friend");
        world.start(1);
        world.start(0);
        assert!(world.run_until(2 * MINUTE, |w| w.linked(0, 1) && w.linked(1, 2)));
        world.withdraw(0, caps[0].root);
        assert!(world.run_until(MINUTE, |w| !shows(w, 2, &caps[0])), "changes go on where they were");
        assert_eq!(world.fetch_now(2, &caps[1], Route::Auto, MINUTE), Outcome::Complete);
    });
}

// (d) Dishonest friends.

/// Node 2 knows the same object from 0 and 1; returns the one that is asked first, and the other.
fn two_sources(seed: u64) -> (World, ReadCap, NodeId, NodeId) {
    let mut world = World::with_nodes(seed, 3);
    world.link(0, 2);
    world.link(1, 2);
    let cap = world.publish(0, "clip", 600_000, Audience::Friends);
    world.publish_copy(1, cap.root, Audience::Friends);
    let known = |w: &World| w.nodes[2].core().listing(&cap.root).is_some_and(|l| l.sources.len() == 2);
    assert!(world.run_until(MINUTE, known));
    let (first, other) = if world.nodes[0].key() < world.nodes[1].key() { (0, 1) } else { (1, 0) };
    (world, cap, first, other)
}

#[test]
fn a_liar_is_left_for_the_other_source() {
    seeds::run("a_liar_is_left_for_the_other_source", 20, |seed| {
        let (mut world, cap, first, other) = two_sources(seed);
        world.nodes[first].mischief = Mischief::Corrupt;
        assert_eq!(world.fetch_now(2, &cap, Route::Auto, MINUTE), Outcome::Complete);
        assert_eq!(world.nodes[2].fetches[&cap.root].sessions, [1, 1]);
        // Both lie: nothing wrong is ever delivered, and the fetch says so.
        world.nodes[other].mischief = Mischief::Corrupt;
        world.nodes[2].objects.remove(&cap.root);
        assert_eq!(world.fetch_now(2, &cap, Route::Auto, 3 * MINUTE), Outcome::Unreachable);
    });
}

#[test]
fn a_liar_two_links_away_gives_nothing() {
    seeds::run("a_liar_two_links_away_gives_nothing", 10, |seed| {
        let mut world = line_of(seed, 3);
        world.nodes[0].mischief = Mischief::Corrupt;
        let cap = world.publish(0, "clip", 300_000, Audience::Fof);
        wait_for(&mut world, 2, &cap);
        let ups = |w: &World| [w.nodes[0].ups, w.nodes[1].ups, w.nodes[2].ups];
        let before = ups(&world);
        assert_eq!(world.fetch_now(2, &cap, Route::Fof, 3 * MINUTE), Outcome::Unreachable);
        assert_eq!(ups(&world), before, "no link is closed for it");
    });
}

#[test]
fn silent_and_failing_holders_are_left() {
    seeds::run("silent_and_failing_holders_are_left", 20, |seed| {
        let (mut world, cap, first, other) = two_sources(seed);
        world.nodes[first].mischief = Mischief::Silent;
        let start = world.now;
        assert_eq!(world.fetch_now(2, &cap, Route::Auto, MINUTE), Outcome::Complete);
        let took = world.now - start;
        assert!(took < 10 * SECOND, "the other brings it before the stall time: {took:?}");
        // A holder that cannot read is asked some more times, and then no longer.
        for node in [first, other] {
            world.nodes[node].mischief = Mischief::Lacking;
        }
        world.nodes[2].objects.remove(&cap.root);
        assert_eq!(world.fetch_now(2, &cap, Route::Auto, 5 * MINUTE), Outcome::Unreachable);
        assert!(world.nodes[2].fetches[&cap.root].sessions.len() < 20);
        // Sources that are all off line.
        world.crash(first);
        world.crash(other);
        assert_eq!(world.fetch_now(2, &cap, Route::Auto, MINUTE), Outcome::Unreachable);
    });
}

// (e) Both dial at once.

#[test]
fn two_calls_at_once_leave_one_link() {
    seeds::run("two_calls_at_once_leave_one_link", 20, |seed| {
        let mut world = World::with_nodes(seed, 2);
        world.quality.latency = millis(world.rng.range(1, 400));
        world.introduce(0, 1);
        for round in 1..=4 {
            assert!(world.run_until(3 * MINUTE, |w| w.linked(0, 1)));
            world.run(12 * SECOND);
            let wires = world.wires_between(0, 1);
            assert!(world.linked(0, 1) && wires.len() == 1, "{} links", wires.len());
            assert_eq!((world.nodes[0].ups, world.nodes[1].ups), (round, round), "nobody flickers");
            let lived = world.wires.len();
            world.run(MINUTE);
            assert_eq!(world.wires.len(), lived, "it lasts");
            world.cut(wires[0], true);
            world.run(SECOND);
        }
    });
}

// (f) Replays and strangers.

#[test]
fn replays_and_garbage_meet_silence() {
    seeds::run("replays_and_garbage_meet_silence", 20, |seed| {
        let run = |input: usize| {
            let mut world = World::with_nodes(seed, 3);
            world.befriend(1, 0);
            world.link(1, 2);
            world.run(5 * SECOND);
            let recorded: Vec<Vec<u8>> = world
                .wires
                .iter()
                .filter(|w| w.nodes[1] == Some(1) && w.flows[1].written > 0)
                .map(|w| w.flows[0].first.clone())
                .collect();
            assert!(recorded.len() >= 2, "an invite and a friend called");
            let garbage: Vec<u8> = world.rng.bytes::<2000>().to_vec();
            let inputs = [vec![], recorded[0].clone(), recorded[recorded.len() - 1].clone(), garbage];
            let mut ends = Vec::new();
            for restarted in [false, true] {
                if restarted {
                    world.crash(1);
                    world.start(1);
                }
                let (wire, start) = (world.stranger(1, 77), world.now);
                for piece in inputs[input].chunks(100) {
                    world.stranger_writes(wire, piece);
                    world.run(millis(50));
                }
                assert!(world.run_until(65 * SECOND, |w| w.wires[wire].ended_at.is_some()));
                assert!(world.wires[wire].received.is_empty(), "zero bytes");
                ends.push(world.wires[wire].ended_at.unwrap() - start);
                assert!((10 * SECOND..61 * SECOND).contains(&ends[ends.len() - 1]));
            }
            ends[0]
        };
        let silent = run(0);
        for input in 1..4 {
            assert_eq!(run(input), silent, "the time of closing does not depend on what came");
        }
    });
}

#[test]
fn strangers_occupy_little() {
    seeds::run("strangers_occupy_little", 3, |seed| {
        let mut world = World::with_nodes(seed, 2);
        world.link(0, 1);
        for i in 0..300 {
            let wire = world.stranger(0, i % 40);
            world.stranger_writes(wire, &[7; 50]);
        }
        let load = world.nodes[0].core().load();
        assert!(load.half_open <= 64 && world.linked(0, 1));
        world.run(2 * MINUTE);
        assert_eq!(world.nodes[0].core().load().half_open, 0);
    });
}

// (g) Invites.

#[test]
fn an_invite_makes_one_friend() {
    seeds::run("an_invite_makes_one_friend", 20, |seed| {
        let mut world = World::with_nodes(seed, 3);
        let (id, invite) = world.invite(0, 600 * SECOND);
        // Half of the seeds: one after the other. The rest: a race.
        world.take(1, id, &invite);
        if seed % 2 == 0 {
            assert!(world.run_until(MINUTE, |w| w.linked(0, 1)));
        }
        world.take(2, id, &invite);
        world.run(2 * MINUTE);
        let keys = [world.nodes[1].key(), world.nodes[2].key()];
        let friends: Vec<bool> = keys.iter().map(|k| world.nodes[0].core().is_friend(*k)).collect();
        assert_eq!(friends.iter().filter(|f| **f).count(), 1, "one friend");
        let winner = if friends[0] { 1 } else { 2 };
        assert!(seed % 2 == 1 || winner == 1);
        assert!(world.linked(0, winner));
        let loser = 3 - winner;
        assert!(!world.nodes[loser].core().is_friend(world.nodes[0].key()));
        assert!(world.nodes[loser].invites.iter().any(|i| i.1 == InviteOutcome::Refused));
        assert!(world.nodes[winner].invites.iter().any(|i| matches!(i.1, InviteOutcome::Friends(_))));
        assert_eq!(world.nodes[0].befriended.len(), 1);
    });
}

#[test]
fn an_interrupted_invite_is_used_again() {
    seeds::run("an_interrupted_invite_is_used_again", 60, |seed| {
        let mut world = World::with_nodes(seed, 2);
        for node in &mut world.nodes {
            node.disk.persist_ms = (0, 300);
        }
        let (id, invite) = world.invite(0, 3600 * SECOND);
        world.take(1, id, &invite);
        // Either side, or both in turn, loses its power at any moment.
        for victim in [seed as usize % 2, (seed as usize / 2) % 2] {
            let moment = millis(world.rng.range(0, 1_500));
            world.run(moment);
            world.crash(victim);
            let pause = millis(world.rng.range(0, 1_000));
            world.run(pause);
            world.start(victim);
        }
        assert!(world.run_until(3 * MINUTE, |w| w.linked(0, 1)), "friends in the end");
        world.run(MINUTE);
        assert!(world.linked(0, 1));
        for node in &mut world.nodes {
            node.journal.sync_all();
            assert!(node.journal.given.is_empty() && node.journal.taken.is_empty(), "used up");
            assert_eq!(node.journal.friends.len(), 1);
        }
    });
}

#[test]
fn an_expired_invite_meets_silence() {
    seeds::run("an_expired_invite_meets_silence", 5, |seed| {
        let mut world = World::with_nodes(seed, 2);
        let (id, invite) = world.invite(0, 10 * SECOND);
        world.run(12 * SECOND);
        world.take(1, id, &invite);
        world.run(2 * MINUTE);
        assert!(world.wires.iter().any(|w| w.flows[0].written > 0));
        assert!(world.wires.iter().all(|w| w.flows[1].written == 0), "zero bytes");
        assert_eq!(world.nodes[1].invites.first().map(|i| i.1), Some(InviteOutcome::Refused));
        // Nobody there at all: that is told apart.
        world.crash(0);
        world.run(10 * MINUTE);
        assert_eq!(world.nodes[1].invites.last().map(|i| i.1), Some(InviteOutcome::Unreachable));
    });
}

#[test]
fn an_invite_renews_a_friendship_that_one_side_ended() {
    seeds::run("an_invite_renews_a_friendship_that_one_side_ended", 10, |seed| {
        let mut world = World::with_nodes(seed, 2);
        world.befriend(0, 1);
        let cap = world.publish(1, "clip", 1_000, Audience::Friends);
        wait_for(&mut world, 0, &cap);
        world.part(0, 1);
        assert!(!shows(&world, 0, &cap));
        world.run(3 * SECOND);
        world.befriend(0, 1);
        wait_for(&mut world, 0, &cap);
        for id in [0, 1] {
            world.nodes[id].journal.sync_all();
            world.crash(id);
            world.start(id);
        }
        assert!(shows(&world, 0, &cap), "its new view is on disk");
        assert!(world.run_until(MINUTE, |w| w.linked(0, 1)), "so are the new secrets");
    });
}

// (h) Searching.

#[test]
fn searching_changes_no_byte() {
    seeds::run("searching_changes_no_byte", 5, |seed| {
        let run = |searches: u32| -> Vec<Write> {
            let mut world = line_of(seed, 3);
            world.writes = Some(Vec::new());
            let caps: Vec<ReadCap> = (0..4).map(|_| world.publish(0, "clip", 1_000, Audience::Fof)).collect();
            for _ in 0..120 {
                for _ in 0..searches {
                    for cap in &caps {
                        world.act(2, |core, _| core.listing(&cap.root));
                    }
                    world.act(2, |core, _| (core.listed().count(), core.entry_count()));
                }
                world.run(SECOND);
            }
            world.writes.take().unwrap()
        };
        let (quiet, searching) = (run(0), run(10));
        assert!(quiet.len() > 50);
        assert!(quiet == searching, "searching must not show on any link");
    });
}

// (i) Refusals.

#[test]
fn refusals_take_exactly_three_seconds() {
    seeds::run("refusals_take_exactly_three_seconds", 10, |seed| {
        let mut world = paced_line(seed, 3, 20 * SECOND, 20 * SECOND);
        let unknown = Object::random(&mut world.rng, 1_000).cap;
        let only = Audience::One(world.nodes[0].key());
        let not_allowed = world.publish(1, "one", 1_000, only);
        let friends_only = world.publish(0, "friends", 1_000, Audience::Friends);
        let off_line = world.publish(0, "fof", 1_000, Audience::Fof);
        wait_for(&mut world, 2, &off_line);
        wait_for(&mut world, 1, &friends_only);
        world.crash(0);
        world.run(90 * SECOND);
        assert!(world.nodes[1].core().listing(&off_line.root).is_some());
        let mut lengths = Vec::new();
        for (cap, route) in [
            (&unknown, Route::Fof),
            (&not_allowed, Route::Direct),
            (&friends_only, Route::Fof),
            (&off_line, Route::Fof),
        ] {
            world.run(SECOND / 2);
            world.writes = Some(Vec::new());
            let start = world.now;
            assert_eq!(world.fetch_now(2, cap, route, MINUTE), Outcome::Unreachable);
            let writes = world.writes.take().unwrap();
            let asked = writes.iter().find(|w| w.at == start && w.from == Some(2)).unwrap();
            let sending = Duration::from_nanos(asked.len as u64 * 1_000_000_000 / world.quality.bandwidth);
            let due = start + sending + world.quality.latency + 3 * SECOND;
            let answer = writes.iter().find(|w| w.from == Some(1) && w.to == Some(2) && w.at == due);
            lengths.push(answer.expect("the refusal leaves exactly then").len);
        }
        assert!(lengths.iter().all(|len| *len == lengths[0]));
    });
}

#[test]
fn many_requests_break_no_link() {
    seeds::run("many_requests_break_no_link", 5, |seed| {
        let mut world = line_of(seed, 2);
        let before = (world.nodes[0].ups, world.nodes[1].ups);
        let caps: Vec<ReadCap> = (0..100).map(|_| Object::random(&mut world.rng, 10).cap).collect();
        for cap in &caps {
            world.fetch(0, cap, Route::Auto);
            world.fetch(1, cap, Route::Auto);
        }
        let ended = |w: &World| caps.iter().all(|c| w.outcome(0, c).is_some() && w.outcome(1, c).is_some());
        assert!(world.run_until(2 * MINUTE, ended));
        assert_eq!((world.nodes[0].ups, world.nodes[1].ups), before, "the link stays");
        world.run(10 * SECOND);
        assert_eq!(world.nodes[0].core().load().tunnels + world.nodes[1].core().load().timers, 0);
    });
}

// (j) Credit.

#[test]
fn a_stalled_link_fills_one_window_only() {
    seeds::run("a_stalled_link_fills_one_window_only", 5, |seed| {
        let mut world = World::with_nodes(seed, 3);
        world.quality.buffer = 96 * 1024; // less than what a fetch asks for ahead
        world.link(0, 1);
        world.link(1, 2);
        let cap = world.publish(0, "clip", 4_000_000, Audience::Fof);
        wait_for(&mut world, 2, &cap);
        world.fetch(2, &cap, Route::Fof);
        let some = world.rng.range(4, 25) as usize;
        let here = |w: &World| w.nodes[2].partial.get(&cap.root).map_or(0, |blocks| blocks.len());
        assert!(world.run_until(MINUTE, |w| here(w) >= some));
        let wire = world.wires_between(1, 2)[0];
        let stalled = world.wires[wire].nodes.iter().position(|n| *n == Some(1)).unwrap();
        world.wires[wire].flows[stalled].free_at = world.now + 60 * MINUTE;
        world.run(9 * SECOND);
        let load = world.nodes[1].core().load();
        assert!(load.most_relayed > 8, "cells pile up: {load:?}");
        assert!(load.relayed <= WINDOW_MAX as usize, "but no more than a window of them");
        world.run(SECOND / 2);
        assert_eq!(world.nodes[1].core().load().relayed, load.relayed, "and then nothing moves");
        world.cut(wire, true);
        assert!(world.run_until(5 * MINUTE, |w| w.outcome(2, &cap).is_some()));
        assert_eq!(world.outcome(2, &cap), Some(Outcome::Complete));
        world.run(5 * SECOND);
        assert_eq!(world.nodes[1].core().load().relayed, 0);
    });
}

// (k) Removed friends.

#[test]
fn a_removed_friend_leaves_slowly() {
    seeds::run("a_removed_friend_leaves_slowly", 5, |seed| {
        let mut world = paced_line(seed, 3, MINUTE, 60 * MINUTE);
        world.run(5 * SECOND); // what is there at the first look would be spread
        let caps: Vec<ReadCap> = (0..60).map(|_| world.publish(0, "clip", 10, Audience::Fof)).collect();
        let left = |w: &World, node| caps.iter().filter(|cap| shows(w, node, cap)).count();
        assert!(world.run_until(5 * MINUTE, |w| left(w, 2) == 60));
        world.part(1, 0);
        assert_eq!(left(&world, 1), 0, "search forgets at once");
        world.run(2 * MINUTE);
        assert!(left(&world, 2) > 36, "others do not");
        if seed % 2 == 0 {
            world.nodes[1].journal.sync_all();
            world.crash(1);
            world.start(1);
            assert_eq!(left(&world, 1), 0);
        }
        world.run(68 * MINUTE);
        let half = left(&world, 2);
        assert!((6..54).contains(&half), "{half} of 60 are left after half of the time");
        world.run(76 * MINUTE);
        assert_eq!(left(&world, 2), 0, "in the end all are gone");
        world.nodes[1].journal.sync_all();
        assert!(!world.nodes[1].journal.views.contains_key(&world.nodes[0].key()), "and the log with them");
    });
}

// (l) Batches.

#[test]
fn relayed_entries_come_in_batches() {
    seeds::run("relayed_entries_come_in_batches", 10, |seed| {
        let batch = 30 * MINUTE;
        let mut world = paced_line(seed, 3, batch, 60 * MINUTE);
        let pause = Duration::from_secs(world.rng.range(0, 2 * batch.as_secs()));
        world.run(pause);
        let start = world.now;
        let cap = world.publish(0, "clip", 10, Audience::Fof);
        assert!(world.run_until(10 * SECOND, |w| shows(w, 1, &cap)), "a friend knows within seconds");
        assert!(world.now >= start + SECOND);
        // Batches of the node in the middle end at multiples of their length: it started at zero.
        let ends = batch * (world.now.as_millis() / batch.as_millis() + 1) as u32;
        assert!(world.run_until(3 * batch, |w| shows(w, 2, &cap)));
        assert!(world.now >= ends, "not before the batch ends");
        assert!(world.now <= ends + batch / 3 + 10 * SECOND, "and a third of a batch later at most");
    });
}

#[test]
fn what_a_new_friend_had_is_spread() {
    seeds::run("what_a_new_friend_had_is_spread", 5, |seed| {
        let spread = 100 * MINUTE;
        let mut world = World::new(seed);
        for name in ["Ana", "Bo", "Cid"] {
            world.add_node(name, Pace { batch: MINUTE, spread });
        }
        world.link(1, 2);
        let caps: Vec<ReadCap> = (0..20).map(|_| world.publish(0, "clip", 10, Audience::Fof)).collect();
        world.link(0, 1);
        let known = |w: &World, node| caps.iter().filter(|cap| shows(w, node, cap)).count();
        assert!(world.run_until(10 * SECOND, |w| known(w, 1) == 20), "the new friend knows at once");
        world.run(3 * MINUTE);
        assert!(known(&world, 2) < 6);
        world.run(47 * MINUTE);
        assert!((3..18).contains(&known(&world, 2)));
        world.run(53 * MINUTE);
        assert_eq!(known(&world, 2), 20);
    });
}
