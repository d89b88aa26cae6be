//! The operating system's files.
//!
//! Invariant: every file is created with mode 0600 and every folder with 0700, and links are not
//! followed.

use super::{Backend, File, Held, Kind};
use crate::StoreError;
use crate::disk::hold;
use crate::lock::Lock;
use std::fs::{DirBuilder, FileTimes, FileType, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::UNIX_EPOCH;

/// Real files.
#[derive(Clone, Copy, Debug, Default)]
pub struct Real;

#[derive(Debug)]
struct RealFile(std::fs::File);

impl Held for Lock {}

/// A descriptor of this process that is given up for [`Backend::sync_dir`] when there is no other.
static SPARE: Mutex<Option<std::fs::File>> = Mutex::new(None);

fn spare_descriptor() -> Option<std::fs::File> {
    std::fs::File::open("/dev/null").ok()
}

/// Whether the process or the system has as many files open as it may.
pub(crate) fn is_want_of_descriptors(e: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE].map(|errno| Some(errno.raw_os_error())).contains(&e.raw_os_error())
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

/// A file that is there or not, for the lock.
pub(crate) fn open_or_create(path: &Path) -> io::Result<std::fs::File> {
    options().create(true).truncate(false).open(path)
}

/// See [`File::settle`].
pub(crate) fn settle(file: &std::fs::File) {
    let _ = file.set_times(FileTimes::new().set_modified(UNIX_EPOCH).set_accessed(UNIX_EPOCH));
}

fn kind_of(kind: FileType) -> Kind {
    match kind {
        kind if kind.is_file() => Kind::File,
        kind if kind.is_dir() => Kind::Folder,
        _ => Kind::Other,
    }
}

/// A file that takes no byte because the disk is full.
#[cfg(test)]
pub(crate) fn full() -> Box<dyn File> {
    Box::new(RealFile(OpenOptions::new().write(true).open("/dev/full").unwrap()))
}

/// A file that can be read only.
#[cfg(test)]
pub(crate) fn unwritable(path: &Path) -> Box<dyn File> {
    Box::new(RealFile(std::fs::File::open(path).unwrap()))
}

impl File for RealFile {
    /// Reads into memory that is not cleared before.
    fn read_at(&self, at: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let from = at + bytes.len() as u64;
            match rustix::io::pread(&self.0, rustix::buffer::spare_capacity(&mut bytes), from) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        bytes.truncate(len); // the allocator may have given more room than asked
        Ok(bytes)
    }

    fn will_read(&self, at: u64, len: u64) {
        let _ = rustix::fs::fadvise(&self.0, at, std::num::NonZero::new(len), rustix::fs::Advice::WillNeed);
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, at)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn forget(&self, at: u64, len: u64) {
        let len = std::num::NonZeroU64::new(len);
        // What was written and not synced stays in the cache, so nothing can be lost by this.
        let _ = rustix::fs::fadvise(&self.0, at, len, rustix::fs::Advice::DontNeed);
    }

    fn mode(&self) -> io::Result<u32> {
        Ok(self.0.metadata()?.permissions().mode())
    }

    fn settle(&self) {
        settle(&self.0);
    }
}

impl Backend for Real {
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(Box::new(RealFile(options().create_new(true).open(path)?)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        // A file system that has become read-only still serves what it has; writing then fails as on
        // any bad disk.
        let file = match options().open(path) {
            Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => options().write(false).open(path),
            other => other,
        };
        Ok(Box::new(RealFile(file?)))
    }

    fn kind(&self, path: &Path) -> io::Result<Kind> {
        Ok(kind_of(path.symlink_metadata()?.file_type()))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<(PathBuf, Kind)>> {
        let entry = |e: std::fs::DirEntry| Ok((e.path(), kind_of(e.file_type()?)));
        std::fs::read_dir(dir)?.map(|e| entry(e?)).collect()
    }

    /// Where no descriptor is left the one that was kept for this is used: a rename whose folder cannot
    /// be synced would end all writing.
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let open = || std::fs::File::open(path);
        match open() {
            Err(e) if is_want_of_descriptors(&e) => {
                let mut spare = hold(&SPARE);
                drop(spare.take());
                let synced = open().and_then(|folder| folder.sync_all());
                *spare = spare_descriptor();
                synced
            }
            folder => folder?.sync_all(),
        }
    }

    fn lock(&self, dir: &Path) -> Result<Box<dyn Held>, StoreError> {
        let mut spare = hold(&SPARE);
        *spare = spare.take().or_else(spare_descriptor);
        drop(spare);
        Ok(Box::new(Lock::take(dir)?))
    }

    fn used_bytes(&self, dir: &Path) -> u64 {
        let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
        entries
            .flatten()
            .map(|entry| match entry.metadata() {
                Ok(m) if m.is_dir() => self.used_bytes(&entry.path()),
                Ok(m) => m.blocks() * 512,
                Err(_) => 0, // removed meanwhile
            })
            .sum()
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let fs = rustix::fs::statvfs(dir)?;
        Ok(fs.f_bavail.saturating_mul(fs.f_frsize))
    }

    fn is_real(&self) -> bool {
        true
    }
}
