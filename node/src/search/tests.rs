//! The index next to a model that looks at every word of every entry.

use super::fold::{MAX_WORD_BYTES, each_word};
use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn words(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    each_word(text, |word| out.push(word.to_owned()));
    out
}

fn title(title: &str) -> Doc<'_> {
    Doc { title, ..Doc::default() }
}

fn ids(index: &mut Index, query: &str) -> Vec<u32> {
    index.query(query, 100).into_iter().map(|hit| hit.id).collect()
}

#[test]
fn words_prefixes_and_fields_rank() {
    let mut index = Index::new();
    let tags = ["zoo"];
    index.insert(1, Doc { text: "a day at the zoo", ..Doc::default() });
    index.insert(2, Doc { title: "other", tags: &tags, ..Doc::default() });
    index.insert(3, title("Zoo"));
    index.insert(4, title("Zoo with many more words"));
    index.insert(5, title("Zoologist"));
    index.insert(6, Doc { title: "none", via_name: Some("Zoo"), ..Doc::default() });
    assert_eq!(ids(&mut index, "ZOO"), [3, 4, 5, 2, 1, 6]);
    assert_eq!(ids(&mut index, "zool"), [5]);
    assert_eq!(ids(&mut index, "zoo day"), [1]);
    assert!(ids(&mut index, "zoo nothing").is_empty());
    assert_eq!(index.query("zoo", 2).len(), 2);
    assert_eq!(index.query("zoo", 0), []);
    assert!(ids(&mut index, " \"!\" ").is_empty());
}

#[test]
fn rare_words_weigh_more_and_equals_go_by_id() {
    let mut index = Index::new();
    (0..9).for_each(|id| index.insert(id, title("common")));
    assert_eq!(ids(&mut index, "com"), [8, 7, 6, 5, 4, 3, 2, 1, 0]);
    index.insert(20, Doc { title: "common", text: "rare", ..Doc::default() });
    index.insert(10, Doc { title: "rare", text: "common", ..Doc::default() });
    assert_eq!(ids(&mut index, "rare common"), [10, 20]);
}

#[test]
fn inserting_again_replaces_and_removing_forgets() {
    let mut index = Index::new();
    index.insert(1, title("old"));
    index.insert(1, title("new"));
    assert_eq!((ids(&mut index, "old"), ids(&mut index, "new")), (vec![], vec![1]));
    assert_eq!(index.len(), 1);
    assert!(index.remove(1) && !index.remove(1));
    assert!(index.is_empty() && ids(&mut index, "new").is_empty());
}

#[test]
fn queries_are_bounded() {
    let mut index = Index::new();
    let many: Vec<String> = (0..40).map(|n| format!("w{n}")).collect();
    index.insert(1, title(&many[..MAX_QUERY_WORDS].join(" ")));
    assert_eq!(ids(&mut index, &many.join(" ")), [1]);
    index.insert(2, title(&"y".repeat(MAX_WORD_BYTES)));
    assert_eq!(ids(&mut index, &"y".repeat(1 << 20)), [2]);
    index.insert(3, title(&"\u{FDFA} \u{301}".repeat(99_999)));
    assert!(ids(&mut index, &"\u{301}".repeat(99_999)).is_empty());
}

#[test]
fn removed_slots_are_used_again() {
    let mut index = Index::new();
    for id in 0..50_000 {
        index.insert(id % 100, title(&format!("film n{id}")));
    }
    assert_eq!(index.len(), 100);
    assert!(index.slots.len() <= 100 + MIN_DEAD_SLOTS && index.terms.len() <= 102 + MIN_DEAD_SLOTS);
    assert_eq!(ids(&mut index, "film").len(), 100);
    assert_eq!(ids(&mut index, "n49999"), [99]);
    assert!(ids(&mut index, "n49899").is_empty());
}

#[test]
fn a_query_of_death_looks_at_so_much_and_no_more() {
    let mut index = Index::new();
    // Every entry has every letter, so no query is over early.
    let letters: String = ('a'..='z').map(|c| format!("{c}{c} ")).collect();
    (0..30_000).for_each(|id| index.insert(id, title(&letters)));
    let query: String = ('a'..='p').map(|c| format!("{c} ")).collect();
    let mut looked = 0;
    let mut budget = usize::MAX;
    for word in query.split_whitespace() {
        let all = Bits::new(0);
        index.sort();
        index.match_word(word, &all, &mut [], &mut budget);
        looked = usize::MAX - budget;
    }
    assert_eq!(looked, 16 * 30_000, "without the limit all would be looked at");
    assert!(index.query(&query, 10).len() == 10, "what fits the limit is found");
    // Beyond the limit nothing is looked at, and the answer is the same each time.
    let mut left = 40_000;
    for word in ["a", "b", "c"] {
        index.match_word(word, &Bits::new(0), &mut [], &mut left);
    }
    assert_eq!(left, 0);
    assert_eq!(index.query(&query, 10), index.query(&query, 10));
}

#[test]
fn invented_words_take_no_others_place() {
    let mut index = Index::new();
    let mut id = 0;
    let mut invent = |index: &mut Index, source: u32, entries: u32| {
        for _ in 0..entries {
            id += 1;
            let words: Vec<String> = (0..100).map(|n| format!("x{source}q{id}q{n}")).collect();
            index.insert(id, Doc { title: &words.join(" "), source, ..Doc::default() });
        }
    };
    // One friend fills its own share, fifteen together what is not reserved.
    invent(&mut index, 1, 1000);
    assert_eq!(index.terms.len(), MAX_TERMS_OF_ONE as usize);
    (2..16).for_each(|source| invent(&mut index, source, 600));
    assert!(index.terms.len() <= MAX_TERMS - MAX_TERMS / 4 + 16 * RESERVED_TERMS as usize);
    // Another one's words are found nevertheless.
    index.insert(0, Doc { title: "honest otters", source: 99, ..Doc::default() });
    assert_eq!(ids(&mut index, "otters"), [0]);
    // With the entries their words go.
    assert!((1..=id).all(|id| index.remove(id)));
    index.renumber();
    assert_eq!((index.terms.len(), index.len()), (2, 1));
    assert_eq!(ids(&mut index, "honest"), [0]);
}

// The model looks at every word of every entry.
#[derive(Default)]
struct Model(BTreeMap<u32, [Vec<String>; FIELD_COUNT]>);

impl Model {
    fn insert(&mut self, id: u32, doc: Doc<'_>) {
        let all = |texts: &[&str]| texts.iter().flat_map(|text| words(text)).collect::<Vec<_>>();
        let via = doc.via_name.unwrap_or_default();
        self.0.insert(id, [all(&[doc.title]), all(doc.tags), all(&[doc.text]), all(&[via])]);
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
            let weights: BTreeMap<u32, f32> =
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
    for step in 0..20_000_u32 {
        let id = if step % 5 == 0 { dice.below(20_000) as u32 } else { step };
        let (title, text) = (dice.words(4), dice.words(14));
        let tags = [dice.word(), dice.word()];
        let tags = tags.each_ref().map(String::as_str);
        let doc = Doc { title: &title, text: &text, tags: &tags, via_name: Some("Ana"), source: 0 };
        index.insert(id, doc);
        model.insert(id, doc);
        let gone = dice.below(40_000) as u32;
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
        steps in proptest::collection::vec((0_u32..12, TEXT, TEXT, TEXT, any::<bool>()), 0..40),
        queries in proptest::collection::vec(TEXT, 1..6),
        renumber_at in 0_usize..40,
    ) {
        let (mut index, mut model) = (Index::new(), Model::default());
        for (step, (id, title, text, tag, remove)) in steps.iter().enumerate() {
            let tags = [tag.as_str()];
            let doc = Doc { title, text, tags: &tags, ..Doc::default() };
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
        let tags = [texts[2].as_str()];
        index.insert(1, Doc { title: &texts[0], text: &texts[1], tags: &tags, ..Doc::default() });
        index.query(&query, 3);
        if let Some(word) = words(&texts[0]).first() {
            prop_assert_eq!(ids(&mut index, word), [1]);
        }
    }
}
