//! Nothing is deleted, overwritten or zeroed that may be the last trace of an object.
#![allow(clippy::unwrap_used)] // a failure here fails the test

mod kit;

use kit::{as_if_killed, fresh, object, open, options, pack_files};
use kith_store::{Store, StoreError};
use std::path::{Path, PathBuf};

/// A start without the journal made an empty one and swept every pack as one that no row names.
#[test]
fn a_missing_journal_beside_packs_is_refused() {
    for (whole_folder, key_too) in [(true, false), (false, false), (true, true)] {
        let (dir, store) = fresh();
        object(3, 4).publish(&store, b"r").unwrap();
        drop(store);
        let journal = dir.path().join("journal");
        std::fs::remove_dir_all(&journal).unwrap();
        if !whole_folder {
            std::fs::create_dir(&journal).unwrap();
        }
        let opened = if key_too {
            std::fs::remove_file(dir.path().join("store.key")).unwrap();
            Store::create(&options(dir.path()))
        } else {
            Store::open(&options(dir.path()))
        };
        assert!(matches!(opened, Err(StoreError::Damaged { .. })), "{opened:?}");
        assert_eq!(pack_files(dir.path()).len(), 1);
        assert!(!journal.join("keys").exists());
    }
    // The control: a store that was never used may begin its journal again.
    let (dir, store) = fresh();
    drop(store);
    for gone in ["journal", "index"] {
        std::fs::remove_dir_all(dir.path().join(gone)).unwrap();
    }
    drop(open(dir.path()));
}

/// A fetch put an empty pack in the place of one with a flipped byte in its header, an own one too.
#[test]
fn a_fetch_mends_a_header_and_begins_nothing_anew() {
    let (dir, store) = fresh();
    let own = object(3, 4);
    own.publish(&store, b"r").unwrap();
    drop(store);
    let path = pack_files(dir.path()).remove(0);
    flip(&path, 100);
    let store = open(dir.path()).store;
    let pack = own.begin_fetch(&store);
    assert_eq!(pack.present(), own.geometry.total());
    assert!(own.positions().into_iter().all(|p| pack.read(p).unwrap() == own.sealed(p)));
    assert!(store.object(&own.cap.root).unwrap().complete);
    assert_eq!(pack_files(dir.path()), [path]);
}

/// A fetch of one object put its new pack over the only pack of another that lay in its place.
#[test]
fn a_fetch_takes_no_pack_of_another_object() {
    let (dir, store) = fresh();
    let (one, two) = (object(3, 4), object(4, 4));
    one.publish(&store, b"r").unwrap();
    let first = pack_files(dir.path()).remove(0);
    two.publish(&store, b"r").unwrap();
    let second = pack_files(dir.path()).into_iter().find(|path| *path != first).unwrap();
    drop(store);
    std::fs::rename(&second, &first).unwrap(); // that of the first object is gone
    let store = open(dir.path()).store;
    assert_eq!(one.begin_fetch(&store).present(), 1);
    let pack = store.pack(&two.cap.root).unwrap();
    assert!(two.positions().into_iter().all(|p| pack.read(p).unwrap() == two.sealed(p)));
}

/// The pack of one object under the name of another, with a damaged header, got a header of the other:
/// blocks of both would have been sealed under one key and one nonce.
#[test]
fn no_pack_becomes_that_of_another_object() {
    let (dir, store) = fresh();
    let (one, two) = (object(3, 4), object(4, 4));
    one.publish(&store, b"r").unwrap();
    let first = pack_files(dir.path()).remove(0);
    two.publish(&store, b"r").unwrap();
    let second = pack_files(dir.path()).into_iter().find(|path| *path != first).unwrap();
    drop(store);
    std::fs::copy(&second, &first).unwrap();
    flip(&first, 100);
    let foreign = std::fs::read(&first).unwrap();
    let store = open(dir.path()).store;
    assert_eq!(one.begin_fetch(&store).present(), 1);
    assert!(std::fs::read(first.with_added_extension("misplaced")).unwrap() == foreign);
}

/// What cannot be mended is kept beside the new pack, each under a name of its own.
#[test]
fn a_fetch_keeps_what_it_cannot_mend() {
    let (dir, store) = fresh();
    let own = object(3, 4);
    own.publish(&store, b"r").unwrap();
    let path = pack_files(dir.path()).remove(0);
    drop(store);
    for round in 1..=3 {
        std::fs::write(&path, [round; 5000]).unwrap();
        let store = open(dir.path()).store;
        assert_eq!(own.begin_fetch(&store).present(), 1);
        assert_eq!(pack_files(dir.path()).len(), 1 + usize::from(round));
    }
    for (name, byte) in [("misplaced", 1), ("misplaced2", 2), ("misplaced3", 3)] {
        assert_eq!(std::fs::read(path.with_added_extension(name)).unwrap(), [byte; 5000]);
    }
}

/// The sweep and gc removed packs under names that no row gives while the places of kept objects were
/// empty: a renamed folder cost everything in it.
#[test]
fn a_pack_under_a_wrong_name_goes_home_while_its_place_is_empty() {
    let (dir, store) = fresh();
    let own = object(3, 4);
    own.publish(&store, b"r").unwrap();
    let path = pack_files(dir.path()).remove(0);
    // Beside it one that can be read and is of nothing kept, and one of which nobody can tell.
    object(4, 4).publish(&store, b"r").unwrap();
    let removed = pack_files(dir.path()).into_iter().find(|other| *other != path).unwrap();
    let bytes = std::fs::read(&removed).unwrap();
    store.remove(&object(4, 4).cap.root).unwrap();
    let elsewhere = path.parent().unwrap().with_file_name("zz");
    std::fs::rename(path.parent().unwrap(), &elsewhere).unwrap();
    std::fs::write(elsewhere.join("removed.pack"), bytes).unwrap();
    let unknown = elsewhere.join("unknown.pack");
    std::fs::write(&unknown, [7; 5000]).unwrap();
    assert_eq!(store.gc(true).unwrap().files, 1);
    drop(store);
    let opened = open(dir.path());
    assert!(opened.lost.is_empty());
    assert_eq!(sorted(pack_files(dir.path())), sorted(vec![path, unknown]));
    let pack = opened.store.pack(&own.cap.root).unwrap();
    assert!(own.positions().into_iter().all(|p| pack.read(p).unwrap() == own.sealed(p)));
    // The control: with every pack in its place nothing else is a last trace.
    assert_eq!(opened.store.gc(false).unwrap().files, 1);
}

/// A journal that lost its end after a clean close was taken for the journal of a kill, and the packs of
/// the objects in that end were swept. The sealed index knows better.
#[test]
fn a_journal_that_lost_its_end_is_damaged() {
    let (dir, store) = fresh();
    object(3, 4).publish(&store, b"r").unwrap();
    drop(store);
    let segment = dir.path().join("journal/00000001.log");
    let old = std::fs::read(&segment).unwrap();
    let store = open(dir.path()).store;
    let late = object(4, 4);
    late.publish(&store, b"s").unwrap();
    let all = store.objects();
    drop(store);
    assert!(dir.path().join("index/seal").exists());
    std::fs::write(&segment, old).unwrap();
    let opened = open(dir.path());
    assert_eq!((opened.damaged_records, opened.objects.len()), (1, 1));
    assert!(opened.store.was_damaged());
    assert_eq!(opened.store.gc(false).unwrap().files, 0);
    // A kill now, before anything was adopted, loses nothing either.
    let killed = as_if_killed(dir.path());
    let again = open(killed.path());
    assert!(again.damaged_records == 1 && pack_files(killed.path()).len() == 2);
    assert_eq!(again.store.adopt(|_| None).unwrap().found, [late.cap.root]);
    assert_eq!(opened.store.adopt(|_| None).unwrap().found, [late.cap.root]);
    assert_eq!(opened.store.objects(), all, "with all that the index knew of it");
    drop(opened);
    let opened = open(dir.path());
    assert!(opened.objects == all && !opened.index_rebuilt);
    // The control: with the loss accepted the journal is whole again.
    opened.store.compact(&opened.records).unwrap();
    drop(opened);
    let opened = open(dir.path());
    assert_eq!((opened.damaged_records, opened.objects), (0, all));
}

/// In a store that had lost rows a removed object came back when its file outlived the removal.
#[test]
fn an_acknowledged_removal_stays() {
    let (dir, store) = fresh();
    store.append(&[vec![9; 100]]).unwrap();
    let (gone, other) = (object(3, 4), object(4, 4));
    gone.publish(&store, b"r").unwrap();
    drop(store);
    let segment = dir.path().join("journal/00000001.log");
    flip(&segment, 17 + 60);
    let path = pack_files(dir.path()).remove(0);
    let bytes = std::fs::read(&path).unwrap();
    let opened = open(dir.path());
    assert_eq!(opened.damaged_records, 1);
    opened.store.adopt(|_| None).unwrap();
    opened.store.remove(&gone.cap.root).unwrap();
    drop(opened);
    std::fs::write(&path, &bytes).unwrap(); // the power went before the disk had forgotten the name
    let opened = open(dir.path());
    assert!(opened.store.adopt(|_| None).unwrap().found.is_empty());
    assert!(pack_files(dir.path()).is_empty());
    // The control: what was added again after its removal is kept.
    gone.publish(&opened.store, b"again").unwrap();
    other.publish(&opened.store, b"r").unwrap();
    drop(opened);
    assert_eq!(open(dir.path()).store.adopt(|_| None).unwrap().found, []);
    assert_eq!(open(dir.path()).objects.len(), 2);
}

fn sorted(mut paths: Vec<PathBuf>) -> Vec<PathBuf> {
    paths.sort();
    paths
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}
