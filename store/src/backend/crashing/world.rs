//! The disk itself: names and contents, what of them is durable, and what is not yet.

use super::super::memory::Content;
use super::super::{Operation, Verb};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

/// What stands under a name: a folder, or a file by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Folder,
    File(usize),
}

pub(super) type Names = BTreeMap<PathBuf, Node>;

/// A change of a file that no sync has covered.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Write { at: u64, bytes: Vec<u8> },
    SetLen(u64),
}

impl Change {
    pub(super) fn apply(&self, content: &mut Content) {
        match self {
            Self::Write { at, bytes } => content.write(*at, bytes),
            Self::SetLen(len) => content.set_len(*len),
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    /// What programs see.
    pub(super) cache: Content,
    /// What the last sync promised.
    pub(super) durable: Content,
    pub(super) unsynced: Vec<Change>,
    /// How many of the unsynced changes a failed sync has given up: no later sync saves them.
    pub(super) given_up: usize,
}

impl Inode {
    pub(super) fn change(&mut self, change: Change) {
        change.apply(&mut self.cache);
        self.unsynced.push(change);
    }

    pub(super) fn sync(&mut self) {
        let kept = self.unsynced.split_off(self.given_up.min(self.unsynced.len()));
        kept.iter().for_each(|change| change.apply(&mut self.durable));
    }
}

/// A change of a name that no sync has covered.
#[derive(Clone, Debug)]
pub(super) struct NameChange {
    pub(super) path: PathBuf,
    /// What the name has from then on.
    pub(super) node: Option<Node>,
    /// Both halves of a rename bear one number.
    pub(super) rename: Option<u64>,
    pub(super) given_up: bool,
}

/// Which syncs do nothing and say they did.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lies {
    pub(super) files: bool,
    pub(super) folders: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct World {
    pub(super) inodes: Vec<Inode>,
    pub(super) names: Names,
    pub(super) durable_names: Names,
    pub(super) unsynced_names: Vec<NameChange>,
    pub(super) renames: u64,
    pub(super) locked: BTreeSet<PathBuf>,
    pub(super) lies: Lies,
    pub(super) operations: u64,
    pub(super) off_at: Option<u64>,
    pub(super) stopped: Option<Operation>,
    /// What the operation during which the power went had still to do.
    pub(super) rest_of_write: Option<(usize, Change)>,
    pub(super) rest_of_names: Vec<NameChange>,
    pub(super) fail_sync_at: Option<u64>,
    pub(super) failed: Option<Operation>,
}

/// How an operation ends.
pub(super) enum Fate {
    Done,
    /// The power goes while it is under way: any part of it may have happened, and nobody hears.
    Interrupted,
    FailedSync,
}

pub(super) fn gone<T>() -> io::Result<T> {
    Err(Errno::IO.into())
}

impl World {
    /// Counts an operation.
    pub(super) fn begin(&mut self, verb: Verb, path: &Path) -> io::Result<Fate> {
        if self.stopped.is_some() {
            return gone();
        }
        self.operations += 1;
        let operation = || Operation { number: self.operations, verb, path: path.to_owned() };
        if self.off_at.is_some_and(|at| self.operations >= at) {
            self.stopped = Some(operation());
            return Ok(Fate::Interrupted);
        }
        if verb.is_sync() && self.fail_sync_at.is_some_and(|at| self.operations >= at) {
            self.failed = Some(operation());
            self.fail_sync_at = None;
            return Ok(Fate::FailedSync);
        }
        Ok(Fate::Done)
    }

    /// Counts an operation that changes nothing.
    pub(super) fn look(&mut self, verb: Verb, path: &Path) -> io::Result<()> {
        match self.begin(verb, path)? {
            Fate::Done => Ok(()),
            Fate::Interrupted | Fate::FailedSync => gone(),
        }
    }

    pub(super) fn inode(&mut self, number: usize) -> io::Result<&mut Inode> {
        self.inodes.get_mut(number).ok_or_else(|| Errno::IO.into())
    }

    pub(super) fn write(&mut self, path: &Path, number: usize, at: u64, bytes: &[u8]) -> io::Result<()> {
        let fate = self.begin(Verb::WriteAt, path)?;
        // A kill in the middle of a write leaves the part that was copied by then.
        let now = if matches!(fate, Fate::Done) { bytes.len() } else { bytes.len() / 2 };
        let (done, rest) = bytes.split_at_checked(now).unwrap_or((bytes, &[]));
        self.inode(number)?.change(Change::Write { at, bytes: done.to_vec() });
        if rest.is_empty() {
            return Ok(());
        }
        let rest = Change::Write { at: at + now as u64, bytes: rest.to_vec() };
        self.rest_of_write = Some((number, rest));
        gone()
    }

    pub(super) fn set_len(&mut self, path: &Path, number: usize, len: u64) -> io::Result<()> {
        match self.begin(Verb::SetLen, path)? {
            Fate::Done => self.inode(number).map(|inode| inode.change(Change::SetLen(len))),
            _ => {
                self.rest_of_write = Some((number, Change::SetLen(len)));
                gone()
            }
        }
    }

    /// Makes changes of names, or leaves them open if the power just went.
    pub(super) fn change_names(&mut self, changes: Vec<(PathBuf, Option<Node>)>) -> io::Result<()> {
        let rename = (changes.len() > 1).then(|| {
            self.renames += 1;
            self.renames
        });
        let change = |(path, node)| NameChange { path, node, rename, given_up: false };
        let changes = changes.into_iter().map(change);
        if self.stopped.is_some() {
            self.rest_of_names.extend(changes);
            return gone();
        }
        for change in changes {
            set(&mut self.names, &change.path, change.node);
            self.unsynced_names.push(change);
        }
        Ok(())
    }

    pub(super) fn sync_file(&mut self, path: &Path, number: usize) -> io::Result<()> {
        let fate = self.begin(Verb::Sync, path)?;
        let lies = self.lies.files;
        let inode = self.inode(number)?;
        match fate {
            Fate::Done if lies => Ok(()),
            Fate::Done => {
                inode.sync();
                Ok(())
            }
            Fate::FailedSync => {
                inode.given_up = inode.unsynced.len();
                gone()
            }
            Fate::Interrupted => gone(),
        }
    }

    pub(super) fn sync_folder(&mut self, dir: &Path) -> io::Result<()> {
        match self.begin(Verb::SyncDir, dir)? {
            Fate::Done if self.lies.folders => Ok(()),
            Fate::Done => {
                self.save_names(dir);
                Ok(())
            }
            Fate::FailedSync => {
                let inside = self.unsynced_names.iter_mut().filter(|c| c.path.parent() == Some(dir));
                inside.for_each(|change| change.given_up = true);
                gone()
            }
            Fate::Interrupted => gone(),
        }
    }

    /// Makes the names in `dir` durable. Where a rename took one away from here, the other half is
    /// saved as well: the file cannot have neither name.
    pub(super) fn save_names(&mut self, dir: &Path) {
        let moved_away: BTreeSet<u64> = self
            .unsynced_names
            .iter()
            .filter(|c| c.path.parent() == Some(dir) && c.node.is_none() && !c.given_up)
            .filter_map(|c| c.rename)
            .collect();
        let saved = |c: &NameChange| {
            !c.given_up
                && (c.path.parent() == Some(dir) || c.rename.is_some_and(|id| moved_away.contains(&id)))
        };
        let mut left: Vec<NameChange> = Vec::new();
        for change in std::mem::take(&mut self.unsynced_names) {
            if !saved(&change) {
                left.push(change);
                continue;
            }
            set(&mut self.durable_names, &change.path, change.node);
            left.retain(|earlier| earlier.path != change.path);
            // What is left of a rename is the old name, which may stay or go by itself.
            left.iter_mut().filter(|c| c.rename == change.rename).for_each(|c| c.rename = None);
        }
        self.unsynced_names = left;
    }
}

pub(super) fn set(names: &mut Names, path: &Path, node: Option<Node>) {
    match node {
        Some(node) => drop(names.insert(path.to_owned(), node)),
        None => drop(names.remove(path)),
    }
}
