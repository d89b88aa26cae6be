//! Reading an object's plaintext in order while it may still be arriving: every byte comes from a
//! verified, stored block, and the reader's place tells the fetch what is needed next.

use crate::exit::{Exit, Failure};
use crate::service::{Command, FetchHandle, Purpose, Wanted};
use axum::body::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use kith_crypto::content::{BLOCK_LEN, Head, Position, ReadCap, ReadKeys, Root};
use kith_onion::Route;
use kith_onion::fetch::Place;
use kith_store::{InUse, Store, StoreError};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

static NEXT_READER: AtomicU64 = AtomicU64::new(1);
static READERS: AtomicU64 = AtomicU64::new(0);

/// Readers that live in this process.
pub fn readers() -> u64 {
    READERS.load(Ordering::Relaxed)
}

/// A reader who goes on says where it is so often.
const PLACE_EVERY: Duration = Duration::from_millis(200);
/// Bytes a second that a reader of something of unknown length is expected to go through, at least and at most.
const USUAL_PACE: u64 = Place::unpaced(0).pace;
const MOST_PACE: u64 = 2_500_000;
/// Whatever a film says of its length, it is read at no less than this.
const LEAST_PACE: u64 = 20_000;
/// A player that asks again from here goes on, with what it has in hand. It may have lost what was on its way.
const GOES_ON: Range<u64> = 0..4 << 20;
/// More than this a player is not taken to have in hand: it may have skipped some of it.
const MOST_IN_HAND: Duration = Duration::from_secs(8);

/// How fast an object is played.
fn pace_of(head: &Head) -> Option<u64> {
    let pace = u128::from(head.len) * 1000 / u128::from(head.duration_ms.max(1));
    (head.duration_ms > 0 && head.len > 0).then_some(u64::try_from(pace).unwrap_or(u64::MAX).max(LEAST_PACE))
}

/// Where a reader is: up to which byte it has been given the object, and when the picture gets there if it
/// never stands still, by the object's pace.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: u64,
    due: Instant,
}

impl Mark {
    /// The next bytes were given to the player: the picture comes to them after what it has in hand.
    fn took(&mut self, now: Instant, len: u64, pace: u64) {
        self.due = self.due.max(now) + time_of(len, pace);
        self.at += len;
    }

    fn in_hand(&self, now: Instant) -> Duration {
        self.due.saturating_duration_since(now).min(MOST_IN_HAND)
    }

    /// Where a player is that asks for the bytes from `start` on, by where it was last.
    fn begin(last: Option<Self>, now: Instant, start: u64, pace: u64) -> Self {
        let going_on = last.and_then(|last| {
            let lost = last.at.checked_sub(start).filter(|lost| GOES_ON.contains(lost))?;
            last.due.checked_sub(time_of(lost, pace))
        });
        Self { at: start, due: going_on.unwrap_or(now) }
    }
}

fn time_of(len: u64, pace: u64) -> Duration {
    Duration::from_secs_f64((len as f64 / pace.max(1) as f64).min(1e6))
}

/// How far the player of one address has got; each of its requests goes on from there.
#[derive(Debug, Default)]
pub struct Played(Mutex<Option<(Mark, Option<u64>)>>);

impl Played {
    fn mark(&self, mark: Mark, pace: Option<u64>) {
        if let Ok(mut played) = self.0.lock() {
            *played = Some((mark, pace));
        }
    }

    fn last(&self) -> Option<Mark> {
        self.0.lock().ok()?.map(|(mark, _)| mark)
    }

    /// Which byte the picture has come to, as far as is known.
    pub fn playing_at(&self) -> u64 {
        let Some((mark, pace)) = self.0.lock().ok().and_then(|played| *played) else { return 0 };
        let left = mark.due.saturating_duration_since(Instant::now()).as_secs_f64();
        mark.at.saturating_sub(pace.map_or(0, |pace| (left * pace as f64) as u64))
    }
}

/// One reader of one object.
pub struct Reader {
    store: Arc<Store>,
    cap: ReadCap,
    keys: Arc<ReadKeys>,
    /// The fetch that brings what is missing; shared with other readers.
    fetch: Option<Arc<FetchHandle>>,
    commands: mpsc::Sender<Command>,
    id: u64,
    /// Bytes a second that its player goes through, if the object says how long it is.
    pace: OnceLock<u64>,
    /// Bytes a second that it is seen to take.
    seen: AtomicU64,
    /// Where it is, whatever others of the same address do.
    mark: Mutex<Option<Mark>>,
    /// Where it says that.
    played: Arc<Played>,
    /// What is read does not give way.
    _in_use: InUse,
}

impl Reader {
    /// A reader of a local object, or of one that `fetch` brings.
    pub fn new(
        store: Arc<Store>,
        cap: ReadCap,
        fetch: Option<Arc<FetchHandle>>,
        commands: mpsc::Sender<Command>,
    ) -> Self {
        let keys = Arc::new(ReadKeys::new(&cap.key));
        let id = NEXT_READER.fetch_add(1, Ordering::Relaxed);
        READERS.fetch_add(1, Ordering::Relaxed);
        let in_use = store.begin_use(&cap.root);
        Self {
            store,
            cap,
            keys,
            fetch,
            commands,
            id,
            pace: OnceLock::new(),
            seen: AtomicU64::new(USUAL_PACE),
            mark: Mutex::default(),
            played: Arc::default(),
            _in_use: in_use,
        }
    }

    /// Says there how far it has read.
    pub fn telling(mut self, played: Arc<Played>) -> Self {
        self.played = played;
        self
    }

    /// The object's id, for entity tags.
    pub fn id_hex(&self) -> String {
        self.cap.root.to_hex()
    }

    /// The head block: title, type, true length.
    pub async fn head(&self) -> Result<Head, Failure> {
        let plain = self.block(Position::Head).await?;
        let head = Head::decode(&plain).map_err(|_| {
            Failure::new(Exit::Verification, "the video's description is malformed: its publisher made it so")
        })?;
        if let Some(pace) = pace_of(&head) {
            self.pace.get_or_init(|| pace);
        }
        Ok(head)
    }

    /// A plaintext block, as soon as it is here.
    pub async fn block(&self, position: Position) -> Result<Vec<u8>, Failure> {
        let mut fetch = self.fetch.clone();
        let mut status = fetch.as_ref().map(|f| f.status.clone());
        let mut steered = false;
        let mut mending = false;
        loop {
            let ended = status.as_mut().is_none_or(|s| s.borrow_and_update().end.is_some());
            if let Some(plain) = self.read(position).await? {
                // This reader reads by the first fetch; the one that mended a block is left to others.
                if let Some(fetch) = fetch.filter(|_| mending) {
                    fetch.release_reader(self.id);
                }
                return Ok(plain);
            }
            if ended {
                let end = status.as_ref().and_then(|s| s.borrow().end.clone());
                match end {
                    Some(Err(failure)) => return Err(if mending { unhealed(&failure) } else { failure }),
                    _ if mending => {
                        let what = "a block of this video is damaged here: kith store verify says more";
                        return Err(Failure::new(Exit::Verification, what));
                    }
                    // It was whole once: a damaged block is fetched again like any that is missing.
                    _ => {
                        (mending, steered) = (true, false);
                        fetch = self.fetch_again().await?.map(Arc::new);
                        status = fetch.as_ref().map(|f| f.status.clone());
                        continue;
                    }
                }
            }
            if !std::mem::replace(&mut steered, true) {
                self.steer(fetch.as_deref(), position).await;
            }
            let changed = match &mut status {
                Some(status) => status.changed().await,
                None => Ok(()),
            };
            if changed.is_err() {
                return Err(Failure::new(Exit::Failure, "the node is stopping"));
            }
        }
    }

    async fn read(&self, position: Position) -> Result<Option<Vec<u8>>, Failure> {
        let (store, root, keys) = (self.store.clone(), self.cap.root, self.keys.clone());
        let read = tokio::task::spawn_blocking(move || read_block(&store, &root, &keys, position));
        read.await.unwrap_or_else(|_| Err(Failure::new(Exit::Failure, "reading was interrupted")))
    }

    /// Has the damaged blocks of the object fetched again. `None`: they are back already.
    async fn fetch_again(&self) -> Result<Option<FetchHandle>, Failure> {
        let root = self.cap.root;
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let job = Command::Run(Box::new(move |cx| {
            // What was removed while somebody read it must not come back for that.
            let wanted = if cx.service.store().object(&root).is_none() {
                Err(Failure::new(Exit::NotFound, "the video was removed here meanwhile"))
            } else {
                cx.service.damaged(cx.now, cx.core, root);
                cx.service.want(cx.now, cx.core, &root.to_hex(), Route::Auto, Purpose::Keep)
            };
            drop(sender.send(wanted));
        }));
        let stopping = || Failure::new(Exit::NotRunning, "the node is stopping");
        self.commands.send(job).await.map_err(|_| stopping())?;
        match receiver.await.map_err(|_| stopping())? {
            Ok(Wanted::Local(_)) => Ok(None),
            Ok(Wanted::Fetching(_, handle)) => Ok(Some(handle)),
            Err(failure) => Err(unhealed(&failure)),
        }
    }

    /// Begins to read the data blocks of `range` on another thread, as far as they are here.
    fn read_ahead(&self, range: Range<u64>) -> JoinHandle<Vec<Vec<u8>>> {
        let (store, root, keys) = (self.store.clone(), self.cap.root, self.keys.clone());
        tokio::task::spawn_blocking(move || {
            if range.start.is_multiple_of(WINDOW)
                && let Ok(pack) = store.pack(&root)
            {
                pack.will_read(range.start + WINDOW, WINDOW);
            }
            // The first that is missing or fails ends it: who wants it asks for it alone.
            let blocks = range.map(|i| read_block(&store, &root, &keys, Position::Data(i)));
            blocks.map_while(|block| block.ok().flatten()).collect()
        })
    }

    /// Where the fetch is to take it to be, when that block is what it reads next.
    fn place(&self, block: u64) -> Place {
        let Some(pace) = self.pace.get() else { return Place::new(block, self.seen.load(Ordering::Relaxed)) };
        let in_hand = self.mark().map_or(Duration::ZERO, |mark| mark.in_hand(Instant::now()));
        Place { in_hand, ..Place::new(block, *pace) }
    }

    fn mark(&self) -> Option<Mark> {
        *self.mark.lock().ok()?
    }

    fn set_mark(&self, mark: Mark) {
        self.mark.lock().into_iter().for_each(|mut place| *place = Some(mark));
        self.played.mark(mark, self.pace.get().copied());
    }

    async fn steer(&self, fetch: Option<&FetchHandle>, position: Position) {
        if let (Some(fetch), Position::Data(block)) = (fetch, position) {
            let (fetch, id, place) = (fetch.id, self.id, Some(self.place(block)));
            let job = Command::Run(Box::new(move |cx| cx.core.set_reader(cx.now, fetch, id, place)));
            let _ = self.commands.send(job).await;
        }
    }

    /// The fetch, while it goes on.
    fn under_way(&self) -> Option<&FetchHandle> {
        self.fetch.as_deref().filter(|fetch| fetch.status.borrow().end.is_none())
    }

    /// Sends `start..=end` of the plaintext in order. Ends early when nobody takes it any more.
    pub async fn send(self, start: u64, end: u64, to: mpsc::Sender<Bytes>) -> Result<(), Failure> {
        let past = end / BLOCK_LEN as u64 + 1;
        let mut groups = Groups { next: start / BLOCK_LEN as u64, past, under_way: VecDeque::new() };
        let mut at = start;
        let begun = Instant::now();
        let mut told = None::<Instant>;
        let pace = self.pace.get().copied().unwrap_or(USUAL_PACE);
        let mut mark = Mark::begin(self.played.last(), begun, start, pace);
        self.set_mark(mark);
        while let Some((range, read)) = groups.take(&self) {
            // Where it reads decides what is fetched next, also where everything is here already.
            if let Some(fetch) = self.under_way()
                && told.is_none_or(|at| at.elapsed() >= PLACE_EVERY)
            {
                told = Some(Instant::now());
                // Of unknown length: as fast as it is taken, within what films are like.
                let taken = (at - start) as f64 / begun.elapsed().as_secs_f64().max(1.0);
                self.seen.store((taken as u64).clamp(USUAL_PACE, MOST_PACE), Ordering::Relaxed);
                self.steer(Some(fetch), Position::Data(range.start)).await;
            }
            let mut read = read.await.unwrap_or_default().into_iter();
            for index in range {
                let block = match read.next() {
                    Some(block) => block,
                    None => tokio::select! {
                        block = self.block(Position::Data(index)) => block?,
                        () = to.closed() => return Ok(()),
                    },
                };
                let offset = (at % BLOCK_LEN as u64) as usize;
                let len = (BLOCK_LEN - offset).min((end - at + 1) as usize);
                if to.send(Bytes::from(block).slice(offset..offset + len)).await.is_err() {
                    return Ok(());
                }
                at += len as u64;
                mark.took(Instant::now(), len as u64, pace);
                self.set_mark(mark);
            }
        }
        Ok(())
    }
}

/// Nobody gives a block that this node once had.
fn unhealed(why: &Failure) -> Failure {
    if why.exit == Exit::NotFound {
        return why.clone(); // it was removed meanwhile
    }
    let what =
        format!("a block of this video is damaged here and cannot be fetched again now ({})", why.what);
    Failure::new(Exit::Verification, what)
}

/// Blocks that one thread reads at a time: fewer, and waking it costs as much as they do.
const GROUP: u64 = 4;
/// Groups that are read at the same time, ahead of who takes them.
const AHEAD: usize = 2;

/// Blocks that the disk is told of at a time, a window before they are read.
const WINDOW: u64 = 32;

/// Blocks by index, and the thread that reads them.
type Group = (Range<u64>, JoinHandle<Vec<Vec<u8>>>);

/// What a reader in order has asked for.
struct Groups {
    next: u64,
    past: u64,
    under_way: VecDeque<Group>,
}

impl Groups {
    /// The next group, with those after it under way.
    fn take(&mut self, reader: &Reader) -> Option<Group> {
        while self.under_way.len() <= AHEAD && self.next < self.past {
            let range = self.next..self.past.min((self.next / GROUP + 1) * GROUP);
            self.next = range.end;
            self.under_way.push_back((range.clone(), reader.read_ahead(range)));
        }
        self.under_way.pop_front()
    }
}

/// A plaintext block, if it is here.
fn read_block(
    store: &Store,
    root: &Root,
    keys: &ReadKeys,
    position: Position,
) -> Result<Option<Vec<u8>>, Failure> {
    let pack = match store.pack(root) {
        Ok(pack) => pack,
        Err(StoreError::NotFound) => return Ok(None),
        Err(e) => return Err(Failure::from(e)),
    };
    let mut block = match pack.read(position) {
        Ok(block) => block,
        Err(StoreError::NotFound | StoreError::DamagedBlock(_)) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    keys.open(position, &mut block).map_err(|_| {
        Failure::new(Exit::Verification, "the link's key does not open this video: ask for a new link")
    })?;
    Ok(Some(block))
}

impl Drop for Reader {
    fn drop(&mut self) {
        READERS.fetch_sub(1, Ordering::Relaxed);
        if let Some(fetch) = &self.fetch {
            fetch.release_reader(self.id);
        }
    }
}

/// An HTTP body whose bytes come through a bounded channel. With a length, an early end is an
/// aborted answer, never a short one.
pub struct ChannelBody {
    receiver: mpsc::Receiver<Bytes>,
    left: Option<u64>,
}

impl ChannelBody {
    /// A body of exactly `len` bytes, or of any length.
    pub fn new(len: Option<u64>) -> (mpsc::Sender<Bytes>, Self) {
        let (sender, receiver) = mpsc::channel(4);
        (sender, Self { receiver, left: len })
    }
}

impl Body for ChannelBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let polled = self.receiver.poll_recv(cx);
        if let (Poll::Ready(Some(bytes)), Some(left)) = (&polled, &mut self.left) {
            *left = left.saturating_sub(bytes.len() as u64);
        }
        polled.map(|bytes| bytes.map(|b| Ok(Frame::data(b))))
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// A body that a thread writes: an error ends the answer as one that was cut, so that nobody takes a part
/// for the whole.
pub struct WrittenBody(mpsc::Receiver<std::io::Result<Bytes>>);

impl WrittenBody {
    /// A body, and where its bytes and its error go.
    pub fn new() -> (mpsc::Sender<std::io::Result<Bytes>>, Self) {
        let (sender, receiver) = mpsc::channel(4);
        (sender, Self(receiver))
    }
}

impl Body for WrittenBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: u64 = 100_000;

    #[test]
    fn what_a_player_was_given_it_has_in_hand_until_the_picture_gets_there() {
        let second = Duration::from_secs(1);
        let begun = Instant::now();
        let mut mark = Mark::begin(None, begun, 0, PACE);
        assert_eq!(mark.in_hand(begun), Duration::ZERO);
        mark.took(begun, 3 * PACE, PACE);
        assert_eq!(mark.in_hand(begun + second), 2 * second);
        // It stood still for a second, and goes on with what comes.
        mark.took(begun + 4 * second, PACE, PACE);
        assert_eq!(mark.in_hand(begun + 4 * second), second);
        mark.took(begun + 4 * second, 100 * PACE, PACE);
        assert_eq!(mark.in_hand(begun + 4 * second), MOST_IN_HAND);
    }

    #[test]
    fn who_asks_again_goes_on_and_who_goes_elsewhere_begins() {
        let begun = Instant::now();
        let mut mark = Mark::begin(None, begun, 0, PACE);
        mark.took(begun, 6 * PACE, PACE);
        let in_hand = |start: u64| Mark::begin(Some(mark), begun, start, PACE).in_hand(begun);
        let seconds = [6, 4, 0, 7, 100].map(|at| in_hand(at * PACE).as_secs_f64().round());
        assert_eq!(seconds, [6.0, 4.0, 0.0, 0.0, 0.0]);
    }
}
