//! What the store knows about one object, and the journal's object rows that say it.
//!
//! Format: `docs/protocol/store.md`, "Object rows". The journal holds the store's own rows (first
//! byte 0) and the node's opaque records (first byte 1); only this file tells them apart.

use kith_crypto::codec::{DecodeError, Reader, Writer};
use kith_crypto::content::{Geometry, Root};
use kith_crypto::secret::Key;

const OBJECT_ROW: u8 = 0;
const NODE_RECORD: u8 = 1;
const ADDED: u8 = 0;
const COMPLETE: u8 = 1;
const REMOVED: u8 = 2;
const FLAG_OWN: u8 = 1;
const FLAG_COMPLETE: u8 = 2;
const FLAG_READ: u8 = 4;

/// One object that the store keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its id.
    pub root: Root,
    /// Its tree key: enough to check and serve it.
    pub tree: Key,
    /// Its read key, where this node may read it.
    pub read: Option<Key>,
    /// Whether it was published here.
    pub own: bool,
    /// Whether all of its blocks were here when this was last written down.
    pub complete: bool,
    /// Number of data blocks.
    pub data_count: u64,
    /// When it was added, in seconds since 1970, as the caller said.
    pub added_unix_s: u64,
}

impl ObjectInfo {
    /// The fields, as rows and index values hold them.
    pub(crate) fn encode(&self, w: &mut Writer) {
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        w.raw(self.root.as_bytes()).raw(self.tree.expose());
        w.u8(flag(self.own, FLAG_OWN)
            | flag(self.complete, FLAG_COMPLETE)
            | flag(self.read.is_some(), FLAG_READ));
        w.raw(self.read.as_ref().map_or(&[0; 32], |key| key.expose()));
        w.u64(self.data_count).u64(self.added_unix_s);
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (root, tree) = (Root(r.array()?), Key::new(r.array()?));
        let flags = r.u8()?;
        if flags & !(FLAG_OWN | FLAG_COMPLETE | FLAG_READ) != 0 {
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
        Ok(Self {
            root,
            tree,
            read: has_read.then(|| Key::new(read)),
            own: flags & FLAG_OWN != 0,
            complete: flags & FLAG_COMPLETE != 0,
            data_count,
            added_unix_s,
        })
    }
}

/// A change to what is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    /// The object is kept from now on, or what is known about it was replaced.
    Added(ObjectInfo),
    Complete(Root),
    Removed(Root),
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
                    ADDED => Row::Added(ObjectInfo::decode(&mut r)?),
                    COMPLETE => Row::Complete(Root(r.array()?)),
                    REMOVED => Row::Removed(Root(r.array()?)),
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

    proptest! {
        #[test]
        fn any_bytes_decode_to_themselves_or_not_at_all(kind in 0_u8..3, action in 0_u8..4, bytes in proptest::collection::vec(any::<u8>(), 0..130)) {
            let mut payload = vec![kind, action];
            payload.extend_from_slice(&bytes);
            match Entry::decode(payload.clone()) {
                Ok(Entry::Object(row)) => prop_assert_eq!(row.encode(), payload),
                Ok(Entry::Node(record)) => prop_assert_eq!(node_payload(&record), payload),
                Err(_) => {}
            }
        }

        #[test]
        fn rows_round_trip(root: [u8; 32], read: Option<[u8; 32]>, own: bool, complete: bool, data_count in 1_u64..4_000_000) {
            let info = ObjectInfo {
                root: Root(root), tree: Key::new([1; 32]), read: read.map(Key::new), own, complete,
                data_count, added_unix_s: 9,
            };
            for row in [Row::Added(info), Row::Complete(Root(root)), Row::Removed(Root(root))] {
                prop_assert_eq!(Entry::decode(row.encode()), Ok(Entry::Object(row)));
            }
        }
    }
}
