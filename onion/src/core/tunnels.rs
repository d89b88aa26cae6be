//! Tunnels: answering requests, passing them on to the friend who published, and moving bytes.
//!
//! Absent, refused and off line look alike: nothing, until `TUN_NO` leaves exactly three seconds
//! after the request came (decision 19). Deliberate delays apply to tunnels, not to direct sessions.

use super::circuits::OWN;
use super::connections::Connection;
use super::fetching::Gone;
use super::relaying::{At, Here};
use super::*;
use crate::cell::{self, Body, CellRef, Command, SmallCell, TunOpen};
use crate::circuit::{Create, StreamId};
use crate::link::{Broken, Left, MAX_CIRCUITS, Outgoing};
use crate::schedule::{Class, Flow};
use crate::serving::Serving;
use crate::session::{Assembler, ByteQueue, Message};
use crate::tunnel::{Role, Tunnel};
use kith_crypto::kdf::{self, Label};
use kith_crypto::noise::{Handshake, Pattern, Session};

/// Timers of one tunnel; more are looked through.
const MANY_TIMERS: usize = 16;
const REFUSE_AFTER: Duration = Duration::from_secs(3);
/// How much later than passing it on an answer to an own request is let go: a tick and a way back.
const OWN_ANSWER_MS: (u64, u64) = (150, 1500);
pub(super) const TUNNEL_PROLOGUE: &[u8] = b"kith tunnel v1";

/// Something that happens to a tunnel at a set time.
#[derive(Debug)]
pub(crate) enum Timer {
    Refuse(ConnId, CircId),
    Answer(ConnId, CircId, Vec<u8>, Outgoing, Root),
    PassAnswer(ConnId, CircId, (ConnId, CircId), Vec<u8>),
    /// The end of a circuit answers what it was asked.
    Extended(At),
    Pong(At),
    SearchOver(At, StreamId),
    Here(At, StreamId, Box<(Vec<u8>, Here)>),
    /// A side of a circuit ends.
    Destroy(At),
}

/// Names a timer that is set.
pub(super) type TimerKey = (Duration, u64);

impl Timer {
    /// Whether it belongs to a circuit and not to a tunnel.
    pub(super) const fn is_of_circuit(&self) -> bool {
        matches!(
            self,
            Self::Extended(_) | Self::Pong(_) | Self::SearchOver(..) | Self::Here(..) | Self::Destroy(_)
        )
    }
}

impl Core {
    /// Sets a timer that ends with its tunnel.
    pub(super) fn at(&mut self, time: Duration, conn: ConnId, circ: CircId, timer: Timer) -> TimerKey {
        self.next_timer += 1;
        let key = (time, self.next_timer);
        let Self { connections, timers, .. } = self;
        let open = connections.get_mut(&conn).and_then(Connection::open);
        if let Some(tunnel) = open.and_then(|open| open.tunnels.get_mut(&circ)) {
            // Those that have gone off are forgotten before there are many.
            if tunnel.timers.len() >= MANY_TIMERS {
                tunnel.timers.retain(|key| timers.contains_key(key));
            }
            tunnel.timers.push(key);
            timers.insert(key, timer);
        }
        key
    }

    pub(super) fn drop_timers(&mut self, tunnel: &Tunnel) {
        for key in &tunnel.timers {
            self.timers.remove(key);
        }
    }

    pub(super) fn run_timers(&mut self, now: Now) {
        while let Some(entry) = self.timers.first_entry() {
            if entry.key().0 > now.at {
                break;
            }
            match entry.remove() {
                Timer::Refuse(conn, circ) => self.refuse_now(now, conn, circ),
                Timer::Answer(conn, circ, front, outgoing, root) => {
                    self.answer_now(now, conn, circ, front, outgoing, root);
                }
                Timer::PassAnswer(conn, circ, other, front) => {
                    self.pass_answer(now, conn, circ, other, front);
                }
                Timer::Extended(at) => self.extended(now, at),
                Timer::Pong(at) => self.pong(now, at),
                Timer::SearchOver(at, base) => self.search_over(now, at, base),
                Timer::Here(at, base, answer) => self.here_answers(now, at, base, *answer),
                Timer::Destroy(at) => self.end_tunnel(now, at.0, at.1, true),
            }
        }
    }

    // Locators.

    /// Looks for a bounded time at what locators of this hour are still missing.
    pub(super) fn refresh_locators(&mut self, now: Now) {
        let hour = self.common_time(now).hour();
        self.catalogue.set_hour(hour);
    }

    // Cells of tunnels.

    pub(super) fn open_link(&mut self, conn: ConnId) -> Option<&mut super::connections::OpenLink> {
        self.connections.get_mut(&conn).and_then(Connection::open)
    }

    pub(super) fn tunnel(&mut self, conn: ConnId, circ: CircId) -> Option<&mut Tunnel> {
        self.open_link(conn)?.tunnels.get_mut(&circ)
    }

    pub(super) fn urgent(&mut self, now: Now, conn: ConnId, circ: CircId, command: Command, front: Vec<u8>) {
        if let Some(open) = self.open_link(conn)
            && open.link.send_urgent(SmallCell { circ, command, front }).is_err()
        {
            self.close(now, conn);
        }
    }

    pub(super) fn tunnel_cell(&mut self, now: Now, conn: ConnId, cell: CellRef<'_>) -> Result<(), Broken> {
        match cell.command {
            Command::TunOpen => self.opened(now, conn, cell.circ, TunOpen::decode(cell.body)?),
            Command::TunOk => self.accepted_by_holder(now, conn, cell.circ, cell::decode_tun_ok(cell.body)?),
            Command::TunNo => self.refused_by_peer(now, conn, cell.circ),
            Command::Create => self.create_came(now, conn, cell.circ, &Create::decode(cell.body)?),
            Command::Created => self.created_came(now, conn, cell.circ, cell.body),
            Command::Relay => self.relay_came(now, conn, cell.circ, cell.body),
            Command::Destroy => {
                if let Some(Role::Origin { own }) = self.tunnel(conn, cell.circ).map(|t| &t.role) {
                    let own = *own;
                    self.own_destroyed(now, own);
                }
                self.end_tunnel(now, conn, cell.circ, false);
                Ok(())
            }
            Command::Data => self.data(now, conn, cell.circ, cell.body),
            Command::Pad | Command::Credit | Command::Control => Err(Broken),
        }
    }

    /// A friend asks for a tunnel.
    fn opened(&mut self, now: Now, conn: ConnId, circ: CircId, request: TunOpen) -> Result<(), Broken> {
        let open = self.open_link(conn).ok_or(Broken)?;
        let ours_are_even = open.next_circ.is_multiple_of(2);
        // The peer draws from its own half of the ids, never one in use.
        if circ.is_multiple_of(2) == ours_are_even || open.tunnels.contains_key(&circ) {
            return Err(Broken);
        }
        // Each side counts what it opened itself: what the other opens meanwhile is no fault of it.
        if open.tunnels.iter().filter(|(c, t)| *c % 2 == circ % 2 && t.is_tunnel()).count() >= MAX_CIRCUITS {
            return Err(Broken);
        }
        open.tunnels.insert(circ, Tunnel::new(Role::Refusing));
        let asker = self.friend_of(conn).ok_or(Broken)?;
        let in_budget = self.within(asker, now, |asks| &mut asks.opens);
        self.at(now.at + REFUSE_AFTER, conn, circ, Timer::Refuse(conn, circ));
        let role = in_budget.then(|| self.role_for(now, (conn, circ), asker, &request)).flatten();
        if let Some(tunnel) = self.tunnel(conn, circ) {
            tunnel.role = role.unwrap_or(Role::Refusing);
        }
        Ok(())
    }

    /// What a request comes to; `None` is a refusal.
    fn role_for(&mut self, now: Now, at: At, asker: FriendKey, request: &TunOpen) -> Option<Role> {
        let located = self.located(&request.locator);
        if let Some(root) = located {
            self.note_asked(now, asker, root, request.nonce);
        }
        // What this node asked for itself, and what came back by a circuit, it does not give itself.
        let may = |root: &Root| !self.circuits.is_own_nonce(&request.nonce) && self.holds(root);
        if request.spreads {
            // It is for somebody else than who passed it on, whatever that friend may have; and circuits
            // get what is whole.
            let whole = |root: &Root| may(root) && self.holds_all(root) && self.serves_circuits(asker, root);
            return match located.filter(whole) {
                Some(root) => self.hold_out(now, at, asker, root, request),
                None => self.spread_on(now, at.0, asker, request),
            };
        }
        let root = located?;
        let here = may(&root) && self.serves(asker, &root);
        if !request.sealed || request.hops_left == 0 {
            return if here { self.hold_out(now, at, asker, root, request) } else { None };
        }
        // Who asks for others' copies gets this one once: if it is whole, and then the link can bring no
        // more, or if there is no other.
        let again = self.serves_on(at.0, root);
        if here && self.holds_all(&root) {
            return if again { None } else { self.hold_out(now, at, asker, root, request) };
        }
        let here = here && !again;
        let passed = self.pass(now, at, asker, root, request);
        if passed.is_none() && here {
            return self.hold_out(now, at, asker, root, request);
        }
        passed
    }

    fn pass(&mut self, now: Now, at: At, asker: FriendKey, root: Root, request: &TunOpen) -> Option<Role> {
        let others = self.pass_on(now, asker, root, request);
        let role = self.passing(others, request)?;
        if let Some(tunnel) = self.tunnel(at.0, at.1) {
            tunnel.root = Some(root);
        }
        Some(role)
    }

    /// It waits for those that it was passed on to, if there are any.
    fn passing(&self, others: Vec<At>, request: &TunOpen) -> Option<Role> {
        let own = self.circuits.is_own_nonce(&request.nonce);
        (!others.is_empty()).then_some(Role::Passing { others, locator: request.locator, own })
    }

    /// Whether an object is served on a link already.
    fn serves_on(&mut self, conn: ConnId, root: Root) -> bool {
        self.open_link(conn).is_some_and(|open| {
            open.tunnels.values_mut().any(|tunnel| tunnel.serving().is_some_and(|s| s.root == root))
        })
    }

    /// A request that spreads from the end of a circuit: each passes it on once.
    fn spread_on(&mut self, now: Now, conn: ConnId, asker: FriendKey, request: &TunOpen) -> Option<Role> {
        self.circuits.spread += 1;
        // Those that spread further cost most.
        let friend = self.friends.get_mut(&asker).filter(|_| request.hops_left > 0);
        let may = friend.is_none_or(|f| f.onion.spreads.take(now.at));
        if !may || !self.may_relay_more(conn) || !self.note_nonce(now, request.nonce) {
            return None;
        }
        let others = self.spread(now, conn, asker, request.hops_left, request, Role::Passed);
        self.passing(others, request)
    }

    /// This node holds the object: the handshake's answer leaves at once on a direct session, after
    /// a delay fixed per (locator, link) in a tunnel.
    fn hold_out(
        &mut self,
        now: Now,
        (conn, circ): At,
        asker: FriendKey,
        root: Root,
        request: &TunOpen,
    ) -> Option<Role> {
        // Who asks for more than its share is refused, like for what is not here.
        if !self.open_link(conn)?.account.may_shake_hands(now) {
            return None;
        }
        let psk = self.holding(&root)?.cap().tunnel_psk();
        let mut noise = Handshake::respond(Pattern::Tunnel, &psk, TUNNEL_PROLOGUE, &mut self.rng).ok()?;
        noise.read(&request.message).ok()?;
        let answer = noise.write(&[]).ok()?;
        let session = noise.into_session().ok()?;
        let seal = request.sealed.then_some(session);
        let outgoing = Outgoing::Session { queue: ByteQueue::default(), seal };
        let front = cell::encode_tun_ok(&answer);
        let wait = if request.sealed { self.fixed_delay(&request.locator, asker) } else { Duration::ZERO };
        self.at(now.at + wait, conn, circ, Timer::Answer(conn, circ, front, outgoing, root));
        Some(Role::Answering)
    }

    /// 50 to 150 ms, the same whenever the same friend asks for the same thing in the same hour.
    pub(super) fn fixed_delay(&self, locator: &[u8; 16], friend: FriendKey) -> Duration {
        let full = kdf::derive(Label::TUNNEL_DELAY, &[self.secret.expose(), locator, &friend.0]);
        let draw = full.expose().first_chunk::<4>().map_or(0, |b| u32::from_le_bytes(*b));
        Duration::from_micros(50_000 + u64::from(draw % 100_000))
    }

    fn answer_now(
        &mut self,
        now: Now,
        conn: ConnId,
        circ: CircId,
        front: Vec<u8>,
        outgoing: Outgoing,
        root: Root,
    ) {
        let Some(Who::Friend(asker)) = self.open_link(conn).map(|o| o.who) else { return };
        let spans = self.spans_of(&root).filter(|_| self.serves(asker, &root));
        let Some(open) = self.open_link(conn) else { return };
        let Some(tunnel) = open.tunnels.get_mut(&circ) else { return };
        if !matches!(tunnel.role, Role::Answering) {
            return;
        }
        let Some(spans) = spans else {
            // Withdrawn while the answer waited: refused at the time of every refusal.
            tunnel.role = Role::Refusing;
            return;
        };
        tunnel.role =
            Role::Serving { serving: Box::new(Serving::new(root, spans)), assembler: Assembler::default() };
        // Sealed: the friend asks for one of its own friends.
        let sealed = matches!(outgoing, Outgoing::Session { seal: Some(_), .. });
        tunnel.flow = Flow { class: if sealed { Class::Fof } else { Class::Own }, from: 0 };
        open.account.serving += 1;
        open.link.open_tunnel(circ, tunnel.flow, outgoing);
        self.crowd_of(root).sessions += 1;
        self.urgent(now, conn, circ, Command::TunOk, front);
    }

    /// Passes a request on to the friends who published the object for friends of friends, and to those
    /// who asked for it lately; not to whom an earlier request of the same friend went.
    fn pass_on(
        &mut self,
        now: Now,
        asker: FriendKey,
        root: Root,
        request: &TunOpen,
    ) -> Vec<(ConnId, CircId)> {
        let mut others = Vec::new();
        let link = self.friends.get(&asker).and_then(|f| f.link);
        let Some(from) = link.filter(|conn| self.may_relay_more(*conn)) else { return others };
        let publishers = self.catalogue.pointers(asker, &root);
        if publishers.is_empty() {
            return others;
        }
        let known = self.passed_to(from, root);
        let online = |friend: &FriendKey| self.friends.get(friend).is_some_and(|f| f.link.is_some());
        // The first goes to who published it: whoever else asked may answer with anything.
        let mut friends = publishers.clone();
        if !known.is_empty() || !publishers.iter().any(online) {
            let seekers = self.seekers.of(now, &root).into_iter();
            friends.extend(seekers.filter(|friend| *friend != asker && !publishers.contains(friend)));
        }
        // When none of those who published it is there: friends who told of it as a friend's keep copies.
        if !publishers.iter().any(online) {
            let told = self.catalogue.onward(&root).into_iter().filter(|(_, links)| *links == 2);
            let told =
                told.map(|(friend, _)| friend).filter(|friend| *friend != asker && !friends.contains(friend));
            friends.extend(told.collect::<Vec<_>>());
        }
        self.seekers.note(now, root, asker);
        let links = friends.iter().filter_map(|friend| self.friends.get(friend)?.link);
        let links: Vec<ConnId> = links.filter(|link| !known.contains(link)).take(4).collect();
        let flow = Flow { class: Class::Fof, from };
        for next in links {
            let forward = TunOpen { hops_left: request.hops_left.saturating_sub(1), ..request.clone() };
            if let Some(circ) = self.begin_tunnel(now, next, Role::Passed, flow, &forward) {
                others.push((next, circ));
            }
        }
        others
    }

    /// The links that requests of one friend for an object go on through.
    fn passed_to(&mut self, from: ConnId, root: Root) -> Vec<ConnId> {
        let Some(open) = self.open_link(from) else { return Vec::new() };
        let tunnels = open.tunnels.values().filter(|tunnel| tunnel.root == Some(root));
        let next = tunnels.filter_map(|tunnel| match tunnel.role {
            Role::Relaying { other } => Some(other.0),
            _ => None,
        });
        next.collect()
    }

    /// Opens a tunnel on a link and sends the request. `None` when the link has too many.
    pub(super) fn begin_tunnel(
        &mut self,
        now: Now,
        conn: ConnId,
        role: Role,
        flow: Flow,
        request: &TunOpen,
    ) -> Option<CircId> {
        if !self.make_room(now, conn, flow.from) {
            return None;
        }
        let open = self.open_link(conn)?;
        let circ = open.next_circ;
        open.next_circ = open.next_circ.checked_add(2)?;
        open.tunnels.insert(circ, Tunnel::of(role, flow));
        self.urgent(now, conn, circ, Command::TunOpen, request.encode());
        // A link that is stuck was closed just now, and the tunnel with it.
        self.tunnel(conn, circ).map(|_| circ)
    }

    /// Makes room for one more tunnel of this node on a link. When there are as many as may be, the
    /// friend for whom most of them are (or this node itself, 0) gives one up: the newest that has
    /// no answer yet, or else the newest. Nobody gives up anything for somebody with as many.
    fn make_room(&mut self, now: Now, conn: ConnId, from: ConnId) -> bool {
        let share_tunnels = self.budgets.share_tunnels;
        let Some(open) = self.open_link(conn) else { return false };
        let half = open.next_circ % 2;
        let ours = || open.tunnels.iter().filter(|(circ, t)| **circ % 2 == half && t.is_tunnel());
        if ours().count() < MAX_CIRCUITS {
            return true;
        }
        if !share_tunnels {
            return false;
        }
        let mut held: BTreeMap<ConnId, usize> = BTreeMap::from([(from, 1)]);
        ours().for_each(|(_, t)| *held.entry(t.flow.from).or_default() += 1);
        let mine = held.get(&from).copied().unwrap_or_default();
        let Some((most, who)) = held.into_iter().map(|(who, n)| (n, who)).max() else { return false };
        if most <= mine {
            return false;
        }
        let waits = |role: &Role| matches!(role, Role::Passed | Role::Sought { .. } | Role::Asking { .. });
        let theirs = ours().filter(|(_, t)| t.flow.from == who);
        let newest = theirs.max_by_key(|(circ, t)| (waits(&t.role), **circ)).map(|(circ, _)| *circ);
        if let Some(circ) = newest {
            self.end_tunnel(now, conn, circ, true);
        }
        // The link itself may have ended, when it was stuck.
        newest.is_some() && self.open_link(conn).is_some()
    }

    /// The asker's tunnel that waits for this one.
    fn waiting_for(&self, conn: ConnId, circ: CircId) -> Option<(ConnId, CircId)> {
        self.connections.iter().find_map(|(id, c)| {
            let open = c.peek()?;
            let mut waiting = open.tunnels.iter();
            waiting
                .find(|(_, t)| matches!(&t.role, Role::Passing { others, .. } if others.contains(&(conn, circ))))
                .map(|(circ, _)| (*id, *circ))
        })
    }

    /// `TUN_OK` came: for a fetch of this node, or to be passed back.
    fn accepted_by_holder(
        &mut self,
        now: Now,
        conn: ConnId,
        circ: CircId,
        message: Vec<u8>,
    ) -> Result<(), Broken> {
        let Some(tunnel) = self.tunnel(conn, circ) else { return Ok(()) };
        if let Role::Sought { circuit } = &tunnel.role {
            let circuit = *circuit;
            self.sought_answered(now, (conn, circ), circuit, message);
            return Ok(());
        }
        if !matches!(tunnel.role, Role::Asking { .. } | Role::Passed) {
            return Err(Broken);
        }
        match std::mem::replace(&mut tunnel.role, Role::Answering) {
            Role::Asking { fetch, mut noise, sealed } => {
                let session = noise
                    .read(&message)
                    .ok()
                    .filter(|payload| payload.is_empty())
                    .and_then(|_| noise.into_session().ok());
                match session {
                    // Who cannot prove the capability does not hold the object: try elsewhere.
                    None => self.end_tunnel_as(now, conn, circ, true, Some(fetch)),
                    Some(session) => {
                        tunnel_ready(self, conn, circ, fetch, sealed.then_some(session));
                        self.session_ready(now, conn, circ, fetch);
                    }
                }
                Ok(())
            }
            Role::Passed => {
                if let Some(tunnel) = self.tunnel(conn, circ) {
                    tunnel.role = Role::Passed;
                }
                let Some((back, back_circ)) = self.waiting_for(conn, circ) else {
                    // Too late, or somebody else answered first.
                    self.end_tunnel(now, conn, circ, true);
                    return Ok(());
                };
                let front = cell::encode_tun_ok(&message);
                let (locator, own) = match self.tunnel(back, back_circ).map(|t| &t.role) {
                    Some(Role::Passing { locator, own, .. }) => (*locator, *own),
                    _ => ([0; 16], false),
                };
                let friend = self.friend_of(back);
                let mut wait = friend.map_or(Duration::ZERO, |f| self.fixed_delay(&locator, f));
                if own {
                    // It will not be passed on. Whoever answered sees nothing of that until a builder
                    // who chose somebody else could have closed it.
                    wait += Duration::from_millis(self.rng.range(OWN_ANSWER_MS.0, OWN_ANSWER_MS.1));
                }
                let timer = Timer::PassAnswer(back, back_circ, (conn, circ), front);
                self.at(now.at + wait, back, back_circ, timer);
                Ok(())
            }
            _ => Err(Broken),
        }
    }

    /// Counts cells of a friend's link for its owner.
    pub(super) fn count(&mut self, who: Who, cells: u32, which: impl FnOnce(&mut Traffic) -> &mut u64) {
        if let Who::Friend(key) = who
            && let Some(friend) = self.friends.get_mut(&key)
        {
            *which(&mut friend.traffic) += u64::from(cells) * cell::CELL_LEN as u64;
        }
    }

    pub(super) fn friend_of(&self, conn: ConnId) -> Option<FriendKey> {
        match self.connections.get(&conn)?.peek()?.who {
            Who::Friend(key) => Some(key),
            Who::Invite(_) => None,
        }
    }

    /// The first answer wins; the asker's other requests end.
    fn pass_answer(&mut self, now: Now, conn: ConnId, circ: CircId, other: (ConnId, CircId), front: Vec<u8>) {
        // The holder may have gone while the answer was held back.
        if !matches!(self.tunnel(other.0, other.1).map(|t| &t.role), Some(Role::Passed)) {
            return;
        }
        let Some(tunnel) = self.tunnel(conn, circ) else { return };
        let Role::Passing { others, own, .. } = &tunnel.role else { return };
        if *own {
            // The answer to an own request through oneself is never chosen.
            return self.end_tunnel(now, other.0, other.1, true);
        }
        let rest: Vec<(ConnId, CircId)> = others.iter().filter(|o| **o != other).copied().collect();
        tunnel.role = Role::Relaying { other };
        for (c, k) in rest {
            self.end_tunnel(now, c, k, true);
        }
        for (c, k, peer) in [(conn, circ, other), (other.0, other.1, (conn, circ))] {
            if let Some(open) = self.open_link(c)
                && let Some(tunnel) = open.tunnels.get_mut(&k)
            {
                tunnel.role = Role::Relaying { other: peer };
                tunnel.flow = Flow { class: Class::Fof, from: peer.0 };
                open.link.open_tunnel(k, tunnel.flow, Outgoing::Relayed(VecDeque::new()));
            }
        }
        self.urgent(now, conn, circ, Command::TunOk, front);
    }

    fn refused_by_peer(&mut self, now: Now, conn: ConnId, circ: CircId) -> Result<(), Broken> {
        // A relay swallows it: its own refusal leaves at its own time.
        let fetch = match self.tunnel(conn, circ).map(|t| &t.role) {
            Some(Role::Asking { fetch, .. }) => Some(*fetch),
            Some(Role::Passed | Role::Sought { .. }) => None,
            Some(_) => return Err(Broken),
            None => return Ok(()),
        };
        self.end_tunnel_as(now, conn, circ, false, fetch);
        Ok(())
    }

    fn refuse_now(&mut self, now: Now, conn: ConnId, circ: CircId) {
        let others = match self.tunnel(conn, circ).map(|t| &t.role) {
            Some(Role::Refusing | Role::Answering) => Vec::new(),
            Some(Role::Passing { others, .. }) => others.clone(),
            _ => return,
        };
        if let Some(tunnel) = self.open_link(conn).and_then(|open| open.tunnels.remove(&circ)) {
            self.drop_timers(&tunnel);
        }
        for (c, k) in others {
            self.end_tunnel(now, c, k, true);
        }
        self.urgent(now, conn, circ, Command::TunNo, Vec::new());
    }

    // Bytes.

    fn data(&mut self, now: Now, conn: ConnId, circ: CircId, body: &Body) -> Result<(), Broken> {
        let Some(open) = self.open_link(conn) else { return Ok(()) };
        let who = open.who;
        // A tunnel that was just closed from this side may still bring cells.
        let Some(tunnel) = open.tunnels.get_mut(&circ) else {
            open.account.stray_cell(now);
            return Ok(());
        };
        let class = tunnel.flow.class;
        let unpaid = tunnel.window.arrived(now.at)?;
        if let Role::Spliced { circuit, stream } = tunnel.role {
            if unpaid {
                self.owe_for_cell(now, conn, class);
            }
            self.spliced_cell(now, (conn, circ), circuit, stream, body);
            return Ok(());
        }
        if let Role::Relaying { other } = tunnel.role {
            if let Some(next) = self.open_link(other.0) {
                next.link.relay(now.at, other.1, Box::new(*body));
            }
            if unpaid {
                self.owe_for_cell(now, conn, class);
            }
            self.count_relayed(other.0);
            self.shed_relayed(now);
            self.count(who, 1, |t| &mut t.relayed);
            return Ok(());
        }
        let mut messages = Vec::new();
        let mut plain = [0; crate::link::TUNNEL_RECORD_LEN];
        let (Role::Fetching { assembler, .. } | Role::Serving { assembler, .. }) = &mut tunnel.role else {
            return Err(Broken);
        };
        let opened = open.link.open_body(circ, body, &mut plain);
        let fed = opened.and_then(|bytes| Ok(assembler.feed(bytes, &mut messages)?));
        if fed.is_err() {
            // The tunnel's other end may be two links away: this link's peer is not to blame.
            self.end_badly(now, conn, circ);
            return Ok(());
        }
        tunnel.window.consumed(1);
        open.credit_at.get_or_insert(now.at + super::connections::CREDIT_TICK);
        self.count(who, 1, |t| &mut t.received);
        if unpaid {
            self.owe_for_cell(now, conn, class);
        }
        for message in messages {
            self.session_message(now, conn, circ, message);
        }
        Ok(())
    }

    fn session_message(&mut self, now: Now, conn: ConnId, circ: CircId, message: Message) {
        let fetch = match self.tunnel(conn, circ).map(|t| &t.role) {
            Some(Role::Fetching { fetch, .. }) => Some(*fetch),
            Some(Role::Serving { .. }) => None,
            _ => return,
        };
        if let Some(fetch) = fetch {
            self.fetch_message(now, conn, circ, fetch, message);
        } else if self.serve(now, conn, circ, message).is_err() {
            self.end_badly(now, conn, circ);
        }
    }

    /// Ends the sessions of those who may no longer have an object.
    pub(super) fn end_unshared(&mut self, now: Now, root: Root) {
        let mut ended = Vec::new();
        for (conn, connection) in &self.connections {
            let Some(open) = connection.peek() else { continue };
            let Who::Friend(key) = open.who else { continue };
            let serves =
                |t: &Tunnel| matches!(&t.role, Role::Serving { serving, .. } if serving.root == root);
            if !self.serves(key, &root) {
                let mine = open.tunnels.iter().filter(|(_, t)| serves(t));
                ended.extend(mine.map(|(circ, _)| (*conn, *circ)));
            }
        }
        ended.into_iter().for_each(|(conn, circ)| self.end_tunnel(now, conn, circ, true));
        self.end_unshared_circuits(now, root);
    }

    /// The other end of a session broke the rules: the tunnel ends, and a source that did it is
    /// not asked again.
    pub(super) fn end_badly(&mut self, now: Now, conn: ConnId, circ: CircId) {
        if conn & OWN != 0
            && let Some(fetch) = self.own_stream_fetch(conn & !OWN, circ)
        {
            self.session_gone(now, conn, circ, fetch, Gone::Lied);
        }
        if let Some(Role::Fetching { fetch, .. }) = self.tunnel(conn, circ).map(|t| &t.role) {
            let fetch = *fetch;
            self.session_gone(now, conn, circ, fetch, Gone::Lied);
        }
        self.end_tunnel(now, conn, circ, true);
    }

    /// Sends a message of a session, whichever way it goes.
    pub(super) fn say(&mut self, now: Now, conn: ConnId, circ: CircId, message: Message) {
        if conn & OWN != 0 {
            return self.own_say(now, conn & !OWN, circ as StreamId, message);
        }
        if self.tunnel(conn, circ).is_some_and(|t| matches!(t.role, Role::CircuitIn(_))) {
            return self.say_here(now, (conn, circ), message);
        }
        if let Some(open) = self.open_link(conn) {
            open.link.with_queue(circ, |queue| message.push_to(queue));
        }
    }

    /// Cells of a tunnel left on a link: whoever filled it can go on.
    pub(super) fn cells_left(&mut self, now: Now, conn: ConnId, left: Left) {
        let Left { circ, cells, delay } = left;
        let delays = self.budgets.delays;
        let Some(open) = self.open_link(conn) else { return };
        let who = open.who;
        match open.tunnels.get(&circ).map(|t| &t.role) {
            Some(Role::Relaying { other }) => {
                let other = *other;
                if let Some(open) = self.open_link(other.0)
                    && let Some(tunnel) = open.tunnels.get_mut(&other.1)
                {
                    tunnel.window.consumed(cells);
                    tunnel.window.waited(delay, delays);
                    open.credit_at.get_or_insert(now.at + super::connections::CREDIT_TICK);
                }
            }
            Some(Role::CircuitIn(_) | Role::CircuitOut { .. } | Role::Spliced { .. }) => {
                self.circuit_cells_left(now, (conn, circ), cells, delay);
            }
            Some(role) => {
                let serving = matches!(role, Role::Serving { .. });
                self.count(who, cells, |t| &mut t.sent);
                if serving {
                    self.serve_more(now, conn, circ);
                }
            }
            None => {}
        }
    }

    // Ends.

    /// Ends a tunnel; the other side of a relay ends with it. `tell`: the peer does not know yet.
    pub(super) fn end_tunnel(&mut self, now: Now, conn: ConnId, circ: CircId, tell: bool) {
        self.end_tunnel_as(now, conn, circ, tell, None);
    }

    fn end_tunnel_as(&mut self, now: Now, conn: ConnId, circ: CircId, tell: bool, asked_by: Option<FetchId>) {
        if conn & OWN != 0 {
            return self.end_own_stream(now, conn & !OWN, circ as StreamId);
        }
        let Some(open) = self.open_link(conn) else { return };
        let Some(tunnel) = open.tunnels.remove(&circ) else { return };
        open.link.close_tunnel(circ);
        self.count_relayed(conn);
        self.close_account(conn, &tunnel);
        self.drop_timers(&tunnel);
        if tell {
            self.urgent(now, conn, circ, Command::Destroy, Vec::new());
        }
        self.tunnel_ended(now, conn, circ, tunnel.role, asked_by);
    }

    fn tunnel_ended(&mut self, now: Now, conn: ConnId, circ: CircId, role: Role, asked_by: Option<FetchId>) {
        match role {
            Role::Relaying { other } => self.end_tunnel(now, other.0, other.1, true),
            Role::Passing { others, .. } => {
                for (c, k) in others {
                    self.end_tunnel(now, c, k, true);
                }
            }
            Role::Asking { fetch, .. } | Role::Fetching { fetch, .. } => {
                self.session_gone(now, conn, circ, fetch, Gone::Lost);
            }
            Role::Answering => {
                if let Some(fetch) = asked_by {
                    self.session_gone(now, conn, circ, fetch, Gone::Lied);
                }
            }
            Role::Passed => self.no_longer_passed(conn, circ),
            Role::Serving { serving, .. } => self.serving_over(now, (conn, circ), &serving),
            Role::CircuitIn(circuit) => self.circuit_gone(now, (conn, circ), *circuit),
            Role::CircuitOut { circuit } => self.circuit_out_gone(now, (conn, circ), circuit),
            Role::Origin { own } => self.own_lost(now, own),
            Role::Sought { circuit } => self.sought_gone((conn, circ), circuit),
            Role::Spliced { circuit, stream } => self.spliced_gone(now, circuit, stream),
            Role::Refusing | Role::Ending => {}
        }
    }

    /// A friend who was asked on somebody's behalf has gone: without others the refusal is all that
    /// is left, at its own time.
    fn no_longer_passed(&mut self, conn: ConnId, circ: CircId) {
        let Some((back, back_circ)) = self.waiting_for(conn, circ) else { return };
        let Some(tunnel) = self.tunnel(back, back_circ) else { return };
        if let Role::Passing { others, .. } = &mut tunnel.role {
            others.retain(|o| *o != (conn, circ));
            if others.is_empty() {
                tunnel.role = Role::Refusing;
            }
        }
    }

    pub(super) fn tunnels_lost(&mut self, now: Now, conn: ConnId, tunnels: BTreeMap<CircId, Tunnel>) {
        for (circ, tunnel) in tunnels {
            self.drop_timers(&tunnel);
            self.tunnel_ended(now, conn, circ, tunnel.role, None);
        }
    }

    /// First message and request of a tunnel to an object.
    pub(super) fn request(&mut self, now: Now, cap: &VerifyCap, links: u8) -> Option<(TunOpen, Handshake)> {
        let psk = cap.tunnel_psk();
        let mut noise = Handshake::initiate(Pattern::Tunnel, &psk, TUNNEL_PROLOGUE, &mut self.rng).ok()?;
        let message = noise.write(&[]).ok()?;
        let request = TunOpen {
            locator: cap.locator().at_hour(self.common_time(now).hour()),
            hops_left: links.saturating_sub(1),
            sealed: links > 1,
            spreads: false,
            nonce: self.rng.bytes(),
            message,
        };
        Some((request, noise))
    }
}

fn tunnel_ready(core: &mut Core, conn: ConnId, circ: CircId, fetch: FetchId, seal: Option<Session>) {
    if let Some(open) = core.open_link(conn) {
        if let Some(tunnel) = open.tunnels.get_mut(&circ) {
            tunnel.role = Role::Fetching { fetch, assembler: Assembler::default() };
        }
        open.link.open_tunnel(circ, Flow::default(), Outgoing::Session { queue: ByteQueue::default(), seal });
    }
}
