//! Nodes around the shipped handles and routes.

use crate::graphs::Graph;
use kith_crypto::rng::Rng;
use kith_crypto::secret::Key;
use kith_onion::FriendKey;
use kith_onion::handle::{Handle, Handles, LIST_LEN, Listed, decode_list, encode_list, uptime_class};
use kith_onion::route::{Candidate, Pair, Routes, Trust};
use std::collections::BTreeMap;
use std::time::Duration;

/// What hostile nodes do to be used more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adversary {
    /// Nothing: they list and relay like others.
    Honest,
    /// Whoever asks them for a list sees hostile nodes only.
    Captures,
    /// The same, and they are always on line and claim the highest rate.
    CapturesAndShines,
}

/// Stands for a node that a hostile list made up.
pub(crate) const MADE_UP: u32 = u32::MAX;
/// When all that happens does so, where nothing else is said: tables are about the policy's choices, not
/// about ageing.
pub(crate) const UNIX_MS: u64 = 1_800_000_000_000;
const UPTIME: u8 = 160;
const RATE: u8 = 2;

struct Lister {
    handles: Handles,
    shown: BTreeMap<FriendKey, Listed>,
}

/// A network of honest and hostile nodes.
pub struct Network<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) is_hostile: Vec<bool>,
    adversary: Adversary,
    seed: [u8; 24],
    unix_ms: u64,
    /// Lists are made when they are first asked for.
    listers: BTreeMap<u32, Lister>,
}

impl<'a> Network<'a> {
    /// A network on a graph; `is_hostile` has one flag for each node.
    pub fn new(graph: &'a Graph, is_hostile: Vec<bool>, adversary: Adversary, rng: &mut Rng) -> Self {
        Self { graph, is_hostile, adversary, seed: rng.bytes(), unix_ms: UNIX_MS, listers: BTreeMap::new() }
    }

    /// Moves on to another time: handles age.
    pub(crate) fn set_time(&mut self, unix_ms: u64) {
        self.unix_ms = unix_ms;
        self.listers.clear();
    }

    pub(crate) fn is_hostile(&self, node: u32) -> bool {
        self.is_hostile.get(node as usize).copied().unwrap_or(true)
    }

    fn shines(&self, node: u32) -> bool {
        self.adversary == Adversary::CapturesAndShines && self.is_hostile(node)
    }

    fn uptime(&self, node: u32) -> u8 {
        if self.shines(node) { u8::MAX } else { UPTIME }
    }

    /// The node's friends as its own policy sees them.
    pub(crate) fn candidates(&self, node: u32) -> Vec<Candidate> {
        let candidate = |friend: &u32| Candidate {
            friend: key(*friend),
            trust: Trust::Normal,
            verified: false,
            uptime: self.uptime(*friend),
            can_relay: true,
        };
        self.graph.friends(node).iter().map(candidate).collect()
    }

    fn lister(&mut self, node: u32) -> &Lister {
        if !self.listers.contains_key(&node) {
            let mut secret = [0; 32];
            secret[..24].copy_from_slice(&self.seed);
            secret[24..28].copy_from_slice(&node.to_le_bytes());
            let mut handles = Handles::new(&Key::new(secret));
            let friends = self.graph.friends(node).iter();
            let friends: Vec<_> = friends.map(|friend| (key(*friend), self.uptime(*friend))).collect();
            handles.friend_connected(Duration::ZERO);
            let due = handles.poll_timeout().unwrap_or_default();
            handles.timeout(due, &friends, &mut Rng::from_seed(secret));
            let listed = |friend: &FriendKey| {
                let handle = handles.handle_of(*friend, self.unix_ms);
                let shines = self.shines(number(*friend));
                let listed = Listed {
                    handle,
                    key: [0; 32],
                    epoch: 0,
                    uptime: uptime_class(self.uptime(number(*friend))),
                    rate: if shines { 15 } else { RATE },
                    ageing: handles.is_ageing(*friend, self.unix_ms),
                };
                (*friend, listed)
            };
            let shown = handles.listed().iter().map(listed).collect();
            self.listers.insert(node, Lister { handles, shown });
        }
        &self.listers[&node]
    }

    /// What a node lists to a circuit that arrives from another, as it comes out of the wire's form.
    pub(crate) fn list(&mut self, node: u32, arriving: u32) -> Vec<Listed> {
        if node == MADE_UP || self.is_hostile(node) && self.adversary != Adversary::Honest {
            let made_up = |n: u8| Listed {
                handle: Handle([n, 0, 0, 0, 0, 0, 0, 0]),
                key: [n; 32],
                epoch: 0,
                uptime: 15,
                rate: 15,
                ageing: false,
            };
            return (0..LIST_LEN as u8).map(made_up).collect();
        }
        let lister = self.lister(node);
        let friends = lister.handles.listed_for(key(arriving));
        let list: Vec<_> = friends.map(|friend| lister.shown[&friend]).collect();
        decode_list(&encode_list(&list)).unwrap_or_default()
    }

    /// The node that a lister's handle names.
    fn resolve(&mut self, lister: u32, handle: Handle) -> u32 {
        if lister == MADE_UP || self.is_hostile(lister) && self.adversary != Adversary::Honest {
            return MADE_UP;
        }
        let shown = &self.lister(lister).shown;
        shown.iter().find(|(_, l)| l.handle == handle).map_or(MADE_UP, |(friend, _)| number(*friend))
    }

    /// Walks a slot's route as a core does: guard, second and third relay; a third one that turns out
    /// to be the origin itself is replaced.
    pub(crate) fn walk(
        &mut self,
        origin: u32,
        routes: &mut Routes,
        (pair, slot): (Pair, usize),
        rng: &mut Rng,
    ) -> Option<[u32; 3]> {
        let guard = number(routes.guard(pair)?);
        let list = self.list(guard, origin);
        let handle = routes.second(pair, &list, self.unix_ms, true, rng).chosen?;
        let second = self.resolve(guard, handle);
        let list = self.list(second, guard);
        loop {
            let handle = routes.next(pair, slot, 2, &list, self.unix_ms, true, rng).chosen?;
            let third = self.resolve(second, handle);
            if third != origin {
                return Some([guard, second, third]);
            }
            routes.unsuitable(pair, slot, 2);
        }
    }

    /// Guards of a node that starts from nothing.
    pub(crate) fn fresh(&self, origin: u32, rng: &mut Rng) -> Routes {
        let mut routes = Routes::default();
        routes.refresh(self.unix_ms, &self.candidates(origin), rng);
        routes
    }
}

pub(crate) fn key(node: u32) -> FriendKey {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&node.to_le_bytes());
    FriendKey(bytes)
}

pub(crate) fn number(friend: FriendKey) -> u32 {
    friend.0.first_chunk().map_or(MADE_UP, |bytes| u32::from_le_bytes(*bytes))
}
