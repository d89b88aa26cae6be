//! Text rules that formats share.

/// The longest prefix of `text` with at most `max_bytes` bytes that ends on a character boundary.
pub fn cut(text: &str, max_bytes: usize) -> &str {
    let end = (0..=max_bytes.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    text.get(..end).unwrap_or("")
}

/// Whether `text` may be a name: not empty, at most `max_bytes`, no control characters, no
/// direction overrides, no surrounding white space.
pub fn is_plain_name(text: &str, max_bytes: usize) -> bool {
    !text.is_empty()
        && text.len() <= max_bytes
        && text.trim() == text
        && !text.chars().any(|c| c.is_control() || is_invisible(c))
}

/// Characters that change how text is shown without being seen themselves: bidi controls
/// (UAX #9), zero-width characters, tags, line and paragraph separators.
pub fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2028}' | '\u{2029}'
        | '\u{2060}'..='\u{206F}' | '\u{FEFF}' | '\u{061C}' | '\u{00AD}' | '\u{E0000}'..='\u{E007F}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cutting_keeps_characters_whole() {
        assert_eq!(cut("äöü", 3), "ä");
        assert_eq!(cut("abc", 9), "abc");
        assert_eq!(cut("", 0), "");
    }

    #[test]
    fn names() {
        assert!(is_plain_name("Ana", 64));
        for bad in ["", " Ana", "A\u{1b}[2J", "a\u{202E}b", "a\nb", &"x".repeat(65)] {
            assert!(!is_plain_name(bad, 64), "{bad:?}");
        }
    }
}
