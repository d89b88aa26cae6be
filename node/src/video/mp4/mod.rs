//! MP4 and MOV (ISO/IEC 14496-12, QuickTime File Format).
//!
//! A film whose samples are listed in one index is written anew: `ftyp`, the clean index, and one `mdat` with
//! exactly the bytes that some kept track names, in their old order. So the index comes first, and nothing is
//! left that no track names. A film in fragments keeps its layout, as its parts are found by their distances:
//! what goes from the fragments becomes `free` boxes of zeros, and bytes that no track names become zeros.

pub mod boxes;
pub mod entries;
pub mod fragments;
pub mod movie;
pub mod ranges;
pub mod tables;

use super::notes::Gone;
use super::{
    Browser, Fill, MAX_INDEX, Piece, Plan, Probe, Ready, Refused, Report, Source, browsers, refused,
    told_chapters,
    units::{self, Units},
};
use boxes::{Header, put};
pub use entries::{parameter_sets, units_of};
use movie::Movie;
use ranges::Ranges;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use tables::Chunks;

/// Boxes at the top of a file at most.
const MAX_TOP: usize = 400_000;
/// So much of a box that goes is looked at for its name.
const LOOKED_AT: u64 = 1 << 16;

/// Plans the clean form of an MP4 or MOV.
pub fn plan(source: &dyn Source, mime: &str) -> Result<Ready, Refused> {
    let mut gone = Gone::default();
    let top = top(source, &mut gone)?;
    let mut indexes = top.iter().filter(|header| header.kind == *b"moov");
    let Some(moov) = indexes.next() else {
        return refused("its index (moov) is missing: it was never finished");
    };
    if indexes.next().is_some() {
        return refused("it has more than one index (moov)");
    }
    if moov.end() > source.size() {
        return refused("it ends in the middle of its index");
    }
    if moov.len > MAX_INDEX {
        return refused(format!("its index is larger than {} MiB", MAX_INDEX >> 20));
    }
    let body = source.piece(moov.body(), (moov.len - moov.header) as usize)?;
    let movie = Movie::of(&body, source, &mut gone)?;
    movie.note_rest(&mut gone)?;
    let fragmented = top.iter().any(|header| header.kind == *b"moof");
    let plan = if fragmented {
        fragments::plan(source, &top, moov, &movie, &mut gone)?
    } else {
        whole(source, &top, &movie, &mut gone)?
    };
    let tracks = movie.tracks();
    let container = if movie.is_plain { Browser::Yes } else { Browser::Some };
    let probe = Probe {
        mime: if movie.is_plain { "video/mp4" } else { mime }.to_owned(),
        duration_ms: movie.duration_ms,
        hidden_ms: movie.hidden_ms()?,
        browser: browsers(container, &tracks),
        tracks,
        chapters: told_chapters(movie.chapters.clone()),
    };
    Ok(Ready { report: Report { probe, stripped: gone.into_list() }, plan })
}

/// The boxes at the top, up to the first bytes that are none.
fn top(source: &dyn Source, gone: &mut Gone) -> Result<Vec<Header>, Refused> {
    let mut top = Vec::new();
    let mut at = 0;
    while at < source.size() {
        let Some(header) = Header::read(source, at)? else {
            gone.note("trailing bytes");
            break;
        };
        if top.len() == MAX_TOP {
            return refused("it consists of far too many parts");
        }
        top.push(header);
        at = at.saturating_add(header.len);
    }
    Ok(top)
}

/// Notes a box at the top that goes.
fn note_top(source: &dyn Source, header: &Header, gone: &mut Gone) -> Result<(), Refused> {
    let len = (header.len - header.header).min(LOOKED_AT).min(source.size().saturating_sub(header.body()));
    let body = source.piece(header.body(), len as usize)?;
    match &header.kind {
        b"free" | b"skip" | b"wide" => gone.note_filling(&body, "padding"),
        b"pdin" | b"sidx" | b"mfra" | b"styp" => {}
        kind => gone.note_in(&body, &format!("other metadata ({})", movie::shown(*kind))),
    }
    Ok(())
}

/// The first box: only brands that say how to read the file.
fn ftyp(is_plain: bool, is_fragmented: bool) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, *b"ftyp", |out| match (is_plain, is_fragmented) {
        (true, false) => out.extend(b"isom\0\0\x02\0isomiso2avc1mp41"),
        (true, true) => out.extend(b"iso5\0\0\x02\0iso5iso6mp41"),
        (false, _) => out.extend(b"qt  \0\0\x02\0qt  "),
    });
    out
}

/// A film with one index.
fn whole(source: &dyn Source, top: &[Header], movie: &Movie<'_>, gone: &mut Gone) -> Result<Plan, Refused> {
    let mut ranges = ranges(movie)?;
    let data: Vec<(u64, u64)> = top
        .iter()
        .filter(|header| header.kind == *b"mdat")
        .map(|header| (header.body(), header.end().min(source.size())))
        .collect();
    let unused = ranges.settle(&data)?;
    if unused > 0 && !movie.lost_tracks {
        gone.note("data that no track uses");
    }
    for header in top.iter().filter(|header| !matches!(&header.kind, b"ftyp" | b"moov" | b"mdat")) {
        note_top(source, header, gone)?;
    }
    let patches = patches(source, movie)?;
    let is_long = ranges.size() > u64::from(u32::MAX) - 2 * MAX_INDEX;
    let mut front = ftyp(movie.is_plain, false);
    front.reserve(movie.size() + 4096);
    let offsets = movie.put(&mut front, is_long, &|old| ranges.place(old))?;
    if is_long {
        front.extend([0, 0, 0, 1]);
        front.extend(b"mdat");
        front.extend((ranges.size() + 16).to_be_bytes());
    } else {
        front.extend((ranges.size() as u32 + 8).to_be_bytes());
        front.extend(b"mdat");
    }
    let base = front.len() as u64;
    for (at, count) in offsets {
        let width = if is_long { 8 } else { 4 };
        for entry in
            front.get_mut(at..at + count as usize * width).unwrap_or_default().chunks_exact_mut(width)
        {
            let place = entry.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)) + base;
            let bytes = place.to_be_bytes();
            entry.copy_from_slice(bytes.get(8 - width..).unwrap_or_default());
        }
    }
    front.shrink_to_fit();
    let mut pieces = vec![Piece::New(front)];
    pieces.extend(ranges.iter().map(|(at, len)| Piece::Old { at, len }));
    if !patches.is_empty() {
        gone.note("notes between pictures and sounds");
    }
    Ok(Plan::new(pieces, patches))
}

/// Where the samples lie. Tracks are walked side by side, as they lie in the file: so what follows on something of
/// another track is joined at once, and a film of many hours is one range.
fn ranges(movie: &Movie<'_>) -> Result<Ranges, Refused> {
    let mut ranges = Ranges::default();
    let mut tracks: Vec<_> = movie.kept.iter().map(|kept| kept.samples.chunks()).collect();
    let mut ahead = BinaryHeap::new();
    let next = |tracks: &mut Vec<Chunks<'_>>, track: usize| {
        tracks.get_mut(track).and_then(Iterator::next).transpose()
    };
    for track in 0..tracks.len() {
        ahead.extend(next(&mut tracks, track)?.map(|chunk| Reverse((chunk.at, chunk.len, track))));
    }
    while let Some(Reverse((at, len, track))) = ahead.pop() {
        ranges.add(at, len)?;
        ahead.extend(next(&mut tracks, track)?.map(|chunk| Reverse((chunk.at, chunk.len, track))));
    }
    Ok(ranges)
}

/// What stands over notes inside the samples.
fn patches(source: &dyn Source, movie: &Movie<'_>) -> Result<Vec<(u64, Fill)>, Refused> {
    let mut patches = Vec::new();
    for kept in &movie.kept {
        let Some(units) = kept.entry.units else { continue };
        kept.samples.each(|at, len| {
            units::sample(source, at, len, units, &mut patches)?;
            // Only the first frame of sound begins with a name.
            Ok(units != Units::Aac)
        })?;
    }
    Ok(patches)
}

/// A box of zeros that takes the place of another one, as patches.
fn to_free(header: &Header, end: u64, patches: &mut Vec<(u64, Fill)>) {
    patches.push((header.at + 4, Fill::Bytes(Box::new(*b"free"))));
    patches.push((header.body(), Fill::Same(0, end.saturating_sub(header.body()))));
}
