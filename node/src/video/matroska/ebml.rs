//! Elements: an identity of up to four bytes and a size of up to eight, both of which say how long they are by the
//! zeros that they begin with (RFC 8794 4, 5).

use super::super::{Refused, Source, refused};

/// An element's identity, with its marker bits.
pub type Id = u32;

/// The header of an element in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Where it begins.
    pub at: u64,
    /// What it is.
    pub id: Id,
    /// Bytes of identity and size.
    pub header: u64,
    /// Bytes of its contents; `None`: unknown.
    pub len: Option<u64>,
}

impl Header {
    /// Where its contents begin.
    pub const fn body(&self) -> u64 {
        self.at + self.header
    }

    /// Where it ends, if it says so.
    pub fn end(&self) -> Option<u64> {
        self.body().checked_add(self.len?)
    }

    /// The element at `at`. `None`: there is none.
    pub fn read(source: &dyn Source, at: u64) -> Result<Option<Self>, Refused> {
        let mut start = [0; 12];
        let got = source.read_at(at, &mut start).map_err(|e| Refused(format!("it cannot be read: {e}")))?;
        let start = start.get(..got).unwrap_or_default();
        let Some((id, size, header)) = header(start) else { return Ok(None) };
        Ok(Some(Self { at, id, header: header as u64, len: size }))
    }
}

/// Identity, size and bytes of both.
fn header(bytes: &[u8]) -> Option<(Id, Option<u64>, usize)> {
    let id_len = bytes.first()?.leading_zeros() as usize + 1;
    let id = bytes.get(..id_len).filter(|_| id_len <= 4)?;
    let (size, size_len) = varint(bytes.get(id_len..)?)?;
    let unknown = (1_u64 << (7 * size_len)) - 1;
    let id = id.iter().fold(0, |n, byte| n << 8 | Id::from(*byte));
    Some((id, (size != unknown).then_some(size), id_len + size_len))
}

/// A number that says how long it is, and its bytes.
pub fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let len = bytes.first()?.leading_zeros() as usize + 1;
    let all = bytes.get(..len).filter(|_| len <= 8)?;
    let number = all.iter().fold(0_u64, |n, byte| n << 8 | u64::from(*byte));
    Some((number & ((1_u64 << (7 * len)) - 1), len))
}

/// An element inside another one.
#[derive(Clone, Copy, Debug)]
pub struct Child<'a> {
    /// What it is.
    pub id: Id,
    /// Its contents.
    pub body: &'a [u8],
}

/// The elements in `body`, whose sizes must all be known.
pub fn children(body: &[u8]) -> impl Iterator<Item = Result<Child<'_>, Refused>> {
    let mut rest = body;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let child = header(rest).and_then(|(id, size, header)| {
            let end = header.checked_add(usize::try_from(size?).ok()?)?;
            let (whole, after) = rest.split_at_checked(end)?;
            rest = after;
            Some(Child { id, body: whole.get(header..)? })
        });
        if child.is_none() {
            rest = &[];
        }
        Some(child.map_or_else(|| refused("an element in it is longer than what it stands in"), Ok))
    })
}

/// The first child of this kind.
pub fn child(body: &[u8], id: Id) -> Result<Option<&[u8]>, Refused> {
    for child in children(body) {
        let child = child?;
        if child.id == id {
            return Ok(Some(child.body));
        }
    }
    Ok(None)
}

/// A number of up to eight bytes.
pub fn number(body: &[u8]) -> Option<u64> {
    (body.len() <= 8).then(|| body.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)))
}

fn put_id(out: &mut Vec<u8>, id: Id) {
    let bytes = id.to_be_bytes();
    out.extend(bytes.iter().skip_while(|byte| **byte == 0));
}

/// Appends an element.
pub fn put(out: &mut Vec<u8>, id: Id, body: &[u8]) {
    put_id(out, id);
    put_size(out, body.len() as u64);
    out.extend_from_slice(body);
}

/// Appends a size in as few bytes as it takes.
pub fn put_size(out: &mut Vec<u8>, len: u64) {
    let width = (1..8).find(|width| len < (1 << (7 * width)) - 1).unwrap_or(8);
    let bytes = (len | 1 << (7 * width)).to_be_bytes();
    out.extend(bytes.get(8 - width..).unwrap_or_default());
}

/// Appends an element that holds a number.
pub fn put_number(out: &mut Vec<u8>, id: Id, number: u64) {
    let bytes = number.to_be_bytes();
    let skipped = (number.leading_zeros() as usize / 8).min(7);
    put(out, id, bytes.get(skipped..).unwrap_or_default());
}

/// The header of an element `Void` that is `len` bytes long in all, two at least.
pub fn void(len: u64) -> Vec<u8> {
    let width =
        (1..8_u64).find(|width| len - 1 - width.min(&(len - 1)) < (1 << (7 * width)) - 1).unwrap_or(8);
    let bytes = ((len - 1).saturating_sub(width) | 1 << (7 * width)).to_be_bytes();
    let mut out = vec![0xEC];
    out.extend(bytes.get(8 - width as usize..).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_void_is_as_long_as_what_it_stands_for() {
        for len in (2..300).chain([16_385, 16_386, 16_387, 1 << 21, 1 << 30]) {
            let head = void(len);
            let (id, size, header) = header(&head).unwrap();
            assert_eq!((id, size.unwrap() + header as u64), (0xEC, len), "{len}");
        }
    }

    #[test]
    fn what_is_put_is_read() {
        let mut out = Vec::new();
        put(&mut out, 0x1A45_DFA3, &[7; 126]);
        put(&mut out, 0xEC, &[8; 127]);
        put_number(&mut out, 0x73C5, 0);
        put_number(&mut out, 0xD7, 0x0123_4567);
        let all: Vec<_> = children(&out).map(|c| c.map(|c| (c.id, c.body.len(), number(c.body)))).collect();
        let expected =
            [(0x1A45_DFA3, 126, None), (0xEC, 127, None), (0x73C5, 1, Some(0)), (0xD7, 4, Some(0x0123_4567))];
        assert_eq!(all, expected.map(Ok));
        assert!(children(&[0xEC, 0xFF]).next().unwrap().is_err());
        assert!(children(&[0xEC, 0x82, 0]).next().unwrap().is_err());
        assert!(children(&[0]).next().unwrap().is_err());
    }
}
