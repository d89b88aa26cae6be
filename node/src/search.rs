//! Search over the entries that this node has: an inverted index of folded words, in memory only.
//!
//! Invariant: a query reads nothing but this index, so searching touches neither disk nor network,
//! and its work is bounded by the size of the index: the query is cut to 256 bytes and 16 words,
//! and every posting is looked at once at most for each of them. Postings are only ever appended,
//! in the order of their slots; removed entries are skipped until enough have gathered, and then
//! all slots are numbered anew.
//!
//! What may be shown to whom is for the caller, who also keeps the entries themselves.

use kith_crypto::text::{cut, is_invisible};
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use unicode_normalization::UnicodeNormalization as _;
use unicode_normalization::char::canonical_combining_class;

/// Longest query in bytes; the rest is ignored.
pub const MAX_QUERY_BYTES: usize = 256;
/// Most words of a query; the rest is ignored.
pub const MAX_QUERY_WORDS: usize = 16;

const MAX_WORD_BYTES: usize = 48;
const MAX_FIELD_BYTES: usize = 4096;
const MAX_TAGS: usize = 64;
const MAX_DOC_WORDS: usize = 1024;
// A friend who sends entries of invented words must not fill the memory: beyond this, words that
// no entry had before are not searchable.
const MAX_TERMS: usize = 1_000_000;
const MIN_DEAD_SLOTS: usize = 1024;

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
    pub tags: &'a [String],
    /// The direct friend it came through, by the name that the user gave.
    pub via_name: Option<&'a str>,
}

/// An entry that matches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// The id it was inserted with.
    pub id: u64,
    /// How well it matches: more is better; only comparable within one query.
    pub score: f32,
}

/// The index.
#[derive(Debug, Default)]
pub struct Index {
    terms: BTreeMap<Term, Postings>,
    slots: Vec<Slot>,
    slot_of: HashMap<u64, u32>,
}

#[derive(Debug)]
struct Slot {
    id: u64,
    // Words in each field.
    lengths: [u8; FIELD_COUNT],
    live: bool,
}

impl Index {
    /// An empty index.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.slot_of.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.slot_of.is_empty()
    }

    /// Adds an entry, or replaces the one with this id.
    pub fn insert(&mut self, id: u64, doc: Doc<'_>) {
        self.remove(id);
        let Ok(slot) = u32::try_from(self.slots.len()) else { return };
        let words = DocWords::of(doc);
        for (word, fields) in words.sorted {
            if let Some(postings) = self.terms.get_mut(word.as_bytes()) {
                postings.push(slot, fields);
            } else if self.terms.len() < MAX_TERMS {
                self.terms.insert(Term::new(&word), Postings::one(slot, fields));
            }
        }
        self.slots.push(Slot { id, lengths: words.lengths, live: true });
        self.slot_of.insert(id, slot);
    }

    /// Removes an entry and says whether it was there.
    pub fn remove(&mut self, id: u64) -> bool {
        let Some(slot) = self.slot_of.remove(&id) else { return false };
        if let Some(slot) = self.slots.get_mut(slot as usize) {
            slot.live = false;
        }
        let dead = self.slots.len() - self.slot_of.len();
        if dead >= MIN_DEAD_SLOTS && dead * 4 >= self.slots.len() {
            self.renumber();
        }
        true
    }

    /// The best `limit` entries that have every word of `words`, as a whole word or as the
    /// beginning of one; the best first, equals by descending id.
    pub fn query(&self, words: &str, limit: usize) -> Vec<Hit> {
        let words = query_words(words);
        let mut live = Bits::new(self.slots.len());
        self.slots.iter().enumerate().filter(|(_, slot)| slot.live).for_each(|(at, _)| live.set(at));
        let mut scores = vec![0.0_f32; self.slots.len()];
        // Only entries that had every word so far are weighed for the next one.
        let mut complete = live.clone();
        for word in &words {
            let (matching, best) = self.match_word(word, &complete);
            let rarity = rarity(self.len(), matching.and(&live).ones().count());
            complete = complete.and(&matching);
            for at in complete.ones() {
                if let (Some(score), Some(best)) = (scores.get_mut(at), best.get(at)) {
                    *score += best * rarity;
                }
            }
        }
        if words.is_empty() {
            return Vec::new();
        }
        let hit = |at: usize| Some(Hit { id: self.slots.get(at)?.id, score: *scores.get(at)? });
        best_of(complete.ones().filter_map(hit).collect(), limit)
    }

    // Which slots have this word at all, and how well it matches those of `wanted`.
    fn match_word(&self, word: &str, wanted: &Bits) -> (Bits, Vec<f32>) {
        let mut matching = Bits::new(self.slots.len());
        let mut best = vec![0.0_f32; self.slots.len()];
        // No word holds the last character of Unicode, so this ends behind all with the prefix.
        let end = [word.as_bytes(), "\u{10FFFF}".as_bytes()].concat();
        let range = (Bound::Included(word.as_bytes()), Bound::Excluded(end.as_slice()));
        for (term, postings) in self.terms.range::<[u8], _>(range) {
            let factor = if term.bytes().len() == word.len() { 1.0 } else { PREFIX_FACTOR };
            postings.for_each(|slot, fields| {
                let at = slot as usize;
                matching.set(at);
                if wanted.has(at)
                    && let (Some(slot), Some(best)) = (self.slots.get(at), best.get_mut(at))
                {
                    *best = best.max(factor * field_weight(fields, &slot.lengths));
                }
            });
        }
        (matching, best)
    }

    // Drops removed entries everywhere; the order of the others stays.
    fn renumber(&mut self) {
        let mut next = 0;
        let mut numbers = Vec::with_capacity(self.slots.len());
        for slot in &self.slots {
            numbers.push(slot.live.then_some(next));
            next += u32::from(slot.live);
        }
        let number = |old: u32| numbers.get(old as usize).copied().flatten();
        self.slots.retain(|slot| slot.live);
        self.slot_of.values_mut().for_each(|slot| *slot = number(*slot).unwrap_or(u32::MAX));
        self.terms.retain(|_, postings| match postings.renumbered(number) {
            Some(kept) => {
                *postings = kept;
                true
            }
            None => false,
        });
    }
}

// A set of slots: small enough for the nearest cache, which the many look-ups of a query need.
#[derive(Clone)]
struct Bits(Vec<u64>);

impl Bits {
    fn new(len: usize) -> Self {
        Self(vec![0; len.div_ceil(64)])
    }

    fn set(&mut self, at: usize) {
        if let Some(word) = self.0.get_mut(at / 64) {
            *word |= 1 << (at % 64);
        }
    }

    fn has(&self, at: usize) -> bool {
        self.0.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    fn and(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a & b).collect())
    }

    fn ones(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().filter(|(_, word)| **word != 0).flat_map(|(index, word)| {
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| index * 64 + bit)
        })
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

// A word as key: short ones, which most are, need no allocation.
#[derive(Debug)]
enum Term {
    Short { len: u8, bytes: [u8; SHORT_TERM] },
    Long(Box<[u8]>),
}

const SHORT_TERM: usize = 22;

impl Term {
    fn new(word: &str) -> Self {
        let mut bytes = [0; SHORT_TERM];
        match (bytes.get_mut(..word.len()), u8::try_from(word.len())) {
            (Some(start), Ok(len)) => {
                start.copy_from_slice(word.as_bytes());
                Self::Short { len, bytes }
            }
            _ => Self::Long(word.as_bytes().into()),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Short { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Self::Long(bytes) => bytes,
        }
    }
}

impl Borrow<[u8]> for Term {
    fn borrow(&self) -> &[u8] {
        self.bytes()
    }
}

impl Ord for Term {
    fn cmp(&self, other: &Self) -> Ordering {
        self.bytes().cmp(other.bytes())
    }
}

impl PartialOrd for Term {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Term {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Term {}

// Which entries have a word, and in which fields: one LEB128 number for each entry, made of the
// distance to the slot before and four bits for the fields. Most words are rare and need no
// allocation.
#[derive(Debug)]
enum Postings {
    Few { len: u8, bytes: [u8; FEW_BYTES] },
    Many(Box<Packed>),
}

const FEW_BYTES: usize = 14;

#[derive(Debug)]
struct Packed {
    last: u32,
    bytes: Vec<u8>,
}

impl Postings {
    fn one(slot: u32, fields: u8) -> Self {
        let mut postings = Self::Few { len: 0, bytes: [0; FEW_BYTES] };
        postings.push(slot, fields);
        postings
    }

    // Slots come in ascending order.
    fn push(&mut self, slot: u32, fields: u8) {
        let (number, number_len) = encode(slot.wrapping_sub(self.last()), fields);
        let number = number.get(..number_len).unwrap_or_default();
        match self {
            Self::Few { len, bytes } => {
                let end = usize::from(*len) + number_len;
                if let Some(free) = bytes.get_mut(usize::from(*len)..end) {
                    free.copy_from_slice(number);
                    *len = end as u8;
                } else {
                    let bytes = [self.bytes(), number].concat();
                    *self = Self::Many(Box::new(Packed { last: slot, bytes }));
                }
            }
            Self::Many(packed) => {
                if packed.bytes.capacity() - packed.bytes.len() < number_len {
                    // Less than doubling: the postings are most of the memory.
                    packed.bytes.reserve_exact(number_len + 8 + packed.bytes.len() / 8);
                }
                packed.bytes.extend_from_slice(number);
                packed.last = slot;
            }
        }
    }

    fn last(&self) -> u32 {
        let mut last = 0;
        match self {
            Self::Few { .. } => self.for_each(|slot, _| last = slot),
            Self::Many(packed) => last = packed.last,
        }
        last
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Few { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Self::Many(packed) => &packed.bytes,
        }
    }

    fn for_each(&self, mut visit: impl FnMut(u32, u8)) {
        let (mut slot, mut value, mut shift) = (0_u32, 0_u64, 0_u32);
        for byte in self.bytes() {
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 != 0 {
                shift += 7;
                continue;
            }
            slot = slot.wrapping_add((value >> FIELD_COUNT) as u32);
            visit(slot, value as u8 & 0xf);
            (value, shift) = (0, 0);
        }
    }

    fn renumbered(&self, number: impl Fn(u32) -> Option<u32>) -> Option<Self> {
        let mut kept: Option<Self> = None;
        self.for_each(|slot, fields| {
            let Some(slot) = number(slot) else { return };
            match &mut kept {
                Some(postings) => postings.push(slot, fields),
                None => kept = Some(Self::one(slot, fields)),
            }
        });
        kept
    }
}

// 36 bits fill six bytes of LEB128 at most.
fn encode(distance: u32, fields: u8) -> ([u8; 6], usize) {
    let mut value = u64::from(distance) << FIELD_COUNT | u64::from(fields);
    let mut bytes = [0; 6];
    let mut len = 0;
    for byte in &mut bytes {
        len += 1;
        *byte = value as u8 & 0x7f;
        value >>= 7;
        if value == 0 {
            break;
        }
        *byte |= 0x80;
    }
    (bytes, len)
}

// The words of an entry, each once with all its fields.
struct DocWords {
    sorted: Vec<(String, u8)>,
    lengths: [u8; FIELD_COUNT],
}

impl DocWords {
    fn of(doc: Doc<'_>) -> Self {
        let mut words: Vec<(String, u8)> = Vec::new();
        let mut lengths = [0_u8; FIELD_COUNT];
        for ((bit, length), texts) in lengths.iter_mut().enumerate().zip(fields(doc)) {
            let mut add = |word: &str| {
                *length = length.saturating_add(1);
                if words.len() < MAX_DOC_WORDS {
                    words.push((word.to_owned(), 1 << bit));
                }
            };
            texts.into_iter().for_each(|text| each_word(cut(text, MAX_FIELD_BYTES), &mut add));
        }
        words.sort_unstable();
        words.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            kept.1 |= if same { later.1 } else { 0 };
            same
        });
        Self { sorted: words, lengths }
    }
}

// The texts of each field, in the order of the weights.
fn fields(doc: Doc<'_>) -> [Vec<&str>; FIELD_COUNT] {
    let tags = doc.tags.iter().take(MAX_TAGS).map(|tag| cut(tag, MAX_FIELD_BYTES / MAX_TAGS)).collect();
    [vec![doc.title], tags, vec![doc.text], doc.via_name.into_iter().collect()]
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

// Words are runs of letters and digits, cut where they are absurdly long. Scripts that put no
// spaces between words are taken letter by letter.
fn each_word(text: &str, mut emit: impl FnMut(&str)) {
    let mut word = String::new();
    let mut end = |word: &mut String| {
        if !word.is_empty() {
            emit(word);
            word.clear();
        }
    };
    for c in folded(text) {
        let alone = stands_alone(c);
        if alone || !c.is_alphanumeric() {
            end(&mut word);
        }
        if c.is_alphanumeric() && word.len() + c.len_utf8() <= MAX_WORD_BYTES {
            word.push(c);
        }
        if alone {
            end(&mut word);
        }
    }
    end(&mut word);
}

// Kana and Han.
fn stands_alone(c: char) -> bool {
    matches!(c, '\u{3041}'..='\u{30FF}' | '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}'
        | '\u{F900}'..='\u{FAFF}' | '\u{20000}'..='\u{3FFFF}')
}

// Case, accents and presentation forms make no difference. Marks of class 0 stay, because in Indic
// scripts they are the vowels.
fn folded(text: &str) -> impl Iterator<Item = char> {
    text.chars()
        .filter(|c| !is_invisible(*c))
        .nfkd()
        .flat_map(char::to_lowercase)
        .filter(|c| c.is_ascii() || canonical_combining_class(*c) == 0)
        .flat_map(|c| {
            let (first, second) = plain_letters(c);
            std::iter::once(first).chain(second)
        })
}

// Letters that Unicode does not decompose although people search them without their stroke.
fn plain_letters(c: char) -> (char, Option<char>) {
    match c {
        'ß' => ('s', Some('s')),
        'æ' => ('a', Some('e')),
        'œ' => ('o', Some('e')),
        'þ' => ('t', Some('h')),
        'ø' => ('o', None),
        'đ' | 'ð' => ('d', None),
        'ł' => ('l', None),
        'ħ' => ('h', None),
        'ŧ' => ('t', None),
        'ı' => ('i', None),
        'ς' => ('σ', None),
        other => (other, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(text: &str) -> Vec<String> {
        let mut out = Vec::new();
        each_word(text, |word| out.push(word.to_owned()));
        out
    }

    fn title(title: &str) -> Doc<'_> {
        Doc { title, ..Doc::default() }
    }

    fn ids(index: &Index, query: &str) -> Vec<u64> {
        index.query(query, 100).into_iter().map(|hit| hit.id).collect()
    }

    #[test]
    fn folding() {
        let cases = [
            ("Straße ÆON Œuvre", "strasse aeon oeuvre"),
            ("Øresund Đà Łódź ISTANBUL İstanbul ılık", "oresund da lodz istanbul istanbul ilik"),
            ("Zoe\u{308} Zoë ZOË", "zoe zoe zoe"),
            ("ﬁlm Ｆｕｌｌ ²", "film full 2"),
            ("ΟΔΟΣ οδός", "οδοσ οδοσ"),
            ("soft\u{AD}hy\u{200B}phen", "softhyphen"),
            ("a_b-c.d'e 4k2024", "a b c d e 4k2024"),
            ("हिन्दी", "हिनदी"),
            ("動物園 ガ", "動 物 園 カ"),
            ("\u{202E}<script>", "script"),
            ("🐘 !?", ""),
        ];
        for (text, want) in cases {
            assert_eq!(words(text).join(" "), want, "{text}");
        }
        assert_eq!(words(&"x".repeat(999)), ["x".repeat(MAX_WORD_BYTES)]);
    }

    #[test]
    fn words_prefixes_and_fields_rank() {
        let mut index = Index::new();
        let tags = ["zoo".to_owned()];
        index.insert(1, Doc { text: "a day at the zoo", ..Doc::default() });
        index.insert(2, Doc { title: "other", tags: &tags, ..Doc::default() });
        index.insert(3, title("Zoo"));
        index.insert(4, title("Zoo with many more words"));
        index.insert(5, title("Zoologist"));
        index.insert(6, Doc { title: "none", via_name: Some("Zoo"), ..Doc::default() });
        assert_eq!(ids(&index, "ZOO"), [3, 4, 5, 2, 1, 6]);
        assert_eq!(ids(&index, "zool"), [5]);
        assert_eq!(ids(&index, "zoo day"), [1]);
        assert!(ids(&index, "zoo nothing").is_empty());
        assert_eq!(index.query("zoo", 2).len(), 2);
        assert_eq!(index.query("zoo", 0), []);
        assert!(ids(&index, " \"!\" ").is_empty());
    }

    #[test]
    fn rare_words_weigh_more_and_equals_go_by_id() {
        let mut index = Index::new();
        (0..9).for_each(|id| index.insert(id, title("common")));
        assert_eq!(ids(&index, "com"), [8, 7, 6, 5, 4, 3, 2, 1, 0]);
        index.insert(20, Doc { title: "common", text: "rare", ..Doc::default() });
        index.insert(10, Doc { title: "rare", text: "common", ..Doc::default() });
        assert_eq!(ids(&index, "rare common"), [10, 20]);
    }

    #[test]
    fn inserting_again_replaces_and_removing_forgets() {
        let mut index = Index::new();
        index.insert(1, title("old"));
        index.insert(1, title("new"));
        assert_eq!((ids(&index, "old"), ids(&index, "new")), (vec![], vec![1]));
        assert_eq!(index.len(), 1);
        assert!(index.remove(1) && !index.remove(1));
        assert!(index.is_empty() && ids(&index, "new").is_empty());
    }

    #[test]
    fn queries_are_bounded() {
        let mut index = Index::new();
        let many: Vec<String> = (0..40).map(|n| format!("w{n}")).collect();
        index.insert(1, title(&many[..MAX_QUERY_WORDS].join(" ")));
        assert_eq!(ids(&index, &many.join(" ")), [1]);
        index.insert(2, title(&"y".repeat(MAX_WORD_BYTES)));
        assert_eq!(ids(&index, &"y".repeat(1 << 20)), [2]);
        index.insert(3, title(&"\u{FDFA} \u{301}".repeat(99_999)));
        assert!(ids(&index, &"\u{301}".repeat(99_999)).is_empty());
    }

    #[test]
    fn removed_slots_are_used_again() {
        let mut index = Index::new();
        for id in 0..50_000 {
            index.insert(id % 100, title(&format!("film n{id}")));
        }
        assert_eq!(index.len(), 100);
        assert!(index.slots.len() <= 100 + MIN_DEAD_SLOTS && index.terms.len() <= 102 + MIN_DEAD_SLOTS);
        assert_eq!(ids(&index, "film").len(), 100);
        assert_eq!(ids(&index, "n49999"), [99]);
        assert!(ids(&index, "n49899").is_empty());
    }

    // The model looks at every word of every entry.
    #[derive(Default)]
    struct Model(BTreeMap<u64, [Vec<String>; FIELD_COUNT]>);

    impl Model {
        fn insert(&mut self, id: u64, doc: Doc<'_>) {
            self.0.insert(id, fields(doc).map(|texts| texts.into_iter().flat_map(words).collect()));
        }

        fn weight(doc: &[Vec<String>; FIELD_COUNT], wanted: &str) -> Option<f32> {
            let mut best = None;
            for (field, weight) in doc.iter().zip(FIELD_WEIGHTS) {
                let full = weight * (0.5 + 0.5 / field.len().min(255) as f32);
                for word in field.iter().filter(|word| word.starts_with(wanted)) {
                    let score = if word == wanted { full } else { full * 0.5 };
                    best = Some(score.max(best.unwrap_or(0.0)));
                }
            }
            best
        }

        fn query(&self, text: &str, limit: usize) -> Vec<Hit> {
            let mut wanted = words(text);
            let mut seen = std::collections::HashSet::new();
            wanted.retain(|word| seen.insert(word.clone()));
            // The order of adding, which decides how sums are rounded.
            wanted.sort_by_key(|word| std::cmp::Reverse(word.len()));
            let mut hits: Vec<Hit> = self.0.keys().map(|id| Hit { id: *id, score: 0.0 }).collect();
            for word in &wanted {
                let weights: BTreeMap<u64, f32> =
                    self.0.iter().filter_map(|(id, doc)| Some((*id, Self::weight(doc, word)?))).collect();
                let rarity = (1.0 + self.0.len() as f32 / weights.len().max(1) as f32).ln();
                hits.retain(|hit| weights.contains_key(&hit.id));
                hits.iter_mut().for_each(|hit| hit.score += weights[&hit.id] * rarity);
            }
            hits.sort_by(|a, b| b.score.total_cmp(&a.score).then(b.id.cmp(&a.id)));
            hits.truncate(if wanted.is_empty() { 0 } else { limit });
            hits
        }
    }

    struct Dice(u64);

    impl Dice {
        fn below(&mut self, end: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % end
        }

        // Few words are common, most are rare.
        fn word(&mut self) -> String {
            let end = 1 + self.below(5_000);
            format!("{:x}", (self.below(end) + 10).wrapping_mul(2_654_435_761) % 1_000_003)
        }

        fn words(&mut self, count: u64) -> String {
            (0..count).map(|_| self.word()).collect::<Vec<_>>().join(" ")
        }
    }

    #[test]
    fn twenty_thousand_entries_agree_with_a_naive_scan() {
        let mut dice = Dice(7);
        let (mut index, mut model) = (Index::new(), Model::default());
        for step in 0..20_000_u64 {
            let id = if step % 5 == 0 { dice.below(20_000) } else { step };
            let (title, text) = (dice.words(4), dice.words(14));
            let tags = [dice.word(), dice.word()];
            let doc = Doc { title: &title, text: &text, tags: &tags, via_name: Some("Ana") };
            index.insert(id, doc);
            model.insert(id, doc);
            let gone = dice.below(40_000);
            assert_eq!(index.remove(gone), model.0.remove(&gone).is_some());
        }
        assert_eq!(index.len(), model.0.len());
        for round in 0..40 {
            let mut query = dice.words(1 + round % 3);
            query.truncate(query.len() - (round as usize / 3) % 3);
            assert_eq!(index.query(&query, 50), model.query(&query, 50), "{query:?}");
        }
        assert_eq!(index.query("an", 20_000), model.query("an", 20_000));
    }

    const TEXT: &str = "([aàbBßøc動]{1,3}[ _-]?){0,5}";

    proptest! {
        #[test]
        fn any_history_agrees_with_a_naive_scan(
            steps in proptest::collection::vec((0_u64..12, TEXT, TEXT, TEXT, any::<bool>()), 0..40),
            queries in proptest::collection::vec(TEXT, 1..6),
            renumber_at in 0_usize..40,
        ) {
            let (mut index, mut model) = (Index::new(), Model::default());
            for (step, (id, title, text, tag, remove)) in steps.iter().enumerate() {
                let tags = [tag.clone()];
                let doc = Doc { title, text, tags: &tags, via_name: None };
                if *remove {
                    prop_assert_eq!(index.remove(*id), model.0.remove(id).is_some());
                } else {
                    index.insert(*id, doc);
                    model.insert(*id, doc);
                }
                if step == renumber_at {
                    index.renumber();
                }
            }
            for query in &queries {
                prop_assert_eq!(index.query(query, 5), model.query(query, 5), "{:?}", query);
            }
        }

        #[test]
        fn any_text_is_survived(texts in proptest::collection::vec(any::<String>(), 3), query in any::<String>()) {
            let mut index = Index::new();
            index.insert(1, Doc { title: &texts[0], text: &texts[1], tags: &texts[2..], via_name: None });
            index.query(&query, 3);
            if let Some(word) = words(&texts[0]).first() {
                prop_assert_eq!(ids(&index, word), [1]);
            }
        }

        #[test]
        fn packed_postings_read_back(mut slots in proptest::collection::btree_map(any::<u32>(), 1_u8..16, 1..40)) {
            let (first, fields) = slots.pop_first().expect("one at least");
            let mut postings = Postings::one(first, fields);
            slots.iter().for_each(|(slot, fields)| postings.push(*slot, *fields));
            slots.insert(first, fields);
            let mut read = BTreeMap::new();
            postings.for_each(|slot, fields| { read.insert(slot, fields); });
            prop_assert_eq!(read, slots);
        }
    }
}
