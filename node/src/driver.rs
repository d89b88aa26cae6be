//! The driver: one task that owns the protocol core and every socket of it, and moves bytes.
//!
//! Each turn looks at what storage has done, what the API asks, who connects, what the clock says
//! and which sockets have bytes or room, in that order, and never waits for one of them while
//! another has work. No lock, no decision of the protocol: those are the core's.

use crate::doctor::{Dial, DialResult, NoAnswer};
use crate::exit::Failure;
use crate::records::Record;
use crate::service::{Command, Service};
use crate::storage::{Block, Done, Log, Storage};
use crate::transport::{Calling, Came, Stream, Transport};
use kith_onion::handshake::Who;
use kith_onion::link::RECORD_LEN;
use kith_onion::{ConnId, Core, Event, FetchEvent, Now, Output};
use kith_store::StoreError;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

/// Bytes read from one socket before the next has its turn.
const READ_LEN: usize = 256 * 1024;
/// Bytes given to one socket in one write.
const WRITE_LEN: usize = 8 * RECORD_LEN;
/// Turns before other tasks have theirs.
const TURNS: usize = 64;
/// Connections taken from a transport before the friends have their turn: strangers come last.
const ACCEPTS: usize = 4;
/// The clocks are looked at this often: a machine that slept shows there.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// The wall clock went so much further than the monotonic one: the machine slept.
const SLEPT_MS: u64 = 30_000;
/// Goodbyes that go through Tor have so long to leave.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// Dials under way at once.
const MAX_DIALS: usize = 32;

/// The node's clocks.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Starts now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// What both clocks say.
    pub fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { at: self.0.elapsed(), unix_ms: unix.as_millis() as u64 }
    }

    fn instant(&self, at: Duration) -> Instant {
        self.0 + at
    }
}

struct Socket {
    stream: Stream,
    /// Bytes that the socket did not take yet.
    unsent: Vec<u8>,
    sent: usize,
    /// Something was written since the last flush was over.
    to_flush: bool,
}

/// A connection that was made, and whether it goes through Tor.
type Made = Result<(Stream, bool), DialResult>;

/// Everything the driver task owns.
pub struct Driver {
    core: Core,
    clock: Clock,
    storage: Storage,
    service: Service,
    commands: mpsc::Receiver<Command>,
    transports: Vec<Box<dyn Transport>>,
    sockets: BTreeMap<ConnId, Socket>,
    dials: JoinSet<(Who, Made)>,
    /// The newest of them to each.
    calls: BTreeMap<Who, AbortHandle>,
    waiting_dials: VecDeque<(Who, Vec<kith_crypto::cert::Address>)>,
    sleep: Pin<Box<tokio::time::Sleep>>,
    read_buf: Vec<u8>,
    write_buf: Vec<u8>,
    stopping: Option<tokio::sync::oneshot::Sender<()>>,
    accept_paused_until: Option<Instant>,
    /// What the clocks said when they were last compared.
    looked: Now,
    /// The socket that was looked at last when a turn began.
    first: ConnId,
}

impl Driver {
    /// Puts the parts together.
    pub fn new(
        core: Core,
        clock: Clock,
        storage: Storage,
        service: Service,
        commands: mpsc::Receiver<Command>,
        transports: Vec<Box<dyn Transport>>,
    ) -> Self {
        Self {
            core,
            clock,
            storage,
            service,
            commands,
            transports,
            sockets: BTreeMap::new(),
            dials: JoinSet::new(),
            calls: BTreeMap::new(),
            waiting_dials: VecDeque::new(),
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
            read_buf: vec![0; READ_LEN],
            write_buf: vec![0; WRITE_LEN],
            stopping: None,
            accept_paused_until: None,
            looked: clock.now(),
            first: 0,
        }
    }

    /// Runs until the API asks to stop; then says goodbye and stores what waits.
    pub async fn run(mut self) {
        std::future::poll_fn(|cx| self.poll(cx)).await;
        self.core.say_goodbye();
        let now = self.clock.now();
        self.service.save_traffic(now, &self.core, &mut self.storage);
        for (id, socket) in &mut self.sockets {
            let used = self.core.transmit(self.clock.now(), *id, &mut self.write_buf);
            let bytes = self.write_buf.get(..used).unwrap_or_default();
            // What is not taken at once is not waited for.
            std::future::poll_fn(|cx| {
                let _ = Pin::new(&mut socket.stream).poll_write(cx, bytes);
                let _ = Pin::new(&mut socket.stream).poll_flush(cx);
                Poll::Ready(())
            })
            .await;
        }
        if self.transports.iter().any(|transport| transport.is_tor()) && !self.sockets.is_empty() {
            // Its client takes a moment to send what it was given.
            tokio::time::sleep(LAST_WORDS).await;
        }
        self.sockets.clear();
        self.dials.shutdown().await;
        let Self { storage, stopping, .. } = self;
        // The threads finish what they have; a blocking task, because they may take a while.
        let _ = tokio::task::spawn_blocking(move || storage.stop()).await;
        if let Some(done) = stopping {
            let _ = done.send(());
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..TURNS {
            let mut busy = self.poll_storage(cx);
            busy |= self.poll_commands(cx);
            if self.stopping.is_some() {
                self.outputs();
                return Poll::Ready(());
            }
            busy |= self.poll_listeners(cx);
            busy |= self.poll_dials(cx);
            busy |= self.poll_sockets(cx);
            busy |= self.poll_timer(cx);
            self.outputs();
            if !busy {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_storage(&mut self, cx: &mut Context<'_>) -> bool {
        let mut busy = false;
        for _ in 0..8 {
            let Poll::Ready(Some(group)) = self.storage.done.poll_recv(cx) else { break };
            busy = true;
            for done in group {
                self.done(done);
                self.outputs();
            }
        }
        self.storage.push_on();
        busy
    }

    fn done(&mut self, done: Done) {
        let now = self.clock.now();
        match done {
            Done::Stored(ticket) => self.core.persisted(now, ticket),
            Done::Read(conn, circ, position, block) => self.core.block_read(now, conn, circ, position, block),
            Done::Damaged(conn, circ, root, position) => {
                self.core.block_read(now, conn, circ, position, None);
                self.service.damaged(now, &mut self.core, root);
            }
            Done::Written(fetch, result) => {
                match result {
                    Ok(()) => self.core.fetch_stored(now, fetch),
                    Err(e) => {
                        let root = self.service.fetch_root(fetch);
                        root.into_iter().for_each(|root| self.storage.block(Block::Keep(root)));
                        self.core.cancel_fetch(now, fetch);
                        // What is here of it is not what was to be written.
                        root.into_iter().for_each(|root| self.core.release(&root));
                        let full = matches!(e, StoreError::Full { .. } | StoreError::NoRoom { .. });
                        let failure = Failure::from(e);
                        let advice = "what came is kept: ask again when there is room";
                        let failure = if full { failure.advise(advice) } else { failure };
                        self.service.fetch_failed(fetch, &failure);
                    }
                }
                self.service.fetch_moved(&self.core, fetch);
            }
            Done::Complete(fetch, result) => {
                self.service.fetch_complete(now, &mut self.core, &mut self.storage, fetch, result);
            }
            Done::Compacted(result) => self.service.compacted(now, result),
            Done::ReadOnly(e) => {
                tracing::error!("{e}");
                self.service.set_read_only(e);
            }
            Done::Full(why) => self.service.set_full(why),
            Done::Room(shed) => self.service.room_again(shed),
        }
    }

    fn poll_commands(&mut self, cx: &mut Context<'_>) -> bool {
        let mut busy = false;
        for _ in 0..32 {
            let Poll::Ready(command) = self.commands.poll_recv(cx) else { break };
            busy = true;
            let now = self.clock.now();
            match command {
                Some(Command::Stop(done)) => {
                    self.stopping = Some(done);
                    break;
                }
                None => {
                    self.stopping = Some(tokio::sync::oneshot::channel().0);
                    break;
                }
                Some(command) => self.service.command(now, &mut self.core, &mut self.storage, command),
            }
            self.outputs();
        }
        busy
    }

    fn poll_listeners(&mut self, cx: &mut Context<'_>) -> bool {
        if self.accept_paused_until.is_some_and(|until| until > Instant::now()) {
            return false;
        }
        let mut busy = false;
        for transport in &mut self.transports {
            for _ in 0..ACCEPTS {
                let Came { stream, source } = match transport.poll_accept(cx) {
                    Poll::Ready(Ok(accepted)) => accepted,
                    Poll::Ready(Err(e)) => {
                        // Out of file descriptors, say: existing links go on, new ones wait a second.
                        tracing::warn!("connections are not accepted for a second: {e}");
                        self.accept_paused_until = Some(Instant::now() + Duration::from_secs(1));
                        break;
                    }
                    Poll::Pending => break,
                };
                busy = true;
                let id = self.core.accepted_through(self.clock.now(), source, transport.is_tor());
                self.sockets.insert(id, Socket::new(stream));
            }
        }
        busy
    }

    fn poll_dials(&mut self, cx: &mut Context<'_>) -> bool {
        let mut busy = false;
        while let Poll::Ready(Some(result)) = self.dials.poll_join_next_with_id(cx) {
            busy = true;
            // What was given up ends so, too.
            let Ok((id, (who, stream))) = result else { continue };
            if self.calls.get(&who).is_none_or(|newest| newest.id() != id) {
                // Another call took its place while it ended.
                continue;
            }
            self.calls.remove(&who);
            let now = self.clock.now();
            let result = match stream {
                Ok((stream, tor)) => {
                    let id = self.core.dialled_through(now, who, tor);
                    self.sockets.insert(id, Socket::new(stream));
                    DialResult::Connected
                }
                Err(result) => {
                    let waits = matches!(&result, DialResult::Failed(tried)
                        if tried.iter().any(|(_, why)| *why == NoAnswer::TorNotReady)
                            && tried.iter().all(|(_, why)| matches!(why, NoAnswer::TorNotReady | NoAnswer::NotUsed)));
                    if waits {
                        self.core.dial_postponed(now, who);
                    } else {
                        self.core.dial_failed(now, who);
                    }
                    result
                }
            };
            self.service.dial_ended(who, Dial { at: now.unix_s(), result });
            self.outputs();
        }
        while self.dials.len() < MAX_DIALS {
            let Some((who, addrs)) = self.waiting_dials.pop_front() else { break };
            busy = true;
            let ways = addrs.iter().flat_map(|addr| ways(&self.transports, who, addr)).collect();
            let call = self.dials.spawn(async move { (who, dial(ways).await) });
            if let Some(older) = self.calls.insert(who, call) {
                older.abort();
            }
        }
        busy
    }

    fn poll_sockets(&mut self, cx: &mut Context<'_>) -> bool {
        let mut busy = false;
        // Each turn begins with the next socket, so that nobody is always first.
        let next = self.first.wrapping_add(1);
        let ids: Vec<ConnId> =
            self.sockets.range(next..).chain(self.sockets.range(..next)).map(|(id, _)| *id).collect();
        self.first = ids.first().copied().unwrap_or(0);
        for id in ids {
            busy |= self.read(cx, id);
            self.outputs();
            busy |= self.write(cx, id);
        }
        busy
    }

    fn read(&mut self, cx: &mut Context<'_>, id: ConnId) -> bool {
        let Some(socket) = self.sockets.get_mut(&id) else { return false };
        // Who makes more work than it may is read again later; the timer says when.
        if !self.core.may_read(self.clock.now(), id) {
            return false;
        }
        let mut buf = ReadBuf::new(&mut self.read_buf);
        match Pin::new(&mut socket.stream).poll_read(cx, &mut buf) {
            Poll::Pending => false,
            Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                self.core.input(self.clock.now(), id, buf.filled());
                true
            }
            // An end or an error: the connection is gone.
            Poll::Ready(_) => {
                self.lost(id);
                true
            }
        }
    }

    fn write(&mut self, cx: &mut Context<'_>, id: ConnId) -> bool {
        let mut busy = false;
        let Some(socket) = self.sockets.get_mut(&id) else { return false };
        loop {
            if socket.unsent.is_empty() {
                let used = if self.core.wants_to_send(id) {
                    self.core.transmit(self.clock.now(), id, &mut self.write_buf)
                } else {
                    0
                };
                let bytes = self.write_buf.get(..used).unwrap_or_default();
                if bytes.is_empty() {
                    break;
                }
                (busy, socket.to_flush) = (true, true);
                let taken = match Pin::new(&mut socket.stream).poll_write(cx, bytes) {
                    Poll::Ready(Ok(taken)) => taken,
                    Poll::Ready(Err(_)) => {
                        self.lost(id);
                        return true;
                    }
                    Poll::Pending => 0,
                };
                socket.unsent.extend_from_slice(bytes.get(taken..).unwrap_or_default());
            } else {
                let rest = socket.unsent.get(socket.sent..).unwrap_or_default();
                match Pin::new(&mut socket.stream).poll_write(cx, rest) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(taken)) if taken > 0 => socket.sent += taken,
                    Poll::Ready(_) => {
                        self.lost(id);
                        return true;
                    }
                }
                if socket.sent >= socket.unsent.len() {
                    socket.unsent.clear();
                    socket.unsent.shrink_to(RECORD_LEN);
                    socket.sent = 0;
                }
                busy = true;
            }
        }
        if socket.to_flush {
            match Pin::new(&mut socket.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => socket.to_flush = false,
                Poll::Ready(Err(_)) => {
                    self.lost(id);
                    return true;
                }
                Poll::Pending => {}
            }
        }
        busy
    }

    fn lost(&mut self, id: ConnId) {
        self.sockets.remove(&id);
        self.core.lost(self.clock.now(), id);
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> bool {
        let now = self.clock.now();
        self.notice_sleep(now);
        let more = self.service.tick(now, &mut self.core, &mut self.storage);
        let next = self.core.poll_timeout().unwrap_or(now.at + Duration::from_secs(60));
        if next <= now.at {
            self.core.timeout(now);
            return true;
        }
        let mut wake = self.clock.instant(next.min(now.at + LOOK_EVERY));
        // Accepting goes on when its pause is over.
        let instant = Instant::now();
        if let Some(until) = self.accept_paused_until.filter(|until| *until > instant) {
            wake = wake.min(until);
        }
        self.sleep.as_mut().reset(wake.into());
        // Polled once for its waker; if it is due already the next turn comes at once.
        self.sleep.as_mut().poll(cx).is_ready() || more
    }

    /// The monotonic clock stands still while the machine sleeps, the wall clock does not.
    fn notice_sleep(&mut self, now: Now) {
        let Now { at, unix_ms } = std::mem::replace(&mut self.looked, now);
        let passed = now.at.saturating_sub(at).as_millis() as u64;
        if now.unix_ms.saturating_sub(unix_ms) > passed + SLEPT_MS {
            tracing::info!("the machine slept, or its clock was set: links are looked after");
            self.core.resumed(now);
        }
    }

    /// Carries out what the core asks for, in order.
    fn outputs(&mut self) {
        while let Some(output) = self.core.poll_output() {
            let now = self.clock.now();
            match output {
                Output::Dial(who, addrs) => self.waiting_dials.push_back((who, addrs)),
                Output::Undial(who) => {
                    let waiting = self.waiting_dials.len();
                    self.waiting_dials.retain(|(waiting, _)| *waiting != who);
                    let call = self.calls.remove(&who).inspect(AbortHandle::abort);
                    if call.is_some() || self.waiting_dials.len() < waiting {
                        self.core.dial_postponed(now, who);
                    }
                }
                Output::Close(id) => {
                    // What was transmitted before stays in the system's buffers and still leaves.
                    self.sockets.remove(&id);
                    self.core.lost(now, id);
                }
                Output::Persist(ticket, changes) => {
                    let records = changes.iter().map(|c| self.service.keep(c, now)).collect();
                    self.storage.log(Log::Append(records, Some(ticket)));
                }
                Output::Keep(change) => {
                    let record = self.service.keep(&change, now);
                    self.storage.log(Log::Append(vec![record], None));
                }
                Output::ViewRecords(friend, records) => {
                    if !records.is_empty() {
                        self.storage.log(Log::View(friend, records));
                    }
                }
                Output::DropView(friend) => {
                    self.storage.log(Log::DropView(friend));
                    let record = Record::ViewDropped(friend);
                    self.storage.log(Log::Append(vec![record.encode()], None));
                    self.service.state_mut().apply(record);
                }
                Output::Read(conn, circ, root, position) => {
                    self.storage.block(Block::Read(conn, circ, root, position));
                }
                Output::Event(Event::Fetch(fetch, event)) => self.fetch_event(now, fetch, event),
                Output::Event(Event::Mirror(friend, event)) => {
                    self.service.mirror_event(now, &mut self.core, &mut self.storage, friend, event);
                }
                Output::Event(Event::Withdrawn(root)) => {
                    self.service.withdrawn(now, &mut self.core, &mut self.storage, root);
                }
                Output::Event(event) => self.service.event(now, event),
            }
        }
    }

    fn fetch_event(&mut self, now: Now, fetch: kith_onion::FetchId, event: FetchEvent) {
        match event {
            FetchEvent::Root(root_block, geometry) => match self.service.begun(fetch) {
                Some((cap, ..)) if !self.service.may_be_so_long(&cap.root, geometry) => {
                    self.core.cancel_fetch(now, fetch);
                    self.service.fetch_unreachable(fetch);
                }
                Some(object) => {
                    let now_s = now.unix_s();
                    let begin = Box::new(crate::storage::Begun { object, root_block, geometry, now_s });
                    self.storage.block(Block::Begin(fetch, begin));
                }
                None => self.core.cancel_fetch(now, fetch),
            },
            FetchEvent::Block(block) => match self.service.fetch_root(fetch) {
                Some(root) => self.storage.block(Block::Write(fetch, root, block)),
                None => self.core.cancel_fetch(now, fetch),
            },
            FetchEvent::Complete => {
                if let Some(root) = self.service.fetch_root(fetch) {
                    self.storage.block(Block::Complete(fetch, root));
                }
            }
            FetchEvent::Session(links) => self.service.fetch_session(&self.core, fetch, links),
            FetchEvent::NoOnion(why) => {
                if let Some(root) = self.service.fetch_root(fetch) {
                    self.storage.block(Block::Keep(root));
                }
                self.service.fetch_no_onion(&self.core, fetch, why);
            }
            FetchEvent::Unreachable => {
                if let Some(root) = self.service.fetch_root(fetch) {
                    self.storage.block(Block::Keep(root));
                }
                self.service.fetch_unreachable(fetch);
            }
        }
    }
}

impl Socket {
    fn new(stream: Stream) -> Self {
        Self { stream, unsent: Vec::new(), sent: 0, to_flush: false }
    }
}

/// The ways to an address, as it is shown: nobody else's transport stands in for a missing one.
fn ways(
    transports: &[Box<dyn Transport>],
    who: Who,
    addr: &kith_crypto::cert::Address,
) -> Vec<(String, Option<(Calling, bool)>)> {
    let calls = transports.iter().filter_map(|t| Some((t.call(who, addr)?, t.is_tor())));
    let calls: Vec<_> = calls.map(|call| (addr.to_string(), Some(call))).collect();
    if calls.is_empty() { vec![(addr.to_string(), None)] } else { calls }
}

/// Tries the ways in turn; what failed is kept for `kith doctor`, never logged.
async fn dial(ways: Vec<(String, Option<(Calling, bool)>)>) -> Made {
    let mut failed = Vec::new();
    for (addr, call) in ways {
        let why = match call {
            None => NoAnswer::NotUsed,
            Some((call, tor)) => match call.await {
                Ok(stream) => return Ok((stream, tor)),
                Err(why) => why,
            },
        };
        failed.push((addr, why));
    }
    Err(DialResult::Failed(failed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::memory::Network;
    use kith_crypto::cert::Address;
    use kith_crypto::onion_address::OnionSecret;
    use kith_onion::InviteId;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    const WHO: Who = Who::Invite(InviteId(1));

    fn addresses() -> [Address; 2] {
        let secret = OnionSecret::generate(&mut kith_crypto::rng::Rng::from_seed([7; 32]));
        [Address::Ip("192.0.2.1:5483".parse().unwrap()), Address::Onion(secret.address(), 5483)]
    }

    async fn call(transports: &[Box<dyn Transport>], addrs: &[Address]) -> Made {
        dial(addrs.iter().flat_map(|addr| ways(transports, WHO, addr)).collect()).await
    }

    #[tokio::test]
    async fn tor_is_what_is_left_when_nothing_else_answers() {
        let (network, addrs) = (Network::default(), addresses());
        let mut theirs = [network.node(&addrs[0], false), network.node(&addrs[1], true)];
        let nowhere = Address::Ip("192.0.2.9:1".parse().unwrap());
        let ours: [Box<dyn Transport>; 2] =
            [Box::new(network.node(&nowhere, false)), Box::new(network.node(&nowhere, true))];
        let (mut stream, tor) = call(&ours, &addrs).await.unwrap();
        assert!(!tor, "the first address answers");
        let came = std::future::poll_fn(|cx| theirs[0].poll_accept(cx)).await.unwrap();
        let mut there = came.stream;
        stream.write_all(b"hello").await.unwrap();
        let mut heard = [0; 5];
        there.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hello");
        network.leave(&addrs[0]);
        assert!(call(&ours, &addrs).await.unwrap().1, "the onion address is left");
        network.leave(&addrs[1]);
        let Err(DialResult::Failed(tried)) = call(&ours, &addrs).await else { panic!("nobody is there") };
        assert_eq!(tried.iter().map(|(_, why)| *why).collect::<Vec<_>>(), [NoAnswer::Refused; 2]);
    }

    #[tokio::test]
    async fn no_transport_stands_in_for_another() {
        let (network, addrs) = (Network::default(), addresses());
        let _theirs = [network.node(&addrs[0], false), network.node(&addrs[1], true)];
        let nowhere = Address::Ip("192.0.2.9:1".parse().unwrap());
        for (tor, unused) in [(true, &addrs[0]), (false, &addrs[1])] {
            let ours: [Box<dyn Transport>; 1] = [Box::new(network.node(&nowhere, tor))];
            let Err(DialResult::Failed(tried)) = call(&ours, std::slice::from_ref(unused)).await else {
                panic!("{unused} was called")
            };
            assert_eq!(tried, [(unused.to_string(), NoAnswer::NotUsed)]);
            assert!(call(&ours, &addrs).await.is_ok());
        }
    }
}
