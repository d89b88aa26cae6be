//! The Tor client inside this program. The only file that names arti-client and tor-hsservice.
//!
//! Invariant: the onion service's key comes out of the store and stays in memory (arti's ephemeral keystore); what
//! arti writes into its folders are the network's directory, guards and the service's state.

use super::tor::{Dialer, PORT, Service, State, Tell};
use super::{Calling, Came, Stream};
use crate::config::TorConfig;
use crate::doctor::NoAnswer;
use crate::exit::{Exit, Failure};
use crate::tasks::Tasks;
use arti_client::config::onion_service::OnionServiceConfigBuilder;
use arti_client::config::{BoolOrAuto, TorClientConfig, TorClientConfigBuilder};
use arti_client::status::BootstrapStatus;
use arti_client::{ErrorKind, HasKind, IsolationToken, StreamPrefs, TorClient};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use kith_crypto::onion_address::{OnionAddress, OnionSecret};
use kith_onion::handshake::Who;
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tor_cell::relaycell::msg::Connected;
use tor_hscrypto::pk::HsIdKeypair;
use tor_hsservice::status::State as ServiceState;
use tor_hsservice::{RendRequest, RunningOnionService};
use tor_llcrypto::pk::ed25519::{ExpandedKeypair, Keypair};
use tor_proto::client::stream::DataStream;
use tor_proto::stream::IncomingStreamRequest;
use tor_rtcompat::PreferredRuntime;

type Client = Arc<TorClient<PreferredRuntime>>;

/// Callers at once that have not gone away again; more are turned away before they cost anything.
const MAX_CALLERS: usize = 256;
/// Connections of one caller: one that stands and one that takes its place.
const MAX_STREAMS: u32 = 4;
/// A caller without a connection is let go after so long.
const IDLE_CALLER: Duration = Duration::from_secs(60);
/// A start that gets no further for so long has failed, as far as people are concerned.
const STALLED: Duration = Duration::from_secs(120);
/// Starting is tried again after so long, and at most after so long.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// The name of the service in arti's folders.
const NICKNAME: &str = "kith";

struct Arti {
    client: Client,
    /// Each friend has circuits of its own.
    tokens: Mutex<HashMap<Who, IsolationToken>>,
}

pub(super) fn start(
    config: &TorConfig,
    secret: &OnionSecret,
    dir: &Path,
    tasks: &Tasks,
    tell: Tell,
) -> Result<Arc<dyn Dialer>, Failure> {
    // Two of them in one process (the demo) are one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    super::tor::tidy(dir);
    let failed = |e: &dyn std::fmt::Display| {
        Failure::new(Exit::Failure, format!("Tor cannot be started: {e}: see the keys tor.* in config.toml"))
    };
    let built = client_config(config, dir).map_err(|e| failed(&e))?;
    let client = TorClient::builder().config(built).create_unbootstrapped();
    let client = client.map_err(|e| failed(&plain(&e)))?;
    let keypair = Keypair::from_bytes(secret.seed().expose());
    let keypair = HsIdKeypair::from(ExpandedKeypair::from(&keypair));
    let hint = if config.bridges.is_empty() {
        "see whether this machine's network works and its clock is right; where Tor is blocked, name bridges \
         (tor.bridges)"
    } else {
        "see whether this machine's network works and tor.bridges are as they were given out"
    };
    tasks.spawn("tor", run(client.clone(), keypair, tell, hint, tasks.clone()));
    Ok(Arc::new(Arti { client, tokens: Mutex::default() }))
}

/// An error and what is behind it, in a line.
fn plain(e: &(dyn std::error::Error + 'static)) -> String {
    let mut out = e.to_string();
    let mut next = e.source();
    while let Some(inner) = next {
        let text = inner.to_string();
        if !out.contains(&text) {
            out = format!("{out}: {text}");
        }
        next = inner.source();
    }
    crate::terminal::safe(&out).to_string()
}

/// arti's configuration: what the file of another network says, then what this node needs.
fn client_config(config: &TorConfig, dir: &Path) -> Result<TorClientConfig, String> {
    let mut table = match &config.network {
        None => toml::Table::new(),
        Some(path) => std::fs::read_to_string(path)
            .map_err(|e| format!("cannot read tor.network {}: {e}", path.display()))?
            .parse::<toml::Table>()
            .map_err(|e| format!("tor.network {}: {}", path.display(), e.message()))?,
    };
    // As it stands: a plain string could hold variables.
    let literal = |path: &Path| {
        let path = path.to_str().ok_or("the node's folder has a name that is no text")?;
        Ok::<_, &str>(toml::Value::Table(toml::Table::from_iter([("literal".to_owned(), path.into())])))
    };
    let storage = toml::Table::from_iter([
        ("cache_dir".to_owned(), literal(&dir.join("cache"))?),
        ("state_dir".to_owned(), literal(&dir.join("state"))?),
        ("keystore".to_owned(), toml::toml! { primary = { kind = "ephemeral" } }.into()),
    ]);
    table.insert("storage".into(), storage.into());
    if !config.bridges.is_empty() {
        let mut transports: Vec<toml::Value> = Vec::new();
        for (names, path) in &config.transports {
            let transport = toml::Table::from_iter([
                ("protocols".to_owned(), names.clone().into()),
                ("path".to_owned(), literal(Path::new(path))?),
                ("run_on_startup".to_owned(), true.into()),
            ]);
            transports.push(transport.into());
        }
        let bridges = toml::Table::from_iter([
            ("enabled".to_owned(), true.into()),
            ("bridges".to_owned(), config.bridges.clone().into()),
            ("transports".to_owned(), transports.into()),
        ]);
        table.insert("bridges".into(), bridges.into());
    }
    if config.vanguards != "auto" {
        table.insert(
            "vanguards".into(),
            toml::Table::from_iter([("mode".to_owned(), config.vanguards.into())]).into(),
        );
    }
    let builder: TorClientConfigBuilder =
        table.try_into().map_err(|e: toml::de::Error| e.message().to_owned())?;
    builder.build().map_err(|e| plain(&e))
}

/// Brings the client up, launches the service, and tells how both stand.
async fn run(client: Client, keypair: HsIdKeypair, tell: Tell, hint: &'static str, tasks: Tasks) {
    let Tell { state, service, came } = tell;
    let (failed, see_failed) = watch::channel(None);
    tasks.spawn("tor state", tell_state(client.clone(), state, see_failed, hint));
    let mut wait = RETRY.0;
    while let Err(e) = client.bootstrap().await {
        failed.send_replace(Some(plain(&e)));
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY.1);
    }
    failed.send_replace(None);
    service.send_replace(Service::Starting);
    let config = OnionServiceConfigBuilder::default()
        .nickname(match NICKNAME.parse() {
            Ok(name) => name,
            Err(_) => return,
        })
        .max_concurrent_streams_per_circuit(MAX_STREAMS)
        .build();
    let Ok(config) = config else { return };
    // The key is in the client's memory after the first try, whatever became of it.
    let mut keypair = Some(keypair);
    let mut wait = RETRY.0;
    let (running, requests) = loop {
        let config = config.clone();
        let launched = match keypair.take() {
            Some(keypair) => client.launch_onion_service_with_hsid(config, keypair).map(boxed),
            None => client.launch_onion_service(config).map(boxed),
        };
        match launched {
            Ok(Some(launched)) => break launched,
            Ok(None) => return,
            Err(e) => {
                // Friends can be called all the same.
                tracing::warn!("the onion service cannot be started, and is tried again: {}", plain(&e));
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RETRY.1);
            }
        }
    };
    tasks.spawn("onion service", tell_service(running.clone(), service));
    serve(requests, came, &tasks).await;
    drop(running);
}

/// A launched service, whatever its stream of callers is.
fn boxed<S: futures_util::Stream<Item = RendRequest> + Send + 'static>(
    launched: Option<(Arc<RunningOnionService>, S)>,
) -> Option<(Arc<RunningOnionService>, BoxStream<'static, RendRequest>)> {
    launched.map(|(running, requests)| (running, requests.boxed()))
}

async fn tell_state(
    client: Client,
    state: watch::Sender<State>,
    mut failed: watch::Receiver<Option<String>>,
    hint: &str,
) {
    let mut events = client.bootstrap_events();
    let mut status = client.bootstrap_status();
    // The client tries on and on without a word when nobody answers.
    let mut further = (0, Instant::now());
    loop {
        let why = failed.borrow_and_update().clone();
        let mut now = state_of(&status, why);
        if let State::Starting { percent, waits_for } = &now {
            if *percent > further.0 {
                further = (*percent, Instant::now());
            }
            if further.1.elapsed() >= STALLED {
                let minutes = STALLED.as_secs() / 60;
                now = State::Failed(format!(
                    "it got no further than {} % in {minutes} minutes ({waits_for}), and goes on trying: {hint}",
                    further.0
                ));
            }
        } else {
            further = (0, Instant::now());
        }
        state.send_if_modified(|state| std::mem::replace(state, now.clone()) != now);
        tokio::select! {
            next = events.next() => match next {
                Some(next) => status = next,
                None => return,
            },
            // Its teller lives as long as the service: the node is stopping.
            changed = failed.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(further.1 + STALLED), if further.1.elapsed() < STALLED => {}
        }
    }
}

fn state_of(status: &BootstrapStatus, failed: Option<String>) -> State {
    if let Some(why) = failed {
        return State::Failed(why);
    }
    if let Some(blocked) = status.blocked().filter(|_| !status.ready_for_traffic()) {
        return State::Failed(crate::terminal::safe(&blocked.message().to_string()).to_string());
    }
    if status.ready_for_traffic() {
        return State::Ready;
    }
    let percent = (status.as_frac() * 100.0).clamp(0.0, 99.0) as u8;
    let told = status.to_string();
    let waits_for = told.split_once(": ").map_or(told.as_str(), |(_, rest)| rest);
    State::Starting { percent, waits_for: crate::terminal::safe(waits_for).to_string() }
}

async fn tell_service(running: Arc<RunningOnionService>, service: watch::Sender<Service>) {
    let mut events = running.status_events();
    while let Some(status) = events.next().await {
        service.send_modify(|service| *service = service_of(status.state(), *service));
    }
}

/// How the service stands, which stood so before.
const fn service_of(state: ServiceState, before: Service) -> Service {
    match (state, before) {
        (ServiceState::Running | ServiceState::DegradedReachable, _) => Service::Reachable,
        // The client says so at each new directory of the network, and stays so where nothing has to be published again.
        (ServiceState::Bootstrapping, Service::Reachable | Service::Weak) => before,
        (ServiceState::Bootstrapping | ServiceState::Shutdown, _) => Service::Starting,
        (_, _) => Service::Weak,
    }
}

/// Takes callers in: each is a source of its own for the limits on strangers.
async fn serve(
    mut requests: BoxStream<'static, RendRequest>,
    came: tokio::sync::mpsc::Sender<Came>,
    tasks: &Tasks,
) {
    let slots = Arc::new(Semaphore::new(MAX_CALLERS));
    let mut source = 0_u64;
    while let Some(request) = requests.next().await {
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            let _ = request.reject().await;
            continue;
        };
        source += 1;
        let (came, source) = (came.clone(), source);
        tasks.spawn("tor caller", async move {
            let _slot = slot;
            let Ok(mut streams) = request.accept().await else { return };
            // How many of the caller's connections stand, and one for this count itself.
            let open = Arc::new(());
            loop {
                let asked = match tokio::time::timeout(IDLE_CALLER, streams.next()).await {
                    Ok(Some(asked)) => asked,
                    Ok(None) => return,
                    Err(_) if Arc::strong_count(&open) > 1 => continue,
                    // Who has nothing to say holds no place.
                    Err(_) => return,
                };
                let is_ours =
                    matches!(asked.request(), IncomingStreamRequest::Begin(begin) if begin.port() == PORT);
                if !is_ours {
                    let _ = asked.shutdown_circuit();
                    return;
                }
                let Ok(stream) = asked.accept(Connected::new_empty()).await else { continue };
                let stream: Stream = Box::new(Counted { stream, _open: open.clone() });
                if came.send(Came { stream, source }).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// A connection of a caller, which is counted as long as it stands.
struct Counted {
    stream: DataStream,
    _open: Arc<()>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(&mut self.stream), cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.stream), cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.stream), cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(&mut self.stream), cx)
    }
}

impl Dialer for Arti {
    fn knows_whose_side(&self) -> bool {
        true
    }

    fn dial(&self, who: Who, onion: OnionAddress, port: u16) -> Calling {
        let token = {
            let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
            *tokens.entry(who).or_insert_with(IsolationToken::new)
        };
        let client = self.client.clone();
        Box::pin(async move {
            let mut prefs = StreamPrefs::new();
            prefs.connect_to_onion_services(BoolOrAuto::Explicit(true)).set_isolation(token);
            let target = (onion.to_string(), port);
            match client.connect_with_prefs(target, &prefs).await {
                Ok(stream) => Ok(Box::new(stream) as Stream),
                Err(e) => Err(match e.kind() {
                    ErrorKind::BootstrapRequired
                    | ErrorKind::TorAccessFailed
                    | ErrorKind::LocalNetworkError => NoAnswer::TorNotReady,
                    ErrorKind::RemoteConnectionRefused => NoAnswer::Refused,
                    ErrorKind::TorNetworkTimeout
                    | ErrorKind::RemoteNetworkTimeout
                    | ErrorKind::ExitTimeout => NoAnswer::TimedOut,
                    _ => NoAnswer::Unreachable,
                }),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Service, ServiceState, service_of};

    /// Each new directory of the network makes the client say that it starts, though what is published stays.
    #[test]
    fn a_service_that_was_published_stays_so() {
        let told = [
            (ServiceState::Bootstrapping, Service::Starting),
            (ServiceState::Running, Service::Reachable),
            (ServiceState::Bootstrapping, Service::Reachable),
            (ServiceState::DegradedUnreachable, Service::Weak),
            (ServiceState::Bootstrapping, Service::Weak),
            (ServiceState::DegradedReachable, Service::Reachable),
            (ServiceState::Broken, Service::Weak),
            (ServiceState::Shutdown, Service::Starting),
        ];
        let mut stands = Service::Starting;
        for (state, expected) in told {
            stands = service_of(state, stands);
            assert_eq!(stands, expected, "{state:?}");
        }
    }
}
