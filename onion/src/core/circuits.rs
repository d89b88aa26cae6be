//! Which circuits this node has, what it uses them for, and what its owner sets and sees.
//! Page: `docs/protocol/circuit.md`.
//!
//! Invariant: how many circuits there are and when they are begun does not depend on what the owner
//! does with them, except that a used one is replaced after a random time.

use super::origin::{Law, Own, Use};
use super::relaying::At;
use super::*;
use crate::handle::Handles;
use crate::route::{Pair, Routes, SLOTS};
use crate::tunnel::SourceState;
use kith_crypto::circuit::CREATE_LEN;
use kith_crypto::kdf::{self, Label};

pub use crate::route::Tier as GuardTier;
pub use crate::route::Trust;

/// How much speed is given up for privacy (one meaning each: `docs/protocol/circuit.md`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Privacy {
    /// The quickest way that the audience allows; everything held is served.
    #[default]
    Fast,
    /// Friends' items directly, friends' friends' through circuits.
    Normal,
    /// Everything through circuits.
    Strict,
}

/// What hides when a link is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cover {
    /// Only what keeps a link alive.
    Off,
    /// A pad after a silence drawn at random.
    #[default]
    Idle,
    /// At least so many bytes a second on each link, all the time.
    Constant(u64),
}

/// What the owner sets for circuits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CircuitSettings {
    /// Mean gap between the steps of a circuit.
    pub pace: Duration,
    /// Shortest time between two snapshots of the friends that circuits may use.
    pub snapshot: Duration,
    /// Relays of own circuits, 3 to 6.
    pub relays: u8,
    /// Whether friends may use this node as a relay.
    pub relay: bool,
    /// Cover on links.
    pub cover: Cover,
}

impl Default for CircuitSettings {
    fn default() -> Self {
        Self {
            pace: Duration::from_secs(60),
            snapshot: Duration::from_secs(6 * 3600),
            relays: 3,
            relay: true,
            cover: Cover::Idle,
        }
    }
}

/// Why nothing can come through a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoOnion {
    /// There are too few friends, and friends of theirs, to make three relays of.
    TooFewRelays,
    /// No circuit stands yet, or none any more: later there may be one.
    NotReady,
    /// The first relay of every circuit also carries this item, and `strict` does not go that way.
    GuardCarries,
    /// The item was asked for over four routes within 30 days already.
    TooManyRoutes,
    /// Circuits stand, and nobody near their ends gives it.
    NotFound,
}

/// Which way an item would come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From a friend, who learns that it is wanted here.
    Direct,
    /// Through the common friend, who learns who wants it, from whom, and what.
    Fof,
    /// Through a circuit.
    Onion {
        /// The first relay also carries this item, so it may guess.
        reduced: bool,
    },
    /// It does not come.
    No(NoOnion),
}

/// How an own circuit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnState {
    /// Being built.
    Building,
    /// Waits for use.
    Ready,
    /// In use.
    Used,
}

/// An own circuit, as its owner may see it: nothing names a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnCircuit {
    /// Relays that it has so far.
    pub relays: u8,
    /// Since when.
    pub age: Duration,
    /// How it stands.
    pub state: OwnState,
}

/// All circuits, as the owner may see them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CircuitReport {
    /// Own circuits.
    pub own: Vec<OwnCircuit>,
    /// Circuits of others through this node.
    pub relayed: usize,
    /// Whom the first relay is drawn from; `None` before one is.
    pub tier: Option<GuardTier>,
    /// Whether a link to the first relay stands.
    pub guard_online: bool,
    /// Why there is no circuit to use, if so.
    pub lacks: Option<NoOnion>,
}

/// Connections from here on are own circuits: their tunnels are streams.
pub(super) const OWN: ConnId = 1 << 31;
/// Own circuits that there may be, whatever happens.
const MAX_OWN: usize = 24;
/// One circuit more than the routes, for whoever comes next.
const SPARE: usize = 1;
/// A ready circuit that ends this soon is replaced before.
const REPLACE_BEFORE: Duration = Duration::from_secs(5 * 60);
/// Circuits that are begun so soon after the first are built quickly.
const FIRST_FOR: Duration = Duration::from_secs(60);
/// A first circuit waits so long at most, for links to other friends to come.
const FIRST_WAIT_MS: u64 = 1000;
/// How long the first guard waits for others to come.
const FIRST_GUARD_WAIT: Duration = Duration::from_secs(10);
/// Routes are looked at again after this.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Own requests and `CREATE`s that may come back.
const MAX_OWN_KNOWN: usize = 64;

/// What a core keeps for circuits.
#[derive(Debug)]
pub(crate) struct Circuits {
    pub(super) privacy: Privacy,
    pub(super) settings: CircuitSettings,
    pub(super) law: Law,
    pub(super) handles: Handles,
    /// What is shown of the listed friends: classes of uptime and rate at the last draw.
    pub(super) classes: BTreeMap<FriendKey, (u8, u8)>,
    pub(super) routes: Routes,
    /// Secret of this node alone.
    secret: Key,
    pub(super) own: BTreeMap<u32, Own>,
    pub(super) next_own: u32,
    /// Circuits of others through this node.
    pub(super) relayed: usize,
    /// Routes that are being stored.
    pub(super) storing: usize,
    pub(super) announced: Option<(u16, bool)>,
    pub(super) sweep_at: Duration,
    /// Requests that came by, until when they are known.
    pub(super) nonces: BTreeSet<[u8; 16]>,
    pub(super) nonce_times: VecDeque<(Duration, [u8; 16])>,
    own_nonces: VecDeque<[u8; 16]>,
    own_creates: VecDeque<([u8; CREATE_LEN], u32)>,
    /// There is nobody to make a third relay of.
    pub(super) too_few: bool,
    /// Requests that spread and came here.
    pub(super) spread: u64,
    /// When the next circuit is begun, if one is missing.
    build_at: Option<Duration>,
    first_at: Option<Duration>,
    look_at: Duration,
    guards_from: Option<Duration>,
}

impl Circuits {
    pub(super) fn new(secret: &Key) -> Self {
        let settings = CircuitSettings::default();
        let mut circuits = Self {
            privacy: Privacy::default(),
            settings,
            law: Law::new(settings.pace),
            handles: Handles::new(secret),
            classes: BTreeMap::new(),
            routes: Routes::default(),
            secret: secret.clone(),
            own: BTreeMap::new(),
            next_own: 1,
            relayed: 0,
            storing: 0,
            announced: None,
            sweep_at: Duration::ZERO,
            nonces: BTreeSet::new(),
            nonce_times: VecDeque::new(),
            own_nonces: VecDeque::new(),
            own_creates: VecDeque::new(),
            too_few: false,
            spread: 0,
            build_at: None,
            first_at: None,
            look_at: Duration::ZERO,
            guards_from: None,
        };
        circuits.apply(settings);
        circuits
    }

    fn apply(&mut self, settings: CircuitSettings) {
        self.settings = settings;
        self.law = Law::new(settings.pace);
        let low = settings.snapshot;
        self.handles.set_interval(low, low * 2, (low / 72).min(Duration::from_secs(300)));
    }

    pub(super) fn look_at_routes(&mut self, now: Now) {
        self.look_at = now.at;
    }

    /// The part of the response times of circuits over a guard that stays the same, of 1.
    pub(super) fn response_share(&self, guard: FriendKey) -> f64 {
        let full = kdf::derive(Label::RESPONSE_TIME, &[self.secret.expose(), &guard.0]);
        let draw = full.expose().first_chunk::<4>().map_or(0, |b| u32::from_le_bytes(*b));
        f64::from(draw) / f64::from(u32::MAX)
    }

    pub(super) fn note_own_nonce(&mut self, nonce: [u8; 16]) {
        self.own_nonces.push_front(nonce);
        self.own_nonces.truncate(MAX_OWN_KNOWN);
    }

    pub(super) fn note_own_create(&mut self, message: [u8; CREATE_LEN], own: u32) {
        self.own_creates.push_front((message, own));
        self.own_creates.truncate(MAX_OWN_KNOWN);
    }

    /// The own circuit that asked for this.
    pub(super) fn own_of_create(&self, message: &[u8; CREATE_LEN]) -> Option<u32> {
        self.own_creates.iter().find(|(m, _)| m == message).map(|(_, own)| *own)
    }

    /// Whether a request that came by is this node's own, through one of its circuits.
    pub(super) fn is_own_nonce(&self, nonce: &[u8; 16]) -> bool {
        self.own_nonces.contains(nonce)
    }
}

/// Where an object would come from.
pub(super) struct Plan {
    /// Friends to ask, over so many links.
    pub(super) friends: Vec<(FriendKey, u8)>,
    /// Friends of whom nothing says that they have it.
    pub(super) extra: Vec<FriendKey>,
    /// Whether circuits may be used.
    pub(super) onion: bool,
    /// Friends who told of the object: the first relay should not be one of them.
    pub(super) carriers: BTreeSet<FriendKey>,
}

impl Core {
    /// Sets how much speed is given up for privacy, from the next fetch and the next request on.
    pub fn set_privacy(&mut self, now: Now, privacy: Privacy) {
        self.circuits.privacy = privacy;
        // Parts show what is being watched.
        if privacy != Privacy::Fast {
            self.end_parts(now);
        }
    }

    /// The privacy mode in effect.
    pub const fn privacy(&self) -> Privacy {
        self.circuits.privacy
    }

    /// Sets what holds for circuits.
    pub fn set_circuits(&mut self, now: Now, settings: CircuitSettings) {
        let before = std::mem::replace(&mut self.circuits.settings, settings);
        self.circuits.apply(settings);
        if before.cover != settings.cover {
            self.renew_keepalives(now);
        }
        if before.relay && !settings.relay {
            self.end_relayed(now);
        }
        self.announce_keys(now);
    }

    /// What holds for circuits.
    pub const fn circuit_settings(&self) -> CircuitSettings {
        self.circuits.settings
    }

    /// Routes that [`Change::Routes`] kept. False: they cannot be read, and new ones are drawn.
    pub fn restore_routes(&mut self, now: Now, routes: &[u8]) -> bool {
        self.circuits.look_at_routes(now);
        match Routes::decode(routes) {
            Ok(routes) => {
                self.circuits.routes = routes;
                true
            }
            Err(_) => false,
        }
    }

    /// How many different routes an object was asked for over in the last 30 days.
    pub fn route_count(&self, now: Now, root: &Root) -> usize {
        let unix_ms = now.unix_ms;
        self.circuits.routes.route_count(&self.circuits.secret, &root.0, unix_ms)
    }

    /// All circuits, as the owner may see them.
    pub fn circuit_report(&self, now: Now) -> CircuitReport {
        let circuits = &self.circuits;
        let own = circuits.own.values().map(|own| OwnCircuit {
            relays: own.relays(),
            age: now.at.saturating_sub(own.since),
            state: match own.purpose {
                Use::Ready if own.is_ready(now.at) => OwnState::Ready,
                Use::Building | Use::Ready => OwnState::Building,
                // It failed on the way, and ends when its next cell would leave.
                Use::Spent(_) if !own.is_whole() => OwnState::Building,
                Use::Fetch(..) | Use::Spent(_) => OwnState::Used,
            },
        });
        let guard = circuits.routes.guard(Pair::Primary);
        CircuitReport {
            own: own.collect(),
            relayed: circuits.relayed,
            tier: guard.and(circuits.routes.tier()),
            guard_online: guard.is_some_and(|guard| self.relay_link(guard).is_some()),
            lacks: self.lacks(),
        }
    }

    /// Why there is no circuit to use.
    fn lacks(&self) -> Option<NoOnion> {
        let circuits = &self.circuits;
        if circuits.own.values().any(|o| !o.is_dead() && !matches!(o.purpose, Use::Building)) {
            return None;
        }
        let none = circuits.too_few || circuits.routes.guard(Pair::Primary).is_none();
        Some(if none { NoOnion::TooFewRelays } else { NoOnion::NotReady })
    }

    // Ways.

    /// Which way an item would come now.
    pub fn way_of(&self, now: Now, root: &Root, route: Route) -> Way {
        let plan = self.plan(root, route);
        match plan.friends.first() {
            Some((_, 1)) => Way::Direct,
            Some(_) => Way::Fof,
            None if plan.onion => match self.circuit_for(now, root, &plan, None, &BTreeSet::new()) {
                Ok((_, reduced)) => Way::Onion { reduced },
                Err(why) => Way::No(why),
            },
            None => Way::No(NoOnion::NotFound),
        }
    }

    /// Whether an object that is being fetched comes through a circuit now, and if so whether the first
    /// relay of one of them also carries it.
    pub fn comes_reduced(&self, root: &Root) -> Option<bool> {
        let carriers = self.carriers(root);
        let Circuits { routes, own, .. } = &self.circuits;
        let used = own.values().filter(|own| matches!(&own.purpose, Use::Fetch(_, of) if of == root));
        let reduced = used.map(|own| routes.guard(own.pair).is_some_and(|guard| carriers.contains(&guard)));
        reduced.reduce(|one, other| one || other)
    }

    /// Whether friends share an object, and all of them with friends only: no circuit brings it.
    pub fn stays_with_friends(&self, root: &Root) -> bool {
        let told = !self.carriers(root).is_empty();
        told && self.catalogue.onward(root).is_empty() && !self.catalogue.travels(root)
    }

    /// Friends who told of an object.
    fn carriers(&self, root: &Root) -> BTreeSet<FriendKey> {
        let sources = self.catalogue.listing(root).map(|listing| listing.sources).unwrap_or_default();
        sources.into_iter().map(|(friend, _)| friend).collect()
    }

    /// Where an object may come from, by the route that is asked for and the privacy mode.
    pub(super) fn plan(&self, root: &Root, route: Route) -> Plan {
        let listed = self.catalogue.listing(root).map(|l| l.sources).unwrap_or_default();
        let carriers = listed.iter().map(|(friend, _)| *friend).collect();
        // A link from elsewhere names no friend: all are asked, friends first, then their friends.
        let everybody = || {
            let all = self.friends.keys().copied();
            all.clone().map(|f| (f, 1)).chain(all.map(|f| (f, 2))).collect()
        };
        let candidates: Vec<(FriendKey, u8)> = if listed.is_empty() { everybody() } else { listed.clone() };
        let over = |links: u8| candidates.iter().copied().filter(|(_, l)| *l == links).collect();
        // What a friend published is no secret from that friend, and neither is what was published here.
        let near = listed.iter().any(|(_, l)| *l == 1) || self.catalogue.is_own(root);
        let (friends, onion) = match (route, self.circuits.privacy) {
            (Route::Friend(friend), _) => (vec![(friend, 1)], false),
            (Route::Direct, _) => (over(1), false),
            (Route::Fof, _) => (over(2), false),
            (Route::Auto, Privacy::Fast) => (candidates.clone(), true),
            // When none of those friends is on line, somebody else may keep a copy.
            (Route::Auto, Privacy::Normal) if near => (over(1), !self.stays_with_friends(root)),
            (Route::Auto, _) | (Route::Onion, _) => (Vec::new(), true),
        };
        // In `fast` friends can see what is watched here: who has it, or some of it, gives it. Else, when it is
        // wanted directly and none of those who told of it is on line, whoever keeps a copy is asked.
        let is_fast = self.circuits.privacy == Privacy::Fast;
        let all_away = || friends.iter().all(|(friend, _)| !self.is_online(*friend));
        let asks_all = match route {
            Route::Auto => is_fast,
            route => route == Route::Direct && (is_fast || all_away()),
        };
        let others = self.friends.keys().copied().filter(|f| asks_all && !friends.contains(&(*f, 1)));
        let extra = if friends.is_empty() { Vec::new() } else { others.collect() };
        Plan { friends, extra, onion, carriers }
    }

    /// A circuit for an object, and whether its first relay also carries the item.
    fn circuit_for(
        &self,
        now: Now,
        root: &Root,
        plan: &Plan,
        fetch: Option<FetchId>,
        tried: &BTreeSet<(Pair, usize)>,
    ) -> Result<(u32, bool), NoOnion> {
        let circuits = &self.circuits;
        let first = Routes::slot_of(&circuits.secret, &root.0);
        let usable = |own: &Own| match own.purpose {
            Use::Ready => own.is_ready(now.at),
            // Its own circuit of before: nobody learns more.
            Use::Spent(of) => of == *root,
            // Its own circuit, when all that came through it has ended.
            Use::Fetch(by, _) => Some(by) == fetch && own.is_idle(),
            Use::Building => false,
        };
        let carries = |pair| circuits.routes.guard(pair).is_some_and(|guard| plan.carriers.contains(&guard));
        // The reserve pair when the first relay carries the item. Otherwise only when nothing stands or
        // is being built over the primary: whoever sees an item over both guards learns much.
        let mut pairs = vec![(Pair::Primary, carries(Pair::Primary))];
        let primary_is_down = !circuits.own.values().any(|own| own.pair == Pair::Primary && !own.is_dead());
        if primary_is_down || carries(Pair::Primary) {
            pairs.push((Pair::Reserve, carries(Pair::Reserve)));
        }
        pairs.sort_by_key(|(_, carries)| *carries);
        let strict = circuits.privacy == Privacy::Strict;
        let all_carry = strict
            && [Pair::Primary, Pair::Reserve]
                .into_iter()
                .all(|pair| carries(pair) || circuits.routes.guard(pair).is_none());
        for (pair, reduced) in pairs {
            if reduced && strict {
                continue;
            }
            let own = circuits.own.iter().filter(|(_, own)| own.pair == pair && usable(own));
            let fresh = own.filter(|(_, own)| !tried.contains(&(own.pair, own.slot)));
            // One that was used for this object before, then the slot that the object belongs to.
            let order = |own: &Own| (own.purpose == Use::Ready, (own.slot + SLOTS - first) % SLOTS);
            if let Some((id, _)) = fresh.min_by_key(|(id, own)| (order(own), **id)) {
                return Ok((*id, reduced));
            }
        }
        Err(match self.lacks() {
            _ if !tried.is_empty() => NoOnion::NotFound,
            Some(why) => why,
            None if all_carry => NoOnion::GuardCarries,
            None => NoOnion::NotReady,
        })
    }

    /// Asks for an object through a circuit; the source's tunnel is named when it was asked.
    pub(super) fn ask_circuit(&mut self, now: Now, fetch: FetchId) -> Result<At, NoOnion> {
        let Some(state) = self.fetches.get(&fetch) else { return Err(NoOnion::NotReady) };
        let (cap, tried) = (state.fetch.cap().clone(), state.tried.clone());
        let plan = self.plan(&cap.root, Route::Onion);
        let (id, _) = self.circuit_for(now, &cap.root, &plan, Some(fetch), &tried)?;
        let unix_ms = now.unix_ms;
        let Circuits { routes, secret, own, .. } = &mut self.circuits;
        let Some((chosen, route)) = own.get(&id).and_then(|own| Some((own, own.route?))) else {
            return Err(NoOnion::NotReady);
        };
        match routes.allow_route(secret, &cap.root.0, route, unix_ms) {
            Ok(changed) => {
                if changed {
                    self.keep_routes();
                }
            }
            Err(_) => {
                // Another slot may be one that was used before.
                let place = (chosen.pair, chosen.slot);
                if let Some(state) = self.fetches.get_mut(&fetch) {
                    state.tried.insert(place);
                    state.onion = NoOnion::TooManyRoutes;
                }
                return Err(NoOnion::TooManyRoutes);
            }
        }
        let stream = self.own_search(now, id, fetch, &cap).ok_or(NoOnion::NotReady)?;
        Ok((OWN | id, stream.into()))
    }

    /// Nobody near the end of a circuit gave it: the next third relay is asked.
    pub(super) fn circuit_had_nothing(&mut self, now: Now, fetch: FetchId, at: At, place: (Pair, usize)) {
        let wait = self.second_thought();
        let Some(state) = self.fetches.get_mut(&fetch) else { return };
        state.tried.insert(place);
        state.onion = NoOnion::NotFound;
        // Each end has its three seconds, once.
        if !state.went_round {
            state.alive_at = now.at;
        }
        if let Some(source) = state.sources.iter_mut().find(|s| s.uses(at)) {
            source.state = SourceState::Idle { not_before: now.at + wait };
        }
        state.next_attempt = now.at;
    }

    // The pool.

    /// Routes changed: they are stored before a circuit uses them.
    pub(super) fn store_routes(&mut self, own: Option<u32>) {
        self.circuits.storing += 1;
        let routes = self.circuits.routes.encode();
        self.persist(vec![Change::Routes(routes)], connections::AfterStore::Routes(own));
    }

    /// Routes changed in what is not used yet.
    pub(super) fn keep_routes(&mut self) {
        let routes = self.circuits.routes.encode();
        self.outputs.push_back(Output::Keep(Change::Routes(routes)));
    }

    /// Draws what routes miss, and begins circuits that are missing.
    pub(super) fn drive_circuits(&mut self, now: Now) {
        self.draw_handles(now);
        self.announce_keys(now);
        self.sweep_circuits(now);
        if now.at >= self.circuits.look_at {
            self.circuits.look_at = now.at + LOOK_EVERY;
            self.look_at_guards(now);
        }
        self.own_due(now);
        self.fill_pool(now);
    }

    fn look_at_guards(&mut self, now: Now) {
        let candidates = self.guard_candidates(now);
        let unix_ms = now.unix_ms;
        let Circuits { routes, settings, guards_from, look_at, .. } = &mut self.circuits;
        // Guards are drawn among those that are there a while after the first friend came, so that it is
        // not always whoever is quickest.
        let none_can = candidates.iter().all(|c| !c.can_relay);
        if !none_can {
            guards_from.get_or_insert(now.at + settings.pace.min(FIRST_GUARD_WAIT));
        }
        let from = guards_from.filter(|_| !none_can);
        let may_draw = from.is_some_and(|from| from <= now.at);
        // Who is no friend any more, or marked low, goes at once.
        let fits = |guard| candidates.iter().any(|c| c.friend == guard && c.trust != Trust::Low);
        let all_fit = [Pair::Primary, Pair::Reserve].into_iter().filter_map(|p| routes.guard(p)).all(fits);
        if !may_draw && all_fit {
            *look_at = from.map_or(*look_at, |from| from.min(*look_at));
            return;
        }
        if routes.refresh(unix_ms, &candidates, &mut self.rng) {
            let Circuits { routes, own, .. } = &mut self.circuits;
            let pair_of =
                |guard| [Pair::Primary, Pair::Reserve].into_iter().find(|p| routes.guard(*p) == guard);
            // The reserve may be the first now; who is neither any more carries nothing more.
            let mut over = Vec::new();
            for (id, own) in own {
                match pair_of(Some(own.guard)) {
                    Some(pair) => own.pair = pair,
                    None => over.push(*id),
                }
            }
            over.into_iter().for_each(|id| self.own_over(now, id));
            self.store_routes(None);
        }
    }

    /// The route that lacks a circuit most.
    fn missing(&mut self, now: Now) -> Option<(Pair, usize)> {
        let Circuits { own, routes, settings, .. } = &self.circuits;
        let soon = now.at + REPLACE_BEFORE.min(settings.pace * 5);
        let has = |pair: Pair, slot: usize| {
            let counts = |o: &&Own| {
                // One that failed while it was built keeps its place until it ends: when the next one
                // begins must not show how soon the builder knew.
                let keeps = matches!(o.purpose, Use::Building | Use::Ready) || !o.is_whole();
                o.pair == pair && o.slot == slot && keeps
            };
            own.values().filter(counts).filter(|o| o.until > soon).count()
        };
        let reserve = (0..SLOTS).any(|slot| has(Pair::Reserve, slot) > 0);
        let reserve = routes.guard(Pair::Reserve).is_some() && !reserve;
        let any = |rng: &mut Rng| rng.range(0, SLOTS as u64 - 1) as usize;
        // A first relay that is away, or has nobody to go on to, must not keep the other from being used.
        let away = routes.guard(Pair::Primary).is_none_or(|guard| self.relay_link(guard).is_none());
        if reserve && (away || self.circuits.too_few) {
            return Some((Pair::Reserve, any(&mut self.rng)));
        }
        if routes.guard(Pair::Primary).is_some() {
            if let Some(slot) = (0..SLOTS).find(|slot| has(Pair::Primary, *slot) == 0) {
                return Some((Pair::Primary, slot));
            }
            let all: usize = (0..SLOTS).map(|slot| has(Pair::Primary, slot)).sum();
            if all < SLOTS + SPARE {
                return Some((Pair::Primary, any(&mut self.rng)));
            }
        }
        reserve.then(|| (Pair::Reserve, any(&mut self.rng)))
    }

    fn fill_pool(&mut self, now: Now) {
        if self.circuits.storing > 0 {
            return;
        }
        let Some((pair, slot)) = self.missing(now) else {
            self.circuits.build_at = None;
            return;
        };
        let quick = self.circuits.first_at.is_none_or(|first| now.at < first + FIRST_FOR);
        match self.circuits.build_at {
            None => {
                let wait = match quick {
                    true => Duration::from_millis(self.rng.range(0, FIRST_WAIT_MS.min(self.first_wait_ms()))),
                    false => Law::exponential(&mut self.rng, self.circuits.settings.pace / 2),
                };
                self.circuits.build_at = Some(now.at + wait);
            }
            Some(at) if at <= now.at => {
                self.circuits.build_at = None;
                if !self.make_room_for_own(now) {
                    return;
                }
                if self.start_circuit(now, pair, slot, quick) {
                    self.circuits.first_at.get_or_insert(now.at);
                } else {
                    // The guard is away: others take its place never, it comes back some time. A circuit
                    // that is asked for as soon as it is back would be known for this node's own.
                    let wait = match quick {
                        true => Duration::from_millis(self.rng.range(500, 1500)),
                        false => Law::exponential(&mut self.rng, self.circuits.settings.pace / 2),
                    };
                    self.circuits.build_at = Some(now.at + wait);
                }
            }
            Some(_) => {}
        }
    }

    /// When there are as many circuits as there may be, the oldest that did its work gives way. False:
    /// all others are in use.
    fn make_room_for_own(&mut self, now: Now) -> bool {
        if self.circuits.own.len() < MAX_OWN {
            return true;
        }
        let spent = self.circuits.own.iter().filter(|(_, own)| matches!(own.purpose, Use::Spent(_)));
        // Of those that only wait to end, first.
        let oldest = spent.min_by_key(|(_, own)| (!own.is_dead(), own.since)).map(|(id, _)| *id);
        oldest.into_iter().for_each(|id| self.own_over(now, id));
        oldest.is_some()
    }

    fn first_wait_ms(&self) -> u64 {
        self.circuits.settings.pace.as_millis() as u64
    }

    pub(super) fn next_circuit_step(&self) -> Option<Duration> {
        let circuits = &self.circuits;
        let own = circuits.own.values().map(Own::poll_timeout).min();
        let look = (!self.friends.is_empty()).then_some(circuits.look_at);
        // While routes are being stored nothing is begun; the answer of storage brings the next look.
        let build = circuits.build_at.filter(|_| circuits.storing == 0);
        let next = earliest(earliest(own, build), look);
        earliest(next, circuits.handles.poll_timeout())
    }
}
