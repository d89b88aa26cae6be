//! Objects that lost blocks on this node's own disk: not offered while they are damaged, fetched
//! again from friends who have them, offered again.
//!
//! Invariant: an object that is noted here is not held for others, and it leaves the list only when
//! all its blocks are back, or with its removal. At most [`AT_ONCE`] are fetched at a time; one that
//! nobody gives is tried again later and later, and at once when a friend comes on line. Who finds
//! the damage (a check, a round, a reader, a friend's request) is the callers' matter.

use crate::exit::{Exit, Failure};
use crate::records::Record;
use crate::service::{FetchHandle, Purpose, Service, Wanted};
use kith_crypto::content::Root;
use kith_onion::{Core, Now, Route};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::oneshot;

/// Damaged objects that are fetched at once.
const AT_ONCE: usize = 2;
/// After a first failure it is tried again after this, then after twice as long, and so on.
const AGAIN: Duration = Duration::from_secs(60);
/// The longest wait is 2^this times [`AGAIN`].
const MAX_SHIFT: u32 = 6;
/// Objects of which this is remembered. More find their way here again when they are read.
const MAX_DAMAGED: usize = 10_000;

/// The objects with damaged blocks.
#[derive(Default)]
pub struct Heal {
    objects: BTreeMap<Root, Damage>,
    waiters: Vec<Waiter>,
    /// Nothing is due before.
    next: Duration,
    /// Blocks that came back since the start.
    healed_blocks: u64,
}

/// Who waits for objects, each with its failures so far.
struct Waiter {
    objects: Vec<(Root, u32)>,
    answer: oneshot::Sender<()>,
}

/// What is known of one of them.
struct Damage {
    blocks: u64,
    /// Attempts that ended without the blocks.
    failed: u32,
    next: Duration,
    fetch: Option<FetchHandle>,
    /// The fetch under way began without the root block, so it would bring everything.
    rootless: bool,
    why: Option<Failure>,
}

/// A damaged object, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// Which.
    pub root: Root,
    /// Blocks that are gone.
    pub blocks: u64,
    /// Attempts that ended without them.
    pub failed: u32,
    /// They are being fetched.
    pub fetching: bool,
    /// Why the last attempt ended.
    pub why: Option<Failure>,
}

impl Heal {
    /// What was damaged when the node stopped.
    pub fn resume(damaged: &BTreeMap<Root, u64>) -> Self {
        let objects = damaged.iter().take(MAX_DAMAGED).map(|(root, blocks)| (*root, Damage::of(*blocks)));
        Self { objects: objects.collect(), ..Self::default() }
    }

    /// Damaged objects.
    pub fn list(&self) -> Vec<Damaged> {
        let damaged = |(root, damage): (&Root, &Damage)| Damaged {
            root: *root,
            blocks: damage.blocks,
            failed: damage.failed,
            fetching: damage.fetch.is_some(),
            why: damage.why.clone(),
        };
        self.objects.iter().map(damaged).collect()
    }

    /// How many objects, and blocks of them in all.
    pub fn count(&self) -> (u64, u64) {
        (self.objects.len() as u64, self.objects.values().map(|damage| damage.blocks).sum())
    }

    /// Blocks that an object lacks because they are damaged; 0 if it is whole.
    pub fn blocks_of(&self, root: &Root) -> u64 {
        self.objects.get(root).map_or(0, |damage| damage.blocks)
    }

    /// Blocks that came back since the start.
    pub const fn healed_blocks(&self) -> u64 {
        self.healed_blocks
    }

    /// A friend came on line: it may have what the others did not.
    pub fn somebody_came(&mut self, now: Now) {
        self.objects.values_mut().for_each(|damage| damage.next = now.at);
        self.next = now.at;
    }

    /// An object is not kept any more.
    pub fn forget(&mut self, root: &Root) {
        self.objects.remove(root);
    }

    /// Tries these again now. Answers when each is whole, or was tried in vain.
    pub fn retry(&mut self, now: Now, roots: &[Root]) -> oneshot::Receiver<()> {
        let mut waiting = Vec::new();
        for root in roots {
            if let Some(damage) = self.objects.get_mut(root) {
                damage.next = now.at;
                waiting.push((*root, damage.failed));
            }
        }
        self.next = now.at;
        let (sender, answer) = oneshot::channel();
        self.waiters.push(Waiter { objects: waiting, answer: sender });
        answer
    }

    fn answer(&mut self) {
        let objects = &self.objects;
        let is_over = |(root, failed): &(Root, u32)| objects.get(root).is_none_or(|d| d.failed > *failed);
        let (over, waiting): (Vec<Waiter>, Vec<Waiter>) =
            std::mem::take(&mut self.waiters).into_iter().partition(|w| w.objects.iter().all(is_over));
        self.waiters = waiting;
        over.into_iter().for_each(|waiter| {
            let _ = waiter.answer.send(());
        });
    }
}

impl Service {
    /// Blocks of an object turned out to be damaged: from now on it is not offered, until they are
    /// back. An object that was never whole lacks them like any others.
    pub fn damaged(&mut self, now: Now, core: &mut Core, root: Root) {
        let Some(object) = self.store().object(&root) else { return };
        if !object.complete {
            return core.release(&root); // parts of it were offered
        }
        let all = kith_crypto::content::Geometry::of(object.data_count).map_or(0, |g| g.total());
        let present = self.store().pack(&root).map_or(0, |pack| pack.present());
        let blocks = all.saturating_sub(present);
        if blocks == 0 {
            return;
        }
        core.release(&root);
        if let Some(damage) = self.heal.objects.get_mut(&root) {
            damage.blocks = damage.blocks.max(blocks);
            return;
        }
        tracing::warn!(
            "{blocks} blocks of a video are damaged here and will be fetched again: check the disk"
        );
        if self.heal.objects.len() < MAX_DAMAGED {
            self.remember(Record::Damaged(root, blocks));
            self.heal.objects.insert(root, Damage::of(blocks));
            self.heal.next = now.at;
        }
    }

    /// Looks after the fetches of damaged blocks, and begins those that are due. True if there is more
    /// to do once what was let go is gone.
    pub(crate) fn mend(&mut self, now: Now, core: &mut Core) -> bool {
        if self.heal.objects.is_empty() && self.heal.waiters.is_empty() {
            return false;
        }
        if now.at >= self.heal.next {
            self.begin_heals(now, core);
        }
        let more = self.end_heals(now);
        self.heal.answer();
        more
    }

    fn end_heals(&mut self, now: Now) -> bool {
        let store = self.store().clone();
        let (mut healed, mut more) = (Vec::new(), false);
        for (root, damage) in &mut self.heal.objects {
            let Some(fetch) = &damage.fetch else { continue };
            let status = fetch.status.borrow().clone();
            match status.end {
                None if damage.rootless && status.total_blocks > 0 => {
                    // The root is here: a new fetch knows what else is.
                    (damage.fetch, damage.rootless, damage.next) = (None, false, now.at);
                    (self.heal.next, more) = (now.at, true);
                }
                None => {}
                Some(Ok(())) if store.pack(root).is_ok_and(|pack| pack.is_complete()) => healed.push(*root),
                Some(end) => {
                    damage.fetch = None;
                    damage.why = end.err();
                    damage.later(now);
                    self.heal.next = self.heal.next.min(damage.next);
                }
            }
        }
        for root in healed {
            if let Some(damage) = self.heal.objects.remove(&root) {
                self.heal.healed_blocks += damage.blocks;
                self.remember(Record::Damaged(root, 0));
                tracing::info!("the damaged blocks of a video are back");
            }
        }
        more
    }

    fn begin_heals(&mut self, now: Now, core: &mut Core) {
        let store = self.store().clone();
        let gone: Vec<Root> =
            self.heal.objects.keys().copied().filter(|root| store.object(root).is_none()).collect();
        for root in gone {
            self.heal.forget(&root);
            self.remember(Record::Damaged(root, 0));
        }
        let mut busy = self.heal.objects.values().filter(|damage| damage.fetch.is_some()).count();
        let idle = self.heal.objects.iter().filter(|(_, damage)| damage.fetch.is_none());
        let due: Vec<Root> = idle.filter(|(_, d)| d.next <= now.at).map(|(root, _)| *root).collect();
        for root in due {
            if busy >= AT_ONCE {
                break;
            }
            busy += usize::from(self.begin_heal(now, core, root));
        }
        let waiting = self.heal.objects.values().filter(|damage| damage.fetch.is_none());
        let next = waiting.map(|damage| damage.next).min().unwrap_or(Duration::MAX);
        // Those that are due and found no room are looked at again soon.
        self.heal.next = next.max(now.at + Duration::from_millis(100));
    }

    fn begin_heal(&mut self, now: Now, core: &mut Core, root: Root) -> bool {
        let anybody = self.state().friends.keys().any(|friend| core.is_online(*friend));
        let wanted = match anybody {
            true => self.want(now, core, &root.to_hex(), Route::Auto, Purpose::Keep),
            false => Err(Failure::new(Exit::Unreachable, "no friend is on line")),
        };
        let has_root =
            self.store().pack(&root).is_ok_and(|pack| pack.has(kith_crypto::content::Position::Root));
        let Some(damage) = self.heal.objects.get_mut(&root) else { return false };
        match wanted {
            Ok(Wanted::Fetching(_, handle)) => {
                (damage.fetch, damage.rootless, damage.why) = (Some(handle), !has_root, None);
                return true;
            }
            // Somebody else's fetch brought them.
            Ok(Wanted::Local(cap)) => {
                self.heal.objects.remove(&root);
                self.remember(Record::Damaged(root, 0));
                if let Ok(pack) = self.store().pack(&root) {
                    core.hold(now, cap.verify_cap(), pack.geometry());
                }
            }
            Err(why) => {
                damage.why = Some(why);
                damage.later(now);
            }
        }
        false
    }
}

impl Damage {
    const fn of(blocks: u64) -> Self {
        Self { blocks, failed: 0, next: Duration::ZERO, fetch: None, rootless: false, why: None }
    }

    fn later(&mut self, now: Now) {
        self.next = now.at + AGAIN * (1 << self.failed.min(MAX_SHIFT));
        self.failed = self.failed.saturating_add(1);
    }
}
