//! What this node is to each tunnel of a link: the one who asks, the one who serves, or the common
//! friend in between. The state only; the core moves it. Format: `docs/protocol/tunnel.md`.

pub(crate) use crate::budget::Bucket;
use crate::circuit::StreamId;
use crate::core::relaying::RelayCircuit;
use crate::core::{FetchId, FriendKey};
use crate::link::{InWindow, WINDOW_MAX, WINDOW_MAX_ONION};
use crate::schedule::{Class, Flow};
use crate::session::{Assembler, Want};
use kith_crypto::content::{Position, Root, SEALED_LEN};
use kith_crypto::noise::Handshake;
use std::collections::VecDeque;
use std::time::Duration;

/// Requests of one peer that may wait at a holder, in blocks.
pub(crate) const MAX_WANTED: usize = 512;
/// Bytes that a holder queues ahead on one tunnel.
pub(crate) const SERVE_AHEAD: usize = 9 * SEALED_LEN;

/// A holder's side.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(crate) root: Root,
    /// Requests in the order in which they are answered: what has a deadline first.
    pub(crate) wanted: VecDeque<Position>,
    /// How many of the first of them have one.
    pub(crate) urgent: usize,
    /// Reads under way in the order of the requests: storage may answer out of order, and the
    /// requester verifies a block by the ones before it.
    pub(crate) reading: VecDeque<(Position, Option<ReadAnswer>)>,
    /// The first request has come; there is only one.
    pub(crate) started: bool,
    /// Bytes read ahead, as they stand in the sum over all sessions.
    pub(crate) counted: usize,
    /// It waits until less is read ahead for others.
    pub(crate) queued: bool,
}

/// What storage gave: the block, or that it cannot be read.
pub(crate) type ReadAnswer = Option<Vec<u8>>;

impl Serving {
    pub(crate) fn new(root: Root) -> Self {
        Self {
            root,
            wanted: VecDeque::new(),
            urgent: 0,
            reading: VecDeque::new(),
            started: false,
            counted: 0,
            queued: false,
        }
    }

    /// Takes a request.
    pub(crate) fn want(&mut self, want: Want) {
        if want.deadline_ms == u16::MAX {
            self.wanted.push_back(want.position);
        } else {
            self.wanted.insert(self.urgent.min(self.wanted.len()), want.position);
            self.urgent += 1;
        }
    }

    /// The request to answer next.
    pub(crate) fn next_wanted(&mut self) -> Option<Position> {
        self.urgent = self.urgent.saturating_sub(1);
        self.wanted.pop_front()
    }

    /// Takes requests back that were not begun.
    pub(crate) fn cancel(&mut self, positions: &[Position]) {
        let urgent = self.wanted.iter().take(self.urgent).filter(|p| !positions.contains(p)).count();
        self.wanted.retain(|p| !positions.contains(p));
        self.urgent = urgent;
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
    /// Passed the request on; the other side has not answered. `own`: the request is this node's own,
    /// which came back by way of a circuit: its answer is never chosen.
    Passing { others: Vec<(u32, u32)>, locator: [u8; 16], own: bool },
    /// Sent on for a friend's request, no answer yet.
    Passed,
    /// Forwards cells to the tunnel on the other link.
    Relaying { other: (u32, u32) },
    /// Nothing here: the refusal waits for its time.
    Refusing,
    /// Relay of a circuit, on the link that it came in on.
    CircuitIn(Box<RelayCircuit>),
    /// The circuit that came in there goes on here.
    CircuitOut { circuit: (u32, u32) },
    /// Own circuit, on the link to its first relay.
    Origin { own: u32 },
    /// Sent on for a request from this circuit, which ends here; no answer yet.
    Sought { circuit: (u32, u32) },
    /// Joined to a stream of this circuit, which ends here.
    Spliced { circuit: (u32, u32), stream: StreamId },
    /// Was a circuit: `DESTROY` waits for its time.
    Ending,
}

/// One tunnel on one link.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) role: Role,
    /// For whom it is, and whose cells leave in it.
    pub(crate) flow: Flow,
    pub(crate) window: InWindow,
    /// Timers that go when the tunnel goes, so that a later tunnel of the same number is left alone.
    pub(crate) timers: Vec<(Duration, u64)>,
}

impl Tunnel {
    pub(crate) fn new(role: Role) -> Self {
        Self { role, flow: Flow::default(), window: InWindow::default(), timers: Vec::new() }
    }

    /// A tunnel for such a flow.
    pub(crate) fn of(role: Role, flow: Flow) -> Self {
        let most = if flow.class == Class::Onion { WINDOW_MAX_ONION } else { WINDOW_MAX };
        Self { flow, window: InWindow::up_to(most), ..Self::new(role) }
    }

    /// Whether it is a tunnel, and not a side of a circuit: they are counted apart.
    pub(crate) const fn is_tunnel(&self) -> bool {
        use Role::{CircuitIn, CircuitOut, Ending, Origin};
        !matches!(self.role, CircuitIn(_) | CircuitOut { .. } | Origin { .. } | Ending)
    }

    /// What is served through it by this node.
    pub(crate) fn serving(&mut self) -> Option<&mut Serving> {
        match &mut self.role {
            Role::Serving { serving, .. } => Some(serving),
            Role::CircuitIn(circuit) => circuit.serving(),
            _ => None,
        }
    }
}

/// Links of a source that is reached through a circuit.
pub(crate) const ONION: u8 = u8::MAX;

/// A candidate source of a fetch and what came of asking it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) friend: FriendKey,
    /// Friend links to the holder: 1 direct, 2 through the friend, [`ONION`] through a circuit, whose
    /// source has no friend.
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
    fn what_has_a_deadline_leaves_first_and_in_its_own_order() {
        let mut serving = Serving::new(Root([0; 32]));
        let mut want =
            |index, deadline_ms| serving.want(Want { position: Position::Data(index), deadline_ms });
        for (index, deadline_ms) in [(1, u16::MAX), (2, 5), (3, u16::MAX), (4, 9), (5, 5)] {
            want(index, deadline_ms);
        }
        serving.cancel(&[Position::Data(4), Position::Data(3)]);
        serving.want(Want { position: Position::Data(6), deadline_ms: 0 });
        let order: Vec<_> = std::iter::from_fn(|| serving.next_wanted()).map(|p| p.index()).collect();
        assert_eq!(order, [2, 5, 6, 1]);
        serving.want(Want { position: Position::Data(7), deadline_ms: u16::MAX });
        serving.want(Want { position: Position::Data(8), deadline_ms: 0 });
        assert_eq!(serving.next_wanted().map(|p| p.index()), Some(8));
    }

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
}
