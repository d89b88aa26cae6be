//! The packs that are open.
//!
//! Invariant: at most one [`Pack`] stands for a file at a time, because two would each keep presence
//! marks of their own. The last 32 used stay open; more live as long as somebody holds them.

use crate::pack::Pack;
use kith_crypto::content::Root;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

const KEPT: usize = 32;

#[derive(Debug, Default)]
pub(crate) struct OpenPacks {
    recent: VecDeque<(Root, Arc<Pack>)>,
    all: HashMap<Root, Weak<Pack>>,
}

impl OpenPacks {
    /// The pack, if it is open.
    pub(crate) fn find(&mut self, root: &Root) -> Option<Arc<Pack>> {
        let pack = self.all.get(root)?.upgrade()?;
        if let Some(at) = self.recent.iter().position(|(other, _)| other == root)
            && let Some(entry) = self.recent.remove(at)
        {
            self.recent.push_back(entry);
        }
        Some(pack)
    }

    /// Whether somebody holds the pack, beside what keeps the last ones open.
    pub(crate) fn is_held(&self, root: &Root) -> bool {
        let kept = self.recent.iter().filter(|(other, _)| other == root).count();
        self.all.get(root).is_some_and(|pack| pack.strong_count() > kept)
    }

    /// Remembers an open pack. What comes back is to be dropped without the lock: it may sync.
    #[must_use]
    pub(crate) fn insert(&mut self, root: Root, pack: &Arc<Pack>) -> Option<(Root, Arc<Pack>)> {
        self.all.retain(|_, weak| weak.strong_count() > 0);
        self.all.insert(root, Arc::downgrade(pack));
        self.recent.push_back((root, Arc::clone(pack)));
        if self.recent.len() > KEPT { self.recent.pop_front() } else { None }
    }

    /// Forgets a pack whose file goes; nobody will be handed it any more.
    #[must_use]
    pub(crate) fn forget(&mut self, root: &Root) -> Option<Arc<Pack>> {
        self.recent.retain(|(other, _)| other != root);
        self.all.remove(root)?.upgrade().inspect(|pack| pack.discard())
    }
}
