//! The objects that a catalogue knows: what is said of each, and by whom.
//!
//! Invariant: the words of an entry are kept once an object. A friend's mention has a copy of its
//! own only where that friend says something else.

use super::Audience;
use crate::control::Part;
use crate::entry::{Eid, EntryWords};
use kith_crypto::content::Root;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};

/// No time: the mention stays.
pub(super) const NEVER: u64 = u64::MAX;

/// The place of an object in this node's catalogue while it is known. Places are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId(pub u32);

/// A friend by number: a mention is kept 100,000 times, a key is long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FriendNo(pub(super) u32);

#[derive(Debug)]
pub(super) struct Own {
    pub(super) audience: Audience,
    pub(super) renew_at_s: u64,
    pub(super) expires_day: u32,
}

/// One friend's mention of an object.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) friend: FriendNo,
    /// Day after which it is dropped unless renewed.
    pub(super) expires_day: u32,
    /// Unix milliseconds from which others may hear of it.
    pub(super) release_ms: u64,
    /// Unix milliseconds at which it goes, once the friend is lost; [`NEVER`] before.
    pub(super) leave_ms: u64,
    /// Its name in the friend's view.
    pub(super) eid: Eid,
    /// What this friend says of the object, if it differs from [`Known::words`]: nobody can change
    /// what another one has told.
    pub(super) copy: Option<Box<EntryWords>>,
    pub(super) part: Part,
    pub(super) hops_left: u8,
}

impl Heard {
    pub(super) const fn stays(&self) -> bool {
        self.leave_ms == NEVER
    }

    /// Published by the friend itself for friends of friends.
    pub(super) fn may_travel(&self) -> bool {
        self.part == Part::Own && self.hops_left > 0
    }

    fn is(&self, friend: FriendNo, eid: Eid) -> bool {
        self.friend == friend && self.eid == eid
    }
}

/// Mentions in the order in which they came. Most objects have one, which needs no memory of its own.
#[derive(Debug)]
pub(super) enum Mentions {
    One(Heard),
    Many(Vec<Heard>),
}

impl Mentions {
    const fn none() -> Self {
        Self::Many(Vec::new())
    }

    pub(super) fn all(&self) -> &[Heard] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    pub(super) fn all_mut(&mut self) -> &mut [Heard] {
        match self {
            Self::One(one) => std::slice::from_mut(one),
            Self::Many(many) => many,
        }
    }

    pub(super) fn push(&mut self, heard: Heard) {
        *self = match std::mem::replace(self, Self::none()) {
            Self::Many(none) if none.is_empty() => Self::One(heard),
            Self::One(first) => Self::Many(vec![first, heard]),
            Self::Many(mut many) => {
                many.push(heard);
                Self::Many(many)
            }
        };
    }

    fn remove(&mut self, place: usize) -> Option<Heard> {
        match std::mem::replace(self, Self::none()) {
            Self::One(one) if place == 0 => Some(one),
            Self::One(one) => {
                *self = Self::One(one);
                None
            }
            Self::Many(mut many) => {
                let removed = (place < many.len()).then(|| many.remove(place));
                *self = match many.pop() {
                    Some(last) if many.is_empty() => Self::One(last),
                    Some(last) => {
                        many.push(last);
                        Self::Many(many)
                    }
                    None => Self::none(),
                };
                removed
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct Known {
    /// The own words, or those of the friend who told of it first.
    pub(super) words: EntryWords,
    pub(super) own: Option<Box<Own>>,
    pub(super) heard: Mentions,
    /// In the log of relayed entries now.
    pub(super) listed: bool,
    /// The entry has changed since it went into that log.
    pub(super) changed: bool,
    /// Search has to look at it again.
    pub(super) unsearched: bool,
}

impl Known {
    pub(super) const fn new(words: EntryWords) -> Self {
        Self { words, own: None, heard: Mentions::none(), listed: false, changed: false, unsearched: false }
    }

    pub(super) fn heard(&self) -> &[Heard] {
        self.heard.all()
    }

    pub(super) fn is_forgotten(&self) -> bool {
        self.own.is_none() && self.heard().is_empty() && !self.listed
    }

    pub(super) fn is_searchable(&self) -> bool {
        self.own.is_some() || self.heard().iter().any(Heard::stays)
    }

    /// Somebody's request for the object can be answered or passed on.
    pub(super) fn is_askable(&self) -> bool {
        self.own.is_some() || !self.heard().is_empty()
    }

    pub(super) fn mention(&self, friend: FriendNo, eid: Eid) -> Option<&Heard> {
        self.heard().iter().find(|h| h.is(friend, eid))
    }

    pub(super) fn mention_mut(&mut self, friend: FriendNo, eid: Eid) -> Option<&mut Heard> {
        self.heard.all_mut().iter_mut().find(|h| h.is(friend, eid))
    }

    /// The words of one mention.
    pub(super) fn words_of<'a>(&'a self, heard: &'a Heard) -> &'a EntryWords {
        heard.copy.as_deref().unwrap_or(&self.words)
    }

    /// What one friend says of the object.
    pub(super) fn said_by(&self, heard: &Heard) -> Vec<u8> {
        self.words_of(heard).entry(heard.hops_left, heard.expires_day)
    }

    /// Other words stand for the object from now on; what each friend said stays.
    pub(super) fn reword(&mut self, words: EntryWords) {
        let old = std::mem::replace(&mut self.words, words);
        let Self { words, heard, .. } = self;
        for heard in heard.all_mut() {
            let says = heard.copy.take().unwrap_or_else(|| Box::new(old.clone()));
            heard.copy = (*says != *words).then_some(says);
        }
    }

    /// The words of the first mention stand for the object, unless its own do.
    pub(super) fn follow_first(&mut self) {
        let first = self.heard().first().filter(|_| self.own.is_none());
        if let Some(words) = first.and_then(|h| h.copy.as_deref().cloned()) {
            self.reword(words);
        }
    }

    /// Takes a mention away; if it was the first, the next one's words count from now on. Returns
    /// it with the day and length of its words.
    pub(super) fn forget(&mut self, friend: FriendNo, eid: Eid) -> Option<(Heard, u32, usize)> {
        let place = self.heard().iter().position(|h| h.is(friend, eid))?;
        let (day, len) = self.heard().get(place).map(|h| {
            let words = self.words_of(h);
            (words.published_day(), words.len())
        })?;
        let heard = self.heard.remove(place)?;
        self.follow_first();
        Some((heard, day, len))
    }

    /// Puts a mention behind all others: their words count before its own.
    pub(super) fn put_last(&mut self, friend: FriendNo, eid: Eid) {
        let Some(place) = self.heard().iter().position(|h| h.is(friend, eid)) else { return };
        if place + 1 == self.heard().len() {
            return;
        }
        if let Some(heard) = self.heard.remove(place) {
            self.heard.push(heard);
            self.follow_first();
        }
    }

    pub(super) fn is_relayable(&self, now_ms: u64) -> bool {
        self.heard().iter().any(|h| h.may_travel() && h.release_ms <= now_ms && h.leave_ms > now_ms)
    }
}

/// All known objects: by place, and by root.
#[derive(Debug)]
pub(super) struct Objects {
    places: Vec<Option<Known>>,
    free: Vec<u32>,
    /// Places by a hash of the root. It is keyed, so that nobody can choose roots that share one.
    by_root: BTreeMap<u64, EntryId>,
    hash_key: [u8; 16],
}

impl Objects {
    pub(super) const fn new(hash_key: [u8; 16]) -> Self {
        Self { places: Vec::new(), free: Vec::new(), by_root: BTreeMap::new(), hash_key }
    }

    fn hash(&self, root: &Root) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write(&self.hash_key);
        hasher.write(&root.0);
        hasher.finish()
    }

    pub(super) fn find(&self, root: &Root) -> Option<EntryId> {
        let id = *self.by_root.get(&self.hash(root))?;
        self.get(id).is_some_and(|k| k.words.root() == *root).then_some(id)
    }

    pub(super) fn get(&self, id: EntryId) -> Option<&Known> {
        self.places.get(id.0 as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: EntryId) -> Option<&mut Known> {
        self.places.get_mut(id.0 as usize)?.as_mut()
    }

    pub(super) fn by_root(&self, root: &Root) -> Option<&Known> {
        self.get(self.find(root)?)
    }

    /// The object's place, a new one with `words` if it was unknown. `None` for a root that shares
    /// its hash with another, which does not happen.
    pub(super) fn find_or_insert(
        &mut self,
        root: &Root,
        words: impl FnOnce() -> EntryWords,
    ) -> Option<EntryId> {
        let hash = self.hash(root);
        if let Some(id) = self.by_root.get(&hash).copied() {
            return self.get(id).is_some_and(|k| k.words.root() == *root).then_some(id);
        }
        let id = self.free.pop().map(EntryId).unwrap_or_else(|| {
            self.places.push(None);
            EntryId(self.places.len() as u32 - 1)
        });
        self.by_root.insert(hash, id);
        if let Some(place) = self.places.get_mut(id.0 as usize) {
            *place = Some(Known::new(words()));
        }
        Some(id)
    }

    pub(super) fn remove(&mut self, id: EntryId) {
        let Some(known) = self.places.get_mut(id.0 as usize).and_then(Option::take) else { return };
        self.by_root.remove(&self.hash(&known.words.root()));
        self.free.push(id.0);
        if self.by_root.is_empty() {
            (self.places, self.free) = (Vec::new(), Vec::new());
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (EntryId, &Known)> {
        self.places.iter().zip(0..).filter_map(|(known, at)| Some((EntryId(at), known.as_ref()?)))
    }

    /// Places that there are, used or not.
    pub(super) fn places(&self) -> u32 {
        self.places.len() as u32
    }

    pub(super) fn len(&self) -> usize {
        self.by_root.len()
    }
}
