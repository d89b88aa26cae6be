//! Circuits in the world: quick settings, worlds of any friend graph, and what is counted in them.

use super::{NodeId, World};
use kith_onion::handle::{Handle, Handles};
use kith_onion::{CircuitReport, CircuitSettings, OwnState, Privacy};
use std::time::Duration;

impl World {
    /// Settings with which circuits stand after seconds.
    pub fn quick_circuits() -> CircuitSettings {
        CircuitSettings {
            pace: Duration::from_millis(500),
            snapshot: Duration::from_secs(2),
            ..CircuitSettings::default()
        }
    }

    /// Nodes of which these are friends, all linked.
    pub fn of_friends(
        seed: u64,
        count: usize,
        friends: &[(NodeId, NodeId)],
        privacy: Privacy,
        circuits: CircuitSettings,
    ) -> Self {
        let mut world = Self::with_nodes(seed, count);
        for id in 0..count {
            world.set_circuits(id, privacy, circuits);
        }
        friends.iter().for_each(|(a, b)| world.introduce(*a, *b));
        let linked = |w: &Self| friends.iter().all(|(a, b)| w.linked(*a, *b));
        assert!(world.run_until(Duration::from_secs(60), linked), "everybody is linked");
        world
    }

    /// What a node's owner sees of its circuits.
    pub fn circuits(&self, node: NodeId) -> CircuitReport {
        self.nodes[node].core().circuit_report(self.time(node))
    }

    /// How `lister` names `friend`, whether it is listed or not.
    pub fn handle(&self, lister: NodeId, friend: NodeId) -> Handle {
        let handles = Handles::new(&self.nodes[lister].own_secret);
        handles.handle_of(self.nodes[friend].key(), self.time(lister).unix_ms)
    }

    /// Own circuits of a node that wait for use.
    pub fn ready(&self, node: NodeId) -> usize {
        self.circuits(node).own.iter().filter(|c| c.state == OwnState::Ready).count()
    }

    /// Waits until a node has so many circuits to use.
    pub fn wait_for_circuits(&mut self, node: NodeId, count: usize) {
        let there = self.run_until(Duration::from_secs(180), |w| w.ready(node) >= count);
        assert!(there, "{count} circuits: {:?}", self.circuits(node));
    }

    /// Circuits of others through all nodes, and relays of all own circuits: at rest, when nothing is
    /// being built or ended, they are as many.
    pub fn circuit_sums(&self) -> (usize, usize) {
        let running = || (0..self.nodes.len()).filter(|id| self.nodes[*id].core.is_some());
        let relayed = running().map(|id| self.circuits(id).relayed).sum();
        let own = running().flat_map(|id| self.circuits(id).own).map(|c| usize::from(c.relays)).sum();
        (relayed, own)
    }
}
