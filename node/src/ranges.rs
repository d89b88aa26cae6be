//! Which part of a video a player asks for: the `Range` header of RFC 9110 section 14.
//!
//! Invariant: a part lies within the file and is never empty. What cannot be understood is
//! ignored, as the RFC wants, so that 416 is said only where every well-formed range lies outside.
//! One part is served at most: several ranges that do not form one are answered with the whole,
//! which costs no memory however many there are (a flood of small ranges is an old attack).

/// Most ranges in one header; more are ignored as section 14.2 allows.
const MAX_RANGES: usize = 64;

/// What to send for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeAnswer {
    /// All of it, with status 200.
    Whole,
    /// One part, with status 206.
    Part {
        /// First byte.
        start: u64,
        /// Last byte, included; at least `start` and less than the length.
        end_inclusive: u64,
    },
    /// Nothing, with status 416 and the length in `Content-Range`.
    Unsatisfiable,
}

/// Reads a `Range` header for a file of `len` bytes.
///
/// `if_range_matches` is true if there is no `If-Range` or if it holds the current ETag.
/// On an empty file a suffix is answered with the whole (RFC 9110 section 14.1.2 counts it as
/// satisfiable), every other range is unsatisfiable.
pub fn parse(header: Option<&str>, if_range_matches: bool, len: u64) -> RangeAnswer {
    let Some(header) = header.filter(|_| if_range_matches) else {
        return RangeAnswer::Whole;
    };
    let Some(specs) = specs(header) else {
        return RangeAnswer::Whole;
    };
    // A part of an empty file cannot be written in `Content-Range`.
    if len == 0 && specs.iter().any(|spec| matches!(spec, Spec::Last(1..))) {
        return RangeAnswer::Whole;
    }
    let mut parts: Vec<(u64, u64)> = specs.iter().filter_map(|spec| spec.within(len)).collect();
    parts.sort_unstable();
    merged(&parts)
}

// Sorted parts, joined to one where they overlap or touch.
fn merged(parts: &[(u64, u64)]) -> RangeAnswer {
    let Some(((start, first_end), others)) = parts.split_first() else {
        return RangeAnswer::Unsatisfiable;
    };
    let mut end_inclusive = *first_end;
    for (next, next_end) in others {
        if *next > end_inclusive.saturating_add(1) {
            return RangeAnswer::Whole;
        }
        end_inclusive = end_inclusive.max(*next_end);
    }
    RangeAnswer::Part { start: *start, end_inclusive }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spec {
    // `a-b`
    Between(u64, u64),
    // `a-`
    From(u64),
    // `-n`
    Last(u64),
}

impl Spec {
    // First and last byte, if there is any in a file of `len` bytes.
    fn within(self, len: u64) -> Option<(u64, u64)> {
        let last = len.checked_sub(1)?;
        let (start, end) = match self {
            Self::Between(start, end) => (start, end.min(last)),
            Self::From(start) => (start, last),
            Self::Last(0) => return None,
            Self::Last(count) => (len.saturating_sub(count), last),
        };
        (start <= last).then_some((start, end))
    }
}

// The ranges of a header, or `None` if it is malformed, too long or counts in another unit.
fn specs(header: &str) -> Option<Vec<Spec>> {
    let (unit, set) = header.trim_matches(is_blank).split_once('=')?;
    // Units are case-insensitive (section 14.1).
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let mut specs = Vec::new();
    // Empty elements of a list are to be skipped (section 5.6.1.2).
    for text in set.split(',').map(|text| text.trim_matches(is_blank)).filter(|text| !text.is_empty()) {
        if specs.len() == MAX_RANGES {
            return None;
        }
        specs.push(spec(text)?);
    }
    (!specs.is_empty()).then_some(specs)
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t')
}

fn spec(text: &str) -> Option<Spec> {
    let (first, last) = text.split_once('-')?;
    match (first, last) {
        ("", count) => Some(Spec::Last(number(count)?)),
        (start, "") => Some(Spec::From(number(start)?)),
        (start, end) => {
            let (start, end) = (number(start)?, number(end)?);
            (start <= end).then_some(Spec::Between(start, end))
        }
    }
}

// Digits only. The grammar has no largest number: what does not fit lies behind every end.
fn number(digits: &str) -> Option<u64> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::RangeAnswer::{Part, Unsatisfiable, Whole};
    use super::*;
    use proptest::prelude::*;

    fn part(start: u64, end_inclusive: u64) -> RangeAnswer {
        Part { start, end_inclusive }
    }

    #[test]
    fn the_cases_of_the_rfc() {
        let cases = [
            ("bytes=0-499", part(0, 499)),
            ("bytes=500-999", part(500, 999)),
            ("bytes=-500", part(9_500, 9_999)),
            ("bytes=9500-", part(9_500, 9_999)),
            ("bytes=0-0,-1", Whole),
            ("bytes= 0-0, 1-2", part(0, 2)),
            ("bytes=500-700,601-999", part(500, 999)),
            ("bytes=601-999,500-600", part(500, 999)),
            ("bytes=0-10,12-20", Whole),
            ("bytes=0-", part(0, 9_999)),
            ("bytes=0-99999999", part(0, 9_999)),
            ("bytes=-99999999", part(0, 9_999)),
            ("bytes=9999-", part(9_999, 9_999)),
            ("BYTES=1-2", part(1, 2)),
            ("bytes=,, 1-2 ,", part(1, 2)),
            ("bytes=0-18446744073709551616", part(0, 9_999)),
            ("bytes=007-008", part(7, 8)),
            // Out of reach, and only that.
            ("bytes=10000-", Unsatisfiable),
            ("bytes=10000-10001,20000-", Unsatisfiable),
            ("bytes=99999999999999999999-", Unsatisfiable),
            ("bytes=-0", Unsatisfiable),
            ("bytes=10000-,5-6", part(5, 6)),
            ("bytes=-0,5-6", part(5, 6)),
            // Ignored.
            ("bytes=2-1", Whole),
            ("bytes=20000-10000", Whole),
            ("bytes=5-6,2-1", Whole),
            ("bytes=-", Whole),
            ("bytes=", Whole),
            ("bytes=,", Whole),
            ("bytes", Whole),
            ("", Whole),
            ("seconds=1-2", Whole),
            ("bytes =1-2", Whole),
            ("bytes=1 - 2", Whole),
            ("bytes=+1-2", Whole),
            ("bytes=1-2-3", Whole),
            ("bytes=--1", Whole),
            ("bytes=0x1-2", Whole),
            ("bytes=１-2", Whole),
            ("bytes=1-2;3-4", Whole),
        ];
        for (header, want) in cases {
            assert_eq!(parse(Some(header), true, 10_000), want, "{header:?}");
        }
    }

    #[test]
    fn no_header_and_a_stale_if_range_mean_the_whole() {
        assert_eq!(parse(None, true, 10), Whole);
        assert_eq!(parse(Some("bytes=0-1"), false, 10), Whole);
        assert_eq!(parse(Some("bytes=99-"), false, 10), Whole);
    }

    #[test]
    fn an_empty_file_has_no_parts() {
        assert_eq!(parse(None, true, 0), Whole);
        assert_eq!(parse(Some("bytes=-5"), true, 0), Whole);
        assert_eq!(parse(Some("bytes=0-"), true, 0), Unsatisfiable);
        assert_eq!(parse(Some("bytes=0-0"), true, 0), Unsatisfiable);
        assert_eq!(parse(Some("bytes=-0"), true, 0), Unsatisfiable);
    }

    #[test]
    fn floods_are_ignored() {
        let many = |count: usize| format!("bytes={}", vec!["0-5"; count].join(","));
        assert_eq!(parse(Some(&many(MAX_RANGES)), true, 10), part(0, 5));
        assert_eq!(parse(Some(&many(MAX_RANGES + 1)), true, 10), Whole);
        assert_eq!(parse(Some(&many(10_000)), true, 10), Whole);
    }

    #[test]
    fn the_largest_file() {
        assert_eq!(
            parse(Some("bytes=18446744073709551614-"), true, u64::MAX),
            part(u64::MAX - 1, u64::MAX - 1)
        );
        assert_eq!(parse(Some("bytes=0-,0-"), true, u64::MAX), part(0, u64::MAX - 1));
    }

    // The model marks single bytes of a small file.
    fn model(specs: &[(Option<u64>, Option<u64>)], len: u64) -> RangeAnswer {
        let mut wanted = vec![false; len as usize];
        let mut satisfiable = false;
        for spec in specs {
            for at in 0..len {
                let hit = match *spec {
                    (Some(a), Some(b)) => a <= at && at <= b,
                    (Some(a), None) => a <= at,
                    (None, Some(n)) => at + n >= len,
                    (None, None) => return Whole,
                };
                wanted[at as usize] |= hit;
            }
            satisfiable |= match *spec {
                (Some(a), Some(b)) if a > b => return Whole,
                (Some(a), _) => a < len,
                (None, Some(n)) => n > 0,
                (None, None) => return Whole,
            };
        }
        let first = wanted.iter().position(|w| *w);
        let last = wanted.iter().rposition(|w| *w);
        match (first, last) {
            _ if specs.is_empty() => Whole,
            (Some(a), Some(b)) if wanted[a..=b].iter().all(|w| *w) => part(a as u64, b as u64),
            (Some(_), Some(_)) => Whole,
            _ if satisfiable => Whole,
            _ => Unsatisfiable,
        }
    }

    fn number_near(len: u64) -> impl Strategy<Value = Option<u64>> {
        proptest::option::weighted(0.7, 0..len + 4)
    }

    proptest! {
        #[test]
        fn agrees_with_the_model(
            (len, specs) in (0_u64..24).prop_flat_map(|len| {
                (Just(len), proptest::collection::vec((number_near(len), number_near(len)), 0..6))
            })
        ) {
            let text = |n: Option<u64>| n.map(|n| n.to_string()).unwrap_or_default();
            let list: Vec<String> = specs.iter().map(|(a, b)| format!("{}-{}", text(*a), text(*b))).collect();
            let header = format!("bytes={}", list.join(" ,"));
            prop_assert_eq!(parse(Some(&header), true, len), model(&specs, len), "{} of {}", header, len);
        }

        #[test]
        fn any_text_is_survived(text in "(bytes=)?[-0-9, a-z=]{0,40}", len in any::<u64>()) {
            if let Part { start, end_inclusive } = parse(Some(&text), true, len) {
                prop_assert!(start <= end_inclusive && end_inclusive < len);
            }
        }
    }
}
