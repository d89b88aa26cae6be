//! The decisions of one fetch: which blocks to ask for next, from which session, and what to do
//! with what comes. Blocks leave here only verified.
//!
//! Invariant: at most [`MAX_UNWRITTEN`] blocks are on their way or not yet written, whatever the
//! object's size. Opening tunnels and finding holders is the core's work.

use crate::session::{Have, MAX_POSITIONS, Message, Want};
use kith_crypto::content::{Geometry, Position, Tree, TreeError, VerifiedBlock, VerifyCap};
use std::collections::BTreeMap;
use std::time::Duration;

/// Blocks on their way and not yet written, in all (3 MiB).
pub const MAX_UNWRITTEN: usize = 48;
/// The same when they come through a circuit: much is on its way there (20 MiB).
pub const MAX_UNWRITTEN_ONION: usize = 320;
const MAX_DEPTH_ONION: usize = 256;
const MIN_DEPTH: usize = 4;
const MAX_DEPTH: usize = 32;
/// Data blocks asked for with the first request of a session.
const FIRST_BURST: u16 = 4;
/// A session that owes blocks and brings none for so long is given up.
pub const SESSION_STALL: Duration = Duration::from_secs(10);

/// One block may take so long, and not longer, whatever else comes meanwhile.
pub const BLOCK_STALL: Duration = Duration::from_secs(60);
/// The deadline of what a reader waits for.
const URGENT_MS: u16 = 1000;
/// The time from one tick to the next, at most.
const TICK_AHEAD: Duration = Duration::from_millis(200);
/// Blocks that a reader needs soon (4 MiB).
const READER_WINDOW: u64 = 64;

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// The holder broke the protocol or lied: this source is not asked again.
    Lied,
    /// The holder cannot go on: it may be asked again later.
    Gone,
}

/// A set of block slots.
#[derive(Clone, Debug, Default)]
pub struct Slots {
    words: Vec<u64>,
    len: u64,
    count: u64,
}

impl Slots {
    /// `len` empty slots.
    pub fn new(len: u64) -> Self {
        Self { words: vec![0; len.div_ceil(64) as usize], len, count: 0 }
    }

    /// Whether a slot is set.
    pub fn has(&self, slot: u64) -> bool {
        self.words.get((slot / 64) as usize).is_some_and(|w| w >> (slot % 64) & 1 == 1)
    }

    /// Sets or clears a slot.
    pub fn set(&mut self, slot: u64, on: bool) {
        if slot >= self.len || self.has(slot) == on {
            return;
        }
        if let Some(word) = self.words.get_mut((slot / 64) as usize) {
            *word ^= 1 << (slot % 64);
            self.count = if on { self.count + 1 } else { self.count - 1 };
        }
    }

    /// Slots that are set.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The first empty slot in `from..end`.
    fn next_empty(&self, from: u64, end: u64) -> Option<u64> {
        let mut slot = from;
        while slot < end {
            let word = self.words.get((slot / 64) as usize)? >> (slot % 64);
            let run = u64::from(word.trailing_ones());
            if run < 64 - slot % 64 {
                return Some(slot + run).filter(|s| *s < end);
            }
            slot += 64 - slot % 64;
        }
        None
    }
}

/// Names a session: `(connection, tunnel)`.
pub type SessionId = (u32, u32);

#[derive(Debug)]
struct Session {
    /// It has said what it has.
    told: bool,
    owed: BTreeMap<Position, Duration>,
    last_arrival: Duration,
    /// Bytes per second, smoothed.
    rate: f64,
    /// Shortest time from asking to having.
    round_trip: Duration,
    /// It asks at ticks: when the last was, and what came since.
    tick: Option<(Duration, u64)>,
}

impl Session {
    /// Blocks that should be on their way: one and a half times what the path holds.
    fn depth(&self, sessions: usize) -> usize {
        if self.tick.is_some() {
            // All that is needed until its next turn and a round trip after it, with room to grow.
            let ahead = TICK_AHEAD * sessions as u32 + self.round_trip.min(Duration::from_secs(5));
            let in_path = 1.5 * self.rate * ahead.as_secs_f64() / 65_552.0;
            return (in_path as usize + 8).min(MAX_DEPTH_ONION);
        }
        let in_path = 1.5 * self.rate * self.round_trip.as_secs_f64() / 65_552.0;
        (in_path as usize + 1).clamp(MIN_DEPTH, MAX_DEPTH)
    }
}

/// What a fetch tells its owner.
#[derive(Debug)]
pub enum Progress {
    /// The root is verified: the object's shape is known, storage can be made.
    Root(VerifiedBlock, Geometry),
    /// A block to write.
    Block(VerifiedBlock),
}

/// One object being fetched.
#[derive(Debug)]
pub struct Fetch {
    cap: VerifyCap,
    tree: Option<Tree>,
    have: Slots,
    asked: BTreeMap<Position, SessionId>,
    sessions: BTreeMap<SessionId, Session>,
    unwritten: usize,
    /// Readers and their places, the one that moved last at the end.
    readers: Vec<(u64, u64)>,
    cursor: u64,
}

impl Fetch {
    /// A fetch that starts from nothing.
    pub fn new(cap: VerifyCap) -> Self {
        Self {
            cap,
            tree: None,
            have: Slots::default(),
            asked: BTreeMap::new(),
            sessions: BTreeMap::new(),
            unwritten: 0,
            readers: Vec::new(),
            cursor: 0,
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
        fetch.have = Slots::new(tree.geometry().total());
        let all = positions(tree.geometry());
        for position in all.filter(|p| have(*p)) {
            if let Some(slot) = tree.geometry().slot(position) {
                fetch.have.set(slot, true);
            }
        }
        fetch.tree = Some(tree);
        Ok(fetch)
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

    /// Everything is here and written.
    pub fn is_complete(&self) -> bool {
        self.unwritten == 0 && self.geometry().is_some_and(|g| self.have.count() == g.total())
    }

    /// A reader stands at a data block (`None`: it is gone). Its surroundings come first.
    pub fn set_reader(&mut self, reader: u64, block: Option<u64>) {
        self.readers.retain(|(id, _)| *id != reader);
        self.readers.extend(block.map(|block| (reader, block)));
    }

    /// The owner has written a block.
    pub fn written(&mut self) {
        self.unwritten = self.unwritten.saturating_sub(1);
    }

    /// A session to a holder stands: what to send first.
    pub fn session_opened(&mut self, now: Duration, id: SessionId) -> Message {
        let session = Session {
            told: false,
            owed: BTreeMap::new(),
            last_arrival: now,
            rate: 0.0,
            round_trip: Duration::from_secs(1),
            tick: None,
        };
        self.sessions.insert(id, session);
        let first = self.first_missing().unwrap_or(0);
        let resume = self.tree.is_some();
        if !resume {
            // What the object turns out not to have is answered with a lack.
            burst(first, FIRST_BURST).for_each(|p| self.owe(now, id, p));
        }
        Message::Start { resume, first: first as u32, count: if resume { 0 } else { FIRST_BURST } }
    }

    /// A session asks at times of its own; this is one of them. What came since the last says how fast
    /// the path is.
    pub fn ticked(&mut self, now: Duration, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if let Some((last, bytes)) = session.tick {
            let seconds = now.saturating_sub(last).as_secs_f64().max(0.02);
            let seen = bytes as f64 / seconds;
            // Up at once, down slowly: a pause of the reader says nothing of the path.
            let weight = if seen > session.rate { 0.5 } else { 0.1 };
            session.rate += (seen - session.rate) * weight;
        }
        session.tick = Some((now, 0));
    }

    fn owe(&mut self, now: Duration, id: SessionId, position: Position) {
        self.asked.insert(position, id);
        if let Some(session) = self.sessions.get_mut(&id) {
            if session.owed.is_empty() {
                session.last_arrival = now; // a stall counts from the first unanswered request
            }
            session.owed.insert(position, now);
        }
    }

    /// A session ended: what it owed is asked elsewhere.
    pub fn session_closed(&mut self, id: SessionId) {
        self.sessions.remove(&id);
        self.asked.retain(|_, session| *session != id);
    }

    /// Sessions that stand.
    pub fn session_ids(&self) -> Vec<SessionId> {
        self.sessions.keys().copied().collect()
    }

    /// Sessions that owe blocks and have been silent for too long.
    pub fn stalled(&self, now: Duration) -> Vec<SessionId> {
        let silent = |s: &Session| {
            let oldest = s.owed.values().min().copied().unwrap_or(now);
            !s.owed.is_empty()
                && (now.saturating_sub(s.last_arrival) > SESSION_STALL
                    || now.saturating_sub(oldest) > BLOCK_STALL)
        };
        self.sessions.iter().filter(|(_, s)| silent(s)).map(|(id, _)| *id).collect()
    }

    /// When [`Fetch::stalled`] may have something next.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let owing = self.sessions.values().filter(|s| !s.owed.is_empty());
        let limit = |s: &Session| {
            let oldest = s.owed.values().min().map(|at| *at + BLOCK_STALL);
            oldest.unwrap_or(Duration::MAX).min(s.last_arrival + SESSION_STALL)
        };
        owing.map(|s| limit(s) + Duration::from_millis(1)).min()
    }

    /// Takes a message of a session.
    pub fn message(
        &mut self,
        now: Duration,
        id: SessionId,
        message: Message,
    ) -> Result<Option<Progress>, Over> {
        let Some(session) = self.sessions.get_mut(&id) else { return Ok(None) };
        match message {
            // Once, as the answer to the first request. Holders of parts exist from the swarm on;
            // until then one that has not everything is of no use.
            Message::Have(Have::All) if !std::mem::replace(&mut session.told, true) => Ok(None),
            Message::Have(Have::Spans(_)) if !session.told => Err(Over::Gone),
            Message::Have(_) => Err(Over::Lied),
            Message::Lack(position) => {
                session.owed.remove(&position).ok_or(Over::Lied)?;
                session.last_arrival = now;
                if self.asked.get(&position) == Some(&id) {
                    self.asked.remove(&position);
                }
                // The first burst may name what the object does not have. A holder that lacks what
                // the object has is no use: asking it again and again would never end.
                let exists = match self.geometry() {
                    Some(geometry) => geometry.slot(position).is_some(),
                    None => matches!(position, Position::Root),
                };
                if exists { Err(Over::Gone) } else { Ok(None) }
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
        if let Some(session) = self.sessions.get_mut(&id) {
            let asked_at = session.owed.remove(&position).ok_or(Over::Lied)?;
            session.round_trip = session.round_trip.min(now.saturating_sub(asked_at));
            let gap = now.saturating_sub(session.last_arrival).as_secs_f64().max(1e-5);
            match &mut session.tick {
                Some((_, bytes)) => *bytes += 65_552,
                None => session.rate += (65_552.0 / gap - session.rate) * 0.1,
            }
            session.last_arrival = now;
        }
        if self.asked.get(&position) == Some(&id) {
            self.asked.remove(&position);
        }
        if let Position::Root = position {
            if self.tree.is_some() {
                return Ok(None);
            }
            let (tree, block) = Tree::open(&self.cap, bytes).map_err(|_| Over::Lied)?;
            let geometry = tree.geometry();
            self.have = Slots::new(geometry.total());
            self.tree = Some(tree);
            self.got(geometry, Position::Root);
            return Ok(Some(Progress::Root(block, geometry)));
        }
        let Some(tree) = self.tree.as_mut() else { return Err(Over::Lied) };
        let geometry = tree.geometry();
        let known = geometry.slot(position).is_some_and(|slot| self.have.has(slot));
        match tree.verify(position, bytes) {
            Ok(_) if known => Ok(None), // a duplicate, or a node block that memory had dropped
            Ok(block) => {
                self.got(geometry, position);
                Ok(Some(Progress::Block(block)))
            }
            // A session answers in order, and the node was asked before: it was kept back.
            Err(TreeError::NodeMissing(node)) if self.asked.get(&Position::Node(node)) == Some(&id) => {
                Err(Over::Lied)
            }
            Err(TreeError::NodeMissing(_)) => Ok(None), // memory dropped the node: both are asked again
            Err(_) => Err(Over::Lied),
        }
    }

    fn got(&mut self, geometry: Geometry, position: Position) {
        if let Some(slot) = geometry.slot(position) {
            self.have.set(slot, true);
        }
        self.unwritten += 1;
    }

    /// The next request to send on a session, if it is worth a message.
    pub fn next_wants(&mut self, now: Duration, id: SessionId) -> Option<Message> {
        let geometry = self.geometry()?;
        let (depth, owed) = {
            let session = self.sessions.get(&id)?;
            (session.depth(self.sessions.len()), session.owed.len())
        };
        let ticks = self.sessions.get(&id).is_some_and(|s| s.tick.is_some());
        let most = if ticks { MAX_UNWRITTEN_ONION } else { MAX_UNWRITTEN };
        // Ask in groups: a request for each arriving block would cost a cell each.
        if !ticks && owed > depth * 3 / 4 {
            return None;
        }
        let mut wants = Vec::new();
        while owed + wants.len() < depth
            && wants.len() < MAX_POSITIONS
            && self.asked.len() + self.unwritten < most
            && self.unwritten < MAX_UNWRITTEN
        {
            let Some(position) = self.pick(geometry, id) else { break };
            self.owe(now, id, position);
            let deadline_ms = if self.is_urgent(position) { URGENT_MS } else { u16::MAX };
            wants.push(Want { position, deadline_ms });
        }
        (!wants.is_empty()).then_some(Message::Want(wants))
    }

    /// What a reader waits for leaves a holder before what is only fetched ahead, and so does what
    /// proves it: a node block never comes later than the data below it.
    fn is_urgent(&self, position: Position) -> bool {
        let Position::Data(index) = position else { return true };
        let in_window = |from: u64| (from..from.saturating_add(READER_WINDOW)).contains(&index);
        self.readers.last().is_some_and(|(_, from)| in_window(*from))
    }

    fn first_missing(&self) -> Option<u64> {
        let end = self.geometry()?.data_count();
        let from = self.readers.last().map_or(0, |(_, block)| *block).min(end);
        self.have.next_empty(from, end).or_else(|| self.have.next_empty(0, from))
    }

    /// Head first, then what readers need next, then the rest in order.
    fn pick(&mut self, geometry: Geometry, id: SessionId) -> Option<Position> {
        let head = Position::Head;
        let missing = |p| geometry.slot(p).is_some_and(|s| !self.have.has(s)) && !self.asked.contains_key(&p);
        if missing(head) {
            return Some(head);
        }
        let end = geometry.data_count();
        // The last seek first, and for each reader what it needs soon; then what follows the last.
        for (_, from) in self.readers.iter().rev() {
            let soon = from.saturating_add(READER_WINDOW).min(end);
            if let Some(found) = self.pick_from(geometry, *from, soon, id) {
                return Some(found);
            }
        }
        if let Some((_, from)) = self.readers.last()
            && let Some(found) = self.pick_from(geometry, *from, end, id)
        {
            return Some(found);
        }
        let found = self.pick_from(geometry, self.cursor, end, id);
        let found = found.or_else(|| self.pick_from(geometry, 0, end, id));
        // Everything before the first missing block is here: later scans start there.
        self.cursor = self.have.next_empty(self.cursor, end).unwrap_or(0);
        found.or_else(|| {
            (0..geometry.node_count()).map(Position::Node).find(|p| self.is_missing(geometry, *p))
        })
    }

    fn is_missing(&self, geometry: Geometry, p: Position) -> bool {
        geometry.slot(p).is_some_and(|s| !self.have.has(s)) && !self.asked.contains_key(&p)
    }

    fn pick_from(&self, geometry: Geometry, from: u64, end: u64, id: SessionId) -> Option<Position> {
        let mut index = self.have.next_empty(from, end)?;
        loop {
            let position = Position::Data(index);
            if !self.asked.contains_key(&position) {
                let Some(node) = geometry.parent(index) else { return Some(position) };
                let above = Position::Node(node);
                let loaded = self.tree.as_ref().is_some_and(|t| t.has_node(node));
                match self.asked.get(&above) {
                    _ if loaded => return Some(position),
                    None => return Some(above),
                    // The same session brings the node first; another's may come later.
                    Some(by) if *by == id => return Some(position),
                    Some(_) => {}
                }
            }
            index = self.have.next_empty(index + 1, end)?;
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use kith_crypto::content::{Builder, Head, ReadCap};
    use kith_crypto::secret::Key;
    use std::collections::HashMap;

    type Object = (ReadCap, HashMap<Position, Vec<u8>>);

    fn object(blocks: u64) -> Object {
        let mut builder = Builder::new(Key::new([9; 32]));
        let mut all = HashMap::new();
        for i in 0..blocks {
            let sealed = builder.push(i.to_le_bytes().to_vec()).unwrap();
            all.insert(sealed.position, sealed.bytes);
        }
        let (cap, _) = builder.finish(&Head::default(), |s| {
            all.insert(s.position, s.bytes);
        });
        (cap, all)
    }

    /// Runs sessions that answer at once and in order; `lie` changes what a session sends.
    fn run(
        object: &Object,
        sessions: &[SessionId],
        mut lie: impl FnMut(SessionId, Position, &mut Vec<u8>),
    ) -> Vec<SessionId> {
        let mut fetch = Fetch::new(object.0.verify_cap());
        let mut liars = Vec::new();
        let mut now = Duration::ZERO;
        let mut queue: Vec<(SessionId, Position)> = Vec::new();
        for id in sessions {
            let Message::Start { resume: false, count, .. } = fetch.session_opened(now, *id) else {
                panic!()
            };
            queue.extend(burst(0, count).map(|p| (*id, p)));
        }
        for _ in 0..100_000 {
            now += Duration::from_millis(1);
            if queue.is_empty() {
                break;
            }
            let (id, position) = queue.remove(0);
            if liars.contains(&id) {
                continue;
            }
            let message = match object.1.get(&position) {
                Some(bytes) => {
                    let mut bytes = bytes.clone();
                    lie(id, position, &mut bytes);
                    Message::Block(position, bytes)
                }
                None => Message::Lack(position),
            };
            match fetch.message(now, id, message) {
                Ok(Some(_)) => fetch.written(),
                Ok(None) => {}
                Err(over) => {
                    assert_eq!(over, Over::Lied);
                    fetch.session_closed(id);
                    liars.push(id);
                }
            }
            for id in sessions.iter().filter(|s| !liars.contains(s)) {
                if let Some(Message::Want(wants)) = fetch.next_wants(now, *id) {
                    queue.extend(wants.into_iter().map(|w| (*id, w.position)));
                }
            }
        }
        assert!(fetch.is_complete(), "{} of the blocks", fetch.have_count());
        liars
    }

    #[test]
    fn fetches_small_and_two_level_objects() {
        for blocks in [1, 3, 40, 2100] {
            assert!(run(&object(blocks), &[(1, 2)], |_, _, _| {}).is_empty());
        }
    }

    #[test]
    fn a_liar_is_dropped_after_one_block_and_the_rest_comes_from_elsewhere() {
        let mut lies = 0;
        let liars = run(&object(60), &[(1, 2), (3, 4)], |id, position, bytes| {
            if id == (1, 2) && matches!(position, Position::Data(_)) {
                bytes[100] ^= 1;
                lies += 1;
            }
        });
        assert_eq!((liars, lies), (vec![(1, 2)], 1));
    }

    #[test]
    fn readers_come_first_and_memory_is_bounded() {
        let (cap, blocks) = object(500);
        let mut fetch = Fetch::new(cap.verify_cap());
        let id = (1, 1);
        fetch.session_opened(Duration::ZERO, id);
        fetch
            .message(Duration::ZERO, id, Message::Block(Position::Root, blocks[&Position::Root].clone()))
            .unwrap();
        for position in burst(0, FIRST_BURST).skip(1) {
            let message = match blocks.get(&position) {
                Some(bytes) => Message::Block(position, bytes.clone()),
                None => Message::Lack(position),
            };
            fetch.message(Duration::ZERO, id, message).unwrap();
        }
        (0..6).for_each(|_| fetch.written());
        fetch.set_reader(1, Some(300));
        let Some(Message::Want(wants)) = fetch.next_wants(Duration::ZERO, id) else { panic!() };
        let positions: Vec<_> = wants.iter().map(|w| w.position).collect();
        assert_eq!(positions[..2], [Position::Data(300), Position::Data(301)]);
        for i in 300..600 {
            let Some(bytes) = blocks.get(&Position::Data(i)) else { break };
            if fetch.asked.contains_key(&Position::Data(i)) {
                fetch
                    .message(Duration::from_millis(i), id, Message::Block(Position::Data(i), bytes.clone()))
                    .unwrap();
            }
            fetch.next_wants(Duration::from_millis(i), id);
            assert!(fetch.asked.len() + fetch.unwritten <= MAX_UNWRITTEN);
        }
        assert!(fetch.unwritten > 20, "nothing was written, so the fetch stopped asking");
    }

    #[test]
    fn resumes_without_asking_again() {
        let (cap, blocks) = object(50);
        let root = blocks[&Position::Root].clone();
        let have = |p: Position| !matches!(p, Position::Data(i) if i >= 48);
        let mut fetch = Fetch::resume(cap.verify_cap(), root, have).unwrap();
        let Message::Start { resume: true, first: 48, count: 0 } =
            fetch.session_opened(Duration::ZERO, (1, 1))
        else {
            panic!()
        };
        let Some(Message::Want(wants)) = fetch.next_wants(Duration::ZERO, (1, 1)) else { panic!() };
        assert_eq!(
            wants.iter().map(|w| w.position).collect::<Vec<_>>(),
            [Position::Data(48), Position::Data(49)]
        );
    }

    #[test]
    fn a_holder_that_lacks_a_block_is_left_and_not_asked_for_ever() {
        let (cap, blocks) = object(9);
        let mut fetch = Fetch::new(cap.verify_cap());
        let (id, now) = ((1, 1), Duration::ZERO);
        fetch.session_opened(now, id);
        let root = Message::Block(Position::Root, blocks[&Position::Root].clone());
        fetch.message(now, id, root).unwrap();
        assert!(fetch.message(now, id, Message::Lack(Position::Node(0))).unwrap().is_none());
        assert_eq!(fetch.message(now, id, Message::Lack(Position::Data(1))).unwrap_err(), Over::Gone);
        assert_eq!(fetch.message(now, id, Message::Lack(Position::Data(8))).unwrap_err(), Over::Lied);
    }

    #[test]
    fn silence_is_noticed() {
        let (cap, _) = object(2);
        let mut fetch = Fetch::new(cap.verify_cap());
        fetch.session_opened(Duration::ZERO, (1, 1));
        assert!(fetch.stalled(SESSION_STALL).is_empty());
        assert_eq!(fetch.stalled(fetch.poll_timeout().unwrap()), [(1, 1)]);
    }

    /// A fetch whose session has answered the first burst of a two-level object, up to the node.
    fn begun(object: &Object, bring: impl Fn(Position) -> bool) -> (Fetch, Result<(), Over>) {
        let mut fetch = Fetch::new(object.0.verify_cap());
        fetch.session_opened(Duration::ZERO, (1, 1));
        let mut result = Ok(());
        for position in burst(0, FIRST_BURST).filter(|p| bring(*p)) {
            let message = match object.1.get(&position) {
                Some(bytes) => Message::Block(position, bytes.clone()),
                None => Message::Lack(position),
            };
            result = result.and(fetch.message(Duration::ZERO, (1, 1), message).map(drop));
        }
        (fetch, result)
    }

    #[test]
    fn data_before_the_node_that_was_asked_first_is_a_lie() {
        // Taking it and asking again would never end.
        let object = object(2100);
        assert!(begun(&object, |_| true).1.is_ok());
        assert_eq!(begun(&object, |p| !matches!(p, Position::Node(_))).1, Err(Over::Lied));
    }

    #[test]
    fn a_holder_says_once_what_it_has_and_has_it_all() {
        let object = object(3);
        let have =
            |fetch: &mut Fetch, have| fetch.message(Duration::ZERO, (1, 1), Message::Have(have)).map(drop);
        let (mut fetch, _) = begun(&object, |_| true);
        assert_eq!(have(&mut fetch, Have::All), Ok(()));
        assert_eq!(have(&mut fetch, Have::All), Err(Over::Lied));
        let (mut fetch, _) = begun(&object, |_| true);
        assert_eq!(have(&mut fetch, Have::Spans(Vec::new())), Err(Over::Gone));
    }

    #[test]
    fn dripping_does_not_keep_a_session() {
        let object = object(40);
        let (mut fetch, _) = begun(&object, |_| true);
        (0..MAX_UNWRITTEN).for_each(|_| fetch.written());
        let id = (1, 1);
        let mut now = Duration::ZERO;
        let Some(Message::Want(wants)) = fetch.next_wants(now, id) else { panic!() };
        // Every block but the first one comes, each just before the silence would be noticed.
        for want in wants.iter().skip(1).cycle().take(20) {
            now += SESSION_STALL - Duration::from_millis(1);
            let bytes = object.1[&want.position].clone();
            let _ = fetch.message(now, id, Message::Block(want.position, bytes));
            if !fetch.stalled(now).is_empty() {
                break;
            }
        }
        assert!(now <= BLOCK_STALL + SESSION_STALL, "{now:?}");
    }
}
