//! A node that plays by no rules: circuits that it builds by hand, with whatever cells it likes.
//!
//! Its own core knows nothing of them. What comes back is read from the notes that the node takes.

use super::{NodeId, World};
use kith_crypto::circuit::{BODY_LEN, Body, Building, Layers, STACK_LEN};
use kith_onion::cell::{CELL_LEN, Command, SmallCell, encode_credits};
use kith_onion::circuit::{Create, Relayed, StreamId, decode_created};
use kith_onion::handle::{Listed, decode_list};
use kith_onion::link::Link;
use kith_onion::schedule::{Class, Flow};
use kith_onion::{FriendKey, Note, Noted, Notes};
use std::time::Duration;

/// A friend that answers does so within this time.
const PATIENCE: Duration = Duration::from_secs(20);

/// A circuit that was built by hand.
pub struct Hostile {
    /// Whose it is.
    pub node: NodeId,
    /// Its first relay.
    pub friend: NodeId,
    /// Its number on that link.
    pub circ: u32,
    /// The builder's layers.
    pub layers: Layers,
    /// What each relay listed.
    pub lists: Vec<Vec<Listed>>,
    key: FriendKey,
    begun: usize,
    read: usize,
}

impl World {
    /// 0 where `node` draws even numbers for circuits on the link to `friend`, else 1.
    pub fn half(&self, node: NodeId, friend: NodeId) -> u32 {
        u32::from(self.nodes[node].key() > self.nodes[friend].key())
    }

    /// From now on a node writes down what it sees, with whole cells if `bodies`.
    pub fn listen(&mut self, node: NodeId, bodies: bool) {
        let list = self.act(node, |core, _| core.noted());
        self.act(node, |core, _| core.take_notes(Some(Notes { list, bodies })));
    }

    /// All that a node wrote down so far.
    pub fn heard(&mut self, node: NodeId) -> &[Note] {
        let new = self.act(node, |core, _| core.noted());
        let heard = self.heard.entry(node).or_default();
        heard.extend(new);
        heard
    }

    /// Cells of a kind that a node got from a friend since it takes notes.
    pub fn count_heard(&mut self, node: NodeId, friend: NodeId, command: Command) -> usize {
        let key = self.nodes[friend].key();
        let is = |n: &&Note| n.friend == key && matches!(n.what, Noted::Came(c, _) if c == command);
        self.heard(node).iter().filter(is).count()
    }

    /// Does something to a link, past all rules of the node's own.
    pub fn on_link(&mut self, node: NodeId, friend: NodeId, act: impl FnOnce(&mut Link)) {
        let key = self.nodes[friend].key();
        self.act(node, |core, _| core.raw_link(key).map(act));
    }

    /// A number for a circuit from `node` that is not in use.
    pub fn free_circ(&mut self, node: NodeId, friend: NodeId) -> u32 {
        self.floods += 1;
        0x4000_0000 + 2 * self.floods + self.half(node, friend)
    }

    /// Sends a small cell.
    pub fn send_cell(&mut self, node: NodeId, friend: NodeId, circ: u32, command: Command, front: Vec<u8>) {
        self.on_link(node, friend, |link| {
            // A link that is stuck ends at its owner's side, as it should.
            let _ = link.send_urgent(SmallCell { circ, command, front });
        });
    }

    /// Sends a cell with any number for a command.
    pub fn send_any(&mut self, node: NodeId, friend: NodeId, circ: u32, command: u8, body: &[u8]) {
        let mut cell = Box::new([0; CELL_LEN]);
        cell[..4].copy_from_slice(&circ.to_le_bytes());
        cell[4] = command;
        cell[8..][..body.len()].copy_from_slice(body);
        self.on_link(node, friend, |link| link.send_raw(cell));
    }

    /// What asks `friend` for a circuit.
    pub fn create_cell(&mut self, node: NodeId, friend: NodeId) -> Option<(Building, Create)> {
        let (epoch, key) = self.nodes[node].core().onion_key_of(self.nodes[friend].key())?;
        let (building, message) = Building::start(&key, epoch, &mut self.rng).ok()?;
        Some((building, Create { epoch, message }))
    }
}

impl Hostile {
    /// Begins a circuit. `None`: the friend did not answer.
    pub fn begin(world: &mut World, node: NodeId, friend: NodeId) -> Option<Self> {
        world.listen(node, true);
        let read = world.heard(node).len();
        let circ = world.free_circ(node, friend);
        let (building, create) = world.create_cell(node, friend)?;
        let flow = Flow { class: Class::Onion, from: 0 };
        world.on_link(node, friend, |link| link.open_circuit(circ, flow));
        world.send_cell(node, friend, circ, Command::Create, create.encode());
        let (layers, lists, key) = (Layers::default(), Vec::new(), world.nodes[friend].key());
        let mut hostile = Self { node, friend, circ, layers, lists, key, begun: read, read };
        let body = hostile.wait(world, Command::Created)?;
        hostile.join(building, &decode_created(&body[..]).ok()?)?;
        Some(hostile)
    }

    fn join(&mut self, building: Building, message: &[u8]) -> Option<()> {
        let (layer, list) = building.finish(message).ok()?;
        self.layers.push(layer).ok()?;
        self.lists.push(decode_list(&list).ok()?);
        Some(())
    }

    /// The next cell of a kind on the circuit, and when it came.
    fn next(&mut self, world: &mut World, command: Command) -> Option<(Duration, Box<Body>)> {
        let (circ, key, read) = (self.circ, self.key, self.read);
        let mut new = world.heard(self.node).iter().enumerate().skip(read);
        let found = new.find_map(|(at, note)| match &note.what {
            Noted::Came(c, Some(body)) if *c == command && note.circ == circ && note.friend == key => {
                Some((at, note.at, body.clone()))
            }
            _ => None,
        });
        let (at, time, body) = found?;
        self.read = at + 1;
        if command == Command::Relay {
            world.send_cell(self.node, self.friend, 0, Command::Credit, encode_credits(&[(circ, 1)]));
        }
        Some((time, body))
    }

    fn wait(&mut self, world: &mut World, command: Command) -> Option<Box<Body>> {
        let end = world.now + PATIENCE;
        while world.now < end {
            if let Some((_, body)) = self.next(world, command) {
                return Some(body);
            }
            world.run(Duration::from_millis(50));
        }
        None
    }

    /// Seals a payload for the end of the circuit.
    pub fn seal(&mut self, world: &mut World, payload: &[u8]) -> Body {
        let mut body = [0; BODY_LEN];
        body[STACK_LEN..][..payload.len()].copy_from_slice(payload);
        self.layers.seal(&mut body, &mut world.rng);
        body
    }

    /// Sends a cell as it is.
    pub fn send_body(&self, world: &mut World, body: &Body) {
        let (now, circ) = (world.now, self.circ);
        world.on_link(self.node, self.friend, |link| link.relay(now, circ, Box::new(*body)));
    }

    /// Sends a payload to the end.
    pub fn send_payload(&mut self, world: &mut World, payload: &[u8]) {
        let body = self.seal(world, payload);
        self.send_body(world, &body);
    }

    /// Says something to the end.
    pub fn say(&mut self, world: &mut World, stream: StreamId, message: &Relayed) {
        let mut body = [0; BODY_LEN];
        message.write(stream, &mut body);
        self.send_payload(world, &body[STACK_LEN..]);
    }

    /// The next thing that the end says, and when it came.
    pub fn hear(&mut self, world: &mut World) -> Option<(Duration, StreamId, Relayed)> {
        let (at, mut body) = self.next(world, Command::Relay)?;
        self.layers.open(&mut body).ok()?;
        let (stream, message) = Relayed::read(&body).ok()?;
        Some((at, stream, message))
    }

    /// Asks the end to go on; what it answered and how long that took.
    pub fn extend(&mut self, world: &mut World, to: &Listed, wait: Duration) -> Option<(Duration, bool)> {
        let (building, message) = Building::start(&to.key, to.epoch, &mut world.rng).ok()?;
        let begun = world.now;
        let create = Create { epoch: to.epoch, message };
        self.say(world, 0, &Relayed::Extend { handle: to.handle, create, wait });
        while world.now < begun + wait + PATIENCE {
            if let Some((at, 0, Relayed::Extended { message, .. })) = self.hear(world) {
                let good = message.is_some_and(|message| self.join(building, &message).is_some());
                return Some((at - begun, good));
            }
            world.run(Duration::from_millis(20));
        }
        None
    }

    /// Whether the link stands and the relay has not ended the circuit.
    pub fn stands(&mut self, world: &mut World) -> bool {
        let (circ, key) = (self.circ, self.key);
        // A new link has none of the circuits of the one before.
        let ended = |n: &Note| match n.what {
            Noted::Came(Command::Destroy, _) => n.circ == circ,
            Noted::Up => true,
            _ => false,
        };
        let mut since = world.heard(self.node).iter().skip(self.begun).filter(|n| n.friend == key);
        !since.any(ended) && world.linked(self.node, self.friend)
    }

    /// Ends the circuit.
    pub fn end(self, world: &mut World) {
        world.send_cell(self.node, self.friend, self.circ, Command::Destroy, Vec::new());
        let circ = self.circ;
        world.on_link(self.node, self.friend, |link| link.close_tunnel(circ));
    }
}
