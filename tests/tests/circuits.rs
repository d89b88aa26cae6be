//! Circuits in the simulator: building, use, faults and limits, with many seeds.

use kith_onion::catalogue::Audience;
use kith_onion::{CircuitSettings, OwnState, Route};
use kith_tests::sim::{NodeId, Outcome, World, seeds};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Circuits stand after seconds.
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
fn payload(
    world: &mut World,
    circuit: &mut RogueCircuit,
    change: impl FnOnce(&mut [u8]),
) -> [u8; BODY_LEN] {
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
            world.set_circuits(RELAY, Privacy::Fast, CircuitSettings { relay: false, ..quick() });
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
                kith_crypto::circuit::answer(&key, 3, &create.message, &list, &mut world.rng).expect("for me");
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
            let ended = ends(&mut world, &mut rogue, came.circ);
            // A good cell with a bad answer in it ends the circuit too.
            assert!(before > 0 && ended.is_some_and(|after| after < MOST + millis(100)), "{ended:?}");
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

fn ready(world: &World, node: NodeId) -> usize {
    let report = world.nodes[node].core().circuit_report(world.time(node));
    report.own.iter().filter(|c| c.state == OwnState::Ready).count()
}

fn wait_for_circuits(world: &mut World, node: NodeId, count: usize) {
    let there = world.run_until(2 * MINUTE, |w| ready(w, node) >= count);
    assert!(there, "{count} circuits: {:?}", world.nodes[node].core().circuit_report(world.time(node)));
}

#[test]
fn a_ring_of_seven_fetches_through_three_relays() {
    seeds::run("a_ring_of_seven_fetches_through_three_relays", 10, |seed| {
        let mut world = World::ring(seed, 7, quick());
        let cap = world.publish(0, "Otters", 700_000, Audience::Fof);
        assert!(world.run_until(MINUTE, |w| w.distance(2, &cap).is_some()), "it is found two links away");
        wait_for_circuits(&mut world, 2, 3);
        assert_eq!(world.fetch_now(2, &cap, Route::Onion, MINUTE), Outcome::Complete);
        let sessions = &world.nodes[2].fetches[&cap.root].sessions;
        assert!(sessions.iter().all(|links| *links == 4), "{sessions:?}");
    });
}
