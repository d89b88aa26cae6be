//! The few ways in which this crate touches files and folders.
//!
//! Invariant: every file is created with mode 0600 and every folder with 0700, links are not
//! followed, and a name that was made, changed or removed is durable once the folder was synced.
//! What stands inside the files belongs to the callers.

use crate::StoreError;
use std::fs::{DirBuilder, File, FileTimes, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::UNIX_EPOCH;

/// Names the path that an answer of the operating system is about.
pub(crate) trait At<T> {
    fn at(self, path: &Path) -> Result<T, StoreError>;
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, path: &Path) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::io(path, source))
    }
}

/// Whether writing is still allowed. One failed write or sync of the truth ends it for good: after
/// a failed fsync nobody knows what the disk holds, and a second fsync may claim success wrongly.
#[derive(Debug, Default)]
pub(crate) struct Health(AtomicBool);

impl Health {
    pub(crate) fn is_read_only(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn check(&self) -> Result<(), StoreError> {
        if self.is_read_only() { Err(StoreError::ReadOnly) } else { Ok(()) }
    }

    /// Passes `result` on; an error makes the store read-only.
    pub(crate) fn guard<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if result.is_err() {
            self.0.store(true, Ordering::Release);
        }
        result
    }

    /// Like [`Health::guard`], for writes about which nothing was promised yet: there a full disk
    /// does no harm, and the store goes on once there is room again.
    pub(crate) fn guard_unless_full<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if matches!(result, Err(StoreError::Full { .. })) { result } else { self.guard(result) }
    }
}

/// Takes a lock. A thread that panicked left values that are valid on their own, so go on.
pub(crate) fn hold<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `N` bytes from the operating system's generator.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], StoreError> {
    let mut out = [0; N];
    getrandom::fill(&mut out).map_err(|e| StoreError::Io {
        path: PathBuf::from("the system's random generator"),
        source: std::io::Error::other(e.to_string()),
    })?;
    Ok(out)
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

/// Makes a folder (and its parents) with mode 0700; one that is there stays as it is.
pub(crate) fn make_dir(path: &Path) -> Result<(), StoreError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).at(path)
}

/// Makes the names inside a folder durable.
pub(crate) fn sync_dir(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|dir| dir.sync_all()).at(path)
}

/// Makes the name of `path` durable.
pub(crate) fn sync_parent(path: &Path) -> Result<(), StoreError> {
    path.parent().map_or(Ok(()), sync_dir)
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
    options
}

/// A new file; one of that name must not be there.
pub(crate) fn create_new(path: &Path) -> Result<File, StoreError> {
    options().create_new(true).open(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => StoreError::Exists { path: path.to_owned() },
        _ => StoreError::io(path, e),
    })
}

/// A file that is there, for reading and writing; for reading alone on a file system that has become
/// read-only, so that what is stored can still be served. Writing then fails as on any bad disk.
pub(crate) fn open(path: &Path) -> Result<File, StoreError> {
    match options().open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::ReadOnlyFilesystem => options().write(false).open(path),
        other => other,
    }
    .at(path)
}

/// A file that is there or not.
pub(crate) fn open_or_create(path: &Path) -> Result<File, StoreError> {
    options().create(true).truncate(false).open(path).at(path)
}

/// Gives a file the constant time stamp that all files of the store have when closed, so that a
/// seized disk does not tell when something was watched. A file system that cannot is no error.
pub(crate) fn settle(file: &File) {
    let _ = file.set_times(FileTimes::new().set_modified(UNIX_EPOCH).set_accessed(UNIX_EPOCH));
}

/// Path of the file under which a replacement of `path` is prepared.
pub(crate) fn beside(path: &Path) -> PathBuf {
    path.with_added_extension("tmp")
}

/// Puts `bytes` in the place of `path` at once: a kill leaves the old file or the new one.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let temp = beside(path);
    remove(&temp)?;
    let mut file = create_new(&temp)?;
    file.write_all(bytes).at(&temp)?;
    settle(&file);
    file.sync_all().at(&temp)?;
    std::fs::rename(&temp, path).at(path)?;
    sync_parent(path)
}

/// Removes a file; one that is not there is fine.
pub(crate) fn remove(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(StoreError::io(path, e)),
        _ => Ok(()),
    }
}

/// The paths inside a folder, sorted; none if the folder is not there.
pub(crate) fn list(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.at(dir)?,
    };
    let mut paths = entries.map(|e| e.map(|e| e.path()).at(dir)).collect::<Result<Vec<_>, StoreError>>()?;
    paths.sort();
    Ok(paths)
}

/// Bytes that the files below a folder take on disk (holes not counted).
pub(crate) fn used_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(m) if m.is_dir() => used_bytes(&entry.path()),
            Ok(m) => m.blocks() * 512,
            Err(_) => 0, // removed meanwhile
        })
        .sum()
}

/// Bytes that this user may still write to the file system of `dir`.
pub(crate) fn free_bytes(dir: &Path) -> u64 {
    rustix::fs::statvfs(dir).map_or(0, |fs| fs.f_bavail.saturating_mul(fs.f_frsize))
}
