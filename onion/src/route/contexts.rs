//! Which routes each context has used: the count that keeps one interest from showing itself over
//! many routes.
//!
//! Contexts and routes are kept under keyed hashes and without times of day: what is stored says how
//! many things were watched on which days, and not what.

use kith_crypto::kdf::{self, Label};
use kith_crypto::secret::Key;
use std::collections::BTreeMap;

/// Different routes that a context may use in 30 days.
pub const MAX_ROUTES: usize = 4;
/// Most contexts that are remembered; beyond them the one that was not used for longest is forgotten.
pub const MAX_CONTEXTS: usize = 4_000;

const DAYS: u32 = 30;

/// The context would show itself over more than [`MAX_ROUTES`] routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyRoutes;

impl std::fmt::Display for TooManyRoutes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("it has been fetched over too many routes in the last 30 days")
    }
}

impl std::error::Error for TooManyRoutes {}

/// Names a route: a hash of its relays, as this node names them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteName(pub(super) [u8; 8]);

impl std::fmt::Debug for RouteName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RouteName(..)")
    }
}

/// A route that a context used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) route: RouteName,
    /// Last day of use since the Unix epoch.
    pub(super) day: u32,
}

/// The routes of all contexts.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Contexts {
    pub(super) used: BTreeMap<[u8; 16], Vec<Used>>,
}

impl std::fmt::Debug for Contexts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Contexts(..)")
    }
}

impl Contexts {
    pub(super) fn allow(
        &mut self,
        secret: &Key,
        context: &[u8; 32],
        route: RouteName,
        unix_ms: u64,
    ) -> Result<bool, TooManyRoutes> {
        let today = day_of(unix_ms);
        self.prune(today);
        let name = name(secret, context);
        let used = self.used.get(&name).map_or(&[][..], Vec::as_slice);
        if used.iter().any(|u| u.route == route && u.day == today) {
            return Ok(false);
        }
        if used.iter().all(|u| u.route != route) && count(used, today) >= MAX_ROUTES {
            return Err(TooManyRoutes);
        }
        if used.is_empty() && self.used.len() >= MAX_CONTEXTS {
            self.drop_oldest();
        }
        let used = self.used.entry(name).or_default();
        used.retain(|u| u.route != route && is_recent(u, today));
        used.push(Used { route, day: today });
        Ok(true)
    }

    pub(super) fn route_count(&self, secret: &Key, context: &[u8; 32], unix_ms: u64) -> usize {
        self.used.get(&name(secret, context)).map_or(0, |used| count(used, day_of(unix_ms)))
    }

    fn prune(&mut self, today: u32) {
        self.used.retain(|_, used| {
            // Used while the clock was ahead: counted from today on, or it would never be over.
            used.iter_mut().for_each(|u| u.day = u.day.min(today));
            used.retain(|u| is_recent(u, today));
            !used.is_empty()
        });
    }

    fn drop_oldest(&mut self) {
        let last_use = |used: &Vec<Used>| used.iter().map(|u| u.day).max();
        let oldest = self.used.iter().min_by_key(|(_, used)| last_use(used)).map(|(name, _)| *name);
        oldest.and_then(|name| self.used.remove(&name));
    }
}

fn name(secret: &Key, context: &[u8; 32]) -> [u8; 16] {
    kdf::mac16(&kdf::derive(Label::CONTEXT, &[secret.expose()]), context)
}

fn day_of(unix_ms: u64) -> u32 {
    u32::try_from(unix_ms / super::DAY_MS).unwrap_or(u32::MAX)
}

/// The day of use and 30 whole days after it.
const fn is_recent(used: &Used, today: u32) -> bool {
    used.day.saturating_add(DAYS) >= today
}

fn count(used: &[Used], today: u32) -> usize {
    used.iter().filter(|u| is_recent(u, today)).count()
}
