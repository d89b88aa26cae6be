//! Friends come, go, connect, and are forgotten or ignored.

use super::known::{EntryId, FriendNo, NEVER};
use super::replay::away_record;
use super::told::Log;
use super::view::View;
use super::{Act, Catalogue};
use crate::control::Part;
use crate::core::FriendKey;
use crate::entry::{Eid, Entry};
use crate::time::Now;
use kith_crypto::content::{ReadCap, Root};
use kith_crypto::kdf;
use kith_crypto::secret::Key;
use std::time::Duration;

/// A lost friend's entries leave the views of others over this multiple of `spread` (3 days: 7).
const LEAVE_FACTOR: f64 = 7.0 / 3.0;

/// When the entries of a friend leave the views of others: drawn for each from a seed, so that
/// nobody sees a bulk of entries vanish together, and so that a restart draws the same.
#[derive(Clone, Copy)]
pub(super) struct Leaving {
    pub(super) from_ms: u64,
    pub(super) span_ms: u64,
    pub(super) seed: [u8; 32],
}

impl Leaving {
    fn at(&self, eid: Eid) -> u64 {
        let draw = kdf::mac16(&Key::new(self.seed), &eid.0);
        let draw = draw.first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b));
        self.from_ms.saturating_add(draw % self.span_ms.max(1)).min(NEVER - 1)
    }
}

impl Catalogue {
    /// A friend exists. Its views are empty until restored or pulled; if it was a friend before and
    /// its entries have not all left, they stay and are compared with a whole new view.
    pub fn add_friend(&mut self, friend: FriendKey) {
        let visible = self.own_visible_to(friend);
        let log = Log::new(&mut self.rng, visible.into_iter());
        self.own_logs.entry(friend).or_insert(log);
        let view = self.view_of(friend);
        if !std::mem::take(&mut view.gone) {
            return;
        }
        Part::BOTH.into_iter().for_each(|part| view.part(part).begin_anew());
        for (eid, id) in self.entries_of(friend) {
            let Some((no, known)) = self.no_of(friend).zip(self.objects.get_mut(id)) else { continue };
            if let Some(heard) = known.mention_mut(no, eid) {
                heard.leave_ms = NEVER;
            }
            let root = known.words.root();
            self.look_again(id);
            self.acts.push_back(Act::Listed(root));
        }
        // The old log ends with the leaving: a new one takes its place.
        self.acts.push_back(Act::DropView(friend));
        let records = self.snapshot(friend);
        self.acts.push_back(Act::Record(friend, records));
    }

    /// The friend's view, a new one if there is none.
    pub(super) fn view_of(&mut self, friend: FriendKey) -> &mut View {
        let Self { views, keys, .. } = self;
        views.entry(friend).or_insert_with(|| {
            let known = keys.iter().position(|key| *key == friend);
            let no = known.unwrap_or_else(|| {
                keys.push(friend);
                keys.len() - 1
            });
            View::new(FriendNo(no as u32))
        })
    }

    fn no_of(&self, friend: FriendKey) -> Option<FriendNo> {
        self.views.get(&friend).map(|view| view.no)
    }

    fn entries_of(&self, friend: FriendKey) -> Vec<(Eid, EntryId)> {
        let eids = self.views.get(&friend).map(|view| &view.eids);
        eids.into_iter().flatten().map(|(eid, id)| (*eid, *id)).collect()
    }

    /// What a friend told of as a friend's, at most so much in the order of its ids, which is any; `fits` says of which
    /// object of which length.
    pub fn told_from_afar(
        &self,
        friend: FriendKey,
        most: usize,
        fits: impl Fn(&Root, u64) -> bool,
    ) -> Vec<ReadCap> {
        let Some(number) = self.no_of(friend) else { return Vec::new() };
        let told = self.entries_of(friend).into_iter().filter_map(|(eid, id)| {
            let known = self.objects.get(id)?;
            let heard = known.mention(number, eid).filter(|h| h.part == Part::Relayed && h.stays())?;
            let entry = Entry::decode(&known.words_of(heard).entry(0, 0)).ok()?;
            fits(&entry.cap.root, entry.bytes).then_some(entry.cap)
        });
        told.take(most).collect()
    }

    /// A friend is lost: search forgets its entries now, the views of others lose them at random
    /// times, so that nobody sees a bulk of entries vanish together.
    pub fn remove_friend(&mut self, now: Now, friend: FriendKey) {
        self.own_logs.remove(&friend);
        if !self.views.contains_key(&friend) {
            return;
        }
        let leaving = self.draw_leaving(now);
        self.acts.push_back(Act::Record(friend, vec![away_record(4, &leaving)]));
        self.leave(friend, &leaving);
    }

    fn draw_leaving(&mut self, now: Now) -> Leaving {
        let span_ms = (self.pace.spread.as_millis() as f64 * LEAVE_FACTOR) as u64;
        Leaving { from_ms: now.unix_ms, span_ms, seed: self.rng.bytes() }
    }

    pub(super) fn leave(&mut self, friend: FriendKey, leaving: &Leaving) {
        let Some(view) = self.views.get_mut(&friend) else { return };
        view.gone = true;
        view.connected = false;
        let no = view.no;
        for (eid, id) in self.entries_of(friend) {
            // What nobody was told goes at once; nobody can see that.
            let heard = self.objects.get(id).and_then(|k| k.mention(no, eid));
            if heard.is_none_or(|h| !h.may_travel() || h.release_ms > leaving.from_ms) {
                self.drop_mention(leaving.from_ms, friend, eid);
            }
        }
        self.set_leaving(friend, leaving);
        self.drop_if_empty(friend);
    }

    /// Gives every entry of a friend its time to go.
    pub(super) fn set_leaving(&mut self, friend: FriendKey, leaving: &Leaving) {
        for (eid, id) in self.entries_of(friend) {
            let Some((no, known)) = self.no_of(friend).zip(self.objects.get_mut(id)) else { continue };
            if let Some(heard) = known.mention_mut(no, eid) {
                heard.leave_ms = leaving.at(eid);
                self.due.insert((heard.leave_ms, id));
            }
            self.settle(id);
        }
    }

    pub(super) fn drop_if_empty(&mut self, friend: FriendKey) {
        if self.views.get(&friend).is_some_and(|v| v.gone && v.eids.is_empty()) {
            self.views.remove(&friend);
            self.acts.push_back(Act::DropView(friend));
        }
    }

    /// Drops all that a friend told, now. What was passed on to others leaves their views at random
    /// times, like a lost friend's. What the friend still has is asked for again with the next
    /// batch, unless the friend is ignored.
    pub fn forget_view(&mut self, now: Now, friend: FriendKey) {
        let Some(view) = self.views.get_mut(&friend).filter(|v| !v.gone) else { return };
        let pull_at = (view.connected && !view.ignored).then_some(now.at + self.pace.batch);
        for part in Part::BOTH {
            let state = view.part(part);
            state.begin_anew();
            (state.asked, state.completed, state.pull_at) = (false, false, pull_at);
        }
        let no = view.no;
        let mut leaves = false;
        for (eid, id) in self.entries_of(friend) {
            let Some(known) = self.objects.get_mut(id) else { continue };
            let was_told =
                known.listed && known.mention(no, eid).is_some_and(super::known::Heard::may_travel);
            if was_told {
                leaves |= known.mention(no, eid).is_some_and(super::known::Heard::stays);
                // Others' words count from now on.
                known.put_last(no, eid);
                self.look_again(id);
            } else {
                self.drop_mention(now.unix_ms, friend, eid);
            }
        }
        let mut records = self.all_entries(friend);
        if leaves {
            let leaving = self.draw_leaving(now);
            self.set_leaving(friend, &leaving);
            records.push(away_record(5, &leaving));
        }
        self.acts.push_back(Act::DropView(friend));
        self.record(friend, records);
    }

    /// Ignores a friend, or stops ignoring it. While it is ignored nothing is asked of it, shown
    /// or passed on from it; what it told before is forgotten.
    pub fn set_ignored(&mut self, now: Now, friend: FriendKey, ignored: bool) {
        let Some(view) = self.views.get_mut(&friend) else { return };
        if std::mem::replace(&mut view.ignored, ignored) == ignored {
            return;
        }
        if ignored {
            let holds = self.entries_of(friend).into_iter().any(|(eid, id)| {
                let known = self.no_of(friend).zip(self.objects.get(id));
                known.and_then(|(no, k)| k.mention(no, eid)).is_some_and(super::known::Heard::stays)
            });
            if holds {
                self.forget_view(now, friend);
            }
        } else if view.connected {
            self.connected(now, friend);
        }
        if ignored && let Some(view) = self.views.get_mut(&friend) {
            Part::BOTH.into_iter().for_each(|part| view.part(part).pull_at = None);
        }
    }

    /// Whether a friend is ignored.
    pub fn is_ignored(&self, friend: FriendKey) -> bool {
        self.views.get(&friend).is_some_and(|view| view.ignored)
    }

    // Links.

    /// A link to the friend stands.
    pub fn connected(&mut self, now: Now, friend: FriendKey) {
        let soon = now.at + self.jitter(Duration::ZERO, self.pace.batch.min(Duration::from_secs(1)));
        if let Some(view) = self.views.get_mut(&friend) {
            view.connected = true;
            let pull_at = (!view.ignored).then_some(soon);
            for part in Part::BOTH {
                let state = view.part(part);
                state.asked = false;
                state.pull_at = pull_at;
            }
        }
    }

    /// The link is gone.
    pub fn disconnected(&mut self, friend: FriendKey) {
        if let Some(view) = self.views.get_mut(&friend) {
            view.connected = false;
            for part in Part::BOTH {
                let state = view.part(part);
                (state.pull_at, state.asked) = (None, false);
                if state.restart.is_some() {
                    state.begin_anew(); // an interrupted restart starts anew
                }
            }
        }
    }

    pub(super) fn jitter(&mut self, low: Duration, high: Duration) -> Duration {
        Duration::from_micros(self.rng.range(low.as_micros() as u64, high.as_micros() as u64))
    }

    /// The friend says that its own part changed: pull within one to five seconds.
    pub fn hinted(&mut self, now: Now, friend: FriendKey) {
        let (low, high) = (Duration::from_secs(1), Duration::from_secs(5));
        let wait = self.jitter(low, high).min(self.pace.batch);
        if let Some(view) = self.views.get_mut(&friend).filter(|v| !v.ignored) {
            let at = now.at + wait;
            view.own.pull_at = Some(view.own.pull_at.map_or(at, |before| before.min(at)));
        }
    }
}
