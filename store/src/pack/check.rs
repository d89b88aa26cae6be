//! Checking one pack from its first byte to its last, and putting right what can be put right from
//! what else stands in it.
//!
//! Invariant: nothing is believed because it is marked, and nothing is marked that was not read:
//! a block counts when it opens under the nonce of its place and has the id that the verified tree
//! names for that place. So a block in the place of another one shows, and so does one of another
//! object. The file is opened anew by its name, because a name that points to another file is damage
//! too. What is read is read without a lock. Who brings lost blocks is the caller's matter.

use super::Pack;
use super::format::{Header, HeaderError, Layout, Map, PAGE_LEN, PLACE_LEN, PackKeys, place_at};
use crate::StoreError;
use crate::backend::{File, Kind};
use crate::disk::{self, At, Disk, hold};
use crate::object::ObjectInfo;
use crate::verify::{Fault, Outcome};
use kith_crypto::content::{BlockId, FANOUT, Geometry, Position, Tree, VerifyCap};
use kith_crypto::secret::Key;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

/// A salt with one wrong byte is searched for only where a trial costs less than this many bytes.
const LARGEST_TRIAL: usize = 64 * 1024;

/// What stands in a pack's header page.
pub(crate) enum Page {
    /// The header of this object.
    Right,
    /// The header of another object of this store.
    Other(Header),
    /// It is damaged, and these keys open the rest of the file.
    Repairable(Box<PackKeys>),
    /// A later release wrote it.
    Newer,
    /// The disk does not say, and nothing else tells.
    Unread,
    /// The file is of no use.
    Useless(&'static str),
}

/// Reads the header page of the pack of `info`. `open`: the same pack, if it is open.
pub(crate) fn page(file: &dyn File, store: &Key, info: &ObjectInfo, open: Option<&Pack>) -> Page {
    let Some(geometry) = Geometry::of(info.data_count) else { return Page::Useless("its row is damaged") };
    let read = file.read_at(0, PAGE_LEN);
    let unread = read.as_ref().is_err_and(|e| e.kind() != ErrorKind::UnexpectedEof);
    let page = read.unwrap_or_else(|_| vec![0; PAGE_LEN]); // cut off, or a sector that cannot be read
    let newer = match PackKeys::decode_header(store, &page) {
        Ok((header, _)) if header.root != info.root => return Page::Other(header),
        Ok((header, _)) if header.geometry == geometry && header.tree == info.tree => return Page::Right,
        Ok(_) => return Page::Useless("its header and the journal say different things"),
        Err(HeaderError::Newer(_)) => true,
        Err(HeaderError::Damaged) => false,
    };
    let layout = Layout::of(geometry);
    let stored = PackKeys::salt_in(&page);
    // What opens under the keys of the open pack is that pack. Under other keys only the root block
    // tells whose file it is: blocks of this object must not be written into that of another.
    let is_open = |keys: &PackKeys| has_map(file, keys, layout) || has_root(file, keys, layout, info);
    let of_open = open.map(|pack| PackKeys::new(store, *pack.keys.salt())).filter(is_open);
    let fits = |keys: &PackKeys| has_root(file, keys, layout, info);
    let of_stored = || stored.map(|salt| PackKeys::new(store, salt)).filter(fits);
    if let Some(keys) = of_open.or_else(of_stored) {
        return Page::Repairable(Box::new(keys));
    }
    if unread {
        return Page::Unread;
    }
    if newer {
        return Page::Newer;
    }
    match stored.and_then(|salt| nearby_salt(file, store, salt, layout)).filter(fits) {
        Some(keys) => Page::Repairable(Box::new(keys)),
        None => Page::Useless("its header is lost"),
    }
}

/// Whether a presence map opens with these keys.
fn has_map(file: &dyn File, keys: &PackKeys, layout: Layout) -> bool {
    let map = |copy| file.read_at(layout.map_at(copy), layout.map_len()).ok();
    [0, 1].into_iter().filter_map(map).any(|bytes| keys.decode_map(layout, &bytes).is_some())
}

/// Whether the root block opens with these keys and is that of the object.
fn has_root(file: &dyn File, keys: &PackKeys, layout: Layout, info: &ObjectInfo) -> bool {
    let cipher = kith_crypto::aead::BulkKey::new(&keys.blocks);
    let Ok(mut bytes) = file.read_at(place_at(layout.last_slot()), PLACE_LEN) else { return false };
    let opened = cipher.open_vec(Position::Root.nonce(), &[], &mut bytes).is_ok();
    opened && BlockId::of(&bytes).0 == info.root.0
}

/// The keys of a salt that differs in one byte from the one on disk: a single flipped bit there would
/// cost the whole object otherwise.
fn nearby_salt(file: &dyn File, store: &Key, stored: [u8; 32], layout: Layout) -> Option<PackKeys> {
    if layout.map_len() > LARGEST_TRIAL {
        return None;
    }
    let maps: Vec<Vec<u8>> =
        [0, 1].iter().filter_map(|copy| file.read_at(layout.map_at(*copy), layout.map_len()).ok()).collect();
    let written = maps.iter().find(|bytes| bytes.iter().any(|b| *b != 0))?;
    (0..stored.len()).flat_map(|at| (1..=255).map(move |change| (at, change))).find_map(
        |(at, change): (_, u8)| {
            let mut salt = stored;
            *salt.get_mut(at)? ^= change;
            let keys = PackKeys::new(store, salt);
            keys.decode_map(layout, written).is_some().then_some(keys)
        },
    )
}

/// Writes the header of `info` again.
pub(crate) fn rewrite_header(
    file: &dyn File,
    keys: &PackKeys,
    info: &ObjectInfo,
    path: &Path,
    disk: &Disk,
) -> Result<(), StoreError> {
    let geometry = Geometry::of(info.data_count).ok_or(StoreError::Misuse("no such shape"))?;
    let header = Header { root: info.root, tree: info.tree.clone(), geometry };
    disk.check()?;
    let page = keys.encode_header(&disk::random()?, &header);
    disk.guard_unless_full(file.write_at(0, &page).at(path))?;
    disk.guard(file.sync().at(path))
}

/// The check of one open pack, a few blocks at a time.
#[derive(Debug)]
pub(crate) struct PackCheck {
    pack: Arc<Pack>,
    cap: VerifyCap,
    tree: Option<Tree>,
    /// Steps done, of `geometry.total()`: root, head, then each node with the data below it.
    done: u64,
    /// All blocks should be here.
    complete: bool,
    /// Change nothing.
    look_only: bool,
    lost: u64,
    found: u64,
    strays: u64,
    unreadable: bool,
}

/// What one place held.
enum Place {
    Good,
    /// The file ends before it.
    CutOff,
    /// The disk does not say.
    Unread,
    /// Bytes that are no block where none should be.
    Stray,
    Empty,
}

impl PackCheck {
    pub(crate) fn new(pack: Arc<Pack>, info: &ObjectInfo, look_only: bool) -> Self {
        pack.file.forget(0, 0); // what is on the disk counts, not what is in memory
        let cap = VerifyCap { root: info.root, tree: info.tree.clone() };
        Self {
            pack,
            cap,
            tree: None,
            done: 0,
            complete: info.complete,
            look_only,
            lost: 0,
            found: 0,
            strays: 0,
            unreadable: false,
        }
    }

    /// Whether the object was removed meanwhile.
    pub(crate) fn is_over(&self) -> bool {
        self.pack.discarded.load(Ordering::Relaxed)
    }

    /// Checks up to `most` blocks; returns how many were looked at, 0 when all were.
    pub(crate) fn step(&mut self, most: u64) -> u64 {
        let end = self.pack.geometry.total().min(self.done + most);
        let before = self.done;
        while self.done < end {
            let position = nth(self.pack.geometry, self.done);
            self.check(position);
            self.done += 1;
        }
        self.pack.file.forget(place_at(before), (end - before) * PLACE_LEN as u64);
        end - before
    }

    fn check(&mut self, position: Position) {
        let Some(slot) = self.pack.geometry.slot(position) else { return };
        let marked = hold(&self.pack.marks).has(slot);
        let place = self.look(position, slot);
        let expected = marked || self.complete;
        match (place, expected) {
            (Place::Good, true) if marked => {}
            (Place::Empty, false) => {}
            // Somebody may be writing there: with all writers away it shows what it is.
            _ => {
                let pack = self.pack.clone();
                let _alone = pack.writing.write().unwrap_or_else(PoisonError::into_inner);
                self.settle(position, slot);
            }
        }
    }

    /// Looks again while nobody writes, and makes mark and place agree.
    fn settle(&mut self, position: Position, slot: u64) {
        let marked = hold(&self.pack.marks).has(slot);
        let place = self.look(position, slot);
        match (&place, marked) {
            (Place::Good, true) => {}
            (Place::Empty | Place::CutOff | Place::Unread, false) if !self.complete => {}
            (Place::Good, false) => self.found += 1,
            (_, true) => self.lost += 1,
            (_, false) if self.complete => self.lost += 1,
            (_, false) => self.strays += 1,
        }
        if self.look_only {
            return;
        }
        match place {
            Place::Good if !marked => hold(&self.pack.marks).add(slot),
            // A later reading may succeed, so what could not be read stays as it is.
            Place::Good | Place::Empty | Place::Unread => {}
            Place::CutOff | Place::Stray => self.clear(slot),
        }
        if marked && !matches!(place, Place::Good) {
            let total = self.pack.geometry.total();
            hold(&self.pack.marks).drop_slot(slot, total);
        }
    }

    /// Writes zeros where no block is, so that the next check has nothing to say. It fails where the
    /// disk is broken, and then the next check says it again.
    fn clear(&self, slot: u64) {
        if self.pack.disk.check().is_ok() {
            let _ = self.pack.file.write_at(place_at(slot), &vec![0; PLACE_LEN]);
        }
    }

    fn look(&mut self, position: Position, slot: u64) -> Place {
        let mut bytes = match self.pack.file.read_at(place_at(slot), PLACE_LEN) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Place::CutOff,
            Err(_) => {
                self.unreadable = true;
                return Place::Unread;
            }
        };
        if bytes.iter().all(|byte| *byte == 0) {
            return Place::Empty;
        }
        let opened = self.pack.cipher.open_vec(position.nonce(), &[], &mut bytes).is_ok();
        if opened && self.belongs(position, bytes) { Place::Good } else { Place::Stray }
    }

    /// Whether the tree names this block for this place. Below a lost node there is only the seal.
    fn belongs(&mut self, position: Position, sealed: Vec<u8>) -> bool {
        if position == Position::Root {
            let opened = Tree::open(&self.cap, sealed);
            let tree = opened.ok().map(|(tree, _)| tree);
            let good = tree.as_ref().is_some_and(|tree| tree.geometry() == self.pack.geometry);
            self.tree = tree;
            return good;
        }
        use kith_crypto::content::TreeError::NodeMissing;
        match &mut self.tree {
            None => true,
            Some(tree) => matches!(tree.verify(position, sealed), Ok(_) | Err(NodeMissing(_))),
        }
    }

    /// Checks what stands between and behind the blocks, makes marks durable, and tells all faults.
    pub(crate) fn finish(self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.is_over() {
            return faults;
        }
        let mended = if self.look_only { Outcome::Left } else { Outcome::Mended };
        if self.lost > 0 {
            let what = if self.unreadable { "blocks cannot be read" } else { "blocks are damaged" };
            faults.push(Fault { what, blocks: self.lost, outcome: Outcome::Fetch });
        }
        let mut mend = |wrong: bool, what, put_right: &dyn Fn() -> Result<(), StoreError>| {
            if wrong {
                let outcome = match self.look_only {
                    true => mended,
                    false => put_right().map_or(Outcome::Left, |()| mended),
                };
                faults.push(Fault { what, blocks: 0, outcome });
            }
        };
        let pack = &self.pack;
        mend(self.strays > 0, "bytes stood in an empty place", &|| Ok(()));
        mend(pack.gap_is_dirty(), "the gap behind the blocks was not empty", &|| pack.clear_gap());
        let len = pack.layout.file_len();
        let found = pack.file.len().unwrap_or(len);
        mend(found > len, "bytes stood behind the end", &|| pack.cut(len));
        mend(found < len, "its end was missing", &|| Ok(()));
        mend(self.found > 0, "the presence map lacked blocks that are there", &|| Ok(()));
        let flushed = if self.look_only { Ok(()) } else { pack.flush() };
        let maps = flushed.is_err() || pack.maps_are_whole(self.lost > 0 && self.look_only);
        mend(!maps, "a copy of the presence map was damaged", &|| pack.rewrite_maps());
        let (at, end) = (place_at(pack.geometry.total()), len);
        pack.file.forget(at, end.saturating_sub(at));
        faults
    }
}

/// The n-th block in the order of the check.
fn nth(geometry: Geometry, n: u64) -> Position {
    let per_node = FANOUT as u64 + 1;
    match n {
        0 => Position::Root,
        1 => Position::Head,
        _ if geometry.node_count() == 0 => Position::Data(n - 2),
        _ => {
            let (node, below) = ((n - 2) / per_node, (n - 2) % per_node);
            match below.checked_sub(1) {
                None => Position::Node(node as u32),
                Some(below) => Position::Data(node * FANOUT as u64 + below),
            }
        }
    }
}

impl Pack {
    /// Whether `file`, opened by the pack's name, is the one that this pack uses.
    pub(crate) fn is_behind(&self, file: &dyn File) -> std::io::Result<bool> {
        Ok(PackKeys::salt_in(&file.read_at(0, PAGE_LEN)?) == Some(*self.keys.salt()))
    }

    fn gap(&self) -> (u64, usize) {
        let at = place_at(self.geometry.total());
        (at, self.layout.map_at(0).saturating_sub(at) as usize)
    }

    fn gap_is_dirty(&self) -> bool {
        let (at, len) = self.gap();
        self.file.read_at(at, len).is_ok_and(|bytes| bytes.iter().any(|byte| *byte != 0))
    }

    fn clear_gap(&self) -> Result<(), StoreError> {
        let (at, len) = self.gap();
        self.disk.check()?;
        self.file.write_at(at, &vec![0; len]).and_then(|()| self.file.sync()).at(&self.path)
    }

    fn cut(&self, len: u64) -> Result<(), StoreError> {
        self.disk.check()?;
        self.file.set_len(len).and_then(|()| self.file.sync()).at(&self.path)
    }

    /// Whether both copies of the map are as they were written. `behind`: the marks in memory were
    /// left alone, so the newest map may name more than there is.
    fn maps_are_whole(&self, behind: bool) -> bool {
        let generation = hold(&self.flushed);
        let map = {
            let marks = hold(&self.marks);
            (!marks.dirty && !behind).then(|| marks.map.clone())
        };
        let copy = |number: u64| self.file.read_at(self.layout.map_at(number), self.layout.map_len()).ok();
        let (Some(newest), Some(other)) = (copy(*generation % 2), copy((*generation + 1) % 2)) else {
            return false;
        };
        let newest = self.keys.decode_map(self.layout, &newest);
        let agrees = |found: Map| map.is_none_or(|map| map == found);
        let whole = newest.is_some_and(|(found, map)| found == *generation && agrees(map));
        let decoded = self.keys.decode_map(self.layout, &other).map(|(found, _)| found);
        let before = match generation.checked_sub(1) {
            // A pack that is published is flushed once, so its other copy was never written.
            None | Some(0) => other.iter().all(|byte| *byte == 0) || decoded == Some(0),
            before => decoded == before,
        };
        whole && before
    }

    /// Writes the map twice, so that both copies are good.
    fn rewrite_maps(&self) -> Result<(), StoreError> {
        let mut generation = hold(&self.flushed);
        let map = hold(&self.marks).map.clone();
        self.disk.check()?;
        // The marks may speak of blocks that were written since the last flush.
        self.disk.guard(self.file.sync().at(&self.path))?;
        for _ in 0..2 {
            let next = *generation + 1;
            let bytes = self.keys.encode_map(self.layout, next, &disk::random()?, &map);
            let written = self.file.write_at(self.layout.map_at(next % 2), &bytes).at(&self.path);
            self.disk.guard_unless_full(written)?;
            self.disk.guard(self.file.sync().at(&self.path))?;
            *generation = next;
        }
        Ok(())
    }
}

/// Why a pack's name leads to no open file.
pub(crate) struct Unopened {
    pub(crate) what: &'static str,
    /// No file has the name. Otherwise there may well be one, and the system does not hand it out now.
    pub(crate) gone: bool,
}

/// What has the name of a pack that should be a file.
pub(crate) fn open_named(disk: &Disk, path: &Path) -> Result<Box<dyn File>, Unopened> {
    let (what, gone) = match disk.kind(path) {
        Ok(Some(Kind::File)) => match disk.open(path) {
            Ok(file) => return Ok(file),
            Err(e) if e.is_missing() => ("it is missing", true),
            Err(_) => ("it cannot be opened", false),
        },
        Ok(Some(_)) => ("something that is no file has its name", true),
        Ok(None) => ("it is missing", true),
        Err(_) => ("it cannot be looked at", false),
    };
    Err(Unopened { what, gone })
}
