//! Search over the entries that this node has: an inverted index of folded words, in memory only.
//!
//! Invariant: a query reads nothing but this index, so searching touches neither disk nor network,
//! and its work is bounded: the query is cut to [`MAX_QUERY_BYTES`] and [`MAX_QUERY_WORDS`], and no
//! more than [`MAX_POSTINGS`] places of words are looked at, whole words first and then longer
//! words in the order of the alphabet. The same index gives the same answer.
//!
//! Postings are only ever appended, in the order of their slots; removed entries are skipped until
//! enough have gathered, and then all slots are numbered anew. What may be shown to whom is for the
//! caller, who also keeps the entries themselves.

mod bits;
mod fold;
mod postings;
#[cfg(test)]
mod tests;

use bits::Bits;
use fold::each_word;
use kith_crypto::text::cut;
use postings::{Postings, Term};
use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};

/// Longest query in bytes; the rest is ignored.
pub const MAX_QUERY_BYTES: usize = 256;
/// Most words of a query; the rest is ignored.
pub const MAX_QUERY_WORDS: usize = 16;
/// Places of words that a query looks at.
pub const MAX_POSTINGS: usize = 1_500_000;

const MAX_FIELD_BYTES: usize = 4096;
const MAX_TAGS: usize = 64;
/// Different words of an entry that are searchable.
pub const MAX_DOC_WORDS: usize = 128;
/// Different words of all entries. A friend who sends entries of invented words must not fill the
/// memory, nor take the place of others' words.
pub const MAX_TERMS: usize = 500_000;
/// Words that one friend's entries may bring in.
pub const MAX_TERMS_OF_ONE: u32 = 50_000;
/// The last quarter of all words is for friends whose entries brought in fewer than this.
pub const RESERVED_TERMS: u32 = 500;
const MIN_DEAD_SLOTS: usize = 1024;
/// Words that came since the last sorting, before all are sorted anew.
const MIN_FRESH_TERMS: usize = 1024;
const NOWHERE: u32 = u32::MAX;

const FIELD_COUNT: usize = 4;
// Title, tags, text, name of the friend. Halved at most for a field's length, so that the order of
// the fields stays whatever their lengths are.
const FIELD_WEIGHTS: [f32; FIELD_COUNT] = [8.0, 4.0, 2.0, 1.0];
const PREFIX_FACTOR: f32 = 0.5;

/// What is searchable in an entry.
#[derive(Clone, Copy, Debug, Default)]
pub struct Doc<'a> {
    /// Its title.
    pub title: &'a str,
    /// Its description.
    pub text: &'a str,
    /// Its tags.
    pub tags: &'a [&'a str],
    /// The direct friend it came through, by the name that the user gave.
    pub via_name: Option<&'a str>,
    /// Number of the friend whose words these are: limits on new words count for each.
    pub source: u32,
}

/// An entry that matches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// The id it was inserted with.
    pub id: u32,
    /// How well it matches: more is better; only comparable within one query.
    pub score: f32,
}

/// The index. Ids are small numbers: its memory grows with the largest.
#[derive(Debug, Default)]
pub struct Index {
    terms: Vec<Indexed>,
    /// Number of a term by the keyed hash of its word.
    numbers: HashMap<u64, u32, BuildHasherDefault<AsIs>>,
    hash_key: RandomState,
    /// Numbers of terms in the order of their words: all but the latest, and those.
    sorted: Vec<u32>,
    fresh: Vec<u32>,
    fresh_is_sorted: bool,
    /// Terms that each source has brought in.
    brought: HashMap<u32, u32>,
    slots: Vec<Slot>,
    /// Slot of an id, or [`NOWHERE`].
    slot_of: Vec<u32>,
    live: usize,
    /// Terms of the entry that is being added, with a bit for each field; kept for its memory.
    found: Vec<(u32, u8)>,
}

#[derive(Debug)]
struct Indexed {
    word: Term,
    postings: Postings,
    source: u32,
}

/// An entry's place in the postings; [`NOWHERE`] as id once it was removed.
#[derive(Clone, Copy, Debug)]
struct Slot {
    id: u32,
    // Words in each field.
    lengths: [u8; FIELD_COUNT],
}

impl Slot {
    const fn is_live(&self) -> bool {
        self.id != NOWHERE
    }
}

/// A text's words as the index has them, with spaces between.
pub fn folded(text: &str) -> String {
    let mut words = Vec::new();
    each_word(text, |word| words.push(word.to_owned()));
    words.join(" ")
}

impl Index {
    /// An empty index.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many entries it has.
    pub const fn len(&self) -> usize {
        self.live
    }

    /// Whether it has none.
    pub const fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Adds an entry, or replaces the one with this id.
    pub fn insert(&mut self, id: u32, doc: Doc<'_>) {
        self.remove(id);
        let slot = self.slots.len() as u32;
        if slot == NOWHERE || id == NOWHERE {
            return;
        }
        let lengths = self.read(doc);
        let mut found = std::mem::take(&mut self.found);
        found.sort_unstable();
        // A word that is there several times counts once, with all its fields.
        found.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            kept.1 |= if same { later.1 } else { 0 };
            same
        });
        for (number, fields) in found.drain(..) {
            if let Some(term) = self.terms.get_mut(number as usize) {
                term.postings.push(slot, fields);
            }
        }
        self.found = found;
        self.slots.push(Slot { id, lengths });
        let place = id as usize;
        if place >= self.slot_of.len() {
            self.slot_of.resize(place + 1, NOWHERE);
        }
        if let Some(of) = self.slot_of.get_mut(place) {
            *of = slot;
        }
        self.live += 1;
    }

    // Looks all words of an entry up. Returns how many each field has.
    fn read(&mut self, doc: Doc<'_>) -> [u8; FIELD_COUNT] {
        let mut lengths = [0_u8; FIELD_COUNT];
        let Doc { title, text, tags, via_name, source } = doc;
        let tags = tags.iter().take(MAX_TAGS).map(|tag| (1, cut(tag, MAX_FIELD_BYTES / MAX_TAGS)));
        let texts =
            [(2, cut(text, MAX_FIELD_BYTES)), (3, cut(via_name.unwrap_or_default(), MAX_FIELD_BYTES))];
        for (field, text) in std::iter::once((0, cut(title, MAX_FIELD_BYTES))).chain(tags).chain(texts) {
            let Some(length) = lengths.get_mut(field) else { continue };
            each_word(text, |word| {
                *length = length.saturating_add(1);
                if self.found.len() < MAX_DOC_WORDS
                    && let Some(number) = self.number_of(word, source)
                {
                    self.found.push((number, 1 << field));
                }
            });
        }
        lengths
    }

    // The term of a word, a new one if it may be.
    fn number_of(&mut self, word: &str, source: u32) -> Option<u32> {
        let hash = self.hash_key.hash_one(word);
        if let Some(number) = self.numbers.get(&hash).copied() {
            // Two words of one hash do not happen: the key is secret.
            let term = self.terms.get(number as usize)?;
            return (term.word.bytes() == word.as_bytes()).then_some(number);
        }
        if !self.may_bring(source) {
            return None;
        }
        let number = self.terms.len() as u32;
        self.terms.push(Indexed { word: Term::new(word), postings: Postings::none(), source });
        self.numbers.insert(hash, number);
        self.fresh.push(number);
        self.fresh_is_sorted = false;
        *self.brought.entry(source).or_default() += 1;
        Some(number)
    }

    /// Whether a source may bring in a word that no entry had before.
    fn may_bring(&self, source: u32) -> bool {
        let brought = self.brought.get(&source).copied().unwrap_or(0);
        self.terms.len() < MAX_TERMS
            && (brought < RESERVED_TERMS
                || brought < MAX_TERMS_OF_ONE && self.terms.len() < MAX_TERMS - MAX_TERMS / 4)
    }

    /// Removes an entry and says whether it was there.
    pub fn remove(&mut self, id: u32) -> bool {
        let Some(place) = self.slot_of.get_mut(id as usize).filter(|slot| **slot != NOWHERE) else {
            return false;
        };
        let slot = std::mem::replace(place, NOWHERE);
        if let Some(slot) = self.slots.get_mut(slot as usize) {
            slot.id = NOWHERE;
        }
        self.live -= 1;
        let dead = self.slots.len() - self.live;
        if dead >= MIN_DEAD_SLOTS && dead * 4 >= self.slots.len() {
            self.renumber();
        }
        true
    }

    /// The best `limit` entries that have every word of `words`, as a whole word or as the
    /// beginning of one; the best first, equals by descending id.
    pub fn query(&mut self, words: &str, limit: usize) -> Vec<Hit> {
        self.query_where(words, limit, |_| true)
    }

    /// The same, of those ids alone that `keep` says.
    pub fn query_where(&mut self, words: &str, limit: usize, keep: impl Fn(u32) -> bool) -> Vec<Hit> {
        let words = query_words(words);
        if words.is_empty() {
            return Vec::new();
        }
        self.sort();
        let mut live = Bits::new(self.slots.len());
        self.slots.iter().enumerate().filter(|(_, slot)| slot.is_live()).for_each(|(at, _)| live.set(at));
        let mut scores = vec![0.0_f32; self.slots.len()];
        let mut best = scores.clone();
        let mut budget = MAX_POSTINGS;
        // Only entries that had every word so far are weighed for the next one.
        let mut complete = live.clone();
        for word in &words {
            let matching = self.match_word(word, &complete, &mut best, &mut budget);
            let rarity = rarity(self.len(), matching.and(&live).count());
            complete = complete.and(&matching);
            if complete.is_empty() {
                return Vec::new();
            }
            for at in complete.ones() {
                if let (Some(score), Some(best)) = (scores.get_mut(at), best.get_mut(at)) {
                    *score += *best * rarity;
                }
            }
            best.fill(0.0);
        }
        let hit = |at: usize| Some(Hit { id: self.slots.get(at)?.id, score: *scores.get(at)? });
        best_of(complete.ones().filter_map(hit).filter(|hit| keep(hit.id)).collect(), limit)
    }

    /// Ids of entries that have this folded word, whole.
    pub fn with_word(&self, word: &str) -> Vec<u32> {
        let number = self.numbers.get(&self.hash_key.hash_one(word));
        let term = number.and_then(|number| self.terms.get(*number as usize));
        let mut ids = Vec::new();
        if let Some(term) = term.filter(|term| term.word.bytes() == word.as_bytes()) {
            term.postings.for_each(|slot, _| {
                let slot = self.slots.get(slot as usize).filter(|slot| slot.is_live());
                ids.extend(slot.map(|slot| slot.id));
            });
        }
        ids
    }

    // Which slots have this word at all, and how well it matches those of `wanted`.
    fn match_word(&self, word: &str, wanted: &Bits, best: &mut [f32], budget: &mut usize) -> Bits {
        let mut matching = Bits::new(self.slots.len());
        let longer = [&self.sorted, &self.fresh].into_iter().flat_map(|list| self.beginning(list, word));
        let whole = self.numbers.get(&self.hash_key.hash_one(word)).copied();
        for number in whole.into_iter().chain(longer) {
            let Some(term) = self.terms.get(number as usize) else { continue };
            let is_whole = term.word.bytes() == word.as_bytes();
            if is_whole && Some(number) != whole || *budget == 0 {
                continue;
            }
            let factor = if is_whole { 1.0 } else { PREFIX_FACTOR };
            term.postings.for_each(|slot, fields| {
                let at = slot as usize;
                *budget = budget.saturating_sub(1);
                matching.set(at);
                if wanted.has(at)
                    && let (Some(slot), Some(best)) = (self.slots.get(at), best.get_mut(at))
                {
                    *best = best.max(factor * field_weight(fields, &slot.lengths));
                }
            });
        }
        matching
    }

    // The terms of a sorted list that begin with a word.
    fn beginning<'a>(&'a self, list: &'a [u32], word: &'a str) -> impl Iterator<Item = u32> + 'a {
        let bytes = |number: &u32| self.terms.get(*number as usize).map_or(&[][..], |t| t.word.bytes());
        let start = list.partition_point(|number| bytes(number) < word.as_bytes());
        let from = list.get(start..).unwrap_or_default();
        from.iter().take_while(move |number| bytes(number).starts_with(word.as_bytes())).copied()
    }

    // Brings the lists of terms into order. Few new terms have a list of their own, so that an
    // entry more does not cost a sorting of everything.
    fn sort(&mut self) {
        let Self { terms, sorted, fresh, .. } = self;
        let bytes = |number: &u32| terms.get(*number as usize).map_or(&[][..], |t| t.word.bytes());
        if fresh.len() > MIN_FRESH_TERMS.max(sorted.len() / 4) {
            sorted.append(fresh);
            sorted.sort_unstable_by(|a, b| bytes(a).cmp(bytes(b)));
            sorted.shrink_to_fit();
        } else if !self.fresh_is_sorted {
            fresh.sort_unstable_by(|a, b| bytes(a).cmp(bytes(b)));
        }
        self.fresh_is_sorted = true;
    }

    // Drops removed entries everywhere; the order of the others stays.
    fn renumber(&mut self) {
        let mut next = 0;
        let mut numbers = Vec::with_capacity(self.slots.len());
        for slot in &self.slots {
            numbers.push(slot.is_live().then_some(next));
            next += u32::from(slot.is_live());
        }
        let number = |old: u32| numbers.get(old as usize).copied().flatten();
        self.slots.retain(Slot::is_live);
        let places = self.slot_of.iter_mut().filter(|slot| **slot != NOWHERE);
        places.for_each(|slot| *slot = number(*slot).unwrap_or(NOWHERE));
        self.terms.retain_mut(|term| match term.postings.renumbered(number) {
            Some(kept) => {
                term.postings = kept;
                true
            }
            None => false,
        });
        self.number_terms();
    }

    // Terms have new numbers.
    fn number_terms(&mut self) {
        self.terms.shrink_to(2 * self.terms.len());
        (self.sorted, self.fresh_is_sorted) = (Vec::new(), false);
        self.fresh = (0..self.terms.len() as u32).collect();
        self.numbers.clear();
        self.brought.clear();
        for (term, number) in self.terms.iter().zip(0..) {
            // Words are text: their bytes were taken from a `str`.
            if let Ok(word) = std::str::from_utf8(term.word.bytes()) {
                self.numbers.insert(self.hash_key.hash_one(word), number);
            }
            *self.brought.entry(term.source).or_default() += 1;
        }
        self.numbers.shrink_to_fit();
    }
}

/// For keys that are hashes already.
#[derive(Debug, Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

// The first field decides, because its weight is more than any other's whatever their lengths.
fn field_weight(fields: u8, lengths: &[u8; FIELD_COUNT]) -> f32 {
    let first = fields.trailing_zeros() as usize;
    match (FIELD_WEIGHTS.get(first), lengths.get(first)) {
        (Some(weight), Some(length)) => weight * (0.5 + 0.5 / f32::from((*length).max(1))),
        _ => 0.0,
    }
}

// Inverse document frequency of a word that `matching` of `all` entries have.
fn rarity(all: usize, matching: usize) -> f32 {
    (1.0 + all as f32 / matching.max(1) as f32).ln()
}

fn best_of(mut hits: Vec<Hit>, limit: usize) -> Vec<Hit> {
    let order = |a: &Hit, b: &Hit| b.score.total_cmp(&a.score).then(b.id.cmp(&a.id));
    // Sorting only what is wanted keeps a query that matches everything quick.
    if hits.len() > limit {
        hits.select_nth_unstable_by(limit, order);
        hits.truncate(limit);
    }
    hits.sort_unstable_by(order);
    hits
}

fn query_words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    each_word(cut(text, MAX_QUERY_BYTES), |word| {
        if words.len() < MAX_QUERY_WORDS && !words.iter().any(|known| known == word) {
            words.push(word.to_owned());
        }
    });
    // Long words are rare, so the rest has less to weigh.
    words.sort_by_key(|word| std::cmp::Reverse(word.len()));
    words
}
