//! What opening a store touches: it must not grow with the number of objects.
#![allow(clippy::unwrap_used, clippy::panic)]

mod kit;

use kit::{object, options};
use kith_store::backend::{Backend, File, Held, Kind, Memory};
use kith_store::{Store, StoreError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the files that are opened.
#[derive(Debug, Default)]
struct Counting {
    below: Memory,
    opened: AtomicUsize,
}

impl Backend for Counting {
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.below.create(path)
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.below.open(path)
    }
    fn kind(&self, path: &Path) -> io::Result<Kind> {
        self.below.kind(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.below.rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.below.link(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.below.remove(path)
    }
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.below.make_dir(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<(PathBuf, Kind)>> {
        self.below.list(dir)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.below.sync_dir(path)
    }
    fn lock(&self, dir: &Path) -> Result<Box<dyn Held>, StoreError> {
        self.below.lock(dir)
    }
    fn used_bytes(&self, dir: &Path) -> u64 {
        self.below.used_bytes(dir)
    }
    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.below.free_bytes(dir)
    }
}

#[test]
fn opening_opens_no_packs() {
    let backend = Arc::new(Counting::default());
    let dir = Path::new("/store");
    let mut store = Store::create_on(backend.clone(), &options(dir)).unwrap().store;
    let mut seen = Vec::new();
    for seeds in [0..1, 1..20] {
        seeds.for_each(|seed| object(seed, 1).publish(&store, b"r").unwrap());
        drop(store);
        backend.opened.store(0, Ordering::Relaxed);
        let opened = Store::open_on(backend.clone(), &options(dir)).unwrap();
        seen.push((backend.opened.load(Ordering::Relaxed), opened.objects.len(), opened.lost.len()));
        store = opened.store;
    }
    let (files, ..) = seen[0];
    assert_eq!(seen, [(files, 1, 0), (files, 20, 0)]);
    // The control: reading does open packs.
    store.pack(&object(3, 1).cap.root).unwrap();
    assert_eq!(backend.opened.load(Ordering::Relaxed), files + 1);
}

#[test]
fn an_object_without_its_file_is_named_when_opening() {
    let backend = Memory::default();
    let dir = Path::new("/store");
    let store = Store::create_on(Arc::new(backend.clone()), &options(dir)).unwrap().store;
    (0..3).for_each(|seed| object(seed, 1).publish(&store, b"r").unwrap());
    let gone = object(1, 1).cap.root;
    let before: Vec<PathBuf> = backend.files().into_iter().map(|(path, _)| path).collect();
    drop(store);
    let packs: Vec<_> = before.iter().filter(|p| p.extension().is_some_and(|e| e == "pack")).collect();
    for pack in packs {
        let Ok(kept) = backend.open(pack) else { continue };
        let bytes = kept.read_at(0, kept.len().unwrap() as usize).unwrap();
        backend.remove(pack).unwrap();
        let opened = Store::open_on(Arc::new(backend.clone()), &options(dir)).unwrap();
        assert_eq!((opened.objects.len(), opened.lost.len()), (3, 1));
        let lost = *opened.lost.iter().next().unwrap();
        assert!(matches!(opened.store.pack(&lost), Err(StoreError::Damaged { .. })));
        drop(opened);
        if lost == gone {
            return;
        }
        backend.create(pack).unwrap().write_at(0, &bytes).unwrap();
    }
    panic!("no pack was that of the object");
}
