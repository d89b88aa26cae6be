//! Who is dialled when: growing gaps with jitter after a failure, at once and spread out after a
//! suspend, and anew when a link is old. Page: `docs/protocol/link.md`.

use super::connections::{AfterStore, Stage, TOR_IS_SLOWER};
use super::*;
use crate::handshake::{Caller, Mode, Secret};

/// A handshake must be over by then on the dialling side.
pub(super) const CALL_DEADLINE: Duration = Duration::from_secs(10);
const BACKOFF_START: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(300);
/// A dial that could not begin is tried again after so long.
const POSTPONED_MS: (u64, u64) = (4_000, 8_000);
/// After a suspend all friends are dialled within this time.
const RESUME_SPREAD_MS: u64 = 5_000;
/// And a link that stood before must bring something within this time.
const RESUME_PROBE: Duration = Duration::from_secs(10);
/// Timers that are so late mean that the machine slept.
pub(super) const SLEPT: Duration = Duration::from_secs(30);
/// A restored friend may come back for so long after its owner was asked.
const RESTORED_FOR: Duration = Duration::from_secs(24 * 3600);

/// When to dial next, with growing gaps.
#[derive(Debug)]
pub(crate) struct Dialling {
    pub(super) at: Option<Duration>,
    gap: Duration,
    /// Dials in a row that reached nobody.
    pub(super) failed_dials: u32,
    /// Calls in a row that reached somebody who did not answer.
    pub(super) silent_calls: u32,
}

impl Dialling {
    pub(crate) const fn new(at: Duration) -> Self {
        Self { at: Some(at), gap: BACKOFF_START, failed_dials: 0, silent_calls: 0 }
    }

    /// After a failure: twice the gap, up to five minutes, with jitter so that nodes spread out.
    pub(super) fn failed(&mut self, now: Duration, rng: &mut Rng) {
        let gap_ms = self.gap.as_millis() as u64;
        self.at = Some(now + Duration::from_millis(rng.range(gap_ms / 2, gap_ms * 3 / 2)));
        self.gap = (self.gap * 2).min(BACKOFF_MAX);
    }

    pub(super) fn reset(&mut self, at: Duration) {
        (self.at, self.gap) = (Some(at), BACKOFF_START);
    }

    pub(super) fn succeeded(&mut self) {
        (self.at, self.failed_dials, self.silent_calls) = (None, 0, 0);
    }
}

/// Which addresses are called, in order: the quicker ones first, and after calls that somebody took and did not
/// answer the onion service first, since there may be somebody else now where the friend was. `secrets`: how many a
/// friend is called with in turn; each of them goes both ways.
fn ways(addrs: &[Address], tor_only: bool, silent_calls: u32, secrets: u32) -> Vec<Address> {
    let mut ways: Vec<Address> = addrs.iter().filter(|addr| !tor_only || addr.is_onion()).cloned().collect();
    let round = silent_calls / secrets.max(1);
    ways.sort_by_key(|addr| addr.is_onion() == round.is_multiple_of(2));
    ways
}

/// What is known of the way to a friend, for its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// A link stands.
    pub online: bool,
    /// Newest known addresses.
    pub addresses: Vec<Address>,
    /// Dials in a row that reached nobody.
    pub failed_dials: u32,
    /// Calls in a row that reached somebody who did not answer.
    pub silent_calls: u32,
    /// Time until the next dial.
    pub next_dial: Option<Duration>,
    /// The keys of both sides do not fit.
    pub out_of_step: Option<OutOfStep>,
    /// The friend called with this other major version of the protocol.
    pub other_version: Option<u16>,
    /// Generation of the PSK; 0 until the first link with a post-quantum exchange.
    pub generation: u32,
    /// The friend does not know this node's newest link keys yet.
    pub keys_pending: bool,
}

impl Core {
    /// A dial succeeded.
    pub fn dialled(&mut self, now: Now, who: Who) -> ConnId {
        self.dialled_through(now, who, false)
    }

    /// As [`Core::dialled`]; `tor`: through Tor.
    pub fn dialled_through(&mut self, now: Now, who: Who, tor: bool) -> ConnId {
        let id = self.connection(now, Stage::Preparing(who), false, 0, CALL_DEADLINE);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.dialled = Some(who);
        }
        if tor {
            self.calls_through_tor(id);
        }
        match who {
            // Marked since the call began.
            _ if !self.may_come(id, who) => self.close(now, id),
            Who::Friend(key) => match self.friends.get_mut(&key) {
                // The friend's own call was quicker: a second link would only replace the first.
                Some(friend) if friend.is_linked() && !friend.renewing => self.close(now, id),
                Some(friend) => {
                    let counter = friend.record.counter_out.saturating_add(1).max(now.unix_ms);
                    friend.record.counter_out = counter;
                    self.persist(vec![Change::CounterOut(key, counter)], AfterStore::Call(id, counter));
                }
                None => self.close(now, id),
            },
            // The invite's secret is used once; its repeats are told apart by their nonce.
            Who::Invite(_) => self.call(now, id, now.unix_ms),
        }
        id
    }

    /// A dial failed at all addresses.
    pub fn dial_failed(&mut self, now: Now, who: Who) {
        match who {
            Who::Friend(key) => {
                if let Some(friend) = self.friends.get_mut(&key) {
                    friend.dialling.failed_dials = friend.dialling.failed_dials.saturating_add(1);
                }
            }
            Who::Invite(id) => self.event(Event::Invite(id, InviteOutcome::Unreachable)),
        }
        self.retry_later(now, who);
    }

    /// A dial could not even begin, because the way is not ready: it is tried again soon, and says nothing of
    /// who was to be called.
    pub fn dial_postponed(&mut self, now: Now, who: Who) {
        let at = now.at + Duration::from_millis(self.rng.range(POSTPONED_MS.0, POSTPONED_MS.1));
        match who {
            Who::Friend(key) => {
                let Some(friend) = self.friends.get_mut(&key) else { return };
                // A link that stands is still to be made anew; it may be gone meanwhile.
                if std::mem::take(&mut friend.renewing) {
                    friend.renew_at = Some(at);
                }
                if !friend.is_linked() {
                    friend.dialling.at = Some(at);
                }
            }
            Who::Invite(id) => {
                if let Some(taken) = self.taken.get_mut(&id) {
                    taken.dialling.at = Some(at);
                }
                self.event(Event::Invite(id, InviteOutcome::Unreachable));
            }
        }
    }

    pub(super) fn retry_later(&mut self, now: Now, who: Who) {
        let Self { friends, taken, rng, .. } = self;
        match who {
            Who::Friend(key) => {
                let Some(friend) = friends.get_mut(&key) else { return };
                if std::mem::take(&mut friend.renewing) {
                    friend.renew_at = Some(now.at + Duration::from_secs(rng.range(300, 900)));
                }
                if !friend.is_linked() {
                    friend.dialling.failed(now.at, rng);
                }
            }
            Who::Invite(id) => {
                if let Some(taken) = taken.get_mut(&id) {
                    taken.dialling.failed(now.at, rng);
                }
            }
        }
    }

    pub(super) fn dial_due(&mut self, now: Now) {
        let mut dials = Vec::new();
        let (all, tor_only) = (self.all_tor_only, &self.tor_only);
        for (key, friend) in &mut self.friends {
            let only = all || tor_only.contains(&Who::Friend(*key));
            let secrets = friend.secrets(now);
            let addrs =
                |friend: &Friend| ways(&friend.record.addrs, only, friend.dialling.silent_calls, secrets);
            if !friend.is_linked() && friend.dialling.at.is_some_and(|at| at <= now.at) {
                dials.push(Output::Dial(Who::Friend(*key), addrs(friend)));
                friend.dialling.at = None;
            }
            // A new handshake while the old link goes on: the new one takes its place.
            if friend.renew_at.is_some_and(|at| at <= now.at) && friend.link.is_some() {
                dials.push(Output::Dial(Who::Friend(*key), addrs(friend)));
                (friend.renew_at, friend.renewing) = (None, true);
            }
        }
        for (id, taken) in &mut self.taken {
            if !taken.welcomed && taken.dialling.at.is_some_and(|at| at <= now.at) {
                taken.dialling.at = None;
                let inviter = Who::Friend(FriendKey(taken.invite.inviter.keys.sign));
                let only = all || [Who::Invite(*id), inviter].iter().any(|who| tor_only.contains(who));
                let addrs = ways(&taken.invite.inviter.addrs, only, taken.dialling.silent_calls, 1);
                dials.push(Output::Dial(Who::Invite(*id), addrs));
            }
        }
        self.outputs.extend(dials);
    }

    pub(super) fn next_dial(&self) -> Option<Duration> {
        let friends = self.friends.values().filter_map(|f| match f.link {
            Some(_) => earliest(f.renew_at, f.exchange_at),
            None if f.is_linked() => None,
            None => f.dialling.at,
        });
        let invites = self.taken.values().filter(|t| !t.welcomed).filter_map(|t| t.dialling.at);
        friends.chain(invites).min()
    }

    /// What a friend is called with. After calls that nobody answered, what else the friend may know:
    /// newer own link keys, and the recovery PSK if the owner allowed that.
    fn to_call(friend: &Friend, now: Now) -> (Peer, Secret) {
        let tries = friend.dialling.silent_calls as usize;
        let peers = 1 + friend.candidates.len();
        let candidate = (tries % peers).checked_sub(1).and_then(|n| friend.candidates.get(n));
        let (peer, root) = candidate.map_or((&friend.peer, &friend.record.root), |c| (&c.peer, &c.root));
        // After an exchange the new PSK is to be proved, whatever came before.
        let recovers = friend.is_lost(now) && (tries / peers).is_multiple_of(2);
        let secret = if recovers {
            Secret { mode: Mode::Recovery, psk: root.recovery_psk() }
        } else {
            friend.record.ratchet.to_call()
        };
        (peer.clone(), secret)
    }

    pub(super) fn call(&mut self, now: Now, id: ConnId, counter: u64) {
        let Some(Stage::Preparing(who)) = self.connections.get(&id).map(|c| &c.stage) else { return };
        let who = *who;
        let to_call = match who {
            Who::Friend(key) => self.friends.get(&key).map(|f| Self::to_call(f, now)),
            Who::Invite(invite) => self.taken.get(&invite).map(|t| (t.peer.clone(), t.secret.clone())),
        };
        let started = to_call.and_then(|(peer, secret)| {
            let me = self.identities.get(&peer.own_keys())?;
            Caller::start(me, peer, &secret, counter, &mut self.rng).ok()
        });
        let Some((caller, flight)) = started else { return self.close(now, id) };
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.flights = flight;
            connection.stage = Stage::Calling(Box::new(caller), who);
        }
    }

    pub(super) fn call_failed(&mut self, now: Now, id: ConnId, who: Who) {
        self.close(now, id);
        if let Who::Invite(invite) = who {
            self.event(Event::Invite(invite, InviteOutcome::Refused));
        }
    }

    /// The machine slept, or its network changed: links must prove that they are alive, and friends
    /// who are away are dialled soon, spread over some seconds.
    pub fn resumed(&mut self, now: Now) {
        let Self { friends, taken, rng, .. } = self;
        let mut soon = || now.at + Duration::from_millis(rng.range(0, RESUME_SPREAD_MS));
        friends.values_mut().filter(|f| !f.is_linked()).for_each(|f| f.dialling.reset(soon()));
        taken.values_mut().filter(|t| !t.welcomed).for_each(|t| t.dialling.reset(soon()));
        let links: Vec<ConnId> = self.friends.values().filter_map(|f| f.link).collect();
        for id in links {
            if let Some(connection) = self.connections.get_mut(&id) {
                let slower = if connection.is_through_tor() { TOR_IS_SLOWER } else { Duration::ZERO };
                connection.probed_until = Some(now.at + RESUME_PROBE + slower);
                connection.last_received = now.at;
            }
            self.send_control(now, id, &Control::Ping(0));
        }
    }

    /// The owner says that this friend's node (or this one) was restored from a backup: a recovery
    /// is answered, and tried, for a day (decision 9).
    pub fn allow_restored(&mut self, now: Now, key: FriendKey) -> bool {
        let Some(friend) = self.friends.get_mut(&key) else { return false };
        if !friend.may_recover(now) {
            friend.recovery_counter = 0;
        }
        friend.restored_until = Some(now.at + RESTORED_FOR);
        (friend.dialling.silent_calls, friend.out_of_step) = (0, None);
        if !friend.is_linked() {
            friend.dialling.reset(now.at);
        }
        true
    }

    /// What is known of the way to a friend.
    pub fn reach(&self, now: Now, key: FriendKey) -> Option<Reach> {
        let friend = self.friends.get(&key)?;
        Some(Reach {
            online: friend.link.is_some(),
            addresses: friend.record.addrs.clone(),
            failed_dials: friend.dialling.failed_dials,
            silent_calls: friend.dialling.silent_calls,
            next_dial: friend
                .dialling
                .at
                .filter(|_| friend.link.is_none())
                .map(|at| at.saturating_sub(now.at)),
            out_of_step: friend.out_of_step,
            other_version: friend.other_version,
            generation: friend.record.ratchet.generation,
            keys_pending: friend.record.own_keys != self.own_keys,
        })
    }
}

impl Friend {
    /// A link, or one that carries an exchange.
    pub(super) fn is_linked(&self) -> bool {
        self.link.is_some() || self.exchange_link.is_some()
    }

    /// The recovery PSK may be what the friend knows.
    fn is_lost(&self, now: Now) -> bool {
        self.may_recover(now) && self.record.ratchet.is_settled()
    }

    /// How many secrets and keys this friend is called with in turn.
    fn secrets(&self, now: Now) -> u32 {
        let peers = 1 + self.candidates.len() as u32;
        if self.is_lost(now) { peers * 2 } else { peers }
    }

    pub(super) fn may_recover(&self, now: Now) -> bool {
        self.restored_until.is_some_and(|until| now.at < until)
    }

    /// The counter that a call must exceed. A restored node may have a clock that runs behind that of
    /// the lost one, so while its owner's word holds, its recovery calls are counted on their own.
    pub(super) fn counter_floor(&self, now: Now, mode: Mode) -> u64 {
        if mode == Mode::Recovery && self.may_recover(now) {
            self.recovery_counter
        } else {
            self.record.counter_in
        }
    }
}
