//! What is kept, counted: bytes by class, and in which order objects give way. No disk in here.
//!
//! Invariant: the sums are those of the rows at any time, because every change of a row passes
//! through [`Ledger::replace`]. An object counts with the full length of its pack from its first row
//! on, so that two fetches which both fit alone cannot fill the disk together. Rules: own and pinned
//! objects may fill the quota; cached ones have a fifth of it, mirrored ones three tenths, and both
//! give way, the least recently used first, mirrored before cached. Who still uses an object is told
//! by the caller; decision 0036 says why the rules are these.

use crate::object::{Class, ObjectInfo};
use crate::pack::format::{PAGE_LEN, pack_len};
use kith_crypto::content::{Geometry, Root};
use std::collections::{BTreeSet, HashMap};

/// How much may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that all packs together may take.
    pub quota: u64,
    /// Bytes of the file system that packs leave free.
    pub keep_free: u64,
}

impl Limits {
    /// No limits: what holds until the caller sets some.
    pub const NONE: Self = Self { quota: u64::MAX, keep_free: 0 };

    /// The part of the quota that a class may take before it gives way to others.
    pub const fn share(&self, class: Class) -> u64 {
        match class {
            Class::Own | Class::Pinned => self.quota,
            Class::Cached => self.quota / 5,
            Class::Mirrored => self.quota / 10 * 3,
        }
    }
}

/// Objects and bytes of each class, and what is being published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Number of objects, in the order of [`Class::ALL`].
    pub objects: [u64; 4],
    /// Bytes of their packs at full length, in the same order.
    pub bytes: [u64; 4],
    /// Bytes of publications under way.
    pub claimed_bytes: u64,
    /// Objects that gave way since the store was opened.
    pub evicted: u64,
}

impl Usage {
    /// Bytes of a class.
    pub fn of(&self, class: Class) -> u64 {
        self.bytes.get(usize::from(class.number())).copied().unwrap_or(0)
    }

    /// Bytes in all, publications under way among them.
    pub fn total(&self) -> u64 {
        self.bytes.iter().fold(self.claimed_bytes, |sum, bytes| sum.saturating_add(*bytes))
    }

    /// Bytes that never give way: own, pinned and what is being published.
    pub fn fixed(&self) -> u64 {
        self.of(Class::Own).saturating_add(self.of(Class::Pinned)).saturating_add(self.claimed_bytes)
    }
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// The quota is used up by what never gives way or is in use.
    Quota,
    /// The share of mirrored objects is used up.
    Share,
    /// The file system would have less free space than is to be kept.
    Disk,
}

/// There is no room for this, whatever gives way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shortage {
    pub(crate) what: Room,
    pub(crate) needed: u64,
    pub(crate) available: u64,
}

/// Length of the pack of an object, when it is complete.
pub(crate) fn len_of(data_count: u64) -> u64 {
    Geometry::of(data_count).map_or(PAGE_LEN as u64, pack_len)
}

/// An object that may give way. Ordered by last use: the day as the row has it, then the order of
/// uses since the store was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    day: u32,
    order: u32,
    root: Root,
    /// Data blocks; a pack has at most 2^22.
    data_count: u32,
}

/// Sums and order of what is kept.
#[derive(Debug)]
pub(crate) struct Ledger {
    limits: Limits,
    usage: Usage,
    cached: BTreeSet<Turn>,
    mirrored: BTreeSet<Turn>,
    /// Order of the objects that were used since the store was opened.
    orders: HashMap<Root, u32>,
    next_order: u32,
    /// Objects that somebody uses, by number of users.
    in_use: HashMap<Root, u32>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            limits: Limits::NONE,
            usage: Usage::default(),
            cached: BTreeSet::new(),
            mirrored: BTreeSet::new(),
            orders: HashMap::new(),
            next_order: 1,
            in_use: HashMap::new(),
        }
    }
}

impl Ledger {
    /// The ledger of these rows.
    pub(crate) fn of<'a>(rows: impl Iterator<Item = &'a ObjectInfo>) -> Self {
        let mut ledger = Self::default();
        let mut turns = [const { Vec::new() }; 2];
        for info in rows {
            ledger.count(info);
            if let Some(list) = turns.get_mut(Plan::index(info.class)).filter(|_| info.class.gives_way()) {
                list.push(Self::turn(info, 0));
            }
        }
        // Built at once a set takes half the memory of one that grew.
        let [cached, mirrored] = turns.map(|list| list.into_iter().collect());
        Self { cached, mirrored, ..ledger }
    }

    pub(crate) const fn usage(&self) -> Usage {
        self.usage
    }

    pub(crate) const fn limits(&self) -> Limits {
        self.limits
    }

    pub(crate) const fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// A row changed from `before` to `after`, and a publication that held `claimed` bytes became it.
    /// One that stands here by another day than the row's leaves all the same: it would be the next
    /// to give way for ever. An object that is entered or entered again counts as used just now.
    pub(crate) fn replace(&mut self, before: Option<&ObjectInfo>, after: Option<&ObjectInfo>, claimed: u64) {
        if let Some(info) = before {
            self.leave(info);
        }
        self.unclaim(claimed);
        match after {
            Some(info) => {
                let order = self.next_order;
                self.next_order = order.saturating_add(1);
                if info.class.gives_way() {
                    self.orders.insert(info.root, order);
                }
                self.enter(info, order);
            }
            None => drop(before.and_then(|info| self.orders.remove(&info.root))),
        }
    }

    fn turns(&mut self, class: Class) -> Option<&mut BTreeSet<Turn>> {
        match class {
            Class::Own | Class::Pinned => None,
            Class::Cached => Some(&mut self.cached),
            Class::Mirrored => Some(&mut self.mirrored),
        }
    }

    fn turn(info: &ObjectInfo, order: u32) -> Turn {
        let data_count = u32::try_from(info.data_count).unwrap_or(u32::MAX);
        Turn { day: info.used_day, order, root: info.root, data_count }
    }

    fn count(&mut self, info: &ObjectInfo) {
        let index = usize::from(info.class.number());
        if let (Some(bytes), Some(objects)) =
            (self.usage.bytes.get_mut(index), self.usage.objects.get_mut(index))
        {
            *bytes += len_of(info.data_count);
            *objects += 1;
        }
    }

    fn enter(&mut self, info: &ObjectInfo, order: u32) {
        self.count(info);
        if let Some(turns) = self.turns(info.class) {
            turns.insert(Self::turn(info, order));
        }
    }

    fn leave(&mut self, info: &ObjectInfo) {
        let order = self.orders.get(&info.root).copied().unwrap_or(0);
        let turn = Self::turn(info, order);
        if self.turns(info.class).is_none_or(|turns| turns.remove(&turn)) {
            self.uncount(info.class, info.data_count);
        } else {
            self.forget(&info.root);
        }
    }

    /// Takes an object out that gives way, whatever the row says that it is known by.
    pub(crate) fn forget(&mut self, root: &Root) {
        self.orders.remove(root);
        for class in [Class::Cached, Class::Mirrored] {
            let Some(turns) = self.turns(class) else { continue };
            if let Some(turn) = turns.iter().find(|turn| turn.root == *root).copied() {
                turns.remove(&turn);
                self.uncount(class, u64::from(turn.data_count));
            }
        }
    }

    fn uncount(&mut self, class: Class, data_count: u64) {
        let index = usize::from(class.number());
        if let (Some(bytes), Some(objects)) =
            (self.usage.bytes.get_mut(index), self.usage.objects.get_mut(index))
        {
            *bytes = bytes.saturating_sub(len_of(data_count));
            *objects = objects.saturating_sub(1);
        }
    }

    // Publications under way.

    pub(crate) const fn claim(&mut self, bytes: u64) {
        self.usage.claimed_bytes = self.usage.claimed_bytes.saturating_add(bytes);
    }

    pub(crate) const fn unclaim(&mut self, bytes: u64) {
        self.usage.claimed_bytes = self.usage.claimed_bytes.saturating_sub(bytes);
    }

    pub(crate) const fn count_evicted(&mut self, objects: u64) {
        self.usage.evicted += objects;
    }

    // Users.

    pub(crate) fn begin_use(&mut self, root: Root) {
        *self.in_use.entry(root).or_default() += 1;
    }

    pub(crate) fn end_use(&mut self, root: &Root) {
        if let Some(users) = self.in_use.get_mut(root) {
            *users -= 1;
            if *users == 0 {
                self.in_use.remove(root);
            }
        }
    }

    // Giving way.

    /// Whether `bytes` more of a class that never gives way fit as things stand.
    pub(crate) fn fits(&self, bytes: u64) -> bool {
        self.usage.total().saturating_add(bytes) <= self.limits.quota
    }

    /// Which objects give way so that `bytes` of `class` fit, and at least `deficit` bytes of disk
    /// come free. `held` tells which objects are read right now. Nothing is to give way for an answer
    /// that is no.
    pub(crate) fn plan(
        &self,
        class: Class,
        bytes: u64,
        deficit: u64,
        held: impl Fn(&Root) -> bool,
    ) -> Result<Vec<Root>, Shortage> {
        let mut plan = Plan::new(self, &held);
        match class {
            Class::Own | Class::Pinned => {}
            // A single video may be larger than the share: it is the first to go later.
            Class::Cached => while plan.over(class, bytes) && plan.take(class) {},
            Class::Mirrored => while plan.over(class, bytes) && plan.take(class) {},
        }
        let short = |what, available| Err(Shortage { what, needed: bytes, available });
        if class == Class::Mirrored && plan.over(class, bytes) {
            let left = plan.left.get(1).copied().unwrap_or(0);
            return short(Room::Share, self.limits.share(class).saturating_sub(left));
        }
        while plan.total().saturating_add(bytes) > self.limits.quota {
            if !plan.take_any(class) {
                return short(Room::Quota, self.limits.quota.saturating_sub(plan.total()));
            }
        }
        while plan.freed < deficit {
            if !plan.take_any(class) {
                return short(Room::Disk, plan.freed);
            }
        }
        Ok(plan.victims)
    }

    /// What gives way when nothing new comes: what is above its share, above the quota, or in the way
    /// of `deficit` bytes of free disk, as far as it is not in use.
    pub(crate) fn excess(&self, deficit: u64, held: impl Fn(&Root) -> bool) -> Vec<Root> {
        let mut plan = Plan::new(self, &held);
        for class in [Class::Mirrored, Class::Cached] {
            while plan.over(class, 0) && plan.take(class) {}
        }
        while (plan.total() > self.limits.quota || plan.freed < deficit) && plan.take_any(Class::Own) {}
        plan.victims
    }
}

/// Victims chosen so far. `left` and `queues` are those of cached (0) and mirrored (1) objects.
struct Plan<'a> {
    ledger: &'a Ledger,
    queues: [Box<dyn Iterator<Item = &'a Turn> + 'a>; 2],
    left: [u64; 2],
    freed: u64,
    victims: Vec<Root>,
}

impl<'a> Plan<'a> {
    fn new(ledger: &'a Ledger, held: &'a impl Fn(&Root) -> bool) -> Self {
        let idle = move |turn: &&'a Turn| !ledger.in_use.contains_key(&turn.root) && !held(&turn.root);
        let queues: [Box<dyn Iterator<Item = &'a Turn> + 'a>; 2] =
            [Box::new(ledger.cached.iter().filter(idle)), Box::new(ledger.mirrored.iter().filter(idle))];
        let left = [ledger.usage.of(Class::Cached), ledger.usage.of(Class::Mirrored)];
        Self { ledger, queues, left, freed: 0, victims: Vec::new() }
    }

    fn total(&self) -> u64 {
        self.left.iter().fold(self.ledger.usage.fixed(), |sum, left| sum.saturating_add(*left))
    }

    const fn index(class: Class) -> usize {
        if matches!(class, Class::Mirrored) { 1 } else { 0 }
    }

    /// Whether the class is above its share once `bytes` more are in it.
    fn over(&self, class: Class, bytes: u64) -> bool {
        let left = self.left.get(Self::index(class)).copied().unwrap_or(0);
        left.saturating_add(bytes) > self.ledger.limits.share(class)
    }

    /// Takes the least recently used object of a class; false if there is none that is idle.
    fn take(&mut self, class: Class) -> bool {
        let index = Self::index(class);
        let (Some(queue), Some(left)) = (self.queues.get_mut(index), self.left.get_mut(index)) else {
            return false;
        };
        let Some(turn) = queue.next() else { return false };
        let bytes = len_of(u64::from(turn.data_count));
        *left = left.saturating_sub(bytes);
        self.freed += bytes;
        self.victims.push(turn.root);
        true
    }

    /// Takes the next in turn for something of class `to`: first what is above its share; then, but
    /// not for a mirrored object, what is within it.
    fn take_any(&mut self, to: Class) -> bool {
        let over = |plan: &mut Self, class| plan.over(class, 0) && plan.take(class);
        over(self, Class::Mirrored)
            || over(self, Class::Cached)
            || (to != Class::Mirrored && (self.take(Class::Mirrored) || self.take(Class::Cached)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kith_crypto::secret::Key;

    const MIB: u64 = 1 << 20;

    fn object(root: u8, class: Class, day: u32) -> ObjectInfo {
        ObjectInfo {
            root: Root([root; 32]),
            tree: Key::new([2; 32]),
            read: None,
            class,
            complete: true,
            data_count: 16,
            added_unix_s: 4,
            used_day: day,
        }
    }

    /// A ledger whose quota is so many objects.
    fn ledger(quota: u64, objects: &[ObjectInfo]) -> Ledger {
        let mut ledger = Ledger::of(objects.iter());
        ledger.set_limits(Limits { quota: quota * len_of(16), keep_free: 0 });
        ledger
    }

    fn plan(ledger: &Ledger, class: Class, objects: u64) -> Result<Vec<u8>, Room> {
        let planned = ledger.plan(class, objects * len_of(16), 0, |_| false);
        planned.map(|list| list.iter().map(|r| r.as_bytes()[0]).collect()).map_err(|s| s.what)
    }

    #[test]
    fn an_object_counts_with_its_pack() {
        assert!(len_of(16) > MIB && len_of(16) < MIB + 300_000);
        let ledger = ledger(10, &[object(1, Class::Own, 0), object(2, Class::Cached, 0)]);
        assert_eq!(ledger.usage().total(), 2 * len_of(16));
        assert_eq!(ledger.usage().objects, [1, 0, 1, 0]);
        assert_eq!(ledger.usage().fixed(), len_of(16));
    }

    #[test]
    fn the_least_recently_used_goes_first_and_the_share_holds() {
        let cached: Vec<_> = [(1, 5), (2, 3)].map(|(r, day)| object(r, Class::Cached, day)).into();
        let mut ledger = ledger(10, &cached); // a share of two
        assert_eq!(plan(&ledger, Class::Cached, 1), Ok(vec![2]));
        // Within a day the order of use counts.
        ledger.replace(Some(&cached[1]), Some(&object(2, Class::Cached, 5)), 0);
        assert_eq!(plan(&ledger, Class::Cached, 1), Ok(vec![1]));
        // One video above the share is taken, and everything else of the share goes.
        assert_eq!(plan(&ledger, Class::Cached, 9), Ok(vec![1, 2]));
        assert_eq!(plan(&ledger, Class::Cached, 11), Err(Room::Quota));
    }

    #[test]
    fn own_objects_push_out_what_gives_way_and_nothing_else() {
        let kept = [
            object(1, Class::Own, 0),
            object(2, Class::Pinned, 0),
            object(3, Class::Cached, 1),
            object(4, Class::Mirrored, 2),
        ];
        let ledger = ledger(4, &kept);
        assert_eq!(plan(&ledger, Class::Own, 1), Ok(vec![3]), "above its share, so before the mirror");
        assert_eq!(plan(&ledger, Class::Own, 2), Ok(vec![3, 4]));
        assert_eq!(plan(&ledger, Class::Own, 3), Err(Room::Quota));
        let short = ledger.plan(Class::Own, 3 * len_of(16), 0, |_| false).unwrap_err();
        assert_eq!((short.needed, short.available), (3 * len_of(16), 2 * len_of(16)));
    }

    #[test]
    fn mirrors_go_before_the_cache_and_never_push_it_out() {
        let mut kept: Vec<_> = (1..6).map(|r| object(r, Class::Own, 0)).collect();
        kept.extend([object(6, Class::Cached, 1), object(7, Class::Cached, 1)]);
        kept.extend([object(8, Class::Mirrored, 9), object(9, Class::Mirrored, 9)]);
        let ledger = ledger(10, &kept); // shares: cached 2, mirrored 3
        assert_eq!(plan(&ledger, Class::Own, 2), Ok(vec![8]));
        assert_eq!(plan(&ledger, Class::Mirrored, 1), Ok(vec![]));
        assert_eq!(plan(&ledger, Class::Mirrored, 2), Ok(vec![8]));
        assert_eq!(plan(&ledger, Class::Mirrored, 4), Err(Room::Share));
        assert_eq!(plan(&ledger, Class::Own, 5), Ok(vec![8, 9, 6, 7]));
    }

    #[test]
    fn what_is_used_stays() {
        let kept = [object(1, Class::Cached, 1), object(2, Class::Cached, 2)];
        let mut ledger = ledger(10, &kept);
        ledger.begin_use(kept[0].root);
        ledger.begin_use(kept[0].root);
        ledger.end_use(&kept[0].root);
        assert_eq!(plan(&ledger, Class::Cached, 1), Ok(vec![2]));
        ledger.end_use(&kept[0].root);
        assert_eq!(plan(&ledger, Class::Cached, 1), Ok(vec![1]));
        let held = ledger.plan(Class::Cached, len_of(16), 0, |root| *root == kept[0].root);
        assert_eq!(held, Ok(vec![kept[1].root]));
    }

    #[test]
    fn the_disk_asks_for_room_as_well() {
        let kept = [object(1, Class::Cached, 1), object(2, Class::Pinned, 2)];
        let ledger = ledger(100, &kept);
        assert_eq!(ledger.plan(Class::Own, MIB, 1, |_| false), Ok(vec![kept[0].root]));
        let short = ledger.plan(Class::Own, MIB, 2 * len_of(16), |_| false).unwrap_err();
        assert_eq!(short, Shortage { what: Room::Disk, needed: MIB, available: len_of(16) });
        assert_eq!(ledger.excess(1, |_| false), [kept[0].root]);
        assert!(ledger.excess(0, |_| false).is_empty());
    }

    /// A turn whose day was not that of the row stayed when the row went, and was the next to give way
    /// again and again.
    #[test]
    fn an_object_leaves_by_its_root() {
        let mut ledger = ledger(10, &[object(1, Class::Cached, 9), object(2, Class::Mirrored, 1)]);
        ledger.replace(Some(&object(1, Class::Cached, 1)), None, 0);
        assert_eq!(ledger.usage().objects, [0, 0, 0, 1]);
        ledger.forget(&object(2, Class::Mirrored, 1).root);
        ledger.forget(&object(3, Class::Cached, 1).root);
        assert_eq!((ledger.usage().total(), ledger.usage().objects), (0, [0; 4]));
        assert!(ledger.excess(1, |_| false).is_empty());
    }

    #[test]
    fn publications_under_way_count() {
        let mut ledger = ledger(3, &[object(1, Class::Cached, 1)]);
        ledger.claim(2 * len_of(16));
        assert!(!ledger.fits(1));
        assert_eq!(plan(&ledger, Class::Own, 1), Ok(vec![1]));
        assert_eq!(plan(&ledger, Class::Own, 2), Err(Room::Quota));
        ledger.replace(None, Some(&object(9, Class::Own, 1)), 2 * len_of(16));
        assert_eq!(ledger.usage().claimed_bytes, 0);
        assert_eq!(ledger.usage().total(), 2 * len_of(16));
    }
}
