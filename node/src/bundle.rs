//! Bundles: sealed blocks of chosen objects for one friend, on a stick or by any other way that is not
//! a link.
//!
//! Invariant: a bundle carries what checks blocks and never what reads them, so it cannot widen an
//! audience; and each block proves itself by its object's tree before it is stored, so it does not
//! matter who carried it. Decision: `docs/decisions/0031-bundles-carry-no-read-keys.md`.

use crate::backup;
use crate::exit::{Exit, Failure};
use kith_crypto::content::{Geometry, Root, VerifyCap};
use kith_crypto::secret::Key;
use kith_onion::FriendKey;
use kith_store::archive::{
    ArchiveError, Counts, Header, Importer, Item, ItemReader, ItemWriter, Kept, Kind, Locked, ObjectItem,
    Sealer, write_object,
};
use kith_store::{ObjectInfo, Store};
use std::io::{Read, Write};
use std::path::Path;

/// Most objects in a bundle.
pub const MAX_OBJECTS: usize = 4096;
/// Room that an import leaves on the disk.
const SPARE_BYTES: u64 = 64 << 20;
/// What a block takes in a pack.
const PLACE_BYTES: u64 = 65_568;

/// A friend that a bundle may come from.
#[derive(Clone, Debug)]
pub struct Sender {
    /// Which.
    pub key: FriendKey,
    /// Its name here.
    pub name: String,
    /// Blocked here.
    pub blocked: bool,
    /// Opens its bundles to this node.
    pub secret: Key,
}

/// What an import asks its node.
pub trait Receiver {
    /// The read key of an object, where this node may read it.
    fn read_key(&mut self, root: &Root) -> Option<Key>;
    /// Refuses what there is no room for: so many bytes more, for this object.
    fn make_room(&mut self, root: &Root, bytes: u64) -> Result<(), Failure>;
    /// The object is complete now.
    fn complete(&mut self, cap: VerifyCap, geometry: Geometry);
    /// Seconds since 1970.
    fn now_s(&self) -> u64;
}

/// What came of an import.
#[derive(Debug)]
pub struct Imported {
    /// Who made the bundle.
    pub from: Sender,
    /// Objects, in the bundle's order.
    pub objects: Vec<Kept>,
    /// Ids of those that this node cannot read.
    pub unreadable: Vec<Root>,
}

/// Writes a bundle of these objects. `moved` is called after each block.
pub fn export<W: Write>(
    store: &Store,
    objects: &[ObjectInfo],
    secret: &Key,
    now_s: u64,
    to: W,
    moved: &mut dyn FnMut(),
) -> Result<(W, Counts), ArchiveError> {
    let mut salt = [0; 32];
    getrandom::fill(&mut salt).map_err(|e| ArchiveError::Io(std::io::Error::other(e.to_string())))?;
    let header = Header::bundle(salt);
    let sealer = Sealer::begin(to, &header, &header.key(secret))?;
    let mut items = ItemWriter::begin(sealer, now_s)?;
    for object in objects {
        write_object(store, object, false, &mut items, moved)?;
    }
    Ok(items.seal()?)
}

/// The room that a bundle's object may need.
fn room_for(store: &Store, object: &ObjectItem) -> u64 {
    let total = Geometry::of(object.data_count).map_or(0, Geometry::total);
    let present = store.pack(&object.root).map_or(0, |pack| pack.present());
    object.blocks.min(total.saturating_sub(present)) * PLACE_BYTES
}

/// Refuses what would fill the disk of `dir`. It is kept apart from what a quota says.
pub fn check_disk(dir: &Path, bytes: u64) -> Result<(), Failure> {
    let free = rustix::fs::statvfs(dir).map_or(u64::MAX, |fs| fs.f_bavail.saturating_mul(fs.f_frsize));
    if bytes.saturating_add(SPARE_BYTES) <= free {
        return Ok(());
    }
    let (need, free) = (crate::terminal::human_bytes(bytes), crate::terminal::human_bytes(free));
    let what =
        format!("the next video of the bundle needs {need} and {free} are free: make room on this disk");
    Err(Failure::new(Exit::Full, what))
}

/// Takes a bundle in. What came before an error stays: each block was checked by itself.
pub fn import(
    store: &Store,
    from: impl Read,
    senders: &[Sender],
    receiver: &mut dyn Receiver,
) -> Result<Imported, Failure> {
    let bundle = Path::new("the bundle");
    let locked = Locked::read(from).map_err(|e| backup::failure(e, bundle))?;
    if locked.header().kind() != Kind::Bundle {
        return Err(Failure::new(Exit::Refused, "this is a backup, not a bundle: kith restore"));
    }
    let found = senders.iter().find_map(|sender| {
        let key = locked.header().key(&sender.secret);
        locked.fits(&key).then(|| (sender.clone(), key))
    });
    let Some((sender, key)) = found else {
        return Err(Failure::new(
            Exit::Refused,
            "this bundle is not for this node, or its sender is no friend here, or one of you has had new keys \
             since (kith id rotate): ask for a new one",
        ));
    };
    if sender.blocked {
        let what = format!("this bundle is from {}, whom you have blocked", sender.name);
        return Err(Failure::new(Exit::Refused, what));
    }
    let items = ItemReader::new(locked.open(&key).map_err(|e| backup::failure(e, bundle))?);
    let mut taking =
        Taking { store, receiver, imported: Imported { from: sender, objects: vec![], unreadable: vec![] } };
    match taking.run(items) {
        Ok(()) => Ok(taking.imported),
        Err(failure) => Err(taking.explain(failure)),
    }
}

/// An import under way.
struct Taking<'a> {
    store: &'a Store,
    receiver: &'a mut dyn Receiver,
    imported: Imported,
}

impl<'a> Taking<'a> {
    fn run<R: Read>(&mut self, mut items: ItemReader<R>) -> Result<(), Failure> {
        let mut open: Option<(Importer<'a>, VerifyCap)> = None;
        let result = loop {
            match items.next_item().map_err(wrong).and_then(|item| self.take(item, &mut open)) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(failure) => break Err(failure),
            }
        };
        // What was checked and stored is kept, however it ends.
        self.end(open.take()).and(result)
    }

    /// Takes an item; false after the last.
    fn take(
        &mut self,
        item: Option<Item>,
        open: &mut Option<(Importer<'a>, VerifyCap)>,
    ) -> Result<bool, Failure> {
        match item {
            None => return Ok(false),
            Some(Item::Block(position, sealed)) => {
                if let Some((object, _)) = open {
                    object.block(position, sealed).map_err(|e| self.liar(e))?;
                }
            }
            Some(Item::Object(object)) => {
                self.end(open.take())?;
                *open = Some(self.begin(&object)?);
            }
            Some(Item::About(_)) => {}
            Some(Item::End(_)) => self.end(open.take())?,
            Some(_) => return Err(wrong(ArchiveError::Damaged("it holds what only a backup may hold"))),
        }
        Ok(true)
    }

    fn begin(&mut self, object: &ObjectItem) -> Result<(Importer<'a>, VerifyCap), Failure> {
        if object.read.is_some() || object.class.is_some() {
            return Err(wrong(ArchiveError::Damaged("it holds what only a backup may hold")));
        }
        if self.imported.objects.len() >= MAX_OBJECTS {
            return Err(wrong(ArchiveError::Damaged("it holds too many videos")));
        }
        self.receiver.make_room(&object.root, room_for(self.store, object))?;
        let read = self.receiver.read_key(&object.root);
        if read.is_none() {
            self.imported.unreadable.push(object.root);
        }
        let cap = VerifyCap { root: object.root, tree: object.tree.clone() };
        Ok((Importer::begin(self.store, object, read, self.receiver.now_s()), cap))
    }

    fn end(&mut self, open: Option<(Importer<'a>, VerifyCap)>) -> Result<(), Failure> {
        let Some((object, cap)) = open else { return Ok(()) };
        let Some(kept) = object.finish().map_err(wrong)? else { return Ok(()) };
        let pack = self.store.pack(&kept.root)?;
        if kept.complete {
            self.receiver.complete(cap, pack.geometry());
        }
        self.imported.objects.push(kept);
        Ok(())
    }

    fn liar(&self, e: ArchiveError) -> Failure {
        let ArchiveError::Block(root, ..) = &e else { return wrong(e) };
        let id: String = root.to_hex().chars().take(8).collect();
        let what = format!(
            "a block of video {id} in the bundle from {} is not what it should be: it was refused from there on",
            self.imported.from.name
        );
        Failure::new(Exit::Verification, what)
    }

    /// The failure with what stays.
    fn explain(&self, failure: Failure) -> Failure {
        let new: u64 = self.imported.objects.iter().map(|kept| kept.new).sum();
        if new == 0 {
            return failure.advise("nothing of it was stored");
        }
        let ids = self.imported.objects.iter().filter(|kept| kept.new > 0);
        let ids: Vec<String> = ids.map(|kept| kept.root.to_hex().chars().take(8).collect()).collect();
        failure.advise(format!("kept, each block checked: {new} blocks of {}", ids.join(", ")))
    }
}

fn wrong(e: ArchiveError) -> Failure {
    backup::failure(e, Path::new("the bundle"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kith_crypto::content::{Builder, Head, Position, Sealed};
    use kith_crypto::passphrase::Cost;
    use kith_store::{Opened, Options, Unlock};

    #[derive(Default)]
    struct Fake {
        read: Option<Key>,
        room: u64,
        asked: Vec<u64>,
        complete: Vec<Root>,
    }

    impl Receiver for Fake {
        fn read_key(&mut self, _: &Root) -> Option<Key> {
            self.read.clone()
        }
        fn make_room(&mut self, _: &Root, bytes: u64) -> Result<(), Failure> {
            self.asked.push(bytes);
            if bytes > self.room { Err(Failure::new(Exit::Full, "no room")) } else { Ok(()) }
        }
        fn complete(&mut self, cap: VerifyCap, _: Geometry) {
            self.complete.push(cap.root);
        }
        fn now_s(&self) -> u64 {
            3
        }
    }

    fn store(dir: &Path) -> Store {
        let cost = Cost { memory_kib: 64, passes: 1 };
        let Opened { store, .. } = Store::create(&Options { dir, unlock: Unlock::KeyFile, cost }).unwrap();
        store
    }

    fn publish(store: &Store, key: u8) -> ObjectInfo {
        let mut builder = Builder::new(Key::new([key; 32]));
        let mut publishing = store.publish().unwrap();
        for n in 0..4 {
            publishing.write(builder.push(vec![n]).unwrap()).unwrap();
        }
        let mut rest: Vec<Sealed> = Vec::new();
        let (cap, geometry) =
            builder.finish(&Head { len: 4 * 65_536, ..Head::default() }, |sealed| rest.push(sealed));
        rest.into_iter().for_each(|sealed| publishing.write(sealed).unwrap());
        publishing.commit(&cap, geometry, 1, vec![1]).unwrap();
        store.object(&cap.root).unwrap()
    }

    fn ana(secret: u8, blocked: bool) -> Sender {
        Sender { key: FriendKey([1; 32]), name: "ana".into(), blocked, secret: Key::new([secret; 32]) }
    }

    fn bundle(store: &Store, objects: &[ObjectInfo]) -> Vec<u8> {
        export(store, objects, &Key::new([5; 32]), 9, Vec::new(), &mut || {}).unwrap().0
    }

    fn room() -> Fake {
        Fake { room: u64::MAX, ..Fake::default() }
    }

    #[test]
    fn a_bundle_is_for_one_friend_from_one_friend() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (from, to) = (store(a.path()), store(b.path()));
        let object = publish(&from, 1);
        let bytes = bundle(&from, std::slice::from_ref(&object));
        let refused = |senders: &[Sender]| import(&to, &bytes[..], senders, &mut room()).unwrap_err();
        let foreign = refused(&[ana(6, false), ana(7, false)]);
        assert!(foreign.exit == Exit::Refused && foreign.what.contains("not for this node"), "{foreign}");
        let blocked = refused(&[ana(5, true)]);
        assert!(blocked.exit == Exit::Refused && blocked.what.contains("blocked"), "{blocked}");
        assert!(to.objects().is_empty());
        let mut node = room();
        let imported = import(&to, &bytes[..], &[ana(6, false), ana(5, false)], &mut node).unwrap();
        assert_eq!(
            (imported.from.name.as_str(), imported.unreadable.as_slice()),
            ("ana", &[object.root][..])
        );
        assert_eq!(node.complete, [object.root]);
        assert!(to.object(&object.root).unwrap().read.is_none(), "nothing that reads it came along");
        // A second time asks for no room.
        let mut node = Fake { room: 0, ..Fake::default() };
        import(&to, &bytes[..], &[ana(5, false)], &mut node).unwrap();
        assert_eq!(node.asked, [0]);
    }

    #[test]
    fn what_does_not_fit_is_refused_before_it_comes_and_what_came_is_named() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (from, to) = (store(a.path()), store(b.path()));
        let objects = [publish(&from, 1), publish(&from, 2)];
        let bytes = bundle(&from, &objects);
        let nothing = import(&to, &bytes[..], &[ana(5, false)], &mut Fake::default()).unwrap_err();
        assert!(nothing.exit == Exit::Full && nothing.what.contains("nothing of it"), "{nothing}");
        assert!(to.objects().is_empty());

        struct One(Fake);
        impl Receiver for One {
            fn read_key(&mut self, root: &Root) -> Option<Key> {
                self.0.read_key(root)
            }
            fn make_room(&mut self, root: &Root, bytes: u64) -> Result<(), Failure> {
                self.0.room = if self.0.asked.is_empty() { bytes } else { 0 };
                self.0.make_room(root, bytes)
            }
            fn complete(&mut self, cap: VerifyCap, geometry: Geometry) {
                self.0.complete(cap, geometry);
            }
            fn now_s(&self) -> u64 {
                3
            }
        }
        let mut node = One(Fake::default());
        let half = import(&to, &bytes[..], &[ana(5, false)], &mut node).unwrap_err();
        let id: String = objects[0].root.to_hex().chars().take(8).collect();
        assert!(half.exit == Exit::Full && half.what.contains(&format!("6 blocks of {id}")), "{half}");
        assert_eq!((node.0.complete.len(), to.objects().len()), (1, 1));
        assert_eq!(check_disk(a.path(), u64::MAX / 2).unwrap_err().exit, Exit::Full);
        assert!(check_disk(a.path(), 1).is_ok());
    }

    #[test]
    fn a_liar_is_named_and_a_bundle_with_keys_is_no_bundle() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (from, to) = (store(a.path()), store(b.path()));
        let object = publish(&from, 1);
        let make = |read: Option<Key>, lie: bool| {
            let header = Header::bundle([1; 32]);
            let sealer = Sealer::begin(Vec::new(), &header, &header.key(&Key::new([5; 32]))).unwrap();
            let mut items = ItemWriter::begin(sealer, 1).unwrap();
            let about = ObjectItem {
                root: object.root,
                tree: object.tree.clone(),
                read,
                class: None,
                data_count: 4,
                added_unix_s: 0,
                blocks: 6,
            };
            items.object(about).unwrap();
            let pack = from.pack(&object.root).unwrap();
            items.block(Position::Root, pack.read(Position::Root).unwrap()).unwrap();
            let mut block = pack.read(Position::Data(0)).unwrap();
            block[0] ^= u8::from(lie);
            items.block(Position::Data(0), block).unwrap();
            items.seal().unwrap().0
        };
        let smuggled = make(object.read.clone(), false);
        let refused = import(&to, &smuggled[..], &[ana(5, false)], &mut room()).unwrap_err();
        assert!(refused.exit == Exit::Verification && to.objects().is_empty(), "{refused}");
        let lied = import(&to, &make(None, true)[..], &[ana(5, false)], &mut room()).unwrap_err();
        assert!(lied.exit == Exit::Verification && lied.what.contains("from ana"), "{lied}");
        assert!(lied.what.contains("1 blocks"), "{lied}");
        assert!(!to.pack(&object.root).unwrap().has(Position::Data(0)));
        let control = import(&to, &make(None, false)[..], &[ana(5, false)], &mut room()).unwrap();
        assert_eq!(control.objects[0].present, 2);
    }
}
