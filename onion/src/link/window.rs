//! What a peer may send in one tunnel: windows that grow to what the path holds. Rules:
//! `docs/protocol/link.md`, decisions 0053 and 0057.

use super::{Broken, WINDOW_MAX, WINDOW_MIN, WINDOW_START, WINDOW_STEADY};
use std::time::Duration;

/// Receiving side of one tunnel on one link: what was granted and what is to be granted again.
///
/// Cells are granted (the peer may send them), held (they came and wait here) or used up; what is
/// neither granted nor held can be granted, up to the window.
#[derive(Debug)]
pub struct InWindow {
    window: u32,
    most: u32,
    granted: u32,
    held: u32,
    /// Granted cells that no rate was charged for yet.
    unpaid: u32,
    ran_dry: bool,
    slow: bool,
    /// When the window began to be counted that is being used now, and the cells since.
    round: (Duration, u32),
    /// What it grows to while it is used, and windows that were used up since it grew.
    steady: (u32, u32),
}

/// After so many windows [`InWindow::steady`] doubles.
const STEADY_ROUNDS: u32 = 2;
/// A window that is used up so fast is too small for the path: the sender waits for credit that is on its
/// way, which cannot be seen here. Longer than most round trips, queues included.
const QUICK_WINDOW: Duration = Duration::from_millis(250);

impl Default for InWindow {
    fn default() -> Self {
        Self {
            window: WINDOW_START,
            most: WINDOW_MAX,
            granted: WINDOW_START,
            held: 0,
            unpaid: WINDOW_START,
            ran_dry: false,
            slow: false,
            round: (Duration::ZERO, 0),
            steady: (0, 0),
        }
    }
}

impl InWindow {
    /// A window that never grows beyond `most`.
    pub fn up_to(most: u32) -> Self {
        Self { most, ..Self::default() }
    }

    /// Where cells are used up as they come: it grows while it is used, as a credit costs a cell whatever it
    /// grants. Where cells are passed on it does not: they would wait there.
    pub const fn steady(mut self) -> Self {
        self.steady.0 = WINDOW_STEADY;
        self
    }

    /// A cell arrived. An error when the peer had no credit for it; true when no rate was charged
    /// for it yet.
    pub fn arrived(&mut self, now: Duration) -> Result<bool, Broken> {
        self.granted = self.granted.checked_sub(1).ok_or(Broken)?;
        self.held += 1;
        self.ran_dry |= self.granted <= self.window / 8;
        let (since, cells) = self.round;
        self.round = (since, cells + 1);
        if cells + 1 >= self.window {
            self.ran_dry |= now.saturating_sub(since) < QUICK_WINDOW;
            self.round = (now, 0);
            self.steady.1 = self.steady.1.saturating_add(1);
        }
        let unpaid = self.unpaid > 0;
        self.unpaid = self.unpaid.saturating_sub(1);
        Ok(unpaid)
    }

    /// `cells` were used up here (played, written, passed on).
    pub const fn consumed(&mut self, cells: u32) {
        self.held = self.held.saturating_sub(cells);
    }

    /// A cell waited so long before it was passed on. Windows grow only below the first limit and
    /// are small above the second: nothing is granted until the peer has used what it has.
    pub fn waited(&mut self, delay: Duration, (grow, shrink): (Duration, Duration)) {
        self.slow = delay >= grow;
        if delay > shrink {
            self.window = WINDOW_MIN;
        }
    }

    const fn room(&self) -> u32 {
        self.window.saturating_sub(self.granted + self.held)
    }

    /// Credit to send now, if it is worth a cell: half a window; at a tick a quarter, or anything when
    /// the peer may soon have none; at most `most`. The window doubles when the sender ran dry and nothing piled
    /// up here. `paid`:
    /// the caller charges a rate for it.
    pub fn grant(&mut self, now: Duration, tick: bool, most: u32, paid: bool) -> Option<u16> {
        if most == 0 || !self.would_grant(now, tick) {
            return None;
        }
        let (steady, rounds) = self.steady;
        let goes_on = rounds >= STEADY_ROUNDS && self.window < steady;
        if (self.ran_dry || goes_on) && !self.slow && self.held <= self.window / 4 && self.window < self.most
        {
            self.window = (self.window * 2).min(self.most);
            self.steady.1 = 0;
        }
        self.ran_dry = false;
        let give = self.room().min(most);
        self.granted += give;
        if !paid {
            self.unpaid += give;
        }
        Some(give as u16)
    }

    /// Whether [`InWindow::grant`] would give something.
    pub fn would_grant(&self, now: Duration, tick: bool) -> bool {
        self.room() > 0
            && (self.room() >= self.window / 2
                || tick && (self.room() >= self.window / 4 || self.is_short(now)))
    }

    /// Whether something is to be granted at a tick.
    pub fn is_due(&self, now: Duration) -> bool {
        self.would_grant(now, true)
    }

    /// At the pace of the last cells the peer uses up what it has before more could be there.
    fn is_short(&self, now: Duration) -> bool {
        let (since, cells) = self.round;
        now.saturating_sub(since).saturating_mul(self.granted) <= QUICK_WINDOW * cells.max(1)
    }

    /// Cells that the peer may still send.
    pub const fn granted(&self) -> u32 {
        self.granted
    }

    /// Cells that a rate was charged for and that have not come.
    pub const fn paid(&self) -> u32 {
        self.granted.saturating_sub(self.unpaid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_grow_only_when_the_sender_ran_dry() {
        let mut w = InWindow::default();
        for _ in 0..WINDOW_START {
            w.arrived(Duration::ZERO).unwrap();
        }
        assert_eq!(w.arrived(Duration::ZERO), Err(Broken));
        w.consumed(WINDOW_START);
        assert_eq!(w.grant(Duration::ZERO, false, u32::MAX, false), Some(2 * WINDOW_START as u16));
        for _ in 0..16 {
            w.arrived(Duration::ZERO).unwrap();
        }
        w.consumed(16);
        assert_eq!(w.grant(Duration::ZERO, false, u32::MAX, false), None);
        assert_eq!(
            w.grant(Duration::ZERO, true, u32::MAX, false),
            Some(16),
            "no growth while credit was left"
        );
        let mut slow = InWindow::default();
        for _ in 0..WINDOW_START {
            slow.arrived(Duration::ZERO).unwrap();
        }
        slow.consumed(16);
        assert_eq!(
            slow.grant(Duration::ZERO, false, u32::MAX, false),
            Some(16),
            "no growth while cells pile up here"
        );
    }

    #[test]
    fn a_slow_sender_costs_few_credits_and_a_quick_one_never_waits() {
        // Cells one by one, and a tick after each: credits, and the least that the peer had left.
        let credits = |gap: Duration| {
            let (mut w, mut now) = (InWindow::default(), Duration::from_secs(9));
            let (mut given, mut least) = (0, u32::MAX);
            for _ in 0..800 {
                now += gap;
                w.arrived(now).unwrap();
                w.consumed(1);
                least = least.min(w.granted());
                given += u32::from(w.grant(now, true, u32::MAX, false).is_some());
            }
            (given, least)
        };
        let (given, least) = credits(Duration::from_millis(150));
        assert!(given <= 100 && least >= WINDOW_START / 2, "{given} credits for 800 cells, {least} left");
        // What is granted is on its way for a tenth of a second.
        let (_, least) = credits(Duration::from_millis(5));
        assert!(least > 20, "{least} left");
    }

    #[test]
    fn a_window_that_is_used_up_fast_grows_although_credit_is_on_its_way() {
        // A quarter of the window always under way back: the sender waits for it, and it cannot be seen.
        let rounds = |gap: Duration| {
            let mut w = InWindow::default();
            let mut now = Duration::from_secs(9);
            for _ in 0..40 {
                for _ in 0..WINDOW_START / 2 {
                    w.arrived(now).unwrap();
                }
                w.consumed(WINDOW_START / 2);
                w.grant(now, true, u32::MAX, false);
                now += gap;
            }
            w.window
        };
        assert_eq!(rounds(Duration::from_millis(200)), WINDOW_START);
        assert!(rounds(Duration::from_millis(30)) > WINDOW_START);
    }

    #[test]
    fn where_cells_are_used_up_as_they_come_a_steady_sender_costs_fewer_credits() {
        let credits = |mut w: InWindow| {
            let mut now = Duration::from_secs(9);
            let given = (0..2_000).filter(|_| {
                now += Duration::from_millis(100);
                w.arrived(now).unwrap();
                w.consumed(1);
                w.grant(now, true, u32::MAX, false).is_some()
            });
            (given.count(), w.window)
        };
        let ((few, grown), (many, same)) =
            (credits(InWindow::default().steady()), credits(InWindow::default()));
        assert!(few * 3 < many, "{few} and {many} credits");
        assert_eq!((grown, same), (WINDOW_STEADY, WINDOW_START));
    }

    #[test]
    fn windows_shrink_with_delay_and_grow_again() {
        let delays = (Duration::from_millis(100), Duration::from_millis(400));
        let mut w = InWindow::default();
        let use_all = |w: &mut InWindow, delay: u64| {
            let n = w.granted();
            (0..n).for_each(|_| assert!(w.arrived(Duration::ZERO).is_ok()));
            w.consumed(n);
            w.waited(Duration::from_millis(delay), delays);
            w.grant(Duration::ZERO, true, u32::MAX, false)
        };
        assert_eq!(use_all(&mut w, 0), Some(64));
        assert_eq!(use_all(&mut w, 200), Some(64), "no growth with a delay");
        w.waited(Duration::from_millis(500), delays);
        (0..40).for_each(|_| assert!(w.arrived(Duration::ZERO).is_ok()));
        w.consumed(40);
        assert_eq!(
            w.grant(Duration::ZERO, true, u32::MAX, false),
            None,
            "24 are granted: more than the window now"
        );
        (0..24).for_each(|_| assert!(w.arrived(Duration::ZERO).is_ok()));
        assert!(w.arrived(Duration::ZERO).is_err());
        w.consumed(24);
        assert_eq!(w.grant(Duration::ZERO, true, u32::MAX, false), Some(WINDOW_MIN as u16));
        assert_eq!(use_all(&mut w, 0), Some(32), "and grows when nothing waits");
        // What a rate allows is granted, the rest later; what was paid for is known.
        (0..32).for_each(|_| assert!(w.arrived(Duration::ZERO).is_ok()));
        w.consumed(32);
        assert_eq!(w.grant(Duration::ZERO, true, 5, true), Some(5));
        assert_eq!((w.paid(), w.granted()), (5, 5));
        assert_eq!(w.arrived(Duration::ZERO), Ok(false), "paid for");
        assert_eq!(InWindow::default().arrived(Duration::ZERO), Ok(true), "nobody paid for the first window");
    }
}
