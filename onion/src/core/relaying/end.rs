//! Being the end of somebody else's circuit: making it longer, passing its requests on, and joining the
//! streams of their answers to it.

use super::*;
use crate::spread::{Next, next_for};

/// Streams that a circuit may have had; a builder has one request a circuit, with up to four answers.
const MAX_STREAMS: usize = 64;
/// Pings that wait for their time.
const MAX_PINGS: u8 = 4;
/// Answers that wait until the builder takes them; who asks for more of them never reads.
const MAX_UNHEARD: u32 = 8;
const REFUSE_AFTER: Duration = Duration::from_secs(3);
/// So long a request is known again.
const NONCE_LIFE: Duration = Duration::from_secs(60);
const MAX_NONCES: usize = 32_768;

impl Core {
    /// Sends something to the builder: through the same queue as cells that are passed on.
    pub(in crate::core) fn tell_builder(
        &mut self,
        now: Now,
        at: At,
        source: Option<At>,
        write: impl FnOnce(&mut Body),
    ) {
        let Self { connections, rng, .. } = self;
        let Some(open) = connections.get_mut(&at.0).and_then(Connection::open) else { return };
        let Some(Tunnel { role: Role::CircuitIn(circuit), .. }) = open.tunnels.get_mut(&at.1) else { return };
        let RelayCircuit { layer, place: Place::End(end), .. } = circuit.as_mut() else { return };
        let mut body = Box::new([0; BODY_LEN]);
        write(&mut body);
        layer.originate(&mut body, rng);
        end.sources.push_back(source);
        open.link.relay(now.at, at.1, body);
        self.count_relayed(at.0);
        self.shed_relayed(now);
    }

    fn tell(&mut self, now: Now, at: At, stream: StreamId, message: &Relayed) {
        if let Some(end) = self.circuit_end(at) {
            end.unheard += 1;
        }
        self.tell_builder(now, at, Some(at), |body| message.write(stream, body));
    }

    pub(super) fn end_cell_came(&mut self, now: Now, at: At, body: &Body) {
        if let Some((stream, record)) = peek_record(body) {
            return self.record_from_builder(now, at, stream, record);
        }
        self.used_up(now, at, 1);
        let unheard = self.circuit_end(at).map_or(0, |end| end.unheard);
        if unheard >= MAX_UNHEARD && self.budgets.defences.bounded_answers {
            return self.kill_circuit(now, at);
        }
        let good = match Relayed::read(body) {
            Ok((0, Relayed::Extend { handle, create, wait })) => self.extend(now, at, handle, &create, wait),
            Ok((0, Relayed::Ping(wait))) => self.pinged(now, at, wait),
            Ok((stream, Relayed::Open { locator, spread, want, nonce, message })) if stream > 0 => {
                let request = TunOpen { locator, hops_left: 0, sealed: true, spreads: false, nonce, message };
                self.search(now, at, stream, (spread, want), &request)
            }
            Ok((stream, Relayed::Close)) if stream > 0 => self.builder_closed(now, at, stream),
            Ok((0, Relayed::Idle)) => true,
            // Unknown, unexpected, or what only the end says.
            _ => false,
        };
        if !good && self.budgets.defences.strict_cells {
            self.kill_circuit(now, at);
        }
    }

    /// Makes the circuit longer. The answer leaves after `wait`, whatever comes of it.
    fn extend(&mut self, now: Now, at: At, handle: Handle, create: &Create, wait: Duration) -> bool {
        let Some(end) = self.circuit_end(at) else { return false };
        if end.failed || end.extending.is_some() || end.search.is_some() || end.next_stream > 0 {
            return false;
        }
        end.extending = Some(Extending { next: None, asked: now.at, answer: None });
        self.note(now, at.0, at.1, Noted::Asked(wait));
        self.at(now.at + wait, at.0, at.1, Timer::Extended(at));
        let Defences { no_way_back, equal_answers, .. } = self.budgets.defences;
        let from = self.friend_of(at.0);
        // Each gives a list away, to whoever is behind the friend that it came from.
        let mut asker = from.and_then(|from| self.friends.get_mut(&from));
        if !asker.as_mut().is_some_and(|f| f.onion.extends.take(now.at)) {
            return true;
        }
        // Oneself, back, no friend, off line, not a relay, too many: all the same.
        let to = self.friend_by_handle(now, handle).filter(|to| Some(*to) != from || !no_way_back);
        let link = to.and_then(|to| Some((to, self.relay_link(to)?.0)));
        if link.is_none() && !equal_answers {
            self.extended(now, at);
            return true;
        }
        if let Some((to, conn)) = link.filter(|(_, conn)| self.may_extend_more(at.0, *conn))
            && let Some(circ) = self.begin_circuit(now, conn, Role::CircuitOut { circuit: at }, at.0, create)
        {
            let extending = self.circuit_end(at).and_then(|end| end.extending.as_mut());
            extending.into_iter().for_each(|e| e.next = Some((conn, circ)));
            self.note(now, at.0, at.1, Noted::Goes(to, circ));
        }
        true
    }

    pub(in crate::core) fn extended(&mut self, now: Now, at: At) {
        let Some(extending) = self.circuit_end(at).and_then(|end| end.extending.take()) else { return };
        let Extending { next, answer, .. } = extending;
        match (next, answer) {
            (Some(next), Some((message, took))) => {
                self.tell(now, at, 0, &Relayed::Extended { message: Some(message), took });
                match self.relay_circuit(at) {
                    Some(circuit) => circuit.place = Place::Middle(next),
                    // It ended just now, for want of memory.
                    None => self.end_circuit_side(now, next),
                }
            }
            (next, _) => {
                if let Some(end) = self.circuit_end(at) {
                    end.failed = true;
                }
                self.tell(now, at, 0, &Relayed::Extended { message: None, took: Duration::ZERO });
                next.into_iter().for_each(|next| self.end_circuit_side(now, next));
            }
        }
    }

    fn pinged(&mut self, now: Now, at: At, wait: Duration) -> bool {
        let wait = if self.budgets.defences.equal_answers { wait } else { Duration::ZERO };
        match self.circuit_end(at) {
            Some(end) if end.extending.is_none() && end.pings < MAX_PINGS => {
                end.pings += 1;
                self.at(now.at + wait, at.0, at.1, Timer::Pong(at));
                true
            }
            _ => false,
        }
    }

    pub(in crate::core) fn pong(&mut self, now: Now, at: At) {
        if let Some(end) = self.circuit_end(at) {
            end.pings = end.pings.saturating_sub(1);
            self.tell(now, at, 0, &Relayed::Pong);
        }
    }

    // Requests.

    /// Looks for an object near this end of a circuit. Nobody, off line and refused look alike:
    /// nothing, until `REFUSED` after three seconds.
    fn search(
        &mut self,
        now: Now,
        at: At,
        base: StreamId,
        (spread, want): (u8, u8),
        request: &TunOpen,
    ) -> bool {
        let Some(end) = self.circuit_end(at) else { return false };
        let after = u32::from(base) + u32::from(want);
        let fresh = u32::from(base) >= end.next_stream && after <= u32::from(StreamId::MAX);
        if end.extending.is_some() || !fresh || end.streams.len() >= MAX_STREAMS {
            return false;
        }
        end.next_stream = after;
        // The builder does not wait for what it asked before: that is over.
        let before = end.search.take();
        self.end_search(now, before);
        let timer = self.at(now.at + REFUSE_AFTER, at.0, at.1, Timer::SearchOver(at, base));
        // Ending the others may have ended this circuit, too.
        let Some(end) = self.circuit_end(at) else { return true };
        end.search = Some(Search { base, want, timer, answered: 0, others: Vec::new() });
        let Some(from) = self.friend_of(at.0) else { return true };
        let may = self.within(from, now, |asks| &mut asks.opens);
        let may = may && self.friends.get_mut(&from).is_some_and(|f| f.onion.spreads.take(now.at));
        if !may || !self.note_nonce(now, request.nonce) {
            return true;
        }
        let others = self.spread(now, at.0, from, spread, request, Role::Sought { circuit: at });
        if let Some(search) = self.circuit_end(at).and_then(|end| end.search.as_mut()) {
            search.others = others;
        }
        if let Some(root) = self.located(&request.locator) {
            self.note_asked(now, from, root, request.nonce);
        }
        if let Some(root) = self.located(&request.locator)
            && !self.circuits.is_own_nonce(&request.nonce)
            && self.holds_all(&root)
            && self.serves_circuits(from, &root)
        {
            self.offer_here(now, at, from, base, root, request);
        }
        true
    }

    /// Remembers a request; false when it came before.
    pub(in crate::core) fn note_nonce(&mut self, now: Now, nonce: [u8; 16]) -> bool {
        let Circuits { nonces, nonce_times, .. } = &mut self.circuits;
        // The oldest make room: they have had most of their time, and a repeat costs no more than a new
        // request.
        while let Some((until, old)) = nonce_times.front()
            && (*until <= now.at || nonces.len() >= MAX_NONCES)
        {
            nonces.remove(old);
            nonce_times.pop_front();
        }
        if !nonces.insert(nonce) {
            return !self.budgets.defences.known_nonces;
        }
        nonce_times.push_back((now.at + NONCE_LIFE, nonce));
        true
    }

    /// Sends a request on: straight to where the catalogue says that the object is, or to all friends
    /// over `left` more links. `from` gets nothing back.
    pub(in crate::core) fn spread(
        &mut self,
        now: Now,
        conn: ConnId,
        from: FriendKey,
        left: u8,
        request: &TunOpen,
        role: Role,
    ) -> Vec<At> {
        let flow = Flow { class: Class::Onion, from: conn };
        let link_of = |core: &Self, friend: &FriendKey| core.friends.get(friend).and_then(|f| f.link);
        let onward = self.located(&request.locator).map(|root| self.catalogue.onward(&root));
        let onward = onward.unwrap_or_default().into_iter().filter(|(friend, _)| *friend != from);
        let straight: Vec<(ConnId, u8)> =
            onward.filter_map(|(friend, links)| Some((link_of(self, &friend)?, links))).collect();
        let Self { friends, rng, .. } = self;
        let knows = |(key, f): &(&FriendKey, &Friend)| **key != from && f.onion.knows;
        let all = friends.iter().filter(knows).filter_map(|(_, f)| f.link);
        let mut others = Vec::new();
        for Next { to: next, hops_left, spreads } in next_for(straight, all, left, rng) {
            let request = TunOpen { hops_left, spreads, ..request.clone() };
            let role = match &role {
                Role::Sought { circuit } => Role::Sought { circuit: *circuit },
                _ => Role::Passed,
            };
            if let Some(circ) = self.begin_tunnel(now, next, role, flow, &request) {
                others.push((next, circ));
            }
        }
        others
    }

    /// A tunnel that was sought for a circuit stands.
    pub(in crate::core) fn sought_answered(&mut self, now: Now, at: At, circuit: At, message: Vec<u8>) {
        let search = self.circuit_end(circuit).and_then(|end| end.search.as_mut());
        let Some(search) = search.filter(|s| s.answered < s.want && s.others.contains(&at)) else {
            return self.end_tunnel(now, at.0, at.1, true);
        };
        let stream = search.base + StreamId::from(search.answered);
        search.answered += 1;
        search.others.retain(|other| *other != at);
        let flow = Flow { class: Class::Onion, from: circuit.0 };
        if let Some(open) = self.open_link(at.0)
            && let Some(tunnel) = open.tunnels.get_mut(&at.1)
        {
            tunnel.role = Role::Spliced { circuit, stream };
            open.link.open_tunnel(at.1, flow, crate::link::Outgoing::Relayed(VecDeque::new()));
        }
        self.stream_opened(now, circuit, stream, Stream::Tunnel { at, queued: 0 }, message);
    }

    fn stream_opened(&mut self, now: Now, circuit: At, id: StreamId, stream: Stream, message: Vec<u8>) {
        if let Some(end) = self.circuit_end(circuit) {
            end.streams.insert(id, stream);
        }
        self.tell(now, circuit, id, &Relayed::Opened(message));
        let full = |s: &mut Search| s.answered >= s.want;
        let search = self.circuit_end(circuit).and_then(|end| end.search.take_if(full));
        self.end_search(now, search);
    }

    /// A request is over, and with it whoever is still asked, and its timer.
    fn end_search(&mut self, now: Now, search: Option<Search>) {
        let Some(search) = search else { return };
        self.timers.remove(&search.timer);
        search.others.into_iter().for_each(|(c, k)| self.end_tunnel(now, c, k, true));
    }

    /// Three seconds after a request: who has not answered by now does not.
    pub(in crate::core) fn search_over(&mut self, now: Now, at: At, base: StreamId) {
        let is_it = |s: &mut Search| s.base == base;
        let search = self.circuit_end(at).and_then(|end| end.search.take_if(is_it));
        if search.is_none() {
            return;
        }
        self.end_search(now, search);
        self.tell(now, at, base, &Relayed::Refused);
    }

    /// This node has the object: it answers like somebody near would, after the holder's delay.
    fn offer_here(
        &mut self,
        now: Now,
        at: At,
        from: FriendKey,
        base: StreamId,
        root: Root,
        request: &TunOpen,
    ) {
        // One session with this node a circuit.
        let is_here = |end: &mut End| end.streams.values().any(|s| matches!(s, Stream::Here(_)));
        let may = self.open_link(at.0).is_some_and(|open| open.account.may_shake_hands(now))
            && !self.circuit_end(at).is_some_and(is_here);
        let Some(holding) = self.holding(&root).filter(|_| may) else { return };
        let (psk, spans) = (holding.cap().tunnel_psk(), holding.all_spans());
        let Ok(mut noise) = Handshake::respond(Pattern::Tunnel, &psk, TUNNEL_PROLOGUE, &mut self.rng) else {
            return;
        };
        let answer = noise.read(&request.message).and_then(|_| noise.write(&[]));
        let (Ok(answer), Ok(seal)) = (answer, noise.into_session()) else { return };
        let here = Here {
            serving: Serving::new(root, spans),
            assembler: Assembler::default(),
            seal,
            queue: ByteQueue::default(),
            more: false,
        };
        let wait = self.fixed_delay(&request.locator, from);
        self.at(now.at + wait, at.0, at.1, Timer::Here(at, base, Box::new((answer, here))));
    }

    pub(in crate::core) fn here_answers(
        &mut self,
        now: Now,
        at: At,
        base: StreamId,
        (message, here): (Vec<u8>, Here),
    ) {
        let Some(from) = self.friend_of(at.0) else { return };
        if !self.serves_circuits(from, &here.serving.root) {
            return;
        }
        let search = self.circuit_end(at).and_then(|end| end.search.as_mut());
        let Some(search) = search.filter(|s| s.base == base && s.answered < s.want) else { return };
        let stream = search.base + StreamId::from(search.answered);
        search.answered += 1;
        let other = self.circuit_end(at).and_then(|end| {
            let here = end.streams.iter().find(|(_, s)| matches!(s, Stream::Here(_)));
            here.map(|(id, _)| *id)
        });
        other.into_iter().for_each(|id| self.stream_over(now, at, id));
        if let Some(open) = self.open_link(at.0) {
            open.account.serving += 1;
        }
        self.crowd_of(here.serving.root).sessions += 1;
        self.stream_opened(now, at, stream, Stream::Here(Box::new(here)), message);
    }

    // Streams.

    fn record_from_builder(&mut self, now: Now, at: At, id: StreamId, record: &[u8]) {
        let Some(end) = self.circuit_end(at) else { return };
        let known = u32::from(id) < end.next_stream;
        match end.streams.get_mut(&id) {
            Some(Stream::Tunnel { at: tunnel, queued }) => {
                let tunnel = *tunnel;
                *queued += 1;
                let mut body = Box::new([0; BODY_LEN]);
                if let Some(to) = body.get_mut(..TUNNEL_RECORD_LEN) {
                    to.copy_from_slice(record);
                }
                let who = self.open_link(at.0).map(|open| open.who);
                if let Some(who) = who {
                    self.pass_cell(now, who, tunnel, body);
                }
            }
            Some(Stream::Here(here)) => {
                let mut plain = [0; TUNNEL_RECORD_LEN];
                let mut messages = Vec::new();
                let opened = open_record(&mut here.seal, record, &mut plain);
                let fed = opened.and_then(|bytes| Ok(here.assembler.feed(bytes, &mut messages)?));
                self.used_up(now, at, 1);
                if let Some(who) = self.open_link(at.0).map(|open| open.who) {
                    self.count(who, 1, |t| &mut t.received);
                }
                if fed.is_err() {
                    return self.stream_over(now, at, id);
                }
                for message in messages {
                    if matches!(message, Message::Bye) {
                        return self.stream_over(now, at, id);
                    }
                    if self.serve(now, at.0, at.1, message).is_err() {
                        return self.stream_over(now, at, id);
                    }
                }
            }
            // It was just closed from this side.
            None if known => self.used_up(now, at, 1),
            None => self.kill_circuit(now, at),
        }
    }

    /// A cell of a tunnel that is joined to a circuit.
    pub(in crate::core) fn spliced_cell(
        &mut self,
        now: Now,
        at: At,
        circuit: At,
        stream: StreamId,
        body: &cell::Body,
    ) {
        let who = self.open_link(at.0).map(|open| open.who);
        let Some((record, rest)) = body.split_at_checked(TUNNEL_RECORD_LEN) else { return };
        if rest.iter().any(|b| *b != 0) {
            return self.end_tunnel(now, at.0, at.1, true);
        }
        self.tell_builder(now, circuit, Some(at), |body| write_record(stream, record, body));
        if let Some(who) = who {
            self.count(who, 1, |t| &mut t.relayed);
        }
    }

    fn here(&mut self, at: At) -> Option<(StreamId, &mut Here)> {
        let mut streams = self.circuit_end(at)?.streams.iter_mut();
        streams.find_map(|(id, stream)| match stream {
            Stream::Here(here) => Some((*id, here.as_mut())),
            Stream::Tunnel { .. } => None,
        })
    }

    /// What the session of a builder with this node itself sends.
    pub(in crate::core) fn say_here(&mut self, now: Now, at: At, message: Message) {
        let Some((_, here)) = self.here(at) else { return };
        message.push_to(&mut here.queue);
        self.send_here(now, at);
    }

    /// Whether more of such a session follows at once.
    pub(in crate::core) fn more_here(&mut self, now: Now, at: At, more: bool) {
        let Some((_, here)) = self.here(at) else { return };
        if std::mem::replace(&mut here.more, more) != more {
            self.send_here(now, at);
        }
    }

    fn send_here(&mut self, now: Now, at: At) {
        while let Some((id, here)) = self.here(at) {
            if here.queue.len() < if here.more { TUNNEL_STREAM_LEN } else { 1 } {
                return;
            }
            let mut record = [0; TUNNEL_RECORD_LEN];
            if seal_next(&mut here.seal, &mut here.queue, &mut record).is_err() {
                return self.stream_over(now, at, id);
            }
            self.tell_builder(now, at, None, |body| write_record(id, &record, body));
        }
    }

    /// Bytes of such a session that wait.
    pub(in crate::core) fn waiting_here(&mut self, at: At) -> usize {
        self.open_link(at.0).map_or(0, |open| open.link.relayed(at.1)) * TUNNEL_STREAM_LEN
    }

    fn builder_closed(&mut self, now: Now, at: At, id: StreamId) -> bool {
        let Some(end) = self.circuit_end(at) else { return false };
        if u32::from(id) >= end.next_stream {
            return false;
        }
        // Closing the first stream also takes a request back that still waits for answers.
        let is_it = |s: &mut Search| s.base == id && s.answered == 0;
        let search = end.search.take_if(is_it);
        self.end_search(now, search);
        self.drop_stream(now, at, id);
        true
    }

    /// Ends a stream of a circuit and tells the builder.
    pub(super) fn stream_over(&mut self, now: Now, at: At, id: StreamId) {
        if self.drop_stream(now, at, id) {
            self.tell(now, at, id, &Relayed::Close);
        }
    }

    fn drop_stream(&mut self, now: Now, at: At, id: StreamId) -> bool {
        let Some(stream) = self.circuit_end(at).and_then(|end| end.streams.remove(&id)) else { return false };
        self.stream_dropped(now, at, stream);
        true
    }

    pub(super) fn stream_dropped(&mut self, now: Now, circuit: At, stream: Stream) {
        match stream {
            Stream::Tunnel { at, queued } => {
                // What waited there will never leave: its room on the circuit is free again.
                self.used_up(now, circuit, queued);
                self.end_tunnel(now, at.0, at.1, true);
            }
            Stream::Here(here) => self.serving_over(now, circuit, &here.serving),
        }
    }

    /// A tunnel that was joined to a circuit ended.
    pub(in crate::core) fn spliced_gone(&mut self, now: Now, circuit: At, id: StreamId) {
        self.stream_over(now, circuit, id);
    }

    /// A tunnel that was sought for a circuit was refused or lost.
    pub(in crate::core) fn sought_gone(&mut self, at: At, circuit: At) {
        if let Some(search) = self.circuit_end(circuit).and_then(|end| end.search.as_mut()) {
            search.others.retain(|other| *other != at);
        }
    }
}
