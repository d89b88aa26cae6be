//! A disk that loses power: only what was synced is sure to be there afterwards.
//!
//! Fault model (`docs/decisions/0034-fault-model-of-the-store.md`). A sync of a file makes its
//! contents and length durable, not its name. A sync of a folder makes the names in it durable, not
//! the contents, nor the name of the folder itself. Of everything else any part may survive:
//! - each sector (512 or 4096 bytes) of a file has what it had at some time since the last sync, one
//!   sector earlier, another later; a sector is never half written, and bytes that were not written
//!   to do not change ("powersafe overwrite" in SQLite's terms);
//! - the length is any that the file had since the last sync; where it grew without its data there
//!   are zeros, or what stood in that place of the disk before;
//! - each change of a name happened or not, whatever happened to those before it. A rename is one
//!   change: the new name has the old file or the new one. When the folder of the new name alone was
//!   synced, the old name may still be there too.
//!
//! Sources: SQLite, "Atomic Commit", section 2; Pillai et al., "All File Systems Are Not Created
//! Equal" (OSDI 2014), table 1; for failed syncs Rebello et al., "Can Applications Recover from fsync
//! Failures?" (ATC 2020). A file system keeps more promises than these, and which ones differs.

use super::memory::{Content, Parts};
use super::{Backend, File, Held, Kind, Memory, Operation, Verb};
use crate::StoreError;
use crate::disk::hold;
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// What stands under a name: a folder, or a file by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Folder,
    File(usize),
}

type Names = BTreeMap<PathBuf, Node>;

/// A change of a file that no sync has covered.
#[derive(Clone, Debug)]
enum Change {
    Write { at: u64, bytes: Vec<u8> },
    SetLen(u64),
}

impl Change {
    fn apply(&self, content: &mut Content) {
        match self {
            Self::Write { at, bytes } => content.write(*at, bytes),
            Self::SetLen(len) => content.set_len(*len),
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Inode {
    /// What programs see.
    cache: Content,
    /// What the last sync promised.
    durable: Content,
    unsynced: Vec<Change>,
    /// How many of the unsynced changes a failed sync has given up: no later sync saves them.
    given_up: usize,
}

impl Inode {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.cache);
        self.unsynced.push(change);
    }

    fn sync(&mut self) {
        let kept = self.unsynced.split_off(self.given_up.min(self.unsynced.len()));
        kept.iter().for_each(|change| change.apply(&mut self.durable));
    }
}

/// A change of a name that no sync has covered.
#[derive(Clone, Debug)]
struct NameChange {
    path: PathBuf,
    /// What the name has from then on.
    node: Option<Node>,
    /// Both halves of a rename bear one number.
    rename: Option<u64>,
    given_up: bool,
}

/// Which syncs do nothing and say they did.
#[derive(Clone, Copy, Debug, Default)]
struct Lies {
    files: bool,
    folders: bool,
}

#[derive(Clone, Debug, Default)]
struct World {
    inodes: Vec<Inode>,
    names: Names,
    durable_names: Names,
    unsynced_names: Vec<NameChange>,
    renames: u64,
    locked: BTreeSet<PathBuf>,
    lies: Lies,
    operations: u64,
    off_at: Option<u64>,
    stopped: Option<Operation>,
    /// What the operation during which the power went had still to do.
    rest_of_write: Option<(usize, Change)>,
    rest_of_names: Vec<NameChange>,
    fail_sync_at: Option<u64>,
    failed: Option<Operation>,
}

/// How an operation ends.
enum Fate {
    Done,
    /// The power goes while it is under way: any part of it may have happened, and nobody hears.
    Interrupted,
    FailedSync,
}

fn gone<T>() -> io::Result<T> {
    Err(Errno::IO.into())
}

impl World {
    /// Counts an operation.
    fn begin(&mut self, verb: Verb, path: &Path) -> io::Result<Fate> {
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
    fn look(&mut self, verb: Verb, path: &Path) -> io::Result<()> {
        match self.begin(verb, path)? {
            Fate::Done => Ok(()),
            Fate::Interrupted | Fate::FailedSync => gone(),
        }
    }

    fn inode(&mut self, number: usize) -> io::Result<&mut Inode> {
        self.inodes.get_mut(number).ok_or_else(|| Errno::IO.into())
    }

    fn write(&mut self, path: &Path, number: usize, at: u64, bytes: &[u8]) -> io::Result<()> {
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

    fn set_len(&mut self, path: &Path, number: usize, len: u64) -> io::Result<()> {
        match self.begin(Verb::SetLen, path)? {
            Fate::Done => self.inode(number).map(|inode| inode.change(Change::SetLen(len))),
            _ => {
                self.rest_of_write = Some((number, Change::SetLen(len)));
                gone()
            }
        }
    }

    /// Makes changes of names, or leaves them open if the power just went.
    fn change_names(&mut self, changes: Vec<(PathBuf, Option<Node>)>) -> io::Result<()> {
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

    fn sync_file(&mut self, path: &Path, number: usize) -> io::Result<()> {
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

    fn sync_folder(&mut self, dir: &Path) -> io::Result<()> {
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
    fn save_names(&mut self, dir: &Path) {
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

    /// The names as they may be after the power came back.
    fn names_after(&self, luck: Luck, dice: &mut Dice) -> Names {
        let mut names = self.durable_names.clone();
        let changes = self.unsynced_names.iter().chain(&self.rest_of_names);
        let prefix = dice.below(changes.clone().count() as u64 + 1);
        let each = dice.coin();
        let mut renames = BTreeMap::new();
        for (i, change) in changes.enumerate() {
            let drawn = match luck {
                Luck::Nothing => false,
                Luck::Everything => true,
                Luck::Drawn if each => dice.coin(),
                Luck::Drawn => (i as u64) < prefix,
            };
            let happened = match change.rename {
                Some(id) => *renames.entry(id).or_insert(drawn),
                None => drawn,
            };
            if happened {
                set(&mut names, &change.path, change.node);
            }
        }
        let is_reachable =
            |path: &Path| path.ancestors().skip(1).all(|dir| matches!(names.get(dir), Some(Node::Folder)));
        names.iter().filter(|(path, _)| is_reachable(path)).map(|(p, n)| (p.clone(), *n)).collect()
    }

    /// The contents of a file as they may be after the power came back.
    fn content_after(&self, number: usize, luck: Luck, dice: &mut Dice) -> Content {
        let Some(inode) = self.inodes.get(number) else { return Content::default() };
        let rest = self.rest_of_write.iter().filter(|(other, _)| *other == number).map(|(_, change)| change);
        let unsynced: Vec<&Change> = inode.unsynced.iter().chain(rest).collect();
        let mut out = inode.durable.clone();
        let luck = match luck {
            Luck::Drawn => dice.luck(),
            other => other,
        };
        match luck {
            Luck::Nothing => {}
            Luck::Everything => unsynced.iter().for_each(|change| change.apply(&mut out)),
            Luck::Drawn => tear(&unsynced, &mut out, dice),
        }
        out
    }
}

fn set(names: &mut Names, path: &Path, node: Option<Node>) {
    match node {
        Some(node) => drop(names.insert(path.to_owned(), node)),
        None => drop(names.remove(path)),
    }
}

/// How much of what was not synced survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Luck {
    Nothing,
    Everything,
    Drawn,
}

/// Pseudo-random numbers (SplitMix64): the same for the same seed.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    /// The luck of one file.
    fn luck(&mut self) -> Luck {
        match self.below(6) {
            0 => Luck::Nothing,
            1 => Luck::Everything,
            _ => Luck::Drawn,
        }
    }
}

/// A part of a write in one sector: where, what, and whether it was on its way to the disk.
type Piece<'a> = (u64, &'a [u8], bool);

/// Draws a state for each sector, and a length.
fn tear(unsynced: &[&Change], out: &mut Content, dice: &mut Dice) {
    let sector = if dice.coin() { 512 } else { 4096 };
    let whole_writes = dice.coin();
    let stale = dice.below(4) == 0;
    let durable_len = out.len();
    let mut lengths = vec![durable_len];
    let mut touched: BTreeMap<u64, Vec<Piece<'_>>> = BTreeMap::new();
    for change in unsynced {
        let last = lengths.last().copied().unwrap_or_default();
        match change {
            Change::SetLen(len) => {
                if *len < last && dice.coin() {
                    out.set_len(*len);
                }
                lengths.push(*len);
            }
            Change::Write { at, bytes } => {
                lengths.push(last.max(at + bytes.len() as u64));
                let kept = dice.coin();
                for (at, piece) in sectors(*at, bytes, sector) {
                    let kept = if whole_writes { kept } else { dice.coin() };
                    touched.entry(at / sector).or_default().push((at, piece, kept));
                }
            }
        }
    }
    for (number, pieces) in touched {
        // The sector was written out after the last of these, with all that were there by then.
        let until = pieces.iter().rposition(|(_, _, kept)| *kept).map_or(0, |last| last + 1);
        if until == 0 && stale && number * sector >= durable_len {
            let old: Vec<u8> = (0..sector).map(|_| dice.next() as u8).collect();
            out.write(number * sector, &old);
        }
        pieces.iter().take(until).for_each(|(at, piece, _)| out.write(*at, piece));
    }
    let drawn = dice.below(lengths.len() as u64) as usize;
    out.set_len(lengths.get(drawn).copied().unwrap_or(durable_len));
}

/// Cuts a write at the borders of sectors.
fn sectors(at: u64, bytes: &[u8], sector: u64) -> impl Iterator<Item = (u64, &[u8])> {
    let (mut at, mut rest) = (at, bytes);
    std::iter::from_fn(move || {
        let room = (sector - at % sector) as usize;
        let (piece, behind) = rest.split_at_checked(room).unwrap_or((rest, &[]));
        let here = (!piece.is_empty()).then_some((at, piece));
        at += piece.len() as u64;
        rest = behind;
        here
    })
}

/// A file system in memory whose power can fail. Clones are the same file system.
#[derive(Clone, Debug)]
pub struct Crashing(Arc<Mutex<World>>);

impl Default for Crashing {
    fn default() -> Self {
        let mut world = World::default();
        for names in [&mut world.names, &mut world.durable_names] {
            names.insert(PathBuf::from("/"), Node::Folder);
        }
        Self(Arc::new(Mutex::new(world)))
    }
}

impl From<&Memory> for Crashing {
    /// A disk with these files, all of them durable.
    fn from(memory: &Memory) -> Self {
        let disk = Self::default();
        let parts = memory.parts();
        let mut world = hold(&disk.0);
        let folders = parts.folders.into_iter().map(|path| (path, Node::Folder));
        let files = parts.names.into_iter().map(|(path, number)| (path, Node::File(number)));
        world.names.extend(folders.chain(files));
        world.durable_names = world.names.clone();
        let inode = |content: Content| Inode { durable: content.clone(), cache: content, ..Inode::default() };
        world.inodes = parts.contents.into_iter().map(inode).collect();
        drop(world);
        disk
    }
}

impl Crashing {
    /// A disk on which no sync of a file does anything, and all say they did.
    #[must_use]
    pub fn with_lying_sync(self) -> Self {
        hold(&self.0).lies.files = true;
        self
    }

    /// A disk on which no sync of a folder does anything, and all say they did.
    #[must_use]
    pub fn with_lying_sync_dir(self) -> Self {
        hold(&self.0).lies.folders = true;
        self
    }

    /// Cuts the power during operation `number` (counted from 1): from then on everything fails.
    pub fn power_off_at(&self, number: u64) {
        hold(&self.0).off_at = Some(number);
    }

    /// Lets the first sync from operation `number` on fail. What it should have saved can still be
    /// read and is never saved by any later sync, whatever that one says.
    pub fn fail_sync_at(&self, number: u64) {
        hold(&self.0).fail_sync_at = Some(number);
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        hold(&self.0).operations
    }

    /// The operation during which the power went.
    pub fn stopped(&self) -> Option<Operation> {
        hold(&self.0).stopped.clone()
    }

    /// The sync that failed.
    pub fn failed(&self) -> Option<Operation> {
        hold(&self.0).failed.clone()
    }

    /// The disk as it may be when the power comes back now. The first four seeds are the corners:
    /// of unsynced contents and names nothing survives (0), all contents (1), all names (2), all (3).
    pub fn image(&self, seed: u64) -> Memory {
        let world = hold(&self.0);
        let mut dice = Dice(seed);
        let luck = |all: bool| if all { Luck::Everything } else { Luck::Nothing };
        let (contents, names) = match seed {
            0..4 => (luck(seed & 1 == 1), luck(seed & 2 == 2)),
            _ => (Luck::Drawn, Luck::Drawn),
        };
        let mut parts = Parts::default();
        let mut numbers = BTreeMap::new();
        for (path, node) in world.names_after(names, &mut dice) {
            match node {
                Node::Folder => drop(parts.folders.insert(path)),
                Node::File(number) => {
                    let number = *numbers.entry(number).or_insert_with(|| {
                        parts.contents.push(world.content_after(number, contents, &mut dice));
                        parts.contents.len() - 1
                    });
                    parts.names.push((path, number));
                }
            }
        }
        Memory::assemble(parts)
    }

    /// The same disk, still under power, after the process was killed: everything that was written
    /// can be read, and what was not synced still is not.
    #[must_use]
    pub fn after_kill(&self) -> Self {
        let mut world = hold(&self.0).clone();
        world.locked.clear();
        (world.operations, world.off_at, world.fail_sync_at) = (0, None, None);
        (world.stopped, world.failed, world.rest_of_write) = (None, None, None);
        world.rest_of_names.clear();
        Self(Arc::new(Mutex::new(world)))
    }

    fn file(&self, path: &Path, number: usize) -> Box<dyn File> {
        Box::new(CrashingFile { world: Arc::clone(&self.0), number, path: path.to_owned() })
    }
}

#[derive(Debug)]
struct CrashingFile {
    world: Arc<Mutex<World>>,
    number: usize,
    path: PathBuf,
}

impl CrashingFile {
    fn look<T>(&self, verb: Verb, at: impl FnOnce(&Content) -> io::Result<T>) -> io::Result<T> {
        let mut world = hold(&self.world);
        world.look(verb, &self.path)?;
        at(&world.inode(self.number)?.cache)
    }
}

impl File for CrashingFile {
    fn read_at(&self, at: u64, len: usize) -> io::Result<Vec<u8>> {
        self.look(Verb::ReadAt, |content| content.read(at, len))
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        hold(&self.world).write(&self.path, self.number, at, bytes)
    }

    fn len(&self) -> io::Result<u64> {
        self.look(Verb::Len, |content| Ok(content.len()))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        hold(&self.world).set_len(&self.path, self.number, len)
    }

    fn sync(&self) -> io::Result<()> {
        hold(&self.world).sync_file(&self.path, self.number)
    }

    fn mode(&self) -> io::Result<u32> {
        self.look(Verb::Mode, |_| Ok(0o600))
    }

    fn settle(&self) {}
}

#[derive(Debug)]
struct CrashingLock(Arc<Mutex<World>>, PathBuf);

impl Held for CrashingLock {}

impl Drop for CrashingLock {
    fn drop(&mut self) {
        hold(&self.0).locked.remove(&self.1);
    }
}

impl Backend for Crashing {
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let mut world = hold(&self.0);
        world.begin(Verb::Create, path)?;
        if world.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !path.parent().is_some_and(|dir| world.names.get(dir) == Some(&Node::Folder)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let number = world.inodes.len();
        world.inodes.push(Inode::default());
        world.change_names(vec![(path.to_owned(), Some(Node::File(number)))])?;
        Ok(self.file(path, number))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let mut world = hold(&self.0);
        world.look(Verb::Open, path)?;
        match world.names.get(path) {
            Some(Node::File(number)) => Ok(self.file(path, *number)),
            Some(Node::Folder) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn kind(&self, path: &Path) -> io::Result<Kind> {
        let mut world = hold(&self.0);
        world.look(Verb::Kind, path)?;
        match world.names.get(path) {
            Some(Node::File(_)) => Ok(Kind::File),
            Some(Node::Folder) => Ok(Kind::Folder),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = hold(&self.0);
        world.begin(Verb::Rename, to)?;
        let node = world.names.get(from).copied();
        let node @ Some(Node::File(_)) = node else { return Err(io::ErrorKind::NotFound.into()) };
        world.change_names(vec![(from.to_owned(), None), (to.to_owned(), node)])
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = hold(&self.0);
        world.begin(Verb::Link, to)?;
        if world.names.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let node = world.names.get(from).copied();
        let node @ Some(Node::File(_)) = node else { return Err(io::ErrorKind::NotFound.into()) };
        world.change_names(vec![(to.to_owned(), node)])
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut world = hold(&self.0);
        world.begin(Verb::Remove, path)?;
        match world.names.get(path) {
            Some(Node::File(_)) => world.change_names(vec![(path.to_owned(), None)]),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        let mut world = hold(&self.0);
        world.begin(Verb::MakeDir, path)?;
        let mut missing: Vec<&Path> =
            path.ancestors().filter(|dir| !world.names.contains_key(*dir)).collect();
        missing.reverse();
        missing.into_iter().try_for_each(|dir| world.change_names(vec![(dir.to_owned(), Some(Node::Folder))]))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut world = hold(&self.0);
        world.begin(Verb::RemoveDir, path)?;
        if world.names.get(path) != Some(&Node::Folder) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if world.names.keys().any(|inside| inside.parent() == Some(path)) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        world.change_names(vec![(path.to_owned(), None)])
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<(PathBuf, Kind)>> {
        let mut world = hold(&self.0);
        world.look(Verb::List, dir)?;
        if world.names.get(dir) != Some(&Node::Folder) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = world.names.iter().filter(|(path, _)| path.parent() == Some(dir));
        let kind = |node: &Node| if *node == Node::Folder { Kind::Folder } else { Kind::File };
        Ok(inside.map(|(path, node)| (path.clone(), kind(node))).collect())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        hold(&self.0).sync_folder(path)
    }

    fn lock(&self, dir: &Path) -> Result<Box<dyn Held>, StoreError> {
        let mut world = hold(&self.0);
        let path = dir.join("lock");
        world.look(Verb::Lock, dir).map_err(|e| StoreError::io(&path, e))?;
        if world.locked.insert(dir.to_owned()) {
            Ok(Box::new(CrashingLock(Arc::clone(&self.0), dir.to_owned())))
        } else {
            Err(StoreError::Locked { pid: Some(std::process::id()), path })
        }
    }

    fn used_bytes(&self, dir: &Path) -> u64 {
        let world = hold(&self.0);
        let used = |node: &Node| match node {
            Node::File(number) => world.inodes.get(*number).map_or(0, |inode| inode.cache.used()),
            Node::Folder => 0,
        };
        world.names.iter().filter(|(path, _)| path.starts_with(dir)).map(|(_, node)| used(node)).sum()
    }

    fn free_bytes(&self, _dir: &Path) -> u64 {
        u64::MAX
    }
}
