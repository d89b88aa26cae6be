//! Who may use the page: a login works once, a session lives in a cookie and in memory only.
//!
//! Invariant: cookie and CSRF token are 32 random bytes each, are compared whole, and end with the node.

use crate::exit::Failure;
use crate::stream::random_name;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A login waits so long to be opened.
pub const LOGIN_LIFE: Duration = Duration::from_secs(300);
/// A session that is not used ends after this.
const SESSION_IDLE: Duration = Duration::from_secs(7 * 24 * 3600);
/// And every session after this.
const SESSION_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Logins that wait, and sessions; the oldest goes when there are more.
const MAX_LOGINS: usize = 16;
const MAX_SESSIONS: usize = 16;

/// One browser that has logged in. It never prints.
#[derive(Clone)]
pub(crate) struct Session {
    /// What it sends with everything that changes something.
    pub(crate) csrf: String,
    used: Instant,
    made: Instant,
}

#[derive(Default)]
struct Inner {
    logins: HashMap<String, (Instant, Option<String>)>,
    sessions: HashMap<String, Session>,
    /// Links that the page is to ask about, by a name that may stand in an address.
    links: HashMap<String, (Instant, String)>,
}

/// All logins and sessions.
#[derive(Clone, Default)]
pub struct Sessions(Arc<Mutex<Inner>>);

fn make_room<T>(map: &mut HashMap<String, T>, most: usize, since: impl Fn(&T) -> Instant) {
    while map.len() >= most {
        let Some(oldest) = map.iter().min_by_key(|(_, one)| since(one)).map(|(name, _)| name.clone()) else {
            return;
        };
        map.remove(&oldest);
    }
}

impl Sessions {
    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        // Nothing here panics while it holds the lock.
        let mut inner = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        work(&mut inner)
    }

    /// A path that logs in once. `link`: the page asks about it.
    pub fn make_login(&self, link: Option<String>) -> Result<String, Failure> {
        let name = random_name()?;
        self.with(|inner| {
            inner.logins.retain(|_, (made, _)| made.elapsed() < LOGIN_LIFE);
            make_room(&mut inner.logins, MAX_LOGINS, |(made, _)| *made);
            inner.logins.insert(name.clone(), (Instant::now(), link));
        });
        Ok(format!("/login/{name}"))
    }

    /// Uses a login: the cookie's value, and where to go. `None`: there is none like it any more.
    pub(crate) fn log_in(&self, name: &str) -> Result<Option<(String, String)>, Failure> {
        let (cookie, csrf, link_name) = (random_name()?, random_name()?, random_name()?);
        Ok(self.with(|inner| {
            let (_, link) = inner.logins.remove(name).filter(|(made, _)| made.elapsed() < LOGIN_LIFE)?;
            make_room(&mut inner.sessions, MAX_SESSIONS, |session| session.used);
            let now = Instant::now();
            inner.sessions.insert(cookie.clone(), Session { csrf, used: now, made: now });
            let place = match link {
                None => "/".to_owned(),
                Some(link) => {
                    make_room(&mut inner.links, MAX_LOGINS, |(made, _)| *made);
                    inner.links.insert(link_name.clone(), (Instant::now(), link));
                    format!("/link/{link_name}")
                }
            };
            Some((cookie, place))
        }))
    }

    /// The session of a cookie.
    pub(crate) fn session(&self, cookie: &str) -> Option<Session> {
        self.with(|inner| {
            inner.sessions.retain(|_, session| {
                session.used.elapsed() < SESSION_IDLE && session.made.elapsed() < SESSION_LIFE
            });
            let session = inner.sessions.get_mut(cookie)?;
            session.used = Instant::now();
            Some(session.clone())
        })
    }

    /// Ends a session.
    pub(crate) fn log_out(&self, cookie: &str) {
        self.with(|inner| drop(inner.sessions.remove(cookie)));
    }

    /// A link that the page was opened with.
    pub(crate) fn link(&self, name: &str) -> Option<String> {
        self.with(|inner| inner.links.get(name).map(|(_, link)| link.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_works_once() {
        let sessions = Sessions::default();
        let path = sessions.make_login(None).unwrap();
        let name = path.strip_prefix("/login/").unwrap();
        let (cookie, place) = sessions.log_in(name).unwrap().unwrap();
        assert_eq!(place, "/");
        assert!(sessions.log_in(name).unwrap().is_none());
        let session = sessions.session(&cookie).unwrap();
        assert_ne!(session.csrf, cookie);
        assert!(sessions.session(name).is_none() && sessions.session(&session.csrf).is_none());
        sessions.log_out(&cookie);
        assert!(sessions.session(&cookie).is_none());
    }

    #[test]
    fn logins_and_sessions_are_bounded() {
        let sessions = Sessions::default();
        let cookies: Vec<String> = (0..3 * MAX_SESSIONS)
            .map(|_| {
                let path = sessions.make_login(Some("kith:x".into())).unwrap();
                let (cookie, place) = sessions.log_in(&path["/login/".len()..]).unwrap().unwrap();
                assert_eq!(sessions.link(&place["/link/".len()..]).as_deref(), Some("kith:x"));
                cookie
            })
            .collect();
        let live = cookies.iter().filter(|cookie| sessions.session(cookie).is_some()).count();
        assert_eq!(live, MAX_SESSIONS);
        assert!(sessions.session(cookies.last().unwrap()).is_some());
        (0..3 * MAX_LOGINS).for_each(|_| drop(sessions.make_login(None)));
        assert_eq!(sessions.with(|inner| (inner.logins.len(), inner.links.len())), (MAX_LOGINS, MAX_LOGINS));
    }
}
