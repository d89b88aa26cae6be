//! Tor, whoever runs it: the client inside this program, or another program's by its SOCKS5 proxy.
//!
//! Invariant: nothing here ever calls anything but an onion service, and while Tor is not ready calls fail. What
//! Tor itself connects to is the business of its client.

#[cfg(feature = "tor")]
use super::arti::start as built_in;
use super::{Calling, Came, Stream, Transport, socks, tcp};
use crate::config::{Tor as Mode, TorConfig};
use crate::doctor::NoAnswer;
use crate::exit::{Exit, Failure};
use crate::tasks::Tasks;
use kith_crypto::cert::Address;
use kith_crypto::onion_address::{OnionAddress, OnionSecret};
use kith_onion::handshake::Who;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use utoipa::ToSchema;

/// The port of own onion services; a number of its own kind, nothing listens on it anywhere.
pub const PORT: u16 = 5483;
/// Connections that wait for the driver.
const WAITING: usize = 16;

/// How Tor stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// On its way.
    Starting {
        /// How far.
        percent: u8,
        /// What it waits for.
        waits_for: String,
    },
    /// Friends can be called.
    Ready,
    /// It cannot go on by itself, and why; it tries again.
    Failed(String),
}

/// How the own onion service stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Service {
    /// There is none.
    #[default]
    None,
    /// Not yet known to the network.
    Starting,
    /// Friends can call it.
    Reachable,
    /// Known to the network, but not as well as it should be.
    Weak,
    /// Somebody else's Tor keeps it: this node cannot tell.
    Elsewhere,
}

impl Service {
    const fn as_str(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Starting => Some("starting"),
            Self::Reachable => Some("reachable"),
            Self::Weak => Some("weak"),
            Self::Elsewhere => Some("elsewhere"),
        }
    }
}

/// How Tor stands, for people and programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = TorState)]
pub struct View {
    /// `off`, `on` or `only`.
    pub mode: String,
    /// `off`, `starting`, `ready` or `failed`.
    pub state: String,
    /// How far it has started.
    pub percent: Option<u8>,
    /// What it waits for, or why it failed.
    pub why: Option<String>,
    /// This node's address over Tor.
    pub onion: Option<String>,
    /// How the onion service stands: `starting`, `reachable`, `weak` or `elsewhere` (another program keeps it).
    pub service: Option<String>,
    /// `built in`, or the proxy that is used.
    pub by: Option<String>,
    /// Bridges that are configured.
    pub bridges: usize,
}

/// Looks at Tor from anywhere in the node.
#[derive(Clone)]
pub struct Handle {
    mode: Mode,
    state: Option<watch::Receiver<State>>,
    /// When a call last brought nothing, if nothing has come through since.
    stuck: watch::Receiver<Option<Instant>>,
    service: watch::Receiver<Service>,
    onion: Option<Address>,
    by: Option<String>,
    bridges: usize,
}

impl Handle {
    /// Of a node that does not use Tor.
    pub fn off() -> Self {
        let (mode, service) = (Mode::Off, watch::channel(Service::None).1);
        Self { mode, state: None, stuck: watch::channel(None).1, service, onion: None, by: None, bridges: 0 }
    }

    /// The mode.
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Where this node is reached over Tor.
    pub const fn onion(&self) -> Option<&Address> {
        self.onion.as_ref()
    }

    /// How it stands.
    pub fn view(&self) -> View {
        let state = self.state.as_ref().map(|state| state.borrow().clone());
        let state = state.map(|state| match state {
            State::Ready if self.is_stuck() => State::Failed(STUCK.into()),
            other => other,
        });
        let service = match *self.service.borrow() {
            // Nobody comes through a Tor that is away.
            Service::Reachable if state != Some(State::Ready) => Service::Weak,
            other => other,
        };
        let (state, percent, why) = match state {
            None => ("off", None, None),
            Some(State::Ready) => ("ready", Some(100), None),
            Some(State::Starting { percent, waits_for }) => ("starting", Some(percent), Some(waits_for)),
            Some(State::Failed(why)) => ("failed", None, Some(why)),
        };
        View {
            mode: self.mode.as_str().into(),
            state: state.into(),
            percent,
            why,
            onion: self.onion.as_ref().map(ToString::to_string),
            service: service.as_str().map(str::to_owned),
            by: self.by.clone(),
            bridges: self.bridges,
        }
    }

    /// Whether friends can be called.
    pub fn is_ready(&self) -> bool {
        let ready = self.state.as_ref().is_some_and(|state| *state.borrow() == State::Ready);
        ready && !self.is_stuck()
    }

    /// Friends who are away are called again within seconds while calls do not leave, so the word of an old call says
    /// only that there was nobody to call.
    fn is_stuck(&self) -> bool {
        self.stuck.borrow().is_some_and(|at| at.elapsed() < STUCK_FOR)
    }

    /// Waits until something changes; forever, without Tor.
    pub async fn changed(&mut self) {
        let left = self.stuck.borrow().and_then(|at| STUCK_FOR.checked_sub(at.elapsed()));
        let over = async {
            match left {
                Some(left) => tokio::time::sleep(left).await,
                None => std::future::pending().await,
            }
        };
        let Some(state) = &mut self.state else { return std::future::pending().await };
        let changed = tokio::select! {
            changed = state.changed() => changed,
            changed = self.stuck.changed() => changed,
            () = over => Ok(()),
        };
        if changed.is_err() {
            // The node is stopping.
            std::future::pending().await
        }
    }
}

impl View {
    /// In a sentence.
    pub fn told(&self) -> String {
        let why = self.why.as_deref().unwrap_or_default();
        match self.state.as_str() {
            "off" => "Tor is not used".into(),
            "ready" => "Tor is ready".into(),
            "starting" => format!("Tor is starting, {} %: {why}", self.percent.unwrap_or(0)),
            _ => format!("Tor failed: {why}"),
        }
    }
}

/// Removes what the client inside keeps of the onion service: its keys went with the process that made them, and the
/// names of its introduction points would tie this disk to its address.
pub fn tidy(dir: &Path) {
    let _ = std::fs::remove_dir_all(dir.join("state/hss"));
}

/// Calls onion services.
pub(super) trait Dialer: Send + Sync {
    /// Whether an answer that there is no way to a friend shows that Tor itself works.
    fn knows_whose_side(&self) -> bool;

    fn dial(&self, who: Who, onion: OnionAddress, port: u16) -> Calling;
}

/// Where what comes in and how things stand is told.
pub(super) struct Tell {
    pub(super) state: watch::Sender<State>,
    pub(super) service: watch::Sender<Service>,
    #[cfg_attr(
        not(feature = "tor"),
        expect(dead_code, reason = "only the client inside brings callers by itself")
    )]
    pub(super) came: mpsc::Sender<Came>,
}

/// Tor as a way to other nodes.
pub struct Tor {
    dialer: Arc<dyn Dialer>,
    state: watch::Receiver<State>,
    flow: Arc<Flow>,
    incoming: mpsc::Receiver<Came>,
    /// What somebody else's Tor forwards comes here.
    forwarded: Option<tokio::net::TcpListener>,
    next_source: u64,
}

/// Starts Tor as the configuration says.
pub fn start(
    config: &TorConfig,
    secret: &OnionSecret,
    dir: &Path,
    tasks: &Tasks,
) -> Result<(Tor, Handle), Failure> {
    let (state, see_state) =
        watch::channel(State::Starting { percent: 0, waits_for: "the first connection".into() });
    let (service, see_service) = watch::channel(Service::None);
    let (came, incoming) = mpsc::channel(WAITING);
    let (stuck, see_stuck) = watch::channel(None);
    let tell = Tell { state, service, came };
    let mut handle = Handle {
        mode: config.mode,
        state: Some(see_state.clone()),
        stuck: see_stuck,
        service: see_service,
        onion: None,
        by: None,
        bridges: config.bridges.len(),
    };
    let (dialer, forwarded): (Arc<dyn Dialer>, _) = if let Some(proxy) = config.socks {
        if !config.bridges.is_empty() || !config.transports.is_empty() || config.vanguards != "auto" {
            let what = "tor.bridges, tor.transports and tor.vanguards are for the client inside, and tor.socks takes its \
                        place: set them in that other Tor's own configuration";
            return Err(Failure::new(Exit::Usage, what));
        }
        handle.by = Some(format!("the proxy at {proxy}"));
        handle.onion.clone_from(&config.onion);
        let forwarded = match &config.onion {
            Some(_) => {
                tell.service.send_replace(Service::Elsewhere);
                let listener = tcp::bind(config.listen).map_err(|e| {
                    let what = format!(
                        "cannot listen on {} for what Tor forwards ({e}): choose another tor.listen",
                        config.listen
                    );
                    Failure::new(Exit::Failure, what)
                })?;
                Some(listener)
            }
            None => None,
        };
        tasks.spawn("tor proxy", socks::watch(proxy, tell.state));
        (Arc::new(socks::Socks::new(proxy)), forwarded)
    } else {
        check_bridges(config)?;
        handle.by = Some("built in".into());
        handle.onion = Some(Address::Onion(secret.address(), PORT));
        (built_in(config, secret, dir, tasks, tell)?, None)
    };
    let flow = Arc::new(Flow { stuck, heard: Mutex::new(None) });
    Ok((Tor { dialer, state: see_state, flow, incoming, forwarded, next_source: 0 }, handle))
}

/// A bridge that no program here can speak to would be tried for ever.
fn check_bridges(config: &TorConfig) -> Result<(), Failure> {
    let refused = |what| Err(Failure::new(Exit::Usage, what));
    for (names, path) in &config.transports {
        if !Path::new(path).is_file() {
            let names = names.join(" and ");
            return refused(format!(
                "tor.transports: there is no program {path} for {names}: install it, or correct the path"
            ));
        }
    }
    for (n, line) in config.bridges.iter().enumerate() {
        let words = || line.split_whitespace().skip_while(|word| word.eq_ignore_ascii_case("bridge"));
        let Some(first) = words().next() else { continue };
        let is_place = first.parse::<std::net::SocketAddr>().is_ok();
        if !is_place && !config.transports.iter().any(|(names, _)| names.iter().any(|name| name == first)) {
            return refused(format!(
                "tor.bridges: bridge {} needs a program for the transport {first}: name it with tor.transports, such as \
                 {first}=/usr/bin/lyrebird",
                n + 1
            ));
        }
    }
    Ok(())
}

#[cfg(not(feature = "tor"))]
fn built_in(
    _: &TorConfig,
    _: &OnionSecret,
    _: &Path,
    _: &Tasks,
    _: Tell,
) -> Result<Arc<dyn Dialer>, Failure> {
    let what = "this kith was built without Tor: build it with its default features, or name the SOCKS5 proxy of \
                another Tor with tor.socks";
    Err(Failure::new(Exit::Usage, what))
}

impl Transport for Tor {
    fn is_tor(&self) -> bool {
        true
    }

    fn call(&self, who: Who, addr: &Address) -> Option<Calling> {
        let Address::Onion(onion, port) = addr else { return None };
        let (dialer, state, flow) = (self.dialer.clone(), self.state.clone(), self.flow.clone());
        let (onion, port) = (*onion, *port);
        Some(Box::pin(async move {
            if *state.borrow() != State::Ready {
                return Err(NoAnswer::TorNotReady);
            }
            let call = dialer.dial(who, onion, port);
            match tokio::time::timeout(DIAL_TIMEOUT, call).await.unwrap_or(Err(NoAnswer::TimedOut)) {
                Ok(stream) => Ok(flow.listening(stream)),
                Err(NoAnswer::TorNotReady) => Err(flow.is_stuck()),
                // It may be the friend's side, or this one's: then nobody is heard any more.
                Err(NoAnswer::TimedOut) if flow.is_silent() => Err(flow.is_stuck()),
                Err(NoAnswer::Refused) => {
                    flow.moves();
                    Err(NoAnswer::Refused)
                }
                Err(answer) => {
                    if answer == NoAnswer::Unreachable && dialer.knows_whose_side() {
                        flow.moves();
                    }
                    Err(answer)
                }
            }
        }))
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Came>> {
        if let Poll::Ready(Some(came)) = self.incoming.poll_recv(cx) {
            return Poll::Ready(Ok(Came { stream: self.flow.listening(came.stream), ..came }));
        }
        let Some(listener) = &self.forwarded else { return Poll::Pending };
        match listener.poll_accept(cx) {
            Poll::Ready(came) => {
                // All of them come from the proxy: each is a source of its own.
                self.next_source += 1;
                let (stream, _) = came?;
                let stream = self.flow.listening(tcp::ready(stream));
                Poll::Ready(Ok(Came { stream, source: self.next_source }))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Whether anything comes through Tor, beside the client's own word.
struct Flow {
    stuck: watch::Sender<Option<Instant>>,
    /// When something last came.
    heard: Mutex<Option<Instant>>,
}

impl Flow {
    /// Something came.
    fn moves(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        if self.stuck.borrow().is_some() {
            self.stuck.send_replace(None);
        }
    }

    /// Whether something came once, and nothing has for longer than links are silent.
    fn is_silent(&self) -> bool {
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.is_some_and(|at| at.elapsed() >= SILENCE)
    }

    /// Nothing comes.
    fn is_stuck(&self) -> NoAnswer {
        self.stuck.send_replace(Some(Instant::now()));
        NoAnswer::TorNotReady
    }

    /// A connection that has just come about, and what comes on it.
    fn listening(self: &Arc<Self>, stream: Stream) -> Stream {
        self.moves();
        Box::new(Listening { stream, flow: self.clone() })
    }
}

/// A connection, which tells when something comes.
struct Listening {
    stream: Stream,
    flow: Arc<Flow>,
}

impl AsyncRead for Listening {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.flow.moves();
        }
        read
    }
}

impl AsyncWrite for Listening {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// On each link something comes within a minute, and one that is silent for 125 seconds is given up.
const SILENCE: Duration = Duration::from_secs(125);
/// A call that brought nothing says for so long that none can: longer than until the next one has ended.
const STUCK_FOR: Duration = Duration::from_secs(60);
const STUCK: &str = "nothing comes through it: see whether this machine's network works";

/// A friend is called for so long: a circuit there and one from there are built first.
const DIAL_TIMEOUT: Duration = Duration::from_secs(40);

#[cfg(test)]
mod tests {
    use super::*;
    use kith_onion::FriendKey;

    /// A dialer whose calls end as the test says, and never without that.
    struct Scripted(Mutex<Vec<Calling>>, bool);

    impl Dialer for Scripted {
        fn knows_whose_side(&self) -> bool {
            self.1
        }

        fn dial(&self, _: Who, _: OnionAddress, _: u16) -> Calling {
            self.0.lock().unwrap().pop().unwrap_or_else(|| Box::pin(std::future::pending()))
        }
    }

    fn tor(calls: Vec<Calling>, knows: bool) -> (Tor, Handle, mpsc::Sender<Came>) {
        let (state, (stuck, see_stuck)) = (watch::channel(State::Ready).1, watch::channel(None));
        let (came, incoming) = mpsc::channel(1);
        let dialer = Arc::new(Scripted(Mutex::new(calls), knows));
        let flow = Arc::new(Flow { stuck, heard: Mutex::new(None) });
        let handle =
            Handle { mode: Mode::Only, state: Some(state.clone()), stuck: see_stuck, ..Handle::off() };
        (Tor { dialer, state, flow, incoming, forwarded: None, next_source: 0 }, handle, came)
    }

    async fn call(tor: &Tor) -> NoAnswer {
        let onion = OnionSecret::generate(&mut kith_crypto::rng::Rng::from_seed([1; 32])).address();
        let who = Who::Friend(FriendKey([1; 32]));
        tor.call(who, &Address::Onion(onion, PORT)).unwrap().await.err().unwrap()
    }

    fn ends(answer: NoAnswer) -> Calling {
        Box::pin(async move { Err(answer) })
    }

    /// A cable that was pulled: calls end without a word, and no connection brings anything. A friend who does not answer is
    /// another thing, and so is one who never did.
    #[tokio::test(start_paused = true)]
    async fn when_nothing_comes_any_more_tor_is_away() {
        let (mut tor, handle, came) = tor(Vec::new(), true);
        assert_eq!(call(&tor).await, NoAnswer::TimedOut);
        assert!(handle.is_ready());
        let (ours, mut theirs) = tokio::io::duplex(64);
        came.send(Came { stream: Box::new(ours), source: 1 }).await.unwrap();
        let mut linked = std::future::poll_fn(|cx| tor.poll_accept(cx)).await.unwrap().stream;
        tokio::time::advance(SILENCE).await;
        tokio::io::AsyncWriteExt::write_all(&mut theirs, b"alive").await.unwrap();
        tokio::io::AsyncReadExt::read_exact(&mut linked, &mut [0; 5]).await.unwrap();
        assert_eq!(call(&tor).await, NoAnswer::TimedOut);
        assert!(handle.is_ready(), "something came meanwhile");
        tokio::time::advance(SILENCE).await;
        assert_eq!(call(&tor).await, NoAnswer::TorNotReady, "it is tried again soon");
        assert!(!handle.is_ready());
        assert_eq!((handle.view().state.as_str(), handle.view().why.as_deref()), ("failed", Some(STUCK)));
        tokio::io::AsyncWriteExt::write_all(&mut theirs, b"again").await.unwrap();
        tokio::io::AsyncReadExt::read_exact(&mut linked, &mut [0; 5]).await.unwrap();
        assert!(handle.is_ready());
        tokio::time::advance(SILENCE).await;
        assert_eq!(call(&tor).await, NoAnswer::TorNotReady);
        tokio::time::advance(STUCK_FOR).await;
        assert!(handle.is_ready(), "an old call's word");
    }

    #[tokio::test(start_paused = true)]
    async fn only_who_knows_tor_says_that_it_works() {
        for (knows, ready) in [(true, true), (false, false)] {
            // The last one ends first.
            let calls = [NoAnswer::Unreachable, NoAnswer::TorNotReady].map(ends);
            let (tor, handle, _came) = tor(calls.into(), knows);
            assert_eq!(call(&tor).await, NoAnswer::TorNotReady);
            assert_eq!(call(&tor).await, NoAnswer::Unreachable);
            assert_eq!(handle.is_ready(), ready);
        }
    }
}
