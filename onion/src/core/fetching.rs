//! Fetches: which friends to ask for an object, in which order, and what to do when nobody answers.

use super::circuits::OWN;
use super::*;
use crate::fetch::{Over, Place, Progress};
use crate::schedule::Flow;
use crate::session::{Have, Message};
use crate::tunnel::{ONION, Role, Source, SourceState};
use std::cmp::Reverse;

/// The next source is asked when one has not answered for so long (decision 19).
const NEXT_ATTEMPT: Duration = Duration::from_millis(800);
/// While sessions stand, another source is asked after this.
const ONE_MORE: Duration = Duration::from_millis(200);
/// Sessions with friends' nodes and through them, in one fetch.
const MAX_SESSIONS: usize = 6;
/// Holders behind one common friend that are asked for.
const MAX_BEHIND: u8 = 3;
/// With so many own tunnels on a link no friend is asked there for what nothing says it has.
const MAX_BESIDE: usize = 16;
/// A source that refused or was lost is asked again after this.
const RETRY_SOURCE: Duration = Duration::from_secs(2);
/// The same for those that nothing says have it, and beside others that give it.
const RETRY_EXTRA: Duration = Duration::from_secs(15);
/// A fetch that never got anything gives up after this long without any answer.
const PATIENCE_FRESH: Duration = Duration::from_secs(8);
/// The same when only circuits are asked, one after the other.
const PATIENCE_ONION: Duration = Duration::from_secs(15);
/// A fetch that was under way waits longer: friends restart, links come back.
const PATIENCE_STARTED: Duration = Duration::from_secs(60);
/// Through Tor links take so many times longer to come back.
const TOR_PATIENCE: u32 = 3;
/// Spans that came are told of so often, at most.
const TELL_EVERY: Duration = Duration::from_millis(1_500);
/// Requests leave in circuits so often, between both.
const TICK_MS: (u64, u64) = (100, 200);

/// The time to the next tick.
pub(super) fn tick(rng: &mut Rng) -> Duration {
    Duration::from_millis(rng.range(TICK_MS.0, TICK_MS.1))
}

/// Another circuit is asked when the end of one has said nothing for so long.
const ONION_ATTEMPT: Duration = Duration::from_secs(12);
/// When no circuit can be had, or one ended, it is tried again after this.
const RETRY_CIRCUIT: Duration = Duration::from_millis(250);
/// Sessions in a row through one circuit that brought nothing, before another is asked.
const CIRCUIT_FAILURES: u32 = 2;
/// Ends of circuits that say nothing, in one fetch, before it counts against its patience.
const MAX_SILENT_ENDS: u8 = 3;
/// A source that failed again and again is asked again after at most 2^this times [`RETRY_SOURCE`].
const MAX_FAILURE_SHIFT: u32 = 4;

/// How a tunnel of a fetch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gone {
    /// Refused, closed, lost or silent.
    Lost,
    /// What came through it was forged, or broke the rules.
    Lied,
}

/// What a fetch may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Whatever the catalogue names.
    Auto,
    /// Only friends who hold it.
    Direct,
    /// Only through a common friend.
    Fof,
    /// Only through a circuit.
    Onion,
    /// Only from this friend, whether anybody tells of the object or not.
    Friend(FriendKey),
}

/// How a fetch stands, for those who watch it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FetchBuffer {
    /// One bit for each of its [`crate::session::Spans`] that is here whole.
    pub spans: Vec<u8>,
    /// Blocks that are on their way.
    pub asked_blocks: u64,
    /// Holders that give it now.
    pub sessions: usize,
    /// What is here ahead of the reader with the least, if anybody reads.
    pub ahead: Option<Duration>,
    /// Blocks that came and were here already.
    pub wasted_blocks: u64,
}

/// What is stored of an object already.
pub type Stored<'a> = (Vec<u8>, &'a dyn Fn(Position) -> bool);

impl Core {
    /// Starts to fetch an object. `stored`: its sealed root and what else is here, to continue.
    /// `None` when the stored root is not the object's.
    pub fn start_fetch(
        &mut self,
        now: Now,
        cap: VerifyCap,
        route: Route,
        stored: Option<Stored<'_>>,
    ) -> Option<FetchId> {
        let fetch = match stored {
            Some((root, have)) => Fetch::resume(cap, root, have).ok()?,
            None => Fetch::new(cap),
        };
        Some(self.begin_fetch(now, fetch, route))
    }

    fn begin_fetch(&mut self, now: Now, mut fetch: Fetch, route: Route) -> FetchId {
        let cap_root = fetch.cap().root;
        fetch.set_seed(u64::from_le_bytes(self.rng.bytes()));
        if !fetch.is_look() {
            self.take_parts(&cap_root);
        }
        let sources = self.sources_of(now, &cap_root, route);
        let complete = fetch.is_complete();
        let id = self.next_fetch;
        self.next_fetch += 1;
        let state = FetchState {
            spans_told: fetch.spans().len(),
            told_at: now.at,
            fetch,
            route,
            sources,
            next_attempt: now.at,
            alive_at: now.at,
            progressed: false,
            sessions_used: BTreeSet::new(),
            brought: BTreeMap::new(),
            tried: BTreeSet::new(),
            went_round: false,
            silent_ends: 0,
            onion: NoOnion::NotReady,
            turn: 0,
        };
        self.fetches.insert(id, state);
        if complete {
            self.event(Event::Fetch(id, FetchEvent::Complete));
            self.fetches.remove(&id);
        }
        self.drive_fetches(now);
        id
    }

    /// All that an object may come from. A circuit comes after the friends that may be asked.
    fn sources_of(&self, now: Now, root: &Root, route: Route) -> Vec<Source> {
        let plan = self.plan(root, route);
        let state = SourceState::Idle { not_before: now.at };
        let after = u32::from(!plan.friends.is_empty());
        let base = Source { friend: FriendKey([0; 32]), links: 1, nth: 0, extra: false, state, failures: 0 };
        let source = |(friend, links)| Source { friend, links, ..base };
        let extra = |friend| Source { friend, extra: true, ..base };
        let onion = Source { links: ONION, failures: after, ..base };
        let friends = plan.friends.into_iter().map(source);
        friends.chain(plan.extra.into_iter().map(extra)).chain(plan.onion.then_some(onion)).collect()
    }

    /// Search learned of an object, or of another friend who gives it: fetches under way may use it.
    pub(super) fn more_sources(&mut self, now: Now, root: &Root) {
        let of = |s: &FetchState| (s.fetch.cap().root == *root).then_some(s.route);
        let routes: Vec<(FetchId, Route)> =
            self.fetches.iter().filter_map(|(id, s)| Some((*id, of(s)?))).collect();
        for (id, route) in routes {
            let listed = self.catalogue.listing(root).map(|l| l.sources).unwrap_or_default();
            let mut found = self.sources_of(now, root, route);
            found.retain(|s| s.links == ONION || listed.contains(&(s.friend, s.links)));
            let Some(state) = self.fetches.get_mut(&id) else { continue };
            // What began through circuits alone stays there: that is what the owner was told.
            if !state.sources.is_empty() && state.sources.iter().all(|s| s.links == ONION) {
                continue;
            }
            for source in found {
                if !state.sources.iter().any(|s| s.friend == source.friend && s.links == source.links) {
                    state.sources.push(source);
                }
            }
        }
    }

    /// Ends a fetch; what came is kept by the owner.
    pub fn cancel_fetch(&mut self, now: Now, id: FetchId) {
        if let Some(state) = self.fetches.remove(&id) {
            if state.asks_friends() && !state.fetch.is_look() {
                self.keep_parts(state.fetch);
            }
            for (conn, circ) in self.tunnels_of(id) {
                self.end_tunnel(now, conn, circ, true);
            }
            self.leave_circuit(now, id);
        }
    }

    /// A reader of the object stands somewhere, or has gone.
    pub fn set_reader(&mut self, now: Now, id: FetchId, reader: u64, place: Option<Place>) {
        if let Some(state) = self.fetches.get_mut(&id) {
            state.fetch.set_reader(now.at, reader, place);
            self.ask_more(now, id);
        }
    }

    /// Asks who has an object, without fetching anything of it: [`Core::fetch_copies`] tells after some seconds, and
    /// [`Core::end_look`] ends it. `root`: its sealed root, which is asked for where it is not here.
    pub fn look(&mut self, now: Now, cap: VerifyCap, route: Route, root: Option<Vec<u8>>) -> Option<FetchId> {
        let only_root = |position: Position| position == Position::Root;
        let mut fetch = match root {
            Some(root) => Fetch::resume(cap, root, only_root).ok()?,
            None => Fetch::new(cap),
        };
        fetch.only_look();
        Some(self.begin_fetch(now, fetch, route))
    }

    /// How many that answered have all of an object, and how many have parts.
    pub fn fetch_copies(&self, id: FetchId) -> (usize, usize) {
        let Some(state) = self.fetches.get(&id) else { return (0, 0) };
        let sessions = state.fetch.session_ids();
        let whole = sessions.iter().filter(|session| state.fetch.holds_all(**session)).count();
        let parts = sessions.iter().filter(|session| state.fetch.holds_some(**session)).count();
        (whole, parts)
    }

    /// Ends a look at what others have; nothing of it is held here by that.
    pub fn end_look(&mut self, now: Now, id: FetchId) {
        if let Some(state) = self.fetches.remove(&id) {
            drop(state);
            for (conn, circ) in self.tunnels_of(id) {
                self.end_tunnel(now, conn, circ, true);
            }
            self.leave_circuit(now, id);
        }
    }

    /// Whether somebody waits for all of the object, and not only for what readers need soon.
    pub fn set_whole(&mut self, now: Now, id: FetchId, whole: bool) {
        if let Some(state) = self.fetches.get_mut(&id) {
            state.fetch.set_whole(now.at, whole);
            self.ask_more(now, id);
        }
    }

    /// What is on its way, and how much is here ahead of the reader with the least.
    pub fn fetch_buffer(&self, now: Now, id: FetchId) -> Option<FetchBuffer> {
        let fetch = &self.fetches.get(&id)?.fetch;
        let received = fetch.received();
        Some(FetchBuffer {
            spans: fetch.span_map(),
            asked_blocks: fetch.asked_count() as u64,
            sessions: fetch.session_ids().len(),
            ahead: fetch.buffered(now.at),
            wasted_blocks: received.wasted,
        })
    }

    /// The owner stored what a [`FetchEvent::Root`] or [`FetchEvent::Block`] brought.
    pub fn fetch_stored(&mut self, now: Now, id: FetchId) {
        let Some(state) = self.fetches.get_mut(&id) else { return };
        state.fetch.written();
        if state.fetch.is_complete() {
            self.event(Event::Fetch(id, FetchEvent::Complete));
            self.cancel_fetch(now, id);
        } else {
            self.ask_more(now, id);
        }
    }

    /// Verified blocks and all blocks of a fetch (0 until the root is known).
    pub fn fetch_progress(&self, id: FetchId) -> Option<(u64, u64)> {
        let fetch = &self.fetches.get(&id)?.fetch;
        Some((fetch.have_count(), fetch.geometry().map_or(0, Geometry::total)))
    }

    /// Different sources that served a fetch so far.
    pub fn fetch_sources(&self, id: FetchId) -> usize {
        self.fetches.get(&id).map_or(0, |s| s.sessions_used.len())
    }

    /// How many links away those are who gave most of it; `None` before the first block.
    pub fn fetch_links(&self, id: FetchId) -> Option<u8> {
        let brought = &self.fetches.get(&id)?.brought;
        brought.iter().max_by_key(|(links, blocks)| (**blocks, Reverse(**links))).map(|(links, _)| *links)
    }

    /// Whether somebody waits for a circuit to be built.
    pub(super) fn fetch_waits_for_circuit(&self) -> bool {
        self.fetches.values().any(FetchState::waits_for_circuit)
    }

    fn tunnels_of(&mut self, id: FetchId) -> Vec<(ConnId, CircId)> {
        let mine = |role: &Role| matches!(role, Role::Asking { fetch, .. } | Role::Fetching { fetch, .. } if *fetch == id);
        let mut out = Vec::new();
        for (conn, connection) in &mut self.connections {
            let Some(open) = connection.open() else { continue };
            out.extend(open.tunnels.iter().filter(|(_, t)| mine(&t.role)).map(|(circ, _)| (*conn, *circ)));
        }
        out.extend(self.own_streams_of(id));
        out
    }

    /// Whether all who may give something are reached through Tor, as far as they are known to have it.
    fn only_over_tor(&self, state: &FetchState) -> bool {
        let needs = |source: &Source| match source.links {
            ONION => self.friends.keys().all(|friend| self.needs_tor(*friend)),
            _ => self.needs_tor(source.friend),
        };
        let mut known = state.sources.iter().filter(|source| !source.extra).peekable();
        self.all_tor_only || known.peek().is_some() && known.all(needs)
    }

    pub(super) fn next_fetch_step(&self) -> Option<Duration> {
        self.fetches.values().fold(None, |next, state| {
            let slower = self.only_over_tor(state);
            let attempt = state.may_ask_more().then_some(state.next_attempt);
            let patience = (!state.fetch.has_use()).then_some(state.alive_at + state.patience(slower));
            let next = earliest(next, earliest(state.fetch.poll_timeout(), state.news_at()));
            earliest(next, earliest(attempt, patience))
        })
    }

    pub(super) fn drive_fetches(&mut self, now: Now) {
        let ids: Vec<FetchId> = self.fetches.keys().copied().collect();
        for id in ids {
            let Some(state) = self.fetches.get(&id) else { continue };
            let slower = self.only_over_tor(state);
            let Some(state) = self.fetches.get_mut(&id) else { continue };
            if self.away && slower || state.fetch.has_use() && state.fetch.asked_count() == 0 {
                state.alive_at = now.at; // nothing is wanted of those who would give it, or nobody can be asked
            }
            self.pass_news(now, id);
            let Some(state) = self.fetches.get(&id) else { continue };
            let stalled = state.fetch.stalled(now.at);
            for (conn, circ) in stalled {
                self.end_tunnel(now, conn, circ, true);
                // Whatever became of the tunnel, the session is over.
                self.session_gone(now, conn, circ, id, Gone::Lost);
            }
            self.attempt(now, id);
            if self.fetches.get_mut(&id).is_some_and(|state| state.fetch.take_look(now.at)) {
                self.ask_more(now, id);
            }
            if let Some(state) = self.fetches.get(&id)
                && !state.fetch.has_use()
                && now.at >= state.alive_at + state.patience(slower)
            {
                let onion = state.sources.iter().all(|s| s.links == ONION);
                let end = if onion { FetchEvent::NoOnion(state.onion) } else { FetchEvent::Unreachable };
                self.event(Event::Fetch(id, end));
                self.cancel_fetch(now, id);
            }
        }
    }

    /// A tick of a circuit: what the next of its sessions wants leaves with it (decision 16).
    pub(super) fn ask_through(&mut self, now: Now, id: FetchId, circuit: ConnId) {
        let Some(state) = self.fetches.get_mut(&id) else { return };
        let mut sessions = state.fetch.session_ids();
        sessions.retain(|(conn, _)| *conn == circuit);
        sessions.iter().for_each(|session| state.fetch.ticked(now.at, *session));
        state.turn = state.turn.wrapping_add(1);
        let first = state.turn.checked_rem(sessions.len()).unwrap_or(0);
        sessions.rotate_left(first);
        for session in sessions {
            if self.own_wants(now, id, session) {
                return;
            }
        }
    }

    /// Asks the next source if none has answered, or if there is room for one more.
    fn attempt(&mut self, now: Now, id: FetchId) {
        let Some(state) = self.fetches.get(&id) else { return };
        if !state.may_ask_more() || now.at < state.next_attempt {
            return;
        }
        let has_session = state.fetch.has_use();
        let ready = |s: &Source| matches!(s.state, SourceState::Idle { not_before } if not_before <= now.at);
        let links = &self.friends;
        let online = |s: &Source| match s.links {
            // Circuits are for what no friend gives.
            ONION => !has_session,
            _ => links.get(&s.friend).is_some_and(|f| f.link.is_some()),
        };
        // What a friend has whole is not fetched over somebody else's line besides: it may be the same holder.
        let near = state.has_whole_friend();
        // In `normal` what a friend tells of comes from that friend; circuits are for when none of them is there.
        let paired = self.circuits.privacy == Privacy::Normal
            && state.sources.iter().any(|s| {
                s.links == 1 && !s.extra && online(s) && s.failures < 2 && s.state != SourceState::Liar
            });
        let wanted =
            |s: &Source| ready(s) && online(s) && !(near && s.links == 2) && !(paired && s.links == ONION);
        let candidates = state.sources.iter().enumerate().filter(|(_, s)| wanted(s));
        let found = candidates.min_by_key(|(_, s)| (s.extra, s.failures)).map(|(at, s)| (at, *s));
        let cap = state.fetch.cap().clone();
        let Some((place, source)) = found else {
            if let Some(state) = self.fetches.get_mut(&id) {
                let wait = if has_session { NEXT_ATTEMPT } else { ONE_MORE };
                state.next_attempt = now.at + wait;
            }
            return;
        };
        if source.links == ONION {
            return self.attempt_onion(now, id);
        }
        let conn = self.friends.get(&source.friend).and_then(|f| f.link);
        // Those that nothing says have it are asked while there is room to spare.
        let conn = conn.filter(|conn| !source.extra || self.own_tunnels(*conn) < MAX_BESIDE);
        let tunnel = self.request(now, &cap, source.links).zip(conn).and_then(|((request, noise), conn)| {
            let role = Role::Asking { fetch: id, noise: Box::new(noise), sealed: request.sealed };
            self.begin_tunnel(now, conn, role, Flow::default(), &request).map(|circ| (conn, circ))
        });
        let Some(state) = self.fetches.get_mut(&id) else { return };
        state.next_attempt = now.at + if has_session || source.extra { ONE_MORE } else { NEXT_ATTEMPT };
        let next = match tunnel {
            Some(tunnel) => SourceState::Asked(tunnel),
            None if source.extra => SourceState::Idle { not_before: now.at + RETRY_EXTRA },
            None => SourceState::Idle { not_before: now.at + RETRY_SOURCE },
        };
        // Making room on a link may have ended others, never this one.
        if let Some(source) = state.sources.get_mut(place) {
            source.state = next;
        }
    }

    /// Tunnels on a link that this side opened.
    fn own_tunnels(&mut self, conn: ConnId) -> usize {
        self.open_link(conn).map_or(0, |open| {
            let half = open.next_circ % 2;
            open.tunnels.iter().filter(|(circ, t)| **circ % 2 == half && t.is_tunnel()).count()
        })
    }

    /// Asks through a circuit, if one can be had.
    fn attempt_onion(&mut self, now: Now, id: FetchId) {
        let asked = self.ask_circuit(now, id);
        let Some(state) = self.fetches.get_mut(&id) else { return };
        let started = state.progressed;
        let Some(source) = state.sources.iter_mut().find(|s| s.links == ONION) else { return };
        match asked {
            Ok(at) => {
                source.state = SourceState::Asked(at);
                state.next_attempt = now.at + ONION_ATTEMPT;
            }
            Err(why) => {
                let final_word = why == NoOnion::NotFound || why == NoOnion::GuardCarries;
                if state.tried.is_empty() || why != NoOnion::NotFound {
                    state.onion = why;
                }
                source.state = SourceState::Idle { not_before: now.at + RETRY_CIRCUIT };
                state.next_attempt = now.at;
                if final_word && !started && state.sources.iter().all(|s| s.links == ONION) {
                    let why = state.onion;
                    self.event(Event::Fetch(id, FetchEvent::NoOnion(why)));
                    self.cancel_fetch(now, id);
                } else if final_word {
                    state.tried.clear();
                    state.went_round = true;
                    source_after(state, now.at + RETRY_SOURCE);
                }
            }
        }
    }

    /// A holder has proved itself: the session starts. A circuit's are for when no friend gives it.
    pub(super) fn session_ready(&mut self, now: Now, conn: ConnId, circ: CircId, id: FetchId) {
        let through_circuit = conn & OWN != 0;
        let may_start = |s: &&mut FetchState| match through_circuit {
            true => !s.fetch.has_use() || s.only_through(conn),
            false => s.friend_sessions() < MAX_SESSIONS,
        };
        let Some(state) = self.fetches.get_mut(&id).filter(may_start) else {
            return self.end_tunnel(now, conn, circ, true);
        };
        let Some(place) = state.sources.iter().position(|s| s.uses((conn, circ))) else {
            return self.end_tunnel(now, conn, circ, true);
        };
        let Some(source) = state.sources.get_mut(place) else { return };
        source.state = SourceState::Open((conn, circ));
        let (source, mut links) = (*source, source.links);
        let start = state.fetch.session_opened(now.at, (conn, circ));
        if through_circuit {
            // One name a session: nothing says whether two of them are the same holder.
            let mut name = [0; 32];
            let places = conn.to_le_bytes().into_iter().chain(circ.to_le_bytes());
            name.iter_mut().zip(places).for_each(|(to, from)| *to = from);
            state.sessions_used.insert((FriendKey(name), ONION, 0));
            links = self.circuits.settings.relays + 1;
        } else {
            state.sessions_used.insert((source.friend, links, source.nth));
            state.next_attempt = state.next_attempt.min(now.at + ONE_MORE);
            // A common friend may know of more who have it.
            let next = Source { nth: source.nth + 1, extra: true, failures: 0, ..source };
            let known = |s: &Source| (s.friend, s.links, s.nth) == (next.friend, next.links, next.nth);
            if links == 2 && next.nth < MAX_BEHIND && !state.sources.iter().any(known) {
                state.sources.push(Source { state: SourceState::Idle { not_before: now.at }, ..next });
            }
            // A circuit that was asked besides is not needed.
            self.leave_circuit(now, id);
        }
        self.say(now, conn, circ, start);
        self.event(Event::Fetch(id, FetchEvent::Session(links)));
        let others = self.tunnels_of(id);
        let is_other = |c: ConnId| if through_circuit { c != conn } else { c & OWN != 0 };
        for (c, k) in others.into_iter().filter(|(c, _)| is_other(*c)) {
            self.end_tunnel(now, c, k, true);
        }
        self.ask_more(now, id);
    }

    pub(super) fn fetch_message(
        &mut self,
        now: Now,
        conn: ConnId,
        circ: CircId,
        id: FetchId,
        message: Message,
    ) {
        let Some(state) = self.fetches.get_mut(&id) else {
            return self.end_tunnel(now, conn, circ, true);
        };
        let had_enough = !state.may_ask_more();
        let has_all = matches!(message, Message::Have(Have::All));
        let result = state.fetch.message(now.at, (conn, circ), message);
        if had_enough && state.may_ask_more() {
            state.next_attempt = state.next_attempt.max(now.at);
        }
        match result {
            Ok(progress) => {
                if let Some(progress) = progress {
                    state.alive_at = now.at;
                    state.progressed = true;
                    if let Some(source) = state.sources.iter_mut().find(|s| s.uses((conn, circ))) {
                        source.failures = 0;
                        let relays = self.circuits.settings.relays;
                        let links = if source.links == ONION { relays + 1 } else { source.links };
                        *state.brought.entry(links).or_default() += 1;
                    }
                    // Nobody keeps what a look brings.
                    if !state.fetch.is_look() {
                        let event = match progress {
                            Progress::Root(block, geometry) => FetchEvent::Root(block, geometry),
                            Progress::Block(block) => FetchEvent::Block(block),
                        };
                        self.event(Event::Fetch(id, event));
                    }
                }
                if has_all {
                    self.end_detours(now, conn, circ, id);
                }
                self.ask_session(now, conn, circ, id);
                self.pass_news(now, id);
            }
            Err(over) => {
                match over {
                    Over::Lied => self.end_badly(now, conn, circ),
                    Over::Gone => self.end_tunnel(now, conn, circ, true),
                }
                self.attempt(now, id);
            }
        }
    }

    /// A friend gives all of it directly: what others send through that friend takes the same link.
    fn end_detours(&mut self, now: Now, conn: ConnId, circ: CircId, id: FetchId) {
        let Some(state) = self.fetches.get(&id) else { return };
        let Some(direct) = state.sources.iter().find(|s| s.links == 1 && s.uses((conn, circ))) else {
            return;
        };
        let detours = state.sources.iter().filter(|s| s.links == 2 && s.friend == direct.friend);
        let tunnels: Vec<(ConnId, CircId)> = detours
            .filter_map(|s| match s.state {
                SourceState::Asked(at) | SourceState::Open(at) => Some(at),
                _ => None,
            })
            .collect();
        for (conn, circ) in tunnels {
            self.end_tunnel(now, conn, circ, true);
            self.session_gone(now, conn, circ, id, Gone::Lost);
        }
    }

    /// Spans that came are told to whom parts are served, several at a time: each message takes a cell.
    fn pass_news(&mut self, now: Now, id: FetchId) {
        let Some(state) = self.fetches.get_mut(&id).filter(|state| state.has_news_at(now.at)) else { return };
        state.spans_told = state.fetch.spans().len();
        state.told_at = now.at;
        let root = state.fetch.cap().root;
        self.tell_spans(now, root);
    }

    fn ask_session(&mut self, now: Now, conn: ConnId, circ: CircId, id: FetchId) {
        if conn & OWN != 0 && self.budgets.defences.ticks {
            return; // at the next tick
        }
        let next = |core: &mut Self, session| core.fetches.get_mut(&id)?.fetch.next_wants(now.at, session);
        while let Some(wants) = next(self, (conn, circ)) {
            self.say(now, conn, circ, wants);
        }
        // What was taken over is taken back elsewhere.
        for session in self.fetches.get(&id).map(|s| s.fetch.taking_back()).unwrap_or_default() {
            while let Some(message) = next(self, session) {
                self.say(now, session.0, session.1, message);
            }
        }
    }

    fn ask_more(&mut self, now: Now, id: FetchId) {
        let sessions = self.fetches.get(&id).map(|s| s.fetch.session_ids()).unwrap_or_default();
        for (conn, circ) in sessions {
            self.ask_session(now, conn, circ, id);
        }
    }

    /// A tunnel of a fetch ended: others are asked for what it owed.
    pub(super) fn session_gone(&mut self, now: Now, conn: ConnId, circ: CircId, id: FetchId, gone: Gone) {
        self.source_gone(now, conn, circ, id, gone);
        self.ask_more(now, id);
    }

    fn source_gone(&mut self, now: Now, conn: ConnId, circ: CircId, id: FetchId, gone: Gone) {
        let soon = self.second_thought();
        let Some(state) = self.fetches.get_mut(&id) else { return };
        state.fetch.session_closed((conn, circ));
        let Some(source) = state.sources.iter_mut().find(|s| s.uses((conn, circ))) else { return };
        if matches!(source.state, SourceState::Open(_)) {
            // The others get their chance after a failure, but not after each one: a source that
            // opens sessions and brings nothing must not keep the fetch alive for ever.
            if source.failures == 0 {
                state.alive_at = now.at;
            }
            source.failures += 1;
        }
        if conn & OWN != 0 {
            // Nobody knows who it was: the circuit's source stays, and others of its end go.
            let place = state.sources.iter().position(|s| s.uses((conn, circ)));
            let circuits = state.sources.iter().filter(|s| s.links == ONION).count();
            if let Some(place) = place.filter(|_| circuits > 1) {
                state.sources.remove(place);
            } else if let Some(source) = place.and_then(|p| state.sources.get_mut(p)) {
                // Who is near this end brings nothing, again and again: others may be near another.
                let place = self.circuits.own.get(&(conn & !OWN)).map(|own| (own.pair, own.slot));
                // An end that said nothing had its time: the next one has its own, a few times.
                if matches!(source.state, SourceState::Asked(_)) && state.silent_ends < MAX_SILENT_ENDS {
                    state.silent_ends += 1;
                    state.alive_at = now.at;
                }
                if gone == Gone::Lied || source.failures >= CIRCUIT_FAILURES {
                    state.tried.extend(place);
                }
                let shift = source.failures.saturating_sub(1).min(MAX_FAILURE_SHIFT);
                let wait = if source.failures == 0 { soon } else { RETRY_SOURCE * (1 << shift) + soon };
                source.state = SourceState::Idle { not_before: now.at + wait };
            }
            state.next_attempt = now.at;
            return;
        }
        source.state = match gone {
            Gone::Lied => SourceState::Liar,
            // It has nothing yet: that may change, but need not be asked all the time.
            Gone::Lost if source.extra => SourceState::Idle { not_before: now.at + RETRY_EXTRA },
            Gone::Lost => {
                let shift = source.failures.saturating_sub(1).min(MAX_FAILURE_SHIFT);
                SourceState::Idle { not_before: now.at + RETRY_SOURCE * (1 << shift) }
            }
        };
        state.next_attempt = now.at;
    }
}

impl FetchState {
    /// When those whom parts are served are to be told of more spans.
    fn news_at(&self) -> Option<Duration> {
        (self.fetch.spans().len() != self.spans_told).then_some(self.told_at + TELL_EVERY)
    }

    fn has_news_at(&self, now: Duration) -> bool {
        self.news_at().is_some_and(|at| at <= now)
    }

    fn has_session(&self) -> bool {
        self.sources.iter().any(|s| matches!(s.state, SourceState::Open(_)))
    }

    /// Sessions with friends' nodes or through them that have something which is missing.
    fn friend_sessions(&self) -> usize {
        let is_open = |s: &&Source| match s.state {
            SourceState::Open(id) => id.0 & OWN == 0 && self.fetch.is_useful(id),
            _ => false,
        };
        self.sources.iter().filter(is_open).count()
    }

    /// It may show that it is fetched: friends are asked for it.
    pub(super) fn asks_friends(&self) -> bool {
        self.sources.iter().any(|s| s.links != ONION)
    }

    /// A friend who has all of it gives it directly.
    fn has_whole_friend(&self) -> bool {
        let is_whole = |s: &Source| matches!(s.state, SourceState::Open(id) if self.fetch.holds_all(id));
        self.sources.iter().any(|s| s.links == 1 && is_whole(s))
    }

    /// Whether another source may be asked: while a circuit gives something that is missing nobody else is.
    fn may_ask_more(&self) -> bool {
        let friends = self.friend_sessions();
        if friends == 0 { !self.fetch.has_use() } else { friends < MAX_SESSIONS }
    }

    /// It waits for a circuit.
    fn waits_for_circuit(&self) -> bool {
        let waits = |s: &Source| s.links == ONION && matches!(s.state, SourceState::Idle { .. });
        !self.has_session() && self.sources.iter().any(waits)
    }

    /// All its sessions go through this circuit.
    fn only_through(&self, circuit: ConnId) -> bool {
        self.sources.iter().all(|s| !matches!(s.state, SourceState::Open((conn, _)) if conn != circuit))
    }

    fn patience(&self, slower: bool) -> Duration {
        let patience = match self.progressed {
            true => PATIENCE_STARTED,
            // Each end of a circuit takes three seconds to say no.
            false if self.sources.iter().all(|s| s.links == ONION) => PATIENCE_ONION,
            false => PATIENCE_FRESH,
        };
        if slower { patience * TOR_PATIENCE } else { patience }
    }
}

/// The circuit's source is asked again after this.
fn source_after(state: &mut FetchState, not_before: Duration) {
    for source in state.sources.iter_mut().filter(|s| s.links == ONION) {
        if matches!(source.state, SourceState::Idle { .. }) {
            source.state = SourceState::Idle { not_before };
        }
    }
}
