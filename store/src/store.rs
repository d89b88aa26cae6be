//! The open store: which objects are kept, and the order of writes behind each change.
//!
//! Invariant: the journal says it first. An object's row is appended after its pack is durable under
//! its name and before anybody is told; a removal is appended before the file goes. The index and
//! the open packs follow the journal and can be made again from it. How much may be kept, and for
//! whom, is decided by the caller.

use crate::backend::{Backend, Held, Real};
use crate::disk::{self, Disk, hold};
use crate::index::{self, Index, Unusable};
use crate::journal::{Contents, Journal, Mark};
use crate::keyfile;
use crate::ledger::{Ledger, len_of};
use crate::object::{Class, Entry, ObjectInfo, Row, day_of, node_payload};
use crate::open_packs::OpenPacks;
use crate::opening;
use crate::pack::format::Header;
use crate::pack::{self, Pack, Publishing};
use crate::verify;
use crate::view::{self, ViewLog};
use crate::{Opened, Options, StoreError};
use kith_crypto::content::{BlockId, Geometry, Position, ReadCap, Root, Tree, VerifiedBlock, VerifyCap};
use kith_crypto::secret::Key;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// Everything at rest of one node. Cheap to share by reference between threads.
#[derive(Debug)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

/// What the store takes on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Objects kept, complete or not.
    pub objects: u64,
    /// Bytes of all packs on disk, holes not counted.
    pub pack_bytes: u64,
    /// Bytes of the journal.
    pub journal_bytes: u64,
    /// Bytes of all view logs.
    pub view_bytes: u64,
    /// Bytes of the index.
    pub index_bytes: u64,
    /// Bytes that may still be written to this file system.
    pub free_bytes: u64,
}

/// What [`Store`] and [`Publishing`] share.
pub(crate) struct Inner {
    pub(crate) dir: PathBuf,
    pub(crate) key: Key,
    pub(crate) disk: Disk,
    pub(crate) journal: Mutex<Journal>,
    pub(crate) journal_bytes: AtomicU64,
    /// Held through each change of what is kept, so that index and journal see them in one order.
    pub(crate) changes: Mutex<()>,
    pub(crate) index: RwLock<Box<dyn Index>>,
    pub(crate) packs: Mutex<OpenPacks>,
    pub(crate) ledger: Mutex<Ledger>,
    /// Objects that gave way and that the caller was not told about yet.
    pub(crate) evicted: Mutex<Vec<Root>>,
    /// Files in `packs/tmp` that publications under way write.
    pub(crate) temps: Mutex<HashSet<PathBuf>>,
    /// The journal had lost records when it was opened, so a pack without a row may be the last trace
    /// of an object.
    pub(crate) lost_rows: bool,
    /// The process before this one did not close the store: what it wrote last may not be synced.
    pub(crate) unclean: bool,
    /// The key file as it was read, to be written again if the disk loses it.
    pub(crate) key_file: Vec<u8>,
    pub(crate) _lock: Box<dyn Held>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// The journal, read from front to back.
#[derive(Debug, Default)]
pub(crate) struct Folded {
    pub(crate) objects: BTreeMap<Root, ObjectInfo>,
    pub(crate) records: Vec<Vec<u8>>,
    /// Objects whose last row is a removal.
    pub(crate) removed: BTreeSet<Root>,
    /// The place of the last object row.
    pub(crate) mark: Option<Mark>,
    /// Records that open and make no sense.
    pub(crate) damaged: u64,
}

impl Folded {
    pub(crate) fn of(contents: Contents) -> Self {
        let mut out = Self::default();
        for (mark, payload) in contents.records {
            match Entry::decode(payload) {
                Ok(Entry::Node(record)) => out.records.push(record),
                // Rows may be missing since an older journal was migrated.
                Ok(Entry::Object(Row::Lost(places))) => {
                    out.mark = Some(mark);
                    out.damaged = out.damaged.saturating_add(places);
                }
                Ok(Entry::Object(row)) => {
                    out.mark = Some(mark);
                    out.apply(row);
                }
                Err(_) => out.damaged += 1,
            }
        }
        out
    }

    /// A journal with these objects and records and nothing of their past.
    pub(crate) fn payloads(&self, records: &[Vec<u8>]) -> Vec<Vec<u8>> {
        payloads(self.objects.values(), records)
    }

    fn apply(&mut self, row: Row) {
        match row {
            Row::Added(info) => {
                self.removed.remove(&info.root);
                self.objects.insert(info.root, info);
            }
            Row::Removed(root) => {
                self.objects.remove(&root);
                self.removed.insert(root);
            }
            Row::Complete(root) => {
                if let Some(info) = self.objects.get_mut(&root) {
                    info.complete = true;
                }
            }
            Row::Used(root, day) => {
                if let Some(info) = self.objects.get_mut(&root) {
                    info.used_day = day;
                }
            }
            Row::Lost(_) => {}
        }
    }
}

fn payloads<'a>(objects: impl IntoIterator<Item = &'a ObjectInfo>, records: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let rows = objects.into_iter().map(|info| Row::Added(info.clone()).encode());
    rows.chain(records.iter().map(|record| node_payload(record))).collect()
}

/// Folders of a store.
pub(crate) fn packs_dir(dir: &Path) -> PathBuf {
    dir.join("packs")
}
pub(crate) fn temp_dir(dir: &Path) -> PathBuf {
    packs_dir(dir).join("tmp")
}
pub(crate) fn views_dir(dir: &Path) -> PathBuf {
    dir.join("views")
}
pub(crate) fn index_dir(dir: &Path) -> PathBuf {
    dir.join("index")
}

impl Inner {
    /// A fresh name for an unfinished pack.
    pub(crate) fn temp_pack(&self) -> Result<PathBuf, StoreError> {
        Ok(temp_dir(&self.dir).join(disk::hex(&disk::random::<16>()?)))
    }

    pub(crate) fn pack_path(&self, root: &Root) -> PathBuf {
        pack::path(&packs_dir(&self.dir), &self.key, root)
    }

    /// Asks the index; where it fails, one in memory is made from the journal and asked instead.
    /// `None` when neither can answer, which is not the same as "nothing is kept".
    pub(crate) fn ask<T>(&self, question: impl Fn(&dyn Index) -> Result<T, Unusable>) -> Option<T> {
        let answer = {
            let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
            question(index.as_ref())
        };
        answer.or_else(|Unusable| self.ask_anew(question)).ok()
    }

    /// Makes another index and asks that. The lock is held from before the journal is read, so that
    /// a row which is appended meanwhile is put into the new index and not into the old one.
    fn ask_anew<T>(&self, question: impl Fn(&dyn Index) -> Result<T, Unusable>) -> Result<T, Unusable> {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        question(index.as_ref()).or_else(|Unusable| {
            // Nobody made one while this waited for the lock.
            *index = self.index_from_journal()?;
            question(index.as_ref())
        })
    }

    /// Lets the index follow rows that are durable. One that cannot, and cannot be made anew either,
    /// knows less than the journal: it is not asked again.
    pub(crate) fn follow(&self, change: impl Fn(&dyn Index) -> Result<(), Unusable>) {
        if self.ask(change).is_none() {
            *self.index.write().unwrap_or_else(PoisonError::into_inner) = Box::new(Behind);
        }
    }

    /// The error of a question that neither index nor journal can answer. It is not one of damage to
    /// an object, which would be answered by fetching it again.
    fn unanswered(&self) -> StoreError {
        let source = std::io::Error::other("the index does not answer and its records cannot be read whole");
        StoreError::Io { path: opening::journal_dir(&self.dir), source }
    }

    /// All objects as the index has them.
    pub(crate) fn kept(&self) -> Result<Vec<ObjectInfo>, StoreError> {
        self.ask(|index| index.objects()).ok_or_else(|| self.unanswered())
    }

    /// What is known about an object, for who would take "nothing" for leave to begin it anew.
    pub(crate) fn known(&self, root: &Root) -> Result<Option<ObjectInfo>, StoreError> {
        self.ask(|index| index.object(root)).ok_or_else(|| self.unanswered())
    }

    /// All objects, by root, and the place of the last row: as the journal says, or the index where the
    /// journal was damaged since it was opened. `changes` is held.
    fn rows(&self) -> Result<(Vec<ObjectInfo>, Option<Mark>), StoreError> {
        let Ok(Folded { mut objects, mark, .. }) = self.whole_journal() else {
            let last = hold(&self.journal).reread().ok().and_then(|contents| Folded::of(contents).mark);
            return Ok((self.kept()?, last));
        };
        if self.lost_rows {
            // What the index of the last stop kept need not be in the journal again.
            for info in self.kept()? {
                objects.entry(info.root).or_insert(info);
            }
        }
        Ok((objects.into_values().collect(), mark))
    }

    /// The journal as it is now, if nothing of it is damaged: with one row less than were written an
    /// object would be forgotten, and its pack removed.
    fn whole_journal(&self) -> Result<Folded, Unusable> {
        let contents = hold(&self.journal).reread().map_err(|_| Unusable)?;
        let lost = contents.damaged;
        let folded = Folded::of(contents);
        if lost > 0 || folded.damaged > 0 { Err(Unusable) } else { Ok(folded) }
    }

    fn index_from_journal(&self) -> Result<Box<dyn Index>, Unusable> {
        let folded = self.whole_journal()?;
        let start = hold(&self.journal).start_mark();
        Ok(index::in_memory(&folded.objects, folded.mark.unwrap_or(start)))
    }

    /// Makes the index anew from the journal. Readers go on meanwhile with one in memory; who wants to
    /// change something waits.
    pub(crate) fn reindex(&self, watch: &dyn Fn(u64, u64)) -> Result<u64, StoreError> {
        let _changing = hold(&self.changes);
        let (rows, mark) = self.rows()?;
        let mark = mark.unwrap_or(hold(&self.journal).start_mark());
        let objects: BTreeMap<Root, ObjectInfo> = rows.into_iter().map(|info| (info.root, info)).collect();
        let swap = |index| {
            let mut current = self.index.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, index)
        };
        drop(swap(index::in_memory(&objects, mark)));
        if let Some(dir) = self.disk.backend().is_real().then(|| index_dir(&self.dir)) {
            let made = index::make(&dir, &self.key, &objects, mark, watch);
            drop(made.map(swap)); // without a disk for it the one in memory stays
        }
        Ok(objects.len() as u64)
    }

    pub(crate) fn object(&self, root: &Root) -> Option<ObjectInfo> {
        self.ask(|index| index.object(root)).flatten()
    }

    pub(crate) fn write(&self, payloads: &[Vec<u8>]) -> Result<Vec<Mark>, StoreError> {
        let mut journal = hold(&self.journal);
        let marks = journal.append(payloads)?;
        self.journal_bytes.store(journal.len_bytes(), Ordering::Relaxed);
        Ok(marks)
    }

    /// Appends the row that turns `before` into `after` and the caller's records at once; index and
    /// ledger follow. `claimed` bytes were kept free for it. `changes` is held.
    pub(crate) fn change(
        &self,
        row: &Row,
        before: Option<&ObjectInfo>,
        after: &ObjectInfo,
        records: &[Vec<u8>],
        claimed: u64,
    ) -> Result<(), StoreError> {
        let payloads: Vec<_> =
            std::iter::once(row.encode()).chain(records.iter().map(|record| node_payload(record))).collect();
        let marks = self.write(&payloads)?;
        // The change is durable, so an index that cannot follow is replaced, not reported.
        self.follow(|index| {
            index.put(after)?;
            marks.first().map_or(Ok(()), |mark| index.set_mark(*mark))
        });
        hold(&self.ledger).replace(before, Some(after), claimed);
        Ok(())
    }

    /// Replaces what is known about an object. `changes` is held.
    pub(crate) fn enter(&self, info: &ObjectInfo) -> Result<(), StoreError> {
        let before = self.known(&info.root)?;
        self.change(&Row::Added(info.clone()), before.as_ref(), info, &[], 0)
    }

    /// Takes a finished pack over, for which `claimed` bytes are kept free: name, then journal.
    pub(crate) fn admit(
        &self,
        temp: &Path,
        info: &ObjectInfo,
        record: &[u8],
        claimed: u64,
    ) -> Result<(), StoreError> {
        let _changing = hold(&self.changes);
        self.disk.check()?;
        let before = self.known(&info.root)?;
        let forgotten = hold(&self.packs).forget(&info.root);
        drop(forgotten);
        let path = self.pack_path(&info.root);
        // A whole pack may take the place of any other of the same object, and of nothing else.
        self.make_way(&info.root, false)?;
        self.disk.guard_unless_full(pack::settle_into(&self.disk, temp, &path))?;
        let row = Row::Added(info.clone());
        let changed = self.change(&row, before.as_ref(), info, &[record.to_vec()], claimed);
        self.undo_if_full(changed, before.is_none(), &path)
    }

    /// A row that found no room is not in the journal, so its new pack goes again. (A failed sync makes
    /// the store read-only: then nobody knows whether the row is there.)
    fn undo_if_full<T>(
        &self,
        result: Result<T, StoreError>,
        new: bool,
        path: &Path,
    ) -> Result<T, StoreError> {
        if new && matches!(result, Err(StoreError::Full { .. })) && !self.disk.is_read_only() {
            self.disk.remove(path)?;
        }
        result
    }

    pub(crate) fn pack(&self, root: &Root) -> Result<Arc<Pack>, StoreError> {
        let mut packs = hold(&self.packs);
        // Asked under the lock, so that no pack is opened that a removal has just forgotten.
        let info = self.known(root)?.ok_or(StoreError::NotFound)?;
        if let Some(pack) = packs.find(root) {
            return Ok(pack);
        }
        let pack = Pack::open(&self.pack_path(root), &self.key, &info.root, &self.disk)?;
        let pack = Arc::new(pack);
        let evicted = packs.insert(*root, &pack);
        drop(packs);
        drop(evicted);
        Ok(pack)
    }

    /// The pack of an object whose row is there; one that is damaged is mended first where what is
    /// here suffices. `changes` is held.
    fn mended_pack(self: &Arc<Self>, info: &ObjectInfo) -> Result<Arc<Pack>, StoreError> {
        match self.pack(&info.root) {
            Err(StoreError::Damaged { .. }) => {
                verify::repair(self, info);
                self.pack(&info.root)
            }
            other => other,
        }
    }

    /// Makes the place of a new pack free. What lies there goes out of the way and is kept, unless it is
    /// known for a leftover of the same object, which has no row. `changes` is held.
    fn make_way(&self, root: &Root, has_row: bool) -> Result<(), StoreError> {
        let path = self.pack_path(root);
        if !self.disk.is_there(&path)? {
            return Ok(());
        }
        let leftover = !has_row && pack::owner(&self.disk, &path, &self.key) == Some(*root);
        if leftover { Ok(()) } else { verify::set_aside(&self.disk, &path) }
    }

    fn begin_fetch(self: &Arc<Self>, info: ObjectInfo, root_block: Vec<u8>) -> Result<Arc<Pack>, StoreError> {
        let _changing = hold(&self.changes);
        self.disk.check()?;
        let geometry = Geometry::of(info.data_count).ok_or(StoreError::NotFound)?;
        let before = self.known(&info.root)?;
        let info = match &before {
            None => info,
            Some(known) => {
                let read = known.read.clone().or_else(|| info.read.clone());
                // Who fetches for themselves what was kept for others uses it.
                let class = if known.class == Class::Mirrored { info.class } else { known.class };
                let used_day = known.used_day.max(info.used_day);
                let info = ObjectInfo { read, class, used_day, ..known.clone() };
                match self.mended_pack(known) {
                    Ok(pack) => {
                        if info != *known {
                            self.change(&Row::Added(info.clone()), Some(known), &info, &[], 0)?;
                        }
                        return Ok(pack);
                    }
                    // The file is lost or useless: start again in its place.
                    Err(StoreError::Damaged { .. }) => ObjectInfo { complete: false, ..info },
                    Err(other) => return Err(other),
                }
            }
        };
        // No row may call it complete once its pack is begun again, also when the disk has no room for
        // the row below.
        let before = match before {
            Some(known) if known.complete => {
                self.change(&Row::Added(info.clone()), Some(&known), &info, &[], 0)?;
                Some(info.clone())
            }
            other => other,
        };
        let len = len_of(info.data_count);
        // A lost pack still has its place in the quota; on the disk it needs a new one.
        let new_bytes = if before.is_some() { 0 } else { len };
        self.make_room(info.class, new_bytes, Some(len), false)?;
        let header = Header { root: info.root, tree: info.tree.clone(), geometry };
        let (temp, path) = (self.temp_pack()?, self.pack_path(&info.root));
        self.make_way(&info.root, before.is_some())?;
        let pack = Pack::begin((&temp, &path), &self.key, &header, root_block, &self.disk)?;
        let pack = Arc::new(pack);
        let changed = self.change(&Row::Added(info.clone()), before.as_ref(), &info, &[], 0);
        if changed.is_err() {
            pack.discard();
        }
        self.undo_if_full(changed, before.is_none(), &path)?;
        let evicted = hold(&self.packs).insert(info.root, &pack);
        drop(evicted);
        Ok(pack)
    }
}

/// In the place of an index that could not follow the journal.
struct Behind;

impl Index for Behind {
    fn object(&self, _: &Root) -> Result<Option<ObjectInfo>, Unusable> {
        Err(Unusable)
    }
    fn objects(&self) -> Result<Vec<ObjectInfo>, Unusable> {
        Err(Unusable)
    }
    fn put(&self, _: &ObjectInfo) -> Result<(), Unusable> {
        Err(Unusable)
    }
    fn remove(&self, _: &Root) -> Result<(), Unusable> {
        Err(Unusable)
    }
    fn set_mark(&self, _: Mark) -> Result<(), Unusable> {
        Err(Unusable)
    }
    fn mark(&self) -> Result<Option<Mark>, Unusable> {
        Err(Unusable)
    }
    fn close(self: Box<Self>) {}
}

impl Drop for Inner {
    fn drop(&mut self) {
        let _ = hold(&self.journal).prove(); // without it damage to the last append is not noticed
        let index = self.index.get_mut().unwrap_or_else(PoisonError::into_inner);
        let empty = index::in_memory(&BTreeMap::new(), Mark::default());
        std::mem::replace(index, empty).close();
    }
}

impl Store {
    /// Whether there is a store in `dir`.
    pub fn exists(dir: &Path) -> bool {
        Disk::real().exists(&keyfile::path(dir))
    }

    /// Whether the store in `dir` opens only with a passphrase.
    pub fn needs_passphrase(dir: &Path) -> Result<bool, StoreError> {
        keyfile::needs_passphrase(&Disk::real(), dir)
    }

    /// Makes a new store. [`StoreError::Exists`] if there is one.
    pub fn create(options: &Options<'_>) -> Result<Opened, StoreError> {
        opening::create(Arc::new(Real), options)
    }

    /// Like [`Store::create`], on another backend.
    pub fn create_on(backend: Arc<dyn Backend>, options: &Options<'_>) -> Result<Opened, StoreError> {
        opening::create(backend, options)
    }

    /// Opens a store: replays the journal, and tidies up after a kill.
    pub fn open(options: &Options<'_>) -> Result<Opened, StoreError> {
        opening::open(Arc::new(Real), options, &|_, _| {})
    }

    /// Like [`Store::open`]. `watch` hears how many objects of how many an index names that must be
    /// made anew.
    pub fn open_watched(options: &Options<'_>, watch: &dyn Fn(u64, u64)) -> Result<Opened, StoreError> {
        opening::open(Arc::new(Real), options, watch)
    }

    /// Like [`Store::open`], on another backend.
    pub fn open_on(backend: Arc<dyn Backend>, options: &Options<'_>) -> Result<Opened, StoreError> {
        opening::open(backend, options, &|_, _| {})
    }

    pub(crate) fn from_inner(inner: Inner) -> Self {
        // The index of the last stop may know what the journal lost, and it is the one that is asked.
        if inner.lost_rows
            && let Ok(rows) = inner.kept()
        {
            *hold(&inner.ledger) = Ledger::of(rows.iter());
        }
        Self { inner: Arc::new(inner) }
    }

    /// Appends records of the node (each less than 1 MiB) in one write; they are durable on return,
    /// and a kill before leaves all of them or none.
    pub fn append(&self, records: &[Vec<u8>]) -> Result<(), StoreError> {
        let payloads: Vec<_> = records.iter().map(|record| node_payload(record)).collect();
        self.inner.write(&payloads).map(drop)
    }

    /// Replaces all records of the node by `live`, under a new key, so that the others cannot be
    /// read again by anybody. Object rows are kept. The caller sees to it that nothing is appended
    /// between collecting `live` and the return of this call.
    pub fn compact(&self, live: &[Vec<u8>]) -> Result<(), StoreError> {
        let inner = &self.inner;
        let _changing = hold(&inner.changes);
        let (objects, _) = inner.rows()?;
        let payloads = payloads(&objects, live);
        let mut journal = hold(&inner.journal);
        let marks = journal.compact(&payloads)?;
        inner.journal_bytes.store(journal.len_bytes(), Ordering::Relaxed);
        let last_row = objects.len().checked_sub(1).and_then(|i| marks.get(i)).copied();
        let mark = last_row.unwrap_or(journal.start_mark());
        // A journal of an older version, kept since its migration, holds what was just erased.
        let erased = journal.forget_older();
        drop(journal);
        inner.follow(|index| index.set_mark(mark));
        erased
    }

    /// What is known about an object.
    pub fn object(&self, root: &Root) -> Option<ObjectInfo> {
        self.inner.object(root)
    }

    /// All objects, by root.
    pub fn objects(&self) -> Vec<ObjectInfo> {
        self.inner.ask(|index| index.objects()).unwrap_or_default()
    }

    /// Makes the index anew from the journal while the store is in use; returns how many objects it
    /// names. `watch` hears how many of how many are done.
    pub fn reindex(&self, watch: &dyn Fn(u64, u64)) -> Result<u64, StoreError> {
        self.inner.reindex(watch)
    }

    /// Starts a new object of this node.
    pub fn publish(&self) -> Result<Publishing, StoreError> {
        Publishing::begin(Arc::clone(&self.inner))
    }

    /// Starts to keep an object that is fetched from others to be watched, or goes on with it. `read`
    /// is its read key where this node may read it; one that is learned later is remembered too.
    ///
    /// The whole length is kept free for it from now on. [`StoreError::NoRoom`] if that cannot be.
    pub fn begin_fetch(
        &self,
        cap: &VerifyCap,
        read: Option<&Key>,
        root_block: &VerifiedBlock,
        geometry: Geometry,
        added_unix_s: u64,
    ) -> Result<Arc<Pack>, StoreError> {
        self.begin_fetch_as(Class::Cached, cap, read, root_block, geometry, added_unix_s)
    }

    /// Like [`Store::begin_fetch`], for an object that is kept for another reason. One that is kept
    /// already keeps its own.
    pub fn begin_fetch_as(
        &self,
        class: Class,
        cap: &VerifyCap,
        read: Option<&Key>,
        root_block: &VerifiedBlock,
        geometry: Geometry,
        added_unix_s: u64,
    ) -> Result<Arc<Pack>, StoreError> {
        let bytes = root_block.bytes();
        if root_block.position() != Position::Root || BlockId::of(bytes).0 != cap.root.0 {
            return Err(StoreError::Misuse("the root block is that of another object"));
        }
        // The shape decides where blocks stand for as long as the pack lives, so it is read from the
        // block once more rather than believed.
        match Tree::open(cap, bytes.to_vec()) {
            Ok((tree, _)) if tree.geometry() == geometry => {}
            _ => return Err(StoreError::Misuse("the object has another shape")),
        }
        let readable = |key: &Key| ReadCap { root: cap.root, key: key.clone() }.verify_cap() == *cap;
        if read.is_some_and(|key| !readable(key)) {
            return Err(StoreError::Misuse("the read key is that of another object"));
        }
        let info = ObjectInfo {
            root: cap.root,
            tree: cap.tree.clone(),
            read: read.cloned(),
            class,
            complete: false,
            data_count: geometry.data_count(),
            added_unix_s,
            used_day: day_of(added_unix_s),
        };
        self.inner.begin_fetch(info, bytes.to_vec())
    }

    /// The open pack of an object. [`StoreError::NotFound`] if the object is not kept.
    pub fn pack(&self, root: &Root) -> Result<Arc<Pack>, StoreError> {
        self.inner.pack(root)
    }

    /// Writes down that all blocks of an object are here, once they are.
    pub fn mark_complete(&self, root: &Root) -> Result<(), StoreError> {
        let pack = self.inner.pack(root)?;
        pack.flush()?;
        if !pack.is_complete() {
            return Err(StoreError::Misuse("the object is not complete"));
        }
        let _changing = hold(&self.inner.changes);
        match self.inner.object(root) {
            None => Err(StoreError::NotFound),
            Some(info) if info.complete => Ok(()),
            Some(info) => {
                let after = ObjectInfo { complete: true, ..info.clone() };
                self.inner.change(&Row::Complete(*root), Some(&info), &after, &[], 0)
            }
        }
    }

    /// Stops keeping an object. Who still holds its pack can go on reading it until they drop it.
    pub fn remove(&self, root: &Root) -> Result<(), StoreError> {
        let _changing = hold(&self.inner.changes);
        self.inner.known(root)?.ok_or(StoreError::NotFound)?;
        self.inner.drop_objects(&[*root])
    }

    /// The log of a friend's view, with its records. The caller opens each friend's log once.
    pub fn view_log(&self, friend: &[u8; 32]) -> Result<(ViewLog, Vec<Vec<u8>>), StoreError> {
        let inner = &self.inner;
        let opened = ViewLog::open(&views_dir(&inner.dir), &inner.key, friend, &inner.disk)?;
        if inner.unclean {
            opened.0.prove()?;
        }
        Ok(opened)
    }

    /// Removes a friend's log; one that is not there is fine.
    pub fn remove_view_log(&self, friend: &[u8; 32]) -> Result<(), StoreError> {
        let path = view::path(&views_dir(&self.inner.dir), &self.inner.key, friend);
        let disk = &self.inner.disk;
        disk.check()?;
        disk.remove(&path)?;
        disk.remove(&path.with_extension("torn"))?;
        disk.sync_parent(&path)
    }

    /// Removes the logs of everybody but `friends`: of friends whose removal a kill interrupted. Only for a
    /// store whose journal was whole when it was opened, and before view logs are opened.
    pub fn keep_view_logs_of(&self, friends: &[[u8; 32]]) -> Result<(), StoreError> {
        let inner = &self.inner;
        if inner.lost_rows || inner.disk.is_read_only() {
            return Ok(());
        }
        let dir = views_dir(&inner.dir);
        let known: HashSet<PathBuf> =
            friends.iter().map(|friend| view::path(&dir, &inner.key, friend)).collect();
        for (path, _) in inner.disk.list(&dir)? {
            let log = path.with_extension("log");
            let ours = path.extension().is_some_and(|e| e == "log" || e == "torn");
            if ours && !known.contains(&log) {
                inner.disk.remove(&path)?;
            }
        }
        Ok(())
    }

    /// What the store takes on disk. Looks at every pack, so it is for people, not for loops.
    pub fn stats(&self) -> Stats {
        let (dir, disk) = (&self.inner.dir, self.inner.disk.backend());
        Stats {
            objects: self.objects().len() as u64,
            pack_bytes: disk.used_bytes(&packs_dir(dir)),
            journal_bytes: self.inner.journal_bytes.load(Ordering::Relaxed),
            view_bytes: disk.used_bytes(&views_dir(dir)),
            index_bytes: disk.used_bytes(&index_dir(dir)),
            free_bytes: disk.free_bytes(dir).unwrap_or(0),
        }
    }

    /// Whether a write failed earlier, so that nothing is written any more.
    pub fn read_only(&self) -> bool {
        self.inner.disk.is_read_only()
    }

    /// What failed when nothing is written any more.
    pub fn read_only_reason(&self) -> Option<&str> {
        self.inner.disk.read_only_reason()
    }
}

#[cfg(test)]
#[path = "index_faults.rs"]
mod index_faults;
