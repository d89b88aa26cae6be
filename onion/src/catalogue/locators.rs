//! Hourly locators of what can be answered or passed on, so that a request finds its object.
//!
//! Only the first eight bytes of a locator are kept, with the object's place; whoever finds a place
//! checks the whole locator against the object that is there now. So nothing has to be taken out
//! when an object goes: the hour's table goes with the hour. The tables of a new hour are made in
//! steps, because 100,000 objects take longer than a link may wait.

use super::known::{EntryId, Objects};
use kith_crypto::content::{ReadCap, Root};
use kith_crypto::secret::Key;
use std::collections::BTreeMap;

/// Objects looked at in one step.
const STEP: u32 = 1000;

#[derive(Debug, Default)]
pub(super) struct Locators {
    /// The clocks of friends differ: the hours before and after count too.
    hours: BTreeMap<u64, BTreeMap<[u8; 8], EntryId>>,
    /// Hours whose tables are being made, and the next place to look at.
    making: Option<(Vec<u64>, u32)>,
}

fn locator(root: Root) -> kith_crypto::content::Locator {
    ReadCap { root, key: Key::new([0; 32]) }.locator()
}

fn short(full: &[u8; 16]) -> [u8; 8] {
    full.first_chunk().copied().unwrap_or_default()
}

impl Locators {
    /// It is this hour now.
    pub(super) fn set_hour(&mut self, hour: u64) {
        let wanted = hour.saturating_sub(1)..=hour + 1;
        if wanted.clone().all(|h| self.hours.contains_key(&h)) {
            return;
        }
        self.hours.retain(|h, _| wanted.contains(h));
        // Tables that were not finished are made anew with the new ones.
        let mut missing = self.making.take().map_or_else(Vec::new, |(hours, _)| hours);
        missing.extend(wanted.clone().filter(|h| !self.hours.contains_key(h)));
        missing.retain(|h| wanted.contains(h));
        for h in &missing {
            self.hours.entry(*h).or_default();
        }
        self.making = Some((missing, 0));
    }

    /// Whether tables are not finished.
    pub(super) const fn is_busy(&self) -> bool {
        self.making.is_some()
    }

    /// Goes on with tables that are not finished.
    pub(super) fn step(&mut self, objects: &Objects) {
        let Some((hours, next)) = self.making.take() else { return };
        let end = next.saturating_add(STEP).min(objects.places());
        for id in (next..end).map(EntryId) {
            if let Some(known) = objects.get(id).filter(|k| k.is_askable()) {
                self.put(known.words.root(), id, hours.iter().copied());
            }
        }
        self.making = (end < objects.places()).then_some((hours, end));
    }

    /// An object can be asked for from now on.
    pub(super) fn add(&mut self, root: Root, id: EntryId) {
        let hours: Vec<u64> = self.hours.keys().copied().collect();
        self.put(root, id, hours.into_iter());
    }

    fn put(&mut self, root: Root, id: EntryId, hours: impl Iterator<Item = u64>) {
        let locator = locator(root);
        for hour in hours {
            if let Some(table) = self.hours.get_mut(&hour) {
                table.insert(short(&locator.at_hour(hour)), id);
            }
        }
    }

    /// The object that a request names.
    pub(super) fn find(&self, objects: &Objects, wanted: &[u8; 16]) -> Option<Root> {
        self.hours.iter().find_map(|(hour, table)| {
            let known = objects.get(*table.get(&short(wanted))?).filter(|k| k.is_askable())?;
            let root = known.words.root();
            (locator(root).at_hour(*hour) == *wanted).then_some(root)
        })
    }
}
