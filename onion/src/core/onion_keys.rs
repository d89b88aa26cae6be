//! What friends and builders of circuits know of this node and its friends: a fresh onion key a day
//! for each friend, and the list of friends that a circuit may go on to.
//!
//! Invariant: no two friends are told the same key, and no two listers show a node by the same
//! handle or key. Page: `docs/protocol/circuit.md`.

use super::connections::Connection;
use super::*;
use crate::control::Control;
use crate::handle::{LIST_LEN, Listed};
use crate::route::Candidate;
use kith_crypto::circuit::OnionKey;

/// `HELLO`: the sender knows circuits.
pub(super) const CIRCUITS: u64 = 2;
/// Circuits that a friend may ask for, a second and saved up (design 1.3).
const CREATES: (f64, f64) = (4.0, 16.0);
/// Circuits of one friend that go on from here: each gives a list away (decision 18). Counted where
/// they come from, so that who makes many takes nothing from others.
const EXTENDS: (f64, f64) = (20.0 / 60.0, 20.0);
/// Requests that spread, from one friend.
const SPREADS: (f64, f64) = (1.0, 10.0);

/// Onion keys of a friend: one with each link, which are limited themselves.
const KEYS: (f64, f64) = (0.5, 40.0);

/// What is known of a friend as a relay, and it of this node.
#[derive(Debug)]
pub(crate) struct OnionPeer {
    /// Own keys for this friend: today's and yesterday's.
    own: Vec<(u16, OnionKey)>,
    /// The friend's key for this node, and whether it came over the link that stands.
    pub(super) key: Option<(u16, [u8; 32])>,
    confirmed: bool,
    /// It said that it knows circuits.
    pub(super) knows: bool,
    pub(super) trust: Trust,
    pub(super) verified: bool,
    pub(super) creates: Bucket,
    pub(super) extends: Bucket,
    pub(super) spreads: Bucket,
    keys: Bucket,
    /// Since when it is known, how long it was on line, and since when it is.
    since: Duration,
    online: Duration,
    online_since: Option<Duration>,
}

impl OnionPeer {
    pub(super) fn new(now: Duration) -> Self {
        Self {
            own: Vec::new(),
            key: None,
            confirmed: false,
            knows: false,
            trust: Trust::Normal,
            verified: false,
            creates: Bucket::new(CREATES.0, CREATES.1),
            extends: Bucket::new(EXTENDS.0, EXTENDS.1),
            spreads: Bucket::new(SPREADS.0, SPREADS.1),
            keys: Bucket::new(KEYS.0, KEYS.1),
            since: now,
            online: Duration::ZERO,
            online_since: None,
        }
    }

    fn online_for(&self, now: Duration) -> Duration {
        self.online + self.online_since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }

    /// Share of the time that it was on line, of 255.
    fn uptime(&self, now: Duration) -> u8 {
        let known = now.saturating_sub(self.since).as_secs_f64().max(1.0);
        (self.online_for(now).as_secs_f64() / known * 255.0).clamp(0.0, 255.0) as u8
    }

    /// The own key of a day, if it still counts.
    pub(super) fn own_key(&self, epoch: u16) -> Option<&OnionKey> {
        self.own.iter().find(|(day, _)| *day == epoch).map(|(_, key)| key)
    }

    /// It may be asked to relay.
    pub(super) fn can_relay(&self) -> bool {
        self.key.is_some() && self.trust != Trust::Low
    }
}

impl Friend {
    /// How much it is on line and how much it carries, as lists show it, 0 to 15 each.
    fn classes(&self, now: Duration) -> (u8, u8) {
        let Traffic { sent, received, relayed } = self.traffic;
        // Bytes a second while it was on line, in powers of two from 1 KiB on: own measurement.
        let online = self.onion.online_for(now).as_secs_f64().max(1.0);
        let rate = (sent + received + relayed) as f64 / online / 1024.0;
        let rate = rate.max(1.0).log2().clamp(0.0, 15.0) as u8;
        (crate::handle::uptime_class(self.onion.uptime(now)), rate)
    }
}

/// The day that onion keys are made for.
fn epoch_of(common: Now) -> u16 {
    (common.unix_s() / 86_400) as u16
}

impl Core {
    /// How far a friend is trusted with circuits, and whether fingerprints were compared.
    pub fn set_trust(&mut self, now: Now, friend: FriendKey, trust: Trust, verified: bool) {
        if let Some(friend) = self.friends.get_mut(&friend) {
            (friend.onion.trust, friend.onion.verified) = (trust, verified);
        }
        self.circuits.look_at_routes(now);
    }

    /// A link stands: the friend learns today's key.
    pub(super) fn onion_friend_up(&mut self, now: Now, id: ConnId, key: FriendKey, features: u64) {
        if let Some(friend) = self.friends.get_mut(&key) {
            friend.onion.knows = features & CIRCUITS != 0;
            friend.onion.online_since.get_or_insert(now.at);
            // It may have been restarted, with another key: until that comes nothing is asked of it. In
            // lists it stays as it was, or they would show who comes and goes.
            friend.onion.confirmed = false;
            friend.onion.key = friend.onion.key.filter(|_| friend.onion.knows);
        }
        self.circuits.handles.friend_connected(now.at);
        self.note(now, id, 0, Noted::Up);
        self.announce_key(now, id, key);
    }

    pub(super) fn onion_friend_down(&mut self, now: Now, key: FriendKey) {
        if let Some(friend) = self.friends.get_mut(&key)
            && let Some(since) = friend.onion.online_since.take()
        {
            friend.onion.online += now.at.saturating_sub(since);
        }
    }

    fn announce_key(&mut self, now: Now, id: ConnId, key: FriendKey) {
        let epoch = epoch_of(self.common_time(now));
        let relay = self.circuits.settings.relay;
        let Self { friends, rng, .. } = self;
        let Some(friend) = friends.get_mut(&key).filter(|f| f.onion.knows) else { return };
        let message = if relay {
            let own = &mut friend.onion.own;
            if own.last().is_none_or(|(day, _)| *day != epoch) {
                own.push((epoch, OnionKey::generate(rng)));
            }
            // Yesterday's still counts: valid for 48 hours.
            own.retain(|(day, _)| epoch.wrapping_sub(*day) <= 1);
            let public = own.last().map(|(_, key)| *key.public()).unwrap_or_default();
            Control::OnionKey { epoch, key: public }
        } else {
            // Said on each link: the friend may have a key of before a restart.
            friend.onion.own.clear();
            Control::OnionKey { epoch, key: [0; 32] }
        };
        self.send_control(now, id, &message);
    }

    /// A new day, or relaying was switched on or off: all friends on line are told.
    pub(super) fn announce_keys(&mut self, now: Now) {
        let (epoch, relay) = (epoch_of(self.common_time(now)), self.circuits.settings.relay);
        // A day does not come back: the clocks of friends who come and go differ. But a friend whose clock
        // is far ahead must not keep the others from new keys until then.
        let is_other = |day: u16| epoch != day && epoch.wrapping_add(1) != day;
        if self.circuits.announced.is_some_and(|(day, was)| was == relay && !is_other(day)) {
            return;
        }
        self.circuits.announced = Some((epoch, relay));
        let links: Vec<(FriendKey, ConnId)> =
            self.friends.iter().filter_map(|(key, f)| Some((*key, f.link?))).collect();
        links.into_iter().for_each(|(key, conn)| self.announce_key(now, conn, key));
    }

    /// A friend may be asked to relay, with this key.
    pub(super) fn onion_key_came(&mut self, now: Now, key: FriendKey, epoch: u16, public: [u8; 32]) {
        // One a day, and one with each link; the surplus is dropped.
        if let Some(friend) = self.friends.get_mut(&key)
            && friend.onion.keys.take(now.at)
        {
            friend.onion.key = (public != [0; 32]).then_some((epoch, public));
            friend.onion.confirmed = true;
            self.circuits.look_at_routes(now);
        }
    }

    /// Draws the list of friends that circuits may go on to, when it is time.
    pub(super) fn draw_handles(&mut self, now: Now) {
        let Self { friends, circuits, rng, .. } = self;
        if circuits.handles.poll_timeout().is_none_or(|at| at > now.at) {
            return;
        }
        let usable = friends.iter().filter(|(_, f)| f.onion.can_relay());
        let candidates: Vec<(FriendKey, u8)> =
            usable.map(|(key, f)| (*key, f.onion.uptime(now.at))).collect();
        circuits.handles.timeout(now.at, &candidates, rng);
        // What is shown of them is what they are now, until the next draw.
        let classes = |key: &FriendKey| Some((*key, friends.get(key)?.classes(now.at)));
        circuits.classes = circuits.handles.listed().iter().filter_map(classes).collect();
    }

    /// What a builder is shown whose circuit came from this friend.
    pub(super) fn handle_list(&self, now: Now, from: FriendKey) -> Vec<Listed> {
        // Ages go by the own clock: no friend decides when a handle changes.
        let unix_ms = now.unix_ms;
        let handles = &self.circuits.handles;
        let entry = |key: &FriendKey| {
            let friend = self.friends.get(key).filter(|f| f.onion.can_relay())?;
            let (epoch, public) = friend.onion.key?;
            let (uptime, rate) = self.circuits.classes.get(key).copied().unwrap_or_default();
            Some(Listed {
                handle: handles.handle_of(*key, unix_ms),
                key: public,
                epoch,
                uptime,
                rate,
                ageing: handles.is_ageing(*key, unix_ms),
            })
        };
        let mut list: Vec<Listed> =
            handles.listed().iter().filter(|key| **key != from).filter_map(entry).take(LIST_LEN).collect();
        list.sort_by_key(|l| l.handle);
        list
    }

    /// The friend that a handle of this node's names, whoever shows it.
    pub(super) fn friend_by_handle(&self, now: Now, handle: crate::handle::Handle) -> Option<FriendKey> {
        // Ages go by the own clock: no friend decides when a handle changes.
        let unix_ms = now.unix_ms;
        self.circuits.handles.resolve(handle, self.friends.keys().copied(), unix_ms)
    }

    /// Friends as first relays.
    pub(super) fn guard_candidates(&self, now: Now) -> Vec<Candidate> {
        let candidate = |(key, friend): (&FriendKey, &Friend)| Candidate {
            friend: *key,
            trust: friend.onion.trust,
            verified: friend.onion.verified,
            uptime: friend.onion.uptime(now.at),
            can_relay: friend.onion.can_relay(),
        };
        self.friends.iter().map(candidate).collect()
    }

    /// The link to a friend who relays, and its key.
    pub(super) fn relay_link(&self, key: FriendKey) -> Option<(ConnId, u16, [u8; 32])> {
        let friend = self.friends.get(&key).filter(|f| f.onion.can_relay() && f.onion.confirmed)?;
        let conn = friend.link?;
        self.connections.get(&conn).and_then(Connection::peek).filter(|open| open.has_heard())?;
        let (epoch, public) = friend.onion.key?;
        Some((conn, epoch, public))
    }
}
