//! Time as an argument.

use std::time::Duration;

/// What the caller's clocks say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic time since an origin of the caller's choice; all timers use it.
    pub at: Duration,
    /// Wall clock in Unix milliseconds; only for what friends compare: counters, hours, expiry.
    pub unix_ms: u64,
}

impl Now {
    /// Wall clock in Unix seconds.
    pub const fn unix_s(&self) -> u64 {
        self.unix_ms / 1000
    }

    /// Hours since the Unix epoch.
    pub const fn hour(&self) -> u64 {
        self.unix_ms / 3_600_000
    }
}

/// The earlier of two optional times.
pub(crate) fn earliest(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
