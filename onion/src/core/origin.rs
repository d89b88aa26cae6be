//! Own circuits from their first cell to their last: building, the times of their cells, and what
//! travels in them. Which circuits there are is decided in `circuits.rs`.
//! Page: `docs/protocol/circuit.md`.
//!
//! Invariant: when a cell leaves here, and when a circuit ends, follows from times drawn in advance, from
//! what the owner starts, or from a tick, never from a reply; from the owner's request until some time after
//! its end one cell leaves at each tick, whatever came; and every reply of a circuit's end comes as long
//! after its question as all others on that circuit, so that no relay can tell how far away either of them
//! is.

use super::circuits::OWN;
use super::fetching::Gone;
use super::relaying::At;
use super::tunnels::TUNNEL_PROLOGUE;
use super::*;
use crate::cell::BODY_LEN;
use crate::circuit::{Create, MAX_ANSWERS, MAX_SPREAD, RELAYS, Relayed, StreamId, peek_record, write_record};
use crate::fetch::SessionId;
use crate::handle::{Listed, decode_list};
use crate::link::{TUNNEL_RECORD_LEN, open_record, seal_next};
use crate::route::{Pair, RouteName};
use crate::session::{Assembler, ByteQueue, Message};
use crate::tunnel::{ONION, Role, SourceState};
use kith_crypto::circuit::{Body, Building, CREATE_LEN, Layers};
use kith_crypto::noise::{Handshake, Pattern, Session};

mod streams;

/// Cells of an own circuit that may wait for the guard to take them.
const MAX_WAITING: usize = 128;
/// An end that says nothing about a request for so long has failed.
const SEARCH_PATIENCE: Duration = Duration::from_secs(10);
/// Cells for streams that are over that one circuit may bring: all that a fetch may have asked for (320
/// blocks), and all windows on the way.
const MAX_IGNORED: u32 = 6144;
/// Ticks go on for up to so long after the last use: when the last block came shows in nothing.
const TAIL: Duration = Duration::from_secs(8);
/// Requests of one tick: they fill a cell.
const WANTS_A_TICK: usize = 8;
/// Waits are never shorter, however far away the end is.
const SHORTEST_WAIT: Duration = Duration::from_millis(20);

/// The law that the times of a circuit's cells follow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Law {
    /// Gaps between cells: this and an exponential draw with this mean.
    floor: Duration,
    mean: Duration,
    quick: Duration,
    /// Range of response times, and how much each answer differs.
    response: (Duration, Duration),
    jitter: Duration,
}

impl Law {
    pub(super) fn new(pace: Duration) -> Self {
        let floor = (pace / 6).clamp(Duration::from_millis(500), Duration::from_secs(10));
        // Shorter than the way to the end and back no answer can be.
        let least = (floor * 3 / 20).max((floor * 3 / 5).min(Duration::from_millis(300)));
        let quick = pace.min(Duration::from_secs(5));
        Self { floor, mean: pace, quick, response: (least, floor * 17 / 20), jitter: floor * 3 / 50 }
    }

    /// An exponential draw.
    pub(super) fn exponential(rng: &mut Rng, mean: Duration) -> Duration {
        let even = (rng.range(1, 1 << 53) as f64) / (1_u64 << 53) as f64;
        mean.mul_f64((-even.ln()).min(30.0))
    }

    fn gap(&self, rng: &mut Rng, quick: bool) -> Duration {
        self.floor + Self::exponential(rng, if quick { self.quick } else { self.mean })
    }

    /// A circuit's response time. A relay sees it less the round trip to the builder, and knows the
    /// range: with draws of the whole range it would know the round trip after some hundred circuits.
    /// So the larger part of it is drawn once for each guard (`share` of 1): however many circuits a
    /// relay sees, it learns the sum of that part and the round trip, and the one hides the other.
    fn response(&self, share: f64, rng: &mut Rng) -> Duration {
        let (low, high) = self.response;
        let kept = (high - low) * 5 / 8;
        low + kept.mul_f64(share) + Self::draw(rng, Duration::ZERO, high - low - kept)
    }

    fn draw(rng: &mut Rng, low: Duration, high: Duration) -> Duration {
        Duration::from_micros(rng.range(low.as_micros() as u64, high.as_micros() as u64))
    }
}

/// What a circuit waits for.
#[derive(Debug)]
enum Waiting {
    /// Until the time that any relay would wait for it.
    Create {
        building: Building,
        sent: Duration,
        until: Duration,
    },
    Extend {
        building: Building,
    },
    Ping {
        sent: Duration,
        wait: Duration,
    },
}

/// A hop that is chosen and stored.
#[derive(Clone, Copy, Debug)]
struct NextHop {
    entry: Listed,
    stored: bool,
}

/// What an own circuit is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Being built.
    Building,
    /// For whoever needs one.
    Ready,
    /// For this fetch of this object.
    Fetch(FetchId, Root),
    /// Was for this object; for nothing else any more.
    Spent(Root),
}

/// A request that waits for answers.
#[derive(Debug)]
struct OwnSearch {
    fetch: FetchId,
    base: StreamId,
    answered: u8,
    /// Second messages that came. The same one twice would make the same keys twice.
    seen: Vec<Vec<u8>>,
    /// Makes the first message of the handshake again, once for each answer.
    rng: Rng,
    psk: Key,
    until: Duration,
}

#[derive(Debug)]
struct OwnStream {
    fetch: FetchId,
    seal: Session,
    assembler: Assembler,
}

/// An own circuit.
#[derive(Debug)]
pub(crate) struct Own {
    /// Its first relay, and what that is by now.
    pub(super) guard: FriendKey,
    pub(super) pair: Pair,
    pub(super) slot: usize,
    at: At,
    layers: Layers,
    wanted: u8,
    waiting: Option<Waiting>,
    next_hop: Option<NextHop>,
    /// Cells answer so long after their question, and how far away the end is of that.
    response: Duration,
    round_trip: Duration,
    next_at: Duration,
    /// A cell came since the last time.
    heard: bool,
    /// What is to be said leaves at ticks. They go on while the circuit is in use, and for a random
    /// time after that, whatever comes.
    later: VecDeque<Box<Body>>,
    tick_at: Option<Duration>,
    ticks_until: Option<Duration>,
    /// The fetch that they are for.
    ticks_for: Option<FetchId>,
    /// It is used from then on: not because of the cell that completed it.
    ready_at: Duration,
    /// Something that came was wrong. It ends when its next cell would leave.
    dead: bool,
    /// Cells that came for what was over already.
    ignored: u32,
    quick: bool,
    pub(super) since: Duration,
    pub(super) until: Duration,
    pub(super) purpose: Use,
    search: Option<OwnSearch>,
    streams: BTreeMap<StreamId, OwnStream>,
    /// First stream that no request has used.
    next_stream: u16,
    /// One of its relays is this node.
    looped: bool,
    /// Names the route that it was built over.
    pub(super) route: Option<RouteName>,
}

impl Own {
    pub(super) fn relays(&self) -> u8 {
        self.layers.len() as u8
    }

    /// Whether a cell may still come for a stream that is over: only for one that was asked for, and
    /// only as many as may have been on their way. Anything else would be a mark that others can see.
    fn is_known(&mut self, stream: StreamId) -> bool {
        self.ignored += 1;
        (1..self.next_stream).contains(&stream) && self.ignored <= MAX_IGNORED
    }

    /// All its relays are there.
    pub(super) fn is_whole(&self) -> bool {
        self.layers.len() >= usize::from(self.wanted)
    }

    /// Whether somebody may use it for what was not asked for before.
    pub(super) fn is_ready(&self, now: Duration) -> bool {
        self.purpose == Use::Ready && self.ready_at <= now
    }

    /// It only waits to end.
    pub(super) const fn is_dead(&self) -> bool {
        self.dead
    }

    /// Nothing comes through it, and nobody is asked who has not answered.
    pub(super) fn is_idle(&self) -> bool {
        self.streams.is_empty() && self.search.as_ref().is_none_or(|s| s.answered > 0)
    }

    pub(super) fn poll_timeout(&self) -> Duration {
        let search = self.search.as_ref().map(|s| s.until);
        let create = match self.waiting {
            Some(Waiting::Create { until, .. }) => Some(until),
            _ => None,
        };
        [search, create, self.tick_at].into_iter().flatten().fold(self.next_at, Duration::min)
    }
}

impl Core {
    // Building.

    /// Starts a circuit over a route. False: its guard cannot be asked now.
    pub(super) fn start_circuit(&mut self, now: Now, pair: Pair, slot: usize, quick: bool) -> bool {
        let Some(guard) = self.circuits.routes.guard(pair) else { return false };
        let link = self.relay_link(guard).filter(|(conn, ..)| self.may_extend_more(0, *conn));
        let Some((conn, epoch, key)) = link else { return false };
        let Ok((building, message)) = Building::start(&key, epoch, &mut self.rng) else { return false };
        let own = self.circuits.next_own;
        self.circuits.next_own = (own + 1) & (OWN - 1);
        let create = Create { epoch, message };
        let Some(circ) = self.begin_circuit(now, conn, Role::Origin { own }, 0, &create) else {
            return false;
        };
        let law = self.circuits.law;
        let share = self.circuits.response_share(guard);
        let least = if self.budgets.defences.three_relays { *RELAYS.start() } else { 1 };
        let rng = &mut self.rng;
        let response = law.response(share, rng);
        let until = now.at + response + Law::draw(rng, Duration::ZERO, law.jitter);
        let life = if quick { (20 * 60, 55 * 60) } else { (3600, 4 * 3600) };
        let circuit = Own {
            guard,
            pair,
            slot,
            at: (conn, circ),
            layers: Layers::default(),
            wanted: self.circuits.settings.relays.clamp(least, *RELAYS.end()),
            waiting: Some(Waiting::Create { building, sent: now.at, until }),
            next_hop: None,
            response,
            round_trip: Duration::ZERO,
            next_at: now.at + law.gap(rng, quick),
            heard: false,
            later: VecDeque::new(),
            tick_at: None,
            ticks_until: None,
            ticks_for: None,
            ready_at: Duration::MAX,
            dead: false,
            ignored: 0,
            quick,
            since: now.at,
            until: now.at + Duration::from_secs(rng.range(life.0, life.1)),
            purpose: Use::Building,
            search: None,
            streams: BTreeMap::new(),
            next_stream: 1,
            looped: false,
            route: None,
        };
        self.circuits.own.insert(own, circuit);
        true
    }

    /// The guard answered.
    pub(super) fn own_created(&mut self, now: Now, id: u32, message: &[u8]) {
        let Some(own) = self.circuits.own.get_mut(&id) else { return };
        match own.waiting.take() {
            Some(Waiting::Create { building, sent, .. }) => {
                own.round_trip = now.at.saturating_sub(sent);
                self.hop_answered(now, id, building, message);
            }
            other => {
                own.waiting = other;
                self.own_dies(now, id, true);
            }
        }
    }

    /// A relay joined the circuit: the next one is chosen from its list, and stored before it is used.
    fn hop_answered(&mut self, now: Now, id: u32, building: Building, message: &[u8]) {
        let joined = building.finish(message).ok();
        let joined = joined.and_then(|(layer, list)| Some((layer, decode_list(&list).ok()?)));
        let unix_ms = now.unix_ms;
        let playback = self.fetch_waits_for_circuit();
        let Self { circuits, rng, budgets, .. } = self;
        let Some(own) = circuits.own.get_mut(&id) else { return };
        let pushed = joined.and_then(|(layer, list)| own.layers.push(layer).ok().map(|()| list));
        let Some(list) = pushed else { return self.own_dies(now, id, true) };
        let hop = own.layers.len();
        if own.is_whole() {
            return self.own_complete(now, id);
        }
        let step = match hop {
            1 => circuits.routes.second(own.pair, &list, unix_ms, playback, rng),
            _ => circuits.routes.next(own.pair, own.slot, hop, &list, unix_ms, playback, rng),
        };
        let entry = step.chosen.and_then(|handle| list.iter().find(|l| l.handle == handle));
        own.next_hop = entry.map(|entry| NextHop { entry: *entry, stored: !step.changed });
        // A hop that a list lacks for the moment is waited for: then there are enough.
        circuits.too_few |= own.pair == Pair::Primary && !circuits.routes.offers(own.pair, &list);
        if !budgets.defences.open_loop && !step.changed {
            own.next_at = now.at;
        }
        if step.changed {
            self.store_routes(Some(id));
        }
        if entry.is_none() {
            // Nobody to go on to: the list may be better later.
            self.own_dies(now, id, false);
        }
    }

    /// All relays are there. Fewer than three never carry anything, in any build.
    fn own_complete(&mut self, now: Now, id: u32) {
        let Some(own) = self.circuits.own.get_mut(&id) else { return };
        assert!(own.layers.len() >= usize::from(*RELAYS.start()), "a circuit has three relays at least");
        let (pair, slot) = (own.pair, own.slot);
        self.circuits.too_few = false;
        own.purpose = Use::Ready;
        if own.looped {
            // It is completed like any other, and then only kept up: nobody can tell by it.
            own.purpose = Use::Spent(Root([0; 32]));
        } else {
            own.route = Some(self.circuits.routes.route(pair, slot));
            self.circuits.routes.worked(pair, slot);
            self.circuits.too_few = false;
            let wait = self.second_thought();
            if let Some(own) = self.circuits.own.get_mut(&id) {
                own.ready_at = now.at + wait;
            }
        }
    }

    /// Routes that were chosen are stored.
    pub(super) fn routes_stored(&mut self, now: Now, id: Option<u32>) {
        self.circuits.storing = self.circuits.storing.saturating_sub(1);
        let Some(own) = id.and_then(|id| self.circuits.own.get_mut(&id)) else { return };
        own.next_hop.iter_mut().for_each(|hop| hop.stored = true);
        if !self.budgets.defences.open_loop {
            own.next_at = now.at;
        }
    }

    // Times.

    /// What is due on own circuits.
    pub(super) fn own_due(&mut self, now: Now) {
        let due = |own: &Own| own.poll_timeout() <= now.at;
        let ids: Vec<u32> = self.circuits.own.iter().filter(|(_, o)| due(o)).map(|(id, _)| *id).collect();
        for id in ids {
            let Some(own) = self.circuits.own.get(&id) else { continue };
            let silent = own.search.as_ref().is_some_and(|s| s.until <= now.at);
            // A first relay that is later than any other may be is left like any other.
            let late = matches!(own.waiting, Some(Waiting::Create { until, .. }) if until <= now.at);
            if late {
                self.own_failed(now, id);
                continue;
            }
            if silent {
                self.own_dies(now, id, true);
            }
            self.own_tick(now, id);
            self.own_slot(now, id);
        }
    }

    /// The time of a cell has come, as it was drawn. A question without an answer by now ends the
    /// circuit.
    fn own_slot(&mut self, now: Now, id: u32) {
        let law = self.circuits.law;
        let Self { circuits, rng, .. } = self;
        let Some(own) = circuits.own.get_mut(&id).filter(|o| o.next_at <= now.at) else { return };
        own.next_at += law.gap(rng, own.quick);
        if own.dead {
            return self.own_over(now, id);
        }
        let heard = std::mem::take(&mut own.heard);
        match own.waiting {
            // The answer waits behind what comes through the circuit, on a slow link.
            Some(Waiting::Ping { .. }) if heard => return,
            Some(_) => return self.own_failed(now, id),
            None => {}
        }
        let in_use = matches!(own.purpose, Use::Fetch(..));
        if now.at >= own.until && !in_use {
            return self.own_over(now, id);
        }
        let wait = own.response + Law::draw(rng, Duration::ZERO, law.jitter);
        let wait = wait.saturating_sub(own.round_trip).max(SHORTEST_WAIT);
        if own.purpose == Use::Building {
            let Some(NextHop { entry, stored: true }) = own.next_hop.take() else {
                return self.own_failed(now, id);
            };
            let Ok((building, message)) = Building::start(&entry.key, entry.epoch, rng) else {
                return self.own_failed(now, id);
            };
            own.waiting = Some(Waiting::Extend { building });
            circuits.note_own_create(message, id);
            let create = Create { epoch: entry.epoch, message };
            self.own_send(now, id, 0, &Relayed::Extend { handle: entry.handle, create, wait });
        } else {
            own.waiting = Some(Waiting::Ping { sent: now.at, wait });
            // What came up after the last tick of a use.
            let late = if own.tick_at.is_none() { own.later.pop_front() } else { None };
            self.own_send(now, id, 0, &Relayed::Ping(wait));
            if let Some(late) = late {
                self.own_cell(now, id, |body| *body = *late);
            }
        }
    }

    /// How long what a reply brings about in another circuit waits: a relay that sees both knows when
    /// the reply passed, and would know from a short wait how far away the builder is.
    pub(super) fn second_thought(&mut self) -> Duration {
        let floor = self.circuits.law.floor;
        Law::draw(&mut self.rng, floor / 40, floor * 17 / 40)
    }

    // Cells.

    fn own_send(&mut self, now: Now, id: u32, stream: StreamId, message: &Relayed) {
        self.own_cell(now, id, |body| message.write(stream, body));
    }

    /// Says something at the next tick, or with the next cell where there is none any more: no cell
    /// leaves because of one that came (decision 16).
    fn own_later(&mut self, now: Now, id: u32, write: impl FnOnce(&mut Body)) {
        if !self.budgets.defences.ticks {
            return self.own_cell(now, id, write);
        }
        let Some(own) = self.circuits.own.get_mut(&id) else { return };
        if own.later.len() >= MAX_WAITING {
            return self.own_dies(now, id, true);
        }
        let mut body = Box::new([0; BODY_LEN]);
        write(&mut body);
        own.later.push_back(body);
    }

    fn own_say_later(&mut self, now: Now, id: u32, stream: StreamId, message: Relayed) {
        self.own_later(now, id, |body| message.write(stream, body));
    }

    /// A tick: one cell leaves, with what waits, with what is wanted by now, or with nothing in it.
    fn own_tick(&mut self, now: Now, id: u32) {
        let is_due = |own: &&mut Own| own.tick_at.is_some_and(|at| at <= now.at);
        let Some(own) = self.circuits.own.get_mut(&id).filter(is_due) else { return };
        if own.later.is_empty() && own.ticks_until.is_some_and(|until| until <= now.at) {
            own.tick_at = None;
            return;
        }
        if let Use::Fetch(fetch, _) = own.purpose
            && own.later.is_empty()
        {
            self.ask_through(now, fetch, OWN | id);
        }
        let tick = super::fetching::tick(&mut self.rng);
        let Some(own) = self.circuits.own.get_mut(&id) else { return };
        own.tick_at = Some(now.at + tick);
        match own.later.pop_front() {
            Some(cell) => self.own_cell(now, id, |body| *body = *cell),
            None => self.own_send(now, id, 0, &Relayed::Idle),
        }
    }

    /// Sends a cell: it waits in the same queue and for the same credit as a cell that is passed on.
    fn own_cell(&mut self, now: Now, id: u32, write: impl FnOnce(&mut Body)) {
        let Self { circuits, connections, rng, .. } = self;
        let Some(own) = circuits.own.get_mut(&id) else { return };
        let open = connections.get_mut(&own.at.0).and_then(connections::Connection::open);
        let Some(open) = open.filter(|open| open.link.relayed(own.at.1) < MAX_WAITING) else {
            return self.own_failed(now, id);
        };
        let mut body = Box::new([0; BODY_LEN]);
        write(&mut body);
        own.layers.seal(&mut body, rng);
        open.link.relay(now.at, own.at.1, body);
        let conn = own.at.0;
        self.count_relayed(conn);
    }

    /// A cell came back from the guard.
    pub(super) fn own_cell_came(&mut self, now: Now, id: u32, body: &mut Body) {
        let Some(own) = self.circuits.own.get_mut(&id).filter(|own| !own.dead) else { return };
        if own.layers.open(body).is_err() {
            return self.own_dies(now, id, true);
        }
        own.heard = true;
        if let Some((stream, record)) = peek_record(body) {
            return self.own_record(now, id, stream, record);
        }
        let good = match Relayed::read(body) {
            Ok((0, Relayed::Extended { message, took })) => self.own_extended(now, id, message, took),
            Ok((0, Relayed::Pong)) => match own.waiting.take() {
                Some(Waiting::Ping { sent, wait }) => {
                    // The nearest that the end ever was.
                    own.round_trip = own.round_trip.min(now.at.saturating_sub(sent + wait));
                    true
                }
                _ => false,
            },
            Ok((stream, Relayed::Opened(message))) => self.own_answered(now, id, stream, &message),
            Ok((stream, Relayed::Refused)) => self.own_refused(now, id, stream),
            Ok((stream, Relayed::Close)) => self.own_closed(now, id, stream),
            _ => false,
        };
        if !good && self.budgets.defences.strict_cells {
            self.own_dies(now, id, true);
        }
    }

    fn own_extended(&mut self, now: Now, id: u32, message: Option<Vec<u8>>, took: Duration) -> bool {
        let Some(own) = self.circuits.own.get_mut(&id) else { return true };
        let Some(Waiting::Extend { building }) = own.waiting.take() else { return false };
        let Some(message) = message else { return false };
        own.round_trip += took;
        self.hop_answered(now, id, building, &message);
        true
    }

    // Ends.

    /// What came through a circuit was wrong, or it leads nowhere. Nothing comes of it here any more,
    /// but how soon `DESTROY` follows would tell a relay how far away the builder is: the circuit is
    /// kept up until its next cell would leave.
    fn own_dies(&mut self, now: Now, id: u32, failed: bool) {
        if failed {
            self.count_failure(now, id);
        }
        // Ticks go on as they would have.
        let Some(own) = self.circuits.own.get_mut(&id) else { return };
        own.dead = true;
        own.purpose = Use::Spent(Root([0; 32]));
        own.later.clear();
        let (streams, search) = (std::mem::take(&mut own.streams), own.search.take());
        self.own_gone(now, id, streams, search);
    }

    /// A circuit failed: the route's failure is counted, and its streams are lost.
    pub(super) fn own_failed(&mut self, now: Now, id: u32) {
        self.count_failure(now, id);
        self.own_over(now, id);
    }

    fn count_failure(&mut self, now: Now, id: u32) {
        let Some(own) = self.circuits.own.get(&id) else { return };
        let playback = matches!(own.purpose, Use::Fetch(..));
        let (pair, slot, reached) = (own.pair, own.slot, own.layers.len());
        let unix_ms = now.unix_ms;
        if self.circuits.routes.failed(pair, slot, reached, unix_ms, playback) {
            self.keep_routes();
        }
    }

    /// Ends a circuit, as relays do: after a random time.
    pub(super) fn own_over(&mut self, now: Now, id: u32) {
        let Some(own) = self.circuits.own.remove(&id) else { return };
        self.end_circuit_side(now, own.at);
        self.own_gone(now, id, own.streams, own.search);
    }

    /// A relay ended a circuit: that is the route's failure, too.
    pub(super) fn own_destroyed(&mut self, now: Now, id: u32) {
        self.count_failure(now, id);
    }

    /// The link to the first relay is gone.
    pub(super) fn own_lost(&mut self, now: Now, id: u32) {
        if let Some(own) = self.circuits.own.remove(&id) {
            self.own_gone(now, id, own.streams, own.search);
        }
    }

    fn own_gone(
        &mut self,
        now: Now,
        id: u32,
        streams: BTreeMap<StreamId, OwnStream>,
        search: Option<OwnSearch>,
    ) {
        for (stream, gone) in streams {
            self.session_gone(now, OWN | id, stream.into(), gone.fetch, Gone::Lost);
        }
        if let Some(search) = search.filter(|s| s.answered == 0) {
            self.session_gone(now, OWN | id, search.base.into(), search.fetch, Gone::Lost);
        }
    }

    /// A `CREATE` came here. If it is one of this node's own, a relay of that circuit is this node.
    pub(super) fn own_came_back(&mut self, message: &[u8; CREATE_LEN]) {
        let circuits = &mut self.circuits;
        let Some(id) = circuits.own_of_create(message) else { return };
        if let Some(own) = circuits.own.get_mut(&id) {
            own.looped = true;
            let (pair, slot, hop) = (own.pair, own.slot, own.layers.len());
            circuits.routes.unsuitable(pair, slot, hop);
            self.keep_routes();
        }
    }
}
