//! Circuits, end to end: a line of real processes on loopback, one requester, three to five relays and
//! a holder, all on this machine, next to a raw TCP copy in the same run.
//!
//! What is deliberate is printed apart, by its law and not as measured: a holder answers after 50 to
//! 150 ms, drawn once for an object and a link, and so does each node that passes a request on outside
//! the circuit (in a line there is none); what is wanted leaves on a tick that comes each 100 to 200 ms.
//! `circuit.pace` is shortened until the circuits stand and is a minute while it is measured.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{MIB, STEP, measure_get, require_space, write_random};
use crate::figures::*;
use crate::harness::*;

const NAMES: [&str; 7] = ["Cleo", "Gus", "Lea", "Rob", "Sue", "Tom", "Ana"];
/// Until circuits stand.
const QUICK: [(&str, &str); 2] = [("circuit.pace", "100ms"), ("circuit.snapshot", "500ms")];
/// Objects that are played from the beginning, and places that are sought, in each run.
const PLAYS: usize = 10;
/// Large enough that a first byte is not a last one.
const PLAYED: u64 = 2 * MIB;
/// Means of the deliberate delays, in milliseconds: a holder's, and the wait for a tick that comes
/// after a uniform time of 100 to 200 ms (the mean of its square by twice its mean).
const HOLDER_MS: f64 = 100.0;
const TICK_MS: f64 = (150.0 * 150.0 + 100.0 * 100.0 / 12.0) / (2.0 * 150.0);

/// `-- onion [MIB [RUNS]]`
pub(crate) fn run(numbers: &[u64]) {
    let size_mib = numbers.first().copied().unwrap_or(256).max(64);
    let runs = numbers.get(1).copied().unwrap_or(3).max(1);
    require_space(size_mib * MIB * 4);
    println!("{size_mib} MiB an object, {runs} runs with fresh nodes and objects, median (min to max)");
    println!(
        "deliberate, by law: holder 50 to 150 ms (mean {HOLDER_MS:.0}), tick 100 to 200 ms (mean wait {TICK_MS:.0})"
    );
    let mut table = Table::default();
    for run in 1..=runs {
        eprintln!("run {run} of {runs}");
        one::<5>(size_mib * MIB, &mut table);
        one::<6>(size_mib * MIB, &mut table);
        one::<7>(size_mib * MIB, &mut table);
    }
    table.print();
}

/// A line of `N` nodes: the first asks, the last holds, the others relay.
fn one<const N: usize>(size: u64, table: &mut Table) {
    let relays = N - 2;
    let nodes = line::<N>(relays);
    let (c, a, end) = (&nodes[0], &nodes[N - 1], &nodes[N - 2]);
    let source = a.scratch("source.bin");
    write_random(&source, size);
    let link = publish_link(a, &source, "large");
    wait_until(STEP, "the last relay knows of it", || found_title(end, "large"));
    wait_ready(c, relays);
    slow_down(&nodes);

    let (gib, mib) = (size as f64 / (1_024 * MIB) as f64, size as f64 / MIB as f64);
    let raw = raw_copy(size);
    let name = |what: &str| format!("{relays} relays: {what}");
    table.add("raw TCP copy: MiB/s", "", mib / raw.seconds);
    let received = || friend(c, &nodes[1].name).unwrap()["received_bytes"].as_u64().unwrap();
    let before = received();
    let got = measure_get(c, &link, &["--route", "onion"], "onion", &nodes.each_ref());
    let came = received() - before;
    table.add(&name("MiB/s"), if relays == 3 { ">= 60" } else { "" }, mib / got.seconds);
    table.add(&name("fraction of raw speed"), "", raw.seconds / got.seconds);
    table.add(&name("useful, % of the bytes that came"), "", size as f64 / came as f64 * 100.0);
    let reach = if relays == 3 { "<= 12" } else { "" };
    table.add(&name("CPU-s/GiB, all parties"), reach, got.cpu.iter().sum::<f64>() / gib);
    let peak = got.peak_mb[1..N - 1].iter().copied().fold(0.0, f64::max);
    table.add(&name("peak MB of a relay"), "<= 60", peak);
    if relays == 3 {
        plays(c, end, a, table);
        seeks(c, end, a, size, table);
    }
}

/// Nodes whose neighbours are friends; the keys stand in their files, so that they can change.
fn line<const N: usize>(relays: usize) -> [Node; N] {
    let names: [&str; N] = std::array::from_fn(|i| if i == N - 1 { "Ana" } else { NAMES[i] });
    let relays = relays.to_string();
    let nodes = names.map(|name| {
        let mut node = Node::stopped(name, &[("KITH_PRIVACY", "")]);
        for (key, value) in QUICK.into_iter().chain([("circuit.relays", relays.as_str())]) {
            kith_at(&node.home, &["config", "set", key, value]).expect_code(&[0]);
        }
        node.up("127.0.0.1:0", &["--name", name]);
        node
    });
    for pair in nodes.windows(2) {
        befriend(&pair[0], &pair[1]);
    }
    nodes
}

/// From here on circuits cost what they cost users.
fn slow_down(nodes: &[Node]) {
    for node in nodes {
        kith(node, &["config", "set", "circuit.pace", "60s"]).expect_code(&[0]);
    }
}

fn wait_ready(node: &Node, relays: usize) {
    wait_until(STEP, "a circuit stands", || {
        let report = json(node, &["net", "circuits"]);
        let own = report["own"].as_array().unwrap();
        own.iter().any(|c| c["state"] == "ready" && c["relays"].as_u64() >= Some(relays as u64))
    });
}

fn publish_link(node: &Node, file: &std::path::Path, title: &str) -> String {
    publish(node, file, title, "fof")["link"].as_str().unwrap().to_owned()
}

fn found_title(node: &Node, title: &str) -> bool {
    json(node, &["search", title]).as_array().is_some_and(|rows| !rows.is_empty())
}

// ---- first bytes --------------------------------------------------------------------------------

/// Pressing Play on objects that nobody asked for before, while circuits wait ready.
fn plays(c: &Node, end: &Node, a: &Node, table: &mut Table) {
    let objects: Vec<(String, String)> = (0..PLAYS)
        .map(|n| {
            let title = format!("play{n}");
            let file = a.scratch(&title);
            write_random(&file, PLAYED);
            (publish_link(a, &file, &title), title)
        })
        .collect();
    for (link, title) in objects {
        wait_until(STEP, "the last relay knows of it", || found_title(end, &title));
        // One stream a circuit: the next is taken when it waits ready.
        wait_ready(c, 3);
        let begun = Instant::now();
        let stream = Stream::open(c, &link);
        let first = stream.first_byte(0).duration_since(begun).as_secs_f64() * 1e3;
        table.add("play: ms to the first byte", "<= 700", first);
        table.add("play: of that deliberate, mean by law, ms", "", HOLDER_MS + TICK_MS);
        table.add("play: our own work, ms", "<= 20", first - HOLDER_MS - TICK_MS);
        stream.close(c);
    }
}

/// Reading somewhere else in a video whose tunnel is open, while the rest of it comes at full speed.
///
/// The same with nothing else on its way cannot be measured with a node as it is: a fetch goes on to the
/// end of the object, whether somebody reads or not, and its tunnels close with it, so that no tunnel is
/// ever open and idle.
fn seeks(c: &Node, end: &Node, a: &Node, size: u64, table: &mut Table) {
    let file = a.scratch("seek.bin");
    write_random(&file, size);
    let link = publish_link(a, &file, "sought");
    wait_until(STEP, "the last relay knows of it", || found_title(end, "sought"));
    wait_ready(c, 3);
    let stream = Stream::open(c, &link);
    stream.first_byte(0);
    // From the end backwards: what comes by itself comes from the beginning, and from where was read.
    for n in 0..PLAYS as u64 {
        let begun = Instant::now();
        let at = size - (n + 1) * (size / 2 / PLAYS as u64);
        let first = stream.first_byte(at).duration_since(begun).as_secs_f64() * 1e3;
        table.add("seek while the rest arrives: ms to the first byte", "", first);
        table.add("seek while the rest arrives: tick, mean by law, ms", "", TICK_MS);
        table.add("seek while the rest arrives: our own work, ms", "<= 20", first - TICK_MS);
    }
    stream.close(c);
}

/// A stream address, asked for without a command in between.
struct Stream {
    web: String,
    path: String,
    name: String,
}

impl Stream {
    fn open(node: &Node, link: &str) -> Self {
        let answer = api(node, "POST", "/api/streams", Some(&json!({"id": link, "route": "onion"})));
        let web = node.web();
        let url = answer["url"].as_str().unwrap_or_else(|| panic!("no stream: {answer}"));
        let path = url.strip_prefix(&format!("http://{web}")).unwrap().to_owned();
        Self { web, path, name: answer["name"].as_str().unwrap().to_owned() }
    }

    /// When the first byte from there on was in hand.
    fn first_byte(&self, at: u64) -> Instant {
        let mut player = TcpStream::connect(&self.web).unwrap();
        player.set_read_timeout(Some(STEP)).unwrap();
        let Self { web, path, .. } = self;
        write!(
            player,
            "GET {path} HTTP/1.1\r\nHost: {web}\r\nRange: bytes={at}-{}\r\nConnection: close\r\n\r\n",
            at + 1_023
        )
        .unwrap();
        let (mut answer, mut buffer) = (Vec::new(), [0; 4_096]);
        loop {
            let n = player.read(&mut buffer).unwrap();
            assert!(n > 0, "the stream ended: {}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&buffer[..n]);
            let body = answer.windows(4).position(|w| w == b"\r\n\r\n");
            if body.is_some_and(|end| answer.len() > end + 4) {
                assert!(answer.starts_with(b"HTTP/1.1 206"), "{}", String::from_utf8_lossy(&answer));
                return Instant::now();
            }
        }
    }

    fn close(self, node: &Node) {
        api(node, "DELETE", &format!("/api/streams/{}", self.name), None);
        // The fetch ends with its stream, and its circuit is free for the next.
        let fetches = || json(node, &["status"])["fetches"].as_u64();
        wait_until(Duration::from_secs(30), "the fetch ends", || fetches() == Some(0));
    }
}
