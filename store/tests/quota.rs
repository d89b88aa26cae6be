//! How much is kept: the quota, what gives way, the free space that is left, and full disks.

#![allow(clippy::unwrap_used, clippy::panic)] // a helper that fails fails its test

mod kit;

use kit::faulty::Faulty;
use kit::{Object, object, options};
use kith_crypto::content::{Position, Root, Sealed};
use kith_store::backend::Backend;
use kith_store::{Class, Limits, Opened, Room, Store, StoreError};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const DIR: &str = "/store";
const DAY: u64 = 86_400;

fn create(disk: &Faulty) -> Store {
    Store::create_on(Arc::new(disk.clone()), &options(Path::new(DIR))).unwrap().store
}

fn open(disk: &Faulty) -> Opened {
    Store::open_on(Arc::new(disk.clone()), &options(Path::new(DIR))).unwrap()
}

fn memory() -> (Faulty, Store) {
    let disk = Faulty::default();
    let store = create(&disk);
    (disk, store)
}

/// A quota of so many objects of one block.
fn limits(objects: u64) -> Limits {
    Limits { quota: objects * Store::pack_len(1), keep_free: 0 }
}

fn fetch(store: &Store, thing: &Object, class: Class, day: u64) -> Result<(), StoreError> {
    let (tree, root) = thing.tree();
    let cap = thing.cap.verify_cap();
    let pack = store.begin_fetch_as(class, &cap, Some(&thing.cap.key), &root, tree.geometry(), day * DAY)?;
    let mut tree = tree;
    pack.write(root)?;
    for s in thing.blocks.iter().filter(|s| s.position != Position::Root) {
        pack.write(tree.verify(s.position, s.bytes.clone()).unwrap())?;
    }
    drop(pack);
    store.mark_complete(&thing.cap.root)
}

fn kept(store: &Store) -> Vec<Root> {
    store.objects().into_iter().map(|info| info.root).collect()
}

fn has(store: &Store, thing: &Object) -> bool {
    kept(store).contains(&thing.cap.root)
}

#[track_caller]
fn no_room<T>(result: Result<T, StoreError>) -> (Room, u64, u64) {
    match result {
        Err(StoreError::NoRoom { what, needed, available, .. }) => (what, needed, available),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("there was room"),
    }
}

#[test]
fn what_is_fetched_gives_way_to_what_is_fetched() {
    let (disk, store) = memory();
    store.set_limits(limits(10)); // a cache of two
    let things: Vec<_> = (1..5).map(|seed| object(seed, 1)).collect();
    fetch(&store, &things[0], Class::Cached, 1).unwrap();
    fetch(&store, &things[1], Class::Cached, 2).unwrap();
    store.used(&things[0].cap.root, 3 * DAY).unwrap();
    assert!(store.take_evicted().is_empty());
    fetch(&store, &things[2], Class::Cached, 3).unwrap();
    assert_eq!(store.take_evicted(), [things[1].cap.root], "it was used least recently");
    assert!(store.take_evicted().is_empty(), "each is told once");
    assert_eq!(store.usage().evicted, 1);
    assert!(!has(&store, &things[1]) && matches!(store.pack(&things[1].cap.root), Err(StoreError::NotFound)));
    drop(store);

    // Days and classes are remembered.
    let store = open(&disk).store;
    store.set_limits(limits(10));
    assert_eq!(store.usage().objects, [0, 0, 2, 0]);
    store.pin(&things[0].cap.root).unwrap();
    fetch(&store, &things[3], Class::Cached, 4).unwrap();
    assert!(has(&store, &things[0]) && has(&store, &things[2]) && has(&store, &things[3]));
    assert_eq!(store.usage().objects, [0, 1, 2, 0]);
    drop(store);
    let store = open(&disk).store;
    assert_eq!(store.object(&things[0].cap.root).unwrap().class, Class::Pinned);
    store.set_limits(limits(10));
    store.unpin(&things[0].cap.root, 9 * DAY).unwrap();
    assert_eq!(store.gc(false).unwrap().objects.len(), 1, "the cache holds three where two are allowed");
    assert!(has(&store, &things[0]) && !has(&store, &things[2]));
    assert_eq!(files(&disk, "packs").len(), 2);
}

fn files(disk: &Faulty, dir: &str) -> Vec<std::path::PathBuf> {
    let dir = Path::new(DIR).join(dir);
    disk.memory.files().into_iter().map(|(path, _)| path).filter(|path| path.starts_with(&dir)).collect()
}

#[test]
fn a_use_is_written_once_a_day() {
    let (_, store) = memory();
    let thing = object(1, 1);
    fetch(&store, &thing, Class::Cached, 1).unwrap();
    let len = || store.stats().journal_bytes;
    let mut before = len();
    for (moment, grows) in
        [(DAY + 5, false), (2 * DAY, true), (2 * DAY + 50, false), (DAY, false), (9 * DAY, true)]
    {
        store.used(&thing.cap.root, moment).unwrap();
        assert_eq!(len() > before, grows, "at {moment}");
        before = len();
    }
    assert_eq!(store.object(&thing.cap.root).unwrap().used_day, 9);
    store.used(&Root([9; 32]), DAY).unwrap(); // not here: nothing to remember
}

#[test]
fn own_videos_push_out_copies_and_are_refused_in_numbers() {
    let (disk, store) = memory();
    store.set_limits(limits(4));
    let len = Store::pack_len(1);
    let (a, b, mirror) = (object(1, 1), object(2, 1), object(3, 1));
    fetch(&store, &mirror, Class::Mirrored, 1).unwrap();
    fetch(&store, &a, Class::Cached, 1).unwrap();
    let own: Vec<_> = (10..15).map(|seed| object(seed, 1)).collect();
    own[..3].iter().for_each(|thing| thing.publish(&store, b"r").unwrap());
    assert!(!has(&store, &a) && has(&store, &mirror), "the cache was above its share, the mirror not");
    own[3].publish(&store, b"r").unwrap();
    assert!(!has(&store, &mirror));
    let (what, needed, available) = no_room(own[4].publish(&store, b"r"));
    assert_eq!((what, available), (Room::Quota, 0));
    assert!(needed > 0 && needed <= len);
    assert_eq!(no_room(store.room_for(16)), (Room::Quota, Store::pack_len(16), 0));
    assert_eq!(no_room(fetch(&store, &b, Class::Cached, 2)), (Room::Quota, len, 0));
    assert_eq!(store.objects().len(), 4);
    assert_eq!(files(&disk, "packs").len(), 4, "nothing half is left");
    assert_eq!(store.usage().claimed_bytes, 0);

    store.set_limits(limits(5));
    own[4].publish(&store, b"r").unwrap();
    // A quota that was lowered refuses what is new and touches nothing that is kept.
    store.set_limits(limits(2));
    assert_eq!(store.gc(false).unwrap().objects, []);
    assert_eq!(store.objects().len(), 5);
    assert_eq!(no_room(object(20, 1).publish(&store, b"")).2, 0);
}

#[test]
fn pinned_videos_count_like_own_ones() {
    let (_, store) = memory();
    store.set_limits(limits(2));
    let (own, cached) = (object(1, 1), object(2, 1));
    own.publish(&store, b"").unwrap();
    fetch(&store, &cached, Class::Cached, 1).unwrap(); // larger than its share, and there is room
    store.set_limits(limits(1));
    assert_eq!(no_room(store.pin(&cached.cap.root)), (Room::Quota, Store::pack_len(1), 0));
    store.set_limits(limits(2));
    assert_eq!(store.pin(&cached.cap.root).unwrap().class, Class::Pinned);
    assert_eq!(no_room(object(3, 1).publish(&store, b"")).0, Room::Quota);
    assert_eq!(store.pin(&own.cap.root).unwrap().class, Class::Own);
    assert_eq!(store.unpin(&own.cap.root, 1).unwrap().class, Class::Own);
    assert!(matches!(store.pin(&Root([7; 32])), Err(StoreError::NotFound)));
}

#[test]
fn what_is_read_or_in_use_does_not_give_way() {
    let (_, store) = memory();
    store.set_limits(limits(10));
    let (a, b) = (object(1, 1), object(2, 1));
    fetch(&store, &a, Class::Cached, 1).unwrap();
    fetch(&store, &b, Class::Cached, 2).unwrap();
    let publish = |seed| object(seed, 1).publish(&store, b"");
    (10..18).for_each(|seed| publish(seed).unwrap());
    let (reading, using) = (store.pack(&a.cap.root).unwrap(), store.begin_use(&b.cap.root));
    assert_eq!(no_room(publish(20)).0, Room::Quota);
    assert_eq!(reading.read(Position::Data(0)).unwrap(), a.sealed(Position::Data(0)));
    drop(reading);
    publish(20).unwrap();
    assert!(!has(&store, &a) && has(&store, &b));
    assert!(publish(21).is_err());
    drop(using);
    publish(21).unwrap();
    assert_eq!(store.usage().objects, [10, 0, 0, 0]);
}

#[test]
fn two_fetches_that_fit_alone_do_not_begin_together() {
    let (disk, store) = memory();
    store.set_limits(Limits { quota: Store::pack_len(16) + Store::pack_len(1), keep_free: 0 });
    let things = [object(1, 16), object(2, 16)];
    let begin = |thing: &Object| {
        let (tree, root) = thing.tree();
        store.begin_fetch(&thing.cap.verify_cap(), None, &root, tree.geometry(), DAY)
    };
    let first = begin(&things[0]).unwrap();
    assert_eq!(first.present(), 1, "hardly anything has come");
    let (what, needed, available) = no_room(begin(&things[1]));
    assert_eq!((what, needed, available), (Room::Quota, Store::pack_len(16), Store::pack_len(1)));
    assert_eq!(files(&disk, "packs").len(), 1);
    // Given up, the first is a part of the cache like any other.
    drop(first);
    begin(&things[1]).unwrap();
    assert_eq!(store.take_evicted(), [things[0].cap.root]);
}

#[test]
fn a_publication_takes_room_as_it_grows() {
    let (disk, store) = memory();
    let small = Store::pack_len(1);
    store.set_limits(Limits { quota: Store::pack_len(16) + small, keep_free: 0 });
    let (cached, big, other) = (object(1, 1), object(2, 16), object(3, 16));
    fetch(&store, &cached, Class::Cached, 1).unwrap();
    let mut first = store.publish().unwrap();
    let mut second = store.publish().unwrap();
    let sealed = |s: &Sealed| Sealed { position: s.position, bytes: s.bytes.clone() };
    for s in &big.blocks[..8] {
        first.write(sealed(s)).unwrap();
    }
    assert!(has(&store, &cached), "it gives way when it must");
    let mut written = 0;
    let refused = other.blocks.iter().find_map(|s| {
        written += 1;
        second.write(sealed(s)).err()
    });
    assert_eq!(no_room(Err::<(), _>(refused.unwrap())).0, Room::Quota);
    assert!(!has(&store, &cached) && written > 5, "{written}");
    drop(second);
    assert_eq!(store.gc(true).unwrap().files, 0, "what is being written is no leftover");
    for s in &big.blocks[8..] {
        first.write(sealed(s)).unwrap();
    }
    first.commit(&big.cap, big.geometry, 1, b"r".to_vec()).unwrap();
    assert_eq!((store.usage().total(), store.usage().claimed_bytes), (Store::pack_len(16), 0));
    assert_eq!(files(&disk, "packs").len(), 1);
}

#[test]
fn gc_lists_and_sums() {
    let (disk, store) = memory();
    let (a, b) = (object(1, 1), object(2, 1));
    fetch(&store, &a, Class::Cached, 1).unwrap();
    fetch(&store, &b, Class::Cached, 2).unwrap();
    let leftover = Path::new(DIR).join("packs/tmp/abandoned");
    disk.create(&leftover).unwrap().write_at(0, &[1; 100]).unwrap();
    let strange = Path::new(DIR).join("packs/ff");
    disk.make_dir(&strange).unwrap();
    disk.create(&strange.join("nobodys.pack")).unwrap().write_at(0, &[1; 1000]).unwrap();
    store.set_limits(limits(6)); // a share of one and a bit
    let dry = store.gc(true).unwrap();
    assert_eq!(dry.objects.iter().map(|o| o.root).collect::<Vec<_>>(), [a.cap.root]);
    assert_eq!((dry.files, dry.bytes), (2, Store::pack_len(1) + 1100));
    assert_eq!((store.objects().len(), files(&disk, "packs").len()), (2, 4));
    assert_eq!(store.gc(false).unwrap(), dry);
    assert_eq!((store.objects().len(), files(&disk, "packs").len()), (1, 1));
    let nothing = store.gc(false).unwrap();
    assert_eq!((nothing.objects.len(), nothing.files, nothing.bytes), (0, 0, 0));
}

#[test]
fn the_disk_keeps_what_is_to_stay_free() {
    let (disk, store) = memory();
    let len = Store::pack_len(1);
    let (a, b) = (object(1, 1), object(2, 1));
    fetch(&store, &a, Class::Cached, 1).unwrap();
    disk.leave_free(2 * len);
    store.set_limits(Limits { quota: u64::MAX, keep_free: 2 * len });
    // The cached one gives way, and then there is room again.
    fetch(&store, &b, Class::Cached, 2).unwrap();
    assert_eq!(store.take_evicted(), [a.cap.root]);
    let reading = store.pack(&b.cap.root).unwrap();
    let own = object(3, 1);
    let (what, needed, available) = no_room(own.publish(&store, b""));
    assert_eq!(what, Room::Disk);
    assert!(needed > available, "{needed} {available}");
    assert_eq!(no_room(store.room_for(1)).0, Room::Disk);
    drop(reading);
    own.publish(&store, b"").unwrap();
    assert!(!has(&store, &b));
    // While a fetch grows somebody else may fill the disk.
    disk.leave_free(len);
    assert_eq!(no_room(store.keep_floor()).0, Room::Disk);
    store.set_limits(Limits { quota: u64::MAX, keep_free: 0 });
    store.keep_floor().unwrap();
    // Without a floor a video that cannot fit is still refused before it is begun.
    assert_eq!(no_room(fetch(&store, &object(4, 16), Class::Cached, 3)).0, Room::Disk);
    assert_eq!(store.objects().len(), 1);
}

// Full and broken disks.

#[test]
fn a_full_disk_refuses_and_goes_on_when_there_is_room() {
    let (disk, store) = memory();
    let (a, b) = (object(1, 1), object(2, 1));
    a.publish(&store, b"one").unwrap();
    let (mut view, _) = store.view_log(&[7; 32]).unwrap();
    view.append(&[b"seen".to_vec()]).unwrap();
    for free in [0, 1, 30, 50] {
        disk.leave_free(free);
        let refused = store.append(&[b"lost".to_vec(), vec![0; 100]]);
        match refused {
            Err(StoreError::Full { needed, available, .. }) => {
                assert!(needed > 100 && available <= free, "{needed} {available}");
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(view.append(&[vec![1; 100]]), Err(StoreError::Full { .. })));
        assert!(matches!(store.compact(&[b"x".to_vec()]), Err(StoreError::Full { .. })));
        assert!(matches!(view.rewrite(&[b"x".to_vec()]), Err(StoreError::Full { .. })));
        no_room(fetch(&store, &b, Class::Cached, 1));
        assert!(!store.read_only());
        assert!(store.pack(&a.cap.root).unwrap().read(Position::Head).is_ok(), "reading goes on");
    }
    // A row that finds no room leaves nothing behind.
    // A publication writes one of the two maps of a page each.
    disk.leave_free(Store::pack_len(1) - 4096 + 10);
    let before = files(&disk, "packs").len();
    let refused = b.publish(&store, &[9; 1000]);
    assert!(matches!(refused, Err(StoreError::Full { .. })), "{refused:?}");
    assert_eq!(files(&disk, "packs").len(), before);
    disk.leave_free(10 << 20);
    store.append(&[b"two".to_vec()]).unwrap();
    view.append(&[b"more".to_vec()]).unwrap();
    b.publish(&store, b"three").unwrap();
    drop((store, view));
    let opened = open(&disk);
    assert_eq!(opened.records, [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]);
    assert_eq!((opened.damaged_records, opened.torn_bytes, opened.store.objects().len()), (0, 0, 2));
    assert_eq!(opened.store.view_log(&[7; 32]).unwrap().1, [b"seen".to_vec(), b"more".to_vec()]);
}

/// What found no room must not come back: the next attempt may say something else.
#[test]
fn a_refused_record_is_not_replayed() {
    let (disk, store) = memory();
    store.append(&[b"first".to_vec()]).unwrap();
    // The first of two records fits, the second does not.
    disk.leave_free(150);
    assert!(matches!(store.append(&[vec![1; 50], vec![2; 50]]), Err(StoreError::Full { .. })));
    drop(store); // as by a kill: nothing else is written
    disk.leave_free(1 << 20);
    let opened = open(&disk);
    assert_eq!(opened.records, [b"first".to_vec()]);
    assert_eq!(opened.torn_bytes, 0);
}

#[test]
fn a_removal_makes_its_own_room() {
    let (disk, store) = memory();
    let (a, b) = (object(1, 1), object(2, 1));
    a.publish(&store, b"one").unwrap();
    b.publish(&store, b"two").unwrap();
    disk.leave_free(0);
    store.remove(&a.cap.root).unwrap();
    assert!(!store.read_only());
    drop(store);
    let opened = open(&disk);
    assert_eq!(kept(&opened.store), [b.cap.root]);
    assert_eq!(files(&disk, "packs").len(), 1);
}

#[test]
fn a_fetch_that_meets_a_full_disk_keeps_what_came() {
    let (disk, store) = memory();
    let thing = object(1, 4);
    let (mut tree, root) = thing.tree();
    let cap = thing.cap.verify_cap();
    let begin = |store: &Store, tree: &kith_crypto::content::Tree, root: &_| {
        store.begin_fetch(&cap, Some(&thing.cap.key), root, tree.geometry(), 5).unwrap()
    };
    let pack = begin(&store, &tree, &root);
    pack.write(root).unwrap();
    let block = |tree: &mut kith_crypto::content::Tree, i| {
        tree.verify(Position::Data(i), thing.sealed(Position::Data(i))).unwrap()
    };
    pack.write(block(&mut tree, 0)).unwrap();
    disk.leave_free(0);
    match pack.write(block(&mut tree, 1)) {
        Err(StoreError::Full { needed, available, .. }) => assert!(needed > 65_000 && available == 0),
        other => panic!("{other:?}"),
    }
    assert!(!pack.has(Position::Data(1)));
    pack.flush().unwrap(); // both maps have their places on the disk since the pack was begun
    drop((pack, store));
    let store = open(&disk).store;
    let pack = store.pack(&thing.cap.root).unwrap();
    assert!(pack.has(Position::Root) && pack.has(Position::Data(0)));
}

#[test]
fn a_failed_sync_ends_writing_and_says_why() {
    let (disk, store) = memory();
    let thing = object(1, 1);
    thing.publish(&store, b"one").unwrap();
    assert_eq!(store.read_only_reason(), None);
    disk.fail_syncs(true);
    assert!(matches!(store.append(&[b"lost".to_vec()]), Err(StoreError::Io { .. })));
    disk.fail_syncs(false);
    disk.take_written();
    assert!(store.read_only_reason().unwrap().contains("journal"), "{:?}", store.read_only_reason());
    for _ in 0..2 {
        assert!(matches!(store.append(&[b"late".to_vec()]), Err(StoreError::ReadOnly)));
        assert!(matches!(store.publish(), Err(StoreError::ReadOnly)));
        assert!(store.pin(&thing.cap.root).is_ok(), "it is own already");
        assert!(matches!(store.remove(&thing.cap.root), Err(StoreError::ReadOnly)));
        assert!(matches!(store.compact(&[]), Err(StoreError::ReadOnly)));
        assert!(matches!(fetch(&store, &object(2, 1), Class::Cached, 1), Err(StoreError::ReadOnly)));
    }
    assert_eq!(disk.take_written(), Vec::<std::path::PathBuf>::new(), "nothing is tried again");
    assert!(store.pack(&thing.cap.root).unwrap().read(Position::Data(0)).is_ok());
}

/// A publication that began between the look for live files and the look into the folder lost its
/// file, and its rename ended writing.
#[test]
fn gc_leaves_alone_what_begins_meanwhile() {
    let (disk, store) = memory();
    let store = Arc::new(store);
    let (sender, begun) = std::sync::mpsc::channel();
    let other = Arc::clone(&store);
    disk.before_list(&Path::new(DIR).join("packs/tmp"), move || {
        sender.send(other.publish().unwrap()).unwrap();
    });
    assert_eq!(store.gc(false).unwrap().files, 0);
    let (thing, mut publishing) = (object(1, 1), begun.recv().unwrap());
    for s in &thing.blocks {
        publishing.write(Sealed { position: s.position, bytes: s.bytes.clone() }).unwrap();
    }
    publishing.commit(&thing.cap, thing.geometry, 1, b"r".to_vec()).unwrap();
    assert!(has(&store, &thing) && !store.read_only());
}

/// Where space comes back late the whole cache gave way for one block, because nothing seemed to
/// come free.
#[test]
fn space_that_comes_back_late_does_not_cost_the_cache() {
    let (disk, store) = memory();
    let len = Store::pack_len(1);
    let things: Vec<_> = (1..5).map(|seed| object(seed, 1)).collect();
    things.iter().zip(1..).for_each(|(thing, day)| fetch(&store, thing, Class::Cached, day).unwrap());
    disk.tell_free(len);
    store.set_limits(Limits { quota: u64::MAX, keep_free: len + len / 2 });
    store.keep_floor().unwrap();
    assert_eq!(store.take_evicted(), [things[0].cap.root]);
}

/// Objects whose files went to make room for the rows, which found none even so, were not told: the
/// node went on offering them.
#[test]
fn what_is_gone_is_told_though_the_disk_is_full() {
    let (disk, store) = memory();
    let (a, own) = (object(1, 1), object(2, 1));
    fetch(&store, &a, Class::Cached, 1).unwrap();
    own.publish(&store, b"r").unwrap();
    store.set_limits(Limits { quota: Store::pack_len(1), keep_free: 0 });
    disk.hold_at_most(0);
    assert!(matches!(store.gc(false), Err(StoreError::Full { .. })));
    assert_eq!((store.take_evicted(), files(&disk, "packs").len()), (vec![a.cap.root], 1));
    disk.hold_at_most(u64::MAX);
    store.gc(false).unwrap();
    assert_eq!((kept(&store), store.usage().objects), (vec![own.cap.root], [1, 0, 0, 0]));
}

/// A complete object whose pack was lost was begun again, and where the disk had room for the pack
/// and not for the row it went on as complete.
#[test]
fn a_fetch_that_begins_again_is_not_complete() {
    let (disk, store) = memory();
    let thing = object(1, 1);
    fetch(&store, &thing, Class::Cached, 1).unwrap();
    drop(store);
    disk.memory.remove(&files(&disk, "packs")[0]).unwrap();
    let store = open(&disk).store;
    let root = thing.cap.root;
    disk.tell_free(1 << 40);
    let mut refused = 0;
    for free in (0..).step_by(50) {
        disk.leave_free(free);
        let begun = thing.try_begin_fetch(&store);
        let begun_again = store.pack(&root).is_ok_and(|pack| !pack.is_complete());
        assert!(!begun_again || !store.object(&root).unwrap().complete, "with {free} bytes");
        if begun.is_ok() {
            break;
        }
        refused += 1;
    }
    assert!(refused > 100, "{refused}");
}

/// A day of use that the journal lost and the index had: the ledger counted by the journal, so what
/// gave way never left it, and making room went round for ever.
#[test]
fn the_sums_are_those_of_the_index_after_damage() {
    let (dir, store) = kit::fresh();
    let thing = object(3, 16);
    drop(thing.begin_fetch(&store));
    let segment = dir.path().join("journal/00000001.log");
    let at = std::fs::metadata(&segment).unwrap().len();
    store.used(&thing.cap.root, 9 * DAY).unwrap();
    object(4, 1).publish(&store, b"x").unwrap();
    drop(store);
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[usize::try_from(at).unwrap() + 60] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let opened = kit::open(dir.path());
    assert_eq!((opened.damaged_records, opened.index_rebuilt), (1, false));
    let store = opened.store;
    store.adopt(|_| None).unwrap();
    assert_eq!(store.usage().objects, [1, 0, 1, 0]);
    store.set_limits(Limits { quota: 0, keep_free: 0 });
    assert_eq!(store.gc(false).unwrap().objects.len(), 1);
    assert_eq!(store.usage().objects, [1, 0, 0, 0]);
    // It went once and for all: nothing is written about it again.
    let written = store.stats().journal_bytes;
    store.gc(false).unwrap();
    assert_eq!(store.stats().journal_bytes, written);
    assert_eq!(store.usage().total(), Store::pack_len(1));
}

// The ledger equals a recount at any time.

#[derive(Clone, Debug)]
enum Step {
    Publish(u8),
    Fetch(u8, bool),
    Pin(u8),
    Unpin(u8),
    Use(u8, u8),
    Remove(u8),
    Hold(u8),
    LetGo,
    Quota(u8),
    Gc,
    Reopen,
    Abandon(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let seed = 1_u8..9;
    let step = prop_oneof![
        seed.clone().prop_map(Step::Publish),
        (seed.clone(), any::<bool>()).prop_map(|(s, mirror)| Step::Fetch(s, mirror)),
        (seed.clone(), any::<bool>()).prop_map(|(s, mirror)| Step::Fetch(s, mirror)),
        seed.clone().prop_map(Step::Pin),
        seed.clone().prop_map(Step::Unpin),
        (seed.clone(), any::<u8>()).prop_map(|(s, d)| Step::Use(s, d)),
        seed.clone().prop_map(Step::Remove),
        seed.clone().prop_map(Step::Hold),
        Just(Step::LetGo),
        (1_u8..10).prop_map(Step::Quota),
        Just(Step::Gc),
        Just(Step::Reopen),
        seed.prop_map(Step::Abandon),
    ];
    proptest::collection::vec(step, 1..25)
}

/// What a step may do to what is kept: `None` when it was refused.
fn check(store: &Store, before: &BTreeMap<Root, Class>, used: &[Root], step: &Step) {
    let rows = store.objects();
    let (mut objects, mut bytes) = ([0; 4], [0; 4]);
    for info in &rows {
        let index = Class::ALL.iter().position(|c| *c == info.class).unwrap();
        objects[index] += 1;
        bytes[index] += Store::pack_len(info.data_count);
    }
    let usage = store.usage();
    assert_eq!((usage.objects, usage.bytes, usage.claimed_bytes), (objects, bytes, 0), "after {step:?}");
    let now: BTreeMap<Root, Class> = rows.iter().map(|info| (info.root, info.class)).collect();
    for (root, class) in before {
        if now.contains_key(root) || matches!(step, Step::Remove(_)) {
            continue;
        }
        assert!(class.gives_way(), "{class:?} gave way to {step:?}");
        assert!(!used.contains(root), "something in use gave way to {step:?}");
    }
    let grew = now.keys().any(|root| !before.contains_key(root));
    if grew {
        assert!(usage.total() <= store.limits().quota, "{step:?} went beyond the quota");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn the_sums_are_those_of_the_rows(steps in steps()) {
        let disk = Faulty::default();
        let mut store = create(&disk);
        let mut quota = limits(5);
        store.set_limits(quota);
        let things: Vec<_> = (0..9).map(|seed| object(seed, if seed < 6 { 1 } else { 4 })).collect();
        let thing = |seed: &u8| things.get(usize::from(*seed)).unwrap();
        let mut held = Vec::new();
        for step in &steps {
            let before: BTreeMap<Root, Class> = store.objects().iter().map(|i| (i.root, i.class)).collect();
            let used: Vec<Root> = held.iter().map(|(root, _)| *root).collect();
            match step {
                Step::Publish(s) => drop(thing(s).publish(&store, b"r")),
                Step::Fetch(s, mirror) => {
                    let class = if *mirror { Class::Mirrored } else { Class::Cached };
                    drop(fetch(&store, thing(s), class, 1));
                }
                Step::Pin(s) => drop(store.pin(&thing(s).cap.root)),
                Step::Unpin(s) => drop(store.unpin(&thing(s).cap.root, DAY)),
                Step::Use(s, day) => store.used(&thing(s).cap.root, u64::from(*day) * DAY).unwrap(),
                Step::Remove(s) => drop(store.remove(&thing(s).cap.root)),
                Step::Hold(s) => {
                    let root = thing(s).cap.root;
                    held.push((root, store.begin_use(&root)));
                }
                Step::LetGo => held.clear(),
                Step::Quota(n) => {
                    quota = limits(u64::from(*n));
                    store.set_limits(quota);
                }
                Step::Gc => drop(store.gc(false).unwrap()),
                Step::Reopen => {
                    held.clear();
                    drop(store);
                    store = open(&disk).store;
                    store.set_limits(quota);
                }
                Step::Abandon(s) => {
                    let mut publishing = store.publish().unwrap();
                    for s in thing(s).blocks.iter().take(2) {
                        drop(publishing.write(Sealed { position: s.position, bytes: s.bytes.clone() }));
                    }
                }
            }
            check(&store, &before, &used, step);
            let packs = files(&disk, "packs").len();
            prop_assert_eq!(packs, store.objects().len(), "a file for each object after {:?}", step);
        }
    }
}
