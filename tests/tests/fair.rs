//! What a friend who misuses a node takes away from others: nothing that can be measured. Each
//! scenario runs a second time with the defence off, and must then fail.

use kith_crypto::content::{ReadCap, Root};
use kith_crypto::secret::Key;
use kith_onion::budget::Budgets;
use kith_onion::catalogue::{Audience, Pace};
use kith_onion::entry::Entry;
use kith_onion::schedule::Weights;
use kith_onion::{CircuitSettings, Privacy, Rates, Route};
use kith_tests::sim::{Flood, NodeId, Outcome, Quality, World, seeds};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const MIB: usize = 1024 * 1024;
const NAMES: [&str; 20] = [
    "Ana", "Bo", "Cid", "Dora", "Eli", "Fay", "Gus", "Hal", "Ivy", "Jon", "Kim", "Leo", "Mia", "Ned", "Oda",
    "Pia", "Quy", "Ron", "Sue", "Tom",
];

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// So many nodes with these budgets; their catalogues hardly wait.
fn nodes(seed: u64, count: usize, budgets: Budgets) -> World {
    let mut world = World::new(seed);
    for name in NAMES.into_iter().take(count) {
        let id = world.add_node(name, Pace { batch: 2 * SECOND, spread: 3 * SECOND });
        world.nodes[id].budgets = budgets;
        world.act(id, |core, _| core.set_budgets(budgets));
    }
    world
}

fn knows(world: &World, node: NodeId, caps: &[ReadCap]) -> bool {
    caps.iter().all(|cap| world.distance(node, cap).is_some())
}

/// How long it takes to fetch small objects, one after the other; `busy` runs every five
/// milliseconds meanwhile. The 95th percentile.
fn latency(
    world: &mut World,
    node: NodeId,
    caps: &[ReadCap],
    route: Route,
    mut busy: impl FnMut(&mut World),
) -> Duration {
    let mut took = Vec::new();
    for cap in caps {
        let start = world.now;
        world.fetch(node, cap, route);
        while world.outcome(node, cap).is_none() && world.now < start + 20 * SECOND {
            busy(world);
            world.run_until(millis(5), |w| w.outcome(node, cap).is_some());
        }
        if world.outcome(node, cap) != Some(Outcome::Complete) {
            return Duration::MAX;
        }
        took.push(world.now - start);
    }
    took.sort();
    took[(took.len() * 95).div_ceil(100) - 1]
}

fn within_a_tenth(quiet: Duration, loud: Duration) -> bool {
    loud.as_secs_f64() <= quiet.as_secs_f64() * 1.1
}

fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|x| x * x).sum();
    sum * sum / (shares.len() as f64 * squares)
}

// Work.

/// Three friends flood a node that a fourth fetches from.
fn flooded(seed: u64, flood: Option<Flood>, budgets: Budgets) -> Duration {
    let mut world = nodes(seed, 5, budgets);
    world.quality = Quality { latency: millis(40), bandwidth: 20_000_000, buffer: 512 * 1024 };
    (1..5).for_each(|id| world.link(0, id));
    let caps: Vec<ReadCap> = (0..30).map(|_| world.publish(0, "clip", 1_000, Audience::Friends)).collect();
    assert!(world.run_until(MINUTE, |w| knows(w, 4, &caps)));
    world.nodes[0].cpu = Some(20_000_000);
    let busy = |w: &mut World| {
        if let Some(flood) = flood {
            // A cell holds hundreds of hints.
            let count = if flood == Flood::Hints { 8_000 } else { 20 };
            (1..4).for_each(|id| w.flood(id, 0, flood, count));
        }
    };
    // What honest friends may save up is used up first.
    for _ in 0..400 {
        busy(&mut world);
        world.run(millis(5));
    }
    let p95 = latency(&mut world, 4, &caps, Route::Direct, busy);
    let load = world.nodes[0].core().load();
    assert!(load.tunnels <= 3 * 64 && load.control <= 3 * 2 * MIB && load.urgent <= 4096, "{load:?}");
    // More than 64 requests at once are the one thing that ends a link.
    assert!(flood == Some(Flood::Opens) || (1..5).all(|id| world.linked(0, id)), "no link ends");
    p95
}

#[test]
fn a_flood_slows_only_who_makes_it() {
    seeds::run("a_flood_slows_only_who_makes_it", 1, |seed| {
        let off = Budgets { work: (1e12, 1e12), ..Budgets::default() };
        let quiet = flooded(seed, None, Budgets::default());
        for flood in Flood::ALL {
            let loud = flooded(seed, Some(flood), Budgets::default());
            assert!(within_a_tenth(quiet, loud), "{flood:?}: {quiet:?} became {loud:?}");
        }
        // Without the account, what a friend can send without end is felt by the others.
        for flood in [Flood::Pads, Flood::Destroys, Flood::Credits] {
            let loud = flooded(seed, Some(flood), off);
            assert!(!within_a_tenth(quiet, loud), "{flood:?} was not felt: {quiet:?}, {loud:?}");
        }
    });
}

// Tunnels.

/// Bo stands between Ana, who has everything, and Cid and Dora. Returns small and large objects.
fn common_friend(
    seed: u64,
    budgets: Budgets,
    small: usize,
    large: usize,
) -> (World, Vec<ReadCap>, Vec<ReadCap>) {
    let mut world = nodes(seed, 4, budgets);
    // What is under way, and little more: the system's buffers are kept small too.
    world.quality = Quality { latency: millis(120), bandwidth: 3_000_000, buffer: 390 * 1024 };
    [(0, 1), (1, 2), (1, 3)].into_iter().for_each(|(a, b)| world.link(a, b));
    let small: Vec<_> = (0..small).map(|_| world.publish(0, "small", 1_000, Audience::Fof)).collect();
    let large: Vec<_> = (0..large).map(|_| world.publish(0, "large", 1_500_000, Audience::Fof)).collect();
    assert!(world.run_until(MINUTE, |w| [2, 3].iter().all(|n| knows(w, *n, &small) && knows(w, *n, &large))));
    (world, small, large)
}

/// Dora fetches small things while Cid has many tunnels to the same friend of the same friend.
fn beside_a_greedy_friend(seed: u64, tunnels: usize, budgets: Budgets) -> Duration {
    let (mut world, small, large) = common_friend(seed, budgets, 7, tunnels);
    large.iter().for_each(|cap| world.fetch(2, cap, Route::Fof));
    world.run(5 * SECOND);
    latency(&mut world, 3, &small, Route::Fof, |_| ())
}

#[test]
fn a_quiet_tunnel_goes_first() {
    seeds::run("a_quiet_tunnel_goes_first", 1, |seed| {
        let quiet = beside_a_greedy_friend(seed, 0, Budgets::default());
        let loud = beside_a_greedy_friend(seed, 30, Budgets::default());
        let weights = Weights { quiet_cells: 0, ..Weights::default() };
        let in_turn = Budgets { weights, ..Budgets::default() };
        let undefended = beside_a_greedy_friend(seed, 30, in_turn);
        assert!(within_a_tenth(quiet, loud), "{quiet:?} became {loud:?}");
        assert!(!within_a_tenth(quiet, undefended), "taking turns was as good: {undefended:?}");
    });
}

/// Cid takes all tunnels to Ana that Bo may have; then Dora wants one.
fn when_all_tunnels_are_taken(seed: u64, share_tunnels: bool) -> Duration {
    let (mut world, small, large) =
        common_friend(seed, Budgets { share_tunnels, ..Budgets::default() }, 1, 64);
    // Somebody who takes and does not read.
    for cap in &large {
        let cap = cap.verify_cap();
        world.act(2, |core, now| core.start_fetch(now, cap, Route::Fof, None));
        world.run(millis(60));
    }
    // Those that waited for a place among requests for more holders have it by then.
    let all = |w: &World| w.nodes[1].core().load().tunnels == 128;
    assert!(world.run_until(10 * SECOND, all), "all are taken");
    world.stop_reading(2, 1, MINUTE);
    world.run(2 * SECOND);
    assert_eq!(world.nodes[1].core().load().tunnels, 128, "all are taken");
    latency(&mut world, 3, &small, Route::Fof, |_| ())
}

#[test]
fn nobody_takes_all_tunnels_to_a_friend() {
    seeds::run("nobody_takes_all_tunnels_to_a_friend", 2, |seed| {
        assert!(when_all_tunnels_are_taken(seed, true) < 4 * SECOND, "there is room for somebody else");
        assert!(when_all_tunnels_are_taken(seed, false) > 5 * SECOND, "without giving up there is none");
    });
}

// Memory.

/// Cid asks for much through Bo and does not read; Dora fetches meanwhile. Returns the most cells
/// that waited at Bo, and how long Dora's fetches took.
fn unread(seed: u64, budgets: Budgets) -> (usize, Duration) {
    let (mut world, small, large) = common_friend(seed, budgets, 4, 40);
    for cap in &large {
        let cap = cap.verify_cap();
        world.act(2, |core, now| core.start_fetch(now, cap, Route::Fof, None));
        world.run(millis(60));
    }
    world.stop_reading(2, 1, 5 * MINUTE);
    world.run(SECOND);
    let mut most = 0;
    let took = latency(&mut world, 3, &small, Route::Fof, |w| {
        most = most.max(w.nodes[1].core().load().relayed);
    });
    (most, took)
}

#[test]
fn cells_that_nobody_reads_are_bounded() {
    seeds::run("cells_that_nobody_reads_are_bounded", 2, |seed| {
        let cap = 300;
        let small = Budgets { relayed_cells: cap, ..Budgets::default() };
        let (most, took) = unread(seed, small);
        assert!(most <= cap, "{most} cells");
        assert!(took < 4 * SECOND, "others go on: {took:?}");
        let (most, _) = unread(seed, Budgets { relayed_cells: usize::MAX / 4, ..Budgets::default() });
        assert!(most > 2 * cap, "without the cap {most} cells wait");
    });
}

/// A friend asks for much, directly, and reads nothing: bytes read ahead for it.
fn read_ahead(seed: u64, budgets: Budgets) -> usize {
    let mut world = nodes(seed, 2, budgets);
    world.link(0, 1);
    // One object is served to all in turn: it takes many.
    let caps: Vec<_> = (0..72).map(|_| world.publish(0, "clip", 1_500_000, Audience::Friends)).collect();
    assert!(world.run_until(MINUTE, |w| knows(w, 1, &caps)));
    for cap in &caps {
        let verify = cap.verify_cap();
        world.act(1, |core, now| core.start_fetch(now, verify, Route::Direct, None));
        world.run(millis(60));
    }
    world.stop_reading(1, 0, MINUTE);
    let mut most = 0;
    for _ in 0..40 {
        world.run(millis(100));
        most = most.max(world.nodes[0].core().load().serving);
    }
    most
}

#[test]
fn what_is_read_ahead_is_bounded() {
    seeds::run("what_is_read_ahead_is_bounded", 2, |seed| {
        let most = read_ahead(seed, Budgets::default());
        // 4 MiB, shared by its sessions.
        assert!((MIB..=5 * MIB).contains(&most), "{most} bytes for one friend");
        let small = Budgets { serving: (4 * MIB, MIB), ..Budgets::default() };
        let most = read_ahead(seed, small);
        assert!((MIB / 2..=MIB + 100_000).contains(&most), "{most} bytes in all");
        let off = Budgets { serving: (usize::MAX / 4, usize::MAX / 4), ..Budgets::default() };
        let most = read_ahead(seed, off);
        assert!(most > 6 * MIB, "without the account {most} bytes");
    });
}

/// A friend pulls the catalogue again and again and reads nothing: control bytes that wait.
fn pages(seed: u64, budgets: Budgets) -> (usize, bool) {
    let mut world = nodes(seed, 2, budgets);
    for i in 0..800 {
        let cap = ReadCap { root: Root(world.rng.bytes()), key: Key::new(world.rng.bytes()) };
        let entry = Entry { cap, title: format!("{i}"), text: "x".repeat(300), ..Entry::sample() };
        let today = (world.time(0).unix_s() / 86_400) as u32;
        let entry = Entry { published_day: today, expires_day: today + 30, ..entry };
        world.act(0, |core, now| core.publish(now, entry, Audience::Friends, false));
    }
    world.link(0, 1);
    assert!(world.run_until(MINUTE, |w| w.nodes[1].core().entry_count() == 800), "an honest view is whole");
    world.stop_reading(1, 0, 10 * MINUTE);
    let mut most = 0;
    for _ in 0..200 {
        world.flood(1, 0, Flood::Pulls, 5);
        world.run(millis(50));
        most = most.max(world.nodes[0].core().load().control);
    }
    (most, world.linked(0, 1))
}

#[test]
fn pages_that_nobody_reads_are_bounded() {
    seeds::run("pages_that_nobody_reads_are_bounded", 1, |seed| {
        let (most, linked) = pages(seed, Budgets::default());
        assert!(linked && (MIB..=MIB + 300_000).contains(&most), "{most} bytes, linked: {linked}");
        let (most, linked) = pages(seed, Budgets { control: (usize::MAX, usize::MAX), ..Budgets::default() });
        assert!(!linked || most > 4 * MIB, "without the account {most} bytes");
    });
}

// Rates.

/// Fifteen friends fetch from one source whose links differ; Bo has eight tunnels. Bytes each got.
fn from_one_source(seed: u64, rates: Rates) -> Vec<f64> {
    let mut world = nodes(seed, 16, Budgets::default());
    for id in 1..16 {
        let bandwidth = 60_000 * id as u64 + 60_000;
        world.quality = Quality { latency: millis(5 * id as u64), bandwidth, buffer: 128 * 1024 };
        world.link(0, id);
    }
    let caps: Vec<_> = (0..8).map(|_| world.publish(0, "clip", 6_000_000, Audience::Friends)).collect();
    assert!(world.run_until(MINUTE, |w| (1..16).all(|id| knows(w, id, &caps))));
    world.act(0, |core, now| core.set_rates(now, rates));
    caps.iter().for_each(|cap| world.fetch(1, cap, Route::Direct));
    (2..16).for_each(|id| world.fetch(id, &caps[0], Route::Direct));
    let got = |w: &World| -> Vec<u64> {
        (1..16).map(|id| w.wires[w.wires_between(0, id)[0]].written_by(0)).collect()
    };
    world.run(2 * SECOND);
    let before = got(&world);
    world.run(8 * SECOND);
    got(&world).iter().zip(before).map(|(a, b)| (a - b) as f64 / 8.0).collect()
}

#[test]
fn a_limit_is_shared_by_friends_not_by_tunnels() {
    seeds::run("a_limit_is_shared_by_friends_not_by_tunnels", 2, |seed| {
        let rates = Rates { up: Some(1_200_000), ..Rates::default() };
        let got = from_one_source(seed, rates);
        let sum: f64 = got.iter().sum();
        assert!((1.12e6..=1.24e6).contains(&sum), "{sum} bytes a second");
        assert!(jain(&got) >= 0.95, "{got:?}");
        assert!(got[0] <= got[1..].iter().sum::<f64>() / 14.0 * 1.1, "many tunnels are one friend: {got:?}");
        let got = from_one_source(seed, Rates::default());
        assert!(jain(&got) < 0.95, "without a limit links take what they can: {got:?}");
    });
}

/// What Bo gets from Ana and Cid in six seconds, in bytes a second, and whether all is well.
fn got_under(seed: u64, limit: impl Fn(&mut World)) -> [f64; 2] {
    let mut world = nodes(seed, 3, Budgets::default());
    world.quality = Quality { latency: millis(20), bandwidth: 1_500_000, buffer: 128 * 1024 };
    [(0, 1), (2, 1)].into_iter().for_each(|(a, b)| world.link(a, b));
    let caps = [0, 2].map(|n| {
        let caps: Vec<_> = (0..2).map(|_| world.publish(n, "clip", 8_000_000, Audience::Friends)).collect();
        caps
    });
    assert!(world.run_until(MINUTE, |w| caps.iter().all(|c| knows(w, 1, c))));
    limit(&mut world);
    caps.iter().flatten().for_each(|cap| world.fetch(1, cap, Route::Direct));
    let from = |w: &World, n: NodeId| w.nodes[1].core().traffic(w.nodes[n].key()).received;
    world.run(2 * SECOND);
    let before = [0, 2].map(|n| from(&world, n));
    world.run(6 * SECOND);
    assert!((0..3).all(|n| world.nodes[n].ups <= 2), "no link ends");
    let after = [0, 2].map(|n| from(&world, n));
    [0, 1].map(|i| (after[i] - before[i]) as f64 / 6.0)
}

#[test]
fn down_limits_hold_by_withholding_credit() {
    seeds::run("down_limits_hold_by_withholding_credit", 1, |seed| {
        let free = got_under(seed, |_| ());
        assert!(free.iter().all(|rate| *rate > 1.2e6), "{free:?}");
        let within = |rate: f64, limit: f64| (limit * 0.85..=limit * 1.05).contains(&rate);
        let all = Rates { down: Some(800_000), ..Rates::default() };
        let got = got_under(seed, |w| w.act(1, |core, now| core.set_rates(now, all)));
        assert!(within(got[0] + got[1], 8e5) && jain(&got) > 0.95, "{got:?}");
        let mut kinds = [(None, None); 3];
        kinds[0].1 = Some(600_000);
        let own = Rates { kinds, ..Rates::default() };
        let got = got_under(seed, |w| w.act(1, |core, now| core.set_rates(now, own)));
        assert!(within(got[0] + got[1], 6e5) && jain(&got) > 0.95, "{got:?}");
        // One friend down, another up: the rest is free.
        let got = got_under(seed, |w| {
            let (ana, bo) = (w.nodes[0].key(), w.nodes[1].key());
            w.act(1, |core, now| core.set_friend_rates(now, ana, None, Some(300_000)));
            w.act(2, |core, now| core.set_friend_rates(now, bo, Some(500_000), None));
        });
        assert!(within(got[0], 3e5) && within(got[1], 5e5), "{got:?}");
        // Taken back while it holds.
        let got = got_under(seed, |w| {
            w.act(1, |core, now| core.set_rates(now, all));
            w.run(SECOND);
            w.act(1, |core, now| core.set_rates(now, Rates::default()));
        });
        assert!(got.iter().all(|rate| *rate > 1.2e6), "{got:?}");
    });
}

/// A slow reader behind a relay: most cells that wait for it once the flow is steady.
fn behind_a_slow_link(seed: u64, budgets: Budgets) -> usize {
    // As many as keep more on its way than the system's buffers hold.
    let (mut world, _, large) = common_friend(seed, budgets, 0, 4);
    let wire = world.wires_between(1, 2)[0];
    world.wires[wire].quality.bandwidth = 150_000;
    large.iter().for_each(|cap| world.fetch(2, cap, Route::Fof));
    world.run(8 * SECOND);
    let mut most = 0;
    for _ in 0..40 {
        world.run(millis(100));
        most = most.max(world.nodes[1].core().load().most_relayed);
    }
    most
}

#[test]
fn windows_follow_the_delay() {
    seeds::run("windows_follow_the_delay", 2, |seed| {
        let most = behind_a_slow_link(seed, Budgets::default());
        assert!((1..=16).contains(&most), "{most} cells wait");
        let off = Budgets { delays: (Duration::MAX, Duration::MAX), ..Budgets::default() };
        let most = behind_a_slow_link(seed, off);
        assert!(most > 24, "without shrinking {most} cells wait");
    });
}

/// Cid fetches through Bo, and Bo from Ana for himself: bytes a second that Bo passes on and gets.
fn through_bo(seed: u64, rates: Rates) -> [f64; 2] {
    let (mut world, _, large) = common_friend(seed, Budgets::default(), 0, 6);
    world.act(1, |core, now| core.set_rates(now, rates));
    large[..3].iter().for_each(|cap| world.fetch(2, cap, Route::Fof));
    // First windows are granted before they are paid for.
    if rates != Rates::default() {
        world.run(3 * SECOND);
    }
    large[3..].iter().for_each(|cap| world.fetch(1, cap, Route::Direct));
    let at = |w: &World| {
        let bo = w.nodes[1].core();
        [bo.traffic(w.nodes[0].key()).relayed, bo.traffic(w.nodes[0].key()).received]
    };
    world.run(SECOND / 2);
    let before = at(&world);
    world.run(2 * SECOND);
    let after = at(&world);
    [0, 1].map(|i| (after[i] - before[i]) as f64 / 2.0)
}

#[test]
fn friends_of_friends_can_be_limited_alone() {
    seeds::run("friends_of_friends_can_be_limited_alone", 2, |seed| {
        let [passed_on, own] = through_bo(seed, Rates::default());
        assert!(passed_on > 6e5 && own > 4e5, "free: {passed_on}, {own}");
        for up in [true, false] {
            let limit = Some(200_000);
            let fof = if up { (limit, None) } else { (None, limit) };
            let rates = Rates { kinds: [(None, None), fof, (None, None)], ..Rates::default() };
            let [passed_on, own] = through_bo(seed, rates);
            assert!((1.4e5..=2.6e5).contains(&passed_on), "up {up}: {passed_on} passed on");
            assert!(own > 6e5, "up {up}: the rest is free: {own}");
        }
    });
}

// Gossip.

#[test]
fn gossip_in_a_ring_does_not_grow() {
    seeds::run("gossip_in_a_ring_does_not_grow", 1, |seed| {
        let mut world = World::new(seed);
        for name in NAMES.into_iter().take(4) {
            let id = world.add_node(name, Pace { batch: 30 * MINUTE, spread: MINUTE });
            // What circuits cost is not gossip.
            let none = CircuitSettings { relay: false, ..CircuitSettings::default() };
            world.set_circuits(id, Privacy::Fast, none);
        }
        [(0, 1), (1, 2), (2, 3), (3, 0)].into_iter().for_each(|(a, b)| world.link(a, b));
        (0..4).for_each(|n| {
            (0..5).for_each(|_| drop(world.publish(n, "clip", 10, Audience::Fof)));
        });
        let counts = |w: &World| -> Vec<usize> { (0..4).map(|n| w.nodes[n].core().entry_count()).collect() };
        assert!(world.run_until(180 * MINUTE, |w| counts(w).iter().all(|n| *n >= 20)), "all know all");
        let (known, written) = (counts(&world), world.wires.iter().map(|w| w.flows[0].written).sum::<u64>());
        world.run(8 * 60 * MINUTE);
        assert_eq!(counts(&world), known, "hours later nothing was added");
        let more = world.wires.iter().map(|w| w.flows[0].written).sum::<u64>() - written;
        // A pull and a page of 16 KiB for two parts a batch and link, and keepalives.
        assert!(more < 4 * 16 * 2 * 40_000 + 4 * 8 * 3600 / 10 * 4200, "{more} bytes in eight hours");
    });
}

// Credit.

/// Bytes a second that two friends get of a limit; the first gave much before.
fn beside_a_giver(seed: u64, gave: u64) -> [f64; 2] {
    let mut world = nodes(seed, 3, Budgets::default());
    world.quality = Quality { latency: millis(10), bandwidth: 2_000_000, buffer: 128 * 1024 };
    [(0, 1), (0, 2)].into_iter().for_each(|(a, b)| world.link(a, b));
    let caps: Vec<_> = (0..4).map(|_| world.publish(0, "clip", 8_000_000, Audience::Friends)).collect();
    assert!(world.run_until(MINUTE, |w| (1..3).all(|n| knows(w, n, &caps))));
    let giver = world.nodes[1].key();
    world.act(0, |core, now| {
        core.set_rates(now, Rates { up: Some(800_000), ..Rates::default() });
        core.set_credit(now, giver, gave, 0);
    });
    for id in [1, 2] {
        caps[2 * id - 2..2 * id].iter().for_each(|cap| world.fetch(id, cap, Route::Direct));
    }
    let got = |w: &World| [1, 2].map(|id| w.nodes[id].core().traffic(w.nodes[0].key()).received);
    world.run(2 * SECOND);
    let before = got(&world);
    world.run(8 * SECOND);
    let after = got(&world);
    [0, 1].map(|n| (after[n] - before[n]) as f64 / 8.0)
}

#[test]
fn who_gave_more_gets_more_of_what_is_scarce() {
    seeds::run("who_gave_more_gets_more_of_what_is_scarce", 2, |seed| {
        let [one, other] = beside_a_giver(seed, 0);
        assert!((one / other - 1.0).abs() < 0.15, "alike: {one} {other}");
        let [one, other] = beside_a_giver(seed, 1 << 30);
        assert!((3.0..5.0).contains(&(one / other)), "four times as much: {one} {other}");
        assert!((6.8e5..=8.4e5).contains(&(one + other)), "nothing is left idle: {one} {other}");
    });
}
