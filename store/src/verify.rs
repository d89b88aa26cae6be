//! Verification: every file of the store against everything else that says the same.
//!
//! The caller drives it in small steps, so it can be throttled, shown and stopped; between two steps
//! nothing is held, and while a step reads no lock is. What another copy here knows is mended at
//! once; what is lost is named, for the caller to fetch ([`Outcome::Fetch`]) or to write anew from
//! its own memory ([`Outcome::Rewrite`]). Nothing that is not understood is ever deleted.
//!
//! What is checked, and what cannot be: `docs/protocol/store.md`, "Verification". View logs are
//! checked by [`crate::ViewLog::verify`], where they are open.

mod folders;
mod packs;

pub(crate) use packs::{repair, set_aside};

use crate::disk::{Disk, hold};
use crate::journal::{Contents, Snapshot};
use crate::keyfile;
use crate::object::ObjectInfo;
use crate::pack::check::PackCheck;
use crate::pack::format::Layout;
use crate::store::{Folded, Inner, index_dir};
use crate::{Store, StoreError};
use kith_crypto::content::{Geometry, Root};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

/// Blocks that one step reads: 1 MiB.
const BLOCKS_PER_STEP: u64 = 16;
/// How often what changed under the check is looked at again.
const TRIES: usize = 8;

/// What kind of file a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FileType {
    /// `store.key`.
    KeyFile,
    /// `journal/keys`.
    JournalKeys,
    /// A segment of the journal.
    Journal,
    /// A friend's view log.
    ViewLog,
    /// An object's pack.
    Pack,
    /// The index.
    Index,
    /// Nothing that the store knows.
    Other,
}

impl FileType {
    /// Its name, for people and scripts.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::KeyFile => "key file",
            Self::JournalKeys => "journal keys",
            Self::Journal => "journal",
            Self::ViewLog => "view log",
            Self::Pack => "pack",
            Self::Index => "index",
            Self::Other => "other",
        }
    }
}

/// What becomes of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was put right, from what else is here.
    Mended,
    /// Blocks of an object are gone: somebody who has it can give them again.
    Fetch,
    /// The caller knows the contents and writes them anew: [`Store::compact`],
    /// [`crate::ViewLog::rewrite`].
    Rewrite,
    /// It cannot be put right here.
    Lost,
    /// It could be put right, and nothing was changed because the caller or the disk does not allow it.
    Left,
    /// Not the store's. It is left alone.
    Foreign,
}

impl Outcome {
    /// Its name, for people and scripts.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mended => "mended",
            Self::Fetch => "to be fetched",
            Self::Rewrite => "to be written anew",
            Self::Lost => "lost",
            Self::Left => "left as it is",
            Self::Foreign => "not of the store",
        }
    }
}

/// A fault of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) what: &'static str,
    pub(crate) blocks: u64,
    pub(crate) outcome: Outcome,
}

impl Fault {
    const fn new(what: &'static str, outcome: Outcome) -> Self {
        Self { what, blocks: 0, outcome }
    }
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What kind of file.
    pub file: FileType,
    /// Where.
    pub path: PathBuf,
    /// The object whose file it is, if any.
    pub object: Option<Root>,
    /// What is wrong, in plain words.
    pub what: &'static str,
    /// Blocks that are gone.
    pub blocks: u64,
    /// What becomes of it.
    pub outcome: Outcome,
}

/// What to check.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// This object alone.
    pub only: Option<Root>,
    /// Objects after this one alone, and the rest of the store: to go on with a round.
    pub after: Option<Root>,
    /// Tell and change nothing.
    pub look_only: bool,
    /// The friends whose view logs are known; others' are told as foreign.
    pub friends: Vec<[u8; 32]>,
}

/// What one step did.
#[derive(Debug, Default)]
pub struct Checked {
    /// Bytes that were checked.
    pub bytes: u64,
    /// What was found.
    pub findings: Vec<Finding>,
    /// An object whose check is over, with nothing lost or something.
    pub object: Option<Root>,
}

#[derive(Debug)]
enum Task {
    KeyFile,
    JournalKeys,
    Journal,
    Folders,
    Object(Root, u64),
}

/// A verification under way. It keeps the store open.
#[derive(Debug)]
pub struct Verify {
    inner: Arc<Inner>,
    todo: VecDeque<Task>,
    current: Option<(ObjectInfo, PackCheck)>,
    look_only: bool,
    friends: Vec<[u8; 32]>,
    total_bytes: u64,
    objects: u64,
}

/// Bytes of an object's pack.
fn pack_bytes(info: &ObjectInfo) -> u64 {
    Geometry::of(info.data_count).map_or(0, |geometry| Layout::of(geometry).file_len())
}

impl Store {
    /// Begins a verification; [`Verify::step`] does the work. An error when nobody can say what is kept:
    /// a check of nothing would find nothing.
    pub fn verify(&self, scope: &Scope) -> Result<Verify, StoreError> {
        let inner = Arc::clone(&self.inner);
        let chosen = |info: &ObjectInfo| {
            scope.only.is_none_or(|root| root == info.root) && scope.after.is_none_or(|root| root < info.root)
        };
        let objects: Vec<Task> = inner
            .kept()?
            .iter()
            .filter(|info| chosen(info))
            .map(|info| Task::Object(info.root, pack_bytes(info)))
            .collect();
        let mut todo = VecDeque::new();
        if scope.only.is_none() {
            todo.extend([Task::KeyFile, Task::JournalKeys, Task::Journal, Task::Folders]);
        }
        let count = objects.len() as u64;
        todo.extend(objects);
        let total_bytes = todo.iter().map(|task| task.bytes(&inner)).sum();
        let look_only = scope.look_only || inner.disk.is_read_only();
        let friends = scope.friends.clone();
        Ok(Verify { todo, friends, total_bytes, objects: count, ..Verify::nothing_yet(inner, look_only) })
    }
}

impl Task {
    fn bytes(&self, inner: &Inner) -> u64 {
        match self {
            Self::Object(_, bytes) => *bytes,
            Self::Journal => inner.journal_bytes.load(std::sync::atomic::Ordering::Relaxed),
            _ => 0,
        }
    }
}

impl Verify {
    /// Bytes to check in all, as far as it was known at the start.
    pub const fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// Objects to check in all.
    pub const fn object_count(&self) -> u64 {
        self.objects
    }

    /// Checks about a MiB, or one small file. `None`: everything was checked.
    pub fn step(&mut self) -> Option<Checked> {
        if let Some((info, check)) = self.current.take() {
            return Some(self.go_on(info, check));
        }
        let task = self.todo.pop_front()?;
        let mut checked = Checked { bytes: task.bytes(&self.inner), ..Checked::default() };
        match task {
            Task::KeyFile => checked.findings.extend(self.key_file()),
            Task::JournalKeys => checked.findings.extend(self.journal_keys()),
            Task::Journal => checked.findings.extend(self.journal()),
            Task::Folders => checked.findings.extend(self.folders()),
            Task::Object(root, _) => return Some(self.begin_object(root)),
        }
        Some(checked)
    }

    fn nothing_yet(inner: Arc<Inner>, look_only: bool) -> Self {
        let todo = VecDeque::new();
        Self { inner, todo, current: None, look_only, friends: Vec::new(), total_bytes: 0, objects: 0 }
    }

    fn disk(&self) -> &Disk {
        &self.inner.disk
    }

    /// What mending came to.
    fn mend(&self, put_right: impl FnOnce() -> Result<(), StoreError>) -> Outcome {
        if self.look_only || put_right().is_err() { Outcome::Left } else { Outcome::Mended }
    }

    fn key_file(&self) -> Option<Finding> {
        let path = keyfile::path(&self.inner.dir);
        let what = match self.disk().read(&path) {
            Ok(bytes) if bytes == self.inner.key_file => match self.is_private(&path) {
                true => return None,
                false => "other users could reach it",
            },
            Ok(_) => "it is not the file that opened this store",
            Err(e) if e.is_missing() => "it is missing",
            Err(_) => "it cannot be read",
        };
        let outcome = self.mend(|| {
            self.disk().check()?;
            self.disk().replace(&path, &self.inner.key_file)
        });
        Some(Finding { file: FileType::KeyFile, path, object: None, what, blocks: 0, outcome })
    }

    fn is_private(&self, path: &std::path::Path) -> bool {
        let file = self.disk().open(path);
        file.is_ok_and(|file| file.mode().is_ok_and(|mode| mode & 0o077 == 0))
    }

    fn snapshot(&self) -> Snapshot {
        hold(&self.inner.journal).snapshot()
    }

    fn journal_keys(&self) -> Option<Finding> {
        for _ in 0..TRIES {
            let snapshot = self.snapshot();
            let what = match snapshot.keys_are_whole(self.disk()) {
                Ok(true) => return None,
                _ if !snapshot.is(&self.snapshot()) => continue,
                Ok(false) => "it names other segments or keys",
                Err(e) if e.is_missing() => "it is missing",
                Err(_) => "its contents fail their check",
            };
            let outcome = self.mend(|| hold(&self.inner.journal).rewrite_keys());
            let (file, path) = (FileType::JournalKeys, snapshot.keys_path());
            return Some(Finding { file, path, object: None, what, blocks: 0, outcome });
        }
        None // it is written anew all the time, so it is written well
    }

    /// The journal against what this process wrote, and the index against the journal.
    fn journal(&self) -> Vec<Finding> {
        for _ in 0..TRIES {
            let before = self.snapshot();
            let (bad, contents) = before.read(self.disk());
            if !before.is(&self.snapshot()) {
                continue; // something was written meanwhile
            }
            if bad.is_empty() {
                return self.index(contents).into_iter().collect();
            }
            return bad.into_iter().map(|(path, why)| self.journal_finding(path, why)).collect();
        }
        Vec::new() // it is written to all the time, and the next round looks again
    }

    /// The index against what the journal said a moment ago; a difference is looked at again while
    /// nothing changes.
    fn index(&self, contents: Contents) -> Option<Finding> {
        if !self.index_differs(contents) {
            return None;
        }
        let still = {
            let _settled = hold(&self.inner.changes);
            let (bad, contents) = self.snapshot().read(self.disk());
            bad.is_empty() && self.index_differs(contents)
        };
        still.then(|| self.index_finding())
    }

    fn journal_finding(&self, path: PathBuf, why: Option<StoreError>) -> Finding {
        let what = match why {
            _ if self.inner.lost_rows => "records were lost before this start",
            None => "records are damaged or missing",
            Some(e) if e.is_missing() => "it is missing",
            Some(_) => "it cannot be read",
        };
        // What was lost before the start nobody here knows.
        let outcome = match (self.inner.lost_rows, self.look_only) {
            (true, _) => Outcome::Lost,
            (false, true) => Outcome::Left,
            (false, false) => Outcome::Rewrite,
        };
        Finding { file: FileType::Journal, path, object: None, what, blocks: 0, outcome }
    }

    fn index_differs(&self, journal: Contents) -> bool {
        let rows = self.inner.ask(|index| index.objects()).unwrap_or_default();
        let folded = Folded::of(journal);
        (folded.damaged > 0 && !self.inner.lost_rows) || !rows.iter().eq(folded.objects.values())
    }

    fn index_finding(&self) -> Finding {
        let outcome = self.mend(|| self.inner.reindex(&|_, _| {}).map(drop));
        let (file, path) = (FileType::Index, index_dir(&self.inner.dir));
        let what = "it differs from the journal";
        Finding { file, path, object: None, what, blocks: 0, outcome }
    }
}
