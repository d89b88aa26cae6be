//! Copies that are kept for others, with whole nodes: they outlive their publisher, for those who may have them and
//! for nobody else.

use kith_crypto::content::{Position, ReadCap, Root};
use kith_onion::catalogue::Audience;
use kith_onion::control::{MirrorOffer, MirrorState};
use kith_onion::{CircuitSettings, FriendKey, Kept, MirrorEvent, Privacy, Route};
use kith_tests::sim::{NodeId, Outcome, World, seeds};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const FOR_ALL: Kept = Kept::Mirror { travels: true };
const FOR_FRIENDS: Kept = Kept::Mirror { travels: false };

fn quick() -> CircuitSettings {
    CircuitSettings {
        pace: Duration::from_millis(200),
        snapshot: Duration::from_secs(2),
        ..CircuitSettings::default()
    }
}

fn set_mode(world: &mut World, node: NodeId, privacy: Privacy) {
    world.set_circuits(node, privacy, quick());
}

fn knows(world: &World, node: NodeId, cap: &ReadCap) -> bool {
    world.distance(node, cap).is_some()
}

fn keep(world: &mut World, node: NodeId, root: Root, kept: Kept) {
    world.act(node, |core, now| core.set_kept(now, root, kept));
}

/// The publisher (0) and its mirror (1) both know the common friend (2), whose friend is the reader (3).
fn line(seed: u64, mode: Privacy) -> (World, ReadCap) {
    let mut world = World::of_friends(seed, 4, &[(0, 1), (0, 2), (1, 2), (2, 3)], Privacy::Fast, quick());
    let cap = world.publish(0, "Otters", 200_000, Audience::Fof);
    assert!(world.run_until(MINUTE, |w| [1, 2, 3].iter().all(|n| knows(w, *n, &cap))));
    world.run(10 * SECOND);
    (0..4).for_each(|node| set_mode(&mut world, node, mode));
    world.give_copy(1, cap.root);
    (world, cap)
}

#[test]
fn a_mirror_gives_what_its_publisher_cannot() {
    seeds::run("a_mirror_gives_what_its_publisher_cannot", 4, |seed| {
        for kept in [Kept::Own, FOR_ALL, FOR_FRIENDS] {
            // In `strict` only what its owner agreed to is given.
            let (mut world, cap) = line(seed, Privacy::Strict);
            keep(&mut world, 1, cap.root, kept);
            world.crash(0);
            world.run(5 * SECOND);
            let outcome = world.fetch_now(3, &cap, Route::Fof, 2 * MINUTE);
            assert_eq!(outcome == Outcome::Complete, kept != Kept::Own, "{kept:?}: {outcome:?}");
        }
    });
}

#[test]
fn circuits_find_a_mirror() {
    seeds::run("circuits_find_a_mirror", 2, |seed| {
        for (kept, found) in [(Kept::Own, false), (FOR_ALL, true)] {
            let mut world = World::ring(seed, 8, quick());
            let cap = world.publish(0, "far", 100_000, Audience::Fof);
            assert!(world.run_until(MINUTE, |w| knows(w, 2, &cap)));
            world.wait_for_circuits(2, 3);
            world.give_copy(1, cap.root);
            (0..8).for_each(|node| set_mode(&mut world, node, Privacy::Strict));
            keep(&mut world, 1, cap.root, kept);
            world.crash(0);
            world.run(20 * SECOND);
            let outcome = world.fetch_now(2, &cap, Route::Onion, 5 * MINUTE);
            assert_eq!(outcome == Outcome::Complete, found, "{kept:?}: {outcome:?}");
        }
    });
}

/// In `normal` a friend's video comes from that friend, and by a circuit when that friend is away.
#[test]
fn a_friend_who_is_away_is_replaced_by_a_circuit() {
    seeds::run("a_friend_who_is_away_is_replaced_by_a_circuit", 2, |seed| {
        let mut world = World::ring(seed, 8, quick());
        let cap = world.publish(0, "near", 100_000, Audience::Fof);
        let private = world.publish(0, "private", 100_000, Audience::Friends);
        // 0 has the neighbours 1 and 7 and the chords of the ring.
        assert!(world.run_until(MINUTE, |w| knows(w, 7, &cap) && knows(w, 7, &private)));
        for copy in [&cap, &private] {
            world.give_copy(1, copy.root);
            keep(&mut world, 1, copy.root, FOR_ALL);
        }
        set_mode(&mut world, 7, Privacy::Normal);
        world.wait_for_circuits(7, 3);
        let direct = world.fetch_now(7, &cap, Route::Auto, MINUTE);
        let links = world.nodes[7].fetches[&cap.root].sessions.clone();
        assert_eq!((direct, links.first().copied()), (Outcome::Complete, Some(1)), "{links:?}");
        world.nodes[7].objects.remove(&cap.root);
        world.act(7, |core, _| core.release(&cap.root));
        world.crash(0);
        world.run(20 * SECOND);
        assert_eq!(world.fetch_now(7, &cap, Route::Auto, 5 * MINUTE), Outcome::Complete);
        assert_eq!(world.nodes[7].fetches[&cap.root].sessions.first(), Some(&4), "through a circuit");
        // What stays with friends goes through no circuit.
        assert_eq!(world.fetch_now(7, &private, Route::Auto, 5 * MINUTE), Outcome::Unreachable);
    });
}

/// A mirror that knows nothing of the video but its verify capability.
#[test]
fn a_mirror_need_not_be_in_the_audience() {
    seeds::run("a_mirror_need_not_be_in_the_audience", 4, |seed| {
        // The publisher, the mirror, the reader, and somebody else.
        let friends = [(0, 1), (0, 2), (1, 2), (1, 3)];
        let mut world = World::of_friends(seed, 4, &friends, Privacy::Fast, quick());
        let reader = world.nodes[2].key();
        let cap = world.publish(0, "for one", 200_000, Audience::One(reader));
        assert!(world.run_until(MINUTE, |w| knows(w, 2, &cap)));
        let mirror = world.nodes[1].key();
        let publisher = world.nodes[0].key();

        // Without an offer the publisher gives it to nobody else.
        assert_eq!(world.fetch_now(1, &cap, Route::Friend(publisher), MINUTE), Outcome::Unreachable);
        let offer =
            MirrorOffer { cap: cap.verify_cap(), size_class: 18, expires_day: 30_000, travels: false };
        assert!(world.act(0, |core, now| core.offer_mirror(now, mirror, offer.clone())));
        let came = |w: &World| w.nodes[1].mirrors.contains(&(publisher, MirrorEvent::Offered(offer.clone())));
        assert!(world.run_until(MINUTE, came));
        keep(&mut world, 1, cap.root, FOR_FRIENDS);
        assert_eq!(world.fetch_now(1, &cap, Route::Friend(publisher), MINUTE), Outcome::Complete);
        world.act(1, |core, now| core.answer_mirror(now, publisher, cap.root, MirrorState::Whole, 7));
        let answered = MirrorEvent::Answered { root: cap.root, state: MirrorState::Whole, room: 7 };
        assert!(world.run_until(MINUTE, |w| w.nodes[0].mirrors.contains(&(mirror, answered.clone()))));

        world.crash(0);
        set_mode(&mut world, 1, Privacy::Strict);
        world.run(5 * SECOND);
        assert_eq!(world.fetch_now(2, &cap, Route::Direct, MINUTE), Outcome::Complete);
        // Who does not have the key gets nothing, and hears nothing else than of what is not there.
        let wrong = ReadCap { root: cap.root, key: kith_crypto::secret::Key::new([9; 32]) };
        assert_eq!(world.fetch_now(3, &wrong, Route::Direct, MINUTE), Outcome::Unreachable);

        // The publisher comes back and wants it gone; a session that stands ends.
        world.nodes[2].partial.clear();
        world.nodes[2].objects.remove(&cap.root);
        world.act(2, |core, _| core.release(&cap.root));
        world.start(0);
        assert!(world.run_until(MINUTE, |w| w.linked(0, 1)));
        world.act(0, |core, now| core.end_mirror(now, mirror, cap.root));
        let ended = (publisher, MirrorEvent::Ended(cap.root));
        assert!(world.run_until(MINUTE, |w| w.nodes[1].mirrors.contains(&ended)));
        world.act(1, |core, _| core.release(&cap.root));
        world.crash(0);
        world.run(5 * SECOND);
        assert_eq!(world.fetch_now(2, &cap, Route::Direct, MINUTE), Outcome::Unreachable);
    });
}

/// A friend who offers what this node published for others opens nothing.
#[test]
fn what_was_published_here_is_given_as_its_owner_said() {
    seeds::run("what_was_published_here_is_given_as_its_owner_said", 4, |seed| {
        let mut world = World::of_friends(seed, 3, &[(0, 1), (0, 2)], Privacy::Fast, quick());
        let other = world.nodes[1].key();
        let cap = world.publish(0, "for one", 50_000, Audience::One(other));
        assert!(world.run_until(MINUTE, |w| knows(w, 1, &cap)));
        keep(&mut world, 0, cap.root, FOR_ALL);
        world.run(SECOND);
        let publisher: FriendKey = world.nodes[0].key();
        assert_eq!(world.fetch_now(2, &cap, Route::Friend(publisher), MINUTE), Outcome::Unreachable);
        assert_eq!(world.fetch_now(1, &cap, Route::Direct, MINUTE), Outcome::Complete);
    });
}

/// Who keeps something hears that it was withdrawn, also from further away; that a friend is gone, or that somebody is off
/// line, says nothing of that.
#[test]
fn what_all_take_back_was_withdrawn() {
    seeds::run("what_all_take_back_was_withdrawn", 3, |seed| {
        let mut world = World::of_friends(seed, 3, &[(0, 1), (1, 2)], Privacy::Fast, quick());
        let [one, other] = ["one", "other"].map(|title| world.publish(0, title, 50_000, Audience::Fof));
        assert!(
            world.run_until(MINUTE, |w| [1, 2].iter().all(|n| knows(w, *n, &one) && knows(w, *n, &other)))
        );
        world.crash(0);
        world.run(MINUTE);
        world.start(0);
        world.run(MINUTE);
        assert!([1, 2].iter().all(|n| world.nodes[*n].withdrawn.is_empty()));
        world.withdraw(0, one.root);
        assert!(world.run_until(MINUTE, |w| [1, 2].iter().all(|n| w.nodes[*n].withdrawn == [one.root])));
        let publisher = world.nodes[0].key();
        world.act(1, |core, now| core.remove_friend(now, publisher));
        assert!(world.run_until(MINUTE, |w| !knows(w, 1, &other)));
        assert_eq!(world.nodes[1].withdrawn, [one.root]);
    });
}

/// What was watched from further away is given late, and only among as many covers (decision 23).
#[test]
fn what_was_watched_shows_only_among_covers() {
    seeds::run("what_was_watched_shows_only_among_covers", 3, |seed| {
        // The reader (3) watched what its friend's friend (0) published, and has a friend who asks (4).
        let friends = [(0, 2), (2, 3), (2, 4), (3, 4)];
        let mut world = World::of_friends(seed, 5, &friends, Privacy::Fast, quick());
        let cap = world.publish(0, "watched", 50_000, Audience::Fof);
        let cover = world.publish(0, "cover", 50_000, Audience::Fof);
        assert!(
            world.run_until(MINUTE, |w| [3, 4].iter().all(|n| knows(w, *n, &cap) && knows(w, *n, &cover)))
        );
        [&cap, &cover].into_iter().for_each(|cap| world.give_copy(3, cap.root));
        set_mode(&mut world, 3, Privacy::Normal);
        world.crash(0);
        let keeper = world.nodes[3].key();
        let given = |w: &mut World, cap: &ReadCap| {
            w.nodes[4].partial.clear();
            let outcome = w.fetch_now(4, cap, Route::Friend(keeper), MINUTE);
            w.nodes[4].objects.remove(&cap.root);
            w.act(4, |core, _| core.release(&cap.root));
            outcome == Outcome::Complete
        };
        let now = world.time(3).unix_ms;
        let later = now + 20 * 60_000;
        keep(&mut world, 3, cap.root, Kept::Watched(now));
        assert!(!given(&mut world, &cap), "there is no cover");
        keep(&mut world, 3, cover.root, Kept::Cover(later));
        assert!(!given(&mut world, &cap), "the cover is not given yet");
        assert!(!given(&mut world, &cover));
        world.run(21 * MINUTE);
        assert!(given(&mut world, &cover) && given(&mut world, &cap));
        // The cover gave way to something.
        world.act(3, |core, _| core.release(&cover.root));
        assert!(!given(&mut world, &cap));
    });
}

/// Who has a video can be found out without fetching anything of it.
#[test]
fn a_look_counts_copies_and_takes_nothing() {
    seeds::run("a_look_counts_copies_and_takes_nothing", 3, |seed| {
        let friends = [(0, 1), (0, 2), (0, 3)];
        let mut world = World::of_friends(seed, 4, &friends, Privacy::Fast, quick());
        let cap = world.publish(0, "mine", 3_000_000, Audience::Fof);
        assert!(world.run_until(MINUTE, |w| [1, 2, 3].iter().all(|n| knows(w, *n, &cap))));
        [1, 2].into_iter().for_each(|node| {
            world.give_copy(node, cap.root);
            keep(&mut world, node, cap.root, FOR_FRIENDS);
        });
        let root = world.nodes[0].objects[&cap.root].blocks[&Position::Root].to_vec();
        // The publisher finds the two copies; a friend who has nothing of it finds the publisher, by its root alone (what
        // else comes meanwhile is news of the catalogue).
        for (node, other, root, copies, most) in [(0, 1, Some(root), 2, 20_000), (3, 0, None, 1, 200_000)] {
            let received = |w: &World| w.nodes[node].core().traffic(w.nodes[other].key()).received;
            let before = received(&world);
            let look =
                world.act(node, |core, now| core.look(now, cap.verify_cap(), Route::Direct, root).unwrap());
            world.run(5 * SECOND);
            assert_eq!(world.nodes[node].core().fetch_copies(look), (copies, 0), "{node}");
            world.act(node, |core, now| core.end_look(now, look));
            world.run(SECOND);
            let took = received(&world) - before;
            assert!(took < most, "{node} received {took}");
            assert_eq!(world.nodes[node].core().load().tunnels, 0);
            assert!(!world.nodes[node].objects.contains_key(&cap.root) || node == 0);
        }
    });
}

#[test]
fn what_three_friends_ask_for_is_counted_and_nothing_else() {
    seeds::run("what_three_friends_ask_for_is_counted_and_nothing_else", 4, |seed| {
        // The publisher (4) is a friend of the one who counts (0), and of nobody else.
        let mut world =
            World::of_friends(seed, 6, &[(0, 1), (0, 2), (0, 3), (0, 4), (0, 5)], Privacy::Fast, quick());
        let cap = world.publish(4, "Otters", 100_000, Audience::Fof);
        assert!(world.run_until(MINUTE, |w| [0, 1, 2, 3, 5].iter().all(|n| knows(w, *n, &cap))));
        set_mode(&mut world, 0, Privacy::Normal);
        let asked = |world: &mut World| world.act(0, |core, now| core.asked_for(now));
        let ask = |world: &mut World, node: NodeId| {
            assert_eq!(world.fetch_now(node, &cap, Route::Fof, MINUTE), Outcome::Complete);
        };
        ask(&mut world, 1);
        world.act(0, |core, _| core.count_asks(true));
        ask(&mut world, 2);
        ask(&mut world, 3);
        assert!(asked(&mut world).is_empty(), "two, and one before anybody counted");
        ask(&mut world, 5);
        let found = asked(&mut world);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].0, found[0].1.len()), (cap.root, 3));
        // Forgotten at once where it is not wanted any more.
        world.act(0, |core, _| core.count_asks(false));
        assert!(asked(&mut world).is_empty());
    });
}
