//! What friends tell each other about videos, when they tell it, and what this node knows.
//! Format and timing: `docs/protocol/catalogue.md`; visibility is decision 20 of the protocol.
//!
//! A friend's view has two parts with a log each: what the friend published itself (a hint, then a
//! pull within seconds) and what its friends published for friends of friends (released in
//! batches). Nothing is ever sent because of a search: searching reads what is already here.

use crate::control::{Delta, MAX_DELTA, Part, ViewOp};
use crate::core::FriendKey;
use crate::entry::{Eid, Entry};
use crate::time::{Now, earliest};
use crate::tunnel::Bucket;
use kith_crypto::codec::{DecodeError, Reader, Writer};
use kith_crypto::content::Root;
use kith_crypto::kdf::{self, Label};
use kith_crypto::rng::Rng;
use kith_crypto::secret::Key;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// Entries kept of one part of one friend's view.
pub const MAX_VIEW_ENTRIES: usize = 16_000;
/// Pages of one part of a view, taken one after the other.
const MAX_PAGES: u32 = 80;
/// A view without end is asked for again after this.
const AFTER_ENDLESS_VIEW: Duration = Duration::from_secs(3600);
/// Changes of one friend's view that are stored: two full views at once, and two a day.
const MAX_CHANGES: f64 = 4.0 * MAX_VIEW_ENTRIES as f64;
const CHANGES_A_SECOND: f64 = MAX_CHANGES / DAY_S as f64;
/// Days that an entry lives without renewal.
pub const ENTRY_DAYS: u32 = 30;
/// A lost friend's entries leave the views of others over this multiple of `spread` (3 days: 7).
const LEAVE_FACTOR: f64 = 7.0 / 3.0;
/// After this many superseded operations a log starts anew.
const LOG_SLACK: usize = 4096;
const DAY_S: u64 = 86_400;
const EXPIRY_CHECK: Duration = Duration::from_secs(3600);

/// Deliberate delays, so that nobody can tell when somebody published.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Relayed entries are released at the ends of batches of this length.
    pub batch: Duration,
    /// What a new friend already had is released over this time.
    pub spread: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { batch: Duration::from_secs(30 * 60), spread: Duration::from_secs(3 * DAY_S) }
    }
}

/// Who may see an own video.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// All friends.
    Friends,
    /// Friends and their friends.
    Fof,
    /// One friend.
    One(FriendKey),
    /// The friends in a circle, whoever that is at the time; see [`Catalogue::set_circle`].
    Circle(u64),
}

/// Members of each circle.
type Circles = BTreeMap<u64, BTreeSet<FriendKey>>;

impl Audience {
    fn includes(&self, friend: FriendKey, circles: &Circles) -> bool {
        match self {
            Self::Friends | Self::Fof => true,
            Self::One(only) => *only == friend,
            Self::Circle(id) => circles.get(id).is_some_and(|members| members.contains(&friend)),
        }
    }

    /// How far an entry for this audience may travel.
    pub const fn hops(&self) -> u8 {
        matches!(self, Self::Fof) as u8
    }
}

#[derive(Debug)]
struct Own {
    audience: Audience,
    renew_at_s: u64,
}

/// One friend's mention of an object.
#[derive(Debug)]
struct Heard {
    friend: FriendKey,
    part: Part,
    hops_left: u8,
    /// Unix milliseconds from which others may hear of it.
    release_ms: u64,
    /// Unix milliseconds at which it goes, once the friend is lost.
    leave_ms: Option<u64>,
    /// Day after which it is dropped unless renewed.
    expires_day: u32,
    /// What this friend says of the object, if it differs from [`Known::entry`]: nobody can change
    /// what another one has told.
    copy: Option<Box<[u8]>>,
}

#[derive(Debug)]
struct Known {
    /// The own entry, or that of the friend who told of it first.
    entry: Box<[u8]>,
    own: Option<Own>,
    heard: Vec<Heard>,
    /// In the log of relayed entries now.
    listed: bool,
    /// The entry has changed since it went into that log.
    changed: bool,
}

impl Known {
    fn new() -> Self {
        Self { entry: Box::default(), own: None, heard: Vec::new(), listed: false, changed: false }
    }

    fn searchable(&self) -> bool {
        self.own.is_some() || self.heard.iter().any(|h| h.leave_ms.is_none())
    }

    /// What one friend says of the object.
    fn said_by(&self, heard: &Heard) -> Option<Entry> {
        let mut entry = Entry::decode(heard.copy.as_deref().unwrap_or(&self.entry)).ok()?;
        entry.hops_left = heard.hops_left;
        entry.expires_day = heard.expires_day;
        Some(entry)
    }

    /// Other words stand for the object from now on; what each friend said stays.
    fn reword(&mut self, words: Box<[u8]>) {
        let old = std::mem::replace(&mut self.entry, words);
        for heard in &mut self.heard {
            let says = heard.copy.take().unwrap_or_else(|| old.clone());
            heard.copy = (says != self.entry).then_some(says);
        }
    }

    /// Takes a mention away; if it was the first, the next one's words count from now on.
    fn forget(&mut self, gone: impl Fn(&Heard) -> bool) {
        let first_goes = self.own.is_none() && self.heard.first().is_some_and(&gone);
        let next = self.heard.iter().find(|h| !gone(h)).filter(|_| first_goes);
        let words = next.and_then(|h| h.copy.clone());
        if let Some(words) = words {
            self.reword(words);
        }
        self.heard.retain(|h| !gone(h));
    }

    fn relayable(&self, now_ms: u64) -> bool {
        self.heard.iter().any(|h| {
            h.part == Part::Own
                && h.hops_left > 0
                && h.release_ms <= now_ms
                && h.leave_ms.is_none_or(|at| at > now_ms)
        })
    }
}

/// An append-only list of changes, addressed by position.
#[derive(Debug, Default)]
struct Log {
    id: u64,
    ops: Vec<(Root, bool)>,
}

impl Log {
    fn new(rng: &mut Rng, roots: impl Iterator<Item = Root>) -> Self {
        let mut ops: Vec<_> = roots.map(|root| (root, true)).collect();
        shuffle(&mut ops, rng);
        Self { id: u64::from_le_bytes(rng.bytes()) | 1, ops }
    }
}

fn shuffle<T>(items: &mut [T], rng: &mut Rng) {
    for i in (1..items.len()).rev() {
        items.swap(i, rng.range(0, i as u64) as usize);
    }
}

#[derive(Debug, Default)]
struct PartState {
    log: u64,
    upto: u64,
    pull_at: Option<Duration>,
    asked: bool,
    /// Entries seen since a restart began; what is missing at its end is gone.
    restart: Option<BTreeSet<Eid>>,
    count: usize,
    /// The first view was taken whole once.
    completed: bool,
    /// Pages taken since the last complete one.
    pages: u32,
}

#[derive(Debug, Default)]
struct View {
    eids: BTreeMap<Eid, (Root, Part)>,
    own: PartState,
    relayed: PartState,
    connected: bool,
    gone: bool,
    /// Changes that may still be stored.
    changes: Option<Bucket>,
}

impl View {
    fn may_change(&mut self, now: Duration) -> bool {
        self.changes.get_or_insert_with(|| Bucket::new(CHANGES_A_SECOND, MAX_CHANGES)).take(now)
    }

    fn part(&mut self, part: Part) -> &mut PartState {
        match part {
            Part::Own => &mut self.own,
            Part::Relayed => &mut self.relayed,
        }
    }
}

/// What the catalogue wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Tell a friend that its part of the own view has changed.
    Hint(FriendKey),
    /// Ask a friend for changes.
    Pull(FriendKey, Part, u64, u64),
    /// Append to the friend's view log.
    Record(FriendKey, Vec<Vec<u8>>),
    /// The friend's view log is no longer needed.
    DropView(FriendKey),
    /// Search shows this now (also: its entry changed).
    Listed(Root),
    /// Search no longer shows this.
    Unlisted(Root),
}

/// How an object is known.
#[derive(Clone, Debug)]
pub struct Listing {
    /// Its entry.
    pub entry: Entry,
    /// 0 own, 1 friend, 2 friend of a friend.
    pub distance: u8,
    /// Friends to ask, nearest first: `(friend, links)`.
    pub sources: Vec<(FriendKey, u8)>,
}

/// The catalogue of one node.
#[derive(Debug)]
pub struct Catalogue {
    pace: Pace,
    rng: Rng,
    /// Draws entry ids per view.
    secret: Key,
    known: BTreeMap<Root, Known>,
    circles: Circles,
    views: BTreeMap<FriendKey, View>,
    own_logs: BTreeMap<FriendKey, Log>,
    relayed_log: Log,
    /// When to look at an object again for release or leaving, in Unix milliseconds.
    due: BTreeSet<(u64, Root)>,
    next_batch: Option<Duration>,
    next_expiry: Duration,
    acts: VecDeque<Act>,
    /// Entries refused because a friend's share was full.
    pub refused: u64,
}

impl Catalogue {
    /// An empty catalogue. `secret` belongs to this node alone.
    pub fn new(pace: Pace, secret: Key, mut rng: Rng) -> Self {
        let relayed_log = Log::new(&mut rng, std::iter::empty());
        Self {
            pace,
            rng,
            secret,
            known: BTreeMap::new(),
            circles: Circles::new(),
            views: BTreeMap::new(),
            own_logs: BTreeMap::new(),
            relayed_log,
            due: BTreeSet::new(),
            next_batch: None,
            next_expiry: Duration::ZERO,
            acts: VecDeque::new(),
            refused: 0,
        }
    }

    /// Length of a batch of relayed entries: friends pull that often.
    pub const fn batch(&self) -> Duration {
        self.pace.batch
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Act> {
        self.acts.pop_front()
    }

    fn eid(&self, friend: FriendKey, root: Root) -> Eid {
        let full = kdf::derive(Label::ENTRY_ID, &[self.secret.expose(), &friend.0, &root.0]);
        let mut eid = [0; 8];
        eid.iter_mut().zip(full.expose()).for_each(|(o, b)| *o = *b);
        Eid(eid)
    }

    // Own publications.

    /// Publishes an object, or shows it again after a restart (`fresh` false: no hint).
    pub fn publish(&mut self, now: Now, mut entry: Entry, audience: Audience, fresh: bool) {
        let root = entry.root();
        let today = (now.unix_s() / DAY_S) as u32;
        entry.hops_left = audience.hops();
        // Renewal days are random per entry, so that they do not betray the day of a restart.
        entry.expires_day = today + ENTRY_DAYS - if fresh { 0 } else { self.rng.range(0, 7) as u32 };
        let renew_at_s = now.unix_s() + self.rng.range(5 * DAY_S, 9 * DAY_S);
        let known = self.known.entry(root).or_insert_with(Known::new);
        // An own entry counts for more than what anybody said; what they said stays theirs.
        known.reword(entry.encode().into());
        let before = known.own.replace(Own { audience, renew_at_s });
        self.acts.push_back(Act::Listed(root));
        if let Some(before) = before.filter(|own| own.audience != audience) {
            // A smaller audience than before: the others must lose it.
            self.log_own(root, &before.audience, false, true);
        }
        self.log_own(root, &audience, true, fresh);
    }

    /// Withdraws an own publication: it leaves all views. False if there is none.
    pub fn withdraw(&mut self, root: Root) -> bool {
        let Some(known) = self.known.get_mut(&root) else { return false };
        let Some(own) = known.own.take() else { return false };
        if let Some(words) = known.heard.first().and_then(|h| h.copy.clone()) {
            known.reword(words);
        }
        self.log_own(root, &own.audience, false, true);
        self.settle(root);
        true
    }

    /// Says who is in a circle from now on. Whoever joins is shown what was published to it, whoever
    /// leaves loses it; returns what that is, because sessions for it must end.
    pub fn set_circle(&mut self, id: u64, members: BTreeSet<FriendKey>) -> Vec<Root> {
        let audience = Audience::Circle(id);
        let own = self.known.iter().filter(|(_, k)| k.own.as_ref().is_some_and(|o| o.audience == audience));
        let roots: Vec<Root> = own.map(|(root, _)| *root).collect();
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
        let Self { own_logs, known, rng, circles, .. } = self;
        let long = own_logs.iter_mut().filter(|(_, log)| log.ops.len() > LOG_SLACK);
        for (friend, log) in long {
            let visible =
                |k: &Known| k.own.as_ref().is_some_and(|own| own.audience.includes(*friend, circles));
            let live = known.values().filter(|k| visible(k)).count();
            if log.ops.len() > 2 * live + LOG_SLACK {
                *log = Log::new(rng, known.iter().filter(|(_, k)| visible(k)).map(|(root, _)| *root));
            }
        }
    }

    /// Drops the object if nothing speaks of it any more, and tells search.
    fn settle(&mut self, root: Root) {
        let Some(known) = self.known.get(&root) else { return };
        if !known.searchable() {
            self.acts.push_back(Act::Unlisted(root));
        }
        if known.own.is_none() && known.heard.is_empty() && !known.listed {
            self.known.remove(&root);
        }
    }

    // Friends.

    /// A friend exists. Its views are empty until restored or pulled; if it was a friend before and
    /// its entries have not all left, they stay and are compared with a whole new view.
    pub fn add_friend(&mut self, friend: FriendKey) {
        let visible = self.known.iter().filter_map(|(root, known)| {
            known.own.as_ref().filter(|own| own.audience.includes(friend, &self.circles)).map(|_| *root)
        });
        let log = Log::new(&mut self.rng, visible);
        self.own_logs.entry(friend).or_insert(log);
        let view = self.views.entry(friend).or_default();
        if !std::mem::take(&mut view.gone) {
            return;
        }
        for part in Part::BOTH {
            let state = view.part(part);
            (state.log, state.upto, state.restart) = (0, 0, None);
        }
        let roots: BTreeSet<Root> = view.eids.values().map(|(root, _)| *root).collect();
        for root in roots {
            if let Some(known) = self.known.get_mut(&root) {
                known.heard.iter_mut().filter(|h| h.friend == friend).for_each(|h| h.leave_ms = None);
                self.acts.push_back(Act::Listed(root));
            }
        }
        // The old log ends with the leaving: a new one takes its place.
        self.acts.push_back(Act::DropView(friend));
        let records = self.snapshot(friend);
        self.acts.push_back(Act::Record(friend, records));
    }

    /// A friend is lost: search forgets its entries now, the views of others lose them at random
    /// times, so that nobody sees a bulk of entries vanish together.
    pub fn remove_friend(&mut self, now: Now, friend: FriendKey) {
        self.own_logs.remove(&friend);
        if !self.views.contains_key(&friend) {
            return;
        }
        let span_ms = (self.pace.spread.as_millis() as f64 * LEAVE_FACTOR) as u64;
        let seed: [u8; 32] = self.rng.bytes();
        let mut w = Writer::new();
        w.u8(4).u64(now.unix_ms).u64(span_ms).raw(&seed);
        self.acts.push_back(Act::Record(friend, vec![w.into_bytes()]));
        self.leave(friend, now.unix_ms, span_ms, &seed);
    }

    fn leave(&mut self, friend: FriendKey, from_ms: u64, span_ms: u64, seed: &[u8; 32]) {
        let Some(view) = self.views.get_mut(&friend) else { return };
        view.gone = true;
        view.connected = false;
        let entries: Vec<(Eid, Root)> = view.eids.iter().map(|(eid, (root, _))| (*eid, *root)).collect();
        for (eid, root) in entries {
            let draw = kdf::mac16(&Key::new(*seed), &eid.0);
            let draw = draw.first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b));
            let at = from_ms.saturating_add(draw % span_ms.max(1));
            if let Some(known) = self.known.get_mut(&root) {
                known.heard.iter_mut().filter(|h| h.friend == friend).for_each(|h| h.leave_ms = Some(at));
                self.due.insert((at, root));
            }
            self.settle(root);
        }
        self.drop_if_empty(friend);
    }

    fn drop_if_empty(&mut self, friend: FriendKey) {
        if self.views.get(&friend).is_some_and(|v| v.gone && v.eids.is_empty()) {
            self.views.remove(&friend);
            self.acts.push_back(Act::DropView(friend));
        }
    }

    /// A link to the friend stands.
    pub fn connected(&mut self, now: Now, friend: FriendKey) {
        let soon = now.at + self.jitter(Duration::ZERO, self.pace.batch.min(Duration::from_secs(1)));
        if let Some(view) = self.views.get_mut(&friend) {
            view.connected = true;
            for part in Part::BOTH {
                let state = view.part(part);
                state.asked = false;
                state.pull_at = Some(soon);
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
                if state.restart.take().is_some() {
                    (state.log, state.upto) = (0, 0); // an interrupted restart starts anew
                }
            }
        }
    }

    fn jitter(&mut self, low: Duration, high: Duration) -> Duration {
        Duration::from_micros(self.rng.range(low.as_micros() as u64, high.as_micros() as u64))
    }

    // The wire.

    /// The friend says that its own part changed: pull within one to five seconds.
    pub fn hinted(&mut self, now: Now, friend: FriendKey) {
        let (low, high) = (Duration::from_secs(1), Duration::from_secs(5));
        let wait = self.jitter(low, high).min(self.pace.batch);
        if let Some(view) = self.views.get_mut(&friend) {
            let at = now.at + wait;
            view.own.pull_at = Some(view.own.pull_at.map_or(at, |before| before.min(at)));
        }
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
            let op = match (part, add) {
                (_, false) => ViewOp::Del(self.eid(friend, *root)),
                (Part::Own, true) => match self.own_entry(friend, *root) {
                    Some(entry) => ViewOp::Add(self.eid(friend, *root), entry),
                    None => continue,
                },
                (Part::Relayed, true) => match self.relayed_entry(now, friend, *root) {
                    Some(entry) => ViewOp::Add(self.eid(friend, *root), entry),
                    None => continue,
                },
            };
            room = room.saturating_sub(match &op {
                ViewOp::Add(_, entry) => 11 + entry.encode().len(),
                ViewOp::Del(_) => 9,
            });
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

    fn own_entry(&self, friend: FriendKey, root: Root) -> Option<Entry> {
        let known = self.known.get(&root)?;
        known.own.as_ref().filter(|own| own.audience.includes(friend, &self.circles))?;
        Entry::decode(&known.entry).ok()
    }

    fn relayed_entry(&self, now: Now, friend: FriendKey, root: Root) -> Option<Entry> {
        let known = self.known.get(&root).filter(|k| k.listed && k.own.is_none())?;
        // Nobody is told what only it told us, nor anything before its time.
        let told = known.heard.iter().find(|h| {
            h.friend != friend && h.part == Part::Own && h.hops_left > 0 && h.release_ms <= now.unix_ms
        })?;
        let mut entry = known.said_by(told)?;
        entry.hops_left = 0;
        Some(entry)
    }

    /// Takes a page of a friend's view.
    pub fn delta(&mut self, now: Now, friend: FriendKey, delta: Delta) {
        let batch = Duration::from_millis(u64::from(delta.batch_ms)).max(Duration::from_millis(100));
        let wait =
            Duration::from_millis(u64::from(delta.next_batch_ms)) + self.jitter(Duration::ZERO, batch / 3);
        let Some(view) = self.views.get_mut(&friend).filter(|v| !v.gone) else { return };
        let state = view.part(delta.part);
        if !std::mem::take(&mut state.asked) {
            return; // an answer that nobody asked for
        }
        let first_view = !state.completed;
        // A view of full size has some forty pages; one without end is no view.
        state.pages = if delta.more { state.pages + 1 } else { 0 };
        if state.pages > MAX_PAGES {
            (state.pages, state.log, state.upto, state.restart) = (0, 0, 0, None);
            state.pull_at = Some(now.at + AFTER_ENDLESS_VIEW);
            return;
        }
        if delta.restart {
            state.restart = Some(BTreeSet::new());
        }
        state.pull_at = match (delta.more, delta.part) {
            (true, _) => Some(now.at),
            (false, Part::Relayed) => Some(now.at + wait),
            (false, Part::Own) => None,
        };
        let moved = (state.log, state.upto) != (delta.log, delta.upto) || first_view;
        let mut records = Vec::new();
        for op in delta.ops {
            let before = records.len();
            match op {
                ViewOp::Add(eid, entry) => {
                    let release_ms = self.release_time(now, delta.part, first_view);
                    if self.add(now, friend, delta.part, eid, &entry, release_ms) {
                        records.push(add_record(delta.part, release_ms, eid, &entry));
                    }
                }
                ViewOp::Del(eid) => {
                    if self.del(now.unix_ms, friend, eid) {
                        records.push(del_record(eid));
                    }
                }
            }
            let changed = records.len() > before;
            if changed && !self.views.get_mut(&friend).is_some_and(|v| v.may_change(now.at)) {
                // More changes than any honest friend has: the rest waits, as does the disk.
                self.refused += 1;
                self.acts.push_back(Act::Record(friend, records));
                if let Some(view) = self.views.get_mut(&friend) {
                    let state = view.part(delta.part);
                    (state.pages, state.log, state.upto, state.restart) = (0, 0, 0, None);
                    state.pull_at = Some(now.at + AFTER_ENDLESS_VIEW);
                }
                return;
            }
        }
        let Some(view) = self.views.get_mut(&friend) else { return };
        let state = view.part(delta.part);
        (state.log, state.upto) = (delta.log, delta.upto);
        // Only the last page puts the new position on disk: a restart that a kill interrupts starts anew.
        if !delta.more {
            state.completed = true;
            let stale: Vec<Eid> = match state.restart.take() {
                None => Vec::new(),
                Some(seen) => {
                    let mine = view.eids.iter().filter(|(_, (_, part))| *part == delta.part);
                    mine.map(|(eid, _)| *eid).filter(|eid| !seen.contains(eid)).collect()
                }
            };
            for eid in stale {
                self.del(now.unix_ms, friend, eid);
                records.push(del_record(eid));
            }
            if moved || delta.restart || !records.is_empty() {
                let mut w = Writer::new();
                w.u8(3).u8(delta.part.number()).u64(delta.log).u64(delta.upto);
                records.push(w.into_bytes());
            }
        }
        if !records.is_empty() {
            self.acts.push_back(Act::Record(friend, records));
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

    /// True if the entry is new or changed and must be recorded.
    fn add(
        &mut self,
        now: Now,
        friend: FriendKey,
        part: Part,
        eid: Eid,
        entry: &Entry,
        release_ms: u64,
    ) -> bool {
        let today = (now.unix_s() / DAY_S) as u32;
        let root = entry.root();
        let Some(view) = self.views.get_mut(&friend) else { return false };
        // An entry may live as long as a fresh one, and travels no further than its part allows.
        if entry.expires_day < today
            || entry.expires_day > today + 2 * ENTRY_DAYS
            || (part == Part::Relayed && entry.hops_left > 0)
        {
            self.refused += 1;
            return false;
        }
        match view.eids.get(&eid).copied() {
            Some((known_root, known_part)) if known_root == root && known_part == part => {}
            Some(_) => return false, // an id names one entry for its life
            None if view.part(part).count >= MAX_VIEW_ENTRIES => {
                self.refused += 1;
                return false;
            }
            None => {
                view.part(part).count += 1;
                view.eids.insert(eid, (root, part));
            }
        }
        // Only what counts is noted as seen, so that a restart's notes are bounded like the view.
        if let Some(seen) = &mut view.part(part).restart {
            seen.insert(eid);
        }
        let known = self.known.entry(root).or_insert_with(Known::new);
        let words: Box<[u8]> = plain_words(entry).into();
        let first = known.own.is_none() && known.heard.is_empty();
        if first {
            known.entry = words.clone();
        }
        let main = &known.entry;
        let copy = (*main != words).then_some(words);
        let place = known.heard.iter().position(|h| h.friend == friend && h.part == part);
        let (is_new, changed) = match place.and_then(|i| known.heard.get_mut(i).map(|h| (i, h))) {
            Some((index, heard)) => {
                let renewed = (heard.hops_left, heard.expires_day) != (entry.hops_left, entry.expires_day);
                (heard.hops_left, heard.expires_day) = (entry.hops_left, entry.expires_day);
                let reworded = heard.copy != copy;
                if reworded && index == 0 && known.own.is_none() {
                    // Whoever told of it first may change its own words.
                    if let Some(words) = copy {
                        known.reword(words);
                        if let Some(first) = known.heard.first_mut() {
                            first.copy = None;
                        }
                    }
                } else {
                    heard.copy = copy;
                }
                (false, renewed || reworded)
            }
            None => {
                known.heard.push(Heard {
                    friend,
                    part,
                    hops_left: entry.hops_left,
                    release_ms,
                    leave_ms: None,
                    expires_day: entry.expires_day,
                    copy,
                });
                (true, false)
            }
        };
        if is_new {
            self.due.insert((release_ms, root));
        } else if changed {
            // Those who were told hear of the change with the next batch. One note an object is
            // enough, however often it changes until then.
            known.changed |= known.listed;
            self.due.insert((0, root));
        }
        if is_new || changed {
            self.acts.push_back(Act::Listed(root));
        }
        is_new || changed
    }

    fn del(&mut self, now_ms: u64, friend: FriendKey, eid: Eid) -> bool {
        let Some(view) = self.views.get_mut(&friend) else { return false };
        let Some((root, part)) = view.eids.remove(&eid) else { return false };
        let state = view.part(part);
        state.count = state.count.saturating_sub(1);
        if let Some(known) = self.known.get_mut(&root) {
            known.forget(|h| h.friend == friend && h.part == part);
            known.changed |= known.listed;
            // Gone from search at once, from the views of others with the next batch.
            self.due.insert((now_ms, root));
        }
        self.settle(root);
        true
    }

    // Time.

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

    /// When [`Catalogue::timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Duration> {
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
        let later = self.due.split_off(&(now_ms + 1, Root([0; 32])));
        let mut roots: Vec<Root> = std::mem::replace(&mut self.due, later).into_iter().map(|d| d.1).collect();
        roots.sort_unstable();
        roots.dedup();
        shuffle(&mut roots, &mut self.rng);
        let mut gone = BTreeSet::new();
        for root in roots {
            let Some(known) = self.known.get_mut(&root) else { continue };
            let leaves = |h: &Heard| h.leave_ms.is_some_and(|at| at <= now_ms);
            gone.extend(known.heard.iter().filter(|h| leaves(h)).map(|h| (h.friend, root)));
            known.forget(leaves);
            let visible = known.relayable(now_ms);
            let changed = std::mem::take(&mut known.changed) && visible;
            if visible != known.listed || changed {
                known.listed = visible;
                self.relayed_log.ops.push((root, visible));
            }
            self.settle(root);
        }
        for (friend, root) in gone {
            if let Some(view) = self.views.get_mut(&friend) {
                view.eids.retain(|_, (r, _)| *r != root);
            }
            self.drop_if_empty(friend);
        }
        let live = self.known.values().filter(|k| k.listed).count();
        if self.relayed_log.ops.len() > 2 * live + LOG_SLACK {
            let listed = self.known.iter().filter(|(_, k)| k.listed).map(|(root, _)| *root);
            self.relayed_log = Log::new(&mut self.rng, listed);
        }
    }

    fn expire(&mut self, now: Now) {
        let today = (now.unix_s() / DAY_S) as u32;
        let (mut old, mut renew) = (Vec::new(), Vec::new());
        for (root, known) in &self.known {
            match &known.own {
                Some(own) if own.renew_at_s <= now.unix_s() => renew.push((*root, own.audience)),
                Some(_) => {}
                None => {}
            }
            let late = known.heard.iter().filter(|h| h.leave_ms.is_none() && h.expires_day < today);
            old.extend(late.map(|h| (*root, h.friend, h.part)));
        }
        for (root, audience) in renew {
            let entry = self.known.get(&root).and_then(|k| Entry::decode(&k.entry).ok());
            if let Some(entry) = entry {
                self.publish(now, entry, audience, true);
            }
        }
        for (root, friend, part) in old {
            let Some(view) = self.views.get(&friend) else { continue };
            let found = view.eids.iter().find(|(_, at)| **at == (root, part)).map(|(eid, _)| *eid);
            if let Some(eid) = found {
                self.del(now.unix_ms, friend, eid);
                self.acts.push_back(Act::Record(friend, vec![del_record(eid)]));
            }
        }
    }

    // After a restart.

    /// Replays one record of a friend's view log. Records that this release does not know are skipped.
    pub fn restore(&mut self, now: Now, friend: FriendKey, record: &[u8]) -> Result<(), DecodeError> {
        let mut r = Reader::new(record);
        match r.u8()? {
            1 => {
                let bad = r.invalid("part");
                let part = Part::from_number(r.u8()?).ok_or(bad)?;
                let release_ms = r.u64()?;
                let eid = Eid(r.array()?);
                let entry = Entry::decode(r.remaining())?;
                self.add(now, friend, part, eid, &entry, release_ms);
            }
            2 => {
                self.del(now.unix_ms, friend, Eid(r.array()?));
            }
            3 => {
                let bad = r.invalid("part");
                let part = Part::from_number(r.u8()?).ok_or(bad)?;
                let (log, upto) = (r.u64()?, r.u64()?);
                if let Some(view) = self.views.get_mut(&friend) {
                    let state = view.part(part);
                    (state.log, state.upto, state.completed) = (log, upto, true);
                }
            }
            4 => {
                let (from_ms, span_ms, seed) = (r.u64()?, r.u64()?, r.array()?);
                self.leave(friend, from_ms, span_ms, &seed);
            }
            _ => {}
        }
        Ok(())
    }

    /// A view whose log is to be replayed although the friend is gone.
    pub fn restore_gone(&mut self, friend: FriendKey) {
        self.views.entry(friend).or_default();
    }

    // Look-ups.

    /// What is known of an object.
    pub fn listing(&self, root: &Root) -> Option<Listing> {
        let known = self.known.get(root).filter(|k| k.searchable())?;
        let entry = Entry::decode(&known.entry).ok()?;
        let links = |part| if part == Part::Own { 1 } else { 2 };
        let mut sources: Vec<(FriendKey, u8)> =
            known.heard.iter().filter(|h| h.leave_ms.is_none()).map(|h| (h.friend, links(h.part))).collect();
        sources.sort_by_key(|(friend, links)| (*links, *friend));
        let distance = if known.own.is_some() { 0 } else { sources.first().map_or(2, |s| s.1) };
        Some(Listing { entry, distance, sources })
    }

    /// Objects that search can show.
    pub fn roots(&self) -> impl Iterator<Item = &Root> {
        self.known.iter().filter(|(_, k)| k.searchable()).map(|(root, _)| root)
    }

    /// Whether a friend that asks for an object is in its audience: own publications for it, and
    /// what a friend published for friends of friends.
    pub fn may_serve(&self, friend: FriendKey, root: &Root) -> bool {
        self.known.get(root).is_some_and(|known| {
            known.own.as_ref().is_some_and(|own| own.audience.includes(friend, &self.circles))
                || known.heard.iter().any(|h| {
                    h.friend != friend && h.part == Part::Own && h.hops_left > 0 && h.leave_ms.is_none()
                })
        })
    }

    /// Friends to pass a request of `asker` on to: those who published it for friends of friends.
    pub fn pointers(&self, asker: FriendKey, root: &Root) -> Vec<FriendKey> {
        let Some(known) = self.known.get(root) else { return Vec::new() };
        let points =
            |h: &&Heard| h.friend != asker && h.part == Part::Own && h.hops_left > 0 && h.leave_ms.is_none();
        known.heard.iter().filter(points).map(|h| h.friend).collect()
    }

    /// Entries known, own and heard.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// The live records of a friend's view: what its log is rewritten to when it has grown.
    pub fn snapshot(&self, friend: FriendKey) -> Vec<Vec<u8>> {
        let Some(view) = self.views.get(&friend).filter(|v| !v.gone) else { return Vec::new() };
        let mut records = Vec::new();
        for (eid, (root, part)) in &view.eids {
            let Some(known) = self.known.get(root) else { continue };
            let heard = known.heard.iter().find(|h| h.friend == friend && h.part == *part);
            if let Some((heard, entry)) = heard.and_then(|h| Some((h, known.said_by(h)?))) {
                records.push(add_record(*part, heard.release_ms, *eid, &entry));
            }
        }
        for (part, state) in [(Part::Own, &view.own), (Part::Relayed, &view.relayed)] {
            if state.completed {
                let mut w = Writer::new();
                w.u8(3).u8(part.number()).u64(state.log).u64(state.upto);
                records.push(w.into_bytes());
            }
        }
        records
    }
}

/// An entry without what each mention has of its own: hops and expiry.
fn plain_words(entry: &Entry) -> Vec<u8> {
    Entry { hops_left: 0, expires_day: 0, ..entry.clone() }.encode()
}

// Records of a view log: 1 add, 2 delete, 3 mark, 4 leave.
fn add_record(part: Part, release_ms: u64, eid: Eid, entry: &Entry) -> Vec<u8> {
    let mut w = Writer::new();
    w.u8(1).u8(part.number()).u64(release_ms).raw(&eid.0).raw(&entry.encode());
    w.into_bytes()
}

fn del_record(eid: Eid) -> Vec<u8> {
    let mut w = Writer::new();
    w.u8(2).raw(&eid.0);
    w.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> (Catalogue, Now) {
        let pace = Pace { batch: Duration::from_secs(60), spread: Duration::from_secs(600) };
        let now = Now { at: Duration::ZERO, unix_ms: 20_000 * DAY_S * 1000 };
        (Catalogue::new(pace, Key::new([1; 32]), Rng::from_seed([2; 32])), now)
    }

    fn friend(n: u8) -> FriendKey {
        FriendKey([n; 32])
    }

    /// Hands in what `from` says of the sample object in its own part.
    fn hear(catalogue: &mut Catalogue, now: Now, from: FriendKey, eid: u8, change: impl FnOnce(&mut Entry)) {
        let mut entry = Entry { published_day: 20_000, expires_day: 20_030, ..Entry::sample() };
        change(&mut entry);
        catalogue.add(now, from, Part::Own, Eid([eid; 8]), &entry, now.unix_ms);
    }

    fn title(catalogue: &Catalogue) -> String {
        catalogue.listing(&Entry::sample().root()).map_or_else(String::new, |l| l.entry.title)
    }

    #[test]
    fn nobody_changes_what_another_friend_said() {
        let (mut c, now) = node();
        (1..=3).for_each(|n| c.add_friend(friend(n)));
        hear(&mut c, now, friend(1), 1, |_| {});
        hear(&mut c, now, friend(2), 2, |e| {
            e.title = "Something else".into();
            e.cap.key = Key::new([9; 32]);
        });
        assert_eq!(title(&c), Entry::sample().title);
        c.timeout(now);
        // Friend 1 is told what friend 2 says, everybody else what the first one said.
        let told = |c: &Catalogue, to| c.relayed_entry(now, to, Entry::sample().root()).map(|e| e.title);
        assert_eq!(told(&c, friend(1)).as_deref(), Some("Something else"));
        assert_eq!(told(&c, friend(3)), Some(Entry::sample().title));
        // When the first is gone, the other's words are all there is.
        assert!(c.del(now.unix_ms, friend(1), Eid([1; 8])));
        assert_eq!(title(&c), "Something else");
        assert_eq!(c.listing(&Entry::sample().root()).unwrap().entry.cap.key, Key::new([9; 32]));
    }

    #[test]
    fn the_first_may_change_its_words_and_each_mention_expires_alone() {
        let (mut c, now) = node();
        (1..=2).for_each(|n| c.add_friend(friend(n)));
        hear(&mut c, now, friend(1), 1, |e| e.expires_day = 20_001);
        hear(&mut c, now, friend(2), 2, |_| {});
        hear(&mut c, now, friend(1), 1, |e| {
            e.title = "Renamed".into();
            e.expires_day = 20_001;
        });
        assert_eq!(title(&c), "Renamed");
        let later = Now { at: Duration::from_secs(7200), unix_ms: 20_003 * DAY_S * 1000 };
        c.timeout(later);
        assert_eq!(title(&c), Entry::sample().title, "friend 1 has not renewed, friend 2's words stay");
    }

    #[test]
    fn a_view_survives_its_log() {
        let (mut c, now) = node();
        (1..=2).for_each(|n| c.add_friend(friend(n)));
        hear(&mut c, now, friend(1), 1, |_| {});
        hear(&mut c, now, friend(2), 2, |e| e.title = "Mine".into());
        let (mut again, _) = node();
        for n in 1..=2 {
            again.add_friend(friend(n));
            for record in c.snapshot(friend(n)) {
                again.restore(now, friend(n), &record).unwrap();
            }
            assert_eq!(again.snapshot(friend(n)), c.snapshot(friend(n)));
        }
    }
}
