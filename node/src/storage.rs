//! Two threads beside the driver: one appends to journal and view logs, one moves blocks. The
//! driver never waits for a disk; it hears what is done through one bounded channel.
//!
//! Invariant: requests of one kind are done in the order in which they were made. When a request
//! channel is full the driver keeps the request itself, so that threads and driver cannot block
//! each other.

use kith_crypto::content::{Geometry, Position, ReadCap, Root, VerifiedBlock};
use kith_onion::{ConnId, FetchId, FriendKey};
use kith_store::{Pack, Store, StoreError, ViewLog};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Requests that may wait at a thread.
const QUEUE: usize = 64;
/// Blocks that came are marked as present at least this often.
const FLUSH_EVERY: Duration = Duration::from_millis(1500);
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
    Durable(Vec<Vec<u8>>, tokio::sync::oneshot::Sender<Result<(), String>>),
    /// Append to a friend's view log.
    View(FriendKey, Vec<Vec<u8>>),
    /// Remove a friend's view log.
    DropView(FriendKey),
    /// Write the journal anew with these records alone: what they leave out is erased.
    Compact(Vec<Vec<u8>>),
}

/// Work for the block thread.
pub enum Block {
    /// Read a sealed block for a tunnel.
    Read(ConnId, u32, Root, Position),
    /// Make or reopen the pack of a fetch.
    Begin(FetchId, Box<(ReadCap, VerifiedBlock, Geometry, u64)>),
    /// Write a block of a fetch.
    Write(FetchId, Root, VerifiedBlock),
    /// Everything came: flush and mark.
    Complete(FetchId, Root),
    /// Keep what a cancelled fetch has.
    Keep(Root),
    /// The object is being removed: let go of it.
    Drop(Root),
}

/// What a thread has done.
pub enum Done {
    /// Records are durable.
    Stored(u64),
    /// A block was read, or cannot be.
    Read(ConnId, u32, Position, Option<Vec<u8>>),
    /// A block of a fetch is written, or its pack is ready.
    Written(FetchId, Result<(), StoreError>),
    /// The object cannot be served from here any more: its pack is gone or damaged.
    Lost(Root),
    /// A fetch's object is complete and marked.
    Complete(FetchId, Result<(), StoreError>),
    /// The journal was written anew, or could not be.
    Compacted(Result<(), StoreError>),
    /// Nothing is written any more.
    ReadOnly(StoreError),
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
            .spawn(move || log_thread(&log_store, views, &log_receiver, &log_done))?;
        let block = std::thread::Builder::new()
            .name("kith-blocks".into())
            .spawn(move || block_thread(&store, &block_receiver, &done_sender))?;
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

fn log_thread(
    store: &Store,
    mut views: HashMap<FriendKey, ViewLog>,
    requests: &Receiver<Log>,
    done: &mpsc::Sender<Vec<Done>>,
) {
    let mut failed = false;
    while let Ok(first) = requests.recv() {
        // One durable write for everything that waits (group commit).
        let mut records = Vec::new();
        let mut tickets = Vec::new();
        let mut waiting = Vec::new();
        let mut others = Vec::new();
        for request in std::iter::once(first).chain(requests.try_iter()) {
            match request {
                // What comes after it is not in it: it waits for the next round.
                Log::Compact(_) => {
                    others.push(request);
                    break;
                }
                Log::Append(more, ticket) => {
                    records.extend(more);
                    tickets.extend(ticket);
                }
                Log::Durable(more, answer) => {
                    records.extend(more);
                    waiting.push(answer);
                }
                other => others.push(other),
            }
        }
        if records.is_empty() {
            waiting.drain(..).for_each(|answer| drop(answer.send(Ok(()))));
        } else {
            let result = store.append(&records);
            for answer in waiting {
                let _ = answer.send(result.as_ref().copied().map_err(ToString::to_string));
            }
            match result {
                Ok(()) if tickets.is_empty() => {}
                Ok(()) => {
                    let _ = done.blocking_send(tickets.into_iter().map(Done::Stored).collect());
                }
                // What waits for these records never goes on: nothing is pretended.
                Err(e) if !std::mem::replace(&mut failed, true) => {
                    let _ = done.blocking_send(vec![Done::ReadOnly(e)]);
                }
                Err(_) => {}
            }
        }
        for request in others {
            match request {
                Log::View(friend, records) => {
                    if let Err(e) = append_view(store, &mut views, friend, &records) {
                        tracing::warn!("a friend's view could not be stored: {e}");
                    }
                }
                Log::DropView(friend) => {
                    views.remove(&friend);
                    if let Err(e) = store.remove_view_log(&friend.0) {
                        tracing::warn!("a view log could not be removed: {e}");
                    }
                }
                Log::Compact(live) => {
                    let _ = done.blocking_send(vec![Done::Compacted(store.compact(&live))]);
                }
                Log::Append(..) | Log::Durable(..) => {}
            }
        }
    }
}

fn append_view(
    store: &Store,
    views: &mut HashMap<FriendKey, ViewLog>,
    friend: FriendKey,
    records: &[Vec<u8>],
) -> Result<(), StoreError> {
    let view = match views.entry(friend) {
        std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
        std::collections::hash_map::Entry::Vacant(entry) => entry.insert(store.view_log(&friend.0)?.0),
    };
    view.append(records)
}

fn block_thread(store: &Store, requests: &Receiver<Block>, done: &mpsc::Sender<Vec<Done>>) {
    let mut packs: HashMap<Root, Arc<Pack>> = HashMap::new();
    let mut flushed_at = Instant::now();
    let mut dirty = false;
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
            let asked = match &request {
                Block::Read(_, _, root, position) => Some((*root, *position)),
                _ => None,
            };
            let answer = do_block(store, &mut packs, request);
            if let (Some((root, position)), Some(Done::Read(.., None))) = (asked, &answer)
                && is_lost(store, &root, position)
            {
                answers.push(Done::Lost(root));
            }
            answers.extend(answer);
        }
        if !answers.is_empty() {
            let _ = done.blocking_send(answers);
        }
    }
    flush_all(&packs);
}

/// Whether an object, of which a block could not be read, is not to be offered any more: without its
/// pack, or without the block that all others are checked by.
fn is_lost(store: &Store, root: &Root, position: Position) -> bool {
    position == Position::Root || matches!(store.pack(root), Err(StoreError::Damaged { .. }))
}

fn do_block(store: &Store, packs: &mut HashMap<Root, Arc<Pack>>, request: Block) -> Option<Done> {
    match request {
        Block::Read(conn, circ, root, position) => {
            let block = match packs.get(&root) {
                Some(pack) => pack.read(position),
                None => store.pack(&root).and_then(|pack| pack.read(position)),
            };
            Some(Done::Read(conn, circ, position, block.ok()))
        }
        Block::Begin(fetch, begin) => {
            let (cap, root_block, geometry, now_s) = *begin;
            let result = store
                .begin_fetch(&cap.verify_cap(), Some(&cap.key), &root_block, geometry, now_s)
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
