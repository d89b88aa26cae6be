//! What travels in own circuits: requests to their ends, and the streams of the answers.

use super::*;

impl Core {
    /// Asks the end of a circuit for an object.
    pub(in crate::core) fn own_search(
        &mut self,
        now: Now,
        id: u32,
        fetch: FetchId,
        cap: &VerifyCap,
    ) -> Option<StreamId> {
        let rng = self.rng.fork();
        let psk = cap.tunnel_psk();
        let noise = Handshake::initiate(Pattern::Tunnel, &psk, TUNNEL_PROLOGUE, &mut rng.clone());
        let message = noise.and_then(|mut noise| noise.write(&[])).ok()?;
        let locator = cap.locator().at_hour(self.common_time(now).hour());
        let nonce: [u8; 16] = self.rng.bytes();
        let tick = super::fetching::tick(&mut self.rng);
        let own = self.circuits.own.get_mut(&id)?;
        let base = own.next_stream;
        own.next_stream = base.checked_add(MAX_ANSWERS.into())?;
        own.purpose = Use::Fetch(fetch, cap.root);
        if self.budgets.defences.ticks {
            own.ticks_until = None;
            own.ticks_for = Some(fetch);
        }
        own.search = Some(OwnSearch {
            fetch,
            base,
            answered: 0,
            seen: Vec::new(),
            rng,
            psk,
            until: now.at + SEARCH_PATIENCE,
        });
        self.circuits.note_own_nonce(nonce);
        let request = Relayed::Open { locator, spread: MAX_SPREAD, want: MAX_ANSWERS, nonce, message };
        // The owner's wish leaves at once. Where cells leave at ticks already, it takes the next.
        match self.circuits.own.get_mut(&id) {
            Some(own) if self.budgets.defences.ticks && own.tick_at.is_some() => {
                self.own_say_later(now, id, base, request);
            }
            Some(own) => {
                own.tick_at = self.budgets.defences.ticks.then_some(now.at + tick);
                self.own_send(now, id, base, &request);
            }
            None => {}
        }
        Some(base)
    }

    /// Somebody near the end has it.
    pub(super) fn own_answered(&mut self, now: Now, id: u32, stream: StreamId, message: &[u8]) -> bool {
        let Some(own) = self.circuits.own.get_mut(&id) else { return true };
        let Some(search) = own.search.as_mut().filter(|search| stream >= search.base) else {
            // The request was taken back, or another one followed it, meanwhile.
            let known = own.is_known(stream);
            self.own_say_later(now, id, stream, Relayed::Close);
            return known;
        };
        if u32::from(stream) != u32::from(search.base) + u32::from(search.answered)
            || search.answered >= MAX_ANSWERS
            || search.seen.iter().any(|seen| seen == message)
        {
            return false;
        }
        search.answered += 1;
        search.seen.push(message.to_vec());
        let (fetch, base) = (search.fetch, search.base);
        // What more the end says may wait behind what comes: it has not failed.
        search.until = Duration::MAX;
        let noise =
            Handshake::initiate(Pattern::Tunnel, &search.psk, TUNNEL_PROLOGUE, &mut search.rng.clone());
        let session = noise.and_then(|mut noise| {
            noise.write(&[])?;
            noise.read(message)?;
            noise.into_session()
        });
        let session_id = (OWN | id, CircId::from(stream));
        if stream != base
            && let Some(state) = self.fetches.get_mut(&fetch)
        {
            let state_of = SourceState::Asked(session_id);
            state.sources.push(Source {
                friend: FriendKey([0; 32]),
                links: ONION,
                nth: 0,
                extra: false,
                state: state_of,
                failures: 0,
            });
        }
        match session {
            Ok(seal) => {
                let stream_of = OwnStream { fetch, seal, assembler: Assembler::default() };
                if let Some(own) = self.circuits.own.get_mut(&id) {
                    own.streams.insert(stream, stream_of);
                }
                self.session_ready(now, session_id.0, session_id.1, fetch);
            }
            // Who cannot prove the capability does not hold the object.
            Err(_) => {
                self.session_gone(now, session_id.0, session_id.1, fetch, Gone::Lost);
                self.own_say_later(now, id, stream, Relayed::Close);
            }
        }
        true
    }

    /// Nobody more answers.
    pub(super) fn own_refused(&mut self, now: Now, id: u32, stream: StreamId) -> bool {
        let Some(own) = self.circuits.own.get_mut(&id) else { return true };
        let known = own.is_known(stream);
        let (pair, slot) = (own.pair, own.slot);
        let Some(search) = own.search.take_if(|s| s.base == stream) else { return known };
        if search.answered == 0 {
            if let Use::Fetch(_, root) = own.purpose {
                own.purpose = Use::Spent(root);
            }
            self.circuit_had_nothing(now, search.fetch, (OWN | id, stream.into()), (pair, slot));
        }
        true
    }

    pub(super) fn own_record(&mut self, now: Now, id: u32, stream: StreamId, record: &[u8]) {
        let Some(own) = self.circuits.own.get_mut(&id) else { return };
        let Some(open) = own.streams.get_mut(&stream) else {
            let known = own.is_known(stream);
            // It was just closed from this side; anything else was never asked for.
            if !known {
                self.own_dies(now, id, true);
            }
            return;
        };
        let fetch = open.fetch;
        let mut plain = [0; TUNNEL_RECORD_LEN];
        let mut messages = Vec::new();
        let opened = open_record(&mut open.seal, record, &mut plain);
        let fed = opened.and_then(|bytes| Ok(open.assembler.feed(bytes, &mut messages)?));
        if fed.is_err() {
            return self.end_badly(now, OWN | id, stream.into());
        }
        for message in messages {
            self.fetch_message(now, OWN | id, stream.into(), fetch, message);
        }
    }

    /// The end closed a stream.
    pub(super) fn own_closed(&mut self, now: Now, id: u32, stream: StreamId) -> bool {
        let Some(own) = self.circuits.own.get_mut(&id) else { return true };
        let known = own.streams.contains_key(&stream) || own.is_known(stream);
        if let Some(gone) = own.streams.remove(&stream) {
            self.session_gone(now, OWN | id, stream.into(), gone.fetch, Gone::Lost);
        }
        known
    }

    /// Ends a stream, or a request that has no answer yet.
    pub(in crate::core) fn end_own_stream(&mut self, now: Now, id: u32, stream: StreamId) {
        let Some(own) = self.circuits.own.get_mut(&id) else { return };
        let gone = own.streams.remove(&stream).map(|s| s.fetch);
        let asked = own.search.take_if(|s| s.base == stream && s.answered == 0).map(|s| s.fetch);
        if let Some(fetch) = gone.or(asked) {
            self.session_gone(now, OWN | id, stream.into(), fetch, Gone::Lost);
            self.own_say_later(now, id, stream, Relayed::Close);
        }
    }

    /// The fetch that a stream is for.
    pub(in crate::core) fn own_stream_fetch(&self, id: u32, stream: CircId) -> Option<FetchId> {
        let streams = &self.circuits.own.get(&id)?.streams;
        streams.get(&(stream as StreamId)).map(|s| s.fetch)
    }

    /// A fetch does not need its circuit any more. It stays until its own end, for this object alone.
    pub(in crate::core) fn leave_circuit(&mut self, now: Now, fetch: FetchId) {
        let Self { circuits, rng, .. } = self;
        for own in circuits.own.values_mut() {
            if let Use::Fetch(by, root) = own.purpose
                && by == fetch
            {
                own.purpose = Use::Spent(root);
                own.search = None;
            }
            // Also where it brought nothing, or ended badly.
            if own.ticks_for.take_if(|by| *by == fetch).is_some() {
                own.ticks_until = Some(now.at + Law::draw(rng, Duration::ZERO, TAIL));
            }
        }
    }

    /// Streams of a fetch, and requests for it.
    pub(in crate::core) fn own_streams_of(&self, fetch: FetchId) -> Vec<At> {
        let mut out = Vec::new();
        for (id, own) in &self.circuits.own {
            let mine = own.streams.iter().filter(|(_, s)| s.fetch == fetch).map(|(stream, _)| *stream);
            let asked = own.search.iter().filter(|s| s.fetch == fetch && s.answered == 0).map(|s| s.base);
            out.extend(mine.chain(asked).map(|stream| (OWN | id, CircId::from(stream))));
        }
        out
    }

    /// Sends a message of a session through a circuit.
    pub(in crate::core) fn own_say(&mut self, now: Now, id: u32, stream: StreamId, message: Message) {
        self.own_say_all(now, id, stream, vec![message]);
    }

    /// Sends what a session wants by now, as far as it fits in a cell. False: nothing.
    pub(in crate::core) fn own_wants(&mut self, now: Now, fetch: FetchId, session: SessionId) -> bool {
        let Some(state) = self.fetches.get_mut(&fetch) else { return false };
        let wants = std::iter::from_fn(|| state.fetch.next_wants(now.at, session));
        let wants: Vec<Message> = wants.take(WANTS_A_TICK).collect();
        let any = !wants.is_empty();
        self.own_say_all(now, session.0 & !OWN, session.1 as StreamId, wants);
        any
    }

    fn own_say_all(&mut self, now: Now, id: u32, stream: StreamId, messages: Vec<Message>) {
        let mut queue = ByteQueue::default();
        messages.into_iter().for_each(|message| message.push_to(&mut queue));
        while !queue.is_empty() {
            let open = self.circuits.own.get_mut(&id).and_then(|own| own.streams.get_mut(&stream));
            let Some(open) = open else { return };
            let mut record = [0; TUNNEL_RECORD_LEN];
            if seal_next(&mut open.seal, &mut queue, &mut record).is_err() {
                return self.own_failed(now, id);
            }
            self.own_later(now, id, |body| write_record(stream, &record, body));
        }
    }
}
