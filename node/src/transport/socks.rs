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
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_socks::Error;
use tokio_socks::tcp::Socks5Stream;

/// How often it is looked whether the proxy is there.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// Tor that cannot for longer than this is not what is away.
const MAY_BE_TOR: Duration = Duration::from_secs(600);

pub(super) struct Socks {
    proxy: SocketAddr,
    names: Names,
}

/// Who is called with which name: names that say nothing, and that are others after a restart. And when calls first and last
/// ended with Tor's word that it cannot, if all between did.
#[derive(Clone, Default)]
struct Names(Arc<Mutex<Named>>);

type Named = HashMap<Who, (String, Option<(Instant, Instant)>)>;

impl Names {
    fn with<T>(&self, work: impl FnOnce(&mut Named) -> T) -> T {
        // Nothing here panics while it holds the lock.
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn of(&self, who: Who) -> Option<String> {
        self.with(|names| {
            if let Some((name, _)) = names.get(&who) {
                return Some(name.clone());
            }
            let name = crate::stream::random_name().ok()?;
            names.insert(who, (name.clone(), None));
            Some(name)
        })
    }

    /// "It cannot" may be Tor that starts or has no network, or something at the friend's side that stays so.
    fn failed(&self, who: Who, now: Instant) -> NoAnswer {
        let lasts = self.with(|names| {
            let Some((_, failed)) = names.get_mut(&who) else { return Duration::ZERO };
            let since = failed.filter(|(_, last)| now.saturating_duration_since(*last) < MAY_BE_TOR);
            let (since, _) = *failed.insert((since.map_or(now, |(since, _)| since), now));
            now.saturating_duration_since(since)
        });
        // After that nothing is said of Tor any more, and the friend is called less often.
        if lasts < MAY_BE_TOR { NoAnswer::TorNotReady } else { NoAnswer::Unreachable }
    }

    fn answered(&self, who: Who) {
        self.with(|names| names.get_mut(&who).into_iter().for_each(|(_, failed)| *failed = None));
    }
}

impl Socks {
    pub(super) fn new(proxy: SocketAddr) -> Self {
        Self { proxy, names: Names::default() }
    }
}

impl Dialer for Socks {
    /// The other program's words for both are the same.
    fn knows_whose_side(&self) -> bool {
        false
    }

    fn dial(&self, who: Who, onion: OnionAddress, port: u16) -> Calling {
        let (proxy, names) = (self.proxy, self.names.clone());
        Box::pin(async move {
            let name = names.of(who).ok_or(NoAnswer::TorNotReady)?;
            let host = onion.to_string();
            let stream =
                Socks5Stream::connect_with_password(proxy, (host.as_str(), port), &name, &name).await;
            match stream {
                Ok(stream) => {
                    names.answered(who);
                    Ok(tcp::ready(stream.into_inner()))
                }
                Err(Error::ConnectionRefused) => {
                    names.answered(who);
                    Err(NoAnswer::Refused)
                }
                // Tor itself cannot, for now: it starts, or has no way out.
                Err(Error::Io(_) | Error::NetworkUnreachable) => Err(NoAnswer::TorNotReady),
                Err(Error::GeneralSocksServerFailure) => Err(names.failed(who, Instant::now())),
                Err(_) => {
                    names.answered(who);
                    Err(NoAnswer::Unreachable)
                }
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

#[cfg(test)]
mod tests {
    use super::*;
    use kith_onion::FriendKey;

    /// A68: two friends must not be seen to be friends of one node.
    #[test]
    fn each_friend_is_called_with_a_name_of_its_own() {
        let names = Names::default();
        let [one, other] = [1, 2].map(|n| Who::Friend(FriendKey([n; 32])));
        assert_eq!(names.of(one), names.of(one));
        assert_ne!(names.of(one), names.of(other));
        assert_ne!(names.of(one), Names::default().of(one), "after a restart");
    }

    #[test]
    fn what_never_ends_is_not_blamed_on_tor() {
        let (names, who, begun) = (Names::default(), Who::Friend(FriendKey([1; 32])), Instant::now());
        names.of(who);
        let after = |seconds| names.failed(who, begun + Duration::from_secs(seconds));
        assert_eq!(
            [0, 300, 599, 600].map(after),
            [NoAnswer::TorNotReady, NoAnswer::TorNotReady, NoAnswer::TorNotReady, NoAnswer::Unreachable,]
        );
        names.answered(who);
        assert_eq!(after(700), NoAnswer::TorNotReady, "it went on meanwhile");
        assert_eq!(after(700 + 86_400), NoAnswer::TorNotReady, "and another time");
    }
}
