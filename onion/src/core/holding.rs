//! What is held here, whole or in parts, and how others are served from it.

use super::connections::Connection;
use super::relaying::At;
use super::*;
use crate::fetch;
use crate::link::Broken;
use crate::schedule::Class;
use crate::serving::{Crowd, MAX_WANTED, ReadAnswer, SERVE_AHEAD, Serving};
use crate::session::{Have, MAX_POSITIONS, Message, Spans, Want};
use crate::tunnel::{Role, Tunnel};
use kith_crypto::content::SEALED_LEN;

/// Objects for which friends who asked are remembered, and friends for each.
const MAX_SOUGHT: usize = 256;
const MAX_SEEKERS: usize = 16;
/// For so long after they asked.
const SEEKER_LIFE: Duration = Duration::from_secs(3600);

/// An object of which something is stored.
#[derive(Debug)]
pub(crate) struct Held {
    cap: VerifyCap,
    geometry: Geometry,
    /// What is here, if not all, when nobody fetches the rest.
    parts: Option<fetch::Parts>,
}

impl Held {
    pub(super) const fn is_whole(&self) -> bool {
        self.parts.is_none()
    }
}

/// Something that can be served from.
pub(super) enum Holding<'a> {
    Held(&'a Held),
    Fetch(&'a Fetch, Geometry),
}

impl Holding<'_> {
    pub(super) fn cap(&self) -> &VerifyCap {
        match self {
            Self::Held(held) => &held.cap,
            Self::Fetch(fetch, _) => fetch.cap(),
        }
    }

    pub(super) fn has(&self, position: Position) -> bool {
        match self {
            Self::Held(Held { geometry, parts, .. }) => geometry
                .slot(position)
                .is_some_and(|slot| parts.as_ref().is_none_or(|parts| parts.have.has(slot))),
            Self::Fetch(fetch, _) => fetch.has(position),
        }
    }

    /// Spans that are here; `None` is all.
    fn spans(&self) -> Option<&[u32]> {
        match self {
            Self::Held(held) => held.parts.as_ref().map(|parts| parts.spans.as_slice()),
            Self::Fetch(fetch, _) => Some(fetch.spans()),
        }
    }

    /// All that there are.
    pub(super) fn all_spans(&self) -> Spans {
        match self {
            Self::Held(Held { geometry, .. }) | Self::Fetch(_, geometry) => Spans::of(*geometry),
        }
    }
}

/// Friends who asked this node to pass requests on: in `fast` they serve what they have got so far.
#[derive(Debug, Default)]
pub(crate) struct Seekers(BTreeMap<Root, Vec<(FriendKey, Duration)>>);

impl Seekers {
    /// A friend asks.
    pub(super) fn note(&mut self, now: Now, root: Root, friend: FriendKey) {
        if !self.0.contains_key(&root) && self.0.len() >= MAX_SOUGHT {
            let last = |seekers: &Vec<(FriendKey, Duration)>| seekers.iter().map(|(_, at)| *at).max();
            let oldest = self.0.iter().min_by_key(|(_, seekers)| last(seekers)).map(|(root, _)| *root);
            oldest.into_iter().for_each(|root| drop(self.0.remove(&root)));
        }
        let seekers = self.0.entry(root).or_default();
        seekers.retain(|(other, at)| *other != friend && now.at.saturating_sub(*at) < SEEKER_LIFE);
        if seekers.len() >= MAX_SEEKERS {
            seekers.remove(0);
        }
        seekers.push((friend, now.at));
    }

    /// Who asked for an object, the latest first.
    pub(super) fn of(&self, now: Now, root: &Root) -> Vec<FriendKey> {
        let seekers = self.0.get(root).into_iter().flatten().rev();
        seekers.filter(|(_, at)| now.at.saturating_sub(*at) < SEEKER_LIFE).map(|(key, _)| *key).collect()
    }
}

impl Core {
    // Holdings.

    /// A complete object is stored here and may be served to its audience.
    pub fn hold(&mut self, now: Now, cap: VerifyCap, geometry: Geometry) {
        let root = cap.root;
        self.held.insert(root, Held { cap, geometry, parts: None });
        self.tell_spans(now, root);
    }

    /// An object is no longer stored here.
    pub fn release(&mut self, root: &Root) {
        self.held.remove(root);
        self.kept.remove(root);
    }

    /// A fetch has ended: what it brought is held, until somebody wants the rest.
    pub(super) fn keep_parts(&mut self, fetch: Fetch) {
        if let Some((cap, geometry, parts)) = fetch.into_parts() {
            self.held.entry(cap.root).or_insert(Held { cap, geometry, parts: Some(parts) });
        }
    }

    /// Parts that are being completed again are the fetch's.
    pub(super) fn take_parts(&mut self, root: &Root) {
        if self.held.get(root).is_some_and(|held| !held.is_whole()) {
            self.held.remove(root);
        }
    }

    /// What can be served of an object.
    pub(super) fn holding(&self, root: &Root) -> Option<Holding<'_>> {
        if let Some(held) = self.held.get(root) {
            return Some(Holding::Held(held));
        }
        // What comes through circuits is nobody's business.
        let shown = self.fetches.values().filter(|state| state.asks_friends()).map(|state| &state.fetch);
        let of_root = |f: &&Fetch| f.cap().root == *root && !f.is_look();
        shown.filter(of_root).find_map(|f| Some(Holding::Fetch(f, f.geometry()?)))
    }

    /// Whether somebody can be served: parts only in `fast`, where they show what is being watched, and as
    /// soon as there is something to give.
    pub(super) fn holds(&self, root: &Root) -> bool {
        let parts = self.circuits.privacy == Privacy::Fast;
        let has = |spans: Option<&[u32]>| spans.is_none_or(|spans| parts && !spans.is_empty());
        self.holding(root).is_some_and(|holding| has(holding.spans()))
    }

    /// Whether all of it is here.
    pub(super) fn holds_all(&self, root: &Root) -> bool {
        self.held.get(root).is_some_and(Held::is_whole)
    }

    /// Ends the sessions in which parts are served.
    pub(super) fn end_parts(&mut self, now: Now) {
        let mut ended = Vec::new();
        for (conn, connection) in &mut self.connections {
            let Some(open) = connection.open() else { continue };
            let tunnels = open.tunnels.iter_mut();
            let parts =
                tunnels.filter_map(|(circ, t)| t.serving().filter(|s| s.told.is_some()).map(|_| *circ));
            ended.extend(parts.map(|circ| (*conn, circ)));
        }
        ended.into_iter().for_each(|(conn, circ)| self.end_tunnel(now, conn, circ, true));
    }

    pub(super) fn spans_of(&self, root: &Root) -> Option<Spans> {
        self.holding(root).map(|holding| holding.all_spans())
    }

    pub(super) fn crowd_of(&mut self, root: Root) -> &mut Crowd<At> {
        self.crowds.entry(root).or_default()
    }

    /// What is said to who asks, and how many spans that names.
    fn have_of(&self, root: &Root) -> (Have, Option<usize>) {
        let Some(holding) = self.holding(root) else { return (Have::Spans(Vec::new()), Some(0)) };
        let Some(spans) = holding.spans() else { return (Have::All, None) };
        (Have::Spans(holding.all_spans().map(spans)), Some(spans.len()))
    }

    /// Tells who is served parts of an object what has come since.
    pub(super) fn tell_spans(&mut self, now: Now, root: Root) {
        let known = self.crowds.contains_key(&root);
        let Some(holding) = self.holding(&root).filter(|_| known) else { return };
        let spans = holding.spans().map(<[u32]>::to_vec);
        let mut news = Vec::new();
        for (conn, connection) in &mut self.connections {
            let Some(open) = connection.open() else { continue };
            for (circ, tunnel) in &mut open.tunnels {
                let Some(serving) = tunnel.serving().filter(|s| s.root == root && s.started) else {
                    continue;
                };
                let Some(told) = serving.told else { continue };
                let Some(spans) = &spans else {
                    serving.told = None;
                    news.push((*conn, *circ, Message::Have(Have::All)));
                    continue;
                };
                serving.told = Some(spans.len());
                let new = spans.get(told..).unwrap_or_default().chunks(MAX_POSITIONS);
                news.extend(new.map(|some| (*conn, *circ, Message::More(some.to_vec()))));
            }
        }
        news.into_iter().for_each(|(conn, circ, message)| self.say(now, conn, circ, message));
    }

    // Serving.

    pub(super) fn serve(
        &mut self,
        now: Now,
        conn: ConnId,
        circ: CircId,
        message: Message,
    ) -> Result<(), Broken> {
        let open = self.connections.get_mut(&conn).and_then(Connection::open);
        let Some(open) = open else { return Ok(()) };
        let Some(serving) = open.tunnels.get_mut(&circ).and_then(Tunnel::serving) else { return Ok(()) };
        // A request is paid back with each block that it brings.
        open.account.charge(now, 1);
        match message {
            Message::Start { resume, first, count } => {
                if count > 64 || std::mem::replace(&mut serving.started, true) {
                    return Err(Broken);
                }
                let root = serving.root;
                let (have, told) = self.have_of(&root);
                if let Some(serving) = self.tunnel(conn, circ).and_then(Tunnel::serving) {
                    serving.told = told;
                }
                self.say(now, conn, circ, Message::Have(have));
                if !resume {
                    let burst = fetch::burst(u64::from(first), count);
                    let burst = burst.map(|position| Want { position, deadline_ms: 0 }).collect();
                    self.take_wants(now, conn, circ, burst)?;
                    self.tunnel(conn, circ).and_then(Tunnel::serving).into_iter().for_each(Serving::is_burst);
                }
            }
            Message::Want(wants) => self.take_wants(now, conn, circ, wants)?,
            Message::Cancel(positions) => serving.cancel(&positions),
            Message::Bye => {
                self.end_tunnel(now, conn, circ, true);
                return Ok(());
            }
            Message::Have(_)
            | Message::More(_)
            | Message::Later(_)
            | Message::Block(..)
            | Message::Lack(_)
            | Message::Busy(_) => return Err(Broken),
        }
        self.serve_more(now, conn, circ);
        Ok(())
    }

    fn take_wants(&mut self, now: Now, conn: ConnId, circ: CircId, wants: Vec<Want>) -> Result<(), Broken> {
        let Self { connections, held, crowds, .. } = self;
        let open = connections.get_mut(&conn).and_then(Connection::open);
        let serving = open.and_then(|open| open.tunnels.get_mut(&circ)).and_then(Tunnel::serving);
        let Some(serving) = serving else { return Ok(()) };
        let whole = held.get(&serving.root).is_some_and(Held::is_whole);
        let crowd = crowds.get(&serving.root).and_then(|crowd| crowd.of_all(whole));
        let mut answers = Vec::new();
        for want in wants {
            match want.position {
                // What the object does not have waits for nothing.
                Position::Data(index) if !serving.spans.contains(index) => {
                    answers.push(Message::Lack(want.position));
                }
                _ => serving.want(now.at, want),
            }
        }
        answers.extend(serving.put_off(now.at, crowd).into_iter().map(Message::Later));
        if serving.waiting() > MAX_WANTED {
            return Err(Broken);
        }
        answers.into_iter().for_each(|answer| self.say(now, conn, circ, answer));
        Ok(())
    }

    /// Reads ahead while little waits on the tunnel, so that memory stays bounded whatever is asked:
    /// a friend's sessions share what is read for one friend, and all friends what is read in all.
    pub(super) fn serve_more(&mut self, now: Now, conn: ConnId, circ: CircId) {
        while self.serve_one(now, conn, circ, false) {}
        // The end of a block shares its cell with the next one.
        let Some(serving) = self.tunnel(conn, circ).and_then(Tunnel::serving) else { return };
        let more = !serving.reading.is_empty();
        if self.tunnel(conn, circ).is_some_and(|tunnel| matches!(tunnel.role, Role::CircuitIn(_))) {
            self.more_here(now, (conn, circ), more);
        } else if let Some(open) = self.open_link(conn) {
            open.link.set_more(circ, more);
        }
    }

    /// Reads one block ahead, if there is room. `turn`: it has waited for its turn.
    fn serve_one(&mut self, now: Now, conn: ConnId, circ: CircId, turn: bool) -> bool {
        let waits_here = self.waiting_here((conn, circ));
        let (per_friend, in_all) = self.budgets.serving;
        let Self { connections, serving: all, serve_queue, giving_way, crowds, held, .. } = self;
        let Some(open) = connections.get_mut(&conn).and_then(Connection::open) else { return false };
        let waiting = open.link.waiting(circ).max(waits_here);
        let Some(tunnel) = open.tunnels.get_mut(&circ) else { return false };
        let class = tunnel.flow.class;
        let Some(serving) = tunnel.serving() else { return false };
        let ahead = waiting + serving.reading.len() * SEALED_LEN;
        let before = std::mem::replace(&mut serving.counted, ahead);
        *all = (*all + ahead).saturating_sub(before);
        let root = serving.root;
        let crowd = crowds.entry(root).or_default();
        crowd.gate.note(now.at, (conn, circ), ahead);
        let most =
            SERVE_AHEAD.min(per_friend / open.account.serving.max(1)).min(crowd.gate.ahead(crowd.sessions));
        if serving.waiting() == 0 || (ahead > 0 && ahead + SEALED_LEN > most) {
            return false;
        }
        // A friend who watches one thing gets that before the other that nobody waits for.
        if class == Class::Own {
            match serving.watched_until(now.at) {
                Some(until) => open.account.watched_until = until,
                None => {
                    if let Some(until) = serving.gives_way_until(now.at, open.account.watched_until) {
                        giving_way.insert((conn, circ), until);
                        return false;
                    }
                }
            }
        }
        if *all + SEALED_LEN > in_all || (!turn && !serve_queue.is_empty()) {
            if !std::mem::replace(&mut serving.queued, true) {
                serve_queue.push_back((conn, circ));
            }
            return false;
        }
        // Where the owner limits what leaves, friends share that by the rules of limits.
        let by_turn = self.rates.up.is_none();
        if by_turn
            && (!crowd.gate.is_open((conn, circ))
                || (!turn && crowd.waiting.iter().any(|other| *other != (conn, circ))))
        {
            crowd.waiting.insert((conn, circ));
            return false;
        }
        // Who holds parts of it serves by deadline alone.
        let whole = held.get(&root).is_some_and(Held::is_whole);
        // Others may have been given it since it was asked for.
        let later = serving.put_off(now.at, crowd.of_all(whole));
        let next = serving.next_wanted(now.at, crowd.of_all_mut(whole));
        serving.reading.extend(next.map(|position| (position, None)));
        later.into_iter().for_each(|position| self.say(now, conn, circ, Message::Later(position)));
        let Some(position) = next else { return false };
        if self.holding(&root).is_some_and(|holding| holding.has(position)) {
            let crowd = self.crowds.entry(root).or_default();
            crowd.gate.note(now.at, (conn, circ), ahead + SEALED_LEN);
            self.outputs.push_back(Output::Read(conn, circ, root, position));
        } else {
            self.answer_read(now, conn, circ, position, None);
        }
        true
    }

    /// Sessions that waited go on, each a block in its turn.
    pub(super) fn serve_waiting(&mut self, now: Now) {
        for _ in 0..self.serve_queue.len() {
            if self.serving + SEALED_LEN > self.budgets.serving.1 {
                break;
            }
            let Some((conn, circ)) = self.serve_queue.pop_front() else { break };
            if let Some(serving) = self.tunnel(conn, circ).and_then(Tunnel::serving) {
                serving.queued = false;
                if self.serve_one(now, conn, circ, true) {
                    self.serve_one(now, conn, circ, false);
                }
            }
        }
        let crowded = self.crowds.iter().filter(|(_, crowd)| !crowd.waiting.is_empty());
        for root in crowded.map(|(root, _)| *root).collect::<Vec<_>>() {
            self.serve_crowd(now, root);
        }
    }

    /// Those of one object's sessions whose turn it is.
    fn serve_crowd(&mut self, now: Now, root: Root) {
        let waiting = self.crowds.get(&root).map_or(0, |crowd| crowd.waiting.len());
        for _ in 0..waiting {
            let Self { connections, crowds, held, rates, .. } = self;
            let by_turn = rates.up.is_none();
            let Some(crowd) = crowds.get_mut(&root) else { return };
            if by_turn && !crowd.gate.has_room() && crowd.waiting.len() > 1 {
                return;
            }
            let whole = held.get(&root).is_some_and(Held::is_whole);
            let cycle = crowd.gate.cycle(crowd.waiting.len());
            let turn = |at: &At| {
                let open = connections.get_mut(&at.0).and_then(Connection::open)?;
                let serving = open.tunnels.get_mut(&at.1).and_then(Tunnel::serving)?;
                serving.next_turn(now.at, crowd.of_all(whole), cycle)
            };
            // Those that want nothing any more are first, and so are gone.
            let Some(next) = crowd.waiting.iter().copied().min_by_key(turn) else { return };
            if by_turn && !crowd.gate.is_open(next) {
                return;
            }
            crowd.waiting.remove(&next);
            if self.serve_one(now, next.0, next.1, true) {
                self.serve_one(now, next.0, next.1, false);
            }
        }
    }

    /// What is on its way out may have got stuck.
    pub(super) fn look_at_gates(&mut self, now: Now) {
        self.crowds.values_mut().for_each(|crowd| crowd.gate.expire(now.at));
        self.serve_waiting(now);
        let due: Vec<At> = self.giving_way.extract_if(.., |_, until| *until <= now.at).map(|e| e.0).collect();
        due.into_iter().for_each(|(conn, circ)| self.serve_more(now, conn, circ));
    }

    pub(super) fn next_gate_step(&self) -> Option<Duration> {
        let crowded = self.crowds.values().filter(|crowd| !crowd.waiting.is_empty());
        let gate = crowded.filter_map(|crowd| crowd.gate.poll_timeout()).min();
        earliest(gate, self.giving_way.values().min().copied())
    }

    /// Storage answered [`Output::Read`]; `None` when the block cannot be read.
    /// Answers may come in any order.
    pub fn block_read(
        &mut self,
        now: Now,
        conn: ConnId,
        circ: CircId,
        position: Position,
        block: Option<Vec<u8>>,
    ) {
        self.answer_read(now, conn, circ, position, block);
        self.serve_more(now, conn, circ);
    }

    fn answer_read(&mut self, now: Now, conn: ConnId, circ: CircId, position: Position, answer: ReadAnswer) {
        let Some(serving) = self.tunnel(conn, circ).and_then(Tunnel::serving) else { return };
        for (position, answer) in serving.read(position, answer) {
            let message = match answer {
                Some(bytes) => {
                    self.open_link(conn).into_iter().for_each(|open| open.account.earn(1.0));
                    Message::Block(position, bytes)
                }
                None => Message::Lack(position),
            };
            self.say(now, conn, circ, message);
        }
    }

    /// A session that was served is over.
    pub(super) fn serving_over(&mut self, now: Now, at: At, serving: &Serving) {
        self.serving = self.serving.saturating_sub(serving.counted);
        if let Some(crowd) = self.crowds.get_mut(&serving.root) {
            crowd.sessions = crowd.sessions.saturating_sub(1);
            crowd.gate.forget(now.at, at);
            crowd.waiting.remove(&at);
            if crowd.sessions == 0 {
                self.crowds.remove(&serving.root);
            }
        }
        if serving.queued {
            self.serve_queue.retain(|waiting| *waiting != at);
        }
        self.giving_way.remove(&at);
        if let Some(open) = self.open_link(at.0) {
            open.account.serving = open.account.serving.saturating_sub(1);
        }
    }
}
