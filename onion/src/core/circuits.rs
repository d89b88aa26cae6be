//! Circuits of this node and of others: what the owner sets and sees.

use super::*;

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

/// How far a friend is trusted with circuits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// May be the first relay.
    Close,
    /// As a friend.
    #[default]
    Normal,
    /// Never a relay.
    Low,
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

/// Whom the first relay of own circuits is drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardTier {
    /// Friends marked close.
    Close,
    /// Nobody is marked close: verified friends.
    Verified,
    /// Nobody is verified either: all friends.
    All,
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

/// What a core keeps for circuits.
#[derive(Debug, Default)]
pub(crate) struct Circuits {
    privacy: Privacy,
    settings: CircuitSettings,
}

impl Core {
    /// Sets how much speed is given up for privacy, from the next fetch on.
    pub fn set_privacy(&mut self, _now: Now, privacy: Privacy) {
        self.circuits.privacy = privacy;
    }

    /// The privacy mode in effect.
    pub const fn privacy(&self) -> Privacy {
        self.circuits.privacy
    }

    /// Sets what holds for circuits.
    pub fn set_circuits(&mut self, _now: Now, settings: CircuitSettings) {
        self.circuits.settings = settings;
    }

    /// What holds for circuits.
    pub const fn circuit_settings(&self) -> CircuitSettings {
        self.circuits.settings
    }

    /// How far a friend is trusted with circuits, and whether fingerprints were compared.
    pub fn set_trust(&mut self, _now: Now, _friend: FriendKey, _trust: Trust, _verified: bool) {}

    /// Routes that [`Change::Routes`] kept. False: they cannot be read, and new ones are drawn.
    pub fn restore_routes(&mut self, _now: Now, _routes: &[u8]) -> bool {
        true
    }

    /// All circuits, as the owner may see them.
    pub fn circuit_report(&self, _now: Now) -> CircuitReport {
        CircuitReport { lacks: Some(NoOnion::NotReady), ..CircuitReport::default() }
    }

    /// Which way an item would come now.
    pub fn way_of(&self, _now: Now, root: &Root, route: Route) -> Way {
        let nearest = self.listing(root).and_then(|l| l.sources.first().map(|s| s.1));
        match (route, nearest) {
            (Route::Onion, _) => Way::No(NoOnion::NotReady),
            (Route::Direct, _) | (Route::Auto, Some(1)) => Way::Direct,
            (Route::Fof | Route::Auto, _) => Way::Fof,
        }
    }
}
