//! One holder as a fetch sees it: what it has, what it owes, how fast it is.

use crate::serving::is_hurry;
use crate::session::{Have, MAX_SPANS, Spans};
use kith_crypto::content::{Position, SEALED_LEN};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

const MIN_DEPTH: usize = 2;
const MAX_DEPTH: usize = 32;
const MAX_DEPTH_ONION: usize = 256;
/// Blocks that readers need soon, at a holder of all where others hold parts: it chooses among them what it
/// has sent least. With few at a time all readers would ask for the same ones.
pub(super) const CROWD_DEPTH: usize = 16;
/// The time from one tick to the next, at most.
const TICK_AHEAD: Duration = Duration::from_millis(200);
/// Requests that were taken back and whose blocks may still come. With so many nothing more is taken
/// back.
const MAX_RELEASED: usize = 128;
/// What was taken back does not come any more after this.
const RELEASED_FOR: Duration = Duration::from_secs(600);
/// Blocks that a holder of parts said it has, and had not, before it is left.
const MAX_LACKS: usize = 16;
/// A span of which a holder puts a block off is asked of it again after this.
const LATER: Duration = Duration::from_secs(15);
/// Who puts off what there is no hurry for is asked for no more of that for so long at first, and twice as long
/// each time that it does so again.
const NOT_AHEAD: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(4));
/// What is due so much sooner than was said is asked for again with the time at which it is.
const HASTEN: Duration = Duration::from_secs(2);
/// A holder of which nothing is known yet brings so much a round trip.
const FIRST_BLOCKS: f64 = 4.0;
/// What a measurement counts for after each later one.
const OLDER: f64 = 0.7;
/// Times over which a rate is measured, shortest and longest.
const MEASURE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// What a holder says it has.
#[derive(Debug)]
pub(super) enum Has {
    /// It has not said yet.
    Untold,
    All,
    /// Spans of blocks, one bit each.
    Spans(Vec<u8>),
}

/// A block that was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owed {
    pub(super) asked: Duration,
    /// When it is late: holders send what is due first.
    due: Duration,
    /// The same as it was asked for first.
    due_first: Duration,
    turn: u64,
}

/// One holder's session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) has: Has,
    /// Of the object, once its shape is known.
    pub(super) spans: Option<Spans>,
    pub(super) owed: BTreeMap<Position, Owed>,
    /// Taken back, or asked for again, and when: they may come although nothing of them is owed.
    released: VecDeque<(Position, Duration)>,
    /// To be taken back with the next message.
    pub(super) cancels: Vec<Position>,
    /// Spans that it put off, and until when.
    later: BTreeMap<u64, Duration>,
    /// Until when it is asked for nothing ahead of readers, and how long that was.
    not_ahead: (Duration, Duration),
    /// What it said it has, and had not.
    lacks: BTreeSet<Position>,
    pub(super) last_arrival: Duration,
    /// Bytes per second, smoothed; 0 until known.
    rate: f64,
    /// Since when it has owed blocks, as far as it was not counted yet, and the bytes that came since.
    busy: Option<(Duration, u64)>,
    /// Bytes that came while it owed blocks, and the seconds for them; older ones count less.
    seen: (f64, f64),
    /// Shortest time from asking to having.
    pub(super) round_trip: Duration,
    /// It asks at ticks: when the last was, and what came since.
    tick: Option<(Duration, u64)>,
    turns: u64,
    /// The span that it is asked for when nothing is urgent.
    pub(super) span: Option<u64>,
    /// It has something that is missing, as far as is known.
    pub(super) useful: bool,
    /// Until when nothing more is looked for that it could be asked for ahead of readers.
    pub(super) found_nothing: Option<Duration>,
}

impl Session {
    pub(super) const fn new(now: Duration, spans: Option<Spans>) -> Self {
        Self {
            has: Has::Untold,
            spans,
            owed: BTreeMap::new(),
            released: VecDeque::new(),
            cancels: Vec::new(),
            later: BTreeMap::new(),
            not_ahead: (Duration::ZERO, Duration::ZERO),
            lacks: BTreeSet::new(),
            last_arrival: now,
            rate: 0.0,
            busy: None,
            seen: (0.0, 0.0),
            round_trip: Duration::from_secs(1),
            tick: None,
            turns: 0,
            span: None,
            useful: true,
            found_nothing: None,
        }
    }

    /// It holds parts only.
    pub(super) const fn is_partial(&self) -> bool {
        matches!(self.has, Has::Spans(_))
    }

    /// It asks at times of its own.
    pub(super) const fn ticks(&self) -> bool {
        self.tick.is_some()
    }

    /// Whether it may be asked for a data block.
    pub(super) fn has_data(&self, index: u64) -> bool {
        let span = match &self.has {
            Has::Untold | Has::All => true,
            Has::Spans(map) => self.spans.is_none_or(|spans| has_span(map, spans.of_block(index))),
        };
        span && !self.lacks.contains(&Position::Data(index)) && !self.is_later(index)
    }

    fn is_later(&self, index: u64) -> bool {
        self.spans.is_some_and(|spans| self.later.contains_key(&spans.of_block(index)))
    }

    /// Whether it may be asked for a block at all. A holder of parts has the node blocks above them.
    pub(super) fn may_have(&self, position: Position) -> bool {
        let said = match (position, &self.has, self.spans) {
            (Position::Data(index), ..) => return self.has_data(index),
            (Position::Node(node), Has::Spans(map), Some(spans)) => {
                spans.under(node).any(|span| has_span(map, span))
            }
            _ => true,
        };
        said && !self.lacks.contains(&position)
    }

    /// Takes what it says it has. False: it may not say that now.
    pub(super) fn tell(&mut self, have: Have) -> bool {
        self.has = match (&self.has, have) {
            // A holder of parts gets the rest and says so.
            (Has::Untold | Has::Spans(_), Have::All) => {
                self.lacks.clear();
                Has::All
            }
            (Has::Untold, Have::Spans(map)) => Has::Spans(map),
            _ => return false,
        };
        true
    }

    /// Takes spans that have come. Whether one of them is new; `None`: it may not say that.
    pub(super) fn tell_more(&mut self, spans: &[u32], all: Option<u64>) -> Option<bool> {
        let Has::Spans(map) = &mut self.has else { return None };
        let mut news = false;
        for span in spans {
            if all.is_some_and(|all| u64::from(*span) >= all) || *span >= MAX_SPANS {
                return None;
            }
            news |= !has_span(map, (*span).into());
            let byte = (*span / 8) as usize;
            if map.len() <= byte {
                map.resize(byte + 1, 0);
            }
            if let Some(byte) = map.get_mut(byte) {
                *byte |= 1 << (*span % 8);
            }
        }
        Some(news)
    }

    /// It puts a block off. False: a block that is due is not put off.
    pub(super) fn put_off(&mut self, now: Duration, position: Position) -> bool {
        let hurries = |owed: &Owed| is_hurry(owed.due_first.saturating_sub(owed.asked));
        self.later.retain(|_, until| *until > now);
        // What was taken back meanwhile, and perhaps asked for again, is no fault of the holder's.
        let taken_back = self.released.iter().any(|(released, _)| *released == position);
        let (Position::Data(index), Some(spans)) = (position, self.spans) else { return false };
        let owed = self.owed.get(&position).copied();
        if owed.is_some_and(|owed| hurries(&owed)) && !taken_back {
            return false;
        }
        if owed.is_some_and(|owed| owed.due_first == Duration::MAX) && now >= self.not_ahead.0 {
            let time = (self.not_ahead.1 * 2).clamp(NOT_AHEAD.0, NOT_AHEAD.1);
            self.not_ahead = (now + time, time);
        }
        self.later.insert(spans.of_block(index), now + LATER);
        true
    }

    /// What was put off may be asked for again when its time has come, or when it is due.
    pub(super) fn forget_put_off(&mut self, now: Duration) {
        self.later.retain(|_, until| *until > now);
    }

    /// It gives a block: what there was no hurry for it may be asked for again.
    pub(super) fn gives(&mut self, position: Position) {
        if self.owed.get(&position).is_some_and(|owed| owed.due_first == Duration::MAX) {
            self.not_ahead = (Duration::ZERO, Duration::ZERO);
        }
    }

    /// Whether it may be asked for what there is no hurry for.
    pub(super) fn may_go_ahead(&self, now: Duration) -> bool {
        now >= self.not_ahead.0
    }

    /// Whether it has put something off.
    pub(super) fn puts_off(&self) -> bool {
        !self.later.is_empty()
    }

    /// Whether it may be asked for a block that a reader needs soon.
    pub(super) fn has_due(&self, index: u64) -> bool {
        self.has_data(index) || self.is_later(index)
    }

    /// It has not what it was asked for. False: it is of no use.
    pub(super) fn lack(&mut self, position: Position) -> bool {
        if matches!(self.has, Has::All) {
            return false;
        }
        // What was asked before it said what it has is no fault.
        let said = self.may_have(position);
        self.lacks.insert(position);
        !said || self.lacks.len() <= MAX_LACKS
    }

    // Requests.

    pub(super) fn owe(&mut self, now: Duration, position: Position, due: Option<Duration>) {
        if self.owed.is_empty() {
            self.last_arrival = now; // a stall counts from the first unanswered request
            self.busy = Some((now, 0));
        }
        self.turns += 1;
        let due = due.map_or(Duration::MAX, |due| now + due);
        self.owed.insert(position, Owed { asked: now, due, due_first: due, turn: self.turns });
    }

    /// Whether it owes a block that is due much sooner than was said when it was asked for, and sends others
    /// before it.
    pub(super) fn may_hasten(&self, now: Duration, position: Position, due: Duration) -> bool {
        let later = |owed: &Owed| owed.due > now + due + HASTEN;
        self.may_release(now)
            && self.owed.get(&position).is_some_and(later)
            && self.takes_for(now, position).is_some_and(|(_, waits)| waits)
    }

    /// What it owes is due sooner than was said. False: it does not owe it. If it is on its way
    /// already, it comes twice.
    pub(super) fn hasten(&mut self, now: Duration, position: Position, due: Option<Duration>) -> bool {
        let Some(owed) = self.owed.get_mut(&position) else { return false };
        owed.due = owed.due.min(due.map_or(Duration::MAX, |due| now + due));
        self.may_still_come(now, position);
        true
    }

    /// Takes a request back, if that may be.
    pub(super) fn release(&mut self, now: Duration, position: Position) -> bool {
        if !self.may_release(now) || self.owed.remove(&position).is_none() {
            return false;
        }
        self.may_still_come(now, position);
        self.cancels.push(position);
        self.settle();
        true
    }

    /// A block may come that is not owed any more, or once more. What did not come for long is forgotten, so that
    /// there are never more than [`MAX_RELEASED`]: the caller has asked [`Session::may_release`].
    fn may_still_come(&mut self, now: Duration, position: Position) {
        while self.released.front().is_some_and(|(_, at)| now.saturating_sub(*at) > RELEASED_FOR) {
            self.released.pop_front();
        }
        self.released.push_back((position, now));
    }

    /// When a block was asked for, among the others that are owed.
    pub(super) fn turn_of(&self, position: Position) -> Option<u64> {
        self.owed.get(&position).map(|owed| owed.turn)
    }

    /// Whether it still owes a block that it was asked for before that one.
    pub(super) fn owes_before(&self, position: Position, turn: Option<u64>) -> bool {
        self.turn_of(position).zip(turn).is_some_and(|(before, turn)| before < turn)
    }

    /// Whether something may be taken back from it.
    pub(super) fn may_release(&self, now: Duration) -> bool {
        let lives = |(_, at): &&(Position, Duration)| now.saturating_sub(*at) <= RELEASED_FOR;
        self.released.iter().filter(lives).count() < MAX_RELEASED
    }

    /// A block came, or the answer that there is none. `None`: it was not asked for; else when it was,
    /// unless it had been taken back.
    pub(super) fn answered(&mut self, now: Duration, position: Position) -> Option<Option<Duration>> {
        let asked = self.owed.remove(&position).map(|owed| owed.asked);
        if asked.is_none() {
            let at = self.released.iter().position(|(p, _)| *p == position)?;
            self.released.remove(at);
            self.cancels.retain(|p| *p != position);
        }
        self.last_arrival = now;
        Some(asked)
    }

    /// Counts what came, after [`Session::answered`].
    pub(super) fn came(&mut self, now: Duration, asked: Option<Duration>) {
        if let Some(asked) = asked {
            self.round_trip = self.round_trip.min(now.saturating_sub(asked));
        }
        if let Some((_, bytes)) = &mut self.tick {
            *bytes += SEALED_LEN as u64;
        } else if let Some((since, bytes)) = &mut self.busy {
            *bytes += SEALED_LEN as u64;
            let time = now.saturating_sub(*since);
            let is_long = time >= self.round_trip.clamp(MEASURE.0, MEASURE.1);
            if *bytes > SEALED_LEN as u64 && (is_long || self.owed.is_empty()) {
                let (old_bytes, old_seconds) = self.seen;
                let seconds = old_seconds * OLDER + time.as_secs_f64().max(1e-4);
                self.seen = (old_bytes * OLDER + *bytes as f64, seconds);
                self.rate = self.seen.0 / seconds;
                (*since, *bytes) = (now, 0);
            }
        }
        self.settle();
    }

    /// What is measured while nothing is owed says nothing.
    fn settle(&mut self) {
        if self.owed.is_empty() {
            self.busy = None;
        }
    }

    /// One of its ticks; what came since the last says how fast the path is.
    pub(super) fn ticked(&mut self, now: Duration) {
        if let Some((last, bytes)) = self.tick {
            let seconds = now.saturating_sub(last).as_secs_f64().max(0.02);
            let seen = bytes as f64 / seconds;
            // Up at once, down slowly: a pause of the reader says nothing of the path.
            let weight = if seen > self.rate { 0.5 } else { 0.1 };
            self.rate += (seen - self.rate) * weight;
        }
        self.tick = Some((now, 0));
    }

    // Estimates.

    /// Bytes a second, as far as is known.
    pub(super) fn rate(&self) -> f64 {
        let guess = FIRST_BLOCKS * SEALED_LEN as f64 / self.round_trip.as_secs_f64().max(0.05);
        if self.rate > 0.0 { self.rate.max(1.0) } else { guess }
    }

    /// Blocks that should be on their way: twice what the path holds, as it holds whole blocks and the first
    /// of them has to leave before the time is measured that it takes.
    pub(super) fn depth(&self, sessions: usize, whole: bool) -> usize {
        if self.tick.is_some() {
            // All that is needed until its next turn and a round trip after it, with room to grow: less where
            // somebody may go elsewhere and would wait for what is under way.
            let ahead = TICK_AHEAD * sessions as u32 + self.round_trip.min(Duration::from_secs(5));
            let (room, least) = if whole { (1.5, 8) } else { (1.25, 4) };
            let in_path = room * self.rate * ahead.as_secs_f64() / SEALED_LEN as f64;
            return (in_path as usize + least).min(MAX_DEPTH_ONION);
        }
        let in_path = 2.0 * self.rate * self.round_trip.as_secs_f64() / SEALED_LEN as f64;
        (in_path.ceil() as usize + 1).clamp(MIN_DEPTH, MAX_DEPTH)
    }

    /// How long one more block would take that is due so soon.
    pub(super) fn takes(&self, now: Duration, due: Option<Duration>) -> Duration {
        let due = due.map_or(Duration::MAX, |due| now + due);
        self.time_for(self.owed.values().filter(|owed| owed.due <= due).count() + 1)
    }

    fn time_for(&self, blocks: usize) -> Duration {
        let seconds = blocks as f64 * SEALED_LEN as f64 / self.rate();
        Duration::from_secs_f64(seconds.min(3600.0)).max(self.round_trip)
    }

    /// Whether it owes a block by its deadline and others before it.
    pub(super) fn waits_by_deadline(&self, now: Duration, position: Position) -> bool {
        let has_deadline = self.owed.get(&position).is_some_and(|owed| owed.due != Duration::MAX);
        has_deadline && self.takes_for(now, position).is_some_and(|(_, waits)| waits)
    }

    /// How long a block that it owes takes from now on, and whether others are before it.
    pub(super) fn takes_for(&self, now: Duration, position: Position) -> Option<(Duration, bool)> {
        let owed = self.owed.get(&position)?;
        let before = self.owed.values().filter(|o| (o.due, o.turn) < (owed.due, owed.turn)).count();
        // What should have been here by now is not nearer for it.
        let late = now.saturating_sub(self.last_arrival);
        // Holders have an order of their own: what was due long ago is not.
        let age = now.saturating_sub(owed.asked);
        let takes = self.time_for(before + 1);
        let takes = if age > takes * 2 { age } else { takes };
        Some((takes.max(late), before > 0))
    }
}

/// Whether a map of spans names one.
pub(super) fn has_span(map: &[u8], span: u64) -> bool {
    map.get((span / 8) as usize).is_some_and(|byte| byte >> (span % 8) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kith_crypto::content::Geometry;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_rate_is_what_came_while_something_was_owed() {
        let mut session = Session::new(Duration::ZERO, None);
        let mut now = Duration::ZERO;
        for index in 0..200 {
            session.owe(now, Position::Data(index), None);
            // A pause in which nothing was wanted does not count.
            if index % 10 == 9 {
                now += 100 * MS;
                while let Some((position, _)) = session.owed.first_key_value() {
                    let position = *position;
                    now += 10 * MS;
                    let asked = session.answered(now, position).expect("it was asked for");
                    session.came(now, asked);
                }
                now += Duration::from_secs(5);
            }
        }
        // Ten blocks in 200 ms each time.
        let expected = 10.0 * SEALED_LEN as f64 / 0.2;
        assert!((session.rate() / expected - 1.0).abs() < 0.3, "{} {expected}", session.rate());
    }

    #[test]
    fn what_was_taken_back_may_still_come_once() {
        let mut session = Session::new(Duration::ZERO, None);
        session.owe(Duration::ZERO, Position::Data(1), None);
        assert!(session.release(Duration::ZERO, Position::Data(1)));
        assert!(!session.release(Duration::ZERO, Position::Data(1)));
        assert_eq!(session.cancels, [Position::Data(1)]);
        assert_eq!(session.answered(MS, Position::Data(1)), Some(None));
        assert_eq!(session.answered(MS, Position::Data(1)), None);
        for index in 0..=MAX_RELEASED as u64 {
            session.owe(MS, Position::Data(index), None);
            assert_eq!(session.release(MS, Position::Data(index)), index < MAX_RELEASED as u64);
        }
        session.owe(MS, Position::Data(7), None);
        assert!(session.release(MS + RELEASED_FOR + MS, Position::Data(7)), "old ones are forgotten");
    }

    #[test]
    fn what_is_due_sooner_than_was_said_is_asked_for_again_and_may_come_twice() {
        let mut session = Session::new(Duration::ZERO, None);
        let seconds = Duration::from_secs;
        session.owe(MS, Position::Data(1), Some(seconds(3)));
        session.owe(MS, Position::Data(2), None);
        assert!(session.may_hasten(MS, Position::Data(2), seconds(1)));
        assert!(!session.may_hasten(MS, Position::Data(1), Duration::ZERO), "it is the next there");
        assert!(session.hasten(MS, Position::Data(2), Some(seconds(1))));
        assert!(!session.hasten(MS, Position::Data(3), None), "it was never asked for");
        assert!(!session.may_hasten(MS, Position::Data(2), Duration::ZERO), "it was just said");
        assert_eq!(session.answered(2 * MS, Position::Data(2)), Some(Some(MS)));
        assert_eq!(session.answered(3 * MS, Position::Data(2)), Some(None), "it was on its way already");
        assert_eq!(session.answered(4 * MS, Position::Data(2)), None);
        // However long it goes on, what may come twice is bounded.
        let mut now = 5 * MS;
        session.owe(now, Position::Data(9), Some(Duration::ZERO));
        for index in 10..2_000 {
            now += seconds(3);
            session.owe(now, Position::Data(index), None);
            if session.may_hasten(now, Position::Data(index), seconds(1)) {
                session.hasten(now, Position::Data(index), Some(seconds(1)));
            }
            session.answered(now, Position::Data(index));
            assert!(session.released.len() <= MAX_RELEASED);
        }
        assert!(session.released.iter().all(|(_, at)| *at + RELEASED_FOR >= now), "and forgotten");
    }

    #[test]
    fn who_puts_off_what_can_wait_is_asked_for_less_of_that_until_it_gives_some() {
        let mut session = Session::new(Duration::ZERO, None);
        session.spans = Geometry::of(10_000).map(Spans::of);
        let (mut now, mut waits) = (MS, Vec::new());
        for index in (0..6).map(|span| span * 16) {
            session.owe(now, Position::Data(index), None);
            assert!(session.put_off(now, Position::Data(index)));
            session.answered(now, Position::Data(index)).unwrap();
            assert!(!session.has_data(index + 1) && session.has_due(index + 1), "the whole span waits");
            let begun = now;
            while !session.may_go_ahead(now) {
                now += 50 * MS;
            }
            waits.push((now - begun).as_millis());
        }
        assert_eq!(waits, [250, 500, 1_000, 2_000, 4_000, 4_000]);
        session.owe(now, Position::Data(200), None);
        session.gives(Position::Data(200));
        assert!(session.may_go_ahead(Duration::ZERO));
        // What is due soon is not put off.
        session.owe(now, Position::Data(300), Some(Duration::from_secs(2)));
        assert!(!session.put_off(now, Position::Data(300)));
        session.forget_put_off(now + LATER);
        assert!(session.has_data(1));
    }

    #[test]
    fn holders_of_parts_say_more_and_at_last_all() {
        let mut session = Session::new(Duration::ZERO, None);
        session.spans = Geometry::of(10_000).map(Spans::of);
        assert_eq!(session.tell_more(&[1], None), None, "nothing was told yet");
        assert!(session.has_data(99) && session.tell(Have::Spans(vec![1])));
        assert!(session.has_data(15) && !session.has_data(16));
        assert_eq!(session.tell_more(&[1, 9], Some(10)), Some(true));
        assert!(session.has_data(16) && session.has_data(9 * 16));
        assert_eq!(session.tell_more(&[9, 1], Some(10)), Some(false), "nothing new");
        assert_eq!(session.tell_more(&[10], Some(10)), None);
        assert_eq!(session.tell_more(&[MAX_SPANS], None), None);
        assert!(!session.tell(Have::Spans(vec![7])) && session.tell(Have::All) && session.has_data(999));
        assert!(!session.tell(Have::All) && session.tell_more(&[2], None).is_none());
    }

    #[test]
    fn a_holder_of_parts_lacks_a_few_and_not_many() {
        let mut session = Session::new(Duration::ZERO, None);
        session.tell(Have::Spans(vec![0xff; 100]));
        for index in 0..MAX_LACKS as u64 {
            assert!(session.lack(Position::Data(index)) && !session.has_data(index));
        }
        assert!(!session.lack(Position::Data(99)));
        // Node blocks above nothing that it has, it never said it had.
        session.spans = Geometry::of(100_000).map(Spans::of);
        assert!(session.may_have(Position::Node(6)) && !session.may_have(Position::Node(7)));
        assert!(session.lack(Position::Node(7)) && !session.lack(Position::Node(6)));
        session.tell(Have::All);
        assert!(!session.lack(Position::Data(200)), "who says all has all");
    }
}
