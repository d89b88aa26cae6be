//! What friends tell each other about videos, when they tell it, and what this node knows.
//! Format and timing: `docs/protocol/catalogue.md`; visibility is decision 20 of the protocol.
//!
//! A friend's view has two parts with a log each: what the friend published itself (a hint, then a
//! pull within seconds) and what its friends published for friends of friends (released in
//! batches). Nothing is ever sent because of a search: searching reads what is already here.

mod batches;
mod friends;
mod known;
mod locators;
mod replay;
mod shares;
mod taken;
#[cfg(test)]
mod tests;
mod told;
mod view;

pub use known::EntryId;
pub use view::{MAX_BYTES, MAX_ENTRIES, MAX_VIEW_BYTES, MAX_VIEW_ENTRIES, Shares, ViewCount};

use crate::control::Part;
use crate::core::FriendKey;
use crate::entry::{Eid, Entry, EntryRef};
use kith_crypto::content::Root;
use kith_crypto::kdf::{self, Label};
use kith_crypto::rng::Rng;
use kith_crypto::secret::Key;
use known::{FriendNo, Heard, Objects};
use locators::Locators;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use told::Log;
use view::{Size, View};

/// Days that an entry lives without renewal.
pub const ENTRY_DAYS: u32 = 30;
const DAY_S: u64 = 86_400;

/// Deliberate delays, so that nobody can tell when somebody published.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Relayed entries are released at the ends of batches of this length.
    pub batch: Duration,
    /// What a new friend already had is released over this time.
    pub spread: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { batch: Duration::from_secs(30 * 60), spread: Duration::from_secs(3 * DAY_S) }
    }
}

/// Who may see an own video.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// All friends.
    Friends,
    /// Friends and their friends.
    Fof,
    /// One friend.
    One(FriendKey),
    /// The friends in a circle, whoever that is at the time; see [`Catalogue::set_circle`].
    Circle(u64),
}

/// Members of each circle.
type Circles = BTreeMap<u64, BTreeSet<FriendKey>>;

impl Audience {
    fn includes(&self, friend: FriendKey, circles: &Circles) -> bool {
        match self {
            Self::Friends | Self::Fof => true,
            Self::One(only) => *only == friend,
            Self::Circle(id) => circles.get(id).is_some_and(|members| members.contains(&friend)),
        }
    }

    /// How far an entry for this audience may travel.
    pub const fn hops(&self) -> u8 {
        matches!(self, Self::Fof) as u8
    }
}

/// What the catalogue wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Tell a friend that its part of the own view has changed.
    Hint(FriendKey),
    /// Ask a friend for changes.
    Pull(FriendKey, Part, u64, u64),
    /// Append to the friend's view log.
    Record(FriendKey, Vec<Vec<u8>>),
    /// The friend's view log is no longer needed.
    DropView(FriendKey),
    /// There is news of this object, or another friend who has it.
    Listed(Root),
    /// All who told of this object took it back before it was over.
    Withdrawn(Root),
}

/// How an object is known.
#[derive(Clone, Debug)]
pub struct Listing {
    /// Its entry.
    pub entry: Entry,
    /// 0 own, 1 friend, 2 friend of a friend.
    pub distance: u8,
    /// Friends to ask, nearest first: `(friend, links)`.
    pub sources: Vec<(FriendKey, u8)>,
}

/// What a search is narrowed by; costs no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Brief {
    /// 0 own, 1 friend, 2 friend of a friend.
    pub distance: u8,
    /// Duration in seconds, 0 when unknown.
    pub duration_s: u32,
    /// The object.
    pub root: Root,
}

/// What search has to know of an entry.
#[derive(Clone, Copy, Debug)]
pub struct Searchable<'a> {
    /// Its words.
    pub entry: EntryRef<'a>,
    /// Number of the friend who told of it first; 0 for an own publication.
    pub teller: u32,
}

/// The catalogue of one node.
#[derive(Debug)]
pub struct Catalogue {
    pace: Pace,
    shares: Shares,
    rng: Rng,
    /// Draws entry ids per view.
    secret: Key,
    objects: Objects,
    /// Places of own publications.
    own: BTreeSet<EntryId>,
    /// What this node ever published, withdrawn or not: nobody else decides who is served it.
    published: BTreeSet<Root>,
    circles: Circles,
    views: BTreeMap<FriendKey, View>,
    /// Friends by number. Who comes back has the same number.
    keys: Vec<FriendKey>,
    /// Entries and bytes of all views.
    size: Size,
    own_logs: BTreeMap<FriendKey, Log>,
    relayed_log: Log,
    /// Objects in that log now.
    listed: usize,
    /// When to look at an object again for release or leaving, in Unix milliseconds.
    due: BTreeSet<(u64, EntryId)>,
    locators: Locators,
    /// What search has to look at again.
    unsearched: VecDeque<EntryId>,
    next_batch: Option<Duration>,
    next_expiry: Duration,
    acts: VecDeque<Act>,
}

impl Catalogue {
    /// An empty catalogue. `secret` belongs to this node alone.
    pub fn new(pace: Pace, secret: Key, rng: Rng) -> Self {
        Self::with_shares(pace, Shares::default(), secret, rng)
    }

    /// The same with other limits.
    pub fn with_shares(pace: Pace, shares: Shares, secret: Key, mut rng: Rng) -> Self {
        let relayed_log = Log::new(&mut rng, std::iter::empty());
        let objects = Objects::new(rng.bytes());
        Self {
            pace,
            shares,
            rng,
            secret,
            objects,
            own: BTreeSet::new(),
            published: BTreeSet::new(),
            circles: Circles::new(),
            views: BTreeMap::new(),
            keys: Vec::new(),
            size: Size::default(),
            own_logs: BTreeMap::new(),
            relayed_log,
            listed: 0,
            due: BTreeSet::new(),
            locators: Locators::default(),
            unsearched: VecDeque::new(),
            next_batch: None,
            next_expiry: Duration::ZERO,
            acts: VecDeque::new(),
        }
    }

    /// Length of a batch of relayed entries: friends pull that often.
    pub const fn batch(&self) -> Duration {
        self.pace.batch
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Act> {
        self.acts.pop_front()
    }

    fn eid(&self, friend: FriendKey, root: Root) -> Eid {
        let full = kdf::derive(Label::ENTRY_ID, &[self.secret.expose(), &friend.0, &root.0]);
        let mut eid = [0; 8];
        eid.iter_mut().zip(full.expose()).for_each(|(o, b)| *o = *b);
        Eid(eid)
    }

    fn key_of(&self, friend: FriendNo) -> Option<FriendKey> {
        self.keys.get(friend.0 as usize).copied()
    }

    // What search sees.

    /// Search has to look at this object again, because its words changed, it came or it went.
    fn look_again(&mut self, id: EntryId) {
        if let Some(known) = self.objects.get_mut(id)
            && !std::mem::replace(&mut known.unsearched, true)
        {
            self.unsearched.push_back(id);
        }
    }

    /// Something that search has not seen yet: a place, and what is there now if it is to be found.
    /// Every change shows up here once, however often the object changed since.
    pub fn next_unsearched(&mut self) -> Option<(EntryId, Option<Searchable<'_>>)> {
        let id = self.unsearched.pop_front()?;
        if let Some(known) = self.objects.get_mut(id) {
            known.unsearched = false;
        }
        let known = self.objects.get(id).filter(|k| k.is_searchable());
        let searchable = known.and_then(|k| {
            let teller = k.heard().first().filter(|_| k.own.is_none()).map_or(0, |h| h.friend.0 + 1);
            Some(Searchable { entry: k.words.read()?, teller })
        });
        Some((id, searchable))
    }

    /// How many objects search has not seen yet.
    pub fn unsearched(&self) -> usize {
        self.unsearched.len()
    }

    // Look-ups.

    /// What is known of an object.
    pub fn listing(&self, root: &Root) -> Option<Listing> {
        self.entry(self.objects.find(root)?)
    }

    /// What is known of the object at a place.
    pub fn entry(&self, id: EntryId) -> Option<Listing> {
        let known = self.objects.get(id).filter(|k| k.is_searchable())?;
        let mut entry = known.words.read()?.to_entry();
        if let Some(own) = &known.own {
            (entry.hops_left, entry.expires_day) = (own.audience.hops(), own.expires_day);
        }
        let links = |part| if part == Part::Own { 1 } else { 2 };
        let source = |h: &Heard| Some((self.key_of(h.friend)?, links(h.part)));
        let mut sources: Vec<(FriendKey, u8)> =
            known.heard().iter().filter(|h| h.stays()).filter_map(source).collect();
        sources.sort_by_key(|(friend, links)| (*links, *friend));
        let distance = if known.own.is_some() { 0 } else { sources.first().map_or(2, |s| s.1) };
        Some(Listing { entry, distance, sources })
    }

    /// The same in brief.
    pub fn brief(&self, id: EntryId) -> Option<Brief> {
        let known = self.objects.get(id).filter(|k| k.is_searchable())?;
        let is_near = |h: &Heard| h.stays() && h.part == Part::Own;
        let distance = match &known.own {
            Some(_) => 0,
            None if known.heard().iter().any(is_near) => 1,
            None => 2,
        };
        Some(Brief { distance, duration_s: known.words.duration_s(), root: known.words.root() })
    }

    /// Friends who tell of the object at a place; nobody of an own publication.
    pub fn tellers(&self, id: EntryId) -> impl Iterator<Item = FriendKey> + '_ {
        let known = self.objects.get(id).filter(|known| known.own.is_none()).into_iter();
        let known = known.flat_map(|known| known.heard());
        known.filter(|h| h.stays()).filter_map(|h| self.key_of(h.friend))
    }

    /// What friends published last, at most so many, the latest day first; `keep` says of which.
    pub fn latest(&self, limit: usize, keep: impl Fn(EntryId, Root) -> bool) -> Vec<Listing> {
        let shown = self
            .objects
            .iter()
            .filter(|(id, k)| k.is_searchable() && k.own.is_none() && keep(*id, k.words.root()));
        let mut days: Vec<(u32, EntryId)> = shown.map(|(id, k)| (k.words.published_day(), id)).collect();
        if limit < days.len() {
            days.select_nth_unstable_by(limit, |a, b| b.cmp(a));
            days.truncate(limit);
        }
        days.sort_unstable_by(|a, b| b.cmp(a));
        days.into_iter().filter_map(|(_, id)| self.entry(id)).collect()
    }

    /// Objects that search can show.
    pub fn roots(&self) -> impl Iterator<Item = Root> {
        self.objects.iter().filter(|(_, k)| k.is_searchable()).map(|(_, k)| k.words.root())
    }

    /// Whether a friend that asks for an object is in its audience: own publications for it, what
    /// another friend published for friends of friends, and what it published itself: it may have
    /// lost blocks. What this node published is its own to decide about, also when it was withdrawn:
    /// any friend can list any root, and would let itself and others in by it.
    pub fn may_serve(&self, friend: FriendKey, root: &Root) -> bool {
        self.objects.by_root(root).is_some_and(|known| {
            known.own.as_ref().is_some_and(|own| own.audience.includes(friend, &self.circles))
                || !self.published.contains(root)
                    && known.heard().iter().filter(|h| h.stays()).any(|h| {
                        match self.key_of(h.friend) == Some(friend) {
                            true => h.part == Part::Own,
                            false => h.may_travel(),
                        }
                    })
        })
    }

    /// Whether a friend told of an object that a friend of its published: it asks for itself, or for others
    /// of its friends, who are all in the audience.
    pub fn was_told_by(&self, friend: FriendKey, root: &Root) -> bool {
        let told = |h: &Heard| h.part == Part::Relayed && h.stays() && self.key_of(h.friend) == Some(friend);
        let known = self.objects.by_root(root).filter(|_| !self.published.contains(root));
        known.is_some_and(|known| known.heard().iter().any(told))
    }

    /// Friends to pass a request of `asker` on to: those who published it for friends of friends.
    pub fn pointers(&self, asker: FriendKey, root: &Root) -> Vec<FriendKey> {
        let Some(known) = self.objects.by_root(root) else { return Vec::new() };
        let points = known.heard().iter().filter(|h| h.may_travel() && h.stays());
        points.filter_map(|h| self.key_of(h.friend)).filter(|friend| *friend != asker).collect()
    }

    /// Whom to pass a request on to that spreads from a circuit's end, and over how many links the
    /// object lies there: friends who published it for friends of friends, or told of such a one.
    pub fn onward(&self, root: &Root) -> Vec<(FriendKey, u8)> {
        let Some(known) = self.objects.by_root(root) else { return Vec::new() };
        let points = |h: &&Heard| h.stays() && (h.part == Part::Relayed || h.may_travel());
        let links = |h: &Heard| if h.part == Part::Own { 1 } else { 2 };
        let heard = known.heard().iter().filter(points);
        let mut onward: Vec<(FriendKey, u8)> =
            heard.filter_map(|h| Some((self.key_of(h.friend)?, links(h)))).collect();
        onward.sort_by_key(|(friend, links)| (*links, *friend));
        onward
    }

    /// Whether this node published an object, withdrawn or not.
    pub fn is_own(&self, root: &Root) -> bool {
        self.published.contains(root)
    }

    /// Whether the object is published here for friends of friends.
    pub fn travels(&self, root: &Root) -> bool {
        let own = self.objects.by_root(root).and_then(|k| k.own.as_ref());
        own.is_some_and(|own| own.audience.hops() > 0)
    }

    /// Whether a friend published an object.
    pub fn is_near(&self, root: &Root) -> bool {
        let is_near = |h: &Heard| h.part == Part::Own && h.stays();
        self.objects.by_root(root).is_some_and(|known| known.heard().iter().any(is_near))
    }

    /// The object that a request's locator names, if it can be answered or passed on.
    pub fn located(&self, locator: &[u8; 16]) -> Option<Root> {
        self.locators.find(&self.objects, locator)
    }

    /// It is this hour by the clocks of most friends: locators of the hours around it count. One
    /// call does a bounded piece of the work.
    pub fn set_hour(&mut self, hour: u64) {
        self.locators.set_hour(hour);
        self.locators.step(&self.objects);
    }

    /// Entries known, own and heard.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The log of a friend's view lost records: the next pull asks for everything, and what the friend
    /// does not say then goes.
    pub fn pull_anew(&mut self, friend: FriendKey) {
        if let Some(view) = self.views.get_mut(&friend) {
            view.own.begin_anew();
            view.relayed.begin_anew();
        }
    }

    /// What a friend's view holds, and what of it was dropped.
    pub fn count(&self, friend: FriendKey) -> ViewCount {
        self.views.get(&friend).map_or_else(ViewCount::default, |view| {
            let size = view.size();
            ViewCount { entries: size.entries, bytes: size.bytes, ..view.count }
        })
    }

    /// Entries of all friends that were dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.views.values().map(|view| view.count.dropped()).sum()
    }
}
