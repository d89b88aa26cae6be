//! An established link: records in, cells out, and the order in which waiting cells leave.
//! Format: `docs/protocol/link.md`.
//!
//! A record is one 18-byte Noise message that holds the length of the next, and then that: one to
//! eight cells. Waiting cells leave in strict priority: credit and tunnel control, the control
//! stream, then one cell per tunnel in turn, as long as the peer has granted credit for it.

use crate::cell::{self, BODY_LEN, Body, CELL_LEN, CircId, Command, STREAM_LEN, SmallCell};
use crate::control::{Control, MESSAGE_HEAD};
use crate::session::ByteQueue;
use kith_crypto::codec::DecodeError;
use kith_crypto::noise::{OVERHEAD, Session};
use std::collections::{BTreeMap, VecDeque};

/// Most cells in one record.
pub const MAX_CELLS: usize = 8;
/// Bytes of a full record on the wire.
pub const RECORD_LEN: usize = LENGTH_LEN + MAX_CELLS * CELL_LEN + OVERHEAD;
const LENGTH_LEN: usize = 2 + OVERHEAD;
/// Cells that a peer may send into a new tunnel before it is granted more.
pub const WINDOW_START: u32 = 32;
/// Largest window of one tunnel.
pub const WINDOW_MAX: u32 = 256;
/// Tunnels that one side may have opened on one link.
pub const MAX_CIRCUITS: usize = 64;
/// Bytes of control messages that may wait on one link before it counts as stuck.
const MAX_CONTROL_QUEUE: usize = 8 * 1024 * 1024;
/// Urgent cells that may wait on one link before it counts as stuck.
const MAX_URGENT: usize = 4096;
/// A sealed record inside a tunnel: header 8, data, tag.
pub const TUNNEL_RECORD_LEN: usize = 3968;
/// Stream bytes of one sealed record.
pub const TUNNEL_STREAM_LEN: usize = TUNNEL_RECORD_LEN - OVERHEAD - 8;

/// The peer broke the protocol, or the bytes were changed on the way. The link is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

impl From<DecodeError> for Broken {
    fn from(_: DecodeError) -> Self {
        Self
    }
}

impl From<kith_crypto::noise::NoiseFailed> for Broken {
    fn from(_: kith_crypto::noise::NoiseFailed) -> Self {
        Self
    }
}

/// What waits to go out on one tunnel.
#[derive(Debug)]
pub enum Outgoing {
    /// Cells of somebody else's tunnel, passed on as they came.
    Relayed(VecDeque<Box<Body>>),
    /// Session messages of this node; sealed end to end unless the link is the whole way.
    Session {
        /// Bytes of messages.
        queue: ByteQueue,
        /// The seal between the tunnel's ends.
        seal: Option<Session>,
    },
}

impl Outgoing {
    fn is_empty(&self) -> bool {
        match self {
            Self::Relayed(cells) => cells.is_empty(),
            Self::Session { queue, .. } => queue.is_empty(),
        }
    }

    /// Writes the next cell's body.
    fn fill(&mut self, body: &mut Body) -> Result<(), Broken> {
        match self {
            Self::Relayed(cells) => {
                if let Some(cell) = cells.pop_front() {
                    body.copy_from_slice(cell.as_slice());
                }
            }
            Self::Session { queue, seal: None } => {
                let (len, data) = body.split_first_chunk_mut::<2>().ok_or(Broken)?;
                let used = queue.take(data);
                *len = (used as u16).to_le_bytes();
                data.get_mut(used..).unwrap_or_default().fill(0);
            }
            Self::Session { queue, seal: Some(session) } => {
                let mut plain = [0; 8 + TUNNEL_STREAM_LEN];
                let (head, data) = plain.split_first_chunk_mut::<8>().ok_or(Broken)?;
                let used = queue.take(data);
                let [low, high, ..] = head;
                [*low, *high] = (used as u16).to_le_bytes();
                session.seal(&plain, body)?;
                body.get_mut(TUNNEL_RECORD_LEN..).unwrap_or_default().fill(0);
            }
        }
        Ok(())
    }
}

/// The stream bytes of a cell of a tunnel whose link is the whole way.
pub fn open_plain(body: &Body) -> Result<&[u8], Broken> {
    let (len, data) = body.split_first_chunk::<2>().ok_or(Broken)?;
    data.get(..usize::from(u16::from_le_bytes(*len))).ok_or(Broken)
}

/// Opens a sealed cell into `out` (at least 3968 bytes) and returns the stream bytes.
pub fn open_sealed<'a>(session: &mut Session, body: &Body, out: &'a mut [u8]) -> Result<&'a [u8], Broken> {
    let (record, rest) = body.split_at_checked(TUNNEL_RECORD_LEN).ok_or(Broken)?;
    if rest.iter().any(|b| *b != 0) {
        return Err(Broken);
    }
    let len = session.open(record, out)?;
    let (head, data) = out.get(..len).and_then(|p| p.split_first_chunk::<8>()).ok_or(Broken)?;
    let [low, high, reserved @ ..] = head;
    if *reserved != [0; 6] {
        return Err(Broken);
    }
    data.get(..usize::from(u16::from_le_bytes([*low, *high]))).ok_or(Broken)
}

/// Sending side of one tunnel on one link.
#[derive(Debug)]
pub struct OutTunnel {
    /// Cells that the peer still accepts.
    pub credit: u32,
    /// What waits.
    pub outgoing: Outgoing,
    queued: bool,
}

/// Receiving side of one tunnel on one link: what was granted and what is to be granted again.
#[derive(Debug)]
pub struct InWindow {
    window: u32,
    granted: u32,
    used: u32,
    ran_dry: bool,
}

impl Default for InWindow {
    fn default() -> Self {
        Self { window: WINDOW_START, granted: WINDOW_START, used: 0, ran_dry: false }
    }
}

impl InWindow {
    /// A cell arrived. An error when the peer had no credit for it.
    pub fn arrived(&mut self) -> Result<(), Broken> {
        self.granted = self.granted.checked_sub(1).ok_or(Broken)?;
        self.ran_dry |= self.granted <= self.window / 8;
        Ok(())
    }

    /// `cells` were used up here (played, written, passed on).
    pub fn consumed(&mut self, cells: u32) {
        self.used += cells;
    }

    /// Credit to send now, if it is worth a cell: half a window, or anything when `tick` is due.
    /// The window doubles when the sender ran dry and nothing piled up here.
    pub fn grant(&mut self, tick: bool) -> Option<u16> {
        if !self.would_grant(tick) {
            return None;
        }
        let mut give = std::mem::take(&mut self.used);
        let piled = self.window.saturating_sub(self.granted + give);
        if self.ran_dry && piled <= self.window / 4 && self.window < WINDOW_MAX {
            give += self.window;
            self.window *= 2;
        }
        self.ran_dry = false;
        self.granted += give;
        Some(give as u16)
    }

    /// Whether [`InWindow::grant`] would give something.
    pub const fn would_grant(&self, tick: bool) -> bool {
        self.used > 0 && (tick || self.used >= self.window / 2)
    }

    /// Whether anything waits to be granted.
    pub const fn is_due(&self) -> bool {
        self.used > 0
    }
}

/// The transport of one link.
#[derive(Debug)]
pub struct Link {
    session: Session,
    /// Bytes of an unfinished record.
    pending: Vec<u8>,
    body_len: Option<usize>,
    scratch: Vec<u8>,
    plain: Vec<u8>,
    control_in: Vec<u8>,
    urgent: VecDeque<SmallCell>,
    control_out: ByteQueue,
    tunnels: BTreeMap<CircId, OutTunnel>,
    turn: VecDeque<CircId>,
    /// Cells that left since the last look, per tunnel.
    left: Vec<(CircId, u32)>,
}

impl Link {
    /// A link over an established session.
    pub fn new(session: Session) -> Self {
        Self {
            session,
            pending: Vec::new(),
            body_len: None,
            scratch: vec![0; MAX_CELLS * CELL_LEN + OVERHEAD],
            plain: vec![0; MAX_CELLS * CELL_LEN],
            control_in: Vec::new(),
            urgent: VecDeque::new(),
            control_out: ByteQueue::default(),
            tunnels: BTreeMap::new(),
            turn: VecDeque::new(),
            left: Vec::new(),
        }
    }

    /// Takes bytes off `input` until one record is complete. `Ok(Some)` is that record's cells,
    /// in a buffer to hand back with [`Link::recycle`]; `Ok(None)` means that more bytes are needed.
    pub fn receive(&mut self, input: &mut &[u8]) -> Result<Option<Vec<u8>>, Broken> {
        loop {
            let need = self.body_len.unwrap_or(LENGTH_LEN);
            let sealed: &[u8] = if self.pending.is_empty() && input.len() >= need {
                let (now, rest) = input.split_at(need);
                *input = rest;
                now
            } else {
                let missing = need - self.pending.len().min(need);
                let (now, rest) = input.split_at(missing.min(input.len()));
                self.pending.extend_from_slice(now);
                *input = rest;
                if self.pending.len() < need {
                    return Ok(None);
                }
                &self.pending
            };
            let len = self.session.open(sealed, &mut self.scratch)?;
            self.pending.clear();
            if self.body_len.take().is_some() {
                let mut cells = std::mem::take(&mut self.scratch);
                cells.truncate(len);
                return Ok(Some(cells));
            }
            let plain = self.scratch.get(..len).and_then(|p| <[u8; 2]>::try_from(p).ok()).ok_or(Broken)?;
            let body = usize::from(u16::from_le_bytes(plain));
            if body == 0 || body % CELL_LEN != 0 || body > MAX_CELLS * CELL_LEN {
                return Err(Broken);
            }
            self.body_len = Some(body + OVERHEAD);
        }
    }

    /// Takes back a buffer from [`Link::receive`].
    pub fn recycle(&mut self, mut cells: Vec<u8>) {
        cells.resize(MAX_CELLS * CELL_LEN + OVERHEAD, 0);
        self.scratch = cells;
    }

    /// Adds the control bytes of a cell and returns the messages that are now complete.
    pub fn control(&mut self, body: &Body) -> Result<Vec<Control>, Broken> {
        self.control_in.extend_from_slice(open_plain(body)?);
        let mut out = Vec::new();
        while let Some(head) = self.control_in.first_chunk::<MESSAGE_HEAD>() {
            let [number, a, b, c, d] = *head;
            let len = u32::from_le_bytes([a, b, c, d]) as usize;
            if len > Control::max_len(number).ok_or(Broken)? {
                return Err(Broken);
            }
            let Some(body) = self.control_in.get(MESSAGE_HEAD..MESSAGE_HEAD + len) else { break };
            out.push(Control::decode(number, body)?);
            self.control_in.drain(..MESSAGE_HEAD + len);
        }
        Ok(out)
    }

    /// Queues a control message. An error when the peer has not read for too long.
    pub fn send(&mut self, message: &Control) -> Result<(), Broken> {
        self.control_out.push(message.encode());
        if self.control_out.len() > MAX_CONTROL_QUEUE { Err(Broken) } else { Ok(()) }
    }

    /// Queues a small cell ahead of everything else.
    pub fn send_urgent(&mut self, cell: SmallCell) -> Result<(), Broken> {
        self.urgent.push_back(cell);
        if self.urgent.len() > MAX_URGENT { Err(Broken) } else { Ok(()) }
    }

    /// Opens the sending side of a tunnel.
    pub fn open_tunnel(&mut self, circ: CircId, outgoing: Outgoing) {
        self.tunnels.insert(circ, OutTunnel { credit: WINDOW_START, outgoing, queued: false });
        self.wake(circ);
    }

    /// Closes the sending side; what waited is thrown away.
    pub fn close_tunnel(&mut self, circ: CircId) {
        self.tunnels.remove(&circ);
    }

    /// Cells or bytes of a tunnel that wait: the caller decides how much it adds.
    pub fn waiting(&self, circ: CircId) -> usize {
        self.tunnels.get(&circ).map_or(0, |t| match &t.outgoing {
            Outgoing::Relayed(cells) => cells.len(),
            Outgoing::Session { queue, .. } => queue.len(),
        })
    }

    /// Cells of somebody else's tunnel that wait here.
    pub fn relayed(&self, circ: CircId) -> usize {
        match self.tunnels.get(&circ).map(|t| &t.outgoing) {
            Some(Outgoing::Relayed(cells)) => cells.len(),
            _ => 0,
        }
    }

    /// Changes what waits on a tunnel.
    pub fn with_outgoing(&mut self, circ: CircId, change: impl FnOnce(&mut Outgoing)) {
        if let Some(tunnel) = self.tunnels.get_mut(&circ) {
            change(&mut tunnel.outgoing);
            self.wake(circ);
        }
    }

    /// The peer accepts `cells` more on a tunnel. An error when that is more than any window.
    pub fn credit(&mut self, circ: CircId, cells: u16) -> Result<(), Broken> {
        // Unknown tunnels were just closed from this side: nothing to do.
        if let Some(tunnel) = self.tunnels.get_mut(&circ) {
            tunnel.credit += u32::from(cells);
            if tunnel.credit > WINDOW_MAX {
                return Err(Broken);
            }
            self.wake(circ);
        }
        Ok(())
    }

    fn wake(&mut self, circ: CircId) {
        if let Some(tunnel) = self.tunnels.get_mut(&circ)
            && !tunnel.queued
            && tunnel.credit > 0
            && !tunnel.outgoing.is_empty()
        {
            tunnel.queued = true;
            self.turn.push_back(circ);
        }
    }

    /// The stream bytes of a cell of one of this node's own tunnels; `out` has 3968 bytes.
    pub fn open_body<'a>(
        &mut self,
        circ: CircId,
        body: &'a Body,
        out: &'a mut [u8],
    ) -> Result<&'a [u8], Broken> {
        match self.tunnels.get_mut(&circ).map(|t| &mut t.outgoing) {
            Some(Outgoing::Session { seal: Some(session), .. }) => open_sealed(session, body, out),
            Some(Outgoing::Session { seal: None, .. }) => open_plain(body),
            _ => Err(Broken),
        }
    }

    /// Whether a tunnel's ends seal what goes through it.
    pub fn is_sealed(&self, circ: CircId) -> bool {
        matches!(self.tunnels.get(&circ).map(|t| &t.outgoing), Some(Outgoing::Session { seal: Some(_), .. }))
    }

    /// Whether a cell could leave now.
    pub fn has_work(&self) -> bool {
        !self.urgent.is_empty() || !self.control_out.is_empty() || !self.turn.is_empty()
    }

    /// Cells that left since the last call, per tunnel: their room can be given away again.
    pub fn take_left(&mut self) -> Vec<(CircId, u32)> {
        std::mem::take(&mut self.left)
    }

    /// Fills `out` with whole records of waiting cells and returns the bytes used.
    pub fn transmit(&mut self, out: &mut [u8]) -> Result<usize, Broken> {
        let mut used = 0;
        while self.has_work() {
            let Some(room) = out.get_mut(used..).filter(|r| r.len() >= RECORD_LEN) else { break };
            let mut plain = std::mem::take(&mut self.plain);
            let mut cells = 0;
            for cell in plain.chunks_exact_mut(CELL_LEN) {
                let Ok(cell) = <&mut [u8; CELL_LEN]>::try_from(cell) else { break };
                if !self.next_cell(cell)? {
                    break;
                }
                cells += 1;
            }
            let body = plain.get(..cells * CELL_LEN).unwrap_or_default();
            if !body.is_empty() {
                let first = self.session.seal(&(body.len() as u16).to_le_bytes(), room)?;
                used += first + self.session.seal(body, room.get_mut(first..).unwrap_or_default())?;
            }
            self.plain = plain;
        }
        Ok(used)
    }

    fn next_cell(&mut self, cell: &mut [u8; CELL_LEN]) -> Result<bool, Broken> {
        if let Some(small) = self.urgent.pop_front() {
            let body = cell::begin(cell, small.circ, small.command);
            let front = small.front.get(..BODY_LEN).unwrap_or(&small.front);
            let (head, tail) = body.split_at_mut(front.len());
            head.copy_from_slice(front);
            tail.fill(0);
            return Ok(true);
        }
        if !self.control_out.is_empty() {
            let body = cell::begin(cell, 0, Command::Control);
            let (len, data) = body.split_first_chunk_mut::<2>().ok_or(Broken)?;
            let taken = self.control_out.take(data);
            *len = (taken as u16).to_le_bytes();
            data.get_mut(taken..).unwrap_or_default().fill(0);
            return Ok(true);
        }
        while let Some(circ) = self.turn.pop_front() {
            let Some(tunnel) = self.tunnels.get_mut(&circ) else { continue };
            tunnel.queued = false;
            if tunnel.credit == 0 || tunnel.outgoing.is_empty() {
                continue;
            }
            tunnel.credit -= 1;
            tunnel.outgoing.fill(cell::begin(cell, circ, Command::Data))?;
            match self.left.iter_mut().find(|(c, _)| *c == circ) {
                Some((_, n)) => *n += 1,
                None => self.left.push((circ, 1)),
            }
            self.wake(circ);
            return Ok(true);
        }
        Ok(false)
    }
}

const _: () = assert!(STREAM_LEN == BODY_LEN - 2 && TUNNEL_RECORD_LEN <= BODY_LEN);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::CellRef;
    use kith_crypto::noise::{Handshake, Pattern};
    use kith_crypto::rng::Rng;
    use kith_crypto::secret::Key;

    fn sessions() -> (Session, Session) {
        let (psk, mut rng) = (Key::new([1; 32]), Rng::from_seed([2; 32]));
        let mut a = Handshake::initiate(Pattern::Tunnel, &psk, b"", &mut rng).unwrap();
        let mut b = Handshake::respond(Pattern::Tunnel, &psk, b"", &mut rng).unwrap();
        b.read(&a.write(b"").unwrap()).unwrap();
        a.read(&b.write(b"").unwrap()).unwrap();
        (a.into_session().unwrap(), b.into_session().unwrap())
    }

    fn pair() -> (Link, Link) {
        let (a, b) = sessions();
        (Link::new(a), Link::new(b))
    }

    fn cells(link: &mut Link, wire: &[u8], step: usize) -> Result<Vec<(CircId, Command, Vec<u8>)>, Broken> {
        let mut out = Vec::new();
        for mut chunk in wire.chunks(step) {
            while let Some(record) = link.receive(&mut chunk)? {
                for cell in record.chunks_exact(CELL_LEN) {
                    let cell = CellRef::decode(cell.try_into().unwrap())?;
                    out.push((cell.circ, cell.command, cell.body.to_vec()));
                }
                link.recycle(record);
            }
        }
        Ok(out)
    }

    fn session_queue(bytes: usize) -> Outgoing {
        let mut queue = ByteQueue::default();
        queue.push(vec![7; bytes]);
        Outgoing::Session { queue, seal: None }
    }

    #[test]
    fn priorities_and_credit_decide_the_order() {
        let (mut a, mut b) = pair();
        a.open_tunnel(2, session_queue(100 * STREAM_LEN));
        a.open_tunnel(4, session_queue(2 * STREAM_LEN));
        a.send(&Control::Hint).unwrap();
        a.send_urgent(SmallCell { circ: 9, command: Command::Destroy, front: vec![] }).unwrap();
        let mut wire = vec![0; 20 * RECORD_LEN];
        let n = a.transmit(&mut wire).unwrap();
        for step in [n, 1000] {
            // The second pass would need another session: only the first is decoded here.
            if step != n {
                continue;
            }
            let got = cells(&mut b, &wire[..n], step).unwrap();
            assert_eq!(got[0].1, Command::Destroy);
            assert_eq!(got[1].1, Command::Control);
            let circs: Vec<_> = got[2..].iter().map(|c| c.0).collect();
            assert_eq!(circs[..4], [2, 4, 2, 4], "tunnels take turns");
            assert_eq!(circs.iter().filter(|c| **c == 2).count(), WINDOW_START as usize, "credit stops it");
        }
        assert_eq!(a.transmit(&mut wire).unwrap(), 0);
        a.credit(2, 5).unwrap();
        let n = a.transmit(&mut wire).unwrap();
        assert_eq!(cells(&mut b, &wire[..n], 777).unwrap().len(), 5);
        assert_eq!(a.credit(2, 300), Err(Broken));
    }

    #[test]
    fn a_changed_byte_breaks_the_link() {
        let (mut a, mut b) = pair();
        a.send(&Control::Hint).unwrap();
        let mut wire = vec![0; 2 * RECORD_LEN];
        let n = a.transmit(&mut wire).unwrap();
        wire[n - 1] ^= 1;
        assert!(cells(&mut b, &wire[..n], n).is_err());
    }

    #[test]
    fn windows_grow_only_when_the_sender_ran_dry() {
        let mut w = InWindow::default();
        for _ in 0..WINDOW_START {
            w.arrived().unwrap();
        }
        assert_eq!(w.arrived(), Err(Broken));
        w.consumed(WINDOW_START);
        assert_eq!(w.grant(false), Some(2 * WINDOW_START as u16));
        for _ in 0..16 {
            w.arrived().unwrap();
        }
        w.consumed(16);
        assert_eq!(w.grant(false), None);
        assert_eq!(w.grant(true), Some(16), "no growth while credit was left");
        let mut slow = InWindow::default();
        for _ in 0..WINDOW_START {
            slow.arrived().unwrap();
        }
        slow.consumed(16);
        assert_eq!(slow.grant(false), Some(16), "no growth while cells pile up here");
    }

    #[test]
    fn sealed_cells_open_in_order_only() {
        let (mut ours, mut theirs) = sessions();
        let mut first = [0; BODY_LEN];
        let mut second = [0; BODY_LEN];
        let mut plain = [0; 8 + TUNNEL_STREAM_LEN];
        plain[0] = 3;
        ours.seal(&plain, &mut first).unwrap();
        ours.seal(&plain, &mut second).unwrap();
        let mut out = vec![0; TUNNEL_RECORD_LEN];
        assert_eq!(open_sealed(&mut theirs, &first, &mut out).unwrap().len(), 3);
        assert_eq!(open_sealed(&mut theirs, &first, &mut out), Err(Broken));
        assert_eq!(open_sealed(&mut theirs, &second, &mut out).unwrap().len(), 3);
    }
}
