//! A connection between two nodes: two byte pipes with latency, bandwidth and a bounded buffer.
//! Invariant: bytes of one direction arrive in order and exactly once, or the connection is lost.

use super::NodeId;
use kith_onion::ConnId;
use std::collections::VecDeque;
use std::time::Duration;

/// Names a wire for the whole run.
pub type WireId = usize;
/// First bytes of each direction that are kept for replays.
const KEPT: usize = 4096;

/// How a wire carries bytes.
#[derive(Clone, Copy, Debug)]
pub struct Quality {
    /// Time from one end to the other.
    pub latency: Duration,
    /// Bytes per second in each direction.
    pub bandwidth: u64,
    /// Bytes that may be under way in each direction.
    pub buffer: usize,
}

impl Default for Quality {
    fn default() -> Self {
        Self { latency: Duration::from_millis(15), bandwidth: 4_000_000, buffer: 256 * 1024 }
    }
}

/// Who stands at one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Nobody any more, or not yet.
    Gone,
    /// A connection of a node's core, in one of the node's lives.
    Node {
        /// Which node.
        node: NodeId,
        /// Which of its lives.
        life: u32,
        /// Which connection.
        conn: ConnId,
    },
    /// A stranger without a core: what arrives is kept.
    Stranger,
}

/// One direction.
#[derive(Clone, Debug, Default)]
pub struct Flow {
    /// Bytes written and not delivered.
    pub under_way: usize,
    /// When the sender's line is free again.
    pub free_at: Duration,
    /// No byte arrives before the one that was written earlier.
    pub last_arrival: Duration,
    /// Bytes written in all.
    pub written: u64,
    /// The first bytes written.
    pub first: Vec<u8>,
}

/// A connection.
#[derive(Debug)]
pub struct Wire {
    /// Dialling end first.
    pub ends: [End; 2],
    /// Nodes at the ends, for look-ups after an end is gone; `None` for a stranger.
    pub nodes: [Option<NodeId>; 2],
    /// Flow `i` carries what end `i` writes.
    pub flows: [Flow; 2],
    /// What arrived at each end and was not read.
    pub(super) unread: [VecDeque<Vec<u8>>; 2],
    /// What it can do.
    pub quality: Quality,
    /// Nothing arrives any more.
    pub cut: bool,
    /// When an end was closed or lost.
    pub ended_at: Option<Duration>,
    /// What a stranger at end 0 was sent.
    pub received: Vec<u8>,
    /// How much of it had come at which times.
    pub received_at: Vec<(usize, Duration)>,
}

impl Wire {
    /// A wire whose ends are not attached yet.
    pub fn new(nodes: [Option<NodeId>; 2], quality: Quality) -> Self {
        Self {
            ends: [End::Gone, End::Gone],
            nodes,
            flows: [Flow::default(), Flow::default()],
            unread: [VecDeque::new(), VecDeque::new()],
            quality,
            cut: false,
            ended_at: None,
            received: Vec::new(),
            received_at: Vec::new(),
        }
    }

    /// Bytes that a node has written.
    pub fn written_by(&self, node: NodeId) -> u64 {
        let side = self.nodes.iter().position(|n| *n == Some(node));
        side.and_then(|side| self.flows.get(side)).map_or(0, |flow| flow.written)
    }

    /// `side` has taken so many bytes off the wire: there is room again.
    pub(super) fn take(&mut self, side: usize, bytes: usize) -> &mut Self {
        let flow = &mut self.flows[1 - side];
        flow.under_way = flow.under_way.saturating_sub(bytes);
        self
    }

    /// Room for bytes that `side` writes.
    pub fn room(&self, side: usize) -> usize {
        self.quality.buffer.saturating_sub(self.flows[side].under_way)
    }

    /// `side` writes `bytes` now: when they arrive.
    pub fn write(&mut self, now: Duration, side: usize, bytes: &[u8]) -> Duration {
        let flow = &mut self.flows[side];
        flow.under_way += bytes.len();
        flow.written += bytes.len() as u64;
        let keep = KEPT.saturating_sub(flow.first.len()).min(bytes.len());
        flow.first.extend_from_slice(&bytes[..keep]);
        let sending =
            Duration::from_nanos(bytes.len() as u64 * 1_000_000_000 / self.quality.bandwidth.max(1));
        flow.free_at = flow.free_at.max(now) + sending;
        flow.last_arrival = flow.last_arrival.max(flow.free_at + self.quality.latency);
        flow.last_arrival
    }
}
