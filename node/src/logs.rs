//! Lines of the log: their form, and how often one may come.
//!
//! Invariant: a line is written at most once a minute however often a peer triggers it; the next one
//! says how many were left out. What may stand in a line is decided where it is written: never keys,
//! ids, titles, queries, names or addresses, at no level. Libraries are not listened to at all,
//! because they know nothing of that rule.

use crate::config::LogLevel;
use crate::terminal;
use serde::Serialize;
use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use utoipa::ToSchema;

/// A line that came is not repeated for so long.
const QUIET: Duration = Duration::from_secs(60);
/// Different lines that are remembered; there are far fewer in the program.
const MAX_LINES: usize = 256;

/// Writes lines of at least this level to standard error from now on.
pub fn start(level: LogLevel) {
    let layer = Lines { level: level_of(level), repeats: Mutex::default(), started: Instant::now() };
    // Only a second call could fail, and there is none.
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer));
}

/// Lines that `kith log` shows.
const MAX_RECENT: usize = 1000;
static RECENT: Mutex<VecDeque<LogLine>> = Mutex::new(VecDeque::new());

/// A line of the log.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LogLine {
    /// Its number since the start, from 1.
    pub n: u64,
    /// The line.
    pub line: String,
}

fn remember(line: &str) {
    if let Ok(mut recent) = RECENT.lock() {
        let n = recent.back().map_or(1, |last| last.n + 1);
        if recent.len() >= MAX_RECENT {
            recent.pop_front();
        }
        recent.push_back(LogLine { n, line: line.to_owned() });
    }
}

/// The latest lines, those after the one with this number.
pub fn recent(after: u64) -> Vec<LogLine> {
    let recent = RECENT.lock();
    recent.map(|recent| recent.iter().filter(|line| line.n > after).cloned().collect()).unwrap_or_default()
}

fn level_of(level: LogLevel) -> Option<Level> {
    match level {
        LogLevel::Off => None,
        LogLevel::Error => Some(Level::ERROR),
        LogLevel::Warn => Some(Level::WARN),
        LogLevel::Info => Some(Level::INFO),
        LogLevel::Debug => Some(Level::DEBUG),
        LogLevel::Trace => Some(Level::TRACE),
    }
}

/// Which lines came when.
#[derive(Debug, Default)]
struct Repeats(HashMap<String, (Duration, u64)>);

impl Repeats {
    /// Whether a line is written: `Some` with how many of it were left out before.
    fn admit(&mut self, now: Duration, line: &str) -> Option<u64> {
        if let Some((until, left_out)) = self.0.get_mut(line) {
            if now < *until {
                *left_out += 1;
                return None;
            }
            *until = now + QUIET;
            return Some(std::mem::take(left_out));
        }
        if self.0.len() >= MAX_LINES {
            self.0.retain(|_, (until, _)| now < *until);
        }
        // A flood of different lines is one flood: it waits for room.
        if self.0.len() >= MAX_LINES {
            return None;
        }
        self.0.insert(line.to_owned(), (now + QUIET, 0));
        Some(0)
    }
}

struct Lines {
    level: Option<Level>,
    repeats: Mutex<Repeats>,
    started: Instant,
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            // Writing to a string cannot fail.
            let _ = write!(self.0, "{value:?}");
        }
    }
}

fn is_ours(target: &str) -> bool {
    let root = target.split("::").next().unwrap_or(target);
    root == "kith" || root.starts_with("kith_")
}

impl<S: Subscriber> Layer<S> for Lines {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.level.is_some_and(|level| *metadata.level() <= level) && is_ours(metadata.target())
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        let line = terminal::safe(&message.0);
        let Ok(mut repeats) = self.repeats.lock() else { return };
        let Some(left_out) = repeats.admit(self.started.elapsed(), &line) else { return };
        drop(repeats);
        let metadata = event.metadata();
        let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
        let again = if left_out > 0 { format!(" ({left_out} more like it before)") } else { String::new() };
        let (level, target) = (metadata.level(), metadata.target());
        let line = format!("{time} {level:5} {target}: {line}{again}");
        remember(&line);
        // A log that cannot be written must not end the node.
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_once_a_minute_and_then_says_how_often() {
        let mut repeats = Repeats::default();
        let s = Duration::from_secs;
        assert_eq!(repeats.admit(s(0), "a"), Some(0));
        assert_eq!(repeats.admit(s(1), "a"), None);
        assert_eq!(repeats.admit(s(59), "a"), None);
        assert_eq!(repeats.admit(s(2), "b"), Some(0), "another line is another matter");
        assert_eq!(repeats.admit(s(60), "a"), Some(2));
        assert_eq!(repeats.admit(s(119), "a"), None);
        assert_eq!(repeats.admit(s(120), "a"), Some(1));
    }

    #[test]
    fn a_flood_of_different_lines_is_bounded() {
        let mut repeats = Repeats::default();
        let written = (0..10_000).filter(|i| repeats.admit(Duration::ZERO, &i.to_string()).is_some()).count();
        assert_eq!((written, repeats.0.len()), (MAX_LINES, MAX_LINES));
        assert_eq!(repeats.admit(QUIET, "later"), Some(0));
        assert_eq!(repeats.0.len(), 1);
    }

    #[test]
    fn libraries_are_not_listened_to() {
        for (target, ours) in [
            ("kith", true),
            ("kith::driver", true),
            ("kith_onion::core", true),
            ("hyper::proto", false),
            ("kitharisms", false),
        ] {
            assert_eq!(is_ours(target), ours, "{target}");
        }
    }
}
