//! Control messages between friends: hello, clocks, addresses, catalogue, ping.
//! Page: `docs/protocol/link.md`.

use super::connections::Connection;
use super::rotation::KEYS_PENDING;
use super::*;
use crate::control::addresses_to_sign;
use crate::handshake::Mode;
use crate::link::Broken;
use kith_crypto::codec::Reader;

/// A friend that said goodbye is not dialled before this.
const AFTER_GOODBYE: Duration = Duration::from_secs(10);
/// The session of an invite lasts no longer: storage on both sides, and some patience.
const INVITE_DEADLINE: Duration = Duration::from_secs(60);
/// A warning is due when clocks differ by more.
const SKEW_MS: u64 = 600_000;

impl Core {
    pub(super) fn control(&mut self, now: Now, id: ConnId, message: Control) -> Result<(), Broken> {
        let Some(open) = self.connections.get_mut(&id).and_then(Connection::open) else { return Ok(()) };
        if let Control::Hello { features, unix_ms } = message {
            return self.hello(now, id, features, unix_ms);
        }
        if !open.heard {
            return Err(Broken);
        }
        match (open.who, message) {
            (Who::Invite(invite), Control::Certificate(bytes)) => self.invited(now, id, invite, &bytes),
            (Who::Invite(invite), Control::Welcome) => self.welcomed(now, id, invite),
            (Who::Invite(_), _) => Err(Broken),
            (Who::Friend(key), message) => self.friend_message(now, id, key, message),
        }
    }

    /// The peer has proved that it holds the session: from now on the link counts, for what its
    /// handshake was for.
    fn hello(&mut self, now: Now, id: ConnId, features: u64, unix_ms: u64) -> Result<(), Broken> {
        let Some(open) = self.connections.get_mut(&id).and_then(Connection::open) else { return Ok(()) };
        if std::mem::replace(&mut open.heard, true) {
            return Err(Broken);
        }
        for held in std::mem::take(&mut open.held_back) {
            open.link.send(&held)?;
        }
        open.peer_keys_pending = features & KEYS_PENDING != 0;
        let (who, mode, full, own_keys) = (open.who, open.mode, open.full, open.own_keys);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.established_at = now.at;
        }
        let Who::Friend(key) = who else {
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.deadline = now.at + INVITE_DEADLINE;
            }
            return Ok(());
        };
        if let Mode::Generation(generation) = mode
            && !self.generation_proved(now, key, generation)
        {
            return Err(Broken);
        }
        // A call that used newer own link keys was answered: the friend knows them.
        self.learned_own_keys(key, own_keys);
        if !full {
            self.exchange_up(now, id, key);
            return Ok(());
        }
        if !self.replace_link(now, id, key) {
            return Ok(());
        }
        self.compare_clocks(now, key, unix_ms);
        self.friend_up(now, id, key, features);
        Ok(())
    }

    fn friend_message(
        &mut self,
        now: Now,
        id: ConnId,
        key: FriendKey,
        message: Control,
    ) -> Result<(), Broken> {
        let full = self.connections.get(&id).and_then(Connection::peek).is_some_and(|open| open.full);
        match message {
            Control::Offer(offer) => return self.offered(now, id, key, &offer),
            Control::Reply(reply) => return self.replied(id, key, &reply),
            Control::Confirm(confirm) => return self.confirmed(id, key, &confirm),
            Control::Done(proof) => return self.done(now, id, key, &proof),
            Control::Goodbye => {
                self.close(now, id);
                // It goes on purpose; whoever comes back dials by itself.
                if let Some(friend) = self.friends.get_mut(&key) {
                    friend.dialling.reset(now.at + AFTER_GOODBYE);
                }
            }
            // A session for an exchange carries nothing else.
            _ if !full => return Err(Broken),
            Control::Keys { base, certificate } => {
                return self.keys_shown(now, id, key, base, &certificate);
            }
            Control::KeysKnown(root) => self.keys_known(key, root),
            Control::OnionKey { epoch, key: public } => {
                self.onion_key_came(now, key, epoch, public);
            }
            message @ (Control::MirrorOffer(_)
            | Control::MirrorAnswer { .. }
            | Control::MirrorEnd(_)
            | Control::Hours(_)) => self.mirror_message(now, key, message),
            Control::Ping(number) => {
                if self.within(key, now, |asks| &mut asks.pings) {
                    self.send_control(now, id, &Control::Pong(number));
                }
            }
            Control::Pong(number) => {
                let Some(friend) = self.friends.get_mut(&key) else { return Ok(()) };
                if let Some((_, sent)) = friend.ping.take_if(|(n, _)| *n == number) {
                    self.event(Event::Pong(key, now.at.saturating_sub(sent)));
                }
            }
            Control::Addresses { seq, list, signature } => {
                // Each one costs a signature check and a record on disk; the surplus is dropped, and
                // the next link brings the newest again.
                if !self.within(key, now, |asks| &mut asks.announcements) {
                    return Ok(());
                }
                let addrs = Address::decode_list(&mut Reader::new(&list))?;
                // What a friend says of other places than its onion service is nothing to know for a node that
                // is to reach it through Tor alone.
                let kept = self.usable(Who::Friend(key), &addrs);
                let Some(friend) = self.friends.get_mut(&key) else { return Ok(()) };
                if !friend.record.keys.verify(&addresses_to_sign(seq, &list), &signature) {
                    return Err(Broken);
                }
                let same = friend.record.addrs == kept;
                // The same list again says more when more of it is of use than then.
                if seq > friend.record.addrs_seq || seq == friend.record.addrs_seq && !same {
                    friend.record.addrs_seq = seq;
                    friend.record.addrs.clone_from(&kept);
                    if !same {
                        self.outputs.push_back(Output::Keep(Change::Addresses(key, seq, kept)));
                    }
                }
            }
            Control::Hint => self.catalogue.hinted(now, key),
            Control::Pull { part, log, since } => {
                if !self.within(key, now, |asks| &mut asks.pulls) {
                    return Ok(());
                }
                self.answer_pull(now, id, key, part, (log, since));
            }
            Control::Delta(delta) => {
                if let Some(open) = self.connections.get_mut(&id).and_then(Connection::open) {
                    open.account.page_came();
                }
                self.catalogue.delta(now, key, delta);
            }
            Control::Hello { .. } | Control::Certificate(_) | Control::Welcome => return Err(Broken),
        }
        Ok(())
    }

    /// Asks a friend for an answer at once; [`Event::Pong`] brings it. False: no link stands.
    pub fn ping(&mut self, now: Now, key: FriendKey) -> bool {
        let number = self.rng.range(1, u64::MAX - 1);
        let Some(friend) = self.friends.get_mut(&key) else { return false };
        let Some(id) = friend.link else { return false };
        friend.ping = Some((number, now.at));
        self.send_control(now, id, &Control::Ping(number));
        true
    }

    /// Whether a friend may ask for this now.
    pub(super) fn within(
        &mut self,
        key: FriendKey,
        now: Now,
        bucket: impl FnOnce(&mut Asks) -> &mut Bucket,
    ) -> bool {
        self.friends.get_mut(&key).is_some_and(|friend| bucket(&mut friend.asks).take(now.at))
    }

    fn compare_clocks(&mut self, now: Now, key: FriendKey, unix_ms: u64) {
        let clock = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        let offset = clock(unix_ms).saturating_sub(clock(now.unix_ms));
        if let Some(friend) = self.friends.get_mut(&key) {
            friend.clock_offset_ms = offset;
        }
        if offset.unsigned_abs() > SKEW_MS {
            self.event(Event::ClockSkew(key, offset));
        }
    }

    /// Hours and days go by the median of the friends' clocks and the own one.
    pub(crate) fn common_time(&self, now: Now) -> Now {
        let online = self.friends.values().filter(|f| f.link.is_some());
        let mut offsets: Vec<i64> = online.map(|f| f.clock_offset_ms).chain([0]).collect();
        offsets.sort_unstable();
        let median = offsets.get(offsets.len() / 2).copied().unwrap_or(0);
        Now { at: now.at, unix_ms: now.unix_ms.saturating_add_signed(median) }
    }

    /// Queues a control message; it waits until the peer has spoken (decision 3).
    pub(crate) fn send_control(&mut self, now: Now, id: ConnId, message: &Control) {
        let Some(open) = self.connections.get_mut(&id).and_then(Connection::open) else { return };
        if open.heard {
            self.send_now(now, id, message);
        } else {
            open.held_back.push(message.clone());
        }
    }

    pub(super) fn send_now(&mut self, now: Now, id: ConnId, message: &Control) {
        let Some(open) = self.connections.get_mut(&id).and_then(Connection::open) else { return };
        if matches!(message, Control::Pull { .. }) {
            open.account.page_asked();
        }
        if open.link.send(message).is_err() {
            self.close(now, id);
        }
    }
}
