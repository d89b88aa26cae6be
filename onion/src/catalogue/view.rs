//! What one friend has told: its entries by id, how far each part was pulled, and the friend's
//! share of the memory.
//!
//! Invariant: a part of a view never holds more than [`MAX_VIEW_ENTRIES`] entries and
//! [`MAX_VIEW_BYTES`] bytes, all views together never more than [`MAX_ENTRIES`] and [`MAX_BYTES`].
//! What is beyond goes oldest first, from the view itself or else from the largest one, so nobody
//! pushes out what a friend with a smaller view has told.

use super::known::{EntryId, FriendNo};
use crate::control::Part;
use crate::entry::Eid;
use crate::tunnel::Bucket;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Entries kept of one part of one friend's view.
pub const MAX_VIEW_ENTRIES: usize = 16_000;
/// Bytes of the encoded entries kept of one part of one friend's view.
pub const MAX_VIEW_BYTES: usize = 4 << 20;
/// Entries kept of all friends' views together.
pub const MAX_ENTRIES: usize = 200_000;
/// Bytes of the encoded entries of all friends' views together.
pub const MAX_BYTES: usize = 64 << 20;

/// Changes of one friend's view that are stored: two full views at once, and two a day.
const MAX_CHANGES: f64 = 4.0 * MAX_VIEW_ENTRIES as f64;
const CHANGES_A_SECOND: f64 = MAX_CHANGES / super::DAY_S as f64;

/// How much is kept at most.
#[derive(Clone, Copy, Debug)]
pub struct Shares {
    /// Entries of one part of one view.
    pub view_entries: usize,
    /// Their bytes.
    pub view_bytes: usize,
    /// Entries of all views.
    pub entries: usize,
    /// Their bytes.
    pub bytes: usize,
}

impl Default for Shares {
    fn default() -> Self {
        Self {
            view_entries: MAX_VIEW_ENTRIES,
            view_bytes: MAX_VIEW_BYTES,
            entries: MAX_ENTRIES,
            bytes: MAX_BYTES,
        }
    }
}

impl Shares {
    /// No limits: what the defence is measured against.
    #[doc(hidden)]
    pub const fn none() -> Self {
        Self { view_entries: usize::MAX, view_bytes: usize::MAX, entries: usize::MAX, bytes: usize::MAX }
    }
}

/// What one friend's view holds, and what of it was dropped since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ViewCount {
    /// Entries known.
    pub entries: usize,
    /// Bytes of their encoded forms.
    pub bytes: usize,
    /// Dropped because the friend's share was full, oldest first.
    pub over_share: u64,
    /// Dropped because they had expired, lived too long or were dated in the future.
    pub dated: u64,
    /// Dropped because their id named another entry, or because they had travelled too far.
    pub invalid: u64,
}

impl ViewCount {
    /// All that was dropped.
    pub const fn dropped(&self) -> u64 {
        self.over_share + self.dated + self.invalid
    }
}

/// Entries and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) entries: usize,
    pub(super) bytes: usize,
}

impl Size {
    pub(super) fn add(&mut self, bytes: usize) {
        self.entries += 1;
        self.bytes += bytes;
    }

    pub(super) fn sub(&mut self, bytes: usize) {
        self.entries = self.entries.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// For comparing: an entry costs memory besides its bytes.
    pub(super) const fn weight(&self) -> usize {
        self.bytes + 256 * self.entries
    }
}

#[derive(Debug, Default)]
pub(super) struct PartState {
    pub(super) log: u64,
    pub(super) upto: u64,
    pub(super) pull_at: Option<Duration>,
    pub(super) asked: bool,
    /// Entries seen since a restart began; what is missing at its end is gone.
    pub(super) restart: Option<BTreeSet<Eid>>,
    pub(super) size: Size,
    /// The first view was taken whole once.
    pub(super) completed: bool,
    /// Pages taken one after the other.
    pub(super) pages: u32,
    /// Entries by day of publishing, once the share was full: the first goes first.
    pub(super) by_age: Option<BTreeSet<(u32, Eid)>>,
}

impl PartState {
    /// The next pull asks for everything.
    pub(super) fn begin_anew(&mut self) {
        (self.log, self.upto, self.restart, self.pages) = (0, 0, None, 0);
    }

    pub(super) const fn is_over(&self, shares: &Shares) -> bool {
        self.size.entries > shares.view_entries || self.size.bytes > shares.view_bytes
    }

    /// Whether an entry more of this length would be too much.
    pub(super) const fn would_be_over(&self, shares: &Shares, len: usize) -> bool {
        self.size.entries >= shares.view_entries || self.size.bytes.saturating_add(len) > shares.view_bytes
    }

    pub(super) fn came(&mut self, day: u32, eid: Eid, len: usize) {
        self.size.add(len);
        if let Some(by_age) = &mut self.by_age {
            by_age.insert((day, eid));
        }
    }

    pub(super) fn went(&mut self, day: u32, eid: Eid, len: usize) {
        self.size.sub(len);
        if let Some(by_age) = &mut self.by_age {
            by_age.remove(&(day, eid));
        }
    }
}

#[derive(Debug)]
pub(super) struct View {
    pub(super) no: FriendNo,
    pub(super) eids: BTreeMap<Eid, EntryId>,
    pub(super) own: PartState,
    pub(super) relayed: PartState,
    pub(super) connected: bool,
    /// The friend is lost; its entries leave.
    pub(super) gone: bool,
    /// Nothing is asked of the friend or taken from it.
    pub(super) ignored: bool,
    /// Counters; entries and bytes are filled in when asked.
    pub(super) count: ViewCount,
    /// Changes that may still be stored.
    changes: Option<Bucket>,
}

impl View {
    pub(super) fn new(no: FriendNo) -> Self {
        Self {
            no,
            eids: BTreeMap::new(),
            own: PartState::default(),
            relayed: PartState::default(),
            connected: false,
            gone: false,
            ignored: false,
            count: ViewCount::default(),
            changes: None,
        }
    }

    pub(super) fn may_change(&mut self, now: Duration) -> bool {
        self.changes.get_or_insert_with(|| Bucket::new(CHANGES_A_SECOND, MAX_CHANGES)).take(now)
    }

    pub(super) const fn part(&mut self, part: Part) -> &mut PartState {
        match part {
            Part::Own => &mut self.own,
            Part::Relayed => &mut self.relayed,
        }
    }

    pub(super) const fn part_ref(&self, part: Part) -> &PartState {
        match part {
            Part::Own => &self.own,
            Part::Relayed => &self.relayed,
        }
    }

    pub(super) const fn size(&self) -> Size {
        Size {
            entries: self.own.size.entries + self.relayed.size.entries,
            bytes: self.own.size.bytes + self.relayed.size.bytes,
        }
    }

    /// The part that holds more.
    pub(super) const fn larger_part(&self) -> Part {
        if self.own.size.weight() >= self.relayed.size.weight() { Part::Own } else { Part::Relayed }
    }
}
