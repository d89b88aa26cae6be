//! Bad input and faults at links and handshakes: one test for each row of the list, here with a real
//! core and virtual time, in `tests/e2e/links.rs` with real processes and sockets.
//!
//! | Row | What happens | Test | Where |
//! |---|---|---|---|
//! | 1 | nothing, one byte, garbage, a megabyte | `nobody_learns_from_the_time_of_closing`; `strangers_get_silence_and_friends_are_served` (`strangers.rs`) | here; e2e |
//! | 2 | one byte every ten seconds | `who_drips_is_closed_in_time_and_the_oldest_gives_way` | here |
//! | 3 | thousands of connections a second | `a_flood_of_garbage_gets_no_byte_and_stops_no_friend`; bench `links` | e2e |
//! | 4 | a recorded first flight comes again | `replays_get_silence_before_and_after_a_restart`; `a_recorded_first_flight_opens_nothing` (`strangers.rs`) | here; e2e |
//! | 5 | a clock that is wrong by a day, a year, since 1970 | `wrong_clocks_connect` | here |
//! | 6 | records swapped, doubled, left out | `meddled_records_end_the_link_and_nothing_else`, `a_proxy_that_meddles_ends_links_only` | here; e2e |
//! | 7 | lengths that are too large, too small, odd | `lengths_are_refused_before_anything_is_kept` | here |
//! | 8 | low-order, zero, non-canonical points | `bad_points_are_refused_even_with_all_secrets` | here |
//! | 9 | a friend with other secrets | `other_secrets_meet_silence`; who lost step, `keys.rs`; what the owner hears, `a_refusal_is_explained_to_the_owner_alone` | here |
//! | 10 | both dial at once | `both_dial_at_once_and_one_link_stays` | here |
//! | 11 | a counter that went back, a restored friend | `a_counter_that_went_back_meets_silence`; `a_restored_backup_loses_step_and_comes_back_when_both_owners_say_so` (`keys.rs`, `e2e/keys.rs`) | here; e2e |
//! | 12 | another version, features of a later one | `another_version_meets_silence`, `a_refusal_is_explained_to_the_owner_alone`, `unknown_features_are_ignored` | here |
//! | 13 | a stream that ends early | `what_is_cut_off_is_no_end_and_goes_on` | here |
//! | 14 | 2^16 messages on one session | `a_link_outlives_its_rekeys` | here |
//! | 15 | garbage in the middle of a session | `meddled_records_end_the_link_and_nothing_else`, `a_proxy_that_meddles_ends_links_only` | here; e2e |
//! | 16 | links that come and go | `who_is_away_is_dialled_less_and_less`, `links_that_flap_are_dialled_less_and_less`, `flapping_fills_no_log` | here; e2e |
//! | 85 | eight hours of sleep, a new address | `links_come_back_after_a_sleep`, `links_come_back_after_a_sleep_that_no_clock_counted`, `a_new_address_is_dialled` | here |
//!
//! Row 5 asks for a window of times and has no counterpart: nothing in the handshake looks at a clock
//! (decision 4), so a wrong one is no reason to refuse. `KITH_SIM_SEEDS=n` runs more seeds.

// Helpers of tests fail by panicking; a failed expectation is what a test is for.
#![allow(clippy::unwrap_used, clippy::panic)]

use kith_crypto::identity::Identity;
use kith_crypto::noise::{Handshake, OVERHEAD, Pattern, Session};
use kith_crypto::rng::Rng;
use kith_crypto::secret::Key;
use kith_onion::catalogue::Audience;
use kith_onion::control::Control;
use kith_onion::handshake::{Caller, Mode, Peer, Secret, Who};
use kith_onion::link::{Link, RECORD_LEN};
use kith_onion::ratchet::OutOfStep;
use kith_onion::schedule::Allowance;
use kith_onion::{CircuitSettings, ConnId, Cover, Limits, Now, Route};
use kith_tests::forge::{BEGINNING_MS, Bare, Flights, certificate, key_of, person, root};
use kith_tests::sim::{NodeId, Outcome, WireId, World, seeds};
use kith_tests::stats::same_distribution;
use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
/// Counter of a first flight that is new.
const NEW: u64 = BEGINNING_MS + 1_000_000_000;

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn seeded(seed: u64) -> Rng {
    let mut full = [0; 32];
    full[..8].copy_from_slice(&seed.to_le_bytes());
    Rng::from_seed(full)
}

/// Ana (person 1) with a friend (person 2) and an open invite, and what she answers.
struct Ana {
    bare: Bare,
    friend: Identity,
    invite: kith_crypto::invite::Invite,
    rng: Rng,
}

impl Ana {
    fn new(seed: u8) -> Self {
        let friend = person(2);
        let mut bare = Bare::new(1, &[&friend], seed);
        let invite = bare.invite(1, 5);
        Self { bare, friend, invite, rng: seeded(u64::from(seed) + 1_000) }
    }

    /// Bytes that a flight is answered with.
    fn answer(&mut self, flight: &[u8]) -> usize {
        let conn = self.bare.accept(3);
        let came = self.bare.input(conn, flight).len();
        self.bare.lose(conn);
        came
    }
}

// Rows 1, 2, 4, 7, 8, 9, 11, 12: whatever a stranger sends.

type Sent = fn(&mut Ana) -> Vec<u8>;

/// Everything that is not right, each made anew for each connection.
const KINDS: [(&str, Sent); 18] = [
    ("nothing", |_| Vec::new()),
    ("one byte", |a| a.rng.bytes::<1>().to_vec()),
    ("71 bytes", |a| a.rng.bytes::<71>().to_vec()),
    ("72 bytes", |a| a.rng.bytes::<72>().to_vec()),
    ("2,000 bytes", |a| a.rng.bytes::<2_000>().to_vec()),
    ("zeros", |_| vec![0; 3_000]),
    ("right tag, wrong box", |a| {
        let mut flight = Flights::friend(&a.friend, a.bare.core.me()).flight(NEW, &mut a.rng);
        flight[45] ^= 1;
        flight
    }),
    ("right head, wrong body", |a| {
        let mut flight = Flights::friend(&a.friend, a.bare.core.me()).flight(NEW, &mut a.rng);
        flight[80] ^= 1;
        flight
    }),
    ("half a flight", |a| {
        Flights::friend(&a.friend, a.bare.core.me()).flight(NEW, &mut a.rng)[..100].to_vec()
    }),
    ("replayed flight", |a| {
        // Its counter was accepted when the friend really called, before all this.
        Flights::friend(&a.friend, a.bare.core.me()).flight(1, &mut a.rng)
    }),
    ("stranger's key", |a| Flights::friend(&person(77), a.bare.core.me()).flight(NEW, &mut a.rng)),
    ("right wrapper, wrong key inside", |a| {
        let (stranger, psk) = (person(77), Key::new([7; 32]));
        let inside = Flights { psk: Some(psk), ..Flights::friend(&stranger, a.bare.core.me()) };
        let message = inside.message(&mut a.rng);
        Flights::friend(&a.friend, a.bare.core.me()).around(&message, NEW, &mut a.rng)
    }),
    ("wrong generation", |a| {
        let flights = Flights::friend(&a.friend, a.bare.core.me());
        Flights { psk_gen: 77, ..flights }.flight(NEW, &mut a.rng)
    }),
    ("wrong PSK", |a| {
        let flights = Flights::friend(&a.friend, a.bare.core.me());
        Flights { psk: Some(Key::new([7; 32])), ..flights }.flight(NEW, &mut a.rng)
    }),
    ("another version", |a| {
        let flights = Flights::friend(&a.friend, a.bare.core.me());
        Flights { version: b"kith link v0", ..flights }.flight(NEW, &mut a.rng)
    }),
    ("low-order point", |a| {
        let mut message = vec![0; 48];
        message[0] = 1;
        Flights::friend(&a.friend, a.bare.core.me()).around(&message, NEW, &mut a.rng)
    }),
    ("oversize length", |a| {
        Flights::friend(&a.friend, a.bare.core.me()).odd(NEW, u16::MAX, 0, &[9; 3_000], &mut a.rng)
    }),
    ("replayed invite", |a| {
        // The same bytes each time: the first connection uses them up, before the counting begins.
        let (invite, guest) = (a.invite.clone(), person(50));
        Flights::invited(&guest, &invite).flight(NEW, &mut Rng::from_seed([50; 32]))
    }),
];

/// Lifetimes in seconds of `count` connections, one a second, that each send this; no answer is allowed.
fn lifetimes(seed: u8, count: usize, kind: Sent) -> Vec<f64> {
    let mut ana = Ana::new(seed);
    // The friend really called once, and somebody used the invite once: those are answered.
    let real = Flights::friend(&ana.friend, ana.bare.core.me()).flight(BEGINNING_MS, &mut ana.rng);
    let invited = KINDS[17].1(&mut ana);
    assert!(ana.answer(&real) > 0 && ana.answer(&invited) > 0, "genuine flights are answered");
    ana.bare.closed.clear();

    let mut inputs: BTreeMap<(Duration, usize), (u32, Vec<u8>)> = BTreeMap::new();
    let mut begun = BTreeMap::new();
    for n in 0..count {
        let start = SECOND * n as u32;
        while let Some(((at, _), (conn, bytes))) = inputs.pop_first() {
            if at > start {
                inputs.insert((at, n), (conn, bytes));
                break;
            }
            feed(&mut ana, at, conn, &bytes);
        }
        ana.bare.run_to(start);
        let conn = ana.bare.accept(n as u64);
        begun.insert(conn, ana.bare.at);
        // It comes in a few pieces within the first eight seconds.
        let bytes = kind(&mut ana);
        let mut at = ana.bare.at;
        for (piece, chunk) in bytes.chunks(bytes.len().div_ceil(4).max(1)).enumerate() {
            at += millis(ana.rng.range(0, 2_000));
            inputs.insert((at, n * 4 + piece), (conn, chunk.to_vec()));
        }
    }
    for ((at, _), (conn, bytes)) in inputs {
        feed(&mut ana, at, conn, &bytes);
    }
    let end = ana.bare.at + 2 * MINUTE;
    ana.bare.run_to(end);
    assert_eq!(ana.bare.core.load().half_open, 0, "all are closed");
    let lived = |(at, conn): &(Duration, u32)| Some((*at - *begun.get(conn)?).as_secs_f64());
    let lives: Vec<f64> = ana.bare.closed.iter().filter_map(lived).collect();
    assert_eq!(lives.len(), count, "each is closed once");
    lives
}

fn feed(ana: &mut Ana, at: Duration, conn: u32, bytes: &[u8]) {
    ana.bare.run_to(at);
    assert_eq!(ana.bare.input(conn, bytes).len(), 0, "zero bytes for whoever is no friend");
}

#[test]
fn nobody_learns_from_the_time_of_closing() {
    const COUNT: usize = 500;
    let nothing = lifetimes(1, COUNT, KINDS[0].1);
    assert!(nothing.iter().all(|s| (10.0..=60.0).contains(s)));
    for (n, (name, kind)) in KINDS.into_iter().enumerate() {
        // One in a hundred differs by chance: then a second sample decides.
        let p = |round: u8| same_distribution(&nothing, &lifetimes(round + n as u8, COUNT, kind));
        let (mut seen, mut round) = (p(2), 1);
        if seen <= 0.01 {
            (seen, round) = (p(102), 2);
        }
        println!("{name}: p = {seen:.3} in sample {round}");
        assert!(seen > 0.01, "{name}: the time of closing tells it, p = {seen}");
    }
    // What the count must find: a time that is drawn when the refusal is clear (five seconds later on
    // average), and an end right then for one in five.
    let mut rng = seeded(9);
    let mut refused_after = || rng.range(0, 10_000) as f64 / 1_000.0;
    let later: Vec<f64> = nothing.iter().map(|s| s + refused_after()).collect();
    assert!(same_distribution(&nothing, &later) < 0.01);
    let mut at_once = nothing.clone();
    at_once.iter_mut().step_by(5).for_each(|s| *s = refused_after());
    assert!(same_distribution(&nothing, &at_once) < 0.01);
}

#[test]
fn who_drips_is_closed_in_time_and_the_oldest_gives_way() {
    seeds::run("who_drips_is_closed_in_time_and_the_oldest_gives_way", 5, |seed| {
        let mut world = World::with_nodes(seed, 2);
        world.link(0, 1);
        let drips: Vec<WireId> = (0..10).map(|_| world.stranger(0, 7)).collect();
        let start = world.now;
        for _ in 0..6 {
            drips.iter().for_each(|wire| world.stranger_writes(*wire, &[7]));
            world.run(10 * SECOND);
        }
        world.run(SECOND);
        for wire in &drips {
            let lived = world.wires[*wire].ended_at.expect("the deadline does not move") - start;
            assert!((10 * SECOND..=61 * SECOND).contains(&lived), "{lived:?}");
            assert!(world.wires[*wire].received.is_empty(), "zero bytes");
        }
        // One source may hold 16, all together 64: the oldest goes, and at once.
        let Limits { half_open, half_open_per_source, .. } = Limits::default();
        let same: Vec<WireId> = (0..half_open_per_source + 3).map(|_| world.stranger(0, 8)).collect();
        world.run(millis(100));
        let ended = |w: &World, wire: &WireId| w.wires[*wire].ended_at.is_some();
        assert!(same[..3].iter().all(|w| ended(&world, w)) && !same[3..].iter().any(|w| ended(&world, w)));
        let many: Vec<WireId> = (0..half_open).map(|n| world.stranger(0, 100 + n as u64)).collect();
        world.run(millis(100));
        assert!(same.iter().all(|w| ended(&world, w)) && !many.iter().any(|w| ended(&world, w)));
        assert!(world.linked(0, 1), "a friend's link is not one of them");
    });
}

// Row 4.

#[test]
fn replays_get_silence_before_and_after_a_restart() {
    seeds::run("replays_get_silence_before_and_after_a_restart", 10, |seed| {
        let mut world = World::with_nodes(seed, 2);
        world.link(0, 1);
        world.run(MINUTE);
        // All that ever was written first to either of them.
        let recorded: Vec<(NodeId, Vec<u8>)> = world
            .wires
            .iter()
            .filter(|w| w.flows[1].written > 0)
            .map(|w| (w.nodes[1].expect("a node was dialled"), w.flows[0].first.clone()))
            .collect();
        assert!(!recorded.is_empty());
        for restarted in [false, true] {
            if restarted {
                // Only what was made durable is left.
                for node in [0, 1] {
                    world.crash(node);
                    world.start(node);
                }
            }
            for (to, bytes) in &recorded {
                let wire = world.stranger(*to, 5);
                world.stranger_writes(wire, bytes);
                world.run(MINUTE + SECOND);
                assert!(world.wires[wire].received.is_empty(), "a replay got an answer");
            }
            assert!(world.linked(0, 1), "and ended no link");
        }
        // The same bytes at somebody who has not seen them are answered: it is the counter that tells.
        // The last one: the first session's PSK has been replaced.
        let (to, bytes) = recorded.last().expect("there are some").clone();
        let from = world.nodes[1 - to].key();
        world.nodes[to].journal.sync_all();
        world.crash(to);
        world.nodes[to].journal.friends.get_mut(&from).expect("a friend").counter_in = 0;
        world.crash(1 - to);
        world.start(to);
        let wire = world.stranger(to, 5);
        world.stranger_writes(wire, &bytes);
        world.run(SECOND);
        assert!(!world.wires[wire].received.is_empty(), "the control: without the counter it is answered");
    });
}

// Row 5.

#[test]
fn wrong_clocks_connect() {
    const DAY_MS: i64 = 86_400_000;
    let since_1970 = -(BEGINNING_MS as i64);
    let wrong = [600_000, -600_000, DAY_MS, -DAY_MS, 365 * DAY_MS, -365 * DAY_MS, since_1970];
    for (seed, clock_ms) in wrong.into_iter().enumerate() {
        let mut world = World::with_nodes(seed as u64, 2);
        world.nodes[0].clock_ms = clock_ms;
        world.link(0, 1);
        // It is set right, goes wrong the other way, and both dial: a counter never goes back.
        for clock_ms in [0, -clock_ms.min(-since_1970), since_1970, clock_ms] {
            for node in [0, 1] {
                world.nodes[node].journal.sync_all();
                world.crash(node);
            }
            world.nodes[0].clock_ms = clock_ms;
            let (first, second) = if seed % 2 == 0 { (0, 1) } else { (1, 0) };
            world.start(first);
            world.start(second);
            let again = world.run_until(MINUTE, |w| w.linked(0, 1));
            assert!(again, "a clock that is wrong by {clock_ms} ms is no reason to refuse");
        }
    }
}

// Rows 6, 13, 15.

/// What somebody on the way does to one write.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Meddling {
    Nothing,
    Swap,
    Double,
    LeaveOut,
    Flip,
    Insert,
    Replay,
}

/// Lets `after` writes to `side` pass, then meddles once. The count says how often it has.
fn meddle(world: &mut World, wire: WireId, side: usize, after: usize, how: Meddling) -> Rc<Cell<usize>> {
    let done = Rc::new(Cell::new(0));
    let seen = done.clone();
    let (mut passed, mut held, mut first) = (0, None::<Vec<u8>>, None::<Vec<u8>>);
    let mut rng = seeded(after as u64);
    world.meddler = Some(Box::new(move |w, from, mut bytes| {
        if (w, from) != (wire, side) || bytes.is_empty() {
            return bytes;
        }
        if let Some(earlier) = held.take() {
            seen.set(1);
            bytes.extend(earlier);
            return bytes;
        }
        passed += 1;
        let earlier = first.get_or_insert_with(|| bytes.clone()).clone();
        if seen.get() > 0 || passed <= after {
            return bytes;
        }
        match how {
            Meddling::Nothing => return bytes,
            Meddling::Swap => {
                held = Some(bytes);
                return Vec::new();
            }
            Meddling::Double => bytes.extend(bytes.clone()),
            Meddling::LeaveOut => bytes.clear(),
            Meddling::Flip => {
                let at = rng.range(0, bytes.len() as u64 - 1) as usize;
                bytes[at] ^= 1 << rng.range(0, 7);
            }
            Meddling::Insert => bytes.splice(0..0, rng.bytes::<4_130>()).for_each(drop),
            Meddling::Replay => bytes.splice(0..0, earlier).for_each(drop),
        }
        seen.set(1);
        bytes
    }));
    done
}

#[test]
fn meddled_records_end_the_link_and_nothing_else() {
    use Meddling::{Double, Flip, Insert, LeaveOut, Nothing, Replay, Swap};
    seeds::run("meddled_records_end_the_link_and_nothing_else", 2, |seed| {
        for how in [Nothing, Swap, Double, LeaveOut, Flip, Insert, Replay] {
            let mut world = World::with_nodes(seed, 2);
            world.link(0, 1);
            let cap = world.publish(0, "clip", 700_000, Audience::Friends);
            assert!(world.run_until(MINUTE, |w| w.distance(1, &cap).is_some()));
            world.run(10 * SECOND);
            let wires = world.wires_between(0, 1);
            let [wire] = wires[..] else { panic!("one link, not {}", wires.len()) };
            // What the holder writes, early in the transfer or late in it.
            let side = usize::from(world.wires[wire].nodes[1] == Some(0));
            let after = world.rng.range(1, 6) as usize;
            let done = meddle(&mut world, wire, side, after, how);
            let begun = world.now;
            assert_eq!(world.fetch_now(1, &cap, Route::Direct, 2 * MINUTE), Outcome::Complete, "{how:?}");
            let took = world.now - begun;
            if how == Nothing {
                assert!(world.wires[wire].ended_at.is_none(), "the link is as it was");
                continue;
            }
            assert_eq!(done.get(), 1, "{how:?} was done");
            let ended = world.wires[wire].ended_at.expect("a meddled link is closed");
            assert!(ended - begun < 10 * SECOND, "{how:?}: and at once, not by patience");
            assert!(took < 30 * SECOND, "{how:?}: nothing stalls for long, not {took:?}");
            assert!(world.run_until(MINUTE, |w| w.linked(0, 1)), "{how:?}: a new one comes");
        }
    });
}

#[test]
fn what_is_cut_off_is_no_end_and_goes_on() {
    seeds::run("what_is_cut_off_is_no_end_and_goes_on", 5, |seed| {
        let mut world = World::with_nodes(seed, 2);
        world.link(0, 1);
        let cap = world.publish(0, "clip", 3_000_000, Audience::Friends);
        assert!(world.run_until(MINUTE, |w| w.distance(1, &cap).is_some()));
        world.run(10 * SECOND);
        let wire = world.wires_between(0, 1)[0];
        let holder = usize::from(world.wires[wire].nodes[1] == Some(0));
        // The rest never comes: in the middle of a record, as it happens, and the connection ends.
        let (mut left, before) = (world.rng.range(300_000, 2_000_000) as usize, world.wires.len());
        world.meddler = Some(Box::new(move |w, side, mut bytes| {
            if (w, side) == (wire, holder) {
                bytes.truncate(left);
                left -= bytes.len();
            }
            bytes
        }));
        world.fetch(1, &cap, Route::Direct);
        world.run(2 * SECOND);
        world.refused.extend([(0, 1), (1, 0)]);
        world.cut(wire, true);
        world.run(SECOND);
        let had = world.nodes[1].partial.get(&cap.root).map_or(0, BTreeMap::len);
        let all = world.truth[&cap.root].blocks.len();
        assert!(
            world.outcome(1, &cap).is_none() && had > 0 && had < all,
            "{had} of {all}: neither done nor lost"
        );
        // What is there survives a restart, and only the rest comes over the next link.
        world.nodes[1].journal.sync_all();
        world.crash(1);
        world.refused.clear();
        world.start(1);
        assert!(world.run_until(10 * MINUTE, |w| w.outcome(1, &cap).is_some()));
        assert_eq!(world.outcome(1, &cap), Some(Outcome::Complete));
        let came: u64 = world.wires[before..].iter().flat_map(|w| &w.flows).map(|f| f.written).sum();
        let rest = (all - had + 4) as u64 * 70_000 + 600_000;
        assert!(came < rest, "{came} bytes came for the last {} of {all} blocks", all - had);
    });
}

// Row 7.

fn sessions(seed: u8) -> (Session, Session) {
    let (psk, mut rng) = (Key::new([1; 32]), Rng::from_seed([seed; 32]));
    let mut a = Handshake::initiate(Pattern::Tunnel, &psk, b"", &mut rng).unwrap();
    let mut b = Handshake::respond(Pattern::Tunnel, &psk, b"", &mut rng).unwrap();
    b.read(&a.write(b"").unwrap()).unwrap();
    a.read(&b.write(b"").unwrap()).unwrap();
    (a.into_session().unwrap(), b.into_session().unwrap())
}

#[test]
fn lengths_are_refused_before_anything_is_kept() {
    // First flights: what they name is looked at before the rest is read.
    let mut ana = Ana::new(1);
    let me = *ana.bare.core.me();
    let friend = person(2);
    let flights = Flights::friend(&friend, &me);
    let message = flights.message(&mut ana.rng);
    let plain = [(message.len() as u16).to_le_bytes().as_slice(), &message, &[0; 10]].concat();
    let right = plain.len() as u16 + 16;
    for len in [0, 1, 17, 2_049, 4_096, u16::MAX, right - 1, right + 1] {
        let flight = flights.odd(NEW, len, 0, &plain, &mut ana.rng);
        assert_eq!(ana.answer(&flight), 0, "a body of {len}");
    }
    for flags in [1, 0x8000, u16::MAX] {
        let flight = flights.odd(NEW, right, flags, &plain, &mut ana.rng);
        assert_eq!(ana.answer(&flight), 0, "flags {flags}");
    }
    // A Noise message that says to be longer than its box.
    let long = [u16::MAX.to_le_bytes().as_slice(), &message].concat();
    let flight = flights.odd(NEW, long.len() as u16 + 16, 0, &long, &mut ana.rng);
    assert_eq!(ana.answer(&flight), 0);
    let control = flights.odd(NEW, right, 0, &plain, &mut ana.rng);
    assert!(ana.answer(&control) > 0, "the control: with the right length it is answered");

    // Records: the length message alone is enough to end the link.
    for len in [0_u16, 1, 4_095, 4_097, 32_769, 36_864, 65_520, u16::MAX] {
        let (mut theirs, ours) = sessions(1);
        let (mut ours, mut sealed) = (Link::new(ours), [0; 2 + OVERHEAD]);
        theirs.seal(&len.to_le_bytes(), &mut sealed).unwrap();
        assert!(ours.receive(&mut sealed.as_slice()).is_err(), "a record of {len}");
    }
    for len in [4_096_u16, 32_768] {
        let (mut theirs, ours) = sessions(1);
        let (mut ours, mut sealed) = (Link::new(ours), [0; 2 + OVERHEAD]);
        theirs.seal(&len.to_le_bytes(), &mut sealed).unwrap();
        assert!(ours.receive(&mut sealed.as_slice()).is_ok_and(|r| r.is_none()), "the control: it waits");
    }

    // Control messages: the cap of each type holds when its head is there.
    let head = |number: u8, len: u32| {
        let mut body = [0; kith_onion::cell::BODY_LEN];
        body[..2].copy_from_slice(&5_u16.to_le_bytes());
        body[2] = number;
        body[3..7].copy_from_slice(&len.to_le_bytes());
        body
    };
    for number in 0..=u8::MAX {
        let mut link = Link::new(sessions(2).0);
        assert!(link.control(&head(number, u32::MAX)).is_err(), "message {number} of 4 GiB");
    }
    let mut link = Link::new(sessions(2).0);
    assert!(
        link.control(&head(7, 16_384)).is_ok_and(|m| m.is_empty()),
        "the control: the rest is waited for"
    );
}

// Row 8.

/// X25519 of somebody who has all static keys and secrets, and gives a bad point as its ephemeral key:
/// every result with that point is zero, so it can seal its message like an honest caller.
#[derive(Default)]
struct BadPoint {
    point: [u8; 32],
    secret: [u8; 32],
    public: [u8; 32],
    is_ephemeral: bool,
}

impl Dh for BadPoint {
    fn name(&self) -> &'static str {
        "25519"
    }
    fn pub_len(&self) -> usize {
        32
    }
    fn priv_len(&self) -> usize {
        32
    }
    fn set(&mut self, secret: &[u8]) {
        self.secret = secret.try_into().unwrap();
        self.public = x25519_dalek::x25519(self.secret, x25519_dalek::X25519_BASEPOINT_BYTES);
    }
    fn generate(&mut self, _: &mut dyn Random) -> Result<(), snow::Error> {
        (self.is_ephemeral, self.public) = (true, self.point);
        Ok(())
    }
    fn pubkey(&self) -> &[u8] {
        &self.public
    }
    fn privkey(&self) -> &[u8] {
        &self.secret
    }
    fn dh(&self, peer: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let zero = self.is_ephemeral;
        let shared = x25519_dalek::x25519(self.secret, peer[..32].try_into().unwrap());
        out[..32].copy_from_slice(if zero { &[0; 32] } else { &shared });
        Ok(())
    }
}

/// Nothing is drawn: the ephemeral key is the bad point.
struct NoRandom;

impl Random for NoRandom {
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), snow::Error> {
        out.fill(0);
        Ok(())
    }
}

struct BadResolver([u8; 32]);

impl CryptoResolver for BadResolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(NoRandom))
    }
    fn resolve_dh(&self, _: &DHChoice) -> Option<Box<dyn Dh>> {
        Some(Box::new(BadPoint { point: self.0, ..BadPoint::default() }))
    }
    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }
    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

/// snow's own curve, which checks nothing.
struct Unchecked;

impl CryptoResolver for Unchecked {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(NoRandom))
    }
    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }
    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }
    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

/// All encodings of points of low order, canonical or not (RFC 7748, section 6.1; the top bit is
/// ignored).
fn bad_points() -> Vec<[u8; 32]> {
    let mut points = Vec::new();
    let mut p = [0xFF; 32];
    (p[0], p[31]) = (0xED, 0x7F);
    let near_p = |low: u8| [[low].as_slice(), &p[1..]].concat().try_into().unwrap();
    // 0, 1, p - 1, p, p + 1, and the two of order eight.
    points.extend([[0; 32], near_p(0xEC), near_p(0xED), near_p(0xEE)]);
    let mut one = [0; 32];
    one[0] = 1;
    points.push(one);
    let eight = [
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    ];
    let hex = |text: &str| -> [u8; 32] {
        std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
    };
    points.extend(eight.map(hex));
    let with_top_bit: Vec<[u8; 32]> = points
        .iter()
        .map(|p| {
            let mut p = *p;
            p[31] |= 0x80;
            p
        })
        .collect();
    points.extend(with_top_bit);
    points
}

#[test]
fn bad_points_are_refused_even_with_all_secrets() {
    let mut ana = Ana::new(1);
    let (me, friend) = (person(1), person(2));
    let psk = root(&me, friend.public()).psk0();
    let (caller, callee) = (friend.public().hash(), me.public().hash());
    let prologue = [b"kith link v1 friends".as_slice(), &caller, &callee].concat();
    let params: NoiseParams = "Noise_KKpsk0_25519_ChaChaPoly_BLAKE2s".parse().unwrap();
    for point in bad_points() {
        let mut noise = snow::Builder::with_resolver(params.clone(), Box::new(BadResolver(point)))
            .psk(0, psk.expose())
            .unwrap()
            .prologue(&prologue)
            .unwrap()
            .local_private_key(&friend.secrets()[1])
            .unwrap()
            .remote_public_key(&me.public().noise)
            .unwrap()
            .build_initiator()
            .unwrap();
        let mut message = [0; 96];
        let len = noise.write_message(&[], &mut message).unwrap();
        let message = &message[..len];
        // The control: snow as it comes, without the contributory check, takes it for genuine.
        let unchecked = Box::new(Unchecked);
        let mut unchecked = snow::Builder::with_resolver(params.clone(), unchecked)
            .psk(0, psk.expose())
            .unwrap()
            .prologue(&prologue)
            .unwrap()
            .local_private_key(&me.secrets()[1])
            .unwrap()
            .remote_public_key(&friend.public().noise)
            .unwrap()
            .build_responder()
            .unwrap();
        assert!(unchecked.read_message(message, &mut [0; 96]).is_ok(), "the forgery is otherwise perfect");
        let flight = Flights::friend(&friend, me.public()).around(message, NEW, &mut ana.rng);
        assert_eq!(ana.answer(&flight), 0, "{point:?}");
    }
    let flight = Flights::friend(&friend, me.public()).flight(NEW, &mut ana.rng);
    assert!(ana.answer(&flight) > 0, "none of them used up the counter");
}

// Rows 9, 11, 12.

#[test]
fn other_secrets_meet_silence() {
    let mut ana = Ana::new(1);
    let (me, friend) = (*ana.bare.core.me(), person(2));
    let proper = Flights::friend(&friend, &me);
    let wrong_root = || Flights {
        root: kith_crypto::pair::PairRoot::new(&friend, &me, Some(&Key::new([8; 32]))).unwrap(),
        ..Flights::friend(&friend, &me)
    };
    let flight = wrong_root().flight(NEW, &mut ana.rng);
    assert_eq!(ana.answer(&flight), 0, "another root");
    let only_psk = Flights { psk: Some(wrong_root().root.psk0()), ..Flights::friend(&friend, &me) };
    let flight = only_psk.flight(NEW + 1, &mut ana.rng);
    assert_eq!(ana.answer(&flight), 0, "another PSK in the right wrapper");
    for psk_gen in [2, 77, u32::MAX] {
        let flight = Flights { psk_gen, ..Flights::friend(&friend, &me) }.flight(NEW + 2, &mut ana.rng);
        assert_eq!(ana.answer(&flight), 0, "a generation that never was");
    }
    let flight = proper.flight(NEW, &mut ana.rng);
    assert!(ana.answer(&flight) > 0, "the control: nothing of that used up the counter");

    // Two nodes that disagree go on trying, say nothing to each other, and know it.
    seeds::run("other_secrets_meet_silence", 3, |seed| {
        let mut world = World::with_nodes(seed, 2);
        world.introduce(0, 1);
        world.crash(0);
        let key = world.nodes[1].key();
        let record = world.nodes[0].journal.friends.get_mut(&key).unwrap();
        record.root = kith_crypto::pair::PairRoot::from_key(Key::new([5; 32]));
        let before = world.wires.len();
        world.start(0);
        world.run(10 * MINUTE);
        assert!(!world.linked(0, 1));
        assert!(world.wires.len() > before + 4, "they try");
        assert!(world.wires[before..].iter().all(|w| w.flows[1].written == 0), "zero bytes");
    });
}

#[test]
fn a_counter_that_went_back_meets_silence() {
    let mut ana = Ana::new(1);
    let (me, friend) = (*ana.bare.core.me(), person(2));
    let flights = Flights::friend(&friend, &me);
    let mut answered = |counter| {
        let flight = flights.flight(counter, &mut ana.rng);
        ana.answer(&flight) > 0
    };
    assert!(answered(1_000));
    for old in [0, 1, 999, 1_000] {
        assert!(!answered(old), "{old} after 1000");
    }
    assert!(answered(1_001) && answered(u64::MAX));
    assert!(!answered(u64::MAX), "at the end of the counter there is silence, not a start anew");

    // A node restored from a backup, whose clock is wrong too: what it calls with is refused, and what
    // others recorded before is answered once at most and opens nothing.
    seeds::run("a_counter_that_went_back_meets_silence", 5, |seed| {
        let mut world = World::with_nodes(seed, 2);
        // Only the one dials that will be restored.
        world.refused.insert((1, 0));
        world.link(0, 1);
        world.run(MINUTE);
        let key = world.nodes[1].key();
        world.nodes[0].journal.sync_all();
        world.crash(0);
        let record = world.nodes[0].journal.friends.get_mut(&key).unwrap();
        (record.counter_out, record.counter_in) = (5, 5);
        world.nodes[0].clock_ms = -(BEGINNING_MS as i64);
        let before = world.wires.len();
        world.start(0);
        world.run(10 * MINUTE);
        let calls = &world.wires[before..];
        assert!(calls.len() > 4 && !world.linked(0, 1));
        assert!(calls.iter().any(|w| w.flows[0].written > 0), "it calls");
        assert!(calls.iter().all(|w| w.flows[1].written == 0), "and is not answered");
    });
}

#[test]
fn another_version_meets_silence() {
    let mut ana = Ana::new(1);
    let (me, friend, guest) = (*ana.bare.core.me(), person(2), person(50));
    let invite = ana.invite.clone();
    for version in [b"kith link v0".as_slice(), b"kith link v2", b"kith link v", b"kith link v10", b""] {
        let flight = Flights { version, ..Flights::friend(&friend, &me) }.flight(NEW, &mut ana.rng);
        assert_eq!(ana.answer(&flight), 0, "{version:?}");
        let flight = Flights { version, ..Flights::invited(&guest, &invite) }.flight(NEW, &mut ana.rng);
        assert_eq!(ana.answer(&flight), 0, "{version:?} by invite");
    }
    let flight = Flights::friend(&friend, &me).flight(NEW, &mut ana.rng);
    assert!(ana.answer(&flight) > 0, "the control: this version is answered");
    let flight = Flights::invited(&guest, &invite).flight(NEW, &mut ana.rng);
    assert!(ana.answer(&flight) > 0, "by invite too");
}

/// Why a genuine call is refused is known on this side, and only here.
#[test]
fn a_refusal_is_explained_to_the_owner_alone() {
    let key = key_of(&person(2));
    let reach = |ana: &Ana| ana.bare.core.reach(ana.bare.now(), key).expect("a friend");
    let mut ana = Ana::new(1);
    let me = *ana.bare.core.me();
    let friend = person(2);
    assert_eq!((reach(&ana).other_version, reach(&ana).out_of_step), (None, None));

    let before = Flights::friend(&friend, &me).flight(NEW - 1, &mut ana.rng);
    assert!(ana.answer(&before) > 0, "it calls as it should once");
    let later = Flights::friend(&friend, &me).odd(NEW, 100, 0x0100, &[0; 84], &mut ana.rng);
    assert_eq!(ana.answer(&later), 0);
    assert_eq!(reach(&ana).other_version, Some(2), "version 2");
    let newer = Flights { psk_gen: 9, ..Flights::friend(&friend, &me) }.flight(NEW, &mut ana.rng);
    assert_eq!(ana.answer(&newer), 0);
    assert_eq!(reach(&ana).out_of_step, Some(OutOfStep::WeAreBehind));
    let recovery = Flights::friend(&friend, &me).odd(NEW, 100, 1, &[0; 84], &mut ana.rng);
    assert_eq!(ana.answer(&recovery), 0);
    assert_eq!(reach(&ana).out_of_step, Some(OutOfStep::TheyAreBehind));

    // Who has not the pair's keys, or says it again, teaches the owner nothing.
    let replays = ana.bare.core.load().replays;
    let old = Flights::friend(&friend, &me).odd(1, 100, 0x0300, &[0; 84], &mut ana.rng);
    assert_eq!(ana.answer(&old), 0);
    assert_eq!((reach(&ana).other_version, ana.bare.core.load().replays), (Some(2), replays + 1));
    let mut forged = later;
    forged[50] ^= 1;
    assert_eq!(ana.answer(&forged), 0);

    let good = Flights::friend(&friend, &me).flight(NEW, &mut ana.rng);
    assert!(ana.answer(&good) > 0, "the control: this one is answered");
}

/// A first session of a friend with Ana, past its hello with these features.
fn first_session(ana: &mut Ana, counter: u64, features: u64) -> (u32, Link) {
    let (me, friend) = (*ana.bare.core.me(), person(2));
    let shared = root(&friend, &me);
    let peer = Peer::friend(friend.public(), 0, &me, &shared);
    let secret = Secret { mode: Mode::Generation(0), psk: shared.psk0() };
    let (caller, flight) = Caller::start(&friend, peer, &secret, counter, &mut ana.rng).unwrap();
    let conn = ana.bare.accept(3);
    let answer = ana.bare.input(conn, &flight);
    let Ok((established, _)) = caller.input(&mut answer.as_slice(), &mut ana.rng).unwrap() else {
        panic!("the whole answer came at once")
    };
    let mut link = Link::new(established.session);
    say(ana, conn, &mut link, &Control::Hello { features, unix_ms: BEGINNING_MS });
    (conn, link)
}

fn say(ana: &mut Ana, conn: u32, link: &mut Link, message: &Control) {
    let mut out = vec![0; 1 << 17];
    link.send(message).unwrap();
    let len = link.transmit(Duration::ZERO, &mut { Allowance::ALL }, &mut out).unwrap();
    ana.bare.input(conn, &out[..len]);
}

/// Feature bits of later releases are ignored: the session goes on.
#[test]
fn unknown_features_are_ignored() {
    for features in [0, u64::MAX] {
        let mut ana = Ana::new(1);
        let (conn, mut link) = first_session(&mut ana, NEW, features);
        assert!(ana.bare.closed.is_empty(), "the session stands with features {features:x}");
        // A message that is not allowed here ends it: that the session was read is no accident.
        say(&mut ana, conn, &mut link, &Control::Hint);
        assert!(!ana.bare.closed.is_empty(), "nothing but an exchange is allowed here");
    }
}

/// Somebody who never ends the first exchange cannot pile up sessions, each with its buffers.
#[test]
fn first_sessions_do_not_pile_up() {
    let mut ana = Ana::new(1);
    for n in 0..20 {
        first_session(&mut ana, NEW + n, 0);
        assert_eq!(ana.bare.core.load().connections as u64, (n + 1).min(2));
    }
    ana.bare.run_to(Duration::from_secs(30));
    assert_eq!(ana.bare.core.load().connections, 0, "and none lasts");
}

/// Each handshake costs a Diffie-Hellman and a durable record: a friend has so many, on all links.
#[test]
fn handshakes_of_a_friend_are_counted() {
    for (calls, answered) in [(Limits::default().calls, 30), ((f64::MAX, f64::MAX), 100)] {
        let mut ana = Ana { bare: Bare::limited(1, &[&person(2)], 1, calls), ..Ana::new(1) };
        let (me, friend) = (*ana.bare.core.me(), person(2));
        let got = (0..100).filter(|n| {
            let flight = Flights::friend(&friend, &me).flight(NEW + n, &mut ana.rng);
            ana.answer(&flight) > 0
        });
        assert_eq!(got.count(), answered);
    }
}

// Row 10.

#[test]
fn both_dial_at_once_and_one_link_stays() {
    seeds::run("both_dial_at_once_and_one_link_stays", 40, |seed| {
        let mut world = World::with_nodes(seed, 2);
        world.link(0, 1);
        world.nodes.iter_mut().for_each(|n| n.disk.persist_ms = (0, 200));
        world.quality.latency = millis(world.rng.range(1, 300));
        for node in [0, 1] {
            world.nodes[node].journal.sync_all();
            world.crash(node);
        }
        world.run(SECOND);
        // One starts up to 400 ms before the other, so that their dials cross or just miss.
        let (before, gap) = (world.wires.len(), millis(world.rng.range(0, 400)));
        let first = (seed % 2) as usize;
        world.start(first);
        world.run(gap);
        world.start(1 - first);
        assert!(world.run_until(MINUTE, |w| w.linked(0, 1)), "there is a link");
        world.run(MINUTE);
        assert!(world.linked(0, 1), "and it stays");
        assert_eq!(world.wires_between(0, 1).len(), 1, "and it is the only one");
        let lived = world.wires.len();
        world.run(5 * MINUTE);
        assert_eq!(world.wires.len(), lived, "nobody dials for nothing");
        assert!(lived - before < 10, "it was not found by wearing each other out");
    });
}

// Row 14.

#[test]
fn a_link_outlives_its_rekeys() {
    // A record is two messages: after 2^15 of them the direction has new keys. Every change of
    // addresses is one.
    const RECORDS: usize = (1 << 15) + 100;
    let mut world = World::with_nodes(1, 2);
    world.link(0, 1);
    world.run(20 * SECOND);
    let wire = world.wires_between(0, 1)[0];
    world.quality.buffer = usize::MAX;
    let side = usize::from(world.wires[wire].nodes[1] == Some(0));
    let id = world.nodes[0].identity();
    let certs = [certificate(&id, 1), certificate(&id, 2)];
    let before = world.wires[wire].flows[side].written;
    for n in 0..RECORDS {
        let cert = certs[n % 2].clone();
        world.act(0, |core, now| core.set_certificate(now, cert));
        // No faster than a friend may send unasked.
        if n % 32 == 0 {
            world.run(millis(500));
        }
    }
    world.run(5 * SECOND);
    let sent = world.wires[wire].flows[side].written - before;
    assert!(sent >= (RECORDS * (RECORD_LEN / 8)) as u64, "{sent} bytes are not {RECORDS} records");
    assert!(world.linked(0, 1) && world.wires[wire].ended_at.is_none(), "the very same link");
    let cap = world.publish(1, "clip", 100_000, Audience::Friends);
    assert!(world.run_until(MINUTE, |w| w.distance(0, &cap).is_some()));
    assert_eq!(world.fetch_now(0, &cap, Route::Direct, MINUTE), Outcome::Complete);

    // The control: messages are counted, so one that is missing is noticed, with the new keys too.
    let (mut a, mut b) = sessions(3);
    let (mut sealed, mut plain) = ([0; 2 + OVERHEAD], [0; 64]);
    for _ in 0..(1 << 16) + 5 {
        a.seal(&[1, 2], &mut sealed).unwrap();
        b.open(&sealed, &mut plain).unwrap();
    }
    a.seal(&[1, 2], &mut sealed).unwrap();
    a.seal(&[1, 2], &mut sealed).unwrap();
    assert!(b.open(&sealed, &mut plain).is_err(), "one was left out");
}

// Row 16.

#[test]
fn who_is_away_is_dialled_less_and_less() {
    let calls = |seed| {
        let friend = person(2);
        let mut bare = Bare::new(1, &[&friend], seed);
        let mut times = Vec::new();
        while bare.at < 6 * HOUR {
            assert_eq!(bare.next_flight().0, Who::Friend(key_of(&friend)));
            times.push(bare.at.as_secs_f64());
        }
        times
    };
    let (one, other) = (calls(1), calls(2));
    let gaps: Vec<f64> = one.windows(2).map(|w| w[1] - w[0]).collect();
    assert!(gaps[0] < 2.0 && gaps[..12].iter().sum::<f64>() > 300.0, "{gaps:?}");
    // Five minutes, give or take the half: never more, and not in step with anybody.
    let late = &gaps[14..];
    assert!(late.iter().all(|g| (149.0..=451.0).contains(g)), "{late:?}");
    let mean = late.iter().sum::<f64>() / late.len() as f64;
    assert!((250.0..350.0).contains(&mean), "{mean}");
    assert!((one[20] - other[20]).abs() > 1.0, "another node dials at other times");
}

/// Links that end a second after they came up.
fn flap(seed: u64, time: Duration) -> usize {
    let mut world = World::with_nodes(seed, 2);
    world.link(0, 1);
    let before = world.wires.len();
    let end = world.now + time;
    while world.now < end {
        let left = end - world.now;
        if world.run_until(left, |w| w.linked(0, 1)) {
            world.run(SECOND);
            for wire in world.wires_between(0, 1) {
                world.cut(wire, true);
            }
            world.run(SECOND / 2);
        }
    }
    world.wires.len() - before
}

#[test]
fn links_that_flap_are_dialled_less_and_less() {
    let dials = flap(1, 30 * MINUTE);
    assert!(dials < 60, "{dials} connections in half an hour to a link that never lasts");
}

// Row 85.

fn star(seed: u64, count: usize) -> World {
    let mut world = World::with_nodes(seed, count);
    for friend in 1..count {
        world.link(0, friend);
    }
    world.run(MINUTE);
    world
}

fn back_from_sleep(mut world: World, count: usize, counted: bool, wake: impl FnOnce(&mut World)) {
    world.sleep(0, 8 * HOUR, counted);
    for friend in 1..count {
        assert!(!world.linked(0, friend), "everybody noticed");
    }
    world.writes = Some(Vec::new());
    let woken = world.now;
    let before = world.wires.len();
    wake(&mut world);
    let all = |w: &World| (1..count).all(|friend| w.linked(0, friend));
    assert!(world.run_until(30 * SECOND, all), "all links are back within 30 s");
    world.run(30 * SECOND);
    // No thunder: dials are spread, and what the timers missed is not made up for.
    let writes = world.writes.take().unwrap();
    let first = |wire: &WireId| writes.iter().find(|w| w.wire == *wire && w.from == Some(0)).map(|w| w.at);
    let own = (before..world.wires.len()).filter(|w| world.wires[*w].nodes[0] == Some(0));
    let mut dials: Vec<Duration> = own.filter_map(|w| first(&w)).collect();
    dials.sort_unstable();
    let together = |at: Duration| dials.iter().filter(|d| (at..at + millis(50)).contains(d)).count();
    let most = dials.iter().map(|at| together(*at)).max().unwrap_or(0);
    assert!(most <= count / 2, "{most} of {} dials within 50 ms: {dials:?}", dials.len());
    let own = writes.iter().filter(|w| w.from == Some(0) && w.at < woken + MINUTE).count();
    assert!(own < 40 * count, "{own} writes in the first minute");
}

#[test]
fn links_come_back_after_a_sleep() {
    seeds::run("links_come_back_after_a_sleep", 3, |seed| back_from_sleep(star(seed, 13), 13, true, |_| {}));
}

/// The system's monotonic clock may stand still during a sleep: nothing is due, and the driver says
/// that the machine was away.
#[test]
fn links_come_back_after_a_sleep_that_no_clock_counted() {
    seeds::run("links_come_back_after_a_sleep_that_no_clock_counted", 3, |seed| {
        back_from_sleep(star(seed, 13), 13, false, |world| {
            world.act(0, |core, now| core.resumed(now));
        });
    });
}

#[test]
fn a_new_address_is_dialled() {
    seeds::run("a_new_address_is_dialled", 5, |seed| {
        let mut world = World::with_nodes(seed, 2);
        world.link(0, 1);
        world.run(SECOND);
        // Node 0 moves and says so on the link; then it goes, and only the other one may dial.
        let id = world.nodes[0].identity();
        let cert = certificate(&id, 200);
        let old = std::mem::replace(&mut world.nodes[0].addr, cert.addrs[0].clone());
        world.nodes[0].cert = cert.clone();
        world.act(0, |core, now| core.set_certificate(now, cert));
        world.run(5 * SECOND);
        assert_ne!(old, world.nodes[0].addr);
        world.refused.insert((0, 1));
        let wire = world.wires_between(0, 1)[0];
        world.cut(wire, true);
        world.run(SECOND / 2);
        assert!(world.run_until(MINUTE, |w| w.linked(0, 1)), "the new address is dialled");
        // Without the announcement nobody finds it: the control.
        world.nodes[0].addr = certificate(&id, 201).addrs[0].clone();
        let wire = world.wires_between(0, 1)[0];
        world.cut(wire, true);
        world.run(SECOND / 2);
        assert!(!world.run_until(MINUTE, |w| w.linked(0, 1)));
    });
}

/// Two cores meet until they have a link that counts: the first one, and its end of it.
fn linked_pair() -> (Bare, ConnId) {
    let (me, friend) = (person(0), person(1));
    let (mut a, mut b) = (Bare::new(0, &[&friend], 1), Bare::new(1, &[&me], 2));
    for _ in 0..5 {
        let (_, at_a) = a.dial();
        b.at = a.at;
        let at_b = b.accept(1);
        let mut bytes = a.transmit(at_a);
        for _ in 0..10 {
            bytes = b.input(at_b, &bytes);
            bytes.extend(b.transmit(at_b));
            bytes = a.input(at_a, &bytes);
            bytes.extend(a.transmit(at_a));
            if a.core.is_online(key_of(&friend)) && b.core.is_online(key_of(&me)) {
                return (a, at_a);
            }
        }
        a.lose(at_a);
        b.lose(at_b);
    }
    panic!("no link");
}

/// Operating systems wake a process some milliseconds late. What a pad was late, the next one is
/// earlier; but who stood still for long sends no burst.
#[test]
fn constant_cover_keeps_its_rate_although_timers_are_coarse() {
    let sent_in = |rate: u64, time: Duration, tick: Duration| {
        let (mut a, conn) = linked_pair();
        let settings = CircuitSettings { cover: Cover::Constant(rate), ..CircuitSettings::default() };
        a.core.set_circuits(a.now(), settings);
        a.transmit(conn);
        let (end, mut sent) = (a.at + time, 0);
        while a.at < end {
            a.at += tick;
            while a.core.poll_timeout().is_some_and(|at| at <= a.at) {
                let now: Now = a.now();
                a.core.timeout(now);
                a.settle();
                sent += a.transmit(conn).len();
            }
        }
        sent as f64
    };
    for rate in [16_000_u64, 500_000, 4_000_000] {
        for tick in [1, 4, 10] {
            let sent = sent_in(rate, 20 * SECOND, millis(tick)) / 20.0 / rate as f64;
            // A third more on average; at the lowest rate what else is said shows, too.
            let most = if rate == 16_000 { 1.8 } else { 1.45 };
            assert!((1.2..most).contains(&sent), "{sent} times the rate of {rate} with ticks of {tick} ms");
        }
    }
    let burst = sent_in(4_000_000, SECOND, SECOND);
    assert!(burst < 400_000.0, "{burst} bytes at once");
}
