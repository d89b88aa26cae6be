//! The route policy: which friends and handles this node's circuits go through, and for how long.
//! It decides anonymity more than anything else (`docs/protocol/circuit.md`): in a friend graph that
//! an adversary knows, every further route to the same end shows more of where it begins.
//!
//! Invariants: guards change because of age or the owner's word only, never because of failure; the
//! second hop is the same for everything this node does; nothing here depends on what is fetched
//! except [`Routes::slot_of`]. What was drawn stays drawn over restarts: whoever gets `changed` stores
//! [`Routes::encode`] before using the result. Building circuits and timing are the caller's.

mod contexts;
mod stored;

pub use contexts::{MAX_CONTEXTS, MAX_ROUTES, RouteName, TooManyRoutes};

use crate::core::FriendKey;
use crate::handle::{Handle, Listed};
use contexts::Contexts;
use kith_crypto::kdf::{self, Label};
use kith_crypto::rng::Rng;
use kith_crypto::secret::Key;
use std::collections::BTreeSet;

/// Sticky third hops per pair.
pub const SLOTS: usize = 3;
/// Most relays in a route: the tags of a cell have room for six.
pub const MAX_RELAYS: usize = 6;

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;
/// Life of a guard, shortest and longest.
const GUARD_MS: (u64, u64) = (60 * DAY_MS, 90 * DAY_MS);
/// Life of a later hop, shortest and longest.
const HOP_MS: (u64, u64) = (30 * DAY_MS, 60 * DAY_MS);
/// How long a hop may be missing from the list, or a third hop fail, until it is replaced.
const REPAIR_AFTER_MS: u64 = 10 * MINUTE_MS;
/// How long a second hop may fail until it is replaced.
const SECOND_REPAIR_AFTER_MS: u64 = DAY_MS;
/// Failures further apart than this are not one failure that lasts: the node may have been off.
const FAILURE_GAP_MS: u64 = 6 * HOUR_MS;
/// Handles of this node itself that are remembered per pair.
const MAX_UNSUITABLE: usize = 16;

/// How the owner trusts a friend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trust {
    /// Marked close.
    Close,
    /// Not marked.
    Normal,
    /// Marked low: never a guard, never listed.
    Low,
}

impl Trust {
    /// Weight among friends who share what is scarce, before what each gave.
    pub const fn weight(self) -> f64 {
        match self {
            Self::Close => 4.0,
            Self::Normal => 2.0,
            Self::Low => 1.0,
        }
    }
}

/// Where guards come from: close friends while there are any, then verified ones, then all
/// that are not marked low. The order is from the best to the worst.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Tier {
    /// Friends marked close.
    Close,
    /// Friends whose fingerprint was compared.
    Verified,
    /// All that are not marked low.
    All,
}

/// A friend, as far as the choice of guards goes.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// The friend.
    pub friend: FriendKey,
    /// How it is trusted.
    pub trust: Trust,
    /// Its fingerprint was compared.
    pub verified: bool,
    /// How much of the time it is on line, in 255ths.
    pub uptime: u8,
    /// It has announced an onion key that still holds, so that it can be used now.
    pub can_relay: bool,
}

impl Candidate {
    const fn tier(&self) -> Option<Tier> {
        match (self.trust, self.verified) {
            (Trust::Close, _) => Some(Tier::Close),
            (Trust::Normal, true) => Some(Tier::Verified),
            (Trust::Normal, false) => Some(Tier::All),
            (Trust::Low, _) => None,
        }
    }
}

/// Which of the two guards with what follows it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Pair {
    /// The one in use.
    Primary,
    /// The one for when the primary does not work.
    Reserve,
}

/// A hop as the policy has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// The hop to use; `None`: wait, or use the other pair.
    pub chosen: Option<Handle>,
    /// Store the routes before using it.
    pub changed: bool,
}

/// The routes of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    tier: Option<Tier>,
    primary: Way,
    reserve: Way,
    contexts: Contexts,
}

/// A guard and what follows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Way {
    guard: Option<Guard>,
    second: Option<Hop>,
    /// Per slot the third relay and those behind it.
    slots: [Vec<Hop>; SLOTS],
    /// Handles that turned out to be this node, the newest last.
    unsuitable: Vec<Handle>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Guard {
    friend: FriendKey,
    until_ms: u64,
}

/// A sticky hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hop {
    handle: Handle,
    until_ms: u64,
    /// Since when lists have lacked it.
    absent_ms: Option<u64>,
    /// The first and the last failure since it worked.
    failing_ms: Option<(u64, u64)>,
    /// It is to be replaced by another one, if there is one.
    is_spent: bool,
}

impl Routes {
    const fn way(&self, pair: Pair) -> &Way {
        match pair {
            Pair::Primary => &self.primary,
            Pair::Reserve => &self.reserve,
        }
    }

    const fn way_mut(&mut self, pair: Pair) -> &mut Way {
        match pair {
            Pair::Primary => &mut self.primary,
            Pair::Reserve => &mut self.reserve,
        }
    }

    // Guards.

    /// Where the guards come from; `None` before there is one.
    pub const fn tier(&self) -> Option<Tier> {
        self.tier
    }

    /// The friend that is the guard of a pair.
    pub fn guard(&self, pair: Pair) -> Option<FriendKey> {
        self.way(pair).guard.map(|guard| guard.friend)
    }

    /// Draws guards that are missing or past their age, and replaces one that is no friend any more,
    /// is marked low, or comes from a worse tier than there is now; never because of failure, slowness
    /// or being offline. `candidates` are all friends. True: changed, store before use.
    ///
    /// Only friends that can relay are drawn, and only they and the guards that stand make a tier: a
    /// close friend whose node has never carried circuits must not leave the owner without any.
    pub fn refresh(&mut self, unix_ms: u64, candidates: &[Candidate], rng: &mut Rng) -> bool {
        let before = (self.tier, self.primary.guard, self.reserve.guard);
        let tier_of =
            |guard: &Guard| candidates.iter().find(|c| c.friend == guard.friend).and_then(Candidate::tier);
        let able = candidates.iter().filter(|c| c.can_relay).filter_map(Candidate::tier);
        let guards = self.primary.guard.iter().chain(&self.reserve.guard);
        let standing = guards.filter(|guard| unix_ms < guard.until_ms).filter_map(tier_of);
        let best = able.chain(standing).min();
        let holds = |guard: &Guard| tier_of(guard).is_some_and(|tier| best.is_none_or(|best| tier <= best));
        for way in [&mut self.primary, &mut self.reserve] {
            if way.guard.as_ref().is_some_and(|guard| !holds(guard)) {
                *way = Way::default();
            }
            if let Some(guard) = &mut way.guard {
                // Drawn while the clock was far ahead.
                guard.until_ms = guard.until_ms.min(unix_ms.saturating_add(GUARD_MS.1));
            }
        }
        if self.primary.guard.is_none() {
            // The reserve has been a guard already: a third friend would be one more that sees.
            self.primary = std::mem::take(&mut self.reserve);
        }
        for pair in [Pair::Primary, Pair::Reserve] {
            if self.way(pair).guard.is_none_or(|guard| guard.until_ms <= unix_ms) {
                self.draw_guard(pair, best, unix_ms, candidates, rng);
            }
        }
        self.tier = self.primary.guard.as_ref().and_then(tier_of);
        before != (self.tier, self.primary.guard, self.reserve.guard)
    }

    fn draw_guard(
        &mut self,
        pair: Pair,
        best: Option<Tier>,
        unix_ms: u64,
        candidates: &[Candidate],
        rng: &mut Rng,
    ) {
        let other = self.guard(if pair == Pair::Primary { Pair::Reserve } else { Pair::Primary });
        let fits = |c: &&Candidate| c.can_relay && c.tier() == best && Some(c.friend) != other;
        let from: Vec<&Candidate> = candidates.iter().filter(fits).collect();
        let weights = from.iter().map(|c| u64::from(c.uptime) + 32);
        let Some(drawn) = pick(weights, rng).and_then(|i| from.get(i)) else { return };
        let until_ms = unix_ms.saturating_add(rng.range(GUARD_MS.0, GUARD_MS.1));
        let way = self.way_mut(pair);
        if way.guard.is_none_or(|guard| guard.friend != drawn.friend) {
            *way = Way::default();
        }
        way.guard = Some(Guard { friend: drawn.friend, until_ms });
    }

    // Later hops.

    /// The second hop, from the guard's list: the same for at least 30 days, as long as the list has
    /// it. A list that lacks it leads to a new draw only after ten minutes of that, unless `playback`
    /// needs a route now; `chosen` is `None` until then.
    pub fn second(
        &mut self,
        pair: Pair,
        list: &[Listed],
        unix_ms: u64,
        playback: bool,
        rng: &mut Rng,
    ) -> Step {
        let way = self.way_mut(pair);
        if way.guard.is_none() {
            return Step { chosen: None, changed: false };
        }
        let offer = Offer { list, unsuitable: &way.unsuitable, taken: BTreeSet::new(), unix_ms, playback };
        let (step, is_other) = offer.stick_to(&mut way.second, rng);
        if is_other {
            way.slots = Default::default();
        }
        step
    }

    /// The relay number `hop` (from 0, so 2 is the third relay) of a slot, from the list of the one
    /// before it; held like the second hop. Third hops differ from slot to slot as long as the list
    /// allows that.
    #[allow(clippy::too_many_arguments)] // Parts of one question; a struct would only move them.
    pub fn next(
        &mut self,
        pair: Pair,
        slot: usize,
        hop: usize,
        list: &[Listed],
        unix_ms: u64,
        playback: bool,
        rng: &mut Rng,
    ) -> Step {
        let nothing = Step { chosen: None, changed: false };
        let way = self.way_mut(pair);
        let Some(at) = hop.checked_sub(2).filter(|_| hop < MAX_RELAYS && way.second.is_some()) else {
            return nothing;
        };
        let mut taken = BTreeSet::new();
        if at == 0 {
            let others = way.slots.iter().enumerate().filter(|(i, _)| *i != slot);
            taken.extend(others.filter_map(|(_, hops)| hops.first()).map(|hop| hop.handle));
        }
        let offer = Offer { list, unsuitable: &way.unsuitable, taken, unix_ms, playback };
        let Some(hops) = way.slots.get_mut(slot).filter(|hops| at <= hops.len()) else { return nothing };
        let mut held = hops.get(at).copied();
        let (step, is_other) = offer.stick_to(&mut held, rng);
        if is_other {
            hops.truncate(at);
        }
        match (hops.get_mut(at), held) {
            (Some(place), Some(held)) => *place = held,
            (None, Some(held)) => hops.push(held),
            (_, None) => {}
        }
        step
    }

    /// Whether a list has anybody who may be a relay.
    pub fn offers(&self, pair: Pair, list: &[Listed]) -> bool {
        let unsuitable = &self.way(pair).unsuitable;
        list.iter().any(|listed| !unsuitable.contains(&listed.handle))
    }

    // How they do.

    /// A build or a circuit over a slot failed having reached so many relays. Guards never change by
    /// it. A second hop that does not answer is replaced after a day of that; a later hop after ten
    /// minutes, with `playback` at once. When all relays were reached, the last one is held
    /// responsible, as nothing tells who ended a circuit.
    /// Returns whether that changed anything.
    pub fn failed(&mut self, pair: Pair, slot: usize, reached: usize, unix_ms: u64, playback: bool) -> bool {
        let way = self.way_mut(pair);
        let (hop, after) = match reached {
            0 => return false,
            1 => (way.second.as_mut(), SECOND_REPAIR_AFTER_MS),
            _ => {
                let Some(hops) = way.slots.get_mut(slot) else { return false };
                let at = (reached - 2).min(hops.len().saturating_sub(1));
                (hops.get_mut(at), if playback { 0 } else { REPAIR_AFTER_MS })
            }
        };
        let Some(hop) = hop else { return false };
        let before = *hop;
        hop.fail(unix_ms, after);
        before != *hop
    }

    /// A circuit over a slot stands.
    pub fn worked(&mut self, pair: Pair, slot: usize) {
        let way = self.way_mut(pair);
        let later = way.slots.get_mut(slot).into_iter().flatten();
        way.second.iter_mut().chain(later).for_each(|hop| (hop.failing_ms, hop.is_spent) = (None, false));
    }

    /// A relay turned out to be this node itself: it is replaced at once and not drawn again.
    pub fn unsuitable(&mut self, pair: Pair, slot: usize, hop: usize) {
        let way = self.way_mut(pair);
        let found = match hop {
            1 => way.second,
            _ => hop.checked_sub(2).and_then(|at| way.slots.get(slot)?.get(at)).copied(),
        };
        let Some(found) = found.filter(|found| !way.unsuitable.contains(&found.handle)) else { return };
        if way.unsuitable.len() >= MAX_UNSUITABLE {
            way.unsuitable.remove(0);
        }
        way.unsuitable.push(found.handle);
    }

    // Contexts.

    /// Which third hop a context (the root of what is watched) uses.
    pub fn slot_of(secret: &Key, context: &[u8; 32]) -> usize {
        let key = kdf::derive(Label::ROUTE_SLOT, &[secret.expose()]);
        let number = u128::from_le_bytes(kdf::mac16(&key, context)) % SLOTS as u128;
        usize::try_from(number).unwrap_or(0)
    }

    /// Names the route of a slot as it stands now.
    pub fn route(&self, pair: Pair, slot: usize) -> RouteName {
        self.way(pair).route(slot)
    }

    /// Whether a context may use the route of a slot as it stands now, and remembers that it does. A
    /// context uses at most [`MAX_ROUTES`] different routes in 30 days. True: changed, to be
    /// kept at once.
    pub fn allow(
        &mut self,
        secret: &Key,
        context: &[u8; 32],
        pair: Pair,
        slot: usize,
        unix_ms: u64,
    ) -> Result<bool, TooManyRoutes> {
        let route = self.route(pair, slot);
        self.allow_route(secret, context, route, unix_ms)
    }

    /// The same for a circuit that was built when the route of its slot was perhaps another one: its
    /// name is taken with [`Self::route`] when it is built.
    pub fn allow_route(
        &mut self,
        secret: &Key,
        context: &[u8; 32],
        route: RouteName,
        unix_ms: u64,
    ) -> Result<bool, TooManyRoutes> {
        self.contexts.allow(secret, context, route, unix_ms)
    }

    /// How many different routes a context has used in the last 30 days.
    pub fn route_count(&self, secret: &Key, context: &[u8; 32], unix_ms: u64) -> usize {
        self.contexts.route_count(secret, context, unix_ms)
    }
}

impl Way {
    /// The same relays give the same name, whatever slot they are in.
    fn route(&self, slot: usize) -> RouteName {
        let mut relays = Vec::new();
        relays.extend(self.guard.iter().flat_map(|guard| guard.friend.0));
        let later = self.slots.get(slot).into_iter().flatten();
        relays.extend(self.second.iter().chain(later).flat_map(|hop| hop.handle.0));
        let mut name = [0; 8];
        name.iter_mut().zip(kdf::hash(&relays)).for_each(|(n, b)| *n = b);
        RouteName(name)
    }
}

impl Hop {
    const fn new(handle: Handle, until_ms: u64) -> Self {
        Self { handle, until_ms, absent_ms: None, failing_ms: None, is_spent: false }
    }

    fn fail(&mut self, unix_ms: u64, after: u64) {
        let since = match self.failing_ms {
            // Neither after a pause nor under a clock that was set back.
            Some((since, last)) if last <= unix_ms && unix_ms - last <= FAILURE_GAP_MS => since,
            _ => unix_ms,
        };
        self.failing_ms = Some((since, unix_ms));
        self.is_spent |= unix_ms - since >= after;
    }
}

/// What a list offers for one hop.
struct Offer<'a> {
    list: &'a [Listed],
    unsuitable: &'a [Handle],
    /// Better left to the other slots.
    taken: BTreeSet<Handle>,
    unix_ms: u64,
    playback: bool,
}

impl Offer<'_> {
    /// The hop that is held, or the one that takes its place; and whether it is another one.
    fn stick_to(&self, held: &mut Option<Hop>, rng: &mut Rng) -> (Step, bool) {
        let is_fine = |hop: &Hop| !hop.is_spent && !self.unsuitable.contains(&hop.handle);
        if let Some(hop) = held {
            // Drawn while the clock was far ahead.
            hop.until_ms = hop.until_ms.min(self.unix_ms.saturating_add(HOP_MS.1));
            let is_listed = self.list.iter().any(|listed| listed.handle == hop.handle);
            let absent_since = *hop.absent_ms.get_or_insert(self.unix_ms);
            if is_listed {
                hop.absent_ms = None;
            } else if absent_since > self.unix_ms {
                hop.absent_ms = Some(self.unix_ms);
            }
            let waited = self.unix_ms.saturating_sub(absent_since);
            if is_listed && is_fine(hop) && self.unix_ms < hop.until_ms {
                return (Step { chosen: Some(hop.handle), changed: false }, false);
            }
            if !is_listed && is_fine(hop) && !self.playback && waited < REPAIR_AFTER_MS {
                return (Step { chosen: None, changed: false }, false);
            }
        }
        let Some(drawn) = self.draw(held.as_ref(), rng) else {
            // Nothing else to take: a hop that fails may work again.
            let is_usable =
                |hop: &&mut Hop| hop.absent_ms.is_none() && !self.unsuitable.contains(&hop.handle);
            let chosen = held.as_mut().filter(is_usable).map(|hop| {
                hop.is_spent = false;
                hop.handle
            });
            return (Step { chosen, changed: false }, false);
        };
        let is_other = held.is_none_or(|hop| hop.handle != drawn);
        let until_ms = self.unix_ms.saturating_add(rng.range(HOP_MS.0, HOP_MS.1));
        *held = Some(Hop::new(drawn, until_ms));
        (Step { chosen: Some(drawn), changed: true }, is_other)
    }

    /// Draws by weight among what the list has. Other slots' hops give way to ageing handles only, as
    /// an ageing one would soon lead to one more route; with nothing else, an ageing one it is, or
    /// nodes with few friends could relay only half of the time.
    fn draw(&self, held: Option<&Hop>, rng: &mut Rng) -> Option<Handle> {
        let spent = held.filter(|hop| hop.is_spent).map(|hop| hop.handle);
        let may = |l: &&Listed| Some(l.handle) != spent && !self.unsuitable.contains(&l.handle);
        let all: Vec<&Listed> = self.list.iter().filter(may).collect();
        let kinds: [fn(&Self, &Listed) -> bool; 4] = [
            |offer, l| !l.ageing && !offer.taken.contains(&l.handle),
            |_, l| !l.ageing,
            |offer, l| !offer.taken.contains(&l.handle),
            |_, _| true,
        ];
        kinds.iter().find_map(|is_kind| {
            let from: Vec<&&Listed> = all.iter().filter(|l| is_kind(self, l)).collect();
            // Flat: whoever is always there and quick is drawn at most three times as often.
            let weights = from.iter().map(|l| u64::from(l.uptime) + 8);
            let i = pick(weights, rng)?;
            from.get(i).map(|l| l.handle)
        })
    }
}

/// An index, drawn by weight.
fn pick(weights: impl Iterator<Item = u64> + Clone, rng: &mut Rng) -> Option<usize> {
    let total = weights.clone().sum::<u64>().checked_sub(1)?;
    let mut left = rng.range(0, total);
    let mut weights = weights;
    weights.position(|weight| match left.checked_sub(weight) {
        Some(rest) => {
            left = rest;
            false
        }
        None => true,
    })
}

#[cfg(test)]
mod tests;
