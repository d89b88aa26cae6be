//! Ways to other nodes: TCP, Tor, and memory for tests. Whatever opens a connection to another node, or takes
//! one, stands in this folder; what is above knows streams of bytes only.
//!
//! Invariant: a transport calls only the addresses that are its own, and none stands in for another.

#[cfg(feature = "tor")]
mod arti;
#[cfg(test)]
pub mod memory;
mod socks;
pub mod tcp;
pub mod tor;

use crate::doctor::NoAnswer;
use kith_crypto::cert::Address;
use kith_onion::handshake::Who;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes both ways, in order; an error or an end means that the connection is gone.
pub trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

/// A connection.
pub type Stream = Box<dyn Bytes>;

/// Somebody who connected.
pub struct Came {
    /// The connection.
    pub stream: Stream,
    /// A hash of where it came from, as far as that can be told; for limits only.
    pub source: u64,
}

/// A call under way. Nothing happens before it is polled.
pub type Calling = Pin<Box<dyn Future<Output = Result<Stream, NoAnswer>> + Send>>;

/// A way to other nodes.
pub trait Transport: Send {
    /// Whether neither side learns where the other is.
    fn is_tor(&self) -> bool;

    /// Calls an address; `None`: it is not one of this transport's.
    fn call(&self, who: Who, addr: &Address) -> Option<Calling>;

    /// The next one who connected. An error is one of this machine (out of descriptors, say), not of a peer.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Came>>;
}
