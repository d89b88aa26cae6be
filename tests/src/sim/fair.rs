//! Nodes that are slow, and friends who misuse them: reading like the driver does, and raw links.

use super::{NodeId, What, World};
use kith_onion::ConnId;
use kith_onion::cell::{Command, SmallCell, TunOpen};
use kith_onion::control::Control;
use kith_onion::link::Link;
use std::time::Duration;

/// What the driver reads from one socket before the next has its turn.
const READ_LEN: usize = 256 * 1024;

/// A way to make work for a friend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    /// Cells that mean nothing.
    Pads,
    /// Requests for tunnels to nothing.
    Opens,
    /// Ends of tunnels that never were.
    Destroys,
    /// Credit for tunnels that never were.
    Credits,
    /// Many short control messages.
    Hints,
    /// Requests for the whole catalogue.
    Pulls,
}

impl Flood {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Pads, Self::Opens, Self::Destroys, Self::Credits, Self::Hints, Self::Pulls];

    /// Queues `count` pieces. `circ`: a tunnel number of the flooder's half that is not in use.
    fn queue(self, link: &mut Link, count: u32, circ: &mut u32) {
        // Above these a link ends at the flooder's own side.
        for _ in 0..count {
            if link.urgent_waiting() > 2_000 || link.control_waiting() > 1_000_000 {
                return;
            }
            *circ += 2;
            let cell = |circ, command, front| SmallCell { circ, command, front };
            let _ = match self {
                Self::Pads => link.send_urgent(cell(0, Command::Pad, Vec::new())),
                Self::Destroys => link.send_urgent(cell(*circ, Command::Destroy, Vec::new())),
                Self::Credits => {
                    let front = kith_onion::cell::encode_credits(&[(*circ, 9)]);
                    link.send_urgent(cell(0, Command::Credit, front))
                }
                Self::Opens => {
                    let open = TunOpen {
                        locator: [9; 16],
                        hops_left: 1,
                        sealed: true,
                        spreads: false,
                        nonce: [0; 16],
                        message: vec![7; 48],
                    };
                    link.send_urgent(cell(*circ, Command::TunOpen, open.encode()))
                }
                Self::Hints => link.send(&Control::Hint),
                Self::Pulls => {
                    let part = kith_onion::control::Part::Own;
                    link.send(&Control::Pull { part, log: 0, since: 0 })
                }
            };
        }
    }
}

impl World {
    /// `node` sends its friend so many pieces of work, past all rules of its own.
    pub fn flood(&mut self, node: NodeId, friend: NodeId, flood: Flood, count: u32) {
        let key = self.nodes[friend].key();
        self.floods += 1;
        let mut circ = 1_000_000 + self.floods * 10_000 + self.half(node, friend);
        self.act(node, |core, _| {
            if let Some(link) = core.raw_link(key) {
                flood.queue(link, count, &mut circ);
            }
        });
    }

    /// A node reads nothing from its friend for so long. The wire stays up.
    pub fn stop_reading(&mut self, node: NodeId, friend: NodeId, time: Duration) {
        for wire in self.wires_between(node, friend) {
            let wire = &mut self.wires[wire];
            let from = wire.nodes.iter().position(|n| *n == Some(friend)).expect("it is at an end");
            wire.flows[from].free_at = self.now + time;
        }
    }

    /// Reads what arrived, one wire after the other, as long as the node may and can.
    pub(super) fn read_some(&mut self, id: NodeId) -> bool {
        let last = self.nodes[id].read_last;
        let conns = &self.nodes[id].conns;
        let after = conns.range(last.wrapping_add(1)..).chain(conns.range(..=last));
        let after: Vec<(ConnId, (usize, usize))> = after.map(|(conn, at)| (*conn, *at)).collect();
        let mut any = false;
        for (conn, (wire, side)) in after {
            if self.wires[wire].unread[side].is_empty() || self.wires[wire].cut {
                continue;
            }
            let now = self.time(id);
            if self.nodes[id].busy_until > now.at {
                break;
            }
            if !self.nodes[id].core.as_mut().is_some_and(|core| core.may_read(now, conn)) {
                continue;
            }
            self.read_wire(id, conn, wire, side);
            any = true;
        }
        any
    }

    fn read_wire(&mut self, id: NodeId, conn: ConnId, wire: usize, side: usize) {
        let now = self.time(id);
        let unread = &mut self.wires[wire].unread[side];
        let mut bytes = unread.pop_front().unwrap_or_default();
        // Only a node that is busy finds several writes at once.
        while self.nodes[id].cpu.is_some()
            && unread.front().is_some_and(|b| bytes.len() + b.len() <= READ_LEN)
        {
            bytes.extend(unread.pop_front().unwrap_or_default());
        }
        self.wires[wire].take(side, bytes.len());
        let node = &mut self.nodes[id];
        node.read_last = conn;
        if let Some(cpu) = node.cpu {
            let work = Duration::from_nanos(bytes.len() as u64 * 1_000_000_000 / cpu);
            node.busy_until = now.at + work;
            self.at(now.at + work, What::Look { node: id, life: self.nodes[id].life });
        }
        if let Some(core) = self.nodes[id].core.as_mut() {
            core.input(now, conn, &bytes);
        }
        if let super::End::Node { node, life, .. } = self.wires[wire].ends[1 - side] {
            self.at(now.at, What::Look { node, life }); // there is room again
        }
    }
}
