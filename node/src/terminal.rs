//! What reaches a terminal: foreign text made safe, numbers made readable, tables and colours.
//!
//! Invariant: nothing that a friend wrote reaches the terminal without passing [`safe`], which
//! leaves no character that a terminal obeys and none that reorders or hides its neighbours.

use kith_crypto::text::is_invisible;
use std::fmt::Write as _;
use std::time::Duration;
use unicode_normalization::char::is_combining_mark;

/// Marks that may follow one base character: enough for every living script, too few to paint
/// over neighbouring lines.
const MAX_MARKS: usize = 4;

/// `text` as it may be printed: one line, no control characters, nothing invisible, at most four
/// combining marks in a row.
///
/// White space of any kind becomes one space. A run of other control characters becomes one
/// U+FFFD, because what stands behind an escape would otherwise read as part of the text.
/// Invisible characters vanish, because there is nothing to read in them.
pub fn safe(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut marks = 0;
    for c in text.chars() {
        let shown = match c {
            '\t' | '\n' | '\u{B}' | '\u{C}' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}' => Some(' '),
            c if c.is_control() => Some(char::REPLACEMENT_CHARACTER),
            c if is_unseen(c) => None,
            c => Some(c),
        };
        let Some(shown) = shown else { continue };
        marks = if is_combining_mark(shown) { marks + 1 } else { 0 };
        // A replaced run is shown once; a repeated character of the text itself stays.
        let repeats = shown != c && out.ends_with(shown);
        if marks <= MAX_MARKS && !repeats {
            out.push(shown);
        }
    }
    out
}

// Beyond the invisible characters that names may not hold: annotations, blank letters that look
// like spaces, Mongolian selectors and separators.
fn is_unseen(c: char) -> bool {
    is_invisible(c)
        || matches!(c, '\u{FFF9}'..='\u{FFFB}' | '\u{115F}' | '\u{1160}' | '\u{3164}' | '\u{FFA0}'
            | '\u{180B}'..='\u{180F}')
}

/// A size: `512 B`, `1.5 MiB`.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = "KiB";
    for next in UNITS.into_iter().skip(1) {
        // 1023.95 would be shown as 1024.0.
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// A rate: `bytes` moved in `time`, as `1.5 MiB/s`; `0 B/s` if no time has passed.
pub fn human_rate(bytes: u64, time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let rate = if seconds > 0.0 { (bytes as f64 / seconds) as u64 } else { 0 };
    format!("{}/s", human_bytes(rate))
}

/// A duration in at most two units: `250 ms`, `1.5 s`, `2 min 5 s`, `3 h 12 min`, `4 d 2 h`.
pub fn human_duration(time: Duration) -> String {
    let tenths = time.as_millis() / 100;
    if time < Duration::from_secs(1) {
        return format!("{} ms", time.as_millis());
    }
    if tenths < 600 {
        return match tenths % 10 {
            0 => format!("{} s", tenths / 10),
            part => format!("{}.{part} s", tenths / 10),
        };
    }
    let seconds = time.as_secs();
    let (large, large_unit, small, small_unit) = match seconds {
        0..3_600 => (seconds / 60, "min", seconds % 60, "s"),
        3_600..86_400 => (seconds / 3_600, "h", seconds % 3_600 / 60, "min"),
        _ => (seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    };
    match small {
        0 => format!("{large} {large_unit}"),
        _ => format!("{large} {large_unit} {small} {small_unit}"),
    }
}

/// Whether and how colours are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    colours: bool,
}

impl Style {
    /// No colours at all.
    pub const PLAIN: Self = Self { colours: false };

    /// Colours only if the stream is a terminal and `NO_COLOR` is unset (or empty, which
    /// no-color.org counts as unset).
    pub fn new(is_terminal: bool, no_color: Option<&std::ffi::OsStr>) -> Self {
        Self { colours: is_terminal && no_color.is_none_or(|value| value.is_empty()) }
    }

    /// The style that suits standard output.
    pub fn of_stdout() -> Self {
        use std::io::IsTerminal as _;
        Self::new(std::io::stdout().is_terminal(), std::env::var_os("NO_COLOR").as_deref())
    }

    /// The style that suits standard error.
    pub fn of_stderr() -> Self {
        use std::io::IsTerminal as _;
        Self::new(std::io::stderr().is_terminal(), std::env::var_os("NO_COLOR").as_deref())
    }

    /// Whether colours (and progress bars) are wanted.
    pub fn has_colours(self) -> bool {
        self.colours
    }

    /// Important text.
    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// Less important text.
    pub fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    /// Good news.
    pub fn green(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// Something to look at.
    pub fn yellow(self, text: &str) -> String {
        self.paint("33", text)
    }

    /// Bad news.
    pub fn red(self, text: &str) -> String {
        self.paint("31", text)
    }

    // The text is made safe here too, so that no caller can forget it.
    fn paint(self, code: &str, text: &str) -> String {
        let text = safe(text);
        if self.colours { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text }
    }
}

/// Rows of cells under a heading, aligned by the characters that take room.
#[derive(Clone, Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<usize>,
}

impl Table {
    /// A table with one column for each heading.
    pub fn new<S: AsRef<str>>(headings: impl IntoIterator<Item = S>) -> Self {
        let mut table = Self { rows: Vec::new(), right: Vec::new() };
        table.row(headings);
        table
    }

    /// Aligns the column with this index, counted from 0, to the right: for numbers.
    #[must_use]
    pub fn right(mut self, column_index: usize) -> Self {
        self.right.push(column_index);
        self
    }

    /// Adds a row; its cells are made safe here.
    pub fn row<S: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(|cell| safe(cell.as_ref())).collect());
    }

    /// Whether there is nothing under the heading.
    pub fn is_empty(&self) -> bool {
        self.rows.len() <= 1
    }

    /// The lines, each with its end, the heading in bold.
    pub fn render(&self, style: Style) -> String {
        let widths = self.widths();
        let mut out = String::new();
        for (index, row) in self.rows.iter().enumerate() {
            let line = self.line(row, &widths);
            let line = if index == 0 { style.bold(&line) } else { line };
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{line}");
        }
        out
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths = Vec::new();
        for row in &self.rows {
            widths.resize(widths.len().max(row.len()), 0);
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = columns(cell).max(*width);
            }
        }
        widths
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for (index, (cell, width)) in row.iter().zip(widths).enumerate() {
            let gap = " ".repeat(width.saturating_sub(columns(cell)));
            let separator = if index == 0 { "" } else { "  " };
            let (before, after) =
                if self.right.contains(&index) { (gap, String::new()) } else { (String::new(), gap) };
            line.extend([separator, &before, cell, &after]);
        }
        line.truncate(line.trim_end().len());
        line
    }
}

// Marks stand on top of the character before them; everything else counts as one column.
fn columns(text: &str) -> usize {
    text.chars().filter(|c| !is_combining_mark(*c)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_that_a_terminal_obeys_gets_through() {
        let cases = [
            ("a\u{1b}[2Jb", "a\u{FFFD}[2Jb"),
            ("\u{1b}]52;c;cm0gLXJm\u{7}", "\u{FFFD}]52;c;cm0gLXJm\u{FFFD}"),
            ("\u{9b}31m", "\u{FFFD}31m"),
            ("\u{90}q\u{9c}", "\u{FFFD}q\u{FFFD}"),
            ("rm\r\x08\x08\x7f", "rm \u{FFFD}"),
            ("a\r\n\tb", "a b"),
            ("two  spaces", "two  spaces"),
            ("gnp\u{202E}exe.\u{2066}x\u{2069}", "gnpexe.x"),
            ("a\u{200B}\u{FEFF}b\u{3164}", "ab"),
            ("\u{FFFD}\u{FFFD}", "\u{FFFD}\u{FFFD}"),
            ("Zoë 動物 🐘 زرافة", "Zoë 動物 🐘 زرافة"),
        ];
        for (given, want) in cases {
            assert_eq!(safe(given), want, "{given:?}");
        }
    }

    #[test]
    fn piles_of_marks_are_cut_to_four() {
        let zalgo = format!("a{}b{}", "\u{301}".repeat(900), "\u{302}".repeat(2));
        assert_eq!(safe(&zalgo), format!("a{}b{}", "\u{301}".repeat(4), "\u{302}".repeat(2)));
        // Invisible characters between marks do not start a new count.
        assert_eq!(safe(&"\u{301}\u{200B}".repeat(9)), "\u{301}".repeat(4));
    }

    #[test]
    fn sizes() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_572_864, "1.5 MiB"),
            (1_048_575, "1.0 MiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (bytes, want) in cases {
            assert_eq!(human_bytes(bytes), want);
        }
        assert_eq!(human_rate(3 << 20, Duration::from_secs(2)), "1.5 MiB/s");
        assert_eq!(human_rate(5, Duration::ZERO), "0 B/s");
    }

    #[test]
    fn durations() {
        let cases = [
            (0, "0 ms"),
            (250, "250 ms"),
            (1_000, "1 s"),
            (1_549, "1.5 s"),
            (59_999, "59.9 s"),
            (125_000, "2 min 5 s"),
            (11_520_000, "3 h 12 min"),
            (352_800_000, "4 d 2 h"),
            (259_200_000, "3 d"),
        ];
        for (millis, want) in cases {
            assert_eq!(human_duration(Duration::from_millis(millis)), want);
        }
        human_duration(Duration::MAX);
    }

    #[test]
    fn tables_line_up() {
        let mut table = Table::new(["name", "sent"]).right(1);
        assert!(table.is_empty());
        table.row(["Zoe\u{308}", "1.5 MiB"]);
        table.row(["An\u{1b}a", "9 B"]);
        let want = "name     sent\nZoe\u{308}   1.5 MiB\nAn\u{FFFD}a      9 B\n";
        assert_eq!(table.render(Style::PLAIN), want);
        let mut last_left = Table::new(["a", "b"]);
        last_left.row(["1", "a long cell"]);
        assert_eq!(last_left.render(Style::PLAIN), "a  b\n1  a long cell\n");
    }

    #[test]
    fn colours_only_where_wanted() {
        use std::ffi::OsStr;
        assert!(!Style::new(false, None).has_colours());
        assert!(!Style::new(true, Some(OsStr::new("1"))).has_colours());
        assert!(Style::new(true, Some(OsStr::new(""))).has_colours());
        assert_eq!(Style::new(true, None).red("\u{1b}x"), "\u{1b}[31m\u{FFFD}x\u{1b}[0m");
        assert_eq!(Style::PLAIN.red("x"), "x");
    }

    proptest! {
        #[test]
        fn safe_text_is_safe_and_stays_as_it_is(text in any::<String>()) {
            let once = safe(&text);
            prop_assert!(!once.chars().any(|c| c.is_control() || is_invisible(c)));
            prop_assert_eq!(safe(&once), once.clone());
            prop_assert!(once.len() <= text.len() * 3);
        }
    }
}
