//! Faults of links between real processes; the table in `tests/tests/links.rs` says which row is
//! where.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::flood::Flood;
use crate::harness::*;

const MIB: usize = 1 << 20;

// ---- somebody on the way ------------------------------------------------------------------------

#[derive(Clone, Copy, Debug, PartialEq)]
enum Meddling {
    Nothing,
    Swap,
    Double,
    LeaveOut,
    Flip,
    Insert,
    Cut,
}

#[derive(Default)]
struct State {
    /// Where the connections go; nowhere means that they are accepted and closed.
    target: Option<String>,
    connections: Vec<[TcpStream; 2]>,
    accepted: usize,
    /// What is done once, after so many more bytes of an answer.
    next: Option<(usize, Meddling)>,
}

/// A proxy that is Ana's address for everybody else.
#[derive(Clone)]
struct Proxy {
    address: String,
    state: Arc<Mutex<State>>,
}

impl Proxy {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let proxy = Self { address, state: Arc::default() };
        let accepting = proxy.clone();
        // It ends with the process: nobody else listens there.
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                accepting.accepted(stream);
            }
        });
        proxy
    }

    fn accepted(&self, from: TcpStream) {
        let mut state = self.state.lock().unwrap();
        state.accepted += 1;
        let Some(to) = state.target.as_ref().and_then(|t| TcpStream::connect(t).ok()) else { return };
        for stream in [&from, &to] {
            stream.set_nodelay(true).unwrap();
        }
        let clone = |stream: &TcpStream| stream.try_clone().unwrap();
        state.connections.push([clone(&from), clone(&to)]);
        let (there, back) = ((clone(&from), clone(&to)), (to, from));
        let proxy = self.clone();
        thread::spawn(move || pump(there.0, there.1, |bytes| bytes));
        thread::spawn(move || pump(back.0, back.1, |bytes| proxy.meddle(bytes)));
    }

    fn meddle(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        let mut state = self.state.lock().unwrap();
        let Some((wait, how)) = state.next else { return bytes };
        if wait > 0 || bytes.len() < 2 {
            state.next = Some((wait.saturating_sub(bytes.len()), how));
            return bytes;
        }
        state.next = None;
        let half = bytes.len() / 2;
        match how {
            Meddling::Nothing => {}
            Meddling::Swap => bytes.rotate_left(half),
            Meddling::Double => bytes.extend(bytes.clone()),
            Meddling::LeaveOut => bytes.truncate(half),
            Meddling::Flip => bytes[half] ^= 4,
            Meddling::Insert => bytes.splice(half..half, random_bytes(100)).for_each(drop),
            Meddling::Cut => {
                bytes.truncate(half);
                state.connections.drain(..).flatten().for_each(|s| drop(s.shutdown(Shutdown::Both)));
            }
        }
        bytes
    }

    fn cut_all(&self) {
        let mut state = self.state.lock().unwrap();
        state.connections.drain(..).flatten().for_each(|s| drop(s.shutdown(Shutdown::Both)));
    }

    fn accepted_so_far(&self) -> usize {
        self.state.lock().unwrap().accepted
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, change: impl Fn(Vec<u8>) -> Vec<u8>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if to.write_all(&change(buffer[..n].to_vec())).is_err() {
            break;
        }
    }
    for stream in [from, to] {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

/// Ana and Bo, whose only way to each other is the proxy: Bo cannot be dialled.
fn proxied() -> (Node, Node, Proxy) {
    let proxy = Proxy::start();
    let start = |name: &str, advertise: &str| {
        let mut node = Node::stopped(name, &[]);
        node.up("127.0.0.1:0", &["--name", name, "--set", &format!("advertise={advertise}")]);
        node
    };
    let (a, b) = (start("Ana", &proxy.address), start("Bo", "127.0.0.1:9"));
    proxy.state.lock().unwrap().target = Some(a.listen());
    befriend(&a, &b);
    (a, b, proxy)
}

// ---- rows 6 and 15 ------------------------------------------------------------------------------

#[test]
fn a_proxy_that_meddles_ends_links_only() {
    use Meddling::{Cut, Double, Flip, Insert, LeaveOut, Nothing, Swap};
    let (a, b, proxy) = proxied();
    for (n, how) in [Nothing, Swap, Double, LeaveOut, Flip, Insert, Cut].into_iter().enumerate() {
        let (path, bytes) = random_file(&a, &format!("{n}.bin"), 4 * MIB);
        let word = format!("dunlin{n}");
        let id = id_of(&publish(&a, &path, &word, "friends"));
        wait_found(&b, &word, &id);
        let before = proxy.accepted_so_far();
        proxy.state.lock().unwrap().next = Some((MIB, how));
        let out = b.scratch(&format!("out-{n}.bin"));
        let get = command(&b.home, &["get", &id, "-o", out.to_str().unwrap()]);
        Running::start(get, b"").finish(Duration::from_secs(60)).expect_code(&[0]);
        assert_same(&out, &bytes);
        assert!(proxy.state.lock().unwrap().next.is_none(), "{how:?} was done");
        let again = proxy.accepted_so_far() - before;
        assert_eq!(again == 0, how == Nothing, "{how:?}: {again} new connections");
        wait_connected(&a, &b);
    }
}

// ---- row 16 -------------------------------------------------------------------------------------

#[test]
fn flapping_fills_no_log() {
    let (a, b, proxy) = proxied();
    let lines = |node: &Node| node.log().lines().count();
    let (before_a, before_b) = (lines(&a), lines(&b));
    // Links that last half a second.
    for _ in 0..3 {
        wait_connected(&a, &b);
        let_pass(Duration::from_millis(500));
        proxy.cut_all();
    }
    // Then somebody who takes every connection and ends it.
    proxy.state.lock().unwrap().target = None;
    proxy.cut_all();
    let dials = proxy.accepted_so_far();
    // After three short links the next gaps are at most 6 and 12 s.
    let_pass(Duration::from_secs(20));
    let dials = proxy.accepted_so_far() - dials;
    assert!((2..=12).contains(&dials), "{dials} dials in twenty seconds: gaps grow");
    let (more_a, more_b) = (lines(&a) - before_a, lines(&b) - before_b);
    assert!(more_a <= 12 && more_b <= 12, "{more_a} and {more_b} lines of log about it");
}

// ---- row 3 --------------------------------------------------------------------------------------

#[test]
fn a_flood_of_garbage_gets_no_byte_and_stops_no_friend() {
    let [a, b] = line_of::<2>();
    let (path, bytes) = random_file(&a, "one.bin", 8 * MIB);
    let id = id_of(&publish(&a, &path, "Knot", "friends"));
    wait_found(&b, "knot", &id);
    let flood = Flood::start(&a.listen(), 2, 4_000);
    let_pass(Duration::from_millis(500));
    let out = b.scratch("out.bin");
    let get = command(&b.home, &["get", &id, "-o", out.to_str().unwrap()]);
    Running::start(get, b"").finish(Duration::from_secs(60)).expect_code(&[0]);
    let_pass(Duration::from_millis(1_000));
    let online = is_online(&a, "Bo") && is_online(&b, "Ana");
    let counts = flood.stop();
    assert!(online, "a friend's link is not ended by strangers");
    assert_same(&out, &bytes);
    assert_eq!(counts.answered, 0, "strangers got bytes: {counts:?}");
    let rate = counts.connected as f64 / counts.seconds;
    assert!(rate > 200.0, "that was no flood: {counts:?}");
    // It is over, and so is all that it took: a new friend's link is not in anybody's way.
    let c = Node::start("Cleo");
    befriend(&a, &c);

    // The control: of a listener that answers, the answers are counted.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let flood = Flood::start(&listener.local_addr().unwrap().to_string(), 1, 1_000);
    let mut answered: Vec<TcpStream> = Vec::new();
    for mut stream in listener.incoming().map_while(Result::ok).take(100) {
        stream.write_all(b"220 hello\r\n").unwrap();
        answered.push(stream);
    }
    assert!(flood.stop().answered > 0);
}
