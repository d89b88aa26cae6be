//! The index of a film (`moov`): which tracks stay, and their clean form (ISO/IEC 14496-12 8).

use super::super::notes::Gone;
use super::super::{Kind, Refused, Source, Track, is_language, refused, telemetry};
use super::boxes::{FourCc, blank, child, children, number, put, put_bytes, u32_at};
use super::entries::{self, Entry};
use super::tables::{self, Samples};

/// Tracks at most.
const MAX_TRACKS: usize = 256;
/// Chapters at most.
const MAX_CHAPTERS: usize = 1024;

/// A track that stays.
pub struct Kept<'a> {
    /// Its number.
    pub id: u32,
    /// What it is.
    pub kind: Kind,
    /// Its codec.
    pub entry: Entry,
    trak: &'a [u8],
    handler: FourCc,
    stbl: &'a [u8],
    /// Where its samples lie.
    pub samples: Samples<'a>,
}

/// An index that was looked at.
pub struct Movie<'a> {
    body: &'a [u8],
    /// Tracks that stay.
    pub kept: Vec<Kept<'a>>,
    /// Whether a track goes, so that some samples belong to nobody.
    pub lost_tracks: bool,
    /// Milliseconds.
    pub duration_ms: u64,
    /// Chapters in the old lists of Nero's programs.
    pub chapters: Vec<(u64, String)>,
    /// The film as an MP4, whatever it was.
    pub is_plain: bool,
}

struct Seen<'a> {
    id: u32,
    handler: FourCc,
    trak: &'a [u8],
    stbl: &'a [u8],
    stsd: &'a [u8],
}

fn lacks<T>(what: &str) -> Result<T, Refused> {
    refused(format!("a track lacks its {what}"))
}

fn need<'a>(parent: &'a [u8], kind: FourCc, what: &str) -> Result<&'a [u8], Refused> {
    child(parent, kind)?.map_or_else(|| lacks(what), Ok)
}

impl<'a> Movie<'a> {
    /// Looks at the contents of a `moov`.
    pub fn of(body: &'a [u8], source: &dyn Source, gone: &mut Gone) -> Result<Self, Refused> {
        if child(body, *b"cmov")?.is_some() {
            return refused("its index is compressed, which only old QuickTime files are");
        }
        let (mut seen, mut chapter_tracks) = (Vec::new(), Vec::new());
        for trak in children(body) {
            let trak = trak?;
            if trak.kind != *b"trak" {
                continue;
            }
            if seen.len() == MAX_TRACKS {
                return refused("it has far too many tracks");
            }
            if let Some(list) = child(trak.body, *b"tref")?.map(|tref| child(tref, *b"chap")).transpose()? {
                let list = list.unwrap_or_default();
                chapter_tracks.extend(list.as_chunks::<4>().0.iter().map(|id| u32::from_be_bytes(*id)));
            }
            seen.push(look(trak.body)?);
        }
        let mut movie = Self {
            body,
            kept: Vec::new(),
            lost_tracks: false,
            duration_ms: 0,
            chapters: nero(body).unwrap_or_default(),
            is_plain: true,
        };
        for track in &seen {
            movie.consider(track, &seen, &chapter_tracks, source, gone)?;
        }
        if !movie.kept.iter().any(|kept| kept.kind != Kind::Text) {
            return refused("it has no pictures or sound that kith knows");
        }
        movie.duration_ms = movie.length()?;
        Ok(movie)
    }

    fn consider(
        &mut self,
        track: &Seen<'a>,
        all: &[Seen<'a>],
        chapters: &[u32],
        source: &dyn Source,
        gone: &mut Gone,
    ) -> Result<(), Refused> {
        let kind = match judge(track, all, chapters)? {
            Ok(kind) => kind,
            Err(what) => {
                gone.note(what);
                self.lost_tracks = true;
                return Ok(());
            }
        };
        // Into nowhere, for what it tells: the clean form is written when all tracks are known.
        let entry = entries::clean(track.stsd, kind, &mut Vec::new(), gone)?;
        let samples = Samples::of(track.stbl, entry.frame)?;
        if kind == Kind::Text && tells_positions(&samples, source)? {
            gone.note("positions in a subtitle track");
            self.lost_tracks = true;
            return Ok(());
        }
        let iso = matches!(
            &entry.kind,
            b"avc1"
                | b"avc3"
                | b"hvc1"
                | b"hev1"
                | b"av01"
                | b"vp08"
                | b"vp09"
                | b"mp4a"
                | b"mp4v"
                | b"Opus"
                | b"fLaC"
                | b"ac-3"
                | b"ec-3"
                | b"alac"
                | b"tx3g"
                | b"wvtt"
        );
        self.is_plain &= iso;
        let (id, handler, trak, stbl) = (track.id, track.handler, track.trak, track.stbl);
        self.kept.push(Kept { id, kind, entry, trak, handler, stbl, samples });
        Ok(())
    }

    /// What `mvhd`, `mehd` or the longest track says.
    fn length(&self) -> Result<u64, Refused> {
        let mvhd = need(self.body, *b"mvhd", "header")?;
        let (scale, units) = clock(mvhd, 12, 20);
        let mvex = child(self.body, *b"mvex")?.unwrap_or_default();
        let fragments = child(mvex, *b"mehd")?
            .and_then(|mehd| if mehd.first() == Some(&1) { number(mehd, 4, 8) } else { number(mehd, 4, 4) });
        let of_movie = millis(units.max(fragments.unwrap_or_default()), scale);
        let mut longest = of_movie;
        for kept in self.kept.iter().filter(|_| of_movie == 0) {
            let mdhd = need(need(kept.trak, *b"mdia", "media")?, *b"mdhd", "header")?;
            let (scale, units) = clock(mdhd, 12, 20);
            longest = longest.max(millis(units, scale));
        }
        Ok(longest)
    }

    /// Bytes of the index as it was.
    pub const fn size(&self) -> usize {
        self.body.len()
    }

    /// Milliseconds of pictures or sound that edit lists leave out (ISO/IEC 14496-12 8.6.6); 0: less than a second, as
    /// encoders need some for themselves.
    pub fn hidden_ms(&self) -> Result<u64, Refused> {
        let (movie_scale, _) = clock(need(self.body, *b"mvhd", "header")?, 12, 20);
        let mut most = 0;
        for kept in self.kept.iter().filter(|kept| kept.kind != Kind::Text) {
            let edts = child(kept.trak, *b"edts")?.unwrap_or_default();
            let Some(elst) = child(edts, *b"elst")? else { continue };
            let (scale, units) =
                clock(need(need(kept.trak, *b"mdia", "media")?, *b"mdhd", "header")?, 12, 20);
            most = most.max(hidden_of(elst, millis(units, scale), scale, movie_scale));
        }
        Ok(if most < 1000 { 0 } else { most })
    }

    /// The tracks as people see them.
    pub fn tracks(&self) -> Vec<Track> {
        let track = |kept: &Kept<'_>| Track {
            kind: kept.kind,
            codec: kept.entry.codec.clone(),
            lang: language(kept.trak),
            width: kept.entry.size.map(|(width, _)| width),
            height: kept.entry.size.map(|(_, height)| height),
            browser: kept.entry.browser,
        };
        self.kept.iter().map(track).collect()
    }

    /// Notes what does not stay in the index itself.
    pub fn note_rest(&self, gone: &mut Gone) -> Result<(), Refused> {
        for child in children(self.body) {
            let child = child?;
            match &child.kind {
                b"mvhd" => note_dates(child.body, gone),
                b"trak" => note_track(child.body, gone)?,
                b"mvex" | b"iods" => {}
                b"free" | b"skip" | b"wide" => gone.note_filling(child.body, "padding"),
                _ => gone.note_in(child.body, &format!("other metadata ({})", shown(child.kind))),
            }
        }
        Ok(())
    }

    /// Appends the clean index. `place` gives the new place of a chunk; the places where these stand are
    /// returned with the bytes of each, as the beginning of the samples is only known then.
    pub fn put(
        &self,
        out: &mut Vec<u8>,
        is_long: bool,
        place: &dyn Fn(u64) -> Option<u64>,
    ) -> Result<Vec<(usize, u64)>, Refused> {
        let mut offsets = Vec::new();
        put(out, *b"moov", |out| {
            let mut mvhd = exact(need(self.body, *b"mvhd", "header")?, 100, 112)?;
            wipe_dates(&mut mvhd);
            // Reserved, and QuickTime's places of previews, posters and selections.
            let at = if mvhd.first() == Some(&1) { 38 } else { 26 };
            [(at, 10), (at + 46, 24)].into_iter().for_each(|(at, len)| blank(&mut mvhd, at, len));
            put_bytes(out, *b"mvhd", &mvhd);
            for kept in &self.kept {
                put(out, *b"trak", |out| self.put_track(kept, out, is_long, place, &mut offsets))?;
            }
            self.put_mvex(out)
        })?;
        Ok(offsets)
    }

    fn put_mvex(&self, out: &mut Vec<u8>) -> Result<(), Refused> {
        let Some(mvex) = child(self.body, *b"mvex")? else { return Ok(()) };
        put(out, *b"mvex", |out| {
            if let Some(mehd) = child(mvex, *b"mehd")? {
                put_bytes(out, *b"mehd", &exact(mehd, 8, 12)?);
            }
            for trex in children(mvex) {
                let trex = trex?;
                if trex.kind == *b"trex" && self.is_kept(u32_at(trex.body, 4)?) {
                    put_bytes(out, *b"trex", &exact(trex.body, 24, 24)?);
                }
            }
            Ok(())
        })
    }

    /// Whether a track stays.
    pub fn is_kept(&self, id: u32) -> bool {
        self.kept.iter().any(|kept| kept.id == id)
    }

    /// Bytes of a sample of a track where its fragments do not say.
    pub fn default_size(&self, id: u32) -> Result<u64, Refused> {
        for trex in children(child(self.body, *b"mvex")?.unwrap_or_default()) {
            let trex = trex?;
            if trex.kind == *b"trex" && u32_at(trex.body, 4)? == id {
                return Ok(u64::from(u32_at(trex.body, 16)?));
            }
        }
        Ok(0)
    }

    fn put_track(
        &self,
        kept: &Kept<'_>,
        out: &mut Vec<u8>,
        is_long: bool,
        place: &dyn Fn(u64) -> Option<u64>,
        offsets: &mut Vec<(usize, u64)>,
    ) -> Result<(), Refused> {
        let mut tkhd = exact(need(kept.trak, *b"tkhd", "header")?, 84, 96)?;
        wipe_dates(&mut tkhd);
        let at = if tkhd.first() == Some(&1) { 24 } else { 16 };
        let behind = if tkhd.first() == Some(&1) { 36 } else { 24 };
        [(at, 4), (behind, 8)].into_iter().for_each(|(at, len)| blank(&mut tkhd, at, len));
        put_bytes(out, *b"tkhd", &tkhd);
        if let Some(edts) = child(kept.trak, *b"edts")?
            && let Some(elst) = child(edts, *b"elst")?
        {
            let entry = if elst.first() == Some(&1) { 20 } else { 12 };
            let len =
                u64::from(u32_at(elst, 4)?).checked_mul(entry).map_or(usize::MAX, |len| len as usize + 8);
            let list =
                elst.get(..len).ok_or_else(|| Refused("an edit list counts more than it holds".into()))?;
            put(out, *b"edts", |out| put_bytes(out, *b"elst", list));
        }
        if let Some(tapt) = child(kept.trak, *b"tapt")?.filter(|_| !self.is_plain) {
            put(out, *b"tapt", |out| {
                for shape in children(tapt) {
                    let shape = shape?;
                    if matches!(&shape.kind, b"clef" | b"prof" | b"enof") {
                        put_bytes(out, shape.kind, &exact(shape.body, 12, 12)?);
                    }
                }
                Ok::<_, Refused>(())
            })?;
        }
        let mdia = need(kept.trak, *b"mdia", "media")?;
        put(out, *b"mdia", |out| {
            let mut mdhd = exact(need(mdia, *b"mdhd", "header")?, 24, 36)?;
            wipe_dates(&mut mdhd);
            put_bytes(out, *b"mdhd", &mdhd);
            let elng = child(mdia, *b"elng")?.and_then(|elng| elng.get(4..)?.strip_suffix(&[0]));
            if let Some(tag) = elng.filter(|tag| is_language(tag)) {
                put_bytes(out, *b"elng", &[&[0; 4], tag, &[0]].concat());
            }
            self.put_handler(out, b"mhlr", kept.handler);
            put(out, *b"minf", |out| self.put_media(kept, mdia, out, is_long, place, offsets))
        })
    }

    fn put_handler(&self, out: &mut Vec<u8>, component: &FourCc, handler: FourCc) {
        put(out, *b"hdlr", |out| {
            out.extend([0; 4]);
            out.extend(if self.is_plain { &[0; 4] } else { component });
            out.extend(handler);
            // Reserved, and an empty name.
            out.extend([0; 13]);
        });
    }

    fn put_media(
        &self,
        kept: &Kept<'_>,
        mdia: &[u8],
        out: &mut Vec<u8>,
        is_long: bool,
        place: &dyn Fn(u64) -> Option<u64>,
        offsets: &mut Vec<(usize, u64)>,
    ) -> Result<(), Refused> {
        let minf = need(mdia, *b"minf", "information")?;
        for (kind, len) in [(*b"vmhd", 12), (*b"smhd", 8), (*b"nmhd", 4), (*b"sthd", 4)] {
            if let Some(header) = child(minf, kind)? {
                put_bytes(out, kind, &exact(header, len, len)?);
            }
        }
        if let Some(gmhd) = child(minf, *b"gmhd")? {
            if self.is_plain {
                put_bytes(out, *b"nmhd", &[0; 4]);
            } else {
                put(out, *b"gmhd", |out| {
                    for (kind, len) in [(*b"gmin", 16), (*b"text", 36)] {
                        if let Some(part) = child(gmhd, kind)? {
                            put_bytes(out, kind, &exact(part, len, len)?);
                        }
                    }
                    Ok::<_, Refused>(())
                })?;
            }
        }
        if !self.is_plain {
            self.put_handler(out, b"dhlr", *b"url ");
        }
        let dref = child(minf, *b"dinf")?.map(|dinf| child(dinf, *b"dref")).transpose()?.flatten();
        put(out, *b"dinf", |out| put(out, *b"dref", |out| put_places(dref, out)))?;
        put(out, *b"stbl", |out| {
            let stsd = need(kept.stbl, *b"stsd", "description")?;
            entries::clean(stsd, kept.kind, out, &mut Gone::default())?;
            tables::put(kept.stbl, kept.samples.count(), out)?;
            put(out, if is_long { *b"co64" } else { *b"stco" }, |out| {
                out.extend([0; 4]);
                let count = kept.samples.chunk_count();
                out.extend((count as u32).to_be_bytes());
                offsets.push((out.len(), count));
                for chunk in 0..count {
                    // A chunk without samples may name any place.
                    let new = kept.samples.offset(chunk).and_then(place).unwrap_or_default();
                    if is_long {
                        out.extend(new.to_be_bytes());
                    } else {
                        out.extend((new as u32).to_be_bytes());
                    }
                }
            });
            Ok(())
        })
    }
}

/// What a track is, or why it goes.
fn judge(track: &Seen<'_>, all: &[Seen<'_>], chapters: &[u32]) -> Result<Result<Kind, String>, Refused> {
    let kinds = entries::kinds(track.stsd)?;
    let entry = || kinds.first().map_or_else(String::new, |kind| format!(" ({})", shown(*kind)));
    let kind = match &track.handler {
        _ if chapters.contains(&track.id) => return Ok(Err("chapters".into())),
        b"vide" => Kind::Video,
        b"soun" => Kind::Audio,
        b"sbtl" | b"subt" | b"text" | b"clcp" => Kind::Text,
        b"tmcd" => return Ok(Err("timecode track".into())),
        _ => return Ok(Err(format!("timed metadata track{}", entry()))),
    };
    let pictures = |kinds: &[FourCc]| kinds.iter().all(|kind| matches!(kind, b"jpeg" | b"png "));
    if kind == Kind::Video && pictures(&kinds) {
        let is_film = |other: &Seen<'_>| {
            other.handler == *b"vide" && entries::kinds(other.stsd).is_ok_and(|kinds| !pictures(&kinds))
        };
        if all.iter().any(is_film) {
            return Ok(Err("cover picture".into()));
        }
    }
    if kind == Kind::Text && !kinds.iter().all(|kind| matches!(kind, b"tx3g" | b"wvtt" | b"c608")) {
        return Ok(Err(format!("subtitles of a kind that cannot be cleaned{}", entry())));
    }
    Ok(Ok(kind))
}

fn look(trak: &[u8]) -> Result<Seen<'_>, Refused> {
    let tkhd = need(trak, *b"tkhd", "header")?;
    let id = u32_at(tkhd, if tkhd.first() == Some(&1) { 20 } else { 12 })?;
    let mdia = need(trak, *b"mdia", "media")?;
    let hdlr = need(mdia, *b"hdlr", "handler")?;
    let handler =
        hdlr.get(8..12).and_then(|kind| kind.try_into().ok()).map_or_else(|| lacks("handler"), Ok)?;
    let stbl = need(need(mdia, *b"minf", "information")?, *b"stbl", "tables")?;
    let stsd = need(stbl, *b"stsd", "description")?;
    Ok(Seen { id, handler, trak, stbl, stsd })
}

/// Where samples may lie: in this very file (`url ` with flag 1).
fn put_places(dref: Option<&[u8]>, out: &mut Vec<u8>) -> Result<(), Refused> {
    let mut count = 0_u32;
    for place in children(dref.unwrap_or_default().get(8..).unwrap_or_default()) {
        let place = place?;
        if place.body.get(3).is_none_or(|flags| flags & 1 == 0) {
            return refused("its pictures or sound lie in another file");
        }
        count += 1;
    }
    let count = count.max(1);
    out.extend([0; 4]);
    out.extend(count.to_be_bytes());
    (0..count).for_each(|_| put_bytes(out, *b"url ", &[0, 0, 0, 1]));
    Ok(())
}

/// Exactly as much of a box of version 0 or 1 as it has.
fn exact(body: &[u8], short: usize, long: usize) -> Result<Vec<u8>, Refused> {
    let len = if body.first() == Some(&1) { long } else { short };
    body.get(..len).map(<[u8]>::to_vec).ok_or_else(|| Refused("a box in it is too short".into()))
}

fn wipe_dates(header: &mut [u8]) {
    let len = if header.first() == Some(&1) { 16 } else { 8 };
    blank(header, 4, len);
}

fn note_dates(header: &[u8], gone: &mut Gone) {
    let len = if header.first() == Some(&1) { 16 } else { 8 };
    gone.note_filling(header.get(4..4 + len).unwrap_or_default(), "dates");
}

fn note_track(trak: &[u8], gone: &mut Gone) -> Result<(), Refused> {
    for child in children(trak) {
        let child = child?;
        match &child.kind {
            b"tkhd" => note_dates(child.body, gone),
            b"edts" | b"tref" | b"tapt" | b"load" => {}
            b"mdia" => note_media(child.body, gone)?,
            b"free" | b"skip" | b"wide" => gone.note_filling(child.body, "padding"),
            _ => gone.note_in(child.body, &format!("other metadata ({})", shown(child.kind))),
        }
    }
    Ok(())
}

fn note_media(mdia: &[u8], gone: &mut Gone) -> Result<(), Refused> {
    for child in children(mdia) {
        let child = child?;
        match &child.kind {
            b"mdhd" => note_dates(child.body, gone),
            b"hdlr" => gone.note_filling(child.body.get(24..).unwrap_or_default(), "track names"),
            b"minf" => {
                for inner in children(child.body) {
                    let inner = inner?;
                    let known = matches!(
                        &inner.kind,
                        b"vmhd"
                            | b"smhd"
                            | b"nmhd"
                            | b"sthd"
                            | b"gmhd"
                            | b"hmhd"
                            | b"hdlr"
                            | b"dinf"
                            | b"stbl"
                    );
                    if !known {
                        gone.note_in(inner.body, &format!("other metadata ({})", shown(inner.kind)));
                    }
                    if inner.kind == *b"stbl" {
                        note_tables(inner.body, gone)?;
                    }
                }
            }
            b"elng" => {}
            _ => gone.note_in(child.body, &format!("other metadata ({})", shown(child.kind))),
        }
    }
    Ok(())
}

fn note_tables(stbl: &[u8], gone: &mut Gone) -> Result<(), Refused> {
    for child in children(stbl) {
        let child = child?;
        match &child.kind {
            b"free" | b"skip" | b"wide" => gone.note_filling(child.body, "padding"),
            b"uuid" | b"meta" | b"udta" => {
                gone.note_in(child.body, &format!("other metadata ({})", shown(child.kind)));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Units a second, and units, of `mvhd` and `mdhd`.
fn clock(header: &[u8], short: usize, long: usize) -> (u64, u64) {
    let (at, len) = if header.first() == Some(&1) { (long, 8) } else { (short, 4) };
    let unknown = if len == 8 { u64::MAX } else { u64::from(u32::MAX) };
    let units = number(header, at + 4, len).filter(|units| *units != unknown);
    (number(header, at, 4).unwrap_or_default(), units.unwrap_or_default())
}

/// Milliseconds of `media_ms` that an edit list does not show.
fn hidden_of(elst: &[u8], media_ms: u64, scale: u64, movie_scale: u64) -> u64 {
    let width = if elst.first() == Some(&1) { 8 } else { 4 };
    let nothing = if width == 8 { u64::MAX } else { u64::from(u32::MAX) };
    let mut shown_ms = 0_u64;
    for entry in elst.get(8..).unwrap_or_default().chunks_exact(2 * width + 4) {
        let (len, from) = (number(entry, 0, width), number(entry, width, width).unwrap_or(nothing));
        match len.unwrap_or_default() {
            _ if from == nothing => {}
            // From there to the end, however long the fragments that follow.
            0 => return millis(from, scale),
            len => shown_ms = shown_ms.saturating_add(millis(len, movie_scale)),
        }
    }
    media_ms.saturating_sub(shown_ms)
}

/// A hundred days: nothing is taken to be longer.
const LONGEST_MS: u64 = 100 * 86_400_000;

fn millis(units: u64, scale: u64) -> u64 {
    let ms = u128::from(units) * 1000 / u128::from(scale.max(1));
    if scale == 0 || ms > u128::from(LONGEST_MS) { 0 } else { ms as u64 }
}

/// Three letters, five bits each (ISO/IEC 14496-12 8.4.2.3).
fn language(trak: &[u8]) -> Option<String> {
    let mdhd = child(child(trak, *b"mdia").ok()??, *b"mdhd").ok()??;
    let packed = number(mdhd, if mdhd.first() == Some(&1) { 32 } else { 20 }, 2)?;
    let letters: Option<String> = [10, 5, 0]
        .into_iter()
        .map(|shift| {
            Some(0x60 + (packed >> shift & 0x1F) as u8).filter(u8::is_ascii_lowercase).map(char::from)
        })
        .collect();
    letters.filter(|lang| packed >= 0x400 && lang != "und")
}

/// Chapters as Nero's programs list them: a count, and for each 100 ns and a title.
fn nero(moov: &[u8]) -> Option<Vec<(u64, String)>> {
    let chpl = child(child(moov, *b"udta").ok()??, *b"chpl").ok()??;
    let mut rest = chpl.get(if chpl.first() == Some(&1) { 8 } else { 4 }..)?;
    let (count, after) = rest.split_first()?;
    rest = after;
    let mut all = Vec::new();
    for _ in 0..usize::from(*count).min(MAX_CHAPTERS) {
        let begins = number(rest, 0, 8)? / 10_000;
        let len = usize::from(*rest.get(8)?);
        all.push((begins, String::from_utf8_lossy(rest.get(9..9 + len)?).into_owned()));
        rest = rest.get(9 + len..)?;
    }
    Some(all)
}

/// Samples of a subtitle track that are looked at, in all.
const LOOKED_AT: u64 = 1 << 20;

/// Whether a subtitle track is in truth a log of positions, as drones write it.
fn tells_positions(samples: &Samples<'_>, source: &dyn Source) -> Result<bool, Refused> {
    let (mut seen, mut looked, mut found) = (0, 0, false);
    samples.each(|at, len| {
        let len = len.min(4096);
        looked += 1;
        if seen + len > LOOKED_AT || looked > LOOKED_AT {
            return Ok(false);
        }
        seen += len;
        found = telemetry::tells_positions(&source.piece(at, len as usize)?);
        Ok(!found)
    })?;
    Ok(found)
}

/// Four letters for people.
pub fn shown(kind: FourCc) -> String {
    kind.iter().map(|b| if b.is_ascii_graphic() { char::from(*b) } else { '.' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(u32, i32)]) -> Vec<u8> {
        let mut list = [[0; 4], (entries.len() as u32).to_be_bytes()].concat();
        for (len, from) in entries {
            list.extend([len.to_be_bytes(), from.to_be_bytes(), [0, 1, 0, 0]].concat());
        }
        list
    }

    #[test]
    fn what_an_edit_list_leaves_out_is_told() {
        // 20 s at 90 kHz; the film counts milliseconds.
        let hidden = |entries: &[(u32, i32)]| hidden_of(&list(entries), 20_000, 90_000, 1000);
        assert_eq!(hidden(&[(20_000, 0)]), 0);
        assert_eq!(hidden(&[(500, -1), (19_950, 4500)]), 50);
        assert_eq!(hidden(&[(8000, 450_000)]), 12_000);
        assert_eq!(hidden(&[(5000, 0), (5000, 1_350_000)]), 10_000);
        assert_eq!(hidden(&[(0, 450_000)]), 5000);
        assert_eq!(hidden_of(&[0; 3], 20_000, 0, 0), 20_000);
    }
}
