//! The index's memory: words, and which entries have them.

use super::FIELD_COUNT;

// A word as key: short ones, which most are, need no allocation.
#[derive(Debug)]
pub(super) enum Term {
    Short { len: u8, bytes: [u8; SHORT_TERM] },
    Long(Box<[u8]>),
}

const SHORT_TERM: usize = 22;

impl Term {
    pub(super) fn new(word: &str) -> Self {
        let mut bytes = [0; SHORT_TERM];
        match (bytes.get_mut(..word.len()), u8::try_from(word.len())) {
            (Some(start), Ok(len)) => {
                start.copy_from_slice(word.as_bytes());
                Self::Short { len, bytes }
            }
            _ => Self::Long(word.as_bytes().into()),
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Short { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Self::Long(bytes) => bytes,
        }
    }
}

// Which entries have a word, and in which fields: one LEB128 number for each entry, made of the
// distance to the slot before and four bits for the fields. Most words are rare and need no
// allocation.
#[derive(Debug)]
pub(super) enum Postings {
    Few { len: u8, bytes: [u8; FEW_BYTES] },
    Many(Box<Packed>),
}

const FEW_BYTES: usize = 14;

#[derive(Debug)]
pub(super) struct Packed {
    last: u32,
    bytes: Vec<u8>,
}

impl Postings {
    pub(super) const fn none() -> Self {
        Self::Few { len: 0, bytes: [0; FEW_BYTES] }
    }

    // Slots come in ascending order.
    pub(super) fn push(&mut self, slot: u32, fields: u8) {
        let (number, number_len) = encode(slot.wrapping_sub(self.last()), fields);
        let number = number.get(..number_len).unwrap_or_default();
        match self {
            Self::Few { len, bytes } => {
                let end = usize::from(*len) + number_len;
                if let Some(free) = bytes.get_mut(usize::from(*len)..end) {
                    free.copy_from_slice(number);
                    *len = end as u8;
                } else {
                    let bytes = [self.bytes(), number].concat();
                    *self = Self::Many(Box::new(Packed { last: slot, bytes }));
                }
            }
            Self::Many(packed) => {
                if packed.bytes.capacity() - packed.bytes.len() < number_len {
                    // Less than doubling: the postings are most of the memory.
                    packed.bytes.reserve_exact(number_len + 8 + packed.bytes.len() / 8);
                }
                packed.bytes.extend_from_slice(number);
                packed.last = slot;
            }
        }
    }

    fn last(&self) -> u32 {
        let mut last = 0;
        match self {
            Self::Few { .. } => self.for_each(|slot, _| last = slot),
            Self::Many(packed) => last = packed.last,
        }
        last
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Few { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Self::Many(packed) => &packed.bytes,
        }
    }

    pub(super) fn for_each(&self, mut visit: impl FnMut(u32, u8)) {
        let (mut slot, mut value, mut shift) = (0_u32, 0_u64, 0_u32);
        for byte in self.bytes() {
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 != 0 {
                shift += 7;
                continue;
            }
            slot = slot.wrapping_add((value >> FIELD_COUNT) as u32);
            visit(slot, value as u8 & 0xf);
            (value, shift) = (0, 0);
        }
    }

    pub(super) fn renumbered(&self, number: impl Fn(u32) -> Option<u32>) -> Option<Self> {
        let mut kept = Self::none();
        let mut any = false;
        self.for_each(|slot, fields| {
            if let Some(slot) = number(slot) {
                kept.push(slot, fields);
                any = true;
            }
        });
        any.then_some(kept)
    }
}

// 36 bits fill six bytes of LEB128 at most.
fn encode(distance: u32, fields: u8) -> ([u8; 6], usize) {
    let mut value = u64::from(distance) << FIELD_COUNT | u64::from(fields);
    let mut bytes = [0; 6];
    let mut len = 0;
    for byte in &mut bytes {
        len += 1;
        *byte = value as u8 & 0x7f;
        value >>= 7;
        if value == 0 {
            break;
        }
        *byte |= 0x80;
    }
    (bytes, len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn packed_postings_read_back(slots in proptest::collection::btree_map(any::<u32>(), 1_u8..16, 1..40)) {
            let mut postings = Postings::none();
            slots.iter().for_each(|(slot, fields)| postings.push(*slot, *fields));
            let mut read = BTreeMap::new();
            postings.for_each(|slot, fields| { read.insert(slot, fields); });
            prop_assert_eq!(read, slots);
        }
    }
}
