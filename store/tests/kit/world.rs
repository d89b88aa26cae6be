//! A small store on files in memory with one of everything, and what must be in it.

use super::{CHEAP, Object, object};
use kith_crypto::content::Position;
use kith_store::backend::Memory;
use kith_store::{Finding, Opened, Options, Outcome, Scope, Store, Unlock, ViewLog};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) const DIR: &str = "/kith/store";
pub(crate) const FRIENDS: [[u8; 32]; 2] = [[1; 32], [2; 32]];
/// Bytes of a place in a pack.
pub(crate) const PLACE: usize = 65_568;
pub(crate) const PAGE: usize = 4096;

pub(crate) fn options() -> Options<'static> {
    Options { dir: Path::new(DIR), unlock: Unlock::KeyFile, cost: CHEAP }
}

pub(crate) fn records(range: std::ops::Range<u32>) -> Vec<Vec<u8>> {
    range.map(|i| format!("record {i} of the node").into_bytes()).collect()
}

/// A store with an own object, one that was fetched in part and two view logs, and what must be in it.
pub(crate) struct World {
    pub(crate) memory: Memory,
    pub(crate) store: Store,
    pub(crate) views: Vec<ViewLog>,
    pub(crate) objects: Vec<(Object, Vec<Position>)>,
    pub(crate) live: Vec<Vec<u8>>,
}

impl World {
    pub(crate) fn new() -> Self {
        let memory = Memory::default();
        let store = Store::create_on(Arc::new(memory.clone()), &options()).unwrap().store;
        store.append(&records(0..4)).unwrap();
        let (own, other) = (object(1, 2), object(2, 3));
        own.publish(&store, b"about it").unwrap();
        store.append(&records(4..8)).unwrap();
        let here = vec![Position::Root, Position::Head, Position::Data(1)];
        let pack = other.begin_fetch(&store);
        let (mut tree, _) = other.tree();
        for position in [Position::Head, Position::Data(1)] {
            pack.write(tree.verify(position, other.sealed(position)).unwrap()).unwrap();
            pack.flush().unwrap(); // so that both copies of the map were written
        }
        let mut live = records(0..4);
        live.push(b"about it".to_vec());
        live.extend(records(4..8));
        let view = |friend: &[u8; 32]| {
            let (mut view, _) = store.view_log(friend).unwrap();
            view.append(&records(10..14)).unwrap();
            view
        };
        let views = FRIENDS.iter().map(view).collect();
        let all = own.positions();
        Self { memory, views, store, objects: vec![(own, all), (other, here)], live }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        Path::new(DIR).join(name)
    }

    pub(crate) fn pack(&self, number: usize) -> PathBuf {
        let len = |path: &Path| self.bytes(path).len();
        let mut packs: Vec<PathBuf> =
            self.files().into_keys().filter(|p| p.extension().is_some_and(|e| e == "pack")).collect();
        packs.sort_by_key(|path| len(path)); // the own one has fewer blocks
        packs[number].clone()
    }

    pub(crate) fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        self.memory.files().into_iter().collect()
    }

    pub(crate) fn bytes(&self, path: &Path) -> Vec<u8> {
        self.files().remove(path).unwrap()
    }

    pub(crate) fn flip(&self, path: &Path, at: usize) {
        assert!(self.memory.tamper(path, |bytes| bytes[at] ^= 0x11));
    }

    pub(crate) fn verify(&self, scope: &Scope) -> Vec<Finding> {
        let mut verify = self.store.verify(scope).unwrap();
        let mut findings = Vec::new();
        let (mut done, total) = (0, verify.total_bytes());
        while let Some(checked) = verify.step() {
            done += checked.bytes;
            findings.extend(checked.findings);
        }
        assert_eq!(done, total, "the bar ends where it should");
        findings
    }

    pub(crate) fn whole(&self) -> Scope {
        Scope { friends: FRIENDS.to_vec(), ..Scope::default() }
    }

    pub(crate) fn only(&self, number: usize) -> Scope {
        Scope { only: Some(self.objects[number].0.cap.root), ..Scope::default() }
    }

    /// Does what the findings ask of the node.
    pub(crate) fn heal(&mut self, findings: &[Finding]) {
        if findings.iter().any(|f| f.outcome == Outcome::Rewrite) {
            self.store.compact(&self.live).unwrap();
        }
        for finding in findings.iter().filter(|f| f.outcome == Outcome::Fetch) {
            let root = finding.object.unwrap();
            let (object, here) = self.objects.iter().find(|(o, _)| o.cap.root == root).unwrap();
            let pack = object.begin_fetch(&self.store);
            let (mut tree, root_block) = object.tree();
            pack.write(root_block).unwrap();
            for position in here.iter().filter(|p| **p != Position::Root) {
                pack.write(tree.verify(*position, object.sealed(*position)).unwrap()).unwrap();
            }
            pack.flush().unwrap();
            if pack.is_complete() {
                self.store.mark_complete(&root).unwrap();
            }
        }
    }

    /// Everything that should be there is, and nothing else.
    pub(crate) fn check(&self) {
        for (object, here) in &self.objects {
            let pack = self.store.pack(&object.cap.root).unwrap();
            assert_eq!(pack.present(), here.len() as u64);
            for position in here {
                assert!(pack.read(*position).unwrap() == object.sealed(*position));
            }
        }
        let infos = self.store.objects();
        assert_eq!(infos.len(), self.objects.len());
        assert!(infos.iter().any(|info| info.is_own() && info.complete) && infos.iter().any(|i| !i.is_own()));
    }

    /// Closes and opens again, and compares all.
    pub(crate) fn reopen(mut self) -> Self {
        self.check();
        drop((self.store, std::mem::take(&mut self.views)));
        let Opened { store, records, damaged_records, torn_bytes, .. } =
            Store::open_on(Arc::new(self.memory.clone()), &options()).unwrap();
        assert_eq!((damaged_records, torn_bytes, records), (0, 0, self.live.clone()));
        self.views = FRIENDS.iter().map(|friend| open_view(&store, friend)).collect();
        self.store = store;
        self.check();
        assert_eq!(self.verify(&self.whole()), []);
        self
    }
}

pub(crate) fn open_view(store: &Store, friend: &[u8; 32]) -> ViewLog {
    let (view, found) = store.view_log(friend).unwrap();
    assert_eq!(found, records(10..14));
    assert_eq!((view.damaged_records(), view.torn_bytes()), (0, 0));
    view
}
