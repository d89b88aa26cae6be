//! A clean file as pieces of the old one and new bytes between, with patches over what is kept.

use super::Source;
use std::io;

/// Patches of one plan at most: beyond, a file is refused.
pub const MAX_PATCHES: usize = 400_000;

/// A part of the clean file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// These bytes.
    New(Vec<u8>),
    /// Bytes of the source.
    Old {
        /// Where they begin.
        at: u64,
        /// How many.
        len: u64,
    },
}

/// What stands in the place of something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fill {
    /// One byte over and over.
    Same(u8, u64),
    /// These bytes.
    Bytes(Box<[u8]>),
}

impl Fill {
    /// Bytes that it covers.
    pub fn size(&self) -> u64 {
        match self {
            Self::Same(_, len) => *len,
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }
}

/// How a clean file is made of its source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pieces: Vec<Piece>,
    /// By place in the source, not overlapping.
    patches: Vec<(u64, Fill)>,
    len: u64,
}

impl Plan {
    /// The pieces in their order, and what stands over places of the source.
    pub fn new(pieces: Vec<Piece>, mut patches: Vec<(u64, Fill)>) -> Self {
        patches.sort_by_key(|(at, _)| *at);
        let len = pieces.iter().map(|piece| match piece {
            Piece::New(bytes) => bytes.len() as u64,
            Piece::Old { len, .. } => *len,
        });
        Self { len: len.sum(), pieces, patches }
    }

    /// The source as it is.
    pub fn whole(len: u64) -> Self {
        Self::new(vec![Piece::Old { at: 0, len }], Vec::new())
    }

    /// Length of the clean file.
    pub const fn size(&self) -> u64 {
        self.len
    }

    /// Begins to read the clean file.
    pub const fn read(self) -> Reading {
        Reading { plan: self, piece: 0, within: 0 }
    }

    fn patch(&self, at: u64, bytes: &mut [u8]) {
        let end = at + bytes.len() as u64;
        let first = self.patches.partition_point(|(from, fill)| from + fill.size() <= at);
        for (from, fill) in self.patches.iter().skip(first).take_while(|(from, _)| *from < end) {
            let begin = (*from).max(at);
            let stop = (from + fill.size()).min(end);
            let here = bytes.get_mut((begin - at) as usize..(stop - at) as usize).unwrap_or_default();
            match fill {
                Fill::Same(byte, _) => here.fill(*byte),
                Fill::Bytes(new) => {
                    let new = new.get((begin - from) as usize..(stop - from) as usize).unwrap_or_default();
                    here.copy_from_slice(new);
                }
            }
        }
    }
}

/// A plan that is being carried out.
#[derive(Debug)]
pub struct Reading {
    plan: Plan,
    piece: usize,
    within: u64,
}

impl Reading {
    /// The next bytes of the clean file, at most `most`; none at its end.
    pub fn next(&mut self, source: &dyn Source, most: usize) -> io::Result<Vec<u8>> {
        let mut out = vec![0; most];
        let mut filled = 0;
        while filled < most {
            let Some(piece) = self.plan.pieces.get(self.piece) else { break };
            let room = out.get_mut(filled..).unwrap_or_default();
            let left = match piece {
                Piece::New(bytes) => bytes.len() as u64,
                Piece::Old { len, .. } => *len,
            } - self.within;
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(room.len());
            let room = room.get_mut(..take).unwrap_or_default();
            match piece {
                Piece::New(bytes) => {
                    let from = self.within as usize;
                    room.copy_from_slice(bytes.get(from..from + take).unwrap_or_default());
                }
                Piece::Old { at, .. } => {
                    let at = at + self.within;
                    if source.read_at(at, room)? < take {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    self.plan.patch(at, room);
                }
            }
            filled += take;
            self.within += take as u64;
            if take as u64 == left {
                (self.piece, self.within) = (self.piece + 1, 0);
            }
        }
        out.truncate(filled);
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Bytes;
    use super::*;
    use proptest::prelude::*;

    fn all(plan: Plan, source: &dyn Source, most: usize) -> Vec<u8> {
        let mut reading = plan.read();
        let mut out = Vec::new();
        loop {
            let next = reading.next(source, most).unwrap();
            if next.is_empty() {
                return out;
            }
            out.extend(next);
        }
    }

    #[test]
    fn a_source_that_became_shorter_is_an_error() {
        let source = Bytes(vec![7; 10]);
        let plan = Plan::new(vec![Piece::Old { at: 5, len: 6 }], Vec::new());
        assert!(plan.read().next(&source, 100).is_err());
    }

    proptest! {
        #[test]
        fn pieces_and_patches_are_what_they_say_whatever_the_steps(
            cuts in proptest::collection::vec((0_u64..200, 0_u64..50, any::<bool>()), 0..6),
            patches in proptest::collection::btree_map(0_u64..25, (1_u64..8, any::<bool>()), 0..6),
            most in 1_usize..60,
        ) {
            let source: Vec<u8> = (0..255).collect();
            let mut patched = source.clone();
            let patches: Vec<(u64, Fill)> = patches.into_iter().map(|(at, (len, is_same))| {
                let at = at * 8;
                let fill = if is_same { Fill::Same(9, len) } else { Fill::Bytes(vec![at as u8 ^ 3; len as usize].into()) };
                let byte = if is_same { 9 } else { at as u8 ^ 3 };
                patched[at as usize..(at + len) as usize].fill(byte);
                (at, fill)
            }).collect();
            let mut expected: Vec<u8> = Vec::new();
            let pieces = cuts.into_iter().map(|(at, len, is_new)| {
                let here = at as usize..(at + len) as usize;
                if is_new {
                    expected.extend(&source[here.clone()]);
                    Piece::New(source[here].to_vec())
                } else {
                    expected.extend(&patched[here]);
                    Piece::Old { at, len }
                }
            }).collect();
            let plan = Plan::new(pieces, patches);
            prop_assert_eq!(plan.size(), expected.len() as u64);
            prop_assert_eq!(all(plan, &Bytes(source), most), expected);
        }
    }
}
