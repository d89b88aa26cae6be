//! The journal thread: appends records and view records durably, in the order in which they came.
//!
//! Invariant: nobody is told that something is durable before it is. What finds no room on a full
//! disk waits here, in order and bounded, and is tried again every few seconds; tickets wait with
//! their records, so new sessions wait while links that stand, reading and relaying go on. A command
//! is told at once that its records wait. What is beyond the bounds is let go: its tickets are never
//! answered, so nothing was promised, and the driver, whose state has it, is asked to write the journal
//! anew once there is room. After any other failure nothing is written any more.
//! What the records mean is the service's matter.

use crate::exit::{Exit, Failure};
use crate::storage::{Done, Log};
use crate::terminal::human_bytes;
use kith_onion::FriendKey;
use kith_store::{Store, StoreError, ViewLog};
use std::collections::{HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroizing;

/// A full disk is tried again after this.
const RETRY_EVERY: Duration = Duration::from_secs(2);
/// Requests and bytes that may wait for room.
const MAX_WAITING: usize = 8192;
const MAX_WAITING_BYTES: usize = 16 << 20;
/// Bytes that are appended at once at most: room may come back little by little.
const CHUNK_BYTES: usize = 1 << 20;

/// Why records are not durable.
#[derive(Debug)]
pub enum Unstored {
    /// The disk is full. They are in effect and wait for room; `done` comes when they are durable.
    Waits {
        /// What the user is told.
        why: Failure,
        /// Answered when they are durable; dropped if they never will be.
        done: oneshot::Receiver<()>,
    },
    /// They never will be.
    Never(Failure),
}

/// How records fared.
pub type Stored = Result<(), Unstored>;

/// Records that belong together, and who waits for them.
struct Records {
    records: Vec<Vec<u8>>,
    ticket: Option<u64>,
    answer: Option<oneshot::Sender<Stored>>,
    /// For somebody who was told that they wait.
    done: Option<oneshot::Sender<()>>,
}

/// What records take while they wait.
fn bytes_of(records: &[Vec<u8>]) -> usize {
    records.iter().map(|record| record.len() + 64).sum()
}

/// A full disk, as it was met last.
struct Full {
    path: PathBuf,
    needed: u64,
    available: u64,
    tried: Instant,
}

impl Full {
    fn error(&self) -> StoreError {
        let Self { path, needed, available, .. } = self;
        StoreError::Full { path: path.clone(), needed: *needed, available: *available }
    }

    /// What a command is told whose records wait.
    fn waits(&self) -> Failure {
        let what = format!(
            "the disk is full ({} needed, {} free): this is in effect and is written down when there is room; \
             if the node ends before, it is forgotten. Make room on the disk, for example with `kith store gc`",
            human_bytes(self.needed),
            human_bytes(self.available)
        );
        Failure::new(Exit::Full, what)
    }
}

struct Journal<'a> {
    store: &'a Store,
    views: HashMap<FriendKey, ViewLog>,
    done: &'a mpsc::Sender<Vec<Done>>,
    records: VecDeque<Records>,
    /// Requests about views, in order.
    others: VecDeque<Log>,
    waiting_bytes: usize,
    full: Option<Full>,
    /// A view log could not be opened for want of descriptors: what is for it waits as well.
    no_descriptors: bool,
    /// Records were let go since the disk is full.
    shed: bool,
    /// Friends whose view logs went for the same reason; they are fetched anew after a restart.
    shed_views: HashSet<FriendKey>,
    /// Why nothing is written any more.
    failed: Option<String>,
}

/// Works until nobody can ask any more.
pub fn log_thread(
    store: &Store,
    views: HashMap<FriendKey, ViewLog>,
    requests: &Receiver<Log>,
    done: &mpsc::Sender<Vec<Done>>,
) {
    let mut journal = Journal {
        store,
        views,
        done,
        records: VecDeque::new(),
        others: VecDeque::new(),
        waiting_bytes: 0,
        full: None,
        no_descriptors: false,
        shed: false,
        shed_views: HashSet::new(),
        failed: None,
    };
    loop {
        let first = match &journal.full {
            None if !journal.no_descriptors => requests.recv().map_err(|_| RecvTimeoutError::Disconnected),
            _ => requests.recv_timeout(RETRY_EVERY),
        };
        match first {
            Ok(first) => journal.take(first, requests),
            Err(RecvTimeoutError::Timeout) => journal.work(),
            Err(RecvTimeoutError::Disconnected) => {
                journal.work(); // what still finds no room was never promised
                return;
            }
        }
    }
}

impl Journal<'_> {
    /// Takes a request with all that wait behind it: one durable write for all records (group commit).
    fn take(&mut self, first: Log, requests: &Receiver<Log>) {
        let mut now = false;
        for request in std::iter::once(first).chain(requests.try_iter()) {
            match request {
                Log::Append(records, ticket) => self.queue(records, ticket, None),
                Log::Durable(records, answer) => self.queue(records, None, Some(answer)),
                Log::Retry => now = true,
                // What comes after it is not in it: it waits for the next round.
                Log::Compact(live) => {
                    let live = Zeroizing::new(live);
                    self.work();
                    self.compact(&live);
                    return;
                }
                Log::Used(root, now_s) if self.full.is_none() => {
                    if let Err(e) = self.store.used(&root, now_s) {
                        tracing::debug!("the use of a video was not written down: {e}");
                    }
                }
                Log::Used(..) => {}
                Log::View(friend, _) if self.shed_views.contains(&friend) => {}
                other => {
                    self.waiting_bytes += other_bytes(&other);
                    self.others.push_back(other);
                }
            }
        }
        if now || self.full.as_ref().is_none_or(|full| full.tried.elapsed() >= RETRY_EVERY) {
            self.work();
        }
        self.tell_waiting();
        if self.is_stuck() {
            // Their askers hear that there is no answer.
            self.others.retain(|r| !matches!(r, Log::CheckView(..) | Log::RewriteView(..)));
            self.keep_bounds();
        }
    }

    /// Whether something waits that could not be written.
    const fn is_stuck(&self) -> bool {
        self.full.is_some() || self.no_descriptors
    }

    fn queue(&mut self, records: Vec<Vec<u8>>, ticket: Option<u64>, answer: Option<oneshot::Sender<Stored>>) {
        self.waiting_bytes += bytes_of(&records);
        self.records.push_back(Records { records, ticket, answer, done: None });
    }

    /// Writes what waits, until the disk is full.
    fn work(&mut self) {
        self.no_descriptors = false;
        let mut wrote = false;
        while !self.records.is_empty() {
            if !self.append() {
                return;
            }
            wrote = true;
        }
        while let Some(request) = self.others.pop_front() {
            let request = match self.answered(request) {
                Some(request) => request,
                None => continue,
            };
            match self.view(&request) {
                Err(e @ StoreError::Full { .. }) => {
                    self.others.push_front(request);
                    self.met_full(e);
                    return;
                }
                Err(StoreError::NoDescriptors { .. }) => {
                    self.others.push_front(request);
                    self.no_descriptors = true;
                    return;
                }
                _ => {}
            }
            self.waiting_bytes = self.waiting_bytes.saturating_sub(other_bytes(&request));
            wrote = true;
        }
        // Where all that waited was let go nothing proves that there is room: the disk is asked.
        let room = |full: &Full| wrote || self.store.free_bytes() >= full.needed;
        if self.full.as_ref().is_some_and(room) {
            self.full = None;
            tracing::warn!("there is room on the disk again: what waited is written");
            let shed = std::mem::take(&mut self.shed);
            self.tell(vec![Done::Room(shed)]);
        }
    }

    /// Appends the first records that wait; false if the disk is full.
    fn append(&mut self) -> bool {
        let (mut count, mut bytes) = (0, 0);
        for entry in &self.records {
            bytes += bytes_of(&entry.records);
            if count > 0 && bytes > CHUNK_BYTES {
                break;
            }
            count += 1;
        }
        // Moved, not copied, and wiped when written: records hold secrets.
        let mut entries: Vec<(Records, usize)> = Vec::with_capacity(count);
        let mut payloads = Zeroizing::new(Vec::new());
        for mut entry in self.records.drain(..count) {
            let len = entry.records.len();
            payloads.append(&mut entry.records);
            entries.push((entry, len));
        }
        let result = match (&self.failed, payloads.is_empty()) {
            (Some(why), _) => Err(why.clone()),
            (None, true) => Ok(()),
            (None, false) => match self.store.append(&payloads) {
                Err(e @ StoreError::Full { .. }) => {
                    for (mut entry, len) in entries.into_iter().rev() {
                        let before = payloads.len() - len;
                        entry.records = payloads.split_off(before);
                        self.records.push_front(entry);
                    }
                    self.met_full(e);
                    return false;
                }
                other => other.map_err(|e| e.to_string()),
            },
        };
        if let Err(why) = &result
            && self.failed.is_none()
        {
            // What waits for these records never goes on: nothing is pretended.
            self.failed = Some(why.clone());
            self.tell(vec![Done::ReadOnly(why.clone())]);
        }
        self.waiting_bytes = self.waiting_bytes.saturating_sub(bytes_of(&payloads));
        let mut tickets = Vec::new();
        for (entry, _) in entries {
            match &result {
                Ok(()) => {
                    tickets.extend(entry.ticket.map(Done::Stored));
                    entry.answer.map(|answer| answer.send(Ok(())));
                    entry.done.map(|done| done.send(()));
                }
                Err(why) => {
                    let never = Unstored::Never(Failure::new(Exit::Failure, why.clone()));
                    entry.answer.map(|answer| answer.send(Err(never)));
                }
            }
        }
        if !tickets.is_empty() {
            self.tell(tickets);
        }
        true
    }

    /// Answers a request about a view log that somebody waits for; any other comes back.
    fn answered(&mut self, request: Log) -> Option<Log> {
        let bytes = other_bytes(&request);
        match request {
            Log::CheckView(friend, answer) => {
                if let Some(view) = self.views.get(&friend) {
                    // Whatever keeps it from being read, it is not whole.
                    let whole = view.verify().unwrap_or(false);
                    let _ = answer.send((view.path().to_owned(), whole));
                }
            }
            Log::RewriteView(friend, records, answer) => {
                let written = self.views.get_mut(&friend).map_or(Ok(()), |view| view.rewrite(&records));
                let _ = answer.send(written.map_err(|e| e.to_string()));
            }
            other => return Some(other),
        }
        self.waiting_bytes = self.waiting_bytes.saturating_sub(bytes);
        None
    }

    fn view(&mut self, request: &Log) -> Result<(), StoreError> {
        let result = match request {
            Log::View(friend, records) => append_view(self.store, &mut self.views, *friend, records),
            Log::DropView(friend) => {
                self.views.remove(friend);
                self.store.remove_view_log(&friend.0)
            }
            _ => Ok(()),
        };
        if let Err(e) = &result
            && !matches!(e, StoreError::Full { .. } | StoreError::NoDescriptors { .. })
        {
            tracing::warn!("a friend's view could not be stored: {e}");
        }
        result
    }

    /// Writes the journal anew; not while records wait, which would be missing in it.
    fn compact(&mut self, live: &[Vec<u8>]) {
        let result = match &self.full {
            Some(full) => Err(full.error()),
            None => self.store.compact(live),
        };
        self.tell(vec![Done::Compacted(result)]);
    }

    fn met_full(&mut self, error: StoreError) {
        let first = self.full.is_none();
        if let StoreError::Full { path, needed, available } = &error {
            let (path, needed, available) = (path.clone(), *needed, *available);
            self.full = Some(Full { path, needed, available, tried: Instant::now() });
        }
        if first {
            tracing::warn!("{error}; what is to be written waits");
            self.tell(vec![Done::Full(error.to_string())]);
        }
        self.tell_waiting();
    }

    /// Tells commands whose records wait that they do.
    fn tell_waiting(&mut self) {
        let Some(full) = &self.full else { return };
        for entry in &mut self.records {
            if let Some(answer) = entry.answer.take() {
                let (sender, done) = oneshot::channel();
                entry.done = Some(sender);
                let _ = answer.send(Err(Unstored::Waits { why: full.waits(), done }));
            }
        }
    }

    fn is_over(&self) -> bool {
        self.records.len() + self.others.len() > MAX_WAITING || self.waiting_bytes > MAX_WAITING_BYTES
    }

    /// Lets go what is beyond the bounds: views first, which can be had again, then the newest records
    /// that no command waits for.
    fn keep_bounds(&mut self) {
        if self.is_over() {
            let views =
                self.others.iter().filter_map(|r| if let Log::View(f, _) = r { Some(*f) } else { None });
            let friends: HashSet<FriendKey> = views.collect();
            // A log with a gap would be worse than none.
            for friend in &friends {
                self.views.remove(friend);
                if let Err(e) = self.store.remove_view_log(&friend.0) {
                    tracing::warn!("a view log could not be removed: {e}");
                }
            }
            self.others.retain(|request| !matches!(request, Log::View(..)));
            self.shed_views.extend(friends);
            self.waiting_bytes = self.records.iter().map(|entry| bytes_of(&entry.records)).sum::<usize>()
                + self.others.iter().map(other_bytes).sum::<usize>();
        }
        while self.is_over() {
            let Some(newest) = self.records.iter().rposition(|e| e.answer.is_none() && e.done.is_none())
            else {
                return; // few commands can wait: later ones are refused
            };
            let entry = self.records.remove(newest);
            self.waiting_bytes -= entry.map_or(0, |entry| bytes_of(&entry.records));
            self.shed = true;
        }
    }

    fn tell(&self, what: Vec<Done>) {
        // Nobody listens any more when the node ends.
        let _ = self.done.blocking_send(what);
    }
}

fn other_bytes(request: &Log) -> usize {
    match request {
        Log::View(_, records) | Log::RewriteView(_, records, _) => bytes_of(records),
        _ => 64,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Storage;
    use kith_crypto::passphrase::Cost;
    use kith_store::backend::{Failing, Fault, Lasting, Memory};
    use kith_store::{Opened, Options, Unlock};
    use std::path::Path;
    use std::sync::Arc;

    struct Node {
        disk: Failing,
        memory: Memory,
        store: Arc<Store>,
        storage: Storage,
    }

    fn options() -> Options<'static> {
        let cost = Cost { memory_kib: 64, passes: 1 };
        Options { dir: Path::new("/store"), unlock: Unlock::KeyFile, cost }
    }

    fn node() -> Node {
        let memory = Memory::default();
        let disk = Failing::over(Arc::new(memory.clone()));
        let store = Arc::new(Store::create_on(Arc::new(disk.clone()), &options()).unwrap().store);
        let storage = Storage::start(store.clone(), HashMap::new()).unwrap();
        Node { disk, memory, store, storage }
    }

    impl Node {
        fn fill(&self) {
            self.disk.fail_at(1, Fault::ShortFull, Lasting::UntilHealed);
        }

        fn append(&mut self, text: &str, ticket: u64) {
            self.storage.log(Log::Append(vec![text.into()], Some(ticket)));
        }

        /// A command's records; how they fared.
        fn durable(&mut self, text: &str) -> Stored {
            let (sender, answer) = oneshot::channel();
            self.storage.log(Log::Durable(vec![text.into()], sender));
            answer.blocking_recv().unwrap()
        }

        /// The next things that were done, until `last`.
        fn until(&mut self, last: impl Fn(&Done) -> bool) -> Vec<Done> {
            let mut all = Vec::new();
            loop {
                let group = self.storage.done.blocking_recv().expect("the thread lives");
                self.storage.push_on();
                let end = group.iter().any(&last);
                all.extend(group);
                if end {
                    return all;
                }
            }
        }

        /// What the journal holds after a restart on a disk that is well.
        fn reopened(self) -> (Vec<String>, Memory) {
            self.storage.stop();
            drop(self.store);
            let Opened { records, damaged_records, torn_bytes, .. } =
                Store::open_on(Arc::new(self.memory.clone()), &options()).unwrap();
            assert_eq!((damaged_records, torn_bytes), (0, 0));
            (records.into_iter().map(|r| String::from_utf8(r).unwrap()).collect(), self.memory)
        }
    }

    fn tickets(done: &[Done]) -> Vec<u64> {
        done.iter().filter_map(|d| if let Done::Stored(t) = d { Some(*t) } else { None }).collect()
    }

    #[test]
    fn what_finds_no_room_waits_in_order_and_goes_on() {
        let mut node = node();
        node.append("one", 1);
        assert_eq!(tickets(&node.until(|d| matches!(d, Done::Stored(1)))), [1]);
        node.fill();
        node.append("two", 2);
        let told = node.until(|d| matches!(d, Done::Full(_)));
        assert!(tickets(&told).is_empty(), "nothing is promised");
        let Err(Unstored::Waits { why, mut done }) = node.durable("three") else { panic!("it waits") };
        assert_eq!(why.exit, Exit::Full);
        assert!(why.what.contains("in effect") && why.what.contains(" free"), "{why}");
        assert!(done.try_recv().is_err(), "not yet");
        node.storage.log(Log::View(FriendKey([7; 32]), vec![b"seen".to_vec()]));
        node.append("four", 4);
        // The journal is not written anew without what waits.
        node.storage.log(Log::Compact(vec![b"live".to_vec()]));
        let told = node.until(|d| matches!(d, Done::Compacted(_)));
        assert!(matches!(told.last(), Some(Done::Compacted(Err(StoreError::Full { .. })))));
        assert!(!node.store.read_only());

        node.disk.heal();
        node.storage.log(Log::Retry);
        let told = node.until(|d| matches!(d, Done::Room(_)));
        assert_eq!(tickets(&told), [2, 4]);
        assert!(done.blocking_recv().is_ok(), "the command's records as well");
        assert!(node.durable("five").is_ok());
        let (records, memory) = node.reopened();
        assert_eq!(records, ["one", "two", "three", "four", "five"]);
        let store = Store::open_on(Arc::new(memory), &options()).unwrap().store;
        assert_eq!(store.view_log(&[7; 32]).unwrap().1, [b"seen"]);
    }

    /// Without being told the thread looks again by itself; there is no event for a disk with room.
    #[test]
    fn room_is_noticed_without_help() {
        let mut node = node();
        node.fill();
        node.append("one", 1);
        node.until(|d| matches!(d, Done::Full(_)));
        node.disk.heal();
        assert_eq!(tickets(&node.until(|d| matches!(d, Done::Room(_)))), [1]);
    }

    #[test]
    fn a_node_that_ends_on_a_full_disk_loses_only_what_was_not_promised() {
        let mut node = node();
        assert!(node.durable("kept").is_ok());
        node.fill();
        assert!(matches!(node.durable("waits"), Err(Unstored::Waits { .. })));
        assert_eq!(node.reopened().0, ["kept"]);
    }

    #[test]
    fn more_than_can_wait_is_let_go_and_told() {
        let mut node = node();
        node.storage.log(Log::View(FriendKey([7; 32]), vec![b"old".to_vec()]));
        assert!(node.durable("one").is_ok());
        node.fill();
        assert!(matches!(node.durable("two"), Err(Unstored::Waits { .. })));
        node.storage.log(Log::View(FriendKey([7; 32]), vec![b"new".to_vec()]));
        let large = vec![b'x'; 500_000];
        let most = MAX_WAITING_BYTES / large.len() + 8;
        for i in 0..most {
            node.storage.log(Log::Append(vec![large.clone()], Some(i as u64)));
        }
        // Later ones find no place, and what waited longest is kept.
        node.until(|d| matches!(d, Done::Full(_)));
        node.storage.log(Log::Compact(Vec::new()));
        node.until(|d| matches!(d, Done::Compacted(Err(_))));
        // All before it were looked at when this one, as large, is answered.
        let last = node.durable(&"x".repeat(500_000));
        let is_kept = matches!(last, Err(Unstored::Waits { .. }));
        assert!(last.is_err());
        node.disk.heal();
        node.storage.log(Log::Retry);
        let told = node.until(|d| matches!(d, Done::Room(_)));
        assert!(matches!(told.last(), Some(Done::Room(true))), "the journal is to be written anew");
        let stored = tickets(&told);
        assert!(stored.len() > 20 && stored.len() < most, "{}", stored.len());
        assert_eq!(stored, (0..stored.len() as u64).collect::<Vec<_>>(), "the first ones, in order");
        assert!(node.durable("three").is_ok());
        let (records, memory) = node.reopened();
        assert_eq!((records[0].as_str(), records[1].as_str()), ("one", "two"));
        assert_eq!(records.len(), stored.len() + 3 + usize::from(is_kept));
        let store = Store::open_on(Arc::new(memory), &options()).unwrap().store;
        assert!(store.view_log(&[7; 32]).unwrap().1.is_empty(), "a view without a gap: it is pulled anew");
    }

    #[test]
    fn a_failed_write_is_never_tried_again() {
        let mut node = node();
        node.disk.fail_at(1, Fault::ShortIo, Lasting::Once);
        let Err(Unstored::Never(why)) = node.durable("lost") else { panic!("it cannot be durable") };
        assert_eq!(why.exit, Exit::Failure);
        node.until(|d| matches!(d, Done::ReadOnly(_)));
        assert!(matches!(node.durable("late"), Err(Unstored::Never(_))));
        assert!(node.store.read_only());
        node.storage.stop();
        drop(node.store);
        let opened = Store::open_on(Arc::new(node.memory), &options()).unwrap();
        assert!(opened.records.is_empty());
    }

    /// A check of the store once hung behind what found no room, and kept every other check out.
    #[test]
    fn a_check_does_not_wait_for_room() {
        let mut node = node();
        node.fill();
        node.append("waits", 1);
        node.until(|d| matches!(d, Done::Full(_)));
        let (sender, answer) = oneshot::channel();
        node.storage.log(Log::CheckView(FriendKey([1; 32]), sender));
        assert!(answer.blocking_recv().is_err(), "there is no answer now");
        node.disk.heal();
        node.storage.log(Log::Retry);
        assert_eq!(tickets(&node.until(|d| matches!(d, Done::Room(_)))), [1]);
        assert_eq!(node.reopened().0, ["waits"]);
    }
}
