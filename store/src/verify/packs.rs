//! The packs, one object after the other: header first, then blocks, then maps and gaps.

use super::{BLOCKS_PER_STEP, Checked, Fault, FileType, Finding, Outcome, Verify, pack_bytes};
use crate::backend::File;
use crate::disk::{Disk, hold};
use crate::object::ObjectInfo;
use crate::pack::check::{self, PackCheck, Page, Unopened};
use crate::pack::format::PLACE_LEN;
use crate::store::Inner;
use crate::{Pack, StoreError};
use kith_crypto::content::{Geometry, Root};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why the blocks of a pack cannot be looked at.
struct NoUse(Fault);

/// Puts right what keeps the pack of an object from being used, as far as what is here suffices.
/// `changes` is held.
pub(crate) fn repair(inner: &Arc<Inner>, info: &ObjectInfo) {
    let verify = Verify::nothing_yet(Arc::clone(inner), false);
    drop(verify.mend_pack(info, &mut Vec::new()));
}

impl Verify {
    /// Checks the header; the blocks follow in later steps.
    pub(super) fn begin_object(&mut self, root: Root) -> Checked {
        let Some(info) = self.inner.object(&root) else {
            return Checked { object: Some(root), ..Checked::default() };
        };
        let mut faults = Vec::new();
        let opened = self.open_pack(&info, &mut faults);
        let mut checked = Checked { findings: self.findings(&info, &faults), ..Checked::default() };
        match opened {
            Ok(check) => self.current = Some((info, check)),
            Err(NoUse(fault)) => {
                let still_kept = self.inner.object(&root).is_some();
                checked.bytes = pack_bytes(&info);
                checked.findings.extend(self.findings(&info, &[fault]).into_iter().filter(|_| still_kept));
                checked.object = Some(root);
            }
        }
        checked
    }

    /// Checks some blocks, or what stands behind them.
    pub(super) fn go_on(&mut self, info: ObjectInfo, mut check: PackCheck) -> Checked {
        let blocks = if check.is_over() { 0 } else { check.step(BLOCKS_PER_STEP) };
        if blocks > 0 {
            self.current = Some((info, check));
            return Checked { bytes: blocks * PLACE_LEN as u64, ..Checked::default() };
        }
        let rest = pack_bytes(&info).saturating_sub(
            Geometry::of(info.data_count).map_or(0, |geometry| geometry.total() * PLACE_LEN as u64),
        );
        let mut faults = check.finish();
        // An object that was removed and begun again meanwhile is another one than was checked.
        if self.inner.object(&info.root).is_none_or(|now| now.complete != info.complete) {
            faults.retain(|fault| fault.outcome != Outcome::Fetch);
        }
        let findings = self.findings(&info, &faults);
        Checked { bytes: rest, findings, object: Some(info.root) }
    }

    fn findings(&self, info: &ObjectInfo, faults: &[Fault]) -> Vec<Finding> {
        let path = self.inner.pack_path(&info.root);
        let finding = |fault: &Fault| Finding {
            file: FileType::Pack,
            path: path.clone(),
            object: Some(info.root),
            what: fault.what,
            blocks: fault.blocks,
            outcome: fault.outcome,
        };
        faults.iter().map(finding).collect()
    }

    /// The pack behind the name of the object. Whatever is not as it should be is looked at again, and
    /// put right, while no object comes or goes.
    fn open_pack(&self, info: &ObjectInfo, faults: &mut Vec<Fault>) -> Result<PackCheck, NoUse> {
        if let Some(pack) = self.good_pack(info) {
            return Ok(PackCheck::new(pack, info, self.look_only));
        }
        let _settled = hold(&self.inner.changes);
        match self.good_pack(info) {
            Some(pack) => Ok(PackCheck::new(pack, info, self.look_only)),
            None => self.mend_pack(info, faults),
        }
    }

    /// The open pack, if its name leads to a file with the right header that it uses.
    fn good_pack(&self, info: &ObjectInfo) -> Option<Arc<Pack>> {
        let file = check::open_named(self.disk(), &self.inner.pack_path(&info.root)).ok()?;
        if !matches!(self.page(file.as_ref(), info), Page::Right) {
            return None;
        }
        self.inner.pack(&info.root).ok().filter(|pack| pack.is_behind(file.as_ref()).unwrap_or(false))
    }

    /// Puts right what keeps the blocks from being looked at. `changes` is held.
    fn mend_pack(&self, info: &ObjectInfo, faults: &mut Vec<Fault>) -> Result<PackCheck, NoUse> {
        let path = self.inner.pack_path(&info.root);
        let all = Geometry::of(info.data_count).map_or(0, Geometry::total);
        let gone = |what| {
            self.forget(&info.root); // a pack without a file is used by nobody
            NoUse(Fault { what, blocks: all, outcome: Outcome::Fetch })
        };
        // What cannot be opened or read now may be whole: whoever uses it goes on with it.
        let left = |what| NoUse(Fault::new(what, Outcome::Left));
        let unopened = |e: Unopened| if e.gone { gone(e.what) } else { left(e.what) };
        let mut file = check::open_named(self.disk(), &path).map_err(unopened)?;
        let mut page = self.page(file.as_ref(), info);
        if let Page::Other(header) = &page {
            faults.push(self.put_in_place(&path, &header.root, info));
            file = check::open_named(self.disk(), &path).map_err(unopened)?;
            page = self.page(file.as_ref(), info);
        }
        match page {
            Page::Right => {}
            Page::Repairable(keys) => {
                let outcome =
                    self.mend(|| check::rewrite_header(file.as_ref(), &keys, info, &path, self.disk()));
                faults.push(Fault::new("its header was damaged", outcome));
                if outcome != Outcome::Mended {
                    return Err(left("its blocks were not checked"));
                }
            }
            Page::Newer => return Err(left("a later release wrote it: install that one")),
            Page::Unread => return Err(left("its header cannot be read")),
            Page::Other(_) => return Err(gone("it is the file of another object")),
            Page::Useless(what) => return Err(gone(what)),
        }
        let behind = self.inner.pack(&info.root).map(|pack| pack.is_behind(file.as_ref()));
        if matches!(behind, Ok(Ok(false))) {
            self.forget(&info.root); // its file has lost the name
        }
        // The header was read a moment ago, so what fails now is no damage.
        let pack = self.inner.pack(&info.root).map_err(|_| left("it cannot be opened"))?;
        Ok(PackCheck::new(pack, info, self.look_only))
    }

    fn page(&self, file: &dyn File, info: &ObjectInfo) -> Page {
        let open = hold(&self.inner.packs).find(&info.root);
        check::page(file, &self.inner.key, info, open.as_deref())
    }

    /// Lets go of an open pack whose file is not there any more under its name.
    fn forget(&self, root: &Root) {
        if !self.look_only {
            let forgotten = hold(&self.inner.packs).forget(root);
            drop(forgotten);
        }
    }

    /// The file at `path`, which should be that of `info`, is the pack of the object `root`: it gets
    /// the name of that one, and what lies there comes here if it belongs here.
    fn put_in_place(&self, path: &Path, root: &Root, info: &ObjectInfo) -> Fault {
        let what = "it stood under the name of another object";
        let right = self.inner.pack_path(root);
        // An object that is not kept has no claim, and a pack that is good where it is stays.
        let Some(other) = self.inner.object(root) else {
            return Fault::new(
                "the file of an object that is not kept stood under its name",
                self.aside(path),
            );
        };
        match check::open_named(self.disk(), &right).map(|file| self.page(file.as_ref(), &other)) {
            Ok(Page::Right) => return Fault::new(what, self.aside(path)),
            // It may be the right one, which must not go out of its place.
            Ok(Page::Unread) | Err(Unopened { gone: false, .. }) => return Fault::new(what, Outcome::Left),
            _ => {}
        }
        let outcome = self.mend(|| {
            self.disk().check()?;
            let aside = free_name(self.disk(), path)?;
            let occupied = self.disk().is_there(&right)?;
            self.disk().rename(path, &aside)?;
            if occupied {
                // Whatever it is: if it belongs here the check goes on with it.
                self.disk().rename(&right, path)?;
                self.disk().sync_parent(path)?;
            }
            self.disk().rename(&aside, &right)?;
            self.disk().sync_parent(&aside)?;
            self.disk().sync_parent(&right)?;
            let forgotten = [root, &info.root].map(|root| hold(&self.inner.packs).forget(root));
            drop(forgotten);
            Ok(())
        });
        Fault::new(what, outcome)
    }

    /// Takes a file out of the way that is of no use where it lies, without deleting it.
    fn aside(&self, path: &Path) -> Outcome {
        self.mend(|| set_aside(self.disk(), path))
    }
}

/// Takes what has the name out of the way, and keeps it: the sweep of the next start leaves it, and the
/// next verification sees it.
pub(crate) fn set_aside(disk: &Disk, path: &Path) -> Result<(), StoreError> {
    disk.check()?;
    disk.rename(path, &free_name(disk, path)?)?;
    disk.sync_parent(path)
}

/// A name for a misplaced pack to wait under. What waits there already stays.
fn free_name(disk: &Disk, path: &Path) -> Result<PathBuf, StoreError> {
    let mut name = path.with_added_extension("misplaced");
    for number in 2_u32.. {
        if !disk.is_there(&name)? {
            break;
        }
        name = path.with_added_extension(format!("misplaced{number}"));
    }
    Ok(name)
}
