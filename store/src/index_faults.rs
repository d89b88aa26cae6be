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
    publish_or(store, seed).unwrap()
}

fn publish_or(store: &Store, seed: u8) -> Result<Root, crate::StoreError> {
    let mut builder = Builder::new(Key::new([seed; 32]));
    let mut publishing = store.publish().unwrap();
    publishing.write(builder.push(vec![seed; 65_536]).unwrap()).unwrap();
    let mut rest = Vec::new();
    let head = Head { len: 65_536, ..Head::default() };
    let (cap, geometry) = builder.finish(&head, |sealed| rest.push(sealed));
    rest.into_iter().for_each(|sealed| publishing.write(sealed).unwrap());
    publishing.commit(&cap, geometry, 1, vec![seed]).map(|()| cap.root)
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
        fail_after(&store, &left);
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

/// Lets the index fail from call `left` on.
fn fail_after(store: &Store, left: &Arc<AtomicU64>) {
    let mut index = store.inner.index.write().unwrap_or_else(PoisonError::into_inner);
    let empty = index::in_memory(&BTreeMap::new(), Mark::default());
    let inner = std::mem::replace(&mut *index, empty);
    *index = Box::new(FailingIndex { inner, left: Arc::clone(left) });
}

/// An index that failed while the journal could not be read whole counted as "nothing is kept": `gc`
/// removed every pack, a compaction wrote a journal without a single row, and an index made from the
/// damaged journal lost the row for good.
#[test]
fn no_answer_is_not_nothing() {
    let memory = Memory::default();
    let store = Store::create_on(Arc::new(memory.clone()), &options(Path::new("/store"))).unwrap().store;
    let roots = [publish(&store, 1), publish(&store, 2)];
    let packs =
        || memory.files().into_iter().filter(|(p, _)| p.extension().is_some_and(|e| e == "pack")).count();
    let segment = Path::new("/store/journal/00000001.log");
    let flip =
        || assert!(memory.tamper(segment, |bytes| bytes.iter_mut().skip(100).take(1).for_each(|b| *b ^= 1)));
    fail_after(&store, &Arc::default());
    flip();
    assert!(store.gc(true).is_err() && store.gc(false).is_err());
    assert!(store.compact(&[vec![9]]).is_err());
    assert!(store.reindex(&|_, _| {}).is_err());
    assert!(store.verify(&crate::Scope::default()).is_err(), "a check of nothing is no check");
    assert!(roots.iter().all(|root| store.pack(root).is_err() && store.remove(root).is_err()));
    // What is written now the index cannot follow, and so it must not answer later either.
    let third = publish_or(&store, 3);
    assert!(third.is_err(), "whether it is here already nobody can tell");
    assert_eq!(packs(), 2);
    // The disk gives the bytes again: so does the store.
    flip();
    assert_eq!((store.gc(false).unwrap().files, packs(), store.objects().len()), (0, 2, 2));
    store.compact(&[vec![9]]).unwrap();
    drop(store);
    let opened = Store::open_on(Arc::new(memory.clone()), &options(Path::new("/store"))).unwrap();
    assert_eq!((opened.objects.len(), packs()), (2, 2));
}

/// The index answers questions and fails to take a row while the journal cannot be read whole: it
/// was asked on, without the row, and `gc` removed the pack of what had just been published.
#[test]
fn an_index_that_is_behind_is_not_asked() {
    let memory = Memory::default();
    let store = Store::create_on(Arc::new(memory.clone()), &options(Path::new("/store"))).unwrap().store;
    let kept = publish(&store, 1);
    let segment = Path::new("/store/journal/00000001.log");
    let flip =
        || assert!(memory.tamper(segment, |bytes| bytes.iter_mut().skip(100).take(1).for_each(|b| *b ^= 1)));
    flip();
    store.inner.follow(|_| Err(Unusable));
    assert!(store.inner.kept().is_err() && store.gc(false).is_err());
    flip();
    assert_eq!(store.inner.kept().unwrap().len(), 1);
    assert!(store.object(&kept).is_some());
}

/// Who found the index failing read the journal without a lock and put what it made in place, though
/// a row had been written and put into the old index meanwhile: the new one never knew it, and `gc`
/// removed the pack.
#[test]
fn an_index_that_is_made_anew_misses_no_row() {
    let store = Store::create_on(Arc::new(Memory::default()), &options(Path::new("/store"))).unwrap().store;
    let root = publish(&store, 1);
    store.append(&vec![vec![7; 50]; 3000]).unwrap(); // so that reading the journal takes a while
    let info = store.object(&root).unwrap();
    for round in 1..60 {
        let after = ObjectInfo { used_day: round, ..info.clone() };
        // Questions fail; changes, which the old index takes, do not.
        fail_questions(&store);
        std::thread::scope(|scope| {
            scope.spawn(|| store.objects());
            let _changing = hold(&store.inner.changes);
            store
                .inner
                .change(&crate::object::Row::Added(after.clone()), Some(&info), &after, &[], 0)
                .unwrap();
        });
        assert_eq!(store.object(&root).unwrap().used_day, round);
    }
}

/// An index that takes rows and answers nothing.
fn fail_questions(store: &Store) {
    struct Mute(Box<dyn Index>);
    impl Index for Mute {
        fn object(&self, _: &Root) -> Result<Option<ObjectInfo>, Unusable> {
            Err(Unusable)
        }
        fn objects(&self) -> Result<Vec<ObjectInfo>, Unusable> {
            Err(Unusable)
        }
        fn put(&self, info: &ObjectInfo) -> Result<(), Unusable> {
            self.0.put(info)
        }
        fn remove(&self, root: &Root) -> Result<(), Unusable> {
            self.0.remove(root)
        }
        fn set_mark(&self, mark: Mark) -> Result<(), Unusable> {
            self.0.set_mark(mark)
        }
        fn mark(&self) -> Result<Option<Mark>, Unusable> {
            self.0.mark()
        }
        fn close(self: Box<Self>) {}
    }
    let mut index = store.inner.index.write().unwrap_or_else(PoisonError::into_inner);
    let empty = index::in_memory(&BTreeMap::new(), Mark::default());
    *index = Box::new(Mute(std::mem::replace(&mut *index, empty)));
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
