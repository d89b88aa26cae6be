//! The tables of a track (`stbl`): copied exactly as far as they count, and the places of its samples.

use super::super::{Refused, refused};
use super::boxes::{FourCc, child, number, put_bytes, u32_at};

/// A table: version and flags, so many fixed bytes, a count, entries of one length.
#[derive(Clone, Copy)]
struct Table<'a> {
    body: &'a [u8],
    count: u64,
    entry: usize,
    from: usize,
}

impl<'a> Table<'a> {
    fn of(body: &'a [u8], count_at: usize, entry: usize) -> Result<Self, Refused> {
        let count = u64::from(u32_at(body, count_at)?);
        let from = count_at + 4;
        let there = body.len().saturating_sub(from) as u64;
        if count.checked_mul(entry as u64).is_none_or(|need| need > there) {
            return refused("a table in it counts more than it holds");
        }
        Ok(Self { body, count, entry, from })
    }

    fn find(stbl: &'a [u8], kind: FourCc, entry: usize) -> Result<Option<Self>, Refused> {
        child(stbl, kind)?.map(|body| Self::of(body, 4, entry)).transpose()
    }

    /// The table without what stands behind its last entry.
    fn exact(&self) -> &'a [u8] {
        self.body.get(..self.from + self.count as usize * self.entry).unwrap_or(self.body)
    }

    fn value(&self, index: u64, field_at: usize, len: usize) -> Option<u64> {
        if index >= self.count {
            return None;
        }
        number(self.body, self.from + index as usize * self.entry + field_at, len)
    }
}

/// Where the samples of a track lie.
pub struct Samples<'a> {
    chunks: Table<'a>,
    runs: Table<'a>,
    sizes: Option<Table<'a>>,
    /// Bytes of each sample, where all are alike.
    each: u64,
    /// Bits of an entry of `sizes`.
    bits: u64,
    count: u64,
    frame: Option<(u64, u64)>,
}

impl<'a> Samples<'a> {
    /// From the boxes in `stbl`; `frame` as in the sample entry.
    pub fn of(stbl: &'a [u8], frame: Option<(u64, u64)>) -> Result<Self, Refused> {
        let lacks = || Refused("a track has no table of its samples".into());
        let chunks = match (Table::find(stbl, *b"stco", 4)?, Table::find(stbl, *b"co64", 8)?) {
            (Some(chunks), None) | (None, Some(chunks)) => chunks,
            _ => return Err(lacks()),
        };
        let runs = Table::find(stbl, *b"stsc", 12)?.ok_or_else(lacks)?;
        let (sizes, each, bits, count) = if let Some(stsz) = child(stbl, *b"stsz")? {
            let (each, count) = (u64::from(u32_at(stsz, 4)?), u64::from(u32_at(stsz, 8)?));
            if each == 0 { (Some(Table::of(stsz, 8, 4)?), 0, 32, count) } else { (None, each, 32, count) }
        } else {
            let stz2 = child(stbl, *b"stz2")?.ok_or_else(lacks)?;
            let (bits, count) = (u64::from(*stz2.get(7).ok_or_else(lacks)?), u64::from(u32_at(stz2, 8)?));
            let bytes = count.checked_mul(bits).map(|bits| bits.div_ceil(8));
            if !matches!(bits, 4 | 8 | 16) || bytes.is_none_or(|b| b > stz2.len().saturating_sub(12) as u64) {
                return refused("a table in it counts more than it holds");
            }
            (Some(Table { body: stz2, count, entry: 1, from: 12 }), 0, bits, count)
        };
        Ok(Self { chunks, runs, sizes, each, bits, count, frame })
    }

    /// How many samples.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// How many chunks.
    pub const fn chunk_count(&self) -> u64 {
        self.chunks.count
    }

    /// Where a chunk begins.
    pub fn offset(&self, chunk: u64) -> Option<u64> {
        self.chunks.value(chunk, 0, self.chunks.entry)
    }

    /// Bytes of a sample.
    fn size(&self, sample: u64) -> Option<u64> {
        let Some(sizes) = &self.sizes else { return (sample < self.count).then_some(self.each) };
        if self.bits == 32 {
            return sizes.value(sample, 0, 4);
        }
        let bit = sample.checked_mul(self.bits)?;
        let at = sizes.from + usize::try_from(bit / 8).ok()?;
        let whole = number(sizes.body, at, if self.bits == 16 { 2 } else { 1 })?;
        Some(match (self.bits, bit % 8) {
            (4, 0) => whole >> 4,
            (4, _) => whole & 0xF,
            _ => whole,
        })
    }

    /// All chunks that have samples, one after the other. The work is bounded by the entries of the tables.
    pub const fn chunks(&self) -> Chunks<'_> {
        Chunks { samples: self, run: 0, chunk: 0, sample: 0 }
    }

    /// Calls `each` with place and length of every sample, until that is false. Not of sound whose sizes count frames.
    pub fn each(&self, mut each: impl FnMut(u64, u64) -> Result<bool, Refused>) -> Result<(), Refused> {
        if self.sizes.is_none() && self.frame.is_some() {
            return Ok(());
        }
        for chunk in self.chunks() {
            let Chunk { mut at, first, count, .. } = chunk?;
            for sample in first..first + count {
                let len = self.size(sample).unwrap_or_default();
                if !each(at, len)? {
                    return Ok(());
                }
                at = at.saturating_add(len);
            }
        }
        Ok(())
    }
}

/// Samples that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where it begins.
    pub at: u64,
    /// Its bytes.
    pub len: u64,
    first: u64,
    count: u64,
}

/// The chunks of a track; after an error there are none.
pub struct Chunks<'a> {
    samples: &'a Samples<'a>,
    run: u64,
    chunk: u64,
    sample: u64,
}

impl Chunks<'_> {
    fn step(&mut self) -> Result<Option<Chunk>, Refused> {
        let wrong = || Refused("the tables of a track contradict each other".into());
        let Samples { chunks, runs, sizes, each, count: all, frame, .. } = self.samples;
        while self.chunk < chunks.count {
            let chunk = self.chunk;
            self.chunk += 1;
            while runs.value(self.run + 1, 0, 4).is_some_and(|first| first <= chunk + 1) {
                self.run += 1;
            }
            let first_of_run = runs.value(self.run, 0, 4).ok_or_else(wrong)?;
            if first_of_run > chunk + 1 {
                return Err(wrong());
            }
            let first = self.sample;
            let count = runs.value(self.run, 4, 4).ok_or_else(wrong)?.min(all - first);
            if count == 0 {
                continue;
            }
            let bytes = if sizes.is_some() {
                (first..first + count).try_fold(0_u64, |sum, i| sum.checked_add(self.samples.size(i)?))
            } else {
                let plain = count.checked_mul(*each);
                // QuickTime counts frames of sound as samples of one byte.
                let frames = frame.and_then(|(bytes, frames)| count.div_ceil(frames).checked_mul(bytes));
                if *each <= 2 { plain.max(frames) } else { plain }
            };
            let at = self.samples.offset(chunk).ok_or_else(wrong)?;
            self.sample += count;
            return Ok(Some(Chunk { at, len: bytes.ok_or_else(wrong)?, first, count }));
        }
        if self.sample < *all { Err(wrong()) } else { Ok(None) }
    }
}

impl Iterator for Chunks<'_> {
    type Item = Result<Chunk, Refused>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step().transpose();
        if matches!(step, Some(Err(_))) {
            (self.chunk, self.sample) = (self.samples.chunks.count, self.samples.count);
        }
        step
    }
}

/// Kinds of groups that say how to decode, and nothing else (ISO/IEC 14496-12 10, 14496-15).
const GROUPS: [&FourCc; 6] = [b"roll", b"prol", b"rap ", b"sync", b"sap ", b"tele"];

/// Appends the clean forms of all tables of `stbl` but the description of samples and the places of chunks.
pub fn put(stbl: &[u8], samples: u64, out: &mut Vec<u8>) -> Result<(), Refused> {
    for (kind, entry) in [(*b"stts", 8), (*b"ctts", 8), (*b"stss", 4), (*b"stps", 4), (*b"stsc", 12)] {
        if let Some(table) = Table::find(stbl, kind, entry)? {
            put_bytes(out, kind, table.exact());
        }
    }
    if let Some(body) = child(stbl, *b"cslg")? {
        let len = if body.first() == Some(&1) { 44 } else { 24 };
        put_bytes(out, *b"cslg", body.get(..len).ok_or_else(|| Refused("a table in it is short".into()))?);
    }
    if let Some(body) = child(stbl, *b"stsz")? {
        let entries = if u32_at(body, 4)? == 0 { samples as usize * 4 } else { 0 };
        put_bytes(out, *b"stsz", body.get(..12 + entries).unwrap_or(body));
    } else if let Some(body) = child(stbl, *b"stz2")? {
        let bits = u64::from(*body.get(7).unwrap_or(&8));
        put_bytes(out, *b"stz2", body.get(..12 + (samples * bits).div_ceil(8) as usize).unwrap_or(body));
    }
    // One byte for each sample.
    if let Some(sdtp) = child(stbl, *b"sdtp")?.and_then(|body| body.get(..4 + samples as usize)) {
        put_bytes(out, *b"sdtp", sdtp);
    }
    put_groups(stbl, out)
}

/// Appends those groups of samples that decoders need.
pub fn put_groups(parent: &[u8], out: &mut Vec<u8>) -> Result<(), Refused> {
    for child in super::boxes::children(parent) {
        let child = child?;
        let is_known = child.body.get(4..8).is_some_and(|group| GROUPS.iter().any(|known| *known == group));
        if is_known
            && let Some(exact) = group_len(child.kind, child.body).and_then(|len| child.body.get(..len))
        {
            put_bytes(out, child.kind, exact);
        }
    }
    Ok(())
}

/// How many bytes of `sbgp` or `sgpd` are of use. Descriptions of the kinds above have at most 8 bytes.
fn group_len(kind: FourCc, body: &[u8]) -> Option<usize> {
    let version = *body.first()?;
    let (count_at, entry) = match (&kind, version) {
        (b"sbgp", 0) => (8, 8),
        (b"sbgp", 1) => (12, 8),
        (b"sgpd", 1) => (12, number(body, 8, 4).filter(|len| (1..=8).contains(len))?),
        _ => return None,
    };
    let count = number(body, count_at, 4)?;
    usize::try_from(count.checked_mul(entry)?).ok()?.checked_add(count_at + 4)
}
