//! Backups: which of a node's secrets go into the archive, and how a node is made from one.
//!
//! Invariant: a backup opens no link. It holds what names a friendship (keys and pair roots), not the
//! keys of its last links, so whoever has it meets silence until the friend's owner agrees, and what
//! was recorded stays closed. A restore makes its node aside and gives it its place at the end: a
//! kill leaves no node. Decision: `docs/decisions/0030-what-a-backup-holds.md`.

use crate::exit::{Context, Exit, Failure};
use crate::interruptible::Interrupted;
use crate::new_file::{NewFile, open_plain};
use crate::paths::Paths;
use crate::records::{Record, State};
use crate::up;
use kith_crypto::content::{ReadCap, Root};
use kith_crypto::passphrase::Cost;
use kith_store::archive::{
    ArchiveError, Header, Importer, Item, ItemReader, ItemWriter, Kind, Locked, ObjectItem, block_count,
    class_of, write_object,
};
use kith_store::{ObjectInfo, Opened, Store, StoreError};
use rustix::fs::FlockOperation;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Records that are appended at once.
const TOGETHER: usize = 256;

/// What a backup will hold, as of one moment.
pub struct Snapshot {
    records: Vec<Zeroizing<Vec<u8>>>,
    objects: Vec<ObjectInfo>,
    /// Unix seconds.
    pub created_s: u64,
    /// Friends.
    pub friends: usize,
    /// Own publications.
    pub publications: usize,
    own: std::collections::BTreeSet<Root>,
}

/// What of the journal goes into a backup.
fn is_kept(record: &Record) -> bool {
    match record {
        // The keys of the last links: see the head of this file.
        Record::Ratchet(..) | Record::Restored(..) => false,
        // An invite given may be used up by the time of the restore, and nobody would know; one taken
        // would let whoever has the backup in.
        Record::Given(_) | Record::Taken(..) => false,
        // Only says that a view is still on disk.
        Record::FriendRemoved(_) => false,
        // A node that drew its routes anew after a restore would show more relays where circuits begin.
        Record::Routes(_) => true,
        _ => true,
    }
}

impl Snapshot {
    /// The state and what the store holds now.
    pub fn of(state: &State, store: &Store, created_s: u64) -> Self {
        let live = state.live().into_iter().map(Zeroizing::new);
        let kept = live.filter(|bytes| Record::decode(bytes).is_ok_and(|r| r.as_ref().is_some_and(is_kept)));
        Self {
            records: kept.collect(),
            objects: store.objects(),
            created_s,
            friends: state.friends.len(),
            publications: state.publications.len(),
            own: state.publications.keys().copied().collect(),
        }
    }

    /// Blocks that a backup with content will hold.
    pub fn block_count(&self, store: &Store) -> u64 {
        self.objects.iter().map(|object| block_count(store, &object.root)).sum()
    }

    /// Writes everything; with `content` the blocks too. `moved` is called after each block. Returns
    /// the number of objects whose blocks are in it, and gives the writer back.
    pub fn write<W: Write>(
        &self,
        store: &Store,
        config: Option<&[u8]>,
        content: bool,
        to: W,
        moved: &mut dyn FnMut(),
    ) -> Result<(W, u64), ArchiveError> {
        let mut items = ItemWriter::begin(to, self.created_s)?;
        for record in &self.records {
            items.record(record)?;
        }
        if let Some(config) = config {
            items.config(config)?;
        }
        let mut with_blocks = 0;
        for object in &self.objects {
            let is_here = content && block_count(store, &object.root) > 0;
            if is_here {
                match write_object(store, object, true, &mut items, moved) {
                    Ok(blocks) => with_blocks += u64::from(blocks > 0),
                    // Removed meanwhile.
                    Err(ArchiveError::Store(StoreError::NotFound)) => {}
                    Err(e) => return Err(e),
                }
            } else if object.read.is_some() && !self.own.contains(&object.root) {
                items.object(key_of(object))?;
            }
        }
        let (to, _) = items.finish()?;
        Ok((to, with_blocks))
    }
}

/// An object without its blocks: what can read it is not lost.
fn key_of(object: &ObjectInfo) -> ObjectItem {
    ObjectItem {
        root: object.root,
        tree: object.tree.clone(),
        read: object.read.clone(),
        class: Some(class_of(object)),
        data_count: object.data_count,
        added_unix_s: object.added_unix_s,
        blocks: 0,
    }
}

/// A new backup's header.
pub fn header() -> Result<Header, Failure> {
    let mut salt = [0; 32];
    getrandom::fill(&mut salt).map_err(|_| Failure::new(Exit::Failure, "the system gives no randomness"))?;
    Ok(Header::backup(Cost::RECOMMENDED, salt))
}

/// An archive's error as a failure of a command about the file `path`.
pub fn failure(e: ArchiveError, path: &Path) -> Failure {
    let shown = path.display();
    match e {
        ArchiveError::Store(e) => e.into(),
        ArchiveError::Io(e) => Failure::from(e).context(format!("cannot read {shown}")),
        ArchiveError::WrongKey => {
            Failure::new(Exit::Refused, format!("the passphrase does not open {shown}: try again"))
        }
        ArchiveError::NotAnArchive | ArchiveError::Newer(_) => {
            Failure::new(Exit::Refused, format!("{shown}: {e}"))
        }
        _ => Failure::new(Exit::Verification, format!("{shown}: {e}: use another copy of it")),
    }
}

/// What a restore was asked for.
pub struct Request<'a> {
    /// The backup.
    pub file: &'a Path,
    /// Where the node is to be.
    pub paths: &'a Paths,
    /// Opens the backup.
    pub passphrase: &'a [u8],
    /// Locks the new store; `None`: by a key file.
    pub store_passphrase: Option<&'a [u8]>,
    /// Looked at between items and before the node gets its place.
    pub interrupted: &'a Interrupted,
}

/// What a restore made.
#[derive(Debug, PartialEq, Eq)]
pub struct Restored {
    /// The own name.
    pub name: String,
    /// The own fingerprint.
    pub fingerprint: String,
    /// Names of the friends.
    pub friends: Vec<String>,
    /// Own publications.
    pub publications: usize,
    /// Videos whose blocks came along.
    pub objects: u64,
    /// When the backup was made, in Unix seconds.
    pub created_s: u64,
    /// A configuration was there already and stays.
    pub config_kept: bool,
}

/// Refuses where a node, or something else in its place, is.
pub fn check_free(paths: &Paths) -> Result<(), Failure> {
    let dir = paths.store_dir.display();
    if Store::exists(&paths.store_dir) {
        let what = format!("there is a node in {dir} already, and it stays as it is: choose another --home");
        return Err(Failure::new(Exit::Failure, what));
    }
    let is_there = paths.store_dir.symlink_metadata().is_ok();
    let is_empty = std::fs::read_dir(&paths.store_dir).is_ok_and(|mut dir| dir.next().is_none());
    if is_there && !is_empty {
        let what = format!("something lies in {dir} already: move it away, or choose another --home");
        return Err(Failure::new(Exit::Failure, what));
    }
    Ok(())
}

/// Makes a node from a backup. On an error nothing is there that was not there before. `moved` hears
/// how many bytes of the file were read.
pub fn restore(request: &Request<'_>, moved: &mut dyn FnMut(u64)) -> Result<Restored, Failure> {
    let Request { file: path, paths, .. } = request;
    check_free(paths)?;
    let (file, _) = open_plain(path)?;
    let counted = Counted { from: file, count: 0, moved };
    let locked = Locked::read(BufReader::new(counted)).map_err(|e| failure(e, path))?;
    if locked.header().kind() != Kind::Backup {
        let what = format!("{} is a bundle, not a backup: kith bundle import", path.display());
        return Err(Failure::new(Exit::Refused, what));
    }
    let key = locked.header().key_of_passphrase(request.passphrase);
    let key = key.ok_or_else(|| failure(ArchiveError::Damaged("its header makes no sense"), path))?;
    let items = ItemReader::new(locked.open(&key).map_err(|e| failure(e, path))?);

    let made = Made::new(paths)?;
    let dir = File::open(&paths.data_dir).context("cannot use the home")?;
    if rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Err(Failure::new(Exit::Failure, "another restore into this home is under way"));
    }
    let aside = Aside::new(&paths.store_dir)?;
    let (restored, config) = fill(request, &aside.0, items)?;
    request.interrupted.check()?;
    let config_kept = settle(paths, &aside, config.as_deref())?;
    made.keep();
    Ok(Restored { config_kept, ..restored })
}

/// Gives configuration and store their places, the store last: without it there is no node.
fn settle(paths: &Paths, aside: &Aside, config: Option<&[u8]>) -> Result<bool, Failure> {
    let config_kept = paths.config_file.symlink_metadata().is_ok();
    let mut written = None;
    if let Some(config) = config.filter(|_| !config_kept) {
        let mut file = NewFile::begin(&paths.config_file)?;
        file.write_all(config).context("cannot write the configuration")?;
        file.finish()?;
        written = Some(&paths.config_file);
    }
    let moved = std::fs::rename(&aside.0, &paths.store_dir);
    if let (Err(_), Some(config)) = (&moved, written) {
        let _ = std::fs::remove_file(config);
    }
    moved.context(format!("cannot put the node into {}", paths.store_dir.display()))?;
    let parent = paths.store_dir.parent().unwrap_or(&paths.data_dir);
    File::open(parent).and_then(|dir| dir.sync_all()).context("cannot sync the home")?;
    Ok(config_kept)
}

/// Folders that a restore made; they go again, if they are empty, unless it succeeds.
struct Made(Vec<PathBuf>);

impl Made {
    fn new(paths: &Paths) -> Result<Self, Failure> {
        let config = paths.config_file.parent().unwrap_or(&paths.data_dir);
        let socket = paths.socket.parent().unwrap_or(&paths.data_dir);
        let folders = [config, &paths.data_dir, &paths.state_dir, socket];
        let missing = folders.iter().filter(|folder| !folder.exists()).map(|folder| folder.to_path_buf());
        let made = Self(missing.collect());
        paths.prepare(rustix::process::getuid().as_raw())?;
        Ok(made)
    }

    fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        self.0.iter().for_each(|folder| drop(std::fs::remove_dir(folder)));
    }
}

/// Where a restore makes the store before it gets its place.
pub fn aside(store_dir: &Path) -> PathBuf {
    store_dir.with_added_extension("restoring")
}

/// The folder in which the store is made. What a killed restore left there goes first.
struct Aside(PathBuf);

impl Aside {
    fn new(store_dir: &Path) -> Result<Self, Failure> {
        let path = aside(store_dir);
        match std::fs::remove_dir_all(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Failure::from(e).context(format!("cannot remove {}", path.display())))
            }
            _ => Ok(Self(path)),
        }
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // After a success it has another name.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn fill<R: Read>(
    request: &Request<'_>,
    dir: &Path,
    items: ItemReader<R>,
) -> Result<(Restored, Option<Vec<u8>>), Failure> {
    let Opened { store, .. } = Store::create(&up::options(dir, request.store_passphrase))?;
    let filling = Filling {
        store: &store,
        path: request.file,
        state: State::default(),
        pending: Zeroizing::new(Vec::new()),
        config: None,
        created_s: 0,
        objects: 0,
    };
    filling.run(items, request.interrupted)
}

/// A store that is being filled from a backup.
struct Filling<'a> {
    store: &'a Store,
    path: &'a Path,
    state: State,
    /// Records hold secrets: wiped when they were handed on.
    pending: Zeroizing<Vec<Vec<u8>>>,
    config: Option<Vec<u8>>,
    created_s: u64,
    objects: u64,
}

impl Filling<'_> {
    fn run<R: Read>(
        mut self,
        mut items: ItemReader<R>,
        interrupted: &Interrupted,
    ) -> Result<(Restored, Option<Vec<u8>>), Failure> {
        let path = self.path;
        let wrong = |e| failure(e, path);
        let mut object = None;
        while let Some(item) = items.next_item().map_err(wrong)? {
            interrupted.check()?;
            if !matches!(item, Item::Block(..)) {
                self.end_object(object.take())?;
            }
            match item {
                Item::About(created_s) => self.created_s = created_s,
                Item::Record(bytes) => self.record(&bytes)?,
                Item::Config(bytes) => self.config = Some(bytes),
                Item::Object(item) => {
                    let added_s = item.added_unix_s;
                    let importer = Importer::begin(self.store, &item, item.read.clone(), added_s);
                    let read = item.read.map(|key| ReadCap { root: item.root, key });
                    object = Some((importer, read));
                }
                Item::Block(position, sealed) => {
                    if let Some((object, _)) = &mut object {
                        object.block(position, sealed).map_err(wrong)?;
                    }
                }
                _ => {}
            }
        }
        // 0 would take the word back: a clock that was never set says 1970.
        let now_s = up::unix_now().max(1);
        for key in self.state.friends.keys().copied().collect::<Vec<_>>() {
            self.append(Record::Restored(key, now_s))?;
        }
        self.flush()?;
        let Some(me) = &self.state.me else {
            return Err(failure(ArchiveError::Damaged("it holds no identity"), path));
        };
        let restored = Restored {
            name: me.name.clone(),
            fingerprint: me.identity().public().fingerprint(),
            friends: self.state.friends.values().map(|f| f.name.clone()).collect(),
            publications: self.state.publications.len(),
            objects: self.objects,
            created_s: self.created_s,
            config_kept: false,
        };
        Ok((restored, self.config))
    }

    /// An object of which no block came, because the backup has no content or its blocks turned out
    /// damaged when it was made, is not in the store: what reads it is kept by itself.
    fn end_object(&mut self, object: Option<(Importer<'_>, Option<ReadCap>)>) -> Result<(), Failure> {
        let Some((object, read)) = object else { return Ok(()) };
        let kept = object.finish().map_err(|e| failure(e, self.path))?;
        self.objects += u64::from(kept.is_some());
        match read {
            Some(read) if kept.is_none() && !self.state.publications.contains_key(&read.root) => {
                self.append(Record::Known(read))
            }
            _ => Ok(()),
        }
    }

    /// A record of the backup. One of a later release is kept as it is, for that release.
    fn record(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let damaged = |_| failure(ArchiveError::Damaged("a record in it makes no sense"), self.path);
        match Record::decode(bytes).map_err(damaged)? {
            Some(record) if !is_kept(&record) => Ok(()),
            Some(record) => self.append(record),
            None => self.push(bytes.to_vec()),
        }
    }

    fn append(&mut self, record: Record) -> Result<(), Failure> {
        let bytes = record.encode();
        self.state.apply(record);
        self.push(bytes)
    }

    fn push(&mut self, bytes: Vec<u8>) -> Result<(), Failure> {
        self.pending.push(bytes);
        if self.pending.len() >= TOGETHER { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        let records = std::mem::take(&mut self.pending);
        self.store.append(&records).map_err(Failure::from)
    }
}

/// Counts what is read.
struct Counted<'a, R> {
    from: R,
    count: u64,
    moved: &'a mut dyn FnMut(u64),
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let n = self.from.read(out)?;
        self.count += n as u64;
        (self.moved)(self.count);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{Friend, Myself};
    use kith_crypto::identity::Identity;
    use kith_crypto::pair::PairRoot;
    use kith_crypto::rng::Rng;
    use kith_crypto::secret::Key;
    use kith_onion::ratchet::Ratchet;
    use kith_onion::{FriendKey, FriendRecord, GivenInvite, InviteId, Traffic};
    use kith_store::archive::Sealer;

    const PSK: [u8; 32] = [0xa7; 32];
    const INVITE: [u8; 32] = [0xb9; 32];

    fn state() -> State {
        let id = Identity::generate(&mut Rng::from_seed([1; 32]));
        let other = Identity::generate(&mut Rng::from_seed([2; 32]));
        let root = PairRoot::new(&id, other.public(), None).unwrap();
        let record = FriendRecord { counter_out: 77, ..FriendRecord::new(*other.public(), root, vec![], 0) };
        let key = FriendKey(other.public().sign);
        let ratchet = Ratchet { generation: 9, psk: Key::new(PSK), since_s: 1, next: None };
        let friend = Friend {
            record,
            name: "Bo".into(),
            since_s: 1,
            traffic: Traffic::default(),
            verified_s: Some(5),
            rotated_s: None,
        };
        let invite = GivenInvite {
            id: InviteId(1),
            secret: Key::new(INVITE),
            expires: u32::MAX,
            tries: vec![],
            bound: None,
        };
        let mut state = State::default();
        let records = [
            Record::Myself(Myself {
                secrets: id.secrets(),
                secret: Key::new([8; 32]),
                name: "Ana".into(),
                created_s: 1,
                own_keys: 0,
                rotated_s: 0,
                older: Vec::new(),
            }),
            Record::Friend(Box::new(friend)),
            Record::Ratchet(key, Box::new(ratchet)),
            Record::Given(invite),
        ];
        records.into_iter().for_each(|r| state.apply(r));
        state
    }

    fn has(bytes: &[u8], secret: &[u8; 32]) -> bool {
        bytes.windows(32).any(|w| w == secret)
    }

    #[test]
    fn a_backup_holds_friendships_and_nothing_that_opens_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let Opened { store, .. } = Store::create(&up::options(&dir.path().join("s"), None)).unwrap();
        let state = state();
        let all: Vec<u8> = state.live().concat();
        assert!(has(&all, &PSK) && has(&all, &INVITE), "the control: the journal holds them");
        let snapshot = Snapshot::of(&state, &store, 5);
        let (plain, _) = snapshot.write(&store, None, true, Vec::new(), &mut || {}).unwrap();
        assert!(!has(&plain, &PSK) && !has(&plain, &INVITE));
        let root = state.friends.values().next().unwrap().record.root.key().expose();
        assert!(has(&plain, root) && has(&plain, &state.me.as_ref().unwrap().secrets[0]));
    }

    #[test]
    fn a_restored_state_is_the_old_one_with_its_owners_word_for_each_friend() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::resolve(Some(&dir.path().join("home")), |_| None, 0).unwrap();
        let file = dir.path().join("b.kith");
        let Opened { store, .. } = Store::create(&up::options(&dir.path().join("s"), None)).unwrap();
        let header = Header::backup(Cost { memory_kib: 64, passes: 1 }, [3; 32]);
        let key = header.key_of_passphrase(b"x").unwrap();
        let sealer = Sealer::begin(File::create(&file).unwrap(), &header, &key).unwrap();
        let mut before = state();
        before.apply(Record::Routes(vec![6; 40]));
        let snapshot = Snapshot::of(&before, &store, 5);
        let (sealer, _) = snapshot.write(&store, Some(b"# mine"), false, sealer, &mut || {}).unwrap();
        sealer.finish().unwrap();
        let interrupted = &Interrupted::default();
        let store_passphrase = Some(&b"locked"[..]);
        let request = Request { file: &file, paths: &paths, passphrase: b"x", store_passphrase, interrupted };
        let made = restore(&request, &mut |_| {}).unwrap();
        assert_eq!(
            (made.name.as_str(), made.friends.as_slice(), made.created_s),
            ("Ana", &["Bo".into()][..], 5)
        );
        assert_eq!(std::fs::read(&paths.config_file).unwrap(), b"# mine");

        let state = up::open(&paths, Some(b"locked")).unwrap().state;
        let (key, friend) = state.friends.iter().next().unwrap();
        assert!(state.restored.contains_key(key) && state.given.is_empty());
        assert_eq!(friend.record.ratchet, Ratchet::initial(&friend.record.root));
        assert_eq!((friend.record.counter_out, friend.verified_s), (77, Some(5)));
        assert_eq!(state.routes, before.routes, "circuits go where they went before");
        assert!(up::open(&paths, Some(b"other")).is_err());
    }

    /// A backup with content announces an object's blocks before it reads them. When all turned out
    /// damaged the restored node knew neither blocks nor key, and a friend's copy was of no use to it.
    #[test]
    fn an_object_whose_blocks_were_damaged_keeps_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let Opened { store, .. } = Store::create(&up::options(&dir.path().join("s"), None)).unwrap();
        let header = Header::backup(Cost { memory_kib: 64, passes: 1 }, [3; 32]);
        let key = header.key_of_passphrase(b"x").unwrap();
        let mut items = ItemWriter::begin(Sealer::begin(Vec::new(), &header, &key).unwrap(), 5).unwrap();
        let me = Record::Myself(state().me.unwrap());
        items.record(&me.encode()).unwrap();
        let tree = Key::new([4; 32]);
        for (root, blocks) in [(Root([6; 32]), 9), (Root([7; 32]), 0)] {
            let read = Some(Key::new([5; 32]));
            let (class, data_count) = (Some(0), 7);
            let tree = tree.clone();
            items
                .object(ObjectItem { root, tree, read, class, data_count, added_unix_s: 1, blocks })
                .unwrap();
        }
        let bytes = items.finish().unwrap().0.finish().unwrap();
        let archive = Locked::read(&bytes[..]).unwrap().open(&key).unwrap();
        let filling = Filling {
            store: &store,
            path: Path::new("b.kith"),
            state: State::default(),
            pending: Zeroizing::new(Vec::new()),
            config: None,
            created_s: 0,
            objects: 0,
        };
        let (restored, _) = filling.run(ItemReader::new(archive), &Interrupted::default()).unwrap();
        assert_eq!(restored.objects, 0);
        drop(store);
        let opened = Store::open(&up::options(&dir.path().join("s"), None)).unwrap();
        let known = |bytes: &Vec<u8>| match Record::decode(bytes) {
            Ok(Some(Record::Known(cap))) => Some(cap.root),
            _ => None,
        };
        let known: Vec<Root> = opened.records.iter().filter_map(known).collect();
        assert_eq!(known, [Root([6; 32]), Root([7; 32])]);
    }
}
