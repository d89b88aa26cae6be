//! Messages inside a tunnel, between who asks for an object's blocks and who holds them:
//! `type 1 | len 4 | body`, streamed across cells. Format: `docs/protocol/tunnel.md`.

use kith_crypto::aead::TAG_LEN;
use kith_crypto::codec::{DecodeError, Reader, Writer};
use kith_crypto::content::{FANOUT, Geometry, Position, SEALED_LEN};
use std::collections::VecDeque;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

/// Data blocks in one span of a `HAVE` map, at most (1 MiB).
const MAX_SPAN_BLOCKS: u64 = 16;
/// Spans of an object, at least, unless it has fewer blocks: a second or two of a film each.
const MIN_SPANS: u64 = 512;
/// Most positions in one request, and spans in one piece of news.
pub const MAX_POSITIONS: usize = 64;
const MAX_SPAN_BYTES: usize = 32 * 1024;
/// Spans that a map can name.
pub const MAX_SPANS: u32 = MAX_SPAN_BYTES as u32 * 8;
const HEAD_LEN: usize = 5;
const POSITION_LEN: usize = 5;

/// The latest deadline, of what is wanted because all of the object is: it is not put off.
pub const WHOLE_DUE: Duration = Duration::from_millis(u16::MAX as u64 - 1);

/// A block that is wanted, and how soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// Which block.
    pub position: Position,
    /// Milliseconds until it is late; 65,534 ([`WHOLE_DUE`]) when all of the object is wanted, 65,535 when
    /// there is no hurry.
    pub deadline_ms: u16,
}

/// The spans of an object: runs of data blocks that a holder says it has, or has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spans {
    data: u64,
    blocks: u64,
}

impl Spans {
    /// Sixteen blocks each; eight, four, two or one where the object has fewer than 512 of those.
    pub fn of(geometry: Geometry) -> Self {
        let data = geometry.data_count();
        let mut blocks = MAX_SPAN_BLOCKS;
        while blocks > 1 && data < MIN_SPANS * blocks {
            blocks /= 2;
        }
        Self { data, blocks }
    }

    /// Data blocks of one span; the last may have fewer.
    pub const fn blocks(self) -> u64 {
        self.blocks
    }

    /// How many there are.
    pub const fn count(self) -> u64 {
        self.data.div_ceil(self.blocks)
    }

    /// Whether the object has a data block.
    pub const fn contains(self, index: u64) -> bool {
        index < self.data
    }

    /// The span of a data block.
    pub const fn of_block(self, index: u64) -> u64 {
        index / self.blocks
    }

    /// The data blocks of a span.
    pub fn range(self, span: u64) -> Range<u64> {
        let from = span.saturating_mul(self.blocks).min(self.data);
        from..from.saturating_add(self.blocks).min(self.data)
    }

    /// The spans that have data blocks under a node block.
    pub fn under(self, node: u32) -> RangeInclusive<u64> {
        let first = u64::from(node).saturating_mul(FANOUT as u64);
        self.of_block(first)..=self.of_block(first.saturating_add(FANOUT as u64 - 1))
    }

    /// Bits for those in a list.
    pub fn map(self, list: &[u32]) -> Vec<u8> {
        let mut map = vec![0; self.count().div_ceil(8) as usize];
        for span in list.iter().filter(|span| u64::from(**span) < self.count()) {
            if let Some(byte) = map.get_mut((*span / 8) as usize) {
                *byte |= 1 << (*span % 8);
            }
        }
        map
    }
}

/// What a holder has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Have {
    /// Everything.
    All,
    /// The spans whose bits are set (bit 0 of byte 0 first).
    Spans(Vec<u8>),
}

/// A session message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// First request: root, head, the first node blocks' worth of path and data in one burst.
    Start {
        /// The requester already holds root and head.
        resume: bool,
        /// First data block wanted.
        first: u32,
        /// How many data blocks to send at once.
        count: u16,
    },
    /// More blocks.
    Want(Vec<Want>),
    /// No longer wanted.
    Cancel(Vec<Position>),
    /// What the holder has.
    Have(Have),
    /// One sealed block, 65,552 bytes.
    Block(Position, Vec<u8>),
    /// The holder cannot give this block after all.
    Lack(Position),
    /// The holder is busy; ask again after so many seconds.
    Busy(u16),
    /// The session is over.
    Bye,
    /// Spans that the holder has got since it said what it has.
    More(Vec<u32>),
    /// Others were given this block, for which there is no hurry: ask them first.
    Later(Position),
}

fn put_position(w: &mut Writer, p: Position) {
    w.u8(p.level()).u32(p.index() as u32);
}

fn take_position(r: &mut Reader<'_>) -> Result<Position, DecodeError> {
    let bad = r.invalid("position");
    let (level, index) = (r.u8()?, r.u32()?);
    Position::from_parts(level, u64::from(index)).ok_or(bad)
}

fn take_count(r: &mut Reader<'_>) -> Result<usize, DecodeError> {
    let at = r.at();
    let count = usize::from(r.u16()?);
    if count > MAX_POSITIONS { Err(DecodeError::TooLarge { at, what: "position count" }) } else { Ok(count) }
}

const BLOCK: u8 = 5;

impl Message {
    // Registry of types: 1 start, 2 want, 3 cancel, 4 have, 5 block, 6 lack, 7 busy, 8 bye, 9 more,
    // 10 later.
    const fn number(&self) -> u8 {
        match self {
            Self::Start { .. } => 1,
            Self::Want(_) => 2,
            Self::Cancel(_) => 3,
            Self::Have(_) => 4,
            Self::Block(..) => BLOCK,
            Self::Lack(_) => 6,
            Self::Busy(_) => 7,
            Self::Bye => 8,
            Self::More(_) => 9,
            Self::Later(_) => 10,
        }
    }

    /// Allowed body lengths of a message type.
    fn length_ok(number: u8, len: usize) -> bool {
        match number {
            1 => len == 7,
            2 => len <= 2 + MAX_POSITIONS * 7,
            3 => len <= 2 + MAX_POSITIONS * POSITION_LEN,
            4 => len <= 3 + MAX_SPAN_BYTES,
            BLOCK => len == POSITION_LEN + SEALED_LEN,
            6 | 10 => len == POSITION_LEN,
            7 => len == 2,
            8 => len == 0,
            9 => len <= 2 + MAX_POSITIONS * 4,
            _ => false,
        }
    }

    /// Appends the message to a queue of outgoing bytes; a block's bytes are moved, not copied.
    pub fn push_to(self, queue: &mut ByteQueue) {
        let mut w = Writer::new();
        let number = self.number();
        let mut block = None;
        match self {
            Self::Start { resume, first, count } => {
                w.u8(u8::from(resume)).u32(first).u16(count);
            }
            Self::Want(wants) => {
                let wants = wants.into_iter().take(MAX_POSITIONS);
                w.u16(wants.len() as u16);
                for want in wants {
                    put_position(&mut w, want.position);
                    w.u16(want.deadline_ms);
                }
            }
            Self::Cancel(positions) => {
                let positions = positions.into_iter().take(MAX_POSITIONS);
                w.u16(positions.len() as u16);
                positions.for_each(|p| put_position(&mut w, p));
            }
            Self::Have(Have::All) => {
                w.u8(1).u16(0);
            }
            Self::Have(Have::Spans(map)) => {
                w.u8(0).bytes16(map.get(..MAX_SPAN_BYTES).unwrap_or(&map));
            }
            Self::Block(p, bytes) => {
                put_position(&mut w, p);
                block = Some(bytes);
            }
            Self::Lack(p) | Self::Later(p) => put_position(&mut w, p),
            Self::Busy(retry_s) => {
                w.u16(retry_s);
            }
            Self::Bye => {}
            Self::More(spans) => {
                let spans = spans.into_iter().take(MAX_POSITIONS);
                w.u16(spans.len() as u16);
                spans.for_each(|span| {
                    w.u32(span);
                });
            }
        }
        let len = w.len() + block.as_ref().map_or(0, Vec::len);
        let mut head = Writer::new();
        head.u8(number).u32(len as u32).raw(w.as_bytes());
        queue.push(head.into_bytes());
        if let Some(bytes) = block {
            queue.push(bytes);
        }
    }

    fn decode(number: u8, body: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(body);
        let message = match number {
            1 => Self::Start { resume: r.flag("resume")?, first: r.u32()?, count: r.u16()? },
            2 => {
                let count = take_count(&mut r)?;
                let want =
                    |r: &mut Reader<'_>| Ok(Want { position: take_position(r)?, deadline_ms: r.u16()? });
                Self::Want((0..count).map(|_| want(&mut r)).collect::<Result<_, _>>()?)
            }
            3 => {
                let count = take_count(&mut r)?;
                Self::Cancel((0..count).map(|_| take_position(&mut r)).collect::<Result<_, _>>()?)
            }
            4 => {
                let all = r.flag("completeness")?;
                let map = r.bytes16(MAX_SPAN_BYTES, "span map")?;
                if all && !map.is_empty() {
                    return Err(r.invalid("span map"));
                }
                Self::Have(if all { Have::All } else { Have::Spans(map.to_vec()) })
            }
            6 => Self::Lack(take_position(&mut r)?),
            7 => Self::Busy(r.u16()?),
            10 => Self::Later(take_position(&mut r)?),
            8 => Self::Bye,
            9 => {
                let count = take_count(&mut r)?;
                Self::More((0..count).map(|_| r.u32()).collect::<Result<_, _>>()?)
            }
            _ => return Err(r.invalid("message type")),
        };
        r.finish()?;
        Ok(message)
    }
}

/// Outgoing bytes in pieces.
#[derive(Debug, Default)]
pub struct ByteQueue {
    pieces: VecDeque<Vec<u8>>,
    used: usize,
    len: usize,
}

impl ByteQueue {
    /// Bytes waiting.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a piece.
    pub fn push(&mut self, piece: Vec<u8>) {
        if !piece.is_empty() {
            self.len += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// Moves bytes into the front of `out` and returns how many.
    pub fn take(&mut self, out: &mut [u8]) -> usize {
        let mut filled = 0;
        while let (Some(room), Some(piece)) = (out.get_mut(filled..), self.pieces.front()) {
            let rest = piece.get(self.used..).unwrap_or_default();
            let n = rest.len().min(room.len());
            if n == 0 {
                break;
            }
            if let (Some(to), Some(from)) = (room.get_mut(..n), rest.get(..n)) {
                to.copy_from_slice(from);
            }
            filled += n;
            self.used += n;
            if self.used == piece.len() {
                self.pieces.pop_front();
                self.used = 0;
            }
        }
        self.len -= filled;
        filled
    }

    /// Throws everything away.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Puts messages together from the bytes of cells. Holds at most one message.
#[derive(Debug, Default)]
pub struct Assembler {
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Assembler {
    /// Takes the next bytes of the stream and appends finished messages to `out`.
    pub fn feed(&mut self, mut bytes: &[u8], out: &mut Vec<Message>) -> Result<(), DecodeError> {
        while !bytes.is_empty() {
            let wanted = self.head_len() - self.head.len().min(self.head_len());
            if wanted > 0 {
                let (now, rest) = bytes.split_at(wanted.min(bytes.len()));
                self.head.extend_from_slice(now);
                bytes = rest;
                if self.head.len() < self.head_len() {
                    continue;
                }
                let body_len = self.check_head()?;
                self.body.reserve_exact(body_len + TAG_LEN); // a pack seals the block in place
            } else {
                let missing = self.check_head()?.saturating_sub(self.body.len());
                let (now, rest) = bytes.split_at(missing.min(bytes.len()));
                self.body.extend_from_slice(now);
                bytes = rest;
            }
            if self.body.len() == self.check_head()? {
                out.push(self.complete()?);
            }
        }
        Ok(())
    }

    fn head_len(&self) -> usize {
        if self.head.first() == Some(&BLOCK) { HEAD_LEN + POSITION_LEN } else { HEAD_LEN }
    }

    /// Bytes that follow the head; checks type and length before anything is reserved.
    fn check_head(&self) -> Result<usize, DecodeError> {
        let mut r = Reader::new(&self.head);
        let number = r.u8()?;
        let len = r.u32()? as usize;
        if !Message::length_ok(number, len) {
            return Err(DecodeError::Invalid { at: 0, what: "message length" });
        }
        Ok(len + HEAD_LEN - self.head_len())
    }

    fn complete(&mut self) -> Result<Message, DecodeError> {
        let head = std::mem::take(&mut self.head);
        let body = std::mem::take(&mut self.body);
        let mut r = Reader::new(&head);
        let number = r.u8()?;
        r.u32()?;
        if number == BLOCK {
            return Ok(Message::Block(take_position(&mut r)?, body));
        }
        Message::decode(number, &body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn samples() -> Vec<Message> {
        let want = |i| Want { position: Position::Data(i), deadline_ms: 9 };
        vec![
            Message::Start { resume: true, first: 7, count: 4 },
            Message::Want((0..3).map(want).collect()),
            Message::Cancel(vec![Position::Node(1), Position::Head]),
            Message::Have(Have::All),
            Message::Have(Have::Spans(vec![3, 0x80])),
            Message::Block(Position::Data(5), vec![6; SEALED_LEN]),
            Message::Lack(Position::Data(1)),
            Message::Busy(30),
            Message::Bye,
            Message::More(vec![0, MAX_SPANS]),
            Message::Later(Position::Data(8)),
        ]
    }

    fn stream(messages: &[Message]) -> Vec<u8> {
        let mut queue = ByteQueue::default();
        messages.iter().for_each(|m| m.clone().push_to(&mut queue));
        let mut bytes = vec![0; queue.len()];
        assert_eq!(queue.take(&mut bytes), bytes.len());
        assert!(queue.is_empty());
        bytes
    }

    #[test]
    fn every_split_gives_the_same_messages() {
        let bytes = stream(&samples());
        for step in [1, 2, 3, 7, 4086, bytes.len()] {
            let (mut assembler, mut out) = (Assembler::default(), Vec::new());
            bytes.chunks(step).for_each(|c| assembler.feed(c, &mut out).unwrap());
            assert!(out == samples(), "step {step}");
        }
    }

    #[test]
    fn small_objects_have_small_spans() {
        let spans = |data| Spans::of(Geometry::of(data).unwrap());
        for (data, blocks, count) in [
            (1, 1, 1),
            (600, 1, 600),
            (1_144, 2, 572),
            (8_191, 8, 1_024),
            (8_192, 16, 512),
            (160_000, 16, 10_000),
        ] {
            assert_eq!((spans(data).blocks(), spans(data).count()), (blocks, count), "{data} blocks");
            let all: Vec<u64> = (0..count).flat_map(|span| spans(data).range(span)).collect();
            assert!(all == (0..data).collect::<Vec<_>>(), "each block is in one of them");
        }
        let most = spans(kith_crypto::content::MAX_BLOCKS);
        assert!(most.count() <= u64::from(MAX_SPANS));
        assert_eq!(spans(20).map(&[0, 9, 19, 20]), [1, 2, 8]);
    }

    #[test]
    fn lengths_are_checked_before_anything_is_reserved() {
        for number in 0..=255_u8 {
            let mut assembler = Assembler::default();
            let mut bytes = vec![number];
            bytes.extend_from_slice(&u32::MAX.to_le_bytes());
            bytes.extend_from_slice(&[0; 8]);
            assert!(assembler.feed(&bytes, &mut Vec::new()).is_err());
            assert_eq!(assembler.body.capacity(), 0);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_streams_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Assembler::default().feed(&bytes, &mut Vec::new());
        }
    }
}
