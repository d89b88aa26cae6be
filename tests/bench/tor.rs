//! Bench of Tor: `kith` over a private Tor network (`tests/e2e/tornet.rs`) next to arti's own plain stream to
//! the same kind of onion service, in the same run; how soon a picture is there; what a node costs that is idle;
//! films over Tor with distance; what viewers cost a publisher; and that nothing leaves beside Tor.
//!
//! `cargo bench -p kith-node --bench tor -- [speed] [pictures] [idle] | films [PLAYS] | copies [VIEWERS] |
//! leaks SECONDS`; default the first three.
//! Needs root, `ip`, `tor`, `tcpdump`, `curl`, `ffmpeg`.

// A bench that can't go on has nothing to report but why.
#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code)]
mod figures;
#[allow(dead_code)]
mod films;
// The same nodes and the same network as in the end-to-end tests.
#[allow(dead_code)]
#[path = "../e2e/harness.rs"]
mod harness;
#[allow(dead_code)]
#[path = "../e2e/tornet.rs"]
mod tornet;
#[allow(dead_code)]
#[path = "../e2e/wan.rs"]
mod wan;

use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arti_client::config::onion_service::OnionServiceConfigBuilder;
use arti_client::config::{BoolOrAuto, TorClientConfigBuilder};
use arti_client::{StreamPrefs, TorClient};
use figures::*;
use films::{SWARM_RATE, count_copies, measure, meet};
use futures_util::StreamExt as _;
use harness::*;
use kith_crypto::onion_address::OnionAddress;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tor_cell::relaycell::msg::Connected;
use tor_rtcompat::PreferredRuntime;
use tornet::{GATEWAY, Network, Place};
use wan::Wan;

/// Bytes of one transfer.
const OBJECT: usize = 64 << 20;
const ROUNDS: usize = 3;
/// The same where there is distance.
const FAR_OBJECT: usize = 8 << 20;
const PICTURES: usize = 12;
/// What a player needs before it shows something of a film with its index in front.
const FIRST: u64 = 256 << 10;
const IDLE: Duration = Duration::from_secs(60);
const LINK: Duration = Duration::from_secs(120);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let text: Vec<&str> = args.iter().map(String::as_str).collect();
    match text.as_slice() {
        ["plain-service", network, dir, bytes] => return serve_plain(network, dir, bytes.parse().unwrap()),
        ["plain-client", network, dir, onion] => return fetch_plain(network, dir, onion),
        ["films", plays @ ..] => {
            return films(plays.first().map_or(8, |plays| plays.parse().expect("plays")));
        }
        ["copies", viewers @ ..] => {
            return copies(viewers.first().map_or(5, |n| n.parse().expect("viewers")));
        }
        ["leaks", seconds] => return leaks(Duration::from_secs(seconds.parse().expect("seconds"))),
        _ => {}
    }
    let wants = |what: &str| text.is_empty() || text.contains(&what);
    let Some(mut network) = Network::start() else { return };
    let places = [network.place(), network.place()];
    let file = network.file();
    let nodes = friends([&file, &file], &places);
    if wants("speed") {
        speed(&file, &places, &nodes);
    }
    if wants("pictures") {
        pictures(&places, &nodes);
    }
    if wants("idle") {
        idle(&nodes);
    }
}

fn start(network: &Path, place: &Place, name: &str, more: &[&str]) -> Node {
    let env = [("KITH_TOR_NETWORK", network.to_str().unwrap())];
    let mut node = Node::stopped_in(&place.space.0, name, &env);
    node.up("", &[&["--name", name, "--tor", "only"], more].concat());
    node
}

fn wait_ready<'a>(nodes: impl IntoIterator<Item = &'a Node>) {
    for node in nodes {
        let ready = poll(LINK, || json(node, &["net", "tor"])["state"] == "ready");
        assert!(ready, "{}: {}", node.name, json(node, &["net", "tor"]));
    }
}

/// One uses an invite of the other; the link may take its time.
fn invite_over_tor(from: &Node, to: &Node) {
    let line = json(from, &["friend", "invite"])["invite"].as_str().unwrap().to_owned();
    kith_with(to, &["friend", "add", "-", "--json"], line.as_bytes()).json();
}

/// Two friends over Tor; prints how long the first link took.
fn friends(networks: [&Path; 2], places: &[Place; 2]) -> [Node; 2] {
    let begun = Instant::now();
    let nodes = [0, 1].map(|n| start(networks[n], &places[n], ["Ana", "Bo"][n], &[]));
    wait_ready(&nodes);
    println!("Tor ready after {:.1} s (two nodes, empty folders)", begun.elapsed().as_secs_f64());
    let begun = Instant::now();
    invite_over_tor(&nodes[0], &nodes[1]);
    wait_until(LINK, "a link", || is_online(&nodes[1], "Ana"));
    println!("invite used until the link stands: {:.1} s", begun.elapsed().as_secs_f64());
    let mut again = Vec::new();
    for _ in 0..5 {
        // Away and back: the service is published anew, and the other one calls.
        let begun = Instant::now();
        json(&nodes[1], &["friend", "block", "Ana"]);
        wait_until(LINK, "no link", || !is_online(&nodes[0], "Bo"));
        json(&nodes[1], &["friend", "unblock", "Ana"]);
        wait_until(LINK, "a link", || is_online(&nodes[1], "Ana"));
        again.push(begun.elapsed().as_secs_f64());
    }
    println!("a link anew, 5 times: {}", spread(&mut again));
    nodes
}

fn spread(values: &mut [f64]) -> String {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
    format!("median {:.2}, least {:.2}, 95th {:.2}, most {:.2} s", at(0.5), at(0.0), at(0.95), at(1.0))
}

/// arti's plain streams from one place to another, each side a process of its own.
struct Plain<'a> {
    networks: [&'a Path; 2],
    places: &'a [Place; 2],
    bytes: usize,
    service: Child,
    onion: String,
    dir: tempfile::TempDir,
}

impl<'a> Plain<'a> {
    fn start(networks: [&'a Path; 2], places: &'a [Place; 2], bytes: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command =
            Self::command(&places[0], "plain-service", networks[0], &dir.path().join("service"));
        let mut service = command.arg(bytes.to_string()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = std::io::BufReader::new(service.stdout.take().unwrap()).lines();
        let onion = lines.next().unwrap().unwrap();
        Self { networks, places, bytes, service, onion, dir }
    }

    fn command(place: &Place, side: &str, network: &Path, folder: &Path) -> std::process::Command {
        let mut command = place.space.command(std::env::current_exe().unwrap().to_str().unwrap());
        command.arg(side).arg(network).arg(folder).stdin(Stdio::null());
        command
    }

    /// Seconds that all bytes take, with a client that has just been started.
    fn fetch(&self) -> f64 {
        let folder = tempfile::tempdir_in(self.dir.path()).unwrap();
        let mut command = Self::command(&self.places[1], "plain-client", self.networks[1], folder.path());
        let out = String::from_utf8(command.arg(&self.onion).output().unwrap().stdout).unwrap();
        let (bytes, seconds) = out.trim().split_once(' ').expect("bytes and seconds");
        assert_eq!(bytes.parse(), Ok(self.bytes));
        seconds.parse().expect("seconds")
    }
}

impl Drop for Plain<'_> {
    fn drop(&mut self) {
        let _ = self.service.kill();
        let _ = self.service.wait();
    }
}

/// Bytes a second of `kith get` and of a plain stream, in turn.
fn speed(network: &Path, places: &[Place; 2], nodes: &[Node; 2]) {
    let plain = Plain::start([network, network], places, OBJECT);
    let (mut kith_s, mut plain_s) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let (path, _) = random_file(&nodes[0], "film.bin", OBJECT);
        let id = id_of(&publish(&nodes[0], &path, &format!("Film{round}"), "friends"));
        wait_found(&nodes[1], &format!("film{round}"), &id);
        let took = json(&nodes[1], &["get", &id])["seconds"].as_f64().unwrap();
        kith_s.push(took);
        let took = plain.fetch();
        plain_s.push(took);
        println!("  {} MiB: kith {:.2} s, plain {took:.2} s", OBJECT >> 20, kith_s[round]);
    }
    let rate = |seconds: &[f64]| seconds.iter().map(|s| OBJECT as f64 / s / 1e6).sum::<f64>() / ROUNDS as f64;
    let total = |seconds: &[f64]| seconds.iter().sum::<f64>();
    println!(
        "throughput: kith {:.2} MB/s, plain stream {:.2} MB/s, ratio {:.2} (of the sums of times)",
        rate(&kith_s),
        rate(&plain_s),
        total(&plain_s) / total(&kith_s)
    );
}

/// How soon the first bytes of a film are there, and bytes from its middle.
fn pictures(places: &[Place; 2], nodes: &[Node; 2]) {
    let Some(clip) = paced_video(60, 2_000) else { return };
    let (mut first, mut sought) = (Vec::new(), Vec::new());
    for round in 0..PICTURES {
        // Each film is another one: it begins with nothing here.
        let title = format!("Clip{round}");
        let args = ["publish", clip.path.to_str().unwrap(), "--title", &title, "--json"];
        let id = id_of(&kith(&nodes[0], &args).json());
        wait_found(&nodes[1], &title.to_lowercase(), &id);
        let begun = Instant::now();
        let url = kith(&nodes[1], &["watch", &id, "--player", "print"]).out();
        let read = |range: &str| {
            let args = ["-sS", "-m", "60", "-r", range, url.trim()];
            let out = places[1].space.command("curl").args(args).stdin(Stdio::null()).output().unwrap();
            assert!(out.status.success());
            out.stdout.len() as u64
        };
        assert_eq!(read(&format!("0-{}", FIRST - 1)), FIRST);
        first.push(begun.elapsed().as_secs_f64());
        let middle = clip.bytes.len() as u64 * 3 / 4;
        let begun = Instant::now();
        assert_eq!(read(&format!("{middle}-{}", middle + FIRST - 1)), FIRST);
        sought.push(begun.elapsed().as_secs_f64());
    }
    println!("first {} KiB of a film, {PICTURES} films: {}", FIRST >> 10, spread(&mut first));
    println!("the same from its middle: {}", spread(&mut sought));
}

/// Films over Tor with distance: each node reaches it through one bridge, at the end of a path that delays and
/// narrows. How fast the path is, arti's plain stream says.
fn films(plays: usize) {
    let Some(mut network) = Network::start() else { return };
    let places = [network.place(), network.place()];
    let dir = tempfile::tempdir().unwrap();
    let networks: [PathBuf; 2] = std::array::from_fn(|n| {
        let address = format!("{GATEWAY}:{}", 6_000 + n);
        let (line, relay) = network.bridge(n);
        Wan::start_in(&network.space.0, &address, wan::Path::new(75, 8.0)).lead_to(relay.clone());
        let line = line.replace(&relay, &address);
        let text = std::fs::read_to_string(network.file()).unwrap();
        let file = dir.path().join(format!("network{n}.toml"));
        std::fs::write(&file, format!("{text}[bridges]\nenabled = true\nbridges = [\"{line}\"]\n")).unwrap();
        file
    });
    let networks = [networks[0].as_path(), networks[1].as_path()];
    println!("each node 75 ms (one way, a tenth of that jitter) and 8 Mbit/s from its bridge");
    let nodes = friends(networks, &places);
    let plain = Plain::start(networks, &places, FAR_OBJECT);
    let mut table = Table::default();
    let mut megabits = Vec::new();
    for round in 0..ROUNDS {
        let took = plain.fetch();
        megabits.push(FAR_OBJECT as f64 * 8e-6 / took);
        table.add("plain stream: Mbit/s", "", megabits[round]);
        let (path, _) = random_file(&nodes[0], "film.bin", FAR_OBJECT);
        let id = id_of(&publish(&nodes[0], &path, &format!("Film{round}"), "friends"));
        wait_found(&nodes[1], &format!("film{round}"), &id);
        let kith_s = json(&nodes[1], &["get", &id])["seconds"].as_f64().unwrap();
        table.add("kith get: Mbit/s", "", FAR_OBJECT as f64 * 8e-6 / kith_s);
        table.add("kith get: times the plain stream", ">= 0.95", took / kith_s);
    }
    drop(plain);
    megabits.sort_by(f64::total_cmp);
    let wait =
        |title: &str, id: &str| wait_until(LINK, "it is known", || found(&nodes[1], title, id).is_some());
    let reach = [["<= 4", "<= 8"], ["<= 3", "<= 6"], ["<= 1", ">= 95"]];
    let viewing = (&nodes[1], &nodes[0]);
    measure("Tor", reach, median(&megabits), plays, viewing, ("direct", &wait), &mut table);
    table.print();
}

/// What the publisher of a film sends when so many friends, who are friends of each other, watch it over Tor.
fn copies(viewers: usize) {
    let Some(mut network) = Network::start() else { return };
    let file = network.file();
    let mut up = |name: &str, rate: u64| {
        // As shipped: asking every friend for news each second would take a good part of these limits.
        let sets = [format!("limits.up={}kB/s", rate / 1000), "catalogue.batch=30min".to_owned()];
        let place = network.place();
        let node = start(&file, &place, name, &["--set", &sets[0], "--set", &sets[1]]);
        (place, node)
    };
    let (_at, publisher) = up("Ana", SWARM_RATE * 4);
    let (_places, nodes): (Vec<_>, Vec<_>) =
        (0..viewers).map(|n| up(&format!("Viewer{n}"), SWARM_RATE * 2)).unzip();
    wait_ready(nodes.iter().chain([&publisher]));
    let id = meet(&publisher, &nodes, "swarm", |one, other| {
        invite_over_tor(one, other);
        wait_until(LINK, "a link", || is_online(one, &other.name) && is_online(other, &one.name));
    });
    let mut table = Table::default();
    count_copies(&format!("{viewers} viewers over Tor"), &publisher, &nodes, &id, &mut table);
    table.print();
}

/// Memory and time of nodes with Tor that do nothing, minute by minute: what a node did before is over in the last.
fn idle(nodes: &[Node; 2]) {
    for minute in 1..=3 {
        let before: Vec<Usage> = nodes.iter().map(Usage::of).collect();
        let_pass(IDLE);
        for (node, before) in nodes.iter().zip(&before) {
            let used = Usage::of(node).since(before) / IDLE.as_secs_f64() * 100.0;
            let resident = memory_mb(node, "VmRSS:");
            println!(
                "idle, one friend over Tor, minute {minute}, {}: {resident:.1} MB, {used:.2} % of a core",
                node.name
            );
        }
    }
}

/// Searches, publishing, changes of friends and a killed Tor for so long; counts what was no connection to a relay.
fn leaks(time: Duration) {
    let Some(mut network) = Network::start() else { return };
    let places = [network.place(), network.place(), network.place()];
    let watches: Vec<_> = places.iter().map(|place| network.watch(place)).collect();
    if watches.iter().any(Option::is_none) {
        return;
    }
    let file = network.file();
    let nodes: [Node; 3] = std::array::from_fn(|n| start(&file, &places[n], ["Ana", "Bo", "Cleo"][n], &[]));
    wait_ready(&nodes);
    let nodes = nodes.each_ref();
    invite_over_tor(nodes[0], nodes[1]);
    let begun = Instant::now();
    let (mut rounds, mut fetched, mut killed, mut sockets) = (0_u32, 0, 0, 0);
    let mut others = Vec::new();
    while begun.elapsed() < time {
        rounds += 1;
        let (path, _) = random_file(nodes[0], "film.bin", 2_000_000);
        let id = id_of(&publish(nodes[0], &path, &format!("Film{rounds}"), "friends"));
        for node in nodes {
            json(node, &["search", "film"]);
        }
        // Cleo comes and goes.
        if rounds.is_multiple_of(2) {
            invite_over_tor(nodes[1], nodes[2]);
        } else {
            let _ = kith(nodes[1], &["friend", "remove", "Cleo"]);
            let _ = kith(nodes[2], &["friend", "remove", "Bo"]);
        }
        if poll(Duration::from_secs(20), || found(nodes[1], &format!("film{rounds}"), &id).is_some()) {
            let mut get = Running::start(command(&nodes[1].home, &["get", &id]), b"");
            if rounds.is_multiple_of(5) {
                killed += 1;
                network.kill_relays(3);
                let_pass(Duration::from_secs(5));
                network.start_relays();
            }
            if poll(Duration::from_secs(60), || !get.is_running()) && get.finish(COMMAND_END).code == 0 {
                fetched += 1;
            }
        }
        for (node, place) in nodes.iter().zip(&places) {
            for line in place.sockets(node.pid()) {
                sockets += 1;
                let peer = line.split(' ').nth(5).unwrap_or_default();
                if !(line.starts_with("tcp") && peer.starts_with("10.") && peer.ends_with(":5000")) {
                    others.push(line);
                }
            }
        }
    }
    let (mut packets, mut relays) = (Vec::new(), 0);
    for watch in watches.iter().flatten() {
        let (other, to_relays) = watch.seen();
        packets.extend(other);
        relays += to_relays;
    }
    println!(
        "{:.0} s with three nodes: {rounds} rounds, {fetched} fetches, {killed} times six of nine relays killed; \
         {relays} packets to and from relays, {} others; {sockets} sockets looked at, {} others",
        begun.elapsed().as_secs_f64(),
        packets.len(),
        others.len()
    );
    packets.iter().chain(&others).take(20).for_each(|line| println!("  {line}"));
}

const COMMAND_END: Duration = Duration::from_secs(5);

// The reference: arti's own client and service, and nothing between them.

type Client = Arc<TorClient<PreferredRuntime>>;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

async fn client(network: &str, dir: &str) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut table: toml::Table = std::fs::read_to_string(network).unwrap().parse().unwrap();
    let path = |name: &str| toml::Value::from(Path::new(dir).join(name).to_str().unwrap());
    let storage =
        toml::Table::from_iter([("cache_dir".into(), path("cache")), ("state_dir".into(), path("state"))]);
    table.insert("storage".into(), storage.into());
    let builder: TorClientConfigBuilder = table.try_into().unwrap();
    let client = TorClient::builder().config(builder.build().unwrap()).create_unbootstrapped().unwrap();
    client.bootstrap().await.unwrap();
    client
}

fn serve_plain(network: &str, dir: &str, bytes: usize) {
    runtime().block_on(async {
        let client = client(network, dir).await;
        let config = OnionServiceConfigBuilder::default().nickname("plain".parse().unwrap()).build().unwrap();
        let (service, requests) = client.launch_onion_service(config).unwrap().unwrap();
        let id = service.onion_address().unwrap();
        println!("{}", OnionAddress::of(*id.as_ref()).unwrap());
        let mut streams = std::pin::pin!(tor_hsservice::handle_rend_requests(requests));
        while let Some(request) = streams.next().await {
            tokio::spawn(async move {
                let mut stream = request.accept(Connected::new_empty()).await.unwrap();
                let chunk = random_bytes(256 << 10);
                for _ in 0..bytes / chunk.len() {
                    stream.write_all(&chunk).await.unwrap();
                }
                stream.flush().await.unwrap();
                let _ = stream.shutdown().await;
            });
        }
    });
}

/// Prints how many bytes came and the seconds from the request to the last of them, on a stream that stands, as a link
/// does.
fn fetch_plain(network: &str, dir: &str, onion: &str) {
    runtime().block_on(async {
        let client = client(network, dir).await;
        let mut prefs = StreamPrefs::new();
        prefs.connect_to_onion_services(BoolOrAuto::Explicit(true));
        let mut stream = loop {
            match client.connect_with_prefs((onion, 80), &prefs).await {
                Ok(stream) => break stream,
                Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
            }
        };
        let begun = Instant::now();
        let mut buf = vec![0; 256 << 10];
        let mut read = 0;
        while let Ok(n @ 1..) = stream.read(&mut buf).await {
            read += n;
        }
        println!("{read} {:.3}", begun.elapsed().as_secs_f64());
    });
}
