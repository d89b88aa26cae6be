//! One process per store: an operating-system lock on the file `lock`.
//!
//! The lock ends with the process however it ends, so a file left by a crash is no obstacle. The
//! process id inside is for the message only.

use crate::StoreError;
use crate::backend;
use crate::disk::At;
use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::path::Path;

/// The held lock. Dropping it frees the store.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Lock {
    pub(crate) fn take(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("lock");
        let mut file = backend::open_or_create(&path).at(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let _ = Read::by_ref(&mut file).take(16).read_to_string(&mut text);
                return Err(StoreError::Locked { pid: text.trim().parse().ok(), path });
            }
            Err(TryLockError::Error(source)) => return Err(StoreError::io(&path, source)),
        }
        file.set_len(0).at(&path)?;
        writeln!(file, "{}", std::process::id()).at(&path)?;
        backend::settle(&file);
        Ok(Self(file))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing alone is not enough: a child process that is being started right now holds a copy
        // of the open file until it executes its program, and the lock would live as long.
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store could not be opened again right after it was closed when another thread was just
    /// starting a program: the fork had copied the open lock file.
    #[test]
    fn a_copy_of_the_open_file_does_not_keep_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let held = Lock::take(dir.path()).unwrap();
        let _copy = held.0.try_clone().unwrap();
        drop(held);
        Lock::take(dir.path()).unwrap();
    }

    #[test]
    fn the_second_is_told_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let held = Lock::take(dir.path()).unwrap();
        match Lock::take(dir.path()) {
            Err(StoreError::Locked { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        drop(held);
        Lock::take(dir.path()).unwrap();
    }
}
