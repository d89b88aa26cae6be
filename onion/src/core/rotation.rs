//! New link keys: the own ones, until every friend knows them, and those of friends. The signing
//! key stays and signs them. Page: `docs/protocol/friends.md`.
//!
//! Invariant: a friend who may know the new keys is answered under them and under the old ones; what
//! both share with the new keys is a function of the old, so both sides find it alone.

use super::connections::{AfterStore, Connection};
use super::*;
use crate::link::Broken;

/// `HELLO`: the sender has new link keys that the receiver does not know yet.
pub(super) const KEYS_PENDING: u64 = 1;

/// A handshake with own link keys that a friend may know already.
pub(crate) struct Candidate {
    pub(super) peer: Peer,
    pub(super) root: PairRoot,
}

impl Core {
    /// Which link keys [`Setup::identity`] is, and the older ones that friends may still know.
    /// Called before friends are added.
    pub fn set_own_keys(&mut self, newest: u32, older: Vec<(u32, Identity)>) {
        let identity = self.identities.remove(&self.own_keys);
        self.identities.extend(older);
        self.identities.extend(identity.map(|identity| (newest, identity)));
        self.own_keys = newest;
    }

    /// Older link keys that a friend who comes back may know.
    pub fn add_older_keys(&mut self, older: Vec<(u32, Identity)>) {
        for (number, identity) in older {
            self.identities.entry(number).or_insert(identity);
        }
    }

    /// The number of the newest own link keys.
    pub const fn own_keys(&self) -> u32 {
        self.own_keys
    }

    /// New own link keys with their number, stored before this call; [`Core::set_certificate`] with a certificate of
    /// them comes next. Open invites end: they name the old keys.
    pub fn rotate(&mut self, now: Now, number: u32, identity: Identity) {
        self.own_keys = number;
        self.public = *identity.public();
        self.identities.insert(number, identity);
        let invites: Vec<InviteId> = self.given.keys().copied().collect();
        invites.into_iter().for_each(|id| self.withdraw_invite(now, id));
        let keys: Vec<FriendKey> = self.friends.keys().copied().collect();
        keys.into_iter().for_each(|key| self.renew_candidates(key));
    }

    /// Friends who do not know the newest link keys yet.
    pub fn friends_with_old_keys(&self) -> usize {
        self.friends.values().filter(|f| f.record.own_keys != self.own_keys).count()
    }

    pub(super) fn candidates_for(&self, record: &FriendRecord) -> Vec<Candidate> {
        let newer = self.identities.iter().filter(|(n, _)| **n > record.own_keys);
        newer
            .filter_map(|(n, identity)| {
                let root = PairRoot::new(identity, &record.keys, Some(record.root.key()))?;
                Some(Candidate { peer: Peer::friend(identity.public(), *n, &record.keys, &root), root })
            })
            .collect()
    }

    fn renew_candidates(&mut self, key: FriendKey) {
        let Some(record) = self.friends.get(&key).map(|f| f.record.clone()) else { return };
        let candidates = self.candidates_for(&record);
        if let Some(friend) = self.friends.get_mut(&key) {
            friend.candidates = candidates;
        }
    }

    /// Shows a friend the newest link keys, if it does not know them. When both have new ones, the
    /// side with the lower signing key goes first, so that each step stands on keys both know.
    pub(super) fn show_keys(&mut self, now: Now, id: ConnId, key: FriendKey) {
        let Some(friend) = self.friends.get(&key) else { return };
        let Some(cert) = self.certificate_for(Who::Friend(key)).filter(|c| c.keys == self.public) else {
            return;
        };
        if friend.record.own_keys == self.own_keys || friend.taking_keys || friend.storing_own_keys {
            return;
        }
        let keys = Control::Keys { base: friend.record.root.id(), certificate: cert.encoded().to_vec() };
        let lower = self.public.sign < key.0;
        let newest = self.own_keys;
        let Some(open) = self.connections.get_mut(&id).and_then(Connection::open) else { return };
        if !open.full || (open.peer_keys_pending && !lower) || open.keys_shown == Some(newest) {
            return;
        }
        open.keys_shown = Some(newest);
        self.send_control(now, id, &keys);
    }

    /// A friend shows new link keys.
    pub(super) fn keys_shown(
        &mut self,
        now: Now,
        id: ConnId,
        key: FriendKey,
        base: [u8; 16],
        bytes: &[u8],
    ) -> Result<(), Broken> {
        // A signature check, a Diffie-Hellman and a record on disk.
        if !self.within(key, now, |asks| &mut asks.certificates) {
            return Ok(());
        }
        let cert = Certificate::decode(bytes).map_err(|_| Broken)?;
        let lower = self.public.sign < key.0;
        let friend = self.friends.get(&key).filter(|f| !f.taking_keys);
        let Some(friend) = friend else { return Ok(()) };
        // The friend knows own keys that this side has not seen acknowledged: then so it is.
        let acknowledged = friend.candidates.iter().find(|c| c.root.id() == base);
        if let Some(own_keys) = acknowledged.map(|c| c.peer.own_keys()) {
            self.learned_own_keys(key, own_keys);
        }
        let friend = self.friends.get(&key).ok_or(Broken)?;
        let record = &friend.record;
        // Both have new ones: the higher side takes the lower's first and shows its own again.
        if lower && record.own_keys != self.own_keys {
            return Ok(());
        }
        if cert.keys == record.keys {
            self.answer_keys(now, id, key);
            return Ok(());
        }
        // Whatever does not fit is ignored alike: nobody learns who else is a friend here.
        let stale = cert.created < record.keys_since_s || u64::from(cert.expires) <= now.unix_s();
        let taken = |(k, f): (&FriendKey, &Friend)| *k != key && f.record.keys.noise == cert.keys.noise;
        let is_me = cert.keys.noise == self.public.noise || cert.keys.pair == self.public.pair;
        let wrong = cert.keys.sign != key.0 || is_me || self.friends.iter().any(taken);
        if wrong || stale || base != record.root.id() {
            return Ok(());
        }
        let me = self.identities.get(&record.own_keys).ok_or(Broken)?;
        let root = PairRoot::new(me, &cert.keys, Some(record.root.key())).ok_or(Broken)?;
        let new = NewKeys { keys: cert.keys, root, since_s: cert.created };
        let change = Change::FriendKeys(key, Box::new(new.clone()));
        if let Some(friend) = self.friends.get_mut(&key) {
            friend.taking_keys = true;
        }
        self.persist(vec![change], AfterStore::FriendKeys(id, key, Box::new(new)));
        Ok(())
    }

    /// A friend's new link keys are stored.
    pub(super) fn keys_stored(&mut self, now: Now, id: ConnId, key: FriendKey, new: NewKeys) {
        let Self { friends, identities, .. } = self;
        let Some(friend) = friends.get_mut(&key) else { return };
        friend.taking_keys = false;
        let Some(me) = identities.get(&friend.record.own_keys) else { return };
        friend.record.keys = new.keys;
        friend.record.root = new.root;
        friend.record.keys_since_s = new.since_s;
        friend.peer =
            Peer::friend(me.public(), friend.record.own_keys, &friend.record.keys, &friend.record.root);
        self.renew_candidates(key);
        self.event(Event::KeysRotated(key));
        self.answer_keys(now, id, key);
    }

    /// The friend's keys are known. It was the friend's turn; now it is this side's.
    fn answer_keys(&mut self, now: Now, id: ConnId, key: FriendKey) {
        let Some(friend) = self.friends.get(&key) else { return };
        // The link may have been replaced while storage was under way.
        let id = friend.link.unwrap_or(id);
        let root = friend.record.root.id();
        self.send_control(now, id, &Control::KeysKnown(root));
        if let Some(open) = self.connections.get_mut(&id).and_then(Connection::open) {
            (open.peer_keys_pending, open.keys_shown) = (false, None);
        }
        self.show_keys(now, id, key);
    }

    /// The friend has stored the keys that it was shown.
    pub(super) fn keys_known(&mut self, key: FriendKey, root: [u8; 16]) {
        let candidates = self.friends.get(&key).map(|f| f.candidates.as_slice()).unwrap_or_default();
        if let Some(own_keys) = candidates.iter().find(|c| c.root.id() == root).map(|c| c.peer.own_keys()) {
            self.learned_own_keys(key, own_keys);
        }
    }

    /// A friend knows these own link keys; newer ones are shown when that is stored.
    pub(super) fn learned_own_keys(&mut self, key: FriendKey, own_keys: u32) {
        if let Some(change) = self.knows_own_keys(key, own_keys) {
            if let Some(friend) = self.friends.get_mut(&key) {
                friend.storing_own_keys = true;
            }
            self.persist(vec![change], AfterStore::OwnKeys(key));
        }
    }

    /// That is stored.
    pub(super) fn own_keys_stored(&mut self, now: Now, key: FriendKey) {
        let Some(friend) = self.friends.get_mut(&key) else { return };
        friend.storing_own_keys = false;
        if let Some(id) = friend.link {
            // What was shown meanwhile stood on older ones and was ignored.
            if let Some(open) = self.connections.get_mut(&id).and_then(Connection::open) {
                open.keys_shown = None;
            }
            self.show_keys(now, id, key);
        }
    }

    /// A friend knows these own link keys. `None`: that is no news.
    pub(super) fn knows_own_keys(&mut self, key: FriendKey, own_keys: u32) -> Option<Change> {
        let friend = self.friends.get_mut(&key)?;
        let at = friend.candidates.iter().position(|c| c.peer.own_keys() == own_keys)?;
        let Candidate { peer, root } = friend.candidates.swap_remove(at);
        friend.record.own_keys = own_keys;
        friend.record.root = root.clone();
        friend.peer = peer;
        self.renew_candidates(key);
        // Keys that nobody uses any more are wiped here; the journal loses them when it is compacted.
        let oldest = self.friends.values().map(|f| f.record.own_keys).min().unwrap_or(self.own_keys);
        self.identities.retain(|n, _| *n >= oldest);
        Some(Change::OwnKeys(key, own_keys, root))
    }
}
