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
        if object.read.is_some() || object.own {
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
