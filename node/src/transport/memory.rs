//! Connections in memory, for tests: no socket is opened.

use super::{Calling, Came, Transport};
use crate::doctor::NoAnswer;
use kith_crypto::cert::Address;
use kith_onion::handshake::Who;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use tokio::sync::mpsc;

const PIPE: usize = 64 * 1024;

/// A network: who listens at which address.
#[derive(Clone, Default)]
pub struct Network(Arc<Mutex<BTreeMap<String, mpsc::Sender<Came>>>>);

/// One node's end of it.
pub struct Memory {
    network: Network,
    tor: bool,
    incoming: mpsc::Receiver<Came>,
}

impl Network {
    /// A node that is called at this address; one with `tor` stands in for Tor.
    pub fn node(&self, addr: &Address, tor: bool) -> Memory {
        let (sender, incoming) = mpsc::channel(16);
        self.0.lock().unwrap().insert(addr.to_string(), sender);
        Memory { network: self.clone(), tor, incoming }
    }

    /// Nobody is there any more.
    pub fn leave(&self, addr: &Address) {
        self.0.lock().unwrap().remove(&addr.to_string());
    }
}

impl Transport for Memory {
    fn is_tor(&self) -> bool {
        self.tor
    }

    fn call(&self, _: Who, addr: &Address) -> Option<Calling> {
        if addr.is_onion() != self.tor {
            return None;
        }
        let (network, addr) = (self.network.clone(), addr.to_string());
        Some(Box::pin(async move {
            let there = network.0.lock().unwrap().get(&addr).cloned().ok_or(NoAnswer::Refused)?;
            let (ours, theirs) = tokio::io::duplex(PIPE);
            there.send(Came { stream: Box::new(theirs), source: 0 }).await.map_err(|_| NoAnswer::Refused)?;
            Ok(Box::new(ours) as super::Stream)
        }))
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Came>> {
        match self.incoming.poll_recv(cx) {
            Poll::Ready(Some(came)) => Poll::Ready(Ok(came)),
            _ => Poll::Pending,
        }
    }
}
