//! Connections: who dials when, handshakes until a link stands, control messages on it, and what
//! happens to everybody else (silence).

use super::accounts::Account;
use super::*;
use crate::cell::{CELL_LEN, CellRef, CircId, Command, SmallCell};
use crate::control::addresses_to_sign;
use crate::handshake::{Answered, Callee, Caller, Established, Recognised, Third, Verified};
use crate::link::{Broken, Link};
use crate::tunnel::{Bucket, Tunnel};
use kith_crypto::codec::Reader;
use kith_crypto::frame::Claim;

/// A handshake must be over by then on the dialling side.
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// Keepalive gap: 15 s give or take 5.
const KEEPALIVE_MS: (u64, u64) = (10_000, 20_000);
/// A link that brings nothing for so long is dead.
const DEAD_AFTER: Duration = Duration::from_secs(65);
/// Links that were completed so close together were dialled by both sides at once.
const BOTH_DIALLED: Duration = Duration::from_secs(5);
const BACKOFF_START: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(300);
/// A friend that said goodbye is not dialled before this.
const AFTER_GOODBYE: Duration = Duration::from_secs(10);
pub(super) const CREDIT_TICK: Duration = Duration::from_millis(25);
/// First flights that one invite answers in all.
const MAX_INVITE_TRIES: usize = 16;
/// A warning is due when clocks differ by more.
const SKEW_MS: u64 = 600_000;

/// When to dial next, with growing gaps.
#[derive(Debug)]
pub(crate) struct Dialling {
    at: Option<Duration>,
    gap: Duration,
}

impl Dialling {
    pub(crate) fn new(at: Duration) -> Self {
        Self { at: Some(at), gap: BACKOFF_START }
    }

    /// After a failure: twice the gap, up to five minutes, with jitter so that nodes spread out.
    fn failed(&mut self, now: Duration, rng: &mut Rng) {
        let gap_ms = self.gap.as_millis() as u64;
        self.at = Some(now + Duration::from_millis(rng.range(gap_ms / 2, gap_ms * 3 / 2)));
        self.gap = (self.gap * 2).min(BACKOFF_MAX);
    }

    fn reset(&mut self, at: Duration) {
        *self = Self::new(at);
    }
}

/// An established link with its tunnels.
pub(crate) struct OpenLink {
    pub(crate) who: Who,
    pub(crate) link: Link,
    pub(crate) tunnels: BTreeMap<CircId, Tunnel>,
    pub(crate) next_circ: CircId,
    pub(crate) opens: Bucket,
    peer_noise: [u8; 32],
    /// Announcements and catalogue pulls that the peer may still send.
    announcements: Bucket,
    pulls: Bucket,
    /// The one certificate of an invite's link has come.
    certified: bool,
    /// The peer's hello has come: it has proved to hold the session.
    heard: bool,
    /// Another link took its place; the peer closes this one when it has seen that.
    spare: bool,
    /// Messages that wait for the peer's hello.
    held_back: Vec<Control>,
    pub(super) credit_at: Option<Duration>,
    pub(super) account: Account,
}

enum Stage {
    /// Inbound, nothing known yet.
    Answering(Callee),
    /// Inbound, the claim named a peer and the counter was new.
    Recognised(Box<Recognised>),
    /// Inbound, genuine; storage is under way.
    Storing,
    /// Inbound invite, waits for flight 3.
    Third(Box<Third>),
    /// Inbound and not a friend: read and throw away until the drawn time.
    Draining,
    /// Outbound, the counter is being stored.
    Preparing(Who),
    /// Outbound, flight 1 is out.
    Calling(Box<Caller>, Who),
    /// A link.
    Open(Box<OpenLink>),
}

/// What to go on with when storage has answered.
pub(crate) enum AfterStore {
    /// Answer a first flight.
    Answer(ConnId, Box<Verified>),
    /// Send a first flight with this counter.
    Call(ConnId, u64),
    /// The invited side is stored: tell it, and the owner if the friendship is new.
    Welcome(ConnId, Option<FriendKey>),
    /// The inviter is stored here: dial it as a friend.
    Joined(ConnId, InviteId, FriendKey),
}

impl AfterStore {
    /// Whose connection waits. What is stored for a friendship goes on without one.
    fn connection(&self) -> ConnId {
        match self {
            Self::Answer(id, _) | Self::Call(id, _) => *id,
            Self::Welcome(..) | Self::Joined(..) => 0,
        }
    }
}

pub(crate) struct Connection {
    stage: Stage,
    inbound: bool,
    /// Whom this side dialled; known whatever becomes of the stage, so that the next dial is never
    /// forgotten.
    dialled: Option<Who>,
    source: u64,
    /// Silence ends then (inbound), the call fails (outbound), or the peer's hello is overdue.
    deadline: Duration,
    established_at: Duration,
    flights: Vec<u8>,
    last_received: Duration,
    keepalive_at: Duration,
}

impl Connection {
    pub(crate) fn open(&mut self) -> Option<&mut OpenLink> {
        match &mut self.stage {
            Stage::Open(link) => Some(link),
            _ => None,
        }
    }

    pub(crate) fn peek(&self) -> Option<&OpenLink> {
        match &self.stage {
            Stage::Open(link) => Some(link),
            _ => None,
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        match &self.stage {
            Stage::Open(link) => {
                let alive = (self.last_received + DEAD_AFTER).min(self.keepalive_at);
                let over = (!link.heard || link.spare).then_some(self.deadline);
                earliest(Some(alive), earliest(link.credit_at, over))
            }
            _ => Some(self.deadline),
        }
    }

    pub(crate) fn is_half_open(&self) -> bool {
        // A session whose peer has not spoken counts too: somebody with good keys must not pile them up.
        self.inbound && self.peek().is_none_or(|link| !link.heard)
    }

    fn who(&self) -> Option<Who> {
        match &self.stage {
            Stage::Preparing(who) | Stage::Calling(_, who) => Some(*who),
            Stage::Recognised(recognised) => Some(recognised.who()),
            Stage::Open(link) => Some(link.who),
            _ => None,
        }
    }
}

impl Core {
    fn connection(&mut self, now: Now, stage: Stage, inbound: bool, source: u64, wait: Duration) -> ConnId {
        let id = self.next_conn;
        self.next_conn = self.next_conn.wrapping_add(1).max(1);
        let connection = Connection {
            stage,
            inbound,
            dialled: None,
            source,
            deadline: now.at + wait,
            established_at: now.at,
            flights: Vec::new(),
            last_received: now.at,
            keepalive_at: now.at,
        };
        self.connections.insert(id, connection);
        id
    }

    /// Somebody connected. `source` is a hash of its address, for limits only.
    pub fn accepted(&mut self, now: Now, source: u64) -> ConnId {
        // The time of closing is drawn before anything is read, so it cannot depend on what comes.
        let wait = Duration::from_millis(self.rng.range(10_000, 60_000));
        let id = self.connection(now, Stage::Answering(Callee::default()), true, source, wait);
        self.shed_half_open(now, source);
        id
    }

    /// Above the limits the oldest half-open connection goes.
    fn shed_half_open(&mut self, now: Now, source: u64) {
        let limits = self.limits;
        let half_open = |c: &&Connection| c.is_half_open();
        let all = self.connections.values().filter(half_open).count();
        let same = self.connections.values().filter(half_open).filter(|c| c.source == source).count();
        let oldest = |core: &Self, of_source: bool| {
            let mut ids = core.connections.iter().filter(|(_, c)| half_open(c));
            ids.find(|(_, c)| !of_source || c.source == source).map(|(id, _)| *id)
        };
        let victim = if same > limits.half_open_per_source {
            oldest(self, true)
        } else if all > limits.half_open {
            oldest(self, false)
        } else {
            None
        };
        if let Some(id) = victim {
            self.close(now, id);
        }
    }

    /// A dial succeeded.
    pub fn dialled(&mut self, now: Now, who: Who) -> ConnId {
        let id = self.connection(now, Stage::Preparing(who), false, 0, CALL_DEADLINE);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.dialled = Some(who);
        }
        match who {
            Who::Friend(key) => match self.friends.get_mut(&key) {
                // The friend's own call was quicker: a second link would only replace the first.
                Some(friend) if friend.link.is_some() => self.close(now, id),
                Some(friend) => {
                    let counter = (friend.record.counter_out + 1).max(now.unix_ms);
                    friend.record.counter_out = counter;
                    self.persist(vec![Change::CounterOut(key, counter)], AfterStore::Call(id, counter));
                }
                None => self.close(now, id),
            },
            // The invite's secret is used once; its repeats are told apart by their nonce.
            Who::Invite(_) => self.call(now, id, now.unix_ms),
        }
        id
    }

    /// A dial failed at all addresses.
    pub fn dial_failed(&mut self, now: Now, who: Who) {
        self.retry_later(now, who);
        if let Who::Invite(id) = who {
            self.event(Event::Invite(id, InviteOutcome::Unreachable));
        }
    }

    fn retry_later(&mut self, now: Now, who: Who) {
        let Self { friends, taken, rng, .. } = self;
        match who {
            Who::Friend(key) => {
                if let Some(friend) = friends.get_mut(&key).filter(|f| f.link.is_none()) {
                    friend.dialling.failed(now.at, rng);
                }
            }
            Who::Invite(id) => {
                if let Some(taken) = taken.get_mut(&id) {
                    taken.dialling.failed(now.at, rng);
                }
            }
        }
    }

    pub(super) fn dial_due(&mut self, now: Now) {
        let mut dials = Vec::new();
        for (key, friend) in &mut self.friends {
            if friend.link.is_none() && friend.dialling.at.is_some_and(|at| at <= now.at) {
                friend.dialling.at = None;
                dials.push(Output::Dial(Who::Friend(*key), friend.record.addrs.clone()));
            }
        }
        for (id, taken) in &mut self.taken {
            if !taken.welcomed && taken.dialling.at.is_some_and(|at| at <= now.at) {
                taken.dialling.at = None;
                dials.push(Output::Dial(Who::Invite(*id), taken.invite.inviter.addrs.clone()));
            }
        }
        self.outputs.extend(dials);
    }

    pub(super) fn next_dial(&self) -> Option<Duration> {
        let friends = self.friends.values().filter(|f| f.link.is_none()).filter_map(|f| f.dialling.at);
        let invites = self.taken.values().filter(|t| !t.welcomed).filter_map(|t| t.dialling.at);
        friends.chain(invites).min()
    }

    fn persist(&mut self, changes: Vec<Change>, after: AfterStore) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.tickets.insert(ticket, after);
        self.outputs.push_back(Output::Persist(ticket, changes));
    }

    /// What was asked to be stored is durable.
    pub fn persisted(&mut self, now: Now, ticket: u64) {
        match self.tickets.remove(&ticket) {
            Some(AfterStore::Call(id, counter)) => self.call(now, id, counter),
            Some(AfterStore::Answer(id, verified)) => self.answer(now, id, *verified),
            Some(AfterStore::Welcome(id, friend)) => {
                self.send_control(now, id, &Control::Welcome);
                friend.into_iter().for_each(|friend| self.event(Event::Befriended(friend)));
            }
            Some(AfterStore::Joined(id, invite, friend)) => {
                self.taken.remove(&invite);
                self.close(now, id);
                self.event(Event::Invite(invite, InviteOutcome::Friends(friend)));
            }
            None => {}
        }
    }

    fn call(&mut self, now: Now, id: ConnId, counter: u64) {
        let Some(Stage::Preparing(who)) = self.connections.get(&id).map(|c| &c.stage) else { return };
        let who = *who;
        let peer = match who {
            Who::Friend(key) => self.friends.get(&key).map(|f| f.peer.clone()),
            Who::Invite(invite) => self.taken.get(&invite).map(|t| t.peer.clone()),
        };
        let started = peer.and_then(|p| Caller::start(&self.identity, p, counter, &mut self.rng).ok());
        let Some((caller, flight)) = started else { return self.close(now, id) };
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.flights = flight;
            connection.stage = Stage::Calling(Box::new(caller), who);
        }
    }

    fn answer(&mut self, now: Now, id: ConnId, verified: Verified) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        match verified.answer(&mut self.rng) {
            Ok((Answered::Done(established), flight)) => {
                connection.flights.extend(flight);
                self.establish(now, id, established);
            }
            Ok((Answered::Third(third), flight)) => {
                connection.flights.extend(flight);
                connection.stage = Stage::Third(third);
            }
            Err(_) => connection.stage = Stage::Draining,
        }
    }

    /// Bytes arrived on a connection.
    pub fn input(&mut self, now: Now, id: ConnId, mut bytes: &[u8]) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.last_received = now.at;
        }
        while !bytes.is_empty() {
            let Some(connection) = self.connections.get_mut(&id) else { return };
            let stage = std::mem::replace(&mut connection.stage, Stage::Draining);
            match self.step(now, id, stage, &mut bytes) {
                Some(stage) => {
                    if let Some(connection) = self.connections.get_mut(&id)
                        && matches!(connection.stage, Stage::Draining)
                    {
                        connection.stage = stage;
                    }
                }
                None => return,
            }
        }
        self.run_catalogue(now);
    }

    /// Moves one stage on. `None`: the connection is closed, or storage answers first and the rest
    /// of the input, which no honest peer sends yet, is thrown away.
    fn step(&mut self, now: Now, id: ConnId, stage: Stage, bytes: &mut &[u8]) -> Option<Stage> {
        match stage {
            Stage::Draining | Stage::Preparing(_) | Stage::Storing => {
                *bytes = &[];
                Some(stage)
            }
            Stage::Answering(callee) => match callee.input(bytes, |claim| self.look_up(now, claim)) {
                Ok(Ok(recognised)) if self.is_new(&recognised) => {
                    Some(Stage::Recognised(Box::new(recognised)))
                }
                Ok(Err(callee)) => Some(Stage::Answering(callee)),
                _ => Some(Stage::Draining),
            },
            Stage::Recognised(recognised) => match recognised.input(&self.identity, bytes, &mut self.rng) {
                // Checked again: another connection may have been accepted since.
                Ok(Ok(verified)) => self.store_then_answer(id, verified),
                Ok(Err(recognised)) => Some(Stage::Recognised(Box::new(recognised))),
                Err(_) => Some(Stage::Draining),
            },
            Stage::Third(third) => match third.input(bytes) {
                Ok(Ok(established)) => {
                    self.establish(now, id, established);
                    self.connections.contains_key(&id).then_some(Stage::Draining)
                }
                Ok(Err(third)) => Some(Stage::Third(Box::new(third))),
                Err(_) => Some(Stage::Draining),
            },
            Stage::Calling(caller, who) => match caller.input(bytes, &mut self.rng) {
                Ok(Ok((established, flight))) => {
                    if let Some(connection) = self.connections.get_mut(&id) {
                        connection.flights.extend(flight);
                    }
                    self.establish(now, id, established);
                    self.connections.contains_key(&id).then_some(Stage::Draining)
                }
                Ok(Err(caller)) => Some(Stage::Calling(Box::new(caller), who)),
                Err(_) => {
                    self.call_failed(now, id, who);
                    None
                }
            },
            Stage::Open(link) => {
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.stage = Stage::Open(link);
                }
                match self.link_input(now, id, bytes) {
                    Ok(()) => self.connections.contains_key(&id).then_some(Stage::Draining),
                    Err(Broken) => {
                        self.close(now, id);
                        None
                    }
                }
            }
        }
    }

    fn look_up(&self, now: Now, claim: &Claim) -> Option<Peer> {
        let friends = self.friends.values().map(|f| &f.peer);
        let invites = self.given.values().filter(|g| u64::from(g.invite.expires) > now.unix_s());
        friends.chain(invites.map(|g| &g.peer)).find(|p| p.claimed_by(claim)).cloned()
    }

    fn is_new(&self, recognised: &Recognised) -> bool {
        match recognised.who() {
            Who::Friend(key) => {
                self.friends.get(&key).is_some_and(|f| recognised.counter() > f.record.counter_in)
            }
            Who::Invite(id) => self.given.get(&id).is_some_and(|g| {
                g.invite.tries.len() < MAX_INVITE_TRIES && !g.invite.tries.contains(recognised.nonce())
            }),
        }
    }

    fn store_then_answer(&mut self, id: ConnId, verified: Verified) -> Option<Stage> {
        let change = match verified.who() {
            Who::Friend(key) => {
                let friend = self.friends.get_mut(&key)?;
                if verified.counter() <= friend.record.counter_in {
                    return Some(Stage::Draining);
                }
                friend.record.counter_in = verified.counter();
                Change::CounterIn(key, verified.counter())
            }
            Who::Invite(invite) => {
                let given = self.given.get_mut(&invite)?;
                if given.invite.tries.contains(&verified.nonce()) {
                    return Some(Stage::Draining);
                }
                given.invite.tries.push(verified.nonce());
                Change::InviteTry(invite, verified.nonce())
            }
        };
        self.persist(vec![change], AfterStore::Answer(id, Box::new(verified)));
        Some(Stage::Storing)
    }

    fn establish(&mut self, now: Now, id: ConnId, established: Established) {
        let Established { who, session, peer_noise } = established;
        // The friend may have been removed while storage or the peer answered.
        if matches!(who, Who::Friend(key) if !self.friends.contains_key(&key)) {
            return self.close(now, id);
        }
        let account = self.new_account(now, who);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let inbound = connection.inbound;
        connection.last_received = now.at;
        connection.deadline = now.at + CALL_DEADLINE;
        // Even ids from the lower key, odd from the higher.
        let lower = self.identity.public().noise < peer_noise;
        let open = OpenLink {
            who,
            link: Link::with_weights(session, self.budgets.weights),
            tunnels: BTreeMap::new(),
            next_circ: if lower { 2 } else { 1 },
            opens: Bucket::new(20.0, 40.0),
            peer_noise,
            announcements: Bucket::new(1.0 / 60.0, 5.0),
            // A first view of full size takes some forty pages; after that a pull a batch and one a
            // hint, with as much again to spare.
            pulls: Bucket::new(2.0 + 2.0 / self.catalogue.batch().as_secs_f64().max(0.05), 80.0),
            certified: false,
            heard: false,
            spare: false,
            held_back: Vec::new(),
            credit_at: None,
            account,
        };
        connection.stage = Stage::Open(Box::new(open));
        self.schedule_keepalive(now, id);
        if let Who::Invite(invite) = who
            && inbound
        {
            // An invite belongs to the first key that completed it.
            let bound = self.given.get(&invite).map(|g| g.invite.bound);
            match bound {
                Some(None) => {
                    if let Some(given) = self.given.get_mut(&invite) {
                        given.invite.bound = Some(peer_noise);
                    }
                    self.outputs.push_back(Output::Keep(Change::InviteBound(invite, peer_noise)));
                }
                Some(Some(key)) if key == peer_noise => {}
                _ => return self.close(now, id),
            }
        }
        self.send_now(now, id, &Control::Hello { features: 0, unix_ms: now.unix_ms });
        if matches!(who, Who::Invite(_)) && !inbound {
            let cert = self.own_cert.as_ref().map(|c| c.encoded().to_vec()).unwrap_or_default();
            self.send_control(now, id, &Control::Certificate(cert));
        }
    }

    /// Decides between two links to one friend (decision 10). False: the new one goes.
    ///
    /// Only a link whose peer has spoken takes part: a first flight that was held back on the way
    /// and is delivered later proves nothing about now, and must not end a good link.
    fn replace_link(&mut self, now: Now, id: ConnId, key: FriendKey) -> bool {
        let Some(inbound) = self.connections.get(&id).map(|c| c.inbound) else { return false };
        let Some(old) = self.friends.get(&key).and_then(|f| f.link).filter(|old| *old != id) else {
            return true;
        };
        let we_are_lower = self.friends.get(&key).is_some_and(|f| self.me().noise < f.record.keys.noise);
        let together = self.connections.get(&old).is_some_and(|previous| {
            let gap = now.at.saturating_sub(previous.established_at);
            gap < BOTH_DIALLED && previous.inbound != inbound
        });
        let by_lower = inbound != we_are_lower;
        if together && !by_lower {
            self.retire(now, id, we_are_lower);
            return false;
        }
        // The friend stays on line: its link moves before the old connection goes.
        if let Some(friend) = self.friends.get_mut(&key) {
            friend.link = Some(id);
        }
        self.catalogue.disconnected(key);
        self.retire(now, old, together && we_are_lower);
        true
    }

    /// Ends one of two links. When both sides dialled at once, the lower key's side knows of the
    /// other link first: it keeps the spare one until the peer, who may be using it, has seen the
    /// other too and closes it. Otherwise the friend would seem to go and come back.
    fn retire(&mut self, now: Now, id: ConnId, keep: bool) {
        let Some(connection) = self.connections.get_mut(&id).filter(|_| keep) else {
            return self.close(now, id);
        };
        connection.deadline = now.at + BOTH_DIALLED;
        if let Some(open) = connection.open() {
            open.spare = true;
            let tunnels = std::mem::take(&mut open.tunnels);
            self.tunnels_lost(now, id, tunnels);
        }
    }

    fn friend_up(&mut self, now: Now, id: ConnId, key: FriendKey) {
        let Some(friend) = self.friends.get_mut(&key) else { return };
        let was_up = friend.link.replace(id).is_some();
        friend.dialling.at = None;
        // The invite that made this friendship has done its work.
        let done: Vec<InviteId> = self
            .given
            .iter()
            .filter(|(_, g)| g.invite.bound == Some(friend.record.keys.noise))
            .map(|(id, _)| *id)
            .collect();
        for invite in done {
            self.given.remove(&invite);
            self.outputs.push_back(Output::Keep(Change::InviteDone(invite)));
        }
        if !self.addrs.is_empty() {
            let message = self.addresses_message();
            self.send_control(now, id, &message);
        }
        self.catalogue.connected(now, key);
        if !was_up {
            self.event(Event::Up(key));
        }
    }

    // Links.

    fn link_input(&mut self, now: Now, id: ConnId, bytes: &mut &[u8]) -> Result<(), Broken> {
        loop {
            let Some(open) = self.connections.get_mut(&id).and_then(Connection::open) else { return Ok(()) };
            let Some(record) = open.link.receive(bytes)? else { return Ok(()) };
            for cell in record.chunks_exact(CELL_LEN) {
                let cell = cell.first_chunk::<CELL_LEN>().ok_or(Broken)?;
                self.cell(now, id, CellRef::decode(cell)?)?;
            }
            if let Some(open) = self.connections.get_mut(&id).and_then(Connection::open) {
                open.link.recycle(record);
            }
        }
    }

    fn cell(&mut self, now: Now, id: ConnId, cell: CellRef<'_>) -> Result<(), Broken> {
        let Some(open) = self.connections.get_mut(&id).and_then(Connection::open) else { return Ok(()) };
        if open.spare {
            return Ok(());
        }
        let is_friend = matches!(open.who, Who::Friend(_));
        if cell.command != Command::Data {
            open.account.charge(now, 1);
        }
        match (cell.command, cell.circ) {
            (Command::Pad, 0) => Ok(()),
            (Command::Control, 0) => {
                let messages = open.link.control(cell.body)?;
                open.account.charge(now, messages.len());
                for message in messages {
                    self.control(now, id, message)?;
                }
                Ok(())
            }
            // Nothing but hello and certificates before the peer has spoken, and on invites.
            _ if !open.heard || !is_friend => Err(Broken),
            (Command::Credit, 0) => {
                let mut credited = 0;
                for (circ, cells) in crate::cell::decode_credits(cell.body)? {
                    credited += open.link.credit(circ, cells)?;
                }
                open.account.credited(credited);
                Ok(())
            }
            (_, 0) => Err(Broken),
            _ => self.tunnel_cell(now, id, cell),
        }
    }

    fn control(&mut self, now: Now, id: ConnId, message: Control) -> Result<(), Broken> {
        let Some(open) = self.connections.get_mut(&id).and_then(Connection::open) else { return Ok(()) };
        if let Control::Hello { unix_ms, .. } = message {
            if std::mem::replace(&mut open.heard, true) {
                return Err(Broken);
            }
            for held in std::mem::take(&mut open.held_back) {
                open.link.send(&held)?;
            }
            let who = open.who;
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.established_at = now.at;
            }
            if let Who::Friend(key) = who {
                if !self.replace_link(now, id, key) {
                    return Ok(());
                }
                self.compare_clocks(now, key, unix_ms);
                self.friend_up(now, id, key);
            }
            return Ok(());
        }
        if !open.heard {
            return Err(Broken);
        }
        match (open.who, message) {
            (Who::Invite(invite), Control::Certificate(bytes)) => self.invited(now, id, invite, &bytes),
            (Who::Invite(invite), Control::Welcome) => self.welcomed(now, id, invite),
            (Who::Invite(_), _) => Err(Broken),
            (Who::Friend(key), message) => self.friend_message(now, id, key, message),
        }
    }

    fn friend_message(
        &mut self,
        now: Now,
        id: ConnId,
        key: FriendKey,
        message: Control,
    ) -> Result<(), Broken> {
        match message {
            Control::Addresses { seq, list, signature } => {
                // Each one costs a signature check and a record on disk; the surplus is dropped, and
                // the next link brings the newest again.
                if !self.within(id, now, |open| &mut open.announcements) {
                    return Ok(());
                }
                let addrs = Address::decode_list(&mut Reader::new(&list))?;
                let Some(friend) = self.friends.get_mut(&key) else { return Ok(()) };
                if !friend.record.keys.verify(&addresses_to_sign(seq, &list), &signature) {
                    return Err(Broken);
                }
                if seq > friend.record.addrs_seq {
                    let same = friend.record.addrs == addrs;
                    friend.record.addrs_seq = seq;
                    friend.record.addrs.clone_from(&addrs);
                    if !same {
                        self.outputs.push_back(Output::Keep(Change::Addresses(key, seq, addrs)));
                    }
                }
            }
            Control::Hint => self.catalogue.hinted(now, key),
            Control::Pull { part, log, since } => {
                if !self.within(id, now, |open| &mut open.pulls) {
                    return Ok(());
                }
                self.answer_pull(now, id, key, part, (log, since));
            }
            Control::Delta(delta) => {
                if let Some(open) = self.connections.get_mut(&id).and_then(Connection::open) {
                    open.account.page_came();
                }
                self.catalogue.delta(now, key, delta);
            }
            Control::Goodbye => {
                self.close(now, id);
                // It goes on purpose; whoever comes back dials by itself.
                if let Some(friend) = self.friends.get_mut(&key) {
                    friend.dialling.reset(now.at + AFTER_GOODBYE);
                }
            }
            Control::Hello { .. } | Control::Certificate(_) | Control::Welcome => return Err(Broken),
        }
        Ok(())
    }

    fn within(&mut self, id: ConnId, now: Now, bucket: impl FnOnce(&mut OpenLink) -> &mut Bucket) -> bool {
        let open = self.connections.get_mut(&id).and_then(Connection::open);
        open.is_some_and(|open| bucket(open).take(now.at))
    }

    fn compare_clocks(&mut self, now: Now, key: FriendKey, unix_ms: u64) {
        let clock = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        let offset = clock(unix_ms).saturating_sub(clock(now.unix_ms));
        if let Some(friend) = self.friends.get_mut(&key) {
            friend.clock_offset_ms = offset;
        }
        if offset.unsigned_abs() > SKEW_MS {
            self.event(Event::ClockSkew(key, offset));
        }
    }

    /// Hours and days go by the median of the friends' clocks and the own one.
    pub(crate) fn common_time(&self, now: Now) -> Now {
        let online = self.friends.values().filter(|f| f.link.is_some());
        let mut offsets: Vec<i64> = online.map(|f| f.clock_offset_ms).chain([0]).collect();
        offsets.sort_unstable();
        let median = offsets.get(offsets.len() / 2).copied().unwrap_or(0);
        Now { at: now.at, unix_ms: now.unix_ms.saturating_add_signed(median) }
    }

    /// Inviter: the invited side shows its certificate.
    fn invited(&mut self, now: Now, id: ConnId, invite: InviteId, bytes: &[u8]) -> Result<(), Broken> {
        let Some(given) = self.given.get(&invite) else { return Err(Broken) };
        let secret = given.invite.secret.clone();
        let open = self.connections.get_mut(&id).and_then(Connection::open).ok_or(Broken)?;
        if std::mem::replace(&mut open.certified, true) {
            return Err(Broken);
        }
        let peer_noise = open.peer_noise;
        let cert = Certificate::decode(bytes).map_err(|_| Broken)?;
        let expired = u64::from(cert.expires) <= now.unix_s();
        if cert.keys.noise != peer_noise || cert.keys == *self.me() || expired {
            return Err(Broken);
        }
        // The invite belongs to one Noise key, and one Noise key is one friend: another certificate
        // around it would be a second friend by one invite.
        let taken = |f: &Friend| f.record.keys.noise == cert.keys.noise && f.record.keys != cert.keys;
        if self.friends.values().any(taken) {
            return Err(Broken);
        }
        let key = FriendKey(cert.keys.sign);
        let root = PairRoot::new(&self.identity, &cert.keys, Some(&secret)).ok_or(Broken)?;
        let added = self.befriend(now, &cert, root);
        let is_new = added.is_some();
        if is_new && let Some(friend) = self.friends.get_mut(&key) {
            // The invited side dials as soon as it is welcome; dialling back at once would cross it.
            friend.dialling.reset(now.at + Duration::from_secs(3));
        }
        // The invite's owner is stored together with the friend. A repeat waits for storage too: the
        // first try may still be on its way there.
        let bound = Change::InviteBound(invite, cert.keys.noise);
        let added = added.map(|record| Change::FriendAdded(Box::new(cert), Box::new(record)));
        let changes = added.into_iter().chain([bound]).collect();
        self.persist(changes, AfterStore::Welcome(id, is_new.then_some(key)));
        Ok(())
    }

    /// Makes or renews a friendship; `None` when it stands already with these very secrets. An
    /// invite between friends renews it: one side may have lost or removed the other meanwhile.
    fn befriend(&mut self, now: Now, cert: &Certificate, root: PairRoot) -> Option<FriendRecord> {
        let key = FriendKey(cert.keys.sign);
        let mut record = new_record(cert, root);
        if let Some(friend) = self.friends.get_mut(&key) {
            if friend.record.root == record.root && friend.record.keys == record.keys {
                return None;
            }
            record.counter_in = friend.record.counter_in;
            record.counter_out = friend.record.counter_out;
            friend.peer = Peer::friend(self.identity.public(), &record.keys, &record.root);
            friend.record = record.clone();
            let old = self.connections_of(Who::Friend(key));
            old.into_iter().for_each(|conn| self.close(now, conn));
        } else {
            self.add_friend(now, record.clone());
        }
        Some(record)
    }

    /// Invited side: the inviter has stored the friendship.
    fn welcomed(&mut self, now: Now, id: ConnId, invite: InviteId) -> Result<(), Broken> {
        let Some(taken) = self.taken.get_mut(&invite) else { return Err(Broken) };
        if std::mem::replace(&mut taken.welcomed, true) {
            return Ok(());
        }
        let cert = taken.invite.inviter.clone();
        let secret = taken.invite.secret.clone();
        let key = FriendKey(cert.keys.sign);
        let root = PairRoot::new(&self.identity, &cert.keys, Some(&secret)).ok_or(Broken)?;
        let added = self.befriend(now, &cert, root);
        let added = added.map(|record| Change::FriendAdded(Box::new(cert), Box::new(record)));
        let changes = added.into_iter().chain([Change::InviteDone(invite)]).collect();
        self.persist(changes, AfterStore::Joined(id, invite, key));
        Ok(())
    }

    /// Queues a control message; it waits until the peer has spoken (decision 3).
    pub(crate) fn send_control(&mut self, now: Now, id: ConnId, message: &Control) {
        let Some(open) = self.connections.get_mut(&id).and_then(Connection::open) else { return };
        if open.heard {
            self.send_now(now, id, message);
        } else {
            open.held_back.push(message.clone());
        }
    }

    fn send_now(&mut self, now: Now, id: ConnId, message: &Control) {
        let Some(open) = self.connections.get_mut(&id).and_then(Connection::open) else { return };
        if matches!(message, Control::Pull { .. }) {
            open.account.page_asked();
        }
        if open.link.send(message).is_err() {
            self.close(now, id);
        }
    }

    /// Bytes to write next on a connection: whole records or flights. 0: nothing now.
    ///
    /// `out` has room for at least one record ([`crate::link::RECORD_LEN`]).
    pub fn transmit(&mut self, now: Now, id: ConnId, out: &mut [u8]) -> usize {
        let Some(connection) = self.connections.get_mut(&id) else { return 0 };
        let flights = connection.flights.len().min(out.len());
        if flights > 0 {
            let rest = connection.flights.split_off(flights);
            if let Some(front) = out.get_mut(..flights) {
                front.copy_from_slice(&connection.flights);
            }
            connection.flights = rest;
        }
        let mut used = flights;
        self.give_credit(now, id, false);
        if let Some(room) = out.get_mut(used..) {
            match self.send_cells(now, id, room) {
                Ok(n) => used += n,
                Err(Broken) => {
                    self.close(now, id);
                    return used;
                }
            }
        }
        if used > 0 {
            self.schedule_keepalive(now, id);
        }
        used
    }

    /// Whether [`Core::transmit`] would give something.
    pub fn wants_to_send(&mut self, id: ConnId) -> bool {
        self.connections.get(&id).is_some_and(|c| !c.flights.is_empty()) || self.link_wants_to_send(id)
    }

    fn schedule_keepalive(&mut self, now: Now, id: ConnId) {
        let gap = Duration::from_millis(self.rng.range(KEEPALIVE_MS.0, KEEPALIVE_MS.1));
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.keepalive_at = now.at + gap;
        }
    }

    pub(super) fn connection_timeouts(&mut self, now: Now) {
        let due: Vec<ConnId> = self
            .connections
            .iter()
            .filter(|(_, c)| c.poll_timeout().is_some_and(|at| at <= now.at))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            match &mut connection.stage {
                Stage::Open(open) => {
                    let over = (!open.heard || open.spare) && now.at >= connection.deadline;
                    if over || now.at >= connection.last_received + DEAD_AFTER {
                        self.close(now, id);
                        continue;
                    }
                    let credit = open.credit_at.is_some_and(|at| at <= now.at);
                    if now.at >= connection.keepalive_at {
                        let pad = SmallCell { circ: 0, command: Command::Pad, front: Vec::new() };
                        // A full queue means that the peer does not read; the dead timer ends it.
                        let _ = open.link.send_urgent(pad);
                        self.schedule_keepalive(now, id);
                    }
                    if credit {
                        self.give_credit(now, id, true);
                    }
                }
                Stage::Preparing(who) | Stage::Calling(_, who) => {
                    let who = *who;
                    self.call_failed(now, id, who);
                }
                _ => self.close(now, id),
            }
        }
    }

    fn call_failed(&mut self, now: Now, id: ConnId, who: Who) {
        self.close(now, id);
        if let Who::Invite(invite) = who {
            self.event(Event::Invite(invite, InviteOutcome::Refused));
        }
    }

    /// The driver lost a connection (end of stream or error).
    pub fn lost(&mut self, now: Now, id: ConnId) {
        // Who does not know an invite stays silent for longer than a call lasts; who knows it and
        // closes after the handshake refuses it.
        let invite = self.connections.get(&id).and_then(|c| match (c.dialled, &c.stage) {
            (Some(Who::Invite(invite)), Stage::Open(_)) => Some((invite, InviteOutcome::Refused)),
            (Some(Who::Invite(invite)), _) => Some((invite, InviteOutcome::Unreachable)),
            _ => None,
        });
        self.forget(now, id);
        let waits = |(id, _): &(InviteId, _)| self.taken.get(id).is_some_and(|t| !t.welcomed);
        if let Some((invite, outcome)) = invite.filter(waits) {
            self.event(Event::Invite(invite, outcome));
        }
    }

    /// Closes a connection from this side.
    pub(crate) fn close(&mut self, now: Now, id: ConnId) {
        if self.connections.contains_key(&id) {
            self.outputs.push_back(Output::Close(id));
            self.forget(now, id);
        }
    }

    fn forget(&mut self, now: Now, id: ConnId) {
        let Some(mut connection) = self.connections.remove(&id) else { return };
        let (who, dialled) = (connection.who(), connection.dialled);
        self.tickets.retain(|_, after| after.connection() != id);
        if let Some(open) = connection.open() {
            self.forget_account(&open.account);
            let tunnels = std::mem::take(&mut open.tunnels);
            self.tunnels_lost(now, id, tunnels);
        }
        if let Some(Who::Friend(key)) = who
            && let Some(friend) = self.friends.get_mut(&key)
            && friend.link == Some(id)
        {
            friend.link = None;
            friend.dialling.reset(now.at);
            friend.dialling.failed(now.at, &mut self.rng);
            self.catalogue.disconnected(key);
            self.event(Event::Down(key));
        } else if let Some(who) = dialled {
            self.retry_later(now, who);
        }
    }

    pub(super) fn connections_of(&self, who: Who) -> Vec<ConnId> {
        self.connections.iter().filter(|(_, c)| c.who() == Some(who)).map(|(id, _)| *id).collect()
    }

    /// Says goodbye on all links, before the process ends.
    pub fn say_goodbye(&mut self) {
        // A link that is stuck ends with the process anyway.
        for open in self.connections.values_mut().filter_map(Connection::open).filter(|o| o.heard) {
            let _ = open.link.send(&Control::Goodbye);
        }
    }
}

fn new_record(cert: &Certificate, root: PairRoot) -> FriendRecord {
    FriendRecord {
        keys: cert.keys,
        root,
        addrs: cert.addrs.clone(),
        addrs_seq: 0,
        counter_in: 0,
        counter_out: 0,
    }
}
