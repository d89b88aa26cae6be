//! Side doors of circuits: what a friend's clock, a repeated answer, a friend's list or an absent first
//! relay must not bring about.

use kith_crypto::circuit::{BODY_LEN, Body, CREATE_LEN, OnionKey, RelayLayer};
use kith_crypto::content::{ReadCap, VerifyCap};
use kith_crypto::noise::{Handshake, Pattern};
use kith_onion::catalogue::Audience;
use kith_onion::cell::Command;
use kith_onion::circuit::{Create, Relayed, StreamId};
use kith_onion::handle::{Handle, Listed, encode_list};
use kith_onion::route::{Pair, Routes};
use kith_onion::{CircuitSettings, FriendKey, Privacy, Route, Trust};
use kith_tests::sim::{NodeId, Outcome, Rogue, World, seeds};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// Three third relays and a spare behind the first relay, and one circuit behind the reserve.
const ALL: usize = 5;

fn quick() -> CircuitSettings {
    World::quick_circuits()
}

fn guards(world: &mut World, node: NodeId) -> [Option<FriendKey>; 2] {
    world.nodes[node].journal.sync_all();
    let routes = world.nodes[node].journal.routes.clone().expect("routes are stored");
    let routes = Routes::decode(&routes).expect("a good form");
    [Pair::Primary, Pair::Reserve].map(|pair| routes.guard(pair))
}

/// Friends of node 2 in the ring of seven with chords.
const FRIENDS: [NodeId; 3] = [1, 3, 5];

/// The ring, an object of node 0 that node 2 was told of, and circuits of node 2.
fn ring_that_knows(seed: u64) -> (World, ReadCap) {
    let mut world = World::ring(seed, 7, quick());
    let cap = world.publish(0, "Otters", 10_000, Audience::Fof);
    assert!(world.run_until(MINUTE, |w| w.distance(2, &cap).is_some()));
    world.wait_for_circuits(2, ALL);
    (world, cap)
}

/// A friend who was the only one on line for a moment said that it was a hundred days later: the first
/// relays were drawn anew, and there was nobody else to draw.
#[test]
fn a_friends_clock_moves_no_first_relay() {
    seeds::run("a_friends_clock_moves_no_first_relay", 3, |seed| {
        let mut world = World::ring(seed, 7, quick());
        world.wait_for_circuits(2, ALL);
        let before = guards(&mut world, 2);
        let other = FRIENDS.into_iter().find(|f| !before.contains(&Some(world.nodes[*f].key())));
        let other = other.expect("three friends and two guards");
        FRIENDS.into_iter().filter(|f| *f != other).for_each(|f| world.crash(f));
        for days in [100, -100] {
            world.crash(2);
            world.run(SECOND);
            world.nodes[other].clock_ms = days * 24 * 3_600_000;
            world.start(2);
            assert!(world.run_until(5 * MINUTE, |w| w.linked(2, other)));
            world.run(2 * MINUTE);
            assert_eq!(guards(&mut world, 2), before, "{days} days");
        }
    });
}

/// A first relay that was marked low stayed in use while no other friend was known to relay.
#[test]
fn a_first_relay_that_is_marked_low_goes_at_once() {
    seeds::run("a_first_relay_that_is_marked_low_goes_at_once", 3, |seed| {
        let mut world = World::ring(seed, 7, quick());
        world.wait_for_circuits(2, ALL);
        let [first, _] = guards(&mut world, 2);
        let guard = FRIENDS.into_iter().find(|f| Some(world.nodes[*f].key()) == first).expect("a friend");
        FRIENDS.into_iter().filter(|f| *f != guard).for_each(|f| world.crash(f));
        world.crash(2);
        world.run(SECOND);
        world.start(2);
        assert!(world.run_until(MINUTE, |w| w.linked(2, guard)));
        world.run(10 * SECOND);
        world.set_trust(2, guard, Trust::Low);
        world.run(2 * SECOND);
        assert!(!guards(&mut world, 2).contains(&first));
    });
}

/// While the first relay was away at a start, no circuit was built over the reserve either.
#[test]
fn the_reserve_stands_in_for_a_first_relay_that_is_away() {
    seeds::run("the_reserve_stands_in_for_a_first_relay_that_is_away", 3, |seed| {
        let (mut world, cap) = ring_that_knows(seed);
        let [first, _] = guards(&mut world, 2);
        let first = FRIENDS.into_iter().find(|f| Some(world.nodes[*f].key()) == first).expect("a friend");
        world.crash(first);
        world.crash(2);
        world.run(SECOND);
        world.start(2);
        assert!(world.run_until(5 * MINUTE, |w| w.ready(2) > 0), "over the reserve");
        assert_eq!(world.fetch_now(2, &cap, Route::Onion, MINUTE), Outcome::Complete);
    });
}

/// Circuits whose ends had nothing went on with a cell each tick until the end of their lives.
#[test]
fn ticks_end_soon_after_a_fetch_that_found_nothing() {
    seeds::run("ticks_end_soon_after_a_fetch_that_found_nothing", 3, |seed| {
        let (mut world, cap) = ring_that_knows(seed);
        world.crash(0);
        // From here on hardly a cell is due but those of ticks.
        let slow = CircuitSettings { pace: 10 * MINUTE, ..quick() };
        (1..7).for_each(|node| world.set_circuits(node, Privacy::Fast, slow));
        world.run(5 * SECOND);
        (0..7).filter(|n| *n != 0).for_each(|n| world.listen(n, false));
        let moved = |w: &mut World| -> usize {
            let from_it = |w: &mut World, n| w.count_heard(n, 2, Command::Relay);
            FRIENDS.into_iter().map(|friend| from_it(w, friend)).sum()
        };
        let outcome = world.fetch_now(2, &cap, Route::Onion, MINUTE);
        assert!(matches!(outcome, Outcome::NoOnion(_)), "{outcome:?}");
        assert!(moved(&mut world) > 20, "they ticked while it was sought");
        world.run(10 * SECOND);
        let before = moved(&mut world);
        world.run(MINUTE);
        let after = moved(&mut world) - before;
        // Ticks would make 400 for each circuit.
        assert!(after < 300, "{after} cells in a minute");
    });
}

/// What this node published for its friends left through circuits when any friend listed it.
#[test]
fn a_friends_list_opens_nothing_of_this_node_to_circuits() {
    seeds::run("a_friends_list_opens_nothing_of_this_node_to_circuits", 3, |seed| {
        // The third relay, 3, is the publisher; its friend 4 lists what was meant for 3's friends alone.
        let friends = [(0, 1), (1, 2), (2, 3), (3, 4)];
        let mut world = World::of_friends(seed, 5, &friends, Privacy::Normal, quick());
        let cap = world.publish(3, "for friends", 2_000_000, Audience::Friends);
        world.publish_copy(4, cap.root, Audience::Fof);
        world.run(20 * SECOND);
        world.wait_for_circuits(0, 2);
        let sent = |w: &World| w.nodes[3].core().traffic(w.nodes[2].key()).sent;
        let before = sent(&world);
        // That friend gives its own copy, which is its own to give. The publisher gives nothing.
        assert_eq!(world.fetch_now(0, &cap, Route::Onion, MINUTE), Outcome::Complete);
        assert!(sent(&world) - before < 100_000, "{} bytes of it", sent(&world) - before);
    });
}

/// A fetch that its owner began through circuits, and was told so, was sent to a friend who listed the
/// object meanwhile.
#[test]
fn what_began_through_circuits_stays_there() {
    seeds::run("what_began_through_circuits_stays_there", 3, |seed| {
        let (mut world, cap) = ring_that_knows(seed);
        (0..7).for_each(|n| world.set_circuits(n, Privacy::Normal, quick()));
        world.nodes[0].mischief = kith_tests::sim::Mischief::Lacking;
        world.fetch(2, &cap, Route::Auto);
        world.publish_copy(5, cap.root, Audience::Friends);
        assert!(world.run_until(5 * MINUTE, |w| w.distance(2, &cap) == Some(1)), "the friend told of it");
        world.run(10 * SECOND);
        let used = &world.nodes[2].fetches[&cap.root].sessions;
        assert!(!used.is_empty() && used.iter().all(|links| *links > 2), "{used:?}");
    });
}

/// What comes through circuits shows in nothing that is given to friends while it comes.
#[test]
fn parts_that_come_through_circuits_are_given_to_nobody() {
    let mut world = World::ring(1, 7, quick());
    let cap = world.publish(0, "Otters", 30_000_000, Audience::Fof);
    assert!(world.run_until(MINUTE, |w| [1, 2].into_iter().all(|id| w.distance(id, &cap).is_some())));
    world.wait_for_circuits(2, ALL);
    (1..3).for_each(|id| world.listen(id, false));
    world.fetch(2, &cap, Route::Onion);
    let half = |w: &World| {
        let fetch = w.nodes[2].fetches[&cap.root].id;
        w.nodes[2].core().fetch_progress(fetch).is_some_and(|(have, all)| have > all / 10)
    };
    assert!(world.run_until(5 * MINUTE, half));
    world.fetch(1, &cap, Route::Auto);
    world.run(SECOND);
    assert_eq!(world.outcome(2, &cap), None, "it has parts");
    assert!(world.count_heard(2, 1, Command::TunOpen) > 0, "it is asked for them");
    assert_eq!(world.count_heard(1, 2, Command::Data), 0);
}

// A first relay that is all three.

const ROGUE: NodeId = 7;

/// A friend who answers for all relays of a circuit, as a hostile first relay can.
struct Captured {
    circ: u32,
    layers: Vec<RelayLayer>,
}

impl Captured {
    /// Waits for the friend's circuit and answers until it has three relays.
    fn build(world: &mut World, rogue: &mut Rogue) -> Self {
        let key = OnionKey::generate(&mut world.rng);
        let listed = [1, 2, 3, 4].map(|n| Listed {
            handle: Handle([n; 8]),
            key: *key.public(),
            epoch: 3,
            uptime: 15,
            rate: 4,
            ageing: false,
        });
        let list = encode_list(&listed);
        rogue.announce(world, 3, *key.public());
        // What was asked for before was for another key.
        rogue.run(world, SECOND);
        rogue.cells.clear();
        let asked = |r: &Rogue| r.cells.iter().any(|c| c.command == Command::Create);
        // In small steps: who answers late is left.
        let soon = (0..300).any(|_| rogue.run_until(world, SECOND, asked));
        assert!(soon, "a close friend is the guard");
        let came = rogue.cells.iter().find(|c| c.command == Command::Create).expect("it came").clone();
        rogue.cells.retain(|c| c.circ == came.circ && c.command != Command::Create);
        let create = Create::decode(came.body.as_slice()).expect("a good form");
        let mut captured = Self { circ: came.circ, layers: Vec::new() };
        let answer = |world: &mut World, message: &[u8; CREATE_LEN]| {
            kith_crypto::circuit::answer(&key, 3, message, &list, &mut world.rng).expect("for me")
        };
        let (layer, message) = answer(world, &create.message);
        captured.layers.push(layer);
        rogue.say(world, came.circ, Command::Created, &message);
        while captured.layers.len() < 3 {
            let said = captured.hear(world, rogue).map(|(_, said)| said);
            let extend = match said {
                Some(Relayed::Extend { create, wait, .. }) => Some((create, wait)),
                _ => None,
            };
            let (create, wait) = extend.expect("a wish to go on");
            let (layer, message) = answer(world, &create.message);
            rogue.run(world, wait);
            let took = Duration::from_millis(10);
            captured.say(world, rogue, 0, &Relayed::Extended { message: Some(message), took });
            captured.layers.push(layer);
        }
        captured
    }

    /// What is said next; `None` when the circuit ended.
    fn hear(&mut self, world: &mut World, rogue: &mut Rogue) -> Option<(StreamId, Relayed)> {
        let ended = |r: &Rogue| r.is_ended(self.circ).is_some();
        let came = (0..300).find_map(|_| match ended(rogue) {
            true => None,
            false => rogue.next_relay(world, self.circ, SECOND),
        })?;
        let mut body: Body = *came.body;
        self.layers.iter_mut().for_each(|l| l.forward(&mut body).expect("an honest builder"));
        let (stream, said) = Relayed::read(&body).expect("a good form");
        if let Relayed::Ping(wait) = said {
            rogue.run(world, wait);
            self.say(world, rogue, 0, &Relayed::Pong);
            return self.hear(world, rogue);
        }
        Some((stream, said))
    }

    fn say(&mut self, world: &mut World, rogue: &mut Rogue, stream: StreamId, message: &Relayed) {
        let mut body = [0; BODY_LEN];
        message.write(stream, &mut body);
        let (end, before) = self.layers.split_last_mut().expect("there are relays");
        end.originate(&mut body, &mut world.rng);
        before.iter_mut().rev().for_each(|l| l.backward(&mut body));
        rogue.say(world, self.circ, Command::Relay, &body);
    }

    /// Waits for a request.
    fn request(&mut self, world: &mut World, rogue: &mut Rogue) -> (StreamId, Vec<u8>) {
        loop {
            match self.hear(world, rogue) {
                Some((base, Relayed::Open { message, .. })) => return (base, message),
                said => assert!(matches!(said, Some((_, Relayed::Idle))), "{said:?} instead of a request"),
            }
        }
    }
}

/// A holder's second message.
fn second(world: &mut World, cap: &VerifyCap, first: &[u8]) -> Vec<u8> {
    let mut noise = Handshake::respond(Pattern::Tunnel, &cap.tunnel_psk(), b"kith tunnel v1", &mut world.rng)
        .expect("a handshake");
    noise.read(first).expect("a good message");
    noise.write(&[]).expect("a good answer")
}

/// The end of a circuit passed one holder's answer on twice. Both sessions had the same keys, and what was
/// asked in them could be told from each other.
#[test]
fn one_answer_makes_one_session() {
    seeds::run("one_answer_makes_one_session", 2, |seed| {
        for twice in [false, true] {
            let friends = [(0, 1), (1, 2), (0, 2), (ROGUE, 0), (3, 1), (3, 2), (4, 3), (5, 4), (6, 5)];
            let mut world = World::of_friends(seed, 8, &friends, Privacy::Normal, quick());
            world.set_trust(0, ROGUE, Trust::Close);
            let cap = world.publish(3, "Otters", 2_000_000, Audience::Fof);
            world.run(20 * SECOND);
            let mut rogue = world.rogue(ROGUE, 0);
            rogue.run(&mut world, SECOND);
            rogue.cells.clear();
            let mut captured = Captured::build(&mut world, &mut rogue);
            world.fetch(0, &cap, Route::Onion);
            let (base, first) = captured.request(&mut world, &mut rogue);
            let answer = second(&mut world, &cap.verify_cap(), &first);
            captured.say(&mut world, &mut rogue, base, &Relayed::Opened(answer.clone()));
            let again = if twice { answer } else { second(&mut world, &cap.verify_cap(), &first) };
            captured.say(&mut world, &mut rogue, base + 1, &Relayed::Opened(again));
            // What is asked next: both streams are asked, or the circuit is used no more.
            let mut asked = [false; 2];
            while asked != [true; 2] {
                match captured.hear(&mut world, &mut rogue) {
                    Some((stream, Relayed::Data(_))) => asked[usize::from(stream - base)] = true,
                    Some((_, Relayed::Idle)) => {}
                    None => break,
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(asked, if twice { [false; 2] } else { [true; 2] });
        }
    });
}

/// Each request set a timer that stayed for three seconds, and each timer was looked for among all.
#[test]
fn a_flood_of_requests_leaves_one_timer() {
    let friends: Vec<_> =
        (0..7).map(|n| (n, (n + 1) % 7)).chain([(0, 3), (1, 4), (2, 5), (3, 6), (ROGUE, 0)]).collect();
    let mut world = World::of_friends(1, 8, &friends, Privacy::Fast, quick());
    world.run(10 * SECOND);
    let mut rogue = world.rogue(ROGUE, 0);
    rogue.run(&mut world, SECOND);
    let mut circuit = rogue.create(&mut world).expect("a circuit");
    let before = world.nodes[0].core().load().circuit_timers;
    for n in 0..100 {
        let open = Relayed::Open {
            locator: [9; 16],
            spread: 2,
            want: 1,
            nonce: world.rng.bytes(),
            message: vec![7; 48],
        };
        rogue.tell(&mut world, &mut circuit, n + 1, &open);
        if n % 3 == 0 {
            rogue.tell(&mut world, &mut circuit, n + 1, &Relayed::Close);
        }
        rogue.run(&mut world, Duration::from_millis(10));
    }
    let after = world.nodes[0].core().load().circuit_timers;
    assert!(after <= before + 8, "{after} timers, {before} before");
    assert!(!rogue.is_closed(&world));
}
