//! What is done to a store that nobody has open: waiting for that, and another lock for it, key file
//! or passphrase. The store key itself stays, and with it everything that is sealed
//! (`docs/decisions/0032-another-lock-not-another-key.md`).

use crate::backend::{Backend, Real};
use crate::disk::Disk;
use crate::keyfile::{self, Unlock};
use crate::{Store, StoreError, lock};
use kith_crypto::passphrase::Cost;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

impl Store {
    /// Waits until no process has the store in `dir` open; `false` when `time` was not enough.
    pub fn wait_until_free(dir: &Path, time: Duration) -> Result<bool, StoreError> {
        lock::wait_until_free(dir, time)
    }

    /// Puts the store key of the store in `dir` under `new` instead of `old`.
    ///
    /// A kill at any moment leaves the old key file or the new one. [`StoreError::Locked`] while a
    /// process has the store open; whoever keeps an old copy of the key file opens it as before.
    pub fn rekey(dir: &Path, old: Unlock<'_>, new: Unlock<'_>, cost: Cost) -> Result<(), StoreError> {
        Self::rekey_on(Arc::new(Real), dir, old, new, cost)
    }

    /// Like [`Store::rekey`], on another backend.
    pub fn rekey_on(
        backend: Arc<dyn Backend>,
        dir: &Path,
        old: Unlock<'_>,
        new: Unlock<'_>,
        cost: Cost,
    ) -> Result<(), StoreError> {
        let disk = Disk::new(backend);
        if !disk.exists(&keyfile::path(dir)) {
            return Err(StoreError::NoStore { path: dir.to_owned() });
        }
        let _lock = disk.backend().lock(dir)?;
        keyfile::relock(&disk, dir, old, new, cost)
    }
}
