//! Packs without rows: what is left of an object when the journal lost the record that named it.
//!
//! A pack's header, sealed under the store key, says which object it is and what checks it, so the
//! object can be kept again without its row. Invariant: this happens only in a store whose journal
//! had lost records when it was opened; in every other one a pack without a row is of an object that
//! was removed or never finished, and goes. What the journal says was removed last does not come back
//! either, unless the caller's own records still claim it. See `docs/decisions/0037-packs-without-rows.md`.

use crate::disk::hold;
use crate::object::{Class, ObjectInfo, day_of};
use crate::pack::Pack;
use crate::pack::format::{PAGE_LEN, PackKeys};
use crate::store::{Folded, Inner, packs_dir, temp_dir};
use crate::{Store, StoreError};
use kith_crypto::content::Root;
use kith_crypto::secret::Key;
use std::collections::BTreeSet;
use std::path::Path;

/// What the caller still knows of an object that was published here: its read key, and when it was
/// added.
pub type Claim = (Key, u64);

/// What came of [`Store::adopt`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Objects that are kept again.
    pub found: Vec<Root>,
    /// Objects whose row was there and whose pack was not, and whose removal may have been lost.
    pub dropped: Vec<Root>,
}

impl Store {
    /// Keeps again what stands in the packs and the journal lost. `claim` knows what was published
    /// here. Nothing happens in a store whose journal was whole when it was opened.
    ///
    /// The caller does this once, after [`Store::open`] reported damage and before it serves anybody.
    pub fn adopt(&self, claim: impl Fn(&Root) -> Option<Claim>) -> Result<Adopted, StoreError> {
        if !self.inner.lost_rows {
            return Ok(Adopted::default());
        }
        let _changing = hold(&self.inner.changes);
        let dropped = self.inner.drop_without_pack(&claim)?;
        let mut found = self.inner.rows_of_index()?;
        found.extend(self.inner.rows_of_packs(&claim)?);
        Ok(Adopted { found, dropped })
    }

    /// Whether the journal had lost records when the store was opened.
    pub fn was_damaged(&self) -> bool {
        self.inner.lost_rows
    }
}

impl Inner {
    /// Rows that the index of the last clean stop has and the journal lost.
    fn rows_of_index(&self) -> Result<Vec<Root>, StoreError> {
        let journal = Folded::of(hold(&self.journal).reread()?).objects;
        let index = self.kept()?;
        let lost: Vec<ObjectInfo> = index.into_iter().filter(|i| !journal.contains_key(&i.root)).collect();
        let roots = lost.iter().map(|info| info.root).collect();
        lost.iter().try_for_each(|info| self.enter(info))?;
        Ok(roots)
    }

    /// Without the pack nothing is lost with the row, and whether the object was removed nobody knows.
    fn drop_without_pack(&self, claim: &impl Fn(&Root) -> Option<Claim>) -> Result<Vec<Root>, StoreError> {
        let rows = self.kept()?.into_iter().map(|info| info.root);
        let gone: Vec<Root> = rows.filter(|root| claim(root).is_none() && self.has_no_pack(root)).collect();
        self.drop_objects(&gone)?;
        Ok(gone)
    }

    /// Whether no file has the name of the pack. A name that cannot be looked at may have one.
    fn has_no_pack(&self, root: &Root) -> bool {
        matches!(self.disk.kind(&self.pack_path(root)), Ok(None))
    }

    fn rows_of_packs(&self, claim: &impl Fn(&Root) -> Option<Claim>) -> Result<Vec<Root>, StoreError> {
        let rows = self.kept()?;
        let removed = Folded::of(hold(&self.journal).reread()?).removed;
        let named: BTreeSet<_> = rows.iter().map(|info| self.pack_path(&info.root)).collect();
        let mut found = Vec::new();
        for (folder, _) in self.disk.list(&packs_dir(&self.dir))? {
            if folder == temp_dir(&self.dir) || !self.disk.is_dir(&folder) {
                continue;
            }
            for (path, _) in self.disk.list(&folder)?.iter().filter(|(path, _)| !named.contains(path)) {
                let Some(info) = self.describe(path, claim) else { continue };
                // Its file outlived an acknowledged removal, as when the power went right after.
                if info.read.is_none() && removed.contains(&info.root) {
                    self.disk.remove(path)?;
                    continue;
                }
                self.enter(&info)?;
                found.push(info.root);
            }
        }
        Ok(found)
    }

    /// What a pack says of its object, if it lies under the right name.
    fn describe(&self, path: &Path, claim: &impl Fn(&Root) -> Option<Claim>) -> Option<ObjectInfo> {
        let page = self.disk.open(path).ok()?.read_at(0, PAGE_LEN).ok()?;
        let (header, _) = PackKeys::decode_header(&self.key, &page).ok()?;
        if self.pack_path(&header.root) != *path {
            return None;
        }
        let pack = Pack::open(path, &self.key, &header.root, &self.disk).ok()?;
        let claim = claim(&header.root);
        let (read, added_unix_s) = claim.map_or((None, 0), |(key, added)| (Some(key), added));
        // Why another one was kept is lost: it does not give way before its owner says so.
        let class = if read.is_some() { Class::Own } else { Class::Pinned };
        Some(ObjectInfo {
            root: header.root,
            tree: header.tree,
            read,
            class,
            used_day: day_of(added_unix_s),
            complete: pack.is_complete(),
            data_count: header.geometry.data_count(),
            added_unix_s,
        })
    }
}
