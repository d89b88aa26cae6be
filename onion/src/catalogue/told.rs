//! What this node tells: its own publications and what friends published for friends of friends,
//! each in append-only logs that friends pull from.

use super::known::{EntryId, Own};
use super::{Act, Audience, Catalogue, DAY_S, ENTRY_DAYS};
use crate::control::{Delta, MAX_DELTA, Part, ViewOp};
use crate::core::FriendKey;
use crate::entry::{Entry, EntryWords};
use crate::time::Now;
use kith_crypto::content::Root;
use kith_crypto::rng::Rng;
use std::collections::BTreeSet;
use std::time::Duration;

/// After this many superseded operations a log starts anew.
pub(super) const LOG_SLACK: usize = 4096;

/// An append-only list of changes, addressed by position.
#[derive(Debug, Default)]
pub(super) struct Log {
    id: u64,
    pub(super) ops: Vec<(Root, bool)>,
    /// Length at which it is looked at again whether it is mostly past.
    look_at: usize,
}

impl Log {
    pub(super) fn new(rng: &mut Rng, roots: impl Iterator<Item = Root>) -> Self {
        let mut ops: Vec<_> = roots.map(|root| (root, true)).collect();
        shuffle(&mut ops, rng);
        let look_at = ops.len() + LOG_SLACK;
        Self { id: u64::from_le_bytes(rng.bytes()) | 1, ops, look_at }
    }

    pub(super) const fn is_mostly_past(&self, live: usize) -> bool {
        self.ops.len() > 2 * live + LOG_SLACK
    }
}

pub(super) fn shuffle<T>(items: &mut [T], rng: &mut Rng) {
    for i in (1..items.len()).rev() {
        items.swap(i, rng.range(0, i as u64) as usize);
    }
}

impl Catalogue {
    /// Publishes an object, or shows it again after a restart (`fresh` false: no hint).
    pub fn publish(&mut self, now: Now, entry: Entry, audience: Audience, fresh: bool) {
        let root = entry.root();
        self.note_published(root);
        let today = (now.unix_s() / DAY_S) as u32;
        // Renewal days are random per entry, so that they do not betray the day of a restart.
        let expires_day = today + ENTRY_DAYS - if fresh { 0 } else { self.rng.range(0, 7) as u32 };
        let renew_at_s = now.unix_s() + self.rng.range(5 * DAY_S, 9 * DAY_S);
        let words = EntryWords::of(&entry.encode());
        let Some(id) = self.objects.find_or_insert(&root, || words.clone()) else { return };
        let Some(known) = self.objects.get_mut(id) else { return };
        // An own entry counts for more than what anybody said; what they said stays theirs.
        if known.words != words {
            known.reword(words);
        }
        let before = known.own.replace(Box::new(Own { audience, renew_at_s, expires_day }));
        self.own.insert(id);
        self.locators.add(root, id);
        self.look_again(id);
        self.acts.push_back(Act::Listed(root));
        if let Some(before) = before.filter(|own| own.audience != audience) {
            // A smaller audience than before: the others must lose it.
            self.log_own(root, &before.audience, false, true);
        }
        self.log_own(root, &audience, true, fresh);
    }

    /// This node published the object once and shares it with nobody now: it is served to nobody,
    /// whoever lists it.
    pub fn note_published(&mut self, root: Root) {
        self.published.insert(root);
    }

    /// Withdraws an own publication: it leaves all views. False if there is none.
    pub fn withdraw(&mut self, root: Root) -> bool {
        let Some(id) = self.objects.find(&root) else { return false };
        let Some(known) = self.objects.get_mut(id) else { return false };
        let Some(own) = known.own.take() else { return false };
        known.follow_first();
        self.own.remove(&id);
        self.log_own(root, &own.audience, false, true);
        self.settle(id);
        true
    }

    /// Says who is in a circle from now on. Whoever joins is shown what was published to it, whoever
    /// leaves loses it; returns what that is, because sessions for it must end.
    pub fn set_circle(&mut self, id: u64, members: BTreeSet<FriendKey>) -> Vec<Root> {
        let audience = Audience::Circle(id);
        let own = self.own.iter().filter_map(|id| self.objects.get(*id));
        let roots: Vec<Root> = own
            .filter(|k| k.own.as_ref().is_some_and(|own| own.audience == audience))
            .map(|k| k.words.root())
            .collect();
        let before = self.circles.insert(id, members.clone()).unwrap_or_default();
        for friend in before.symmetric_difference(&members) {
            let Some(log) = self.own_logs.get_mut(friend).filter(|_| !roots.is_empty()) else { continue };
            log.ops.extend(roots.iter().map(|root| (*root, members.contains(friend))));
            if self.views.get(friend).is_some_and(|v| v.connected) {
                self.acts.push_back(Act::Hint(*friend));
            }
        }
        self.compact_own();
        roots
    }

    fn log_own(&mut self, root: Root, audience: &Audience, add: bool, hint: bool) {
        for (friend, log) in &mut self.own_logs {
            if audience.includes(*friend, &self.circles) {
                log.ops.push((root, add));
                if hint && self.views.get(friend).is_some_and(|v| v.connected) {
                    self.acts.push_back(Act::Hint(*friend));
                }
            }
        }
        self.compact_own();
    }

    /// Renewals and withdrawals of years must not pile up: a log that is mostly past starts anew.
    fn compact_own(&mut self) {
        let long = self.own_logs.iter().filter(|(_, log)| log.ops.len() > log.look_at);
        let long: Vec<FriendKey> = long.map(|(friend, _)| *friend).collect();
        for friend in long {
            let visible = self.own_visible_to(friend);
            let Self { own_logs, rng, .. } = self;
            match own_logs.get_mut(&friend) {
                Some(log) if log.is_mostly_past(visible.len()) => *log = Log::new(rng, visible.into_iter()),
                Some(log) => log.look_at = log.ops.len() + LOG_SLACK,
                None => {}
            }
        }
    }

    /// Own publications that a friend may see.
    pub(super) fn own_visible_to(&self, friend: FriendKey) -> Vec<Root> {
        let known = self.own.iter().filter_map(|id| self.objects.get(*id));
        let visible =
            known.filter(|k| k.own.as_ref().is_some_and(|own| own.audience.includes(friend, &self.circles)));
        visible.map(|k| k.words.root()).collect()
    }

    /// The log of relayed entries, anew if it is mostly past.
    pub(super) fn compact_relayed(&mut self) {
        if self.relayed_log.is_mostly_past(self.listed) {
            let listed = self.objects.iter().filter(|(_, k)| k.listed).map(|(_, k)| k.words.root());
            self.relayed_log = Log::new(&mut self.rng, listed);
        }
    }

    /// Puts an object into the log of relayed entries, or takes it out.
    pub(super) fn log_relayed(&mut self, id: EntryId, visible: bool, changed: bool) {
        let Some(known) = self.objects.get_mut(id) else { return };
        if visible == known.listed && !changed {
            return;
        }
        match (known.listed, visible) {
            (false, true) => self.listed += 1,
            (true, false) => self.listed = self.listed.saturating_sub(1),
            _ => {}
        }
        known.listed = visible;
        self.relayed_log.ops.push((known.words.root(), visible));
    }

    /// Answers a pull with one page.
    pub fn pulled(&mut self, now: Now, friend: FriendKey, part: Part, log: u64, since: u64) -> Option<Delta> {
        let ours = match part {
            Part::Own => self.own_logs.get(&friend)?,
            Part::Relayed => &self.relayed_log,
        };
        let restart = log != ours.id || since > ours.ops.len() as u64;
        let start = if restart { 0 } else { since as usize };
        let mut room = MAX_DELTA - Delta::FIXED_LEN;
        let (mut ops, mut upto) = (Vec::new(), start);
        for (root, add) in ours.ops.get(start..).unwrap_or_default() {
            if room < Delta::MAX_OP_LEN || ops.len() == usize::from(u16::MAX) {
                break;
            }
            upto += 1;
            let entry = match (part, add) {
                (_, false) => None,
                (Part::Own, true) => self.own_entry(friend, root),
                (Part::Relayed, true) => self.relayed_entry(now, friend, root),
            };
            let op = match entry {
                Some(entry) => {
                    room = room.saturating_sub(11 + entry.len());
                    // Only what could be read was kept.
                    let Ok(entry) = Entry::decode(&entry) else { continue };
                    ViewOp::Add(self.eid(friend, *root), entry)
                }
                None if *add => continue,
                None => {
                    room = room.saturating_sub(9);
                    ViewOp::Del(self.eid(friend, *root))
                }
            };
            ops.push(op);
        }
        let until = self.next_batch.map_or(Duration::ZERO, |at| at.saturating_sub(now.at));
        Some(Delta {
            part,
            log: ours.id,
            upto: upto as u64,
            restart,
            more: upto < ours.ops.len(),
            next_batch_ms: u32::try_from(until.as_millis()).unwrap_or(u32::MAX),
            batch_ms: u32::try_from(self.pace.batch.as_millis()).unwrap_or(u32::MAX),
            ops,
        })
    }

    fn own_entry(&self, friend: FriendKey, root: &Root) -> Option<Vec<u8>> {
        let known = self.objects.by_root(root)?;
        let own = known.own.as_ref().filter(|own| own.audience.includes(friend, &self.circles))?;
        Some(known.words.entry(own.audience.hops(), own.expires_day))
    }

    /// What a friend is told of a relayed object, encoded.
    pub(super) fn relayed_entry(&self, now: Now, friend: FriendKey, root: &Root) -> Option<Vec<u8>> {
        let known = self.objects.by_root(root).filter(|k| k.listed && k.own.is_none())?;
        // Nobody is told what only it told us, nor anything before its time.
        let told = known.heard().iter().find(|h| {
            h.may_travel() && h.release_ms <= now.unix_ms && self.key_of(h.friend) != Some(friend)
        })?;
        Some(known.words_of(told).entry(0, told.expires_day))
    }
}
