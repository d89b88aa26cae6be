//! One pack: the sealed blocks of one object in one sparse file.
//!
//! Format: `docs/protocol/store.md`, "Pack". Invariants: only a [`VerifiedBlock`] is written, so a
//! position never gets two different contents and its nonce never meets two plaintexts; a presence
//! mark reaches the disk only after the data it speaks of. A block that is on disk without its mark
//! counts as absent and is written again, with the same bytes under the same nonce, which tells
//! nobody anything. Which objects are kept, and when, is decided by the store and its caller.

pub(crate) mod check;
pub(crate) mod format;
mod publish;

pub use publish::Publishing;

use crate::StoreError;
use crate::backend::File;
use crate::disk::{self, At, Disk, hold};
use format::{Bits, Header, HeaderError, Layout, Map, PAGE_LEN, PLACE_LEN, PackKeys, place_at};
use kith_crypto::aead::BulkKey;
use kith_crypto::content::{Geometry, Position, Root, VerifiedBlock};
use kith_crypto::secret::Key;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

/// Bytes written to a pack before it flushes by itself: what a kill may cost a fetch.
const FLUSH_EVERY_BYTES: u64 = 64 << 20;

/// The file of an object's pack below the folder of packs, in a folder with the first two letters.
pub(crate) fn path(packs: &Path, store: &Key, root: &Root) -> PathBuf {
    let name = name(store, root);
    packs.join(name.get(..2).unwrap_or_default()).join(name)
}

/// The name of that file.
pub(crate) fn name(store: &Key, root: &Root) -> String {
    use kith_crypto::kdf::{Label, derive};
    let name = derive(Label::PACK_NAME, &[store.expose(), root.as_bytes()]);
    format!("{}.pack", disk::hex(&disk::first16(name.expose())))
}

/// The object that the header of the pack at `path` names, if it can be read.
pub(crate) fn owner(disk: &Disk, path: &Path, store: &Key) -> Option<Root> {
    let page = disk.open(path).ok()?.read_at(0, PAGE_LEN).ok()?;
    PackKeys::decode_header(store, &page).ok().map(|(header, _)| header.root)
}

/// An open pack. All methods take `&self` and may be called from several threads.
#[derive(Debug)]
pub struct Pack {
    path: PathBuf,
    file: Box<dyn File>,
    geometry: Geometry,
    layout: Layout,
    cipher: BulkKey,
    keys: PackKeys,
    marks: Mutex<Marks>,
    /// Generation of the newest map on disk. Held while a flush syncs; readers never take it.
    flushed: Mutex<u64>,
    /// Held by all who write a block until it is marked; an empty place is cleaned only without them.
    writing: RwLock<()>,
    /// The object was removed: its marks need not be saved.
    discarded: AtomicBool,
    disk: Disk,
}

#[derive(Debug)]
struct Marks {
    map: Map,
    present: u64,
    /// Whether the map differs from the one on disk.
    dirty: bool,
    unsynced_bytes: u64,
    /// Whether nobody has synced what was found on opening: after a kill the system may still hold
    /// it in memory alone.
    unproven: bool,
}

impl Marks {
    fn has(&self, slot: u64) -> bool {
        match &self.map {
            Map::Complete => true,
            Map::Partial(bits) => bits.has(slot),
        }
    }

    fn add(&mut self, slot: u64) {
        if let Map::Partial(bits) = &mut self.map
            && bits.set(slot, true)
        {
            self.present += 1;
            self.dirty = true;
        }
        self.unsynced_bytes += PLACE_LEN as u64;
    }

    fn drop_slot(&mut self, slot: u64, total: u64) {
        if self.map == Map::Complete {
            self.map = Map::Partial(Bits::all(total));
        }
        if let Map::Partial(bits) = &mut self.map
            && bits.set(slot, false)
        {
            self.present -= 1;
            self.dirty = true;
        }
    }
}

impl Pack {
    /// Writes a new pack without blocks to `path` and leaves it open. The caller flushes and renames.
    fn create(path: &Path, store: &Key, header: &Header, disk: &Disk) -> Result<Self, StoreError> {
        let keys = PackKeys::new(store, disk::random()?);
        let file = disk.create_new(path)?;
        let page = keys.encode_header(&disk::random()?, header);
        let map = Map::Partial(Bits::none(header.geometry.total()));
        // The copy that the first flush leaves alone is written now: once both have their places, marks
        // find room on a disk that got full.
        let layout = Layout::of(header.geometry);
        let first = keys.encode_map(layout, 0, &disk::random()?, &map);
        let written = file.write_at(0, &page).and_then(|()| file.write_at(layout.map_at(0), &first)).at(path);
        disk.measured(written, page.len() as u64 + 2 * first.len() as u64)?;
        Ok(Self::assemble(path, file, header.geometry, keys, (0, map), disk))
    }

    fn assemble(
        path: &Path,
        file: Box<dyn File>,
        geometry: Geometry,
        keys: PackKeys,
        (generation, map): (u64, Map),
        disk: &Disk,
    ) -> Self {
        let present = match &map {
            Map::Complete => geometry.total(),
            Map::Partial(bits) => bits.count(),
        };
        Self {
            path: path.to_owned(),
            file,
            geometry,
            layout: Layout::of(geometry),
            cipher: BulkKey::new(&keys.blocks),
            keys,
            marks: Mutex::new(Marks { map, present, dirty: false, unsynced_bytes: 0, unproven: true }),
            flushed: Mutex::new(generation),
            writing: RwLock::new(()),
            discarded: AtomicBool::new(false),
            disk: disk.clone(),
        }
    }

    /// A new pack at `path` that holds the root block, durable; the file appears there at once.
    pub(crate) fn begin(
        (temp, path): (&Path, &Path),
        store: &Key,
        header: &Header,
        root_block: Vec<u8>,
        disk: &Disk,
    ) -> Result<Self, StoreError> {
        let made = Self::create(temp, store, header, disk).and_then(|mut pack| {
            pack.put(Position::Root, root_block)?;
            pack.flush()?;
            disk.guard_unless_full(settle_into(disk, temp, path))?;
            pack.path = path.to_owned();
            Ok(pack)
        });
        made.inspect_err(|_| drop(disk.remove(temp)))
    }

    /// Opens the pack of `root` at `path`.
    pub(crate) fn open(path: &Path, store: &Key, root: &Root, disk: &Disk) -> Result<Self, StoreError> {
        let file = disk
            .open(path)
            .map_err(|e| if e.is_missing() { StoreError::damaged(path, "it is missing") } else { e })?;
        let page = file.read_at(0, PAGE_LEN).map_err(|e| match is_damage(&e) {
            true => StoreError::damaged(path, "its header cannot be read"),
            false => StoreError::io(path, e),
        })?;
        let (header, keys) = PackKeys::decode_header(store, &page).map_err(|e| match e {
            HeaderError::Newer(version) => StoreError::NewerVersion { path: path.to_owned(), version },
            HeaderError::Damaged => StoreError::damaged(path, "its header fails its check"),
        })?;
        if header.root != *root {
            return Err(StoreError::damaged(path, "it belongs to another object"));
        }
        let layout = Layout::of(header.geometry);
        let newest = [0, 1]
            .into_iter()
            .filter_map(|copy| file.read_at(layout.map_at(copy), layout.map_len()).ok())
            .filter_map(|bytes| keys.decode_map(layout, &bytes))
            .max_by_key(|(generation, _)| *generation)
            // Without any map nothing is known to be there, and everything can be fetched again.
            .unwrap_or_else(|| (0, Map::Partial(Bits::none(header.geometry.total()))));
        Ok(Self::assemble(path, file, header.geometry, keys, newest, disk))
    }

    /// The object's shape.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Whether the block is here.
    pub fn has(&self, position: Position) -> bool {
        self.geometry.slot(position).is_some_and(|slot| hold(&self.marks).has(slot))
    }

    /// Number of blocks that are here, of `geometry().total()`.
    pub fn present(&self) -> u64 {
        hold(&self.marks).present
    }

    /// Whether all blocks are here.
    pub fn is_complete(&self) -> bool {
        self.present() == self.geometry.total()
    }

    /// The sealed block, 65,552 bytes.
    ///
    /// [`StoreError::NotFound`] when it is not here; [`StoreError::DamagedBlock`] when what is on
    /// disk fails its check, and from then on it counts as absent.
    pub fn read(&self, position: Position) -> Result<Vec<u8>, StoreError> {
        let slot = self.geometry.slot(position).ok_or(StoreError::NotFound)?;
        if !hold(&self.marks).has(slot) {
            return Err(StoreError::NotFound);
        }
        let opened = match self.file.read_at(place_at(slot), PLACE_LEN) {
            Ok(mut bytes) => self.cipher.open_vec(position.nonce(), &[], &mut bytes).is_ok().then_some(bytes),
            Err(e) if is_damage(&e) => None,
            Err(e) => return Err(StoreError::io(&self.path, e)),
        };
        opened.ok_or_else(|| {
            hold(&self.marks).drop_slot(slot, self.geometry.total());
            StoreError::DamagedBlock(position)
        })
    }

    /// Tells the disk that the data blocks from `first` on will be read soon, as far as there are any:
    /// who reads in order keeps it busy while blocks are opened.
    pub fn will_read(&self, first: u64, count: u64) {
        let count = count.min(self.geometry.data_count().saturating_sub(first));
        if count > 0 {
            self.file.will_read(place_at(first), count * PLACE_LEN as u64);
        }
    }

    /// Writes a block of this object (the caller verified it with this object's tree). It can be
    /// read at once; it survives a kill after the next [`Pack::flush`], which comes by itself every
    /// 64 MiB. A block that is here already is left alone.
    pub fn write(&self, block: VerifiedBlock) -> Result<(), StoreError> {
        let position = block.position();
        self.put(position, block.into_bytes())
    }

    fn put(&self, position: Position, mut bytes: Vec<u8>) -> Result<(), StoreError> {
        let slot = self.geometry.slot(position).ok_or(StoreError::Misuse("no such position"))?;
        self.disk.check()?;
        if hold(&self.marks).has(slot) {
            return Ok(());
        }
        let _writing = self.writing.read().unwrap_or_else(PoisonError::into_inner);
        self.cipher.seal(position.nonce(), &[], &mut bytes);
        let written = self.file.write_at(place_at(slot), &bytes).at(&self.path);
        self.disk.guard_unless_full(self.disk.measured(written, PLACE_LEN as u64))?;
        let due = {
            let mut marks = hold(&self.marks);
            marks.add(slot);
            marks.unsynced_bytes >= FLUSH_EVERY_BYTES
        };
        if due { self.flush() } else { Ok(()) }
    }

    /// Makes all blocks written so far durable, then their marks.
    pub fn flush(&self) -> Result<(), StoreError> {
        let mut generation = hold(&self.flushed);
        let map = {
            let mut marks = hold(&self.marks);
            if !marks.dirty && marks.unsynced_bytes == 0 {
                let unproven = marks.unproven;
                drop(marks);
                return if unproven { self.prove() } else { Ok(()) };
            }
            (marks.dirty, marks.unsynced_bytes) = (false, 0);
            if marks.present == self.geometry.total() {
                marks.map = Map::Complete; // the bitmap is no longer needed in memory
            }
            marks.map.clone()
        };
        let result = self.disk.check().and_then(|()| {
            // First the data; the marks taken above speak only of blocks written before this sync.
            self.disk.guard(self.file.sync().at(&self.path))?;
            let next = *generation + 1;
            let bytes = self.keys.encode_map(self.layout, next, &disk::random()?, &map);
            let written = self.file.write_at(self.layout.map_at(next % 2), &bytes).at(&self.path);
            self.disk.guard_unless_full(written)?; // the other copy still stands
            self.disk.guard(self.file.sync().at(&self.path))?;
            *generation = next;
            hold(&self.marks).unproven = false;
            Ok(())
        });
        if result.is_err() {
            hold(&self.marks).dirty = true;
        }
        result
    }

    /// Makes durable what was found on opening.
    fn prove(&self) -> Result<(), StoreError> {
        self.disk.check()?;
        self.disk.guard(self.file.sync().at(&self.path))?;
        hold(&self.marks).unproven = false;
        Ok(())
    }

    /// The object was removed; nothing of this pack needs to be kept.
    pub(crate) fn discard(&self) {
        self.discarded.store(true, Ordering::Relaxed);
    }
}

impl Drop for Pack {
    fn drop(&mut self) {
        if !self.discarded.load(Ordering::Relaxed) {
            hold(&self.marks).unproven = false; // whoever only read has promised nothing
            let _ = self.flush(); // else the blocks since the last flush are fetched again
            self.file.settle();
        }
    }
}

/// A file that ends early and a sector that cannot be read are damage, like bytes that changed.
fn is_damage(e: &std::io::Error) -> bool {
    e.kind() == std::io::ErrorKind::UnexpectedEof
        || e.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

/// Moves a finished, synced file to its place below the packs and makes the name durable.
pub(crate) fn settle_into(disk: &Disk, temp: &Path, path: &Path) -> Result<(), StoreError> {
    if let Some(folder) = path.parent()
        && !disk.is_dir(folder)
    {
        disk.make_dir(folder)?;
        disk.sync_parent(folder)?;
    }
    disk.rename(temp, path)?;
    disk.sync_parent(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend;

    fn begin(dir: &Path, disk: &Disk) -> Pack {
        let (root, tree) = (Root([1; 32]), Key::new([2; 32]));
        let header = Header { root, tree, geometry: Geometry::SMALLEST };
        let block = vec![3; kith_crypto::content::SEALED_LEN];
        let (temp, path) = (dir.join("temp"), dir.join("ab").join("x.pack"));
        Pack::begin((&temp, &path), &Key::new([4; 32]), &header, block, disk).unwrap()
    }

    fn block() -> Vec<u8> {
        vec![5; kith_crypto::content::SEALED_LEN]
    }

    #[test]
    fn a_full_disk_is_told_and_does_no_harm() {
        let (dir, disk) = (tempfile::tempdir().unwrap(), Disk::real());
        let mut pack = begin(dir.path(), &disk);
        let good = std::mem::replace(&mut pack.file, backend::full());
        assert!(matches!(pack.put(Position::Head, block()), Err(StoreError::Full { .. })));
        assert!(!pack.has(Position::Head) && !disk.is_read_only());
        pack.file = good;
        pack.put(Position::Head, block()).unwrap();
        assert!(pack.read(Position::Head).unwrap() == block());
    }

    #[test]
    fn a_failed_write_makes_the_store_read_only() {
        let (dir, disk) = (tempfile::tempdir().unwrap(), Disk::real());
        let mut pack = begin(dir.path(), &disk);
        pack.file = backend::unwritable(&pack.path); // cannot be written
        assert!(matches!(pack.put(Position::Head, block()), Err(StoreError::Io { .. })));
        assert!(matches!(pack.put(Position::Head, block()), Err(StoreError::ReadOnly)));
        assert!(pack.read(Position::Root).unwrap() == vec![3; kith_crypto::content::SEALED_LEN]);
    }

    #[test]
    fn marks_never_run_ahead_of_a_failed_flush() {
        let (dir, disk) = (tempfile::tempdir().unwrap(), Disk::real());
        let mut pack = begin(dir.path(), &disk);
        pack.put(Position::Head, block()).unwrap();
        pack.file = backend::unwritable(&pack.path);
        assert!(pack.flush().is_err() && disk.is_read_only());
        let again = Pack::open(&pack.path, &Key::new([4; 32]), &Root([1; 32]), &Disk::real()).unwrap();
        assert!(again.has(Position::Root) && !again.has(Position::Head));
    }
}
