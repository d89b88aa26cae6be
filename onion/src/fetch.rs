//! The decisions of one fetch: which blocks to ask for next, from which session, and what to do
//! with what comes. Blocks leave here only verified.
//!
//! What a reader needs soon is asked for by its deadline, the rest rarest first; whom each block is
//! asked of is decided in `pick`. Invariants: at most [`MAX_UNDER_WAY`] blocks are on their way or not yet
//! written, whatever the object's size; a block is asked of two sessions at most. Opening tunnels and
//! finding holders is the core's work.

#[cfg(test)]
mod chaos;
mod pick;
mod session;
mod slots;
#[cfg(test)]
mod tests;

pub use pick::Place;
pub use slots::Slots;

use crate::session::{MAX_POSITIONS, Message, Spans, WHOLE_DUE, Want};
use kith_crypto::content::{Geometry, Position, Tree, TreeError, VerifiedBlock, VerifyCap};
use pick::{Pick, Reader};
use session::{CROWD_DEPTH, Has, Session, has_span};
use std::collections::BTreeMap;
use std::time::Duration;

/// With so many blocks not yet written nothing more is asked for (3 MiB).
pub const MAX_UNWRITTEN: usize = 48;
/// Blocks on their way and not yet written, in all (10 MiB).
pub const MAX_UNDER_WAY: usize = 160;
/// The same when they come through a circuit: much is on its way there (20 MiB).
pub const MAX_UNWRITTEN_ONION: usize = 320;
/// Data blocks asked for with the first request of a fetch.
const FIRST_BURST: u16 = 4;
/// A session that owes blocks and brings none for so long is given up.
pub const SESSION_STALL: Duration = Duration::from_secs(10);

/// One block may take so long, and not longer, whatever else comes meanwhile.
pub const BLOCK_STALL: Duration = Duration::from_secs(60);
/// The root is asked of a second session when the first has not brought it for so long.
const ROOT_AGAIN: Duration = Duration::from_millis(800);

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// The holder broke the protocol or lied: this source is not asked again.
    Lied,
    /// The holder cannot go on: it may be asked again later.
    Gone,
}

/// Names a session: `(connection, tunnel)`.
pub type SessionId = (u32, u32);

/// Whom a block was asked of.
#[derive(Clone, Copy, Debug)]
struct Asked {
    first: SessionId,
    second: Option<SessionId>,
    at: Duration,
}

impl Asked {
    fn is_of(&self, id: SessionId) -> bool {
        self.first == id || self.second == Some(id)
    }
}

/// What came of an object of which something is missing.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) have: Slots,
    /// Spans that are here whole, in the order in which they came.
    pub(crate) spans: Vec<u32>,
}

/// What a fetch tells its owner.
#[derive(Debug)]
pub enum Progress {
    /// The root is verified: the object's shape is known, storage can be made.
    Root(VerifiedBlock, Geometry),
    /// A block to write.
    Block(VerifiedBlock),
}

/// Blocks that came, by what they were good for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Verified and new.
    pub useful: u64,
    /// Here already.
    pub wasted: u64,
}

/// One object being fetched.
#[derive(Debug)]
pub struct Fetch {
    cap: VerifyCap,
    tree: Option<Tree>,
    have: Slots,
    /// Spans that are here whole, in the order in which they were completed.
    spans: Vec<u32>,
    asked: BTreeMap<Position, Asked>,
    sessions: BTreeMap<SessionId, Session>,
    unwritten: usize,
    /// The one that moved last at the end.
    readers: Vec<Reader>,
    /// Where the last reader stood when it left.
    last_place: Option<Place>,
    /// When a reader moved last, or the fetch began.
    moved_at: Option<Duration>,
    /// Somebody waits for all of it: nothing is held back.
    whole: bool,
    /// Nothing is asked for: only who has it is of interest.
    looks: bool,
    /// Blocks that may be asked for ahead of readers, and as of when.
    ahead: (f64, Duration),
    cursor: u64,
    /// Decides among equals, differently in each fetch.
    seed: u64,
    picks: u64,
    /// Time alone may change what is to be asked for.
    look_at: Option<Duration>,
    received: Received,
    rules: Rules,
}

/// Rules of picking that simulations switch off one by one, to see what each is good for. Every node
/// keeps all of them.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// What is due soon comes first.
    pub by_deadline: bool,
    /// What is not due soon comes rarest first, and not in order.
    pub rarest: bool,
    /// Holders of parts are asked before complete ones.
    pub parts_first: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self { by_deadline: true, rarest: true, parts_first: true }
    }
}

impl Fetch {
    /// A fetch that starts from nothing.
    pub fn new(cap: VerifyCap) -> Self {
        Self {
            cap,
            tree: None,
            have: Slots::default(),
            spans: Vec::new(),
            asked: BTreeMap::new(),
            sessions: BTreeMap::new(),
            unwritten: 0,
            readers: Vec::new(),
            last_place: None,
            moved_at: None,
            whole: true,
            looks: false,
            ahead: (0.0, Duration::ZERO),
            cursor: 0,
            seed: 0,
            picks: 0,
            look_at: None,
            received: Received::default(),
            rules: Rules::default(),
        }
    }

    /// A fetch that continues: `sealed_root` is the stored root, `have` says what is stored.
    pub fn resume(
        cap: VerifyCap,
        sealed_root: Vec<u8>,
        have: impl Fn(Position) -> bool,
    ) -> Result<Self, TreeError> {
        let (tree, _) = Tree::open(&cap, sealed_root)?;
        let mut fetch = Self::new(cap);
        let geometry = tree.geometry();
        fetch.have = Slots::new(geometry.total());
        for position in positions(geometry).filter(|p| have(*p)) {
            if let Some(slot) = geometry.slot(position) {
                fetch.have.set(slot, true);
            }
        }
        fetch.tree = Some(tree);
        let spans = (0..Spans::of(geometry).count()).filter(|span| fetch.is_whole(geometry, *span));
        fetch.spans = spans.map(|span| span as u32).collect();
        Ok(fetch)
    }

    #[doc(hidden)]
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// Decides among equals.
    pub fn set_seed(&mut self, seed: u64) {
        self.seed = seed;
    }

    /// What opens and asks for the object.
    pub const fn cap(&self) -> &VerifyCap {
        &self.cap
    }

    /// Shape of the object, once known.
    pub fn geometry(&self) -> Option<Geometry> {
        self.tree.as_ref().map(Tree::geometry)
    }

    /// Blocks verified so far.
    pub const fn have_count(&self) -> u64 {
        self.have.count()
    }

    /// Whether a block is verified, and written or about to be.
    pub fn has(&self, position: Position) -> bool {
        self.geometry().and_then(|g| g.slot(position)).is_some_and(|slot| self.have.has(slot))
    }

    /// Everything is here and written.
    pub fn is_complete(&self) -> bool {
        self.unwritten == 0 && self.geometry().is_some_and(|g| self.have.count() == g.total())
    }

    /// Blocks that are on their way.
    pub fn asked_count(&self) -> usize {
        self.asked.len()
    }

    /// What came so far.
    pub const fn received(&self) -> Received {
        self.received
    }

    /// [`Spans`] that are here whole, in the order in which they came.
    pub fn spans(&self) -> &[u32] {
        &self.spans
    }

    /// What is left of it when it ends; `None` if not even the root came.
    pub(crate) fn into_parts(self) -> Option<(VerifyCap, Geometry, Parts)> {
        let geometry = self.geometry()?;
        Some((self.cap, geometry, Parts { have: self.have, spans: self.spans }))
    }

    /// The same as a map of bits.
    pub fn span_map(&self) -> Vec<u8> {
        self.geometry().map(Spans::of).map_or_else(Vec::new, |spans| spans.map(&self.spans))
    }

    /// Whether somebody waits for all of it. If not, no more is asked for than readers need soon, and
    /// ahead of them at a few times their pace.
    pub fn set_whole(&mut self, now: Duration, whole: bool) {
        self.whole = whole;
        self.moved_at.get_or_insert(now);
    }

    /// Asks for nothing but the root: who has the object is all that is to be found out.
    pub const fn only_look(&mut self) {
        self.looks = true;
    }

    /// Whether only that is to be found out.
    pub const fn is_look(&self) -> bool {
        self.looks
    }

    /// The owner has written a block.
    pub fn written(&mut self) {
        self.unwritten = self.unwritten.saturating_sub(1);
    }

    /// A session to a holder stands: what to send first.
    pub fn session_opened(&mut self, now: Duration, id: SessionId) -> Message {
        let spans = self.geometry().map(Spans::of);
        self.sessions.insert(id, Session::new(now, spans));
        self.moved_at.get_or_insert(now);
        let first = self.first_missing().unwrap_or(0);
        // Who comes second is asked for what the first brings too late.
        let resume = self.looks || self.tree.is_some() || self.asked.contains_key(&Position::Root);
        if !resume {
            // What the object turns out not to have is answered with a lack.
            burst(first, FIRST_BURST).for_each(|p| self.owe(now, id, p, Some(Duration::ZERO)));
        }
        Message::Start { resume, first: first as u32, count: if resume { 0 } else { FIRST_BURST } }
    }

    /// A session asks at times of its own; this is one of them. What came since the last says how fast
    /// the path is.
    pub fn ticked(&mut self, now: Duration, id: SessionId) {
        self.sessions.get_mut(&id).into_iter().for_each(|session| session.ticked(now));
    }

    fn owe(&mut self, now: Duration, id: SessionId, position: Position, due: Option<Duration>) {
        let asked = self.asked.entry(position).or_insert(Asked { first: id, second: None, at: now });
        if asked.first != id {
            asked.second = Some(id);
        }
        self.sessions.get_mut(&id).into_iter().for_each(|session| session.owe(now, position, due));
    }

    /// A session ended: what it owed is asked elsewhere.
    pub fn session_closed(&mut self, id: SessionId) {
        self.sessions.remove(&id);
        self.asked.retain(|_, asked| asked.drop(id));
    }

    /// Sessions that stand.
    pub fn session_ids(&self) -> Vec<SessionId> {
        self.sessions.keys().copied().collect()
    }

    /// Whether a session's holder has said that it has all.
    pub fn holds_all(&self, id: SessionId) -> bool {
        self.sessions.get(&id).is_some_and(|session| matches!(session.has, Has::All))
    }

    /// Whether it has said that it has some of it.
    pub fn holds_some(&self, id: SessionId) -> bool {
        let some = |has: &Has| matches!(has, Has::Spans(map) if map.iter().any(|bits| *bits != 0));
        self.sessions.get(&id).is_some_and(|session| some(&session.has))
    }

    /// Sessions that have something to take back, and do not wait for a tick to say so.
    pub fn taking_back(&self) -> Vec<SessionId> {
        let has = self.sessions.iter().filter(|(_, s)| !s.cancels.is_empty() && !s.ticks());
        has.map(|(id, _)| *id).collect()
    }

    /// Whether a session stands that can bring something that is missing.
    pub fn has_use(&self) -> bool {
        self.sessions.values().any(|session| session.useful)
    }

    /// Whether this one can.
    pub fn is_useful(&self, id: SessionId) -> bool {
        self.sessions.get(&id).is_some_and(|session| session.useful)
    }

    /// Finds out which sessions have something that is missing; when one says what it has, and when a span
    /// has come.
    fn look_for_use(&mut self) {
        let geometry = self.geometry();
        let of_use = |session: &Session| match &session.has {
            Has::Untold | Has::All => true,
            Has::Spans(map) => geometry.is_none_or(|geometry| {
                let mut spans = 0..Spans::of(geometry).count();
                spans.any(|span| has_span(map, span) && !self.is_whole(geometry, span))
            }),
        };
        let useful: Vec<SessionId> =
            self.sessions.iter().filter(|(_, session)| of_use(session)).map(|(id, _)| *id).collect();
        for (id, session) in &mut self.sessions {
            session.useful = useful.contains(id);
            session.found_nothing = None;
        }
    }

    /// Sessions that owe blocks and have been silent for too long.
    pub fn stalled(&self, now: Duration) -> Vec<SessionId> {
        let silent = |s: &Session| self.stalls_at(s).is_some_and(|at| now > at);
        self.sessions.iter().filter(|(_, s)| silent(s)).map(|(id, _)| *id).collect()
    }

    /// Until when a session that owes something may be silent.
    fn stalls_at(&self, session: &Session) -> Option<Duration> {
        let oldest = session.owed.values().map(|owed| owed.asked).min()?;
        // Those that go through one circuit wait for each other's blocks on a slow link.
        let beside = self.sessions.values().filter(|other| session.ticks() && other.ticks());
        let last_arrival = beside.map(|s| s.last_arrival).max().unwrap_or(session.last_arrival);
        Some((last_arrival + SESSION_STALL).min(oldest + BLOCK_STALL))
    }

    /// When [`Fetch::stalled`] may have something next, or sessions are to be asked for more.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let stalls = self.sessions.values().filter_map(|s| self.stalls_at(s));
        let stall = stalls.min().map(|at| at + Duration::from_millis(1));
        [stall, self.look_at].into_iter().flatten().min()
    }

    /// Whether it is time to ask all sessions for more.
    pub fn take_look(&mut self, now: Duration) -> bool {
        self.look_at.take_if(|at| *at <= now).is_some()
    }

    fn look_again(&mut self, at: Duration) {
        self.look_at = Some(self.look_at.map_or(at, |other| other.min(at)));
    }

    /// Takes a message of a session.
    pub fn message(
        &mut self,
        now: Duration,
        id: SessionId,
        message: Message,
    ) -> Result<Option<Progress>, Over> {
        let all = self.geometry().map(|geometry| Spans::of(geometry).count());
        let Some(session) = self.sessions.get_mut(&id) else { return Ok(None) };
        match message {
            Message::Have(have) => {
                let may = session.tell(have);
                self.look_for_use();
                if may { Ok(None) } else { Err(Over::Lied) }
            }
            Message::More(spans) => {
                if session.tell_more(&spans, all).ok_or(Over::Lied)? {
                    self.look_for_use();
                    self.hand_over(now, id, &spans);
                }
                Ok(None)
            }
            Message::Later(position) => {
                let may = session.put_off(now, position);
                session.answered(now, position).filter(|_| may).ok_or(Over::Lied)?;
                self.not_from(id, position);
                Ok(None)
            }
            Message::Lack(position) => {
                session.answered(now, position).ok_or(Over::Lied)?;
                self.not_from(id, position);
                // The first burst may name what the object does not have. A holder that lacks what it
                // said it has is no use: asking it again and again would never end.
                let exists = match self.geometry() {
                    Some(geometry) => geometry.slot(position).is_some(),
                    None => matches!(position, Position::Root),
                };
                let session = self.sessions.get_mut(&id).ok_or(Over::Gone)?;
                // Who has no root has nothing.
                let is_use = position != Position::Root && session.lack(position);
                self.look_for_use();
                if exists && !is_use { Err(Over::Gone) } else { Ok(None) }
            }
            Message::Block(position, bytes) => self.block(now, id, position, bytes),
            Message::Busy(_) | Message::Bye => Err(Over::Gone),
            Message::Start { .. } | Message::Want(_) | Message::Cancel(_) => Err(Over::Lied),
        }
    }

    fn block(
        &mut self,
        now: Duration,
        id: SessionId,
        position: Position,
        bytes: Vec<u8>,
    ) -> Result<Option<Progress>, Over> {
        let session = self.sessions.get_mut(&id).ok_or(Over::Gone)?;
        let turn = session.turn_of(position);
        session.gives(position);
        let asked = session.answered(now, position).ok_or(Over::Lied)?;
        session.came(now, asked);
        let result = self.verified(id, turn, position, bytes);
        // The other one that was asked need not bring it any more, if this was it.
        if let Some(asked) = self.asked.get(&position).copied() {
            let others = [Some(asked.first), asked.second].into_iter().flatten().filter(|other| *other != id);
            let here = self.has(position);
            for other in others.filter(|_| here) {
                if let Some(session) = self.sessions.get_mut(&other) {
                    session.release(now, position);
                }
            }
            self.not_from(id, position);
            if here {
                self.asked.remove(&position);
            }
        }
        result
    }

    /// A session does not owe a block any more.
    fn not_from(&mut self, id: SessionId, position: Position) {
        if self.asked.get_mut(&position).is_some_and(|asked| !asked.drop(id)) {
            self.asked.remove(&position);
        }
    }

    fn verified(
        &mut self,
        id: SessionId,
        turn: Option<u64>,
        position: Position,
        bytes: Vec<u8>,
    ) -> Result<Option<Progress>, Over> {
        if let Position::Root = position {
            if self.tree.is_some() {
                self.received.wasted += 1;
                return Ok(None);
            }
            let (tree, block) = Tree::open(&self.cap, bytes).map_err(|_| Over::Lied)?;
            let geometry = tree.geometry();
            self.have = Slots::new(geometry.total());
            self.tree = Some(tree);
            self.sessions.values_mut().for_each(|session| session.spans = Some(Spans::of(geometry)));
            self.got(geometry, Position::Root);
            return Ok(Some(Progress::Root(block, geometry)));
        }
        let known = self.has(position);
        let sessions = &self.sessions;
        let node_is_kept_back =
            |node| sessions.get(&id).is_some_and(|s| s.owes_before(Position::Node(node), turn));
        let Some(tree) = self.tree.as_mut() else {
            // The root was asked first: it was kept back, unless the holder had none then.
            let owes_root = self.asked.get(&Position::Root).is_some_and(|asked| asked.is_of(id));
            self.received.wasted += 1;
            return if owes_root { Err(Over::Lied) } else { Ok(None) };
        };
        let geometry = tree.geometry();
        match tree.verify(position, bytes) {
            Ok(_) if known => {
                self.received.wasted += 1;
                Ok(None) // a duplicate, or a node block that memory had dropped
            }
            Ok(block) => {
                self.got(geometry, position);
                Ok(Some(Progress::Block(block)))
            }
            // A session answers in order, and the node was asked before: it was kept back.
            Err(TreeError::NodeMissing(node)) if node_is_kept_back(node) => Err(Over::Lied),
            Err(TreeError::NodeMissing(_)) => {
                self.received.wasted += 1;
                Ok(None) // memory dropped the node: both are asked again
            }
            Err(_) => Err(Over::Lied),
        }
    }

    fn got(&mut self, geometry: Geometry, position: Position) {
        if let Some(slot) = geometry.slot(position) {
            self.have.set(slot, true);
        }
        if let Position::Data(index) = position {
            let span = Spans::of(geometry).of_block(index);
            if self.is_whole(geometry, span) {
                self.spans.push(span as u32);
                self.look_for_use();
            }
        }
        self.received.useful += 1;
        self.unwritten += 1;
    }

    fn is_whole(&self, geometry: Geometry, span: u64) -> bool {
        let blocks = Spans::of(geometry).range(span);
        self.have.next_empty(blocks.start, blocks.end).is_none()
    }

    /// The next message to send on a session, if there is one that is worth a message.
    pub fn next_wants(&mut self, now: Duration, id: SessionId) -> Option<Message> {
        if self.looks && self.tree.is_some() {
            return None;
        }
        let sessions = self.sessions.len();
        let parts = self.sessions.values().any(Session::is_partial);
        let session = self.sessions.get_mut(&id)?;
        session.forget_put_off(now);
        if !session.cancels.is_empty() {
            let some = session.cancels.len().min(MAX_POSITIONS);
            return Some(Message::Cancel(session.cancels.drain(..some).collect()));
        }
        let (depth, mut owed, ticks) =
            (session.depth(sessions, self.whole), session.owed.len(), session.ticks());
        let Some(geometry) = self.geometry() else { return self.root_again(now, id) };
        let most = if ticks { MAX_UNWRITTEN_ONION } else { MAX_UNDER_WAY };
        let crowded = parts && !ticks && !self.whole && !self.sessions.get(&id)?.is_partial();
        let depth_due = if crowded { depth.max(CROWD_DEPTH) } else { depth };
        // Ask in groups: a request for each arriving block would cost a cell each, and so would the end of
        // each block, when the holder has nothing to send after it.
        let group = if depth_due < 6 { 1 } else { (depth_due / 4).max(4.min(depth_due / 2)) };
        if !ticks && owed + group > depth_due {
            return None;
        }
        let mut wants = Vec::new();
        while owed < depth_due
            && wants.len() < MAX_POSITIONS
            && self.asked.len() + self.unwritten < most
            && self.unwritten < MAX_UNWRITTEN
        {
            let Some(pick) = self.pick(now, geometry, id, owed < depth) else { break };
            let Pick { position, due, from } = pick;
            if let Some(from) = from {
                let released = self.sessions.get_mut(&from).is_some_and(|s| s.release(now, position));
                if !released {
                    break;
                }
                self.asked.remove(&position);
            }
            // Who waits for all of it is in no hurry, but is not put off; nor is who knows nobody who could
            // pass it on.
            let may_wait = parts && !self.whole;
            let due = due.or((!may_wait).then_some(WHOLE_DUE)).map(|due| due.min(WHOLE_DUE));
            // What it owes already it only learns to be due.
            if !self.sessions.get_mut(&id).is_some_and(|session| session.hasten(now, position, due)) {
                self.owe(now, id, position, due);
                owed += 1;
            }
            let deadline_ms = due.map_or(u16::MAX, |due| due.as_millis() as u16);
            wants.push(Want { position, deadline_ms });
        }
        let put_off = self.sessions.get(&id).is_some_and(Session::puts_off);
        if wants.is_empty() && (put_off || sessions > 1 && !self.asked.is_empty()) {
            // What others owe may turn out to be late, and what was put off may be asked for again.
            self.look_again(now + pick::LOOK_EVERY);
        }
        (!wants.is_empty()).then_some(Message::Want(wants))
    }

    /// While nothing is known of the object: its root, from somebody else when the first is slow.
    fn root_again(&mut self, now: Duration, id: SessionId) -> Option<Message> {
        match self.asked.get(&Position::Root) {
            _ if !self.sessions.get(&id).is_some_and(|session| session.may_have(Position::Root)) => {
                return None;
            }
            Some(asked) if asked.is_of(id) || asked.second.is_some() => return None,
            Some(asked) if now < asked.at + ROOT_AGAIN => {
                let at = asked.at + ROOT_AGAIN;
                self.look_again(at);
                return None;
            }
            _ => {}
        }
        self.owe(now, id, Position::Root, Some(Duration::ZERO));
        Some(Message::Want(vec![Want { position: Position::Root, deadline_ms: 0 }]))
    }
}

impl Asked {
    /// One of them does not bring it. False: nobody is left.
    fn drop(&mut self, id: SessionId) -> bool {
        if self.second == Some(id) {
            self.second = None;
        }
        if self.first == id {
            match self.second.take() {
                Some(second) => self.first = second,
                None => return false,
            }
        }
        true
    }
}

/// What a first request asks for, in the order in which it is sent: root, head, the node block above
/// the first data block, and so many data blocks.
pub fn burst(first: u64, count: u16) -> impl Iterator<Item = Position> {
    let node = Position::Node((first / kith_crypto::content::FANOUT as u64) as u32);
    let data = (first..first + u64::from(count)).map(Position::Data);
    [Position::Root, Position::Head, node].into_iter().chain(data)
}

/// All positions of an object.
pub fn positions(geometry: Geometry) -> impl Iterator<Item = Position> {
    (0..geometry.data_count())
        .map(Position::Data)
        .chain((0..geometry.node_count()).map(Position::Node))
        .chain([Position::Head, Position::Root])
}
