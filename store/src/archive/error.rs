//! Why an archive cannot be read, sorted by what its reader should do about it.

use crate::StoreError;
use kith_crypto::content::{Position, Root, TreeError};

/// Why an archive could not be written or read.
#[derive(Debug)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The file is something else.
    NotAnArchive,
    /// A later release wrote it, with this version.
    Newer(u8),
    /// The key or passphrase is another one.
    WrongKey,
    /// The file ends too early.
    Cut,
    /// The file was changed, or written wrongly by somebody with its key.
    Damaged(&'static str),
    /// A block is not the one that the object's tree names: whoever made the archive lied or erred.
    Block(Root, Position, TreeError),
    /// The store refused.
    Store(StoreError),
    /// The file could not be read or written.
    Io(std::io::Error),
}

impl std::fmt::Display for ArchiveError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotAnArchive => f.write_str("this is neither a backup nor a bundle of kith"),
            Self::Newer(version) => {
                write!(f, "a later release wrote it (format version {version}): install that release")
            }
            Self::WrongKey => f.write_str("the key does not open it"),
            Self::Cut => f.write_str("it is incomplete: a part of its end is missing"),
            Self::Damaged(what) => write!(f, "it is damaged ({what})"),
            Self::Block(_, position, why) => {
                let (level, index) = (position.level(), position.index());
                write!(f, "a block in it is not what it should be (level {level}, number {index}: {why})")
            }
            Self::Store(e) => e.fmt(f),
            Self::Io(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for ArchiveError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Store(e) => Some(e),
            Self::Io(e) => Some(e),
            _ => None,
        }
    }
}

impl From<std::io::Error> for ArchiveError {
    fn from(e: std::io::Error) -> Self {
        Self::Io(e)
    }
}

impl From<StoreError> for ArchiveError {
    fn from(e: StoreError) -> Self {
        Self::Store(e)
    }
}
