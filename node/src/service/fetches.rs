//! Fetches that somebody waits for: who shares one, how it stands, how it ended. Where the bytes come
//! from is the core's decision, where they go the storage's.

use super::*;
use crate::storage::Block;
use kith_crypto::content::VerifyCap;
use kith_crypto::secret::Key;
use kith_onion::{NoOnion, Privacy, Route};
use kith_store::{Class, InUse};

/// How a fetch stands.
#[derive(Clone, Debug, Default)]
pub struct FetchStatus {
    /// Verified blocks.
    pub have_blocks: u64,
    /// All blocks, 0 until known.
    pub total_blocks: u64,
    /// Friend links to those who gave most of it, before the first block to the latest source; 0 before that.
    pub links: u8,
    /// Different sources so far.
    pub sources: usize,
    /// How it ended.
    pub end: Option<Result<(), Failure>>,
}

pub(super) struct Fetching {
    cap: VerifyCap,
    /// What reads it, if this node may.
    read: Option<Key>,
    /// As what it is kept.
    class: Class,
    route: Route,
    /// The mode in which it began, and which it keeps.
    privacy: Privacy,
    users: usize,
    /// Those of them who wait for all of it.
    whole: usize,
    status: watch::Sender<FetchStatus>,
    /// What is being fetched does not give way.
    _in_use: InUse,
}

/// Keeps a fetch going; dropping the last one cancels it.
pub struct FetchHandle {
    /// Which fetch.
    pub id: FetchId,
    /// How it stands.
    pub status: watch::Receiver<FetchStatus>,
    purpose: Purpose,
    released: Arc<Mutex<Vec<Released>>>,
}

/// What an object is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// All of it is to be here, as soon as may be.
    Keep,
    /// It is read in places: what readers need soon comes first, and the rest not much faster than it
    /// is played.
    Read,
}

/// Something that nobody uses any more.
#[derive(Clone, Copy, Debug)]
pub(super) enum Released {
    Fetch(FetchId, Purpose),
    Reader(FetchId, u64),
}

impl FetchHandle {
    /// A reader of the fetch has gone.
    pub fn release_reader(&self, reader: u64) {
        self.release(Released::Reader(self.id, reader));
    }

    fn release(&self, what: Released) {
        if let Ok(mut released) = self.released.lock() {
            released.push(what);
        }
    }
}

impl Drop for FetchHandle {
    fn drop(&mut self) {
        self.release(Released::Fetch(self.id, self.purpose));
    }
}

/// An object that is wanted: here already, or on its way.
pub enum Wanted {
    /// Complete in the store.
    Local(ReadCap),
    /// Being fetched.
    Fetching(ReadCap, FetchHandle),
}

impl Service {
    /// Makes sure that an object is here or on its way.
    pub fn want(
        &mut self,
        now: Now,
        core: &mut Core,
        text: &str,
        route: Route,
        purpose: Purpose,
    ) -> Result<Wanted, Failure> {
        let (root, linked) = self.resolve(core, text)?;
        // A link carries its own key: what somebody lists under the same id does not count.
        let cap = match linked {
            Some(cap) => cap,
            None => self.read_cap(core, &root)?,
        };
        if self.is_here(&root) {
            self.used.push(root);
            self.owner_opens(&root);
            return Ok(Wanted::Local(cap));
        }
        let handle =
            self.join(now, core, (cap.verify_cap(), Some(cap.key.clone()), Class::Cached), route, purpose)?;
        Ok(Wanted::Fetching(cap, handle))
    }

    /// Begins to fetch an object that is not here whole, or joins who does.
    pub(super) fn join(
        &mut self,
        now: Now,
        core: &mut Core,
        (cap, read, class): (VerifyCap, Option<Key>, Class),
        route: Route,
        purpose: Purpose,
    ) -> Result<FetchHandle, Failure> {
        let root = cap.root;
        let privacy = core.privacy();
        // What `auto` means is decided when a fetch begins.
        let same = |f: &Fetching| f.route == route && (route != Route::Auto || f.privacy == privacy);
        let shared = self.fetches.iter_mut().find(|(_, f)| f.cap.root == root && same(f));
        if let Some((id, fetching)) = shared {
            let id = *id;
            fetching.users += 1;
            if purpose == Purpose::Keep {
                fetching.whole += 1;
                core.set_whole(now, id, true);
            }
            let status = fetching.status.subscribe();
            return Ok(FetchHandle { id, status, purpose, released: self.released.clone() });
        }
        if self.fetches.values().any(|f| f.cap.root == root) {
            return Err(Failure::new(
                Exit::Failure,
                "this video is being fetched another way already: wait for it",
            ));
        }
        self.check_route(core, &root, route)?;
        // What a friend is to believe was not here comes once more, whole.
        let is_hidden = self.state.mirrors.get(&root).is_some_and(|mirror| {
            mirror.is_hidden && mirror.friend.is_some_and(|friend| route == Route::Friend(friend))
        });
        let stored = self.store.object(&root).filter(|_| !is_hidden);
        let stored = stored.and_then(|_| self.store.pack(&root).ok());
        let resumed = stored.and_then(|pack| Some((pack.read(Position::Root).ok()?, pack)));
        let started = match &resumed {
            Some((sealed, pack)) => {
                let have = |p: Position| pack.has(p);
                core.start_fetch(now, cap.clone(), route, Some((sealed.clone(), &have)))
            }
            None => None,
        };
        // A damaged partial copy is started again rather than given up.
        let id = started.or_else(|| core.start_fetch(now, cap.clone(), route, None));
        let id = id.ok_or_else(|| Failure::new(Exit::Failure, "the fetch could not be started"))?;
        let (status, receiver) = watch::channel(FetchStatus::default());
        let whole = usize::from(purpose == Purpose::Keep);
        core.set_whole(now, id, whole > 0);
        let _in_use = self.store.begin_use(&root);
        let fetching = Fetching { cap, read, class, route, privacy, users: 1, whole, status, _in_use };
        self.fetches.insert(id, fetching);
        self.fetch_moved(core, id);
        Ok(FetchHandle { id, status: receiver, purpose, released: self.released.clone() })
    }

    /// Whether an object is here whole.
    pub fn is_here(&self, root: &Root) -> bool {
        let object = self.store.object(root).filter(|object| object.complete);
        object.is_some_and(|_| self.store.pack(root).is_ok_and(|pack| pack.is_complete()))
    }

    /// Refuses a route that nobody can be asked on. What comes through a circuit may come from anybody:
    /// the core finds out.
    fn check_route(&self, core: &Core, root: &Root, route: Route) -> Result<(), Failure> {
        if self.state.friends.is_empty() {
            return Err(Failure::new(
                Exit::Unreachable,
                "there is no friend to ask: add one with `kith friend add`",
            ));
        }
        if let Some(failure) = self.friends_only(core, root, route) {
            return Err(failure);
        }
        // Friends may have what was published here: all are asked, as for a link from elsewhere.
        let elsewhere = |l: &Listing| l.distance > 0 || !l.sources.is_empty();
        let Some(listing) = core.listing(root).filter(elsewhere) else { return Ok(()) };
        let (fits, what): (fn(u8) -> bool, _) = match route {
            Route::Direct => (|links| links == 1, "no direct friend has this video: try --route auto"),
            Route::Fof => (|links| links == 2, "no friend's friend has this video: try --route auto"),
            Route::Friend(_) => return Ok(()),
            Route::Auto if core.privacy() == Privacy::Fast => (|_| true, "nobody in reach has this video"),
            Route::Auto | Route::Onion => return Ok(()),
        };
        match listing.sources.iter().any(|(_, links)| fits(*links)) {
            true => Ok(()),
            false => Err(Failure::new(Exit::Unreachable, what)),
        }
    }

    /// The object of a fetch that somebody still wants.
    pub fn fetch_root(&self, id: FetchId) -> Option<Root> {
        self.fetches.get(&id).map(|f| f.cap.root)
    }

    /// As what the object of a fetch is to be stored.
    pub fn begun(&self, id: FetchId) -> Option<(VerifyCap, Option<Key>, Class)> {
        self.fetches.get(&id).map(|f| (f.cap.clone(), f.read.clone(), f.class))
    }

    /// Blocks were written.
    pub fn fetch_moved(&self, core: &Core, id: FetchId) {
        if let (Some(fetching), Some((have, total))) = (self.fetches.get(&id), core.fetch_progress(id)) {
            let (sources, links) = (core.fetch_sources(id), core.fetch_links(id));
            fetching.status.send_modify(|s| {
                (s.have_blocks, s.total_blocks, s.sources) = (have, total, sources);
                s.links = links.unwrap_or(s.links);
            });
        }
    }

    /// A source was found.
    pub fn fetch_session(&self, core: &Core, id: FetchId, links: u8) {
        if let Some(fetching) = self.fetches.get(&id) {
            let (sources, links) = (core.fetch_sources(id), core.fetch_links(id).unwrap_or(links));
            fetching.status.send_modify(|s| (s.links, s.sources) = (links, sources));
        }
    }

    /// Storage failed.
    pub fn fetch_failed(&mut self, id: FetchId, failure: &Failure) {
        self.end_fetch(id, Err(failure.clone()));
    }

    /// Nobody gives it.
    pub fn fetch_unreachable(&mut self, id: FetchId) {
        let what = "no friend who has this video could be reached: try again when they are online";
        self.end_fetch(id, Err(Failure::new(Exit::Unreachable, what)));
    }

    /// The store has marked the object as complete: from now on it can be served.
    pub fn fetch_complete(
        &mut self,
        now: Now,
        core: &mut Core,
        storage: &mut Storage,
        id: FetchId,
        result: Result<(), StoreError>,
    ) {
        let Some((cap, ..)) = self.begun(id) else { return };
        let route = self.fetches.get(&id).map(|f| f.route);
        let root = cap.root;
        let result = result.and_then(|()| {
            // It may have been removed while it was marked.
            self.store.object(&root).ok_or(StoreError::NotFound)?;
            let geometry = self.store.pack(&root)?.geometry();
            core.hold(now, cap, geometry);
            Ok(())
        });
        if result.is_ok() {
            self.came_whole(now, core, storage, root, route);
        }
        if let Some(fetching) = self.fetches.get(&id) {
            fetching.status.send_modify(|s| s.have_blocks = s.total_blocks);
        }
        self.end_fetch(id, result.map_err(Failure::from));
    }

    /// It can only come through a circuit, and that cannot be.
    pub fn fetch_no_onion(&mut self, core: &Core, id: FetchId, why: NoOnion) {
        let Some(fetching) = self.fetches.get(&id) else { return };
        let failure = self.no_onion(core, &fetching.cap.root, fetching.route, fetching.privacy, why);
        self.end_fetch(id, Err(failure));
    }

    fn end_fetch(&mut self, id: FetchId, end: Result<(), Failure>) {
        if let Some(fetching) = self.fetches.remove(&id) {
            fetching.status.send_modify(|s| s.end = Some(end));
        }
    }

    /// Ends the fetches of an object that is being removed.
    pub fn end_fetches_of(&mut self, now: Now, core: &mut Core, storage: &mut Storage, root: Root) {
        let ids: Vec<FetchId> =
            self.fetches.iter().filter(|(_, f)| f.cap.root == root).map(|(id, _)| *id).collect();
        for id in ids {
            core.cancel_fetch(now, id);
            self.end_fetch(id, Err(Failure::new(Exit::Failure, "the video was removed here meanwhile")));
        }
        if self.heal.blocks_of(&root) > 0 {
            self.heal.forget(&root);
            self.remember(Record::Damaged(root, 0));
        }
        storage.block(Block::Drop(root));
    }

    /// Whether an object is being fetched.
    pub fn is_fetching(&self, root: &Root) -> bool {
        self.fetches.values().any(|f| f.cap.root == *root)
    }

    /// Fetches under way.
    pub fn fetch_count(&self) -> usize {
        self.fetches.len()
    }

    pub(super) fn drop_released(&mut self, now: Now, core: &mut Core, storage: &mut Storage) {
        let released = match self.released.lock() {
            Ok(mut list) if !list.is_empty() => std::mem::take(&mut *list),
            _ => return,
        };
        for what in released {
            let (id, purpose) = match what {
                Released::Fetch(id, purpose) => (id, purpose),
                Released::Reader(id, reader) => {
                    core.set_reader(now, id, reader, None);
                    continue;
                }
            };
            let Some(fetching) = self.fetches.get_mut(&id) else { continue };
            fetching.users -= 1;
            if purpose == Purpose::Keep {
                fetching.whole -= 1;
                core.set_whole(now, id, fetching.whole > 0);
            }
            if fetching.users == 0 {
                storage.block(Block::Keep(fetching.cap.root));
                core.cancel_fetch(now, id);
                self.fetches.remove(&id);
            }
        }
    }
}
