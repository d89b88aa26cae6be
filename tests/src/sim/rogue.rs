//! A friend who breaks the rules of circuits: it has good keys and a link, and says what the test
//! wants. Its own node does not run meanwhile.

use super::{NodeId, WireId, World};
use kith_crypto::circuit::{Body, Building, Layers};
use kith_crypto::content::VerifyCap;
use kith_crypto::noise::{Handshake, Pattern, Session};
use kith_onion::cell::{CELL_LEN, CellRef, CircId, Command, SmallCell, encode_credits};
use kith_onion::circuit::{CREATED_LEN, Create, Relayed, StreamId};
use kith_onion::control::Control;
use kith_onion::handle::{Listed, decode_list};
use kith_onion::handshake::{Caller, Peer};
use kith_onion::link::{Link, RECORD_LEN, TUNNEL_RECORD_LEN, seal_next};
use kith_onion::schedule::Allowance;
use kith_onion::session::{ByteQueue, Message};
use std::collections::VecDeque;
use std::time::Duration;

/// Feature bit of a node that knows circuits.
const CIRCUITS: u64 = 2;
/// A link on which nothing came for two minutes is dead.
const PAD_EVERY: Duration = Duration::from_secs(50);

/// A cell that came.
#[derive(Clone, Debug)]
pub struct Came {
    /// When its last byte came.
    pub at: Duration,
    /// On which circuit.
    pub circ: CircId,
    /// What it is.
    pub command: Command,
    /// Its body.
    pub body: Box<kith_onion::cell::Body>,
}

/// One end of a link to an honest node.
#[derive(Debug)]
pub struct Rogue {
    wire: WireId,
    /// The link as it is.
    pub link: Link,
    /// Cells that came and nobody looked at.
    pub cells: VecDeque<Came>,
    /// The onion key that the friend made for it.
    pub key: Option<(u16, [u8; 32])>,
    /// It gives credit back for each cell.
    pub reads: bool,
    next_circ: CircId,
    read: usize,
    padded_at: Duration,
}

/// A circuit that it has built.
#[derive(Debug)]
pub struct RogueCircuit {
    /// Its number on the link.
    pub circ: CircId,
    /// What it shares with the relays.
    pub layers: Layers,
    /// Whom the last relay lists.
    pub list: Vec<Listed>,
    /// Streams that were asked for.
    pub streams: StreamId,
}

impl World {
    /// Stops `me` and gives its link to `target` to a rogue.
    pub fn rogue(&mut self, me: NodeId, target: NodeId) -> Rogue {
        if self.nodes[me].core.is_some() {
            self.nodes[me].journal.sync_all();
            self.crash(me);
            self.run(Duration::from_secs(1));
        }
        let friend = self.nodes[target].key();
        let id = self.nodes[me].identity();
        let record = &self.nodes[me].journal.friends[&friend];
        let peer = Peer::friend(id.public(), 0, &record.keys, &record.root);
        let counter = record.counter_out.max(self.time(me).unix_ms) + 1_000;
        let secret = record.ratchet.to_call();
        let is_lower = id.public().sign < record.keys.sign;
        let (caller, flight) =
            Caller::start(&id, peer, &secret, counter, &mut self.rng).expect("good keys make a call");
        let wire = self.stranger(target, 1_000 + me as u64);
        self.stranger_writes(wire, &flight);
        self.run(Duration::from_millis(500));
        let mut answer = self.wires[wire].received.as_slice();
        let all = answer.len();
        let Ok(Ok((established, _))) = caller.input(&mut answer, &mut self.rng) else {
            panic!("a friend's call is answered")
        };
        let read = all - answer.len();
        let mut rogue = Rogue {
            wire,
            link: Link::new(established.session),
            cells: VecDeque::new(),
            key: None,
            reads: true,
            next_circ: if is_lower { 2 } else { 1 },
            read,
            padded_at: self.now,
        };
        let unix_ms = self.time(me).unix_ms;
        let hello = Control::Hello { features: CIRCUITS, unix_ms };
        assert!(rogue.link.send(&hello).is_ok());
        rogue.run(self, Duration::from_secs(2));
        rogue
    }
}

impl Rogue {
    /// Whether the honest side has closed the link.
    pub fn is_closed(&self, world: &World) -> bool {
        world.wires[self.wire].ended_at.is_some()
    }

    /// A circuit number that was not used.
    pub const fn fresh(&mut self) -> CircId {
        self.next_circ += 2;
        self.next_circ - 2
    }

    /// Queues any cell, past all windows.
    pub fn send(&mut self, circ: CircId, command: Command, front: &[u8]) {
        let _ = self.link.send_urgent(SmallCell { circ, command, front: front.to_vec() });
    }

    /// Queues the same and lets it leave now.
    pub fn say(&mut self, world: &mut World, circ: CircId, command: Command, front: &[u8]) {
        self.send(circ, command, front);
        self.flush(world);
    }

    /// Lets leave what is queued.
    pub fn flush(&mut self, world: &mut World) {
        let mut out = vec![0; 4 * RECORD_LEN];
        loop {
            let len = self.link.transmit(world.now, &mut { Allowance::ALL }, &mut out).expect("a good link");
            if len == 0 {
                return;
            }
            world.stranger_writes(self.wire, &out[..len]);
        }
    }

    /// Reads what came.
    pub fn pump(&mut self, world: &World) {
        let wire = &world.wires[self.wire];
        for (upto, at) in &wire.received_at {
            if *upto <= self.read {
                continue;
            }
            let mut input = &wire.received[self.read..*upto];
            self.read = *upto;
            while let Some(record) = self.link.receive(&mut input).expect("an honest node seals in order") {
                for cell in record.as_chunks::<CELL_LEN>().0 {
                    self.cell(*at, cell);
                }
                self.link.recycle(record);
            }
        }
    }

    fn cell(&mut self, at: Duration, cell: &[u8; CELL_LEN]) {
        let cell = CellRef::decode(cell).expect("an honest node sends good cells");
        match cell.command {
            Command::Control => {
                for message in self.link.control(cell.body).expect("good messages") {
                    if let Control::OnionKey { epoch, key } = message {
                        self.key = (key != [0; 32]).then_some((epoch, key));
                    }
                }
            }
            Command::Pad => {}
            Command::Credit => {
                for (circ, cells) in kith_onion::cell::decode_credits(cell.body).expect("good credit") {
                    let _ = self.link.credit(circ, cells);
                }
            }
            command => {
                if self.reads && matches!(command, Command::Relay | Command::Data) {
                    self.send(0, Command::Credit, &encode_credits(&[(cell.circ, 1)]));
                }
                let body = Box::new(*cell.body);
                self.cells.push_back(Came { at, circ: cell.circ, command, body });
            }
        }
    }

    /// Lets time pass and answers what has to be answered.
    pub fn run(&mut self, world: &mut World, time: Duration) {
        self.run_until(world, time, |_| false);
    }

    /// Lets time pass until something is true.
    pub fn run_until(&mut self, world: &mut World, time: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let end = world.now + time;
        let step = (time / 500).clamp(Duration::from_millis(5), Duration::from_secs(20));
        loop {
            if world.now >= self.padded_at + PAD_EVERY {
                self.padded_at = world.now;
                self.send(0, Command::Pad, &[]);
            }
            self.flush(world);
            self.pump(world);
            self.flush(world);
            if done(self) {
                return true;
            }
            if world.now >= end {
                return false;
            }
            let left = end - world.now;
            world.run(step.min(left));
        }
    }

    /// The next cell of a circuit, if it comes in time.
    pub fn next(&mut self, world: &mut World, circ: CircId, time: Duration) -> Option<Came> {
        let there = |r: &Self| r.cells.iter().any(|c| c.circ == circ);
        self.run_until(world, time, there);
        let at = self.cells.iter().position(|c| c.circ == circ)?;
        self.cells.remove(at)
    }

    /// The next `RELAY` cell of a circuit.
    pub fn next_relay(&mut self, world: &mut World, circ: CircId, time: Duration) -> Option<Came> {
        let is_it = |c: &Came| c.circ == circ && c.command == Command::Relay;
        self.run_until(world, time, |r| r.cells.iter().any(is_it));
        let at = self.cells.iter().position(is_it)?;
        self.cells.remove(at)
    }

    /// The `CREATE` with this message, if it comes in time.
    pub fn next_create(&mut self, world: &mut World, message: &[u8], time: Duration) -> Option<Came> {
        let is_it = |c: &Came| {
            c.command == Command::Create
                && Create::decode(c.body.as_slice()).is_ok_and(|create| create.message == message)
        };
        self.run_until(world, time, |r| r.cells.iter().any(is_it));
        let at = self.cells.iter().position(is_it)?;
        self.cells.remove(at)
    }

    /// Announces an onion key, as if this were a relay.
    pub fn announce(&mut self, world: &mut World, epoch: u16, key: [u8; 32]) {
        assert!(self.link.send(&Control::OnionKey { epoch, key }).is_ok());
        self.flush(world);
    }

    /// Bytes that the honest side would still take now.
    pub fn room(&self, world: &World) -> usize {
        world.wires[self.wire].room(0)
    }

    /// Asks for a circuit; `None` if the friend does not answer.
    pub fn create(&mut self, world: &mut World) -> Option<RogueCircuit> {
        let (epoch, key) = self.key?;
        let (building, message) = Building::start(&key, epoch, &mut world.rng).expect("a good key");
        let circ = self.fresh();
        self.say(world, circ, Command::Create, &Create { epoch, message }.encode());
        let came = self.next(world, circ, Duration::from_secs(1))?;
        assert_eq!(came.command, Command::Created);
        let (layer, list) = building.finish(&came.body[..CREATED_LEN]).expect("the friend has its key");
        let mut layers = Layers::default();
        layers.push(layer).expect("the first hop");
        Some(RogueCircuit { circ, layers, list: decode_list(&list).expect("a good list"), streams: 0 })
    }

    /// Sends something to the end of a circuit.
    pub fn tell(
        &mut self,
        world: &mut World,
        circuit: &mut RogueCircuit,
        stream: StreamId,
        message: &Relayed,
    ) {
        let body = circuit.sealed(world, stream, message);
        self.say(world, circuit.circ, Command::Relay, &body);
    }

    /// What the end of a circuit says next, and when; `None` when nothing comes or the circuit ends.
    pub fn hear(
        &mut self,
        world: &mut World,
        circuit: &mut RogueCircuit,
        time: Duration,
    ) -> Option<(Duration, StreamId, Relayed)> {
        let came = self.next(world, circuit.circ, time)?;
        if came.command == Command::Destroy {
            self.cells.push_front(came);
            return None;
        }
        assert_eq!(came.command, Command::Relay);
        let mut body: Body = *came.body;
        circuit.layers.open(&mut body).expect("honest relays");
        let (stream, message) = Relayed::read(&body).expect("an honest end");
        Some((came.at, stream, message))
    }

    /// Makes a circuit longer by somebody that its end lists.
    pub fn extend(&mut self, world: &mut World, circuit: &mut RogueCircuit, to: &Listed) -> bool {
        let (building, message) = Building::start(&to.key, to.epoch, &mut world.rng).expect("a good key");
        let create = Create { epoch: to.epoch, message };
        let wait = Duration::from_millis(300);
        self.tell(world, circuit, 0, &Relayed::Extend { handle: to.handle, create, wait });
        let Some((_, 0, Relayed::Extended { message: Some(message), .. })) =
            self.hear(world, circuit, Duration::from_secs(2))
        else {
            return false;
        };
        let (layer, list) = building.finish(&message).expect("the relay has its key");
        circuit.layers.push(layer).expect("there is room");
        circuit.list = decode_list(&list).expect("a good list");
        true
    }

    /// Asks the end of a circuit for an object and waits for a holder.
    pub fn open(
        &mut self,
        world: &mut World,
        circuit: &mut RogueCircuit,
        cap: &VerifyCap,
    ) -> Option<(StreamId, Session)> {
        let psk = cap.tunnel_psk();
        let mut noise = Handshake::initiate(Pattern::Tunnel, &psk, b"kith tunnel v1", &mut world.rng)
            .expect("a handshake");
        let message = noise.write(&[]).expect("a first message");
        let locator = cap.locator().at_hour(world.time(0).hour());
        let nonce = world.rng.bytes();
        circuit.streams += 1;
        let request = Relayed::Open { locator, spread: 2, want: 1, nonce, message };
        self.tell(world, circuit, circuit.streams, &request);
        let (_, stream, Relayed::Opened(message)) = self.hear(world, circuit, Duration::from_secs(4))? else {
            return None;
        };
        noise.read(&message).expect("the holder has the capability");
        Some((stream, noise.into_session().expect("both messages are through")))
    }

    /// Says something to a holder.
    pub fn ask(
        &mut self,
        world: &mut World,
        circuit: &mut RogueCircuit,
        (stream, session): &mut (StreamId, Session),
        message: Message,
    ) {
        let mut queue = ByteQueue::default();
        message.push_to(&mut queue);
        while !queue.is_empty() {
            let mut record = vec![0; TUNNEL_RECORD_LEN];
            seal_next(session, &mut queue, &mut record).expect("a record fits");
            self.tell(world, circuit, *stream, &Relayed::Data(record));
        }
    }

    /// Whether a circuit was ended by the honest side.
    pub fn is_ended(&self, circ: CircId) -> Option<Duration> {
        self.cells.iter().find(|c| c.circ == circ && c.command == Command::Destroy).map(|c| c.at)
    }
}

impl RogueCircuit {
    /// A cell for the end of the circuit.
    pub fn sealed(&mut self, world: &mut World, stream: StreamId, message: &Relayed) -> Body {
        let mut body = [0; kith_crypto::circuit::BODY_LEN];
        message.write(stream, &mut body);
        self.layers.seal(&mut body, &mut world.rng);
        body
    }
}
