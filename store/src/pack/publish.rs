//! Publishing: a pack that grows while the number of blocks is still unknown.
//!
//! Invariant: the pack appears under its name, and the journal names it, only when it is whole and
//! durable; until then it is a file in `packs/tmp` that the next start deletes. Write order: blocks,
//! header, map, sync, rename, sync of the folder, one journal append with the object's row and the
//! caller's record.

use super::format::{Header, Layout, Map, PLACE_LEN, PackKeys, pack_len, place_at};
use crate::StoreError;
use crate::backend::File;
use crate::disk::{self, At};
use crate::object::{Class, ObjectInfo, day_of};
use crate::quota::Claim;
use crate::store::Inner;
use kith_crypto::aead::BulkKey;
use kith_crypto::content::{BlockId, Geometry, Position, ReadCap, Root, SEALED_LEN, Sealed};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

/// An object on its way into the store. Dropped without [`Publishing::commit`] it leaves nothing.
#[derive(Debug)]
pub struct Publishing {
    inner: Arc<Inner>,
    file: Box<dyn File>,
    temp: PathBuf,
    keys: PackKeys,
    cipher: BulkKey,
    data_count: u64,
    tail: Tail,
    root: Option<Root>,
    /// Room in quota and on the disk, taken as the object grows.
    claim: Claim,
}

/// The blocks behind the data, whose places depend on how many data there are.
#[derive(Debug, Default)]
struct Tail {
    geometry: Option<Geometry>,
    slots: BTreeSet<u64>,
}

const WRONG_ORDER: StoreError = StoreError::Misuse("blocks of a new object come in another order");

impl Publishing {
    pub(crate) fn begin(inner: Arc<Inner>) -> Result<Self, StoreError> {
        inner.disk.check()?;
        let temp = inner.temp_pack()?;
        let claim = Claim::begin(Arc::clone(&inner), &temp);
        let keys = PackKeys::new(&inner.key, disk::random()?);
        let file = inner.disk.create_new(&temp)?;
        let cipher = BulkKey::new(&keys.blocks);
        let tail = Tail::default();
        Ok(Self { inner, file, temp, keys, cipher, data_count: 0, tail, root: None, claim })
    }

    /// Takes the next block: data in order from 0, then nodes, head and root, each once.
    ///
    /// The block is sealed in its own memory; room for 16 more bytes in it saves a copy.
    pub fn write(&mut self, sealed: Sealed) -> Result<(), StoreError> {
        self.inner.disk.check()?;
        let Sealed { position, mut bytes } = sealed;
        if bytes.len() != SEALED_LEN {
            return Err(StoreError::Misuse("a sealed block has the wrong length"));
        }
        let slot = self.slot(position)?;
        self.claim.grow(PLACE_LEN as u64)?;
        if position == Position::Root {
            self.root = Some(Root(BlockId::of(&bytes).0));
        }
        self.cipher.seal(position.nonce(), &[], &mut bytes);
        let written = self.file.write_at(place_at(slot), &bytes).at(&self.temp);
        self.inner.disk.measured(written, PLACE_LEN as u64)
    }

    /// The place of the next block. No slot is given twice, so no nonce is used twice.
    fn slot(&mut self, position: Position) -> Result<u64, StoreError> {
        if let Position::Data(index) = position {
            if self.tail.geometry.is_some() || index != self.data_count {
                return Err(WRONG_ORDER);
            }
            self.data_count += 1;
            return Ok(index);
        }
        let geometry = match self.tail.geometry {
            Some(geometry) => geometry,
            None => Geometry::of(self.data_count).ok_or(WRONG_ORDER)?,
        };
        self.tail.geometry = Some(geometry);
        let slot = geometry.slot(position).ok_or(WRONG_ORDER)?;
        if self.tail.slots.insert(slot) { Ok(slot) } else { Err(WRONG_ORDER) }
    }

    /// Ends the object: on return it and the caller's `record` are durable, both or neither.
    pub fn commit(
        mut self,
        cap: &ReadCap,
        geometry: Geometry,
        added_unix_s: u64,
        record: Vec<u8>,
    ) -> Result<(), StoreError> {
        let whole = self.data_count + self.tail.slots.len() as u64 == geometry.total();
        if self.tail.geometry != Some(geometry) || !whole || self.root != Some(cap.root) {
            return Err(StoreError::Misuse("the object does not match its capability"));
        }
        self.claim.grow_to(pack_len(geometry))?;
        let verify = cap.verify_cap();
        let header = Header { root: cap.root, tree: verify.tree.clone(), geometry };
        let layout = Layout::of(geometry);
        let page = self.keys.encode_header(&disk::random()?, &header);
        let map = self.keys.encode_map(layout, 1, &disk::random()?, &Map::Complete);
        let written = self.file.write_at(0, &page).and_then(|()| self.file.write_at(layout.map_at(1), &map));
        self.inner.disk.measured(written.at(&self.temp), layout.map_len() as u64)?;
        self.file.settle();
        self.inner.disk.guard(self.file.sync().at(&self.temp))?;
        let info = ObjectInfo {
            root: cap.root,
            tree: verify.tree,
            read: Some(cap.key.clone()),
            class: Class::Own,
            complete: true,
            data_count: geometry.data_count(),
            added_unix_s,
            used_day: day_of(added_unix_s),
        };
        let admitted = self.inner.admit(&self.temp, &info, &record, self.claim.bytes());
        if admitted.is_ok() {
            self.claim.became_an_object();
        }
        admitted
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        // After a commit the file has another name, and this finds nothing.
        let _ = self.inner.disk.remove(&self.temp);
    }
}
