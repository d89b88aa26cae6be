//! A whole core in steps: it has an honest friend (another core, linked in memory) and a hostile
//! one that holds good keys and says anything; strangers connect, storage and time take their turn.
//! Circuits of both cores go through the hostile friend, who plays their later relays, and its own go
//! through the core under test.
//!
//! Nothing may panic or loop, only genuine blocks are delivered, what peers occupy stays bounded,
//! and the honest friend stays on line whatever the others do.
#![no_main]

use kith_crypto::cert::{Address, Certificate};
use kith_crypto::circuit::{BODY_LEN as RELAY_LEN, Body, Building, Layers, OnionKey, RelayLayer, answer};
use kith_crypto::codec::{DecodeError, Reader};
use kith_crypto::content::{BLOCK_LEN, Builder, Geometry, Head, Position, ReadCap, SEALED_LEN};
use kith_crypto::identity::Identity;
use kith_crypto::noise::{Handshake, OVERHEAD, Pattern, Session};
use kith_crypto::pair::PairRoot;
use kith_crypto::ratchet::{First, KEM_TEXT_LEN, KemKey};
use kith_crypto::rng::Rng;
use kith_crypto::secret::Key;
use kith_onion::catalogue::{Audience, Pace};
use kith_onion::cell::{
    BODY_LEN, CELL_LEN, CellRef, Command, STREAM_LEN, TunOpen, begin, decode_tun_ok, encode_credits,
    encode_tun_ok,
};
use kith_onion::circuit::{CREATED_LEN, Create, Relayed};
use kith_onion::control::{Confirm, Control, Counters, DELTA_UNIT, Delta, Offer, Part, Reply, ViewOp};
use kith_onion::entry::{Eid, Entry};
use kith_onion::fetch::{MAX_UNWRITTEN_ONION as MAX_UNWRITTEN, Place};
use kith_onion::handle::{Handle, Listed, decode_list, encode_list};
use kith_onion::handshake::{Caller, Mode, Peer, Secret, Who};
use kith_onion::link::{
    Link, MAX_CELLS, MAX_CIRCUITS, RECORD_LEN, TUNNEL_RECORD_LEN, TUNNEL_STREAM_LEN, WINDOW_MAX,
};
use kith_onion::ratchet::Ratchet;
use kith_onion::session::{ByteQueue, Have, Message, Want};
use kith_onion::{
    CircuitSettings, ConnId, Core, Cover, Event, FetchEvent, FetchId, FriendKey, FriendRecord, Limits, Now,
    Output, Privacy, Route, Setup, Trust,
};
use libfuzzer_sys::fuzz_target;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::OnceLock;
use std::time::Duration;

const BEGINNING_MS: u64 = 1_767_225_600_000;
const LIMITS: Limits = Limits { half_open: 8, half_open_per_source: 3, calls: (10.0, 50.0) };
/// Links that the hostile friend holds open at most.
const MAX_SILENT: usize = 1_000;
const MAX_STEPS: u32 = 96;
/// Timeouts of one core in one instant; more means a busy loop.
const MAX_IDLE: u32 = 50;

struct Object {
    cap: ReadCap,
    geometry: Geometry,
    blocks: BTreeMap<Position, Vec<u8>>,
}

/// Three objects: of the core under test, of the honest friend, of the hostile one.
fn objects() -> &'static [Object; 3] {
    static OBJECTS: OnceLock<[Object; 3]> = OnceLock::new();
    OBJECTS.get_or_init(|| {
        [1, 2, 3].map(|n: u8| {
            let mut builder = Builder::new(Key::new([n; 32]));
            let mut blocks = BTreeMap::new();
            for _ in 0..n {
                let sealed = builder.push(vec![n; BLOCK_LEN]).expect("a small object");
                blocks.insert(sealed.position, sealed.bytes);
            }
            let head = Head { len: u64::from(n) * BLOCK_LEN as u64, ..Head::default() };
            let (cap, geometry) = builder.finish(&head, |sealed| {
                blocks.insert(sealed.position, sealed.bytes);
            });
            Object { cap, geometry, blocks }
        })
    })
}

/// Identities of the core under test, the honest friend and the hostile one, with certificates.
fn people() -> &'static [(Identity, Certificate); 3] {
    static PEOPLE: OnceLock<[(Identity, Certificate); 3]> = OnceLock::new();
    PEOPLE.get_or_init(|| {
        [11, 21, 31].map(|n: u8| {
            let id = Identity::from_secrets([[n; 32], [n + 1; 32], [n + 2; 32]]);
            let addr = Address::Ip(([10, 0, 0, n], 5483).into());
            let cert = Certificate::sign(&id, "Ana", &[addr], 1, u32::MAX).expect("a plain name");
            (id, cert)
        })
    })
}

fn pair_root(me: usize, peer: usize) -> PairRoot {
    PairRoot::new(&people()[me].0, people()[peer].0.public(), None).expect("good keys")
}

fn psk() -> Key {
    Key::new([7; 32])
}

fn friend_key(who: usize) -> FriendKey {
    FriendKey(people()[who].0.public().sign)
}

fn record(me: usize, peer: usize) -> FriendRecord {
    let cert = &people()[peer].1;
    let mut record = FriendRecord::new(cert.keys, pair_root(me, peer), cert.addrs.clone(), 0);
    // Past the first session, which carries an exchange and nothing else.
    record.ratchet = Ratchet { generation: 1, psk: psk(), since_s: 0, next: None };
    record
}

fn core(me: usize, friends: &[usize], now: Now) -> Core {
    let (id, cert) = &people()[me];
    let mut core = Core::new(Setup {
        identity: Identity::from_secrets(id.secrets()),
        pace: Pace { batch: Duration::from_millis(500), spread: Duration::from_secs(1) },
        limits: LIMITS,
        secret: Key::new([me as u8; 32]),
        seed: [me as u8 + 7; 32],
    });
    core.set_certificate(now, cert.clone());
    core.set_circuits(now, quick(3));
    friends.iter().for_each(|friend| core.add_friend(now, record(me, *friend)));
    let object = &objects()[me];
    core.hold(now, object.cap.verify_cap(), object.geometry);
    core.publish(now, entry(me, 1, now), Audience::Fof, true);
    core
}

/// Circuits as quick as they can be.
fn quick(relays: u8) -> CircuitSettings {
    let (pace, snapshot) = (Duration::from_millis(100), Duration::from_millis(500));
    CircuitSettings { pace, snapshot, relays, ..CircuitSettings::default() }
}

fn entry(object: usize, hops_left: u8, now: Now) -> Entry {
    let today = (now.unix_s() / 86_400) as u32;
    let cap = objects()[object].cap.clone();
    Entry { cap, hops_left, published_day: today, expires_day: today + 30, ..Entry::sample() }
}

/// The hostile friend's end of its link.
struct Hostile {
    conn: ConnId,
    session: Session,
    pending: Vec<u8>,
    body_len: Option<usize>,
    next_circ: u32,
    /// Requests of the core that wait for an answer.
    asked: Vec<(u32, TunOpen)>,
    /// Own requests that wait for an answer.
    opening: BTreeMap<u32, (bool, Handshake)>,
    /// Tunnels that stand, with the seal inside.
    tunnels: BTreeMap<u32, Option<Session>>,
    /// Reads the control stream.
    reader: Link,
    /// The onion key that the core made for it, and its own for the core.
    theirs: Option<(u16, [u8; 32])>,
    ours: OnionKey,
    /// Creations of the core that wait for an answer.
    creates: Vec<(u32, Create)>,
    /// Circuits through it: the relays that it plays, the first one first, and what it was asked last.
    relays: BTreeMap<u32, (Vec<RelayLayer>, Option<(u16, Relayed)>)>,
    /// Own circuits, asked for and standing, and whom their ends list.
    building: BTreeMap<u32, Building>,
    own: BTreeMap<u32, (Layers, Vec<Listed>)>,
    /// The last cell of a circuit that it sent.
    last: Option<(u32, Body)>,
}

impl Hostile {
    /// Sends a cell of one of its own circuits.
    fn relay(&mut self, circ: u32, stream: u16, message: &Relayed, rng: &mut Rng) -> Vec<u8> {
        let Some((layers, _)) = self.own.get_mut(&circ) else { return Vec::new() };
        let mut body = [0; RELAY_LEN];
        message.write(stream, &mut body);
        layers.seal(&mut body, rng);
        self.last = Some((circ, body));
        self.cells(&[cell_of(circ, Command::Relay, &body)])
    }

    /// Says something to the builder of a circuit, from its last relay.
    fn tell(&mut self, circ: u32, stream: u16, message: &Relayed, rng: &mut Rng) -> Vec<u8> {
        let Some((relays, _)) = self.relays.get_mut(&circ) else { return Vec::new() };
        let mut body = [0; RELAY_LEN];
        message.write(stream, &mut body);
        let mut back = relays.iter_mut().rev();
        back.next().into_iter().for_each(|last| last.originate(&mut body, rng));
        back.for_each(|relay| relay.backward(&mut body));
        self.last = Some((circ, body));
        self.cells(&[cell_of(circ, Command::Relay, &body)])
    }

    /// A list with one friend in it, who is the hostile one again.
    fn list(&self) -> Vec<u8> {
        let (handle, key) = (Handle([7; 8]), *self.ours.public());
        encode_list(&[Listed { handle, key, epoch: 9, uptime: 15, rate: 3, ageing: false }])
    }

    /// Answers as an honest relay does what is asked of those that it plays; `n` picks an object for
    /// requests.
    fn play(&mut self, n: u8, now: Now, rng: &mut Rng) -> Vec<u8> {
        let mut out = Vec::new();
        for (circ, create) in std::mem::take(&mut self.creates) {
            let list = self.list();
            if let Ok((layer, message)) = answer(&self.ours, create.epoch, &create.message, &list, rng) {
                self.relays.insert(circ, (vec![layer], None));
                out.extend(self.cells(&[cell_of(circ, Command::Created, &message)]));
            }
        }
        let asked = |(circ, (_, asked)): (&u32, &mut (_, Option<_>))| Some((*circ, asked.take()?));
        let asked: Vec<(u32, (u16, Relayed))> = self.relays.iter_mut().filter_map(asked).collect();
        for (circ, (stream, message)) in asked {
            let reply = match message {
                Relayed::Extend { create, .. } => {
                    let list = self.list();
                    let made = answer(&self.ours, create.epoch, &create.message, &list, rng);
                    let message = made.ok().map(|(layer, message)| (layer, message));
                    let took = Duration::from_millis(1);
                    let reply = Relayed::Extended { message: message.as_ref().map(|m| m.1.clone()), took };
                    out.extend(self.tell(circ, 0, &reply, rng));
                    if let (Some((layer, _)), Some((relays, _))) = (message, self.relays.get_mut(&circ)) {
                        relays.push(layer);
                    }
                    continue;
                }
                Relayed::Ping(_) => Relayed::Pong,
                Relayed::Open { locator, message, .. } => {
                    let object = objects().iter().find(|o| o.cap.locator().at_hour(now.hour()) == locator);
                    let cap = object.unwrap_or(&objects()[usize::from(n) % 3]).cap.verify_cap();
                    let mut noise =
                        Handshake::respond(Pattern::Tunnel, &cap.tunnel_psk(), b"kith tunnel v1", rng)
                            .expect("a handshake");
                    match noise.read(&message).and_then(|_| noise.write(&[])) {
                        Ok(message) if n < 200 => Relayed::Opened(message),
                        _ => Relayed::Refused,
                    }
                }
                _ => continue,
            };
            out.extend(self.tell(circ, stream, &reply, rng));
        }
        out
    }

    /// Seals plaintext as one record; whether it has a good form is the caller's business.
    fn record(&mut self, length: &[u8], body: &[u8]) -> Vec<u8> {
        let mut out = vec![0; length.len() + body.len() + 2 * OVERHEAD];
        let first = self.session.seal(length, &mut out).expect("a short message");
        let second = self.session.seal(body, &mut out[first..]).expect("a record is a Noise message");
        out.truncate(first + second);
        out
    }

    fn cells(&mut self, cells: &[[u8; CELL_LEN]]) -> Vec<u8> {
        let mut out = Vec::new();
        for group in cells.chunks(MAX_CELLS) {
            let body = group.as_flattened();
            out.extend(self.record(&(body.len() as u16).to_le_bytes(), body));
        }
        out
    }

    /// What the core sends, as far as it matters here.
    fn receive(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let need = self.body_len.unwrap_or(2 + OVERHEAD);
            let (now, rest) = bytes.split_at((need - self.pending.len()).min(bytes.len()));
            self.pending.extend_from_slice(now);
            bytes = rest;
            if self.pending.len() < need {
                return;
            }
            let sealed = std::mem::take(&mut self.pending);
            let mut plain = vec![0; need];
            let len = self.session.open(&sealed, &mut plain).expect("an honest core seals in order");
            plain.truncate(len);
            if self.body_len.take().is_some() {
                plain.as_chunks::<CELL_LEN>().0.iter().for_each(|cell| self.cell(cell));
            } else {
                self.body_len = Some(usize::from(u16::from_le_bytes([plain[0], plain[1]])) + OVERHEAD);
            }
        }
    }

    fn cell(&mut self, cell: &[u8; CELL_LEN]) {
        let cell = CellRef::decode(cell).expect("an honest core sends good cells");
        match cell.command {
            Command::TunOpen => {
                let request = TunOpen::decode(cell.body).expect("an honest core asks properly");
                self.asked.push((cell.circ, request));
            }
            Command::TunOk => {
                let message = decode_tun_ok(cell.body).expect("an honest core answers properly");
                let Some((sealed, mut noise)) = self.opening.remove(&cell.circ) else { return };
                if noise.read(&message).is_ok() {
                    let session = noise.into_session().expect("both messages are through");
                    self.tunnels.insert(cell.circ, sealed.then_some(session));
                }
            }
            Command::Control => {
                for message in self.reader.control(cell.body).expect("an honest core says good things") {
                    if let Control::OnionKey { epoch, key } = message {
                        self.theirs = (key != [0; 32]).then_some((epoch, key));
                    }
                }
            }
            Command::Create => {
                let create = Create::decode(cell.body).expect("an honest core asks properly");
                self.creates.push((cell.circ, create));
            }
            Command::Created => {
                let Some(building) = self.building.remove(&cell.circ) else { return };
                let (layer, list) =
                    building.finish(&cell.body[..CREATED_LEN]).expect("an honest core answers properly");
                let mut layers = Layers::default();
                layers.push(layer).expect("the first hop");
                self.own.insert(cell.circ, (layers, decode_list(&list).expect("a good list")));
            }
            Command::Relay => {
                let mut body: Body = *cell.body;
                if let Some((layers, _)) = self.own.get_mut(&cell.circ) {
                    layers.open(&mut body).expect("an honest core is the only relay");
                    Relayed::read(&body).expect("an honest end says good things");
                } else if let Some((relays, asked)) = self.relays.get_mut(&cell.circ) {
                    let good = relays.iter_mut().all(|relay| relay.forward(&mut body).is_ok());
                    *asked = if good { Relayed::read(&body).ok() } else { None };
                }
            }
            Command::Destroy | Command::TunNo => {
                self.relays.remove(&cell.circ);
                self.own.remove(&cell.circ);
                self.building.remove(&cell.circ);
                self.creates.retain(|(circ, _)| *circ != cell.circ);
                self.opening.remove(&cell.circ);
                self.tunnels.remove(&cell.circ);
                self.asked.retain(|(circ, _)| *circ != cell.circ);
            }
            _ => {}
        }
    }

    /// Stream bytes of a tunnel as cells.
    fn data(&mut self, circ: u32, bytes: &[u8]) -> Vec<[u8; CELL_LEN]> {
        let seal = self.tunnels.get_mut(&circ).and_then(Option::as_mut);
        let unit = if seal.is_some() { TUNNEL_STREAM_LEN } else { STREAM_LEN };
        let mut seal = seal;
        let mut out = Vec::new();
        for chunk in bytes.chunks(unit) {
            let mut cell = [0; CELL_LEN];
            let body = begin(&mut cell, circ, Command::Data);
            let length = (chunk.len() as u16).to_le_bytes();
            match &mut seal {
                None => {
                    body[..2].copy_from_slice(&length);
                    body[2..2 + chunk.len()].copy_from_slice(chunk);
                }
                Some(session) => {
                    let mut plain = [0; TUNNEL_RECORD_LEN - OVERHEAD];
                    plain[..2].copy_from_slice(&length);
                    plain[8..8 + chunk.len()].copy_from_slice(chunk);
                    session.seal(&plain, body).expect("a record fits a cell");
                }
            }
            out.push(cell);
        }
        out
    }
}

fn cell_of(circ: u32, command: Command, front: &[u8]) -> [u8; CELL_LEN] {
    let mut cell = [0; CELL_LEN];
    let front = front.get(..BODY_LEN).unwrap_or(front);
    begin(&mut cell, circ, command)[..front.len()].copy_from_slice(front);
    cell
}

struct World {
    at: Duration,
    rng: Rng,
    /// The core under test and its honest friend.
    cores: [Core; 2],
    /// Connections between the two.
    wires: Vec<[ConnId; 2]>,
    /// Connections of strangers, and calls that somebody else answers.
    loose: Vec<ConnId>,
    hostile: Option<Hostile>,
    /// Its older links, most of which the core has closed.
    silent: VecDeque<ConnId>,
    counter: u64,
    /// The hostile friend does not read.
    deaf: bool,
    /// Storage takes its time.
    lazy: bool,
    tickets: Vec<u64>,
    /// The core wants to dial the hostile friend.
    dial: bool,
    fetches: [BTreeMap<FetchId, usize>; 2],
    unwritten: BTreeMap<FetchId, usize>,
    out: Vec<u8>,
}

impl World {
    fn new() -> Self {
        let now = Now { at: Duration::ZERO, unix_ms: BEGINNING_MS };
        let mut world = Self {
            at: Duration::ZERO,
            rng: Rng::from_seed([5; 32]),
            cores: [core(0, &[1, 2], now), core(1, &[0], now)],
            wires: Vec::new(),
            loose: Vec::new(),
            hostile: None,
            silent: VecDeque::new(),
            counter: BEGINNING_MS,
            deaf: false,
            lazy: false,
            tickets: Vec::new(),
            dial: false,
            fetches: [BTreeMap::new(), BTreeMap::new()],
            unwritten: BTreeMap::new(),
            out: vec![0; RECORD_LEN],
        };
        world.wait(Duration::from_millis(1_200));
        assert!(world.linked(), "the link between two honest cores stands");
        world
    }

    fn linked(&self) -> bool {
        self.cores[0].is_online(friend_key(1)) && self.cores[1].is_online(friend_key(0))
    }

    fn now(&self) -> Now {
        Now { at: self.at, unix_ms: BEGINNING_MS + self.at.as_millis() as u64 }
    }

    /// Does what the cores ask for until they are quiet.
    fn settle(&mut self) {
        let mut rounds = 0;
        loop {
            rounds += 1;
            assert!(rounds < 5_000, "two cores never come to rest");
            let mut busy = false;
            for side in 0..2 {
                while let Some(output) = self.cores[side].poll_output() {
                    busy = true;
                    self.output(side, output);
                }
            }
            let now = self.now();
            let mut out = std::mem::take(&mut self.out);
            for wire in self.wires.clone() {
                for (from, to) in [(0, 1), (1, 0)] {
                    let n = self.cores[from].transmit(now, wire[from], &mut out);
                    if n > 0 && self.wires.contains(&wire) {
                        self.cores[to].input(now, wire[to], &out[..n]);
                    }
                    busy |= n > 0;
                }
            }
            for conn in self.loose.clone() {
                busy |= self.cores[0].transmit(now, conn, &mut out) > 0;
            }
            if let Some(hostile) = self.hostile.as_mut().filter(|_| !self.deaf) {
                let n = self.cores[0].transmit(now, hostile.conn, &mut out);
                hostile.receive(&out[..n]);
                busy |= n > 0;
            }
            self.out = out;
            if !busy {
                return;
            }
        }
    }

    fn output(&mut self, side: usize, output: Output) {
        let now = self.now();
        match output {
            Output::Persist(ticket, _) if side == 0 && self.lazy => self.tickets.push(ticket),
            Output::Persist(ticket, _) => self.cores[side].persisted(now, ticket),
            Output::Dial(Who::Friend(key), _) if side == 0 && key == friend_key(2) => self.dial = true,
            Output::Dial(who, _) => {
                let dialling = self.cores[side].dialled(now, who);
                let answering = self.cores[1 - side].accepted(now, 1_000);
                let wire = if side == 0 { [dialling, answering] } else { [answering, dialling] };
                self.wires.push(wire);
            }
            Output::Close(conn) => {
                if let Some(i) = self.wires.iter().position(|w| w[side] == conn) {
                    let wire = self.wires.remove(i);
                    self.cores[1 - side].lost(now, wire[1 - side]);
                } else if side == 0 {
                    self.loose.retain(|c| *c != conn);
                    self.hostile.take_if(|h| h.conn == conn);
                }
            }
            Output::Read(conn, circ, root, position) => {
                let object = objects().iter().find(|o| o.cap.root == root).expect("only these are held");
                let block = object.blocks.get(&position).cloned();
                self.cores[side].block_read(now, conn, circ, position, block);
            }
            Output::Event(Event::Fetch(id, event)) => self.fetched(side, id, event),
            _ => {}
        }
    }

    fn fetched(&mut self, side: usize, id: FetchId, event: FetchEvent) {
        let object = self.fetches[side].get(&id).map(|n| &objects()[*n]);
        let block = match event {
            FetchEvent::Root(block, geometry) => {
                assert_eq!(Some(geometry), object.map(|o| o.geometry));
                block
            }
            FetchEvent::Block(block) => block,
            FetchEvent::Session(_) => return,
            FetchEvent::Complete | FetchEvent::Unreachable | FetchEvent::NoOnion(_) => {
                self.fetches[side].remove(&id);
                return;
            }
        };
        let genuine = object.and_then(|o| o.blocks.get(&block.position()));
        assert!(genuine.is_some_and(|bytes| bytes == block.bytes()), "only genuine blocks are delivered");
        if side == 0 {
            let unwritten = self.unwritten.entry(id).or_default();
            *unwritten += 1;
            assert!(*unwritten <= MAX_UNWRITTEN, "too many unwritten blocks");
        } else {
            let now = self.now();
            self.cores[1].fetch_stored(now, id);
        }
    }

    /// Lets time pass from one timer to the next.
    fn wait(&mut self, time: Duration) {
        let end = self.at + time;
        self.settle();
        let mut idle = 0;
        loop {
            let next = self.cores.iter().filter_map(Core::poll_timeout).min().unwrap_or(end).min(end);
            idle = if next > self.at { 0 } else { idle + 1 };
            assert!(idle < MAX_IDLE, "a core asks for a past time again and again");
            self.at = self.at.max(next);
            let now = self.now();
            self.cores.iter_mut().for_each(|core| core.timeout(now));
            self.settle();
            let due = self.cores.iter().filter_map(Core::poll_timeout).any(|at| at <= self.at);
            if self.at >= end && !due {
                return;
            }
        }
    }

    /// The hostile friend calls, properly.
    fn call(&mut self) {
        let me = &people()[2].0;
        let peer = Peer::friend(me.public(), 0, people()[0].0.public(), &pair_root(2, 0));
        let secret = Secret { mode: Mode::Generation(1), psk: psk() };
        self.counter += 1;
        let (caller, flight) =
            Caller::start(me, peer, &secret, self.counter, &mut self.rng).expect("a first flight");
        let now = self.now();
        let conn = self.cores[0].accepted(now, 2_000);
        self.cores[0].input(now, conn, &flight);
        let lazy = std::mem::take(&mut self.lazy);
        // Only the answer is wanted: no settling, which would throw it away.
        while let Some(output) = self.cores[0].poll_output() {
            self.output(0, output);
        }
        self.lazy = lazy;
        let mut out = vec![0; 2 * RECORD_LEN];
        let n = self.cores[0].transmit(now, conn, &mut out);
        let mut answer = &out[..n];
        let Ok(Ok((established, _))) = caller.input(&mut answer, &mut self.rng) else {
            // It is no friend any more.
            self.loose.push(conn);
            return;
        };
        let lower = me.public().sign < people()[0].0.public().sign;
        let mut hostile = Hostile {
            conn,
            session: established.session,
            pending: Vec::new(),
            body_len: None,
            next_circ: if lower { 2 } else { 1 },
            asked: Vec::new(),
            opening: BTreeMap::new(),
            tunnels: BTreeMap::new(),
            reader: Link::new(dead_session(&mut self.rng)),
            theirs: None,
            ours: OnionKey::generate(&mut self.rng),
            creates: Vec::new(),
            relays: BTreeMap::new(),
            building: BTreeMap::new(),
            own: BTreeMap::new(),
            last: None,
        };
        hostile.receive(answer);
        if let Some(old) = self.hostile.replace(hostile) {
            self.silent.push_back(old.conn);
        }
        // Far above what the core allows: it sheds the oldest itself.
        if self.silent.len() > MAX_SILENT
            && let Some(oldest) = self.silent.pop_front()
        {
            self.cores[0].lost(now, oldest);
        }
    }

    /// Bytes from the hostile friend.
    fn say(&mut self, make: impl FnOnce(&mut Hostile, &mut Rng) -> Vec<u8>) {
        let now = self.now();
        if let Some(hostile) = &mut self.hostile {
            let bytes = make(hostile, &mut self.rng);
            self.cores[0].input(now, hostile.conn, &bytes);
        }
    }

    fn control(&mut self, message: &[u8]) {
        self.say(|hostile, _| {
            let cells: Vec<_> = message
                .chunks(STREAM_LEN)
                .map(|chunk| {
                    let front = [(chunk.len() as u16).to_le_bytes().as_slice(), chunk].concat();
                    cell_of(0, Command::Control, &front)
                })
                .collect();
            hostile.cells(&cells)
        });
    }

    fn check(&self) {
        let load = self.cores[0].load();
        assert!(load.half_open <= LIMITS.half_open, "too many strangers: {load:?}");
        assert!(load.connections <= LIMITS.half_open + 10, "too many connections: {load:?}");
        assert!(load.tunnels <= 2 * MAX_CIRCUITS * 4, "too many tunnels: {load:?}");
        assert!(load.timers <= 3 * load.tunnels, "timers without tunnels: {load:?}");
        // A circuit's end joins up to four streams, and adds what it says itself.
        assert!(load.most_relayed <= 5 * WINDOW_MAX as usize, "a relay holds too much: {load:?}");
        assert!(load.circuits <= 2 * 64 * 2, "too many circuits: {load:?}");
    }
}

/// A session that nothing is sealed with.
fn dead_session(rng: &mut Rng) -> Session {
    let mut one = Handshake::initiate(Pattern::Tunnel, &psk(), b"", rng).expect("a handshake");
    let mut other = Handshake::respond(Pattern::Tunnel, &psk(), b"", rng).expect("a handshake");
    other.read(&one.write(&[]).expect("a message")).expect("the first one");
    one.read(&other.write(&[]).expect("a message")).expect("the second one");
    one.into_session().expect("both messages are through")
}

/// What builders and ends say to each other, well formed.
fn relayed(r: &mut Reader<'_>, listed: &[Listed], rng: &mut Rng) -> Result<(u16, Relayed), DecodeError> {
    let (n, m) = (r.u8()?, r.u8()?);
    let wait = Duration::from_millis(u64::from(m) * 4);
    let stream = u16::from(n >> 4);
    let message = match n % 11 {
        0 | 1 => {
            let to = listed.get(usize::from(m) % listed.len().max(1)).copied();
            let (handle, key, epoch) =
                to.map_or((Handle([m; 8]), [9; 32], 1), |l| (l.handle, l.key, l.epoch));
            let message = Building::start(&key, epoch, rng).map_or([m; 48], |(_, message)| message);
            return Ok((0, Relayed::Extend { handle, create: Create { epoch, message }, wait }));
        }
        2 => Relayed::Extended { message: (m & 1 == 1).then(|| vec![m; CREATED_LEN]), took: wait },
        3 => return Ok((0, Relayed::Ping(wait))),
        4 => Relayed::Pong,
        5 | 6 => {
            let cap = objects()[usize::from(m) % 3].cap.verify_cap();
            let mut noise = Handshake::initiate(Pattern::Tunnel, &cap.tunnel_psk(), b"kith tunnel v1", rng)
                .expect("a handshake");
            let message = noise.write(&[]).expect("a first message");
            let locator = cap.locator().at_hour(BEGINNING_MS / 3_600_000);
            Relayed::Open { locator, spread: m >> 4 & 1, want: (m >> 6) + 1, nonce: rng.bytes(), message }
        }
        7 => Relayed::Opened(vec![m; 48]),
        8 => Relayed::Refused,
        9 => Relayed::Data(vec![m; TUNNEL_RECORD_LEN]),
        _ => Relayed::Close,
    };
    Ok((stream, message))
}

/// Messages of the ratchet and of rotations: well formed, in any order, right and wrong.
fn exchange_message(n: u8, a: u8, b: u8) -> Control {
    static KEY: OnceLock<KemKey> = OnceLock::new();
    let kem = || *KEY.get_or_init(|| First::begin(&mut Rng::from_seed([77; 32])).expect("a key").1);
    let counters = Counters { accepted: a.into(), used: u64::from(b) << 56 };
    let generation = if a & 1 == 0 { 2 } else { u32::from(b) << (a % 24) };
    match n % 12 {
        4 => Control::Offer(Box::new(Offer { generation, counters, have: [b; 16], key: kem() })),
        5 => {
            let text = [b; KEM_TEXT_LEN];
            Control::Reply(Box::new(Reply { generation, counters, key: kem(), text }))
        }
        6 => Control::Confirm(Box::new(Confirm { text: [a; KEM_TEXT_LEN], proof: [b; 16] })),
        7 => Control::Done([a; 16]),
        8 => Control::Ping(a.into()),
        9 => Control::Pong(a.into()),
        _ => {
            let identity = people()[2].0.rotated(&mut Rng::from_seed([b; 32]));
            let cert = Certificate::sign(&identity, "Cem", &[], a.into(), u32::MAX).expect("a plain name");
            let base = pair_root(0, 2).id();
            Control::Keys { base, certificate: cert.encoded().to_vec() }
        }
    }
}

fn message(r: &mut Reader<'_>, object: &Object) -> Result<Vec<u8>, DecodeError> {
    let position = |r: &mut Reader<'_>| {
        let n = r.u8()?;
        let at = Position::from_parts(n & 3, u64::from(n >> 2));
        Ok(at.unwrap_or(if n & 3 == 2 { Position::Root } else { Position::Head }))
    };
    let message = match r.u8()? % 13 {
        0 => Message::Start { resume: r.u8()? & 1 == 1, first: r.u8()?.into(), count: r.u8()?.into() },
        1 | 2 => {
            let count = r.u8()? % 70;
            let want = |r: &mut Reader<'_>| Ok(Want { position: position(r)?, deadline_ms: 9 });
            Message::Want((0..count).map(|_| want(r)).collect::<Result<_, DecodeError>>()?)
        }
        3 => Message::Cancel(vec![position(r)?]),
        4 => Message::Have(Have::All),
        5 => Message::Have(Have::Spans(r.bytes8(255, "map")?.to_vec())),
        6..=8 => {
            let at = position(r)?;
            Message::Block(at, object.blocks.get(&at).cloned().unwrap_or_else(|| vec![1; SEALED_LEN]))
        }
        9 => Message::Lack(position(r)?),
        10 => Message::Busy(r.u16()?),
        11 => {
            Message::More((0..r.u8()? % 70).map(|_| Ok(r.u8()?.into())).collect::<Result<_, DecodeError>>()?)
        }
        _ => return Ok(r.bytes8(255, "raw")?.to_vec()),
    };
    let mut queue = ByteQueue::default();
    message.push_to(&mut queue);
    let mut bytes = vec![0; queue.len()];
    queue.take(&mut bytes);
    Ok(bytes)
}

fn step(world: &mut World, r: &mut Reader<'_>) -> Result<(), DecodeError> {
    let now = world.now();
    match r.u8()? % 32 {
        0 => {
            let source = u64::from(r.u8()? % 4);
            let conn = world.cores[0].accepted(now, source);
            world.loose.push(conn);
        }
        1 => {
            let (which, bytes) = (usize::from(r.u8()?), r.bytes8(255, "bytes")?);
            if let Some(conn) = world.loose.get(which % world.loose.len().max(1)) {
                world.cores[0].input(now, *conn, bytes);
            }
        }
        // Any cell.
        2 | 3 => {
            let (circ, kind, front) = (r.u8()?, r.u8()?, r.bytes8(255, "front")?);
            world.say(|hostile, _| {
                const KNOWN: [u8; 11] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
                let mut cell = cell_of(u32::from(circ) % 9, Command::Pad, front);
                cell[4] = if kind < 0xF0 { KNOWN[usize::from(kind) % 11] } else { kind };
                cell[5] = u8::from(kind == 0xEF);
                hostile.cells(&[cell])
            });
        }
        // Any control message.
        4 => {
            let (number, body) = (r.u8()? % 22, r.bytes8(255, "body")?);
            let mut body = body.to_vec();
            if number == 7 {
                body.resize(DELTA_UNIT, 0);
            }
            let head = [[number].as_slice(), &(body.len() as u32).to_le_bytes(), &body].concat();
            world.control(&head);
        }
        5 | 6 => {
            let (n, at, since) = (r.u8()?, r.u8()?, r.u64()?);
            let part = if n & 1 == 0 { Part::Own } else { Part::Relayed };
            let ops = (0..usize::from(at % 6)).map(|i| match (n >> 4).wrapping_add(i as u8) % 5 {
                0 => ViewOp::Del(Eid([at.wrapping_add(i as u8) % 4; 8])),
                k => {
                    let mut entry = entry(usize::from(k % 3), n >> 1 & 1, now);
                    if k == 4 {
                        entry.cap.root.0[0] = at;
                        entry.title = format!("{since}");
                    }
                    ViewOp::Add(Eid([at.wrapping_add(i as u8) % 4; 8]), entry)
                }
            });
            let delta = Delta {
                part,
                log: u64::from(at & 3),
                upto: since,
                restart: n & 4 != 0,
                more: n & 8 != 0,
                next_batch_ms: if n == 255 { u32::MAX } else { 100 },
                batch_ms: if n == 254 { u32::MAX } else { 100 },
                ops: ops.collect(),
            };
            world.control(&Control::Delta(delta).encode());
        }
        7 => {
            let (n, log, since) = (r.u8()?, r.u8()?, r.u8()?);
            let message = match n % 12 {
                0 => Control::Hello { features: u64::MAX, unix_ms: u64::from_le_bytes([log; 8]) },
                1 => Control::Hint,
                2 => Control::Goodbye,
                4..=10 => exchange_message(n, log, since),
                _ => Control::Pull {
                    part: if n & 4 == 0 { Part::Own } else { Part::Relayed },
                    log: log.into(),
                    since: since.into(),
                },
            };
            world.control(&message.encode());
        }
        // A proper request for an object.
        8 | 9 => {
            let n = r.u8()?;
            world.say(|hostile, rng| {
                let cap = objects()[usize::from(n) % 3].cap.verify_cap();
                let mut noise =
                    Handshake::initiate(Pattern::Tunnel, &cap.tunnel_psk(), b"kith tunnel v1", rng)
                        .expect("a handshake");
                let request = TunOpen {
                    locator: cap.locator().at_hour(now.hour()),
                    hops_left: n >> 6 & 1,
                    sealed: n & 128 != 0,
                    spreads: n & 192 == 192,
                    nonce: rng.bytes(),
                    message: noise.write(&[]).expect("a first message"),
                };
                let circ = hostile.next_circ;
                hostile.next_circ += 2;
                hostile.opening.insert(circ, (request.sealed, noise));
                hostile.cells(&[cell_of(circ, Command::TunOpen, &request.encode())])
            });
        }
        // A proper answer to a request of the core.
        10 | 11 => {
            let n = r.u8()?;
            world.say(|hostile, rng| {
                let Some((circ, request)) = hostile.asked.pop() else { return Vec::new() };
                let asked = |o: &&Object| o.cap.locator().at_hour(now.hour()) == request.locator;
                let object = objects().iter().find(asked);
                let cap = object.unwrap_or(&objects()[usize::from(n) % 3]).cap.verify_cap();
                let mut noise =
                    Handshake::respond(Pattern::Tunnel, &cap.tunnel_psk(), b"kith tunnel v1", rng)
                        .expect("a handshake");
                if noise.read(&request.message).is_err() || n == 255 {
                    return hostile.cells(&[cell_of(circ, Command::TunNo, &[])]);
                }
                let front = encode_tun_ok(&noise.write(&[]).expect("a second message"));
                let session = noise.into_session().expect("both messages are through");
                hostile.tunnels.insert(circ, request.sealed.then_some(session));
                hostile.cells(&[cell_of(circ, Command::TunOk, &front)])
            });
        }
        // Session messages through a tunnel.
        12..=14 => {
            let (which, n) = (usize::from(r.u8()?), usize::from(r.u8()?));
            let bytes = message(r, &objects()[n % 3])?;
            world.say(|hostile, _| {
                let count = hostile.tunnels.len().max(1);
                let Some(circ) = hostile.tunnels.keys().nth(which % count).copied() else {
                    return Vec::new();
                };
                let cells = hostile.data(circ, &bytes);
                hostile.cells(&cells)
            });
        }
        15 => {
            let time = Duration::from_millis(u64::from(r.u16()?) / 4);
            world.wait(time);
        }
        16 => {
            let n = usize::from(r.u8()?);
            let victim = if n == 0 {
                world.hostile.take().map(|h| h.conn)
            } else if world.loose.is_empty() {
                None
            } else {
                Some(world.loose.swap_remove(n % world.loose.len()))
            };
            victim.into_iter().for_each(|conn| world.cores[0].lost(now, conn));
        }
        17 => world.call(),
        // A fetch of either core.
        18 => {
            let n = r.u8()?;
            let (side, object) = (usize::from(n >> 7), usize::from(n) % 3);
            let route = [Route::Auto, Route::Direct, Route::Fof, Route::Onion][usize::from(n >> 2) % 4];
            if side != object && world.fetches[side].len() < 8 {
                let cap = objects()[object].cap.verify_cap();
                let id = world.cores[side].start_fetch(now, cap, route, None).expect("nothing is stored");
                world.fetches[side].insert(id, object);
            }
        }
        19 => {
            let n = r.u8()?;
            for (id, unwritten) in &mut world.unwritten {
                match n % 4 {
                    0..=2 if *unwritten > 0 => {
                        *unwritten -= 1;
                        world.cores[0].fetch_stored(now, *id);
                    }
                    3 => {
                        let place = (n > 9).then_some(Place::new(n.into(), u64::from(n) << 12));
                        world.cores[0].set_reader(now, *id, 1, place);
                        world.cores[0].set_whole(now, *id, n & 16 == 0);
                    }
                    _ => {}
                }
            }
            if n == 255 {
                let ids: BTreeSet<_> = std::mem::take(&mut world.fetches[0]).into_keys().collect();
                ids.into_iter().for_each(|id| world.cores[0].cancel_fetch(now, id));
            }
        }
        20 => {
            let n = r.u8()?;
            world.lazy = n & 1 == 1;
            world.deaf = n & 6 == 6;
            let tickets = std::mem::take(&mut world.tickets);
            tickets.into_iter().for_each(|ticket| world.cores[0].persisted(now, ticket));
        }
        // Records and bytes that are no cells.
        21 => {
            let (n, length, body) = (r.u8()?, r.u16()?, r.bytes8(255, "body")?);
            world.say(|hostile, _| match n % 3 {
                0 => body.to_vec(),
                1 => hostile.record(body, body),
                _ => hostile.record(&length.to_le_bytes(), &body.repeat(usize::from(n) % 130)),
            });
        }
        22 => {
            let (circ, cells, count) = (r.u8()?, r.u16()?, r.u8()?);
            world.say(|hostile, _| {
                let credits = vec![(u32::from(circ) % 9, cells); usize::from(count) % 8];
                hostile.cells(&[cell_of(0, Command::Credit, &encode_credits(&credits))])
            });
        }
        // The hostile friend becomes a relay, with the right key or another, and goes on being one.
        23 => {
            let n = r.u8()?;
            world.say(|hostile, _| {
                let key = if n < 200 { *hostile.ours.public() } else { [n; 32] };
                let message = Control::OnionKey { epoch: u16::from(n & 1) + 8, key }.encode();
                let front = [(message.len() as u16).to_le_bytes().as_slice(), &message].concat();
                hostile.cells(&[cell_of(0, Command::Control, &front)])
            });
        }
        24 | 25 => {
            let n = r.u8()?;
            world.say(|hostile, rng| hostile.play(n, now, rng));
        }
        // It builds circuits of its own.
        26 => {
            let n = r.u8()?;
            world.say(|hostile, rng| {
                let Some((epoch, key)) = hostile.theirs else { return Vec::new() };
                let epoch = if n < 250 { epoch } else { epoch - 1 };
                let (building, message) = Building::start(&key, epoch, rng).expect("a good key");
                let circ = hostile.next_circ;
                hostile.next_circ += 2;
                hostile.building.insert(circ, building);
                hostile.cells(&[cell_of(circ, Command::Create, &Create { epoch, message }.encode())])
            });
        }
        // Whatever a builder may say, and what it may not, on one of them.
        27 | 28 => {
            let which = usize::from(r.u8()?);
            let listed: Vec<Listed> = world
                .hostile
                .iter()
                .flat_map(|h| h.own.values().flat_map(|(_, list)| list.clone()))
                .collect();
            let (stream, message) = relayed(r, &listed, &mut world.rng)?;
            world.say(|hostile, rng| {
                let count = hostile.own.len().max(1);
                let Some(circ) = hostile.own.keys().nth(which % count).copied() else { return Vec::new() };
                hostile.relay(circ, stream, &message, rng)
            });
        }
        // The same as the end of somebody's circuit, or garbage, or the last cell once more.
        29 => {
            let which = usize::from(r.u8()?);
            let (stream, message) = relayed(r, &[], &mut world.rng)?;
            world.say(|hostile, rng| {
                if which > 250 {
                    let Some((circ, body)) = hostile.last else { return Vec::new() };
                    return hostile.cells(&[cell_of(circ, Command::Relay, &body)]);
                }
                let count = hostile.relays.len().max(1);
                let Some(circ) = hostile.relays.keys().nth(which % count).copied() else { return Vec::new() };
                hostile.tell(circ, stream, &message, rng)
            });
        }
        // The owner of the circuits.
        30 => {
            let (n, m) = (r.u8()?, r.u8()?);
            let privacy = [Privacy::Fast, Privacy::Normal, Privacy::Strict][usize::from(n) % 3];
            let side = usize::from(n >> 7);
            let cover =
                [Cover::Off, Cover::Idle, Cover::Constant(u64::from(m) * 20)][usize::from(n >> 2) % 3];
            world.cores[side].set_privacy(now, privacy);
            let settings = CircuitSettings { relay: m % 8 > 0, cover, ..quick(m % 9) };
            world.cores[side].set_circuits(now, settings);
            let trust = [Trust::Close, Trust::Normal, Trust::Low][usize::from(m) % 3];
            world.cores[0].set_trust(now, friend_key(2), trust, m & 64 != 0);
        }
        // The owner.
        _ => match r.u8()? % 12 {
            8 => world.cores[0].resumed(now),
            9 => {
                let number = world.cores[0].own_keys() + 1;
                let identity = people()[0].0.rotated(&mut Rng::from_seed([number as u8; 32]));
                let cert = Certificate::sign(&identity, "Ana", &[], 9, u32::MAX).expect("a plain name");
                world.cores[0].rotate(now, number, identity);
                world.cores[0].set_certificate(now, cert);
            }
            10 => {
                world.cores[0].allow_restored(now, friend_key(2));
            }
            11 => {
                world.cores[0].ping(now, friend_key(2));
            }
            0 => {
                world.cores[0].withdraw(now, objects()[0].cap.root);
            }
            1 => world.cores[0].publish(now, entry(0, 1, now), Audience::One(friend_key(2)), true),
            2 => world.cores[0].publish(now, entry(0, 1, now), Audience::Fof, true),
            3 => world.cores[0].remove_friend(now, friend_key(2)),
            4 => world.cores[0].add_friend(now, FriendRecord { counter_in: world.counter, ..record(0, 2) }),
            5 => world.cores[0].release(&objects()[0].cap.root),
            6 => world.cores[0].hold(now, objects()[0].cap.verify_cap(), objects()[0].geometry),
            _ => {
                if std::mem::take(&mut world.dial) {
                    let who = Who::Friend(friend_key(2));
                    if r.u8()? & 1 == 0 {
                        world.cores[0].dial_failed(now, who);
                    } else {
                        let conn = world.cores[0].dialled(now, who);
                        world.loose.push(conn);
                    }
                }
            }
        },
    }
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    let mut r = Reader::new(data);
    let Ok(start) = r.u8() else { return };
    let mut world = World::new();
    world.call();
    if start % 8 != 0 {
        world.control(
            &Control::Hello { features: u64::from(start % 8 > 2) * 2, unix_ms: world.now().unix_ms }.encode(),
        );
        world.settle();
        assert!(world.cores[0].is_online(friend_key(2)), "the hostile friend's link stands");
    }
    for _ in 0..MAX_STEPS {
        if step(&mut world, &mut r).is_err() {
            break;
        }
        world.settle();
        world.check();
    }
    world.wait(Duration::from_secs(1));
    world.check();
    assert!(world.linked(), "nobody else can end the honest friends' link");
});
