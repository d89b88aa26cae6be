//! One simulated node: its disk, its lives, and what its owner was told.

use super::disk::{Journal, Object};
use super::wire::WireId;
use kith_crypto::cert::{Address, Certificate};
use kith_crypto::content::{Geometry, Position, Root, VerifyCap};
use kith_crypto::identity::Identity;
use kith_crypto::secret::Key;
use kith_onion::budget::Budgets;
use kith_onion::catalogue::Pace;
use kith_onion::ratchet::OutOfStep;
use kith_onion::{
    CircuitSettings, ConnId, Core, FetchId, FriendKey, InviteId, InviteOutcome, Limits, MirrorEvent, NoOnion,
    Privacy, Rates, Trust,
};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// What a dishonest node does when it is asked for a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mischief {
    /// Nothing bad.
    #[default]
    None,
    /// Serves changed data blocks.
    Corrupt,
    /// Serves nothing and says nothing.
    Silent,
    /// Says that it cannot read its data blocks.
    Lacking,
}

/// How long storage takes, shortest and longest, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Disk {
    /// Until something is durable.
    pub persist_ms: (u64, u64),
    /// Until a block is read; answers may overtake each other.
    pub read_ms: (u64, u64),
    /// Until a block is written.
    pub write_ms: (u64, u64),
}

impl Default for Disk {
    fn default() -> Self {
        Self { persist_ms: (0, 3), read_ms: (0, 2), write_ms: (0, 2) }
    }
}

/// How a fetch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All blocks are stored.
    Complete,
    /// Nobody gave it.
    Unreachable,
    /// It can only come through a circuit, and that cannot be.
    NoOnion(NoOnion),
}

/// A fetch as its owner sees it.
#[derive(Debug)]
pub struct Fetching {
    /// What is fetched.
    pub cap: VerifyCap,
    /// Its name in this life of the node.
    pub id: FetchId,
    /// Shape, once known.
    pub geometry: Option<Geometry>,
    /// Blocks delivered and not yet written.
    pub unwritten: usize,
    /// Links of each session that stood.
    pub sessions: Vec<u8>,
    /// How it ended.
    pub outcome: Option<Outcome>,
}

/// A node.
pub struct Node {
    /// Shown in failures.
    pub name: &'static str,
    pub(super) secrets: [[u8; 32]; 3],
    /// Secrets before each rotation of its link keys.
    pub older: Vec<[[u8; 32]; 3]>,
    pub(super) own_secret: Key,
    /// The certificate it shows.
    pub cert: Certificate,
    /// Where it listens.
    pub addr: Address,
    /// Deliberate delays of its catalogue.
    pub pace: Pace,
    /// Storage times.
    pub disk: Disk,
    /// Its honesty.
    pub mischief: Mischief,
    /// Limits on strangers.
    pub limits: Limits,
    /// What it lets its friends use, from its next start on.
    pub budgets: Budgets,
    /// Its rate limits, from its next start on.
    pub rates: Rates,
    /// Bytes a second that it can work through, if that is limited.
    pub cpu: Option<u64>,
    /// Its privacy mode, from its next start on.
    pub privacy: Privacy,
    /// What it sets for circuits, from its next start on.
    pub circuits: CircuitSettings,
    /// How far it trusts friends.
    pub trust: BTreeMap<FriendKey, (Trust, bool)>,
    /// Its wall clock minus the world's, in milliseconds.
    pub clock_ms: i64,
    /// Its machine is suspended.
    pub(super) asleep: bool,
    /// Time that its clock for timers did not count.
    pub(super) uncounted: Duration,
    /// What is on its disk.
    pub journal: Journal,
    /// Complete objects.
    pub objects: BTreeMap<Root, Rc<Object>>,
    /// Blocks of objects that are being fetched.
    pub partial: BTreeMap<Root, BTreeMap<Position, Rc<[u8]>>>,
    /// The same, on their way to the disk.
    pub arriving: BTreeMap<(Root, Position), Rc<[u8]>>,
    /// Fetches by object.
    pub fetches: BTreeMap<Root, Fetching>,
    /// News of taken invites.
    pub invites: Vec<(InviteId, InviteOutcome)>,
    /// Friends made by given invites.
    pub befriended: Vec<FriendKey>,
    /// Friends whose keys did not fit.
    pub out_of_step: Vec<(FriendKey, OutOfStep)>,
    /// What friends said about copies.
    pub mirrors: Vec<(FriendKey, MirrorEvent)>,
    /// Objects that all friends who told of them took back.
    pub withdrawn: Vec<Root>,
    /// Friends who showed new link keys.
    pub rotated: Vec<FriendKey>,
    /// Friends whose invite was used once more.
    pub reused: Vec<FriendKey>,
    /// Links that came up and went down.
    pub ups: u32,
    /// The core, while the node runs.
    pub core: Option<Core>,
    pub(super) life: u32,
    pub(super) conns: BTreeMap<ConnId, (WireId, usize)>,
    pub(super) persist_free_at: Duration,
    pub(super) idle_wakes: u32,
    pub(super) busy_until: Duration,
    pub(super) read_last: ConnId,
}

impl Node {
    /// Names it among friends.
    pub fn key(&self) -> FriendKey {
        FriendKey(self.cert.keys.sign)
    }

    /// Its private half.
    pub fn identity(&self) -> Identity {
        Identity::from_secrets(self.secrets)
    }

    /// The running core.
    pub fn core(&self) -> &Core {
        self.core.as_ref().expect("the node runs")
    }

    /// Connections that exist.
    pub fn wires(&self) -> Vec<WireId> {
        self.conns.values().map(|(wire, _)| *wire).collect()
    }
}
