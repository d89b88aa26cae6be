//! Matroska and WebM (RFC 8794, RFC 9559).
//!
//! The file is written anew: header, facts and tracks in their clean form, the list of places for seeking, and the
//! clusters. A cluster keeps its layout, as places in it are told from its beginning: what goes from it becomes an
//! element `Void` of zeros.

pub mod ebml;
pub mod tracks;

use super::notes::Gone;
use super::plan::MAX_PATCHES;
use super::{
    Browser, Fill, MAX_INDEX, Piece, Plan, Probe, Ready, Refused, Report, Source, browsers, refused,
    telemetry, told_chapters,
    units::{self, Units},
};
use ebml::{Header, Id, child, children, number, put, put_number, put_size, void};
use std::collections::BTreeSet;
use std::io::Read;
use tracks::{Packing, Tracks};

const SEGMENT: Id = 0x1853_8067;
const CLUSTER: Id = 0x1F43_B675;
const TRACKS: Id = 0x1654_AE6B;
const INFO: Id = 0x1549_A966;
const CUES: Id = 0x1C53_BB6B;
const SEEK_HEAD: Id = 0x114D_9B74;
const CHAPTERS: Id = 0x1043_A770;
const TAGS: Id = 0x1254_C367;
const ATTACHMENTS: Id = 0x1941_A469;
const VOID: Id = 0xEC;
const CRC: Id = 0xBF;

/// Elements of the highest level at most, clusters among them.
const MAX_PARTS: usize = 400_000;
/// Elements in all that are looked at.
const MAX_ELEMENTS: u64 = 20_000_000;
/// So much of an element that goes is looked at for its name.
const LOOKED_AT: u64 = 1 << 16;
/// Chapters at most.
const MAX_CHAPTERS: usize = 1024;
/// Subtitles that are looked at, in all.
const MAX_TEXT: u64 = 4 << 20;

/// Plans the clean form of a Matroska or WebM file.
pub fn plan(source: &dyn Source, mime: &str) -> Result<Ready, Refused> {
    let mut without = Vec::new();
    for _ in 0..PASSES {
        let mut work = Work::new(source, &without);
        work.read()?;
        // A log of positions is known by its lines only: begin again without those tracks.
        if work.positions.is_empty() {
            return work.finish(mime);
        }
        without.extend(&work.positions);
    }
    refused("it has far too many subtitles that are logs of positions")
}

/// A file is gone through so often at most.
const PASSES: usize = 4;

/// Pictures and sound of some seconds.
struct Cluster {
    /// Where it begins.
    at: u64,
    /// Where its contents begin and end.
    body: u64,
    end: u64,
    /// Whether it does not say how long it is.
    is_open: bool,
}

impl Cluster {
    /// Bytes in the clean file. An open one gets a header with a length of eight bytes.
    const fn len(&self) -> u64 {
        if self.is_open { self.end - self.body + 12 } else { self.end - self.at }
    }

    fn header(&self) -> Vec<u8> {
        [&CLUSTER.to_be_bytes()[..], &((self.end - self.body) | (1 << 56)).to_be_bytes()].concat()
    }
}

struct Work<'a> {
    source: &'a dyn Source,
    without: &'a [u64],
    gone: Gone,
    header: Vec<u8>,
    info: Vec<u8>,
    duration: Option<f64>,
    scale: u64,
    tracks: Option<Tracks>,
    cues: Vec<u8>,
    chapters: Vec<(u64, String)>,
    clusters: Vec<Cluster>,
    patches: Vec<(u64, Fill)>,
    elements: u64,
    index: u64,
    texts: u64,
    positions: BTreeSet<u64>,
    /// Tracks of sound whose first block has gone by.
    begun: BTreeSet<u64>,
    segment: u64,
}

impl<'a> Work<'a> {
    fn new(source: &'a dyn Source, without: &'a [u64]) -> Self {
        Self {
            source,
            without,
            gone: Gone::default(),
            header: Vec::new(),
            info: Vec::new(),
            duration: None,
            scale: 1_000_000,
            tracks: None,
            cues: Vec::new(),
            chapters: Vec::new(),
            clusters: Vec::new(),
            patches: Vec::new(),
            elements: 0,
            index: 0,
            texts: 0,
            positions: BTreeSet::new(),
            begun: BTreeSet::new(),
            segment: 0,
        }
    }

    fn at(&mut self, at: u64) -> Result<Option<Header>, Refused> {
        self.elements += 1;
        if self.elements > MAX_ELEMENTS {
            return refused("it consists of far too many parts");
        }
        Header::read(self.source, at)
    }

    fn load(&mut self, header: &Header) -> Result<Vec<u8>, Refused> {
        let Some(len) = header.len else { return refused("an element in it has no length") };
        self.index = self.index.saturating_add(len);
        if self.index > MAX_INDEX {
            return refused(format!("its index is larger than {} MiB", MAX_INDEX >> 20));
        }
        self.source.piece(header.body(), len as usize)
    }

    fn note(&mut self, header: &Header, what: &str) -> Result<(), Refused> {
        let left = self.source.size().saturating_sub(header.body());
        let len = header.len.unwrap_or(left).min(left).min(LOOKED_AT);
        let body = self.source.piece(header.body(), len as usize)?;
        match header.id {
            VOID | CRC => self.gone.note_filling(&body, what),
            _ => self.gone.note_in(&body, what),
        }
        Ok(())
    }

    fn read(&mut self) -> Result<(), Refused> {
        let Some(head) = self.at(0)? else { return refused("its header makes no sense") };
        if head.len.is_none_or(|len| len > 4096) {
            return refused("its header makes no sense");
        }
        let body = self.load(&head)?;
        self.header(&body)?;
        let mut at = head.end().unwrap_or_default();
        let segment = loop {
            let Some(next) = self.at(at)? else { return refused("it ends behind its header") };
            match (next.id, next.end()) {
                (SEGMENT, _) => break next,
                (VOID, Some(end)) => {
                    self.note(&next, "padding")?;
                    at = end;
                }
                _ => return refused("there is something else where its contents should begin"),
            }
        };
        self.segment = segment.body();
        let file_end = self.source.size();
        let end = segment.end().map_or(file_end, |end| end.min(file_end));
        if end < file_end {
            if self.at(end)?.is_some_and(|next| matches!(next.id, SEGMENT | 0x1A45_DFA3)) {
                return refused("it holds more than one film in a row");
            }
            self.gone.note("trailing bytes");
        }
        self.parts(segment.body(), end)
    }

    /// What a reader needs of the header (RFC 8794 11.2).
    fn header(&mut self, body: &[u8]) -> Result<(), Refused> {
        let mut clean = Vec::new();
        for part in children(body) {
            let part = part?;
            let value = number(part.body);
            match part.id {
                0x42F2 if value > Some(4) => {
                    return refused("its elements have longer names than any known ones");
                }
                0x42F3 if value > Some(8) => {
                    return refused("its elements have longer sizes than any known ones");
                }
                0x4286 | 0x42F7 | 0x42F2 | 0x42F3 | 0x4287 | 0x4285 => {
                    put_number(&mut clean, part.id, value.unwrap_or(1));
                }
                0x4282 => {
                    let kind: &[u8] = if part.body.starts_with(b"webm") { b"webm" } else { b"matroska" };
                    put(&mut clean, part.id, kind);
                }
                _ => self.gone.note_filling(part.body, "other metadata"),
            }
        }
        put(&mut self.header, 0x1A45_DFA3, &clean);
        Ok(())
    }

    fn parts(&mut self, mut at: u64, end: u64) -> Result<(), Refused> {
        let mut count = 0;
        while at < end {
            count += 1;
            if count > MAX_PARTS {
                return refused("it consists of far too many parts");
            }
            let Some(header) = self.at(at)?.filter(|header| known(header.id) || header.end().is_some())
            else {
                return self.trailing(at);
            };
            if header.id == CLUSTER {
                at = self.cluster(&header, end)?;
                continue;
            }
            let Some(stop) = header.end().filter(|stop| *stop <= end) else {
                // A recording that was cut off may end in anything but in its pictures.
                if known(header.id) && self.clusters.is_empty() {
                    return refused("it ends in the middle");
                }
                return self.trailing(at);
            };
            self.part(&header)?;
            at = stop;
        }
        Ok(())
    }

    fn trailing(&mut self, at: u64) -> Result<(), Refused> {
        if self.clusters.is_empty() {
            return refused(format!("what stands at byte {at} makes no sense"));
        }
        self.gone.note("trailing bytes");
        Ok(())
    }

    fn part(&mut self, header: &Header) -> Result<(), Refused> {
        match header.id {
            INFO => {
                let body = self.load(header)?;
                self.info(&body)
            }
            TRACKS if self.tracks.is_some() => refused("it lists its tracks twice"),
            TRACKS => {
                let body = self.load(header)?;
                self.tracks = Some(Tracks::of(&body, self.without, &mut self.gone)?);
                Ok(())
            }
            CUES => {
                let body = self.load(header)?;
                self.cues.extend(body);
                Ok(())
            }
            CHAPTERS => {
                let body = self.load(header)?;
                self.gone.note("chapters");
                chapters(&body, 0, &mut self.chapters);
                Ok(())
            }
            TAGS => {
                self.gone.note("tags");
                self.note(header, "tags")
            }
            ATTACHMENTS => {
                self.gone.note("attachments");
                Ok(())
            }
            SEEK_HEAD | CRC => Ok(()),
            VOID => self.note(header, "padding"),
            _ => self.note(header, "other metadata"),
        }
    }

    fn info(&mut self, body: &[u8]) -> Result<(), Refused> {
        for part in children(body) {
            let part = part?;
            match part.id {
                0x2A_D7B1 => {
                    self.scale = number(part.body).unwrap_or_default();
                    if self.scale == 0 {
                        return refused("its clock stands still");
                    }
                    put_number(&mut self.info, part.id, self.scale);
                }
                0x4489 => {
                    let units = match (part.body.len(), number(part.body)) {
                        (4, Some(bits)) => f64::from(f32::from_bits(bits as u32)),
                        (8, Some(bits)) => f64::from_bits(bits),
                        _ => 0.0,
                    };
                    if units.is_finite() && units > 0.0 {
                        self.duration = Some(units);
                        put(&mut self.info, part.id, part.body);
                    }
                }
                0x4D80 | 0x5741 => self.gone.note_filling(part.body, "software"),
                0x4461 => self.gone.note_filling(part.body, "dates"),
                0x7BA9 => self.gone.note_filling(part.body, "title"),
                0x73A4 | 0x7384 | 0x3C_B923 | 0x3C_83AB | 0x3E_B923 | 0x3E_83BB | 0x4444 => {
                    self.gone.note("marks of the recording");
                }
                VOID | CRC => self.gone.note_filling(part.body, "padding"),
                _ => self.gone.note_in(part.body, "other metadata"),
            }
        }
        Ok(())
    }

    /// Reads a cluster and tells where it ends.
    fn cluster(&mut self, header: &Header, end: u64) -> Result<u64, Refused> {
        if self.tracks.is_none() {
            return refused("its pictures come before the list of its tracks");
        }
        // What was cut off stays as far as it is whole.
        let limit = header.end().map_or(end, |stop| stop.min(end));
        let mut at = header.body();
        while at < limit {
            let Some(child) = self.at(at)? else { break };
            if header.len.is_none() && known(child.id) && child.id != VOID && child.id != CRC {
                break;
            }
            let Some(stop) = child.end().filter(|stop| *stop <= limit) else { break };
            match child.id {
                0xE7 | 0xAB if child.len.is_some_and(|len| len <= 8) => {}
                0xE7 => return refused("a part of its pictures makes no sense"),
                0xA3 => {
                    self.block(&child, &child)?;
                }
                0xA0 => self.group(&child, stop)?,
                _ => self.erase(&child, stop)?,
            }
            at = stop;
        }
        // A known length must be kept: what is behind the last whole block goes only at the end of a file.
        let stop = if header.len.is_none() { at } else { limit };
        if at < limit && header.len.is_some() {
            return refused("a part of its pictures makes no sense");
        }
        if header.end().is_some_and(|told| told > end) {
            return refused("it ends in the middle of its pictures");
        }
        let (at, body) = (header.at, header.body());
        self.clusters.push(Cluster { at, body, end: stop, is_open: header.len.is_none() });
        if self.clusters.len() > MAX_PARTS {
            return refused("it consists of far too many parts");
        }
        Ok(stop)
    }

    /// A block whose header is `block`, inside `whole`, which goes if its track did. Whether it stays.
    fn block(&mut self, block: &Header, whole: &Header) -> Result<bool, Refused> {
        let (body, end) = (block.body(), block.end().unwrap_or_default());
        let mut start = [0; 12];
        let room = ((end - body).min(12)) as usize;
        let start = start.get_mut(..room).unwrap_or_default();
        let got = self.source.read_at(body, start).map_err(|e| Refused(format!("it cannot be read: {e}")))?;
        let Some((track, len)) = ebml::varint(start.get(..got).unwrap_or_default()) else {
            return refused("a part of its pictures makes no sense");
        };
        let flags = start.get(len + 2).copied();
        let Some(kept) = self.tracks.as_ref().and_then(|tracks| tracks.get(track)) else {
            self.erase(whole, whole.end().unwrap_or_default())?;
            return Ok(false);
        };
        let data = body + len as u64 + 3;
        let is_laced = flags.is_none_or(|flags| flags & 0x06 != 0);
        if is_laced && kept.track.kind == super::Kind::Video && kept.units.is_some() {
            return refused("several of its pictures lie in one block, which kith cannot look through");
        }
        if let Some(units) = kept.units.filter(|_| !is_laced && data < end) {
            // Only the first frame of sound begins with a name.
            if units != Units::Aac || !self.begun.contains(&track) {
                let before = self.patches.len();
                units::sample(self.source, data, end - data, units, &mut self.patches)?;
                if self.patches.len() > before {
                    self.gone.note("notes between pictures and sounds");
                }
                self.begun.insert(track);
            }
        } else if kept.is_text && data < end && self.texts < MAX_TEXT && !self.positions.contains(&track) {
            let text = self.source.piece(data, (end - data).min(4096) as usize)?;
            self.texts += text.len() as u64;
            if telemetry::tells_positions(&unpacked(&text, &kept.packing)) {
                self.positions.insert(track);
            }
        }
        Ok(true)
    }

    fn group(&mut self, group: &Header, end: u64) -> Result<(), Refused> {
        let mut at = group.body();
        let mut alpha = false;
        while at < end {
            let child = self.at(at)?;
            let Some((child, stop)) =
                child.and_then(|child| Some((child, child.end()?))).filter(|(_, e)| *e <= end)
            else {
                return refused("a part of its pictures makes no sense");
            };
            match child.id {
                0xA1 => {
                    if !self.block(&child, group)? {
                        return Ok(());
                    }
                    let track =
                        self.source.piece(child.body(), child.len.unwrap_or_default().min(8) as usize)?;
                    let track = ebml::varint(&track).map(|(track, _)| track);
                    let kept = track.and_then(|track| self.tracks.as_ref()?.get(track));
                    alpha = kept.is_some_and(|kept| kept.has_alpha);
                }
                // Duration, references, priority, padding to throw away, a decoder's new state.
                0x9B | 0xFB | 0xFA | 0x75A2 if child.len.is_some_and(|len| len <= 8) => {}
                0x75A1 if alpha => {}
                _ => self.erase(&child, stop)?,
            }
            at = stop;
        }
        Ok(())
    }

    /// An element becomes a `Void` of zeros.
    fn erase(&mut self, header: &Header, end: u64) -> Result<(), Refused> {
        match header.id {
            CRC | 0xA7 | 0xA3 | 0xA0 => {}
            _ => self.note(header, if header.id == VOID { "padding" } else { "other metadata" })?,
        }
        let head = void(end - header.at);
        let body = header.at + head.len() as u64;
        self.patches.push((header.at, Fill::Bytes(head.into())));
        if body < end {
            self.patches.push((body, Fill::Same(0, end - body)));
        }
        if self.patches.len() > MAX_PATCHES {
            return refused("it has far too much in it that would go");
        }
        Ok(())
    }

    fn finish(mut self, mime: &str) -> Result<Ready, Refused> {
        let Some(tracks) = self.tracks.take() else { return refused("it does not list its tracks") };
        if self.clusters.is_empty() {
            return refused("it has no pictures and no sound");
        }
        // Both must be there; nothing need stand in them.
        put(&mut self.info, 0x4D80, &[]);
        put(&mut self.info, 0x5741, &[]);
        let mut front = Vec::new();
        put(&mut front, INFO, &self.info);
        put(&mut front, TRACKS, &tracks.clean);
        let media: u64 = self.clusters.iter().map(Cluster::len).sum();
        // The places depend on how long their own list is: each of them has eight bytes.
        let none = self.cues(&tracks, 0)?;
        let offset = front.len() + none.len();
        front.extend(self.cues(&tracks, offset as u64)?);
        let mut out = self.header;
        out.extend(SEGMENT.to_be_bytes());
        put_size(&mut out, front.len() as u64 + media);
        out.extend(front);
        let mut pieces = vec![Piece::New(out)];
        for cluster in self.clusters {
            let mut at = cluster.at;
            if cluster.is_open {
                pieces.push(Piece::New(cluster.header()));
                at = cluster.body;
            }
            let len = cluster.end - at;
            match pieces.last_mut() {
                Some(Piece::Old { at: begin, len: sofar }) if *begin + *sofar == at => *sofar += len,
                _ => pieces.push(Piece::Old { at, len }),
            }
        }
        let duration_ms = self.duration.map_or(0.0, |units| units * self.scale as f64 / 1e6);
        let found: Vec<_> = tracks.kept.into_iter().map(|kept| kept.track).collect();
        let container = if mime == "video/webm" { Browser::Yes } else { Browser::Some };
        let probe = Probe {
            hidden_ms: 0,
            mime: mime.to_owned(),
            duration_ms: if duration_ms > 100.0 * 86_400_000.0 { 0 } else { duration_ms as u64 },
            browser: browsers(container, &found),
            tracks: found,
            chapters: told_chapters(self.chapters),
        };
        Ok(Ready {
            report: Report { probe, stripped: self.gone.into_list() },
            plan: Plan::new(pieces, self.patches),
        })
    }

    /// The list of places for seeking, with the clusters at `offset` behind the beginning of the segment's contents.
    /// Empty if there is none.
    fn cues(&self, tracks: &Tracks, offset: u64) -> Result<Vec<u8>, Refused> {
        let mut starts = Vec::with_capacity(self.clusters.len());
        let mut sum = offset;
        for cluster in &self.clusters {
            starts.push((cluster.at - self.segment, sum));
            sum += cluster.len();
        }
        let mut all = Vec::new();
        for point in children(&self.cues) {
            let point = point?;
            if point.id != 0xBB {
                continue;
            }
            let Some(time) = child(point.body, 0xB3)?.and_then(number) else { continue };
            let mut clean = Vec::new();
            put_number(&mut clean, 0xB3, time);
            let bare = clean.len();
            for place in children(point.body) {
                let place = place?;
                let of = |id| child(place.body, id).map(|value| value.and_then(number));
                if place.id != 0xB7 {
                    continue;
                }
                let (Some(track), Some(old)) = (of(0xF7)?, of(0xF1)?) else { continue };
                let new = starts.binary_search_by_key(&old, |(old, _)| *old).ok().and_then(|i| starts.get(i));
                let (Some((_, new)), true) = (new, tracks.get(track).is_some()) else { continue };
                let mut inner = Vec::new();
                put_number(&mut inner, 0xF7, track);
                put(&mut inner, 0xF1, &new.to_be_bytes());
                if let Some(within) = of(0xF0)? {
                    put_number(&mut inner, 0xF0, within);
                }
                put(&mut clean, 0xB7, &inner);
            }
            if clean.len() > bare {
                put(&mut all, 0xBB, &clean);
            }
        }
        let mut out = Vec::new();
        if !all.is_empty() {
            put(&mut out, CUES, &all);
        }
        Ok(out)
    }
}

/// Subtitles as they are read.
fn unpacked(block: &[u8], packing: &Packing) -> Vec<u8> {
    match packing {
        Packing::None => block.to_vec(),
        Packing::Start(start) => [start, block].concat(),
        Packing::Zlib => {
            let mut out = Vec::new();
            // What was read before an error counts.
            let _ = flate2::read::ZlibDecoder::new(block).take(4096).read_to_end(&mut out);
            out
        }
    }
}

/// Elements of the highest level, which end a cluster of unknown length.
const fn known(id: Id) -> bool {
    matches!(id, CLUSTER | TRACKS | INFO | CUES | SEEK_HEAD | CHAPTERS | TAGS | ATTACHMENTS | VOID | CRC)
}

/// Chapters with their first title (RFC 9559 5.1.7): when each begins in milliseconds.
fn chapters(body: &[u8], depth: usize, all: &mut Vec<(u64, String)>) {
    for part in children(body).map_while(Result::ok) {
        match part.id {
            0x45B9 if depth == 0 => chapters(part.body, 1, all),
            0xB6 if depth == 1 && all.len() < MAX_CHAPTERS => {
                let value = |body, id| child(body, id).ok().flatten();
                let Some(begins) = value(part.body, 0x91).and_then(number) else { continue };
                let title =
                    value(part.body, 0x80).and_then(|display| value(display, 0x85)).unwrap_or_default();
                all.push((begins / 1_000_000, String::from_utf8_lossy(title).into_owned()));
            }
            _ => {}
        }
    }
}
