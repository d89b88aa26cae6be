//! The exchange of the post-quantum ratchet: in a first session or a recovery, which carry nothing
//! else, and once a day on a link that stands. Page: `docs/protocol/ratchet.md`; state and
//! invariant: [`crate::ratchet`].

use super::connections::{AfterStore, Connection};
use super::*;
use crate::control::{Confirm, Counters, Offer, Reply};
use crate::handshake::Mode;
use crate::link::Broken;
use crate::ratchet::{NextPsk, RATCHET_AFTER_S, RATCHET_SETTLE, Step, Stored};
use kith_crypto::ratchet::{Base, First, Second, proof_of_first, proof_of_second, proves};

/// A connection that is only there for an exchange lives no longer.
const EXCHANGE_DEADLINE: Duration = Duration::from_secs(20);
/// The side that closes such a connection has this long to do it.
const CLOSE_WAIT: Duration = Duration::from_secs(5);
/// Who did not dial it waits for the other's dial first.
pub(super) const REDIAL_WAIT: Duration = Duration::from_secs(3);
/// Generations that a recovery may skip.
const MAX_SKIP: u32 = 1 << 20;

impl Core {
    /// The side with the lower signing key begins.
    fn begins(&self, key: FriendKey) -> bool {
        self.public.sign < key.0
    }

    fn ratchet_change(&mut self, key: FriendKey) -> Option<Change> {
        let friend = self.friends.get(&key)?;
        Some(Change::Ratchet(key, Box::new(friend.record.ratchet.clone())))
    }

    /// The peer has spoken on a session under `generation`. False: this side no longer has that PSK.
    pub(super) fn generation_proved(&mut self, now: Now, key: FriendKey, generation: u32) -> bool {
        let Some(friend) = self.friends.get_mut(&key) else { return false };
        match friend.record.ratchet.prove(generation, now.unix_s()) {
            None => false,
            Some(news) => {
                (friend.out_of_step, friend.other_version) = (None, None);
                if news {
                    friend.restored_until = None;
                    let change = self.ratchet_change(key);
                    self.outputs.extend(change.map(Output::Keep));
                }
                true
            }
        }
    }

    /// A connection for an exchange stands, and the peer has spoken on it.
    pub(super) fn exchange_up(&mut self, now: Now, id: ConnId, key: FriendKey) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.deadline = now.at + EXCHANGE_DEADLINE;
        }
        // Two are needed when both dial at once; more would only pile up.
        let others = self.connections.iter().filter(|(other, c)| {
            **other != id
                && c.peek().is_some_and(|o| o.who == Who::Friend(key) && o.is_for_exchange() && o.has_heard())
        });
        let mut others: Vec<(Duration, ConnId)> = others.map(|(id, c)| (c.established_at, *id)).collect();
        others.sort_unstable();
        others.pop();
        others.into_iter().for_each(|(_, other)| self.close(now, other));
        let Some(friend) = self.friends.get_mut(&key) else { return };
        friend.exchange_link = Some(id);
        friend.dialling.succeeded();
        if self.begins(key) && self.friends.get(&key).is_some_and(|f| f.exchange.is_none()) {
            self.begin_exchange(now, id, key);
        }
    }

    /// A link stands: the next exchange on it comes when the PSK is a day old.
    pub(super) fn plan_exchange(&mut self, now: Now, key: FriendKey) {
        let after = self.rng.range(RATCHET_AFTER_S.0, RATCHET_AFTER_S.1);
        let begins = self.begins(key);
        let Some(friend) = self.friends.get_mut(&key) else { return };
        let ratchet = &friend.record.ratchet;
        let age = now.unix_s().saturating_sub(ratchet.since_s);
        let wait = Duration::from_secs(after.saturating_sub(age)).max(RATCHET_SETTLE);
        friend.exchange_at = (begins && ratchet.is_settled()).then_some(now.at + wait);
    }

    pub(super) fn exchanges_due(&mut self, now: Now) {
        let due = |f: &&Friend| f.exchange_at.is_some_and(|at| at <= now.at);
        let links: Vec<(FriendKey, Option<ConnId>)> =
            self.friends.iter().filter(|(_, f)| due(f)).map(|(key, f)| (*key, f.link)).collect();
        for (key, link) in links {
            if let Some(friend) = self.friends.get_mut(&key) {
                friend.exchange_at = None;
            }
            if let Some(id) = link {
                self.begin_exchange(now, id, key);
            }
        }
    }

    fn begin_exchange(&mut self, now: Now, id: ConnId, key: FriendKey) {
        let Some(mode) = self.connections.get(&id).and_then(|c| c.peek()).map(|o| o.mode) else { return };
        let Some(friend) = self.friends.get_mut(&key) else { return };
        let before = match mode {
            Mode::Generation(generation) => generation,
            Mode::Recovery => friend.record.ratchet.newest(),
            Mode::Invite => return,
        };
        let Some(generation) = before.checked_add(1) else { return };
        let Ok((first, kem_key)) = First::begin(&mut self.rng) else { return };
        let have = friend.record.ratchet.next.as_ref().map_or([0; 16], |n| proof_of_first(&n.psk));
        let counters = counters(friend);
        friend.exchange = Some(Exchange { connection: id, step: Step::Offered(Box::new(first), generation) });
        let offer = Offer { generation, counters, have, key: kem_key };
        self.send_control(now, id, &Control::Offer(Box::new(offer)));
    }

    /// What the new PSK continues. `None`: not on this connection.
    fn base(&self, id: ConnId, key: FriendKey, generation: u32) -> Option<Base> {
        let open = self.connections.get(&id)?.peek()?;
        let friend = self.friends.get(&key)?;
        let psk = match open.mode {
            Mode::Generation(of) if of == friend.record.ratchet.generation => {
                (of.checked_add(1) == Some(generation)).then(|| friend.record.ratchet.psk.clone())?
            }
            Mode::Recovery => friend.record.root.recovery_psk(),
            _ => return None,
        };
        Some(Base { psk, hash: open.hash, generation })
    }

    /// Second side: the first offers.
    pub(super) fn offered(
        &mut self,
        now: Now,
        id: ConnId,
        key: FriendKey,
        offer: &Offer,
    ) -> Result<(), Broken> {
        if self.begins(key) {
            return Err(Broken);
        }
        // Each one costs a key pair and an encapsulation.
        if !self.within(key, now, |asks| &mut asks.exchanges) {
            return Ok(());
        }
        let mode = self.connections.get(&id).and_then(|c| c.peek()).map(|o| o.mode).ok_or(Broken)?;
        let friend = self.friends.get_mut(&key).ok_or(Broken)?;
        // The last exchange ended here, and the first side has not seen it.
        if let Some(next) = &friend.record.ratchet.next
            && proves(&proof_of_first(&next.psk), &offer.have)
        {
            // It may still be on its way to the disk: this comes after it there.
            let stored = Stored::Done(proof_of_second(&next.psk));
            let changes = self.ratchet_change(key).into_iter().collect();
            self.persist(changes, AfterStore::Exchange(id, key, stored));
            return Ok(());
        }
        let mut generation = offer.generation;
        if mode == Mode::Recovery {
            let newest = friend.record.ratchet.newest();
            generation = generation.max(newest.checked_add(1).ok_or(Broken)?);
            if generation > newest.saturating_add(MAX_SKIP) {
                return Err(Broken);
            }
        }
        let base = self.base(id, key, generation).ok_or(Broken)?;
        let (second, kem_key, text) = Second::answer(&offer.key, &mut self.rng).map_err(|_| Broken)?;
        let friend = self.friends.get_mut(&key).ok_or(Broken)?;
        let step = Step::Replied(Box::new(second), Box::new(base), offer.counters);
        friend.exchange = Some(Exchange { connection: id, step });
        let reply = Reply { generation, counters: counters(friend), key: kem_key, text };
        self.send_control(now, id, &Control::Reply(Box::new(reply)));
        Ok(())
    }

    /// Takes the step of the exchange on this connection, if `want` is it.
    fn take_step<T>(
        &mut self,
        id: ConnId,
        key: FriendKey,
        want: impl FnOnce(Step) -> Result<T, Step>,
        then: Step,
    ) -> Option<T> {
        let friend = self.friends.get_mut(&key)?;
        let exchange = friend.exchange.take_if(|e| e.connection == id)?;
        let (found, step) = match want(exchange.step) {
            Ok(found) => (Some(found), then),
            Err(step) => (None, step),
        };
        friend.exchange = Some(Exchange { connection: id, step });
        found
    }

    /// First side: the second has replied.
    pub(super) fn replied(&mut self, id: ConnId, key: FriendKey, reply: &Reply) -> Result<(), Broken> {
        let offered = |step: Step| match step {
            Step::Offered(first, generation) => Ok((first, generation)),
            other => Err(other),
        };
        let (first, generation) = self.take_step(id, key, offered, Step::Confirming).ok_or(Broken)?;
        // A recovery may go further than offered: the second side knows of later generations.
        if !(generation..=generation.saturating_add(MAX_SKIP)).contains(&reply.generation) {
            return Err(Broken);
        }
        let base = self.base(id, key, reply.generation).ok_or(Broken)?;
        let (psk, text) =
            first.answered(&base, &reply.key, &reply.text, &mut self.rng).map_err(|_| Broken)?;
        let proof = proof_of_first(&psk);
        let changes = self.keep_next(id, key, reply.counters, base.generation, psk, false).ok_or(Broken)?;
        let stored = Stored::Confirm(Box::new(Confirm { text, proof }));
        self.persist(changes, AfterStore::Exchange(id, key, stored));
        Ok(())
    }

    /// Second side: the first has stored the new PSK.
    pub(super) fn confirmed(&mut self, id: ConnId, key: FriendKey, confirm: &Confirm) -> Result<(), Broken> {
        let replied = |step| match step {
            Step::Replied(second, base, theirs) => Ok((second, base, theirs)),
            other => Err(other),
        };
        let (second, base, theirs) = self.take_step(id, key, replied, Step::Storing).ok_or(Broken)?;
        let psk = second.confirmed(&base, &confirm.text, &confirm.proof).map_err(|_| Broken)?;
        let proof = proof_of_second(&psk);
        let changes = self.keep_next(id, key, theirs, base.generation, psk, true).ok_or(Broken)?;
        self.persist(changes, AfterStore::Exchange(id, key, Stored::Done(proof)));
        Ok(())
    }

    /// First side: the second has stored it too.
    pub(super) fn done(
        &mut self,
        now: Now,
        id: ConnId,
        key: FriendKey,
        proof: &[u8; 16],
    ) -> Result<(), Broken> {
        let friend = self.friends.get_mut(&key).ok_or(Broken)?;
        let here = friend
            .exchange
            .as_ref()
            .is_some_and(|e| e.connection == id && matches!(e.step, Step::Offered(..) | Step::Confirming));
        let next = friend.record.ratchet.next.as_ref().filter(|_| here).ok_or(Broken)?;
        if !proves(&proof_of_second(&next.psk), proof) {
            return Err(Broken);
        }
        let generation = next.generation;
        friend.record.ratchet.confirm(generation);
        let change = self.ratchet_change(key);
        self.outputs.extend(change.map(Output::Keep));
        self.settled(now, id, key);
        Ok(())
    }

    /// Storage has the new PSK.
    pub(super) fn exchange_stored(&mut self, now: Now, id: ConnId, key: FriendKey, stored: Stored) {
        match stored {
            Stored::Confirm(confirm) => self.send_control(now, id, &Control::Confirm(confirm)),
            Stored::Done(proof) => {
                self.send_control(now, id, &Control::Done(proof));
                self.settled(now, id, key);
            }
        }
    }

    fn keep_next(
        &mut self,
        id: ConnId,
        key: FriendKey,
        theirs: Counters,
        generation: u32,
        psk: Key,
        confirmed: bool,
    ) -> Option<Vec<Change>> {
        let recovers = self.connections.get(&id)?.peek()?.mode == Mode::Recovery;
        let friend = self.friends.get_mut(&key)?;
        friend.record.ratchet.next = Some(NextPsk { generation, psk, confirmed });
        let mut changes = vec![Change::Ratchet(key, Box::new(friend.record.ratchet.clone()))];
        // A restored side has forgotten counters: the higher of both memories counts.
        let record = &mut friend.record;
        if recovers && theirs.used > record.counter_in {
            record.counter_in = theirs.used;
            changes.push(Change::CounterIn(key, theirs.used));
        }
        if recovers && theirs.accepted > record.counter_out {
            record.counter_out = theirs.accepted;
            changes.push(Change::CounterOut(key, theirs.accepted));
        }
        Some(changes)
    }

    /// Both sides have the new PSK: a handshake is to prove it.
    fn settled(&mut self, now: Now, id: ConnId, key: FriendKey) {
        let soon = now.at + Duration::from_millis(self.rng.range(1_000, 60_000));
        let begins = self.begins(key);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let dialled = connection.dialled.is_some();
        let full = connection.peek().is_some_and(|open| open.full);
        connection.deadline = now.at + CLOSE_WAIT;
        if let Some(friend) = self.friends.get_mut(&key) {
            (friend.exchange, friend.exchange_at) = (None, None);
            // Who dialled knows a way; the old link goes on until the new one has taken its place.
            friend.renew_at = (full && dialled).then_some(soon);
        }
        if !full && begins {
            // The second side's proof was the last message.
            self.close(now, id);
        }
    }

    /// A connection for an exchange is gone. Whoever dialled it dials again, at once if it did its work.
    pub(super) fn exchange_link_lost(&mut self, now: Now, id: ConnId, key: FriendKey, dialled: bool) {
        let mut others = self.connections.iter().filter(|(_, c)| {
            c.peek().is_some_and(|o| o.who == Who::Friend(key) && o.is_for_exchange() && o.has_heard())
        });
        let other = others.next().map(|(id, _)| *id);
        let begins = self.begins(key);
        let Self { friends, rng, .. } = self;
        let Some(friend) = friends.get_mut(&key) else { return };
        if friend.exchange.as_ref().is_some_and(|e| e.connection == id) {
            friend.exchange = None;
        }
        if friend.exchange_link != Some(id) {
            return;
        }
        friend.exchange_link = other;
        if let Some(other) = other {
            if begins && friend.exchange.is_none() && friend.record.ratchet.is_settled() {
                self.begin_exchange(now, other, key);
            }
        } else if friend.link.is_none() {
            let did_its_work = !friend.record.ratchet.is_settled();
            match (did_its_work, dialled) {
                (true, true) => friend.dialling.reset(now.at),
                (true, false) => friend.dialling.reset(now.at + REDIAL_WAIT),
                (false, _) => friend.dialling.failed(now.at, rng),
            }
        }
    }
}

fn counters(friend: &Friend) -> Counters {
    Counters { accepted: friend.record.counter_in, used: friend.record.counter_out }
}

impl Connection {
    /// Ends when its time is over, whatever happens on it.
    pub(super) fn is_for_exchange(&self) -> bool {
        self.peek().is_some_and(|open| open.is_for_exchange())
    }
}
