//! What a node shows of its friends to the circuits that end at it: handles, the snapshot of friends
//! that it lists, and the list's form. Format and reasons: `docs/protocol/circuit.md`.
//!
//! Invariant: a list depends on nothing but the last snapshot, which is drawn at times that no
//! connection decides; handles of one friend at two listers, or in two periods, look unrelated. Which
//! onion key stands beside a handle is the business of who builds the list.

use crate::core::FriendKey;
use kith_crypto::codec::{DecodeError, Reader, Writer};
use kith_crypto::kdf::{self, Label};
use kith_crypto::rng::Rng;
use kith_crypto::secret::Key;
use std::cmp::Reverse;
use std::time::Duration;

/// Most friends in one list.
pub const LIST_LEN: usize = 16;
/// Length of an encoded list, whatever it holds: status 1, count 1, entries of 48 bytes, zeros.
pub const LIST_BYTES: usize = 2 + LIST_LEN * LISTED_BYTES;

const LISTED_BYTES: usize = 48;
const STATUS_FINE: u8 = 0;
const FLAG_AGEING: u8 = 1;
const MAX_CLASS: u8 = 15;
const DAY_MS: u64 = 24 * 3_600_000;
const PERIOD_MS: u64 = 60 * DAY_MS;
const AGEING_MS: u64 = 30 * DAY_MS;
const HOUR: Duration = Duration::from_secs(3600);

/// A friend as a lister names it: random-looking, different in every lister.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle(pub [u8; 8]);

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handle(..)")
    }
}

/// One entry of a handle list.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// Its name here.
    pub handle: Handle,
    /// Onion key that it made for this lister.
    pub key: [u8; 32],
    /// Epoch of that key.
    pub epoch: u16,
    /// How much of the time it is on line, 0 to 15.
    pub uptime: u8,
    /// How much it can carry, 0 to 15.
    pub rate: u8,
    /// The handle ends within 30 days: no new sticky route is to begin with it.
    pub ageing: bool,
}

impl std::fmt::Debug for Listed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Handles and keys are parts of routes, which are secret in logs.
        f.write_str("Listed(..)")
    }
}

/// The class that stands for an uptime of `uptime` 255ths.
pub const fn uptime_class(uptime: u8) -> u8 {
    uptime >> 4
}

/// Encodes at most [`LIST_LEN`] entries to [`LIST_BYTES`] bytes. They are put in order of their
/// handles, so that the order tells nothing about the friends.
pub fn encode_list(list: &[Listed]) -> Vec<u8> {
    let mut list: Vec<&Listed> = list.iter().take(LIST_LEN).collect();
    list.sort_unstable_by_key(|listed| listed.handle);
    list.dedup_by_key(|listed| listed.handle);
    let mut w = Writer::new();
    w.u8(STATUS_FINE).u8(list.len() as u8);
    for listed in list {
        w.raw(&listed.handle.0).raw(&listed.key).u16(listed.epoch);
        w.u8(listed.uptime.min(MAX_CLASS)).u8(listed.rate.min(MAX_CLASS));
        w.u8(if listed.ageing { FLAG_AGEING } else { 0 }).raw(&[0; 3]);
    }
    w.pad_to(LIST_BYTES);
    w.into_bytes()
}

/// Reads a list. The one allowed form is the one that [`encode_list`] gives.
pub fn decode_list(bytes: &[u8]) -> Result<Vec<Listed>, DecodeError> {
    let mut r = Reader::new(bytes);
    let bad = r.invalid("list status");
    if r.u8()? != STATUS_FINE {
        return Err(bad);
    }
    let at = r.at();
    let count = usize::from(r.u8()?);
    if count > LIST_LEN {
        return Err(DecodeError::TooLarge { at, what: "list" });
    }
    let mut rest = Reader::new(r.remaining());
    let body = rest.take(LIST_LEN * LISTED_BYTES).map_err(|_| DecodeError::Truncated { at: r.at() })?;
    rest.finish().map_err(|_| DecodeError::Trailing { at: LIST_BYTES })?;
    let mut r = Reader::new(body);
    let mut list: Vec<Listed> = Vec::with_capacity(count);
    for _ in 0..count {
        let bad = r.invalid("order of handles");
        let listed = read_listed(&mut r)?;
        if list.last().is_some_and(|last| last.handle >= listed.handle) {
            return Err(bad);
        }
        list.push(listed);
    }
    r.zeros()?;
    Ok(list)
}

fn read_listed(r: &mut Reader<'_>) -> Result<Listed, DecodeError> {
    let (handle, key, epoch) = (Handle(r.array()?), r.array()?, r.u16()?);
    let bad = r.invalid("class");
    let (uptime, rate) = (r.u8()?, r.u8()?);
    if uptime > MAX_CLASS || rate > MAX_CLASS {
        return Err(bad);
    }
    let bad = r.invalid("flags");
    let (flags, reserved) = (r.u8()?, r.array::<3>()?);
    if flags > FLAG_AGEING || reserved != [0; 3] {
        return Err(bad);
    }
    Ok(Listed { handle, key, epoch, uptime, rate, ageing: flags == FLAG_AGEING })
}

/// The handles of one node's friends and the snapshot of those that it lists.
#[derive(Debug)]
pub struct Handles {
    secret: Key,
    low: Duration,
    high: Duration,
    first: Duration,
    due: Option<Duration>,
    /// Best first; one more than a list holds, for the one that the arriving link leaves out.
    snapshot: Vec<FriendKey>,
}

impl Handles {
    /// Handles under `secret`, which belongs to this node alone and has to be the same after a
    /// restart. Nothing is listed yet.
    pub fn new(secret: &Key) -> Self {
        let secret = secret.clone();
        Self { secret, low: 6 * HOUR, high: 12 * HOUR, first: HOUR / 12, due: None, snapshot: Vec::new() }
    }

    /// Redraws come `low` to `high` after each other, the first snapshot `first` after the first
    /// friend connected. Counts from the next draw on.
    pub fn set_interval(&mut self, low: Duration, high: Duration, first: Duration) {
        (self.low, self.high, self.first) = (low, high, first);
    }

    // Handles.

    /// The handle of a friend: the same for 60 days, which begin at another time for each friend, so
    /// that no two friends change theirs together.
    pub fn handle_of(&self, friend: FriendKey, unix_ms: u64) -> Handle {
        self.handle_in(friend, self.age(friend, unix_ms).0)
    }

    /// Whether the handle is in its second 30 days. A route that begins with a handle that is not
    /// ageing can keep it for at least 30 days.
    pub fn is_ageing(&self, friend: FriendKey, unix_ms: u64) -> bool {
        self.age(friend, unix_ms).1 >= AGEING_MS
    }

    /// The friend that a handle of this or the previous period names. Friends that the last snapshot
    /// left out count too: whoever has a route through one may go on with it.
    pub fn resolve(
        &self,
        handle: Handle,
        friends: impl IntoIterator<Item = FriendKey>,
        unix_ms: u64,
    ) -> Option<FriendKey> {
        friends.into_iter().find(|friend| {
            let period = self.age(*friend, unix_ms).0;
            [period, period.wrapping_sub(1)].into_iter().any(|p| self.handle_in(*friend, p) == handle)
        })
    }

    /// Number of the friend's period, and how long it has lasted.
    fn age(&self, friend: FriendKey, unix_ms: u64) -> (u64, u64) {
        let shifted = unix_ms.saturating_add(self.number(friend, b"phase") % PERIOD_MS);
        (shifted / PERIOD_MS, shifted % PERIOD_MS)
    }

    fn handle_in(&self, friend: FriendKey, period: u64) -> Handle {
        Handle(self.prf(friend, &period.to_le_bytes()))
    }

    fn number(&self, friend: FriendKey, what: &[u8]) -> u64 {
        u64::from_le_bytes(self.prf(friend, what))
    }

    /// `what` has five or eight bytes, so that phases and handles never meet.
    fn prf(&self, friend: FriendKey, what: &[u8]) -> [u8; 8] {
        let full = kdf::derive(Label::HANDLE, &[self.secret.expose(), &friend.0, what]);
        let mut out = [0; 8];
        out.iter_mut().zip(full.expose()).for_each(|(o, b)| *o = *b);
        out
    }

    // The snapshot.

    /// A link to a friend stands. Only the first one of all has an effect.
    pub fn friend_connected(&mut self, now: Duration) {
        self.due.get_or_insert(now.saturating_add(self.first));
    }

    /// When the next draw is due.
    pub const fn poll_timeout(&self) -> Option<Duration> {
        self.due
    }

    /// Draws a snapshot when it is due. `candidates` are all friends that allow listing and can
    /// relay, connected or not, with their uptime in 255ths.
    ///
    /// Uptime is compared by class, and ties go by an order that is random but this node's own and
    /// always the same, and who is listed counts as one class better: a redraw that moved friends in
    /// and out for nothing would break the sticky routes through them, and would show more friends
    /// to patient collectors.
    pub fn timeout(&mut self, now: Duration, candidates: &[(FriendKey, u8)], rng: &mut Rng) {
        if self.due.is_none_or(|due| now < due) {
            return;
        }
        let rank = |(friend, uptime): &(FriendKey, u8)| {
            let class = uptime_class(*uptime) + u8::from(self.snapshot.contains(friend));
            (Reverse(class), self.number(*friend, b"order"), *friend)
        };
        let mut ranked: Vec<_> = candidates.iter().map(rank).collect();
        ranked.sort_unstable();
        ranked.truncate(LIST_LEN + 1);
        self.snapshot = ranked.into_iter().map(|(_, _, friend)| friend).collect();
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let wait = match self.snapshot.is_empty() {
            true => self.first,
            false => Duration::from_millis(rng.range(millis(self.low), millis(self.high))),
        };
        self.due = Some(now.saturating_add(wait));
    }

    /// The friendship ended.
    pub fn forget(&mut self, friend: FriendKey) {
        self.snapshot.retain(|listed| *listed != friend);
    }

    /// The snapshot, best first: [`LIST_LEN`] friends and one more.
    pub fn listed(&self) -> &[FriendKey] {
        &self.snapshot
    }

    /// The friends to list to a circuit that arrived over the link to `arriving`.
    pub fn listed_for(&self, arriving: FriendKey) -> impl Iterator<Item = FriendKey> + '_ {
        self.snapshot.iter().copied().filter(move |friend| *friend != arriving).take(LIST_LEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kith_crypto::rng::Rng;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const START: u64 = 20_000 * DAY_MS;

    fn friend(n: u8) -> FriendKey {
        FriendKey([n; 32])
    }

    fn handles(n: u8) -> Handles {
        Handles::new(&Key::new([n; 32]))
    }

    fn rng() -> Rng {
        Rng::from_seed([7; 32])
    }

    fn listed(n: u8) -> Listed {
        Listed { handle: Handle([n; 8]), key: [n; 32], epoch: 500, uptime: 15, rate: 3, ageing: n % 2 == 1 }
    }

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn a_handle_stays_for_sixty_days_and_is_fresh_for_the_first_thirty() {
        let node = handles(1);
        for n in 0..20 {
            let at = |day: u64| node.handle_of(friend(n), START + day * DAY_MS);
            let changes: Vec<u64> = (1..200).filter(|day| at(*day) != at(day - 1)).collect();
            assert!(changes.windows(2).all(|w| w[1] - w[0] == 60), "{changes:?}");
            let first = changes[0];
            assert!(!node.is_ageing(friend(n), START + first * DAY_MS));
            assert!(!node.is_ageing(friend(n), START + (first + 28) * DAY_MS));
            assert!(node.is_ageing(friend(n), START + (first + 30) * DAY_MS));
            assert!(node.is_ageing(friend(n), START + (first + 58) * DAY_MS));
        }
        let day = |n| {
            (1..61).find(|day| {
                node.handle_of(friend(n), START + day * DAY_MS) != node.handle_of(friend(n), START)
            })
        };
        let days: BTreeSet<_> = (0..20).map(day).collect();
        assert!(days.len() > 10, "the friends' periods begin at different times");
    }

    #[test]
    fn no_two_listers_periods_or_friends_share_a_handle() {
        let mut seen = BTreeSet::new();
        for (lister, n, day) in (0..9).flat_map(|l| (0..9).flat_map(move |n| [0, 60, 120].map(|d| (l, n, d))))
        {
            assert!(seen.insert(handles(lister).handle_of(friend(n), START + day * DAY_MS)));
        }
        let restarted = handles(3).handle_of(friend(4), START);
        assert!(seen.contains(&restarted), "a restart changes nothing");
    }

    #[test]
    fn handles_of_this_and_the_last_period_are_resolved_also_for_the_unlisted() {
        let node = handles(1);
        let friends = || (0..30).map(friend);
        let handle = node.handle_of(friend(9), START);
        for (days, found) in [(0, true), (59, true), (60, true), (120, false)] {
            let resolved = node.resolve(handle, friends(), START + days * DAY_MS);
            assert_eq!(resolved, found.then_some(friend(9)), "{days}");
        }
        assert_eq!(node.resolve(handle, (0..9).map(friend), START), None);
        assert_eq!(handles(2).resolve(handle, friends(), START), None, "another lister knows nothing of it");
    }

    #[test]
    fn snapshots_come_at_times_that_no_connection_decides() {
        let (mut node, mut rng) = (handles(1), rng());
        let all: Vec<_> = (0..30).map(|n| (friend(n), 200)).collect();
        node.timeout(secs(1), &all, &mut rng);
        assert_eq!((node.poll_timeout(), node.listed().len()), (None, 0), "nobody has connected");
        node.friend_connected(secs(10));
        node.friend_connected(secs(100));
        assert_eq!(node.poll_timeout(), Some(secs(310)));
        node.timeout(secs(309), &all, &mut rng);
        assert!(node.listed().is_empty());
        node.timeout(secs(310), &[], &mut rng);
        assert_eq!(node.poll_timeout(), Some(secs(610)), "nobody to list: the first one is still to come");
        let mut now = secs(610);
        for _ in 0..50 {
            node.timeout(now, &all, &mut rng);
            assert_eq!(node.listed().len(), LIST_LEN + 1);
            let due = node.poll_timeout().unwrap();
            node.friend_connected(now);
            assert_eq!(node.poll_timeout(), Some(due));
            assert!((6 * HOUR..=12 * HOUR).contains(&(due - now)), "{:?}", due - now);
            now = due;
        }
        node.set_interval(secs(2), secs(3), secs(1));
        node.timeout(now, &all, &mut rng);
        assert!((secs(2)..=secs(3)).contains(&(node.poll_timeout().unwrap() - now)));
    }

    #[test]
    fn the_best_are_listed_and_stay_while_they_are_about_as_good() {
        let (mut node, mut rng) = (handles(1), rng());
        let mut all: Vec<_> = (0..40).map(|n| (friend(n), if n < 5 { 250 } else { 100 })).collect();
        node.friend_connected(secs(0));
        let mut draw = |node: &mut Handles, all: &[_]| {
            node.timeout(node.poll_timeout().unwrap(), all, &mut rng);
            node.listed().to_vec()
        };
        let first = draw(&mut node, &all);
        assert!((0..5).all(|n| first.contains(&friend(n))));
        assert_eq!(draw(&mut node, &all), first, "a tie is decided the same way again");
        let last = *first.last().unwrap();
        let slip = |all: &mut Vec<(FriendKey, u8)>, uptime| {
            all.iter_mut().filter(|(f, _)| *f == last).for_each(|(_, u)| *u = uptime);
        };
        slip(&mut all, 90);
        assert!(draw(&mut node, &all).contains(&last), "one class less is no reason");
        slip(&mut all, 60);
        assert!(!draw(&mut node, &all).contains(&last));
        node.forget(friend(2));
        assert!(!node.listed().contains(&friend(2)));
        let mut other = handles(2);
        other.friend_connected(secs(0));
        slip(&mut all, 100);
        other.timeout(secs(300), &all, &mut rng);
        assert_ne!(other.listed(), first, "another node decides ties another way");
    }

    #[test]
    fn a_list_leaves_the_arriving_link_out_and_is_full_all_the_same() {
        let (mut node, mut rng) = (handles(1), rng());
        let all: Vec<_> = (0..40).map(|n| (friend(n), 100)).collect();
        node.friend_connected(secs(0));
        node.timeout(secs(300), &all, &mut rng);
        for n in 0..40 {
            let list: Vec<_> = node.listed_for(friend(n)).collect();
            assert!(list.len() == LIST_LEN && !list.contains(&friend(n)));
        }
    }

    #[test]
    fn a_list_tells_nothing_but_its_entries() {
        // The same entries in any order give the same bytes, of a length that never changes: neither
        // the friends' keys nor the order of the snapshot nor handles that are left out take part.
        let list: Vec<_> = (1..=16).map(listed).collect();
        let mut reversed = list.clone();
        reversed.reverse();
        assert_eq!(encode_list(&list), encode_list(&reversed));
        for n in 0..=16 {
            let bytes = encode_list(&list[..n]);
            assert_eq!((bytes.len(), decode_list(&bytes).unwrap()), (LIST_BYTES, list[..n].to_vec()));
            assert!(bytes[2 + n * LISTED_BYTES..].iter().all(|b| *b == 0));
        }
    }

    #[test]
    fn other_forms_of_a_list_are_refused() {
        let good = encode_list(&[listed(1), listed(2)]);
        let second = 2 + LISTED_BYTES;
        for (at, value, why) in [
            (0, 1, "status"),
            (1, 17, "too many"),
            (1, 1, "entry in the padding"),
            (1, 3, "handle of zeros after others"),
            (2 + 42, 16, "uptime class"),
            (2 + 43, 16, "rate class"),
            (2 + 44, 2, "unknown flag"),
            (2 + 45, 1, "reserved"),
            (2 + 47, 1, "reserved"),
            (second + 60, 1, "padding"),
            (LIST_BYTES - 1, 1, "padding"),
        ] {
            let mut bad = good.clone();
            bad[at] = value;
            assert!(decode_list(&bad).is_err(), "{why}");
        }
        let mut twice = good.clone();
        twice[second..second + 8].copy_from_slice(&[1; 8]);
        assert!(decode_list(&twice).is_err(), "a handle twice");
        let mut swapped = good.clone();
        swapped[second..second + 8].copy_from_slice(&[0; 8]);
        assert!(decode_list(&swapped).is_err(), "out of order");
        assert_eq!(decode_list(&good[..LIST_BYTES - 1]), Err(DecodeError::Truncated { at: 2 }));
        assert_eq!(decode_list(&[&good[..], &[0]].concat()), Err(DecodeError::Trailing { at: LIST_BYTES }));
    }

    proptest! {
        #[test]
        fn arbitrary_lists_never_panic_and_are_canonical(n in 0_u8..18, mut bytes in proptest::collection::vec(any::<u8>(), LIST_BYTES..=LIST_BYTES)) {
            bytes[0] = 0;
            bytes[1] = n;
            for entry in bytes[2..].chunks_mut(LISTED_BYTES) {
                entry[42] &= 15;
                entry[43] &= 15;
                entry[44] &= 1;
                entry[45..].fill(0);
            }
            bytes[2..].chunks_mut(LISTED_BYTES).enumerate().for_each(|(i, entry)| if i >= usize::from(n) { entry.fill(0) } else { entry[0] = i as u8 });
            let list = decode_list(&bytes);
            prop_assert_eq!(list.is_ok(), n <= 16);
            if let Ok(list) = list {
                prop_assert_eq!(encode_list(&list), bytes);
            }
        }
    }
}
