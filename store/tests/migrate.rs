//! A journal of format version 1 becomes one of today's, whatever happens meanwhile. The fixture
//! is a store that a release of that time made.

#![allow(clippy::unwrap_used, clippy::panic)] // a helper that fails fails its test

mod kit;

use kit::faulty::Faulty;
use kit::{object, options};
use kith_crypto::content::Position;
use kith_store::backend::{Backend, Memory};
use kith_store::{Class, FileType, Opened, Scope, Store, StoreError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const DIR: &str = "/store";

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/store/v1")
}

/// The fixture's files in memory.
fn old_store() -> Memory {
    let memory = Memory::default();
    for path in kit::files(&fixture()) {
        let name = Path::new(DIR).join(path.strip_prefix(fixture()).unwrap());
        memory.make_dir(name.parent().unwrap()).unwrap();
        memory.create(&name).unwrap().write_at(0, &std::fs::read(&path).unwrap()).unwrap();
    }
    memory
}

fn open(backend: impl Backend + 'static) -> Result<Opened, StoreError> {
    Store::open_on(Arc::new(backend), &options(Path::new(DIR)))
}

fn bytes(memory: &Memory, name: &str) -> Option<Vec<u8>> {
    let path = Path::new(DIR).join(name);
    memory.files().into_iter().find(|(p, _)| *p == path).map(|(_, bytes)| bytes)
}

fn journal(memory: &Memory) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(DIR).join("journal");
    memory.files().into_iter().filter(|(path, _)| path.parent() == Some(dir.as_path())).collect()
}

/// Everything that the fixture's store held.
fn check(opened: &Opened) {
    let expected: Vec<Vec<u8>> = (0..10)
        .map(|i| match i {
            4 => "record 4, with the own object".into(),
            5 => "record 5, with an object that goes".into(),
            _ => format!("record {i}"),
        })
        .map(String::into_bytes)
        .collect();
    assert_eq!(opened.records, expected);
    assert_eq!((opened.damaged_records, opened.torn_bytes), (0, 0));
    let (store, own, half) = (&opened.store, object(1, 1), object(2, 1));
    assert_eq!(store.objects().len(), 2);
    let info = store.object(&own.cap.root).unwrap();
    assert!(info.complete && info.class == Class::Own && info.read == Some(own.cap.key.clone()));
    assert_eq!(info.used_day, 1_700_000_000 / 86_400, "the day on which it was added");
    let pack = store.pack(&own.cap.root).unwrap();
    own.positions().into_iter().for_each(|p| assert_eq!(pack.read(p).unwrap(), own.sealed(p)));
    let info = store.object(&half.cap.root).unwrap();
    assert!(!info.complete && info.class == Class::Cached);
    let pack = store.pack(&half.cap.root).unwrap();
    assert!(pack.has(Position::Root) && pack.present() == 1);
    assert_eq!(store.usage().objects, [1, 0, 1, 0]);
    for friend in [7_u8, 8] {
        let (_, records) = store.view_log(&[friend; 32]).unwrap();
        assert_eq!(records, [vec![friend; 100], vec![friend + 1; 10]]);
    }
}

#[test]
fn an_old_store_is_migrated_once_and_kept_aside() {
    let memory = old_store();
    let (keys, log) =
        (bytes(&memory, "journal/keys").unwrap(), bytes(&memory, "journal/00000001.log").unwrap());
    assert_eq!((keys[8], log[8]), (1, 1), "the fixture is of version 1");
    let opened = open(memory.clone()).unwrap();
    assert!(opened.migrated);
    check(&opened);
    drop(opened);
    assert_eq!(bytes(&memory, "journal/v1/keys"), Some(keys));
    assert_eq!(bytes(&memory, "journal/v1/00000001.log"), Some(log));
    assert!(bytes(&memory, "journal/00000001.log").is_none());
    assert_eq!(bytes(&memory, "journal/keys").unwrap()[8], 2);

    let before = journal(&memory);
    let opened = open(memory.clone()).unwrap();
    assert!(!opened.migrated, "once is enough");
    check(&opened);
    assert_eq!(journal(&memory), before);

    // The copy holds what a compaction promises to have erased: it goes with the first one.
    opened.store.compact(&opened.records).unwrap();
    assert!(bytes(&memory, "journal/v1/keys").is_none());
    assert!(memory.kind(&Path::new(DIR).join("journal/v1")).is_err());
    drop(opened);
    check(&open(memory).unwrap());
}

#[test]
fn a_migration_may_be_killed_at_any_change() {
    let whole = Faulty::on(old_store());
    drop(open(whole.clone()).unwrap());
    let changes = whole.changes();
    assert!(changes > 20, "{changes}");
    let (mut old, mut new) = (0, 0);
    for n in 0..changes {
        let disk = Faulty::on(old_store());
        disk.kill_at(n);
        drop(open(disk.clone()));
        let migrated = bytes(&disk.memory, "journal/keys").unwrap()[8] == 2;
        *if migrated { &mut new } else { &mut old } += 1;
        let opened = open(disk.memory.clone()).unwrap();
        assert_eq!(opened.migrated, !migrated, "killed at change {n}");
        check(&opened);
        assert!(bytes(&disk.memory, "journal/v1/keys").is_some(), "killed at change {n}");
        assert_eq!(
            bytes(&disk.memory, "journal/v1/00000001.log"),
            bytes(&old_store(), "journal/00000001.log")
        );
    }
    assert!(old > 5 && new > 0, "both sides of the swap were tried: {old}, {new}");
}

#[test]
fn a_full_disk_leaves_the_old_store_as_it_was() {
    for free in [0, 100, 2000, 4000] {
        let disk = Faulty::on(old_store());
        disk.leave_free(free);
        let error = open(disk.clone()).unwrap_err();
        assert!(matches!(error, StoreError::Full { .. }), "{free} bytes free: {error}");
        disk.leave_free(1 << 20);
        let opened = open(disk).unwrap();
        assert!(opened.migrated);
        check(&opened);
    }
}

/// Packs whose rows may be missing are not swept; a migration must not make that forgotten.
#[test]
fn what_the_old_journal_lost_stays_counted() {
    let memory = old_store();
    let mut rest = bytes(&memory, "journal/00000001.log").unwrap().len() / 2;
    memory.tamper(&Path::new(DIR).join("journal/00000001.log"), |bytes| {
        rest = bytes.len() - 200;
        bytes[120] ^= 1;
    });
    assert!(rest > 200);
    let packs = |memory: &Memory| {
        memory.files().iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "pack")).count()
    };
    for migrated in [true, false] {
        let opened = open(memory.clone()).unwrap();
        assert_eq!((opened.migrated, opened.damaged_records), (migrated, 1));
        assert_eq!(packs(&memory), 2);
        assert_eq!(opened.store.gc(false).unwrap().files, 0);
        // The row that remembers the loss passed for a difference between index and journal.
        let mut verify = opened.store.verify(&Scope::default()).unwrap();
        let findings = std::iter::from_fn(|| verify.step()).flat_map(|checked| checked.findings);
        assert_eq!(findings.filter(|f| f.file == FileType::Index).collect::<Vec<_>>(), []);
    }
    let opened = open(memory.clone()).unwrap();
    opened.store.compact(&opened.records).unwrap();
    drop(opened);
    assert_eq!(open(memory).unwrap().damaged_records, 0);
}

#[test]
fn a_newer_journal_is_refused_and_left_alone() {
    for file in ["journal/keys", "journal/00000001.log"] {
        let memory = Memory::default();
        drop(Store::create_on(Arc::new(memory.clone()), &options(Path::new(DIR))).unwrap());
        memory.tamper(&Path::new(DIR).join(file), |bytes| bytes[8] = 3);
        let before = memory.files();
        let error = open(memory.clone()).unwrap_err();
        assert!(matches!(error, StoreError::NewerVersion { version: 3, .. }), "{file}: {error}");
        assert_eq!(memory.files(), before);
    }
}

#[test]
fn a_version_byte_that_changed_is_damage() {
    let memory = old_store();
    for version in [0, 2] {
        memory.tamper(&Path::new(DIR).join("journal/keys"), |bytes| bytes[8] = version);
        assert!(matches!(open(memory.clone()), Err(StoreError::Damaged { .. })));
    }
}
