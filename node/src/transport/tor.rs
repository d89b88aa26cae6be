//! Tor, whoever runs it: the client inside this program, or another program's by its SOCKS5 proxy.
//!
//! Invariant: nothing here ever calls anything but an onion service, and while Tor is not ready calls fail. What
//! Tor itself connects to is the business of its client.

#[cfg(feature = "tor")]
use super::arti::start as built_in;
use super::{Calling, Came, Transport, socks, tcp};
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
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
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
    /// When a call last did not even leave this machine, if nothing has come through since.
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
    /// What [`Handle::is_ready`] knows from calls, beside the client's own word.
    stuck: Arc<watch::Sender<Option<Instant>>>,
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
    let stuck = Arc::new(stuck);
    Ok((Tor { dialer, state: see_state, stuck, incoming, forwarded, next_source: 0 }, handle))
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
        let (dialer, state, stuck) = (self.dialer.clone(), self.state.clone(), self.stuck.clone());
        let (onion, port) = (*onion, *port);
        Some(Box::pin(async move {
            if *state.borrow() != State::Ready {
                return Err(NoAnswer::TorNotReady);
            }
            let call = dialer.dial(who, onion, port);
            let answer = tokio::time::timeout(DIAL_TIMEOUT, call).await.unwrap_or(Err(NoAnswer::TimedOut));
            let is_stuck = match &answer {
                Err(NoAnswer::TorNotReady) => Some(true),
                // It may be the friend's side, or this one's.
                Err(NoAnswer::TimedOut) => None,
                _ => Some(false),
            };
            match is_stuck {
                Some(true) => drop(stuck.send_replace(Some(Instant::now()))),
                Some(false) => moves(&stuck),
                None => {}
            }
            answer
        }))
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Came>> {
        if let Poll::Ready(Some(came)) = self.incoming.poll_recv(cx) {
            moves(&self.stuck);
            return Poll::Ready(Ok(came));
        }
        let Some(listener) = &self.forwarded else { return Poll::Pending };
        match listener.poll_accept(cx) {
            Poll::Ready(came) => {
                // All of them come from the proxy: each is a source of its own.
                self.next_source += 1;
                moves(&self.stuck);
                let (stream, _) = came?;
                Poll::Ready(Ok(Came { stream: tcp::ready(stream), source: self.next_source }))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Something came through Tor.
fn moves(stuck: &watch::Sender<Option<Instant>>) {
    stuck.send_if_modified(|at| at.take().is_some());
}

/// A call that did not leave says for so long that none can: longer than until the next one has ended.
const STUCK_FOR: Duration = Duration::from_secs(60);
const STUCK: &str = "no relay can be reached: see whether this machine's network works";

/// A friend is called for so long: a circuit there and one from there are built first.
const DIAL_TIMEOUT: Duration = Duration::from_secs(40);
