//! A disk in memory that gets full, fails to sync, or is gone from one operation on.

use kith_store::StoreError;
use kith_store::backend::{Backend, File, Held, Kind, Memory};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Something to do before the next look into a folder.
type Meanwhile = Box<dyn FnOnce() + Send>;

struct Rules {
    /// Bytes that fit.
    capacity: AtomicU64,
    /// Free bytes that it tells, whatever is so.
    told_free: AtomicU64,
    meanwhile: Mutex<Option<(PathBuf, Meanwhile)>>,
    /// Changes so far.
    changes: AtomicU64,
    /// From this change on nothing changes any more: the process was killed.
    killed_at: AtomicU64,
    /// Every sync of a file fails.
    sync_fails: AtomicBool,
    /// Paths that were written since this was last asked.
    written: Mutex<Vec<PathBuf>>,
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rules").finish_non_exhaustive()
    }
}

impl Default for Rules {
    fn default() -> Self {
        let never = || AtomicU64::new(u64::MAX);
        Self {
            capacity: never(),
            told_free: never(),
            meanwhile: Mutex::default(),
            changes: AtomicU64::new(0),
            killed_at: never(),
            sync_fails: AtomicBool::new(false),
            written: Mutex::default(),
        }
    }
}

/// See above. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faulty {
    pub(crate) memory: Memory,
    rules: Arc<Rules>,
}

impl Faulty {
    pub(crate) fn on(memory: Memory) -> Self {
        Self { memory, rules: Arc::default() }
    }

    /// Everything that is there, and so many bytes more.
    pub(crate) fn leave_free(&self, bytes: u64) {
        let used = self.memory.used_bytes(Path::new("/"));
        self.rules.capacity.store(used + bytes, Ordering::Relaxed);
    }

    /// It has room for so many bytes in all.
    pub(crate) fn hold_at_most(&self, bytes: u64) {
        self.rules.capacity.store(bytes, Ordering::Relaxed);
    }

    /// It tells so many free bytes from now on, as one that gives space back late.
    pub(crate) fn tell_free(&self, bytes: u64) {
        self.rules.told_free.store(bytes, Ordering::Relaxed);
    }

    /// Does something just before that folder is looked into.
    pub(crate) fn before_list(&self, dir: &Path, what: impl FnOnce() + Send + 'static) {
        *self.rules.meanwhile.lock().unwrap() = Some((dir.to_owned(), Box::new(what)));
    }

    pub(crate) fn kill_at(&self, change: u64) {
        self.rules.killed_at.store(change, Ordering::Relaxed);
    }

    pub(crate) fn changes(&self) -> u64 {
        self.rules.changes.load(Ordering::Relaxed)
    }

    pub(crate) fn fail_syncs(&self, fail: bool) {
        self.rules.sync_fails.store(fail, Ordering::Relaxed);
    }

    /// What was written since the last call.
    pub(crate) fn take_written(&self) -> Vec<PathBuf> {
        std::mem::take(&mut *self.rules.written.lock().unwrap())
    }

    fn change(&self) -> io::Result<()> {
        let n = self.rules.changes.fetch_add(1, Ordering::Relaxed);
        if n >= self.rules.killed_at.load(Ordering::Relaxed) {
            return Err(io::Error::other("the process was killed"));
        }
        Ok(())
    }

    fn left(&self) -> u64 {
        let used = self.memory.used_bytes(Path::new("/"));
        self.rules.capacity.load(Ordering::Relaxed).saturating_sub(used)
    }
}

#[derive(Debug)]
struct FaultyFile {
    path: PathBuf,
    inner: Box<dyn File>,
    disk: Faulty,
}

impl File for FaultyFile {
    fn read_at(&self, at: u64, len: usize) -> io::Result<Vec<u8>> {
        self.inner.read_at(at, len)
    }
    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.change()?;
        // What is overwritten needs no room, a hole does. A full disk takes what still fits.
        let inside = self.inner.len()?.saturating_sub(at).min(bytes.len() as u64);
        let there = match inside {
            0 => Vec::new(),
            inside => self.inner.read_at(at, usize::try_from(inside).unwrap())?,
        };
        let holes: usize = there.chunks(4096).filter(|c| c.iter().all(|b| *b == 0)).map(<[u8]>::len).sum();
        let new = bytes.len() as u64 - inside + holes as u64;
        let short = new.saturating_sub(self.disk.left());
        let fits = bytes.len() - usize::try_from(short).unwrap().min(bytes.len());
        self.disk.rules.written.lock().unwrap().push(self.path.clone());
        self.inner.write_at(at, &bytes[..fits])?;
        if short > 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.change()?;
        self.inner.set_len(len)
    }
    fn sync(&self) -> io::Result<()> {
        self.disk.change()?;
        if self.disk.rules.sync_fails.load(Ordering::Relaxed) {
            return Err(io::Error::other("the disk does not answer"));
        }
        self.inner.sync()
    }
    fn mode(&self) -> io::Result<u32> {
        self.inner.mode()
    }
    fn settle(&self) {}
}

impl Faulty {
    fn file(&self, path: &Path, inner: Box<dyn File>) -> Box<dyn File> {
        Box::new(FaultyFile { path: path.to_owned(), inner, disk: self.clone() })
    }
}

impl Backend for Faulty {
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.change()?;
        Ok(self.file(path, self.memory.create(path)?))
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(self.file(path, self.memory.open(path)?))
    }
    fn kind(&self, path: &Path) -> io::Result<Kind> {
        self.memory.kind(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change()?;
        self.memory.rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change()?;
        self.memory.link(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change()?;
        self.memory.remove(path)
    }
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.change()?;
        self.memory.make_dir(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.change()?;
        self.memory.remove_dir(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<(PathBuf, Kind)>> {
        let due = self.rules.meanwhile.lock().unwrap().take_if(|(at, _)| at == dir);
        if let Some((_, what)) = due {
            what();
        }
        self.memory.list(dir)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.change()?;
        self.memory.sync_dir(path)
    }
    fn lock(&self, dir: &Path) -> Result<Box<dyn Held>, StoreError> {
        self.memory.lock(dir)
    }
    fn used_bytes(&self, dir: &Path) -> u64 {
        self.memory.used_bytes(dir)
    }
    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        match self.rules.told_free.load(Ordering::Relaxed) {
            u64::MAX => Ok(self.left()),
            told => Ok(told),
        }
    }
}
