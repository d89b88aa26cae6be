//! What the driver task knows besides the protocol: the journal's state, names, the search index
//! and the fetches that somebody waits for. The API reaches it by small closures that run between
//! two turns of the driver, so nothing here is shared or locked.

mod fetches;
mod mirrors;

pub use fetches::{FetchHandle, FetchStatus, Purpose, Wanted};
pub use mirrors::MirrorSettings;

use crate::doctor::Dial;
use crate::exit::{Exit, Failure};
use crate::heal::Heal;
use crate::journal::Stored;
use crate::records::{Hidden, Record, State};
use crate::search::{Doc, Index};
use crate::storage::{Block, Log, Storage};
use fetches::{Fetching, Released};
use kith_crypto::content::{Position, ReadCap, Root};
use kith_onion::catalogue::{Brief, EntryId, Listing};
use kith_onion::handshake::Who;
use kith_onion::{Change, Core, Event, FetchId, FriendKey, InviteId, InviteOutcome, Now, Traffic};
use kith_store::{Store, StoreError};
use mirrors::Mirrors;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// Traffic counters reach the journal this often.
const SAVE_TRAFFIC_EVERY: Duration = Duration::from_secs(60);
/// Objects that search sees in one turn of the driver: about a millisecond of work.
const INDEX_PER_TURN: usize = 100;
const DAY_S: u64 = 86_400;
/// The core's permission for restored friendships is renewed this often; it lasts a day.
const RESTORED_AGAIN: Duration = Duration::from_secs(23 * 3600);
/// And for so long after a restore.
const RESTORED_FOR_S: u64 = 30 * DAY_S;
/// A clock that says less (the beginning of 2025) was not set yet.
const CLOCK_SET_S: u64 = 1_735_689_600;
/// Secrets that changed are erased from the journal at least this often.
const ERASE_EVERY: Duration = Duration::from_secs(7 * 24 * 3600);
/// And sooner when so many records hold secrets of the past.
const ERASE_BACKLOG: usize = 64;
/// An erasure that failed is tried again after this.
const ERASE_AGAIN: Duration = Duration::from_secs(60);
/// Shortest prefix of an id that is accepted.
pub const MIN_ID_PREFIX: usize = 8;

/// What a closure of the API works on.
pub struct Context<'a> {
    /// Time.
    pub now: Now,
    /// The protocol.
    pub core: &'a mut Core,
    /// The storage threads.
    pub storage: &'a mut Storage,
    /// State, search, fetches.
    pub service: &'a mut Service,
}

/// A closure of the API.
pub type Job = Box<dyn FnOnce(&mut Context<'_>) + Send>;

/// What the API asks of the driver.
pub enum Command {
    /// Run this between two turns.
    Run(Job),
    /// End; answered when everything is stored.
    Stop(oneshot::Sender<()>),
}

/// See [`Service::permit_publishing`].
#[derive(Debug)]
pub struct Publishing(Arc<AtomicUsize>);

impl Drop for Publishing {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// See [`Service::permit_check`].
#[derive(Debug)]
pub struct Checking(Arc<AtomicUsize>);

impl Drop for Checking {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Release);
    }
}

/// One search result.
pub struct Found {
    /// What is known of it.
    pub listing: Listing,
    /// Relevance.
    pub score: f32,
}

/// The driver task's knowledge.
pub struct Service {
    state: State,
    store: Arc<Store>,
    index: Index,
    fetches: BTreeMap<FetchId, Fetching>,
    released: Arc<Mutex<Vec<Released>>>,
    invite_waiters: HashMap<InviteId, oneshot::Sender<InviteOutcome>>,
    up_waiters: Vec<(FriendKey, oneshot::Sender<()>)>,
    pong_waiters: Vec<(FriendKey, oneshot::Sender<Duration>)>,
    saved_traffic: HashMap<FriendKey, Traffic>,
    next_save: Duration,
    /// Records since the journal was written anew that make secrets in earlier ones useless.
    erasable: usize,
    /// A friend was removed: its secrets go at once.
    erase_now: bool,
    /// The journal is being written anew: what it holds now is decided.
    compacting: bool,
    /// Publications that are being stored and are not in the state yet.
    publishing: Arc<AtomicUsize>,
    publish_waiters: Vec<oneshot::Sender<Publishing>>,
    erased_at: Duration,
    erase_after: Duration,
    /// What the compaction under way erases.
    erasing: (usize, bool),
    /// Friends whose invite somebody used once more.
    reused_invites: std::collections::BTreeSet<FriendKey>,
    /// The journal had unreadable records when it was opened.
    damaged: bool,
    read_only: Option<String>,
    /// What is said of a full disk, while records wait for room.
    full: Option<String>,
    /// Objects that somebody here asked for: their use is to be written down.
    used: Vec<Root>,
    clock_warning: Option<i64>,
    /// Records that the next turn stores.
    unsaved: Vec<Record>,
    /// The journal lacks records that found no room, and is not to be written anew.
    append_all: bool,
    /// A friend was made: it may be one that is blocked.
    check_blocked: bool,
    dials: HashMap<FriendKey, Dial>,
    /// Objects with damaged blocks.
    pub(crate) heal: Heal,
    /// Friends whose links stand since the last turn.
    came_up: Vec<FriendKey>,
    /// Copies for others.
    pub(crate) mirrors: Mirrors,
    /// Who waits for the journal to be written anew because the disk lost some of it.
    rewrite_waiters: Vec<oneshot::Sender<Result<(), String>>>,
    /// A check of everything stored is under way, asked for by the owner.
    checking: Arc<AtomicUsize>,
    /// When restored friendships are permitted again.
    restored_next: Duration,
    /// A friend was made: the core does not know yet how far it is trusted.
    tell_trust: bool,
    /// Since when no link to the first relay of own circuits stands.
    guard_away: Option<Duration>,
}

/// Whether neither the video is hidden nor all friends who tell of it.
fn shows(hidden: &BTreeSet<Hidden>, core: &Core, id: EntryId, root: Root) -> bool {
    let by_hidden = |friend: FriendKey| hidden.contains(&Hidden::Friend(friend));
    let told = !hidden.is_empty() && core.tellers(id).next().is_some() && core.tellers(id).all(by_hidden);
    !told && !hidden.contains(&Hidden::Video(root))
}

impl Service {
    /// A service over the replayed state. `damaged`: some of the journal could not be read.
    pub fn new(state: State, store: Arc<Store>, damaged: bool) -> Self {
        let heal = Heal::resume(&state.damaged);
        Self {
            state,
            store,
            index: Index::new(),
            fetches: BTreeMap::new(),
            released: Arc::default(),
            invite_waiters: HashMap::new(),
            up_waiters: Vec::new(),
            pong_waiters: Vec::new(),
            saved_traffic: HashMap::new(),
            next_save: SAVE_TRAFFIC_EVERY,
            erasable: 0,
            erase_now: false,
            compacting: false,
            publishing: Arc::default(),
            publish_waiters: Vec::new(),
            erased_at: Duration::ZERO,
            erase_after: Duration::ZERO,
            erasing: (0, false),
            reused_invites: std::collections::BTreeSet::new(),
            damaged,
            read_only: None,
            full: None,
            used: Vec::new(),
            clock_warning: None,
            unsaved: Vec::new(),
            append_all: false,
            check_blocked: false,
            dials: HashMap::new(),
            heal,
            mirrors: Mirrors::new(),
            came_up: Vec::new(),
            rewrite_waiters: Vec::new(),
            checking: Arc::default(),
            restored_next: Duration::ZERO,
            tell_trust: false,
            guard_away: None,
        }
    }

    /// What the journal says.
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// The state, to apply records to that are also stored.
    pub const fn state_mut(&mut self) -> &mut State {
        &mut self.state
    }

    /// The store, for what the caller may wait for.
    pub const fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Runs a closure of the API.
    pub fn command(&mut self, now: Now, core: &mut Core, storage: &mut Storage, command: Command) {
        if let Command::Run(job) = command {
            job(&mut Context { now, core, storage, service: self });
        }
    }

    /// Why nothing is stored any more, if so.
    pub fn read_only(&self) -> Option<&str> {
        self.read_only.as_deref().or_else(|| self.store.read_only_reason())
    }

    /// The disk is full and records wait for room.
    pub fn set_full(&mut self, why: String) {
        self.tell_rewriters(&Err(why.clone()));
        self.full = Some(why);
    }

    /// There is room again. If not everything could wait for it, the journal is written anew from the
    /// state, which has it.
    pub fn room_again(&mut self, shed: bool) {
        self.full = None;
        self.erase_now |= shed;
        // A damaged journal is left for its owner to see: what was let go is written behind it.
        self.append_all |= shed && self.damaged;
    }

    /// What is said of a full disk, while records wait for room.
    pub fn full(&self) -> Option<&str> {
        self.full.as_deref()
    }

    /// Nothing is stored any more.
    pub fn set_read_only(&mut self, why: String) {
        self.tell_rewriters(&Err(why.clone()));
        self.read_only = Some(why);
    }

    /// Answers who waits for the journal to be written anew.
    fn tell_rewriters(&mut self, told: &Result<(), String>) {
        self.rewrite_waiters.drain(..).for_each(|answer| drop(answer.send(told.clone())));
    }

    /// Whether somebody used the invite that made this friend once more, since the start.
    pub fn invite_reused(&self, friend: FriendKey) -> bool {
        self.reused_invites.contains(&friend)
    }

    /// A friend's clock that differs by more than ten minutes, in milliseconds.
    pub const fn clock_warning(&self) -> Option<i64> {
        self.clock_warning
    }

    /// Applies a change of the core and returns its record.
    pub fn keep(&mut self, change: &Change, now: Now) -> Vec<u8> {
        let state = &self.state;
        let mut record = Record::of_change(change, |cert| state.free_name(&cert.name), now.unix_s());
        if let Record::Friend(friend) = &mut record
            && let Some(known) = state.friends.get(&FriendKey(friend.record.keys.sign))
        {
            // A renewed friendship keeps its name and its past.
            (friend.name, friend.since_s, friend.traffic) =
                (known.name.clone(), known.since_s, known.traffic);
            friend.verified_s = known.verified_s;
        }
        let bytes = record.encode();
        self.apply(record);
        bytes
    }

    /// Applies a record that is being stored.
    fn apply(&mut self, record: Record) {
        self.erasable += usize::from(record.erases());
        self.erase_now |= matches!(record, Record::FriendRemoved(_) | Record::Rotated(..));
        self.state.apply(record);
    }

    /// Writes the journal anew when it holds secrets of the past: at once after a friend was removed,
    /// on a backlog of ratchet steps, and weekly. A damaged journal is left for its owner to see.
    fn erase(&mut self, now: Now, storage: &mut Storage) {
        let week = now.at.saturating_sub(self.erased_at) >= ERASE_EVERY && self.erasable > 0;
        let due = self.erase_now || self.erasable >= ERASE_BACKLOG || week;
        // What is being published is in the journal before it is in the state.
        let free = !self.compacting && self.publishing.load(Ordering::Acquire) == 0;
        let writable = self.read_only().is_none() && self.full.is_none();
        let able = !self.damaged && writable && now.at >= self.erase_after;
        if due && free && able {
            (self.compacting, self.erasing) = (true, (self.erasable, self.erase_now));
            (self.erasable, self.erase_now) = (0, false);
            storage.log(Log::Compact(self.state.live()));
        }
    }

    /// The journal was written anew; if that failed it is tried again in a minute.
    pub fn compacted(&mut self, now: Now, result: Result<(), StoreError>) {
        self.compacting = false;
        let waiters = std::mem::take(&mut self.publish_waiters);
        waiters.into_iter().for_each(|answer| self.permit_publishing(answer));
        let told = result.as_ref().copied().map_err(ToString::to_string);
        self.tell_rewriters(&told);
        match result {
            Ok(()) => self.erased_at = now.at,
            Err(e) => {
                // A full disk was told already, and it is tried again.
                if !matches!(e, StoreError::Full { .. }) {
                    tracing::warn!(
                        "old secrets are still in the journal, which could not be written anew: {e}"
                    );
                }
                self.erasable += self.erasing.0;
                self.erase_now |= self.erasing.1;
                self.erase_after = now.at + ERASE_AGAIN;
            }
        }
    }

    /// Writes the journal anew from the state, because the disk lost some of it since the start.
    pub fn rewrite_journal(&mut self) -> oneshot::Receiver<Result<(), String>> {
        let (sender, answer) = oneshot::channel();
        match (self.damaged, self.read_only().or(self.full())) {
            // What was lost before the start is not in the state: the file is left for its owner to see.
            (true, _) => drop(sender.send(Err("the journal had lost records before this start".into()))),
            (_, Some(why)) => drop(sender.send(Err(why.to_owned()))),
            (false, None) => {
                self.rewrite_waiters.push(sender);
                self.erase_now = true;
            }
        }
        answer
    }

    /// The owner has seen that records were lost before the start, and goes on without them.
    pub const fn accept_loss(&mut self) {
        self.damaged = false;
    }

    /// Whether some of the journal could not be read at the start.
    pub const fn is_damaged(&self) -> bool {
        self.damaged
    }

    /// Leave for one check of everything stored at a time; `None` while there is another.
    pub fn permit_check(&self) -> Option<Checking> {
        let free = self.checking.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire).is_ok();
        free.then(|| Checking(self.checking.clone()))
    }

    /// Whether the owner's check is under way.
    pub fn is_checking(&self) -> bool {
        self.checking.load(Ordering::Acquire) > 0
    }

    /// Gives leave to store a publication from another thread, kept until the state has it. While
    /// the journal is being written anew the answer waits for that.
    pub fn permit_publishing(&mut self, answer: oneshot::Sender<Publishing>) {
        if self.compacting {
            self.publish_waiters.push(answer);
        } else {
            self.publishing.fetch_add(1, Ordering::AcqRel);
            let _ = answer.send(Publishing(self.publishing.clone()));
        }
    }

    /// Takes news from the core.
    pub fn event(&mut self, now: Now, event: Event) {
        match event {
            Event::Up(friend) => {
                self.note_met(now, friend);
                self.heal.somebody_came(now);
                self.came_up.push(friend);
                if self.state.restored.contains_key(&friend) {
                    self.unsaved.push(Record::Restored(friend, 0));
                }
                let (ready, rest) =
                    std::mem::take(&mut self.up_waiters).into_iter().partition(|w| w.0 == friend);
                self.up_waiters = rest;
                let ready: Vec<(FriendKey, oneshot::Sender<()>)> = ready;
                for (_, waiter) in ready {
                    let _ = waiter.send(());
                }
                tracing::info!("a friend's link stands");
            }
            // Taken by the driver, as the answer needs the core.
            Event::Mirror(..) | Event::Withdrawn(_) => {}
            Event::Down(_) => tracing::info!("a friend's link is gone"),
            Event::Invite(id, outcome) => {
                let is_friend = matches!(outcome, InviteOutcome::Friends(_));
                self.check_blocked |= is_friend;
                self.tell_trust |= is_friend;
                if let Some(waiter) = self.invite_waiters.remove(&id) {
                    let _ = waiter.send(outcome);
                }
            }
            Event::Befriended(_) => {
                (self.check_blocked, self.tell_trust) = (true, true);
                tracing::info!("an invite made a friend");
            }
            Event::ClockSkew(_, offset_ms) => {
                self.clock_warning = Some(offset_ms);
                tracing::warn!(
                    "a friend's clock differs by {} minutes: check the time here",
                    offset_ms / 60_000
                );
            }
            Event::OutOfStep(..) => {
                tracing::warn!("a friend's keys do not fit: see `kith doctor`, nothing is done without you")
            }
            Event::OtherVersion(_, major) => tracing::warn!(
                "a friend's program speaks version {major} of the protocol, this one {}: update the older",
                kith_onion::handshake::MAJOR
            ),
            Event::InviteReused(friend) => {
                if let Some(friend) = self.state.friends.get(&friend) {
                    self.reused_invites.insert(FriendKey(friend.record.keys.sign));
                }
                tracing::warn!("an invite that made a friend was used once more: see `kith doctor`");
            }
            Event::KeysRotated(_) => tracing::info!("a friend has new link keys, signed by its identity"),
            Event::Pong(friend, took) => {
                let (ready, rest) =
                    std::mem::take(&mut self.pong_waiters).into_iter().partition(|w| w.0 == friend);
                self.pong_waiters = rest;
                let ready: Vec<(FriendKey, oneshot::Sender<Duration>)> = ready;
                for (_, waiter) in ready {
                    let _ = waiter.send(took);
                }
            }
            Event::Fetch(..) => {} // the driver handles these: they need storage
        }
    }

    /// Stores a record with the next turn.
    pub(crate) fn remember(&mut self, record: Record) {
        self.unsaved.push(record);
    }

    /// Remembers that the friend was met, to the day.
    fn note_met(&mut self, now: Now, friend: FriendKey) {
        let today = now.unix_s() / DAY_S;
        if self.full.is_none() && self.state.met.get(&friend).is_none_or(|at| at / DAY_S != today) {
            self.unsaved.push(Record::Met(friend, now.unix_s()));
        }
    }

    /// How calling somebody went. An inviter is known by the key that it will have as a friend.
    pub fn dial_ended(&mut self, who: Who, dial: Dial) {
        let friend = match who {
            Who::Friend(key) => self.state.friends.contains_key(&key).then_some(key),
            Who::Invite(id) => self.state.taken.get(&id).map(|i| FriendKey(i.inviter.keys.sign)),
        };
        self.dials.retain(|key, _| self.state.friends.contains_key(key) || Some(*key) == friend);
        self.dials.extend(friend.map(|key| (key, dial)));
    }

    /// How calling a friend went last, since the start.
    pub fn last_dial(&self, friend: FriendKey) -> Option<&Dial> {
        self.dials.get(&friend)
    }

    // Search.

    /// Lets search see what is new in the catalogue, at most so many objects. True if there is more.
    pub fn index(&mut self, core: &mut Core, most: usize) -> bool {
        for _ in 0..most {
            let Some((id, searchable)) = core.next_unsearched() else { return false };
            let Some(searchable) = searchable else {
                self.index.remove(id.0);
                continue;
            };
            let entry = searchable.entry;
            let tags: Vec<&str> = entry.tags().collect();
            let source = searchable.teller;
            let doc = Doc { title: entry.title, text: entry.text, tags: &tags, via_name: None, source };
            self.index.insert(id.0, doc);
        }
        core.unsearched() > 0
    }

    /// Searches what is known here; nothing leaves the node.
    pub fn search(
        &mut self,
        core: &mut Core,
        words: &str,
        limit: usize,
        keep: impl Fn(Brief) -> bool,
    ) -> Vec<Found> {
        // Whoever asks has a right to what came a moment ago.
        self.index(core, usize::MAX);
        let unwanted = self.with_hidden_words();
        let shown = |id: u32, brief: &Brief| {
            !unwanted.contains(&id) && shows(&self.state.hidden, core, EntryId(id), brief.root)
        };
        let keeps = |id: u32| core.brief(EntryId(id)).is_some_and(|brief| shown(id, &brief) && keep(brief));
        let mut hits = self.index.query(words, limit);
        if !hits.iter().all(|hit| keeps(hit.id)) {
            // An ask for a few of many looks at all of them.
            hits = self.index.query_where(words, limit, keeps);
        }
        let found = hits
            .into_iter()
            .filter_map(|hit| Some(Found { listing: core.entry(EntryId(hit.id))?, score: hit.score }));
        found.collect()
    }

    /// Entries with a hidden word.
    fn with_hidden_words(&self) -> HashSet<u32> {
        let words = self.state.hidden.iter().filter_map(|hidden| match hidden {
            Hidden::Word(word) => Some(word),
            _ => None,
        });
        words.flat_map(|word| self.index.with_word(word)).collect()
    }

    /// The latest that friends told of, by the day of publication, at most so many.
    pub fn latest(&mut self, core: &mut Core, limit: usize) -> Vec<Listing> {
        self.index(core, usize::MAX);
        let unwanted = self.with_hidden_words();
        core.latest(limit, |id, root| !unwanted.contains(&id.0) && shows(&self.state.hidden, core, id, root))
    }

    // Ids.

    /// The object that an id, a unique prefix of one, or a link names.
    pub fn resolve(&self, core: &Core, text: &str) -> Result<(Root, Option<ReadCap>), Failure> {
        let text = text.trim();
        if text.starts_with("kith:") {
            let cap = ReadCap::from_link(text)
                .map_err(|e| Failure::new(Exit::Usage, format!("this is not a link of a video: {e}")))?;
            return Ok((cap.root, Some(cap)));
        }
        let text = text.to_ascii_lowercase();
        if text.len() > 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Failure::new(
                Exit::Usage,
                "an id has hexadecimal digits only: copy it from `kith search` or `kith video list`",
            ));
        }
        if let Some(root) = Root::from_hex(&text) {
            return if self.is_known(core, &root) { Ok((root, None)) } else { Err(unknown(&text)) };
        }
        if text.len() < MIN_ID_PREFIX {
            let what = format!("{MIN_ID_PREFIX} digits of an id are the least: give more of it");
            return Err(Failure::new(Exit::Usage, what));
        }
        let stored = self.store.objects();
        let own = self.state.publications.keys().chain(self.state.known.keys()).copied();
        let all = core.listed().chain(own).chain(stored.iter().map(|o| o.root));
        let mut matching: Vec<Root> = all.filter(|root| begins_with(root, &text)).collect();
        matching.sort_unstable();
        matching.dedup();
        match matching.as_slice() {
            [] => Err(unknown(&text)),
            [root] => Ok((*root, None)),
            _ => Err(Failure::new(Exit::Usage, "several ids start like this: give more digits")),
        }
    }

    fn is_known(&self, core: &Core, root: &Root) -> bool {
        core.listing(root).is_some()
            || self.state.publications.contains_key(root)
            || self.state.known.contains_key(root)
            || self.store.object(root).is_some()
    }

    /// What reads an object, if this node may.
    pub fn read_cap(&self, core: &Core, root: &Root) -> Result<ReadCap, Failure> {
        if let Some(publication) = self.state.publications.get(root) {
            return Ok(publication.cap.clone());
        }
        if let Some(listing) = core.listing(root) {
            return Ok(listing.entry.cap);
        }
        if let Some(key) = self.state.known.get(root) {
            return Ok(ReadCap { root: *root, key: key.clone() });
        }
        match self.store.object(root) {
            Some(object) => match object.read {
                Some(key) => Ok(ReadCap { root: *root, key }),
                None => Err(Failure::new(
                    Exit::Refused,
                    "this node keeps the video for others and cannot read it",
                )),
            },
            None => Err(unknown(&root.to_hex())),
        }
    }

    // Waiting.

    /// Answers with how an invite went.
    pub fn await_invite(&mut self, id: InviteId) -> oneshot::Receiver<InviteOutcome> {
        let (sender, receiver) = oneshot::channel();
        self.invite_waiters.insert(id, sender);
        receiver
    }

    /// Answers when the friend's link stands.
    pub fn await_up(&mut self, core: &Core, friend: FriendKey) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        if core.is_online(friend) {
            let _ = sender.send(());
        } else {
            self.up_waiters.retain(|w| !w.1.is_closed());
            self.up_waiters.push((friend, sender));
        }
        receiver
    }

    /// Answers with the round trip of a ping that was just sent.
    pub fn await_pong(&mut self, friend: FriendKey) -> oneshot::Receiver<Duration> {
        let (sender, receiver) = oneshot::channel();
        self.pong_waiters.retain(|w| !w.1.is_closed());
        self.pong_waiters.push((friend, sender));
        receiver
    }

    // Regular work.

    /// Looked at every turn; does something every minute, when a fetch was let go and when there is
    /// something new to search. True if there is more to do.
    pub fn tick(&mut self, now: Now, core: &mut Core, storage: &mut Storage) -> bool {
        self.drop_released(now, core, storage);
        for root in std::mem::take(&mut self.used) {
            storage.log(Log::Used(root, now.unix_s()));
        }
        self.stop_offering_evicted(core, storage);
        let healing = self.mend(now, core);
        for friend in std::mem::take(&mut self.came_up) {
            self.mirror_friend_up(now, core, friend);
        }
        self.tend_mirrors(now, core, storage);
        if std::mem::take(&mut self.append_all) {
            storage.log(Log::Append(self.state.live(), None));
        }
        if !self.unsaved.is_empty() {
            let records = std::mem::take(&mut self.unsaved);
            storage.log(Log::Append(records.iter().map(Record::encode).collect(), None));
            records.into_iter().for_each(|r| self.state.apply(r));
        }
        if std::mem::take(&mut self.check_blocked) {
            // An invite that somebody passed on to a blocked friend does not undo the block.
            let blocked = self.state.settings.iter().filter(|(_, s)| s.blocked);
            blocked.for_each(|(key, _)| core.remove_friend(now, *key));
        }
        if std::mem::take(&mut self.tell_trust) {
            crate::privacy::tell_trust(now, core, &self.state);
        }
        if now.at >= self.next_save {
            self.look_at_guard(now, core);
            self.next_save = now.at + SAVE_TRAFFIC_EVERY;
            self.save_traffic(now, core, storage);
            self.allow_restored(now, core);
            self.erase(now, storage);
        } else if self.erase_now {
            self.erase(now, storage);
        }
        self.index(core, INDEX_PER_TURN) || healing
    }

    /// Notes since when the first relay of own circuits is away.
    fn look_at_guard(&mut self, now: Now, core: &Core) {
        let report = core.circuit_report(now);
        let away = report.tier.is_some() && !report.guard_online;
        self.guard_away = away.then(|| self.guard_away.unwrap_or(now.at));
    }

    /// For how long no link to the first relay of own circuits has stood, to the minute.
    pub fn guard_away(&self, now: Now) -> Option<Duration> {
        self.guard_away.map(|since| now.at.saturating_sub(since))
    }

    /// What gave way is not offered any more, unless it came back meanwhile.
    fn stop_offering_evicted(&self, core: &mut Core, storage: &mut Storage) {
        for root in self.store.take_evicted() {
            if self.store.object(&root).is_none() {
                core.release(&root);
                storage.block(Block::Drop(root));
            }
        }
    }

    /// After a restore this owner has agreed to new keys with every friend: the core, whose permission
    /// lasts a day, is told again before it ends, for a month. A restore on a machine whose clock was
    /// not set says nothing about when: its month begins when the clock is found set.
    pub fn allow_restored(&mut self, now: Now, core: &mut Core) {
        if now.at < self.restored_next {
            return;
        }
        self.restored_next = now.at + RESTORED_AGAIN;
        let now_s = now.unix_s();
        for (key, at_s) in self.state.restored.iter().filter(|(_, at_s)| still_agreed(**at_s, now_s)) {
            if *at_s < CLOCK_SET_S && now_s >= CLOCK_SET_S {
                self.unsaved.push(Record::Restored(*key, now_s));
            }
            core.allow_restored(now, *key);
        }
    }

    /// A friend's traffic in all.
    pub fn traffic(&self, core: &Core, friend: FriendKey) -> Traffic {
        let before = self.state.friends.get(&friend).map_or_else(Traffic::default, |f| f.traffic);
        let saved = self.saved_traffic.get(&friend).copied().unwrap_or_default();
        let now = core.traffic(friend);
        Traffic {
            sent: before.sent + now.sent.saturating_sub(saved.sent),
            received: before.received + now.received.saturating_sub(saved.received),
            relayed: before.relayed + now.relayed.saturating_sub(saved.relayed),
        }
    }

    /// Writes changed traffic counters to the journal.
    pub fn save_traffic(&mut self, now: Now, core: &Core, storage: &mut Storage) {
        if self.full.is_some() {
            return; // it comes with the next one
        }
        let friends: Vec<FriendKey> = self.state.friends.keys().copied().collect();
        let mut records = Vec::new();
        for friend in friends {
            let traffic = core.traffic(friend);
            if self.saved_traffic.get(&friend).copied().unwrap_or_default() != traffic {
                let (given, taken) = core.credit(friend);
                let credit = Record::Credit(friend, given, taken, now.unix_s());
                let counts = Record::Traffic(friend, self.traffic(core, friend));
                // Credit is only counted where a limit makes something scarce.
                for record in [Some(counts), (given + taken > 0).then_some(credit)].into_iter().flatten() {
                    records.push(record.encode());
                    self.state.apply(record);
                }
                self.saved_traffic.insert(friend, traffic);
            }
        }
        if !records.is_empty() {
            storage.log(Log::Append(records, None));
        }
    }
}

/// Whether what the owner agreed to with a restore at `at_s` still holds.
const fn still_agreed(at_s: u64, now_s: u64) -> bool {
    at_s < CLOCK_SET_S || now_s < at_s.saturating_add(RESTORED_FOR_S)
}

impl Context<'_> {
    /// Applies records and stores them; the answer comes when they are durable.
    pub fn store(&mut self, records: Vec<Record>) -> oneshot::Receiver<Stored> {
        let (sender, receiver) = oneshot::channel();
        let bytes = records.iter().map(Record::encode).collect();
        records.into_iter().for_each(|r| self.service.apply(r));
        self.storage.log(Log::Durable(bytes, sender));
        receiver
    }

    /// Refuses what needs storage while nothing can be stored. What is refused is not in effect.
    pub fn check_writable(&self) -> Result<(), Failure> {
        self.check_not_read_only()?;
        match self.service.full() {
            Some(why) => Err(Failure::new(Exit::Full, format!("nothing was done: {why}"))),
            None => Ok(()),
        }
    }

    /// Like [`Context::check_writable`], for what makes room itself.
    pub fn check_not_read_only(&self) -> Result<(), Failure> {
        match self.service.read_only() {
            Some(why) => Err(Failure::new(
                Exit::Failure,
                format!(
                    "nothing is written since a write to disk failed ({why}): check the disk, then restart"
                ),
            )),
            None => Ok(()),
        }
    }
}

/// Whether a root in hexadecimal digits begins like this.
fn begins_with(root: &Root, digits: &str) -> bool {
    let halves = root.as_bytes().iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.len() <= 64 && digits.chars().zip(halves).all(|(c, half)| c.to_digit(16) == Some(half.into()))
}

fn unknown(id: &str) -> Failure {
    let short: String = id.chars().take(16).collect();
    Failure::new(
        Exit::NotFound,
        format!("no video with the id {short} is known here: look with `kith search`"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use kith_crypto::passphrase::Cost;
    use kith_store::{Opened, Options, Unlock};

    /// Who waited for the journal to be written anew once waited for ever when the disk was full, or
    /// the store read-only, and no other check could begin.
    #[test]
    fn who_waits_for_a_new_journal_is_told_that_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let options = Options { dir: &path, unlock: Unlock::KeyFile, cost: Cost::RECOMMENDED };
        let store = Arc::new(Store::create(&options).unwrap().store);
        let ends: [fn(&mut Service); 2] =
            [|service| service.set_full("full".into()), |service| service.set_read_only("broken".into())];
        for end in ends {
            let mut service = Service::new(State::default(), store.clone(), false);
            let mut before = service.rewrite_journal();
            assert!(before.try_recv().is_err(), "it will be");
            end(&mut service);
            assert!(before.try_recv().unwrap().is_err());
            assert!(service.rewrite_journal().try_recv().unwrap().is_err());
        }
    }

    /// Publishing appends to the journal beside the driver. The journal once was written anew in
    /// between, with records that were collected before: the publication was lost.
    #[test]
    fn the_journal_is_never_written_anew_while_something_is_being_published() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let options = Options { dir: &path, unlock: Unlock::KeyFile, cost: Cost::RECOMMENDED };
        let Opened { store, .. } = Store::create(&options).unwrap();
        let store = Arc::new(store);
        let mut storage = Storage::start(store.clone(), HashMap::new()).unwrap();
        let mut service = Service::new(State::default(), store, false);
        let now = Now { at: Duration::from_secs(1), unix_ms: 1 };
        let ask = |service: &mut Service| {
            let (sender, permit) = oneshot::channel();
            service.permit_publishing(sender);
            permit
        };

        let mut first = ask(&mut service);
        let permit = first.try_recv().expect("nothing is in the way");
        service.apply(Record::FriendRemoved(FriendKey([1; 32])));
        service.erase(now, &mut storage);
        assert!(!service.compacting, "the publication is not in the state yet");
        drop(permit);
        service.erase(now, &mut storage);
        assert!(service.compacting);

        let mut second = ask(&mut service);
        assert!(second.try_recv().is_err(), "what the journal will hold is decided");
        service.compacted(now, Ok(()));
        assert!(second.try_recv().is_ok() && !service.erase_now);

        // A failure is not forgotten, and not tried at once.
        service.apply(Record::FriendRemoved(FriendKey([2; 32])));
        service.erase(now, &mut storage);
        service.compacted(now, Err(StoreError::NotFound));
        service.erase(now, &mut storage);
        assert!(!service.compacting && service.erase_now);
        service.erase(Now { at: now.at + ERASE_AGAIN, ..now }, &mut storage);
        assert!(service.compacting);
        storage.stop();
    }

    /// On a board without a clock of its own a restore is made in 1970. The owner's consent was over
    /// as soon as the clock was set, and no friend could let the node back in.
    #[test]
    fn a_restore_in_1970_is_agreed_to_until_a_month_after_the_clock_was_set() {
        let set = CLOCK_SET_S + 500 * DAY_S;
        assert!(still_agreed(1, 2) && still_agreed(1, set));
        assert!(still_agreed(set, set + RESTORED_FOR_S - 1) && still_agreed(set, 5));
        assert!(!still_agreed(set, set + RESTORED_FOR_S));
        assert!(still_agreed(u64::MAX, set), "no overflow");
    }
}
