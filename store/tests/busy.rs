//! A verification of a store that is being written to finds nothing, because there is nothing.
#![allow(clippy::unwrap_used)] // a failure here fails the test

mod kit;

use kit::world::{World, records};
use kit::{fresh, object};
use kith_crypto::content::Position;
use kith_store::{Finding, Scope, Store};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Rounds of all threads after which a test has seen enough.
const ROUNDS: u32 = 30;

/// Publishes, removes, fetches in parts, appends and compacts until told to stop.
fn work(store: &Store, number: u8, over: &AtomicBool, all: &AtomicU32) {
    let (own, other) = (object(10 + number, 2), object(20 + number, 3));
    let mut rounds = 0;
    while !over.load(Ordering::Relaxed) {
        own.publish(store, b"own").unwrap();
        let pack = other.begin_fetch(store);
        let (mut tree, _) = other.tree();
        for position in other.positions().into_iter().filter(|p| *p != Position::Root) {
            pack.write(tree.verify(position, other.sealed(position)).unwrap()).unwrap();
            if rounds % 2 == 0 {
                pack.flush().unwrap();
            }
        }
        store.mark_complete(&other.cap.root).unwrap();
        store.append(&records(0..3)).unwrap();
        if number == 0 && rounds % 3 == 0 {
            store.compact(&records(0..5)).unwrap();
        }
        if number == 1 && rounds % 3 == 0 {
            store.reindex(&|_, _| {}).unwrap();
        }
        drop(pack);
        store.remove(&own.cap.root).unwrap();
        store.remove(&other.cap.root).unwrap();
        rounds += 1;
        all.fetch_add(1, Ordering::Relaxed);
    }
}

fn verify(store: &Store) -> Vec<Finding> {
    let mut verify = store.verify(&Scope::default()).unwrap();
    std::iter::from_fn(|| verify.step()).flat_map(|checked| checked.findings).collect()
}

fn busy(store: &Store) {
    let (over, rounds) = (AtomicBool::new(false), AtomicU32::new(0));
    let findings = std::thread::scope(|scope| {
        let (over, rounds) = (&over, &rounds);
        let threads: Vec<_> =
            (0..3).map(|number| scope.spawn(move || work(store, number, over, rounds))).collect();
        let mut findings = Vec::new();
        while rounds.load(Ordering::Relaxed) < ROUNDS && threads.iter().all(|thread| !thread.is_finished()) {
            findings.extend(verify(store));
        }
        over.store(true, Ordering::Relaxed);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        findings
    });
    assert_eq!(findings, []);
    assert_eq!(verify(store), []);
}

#[test]
fn a_store_in_memory_that_is_written_to() {
    let world = World::new();
    for view in &world.views {
        assert!(view.verify().unwrap());
    }
    let scope = Scope { friends: kit::world::FRIENDS.to_vec(), ..Scope::default() };
    assert_eq!(world.verify(&scope), []);
    let store = world.store;
    store.remove_view_log(&kit::world::FRIENDS[0]).unwrap();
    store.remove_view_log(&kit::world::FRIENDS[1]).unwrap();
    busy(&store);
}

#[test]
fn a_store_on_disk_that_is_written_to() {
    let (_dir, store) = fresh();
    object(1, 4).publish(&store, b"").unwrap();
    busy(&store);
}
