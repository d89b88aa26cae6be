//! Nothing is deleted, overwritten or zeroed that may be the last trace of an object.
#![allow(clippy::unwrap_used)] // a failure here fails the test

mod kit;

use kit::{fresh, object, open, options, pack_files};
use kith_store::{Store, StoreError};

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
