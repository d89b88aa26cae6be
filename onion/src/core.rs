//! The composed protocol of one node: connections, links, catalogue, tunnels and fetches behind the
//! five verbs that a driver needs.
//!
//! The driver hands in bytes ([`Core::input`]), time ([`Core::timeout`]) and the results of what it
//! was asked to do; it takes bytes ([`Core::transmit`]), the next time ([`Core::poll_timeout`]) and
//! [`Output`]s ([`Core::poll_output`]) in order. Invariant: nothing that must survive a crash before
//! a peer may see its effect is sent before the driver has said that it is stored.

mod accounts;
mod circuits;
mod connections;
mod cover;
mod dialling;
mod exchange;
mod fetching;
mod holding;
mod invites;
mod messages;
mod mirrors;
mod notes;
mod onion_keys;
mod origin;
pub(crate) mod relaying;
mod rotation;
mod tunnels;

pub use accounts::Rates;
pub use circuits::{
    CircuitReport, CircuitSettings, Cover, GuardTier, NoOnion, OwnCircuit, OwnState, Privacy, Trust, Way,
};
pub use dialling::Reach;
pub use fetching::{FetchBuffer, Route, Stored};
pub use mirrors::{ASKED_BY, Kept, MirrorEvent, MirrorOffer, MirrorState};
#[doc(hidden)]
pub use notes::{Note, Noted, Notes};

use crate::budget::Budgets;
use crate::catalogue::{Act, Audience, Brief, Catalogue, EntryId, Listing, Pace, Searchable, ViewCount};
use crate::cell::CircId;
use crate::control::Control;
use crate::entry::Entry;
use crate::fetch::Fetch;
use crate::handshake::{Peer, Secret, Who};
use crate::ratchet::{Exchange, OutOfStep, Ratchet};
use crate::serving::Crowd;
use crate::time::{Now, earliest};
use crate::tunnel::{Bucket, Source};
use connections::Connection;
use dialling::Dialling;
use kith_crypto::cert::{Address, Certificate};
use kith_crypto::content::{Geometry, Position, ReadCap, Root, VerifiedBlock, VerifyCap};
use kith_crypto::identity::{Identity, PublicKeys};
use kith_crypto::invite::Invite;
use kith_crypto::pair::PairRoot;
use kith_crypto::rng::Rng;
use kith_crypto::secret::Key;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// Names a friend: its Ed25519 key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FriendKey(pub [u8; 32]);

impl std::fmt::Debug for FriendKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FriendKey(..)")
    }
}

/// Names an invite, given or taken, on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InviteId(pub u64);

/// A connection of the driver.
pub type ConnId = u32;
/// A fetch.
pub type FetchId = u64;

/// A friendship as the journal keeps it.
#[derive(Clone, Debug)]
pub struct FriendRecord {
    /// Public keys.
    pub keys: PublicKeys,
    /// Pair secret.
    pub root: PairRoot,
    /// Newest known addresses.
    pub addrs: Vec<Address>,
    /// Sequence number of those addresses.
    pub addrs_seq: u64,
    /// Highest counter accepted from the friend.
    pub counter_in: u64,
    /// Highest counter sent to the friend.
    pub counter_out: u64,
    /// The PSKs.
    pub ratchet: Ratchet,
    /// Which of the own link keys the friend knows.
    pub own_keys: u32,
    /// When the friend made the certificate that its keys are from (unix seconds); older ones are
    /// not taken over. 0 for that of the friendship's beginning.
    pub keys_since_s: u32,
}

impl FriendRecord {
    /// A friendship at its beginning: `own_keys` are the own link keys that the friend was shown.
    pub fn new(keys: PublicKeys, root: PairRoot, addrs: Vec<Address>, own_keys: u32) -> Self {
        let ratchet = Ratchet::initial(&root);
        Self {
            keys,
            root,
            addrs,
            addrs_seq: 0,
            counter_in: 0,
            counter_out: 0,
            ratchet,
            own_keys,
            keys_since_s: 0,
        }
    }
}

/// A given invite that nobody has used up.
#[derive(Clone, Debug)]
pub struct GivenInvite {
    /// Its name here.
    pub id: InviteId,
    /// Its secret.
    pub secret: Key,
    /// Unix seconds.
    pub expires: u32,
    /// Nonces of first flights that were answered.
    pub tries: Vec<[u8; 24]>,
    /// The friend that completed it; stays usable for that one until its first own link.
    pub bound: Option<[u8; 32]>,
}

/// What must be kept. The journal's records are made of these.
#[derive(Clone, Debug)]
pub enum Change {
    /// Highest counter sent to a friend.
    CounterOut(FriendKey, u64),
    /// Highest counter accepted from a friend.
    CounterIn(FriendKey, u64),
    /// A first flight with this nonce is about to be answered.
    InviteTry(InviteId, [u8; 24]),
    /// The invite belongs to this Noise key from now on.
    InviteBound(InviteId, [u8; 32]),
    /// The invite is over.
    InviteDone(InviteId),
    /// A friendship began: certificate and record.
    FriendAdded(Box<Certificate>, Box<FriendRecord>),
    /// A friend who came by an invite that goes through Tor alone is reached so.
    TorOnly(FriendKey),
    /// A friend announced new addresses.
    Addresses(FriendKey, u64, Vec<Address>),
    /// Where the PSKs of a friendship stand.
    Ratchet(FriendKey, Box<Ratchet>),
    /// A friend has new link keys: Noise key, pair key, pair root, date of the certificate.
    FriendKeys(FriendKey, Box<NewKeys>),
    /// A friend knows these own link keys now, and the pair root is this.
    OwnKeys(FriendKey, u32, PairRoot),
    /// The routes of own circuits, whole: what was kept before is replaced.
    Routes(Vec<u8>),
}

/// New link keys of a friend.
#[derive(Clone, Debug)]
pub struct NewKeys {
    /// Its keys.
    pub keys: PublicKeys,
    /// What both share with these.
    pub root: PairRoot,
    /// When the friend made the certificate (unix seconds).
    pub since_s: u32,
}

/// How taking an invite went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InviteOutcome {
    /// The inviter could not be reached; it is tried again.
    Unreachable,
    /// The inviter was reached and does not accept the invite.
    Refused,
    /// Both sides are friends now.
    Friends(FriendKey),
}

/// What happens to a fetch.
#[derive(Debug)]
pub enum FetchEvent {
    /// The object's root is verified: make storage for it, then say [`Core::fetch_stored`] for it.
    Root(VerifiedBlock, Geometry),
    /// Write this block, then say [`Core::fetch_stored`].
    Block(VerifiedBlock),
    /// A session to a holder stands, over so many friend links.
    Session(u8),
    /// Everything is here and stored.
    Complete,
    /// Nobody who could be reached gives it.
    Unreachable,
    /// It can only come through a circuit, and that cannot be.
    NoOnion(NoOnion),
}

/// Something for the owner to know.
#[derive(Debug)]
pub enum Event {
    /// A link to a friend stands.
    Up(FriendKey),
    /// The friend's last link is gone.
    Down(FriendKey),
    /// News of a taken invite.
    Invite(InviteId, InviteOutcome),
    /// A given invite made a friend.
    Befriended(FriendKey),
    /// News of a fetch.
    Fetch(FetchId, FetchEvent),
    /// The friend's clock differs by so many milliseconds (only told above ten minutes).
    ClockSkew(FriendKey, i64),
    /// The keys of both sides do not fit; the owner is to be asked.
    OutOfStep(FriendKey, OutOfStep),
    /// The friend calls with another major version of the protocol.
    OtherVersion(FriendKey, u16),
    /// The friend has new link keys, signed by its identity.
    KeysRotated(FriendKey),
    /// An invite that made this friend was used once more by somebody.
    InviteReused(FriendKey),
    /// The friend answered a ping after so long.
    Pong(FriendKey, Duration),
    /// The friend says something about copies that are kept.
    Mirror(FriendKey, MirrorEvent),
    /// All friends who told of this object took it back before it was over.
    Withdrawn(Root),
}

/// Something for the driver to do, in order.
#[derive(Debug)]
pub enum Output {
    /// Dial these addresses in turn; answer with [`Core::dialled`] or [`Core::dial_failed`].
    Dial(Who, Vec<Address>),
    /// Give up a call to somebody that is under way, and say [`Core::dial_postponed`] if there was one.
    Undial(Who),
    /// Close this connection.
    Close(ConnId),
    /// Store durably, then call [`Core::persisted`] with the ticket.
    Persist(u64, Vec<Change>),
    /// Store when convenient.
    Keep(Change),
    /// Append records to a friend's view log.
    ViewRecords(FriendKey, Vec<Vec<u8>>),
    /// Remove a lost friend's view log.
    DropView(FriendKey),
    /// Read a block and hand it to [`Core::block_read`].
    Read(ConnId, u32, Root, Position),
    /// For the owner.
    Event(Event),
}

/// Counters of one friend since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes of tunnels, and of streams in circuits, that ended here, sent.
    pub sent: u64,
    /// The same, received.
    pub received: u64,
    /// Bytes forwarded for others, counted at the friend they came from.
    pub relayed: u64,
}

/// What a node holds in memory because of its peers. Every figure has a bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Connections of all kinds.
    pub connections: usize,
    /// Inbound connections that have not proved to be a friend.
    pub half_open: usize,
    /// Tunnels on all links.
    pub tunnels: usize,
    /// Cells that wait to be passed on, in all tunnels.
    pub relayed: usize,
    /// Most of them in one tunnel.
    pub most_relayed: usize,
    /// Circuits of others.
    pub circuits: usize,
    /// Requests that spread from circuits and came here, since the start.
    pub spread: u64,
    /// Timers of tunnels.
    pub timers: usize,
    /// Timers of circuits.
    pub circuit_timers: usize,
    /// First flights that came a second time, since the start.
    pub replays: u64,
    /// Bytes read ahead for sessions that are served.
    pub serving: usize,
    /// Control bytes that wait.
    pub control: usize,
    /// Small cells that wait.
    pub urgent: usize,
}

pub(crate) struct Friend {
    record: FriendRecord,
    peer: Peer,
    dialling: Dialling,
    link: Option<ConnId>,
    traffic: Traffic,
    credit: crate::budget::Credit,
    /// The friend's clock minus ours.
    clock_offset_ms: i64,
    /// A connection that carries nothing but an exchange: the first session, or a recovery.
    exchange_link: Option<ConnId>,
    exchange: Option<Exchange>,
    /// When the next exchange begins on the link that stands, if this side begins it.
    exchange_at: Option<Duration>,
    /// When to shake hands anew, and that this is under way.
    renew_at: Option<Duration>,
    renewing: bool,
    out_of_step: Option<OutOfStep>,
    other_version: Option<u16>,
    restored_until: Option<Duration>,
    /// Highest counter of a recovery call that was accepted under that permission.
    recovery_counter: u64,
    /// Handshakes with own link keys that the friend may know already.
    candidates: Vec<rotation::Candidate>,
    /// The friend's new link keys are being stored: the own ones wait.
    taking_keys: bool,
    /// That the friend knows own link keys is being stored: newer ones, which stand on these, wait.
    storing_own_keys: bool,
    /// Understands what is said about mirrors.
    mirrors: bool,
    /// The ping that waits for its answer.
    ping: Option<(u64, Duration)>,
    asks: Asks,
    onion: onion_keys::OnionPeer,
}

/// What a friend may still ask for that costs more than a copy. It belongs to the friend and not to a
/// link: a new link does not fill it again.
pub(crate) struct Asks {
    calls: Bucket,
    announcements: Bucket,
    certificates: Bucket,
    exchanges: Bucket,
    opens: Bucket,
    pings: Bucket,
    pulls: Bucket,
    mirrors: Bucket,
}

impl Asks {
    /// `batch`: how long the catalogue gathers what it passes on.
    fn new(limits: &Limits, batch: Duration) -> Self {
        Self {
            calls: Bucket::new(limits.calls.0, limits.calls.1),
            announcements: Bucket::new(1.0 / 60.0, 10.0),
            certificates: Bucket::new(1.0 / 60.0, 10.0),
            exchanges: Bucket::new(1.0 / 60.0, 10.0),
            opens: Bucket::new(20.0, 40.0),
            pings: Bucket::new(2.0, 20.0),
            // All offers, and all answers, come when a link stands; then few.
            mirrors: Bucket::new(1.0, 4096.0),
            // A first view of full size takes some forty pages; after that a pull a batch and one a
            // hint, with as much again to spare.
            pulls: Bucket::new(2.0 + 2.0 / batch.as_secs_f64().max(0.05), 80.0),
        }
    }
}

pub(crate) struct Given {
    invite: GivenInvite,
    peer: Peer,
    secret: Secret,
}

pub(crate) struct Taken {
    invite: Invite,
    peer: Peer,
    secret: Secret,
    dialling: Dialling,
    /// The inviter has accepted; only storage is missing.
    welcomed: bool,
}

pub(crate) struct FetchState {
    fetch: Fetch,
    route: Route,
    sources: Vec<Source>,
    /// Its spans that those know of who are served parts of it.
    spans_told: usize,
    /// When they were told of them.
    told_at: Duration,
    next_attempt: Duration,
    /// Last time that a block came, or that a source failed for the first time.
    alive_at: Duration,
    progressed: bool,
    sessions_used: BTreeSet<(FriendKey, u8, u8)>,
    /// Blocks that came, by how many links away who gave them is.
    brought: BTreeMap<u8, u64>,
    /// Ends of circuits that had nothing, and why the last one brought nothing.
    tried: BTreeSet<(crate::route::Pair, usize)>,
    /// All of them were asked once.
    went_round: bool,
    /// Ends of circuits that were asked and said nothing.
    silent_ends: u8,
    onion: NoOnion,
    /// Which of a circuit's sessions asks next.
    turn: usize,
}

/// Limits on what callers can occupy.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Inbound connections that have not proved to be a friend.
    pub half_open: usize,
    /// The same, from one source address.
    pub half_open_per_source: usize,
    /// Handshakes that one friend may ask for: a second, and saved up.
    pub calls: (f64, f64),
}

impl Default for Limits {
    fn default() -> Self {
        Self { half_open: 64, half_open_per_source: 16, calls: (0.5, 30.0) }
    }
}

/// What a core is made of.
pub struct Setup {
    /// Who this node is.
    pub identity: Identity,
    /// Deliberate delays.
    pub pace: Pace,
    /// Limits on strangers.
    pub limits: Limits,
    /// Secret of this node alone, for entry ids and delays.
    pub secret: Key,
    /// Seed of all random choices.
    pub seed: [u8; 32],
}

/// The protocol of one node.
pub struct Core {
    /// The own identities by number of their link keys; older ones as long as friends know them.
    identities: BTreeMap<u32, Identity>,
    /// The number of the newest.
    own_keys: u32,
    limits: Limits,
    secret: Key,
    rng: Rng,
    public: PublicKeys,
    own_cert: Option<Certificate>,
    /// The same with onion addresses alone.
    hidden_cert: Option<Certificate>,
    addrs: Vec<Address>,
    addrs_seq: u64,
    /// That of the list for those who are reached through Tor alone: it says nothing of when the others change.
    hidden_seq: u64,
    /// Who is reached through Tor alone, and learns no other address of this node.
    tor_only: BTreeSet<Who>,
    /// Everybody is, and no other address is kept.
    all_tor_only: bool,
    /// Tor is away: fetches that have no other way wait.
    away: bool,
    friends: BTreeMap<FriendKey, Friend>,
    given: BTreeMap<InviteId, Given>,
    /// Invites that did their work since the start, and whose friend they made.
    spent: VecDeque<(Peer, FriendKey)>,
    /// Whom the owner has blocked.
    refused: BTreeSet<FriendKey>,
    taken: BTreeMap<InviteId, Taken>,
    connections: BTreeMap<ConnId, Connection>,
    next_conn: ConnId,
    next_ticket: u64,
    /// What waits for storage: connection by ticket.
    tickets: BTreeMap<u64, connections::AfterStore>,
    catalogue: Catalogue,
    /// Whole objects, and parts of objects that were fetched.
    held: BTreeMap<Root, holding::Held>,
    /// Why objects are here that are kept for others.
    kept: BTreeMap<Root, Kept>,
    /// Friends who keep copies for this node, or are asked to.
    mirrors_of: BTreeMap<Root, BTreeSet<FriendKey>>,
    unlisted: mirrors::Unlisted,
    asked: mirrors::Asked,
    /// What the clock showed last.
    clock_ms: u64,
    /// Sessions by object, while it is served.
    crowds: BTreeMap<Root, Crowd<(ConnId, CircId)>>,
    /// Friends who asked this node to pass requests for an object on.
    seekers: holding::Seekers,
    timers: BTreeMap<(Duration, u64), tunnels::Timer>,
    next_timer: u64,
    fetches: BTreeMap<FetchId, FetchState>,
    next_fetch: FetchId,
    outputs: VecDeque<Output>,
    budgets: Budgets,
    rates: Rates,
    friend_rates: BTreeMap<FriendKey, (Option<u64>, Option<u64>)>,
    circuits: circuits::Circuits,
    replays: u64,
    up: accounts::Pools,
    down: accounts::Pools,
    /// Cells of others' tunnels that wait, on all links.
    relayed: usize,
    /// Bytes read ahead for sessions, on all links.
    serving: usize,
    /// Sessions that wait until less is read ahead.
    serve_queue: VecDeque<(ConnId, CircId)>,
    /// Sessions that give way to what the same friend watches, and until when.
    giving_way: BTreeMap<(ConnId, CircId), Duration>,
    /// For tests.
    notes: Option<Box<Notes>>,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Core(..)")
    }
}

impl Core {
    /// A node that knows nobody yet.
    pub fn new(setup: Setup) -> Self {
        let mut rng = Rng::from_seed(setup.seed);
        let secret = setup.secret;
        Self {
            catalogue: Catalogue::new(setup.pace, secret.clone(), rng.fork()),
            public: *setup.identity.public(),
            identities: BTreeMap::from([(0, setup.identity)]),
            own_keys: 0,
            limits: setup.limits,
            secret: secret.clone(),
            rng,
            own_cert: None,
            hidden_cert: None,
            tor_only: BTreeSet::new(),
            all_tor_only: false,
            away: false,
            addrs: Vec::new(),
            addrs_seq: 0,
            hidden_seq: 0,
            friends: BTreeMap::new(),
            given: BTreeMap::new(),
            spent: VecDeque::new(),
            refused: BTreeSet::new(),
            taken: BTreeMap::new(),
            connections: BTreeMap::new(),
            next_conn: 1,
            next_ticket: 1,
            tickets: BTreeMap::new(),
            held: BTreeMap::new(),
            kept: BTreeMap::new(),
            mirrors_of: BTreeMap::new(),
            asked: mirrors::Asked::default(),
            unlisted: mirrors::Unlisted::default(),
            clock_ms: 0,
            crowds: BTreeMap::new(),
            seekers: holding::Seekers::default(),
            timers: BTreeMap::new(),
            next_timer: 0,
            fetches: BTreeMap::new(),
            next_fetch: 1,
            outputs: VecDeque::new(),
            budgets: Budgets::default(),
            rates: Rates::default(),
            friend_rates: BTreeMap::new(),
            circuits: circuits::Circuits::new(&secret),
            replays: 0,
            up: accounts::Pools::default(),
            down: accounts::Pools::default(),
            relayed: 0,
            serving: 0,
            serve_queue: VecDeque::new(),
            giving_way: BTreeMap::new(),
            notes: None,
        }
    }

    /// Own public keys.
    pub const fn me(&self) -> &PublicKeys {
        &self.public
    }

    /// The certificate that new friends get, and the addresses that all friends get. `hidden` is the same with
    /// onion addresses alone: for those who are reached through Tor only.
    pub fn set_certificates(&mut self, now: Now, cert: Certificate, hidden: Certificate) {
        self.hidden_cert = Some(hidden);
        self.set_certificate(now, cert);
    }

    /// As [`Core::set_certificates`] for a node without Tor.
    pub fn set_certificate(&mut self, now: Now, cert: Certificate) {
        let changed = self.addrs != cert.addrs;
        let hidden =
            |addrs: &[Address]| addrs.iter().filter(|addr| addr.is_onion()).cloned().collect::<Vec<_>>();
        let hidden_changed = hidden(&self.addrs) != hidden(&cert.addrs);
        let keys = self.own_cert.as_ref().is_some_and(|old| old.keys != cert.keys);
        self.addrs = cert.addrs.clone();
        self.own_cert = Some(cert);
        if changed {
            self.addrs_seq = now.unix_ms.max(self.addrs_seq + 1);
            if hidden_changed {
                self.hidden_seq = self.addrs_seq;
            }
            let links = self.friends.iter().filter_map(|(key, f)| Some((*key, f.link?)));
            let mut links: Vec<(FriendKey, ConnId)> = links.collect();
            links.retain(|(key, _)| hidden_changed || !self.is_tor_only(Who::Friend(*key)));
            links.into_iter().for_each(|(key, conn)| self.tell_addresses(now, conn, key));
        }
        if keys {
            let links = self.friends.iter().filter_map(|(key, f)| Some((*key, f.link?)));
            let links: Vec<(FriendKey, ConnId)> = links.collect();
            links.into_iter().for_each(|(key, conn)| self.show_keys(now, conn, key));
        }
    }

    /// The certificate that new friends get.
    pub const fn certificate(&self) -> Option<&Certificate> {
        self.own_cert.as_ref()
    }

    /// The certificate for those who are reached through Tor only.
    pub const fn hidden_certificate(&self) -> Option<&Certificate> {
        self.hidden_cert.as_ref()
    }

    /// The certificate that somebody may see.
    pub(crate) fn certificate_for(&self, who: Who) -> Option<&Certificate> {
        if self.is_tor_only(who) { self.hidden_cert.as_ref() } else { self.own_cert.as_ref() }
    }

    /// Tells a friend where this node is; a node that nobody can call says nothing.
    fn tell_addresses(&mut self, now: Now, conn: ConnId, key: FriendKey) {
        let (mut addrs, mut seq) = (self.addrs.clone(), self.addrs_seq);
        if self.is_tor_only(Who::Friend(key)) {
            addrs.retain(Address::is_onion);
            seq = self.hidden_seq;
        }
        if addrs.is_empty() {
            return;
        }
        let list = crate::control::encode_addresses(&addrs);
        let Some(identity) = self.identities.get(&self.own_keys) else { return };
        let signature = identity.sign(&crate::control::addresses_to_sign(seq, &list));
        self.send_control(now, conn, &Control::Addresses { seq, list, signature });
    }

    // Tor.

    /// Says whether somebody is reached through Tor alone and learns no other address. A link that stands by
    /// another way ends.
    pub fn set_tor_only(&mut self, now: Now, who: Who, tor_only: bool) {
        let changed = if tor_only { self.tor_only.insert(who) } else { self.tor_only.remove(&who) };
        if !changed {
            return;
        }
        if tor_only {
            self.end_other_ways(now, who);
        }
        let Who::Friend(key) = who else { return };
        let Some(friend) = self.friends.get_mut(&key) else { return };
        // It learns from now on what it may know.
        self.addrs_seq = now.unix_ms.max(self.addrs_seq.max(self.hidden_seq) + 1);
        self.hidden_seq = self.addrs_seq;
        match friend.link {
            Some(link) => self.tell_addresses(now, link, key),
            None => friend.dialling.reset(now.at),
        }
    }

    /// Ends calls and connections to somebody, and those with invites of the same friend, that are not through Tor.
    fn end_other_ways(&mut self, now: Now, who: Who) {
        let of = |taken: &Taken| Who::Friend(FriendKey(taken.invite.inviter.keys.sign));
        let invites = self.taken.iter().filter(|(_, taken)| of(taken) == who).map(|(id, _)| Who::Invite(*id));
        let all: Vec<Who> = [who].into_iter().chain(invites).collect();
        for who in all {
            self.outputs.push_back(Output::Undial(who));
            for id in self.connections_of(who) {
                if !self.connections.get(&id).is_some_and(connections::Connection::is_through_tor) {
                    self.close(now, id);
                }
            }
        }
    }

    /// Everybody is reached through Tor alone, and other addresses are not kept.
    pub const fn set_all_tor_only(&mut self) {
        self.all_tor_only = true;
    }

    /// Says that Tor is away, or there again: meanwhile fetches that have no other way wait for it.
    pub const fn set_away(&mut self, away: bool) {
        self.away = away;
    }

    /// Whether somebody is reached through Tor alone.
    pub fn is_tor_only(&self, who: Who) -> bool {
        let inviter = match who {
            Who::Invite(id) => {
                self.taken.get(&id).map(|t| Who::Friend(FriendKey(t.invite.inviter.keys.sign)))
            }
            Who::Friend(_) => None,
        };
        self.all_tor_only
            || self.tor_only.contains(&who)
            || inviter.is_some_and(|who| self.tor_only.contains(&who))
    }

    /// Whether a friend is reached through Tor or not at all, as far as is known.
    fn needs_tor(&self, key: FriendKey) -> bool {
        let Some(friend) = self.friends.get(&key) else { return false };
        let addrs = &friend.record.addrs;
        self.is_tor_only(Who::Friend(key))
            || match friend.link {
                Some(link) => {
                    self.connections.get(&link).is_some_and(connections::Connection::is_through_tor)
                }
                None => !addrs.is_empty() && addrs.iter().all(Address::is_onion),
            }
    }

    /// What of the addresses that somebody has may be kept and called.
    fn usable(&self, who: Who, addrs: &[Address]) -> Vec<Address> {
        let only = self.is_tor_only(who);
        addrs.iter().filter(|addr| !only || addr.is_onion()).cloned().collect()
    }

    // Friends and invites.

    /// A friend from the journal, or a new one.
    pub fn add_friend(&mut self, now: Now, record: FriendRecord) {
        let key = FriendKey(record.keys.sign);
        // Without the own link keys that the friend knows no handshake is possible; the newest at
        // least answer a friend who learned them meanwhile.
        let me = self.identities.get(&record.own_keys).map_or(self.public, |i| *i.public());
        let peer = Peer::friend(&me, record.own_keys, &record.keys, &record.root);
        let candidates = self.candidates_for(&record);
        let wait = Duration::from_millis(self.rng.range(0, 300));
        self.catalogue.add_friend(key);
        self.friends.entry(key).or_insert(Friend {
            record,
            peer,
            dialling: Dialling::new(now.at + wait),
            link: None,
            traffic: Traffic::default(),
            credit: crate::budget::Credit::default(),
            clock_offset_ms: 0,
            exchange_link: None,
            exchange: None,
            exchange_at: None,
            renew_at: None,
            renewing: false,
            out_of_step: None,
            other_version: None,
            restored_until: None,
            recovery_counter: 0,
            candidates,
            taking_keys: false,
            storing_own_keys: false,
            mirrors: false,
            ping: None,
            asks: Asks::new(&self.limits, self.catalogue.batch()),
            onion: onion_keys::OnionPeer::new(now.at),
        });
    }

    /// The friendship with the owner of a certificate, if both sides have exchanged theirs. `None`:
    /// its keys are no good.
    pub fn friendship(&self, cert: &Certificate) -> Option<FriendRecord> {
        let root = PairRoot::new(self.identities.get(&self.own_keys)?, &cert.keys, None)?;
        let addrs = self.usable(Who::Friend(FriendKey(cert.keys.sign)), &cert.addrs);
        let mut record = FriendRecord::new(cert.keys, root, addrs, self.own_keys);
        record.keys_since_s = cert.created;
        Some(record)
    }

    /// Ends a friendship on this side. The caller erases the secrets it stored.
    pub fn remove_friend(&mut self, now: Now, key: FriendKey) {
        let Some(friend) = self.friends.remove(&key) else { return };
        self.tor_only.remove(&Who::Friend(key));
        if let Some(conn) = friend.link {
            self.close(now, conn);
        }
        let rest: Vec<ConnId> = self.connections_of(Who::Friend(key));
        rest.into_iter().for_each(|conn| self.close(now, conn));
        self.catalogue.remove_friend(now, key);
        self.mirrors_of.retain(|_, friends| {
            friends.remove(&key);
            !friends.is_empty()
        });
        self.circuits.handles.forget(key);
        self.circuits.look_at_routes(now);
        for state in self.fetches.values_mut() {
            state.sources.retain(|s| s.friend != key);
        }
    }

    /// Whether this is a friend.
    pub fn is_friend(&self, key: FriendKey) -> bool {
        self.friends.contains_key(&key)
    }

    /// Whether a link to the friend stands.
    pub fn is_online(&self, key: FriendKey) -> bool {
        self.friends.get(&key).is_some_and(|f| f.link.is_some())
    }

    /// Traffic with a friend since the start.
    pub fn traffic(&self, key: FriendKey) -> Traffic {
        self.friends.get(&key).map_or_else(Traffic::default, |f| f.traffic)
    }

    /// Newest known addresses of a friend.
    pub fn addresses(&self, key: FriendKey) -> &[Address] {
        self.friends.get(&key).map_or(&[], |f| &f.record.addrs)
    }

    /// An invite that somebody may use; stored before this call.
    pub fn give_invite(&mut self, invite: GivenInvite) {
        let (peer, secret) = Peer::invite(invite.id, self.own_keys, &self.public, &invite.secret, None);
        self.given.insert(invite.id, Given { invite, peer, secret });
    }

    /// Takes a given invite back.
    pub fn withdraw_invite(&mut self, now: Now, id: InviteId) {
        self.given.remove(&id);
        self.tor_only.remove(&Who::Invite(id));
        let conns = self.connections_of(Who::Invite(id));
        conns.into_iter().for_each(|conn| self.close(now, conn));
    }

    /// Whether somebody is refused even with an invite.
    pub fn set_refused(&mut self, key: FriendKey, refused: bool) {
        if refused {
            self.refused.insert(key);
        } else {
            self.refused.remove(&key);
        }
    }

    /// Uses somebody's invite; stored before this call. Tried until it works or is cancelled.
    pub fn take_invite(&mut self, now: Now, id: InviteId, invite: Invite) {
        let inviter = &invite.inviter.keys;
        let (peer, secret) = Peer::invite(id, self.own_keys, inviter, &invite.secret, Some(inviter.noise));
        let dialling = Dialling::new(now.at);
        self.taken.insert(id, Taken { invite, peer, secret, dialling, welcomed: false });
    }

    /// Stops using an invite.
    pub fn cancel_invite(&mut self, now: Now, id: InviteId) {
        self.taken.remove(&id);
        self.tor_only.remove(&Who::Invite(id));
        let conns = self.connections_of(Who::Invite(id));
        conns.into_iter().for_each(|conn| self.close(now, conn));
    }

    // Catalogue.

    /// Publishes an object that is stored, or shows it again after a restart.
    pub fn publish(&mut self, now: Now, entry: Entry, audience: Audience, fresh: bool) {
        self.catalogue.publish(now, entry, audience, fresh);
        self.run_catalogue(now);
    }

    /// This node published the object before and shares it with nobody now: whoever else lists it,
    /// it is not served.
    pub fn note_published(&mut self, root: Root) {
        self.catalogue.note_published(root);
    }

    /// Says who is in a circle that [`Audience::Circle`] names, from now on and for all that was
    /// published to it.
    pub fn set_circle(&mut self, now: Now, id: u64, members: BTreeSet<FriendKey>) {
        let roots = self.catalogue.set_circle(id, members);
        self.run_catalogue(now);
        roots.into_iter().for_each(|root| self.end_unshared(now, root));
    }

    /// Withdraws an own publication.
    pub fn withdraw(&mut self, now: Now, root: Root) -> bool {
        let was = self.catalogue.withdraw(root);
        self.run_catalogue(now);
        self.end_unshared(now, root);
        was
    }

    /// Replays one record of a friend's view log.
    pub fn restore_view(&mut self, now: Now, friend: FriendKey, record: &[u8]) -> bool {
        if !self.friends.contains_key(&friend) {
            self.catalogue.restore_gone(friend);
        }
        let good = self.catalogue.restore(now, friend, record).is_ok();
        self.run_catalogue(now);
        good
    }

    /// Drops all that a friend told; see [`Catalogue::forget_view`].
    pub fn forget_view(&mut self, now: Now, friend: FriendKey) {
        self.catalogue.forget_view(now, friend);
        self.run_catalogue(now);
    }

    /// Ignores what a friend tells, or stops ignoring it. Not kept: the caller says it again after
    /// each start, before it replays the friend's view log.
    pub fn set_ignored(&mut self, now: Now, friend: FriendKey, ignored: bool) {
        self.catalogue.set_ignored(now, friend, ignored);
        self.run_catalogue(now);
    }

    /// What a friend's view holds, and what of it was dropped since the start.
    pub fn view_count(&self, friend: FriendKey) -> ViewCount {
        self.catalogue.count(friend)
    }

    /// How many records [`Core::view_snapshot`] has.
    pub fn view_snapshot_len(&self, friend: FriendKey) -> usize {
        self.catalogue.snapshot_len(friend)
    }

    /// The log of a friend's view lost records: the view is pulled from the beginning.
    pub fn pull_view_anew(&mut self, friend: FriendKey) {
        self.catalogue.pull_anew(friend);
    }

    /// Live records of a friend's view, to rewrite its log with.
    pub fn view_snapshot(&self, friend: FriendKey) -> Vec<Vec<u8>> {
        self.catalogue.snapshot(friend)
    }

    /// What is known of an object.
    pub fn listing(&self, root: &Root) -> Option<Listing> {
        self.catalogue.listing(root)
    }

    /// What is known of the object at a place of the catalogue.
    pub fn entry(&self, id: EntryId) -> Option<Listing> {
        self.catalogue.entry(id)
    }

    /// The same in brief.
    pub fn brief(&self, id: EntryId) -> Option<Brief> {
        self.catalogue.brief(id)
    }

    /// Friends who tell of the object at a place; see [`Catalogue::tellers`].
    pub fn tellers(&self, id: EntryId) -> impl Iterator<Item = FriendKey> + '_ {
        self.catalogue.tellers(id)
    }

    /// What a friend told of as a friend's; see [`Catalogue::told_from_afar`].
    pub fn told_from_afar(
        &self,
        friend: FriendKey,
        most: usize,
        fits: impl Fn(&Root, u64) -> bool,
    ) -> Vec<ReadCap> {
        self.catalogue.told_from_afar(friend, most, fits)
    }

    /// What friends published last; see [`Catalogue::latest`].
    pub fn latest(&self, limit: usize, keep: impl Fn(EntryId, Root) -> bool) -> Vec<Listing> {
        self.catalogue.latest(limit, keep)
    }

    /// Objects that search can show.
    pub fn listed(&self) -> impl Iterator<Item = Root> {
        self.catalogue.roots()
    }

    /// Something that search has not seen yet; see [`Catalogue::next_unsearched`].
    pub fn next_unsearched(&mut self) -> Option<(EntryId, Option<Searchable<'_>>)> {
        self.catalogue.next_unsearched()
    }

    /// How many objects search has not seen yet.
    pub fn unsearched(&self) -> usize {
        self.catalogue.unsearched()
    }

    /// Time until friends' friends' entries are asked for next.
    pub fn next_relayed_pull(&self, now: Now) -> Option<Duration> {
        self.catalogue.next_relayed_pull(now)
    }

    /// Entries known.
    pub fn entry_count(&self) -> usize {
        self.catalogue.len()
    }

    pub(crate) fn run_catalogue(&mut self, now: Now) {
        while let Some(act) = self.catalogue.poll() {
            match act {
                Act::Hint(friend) => self.send_to_friend(now, friend, &Control::Hint),
                Act::Pull(friend, part, log, since) => {
                    self.send_to_friend(now, friend, &Control::Pull { part, log, since });
                }
                Act::Record(friend, records) => self.outputs.push_back(Output::ViewRecords(friend, records)),
                Act::DropView(friend) => self.outputs.push_back(Output::DropView(friend)),
                Act::Listed(root) => self.more_sources(now, &root),
                // Who tells of it in another way takes it back first.
                Act::Withdrawn(root) if self.catalogue.listing(&root).is_some() => {}
                Act::Withdrawn(root) => self.event(Event::Withdrawn(root)),
            }
        }
    }

    fn send_to_friend(&mut self, now: Now, friend: FriendKey, message: &Control) {
        if let Some(conn) = self.friends.get(&friend).and_then(|f| f.link) {
            self.send_control(now, conn, message);
        }
    }

    // Plumbing.

    /// What is held in memory because of peers.
    pub fn load(&self) -> Load {
        let of_circuits = self.timers.values().filter(|t| t.is_of_circuit()).count();
        let mut load = Load {
            connections: self.connections.len(),
            half_open: self.connections.values().filter(|c| c.is_half_open()).count(),
            timers: self.timers.len() - of_circuits,
            circuit_timers: of_circuits,
            replays: self.replays,
            circuits: self.circuits.relayed,
            spread: self.circuits.spread,
            ..Load::default()
        };
        for open in self.connections.values().filter_map(Connection::peek) {
            load.tunnels += open.tunnels.values().filter(|t| t.is_tunnel()).count();
            for circ in open.tunnels.keys() {
                let cells = open.link.relayed(*circ);
                load.relayed += cells;
                load.most_relayed = load.most_relayed.max(cells);
            }
        }
        self.load_of_accounts(&mut load);
        load
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Does what is due.
    pub fn timeout(&mut self, now: Now) {
        // Timers that are very late: the process was stopped or the machine slept, and what looks
        // like silence of the friends was this node's own.
        if self.poll_timeout().is_some_and(|planned| now.at > planned + dialling::SLEPT) {
            self.resumed(now);
        }
        self.catalogue.timeout(now);
        self.run_catalogue(now);
        self.clock_ms = now.unix_ms;
        self.refresh_locators(now);
        self.rename_unlisted(now);
        self.run_timers(now);
        self.connection_timeouts(now);
        self.exchanges_due(now);
        self.dial_due(now);
        self.drive_circuits(now);
        self.drive_fetches(now);
        self.hand_out(now);
        self.look_at_gates(now);
    }

    /// When [`Core::timeout`] has something to do next.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let timers = self.timers.keys().next().map(|(at, _)| *at);
        let mut next = earliest(self.catalogue.poll_timeout(), timers);
        for connection in self.connections.values() {
            next = earliest(next, connection.poll_timeout());
        }
        next = earliest(next, self.next_dial());
        next = earliest(next, self.next_circuit_step());
        next = earliest(next, self.next_share());
        next = earliest(next, self.next_gate_step());
        earliest(next, self.next_fetch_step())
    }
}
