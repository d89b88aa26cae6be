//! What the store asks of a disk, and four answers to it.
//!
//! The store touches files through [`Backend`] and [`File`] alone (sled's own files, which may be
//! lost at any time, excepted). [`Real`] is the operating system; [`Memory`] keeps everything in
//! memory; [`Crashing`] loses what was not synced when its power goes; [`Failing`] refuses an
//! operation. What a disk may do to its owner is told by the documentation of each method and
//! nothing else: data are safe after [`File::sync`] returned, names after [`Backend::sync_dir`].

mod crashing;
mod failing;
mod memory;
mod operation;
mod real;

pub use crashing::Crashing;
pub use failing::{Failing, Fault, Lasting};
pub use memory::Memory;
pub use operation::{Operation, Verb};
pub use real::Real;
#[cfg(test)]
pub(crate) use real::{full, unwritable};
pub(crate) use real::{is_want_of_descriptors, open_or_create, settle};

use crate::StoreError;
use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};

/// What stands under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A link, device or pipe: nothing that the store makes.
    Other,
}

/// A held lock. Dropping it frees the store.
pub trait Held: Send + Sync + Debug {}

/// One open file. All methods may be called from several threads.
pub trait File: Send + Sync + Debug {
    /// Exactly `len` bytes at `at`; `UnexpectedEof` where the file ends before.
    fn read_at(&self, at: u64, len: usize) -> io::Result<Vec<u8>>;
    /// Bytes that will be read soon, so that the disk can begin. Promises nothing.
    fn will_read(&self, _at: u64, _len: u64) {}
    /// Writes all of `bytes` at `at`, and makes the file longer where needed. After an error any
    /// part of them may be there.
    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Bytes of the file, holes included.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts the file, or makes it longer with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes contents and length durable (not the name). After an error nobody knows what is.
    fn sync(&self) -> io::Result<()>;
    /// These bytes (up to the end for 0) will not be read again soon: a cache in between need not keep
    /// them, and the next reading comes from the disk.
    fn forget(&self, _at: u64, _len: u64) {}
    /// Permission bits.
    fn mode(&self) -> io::Result<u32>;
    /// Gives the file the constant time stamp that all closed files of the store have. A file system
    /// that cannot is no error.
    fn settle(&self);
}

/// A file system.
pub trait Backend: Send + Sync + Debug {
    /// A new file of mode 0600; `AlreadyExists` if something has the name.
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>>;
    /// A file that is there, for reading and writing. Links are not followed.
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>>;
    /// What stands under a name, itself if it is a link.
    fn kind(&self, path: &Path) -> io::Result<Kind>;
    /// Gives a file another name, in the place of whatever has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// A second name for a file; `AlreadyExists` if something has it.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Takes the name of a file away.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes a folder of mode 0700, with those above it; one that is there is fine.
    fn make_dir(&self, path: &Path) -> io::Result<()>;
    /// Takes the name of an empty folder away. Where that cannot be, the folder stays and does no harm.
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let _ = path;
        Ok(())
    }
    /// The paths inside a folder with what they are, in any order.
    fn list(&self, dir: &Path) -> io::Result<Vec<(PathBuf, Kind)>>;
    /// Makes the names inside a folder durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// One holder at a time for the store in `dir`.
    fn lock(&self, dir: &Path) -> Result<Box<dyn Held>, StoreError>;
    /// Bytes that the files below a folder take, holes not counted.
    fn used_bytes(&self, dir: &Path) -> u64;
    /// Bytes that may still be written below `dir`.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
    /// Whether the operating system's own calls reach the paths, as sled needs.
    fn is_real(&self) -> bool {
        false
    }
}
