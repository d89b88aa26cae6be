//! Two threads beside the driver: one appends to journal and view logs (`crate::journal`), one moves
//! blocks. The
//! driver never waits for a disk; it hears what is done through one bounded channel.
//!
//! Invariant: requests of one kind are done in the order in which they were made. When a request
//! channel is full the driver keeps the request itself, so that threads and driver cannot block
//! each other.

use crate::journal::{Stored, log_thread};
use crate::tasks::{end_at_once, vital};
use kith_crypto::content::{BLOCK_LEN, Geometry, Position, Root, VerifiedBlock, VerifyCap};
use kith_crypto::secret::Key;
use kith_onion::{ConnId, FetchId, FriendKey};
use kith_store::{Class, Pack, Store, StoreError, ViewLog};
use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Requests that may wait at a thread.
const QUEUE: usize = 64;
/// Blocks that came are marked as present at least this often.
const FLUSH_EVERY: Duration = Duration::from_millis(1500);
/// After so many bytes of fetches the free space of the disk is looked at.
const LOOK_EVERY_BYTES: u64 = 32 << 20;
/// Groups of answers that may wait for the driver.
const DONE_QUEUE: usize = 32;
/// Requests that the block thread answers together: a wake-up for each would cost more than the work.
const GROUP: usize = 8;

/// Work for the journal thread.
#[derive(Debug)]
pub enum Log {
    /// Append records; answer with the tickets when durable.
    Append(Vec<Vec<u8>>, Option<u64>),
    /// Append records; answer whether they are durable.
    Durable(Vec<Vec<u8>>, tokio::sync::oneshot::Sender<Stored>),
    /// Append to a friend's view log.
    View(FriendKey, Vec<Vec<u8>>),
    /// Remove a friend's view log.
    DropView(FriendKey),
    /// Whether a friend's view log holds what was written to it. Nothing is answered for one that is
    /// not open.
    CheckView(FriendKey, tokio::sync::oneshot::Sender<(PathBuf, bool)>),
    /// Write a friend's view log anew with these records.
    RewriteView(FriendKey, Vec<Vec<u8>>, tokio::sync::oneshot::Sender<Result<(), String>>),
    /// Write the journal anew with these records alone: what they leave out is erased.
    Compact(Vec<Vec<u8>>),
    /// Remember that an object was used at this time (unix seconds).
    Used(Root, u64),
    /// There may be room on the disk again: try now.
    Retry,
}

/// A fetch whose root has come.
pub struct Begun {
    /// The object, what reads it, and as what it is kept.
    pub object: (VerifyCap, Option<Key>, Class),
    /// Its root.
    pub root_block: VerifiedBlock,
    /// Its shape.
    pub geometry: Geometry,
    /// Unix seconds.
    pub now_s: u64,
}

/// Work for the block thread.
pub enum Block {
    /// Read a sealed block for a tunnel.
    Read(ConnId, u32, Root, Position),
    /// Make or reopen the pack of a fetch.
    Begin(FetchId, Box<Begun>),
    /// Write a block of a fetch.
    Write(FetchId, Root, VerifiedBlock),
    /// Everything came: flush and mark.
    Complete(FetchId, Root),
    /// Keep what a cancelled fetch has.
    Keep(Root),
    /// The object is being removed: let go of it.
    Drop(Root),
    /// Delete an object that is kept for others only.
    Forget(Root),
    /// Keep an object for others from now on, or no longer for them alone.
    Mirror(Root, bool),
}

/// What a thread has done.
pub enum Done {
    /// Records are durable.
    Stored(u64),
    /// A block was read, or cannot be.
    Read(ConnId, u32, Position, Option<Vec<u8>>),
    /// A block of this object turned out to be damaged when it was to be read for a tunnel.
    Damaged(ConnId, u32, Root, Position),
    /// A block of a fetch is written, or its pack is ready.
    Written(FetchId, Result<(), StoreError>),
    /// A fetch's object is complete and marked.
    Complete(FetchId, Result<(), StoreError>),
    /// The journal was written anew, or could not be.
    Compacted(Result<(), StoreError>),
    /// Nothing is written any more, and why.
    ReadOnly(String),
    /// The disk is full: what is to be written waits.
    Full(String),
    /// There is room again, and what waited is written. With true not all could wait: the journal is
    /// to be written anew.
    Room(bool),
}

/// A request channel whose overflow stays with the sender.
struct Lane<T> {
    sender: SyncSender<T>,
    waiting: VecDeque<T>,
}

impl<T> Lane<T> {
    fn push(&mut self, request: T) {
        self.waiting.push_back(request);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(request) = self.waiting.pop_front() {
            match self.sender.try_send(request) {
                Ok(()) => {}
                Err(TrySendError::Full(request) | TrySendError::Disconnected(request)) => {
                    self.waiting.push_front(request);
                    return;
                }
            }
        }
    }
}

/// The driver's side of both threads.
pub struct Storage {
    log: Lane<Log>,
    block: Lane<Block>,
    /// What was done.
    pub done: mpsc::Receiver<Vec<Done>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Storage {
    /// Starts the threads.
    pub fn start(store: Arc<Store>, views: HashMap<FriendKey, ViewLog>) -> std::io::Result<Self> {
        let (done_sender, done) = mpsc::channel(DONE_QUEUE);
        let (log_sender, log_receiver) = sync_channel(QUEUE);
        let (block_sender, block_receiver) = sync_channel(QUEUE);
        let (log_store, log_done) = (store.clone(), done_sender.clone());
        let log = std::thread::Builder::new()
            .name("kith-journal".into())
            .spawn(move || vital(|| log_thread(&log_store, views, &log_receiver, &log_done), end_at_once))?;
        let block = std::thread::Builder::new()
            .name("kith-blocks".into())
            .spawn(move || vital(|| block_thread(&store, &block_receiver, &done_sender), end_at_once))?;
        Ok(Self {
            log: Lane { sender: log_sender, waiting: VecDeque::new() },
            block: Lane { sender: block_sender, waiting: VecDeque::new() },
            done,
            threads: vec![log, block],
        })
    }

    /// Queues work for the journal thread.
    pub fn log(&mut self, request: Log) {
        self.log.push(request);
    }

    /// Queues work for the block thread.
    pub fn block(&mut self, request: Block) {
        self.block.push(request);
    }

    /// Hands over what was kept back. Called whenever something was done.
    pub fn push_on(&mut self) {
        self.log.drain();
        self.block.drain();
    }

    /// Ends both threads after what they were given.
    pub fn stop(mut self) {
        self.push_on();
        let Self { log, mut block, mut done, threads } = self;
        // Nobody waits for answers any more: the threads must not wait for room.
        done.close();
        block.waiting.retain(|request| !matches!(request, Block::Read(..)));
        for request in log.waiting {
            let _ = log.sender.send(request);
        }
        for request in block.waiting {
            let _ = block.sender.send(request);
        }
        drop((log.sender, block.sender));
        // The threads may wait for room: take what they say until they are gone.
        while done.blocking_recv().is_some() {}
        for thread in threads {
            let _ = thread.join();
        }
    }
}

fn block_thread(store: &Store, requests: &Receiver<Block>, done: &mpsc::Sender<Vec<Done>>) {
    let mut packs: HashMap<Root, Arc<Pack>> = HashMap::new();
    let mut flushed_at = Instant::now();
    let mut dirty = false;
    let mut unlooked_bytes = 0;
    loop {
        // What came is marked as present every few seconds, so that a kill costs little.
        if dirty && flushed_at.elapsed() >= FLUSH_EVERY {
            flush_all(&packs);
            (flushed_at, dirty) = (Instant::now(), false);
        }
        let first = match requests.recv_timeout(FLUSH_EVERY) {
            Ok(request) => request,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        let mut answers = Vec::new();
        for request in std::iter::once(first).chain(requests.try_iter()).take(GROUP) {
            dirty |= matches!(request, Block::Begin(..) | Block::Write(..));
            unlooked_bytes += if matches!(request, Block::Write(..)) { BLOCK_LEN as u64 } else { 0 };
            if unlooked_bytes >= LOOK_EVERY_BYTES
                && let Block::Write(fetch, ..) = &request
            {
                unlooked_bytes = 0;
                if let Err(e) = store.keep_floor() {
                    answers.push(Done::Written(*fetch, Err(e)));
                    continue;
                }
            }
            answers.extend(do_block(store, &mut packs, request));
        }
        if !answers.is_empty() {
            let _ = done.blocking_send(answers);
        }
    }
    flush_all(&packs);
}

fn do_block(store: &Store, packs: &mut HashMap<Root, Arc<Pack>>, request: Block) -> Option<Done> {
    match request {
        Block::Read(conn, circ, root, position) => {
            let block = match packs.get(&root) {
                Some(pack) => pack.read(position),
                None => store.pack(&root).and_then(|pack| pack.read(position)),
            };
            Some(match block {
                // The file of a whole object may be lost too.
                Err(StoreError::DamagedBlock(_) | StoreError::Damaged { .. }) => {
                    Done::Damaged(conn, circ, root, position)
                }
                block => Done::Read(conn, circ, position, block.ok()),
            })
        }
        Block::Begin(fetch, begin) => {
            let Begun { object: (cap, read, class), root_block, geometry, now_s } = *begin;
            let result = store
                .begin_fetch_as(class, &cap, read.as_ref(), &root_block, geometry, now_s)
                .and_then(|pack| {
                    let written = pack.write(root_block);
                    packs.insert(cap.root, pack);
                    written
                });
            Some(Done::Written(fetch, result))
        }
        Block::Write(fetch, root, block) => {
            let result = match packs.get(&root) {
                Some(pack) => pack.write(block),
                None => store.pack(&root).and_then(|pack| {
                    let written = pack.write(block);
                    packs.insert(root, pack);
                    written
                }),
            };
            Some(Done::Written(fetch, result))
        }
        Block::Complete(fetch, root) => {
            let flushed = packs.remove(&root).map_or(Ok(()), |pack| pack.flush());
            let result = flushed.and_then(|()| store.mark_complete(&root));
            Some(Done::Complete(fetch, result))
        }
        Block::Drop(root) => {
            packs.remove(&root);
            None
        }
        Block::Forget(root) => {
            packs.remove(&root);
            if store.object(&root).is_some_and(|object| object.class.gives_way()) {
                match store.remove(&root) {
                    Ok(()) | Err(StoreError::NotFound) => {}
                    Err(e) => tracing::warn!("a copy that is not wanted any more could not be removed: {e}"),
                }
            }
            None
        }
        Block::Mirror(root, is_mirror) => {
            match store.set_mirrored(&root, is_mirror) {
                Ok(()) | Err(StoreError::NotFound) => {}
                Err(e) => tracing::warn!("it could not be noted for whom a video is kept: {e}"),
            }
            None
        }
        Block::Keep(root) => {
            if let Some(Err(e)) = packs.remove(&root).map(|pack| pack.flush()) {
                tracing::warn!("a partial video could not be flushed: {e}");
            }
            None
        }
    }
}

fn flush_all(packs: &HashMap<Root, Arc<Pack>>) {
    for pack in packs.values() {
        if let Err(e) = pack.flush() {
            tracing::warn!("a partial video could not be flushed: {e}");
        }
    }
}
