//! Bad input and faults at circuits: one test for each row of the list. A friend with good keys says
//! what no honest node says; the others run the shipped core, in virtual time.
//!
//! | Row | What happens | Test |
//! |---|---|---|
//! | 31 | cells on a circuit that is not there | `cells_of_no_circuit_are_dropped` |
//! | 32 | unknown types, reserved bits, what only the end may say | `what_is_wrong_inside_ends_the_circuit_after_a_random_time` |
//! | 33 | a cell for another hop, or of the other direction | `cells_out_of_place_end_the_circuit` |
//! | 34 | a cell flipped, replayed, swapped, left out | `cells_out_of_place_end_the_circuit` |
//! | 35 | data before a circuit stands | `data_before_the_circuit_stands_ends_it` |
//! | 36 | a creation of a wrong form | `creations_of_a_wrong_form_end_the_link` |
//! | 37, 38 | on to oneself, back, to nobody, to a friend off line | `on_to_nobody_takes_as_long_as_on_to_somebody` |
//! | 39 | 100,000 creations from one friend | `a_flood_of_creations_is_felt_by_who_makes_it` |
//! | 40 | numbers in use, too many circuits | `numbers_in_use_and_too_many_circuits` |
//! | 41 | a builder that never reads | `a_builder_that_never_reads_is_bounded` |
//! | 42 | credit that was never given | `credit_beyond_any_window_ends_the_link` |
//! | 43 | ends by the dozen, with a reason in them | `ends_have_no_reason_and_come_at_random_times` |
//! | 44 | padding for ever | `padding_keeps_no_circuit_and_pings_cost_nothing` |
//! | 45 | a relay restarts in the middle of a stream | `relays_that_restart_cost_no_byte_and_no_guard` |
//!
//! Row 33 says "PRP output random": the layer here is a stack of tags, so the tag fails instead. Row 36
//! speaks of slots of a creation packet: circuits are telescoped and have none; what is checked is the
//! form of `CREATE`. Row 42: there are no acknowledgements end to end, credit goes from link to link.
//! What circuits are used for: `circuit_use.rs`. `KITH_SIM_SEEDS=n` runs more seeds.

use kith_crypto::circuit::{BODY_LEN, CREATE_LEN, Layers, OnionKey};
use kith_crypto::content::Position;
use kith_onion::budget::Budgets;
use kith_onion::catalogue::Audience;
use kith_onion::cell::{Command, encode_credits};
use kith_onion::circuit::{Create, Relayed};
use kith_onion::handle::{Handle, Listed};
use kith_onion::route::{Pair, Routes};
use kith_onion::session::{Message, Want};
use kith_onion::{CircuitSettings, Privacy, Route, Trust};
use kith_tests::sim::{Came, NodeId, Outcome, Rogue, RogueCircuit, World, seeds};
use kith_tests::stats::same_distribution;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// `DESTROY` is passed on after so long at most.
const MOST: Duration = Duration::from_millis(500);
/// The rogue, the relay that it talks to, and a friend of that relay who becomes a rogue too.
const ROGUE: NodeId = 7;
const RELAY: NodeId = 0;
const SECOND_ROGUE: NodeId = 8;

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn quick() -> CircuitSettings {
    World::quick_circuits()
}

/// A ring of seven with chords and two more friends of the first: node 0 has 1, 3, 6, 7 and 8.
fn around_a_relay(seed: u64) -> World {
    let ring = (0..7).map(|id| (id, (id + 1) % 7));
    let friends: Vec<_> = ring.chain([(0, 3), (1, 4), (2, 5), (3, 6), (7, 0), (8, 0)]).collect();
    let mut world = World::of_friends(seed, 9, &friends, Privacy::Fast, quick());
    world.run(10 * SECOND);
    world
}

fn rogue_at_a_relay(seed: u64) -> (World, Rogue) {
    let mut world = around_a_relay(seed);
    let rogue = world.rogue(ROGUE, RELAY);
    assert!(rogue.key.is_some(), "the relay made a key for its friend");
    (world, rogue)
}

fn entry(circuit: &RogueCircuit, handle: Handle) -> Listed {
    *circuit.list.iter().find(|l| l.handle == handle).expect("it is listed")
}

/// A circuit of two relays: the one that the rogue knows, and its friend 1.
fn two_relays(world: &mut World, rogue: &mut Rogue) -> RogueCircuit {
    let mut circuit = rogue.create(world).expect("a circuit");
    let next = entry(&circuit, world.handle(RELAY, 1));
    assert!(rogue.extend(world, &mut circuit, &next), "it goes on");
    circuit
}

/// After how long the relay ended a circuit over what was just sent, if it did.
fn ends(world: &mut World, rogue: &mut Rogue, circ: u32) -> Option<Duration> {
    let sent = world.now;
    rogue.run_until(world, 2 * SECOND, |r| r.is_ended(circ).is_some());
    rogue.is_ended(circ).map(|at| at.saturating_sub(sent))
}

/// What passes from the rogue through the relay.
fn passed(world: &World) -> u64 {
    world.nodes[RELAY].core().traffic(world.nodes[ROGUE].key()).relayed
}

// Row 31.

#[test]
fn cells_of_no_circuit_are_dropped() {
    seeds::run("cells_of_no_circuit_are_dropped", 3, |seed| {
        let (mut world, mut rogue) = rogue_at_a_relay(seed);
        for circ in [rogue.fresh(), rogue.fresh() + 1, 0xFFFF_FFFE, 0xFFFF_FFFF] {
            rogue.send(circ, Command::Relay, &[7; BODY_LEN]);
            rogue.send(circ, Command::Created, &[7; kith_onion::circuit::CREATED_LEN]);
            rogue.send(circ, Command::Destroy, &[]);
            rogue.send(circ, Command::Data, &[7; BODY_LEN]);
        }
        rogue.run(&mut world, SECOND);
        assert!(!rogue.is_closed(&world) && rogue.cells.is_empty(), "not a word: {:?}", rogue.cells);
        assert!(rogue.create(&mut world).is_some(), "the control: a circuit can be had");
    });
}

// Row 32.

type Wrong = fn(&mut World, &mut RogueCircuit) -> [u8; BODY_LEN];

/// Everything that is wrong with a cell.
const WRONG: [(&str, Wrong); 9] = [
    ("an unknown type", |w, c| payload(w, c, |p| p[2] = 77)),
    ("type 0", |w, c| payload(w, c, |p| p[2] = 0)),
    ("reserved bits", |w, c| payload(w, c, |p| p[6] = 1)),
    ("flags", |w, c| payload(w, c, |p| p[3] = 0x80)),
    ("something behind the data", |w, c| payload(w, c, |p| p[3000] = 1)),
    ("a length beyond the cell", |w, c| payload(w, c, |p| p[5] = 0xFF)),
    ("what only the end says", |w, c| c.sealed(w, 0, &Relayed::Pong)),
    ("a close of no stream", |w, c| c.sealed(w, 9, &Relayed::Close)),
    ("a flipped bit", |w, c| {
        let mut body = c.sealed(w, 0, &Relayed::Ping(millis(50)));
        body[1234] ^= 1;
        body
    }),
];

/// A cell of a ping with something changed in its payload.
fn payload(world: &mut World, circuit: &mut RogueCircuit, change: impl FnOnce(&mut [u8])) -> [u8; BODY_LEN] {
    let mut body = [0; BODY_LEN];
    Relayed::Pong.write(0, &mut body);
    change(&mut body[kith_crypto::circuit::STACK_LEN..]);
    circuit.layers.seal(&mut body, &mut world.rng);
    body
}

#[test]
fn what_is_wrong_inside_ends_the_circuit_after_a_random_time() {
    const EACH: usize = 60;
    let (mut world, mut rogue) = rogue_at_a_relay(1);
    let mut times: Vec<Vec<f64>> = Vec::new();
    for (name, wrong) in WRONG {
        let mut after = Vec::new();
        for _ in 0..EACH {
            let mut circuit = rogue.create(&mut world).expect("a circuit");
            let body = wrong(&mut world, &mut circuit);
            rogue.say(&mut world, circuit.circ, Command::Relay, &body);
            let time = ends(&mut world, &mut rogue, circuit.circ).unwrap_or_else(|| panic!("{name}"));
            assert!(time < MOST + millis(60), "{name}: {time:?}");
            after.push(time.as_secs_f64());
            let end = rogue.cells.iter().find(|c| c.circ == circuit.circ).expect("the end");
            assert!(end.body.iter().all(|b| *b == 0), "without a reason");
            assert!(!rogue.is_closed(&world), "{name}: the link stays");
        }
        times.push(after);
    }
    let all: Vec<f64> = times.iter().flatten().copied().collect();
    assert!(all.iter().any(|t| *t < 0.1) && all.iter().any(|t| *t > 0.45), "it is drawn");
    for ((name, _), after) in WRONG.iter().zip(&times) {
        let p = same_distribution(&all, after);
        assert!(p > 0.001, "{name}: the time tells it, p = {p}");
    }
}

// Rows 33 and 34.

#[test]
fn cells_out_of_place_end_the_circuit() {
    seeds::run("cells_out_of_place_end_the_circuit", 2, |seed| {
        let (mut world, mut rogue) = rogue_at_a_relay(seed);
        let ping = Relayed::Ping(millis(50));
        for case in ["nothing", "flip", "replay", "swap", "leave out", "other hop", "other direction"] {
            let mut circuit = two_relays(&mut world, &mut rogue);
            let mut honest = Layers::default();
            let before = passed(&world);
            let mut cells: Vec<[u8; BODY_LEN]> = Vec::new();
            for _ in 0..3 {
                cells.push(circuit.sealed(&mut world, 0, &ping));
            }
            match case {
                "flip" => {
                    let at = world.rng.range(0, BODY_LEN as u64 - 17) as usize;
                    cells[0][at] ^= 1 << world.rng.range(0, 7);
                }
                "replay" => cells[1] = cells[0],
                "swap" => cells.swap(0, 1),
                "leave out" => drop(cells.remove(0)),
                "other hop" => {
                    // For the second relay alone, as if the first were not there.
                    std::mem::swap(&mut honest, &mut circuit.layers);
                    let (mut other, mut body) = (two_relays(&mut world, &mut rogue), [0; BODY_LEN]);
                    ping.write(0, &mut body);
                    other.layers.seal(&mut body, &mut world.rng);
                    cells[0] = body;
                }
                "other direction" => {
                    std::mem::swap(&mut honest, &mut circuit.layers);
                    // A pong as it comes from the relay, sent back.
                    let mut other = two_relays(&mut world, &mut rogue);
                    rogue.tell(&mut world, &mut other, 0, &ping);
                    let came = rogue.next(&mut world, other.circ, SECOND).expect("a pong");
                    cells[0] = *came.body;
                }
                _ => {}
            }
            let sent = world.now;
            cells.iter().for_each(|body| rogue.send(circuit.circ, Command::Relay, body));
            let ended = ends(&mut world, &mut rogue, circuit.circ);
            let cells = (passed(&world) - before) / 4096;
            match case {
                "nothing" => {
                    assert_eq!((ended, cells), (None, 3), "the control");
                    assert!(rogue.cells.iter().any(|c| c.circ == circuit.circ), "pongs come back");
                }
                "replay" => assert!(ended.is_some() && cells == 1, "{case}: {cells} cells passed"),
                "other hop" | "other direction" => assert!(ended.is_some(), "{case}"),
                _ => assert!(ended.is_some() && cells == 0, "{case}: {cells} cells passed the first relay"),
            }
            assert!(ended.is_none_or(|after| after < MOST + millis(100)), "{case}: {:?}", world.now - sent);
            rogue.cells.clear();
            assert!(!rogue.is_closed(&world));
            world.run(5 * SECOND);
        }
    });
}

/// The builder itself is the first honest one that can check what comes back.
#[test]
fn a_changed_answer_ends_the_circuit_at_the_builder() {
    seeds::run("a_changed_answer_ends_the_circuit_at_the_builder", 2, |seed| {
        for flip in [false, true] {
            let mut world = around_a_relay(seed);
            let mut rogue = world.rogue(ROGUE, RELAY);
            // The relay is a builder only, and its friend, the rogue, is its first relay.
            let slow = CircuitSettings { relay: false, pace: 10 * SECOND, ..quick() };
            world.set_circuits(RELAY, Privacy::Fast, slow);
            rogue.run(&mut world, SECOND);
            rogue.cells.clear();
            let key = OnionKey::generate(&mut world.rng);
            rogue.announce(&mut world, 3, *key.public());
            world.set_trust(RELAY, ROGUE, Trust::Close);
            let asked = |r: &Rogue| r.cells.iter().any(|c| c.command == Command::Create);
            assert!(rogue.run_until(&mut world, 3 * MINUTE, asked), "a close friend is the guard");
            let came = rogue.cells.iter().find(|c| c.command == Command::Create).expect("it came").clone();
            let create = Create::decode(came.body.as_slice()).expect("a good form");
            let list = kith_onion::handle::encode_list(&[Listed {
                handle: Handle([1; 8]),
                key: *OnionKey::generate(&mut world.rng).public(),
                epoch: 3,
                uptime: 15,
                rate: 4,
                ageing: false,
            }]);
            let (mut layer, message) =
                kith_crypto::circuit::answer(&key, 3, &create.message, &list, &mut world.rng)
                    .expect("for me");
            rogue.say(&mut world, came.circ, Command::Created, &message);
            let extend = rogue.next_relay(&mut world, came.circ, MINUTE).expect("it goes on");
            let mut body = *extend.body;
            layer.forward(&mut body).expect("an honest builder");
            let Ok((0, Relayed::Extend { .. })) = Relayed::read(&body) else { panic!("a wish to go on") };
            let mut body = [0; BODY_LEN];
            let took = millis(10);
            Relayed::Extended { message: Some(vec![9; kith_onion::circuit::CREATED_LEN]), took }
                .write(0, &mut body);
            let mut ping = [0; BODY_LEN];
            Relayed::Data(vec![0; kith_onion::link::TUNNEL_RECORD_LEN]).write(0, &mut ping);
            layer.originate(&mut body, &mut world.rng);
            if flip {
                body[99] ^= 4;
            }
            let before = world.circuits(RELAY).own.len();
            rogue.say(&mut world, came.circ, Command::Relay, &body);
            // A good cell with a bad answer in it ends the circuit too. Nothing comes of it any more, and
            // nothing shows how soon the builder knew: it ends at the time of its next cell.
            let is_ended = |r: &Rogue| r.is_ended(came.circ).is_some();
            assert!(before > 0 && rogue.run_until(&mut world, MINUTE, is_ended));
            let more = |c: &&Came| c.circ == came.circ && c.command == Command::Relay;
            assert_eq!(rogue.cells.iter().filter(more).count(), 0, "nothing comes of it");
            // Gaps are a sixth of the pace at least.
            assert!(rogue.is_ended(came.circ).is_some_and(|at| at > extend.at + millis(1_600)));
        }
    });
}

// Row 35.

#[test]
fn data_before_the_circuit_stands_ends_it() {
    seeds::run("data_before_the_circuit_stands_ends_it", 3, |seed| {
        // From the builder's side: there is no circuit yet, so there is nothing to end.
        let (mut world, mut rogue) = rogue_at_a_relay(seed);
        let circ = rogue.fresh();
        let epoch = rogue.key.expect("a key").0;
        rogue.send(circ, Command::Create, &Create { epoch, message: [3; CREATE_LEN] }.encode());
        rogue.send(circ, Command::Relay, &[3; BODY_LEN]);
        rogue.run(&mut world, SECOND);
        assert!(!rogue.is_closed(&world) && rogue.cells.is_empty(), "a creation for no key is not answered");

        // From the next relay's side, before it has answered: that circuit ends.
        let mut next = world.rogue(SECOND_ROGUE, RELAY);
        let key = OnionKey::generate(&mut world.rng);
        next.announce(&mut world, 3, *key.public());
        let mut circuit = rogue.create(&mut world).expect("a circuit");
        let create = Create { epoch: 3, message: [1; CREATE_LEN] };
        let handle = world.handle(RELAY, SECOND_ROGUE);
        rogue.tell(&mut world, &mut circuit, 0, &Relayed::Extend { handle, create, wait: 20 * SECOND });
        let came = next.next_create(&mut world, &create.message, SECOND).expect("it is asked");
        next.say(&mut world, came.circ, Command::Relay, &[5; BODY_LEN]);
        next.run(&mut world, SECOND);
        assert!(ends(&mut world, &mut rogue, circuit.circ).is_some(), "the builder's side ends");
        assert!(next.is_ended(came.circ).is_some() && !next.is_closed(&world), "and the other");
    });
}

// Row 36.

#[test]
fn creations_of_a_wrong_form_end_the_link() {
    let (mut world, mut rogue) = rogue_at_a_relay(1);
    let (epoch, _) = rogue.key.expect("a key");
    let circ = rogue.fresh();
    let mut front = Create { epoch, message: [3; CREATE_LEN] }.encode();
    front.push(1);
    rogue.say(&mut world, circ, Command::Create, &front);
    rogue.run(&mut world, SECOND);
    assert!(rogue.is_closed(&world), "something stands behind the message");
    // Keys of another day, and of no day, are not answered; the link stays.
    let (mut world, mut rogue) = rogue_at_a_relay(2);
    let (epoch, key) = rogue.key.expect("a key");
    for other in [epoch - 1, epoch + 1, 0, u16::MAX] {
        let (_, message) = kith_crypto::circuit::Building::start(&key, other, &mut world.rng).expect("a key");
        let circ = rogue.fresh();
        rogue.say(&mut world, circ, Command::Create, &Create { epoch: other, message }.encode());
    }
    rogue.run(&mut world, SECOND);
    assert!(rogue.cells.is_empty() && !rogue.is_closed(&world));
    assert!(rogue.create(&mut world).is_some(), "the control");
}

// Rows 37 and 38.

#[test]
fn on_to_nobody_takes_as_long_as_on_to_somebody() {
    seeds::run("on_to_nobody_takes_as_long_as_on_to_somebody", 2, |seed| {
        let (mut world, mut rogue) = rogue_at_a_relay(seed);
        let listed = rogue.create(&mut world).expect("a circuit").list;
        world.run(10 * SECOND);
        let handle = |w: &World, n| w.handle(RELAY, n);
        let (good, other, off, low) =
            (handle(&world, 1), handle(&world, 3), handle(&world, 8), handle(&world, 6));
        let key_of =
            |h: Handle| listed.iter().find(|l| l.handle == h).map_or(([9; 32], 1), |l| (l.key, l.epoch));
        let wait = millis(world.rng.range(200, 900));
        let mut kinds = vec![
            ("a friend", good, true),
            ("another friend", other, true),
            ("back", handle(&world, ROGUE), false),
            ("oneself", handle(&world, RELAY), false),
            ("no friend", handle(&world, 2), false),
            ("a friend of another lister", world.handle(1, 2), false),
            ("nothing", Handle([0; 8]), false),
        ];
        // What changes here is put before the rest.
        world.crash(8);
        world.set_trust(RELAY, 6, Trust::Low);
        world.run(SECOND);
        kinds.extend([("off line", off, false), ("marked low", low, false)]);
        let mut times = Vec::new();
        for (name, handle, goes_on) in kinds {
            let mut circuit = rogue.create(&mut world).expect("a circuit");
            let (key, epoch) = key_of(handle);
            let (_, message) =
                kith_crypto::circuit::Building::start(&key, epoch, &mut world.rng).expect("a key");
            rogue.run(&mut world, SECOND);
            let sent = world.now;
            let create = Create { epoch, message };
            rogue.tell(&mut world, &mut circuit, 0, &Relayed::Extend { handle, create, wait });
            let (at, _, answer) = rogue.hear(&mut world, &mut circuit, 3 * SECOND).expect("an answer");
            let Relayed::Extended { message, took } = answer else { panic!("{name}: {answer:?}") };
            assert_eq!(message.is_some(), goes_on, "{name}");
            assert!(goes_on || took.is_zero(), "{name}: refusals are all the same");
            times.push((name, at - sent));
            rogue.say(&mut world, circuit.circ, Command::Destroy, &[]);
            world.run(2 * SECOND);
        }
        let first = times[0].1;
        assert!(times.iter().all(|(_, time)| *time == first), "{times:?}");
        assert!(first >= wait && first < wait + millis(80), "{first:?} for {wait:?}");
    });
}

// Row 39.

/// A node fetches small things through circuits, one after the other: the 95th percentile.
fn fetches(world: &mut World, mut meanwhile: impl FnMut(&mut World)) -> Duration {
    let mut took = Vec::new();
    let caps: Vec<_> = (0..20).map(|_| world.publish(0, "clip", 1_000, Audience::Fof)).collect();
    assert!(world.run_until(MINUTE, |w| caps.iter().all(|cap| w.distance(2, cap).is_some())));
    for cap in &caps {
        for _ in 0..40 {
            meanwhile(world);
            world.run(millis(50));
        }
        world.wait_for_circuits(2, 1);
        let start = world.now;
        world.fetch(2, cap, Route::Onion);
        while world.outcome(2, cap).is_none() && world.now < start + 20 * SECOND {
            meanwhile(world);
            world.run_until(millis(5), |w| w.outcome(2, cap).is_some());
        }
        took.push(world.now - start);
    }
    took.sort();
    took[18]
}

#[test]
fn a_flood_of_creations_is_felt_by_who_makes_it() {
    let mut world = around_a_relay(1);
    world.wait_for_circuits(2, 3);
    world.nodes[RELAY].cpu = Some(20_000_000);
    let quiet = fetches(&mut world, |_| ());
    let (mut world, mut rogue) = rogue_at_a_relay(1);
    world.wait_for_circuits(2, 3);
    world.nodes[RELAY].cpu = Some(20_000_000);
    let epoch = rogue.key.expect("a key").0;
    let mut sent = 0;
    let mut flood = |world: &mut World, rogue: &mut Rogue, count: usize| {
        for _ in 0..count {
            if rogue.room(world) < 16 * 4096 {
                return;
            }
            let circ = rogue.fresh();
            rogue.send(circ, Command::Create, &Create { epoch, message: [9; CREATE_LEN] }.encode());
            sent += 1;
        }
        rogue.flush(world);
        rogue.pump(world);
        rogue.cells.clear();
    };
    let before = world.nodes[RELAY].core().load();
    let loud = fetches(&mut world, |w| flood(w, &mut rogue, 50));
    for _ in 0..20_000 {
        flood(&mut world, &mut rogue, 8);
        world.run(millis(40));
        let load = world.nodes[RELAY].core().load();
        assert!(
            load.circuits <= before.circuits + 64 + 30 && load.tunnels < 64 && load.urgent < 200,
            "{load:?}"
        );
    }
    println!("{sent} creations; {quiet:?} became {loud:?}");
    assert!(sent >= 100_000, "{sent}");
    assert!(loud.as_secs_f64() <= quiet.as_secs_f64() * 1.1 + 0.02, "{quiet:?} became {loud:?}");
}

/// Circuits that go on are counted too: who makes many takes neither the right to go on from others
/// nor the places on a link. Before, all friends shared twenty a minute to each friend, and one could
/// fill the 64 places on a link, so that nobody else's circuits went on, not even the node's own.
#[test]
fn nobody_takes_all_circuits_to_a_friend() {
    let (mut world, mut rogue) = rogue_at_a_relay(1);
    let mut next = world.rogue(SECOND_ROGUE, RELAY);
    // Four minutes of a friend who makes all the circuits to node 1 that it can.
    let mut held = Vec::new();
    for round in 0..64 {
        if let Some(mut circuit) = rogue.create(&mut world) {
            let to = entry(&circuit, world.handle(RELAY, 1));
            if rogue.extend(&mut world, &mut circuit, &to) {
                held.push(circuit);
            }
        }
        rogue.run(&mut world, 4 * SECOND);
        next.run(&mut world, millis(1));
        // The other friend goes the same way all the time.
        if round % 16 == 15 {
            let mut circuit = next.create(&mut world).expect("there is room");
            let to = entry(&circuit, world.handle(RELAY, 1));
            assert!(next.extend(&mut world, &mut circuit, &to), "round {round}, {} are held", held.len());
        }
    }
    assert!((20..=40).contains(&held.len()), "{} circuits of one friend", held.len());
}

// Row 40.

#[test]
fn numbers_in_use_and_too_many_circuits() {
    let create = |world: &mut World, rogue: &Rogue| {
        let (epoch, key) = rogue.key.expect("a key");
        let (_, message) = kith_crypto::circuit::Building::start(&key, epoch, &mut world.rng).expect("a key");
        Create { epoch, message }.encode()
    };
    let (mut world, mut rogue) = rogue_at_a_relay(1);
    let circuit = rogue.create(&mut world).expect("a circuit");
    let again = create(&mut world, &rogue);
    rogue.say(&mut world, circuit.circ, Command::Create, &again);
    rogue.run(&mut world, SECOND);
    assert!(rogue.is_closed(&world), "no honest node takes a number twice");
    let (mut world, mut rogue) = rogue_at_a_relay(2);
    let (other_half, front) = (rogue.fresh() + 1, create(&mut world, &rogue));
    rogue.say(&mut world, other_half, Command::Create, &front);
    rogue.run(&mut world, SECOND);
    assert!(rogue.is_closed(&world), "nor one of the other half");

    let (mut world, mut rogue) = rogue_at_a_relay(3);
    let before = world.nodes[RELAY].core().load().circuits;
    let mut held = Vec::new();
    for _ in 0..80 {
        held.extend(rogue.create(&mut world));
        rogue.run(&mut world, millis(300));
    }
    assert_eq!(held.len(), 64, "so many, and the rest is not answered");
    assert!(world.nodes[RELAY].core().load().circuits <= before + 64 + 20 && !rogue.is_closed(&world));
    let gone = held.pop().expect("there are some");
    rogue.say(&mut world, gone.circ, Command::Destroy, &[]);
    rogue.run(&mut world, SECOND);
    assert!(rogue.create(&mut world).is_some(), "one ended, one can be had");
}

// Row 41.

/// Somebody asks for much over many circuits and reads nothing: most cells that wait in one place, and
/// how long others' fetches take meanwhile.
fn unread(budget: usize) -> (usize, Duration) {
    let (mut world, mut rogue) = rogue_at_a_relay(1);
    let cap = world.publish(2, "clip", 4_000_000, Audience::Fof);
    assert!(world.run_until(MINUTE, |w| w.distance(1, &cap).is_some()));
    world.wait_for_circuits(2, 4);
    let budgets = Budgets { relayed_cells: budget, ..Budgets::default() };
    (0..7).for_each(|node| world.act(node, |core, _| core.set_budgets(budgets)));
    rogue.reads = false;
    let mut next = world.rogue(SECOND_ROGUE, RELAY);
    for _ in 0..12 {
        let Some(mut circuit) = rogue.create(&mut world) else { continue };
        let next = entry(&circuit, world.handle(RELAY, 1));
        if !rogue.extend(&mut world, &mut circuit, &next) {
            continue;
        }
        let Some(mut session) = rogue.open(&mut world, &mut circuit, &cap.verify_cap()) else { continue };
        rogue.ask(
            &mut world,
            &mut circuit,
            &mut session,
            Message::Start { resume: true, first: 0, count: 0 },
        );
        let want = |n| Want { position: Position::Data(n), deadline_ms: u16::MAX };
        rogue.ask(&mut world, &mut circuit, &mut session, Message::Want((0..60).map(want).collect()));
        rogue.run(&mut world, 3 * SECOND);
    }
    next.run(&mut world, millis(10));
    assert!(next.create(&mut world).is_some(), "{:?}", world.nodes[RELAY].core().load());
    let mut most = 0;
    let took = fetches(&mut world, |w| {
        most = most.max((0..7).map(|n| w.nodes[n].core().load().relayed).max().unwrap_or(0));
        rogue.pump(w);
        rogue.flush(w);
    });
    assert!(!rogue.is_closed(&world), "the link stays, what waits too long goes");
    (most, took)
}

/// Above three quarters of the memory no circuit was made for anybody, whoever had filled it.
#[test]
fn a_builder_that_never_reads_is_bounded() {
    let (quiet_world, window) = (&mut around_a_relay(1), 256);
    quiet_world.wait_for_circuits(2, 4);
    let quiet = fetches(quiet_world, |_| ());
    let (most, took) = unread(Budgets::default().relayed_cells);
    assert!((32..=12 * window).contains(&most), "a window a circuit: {most} cells");
    assert!(took.as_secs_f64() <= quiet.as_secs_f64() * 1.1 + 0.05, "{quiet:?} became {took:?}");
    let (most, took) = unread(300);
    assert!(most <= 300, "{most} cells");
    assert!(took < quiet * 2, "the oldest went, others did not: {quiet:?} became {took:?}");
}

// Row 42.

#[test]
fn credit_beyond_any_window_ends_the_link() {
    let (mut world, mut rogue) = rogue_at_a_relay(1);
    let circuit = rogue.create(&mut world).expect("a circuit");
    rogue.send(0, Command::Credit, &encode_credits(&[(circuit.circ + 2, 65_000), (77, 9)]));
    rogue.run(&mut world, SECOND);
    assert!(!rogue.is_closed(&world), "for a circuit that is gone it means nothing");
    rogue.send(0, Command::Credit, &encode_credits(&[(circuit.circ, 300)]));
    rogue.run(&mut world, SECOND);
    assert!(rogue.is_closed(&world), "more than any window");

    // The other way round: cells that no credit was given for.
    let (mut world, mut rogue) = rogue_at_a_relay(2);
    let mut circuit = two_relays(&mut world, &mut rogue);
    for _ in 0..400 {
        let body = circuit.sealed(&mut world, 0, &Relayed::Ping(SECOND));
        rogue.send(circuit.circ, Command::Relay, &body);
    }
    rogue.run(&mut world, SECOND);
    assert!(rogue.is_closed(&world), "more cells than the window");
}

// Row 43.

#[test]
fn ends_have_no_reason_and_come_at_random_times() {
    let (mut world, mut rogue) = rogue_at_a_relay(1);
    let mut next = world.rogue(SECOND_ROGUE, RELAY);
    let key = OnionKey::generate(&mut world.rng);
    next.announce(&mut world, 3, *key.public());
    world.run(millis(100));
    let handle = world.handle(RELAY, SECOND_ROGUE);
    let mut far = Vec::new();
    let mut near = Vec::new();
    for _ in 0..18 {
        let mut circuit = rogue.create(&mut world).expect("a circuit");
        let (building, message) =
            kith_crypto::circuit::Building::start(key.public(), 3, &mut world.rng).expect("a key");
        let create = Create { epoch: 3, message };
        rogue.tell(&mut world, &mut circuit, 0, &Relayed::Extend { handle, create, wait: millis(400) });
        let came = next.next_create(&mut world, &message, SECOND).expect("it is asked");
        let list = kith_onion::handle::encode_list(&[]);
        let (_, message) =
            kith_crypto::circuit::answer(&key, 3, &message, &list, &mut world.rng).expect("for me");
        next.say(&mut world, came.circ, Command::Created, &message);
        let Some((_, _, Relayed::Extended { message: Some(message), .. })) =
            rogue.hear(&mut world, &mut circuit, 2 * SECOND)
        else {
            panic!("it goes on")
        };
        circuit.layers.push(building.finish(&message).expect("for me").0).expect("there is room");
        near.push(circuit.circ);
        far.push(came.circ);
        world.run(millis(300));
    }
    // All at once, again and again, and with a text in them.
    let sent = world.now;
    for _ in 0..20 {
        near.iter().for_each(|circ| rogue.send(*circ, Command::Destroy, b"because I say so"));
    }
    rogue.flush(&mut world);
    let all = |r: &Rogue| far.iter().all(|circ| r.is_ended(*circ).is_some());
    assert!(next.run_until(&mut world, 2 * SECOND, all), "all end");
    let mut after: Vec<Duration> =
        far.iter().map(|circ| next.is_ended(*circ).expect("it ended") - sent).collect();
    after.sort();
    assert!(after[17] < MOST + millis(150), "{after:?}");
    assert!(after[17] - after[0] > millis(200), "at times of their own: {after:?}");
    // The relay's own circuits, which nobody answers here, end too.
    let ends = next.cells.iter().filter(|c| c.command == Command::Destroy && far.contains(&c.circ));
    assert!(ends.clone().all(|c| c.body.iter().all(|b| *b == 0)), "and no word of the reason");
    assert_eq!(ends.count(), 18, "each once");
    assert!(!rogue.is_closed(&world) && !next.is_closed(&world));
}

// Row 44.

#[test]
fn padding_keeps_no_circuit_and_pings_cost_nothing() {
    let (mut world, mut rogue) = rogue_at_a_relay(1);
    for node in 0..7 {
        // The others are quiet, or an hour would take long.
        world.set_circuits(node, Privacy::Fast, CircuitSettings { pace: 10 * MINUTE, ..quick() });
    }
    let silent = rogue.create(&mut world).expect("a circuit");
    let mut pinged = rogue.create(&mut world).expect("another");
    for _ in 0..18 {
        rogue.tell(&mut world, &mut pinged, 0, &Relayed::Ping(millis(100)));
        let answer = rogue.hear(&mut world, &mut pinged, 5 * SECOND);
        assert!(matches!(answer, Some((_, 0, Relayed::Pong))), "{answer:?}");
        rogue.run(&mut world, 5 * MINUTE);
    }
    assert!(rogue.is_ended(silent.circ).is_some(), "pads of the link are no sign of life of a circuit");
    assert!(rogue.is_ended(pinged.circ).is_none() && !rogue.is_closed(&world), "cells of its own are");
    // Five pings that wait at once are more than any builder sends.
    for _ in 0..5 {
        let body = pinged.sealed(&mut world, 0, &Relayed::Ping(SECOND));
        rogue.send(pinged.circ, Command::Relay, &body);
    }
    assert!(ends(&mut world, &mut rogue, pinged.circ).is_some());
    rogue.run(&mut world, HOUR / 60);
}

// Row 45.

fn guard(world: &mut World, node: NodeId) -> Option<kith_onion::FriendKey> {
    world.nodes[node].journal.sync_all();
    let routes = world.nodes[node].journal.routes.clone()?;
    Routes::decode(&routes).ok()?.guard(Pair::Primary)
}

#[test]
fn relays_that_restart_cost_no_byte_and_no_guard() {
    seeds::run("relays_that_restart_cost_no_byte_and_no_guard", 3, |seed| {
        let mut world = World::ring(seed, 7, quick());
        world.quality.bandwidth = 400_000;
        let cap = world.publish(0, "Otters", 6_000_000, Audience::Fof);
        assert!(world.run_until(MINUTE, |w| w.distance(2, &cap).is_some()));
        world.wait_for_circuits(2, 5);
        let before = guard(&mut world, 2).expect("there is one");
        let blocks = world.truth[&cap.root].blocks.len();
        world.fetch(2, &cap, Route::Onion);
        let had = |w: &World| w.nodes[2].partial.get(&cap.root).map_or(0, |b| b.len());
        for victim in [1, 3, 4, 5, 6] {
            // Its own guard stays: a circuit over another is what must not be.
            if world.nodes[victim].key() == before || world.outcome(2, &cap).is_some() {
                continue;
            }
            let more = (had(&world) + 4).min(blocks);
            world.run_until(MINUTE, |w| had(w) >= more || w.outcome(2, &cap).is_some());
            world.nodes[victim].journal.sync_all();
            world.crash(victim);
            world.run(SECOND);
            world.start(victim);
        }
        assert!(world.run_until(5 * MINUTE, |w| w.outcome(2, &cap).is_some()));
        assert_eq!(world.outcome(2, &cap), Some(Outcome::Complete), "byte for byte the same");
        assert_eq!(guard(&mut world, 2), Some(before), "the same first relay");
        let received: u64 =
            [1, 3, 5].map(|n| world.nodes[2].core().traffic(world.nodes[n].key()).received).iter().sum();
        // Blocks that were under way are asked for again, and no others.
        assert!(received < 6_000_000 * 2, "{received} bytes came for six million");
    });
}
