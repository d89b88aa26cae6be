//! Room for new packs: claims of publications, objects that give way, and what is left over.
//!
//! Invariant: no pack is begun and no publication grows beyond the quota, or into the free space that
//! the user wants kept, unless enough of what gives way went before. Which objects that are is
//! decided by [`crate::ledger`]; an object goes as in a removal, its row before its file, and the
//! caller is told through [`Store::take_evicted`].

use crate::backend::Kind;
use crate::disk::{At, hold};
use crate::ledger::{Limits, Room, Shortage, Usage, len_of};
use crate::object::{Class, ObjectInfo, Row, day_of};
use crate::pack;
use crate::pack::format::pack_len;
use crate::store::{Inner, packs_dir, temp_dir};
use crate::{Store, StoreError};
use kith_crypto::content::{Geometry, Root};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes that a publication or fetch may grow by before the free space of the disk is looked at again.
pub(crate) const LOOK_EVERY_BYTES: u64 = 32 << 20;

/// What a publication under way may take. Dropped, it is given back.
#[derive(Debug)]
pub(crate) struct Claim {
    inner: Arc<Inner>,
    temp: PathBuf,
    bytes: u64,
    /// Bytes since the disk was looked at.
    unlooked: Option<u64>,
}

impl Claim {
    /// A claim of nothing yet, for the file `temp`.
    pub(crate) fn begin(inner: Arc<Inner>, temp: &Path) -> Self {
        hold(&inner.temps).insert(temp.to_owned());
        Self { inner, temp: temp.to_owned(), bytes: 0, unlooked: None }
    }

    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes room for so many bytes more.
    pub(crate) fn grow(&mut self, bytes: u64) -> Result<(), StoreError> {
        let unlooked = self.unlooked.map(|n| n + bytes);
        let look = unlooked.is_none_or(|n| n >= LOOK_EVERY_BYTES);
        self.inner.claim(bytes, look).map_err(|e| self.in_all(e))?;
        self.unlooked = Some(if look { 0 } else { unlooked.unwrap_or(0) });
        self.bytes += bytes;
        Ok(())
    }

    /// Takes room up to a length.
    pub(crate) fn grow_to(&mut self, len: u64) -> Result<(), StoreError> {
        self.grow(len.saturating_sub(self.bytes))
    }

    /// What it needs is said of the whole object as far as it is known.
    fn in_all(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::NoRoom { what, needed, available, limit } => StoreError::NoRoom {
                what,
                needed: needed.saturating_add(self.bytes),
                available: available.saturating_add(self.bytes),
                limit,
            },
            other => other,
        }
    }

    /// The object counts by itself now.
    pub(crate) const fn became_an_object(&mut self) {
        self.bytes = 0;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        hold(&self.inner.ledger).unclaim(self.bytes);
        hold(&self.inner.temps).remove(&self.temp);
    }
}

/// An object that is in use: it does not give way until this is dropped.
#[derive(Debug)]
pub struct InUse {
    inner: Arc<Inner>,
    root: Root,
}

impl Drop for InUse {
    fn drop(&mut self) {
        hold(&self.inner.ledger).end_use(&self.root);
    }
}

/// What [`Store::gc`] removed, or would remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    /// Objects that gave way.
    pub objects: Vec<ObjectInfo>,
    /// Files that belong to nothing.
    pub files: u64,
    /// Bytes of both.
    pub bytes: u64,
}

impl Inner {
    /// Room for `bytes` of a publication.
    fn claim(&self, bytes: u64, look: bool) -> Result<(), StoreError> {
        if !look {
            let mut ledger = hold(&self.ledger);
            if ledger.fits(bytes) {
                ledger.claim(bytes);
                return Ok(());
            }
        }
        let _changing = hold(&self.changes);
        self.make_room(Class::Own, bytes, look.then_some(bytes), true)
    }

    /// Bytes that are missing until `bytes` more can be written and enough stays free.
    pub(crate) fn deficit(&self, bytes: u64) -> u64 {
        let keep = hold(&self.ledger).limits().keep_free;
        // Where the disk does not say, nothing gives way for it: the write itself will tell.
        let free = self.disk.backend().free_bytes(&self.dir).unwrap_or(u64::MAX);
        keep.saturating_add(bytes).saturating_sub(free)
    }

    /// Lets objects give way until `bytes` of `class` fit into the quota and `disk_bytes` onto the disk;
    /// with `claim` they are reserved. `changes` is held.
    pub(crate) fn make_room(
        &self,
        class: Class,
        bytes: u64,
        disk_bytes: Option<u64>,
        claim: bool,
    ) -> Result<(), StoreError> {
        let mut wanted = bytes;
        // What this call freed counts even where the file system gives it back late: else everything
        // would go while nothing seems to come free.
        let mut left = u64::MAX;
        loop {
            let deficit = disk_bytes.map_or(0, |bytes| self.deficit(bytes)).min(left);
            let victims = {
                let mut ledger = hold(&self.ledger);
                let packs = hold(&self.packs);
                let planned = ledger.plan(class, wanted, deficit, |root| packs.is_held(root));
                drop(packs);
                if planned.is_err() && claim && wanted == 0 {
                    ledger.unclaim(bytes); // claimed in an earlier round
                }
                let victims = planned.map_err(|short| {
                    self.no_room(short, class, ledger.limits(), bytes.max(disk_bytes.unwrap_or(0)))
                })?;
                if claim {
                    ledger.claim(std::mem::take(&mut wanted));
                }
                victims
            };
            let measure = deficit > 0 && !victims.is_empty();
            let used = if measure { self.used_beside(&victims) } else { 0 };
            let evicted = self.evict(&victims);
            if evicted.is_err() && claim {
                hold(&self.ledger).unclaim(bytes);
            }
            evicted?;
            if !measure {
                return Ok(());
            }
            // Holes in packs free less than their length: look again. Each round takes its victims out
            // of the ledger, so there is a last one.
            left = deficit.saturating_sub(used.saturating_sub(self.used_beside(&victims)));
        }
    }

    /// Bytes of the packs in the folders of these objects, holes not counted.
    fn used_beside(&self, roots: &[Root]) -> u64 {
        let paths: Vec<PathBuf> = roots.iter().map(|root| self.pack_path(root)).collect();
        let folders: HashSet<&Path> = paths.iter().filter_map(|path| path.parent()).collect();
        folders.into_iter().map(|folder| self.disk.backend().used_bytes(folder)).sum()
    }

    fn no_room(&self, short: Shortage, class: Class, limits: Limits, bytes: u64) -> StoreError {
        let Shortage { what, needed, available } = short;
        let free = self.disk.backend().free_bytes(&self.dir).unwrap_or(0);
        match what {
            Room::Quota => StoreError::NoRoom { what, needed, available, limit: limits.quota },
            Room::Share => StoreError::NoRoom { what, needed, available, limit: limits.share(class) },
            Room::Disk => StoreError::NoRoom {
                what,
                needed: bytes,
                available: free.saturating_add(available).saturating_sub(limits.keep_free),
                limit: limits.keep_free,
            },
        }
    }

    /// Lets these objects go and remembers to tell the caller. `changes` is held.
    fn evict(&self, roots: &[Root]) -> Result<(), StoreError> {
        if roots.is_empty() {
            return Ok(());
        }
        let dropped = self.drop_objects(roots);
        // Whatever went wrong, what is gone is to be told: nobody may go on offering it.
        let mut gone = roots.to_vec();
        if dropped.is_err() {
            gone.retain(|root| self.is_gone(root));
        }
        hold(&self.ledger).count_evicted(gone.len() as u64);
        hold(&self.evicted).extend_from_slice(&gone);
        dropped
    }

    /// Whether an object has no row any more, or no pack.
    fn is_gone(&self, root: &Root) -> bool {
        matches!(self.known(root), Ok(None)) || matches!(self.disk.kind(&self.pack_path(root)), Ok(None))
    }

    /// Stops keeping objects: rows first, then the files. `changes` is held.
    pub(crate) fn drop_objects(&self, roots: &[Root]) -> Result<(), StoreError> {
        let mut known = Vec::with_capacity(roots.len());
        for root in roots {
            match self.known(root)? {
                Some(info) => known.push(info),
                // Nothing is kept of it, and a file without a row is not for this to judge.
                None => hold(&self.ledger).forget(root),
            }
        }
        if known.is_empty() {
            return Ok(());
        }
        let roots: Vec<Root> = known.iter().map(|info| info.root).collect();
        let rows: Vec<Vec<u8>> = roots.iter().map(|root| Row::Removed(*root).encode()).collect();
        let marks = match self.write(&rows) {
            // No room even to say it: the files make it. A kill before the rows are there leaves
            // objects whose packs are lost, and those were to go.
            Err(StoreError::Full { .. }) if !self.disk.is_read_only() => {
                self.drop_packs(&roots)?;
                self.write(&rows)?
            }
            other => other?,
        };
        self.follow(|index| {
            roots.iter().try_for_each(|root| index.remove(root))?;
            marks.last().map_or(Ok(()), |mark| index.set_mark(*mark))
        });
        {
            let mut ledger = hold(&self.ledger);
            known.iter().for_each(|info| ledger.replace(Some(info), None, 0));
        }
        self.drop_packs(&roots) // after a kill here the next start does it
    }

    fn drop_packs(&self, roots: &[Root]) -> Result<(), StoreError> {
        roots.iter().try_for_each(|root| {
            let forgotten = hold(&self.packs).forget(root);
            drop(forgotten);
            self.disk.remove(&self.pack_path(root))
        })
    }

    /// Files of publications that nobody writes any more, and packs that no row names. `changes` is
    /// held.
    fn leftovers(&self) -> Result<Vec<PathBuf>, StoreError> {
        let (packs, temps) = (packs_dir(&self.dir), temp_dir(&self.dir));
        let mut out: Vec<PathBuf> = self.disk.list(&temps)?.into_iter().map(|(path, _)| path).collect();
        // Asked after the look: a publication that began meanwhile is either in both or in neither.
        let live = hold(&self.temps).clone();
        out.retain(|path| !live.contains(path));
        if self.lost_rows {
            return Ok(out);
        }
        let objects = self.kept()?;
        let mut named: HashMap<PathBuf, Root> =
            objects.iter().map(|info| (self.pack_path(&info.root), info.root)).collect();
        let kept: HashSet<Root> = named.values().copied().collect();
        let mut strays = Vec::new();
        for (folder, kind) in self.disk.list(&packs)? {
            if kind != Kind::Folder || folder == temps {
                continue;
            }
            let files = self.disk.list(&folder)?.into_iter().map(|(path, _)| path);
            let unnamed = files.filter(|path| named.remove(path).is_none());
            strays.extend(unnamed.filter(|path| path.extension().is_some_and(|e| e == "pack")));
        }
        // While an object misses its pack, one under a wrong name may be the last trace of it.
        let foreign = |path: &PathBuf| {
            named.is_empty()
                || pack::owner(&self.disk, path, &self.key).is_some_and(|root| !kept.contains(&root))
        };
        out.extend(strays.into_iter().filter(foreign));
        Ok(out)
    }
}

impl Store {
    /// Sets how much may be kept. Nothing goes because of it until something new comes or
    /// [`Store::gc`] is called. Without it there are no limits.
    pub fn set_limits(&self, limits: Limits) {
        hold(&self.inner.ledger).set_limits(limits);
    }

    /// How much may be kept.
    pub fn limits(&self) -> Limits {
        hold(&self.inner.ledger).limits()
    }

    /// How much is kept, by class.
    pub fn usage(&self) -> Usage {
        hold(&self.inner.ledger).usage()
    }

    /// Length of the pack of an object with so many data blocks, which is what counts in the quota.
    pub fn pack_len(data_count: u64) -> u64 {
        len_of(data_count)
    }

    /// Bytes that can still be written to the store's disk.
    pub fn free_bytes(&self) -> u64 {
        self.inner.disk.backend().free_bytes(&self.inner.dir).unwrap_or(0)
    }

    /// Whether an object of this node with so many data blocks could be kept, if everything that
    /// gives way did. Nothing does yet.
    pub fn room_for(&self, data_count: u64) -> Result<(), StoreError> {
        let inner = &self.inner;
        let len = Geometry::of(data_count).map_or(u64::MAX, pack_len);
        let deficit = inner.deficit(len);
        let ledger = hold(&inner.ledger);
        let packs = hold(&inner.packs);
        let planned = ledger.plan(Class::Own, len, deficit, |root| packs.is_held(root));
        planned.map(drop).map_err(|short| inner.no_room(short, Class::Own, ledger.limits(), len))
    }

    /// Lets objects give way until the disk has the free space that is to be kept. To be called now
    /// and then while a fetch grows.
    pub fn keep_floor(&self) -> Result<(), StoreError> {
        if self.inner.deficit(0) == 0 {
            return Ok(());
        }
        let _changing = hold(&self.inner.changes);
        self.inner.make_room(Class::Cached, 0, Some(0), false)
    }

    /// Keeps an object from giving way until the answer is dropped. It need not be here yet.
    pub fn begin_use(&self, root: &Root) -> InUse {
        hold(&self.inner.ledger).begin_use(*root);
        InUse { inner: Arc::clone(&self.inner), root: *root }
    }

    /// Remembers that an object was used now. Written down at most once a day and object.
    pub fn used(&self, root: &Root, now_unix_s: u64) -> Result<(), StoreError> {
        let _changing = hold(&self.inner.changes);
        let Some(info) = self.inner.object(root).filter(|info| info.class.gives_way()) else {
            return Ok(());
        };
        let day = day_of(now_unix_s);
        if day <= info.used_day {
            hold(&self.inner.ledger).replace(Some(&info), Some(&info), 0);
            return Ok(());
        }
        let after = ObjectInfo { used_day: day, ..info.clone() };
        self.inner.change(&Row::Used(*root, day), Some(&info), &after, &[], 0)
    }

    /// Keeps an object for good. Own objects are.
    pub fn pin(&self, root: &Root) -> Result<ObjectInfo, StoreError> {
        let _changing = hold(&self.inner.changes);
        let info = self.inner.object(root).ok_or(StoreError::NotFound)?;
        if !info.class.gives_way() {
            return Ok(info);
        }
        let (limits, fixed) = (self.limits(), self.usage().fixed());
        let needed = len_of(info.data_count);
        if fixed.saturating_add(needed) > limits.quota {
            let available = limits.quota.saturating_sub(fixed);
            return Err(StoreError::NoRoom { what: Room::Quota, needed, available, limit: limits.quota });
        }
        let after = ObjectInfo { class: Class::Pinned, ..info };
        self.inner.enter(&after)?;
        Ok(after)
    }

    /// Keeps an object for others and no longer as something that was used here (`true`), or the other way round.
    /// Own and pinned objects stay what they are.
    pub fn set_mirrored(&self, root: &Root, is_mirror: bool) -> Result<(), StoreError> {
        let _changing = hold(&self.inner.changes);
        let info = self.inner.object(root).ok_or(StoreError::NotFound)?;
        let class = if is_mirror { Class::Mirrored } else { Class::Cached };
        if !info.class.gives_way() || info.class == class {
            return Ok(());
        }
        self.inner.enter(&ObjectInfo { class, ..info })
    }

    /// Whether so many bytes more can be kept for others while nothing gives way.
    pub fn has_room_for_mirrors(&self, bytes: u64) -> bool {
        let (limits, usage) = (self.limits(), self.usage());
        let fits = |used: u64, most: u64| used.saturating_add(bytes) <= most;
        fits(usage.of(Class::Mirrored), limits.share(Class::Mirrored))
            && fits(usage.total(), limits.quota)
            && self.inner.deficit(bytes) == 0
    }

    /// Lets a pinned object give way again, as one that was used now. Own objects stay own.
    pub fn unpin(&self, root: &Root, now_unix_s: u64) -> Result<ObjectInfo, StoreError> {
        let _changing = hold(&self.inner.changes);
        let info = self.inner.object(root).ok_or(StoreError::NotFound)?;
        if info.class != Class::Pinned {
            return Ok(info);
        }
        let used_day = day_of(now_unix_s).max(info.used_day);
        let after = ObjectInfo { class: Class::Cached, used_day, ..info };
        self.inner.enter(&after)?;
        Ok(after)
    }

    /// Removes what is above its share or the quota, as far as it gives way and is not in use, and
    /// files that belong to nothing. With `dry_run` it only tells what that would be.
    pub fn gc(&self, dry_run: bool) -> Result<Freed, StoreError> {
        let inner = &self.inner;
        let _changing = hold(&inner.changes);
        let deficit = inner.deficit(0);
        let victims = {
            let ledger = hold(&inner.ledger);
            let packs = hold(&inner.packs);
            ledger.excess(deficit, |root| packs.is_held(root))
        };
        let mut freed = Freed::default();
        freed.objects.extend(victims.iter().filter_map(|root| inner.object(root)));
        freed.bytes = freed.objects.iter().map(|info| len_of(info.data_count)).sum();
        let leftovers = inner.leftovers()?;
        for path in &leftovers {
            let len = inner.disk.open(path).and_then(|file| file.len().at(path));
            freed.bytes += len.unwrap_or(0); // an odd thing is removed all the same
            freed.files += 1;
        }
        if !dry_run {
            leftovers.iter().try_for_each(|path| inner.disk.remove(path))?;
            inner.evict(&victims)?;
        }
        Ok(freed)
    }

    /// The objects that gave way since this was last asked. Some of them may have come back.
    pub fn take_evicted(&self) -> Vec<Root> {
        std::mem::take(&mut *hold(&self.inner.evicted))
    }
}
