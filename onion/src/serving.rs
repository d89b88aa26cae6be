//! The holder's side of a session: which of the blocks that were asked for leaves next, and in which
//! order they leave. The state only; the core moves it. Rules: `docs/protocol/swarm.md`.

use crate::session::{Spans, WHOLE_DUE, Want};
use kith_crypto::content::{Position, Root, SEALED_LEN};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// Requests of one peer that may wait at a holder, in blocks.
pub const MAX_WANTED: usize = 512;
/// Bytes that a holder queues ahead on one tunnel.
pub const SERVE_AHEAD: usize = 9 * SEALED_LEN;
/// What a reader needs so soon a holder of parts serves first.
const URGENT: Duration = Duration::from_secs(4);
/// A session that waits gets a block at least so often.
const LEAST_EVERY: Duration = Duration::from_secs(8);
/// Blocks that are on their way out at once, for all sessions together, at least.
const AT_ONCE: usize = 3;
/// And as many as left within this, where that is more.
const RECENT: Duration = Duration::from_millis(500);
/// A session of which nothing leaves for so long has a slow path: others do not wait for it.
const STUCK: Duration = Duration::from_secs(1);
/// What is due no sooner than this may be put off.
const PUT_OFF_DUE: Duration = Duration::from_secs(8);
/// A reader is known to be there for so long after the last request that it needed soon.
const WATCHED: Duration = Duration::from_secs(1);
/// Who gives way to a reader gets a block at least so often.
const GIVES_WAY: Duration = Duration::from_secs(2);
/// A request that so many later ones went before is next.
const MAX_OVERTAKEN: u64 = 64;

/// Whether something that is due in so long may not be put off.
pub(crate) fn is_hurry(due: Duration) -> bool {
    due < PUT_OFF_DUE || due == WHOLE_DUE
}

/// What storage gave: the block, or that it cannot be read.
pub type ReadAnswer = Option<Vec<u8>>;

#[derive(Clone, Copy, Debug)]
struct Wanted {
    position: Position,
    /// When it is late; the largest time when there is no hurry.
    due: Duration,
    /// There was no hurry when it came.
    may_wait: bool,
    /// A reader needs it, at some time or other.
    by_deadline: bool,
    turn: u64,
}

/// Who goes first: by class, how often it was sent, deadline, and how long it has waited.
pub type Turn = (u8, u64, Duration, u64);

/// What of an object has left, in all its sessions.
#[derive(Debug, Default)]
pub struct Sent {
    /// Blocks of each span, as often as they left.
    spans: BTreeMap<u64, u64>,
    /// Which data blocks have left, 64 to a number.
    blocks: BTreeMap<u64, u64>,
}

impl Sent {
    fn note(&mut self, span: u64, index: u64) {
        *self.spans.entry(span).or_default() += 1;
        *self.blocks.entry(index / 64).or_default() |= 1 << (index % 64);
    }

    fn has(&self, index: u64) -> bool {
        self.blocks.get(&(index / 64)).is_some_and(|bits| bits >> (index % 64) & 1 == 1)
    }
}

/// The sessions in which one object is served.
#[derive(Debug)]
pub struct Crowd<K> {
    /// Those that stand.
    pub sessions: usize,
    /// How many may have a block on its way out.
    pub gate: Gate<K>,
    /// Those that wait for that.
    pub waiting: BTreeSet<K>,
    /// What left; counted by who holds all.
    pub sent: Sent,
}

impl<K> Default for Crowd<K> {
    fn default() -> Self {
        Self { sessions: 0, gate: Gate::default(), waiting: BTreeSet::new(), sent: Sent::default() }
    }
}

impl<K> Crowd<K> {
    /// What decides the order of who holds all (`whole`) and serves several.
    pub fn of_all(&self, whole: bool) -> Option<&Sent> {
        (whole && self.sessions > 1).then_some(&self.sent)
    }

    /// The same, to be counted in; also while there is one session.
    pub fn of_all_mut(&mut self, whole: bool) -> Option<&mut Sent> {
        whole.then_some(&mut self.sent)
    }
}

/// How much is on its way out, session by session. Where several are served, few blocks leave at a time:
/// all of them at once would each take as long as all together, and what is due soon could not go first.
#[derive(Debug)]
pub struct Gate<K> {
    /// Bytes on their way out, and when some left last; `None`: too long ago.
    busy: BTreeMap<K, (usize, Option<Duration>)>,
    /// Bytes that left, older ones counting less, and as of when.
    left: (f64, Duration),
    /// When the last of them was gone.
    idle_at: Duration,
}

impl<K> Default for Gate<K> {
    fn default() -> Self {
        Self { busy: BTreeMap::new(), left: (0.0, Duration::ZERO), idle_at: Duration::ZERO }
    }
}

impl<K: Ord + Copy> Gate<K> {
    /// So many bytes are on their way out in a session now.
    pub fn note(&mut self, now: Duration, session: K, bytes: usize) {
        let (before, moved) = self.busy.get(&session).copied().unwrap_or((0, Some(now)));
        if bytes < before {
            let (left, at) = self.left;
            let passed = now.saturating_sub(at).as_secs_f64() / RECENT.as_secs_f64();
            self.left = (left * (-passed).exp() + (before - bytes) as f64, now);
        }
        if bytes == 0 {
            self.forget(now, session);
        } else {
            // A path that trickles is slow, too.
            let fewer = bytes.div_ceil(SEALED_LEN) < before.div_ceil(SEALED_LEN);
            let moved = if fewer || before == 0 { Some(now) } else { moved };
            self.busy.insert(session, (bytes, moved));
        }
    }

    /// A session is over.
    pub fn forget(&mut self, now: Duration, session: K) {
        if self.busy.remove(&session).is_some() && self.busy.is_empty() {
            self.idle_at = now;
        }
    }

    /// Finds those of which nothing has left for too long.
    pub fn expire(&mut self, now: Duration) {
        for (_, moved) in self.busy.values_mut() {
            moved.take_if(|at| now.saturating_sub(*at) >= STUCK);
        }
    }

    /// Whether one more block may begin.
    pub fn is_open(&self, session: K) -> bool {
        if self.busy.keys().all(|other| *other == session) {
            return true;
        }
        self.has_room()
    }

    /// Whether one more session may have a block on its way out. What one had queued before the others came
    /// is no more than a block to them.
    pub fn has_room(&self) -> bool {
        let busy = self.busy.values().filter(|(_, moved)| moved.is_some()).count();
        busy < AT_ONCE.max((self.left.0 / SEALED_LEN as f64) as usize)
    }

    /// Bytes that may wait to leave in one session: as much as left lately in all, and a block at least; two
    /// where it is the only one, so that its path is never idle. What waits there can be neither overtaken nor
    /// taken back.
    pub fn ahead(&self, sessions: usize) -> usize {
        (self.left.0 as usize).max(if sessions > 1 { SEALED_LEN } else { 2 * SEALED_LEN })
    }

    /// How long each of so many sessions waits for its turn at the rate at which blocks left lately.
    pub fn cycle(&self, sessions: usize) -> Duration {
        let rate = self.left.0 / RECENT.as_secs_f64();
        let seconds = sessions as f64 * SEALED_LEN as f64 / rate.max(1.0);
        Duration::from_secs_f64(seconds.min(LEAST_EVERY.as_secs_f64()))
    }

    /// When those that wait are to be looked at: at once when nothing is on its way out, or when
    /// [`Gate::expire`] may find something.
    pub fn poll_timeout(&self) -> Option<Duration> {
        if self.busy.is_empty() {
            return Some(self.idle_at);
        }
        self.busy.values().filter_map(|(_, moved)| *moved).map(|at| at + STUCK).min()
    }
}

/// One session of a holder.
#[derive(Debug)]
pub struct Serving {
    /// Of which object.
    pub root: Root,
    /// Its spans.
    pub spans: Spans,
    wanted: Vec<Wanted>,
    turns: u64,
    /// Reads under way in the order of the answers: storage may answer out of order, and the requester
    /// verifies a block by the ones before it.
    pub(crate) reading: VecDeque<(Position, Option<ReadAnswer>)>,
    /// The first request has come; there is only one.
    pub(crate) started: bool,
    /// Bytes read ahead, as they stand in the sum over all sessions.
    pub(crate) counted: usize,
    /// It waits until less is read ahead for others.
    pub(crate) queued: bool,
    /// It was said that parts are here: how many spans the other side knows of.
    pub(crate) told: Option<usize>,
    /// Blocks of each span that left in this session.
    sent: BTreeMap<u64, u64>,
    /// When its last block began.
    served_at: Duration,
    watched_until: Duration,
}

impl Serving {
    /// A session for an object, in which nothing was asked for yet.
    pub const fn new(root: Root, spans: Spans) -> Self {
        Self {
            root,
            spans,
            wanted: Vec::new(),
            turns: 0,
            reading: VecDeque::new(),
            started: false,
            counted: 0,
            queued: false,
            told: None,
            sent: BTreeMap::new(),
            served_at: Duration::ZERO,
            watched_until: Duration::ZERO,
        }
    }

    /// Requests that wait.
    pub const fn waiting(&self) -> usize {
        self.wanted.len()
    }

    /// Takes a request; what waits already is due at the earlier of both times.
    pub fn want(&mut self, now: Duration, want: Want) {
        let due = match want.deadline_ms {
            u16::MAX => Duration::MAX,
            ms => now + Duration::from_millis(ms.into()),
        };
        let left = due.saturating_sub(now);
        let by_deadline = left < WHOLE_DUE;
        if let Some(wanted) = self.wanted.iter_mut().find(|wanted| wanted.position == want.position) {
            wanted.due = wanted.due.min(due);
            wanted.may_wait &= !is_hurry(left);
            wanted.by_deadline |= by_deadline;
            return;
        }
        self.turns += 1;
        let turn = self.turns;
        self.wanted.push(Wanted {
            position: want.position,
            due,
            may_wait: !is_hurry(left),
            by_deadline,
            turn,
        });
    }

    /// What waits is the first burst, which says nothing of readers.
    pub fn is_burst(&mut self) {
        self.wanted.iter_mut().for_each(|wanted| wanted.by_deadline = false);
    }

    /// Whether a reader needs something soon, or did a moment ago; when it will not be taken for one any more.
    pub fn watched_until(&mut self, now: Duration) -> Option<Duration> {
        let soon = |wanted: &Wanted| wanted.by_deadline && wanted.due.saturating_sub(now) < PUT_OFF_DUE;
        if self.wanted.iter().any(soon) {
            self.watched_until = now + WATCHED;
        }
        (now < self.watched_until).then_some(self.watched_until)
    }

    /// When it goes on although somebody at the same place watches something else until then.
    pub fn gives_way_until(&self, now: Duration, watched_until: Duration) -> Option<Duration> {
        let until = watched_until.min(self.served_at + GIVES_WAY);
        (now < until).then_some(until)
    }

    /// Takes out what is put off: what there is no hurry for, and has left already (`crowd`: of a holder of all
    /// who serves several), as who has it may pass it on. To be said.
    pub fn put_off(&mut self, now: Duration, crowd: Option<&Sent>) -> Vec<Position> {
        let Some(crowd) = crowd else { return Vec::new() };
        let is_out = |wanted: &mut Wanted| match wanted.position {
            Position::Data(index) => {
                wanted.may_wait && !is_hurry(wanted.due.saturating_sub(now)) && crowd.has(index)
            }
            _ => false,
        };
        self.wanted.extract_if(.., is_out).map(|wanted| wanted.position).collect()
    }

    /// Blocks of a span that left in other sessions.
    fn to_others(&self, span: u64, crowd: &Sent) -> u64 {
        let all = crowd.spans.get(&span).copied().unwrap_or_default();
        all.saturating_sub(self.sent.get(&span).copied().unwrap_or_default())
    }

    /// Where a request stands among all that wait: what proves other blocks first; then, at a holder of all
    /// who serves several (`crowd`), what it has sent to others least often, so that all of it is out soon;
    /// then by deadline.
    fn turn(&self, wanted: &Wanted, crowd: Option<&Sent>) -> Turn {
        let Position::Data(index) = wanted.position else { return (0, 0, Duration::ZERO, wanted.turn) };
        let oldest = self.turns.saturating_sub(wanted.turn) >= MAX_OVERTAKEN + self.wanted.len() as u64;
        let span = self.spans.of_block(index);
        let sent = crowd.map_or(0, |crowd| self.to_others(span, crowd));
        if oldest { (1, 0, wanted.due, wanted.turn) } else { (2, sent, wanted.due, wanted.turn) }
    }

    /// Where its next request stands among those of other sessions. `cycle`: how long each of them would
    /// wait if they took turns. Who has waited for three quarters of that goes before who has not, so that
    /// all get about as much; a holder of parts serves what a reader needs at once before that.
    pub fn next_turn(&self, now: Duration, crowd: Option<&Sent>, cycle: Duration) -> Option<Turn> {
        let next = self.wanted.iter().map(|wanted| self.turn(wanted, crowd)).min()?;
        let waited = now.saturating_sub(self.served_at);
        let (class, sent, due, _) = next;
        let urgent = crowd.is_none() && due.saturating_sub(now) < URGENT;
        let class = match class {
            0 => 0,
            _ if waited >= LEAST_EVERY => 1,
            _ if urgent => 2,
            _ if waited >= cycle * 3 / 4 => 3,
            _ => 4,
        };
        Some((class, sent, due, u64::MAX - waited.as_millis() as u64))
    }

    /// The request to answer next.
    pub fn next_wanted(&mut self, now: Duration, crowd: Option<&mut Sent>) -> Option<Position> {
        let keys = self.wanted.iter().map(|wanted| self.turn(wanted, crowd.as_deref()));
        let (at, _) = keys.enumerate().min_by_key(|(_, key)| *key)?;
        let Wanted { position, .. } = self.wanted.swap_remove(at);
        self.served_at = now;
        if let (Position::Data(index), Some(crowd)) = (position, crowd) {
            let span = self.spans.of_block(index);
            crowd.note(span, index);
            *self.sent.entry(span).or_default() += 1;
        }
        Some(position)
    }

    /// Takes requests back that were not begun.
    pub fn cancel(&mut self, positions: &[Position]) {
        self.wanted.retain(|w| !positions.contains(&w.position));
    }

    /// Takes an answer of storage and returns what can be sent now, in order.
    pub(crate) fn read(&mut self, position: Position, answer: ReadAnswer) -> Vec<(Position, ReadAnswer)> {
        let mut waiting = self.reading.iter_mut();
        if let Some((_, slot)) = waiting.find(|(p, slot)| *p == position && slot.is_none()) {
            *slot = Some(answer);
        }
        let mut ready = Vec::new();
        while let Some((position, Some(_))) = self.reading.front() {
            let position = *position;
            if let Some((_, Some(answer))) = self.reading.pop_front() {
                ready.push((position, answer));
            }
        }
        ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kith_crypto::content::Geometry;

    const NOW: Duration = Duration::from_secs(100);

    /// Spans of 16 blocks.
    fn empty() -> Serving {
        Serving::new(Root([0; 32]), Spans::of(Geometry::of(10_000).expect("it is small")))
    }

    fn serving(wants: &[(u64, u16)]) -> Serving {
        let mut serving = empty();
        let want = |(index, deadline_ms): &(u64, u16)| Want {
            position: Position::Data(*index),
            deadline_ms: *deadline_ms,
        };
        wants.iter().for_each(|w| serving.want(NOW, want(w)));
        serving
    }

    fn order(serving: &mut Serving, mut crowd: Option<&mut Sent>) -> Vec<u64> {
        std::iter::from_fn(|| serving.next_wanted(NOW, crowd.as_deref_mut())).map(|p| p.index()).collect()
    }

    #[test]
    fn by_deadline_and_then_as_asked() {
        let mut serving = serving(&[(1, u16::MAX), (2, 5), (3, u16::MAX), (4, 9), (5, 5), (6, 0)]);
        serving.cancel(&[Position::Data(4), Position::Data(3)]);
        serving.want(NOW, Want { position: Position::Node(7), deadline_ms: u16::MAX });
        assert_eq!(order(&mut serving, None), [7, 6, 2, 5, 1]);
    }

    #[test]
    fn in_a_crowd_what_was_sent_to_others_least_leaves_first() {
        let mut crowd = Sent::default();
        // One viewer gets the first span, another the second, and each goes on with its own.
        let far = u16::MAX - 1;
        let both = [(0, far), (1, far), (16, far), (17, far)];
        let (mut one, mut two) = (serving(&both), serving(&both));
        let mut next = |s: &mut Serving| s.next_wanted(NOW, Some(&mut crowd)).map(|p| p.index());
        assert_eq!((next(&mut one), next(&mut two)), (Some(0), Some(16)));
        // Also before what is due soon.
        let soon = Want { position: Position::Data(17), deadline_ms: 3_000 };
        one.want(NOW, soon);
        assert_eq!((next(&mut one), next(&mut two)), (Some(1), Some(17)));
        assert_eq!(order(&mut one, None), [17, 16], "asked for again, it is due sooner and not sent twice");
    }

    #[test]
    fn what_others_were_given_is_put_off_unless_it_is_due() {
        let mut crowd = Sent::default();
        let mut other = serving(&[(3, 0), (5, 0), (6, 0), (7, 0), (8, 0)]);
        let mut serving =
            serving(&[(3, u16::MAX), (6, 9_000), (7, 7_000), (8, WHOLE_DUE.as_millis() as u16)]);
        assert_eq!(serving.put_off(NOW, Some(&crowd)), [], "nothing is out");
        while other.next_wanted(NOW, Some(&mut crowd)).is_some() {}
        assert_eq!(serving.put_off(NOW, None), [], "it is served alone");
        assert_eq!(serving.put_off(NOW, Some(&crowd)), [3, 6].map(Position::Data));
        // What is said of one is what is done: not that which has become due since.
        let want = |index, deadline_ms| Want { position: Position::Data(index), deadline_ms };
        serving.want(NOW, want(4, u16::MAX));
        serving.want(NOW, want(5, 9_000));
        assert_eq!(serving.put_off(NOW + Duration::from_secs(2), Some(&crowd)), []);
        assert_eq!(serving.put_off(NOW, Some(&crowd)), [Position::Data(5)]);
        assert_eq!(serving.waiting(), 3);
    }

    #[test]
    fn what_nobody_waits_for_gives_way_for_a_while() {
        let far = u16::MAX - 1;
        let mut got = serving(&[(1, far), (2, u16::MAX), (3, 9_000)]);
        let mut burst = serving(&[(1, 0)]);
        burst.is_burst();
        assert_eq!((got.watched_until(NOW), burst.watched_until(NOW)), (None, None));
        // What is wanted as a whole is not watched when its time has nearly passed, what a reader comes to is.
        assert_eq!(got.watched_until(NOW + Duration::from_secs(60)), Some(NOW + Duration::from_secs(61)));
        got.cancel(&[Position::Data(3)]);
        assert_eq!(got.watched_until(NOW + Duration::from_secs(62)), None);
        // It gets a block every two seconds all the same.
        let later = NOW + Duration::from_secs(9);
        assert_eq!(got.gives_way_until(NOW, later), None, "it has had none yet");
        got.next_wanted(NOW, None);
        assert_eq!(got.gives_way_until(NOW, later), Some(NOW + GIVES_WAY));
        assert_eq!(got.gives_way_until(NOW, NOW + WATCHED), Some(NOW + WATCHED));
        assert_eq!(got.gives_way_until(NOW + GIVES_WAY, later), None);
    }

    #[test]
    fn few_blocks_leave_at_once_unless_they_leave_fast_or_not_at_all() {
        let mut gate = Gate::default();
        let block = SEALED_LEN;
        (1..=3).for_each(|session| gate.note(NOW, session, block));
        assert!(!gate.is_open(4) && !gate.is_open(1));
        gate.note(NOW, 1, 0);
        assert!(gate.is_open(4));
        gate.note(NOW, 4, block);
        assert!(!gate.is_open(1));
        // A slow path is not waited for.
        gate.note(NOW + STUCK, 2, 0);
        gate.note(NOW + STUCK, 1, block);
        gate.expire(NOW + STUCK);
        assert!(gate.is_open(2));
        assert_eq!(gate.poll_timeout(), Some(NOW + STUCK * 2));
        // A fast one is kept full: ten blocks in a tenth of a second, and ten more may be under way.
        let mut gate = Gate::default();
        gate.note(NOW, 9, block);
        for n in 0..10 {
            gate.note(NOW + Duration::from_millis(10 * n), 1, block);
            gate.note(NOW + Duration::from_millis(10 * n + 5), 1, 0);
        }
        gate.note(NOW + Duration::from_millis(100), 1, 7 * block);
        assert!(gate.is_open(2));
        gate.forget(NOW + STUCK, 1);
        assert_eq!(gate.poll_timeout(), Some(NOW + STUCK), "nothing left of the other");
        gate.forget(NOW + STUCK * 3, 9);
        gate.forget(NOW + STUCK * 4, 9);
        assert!(gate.is_open(2));
        assert_eq!(gate.poll_timeout(), Some(NOW + STUCK * 3), "not long ago, but when it was over");
    }

    #[test]
    fn nobody_waits_for_ever() {
        let mut crowd = Sent::default();
        crowd.spans.insert(0, 1_000);
        let mut serving = serving(&[(0, u16::MAX)]);
        let mut served = 0;
        for index in 16.. {
            let position = Position::Data(index * 16);
            serving.want(NOW, Want { position, deadline_ms: u16::MAX });
            served += 1;
            if serving.next_wanted(NOW, Some(&mut crowd)) == Some(Position::Data(0)) {
                break;
            }
        }
        assert!(served <= MAX_OVERTAKEN + 2, "{served}");
    }

    #[test]
    fn blocks_leave_in_the_order_of_the_reads() {
        let mut serving = empty();
        let positions = [Position::Root, Position::Head, Position::Data(0)];
        serving.reading.extend(positions.map(|p| (p, None)));
        assert!(serving.read(Position::Data(0), Some(vec![3])).is_empty());
        assert!(serving.read(Position::Head, None).is_empty());
        let ready = serving.read(Position::Root, Some(vec![1]));
        assert_eq!(ready.iter().map(|r| r.0).collect::<Vec<_>>(), positions);
        assert!(serving.reading.is_empty() && ready[1].1.is_none());
    }
}
