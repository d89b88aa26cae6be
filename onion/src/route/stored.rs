//! The stored form of the routes: `version 1 | tier 1 | primary | reserve | contexts`. Canonical: what
//! decodes encodes to the same bytes. Format: `docs/protocol/circuit.md`.

use super::contexts::{Contexts, MAX_CONTEXTS, MAX_ROUTES, RouteName, Used};
use super::{Guard, Hop, MAX_RELAYS, MAX_UNSUITABLE, Routes, Tier, Way};
use crate::core::FriendKey;
use crate::handle::Handle;
use kith_crypto::codec::{DecodeError, Reader, Writer};
use std::collections::BTreeMap;

const VERSION: u8 = 1;

const SPENT: u8 = 1;
const ABSENT: u8 = 2;
const FAILING: u8 = 4;

impl Routes {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u8(VERSION).u8(match self.tier {
            None => 0,
            Some(Tier::Close) => 1,
            Some(Tier::Verified) => 2,
            Some(Tier::All) => 3,
        });
        put_way(&mut w, &self.primary);
        put_way(&mut w, &self.reserve);
        w.u32(self.contexts.used.len() as u32);
        for (name, used) in &self.contexts.used {
            w.raw(name).u8(used.len() as u8);
            used.iter().for_each(|used| {
                w.raw(&used.route.0).u32(used.day);
            });
        }
        w.into_bytes()
    }

    /// Reads the stored form.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let bad = r.invalid("routes version");
        if r.u8()? != VERSION {
            return Err(bad);
        }
        let bad = r.invalid("tier");
        let tier = match r.u8()? {
            0 => None,
            1 => Some(Tier::Close),
            2 => Some(Tier::Verified),
            3 => Some(Tier::All),
            _ => return Err(bad),
        };
        let primary = read_way(&mut r)?;
        let bad = r.invalid("reserve guard");
        let reserve = read_way(&mut r)?;
        let same = |reserve: Guard| primary.guard.is_none_or(|primary| primary.friend == reserve.friend);
        if reserve.guard.is_some_and(same) {
            return Err(bad);
        }
        let contexts = read_contexts(&mut r)?;
        r.finish()?;
        Ok(Self { tier, primary, reserve, contexts })
    }
}

fn put_way(w: &mut Writer, way: &Way) {
    w.u8(u8::from(way.guard.is_some()));
    let Some(guard) = way.guard else { return };
    w.raw(&guard.friend.0).u64(guard.until_ms).u8(u8::from(way.second.is_some()));
    if let Some(second) = &way.second {
        put_hop(w, second);
        for slot in &way.slots {
            w.u8(slot.len() as u8);
            slot.iter().for_each(|hop| put_hop(w, hop));
        }
    }
    w.u8(way.unsuitable.len() as u8);
    way.unsuitable.iter().for_each(|handle| {
        w.raw(&handle.0);
    });
}

fn read_way(r: &mut Reader<'_>) -> Result<Way, DecodeError> {
    let mut way = Way::default();
    if !r.flag("guard")? {
        return Ok(way);
    }
    way.guard = Some(Guard { friend: FriendKey(r.array()?), until_ms: r.u64()? });
    if r.flag("second hop")? {
        way.second = Some(read_hop(r)?);
        for slot in &mut way.slots {
            for _ in 0..read_count(r, MAX_RELAYS - 2, "hops")? {
                slot.push(read_hop(r)?);
            }
        }
    }
    for _ in 0..read_count(r, MAX_UNSUITABLE, "unsuitable handles")? {
        let bad = r.invalid("unsuitable handle");
        let handle = Handle(r.array()?);
        if way.unsuitable.contains(&handle) {
            return Err(bad);
        }
        way.unsuitable.push(handle);
    }
    Ok(way)
}

fn put_hop(w: &mut Writer, hop: &Hop) {
    let flag = |is_set, flag| if is_set { flag } else { 0 };
    let flags = flag(hop.is_spent, SPENT)
        | flag(hop.absent_ms.is_some(), ABSENT)
        | flag(hop.failing_ms.is_some(), FAILING);
    w.raw(&hop.handle.0).u64(hop.until_ms).u8(flags);
    hop.absent_ms.iter().chain(hop.failing_ms.iter().flat_map(|(since, last)| [since, last])).for_each(
        |ms| {
            w.u64(*ms);
        },
    );
}

fn read_hop(r: &mut Reader<'_>) -> Result<Hop, DecodeError> {
    let (handle, until_ms) = (Handle(r.array()?), r.u64()?);
    let bad = r.invalid("hop flags");
    let flags = r.u8()?;
    if flags > SPENT | ABSENT | FAILING {
        return Err(bad);
    }
    let absent_ms = if flags & ABSENT == 0 { None } else { Some(r.u64()?) };
    let bad = r.invalid("times of failure");
    let failing_ms = if flags & FAILING == 0 { None } else { Some((r.u64()?, r.u64()?)) };
    if failing_ms.is_some_and(|(since, last)| since > last) {
        return Err(bad);
    }
    Ok(Hop { handle, until_ms, absent_ms, failing_ms, is_spent: flags & SPENT != 0 })
}

fn read_contexts(r: &mut Reader<'_>) -> Result<Contexts, DecodeError> {
    let at = r.at();
    let count = r.u32()? as usize;
    if count > MAX_CONTEXTS {
        return Err(DecodeError::TooLarge { at, what: "contexts" });
    }
    let mut contexts = BTreeMap::new();
    for _ in 0..count {
        let bad = r.invalid("context");
        let name = r.array()?;
        if contexts.last_key_value().is_some_and(|(last, _)| *last >= name) {
            return Err(bad);
        }
        let bad = r.invalid("context without routes");
        let mut used: Vec<Used> = Vec::new();
        for _ in 0..read_count(r, MAX_ROUTES, "routes of a context")? {
            let bad = r.invalid("route");
            let (route, day) = (RouteName(r.array()?), r.u32()?);
            if used.iter().any(|used| used.route == route) {
                return Err(bad);
            }
            used.push(Used { route, day });
        }
        if used.is_empty() {
            return Err(bad);
        }
        contexts.insert(name, used);
    }
    Ok(Contexts { used: contexts })
}

fn read_count(r: &mut Reader<'_>, cap: usize, what: &'static str) -> Result<usize, DecodeError> {
    let at = r.at();
    let count = usize::from(r.u8()?);
    if count > cap { Err(DecodeError::TooLarge { at, what }) } else { Ok(count) }
}
