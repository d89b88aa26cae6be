//! Making and opening a store, and tidying up after a kill.
//!
//! Order: lock, key file, journal, index, then the sweep. The sweep removes what no object row
//! names: unfinished packs, packs whose row was never written, packs of removed objects. It leaves
//! packs alone when the journal lost records, because then a pack without a row may be the last
//! trace of an object.

use crate::StoreError;
use crate::backend::Held;
use crate::backend::{Backend, Kind};
use crate::disk::Disk;
use crate::index;
use crate::journal::{Contents, Journal};
use crate::keyfile::{self, Unlock};
use crate::ledger::Ledger;
use crate::object::Row;
use crate::open_packs::OpenPacks;
use crate::pack;
use crate::store::{Folded, Inner, Store, index_dir, packs_dir, temp_dir, views_dir};
use kith_crypto::kdf::{Label, derive};
use kith_crypto::passphrase::Cost;
use kith_crypto::secret::Key;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, RwLock};

/// How to make or open a store.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The store's folder.
    pub dir: &'a Path,
    /// What protects, or opens, the store key.
    pub unlock: Unlock<'a>,
    /// Cost of the passphrase of a new store. An existing one says its own.
    pub cost: Cost,
}

/// An open store and what its journal said.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: Store,
    /// The node's records, oldest first.
    pub records: Vec<Vec<u8>>,
    /// Places in the journal where records were damaged or lost. They stay until the next compaction.
    pub damaged_records: u64,
    /// Bytes of an unfinished write at the journal's end, moved to a `.torn` file.
    pub torn_bytes: u64,
    /// Whether the index was made anew from the journal, as after every kill.
    pub index_rebuilt: bool,
    /// Whether the journal was one of an older release. What it was is kept in `journal/v1` until
    /// something is erased.
    pub migrated: bool,
}

pub(crate) fn create(backend: Arc<dyn Backend>, options: &Options<'_>) -> Result<Opened, StoreError> {
    let (dir, disk) = (options.dir, Disk::new(backend));
    disk.make_dir(dir)?;
    let lock = disk.backend().lock(dir)?;
    if disk.exists(&keyfile::path(dir)) {
        return Err(StoreError::Exists { path: dir.to_owned() });
    }
    // A journal without its key is a loss that a new key would make final.
    if disk.exists(&journal_dir(dir).join("keys")) {
        return Err(StoreError::damaged(&keyfile::path(dir), "it is missing beside a journal"));
    }
    let key = keyfile::create(&disk, dir, options.unlock, options.cost)?;
    open_with(dir, disk, key, lock)
}

pub(crate) fn open(backend: Arc<dyn Backend>, options: &Options<'_>) -> Result<Opened, StoreError> {
    let (dir, disk) = (options.dir, Disk::new(backend));
    if !disk.exists(&keyfile::path(dir)) {
        return Err(StoreError::NoStore { path: dir.to_owned() });
    }
    let lock = disk.backend().lock(dir)?;
    let key = keyfile::open(&disk, dir, options.unlock)?;
    open_with(dir, disk, key, lock)
}

fn journal_dir(dir: &Path) -> PathBuf {
    dir.join("journal")
}

fn open_with(dir: &Path, disk: Disk, key: Key, lock: Box<dyn Held>) -> Result<Opened, StoreError> {
    let folders = [journal_dir(dir), temp_dir(dir), views_dir(dir)];
    let first_time = !folders.iter().all(|folder| disk.is_dir(folder));
    folders.iter().try_for_each(|folder| disk.make_dir(folder))?;
    let wrap = derive(Label::JOURNAL_KEYS, &[key.expose()]);
    let (mut journal, contents) = Journal::open(&journal_dir(dir), wrap, &disk)?;
    if first_time {
        // What is promised below these names needs the names.
        [&packs_dir(dir), dir].iter().try_for_each(|folder| disk.sync_dir(folder))?;
        disk.sync_parent(dir)?;
    }
    let Contents { damaged, torn_bytes, .. } = contents;
    let mut folded = Folded::of(contents);
    let damaged_records = damaged + folded.damaged;
    let migrated = journal.is_older();
    if migrated {
        migrate(&mut journal, &mut folded, damaged_records)?;
    }
    let mark = folded.mark.unwrap_or(journal.start_mark());
    let index_dir = disk.backend().is_real().then(|| index_dir(dir));
    let (index, index_rebuilt) = index::open(index_dir.as_deref(), &key, &folded.objects, mark);
    let named = folded.objects.keys().map(|root| pack::path(&packs_dir(dir), &key, root)).collect();
    sweep(&disk, dir, (damaged_records == 0).then_some(&named))?;
    let store = Store::from_inner(Inner {
        dir: dir.to_owned(),
        key,
        disk,
        journal_bytes: AtomicU64::new(journal.len_bytes()),
        journal: Mutex::new(journal),
        changes: Mutex::new(()),
        index: RwLock::new(index),
        packs: Mutex::new(OpenPacks::default()),
        ledger: Mutex::new(Ledger::of(folded.objects.values())),
        evicted: Mutex::default(),
        temps: Mutex::default(),
        lost_rows: damaged_records > 0,
        _lock: lock,
    });
    Ok(Opened { store, records: folded.records, damaged_records, torn_bytes, index_rebuilt, migrated })
}

/// Writes a journal of an older release in today's form. That some of it was lost is not forgotten,
/// because packs whose rows are missing must not be swept.
fn migrate(journal: &mut Journal, folded: &mut Folded, damaged: u64) -> Result<(), StoreError> {
    let mut payloads = folded.payloads(&folded.records);
    let mut rows = folded.objects.len();
    if damaged > 0 {
        payloads.insert(rows, Row::Lost(damaged).encode());
        rows += 1;
    }
    let marks = journal.migrate(&payloads)?;
    folded.mark = rows.checked_sub(1).and_then(|last| marks.get(last)).copied();
    Ok(())
}

/// Removes unfinished files and, when `named` is given, all packs that are not in it.
fn sweep(disk: &Disk, dir: &Path, named: Option<&HashSet<PathBuf>>) -> Result<(), StoreError> {
    for (path, _) in disk.list(&temp_dir(dir))? {
        disk.remove(&path)?;
    }
    for (path, _) in disk.list(&views_dir(dir))? {
        if path.extension().is_some_and(|e| e == "tmp") {
            disk.remove(&path)?;
        }
    }
    let Some(named) = named else { return Ok(()) };
    for (folder, kind) in disk.list(&packs_dir(dir))? {
        if folder == temp_dir(dir) || kind != Kind::Folder {
            continue;
        }
        for (path, _) in disk.list(&folder)? {
            if path.extension().is_some_and(|e| e == "pack") && !named.contains(&path) {
                disk.remove(&path)?;
            }
        }
    }
    Ok(())
}
