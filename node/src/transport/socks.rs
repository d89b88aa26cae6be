//! Somebody else's Tor, by its SOCKS5 proxy (RFC 1928, 1929): names are resolved there, and each friend has a
//! user name of its own, so that Tor gives it circuits of its own (`IsolateSOCKSAuth`, on by default).

use super::tor::{Dialer, State};
use super::{Calling, tcp};
use crate::doctor::NoAnswer;
use kith_crypto::onion_address::OnionAddress;
use kith_onion::handshake::Who;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_socks::Error;
use tokio_socks::tcp::Socks5Stream;

/// How often it is looked whether the proxy is there.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Socks {
    proxy: SocketAddr,
    /// Who is called with which name: names that say nothing, and that are others after a restart.
    names: Mutex<HashMap<Who, String>>,
}

impl Socks {
    pub(super) fn new(proxy: SocketAddr) -> Self {
        Self { proxy, names: Mutex::default() }
    }

    fn name_of(&self, who: Who) -> Option<String> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = names.get(&who) {
            return Some(name.clone());
        }
        let name = crate::stream::random_name().ok()?;
        names.insert(who, name.clone());
        Some(name)
    }
}

impl Dialer for Socks {
    fn dial(&self, who: Who, onion: OnionAddress, port: u16) -> Calling {
        let (proxy, name) = (self.proxy, self.name_of(who));
        Box::pin(async move {
            let name = name.ok_or(NoAnswer::TorNotReady)?;
            let host = onion.to_string();
            let stream =
                Socks5Stream::connect_with_password(proxy, (host.as_str(), port), &name, &name).await;
            match stream {
                Ok(stream) => Ok(tcp::ready(stream.into_inner())),
                Err(Error::ConnectionRefused) => Err(NoAnswer::Refused),
                // Tor itself cannot, for now: it starts, or has no way out.
                Err(Error::Io(_) | Error::GeneralSocksServerFailure | Error::NetworkUnreachable) => {
                    Err(NoAnswer::TorNotReady)
                }
                Err(_) => Err(NoAnswer::Unreachable),
            }
        })
    }
}

/// Looks whether the proxy is there, for as long as somebody wants to know.
pub(super) async fn watch(proxy: SocketAddr, state: watch::Sender<State>) {
    while !state.is_closed() {
        let now = match tokio::time::timeout(LOOK_TIMEOUT, TcpStream::connect(proxy)).await {
            Ok(Ok(_)) => State::Ready,
            Ok(Err(e)) => {
                State::Failed(format!("the proxy at {proxy} cannot be reached ({e}): start Tor there"))
            }
            Err(_) => State::Failed(format!("the proxy at {proxy} does not answer: start Tor there")),
        };
        state.send_if_modified(|state| std::mem::replace(state, now.clone()) != now);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
