//! What a disk may hold when its power comes back.

use super::super::Memory;
use super::super::memory::{Content, Parts};
use super::world::{Change, Names, Node, World, set};
use std::collections::BTreeMap;
use std::path::Path;

/// How much of what was not synced survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Luck {
    Nothing,
    Everything,
    Drawn,
}

/// Pseudo-random numbers (SplitMix64): the same for the same seed.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    /// The luck of one file.
    fn luck(&mut self) -> Luck {
        match self.below(6) {
            0 => Luck::Nothing,
            1 => Luck::Everything,
            _ => Luck::Drawn,
        }
    }
}

/// A part of a write in one sector: where, what, and whether it was on its way to the disk.
type Piece<'a> = (u64, &'a [u8], bool);

/// What stands in sectors that a file got and that were not written yet.
#[derive(Clone, Copy, Debug)]
enum Fresh<'a> {
    Zeros,
    Noise,
    /// What another file has in its place.
    Of(&'a Content),
}

impl Fresh<'_> {
    fn sector(self, at: u64, len: u64, dice: &mut Dice) -> Vec<u8> {
        match self {
            Self::Zeros => Vec::new(),
            Self::Noise => (0..len).map(|_| dice.next() as u8).collect(),
            Self::Of(other) => {
                let here = other.len().saturating_sub(at).min(len);
                other.read(at, here as usize).unwrap_or_default()
            }
        }
    }
}

/// Draws a state for each sector, and a length.
fn tear(unsynced: &[&Change], fresh: Fresh<'_>, out: &mut Content, dice: &mut Dice) {
    let sector = if dice.coin() { 512 } else { 4096 };
    let whole_writes = dice.coin();
    let durable_len = out.len();
    let mut lengths = vec![durable_len];
    let mut touched: BTreeMap<u64, Vec<Piece<'_>>> = BTreeMap::new();
    for change in unsynced {
        let last = lengths.last().copied().unwrap_or_default();
        match change {
            Change::SetLen(len) => {
                if *len < last && dice.coin() {
                    out.set_len(*len);
                }
                lengths.push(*len);
            }
            Change::Write { at, bytes } => {
                lengths.push(last.max(at + bytes.len() as u64));
                let kept = dice.coin();
                for (at, piece) in sectors(*at, bytes, sector) {
                    let kept = if whole_writes { kept } else { dice.coin() };
                    touched.entry(at / sector).or_default().push((at, piece, kept));
                }
            }
        }
    }
    for (number, pieces) in touched {
        // The sector was written out after the last of these, with all that were there by then.
        let until = pieces.iter().rposition(|(_, _, kept)| *kept).map_or(0, |last| last + 1);
        if until == 0 && number * sector >= durable_len {
            let found = fresh.sector(number * sector, sector, dice);
            out.write(number * sector, &found);
        }
        pieces.iter().take(until).for_each(|(at, piece, _)| out.write(*at, piece));
    }
    let drawn = dice.below(lengths.len() as u64) as usize;
    out.set_len(lengths.get(drawn).copied().unwrap_or(durable_len));
}

/// Cuts a write at the borders of sectors.
fn sectors(at: u64, bytes: &[u8], sector: u64) -> impl Iterator<Item = (u64, &[u8])> {
    let (mut at, mut rest) = (at, bytes);
    std::iter::from_fn(move || {
        let room = (sector - at % sector) as usize;
        let (piece, behind) = rest.split_at_checked(room).unwrap_or((rest, &[]));
        let here = (!piece.is_empty()).then_some((at, piece));
        at += piece.len() as u64;
        rest = behind;
        here
    })
}

impl World {
    /// The disk as it may be; see [`super::Crashing::image`].
    pub(super) fn image(&self, seed: u64) -> Memory {
        let mut dice = Dice(seed);
        let luck = |all: bool| if all { Luck::Everything } else { Luck::Nothing };
        let (contents, names) = match seed {
            0..4 => (luck(seed & 1 == 1), luck(seed & 2 == 2)),
            _ => (Luck::Drawn, Luck::Drawn),
        };
        let mut parts = Parts::default();
        let mut numbers = BTreeMap::new();
        for (path, node) in self.names_after(names, &mut dice) {
            match node {
                Node::Folder => drop(parts.folders.insert(path)),
                Node::File(number) => {
                    let number = *numbers.entry(number).or_insert_with(|| {
                        parts.contents.push(self.content_after(number, contents, &mut dice));
                        parts.contents.len() - 1
                    });
                    parts.names.push((path, number));
                }
            }
        }
        Memory::assemble(parts)
    }

    /// The names as they may be after the power came back.
    fn names_after(&self, luck: Luck, dice: &mut Dice) -> Names {
        let mut names = self.durable_names.clone();
        let changes = self.unsynced_names.iter().chain(&self.rest_of_names);
        let prefix = dice.below(changes.clone().count() as u64 + 1);
        let each = dice.coin();
        let mut renames = BTreeMap::new();
        for (i, change) in changes.enumerate() {
            let drawn = match luck {
                Luck::Nothing => false,
                Luck::Everything => true,
                Luck::Drawn if each => dice.coin(),
                Luck::Drawn => (i as u64) < prefix,
            };
            let happened = match change.rename {
                Some(id) => *renames.entry(id).or_insert(drawn),
                None => drawn,
            };
            if happened {
                set(&mut names, &change.path, change.node);
            }
        }
        let is_reachable =
            |path: &Path| path.ancestors().skip(1).all(|dir| matches!(names.get(dir), Some(Node::Folder)));
        names.iter().filter(|(path, _)| is_reachable(path)).map(|(p, n)| (p.clone(), *n)).collect()
    }

    /// The contents of a file as they may be after the power came back.
    fn content_after(&self, number: usize, luck: Luck, dice: &mut Dice) -> Content {
        let Some(inode) = self.inodes.get(number) else { return Content::default() };
        let rest = self.rest_of_write.iter().filter(|(other, _)| *other == number).map(|(_, change)| change);
        let unsynced: Vec<&Change> = inode.unsynced.iter().chain(rest).collect();
        let mut out = inode.durable.clone();
        let luck = match luck {
            Luck::Drawn => dice.luck(),
            other => other,
        };
        match luck {
            Luck::Nothing => {}
            Luck::Everything => unsynced.iter().for_each(|change| change.apply(&mut out)),
            Luck::Drawn => {
                let other = dice.below(self.inodes.len() as u64) as usize;
                let fresh = match (dice.below(6), self.inodes.get(other)) {
                    (0, _) => Fresh::Noise,
                    (1, Some(other)) => Fresh::Of(&other.durable),
                    _ => Fresh::Zeros,
                };
                tear(&unsynced, fresh, &mut out, dice);
            }
        }
        out
    }
}
