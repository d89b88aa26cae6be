//! View logs: what one friend's catalogue looks like from here, one sealed log per friend.
//!
//! Format: `docs/protocol/store.md`, "View log". File names and keys come from the store key, so
//! the folder shows how many friends there are and nothing more. A log is a copy of what the friend
//! can send again; what its records mean is the caller's matter.

use crate::StoreError;
use crate::disk::{self, Disk};
use crate::log::{self, Log, Seal, read_again};
use kith_crypto::codec::{Reader, Writer};
use kith_crypto::kdf::{Label, derive};
use kith_crypto::secret::Key;
use std::path::{Path, PathBuf};

const MAGIC: [u8; 8] = *b"KITHVIEW";
const VERSION: u8 = 2;
/// Records of this version stand for themselves; the next rewrite makes a log of today's version.
const FIRST_VERSION: u8 = 1;
const HEADER_LEN: usize = 8 + 1 + 32;

/// The open log of one friend. One at a time per friend: two would overwrite each other's records.
#[derive(Debug)]
pub struct ViewLog {
    path: PathBuf,
    owner: Owner,
    log: Log,
    disk: Disk,
    damaged: u64,
    torn: u64,
}

/// The file of a friend's log in the folder of view logs.
pub(crate) fn path(dir: &Path, store: &Key, friend: &[u8; 32]) -> PathBuf {
    let name = derive(Label::VIEW_NAME, &[store.expose(), friend]);
    dir.join(format!("{}.log", disk::hex(&disk::first16(name.expose()))))
}

/// What a log is opened with. The friend is part of the key, so that a log which somebody puts
/// under another friend's name opens no record.
#[derive(Clone, Debug)]
struct Owner {
    store: Key,
    friend: [u8; 32],
}

impl Owner {
    fn seal(&self, salt: &[u8; 32]) -> Seal {
        let key = derive(Label::VIEW_LOG, &[self.store.expose(), salt, &self.friend]);
        Seal::new(key, &MAGIC, salt)
    }
}

fn check_header(path: &Path, header: &[u8], owner: &Owner) -> Result<Seal, StoreError> {
    let mut r = Reader::new(header);
    match (r.array(), r.u8(), r.array()) {
        (Ok(MAGIC), Ok(version), _) if version > VERSION => {
            Err(StoreError::NewerVersion { path: path.to_owned(), version })
        }
        (Ok(MAGIC), Ok(VERSION), Ok(salt)) => Ok(owner.seal(&salt)),
        (Ok(MAGIC), Ok(FIRST_VERSION), Ok(salt)) => Ok(owner.seal(&salt).unplaced()),
        _ => Err(StoreError::damaged(path, "not a view log")),
    }
}

/// Writes a log with `payloads` beside `path` and puts it in its place: an unfinished one is never seen.
fn make(path: &Path, owner: &Owner, payloads: &[Vec<u8>], disk: &Disk) -> Result<Log, StoreError> {
    let temp = disk::beside(path);
    disk.remove(&temp)?;
    let salt = disk::random()?;
    let mut header = Writer::new();
    header.raw(&MAGIC).u8(VERSION).raw(&salt);
    let made = Log::create(&temp, header.as_bytes(), owner.seal(&salt), payloads, disk);
    let (log, _) = made.inspect_err(|_| drop(disk.remove(&temp)))?;
    disk.rename(&temp, path)?;
    disk.sync_parent(path)?;
    Ok(log.renamed(path))
}

/// Keeps the bytes of a log whose header is damaged in its `.torn` file; returns how many.
fn set_headless_aside(path: &Path, owner: &Owner, disk: &Disk, why: StoreError) -> Result<u64, StoreError> {
    let damaged = match &why {
        StoreError::Damaged { .. } => true,
        // A version that only a flipped bit made: the records know the header that they follow.
        StoreError::NewerVersion { .. } => {
            let bytes = disk.read(path)?;
            let salt = bytes.get(8 + 1..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default();
            log::opens_first(&owner.seal(&salt), &bytes, HEADER_LEN)
        }
        _ => false,
    };
    if !damaged {
        return Err(why);
    }
    let bytes = disk.read(path)?;
    log::set_aside(disk, path, &bytes)?;
    Ok((bytes.len() as u64).max(1))
}

impl ViewLog {
    /// Opens the log, or makes an empty one, and returns its records.
    pub(crate) fn open(
        dir: &Path,
        store: &Key,
        friend: &[u8; 32],
        disk: &Disk,
    ) -> Result<(Self, Vec<Vec<u8>>), StoreError> {
        let path = path(dir, store, friend);
        let owner = Owner { store: store.clone(), friend: *friend };
        if !disk.exists(&path) {
            disk.check()?;
            drop(disk.guard_unless_full(make(&path, &owner, &[], disk))?);
        }
        let opened = Log::open(&path, HEADER_LEN, |h| check_header(&path, h, &owner), disk);
        let (log, replay, torn) = match opened {
            // The friend can say it all again, so a log without a head is no reason not to start.
            Err(e) => {
                let lost = set_headless_aside(&path, &owner, disk, e)?;
                drop(make(&path, &owner, &[], disk)?);
                let (log, replay, _) =
                    Log::open(&path, HEADER_LEN, |h| check_header(&path, h, &owner), disk)?;
                (log, replay, lost)
            }
            Ok(opened) => opened,
        };
        let disk = disk.clone();
        let view = Self { path, owner, log, disk, damaged: replay.damaged, torn };
        Ok((view, replay.records.into_iter().map(|r| r.payload).collect()))
    }

    /// Makes durable what was found on opening.
    pub(crate) fn prove(&self) -> Result<(), StoreError> {
        self.log.sync()
    }

    /// Appends records of at most 1 MiB; they are durable on return, and a kill before leaves all of
    /// them or none.
    pub fn append(&mut self, records: &[Vec<u8>]) -> Result<(), StoreError> {
        self.log.append(records).map(drop)
    }

    /// Replaces all records by `live`, under a new key. A kill leaves the old log or the new one.
    pub fn rewrite(&mut self, live: &[Vec<u8>]) -> Result<(), StoreError> {
        self.disk.check()?;
        let made = make(&self.path, &self.owner, live, &self.disk);
        self.log = self.disk.guard_unless_full(made)?;
        Ok(())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file holds what was written to it. What it does not hold the caller writes anew,
    /// with [`ViewLog::rewrite`].
    pub fn verify(&self) -> Result<bool, StoreError> {
        let seal = |header: &[u8]| check_header(&self.path, header, &self.owner);
        read_again(&self.disk, &self.path, HEADER_LEN, seal, Some(self.log.end())).map(|(whole, _)| whole)
    }

    /// Damaged stretches that were met when the log was opened.
    pub const fn damaged_records(&self) -> u64 {
        self.damaged
    }

    /// Bytes of an unfinished write that were cut off when the log was opened.
    pub const fn torn_bytes(&self) -> u64 {
        self.torn
    }

    /// Bytes of the file.
    pub const fn len_bytes(&self) -> u64 {
        self.log.len_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_friend_has_a_log_that_can_be_rewritten() {
        let dir = tempfile::tempdir().unwrap();
        let (store, disk) = (Key::new([1; 32]), Disk::real());
        let open = |friend: u8| ViewLog::open(dir.path(), &store, &[friend; 32], &disk).unwrap();
        let (mut ana, none) = open(1);
        assert!(none.is_empty());
        ana.append(&[b"x".to_vec(), b"y".to_vec()]).unwrap();
        assert!(open(2).1.is_empty());
        ana.rewrite(&[b"y".to_vec()]).unwrap();
        ana.append(&[b"z".to_vec()]).unwrap();
        drop(ana);
        assert_eq!(open(1).1, [b"y", b"z"]);
        assert_eq!(disk.list(dir.path()).unwrap().len(), 2);
    }

    #[test]
    fn a_log_does_not_open_under_another_friends_name() {
        let dir = tempfile::tempdir().unwrap();
        let (store, disk) = (Key::new([1; 32]), Disk::real());
        let (mut ana, _) = ViewLog::open(dir.path(), &store, &[1; 32], &disk).unwrap();
        ana.append(&[b"x".to_vec()]).unwrap();
        let (other, _) = ViewLog::open(dir.path(), &store, &[2; 32], &disk).unwrap();
        std::fs::copy(&ana.path, &other.path).unwrap();
        let (view, records) = ViewLog::open(dir.path(), &store, &[2; 32], &disk).unwrap();
        assert!(records.is_empty() && view.torn_bytes() > 0);
    }
}
