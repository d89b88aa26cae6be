//! Everything that can go wrong at rest, sorted by whose fault it is.
//!
//! Each variant's text is one plain line: what happened, where, and what to do next. Texts name
//! files of the store, never an object, a key or a friend.

use crate::ledger::Room;
use kith_crypto::content::Position;
use std::path::{Path, PathBuf};

/// Why the store could not do what it was asked.
#[derive(Debug)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process has the store open.
    Locked {
        /// The process that wrote the lock file, if it could be read.
        pid: Option<u32>,
        /// The lock file.
        path: PathBuf,
    },
    /// There is no store in this folder.
    NoStore {
        /// The folder.
        path: PathBuf,
    },
    /// The store or file to be created is there already.
    Exists {
        /// What is there.
        path: PathBuf,
    },
    /// The key file is locked with a passphrase and none was given.
    PassphraseNeeded,
    /// A passphrase was given and the key file has none.
    PassphraseNotUsed,
    /// The passphrase does not open the key file.
    WrongPassphrase {
        /// The key file.
        path: PathBuf,
    },
    /// An empty passphrase protects nothing.
    EmptyPassphrase,
    /// The file can be read or changed by other users.
    Permissions {
        /// The file.
        path: PathBuf,
    },
    /// The path is a symbolic link or no regular file.
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The file was written by a later release.
    NewerVersion {
        /// The file.
        path: PathBuf,
        /// The version that its header names.
        version: u8,
    },
    /// A file cannot be used as it stands.
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// One block of a pack failed its check. From now on it counts as absent.
    DamagedBlock(Position),
    /// The disk is full. Nothing that was promised is lost; once there is room it goes on.
    Full {
        /// The file that could not grow.
        path: PathBuf,
        /// Bytes that were to be written.
        needed: u64,
        /// Bytes that are free.
        available: u64,
    },
    /// The limits that the user set leave no room, whatever gives way.
    NoRoom {
        /// Which limit.
        what: Room,
        /// Bytes that were to be kept.
        needed: u64,
        /// Bytes that could be had for them.
        available: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A write failed earlier, so nothing is written any more until the store is opened again.
    ReadOnly,
    /// The store does not hold this object, or not this block of it.
    NotFound,
    /// The caller broke a rule of this crate.
    Misuse(&'static str),
    /// No more files can be open at the same time. Nothing was done, and nothing is doubted.
    NoDescriptors {
        /// The file that could not be opened.
        path: PathBuf,
    },
    /// The operating system refused.
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Its answer.
        source: std::io::Error,
    },
}

impl StoreError {
    /// Sorts an answer of the operating system about `path`.
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        if crate::backend::is_want_of_descriptors(&source) {
            return Self::NoDescriptors { path: path.to_owned() };
        }
        match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Self::Full { path: path.to_owned(), needed: 0, available: 0 }
            }
            _ => Self::Io { path: path.to_owned(), source },
        }
    }

    pub(crate) fn damaged(path: &Path, what: &'static str) -> Self {
        Self::Damaged { path: path.to_owned(), what }
    }

    /// Whether the operating system says that the path is not there.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }
}

/// Bytes for people, never rounded up to more than there is.
fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let unit = UNITS.into_iter().find(|(_, unit)| bytes >= *unit);
    unit.map_or_else(
        || format!("{bytes} bytes"),
        |(name, unit)| format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
    )
}

/// `path` in a form that a shell takes as one word.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    if text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+,@%".contains(c)) {
        return text;
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

impl std::fmt::Display for StoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Locked { pid: Some(pid), path } => {
                write!(f, "the store is in use by process {pid} ({}): stop that one first", path.display())
            }
            Self::Locked { pid: None, path } => {
                write!(f, "the store is in use by another process ({}): stop that one first", path.display())
            }
            Self::NoStore { path } => {
                write!(f, "there is no store in {}: create one first", path.display())
            }
            Self::Exists { path } => {
                write!(f, "{} is there already: choose another folder", path.display())
            }
            Self::PassphraseNeeded => f.write_str("this store is locked with a passphrase: give it"),
            Self::PassphraseNotUsed => f.write_str("this store has no passphrase: open it without one"),
            Self::WrongPassphrase { path } => {
                write!(f, "the passphrase does not open {}: try again", path.display())
            }
            Self::EmptyPassphrase => {
                f.write_str("the passphrase is empty: type one, or create the store without")
            }
            Self::Permissions { path } => {
                write!(f, "other users can reach the key file: run `chmod 600 {}`", quoted(path))
            }
            Self::NotAFile { path } => {
                write!(f, "{} is a symbolic link or not a file: put the file itself there", path.display())
            }
            Self::NewerVersion { path, version } => write!(
                f,
                "{} has format version {version}, written by a later release: install that release",
                path.display()
            ),
            Self::Damaged { path, what } => {
                write!(f, "{} is damaged ({what}): restore it from a backup", path.display())
            }
            Self::DamagedBlock(_) => {
                f.write_str("a block on disk is damaged: it will be fetched again; check the disk")
            }
            Self::Full { path, needed, available } => write!(
                f,
                "the disk is full: {} needed for {} and {} free; make room on it, for example by `kith store gc`",
                size(*needed),
                path.display(),
                size(*available)
            ),
            Self::NoRoom { what: Room::Disk, needed, available, limit } => write!(
                f,
                "{} needed and {} free beyond the {} that store.keep_free leaves on this disk: make room on it",
                size(*needed),
                size(*available),
                size(*limit)
            ),
            Self::NoRoom { what: Room::Share, needed, available, limit } => write!(
                f,
                "{} needed and {} available in the {} for copies of others: raise the quota",
                size(*needed),
                size(*available),
                size(*limit)
            ),
            Self::NoRoom { what: Room::Quota, needed, available, limit } => write!(
                f,
                "{} needed and {} available in the quota of {}: raise it, or remove or unpin videos",
                size(*needed),
                size(*available),
                size(*limit)
            ),
            Self::ReadOnly => {
                f.write_str("a write to disk failed and the store is read-only: check the disk, then restart")
            }
            Self::NotFound => f.write_str("the store does not hold this: fetch it first"),
            Self::Misuse(what) => write!(f, "wrong use of the store ({what}): please report it"),
            Self::NoDescriptors { path } => write!(
                f,
                "too many files are open to use {}: try again later, or raise the limit (ulimit -n)",
                path.display()
            ),
            Self::Io { path, source } => {
                write!(f, "cannot use {}: {source}", path.display())
            }
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_is_a_command_that_a_shell_takes() {
        let plain = StoreError::Permissions { path: "/home/ana/.kith/store.key".into() };
        assert!(plain.to_string().contains("`chmod 600 /home/ana/.kith/store.key`"));
        let odd = StoreError::Permissions { path: "/tmp/it's here/k".into() };
        assert!(odd.to_string().contains("`chmod 600 '/tmp/it'\\''s here/k'`"));
    }

    #[test]
    fn a_full_disk_is_told_apart() {
        for errno in [rustix::io::Errno::NOSPC, rustix::io::Errno::DQUOT] {
            let error = StoreError::io(Path::new("x"), errno.into());
            assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
        }
        assert!(matches!(
            StoreError::io(Path::new("x"), rustix::io::Errno::IO.into()),
            StoreError::Io { .. }
        ));
    }
}
