//! Connections: handshakes until a link stands, what comes and goes on it, which of two links stays,
//! and what happens to everybody else (silence). Page: `docs/protocol/link.md`.

use super::accounts::Account;
use super::dialling::CALL_DEADLINE;
use super::rotation::KEYS_PENDING;
use super::*;
use crate::cell::{CELL_LEN, CellRef, CircId, Command, SmallCell};
use crate::handshake::{Answered, Callee, Caller, Established, MAJOR, Mode, Recognised, Third, Verified};
use crate::link::{Broken, Link};
use crate::ratchet::Stored;
use crate::tunnel::Tunnel;
use kith_crypto::frame::Claim;

/// A link that brings nothing for so long is dead: two pads in a row are missing.
const DEAD_AFTER: Duration = Duration::from_secs(125);
/// Pads make up for so much of what timers are late; a process that stood still sends no burst.
const MAX_PAD_LATE: Duration = Duration::from_millis(25);
/// A call through Tor may take so much longer.
pub(super) const TOR_IS_SLOWER: Duration = Duration::from_secs(20);
/// A link that lasted so long was a good one.
const STOOD: Duration = Duration::from_secs(60);
/// Links that were completed so close together were dialled by both sides at once.
const BOTH_DIALLED: Duration = Duration::from_secs(5);
pub(super) const CREDIT_TICK: Duration = Duration::from_millis(25);
/// Used invites whose second use is noticed.
const MAX_SPENT: usize = 64;
/// First flights that one invite answers in all.
const MAX_INVITE_TRIES: usize = 16;
/// An established link with its tunnels.
pub(crate) struct OpenLink {
    pub(crate) who: Who,
    pub(crate) link: Link,
    pub(crate) tunnels: BTreeMap<CircId, Tunnel>,
    pub(crate) next_circ: CircId,
    pub(super) peer_noise: [u8; 32],
    /// What the handshake was for, and whether the link may carry everything.
    pub(super) mode: Mode,
    pub(super) full: bool,
    /// Handshake hash.
    pub(super) hash: [u8; 32],
    /// Which of the own link keys the handshake used.
    pub(super) own_keys: u32,
    /// The one certificate of an invite's link has come.
    pub(super) certified: bool,
    /// The peer's hello has come: it has proved to hold the session.
    pub(super) heard: bool,
    /// Another link took its place; the peer closes this one when it has seen that.
    spare: bool,
    /// Messages that wait for the peer's hello.
    pub(super) held_back: Vec<Control>,
    /// The peer said that it has new link keys to show; which of the own ones it was shown.
    pub(super) peer_keys_pending: bool,
    pub(super) keys_shown: Option<u32>,
    pub(super) credit_at: Option<Duration>,
    pub(super) account: Account,
}

pub(super) enum Stage {
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
    /// A new PSK is stored: say so.
    Exchange(ConnId, FriendKey, Stored),
    /// A friend's new link keys are stored: use them.
    FriendKeys(ConnId, FriendKey, Box<NewKeys>),
    /// That a friend knows own link keys is stored: show newer ones, if there are any.
    OwnKeys(FriendKey),
    /// Routes are stored: this own circuit may use them.
    Routes(Option<u32>),
}

impl AfterStore {
    /// Whose connection waits. What is stored for a friendship goes on without one.
    fn connection(&self) -> ConnId {
        match self {
            Self::Answer(id, _) | Self::Call(id, _) | Self::Exchange(id, ..) => *id,
            Self::Welcome(..)
            | Self::Joined(..)
            | Self::FriendKeys(..)
            | Self::OwnKeys(_)
            | Self::Routes(_) => 0,
        }
    }
}

pub(crate) struct Connection {
    pub(super) stage: Stage,
    inbound: bool,
    /// It came through Tor: neither side learns where the other is.
    through_tor: bool,
    /// Whom this side dialled; known whatever becomes of the stage, so that the next dial is never
    /// forgotten.
    pub(super) dialled: Option<Who>,
    source: u64,
    /// Silence ends then (inbound), the call fails (outbound), the peer's hello is overdue, or a
    /// connection for an exchange has lasted long enough.
    pub(super) deadline: Duration,
    pub(super) established_at: Duration,
    pub(super) flights: Vec<u8>,
    pub(super) last_received: Duration,
    keepalive_at: Duration,
    /// How late the last pad was: timers are coarse, and the next one comes so much sooner.
    pad_late: Duration,
    /// After a suspend: something must come until then.
    pub(super) probed_until: Option<Duration>,
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
                let over = (!link.heard || link.spare || !link.full).then_some(self.deadline);
                earliest(Some(alive), earliest(link.credit_at, earliest(over, self.probed_until)))
            }
            _ => Some(self.deadline),
        }
    }

    pub(super) const fn is_through_tor(&self) -> bool {
        self.through_tor
    }

    pub(crate) fn is_half_open(&self) -> bool {
        // A session whose peer has not spoken counts too: somebody with good keys must not pile them up.
        self.inbound && self.peek().is_none_or(|link| !link.heard)
    }

    /// A pad leaves so long after now, less what the last one was late.
    pub(super) fn set_keepalive(&mut self, now: Now, gap: Duration) {
        self.keepalive_at = (now.at + gap).saturating_sub(self.pad_late);
    }

    /// The pad that was due leaves now.
    fn pad_leaves(&mut self, now: Now) {
        self.pad_late = now.at.saturating_sub(self.keepalive_at).min(MAX_PAD_LATE);
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
    pub(super) fn connection(
        &mut self,
        now: Now,
        stage: Stage,
        inbound: bool,
        source: u64,
        wait: Duration,
    ) -> ConnId {
        let id = self.next_conn;
        self.next_conn = (self.next_conn + 1) % super::circuits::OWN;
        self.next_conn = self.next_conn.max(1);
        let connection = Connection {
            stage,
            inbound,
            through_tor: false,
            dialled: None,
            source,
            deadline: now.at + wait,
            established_at: now.at,
            flights: Vec::new(),
            last_received: now.at,
            keepalive_at: now.at,
            pad_late: Duration::ZERO,
            probed_until: None,
        };
        self.connections.insert(id, connection);
        id
    }

    /// Somebody connected. `source` is a hash of its address, for limits only.
    pub fn accepted(&mut self, now: Now, source: u64) -> ConnId {
        self.accepted_through(now, source, false)
    }

    /// As [`Core::accepted`]; `tor`: through Tor, where neither side learns where the other is.
    pub fn accepted_through(&mut self, now: Now, source: u64, tor: bool) -> ConnId {
        // The time of closing is drawn before anything is read, so it cannot depend on what comes.
        let wait = Duration::from_millis(self.rng.range(10_000, 60_000));
        let id = self.connection(now, Stage::Answering(Callee::default()), true, source, wait);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.through_tor = tor;
        }
        self.shed_half_open(now, source, tor);
        id
    }

    /// A call that was made goes through Tor.
    pub(super) fn calls_through_tor(&mut self, id: ConnId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.through_tor = true;
            connection.deadline += TOR_IS_SLOWER;
        }
    }

    /// Whether a friend's link goes through Tor; `None`: none stands.
    pub fn is_through_tor(&self, key: FriendKey) -> Option<bool> {
        let link = self.friends.get(&key)?.link?;
        self.connections.get(&link).map(Connection::is_through_tor)
    }

    /// Whether somebody may come this way. Who is reached through Tor alone meets silence elsewhere.
    pub(super) fn may_come(&self, id: ConnId, who: Who) -> bool {
        !self.is_tor_only(who) || self.connections.get(&id).is_some_and(Connection::is_through_tor)
    }

    /// Above the limits the oldest half-open connection goes. Those through Tor, whose sources cost nothing, are
    /// counted by themselves: a flood there is none for friends elsewhere.
    fn shed_half_open(&mut self, now: Now, source: u64, tor: bool) {
        let limits = self.limits;
        let half_open = |c: &&Connection| c.is_half_open() && c.through_tor == tor;
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

    pub(super) fn persist(&mut self, changes: Vec<Change>, after: AfterStore) {
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
                self.tor_only.remove(&Who::Invite(invite));
                self.close(now, id);
                self.event(Event::Invite(invite, InviteOutcome::Friends(friend)));
            }
            Some(AfterStore::Exchange(id, key, stored)) => self.exchange_stored(now, id, key, stored),
            Some(AfterStore::FriendKeys(id, key, new)) => self.keys_stored(now, id, key, *new),
            Some(AfterStore::OwnKeys(key)) => self.own_keys_stored(now, key),
            Some(AfterStore::Routes(own)) => self.routes_stored(now, own),
            None => {}
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
            connection.probed_until = None;
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
            Stage::Answering(callee) => match callee.input(bytes, |claim| {
                self.notice_reuse(claim);
                self.look_up(now, claim)
            }) {
                Ok(Ok(recognised)) if !self.may_come(id, recognised.who()) => Some(Stage::Draining),
                Ok(Ok(recognised)) => match self.admit(now, recognised) {
                    Some(recognised) => Some(Stage::Recognised(Box::new(recognised))),
                    None => Some(Stage::Draining),
                },
                Ok(Err(callee)) => Some(Stage::Answering(callee)),
                Err(_) => Some(Stage::Draining),
            },
            Stage::Recognised(recognised) => {
                let Some(me) = self.identities.get(&recognised.own_keys()) else {
                    return Some(Stage::Draining);
                };
                match recognised.input(me, bytes, &mut self.rng) {
                    // Checked again: another connection may have been accepted since.
                    Ok(Ok(verified)) => self.store_then_answer(now, id, verified),
                    Ok(Err(recognised)) => Some(Stage::Recognised(Box::new(recognised))),
                    Err(_) => Some(Stage::Draining),
                }
            }
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

    /// A used invite meets silence like any other stranger, but its owner is told: whoever has it
    /// got it from somewhere.
    fn notice_reuse(&mut self, claim: &Claim) {
        let spent = self.spent.iter().find(|(peer, _)| peer.claimed_by(claim)).map(|(_, key)| *key);
        if let Some(key) = spent {
            self.event(Event::InviteReused(key));
        }
    }

    fn look_up(&self, now: Now, claim: &Claim) -> Option<Peer> {
        let friends =
            self.friends.values().flat_map(|f| f.candidates.iter().map(|c| &c.peer).chain([&f.peer]));
        let invites = self.given.values().filter(|g| u64::from(g.invite.expires) > now.unix_s());
        friends.chain(invites.map(|g| &g.peer)).find(|p| p.claimed_by(claim)).cloned()
    }

    /// Everything that can be checked before the first Diffie-Hellman: version, counter or nonce, and
    /// that this side has the PSK. What the owner should know of a refusal stays on this side.
    fn admit(&mut self, now: Now, recognised: Recognised) -> Option<Recognised> {
        let key = match recognised.who() {
            Who::Invite(id) => {
                let given = self.given.get(&id)?;
                let tries = &given.invite.tries;
                if tries.contains(recognised.nonce()) {
                    self.replays += 1;
                }
                let good = tries.len() < MAX_INVITE_TRIES && !tries.contains(recognised.nonce());
                return (good && recognised.major() == u16::from(MAJOR))
                    .then(|| recognised.admit(given.secret.clone()));
            }
            Who::Friend(key) => key,
        };
        let friend = self.friends.get_mut(&key)?;
        if recognised.counter() <= friend.counter_floor(now, recognised.mode()) {
            self.replays += 1;
            return None;
        }
        // A handshake costs this node a Diffie-Hellman and a durable record.
        if !friend.asks.calls.take(now.at) {
            return None;
        }
        if recognised.major() != u16::from(MAJOR) {
            if friend.other_version.replace(recognised.major()) != Some(recognised.major()) {
                self.event(Event::OtherVersion(key, recognised.major()));
            }
            return None;
        }
        let ratchet = &friend.record.ratchet;
        let (secret, missing) = match recognised.mode() {
            Mode::Generation(n) if n > ratchet.newest() => (None, OutOfStep::WeAreBehind),
            Mode::Generation(n) => (ratchet.to_answer(n), OutOfStep::TheyAreBehind),
            Mode::Recovery if friend.may_recover(now) => {
                let newer = friend.candidates.iter().find(|c| c.peer.own_keys() == recognised.own_keys());
                let psk = newer.map_or(&friend.record.root, |c| &c.root).recovery_psk();
                (Some(Secret { mode: Mode::Recovery, psk }), OutOfStep::TheyAreBehind)
            }
            _ => (None, OutOfStep::TheyAreBehind),
        };
        // A call of the step before that was held back on its way says nothing while a link stands.
        let late = recognised.mode() == Mode::Generation(ratchet.generation.saturating_sub(1));
        let told = secret.is_none() && !(late && friend.link.is_some());
        if told && friend.out_of_step.replace(missing) != Some(missing) {
            self.event(Event::OutOfStep(key, missing));
        }
        secret.map(|secret| recognised.admit(secret))
    }

    fn store_then_answer(&mut self, now: Now, id: ConnId, verified: Verified) -> Option<Stage> {
        let changes = match verified.who() {
            Who::Friend(key) => {
                let friend = self.friends.get_mut(&key)?;
                if verified.counter() <= friend.counter_floor(now, verified.mode()) {
                    self.replays += 1;
                    return Some(Stage::Draining);
                }
                if verified.mode() == Mode::Recovery {
                    friend.recovery_counter = verified.counter();
                }
                // Above all that came before, also after a recovery call from a clock that runs behind.
                let highest = verified.counter().max(friend.record.counter_in.saturating_add(1));
                friend.record.counter_in = highest;
                let mut changes = vec![Change::CounterIn(key, highest)];
                // The call proves what the friend has; that is durable before it learns that we know.
                if let Mode::Generation(n) = verified.mode()
                    && friend.record.ratchet.confirm(n)
                {
                    changes.push(Change::Ratchet(key, Box::new(friend.record.ratchet.clone())));
                }
                changes.extend(self.knows_own_keys(key, verified.own_keys()));
                changes
            }
            Who::Invite(invite) => {
                let given = self.given.get_mut(&invite)?;
                let tries = &mut given.invite.tries;
                if tries.contains(&verified.nonce()) || tries.len() >= MAX_INVITE_TRIES {
                    return Some(Stage::Draining);
                }
                tries.push(verified.nonce());
                vec![Change::InviteTry(invite, verified.nonce())]
            }
        };
        self.persist(changes, AfterStore::Answer(id, Box::new(verified)));
        Some(Stage::Storing)
    }

    fn establish(&mut self, now: Now, id: ConnId, established: Established) {
        let Established { who, mode, own_keys, session, hash, peer_noise } = established;
        // The friend may have been removed while storage or the peer answered.
        if matches!(who, Who::Friend(key) if !self.friends.contains_key(&key)) {
            return self.close(now, id);
        }
        // Or marked to be reached through Tor alone.
        if !self.may_come(id, who) {
            return self.close(now, id);
        }
        let account = self.new_account(now, who);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let inbound = connection.inbound;
        connection.last_received = now.at;
        connection.deadline = now.at + CALL_DEADLINE;
        // Even ids from the lower key, odd from the higher: the signing keys, which never change.
        let lower = matches!(who, Who::Friend(key) if self.public.sign < key.0);
        let pending = matches!(who, Who::Friend(_)) && own_keys != self.own_keys;
        let features =
            super::onion_keys::CIRCUITS | super::mirrors::MIRRORS | if pending { KEYS_PENDING } else { 0 };
        let open = OpenLink {
            who,
            link: Link::with_weights(session, self.budgets.weights),
            tunnels: BTreeMap::new(),
            next_circ: if lower { 2 } else { 1 },
            peer_noise,
            mode,
            full: matches!(mode, Mode::Generation(1..)),
            hash,
            own_keys,
            certified: false,
            heard: false,
            spare: false,
            held_back: Vec::new(),
            peer_keys_pending: false,
            keys_shown: None,
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
                Some(Some(bound)) => {
                    let mut friends = self.friends.iter();
                    let first = friends.find(|(_, f)| f.record.keys.noise == bound).map(|(key, _)| *key);
                    if let Some(first) = first {
                        self.event(Event::InviteReused(first));
                    }
                    return self.close(now, id);
                }
                None => return self.close(now, id),
            }
        }
        self.send_now(now, id, &Control::Hello { features, unix_ms: now.unix_ms });
        if matches!(who, Who::Invite(_)) && !inbound {
            let cert = self.certificate_for(who).map(|c| c.encoded().to_vec()).unwrap_or_default();
            self.send_control(now, id, &Control::Certificate(cert));
        }
    }

    /// Decides between two links to one friend (decision 10). False: the new one goes.
    ///
    /// Only a link whose peer has spoken takes part: a first flight that was held back on the way
    /// and is delivered later proves nothing about now, and must not end a good link.
    pub(super) fn replace_link(&mut self, now: Now, id: ConnId, key: FriendKey) -> bool {
        let Some(inbound) = self.connections.get(&id).map(|c| c.inbound) else { return false };
        let Some(old) = self.friends.get(&key).and_then(|f| f.link).filter(|old| *old != id) else {
            return true;
        };
        let we_are_lower = self.public.sign < key.0;
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
        // A link that this side renews goes on until the peer has seen the new one.
        let renewed = !together && self.friends.get(&key).is_some_and(|f| f.renewing);
        self.retire(now, old, renewed || together && we_are_lower);
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

    pub(super) fn friend_up(&mut self, now: Now, id: ConnId, key: FriendKey, features: u64) {
        let Some(friend) = self.friends.get_mut(&key) else { return };
        let was_up = friend.link.replace(id).is_some();
        friend.mirrors = features & super::mirrors::MIRRORS != 0;
        friend.dialling.succeeded();
        (friend.renew_at, friend.renewing, friend.exchange) = (None, false, None);
        // The invite that made this friendship has done its work.
        let done: Vec<InviteId> = self
            .given
            .iter()
            .filter(|(_, g)| g.invite.bound == Some(friend.record.keys.noise))
            .map(|(id, _)| *id)
            .collect();
        for invite in done {
            self.tor_only.remove(&Who::Invite(invite));
            if let Some(given) = self.given.remove(&invite) {
                let sessions = self.connections_of(Who::Invite(invite));
                sessions.into_iter().for_each(|conn| self.close(now, conn));
                self.spent.truncate(MAX_SPENT - 1);
                self.spent.push_front((given.peer, key));
            }
            self.outputs.push_back(Output::Keep(Change::InviteDone(invite)));
        }
        // What was only there for an exchange has done its work.
        let exchanges = self.connections.iter().filter(|(_, c)| c.is_for_exchange());
        let done: Vec<ConnId> =
            exchanges.filter(|(_, c)| c.who() == Some(Who::Friend(key))).map(|(id, _)| *id).collect();
        done.into_iter().for_each(|conn| self.close(now, conn));
        self.tell_addresses(now, id, key);
        self.show_keys(now, id, key);
        self.plan_exchange(now, key);
        self.onion_friend_up(now, id, key, features);
        self.catalogue.connected(now, key);
        if !was_up {
            self.event(Event::Up(key));
        }
    }

    fn link_input(&mut self, now: Now, id: ConnId, bytes: &mut &[u8]) -> Result<(), Broken> {
        loop {
            let Some(open) = self.connections.get_mut(&id).and_then(Connection::open) else { return Ok(()) };
            let Some(record) = open.link.receive(bytes)? else { return Ok(()) };
            for cell in record.chunks_exact(CELL_LEN) {
                let cell = cell.first_chunk::<CELL_LEN>().ok_or(Broken)?;
                let cell = CellRef::decode(cell);
                if cell.is_err() && !self.budgets.defences.strict_cells {
                    continue;
                }
                self.cell(now, id, cell?)?;
            }
            if let Some(open) = self.connections.get_mut(&id).and_then(Connection::open) {
                open.link.recycle(record);
            }
        }
    }

    fn cell(&mut self, now: Now, id: ConnId, cell: CellRef<'_>) -> Result<(), Broken> {
        self.note_cell(now, id, &cell);
        let Some(open) = self.connections.get_mut(&id).and_then(Connection::open) else { return Ok(()) };
        if open.spare {
            return Ok(());
        }
        let full = open.full;
        if !matches!(cell.command, Command::Data | Command::Relay) {
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
            // Nothing but control messages before the peer has spoken, on invites and for exchanges.
            _ if !open.heard || !full => Err(Broken),
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
                    let ends = !open.heard || open.spare || !open.full;
                    let over = ends && now.at >= connection.deadline;
                    let asleep = connection.probed_until.is_some_and(|at| now.at >= at);
                    if over || asleep || now.at >= connection.last_received + DEAD_AFTER {
                        self.close(now, id);
                        continue;
                    }
                    let credit = open.credit_at.is_some_and(|at| at <= now.at);
                    if now.at >= connection.keepalive_at {
                        // While something waits the peer does not read, and pads would only pile up.
                        if open.link.urgent_waiting() == 0 {
                            let pad = SmallCell { circ: 0, command: Command::Pad, front: Vec::new() };
                            let _ = open.link.send_urgent(pad);
                        }
                        connection.pad_leaves(now);
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
        let unanswered = matches!(connection.stage, Stage::Calling(..));
        let for_exchange = connection.is_for_exchange();
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
            (friend.exchange, friend.exchange_at, friend.renew_at) = (None, None, None);
            // A link that comes and goes is dialled less and less; one that stood starts anew.
            if now.at.saturating_sub(connection.established_at) >= STOOD {
                friend.dialling.reset(now.at);
            }
            friend.dialling.failed(now.at, &mut self.rng);
            self.catalogue.disconnected(key);
            self.onion_friend_down(now, key);
            self.event(Event::Down(key));
        } else if let (true, Some(Who::Friend(key))) = (for_exchange, who) {
            self.exchange_link_lost(now, id, key, dialled.is_some());
        } else if let Some(who) = dialled {
            if let (true, Who::Friend(key)) = (unanswered, who)
                && let Some(friend) = self.friends.get_mut(&key)
            {
                friend.dialling.silent_calls = friend.dialling.silent_calls.saturating_add(1);
            }
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

impl OpenLink {
    /// A session of friends that carries nothing but an exchange.
    pub(super) fn is_for_exchange(&self) -> bool {
        matches!(self.who, Who::Friend(_)) && !self.full
    }

    pub(super) const fn has_heard(&self) -> bool {
        self.heard
    }
}
