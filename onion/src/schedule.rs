//! Whose cell leaves next on a link. Three levels: classes by weight, inside a class the friends
//! whose cells they are in turn, inside a friend the tunnels, quiet ones first.
//!
//! Cells have one size, so a fair share of bytes is a fair share of cells. Classes go by start time
//! (each has a clock that runs slower the more weight it has, the one that is furthest behind goes
//! next): deficit round robin with a quantum of one cell, without its bursts. So do the tunnels of
//! one friend, but a tunnel that was quiet keeps some of what it did not use and goes first with it.
//! Invariant: whenever anything is ready and allowed, something leaves; nobody waits longer than
//! his weight and the kept cells of others make him. Order of leaving: `docs/protocol/link.md`.

use crate::cell::CircId;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// For whom a cell travels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Class {
    /// This node, or the friend at the other end of the link.
    #[default]
    Own,
    /// Friends of friends: what is passed on, and what they are served.
    Fof,
    /// Circuits, own and others'.
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

/// Cells that a tunnel may be ahead of the others of its friend, when it was quiet before. Holds
/// the first burst of a session: root, head, node block and four data blocks are 119 cells.
pub const QUIET_CELLS: u64 = 128;

/// Shares of a link that is busy. Any of them may use what the others leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weights {
    /// By class: own and direct friends', friends of friends', circuits'.
    pub classes: [u16; 3],
    /// Pages of the catalogue.
    pub bulk: u16,
    /// Cells that a quiet tunnel may be ahead of the others; 0: all in turn.
    pub quiet_cells: u64,
}

impl Default for Weights {
    fn default() -> Self {
        Self { classes: [50, 30, 20], bulk: 20, quiet_cells: QUIET_CELLS }
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

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// A cell of the catalogue's pages.
    Bulk,
    /// A cell of a tunnel. Answered with [`Schedule::done`].
    Tunnel(Served),
}

/// A tunnel whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// Which.
    pub circ: CircId,
    /// Its class.
    pub class: Class,
    /// What it has sent with this cell, as its friend's tunnels are compared.
    pub sent: u64,
}

/// A unit of a class's clock: a cell takes `UNIT / weight`.
const UNIT: u64 = 1 << 20;
const BULK: usize = 3;
/// Empty heaps that are kept for the next friend.
const MAX_SPARE: usize = 8;

type Heap = BinaryHeap<Reverse<(u64, u64, CircId)>>;

/// One friend's tunnels that have something to send, the one that has sent least first.
#[derive(Debug)]
struct Sharer {
    from: u32,
    ready: Heap,
    /// Where busy tunnels stand: cells that each of them has sent.
    clock: u64,
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
pub struct Schedule {
    lanes: [Lane; 4],
    /// Clock of the class that went last: who was away does not catch up.
    clock: u64,
    bulk_ready: bool,
    turns: u64,
    spare: Vec<Heap>,
    quiet_cells: u64,
}

impl Schedule {
    /// Nothing waits.
    pub fn new(weights: Weights) -> Self {
        let [own, fof, onion] = weights.classes;
        let lane = |weight| Lane { step: step(weight), ..Lane::default() };
        Self {
            lanes: [lane(own), lane(fof), lane(onion), lane(weights.bulk)],
            clock: 0,
            bulk_ready: false,
            turns: 0,
            spare: Vec::new(),
            quiet_cells: weights.quiet_cells,
        }
    }

    /// Sets other shares. They hold from each class's next turn on: what it has had stays counted.
    pub fn set_weights(&mut self, weights: Weights) {
        let [own, fof, onion] = weights.classes;
        for (lane, weight) in self.lanes.iter_mut().zip([own, fof, onion, weights.bulk]) {
            lane.step = step(weight);
        }
        self.quiet_cells = weights.quiet_cells;
    }

    /// A tunnel has something to send. Said once until its turn has come. `sent`: what it has sent,
    /// as [`Schedule::next`] counted it last, or 0.
    pub fn ready(&mut self, circ: CircId, flow: Flow, sent: u64) {
        self.turns += 1;
        let turn = self.turns;
        let Some(lane) = self.lanes.get_mut(flow.class.index()) else { return };
        if let Some(sharer) = lane.sharers.iter_mut().find(|s| s.from == flow.from) {
            // What was not used long ago is forgotten, and so is what another friend's clock said.
            let sent = sent.clamp(sharer.clock.saturating_sub(self.quiet_cells), sharer.clock + 1);
            sharer.ready.push(Reverse((sent, turn, circ)));
            return;
        }
        // Alone: where it stands is what the others are measured by, with room to be behind. A new
        // tunnel was quiet until now.
        let clock = sent.max(self.quiet_cells);
        let sent = if sent == 0 { clock - self.quiet_cells } else { clock };
        let mut ready = self.spare.pop().unwrap_or_default();
        ready.push(Reverse((sent, turn, circ)));
        lane.sharers.push_back(Sharer { from: flow.from, ready, clock });
    }

    /// Whether pages of the catalogue wait.
    pub const fn set_bulk(&mut self, ready: bool) {
        self.bulk_ready = ready;
    }

    /// A tunnel is gone.
    pub fn remove(&mut self, circ: CircId, flow: Flow) {
        let Some(lane) = self.lanes.get_mut(flow.class.index()) else { return };
        lane.sharers.iter_mut().filter(|s| s.from == flow.from).for_each(|s| {
            s.ready.retain(|Reverse((.., other))| *other != circ);
        });
        lane.sharers.retain(|s| !s.ready.is_empty());
    }

    /// Whether a class has something to send.
    pub fn has(&self, class: usize) -> bool {
        self.lanes.get(class).is_some_and(|lane| !lane.sharers.is_empty())
    }

    /// Whether [`Schedule::next`] would give something.
    pub fn may_send(&self, allowance: &Allowance) -> bool {
        allowance.all > 0
            && (self.bulk_ready || (0..3).any(|class| self.has(class) && allows(allowance, class)))
    }

    /// Takes the next turn.
    pub fn next(&mut self, allowance: &Allowance) -> Option<Turn> {
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
        let sharer = lane.sharers.front_mut()?;
        let Reverse((sent, _, circ)) = sharer.ready.pop()?;
        sharer.clock = sharer.clock.max(sent);
        Some(Turn::Tunnel(Served { circ, class, sent: sent + 1 }))
    }

    /// The tunnel of the last turn has sent its cell; `again`: it has more.
    pub fn done(&mut self, served: Served, again: bool) {
        self.turns += 1;
        let Some(lane) = self.lanes.get_mut(served.class.index()) else { return };
        let Some(mut sharer) = lane.sharers.pop_front() else { return };
        if again {
            sharer.ready.push(Reverse((served.sent, self.turns, served.circ)));
        }
        if !sharer.ready.is_empty() {
            lane.sharers.push_back(sharer);
        } else if self.spare.len() < MAX_SPARE {
            self.spare.push(sharer.ready);
        }
    }
}

fn step(weight: u16) -> u64 {
    UNIT / u64::from(weight.max(1))
}

fn allows(allowance: &Allowance, class: usize) -> bool {
    allowance.classes.get(class).is_some_and(|left| *left > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn flow(class: Class, from: u32) -> Flow {
        Flow { class, from }
    }

    /// Tunnels that always have more to send.
    struct Busy {
        schedule: Schedule,
        sent: BTreeMap<CircId, u32>,
        bulk: u32,
    }

    impl Busy {
        fn new(weights: Weights, tunnels: &[(CircId, Flow)]) -> Self {
            let mut schedule = Schedule::new(weights);
            tunnels.iter().for_each(|(circ, flow)| schedule.ready(*circ, *flow, 0));
            Self { schedule, sent: BTreeMap::new(), bulk: 0 }
        }

        fn turn(&mut self, allowance: &Allowance) -> Option<Turn> {
            let turn = self.schedule.next(allowance)?;
            match turn {
                Turn::Bulk => self.bulk += 1,
                Turn::Tunnel(served) => {
                    *self.sent.entry(served.circ).or_default() += 1;
                    self.schedule.done(served, true);
                }
            }
            Some(turn)
        }

        fn turns(&mut self, count: u32) {
            (0..count).for_each(|_| assert!(self.turn(&Allowance::ALL).is_some(), "work conserving"));
        }

        fn share(&self, circs: std::ops::Range<CircId>) -> u32 {
            self.sent.range(circs).map(|(_, n)| n).sum()
        }
    }

    #[test]
    fn classes_share_by_weight_and_use_what_others_leave() {
        let tunnels = [(1, flow(Class::Own, 0)), (2, flow(Class::Fof, 7)), (3, flow(Class::Onion, 8))];
        let mut busy = Busy::new(Weights::default(), &tunnels);
        busy.turns(10_000);
        for (circ, share) in [(1, 5_000), (2, 3_000), (3, 2_000)] {
            assert!(busy.sent[&circ].abs_diff(share) <= 10, "{circ}: {}", busy.sent[&circ]);
        }
        busy.schedule.set_bulk(true);
        busy.turns(12_000);
        assert!(busy.bulk.abs_diff(2_000) <= 10, "pages share too: {}", busy.bulk);
        // One class alone has it all.
        let mut busy = Busy::new(Weights::default(), &[(3, flow(Class::Onion, 8))]);
        busy.turns(100);
        assert_eq!(busy.sent[&3], 100);
    }

    #[test]
    fn other_weights_hold_at_once() {
        let tunnels = [(1, flow(Class::Own, 0)), (2, flow(Class::Fof, 7)), (3, flow(Class::Onion, 8))];
        let mut busy = Busy::new(Weights::default(), &tunnels);
        busy.turns(1_000);
        busy.sent.clear();
        busy.schedule.set_weights(Weights { classes: [5, 3, 72], ..Weights::default() });
        busy.turns(8_000);
        for (circ, share) in [(1, 500), (2, 300), (3, 7_200)] {
            assert!(busy.sent[&circ].abs_diff(share) <= 10, "{circ}: {}", busy.sent[&circ]);
        }
    }

    #[test]
    fn many_tunnels_of_one_friend_are_one_friend() {
        let greedy = (10..74).map(|circ| (circ, flow(Class::Fof, 1)));
        let tunnels: Vec<_> = greedy.chain([(2, flow(Class::Fof, 2)), (3, flow(Class::Fof, 3))]).collect();
        let mut busy = Busy::new(Weights::default(), &tunnels);
        busy.turns(9_000);
        for n in [busy.share(10..74), busy.share(2..3), busy.share(3..4)] {
            assert!(n.abs_diff(3_000) <= 2, "{n}");
        }
        let each: Vec<u32> = (10..74).map(|circ| busy.sent[&circ]).collect();
        assert!(each.iter().max().unwrap() - each.iter().min().unwrap() <= 1, "and they share alike");
    }

    #[test]
    fn a_quiet_tunnel_goes_first_and_a_new_one_starves_nobody() {
        let bulk: Vec<_> = (10..20).map(|circ| (circ, flow(Class::Own, 0))).collect();
        let mut busy = Busy::new(Weights::default(), &bulk);
        busy.turns(10_000);
        // It sends a cell now and then: each leaves at once.
        let mut sent = 0;
        for _ in 0..50 {
            busy.schedule.ready(2, flow(Class::Own, 0), sent);
            let Some(Turn::Tunnel(served)) = busy.schedule.next(&Allowance::ALL) else { panic!("a turn") };
            assert_eq!(served.circ, 2, "the quiet one first");
            sent = served.sent;
            busy.schedule.done(served, false);
            busy.turns(40);
        }
        // One that sends without end is ahead by what it may keep, and then like the others.
        busy.schedule.ready(3, flow(Class::Own, 0), 0);
        let before = busy.share(10..20);
        busy.turns(QUIET_CELLS as u32 + 10);
        assert!(busy.share(10..20) - before >= 9, "others wait for {QUIET_CELLS} cells at most");
        busy.turns(1_100);
        assert!(busy.sent[&3].abs_diff(QUIET_CELLS as u32 + 100) <= 2, "{}", busy.sent[&3]);
    }

    #[test]
    fn a_class_that_was_away_does_not_catch_up() {
        let mut busy = Busy::new(Weights::default(), &[(1, flow(Class::Own, 0)), (2, flow(Class::Fof, 7))]);
        let no_fof = Allowance { all: u32::MAX, classes: [u32::MAX, 0, u32::MAX] };
        (0..1_000).for_each(|_| assert!(busy.turn(&no_fof).is_some()));
        assert_eq!(busy.sent.get(&2), None, "what is not allowed does not leave");
        busy.turns(80);
        assert!(busy.sent[&2].abs_diff(30) <= 1, "{}", busy.sent[&2]);
        assert!(busy.turn(&Allowance { all: 0, classes: [1; 3] }).is_none());
    }

    proptest! {
        /// Whoever is ready gets its share of any run of turns, whatever else is there.
        #[test]
        fn nobody_starves(weights in proptest::array::uniform3(1_u16..100),
                          tunnels in proptest::collection::btree_map(1_u32..500, (0_usize..3, 0_u32..5), 1..60)) {
            let classes = [Class::Own, Class::Fof, Class::Onion];
            let tunnels: Vec<_> =
                tunnels.into_iter().map(|(circ, (class, from))| (circ, flow(classes[class], from))).collect();
            let settings = Weights { classes: weights, ..Weights::default() };
            let mut busy = Busy::new(settings, &tunnels);
            busy.turns(20_000);
            let present: u32 = (0..3)
                .filter(|i| tunnels.iter().any(|t| t.1.class.index() == *i))
                .map(|i| u32::from(weights[i]))
                .sum();
            for (circ, flow) in &tunnels {
                let same = tunnels.iter().filter(|t| t.1 == *flow).count() as u32;
                let mut friends: Vec<u32> =
                    tunnels.iter().filter(|t| t.1.class == flow.class).map(|t| t.1.from).collect();
                friends.sort_unstable();
                friends.dedup();
                let class = 20_000 * u32::from(weights[flow.class.index()]) / present;
                let due = class / friends.len() as u32 / same;
                let got = busy.sent.get(circ).copied().unwrap_or_default();
                prop_assert!(got.abs_diff(due) <= due / 20 + 3, "{circ}: {got} of {due}");
            }
        }

        /// Tunnels come, go quiet and end in any order: nothing is lost, nobody is served twice.
        #[test]
        fn every_ready_tunnel_has_its_turn(steps in proptest::collection::vec((0_u8..4, 1_u32..20, 0_u32..3), 1..300)) {
            let mut schedule = Schedule::new(Weights::default());
            let mut ready: BTreeMap<CircId, Flow> = BTreeMap::new();
            for (what, circ, from) in steps {
                let known = ready.get(&circ).copied();
                match (what, known) {
                    (0, None) => {
                        let flow = flow(Class::Fof, from);
                        schedule.ready(circ, flow, u64::from(circ));
                        ready.insert(circ, flow);
                    }
                    (1, Some(flow)) => {
                        schedule.remove(circ, flow);
                        ready.remove(&circ);
                    }
                    _ => match schedule.next(&Allowance::ALL) {
                        Some(Turn::Tunnel(served)) => {
                            prop_assert!(ready.contains_key(&served.circ));
                            let again = what == 2;
                            if !again {
                                ready.remove(&served.circ);
                            }
                            schedule.done(served, again);
                        }
                        other => prop_assert!(other.is_none() && ready.is_empty()),
                    },
                }
                prop_assert_eq!(schedule.may_send(&Allowance::ALL), !ready.is_empty());
            }
        }
    }
}
