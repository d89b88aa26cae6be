//! Films over any kind of path, and readers that behave like players: for the benches of watching.

// A bench that can't go on has nothing to report but why.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::figures::*;
use crate::harness::*;

pub(crate) const MIB: u64 = 1 << 20;
/// How long one measured step may take before the bench gives up.
pub(crate) const STEP: Duration = Duration::from_secs(600);

// ---- one reader ---------------------------------------------------------------------------------

/// A stream address, and the requests of a player.
pub(crate) struct Stream {
    pub(crate) web: String,
    pub(crate) path: String,
    name: String,
    space: Option<String>,
}

impl Stream {
    pub(crate) fn open(node: &Node, what: &str, route: &str) -> Self {
        let answer = api(node, "POST", "/api/streams", Some(&json!({"id": what, "route": route})));
        let web = node.web();
        let url = answer["url"].as_str().unwrap_or_else(|| panic!("no stream: {answer}"));
        let path = url.strip_prefix(&format!("http://{web}")).unwrap().to_owned();
        let name = answer["name"].as_str().unwrap().to_owned();
        Self { web, path, name, space: node.netns.clone() }
    }

    fn request(&self, from: u64) -> TcpStream {
        let mut player = match &self.space {
            None => TcpStream::connect(&self.web),
            Some(space) => in_space(space, || TcpStream::connect(&self.web)),
        }
        .unwrap();
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
    pub(crate) fn read(&self, from: u64, len: u64) -> [f64; 2] {
        let begun = Instant::now();
        let mut arrivals = Arrivals::new(self.request(from));
        let mut first = None;
        while arrivals.come < len {
            assert!(arrivals.next(), "the stream ended");
            first.get_or_insert(begun.elapsed().as_secs_f64());
        }
        [first.unwrap(), begun.elapsed().as_secs_f64()]
    }

    pub(crate) fn close(self, node: &Node) {
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

pub(crate) fn percentiles(table: &mut Table, what: &str, reach: [&'static str; 2], values: &mut [f64]) {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values[((values.len() as f64 * share).ceil() as usize).clamp(1, values.len()) - 1];
    table.add(&format!("{what}, p50: s"), reach[0], at(0.5));
    table.add(&format!("{what}, p95: s"), reach[1], at(0.95));
}

pub(crate) fn write_random(path: &Path, size: u64) {
    let mut file = File::create(path).unwrap();
    let mut left = size;
    while left > 0 {
        let bytes = random_bytes(usize::try_from(left.min(8 * MIB)).unwrap());
        file.write_all(&bytes).unwrap();
        left -= bytes.len() as u64;
    }
    file.sync_all().unwrap();
}

/// A film of noise that says how long it is.
pub(crate) fn publish_film(node: &Node, title: &str, len: u64, seconds: u32, to: &str) -> (String, String) {
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
pub(crate) type Wait<'a> = &'a dyn Fn(&str, &str);

/// Starts and seeks over a path of this rate, films of a quarter of it; then a film of seven tenths from
/// beginning to end.
pub(crate) fn measure(
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

// ---- swarms -------------------------------------------------------------------------------------

/// Bytes a second of the films that swarms watch, and how long they are: as in the simulations.
pub(crate) const SWARM_RATE: u64 = 125_000;
pub(crate) const SWARM_S: u64 = 600;
/// What a copy takes on a link: a block is 17 cells.
pub(crate) const COPY: f64 = (SWARM_RATE * SWARM_S) as f64 / 65_536.0 * 17.0 * 4_096.0;
/// All viewers come within this.
const ARRIVE_S: f64 = 60.0;

pub(crate) fn sent(node: &Node) -> f64 {
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

/// Makes viewers friends of the publisher and of the three before and the three after each, and publishes a film
/// that all of them come to know.
pub(crate) fn meet(publisher: &Node, nodes: &[Node], title: &str, befriend: impl Fn(&Node, &Node)) -> String {
    for (n, node) in nodes.iter().enumerate() {
        befriend(publisher, node);
        nodes[n.saturating_sub(3)..n].iter().rev().for_each(|before| befriend(before, node));
    }
    let (id, _) = publish_film(publisher, title, SWARM_RATE * SWARM_S, SWARM_S as u32, "fof");
    for node in nodes {
        wait_until(STEP, "it is known", || found(node, title, &id).is_some());
    }
    id
}

/// What a publisher's viewers cost him, and what they saw.
pub(crate) fn count_copies(who: &str, publisher: &Node, nodes: &[Node], id: &str, table: &mut Table) {
    let before = sent(publisher);
    let watched = all_watch(nodes, id, || ());
    let copies = (sent(publisher) - before) / COPY;
    let viewers = nodes.len() as f64;
    let waited = watched.iter().map(|(_, waited)| waited).sum::<f64>() / viewers;
    let share = watched.iter().filter(|(all, _)| *all).count() as f64 / viewers;
    table.add(&format!("{who}: copies that the publisher sent"), "<= 1.25", copies);
    table.add(&format!("{who}: saw all of it"), "1", share);
    table.add(&format!("{who}: % of the film waited"), "", waited / SWARM_S as f64 * 100.0);
}

/// All watch, one after the other; `meanwhile` runs until they are done.
pub(crate) fn all_watch(nodes: &[Node], id: &str, meanwhile: impl FnOnce()) -> Vec<(bool, f64)> {
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
