//! A file on its way in that must be read in another order than it comes: sealed on the disk, gone with its value.
//!
//! Invariant: what lies on the disk is sealed under a key that is only in memory and never used again; every chunk
//! is written once, so no nonce meets two plaintexts. The file is one of those in `packs/tmp`, which the next
//! start deletes.

use crate::backend::File;
use crate::disk::{self, At, hold};
use crate::ledger::Room;
use crate::quota::{Claim, LOOK_EVERY_BYTES};
use crate::store::Inner;
use crate::{Store, StoreError};
use kith_crypto::aead::{BulkKey, TAG_LEN};
use kith_crypto::secret::Key;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that are sealed together.
const CHUNK: usize = 65_536;
const SEALED: usize = CHUNK + TAG_LEN;

/// A file that comes.
#[derive(Debug)]
pub struct Spool {
    kept: Kept,
    tail: Vec<u8>,
    unlooked: u64,
}

/// A file that is there.
#[derive(Debug)]
pub struct Spooled {
    kept: Kept,
    /// The last chunk that was read, by number.
    last: Mutex<(u64, Vec<u8>)>,
}

#[derive(Debug)]
struct Kept {
    file: Box<dyn File>,
    temp: PathBuf,
    inner: Arc<Inner>,
    key: BulkKey,
    len: u64,
    /// Says that the file is in use. It takes nothing of the quota, as it goes when the object is there.
    _claim: Claim,
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.inner.disk.remove(&self.temp);
    }
}

fn nonce(chunk: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    let [_, _, _, _, rest @ ..] = &mut nonce;
    *rest = chunk.to_le_bytes();
    nonce
}

impl Store {
    /// Begins a file that is read once it is whole.
    pub fn spool(&self) -> Result<Spool, StoreError> {
        let inner = Arc::clone(&self.inner);
        inner.disk.check()?;
        let temp = inner.temp_pack()?;
        let claim = Claim::begin(Arc::clone(&inner), &temp);
        let key = BulkKey::new(&Key::new(disk::random()?));
        let file = inner.disk.create_new(&temp)?;
        let kept = Kept { file, temp, inner, key, len: 0, _claim: claim };
        Ok(Spool { kept, tail: Vec::with_capacity(SEALED), unlooked: LOOK_EVERY_BYTES })
    }
}

impl Spool {
    /// Takes the next bytes.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(CHUNK - self.tail.len()));
            self.tail.extend_from_slice(now);
            self.kept.len += now.len() as u64;
            bytes = rest;
            if self.tail.len() == CHUNK {
                self.seal()?;
            }
        }
        Ok(())
    }

    fn seal(&mut self) -> Result<(), StoreError> {
        let kept = &self.kept;
        if self.unlooked >= LOOK_EVERY_BYTES {
            self.unlooked = 0;
            kept.inner.look(LOOK_EVERY_BYTES)?;
        }
        self.unlooked += SEALED as u64;
        let chunk = (kept.len - 1) / CHUNK as u64;
        kept.key.seal(nonce(chunk), &[], &mut self.tail);
        let written = kept.file.write_at(chunk * SEALED as u64, &self.tail).at(&kept.temp);
        // Nothing was promised about it: a failure ends this file and nothing else.
        kept.inner.disk.measured(written, SEALED as u64)?;
        self.tail.clear();
        Ok(())
    }

    /// Ends it.
    pub fn finish(mut self) -> Result<Spooled, StoreError> {
        if !self.tail.is_empty() {
            self.seal()?;
        }
        Ok(Spooled { kept: self.kept, last: Mutex::new((u64::MAX, Vec::new())) })
    }
}

impl Spooled {
    /// Bytes of the file.
    pub const fn len(&self) -> u64 {
        self.kept.len
    }

    /// Whether it has no bytes.
    pub const fn is_empty(&self) -> bool {
        self.kept.len == 0
    }

    /// Reads into `buf` from `at`; fewer bytes only at the end.
    pub fn read_at(&self, mut at: u64, buf: &mut [u8]) -> Result<usize, StoreError> {
        let mut filled = 0;
        // Nothing here panics while it holds the lock.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        while at < self.kept.len && filled < buf.len() {
            let chunk = at / CHUNK as u64;
            if last.0 != chunk {
                *last = (u64::MAX, Vec::new());
                last.1 = self.open(chunk)?;
                last.0 = chunk;
            }
            let from = (at % CHUNK as u64) as usize;
            let here = last.1.get(from..).unwrap_or_default();
            let room = buf.get_mut(filled..).unwrap_or_default();
            let n = here.len().min(room.len());
            let (Some(to), Some(of)) = (room.get_mut(..n), here.get(..n)) else { break };
            to.copy_from_slice(of);
            if n == 0 {
                break;
            }
            filled += n;
            at += n as u64;
        }
        Ok(filled)
    }

    fn open(&self, chunk: u64) -> Result<Vec<u8>, StoreError> {
        let kept = &self.kept;
        let len = (kept.len - chunk * CHUNK as u64).min(CHUNK as u64) as usize + TAG_LEN;
        let mut sealed = kept.file.read_at(chunk * SEALED as u64, len).at(&kept.temp)?;
        kept.key.open_vec(nonce(chunk), &[], &mut sealed).map_err(|_| StoreError::Io {
            path: kept.temp.clone(),
            source: std::io::Error::other("what was written is not what is read"),
        })?;
        Ok(sealed)
    }
}

impl Inner {
    /// Whether `bytes` more can be written to the disk, with what is to stay free.
    fn look(&self, bytes: u64) -> Result<(), StoreError> {
        match self.deficit(bytes) {
            0 => Ok(()),
            missing => Err(StoreError::NoRoom {
                what: Room::Disk,
                needed: bytes,
                available: bytes.saturating_sub(missing),
                limit: hold(&self.ledger).limits().keep_free,
            }),
        }
    }
}
