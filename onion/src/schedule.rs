//! Whose cell leaves next on a link. Three levels: classes by weight, inside a class the friends
//! whose cells they are in turn, inside a friend the tunnel that was quiet for longest.
//!
//! Cells have one size, so a fair share of bytes is a fair share of cells. Classes go by start time
//! (each has a clock that runs slower the more weight it has, the one that is furthest behind goes
//! next): deficit round robin with a quantum of one cell, without its bursts. Invariant: whenever
//! anything is ready and allowed, something leaves. Order of leaving: `docs/protocol/link.md`.

use crate::cell::CircId;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

/// For whom a cell travels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Class {
    /// This node, or the friend at the other end of the link.
    #[default]
    Own,
    /// Friends of friends: what is passed on, and what they are served.
    Fof,
    /// Circuits; there are none yet.
    Onion,
}

impl Class {
    /// Place in tables of three.
    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Own => 0,
            Self::Fof => 1,
            Self::Onion => 2,
        }
    }
}

/// What decides a tunnel's turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// For whom it travels.
    pub class: Class,
    /// The connection that its cells came in on; 0 for this node itself.
    pub from: u32,
}

/// Shares of a link that is busy. Any of them may use what the others leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weights {
    /// By class: own and direct friends', friends of friends', circuits'.
    pub classes: [u16; 3],
    /// Pages of the catalogue.
    pub bulk: u16,
}

impl Default for Weights {
    fn default() -> Self {
        Self { classes: [50, 30, 20], bulk: 20 }
    }
}

/// How many cells may leave now. Small control messages always may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Of all kinds.
    pub all: u32,
    /// By class.
    pub classes: [u32; 3],
}

impl Allowance {
    /// No limit.
    pub const ALL: Self = Self { all: u32::MAX, classes: [u32::MAX; 3] };

    /// One cell less, of this class or (`None`) of the control stream.
    pub(crate) fn use_up(&mut self, class: Option<Class>) {
        self.all = self.all.saturating_sub(1);
        if let Some(left) = class.and_then(|c| self.classes.get_mut(c.index())) {
            *left = left.saturating_sub(1);
        }
    }
}

/// How much a tunnel has sent lately: cells, each counting half after every half-life.
///
/// Kept as the logarithm of the sum of 2^(time of the cell), in half-lives: it compares the same at
/// any later time, so that a tunnel that waits need not be touched.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Recent(f64);

impl Recent {
    /// A cell leaves at `time`, in half-lives since any beginning.
    pub(crate) fn add(&mut self, time: f64) {
        let time = time + 1.0; // zero is "never"
        let before = self.0 - time;
        self.0 = if before < -60.0 { time } else { time + before.exp2().ln_1p() / std::f64::consts::LN_2 };
    }

    /// Orders like the value: it is never negative.
    const fn key(self) -> u64 {
        self.0.to_bits()
    }
}

/// Time in half-lives. Without a half-life time stands still and nothing counts as recent.
pub(crate) fn half_lives(now: Duration, half_life: Duration) -> f64 {
    if half_life.is_zero() { 0.0 } else { now.as_secs_f64() / half_life.as_secs_f64() }
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// A cell of the catalogue's pages.
    Bulk,
    /// A cell of a tunnel. Answered with [`Schedule::done`].
    Tunnel(CircId, Class),
}

/// A unit of a class's clock: a cell takes `UNIT / weight`.
const UNIT: u64 = 1 << 20;
const BULK: usize = 3;
/// Empty heaps that are kept for the next friend.
const MAX_SPARE: usize = 8;

type Heap = BinaryHeap<Reverse<(u64, u64, CircId)>>;

/// One friend's tunnels that have something to send, the quietest first.
#[derive(Debug)]
struct Sharer {
    from: u32,
    ready: Heap,
}

#[derive(Debug, Default)]
struct Lane {
    /// What one cell takes on the class's clock.
    step: u64,
    clock: u64,
    /// Friends in turn; each has something ready.
    sharers: VecDeque<Sharer>,
}

/// The waiting tunnels of one link.
#[derive(Debug)]
pub(crate) struct Schedule {
    lanes: [Lane; 4],
    /// Clock of the class that went last: who was away does not catch up.
    clock: u64,
    bulk_ready: bool,
    turns: u64,
    spare: Vec<Heap>,
    half_life: Duration,
}

impl Schedule {
    pub(crate) fn new(weights: Weights, half_life: Duration) -> Self {
        let [own, fof, onion] = weights.classes;
        let lane = |weight: u16| Lane { step: UNIT / u64::from(weight.max(1)), ..Lane::default() };
        Self {
            lanes: [lane(own), lane(fof), lane(onion), lane(weights.bulk)],
            clock: 0,
            bulk_ready: false,
            turns: 0,
            spare: Vec::new(),
            half_life,
        }
    }

    /// Time as [`Recent`] counts it.
    pub(crate) fn time(&self, now: Duration) -> f64 {
        half_lives(now, self.half_life)
    }

    /// A tunnel has something to send. Said once until its turn has come.
    pub(crate) fn ready(&mut self, circ: CircId, flow: Flow, recent: Recent) {
        let entry = self.entry(circ, recent);
        let Some(lane) = self.lanes.get_mut(flow.class.index()) else { return };
        if let Some(sharer) = lane.sharers.iter_mut().find(|s| s.from == flow.from) {
            sharer.ready.push(entry);
            return;
        }
        let mut ready = self.spare.pop().unwrap_or_default();
        ready.push(entry);
        lane.sharers.push_back(Sharer { from: flow.from, ready });
    }

    fn entry(&mut self, circ: CircId, recent: Recent) -> Reverse<(u64, u64, CircId)> {
        self.turns += 1;
        let key = if self.half_life.is_zero() { 0 } else { recent.key() };
        Reverse((key, self.turns, circ))
    }

    /// Whether pages of the catalogue wait.
    pub(crate) const fn set_bulk(&mut self, ready: bool) {
        self.bulk_ready = ready;
    }

    /// A tunnel is gone.
    pub(crate) fn remove(&mut self, circ: CircId, flow: Flow) {
        let Some(lane) = self.lanes.get_mut(flow.class.index()) else { return };
        lane.sharers.iter_mut().filter(|s| s.from == flow.from).for_each(|s| {
            s.ready.retain(|Reverse((.., other))| *other != circ);
        });
        lane.sharers.retain(|s| !s.ready.is_empty());
    }

    /// Whether a class has something to send.
    pub(crate) fn has(&self, class: usize) -> bool {
        self.lanes.get(class).is_some_and(|lane| !lane.sharers.is_empty())
    }

    /// Whether [`Schedule::next`] would give something.
    pub(crate) fn may_send(&self, allowance: &Allowance) -> bool {
        allowance.all > 0
            && (self.bulk_ready || (0..3).any(|class| self.has(class) && allows(allowance, class)))
    }

    /// Takes the next turn.
    pub(crate) fn next(&mut self, allowance: &Allowance) -> Option<Turn> {
        if allowance.all == 0 {
            return None;
        }
        let mut best: Option<(u64, usize)> = None;
        for (index, lane) in self.lanes.iter().enumerate() {
            let ready = match index {
                BULK => self.bulk_ready,
                class => !lane.sharers.is_empty() && allows(allowance, class),
            };
            let clock = lane.clock.max(self.clock);
            if ready && best.is_none_or(|(first, _)| clock < first) {
                best = Some((clock, index));
            }
        }
        let (clock, index) = best?;
        self.clock = clock;
        let lane = self.lanes.get_mut(index)?;
        lane.clock = clock + lane.step;
        let class = match index {
            0 => Class::Own,
            1 => Class::Fof,
            2 => Class::Onion,
            _ => return Some(Turn::Bulk),
        };
        let Reverse((.., circ)) = lane.sharers.front_mut()?.ready.pop()?;
        Some(Turn::Tunnel(circ, class))
    }

    /// The tunnel of the last turn has sent its cell; `again`: it has more, and so much sent lately.
    pub(crate) fn done(&mut self, circ: CircId, class: Class, again: Option<Recent>) {
        let entry = again.map(|recent| self.entry(circ, recent));
        let Some(lane) = self.lanes.get_mut(class.index()) else { return };
        let Some(mut sharer) = lane.sharers.pop_front() else { return };
        sharer.ready.extend(entry);
        if !sharer.ready.is_empty() {
            lane.sharers.push_back(sharer);
        } else if self.spare.len() < MAX_SPARE {
            self.spare.push(sharer.ready);
        }
    }
}

fn allows(allowance: &Allowance, class: usize) -> bool {
    allowance.classes.get(class).is_some_and(|left| *left > 0)
}
