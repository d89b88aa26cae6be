//! A file system in memory, as quick as it gets and gone with its last handle.
//!
//! Files are sparse: a page that was never written takes no memory.

use super::{Backend, File, Held, Kind};
use crate::StoreError;
use crate::disk::hold;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

const PAGE: u64 = 4096;

/// Contents of one file: pages by number, and the length.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    pages: BTreeMap<u64, Box<[u8]>>,
    len: u64,
}

impl Content {
    pub(crate) fn read(&self, at: u64, len: usize) -> io::Result<Vec<u8>> {
        if at.checked_add(len as u64).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; len];
        self.for_pieces(at, len, |page, within, piece| {
            if let (Some(from), Some(to)) =
                (self.pages.get(&page).and_then(|p| p.get(within)), bytes.get_mut(piece))
            {
                to.copy_from_slice(from);
            }
        });
        Ok(bytes)
    }

    /// Calls `each` with page number, range within the page and range within the bytes.
    fn for_pieces(
        &self,
        at: u64,
        len: usize,
        mut each: impl FnMut(u64, std::ops::Range<usize>, std::ops::Range<usize>),
    ) {
        let mut done = 0;
        while done < len {
            let offset = at + done as u64;
            let start = (offset % PAGE) as usize;
            let n = (len - done).min(PAGE as usize - start);
            each(offset / PAGE, start..start + n, done..done + n);
            done += n;
        }
    }

    pub(crate) fn write(&mut self, at: u64, bytes: &[u8]) {
        let mut pieces = Vec::new();
        self.for_pieces(at, bytes.len(), |page, within, piece| pieces.push((page, within, piece)));
        for (page, within, piece) in pieces {
            let page = self.pages.entry(page).or_insert_with(|| vec![0; PAGE as usize].into());
            if let (Some(to), Some(from)) = (page.get_mut(within), bytes.get(piece)) {
                to.copy_from_slice(from);
            }
        }
        self.len = self.len.max(at + bytes.len() as u64);
    }

    pub(crate) const fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.pages.retain(|page, _| page * PAGE < len);
            if let Some(last) = self.pages.get_mut(&(len / PAGE)) {
                last.iter_mut().skip((len % PAGE) as usize).for_each(|byte| *byte = 0);
            }
        }
        self.len = len;
    }

    pub(crate) fn used(&self) -> u64 {
        self.pages.len() as u64 * PAGE
    }
}

type Shared = Arc<Mutex<Content>>;

#[derive(Debug, Default)]
struct Tree {
    files: BTreeMap<PathBuf, Shared>,
    folders: BTreeSet<PathBuf>,
    locked: BTreeSet<PathBuf>,
}

/// A file system taken apart: contents, and the names that they have.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) folders: BTreeSet<PathBuf>,
    pub(crate) contents: Vec<Content>,
    /// Each name with the place of its file in `contents`; two names may have one file.
    pub(crate) names: Vec<(PathBuf, usize)>,
}

/// Files in memory. Clones are the same file system.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Mutex<Tree>>);

#[derive(Debug)]
struct MemoryFile(Shared);

#[derive(Debug)]
struct MemoryLock(Arc<Mutex<Tree>>, PathBuf);

impl Held for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        hold(&self.0).locked.remove(&self.1);
    }
}

fn not_found<T>() -> io::Result<T> {
    Err(io::ErrorKind::NotFound.into())
}

impl Memory {
    /// All files with their contents, holes as zeros.
    pub fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let tree = hold(&self.0);
        let whole = |content: &Shared| {
            let content = hold(content);
            content.read(0, content.len() as usize).unwrap_or_default()
        };
        tree.files.iter().map(|(path, content)| (path.clone(), whole(content))).collect()
    }

    /// Copies of everything.
    pub(crate) fn parts(&self) -> Parts {
        let tree = hold(&self.0);
        let mut parts = Parts { folders: tree.folders.clone(), ..Parts::default() };
        let mut seen: Vec<&Shared> = Vec::new();
        for (path, content) in &tree.files {
            let place = seen.iter().position(|other| Arc::ptr_eq(other, content)).unwrap_or_else(|| {
                parts.contents.push(hold(content).clone());
                seen.push(content);
                seen.len() - 1
            });
            parts.names.push((path.clone(), place));
        }
        parts
    }

    /// A file system of these parts.
    pub(crate) fn assemble(parts: Parts) -> Self {
        let contents: Vec<Shared> =
            parts.contents.into_iter().map(|content| Arc::new(Mutex::new(content))).collect();
        let file = |(path, place): (PathBuf, usize)| Some((path, Arc::clone(contents.get(place)?)));
        let files = parts.names.into_iter().filter_map(file).collect();
        Self(Arc::new(Mutex::new(Tree { files, folders: parts.folders, locked: BTreeSet::new() })))
    }

    /// Changes the contents of a file as a failing disk or another program would. False if there is
    /// no such file.
    pub fn tamper(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let Some(shared) = hold(&self.0).files.get(path).cloned() else { return false };
        let mut content = hold(&shared);
        let mut bytes = content.read(0, content.len() as usize).unwrap_or_default();
        change(&mut bytes);
        *content = Content::default();
        content.write(0, &bytes);
        true
    }
}

impl File for MemoryFile {
    fn read_at(&self, at: u64, len: usize) -> io::Result<Vec<u8>> {
        hold(&self.0).read(at, len)
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        hold(&self.0).write(at, bytes);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(hold(&self.0).len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        hold(&self.0).set_len(len);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn mode(&self) -> io::Result<u32> {
        Ok(0o600)
    }

    fn settle(&self) {}
}

impl Backend for Memory {
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let mut tree = hold(&self.0);
        if tree.files.contains_key(path) || tree.folders.contains(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !path.parent().is_some_and(|dir| tree.folders.contains(dir)) {
            return not_found();
        }
        let content = Shared::default();
        tree.files.insert(path.to_owned(), Arc::clone(&content));
        Ok(Box::new(MemoryFile(content)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        match hold(&self.0).files.get(path) {
            Some(content) => Ok(Box::new(MemoryFile(Arc::clone(content)))),
            None => not_found(),
        }
    }

    fn kind(&self, path: &Path) -> io::Result<Kind> {
        let tree = hold(&self.0);
        match (tree.files.contains_key(path), tree.folders.contains(path)) {
            (true, _) => Ok(Kind::File),
            (_, true) => Ok(Kind::Folder),
            _ => not_found(),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut tree = hold(&self.0);
        match tree.files.remove(from) {
            Some(content) => drop(tree.files.insert(to.to_owned(), content)),
            None => return not_found(),
        }
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut tree = hold(&self.0);
        if tree.files.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        match tree.files.get(from).cloned() {
            Some(content) => drop(tree.files.insert(to.to_owned(), content)),
            None => return not_found(),
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match hold(&self.0).files.remove(path) {
            Some(_) => Ok(()),
            None => not_found(),
        }
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        let mut tree = hold(&self.0);
        tree.folders.extend(path.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        hold(&self.0).folders.remove(path);
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<(PathBuf, Kind)>> {
        let tree = hold(&self.0);
        if !tree.folders.contains(dir) {
            return not_found();
        }
        let inside = |path: &&PathBuf| path.parent() == Some(dir);
        let files = tree.files.keys().filter(inside).map(|path| (path.clone(), Kind::File));
        let folders = tree.folders.iter().filter(inside).map(|path| (path.clone(), Kind::Folder));
        Ok(files.chain(folders).collect())
    }

    fn sync_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, dir: &Path) -> Result<Box<dyn Held>, StoreError> {
        if hold(&self.0).locked.insert(dir.to_owned()) {
            Ok(Box::new(MemoryLock(Arc::clone(&self.0), dir.to_owned())))
        } else {
            Err(StoreError::Locked { pid: Some(std::process::id()), path: dir.join("lock") })
        }
    }

    fn used_bytes(&self, dir: &Path) -> u64 {
        let tree = hold(&self.0);
        let inside = tree.files.iter().filter(|(path, _)| path.starts_with(dir));
        inside.map(|(_, content)| hold(content).used()).sum()
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}
