//! The catalogue among friends over a day: nothing grows, nobody is pushed out, no link breaks.

use kith_crypto::codec::Writer;
use kith_crypto::content::Root;
use kith_crypto::rng::Rng;
use kith_crypto::secret::Key;
use kith_onion::catalogue::{Audience, Pace, ViewCount};
use kith_onion::entry::Entry;
use kith_tests::sim::{World, seeds};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// A ring of friends in which everybody publishes for friends of friends.
fn ring(seed: u64, count: usize) -> World {
    let mut world = World::new(seed);
    for name in ["Ana", "Bo", "Cid", "Dora", "Eli"].into_iter().take(count) {
        world.add_node(name, Pace { batch: 10 * MINUTE, spread: HOUR });
    }
    (0..count).for_each(|id| world.link(id, (id + 1) % count));
    world
}

/// Entries, entries of each friend, and bytes kept of each node.
fn held(world: &World) -> Vec<(usize, Vec<ViewCount>, usize)> {
    let all = world.nodes.iter();
    all.map(|node| {
        let counts: Vec<ViewCount> = world
            .nodes
            .iter()
            .map(|friend| ViewCount { dated: 0, invalid: 0, ..node.core().view_count(friend.key()) })
            .collect();
        let bytes = counts.iter().map(|c| c.bytes).sum();
        (node.core().entry_count(), counts, bytes)
    })
    .collect()
}

/// Records in all view logs.
fn view_lines(world: &mut World) -> usize {
    world.nodes.iter_mut().for_each(|node| node.journal.sync_all());
    world.nodes.iter().flat_map(|node| node.journal.views.values()).map(Vec::len).sum()
}

// Row 67: loops and duplicates. What goes round in a ring must come to rest: each entry travels two
// links, and who hears of it from both sides keeps it once.
#[test]
fn a_ring_does_not_grow_over_a_day() {
    seeds::run("a_ring_does_not_grow_over_a_day", 1, |seed| {
        let mut world = ring(seed, 5);
        for node in 0..5 {
            world.publish(node, &format!("film {node}"), 70_000, Audience::Fof);
        }
        world.run(4 * HOUR);
        let before = held(&world);
        for (entries, counts, _) in &before {
            assert_eq!(*entries, 5, "all five are within two links, each once");
            let told: Vec<usize> = counts.iter().map(|c| c.entries).filter(|n| *n > 0).collect();
            assert_eq!(told, [2, 2], "each of two friends tells its own and its other friend's");
        }
        let lines = view_lines(&mut world);
        world.run(24 * HOUR);
        assert_eq!(held(&world), before, "a day later nothing is different");
        assert_eq!(view_lines(&mut world), lines, "and nothing was written");
        assert!((0..5).all(|id| world.linked(id, (id + 1) % 5)), "the links stand");
    });
}

// Row 65: more than a share, among real nodes. The friend who tells too much keeps its link.
#[test]
fn an_overflowing_friend_is_cut_and_stays_linked() {
    seeds::run("an_overflowing_friend_is_cut_and_stays_linked", 1, |seed| {
        let mut world = ring(seed, 3);
        let honest = world.publish(2, "Otters", 70_000, Audience::Friends);
        assert!(world.run_until(HOUR, |w| w.distance(1, &honest).is_some()));
        let mut rng = Rng::from_seed([9; 32]);
        let day = (world.time(0).unix_s() / 86_400) as u32;
        world.act(0, |core, now| {
            for n in 0..17_000 {
                let mut entry = Entry { published_day: day - n % 500, ..Entry::sample() };
                entry.cap.root = Root(rng.bytes());
                entry.cap.key = Key::new(rng.bytes());
                core.publish(now, entry, Audience::Friends, true);
            }
        });
        let key = world.nodes[0].key();
        let full = |w: &World| w.nodes[1].core().view_count(key).entries == 16_000;
        assert!(world.run_until(HOUR, full), "{:?}", world.nodes[1].core().view_count(key));
        world.run(2 * MINUTE);
        let count = world.nodes[1].core().view_count(key);
        assert_eq!((count.entries, count.over_share), (16_000, 1000));
        assert!(world.linked(0, 1) && world.linked(1, 2));
        assert!(world.distance(1, &honest).is_some(), "another friend's older entry stays");
        // It goes as a set, at once, and while it is ignored it does not come back.
        world.act(1, |core, now| core.set_ignored(now, key, true));
        assert_eq!(world.nodes[1].core().view_count(key).entries, 0);
        world.run(25 * MINUTE);
        assert_eq!(world.nodes[1].core().view_count(key).entries, 0);
        assert!(world.distance(1, &honest).is_some() && world.linked(0, 1));
    });
}

// A record that an earlier release wrote and one that nobody wrote: replay goes on.
#[test]
fn records_that_cannot_be_are_left_out_on_replay() {
    let mut world = ring(1, 3);
    let key = world.nodes[1].key();
    let mut future = Writer::new();
    let day = (world.time(0).unix_s() / 86_400) as u32;
    let entry = Entry { published_day: day + 9, expires_day: day + 20, hops_left: 0, ..Entry::sample() };
    future.u8(1).u8(0).u64(0).raw(&[1; 8]).raw(&entry.encode());
    world.act(0, |core, now| {
        assert!(core.restore_view(now, key, future.as_bytes()));
        assert!(!core.restore_view(now, key, &[1, 0, 1]));
        assert!(core.restore_view(now, key, &[77, 0, 1]), "a kind of a later release");
        assert_eq!((core.entry_count(), core.view_count(key).dated), (0, 1));
    });
}
