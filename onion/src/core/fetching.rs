//! Fetches: which friends to ask for an object, in which order, and what to do when nobody answers.

use super::*;
use crate::cell::CircId;
use crate::fetch::{Lied, Progress};
use crate::session::Message;
use crate::tunnel::{Role, Source, SourceState};

/// The next source is asked when one has not answered for so long (decision 19).
const NEXT_ATTEMPT: Duration = Duration::from_millis(800);
/// A source that refused or was lost is asked again after this.
const RETRY_SOURCE: Duration = Duration::from_secs(2);
/// A fetch that never got anything gives up after this long without any answer.
const PATIENCE_FRESH: Duration = Duration::from_secs(8);
/// A fetch that was under way waits longer: friends restart, links come back.
const PATIENCE_STARTED: Duration = Duration::from_secs(60);

/// What a fetch may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Whatever the catalogue names.
    Auto,
    /// Only friends who hold it.
    Direct,
    /// Only through a common friend.
    Fof,
}

impl Route {
    const fn links(self) -> std::ops::RangeInclusive<u8> {
        match self {
            Self::Auto => 1..=2,
            Self::Direct => 1..=1,
            Self::Fof => 2..=2,
        }
    }
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
        let listed = self.catalogue.listing(&cap.root).map(|l| l.sources);
        let fetch = match stored {
            Some((root, have)) => Fetch::resume(cap, root, have).ok()?,
            None => Fetch::new(cap),
        };
        // A link from elsewhere names no friend: all are asked, friends first, then their friends.
        let candidates = match listed {
            Some(sources) if !sources.is_empty() => sources,
            _ => {
                let all = self.friends.keys().copied();
                all.clone().map(|f| (f, 1)).chain(all.map(|f| (f, 2))).collect()
            }
        };
        let idle = SourceState::Idle { not_before: now.at };
        let links = route.links();
        let sources = candidates
            .into_iter()
            .filter(|(_, l)| links.contains(l))
            .map(|(friend, links)| Source { friend, links, state: idle })
            .collect();
        let id = self.next_fetch;
        self.next_fetch += 1;
        let state = FetchState {
            fetch,
            sources,
            next_attempt: now.at,
            alive_at: now.at,
            progressed: false,
            sessions_used: BTreeSet::new(),
        };
        self.fetches.insert(id, state);
        self.drive_fetches(now);
        Some(id)
    }

    /// Ends a fetch; what came is kept by the owner.
    pub fn cancel_fetch(&mut self, now: Now, id: FetchId) {
        if let Some(state) = self.fetches.remove(&id) {
            drop(state);
            for (conn, circ) in self.tunnels_of(id) {
                self.end_tunnel(now, conn, circ, true);
            }
        }
    }

    /// A reader of the object stands at this data block, or has gone.
    pub fn set_reader(&mut self, now: Now, id: FetchId, reader: u64, block: Option<u64>) {
        if let Some(state) = self.fetches.get_mut(&id) {
            state.fetch.set_reader(reader, block);
            self.ask_more(now, id);
        }
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

    fn tunnels_of(&mut self, id: FetchId) -> Vec<(ConnId, CircId)> {
        let mine = |role: &Role| matches!(role, Role::Asking { fetch, .. } | Role::Fetching { fetch, .. } if *fetch == id);
        let mut out = Vec::new();
        for (conn, connection) in &mut self.connections {
            let Some(open) = connection.open() else { continue };
            out.extend(open.tunnels.iter().filter(|(_, t)| mine(&t.role)).map(|(circ, _)| (*conn, *circ)));
        }
        out
    }

    pub(super) fn next_fetch_step(&self) -> Option<Duration> {
        self.fetches.values().fold(None, |next, state| {
            let attempt = (!state.has_session()).then_some(state.next_attempt);
            let patience = (!state.has_session()).then_some(state.alive_at + state.patience());
            earliest(next, earliest(state.fetch.poll_timeout(), earliest(attempt, patience)))
        })
    }

    pub(super) fn drive_fetches(&mut self, now: Now) {
        let ids: Vec<FetchId> = self.fetches.keys().copied().collect();
        for id in ids {
            let stalled = self.fetches.get(&id).map(|s| s.fetch.stalled(now.at)).unwrap_or_default();
            for (conn, circ) in stalled {
                self.end_tunnel(now, conn, circ, true);
            }
            self.attempt(now, id);
            if let Some(state) = self.fetches.get(&id)
                && !state.has_session()
                && now.at >= state.alive_at + state.patience()
            {
                self.event(Event::Fetch(id, FetchEvent::Unreachable));
                self.cancel_fetch(now, id);
            }
        }
    }

    /// Asks the next source if none has answered.
    fn attempt(&mut self, now: Now, id: FetchId) {
        let Some(state) = self.fetches.get(&id) else { return };
        if state.has_session() || now.at < state.next_attempt {
            return;
        }
        let ready = |s: &&Source| matches!(s.state, SourceState::Idle { not_before } if not_before <= now.at);
        let links = &self.friends;
        let online = |s: &&Source| links.get(&s.friend).is_some_and(|f| f.link.is_some());
        let found = state.sources.iter().filter(ready).find(online).copied();
        let cap = state.fetch.cap().clone();
        let Some(source) = found else {
            if let Some(state) = self.fetches.get_mut(&id) {
                state.next_attempt = now.at + Duration::from_millis(200);
            }
            return;
        };
        let conn = self.friends.get(&source.friend).and_then(|f| f.link);
        let circ = self.request(now, &cap, source.links).zip(conn).and_then(|((request, noise), conn)| {
            let role = Role::Asking { fetch: id, noise: Box::new(noise), sealed: request.sealed };
            self.begin_tunnel(conn, role, &request)
        });
        let Some(state) = self.fetches.get_mut(&id) else { return };
        state.next_attempt = now.at + NEXT_ATTEMPT;
        let next = match circ {
            Some(_) => SourceState::Asked,
            None => SourceState::Idle { not_before: now.at + RETRY_SOURCE },
        };
        state.set(source.friend, source.links, next);
    }

    /// A holder has proved itself: the session starts. Others that were asked are let go.
    pub(super) fn session_ready(&mut self, now: Now, conn: ConnId, circ: CircId, id: FetchId) {
        let (friend, links) = self.source_of(conn, circ);
        let Some(state) = self.fetches.get_mut(&id) else {
            return self.end_tunnel(now, conn, circ, true);
        };
        let already = state.has_session();
        state.alive_at = now.at;
        if already {
            return self.end_tunnel(now, conn, circ, true);
        }
        let start = state.fetch.session_opened(now.at, (conn, circ));
        if let Some(friend) = friend {
            state.set(friend, links, SourceState::Open);
            state.sessions_used.insert((friend, links));
        }
        self.say(conn, circ, start);
        self.event(Event::Fetch(id, FetchEvent::Session(links)));
        let others: Vec<_> = self.tunnels_of(id).into_iter().filter(|t| *t != (conn, circ)).collect();
        for (c, k) in others {
            self.end_tunnel(now, c, k, true);
        }
        self.ask_more(now, id);
    }

    fn source_of(&mut self, conn: ConnId, circ: CircId) -> (Option<FriendKey>, u8) {
        let Some(open) = self.connections.get_mut(&conn).and_then(|c| c.open()) else { return (None, 1) };
        let friend = match open.who {
            Who::Friend(key) => Some(key),
            Who::Invite(_) => None,
        };
        (friend, if open.link.is_sealed(circ) { 2 } else { 1 })
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
        match state.fetch.message(now.at, (conn, circ), message) {
            Ok(progress) => {
                state.alive_at = now.at;
                if let Some(progress) = progress {
                    state.progressed = true;
                    self.event(Event::Fetch(
                        id,
                        match progress {
                            Progress::Root(block, geometry) => FetchEvent::Root(block, geometry),
                            Progress::Block(block) => FetchEvent::Block(block),
                        },
                    ));
                }
                self.ask_session(now, conn, circ, id);
            }
            Err(Lied) => {
                let (friend, links) = self.source_of(conn, circ);
                self.end_tunnel(now, conn, circ, true);
                if let (Some(friend), Some(state)) = (friend, self.fetches.get_mut(&id)) {
                    state.set(friend, links, SourceState::Liar);
                    state.next_attempt = now.at;
                }
                self.attempt(now, id);
            }
        }
    }

    fn ask_session(&mut self, now: Now, conn: ConnId, circ: CircId, id: FetchId) {
        if let Some(wants) = self.fetches.get_mut(&id).and_then(|s| s.fetch.next_wants(now.at, (conn, circ)))
        {
            self.say(conn, circ, wants);
        }
    }

    fn ask_more(&mut self, now: Now, id: FetchId) {
        let sessions = self.fetches.get(&id).map(|s| s.fetch.session_ids()).unwrap_or_default();
        for (conn, circ) in sessions {
            self.ask_session(now, conn, circ, id);
        }
    }

    /// A tunnel of a fetch ended. `forged`: what answered could not prove to hold the object.
    pub(super) fn session_gone(&mut self, now: Now, conn: ConnId, circ: CircId, id: FetchId, forged: bool) {
        let who = self.connections.get(&conn).and_then(|c| c.peek()).map(|o| o.who);
        let Some(state) = self.fetches.get_mut(&id) else { return };
        state.fetch.session_closed((conn, circ));
        let again =
            if forged { SourceState::Liar } else { SourceState::Idle { not_before: now.at + RETRY_SOURCE } };
        for source in &mut state.sources {
            let same = who.is_none() || who == Some(Who::Friend(source.friend));
            if same && matches!(source.state, SourceState::Asked | SourceState::Open) {
                source.state = again;
            }
        }
        state.next_attempt = now.at;
    }
}

impl FetchState {
    fn has_session(&self) -> bool {
        self.sources.iter().any(|s| s.state == SourceState::Open)
    }

    const fn patience(&self) -> Duration {
        if self.progressed { PATIENCE_STARTED } else { PATIENCE_FRESH }
    }

    fn set(&mut self, friend: FriendKey, links: u8, state: SourceState) {
        self.sources
            .iter_mut()
            .filter(|s| s.friend == friend && s.links == links)
            .for_each(|s| s.state = state);
    }
}
