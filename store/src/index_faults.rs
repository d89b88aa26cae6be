//! Tests: an index that fails at any call, and files of sled that were cut short anywhere. What the
//! store answers is the journal's truth in either case.

use super::Store;
use crate::backend::Memory;
use crate::disk::hold;
use crate::index::{self, Index, Unusable};
use crate::journal::Mark;
use crate::object::ObjectInfo;
use crate::{Class, Options, Unlock};
use kith_crypto::content::{Builder, Head, Position, Root};
use kith_crypto::passphrase::Cost;
use kith_crypto::secret::Key;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

fn options(dir: &Path) -> Options<'_> {
    Options { dir, unlock: Unlock::KeyFile, cost: Cost { memory_kib: 64, passes: 1 } }
}

/// Passes calls on until call number `left` reaches zero; that one and all later ones fail.
struct FailingIndex {
    inner: Box<dyn Index>,
    left: Arc<AtomicU64>,
}

impl FailingIndex {
    fn check(&self) -> Result<(), Unusable> {
        let left = self.left.load(Ordering::Relaxed);
        self.left.store(left.saturating_sub(1), Ordering::Relaxed);
        if left == 0 { Err(Unusable) } else { Ok(()) }
    }
}

impl Index for FailingIndex {
    fn object(&self, root: &Root) -> Result<Option<ObjectInfo>, Unusable> {
        self.check()?;
        self.inner.object(root)
    }
    fn objects(&self) -> Result<Vec<ObjectInfo>, Unusable> {
        self.check()?;
        self.inner.objects()
    }
    fn put(&self, info: &ObjectInfo) -> Result<(), Unusable> {
        self.check()?;
        self.inner.put(info)
    }
    fn remove(&self, root: &Root) -> Result<(), Unusable> {
        self.check()?;
        self.inner.remove(root)
    }
    fn set_mark(&self, mark: Mark) -> Result<(), Unusable> {
        self.check()?;
        self.inner.set_mark(mark)
    }
    fn mark(&self) -> Result<Option<Mark>, Unusable> {
        self.check()?;
        self.inner.mark()
    }
    fn close(self: Box<Self>) {
        self.inner.close();
    }
}

/// Publishes an object of one block.
fn publish(store: &Store, seed: u8) -> Root {
    let mut builder = Builder::new(Key::new([seed; 32]));
    let mut publishing = store.publish().unwrap();
    publishing.write(builder.push(vec![seed; 65_536]).unwrap()).unwrap();
    let mut rest = Vec::new();
    let head = Head { len: 65_536, ..Head::default() };
    let (cap, geometry) = builder.finish(&head, |sealed| rest.push(sealed));
    rest.into_iter().for_each(|sealed| publishing.write(sealed).unwrap());
    publishing.commit(&cap, geometry, 1, vec![seed]).unwrap();
    cap.root
}

/// Everything that asks or changes the index, and what must be there in the end.
fn work(store: &Store) {
    let (first, second) = (publish(store, 1), publish(store, 2));
    assert_eq!(store.objects().len(), 2);
    store.compact(&[vec![9]]).unwrap();
    assert!(store.object(&first).unwrap().complete);
    store.remove(&first).unwrap();
    assert!(store.object(&first).is_none());
    assert!(store.pin(&second).unwrap().class == Class::Own);
    assert!(store.pack(&second).unwrap().has(Position::Data(0)));
    let left: Vec<Root> = store.objects().into_iter().map(|info| info.root).collect();
    assert_eq!(left, [second]);
}

#[test]
fn an_index_may_fail_at_any_call() {
    for n in 0.. {
        let store =
            Store::create_on(Arc::new(Memory::default()), &options(Path::new("/store"))).unwrap().store;
        let left = Arc::new(AtomicU64::new(n));
        {
            let mut index = store.inner.index.write().unwrap_or_else(PoisonError::into_inner);
            let empty = index::in_memory(&BTreeMap::new(), Mark::default());
            let inner = std::mem::replace(&mut *index, empty);
            *index = Box::new(FailingIndex { inner, left: Arc::clone(&left) });
        }
        work(&store);
        let mark = {
            let index = store.inner.index.read().unwrap_or_else(PoisonError::into_inner);
            index.mark()
        };
        let failed_before = left.load(Ordering::Relaxed) == 0 && mark.is_ok();
        if !failed_before {
            assert!(n > 10, "{n} calls are too few");
            break;
        }
        // What replaced the index knows the place in the journal that it stands for.
        let folded = super::Folded::of(hold(&store.inner.journal).reread().unwrap());
        assert_eq!(mark.ok().flatten(), folded.mark, "after call {n}");
    }
}

#[test]
fn files_of_sled_that_were_cut_short_are_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    let store = Store::create(&options).unwrap().store;
    let roots = [publish(&store, 1), publish(&store, 2)];
    drop(store);
    let folder = dir.path().join("index");
    let files: Vec<_> =
        files(&folder).into_iter().map(|path| (std::fs::read(&path).unwrap(), path)).collect();
    assert!(files.len() >= 3, "sled's own and the seal");
    let restore = || {
        std::fs::remove_dir_all(&folder).unwrap();
        for (bytes, path) in &files {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    };
    let check = |rebuilt: bool, case: &str| {
        let opened = Store::open(&options).unwrap();
        assert_eq!(opened.index_rebuilt, rebuilt, "{case}");
        assert!(roots.iter().all(|root| opened.store.object(root).is_some()), "{case}");
        assert_eq!(opened.store.objects().len(), 2, "{case}");
    };
    restore();
    check(false, "whole");
    for (bytes, path) in files.iter().filter(|(bytes, _)| !bytes.is_empty()) {
        let lengths = (0..9).map(|part| bytes.len() * part / 9).chain([1, bytes.len() - 1]);
        for len in lengths.filter(|len| *len < bytes.len()) {
            restore();
            std::fs::write(path, bytes.get(..len).unwrap()).unwrap();
            check(true, &format!("{} cut to {len} bytes", path.display()));
        }
        restore();
        std::fs::remove_file(path).unwrap();
        check(true, &format!("{} is gone", path.display()));
    }
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}
