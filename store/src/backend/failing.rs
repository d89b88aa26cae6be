//! A disk on which one operation fails, once or from then on.
//!
//! Wraps any backend and counts every call that a disk could refuse, reading ones too. What did not
//! fail goes to the backend below. A failed operation leaves it unchanged, but for a short write,
//! which leaves the first half of its bytes. (What a failed sync does to the data is the matter of
//! [`Crashing::fail_sync_at`](super::Crashing::fail_sync_at).)

use super::{Backend, File, Held, Kind, Operation, Verb};
use crate::StoreError;
use crate::disk::hold;
use rustix::io::Errno;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Any operation: an error of the device (EIO).
    Io,
    /// Operations that may need room: no space left (ENOSPC).
    Full,
    /// Syncs: no space left, as file systems say that choose the places of new data late.
    FullAtSync,
    /// Writes: half of the bytes are written, then an error of the device.
    ShortIo,
    /// Writes: half of the bytes are written, then no space is left.
    ShortFull,
}

impl Fault {
    /// Whether an operation of this kind can fail so.
    pub const fn fits(self, verb: Verb) -> bool {
        match self {
            Self::Io => true,
            Self::Full => verb.needs_room(),
            Self::FullAtSync => verb.is_sync(),
            Self::ShortIo | Self::ShortFull => matches!(verb, Verb::WriteAt),
        }
    }

    const fn is_short(self) -> bool {
        matches!(self, Self::ShortIo | Self::ShortFull)
    }

    fn error(self) -> io::Error {
        match self {
            Self::Io | Self::ShortIo => Errno::IO.into(),
            Self::Full | Self::FullAtSync | Self::ShortFull => Errno::NOSPC.into(),
        }
    }
}

/// How long a fault lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasting {
    /// One operation fails.
    Once,
    /// All operations that can fail so do, until [`Failing::heal`].
    UntilHealed,
}

#[derive(Debug)]
struct Plan {
    from: u64,
    fault: Fault,
    lasting: Lasting,
}

#[derive(Debug, Default)]
struct State {
    operations: u64,
    plan: Option<Plan>,
    failed: Option<Operation>,
}

impl State {
    /// Counts an operation; tells how it fails, if it does.
    fn count(&mut self, verb: Verb, path: &Path) -> Option<Fault> {
        self.operations += 1;
        let plan = self.plan.as_ref()?;
        if self.operations < plan.from || !plan.fault.fits(verb) {
            return None;
        }
        let fault = plan.fault;
        if plan.lasting == Lasting::Once {
            self.plan = None;
        }
        let operation = Operation { number: self.operations, verb, path: path.to_owned() };
        self.failed.get_or_insert(operation);
        Some(fault)
    }
}

/// A backend over another one that fails where it is told to. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct Failing {
    below: Arc<dyn Backend>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct FailingFile {
    path: PathBuf,
    file: Box<dyn File>,
    state: Arc<Mutex<State>>,
}

impl Failing {
    /// A disk that works, so far.
    pub fn over(below: Arc<dyn Backend>) -> Self {
        Self { below, state: Arc::default() }
    }

    /// Lets the first operation from number `from` on (counted from 1) that can fail so fail.
    pub fn fail_at(&self, from: u64, fault: Fault, lasting: Lasting) {
        hold(&self.state).plan = Some(Plan { from, fault, lasting });
    }

    /// Nothing fails from now on.
    pub fn heal(&self) {
        hold(&self.state).plan = None;
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        hold(&self.state).operations
    }

    /// The first operation that failed.
    pub fn failed(&self) -> Option<Operation> {
        hold(&self.state).failed.clone()
    }

    fn check(&self, verb: Verb, path: &Path) -> io::Result<()> {
        hold(&self.state).count(verb, path).map_or(Ok(()), |fault| Err(fault.error()))
    }

    fn wrap(&self, path: &Path, file: Box<dyn File>) -> Box<dyn File> {
        Box::new(FailingFile { path: path.to_owned(), file, state: Arc::clone(&self.state) })
    }
}

impl FailingFile {
    fn count(&self, verb: Verb) -> Option<Fault> {
        hold(&self.state).count(verb, &self.path)
    }

    fn check(&self, verb: Verb) -> io::Result<()> {
        self.count(verb).map_or(Ok(()), |fault| Err(fault.error()))
    }
}

impl File for FailingFile {
    fn read_at(&self, at: u64, len: usize) -> io::Result<Vec<u8>> {
        self.check(Verb::ReadAt)?;
        self.file.read_at(at, len)
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let Some(fault) = self.count(Verb::WriteAt) else { return self.file.write_at(at, bytes) };
        if fault.is_short()
            && let Some(half) = bytes.get(..bytes.len() / 2)
        {
            self.file.write_at(at, half)?;
        }
        Err(fault.error())
    }

    fn len(&self) -> io::Result<u64> {
        self.check(Verb::Len)?;
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check(Verb::SetLen)?;
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.check(Verb::Sync)?;
        self.file.sync()
    }

    fn mode(&self) -> io::Result<u32> {
        self.check(Verb::Mode)?;
        self.file.mode()
    }

    fn settle(&self) {
        self.file.settle();
    }
}

impl Backend for Failing {
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.check(Verb::Create, path)?;
        Ok(self.wrap(path, self.below.create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.check(Verb::Open, path)?;
        Ok(self.wrap(path, self.below.open(path)?))
    }

    fn kind(&self, path: &Path) -> io::Result<Kind> {
        self.check(Verb::Kind, path)?;
        self.below.kind(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check(Verb::Rename, to)?;
        self.below.rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check(Verb::Link, to)?;
        self.below.link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.check(Verb::Remove, path)?;
        self.below.remove(path)
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.check(Verb::MakeDir, path)?;
        self.below.make_dir(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.check(Verb::RemoveDir, path)?;
        self.below.remove_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<(PathBuf, Kind)>> {
        self.check(Verb::List, dir)?;
        self.below.list(dir)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.check(Verb::SyncDir, path)?;
        self.below.sync_dir(path)
    }

    fn lock(&self, dir: &Path) -> Result<Box<dyn Held>, StoreError> {
        self.check(Verb::Lock, dir).map_err(|e| StoreError::io(&dir.join("lock"), e))?;
        self.below.lock(dir)
    }

    fn used_bytes(&self, dir: &Path) -> u64 {
        self.below.used_bytes(dir)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.below.free_bytes(dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Memory;

    const DIR: &str = "/d";

    fn disk() -> Failing {
        let memory = Memory::default();
        memory.make_dir(Path::new(DIR)).unwrap();
        Failing::over(Arc::new(memory))
    }

    #[test]
    fn the_operation_that_was_chosen_fails_and_is_named() {
        let (disk, path) = (disk(), Path::new("/d/f"));
        disk.fail_at(3, Fault::Io, Lasting::Once);
        let file = disk.create(path).unwrap();
        file.write_at(0, b"abc").unwrap();
        assert_eq!(file.sync().unwrap_err().raw_os_error(), Some(Errno::IO.raw_os_error()));
        file.sync().unwrap();
        let failed = disk.failed().unwrap();
        assert_eq!(failed.to_string(), "operation 3 (Sync of /d/f)");
        assert_eq!(disk.operations(), 4);
    }

    #[test]
    fn a_full_disk_can_still_be_read_until_there_is_room() {
        let disk = disk();
        let file = disk.create(Path::new("/d/f")).unwrap();
        file.write_at(0, b"abc").unwrap();
        disk.fail_at(0, Fault::Full, Lasting::UntilHealed);
        for _ in 0..2 {
            let error = file.write_at(3, b"def").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
            assert_eq!(file.read_at(0, 3).unwrap(), b"abc");
            assert_eq!(file.len().unwrap(), 3);
        }
        disk.heal();
        file.write_at(3, b"def").unwrap();
    }

    #[test]
    fn a_short_write_leaves_half() {
        let disk = disk();
        disk.fail_at(0, Fault::ShortFull, Lasting::Once);
        let file = disk.create(Path::new("/d/f")).unwrap();
        assert!(file.write_at(0, b"abcdef").is_err());
        assert_eq!(file.read_at(0, 3).unwrap(), b"abc");
        assert_eq!(file.len().unwrap(), 3);
    }
}
