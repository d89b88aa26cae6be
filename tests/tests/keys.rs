//! Scenarios of keys: the post-quantum ratchet, recovery after a restored backup, rotation of link
//! keys. Each runs with some seeds; `KITH_SIM_SEEDS=n` runs more.

use kith_onion::catalogue::Pace;
use kith_onion::ratchet::{OutOfStep, Ratchet};
use kith_tests::sim::{Disk, NodeId, World, seeds};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY_MS: i64 = 24 * 3600 * 1000;

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Two nodes with the product's pace: days pass in these scenarios.
fn slow_pair(seed: u64) -> World {
    let mut world = World::new(seed);
    for name in ["Ana", "Bo"] {
        world.add_node(name, Pace { batch: 30 * MINUTE, spread: 72 * HOUR });
    }
    world
}

fn ratchet(world: &World, me: NodeId, other: NodeId) -> Ratchet {
    let mut journal = world.nodes[me].journal.friends.clone();
    journal.remove(&world.nodes[other].key()).expect("a friend").ratchet
}

fn generation(world: &mut World, me: NodeId, other: NodeId) -> u32 {
    world.nodes[me].journal.sync_all();
    ratchet(world, me, other).generation
}

fn nobody_lost_step(world: &World) {
    for node in &world.nodes {
        assert!(node.out_of_step.is_empty(), "{} lost step: {:?}", node.name, node.out_of_step);
    }
}

#[test]
fn the_first_link_is_hybrid_and_the_ratchet_turns_daily() {
    seeds::run("the_first_link_is_hybrid_and_the_ratchet_turns_daily", 3, |seed| {
        let mut world = slow_pair(seed);
        if seed % 2 == 0 {
            world.befriend(0, 1);
        } else {
            world.link(0, 1);
        }
        assert_eq!((generation(&mut world, 0, 1), generation(&mut world, 1, 0)), (1, 1));
        let before = world.nodes[0].ups;
        for day in 2..5 {
            world.run(24 * HOUR);
            assert!(world.linked(0, 1));
            assert_eq!((generation(&mut world, 0, 1), generation(&mut world, 1, 0)), (day, day));
            assert_eq!(ratchet(&world, 0, 1).psk, ratchet(&world, 1, 0).psk);
            assert!(ratchet(&world, 0, 1).next.is_none());
        }
        assert_eq!(world.nodes[0].ups, before, "the old link went on until the new one stood");
        assert_eq!(world.wires_between(0, 1).len(), 1);
        nobody_lost_step(&world);
    });
}

/// Whatever is lost on the way, and whoever loses power in the middle, the sides stay in step.
#[test]
fn no_fault_makes_the_sides_lose_step() {
    seeds::run("no_fault_makes_the_sides_lose_step", 60, |seed| {
        let mut world = World::with_nodes(seed, 2);
        for node in &mut world.nodes {
            node.disk = Disk { persist_ms: (0, 300), ..Disk::default() };
        }
        world.introduce(0, 1);
        for round in 0..12 {
            // A day passes, so that the next link brings an exchange.
            world.nodes.iter_mut().for_each(|n| n.clock_ms += DAY_MS);
            let until = millis(world.rng.range(0, if round % 3 == 0 { 14_000 } else { 2_000 }));
            world.run(until);
            match world.rng.range(0, 2) {
                0 => {
                    let victim = world.rng.range(0, 1) as usize;
                    world.crash(victim);
                    let pause = millis(world.rng.range(0, 3_000));
                    world.run(pause);
                    world.start(victim);
                }
                _ => {
                    let wires = world.nodes[0].wires();
                    if let Some(wire) = wires.first() {
                        let told = world.rng.range(0, 1) == 0;
                        world.cut(*wire, told);
                    }
                }
            }
        }
        assert!(world.run_until(10 * MINUTE, |w| w.linked(0, 1)), "a link in the end");
        world.run(MINUTE);
        assert!(world.linked(0, 1));
        nobody_lost_step(&world);
        let both = (generation(&mut world, 0, 1), generation(&mut world, 1, 0));
        assert!(both.0.abs_diff(both.1) <= 1 && both.0 > 0, "{both:?}");
    });
}

/// Positive control of the one above: a side that forgets what it stored does lose step.
#[test]
fn a_restored_backup_loses_step_and_comes_back_when_both_owners_say_so() {
    seeds::run("a_restored_backup_loses_step", 4, |seed| {
        let mut world = slow_pair(seed);
        world.link(0, 1);
        let (lost, other) = if seed % 2 == 0 { (0, 1) } else { (1, 0) };
        world.nodes[lost].journal.sync_all();
        let backup = world.nodes[lost].journal.friends.clone();
        world.run(Duration::from_secs(2 * 86_400));
        let before = generation(&mut world, other, lost);
        assert!(before >= 2);

        world.crash(lost);
        world.nodes[lost].journal.friends = backup;
        world.start(lost);
        world.run(10 * MINUTE);
        assert!(!world.linked(0, 1), "never by itself: a thief with a backup looks the same");
        let (lost_key, other_key) = (world.nodes[lost].key(), world.nodes[other].key());
        assert!(world.nodes[other].out_of_step.contains(&(lost_key, OutOfStep::TheyAreBehind)));
        assert!(world.nodes[lost].out_of_step.contains(&(other_key, OutOfStep::WeAreBehind)));

        // One owner alone is not enough.
        world.act(lost, |core, now| core.allow_restored(now, other_key));
        world.run(10 * MINUTE);
        assert!(!world.linked(0, 1));
        world.act(other, |core, now| core.allow_restored(now, lost_key));
        assert!(world.run_until(10 * MINUTE, |w| w.linked(0, 1)), "both owners agree");
        world.run(MINUTE);
        assert!(world.linked(0, 1));
        let after = (generation(&mut world, 0, 1), generation(&mut world, 1, 0));
        assert!(after.0 == after.1 && after.0 > before, "{after:?} after {before}");
        // Permission was for this once: restored again, the owner is asked again.
        world.nodes[other].out_of_step.clear();
        world.crash(lost);
        let friends = &mut world.nodes[lost].journal.friends;
        friends.values_mut().for_each(|f| f.ratchet = Ratchet::initial(&f.root));
        world.start(lost);
        world.run(10 * MINUTE);
        assert!(!world.linked(0, 1) && !world.nodes[other].out_of_step.is_empty());
    });
}

/// What `kith restore` makes of a backup that is a month old: friendships without the keys of their last
/// links, counters of the past, and its owner's word for every friend.
#[test]
fn a_backup_of_thirty_days_comes_back_when_the_friend_agrees() {
    seeds::run("a_backup_of_thirty_days", 4, |seed| {
        let mut world = slow_pair(seed);
        world.link(0, 1);
        let (lost, other) = if seed % 2 == 0 { (0, 1) } else { (1, 0) };
        let (lost_key, other_key) = (world.nodes[lost].key(), world.nodes[other].key());
        world.nodes[lost].journal.sync_all();
        let mut backup = world.nodes[lost].journal.friends.clone();
        backup.values_mut().for_each(|f| f.ratchet = Ratchet::initial(&f.root));
        // They meet for an hour a day, and the ratchet turns on most of them.
        for _ in 0..30 {
            world.crash(other);
            world.run(23 * HOUR);
            world.start(other);
            world.run(HOUR);
        }
        let before = generation(&mut world, other, lost);
        assert!(before >= 10, "{before} generations in 30 days");

        world.crash(lost);
        world.nodes[lost].journal.friends = backup;
        let now_ms = world.time(lost).unix_ms;
        if seed >= 2 {
            // The lost node called a moment ago. The new machine's clock is behind all that it ever
            // said, and nobody can call it.
            world.nodes[other].journal.sync_all();
            world.crash(other);
            let friend = world.nodes[other].journal.friends.get_mut(&lost_key).unwrap();
            friend.counter_in = now_ms;
            friend.addrs.clear();
            world.start(other);
            world.nodes[lost].clock_ms -= 40 * DAY_MS;
        }
        let used = world.nodes[other].journal.friends[&lost_key].counter_in;
        world.start(lost);
        world.act(lost, |core, now| core.allow_restored(now, other_key));
        world.run(10 * MINUTE);
        assert!(!world.linked(0, 1), "the control: the friend's owner was not asked");
        if seed < 2 {
            assert!(world.nodes[other].out_of_step.contains(&(lost_key, OutOfStep::TheyAreBehind)));
        }
        world.act(other, |core, now| core.allow_restored(now, lost_key));
        assert!(world.run_until(30 * MINUTE, |w| w.linked(0, 1)), "the friend agrees");
        world.run(MINUTE);
        let after = (generation(&mut world, 0, 1), generation(&mut world, 1, 0));
        assert!(world.linked(0, 1) && after.0 == after.1 && after.0 > before, "{after:?} after {before}");
        assert!(world.nodes[lost].journal.friends[&other_key].counter_out >= used, "counters go on");
        // And it holds: the next links need nobody's word.
        for node in [lost, other] {
            world.nodes[node].journal.sync_all();
            world.crash(node);
            world.start(node);
        }
        assert!(world.run_until(10 * MINUTE, |w| w.linked(0, 1)));
    });
}

#[test]
fn a_recovery_survives_faults() {
    seeds::run("a_recovery_survives_faults", 30, |seed| {
        let mut world = World::with_nodes(seed, 2);
        for node in &mut world.nodes {
            node.disk = Disk { persist_ms: (0, 200), ..Disk::default() };
        }
        world.link(0, 1);
        let lost = seed as usize % 2;
        let other = 1 - lost;
        world.crash(lost);
        let friends = &mut world.nodes[lost].journal.friends;
        friends.values_mut().for_each(|f| {
            (f.ratchet, f.counter_in, f.counter_out) = (Ratchet::initial(&f.root), 0, 0);
        });
        world.start(lost);
        let keys = [world.nodes[0].key(), world.nodes[1].key()];
        for _ in 0..6 {
            for (me, friend) in [(lost, other), (other, lost)] {
                world.act(me, |core, now| core.allow_restored(now, keys[friend]));
            }
            let until = millis(world.rng.range(0, 3_000));
            world.run(until);
            if let Some(wire) = world.nodes[0].wires().first() {
                world.cut(*wire, true);
            }
        }
        // A node that stops forgets the permission; its owner says it again.
        for (me, friend) in [(lost, other), (other, lost)] {
            world.act(me, |core, now| core.allow_restored(now, keys[friend]));
        }
        assert!(world.run_until(10 * MINUTE, |w| w.linked(0, 1)));
        world.run(MINUTE);
        assert!(world.linked(0, 1));
    });
}

#[test]
fn rotated_keys_reach_every_friend() {
    seeds::run("rotated_keys_reach_every_friend", 20, |seed| {
        let mut world = World::with_nodes(seed, 3);
        world.link(0, 1);
        world.link(0, 2);
        // One friend is away when it happens, and it happens twice.
        world.crash(2);
        world.run(5 * SECOND);
        let words = world.nodes[0].core().me().fingerprint_words();
        for _ in 0..2 {
            world.run(2 * SECOND);
            world.rotate(0);
        }
        assert!(world.run_until(10 * MINUTE, |w| w.nodes[0].core().friends_with_old_keys() == 1));
        assert_eq!(world.nodes[0].core().me().fingerprint_words(), words);
        world.start(2);
        assert!(world.run_until(10 * MINUTE, |w| w.nodes[0].core().friends_with_old_keys() == 0));
        // From now on the new keys carry the links, after restarts too.
        for node in 0..3 {
            world.nodes[node].journal.sync_all();
            world.crash(node);
        }
        (0..3).for_each(|node| world.start(node));
        assert!(world.run_until(MINUTE, |w| w.linked(0, 1) && w.linked(0, 2)));
        let key = world.nodes[0].key();
        for friend in [1, 2] {
            let known = world.nodes[friend].journal.friends[&key].keys;
            assert_eq!(&known, world.nodes[0].core().me());
            assert!(world.nodes[friend].rotated.contains(&key));
        }
        nobody_lost_step(&world);
    });
}

#[test]
fn both_rotate_at_once_and_lose_power() {
    seeds::run("both_rotate_at_once_and_lose_power", 60, |seed| {
        let mut world = World::with_nodes(seed, 2);
        for node in &mut world.nodes {
            node.disk = Disk { persist_ms: (0, 300), ..Disk::default() };
        }
        world.link(0, 1);
        for _ in 0..4 {
            let until = millis(world.rng.range(0, 1_500));
            world.run(until);
            for node in 0..2 {
                if world.rng.range(0, 1) == 0 && world.nodes[node].older.len() < 3 {
                    world.rotate(node);
                }
            }
            let until = millis(world.rng.range(0, 500));
            world.run(until);
            let victim = world.rng.range(0, 1) as usize;
            world.crash(victim);
            let pause = millis(world.rng.range(0, 1_000));
            world.run(pause);
            world.start(victim);
        }
        let settled =
            |w: &World| w.linked(0, 1) && w.nodes.iter().all(|n| n.core().friends_with_old_keys() == 0);
        let done = world.run_until(20 * MINUTE, settled);
        assert!(done, "both know the other's newest keys");
        for (me, other) in [(0, 1), (1, 0)] {
            world.nodes[me].journal.sync_all();
            let known = world.nodes[me].journal.friends[&world.nodes[other].key()].keys;
            assert_eq!(&known, world.nodes[other].core().me());
        }
        nobody_lost_step(&world);
    });
}

/// A machine that slept for eight hours: its links are dialled again within half a minute, spread out.
#[test]
fn after_a_sleep_links_come_back_within_half_a_minute() {
    seeds::run("after_a_sleep_links_come_back", 10, |seed| {
        let mut world = World::with_nodes(seed, 4);
        (1..4).for_each(|friend| world.link(0, friend));
        world.crash(0);
        world.run(8 * HOUR);
        // The friends have given up; their next tries are minutes apart. The node wakes with the
        // same memory in the product; here it starts again and only then says that it slept.
        world.start(0);
        world.run(SECOND);
        world.act(0, |core, now| core.resumed(now));
        assert!(world.run_until(30 * SECOND, |w| (1..4).all(|f| w.linked(0, f))));
    });
}

#[test]
fn a_link_that_died_during_a_sleep_is_noticed_within_seconds() {
    seeds::run("a_link_that_died_during_a_sleep", 10, |seed| {
        let mut world = World::with_nodes(seed, 2);
        world.link(0, 1);
        let wire = world.wires_between(0, 1)[0];
        world.cut(wire, false);
        world.run(SECOND);
        let key = world.nodes[1].key();
        assert!(world.nodes[0].core().is_online(key), "nobody was told");
        world.act(0, |core, now| core.resumed(now));
        assert!(world.run_until(11 * SECOND, |w| !w.nodes[0].core().is_online(key)), "the probe failed");
        assert!(world.run_until(30 * SECOND, |w| w.linked(0, 1)), "and a new link stands");
        // A link that is alive answers the probe and stays.
        let ups = world.nodes[0].ups;
        world.act(0, |core, now| core.resumed(now));
        world.run(MINUTE);
        assert!(world.linked(0, 1) && world.nodes[0].ups == ups);
    });
}

/// A backup from before a rotation, restored when the friend has long known the new keys: the recovery
/// is that of the root which both can find. It once was that of the oldest, and never worked.
#[test]
fn a_backup_from_before_a_friend_took_new_keys_comes_back() {
    seeds::run("a_backup_from_before_a_friend_took_new_keys_comes_back", 3, |seed| {
        let mut world = slow_pair(seed);
        world.link(0, 1);
        let (lost, other) = if seed % 2 == 0 { (0, 1) } else { (1, 0) };
        world.crash(other);
        world.run(5 * SECOND);
        world.rotate(lost);
        world.nodes[lost].journal.sync_all();
        let backup = world.nodes[lost].journal.friends.clone();
        world.start(other);
        assert!(world.run_until(10 * MINUTE, |w| w.nodes[lost].core().friends_with_old_keys() == 0));
        world.run(30 * HOUR);
        assert!(generation(&mut world, other, lost) >= 2);

        world.crash(lost);
        world.nodes[lost].journal.friends = backup;
        world.start(lost);
        world.run(10 * MINUTE);
        assert!(!world.linked(0, 1), "the control: not by itself");
        let keys = [world.nodes[0].key(), world.nodes[1].key()];
        for (me, friend) in [(lost, other), (other, lost)] {
            world.act(me, |core, now| core.allow_restored(now, keys[friend]));
        }
        assert!(world.run_until(30 * MINUTE, |w| w.linked(0, 1)), "both owners agree");
    });
}
