//! The session of an invite: certificates there, welcome back, and the friendship stored on both
//! sides. Page: `docs/protocol/friends.md`.

use super::connections::{AfterStore, Connection};
use super::*;
use crate::link::Broken;

impl Core {
    /// Inviter: the invited side shows its certificate.
    pub(super) fn invited(
        &mut self,
        now: Now,
        id: ConnId,
        invite: InviteId,
        bytes: &[u8],
    ) -> Result<(), Broken> {
        let Some(given) = self.given.get(&invite) else { return Err(Broken) };
        let secret = given.invite.secret.clone();
        let open = self.connections.get_mut(&id).and_then(Connection::open).ok_or(Broken)?;
        if std::mem::replace(&mut open.certified, true) {
            return Err(Broken);
        }
        let peer_noise = open.peer_noise;
        let cert = Certificate::decode(bytes).map_err(|_| Broken)?;
        let expired = u64::from(cert.expires) <= now.unix_s();
        if cert.keys.noise != peer_noise || cert.keys == *self.me() || expired {
            return Err(Broken);
        }
        // The invite belongs to one Noise key, and one Noise key is one friend: another certificate
        // around it would be a second friend by one invite.
        let taken = |f: &Friend| f.record.keys.noise == cert.keys.noise && f.record.keys != cert.keys;
        if self.friends.values().any(taken) {
            return Err(Broken);
        }
        let key = FriendKey(cert.keys.sign);
        if self.refused.contains(&key) {
            return Err(Broken);
        }
        let root = self.pair_root(&cert, &secret).ok_or(Broken)?;
        let tor_only = self.inherits_tor_only(now, invite, key);
        let added = self.befriend(now, &cert, root);
        let is_new = added.is_some();
        if is_new && let Some(friend) = self.friends.get_mut(&key) {
            // The invited side dials as soon as it is welcome; dialling back at once would cross it.
            friend.dialling.reset(now.at + Duration::from_secs(3));
        }
        // The invite's owner is stored together with the friend. A repeat waits for storage too: the
        // first try may still be on its way there.
        let bound = Change::InviteBound(invite, cert.keys.noise);
        let added = added.map(|record| Change::FriendAdded(Box::new(cert), Box::new(record)));
        let changes = added.into_iter().chain(tor_only).chain([bound]).collect();
        self.persist(changes, AfterStore::Welcome(id, is_new.then_some(key)));
        Ok(())
    }

    /// Who came by an invite that goes through Tor alone is reached so.
    fn inherits_tor_only(&mut self, now: Now, invite: InviteId, key: FriendKey) -> Option<Change> {
        if !self.tor_only.contains(&Who::Invite(invite)) {
            return None;
        }
        self.set_tor_only(now, Who::Friend(key), true);
        Some(Change::TorOnly(key))
    }

    /// What an invite and the newest own link keys make of two people.
    fn pair_root(&self, cert: &Certificate, secret: &Key) -> Option<PairRoot> {
        PairRoot::new(self.identities.get(&self.own_keys)?, &cert.keys, Some(secret))
    }

    /// Makes or renews a friendship; `None` when it stands already with these very secrets. An
    /// invite between friends renews it: one side may have lost or removed the other meanwhile.
    fn befriend(&mut self, now: Now, cert: &Certificate, root: PairRoot) -> Option<FriendRecord> {
        let key = FriendKey(cert.keys.sign);
        let addrs = self.usable(Who::Friend(key), &cert.addrs);
        let mut record = FriendRecord::new(cert.keys, root, addrs, self.own_keys);
        record.keys_since_s = cert.created;
        if let Some(friend) = self.friends.get_mut(&key) {
            if friend.record.root == record.root && friend.record.keys == record.keys {
                return None;
            }
            record.counter_in = friend.record.counter_in;
            record.counter_out = friend.record.counter_out;
            friend.peer = Peer::friend(&self.public, self.own_keys, &record.keys, &record.root);
            friend.record = record.clone();
            friend.candidates.clear();
            (friend.exchange, friend.out_of_step, friend.restored_until) = (None, None, None);
            let old = self.connections_of(Who::Friend(key));
            old.into_iter().for_each(|conn| self.close(now, conn));
        } else {
            self.add_friend(now, record.clone());
        }
        Some(record)
    }

    /// Invited side: the inviter has stored the friendship.
    pub(super) fn welcomed(&mut self, now: Now, id: ConnId, invite: InviteId) -> Result<(), Broken> {
        let Some(taken) = self.taken.get_mut(&invite) else { return Err(Broken) };
        if self.refused.contains(&FriendKey(taken.invite.inviter.keys.sign)) {
            return Err(Broken);
        }
        if std::mem::replace(&mut taken.welcomed, true) {
            return Ok(());
        }
        let cert = taken.invite.inviter.clone();
        let secret = taken.invite.secret.clone();
        let key = FriendKey(cert.keys.sign);
        let root = self.pair_root(&cert, &secret).ok_or(Broken)?;
        let tor_only = self.inherits_tor_only(now, invite, key);
        let added = self.befriend(now, &cert, root);
        let added = added.map(|record| Change::FriendAdded(Box::new(cert), Box::new(record)));
        let changes = added.into_iter().chain(tor_only).chain([Change::InviteDone(invite)]).collect();
        self.persist(changes, AfterStore::Joined(id, invite, key));
        Ok(())
    }
}
