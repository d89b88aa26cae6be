//! Many threads at one store: publishing, reading, fetching, removing, appending and compacting at
//! the same time.
#![allow(clippy::unwrap_used, clippy::panic)] // a failure here fails the test

mod kit;

use kit::{CHEAP, Object, object, options};
use kith_crypto::content::Position;
use kith_store::backend::{Backend, Memory, Real};
use kith_store::{Opened, Store, StoreError};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Objects of each kind.
const COUNT: u8 = 24;

fn kept(things: &[Object], from: u8, to: u8) -> impl Iterator<Item = &Object> {
    things.iter().skip(usize::from(from)).take(usize::from(to - from))
}

fn is_whole(store: &Store, thing: &Object) -> bool {
    let pack = store.pack(&thing.cap.root).unwrap();
    pack.is_complete() && thing.positions().into_iter().all(|p| pack.read(p).unwrap() == thing.sealed(p))
}

/// Ends the others also when its thread fails.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Reads whatever is there until `done`; returns how often an object was seen whole.
fn read_on(store: &Store, things: &[Object], done: &AtomicBool) -> u32 {
    let mut seen = 0;
    while !done.load(Ordering::Relaxed) {
        for thing in things {
            let pack = match store.pack(&thing.cap.root) {
                Ok(pack) => pack,
                Err(StoreError::NotFound) => continue, // not yet, or no longer
                // Between its row and its file a removal has no lock that a reader could wait for.
                Err(StoreError::Damaged { .. }) if store.object(&thing.cap.root).is_none() => continue,
                Err(e) => panic!("{e}"),
            };
            let mut whole = true;
            for position in thing.positions() {
                match pack.read(position) {
                    Ok(bytes) => assert!(bytes == thing.sealed(position), "another block came back"),
                    Err(StoreError::NotFound) => whole = false,
                    Err(e) => panic!("{e}"),
                }
            }
            seen += u32::from(whole);
        }
    }
    seen
}

/// Publishes a third, fetches a third, publishes and removes a third; records go beside.
fn all_at_once(backend: Arc<dyn Backend>, dir: &Path) {
    let things: Vec<Object> = (0..3 * COUNT).map(|seed| object(seed + 1, 1)).collect();
    let opened = Store::create_on(backend.clone(), &options(dir)).unwrap();
    let (store, done, appended) = (&opened.store, AtomicBool::new(false), AtomicU32::new(0));
    let seen = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3).map(|_| scope.spawn(|| read_on(store, &things, &done))).collect();
        let writers = [
            scope.spawn(|| kept(&things, 0, COUNT).for_each(|t| t.publish(store, b"").unwrap())),
            scope.spawn(|| {
                for thing in kept(&things, COUNT, 2 * COUNT) {
                    let pack = thing.begin_fetch(store);
                    let (mut tree, _) = thing.tree();
                    // The builder's order is data first; what verifies them comes before.
                    for position in thing.positions().into_iter().rev().filter(|p| *p != Position::Root) {
                        pack.write(tree.verify(position, thing.sealed(position)).unwrap()).unwrap();
                    }
                    store.mark_complete(&thing.cap.root).unwrap();
                }
            }),
            scope.spawn(|| {
                for thing in kept(&things, 2 * COUNT, 3 * COUNT) {
                    thing.publish(store, b"").unwrap();
                    let held = store.pack(&thing.cap.root).unwrap();
                    store.remove(&thing.cap.root).unwrap();
                    // Who was reading goes on reading.
                    assert!(thing.positions().into_iter().all(|p| held.read(p).unwrap() == thing.sealed(p)));
                    assert!(matches!(store.pack(&thing.cap.root), Err(StoreError::NotFound)));
                }
            }),
            scope.spawn(|| {
                for i in 0..200_u32 {
                    store.append(&[i.to_le_bytes().to_vec()]).unwrap();
                    appended.store(i + 1, Ordering::Relaxed);
                }
            }),
        ];
        let ending = Ending(&done);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        drop(ending);
        readers.into_iter().map(|reader| reader.join().unwrap()).sum::<u32>()
    });
    println!("{seen} times a reader saw an object whole");
    assert!(seen > 0, "the readers met nothing: this proves nothing");
    drop(opened);
    let Opened { store, records, damaged_records, .. } = Store::open_on(backend, &options(dir)).unwrap();
    let numbers: Vec<_> = records.iter().filter(|r| !r.is_empty()).cloned().collect();
    assert_eq!(numbers, (0..200_u32).map(|i| i.to_le_bytes().to_vec()).collect::<Vec<_>>());
    assert_eq!((damaged_records, appended.into_inner()), (0, 200));
    assert_eq!(store.objects().len(), 2 * usize::from(COUNT));
    assert!(kept(&things, 0, 2 * COUNT).all(|thing| is_whole(&store, thing)));
}

#[test]
fn many_threads_in_memory() {
    all_at_once(Arc::new(Memory::default()), Path::new("/store"));
}

#[test]
fn many_threads_on_real_files() {
    let dir = tempfile::tempdir().unwrap();
    all_at_once(Arc::new(Real), dir.path());
}

/// Compaction keeps the objects that are added and removed while it runs, whatever it is told to
/// keep of the node's records.
#[test]
fn compaction_beside_publishing_and_removing() {
    let (backend, dir) = (Arc::new(Memory::default()), Path::new("/store"));
    let options = kith_store::Options { cost: CHEAP, ..options(dir) };
    let store = Store::create_on(backend.clone(), &options).unwrap().store;
    let things: Vec<Object> = (0..2 * COUNT).map(|seed| object(seed + 1, 1)).collect();
    let done = AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| {
        let compacting = scope.spawn(|| {
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) {
                store.compact(&[b"live".to_vec()]).unwrap();
                rounds += 1;
            }
            rounds
        });
        let ending = Ending(&done);
        for (i, thing) in things.iter().enumerate() {
            thing.publish(&store, b"").unwrap();
            if i % 2 == 1 {
                store.remove(&thing.cap.root).unwrap();
            }
        }
        drop(ending);
        compacting.join().unwrap()
    });
    println!("{rounds} compactions");
    assert!(rounds > 1);
    drop(store);
    let store = Store::open_on(backend, &options).unwrap().store;
    assert_eq!(store.objects().len(), usize::from(COUNT));
    assert!(things.iter().step_by(2).all(|thing| is_whole(&store, thing)));
}
