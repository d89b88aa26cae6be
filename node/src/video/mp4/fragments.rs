//! A film in fragments (ISO/IEC 14496-12 8.8): its layout stays, as parts find each other by distance.

use super::super::notes::Gone;
use super::super::{Fill, Kind, Piece, Plan, Refused, Source, refused, telemetry};
use super::boxes::{Header, blank, children, number, u32_at};
use super::movie::Movie;
use super::ranges::{PILED, Ranges};
use super::{ftyp, note_top, to_free};
use crate::video::plan::MAX_PATCHES;
use crate::video::units::{self, Units};
use std::collections::BTreeSet;

/// The largest fragment's index.
const MAX_MOOF: u64 = 4 << 20;
/// Bytes that stand over others at most.
const MAX_PATCHED: usize = 8 << 20;

/// Subtitles that are looked at, in all.
const MAX_TEXT: u64 = 4 << 20;

/// What is under way.
struct Work<'a, 'b> {
    source: &'a dyn Source,
    movie: &'a Movie<'b>,
    ranges: Ranges,
    patches: Vec<(u64, Fill)>,
    patched: usize,
    /// How far everything behind the index moves.
    moved: i64,
    /// Whether bytes belong to a track that went.
    lost: bool,
    /// Tracks of sound whose first sample has gone by.
    begun: BTreeSet<u32>,
    /// Subtitles that were looked at, in bytes.
    texts: u64,
    /// Whether there were notes between pictures and sounds.
    had_notes: bool,
}

/// Plans the clean form.
pub fn plan(
    source: &dyn Source,
    top: &[Header],
    moov: &Header,
    movie: &Movie<'_>,
    gone: &mut Gone,
) -> Result<Plan, Refused> {
    if movie.kept.iter().any(|kept| kept.samples.count() > 0) {
        return refused("a part of its samples lies in fragments and a part does not");
    }
    let begins = |header: &&Header| matches!(&header.kind, b"moof" | b"mdat" | b"sidx");
    let first = top.iter().find(begins).map_or(moov.end(), |header| header.at);
    if first < moov.at {
        return refused("its fragments come before their index");
    }
    let mut front = ftyp(movie.is_plain, true);
    movie.put(&mut front, false, &|_| None)?;
    let end = top.last().map_or(0, |header| header.end().min(source.size()));
    let mut work = Work {
        source,
        movie,
        ranges: Ranges::default(),
        patches: Vec::new(),
        patched: 0,
        moved: front.len() as i64 - first as i64,
        lost: movie.lost_tracks,
        begun: BTreeSet::new(),
        texts: 0,
        had_notes: false,
    };
    let mut data = Vec::new();
    for header in top.iter().filter(|header| header.at >= first || !matches!(&header.kind, b"ftyp" | b"moov"))
    {
        if header.at < first {
            note_top(source, header, gone)?;
            continue;
        }
        if header.end() > end && header.kind != *b"mdat" {
            return refused("it ends in the middle of a fragment");
        }
        match &header.kind {
            b"mdat" => data.push((header.body(), header.end().min(end))),
            b"moof" => work.fragment(header, gone)?,
            b"sidx" if work.is_exact_sidx(header)? => {}
            b"mfra" => work.random_access(header)?,
            _ => {
                note_top(source, header, gone)?;
                to_free(header, header.end(), &mut work.patches);
            }
        }
        if work.patches.len() > MAX_PATCHES {
            return refused("it has far too much in it that would go");
        }
    }
    if work.had_notes {
        gone.note("notes between pictures and sounds");
    }
    work.blank_unused(&data, gone)?;
    let pieces = vec![Piece::New(front), Piece::Old { at: first, len: end - first }];
    Ok(Plan::new(pieces, work.patches))
}

impl Work<'_, '_> {
    fn is_exact_sidx(&self, header: &Header) -> Result<bool, Refused> {
        let len = (header.len - header.header).min(MAX_MOOF) as usize;
        let body = self.source.piece(header.body(), len)?;
        let fixed = if body.first() == Some(&1) { 28 } else { 20 };
        let count = number(&body, fixed + 2, 2);
        Ok(count.is_some_and(|count| body.len() as u64 == fixed as u64 + 4 + 12 * count))
    }

    fn over(&mut self, at: u64, bytes: Vec<u8>) -> Result<(), Refused> {
        self.patched += bytes.len();
        if self.patched > MAX_PATCHED {
            return refused("it has far too much in it that would go");
        }
        self.patches.push((at, Fill::Bytes(bytes.into())));
        Ok(())
    }

    fn fragment(&mut self, header: &Header, gone: &mut Gone) -> Result<(), Refused> {
        if header.len > MAX_MOOF {
            return refused(format!("the index of a fragment is larger than {} MiB", MAX_MOOF >> 20));
        }
        let old = self.source.piece(header.at, header.len as usize)?;
        let mut new = old.clone();
        let body = old.get(header.header as usize..).unwrap_or_default();
        // Where the data of the next track of this fragment begins, if it says nothing.
        let mut next = header.at;
        for child in children(body) {
            let child = child?;
            let at = header.header as usize + child.at;
            match &child.kind {
                b"mfhd" => blank_rest(&mut new, at, child.len, 16),
                b"traf" => {
                    let keep = self.track(child.body, header.at, &mut next)?;
                    let traf_at = at + child.len - child.body.len();
                    if keep {
                        self.clean_track(child.body, traf_at, &mut new, gone)?;
                    } else {
                        self.lost = true;
                        free(&mut new, at, child.len);
                    }
                }
                _ => {
                    gone.note_in(child.body, "other metadata in fragments");
                    free(&mut new, at, child.len);
                }
            }
        }
        if new != old {
            self.over(header.at, new)?;
        }
        Ok(())
    }

    /// Takes down where a track's samples lie, and tells whether it stays.
    fn track(&mut self, traf: &[u8], moof_at: u64, next: &mut u64) -> Result<bool, Refused> {
        let Some(tfhd) = super::boxes::child(traf, *b"tfhd")? else {
            return refused("a fragment lacks its header");
        };
        let (flags, id) = (u32_at(tfhd, 0)? & 0x00FF_FFFF, u32_at(tfhd, 4)?);
        let mut at = 8;
        let mut field = |flag: u32, len: usize| {
            let here = at;
            if flags & flag != 0 {
                at += len;
            }
            (flags & flag != 0).then(|| number(tfhd, here, len)).flatten()
        };
        let base = field(0x1, 8);
        field(0x2, 4);
        field(0x8, 4);
        let each = field(0x10, 4);
        let keep = self.movie.is_kept(id);
        let each = each.map_or_else(|| self.movie.default_size(id), Ok)?;
        let base = match base {
            Some(base) => base,
            None if flags & 0x2_0000 != 0 => moof_at,
            None => *next,
        };
        let mut place = base;
        for trun in children(traf) {
            let trun = trun?;
            if trun.kind == *b"trun" {
                let (offset, len) = run(trun.body, each)?;
                if let Some(offset) = offset {
                    let begins = i64::try_from(base).ok().and_then(|base| base.checked_add(offset.into()));
                    place = begins.and_then(|at| u64::try_from(at).ok()).ok_or_else(outside)?;
                }
                if keep {
                    self.ranges.add(place, len)?;
                    if self.ranges.are_piled(self.source.size()) {
                        return refused(PILED);
                    }
                    self.look_into(id, trun.body, each, place)?;
                }
                place = place.checked_add(len).ok_or_else(outside)?;
            }
        }
        *next = place;
        Ok(keep)
    }

    /// Looks at the samples of a run for notes between them.
    fn look_into(&mut self, id: u32, trun: &[u8], each: u64, mut at: u64) -> Result<(), Refused> {
        let kept = self.movie.kept.iter().find(|kept| kept.id == id);
        let is_text = kept.is_some_and(|kept| kept.kind == Kind::Text);
        let units = kept.and_then(|kept| kept.entry.units);
        if units.is_none() && !is_text {
            return Ok(());
        }
        if units == Some(Units::Aac) && !self.begun.insert(id) {
            return Ok(());
        }
        let (fixed, entry, count) = run_shape(trun)?;
        let flags = u32_at(trun, 0)?;
        let size_at = if flags & 0x100 != 0 { 4 } else { 0 };
        let count = if entry == 0 { u64::from(u32_at(trun, 4)?) } else { count };
        let before = self.patches.len();
        for i in 0..count {
            let told =
                (flags & 0x200 != 0).then(|| number(trun, fixed + i as usize * entry + size_at, 4)).flatten();
            let len = told.unwrap_or(each);
            if len == 0 || at.saturating_add(len) > self.source.size() {
                break;
            }
            if let Some(units) = units {
                units::sample(self.source, at, len, units, &mut self.patches)?;
            }
            if is_text && self.texts < MAX_TEXT {
                let text = self.source.piece(at, len.min(4096) as usize)?;
                self.texts += text.len() as u64;
                if telemetry::tells_positions(&text) {
                    return refused(
                        "its subtitles are a log of positions, which kith cannot take out of fragments",
                    );
                }
            }
            at += len;
            if units == Some(Units::Aac) {
                break;
            }
        }
        self.had_notes |= self.patches.len() > before;
        Ok(())
    }

    fn clean_track(
        &self,
        traf: &[u8],
        traf_at: usize,
        new: &mut [u8],
        gone: &mut Gone,
    ) -> Result<(), Refused> {
        for child in children(traf) {
            let child = child?;
            let at = traf_at + child.at;
            match &child.kind {
                b"tfhd" => {
                    let flags = u32_at(child.body, 0)?;
                    let fields = [(0x1, 8), (0x2, 4), (0x8, 4), (0x10, 4), (0x20, 4)];
                    let len: usize =
                        fields.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, len)| len).sum();
                    blank_rest(new, at, child.len, 16 + len);
                    if let Some(base) = (flags & 1 != 0).then(|| number(child.body, 8, 8)).flatten() {
                        let moved = base.checked_add_signed(self.moved).ok_or_else(outside)?;
                        if let Some(place) = new.get_mut(at + 16..at + 24) {
                            place.copy_from_slice(&moved.to_be_bytes());
                        }
                    }
                }
                b"tfdt" => {
                    let long = if child.body.first() == Some(&1) { 20 } else { 16 };
                    blank_rest(new, at, child.len, long);
                }
                b"trun" => {
                    let (fixed, entry, count) = run_shape(child.body)?;
                    blank_rest(new, at, child.len, 8 + fixed + entry * count as usize);
                }
                b"senc" | b"saiz" | b"saio" => return refused("it is protected (DRM)"),
                b"sdtp" => {}
                b"sbgp" | b"sgpd" => {
                    let mut clean = Vec::new();
                    let whole = new.get(at..at + child.len).unwrap_or_default();
                    super::tables::put_groups(whole, &mut clean)?;
                    if clean.len() != child.len {
                        free(new, at, child.len);
                    }
                }
                _ => {
                    gone.note_in(child.body, "other metadata in fragments");
                    free(new, at, child.len);
                }
            }
        }
        Ok(())
    }

    /// Moves the places in the table for seeking, or does away with what makes no sense there.
    fn random_access(&mut self, header: &Header) -> Result<(), Refused> {
        let is_small = header.len <= MAX_MOOF;
        let old = if is_small { self.source.piece(header.at, header.len as usize)? } else { Vec::new() };
        let mut new = old.clone();
        if !is_small || self.move_places(&old, header.header as usize, &mut new).is_none() {
            to_free(header, header.end(), &mut self.patches);
            return Ok(());
        }
        self.over(header.at, new)
    }

    fn move_places(&self, old: &[u8], from: usize, new: &mut [u8]) -> Option<()> {
        for child in children(old.get(from..)?) {
            let child = child.ok()?;
            let at = from + child.at;
            match &child.kind {
                b"mfro" => blank_rest(new, at, child.len, 16),
                b"tfra" if child.len - child.body.len() == 8 => {
                    let width = if child.body.first() == Some(&1) { 8 } else { 4 };
                    let lens = number(child.body, 8, 4)?;
                    let entry = 2 * width
                        + [4, 2, 0].map(|shift| (lens >> shift & 3) as usize + 1).iter().sum::<usize>();
                    let count = usize::try_from(number(child.body, 12, 4)?).ok()?;
                    if count.checked_mul(entry)?.checked_add(16)? != child.body.len() {
                        return None;
                    }
                    for i in 0..count {
                        let place = 16 + i * entry + width;
                        let moved = number(child.body, place, width)?.checked_add_signed(self.moved)?;
                        let bytes = moved.to_be_bytes();
                        new.get_mut(at + 8 + place..at + 8 + place + width)?
                            .copy_from_slice(bytes.get(8 - width..)?);
                    }
                }
                _ => return None,
            }
        }
        Some(())
    }

    /// Zeros over all bytes of `data` that no kept track names.
    fn blank_unused(&mut self, data: &[(u64, u64)], gone: &mut Gone) -> Result<(), Refused> {
        let unused = self.ranges.settle(data)?;
        if unused == 0 {
            return Ok(());
        }
        if !self.lost {
            gone.note("data that no track uses");
        }
        let mut used = self.ranges.iter().peekable();
        for (begin, end) in data {
            let mut at = *begin;
            while let Some((from, len)) = used.next_if(|(from, _)| from < end) {
                if from > at {
                    self.patches.push((at, Fill::Same(0, from - at)));
                }
                at = from + len;
            }
            if at < *end {
                self.patches.push((at, Fill::Same(0, end - at)));
            }
            if self.patches.len() > MAX_PATCHES {
                return refused("it has far too much in it that would go");
            }
        }
        Ok(())
    }
}

fn outside() -> Refused {
    Refused("it names data that is not in it".into())
}

/// Bytes before the entries of a run, of each entry, and how many there are.
fn run_shape(trun: &[u8]) -> Result<(usize, usize, u64), Refused> {
    let (flags, count) = (u32_at(trun, 0)?, u64::from(u32_at(trun, 4)?));
    let fixed = 8 + if flags & 1 != 0 { 4 } else { 0 } + if flags & 4 != 0 { 4 } else { 0 };
    let entry = (flags >> 8 & 0xF).count_ones() as usize * 4;
    let there = trun.len().saturating_sub(fixed) as u64;
    if trun.len() < fixed || count * entry as u64 > there {
        return refused("a table in it counts more than it holds");
    }
    Ok((fixed, entry, if entry == 0 { 0 } else { count }))
}

/// Where a run begins, counted from its base, and how many bytes it has.
fn run(trun: &[u8], each: u64) -> Result<(Option<i32>, u64), Refused> {
    let (fixed, entry, count) = run_shape(trun)?;
    let flags = u32_at(trun, 0)?;
    let offset = (flags & 1 != 0).then(|| u32_at(trun, 8)).transpose()?.map(u32::cast_signed);
    let len = if flags & 0x200 == 0 {
        u64::from(u32_at(trun, 4)?).checked_mul(each)
    } else {
        let size_at = if flags & 0x100 != 0 { 4 } else { 0 };
        (0..count as usize)
            .try_fold(0_u64, |sum, i| sum.checked_add(number(trun, fixed + i * entry + size_at, 4)?))
    };
    Ok((offset, len.ok_or_else(outside)?))
}

/// A box becomes one of zeros that means nothing.
fn free(bytes: &mut [u8], at: usize, len: usize) {
    let header = if number(bytes, at, 4) == Some(1) { 16 } else { 8 };
    if let Some(kind) = bytes.get_mut(at + 4..at + 8) {
        kind.copy_from_slice(b"free");
    }
    blank(bytes, at + header, len.saturating_sub(header));
}

/// What is behind the first `used` bytes of a box becomes zeros.
fn blank_rest(bytes: &mut [u8], at: usize, len: usize, used: usize) {
    blank(bytes, at + used.min(len), len.saturating_sub(used));
}
