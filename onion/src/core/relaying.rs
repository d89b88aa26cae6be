//! Circuits of others: making them, making them longer, passing their cells on, and being their end.
//! Page: `docs/protocol/circuit.md`.
//!
//! Invariant: a relay knows the link before it and the link after it and nothing else. Whatever is
//! wrong with a cell (changed, replayed, out of order, unexpected, unknown) ends the circuit, on both
//! sides after a random time and without a reason. What is asked of the end is answered after the time
//! that the builder named, whatever came of it.

use super::circuits::Circuits;
use super::connections::{CREDIT_TICK, Connection};
use super::tunnels::{TUNNEL_PROLOGUE, Timer, TimerKey};
use super::*;
use crate::budget::Defences;
use crate::cell::{self, BODY_LEN, Command, TunOpen};
use crate::circuit::{CREATED_LEN, Create, Relayed, StreamId, decode_created, peek_record, write_record};
use crate::handle::{Handle, encode_list};
use crate::link::{Broken, TUNNEL_RECORD_LEN, TUNNEL_STREAM_LEN, open_record, seal_next};
use crate::schedule::{Class, Flow};
use crate::serving::Serving;
use crate::session::{Assembler, ByteQueue, Message};
use crate::tunnel::{Role, Tunnel};
use kith_crypto::circuit::{Body, RelayLayer};
use kith_crypto::noise::{Handshake, Pattern, Session};

mod end;

/// Circuits on one link, by the side that made them, and in all.
const MAX_ON_LINK: usize = 64;
const MAX_CIRCUITS_IN_ALL: usize = 1024;
/// `DESTROY` is passed on after up to so many milliseconds (decision 18).
const DESTROY_MS: u64 = 500;
/// A circuit without a cell for so long is over: builders send one a minute.
const IDLE: Duration = Duration::from_secs(3600);
const SWEEP: Duration = Duration::from_secs(600);

/// One place: a circuit or tunnel on a connection.
pub(crate) type At = (ConnId, CircId);

/// A circuit of somebody else's through this node, or to it.
#[derive(Debug)]
pub(crate) struct RelayCircuit {
    layer: RelayLayer,
    place: Place,
    last_cell: Duration,
}

/// Where this node stands in a circuit.
#[derive(Debug)]
enum Place {
    End(Box<End>),
    Middle(At),
}

/// What the end of a circuit does for its builder.
#[derive(Debug, Default)]
struct End {
    extending: Option<Extending>,
    pings: u8,
    /// It could not be made longer: no builder goes on with such a circuit.
    failed: bool,
    search: Option<Search>,
    streams: BTreeMap<StreamId, Stream>,
    /// Streams below this were opened at some time.
    next_stream: u32,
    /// From where each cell came that waits to leave towards the builder; `None`: a block of this
    /// node's own, the circuit itself: an answer.
    sources: VecDeque<Option<At>>,
    /// Answers that wait.
    unheard: u32,
}

#[derive(Debug)]
struct Extending {
    next: Option<At>,
    asked: Duration,
    answer: Option<(Vec<u8>, Duration)>,
}

/// A request of the builder's that waits for answers.
#[derive(Debug)]
struct Search {
    base: StreamId,
    want: u8,
    /// When it is over; the timer goes with it.
    timer: TimerKey,
    answered: u8,
    others: Vec<At>,
}

#[derive(Debug)]
enum Stream {
    /// Goes on in a tunnel, in which so many cells wait.
    Tunnel { at: At, queued: u32 },
    /// This node has the object itself.
    Here(Box<Here>),
}

#[derive(Debug)]
pub(super) struct Here {
    serving: Serving,
    assembler: Assembler,
    seal: Session,
    queue: ByteQueue,
    /// More follows at once: what does not fill a record waits for it.
    more: bool,
}

impl RelayCircuit {
    fn end(&mut self) -> Option<&mut End> {
        match &mut self.place {
            Place::End(end) => Some(end),
            Place::Middle(_) => None,
        }
    }

    /// Streams through which this node serves an object itself.
    fn served(&self, root: &Root) -> impl Iterator<Item = StreamId> {
        let streams = match &self.place {
            Place::End(end) => Some(&end.streams),
            Place::Middle(_) => None,
        };
        let serves = |stream: &Stream| matches!(stream, Stream::Here(here) if here.serving.root == *root);
        streams.into_iter().flatten().filter(move |(_, stream)| serves(stream)).map(|(id, _)| *id)
    }

    /// What this node serves to the builder itself.
    pub(crate) fn serving(&mut self) -> Option<&mut Serving> {
        self.end()?.streams.values_mut().find_map(|stream| match stream {
            Stream::Here(here) => Some(&mut here.serving),
            Stream::Tunnel { .. } => None,
        })
    }
}

impl Core {
    fn relay_circuit(&mut self, at: At) -> Option<&mut RelayCircuit> {
        match &mut self.tunnel(at.0, at.1)?.role {
            Role::CircuitIn(circuit) => Some(circuit),
            _ => None,
        }
    }

    fn circuit_end(&mut self, at: At) -> Option<&mut End> {
        self.relay_circuit(at)?.end()
    }

    /// Whether a friend's circuits, or this node's own (0), may take one more place on a link to another
    /// friend: nobody has more of them than are free, so that there is always room for somebody else.
    /// Places that only own circuits could have would show which those are.
    pub(super) fn may_extend_more(&self, from: ConnId, to: ConnId) -> bool {
        let Some(open) = self.connections.get(&to).and_then(Connection::peek) else { return false };
        let half = open.next_circ % 2;
        let circuits = || open.tunnels.iter().filter(|(c, t)| *c % 2 == half && !t.is_tunnel());
        let held = circuits().filter(|(_, t)| t.flow.from == from).count();
        held < MAX_ON_LINK.saturating_sub(circuits().count())
    }

    fn circuits_on(&self, conn: ConnId, half: CircId) -> usize {
        let open = self.connections.get(&conn).and_then(Connection::peek);
        open.map_or(0, |o| o.tunnels.iter().filter(|(c, t)| *c % 2 == half % 2 && !t.is_tunnel()).count())
    }

    // Making.

    /// A friend asks for a circuit to this node. What cannot be is not answered: whoever asked on
    /// somebody's behalf says so at its own time.
    pub(super) fn create_came(
        &mut self,
        now: Now,
        conn: ConnId,
        circ: CircId,
        create: &Create,
    ) -> Result<(), Broken> {
        let open = self.open_link(conn).ok_or(Broken)?;
        let ours_are_even = open.next_circ.is_multiple_of(2);
        if circ.is_multiple_of(2) == ours_are_even || open.tunnels.contains_key(&circ) {
            return Err(Broken);
        }
        let Some(from) = self.friend_of(conn) else { return Err(Broken) };
        let room = self.circuits_on(conn, circ) < MAX_ON_LINK
            && self.circuits.relayed < MAX_CIRCUITS_IN_ALL
            && self.may_relay_more(conn);
        // The limit comes first: nothing is computed beyond it.
        let counted = self.budgets.defences.counted_creates;
        let may = self.circuits.settings.relay && (room || !counted);
        let friend = self.friends.get_mut(&from);
        let may = may && friend.is_some_and(|f| !counted || f.onion.creates.take(now.at));
        if !may {
            return Ok(());
        }
        let list = self.handle_list(now, from);
        let Self { friends, rng, .. } = self;
        let Some(key) = friends.get(&from).and_then(|f| f.onion.own_key(create.epoch)) else { return Ok(()) };
        let answered =
            kith_crypto::circuit::answer(key, create.epoch, &create.message, &encode_list(&list), rng);
        let Ok((layer, message)) = answered else { return Ok(()) };
        let circuit = RelayCircuit { layer, place: Place::End(Box::default()), last_cell: now.at };
        let flow = Flow { class: Class::Onion, from: conn };
        if let Some(open) = self.open_link(conn) {
            open.tunnels.insert(circ, Tunnel::of(Role::CircuitIn(Box::new(circuit)), flow));
            open.link.open_circuit(circ, flow);
        }
        self.circuits.relayed += 1;
        self.urgent(now, conn, circ, Command::Created, message);
        // It is completed like any other, also if it is this node's own that found its way back.
        self.own_came_back(&create.message);
        Ok(())
    }

    /// A relay answered a `CREATE`.
    pub(super) fn created_came(
        &mut self,
        now: Now,
        conn: ConnId,
        circ: CircId,
        body: &[u8],
    ) -> Result<(), Broken> {
        let message = decode_created(body)?;
        match self.tunnel(conn, circ).map(|t| &t.role) {
            Some(Role::CircuitOut { circuit }) => {
                let circuit = *circuit;
                let at = (conn, circ);
                let waits = self.circuit_end(circuit).and_then(|end| end.extending.as_mut());
                match waits.filter(|e| e.next == Some(at) && e.answer.is_none()) {
                    Some(extending) => {
                        extending.answer = Some((message, now.at.saturating_sub(extending.asked)));
                        if !self.budgets.defences.equal_answers {
                            self.extended(now, circuit);
                        }
                        Ok(())
                    }
                    None => Err(Broken),
                }
            }
            Some(Role::Origin { own }) => {
                let own = *own;
                self.own_created(now, own, &message);
                Ok(())
            }
            // It came too late.
            None | Some(Role::Ending) => Ok(()),
            Some(_) => Err(Broken),
        }
    }

    /// Begins a circuit on a link, for a circuit that goes on there or one of this node's own.
    pub(super) fn begin_circuit(
        &mut self,
        now: Now,
        conn: ConnId,
        role: Role,
        from: ConnId,
        create: &Create,
    ) -> Option<CircId> {
        let open = self.open_link(conn)?;
        let half = open.next_circ % 2;
        let here = open.tunnels.iter().filter(|(circ, t)| **circ % 2 == half && !t.is_tunnel());
        if here.count() >= MAX_ON_LINK {
            return None;
        }
        let flow = Flow { class: Class::Onion, from };
        let open = self.open_link(conn)?;
        let circ = open.next_circ;
        open.next_circ = open.next_circ.checked_add(2)?;
        open.tunnels.insert(circ, Tunnel::of(role, flow));
        open.link.open_circuit(circ, flow);
        self.note(now, conn, circ, Noted::Began { own: from == 0 });
        self.urgent(now, conn, circ, Command::Create, create.encode());
        self.tunnel(conn, circ).map(|_| circ)
    }

    // Cells.

    /// A cell of a circuit came.
    pub(super) fn relay_came(
        &mut self,
        now: Now,
        conn: ConnId,
        circ: CircId,
        body: &cell::Body,
    ) -> Result<(), Broken> {
        let at = (conn, circ);
        let Some(open) = self.open_link(conn) else { return Ok(()) };
        let who = open.who;
        let Some(tunnel) = open.tunnels.get_mut(&circ) else {
            open.account.stray_cell(now);
            return Ok(());
        };
        let class = tunnel.flow.class;
        let unpaid = tunnel.window.arrived(now.at)?;
        if matches!(tunnel.role, Role::Ending) {
            return Ok(()); // on its way when it ended
        }
        if unpaid {
            self.owe_for_cell(now, conn, class);
        }
        // The one copy: what is passed on is changed in place and moved.
        let mut body: Box<Body> = Box::new(*body);
        match self.tunnel(conn, circ).map(|t| &mut t.role) {
            Some(Role::CircuitIn(circuit)) => {
                circuit.last_cell = now.at;
                if circuit.layer.forward(&mut body).is_err() {
                    self.kill_circuit(now, at);
                    return Ok(());
                }
                match circuit.place {
                    Place::Middle(next) => self.pass_cell(now, who, next, body),
                    Place::End(_) => self.end_cell_came(now, at, &body),
                }
            }
            Some(Role::CircuitOut { circuit }) => {
                let circuit = *circuit;
                match self.relay_circuit(circuit) {
                    Some(RelayCircuit { layer, place: Place::Middle(next), last_cell }) if *next == at => {
                        *last_cell = now.at;
                        layer.backward(&mut body);
                        self.pass_cell(now, who, circuit, body);
                    }
                    // Before the circuit goes on there for its builder.
                    _ => self.kill_circuit(now, circuit),
                }
            }
            Some(Role::Origin { own }) => {
                let own = *own;
                self.used_up(now, at, 1);
                self.count(who, 1, |t| &mut t.received);
                self.own_cell_came(now, own, &mut body);
            }
            _ => return Err(Broken),
        }
        Ok(())
    }

    /// Passes a cell on; it is counted at the friend that it came from.
    fn pass_cell(&mut self, now: Now, from: Who, to: At, body: Box<Body>) {
        if let Some(next) = self.open_link(to.0) {
            next.link.relay(now.at, to.1, body);
        }
        self.count_relayed(to.0);
        self.shed_relayed(now);
        self.count(from, 1, |t| &mut t.relayed);
    }

    /// Cells of a circuit or tunnel were used up here: their room can be given again.
    fn used_up(&mut self, now: Now, at: At, cells: u32) {
        if let Some(open) = self.open_link(at.0)
            && let Some(tunnel) = open.tunnels.get_mut(&at.1)
        {
            tunnel.window.consumed(cells);
            open.credit_at.get_or_insert(now.at + CREDIT_TICK);
        }
    }

    fn passed_on(&mut self, now: Now, from: At, cells: u32, delay: Duration) {
        let delays = self.budgets.delays;
        if let Some(tunnel) = self.tunnel(from.0, from.1) {
            tunnel.window.waited(delay, delays);
        }
        self.used_up(now, from, cells);
    }

    /// Cells of a circuit left on a link.
    pub(super) fn circuit_cells_left(&mut self, now: Now, at: At, cells: u32, delay: Duration) {
        let role = self.tunnel(at.0, at.1).map(|t| &mut t.role);
        match role {
            Some(Role::CircuitOut { circuit }) => {
                let circuit = *circuit;
                self.passed_on(now, circuit, cells, delay);
            }
            Some(Role::Spliced { circuit, stream }) => {
                let (circuit, stream) = (*circuit, *stream);
                let stream = self.circuit_end(circuit).and_then(|end| end.streams.get_mut(&stream));
                if let Some(Stream::Tunnel { queued, .. }) = stream {
                    *queued = queued.saturating_sub(cells);
                }
                self.passed_on(now, circuit, cells, delay);
            }
            Some(Role::CircuitIn(circuit)) => match &mut circuit.place {
                Place::Middle(next) => {
                    let next = *next;
                    self.passed_on(now, next, cells, delay);
                }
                Place::End(end) => {
                    let serves = end.streams.values().any(|s| matches!(s, Stream::Here(_)));
                    let left = (cells as usize).min(end.sources.len());
                    let mut from: Vec<At> = end.sources.drain(..left).flatten().collect();
                    let served = (left - from.len()) as u32;
                    let all = from.len();
                    from.retain(|source| *source != at);
                    end.unheard = end.unheard.saturating_sub((all - from.len()) as u32);
                    for source in from {
                        self.passed_on(now, source, 1, delay);
                    }
                    if let Some(who) = self.open_link(at.0).map(|open| open.who) {
                        self.count(who, served, |t| &mut t.sent);
                    }
                    if serves {
                        self.serve_more(now, at.0, at.1);
                    }
                }
            },
            _ => {}
        }
    }

    // Ends.

    /// Something was wrong with a circuit: it ends on both sides after a random time.
    pub(super) fn kill_circuit(&mut self, now: Now, at: At) {
        if let Some(tunnel) = self.tunnel(at.0, at.1)
            && let Role::CircuitIn(_) = tunnel.role
            && let Role::CircuitIn(circuit) = std::mem::replace(&mut tunnel.role, Role::Ending)
        {
            self.circuit_gone(now, at, *circuit);
            self.end_circuit_side(now, at);
        }
    }

    /// Ends one side of a circuit after a random time; nothing passes any more.
    pub(super) fn end_circuit_side(&mut self, now: Now, at: At) {
        let Some(open) = self.open_link(at.0) else { return };
        let Some(tunnel) = open.tunnels.get_mut(&at.1) else { return };
        tunnel.role = Role::Ending;
        let timers = std::mem::take(&mut tunnel.timers);
        open.link.close_tunnel(at.1);
        timers.iter().for_each(|key| drop(self.timers.remove(key)));
        self.count_relayed(at.0);
        let most = if self.budgets.defences.late_destroy { DESTROY_MS } else { 0 };
        let wait = Duration::from_millis(self.rng.range(0, most));
        self.at(now.at + wait, at.0, at.1, Timer::Destroy(at));
    }

    /// What hung on a circuit that came in here ends with it.
    pub(super) fn circuit_gone(&mut self, now: Now, at: At, circuit: RelayCircuit) {
        self.circuits.relayed = self.circuits.relayed.saturating_sub(1);
        match circuit.place {
            Place::Middle(next) => self.end_circuit_side(now, next),
            Place::End(end) => {
                let End { extending, search, streams, .. } = *end;
                if let Some(next) = extending.and_then(|e| e.next) {
                    self.end_circuit_side(now, next);
                }
                for (c, k) in search.map(|s| s.others).unwrap_or_default() {
                    self.end_tunnel(now, c, k, true);
                }
                for stream in streams.into_values() {
                    self.stream_dropped(now, at, stream);
                }
            }
        }
    }

    /// The far side of a circuit ended: the near side follows, unless it only was being asked.
    pub(super) fn circuit_out_gone(&mut self, now: Now, at: At, circuit: At) {
        let extending = self.circuit_end(circuit).and_then(|end| end.extending.as_mut());
        match extending.filter(|e| e.next.is_none_or(|next| next == at)) {
            // The builder hears of it at the time that it named.
            Some(extending) => (extending.next, extending.answer) = (None, None),
            None => self.kill_circuit(now, circuit),
        }
    }

    /// Relaying was switched off: no circuit of others stays.
    pub(super) fn end_relayed(&mut self, now: Now) {
        let mut relayed = Vec::new();
        for (conn, connection) in &self.connections {
            let Some(open) = connection.peek() else { continue };
            let is_relayed = |t: &Tunnel| matches!(t.role, Role::CircuitIn(_));
            relayed
                .extend(open.tunnels.iter().filter(|(_, t)| is_relayed(t)).map(|(circ, _)| (*conn, *circ)));
        }
        relayed.into_iter().for_each(|at| self.kill_circuit(now, at));
    }

    /// Ends circuits that nobody uses.
    pub(super) fn sweep_circuits(&mut self, now: Now) {
        if now.at < self.circuits.sweep_at {
            return;
        }
        self.circuits.sweep_at = now.at + SWEEP;
        let mut idle = Vec::new();
        for (conn, connection) in &self.connections {
            let Some(open) = connection.peek() else { continue };
            idle.extend(open.tunnels.iter().filter_map(|(circ, t)| match &t.role {
                Role::CircuitIn(c) if now.at.saturating_sub(c.last_cell) > IDLE => Some((*conn, *circ)),
                _ => None,
            }));
        }
        idle.into_iter().for_each(|at| self.kill_circuit(now, at));
    }

    /// Ends what is served through circuits to those who may no longer have an object.
    pub(super) fn end_unshared_circuits(&mut self, now: Now, root: Root) {
        let mut ended = Vec::new();
        for (conn, connection) in &self.connections {
            let Some(open) = connection.peek() else { continue };
            let Who::Friend(key) = open.who else { continue };
            if self.serves_circuits(key, &root) {
                continue;
            }
            for (circ, tunnel) in &open.tunnels {
                let Role::CircuitIn(circuit) = &tunnel.role else { continue };
                ended.extend(circuit.served(&root).map(|stream| ((*conn, *circ), stream)));
            }
        }
        ended.into_iter().for_each(|(at, stream)| self.stream_over(now, at, stream));
    }

    // Who is served what.

    /// Whether this node gives an object to a friend, in its privacy mode: what was watched tells
    /// who watched it.
    pub(super) fn serves(&self, asker: FriendKey, root: &Root) -> bool {
        let by_mode = match self.circuits.privacy {
            Privacy::Fast => true,
            Privacy::Normal => self.catalogue.is_own(root) || self.catalogue.is_near(root),
            Privacy::Strict => self.catalogue.is_own(root),
        };
        if self.serves_for_others(asker, root) {
            return true;
        }
        let from_afar = || self.circuits.privacy == Privacy::Fast && self.catalogue.was_told_by(asker, root);
        by_mode && (self.catalogue.may_serve(asker, root) || from_afar())
    }

    /// The same for whoever comes by a circuit: only what was published for friends of friends.
    pub(super) fn serves_circuits(&self, from: FriendKey, root: &Root) -> bool {
        if self.serves_circuits_for_others(root) {
            return true;
        }
        // What this node published is its own to decide about, and what others did is no matter of whoever
        // the circuit came by: anybody can list any root.
        let travels = match self.catalogue.is_own(root) {
            true => self.catalogue.travels(root),
            false => self.catalogue.onward(root).iter().any(|(friend, _)| *friend != from),
        };
        travels && self.serves(from, root)
    }
}

const _: () = assert!(CREATED_LEN <= BODY_LEN);
