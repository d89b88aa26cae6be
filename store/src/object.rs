//! What the store knows about one object, and the journal's object rows that say it.
//!
//! Format: `docs/protocol/store.md`, "Object rows". The journal holds the store's own rows (first
//! byte 0) and the node's opaque records (first byte 1); only this file tells them apart.

use kith_crypto::codec::{DecodeError, Reader, Writer};
use kith_crypto::content::{Geometry, Root};
use kith_crypto::secret::Key;

const OBJECT_ROW: u8 = 0;
const NODE_RECORD: u8 = 1;
/// A row of format version 1, which knew own objects and others.
const ADDED_V1: u8 = 0;
const COMPLETE: u8 = 1;
const REMOVED: u8 = 2;
const ADDED: u8 = 3;
const USED: u8 = 4;
const LOST: u8 = 5;
const FLAG_OWN: u8 = 1;
const FLAG_COMPLETE: u8 = 2;
const FLAG_READ: u8 = 4;

const DAY_S: u64 = 86_400;

/// Why an object is kept, which decides whether it gives way when there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Published here: never gives way.
    Own,
    /// Marked by its user as to be kept: never gives way.
    Pinned,
    /// Fetched to be watched: gives way.
    Cached,
    /// Kept for others: gives way.
    Mirrored,
}

impl Class {
    /// All of them, in the order of their numbers on disk.
    pub const ALL: [Self; 4] = [Self::Own, Self::Pinned, Self::Cached, Self::Mirrored];

    /// Its word in commands and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Pinned => "pinned",
            Self::Cached => "cached",
            Self::Mirrored => "mirrored",
        }
    }

    /// Whether objects of this class give way to others.
    pub const fn gives_way(self) -> bool {
        matches!(self, Self::Cached | Self::Mirrored)
    }

    pub(crate) const fn number(self) -> u8 {
        self as u8
    }

    fn of_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// The day of a moment, as rows hold it: days since 1970.
pub(crate) fn day_of(unix_s: u64) -> u32 {
    u32::try_from(unix_s / DAY_S).unwrap_or(u32::MAX)
}

/// One object that the store keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its id.
    pub root: Root,
    /// Its tree key: enough to check and serve it.
    pub tree: Key,
    /// Its read key, where this node may read it.
    pub read: Option<Key>,
    /// Why it is kept.
    pub class: Class,
    /// Whether all of its blocks were here when this was last written down.
    pub complete: bool,
    /// Number of data blocks.
    pub data_count: u64,
    /// When it was added, in seconds since 1970, as the caller said.
    pub added_unix_s: u64,
    /// The day on which it was last used, in days since 1970.
    pub used_day: u32,
}

impl ObjectInfo {
    /// Whether it was published here.
    pub const fn is_own(&self) -> bool {
        matches!(self.class, Class::Own)
    }

    /// The fields, as rows and index values hold them.
    pub(crate) fn encode(&self, w: &mut Writer) {
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        w.raw(self.root.as_bytes()).raw(self.tree.expose());
        w.u8(flag(self.complete, FLAG_COMPLETE) | flag(self.read.is_some(), FLAG_READ));
        w.raw(self.read.as_ref().map_or(&[0; 32], |key| key.expose()));
        w.u64(self.data_count).u64(self.added_unix_s);
        w.u8(self.class.number()).u32(self.used_day);
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (info, _) = Self::decode_common(r, FLAG_COMPLETE | FLAG_READ)?;
        let class = Class::of_number(r.u8()?).ok_or_else(|| r.invalid("object class"))?;
        Ok(Self { class, used_day: r.u32()?, ..info })
    }

    /// The fields of format version 1. What was not published here was fetched to be watched.
    fn decode_v1(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (info, own) = Self::decode_common(r, FLAG_OWN | FLAG_COMPLETE | FLAG_READ)?;
        let class = if own { Class::Own } else { Class::Cached };
        Ok(Self { class, used_day: day_of(info.added_unix_s), ..info })
    }

    fn decode_common(r: &mut Reader<'_>, allowed: u8) -> Result<(Self, bool), DecodeError> {
        let (root, tree) = (Root(r.array()?), Key::new(r.array()?));
        let flags = r.u8()?;
        if flags & !allowed != 0 {
            return Err(r.invalid("object flags"));
        }
        let read = r.array()?;
        let has_read = flags & FLAG_READ != 0;
        if !has_read && read != [0; 32] {
            return Err(r.invalid("unused read key"));
        }
        let (data_count, added_unix_s) = (r.u64()?, r.u64()?);
        if Geometry::of(data_count).is_none() {
            return Err(r.invalid("block count"));
        }
        let info = Self {
            root,
            tree,
            read: has_read.then(|| Key::new(read)),
            class: Class::Cached,
            complete: flags & FLAG_COMPLETE != 0,
            data_count,
            added_unix_s,
            used_day: 0,
        };
        Ok((info, flags & FLAG_OWN != 0))
    }
}

/// A change to what is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    /// The object is kept from now on, or what is known about it was replaced.
    Added(ObjectInfo),
    Complete(Root),
    Removed(Root),
    /// It was used on this day.
    Used(Root, u32),
    /// So many places of an older journal were damaged when it was migrated: rows may be missing.
    Lost(u64),
}

/// A payload of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Object(Row),
    Node(Vec<u8>),
}

impl Row {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u8(OBJECT_ROW);
        match self {
            Self::Added(info) => info.encode(w.u8(ADDED)),
            Self::Complete(root) => drop(w.u8(COMPLETE).raw(root.as_bytes())),
            Self::Removed(root) => drop(w.u8(REMOVED).raw(root.as_bytes())),
            Self::Used(root, day) => drop(w.u8(USED).raw(root.as_bytes()).u32(*day)),
            Self::Lost(places) => drop(w.u8(LOST).u64(*places)),
        }
        w.into_bytes()
    }
}

/// The journal's payload for a record of the node.
pub(crate) fn node_payload(record: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(record.len() + 1);
    payload.push(NODE_RECORD);
    payload.extend_from_slice(record);
    payload
}

impl Entry {
    pub(crate) fn decode(mut payload: Vec<u8>) -> Result<Self, DecodeError> {
        let mut r = Reader::new(&payload);
        match r.u8()? {
            OBJECT_ROW => {
                let row = match r.u8()? {
                    ADDED_V1 => Row::Added(ObjectInfo::decode_v1(&mut r)?),
                    ADDED => Row::Added(ObjectInfo::decode(&mut r)?),
                    COMPLETE => Row::Complete(Root(r.array()?)),
                    REMOVED => Row::Removed(Root(r.array()?)),
                    USED => Row::Used(Root(r.array()?), r.u32()?),
                    LOST => Row::Lost(r.u64()?),
                    _ => return Err(DecodeError::Invalid { at: 1, what: "object row" }),
                };
                r.finish()?;
                Ok(Self::Object(row))
            }
            NODE_RECORD => {
                payload.remove(0);
                Ok(Self::Node(payload))
            }
            _ => Err(DecodeError::Invalid { at: 0, what: "record kind" }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn info() -> ObjectInfo {
        ObjectInfo {
            root: Root([1; 32]),
            tree: Key::new([2; 32]),
            read: Some(Key::new([3; 32])),
            class: Class::Pinned,
            complete: true,
            data_count: 7,
            added_unix_s: 86_400 * 5 + 1,
            used_day: 9,
        }
    }

    #[test]
    fn vector_object_rows() {
        let rows = [Row::Added(info()), Row::Used(Root([1; 32]), 10)];
        let bytes = rows.iter().flat_map(Row::encode).collect::<Vec<_>>();
        crate::vectors::check(
            "object_rows",
            &bytes,
            &[
                (1, "a row of the store"),
                (1, "3: added or replaced"),
                (32, "root 01..01"),
                (32, "tree key 02..02"),
                (1, "flags: 2 complete, 4 has read key"),
                (32, "read key 03..03"),
                (8, "7 data blocks"),
                (8, "added at 432001 (unix s)"),
                (1, "class 1: pinned"),
                (4, "last used on day 9"),
                (1, "a row of the store"),
                (1, "4: used"),
                (32, "root"),
                (4, "on day 10"),
            ],
        );
    }

    /// A row as version 1 wrote it.
    fn old_row(flags: u8) -> Vec<u8> {
        let mut w = Writer::new();
        w.u8(OBJECT_ROW).u8(ADDED_V1).raw(&[1; 32]).raw(&[2; 32]).u8(flags).raw(&[3; 32]);
        w.u64(7).u64(86_400 * 5 + 1);
        w.into_bytes()
    }

    #[test]
    fn old_rows_are_read() {
        let own = Row::Added(ObjectInfo { class: Class::Own, used_day: 5, ..info() });
        let cached = Row::Added(ObjectInfo { class: Class::Cached, used_day: 5, ..info() });
        assert_eq!(Entry::decode(old_row(7)), Ok(Entry::Object(own)));
        assert_eq!(Entry::decode(old_row(6)), Ok(Entry::Object(cached)));
        assert!(Entry::decode(old_row(8)).is_err(), "a flag that nobody knows");
    }

    proptest! {
        #[test]
        fn any_bytes_decode_to_themselves_or_not_at_all(kind in 0_u8..3, action in 0_u8..8, bytes in proptest::collection::vec(any::<u8>(), 0..140)) {
            let mut payload = vec![kind, action];
            payload.extend_from_slice(&bytes);
            match Entry::decode(payload.clone()) {
                Ok(Entry::Object(Row::Added(_))) if action == ADDED_V1 => {} // written anew in today's form
                Ok(Entry::Object(row)) => prop_assert_eq!(row.encode(), payload),
                Ok(Entry::Node(record)) => prop_assert_eq!(node_payload(&record), payload),
                Err(_) => {}
            }
        }

        #[test]
        fn rows_round_trip(root: [u8; 32], read: Option<[u8; 32]>, class in 0_u8..4, complete: bool, data_count in 1_u64..4_000_000, used_day: u32) {
            let class = Class::of_number(class).unwrap();
            let root = Root(root);
            let info = ObjectInfo {
                root, read: read.map(Key::new), class, complete, data_count, used_day, ..info()
            };
            let rows = [
                Row::Added(info), Row::Complete(root), Row::Removed(root), Row::Used(root, used_day),
                Row::Lost(data_count),
            ];
            for row in rows {
                prop_assert_eq!(Entry::decode(row.encode()), Ok(Entry::Object(row)));
            }
        }
    }
}
