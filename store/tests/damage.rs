//! Files that are cut, empty, gone, exchanged or old, sectors that cannot be read, and damage that
//! is there already when the store is opened.
#![allow(clippy::unwrap_used)] // a failure here fails the test

mod kit;

use kit::object;
use kit::world::{DIR, FRIENDS, PAGE, PLACE, World, options, records};
use kith_crypto::content::Position;
use kith_store::backend::{Backend, File, Held, Kind, Memory};
use kith_store::{FileType, Finding, Outcome, Scope, Store, StoreError};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

fn kinds(findings: &[Finding]) -> Vec<(FileType, Outcome, u64)> {
    findings.iter().map(|f| (f.file, f.outcome, f.blocks)).collect()
}

/// All but the lock, which says who had it last.
fn contents(memory: &Memory) -> BTreeMap<PathBuf, Vec<u8>> {
    memory.files().into_iter().filter(|(path, _)| !path.ends_with("lock")).collect()
}

#[test]
fn cut_empty_and_missing_files_are_found_and_mended() {
    let mut world = World::new();
    let names: Vec<PathBuf> = world.files().into_keys().filter(|p| !p.ends_with("lock")).collect();
    assert_eq!(names.len(), 7, "{names:?}");
    for name in names {
        let len = world.bytes(&name).len();
        for keep in [0, 1, len / 2, len - 1] {
            world.damage(&name, |world| assert!(world.memory.tamper(&name, |bytes| bytes.truncate(keep))));
        }
        world.damage(&name, |world| world.memory.remove(&name).unwrap());
        world.damage(&name, |world| assert!(world.memory.tamper(&name, |bytes| bytes.extend([7; 40]))));
    }
    world.reopen();
}

impl World {
    /// Does damage to a file, sees it found, and heals it. The journal is another file after that.
    fn damage(&mut self, name: &Path, harm: impl FnOnce(&Self)) {
        let name = name.to_owned();
        let is_there = self.files().contains_key(&name);
        if !is_there {
            return; // written anew under another name
        }
        harm(self);
        let mut findings = self.verify(&self.whole());
        let views: Vec<usize> = (0..2).filter(|view| !self.views[*view].verify().unwrap_or(false)).collect();
        assert!(!findings.is_empty() || !views.is_empty(), "{}", name.display());
        findings.retain(|finding| finding.path == name || finding.outcome == Outcome::Foreign);
        for view in views {
            self.views[view].rewrite(&records(10..14)).unwrap();
        }
        self.heal(&findings);
        // A fetch keeps what it found in the place of its pack, for the owner to remove.
        let aside = name.with_added_extension("misplaced");
        if self.files().contains_key(&aside) {
            let told = self.verify(&self.whole());
            assert!(told.len() == 1 && told[0].path == aside && told[0].outcome == Outcome::Foreign);
            self.memory.remove(&aside).unwrap();
        }
        self.check();
        assert_eq!(self.verify(&self.whole()), [], "{} was mended", name.display());
        assert!(self.views.iter().all(|view| view.verify().unwrap()));
    }
}

#[test]
fn exchanged_blocks_are_found() {
    let mut world = World::new();
    let pack = world.pack(0);
    let place = |slot: usize| PAGE + slot * PLACE..PAGE + (slot + 1) * PLACE;
    world.memory.tamper(&pack, |bytes| {
        let (first, second) = (bytes[place(0)].to_vec(), bytes[place(1)].to_vec());
        bytes[place(0)].copy_from_slice(&second);
        bytes[place(1)].copy_from_slice(&first);
    });
    let findings = world.verify(&world.whole());
    assert_eq!(kinds(&findings), [(FileType::Pack, Outcome::Fetch, 2)]);
    world.heal(&findings);
    world.reopen();
}

#[test]
fn exchanged_packs_get_their_names_back() {
    for gone in [false, true] {
        let mut world = World::new();
        let (one, two) = (world.pack(0), world.pack(1));
        let (first, second) = (world.bytes(&one), world.bytes(&two));
        world.memory.tamper(&one, |bytes| *bytes = second);
        if gone {
            world.memory.remove(&two).unwrap();
        } else {
            world.memory.tamper(&two, |bytes| *bytes = first);
        }
        let findings = world.verify(&world.whole());
        assert!(findings.iter().any(|f| f.what.contains("another object")), "{findings:?}");
        let lost: u64 = findings.iter().map(|f| f.blocks).sum();
        assert_eq!(lost > 0, gone, "{findings:?}");
        world.heal(&findings);
        world.reopen();
    }
}

#[test]
fn a_stray_pack_goes_to_its_place_and_foreign_files_are_told() {
    let mut world = World::new();
    let pack = world.pack(0);
    let aside = pack.with_extension("bak");
    world.memory.rename(&pack, &aside).unwrap();
    for name in ["views/x.log", "note.txt", "journal/00000009.log", "packs/readme"] {
        let file = world.memory.create(&world.path(name)).unwrap();
        file.write_at(0, b"who am I").unwrap();
    }
    let findings = world.verify(&world.whole());
    let foreign = findings.iter().filter(|f| f.outcome == Outcome::Foreign).count();
    assert_eq!((foreign, findings.len()), (4, 5), "{findings:?}");
    assert!(world.files().contains_key(&pack) && !world.files().contains_key(&aside));
    world.check();
    world.heal(&findings);
    assert!(world.files().contains_key(&world.path("note.txt")), "nothing foreign is deleted");
}

#[test]
fn exchanged_and_old_logs_are_found() {
    let mut world = World::new();
    let segment = world.path("journal/00000001.log");
    let old = world.bytes(&segment);
    world.store.append(&records(8..9)).unwrap();
    world.live.extend(records(8..9));
    // A whole journal, only older: every record in it opens.
    world.memory.tamper(&segment, |bytes| *bytes = old.clone());
    let findings = world.verify(&world.whole());
    assert_eq!(kinds(&findings), [(FileType::Journal, Outcome::Rewrite, 0)]);
    world.heal(&findings);
    // The segment of before in the place of today's.
    let now = world.path("journal/00000002.log");
    world.memory.tamper(&now, |bytes| *bytes = old);
    let findings = world.verify(&world.whole());
    assert_eq!(kinds(&findings), [(FileType::Journal, Outcome::Rewrite, 0)]);
    world.heal(&findings);
    // The view logs of two friends, and an older one of the same friend.
    let paths: Vec<PathBuf> = world.views.iter().map(|view| view.path().to_owned()).collect();
    let [one, two] = [0, 1].map(|i: usize| world.bytes(&paths[i]));
    world.memory.tamper(&paths[0], |bytes| *bytes = two);
    assert!(!world.views[0].verify().unwrap_or(false));
    world.memory.tamper(&paths[0], |bytes| *bytes = one.clone());
    assert!(world.views[0].verify().unwrap());
    world.views[0].append(&records(14..15)).unwrap();
    world.memory.tamper(&paths[0], |bytes| *bytes = one);
    assert!(!world.views[0].verify().unwrap());
    world.views[0].rewrite(&records(10..14)).unwrap();
    world.reopen();
}

#[test]
fn looking_changes_nothing() {
    let world = World::new();
    let pack = world.pack(0);
    for at in [3, PAGE + 7, PAGE + 2 * PLACE + 9, world.bytes(&pack).len() - 5] {
        world.flip(&pack, at);
    }
    for name in ["store.key", "journal/keys", "journal/00000001.log"] {
        world.flip(&world.path(name), 50);
    }
    let before = contents(&world.memory);
    let look = Scope { look_only: true, ..world.whole() };
    let findings = world.verify(&look);
    assert!(findings.iter().all(|f| matches!(f.outcome, Outcome::Left | Outcome::Fetch)), "{findings:?}");
    assert!(findings.len() >= 5, "{findings:?}");
    assert!(contents(&world.memory) == before);
    let again: Vec<Finding> = world.verify(&look);
    assert_eq!(again, findings, "and it is not remembered either");
}

/// A block whose sector cannot be read any more is damaged, and the others are not.
#[test]
fn a_sector_that_cannot_be_read_costs_one_block() {
    let world = World::new();
    let bad = Arc::new(Mutex::new(None));
    let failing = Failing { memory: world.memory.clone(), bad: bad.clone() };
    let World { store, views, memory, objects, live } = world;
    drop((store, views));
    let store = Store::open_on(Arc::new(failing), &options()).unwrap().store;
    let mut world = World { store, views: Vec::new(), memory, objects, live };
    *bad.lock().unwrap() = Some((world.pack(0), (PAGE + PLACE + 100) as u64));
    let root = world.objects[0].0.cap.root;
    let pack = world.store.pack(&root).unwrap();
    assert!(matches!(pack.read(Position::Data(1)), Err(StoreError::DamagedBlock(_))));
    assert!(pack.read(Position::Data(0)).is_ok() && pack.read(Position::Head).is_ok());
    drop(pack);
    let scope = Scope { friends: FRIENDS.to_vec(), ..Scope::default() };
    let findings = world.verify(&scope);
    assert_eq!(kinds(&findings), [(FileType::Pack, Outcome::Fetch, 1)]);
    *bad.lock().unwrap() = None; // the disk gives another sector to what is written
    world.heal(&findings);
    world.check();
    assert_eq!(world.verify(&scope), []);
}

/// A check took a read error for a block that is gone and wrote zeros over it; the only copy went with
/// an error that would have passed.
#[test]
fn a_block_that_could_not_be_read_once_is_not_zeroed() {
    let world = World::new();
    let bad = Arc::new(Mutex::new(None));
    let failing = Failing { memory: world.memory.clone(), bad: bad.clone() };
    let World { store, views, memory, objects, live } = world;
    drop((store, views));
    let store = Store::open_on(Arc::new(failing), &options()).unwrap().store;
    let world = World { store, views: Vec::new(), memory, objects, live };
    let path = world.pack(0);
    let before = world.bytes(&path);
    *bad.lock().unwrap() = Some((path.clone(), (PAGE + PLACE + 100) as u64));
    let scope = Scope { friends: FRIENDS.to_vec(), ..Scope::default() };
    assert_eq!(kinds(&world.verify(&scope)), [(FileType::Pack, Outcome::Fetch, 1)]);
    let blocks = PAGE..PAGE + 4 * PLACE;
    assert!(world.bytes(&path)[blocks.clone()] == before[blocks], "the block is left");
    *bad.lock().unwrap() = None;
    assert_eq!(kinds(&world.verify(&scope)), [(FileType::Pack, Outcome::Mended, 0)]);
    let object = &world.objects[0].0;
    let pack = world.store.pack(&object.cap.root).unwrap();
    assert!(object.positions().into_iter().all(|p| pack.read(p).unwrap() == object.sealed(p)));
    // The control: bytes that were read and are of nothing do go.
    drop(pack);
    world.flip(&path, PAGE + PLACE + 100);
    assert_eq!(kinds(&world.verify(&scope)), [(FileType::Pack, Outcome::Fetch, 1)]);
    assert!(world.bytes(&path)[PAGE + PLACE..PAGE + 2 * PLACE].iter().all(|byte| *byte == 0));
}

/// A pack whose header could not be read just now was given up as gone, with all its blocks.
#[test]
fn a_header_that_could_not_be_read_once_costs_nothing() {
    let world = World::new();
    let bad = Arc::new(Mutex::new(None));
    let failing = Failing { memory: world.memory.clone(), bad: bad.clone() };
    let World { store, views, memory, objects, live } = world;
    drop((store, views));
    let store = Store::open_on(Arc::new(failing), &options()).unwrap().store;
    let world = World { store, views: Vec::new(), memory, objects, live };
    let path = world.pack(0);
    let before = world.bytes(&path);
    *bad.lock().unwrap() = Some((path.clone(), 100));
    assert_eq!(kinds(&world.verify(&world.only(0))), [(FileType::Pack, Outcome::Left, 0)]);
    assert!(world.bytes(&path) == before);
    *bad.lock().unwrap() = None;
    assert_eq!(world.verify(&world.only(0)), []);
}

/// Memory in which one byte of one file cannot be read.
#[derive(Clone, Debug)]
struct Failing {
    memory: Memory,
    bad: Arc<Mutex<Option<(PathBuf, u64)>>>,
}

#[derive(Debug)]
struct FailingFile(Box<dyn File>, PathBuf, Failing);

impl File for FailingFile {
    fn read_at(&self, at: u64, len: usize) -> io::Result<Vec<u8>> {
        let hit = |(path, bad): &(PathBuf, u64)| *path == self.1 && (at..at + len as u64).contains(bad);
        if self.2.bad.lock().unwrap().as_ref().is_some_and(hit) {
            return Err(io::Error::from_raw_os_error(5)); // EIO
        }
        self.0.read_at(at, len)
    }
    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(at, bytes)
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
    fn mode(&self) -> io::Result<u32> {
        self.0.mode()
    }
    fn settle(&self) {}
}

impl Backend for Failing {
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(Box::new(FailingFile(self.memory.create(path)?, path.to_owned(), self.clone())))
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(Box::new(FailingFile(self.memory.open(path)?, path.to_owned(), self.clone())))
    }
    fn kind(&self, path: &Path) -> io::Result<Kind> {
        self.memory.kind(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.memory.rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.memory.link(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.memory.remove(path)
    }
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.memory.make_dir(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<(PathBuf, Kind)>> {
        self.memory.list(dir)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.memory.sync_dir(path)
    }
    fn lock(&self, dir: &Path) -> Result<Box<dyn Held>, StoreError> {
        self.memory.lock(dir)
    }
    fn used_bytes(&self, dir: &Path) -> u64 {
        self.memory.used_bytes(dir)
    }
    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.memory.free_bytes(dir)
    }
}

// ---- damage that is there when the store is opened ----------------------------------------------

/// The files of a closed store.
fn closed() -> (Memory, World) {
    let world = World::new();
    let copy = Memory::default();
    copy.make_dir(&Path::new(DIR).join("packs")).unwrap();
    let World { memory, store, views, objects, live } = world;
    drop((store, views));
    let store = Store::create_on(Arc::new(Memory::default()), &options()).unwrap().store;
    (memory.clone(), World { memory, store, views: Vec::new(), objects, live })
}

/// Opens the store with one byte changed, and puts the files back after.
fn opened_with<T>(
    memory: &Memory,
    path: &Path,
    at: usize,
    look: impl FnOnce(Result<kith_store::Opened, StoreError>) -> T,
) -> T {
    let before = contents(memory);
    memory.tamper(path, |bytes| bytes[at] ^= 0x11);
    let answer = look(Store::open_on(Arc::new(memory.clone()), &options()));
    for (path, _) in contents(memory) {
        memory.remove(&path).unwrap();
    }
    for (path, bytes) in before {
        memory.create(&path).unwrap().write_at(0, &bytes).unwrap();
    }
    answer
}

#[test]
fn damaged_keys_are_told_and_nothing_is_changed() {
    let (memory, _) = closed();
    for name in ["store.key", "journal/keys"] {
        let path = Path::new(DIR).join(name);
        let len = memory.files().into_iter().find(|(p, _)| *p == path).unwrap().1.len();
        for at in 0..len {
            memory.tamper(&path, |bytes| bytes[at] ^= 0x11);
            let before = contents(&memory);
            match Store::open_on(Arc::new(memory.clone()), &options()) {
                // The magic alone costs nothing, and verification puts it right.
                Ok(opened) => {
                    let mut verify = opened.store.verify(&Scope::default()).unwrap();
                    let found = std::iter::from_fn(|| verify.step()).any(|c| !c.findings.is_empty());
                    assert!(found, "{name}: byte {at}");
                    continue;
                }
                Err(StoreError::Damaged { path: named, .. }) => assert_eq!(named, path),
                Err(StoreError::NewerVersion { path: named, .. }) => {
                    assert!(named == path && at == 8, "{name}: byte {at}");
                }
                Err(StoreError::PassphraseNeeded) => assert!(name == "store.key" && at == 9),
                Err(other) => panic!("{name}: byte {at}: {other}"),
            }
            assert!(contents(&memory) == before, "{name}: byte {at}");
            memory.tamper(&path, |bytes| bytes[at] ^= 0x11);
        }
    }
}

#[test]
fn a_journal_that_was_damaged_before_the_start_is_told_by_verification() {
    let (memory, _) = closed();
    let path = Path::new(DIR).join("journal/00000001.log");
    let len = memory.files().into_iter().find(|(p, _)| *p == path).unwrap().1.len();
    for at in 0..len {
        opened_with(&memory, &path, at, |opened| match opened {
            Ok(opened) => {
                let told = opened.damaged_records > 0 || opened.torn_bytes > 0;
                assert!(told, "byte {at} of {len}");
                if opened.damaged_records > 0 {
                    let mut verify = opened.store.verify(&Scope::default()).unwrap();
                    let findings: Vec<Finding> =
                        std::iter::from_fn(|| verify.step()).flat_map(|c| c.findings).collect();
                    let lost = |f: &Finding| (f.file, f.outcome) == (FileType::Journal, Outcome::Lost);
                    assert!(findings.iter().any(lost), "byte {at}: {findings:?}");
                }
            }
            Err(StoreError::Damaged { path: named, .. } | StoreError::NewerVersion { path: named, .. }) => {
                assert!(named == path && at < 17, "byte {at}");
            }
            Err(other) => panic!("byte {at}: {other}"),
        });
    }
}

#[test]
fn damaged_view_logs_never_keep_a_store_from_opening() {
    let (memory, _) = closed();
    let store = Store::open_on(Arc::new(memory.clone()), &options()).unwrap().store;
    let path = store.view_log(&FRIENDS[0]).unwrap().0.path().to_owned();
    let before = contents(&memory)[&path].clone();
    for at in 0..before.len() {
        memory.tamper(&path, |bytes| bytes[at] ^= 0x11);
        let (view, found) = store.view_log(&FRIENDS[0]).unwrap();
        assert!(found.len() < 4 || view.damaged_records() > 0, "byte {at}");
        assert!(view.damaged_records() > 0 || view.torn_bytes() > 0, "byte {at} was told");
        drop(view);
        memory.tamper(&path, |bytes| bytes.clone_from(&before));
    }
}

#[test]
fn objects_whose_rows_were_lost_are_adopted() {
    let (memory, world) = closed();
    let path = Path::new(DIR).join("journal/00000001.log");
    let bytes = memory.files().into_iter().find(|(p, _)| *p == path).unwrap().1;
    let claimed = &world.objects[0].0.cap;
    let mut adopted_once = 0;
    for at in (17..bytes.len()).step_by(13) {
        opened_with(&memory, &path, at, |opened| {
            let opened = opened.unwrap();
            let adopted =
                opened.store.adopt(|r| (*r == claimed.root).then(|| (claimed.key.clone(), 9))).unwrap();
            adopted_once += adopted.found.len();
            if opened.damaged_records == 0 {
                assert_eq!(adopted, kith_store::Adopted::default(), "a torn tail was never promised");
                return;
            }
            assert_eq!(opened.store.objects().len(), 2, "byte {at}");
            for (object, here) in &world.objects {
                let info = opened.store.object(&object.cap.root).unwrap();
                assert_eq!((info.is_own(), info.complete), (here.len() == 4, here.len() == 4));
                let pack = opened.store.pack(&object.cap.root).unwrap();
                assert!(here.iter().all(|p| pack.read(*p).unwrap() == object.sealed(*p)));
            }
            drop(opened.store);
            let again = Store::open_on(Arc::new(memory.clone()), &options()).unwrap();
            assert_eq!(again.store.objects().len(), 2, "and it stays");
            assert_eq!(again.store.adopt(|_| None).unwrap().found, []);
        });
    }
    assert!(adopted_once > 5, "{adopted_once}");
}

/// In a journal without damage a pack without a row is a leftover, and nobody takes it up.
#[test]
fn nothing_is_adopted_while_the_journal_is_whole() {
    let world = World::new();
    let thing = object(7, 1);
    thing.publish(&world.store, b"").unwrap();
    let path = world.pack(0);
    let bytes = world.bytes(&path);
    world.store.remove(&thing.cap.root).unwrap();
    let file = world.memory.create(&path).unwrap();
    file.write_at(0, &bytes).unwrap();
    assert_eq!(world.store.adopt(|_| None).unwrap(), kith_store::Adopted::default());
    assert!(world.store.object(&thing.cap.root).is_none());
    let findings = world.verify(&world.whole());
    assert_eq!(kinds(&findings), [(FileType::Pack, Outcome::Foreign, 0)]);
}
