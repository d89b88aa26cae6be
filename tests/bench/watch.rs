//! Watching while it downloads: real processes over links with delay, jitter and rate (`e2e/wan.rs`), and
//! readers that behave like players.
//!
//! Direct: 20 ms and 20 Mbit/s one way. Three relays: 150 ms over the four links of the way, 8 Mbit/s each.
//! A film starts when a second of it is there. A reader that plays begins with two seconds and takes what
//! comes at once; where it would have waited is worked out from when each byte came.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{MIB, STEP, write_random};
use crate::figures::*;
use crate::harness::*;
use crate::players::chromium::Chromium;
use crate::players::mpv::Mpv;
use crate::wan::{Path, Wan};

/// `-- watch [PLAYS] [PART..]`: plays and seeks of each kind; parts: direct, relays, sources, pictures,
/// copies5, copies10, copies20, leaves.
pub(crate) fn run(words: &[String]) {
    let only: Vec<&str> = words.iter().map(String::as_str).filter(|w| w.parse::<u64>().is_err()).collect();
    let plays = words.iter().find_map(|w| w.parse().ok()).unwrap_or(10_usize);
    let wants = |part: &str| only.is_empty() || only.contains(&part);
    let mut table = Table::default();
    if wants("direct") {
        direct(plays, &mut table);
    }
    if wants("relays") {
        relays(plays, &mut table);
    }
    if wants("sources") {
        three_sources(&mut table);
    }
    if wants("pictures") {
        pictures(&mut table);
    }
    for (part, viewers) in [("copies5", 5), ("copies10", 10), ("copies20", 20)] {
        if wants(part) {
            copies(viewers, &mut table);
        }
    }
    if wants("leaves") {
        leaves(10, &mut table);
    }
    table.print();
}

// ---- one reader ---------------------------------------------------------------------------------

/// A stream address, and the requests of a player.
struct Stream {
    web: String,
    path: String,
    name: String,
}

impl Stream {
    fn open(node: &Node, what: &str, route: &str) -> Self {
        let answer = api(node, "POST", "/api/streams", Some(&json!({"id": what, "route": route})));
        let web = node.web();
        let url = answer["url"].as_str().unwrap_or_else(|| panic!("no stream: {answer}"));
        let path = url.strip_prefix(&format!("http://{web}")).unwrap().to_owned();
        Self { web, path, name: answer["name"].as_str().unwrap().to_owned() }
    }

    fn request(&self, from: u64) -> TcpStream {
        let mut player = TcpStream::connect(&self.web).unwrap();
        player.set_read_timeout(Some(STEP)).unwrap();
        let Self { web, path, .. } = self;
        write!(
            player,
            "GET {path} HTTP/1.1\r\nHost: {web}\r\nRange: bytes={from}-\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        player
    }

    /// Seconds until the first byte of `len` from there on was here, and the last.
    fn read(&self, from: u64, len: u64) -> [f64; 2] {
        let begun = Instant::now();
        let mut arrivals = Arrivals::new(self.request(from));
        let mut first = None;
        while arrivals.come < len {
            assert!(arrivals.next(), "the stream ended");
            first.get_or_insert(begun.elapsed().as_secs_f64());
        }
        [first.unwrap(), begun.elapsed().as_secs_f64()]
    }

    fn close(self, node: &Node) {
        api(node, "DELETE", &format!("/api/streams/{}", self.name), None);
        let fetches = || json(node, &["status"])["fetches"].as_u64();
        wait_until(Duration::from_secs(30), "the fetch ends", || fetches() == Some(0));
    }
}

/// The body of an answer as it comes.
struct Arrivals {
    player: TcpStream,
    buffer: Vec<u8>,
    head_left: bool,
    head: Vec<u8>,
    come: u64,
}

impl Arrivals {
    fn new(player: TcpStream) -> Self {
        Self { player, buffer: vec![0; 64 << 10], head_left: true, head: Vec::new(), come: 0 }
    }

    /// Waits for more; false at the end.
    fn next(&mut self) -> bool {
        loop {
            let n = self.player.read(&mut self.buffer).unwrap_or(0);
            if n == 0 {
                return false;
            }
            if !self.head_left {
                self.come += n as u64;
                return true;
            }
            self.head.extend_from_slice(&self.buffer[..n]);
            if let Some(end) = self.head.windows(4).position(|w| w == b"\r\n\r\n") {
                assert!(self.head.starts_with(b"HTTP/1.1 206"), "{}", String::from_utf8_lossy(&self.head));
                self.head_left = false;
                self.come = (self.head.len() - end - 4) as u64;
                if self.come > 0 {
                    return true;
                }
            }
        }
    }
}

/// What a player of `rate` bytes a second would show of a whole film: seconds to the start, seconds that
/// it waited after that, bytes that came.
fn play(stream: &Stream, rate: u64) -> [f64; 3] {
    let begun = Instant::now();
    let mut arrivals = Arrivals::new(stream.request(0));
    let (mut started, mut waited) = (None::<f64>, 0.0_f64);
    while arrivals.next() {
        let now = begun.elapsed().as_secs_f64();
        let here = arrivals.come as f64 / rate as f64;
        match started {
            None if here >= 2.0 => started = Some(now),
            // What came just now was needed by then, at the place that playback has reached.
            Some(start) => waited = waited.max(now - start - before(arrivals.come, rate)),
            None => {}
        }
    }
    [started.unwrap_or(f64::NAN), waited, arrivals.come as f64]
}

/// The time at which the last piece that came was to be shown.
fn before(come: u64, rate: u64) -> f64 {
    come.saturating_sub(64 << 10) as f64 / rate as f64
}

fn percentiles(table: &mut Table, what: &str, reach: [&'static str; 2], values: &mut [f64]) {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values[((values.len() as f64 * share).ceil() as usize).clamp(1, values.len()) - 1];
    table.add(&format!("{what}, p50: s"), reach[0], at(0.5));
    table.add(&format!("{what}, p95: s"), reach[1], at(0.95));
}

/// A film of noise that says how long it is.
fn publish_film(node: &Node, title: &str, len: u64, seconds: u32, to: &str) -> (String, String) {
    let file = node.scratch(title);
    write_random(&file, len);
    let mut written = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
    written.write_all(&mp4_beginning(len, seconds)).unwrap();
    let answer = publish(node, &file, title, to);
    (id_of(&answer), answer["link"].as_str().unwrap().to_owned())
}

/// `ftyp`, `moov` with an `mvhd` of thousandths of seconds, and the header of an `mdat` to the end.
fn mp4_beginning(len: u64, seconds: u32) -> Vec<u8> {
    let boxed = |kind: &[u8; 4], body: &[u8]| {
        [&(body.len() as u32 + 8).to_be_bytes(), kind.as_slice(), body].concat()
    };
    let times = [[0; 4], [0; 4], [0; 4], 1_000_u32.to_be_bytes(), (seconds * 1_000).to_be_bytes()];
    let mvhd = boxed(b"mvhd", &[times.concat().as_slice(), &[0; 80]].concat());
    let mut all = [boxed(b"ftyp", b"isom\0\0\0\0isom"), boxed(b"moov", &mvhd)].concat();
    let left = u32::try_from(len - all.len() as u64).unwrap();
    all.extend([left.to_be_bytes(), *b"mdat"].concat());
    all
}

/// Waits until a film with this title and id can be had.
type Wait<'a> = &'a dyn Fn(&str, &str);

/// Starts and seeks over a path of this rate, films of a quarter of it; then a film of seven tenths from
/// beginning to end.
fn measure(
    who: &str,
    reach: [[&'static str; 2]; 3],
    megabits: f64,
    plays: usize,
    (viewer, publisher): (&Node, &Node),
    (route, wait): (&str, Wait<'_>),
    table: &mut Table,
) {
    let path = (megabits * 125_000.0) as u64;
    let second = path / 4;
    let (mut starts, mut firsts, mut seeks) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..plays {
        let title = format!("{who}{n}");
        let size = second * 120;
        let (id, link) = publish_film(publisher, &title, size, 120, "fof");
        wait(&title, &id);
        let begun = Instant::now();
        let stream = Stream::open(viewer, &link, route);
        let opened = begun.elapsed().as_secs_f64();
        let [first, all] = stream.read(0, second);
        firsts.push(opened + first);
        starts.push(opened + all);
        // Far from what has come, backwards.
        for place in [0.9, 0.7] {
            seeks.push(stream.read((size as f64 * place) as u64, second)[1]);
        }
        stream.close(viewer);
    }
    percentiles(table, &format!("{who}: first byte"), ["", ""], &mut firsts);
    percentiles(table, &format!("{who}: start"), reach[0], &mut starts);
    percentiles(table, &format!("{who}: seek"), reach[1], &mut seeks);

    let rate = path * 7 / 10;
    let (id, link) = publish_film(publisher, &format!("{who}film"), rate * 60, 60, "fof");
    wait(&format!("{who}film"), &id);
    let received = || {
        let friends = json(viewer, &["friend", "list"]);
        friends.as_array().unwrap().iter().map(|f| f["received_bytes"].as_u64().unwrap()).sum::<u64>()
    };
    let before = received();
    let stream = Stream::open(viewer, &link, route);
    let [start, waited, came] = play(&stream, rate);
    assert_eq!(came as u64, rate * 60, "all of it came");
    stream.close(viewer);
    let useful = came / (received() - before) as f64 * 100.0;
    table.add(&format!("{who}: 70 % of the path, start with 2 s: s"), "", start);
    table.add(&format!("{who}: 70 % of the path, % of 60 s waited"), reach[2][0], waited / 60.0 * 100.0);
    table.add(&format!("{who}: useful, % of what came in tunnels"), reach[2][1], useful);
}

fn direct(plays: usize, table: &mut Table) {
    eprintln!("direct, 20 ms, 20 Mbit/s");
    let path = Path::new(20, 20.0);
    let [(_, a), (_, c)] = ["Ana", "Cleo"].map(|name| Wan::around(name, path, &[], &[]));
    befriend(&a, &c);
    let wait = |title: &str, id: &str| wait_until(STEP, "it is known", || found(&c, title, id).is_some());
    let reach = [["<= 0.6", "<= 1.5"], ["<= 0.4", "<= 1.2"], ["<= 0.1", ">= 97"]];
    measure("direct", reach, 20.0, plays, (&c, &a), ("direct", &wait), table);
}

fn relays(plays: usize, table: &mut Table) {
    eprintln!("three relays, 150 ms, 8 Mbit/s");
    let env = [("KITH_PRIVACY", ""), ("KITH_CIRCUIT_SNAPSHOT", "500ms")];
    let path = Path { delay: Duration::from_micros(37_500), ..Path::new(37, 8.0) };
    // The viewer is told of entries and makes circuits as shipped while it watches: what that takes counts.
    let batch = ["--set", "catalogue.batch=30min"];
    let nodes = ["Cleo", "Gus", "Lea", "Rob", "Ana"].map(|name| {
        let node = Wan::around(name, path, &env, if name == "Cleo" { &batch } else { &[] }).1;
        json(&node, &["config", "set", "circuit.pace", "2s"]);
        node
    });
    nodes.windows(2).for_each(|pair| befriend(&pair[0], &pair[1]));
    let [c, _, _, r, a] = &nodes;
    let wait = |title: &str, id: &str| {
        wait_until(STEP, "the last relay knows of it", || found(r, title, id).is_some());
        wait_until(STEP, "a circuit waits ready", || {
            let report = json(c, &["net", "circuits"]);
            let own = report["own"].as_array().unwrap().clone();
            own.iter().any(|c| c["state"] == "ready" && c["relays"].as_u64() >= Some(3))
        });
        if title.ends_with("film") {
            json(c, &["config", "set", "circuit.pace", "60s"]);
        }
    };
    let reach = [["<= 1.5", "<= 3"], ["<= 1.2", "<= 2.5"], ["<= 0.5", ">= 95"]];
    measure("3 relays", reach, 8.0, plays, (c, a), ("onion", &wait), table);
}

/// Three friends, each with a third of the reader's rate, against one of them.
fn three_sources(table: &mut Table) {
    eprintln!("three sources and one");
    let limit = ["--set", "limits.up=700kB/s"];
    let [a, b, d] = ["Ana", "Bo", "Dia"].map(|name| {
        let mut node = Node::stopped(name, &[]);
        node.up("127.0.0.1:0", &[&["--name", name], &limit[..]].concat());
        node
    });
    let c = Node::start("Cleo");
    for (one, other) in [(&a, &b), (&a, &d), (&a, &c), (&b, &c), (&d, &c)] {
        befriend(one, other);
    }
    let film = |title: &str, holders: &[&Node]| {
        let (id, _) = publish_film(&a, title, 12 * MIB, 60, "fof");
        for node in holders.iter().chain([&&c]) {
            wait_until(STEP, "it is known", || found(node, title, &id).is_some());
        }
        holders.iter().for_each(|node| drop(json(node, &["get", &id])));
        let begun = Instant::now();
        let got = json(&c, &["get", &id]);
        (begun.elapsed().as_secs_f64(), got["sources"].as_f64().unwrap())
    };
    let (one, _) = film("one", &[]);
    let (three, sources) = film("three", &[&b, &d]);
    table.add("sources that gave it", "3", sources);
    table.add("three sources: times one", ">= 2.5", one / three);
}

// ---- real players -------------------------------------------------------------------------------

/// Loopback: from asking for the stream to the first byte, and to the first picture in each player.
fn pictures(table: &mut Table) {
    eprintln!("first pictures");
    let Some(clip) = paced_video(30, 4_000) else { return };
    let env = [("KITH_PRIVACY", "fast"), ("KITH_CIRCUIT_PACE", "100ms"), ("KITH_CIRCUIT_SNAPSHOT", "500ms")];
    let nodes = line_named(["Cleo", "Gus", "Lea", "Rob", "Ana"], &env);
    let [c, g, l, r, a] = &nodes;
    let chromium = Chromium::start();
    for (way, viewer, publisher, route) in
        [("direct", c, g, "direct"), ("fof", c, l, "fof"), ("3 relays", c, a, "onion")]
    {
        for n in 0..6 {
            // The same film anew: nobody has it yet.
            let file = publisher.scratch(&format!("film{way}{n}.mp4"));
            std::fs::write(&file, [clip.bytes.as_slice(), &[n; 8]].concat()).unwrap();
            let title = format!("film{}{n}", way.replace(' ', ""));
            let answer = publish(publisher, &file, &title, "fof");
            let (id, link) = (id_of(&answer), answer["link"].as_str().unwrap().to_owned());
            let knows = if route == "onion" { r } else { viewer };
            wait_until(STEP, "it is known", || found(knows, &title, &id).is_some());
            if route == "onion" {
                wait_until(STEP, "a circuit waits ready", || {
                    let report = json(c, &["net", "circuits"]);
                    let own = report["own"].as_array().unwrap().clone();
                    own.iter().any(|c| c["state"] == "ready" && c["relays"].as_u64() >= Some(3))
                });
            }
            let begun = Instant::now();
            let stream = Stream::open(viewer, &link, route);
            let url = format!("http://{}{}", stream.web, stream.path);
            let since = |at: Option<Instant>| at.map_or(f64::NAN, |at| (at - begun).as_secs_f64() * 1e3);
            match n % 3 {
                0 => {
                    let opened = begun.elapsed().as_secs_f64();
                    let first = (opened + stream.read(0, 1)[0]) * 1e3;
                    table.add(&format!("loopback, {way}: first byte, ms"), "", first);
                }
                1 => {
                    let mpv = Mpv::start(&viewer.scratch("mpv"), &url);
                    let shown = since(mpv.first_picture(STEP));
                    table.add(&format!("loopback, {way}: first picture in mpv, ms"), "", shown);
                }
                _ => {
                    let Some(chromium) = &chromium else { continue };
                    chromium.open(&url);
                    let shown = since(chromium.first_picture(STEP));
                    table.add(&format!("loopback, {way}: first picture in Chromium, ms"), "", shown);
                }
            }
            stream.close(viewer);
        }
    }
}

// ---- swarms -------------------------------------------------------------------------------------

/// Bytes a second of the films that swarms watch, and how long they are: as in the simulations.
const SWARM_RATE: u64 = 125_000;
const SWARM_S: u64 = 600;
/// What a copy takes on a link: a block is 17 cells.
const COPY: f64 = (SWARM_RATE * SWARM_S) as f64 / 65_536.0 * 17.0 * 4_096.0;
/// All viewers come within this.
const ARRIVE_S: f64 = 60.0;

/// A publisher who sends four times the film's rate, and viewers who send twice the rate, friends of the
/// publisher and of the three before and the three after each.
fn swarm(viewers: usize, title: &str) -> (Node, Vec<Node>, String) {
    let up = |name: &str, rate: u64| {
        let mut node = Node::stopped(name, &[]);
        let limit = format!("limits.up={}kB/s", rate / 1000);
        // As shipped: asking every friend for news each second would take a good part of these limits.
        let batch = "catalogue.batch=30min";
        node.up("127.0.0.1:0", &["--name", name, "--set", &limit, "--set", batch]);
        node
    };
    let publisher = up("Ana", SWARM_RATE * 4);
    let nodes: Vec<Node> = (0..viewers).map(|n| up(&format!("Viewer{n}"), SWARM_RATE * 2)).collect();
    for (n, node) in nodes.iter().enumerate() {
        befriend(&publisher, node);
        for before in [1, 2, 3] {
            if n >= before {
                befriend(&nodes[n - before], node);
            }
        }
    }
    let (id, _) = publish_film(&publisher, title, SWARM_RATE * SWARM_S, SWARM_S as u32, "fof");
    for node in &nodes {
        wait_until(STEP, "it is known", || found(node, title, &id).is_some());
    }
    (publisher, nodes, id)
}

fn sent(node: &Node) -> f64 {
    let friends = json(node, &["friend", "list"]);
    friends.as_array().unwrap().iter().map(|f| f["sent_bytes"].as_f64().unwrap()).sum()
}

/// Reads a film like a player that keeps five seconds ahead; whether all of it came, and how long it
/// waited.
fn watch(stream: &Stream) -> (bool, f64) {
    let begun = Instant::now();
    let mut arrivals = Arrivals::new(stream.request(0));
    let mut shift = 0.0_f64;
    let mut started = None;
    while arrivals.next() {
        let now = begun.elapsed().as_secs_f64();
        let here = arrivals.come as f64 / SWARM_RATE as f64;
        if here < 5.0 {
            continue;
        }
        let start = *started.get_or_insert(now);
        shift = shift.max(now - start - before(arrivals.come, SWARM_RATE));
        // No more than five seconds ahead of what is shown.
        let ahead = here - 5.0 - (now - start - shift);
        if ahead > 0.0 {
            thread::sleep(Duration::from_secs_f64(ahead.min(1.0)));
        }
    }
    (arrivals.come == SWARM_RATE * SWARM_S, shift)
}

/// All watch, one after the other; `meanwhile` runs until they are done.
fn all_watch(nodes: &[Node], id: &str, meanwhile: impl FnOnce()) -> Vec<(bool, f64)> {
    let gap = Duration::from_secs_f64(ARRIVE_S / nodes.len() as f64);
    thread::scope(|scope| {
        let watching: Vec<_> = nodes
            .iter()
            .enumerate()
            .map(|(n, node)| {
                scope.spawn(move || {
                    thread::sleep(gap * n as u32);
                    let stream = Stream::open(node, id, "auto");
                    watch(&stream)
                })
            })
            .collect();
        meanwhile();
        watching.into_iter().map(|w| w.join().unwrap()).collect()
    })
}

fn copies(viewers: usize, table: &mut Table) {
    eprintln!("{viewers} viewers");
    let (publisher, nodes, id) = swarm(viewers, "swarm");
    let before = sent(&publisher);
    let watched = all_watch(&nodes, &id, || ());
    let copies = (sent(&publisher) - before) / COPY;
    let waited = watched.iter().map(|(_, waited)| waited).sum::<f64>() / viewers as f64;
    let share = watched.iter().filter(|(all, _)| *all).count() as f64 / viewers as f64;
    table.add(&format!("{viewers} viewers: copies that the publisher sent"), "<= 1.25", copies);
    table.add(&format!("{viewers} viewers: saw all of it"), "1", share);
    table.add(&format!("{viewers} viewers: % of the film waited"), "", waited / SWARM_S as f64 * 100.0);
}

/// The publisher is killed when it has sent 1.2 copies, if the viewers need as much.
fn leaves(viewers: usize, table: &mut Table) {
    eprintln!("the publisher leaves");
    let (mut publisher, nodes, id) = swarm(viewers, "orphan");
    let before = sent(&publisher);
    let enough = 1.2 * COPY;
    let mut sent_then = 0.0;
    let watched = all_watch(&nodes, &id, || {
        let begun = |node: &Node| json(node, &["status"])["fetches"].as_u64() == Some(1);
        wait_until(STEP, "all watch", || nodes.iter().all(begun));
        let done = || !nodes.iter().any(begun);
        wait_until(STEP * 2, "it has sent 1.2 copies", || sent(&publisher) - before >= enough || done());
        sent_then = (sent(&publisher) - before) / COPY;
        publisher.kill9();
    });
    let share = watched.iter().filter(|(all, _)| *all).count() as f64 / viewers as f64;
    let waited = watched.iter().map(|(_, waited)| waited).sum::<f64>() / viewers as f64;
    table.add("publisher killed after 1.2 copies: had sent", "", sent_then);
    table.add("publisher killed after 1.2 copies: viewers who saw all", "1", share);
    table.add("publisher killed after 1.2 copies: % of the film waited", "", waited / SWARM_S as f64 * 100.0);
}
