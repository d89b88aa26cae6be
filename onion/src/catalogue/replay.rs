//! Records of a friend's view log, and the catalogue that replaying them gives.

use super::Catalogue;
use super::friends::Leaving;
use super::known::{EntryId, Heard};
use super::taken::Told;
use crate::control::Part;
use crate::core::FriendKey;
use crate::entry::{Eid, EntryRef};
use crate::time::Now;
use kith_crypto::codec::{DecodeError, Reader, Writer};

// Records: 1 there, 2 gone, 3 mark, 4 leaving, 5 forgotten.

pub(super) fn add_record(part: Part, release_ms: u64, eid: Eid, entry: &[u8]) -> Vec<u8> {
    let mut w = Writer::new();
    w.u8(1).u8(part.number()).u64(release_ms).raw(&eid.0).raw(entry);
    w.into_bytes()
}

pub(super) fn del_record(eid: Eid) -> Vec<u8> {
    let mut w = Writer::new();
    w.u8(2).raw(&eid.0);
    w.into_bytes()
}

pub(super) fn mark_record(part: Part, log: u64, upto: u64) -> Vec<u8> {
    let mut w = Writer::new();
    w.u8(3).u8(part.number()).u64(log).u64(upto);
    w.into_bytes()
}

pub(super) fn away_record(number: u8, leaving: &Leaving) -> Vec<u8> {
    let mut w = Writer::new();
    w.u8(number).u64(leaving.from_ms).u64(leaving.span_ms).raw(&leaving.seed);
    w.into_bytes()
}

fn read_part(r: &mut Reader<'_>) -> Result<Part, DecodeError> {
    let bad = r.invalid("part");
    Part::from_number(r.u8()?).ok_or(bad)
}

impl Catalogue {
    /// Replays one record of a friend's view log. Records that this release does not know are skipped.
    pub fn restore(&mut self, now: Now, friend: FriendKey, record: &[u8]) -> Result<(), DecodeError> {
        let mut r = Reader::new(record);
        match r.u8()? {
            1 => {
                let (part, release_ms, eid) = (read_part(&mut r)?, r.u64()?, Eid(r.array()?));
                let entry = r.remaining();
                let head = EntryRef::decode(entry)?.into();
                let mut records = Vec::new();
                self.add(now, friend, Told { part, eid, entry, head, release_ms }, &mut records);
                // What the log holds already is not written again; what gives way to it is.
                records.retain(|record| record.first() != Some(&1));
                self.record(friend, records);
            }
            2 => {
                self.drop_mention(now.unix_ms, friend, Eid(r.array()?));
            }
            3 => {
                let (part, log, upto) = (read_part(&mut r)?, r.u64()?, r.u64()?);
                if let Some(view) = self.views.get_mut(&friend) {
                    let state = view.part(part);
                    (state.log, state.upto, state.completed) = (log, upto, true);
                }
            }
            number @ (4 | 5) => {
                let leaving = Leaving { from_ms: r.u64()?, span_ms: r.u64()?, seed: r.array()? };
                if number == 4 {
                    self.leave(friend, &leaving);
                } else {
                    self.set_leaving(friend, &leaving);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A view whose log is to be replayed although the friend is gone.
    pub fn restore_gone(&mut self, friend: FriendKey) {
        self.view_of(friend);
    }

    /// How many records [`Catalogue::snapshot`] has; 0 if the log must stay as it is.
    pub fn snapshot_len(&self, friend: FriendKey) -> usize {
        let Some(view) = self.views.get(&friend).filter(|_| self.may_rewrite(friend)) else { return 0 };
        view.eids.len() + usize::from(view.own.completed) + usize::from(view.relayed.completed)
    }

    /// The live records of a friend's view: what its log is rewritten to when it has grown. None
    /// while entries of it are leaving, whose times stand in the log.
    pub fn snapshot(&self, friend: FriendKey) -> Vec<Vec<u8>> {
        let Some(view) = self.views.get(&friend).filter(|_| self.may_rewrite(friend)) else {
            return Vec::new();
        };
        let mut records = self.all_entries(friend);
        for (part, state) in [(Part::Own, &view.own), (Part::Relayed, &view.relayed)] {
            if state.completed {
                records.push(mark_record(part, state.log, state.upto));
            }
        }
        records
    }

    fn may_rewrite(&self, friend: FriendKey) -> bool {
        let Some(view) = self.views.get(&friend) else { return false };
        let heard = |(eid, id)| self.objects.get(id).and_then(|k| k.mention(view.no, eid));
        !view.gone && view.eids.iter().map(|(e, id)| (*e, *id)).filter_map(heard).all(Heard::stays)
    }

    /// "There" for each entry of a view.
    pub(super) fn all_entries(&self, friend: FriendKey) -> Vec<Vec<u8>> {
        let Some(view) = self.views.get(&friend) else { return Vec::new() };
        let record = |(eid, id): (&Eid, &EntryId)| {
            let known = self.objects.get(*id)?;
            let heard = known.mention(view.no, *eid)?;
            Some(add_record(heard.part, heard.release_ms, *eid, &known.said_by(heard)))
        };
        view.eids.iter().filter_map(record).collect()
    }
}
