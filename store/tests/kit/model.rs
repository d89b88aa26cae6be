//! What a store must hold: the promises of every operation that returned, to be compared with what
//! is found after reopening.

use super::{Object, thing};
use kith_crypto::content::{Position, Root};
use kith_store::{Class, Opened, Store, StoreError};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) type Friend = [u8; 32];

/// An object as the model sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) thing: (u8, u64),
    pub(crate) class: Class,
    pub(crate) complete: bool,
    /// Slots that were promised to be durable.
    pub(crate) durable: BTreeSet<u64>,
    /// Slots that were written.
    pub(crate) written: BTreeSet<u64>,
}

impl Kept {
    pub(crate) fn object(&self) -> &'static Object {
        thing(self.thing)
    }
}

/// The promises.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Model {
    /// Whether the store was created.
    pub(crate) made: bool,
    pub(crate) records: Vec<Vec<u8>>,
    pub(crate) objects: BTreeMap<Root, Kept>,
    pub(crate) views: BTreeMap<Friend, Vec<Vec<u8>>>,
}

/// What a reopened store holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    records: Vec<Vec<u8>>,
    objects: BTreeMap<Root, SeenObject>,
    views: BTreeMap<Friend, Vec<Vec<u8>>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct SeenObject {
    class: Class,
    complete: bool,
    present: BTreeSet<u64>,
}

/// A promise that was broken.
pub(crate) type Loss = String;

/// How closely a store is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Every block is read and compared.
    Blocks,
    /// What counts as present is believed.
    Marks,
}

fn show(error: &StoreError) -> Loss {
    error.to_string()
}

/// All positions of an object by slot.
fn slots(object: &Object) -> impl Iterator<Item = (u64, Position)> {
    object.positions().into_iter().map(|position| (object.geometry.slot(position).unwrap(), position))
}

/// The blocks that count as present, each compared with the original.
fn look_at(store: &Store, root: &Root, object: &Object, look: Look) -> Result<BTreeSet<u64>, Loss> {
    let pack = store.pack(root).map_err(|e| format!("an object without its pack: {e}"))?;
    let mut present = BTreeSet::new();
    for (slot, position) in slots(object).filter(|(_, position)| pack.has(*position)) {
        if look == Look::Marks {
            present.insert(slot);
            continue;
        }
        match pack.read(position) {
            Ok(bytes) if bytes == *object.bytes(position) => present.insert(slot),
            Ok(_) => return Err(format!("{position:?} has other contents")),
            Err(e) => return Err(format!("{position:?} is marked and cannot be read: {e}")),
        };
    }
    if pack.present() != present.len() as u64 {
        return Err("the count of present blocks is wrong".into());
    }
    Ok(present)
}

impl Seen {
    /// Looks at everything. `model` names the objects and friends that there may be.
    pub(crate) fn of(opened: &Opened, models: &[&Model], look: Look) -> Result<Self, Loss> {
        if opened.damaged_records > 0 {
            return Err(format!("{} records are reported as damaged", opened.damaged_records));
        }
        let store = &opened.store;
        let known = |root: &Root| models.iter().find_map(|model| model.objects.get(root));
        let mut objects = BTreeMap::new();
        for info in store.objects() {
            let kept = known(&info.root).ok_or("an object that nobody stored")?;
            let present = look_at(store, &info.root, kept.object(), look)?;
            let (class, complete) = (info.class, info.complete);
            if info.read.as_ref() != Some(&kept.object().cap.key) {
                return Err("an object lost its read key".into());
            }
            objects.insert(info.root, SeenObject { class, complete, present });
        }
        let mut views = BTreeMap::new();
        for friend in models.iter().flat_map(|model| model.views.keys()) {
            let (view, records) = store.view_log(friend).map_err(|e| show(&e))?;
            if view.damaged_records() > 0 {
                return Err("a view log is reported as damaged".into());
            }
            if !records.is_empty() {
                views.insert(*friend, records);
            }
        }
        Ok(Self { records: opened.records.clone(), objects, views })
    }

    /// The model as far as this store goes beyond it: what was seen is believed from now on.
    pub(crate) fn believed(&self, model: &Model) -> Model {
        let mut model = model.clone();
        for (root, kept) in &mut model.objects {
            if let Some(seen) = self.objects.get(root) {
                kept.written = seen.present.clone();
            }
        }
        model
    }
}

impl Model {
    /// Compares; a difference is a loss.
    pub(crate) fn holds(&self, seen: &Seen) -> Result<(), Loss> {
        if seen.records != self.records {
            let (found, wanted) = (seen.records.len(), self.records.len());
            return Err(format!("{found} records of the node instead of {wanted}, or others"));
        }
        if !seen.objects.keys().eq(self.objects.keys()) {
            return Err(format!("{} objects instead of {}", seen.objects.len(), self.objects.len()));
        }
        for (root, kept) in &self.objects {
            let Some(seen) = seen.objects.get(root) else { continue };
            if (seen.class, seen.complete) != (kept.class, kept.complete) {
                return Err("an object with other flags".into());
            }
            if !seen.present.is_superset(&kept.durable) {
                let (found, wanted) = (seen.present.len(), kept.durable.len());
                return Err(format!("{found} blocks of an object where {wanted} were promised"));
            }
        }
        for friend in self.views.keys().chain(seen.views.keys()) {
            let of = |views: &BTreeMap<Friend, Vec<Vec<u8>>>| views.get(friend).cloned().unwrap_or_default();
            let (found, wanted) = (of(&seen.views), of(&self.views));
            if found != wanted {
                let (friend, found) = (friend[0], found.len());
                return Err(format!(
                    "{found} records in the log of friend {friend} instead of {}",
                    wanted.len()
                ));
            }
        }
        Ok(())
    }
}
