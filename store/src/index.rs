//! The index: object rows by root, quick to ask and free to lose. The only file that names sled.
//!
//! Invariant: sled is opened only on files that this store closed itself. On close a seal (a MAC
//! over all of sled's files) is written beside them, and it is removed before they are opened
//! again; without a matching seal, or when the index names another place in the journal than the
//! journal's last object row, the folder is deleted and filled from the journal. So sled never reads
//! files of a crash or of somebody else, which it does not promise to survive.
//! sled sees keyed hashes as keys and sealed values. The journal is the truth and not known here.

use crate::StoreError;
use crate::backend::Kind;
use crate::disk::{self, At, Disk, hold};
use crate::journal::Mark;
use crate::object::ObjectInfo;
use kith_crypto::aead::{RECORD_NONCE_LEN, open_record, seal_record};
use kith_crypto::codec::{Reader, Writer};
use kith_crypto::content::Root;
use kith_crypto::kdf::{Label, derive};
use kith_crypto::secret::Key;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const TABLE_OBJECTS: u8 = 0;
const TABLE_MARK: u8 = 1;
/// Objects that are put at once.
const BATCH: usize = 256;
const CACHE_BYTES: u64 = 4 << 20;
/// How long to wait for sled's own lock, which its threads hold a moment longer than its handle.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// The index could not answer. The caller goes back to the journal.
#[derive(Debug)]
pub(crate) struct Unusable;

/// What an index can do.
pub(crate) trait Index: Send + Sync {
    fn object(&self, root: &Root) -> Result<Option<ObjectInfo>, Unusable>;
    fn objects(&self) -> Result<Vec<ObjectInfo>, Unusable>;
    fn put(&self, info: &ObjectInfo) -> Result<(), Unusable>;
    /// Puts many at once.
    fn put_all(
        &self,
        objects: &BTreeMap<Root, ObjectInfo>,
        watch: &dyn Fn(u64, u64),
    ) -> Result<(), Unusable> {
        let total = objects.len() as u64;
        (0..).zip(objects.values()).try_for_each(|(done, info)| {
            watch(done, total);
            self.put(info)
        })
    }
    fn remove(&self, root: &Root) -> Result<(), Unusable>;
    /// Names the journal's last object row, once the index agrees with it.
    fn set_mark(&self, mark: Mark) -> Result<(), Unusable>;
    fn mark(&self) -> Result<Option<Mark>, Unusable>;
    /// Writes everything out, for a quick start next time.
    fn close(self: Box<Self>);
}

/// The index in memory: what is used when sled cannot be.
#[derive(Debug, Default)]
pub(crate) struct MemoryIndex(Mutex<(BTreeMap<Root, ObjectInfo>, Option<Mark>)>);

impl Index for MemoryIndex {
    fn object(&self, root: &Root) -> Result<Option<ObjectInfo>, Unusable> {
        Ok(hold(&self.0).0.get(root).cloned())
    }
    fn objects(&self) -> Result<Vec<ObjectInfo>, Unusable> {
        Ok(hold(&self.0).0.values().cloned().collect())
    }
    fn put(&self, info: &ObjectInfo) -> Result<(), Unusable> {
        hold(&self.0).0.insert(info.root, info.clone());
        Ok(())
    }
    fn remove(&self, root: &Root) -> Result<(), Unusable> {
        hold(&self.0).0.remove(root);
        Ok(())
    }
    fn set_mark(&self, mark: Mark) -> Result<(), Unusable> {
        hold(&self.0).1 = Some(mark);
        Ok(())
    }
    fn mark(&self) -> Result<Option<Mark>, Unusable> {
        Ok(hold(&self.0).1)
    }
    fn close(self: Box<Self>) {}
}

/// The index on disk.
struct SledIndex {
    dir: PathBuf,
    db: sled::Db,
    names: Key,
    values: Key,
    seals: Key,
}

impl From<sled::Error> for Unusable {
    fn from(_: sled::Error) -> Self {
        Self
    }
}

fn db_dir(dir: &Path) -> PathBuf {
    dir.join("sled")
}

fn seal_path(dir: &Path) -> PathBuf {
    dir.join("seal")
}

/// MAC over names and contents of all files that sled keeps.
fn seal_of(key: &Key, dir: &Path) -> Result<[u8; 32], StoreError> {
    let mut hasher = blake3::Hasher::new_keyed(key.expose());
    let mut folders = vec![db_dir(dir)];
    while let Some(folder) = folders.pop() {
        for (path, kind) in Disk::real().list(&folder)? {
            if kind == Kind::Folder {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(dir).unwrap_or(&path).as_os_str().as_encoded_bytes();
            let mut file = std::fs::File::open(&path).at(&path)?;
            let len = file.metadata().at(&path)?.len();
            hasher.update(&(name.len() as u64).to_le_bytes()).update(name).update(&len.to_le_bytes());
            // A file that changes meanwhile gives another MAC, and that is all it does.
            std::io::copy(&mut file, &mut hasher).at(&path)?;
        }
    }
    Ok(*hasher.finalize().as_bytes())
}

impl SledIndex {
    fn open(dir: &Path, store: &Key) -> Result<Self, Unusable> {
        let config = sled::Config::default()
            .path(db_dir(dir))
            .cache_capacity(CACHE_BYTES)
            .mode(sled::Mode::HighThroughput)
            .flush_every_ms(None);
        let started = Instant::now();
        let db = loop {
            match config.open() {
                Err(sled::Error::Io(_)) if started.elapsed() < LOCK_PATIENCE => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                other => break other?,
            }
        };
        Ok(Self {
            dir: dir.to_owned(),
            db,
            names: derive(Label::INDEX_KEY, &[store.expose()]),
            values: derive(Label::INDEX_VALUE, &[store.expose()]),
            seals: seal_key(store),
        })
    }

    fn name(&self, table: u8, key: &[u8]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(self.names.expose());
        *hasher.update(&[table]).update(key).finalize().as_bytes()
    }

    fn insert(&self, table: u8, key: &[u8], value: &Writer) -> Result<(), Unusable> {
        let name = self.name(table, key);
        let nonce = disk::random().map_err(|_| Unusable)?;
        self.db.insert(name, self.seal(table, &name, &nonce, value))?;
        Ok(())
    }

    fn seal(&self, table: u8, name: &[u8; 32], nonce: &[u8; RECORD_NONCE_LEN], value: &Writer) -> Vec<u8> {
        let mut plain = Writer::new();
        plain.u8(table).raw(value.as_bytes());
        let mut bytes = nonce.to_vec();
        bytes.extend_from_slice(&seal_record(&self.values, nonce, name, plain.as_bytes()));
        bytes
    }

    /// Table and value of an entry.
    fn unseal(&self, name: &[u8], bytes: &[u8]) -> Result<(u8, Vec<u8>), Unusable> {
        let (nonce, sealed) = bytes.split_first_chunk().ok_or(Unusable)?;
        let mut plain = open_record(&self.values, nonce, name, sealed).map_err(|_| Unusable)?;
        if plain.is_empty() {
            return Err(Unusable);
        }
        Ok((plain.remove(0), plain))
    }

    fn lookup(&self, table: u8, key: &[u8]) -> Result<Option<Vec<u8>>, Unusable> {
        let name = self.name(table, key);
        let Some(bytes) = self.db.get(name)? else { return Ok(None) };
        match self.unseal(&name, &bytes)? {
            (found, value) if found == table => Ok(Some(value)),
            _ => Err(Unusable),
        }
    }
}

fn decode_object(value: &[u8]) -> Result<ObjectInfo, Unusable> {
    let mut r = Reader::new(value);
    let info = ObjectInfo::decode(&mut r).map_err(|_| Unusable)?;
    r.finish().map_err(|_| Unusable)?;
    Ok(info)
}

impl Index for SledIndex {
    fn object(&self, root: &Root) -> Result<Option<ObjectInfo>, Unusable> {
        let value = self.lookup(TABLE_OBJECTS, root.as_bytes())?;
        value.map(|value| decode_object(&value)).transpose()
    }

    fn objects(&self) -> Result<Vec<ObjectInfo>, Unusable> {
        let mut list = Vec::new();
        for entry in self.db.iter() {
            let (name, bytes) = entry?;
            if let (TABLE_OBJECTS, value) = self.unseal(&name, &bytes)? {
                list.push(decode_object(&value)?);
            }
        }
        list.sort_by_key(|info| info.root);
        Ok(list)
    }

    fn put(&self, info: &ObjectInfo) -> Result<(), Unusable> {
        let mut w = Writer::new();
        info.encode(&mut w);
        self.insert(TABLE_OBJECTS, info.root.as_bytes(), &w)
    }

    /// In the order of sled's keys and with the randomness of a batch at once: several times as
    /// quick as one by one.
    fn put_all(
        &self,
        objects: &BTreeMap<Root, ObjectInfo>,
        watch: &dyn Fn(u64, u64),
    ) -> Result<(), Unusable> {
        let mut named: Vec<_> =
            objects.values().map(|info| (self.name(TABLE_OBJECTS, info.root.as_bytes()), info)).collect();
        named.sort_unstable_by_key(|(name, _)| *name);
        for (done, chunk) in named.chunks(BATCH).enumerate() {
            watch((done * BATCH) as u64, named.len() as u64);
            let mut nonces = [0; BATCH * RECORD_NONCE_LEN];
            disk::fill_random(&mut nonces).map_err(|_| Unusable)?;
            let mut batch = sled::Batch::default();
            for ((name, info), nonce) in chunk.iter().zip(nonces.as_chunks().0) {
                let mut value = Writer::new();
                info.encode(&mut value);
                batch.insert(name.as_slice(), self.seal(TABLE_OBJECTS, name, nonce, &value));
            }
            self.db.apply_batch(batch)?;
        }
        Ok(())
    }

    fn remove(&self, root: &Root) -> Result<(), Unusable> {
        self.db.remove(self.name(TABLE_OBJECTS, root.as_bytes()))?;
        Ok(())
    }

    fn set_mark(&self, mark: Mark) -> Result<(), Unusable> {
        let mut w = Writer::new();
        w.u64(mark.segment).raw(&mark.link);
        self.insert(TABLE_MARK, b"", &w)
    }

    fn mark(&self) -> Result<Option<Mark>, Unusable> {
        let Some(value) = self.lookup(TABLE_MARK, b"")? else { return Ok(None) };
        let mut r = Reader::new(&value);
        let mark = (|| Ok(Mark { segment: r.u64()?, link: r.array()? }))();
        mark.map(Some).map_err(|_: kith_crypto::codec::DecodeError| Unusable)
    }

    fn close(self: Box<Self>) {
        let Self { dir, db, seals, .. } = *self;
        let flushed = db.flush().is_ok();
        drop(db);
        // Without a seal the next start fills a new index, so nothing here needs to be an error.
        if flushed && let Ok(seal) = seal_of(&seals, &dir) {
            let _ = Disk::real().replace(&seal_path(&dir), &seal);
        }
    }
}

fn seal_key(store: &Key) -> Key {
    derive(Label::INDEX_KEY, &[store.expose(), b"seal"])
}

/// Opens the index that was closed at `mark`, or at a place that the journal should have and has not.
fn resume(
    dir: &Path,
    store: &Key,
    mark: Mark,
    misses: &dyn Fn(Mark) -> bool,
) -> Result<(Box<dyn Index>, State), Unusable> {
    let stored = std::fs::read(seal_path(dir)).map_err(|_| Unusable)?;
    let actual = seal_of(&seal_key(store), dir).map_err(|_| Unusable)?;
    if stored.as_slice() != actual.as_slice() {
        return Err(Unusable);
    }
    Disk::real().remove(&seal_path(dir)).map_err(|_| Unusable)?;
    let index = SledIndex::open(dir, store)?;
    match index.mark()? {
        Some(found) if found == mark => Ok((Box::new(index), State::Resumed)),
        Some(found) if misses(found) => Ok((Box::new(index), State::Ahead)),
        _ => Err(Unusable),
    }
}

fn fill(
    index: &dyn Index,
    objects: &BTreeMap<Root, ObjectInfo>,
    mark: Mark,
    watch: &dyn Fn(u64, u64),
) -> Result<(), Unusable> {
    index.put_all(objects, watch)?;
    index.set_mark(mark)
}

fn rebuild(
    dir: &Path,
    store: &Key,
    objects: &BTreeMap<Root, ObjectInfo>,
    mark: Mark,
    watch: &dyn Fn(u64, u64),
) -> Result<Box<dyn Index>, Unusable> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Unusable),
        _ => Disk::real().make_dir(dir).map_err(|_| Unusable)?,
    }
    let index = SledIndex::open(dir, store)?;
    fill(&index, objects, mark, watch)?;
    Ok(Box::new(index))
}

/// Makes the index anew while the node runs; nobody uses the old one any more.
pub(crate) fn make(
    dir: &Path,
    store: &Key,
    objects: &BTreeMap<Root, ObjectInfo>,
    mark: Mark,
    watch: &dyn Fn(u64, u64),
) -> Result<Box<dyn Index>, Unusable> {
    rebuild(dir, store, objects, mark, watch)
}

/// An index in memory with these objects.
pub(crate) fn in_memory(objects: &BTreeMap<Root, ObjectInfo>, mark: Mark) -> Box<dyn Index> {
    let index = MemoryIndex::default();
    let _ = fill(&index, objects, mark, &|_, _| {}); // memory does not fail
    Box::new(index)
}

/// Where an index came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It is the one that was closed, and says what the journal says.
    Resumed,
    /// It was filled from the journal.
    Rebuilt,
    /// It is the one that was closed, and the journal lost rows since then.
    Ahead,
}

/// Opens the index, or fills a new one with `objects`; tells which. `misses` tells whether a place is
/// one that the journal should have and has not. Without a folder the index lives in memory.
pub(crate) fn open(
    dir: Option<&Path>,
    store: &Key,
    objects: &BTreeMap<Root, ObjectInfo>,
    (mark, misses): (Mark, &dyn Fn(Mark) -> bool),
    watch: &dyn Fn(u64, u64),
) -> (Box<dyn Index>, State) {
    let Some(dir) = dir else { return (in_memory(objects, mark), State::Rebuilt) };
    resume(dir, store, mark, misses).unwrap_or_else(|Unusable| {
        let rebuilt = rebuild(dir, store, objects, mark, watch);
        (rebuilt.unwrap_or_else(|Unusable| in_memory(objects, mark)), State::Rebuilt)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(root: u8) -> ObjectInfo {
        ObjectInfo {
            root: Root([root; 32]),
            tree: Key::new([2; 32]),
            read: None,
            class: crate::Class::Cached,
            complete: false,
            data_count: 3,
            added_unix_s: 4,
            used_day: 5,
        }
    }

    const MARK: Mark = Mark { segment: 1, link: [9; 16] };

    fn one() -> BTreeMap<Root, ObjectInfo> {
        BTreeMap::from([(object(1).root, object(1))])
    }

    #[test]
    fn both_kinds_answer_alike() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let (sled, state) = open(Some(&path), &Key::new([1; 32]), &one(), (MARK, &|_| false), &|_, _| {});
        assert_eq!(state, State::Rebuilt);
        for index in [sled, in_memory(&one(), MARK)] {
            index.put(&object(2)).unwrap();
            assert_eq!(index.objects().unwrap(), [object(1), object(2)]);
            index.remove(&object(1).root).unwrap();
            assert_eq!(index.object(&object(1).root).unwrap(), None);
            assert_eq!(index.object(&object(2).root).unwrap(), Some(object(2)));
            assert_eq!(index.mark().unwrap(), Some(MARK));
        }
    }

    #[test]
    fn only_a_sealed_index_at_the_right_place_is_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let (path, key) = (dir.path().join("index"), Key::new([1; 32]));
        let again = |mark| {
            let (index, state) = open(Some(&path), &key, &one(), (mark, &|_| false), &|_, _| {});
            assert_eq!(index.objects().unwrap(), [object(1)]);
            (index, state == State::Rebuilt)
        };
        let (index, _) = again(MARK);
        index.close();
        let (index, rebuilt) = again(MARK);
        assert!(!rebuilt, "a closed index is used again");
        drop(index); // as by a kill: not closed
        let (index, rebuilt) = again(MARK);
        assert!(rebuilt);
        index.close();
        let later = Mark { segment: 2, ..MARK };
        let (index, rebuilt) = again(later);
        assert!(rebuilt, "the journal went on without it");
        index.put(&object(2)).unwrap();
        index.close();
        let (index, state) = open(Some(&path), &key, &one(), (MARK, &|mark| mark == later), &|_, _| {});
        assert_eq!(state, State::Ahead, "the journal lost its end");
        assert_eq!(index.objects().unwrap(), [object(1), object(2)], "and its rows are kept");
        drop(index);
        again(later).0.close();
        let db = std::fs::read(db_dir(&path).join("db")).unwrap();
        let mut bad = db.clone();
        bad[db.len() / 2] ^= 1;
        std::fs::write(db_dir(&path).join("db"), bad).unwrap();
        assert!(again(later).1);
    }
}
