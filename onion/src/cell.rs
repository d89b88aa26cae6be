//! Cells: everything on a link travels in units of 4096 bytes, so that sizes say nothing.
//! Format: `docs/protocol/link.md`.

use kith_crypto::codec::{DecodeError, Reader};

/// Bytes of a cell.
pub const CELL_LEN: usize = 4096;
/// Bytes of a cell's header: `circ 4 | cmd 1 | reserved 3`.
pub const HEADER_LEN: usize = 8;
/// Bytes of a cell's body.
pub const BODY_LEN: usize = CELL_LEN - HEADER_LEN;
/// Stream bytes that one cell carries after its two-byte length.
pub const STREAM_LEN: usize = BODY_LEN - 2;

/// A cell's body.
pub type Body = [u8; BODY_LEN];

/// A tunnel on one link. 0 is the link itself; even ids are made by the lower key, odd by the higher.
pub type CircId = u32;

/// What a cell is. The registry keeps numbers that are not in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Command {
    /// Nothing; keeps the link alive.
    Pad = 0,
    /// Asks for a circuit to this node.
    Create = 1,
    /// The circuit stands.
    Created = 2,
    /// A cell of a circuit.
    Relay = 3,
    /// Window updates for tunnels of this link.
    Credit = 4,
    /// Ends a tunnel, without a reason.
    Destroy = 5,
    /// Asks for a tunnel to an object.
    TunOpen = 6,
    /// The tunnel stands.
    TunOk = 7,
    /// There is no such tunnel; absent, refused and off line look alike.
    TunNo = 8,
    /// Bytes of a tunnel.
    Data = 9,
    /// Bytes of the link's control stream.
    Control = 10,
}

impl Command {
    /// The command with this number; anything else closes the link.
    pub const fn from_u8(n: u8) -> Option<Self> {
        Some(match n {
            0 => Self::Pad,
            1 => Self::Create,
            2 => Self::Created,
            3 => Self::Relay,
            4 => Self::Credit,
            5 => Self::Destroy,
            6 => Self::TunOpen,
            7 => Self::TunOk,
            8 => Self::TunNo,
            9 => Self::Data,
            10 => Self::Control,
            _ => return None,
        })
    }
}

/// A received cell, by reference.
#[derive(Clone, Copy, Debug)]
pub struct CellRef<'a> {
    /// Which tunnel, 0 for the link.
    pub circ: CircId,
    /// What it is.
    pub command: Command,
    /// 4088 bytes.
    pub body: &'a Body,
}

impl<'a> CellRef<'a> {
    /// Reads 4096 bytes. Unknown commands and reserved bits are errors (they close the link).
    pub fn decode(bytes: &'a [u8; CELL_LEN]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let circ = r.u32()?;
        let command = Command::from_u8(r.u8()?).ok_or(DecodeError::Invalid { at: 4, what: "command" })?;
        if r.array::<3>()? != [0; 3] {
            return Err(DecodeError::Invalid { at: 5, what: "reserved bytes" });
        }
        let body = bytes.last_chunk::<BODY_LEN>().ok_or(DecodeError::Truncated { at: 8 })?;
        Ok(Self { circ, command, body })
    }
}

/// Writes a header into the front of a zeroed cell and returns the body to fill.
pub fn begin(cell: &mut [u8; CELL_LEN], circ: CircId, command: Command) -> &mut Body {
    let (head, body) = split(cell);
    let [a, b, c, d, cmd, rest @ ..] = head;
    [*a, *b, *c, *d] = circ.to_le_bytes();
    *cmd = command as u8;
    *rest = [0; 3];
    body
}

fn split(cell: &mut [u8; CELL_LEN]) -> (&mut [u8; HEADER_LEN], &mut Body) {
    match cell.split_first_chunk_mut::<HEADER_LEN>() {
        Some((head, body)) => match body.try_into() {
            Ok(body) => (head, body),
            Err(_) => unreachable!("a cell is a header and a body"),
        },
        None => unreachable!("a cell is a header and a body"),
    }
}

/// A small cell that waits in a link's urgent queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmallCell {
    /// Which tunnel, 0 for the link.
    pub circ: CircId,
    /// What it is.
    pub command: Command,
    /// Front of the body; the rest is zero.
    pub front: Vec<u8>,
}

/// `TUN_OPEN`: `locator 16 | hops_left 1 | flags 1 | nonce 16 | want 1 | msg_len 2 | noise message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunOpen {
    /// Locator in the form of the current hour.
    pub locator: [u8; 16],
    /// Links that the request may still travel (0 or 1).
    pub hops_left: u8,
    /// Whether records inside are sealed end to end; a direct session on a link needs no second seal.
    pub sealed: bool,
    /// Spreads from the end of a circuit: who knows where the object is passes the request straight
    /// on, others to all their friends while there are hops left. No node sets it on a request of its
    /// own.
    pub spreads: bool,
    /// Tells repeats apart.
    pub nonce: [u8; 16],
    /// First message of the handshake inside (NNpsk0).
    pub message: Vec<u8>,
}

/// Largest handshake message inside a tunnel's opening.
pub(crate) const MAX_TUN_MESSAGE: usize = 256;

impl TunOpen {
    /// The front of the cell's body.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = kith_crypto::codec::Writer::new();
        let flags = u8::from(self.sealed) | u8::from(self.spreads) << 1;
        w.raw(&self.locator).u8(self.hops_left).u8(flags).raw(&self.nonce).u8(1);
        w.bytes16(&self.message);
        w.into_bytes()
    }

    /// Reads a cell's body.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(body);
        let locator = r.array()?;
        let bad_hops = r.invalid("hops");
        let hops_left = r.u8()?;
        if hops_left > 1 {
            return Err(bad_hops);
        }
        // Bit 0: sealed, bit 1: spreads. What spreads is sealed: its end is not a friend.
        let bad_flags = r.invalid("tunnel flags");
        let (sealed, spreads) = match r.u8()? {
            0 => (false, false),
            1 => (true, false),
            3 => (true, true),
            _ => return Err(bad_flags),
        };
        let nonce = r.array()?;
        let bad_want = r.invalid("wanted answers");
        if r.u8()? != 1 {
            return Err(bad_want);
        }
        let message = r.bytes16(MAX_TUN_MESSAGE, "handshake message")?.to_vec();
        r.zeros()?;
        Ok(Self { locator, hops_left, sealed, spreads, nonce, message })
    }
}

/// The front of a `TUN_OK` body: the second handshake message, which proves the capability.
pub fn encode_tun_ok(message: &[u8]) -> Vec<u8> {
    let mut w = kith_crypto::codec::Writer::new();
    w.bytes16(message);
    w.into_bytes()
}

/// Reads a `TUN_OK` body.
pub fn decode_tun_ok(body: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut r = Reader::new(body);
    let message = r.bytes16(MAX_TUN_MESSAGE, "handshake message")?.to_vec();
    r.zeros()?;
    Ok(message)
}

/// Most window updates in one cell.
pub const MAX_CREDITS: usize = 500;

/// The front of a `CREDIT` body: `n 2 | n x (circ 4, cells 2, reserved 2)`.
pub fn encode_credits(credits: &[(CircId, u16)]) -> Vec<u8> {
    let mut w = kith_crypto::codec::Writer::new();
    let credits = credits.iter().take(MAX_CREDITS);
    w.u16(credits.len() as u16);
    for (circ, cells) in credits {
        w.u32(*circ).u16(*cells).u16(0);
    }
    w.into_bytes()
}

/// Reads a `CREDIT` body.
pub fn decode_credits(body: &[u8]) -> Result<Vec<(CircId, u16)>, DecodeError> {
    let mut r = Reader::new(body);
    let count = usize::from(r.u16()?);
    if count > MAX_CREDITS {
        return Err(DecodeError::TooLarge { at: 0, what: "credit count" });
    }
    let mut out = Vec::with_capacity(count);
    for _ in 0..count {
        let update = (r.u32()?, r.u16()?);
        if r.u16()? != 0 {
            return Err(r.invalid("reserved bytes"));
        }
        out.push(update);
    }
    r.zeros()?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cells_round_trip() {
        let mut cell = [0; CELL_LEN];
        begin(&mut cell, 0x0102_0304, Command::Data).fill(7);
        let back = CellRef::decode(&cell).unwrap();
        assert_eq!((back.circ, back.command), (0x0102_0304, Command::Data));
        assert!(back.body.iter().all(|b| *b == 7));
        cell[6] = 1;
        assert!(CellRef::decode(&cell).is_err());
        for n in (0..=255).filter(|n| Command::from_u8(*n).is_none()) {
            let mut cell = [0; CELL_LEN];
            cell[4] = n;
            assert!(CellRef::decode(&cell).is_err());
        }
    }

    fn padded(front: Vec<u8>) -> Body {
        let mut body = [0; BODY_LEN];
        body[..front.len()].copy_from_slice(&front);
        body
    }

    proptest! {
        #[test]
        fn tun_open_round_trips(locator: [u8; 16], hops in 0_u8..2, flags in 0_u8..3, nonce: [u8; 16],
                                message in proptest::collection::vec(any::<u8>(), 0..=256)) {
            let (sealed, spreads) = (flags > 0, flags > 1);
            let open = TunOpen { locator, hops_left: hops, sealed, spreads, nonce, message };
            prop_assert_eq!(TunOpen::decode(&padded(open.encode())), Ok(open));
        }

        #[test]
        fn credits_round_trip(credits in proptest::collection::vec((any::<u32>(), any::<u16>()), 0..=500)) {
            prop_assert_eq!(decode_credits(&padded(encode_credits(&credits))), Ok(credits));
        }

        #[test]
        fn arbitrary_bodies_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = TunOpen::decode(&bytes);
            let _ = decode_credits(&bytes);
            let _ = decode_tun_ok(&bytes);
        }
    }
}
