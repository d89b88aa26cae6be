//! The store's handle on its disk: a backend, and whether writing is still allowed.
//!
//! Invariant: a name that was made, changed or removed is durable once its folder was synced, and
//! after one failed write or sync of the truth nothing is written any more. What stands inside the
//! files belongs to the callers.

use crate::StoreError;
use crate::backend::{Backend, File, Kind, Real};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Names the path that an answer of the operating system is about.
pub(crate) trait At<T> {
    fn at(self, path: &Path) -> Result<T, StoreError>;
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, path: &Path) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::io(path, source))
    }
}

/// A backend with its health. Clones share both. One failed write or sync of the truth ends writing
/// for good: after a failed fsync nobody knows what the disk holds, and a second fsync may claim
/// success wrongly.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    backend: Arc<dyn Backend>,
    /// Why nothing is written any more, once that is so.
    read_only: Arc<OnceLock<String>>,
}

impl Disk {
    pub(crate) fn new(backend: Arc<dyn Backend>) -> Self {
        Self { backend, read_only: Arc::default() }
    }

    /// The operating system's files.
    pub(crate) fn real() -> Self {
        Self::new(Arc::new(Real))
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        self.backend.as_ref()
    }

    // Health.

    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only.get().is_some()
    }

    /// Why nothing is written any more, if so.
    pub(crate) fn read_only_reason(&self) -> Option<&str> {
        self.read_only.get().map(String::as_str)
    }

    pub(crate) fn check(&self) -> Result<(), StoreError> {
        if self.is_read_only() { Err(StoreError::ReadOnly) } else { Ok(()) }
    }

    /// Passes `result` on; an error makes the store read-only. A file that could not be opened for want
    /// of descriptors is none: the disk was not asked.
    pub(crate) fn guard<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(e) = &result
            && !matches!(e, StoreError::NoDescriptors { .. })
        {
            // The first reason stands; what fails later follows from it.
            let _ = self.read_only.set(e.to_string());
        }
        result
    }

    /// Like [`Disk::guard`], for writes about which nothing was promised yet: there a full disk
    /// does no harm, and the store goes on once there is room again.
    pub(crate) fn guard_unless_full<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if matches!(result, Err(StoreError::Full { .. })) { result } else { self.guard(result) }
    }

    /// Says of a full disk how much was to be written and how much is free.
    pub(crate) fn measured<T>(&self, result: Result<T, StoreError>, bytes: u64) -> Result<T, StoreError> {
        result.map_err(|e| match e {
            StoreError::Full { path, .. } => {
                let available = path.parent().map_or(0, |dir| self.backend.free_bytes(dir).unwrap_or(0));
                StoreError::Full { path, needed: bytes, available }
            }
            other => other,
        })
    }

    // Names.

    /// Makes a folder (and its parents) with mode 0700; one that is there stays as it is.
    pub(crate) fn make_dir(&self, path: &Path) -> Result<(), StoreError> {
        if self.is_dir(path) {
            return Ok(()); // a full disk must not keep a store from being opened
        }
        self.backend.make_dir(path).at(path)
    }

    /// Makes the names inside a folder durable. A failure ends writing, even on a full disk: a second
    /// attempt would prove nothing, and what comes later may stand under these names.
    pub(crate) fn sync_dir(&self, path: &Path) -> Result<(), StoreError> {
        // What was not tried, for whatever reason, is not durable either.
        let synced = self.backend.sync_dir(path);
        self.guard(synced.map_err(|source| StoreError::Io { path: path.to_owned(), source }))
    }

    /// Makes the name of `path` durable.
    pub(crate) fn sync_parent(&self, path: &Path) -> Result<(), StoreError> {
        path.parent().map_or(Ok(()), |dir| self.sync_dir(dir))
    }

    /// A new file; one of that name must not be there.
    pub(crate) fn create_new(&self, path: &Path) -> Result<Box<dyn File>, StoreError> {
        self.backend.create(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::AlreadyExists => StoreError::Exists { path: path.to_owned() },
            _ => StoreError::io(path, e),
        })
    }

    /// A file that is there, for reading and writing.
    pub(crate) fn open(&self, path: &Path) -> Result<Box<dyn File>, StoreError> {
        self.backend.open(path).at(path)
    }

    /// A file that is there or not.
    pub(crate) fn open_or_create(&self, path: &Path) -> Result<Box<dyn File>, StoreError> {
        match self.open(path) {
            Err(e) if e.is_missing() => self.create_new(path),
            other => other,
        }
    }

    /// What has the name, if anything.
    pub(crate) fn kind(&self, path: &Path) -> Result<Option<Kind>, StoreError> {
        match self.backend.kind(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some).at(path),
        }
    }

    pub(crate) fn is_dir(&self, path: &Path) -> bool {
        matches!(self.backend.kind(path), Ok(Kind::Folder))
    }

    /// Whether anything has the name. Who would replace or forget what is there must not take an
    /// error for an answer.
    pub(crate) fn is_there(&self, path: &Path) -> Result<bool, StoreError> {
        self.kind(path).map(|kind| kind.is_some())
    }

    pub(crate) fn exists(&self, path: &Path) -> bool {
        self.backend.kind(path).is_ok()
    }

    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        self.backend.rename(from, to).at(to)
    }

    /// Removes a file; one that is not there is fine.
    pub(crate) fn remove(&self, path: &Path) -> Result<(), StoreError> {
        match self.backend.remove(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(StoreError::io(path, e)),
            _ => Ok(()),
        }
    }

    /// Removes an empty folder; one that is not empty stays.
    pub(crate) fn remove_dir(&self, path: &Path) -> Result<(), StoreError> {
        self.backend.remove_dir(path).at(path)
    }

    /// The paths inside a folder, sorted, with what they are; none if the folder is not there.
    pub(crate) fn list(&self, dir: &Path) -> Result<Vec<(PathBuf, Kind)>, StoreError> {
        let mut paths = match self.backend.list(dir) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.at(dir)?,
        };
        paths.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(paths)
    }

    // Whole files.

    pub(crate) fn read(&self, path: &Path) -> Result<Vec<u8>, StoreError> {
        let file = self.open(path)?;
        let len = usize::try_from(file.len().at(path)?).unwrap_or(usize::MAX);
        file.read_at(0, len).at(path)
    }

    /// Puts `bytes` in the place of `path` at once: a kill leaves the old file or the new one.
    pub(crate) fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let temp = beside(path);
        self.remove(&temp)?;
        let file = self.create_new(&temp)?;
        file.write_at(0, bytes).at(&temp)?;
        file.settle();
        file.sync().at(&temp)?;
        self.rename(&temp, path)?;
        self.sync_parent(path)
    }
}

/// Takes a lock. A thread that panicked left values that are valid on their own, so go on.
pub(crate) fn hold<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `N` bytes from the operating system's generator.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], StoreError> {
    let mut out = [0; N];
    fill_random(&mut out)?;
    Ok(out)
}

/// Any number of bytes from the operating system's generator.
pub(crate) fn fill_random(out: &mut [u8]) -> Result<(), StoreError> {
    getrandom::fill(out).map_err(|e| StoreError::Io {
        path: PathBuf::from("the system's random generator"),
        source: std::io::Error::other(e.to_string()),
    })
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        }
        text
    })
}

/// The first 16 of 32 bytes: enough for names and chain hashes, where nobody gains by a collision.
pub(crate) fn first16(full: &[u8; 32]) -> [u8; 16] {
    let mut out = [0; 16];
    out.iter_mut().zip(full).for_each(|(o, b)| *o = *b);
    out
}

/// Path of the file under which a replacement of `path` is prepared.
pub(crate) fn beside(path: &Path) -> PathBuf {
    path.with_added_extension("tmp")
}
