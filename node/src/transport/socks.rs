//! Somebody else's Tor, by its SOCKS5 proxy (RFC 1928, 1929): names are resolved there, and each friend has a
//! user name of its own, so that Tor gives it circuits of its own (`IsolateSOCKSAuth`, on by default).

use super::tor::{Dialer, State};
use super::{Calling, tcp};
use crate::doctor::NoAnswer;
use kith_crypto::onion_address::OnionAddress;
use kith_onion::handshake::Who;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_socks::Error;
use tokio_socks::tcp::Socks5Stream;

/// How often it is looked whether the proxy is there.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// After so many failures in a row it is not Tor that is away.
const MAX_FAILURES: u32 = 10;

pub(super) struct Socks {
    proxy: SocketAddr,
    /// Who is called with which name: names that say nothing, and that are others after a restart. And how many calls
    /// in a row ended with Tor's word that it cannot.
    names: Arc<Mutex<HashMap<Who, (String, u32)>>>,
}

impl Socks {
    pub(super) fn new(proxy: SocketAddr) -> Self {
        Self { proxy, names: Arc::default() }
    }

    fn name_of(&self, who: Who) -> Option<String> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((name, _)) = names.get(&who) {
            return Some(name.clone());
        }
        let name = crate::stream::random_name().ok()?;
        names.insert(who, (name.clone(), 0));
        Some(name)
    }

    /// "It cannot" may be Tor that starts, and soon can, or something at the friend's side that stays so.
    fn failed(names: &Mutex<HashMap<Who, (String, u32)>>, who: Who) -> NoAnswer {
        let mut names = names.lock().unwrap_or_else(PoisonError::into_inner);
        let failures = names.get_mut(&who).map_or(0, |(_, failures)| {
            *failures = failures.saturating_add(1);
            *failures
        });
        if failures <= MAX_FAILURES { NoAnswer::TorNotReady } else { NoAnswer::Unreachable }
    }

    fn answered(names: &Mutex<HashMap<Who, (String, u32)>>, who: Who) {
        let mut names = names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, failures)) = names.get_mut(&who) {
            *failures = 0;
        }
    }
}

impl Dialer for Socks {
    fn dial(&self, who: Who, onion: OnionAddress, port: u16) -> Calling {
        let (proxy, name, names) = (self.proxy, self.name_of(who), self.names.clone());
        Box::pin(async move {
            let name = name.ok_or(NoAnswer::TorNotReady)?;
            let host = onion.to_string();
            let stream =
                Socks5Stream::connect_with_password(proxy, (host.as_str(), port), &name, &name).await;
            match stream {
                Ok(stream) => {
                    Self::answered(&names, who);
                    Ok(tcp::ready(stream.into_inner()))
                }
                Err(Error::ConnectionRefused) => Err(NoAnswer::Refused),
                // Tor itself cannot, for now: it starts, or has no way out.
                Err(Error::Io(_) | Error::NetworkUnreachable) => Err(NoAnswer::TorNotReady),
                Err(Error::GeneralSocksServerFailure) => Err(Self::failed(&names, who)),
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
