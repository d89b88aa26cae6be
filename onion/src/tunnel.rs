//! What this node is to each tunnel of a link: the one who asks, the one who serves, or the common
//! friend in between. The state only; the core moves it. Format: `docs/protocol/tunnel.md`.

pub(crate) use crate::budget::Bucket;
use crate::circuit::{MAX_ANSWERS, StreamId};

use crate::core::relaying::RelayCircuit;
use crate::core::{FetchId, FriendKey};
use crate::link::{InWindow, WINDOW_MAX, WINDOW_MAX_ONION};
use crate::schedule::{Class, Flow};
use crate::serving::Serving;
use crate::session::Assembler;
use kith_crypto::content::Root;
use kith_crypto::noise::Handshake;
use std::time::Duration;

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
    Serving { serving: Box<Serving>, assembler: Assembler },
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
    /// What it was asked for, where this node passes it on to the object's holders.
    pub(crate) root: Option<Root>,
    /// Timers that go when the tunnel goes, so that a later tunnel of the same number is left alone.
    pub(crate) timers: Vec<(Duration, u64)>,
}

impl Tunnel {
    pub(crate) fn new(role: Role) -> Self {
        Self { role, flow: Flow::default(), window: InWindow::default(), root: None, timers: Vec::new() }
    }

    /// A tunnel for such a flow.
    pub(crate) fn of(role: Role, flow: Flow) -> Self {
        let most = match role {
            // Up to four of them lead into one circuit, whose queue holds no more than one window.
            Role::Sought { .. } => WINDOW_MAX / u32::from(MAX_ANSWERS),
            _ if flow.class == Class::Onion => WINDOW_MAX_ONION,
            _ => WINDOW_MAX,
        };
        let window = InWindow::up_to(most);
        let ends_here = matches!(role, Role::Asking { .. }) && flow.class != Class::Onion;
        Self { flow, window: if ends_here { window.steady() } else { window }, ..Self::new(role) }
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
    /// Which of several holders behind the same friend.
    pub(crate) nth: u8,
    /// Nothing says that it has the object.
    pub(crate) extra: bool,
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
