//! Cells that no honest node sends: changed ones, unknown ones, out of order and over again (A20, A22,
//! A25, A39, A40).

use super::{Effort, Row, hits};
use crate::paths::seeded;
use crate::sim::{Hostile, NodeId, World};
use kith_crypto::circuit::{
    BODY_LEN, Body, Building, Layers, OnionKey, PAYLOAD_LEN, RelayLayer, STACK_LEN, answer,
};
use kith_crypto::rng::Rng;
use kith_onion::budget::{Budgets, Defences};
use kith_onion::cell::Command;
use kith_onion::circuit::Relayed;
use kith_onion::handle::{Handle, Listed};
use kith_onion::{CircuitSettings, FriendKey, Note, Noted, Privacy};
use std::collections::BTreeMap;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// The attacker and its friend in the ring.
const ATTACKER: NodeId = 0;
const RELAY: NodeId = 1;
const WAIT: Duration = Duration::from_millis(800);

/// A ring of nodes that know each other's handles. Their own circuits are few and slow.
fn ring(seed: u64, defences: Defences) -> World {
    let circuits = CircuitSettings { pace: 10 * MINUTE, snapshot: 2 * SECOND, ..CircuitSettings::default() };
    paced_ring(seed, defences, circuits)
}

fn paced_ring(seed: u64, defences: Defences, circuits: CircuitSettings) -> World {
    let mut world = World::with_nodes(seed, 7);
    for id in 0..world.nodes.len() {
        let budgets = Budgets { defences, ..Budgets::default() };
        world.nodes[id].budgets = budgets;
        world.act(id, |core, _| core.set_budgets(budgets));
        world.set_circuits(id, Privacy::Fast, circuits);
        world.listen(id, false);
    }
    world.join_ring();
    world.run(10 * SECOND);
    world
}

/// A circuit of so many relays, if the world lets the attacker have one.
fn circuit(world: &mut World, hops: usize) -> Option<Hostile> {
    world.run_until(10 * MINUTE, |w| w.linked(ATTACKER, RELAY));
    for _ in 0..20 {
        let Some(mut built) = Hostile::begin(world, ATTACKER, RELAY) else {
            world.run(SECOND);
            continue;
        };
        while built.layers.len() < hops {
            let list = built.lists.last().cloned().unwrap_or_default();
            // A refusal ends nothing: the end may be asked again.
            let went = list.iter().any(|to| built.extend(world, to, WAIT).is_some_and(|(_, good)| good));
            if !went {
                break;
            }
        }
        if built.layers.len() == hops {
            return Some(built);
        }
        built.end(world);
        world.run(SECOND);
    }
    None
}

/// Where a circuit goes on that came to `at` from a friend.
fn onward(world: &mut World, at: NodeId, from: FriendKey, circ: u32) -> Option<(NodeId, u32)> {
    let goes = world.heard(at).iter().rev().find_map(|note| match note.what {
        Noted::Goes(to, next) if note.friend == from && note.circ == circ => Some((to, next)),
        _ => None,
    });
    let (to, next) = goes?;
    Some((world.nodes.iter().position(|n| n.key() == to)?, next))
}

/// Cells of a circuit that came to a node, but for its end.
fn came(world: &mut World, at: NodeId, from: NodeId, circ: u32) -> usize {
    let key = world.nodes[from].key();
    let is = |what: &Noted| matches!(what, Noted::Came(c, _) if *c != Command::Destroy);
    world.heard(at).iter().filter(|n| n.friend == key && n.circ == circ && is(&n.what)).count()
}

// A20: marks.

fn layers(hops: usize, rng: &mut Rng) -> (Layers, Vec<RelayLayer>) {
    let (mut layers, mut relays) = (Layers::default(), Vec::new());
    for _ in 0..hops {
        let key = OnionKey::generate(rng);
        let (building, message) = Building::start(key.public(), 7, rng).expect("a good key");
        let (relay, reply) = answer(&key, 7, &message, b"", rng).expect("made for this key");
        layers.push(building.finish(&reply).expect("its answer").0).expect("there is room");
        relays.push(relay);
    }
    (layers, relays)
}

/// The first relay changes a cell, the last one is its accomplice: marks that come through between them,
/// forward and backward.
pub fn a20(effort: Effort) -> Vec<Row> {
    let mut rng = seeded(20, effort.seeds);
    let bits: Vec<usize> = if effort.full {
        (0..STACK_LEN * 8).chain((STACK_LEN..BODY_LEN).map(|byte| byte * 8 + byte % 8)).collect()
    } else {
        (0..BODY_LEN * 8).step_by(331).collect()
    };
    let (mut forward, mut backward, mut noise, mut dead) = (0, 0, 0, 0);
    for bit in &bits {
        let flip = |cell: &mut Body| cell[bit / 8] ^= 1 << (bit % 8);
        let (mut builder, mut relays) = layers(3, &mut rng);
        let mut cell = [7; BODY_LEN];
        builder.seal(&mut cell, &mut rng);
        relays[0].forward(&mut cell).expect("unchanged so far");
        flip(&mut cell);
        forward += usize::from(relays[1].forward(&mut cell).is_ok());
        // The circuit is over there: the next cell does not pass either.
        let mut next = [7; BODY_LEN];
        builder.seal(&mut next, &mut rng);
        relays[0].forward(&mut next).expect("unchanged");
        dead += usize::from(relays[1].forward(&mut next).is_err());

        // Backward: the accomplice sends, the first relay changes, the builder looks.
        let (mut builder, mut relays) = layers(3, &mut rng);
        let mut cell = [7; BODY_LEN];
        relays[2].originate(&mut cell, &mut rng);
        relays[1].backward(&mut cell);
        flip(&mut cell);
        relays[0].backward(&mut cell);
        let opened = builder.open(&mut cell).is_ok();
        // Two tags are in use here; what is in the other slots reaches nobody.
        let unused = (2 * 16 * 8..STACK_LEN * 8).contains(bit);
        match unused {
            true => noise += usize::from(!opened || cell[STACK_LEN..] != [7; PAYLOAD_LEN]),
            false => backward += usize::from(opened),
        }
    }
    // Control: layers of keystream without tags.
    let stream = |key: u8, cell: &mut Body| {
        let bytes: Vec<u8> = {
            let mut out = vec![0; BODY_LEN];
            Rng::from_seed([key; 32]).fill(&mut out);
            out
        };
        cell.iter_mut().zip(bytes).for_each(|(c, k)| *c ^= k);
    };
    let marked = bits.iter().filter(|bit| {
        let mut cell = [7; BODY_LEN];
        (1..=3).for_each(|key| stream(key, &mut cell));
        stream(1, &mut cell);
        cell[*bit / 8] ^= 1 << (*bit % 8);
        (2..=3).for_each(|key| stream(key, &mut cell));
        let (mut seen, byte) = ([7; BODY_LEN], *bit / 8);
        seen[byte] ^= 1 << (*bit % 8);
        cell == seen
    });
    let (n, marked) = (bits.len(), marked.count());
    vec![
        Row {
            id: "A20",
            attack: "first relay flips a bit of a forward cell, accomplice at the end looks for it",
            figure: format!(
                "{} pass the first honest relay; circuit dead in {dead} of {n}",
                hits(forward, n)
            ),
            bound: "0 pass, all dead".into(),
            control: format!("keystream layers without tags: {}", hits(marked, n)),
            verdict: (forward == 0 && dead == n).into(),
            control_succeeds: Some(marked == n),
            promised: true,
        },
        Row {
            id: "A20",
            attack: "end or middle marks a backward cell",
            figure: format!(
                "{} opened by the builder; unused slots change {noise} payloads",
                hits(backward, n)
            ),
            bound: "0".into(),
            control: format!("the same: {}", hits(marked, n)),
            verdict: (backward == 0 && noise == 0).into(),
            control_succeeds: Some(marked == n),
            promised: true,
        },
    ]
}

// A22: commands and their order.

/// Sends one cell into a circuit from one side; whether anything came out on the other, and whether
/// the circuit stands.
fn poke(world: &mut World, from_builder: bool, command: u8, body: &[u8]) -> Option<(bool, bool)> {
    let mut built = circuit(world, 2)?;
    let (me, circ) = (world.nodes[ATTACKER].key(), built.circ);
    let (next, next_circ) = onward(world, RELAY, me, circ)?;
    let (sender, sent, hearer, heard) = match from_builder {
        true => (ATTACKER, circ, next, next_circ),
        false => (next, next_circ, ATTACKER, circ),
    };
    let before = came(world, hearer, RELAY, heard);
    world.send_any(sender, RELAY, sent, command, body);
    world.run(2 * SECOND);
    let passed = came(world, hearer, RELAY, heard) > before;
    let stands = built.stands(world) && world.linked(next, RELAY);
    built.end(world);
    world.run(61 * SECOND);
    Some((passed, stands))
}

/// Commands that relays do not expect on a circuit, in any order, from both sides.
pub fn a22(effort: Effort) -> Vec<Row> {
    let legal = [Command::Relay as u8, Command::Destroy as u8];
    let commands = (0..=255_u8).filter(|c| !legal.contains(c));
    let commands: Vec<u8> = commands.filter(|c| effort.full || *c < 12 || c % 61 == 0).collect();
    let run = |defences: Defences, commands: &[u8]| {
        let mut world = ring(22, defences);
        let mut rng = seeded(22, 1);
        let (mut tries, mut passed, mut stands) = (0, 0, 0);
        for command in commands {
            for from_builder in [true, false] {
                let body: Vec<u8> = if command % 2 == 0 { Vec::new() } else { rng.bytes::<64>().to_vec() };
                let Some(seen) = poke(&mut world, from_builder, *command, &body) else { continue };
                tries += 1;
                passed += usize::from(seen.0);
                stands += usize::from(seen.1);
            }
        }
        (tries, passed, stands)
    };
    let (tries, passed, stands) = run(Defences::default(), &commands);
    let unknown: Vec<u8> = commands.iter().copied().filter(|c| *c > 10).take(effort.or(40, 4)).collect();
    let (of, _, swallowed) = run(Defences { strict_cells: false, ..Defences::default() }, &unknown);
    vec![Row {
        id: "A22",
        attack: "sends every link command into a circuit where it is not expected, from both sides",
        figure: format!(
            "{} leave a trace behind the relay; circuit stands after {stands}",
            hits(passed, tries)
        ),
        bound: "0 and 0".into(),
        control: format!("unknown commands are ignored: circuit stands after {}", hits(swallowed, of)),
        verdict: (passed == 0 && stands == 0 && tries >= commands.len()).into(),
        control_succeeds: Some(swallowed == of && of > 0),
        promised: true,
    }]
}

// A25: long and looping circuits.

/// How requests to go on end: after how long, and whether they did.
struct Asked {
    what: &'static str,
    took: Option<Duration>,
    good: bool,
}

fn listed(handle: [u8; 8], like: &Listed) -> Listed {
    Listed { handle: Handle(handle), ..*like }
}

/// Asks a relay for everything that it must refuse, and for something that it grants.
fn ask_all(world: &mut World) -> Option<Vec<Asked>> {
    // Handles of this relay's friends, by way of another friend of its: 2 is one of them.
    let mut other = None;
    for _ in 0..5 {
        other = other.or_else(|| Hostile::begin(world, 2, RELAY));
        world.run(SECOND);
    }
    let other = other?;
    let mine = circuit(world, 1)?;
    let (seen_there, seen_here) = (other.lists[0].clone(), mine.lists[0].clone());
    other.end(world);
    mine.end(world);
    // What the list for the attacker leaves out is the attacker.
    let back = seen_there.iter().find(|l| !seen_here.iter().any(|m| m.handle == l.handle)).copied()?;
    let good = *seen_here.first()?;
    let mut asks = vec![("back", back), ("no handle", listed([9; 8], &good)), ("a friend", good)];
    // Another relay's handles mean nothing here.
    let mut far = circuit(world, 2)?;
    asks.push(("somebody else's friend", *far.lists[1].first()?));
    far.extend(world, &far.lists[1][0].clone(), WAIT);
    far.end(world);
    let mut out = Vec::new();
    for (what, to) in asks {
        let mut built = circuit(world, 1)?;
        let asked = built.extend(world, &to, WAIT);
        out.push(Asked { what, took: asked.map(|a| a.0), good: asked.is_some_and(|a| a.1) });
        built.end(world);
        world.run(SECOND);
    }
    // A friend who has just gone.
    let mut built = circuit(world, 1)?;
    let circ = built.circ;
    let gone = built.lists[0].iter().copied().find(|to| {
        let probe = Hostile::begin(world, ATTACKER, RELAY);
        let Some(mut probe) = probe else { return false };
        let went = probe.extend(world, to, WAIT).is_some_and(|(_, good)| good);
        let me = world.nodes[ATTACKER].key();
        let next = onward(world, RELAY, me, probe.circ);
        probe.end(world);
        world.run(SECOND);
        match next.filter(|_| went) {
            Some((node, _)) if node != ATTACKER => {
                world.crash(node);
                true
            }
            _ => false,
        }
    })?;
    world.run(SECOND);
    let asked = built.extend(world, &gone, WAIT);
    let _ = circ;
    out.push(Asked { what: "off line", took: asked.map(|a| a.0), good: asked.is_some_and(|a| a.1) });
    Some(out)
}

/// Loops and too many relays.
pub fn a25(effort: Effort) -> Vec<Row> {
    let run = |defences: Defences| {
        let mut all = Vec::new();
        for seed in 1..=effort.seeds {
            all.extend(ask_all(&mut ring(250 + seed, defences)).unwrap_or_default());
        }
        let back = all.iter().filter(|a| a.what == "back" && a.good).count();
        let wrong = all.iter().filter(|a| a.what != "a friend" && a.good).count();
        let granted = all.iter().filter(|a| a.what == "a friend" && a.good).count();
        let times: Vec<f64> = all.iter().map(|a| a.took.map_or(1e9, |t| t.as_secs_f64() * 1e3)).collect();
        let low = times.iter().copied().fold(f64::INFINITY, f64::min);
        let high = times.iter().copied().fold(0.0, f64::max);
        (all.len(), back, wrong, granted, high - low)
    };
    let on = run(Defences::default());
    let off = run(Defences { no_way_back: false, equal_answers: false, ..Defences::default() });
    // Cells that one cell makes at most: the longest circuit there is, round and round.
    let amplified = amplification(effort);
    vec![
        Row {
            id: "A25",
            attack: "asks a relay to go on to where it came from, to nobody, to another's friend, to one off line",
            figure: format!(
                "{} granted; {} answers, all within {:.1} ms of each other",
                hits(on.2, on.0 - on.3),
                on.0,
                on.4
            ),
            bound: "0 granted; within 2 ms".into(),
            control: format!("{} of {} back granted; answers {:.0} ms apart", off.1, effort.seeds, off.4),
            verdict: (on.2 == 0 && on.3 as u64 == effort.seeds && on.4 <= 2.0).into(),
            control_succeeds: Some(off.1 > 0 && off.4 > 20.0),
            promised: true,
        },
        amplified,
    ]
}

fn amplification(effort: Effort) -> Row {
    let mut world = ring(259, Defences::default());
    let cells = effort.or(100, 20);
    let mut longest = 0;
    let mut most = 0.0_f64;
    // Seven relays are refused by the layers, which have six slots.
    let mut refused = false;
    if let Some(mut built) = circuit(&mut world, 6) {
        longest = built.layers.len();
        let list = built.lists.last().cloned().unwrap_or_default();
        refused = list.iter().all(|to| built.extend(&mut world, to, WAIT).is_none_or(|(_, good)| !good));
        refused &= built.layers.len() == 6;
    }
    if let Some(mut built) = circuit(&mut world, 6) {
        // Both sides of all its links, as the nodes on it see them.
        let mut links = vec![(ATTACKER, RELAY, built.circ)];
        while let Some((from, at, circ)) = links.last().copied() {
            let key = world.nodes[from].key();
            let Some((next, circ)) = onward(&mut world, at, key, circ) else { break };
            links.push((at, next, circ));
        }
        let moved = |world: &mut World| -> usize {
            let both = |(a, b, circ): &(NodeId, NodeId, u32)| {
                came(world, *b, *a, *circ) + came(world, *a, *b, *circ)
            };
            links.iter().map(both).sum()
        };
        let before = moved(&mut world);
        for _ in 0..cells {
            built.say(&mut world, 0, &Relayed::Ping(WAIT));
            world.run(SECOND);
            while built.hear(&mut world).is_some() {}
        }
        world.run(5 * SECOND);
        most = (moved(&mut world) - before) as f64 / cells as f64;
    }
    Row {
        id: "A25",
        attack: "leads a circuit round in loops as long as it goes, to make work of one cell",
        figure: format!(
            "{longest} relays, a seventh refused: {refused}; {most:.1} cells moved for a cell and its answer"
        ),
        bound: "6 relays, 12 cells".into(),
        control: "without a limit the factor is the number of relays: six give six times one".into(),
        // No more than six, or nothing was measured.
        verdict: (longest == 6 && refused && most > 6.0 && most <= 12.6).into(),
        control_succeeds: None,
        promised: true,
    }
}

// A39: what was recorded.

/// Sends recorded cells again: those that make circuits, and those in them.
pub fn a39(effort: Effort) -> Vec<Row> {
    let count = effort.or(100_000, 4_000);
    let mut world = ring(39, Defences::default());
    let Some(mut built) = circuit(&mut world, 2) else { return Vec::new() };
    let me = world.nodes[ATTACKER].key();
    let (next, next_circ) = onward(&mut world, RELAY, me, built.circ).expect("it goes on");
    // What is recorded: cells that were taken, of which the end has had the first.
    let bodies: Vec<Body> = (0..8)
        .map(|_| {
            let mut body = [0; BODY_LEN];
            Relayed::Ping(WAIT).write(0, &mut body);
            built.seal(&mut world, &body[STACK_LEN..])
        })
        .collect();
    built.send_body(&mut world, &bodies[0]);
    world.run(3 * SECOND);
    let create = world.create_cell(ATTACKER, RELAY).expect("there is a key").1;
    let before = came(&mut world, next, RELAY, next_circ);
    let load = |w: &World| w.nodes[RELAY].core().load();
    let started = load(&world);
    let mut most = (0, 0, 0);
    // Into the circuit they came from, once: that is the end of it.
    built.send_body(&mut world, &bodies[0]);
    world.run(2 * SECOND);
    let ended = !built.stands(&mut world);
    for n in 0..count {
        let circ = world.free_circ(ATTACKER, RELAY);
        match n % 2 {
            0 => world.send_cell(ATTACKER, RELAY, circ, Command::Create, create.encode()),
            _ => world.send_any(ATTACKER, RELAY, circ, Command::Relay as u8, &bodies[n % 8]),
        }
        if n % 50 == 0 {
            // As fast as the relay reads it.
            world.run(Duration::from_millis(400));
            let now = load(&world);
            most = (most.0.max(now.circuits), most.1.max(now.relayed), most.2.max(now.timers));
        }
    }
    world.run(10 * SECOND);
    let passed = came(&mut world, next, RELAY, next_circ) - before;
    let linked = world.linked(ATTACKER, RELAY);
    let read = world.count_heard(RELAY, ATTACKER, Command::Create)
        + world.count_heard(RELAY, ATTACKER, Command::Relay);
    // Control: a request that spreads, recorded and sent again, is passed on each time without the memory
    // of what came before.
    let spread = |defences: Defences| {
        let mut world = ring(39, defences);
        let open = kith_onion::cell::TunOpen {
            locator: [3; 16],
            hops_left: 1,
            sealed: true,
            spreads: true,
            nonce: [4; 16],
            message: vec![5; 48],
        };
        for _ in 0..8 {
            let circ = world.free_circ(ATTACKER, RELAY);
            world.send_cell(ATTACKER, RELAY, circ, Command::TunOpen, open.encode());
            world.run(SECOND);
        }
        world.count_heard(2, RELAY, Command::TunOpen)
    };
    let (once, again) =
        (spread(Defences::default()), spread(Defences { known_nonces: false, ..Defences::default() }));
    vec![Row {
        id: "A39",
        attack: "sends recorded CREATE, RELAY and TUN_OPEN cells again, within a circuit and outside it",
        figure: format!(
            "{read} cells: {passed} moved on; circuit dead: {ended}; at most {} circuits, {} cells, {} timers held; \
             a request goes on {once} time",
            most.0, most.1, most.2
        ),
        bound: "0; dead; 64 circuits; once".into(),
        control: format!("without nonces a request goes on {again} times of 8"),
        verdict: (passed == 0
            && ended
            // Circuits of others come and go meanwhile.
            && most.0 <= started.circuits + 64 + 16
            && once == 1
            && linked
            && read >= count)
            .into(),
        control_succeeds: Some(again == 8),
        promised: true,
    }]
}

// A40: cells that are dropped without a word.

/// Payloads that nobody expects: what they are, and their bytes.
fn odd_payloads(effort: Effort) -> Vec<(&'static str, Vec<u8>)> {
    let mut all = Vec::new();
    let payload = |stream: u16, number: u8, flags: u8, reserved: u16| {
        let [s0, s1] = stream.to_le_bytes();
        let [r0, r1] = reserved.to_le_bytes();
        vec![s0, s1, number, flags, 0, 0, r0, r1]
    };
    let types = (0..=255_u8).filter(|n| !(1..=10).contains(n) && (effort.full || n % 47 == 0));
    for number in types {
        for stream in [0, 5] {
            all.push(("unknown type", payload(stream, number, 0, 0)));
        }
    }
    let known = |stream: u16, message: &Relayed| {
        let mut body = [0; BODY_LEN];
        message.write(stream, &mut body);
        body[STACK_LEN..].to_vec()
    };
    let record = vec![8; kith_onion::link::TUNNEL_RECORD_LEN];
    for stream in [1, 5, 65_535] {
        all.push(("close of nothing", known(stream, &Relayed::Close)));
        all.push(("data of nothing", known(stream, &Relayed::Data(record.clone()))));
        all.push(("ping in a stream", known(stream, &Relayed::Ping(WAIT))));
    }
    let wrong_way = [Relayed::Pong, Relayed::Refused, Relayed::Opened(vec![1; 48])];
    all.extend(wrong_way.iter().map(|message| ("said by the other side only", known(0, message))));
    for bit in 0..8 {
        all.push(("flags", payload(0, 3, 1 << bit, 0)));
        all.push(("reserved bytes", payload(0, 4, 0, 0x101 << bit)));
    }
    let mut padded = known(0, &Relayed::Ping(WAIT));
    padded[200] = 1;
    all.push(("padding that says something", padded));
    all
}

/// Injects what could be dropped without a word: it is not, whoever gets it.
pub fn a40(effort: Effort) -> Vec<Row> {
    let payloads = odd_payloads(effort);
    let to_end = |defences: Defences, payloads: &[(&str, Vec<u8>)]| {
        let mut world = ring(40, defences);
        let (mut tries, mut stand) = (0, BTreeMap::new());
        for (what, payload) in payloads {
            let Some(mut built) = circuit(&mut world, 1) else { continue };
            built.send_payload(&mut world, payload);
            world.run(SECOND);
            tries += 1;
            if built.stands(&mut world) {
                *stand.entry(*what).or_insert(0) += 1;
            }
            built.end(&mut world);
            world.run(SECOND);
        }
        (tries, stand.values().sum::<usize>())
    };
    let (tries, stand) = to_end(Defences::default(), &payloads);
    let some: Vec<_> = payloads.iter().step_by(effort.or(5, 4)).cloned().collect();
    let lax = Defences { strict_cells: false, ..Defences::default() };
    let (of, ignored) = to_end(lax, &some);
    let (told, survived) = to_builder(effort, Defences::default());
    let (told_lax, survived_lax) = to_builder(Effort { full: false, ..effort }, lax);
    vec![
        Row {
            id: "A40",
            attack: "sends the end of a circuit payloads that it could ignore",
            figure: format!("{} ignored", hits(stand, tries)),
            bound: "0".into(),
            control: format!("{} ignored", hits(ignored, of)),
            verdict: (stand == 0 && tries == payloads.len()).into(),
            control_succeeds: Some(ignored > of / 2),
            promised: true,
        },
        Row {
            id: "A40",
            attack: "the end sends the builder payloads that it could ignore",
            figure: format!("{} ignored", hits(survived, told)),
            bound: "0".into(),
            control: format!("{} ignored", hits(survived_lax, told_lax)),
            verdict: (survived == 0 && told > 0).into(),
            control_succeeds: Some(survived_lax > told_lax / 2 && told_lax > 0),
            promised: true,
        },
    ]
}

/// Shipped builders whose circuits end at somebody hostile: how many were told something odd, and how
/// many kept the circuit.
fn to_builder(effort: Effort, defences: Defences) -> (usize, usize) {
    // An end may answer a ping before its time: that is no mark, as only the builder knows the time.
    let mut payloads = odd_payloads(effort);
    payloads.retain(|(what, _)| *what != "said by the other side only");
    for message in [Relayed::Ping(WAIT), Relayed::Extended { message: None, took: WAIT }] {
        let mut body = [0; BODY_LEN];
        message.write(0, &mut body);
        payloads.push(("said by the builder only", body[STACK_LEN..].to_vec()));
    }
    let circuits = CircuitSettings {
        pace: Duration::from_millis(500),
        snapshot: 2 * SECOND,
        ..CircuitSettings::default()
    };
    let mut world = paced_ring(41, defences, circuits);
    let (mut told, mut kept) = (0, 0);
    let mut used = std::collections::BTreeSet::new();
    for (_, payload) in payloads.iter().step_by(effort.or(3, 5)) {
        world.run(5 * SECOND);
        let Some((owner, guard, circ, [before, end], last)) = whole(&mut world, &mut used) else { continue };
        let key = world.nodes[before].key();
        world.act(end, |core, now| core.say_raw(now, key, last, payload));
        world.run(20 * SECOND);
        told += 1;
        let owner = world.nodes[owner].key();
        let ended = |n: &Note| {
            n.friend == owner && n.circ == circ && matches!(n.what, Noted::Came(Command::Destroy, _))
        };
        kept += usize::from(!world.heard(guard).iter().any(ended));
    }
    (told, kept)
}

/// A circuit with three relays that stands and was not used yet: its owner, its guard and number there,
/// its last two relays, and its last number.
#[allow(clippy::type_complexity)] // Named nowhere else.
fn whole(
    world: &mut World,
    used: &mut std::collections::BTreeSet<(NodeId, u32)>,
) -> Option<(NodeId, NodeId, u32, [NodeId; 2], u32)> {
    for owner in 0..world.nodes.len() {
        let began: Vec<(FriendKey, u32)> = world
            .heard(owner)
            .iter()
            .rev()
            .filter(|n| matches!(n.what, Noted::Began { own: true }))
            .map(|n| (n.friend, n.circ))
            .collect();
        for (guard_key, circ) in began {
            let guard = world.nodes.iter().position(|n| n.key() == guard_key)?;
            let me = world.nodes[owner].key();
            let ended = |n: &Note| {
                n.friend == me && n.circ == circ && matches!(n.what, Noted::Came(Command::Destroy, _))
            };
            if used.contains(&(owner, circ)) || world.heard(guard).iter().any(ended) {
                continue;
            }
            let Some((second, second_circ)) = onward(world, guard, me, circ) else { continue };
            let Some((third, third_circ)) = onward(world, second, guard_key, second_circ) else { continue };
            // The third has been asked for something since: the circuit is complete.
            if came(world, third, second, third_circ) < 3 {
                continue;
            }
            used.insert((owner, circ));
            return Some((owner, guard, circ, [second, third], third_circ));
        }
    }
    None
}
