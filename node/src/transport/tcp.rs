//! TCP: IP addresses and host names.

use super::{Calling, Came, Stream, Transport};
use crate::doctor::NoAnswer;
use kith_crypto::cert::Address;
use kith_onion::handshake::Who;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// One address is tried for so long.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes that the system may hold unsent, so that priorities still count.
const NOT_SENT_LOW: u32 = 512 * 1024;

/// Listeners, and calls to IP addresses and host names.
pub struct Tcp {
    listeners: Vec<TcpListener>,
    next: usize,
}

impl Tcp {
    /// With these listeners.
    pub const fn new(listeners: Vec<TcpListener>) -> Self {
        Self { listeners, next: 0 }
    }
}

impl Transport for Tcp {
    fn is_tor(&self) -> bool {
        false
    }

    fn call(&self, _: Who, addr: &Address) -> Option<Calling> {
        match addr.clone() {
            Address::Ip(addr) => Some(Box::pin(async move { told(TcpStream::connect(addr)).await })),
            Address::Host(host, port) => {
                Some(Box::pin(async move { told(TcpStream::connect((host.as_str(), port))).await }))
            }
            _ => None,
        }
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Came>> {
        // All are asked, so that each of them wakes the caller; the next time another is first.
        let count = self.listeners.len();
        for at in (0..count).map(|n| (self.next + n) % count.max(1)) {
            let Some(listener) = self.listeners.get(at) else { continue };
            if let Poll::Ready(came) = listener.poll_accept(cx) {
                self.next = at + 1;
                let (stream, peer) = came?;
                return Poll::Ready(Ok(Came { stream: ready(stream), source: source_of(peer.ip()) }));
            }
        }
        Poll::Pending
    }
}

/// Cells leave when they are ready; what waits unsent stays small, so that priorities count.
pub(super) fn ready(stream: TcpStream) -> Stream {
    let _ = stream.set_nodelay(true);
    let _ = socket2::SockRef::from(&stream).set_tcp_notsent_lowat(NOT_SENT_LOW);
    Box::new(stream)
}

async fn told(connecting: impl Future<Output = io::Result<TcpStream>>) -> Result<Stream, NoAnswer> {
    match tokio::time::timeout(DIAL_TIMEOUT, connecting).await {
        Ok(Ok(stream)) => Ok(ready(stream)),
        Ok(Err(e)) if e.kind() == ErrorKind::ConnectionRefused => Err(NoAnswer::Refused),
        Ok(Err(e)) if e.kind() != ErrorKind::TimedOut => Err(NoAnswer::Unreachable),
        _ => Err(NoAnswer::TimedOut),
    }
}

/// A listener for connections of other nodes or of the page.
pub fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    if addr.is_ipv6() {
        socket2::SockRef::from(&socket).set_only_v6(true)?;
    }
    socket.bind(addr)?;
    socket.listen(128)
}

/// Limits count by address for IPv4 and by /64 for IPv6.
fn source_of(ip: IpAddr) -> u64 {
    let mut hasher = DefaultHasher::new();
    match ip {
        IpAddr::V4(ip) => ip.octets().hash(&mut hasher),
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => ip.octets().hash(&mut hasher),
            None => ip.octets().iter().take(8).for_each(|b| b.hash(&mut hasher)),
        },
    }
    hasher.finish()
}
