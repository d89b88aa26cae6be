//! Boxes: 32 bits of size, four letters, and 64 bits of size where the first say 1 (ISO/IEC 14496-12 4.2).

use super::super::{Refused, Source, refused};

/// Four letters.
pub type FourCc = [u8; 4];

/// The header of a box in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Where it begins.
    pub at: u64,
    /// What it is.
    pub kind: FourCc,
    /// Bytes of the header.
    pub header: u64,
    /// Bytes of all of it.
    pub len: u64,
}

impl Header {
    /// Where its contents begin.
    pub const fn body(&self) -> u64 {
        self.at + self.header
    }

    /// Where it ends.
    pub const fn end(&self) -> u64 {
        self.at + self.len
    }

    /// The box at `at` of a file. `None`: there is none.
    pub fn read(source: &dyn Source, at: u64) -> Result<Option<Self>, Refused> {
        let left = source.size().saturating_sub(at);
        let start = source.piece(at, left.min(16) as usize)?;
        let Some((size, rest)) = start.split_first_chunk::<4>() else { return Ok(None) };
        let Some((kind, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let (len, header) = match (u32::from_be_bytes(*size), rest.first_chunk()) {
            (0, _) => (left, 8),
            (1, Some(size)) => (u64::from_be_bytes(*size), 16),
            (1, None) => return Ok(None),
            (size, _) => (u64::from(size), 8),
        };
        // No box ends beyond what can be counted.
        let len = len.min(u64::MAX - at);
        let sound = len >= header && kind.iter().all(|b| matches!(b, 0x20..=0x7E | 0xA9));
        Ok(sound.then_some(Self { at, kind: *kind, header, len }))
    }
}

/// A box inside another one.
#[derive(Clone, Copy, Debug)]
pub struct Child<'a> {
    /// What it is.
    pub kind: FourCc,
    /// Its contents.
    pub body: &'a [u8],
    /// Where it begins, counted from the beginning of what it is in.
    pub at: usize,
    /// Bytes of all of it.
    pub len: usize,
}

/// The boxes in `body`. What is behind the last one and too short for a box is left out.
pub fn children(body: &[u8]) -> impl Iterator<Item = Result<Child<'_>, Refused>> {
    let mut rest = Some(body);
    std::iter::from_fn(move || {
        let here = rest.take()?;
        let at = body.len() - here.len();
        let (size, after) = here.split_first_chunk::<4>()?;
        let (kind, after) = after.split_first_chunk::<4>()?;
        let size = u32::from_be_bytes(*size);
        // QuickTime ends some lists with 32 zero bits.
        if size == 0 && *kind == [0; 4] {
            return None;
        }
        let (len, header) = match (size, after.first_chunk()) {
            (0, _) => (here.len(), 8),
            (1, Some(size)) => (usize::try_from(u64::from_be_bytes(*size)).unwrap_or(usize::MAX), 16),
            (size, _) => (size as usize, 8),
        };
        let whole = here.split_at_checked(len).filter(|_| len >= header);
        let Some((whole, after)) = whole else {
            return Some(refused("a box in it is longer than what it stands in"));
        };
        rest = Some(after);
        let body = whole.get(header..).unwrap_or_default();
        Some(Ok(Child { kind: *kind, body, at, len }))
    })
}

/// The first child of this kind.
pub fn child(body: &[u8], kind: FourCc) -> Result<Option<&[u8]>, Refused> {
    for child in children(body) {
        let child = child?;
        if child.kind == kind {
            return Ok(Some(child.body));
        }
    }
    Ok(None)
}

/// A big-endian number of up to eight bytes.
pub fn number(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    Some(bytes.get(at..at.checked_add(len)?)?.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)))
}

/// A 32-bit number that must be there.
pub fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Refused> {
    number(bytes, at, 4).map(|n| n as u32).ok_or_else(|| Refused("a box in it is too short".into()))
}

/// Appends a box with what `body` writes.
pub fn put<T>(out: &mut Vec<u8>, kind: FourCc, body: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let at = out.len();
    out.extend([0; 4]);
    out.extend(kind);
    let done = body(out);
    let size = ((out.len() - at) as u32).to_be_bytes();
    if let Some(place) = out.get_mut(at..at + 4) {
        place.copy_from_slice(&size);
    }
    done
}

/// Appends a box with this body.
pub fn put_bytes(out: &mut Vec<u8>, kind: FourCc, body: &[u8]) {
    put(out, kind, |out| out.extend_from_slice(body));
}

/// Overwrites a part with zeros, where there is one.
pub fn blank(bytes: &mut [u8], at: usize, len: usize) {
    if let Some(part) = bytes.get_mut(at..at + len) {
        part.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_end_where_their_box_ends() {
        let mut out = Vec::new();
        put_bytes(&mut out, *b"free", &[1, 2]);
        put(&mut out, *b"moov", |out| put_bytes(out, *b"mvhd", &[]));
        out.extend([0, 0, 0, 1, b'u', b'u', b'i', b'd', 0, 0, 0, 0, 0, 0, 0, 17, 5]);
        out.extend([0; 4]);
        let all: Vec<_> = children(&out).map(|c| c.map(|c| (c.kind, c.body.len(), c.at, c.len))).collect();
        let expected = [(*b"free", 2, 0, 10), (*b"moov", 8, 10, 16), (*b"uuid", 1, 26, 17)];
        assert_eq!(all, expected.map(Ok));
        assert!(children(&[0, 0, 0, 9, 1, 1, 1, 1]).next().unwrap().is_err());
        assert!(children(&[0, 0, 0, 7, 1, 1, 1, 1]).next().unwrap().is_err());
        assert!(children(&[0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 15]).next().unwrap().is_err());
        assert!(children(&[0; 12]).next().is_none());
        assert_eq!(child(&out, *b"moov").unwrap().unwrap().len(), 8);
    }
}
