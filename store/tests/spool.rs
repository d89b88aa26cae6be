//! Files that are read in another order than they come.

#![allow(clippy::unwrap_used, clippy::panic)] // a helper that fails fails its test

mod kit;

use kit::faulty::Faulty;
use kit::options;
use kith_store::backend::{Backend, Kind, Memory};
use kith_store::{Limits, Store, StoreError};
use std::path::Path;
use std::sync::Arc;

const DIR: &str = "/store";

fn files(memory: &Memory) -> Vec<Vec<u8>> {
    let dir = Path::new(DIR).join("packs/tmp");
    let all = memory.list(&dir).unwrap();
    all.into_iter()
        .filter(|(_, kind)| *kind == Kind::File)
        .map(|(path, _)| {
            let file = memory.open(&path).unwrap();
            file.read_at(0, file.len().unwrap() as usize).unwrap()
        })
        .collect()
}

#[test]
fn what_came_is_read_in_any_order_and_lies_sealed() {
    let memory = Memory::default();
    let store = Store::create_on(Arc::new(memory.clone()), &options(Path::new(DIR))).unwrap().store;
    for len in [0, 1, 65_535, 65_536, 65_537, 300_001_usize] {
        let bytes: Vec<u8> = (0..len).map(|i| (i / 7 % 251) as u8).collect();
        let mut spool = store.spool().unwrap();
        bytes.chunks(50_000).for_each(|chunk| spool.write(chunk).unwrap());
        let spooled = spool.finish().unwrap();
        assert_eq!((spooled.len(), spooled.is_empty()), (len as u64, len == 0));
        let on_disk = files(&memory).concat();
        assert!(on_disk.len() >= len);
        assert!(len < 64 || !on_disk.windows(32).any(|window| window == &bytes[..32]));
        // What nobody uses goes; this is in use.
        assert_eq!(store.gc(false).unwrap().files, 0);
        for (at, want) in [(len, 10), (0, len + 9), (len / 2, 70_000), (len.saturating_sub(3), 9), (7, 1)] {
            let mut buf = vec![0xEE; want];
            let got = spooled.read_at(at as u64, &mut buf).unwrap();
            assert_eq!(buf[..got], bytes[at.min(len)..len.min(at + want)], "{len} {at} {want}");
        }
        drop(spooled);
        assert_eq!(files(&memory), Vec::<Vec<u8>>::new());
    }
    let unfinished = store.spool().unwrap();
    drop(unfinished);
    assert_eq!(files(&memory), Vec::<Vec<u8>>::new());
}

#[test]
fn the_space_that_is_to_stay_free_stays_free_and_nothing_is_taken_of_the_quota() {
    let disk = Faulty::default();
    let store = Store::create_on(Arc::new(disk.clone()), &options(Path::new(DIR))).unwrap().store;
    store.set_limits(Limits { quota: 1, keep_free: 0 });
    let mut spool = store.spool().unwrap();
    spool.write(&[1; 100_000]).unwrap();
    assert_eq!(store.usage().total(), 0);
    disk.tell_free(100 << 20);
    store.set_limits(Limits { quota: 1 << 40, keep_free: 90 << 20 });
    let mut spool = store.spool().unwrap();
    assert!(matches!(spool.write(&[1; 100_000]), Err(StoreError::NoRoom { .. })));
    disk.tell_free(200 << 20);
    assert!(store.spool().unwrap().write(&[1; 100_000]).is_ok());
}
