//! Who gives way when a share is full. The limits stand in `view.rs`.

use super::Catalogue;
use super::known::EntryId;
use super::replay::del_record;
use crate::control::Part;
use crate::core::FriendKey;
use crate::entry::Eid;
use crate::time::Now;

impl Catalogue {
    /// Whether a new entry has a place in the friend's share: an older one gives way to it.
    pub(super) fn has_room(&mut self, friend: FriendKey, part: Part, day: u32, eid: Eid, len: usize) -> bool {
        let shares = self.shares;
        if !self.views.get(&friend).is_some_and(|v| v.part_ref(part).would_be_over(&shares, len)) {
            return true;
        }
        let oldest = self.oldest(friend, part);
        if oldest.is_some_and(|oldest| oldest < (day, eid)) {
            return true;
        }
        if let Some(view) = self.views.get_mut(&friend) {
            view.count.over_share += 1;
        }
        false
    }

    /// The entry of a part that goes first.
    fn oldest(&mut self, friend: FriendKey, part: Part) -> Option<(u32, Eid)> {
        let view = self.views.get_mut(&friend)?;
        if view.part(part).by_age.is_none() {
            let mention = |(eid, id): (&Eid, &EntryId)| {
                let known = self.objects.get(*id)?;
                let heard = known.mention(view.no, *eid).filter(|h| h.part == part)?;
                Some((known.words_of(heard).published_day(), *eid))
            };
            let by_age = view.eids.iter().filter_map(mention).collect();
            view.part(part).by_age = Some(by_age);
        }
        view.part(part).by_age.as_ref()?.first().copied()
    }

    /// Drops the oldest entries of a part until it keeps to its share, and of the largest views
    /// until all keep to theirs.
    pub(super) fn trim(&mut self, now: Now, friend: FriendKey, part: Part, records: &mut Vec<Vec<u8>>) {
        let shares = self.shares;
        while self.views.get(&friend).is_some_and(|v| v.part_ref(part).is_over(&shares)) {
            let Some(eid) = self.drop_oldest(now, friend, part) else { return };
            records.push(del_record(eid));
        }
        while self.size.entries > shares.entries || self.size.bytes > shares.bytes {
            let largest = self.views.iter().max_by_key(|(_, view)| view.size().weight());
            let Some((key, part)) = largest.map(|(key, view)| (*key, view.larger_part())) else { return };
            let Some(eid) = self.drop_oldest(now, key, part) else { return };
            if key == friend {
                records.push(del_record(eid));
            } else {
                self.record(key, vec![del_record(eid)]);
            }
        }
    }

    fn drop_oldest(&mut self, now: Now, friend: FriendKey, part: Part) -> Option<Eid> {
        let (_, eid) = self.oldest(friend, part)?;
        if !self.drop_mention(now.unix_ms, friend, eid) {
            return None;
        }
        if let Some(view) = self.views.get_mut(&friend) {
            view.count.over_share += 1;
        }
        Some(eid)
    }
}
