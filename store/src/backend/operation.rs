//! What backends that break down on purpose count: one operation each time the disk is asked.

use std::path::PathBuf;

/// What was asked of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "named as the methods of `Backend` and `File`")]
pub enum Verb {
    Create,
    Open,
    Kind,
    Rename,
    Link,
    Remove,
    MakeDir,
    RemoveDir,
    List,
    SyncDir,
    Lock,
    ReadAt,
    WriteAt,
    Len,
    SetLen,
    Sync,
    Mode,
}

impl Verb {
    /// Whether it may need room on the disk, and so may be refused when there is none.
    pub const fn needs_room(self) -> bool {
        matches!(self, Self::Create | Self::Rename | Self::Link | Self::MakeDir | Self::WriteAt)
    }

    /// Whether it makes something durable.
    pub const fn is_sync(self) -> bool {
        matches!(self, Self::Sync | Self::SyncDir)
    }
}

/// One operation, as messages name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Its number, counted from 1.
    pub number: u64,
    /// What was asked.
    pub verb: Verb,
    /// The file or folder; of a rename or link the new name.
    pub path: PathBuf,
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "operation {} ({:?} of {})", self.number, self.verb, self.path.display())
    }
}
