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

mod image;
mod world;

use super::memory::Content;
use super::{Backend, File, Held, Kind, Memory, Operation, Verb};
use crate::StoreError;
use crate::disk::hold;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use world::{Inode, Node, World};

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
        hold(&self.0).image(seed)
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

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIR: &str = "/d";

    fn path(name: &str) -> PathBuf {
        Path::new(DIR).join(name)
    }

    /// A disk with the durable folders `/d` and `/d/e`.
    fn disk() -> Crashing {
        let disk = Crashing::default();
        disk.make_dir(&path("e")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        disk.sync_dir(Path::new(DIR)).unwrap();
        disk
    }

    fn write(disk: &Crashing, name: &str, bytes: &[u8]) -> Box<dyn File> {
        let file = disk.create(&path(name)).unwrap();
        file.write_at(0, bytes).unwrap();
        file
    }

    /// The file in each of many images, where it is there.
    fn images(disk: &Crashing, name: &str) -> Vec<Option<Vec<u8>>> {
        let find = |seed| disk.image(seed).files().into_iter().find(|(p, _)| *p == path(name));
        (0..300).map(|seed| find(seed).map(|(_, bytes)| bytes)).collect()
    }

    #[test]
    fn what_was_synced_is_in_every_image_and_nothing_else_is_sure() {
        let disk = disk();
        let file = write(&disk, "f", &[1; 5000]);
        let all = images(&disk, "f");
        assert!(all.contains(&None) && all.contains(&Some(vec![1; 5000])) && all.contains(&Some(vec![])));
        file.sync().unwrap();
        let all = images(&disk, "f");
        assert!(all.contains(&None), "the folder was not synced");
        assert!(all.iter().flatten().all(|bytes| *bytes == [1; 5000]));
        disk.sync_dir(Path::new(DIR)).unwrap();
        assert!(images(&disk, "f").iter().all(|bytes| bytes.as_deref() == Some(&[1; 5000][..])));
    }

    #[test]
    fn an_overwrite_is_torn_at_sectors_in_any_order() {
        let disk = disk();
        let file = write(&disk, "f", &[1; 8192]);
        file.sync().unwrap();
        disk.sync_dir(Path::new(DIR)).unwrap();
        file.write_at(100, &[2; 8000]).unwrap();
        let all: Vec<Vec<u8>> = images(&disk, "f").into_iter().flatten().collect();
        assert_eq!(all.len(), 300);
        for bytes in &all {
            assert_eq!((bytes.len(), &bytes[..100], &bytes[8100..]), (8192, &[1; 100][..], &[1; 92][..]));
            assert!(bytes[100..8100].iter().all(|byte| [1, 2].contains(byte)));
            let whole = |sector: &[u8]| sector.iter().all(|byte| byte == &sector[0]);
            assert!(bytes[512..7680].chunks(512).all(whole), "a sector is never half written");
        }
        let later_alone = |bytes: &&Vec<u8>| bytes[512] == 1 && bytes[7000] == 2;
        assert!(all.iter().any(|b| later_alone(&b)), "a later sector without an earlier one");
        assert!(all.iter().any(|b| b[4096] != b[5000]), "sectors of 512 bytes");
    }

    #[test]
    fn growth_may_show_zeros_or_what_stood_there() {
        let disk = disk();
        let file = write(&disk, "f", &[1; 10]);
        file.sync().unwrap();
        disk.sync_dir(Path::new(DIR)).unwrap();
        file.write_at(4096, &[2; 4096]).unwrap();
        let all: Vec<Vec<u8>> = images(&disk, "f").into_iter().flatten().collect();
        assert!(all.iter().all(|bytes| bytes.len() == 10 || bytes.len() == 8192));
        assert!(all.iter().all(|bytes| bytes[..10] == [1; 10]));
        let grown = |what: fn(&[u8]) -> bool| all.iter().any(|b| b.len() == 8192 && what(&b[4096..]));
        assert!(grown(|new| new == [0; 4096]) && grown(|new| new == [2; 4096]));
        assert!(grown(|new| new.iter().any(|byte| *byte != 0 && *byte != 2)));
    }

    #[test]
    fn a_rename_is_one_change() {
        let disk = disk();
        write(&disk, "old", b"old").sync().unwrap();
        write(&disk, "new", b"new").sync().unwrap();
        disk.sync_dir(Path::new(DIR)).unwrap();
        disk.rename(&path("new"), &path("old")).unwrap();
        let (names, sources) = (images(&disk, "old"), images(&disk, "new"));
        for (name, source) in names.iter().zip(&sources) {
            let happened = name.as_deref() == Some(b"new");
            assert!(happened || name.as_deref() == Some(b"old"));
            assert_eq!(source.is_none(), happened);
        }
        assert!(names.contains(&Some(b"new".to_vec())) && names.contains(&Some(b"old".to_vec())));
    }

    #[test]
    fn a_rename_into_a_synced_folder_may_leave_the_old_name_too() {
        let disk = disk();
        write(&disk, "f", b"x").sync().unwrap();
        disk.sync_dir(Path::new(DIR)).unwrap();
        disk.rename(&path("f"), &path("e/f")).unwrap();
        disk.sync_dir(&path("e")).unwrap();
        assert!(images(&disk, "e/f").iter().all(Option::is_some));
        let old = images(&disk, "f");
        assert!(old.iter().any(Option::is_some) && old.iter().any(Option::is_none));
        disk.sync_dir(Path::new(DIR)).unwrap();
        assert!(images(&disk, "f").iter().all(Option::is_none));
    }

    #[test]
    fn a_folder_that_was_not_synced_takes_its_files_along() {
        let disk = disk();
        disk.make_dir(&path("e/g")).unwrap();
        write(&disk, "e/g/f", b"x").sync().unwrap();
        disk.sync_dir(&path("e/g")).unwrap();
        assert!(images(&disk, "e/g/f").contains(&None));
        disk.sync_dir(&path("e")).unwrap();
        assert!(images(&disk, "e/g/f").iter().all(Option::is_some));
    }

    #[test]
    fn a_kill_keeps_what_was_written_and_saves_nothing() {
        let disk = disk();
        let file = write(&disk, "f", b"abc");
        disk.power_off_at(disk.operations() + 1);
        assert!(file.write_at(3, b"defg").is_err() && file.sync().is_err());
        assert_eq!(disk.stopped().unwrap().verb, Verb::WriteAt);
        let killed = disk.after_kill();
        let again = killed.open(&path("f")).unwrap();
        assert_eq!(again.read_at(0, 5).unwrap(), b"abcde", "half of the last write had been copied");
        assert!(images(&killed, "f").contains(&None));
        again.sync().unwrap();
        killed.sync_dir(Path::new(DIR)).unwrap();
        assert!(images(&killed, "f").iter().all(|bytes| bytes.as_deref() == Some(b"abcde")));
        assert!(images(&disk, "f").contains(&Some(b"abcdefg".to_vec())), "the write may have gone through");
    }

    #[test]
    fn after_a_failed_sync_no_later_one_helps() {
        let disk = disk();
        let file = write(&disk, "f", b"abc");
        disk.sync_dir(Path::new(DIR)).unwrap();
        disk.fail_sync_at(0);
        assert!(file.sync().is_err());
        file.write_at(3, b"def").unwrap();
        file.sync().unwrap();
        assert_eq!(file.read_at(0, 6).unwrap(), b"abcdef", "it can be read all the same");
        assert!(images(&disk, "f").iter().any(|bytes| bytes.as_deref() == Some(b"\0\0\0def")));
    }

    #[test]
    fn a_disk_that_lies_saves_nothing() {
        let disk = disk().with_lying_sync();
        write(&disk, "f", b"abc").sync().unwrap();
        disk.sync_dir(Path::new(DIR)).unwrap();
        assert!(images(&disk, "f").contains(&Some(Vec::new())));
        let disk = self::disk().with_lying_sync_dir();
        write(&disk, "f", b"abc").sync().unwrap();
        disk.sync_dir(Path::new(DIR)).unwrap();
        assert!(images(&disk, "f").contains(&None));
    }
}
