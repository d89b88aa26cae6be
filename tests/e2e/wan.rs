//! A wide-area network in a box: a relay in user space that gives the connections through it delay,
//! jitter, a rate and stalls, where the kernel has no queueing disciplines for that.
//!
//! Each direction of a connection is a pipe of its own: bytes leave it one after the other at the rate,
//! arrive the delay and up to the jitter later, in order, and wait in a bounded buffer before that, so that
//! a sender who is too fast is held back as by a router with a short queue.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Node, in_space};

/// What a direction of a connection is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    /// One way.
    pub(crate) delay: Duration,
    /// Up to so much more, drawn for each piece.
    pub(crate) jitter: Duration,
    /// Bytes a second.
    pub(crate) rate: u64,
}

impl Path {
    /// So many milliseconds one way, a tenth of that as jitter, and megabits a second.
    pub(crate) fn new(delay_ms: u64, megabits: f64) -> Self {
        let delay = Duration::from_millis(delay_ms);
        Self { delay, jitter: delay / 10, rate: (megabits * 125_000.0) as u64 }
    }

    /// Bytes that wait to leave, at most: a tenth of a second, and no less than a record.
    fn buffer(&self) -> usize {
        (self.rate as usize / 10).max(64 << 10)
    }
}

struct State {
    /// Where connections go; nowhere means that they are accepted and closed.
    target: Option<String>,
    path: Path,
    /// Nothing arrives before.
    stalled_until: Instant,
    connections: Vec<[TcpStream; 2]>,
    /// Bytes that arrived, towards the target and back.
    carried: [u64; 2],
}

/// The address of one node for all others.
#[derive(Clone)]
pub(crate) struct Wan {
    pub(crate) address: String,
    state: Arc<Mutex<State>>,
}

impl Wan {
    pub(crate) fn start(path: Path) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").expect("a port"), path, None)
    }

    /// In a network namespace, at an address there (for benches).
    #[allow(dead_code)]
    pub(crate) fn start_in(space: &str, address: &str, path: Path) -> Self {
        let listener = in_space(space, || TcpListener::bind(address)).expect("a port");
        Self::on(listener, path, Some(space.to_owned()))
    }

    fn on(listener: TcpListener, path: Path, space: Option<String>) -> Self {
        let address = listener.local_addr().expect("an address").to_string();
        let state = State {
            target: None,
            path,
            stalled_until: Instant::now(),
            connections: Vec::new(),
            carried: [0; 2],
        };
        let wan = Self { address, state: Arc::new(Mutex::new(state)) };
        let accepting = wan.clone();
        // It ends with the process: nobody else listens there.
        thread::spawn(move || {
            let accept = || {
                for stream in listener.incoming().map_while(Result::ok) {
                    accepting.accepted(stream);
                }
            };
            match space {
                None => accept(),
                Some(space) => in_space(&space, accept),
            }
        });
        wan
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().expect("no thread failed"))
    }

    /// A node that all others reach over such a path.
    pub(crate) fn around(name: &str, path: Path, env: &[(&str, &str)], more: &[&str]) -> (Self, Node) {
        let wan = Self::start(path);
        let mut node = Node::stopped(name, env);
        let advertise = format!("advertise={}", wan.address);
        node.up("127.0.0.1:0", &[&["--name", name, "--set", &advertise], more].concat());
        wan.lead_to(node.listen());
        (wan, node)
    }

    /// Connections go there from now on.
    pub(crate) fn lead_to(&self, target: String) {
        self.with(|state| state.target = Some(target));
    }

    /// Nothing arrives on either side for so long.
    pub(crate) fn stall(&self, time: Duration) {
        self.with(|state| state.stalled_until = Instant::now() + time);
    }

    /// Ends all connections.
    pub(crate) fn cut(&self) {
        let all = self.with(|state| std::mem::take(&mut state.connections));
        all.into_iter().flatten().for_each(|s| drop(s.shutdown(Shutdown::Both)));
    }

    /// Bytes that went through: towards the node, and from it.
    pub(crate) fn carried(&self) -> [u64; 2] {
        self.with(|state| state.carried)
    }

    fn accepted(&self, from: TcpStream) {
        let target = self.with(|state| state.target.clone());
        let Some(to) = target.and_then(|target| TcpStream::connect(target).ok()) else { return };
        let clone = |stream: &TcpStream| stream.try_clone().expect("a stream can be cloned");
        for stream in [&from, &to] {
            stream.set_nodelay(true).expect("an option");
        }
        self.with(|state| state.connections.push([clone(&from), clone(&to)]));
        self.pipe(clone(&from), clone(&to), 0);
        self.pipe(to, from, 1);
    }

    /// One direction: a thread that reads and one that writes when the time has come.
    fn pipe(&self, mut from: TcpStream, mut to: TcpStream, way: usize) {
        let pipe = Arc::new(Pipe::default());
        let (wan, reading) = (self.clone(), Arc::clone(&pipe));
        thread::spawn(move || {
            let mut buffer = vec![0; 16 << 10];
            let (mut leaves, mut arrives) = (Instant::now(), Instant::now());
            let mut draw = Draw(way as u64 + 1);
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                let path = wan.with(|state| state.path);
                leaves = leaves.max(Instant::now()) + Duration::from_secs_f64(n as f64 / path.rate as f64);
                arrives = arrives.max(leaves + path.delay + path.jitter.mul_f64(draw.unit()));
                reading.push(arrives, buffer[..n].to_vec());
                // The next piece is taken when this one's place in the buffer is free again.
                let queue = Duration::from_secs_f64(path.buffer() as f64 / path.rate as f64);
                thread::sleep(leaves.saturating_duration_since(Instant::now() + queue));
            }
            reading.end();
        });
        let wan = self.clone();
        thread::spawn(move || {
            while let Some((at, bytes)) = pipe.pop() {
                loop {
                    let at = at.max(wan.with(|state| state.stalled_until));
                    let wait = at.saturating_duration_since(Instant::now());
                    if wait.is_zero() {
                        break;
                    }
                    thread::sleep(wait);
                }
                wan.with(|state| state.carried[way] += bytes.len() as u64);
                if to.write_all(&bytes).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Both);
        });
    }
}

/// Pieces on their way, each with its time of arrival, and whether more may come.
#[derive(Default)]
struct Pieces {
    queue: VecDeque<(Instant, Vec<u8>)>,
    is_over: bool,
}

#[derive(Default)]
struct Pipe {
    pieces: Mutex<Pieces>,
    changed: Condvar,
}

impl Pipe {
    fn push(&self, at: Instant, bytes: Vec<u8>) {
        self.pieces.lock().expect("no thread failed").queue.push_back((at, bytes));
        self.changed.notify_one();
    }

    fn end(&self) {
        self.pieces.lock().expect("no thread failed").is_over = true;
        self.changed.notify_one();
    }

    fn pop(&self) -> Option<(Instant, Vec<u8>)> {
        let pieces = self.pieces.lock().expect("no thread failed");
        let wait = |p: &mut Pieces| p.queue.is_empty() && !p.is_over;
        self.changed.wait_while(pieces, wait).expect("no thread failed").queue.pop_front()
    }
}

/// Numbers from 0 to 1 (xorshift64*).
struct Draw(u64);

impl Draw {
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection through the network to somebody who sends back what comes.
    fn echo(path: Path) -> (Wan, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let wan = Wan::start(path);
        wan.lead_to(listener.local_addr().expect("an address").to_string());
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut back = stream.try_clone().expect("a clone");
            std::io::copy(&mut stream, &mut back)
        });
        (wan.clone(), TcpStream::connect(&wan.address).expect("it accepts"))
    }

    /// No faster than it says, whatever the machine does besides.
    #[test]
    fn bytes_come_in_order_and_no_sooner_than_the_path_allows() {
        let path = Path { delay: Duration::from_millis(40), jitter: Duration::from_millis(8), rate: 400_000 };
        let (wan, mut stream) = echo(path);
        let begun = Instant::now();
        stream.write_all(&[7]).expect("it takes a byte");
        stream.read_exact(&mut [0]).expect("it comes back");
        assert!(begun.elapsed() >= Duration::from_millis(80), "{:?}", begun.elapsed());
        let sent: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
        let begun = Instant::now();
        let mut writing = stream.try_clone().expect("a clone");
        let bytes = sent.clone();
        let writer = thread::spawn(move || writing.write_all(&bytes));
        let mut came = vec![0; sent.len()];
        stream.read_exact(&mut came).expect("all of it");
        writer.join().expect("a thread").expect("it takes all");
        assert!(came == sent && begun.elapsed() >= Duration::from_millis(580), "{:?}", begun.elapsed());
        assert!(wan.carried().iter().sum::<u64>() >= 400_000);
        wan.stall(Duration::from_millis(300));
        let begun = Instant::now();
        stream.write_all(&[7]).expect("it takes a byte");
        stream.read_exact(&mut [0]).expect("it comes back");
        assert!(begun.elapsed() >= Duration::from_millis(300));
        wan.cut();
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
    }
}
