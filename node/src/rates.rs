//! Limits of speed as people write them: rates, weekly windows of time, and what holds at a minute
//! of the week.
//!
//! Pure: local time comes in as a [`Minute`]. Who asks the clock is `node/src/limits.rs`.

use kith_onion::Rates;
use std::fmt;

/// Most windows of one schedule.
pub const MAX_WINDOWS: usize = 32;
/// Slower limits would stop the links themselves.
const MIN_RATE: u64 = 4096;
const MAX_RATE: u64 = 1_000_000_000_000;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const DAY_MINUTES: u16 = 24 * 60;
const UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// What a limit applies to besides everything together.
pub const KINDS: [&str; 3] = ["own", "fof", "onion"];

/// Reads `500kB/s`, `2MB/s`, `1.5MiB/s` or `off`. The outer `None`: it is none of these, or outside
/// 4 KiB/s to 1 TB/s; the inner one: no limit.
pub fn parse(text: &str) -> Option<Option<u64>> {
    if text == "off" {
        return Some(None);
    }
    let text = text.strip_suffix("/s").unwrap_or(text);
    let (unit, factor) = UNITS.iter().find(|(unit, _)| text.ends_with(unit))?;
    let number = text.strip_suffix(unit)?;
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.len() <= 12 && text.bytes().all(|b| b.is_ascii_digit());
    let fraction_missing = number.contains('.') && part.is_empty();
    if whole.is_empty() || fraction_missing || !digits(whole) || !digits(part) || part.len() > 3 {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(*factor)?;
    let thousandths: u64 = format!("{part:0<3}").parse().ok()?;
    let rate = whole.checked_add(factor.checked_mul(thousandths)? / 1000)?;
    (MIN_RATE..=MAX_RATE).contains(&rate).then_some(Some(rate))
}

/// Writes a rate so that [`parse`] reads the same one: in the largest unit without a rest.
pub fn format(rate: Option<u64>) -> String {
    let Some(rate) = rate else { return "off".into() };
    let fits = UNITS.iter().filter(|(_, factor)| rate.is_multiple_of(*factor));
    // The shortest number is the one that was most likely written.
    let written = fits.map(|(unit, factor)| format!("{}{unit}/s", rate / factor)).min_by_key(String::len);
    written.unwrap_or_else(|| format!("{rate}B/s"))
}

/// Limits up and down. The outer `None`: nothing said; the inner one: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pair {
    /// Bytes a second that leave.
    pub up: Option<Option<u64>>,
    /// Bytes a second that come.
    pub down: Option<Option<u64>>,
}

/// What one source says about all limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Everything together.
    pub all: Pair,
    /// Each of [`KINDS`].
    pub kinds: [Pair; 3],
}

impl Said {
    /// The pair that a name means: nothing for everything together, or one of [`KINDS`].
    pub fn pair(&mut self, kind: Option<&str>) -> Option<&mut Pair> {
        match kind {
            None => Some(&mut self.all),
            Some(kind) => {
                let index = KINDS.iter().position(|k| *k == kind)?;
                self.kinds.get_mut(index)
            }
        }
    }

    fn over(&self, rates: &mut Rates) {
        rates.up = self.all.up.unwrap_or(rates.up);
        rates.down = self.all.down.unwrap_or(rates.down);
        for ((up, down), said) in rates.kinds.iter_mut().zip(&self.kinds) {
            *up = said.up.unwrap_or(*up);
            *down = said.down.unwrap_or(*down);
        }
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A minute of the week, in local time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Minute {
    /// 0 is Monday.
    pub day: u8,
    /// 0 to 1439.
    pub minute: u16,
}

/// A weekly window with limits of its own: `mon-fri 08:00-18:00 up=1MB/s down=off fof.up=100kB/s`.
/// One that ends before it begins goes on after midnight; it belongs to the day on which it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    days: [bool; 7],
    from: u16,
    to: u16,
    said: Said,
}

/// Why a window cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadWindow {
    /// The days.
    Days,
    /// The times.
    Times,
    /// The limits.
    Limits,
}

impl BadWindow {
    /// What is wrong, for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Days => "the days are one of mon, mon-fri, mon+wed, daily",
            Self::Times => "the times are like 08:00-18:00, up to 24:00",
            Self::Limits => "at least one limit must follow, like up=1MB/s, down=off or fof.up=100kB/s",
        }
    }
}

impl Window {
    /// Reads one.
    pub fn parse(text: &str) -> Result<Self, BadWindow> {
        let mut words = text.split_whitespace();
        let days = words.next().and_then(parse_days).ok_or(BadWindow::Days)?;
        let (from, to) = words.next().and_then(parse_times).ok_or(BadWindow::Times)?;
        let mut said = Said::default();
        for word in words {
            let (name, rate) = word.split_once('=').ok_or(BadWindow::Limits)?;
            let rate = parse(rate).ok_or(BadWindow::Limits)?;
            let (kind, side) = match name.split_once('.') {
                Some((kind, side)) => (Some(kind), side),
                None => (None, name),
            };
            let pair = said.pair(kind).ok_or(BadWindow::Limits)?;
            match side {
                "up" => pair.up = Some(rate),
                "down" => pair.down = Some(rate),
                _ => return Err(BadWindow::Limits),
            }
        }
        if said.is_empty() {
            return Err(BadWindow::Limits);
        }
        Ok(Self { days, from, to, said })
    }

    /// Whether it holds at this minute.
    pub fn holds(&self, now: Minute) -> bool {
        let on = |day: u8| self.days.get(usize::from(day % 7)).copied().unwrap_or(false);
        if self.from < self.to {
            return on(now.day) && (self.from..self.to).contains(&now.minute);
        }
        // Over midnight: tonight's beginning, or the rest of last night's.
        on(now.day) && now.minute >= self.from || on(now.day + 6) && now.minute < self.to
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format_days(&self.days))?;
        let time = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
        write!(f, " {}-{}", time(self.from), time(self.to))?;
        let named = KINDS.iter().map(|k| format!("{k}.")).zip(&self.said.kinds);
        for (prefix, pair) in std::iter::once((String::new(), &self.said.all)).chain(named) {
            for (side, rate) in [("up", pair.up), ("down", pair.down)] {
                if let Some(rate) = rate {
                    write!(f, " {prefix}{side}={}", format(rate))?;
                }
            }
        }
        Ok(())
    }
}

fn parse_day(text: &str) -> Option<usize> {
    DAYS.iter().position(|day| *day == text)
}

fn parse_days(text: &str) -> Option<[bool; 7]> {
    let text = text.to_ascii_lowercase();
    let mut days = [false; 7];
    if text == "daily" {
        return Some([true; 7]);
    }
    for part in text.split(['+', ',']) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (parse_day(first)?, parse_day(last)?);
        // `sat-mon` goes over the end of the week.
        let count = (last + 7 - first) % 7 + 1;
        for day in (first..first + count).map(|day| day % 7) {
            *days.get_mut(day)? = true;
        }
    }
    Some(days)
}

fn format_days(days: &[bool; 7]) -> String {
    if *days == [true; 7] {
        return "daily".into();
    }
    let mut parts: Vec<String> = Vec::new();
    let mut start = None;
    for (index, on) in days.iter().chain([&false]).enumerate() {
        match (on, start) {
            (true, None) => start = Some(index),
            (false, Some(first)) => {
                let name = |i: usize| DAYS.get(i).copied().unwrap_or_default();
                let last = index - 1;
                parts.push(if first == last {
                    name(first).into()
                } else {
                    format!("{}-{}", name(first), name(last))
                });
                start = None;
            }
            _ => {}
        }
    }
    parts.join("+")
}

fn parse_time(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let digits = |t: &str| t.len() == 2 && t.bytes().all(|b| b.is_ascii_digit());
    if !digits(hour) || !digits(minute) {
        return None;
    }
    let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
    let at = hour * 60 + minute;
    (minute < 60 && at <= DAY_MINUTES).then_some(at)
}

fn parse_times(text: &str) -> Option<(u16, u16)> {
    let (from, to) = text.split_once('-')?;
    let (from, to) = (parse_time(from)?, parse_time(to)?);
    (from < DAY_MINUTES && from != to).then_some((from, to))
}

/// All limits of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// What always holds, unless a window says otherwise.
    pub base: Said,
    /// Windows; a later one wins over an earlier one.
    pub schedule: Vec<Window>,
}

impl Limits {
    /// What holds at this minute.
    pub fn at(&self, now: Minute) -> Rates {
        let mut rates = Rates::default();
        self.base.over(&mut rates);
        self.schedule.iter().filter(|w| w.holds(now)).for_each(|w| w.said.over(&mut rates));
        rates
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MON: u8 = 0;
    const SAT: u8 = 5;
    const SUN: u8 = 6;

    fn at(day: u8, hour: u16, minute: u16) -> Minute {
        Minute { day, minute: hour * 60 + minute }
    }

    #[test]
    fn rates_read_as_written() {
        for (text, want) in [
            ("500kB/s", 500_000),
            ("2MB/s", 2_000_000),
            ("1.5MiB/s", 1_572_864),
            ("4096B/s", 4096),
            ("8KiB", 8192),
            ("1TB/s", 0),
            ("0.25GB/s", 250_000_000),
        ] {
            assert_eq!(parse(text), (want > 0).then_some(Some(want)), "{text}");
        }
        assert_eq!(parse("off"), Some(None));
        for bad in
            ["", "5", "MB/s", "1.MB/s", ".5MB/s", "-1MB/s", "1 MB/s", "4095B/s", "1.2345MB/s", "2000GB/s"]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(format(Some(1_500_000)), "1500kB/s");
        assert_eq!(format(None), "off");
    }

    #[test]
    fn windows_hold_when_they_say() {
        let work = Window::parse("mon-fri 08:00-18:00 up=1MB/s").unwrap();
        assert!(work.holds(at(MON, 8, 0)) && work.holds(at(MON, 17, 59)));
        assert!(!work.holds(at(MON, 7, 59)) && !work.holds(at(MON, 18, 0)) && !work.holds(at(SAT, 12, 0)));
        let night = Window::parse("sun 22:00-06:00 up=off").unwrap();
        assert!(night.holds(at(SUN, 23, 0)) && night.holds(at(MON, 5, 59)));
        assert!(!night.holds(at(MON, 6, 0)) && !night.holds(at(SUN, 5, 0)) && !night.holds(at(MON, 23, 0)));
        let all = Window::parse("daily 00:00-24:00 down=8KiB/s").unwrap();
        assert!((0..7).all(|day| all.holds(at(day, 0, 0)) && all.holds(at(day, 23, 59))));
        let over = Window::parse("sat-mon 10:00-11:00 up=off").unwrap();
        assert!([SAT, SUN, MON].iter().all(|d| over.holds(at(*d, 10, 30))) && !over.holds(at(3, 10, 30)));
    }

    #[test]
    fn bad_windows_say_what_is_wrong() {
        for (text, want) in [
            ("", BadWindow::Days),
            ("monday 08:00-18:00 up=off", BadWindow::Days),
            ("mon", BadWindow::Times),
            ("mon 8:00-18:00 up=off", BadWindow::Times),
            ("mon 08:00-25:00 up=off", BadWindow::Times),
            ("mon 24:00-08:00 up=off", BadWindow::Times),
            ("mon 08:60-09:00 up=off", BadWindow::Times),
            ("mon 08:00-08:00 up=off", BadWindow::Times),
            ("mon 08:00-18:00", BadWindow::Limits),
            ("mon 08:00-18:00 up=fast", BadWindow::Limits),
            ("mon 08:00-18:00 sideways=1MB/s", BadWindow::Limits),
            ("mon 08:00-18:00 tor.up=1MB/s", BadWindow::Limits),
        ] {
            assert_eq!(Window::parse(text), Err(want), "{text}");
        }
    }

    #[test]
    fn later_windows_win_and_say_nothing_of_the_rest() {
        let mut limits = Limits::default();
        limits.base.all.up = Some(Some(5_000_000));
        limits.base.kinds[1].down = Some(Some(7_000_000));
        limits.schedule = ["daily 08:00-18:00 up=1MB/s", "daily 12:00-13:00 up=off onion.up=10kB/s"]
            .map(|text| Window::parse(text).unwrap())
            .into();
        let rates = |hour| limits.at(at(MON, hour, 0));
        assert_eq!(rates(7).up, Some(5_000_000));
        assert_eq!(rates(8).up, Some(1_000_000));
        assert_eq!((rates(12).up, rates(12).kinds[2].0), (None, Some(10_000)));
        assert!((0..24).all(|h| rates(h).kinds[1].1 == Some(7_000_000) && rates(h).down.is_none()));
    }

    proptest! {
        #[test]
        fn rates_round_trip(rate in MIN_RATE..=MAX_RATE) {
            prop_assert_eq!(parse(&format(Some(rate))), Some(Some(rate)));
        }

        #[test]
        fn windows_round_trip(days in 1u8..128, from in 0u16..1440, to in 0u16..=1440, up in MIN_RATE..=MAX_RATE) {
            prop_assume!(from != to);
            let days = std::array::from_fn(|i| days >> i & 1 == 1);
            let mut said = Said::default();
            said.kinds[2].up = Some(Some(up));
            said.all.down = Some(None);
            let window = Window { days, from, to, said };
            prop_assert_eq!(Window::parse(&window.to_string()), Ok(window.clone()), "{}", window);
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".{0,60}") {
            let _ = (parse(&text), Window::parse(&text));
        }
    }
}
