//! Everything that a store does, as a list of steps, and a run of them over any backend.
//!
//! The model moves on when a step returned. A step that failed is either done or not done
//! afterwards, as a whole.

use super::model::{Friend, Kept, Look, Loss, Model, Seen};
use super::{CHEAP, Object, thing};
use kith_crypto::content::Position;
use kith_store::backend::Backend;
use kith_store::{Class, Limits, Opened, Options, Pack, Store, StoreError, Unlock, ViewLog};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

pub(crate) const DIR: &str = "/home/kith";

/// Seed and number of data blocks of an object.
pub(crate) type Thing = (u8, u64);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Append(Vec<Vec<u8>>),
    Publish(Thing, Vec<u8>),
    Begin(Thing),
    /// Blocks of the object's list of positions, from and to.
    Write(Thing, usize, usize),
    Flush(Thing),
    Complete(Thing),
    Remove(Thing),
    Pin(Thing),
    Unpin(Thing),
    /// Written down once a day and object.
    Use(Thing, u64),
    /// No room is left for what gives way.
    Evict,
    Compact(Vec<Vec<u8>>),
    ViewAppend(Friend, Vec<Vec<u8>>),
    ViewRewrite(Friend, Vec<Vec<u8>>),
    ViewRemove(Friend),
    Reopen,
}

/// `count` records of the node, told apart by `tag`; their lengths cross the borders of sectors.
pub(crate) fn records(tag: &str, count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|i| format!("{tag} {i} ").repeat(20 + 17 * i).into_bytes()).collect()
}

/// Everything once; `round` makes other objects and records.
pub(crate) fn workload(round: u8) -> Vec<Step> {
    let (own, second, fetched) = ((10 * round + 1, 1), (10 * round + 2, 3), (10 * round + 3, 2));
    let (passing, other) = ((10 * round + 4, 1), (10 * round + 5, 1));
    let (ana, ben) = ([1; 32], [2; 32]);
    let tag = |name: &str| format!("{name} of round {round}");
    let live: Vec<_> = records(&tag("live"), 3);
    vec![
        Step::Append(records(&tag("first"), 1)),
        Step::Publish(own, b"the entry of a publication".to_vec()),
        Step::ViewAppend(ana, records(&tag("ana"), 2)),
        Step::Append(records(&tag("group"), 4)),
        Step::Begin(fetched),
        Step::Write(fetched, 0, 1),
        Step::Flush(fetched),
        Step::Write(fetched, 1, 2),
        Step::Reopen,
        Step::Publish(second, vec![7; 700]),
        Step::ViewRewrite(ana, records(&tag("ana again"), 1)),
        Step::ViewAppend(ben, records(&tag("ben"), 1)),
        Step::Begin(fetched),
        Step::Write(fetched, 0, 5),
        Step::Flush(fetched),
        Step::Complete(fetched),
        Step::Pin(fetched),
        Step::Begin(passing),
        Step::Begin(other),
        Step::Use(passing, 3),
        Step::Evict,
        Step::Compact(live),
        Step::Unpin(fetched),
        Step::ViewAppend(ana, records(&tag("ana late"), 3)),
        Step::Remove(own),
        Step::Append(records(&tag("last"), 2)),
        Step::ViewRemove(ben),
        Step::Reopen,
        Step::Append(records(&tag("very last"), 1)),
    ]
}

impl Model {
    /// The promises after `step` returned.
    pub(crate) fn after(&self, step: &Step) -> Self {
        let mut model = self.clone();
        let root = |thing_: &Thing| thing(*thing_).cap.root;
        let all = |object: &Object| (0..object.geometry.total()).collect();
        match step {
            Step::Append(records) => model.records.extend(records.iter().cloned()),
            Step::Publish(which, record) => {
                let slots: std::collections::BTreeSet<u64> = all(thing(*which));
                let kept = Kept {
                    thing: *which,
                    class: Class::Own,
                    complete: true,
                    durable: slots.clone(),
                    written: slots,
                };
                model.objects.insert(root(which), kept);
                model.records.push(record.clone());
            }
            Step::Begin(which) => {
                let object = thing(*which);
                let first = [object.geometry.slot(Position::Root).unwrap()].into();
                let kept = Kept {
                    thing: *which,
                    class: Class::Cached,
                    complete: false,
                    durable: first,
                    written: Default::default(),
                };
                model.objects.entry(root(which)).or_insert(kept);
            }
            Step::Write(which, from, to) => {
                let object = thing(*which);
                let list = object.positions();
                let Some(kept) = model.objects.get_mut(&root(which)) else { return model };
                for position in list.iter().take(*to).skip(*from) {
                    kept.written.insert(object.geometry.slot(*position).unwrap());
                }
            }
            Step::Flush(which) => {
                let Some(kept) = model.objects.get_mut(&root(which)) else { return model };
                kept.durable.extend(kept.written.iter().copied());
            }
            Step::Complete(which) => {
                let Some(kept) = model.objects.get_mut(&root(which)) else { return model };
                (kept.complete, kept.durable) = (true, all(thing(*which)));
            }
            Step::Remove(which) => drop(model.objects.remove(&root(which))),
            Step::Pin(which) => model.reclass(which, Class::Cached, Class::Pinned),
            Step::Unpin(which) => model.reclass(which, Class::Pinned, Class::Cached),
            Step::Use(..) => {}
            Step::Evict => model.objects.retain(|_, kept| !kept.class.gives_way()),
            Step::Compact(live) => model.records.clone_from(live),
            Step::ViewAppend(friend, records) => {
                model.views.entry(*friend).or_default().extend(records.iter().cloned());
            }
            Step::ViewRewrite(friend, records) => drop(model.views.insert(*friend, records.clone())),
            Step::ViewRemove(friend) => drop(model.views.insert(*friend, Vec::new())),
            Step::Reopen => {
                // What no flush covered may be gone.
                model.objects.values_mut().for_each(|kept| kept.written = kept.durable.clone());
            }
        }
        model
    }
}

impl Model {
    fn reclass(&mut self, which: &Thing, from: Class, to: Class) {
        let kept = self.objects.get_mut(&thing(*which).cap.root).filter(|kept| kept.class == from);
        kept.into_iter().for_each(|kept| kept.class = to);
    }
}

/// A store under work, with what it promised.
pub(crate) struct Run {
    backend: Arc<dyn Backend>,
    store: Option<Store>,
    views: BTreeMap<Friend, ViewLog>,
    packs: BTreeMap<Thing, Arc<Pack>>,
    pub(crate) model: Model,
    /// The step that failed: it is done, or not.
    pub(crate) open_step: Option<Step>,
}

pub(crate) fn options() -> Options<'static> {
    Options { dir: Path::new(DIR), unlock: Unlock::KeyFile, cost: CHEAP }
}

/// Opens the store, or makes it where there is none.
pub(crate) fn open_or_create(backend: &Arc<dyn Backend>) -> Result<Opened, StoreError> {
    match Store::open_on(Arc::clone(backend), &options()) {
        Err(StoreError::NoStore { .. }) => Store::create_on(Arc::clone(backend), &options()),
        other => other,
    }
}

impl Run {
    pub(crate) fn on(backend: Arc<dyn Backend>, model: Model) -> Self {
        Self { backend, store: None, views: BTreeMap::new(), packs: BTreeMap::new(), model, open_step: None }
    }

    pub(crate) fn store(&self) -> Option<&Store> {
        self.store.as_ref()
    }

    /// Goes on with a store that is open.
    pub(crate) fn with(backend: Arc<dyn Backend>, store: Store, model: Model) -> Self {
        Self { store: Some(store), ..Self::on(backend, model) }
    }

    /// Opens the store, or makes it.
    pub(crate) fn open(&mut self) -> Result<(), StoreError> {
        self.store = Some(open_or_create(&self.backend)?.store);
        self.model.made = true;
        Ok(())
    }

    pub(crate) fn close(&mut self) {
        self.views.clear();
        self.packs.clear();
        self.store = None;
    }

    /// All steps up to the first that fails; tells whether none did.
    pub(crate) fn go(&mut self, steps: &[Step]) -> Result<(), StoreError> {
        if self.store.is_none() {
            self.open()?;
        }
        steps.iter().try_for_each(|step| self.step(step))
    }

    /// One step. The model follows when it returned.
    pub(crate) fn step(&mut self, step: &Step) -> Result<(), StoreError> {
        match self.act(step) {
            Ok(()) => {
                self.model = self.model.after(step);
                self.open_step = None;
                Ok(())
            }
            Err(e) => {
                self.open_step = Some(step.clone());
                Err(e)
            }
        }
    }

    fn act(&mut self, step: &Step) -> Result<(), StoreError> {
        if *step == Step::Reopen {
            self.close();
            return self.open();
        }
        let store = self.store.as_ref().ok_or(StoreError::ReadOnly)?;
        match step {
            Step::Append(records) => store.append(records),
            Step::Publish(which, record) => thing(*which).publish(store, record),
            Step::Begin(which) => {
                self.packs.insert(*which, thing(*which).try_begin_fetch(store)?);
                Ok(())
            }
            Step::Write(which, from, to) => {
                let (object, pack) = (thing(*which), self.pack(which)?);
                let positions = object.positions();
                positions.iter().take(*to).skip(*from).try_for_each(|position| object.write(&pack, *position))
            }
            Step::Flush(which) => self.pack(which)?.flush(),
            Step::Complete(which) => store.mark_complete(&thing(*which).cap.root),
            Step::Remove(which) => {
                self.packs.remove(which);
                store.remove(&thing(*which).cap.root)
            }
            Step::Pin(which) => store.pin(&thing(*which).cap.root).map(drop),
            Step::Unpin(which) => store.unpin(&thing(*which).cap.root, 9).map(drop),
            Step::Use(which, day) => store.used(&thing(*which).cap.root, day * 86_400),
            Step::Evict => {
                let model = self.model.clone();
                self.packs.retain(|which, _| {
                    let kept = model.objects.get(&thing(*which).cap.root);
                    kept.is_some_and(|kept| !kept.class.gives_way())
                });
                store.set_limits(Limits { quota: 0, keep_free: 0 });
                let freed = store.gc(false);
                store.set_limits(Limits::NONE);
                freed.map(drop)
            }
            Step::Compact(live) => store.compact(live),
            Step::ViewAppend(friend, records) => self.view(friend)?.append(records),
            Step::ViewRewrite(friend, records) => self.view(friend)?.rewrite(records),
            Step::ViewRemove(friend) => {
                self.views.remove(friend);
                store.remove_view_log(friend)
            }
            Step::Reopen => Ok(()),
        }
    }

    fn pack(&self, which: &Thing) -> Result<Arc<Pack>, StoreError> {
        self.packs.get(which).cloned().ok_or(StoreError::NotFound)
    }

    fn view(&mut self, friend: &Friend) -> Result<&mut ViewLog, StoreError> {
        if !self.views.contains_key(friend) {
            let store = self.store.as_ref().ok_or(StoreError::ReadOnly)?;
            self.views.insert(*friend, store.view_log(friend)?.0);
        }
        self.views.get_mut(friend).ok_or(StoreError::NotFound)
    }

    /// Counts a step as done.
    pub(crate) fn settle(&mut self, step: &Step) {
        (self.model, self.open_step) = (self.model.after(step), None);
    }

    /// The states of which one must be found: before the open step, and after it.
    pub(crate) fn allowed(&self) -> Vec<Model> {
        let after = self.open_step.as_ref().map(|step| self.model.after(step));
        std::iter::once(self.model.clone()).chain(after).collect()
    }

    /// Whether the open store still shows everything (views that are open are left out).
    pub(crate) fn can_be_read(&self) -> Result<(), Loss> {
        let store = self.store.as_ref().ok_or("no store")?;
        let allowed = self.allowed();
        for (root, kept) in &self.model.objects {
            let gone = allowed.iter().any(|model| !model.objects.contains_key(root));
            match store.pack(root) {
                Err(StoreError::NotFound) if gone => continue,
                Err(e) => return Err(format!("a pack cannot be opened any more: {e}")),
                Ok(pack) => {
                    for position in kept.object().positions() {
                        let slot = kept.object().geometry.slot(position).unwrap();
                        if kept.durable.contains(&slot)
                            && pack.read(position).map_err(|e| e.to_string())?
                                != *kept.object().bytes(position)
                        {
                            return Err("a block reads differently".into());
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// Opens the store and finds which of the allowed states it has.
pub(crate) fn reopen(
    backend: &Arc<dyn Backend>,
    allowed: &[Model],
    look: Look,
) -> Result<(Store, Model, Seen, u64), Loss> {
    let made = allowed.iter().any(|model| model.made);
    let opened = match Store::open_on(Arc::clone(backend), &options()) {
        Err(StoreError::NoStore { .. }) if !made => Store::create_on(Arc::clone(backend), &options()),
        other => other,
    };
    let opened = opened.map_err(|e| format!("the store does not open: {e}"))?;
    leftovers(backend, opened.store.objects().len())?;
    let models: Vec<&Model> = allowed.iter().collect();
    let seen = Seen::of(&opened, &models, look)?;
    let mut losses = Vec::new();
    for model in allowed {
        match model.holds(&seen) {
            Ok(()) => return Ok((opened.store, seen.believed(model), seen, opened.torn_bytes)),
            Err(loss) => losses.push(loss),
        }
    }
    Err(losses.join(" and "))
}

/// Files that should not be there any more after the store was opened.
fn leftovers(backend: &Arc<dyn Backend>, objects: usize) -> Result<(), Loss> {
    let mut packs = 0;
    let mut folders = vec![Path::new(DIR).to_owned()];
    while let Some(folder) = folders.pop() {
        for (path, kind) in backend.list(&folder).map_err(|e| e.to_string())? {
            let name = path.display().to_string();
            if kind == kith_store::backend::Kind::Folder {
                folders.push(path);
            } else if name.contains("/packs/tmp/") || name.ends_with(".tmp") {
                return Err(format!("{name} was left over"));
            } else if name.ends_with(".pack") {
                packs += 1;
            }
        }
    }
    if packs == objects { Ok(()) } else { Err(format!("{packs} packs for {objects} objects")) }
}
