//! The simulated world: virtual time, nodes around the shipped core, wires between them.
//!
//! Invariant: the seed decides everything. All collections are ordered, all times and faults are
//! drawn from one generator, and events of one instant happen in the order in which they were made.
//! What the world checks all the time: blocks are delivered only verified, counters never go back,
//! memory stays within its bounds, and no core asks for a time in the past again and again.

mod circuits;
mod disk;
mod fair;
mod hostile;
mod node;
mod rogue;
pub mod seeds;
mod wire;

pub use disk::{Journal, Line, Object};
pub use fair::Flood;
pub use hostile::Hostile;
pub use node::{Disk, Fetching, Mischief, Node, Outcome};
pub use rogue::{Came, Rogue, RogueCircuit};
pub use wire::{End, Flow, Quality, Wire, WireId};

use kith_crypto::cert::{Address, Certificate};
use kith_crypto::content::{Position, ReadCap, Root, VerifiedBlock};
use kith_crypto::identity::Identity;
use kith_crypto::invite::Invite;
use kith_crypto::pair::PairRoot;
use kith_crypto::rng::Rng;
use kith_crypto::secret::Key;
use kith_onion::budget::Budgets;
use kith_onion::catalogue::{Audience, Pace};
use kith_onion::entry::Entry;
use kith_onion::handshake::Who;
use kith_onion::link::{RECORD_LEN, WINDOW_MAX};
use kith_onion::{
    CircuitSettings, ConnId, Core, Event, FetchEvent, FriendKey, FriendRecord, GivenInvite, InviteId, Limits,
    Note, Now, Output, Privacy, Rates, Route, Setup, Trust,
};
use node::Fetching as Fetch;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// A node of the world.
pub type NodeId = usize;

/// Wall clock of the world's beginning, in Unix milliseconds.
const BEGINNING_MS: u64 = 1_767_225_600_000;
const DAY_S: u64 = 86_400;
/// A dial that nobody answers is given up.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Wakes of one node in one instant that do nothing; more means a busy loop.
const MAX_IDLE_WAKES: u32 = 50;
/// No node asks to be woken at a time longer ago than this, unless it slept.
const LONG_PAST: Duration = Duration::from_secs(20);

/// A write on a wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// When.
    pub at: Duration,
    /// Who wrote.
    pub from: Option<NodeId>,
    /// To whom.
    pub to: Option<NodeId>,
    /// On which wire.
    pub wire: WireId,
    /// How many bytes.
    pub len: usize,
    /// Hash of the bytes.
    pub hash: [u8; 32],
}

enum What {
    Arrive { wire: WireId, side: usize, bytes: Vec<u8> },
    Look { node: NodeId, life: u32 },
    Ended { wire: WireId, side: usize },
    Knock { node: NodeId, life: u32, who: Who, target: NodeId },
    Dialled { life: u32, who: Who, wire: WireId },
    DialFailed { node: NodeId, life: u32, who: Who },
    Persisted { node: NodeId, life: u32, ticket: u64, upto: u64 },
    Read { node: NodeId, life: u32, conn: ConnId, circ: u32, position: Position, bytes: Option<Vec<u8>> },
    Written { node: NodeId, life: u32, root: Root, position: Position, bytes: Rc<[u8]> },
}

/// Somebody on the way: gets what an end of a wire writes, gives what goes on.
pub type Meddler = Box<dyn FnMut(WireId, usize, Vec<u8>) -> Vec<u8>>;

/// The world.
pub struct World {
    /// All choices of the world itself.
    pub rng: Rng,
    /// Virtual time.
    pub now: Duration,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// All wires that ever were.
    pub wires: Vec<Wire>,
    /// Quality of new wires.
    pub quality: Quality,
    /// Range that the latency between two nodes is drawn from, once for each two, in milliseconds.
    latencies: Option<(u64, u64)>,
    drawn: BTreeMap<(NodeId, NodeId), Duration>,
    /// Dials that are refused: from, to.
    pub refused: BTreeSet<(NodeId, NodeId)>,
    /// Every object that was ever published.
    pub truth: BTreeMap<Root, Rc<Object>>,
    /// All writes, when somebody asked for them.
    pub writes: Option<Vec<Write>>,
    /// Changes what is written, when there is one.
    pub meddler: Option<Meddler>,
    /// Most cells that waited in one relayed tunnel so far.
    pub most_relayed: usize,
    queue: BTreeMap<(Duration, u64), What>,
    queued: u64,
    wakes: Vec<Option<Duration>>,
    invites: u64,
    floods: u32,
    /// What nodes that take notes have written down, as far as it was looked at.
    heard: BTreeMap<NodeId, Vec<Note>>,
    /// What happened to nodes that sleep.
    missed: Vec<(NodeId, What)>,
}

impl World {
    /// An empty world.
    pub fn new(seed: u64) -> Self {
        let mut full = [0; 32];
        full[..8].copy_from_slice(&seed.to_le_bytes());
        Self {
            rng: Rng::from_seed(full),
            now: Duration::ZERO,
            nodes: Vec::new(),
            wires: Vec::new(),
            quality: Quality::default(),
            latencies: None,
            drawn: BTreeMap::new(),
            refused: BTreeSet::new(),
            truth: BTreeMap::new(),
            writes: None,
            meddler: None,
            most_relayed: 0,
            queue: BTreeMap::new(),
            queued: 0,
            wakes: Vec::new(),
            invites: 0,
            floods: 0,
            heard: BTreeMap::new(),
            missed: Vec::new(),
        }
    }

    /// A world with so many running nodes whose catalogues hardly wait.
    pub fn with_nodes(seed: u64, count: usize) -> Self {
        const NAMES: [&str; 6] = ["Ana", "Bo", "Cid", "Dora", "Eli", "Fay"];
        let mut world = Self::new(seed);
        for name in NAMES.into_iter().cycle().take(count) {
            let pace = Pace { batch: Duration::from_secs(2), spread: Duration::from_secs(3) };
            world.add_node(name, pace);
        }
        world
    }

    // Nodes.

    /// Makes a node and starts it.
    pub fn add_node(&mut self, name: &'static str, pace: Pace) -> NodeId {
        let id = self.nodes.len();
        let identity = Identity::generate(&mut self.rng);
        let addr = Address::Ip(([10, 0, (id >> 8) as u8, id as u8], 5483).into());
        let cert = Certificate::sign(&identity, name, std::slice::from_ref(&addr), 1, u32::MAX)
            .expect("the name is plain");
        self.nodes.push(Node {
            name,
            secrets: identity.secrets(),
            older: Vec::new(),
            own_secret: Key::new(self.rng.bytes()),
            cert,
            addr,
            pace,
            disk: Disk::default(),
            mischief: Mischief::None,
            limits: Limits::default(),
            budgets: Budgets::default(),
            rates: Rates::default(),
            privacy: Privacy::default(),
            circuits: CircuitSettings::default(),
            trust: BTreeMap::new(),
            cpu: None,
            clock_ms: 0,
            asleep: false,
            uncounted: Duration::ZERO,
            journal: Journal::default(),
            objects: BTreeMap::new(),
            partial: BTreeMap::new(),
            arriving: BTreeMap::new(),
            fetches: BTreeMap::new(),
            invites: Vec::new(),
            befriended: Vec::new(),
            mirrors: Vec::new(),
            withdrawn: Vec::new(),
            out_of_step: Vec::new(),
            rotated: Vec::new(),
            reused: Vec::new(),
            ups: 0,
            core: None,
            life: 0,
            conns: BTreeMap::new(),
            persist_free_at: Duration::ZERO,
            idle_wakes: 0,
            busy_until: Duration::ZERO,
            read_last: 0,
        });
        self.wakes.push(None);
        self.start(id);
        id
    }

    /// What a node's clocks say.
    pub fn time(&self, node: NodeId) -> Now {
        let (clock_ms, uncounted) =
            self.nodes.get(node).map_or((0, Duration::ZERO), |n| (n.clock_ms, n.uncounted));
        let unix_ms = (BEGINNING_MS + self.now.as_millis() as u64).saturating_add_signed(clock_ms);
        Now { at: self.now - uncounted, unix_ms }
    }

    /// Starts a node from its disk.
    pub fn start(&mut self, id: NodeId) {
        let now = self.time(id);
        let seed = self.rng.bytes();
        let node = &mut self.nodes[id];
        node.life += 1;
        node.persist_free_at = self.now;
        let mut core = Core::new(Setup {
            identity: node.identity(),
            pace: node.pace,
            limits: node.limits,
            secret: node.own_secret.clone(),
            seed,
        });
        let own_keys = node.older.len() as u32;
        let older = node.older.iter().enumerate();
        core.set_own_keys(own_keys, older.map(|(n, s)| (n as u32, Identity::from_secrets(*s))).collect());
        core.set_budgets(node.budgets);
        core.set_rates(now, node.rates);
        core.set_certificate(now, node.cert.clone());
        core.set_privacy(now, node.privacy);
        core.set_circuits(now, node.circuits);
        if let Some(routes) = &node.journal.routes {
            assert!(core.restore_routes(now, routes), "stored routes are readable");
        }
        for record in node.journal.friends.values() {
            core.add_friend(now, record.clone());
        }
        for (friend, (trust, verified)) in &node.trust {
            core.set_trust(now, *friend, *trust, *verified);
        }
        for (friend, records) in &node.journal.views {
            for record in records {
                assert!(core.restore_view(now, *friend, record), "a stored record is readable");
            }
        }
        for (entry, audience) in node.journal.published.values() {
            core.publish(now, entry.clone(), *audience, false);
        }
        for object in node.objects.values() {
            core.hold(now, object.cap.verify_cap(), object.geometry);
        }
        for invite in node.journal.given.values() {
            core.give_invite(invite.clone());
        }
        for (invite, taken) in &node.journal.taken {
            core.take_invite(now, *invite, taken.clone());
        }
        for (cap, route) in node.journal.wanted.values() {
            let partial = node.partial.get(&cap.root);
            let have = |p: Position| partial.is_some_and(|blocks| blocks.contains_key(&p));
            let root = partial.and_then(|blocks| blocks.get(&Position::Root)).map(|b| b.to_vec());
            let stored = root.map(|root| (root, &have as &dyn Fn(Position) -> bool));
            let fetch =
                core.start_fetch(now, cap.clone(), *route, stored).expect("the stored root is genuine");
            if let Some(fetching) = node.fetches.get_mut(&cap.root) {
                (fetching.id, fetching.unwritten) = (fetch, 0);
            }
        }
        node.core = Some(core);
        self.settle(id);
    }

    /// The node's power fails: what was not durable is lost, its friends notice a little later.
    pub fn crash(&mut self, id: NodeId) {
        let node = &mut self.nodes[id];
        node.core = None;
        node.arriving.clear();
        node.journal.crash(&mut self.rng);
        let conns = std::mem::take(&mut node.conns);
        self.wakes[id] = None;
        for (wire, side) in conns.into_values() {
            self.leave(wire, side);
        }
    }

    /// Runs a node's own code with its core, and then what follows from it.
    pub fn act<T>(&mut self, id: NodeId, act: impl FnOnce(&mut Core, Now) -> T) -> T {
        let now = self.time(id);
        let core = self.nodes[id].core.as_mut().expect("the node runs");
        let result = act(core, now);
        self.settle(id);
        result
    }

    /// Sets what a node holds of circuits, now and after its next start.
    pub fn set_circuits(&mut self, id: NodeId, privacy: Privacy, circuits: CircuitSettings) {
        (self.nodes[id].privacy, self.nodes[id].circuits) = (privacy, circuits);
        self.act(id, |core, now| {
            core.set_privacy(now, privacy);
            core.set_circuits(now, circuits);
        });
    }

    /// `id` trusts `friend` so far.
    pub fn set_trust(&mut self, id: NodeId, friend: NodeId, trust: Trust) {
        let key = self.nodes[friend].key();
        self.nodes[id].trust.insert(key, (trust, false));
        self.act(id, |core, now| core.set_trust(now, key, trust, false));
    }

    /// A ring with chords: each node is a friend of the next, and of the one half-way round.
    pub fn ring(seed: u64, count: usize, circuits: CircuitSettings) -> Self {
        let mut world = Self::with_nodes(seed, count);
        for id in 0..count {
            world.set_circuits(id, Privacy::Fast, circuits);
        }
        world.join_ring();
        world
    }

    /// Makes the nodes that are there friends in such a ring.
    pub fn join_ring(&mut self) {
        let count = self.nodes.len();
        let chords = [(0, 3), (1, 4), (2, 5), (3, 6)];
        let ring = (0..count).map(|id| (id, (id + 1) % count));
        let pairs: Vec<(NodeId, NodeId)> =
            ring.chain(chords.into_iter().filter(|(_, b)| *b < count)).collect();
        pairs.iter().for_each(|(a, b)| self.introduce(*a, *b));
        let up = self.run_until(Duration::from_secs(60), |w| pairs.iter().all(|(a, b)| w.linked(*a, *b)));
        assert!(up, "everybody is linked");
    }

    // Friends.

    /// `inviter` gives an invite that lives for `life`.
    pub fn invite(&mut self, inviter: NodeId, life: Duration) -> (InviteId, Invite) {
        self.invites += 1;
        let id = InviteId(self.invites);
        let expires = (self.time(inviter).unix_s() + life.as_secs()) as u32;
        let secret = Key::new(self.rng.bytes());
        let node = &mut self.nodes[inviter];
        let invite = Invite::sign(&node.identity(), node.cert.clone(), secret.clone(), expires);
        let given = GivenInvite { id, secret, expires, tries: Vec::new(), bound: None };
        node.journal.given.insert(id, given.clone());
        self.act(inviter, |core, _| core.give_invite(given));
        (id, invite)
    }

    /// `node` uses an invite.
    pub fn take(&mut self, node: NodeId, id: InviteId, invite: &Invite) {
        self.nodes[node].journal.taken.insert(id, invite.clone());
        self.act(node, |core, now| core.take_invite(now, id, invite.clone()));
    }

    /// Two nodes become friends by invite; they need a little time for it.
    pub fn befriend(&mut self, inviter: NodeId, invited: NodeId) {
        let (id, invite) = self.invite(inviter, Duration::from_secs(DAY_S));
        self.take(invited, id, &invite);
        let done = self.run_until(Duration::from_secs(30), |w| w.linked(inviter, invited));
        assert!(done, "{} and {} became friends", self.nodes[inviter].name, self.nodes[invited].name);
    }

    /// Two nodes become friends by certificates that their owners exchanged.
    pub fn introduce(&mut self, a: NodeId, b: NodeId) {
        for (me, other) in [(a, b), (b, a)] {
            let cert = self.nodes[other].cert.clone();
            let root = PairRoot::new(&self.nodes[me].identity(), &cert.keys, None)
                .expect("genuine keys contribute to the secret");
            let record = FriendRecord::new(cert.keys, root, cert.addrs, 0);
            self.nodes[me].journal.friends.insert(FriendKey(cert.keys.sign), record.clone());
            self.act(me, |core, now| core.add_friend(now, record));
        }
    }

    /// A node draws new link keys and shows them to its friends.
    pub fn rotate(&mut self, id: NodeId) {
        let now = self.time(id);
        let node = &mut self.nodes[id];
        // The keys are in the journal before they are used, and so is all that came before.
        node.journal.sync_all();
        let identity = node.identity().rotated(&mut self.rng);
        node.older.push(node.secrets);
        node.secrets = identity.secrets();
        node.journal.given.clear();
        let created = now.unix_s() as u32;
        let addrs = std::slice::from_ref(&node.addr);
        node.cert = Certificate::sign(&identity, node.name, addrs, created, u32::MAX).expect("a plain name");
        let (cert, number) = (node.cert.clone(), node.older.len() as u32);
        self.act(id, |core, now| {
            core.rotate(now, number, identity);
            core.set_certificate(now, cert);
        });
    }

    /// Introduces and waits for the link.
    pub fn link(&mut self, a: NodeId, b: NodeId) {
        self.introduce(a, b);
        let done = self.run_until(Duration::from_secs(30), |w| w.linked(a, b));
        assert!(done, "{} and {} have a link", self.nodes[a].name, self.nodes[b].name);
    }

    /// `me` ends the friendship with `other`.
    pub fn part(&mut self, me: NodeId, other: NodeId) {
        let key = self.nodes[other].key();
        self.nodes[me].journal.friends.remove(&key);
        self.act(me, |core, now| core.remove_friend(now, key));
    }

    /// Whether both sides have the same one link.
    pub fn linked(&self, a: NodeId, b: NodeId) -> bool {
        let online = |me: NodeId, other: NodeId| {
            self.nodes[me].core.as_ref().is_some_and(|core| core.is_online(self.nodes[other].key()))
        };
        online(a, b) && online(b, a)
    }

    /// Wires between two nodes with somebody at both ends.
    pub fn wires_between(&self, a: NodeId, b: NodeId) -> Vec<WireId> {
        let joins = |w: &Wire| w.nodes == [Some(a), Some(b)] || w.nodes == [Some(b), Some(a)];
        let alive = |w: &Wire| w.ends.iter().all(|e| *e != End::Gone);
        self.wires.iter().enumerate().filter(|(_, w)| joins(w) && alive(w)).map(|(id, _)| id).collect()
    }

    // Objects.

    /// Publishes random content of so many bytes.
    pub fn publish(&mut self, node: NodeId, title: &str, len: usize, audience: Audience) -> ReadCap {
        let object = Rc::new(Object::random(&mut self.rng, len));
        let today = (self.time(node).unix_s() / DAY_S) as u32;
        let cap = object.cap.clone();
        let entry = Entry {
            cap: cap.clone(),
            hops_left: 0,
            title: title.into(),
            text: String::new(),
            tags: vec!["sim".into()],
            mime: "video/mp4".into(),
            duration_s: 1,
            bytes: len as u64,
            published_day: today,
            expires_day: today + 30,
        };
        self.truth.insert(cap.root, object.clone());
        let geometry = object.geometry;
        let owner = &mut self.nodes[node];
        owner.objects.insert(cap.root, object);
        owner.journal.published.insert(cap.root, (entry.clone(), audience));
        self.act(node, |core, now| {
            core.hold(now, entry.cap.verify_cap(), geometry);
            core.publish(now, entry, audience, true);
        });
        cap
    }

    /// Withdraws a publication.
    pub fn withdraw(&mut self, node: NodeId, root: Root) {
        self.nodes[node].journal.published.remove(&root);
        assert!(self.act(node, |core, now| core.withdraw(now, root)), "it was published");
    }

    /// Gives a node a copy of an object, as if it had fetched it.
    pub fn give_copy(&mut self, node: NodeId, root: Root) {
        let object = self.truth[&root].clone();
        self.nodes[node].objects.insert(root, object.clone());
        self.act(node, |core, now| core.hold(now, object.cap.verify_cap(), object.geometry));
    }

    /// Publishes an object that exists already, from another node.
    pub fn publish_copy(&mut self, node: NodeId, root: Root, audience: Audience) {
        self.give_copy(node, root);
        let today = (self.time(node).unix_s() / DAY_S) as u32;
        let cap = self.truth[&root].cap.clone();
        let entry = Entry { cap, expires_day: today + 30, published_day: today, ..Entry::sample() };
        self.nodes[node].journal.published.insert(root, (entry.clone(), audience));
        self.act(node, |core, now| core.publish(now, entry, audience, true));
    }

    /// Starts to fetch.
    pub fn fetch(&mut self, node: NodeId, cap: &ReadCap, route: Route) {
        let verify = cap.verify_cap();
        let id = {
            let now = self.time(node);
            let core = self.nodes[node].core.as_mut().expect("the node runs");
            core.start_fetch(now, verify.clone(), route, None).expect("nothing is stored")
        };
        let fetching = Fetch {
            cap: verify.clone(),
            id,
            geometry: None,
            unwritten: 0,
            sessions: Vec::new(),
            outcome: None,
        };
        self.nodes[node].fetches.insert(cap.root, fetching);
        self.nodes[node].journal.wanted.insert(cap.root, (verify, route));
        self.settle(node);
    }

    /// How a fetch ended, if it did.
    pub fn outcome(&self, node: NodeId, cap: &ReadCap) -> Option<Outcome> {
        self.nodes[node].fetches.get(&cap.root).and_then(|f| f.outcome)
    }

    /// Fetches and waits for the end.
    pub fn fetch_now(&mut self, node: NodeId, cap: &ReadCap, route: Route, limit: Duration) -> Outcome {
        self.fetch(node, cap, route);
        let ended = self.run_until(limit, |w| w.outcome(node, cap).is_some());
        assert!(ended, "the fetch ended in time");
        self.outcome(node, cap).expect("it ended")
    }

    /// Whether search on a node shows an object, and how far away it is.
    pub fn distance(&self, node: NodeId, cap: &ReadCap) -> Option<u8> {
        self.nodes[node].core.as_ref()?.listing(&cap.root).map(|l| l.distance)
    }

    // Faults.

    /// Cuts a wire. `told`: both ends get an error soon; otherwise silence is all they notice.
    pub fn cut(&mut self, wire: WireId, told: bool) {
        if std::mem::replace(&mut self.wires[wire].cut, true) || !told {
            return;
        }
        for side in [0, 1] {
            let wait = Duration::from_millis(self.rng.range(0, 200));
            self.at(self.now + wait, What::Ended { wire, side });
        }
    }

    /// The machine of a node is suspended: its connections go without anybody being told, and nothing
    /// happens to it until it wakes up. `counted`: its clock for timers goes on meanwhile.
    pub fn sleep(&mut self, id: NodeId, time: Duration, counted: bool) {
        self.nodes[id].asleep = true;
        self.wakes[id] = None;
        for wire in self.nodes[id].wires() {
            self.cut(wire, false);
        }
        self.run(time);
        let node = &mut self.nodes[id];
        node.asleep = false;
        if !counted {
            node.uncounted += time;
        }
        let (missed, others) = std::mem::take(&mut self.missed).into_iter().partition(|m| m.0 == id);
        self.missed = others;
        let missed: Vec<(NodeId, What)> = missed;
        missed.into_iter().for_each(|(_, what)| self.at(self.now, what));
        self.settle(id);
    }

    // Strangers.

    /// A stranger connects to a node; `source` is a hash of its address.
    pub fn stranger(&mut self, target: NodeId, source: u64) -> WireId {
        let wire = self.wires.len();
        self.wires.push(Wire::new([None, Some(target)], self.quality));
        self.wires[wire].ends[0] = End::Stranger;
        self.attach(wire, target, source);
        wire
    }

    fn attach(&mut self, wire: WireId, target: NodeId, source: u64) {
        let now = self.time(target);
        let node = &mut self.nodes[target];
        let Some(core) = node.core.as_mut() else { return };
        let conn = core.accepted(now, source);
        node.conns.insert(conn, (wire, 1));
        self.wires[wire].ends[1] = End::Node { node: target, life: node.life, conn };
        self.settle(target);
    }

    /// A stranger writes.
    pub fn stranger_writes(&mut self, wire: WireId, bytes: &[u8]) {
        self.write(wire, 0, bytes.to_vec());
    }

    // Time.

    fn at(&mut self, time: Duration, what: What) {
        self.queued += 1;
        self.queue.insert((time.max(self.now), self.queued), what);
    }

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Lets time pass until something is true, at most for `limit`.
    pub fn run_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + limit;
        loop {
            if done(self) {
                return true;
            }
            let event = self.queue.keys().next().map(|(at, _)| *at);
            let wake = self.wakes.iter().flatten().min().copied();
            let Some(next) = event.into_iter().chain(wake).min().filter(|at| *at <= end) else {
                self.now = end;
                return done(self);
            };
            self.now = self.now.max(next);
            match self.queue.first_entry().filter(|e| e.key().0 <= next) {
                Some(entry) => {
                    let what = entry.remove();
                    self.happen(what);
                }
                None => self.wake(),
            }
        }
    }

    fn wake(&mut self) {
        let Some(id) = self.wakes.iter().position(|w| w.is_some_and(|at| at <= self.now)) else { return };
        let now = self.time(id);
        if let Some(core) = self.nodes[id].core.as_mut() {
            core.timeout(now);
        }
        let busy = self.settle(id);
        let node = &mut self.nodes[id];
        let again = self.wakes[id].is_some_and(|at| at <= self.now);
        node.idle_wakes = if again && !busy { node.idle_wakes + 1 } else { 0 };
        assert!(node.idle_wakes < MAX_IDLE_WAKES, "{} asks for a past time again and again", node.name);
    }

    fn alive(&self, node: NodeId, life: u32) -> bool {
        self.nodes[node].life == life && self.nodes[node].core.is_some()
    }

    /// To whom something happens that a sleeping machine only notices later.
    fn noticed_by(&self, what: &What) -> Option<NodeId> {
        match what {
            What::Arrive { .. } | What::Ended { .. } => None,
            What::Dialled { wire, .. } => self.wires[*wire].nodes[0],
            What::Look { node, .. }
            | What::Knock { node, .. }
            | What::DialFailed { node, .. }
            | What::Persisted { node, .. }
            | What::Read { node, .. }
            | What::Written { node, .. } => Some(*node),
        }
    }

    fn happen(&mut self, what: What) {
        if let Some(node) = self.noticed_by(&what).filter(|n| self.nodes[*n].asleep) {
            return self.missed.push((node, what));
        }
        match what {
            What::Arrive { wire, side, bytes } => self.arrive(wire, side, bytes),
            What::Look { node, life } => {
                if self.alive(node, life) {
                    self.settle(node);
                }
            }
            What::Ended { wire, side } => self.ended(wire, side),
            What::Knock { node, life, who, target } => self.knock(node, life, who, target),
            What::Dialled { life, who, wire } => self.dialled(life, who, wire),
            What::DialFailed { node, life, who } => {
                if self.alive(node, life) {
                    self.act(node, |core, now| core.dial_failed(now, who));
                }
            }
            What::Persisted { node, life, ticket, upto } => {
                if self.alive(node, life) {
                    self.nodes[node].journal.sync(upto);
                    self.act(node, |core, now| core.persisted(now, ticket));
                }
            }
            What::Read { node, life, conn, circ, position, bytes } => {
                if self.alive(node, life) {
                    self.act(node, |core, now| core.block_read(now, conn, circ, position, bytes));
                }
            }
            What::Written { node, life, root, position, bytes } => {
                if self.alive(node, life) {
                    let owner = &mut self.nodes[node];
                    owner.arriving.remove(&(root, position));
                    owner.partial.entry(root).or_default().insert(position, bytes);
                    if let Some(fetching) = owner.fetches.get_mut(&root) {
                        fetching.unwritten = fetching.unwritten.saturating_sub(1);
                        let id = fetching.id;
                        self.act(node, |core, now| core.fetch_stored(now, id));
                    }
                }
            }
        }
    }

    // Wires.

    /// Time from one node to the other.
    pub fn latency(&mut self, a: NodeId, b: NodeId) -> Duration {
        let Some((low, high)) = self.latencies else { return self.quality.latency };
        let rng = &mut self.rng;
        let draw = || Duration::from_micros(rng.range(low * 1000, high * 1000));
        *self.drawn.entry((a.min(b), a.max(b))).or_insert_with(draw)
    }

    /// From now on nodes are at distances drawn from this range, in milliseconds.
    pub fn spread_out(&mut self, range: (u64, u64)) {
        self.latencies = Some(range);
        for id in 0..self.wires.len() {
            if let [Some(a), Some(b)] = self.wires[id].nodes {
                self.wires[id].quality.latency = self.latency(a, b);
            }
        }
    }

    fn knock(&mut self, node: NodeId, life: u32, who: Who, target: NodeId) {
        let latency = self.latency(node, target);
        if !self.alive(node, life) {
            return;
        }
        if self.refused.contains(&(node, target)) || self.nodes[target].core.is_none() {
            return self.at(self.now + latency, What::DialFailed { node, life, who });
        }
        if self.nodes[target].asleep {
            return self.at(self.now + DIAL_TIMEOUT, What::DialFailed { node, life, who });
        }
        let wire = self.wires.len();
        let quality = Quality { latency: self.latency(node, target), ..self.quality };
        self.wires.push(Wire::new([Some(node), Some(target)], quality));
        self.at(self.now + latency, What::Dialled { life, who, wire });
        self.attach(wire, target, node as u64);
    }

    fn dialled(&mut self, life: u32, who: Who, wire: WireId) {
        let Some(node) = self.wires[wire].nodes[0] else { return };
        if !self.alive(node, life) {
            return self.leave(wire, 0);
        }
        let now = self.time(node);
        let owner = &mut self.nodes[node];
        if let Some(core) = owner.core.as_mut() {
            let conn = core.dialled(now, who);
            owner.conns.insert(conn, (wire, 0));
            self.wires[wire].ends[0] = End::Node { node, life, conn };
        }
        self.settle(node);
    }

    /// An end leaves: the other notices after everything that was written before.
    fn leave(&mut self, wire: WireId, side: usize) {
        let now = self.now;
        let w = &mut self.wires[wire];
        w.ends[side] = End::Gone;
        w.ended_at.get_or_insert(now);
        if w.cut {
            return; // nothing arrives on a cut wire, not even its end
        }
        let at = w.flows[side].last_arrival.max(now + w.quality.latency);
        self.at(at, What::Ended { wire, side: 1 - side });
    }

    fn ended(&mut self, wire: WireId, side: usize) {
        let now = self.now;
        let w = &mut self.wires[wire];
        w.ended_at.get_or_insert(now);
        let end = std::mem::replace(&mut w.ends[side], End::Gone);
        if let End::Node { node, life, conn } = end
            && self.alive(node, life)
            && self.nodes[node].conns.remove(&conn).is_some()
        {
            self.act(node, |core, now| core.lost(now, conn));
        }
    }

    fn write(&mut self, wire: WireId, side: usize, bytes: Vec<u8>) {
        let now = self.now;
        let w = &mut self.wires[wire];
        if let Some(writes) = &mut self.writes {
            let hash = kith_crypto::kdf::hash(&bytes);
            let (from, to) = (w.nodes[side], w.nodes[1 - side]);
            writes.push(Write { at: now, from, to, wire, len: bytes.len(), hash });
        }
        let mut bytes = bytes;
        if let Some(meddler) = &mut self.meddler {
            bytes = meddler(wire, side, bytes);
        }
        let arrival = w.write(now, side, &bytes);
        // Sometimes the network hands over in pieces.
        if bytes.len() > 1 && self.rng.range(0, 3) == 0 {
            let mut first = bytes;
            let rest = first.split_off(self.rng.range(1, first.len() as u64 - 1) as usize);
            self.at(arrival, What::Arrive { wire, side: 1 - side, bytes: first });
            self.at(arrival, What::Arrive { wire, side: 1 - side, bytes: rest });
        } else {
            self.at(arrival, What::Arrive { wire, side: 1 - side, bytes });
        }
    }

    fn arrive(&mut self, wire: WireId, side: usize, bytes: Vec<u8>) {
        if self.wires[wire].cut {
            return; // nobody confirms, so the sender's buffer stays full
        }
        match self.wires[wire].ends[side] {
            End::Node { node, life, .. } if self.alive(node, life) => {
                self.wires[wire].unread[side].push_back(bytes);
                self.settle(node);
            }
            End::Stranger => {
                let now = self.now;
                let wire = self.wires[wire].take(side, bytes.len());
                wire.received.extend(bytes);
                wire.received_at.push((wire.received.len(), now));
            }
            _ => {
                self.wires[wire].take(side, bytes.len());
            }
        }
    }

    // The driver.

    /// Does what a core wants done, and sends what fits. True if there was anything.
    fn settle(&mut self, id: NodeId) -> bool {
        let mut any = false;
        loop {
            let mut busy = self.read_some(id);
            while let Some(output) = self.nodes[id].core.as_mut().and_then(Core::poll_output) {
                busy = true;
                self.obey(id, output);
            }
            let conns: Vec<(ConnId, WireId, usize)> =
                self.nodes[id].conns.iter().map(|(conn, (wire, side))| (*conn, *wire, *side)).collect();
            for (conn, wire, side) in conns {
                busy |= self.send(id, conn, wire, side);
            }
            any |= busy;
            if !busy {
                break;
            }
        }
        self.check(id);
        let node = &self.nodes[id];
        let next = node.core.as_ref().filter(|_| !node.asleep).and_then(Core::poll_timeout);
        let next = next.map(|at| at + node.uncounted);
        // A time long past would be taken for a sleep of the machine.
        let is_long_past = |at: Duration| at + LONG_PAST < self.now;
        let was_right = self.wakes[id].is_some_and(|at| !is_long_past(at));
        assert!(!was_right || !next.is_some_and(is_long_past), "{} asks for a time long past", node.name);
        self.wakes[id] = next;
        any
    }

    fn send(&mut self, id: NodeId, conn: ConnId, wire: WireId, side: usize) -> bool {
        let now = self.time(id);
        let mut any = false;
        loop {
            let room = self.wires[wire].room(side);
            let Some(core) = self.nodes[id].core.as_mut() else { return any };
            if room < RECORD_LEN || !core.wants_to_send(conn) {
                return any;
            }
            let mut out = vec![0; room.min(2 * RECORD_LEN)];
            let used = core.transmit(now, conn, &mut out);
            if used == 0 {
                return any;
            }
            any = true;
            out.truncate(used);
            self.write(wire, side, out);
        }
    }

    fn check(&mut self, id: NodeId) {
        let node = &self.nodes[id];
        let Some(core) = &node.core else { return };
        let load = core.load();
        let bounded = node.budgets.defences.bounded_answers;
        assert!(!bounded || load.most_relayed <= WINDOW_MAX as usize, "a relay holds more than a window");
        assert!(load.half_open <= node.limits.half_open, "too many strangers");
        self.most_relayed = self.most_relayed.max(load.most_relayed);
    }

    fn obey(&mut self, id: NodeId, output: Output) {
        let life = self.nodes[id].life;
        match output {
            Output::Dial(who, addrs) => {
                let target = addrs.iter().find_map(|a| self.nodes.iter().position(|n| n.addr == *a));
                let at = self.now + self.quality.latency;
                match target {
                    Some(target) => self.at(at, What::Knock { node: id, life, who, target }),
                    None => self.at(self.now, What::DialFailed { node: id, life, who }),
                }
            }
            // No node of a world uses Tor.
            Output::Undial(_) => {}
            Output::Close(conn) => {
                if let Some((wire, side)) = self.nodes[id].conns.remove(&conn) {
                    self.leave(wire, side);
                }
            }
            Output::Persist(ticket, changes) => {
                let (low, high) = self.nodes[id].disk.persist_ms;
                let wait = Duration::from_millis(self.rng.range(low, high));
                let node = &mut self.nodes[id];
                let mut upto = 0;
                for change in changes {
                    upto = node.journal.append(Line::Change(change));
                }
                // A journal is written in order.
                node.persist_free_at = node.persist_free_at.max(self.now + wait);
                let at = node.persist_free_at;
                self.at(at, What::Persisted { node: id, life, ticket, upto });
            }
            Output::Keep(change) => {
                self.nodes[id].journal.append(Line::Change(change));
            }
            Output::ViewRecords(friend, records) => {
                self.nodes[id].journal.append(Line::View(friend, records));
            }
            Output::DropView(friend) => {
                self.nodes[id].journal.append(Line::DropView(friend));
            }
            Output::Read(conn, circ, root, position) => self.read(id, conn, circ, root, position),
            Output::Event(event) => self.told(id, event),
        }
    }

    fn read(&mut self, id: NodeId, conn: ConnId, circ: u32, root: Root, position: Position) {
        let (low, high) = self.nodes[id].disk.read_ms;
        let wait = Duration::from_millis(self.rng.range(low, high));
        let node = &self.nodes[id];
        let whole = node.objects.get(&root).and_then(|o| o.blocks.get(&position));
        let part = whole.or_else(|| node.partial.get(&root).and_then(|blocks| blocks.get(&position)));
        // Storage does what it is given in order: what is being written is written before it is read.
        let written = part.or_else(|| node.arriving.get(&(root, position)));
        let mut bytes = written.map(|b| b.to_vec());
        match (node.mischief, position) {
            (Mischief::Silent, _) => return,
            (Mischief::Corrupt, Position::Data(_)) => {
                let len = bytes.as_ref().map_or(1, Vec::len) as u64;
                let index = self.rng.range(0, len - 1) as usize;
                if let Some(byte) = bytes.as_mut().and_then(|b| b.get_mut(index)) {
                    *byte ^= 0x40;
                }
            }
            (Mischief::Lacking, Position::Data(_)) => bytes = None,
            _ => {}
        }
        let life = node.life;
        self.at(self.now + wait, What::Read { node: id, life, conn, circ, position, bytes });
    }

    fn told(&mut self, id: NodeId, event: Event) {
        let node = &mut self.nodes[id];
        match event {
            Event::Up(_) => node.ups += 1,
            Event::Invite(invite, outcome) => node.invites.push((invite, outcome)),
            Event::Befriended(friend) => node.befriended.push(friend),
            Event::Fetch(fetch, event) => {
                // Names of fetches begin anew with each life of a node.
                let is_it = |f: &Fetch| f.id == fetch && f.outcome.is_none();
                let root = node.fetches.iter().find(|(_, f)| is_it(f)).map(|(root, _)| *root);
                if let Some(root) = root {
                    self.fetch_event(id, root, event);
                }
            }
            Event::Mirror(friend, event) => node.mirrors.push((friend, event)),
            Event::Withdrawn(root) => node.withdrawn.push(root),
            Event::OutOfStep(friend, step) => node.out_of_step.push((friend, step)),
            Event::KeysRotated(friend) => node.rotated.push(friend),
            Event::InviteReused(friend) => node.reused.push(friend),
            Event::Pong(..) | Event::OtherVersion(..) | Event::Down(_) | Event::ClockSkew(..) => {}
        }
    }

    fn fetch_event(&mut self, id: NodeId, root: Root, event: FetchEvent) {
        match event {
            FetchEvent::Root(block, geometry) => {
                if let Some(fetching) = self.nodes[id].fetches.get_mut(&root) {
                    fetching.geometry = Some(geometry);
                }
                self.deliver(id, root, block);
            }
            FetchEvent::Block(block) => self.deliver(id, root, block),
            FetchEvent::Session(links) => {
                if let Some(fetching) = self.nodes[id].fetches.get_mut(&root) {
                    fetching.sessions.push(links);
                }
            }
            FetchEvent::Complete => self.complete(id, root),
            FetchEvent::Unreachable => self.fetch_failed(id, root, Outcome::Unreachable),
            FetchEvent::NoOnion(why) => self.fetch_failed(id, root, Outcome::NoOnion(why)),
        }
    }

    fn fetch_failed(&mut self, id: NodeId, root: Root, outcome: Outcome) {
        let node = &mut self.nodes[id];
        node.journal.wanted.remove(&root);
        if let Some(fetching) = node.fetches.get_mut(&root) {
            fetching.outcome = Some(outcome);
        }
    }

    fn deliver(&mut self, id: NodeId, root: Root, block: VerifiedBlock) {
        let position = block.position();
        let genuine = self.truth[&root].blocks.get(&position);
        assert!(genuine.is_some_and(|b| **b == *block.bytes()), "only genuine blocks are delivered");
        let (low, high) = self.nodes[id].disk.write_ms;
        let wait = Duration::from_millis(self.rng.range(low, high));
        let node = &mut self.nodes[id];
        let life = node.life;
        if let Some(fetching) = node.fetches.get_mut(&root) {
            fetching.unwritten += 1;
            let most = kith_onion::fetch::MAX_UNWRITTEN_ONION;
            assert!(fetching.unwritten <= most, "too many unwritten blocks");
        }
        let bytes: Rc<[u8]> = block.into_bytes().into();
        node.arriving.insert((root, position), bytes.clone());
        self.at(self.now + wait, What::Written { node: id, life, root, position, bytes });
    }

    fn complete(&mut self, id: NodeId, root: Root) {
        let object = self.truth[&root].clone();
        let node = &mut self.nodes[id];
        let blocks = node.partial.remove(&root).unwrap_or_default();
        assert_eq!(blocks.len(), object.blocks.len(), "complete means all blocks");
        assert!(object.open(&blocks).is_some_and(|plain| plain == object.plain), "byte for byte the same");
        node.journal.wanted.remove(&root);
        if let Some(fetching) = node.fetches.get_mut(&root) {
            fetching.outcome = Some(Outcome::Complete);
        }
        node.objects.insert(root, object.clone());
        let now = self.time(id);
        if let Some(core) = self.nodes[id].core.as_mut() {
            core.hold(now, object.cap.verify_cap(), object.geometry);
        }
    }
}
