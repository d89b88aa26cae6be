//! The bytes of a file that some track names.

use super::super::{Refused, refused};

/// Ranges at most, before neighbours are joined.
const MAX_RANGES: usize = 600_000;

/// What is wrong with samples that are named several times.
pub const PILED: &str = "its samples lie on top of each other";

/// Ranges of bytes; after [`Ranges::settle`] in order and apart.
#[derive(Debug, Default)]
pub struct Ranges {
    all: Vec<(u64, u64)>,
    /// Where each begins, with nothing between them.
    places: Vec<u64>,
    len: u64,
    /// Bytes of all ranges that were added, what lies in several of them counted as often.
    added: u64,
}

impl Ranges {
    /// One more range.
    pub fn add(&mut self, at: u64, len: u64) -> Result<(), Refused> {
        if at.checked_add(len).is_none() {
            return refused("it names data that is not in it");
        }
        self.added = self.added.saturating_add(len);
        if let Some((begin, sofar)) = self.all.last_mut()
            && *begin + *sofar == at
        {
            *sofar += len;
        } else if len > 0 {
            if self.all.len() == MAX_RANGES {
                return refused("its tracks are cut into far too many pieces");
            }
            self.all.push((at, len));
        }
        Ok(())
    }

    /// Whether more was named than a file of this length can hold, but for a little that is named twice. Work on samples
    /// is bounded by the bytes that are there.
    pub const fn are_piled(&self, file: u64) -> bool {
        self.added > file.saturating_mul(2)
    }

    /// Puts them in order and joins them. All must lie in `data` (begin and end, in order); what is left of
    /// that is counted.
    pub fn settle(&mut self, data: &[(u64, u64)]) -> Result<u64, Refused> {
        self.all.sort_unstable();
        self.all.dedup_by(|next, last| {
            let touches = next.0 <= last.0 + last.1;
            if touches {
                last.1 = last.1.max(next.0 + next.1 - last.0);
            }
            touches
        });
        let mut data_at = data.iter().peekable();
        for (at, len) in &self.all {
            while data_at.peek().is_some_and(|(_, end)| end <= at) {
                data_at.next();
            }
            if data_at.peek().is_none_or(|(begin, end)| at < begin || at + len > *end) {
                return refused("it names data that is not in it: it is damaged, or its end is missing");
            }
        }
        for (_, len) in &self.all {
            self.places.push(self.len);
            self.len += len;
        }
        if self.are_piled(self.len) {
            return refused(PILED);
        }
        Ok(data.iter().map(|(begin, end)| end.saturating_sub(*begin)).sum::<u64>() - self.len)
    }

    /// All bytes together.
    pub const fn size(&self) -> u64 {
        self.len
    }

    /// Where a byte of the file stands when all ranges follow each other.
    pub fn place(&self, at: u64) -> Option<u64> {
        let index = self.all.partition_point(|(begin, _)| *begin <= at).checked_sub(1)?;
        let (begin, len) = self.all.get(index)?;
        (at < begin + len).then_some(self.places.get(index)? + (at - begin))
    }

    /// The ranges.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.all.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_touches_is_joined_and_has_its_place() {
        let mut ranges = Ranges::default();
        for (at, len) in [(50, 10), (10, 5), (15, 5), (55, 10), (30, 0), (12, 2)] {
            ranges.add(at, len).unwrap();
        }
        assert_eq!(ranges.settle(&[(0, 40), (45, 70)]), Ok(40));
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [(10, 10), (50, 15)]);
        assert_eq!(ranges.size(), 25);
        assert_eq!(
            [10, 19, 20, 50, 64, 65, 3].map(|at| ranges.place(at)),
            [Some(0), Some(9), None, Some(10), Some(24), None, None]
        );
    }

    #[test]
    fn what_is_not_there_is_refused() {
        for (at, len) in [(35, 10), (70, 1), (44, 2), (0, 80)] {
            let mut ranges = Ranges::default();
            ranges.add(at, len).unwrap();
            assert!(ranges.settle(&[(0, 40), (45, 70)]).is_err(), "{at} {len}");
        }
        assert!(Ranges::default().add(u64::MAX, 2).is_err());
    }
}
