//! The journal: the truth of the node, in `journal/`.
//!
//! Format: `docs/protocol/store.md`, "Journal". The file `keys` lists the segments and their keys;
//! a segment that it does not name does not exist. Write order: a segment is durable before `keys`
//! names it, and `keys` has forgotten a segment (and its key) before that file is removed. So a kill
//! at any point leaves one journal or the other, and what was compacted away cannot be opened again.
//! A journal of format version 1 is opened as it is, and the caller writes its contents anew with
//! [`Journal::migrate`]: first its files are copied to `journal/v1`, then the swap of a compaction
//! puts a journal of today's version in its place. A kill leaves the old one or the new one; a copy
//! that was cut short is made again. Later versions are refused and left alone.
//! What the records mean is the callers' matter.

use crate::StoreError;
use crate::backend::Kind;
use crate::disk::{self, At, Disk};
use crate::log::{End, Hash16, Log, Record, Seal, read_again};
use kith_crypto::aead::{RECORD_NONCE_LEN, open_record, seal_record};
use kith_crypto::codec::{DecodeError, Reader, Writer};
use kith_crypto::secret::Key;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

const MAGIC: [u8; 8] = *b"KITHJRNL";
const KEYS_MAGIC: [u8; 8] = *b"KITHJKEY";
const VERSION: u8 = 2;
const HEADER_LEN: usize = 8 + 1 + 8;
/// Most segments that a key file may list. Today's writer keeps one.
const MAX_SEGMENTS: usize = 1024;

/// A place in the journal: the segment, and the link of a record in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) segment: u64,
    pub(crate) link: Hash16,
}

/// What an opened journal held.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// Payloads with their places, oldest first.
    pub(crate) records: Vec<(Mark, Vec<u8>)>,
    pub(crate) damaged: u64,
    pub(crate) torn_bytes: u64,
}

impl Contents {
    fn extend(&mut self, segment: u64, records: Vec<Record>) {
        self.records.extend(records.into_iter().map(|r| (Mark { segment, link: r.link }, r.payload)));
    }
}

/// The open journal.
#[derive(Debug)]
pub(crate) struct Journal {
    dir: PathBuf,
    wrap: Key,
    segments: Vec<(u64, Key)>,
    active: u64,
    log: Log,
    /// Format version of the files.
    version: u8,
    disk: Disk,
}

/// Where the files of an older version are kept after a migration.
fn older_dir(dir: &Path) -> PathBuf {
    dir.join("v1")
}

fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}.log"))
}

/// The list of segments and their keys.
pub(crate) fn keys_path(dir: &Path) -> PathBuf {
    dir.join("keys")
}

fn header(number: u64) -> Vec<u8> {
    let mut w = Writer::new();
    w.raw(&MAGIC).u8(VERSION).u64(number);
    w.into_bytes()
}

fn segment_seal(key: &Key, number: u64) -> Seal {
    Seal::new(key.clone(), &MAGIC, &number.to_le_bytes())
}

/// The seal of the segment in `path`, once its header proved to be the right one.
fn check_header(
    path: &Path,
    header: &[u8],
    (number, key): (u64, &Key),
    version: u8,
) -> Result<Seal, StoreError> {
    let mut r = Reader::new(header);
    let fields = (|| Ok::<_, DecodeError>((r.array()?, r.u8()?, r.u64()?)))();
    match fields {
        Ok((MAGIC, version, _)) if version > VERSION => {
            Err(StoreError::NewerVersion { path: path.to_owned(), version })
        }
        Ok((MAGIC, written, found)) if written == version && found == number => {
            let seal = segment_seal(key, number);
            Ok(if version == 1 { seal.unplaced() } else { seal })
        }
        _ => Err(StoreError::damaged(path, "its header is not that of this segment")),
    }
}

fn keys_head(version: u8) -> Vec<u8> {
    let mut w = Writer::new();
    w.raw(&KEYS_MAGIC).u8(version);
    w.into_bytes()
}

fn encode_keys(wrap: &Key, nonce: &[u8; RECORD_NONCE_LEN], segments: &[(u64, Key)]) -> Vec<u8> {
    let mut plain = Writer::new();
    plain.u32(segments.len() as u32); // the list never reaches MAX_SEGMENTS
    segments.iter().for_each(|(number, key)| {
        plain.u64(*number).raw(key.expose());
    });
    let plain = Zeroizing::new(plain.into_bytes());
    let mut bytes = keys_head(VERSION);
    bytes.extend_from_slice(nonce);
    bytes.extend_from_slice(&seal_record(wrap, nonce, &keys_head(VERSION), &plain));
    bytes
}

/// The segments and the version in which they are written.
fn decode_keys(wrap: &Key, path: &Path, bytes: &[u8]) -> Result<(Vec<(u64, Key)>, u8), StoreError> {
    let damaged = |_| StoreError::damaged(path, "not a list of journal keys or incomplete");
    let mut r = Reader::new(bytes);
    let magic = r.array().map_err(damaged)?;
    let version = r.u8().map_err(damaged)?;
    if magic != KEYS_MAGIC {
        return Err(StoreError::damaged(path, "not a list of journal keys"));
    }
    if version > VERSION {
        return Err(StoreError::NewerVersion { path: path.to_owned(), version });
    }
    let nonce = r.array().map_err(damaged)?;
    let plain = open_record(wrap, &nonce, &keys_head(version), r.remaining())
        .map(Zeroizing::new)
        .map_err(|_| StoreError::damaged(path, "its contents fail their check"))?;
    Ok((decode_list(&plain).map_err(damaged)?, version))
}

fn decode_list(plain: &[u8]) -> Result<Vec<(u64, Key)>, DecodeError> {
    let mut r = Reader::new(plain);
    let count = r.u32()? as usize;
    if !(1..=MAX_SEGMENTS).contains(&count) {
        return Err(DecodeError::TooLarge { at: 0, what: "segment count" });
    }
    let list =
        (0..count).map(|_| Ok((r.u64()?, Key::new(r.array()?)))).collect::<Result<_, DecodeError>>()?;
    r.finish()?;
    Ok(list)
}

impl Journal {
    /// Opens the journal in `dir`, or starts one where nothing was ever written.
    pub(crate) fn open(dir: &Path, wrap: Key, disk: &Disk) -> Result<(Self, Contents), StoreError> {
        disk.make_dir(dir)?;
        let keys = keys_path(dir);
        match disk.read(&keys) {
            Ok(bytes) => Self::resume(dir, decode_keys(&wrap, &keys, &bytes)?, wrap, disk),
            Err(e) if e.is_missing() => Self::start(dir, wrap, disk),
            Err(e) => Err(e),
        }
    }

    fn start(dir: &Path, wrap: Key, disk: &Disk) -> Result<(Self, Contents), StoreError> {
        // A creation that was killed leaves at most an empty segment. More than that without its
        // keys is a loss that must not be papered over with a fresh journal.
        for (path, kind) in disk.list(dir)? {
            if kind == Kind::Folder {
                return Err(StoreError::damaged(&keys_path(dir), "it is missing beside a journal"));
            }
            let len = disk.open(&path)?.len().at(&path)?;
            if len > HEADER_LEN as u64 && path != disk::beside(&keys_path(dir)) {
                return Err(StoreError::damaged(&keys_path(dir), "it is missing beside a journal"));
            }
            disk.remove(&path)?;
        }
        let key = Key::new(disk::random()?);
        let (log, _) = Log::create(&segment_path(dir, 1), &header(1), segment_seal(&key, 1), &[], disk)?;
        disk.sync_dir(dir)?;
        let segments = vec![(1, key)];
        disk.replace(&keys_path(dir), &encode_keys(&wrap, &disk::random()?, &segments))?;
        let (dir, disk) = (dir.to_owned(), disk.clone());
        Ok((Self { dir, wrap, segments, active: 1, log, version: VERSION, disk }, Contents::default()))
    }

    fn resume(
        dir: &Path,
        (segments, version): (Vec<(u64, Key)>, u8),
        wrap: Key,
        disk: &Disk,
    ) -> Result<(Self, Contents), StoreError> {
        let mut contents = Contents::default();
        let mut newest = None;
        for (number, key) in &segments {
            let path = segment_path(dir, *number);
            let seal = |head: &[u8]| check_header(&path, head, (*number, key), version);
            let (log, replay, torn) = Log::open(&path, HEADER_LEN, seal, disk)
                .map_err(|e| if e.is_missing() { StoreError::damaged(&path, "it is missing") } else { e })?;
            contents.damaged += replay.damaged;
            contents.torn_bytes += torn;
            contents.extend(*number, replay.records);
            newest = Some((*number, log));
        }
        let (active, log) =
            newest.ok_or_else(|| StoreError::damaged(&keys_path(dir), "it names no segment"))?;
        let (dir, disk) = (dir.to_owned(), disk.clone());
        let journal = Self { dir, wrap, segments, active, log, version, disk };
        // What was read is believed from now on, so it must not be in the system's memory alone, as
        // after a kill between a write and its sync.
        journal.log.sync()?;
        journal.disk.sync_dir(&journal.dir)?;
        journal.sweep()?;
        Ok((journal, contents))
    }

    /// Removes what an interrupted compaction left: files that `keys` does not name.
    fn sweep(&self) -> Result<(), StoreError> {
        let named = |path: &Path| {
            path == keys_path(&self.dir)
                || self.segments.iter().any(|(number, _)| {
                    let log = segment_path(&self.dir, *number);
                    path == log.with_extension("torn") || path == log
                })
        };
        let list = self.disk.list(&self.dir)?;
        let strange = list.iter().filter(|(path, kind)| *kind != Kind::Folder && !named(path));
        strange.map(|(path, _)| path).try_for_each(|path| self.disk.remove(path))
    }

    /// Whether the files are of an older version and wait for [`Journal::migrate`].
    pub(crate) const fn is_older(&self) -> bool {
        self.version < VERSION
    }

    /// Replaces a journal of an older version by one of today's with these records, and keeps the
    /// old files aside.
    pub(crate) fn migrate(&mut self, payloads: &[Vec<u8>]) -> Result<Vec<Mark>, StoreError> {
        let aside = older_dir(&self.dir);
        self.disk.make_dir(&aside)?;
        // The keys are copied last: with them the copy is whole.
        self.disk.remove(&keys_path(&aside))?;
        self.disk.sync_dir(&aside)?;
        for (number, _) in &self.segments {
            let bytes = self.disk.read(&segment_path(&self.dir, *number))?;
            self.disk.replace(&segment_path(&aside, *number), &bytes)?;
        }
        let keys = self.disk.read(&keys_path(&self.dir))?;
        self.disk.replace(&keys_path(&aside), &keys)?;
        self.disk.sync_dir(&self.dir)?;
        self.compact(payloads)
    }

    /// Removes what a migration kept aside, its keys first.
    pub(crate) fn forget_older(&self) -> Result<(), StoreError> {
        let aside = older_dir(&self.dir);
        if !self.disk.is_dir(&aside) {
            return Ok(());
        }
        let removed = (|| {
            self.disk.remove(&keys_path(&aside))?;
            self.disk.sync_dir(&aside)?;
            for (path, _) in self.disk.list(&aside)? {
                self.disk.remove(&path)?;
            }
            self.disk.remove_dir(&aside)
        })();
        self.disk.guard_unless_full(removed) // it is done again with the next compaction
    }

    /// Reads everything again, changing nothing. What was appended and is not there counts as damage.
    pub(crate) fn reread(&self) -> Result<Contents, StoreError> {
        let mut contents = Contents::default();
        for (number, key) in &self.segments {
            let path = segment_path(&self.dir, *number);
            let (replay, _, _) = Log::read(&self.disk, &path, HEADER_LEN, |head| {
                check_header(&path, head, (*number, key), self.version)
            })?;
            let short = *number == self.active && replay.end() != self.log.end();
            contents.damaged += replay.damaged + u64::from(short);
            contents.extend(*number, replay.records);
        }
        Ok(contents)
    }

    /// Appends durably; returns where the records stand.
    pub(crate) fn append(&mut self, payloads: &[Vec<u8>]) -> Result<Vec<Mark>, StoreError> {
        let segment = self.active;
        Ok(self.log.append(payloads)?.into_iter().map(|link| Mark { segment, link }).collect())
    }

    /// For the close: writes down that everything was synced.
    pub(crate) fn prove(&mut self) -> Result<(), StoreError> {
        self.log.prove()
    }

    /// Replaces all records by `payloads`, in a new segment under a new key.
    pub(crate) fn compact(&mut self, payloads: &[Vec<u8>]) -> Result<Vec<Mark>, StoreError> {
        self.disk.check()?;
        let segment = self.active + 1;
        let path = segment_path(&self.dir, segment);
        self.disk.remove(&path)?;
        let key = Key::new(disk::random()?);
        let made = Log::create(&path, &header(segment), segment_seal(&key, segment), payloads, &self.disk);
        let made = made.inspect_err(|_| drop(self.disk.remove(&path)));
        let (log, links) = self.disk.guard_unless_full(made)?;
        let segments = vec![(segment, key)];
        let swapped = self.disk.sync_dir(&self.dir).and_then(|()| {
            let bytes = encode_keys(&self.wrap, &disk::random()?, &segments);
            self.disk.replace(&keys_path(&self.dir), &bytes)
        });
        // Until the rename nothing has changed, and from then on only a sync can fail.
        self.disk.guard_unless_full(swapped)?;
        (self.segments, self.active, self.log, self.version) = (segments, segment, log, VERSION);
        self.disk.guard(self.sweep().and_then(|()| self.disk.sync_dir(&self.dir)))?;
        Ok(links.into_iter().map(|link| Mark { segment, link }).collect())
    }

    /// What the files must hold now, to compare them with without a lock.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let (dir, wrap) = (self.dir.clone(), self.wrap.clone());
        Snapshot { dir, wrap, segments: self.segments.clone(), active: self.active, end: self.log.end() }
    }

    /// Writes the list of segments and keys again, as it is in memory.
    pub(crate) fn rewrite_keys(&self) -> Result<(), StoreError> {
        self.disk.check()?;
        let bytes = encode_keys(&self.wrap, &disk::random()?, &self.segments);
        self.disk.guard_unless_full(self.disk.replace(&keys_path(&self.dir), &bytes))
    }

    /// Whether a place is behind the beginning of this journal. What a compaction replaced is not.
    pub(crate) fn covers(&self, mark: Mark) -> bool {
        self.segments.first().is_some_and(|(first, _)| mark.segment >= *first)
    }

    /// The place before the first record.
    pub(crate) fn start_mark(&self) -> Mark {
        Mark { segment: self.active, link: [0; 16] }
    }

    /// Bytes of the segment that is written to.
    pub(crate) const fn len_bytes(&self) -> u64 {
        self.log.len_bytes()
    }
}

/// A segment that is not what was written to it, and why it could not even be read.
pub(crate) type BadSegment = (PathBuf, Option<StoreError>);

/// What an open journal says of its files.
#[derive(Debug)]
pub(crate) struct Snapshot {
    dir: PathBuf,
    wrap: Key,
    segments: Vec<(u64, Key)>,
    active: u64,
    end: End,
}

impl Snapshot {
    /// The list of segments and their keys.
    pub(crate) fn keys_path(&self) -> PathBuf {
        keys_path(&self.dir)
    }

    /// Whether the list on disk is this one.
    pub(crate) fn keys_are_whole(&self, disk: &Disk) -> Result<bool, StoreError> {
        let path = self.keys_path();
        let bytes = disk.read(&path)?;
        // The list opens also when its magic is wrong, so that one byte there does not cost the node.
        Ok(decode_keys(&self.wrap, &path, &bytes)? == (self.segments.clone(), VERSION))
    }

    /// Reads the segments: those that are not what was written to them, and what all hold.
    pub(crate) fn read(&self, disk: &Disk) -> (Vec<BadSegment>, Contents) {
        let (mut bad, mut contents) = (Vec::new(), Contents::default());
        for (number, key) in &self.segments {
            let path = segment_path(&self.dir, *number);
            let end = (*number == self.active).then_some(self.end);
            let seal = |head: &[u8]| check_header(&path, head, (*number, key), VERSION);
            match read_again(disk, &path, HEADER_LEN, seal, end) {
                Ok((whole, records)) => {
                    contents.extend(*number, records);
                    if !whole {
                        bad.push((path, None));
                    }
                }
                Err(e) => bad.push((path, Some(e))),
            }
        }
        (bad, contents)
    }

    /// Whether nothing was appended or written anew between the two.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.end == other.end && self.segments == other.segments
    }

    /// Whether a file belongs to the journal.
    pub(crate) fn names(&self, path: &Path) -> bool {
        let segment = |(number, _): &(u64, Key)| {
            let log = segment_path(&self.dir, *number);
            path == log || path == log.with_extension("torn")
        };
        path == keys_path(&self.dir) || self.segments.iter().any(segment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::new([5; 32])
    }

    fn open(dir: &Path) -> (Journal, Vec<Vec<u8>>) {
        let (journal, contents) = Journal::open(dir, key(), &Disk::real()).unwrap();
        assert_eq!((contents.damaged, contents.torn_bytes), (0, 0));
        (journal, contents.records.into_iter().map(|(_, payload)| payload).collect())
    }

    fn records(texts: &[&str]) -> Vec<Vec<u8>> {
        texts.iter().map(|t| t.as_bytes().to_vec()).collect()
    }

    /// Contents of all files, to go back to.
    fn copy(from: &Path, to: &Path) {
        for (path, _) in Disk::real().list(from).unwrap() {
            std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }

    #[test]
    fn records_come_back_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, empty) = open(dir.path());
        assert!(empty.is_empty());
        journal.append(&records(&["a", "b"])).unwrap();
        journal.append(&records(&["c"])).unwrap();
        drop(journal);
        assert_eq!(open(dir.path()).1, records(&["a", "b", "c"]));
    }

    #[test]
    fn compaction_survives_a_kill_at_each_point() {
        let (dir, before) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (mut journal, _) = open(dir.path());
        journal.append(&records(&["old", "live"])).unwrap();
        copy(dir.path(), before.path());
        journal.compact(&records(&["live"])).unwrap();
        drop(journal);
        assert_eq!(open(dir.path()).1, records(&["live"]));
        let (new_log, old_log) = (segment_path(dir.path(), 2), segment_path(before.path(), 1));
        assert!(!segment_path(dir.path(), 1).exists());

        // Killed while the new segment was written: half of it lies there, `keys` is the old one.
        let half = tempfile::tempdir().unwrap();
        copy(before.path(), half.path());
        let new_bytes = std::fs::read(&new_log).unwrap();
        std::fs::write(segment_path(half.path(), 2), &new_bytes[..new_bytes.len() / 2]).unwrap();
        assert_eq!(open(half.path()).1, records(&["old", "live"]));
        assert!(!segment_path(half.path(), 2).exists());

        // Killed while the new key file was written beside the old one.
        std::fs::copy(&new_log, segment_path(half.path(), 2)).unwrap();
        std::fs::write(disk::beside(&keys_path(half.path())), b"half a key file").unwrap();
        let (mut journal, found) = open(half.path());
        assert_eq!(found, records(&["old", "live"]));
        assert!(!disk::beside(&keys_path(half.path())).exists());
        journal.compact(&records(&["live"])).unwrap(); // and it can be done again
        assert_eq!(open(half.path()).1, records(&["live"]));

        // Killed after the swap: the old segment is still there.
        std::fs::copy(&old_log, segment_path(dir.path(), 1)).unwrap();
        assert_eq!(open(dir.path()).1, records(&["live"]));
        assert!(!segment_path(dir.path(), 1).exists());
    }

    #[test]
    fn the_first_start_can_be_killed_too() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(segment_path(dir.path(), 1), &header(1)[..9]).unwrap();
        std::fs::write(disk::beside(&keys_path(dir.path())), vec![1; 500]).unwrap();
        assert!(open(dir.path()).1.is_empty());
    }

    #[test]
    fn lost_keys_are_not_papered_over() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(dir.path());
        journal.append(&records(&["a"])).unwrap();
        drop(journal);
        std::fs::remove_file(keys_path(dir.path())).unwrap();
        let error = Journal::open(dir.path(), key(), &Disk::real()).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        assert!(segment_path(dir.path(), 1).exists());
    }

    #[test]
    fn a_missing_segment_or_a_foreign_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path()));
        let other = Journal::open(dir.path(), Key::new([6; 32]), &Disk::real());
        assert!(matches!(other, Err(StoreError::Damaged { .. })));
        std::fs::remove_file(segment_path(dir.path(), 1)).unwrap();
        let gone = Journal::open(dir.path(), key(), &Disk::real());
        assert!(matches!(gone, Err(StoreError::Damaged { .. })));
    }
}
