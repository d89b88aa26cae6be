//! A load of strangers: connections that bring garbage, as many a second as are asked for, from many
//! loopback addresses. What comes back is counted.

use std::collections::VecDeque;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::harness::{let_pass, random_bytes};

/// Connections that each thread holds open before it leaves the oldest.
const HELD: usize = 400;

/// What a flood did and got.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Connections that stood.
    pub(crate) connected: u64,
    /// Connections that the listener's queue had no room for.
    pub(crate) turned_away: u64,
    /// Bytes that were sent back.
    pub(crate) answered: u64,
    /// How long it took.
    pub(crate) seconds: f64,
}

/// Threads that connect until they are told to stop.
pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Counts>>,
    begun: Instant,
}

impl Flood {
    /// Begins to connect, all threads together so many times a second.
    pub(crate) fn start(address: &str, threads: u32, per_second: u32) -> Self {
        let target: SocketAddr = address.parse().expect("a socket address");
        let stop = Arc::new(AtomicBool::new(false));
        let spawn = |n: u32| {
            let stop = stop.clone();
            thread::spawn(move || run(target, n, f64::from(per_second) / f64::from(threads), &stop))
        };
        Self { threads: (0..threads).map(spawn).collect(), stop, begun: Instant::now() }
    }

    /// Ends the flood.
    pub(crate) fn stop(self) -> Counts {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Counts { seconds: self.begun.elapsed().as_secs_f64(), ..Counts::default() };
        for thread in self.threads {
            let counts = thread.join().expect("the load does not fail");
            all.connected += counts.connected;
            all.turned_away += counts.turned_away;
            all.answered += counts.answered;
        }
        all
    }
}

fn run(target: SocketAddr, thread: u32, per_second: f64, stop: &AtomicBool) -> Counts {
    let garbage = random_bytes(2_048);
    let (mut counts, mut held) = (Counts::default(), VecDeque::new());
    let (begun, mut opened) = (Instant::now(), 0_u32);
    while !stop.load(Ordering::Relaxed) {
        if f64::from(opened) >= begun.elapsed().as_secs_f64() * per_second {
            let_pass(Duration::from_millis(1));
            continue;
        }
        opened += 1;
        held.extend(connect(target, thread, opened, &garbage));
        if held.len() > HELD {
            held.pop_front().into_iter().for_each(|socket| leave(socket, &mut counts));
        }
    }
    held.into_iter().for_each(|socket| leave(socket, &mut counts));
    counts
}

/// A connection from one of many addresses, with some garbage on its way.
fn connect(target: SocketAddr, thread: u32, n: u32, garbage: &[u8]) -> Option<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).ok()?;
    let source = Ipv4Addr::new(127, 1 + thread as u8, (n / 250 % 250) as u8, 1 + (n % 250) as u8);
    socket.bind(&SocketAddrV4::new(source, 0).into()).ok()?;
    // Nothing may be left behind that uses up ports.
    socket.set_linger(Some(Duration::ZERO)).ok()?;
    socket.set_nonblocking(true).ok()?;
    // On loopback the connection stands when this returns, or the listener's queue was full.
    let _ = socket.connect(&target.into());
    let len = 1 + n as usize * 37 % garbage.len();
    let _ = socket.send(garbage.get(..len).unwrap_or_default());
    Some(socket)
}

fn leave(socket: Socket, counts: &mut Counts) {
    let mut stream = TcpStream::from(socket);
    let mut buffer = [0; 256];
    let came = stream.read(&mut buffer);
    // A connection that was turned away has no peer; one that the node closed already has none left,
    // and says so by an end or a reset.
    match came {
        Ok(n) => {
            counts.connected += 1;
            counts.answered += n as u64;
        }
        Err(e) if e.kind() == std::io::ErrorKind::WouldBlock && stream.peer_addr().is_err() => {
            counts.turned_away += 1;
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotConnected => counts.turned_away += 1,
        Err(_) => counts.connected += 1,
    }
}
