//! Objects between a store and an archive: sealed blocks go out as they stand in the packs' inner
//! layer, and come in only as the object's own tree names them.
//!
//! Invariant: nothing that was not verified is stored; what was stored before an archive turned out
//! to be bad stays, because each block proves itself. Who may have which object, and how much room
//! there is, is decided by the caller.

use super::{ArchiveError, ItemWriter, ObjectItem};
use crate::{Class, ObjectInfo, Pack, Store, StoreError};
use kith_crypto::content::{BlockId, FANOUT, Geometry, Position, Root, Tree, VerifyCap};
use kith_crypto::secret::Key;
use std::io::Write;
use std::sync::Arc;

/// All positions of an object in the order in which an archive holds them: root, head, then each
/// node block before the data blocks that it names.
fn positions(geometry: Geometry) -> impl Iterator<Item = Position> {
    let (data, nodes) = (geometry.data_count(), geometry.node_count());
    let groups = u64::from(nodes.max(1));
    let group = move |number: u64| {
        let node = (nodes > 0).then_some(Position::Node(number as u32));
        let from = number * FANOUT as u64;
        let to = data.min(from + FANOUT as u64);
        node.into_iter().chain((from..to).map(Position::Data))
    };
    [Position::Root, Position::Head].into_iter().chain((0..groups).flat_map(group))
}

/// Blocks of an object that are here. 0 when its pack is of no use.
pub fn block_count(store: &Store, root: &Root) -> u64 {
    store.pack(root).map_or(0, |pack| if pack.has(Position::Root) { pack.present() } else { 0 })
}

/// The number of the reason for which an object is kept; see [`ObjectItem::class`].
pub const fn class_of(info: &ObjectInfo) -> u8 {
    info.class.number()
}

/// Appends an object with the blocks that are here. `keys`: with its read key, for a backup; else
/// nothing but what checks it. Damaged blocks are left out. `moved` is called after each block.
/// Returns the number of blocks.
pub fn write_object<W: Write>(
    store: &Store,
    info: &ObjectInfo,
    keys: bool,
    to: &mut ItemWriter<W>,
    moved: &mut dyn FnMut(),
) -> Result<u64, ArchiveError> {
    let pack = store.pack(&info.root)?;
    let geometry = pack.geometry();
    to.object(ObjectItem {
        root: info.root,
        tree: info.tree.clone(),
        read: info.read.clone().filter(|_| keys),
        class: keys.then(|| class_of(info)),
        data_count: geometry.data_count(),
        added_unix_s: if keys { info.added_unix_s } else { 0 },
        blocks: geometry.total(),
    })?;
    let mut count = 0;
    let mut named = true;
    for position in positions(geometry) {
        let is_data = matches!(position, Position::Data(_));
        // Without the node block above, nobody could check a data block.
        if is_data && !named {
            continue;
        }
        let sealed = match pack.read(position) {
            Ok(sealed) => Some(sealed),
            Err(StoreError::NotFound | StoreError::DamagedBlock(_)) => None,
            Err(e) => return Err(e.into()),
        };
        match position {
            Position::Root if sealed.is_none() => return Ok(0),
            Position::Node(_) => named = sealed.is_some(),
            _ => {}
        }
        if let Some(sealed) = sealed {
            to.block(position, sealed)?;
            count += 1;
            moved();
        }
    }
    Ok(count)
}

/// What became of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its id.
    pub root: Root,
    /// Blocks in all.
    pub total: u64,
    /// Blocks that were new here.
    pub new: u64,
    /// Blocks that are here now.
    pub present: u64,
    /// All of them are.
    pub complete: bool,
}

/// Takes one object's blocks out of an archive into the store.
#[derive(Debug)]
pub struct Importer<'a> {
    store: &'a Store,
    cap: VerifyCap,
    read: Option<Key>,
    class: Class,
    data_count: u64,
    added_unix_s: u64,
    open: Option<(Tree, Arc<Pack>)>,
    new: u64,
}

impl<'a> Importer<'a> {
    /// Begins an object. `read` is its read key where this node may read it; one that is not this
    /// object's is left aside.
    pub fn begin(store: &'a Store, object: &ObjectItem, read: Option<Key>, added_unix_s: u64) -> Self {
        let cap = VerifyCap { root: object.root, tree: object.tree.clone() };
        let fits = |key: &Key| {
            kith_crypto::content::ReadCap { root: cap.root, key: key.clone() }.verify_cap() == cap
        };
        let read = read.filter(fits);
        let class = object.class.and_then(|number| Class::ALL.get(usize::from(number)).copied());
        let class = class.unwrap_or(Class::Cached);
        Self { store, cap, read, class, data_count: object.data_count, added_unix_s, open: None, new: 0 }
    }

    /// Checks a block and stores it. [`ArchiveError::Block`] if it is not what the tree names.
    pub fn block(&mut self, position: Position, sealed: Vec<u8>) -> Result<(), ArchiveError> {
        let root = self.cap.root;
        let lied = |why| ArchiveError::Block(root, position, why);
        let Some((tree, pack)) = &mut self.open else {
            return self.root(position, sealed);
        };
        if pack.has(position) && !matches!(position, Position::Node(_)) {
            // Here already; it is checked all the same, so that a liar is known as one.
            let named = if position == Position::Root { Ok(BlockId(root.0)) } else { tree.id_of(position) };
            let same = named.map_err(lied)? == BlockId::of(&sealed);
            return if same { Ok(()) } else { Err(lied(kith_crypto::content::TreeError::Id)) };
        }
        let block = tree.verify(position, sealed).map_err(lied)?;
        self.new += u64::from(!pack.has(position));
        pack.write(block)?;
        Ok(())
    }

    fn root(&mut self, position: Position, sealed: Vec<u8>) -> Result<(), ArchiveError> {
        if position != Position::Root {
            return Err(ArchiveError::Damaged("an object in it does not begin with its root"));
        }
        let lied = |why| ArchiveError::Block(self.cap.root, position, why);
        let (tree, block) = Tree::open(&self.cap, sealed).map_err(lied)?;
        let geometry = tree.geometry();
        if geometry.data_count() != self.data_count {
            return Err(ArchiveError::Damaged("an object in it has another shape than it says"));
        }
        let was_here = block_count(self.store, &self.cap.root) > 0;
        let read = self.read.as_ref();
        let pack =
            self.store.begin_fetch_as(self.class, &self.cap, read, &block, geometry, self.added_unix_s)?;
        self.new += u64::from(!was_here);
        if !pack.has(Position::Root) {
            pack.write(block)?;
        }
        self.open = Some((tree, pack));
        Ok(())
    }

    /// Ends the object: what came is durable, and it is marked when nothing is missing. `None` when
    /// not a single block came.
    pub fn finish(self) -> Result<Option<Kept>, ArchiveError> {
        let Some((_, pack)) = self.open else { return Ok(None) };
        pack.flush()?;
        let complete = pack.is_complete();
        if complete {
            self.store.mark_complete(&self.cap.root)?;
        }
        let (total, present) = (pack.geometry().total(), pack.present());
        Ok(Some(Kept { root: self.cap.root, total, new: self.new, present, complete }))
    }
}
