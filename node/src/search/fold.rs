//! Words of a text as search compares them: case, accents and presentation forms make no difference.

use kith_crypto::text::{cut, is_invisible};
use unicode_normalization::UnicodeNormalization as _;
use unicode_normalization::char::canonical_combining_class;

/// Longer words are cut.
pub(super) const MAX_WORD_BYTES: usize = 48;

// Words are runs of letters and digits, cut where they are absurdly long. Scripts that put no
// spaces between words are taken letter by letter.
pub(super) fn each_word(text: &str, mut emit: impl FnMut(&str)) {
    let mut word = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        // Most text is plain, and no plain letter changes with what stands around it.
        let plain = rest.bytes().position(|b| !b.is_ascii()).unwrap_or(rest.len());
        let (ascii, tail) = rest.split_at(plain);
        put_plain(ascii, &mut word, &mut emit);
        let other = tail.bytes().position(|b| b.is_ascii()).unwrap_or(tail.len());
        let (other, tail) = tail.split_at(other);
        folded(other).for_each(|c| put(c, &mut word, &mut emit));
        rest = tail;
    }
    end(&mut word, &mut emit);
}

// ASCII text, a word at a time. The last word may go on with what follows the text.
fn put_plain(text: &str, word: &mut String, emit: &mut impl FnMut(&str)) {
    for (nth, run) in text.split(|c: char| !c.is_ascii_alphanumeric()).enumerate() {
        if nth > 0 {
            end(word, emit);
        }
        let run = cut(run, MAX_WORD_BYTES.saturating_sub(word.len()));
        let before = word.len();
        word.push_str(run);
        if let Some(new) = word.get_mut(before..) {
            new.make_ascii_lowercase();
        }
    }
}

fn put(c: char, word: &mut String, emit: &mut impl FnMut(&str)) {
    let alone = stands_alone(c);
    if alone || !c.is_alphanumeric() {
        end(word, emit);
    }
    if c.is_alphanumeric() && word.len() + c.len_utf8() <= MAX_WORD_BYTES {
        word.push(c);
    }
    if alone {
        end(word, emit);
    }
}

fn end(word: &mut String, emit: &mut impl FnMut(&str)) {
    if !word.is_empty() {
        emit(word);
        word.clear();
    }
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

    proptest! {
        #[test]
        fn plain_runs_fold_like_the_whole(text in "([a-zA-Z0-9 ._\u{7f}\u{1}]|[àÉßøΣςक\u{308}\u{301}動ガ\u{AD}²ﬁİ]){0,40}") {
            let mut whole = Vec::new();
            let mut word = String::new();
            folded(&text).for_each(|c| put(c, &mut word, &mut |w| whole.push(w.to_owned())));
            end(&mut word, &mut |w: &str| whole.push(w.to_owned()));
            prop_assert_eq!(words(&text), whole);
        }
    }
}
