//! Swarms of viewers, with the shipped decisions, and fetches over long paths. The full tables:
//! `cargo run --release -p kith-tests --example tables -- --table swarm`.

use kith_crypto::content::ReadCap;
use kith_onion::catalogue::Audience;
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
