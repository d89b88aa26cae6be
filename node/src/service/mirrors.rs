//! Copies for others: what friends ask this node to keep, what it asks of them, and what it keeps so that nobody can
//! tell what is watched here. What is said and who is served is the core's (`onion/src/core/mirrors.rs`); this
//! remembers, fetches, and chooses. Page: `docs/protocol/mirrors.md`.

use super::*;
use crate::records::{ENDING, Mirror};
use crate::storage::Block;
use kith_onion::catalogue::Audience;
use kith_onion::hours::{Hours, complements};
use kith_onion::{ASKED_BY, Kept, MirrorEvent, MirrorOffer, MirrorState, Privacy, Route};
use kith_store::Class;
use std::ops::Bound;

/// Copies that are kept for others at most.
const MAX_MIRRORS: usize = 4096;
/// Copies of friends' videos that are fetched at once.
const AT_ONCE: usize = 2;
/// How often it is looked at what is to be done, and at how many of what there is each time: work does not grow with it.
const EVERY: Duration = Duration::from_secs(2);
const LOOKS: usize = 128;
/// A friend who did not take a copy is asked again after this.
const DECLINED: Duration = Duration::from_secs(24 * 3600);
/// Days for which a copy is kept after its publisher was heard of last.
const LIFE_DAYS: u32 = 90;
/// A copy that could not be fetched is tried again after this.
const AGAIN: Duration = Duration::from_secs(60);
/// Copies for one friend.
const MAX_MIRRORS_OF_ONE: usize = 512;
/// The largest video that is drawn as a cover, and that can hide among covers.
const MAX_COVER_BYTES: u64 = 512 << 20;
/// Covers are drawn until there are so many more than what was watched.
const SPARE_COVERS: usize = 2;
/// Videos of one friend that are drawn among at most.
const MAX_DRAWN: usize = 2000;
/// Cover and watched in [`Record::Cover`].
const COVER: u8 = 1;
const WATCHED: u8 = 2;
/// A cover that its owner opened. For others it is what it was; it counts as watched where covers are drawn.
const OPENED: u8 = 3;

/// What the configuration says about copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MirrorSettings {
    /// Friends who are asked to keep each own video.
    pub copies: u8,
    /// Whether videos are drawn at random and kept, so that what is watched does not show.
    pub cover: bool,
    /// Bytes that are fetched in a week because friends ask for them, for each of those friends.
    pub asked: u64,
    /// The unit of deliberate delays: what came from further away is given after 1 to 12 of it.
    pub delay: Duration,
}

impl Default for MirrorSettings {
    fn default() -> Self {
        Self { copies: 3, cover: true, asked: 0, delay: Duration::from_secs(3600) }
    }
}

/// Copies under way.
pub(crate) struct Mirrors {
    settings: MirrorSettings,
    next: Duration,
    fetches: BTreeMap<Root, FetchHandle>,
    later: BTreeMap<Root, Duration>,
    declined: BTreeMap<(Root, FriendKey), Duration>,
    room: BTreeMap<FriendKey, u64>,
    covering: Option<Covering>,
    cover_next: Option<Duration>,
    /// When what friends asked for is fetched, and what each had fetched in which week since 1970.
    asked_at: BTreeMap<Root, Duration>,
    asked_used: BTreeMap<FriendKey, (u32, u64)>,
    /// Bytes kept for friends as they were counted last.
    used: BTreeMap<FriendKey, u64>,
    /// Where the next look goes on, among own videos, what is asked of friends, copies for others, and covers.
    at_own: Option<Root>,
    at_offered: Option<(Root, FriendKey)>,
    at_mirror: Option<Root>,
    at_cover: Option<Root>,
}

/// The next keys of a map, [`LOOKS`] at most; `from`: where to go on.
fn some_of<K: Ord + Copy, V>(map: &BTreeMap<K, V>, from: &mut Option<K>) -> Vec<K> {
    let begin = from.map_or(Bound::Unbounded, Bound::Included);
    let mut keys = map.range((begin, Bound::Unbounded)).map(|(key, _)| *key);
    let some = keys.by_ref().take(LOOKS).collect();
    *from = keys.next();
    some
}

/// How a copy that is kept for others stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyState {
    /// Bytes of the pack, 0 until known.
    pub bytes: u64,
    /// All of it is here.
    pub complete: bool,
}

/// A cover that is being fetched.
struct Covering {
    root: Root,
    handle: FetchHandle,
    /// Friends to whom it counts, and the week of that.
    asked_by: Vec<FriendKey>,
    week: u32,
}

impl Mirrors {
    pub(super) fn new() -> Self {
        Self {
            settings: MirrorSettings::default(),
            next: Duration::ZERO,
            fetches: BTreeMap::new(),
            later: BTreeMap::new(),
            declined: BTreeMap::new(),
            room: BTreeMap::new(),
            covering: None,
            cover_next: None,
            asked_at: BTreeMap::new(),
            asked_used: BTreeMap::new(),
            used: BTreeMap::new(),
            at_own: None,
            at_offered: None,
            at_mirror: None,
            at_cover: None,
        }
    }
}

/// A number below `most`, by the system's randomness.
fn random_below(most: u64) -> u64 {
    let mut bytes = [0; 8];
    // Without randomness the first is as good as any.
    let _ = getrandom::fill(&mut bytes);
    u64::from_le_bytes(bytes) % most.max(1)
}

fn hour(now: Now) -> u64 {
    now.unix_s() / 3600
}

fn day(now: Now) -> u32 {
    (now.unix_s() / 86_400) as u32
}

/// The smallest power of two that is not less.
fn size_class(bytes: u64) -> u8 {
    bytes.max(1).next_power_of_two().trailing_zeros() as u8
}

impl Service {
    /// Takes what the configuration says.
    pub fn set_mirrors(&mut self, settings: MirrorSettings) {
        self.mirrors.settings = settings;
    }

    /// Whether videos drawn at random are kept.
    pub const fn keeps_covers(&self) -> bool {
        self.mirrors.settings.cover
    }

    /// Tells a new core what is kept for whom.
    pub fn resume_mirrors(&mut self, now: Now, core: &mut Core) {
        self.keep_covers_as_set(now, core);
        for mirror in self.state.mirrors.values().filter(|mirror| !mirror.is_hidden) {
            core.set_kept(now, mirror.cap.root, Kept::Mirror { travels: mirror.travels });
        }
        for ((root, friend), _) in self.state.offered.iter().filter(|(_, state)| **state != ENDING) {
            core.let_mirror(now, *root, *friend, true);
        }
    }

    /// Stores a record with the next turn, and goes by it from now on.
    fn at_once(&mut self, record: Record) {
        if let Ok(Some(copy)) = Record::decode(&record.encode()) {
            self.state.apply(copy);
        }
        self.remember(record);
    }

    // For others.

    /// Bytes of copies that are kept for a friend.
    pub fn mirrored_for(&self, friend: FriendKey) -> u64 {
        let own = self.state.mirrors.values().filter(|mirror| mirror.friend == Some(friend));
        own.map(|mirror| self.counted(mirror)).sum()
    }

    /// What a copy counts: what is known of its length by the friend who asked for it, and a block at least.
    fn counted(&self, mirror: &Mirror) -> u64 {
        let root = &mirror.cap.root;
        let has_begun = || {
            let fetch = self.mirrors.fetches.get(root);
            fetch.is_some_and(|handle| handle.status.borrow().total_blocks > 0)
        };
        let bytes = if mirror.is_hidden && !has_begun() { 0 } else { self.copy_state(root).bytes };
        bytes.max(kith_crypto::content::BLOCK_LEN as u64)
    }

    /// Gives up what is kept for a friend above what the owner agreed to.
    pub fn keep_within_quota(&mut self, now: Now, core: &mut Core, storage: &mut Storage, friend: FriendKey) {
        let quota = self.state.mirror_quotas.get(&friend).copied().unwrap_or_default();
        let mut kept: Vec<(Root, u64)> = Vec::new();
        for mirror in self.state.mirrors.values().filter(|mirror| mirror.friend == Some(friend)) {
            kept.push((mirror.cap.root, self.counted(mirror)));
        }
        let mut used: u64 = kept.iter().map(|(_, bytes)| bytes).sum();
        // The fewest go: the largest first.
        kept.sort_by_key(|(_, bytes)| *bytes);
        while used > quota
            && let Some((root, bytes)) = kept.pop()
        {
            used -= bytes;
            self.drop_mirror(now, core, storage, root);
        }
        self.mirrors.used.remove(&friend);
    }

    /// How a copy stands.
    pub fn copy_state(&self, root: &Root) -> CopyState {
        let object = self.store.object(root);
        CopyState {
            bytes: object.as_ref().map_or(0, |object| Store::pack_len(object.data_count)),
            complete: object.is_some_and(|object| object.complete),
        }
    }

    fn room_for(&mut self, friend: FriendKey) -> u64 {
        let used = match self.mirrors.used.get(&friend) {
            Some(used) => *used,
            None => self.mirrored_for(friend),
        };
        self.mirrors.used.insert(friend, used);
        let quota = self.state.mirror_quotas.get(&friend).copied().unwrap_or_default();
        quota.saturating_sub(used)
    }

    /// Whether the object of a fetch may be as long as its root says. What a friend asked for is held to what is kept
    /// for that friend.
    pub fn may_be_so_long(&mut self, root: &Root, geometry: kith_crypto::content::Geometry) -> bool {
        let bytes = Store::pack_len(geometry.data_count());
        if let Some(covering) = self.mirrors.covering.as_ref().filter(|covering| covering.root == *root) {
            let (used, quota) = (&mut self.mirrors.asked_used, self.mirrors.settings.asked);
            let used_by = |friend| used.get(friend).map_or(0, |(_, used): &(u32, u64)| *used);
            let fits = covering.asked_by.iter().all(|friend| used_by(friend).saturating_add(bytes) <= quota);
            if bytes > MAX_COVER_BYTES || !fits {
                return false;
            }
            for friend in &covering.asked_by {
                used.entry(*friend).or_insert((covering.week, 0)).1 += bytes;
            }
            return true;
        }
        let friend = self.state.mirrors.get(root).and_then(|mirror| mirror.friend);
        // What a root says counts from now on.
        self.mirrors.used.clear();
        friend.is_none_or(|friend| {
            let already = self.state.mirrors.get(root).map_or(0, |mirror| self.counted(mirror));
            let is_within = bytes <= self.room_for(friend).saturating_add(already);
            let is_hidden = self.state.mirrors.get(root).is_some_and(|mirror| mirror.is_hidden);
            let is_here = !is_hidden && self.copy_state(root).bytes > 0;
            is_within && (is_here || self.store.has_room_for_mirrors(bytes))
        })
    }

    /// News from a friend.
    pub fn mirror_event(
        &mut self,
        now: Now,
        core: &mut Core,
        storage: &mut Storage,
        friend: FriendKey,
        event: MirrorEvent,
    ) {
        match event {
            MirrorEvent::Offered(offer) => self.mirror_offered(now, core, storage, friend, offer),
            MirrorEvent::Answered { root, state, room } => {
                self.mirrors.room.insert(friend, room);
                if !self.state.offered.contains_key(&(root, friend)) {
                    return;
                }
                if state == MirrorState::Refused {
                    self.mirrors.declined.insert((root, friend), now.at + DECLINED);
                    self.offer_over(now, core, root, friend);
                } else if self
                    .state
                    .offered
                    .get(&(root, friend))
                    .is_some_and(|known| *known != ENDING && *known != state as u8)
                {
                    self.at_once(Record::Offered(root, friend, state as u8));
                }
            }
            MirrorEvent::Ended(root) => {
                if self.state.mirrors.get(&root).is_some_and(|mirror| mirror.friend == Some(friend)) {
                    self.drop_mirror(now, core, storage, root);
                }
                if self.state.offered.contains_key(&(root, friend)) {
                    self.mirrors.declined.insert((root, friend), now.at + DECLINED);
                    self.offer_over(now, core, root, friend);
                } else {
                    // Whether it was here or not: whoever ends it hears that it is not kept.
                    core.answer_mirror(now, friend, root, MirrorState::Refused, self.room_for(friend));
                }
            }
            MirrorEvent::Hours(hours) => {
                if self.state.friend_hours.get(&friend) != Some(&hours) {
                    self.at_once(Record::FriendHours(friend, hours));
                }
            }
        }
    }

    fn offer_over(&mut self, now: Now, core: &mut Core, root: Root, friend: FriendKey) {
        self.at_once(Record::OfferOver(root, friend));
        core.let_mirror(now, root, friend, false);
    }

    fn mirror_offered(
        &mut self,
        now: Now,
        core: &mut Core,
        storage: &mut Storage,
        friend: FriendKey,
        offer: MirrorOffer,
    ) {
        let root = offer.cap.root;
        let room = self.room_for(friend);
        let known = self.state.mirrors.get(&root).filter(|known| known.cap == offer.cap).cloned();
        let is_own = self.state.publications.contains_key(&root);
        let wanted = 1_u64.checked_shl(offer.size_class.into()).unwrap_or(u64::MAX);
        let may = match &known {
            // What the owner keeps anyway is kept as it is.
            Some(known) => known.friend == Some(friend) || known.friend.is_none(),
            None => {
                !is_own
                    && !self.state.mirrors.contains_key(&root)
                    && self.state.mirrors.len() < MAX_MIRRORS
                    && self.state.mirrors.values().filter(|m| m.friend == Some(friend)).count()
                        < MAX_MIRRORS_OF_ONE
                    // The class is the next power of two: half of it is the least that it can be.
                    && wanted / 2 < room
                    && self.store.has_room_for_mirrors(wanted / 2)
            }
        };
        if !may {
            core.answer_mirror(now, friend, root, MirrorState::Refused, room);
            return;
        }
        // Also some of it: who asks must not learn that it was watched.
        let before = known.as_ref().map(|known| (known.was_here, known.is_hidden));
        let (was_here, is_hidden) = before.unwrap_or_else(|| {
            let is = self.store.object(&root).is_some();
            (is, is)
        });
        let last = day(now) + LIFE_DAYS;
        let expires_day = if offer.expires_day == 0 { last } else { offer.expires_day.min(last) };
        let travels = offer.travels;
        let mirror =
            Mirror { cap: offer.cap, friend: Some(friend), expires_day, travels, was_here, is_hidden };
        if known.is_none_or(|known| known.friend.is_some() && known != mirror) {
            // What is hidden takes no room among copies before it would if it came for the first time.
            if !is_hidden {
                core.set_kept(now, root, Kept::Mirror { travels });
                if was_here {
                    storage.block(Block::Mirror(root, true));
                }
            }
            self.at_once(Record::Mirror(Box::new(mirror)));
            self.mirrors.used.remove(&friend);
            (self.mirrors.next, self.mirrors.at_mirror) = (now.at, Some(root));
        }
        let state = self.state_of_copy(&root);
        core.answer_mirror(now, friend, root, state, room);
    }

    /// Keeps a copy of a video for whoever may have it.
    pub fn add_mirror(&mut self, now: Now, core: &mut Core, storage: &mut Storage, cap: &ReadCap) -> Record {
        let travels = core.listing(&cap.root).is_some_and(|_| !core.stays_with_friends(&cap.root));
        let (friend, expires_day, was_here, is_hidden) = (None, 0, true, false);
        let mirror = Mirror { cap: cap.verify_cap(), friend, expires_day, travels, was_here, is_hidden };
        core.set_kept(now, cap.root, Kept::Mirror { travels });
        storage.block(Block::Mirror(cap.root, true));
        (self.mirrors.next, self.mirrors.at_mirror) = (now.at, Some(cap.root));
        Record::Mirror(Box::new(mirror))
    }

    /// Gives a copy up; its friend is told.
    pub fn drop_mirror(&mut self, now: Now, core: &mut Core, storage: &mut Storage, root: Root) {
        let Some(mirror) = self.state.mirrors.get(&root).cloned() else { return };
        self.at_once(Record::MirrorGone(root));
        self.mirrors.used.clear();
        self.mirrors.fetches.remove(&root);
        if let Some(friend) = mirror.friend {
            core.end_mirror(now, friend, root);
        }
        let is_mine = self.state.publications.contains_key(&root) || self.state.known.contains_key(&root);
        if !mirror.was_here && !is_mine {
            core.release(&root);
            storage.block(Block::Forget(root));
        } else {
            core.set_kept(now, root, Kept::Own);
            storage.block(Block::Mirror(root, false));
        }
    }

    /// Gives up what is kept for a friend who goes.
    pub fn drop_mirrors_of(&mut self, now: Now, core: &mut Core, storage: &mut Storage, friend: FriendKey) {
        let own = self.state.mirrors.values().filter(|mirror| mirror.friend == Some(friend));
        let roots: Vec<Root> = own.map(|mirror| mirror.cap.root).collect();
        roots.into_iter().for_each(|root| self.drop_mirror(now, core, storage, root));
        self.mirrors.room.remove(&friend);
        self.mirrors.declined.retain(|(_, other), _| *other != friend);
    }

    /// An own video is shared with others than before: who keeps copies hears whom they are for.
    pub fn offer_again(&self, now: Now, core: &mut Core, root: Root) {
        for (friend, _) in self.copies_of(&root) {
            if let Some(offer) = self.offer_of(now, &root) {
                core.offer_mirror(now, friend, offer);
            }
        }
    }

    // Of others.

    /// A friend's link stands: what was said before is said again, as either side may have forgotten it.
    pub fn mirror_friend_up(&mut self, now: Now, core: &mut Core, friend: FriendKey) {
        if !core.can_mirror(friend) {
            return;
        }
        core.tell_hours(now, friend, self.state.hours.0);
        let offered: Vec<(Root, u8)> = self
            .state
            .offered
            .iter()
            .filter(|((_, f), _)| *f == friend)
            .map(|((r, _), s)| (*r, *s))
            // More no friend keeps.
            .take(MAX_MIRRORS)
            .collect();
        for (root, state) in offered {
            match self.offer_of(now, &root).filter(|_| state != ENDING) {
                Some(offer) => drop(core.offer_mirror(now, friend, offer)),
                None => drop(core.end_mirror(now, friend, root)),
            }
        }
        let room = self.room_for(friend);
        for mirror in self.state.mirrors.values().filter(|mirror| mirror.friend == Some(friend)) {
            let root = mirror.cap.root;
            core.answer_mirror(now, friend, root, self.state_of_copy(&root), room);
        }
        self.mirrors.next = now.at;
    }

    fn state_of_copy(&self, root: &Root) -> MirrorState {
        let is_hidden = self.state.mirrors.get(root).is_some_and(|mirror| mirror.is_hidden);
        if !is_hidden && self.copy_state(root).complete { MirrorState::Whole } else { MirrorState::Taken }
    }

    /// Something was decided about an own video: it is looked at next.
    pub fn look_at_own(&mut self, now: Now, root: Root) {
        self.mirrors.at_own = Some(root);
        self.mirrors.at_offered = Some((root, FriendKey([0; 32])));
        self.mirrors.next = now.at;
    }

    fn offer_of(&self, now: Now, root: &Root) -> Option<MirrorOffer> {
        let publication = self.state.publications.get(root)?;
        let travels = publication.audience? == Audience::Fof;
        let bytes = Store::pack_len(publication.blocks);
        let expires_day = day(now) + LIFE_DAYS;
        Some(MirrorOffer {
            cap: publication.cap.verify_cap(),
            size_class: size_class(bytes),
            expires_day,
            travels,
        })
    }

    /// Asks friends for copies of own videos that have too few: those who are on line when the others are not.
    fn offer_copies(&mut self, now: Now, core: &mut Core) {
        let copies = usize::from(self.mirrors.settings.copies);
        if copies == 0 || !self.state.friends.keys().any(|friend| core.can_mirror(*friend)) {
            return;
        }
        let own = Hours(self.state.hours.0);
        let mut offers = Vec::new();
        for root in &some_of(&self.state.publications, &mut self.mirrors.at_own) {
            let Some(publication) = self.state.publications.get(root).filter(|p| p.audience.is_some()) else {
                continue;
            };
            let hours =
                |friend: &FriendKey| Hours(self.state.friend_hours.get(friend).copied().unwrap_or_default());
            let kept: Vec<FriendKey> = self.copies_of(root).into_iter().map(|(friend, _)| friend).collect();
            let missing = copies.saturating_sub(kept.len());
            if missing == 0 {
                continue;
            }
            let bytes = Store::pack_len(publication.blocks);
            let candidates: Vec<(FriendKey, Hours)> = self
                .state
                .friends
                .keys()
                .filter(|friend| core.can_mirror(**friend) && !kept.contains(friend))
                .filter(|friend| !self.mirrors.declined.contains_key(&(*root, **friend)))
                // Who said how much there is is believed; who said nothing is asked.
                .filter(|friend| self.mirrors.room.get(friend).is_none_or(|room| bytes / 2 < *room))
                .map(|friend| (*friend, hours(friend)))
                .collect();
            if candidates.is_empty() || !self.is_here(root) {
                continue;
            }
            let mut have = vec![own];
            have.extend(kept.iter().map(hours));
            offers.extend(complements(&have, &candidates, missing).into_iter().map(|friend| (*root, friend)));
            // A few at a time: the answers say who has room.
            if offers.len() >= 16 {
                self.mirrors.at_own = Some(*root);
                break;
            }
        }
        for (root, friend) in offers {
            if let Some(offer) = self.offer_of(now, &root)
                && core.offer_mirror(now, friend, offer)
            {
                self.at_once(Record::Offered(root, friend, MirrorState::Refused as u8));
            }
        }
    }

    /// Asks friends for copies of a video now, also those who declined before.
    pub fn ask_for_copies(&mut self, now: Now, root: Root) {
        self.mirrors.declined.retain(|(of, _), _| *of != root);
        self.mirrors.room.clear();
        self.look_at_own(now, root);
    }

    /// Friends who keep copies of an own video, and how each stands.
    pub fn copies_of(&self, root: &Root) -> Vec<(FriendKey, u8)> {
        let of_root = self.state.offered.range((*root, FriendKey([0; 32]))..=(*root, FriendKey([255; 32])));
        let of_root = of_root.filter(|(_, state)| **state != ENDING);
        of_root.map(|((_, friend), state)| (*friend, *state)).collect()
    }

    // Regular work.

    /// Looked at every turn.
    pub(super) fn tend_mirrors(&mut self, now: Now, core: &mut Core, storage: &mut Storage) {
        if now.at < self.mirrors.next {
            return;
        }
        self.mirrors.next = now.at + EVERY;
        self.count_hour(now);
        self.mirrors.declined.retain(|_, until| *until > now.at);
        self.end_withdrawn(now, core);
        self.end_expired(now, core, storage);
        self.take_ended(now);
        self.fetch_mirrors(now, core);
        self.offer_copies(now, core);
        self.tend_covers(now, core);
    }

    fn count_hour(&mut self, now: Now) {
        let (hours, until) = self.state.hours;
        let hour = hour(now);
        if hour < until {
            return;
        }
        let mut hours = Hours(hours);
        hours.note_until(if until == 0 { hour } else { until }, hour);
        self.at_once(Record::Hours(hours.0, hour + 1));
    }

    /// What was withdrawn is asked back from those who keep it.
    fn end_withdrawn(&mut self, now: Now, core: &mut Core) {
        let is_shared = |root: &Root| self.state.publications.get(root).is_some_and(|p| p.audience.is_some());
        let mut ended = some_of(&self.state.offered, &mut self.mirrors.at_offered);
        ended.retain(|key| self.state.offered.get(key) != Some(&ENDING) && !is_shared(&key.0));
        for (root, friend) in ended {
            self.at_once(Record::Offered(root, friend, ENDING));
            core.let_mirror(now, root, friend, false);
            core.end_mirror(now, friend, root);
        }
    }

    fn end_expired(&mut self, now: Now, core: &mut Core, storage: &mut Storage) {
        let today = day(now);
        let is_over = |mirror: &&Mirror| mirror.expires_day != 0 && mirror.expires_day < today;
        let over: Vec<Root> =
            self.state.mirrors.values().filter(is_over).map(|mirror| mirror.cap.root).collect();
        over.into_iter().for_each(|root| self.drop_mirror(now, core, storage, root));
    }

    /// Fetches of copies that have ended: one that failed is tried again later.
    fn take_ended(&mut self, now: Now) {
        let ended =
            self.mirrors.fetches.iter().filter_map(|(root, handle)| {
                handle.status.borrow().end.as_ref().map(|end| (*root, end.is_ok()))
            });
        let ended: Vec<(Root, bool)> = ended.collect();
        for (root, is_whole) in ended {
            self.mirrors.fetches.remove(&root);
            if !is_whole {
                self.mirrors.later.insert(root, now.at + AGAIN);
            }
        }
        self.mirrors.later.retain(|_, until| *until > now.at);
    }

    fn fetch_mirrors(&mut self, now: Now, core: &mut Core) {
        let looked_at = some_of(&self.state.mirrors, &mut self.mirrors.at_mirror);
        let wanted: Vec<Mirror> = looked_at
            .iter()
            .filter_map(|root| self.state.mirrors.get(root))
            .filter(|mirror| !self.mirrors.fetches.contains_key(&mirror.cap.root))
            .filter(|mirror| !self.mirrors.later.contains_key(&mirror.cap.root))
            .filter(|mirror| mirror.friend.is_none_or(|friend| core.is_online(friend)))
            .filter(|mirror| mirror.is_hidden || !self.is_here(&mirror.cap.root))
            .take(AT_ONCE.saturating_sub(self.mirrors.fetches.len()))
            .cloned()
            .collect();
        for mirror in wanted {
            let root = mirror.cap.root;
            let (route, read) = match mirror.friend {
                // Nobody else learns that it is kept here.
                Some(friend) => (Route::Friend(friend), None),
                None => (Route::Auto, self.read_cap(core, &root).ok().map(|cap| cap.key)),
            };
            match self.join(now, core, (mirror.cap, read, Class::Mirrored), route, Purpose::Keep) {
                Ok(handle) => drop(self.mirrors.fetches.insert(root, handle)),
                Err(_) => drop(self.mirrors.later.insert(root, now.at + AGAIN)),
            }
        }
    }

    /// An object came whole.
    pub(super) fn came_whole(
        &mut self,
        now: Now,
        core: &mut Core,
        storage: &mut Storage,
        root: Root,
        route: Option<Route>,
    ) {
        if let Some(mirror) = self.state.mirrors.get(&root).cloned() {
            let (friend, travels) = (mirror.friend, mirror.travels);
            // What came another way came for the owner: the friend who asked for a copy is not to see that. Damaged
            // blocks of what that friend knows to be here come whatever way.
            let other_way = friend.is_some_and(|friend| route != Some(Route::Friend(friend)));
            let is_hidden = other_way && (mirror.is_hidden || self.heal.blocks_of(&root) == 0);
            let was_here = mirror.was_here || is_hidden;
            if mirror.is_hidden && !is_hidden {
                storage.block(Block::Mirror(root, true));
            }
            if (mirror.was_here, mirror.is_hidden) != (was_here, is_hidden) {
                self.at_once(Record::Mirror(Box::new(Mirror { was_here, is_hidden, ..mirror })));
            }
            self.mirrors.used.clear();
            if !is_hidden {
                core.set_kept(now, root, Kept::Mirror { travels });
                if let Some(friend) = friend {
                    core.answer_mirror(now, friend, root, MirrorState::Whole, self.room_for(friend));
                }
                return;
            }
        }
        let is_cover = self.mirrors.covering.as_ref().is_some_and(|covering| covering.root == root);
        let is_far = core.listing(&root).is_some_and(|listing| listing.distance > 1);
        // What is larger than any cover would stand out.
        let fits = self.copy_state(&root).bytes <= MAX_COVER_BYTES;
        let by_wish = fits && !matches!(route, Some(Route::Friend(_)));
        if is_cover || (by_wish && is_far && core.privacy() == Privacy::Normal && self.mirrors.settings.cover)
        {
            let unit = self.mirrors.settings.delay.as_millis() as u64;
            let from_ms = now.unix_ms + unit + random_below(11 * unit + 1);
            let kind = if is_cover { COVER } else { WATCHED };
            core.set_kept(now, root, if is_cover { Kept::Cover(from_ms) } else { Kept::Watched(from_ms) });
            self.at_once(Record::Cover(root, kind, from_ms));
        }
    }

    // So that nobody can tell what is watched.

    /// Covers and what was watched from further away.
    pub fn cover_counts(&self) -> (usize, usize) {
        let of = |kind: u8| self.state.covers.values().filter(|(k, _)| *k == kind).count();
        (of(COVER), of(WATCHED) + of(OPENED))
    }

    /// Without covers what was watched would show: neither is given then.
    fn keep_covers_as_set(&self, now: Now, core: &mut Core) {
        for (root, (kind, from_ms)) in &self.state.covers {
            let kept = match *kind {
                _ if !self.mirrors.settings.cover => Kept::Own,
                COVER | OPENED => Kept::Cover(*from_ms),
                _ => Kept::Watched(*from_ms),
            };
            let is_set = core.kept(root) == kept || self.state.mirrors.contains_key(root);
            if !is_set {
                core.set_kept(now, *root, kept);
            }
        }
    }

    /// All friends who told of an object took it back: it is given to nobody any more. A cover goes; what the owner
    /// watched, wished for or pinned stays here.
    pub fn withdrawn(&mut self, now: Now, core: &mut Core, storage: &mut Storage, root: Root) {
        if let Some((kind, _)) = self.state.covers.get(&root).copied() {
            self.at_once(Record::Cover(root, 0, 0));
            if !self.state.mirrors.contains_key(&root) {
                core.set_kept(now, root, Kept::Own);
                let is_pinned = self.store.object(&root).is_some_and(|object| object.class == Class::Pinned);
                if kind == COVER && !is_pinned && !self.state.known.contains_key(&root) {
                    core.release(&root);
                    storage.block(Block::Forget(root));
                }
            }
        }
        if self.state.mirrors.get(&root).is_some_and(|mirror| mirror.friend.is_none()) {
            self.drop_mirror(now, core, storage, root);
        }
    }

    /// A cover that its owner opens needs covers itself, and stays when it is withdrawn; what others are given of it does
    /// not change at that moment.
    pub(super) fn owner_opens(&mut self, root: &Root) {
        if let Some((COVER, from_ms)) = self.state.covers.get(root).copied() {
            self.at_once(Record::Cover(*root, OPENED, from_ms));
        }
    }

    fn tend_covers(&mut self, now: Now, core: &mut Core) {
        let is_gone = |root: &&Root| {
            self.store.object(root).is_none() || self.state.hidden.contains(&Hidden::Video(**root))
        };
        let mut gone = some_of(&self.state.covers, &mut self.mirrors.at_cover);
        gone.retain(|root| is_gone(&root));
        for root in gone {
            self.at_once(Record::Cover(root, 0, 0));
            if !self.state.mirrors.contains_key(&root) {
                core.set_kept(now, root, Kept::Own);
            }
        }
        self.keep_covers_as_set(now, core);
        let has_ended = |covering: &Covering| covering.handle.status.borrow().end.is_some();
        if self.mirrors.covering.as_ref().is_some_and(has_ended) {
            self.mirrors.covering = None;
        }
        let is_on = self.mirrors.settings.cover && core.privacy() == Privacy::Normal;
        core.count_asks(is_on && self.mirrors.settings.asked > 0);
        if !is_on {
            self.mirrors.covering = None;
            return;
        }
        let (covers, watched) = self.cover_counts();
        // Whoever watches goes first, and so do those who wait for a circuit.
        let is_busy = !self.fetches.is_empty() || self.mirrors.covering.is_some();
        if !is_busy && let Some((cap, asked_by)) = self.draw_asked(now, core) {
            return self.fetch_cover(now, core, &cap, asked_by);
        }
        let unit = self.mirrors.settings.delay;
        let due =
            *self.mirrors.cover_next.get_or_insert(now.at + unit.mul_f64(random_below(1000) as f64 / 500.0));
        if now.at < due || is_busy || covers >= watched + SPARE_COVERS {
            return;
        }
        // One every few hours, at times that nothing else decides.
        self.mirrors.cover_next = Some(now.at + unit + unit.mul_f64(random_below(1000) as f64 / 200.0));
        if let Some(cap) = self.draw_cover(core) {
            self.fetch_cover(now, core, &cap, Vec::new());
        }
    }

    fn fetch_cover(&mut self, now: Now, core: &mut Core, cap: &ReadCap, asked_by: Vec<FriendKey>) {
        let object = (cap.verify_cap(), Some(cap.key.clone()), Class::Cached);
        if let Ok(handle) = self.join(now, core, object, Route::Onion, Purpose::Keep) {
            self.mirrors.covering = Some(Covering { root: cap.root, handle, asked_by, week: day(now) / 7 });
        }
    }

    /// What friends asked for, once its time has come, and three of them who have room for it.
    fn draw_asked(&mut self, now: Now, core: &Core) -> Option<(ReadCap, Vec<FriendKey>)> {
        let (quota, unit, week) = (self.mirrors.settings.asked, self.mirrors.settings.delay, day(now) / 7);
        let asked = if quota == 0 { Vec::new() } else { core.asked_for(now) };
        self.mirrors.asked_at.retain(|root, _| asked.iter().any(|(other, _)| other == root));
        self.mirrors.asked_used.retain(|_, (of, _)| *of == week);
        for (root, mut friends) in asked {
            let Some(listing) = core.listing(&root) else { continue };
            let bytes = listing.entry.bytes;
            let used = |friend: &FriendKey| self.mirrors.asked_used.get(friend).map_or(0, |(_, used)| *used);
            friends.retain(|friend| used(friend).saturating_add(bytes) <= quota);
            friends.truncate(ASKED_BY);
            let fits = (1..=MAX_COVER_BYTES).contains(&bytes)
                && friends.len() == ASKED_BY
                && !core.stays_with_friends(&root)
                && self.store.object(&root).is_none()
                && !self.state.hidden.contains(&Hidden::Video(root));
            if !fits {
                continue;
            }
            // Not when it was asked for: 1 to 12 units later.
            let wait = || unit + unit.mul_f64(random_below(1000) as f64 / 1000.0 * 11.0);
            let due = *self.mirrors.asked_at.entry(root).or_insert_with(|| now.at + wait());
            if now.at < due {
                continue;
            }
            let Ok(cap) = self.read_cap(core, &root) else { continue };
            // Tried again in as long, if it does not come.
            self.mirrors.asked_at.insert(root, now.at + wait());
            return Some((cap, friends));
        }
        None
    }

    /// A video of somebody further away, drawn at random: first who tells of it, so that nobody fills the draw by
    /// telling of many, then one of what that friend tells of.
    fn draw_cover(&self, core: &Core) -> Option<ReadCap> {
        let friends: Vec<FriendKey> = self.state.friends.keys().copied().collect();
        let first = random_below(friends.len() as u64) as usize;
        let turned = friends.iter().cycle().skip(first).take(friends.len());
        for friend in turned {
            let fits = |root: &Root, bytes: u64| {
                bytes > 0
                    && bytes <= MAX_COVER_BYTES
                    && self.store.object(root).is_none()
                    && !self.state.publications.contains_key(root)
                    && !self.state.hidden.contains(&Hidden::Video(*root))
            };
            let mut told = core.told_from_afar(*friend, MAX_DRAWN, fits);
            if !told.is_empty() {
                return Some(told.swap_remove(random_below(told.len() as u64) as usize));
            }
        }
        None
    }
}
