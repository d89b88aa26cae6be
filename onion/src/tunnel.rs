//! What this node is to each tunnel of a link: the one who asks, the one who serves, or the common
//! friend in between. The state only; the core moves it. Format: `docs/protocol/tunnel.md`.

use crate::core::{FetchId, FriendKey};
use crate::link::InWindow;
use crate::session::Assembler;
use kith_crypto::content::{Position, Root};
use kith_crypto::noise::Handshake;
use std::collections::VecDeque;
use std::time::Duration;

/// Requests of one peer that may wait at a holder, in blocks.
pub(crate) const MAX_WANTED: usize = 128;
/// Bytes that a holder queues ahead on one tunnel.
pub(crate) const SERVE_AHEAD: usize = 512 * 1024;

/// A holder's side.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(crate) root: Root,
    pub(crate) wanted: VecDeque<Position>,
    /// Reads under way in the order of the requests: storage may answer out of order, and the
    /// requester verifies a block by the ones before it.
    pub(crate) reading: VecDeque<(Position, Option<ReadAnswer>)>,
    /// The first request has come; there is only one.
    pub(crate) started: bool,
}

/// What storage gave: the block, or that it cannot be read.
pub(crate) type ReadAnswer = Option<Vec<u8>>;

impl Serving {
    pub(crate) fn new(root: Root) -> Self {
        Self { root, wanted: VecDeque::new(), reading: VecDeque::new(), started: false }
    }

    /// Takes an answer of storage and returns what can be sent now, in order.
    pub(crate) fn read(&mut self, position: Position, answer: ReadAnswer) -> Vec<(Position, ReadAnswer)> {
        let mut waiting = self.reading.iter_mut();
        if let Some((_, slot)) = waiting.find(|(p, slot)| *p == position && slot.is_none()) {
            *slot = Some(answer);
        }
        let mut ready = Vec::new();
        while let Some((position, Some(_))) = self.reading.front() {
            let position = *position;
            if let Some((_, Some(answer))) = self.reading.pop_front() {
                ready.push((position, answer));
            }
        }
        ready
    }
}

/// This node's part in a tunnel.
#[derive(Debug)]
pub(crate) enum Role {
    /// Asked for a tunnel, no answer yet.
    Asking { fetch: FetchId, noise: Box<Handshake>, sealed: bool },
    /// Fetches through it.
    Fetching { fetch: FetchId, assembler: Assembler },
    /// Holder: the answer waits for its delay.
    Answering,
    /// Holder: serves through it.
    Serving { serving: Serving, assembler: Assembler },
    /// Passed the request on; the other side has not answered.
    Passing { others: Vec<(u32, u32)>, locator: [u8; 16] },
    /// Sent on for a friend's request, no answer yet.
    Passed,
    /// Forwards cells to the tunnel on the other link.
    Relaying { other: (u32, u32) },
    /// Nothing here: the refusal waits for its time.
    Refusing,
}

/// One tunnel on one link.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) role: Role,
    pub(crate) window: InWindow,
    /// Timers that go when the tunnel goes, so that a later tunnel of the same number is left alone.
    pub(crate) timers: Vec<(Duration, u64)>,
}

impl Tunnel {
    pub(crate) fn new(role: Role) -> Self {
        Self { role, window: InWindow::default(), timers: Vec::new() }
    }
}

/// A token bucket: `rate` a second, at most `burst` saved.
#[derive(Debug)]
pub(crate) struct Bucket {
    rate: f64,
    burst: f64,
    tokens: f64,
    at: Duration,
}

impl Bucket {
    pub(crate) const fn new(rate: f64, burst: f64) -> Self {
        Self { rate, burst, tokens: burst, at: Duration::ZERO }
    }

    /// Takes a token if there is one.
    pub(crate) fn take(&mut self, now: Duration) -> bool {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.at = now;
        self.tokens = (self.tokens + passed * self.rate).min(self.burst);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

/// A candidate source of a fetch and what came of asking it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) friend: FriendKey,
    /// Friend links to the holder: 1 direct, 2 through the friend.
    pub(crate) links: u8,
    pub(crate) state: SourceState,
    /// Sessions that ended without bringing anything since the last block from here.
    pub(crate) failures: u32,
}

impl Source {
    /// Whether the source was asked, or serves, through this tunnel.
    pub(crate) fn uses(&self, tunnel: (u32, u32)) -> bool {
        matches!(self.state, SourceState::Asked(t) | SourceState::Open(t) if t == tunnel)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SourceState {
    /// Not asked, or to be asked again after this time.
    Idle { not_before: Duration },
    /// A request is under way on this tunnel.
    Asked((u32, u32)),
    /// A session stands on this tunnel.
    Open((u32, u32)),
    /// It lied; never again.
    Liar,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_leave_in_the_order_of_the_requests() {
        let mut serving = Serving::new(Root([0; 32]));
        let positions = [Position::Root, Position::Head, Position::Data(0)];
        serving.reading.extend(positions.map(|p| (p, None)));
        assert!(serving.read(Position::Data(0), Some(vec![3])).is_empty());
        assert!(serving.read(Position::Head, None).is_empty());
        let ready = serving.read(Position::Root, Some(vec![1]));
        assert_eq!(ready.iter().map(|r| r.0).collect::<Vec<_>>(), positions);
        assert!(serving.reading.is_empty() && ready[1].1.is_none());
    }

    #[test]
    fn bucket_refills() {
        let mut bucket = Bucket::new(2.0, 3.0);
        let at = Duration::from_secs(5);
        assert_eq!((0..5).filter(|_| bucket.take(at)).count(), 3);
        assert!(bucket.take(at + Duration::from_millis(600)));
        assert!(!bucket.take(at + Duration::from_millis(700)));
    }
}
