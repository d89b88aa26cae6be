//! A node's disk in memory: a journal that keeps only what was made durable, and an object store.

use kith_crypto::content::{Builder, Geometry, Head, Position, ReadCap, ReadKeys, Root, VerifyCap};
use kith_crypto::invite::Invite;
use kith_crypto::rng::Rng;
use kith_crypto::secret::Key;
use kith_onion::catalogue::Audience;
use kith_onion::entry::Entry;
use kith_onion::{Change, FriendKey, FriendRecord, GivenInvite, InviteId, Route};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// One line of the journal.
#[derive(Debug)]
pub enum Line {
    /// What the core wants kept.
    Change(Change),
    /// Appended to a friend's view log.
    View(FriendKey, Vec<Vec<u8>>),
    /// The view log is removed.
    DropView(FriendKey),
}

/// What survives a crash, and the lines that may not.
#[derive(Debug, Default)]
pub struct Journal {
    /// Friendships.
    pub friends: BTreeMap<FriendKey, FriendRecord>,
    /// Given invites.
    pub given: BTreeMap<InviteId, GivenInvite>,
    /// Taken invites.
    pub taken: BTreeMap<InviteId, Invite>,
    /// View logs.
    pub views: BTreeMap<FriendKey, Vec<Vec<u8>>>,
    /// Own publications.
    pub published: BTreeMap<Root, (Entry, Audience)>,
    /// Fetches that were started and have not ended.
    pub wanted: BTreeMap<Root, (VerifyCap, Route)>,
    /// Routes of own circuits.
    pub routes: Option<Vec<u8>>,
    waiting: VecDeque<Line>,
    /// Lines written since the node was made; the next line's number.
    written: u64,
}

impl Journal {
    /// Writes a line without waiting; returns the number of lines so far.
    pub fn append(&mut self, line: Line) -> u64 {
        self.waiting.push_back(line);
        self.written += 1;
        self.written
    }

    /// Everything up to this line is durable now.
    pub fn sync(&mut self, upto: u64) {
        let done = self.written - self.waiting.len() as u64;
        for _ in done..upto {
            if let Some(line) = self.waiting.pop_front() {
                self.apply(line);
            }
        }
    }

    /// Everything is durable now.
    pub fn sync_all(&mut self) {
        self.sync(self.written);
    }

    /// The power fails: some of the lines that were not made durable are there, the later are not.
    pub fn crash(&mut self, rng: &mut Rng) {
        let survive = rng.range(0, self.waiting.len() as u64);
        let done = self.written - self.waiting.len() as u64;
        self.sync(done + survive);
        self.waiting.clear();
        self.written = done + survive;
    }

    fn apply(&mut self, line: Line) {
        match line {
            Line::View(friend, records) => self.views.entry(friend).or_default().extend(records),
            Line::DropView(friend) => {
                self.views.remove(&friend);
            }
            Line::Change(change) => self.apply_change(change),
        }
    }

    fn apply_change(&mut self, change: Change) {
        match change {
            Change::CounterOut(key, counter) => {
                if let Some(friend) = self.friends.get_mut(&key) {
                    assert!(counter > friend.counter_out, "a sent counter went back");
                    friend.counter_out = counter;
                }
            }
            Change::CounterIn(key, counter) => {
                if let Some(friend) = self.friends.get_mut(&key) {
                    assert!(counter > friend.counter_in, "an accepted counter went back");
                    friend.counter_in = counter;
                }
            }
            Change::InviteTry(id, nonce) => {
                if let Some(invite) = self.given.get_mut(&id) {
                    assert!(!invite.tries.contains(&nonce), "a first flight was answered twice");
                    invite.tries.push(nonce);
                }
            }
            Change::InviteBound(id, key) => {
                if let Some(invite) = self.given.get_mut(&id) {
                    assert!(invite.bound.is_none_or(|b| b == key), "an invite changed hands");
                    invite.bound = Some(key);
                }
            }
            Change::InviteDone(id) => {
                self.given.remove(&id);
                self.taken.remove(&id);
            }
            Change::FriendAdded(cert, record) => {
                self.friends.insert(FriendKey(cert.keys.sign), *record);
            }
            Change::TorOnly(_) => {}
            Change::Addresses(key, seq, addrs) => {
                if let Some(friend) = self.friends.get_mut(&key) {
                    (friend.addrs_seq, friend.addrs) = (seq, addrs);
                }
            }
            Change::Ratchet(key, ratchet) => {
                if let Some(friend) = self.friends.get_mut(&key) {
                    assert!(ratchet.generation >= friend.ratchet.generation, "a ratchet went back");
                    friend.ratchet = *ratchet;
                }
            }
            Change::FriendKeys(key, new) => {
                if let Some(friend) = self.friends.get_mut(&key) {
                    (friend.keys, friend.root, friend.keys_since_s) = (new.keys, new.root, new.since_s);
                }
            }
            Change::Routes(routes) => self.routes = Some(routes),
            Change::OwnKeys(key, own_keys, root) => {
                if let Some(friend) = self.friends.get_mut(&key) {
                    (friend.own_keys, friend.root) = (own_keys, root);
                }
            }
        }
    }
}

/// A complete object with its plaintext.
#[derive(Debug)]
pub struct Object {
    /// Reads it.
    pub cap: ReadCap,
    /// Its shape.
    pub geometry: Geometry,
    /// Its sealed blocks.
    pub blocks: BTreeMap<Position, Rc<[u8]>>,
    /// What was published.
    pub plain: Vec<u8>,
}

impl Object {
    /// Seals random content of `len` bytes.
    pub fn random(rng: &mut Rng, len: usize) -> Self {
        let mut plain = vec![0; len];
        rng.fill(&mut plain);
        let mut builder = Builder::new(Key::new(rng.bytes()));
        let mut blocks = BTreeMap::new();
        for block in plain.chunks(kith_crypto::content::BLOCK_LEN) {
            let sealed = builder.push(block.to_vec()).expect("the object is far below the largest");
            blocks.insert(sealed.position, sealed.bytes.into());
        }
        let head = Head { title: "clip".into(), len: len as u64, ..Head::default() };
        let (cap, geometry) = builder.finish(&head, |sealed| {
            blocks.insert(sealed.position, sealed.bytes.into());
        });
        Self { cap, geometry, blocks, plain }
    }

    /// The plaintext that `blocks` give when opened with this object's key; `None` if one is missing.
    pub fn open(&self, blocks: &BTreeMap<Position, Rc<[u8]>>) -> Option<Vec<u8>> {
        let keys = ReadKeys::new(&self.cap.key);
        let mut plain = Vec::new();
        for index in 0..self.geometry.data_count() {
            let position = Position::Data(index);
            let mut block = blocks.get(&position)?.to_vec();
            keys.open(position, &mut block).ok()?;
            plain.extend(block);
        }
        plain.truncate(self.plain.len());
        Some(plain)
    }
}
