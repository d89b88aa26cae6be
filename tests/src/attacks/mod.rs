//! Attacks on circuits, each with a figure, the bound that it must keep, and a positive control: the
//! same attack with the defence switched off, which must succeed. `--example attacks` prints all of
//! them; `tests/attacks.rs` runs them at a small size.
//!
//! The attackers drive the shipped code: whole nodes in the simulator, the layers of cells, and the
//! route policy. Only their reasoning is their own.

pub mod cells;
pub mod learn;
pub mod limits;
pub mod policy;
pub mod quiet;
pub mod timing;

use crate::paths::Estimate;

/// How much is run.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Worlds, graphs or trials of each kind.
    pub seeds: u64,
    /// Everything that a single trial can cover, and not a sample of it.
    pub full: bool,
}

impl Effort {
    /// What a test can afford.
    pub const SMALL: Self = Self { seeds: 2, full: false };

    /// One number or another.
    pub const fn or<T: Copy>(self, full: T, small: T) -> T {
        if self.full { full } else { small }
    }
}

/// Whether an attack keeps within its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// There is no bound.
    Reported,
    /// It does, and so does the whole of its interval.
    Holds,
    /// The interval reaches over the bound: so many tries do not tell.
    NotShown,
    /// The whole of its interval is beyond the bound.
    Fails,
}

impl Verdict {
    /// Of a figure that should be `bound` at most.
    pub fn at_most(figure: Estimate, bound: f64) -> Self {
        match (figure.mean - figure.half, figure.mean + figure.half) {
            (_, high) if high <= bound => Self::Holds,
            (low, _) if low > bound => Self::Fails,
            _ => Self::NotShown,
        }
    }

    /// Of guesses that should be no better than half and `points`. Guesses that are reliably worse say
    /// that the worlds were too few to learn from.
    pub fn no_better_than_half(right: Estimate, points: f64) -> Self {
        match Self::at_most(right, 0.5 + points) {
            Self::Holds if right.mean + right.half < 0.5 => Self::NotShown,
            verdict => verdict,
        }
    }
}

impl From<bool> for Verdict {
    fn from(holds: bool) -> Self {
        if holds { Self::Holds } else { Self::Fails }
    }
}

/// What an attack brought.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its number.
    pub id: &'static str,
    /// What the attacker does.
    pub attack: &'static str,
    /// What came of it, with its interval and how often it was tried.
    pub figure: String,
    /// What it must not exceed.
    pub bound: String,
    /// The same without the defence.
    pub control: String,
    /// Whether it keeps the bound.
    pub verdict: Verdict,
    /// Without the defence the attack succeeds; `None` where there is no defence to switch off.
    pub control_succeeds: Option<bool>,
    /// The tests fail where it does not hold. Others are known not to, or not to be told by so few tries:
    /// they are measured and reported all the same.
    pub promised: bool,
}

/// An attack, by its number and how it is run.
pub type Attack = (&'static str, fn(Effort) -> Vec<Row>);

/// All of them.
pub const ALL: [Attack; 17] = [
    ("A11", timing::a11),
    ("A12", timing::a12),
    ("A20", cells::a20),
    ("A22", cells::a22),
    ("A25", cells::a25),
    ("A26", limits::a26),
    ("A27", limits::a27),
    ("A28", policy::a28),
    ("A29", limits::a29),
    ("A30", policy::a30),
    ("A35", policy::a35),
    ("A37", policy::a37),
    ("A39", cells::a39),
    ("A40", cells::a40),
    ("quiet search", quiet::search),
    ("no spread", quiet::spread),
    ("listers", quiet::listers),
];

/// The table's head.
pub const HEAD: &str =
    "| | what the attacker does | measured | bound | defence off | verdict |\n|---|---|---|---|---|---|";

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let verdict = match self.verdict {
            _ if self.control_succeeds == Some(false) => "control failed",
            Verdict::Holds => "holds",
            Verdict::NotShown => "not shown",
            Verdict::Fails => "**does not hold**",
            Verdict::Reported => "reported",
        };
        let Self { id, attack, figure, bound, control, .. } = self;
        write!(f, "| {id} | {attack} | {figure} | {bound} | {control} | {verdict} |")
    }
}

/// A share in percent, with its interval if it has one.
pub fn percent(estimate: Estimate) -> String {
    if !estimate.half.is_finite() {
        return format!("{:.1} %", estimate.mean * 100.0);
    }
    format!("{:.1} ± {:.1} %", estimate.mean * 100.0, estimate.half * 100.0)
}

/// Hits among so many tries, with Wilson's interval (1927), which is right for none and all as well.
pub fn wilson(hits: usize, of: usize) -> (f64, f64) {
    let (n, z) = (of.max(1) as f64, 1.96_f64);
    let p = hits as f64 / n;
    let middle = p + z * z / (2.0 * n);
    let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    ((middle - half) / (1.0 + z * z / n), (middle + half) / (1.0 + z * z / n))
}

/// Hits among so many tries, for a table.
pub fn hits(hits: usize, of: usize) -> String {
    let (low, high) = wilson(hits, of);
    format!("{hits} of {of} [{:.1} to {:.1} %]", low.max(0.0) * 100.0, high.min(1.0) * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_over_the_bound_shows_nothing() {
        let of = |mean, half| Estimate { mean, half };
        assert_eq!(Verdict::at_most(of(0.02, 0.01), 0.03), Verdict::Holds);
        assert_eq!(Verdict::at_most(of(0.02, 0.02), 0.03), Verdict::NotShown);
        assert_eq!(Verdict::at_most(of(0.05, 0.01), 0.03), Verdict::Fails);
        assert_eq!(Verdict::no_better_than_half(of(0.5, 0.01), 0.02), Verdict::Holds);
        assert_eq!(Verdict::no_better_than_half(of(0.53, 0.02), 0.02), Verdict::NotShown);
        assert_eq!(Verdict::no_better_than_half(of(0.34, 0.06), 0.02), Verdict::NotShown);
        assert_eq!(Verdict::no_better_than_half(of(0.69, 0.13), 0.02), Verdict::Fails);
    }
}
