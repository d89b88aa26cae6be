//! Token buckets, and how friends share one: what a friend may use of this node, in bytes, cells
//! and work. Arithmetic only; who is charged for what is decided in `core/accounts.rs`.

use crate::cell::CELL_LEN;
use crate::schedule::Weights;
use std::collections::BTreeMap;
use std::time::Duration;

/// What a node lets its friends use. The defaults suit an honest friend at any speed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budgets {
    /// Shares of a busy link.
    pub weights: Weights,
    /// Cells and messages a second that a friend may send unasked, and how many may be saved up.
    pub work: (f64, f64),
    /// Diffie-Hellman on behalf of one friend a second, and how many may be saved up.
    pub handshakes: (f64, f64),
    /// Cells that wait to be passed on, in all tunnels.
    pub relayed_cells: usize,
    /// Bytes read ahead for one friend, and for all.
    pub serving: (usize, usize),
    /// Control bytes that wait on one link, and on all, before catalogue pages wait to be made.
    pub control: (usize, usize),
    /// Whether a friend who holds most of another friend's tunnels gives one up when a third needs it.
    pub share_tunnels: bool,
    /// Queue delay below which windows grow, and above which they shrink.
    pub delays: (Duration, Duration),
    /// For tests only.
    #[doc(hidden)]
    pub defences: Defences,
}

/// Defences that tests switch off one by one, to see the attack succeed that each is there against: an
/// attack that fails either way proves nothing. Every node has all of them on.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defences {
    /// Steps of a circuit leave at times drawn in advance, not when the one before was answered.
    pub open_loop: bool,
    /// The end of a circuit answers at the time that its builder named, not when it can.
    pub equal_answers: bool,
    /// In a circuit, requests leave on a tick and not when something came.
    pub ticks: bool,
    /// `DESTROY` leaves after a random time.
    pub late_destroy: bool,
    /// Circuits that a friend may ask for are counted.
    pub counted_creates: bool,
    /// A request that came before is not passed on again.
    pub known_nonces: bool,
    /// Cells that are unknown or unexpected end the circuit, or the link.
    pub strict_cells: bool,
    /// A circuit is not led back to where it came from.
    pub no_way_back: bool,
    /// The end of a circuit says nothing more to a builder who does not listen.
    pub bounded_answers: bool,
    /// An own circuit gets three relays, whatever is asked for.
    pub three_relays: bool,
}

impl Default for Defences {
    fn default() -> Self {
        Self {
            open_loop: true,
            equal_answers: true,
            ticks: true,
            late_destroy: true,
            counted_creates: true,
            known_nonces: true,
            strict_cells: true,
            no_way_back: true,
            bounded_answers: true,
            three_relays: true,
        }
    }
}

impl Default for Budgets {
    fn default() -> Self {
        Self {
            weights: Weights::default(),
            work: (150.0, 1500.0),
            handshakes: (10.0, 40.0),
            relayed_cells: 64 * 1024 * 1024 / CELL_LEN,
            serving: (4 * 1024 * 1024, 64 * 1024 * 1024),
            control: (1024 * 1024, 16 * 1024 * 1024),
            share_tunnels: true,
            delays: (Duration::from_millis(100), Duration::from_millis(400)),
            defences: Defences::default(),
        }
    }
}

/// A token bucket: `rate` a second, at most `burst` saved.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    rate: f64,
    burst: f64,
    tokens: f64,
    /// Most that can be owed.
    debt: f64,
    at: Duration,
}

/// What is owed for bytes never takes longer than this to pay.
const MAX_DEBT_S: f64 = 2.0;
/// The same for work. One write can hold thousands of messages.
const MAX_WORK_DEBT_S: f64 = 10.0;
/// Hides what rounding leaves.
const HAIR: f64 = 1e-6;

impl Bucket {
    pub(crate) const fn new(rate: f64, burst: f64) -> Self {
        Self { rate, burst, tokens: burst, debt: rate * MAX_DEBT_S, at: Duration::ZERO }
    }

    /// A bucket for work, which is counted when it is done.
    pub(crate) const fn for_work((rate, burst): (f64, f64)) -> Self {
        Self { debt: rate * MAX_WORK_DEBT_S, ..Self::new(rate, burst) }
    }

    fn refill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.tokens = (self.tokens + passed * self.rate).min(self.burst);
    }

    /// Takes a token if there is one.
    pub(crate) fn take(&mut self, now: Duration) -> bool {
        let there = self.has(now, 1.0);
        if there {
            self.tokens -= 1.0;
        }
        there
    }

    /// Whether so many tokens are there.
    pub(crate) fn has(&mut self, now: Duration, tokens: f64) -> bool {
        self.refill(now);
        self.tokens + HAIR >= tokens
    }

    /// Takes tokens whether they are there or not.
    pub(crate) fn owe(&mut self, now: Duration, tokens: f64) {
        self.refill(now);
        self.tokens = (self.tokens - tokens).max(-self.debt);
    }

    /// Puts tokens back.
    pub(crate) const fn give_back(&mut self, tokens: f64) {
        self.tokens = (self.tokens + tokens).min(self.burst);
    }

    /// When so many tokens will be there.
    pub(crate) fn ready_at(&self, tokens: f64) -> Duration {
        let missing = (tokens - self.tokens).max(0.0) / self.rate.max(HAIR);
        self.at + Duration::from_micros((missing.min(1e6) * 1e6) as u64 + 1)
    }
}

/// What a friend gave and took: excess-based credit, as in GNUnet (C. Grothoff, An Excess-Based Economic
/// Model for Resource Allocation in Peer-to-Peer Networks, 2003). Taken is only what others waited for: what
/// is idle is free.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Credit {
    given: f64,
    taken: f64,
    at: Duration,
    /// Bytes received by the counters, as far as they are in `given`.
    seen: u64,
}

/// Both halve in a week.
const CREDIT_HALF_LIFE_S: f64 = 7.0 * 86_400.0;
/// So much taken is as nothing.
const CREDIT_FREE: f64 = 64.0 * 1024.0 * 1024.0;
/// A friend who gave as much more than it took counts this many times more, at most.
const CREDIT_MOST: f64 = 3.0;

impl Credit {
    pub(crate) const fn of(given: u64, taken: u64, now: Duration) -> Self {
        Self { given: given as f64, taken: taken as f64, at: now, seen: 0 }
    }

    fn age(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        let left = (-passed / CREDIT_HALF_LIFE_S).exp2();
        (self.given, self.taken, self.at) = (self.given * left, self.taken * left, self.at.max(now));
    }

    /// `received`: bytes that came from the friend, by its counter.
    pub(crate) fn received(&mut self, now: Duration, received: u64) {
        self.age(now);
        self.given += received.saturating_sub(self.seen) as f64;
        self.seen = received;
    }

    /// The friend got bytes while others waited.
    pub(crate) fn take(&mut self, now: Duration, bytes: u64) {
        self.age(now);
        self.taken += bytes as f64;
    }

    /// What it is now, given and taken.
    pub(crate) const fn bytes(&self) -> (u64, u64) {
        (self.given as u64, self.taken as u64)
    }

    /// Its share of what is scarce, beside others'. `trust`: 1 to 4.
    pub(crate) fn weight(&self, trust: f64) -> f64 {
        trust * (1.0 + (self.given / (self.taken + CREDIT_FREE)).min(CREDIT_MOST))
    }
}

/// Nobody who waits gets less than this share.
const LEAST_SHARE: f64 = 0.02;

/// One who waits for a share.
#[derive(Debug)]
struct Waiter {
    conn: u32,
    /// Place in line.
    start: f64,
    turn: u64,
    weight: f64,
}

/// A rate that several links share by weight: start-time fair queueing with a share as the unit. Who wants
/// more comes to the end of the line again.
#[derive(Debug)]
pub(crate) struct Pool {
    bucket: Bucket,
    /// Cells given at a time.
    share: u32,
    queue: Vec<Waiter>,
    clock: f64,
    turns: u64,
    /// Where links stand that had a share lately.
    finished: BTreeMap<u32, f64>,
}

impl Pool {
    /// `rate` in bytes a second; shares last `share` at this rate, and are `least` cells at least.
    pub(crate) fn new(now: Duration, rate: u64, share: Duration, least: u32) -> Self {
        let rate = rate.max(1) as f64;
        let cells =
            ((rate * share.as_secs_f64()) as u64 / CELL_LEN as u64).clamp(least.into(), MAX_SHARE.into());
        let cell_bytes = (cells * CELL_LEN as u64) as f64;
        let mut bucket = Bucket::new(rate, (rate * BURST.as_secs_f64()).max(cell_bytes));
        bucket.at = now;
        Self {
            bucket,
            share: cells as u32,
            queue: Vec::new(),
            clock: 0.0,
            turns: 0,
            finished: BTreeMap::new(),
        }
    }

    /// A pool, if there is a rate: see [`Pool::new`].
    pub(crate) fn up(now: Duration, rate: Option<u64>) -> Option<Self> {
        rate.map(|rate| Self::new(now, rate, Duration::from_millis(20), 1))
    }

    /// For credit: each grant costs the other direction a cell, so they are not too small.
    pub(crate) fn down(now: Duration, rate: Option<u64>) -> Option<Self> {
        rate.map(|rate| Self::new(now, rate, Duration::from_millis(100), 8))
    }

    fn share_bytes(&self) -> f64 {
        f64::from(self.share) * CELL_LEN as f64
    }

    /// Somebody wants a share, and has this weight.
    pub(crate) fn wait(&mut self, conn: u32, weight: f64) {
        let all: f64 = self.queue.iter().map(|waiter| waiter.weight).sum::<f64>() + weight;
        let weight = weight.max(all * LEAST_SHARE).max(1e-6);
        // Who was away does not catch up.
        let start = self.finished.get(&conn).copied().unwrap_or(0.0).max(self.clock);
        self.finished.insert(conn, start + 1.0 / weight);
        self.turns += 1;
        self.queue.push(Waiter { conn, start, turn: self.turns, weight });
    }

    /// Who is first in line gets a share, if there is one: the cells.
    pub(crate) fn serve(&mut self, now: Duration) -> Option<(u32, u32)> {
        if self.queue.is_empty() || !self.bucket.has(now, self.share_bytes()) {
            return None;
        }
        let first = |a: &(usize, &Waiter), b: &(usize, &Waiter)| {
            a.1.start.total_cmp(&b.1.start).then(a.1.turn.cmp(&b.1.turn))
        };
        let (at, _) = self.queue.iter().enumerate().min_by(first)?;
        let waiter = self.queue.swap_remove(at);
        self.clock = self.clock.max(waiter.start);
        let clock = self.clock;
        self.finished.retain(|_, finish| *finish > clock);
        self.bucket.owe(now, self.share_bytes());
        Some((waiter.conn, self.share))
    }

    /// Whether others wait.
    pub(crate) const fn is_contended(&self) -> bool {
        !self.queue.is_empty()
    }

    /// A share that was not wanted any more, or cells that were paid and never came.
    pub(crate) const fn give_back(&mut self, cells: u32) {
        self.bucket.give_back(cells as f64 * CELL_LEN as f64);
    }

    /// Cells that went without asking.
    pub(crate) fn owe(&mut self, now: Duration, cells: u32) {
        self.bucket.owe(now, f64::from(cells) * CELL_LEN as f64);
    }

    /// When the next share is there, if anybody waits.
    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        (!self.queue.is_empty()).then(|| self.bucket.ready_at(self.share_bytes()))
    }
}

/// Most cells of one share: what one write to a socket holds.
const MAX_SHARE: u32 = 64;
/// What a rate saves up while nobody wants it.
const BURST: Duration = Duration::from_millis(100);

/// What one link holds of a pool.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Share {
    /// Cells not used yet.
    pub(crate) cells: u32,
    /// It is in the pool's queue.
    pub(crate) waiting: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn bucket_refills() {
        let mut bucket = Bucket::new(2.0, 3.0);
        let at = Duration::from_secs(5);
        assert_eq!((0..5).filter(|_| bucket.take(at)).count(), 3);
        assert!(bucket.take(at + Duration::from_millis(600)));
        assert!(!bucket.take(at + Duration::from_millis(700)));
    }

    #[test]
    fn debts_are_paid_and_bounded() {
        let mut bucket = Bucket::new(10.0, 5.0);
        bucket.owe(SECOND, 1e9);
        assert_eq!(bucket.ready_at(1.0).as_millis(), 3100, "two seconds of debt and a token");
        assert!(!bucket.has(Duration::from_millis(3000), 1.0));
        assert!(bucket.has(bucket.ready_at(1.0), 1.0));
        bucket.give_back(100.0);
        assert!(!bucket.has(Duration::from_millis(3100), 5.5), "no more than the burst is saved");
    }

    #[test]
    fn shares_go_round() {
        let mut pool = Pool::new(Duration::ZERO, 1_000_000, Duration::from_millis(20), 1);
        let mut got = [0_u32; 3];
        (0..3).for_each(|conn| pool.wait(conn, 1.0));
        let mut now = Duration::ZERO;
        while now < 20 * SECOND {
            while let Some((conn, cells)) = pool.serve(now) {
                got[conn as usize] += cells;
                // The greedy one asks again many times: it is told once that it waits already.
                pool.wait(conn, 1.0);
            }
            now = pool.poll_timeout().unwrap().max(now);
        }
        let bytes = got.iter().sum::<u32>() as f64 * CELL_LEN as f64;
        assert!((19.5e6..20.6e6).contains(&bytes), "{bytes}");
        assert!(got.iter().max().unwrap() - got.iter().min().unwrap() <= pool.share, "{got:?}");
    }

    #[test]
    fn shares_go_by_weight_and_nobody_gets_nothing() {
        let mut pool = Pool::new(Duration::ZERO, 1_000_000, Duration::from_millis(20), 1);
        let weights = [16.0, 4.0, 0.001];
        let mut got = [0_u32; 3];
        (0..3).for_each(|conn| pool.wait(conn, weights[conn as usize]));
        let mut now = Duration::ZERO;
        while now < 40 * SECOND {
            while let Some((conn, cells)) = pool.serve(now) {
                assert!(pool.is_contended());
                got[conn as usize] += cells;
                pool.wait(conn, weights[conn as usize]);
            }
            now = pool.poll_timeout().unwrap().max(now);
        }
        let all = f64::from(got.iter().sum::<u32>());
        let share = |n: usize| f64::from(got[n]) / all;
        assert!((share(0) / share(1) - 4.0).abs() < 0.2, "{got:?}");
        assert!((0.015..0.03).contains(&share(2)), "{got:?}");
    }

    #[test]
    fn who_gave_more_than_it_took_counts_more_and_that_is_forgotten() {
        let mut credit = Credit::default();
        assert_eq!(credit.weight(2.0), 2.0);
        credit.received(SECOND, 128 << 20);
        assert_eq!(credit.weight(2.0), 2.0 * 3.0);
        credit.received(SECOND, 1 << 40);
        assert_eq!(credit.weight(2.0), 2.0 * 4.0, "but not without end");
        credit.take(SECOND, 1 << 41);
        assert!((credit.weight(1.0) - 1.5).abs() < 0.01);
        credit.received(SECOND + Duration::from_secs(70 * 86_400), 1 << 40);
        assert!(credit.bytes().0 < 1 << 31, "ten half-lives later");
    }

    proptest! {
        #[test]
        fn what_is_promised_is_there(rate in 1_u64..2_000_000_000, takes in 1_usize..200) {
            let mut pool = Pool::new(Duration::ZERO, rate, Duration::from_millis(20), 1);
            let mut now = Duration::ZERO;
            for _ in 0..takes {
                pool.wait(1, 1.0);
                while pool.serve(now).is_none() {
                    let next = pool.poll_timeout().unwrap();
                    prop_assert!(next > now, "time must go on");
                    now = next;
                }
            }
        }
    }
}
