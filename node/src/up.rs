//! Starting and stopping a node: store, state, core, sockets, API, and the ready line.

use crate::api::{Api, Facts, Once, Places, Ready, Uploads, entry_of};
use crate::config::{Config, Given, KeySpec, Tor};
use crate::driver::{Clock, Driver};
use crate::exit::{Context, Exit, Failure};
use crate::limits::LiveConfig;
use crate::passphrase::Passphrase;
use crate::paths::Paths;
use crate::privacy;
use crate::records::{Myself, Record, State};
use crate::service::{Command, Service};
use crate::storage::Storage;
use crate::stream::Streams;
use crate::tasks::{Tasks, end_at_once};
use crate::transport::tcp::{Tcp, bind};
use crate::transport::{Transport, tor};
use crate::web::{Sessions, Web};
use kith_crypto::cert::{Address, Certificate, MAX_ADDRS, MAX_NAME_LEN};
use kith_crypto::content::{Geometry, VerifyCap};
use kith_crypto::identity::Identity;
use kith_crypto::onion_address::OnionSecret;
use kith_crypto::passphrase::Cost;
use kith_crypto::rng::Rng;
use kith_crypto::secret::Key;
use kith_crypto::text;
use kith_onion::catalogue::Pace;
use kith_onion::{Core, FriendKey, Limits, Now, Setup};
use kith_store::{ObjectInfo, Opened, Options, Store, StoreError, Unlock, ViewLog};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroizing;

/// Own certificates are valid for two years from each start.
const CERT_LIFETIME_S: u64 = 2 * 365 * 86_400;
/// How often this machine's addresses are looked at.
const ADDRESSES_EVERY: Duration = Duration::from_secs(30);
/// Because Tor is there again all friends are called at most so often.
const CALL_ALL_EVERY: Duration = Duration::from_secs(60);
/// Ports tried after the wished one for the loopback listener.
const WEB_PORTS: u16 = 20;

/// An opened store and what its journal says.
pub struct Home {
    /// The store.
    pub store: Arc<Store>,
    /// The state.
    pub state: State,
    /// Complete objects whose file is there, to be offered. A damaged one is noticed when it is read.
    pub offered: Vec<ObjectInfo>,
    /// Some of the journal could not be read.
    pub damaged: bool,
    /// What its journal held, where that may be written anew.
    history: Option<History>,
}

fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| Failure::new(Exit::Failure, "the system gives no randomness"))?;
    Ok(bytes)
}

/// Seconds since 1970 by this machine's clock.
pub fn unix_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

pub(crate) fn options<'a>(dir: &'a Path, passphrase: Option<&'a [u8]>) -> Options<'a> {
    let unlock = passphrase.map_or(Unlock::KeyFile, Unlock::Passphrase);
    Options { dir, unlock, cost: Cost::RECOMMENDED }
}

/// A name that certificates accept, from what the user or the system says.
pub fn plain_name(wanted: &str) -> Result<String, Failure> {
    // Addresses of requests end in names.
    if text::is_plain_name(wanted, MAX_NAME_LEN) && ![".", ".."].contains(&wanted) {
        return Ok(wanted.to_owned());
    }
    let what = format!(
        "a name has 1 to {MAX_NAME_LEN} bytes, no control characters and no space at its ends: choose another"
    );
    Err(Failure::new(Exit::Usage, what))
}

/// Makes identity and store. Refuses if they exist.
pub fn create(paths: &Paths, name: &str, passphrase: Option<&[u8]>) -> Result<Home, Failure> {
    let name = plain_name(name)?;
    if Store::exists(&paths.store_dir) {
        let what = format!(
            "there is a node in {} already: use it, or choose another --home",
            paths.store_dir.display()
        );
        return Err(Failure::new(Exit::Failure, what));
    }
    let left = crate::backup::aside(&paths.store_dir);
    if left.symlink_metadata().is_ok() {
        eprintln!(
            "kith: {} is left of a restore that was killed, unless one is under way: remove it",
            left.display()
        );
    }
    let Opened { store, .. } = Store::create(&options(&paths.store_dir, passphrase))?;
    let identity = Identity::generate(&mut Rng::from_seed(random()?));
    let me = Myself {
        secrets: identity.secrets(),
        secret: Key::new(random()?),
        name,
        created_s: unix_now(),
        own_keys: 0,
        rotated_s: 0,
        older: Vec::new(),
    };
    let record = Record::Myself(me);
    store.append(&Zeroizing::new([record.encode()])[..])?;
    let mut state = State::default();
    state.apply(record);
    Ok(Home { store: Arc::new(store), state, offered: Vec::new(), damaged: false, history: None })
}

/// Opens store and state.
pub fn open(paths: &Paths, passphrase: Option<&[u8]>) -> Result<Home, Failure> {
    let bar = crate::commands::IndexBar::default();
    let watch = |done, total| bar.show(done, total);
    let opened = Store::open_watched(&options(&paths.store_dir, passphrase), &watch)?;
    drop(bar);
    let mut state = State::default();
    let count = opened.records.len();
    let mut bad = opened.damaged_records;
    let mut erased = false;
    for bytes in opened.records.into_iter().map(Zeroizing::new) {
        match Record::decode(&bytes) {
            Ok(Some(record)) => {
                erased |= record.erases();
                state.apply(record);
            }
            Ok(None) => {}
            Err(_) => bad += 1,
        }
    }
    if bad > 0 {
        eprintln!("kith: {bad} records of the journal are damaged and were skipped: check the disk");
    }
    if opened.migrated {
        eprintln!(
            "kith: the journal was brought to this release's format; the one before is in {} until \
             something is erased",
            paths.store_dir.join("journal/v1").display()
        );
    }
    if state.me.is_none() {
        let what =
            format!("the journal in {} holds no identity: restore a backup", paths.store_dir.display());
        return Err(Failure::new(Exit::Failure, what));
    }
    let objects = match bad {
        0 => opened.objects,
        _ => {
            adopt(&opened.store, &state)?;
            opened.store.objects()
        }
    };
    // Not in the run that migrated the journal: what it was is kept as long.
    let history = (bad == 0 && !opened.migrated).then_some(History { erased, count });
    // A publication whose pack is lost is not offered; `get` brings it back.
    let mut offered = objects;
    offered.retain(|object| object.complete && !opened.lost.contains(&object.root));
    Ok(Home { store: Arc::new(opened.store), state, offered, damaged: bad > 0, history })
}

/// What the journal held when it was opened.
struct History {
    /// Something of it is to be erased.
    erased: bool,
    /// Records.
    count: usize,
}

impl History {
    /// What was removed is erased with the next start: secrets of lost friends and used invites go. What lives is gathered
    /// only if it may be less than what is there.
    fn forget(&self, store: &Store, state: &State) {
        let Self { erased, count } = *self;
        if !erased && count <= 4 * state.publications.len() + 256 {
            return;
        }
        let live = Zeroizing::new(state.live());
        if erased && count > live.len() || count > 4 * live.len() + 256 {
            match store.compact(&live) {
                Ok(()) => {}
                Err(e @ StoreError::Full { .. }) => eprintln!("kith: {e}; old secrets stay until then"),
                // A store that cannot be written can still be read and backed up.
                Err(e) => eprintln!("kith: {e}: old secrets stay until the journal can be written anew"),
            }
        }
    }
}

/// Keeps again what the packs say and the journal lost.
fn adopt(store: &Store, state: &State) -> Result<(), Failure> {
    let claim = |root: &kith_crypto::content::Root| {
        state.publications.get(root).map(|p| (p.cap.key.clone(), p.created_s))
    };
    let adopted = match store.adopt(claim) {
        Err(e @ StoreError::Full { .. }) => {
            eprintln!("kith: {e}: videos whose records were lost are looked for at the next start");
            return Ok(());
        }
        other => other?,
    };
    if !adopted.found.is_empty() {
        let count = adopted.found.len();
        eprintln!("kith: {count} videos whose records were lost are kept again, from their own files");
    }
    Ok(())
}

/// What `kith up` was asked for.
pub struct Request {
    /// Where everything lies.
    pub paths: Paths,
    /// The configuration.
    pub config: Config,
    /// What `--set` and other flags said, which goes before the file also when it is read again.
    pub sets: Vec<String>,
    /// A name given for this start.
    pub name: Option<String>,
    /// The passphrase, if the store has one.
    pub passphrase: Option<Passphrase>,
}

/// A running node, until [`Running::finish`].
pub struct Running {
    /// The ready line.
    pub ready: Ready,
    /// Asks the node to stop.
    pub stop: mpsc::Sender<oneshot::Sender<()>>,
    end: tokio::task::JoinHandle<()>,
}

impl Running {
    /// Waits until the node has stopped.
    pub async fn finish(self) {
        let _ = self.end.await;
    }
}

/// Starts a node.
pub async fn start(request: Request) -> Result<Running, Failure> {
    let Request { paths, config, sets, name, passphrase } = request;
    let uid = rustix::process::getuid().as_raw();
    paths.prepare(uid)?;
    config_file(&paths)?;
    let home = {
        let wished = name.clone().unwrap_or_else(|| config.name.clone());
        let paths = paths.clone();
        let opening = tokio::task::spawn_blocking(move || {
            let passphrase = passphrase.as_ref().map(|p| p.as_slice());
            if Store::exists(&paths.store_dir) {
                open(&paths, passphrase)
            } else {
                create(&paths, &wished, passphrase)
            }
        });
        opening.await.map_err(|_| Failure::new(Exit::Failure, "opening the store failed"))??
    };
    let Home { store, mut state, offered, damaged, history } = home;
    store.set_limits(config.store);
    if let Some(name) = name {
        let name = plain_name(&name)?;
        if state.me.as_ref().is_some_and(|m| m.name != name) {
            let record = Record::Renamed(name);
            store.append(&[record.encode()])?;
            state.apply(record);
        }
    }

    refuse_leaks(&config)?;
    keep_to_tor(&config, &store, &mut state)?;
    let only = config.tor.mode == Tor::Only;
    let (listeners, bound) = if only { (Vec::new(), Vec::new()) } else { listen(&config.listen)? };
    let web = listen_web(config.web)?;
    let web_addr = web.local_addr()?;
    let socket = listen_unix(&paths.socket)?;

    let tasks = Tasks::default();
    let (transports, tor) = transports(&config, &paths, &store, &mut state, listeners, &tasks)?;
    let clock = Clock::start();
    let now = clock.now();
    let addrs = advertised(&config, &bound, tor.onion());
    let (mut core, views) = core(&config, &store, &mut state, offered, &addrs, now)?;
    // Not before all is read: what a later release wrote ends the start, and then nothing was touched.
    if let Some(history) = history {
        history.forget(&store, &state);
    }
    let storage = Storage::start(store.clone(), views)?;
    let (commands, command_receiver) = mpsc::channel(64);
    let streams = Streams::new(store.clone(), commands.clone(), tasks.clone(), web_addr);
    let sessions = Sessions::default();
    let (stop, mut stops) = mpsc::channel::<oneshot::Sender<()>>(4);

    let node = core.me().fingerprint();
    let ready = Ready {
        version: env!("CARGO_PKG_VERSION"),
        node,
        pid: std::process::id(),
        listen: bound.iter().map(ToString::to_string).collect(),
        onion: tor.onion().map(ToString::to_string),
        web: format!("http://{web_addr}/"),
        socket: paths.socket.display().to_string(),
    };
    let facts = Facts {
        started: Instant::now(),
        ready: ready.clone(),
        paths: paths_json(&paths),
        invite_expires: config.invite_expires,
        reach_note: reach_note(core.certificate().map_or(&[], |c| &c.addrs), &bound),
        tor: tor.clone(),
    };
    let settings = LiveConfig::new(paths.config_file.clone(), sets, &config);
    let api = Api {
        commands: commands.clone(),
        store: store.clone(),
        streams: streams.clone(),
        sessions: sessions.clone(),
        uploads: Uploads::default(),
        watched: crate::api::folders::Watched::default(),
        places: Places::default(),
        once: Once::default(),
        tasks: tasks.clone(),
        facts: Arc::new(facts),
        settings: settings.clone(),
        stop: stop.clone(),
    };
    tasks.spawn("limits", settings.run(commands.clone()));
    let page = Web { api: api.clone(), streams, sessions, addr: web_addr };
    tasks.spawn("folders", crate::api::folders::run(api.clone()));
    tasks.spawn("api", serve_unix(socket, api.owners_router()));
    // Looking at the interfaces is no business of a node that is nowhere but behind Tor.
    if !only {
        let onion = tor.onion().cloned();
        tasks.spawn("addresses", watch_addresses(config.clone(), bound.clone(), onion, commands.clone()));
    }
    if tor.mode() != Tor::Off {
        tasks.spawn("tor ready", watch_tor(tor, commands.clone()));
    }
    if let Some(every) = config.store_scrub {
        tasks.spawn("scrub", crate::scrub::run(store.clone(), commands.clone(), every));
    }
    tasks.spawn("page", serve_tcp(web, page.router(), tasks.clone()));
    // Search is filled by the driver's turns, or by whoever searches first.
    let mut service = Service::new(state, store, damaged);
    service.allow_restored(now, &mut core);
    service.set_mirrors(config.mirror);
    service.resume_mirrors(now, &mut core);
    let driver = Driver::new(core, clock, storage, service, command_receiver, transports);
    let driving = tokio::spawn(driver.run());
    let socket_path = paths.socket.clone();
    let tor_dir = paths.state_dir.join("tor");
    let end = tokio::spawn(async move {
        let mut driving = driving;
        let asked = tokio::select! {
            asked = stops.recv() => asked,
            // The driver ends by itself only when it failed: the process must not live on without it.
            _ = &mut driving => return end_at_once(),
        };
        // What was asked last still gets its answer.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let (done, stopped) = oneshot::channel();
        let _ = commands.send(Command::Stop(done)).await;
        drop(commands);
        let _ = stopped.await;
        let _ = driving.await;
        // While the API's tasks still hold the store and its lock: later, the socket may be that of
        // the node that was started next.
        let _ = std::fs::remove_file(socket_path);
        tasks.shutdown().await;
        tor::tidy(&tor_dir);
        if let Some(asked) = asked {
            let _ = asked.send(());
        }
    });
    Ok(Running { ready, stop, end })
}

fn config_file(paths: &Paths) -> Result<(), Failure> {
    Config::write_default(&paths.config_file).map(drop).map_err(Failure::from)
}

/// What `kith paths` shows.
pub fn paths_json(paths: &Paths) -> Value {
    paths
        .listed()
        .into_iter()
        .map(|(name, path)| (name.to_owned(), json!(path.display().to_string())))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

// The core.

fn core(
    config: &Config,
    store: &Arc<Store>,
    state: &mut State,
    offered: Vec<ObjectInfo>,
    addrs: &[Address],
    now: Now,
) -> Result<(Core, HashMap<FriendKey, ViewLog>), Failure> {
    let me = state.me.as_ref().ok_or_else(|| Failure::new(Exit::Failure, "this node has no identity"))?;
    let identity = me.identity();
    let (cert, hidden) = own_certificates(me, addrs, now)?;
    let setup = Setup {
        identity,
        pace: Pace { batch: config.catalogue_batch, spread: config.catalogue_spread },
        limits: Limits { half_open: config.link_half_open, ..Limits::default() },
        secret: me.secret.clone(),
        seed: random()?,
    };
    let mut core = Core::new(setup);
    core.set_budgets(privacy::budgets(config.circuit_share));
    core.set_circuits(now, config.circuits);
    core.set_privacy(now, config.privacy);
    core.set_own_keys(me.own_keys, me.older_identities());
    core.set_certificates(now, cert, hidden);
    if config.tor.mode == Tor::Only {
        core.set_all_tor_only();
    }
    state.tor_only.iter().for_each(|who| core.set_tor_only(now, *who, true));
    let friends: Vec<FriendKey> = state.friends.keys().chain(&state.gone).copied().collect();
    for (key, friend) in &state.friends {
        let settings = state.settings_of(*key);
        if settings.blocked {
            core.set_refused(*key, true);
        } else {
            core.add_friend(now, friend.record.clone());
        }
        core.set_friend_rates(now, *key, settings.up, settings.down);
    }
    privacy::tell_trust(now, &mut core, state);
    if state.routes.as_ref().is_some_and(|routes| !core.restore_routes(now, routes)) {
        tracing::warn!("the kept routes of circuits cannot be read: new ones are drawn");
    }
    for (id, circle) in &state.circles {
        core.set_circle(now, *id, circle.members.clone());
    }
    for publication in state.publications.values() {
        match publication.audience {
            Some(audience) => core.publish(now, entry_of(publication), audience, false),
            None => core.note_published(publication.cap.root),
        }
    }
    let keys: Vec<[u8; 32]> = friends.iter().map(|friend| friend.0).collect();
    if let Err(e) = store.keep_view_logs_of(&keys) {
        tracing::warn!("the view log of a removed friend is still there: {e}");
    }
    let views = restore_views(&mut core, store, &friends, now)?;
    for invite in state.given.values().filter(|i| u64::from(i.expires) > now.unix_s()) {
        core.give_invite(invite.clone());
    }
    for (id, invite) in state.taken.iter().filter(|(_, i)| u64::from(i.expires) > now.unix_s()) {
        core.take_invite(now, *id, invite.clone());
    }
    for object in offered {
        if let Some(geometry) = Geometry::of(object.data_count) {
            core.hold(now, VerifyCap { root: object.root, tree: object.tree }, geometry);
        }
    }
    for (key, (given, taken, at_s)) in &state.credit {
        // Both halve in a week, also while the node is off.
        let weeks = now.unix_s().saturating_sub(*at_s) as f64 / (7.0 * 86_400.0);
        let left = |bytes: u64| (bytes as f64 * (-weeks).exp2()) as u64;
        core.set_credit(now, *key, left(*given), left(*taken));
    }
    // What was damaged when the node stopped is not offered before it is healed.
    state.damaged.keys().for_each(|root| core.release(root));
    Ok((core, views))
}

/// Replays the view logs in this order. One thread reads and opens them while this one takes in
/// what stands in the one before.
fn restore_views(
    core: &mut Core,
    store: &Arc<Store>,
    friends: &[FriendKey],
    now: Now,
) -> Result<HashMap<FriendKey, ViewLog>, Failure> {
    let mut views = HashMap::with_capacity(friends.len());
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for key in friends {
                // Nobody takes it when another log could not be opened.
                let _ = sender.send((*key, store.view_log(&key.0)));
            }
        });
        for (key, opened) in receiver {
            let (mut view, records) = match opened {
                // One that is not there yet is made when there is room.
                Err(StoreError::Full { .. }) => continue,
                other => other?,
            };
            let damaged = records.iter().filter(|r| !core.restore_view(now, key, r)).count();
            if damaged > 0 {
                tracing::warn!("{damaged} records of a friend's view were damaged and skipped");
            }
            if view.damaged_records() > 0 || damaged > 0 {
                tracing::warn!("a friend's view lost records on disk: it is asked for from the beginning");
                core.pull_view_anew(key);
            }
            let live = core.view_snapshot_len(key);
            if live > 0 && records.len() > 2 * live + 64 {
                match view.rewrite(&core.view_snapshot(key)) {
                    Err(StoreError::Full { .. }) => {} // the long one is as good
                    other => other?,
                }
            }
            views.insert(key, view);
        }
        Ok(views)
    })
}

/// The own certificate as it is now, and the same with onion addresses alone.
pub fn own_certificates(
    me: &Myself,
    addrs: &[Address],
    now: Now,
) -> Result<(Certificate, Certificate), Failure> {
    let seconds = |s: u64| u32::try_from(s).unwrap_or(u32::MAX);
    let (created, expires) = (seconds(now.unix_s()), seconds(now.unix_s() + CERT_LIFETIME_S));
    let identity = me.identity();
    let sign = |addrs: &[Address]| {
        Certificate::sign(&identity, &me.name, addrs, created, expires)
            .ok_or_else(|| Failure::new(Exit::Failure, "the node's name cannot be in a certificate"))
    };
    let onion: Vec<Address> = addrs.iter().filter(|addr| addr.is_onion()).cloned().collect();
    Ok((sign(addrs)?, sign(&onion)?))
}

/// Makes the own certificates anew, after a change of name or keys.
pub fn renew_certificates(cx: &mut crate::service::Context<'_>, addrs: &[Address]) -> Result<(), Failure> {
    let me = cx.service.state().me.as_ref();
    let me = me.ok_or_else(|| Failure::new(Exit::Failure, "this node has no identity"))?;
    let (cert, hidden) = own_certificates(me, addrs, cx.now)?;
    cx.core.set_certificates(cx.now, cert, hidden);
    Ok(())
}

/// With nothing but Tor, nothing may be asked for that would show where this node is.
fn refuse_leaks(config: &Config) -> Result<(), Failure> {
    if config.tor.mode != Tor::Only {
        return Ok(());
    }
    let refused = |what: &str| Err(Failure::new(Exit::Usage, what));
    if !config.listen.is_empty() && !config.listens_by_default() {
        return refused(
            "with nothing but Tor there is no other place where friends connect: leave out --listen (the key \
             listen), or use --tor on",
        );
    }
    if config.tor.socks.is_some_and(|proxy| !proxy.ip().is_loopback()) {
        return refused(
            "with nothing but Tor the proxy must be on this machine: what goes to another is not encrypted, and says \
             which onion addresses are called (the key tor.socks)",
        );
    }
    if config.advertise.iter().any(|addr| !addr.is_onion()) {
        return refused(
            "with nothing but Tor no invite may say where this node is: leave out --advertise (the key \
             advertise), or use --tor on",
        );
    }
    Ok(())
}

/// The same for what is set in the file of a node that uses nothing but Tor: it is refused there, and not at the next start
/// alone. What else the file has is not these keys' fault.
pub fn refuse_leaking(changes: &[(&'static KeySpec, Given)]) -> Result<(), Failure> {
    // What is wrong with a value is told when it is written.
    let Ok(mut alone) = Config::of(changes) else { return Ok(()) };
    if alone.tor.is_chosen && alone.tor.mode != Tor::Only {
        return Ok(());
    }
    alone.tor.mode = Tor::Only;
    refuse_leaks(&alone)
}

/// A node that used nothing but Tor goes on so until somebody says that it shall not: a flag that was forgotten, a
/// service or a restored backup must not show friends where it is.
fn keep_to_tor(config: &Config, store: &Store, state: &mut State) -> Result<(), Failure> {
    let only = config.tor.mode == Tor::Only;
    if state.nothing_but_tor == only {
        return Ok(());
    }
    if !only && !config.tor.is_chosen {
        return Err(Failure::new(
            Exit::Usage,
            "this node was last started with nothing but Tor, and would now show friends where it is: start it with \
             --tor only (kith config set tor.mode only keeps that), or choose --tor on or --tor off",
        ));
    }
    if !only {
        tracing::warn!(
            "this node used nothing but Tor until now: friends learn this machine's address, but those set with kith \
             friend tor NAME only"
        );
    }
    let record = Record::NothingButTor(only);
    store.append(&[record.encode()])?;
    state.apply(record);
    Ok(())
}

/// The ways to other nodes, as the configuration wants them.
fn transports(
    config: &Config,
    paths: &Paths,
    store: &Store,
    state: &mut State,
    listeners: Vec<TcpListener>,
    tasks: &Tasks,
) -> Result<(Vec<Box<dyn Transport>>, tor::Handle), Failure> {
    let mut transports: Vec<Box<dyn Transport>> = Vec::new();
    if config.tor.mode != Tor::Only {
        transports.push(Box::new(Tcp::new(listeners)));
    }
    if config.tor.mode == Tor::Off {
        return Ok((transports, tor::Handle::off()));
    }
    let secret = match &state.onion {
        Some(secret) => secret.clone(),
        None => {
            let secret = OnionSecret::generate(&mut Rng::from_seed(random()?));
            let record = Record::Onion(secret.clone());
            store.append(&Zeroizing::new([record.encode()])[..])?;
            state.apply(record);
            secret
        }
    };
    let (transport, handle) = tor::start(&config.tor, &secret, &paths.state_dir.join("tor"), tasks)?;
    transports.push(Box::new(transport));
    Ok((transports, handle))
}

/// While Tor is away, what can be fetched in no other way waits; when it is there again, friends are called at once.
async fn watch_tor(mut tor: tor::Handle, commands: mpsc::Sender<Command>) {
    let (mut was, mut waits) = (true, false);
    let mut called = None::<Instant>;
    loop {
        let ready = tor.is_ready();
        waits = ready && (waits || !was);
        // One that comes and goes by the second must not make all friends be called by the second: a minute later.
        let left = called.map_or(Duration::ZERO, |at| CALL_ALL_EVERY.saturating_sub(at.elapsed()));
        let calls = waits && left.is_zero();
        if calls {
            (called, waits) = (Some(Instant::now()), false);
        }
        let job = move |cx: &mut crate::service::Context<'_>| {
            cx.core.set_away(!ready);
            if calls {
                cx.core.resumed(cx.now);
            }
        };
        if commands.send(Command::Run(Box::new(job))).await.is_err() {
            return;
        }
        was = ready;
        tokio::select! {
            () = tor.changed() => {}
            () = tokio::time::sleep(left), if waits => {}
        }
    }
}

/// Looks at this machine's addresses now and then: friends are told of new ones, and links prove that
/// they are still alive.
async fn watch_addresses(
    config: Config,
    bound: Vec<SocketAddr>,
    onion: Option<Address>,
    commands: mpsc::Sender<Command>,
) {
    let mut known = advertised(&config, &bound, onion.as_ref());
    loop {
        tokio::time::sleep(ADDRESSES_EVERY).await;
        let addrs = advertised(&config, &bound, onion.as_ref());
        // None: the network is away for a moment, and nothing better is known.
        if addrs == known || addrs.is_empty() {
            continue;
        }
        known.clone_from(&addrs);
        let job = move |cx: &mut crate::service::Context<'_>| {
            if renew_certificates(cx, &addrs).is_ok() {
                cx.core.resumed(cx.now);
                tracing::info!("this machine's addresses changed: friends are told");
            }
        };
        if commands.send(Command::Run(Box::new(job))).await.is_err() {
            return;
        }
    }
}

/// What goes into certificates: the configured addresses, else those of the interfaces; and the onion service.
fn advertised(config: &Config, bound: &[SocketAddr], onion: Option<&Address>) -> Vec<Address> {
    let mut addrs = match config.tor.mode {
        Tor::Only => Vec::new(),
        _ if !config.advertise.is_empty() => config.advertise.clone(),
        _ => reachable(bound),
    };
    if let Some(onion) = onion.filter(|onion| !addrs.contains(onion)) {
        addrs.truncate(MAX_ADDRS - 1);
        addrs.push(onion.clone());
    }
    addrs
}

/// Where the listeners can be reached, by the interfaces of this machine.
fn reachable(bound: &[SocketAddr]) -> Vec<Address> {
    let interfaces: Vec<IpAddr> =
        if_addrs::get_if_addrs().unwrap_or_default().into_iter().map(|i| i.ip()).collect();
    let mut addrs = Vec::new();
    for listener in bound {
        if !listener.ip().is_unspecified() {
            addrs.push(Address::Ip(*listener));
            continue;
        }
        let same_family = |ip: &&IpAddr| ip.is_ipv4() == listener.is_ipv4();
        let usable = |ip: &&IpAddr| match ip {
            IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
            IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
        };
        let found = interfaces.iter().filter(same_family).filter(usable);
        addrs.extend(found.map(|ip| Address::Ip(SocketAddr::new(*ip, listener.port()))));
    }
    if addrs.is_empty()
        && let Some(listener) = bound.first()
    {
        addrs.push(Address::Ip(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), listener.port())));
    }
    addrs.truncate(MAX_ADDRS);
    addrs
}

/// What an inviter must know when nobody outside can dial the advertised addresses.
fn reach_note(addrs: &[Address], bound: &[SocketAddr]) -> Option<String> {
    let is_local = |addr: &Address| match addr {
        Address::Ip(addr) => match addr.ip() {
            IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
        },
        _ => false,
    };
    let port = bound.first()?.port();
    addrs.iter().all(is_local).then(|| {
        format!(
            "this invite names addresses of your own machine or network only: for friends elsewhere forward \
             TCP port {port} in your router and start with --advertise YOUR-PUBLIC-ADDRESS:{port}"
        )
    })
}

// Sockets.

fn listen(wished: &[SocketAddr]) -> Result<(Vec<TcpListener>, Vec<SocketAddr>), Failure> {
    let (mut listeners, mut bound) = (Vec::new(), Vec::new());
    let mut problem = None;
    for addr in wished {
        match bind(*addr) {
            Ok(listener) => {
                bound.push(listener.local_addr()?);
                listeners.push(listener);
            }
            Err(e) => {
                let taken = e.kind() == std::io::ErrorKind::AddrInUse;
                let advice = if taken {
                    "another program uses it: choose another with --listen"
                } else {
                    "choose another with --listen"
                };
                let what = format!("cannot listen on {addr} ({e}): {advice}");
                // A machine without IPv6 is no reason to stop.
                if taken || wished.len() == 1 {
                    return Err(Failure::new(Exit::Failure, what));
                }
                problem = Some(what);
            }
        }
    }
    match problem {
        Some(what) if listeners.is_empty() => Err(Failure::new(Exit::Failure, what)),
        _ => Ok((listeners, bound)),
    }
}

fn listen_web(wished: SocketAddr) -> Result<TcpListener, Failure> {
    let mut addr = wished;
    loop {
        match bind(addr) {
            Ok(listener) => return Ok(listener),
            Err(e)
                if e.kind() == std::io::ErrorKind::AddrInUse
                    && addr.port() < wished.port().saturating_add(WEB_PORTS) =>
            {
                addr.set_port(addr.port() + 1);
            }
            Err(e) => {
                let what =
                    format!("cannot listen on {addr} for players ({e}): choose another address with --web");
                return Err(Failure::new(Exit::Failure, what));
            }
        }
    }
}

fn listen_unix(path: &Path) -> Result<UnixListener, Failure> {
    use std::os::unix::fs::PermissionsExt;
    // The store's lock is ours, so a socket that lies here is a leftover.
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).context(format!("cannot replace the socket {}", path.display()));
        }
        _ => {}
    }
    // The folder is 0700, so nobody else can connect before the mode is set.
    let listener = UnixListener::bind(path).context(format!("cannot make the socket {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .context(format!("cannot protect the socket {}", path.display()))?;
    Ok(listener)
}

async fn serve_unix(listener: UnixListener, router: axum::Router) {
    if let Err(e) = axum::serve(listener, router).await {
        tracing::error!("the API ended: {e}");
    }
}

/// Serves the page, programs and players with limits that a page in a browser cannot use to occupy the node: connections,
/// header time, no pipelining of bodies.
async fn serve_tcp(listener: TcpListener, router: axum::Router, tasks: Tasks) {
    const MAX_CONNECTIONS: usize = 64;
    let slots = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, peer)) => {
                // Other users of this machine are strangers: they get silence.
                let local = stream.local_addr();
                if local.is_ok_and(|local| crate::platform::peer_is_own(peer, local) == Some(false)) {
                    tracing::warn!("another user of this machine tried the page: it was turned away");
                    continue;
                }
                stream
            }
            Err(e) => {
                tracing::warn!("players are not accepted for a second: {e}");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let service = hyper_util::service::TowerToHyperService::new(router.clone());
        tasks.spawn("player connection", async move {
            let _ = stream.set_nodelay(true);
            let served = hyper::server::conn::http1::Builder::new()
                .timer(hyper_util::rt::TokioTimer::new())
                .header_read_timeout(Duration::from_secs(10))
                .max_buf_size(64 * 1024)
                .serve_connection(hyper_util::rt::TokioIo::new(stream), service);
            let _ = served.await;
            drop(slot);
        });
    }
}
