//! Objects in the store: published, fetched, damaged, removed.

mod kit;

use kit::{as_if_killed, files, fresh, object, open, pack_files, plain};
use kith_crypto::content::{Head, Position, ReadKeys, Sealed, Tree};
use kith_store::StoreError;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

const PLACE: u64 = 65_568;

fn place(slot: u64) -> u64 {
    4096 + slot * PLACE
}

#[test]
fn a_published_object_is_read_back_through_its_tree() {
    let (dir, store) = fresh();
    let thing = object(1, 5);
    thing.publish(&store, b"entry").unwrap();
    drop(store);
    let opened = open(dir.path());
    assert_eq!(opened.records, [b"entry"]);
    let info = opened.store.object(&thing.cap.root).unwrap();
    assert!(info.is_own() && info.complete && info.read == Some(thing.cap.key.clone()));
    assert_eq!((info.data_count, info.added_unix_s), (5, 1_700_000_000));
    let pack = opened.store.pack(&thing.cap.root).unwrap();
    assert_eq!((pack.present(), pack.geometry()), (7, thing.geometry));
    let verify = thing.cap.verify_cap();
    let (mut tree, _) = Tree::open(&verify, pack.read(Position::Root).unwrap()).unwrap();
    let keys = ReadKeys::new(&thing.cap.key);
    for i in 0..5 {
        let block = tree.verify(Position::Data(i), pack.read(Position::Data(i)).unwrap()).unwrap();
        let mut bytes = block.into_bytes();
        keys.open(Position::Data(i), &mut bytes).unwrap();
        assert!(bytes == plain(1, i), "block {i}");
    }
    let mut head = tree.verify(Position::Head, pack.read(Position::Head).unwrap()).unwrap().into_bytes();
    keys.open(Position::Head, &mut head).unwrap();
    assert_eq!(Head::decode(&head).unwrap().title, kit::TITLE);
    assert!(matches!(pack.read(Position::Data(5)), Err(StoreError::NotFound)));
}

#[test]
fn a_tree_of_two_levels_fits_as_well() {
    let (dir, store) = fresh();
    let thing = object(2, 2048);
    thing.publish(&store, b"").unwrap();
    drop(store);
    let pack = open(dir.path()).store.pack(&thing.cap.root).unwrap();
    assert_eq!(pack.present(), 2048 + 2 + 2);
    for position in thing.positions() {
        assert!(pack.read(position).unwrap() == thing.sealed(position), "{position:?}");
    }
}

#[test]
fn an_interrupted_publish_leaves_nothing() {
    let (dir, store) = fresh();
    let thing = object(3, 2);
    let mut publishing = store.publish().unwrap();
    for s in &thing.blocks {
        publishing.write(Sealed { position: s.position, bytes: s.bytes.clone() }).unwrap();
    }
    let killed = as_if_killed(dir.path());
    assert_eq!(pack_files(killed.path()).len(), 1);
    assert!(open(killed.path()).store.objects().is_empty());
    assert!(pack_files(killed.path()).is_empty());
    drop(publishing);
    assert!(pack_files(dir.path()).is_empty());
}

#[test]
fn a_pack_whose_row_was_never_written_is_swept() {
    let (dir, store) = fresh();
    let before = as_if_killed(dir.path());
    object(3, 1).publish(&store, b"").unwrap();
    let pack = pack_files(dir.path()).remove(0);
    let target = before.path().join(pack.strip_prefix(dir.path()).unwrap());
    std::fs::create_dir_all(target.parent().unwrap()).unwrap();
    std::fs::copy(&pack, &target).unwrap();
    drop(open(before.path()));
    assert!(!target.exists());
}

#[test]
fn a_publish_that_does_not_add_up_is_refused() {
    let (dir, store) = fresh();
    let (thing, other) = (object(4, 2), object(5, 2));
    let mut twice = store.publish().unwrap();
    let block =
        |i: usize| Sealed { position: thing.blocks[i].position, bytes: thing.blocks[i].bytes.clone() };
    twice.write(block(0)).unwrap();
    assert!(matches!(twice.write(block(0)), Err(StoreError::Misuse(_))));
    assert!(matches!(twice.commit(&thing.cap, thing.geometry, 0, vec![]), Err(StoreError::Misuse(_))));
    let mut swapped = store.publish().unwrap();
    (0..4).for_each(|i| swapped.write(block(i)).unwrap());
    assert!(matches!(swapped.commit(&other.cap, other.geometry, 0, vec![]), Err(StoreError::Misuse(_))));
    assert!(store.objects().is_empty() && pack_files(dir.path()).is_empty());
}

#[test]
fn an_interrupted_fetch_goes_on_with_what_was_marked() {
    let (dir, store) = fresh();
    let thing = object(6, 8);
    let pack = thing.begin_fetch(&store);
    let (mut tree, _) = thing.tree();
    let mut put = |pack: &kith_store::Pack, i| {
        let p = Position::Data(i);
        pack.write(tree.verify(p, thing.sealed(p)).unwrap()).unwrap();
    };
    (0..3).for_each(|i| put(&pack, i));
    pack.flush().unwrap();
    (3..5).for_each(|i| put(&pack, i));
    assert!(pack.has(Position::Data(4)) && pack.present() == 6);
    let killed = as_if_killed(dir.path());
    let store = open(killed.path()).store;
    let info = store.object(&thing.cap.root).unwrap();
    assert!(!info.complete && !info.is_own() && info.added_unix_s == 5);
    let again = thing.begin_fetch(&store);
    assert_eq!(again.present(), 4, "root and three marked blocks");
    assert!(again.has(Position::Data(2)) && !again.has(Position::Data(3)));
    assert!(matches!(again.read(Position::Data(3)), Err(StoreError::NotFound)));
    assert!(store.mark_complete(&thing.cap.root).is_err());
    (0..8).for_each(|i| put(&again, i));
    let head = tree.verify(Position::Head, thing.sealed(Position::Head)).unwrap();
    again.write(head).unwrap();
    store.mark_complete(&thing.cap.root).unwrap();
    let finished = as_if_killed(killed.path());
    let store = open(finished.path()).store;
    assert!(store.object(&thing.cap.root).unwrap().complete);
    let pack = store.pack(&thing.cap.root).unwrap();
    assert_eq!(pack.present(), thing.geometry.total());
    for position in thing.positions() {
        assert!(pack.read(position).unwrap() == thing.sealed(position));
    }
}

#[test]
fn dropping_a_pack_saves_its_marks() {
    let (dir, store) = fresh();
    let thing = object(6, 2);
    let pack = thing.begin_fetch(&store);
    let (mut tree, _) = thing.tree();
    pack.write(tree.verify(Position::Data(1), thing.sealed(Position::Data(1))).unwrap()).unwrap();
    drop((pack, store));
    assert!(open(dir.path()).store.pack(&thing.cap.root).unwrap().has(Position::Data(1)));
}

#[test]
fn one_torn_map_leaves_the_other() {
    let (dir, store) = fresh();
    let thing = object(7, 4);
    let pack = thing.begin_fetch(&store);
    let (mut tree, _) = thing.tree();
    for i in 0..2 {
        pack.write(tree.verify(Position::Data(i), thing.sealed(Position::Data(i))).unwrap()).unwrap();
        pack.flush().unwrap();
    }
    drop((pack, store));
    let map_a = place(thing.geometry.total()).next_multiple_of(4096);
    let file = std::fs::OpenOptions::new().write(true).open(&pack_files(dir.path())[0]).unwrap();
    for (copy, expected) in [(1, 2), (0, 0)] {
        // Generation 3 stands in copy B, generation 2 in copy A.
        file.write_all_at(&[0xee; 100], map_a + copy * 4096).unwrap();
        let pack = open(dir.path()).store.pack(&thing.cap.root).unwrap();
        assert_eq!(pack.present(), expected, "after copy {copy} was torn");
    }
}

#[test]
fn fetches_check_what_they_are_given() {
    let (_dir, store) = fresh();
    let (a, b) = (object(8, 1), object(9, 2));
    let ((tree, root), (other_tree, other)) = (a.tree(), b.tree());
    let cap = a.cap.verify_cap();
    let refused = [
        store.begin_fetch(&cap, None, &other, tree.geometry(), 0),
        store.begin_fetch(&cap, None, &root, other_tree.geometry(), 0),
        store.begin_fetch(&cap, Some(&b.cap.key), &root, tree.geometry(), 0),
    ];
    assert!(refused.into_iter().all(|r| matches!(r, Err(StoreError::Misuse(_)))));
    store.begin_fetch(&cap, None, &root, tree.geometry(), 0).unwrap();
    assert_eq!(store.object(&a.cap.root).unwrap().read, None);
    let pack = a.begin_fetch(&store);
    assert_eq!(store.object(&a.cap.root).unwrap().read, Some(a.cap.key.clone()));
    let same = store.pack(&a.cap.root).unwrap();
    assert!(std::sync::Arc::ptr_eq(&pack, &same));
}

#[test]
fn a_flipped_byte_makes_the_block_absent_until_it_is_written_again() {
    let (dir, store) = fresh();
    let thing = object(10, 3);
    thing.publish(&store, b"").unwrap();
    let file = std::fs::File::options().read(true).write(true).open(&pack_files(dir.path())[0]).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, place(1) + 777).unwrap();
    file.write_all_at(&[byte[0] ^ 1], place(1) + 777).unwrap();
    let pack = store.pack(&thing.cap.root).unwrap();
    let p = Position::Data(1);
    assert!(pack.has(p));
    assert!(matches!(pack.read(p), Err(StoreError::DamagedBlock(Position::Data(1)))));
    assert!(!pack.has(p) && pack.present() == thing.geometry.total() - 1);
    let (mut tree, _) = thing.tree();
    pack.write(tree.verify(p, thing.sealed(p)).unwrap()).unwrap();
    assert!(pack.read(p).unwrap() == thing.sealed(p));
    drop((pack, store));
    assert!(open(dir.path()).store.pack(&thing.cap.root).unwrap().is_complete());
}

#[test]
fn misplaced_and_missing_blocks_are_noticed() {
    let (dir, store) = fresh();
    let thing = object(11, 4);
    thing.publish(&store, b"").unwrap();
    let file = std::fs::File::options().read(true).write(true).open(&pack_files(dir.path())[0]).unwrap();
    let (mut one, mut two) = (vec![0; PLACE as usize], vec![0; PLACE as usize]);
    file.read_exact_at(&mut one, place(0)).unwrap();
    file.read_exact_at(&mut two, place(2)).unwrap();
    file.write_all_at(&two, place(0)).unwrap();
    file.write_all_at(&one, place(2)).unwrap();
    let pack = store.pack(&thing.cap.root).unwrap();
    for i in [0, 2] {
        assert!(matches!(pack.read(Position::Data(i)), Err(StoreError::DamagedBlock(_))));
    }
    pack.read(Position::Data(1)).unwrap();
    file.set_len(place(3) + 10).unwrap();
    assert!(matches!(pack.read(Position::Data(3)), Err(StoreError::DamagedBlock(_))));
}

#[test]
fn a_lost_or_foreign_pack_file_is_refused_and_fetched_anew() {
    let (dir, store) = fresh();
    let (a, b) = (object(12, 1), object(13, 1));
    a.publish(&store, b"").unwrap();
    let file_a = pack_files(dir.path()).remove(0);
    b.publish(&store, b"").unwrap();
    let file_b = pack_files(dir.path()).into_iter().find(|p| *p != file_a).unwrap();
    std::fs::copy(&file_b, &file_a).unwrap();
    assert!(matches!(store.pack(&a.cap.root), Err(StoreError::Damaged { .. })));
    std::fs::remove_file(&file_b).unwrap();
    assert!(matches!(store.pack(&b.cap.root), Err(StoreError::Damaged { .. })));
    let pack = a.begin_fetch(&store);
    assert_eq!(pack.present(), 1);
    let info = store.object(&a.cap.root).unwrap();
    assert!(info.is_own() && !info.complete && info.read.is_some());
}

#[test]
fn removal_is_final_even_when_interrupted() {
    let (dir, store) = fresh();
    let (gone, kept) = (object(14, 1), object(15, 1));
    gone.publish(&store, b"").unwrap();
    let file = pack_files(dir.path()).remove(0);
    kept.publish(&store, b"").unwrap();
    let copy = std::fs::read(&file).unwrap();
    let held = store.pack(&gone.cap.root).unwrap();
    store.remove(&gone.cap.root).unwrap();
    assert!(!file.exists() && store.object(&gone.cap.root).is_none());
    assert!(matches!(store.pack(&gone.cap.root), Err(StoreError::NotFound)));
    assert!(matches!(store.remove(&gone.cap.root), Err(StoreError::NotFound)));
    held.read(Position::Root).unwrap();
    drop((held, store));
    std::fs::write(&file, copy).unwrap(); // as if killed between journal and removal
    let store = open(dir.path()).store;
    assert!(!file.exists());
    assert_eq!(store.objects().len(), 1);
    gone.begin_fetch(&store); // and it may come back
    assert_eq!(store.objects().len(), 2);
}

#[test]
fn more_packs_than_are_kept_open() {
    let (dir, store) = fresh();
    let all: Vec<_> = (0..40).map(|seed| object(100 + seed, 1)).collect();
    all.iter().for_each(|thing| drop(thing.begin_fetch(&store)));
    let first = store.pack(&all[0].cap.root).unwrap();
    all.iter().for_each(|thing| assert_eq!(store.pack(&thing.cap.root).unwrap().present(), 1));
    assert!(std::sync::Arc::ptr_eq(&first, &store.pack(&all[0].cap.root).unwrap()));
    let open_files = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(Result::ok)
        .filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|p| p.starts_with(dir.path().join("packs"))));
    assert!(open_files.count() <= 33);
}

#[test]
fn threads_share_a_pack() {
    let (_dir, store) = fresh();
    let thing = object(16, 32);
    let pack = thing.begin_fetch(&store);
    std::thread::scope(|scope| {
        for part in 0..4 {
            let (pack, thing, store) = (&pack, &thing, &store);
            scope.spawn(move || {
                let (mut tree, _) = thing.tree();
                for i in (0..32).filter(|i| i % 4 >= part) {
                    let p = Position::Data(i);
                    pack.write(tree.verify(p, thing.sealed(p)).unwrap()).unwrap();
                    assert!(pack.read(p).unwrap() == thing.sealed(p));
                    store.append(&[vec![part as u8; 10]]).unwrap();
                    pack.flush().unwrap();
                }
            });
        }
    });
    assert_eq!(pack.present(), 33);
}

#[test]
fn the_disk_shows_neither_ids_nor_titles_nor_times() {
    let (dir, store) = fresh();
    let (thing, fetched) = (object(17, 3), object(18, 1));
    thing.publish(&store, format!("record about {}", kit::TITLE).as_bytes()).unwrap();
    fetched.begin_fetch(&store);
    let friend = [0xabu8; 32];
    let (mut view, _) = store.view_log(&friend).unwrap();
    view.append(&[kit::TITLE.into()]).unwrap();
    drop((view, store));
    let root_hex = thing.cap.root.to_hex();
    let mut secrets: Vec<Vec<u8>> = vec![
        kit::TITLE.into(),
        thing.cap.root.0.to_vec(),
        fetched.cap.root.0.to_vec(),
        root_hex.into_bytes(),
        thing.cap.key.expose().to_vec(),
        thing.cap.verify_cap().tree.expose().to_vec(),
        friend[..16].to_vec(),
    ];
    secrets.extend(thing.blocks.iter().map(|s| s.bytes[1000..1032].to_vec()));
    let all = files(dir.path());
    assert!(all.len() >= 8);
    for path in all {
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend_from_slice(path.strip_prefix(dir.path()).unwrap().as_os_str().as_encoded_bytes());
        for secret in &secrets {
            assert!(!bytes.windows(secret.len()).any(|w| w == secret), "{}", path.display());
        }
        let meta = path.metadata().unwrap();
        if !path.starts_with(dir.path().join("index/sled")) {
            assert_eq!(meta.mtime(), 0, "{}", path.display());
            assert_eq!(meta.permissions().mode() & 0o777, 0o600, "{}", path.display());
        }
    }
}
