//! Making and opening a store, and tidying up after a kill.
//!
//! Order: lock, key file, journal, index, then the sweep. The sweep removes what no object row
//! names: unfinished packs, packs whose row was never written, packs of removed objects. It leaves
//! packs alone when the journal lost records, because then a pack without a row may be the last
//! trace of an object. While a kept object misses its pack, one under a wrong name goes only when its
//! header tells that it is of something else, and goes home when it is the missing one.

use crate::StoreError;
use crate::backend::Held;
use crate::backend::{Backend, Kind};
use crate::disk::{self, At, Disk};
use crate::index::{self, Index, State};
use crate::journal::{self, Contents, Journal, Mark};
use crate::keyfile::{self, Unlock};
use crate::ledger::Ledger;
use crate::object::{ObjectInfo, Row};
use crate::open_packs::OpenPacks;
use crate::pack;
use crate::store::{Folded, Inner, Store, index_dir, packs_dir, temp_dir, views_dir};
use kith_crypto::content::Root;
use kith_crypto::kdf::{Label, derive};
use kith_crypto::passphrase::Cost;
use kith_crypto::secret::Key;
use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
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
    /// All objects that the journal names, by root.
    pub objects: Vec<ObjectInfo>,
    /// Objects whose file is gone.
    pub lost: HashSet<Root>,
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
    sync_above(&disk, dir)?;
    let lock = disk.backend().lock(dir)?;
    if disk.is_there(&keyfile::path(dir))? {
        return Err(StoreError::Exists { path: dir.to_owned() });
    }
    // A journal without its key is a loss that a new key would make final.
    if disk.is_there(&journal::keys_path(&journal_dir(dir)))? {
        return Err(StoreError::damaged(&keyfile::path(dir), "it is missing beside a journal"));
    }
    if was_used(&disk, dir)? {
        return Err(StoreError::damaged(
            &keyfile::path(dir),
            "it is missing beside packs, views or an index",
        ));
    }
    let key = keyfile::create(&disk, dir, options.unlock, options.cost)?;
    open_with(dir, disk, key, lock, &|_, _| {})
}

pub(crate) fn open(
    backend: Arc<dyn Backend>,
    options: &Options<'_>,
    watch: &dyn Fn(u64, u64),
) -> Result<Opened, StoreError> {
    let (dir, disk) = (options.dir, Disk::new(backend));
    if !disk.exists(&keyfile::path(dir)) {
        return Err(StoreError::NoStore { path: dir.to_owned() });
    }
    let lock = disk.backend().lock(dir)?;
    let key = keyfile::open(&disk, dir, options.unlock)?;
    open_with(dir, disk, key, lock, watch)
}

pub(crate) fn journal_dir(dir: &Path) -> PathBuf {
    dir.join("journal")
}

/// Makes the names of a folder and of all above it durable, as far as this user may: they may have
/// been made just now, or by a process that was killed before it could.
fn sync_above(disk: &Disk, dir: &Path) -> Result<(), StoreError> {
    for folder in dir.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()) {
        match disk.backend().sync_dir(folder) {
            // Not the user's own, or a file system that has no such thing: it was there before.
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::PermissionDenied
                        | ErrorKind::InvalidInput
                        | ErrorKind::Unsupported
                        | ErrorKind::ReadOnlyFilesystem
                ) =>
            {
                break;
            }
            other => other.at(folder)?,
        }
    }
    Ok(())
}

/// Whether anything stands in the store that comes only after a journal.
fn was_used(disk: &Disk, dir: &Path) -> Result<bool, StoreError> {
    if !disk.list(&views_dir(dir))?.is_empty() || !disk.list(&index_dir(dir))?.is_empty() {
        return Ok(true);
    }
    for (folder, kind) in disk.list(&packs_dir(dir))? {
        if kind == Kind::Folder && folder != temp_dir(dir) && !disk.list(&folder)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn open_with(
    dir: &Path,
    disk: Disk,
    key: Key,
    lock: Box<dyn Held>,
    watch: &dyn Fn(u64, u64),
) -> Result<Opened, StoreError> {
    // An empty journal beside what only a journal can name would make all of it leftovers.
    let journal_keys = journal::keys_path(&journal_dir(dir));
    if !disk.is_there(&journal_keys)? && was_used(&disk, dir)? {
        return Err(StoreError::damaged(&journal_keys, "it is missing beside packs, views or an index"));
    }
    let folders = [journal_dir(dir), temp_dir(dir), views_dir(dir)];
    folders.iter().try_for_each(|folder| disk.make_dir(folder))?;
    let wrap = derive(Label::JOURNAL_KEYS, &[key.expose()]);
    let (mut journal, contents) = Journal::open(&journal_dir(dir), wrap, &disk)?;
    // What is promised below these names needs the names, and a process that was killed may have
    // left them in memory alone. (The journal sees to its own folder.)
    [&packs_dir(dir), &views_dir(dir), dir].iter().try_for_each(|folder| disk.sync_dir(folder))?;
    let Contents { damaged, torn_bytes, .. } = contents;
    let marks: Vec<Mark> = contents.records.iter().map(|(mark, _)| *mark).collect();
    let mut folded = Folded::of(contents);
    let mut damaged_records = damaged + folded.damaged;
    let migrated = journal.is_older();
    if migrated {
        migrate(&mut journal, &mut folded, damaged_records)?;
    }
    let mark = folded.mark.unwrap_or(journal.start_mark());
    let index_dir = disk.backend().is_real().then(|| index_dir(dir));
    // The index is read, or made anew, while the folders are looked through.
    let start = journal.start_mark();
    let misses = |mark| journal.covers(mark) && mark != start && !marks.contains(&mark);
    let (sight, (index, state)) = std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let named = folded.objects.keys().map(|root| (pack::name(&key, root), *root)).collect();
            look(&disk, dir, named)
        });
        let index = index::open(index_dir.as_deref(), &key, &folded.objects, (mark, &misses), watch);
        let sight = looking.join().unwrap_or_else(|_| Err(StoreError::Misuse("the look-through failed")))?;
        Ok::<_, StoreError>((sight, index))
    })?;
    // What the journal itself tells of its damage stands there already.
    if state == State::Ahead && damaged_records == 0 {
        damaged_records += 1;
        remember_loss(&mut journal, index.as_ref());
    }
    let kept = |root: &Root| folded.objects.contains_key(root);
    let lost = sweep(&disk, &packs_dir(dir), &key, sight, damaged_records == 0, kept)?;
    let key_file = disk.read(&keyfile::path(dir))?;
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
        unclean: state == State::Rebuilt,
        key_file,
        _lock: lock,
    });
    let (records, objects) = (folded.records, folded.objects.into_values().collect());
    let index_rebuilt = state == State::Rebuilt;
    Ok(Opened { store, records, objects, lost, damaged_records, torn_bytes, index_rebuilt, migrated })
}

/// Writes down that the journal lost its end, so that a kill before the rows are written again does
/// not make the packs of those objects leftovers. Where that cannot be written the store opens all the
/// same, and the next close says it once more.
fn remember_loss(journal: &mut Journal, index: &dyn Index) {
    if let Ok(marks) = journal.append(&[Row::Lost(1).encode()])
        && let Some(mark) = marks.last()
    {
        let _ = index.set_mark(*mark);
    }
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

/// What stands in the folders of a store that is being opened.
#[derive(Default)]
struct Sight {
    /// Files that nobody finished.
    unfinished: Vec<PathBuf>,
    /// Packs under names that no row gives.
    strays: Vec<PathBuf>,
    /// Objects under whose name there is nothing.
    missing: HashSet<Root>,
}

/// Looks through the folders and changes nothing.
fn look(disk: &Disk, dir: &Path, mut named: HashMap<String, Root>) -> Result<Sight, StoreError> {
    let mut sight = Sight::default();
    sight.unfinished.extend(disk.list(&temp_dir(dir))?.into_iter().map(|(path, _)| path));
    sight.unfinished.push(disk::beside(&keyfile::path(dir)));
    let views = disk.list(&views_dir(dir))?.into_iter().map(|(path, _)| path);
    sight.unfinished.extend(views.filter(|path| path.extension().is_some_and(|e| e == "tmp")));
    for (folder, kind) in disk.list(&packs_dir(dir))? {
        if folder == temp_dir(dir) || kind != Kind::Folder {
            continue;
        }
        for (path, _) in disk.backend().list(&folder).at(&folder)? {
            let name = path.file_name().and_then(|name| name.to_str());
            let here =
                |name: &&str| folder.file_name().is_some_and(|f| name.get(..2).is_some_and(|n| f == n));
            let known = name.filter(here).and_then(|name| named.remove(name)).is_some();
            if !known && path.extension().is_some_and(|e| e == "pack") {
                sight.strays.push(path);
            }
        }
    }
    sight.missing.extend(named.into_values());
    Ok(sight)
}

/// Removes unfinished files and, if `clean`, packs of what is not `kept`. A pack whose object misses it
/// goes to its own place. Returns the objects whose pack is not there.
fn sweep(
    disk: &Disk,
    packs: &Path,
    key: &Key,
    Sight { unfinished, strays, mut missing }: Sight,
    clean: bool,
    kept: impl Fn(&Root) -> bool,
) -> Result<HashSet<Root>, StoreError> {
    unfinished.iter().try_for_each(|path| disk.remove(path))?;
    // While all kept objects have their packs the strays are of others, whatever is in them.
    let all_there = missing.is_empty();
    for path in strays {
        let owner = if all_there { None } else { pack::owner(disk, &path, key) };
        if let Some(root) = owner.filter(|root| missing.contains(root)) {
            pack::settle_into(disk, &path, &pack::path(packs, key, &root))?;
            disk.sync_parent(&path)?;
            missing.remove(&root);
        } else if clean && (all_there || owner.is_some_and(|root| !kept(&root))) {
            disk.remove(&path)?;
        }
    }
    Ok(missing)
}
