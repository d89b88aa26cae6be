//! Swarms of viewers, with the shipped decisions, and fetches over long paths. The full tables:
//! `cargo run --release -p kith-tests --example tables -- --table swarm`.

use kith_crypto::content::{Position, ReadCap};
use kith_onion::catalogue::{Audience, Pace};
use kith_onion::cell::Command;
use kith_onion::fetch::{Place, Rules};
use kith_onion::{CircuitSettings, Privacy, Rates, Route};
use kith_tests::sim::{Mischief, Outcome, Quality, World, seeds};
use kith_tests::swarm::{Leaves, Scenario, play};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

/// Twenty viewers of five minutes.
fn twenty(seed: u64) -> Scenario {
    Scenario { viewers: 20, arrive_s: 75.0, length_s: 300.0, ..Scenario::eighty((1.5, 6.0), seed) }
}

#[test]
fn viewers_see_all_of_it_without_waiting() {
    seeds::run("viewers_see_all_of_it_without_waiting", 3, |seed| {
        let outcome = play(Scenario { bitrate: 500_000, ..twenty(seed) });
        assert!(outcome.finished == 1.0 && outcome.alive == 1.0, "{outcome:?}");
        assert!(outcome.stalled < 0.02 && outcome.start_s.0 < 10.0, "{outcome:?}");
        assert!(outcome.useful > 0.97, "{outcome:?}");
    });
}

#[test]
fn the_publisher_may_leave_early_and_without_the_rules_may_not() {
    seeds::run("the_publisher_may_leave_early_and_without_the_rules_may_not", 2, |seed| {
        let leaves = Some(Leaves::Sent(2.0));
        let shipped = play(Scenario { leaves, ..twenty(seed) });
        assert_eq!((shipped.finished, shipped.alive), (1.0, 1.0), "{shipped:?}");
        let rules = Rules { rarest: false, parts_first: false, ..Rules::default() };
        let without = play(Scenario { leaves, rules, least_sent: false, ..twenty(seed) });
        assert!(without.alive < 1.0 && without.finished < 1.0, "the rules are not needed: {without:?}");
    });
}

/// Windows grow to what the path holds.
#[test]
fn a_fetch_fills_a_long_path() {
    for (ms, rate, share) in [(20, 2_500_000, 0.9), (75, 1_000_000, 0.8)] {
        let mut world = World::with_nodes(1, 2);
        let latency = Duration::from_millis(ms);
        world.quality = Quality { latency, bandwidth: rate, buffer: rate as usize / 10 };
        world.link(0, 1);
        let cap = world.publish(0, "clip", 20_000_000, Audience::Fof);
        assert!(world.run_until(MINUTE, |w| w.distance(1, &cap).is_some()));
        let begun = world.now;
        assert_eq!(world.fetch_now(1, &cap, Route::Direct, 2 * MINUTE), Outcome::Complete);
        let got = 20e6 / (world.now - begun).as_secs_f64() / rate as f64;
        assert!(got > share, "{got:.2} of {rate} bytes a second over {ms} ms");
    }
}

/// Three friends have it, each behind a slow link of its own: together they are three times as fast, one
/// that lies costs a block, and one that falls silent costs seconds.
#[test]
fn three_sources_are_three_times_as_fast_as_one() {
    seeds::run("three_sources_are_three_times_as_fast_as_one", 3, |seed| {
        let fetch = |holders: usize, mischief: Mischief| {
            let mut world = World::with_nodes(seed, 4);
            world.quality =
                Quality { latency: Duration::from_millis(20), bandwidth: 400_000, buffer: 64 * 1024 };
            (1..4).for_each(|holder| world.link(0, holder));
            let cap = world.publish(1, "clip", 6_000_000, Audience::Friends);
            (2..=holders).for_each(|holder| world.publish_copy(holder, cap.root, Audience::Friends));
            let known = |w: &World| w.nodes[0].core().listing(&cap.root).map(|l| l.sources.len());
            assert!(world.run_until(MINUTE, |w| known(w) == Some(holders)));
            world.nodes[2].mischief = mischief;
            let begun = world.now;
            assert_eq!(world.fetch_now(0, &cap, Route::Direct, 2 * MINUTE), Outcome::Complete);
            (world.now - begun).as_secs_f64()
        };
        let one = fetch(1, Mischief::None);
        let three = fetch(3, Mischief::None);
        assert!(one / three > 2.5, "{one:.1} s from one, {three:.1} s from three");
        for mischief in [Mischief::Corrupt, Mischief::Silent, Mischief::Lacking] {
            let two = fetch(3, mischief);
            assert!(two < one / 2.0 + 5.0, "{mischief:?}: {two:.1} s where one alone takes {one:.1} s");
        }
    });
}

/// Viewers of the same film, friends of its publisher and of each other: who comes later gets much of it from
/// who came before, and the publisher is spared.
#[test]
fn viewers_give_each_other_what_they_have() {
    seeds::run("viewers_give_each_other_what_they_have", 1, |seed| {
        let mut world = World::with_nodes(seed, 5);
        for (a, b) in [(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (1, 3), (2, 4)] {
            world.link(a, b);
        }
        let cap = world.publish(0, "film", 24_000_000, Audience::Fof);
        let known = |w: &World| (1..5).all(|n| w.distance(n, &cap).is_some());
        assert!(world.run_until(MINUTE, known));
        let up = |rate| Rates { up: Some(rate), ..Rates::default() };
        world.act(0, |core, now| core.set_rates(now, up(1_600_000)));
        for id in 1..5 {
            world.act(id, |core, now| core.set_rates(now, up(600_000)));
            world.fetch(id, &cap, Route::Auto);
            let fetch = world.nodes[id].fetches[&cap.root].id;
            world.act(id, |core, now| {
                core.set_whole(now, fetch, false);
                core.set_reader(now, fetch, 1, Some(Place::new(0, 400_000)));
            });
            world.run(6 * Duration::from_secs(1));
        }
        for second in 0..90 {
            for id in 1..5 {
                let fetch = world.nodes[id].fetches[&cap.root].id;
                let block = (second + (4 - id as u64) * 6) * 400_000 / 65_536;
                world.act(id, |core, now| {
                    core.set_reader(now, fetch, 1, Some(Place::new(block.min(366), 400_000)));
                });
            }
            world.run(Duration::from_secs(1));
        }
        let sent = |from: usize, to: usize| world.nodes[from].core().traffic(world.nodes[to].key()).sent;
        let published: u64 = (1..5).map(|to| sent(0, to)).sum();
        let given: u64 =
            (1..5).flat_map(|from| (1..5).map(move |to| (from, to))).map(|(f, t)| sent(f, t)).sum();
        assert!((1..5).all(|id| world.outcome(id, &cap) == Some(Outcome::Complete)));
        // Four copies came, and more than a third of that not from the publisher.
        assert!(given > published / 2 && published < 3 * 24_000_000, "{published} and {given} bytes");
    });
}

/// What came of a film that friends of a publisher, of the three before and of the three after each watched.
#[derive(Debug)]
struct Watched {
    /// Viewers who have all of it.
    finished: usize,
    /// Seconds that they stood still, on average.
    waited_s: f64,
    /// Copies that the publisher sent, by the cells that a copy takes.
    copies: f64,
}

const RATE: u64 = 125_000;

/// The first block from there on that a node has not.
fn reached(world: &World, id: usize, cap: &ReadCap, from: u64, blocks: u64) -> u64 {
    let node = &world.nodes[id];
    let parts = node.partial.get(&cap.root);
    let has = |index: &u64| {
        let is_part = parts.is_some_and(|parts| parts.contains_key(&Position::Data(*index)));
        node.objects.contains_key(&cap.root) || is_part
    };
    (from..blocks).find(|index| !has(index)).unwrap_or(blocks)
}

/// Viewers at a megabit a second who come within a minute and begin with five seconds in hand. `up`: what the
/// publisher and each viewer may send, in rates of the film. `leaves`: the publisher is gone after so many copies.
fn watched(seed: u64, viewers: usize, length_s: u64, up: (f64, f64), leaves: f64) -> Watched {
    let mut world = World::new(seed);
    for _ in 0..=viewers {
        // Asking all friends for news every second would take a part of what may leave.
        let id = world.add_node("Viewer", Pace::default());
        world.set_circuits(id, Privacy::Fast, CircuitSettings { relay: false, ..World::quick_circuits() });
    }
    for viewer in 1..=viewers {
        world.introduce(0, viewer);
        (1..=3).filter(|before| viewer > *before).for_each(|before| world.introduce(viewer - before, viewer));
    }
    let cap = world.publish(0, "film", (RATE * length_s) as usize, Audience::Fof);
    let known = |w: &World| (1..=viewers).all(|id| w.distance(id, &cap).is_some());
    assert!(world.run_until(2 * MINUTE, known));
    for id in 0..=viewers {
        let rate = RATE as f64 * if id == 0 { up.0 } else { up.1 };
        world.act(id, |core, now| {
            core.set_rates(now, Rates { up: Some(rate as u64), ..Rates::default() });
        });
    }
    let blocks = (RATE * length_s).div_ceil(65_536);
    let copy = (blocks * 17 * 4_096) as f64;
    let begun = world.now;
    let second = |w: &World| (w.now - begun).as_secs_f64();
    let block_s = 65_536.0 / RATE as f64;
    let keys: Vec<_> = (1..=viewers).map(|id| world.nodes[id].key()).collect();
    let mut copies = 0.0;
    // The next block, when the picture began, and how long it stood since.
    let mut places = vec![(0_u64, None::<f64>, 0.0_f64); viewers + 1];
    while second(&world) < 3.0 * length_s as f64 + 60.0 && places.iter().skip(1).any(|p| p.0 < blocks) {
        world.run(Duration::from_millis(200));
        if let Some(core) = &world.nodes[0].core {
            let sent: u64 = keys.iter().map(|key| core.traffic(*key).sent).sum();
            copies = sent as f64 / copy;
            if copies >= leaves {
                world.crash(0);
            }
        }
        let at = second(&world);
        for (id, (next, started, waited)) in places.iter_mut().enumerate().skip(1) {
            if at < 60.0 / viewers as f64 * (id - 1) as f64 || *next >= blocks {
                continue;
            }
            if !world.nodes[id].fetches.contains_key(&cap.root) {
                world.fetch(id, &cap, Route::Auto);
                let fetch = world.nodes[id].fetches[&cap.root].id;
                world.act(id, |core, now| core.set_whole(now, fetch, false));
            }
            let fetch = world.nodes[id].fetches[&cap.root].id;
            *next = reached(&world, id, &cap, *next, blocks);
            let here = *next as f64 * block_s;
            if here >= 5.0 {
                started.get_or_insert(at);
            }
            let ahead = started.map_or(0.0, |start| here - (at - start - *waited));
            *waited += (-ahead).max(0.0);
            let in_hand = Duration::from_secs_f64(ahead.clamp(0.0, 8.0));
            let place = Place { in_hand, ..Place::new((*next).min(blocks - 1), RATE) };
            world.act(id, |core, now| core.set_reader(now, fetch, 1, Some(place)));
        }
    }
    Watched {
        finished: places.iter().skip(1).filter(|place| place.0 >= blocks).count(),
        waited_s: places.iter().map(|place| place.2).sum::<f64>() / viewers as f64,
        copies,
    }
}

#[test]
fn the_publisher_sends_little_more_than_a_copy() {
    seeds::run("the_publisher_sends_little_more_than_a_copy", 1, |seed| {
        let watched = watched(seed, 10, 400, (4.0, 2.0), f64::MAX);
        assert!(watched.finished == 10 && watched.waited_s < 4.0, "{watched:?}");
        assert!(watched.copies < 1.5, "{watched:?}");
    });
}

#[test]
fn all_see_the_end_when_the_publisher_leaves_after_one_and_a_fifth_copies() {
    seeds::run("all_see_the_end_when_the_publisher_leaves_after_one_and_a_fifth_copies", 1, |seed| {
        let watched = watched(seed, 10, 600, (4.0, 2.0), 1.2);
        assert!(watched.finished == 10 && watched.waited_s < 6.0, "{watched:?}");
    });
}

/// Readers who all wait for the same block, and ask the publisher for little else, have nothing for each
/// other. They asked for two blocks at a time, and stood for ever.
#[test]
fn viewers_of_a_slow_publisher_do_not_end_in_step() {
    seeds::run("viewers_of_a_slow_publisher_do_not_end_in_step", 1, |seed| {
        let watched = watched(seed, 14, 120, (1.6, 1.2), f64::MAX);
        assert!(watched.finished == 14 && watched.copies < 4.0, "{watched:?}");
    });
}

/// A reader pauses for an hour, with enough ahead, while the holder's link comes and goes.
#[test]
fn a_paused_reader_does_not_lose_its_fetch() {
    let mut world = World::with_nodes(1, 2);
    world.link(0, 1);
    let cap = world.publish(0, "film", 24_000_000, Audience::Friends);
    assert!(world.run_until(MINUTE, |w| w.distance(1, &cap).is_some()));
    world.fetch(1, &cap, Route::Auto);
    let fetch = world.nodes[1].fetches[&cap.root].id;
    let read = |world: &mut World, block| {
        world.act(1, |core, now| {
            core.set_whole(now, fetch, false);
            core.set_reader(now, fetch, 1, Some(Place::new(block, 20_000)));
        });
    };
    read(&mut world, 0);
    for _ in 0..6 {
        world.run(10 * MINUTE);
        let wires = world.wires_between(0, 1);
        wires.into_iter().for_each(|wire| world.cut(wire, true));
    }
    assert_eq!(world.outcome(1, &cap), None, "it waits");
    world.run(MINUTE);
    let have = |w: &World| w.nodes[1].core().fetch_progress(fetch).map_or(0, |(have, _)| have);
    let before = have(&world);
    assert!((5..300).contains(&before), "{before}");
    read(&mut world, before);
    world.run(MINUTE);
    assert!(have(&world) > before + 20, "{before} {}", have(&world));
}

/// Three friends of each other behind slow links: 0 publishes.
fn three(seed: u64, modes: [Privacy; 3]) -> (World, ReadCap) {
    let mut world = World::with_nodes(seed, 3);
    world.quality = Quality { latency: Duration::from_millis(20), bandwidth: 200_000, buffer: 64 * 1024 };
    let circuits = CircuitSettings { relay: false, ..World::quick_circuits() };
    (0..3).for_each(|id| world.set_circuits(id, modes[id], circuits));
    [(0, 1), (0, 2), (1, 2)].into_iter().for_each(|(a, b)| world.link(a, b));
    let cap = world.publish(0, "film", 8_000_000, Audience::Fof);
    assert!(world.run_until(MINUTE, |w| (1..3).all(|id| w.distance(id, &cap).is_some())));
    (1..3).for_each(|id| world.listen(id, false));
    (world, cap)
}

/// Who watches shows it to friends in `fast` alone: by what is asked of them and by what is given to them.
#[test]
fn parts_are_sought_and_given_in_fast_alone() {
    use Privacy::{Fast, Normal, Strict};
    for (holder, asker) in [(Fast, Fast), (Normal, Fast), (Strict, Fast), (Fast, Normal)] {
        let (mut world, cap) = three(1, [Fast, holder, asker]);
        world.fetch(1, &cap, Route::Direct);
        world.run(Duration::from_secs(8));
        world.fetch(2, &cap, Route::Direct);
        world.run(Duration::from_secs(8));
        assert_eq!((world.outcome(1, &cap), world.outcome(2, &cap)), (None, None), "both have parts");
        let asked = world.count_heard(1, 2, Command::TunOpen);
        assert_eq!(asked > 0, asker == Fast, "{holder:?} {asker:?}: asked {asked} times");
        let given = world.count_heard(2, 1, Command::Data);
        let gives = holder == Fast && asker == Fast;
        assert!(if gives { given > 100 } else { given == 0 }, "{holder:?} {asker:?}: {given} cells");
        if gives {
            // Who leaves `fast` gives no more.
            world.set_circuits(1, Normal, CircuitSettings { relay: false, ..World::quick_circuits() });
            world.run(Duration::from_secs(3)); // what is on its way arrives
            let before = world.count_heard(2, 1, Command::Data);
            world.run(Duration::from_secs(5));
            // What it still asks for takes a cell now and then.
            let more = world.count_heard(2, 1, Command::Data) - before;
            assert!(more < given / 8, "{more} cells");
        }
    }
}

/// A friend who has all of it gives it over the one link that there is, and does not ask the publisher for
/// the same besides; one who has parts does.
#[test]
fn a_common_friend_passes_on_what_it_cannot_give() {
    for all in [true, false] {
        for route in [Route::Auto, Route::Fof] {
            let mut world = World::with_nodes(2, 3);
            world.quality = Quality { bandwidth: 400_000, ..Quality::default() };
            let circuits = CircuitSettings { relay: false, ..World::quick_circuits() };
            (0..3).for_each(|id| world.set_circuits(id, Privacy::Fast, circuits));
            [(0, 1), (1, 2)].into_iter().for_each(|(a, b)| world.link(a, b));
            let cap = world.publish(0, "film", 8_000_000, Audience::Fof);
            assert!(world.run_until(MINUTE, |w| w.distance(2, &cap).is_some()));
            world.fetch(1, &cap, Route::Direct);
            world.run(if all { MINUTE } else { Duration::from_secs(5) });
            assert_eq!(world.outcome(1, &cap).is_some(), all);
            world.listen(0, false);
            assert_eq!(world.fetch_now(2, &cap, route, MINUTE), Outcome::Complete);
            let passed = world.count_heard(0, 1, Command::TunOpen);
            assert_eq!(passed > 0, !all, "{route:?}: passed on {passed} times");
        }
    }
}

/// One friend watches a film and gets another from the same holder, over a link that carries both only one after the
/// other: what is watched goes first, and the other still comes. `up`: the holder's limit, else the link is.
fn watched_beside_a_download(up: Option<u64>) -> (f64, u64) {
    const PACE: u64 = 200_000;
    let mut world = World::with_nodes(5, 2);
    let bandwidth = if up.is_some() { 10_000_000 } else { 300_000 };
    world.quality = Quality { bandwidth, buffer: 64 * 1024, ..Quality::default() };
    world.link(0, 1);
    let [film, other] =
        [("film", 12_000_000), ("other", 40_000_000)].map(|(t, n)| world.publish(0, t, n, Audience::Friends));
    assert!(world.run_until(MINUTE, |w| [&film, &other].iter().all(|cap| w.distance(1, cap).is_some())));
    world.act(0, |core, now| core.set_rates(now, Rates { up, ..Rates::default() }));
    world.fetch(1, &other, Route::Direct);
    world.run(Duration::from_secs(5));
    world.fetch(1, &film, Route::Direct);
    let fetch = world.nodes[1].fetches[&film.root].id;
    world.act(1, |core, now| core.set_whole(now, fetch, false));
    let had =
        |w: &World, cap: &ReadCap| w.nodes[1].partial.get(&cap.root).map_or(0, |parts| parts.len() as u64);
    let before = had(&world, &other);
    let (begun, mut next, mut waited) = (world.now, 0_u64, 0.0_f64);
    let blocks = 12_000_000_u64.div_ceil(65_536);
    while world.outcome(1, &film).is_none() {
        world.run(Duration::from_millis(200));
        let at = (world.now - begun).as_secs_f64();
        assert!(at < 300.0, "{next} of {blocks}");
        next = reached(&world, 1, &film, next, blocks);
        let ahead = (next * 65_536) as f64 / PACE as f64 - (at - 5.0 - waited);
        waited += (-ahead).max(0.0);
        let in_hand = Duration::from_secs_f64(ahead.clamp(0.0, 8.0));
        let place = Place { in_hand, ..Place::new(next.min(blocks - 1), PACE) };
        world.act(1, |core, now| core.set_reader(now, fetch, 1, Some(place)));
    }
    (waited, had(&world, &other) - before)
}

#[test]
fn what_a_friend_watches_goes_before_what_it_only_gets() {
    for up in [None, Some(300_000)] {
        let (waited, more) = watched_beside_a_download(up);
        assert!(waited < 1.0 && more > 10, "{up:?}: waited {waited:.1} s, {more} blocks of the other");
    }
}

/// Three viewers whose lines trickle hold nobody else up.
#[test]
fn slow_viewers_do_not_keep_a_quick_one_waiting() {
    let time = |slow: bool| {
        let mut world = World::with_nodes(3, 5);
        let quality = |bandwidth| Quality { bandwidth, ..Quality::default() };
        world.quality = quality(20_000);
        (1..4).for_each(|id| world.link(0, id));
        world.quality = quality(1_000_000);
        world.link(0, 4);
        let cap = world.publish(0, "film", 6_000_000, Audience::Friends);
        assert!(world.run_until(MINUTE, |w| (1..5).all(|id| w.distance(id, &cap).is_some())));
        (1..4).filter(|_| slow).for_each(|id| world.fetch(id, &cap, Route::Direct));
        world.run(Duration::from_secs(10));
        let begun = world.now;
        assert_eq!(world.fetch_now(4, &cap, Route::Direct, 2 * MINUTE), Outcome::Complete);
        (world.now - begun).as_secs_f64()
    };
    let (alone, beside) = (time(false), time(true));
    assert!(beside < alone * 1.5, "{beside:.1} s beside slow ones, {alone:.1} s alone");
}
