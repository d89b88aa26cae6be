//! What the store's tests share: a store in a temporary folder, objects, and copies of a folder as
//! a kill at this moment would leave it.
#![allow(dead_code, clippy::unwrap_used)] // each test uses its part; a failure here fails the test

pub(crate) mod faulty;

use kith_crypto::content::{Builder, Geometry, Head, Position, ReadCap, Sealed, Tree, padded_blocks};
use kith_crypto::passphrase::Cost;
use kith_crypto::secret::Key;
use kith_store::{Opened, Options, Store, StoreError, Unlock};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

pub(crate) const CHEAP: Cost = Cost { memory_kib: 64, passes: 1 };
pub(crate) const TITLE: &str = "The title that nobody must find on the disk";

pub(crate) fn options(dir: &Path) -> Options<'_> {
    Options { dir, unlock: Unlock::KeyFile, cost: CHEAP }
}

pub(crate) fn fresh() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(&options(dir.path())).unwrap().store;
    (dir, store)
}

pub(crate) fn open(dir: &Path) -> Opened {
    Store::open(&options(dir)).unwrap()
}

/// A copy of the folder as it is now, with the store still open.
pub(crate) fn as_if_killed(dir: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_dir(dir, copy.path());
    copy
}

fn copy_dir(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// All regular files below `dir`.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { out.extend(files(&path)) } else { out.push(path) }
    }
    out
}

pub(crate) fn pack_files(dir: &Path) -> Vec<PathBuf> {
    files(&dir.join("packs"))
}

/// The plaintext of data block `index` of object `seed`.
pub(crate) fn plain(seed: u8, index: u64) -> Vec<u8> {
    (0..65_536_u64).map(|i| (i * 31 + index * 7 + u64::from(seed)) as u8).collect()
}

/// A sealed object with all its blocks in the builder's order.
pub(crate) struct Object {
    pub(crate) cap: ReadCap,
    pub(crate) geometry: Geometry,
    pub(crate) blocks: Vec<Sealed>,
}

pub(crate) fn object(seed: u8, blocks: u64) -> Object {
    let mut builder = Builder::new(Key::new([seed; 32]));
    let mut all: Vec<Sealed> = (0..blocks).map(|i| builder.push(plain(seed, i)).unwrap()).collect();
    let len = blocks * 65_536;
    assert_eq!(padded_blocks(len), blocks, "choose a number that needs no padding");
    let head = Head { title: TITLE.into(), len, ..Head::default() };
    let (cap, geometry) = builder.finish(&head, |sealed| all.push(sealed));
    Object { cap, geometry, blocks: all }
}

impl Object {
    pub(crate) fn sealed(&self, position: Position) -> Vec<u8> {
        self.blocks.iter().find(|s| s.position == position).unwrap().bytes.clone()
    }

    pub(crate) fn positions(&self) -> Vec<Position> {
        self.blocks.iter().map(|s| s.position).collect()
    }

    pub(crate) fn publish(&self, store: &Store, record: &[u8]) -> Result<(), StoreError> {
        let mut publishing = store.publish()?;
        for s in &self.blocks {
            publishing.write(Sealed { position: s.position, bytes: s.bytes.clone() })?;
        }
        publishing.commit(&self.cap, self.geometry, 1_700_000_000, record.to_vec())
    }

    pub(crate) fn tree(&self) -> (Tree, kith_crypto::content::VerifiedBlock) {
        Tree::open(&self.cap.verify_cap(), self.sealed(Position::Root)).unwrap()
    }

    pub(crate) fn begin_fetch(&self, store: &Store) -> std::sync::Arc<kith_store::Pack> {
        let (tree, root) = self.tree();
        let cap = self.cap.verify_cap();
        store.begin_fetch(&cap, Some(&self.cap.key), &root, tree.geometry(), 5).unwrap()
    }
}
