//! Bench of links: what friends cost that are on line and idle, how evenly a source serves many at
//! once, what handshakes, replays and garbage cost, and what a flood of strangers, or one of requests
//! for circuits from a friend, does to other friends.
//! Real `kith` processes on loopback (handshakes: the core alone), each figure next to a reference of
//! the same run.
//!
//! `cargo bench -p kith-node --bench links -- [idle] [pull] [handshake] [flood] [creations]`; default
//! all five.

// A bench that can't go on has nothing to report but why.
#![allow(clippy::unwrap_used, clippy::panic)]

mod creations;
#[allow(dead_code)]
mod figures;
#[path = "../e2e/flood.rs"]
mod flood;
// The same nodes as in the end-to-end tests; the bench needs only some of their verbs.
#[allow(dead_code)]
#[path = "../e2e/harness.rs"]
mod harness;

use std::collections::VecDeque;
use std::hint::black_box;
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use creations::{Asked, Creations, Rogue, Wire};
use figures::*;
use flood::{Counts, Flood};
use harness::*;
use kith_crypto::identity::Identity;
use kith_crypto::noise::{Handshake, Pattern};
use kith_crypto::rng::Rng;
use kith_crypto::secret::Key;
use kith_tests::forge::{BEGINNING_MS, Bare, Flights, key_of, person, x25519};

const FRIENDS: usize = 15;
const IDLE: Duration = Duration::from_secs(30);
/// Until catalogues and first messages are through.
const QUIET: Duration = Duration::from_secs(10);
/// Bytes of the object that all friends pull.
const OBJECT: u64 = 64 << 20;
const STEP: Duration = Duration::from_secs(600);
/// Each kind of first bytes is measured so often.
const ROUNDS: usize = 400;
const RESTARTS: usize = 10;
const FLOOD: Duration = Duration::from_secs(10);
const FLOOD_PER_SECOND: u32 = 10_000;
/// A friend fetches something new so often meanwhile.
const FETCH_EVERY: Duration = Duration::from_millis(160);
const FETCHES: usize = 60;
/// Ten seconds without a flood, with one elsewhere and with one here, so many times.
const FLOODS: usize = 3;

fn main() {
    // cargo adds flags of its own (`--bench`).
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let wants = |what: &str| wanted.is_empty() || wanted.iter().any(|w| w == what);
    println!("{}", machine());
    if cfg!(debug_assertions) {
        println!("THIS IS A DEBUG BUILD: its figures say nothing");
    }
    let mut table = Table::default();
    if wants("handshake") {
        handshakes(&mut table);
        restarts(&mut table);
    }
    if wants("idle") || wants("pull") {
        let (source, friends) = star();
        if wants("idle") {
            idle(&source, &friends, &mut table);
        }
        if wants("pull") {
            pull(&source, &friends, &mut table);
        }
    }
    if wants("flood") {
        flood(&mut table);
    }
    if wants("creations") {
        creations(&mut table);
    }
    table.print();
}

// ---- many friends -------------------------------------------------------------------------------

/// One node and fifteen friends of it, all connected.
fn star() -> (Node, Vec<Node>) {
    eprintln!("{FRIENDS} friends connect");
    let source = Node::start("Ana");
    let friends: Vec<Node> = (1..=FRIENDS).map(|n| Node::start(&format!("friend {n}"))).collect();
    friends.iter().for_each(|friend| befriend(&source, friend));
    (source, friends)
}

fn idle(source: &Node, friends: &[Node], table: &mut Table) {
    eprintln!("idling");
    let_pass(QUIET);
    let before = Usage::of(source);
    let before_friends: Vec<Usage> = friends.iter().map(Usage::of).collect();
    let begun = Instant::now();
    let_pass(IDLE);
    let seconds = begun.elapsed().as_secs_f64();
    let share = Usage::of(source).since(&before) / seconds * 100.0;
    table.add("idle, 15 friends: % of a core", "", share);
    for (friend, before) in friends.iter().zip(&before_friends) {
        let share = Usage::of(friend).since(before) / seconds * 100.0;
        table.add("idle, 1 friend (each of the 15): % of a core", "", share);
        table.add("idle, 1 friend: resident MB", "", memory_mb(friend, "VmRSS:"));
    }
    table.add("idle, 15 friends: resident MB", "", memory_mb(source, "VmRSS:"));
    assert!(friends.iter().all(|friend| is_online(source, &friend.name)), "all stay on line");
}

/// How even some rates are: 1 when all are equal, 1/n when one has everything (Jain 1984).
fn jain(rates: &[f64]) -> f64 {
    let sum: f64 = rates.iter().sum();
    sum * sum / (rates.len() as f64 * rates.iter().map(|r| r * r).sum::<f64>())
}

fn sent_to_each(source: &Node) -> Vec<f64> {
    let list = json(source, &["friend", "list"]);
    list.as_array().unwrap().iter().map(|row| row["sent_bytes"].as_f64().unwrap()).collect()
}

fn pull(source: &Node, friends: &[Node], table: &mut Table) {
    eprintln!("all friends pull one object at once");
    let bytes = random_bytes(OBJECT as usize);
    let file = source.scratch("source.bin");
    std::fs::write(&file, &bytes).unwrap();
    let args = ["publish", file.to_str().unwrap(), "--title", "everybody", "--to", "friends", "--any-file"];
    let id = id_of(&json(source, &args));
    for friend in friends {
        wait_until(STEP, "a friend sees it", || found(friend, "everybody", &id).is_some());
    }
    let all = OBJECT * FRIENDS as u64;
    let gib = all as f64 / (1_u64 << 30) as f64;
    let raw = raw_copy(all);
    forget_peak(source);
    let before: Vec<Usage> = friends.iter().chain([source]).map(Usage::of).collect();
    let sent_before = sent_to_each(source);
    let begun = Instant::now();
    // Rates in the middle, when all are at work; and how long each took in the end.
    let (seconds, middle) = thread::scope(|scope| {
        let gets: Vec<_> = friends
            .iter()
            .map(|friend| {
                let id = &id;
                scope.spawn(move || {
                    let get = command(&friend.home, &["get", id, "--json"]);
                    Running::start(get, b"").finish(STEP).expect_code(&[0]);
                    begun.elapsed().as_secs_f64()
                })
            })
            .collect();
        let mut middle = Vec::new();
        let half = all as f64 / 2.0;
        wait_until(STEP, "half of it has left", || {
            middle = sent_to_each(source).iter().zip(&sent_before).map(|(now, then)| now - then).collect();
            middle.iter().sum::<f64>() >= half || gets.iter().any(|g| g.is_finished())
        });
        (gets.into_iter().map(|get| get.join().unwrap()).collect::<Vec<f64>>(), middle)
    });
    let rates: Vec<f64> = seconds.iter().map(|s| OBJECT as f64 / s).collect();
    let last = seconds.iter().copied().fold(0.0, f64::max);
    table.add("15 pull 64 MiB each: Jain's index, when half had left", ">= 0.95", jain(&middle));
    table.add("15 pull 64 MiB each: Jain's index of whole times", "", jain(&rates));
    table.add("15 pull 64 MiB each: s for all", "", last);
    table.add("15 pull 64 MiB each: fraction of raw TCP speed", "", raw.seconds / last);
    let used: Vec<f64> =
        friends.iter().chain([source]).zip(&before).map(|(n, b)| Usage::of(n).since(b)).collect();
    let (source_cpu, friends_cpu) = (used[FRIENDS], used[..FRIENDS].iter().sum::<f64>());
    table.add("15 pull 64 MiB each: CPU-s/GiB, source", "", source_cpu / gib);
    table.add("15 pull 64 MiB each: CPU-s/GiB, friends", "", friends_cpu / gib);
    table.add("15 pull 64 MiB each: CPU, times raw TCP", "", (source_cpu + friends_cpu) / raw.cpu);
    table.add("15 pull 64 MiB each: peak MB, source", "", memory_mb(source, "VmHWM:"));
}

// ---- handshakes ---------------------------------------------------------------------------------

/// Nanoseconds.
fn timed<T>(act: impl FnOnce() -> T) -> f64 {
    let begun = Instant::now();
    black_box(act());
    begun.elapsed().as_nanos() as f64
}

fn noise_alone(a: &Identity, b: &Identity, rng: &mut Rng) {
    let psk = Key::new([2; 32]);
    let caller = Pattern::Friends { me: a, peer: &b.public().noise };
    let callee = Pattern::Friends { me: b, peer: &a.public().noise };
    let mut i = Handshake::initiate(caller, &psk, b"bench", rng).unwrap();
    let mut r = Handshake::respond(callee, &psk, b"bench", rng).unwrap();
    r.read(&i.write(&[]).unwrap()).unwrap();
    i.read(&r.write(&[]).unwrap()).unwrap();
    black_box((i.into_session().unwrap(), r.into_session().unwrap()));
}

/// Two cores meet; false if the connection ended without a link that counts.
fn meet(a: &mut Bare, b: &mut Bare, keys: [kith_onion::FriendKey; 2]) -> (f64, bool) {
    let (_, at_a) = a.dial();
    b.at = a.at;
    let (mut up, mut at_b) = (false, 0);
    let nanos = timed(|| {
        at_b = b.accept(1);
        let mut bytes = a.transmit(at_a);
        for _ in 0..10 {
            bytes = b.input(at_b, &bytes);
            bytes.extend(b.transmit(at_b));
            bytes = a.input(at_a, &bytes);
            bytes.extend(a.transmit(at_a));
            up = a.core.is_online(keys[1]) && b.core.is_online(keys[0]);
            if up {
                break;
            }
        }
    });
    // The connection is lost, so that the next round needs another.
    a.lose(at_a);
    b.lose(at_b);
    (nanos, up)
}

fn handshakes(table: &mut Table) {
    eprintln!("handshakes");
    let (me, friend) = (person(0), person(1));
    let mut rng = Rng::from_seed([3; 32]);
    let (mut a, mut b) = (Bare::new(0, &[&friend], 1), Bare::new(1, &[&me], 2));
    let keys = [key_of(&me), key_of(&friend)];
    // First links of a friendship may carry nothing but keys: those are not measured.
    for _ in 0..5 {
        meet(&mut a, &mut b, keys);
    }
    let mut target = Bare::new(1, &[&me], 3);
    let flights = Flights::friend(&me, friend.public());
    let old = flights.flight(BEGINNING_MS, &mut rng);
    answer(&mut target, &old);
    let wrong = Flights { psk: Some(Key::new([9; 32])), ..Flights::friend(&me, friend.public()) };
    for round in 0..ROUNDS as u64 {
        let reference = timed(|| x25519([5; 32], friend.public().noise));
        table.add("one X25519: us", "", reference / 1e3);
        let alone = timed(|| noise_alone(&me, &friend, &mut rng));
        table.add("Noise KK alone, both ends: times X25519", "", alone / reference);
        let (met, up) = meet(&mut a, &mut b, keys);
        if up {
            table.add("reconnect to a link that counts, both ends: us", "", met / 1e3);
            table.add("reconnect, both ends: times Noise KK alone", "", met / alone);
        }
        let garbage = rng.bytes::<600>();
        let cost = timed(|| answer(&mut target, &garbage));
        table.add("a connection with garbage: us", "", cost / 1e3);
        table.add("a connection with garbage: times X25519", "", cost / reference);
        let cost = timed(|| assert_eq!(answer(&mut target, &old), 0));
        table.add("a replayed flight: us", "", cost / 1e3);
        table.add("a replayed flight: times X25519", "<= 0.5", cost / reference);
        let flight = wrong.flight(BEGINNING_MS + 1 + round, &mut rng);
        let cost = timed(|| assert_eq!(answer(&mut target, &flight), 0));
        table.add("a friend's flight with a wrong PSK: times X25519", "", cost / reference);
        let flight = flights.flight(BEGINNING_MS + 1 + round, &mut rng);
        let cost = timed(|| assert!(answer(&mut target, &flight) > 0));
        table.add("a genuine flight answered: times X25519", "", cost / reference);
    }
}

/// The same with processes: a friend that ends and starts again.
fn restarts(table: &mut Table) {
    eprintln!("a friend restarts");
    let [a, mut b] = line_of::<2>();
    for _ in 0..RESTARTS {
        assert!(b.terminate().success());
        wait_until(STEP, "the friend is gone", || !is_online(&a, "Bo"));
        let begun = Instant::now();
        b.restart();
        wait_connected(&a, &b);
        table.add("friend started again -> on line on both sides: s", "", begun.elapsed().as_secs_f64());
    }
}

/// A connection that brings this and goes: bytes of the answer.
fn answer(bare: &mut Bare, flight: &[u8]) -> usize {
    let conn = bare.accept(3);
    let came = bare.input(conn, flight).len();
    bare.lose(conn);
    came
}

// ---- a flood ------------------------------------------------------------------------------------

fn flood(table: &mut Table) {
    eprintln!("a flood");
    let [a, b] = line_of::<2>();
    let mut ids = small_objects(&a, &b);

    // The load alone takes its share of the machine: the same at somebody else's listener.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let elsewhere = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let mut held = VecDeque::new();
        for stream in listener.incoming().map_while(Result::ok) {
            held.push_back(stream);
            if held.len() > 64 {
                held.pop_front();
            }
        }
    });
    let begin = |address: &str| {
        let flood = Flood::start(address, 2, FLOOD_PER_SECOND);
        move || flood.stop()
    };
    let here = a.listen();
    for _ in 0..FLOODS {
        let quiet = fetches(&a, &b, &mut ids, "no flood", table, || Counts::default as fn() -> Counts);
        let other = fetches(&a, &b, &mut ids, "flood elsewhere", table, || begin(&elsewhere));
        let at_node = fetches(&a, &b, &mut ids, "flood", table, || begin(&here));
        table.add("get of 60 KB, p95: flood, times no flood", "", at_node / quiet);
        table.add("get of 60 KB, p95: flood, times flood elsewhere", "<= 1.1", at_node / other);
    }
    assert!(is_online(&a, "Bo") && is_online(&b, "Ana"));
}

/// Enough of them for all rounds; the friend knows of all.
fn small_objects(a: &Node, b: &Node) -> VecDeque<String> {
    let count = 3 * FLOODS * FETCHES;
    let ids: VecDeque<String> = (0..count)
        .map(|n| {
            let (path, _) = random_file(a, "small.bin", 60_000);
            id_of(&publish(a, &path, &format!("small{n}"), "friends"))
        })
        .collect();
    wait_found(b, &format!("small{}", count - 1), ids.back().unwrap());
    let_pass(QUIET);
    ids
}

/// What a friend's fetches of small objects take, for ten seconds; sorted milliseconds.
fn gets(b: &Node, ids: &mut VecDeque<String>, begun: Instant) -> Vec<f64> {
    let mut times = Vec::new();
    for n in 0..FETCHES {
        let_pass((FETCH_EVERY * n as u32).saturating_sub(begun.elapsed()));
        if begun.elapsed() > FLOOD {
            break;
        }
        let Some(id) = ids.pop_front() else { break };
        let one = Instant::now();
        kith(b, &["get", &id, "--json"]).expect_code(&[0]);
        times.push(one.elapsed().as_secs_f64() * 1e3);
    }
    let_pass(FLOOD.saturating_sub(begun.elapsed()));
    times.sort_by(f64::total_cmp);
    times
}

fn p95(sorted: &[f64]) -> f64 {
    sorted[sorted.len() * 95 / 100]
}

/// A friend fetches small objects for ten seconds; returns the 95th percentile in milliseconds.
fn fetches<S: FnOnce() -> Counts>(
    a: &Node,
    b: &Node,
    ids: &mut VecDeque<String>,
    name: &str,
    table: &mut Table,
    begin: impl FnOnce() -> S,
) -> f64 {
    eprintln!("{name}");
    forget_peak(a);
    let (before, own_before) = (Usage::of(a), own_cpu());
    let begun = Instant::now();
    let end = begin();
    let times = gets(b, ids, begun);
    let counts = end();
    let seconds = begun.elapsed().as_secs_f64();
    assert_eq!(counts.answered, 0, "strangers got bytes: {counts:?}");
    if counts.connected > 0 {
        table.add(
            &format!("{name}: connections a second"),
            "10000",
            counts.connected as f64 / counts.seconds,
        );
        let away = counts.turned_away as f64 / counts.seconds;
        table.add(&format!("{name}: turned away by a full queue, a second"), "", away);
        table.add(&format!("{name}: bytes sent to strangers"), "0", counts.answered as f64);
        let load = (own_cpu() - own_before) / seconds * 100.0;
        table.add(&format!("{name}: CPU of the load, % of a core"), "", load);
    }
    let share = Usage::of(a).since(&before) / seconds * 100.0;
    table.add(&format!("{name}: CPU of the node, % of a core"), "", share);
    table.add(&format!("{name}: peak MB of the node"), "", memory_mb(a, "VmHWM:"));
    table.add(&format!("{name}: get of 60 KB, median ms"), "", median(&times));
    table.add(&format!("{name}: get of 60 KB, p95 ms"), "", p95(&times));
    p95(&times)
}

// ---- circuits that a friend asks for ------------------------------------------------------------

/// How long the flood to nobody is measured.
const ALONE: Duration = Duration::from_secs(3);

/// One friend asks for circuits without end; another one fetches meanwhile.
fn creations(table: &mut Table) {
    eprintln!("a flood of creations");
    // What the load can do when everything is read.
    let (cpu, alone) = (own_cpu(), Creations::start(Wire::to_nobody(), FLOOD_PER_SECOND));
    let_pass(ALONE);
    let asked = alone.stop();
    table.add("creations to nobody: a second", "10000", asked.sent as f64 / asked.seconds);
    let load = (own_cpu() - cpu) / asked.seconds * 100.0;
    table.add("creations to nobody: CPU of load and reader, % of a core", "", load);

    let [a, b] = line_of::<2>();
    // The load alone takes its share of the machine: the same against somebody else's node.
    let beside = Node::start("Dora");
    let mut here = Rogue::befriend(&a, "Mallory");
    let mut elsewhere = Rogue::befriend(&beside, "Mallory");
    let mut ids = small_objects(&a, &b);
    let mut all = [const { Vec::new() }; 3];
    for _ in 0..FLOODS {
        let quiet = asked_for(&a, &b, &mut ids, "no creations", table, None);
        let other = asked_for(&a, &b, &mut ids, "creations elsewhere", table, Some(&mut elsewhere));
        let at_node = asked_for(&a, &b, &mut ids, "creations", table, Some(&mut here));
        let times = median(&at_node);
        table.add("get of 60 KB, median: creations, times none", "<= 1.1", times / median(&quiet));
        table.add("get of 60 KB, median: creations, times elsewhere", "<= 1.1", times / median(&other));
        all.iter_mut().zip([quiet, other, at_node]).for_each(|(all, times)| all.extend(times));
    }
    // A round has too few fetches for a steady 95th percentile.
    all.iter_mut().for_each(|times| times.sort_by(f64::total_cmp));
    let [quiet, other, at_node] = all.each_ref().map(|times| p95(times));
    table.add("get of 60 KB, p95 of all rounds: creations, times none", "<= 1.1", at_node / quiet);
    table.add("get of 60 KB, p95 of all rounds: creations, times elsewhere", "<= 1.1", at_node / other);
    assert!(is_online(&a, "Bo") && is_online(&b, "Ana"));
}

/// Ten seconds of fetches; what they took, sorted.
fn asked_for(
    a: &Node,
    b: &Node,
    ids: &mut VecDeque<String>,
    name: &str,
    table: &mut Table,
    rogue: Option<&mut Rogue>,
) -> Vec<f64> {
    eprintln!("{name}");
    let wire = rogue.map(Rogue::call);
    forget_peak(a);
    let memory_before = memory_mb(a, "VmRSS:");
    let flood = wire.map(|wire| Creations::start(wire, FLOOD_PER_SECOND));
    let (before, own_before, begun) = (Usage::of(a), own_cpu(), Instant::now());
    let times = gets(b, ids, begun);
    let seconds = begun.elapsed().as_secs_f64();
    let share = Usage::of(a).since(&before) / seconds * 100.0;
    let load = (own_cpu() - own_before) / seconds * 100.0;
    let mut add = |what: &str, figure: f64| table.add(&format!("{name}: {what}"), "", figure);
    if let Some(Asked { sent, sent_late, made, is_closed, seconds, seconds_late }) =
        flood.map(Creations::stop)
    {
        assert!(!is_closed, "the node bears with a friend who keeps to the form");
        add("a second, as fast as the node reads", sent as f64 / seconds);
        add("the same in the second half", sent_late as f64 / seconds_late);
        add("circuits made a second", made as f64 / seconds);
    }
    add("CPU of the load, % of a core", load);
    add("CPU of the node, % of a core", share);
    add("resident MB before", memory_before);
    add("resident MB at most", memory_mb(a, "VmHWM:"));
    add("resident MB grew by at most", memory_mb(a, "VmHWM:") - memory_before);
    let_pass(Duration::from_secs(1));
    add("resident MB after", memory_mb(a, "VmRSS:"));
    add("get of 60 KB, median ms", median(&times));
    add("get of 60 KB, p95 ms", p95(&times));
    times
}
