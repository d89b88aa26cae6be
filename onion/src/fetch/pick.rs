//! Which block to ask a session for next. Source of the rules: `docs/protocol/swarm.md`.
//!
//! A reader's next seconds go strictly by deadline, each block to a session that brings it in time,
//! holders of parts before complete ones. A quarter of the requests, and all that readers leave, go to
//! what fewest holders have. Who has nothing else to do asks again for what is late elsewhere.

use super::session::{Has, Session, has_span};
use super::{Fetch, Received, SessionId};
use crate::session::Spans;
use kith_crypto::content::{Geometry, Position, SEALED_LEN};
use std::time::Duration;

/// Where a reader stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The data block that it reads.
    pub block: u64,
    /// Bytes a second that it goes through.
    pub pace: u64,
    /// How much it has in hand before it needs that block.
    pub in_hand: Duration,
}

impl Place {
    /// A place in something of unknown length: four megabits a second.
    pub const fn unpaced(block: u64) -> Self {
        Self::new(block, 500_000)
    }

    /// A place with nothing in hand.
    pub const fn new(block: u64, pace: u64) -> Self {
        Self { block, pace, in_hand: Duration::ZERO }
    }

    /// When a reader who goes on from here needs a block.
    fn due(&self, block: u64) -> Duration {
        let ahead = block.saturating_sub(self.block) as f64;
        self.in_hand + Duration::from_secs_f64((ahead * SEALED_LEN as f64 / self.pace.max(1) as f64).min(1e6))
    }

    /// Blocks that it needs within so much time.
    fn within(&self, time: Duration) -> u64 {
        let time = time.saturating_sub(self.in_hand);
        (time.as_secs_f64() * self.pace as f64 / SEALED_LEN as f64).ceil().min(1e9) as u64
    }
}

#[derive(Debug)]
pub(super) struct Reader {
    pub(super) id: u64,
    pub(super) place: Place,
    /// When it stood there.
    at: Duration,
}

/// A block to ask for: when it is due, if a reader needs it soon, and from whom it is taken back.
#[derive(Debug)]
pub(super) struct Pick {
    pub(super) position: Position,
    pub(super) due: Option<Duration>,
    pub(super) from: Option<SessionId>,
}

impl Pick {
    const fn new(position: Position, due: Option<Duration>) -> Self {
        Self { position, due, from: None }
    }
}

/// What readers need within this, and within [`WINDOW_TRIPS`] round trips, is asked for by deadline.
const WINDOW: Duration = Duration::from_secs(20);
const WINDOW_TRIPS: u32 = 3;
/// Blocks that are due so soon are asked of anybody, and twice if they have to wait.
const URGENT: Duration = Duration::from_secs(4);
/// With so much ahead of every reader, one request in [`RARE_SHARE`] goes to what is rare.
const CALM: Duration = Duration::from_secs(5);
const RARE_SHARE: u64 = 4;
/// With less than this ahead a reader waits, or is about to.
const STARVED: Duration = Duration::from_secs(1);
/// All that it needs within this is due at once then.
const CATCH_UP: Duration = Duration::from_secs(2);
/// What is due soon is left to holders of parts if they bring it so much sooner.
const SPARE: Duration = Duration::from_secs(1);
/// Of so many blocks one is asked of a complete holder although a holder of parts has it.
const COMPLETE_SHARE: u64 = 20;
/// Holders of parts together suffice when they bring this much of what the complete one would, or of the
/// readers' pace.
const PARTS_OF_COMPLETE: f64 = 0.5;
const PARTS_OF_PACE: f64 = 1.5;
/// Ahead of readers at most so many times their pace is asked for.
const AHEAD: f64 = 4.0;
/// And saved up for so many seconds.
const AHEAD_BURST_S: f64 = 4.0;
/// One block in so many may come twice, and a few more.
const TWICE_SHARE: u64 = 50;
const TWICE_FREE: u64 = 4;
/// Readers that stand still for so long get nothing more than their window.
const STILL: Duration = Duration::from_secs(60);
/// A holder of parts that takes longer than this is passed over, and what it owes may be taken back for a
/// complete holder.
const TOO_LONG: Duration = Duration::from_secs(8);
/// What takes twice as long elsewhere, and this, is taken over, or asked for again if it is the next
/// there.
const TAKEOVER: Duration = Duration::from_millis(500);
const SILENT: Duration = Duration::from_secs(2);
/// A reader that moves on by fewer blocks goes on reading; else it has gone elsewhere.
const STRIDE: u64 = 64;
/// Blocks of a window that are looked at for one request.
const MAX_LOOKED_AT: usize = 512;
/// Deadlines are looked at so often while something else than an arrival may decide.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(250);

impl Fetch {
    /// A reader stands somewhere (`None`: it is gone). What it needs soon comes first.
    pub fn set_reader(&mut self, now: Duration, id: u64, place: Option<Place>) {
        let before = self.readers.iter().find(|reader| reader.id == id).map(|reader| reader.place);
        self.readers.retain(|reader| reader.id != id);
        if place != before {
            self.moved_at = Some(now);
        }
        match place {
            Some(place) => self.readers.push(Reader { id, place, at: now }),
            None => {
                let before = before.map(|place| Place { in_hand: Duration::ZERO, ..place });
                self.last_place = before.or(self.last_place);
            }
        }
        let goes_on = |before: Place| {
            place.is_some_and(|place| {
                (before.block..before.block.saturating_add(STRIDE)).contains(&place.block)
            })
        };
        if !before.is_some_and(goes_on) {
            self.forsake(now);
        }
    }

    /// What was asked for by deadline and no reader needs soon any more is taken back, where it waits: it
    /// would come before what is needed now.
    fn forsake(&mut self, now: Duration) {
        if self.whole {
            return;
        }
        let time = self.window();
        let wanted: Vec<_> =
            self.places(now).map(|p| p.block..p.block.saturating_add(p.within(time).max(1))).collect();
        let of_no_use = |position: &Position| match position {
            Position::Data(index) => !wanted.iter().any(|range| range.contains(index)),
            _ => false,
        };
        let mut back = Vec::new();
        for (position, asked) in self.asked.iter().filter(|(position, _)| of_no_use(position)) {
            for id in [Some(asked.first), asked.second].into_iter().flatten() {
                let waits = self.sessions.get(&id).is_some_and(|s| s.waits_by_deadline(now, *position));
                back.extend(waits.then_some((*position, id)));
            }
        }
        for (position, id) in back {
            if self.sessions.get_mut(&id).is_some_and(|s| s.release(now, position))
                && !self.asked.get_mut(&position).is_some_and(|asked| asked.drop(id))
            {
                self.asked.remove(&position);
            }
        }
    }

    /// How far ahead readers are served by deadline.
    fn window(&self) -> Duration {
        let slowest = self.sessions.values().map(|s| s.round_trip).max().unwrap_or_default();
        WINDOW.max(slowest * WINDOW_TRIPS)
    }

    /// What was read last, or is read: the last reader first. Where nobody reads yet, it will be from
    /// the beginning. What readers have in hand they use up.
    fn places(&self, now: Duration) -> impl Iterator<Item = Place> + '_ {
        let gone = self.readers.is_empty() && !self.whole;
        let rest = gone.then(|| self.last_place.unwrap_or(Place::unpaced(0)));
        let aged = move |reader: &Reader| {
            let in_hand = reader.place.in_hand.saturating_sub(now.saturating_sub(reader.at));
            Place { in_hand, ..reader.place }
        };
        self.readers.iter().rev().map(aged).chain(rest)
    }

    pub(super) fn first_missing(&self) -> Option<u64> {
        let end = self.geometry()?.data_count();
        let from = self.places(Duration::ZERO).next().map_or(0, |place| place.block).min(end);
        self.have.next_empty(from, end).or_else(|| self.have.next_empty(0, from))
    }

    /// How much is here ahead of the reader with the least.
    pub fn buffered(&self, now: Duration) -> Option<Duration> {
        let geometry = self.geometry()?;
        let end = geometry.data_count();
        let ahead = |place: Place| match self.have.next_empty(place.block.min(end), end) {
            Some(missing) => place.due(missing),
            None => Duration::MAX,
        };
        self.places(now).take(self.readers.len()).map(ahead).min()
    }

    /// What to ask a session for; without `more` only what a reader needs soon.
    pub(super) fn pick(
        &mut self,
        now: Duration,
        geometry: Geometry,
        id: SessionId,
        more: bool,
    ) -> Option<Pick> {
        self.picks = self.picks.wrapping_add(1);
        let session = self.sessions.get(&id)?;
        let head = Position::Head;
        if self.is_free(geometry, head) && session.may_have(head) {
            return Some(Pick::new(head, Some(Duration::ZERO)));
        }
        let may = more && session.may_go_ahead(now);
        let ahead = may && self.may_go_ahead(now);
        if ahead
            && self.picks.is_multiple_of(RARE_SHARE)
            && self.buffered(now).is_some_and(|buffered| buffered >= CALM)
            && let Some(pick) = self.pick_ahead(now, geometry, id)
        {
            return Some(pick);
        }
        let found = if self.rules.by_deadline { self.pick_due(now, geometry, id) } else { None };
        let found = found.or_else(|| if ahead { self.pick_ahead(now, geometry, id) } else { None });
        let found = found.or_else(|| if ahead { self.missing_node(geometry, id) } else { None });
        found.or_else(|| if more { self.take_over(now, id) } else { None })
    }

    fn is_free(&self, geometry: Geometry, p: Position) -> bool {
        geometry.slot(p).is_some_and(|slot| !self.have.has(slot)) && !self.asked.contains_key(&p)
    }

    // By deadline.

    fn pick_due(&self, now: Duration, geometry: Geometry, id: SessionId) -> Option<Pick> {
        let time = self.window();
        self.places(now).find_map(|place| {
            let end = place.block.saturating_add(place.within(time)).min(geometry.data_count());
            self.pick_in_window(now, geometry, id, place, end)
        })
    }

    fn pick_in_window(
        &self,
        now: Duration,
        geometry: Geometry,
        id: SessionId,
        place: Place,
        end: u64,
    ) -> Option<Pick> {
        let session = self.sessions.get(&id)?;
        let mut next = self.have.next_empty(place.block, end);
        // A reader that is about to wait goes on when it has a few seconds again: they are all due.
        let waits = next.is_some_and(|index| place.due(index) < STARVED);
        let needs = if waits { CATCH_UP } else { Duration::ZERO };
        for _ in 0..MAX_LOOKED_AT {
            let Some(index) = next else { break };
            next = self.have.next_empty(index + 1, end);
            let due = place.due(index).saturating_sub(needs);
            let may = session.has_data(index) || due < URGENT && session.has_due(index);
            if !may {
                continue;
            }
            let position = Position::Data(index);
            if self.asked.contains_key(&position) {
                if due < URGENT && session.may_hasten(now, position, due) {
                    return Some(Pick::new(position, Some(due)));
                }
                if let Some(pick) = self.sooner_from(now, id, session, position, due) {
                    return Some(pick);
                }
                continue;
            }
            if self.leaves_to_others(now, id, session, index, Some(due)) {
                continue;
            }
            if let Some(position) = self.with_node(geometry, index, id) {
                return Some(Pick::new(position, Some(due)));
            }
        }
        None
    }

    /// A block that is due and will be late where it was asked for: what waits there behind others is
    /// taken over, what should have come is asked for a second time.
    fn sooner_from(
        &self,
        now: Duration,
        id: SessionId,
        session: &Session,
        position: Position,
        due: Duration,
    ) -> Option<Pick> {
        if due >= URGENT {
            return None;
        }
        // What cannot be verified yet comes later; the node block that it waits for may come sooner.
        let position = match position {
            Position::Data(index) => {
                let geometry = self.geometry()?;
                let above = || geometry.parent(index).map(Position::Node);
                self.with_node(geometry, index, id).or_else(above)?
            }
            other => other,
        };
        let Some(asked) = self.asked.get(&position) else { return Some(Pick::new(position, Some(due))) };
        if asked.second.is_some() || asked.first == id || !session.may_have(position) {
            return None;
        }
        let other = self.sessions.get(&asked.first)?;
        let (takes, waits) = other.takes_for(now, position)?;
        let waits = waits && other.may_release(now);
        let mine = session.takes(now, Some(due));
        let late = takes > due && takes > mine * 2 + if waits { Duration::ZERO } else { TAKEOVER };
        let from = waits.then_some(asked.first);
        (late && (waits || self.may_ask_twice())).then_some(Pick { position, due: Some(due), from })
    }

    /// Asking twice costs others what they could have got: it is kept to a small share of what came.
    fn may_ask_twice(&self) -> bool {
        let Received { useful, wasted } = self.received;
        let twice = self.asked.values().filter(|asked| asked.second.is_some()).count() as u64;
        wasted + twice <= TWICE_FREE + useful / TWICE_SHARE
    }

    /// The block itself, or the node block that proves it and comes first. `None`: another session brings
    /// that one.
    fn with_node(&self, geometry: Geometry, index: u64, id: SessionId) -> Option<Position> {
        let position = Position::Data(index);
        let Some(node) = geometry.parent(index) else { return Some(position) };
        let above = Position::Node(node);
        if self.tree.as_ref().is_some_and(|tree| tree.has_node(node)) {
            return Some(position);
        }
        match self.asked.get(&above) {
            None => Some(above).filter(|above| self.sessions.get(&id).is_some_and(|s| s.may_have(*above))),
            // The same session brings the node first; another's may come later.
            Some(asked) if asked.is_of(id) => Some(position),
            Some(_) => None,
        }
    }

    /// Whether a block that nobody was asked for is better asked of somebody else.
    fn leaves_to_others(
        &self,
        now: Duration,
        id: SessionId,
        session: &Session,
        index: u64,
        due: Option<Duration>,
    ) -> bool {
        let mine = session.takes(now, due);
        let sessions = self.sessions.len();
        let others = || {
            let all = self.sessions.iter().filter(|(other, _)| **other != id);
            all.map(|(_, other)| other).filter(|other| other.has_data(index))
        };
        // A complete holder gives what others have not, or what cannot wait.
        let exempt = (self.seed ^ index).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        if self.rules.parts_first
            && !session.is_partial()
            && !exempt.is_multiple_of(COMPLETE_SHARE)
            && others().any(|other| other.is_partial() && is_in_time(other.takes(now, due), due))
            && (!self.whole || self.parts_suffice(now, session))
        {
            return true;
        }
        // What would come too late from here and sooner from somebody with room.
        let has_room = |other: &Session| other.owed.len() < other.depth(sessions, self.whole);
        due.is_some_and(|due| mine > due)
            && others().any(|other| other.takes(now, due) < mine && has_room(other))
    }

    /// Whether holders of parts bring enough together that a complete one is spared: as much as readers
    /// go through, and some, or at least half of what it would bring.
    fn parts_suffice(&self, now: Duration, complete: &Session) -> bool {
        let parts: f64 = self.sessions.values().filter(|s| s.is_partial()).map(Session::rate).sum();
        let pace = self.places(now).map(|place| place.pace).max().unwrap_or_default() as f64;
        parts >= complete.rate() * PARTS_OF_COMPLETE || !self.whole && parts >= pace * PARTS_OF_PACE
    }

    // Ahead of readers.

    /// Whether more than readers need soon may be asked for now.
    fn may_go_ahead(&mut self, now: Duration) -> bool {
        if self.whole {
            return true;
        }
        let pace = self.places(now).map(|place| place.pace).max().unwrap_or_default();
        let a_second = (AHEAD * pace as f64 / SEALED_LEN as f64).max(0.1);
        let (blocks, at) = self.ahead;
        let passed = now.saturating_sub(at).as_secs_f64();
        let blocks = (blocks + passed * a_second).min((AHEAD_BURST_S * a_second).max(1.0));
        self.ahead = (blocks, now);
        if self.moved_at.is_some_and(|at| now.saturating_sub(at) >= STILL) {
            return false;
        }
        if blocks < 1.0 {
            self.look_again(now + Duration::from_secs_f64((1.0 - blocks) / a_second).max(LOOK_EVERY / 5));
        }
        blocks >= 1.0
    }

    /// What is not needed soon: where everybody has everything in order, else what is rarest.
    fn pick_ahead(&mut self, now: Duration, geometry: Geometry, id: SessionId) -> Option<Pick> {
        let found = match self.rules.rarest && self.sessions.values().any(Session::is_partial) {
            true => self.pick_rarest(now, geometry, id),
            false => self.pick_in_order(now, geometry, id),
        };
        if found.is_some() && !self.whole {
            self.ahead.0 -= 1.0;
        }
        // What happens to be needed soon is due then: holders send others before what is in no hurry.
        let window = self.window();
        let due = |position: &Position| {
            let dues = self.places(now).filter_map(|place| match position {
                Position::Data(index) if *index >= place.block => Some(place.due(*index)),
                _ => None,
            });
            dues.min().filter(|due| *due < window)
        };
        found.map(|position| Pick::new(position, due(&position)))
    }

    fn pick_in_order(&mut self, now: Duration, geometry: Geometry, id: SessionId) -> Option<Position> {
        let end = geometry.data_count();
        let from = self.places(now).next().map(|place| place.block);
        let found = from.and_then(|from| self.next_free(geometry, from, end, id));
        let found = found.or_else(|| self.next_free(geometry, self.cursor, end, id));
        let found = found.or_else(|| self.next_free(geometry, 0, self.cursor.min(end), id));
        // Everything before the first missing block is here: later scans start there.
        self.cursor = self.have.next_empty(self.cursor, end).unwrap_or(0);
        found
    }

    fn next_free(&self, geometry: Geometry, from: u64, end: u64, id: SessionId) -> Option<Position> {
        let session = self.sessions.get(&id)?;
        let mut index = self.have.next_empty(from, end)?;
        loop {
            if !self.asked.contains_key(&Position::Data(index))
                && session.has_data(index)
                && let Some(position) = self.with_node(geometry, index, id)
            {
                return Some(position);
            }
            index = self.have.next_empty(index + 1, end)?;
        }
    }

    /// A span is asked for to its end, so that it can be passed on soon.
    fn pick_rarest(&mut self, now: Duration, geometry: Geometry, id: SessionId) -> Option<Position> {
        let begun = self.sessions.get(&id).and_then(|session| session.span);
        if let Some(position) = begun.and_then(|span| self.free_in_span(now, geometry, span, id)) {
            return Some(position);
        }
        // Nothing was found lately, and nothing has changed since.
        if self.sessions.get(&id)?.found_nothing.is_some_and(|until| now < until) {
            return None;
        }
        let found = self.rarest_span(now, geometry, id);
        let session = self.sessions.get_mut(&id)?;
        session.found_nothing = found.is_none().then_some(now + LOOK_EVERY);
        let (span, position) = found?;
        session.span = Some(span);
        Some(position)
    }

    fn free_in_span(&self, now: Duration, geometry: Geometry, span: u64, id: SessionId) -> Option<Position> {
        let session = self.sessions.get(&id)?;
        let free = |index: &u64| {
            let slot = !self.have.has(*index) && !self.asked.contains_key(&Position::Data(*index));
            slot && session.has_data(*index) && !self.leaves_to_others(now, id, session, *index, None)
        };
        Spans::of(geometry).range(span).filter(free).find_map(|index| self.with_node(geometry, index, id))
    }

    /// The span that fewest sessions have; among equals the nearer ones, and by chance.
    pub(super) fn rarest_span(
        &self,
        now: Duration,
        geometry: Geometry,
        id: SessionId,
    ) -> Option<(u64, Position)> {
        let mut best: Option<(f64, u64, Position)> = None;
        let place = self.places(now).next();
        let mine = self.sessions.get(&id)?;
        let maps: Vec<Option<&[u8]>> = self.sessions.values().map(|s| span_map(&s.has)).collect();
        let spans = Spans::of(geometry);
        for span in 0..spans.count() {
            if span_map(&mine.has).is_some_and(|map| !has_span(map, span)) || self.is_whole(geometry, span) {
                continue;
            }
            let holders = maps.iter().filter(|map| map.is_none_or(|map| has_span(map, span))).count();
            let chance = (self.seed ^ span).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            let chance = chance as f64 / (1_u64 << 24) as f64;
            // As a share of the object, so that no distance counts as much as a holder.
            let from = place.map_or(0, |place| spans.of_block(place.block));
            let far = span.saturating_sub(from) as f64 / spans.count().max(1) as f64;
            let score = holders as f64 + (chance + far) / 2.0;
            if best.is_none_or(|(least, ..)| score < least)
                && let Some(position) = self.free_in_span(now, geometry, span, id)
            {
                best = Some((score, span, position));
            }
        }
        best.map(|(_, span, position)| (span, position))
    }

    /// Node blocks whose data are all here, and that were not.
    fn missing_node(&self, geometry: Geometry, id: SessionId) -> Option<Pick> {
        let session = self.sessions.get(&id)?;
        let mut nodes = (0..geometry.node_count()).map(Position::Node);
        let found = nodes.find(|p| self.is_free(geometry, *p) && session.may_have(*p));
        found.map(|position| Pick::new(position, None))
    }

    // From somebody else.

    /// Something that is late at a slow session, for one that has nothing to do: what waits there is taken
    /// over, what should have come is asked for again.
    fn take_over(&self, now: Duration, id: SessionId) -> Option<Pick> {
        let session = self.sessions.get(&id)?;
        let mine = session.takes(now, None);
        let of_others = self.asked.iter().filter(|(position, asked)| {
            asked.first != id && asked.second.is_none() && session.may_have(**position)
        });
        let slow = of_others.filter_map(|(position, asked)| {
            let other = self.sessions.get(&asked.first)?;
            let (takes, waits) = other.takes_for(now, *position)?;
            let waits = waits && other.may_release(now);
            let first = match position {
                Position::Data(index) => self.with_node(self.geometry()?, *index, id)?,
                other => *other,
            };
            let spares = session.is_partial()
                || !other.is_partial()
                || takes > TOO_LONG
                || !self.parts_suffice(now, session);
            let may = waits || self.may_ask_twice();
            let late = may && takes > mine * 2 + if waits { TAKEOVER } else { SILENT };
            let from = (first == *position && waits).then_some(asked.first);
            (spares && late).then_some((takes, first, from))
        });
        let (_, position, from) = slow.max_by_key(|(takes, ..)| *takes)?;
        Some(Pick { position, due: None, from })
    }

    /// A holder of parts has got spans: what still waits for them at complete holders is asked of it
    /// instead.
    pub(super) fn hand_over(&mut self, now: Duration, id: SessionId, spans: &[u32]) {
        let Some(session) = self.sessions.get(&id) else { return };
        if session.takes(now, None) >= TOO_LONG {
            return;
        }
        let place = self.places(now).next();
        let urgent = |index: u64| place.is_some_and(|p| index >= p.block && p.due(index) < URGENT);
        let mut back = Vec::new();
        let Some(all) = self.geometry().map(Spans::of) else { return };
        for span in spans {
            for index in all.range((*span).into()).filter(|index| !urgent(*index)) {
                let position = Position::Data(index);
                let Some(asked) = self.asked.get(&position).filter(|asked| asked.second.is_none()) else {
                    continue;
                };
                let Some(holder) = self.sessions.get(&asked.first).filter(|s| !s.is_partial()) else {
                    continue;
                };
                if holder.takes_for(now, position).is_some_and(|(_, waits)| waits) {
                    back.push((position, asked.first));
                }
            }
        }
        for (position, holder) in back {
            if self.sessions.get_mut(&holder).is_some_and(|s| s.release(now, position)) {
                self.asked.remove(&position);
            }
        }
    }
}

/// Whether it is soon enough when a holder of parts takes so long, with time to spare for what is due soon.
fn is_in_time(takes: Duration, due: Option<Duration>) -> bool {
    match due {
        None => takes < TOO_LONG,
        Some(due) if due < URGENT => takes + SPARE < due,
        Some(due) => takes < due.min(TOO_LONG),
    }
}

const fn span_map(has: &Has) -> Option<&[u8]> {
    match has {
        Has::Untold | Has::All => None,
        Has::Spans(map) => Some(map.as_slice()),
    }
}
