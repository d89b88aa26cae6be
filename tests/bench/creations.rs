//! A friend who asks for circuits all the time, against a real node. It exchanges certificates and
//! keys like any other friend, by the shipped core over a socket of its own; then it calls again and
//! does what it likes with the link.
//!
//! Half of what it sends are requests as an honest builder makes them, drawn in advance so that making
//! them costs nothing while it is measured; the others are of the right form and open nothing. Circuits
//! that stand are ended when there are many, so that there is always room for the next.

use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kith_crypto::cert::Certificate;
use kith_crypto::circuit::{Building, OnionKey};
use kith_crypto::identity::Identity;
use kith_crypto::noise::{Handshake, Pattern};
use kith_crypto::rng::Rng;
use kith_crypto::secret::Key;
use kith_onion::catalogue::Pace;
use kith_onion::cell::{CELL_LEN, CellRef, CircId, Command, SmallCell, decode_credits};
use kith_onion::circuit::Create;
use kith_onion::control::Control;
use kith_onion::handshake::{Caller, Peer};
use kith_onion::link::{Link, RECORD_LEN};
use kith_onion::schedule::Allowance;
use kith_onion::{Change, ConnId, Core, FriendKey, FriendRecord, Limits, Now, Output, Setup};

use crate::harness::{Node, SOON, json, kith_with, let_pass};

/// Feature bit of a node that knows circuits.
const CIRCUITS: u64 = 2;
/// Requests as an honest builder makes them; each is sent again when all were.
const FRESH: usize = 4_096;
/// Circuits that it lets stand: half of what a link may have.
const STANDING: usize = 32;
/// Cells that leave together.
const BATCH: u64 = 64;

/// Somebody whom a node takes for a friend.
pub(crate) struct Rogue {
    me: Identity,
    /// The node, as a friend keeps it.
    friend: FriendRecord,
    counter: u64,
    address: String,
    rng: Rng,
}

/// What it sent and got.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked {
    /// Requests that the connection took.
    pub(crate) sent: u64,
    /// The same, after half of the time: what was saved up is used by then.
    pub(crate) sent_late: u64,
    /// Circuits that were made.
    pub(crate) made: u64,
    /// The node closed the link.
    pub(crate) is_closed: bool,
    /// How long it took.
    pub(crate) seconds: f64,
    pub(crate) seconds_late: f64,
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

fn seed() -> [u8; 32] {
    let mut seed = [0; 32];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut seed).unwrap();
    seed
}

impl Rogue {
    /// Becomes a friend of a node and meets it once.
    pub(crate) fn befriend(node: &Node, name: &str) -> Self {
        let mut rng = Rng::from_seed(seed());
        let me = Identity::generate(&mut rng);
        let cert = Certificate::sign(&me, name, &[], (unix_ms() / 1_000) as u32, u32::MAX).unwrap();
        kith_with(node, &["friend", "add", "-", "--json"], cert.to_text().as_bytes()).expect_code(&[0]);
        let theirs = json(node, &["id"])["certificate"].as_str().unwrap().to_owned();
        let theirs = Certificate::from_text(&theirs).unwrap();
        let mut core = Core::new(Setup {
            identity: Identity::from_secrets(me.secrets()),
            pace: Pace { batch: Duration::from_secs(1_800), spread: Duration::from_secs(3_600) },
            limits: Limits::default(),
            secret: Key::new(rng.bytes()),
            seed: rng.bytes(),
        });
        let friend = core.friendship(&theirs).unwrap();
        let mut meeting = Meeting { begun: Instant::now(), sockets: BTreeMap::new(), friend };
        core.set_certificate(meeting.now(), cert);
        core.add_friend(meeting.now(), meeting.friend.clone());
        let (address, key) = (node.listen(), FriendKey(theirs.keys.sign));
        while !core.is_online(key) {
            assert!(meeting.begun.elapsed() < SOON, "{name} does not meet {}", node.name);
            meeting.turn(&mut core, &address);
        }
        meeting.turn(&mut core, &address);
        let friend = meeting.friend;
        Self { me, counter: friend.counter_out, friend, address, rng }
    }

    /// A link to the node, once it has told its onion key.
    pub(crate) fn call(&mut self) -> Wire {
        let Self { me, friend, rng, .. } = self;
        self.counter = (self.counter + 1).max(unix_ms());
        let peer = Peer::friend(me.public(), 0, &friend.keys, &friend.root);
        let (caller, flight) =
            Caller::start(me, peer, &friend.ratchet.to_call(), self.counter, rng).expect("good keys");
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(&flight).unwrap();
        let (mut caller, mut buffer) = (caller, [0; 4_096]);
        let (established, rest) = loop {
            let n = stream.read(&mut buffer).unwrap();
            assert!(n > 0, "the node does not answer a friend");
            let mut input = &buffer[..n];
            match caller.input(&mut input, rng).expect("an answer of the friend") {
                Ok((established, _)) => break (established, input.to_vec()),
                Err(more) => caller = more,
            }
        };
        // Even numbers belong to the lower signing key.
        let next_circ = if me.public().sign < friend.keys.sign { 2 } else { 1 };
        let mut wire = Wire::new(stream, Link::new(established.session), next_circ, rng.fork());
        assert!(wire.link.send(&Control::Hello { features: CIRCUITS, unix_ms: unix_ms() }).is_ok());
        wire.input(&rest);
        wire.flush();
        let begun = Instant::now();
        while wire.key.is_none() {
            assert!(begun.elapsed() < SOON && !wire.asked.is_closed, "the node tells no onion key");
            wire.read();
            let_pass(Duration::from_millis(1));
        }
        wire
    }
}

/// The exchange with a node: what a driver does.
struct Meeting {
    begun: Instant,
    sockets: BTreeMap<ConnId, TcpStream>,
    friend: FriendRecord,
}

impl Meeting {
    fn now(&self) -> Now {
        Now { at: self.begun.elapsed(), unix_ms: unix_ms() }
    }

    fn turn(&mut self, core: &mut Core, address: &str) {
        while let Some(output) = core.poll_output() {
            let now = self.now();
            match output {
                Output::Dial(who, _) => {
                    let stream = TcpStream::connect(address).unwrap();
                    stream.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
                    self.sockets.insert(core.dialled(now, who), stream);
                }
                Output::Close(id) => {
                    self.sockets.remove(&id);
                    core.lost(now, id);
                }
                Output::Persist(ticket, changes) => {
                    changes.into_iter().for_each(|change| self.keep(change));
                    core.persisted(now, ticket);
                }
                Output::Keep(change) => self.keep(change),
                _ => {}
            }
        }
        let ids: Vec<ConnId> = self.sockets.keys().copied().collect();
        for id in ids {
            self.move_bytes(core, id);
        }
        let now = self.now();
        if core.poll_timeout().is_some_and(|at| at <= now.at) {
            core.timeout(now);
        }
        let_pass(Duration::from_millis(1));
    }

    fn move_bytes(&mut self, core: &mut Core, id: ConnId) {
        let now = self.now();
        let Some(stream) = self.sockets.get_mut(&id) else { return };
        let mut buffer = vec![0; 8 * RECORD_LEN];
        let used = core.transmit(now, id, &mut buffer);
        let written = stream.write_all(&buffer[..used]);
        match stream.read(&mut buffer) {
            Ok(n @ 1..) => core.input(now, id, &buffer[..n]),
            Err(e) if written.is_ok() && matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            _ => {
                self.sockets.remove(&id);
                core.lost(now, id);
            }
        }
    }

    fn keep(&mut self, change: Change) {
        match change {
            Change::Ratchet(_, ratchet) => self.friend.ratchet = *ratchet,
            Change::CounterOut(_, counter) => self.friend.counter_out = counter,
            _ => {}
        }
    }
}

/// A link on which anything may be said.
pub(crate) struct Wire {
    stream: TcpStream,
    link: Link,
    /// The onion key that the node made for this friend.
    key: Option<(u16, [u8; 32])>,
    next_circ: CircId,
    standing: VecDeque<CircId>,
    asked: Asked,
    rng: Rng,
    buffer: Vec<u8>,
}

impl Wire {
    fn new(stream: TcpStream, link: Link, next_circ: CircId, rng: Rng) -> Self {
        let (standing, asked, buffer) = (VecDeque::new(), Asked::default(), vec![0; 8 * RECORD_LEN]);
        stream.set_nonblocking(true).unwrap();
        // What waits in the system's buffers was not read by the node.
        socket2::SockRef::from(&stream).set_send_buffer_size(64 << 10).unwrap();
        Self { stream, link, key: None, next_circ, standing, asked, rng, buffer }
    }

    /// A link to nobody: all that comes is thrown away. How fast a flood can be.
    pub(crate) fn to_nobody() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut other, _) = listener.accept().unwrap();
        thread::spawn(move || {
            let mut buffer = vec![0; 256 << 10];
            while let Ok(1..) = other.read(&mut buffer) {}
        });
        let mut rng = Rng::from_seed(seed());
        let [a, b] = [0, 1].map(|_| Identity::generate(&mut rng));
        let psk = Key::new(rng.bytes());
        let caller = Pattern::Friends { me: &a, peer: &b.public().noise };
        let callee = Pattern::Friends { me: &b, peer: &a.public().noise };
        let mut i = Handshake::initiate(caller, &psk, b"bench", &mut rng).unwrap();
        let mut r = Handshake::respond(callee, &psk, b"bench", &mut rng).unwrap();
        r.read(&i.write(&[]).unwrap()).unwrap();
        i.read(&r.write(&[]).unwrap()).unwrap();
        let mut wire = Self::new(stream, Link::new(i.into_session().unwrap()), 1, rng.fork());
        wire.key = Some((1, *OnionKey::generate(&mut rng).public()));
        wire
    }

    /// Takes what has come.
    fn read(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        loop {
            match self.stream.read(&mut buffer) {
                Ok(n @ 1..) => self.input(&buffer[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Ok(_) | Err(_) => {
                    self.asked.is_closed = true;
                    break;
                }
            }
        }
        self.buffer = buffer;
    }

    fn input(&mut self, mut input: &[u8]) {
        while let Some(record) = self.link.receive(&mut input).expect("an honest node seals in order") {
            record.as_chunks::<CELL_LEN>().0.iter().for_each(|cell| self.cell(cell));
            self.link.recycle(record);
        }
    }

    fn cell(&mut self, cell: &[u8; CELL_LEN]) {
        let cell = CellRef::decode(cell).expect("an honest node sends good cells");
        match cell.command {
            Command::Control => {
                for message in self.link.control(cell.body).expect("good messages") {
                    if let Control::OnionKey { epoch, key } = message {
                        self.key = Some((epoch, key));
                    }
                }
            }
            Command::Credit => {
                for (circ, cells) in decode_credits(cell.body).expect("good credit") {
                    let _ = self.link.credit(circ, cells);
                }
            }
            Command::Created => {
                self.asked.made += 1;
                self.standing.push_back(cell.circ);
            }
            _ => {}
        }
    }

    fn say(&mut self, circ: CircId, command: Command, front: Vec<u8>) {
        assert!(self.link.send_urgent(SmallCell { circ, command, front }).is_ok(), "there is room");
    }

    /// The bytes of what is queued.
    fn sealed(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            let now = Duration::ZERO;
            let used = self.link.transmit(now, &mut { Allowance::ALL }, &mut self.buffer).expect("a link");
            if used == 0 {
                return bytes;
            }
            bytes.extend_from_slice(&self.buffer[..used]);
        }
    }

    fn flush(&mut self) {
        let bytes = self.sealed();
        assert_eq!(self.stream.write(&bytes).unwrap(), bytes.len());
    }

    /// Requests as an honest builder makes them.
    fn fresh(&mut self) -> Vec<Create> {
        let (epoch, key) = self.key.expect("the node's key");
        let one = |_| Create { epoch, message: Building::start(&key, epoch, &mut self.rng).unwrap().1 };
        (0..FRESH).map(one).collect()
    }

    fn ask(&mut self, create: &Create, is_good: bool) {
        let message = if is_good { create.message } else { self.rng.bytes() };
        let circ = self.next_circ;
        self.next_circ += 2;
        self.say(circ, Command::Create, Create { epoch: create.epoch, message }.encode());
        if self.standing.len() > STANDING
            && let Some(oldest) = self.standing.pop_front()
        {
            self.say(oldest, Command::Destroy, Vec::new());
        }
    }

    /// Asks for circuits until it is told to stop. What the node does not read is not made up for.
    fn run(mut self, per_second: u32, fresh: &[Create], stop: &AtomicBool) -> Asked {
        let (begun, mut offered, mut half) = (Instant::now(), 0_u64, None);
        let (mut unsent, mut written, mut waiting) = (Vec::new(), 0, 0);
        while !stop.load(Ordering::Relaxed) && !self.asked.is_closed {
            self.read();
            if written == unsent.len() {
                self.asked.sent += waiting;
                let due = (begun.elapsed().as_secs_f64() * f64::from(per_second)) as u64;
                offered = offered.max(due.saturating_sub(10 * BATCH));
                waiting = due.saturating_sub(offered).min(BATCH);
                for n in offered..offered + waiting {
                    self.ask(&fresh[n as usize / 2 % fresh.len()], n % 2 == 0);
                }
                offered += waiting;
                (unsent, written) = (self.sealed(), 0);
            }
            match self.stream.write(&unsent[written..]) {
                Ok(n @ 1..) => written += n,
                Ok(_) => let_pass(Duration::from_millis(1)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => let_pass(Duration::from_millis(1)),
                Err(_) => self.asked.is_closed = true,
            }
            if half.is_none() && begun.elapsed() > HALF {
                half = Some((begun.elapsed(), self.asked.sent));
            }
        }
        let (end, (half, before)) = (begun.elapsed(), half.unwrap_or_default());
        let sent_late = self.asked.sent - before;
        let seconds_late = (end - half).as_secs_f64();
        Asked { seconds: end.as_secs_f64(), sent_late, seconds_late, ..self.asked }
    }
}

const HALF: Duration = Duration::from_secs(5);

/// A flood of requests for circuits.
pub(crate) struct Creations {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Asked>,
}

impl Creations {
    /// Begins to ask on a link.
    pub(crate) fn start(mut wire: Wire, per_second: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let fresh = wire.fresh();
        let copy = stop.clone();
        Self { stop, thread: thread::spawn(move || wire.run(per_second, &fresh, &copy)) }
    }

    /// Ends the flood, and its link.
    pub(crate) fn stop(self) -> Asked {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the load does not fail")
    }
}
