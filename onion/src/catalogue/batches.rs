//! What time does: batches of relayed entries, entries that leave or expire, pulls that are due.

use super::known::{EntryId, FriendNo};
use super::replay::del_record;
use super::told::shuffle;
use super::{Act, Catalogue, DAY_S};
use crate::control::Part;
use crate::core::FriendKey;
use crate::entry::{Eid, Entry};
use crate::time::{Now, earliest};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const EXPIRY_CHECK: Duration = Duration::from_secs(3600);

impl Catalogue {
    /// Releases what is due, expires what is old, and asks friends whose time has come.
    pub fn timeout(&mut self, now: Now) {
        let next = *self.next_batch.get_or_insert(now.at);
        if now.at >= next {
            self.next_batch = Some(now.at + self.pace.batch);
            self.release(now.unix_ms);
        }
        if now.at >= self.next_expiry {
            self.next_expiry = now.at + EXPIRY_CHECK;
            self.expire(now);
        }
        for (friend, view) in &mut self.views {
            for part in Part::BOTH {
                let connected = view.connected;
                let state = view.part(part);
                if connected && !state.asked && state.pull_at.is_some_and(|at| at <= now.at) {
                    (state.asked, state.pull_at) = (true, None);
                    self.acts.push_back(Act::Pull(*friend, part, state.log, state.upto));
                }
            }
        }
    }

    /// When [`Catalogue::timeout`] or [`Catalogue::set_hour`] has something to do.
    pub fn poll_timeout(&self) -> Option<Duration> {
        if self.locators.is_busy() {
            return Some(Duration::ZERO);
        }
        let pulls = self
            .views
            .values()
            .filter(|v| v.connected)
            .flat_map(|v| [&v.own, &v.relayed])
            .filter(|s| !s.asked)
            .filter_map(|s| s.pull_at)
            .min();
        let batch = self.next_batch.unwrap_or(Duration::ZERO);
        earliest(pulls, Some(batch.min(self.next_expiry)))
    }

    /// Time until friends' friends' entries are asked for next, if any friend is connected.
    pub fn next_relayed_pull(&self, now: Now) -> Option<Duration> {
        let pulls = self.views.values().filter(|v| v.connected).filter_map(|v| v.relayed.pull_at);
        pulls.min().map(|at| at.saturating_sub(now.at))
    }

    /// The end of a batch: entries enter and leave the relayed log together, in random order.
    fn release(&mut self, now_ms: u64) {
        let later = self.due.split_off(&(now_ms + 1, EntryId(0)));
        let mut ids: Vec<EntryId> =
            std::mem::replace(&mut self.due, later).into_iter().map(|d| d.1).collect();
        ids.sort_unstable();
        ids.dedup();
        shuffle(&mut ids, &mut self.rng);
        let mut emptied = BTreeSet::new();
        for id in ids {
            let Some(known) = self.objects.get(id) else { continue };
            let leaving = known.heard().iter().filter(|h| h.leave_ms <= now_ms);
            let leaving: Vec<(FriendNo, Eid)> = leaving.map(|h| (h.friend, h.eid)).collect();
            for (no, eid) in leaving {
                if let Some(friend) = self.key_of(no) {
                    self.drop_mention(now_ms, friend, eid);
                    emptied.insert(friend);
                }
            }
            let Some(known) = self.objects.get_mut(id) else { continue };
            let visible = known.is_relayable(now_ms);
            let changed = std::mem::take(&mut known.changed) && visible;
            self.log_relayed(id, visible, changed);
            if self.objects.get(id).is_some_and(super::known::Known::is_forgotten) {
                self.settle(id);
            }
        }
        emptied.into_iter().for_each(|friend| self.drop_if_empty(friend));
        self.compact_relayed();
    }

    fn expire(&mut self, now: Now) {
        let today = (now.unix_s() / DAY_S) as u32;
        let due = |id: &EntryId| {
            let known = self.objects.get(*id)?;
            let own = known.own.as_ref().filter(|own| own.renew_at_s <= now.unix_s())?;
            Some((known.words.entry(own.audience.hops(), own.expires_day), own.audience))
        };
        let renew: Vec<_> = self.own.iter().filter_map(due).collect();
        for (entry, audience) in renew {
            if let Ok(entry) = Entry::decode(&entry) {
                self.publish(now, entry, audience, true);
            }
        }
        let mut old: BTreeMap<FriendKey, Vec<Eid>> = BTreeMap::new();
        for (_, known) in self.objects.iter() {
            for heard in known.heard().iter().filter(|h| h.stays() && h.expires_day < today) {
                if let Some(friend) = self.key_of(heard.friend) {
                    old.entry(friend).or_default().push(heard.eid);
                }
            }
        }
        for (friend, eids) in old {
            for eid in &eids {
                self.drop_mention(now.unix_ms, friend, *eid);
            }
            self.record(friend, eids.into_iter().map(del_record).collect());
        }
    }
}
