//! What friends tell this node: pages of their views, and the limits of what is taken from them.

use super::known::{EntryId, FriendNo, Heard, NEVER};
use super::replay::{add_record, del_record, mark_record};
use super::view::View;
use super::{Act, Catalogue, DAY_S, ENTRY_DAYS};
use crate::control::{Delta, Part, ViewOp};
use crate::core::FriendKey;
use crate::entry::{Eid, EntryRef, EntryWords};
use crate::time::Now;
use kith_crypto::content::Root;
use std::collections::BTreeSet;
use std::time::Duration;

/// Pages of one part of a view that are taken one after the other: five times its share.
const MAX_PAGES: u32 = 80;
/// What is more of a view than that is asked for after this.
const AFTER_LONG_VIEW: Duration = Duration::from_secs(3600);
/// Days that a friend's clock may be ahead.
const MAX_DAYS_AHEAD: u32 = 2;

/// An encoded entry as a friend tells it.
#[derive(Clone, Copy)]
pub(super) struct Told<'a> {
    pub(super) part: Part,
    pub(super) eid: Eid,
    /// An encoding that [`EntryRef::decode`] accepts.
    pub(super) entry: &'a [u8],
    pub(super) head: EntryHead,
    pub(super) release_ms: u64,
}

/// What decides whether an entry is taken.
#[derive(Clone, Copy)]
pub(super) struct EntryHead {
    pub(super) root: Root,
    pub(super) hops_left: u8,
    pub(super) published_day: u32,
    pub(super) expires_day: u32,
}

impl From<EntryRef<'_>> for EntryHead {
    fn from(entry: EntryRef<'_>) -> Self {
        let EntryRef { root, hops_left, published_day, expires_day, .. } = entry;
        Self { root, hops_left, published_day, expires_day }
    }
}

/// What an entry that was told did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    is_new: bool,
    changed: bool,
    /// The id under which the friend named the same object before.
    renamed: Option<Eid>,
}

impl Catalogue {
    /// Takes a page of a friend's view.
    pub fn delta(&mut self, now: Now, friend: FriendKey, delta: Delta) {
        let batch = Duration::from_millis(u64::from(delta.batch_ms)).max(Duration::from_millis(100));
        let wait =
            Duration::from_millis(u64::from(delta.next_batch_ms)) + self.jitter(Duration::ZERO, batch / 3);
        let Some(view) = self.views.get_mut(&friend).filter(|v| !v.gone && !v.ignored) else { return };
        let state = view.part(delta.part);
        if !std::mem::take(&mut state.asked) {
            return; // an answer that nobody asked for
        }
        let first_view = !state.completed;
        if delta.restart {
            state.restart = Some(BTreeSet::new());
        }
        state.pages = if delta.more { state.pages + 1 } else { 0 };
        state.pull_at = match (delta.more, delta.part) {
            // A view of full size has some twenty pages; what is more of it has time.
            (true, _) if state.pages >= MAX_PAGES => {
                state.pages = 0;
                Some(now.at + AFTER_LONG_VIEW)
            }
            (true, _) => Some(now.at),
            (false, Part::Relayed) => Some(now.at + wait),
            (false, Part::Own) => None,
        };
        let moved = (state.log, state.upto) != (delta.log, delta.upto) || first_view;
        let mut records = Vec::new();
        for op in &delta.ops {
            if !self.take_op(now, friend, delta.part, op, first_view, &mut records) {
                // More changes than any honest friend has: this page waits, as does the disk.
                if let Some(view) = self.views.get_mut(&friend) {
                    let state = view.part(delta.part);
                    (state.pages, state.pull_at) = (0, Some(now.at + AFTER_LONG_VIEW));
                }
                self.record(friend, records);
                return;
            }
        }
        self.end_page(now, friend, &delta, moved, &mut records);
        self.record(friend, records);
    }

    pub(super) fn record(&mut self, friend: FriendKey, records: Vec<Vec<u8>>) {
        if !records.is_empty() {
            self.acts.push_back(Act::Record(friend, records));
        }
    }

    /// Takes one change of a page; false if the friend has made too many.
    fn take_op(
        &mut self,
        now: Now,
        friend: FriendKey,
        part: Part,
        op: &ViewOp,
        first_view: bool,
        records: &mut Vec<Vec<u8>>,
    ) -> bool {
        let before = records.len();
        match op {
            ViewOp::Add(eid, entry) => {
                let release_ms = self.release_time(now, part, first_view);
                let encoded = entry.encode();
                let head = EntryHead {
                    root: entry.root(),
                    hops_left: entry.hops_left,
                    published_day: entry.published_day,
                    expires_day: entry.expires_day,
                };
                let told = Told { part, eid: *eid, entry: &encoded, head, release_ms };
                self.add(now, friend, told, records);
            }
            ViewOp::Del(eid) => {
                if self.take_back(now, friend, *eid) {
                    records.push(del_record(*eid));
                }
            }
        }
        records.len() == before || self.views.get_mut(&friend).is_some_and(|v| v.may_change(now.at))
    }

    /// The last page of a view says what of it is gone, and its position goes to disk.
    fn end_page(
        &mut self,
        now: Now,
        friend: FriendKey,
        delta: &Delta,
        moved: bool,
        records: &mut Vec<Vec<u8>>,
    ) {
        let Some(view) = self.views.get_mut(&friend) else { return };
        let state = view.part(delta.part);
        (state.log, state.upto) = (delta.log, delta.upto);
        // Only the last page puts the new position on disk: a restart that a kill interrupts starts anew.
        if delta.more {
            return;
        }
        state.completed = true;
        if let Some(seen) = state.restart.take() {
            let unseen: Vec<(Eid, EntryId)> =
                view.eids.iter().filter(|(eid, _)| !seen.contains(eid)).map(|(e, id)| (*e, *id)).collect();
            let no = view.no;
            for (eid, id) in unseen {
                let mention = self.objects.get(id).and_then(|k| k.mention(no, eid));
                if mention.is_some_and(|h| h.part == delta.part) && self.take_back(now, friend, eid) {
                    records.push(del_record(eid));
                }
            }
        }
        if moved || delta.restart || !records.is_empty() {
            records.push(mark_record(delta.part, delta.log, delta.upto));
        }
    }

    /// When others may hear of a new entry: with the next batch, or spread over days if the friend
    /// already had it when it became one.
    fn release_time(&mut self, now: Now, part: Part, first_view: bool) -> u64 {
        if part == Part::Own && first_view {
            now.unix_ms + self.rng.range(0, self.pace.spread.as_millis() as u64)
        } else {
            now.unix_ms
        }
    }

    /// Takes an entry, and adds to `records` what follows for the friend's view log.
    pub(super) fn add(&mut self, now: Now, friend: FriendKey, told: Told<'_>, records: &mut Vec<Vec<u8>>) {
        let Told { part, eid, entry, head, release_ms } = told;
        let Some(view) = self.views.get_mut(&friend).filter(|v| !v.ignored) else { return };
        let today = (now.unix_s() / DAY_S) as u32;
        // An entry may live as long as a fresh one, and travels no further than its part allows.
        if head.expires_day < today
            || head.expires_day > today + 2 * ENTRY_DAYS
            || head.published_day > today + MAX_DAYS_AHEAD
        {
            view.count.dated += 1;
            return;
        }
        if part == Part::Relayed && head.hops_left > 0 {
            view.count.invalid += 1;
            return;
        }
        let no = view.no;
        let known_id = view.eids.get(&eid).copied();
        if let Some(id) = known_id {
            let known = self.objects.get(id);
            let same = known.filter(|k| k.words.root() == head.root).and_then(|k| k.mention(no, eid));
            if same.is_none_or(|h| h.part != part) {
                // An id names one entry for its life.
                view.count.invalid += 1;
                return;
            }
        }
        let is_new_id = known_id.is_none();
        if is_new_id && !self.has_room(friend, part, head.published_day, eid, entry.len()) {
            return;
        }
        let outcome = self.put(friend, no, told);
        if let Some(old) = outcome.renamed {
            records.push(del_record(old));
        }
        if outcome.is_new || outcome.changed {
            records.push(add_record(part, release_ms, eid, entry));
        }
        // Only what counts is noted as seen, so that a restart's notes are bounded like the view.
        if let Some(seen) = self.views.get_mut(&friend).and_then(|v| v.part(part).restart.as_mut()) {
            seen.insert(eid);
        }
        self.trim(now, friend, part, records);
    }

    /// Enters a mention that is allowed, or changes it.
    fn put(&mut self, friend: FriendKey, no: FriendNo, told: Told<'_>) -> Outcome {
        let Told { part, eid, entry, head, release_ms } = told;
        let words = EntryWords::of(entry);
        let Some(id) = self.objects.find_or_insert(&head.root, || words.clone()) else {
            return Outcome::default();
        };
        let (Some(view), Some(known)) = (self.views.get_mut(&friend), self.objects.get_mut(id)) else {
            return Outcome::default();
        };
        let place = known.heard().iter().position(|h| h.friend == no && h.part == part);
        let was_askable = known.is_askable();
        let mut outcome = Outcome::default();
        match place {
            None => {
                // All who told of it took it back, and it has not left the views of others yet.
                if known.own.is_none() && known.heard().is_empty() && known.words != words {
                    known.reword(words.clone());
                    known.changed |= known.listed;
                }
                view.eids.insert(eid, id);
                view.part(part).came(head.published_day, eid, entry.len());
                self.size.add(entry.len());
                known.heard.push(Heard {
                    friend: no,
                    expires_day: head.expires_day,
                    release_ms,
                    leave_ms: NEVER,
                    eid,
                    copy: (known.words != words).then(|| Box::new(words)),
                    part,
                    hops_left: head.hops_left,
                });
                outcome.is_new = true;
            }
            Some(place) => {
                let size = &mut self.size;
                outcome = change(view, size, known, place, told, words);
                if outcome.renamed.is_some() {
                    view.eids.insert(eid, id);
                }
            }
        }
        let (travels, listed) = (head.hops_left > 0 && part == Part::Own, known.listed);
        if outcome.changed {
            // Those who were told hear of the change with the next batch. One note an object is
            // enough, however often it changes until then.
            known.changed |= listed;
        }
        let askable = known.is_askable() && !was_askable;
        if outcome.is_new && travels {
            self.due.insert((release_ms, id));
        } else if outcome.changed && (travels || listed) {
            self.due.insert((0, id));
        }
        if askable {
            self.locators.add(head.root, id);
        }
        if outcome.is_new || outcome.changed {
            self.look_again(id);
            self.acts.push_back(Act::Listed(head.root));
        }
        outcome
    }

    /// A friend takes an entry back. Friends do so as well when it is over, by clocks of their own.
    fn take_back(&mut self, now: Now, friend: FriendKey, eid: Eid) -> bool {
        let today = (now.unix_s() / DAY_S) as u32;
        let told = self.views.get(&friend).and_then(|view| {
            let known = self.objects.get(*view.eids.get(&eid)?)?;
            Some((known.words.root(), known.mention(view.no, eid)?.expires_day))
        });
        let had = self.drop_mention(now.unix_ms, friend, eid);
        if let Some((root, expires_day)) = told
            && expires_day > today
            && self.objects.find(&root).and_then(|id| self.objects.get(id)).is_none_or(|k| !k.is_searchable())
        {
            self.acts.push_back(Act::Withdrawn(root));
        }
        had
    }

    /// Takes a mention away, and the object with the last one. False if there is none of that id.
    pub(super) fn drop_mention(&mut self, now_ms: u64, friend: FriendKey, eid: Eid) -> bool {
        let Some(view) = self.views.get_mut(&friend) else { return false };
        let Some(id) = view.eids.remove(&eid) else { return false };
        let Some(known) = self.objects.get_mut(id) else { return false };
        if let Some((heard, day, len)) = known.forget(view.no, eid) {
            view.part(heard.part).went(day, eid, len);
            self.size.sub(len);
        }
        if known.listed {
            // Gone from search at once, from the views of others with the next batch.
            known.changed = true;
            self.due.insert((now_ms, id));
        }
        self.settle(id);
        true
    }

    /// Tells search, and drops the object if nothing speaks of it any more.
    pub(super) fn settle(&mut self, id: EntryId) {
        self.look_again(id);
        if self.objects.get(id).is_some_and(super::known::Known::is_forgotten) {
            self.objects.remove(id);
        }
    }
}

/// A friend tells an entry again, perhaps with other words or under another id.
fn change(
    view: &mut View,
    size: &mut super::view::Size,
    known: &mut super::known::Known,
    place: usize,
    told: Told<'_>,
    words: EntryWords,
) -> Outcome {
    let Told { part, eid, head, .. } = told;
    let is_own = known.own.is_some();
    let mut outcome = Outcome::default();
    let Some((old_eid, old_day, old_len, reworded)) = known.heard().get(place).map(|h| {
        let old = known.words_of(h);
        (h.eid, old.published_day(), old.len(), *old != words)
    }) else {
        return outcome;
    };
    if let Some(heard) = known.heard.all_mut().get_mut(place) {
        let renewed = (heard.hops_left, heard.expires_day) != (head.hops_left, head.expires_day);
        // Told again, it stays.
        let back = !heard.stays();
        (heard.hops_left, heard.expires_day, heard.leave_ms) = (head.hops_left, head.expires_day, NEVER);
        heard.eid = eid;
        outcome.changed = renewed || reworded || back || old_eid != eid;
    }
    if reworded || old_eid != eid {
        view.part(part).went(old_day, old_eid, old_len);
        size.sub(old_len);
        view.part(part).came(head.published_day, eid, words.len());
        size.add(words.len());
    }
    if old_eid != eid {
        view.eids.remove(&old_eid);
        outcome.renamed = Some(old_eid);
    }
    if reworded {
        if place == 0 && !is_own {
            // Whoever told of it first may change its own words.
            if let Some(first) = known.heard.all_mut().first_mut() {
                first.copy = Some(Box::new(words));
            }
            known.follow_first();
        } else {
            let copy = (known.words != words).then(|| Box::new(words));
            if let Some(heard) = known.heard.all_mut().get_mut(place) {
                heard.copy = copy;
            }
        }
    }
    outcome
}
