//! Sample entries (`stsd`): what a decoder needs, and nothing of who made the file (ISO/IEC 14496-12 8.5.2, 12;
//! QuickTime File Format, "Sample Description Atoms").

use super::super::codec;
use super::super::notes::Gone;
use super::super::units::{Units, user_data};
use super::super::{Browser, Kind, Refused, refused};
use super::boxes::{FourCc, blank, children, number, put, put_bytes, u32_at};

/// Sample entries of one track at most.
const MAX_ENTRIES: u32 = 64;

/// What is known of a track's codec.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its four letters.
    pub kind: FourCc,
    /// Its name.
    pub codec: String,
    /// Whether browsers play it.
    pub browser: Browser,
    /// Pixels.
    pub size: Option<(u32, u32)>,
    /// Bytes of a sound frame and frames in a packet, where sizes in the table count frames.
    pub frame: Option<(u64, u64)>,
    /// What the samples consist of, where notes can stand between.
    pub units: Option<Units>,
}

/// The kinds of samples in a track, without any change.
pub fn kinds(stsd: &[u8]) -> Result<Vec<FourCc>, Refused> {
    children(stsd.get(8..).unwrap_or_default()).map(|child| child.map(|child| child.kind)).collect()
}

/// Appends a clean `stsd` and tells of the first codec in it.
pub fn clean(stsd: &[u8], kind: Kind, out: &mut Vec<u8>, gone: &mut Gone) -> Result<Entry, Refused> {
    let count = u32_at(stsd, 4)?;
    if count == 0 || count > MAX_ENTRIES {
        return refused("a track has no description of its samples, or far too many");
    }
    put(out, *b"stsd", |out| {
        out.extend([0; 4]);
        out.extend(count.to_be_bytes());
        let mut entries = children(stsd.get(8..).unwrap_or_default());
        let mut first = None;
        for _ in 0..count {
            let entry =
                entries.next().unwrap_or_else(|| refused("a list of sample descriptions is short"))?;
            let found = put(out, entry.kind, |out| match kind {
                Kind::Video => video(entry.kind, entry.body, out, gone),
                Kind::Audio => audio(entry.kind, entry.body, out, gone),
                Kind::Text => text(entry.kind, entry.body, out, gone),
            })?;
            let first = first.get_or_insert(found.clone());
            // The samples of all of them are looked through in one way.
            if first.units != found.units {
                return refused("a track describes its samples in several ways");
            }
        }
        first.ok_or_else(|| Refused("a track has no description of its samples".into()))
    })
}

/// A codec that nobody here knows may keep words anywhere.
fn known(kind: FourCc) -> Result<Entry, Refused> {
    let Some((codec, browser)) = codec::of_entry(kind) else {
        return refused(format!("kith does not know what is in it ({}) and cannot clean it", letters(kind)));
    };
    Ok(Entry { kind, codec: codec.into(), browser, size: None, frame: None, units: None })
}

/// The first `len` bytes of an entry.
fn fixed(body: &[u8], len: usize) -> Result<Vec<u8>, Refused> {
    body.get(..len).map(<[u8]>::to_vec).ok_or_else(|| Refused("a sample description is too short".into()))
}

/// What is never understood without a key.
fn refuse_sealed(kind: FourCc) -> Result<(), Refused> {
    match &kind {
        b"encv" | b"enca" | b"enct" | b"drmi" | b"drms" | b"p608" => refused("it is protected (DRM)"),
        b"jpeg" | b"mjpa" | b"mjpb" | b"png " | b"tiff" | b"mjp2" => {
            refused("each of its pictures is a file of its own (Motion JPEG, PNG), which may hold anything")
        }
        _ => Ok(()),
    }
}

fn video(kind: FourCc, body: &[u8], out: &mut Vec<u8>, gone: &mut Gone) -> Result<Entry, Refused> {
    refuse_sealed(kind)?;
    let mut head = fixed(body, 78)?;
    let name = head.get(43..74).unwrap_or_default();
    gone.note_filling(name, "software");
    gone.note_filling(head.get(12..16).unwrap_or_default(), "software");
    // Six reserved bytes; version, vendor and qualities; data size; the name of the compressor.
    [(0, 6), (8, 16), (36, 4), (42, 32)].into_iter().for_each(|(at, len)| blank(&mut head, at, len));
    let size = (number(&head, 24, 2), number(&head, 26, 2));
    let (depth, table) = (number(&head, 74, 2), number(&head, 76, 2));
    out.extend_from_slice(&head);
    let mut rest = body.get(78..).unwrap_or_default();
    // A table of colours stands between.
    if table == Some(0) && depth.is_some_and(|depth| matches!(depth & 0x1F, 1..=8)) {
        let colours = number(rest, 6, 2).unwrap_or_default() as usize + 1;
        let (colours, after) = rest
            .split_at_checked(8 + 8 * colours)
            .ok_or_else(|| Refused("a sample description is too short".into()))?;
        out.extend_from_slice(colours);
        rest = after;
    }
    let mut entry = known(kind)?;
    for child in children(rest) {
        let child = child?;
        match &child.kind {
            b"avcC" | b"hvcC" | b"av1C" => {
                entry.units = units_of(child.kind, child.body);
                let sets = parameter_sets(child.kind, child.body);
                let sets = sets.ok_or_else(|| Refused("a decoder's configuration makes no sense".into()))?;
                if sets != child.body {
                    gone.note("software");
                }
                put_bytes(out, child.kind, &sets);
            }
            // Its first four bytes say who made it.
            b"d263" => {
                let mut config = fixed(child.body, 7)?;
                blank(&mut config, 0, 4);
                put_bytes(out, child.kind, &config);
            }
            b"colr" => match child.body.first_chunk() {
                Some(b"nclx" | b"nclc") => {
                    let len = if child.body.starts_with(b"nclx") { 11 } else { 10 };
                    put_bytes(out, child.kind, child.body.get(..len).unwrap_or(child.body));
                }
                _ => gone.note("colour profile"),
            },
            b"esds" => put_esds(child.body, out, &mut entry, gone)?,
            kind => match length_of(*kind) {
                Some(len) => put_exact(child.kind, child.body, len, out, gone),
                None => gone.note_in(child.body, "notes of the recorder"),
            },
        }
    }
    let mut all = children(rest).flatten();
    if all.any(|child| matches!(&child.kind, b"dvcC" | b"dvvC" | b"dvwC")) {
        entry.units = entry.units.map(Units::with_dolby);
    }
    if entry.units.is_none() && matches!(entry.codec.as_str(), "H.264" | "HEVC (H.265)" | "AV1") {
        return refused("a decoder's configuration is missing");
    }
    if matches!(&kind, b"apch" | b"apcn" | b"apcs" | b"apco" | b"ap4h" | b"ap4x") {
        entry.units = Some(Units::ProRes);
    }
    if &kind == b"mp4v" {
        entry.units = Some(Units::Mpeg4);
    }
    entry.size = size.0.zip(size.1).map(|(w, h)| (w as u32, h as u32)).filter(|(w, h)| *w > 0 && *h > 0);
    Ok(entry)
}

/// Bytes of the boxes that stay in sample entries and have one length (ISO/IEC 14496-12 8.5.2, 12.1; QuickTime File
/// Format; VP Codec ISO Media File Format Binding; Dolby Vision Streams Within ISOBMFF; ETSI TS 102 366 F).
fn length_of(kind: FourCc) -> Option<usize> {
    Some(match &kind {
        b"fiel" | b"enda" => 2,
        b"dac3" => 3,
        b"clli" | b"gama" | b"frma" | b"mp4a" => 4,
        b"st3d" => 5,
        b"pcmC" => 6,
        b"pasp" | b"amve" | b"CoLL" | b"srat" => 8,
        b"btrt" | b"vpcC" => 12,
        b"mdcv" | b"dvcC" | b"dvvC" | b"dvwC" => 24,
        b"SmDm" => 28,
        b"clap" => 32,
        _ => return None,
    })
}

/// Appends a box without what stands behind its last field.
fn put_exact(kind: FourCc, body: &[u8], len: usize, out: &mut Vec<u8>, gone: &mut Gone) {
    let (exact, rest) = body.split_at_checked(len).unwrap_or((body, &[]));
    gone.note_filling(rest, "padding");
    put_bytes(out, kind, exact);
}

/// The fonts of a track of text: their numbers, and one name for all (3GPP TS 26.245 5.16).
fn fonts(ftab: &[u8]) -> Option<Vec<u8>> {
    const NAME: &[u8] = b"Sans-Serif";
    let count = number(ftab, 0, 2)?;
    let mut out = ftab.get(..2)?.to_vec();
    let mut at = 2;
    for _ in 0..count {
        out.extend(ftab.get(at..at + 2)?);
        out.push(NAME.len() as u8);
        out.extend(NAME);
        at += 3 + usize::from(*ftab.get(at + 2)?);
    }
    Some(out)
}

/// A decoder's configuration at most.
const MAX_CONFIG: usize = 65_536;

/// What samples consist of, by the configuration of their decoder.
pub fn units_of(kind: FourCc, config: &[u8]) -> Option<Units> {
    match &kind {
        b"avcC" => config.get(4).map(|byte| Units::Avc((byte & 3) + 1)),
        b"hvcC" => config.get(21).map(|byte| Units::Hevc((byte & 3) + 1)),
        b"av1C" => Some(Units::Av1),
        _ => None,
    }
}

/// A decoder's configuration with nothing but its parameter sets (ISO/IEC 14496-15 5.3.3, 8.3.3; AV1 in ISOBMFF
/// 2.3.3): encoders put their words between those, and behind them.
pub fn parameter_sets(kind: FourCc, config: &[u8]) -> Option<Vec<u8>> {
    match &kind {
        b"avcC" => avc_sets(config),
        b"hvcC" => hevc_sets(config),
        _ => av1_headers(config),
    }
}

/// Units behind 16 bits of length: those that `keep` by their first byte, with their lengths, and where they end.
fn units(
    config: &[u8],
    mut at: usize,
    count: u64,
    keep: impl Fn(u8) -> bool,
) -> Option<(Vec<u8>, u64, usize)> {
    let (mut kept, mut number_kept) = (Vec::new(), 0);
    for _ in 0..count {
        let end = at + 2 + number(config, at, 2)? as usize;
        let unit = config.get(at..end)?;
        if unit.get(2).is_some_and(|first| keep(*first)) {
            kept.extend_from_slice(unit);
            number_kept += 1;
        }
        at = end;
    }
    Some((kept, number_kept, at))
}

fn avc_sets(config: &[u8]) -> Option<Vec<u8>> {
    let of = |kind: u8| move |first: u8| first & 0x1F == kind;
    let (spread, count, at) = units(config, 6, u64::from(config.get(5)? & 0x1F), of(7))?;
    let (pictures, picture_count, at) = units(config, at + 1, u64::from(*config.get(at)?), of(8))?;
    let mut out = config.get(..5)?.to_vec();
    out.push(0xE0 | count as u8);
    out.extend(spread);
    out.push(picture_count as u8);
    out.extend(pictures);
    // Bit depths, and extensions of the sets.
    if matches!(config.get(1)?, 100 | 110 | 122 | 144) && config.len() >= at + 4 {
        let (extensions, count, _) = units(config, at + 4, u64::from(*config.get(at + 3)?), of(13))?;
        out.extend_from_slice(config.get(at..at + 3)?);
        out.push(count as u8);
        out.extend(extensions);
    }
    Some(out)
}

fn hevc_sets(config: &[u8]) -> Option<Vec<u8>> {
    let mut out = config.get(..22)?.to_vec();
    let (mut arrays, mut count, mut at) = (Vec::new(), 0_u8, 23);
    for _ in 0..*config.get(22)? {
        let (kind, number_there) = (*config.get(at)?, number(config, at + 1, 2)?);
        let (units, number_kept, end) =
            units(config, at + 3, number_there, |first| first >> 1 & 0x3F == kind & 0x3F)?;
        // Sets for the whole stream, for sequences and for pictures.
        if matches!(kind & 0x3F, 32..=34) {
            arrays.push(kind);
            arrays.extend((number_kept as u16).to_be_bytes());
            arrays.extend(units);
            count += 1;
        }
        at = end;
    }
    out.push(count);
    out.extend(arrays);
    Some(out)
}

/// Of AV1 only the header of the sequence stays, without its optional length behind the others.
fn av1_headers(config: &[u8]) -> Option<Vec<u8>> {
    let mut out = config.get(..4)?.to_vec();
    let mut at = 4;
    while let Some(first) = config.get(at) {
        let has_more = usize::from(first >> 2 & 1);
        if first & 2 == 0 {
            break;
        }
        let (mut len, mut from) = (0_usize, at + 1 + has_more);
        for shift in (0..28).step_by(7) {
            let byte = *config.get(from)?;
            from += 1;
            len |= usize::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let end = from.checked_add(len)?;
        let unit = config.get(at..end)?;
        if first >> 3 & 0xF == 1 {
            out.extend_from_slice(unit);
        }
        at = end;
    }
    Some(out)
}

fn audio(kind: FourCc, body: &[u8], out: &mut Vec<u8>, gone: &mut Gone) -> Result<Entry, Refused> {
    refuse_sealed(kind)?;
    let version = number(body, 8, 2).unwrap_or_default();
    let fixed_len = match version {
        1 => 44,
        2 => 64,
        _ => 28,
    };
    // MP4 has a version 1 too, which is as short as 0: there boxes follow at once.
    let is_short = version == 1 && number(body, 28, 4).is_some_and(|n| n >= 8 && looks_like_box(body, 28));
    let mut head = fixed(body, if is_short { 28 } else { fixed_len })?;
    gone.note_filling(head.get(12..16).unwrap_or_default(), "software");
    [(0, 6), (10, 6)].into_iter().for_each(|(at, len)| blank(&mut head, at, len));
    let mut entry = known(kind)?;
    let (channels, bits) =
        (number(&head, 16, 2).unwrap_or_default(), number(&head, 18, 2).unwrap_or_default());
    entry.frame = match version {
        1 if !is_short => number(&head, 36, 4).zip(number(&head, 28, 4)),
        2 => number(&head, 56, 4).zip(number(&head, 60, 4)),
        _ if entry.codec == "PCM" => Some((channels * bits.div_ceil(8), 1)),
        _ => None,
    };
    entry.frame = entry.frame.filter(|(bytes, frames)| *bytes > 0 && *frames > 0);
    out.extend_from_slice(&head);
    let rest = body.get(head.len()..).unwrap_or_default();
    audio_children(rest, out, &mut entry, gone, 0)?;
    if entry.codec == "AAC" {
        entry.units = Some(Units::Aac);
    }
    Ok(entry)
}

fn looks_like_box(body: &[u8], at: usize) -> bool {
    body.get(at + 4..at + 8).is_some_and(|kind| kind.iter().all(u8::is_ascii_alphanumeric))
}

fn audio_children(
    rest: &[u8],
    out: &mut Vec<u8>,
    entry: &mut Entry,
    gone: &mut Gone,
    depth: usize,
) -> Result<(), Refused> {
    for child in children(rest) {
        let child = child?;
        match &child.kind {
            b"esds" => put_esds(child.body, out, entry, gone)?,
            b"wave" if depth == 0 => {
                put(out, child.kind, |out| {
                    audio_children(child.body, out, entry, gone, 1)?;
                    // The list ends so.
                    put_bytes(out, [0; 4], &[]);
                    Ok(())
                })?;
            }
            // Its first block alone: the others are comments and pictures (RFC 9639 8).
            b"dfLa" => {
                let mut info =
                    fixed(child.body, 42).map_err(|_| Refused("a FLAC description is short".into()))?;
                if let Some(first) = info.get_mut(4) {
                    *first |= 0x80;
                }
                gone.note_filling(child.body.get(42..).unwrap_or_default(), "comment");
                put_bytes(out, child.kind, &info);
            }
            b"damr" => {
                let mut config = fixed(child.body, 9)?;
                blank(&mut config, 0, 4);
                put_bytes(out, child.kind, &config);
            }
            // Channels, and what counts by them: no longer than they can be.
            b"chan" | b"dec3" | b"dOps" | b"alac" | b"chnl" => match counted_len(child.kind, child.body) {
                Some(len) => put_exact(child.kind, child.body, len, out, gone),
                None => return refused("a description of its sound makes no sense"),
            },
            kind => match length_of(*kind) {
                Some(len) => put_exact(child.kind, child.body, len, out, gone),
                None => gone.note_in(child.body, "notes of the recorder"),
            },
        }
    }
    Ok(())
}

/// Bytes of the boxes whose length depends on what they count (QuickTime File Format, Core Audio; ETSI TS 102 366 F.6;
/// Opus in ISOBMFF 4.3.2; ALAC in MP4; ISO/IEC 14496-12 12.2.4).
fn counted_len(kind: FourCc, body: &[u8]) -> Option<usize> {
    let byte = |at: usize| body.get(at).map(|byte| usize::from(*byte));
    let len = match &kind {
        b"chan" => 16 + 20 * number(body, 12, 4)? as usize,
        b"dec3" => {
            // Independent streams of three bytes, or four when others hang on them; then one byte for more objects.
            let mut at = 2;
            for _ in 0..=byte(1)? & 7 {
                at += if byte(at + 2)? >> 1 & 0xF == 0 { 3 } else { 4 };
            }
            body.len().min(at + 2)
        }
        b"dOps" if byte(10)? == 0 => 11,
        b"dOps" => 13 + byte(1)?,
        // A head, the description itself, and where QuickTime adds it the layout of its channels.
        b"alac" => body.len().min(28 + 24),
        // What can be said of channels without counting them.
        _ => body.len().min(64),
    };
    (len <= body.len()).then_some(len)
}

/// A decoder's own configuration, by what it can need.
const fn most_config(object_type: u8) -> usize {
    match object_type {
        0x40 | 0x66..=0x68 => 64,
        0x69 | 0x6B | 0xA5 | 0xA6 => 0,
        _ => MAX_CONFIG,
    }
}

fn text(kind: FourCc, body: &[u8], out: &mut Vec<u8>, gone: &mut Gone) -> Result<Entry, Refused> {
    refuse_sealed(kind)?;
    let fixed_len = match &kind {
        b"tx3g" => 38,
        b"wvtt" | b"c608" | b"c708" => 8,
        // Strings between: namespaces and places of schemes.
        b"stpp" => return refused("its subtitles are TTML, which kith cannot clean"),
        _ => {
            return refused(format!("it has subtitles of a kind that kith cannot clean ({})", letters(kind)));
        }
    };
    let mut head = fixed(body, fixed_len)?;
    blank(&mut head, 0, 6);
    out.extend_from_slice(&head);
    for child in children(body.get(fixed_len..).unwrap_or_default()) {
        let child = child?;
        match &child.kind {
            b"ftab" => {
                let fonts = fonts(child.body)
                    .ok_or_else(|| Refused("a list of fonts counts more than it holds".into()))?;
                put_bytes(out, child.kind, &fonts);
            }
            // What stands in front of the first caption: nothing that players need.
            b"vttC" => {
                gone.note_filling(child.body.get(6..).unwrap_or_default(), "notes in captions");
                put_bytes(out, child.kind, b"WEBVTT");
            }
            b"btrt" => put_exact(child.kind, child.body, 12, out, gone),
            _ => gone.note_in(child.body, "notes of the recorder"),
        }
    }
    let units = match &kind {
        b"wvtt" => Some(Units::WebVtt),
        b"tx3g" => Some(Units::TimedText),
        _ => None,
    };
    Ok(Entry { units, ..known(kind)? })
}

fn letters(kind: FourCc) -> String {
    kind.iter().map(|b| if b.is_ascii_graphic() { char::from(*b) } else { '.' }).collect()
}

/// One descriptor: its tag, its contents, and what follows (ISO/IEC 14496-1 8.3.3).
fn descriptor(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, mut rest) = bytes.split_first()?;
    let mut len = 0;
    for _ in 0..4 {
        let (byte, after) = rest.split_first()?;
        rest = after;
        len = len << 7 | usize::from(byte & 0x7F);
        if byte & 0x80 == 0 {
            break;
        }
    }
    let (body, after) = rest.split_at_checked(len)?;
    Some((*tag, body, after))
}

fn put_descriptor(tag: u8, body: &[u8]) -> Vec<u8> {
    let len = body.len() as u32;
    let byte = |shift: u32, more: u32| (len >> shift & 0x7F | more) as u8;
    [&[tag, byte(21, 0x80), byte(14, 0x80), byte(7, 0x80), byte(0, 0)], body].concat()
}

/// The elementary stream's description: the decoder's configuration alone.
fn put_esds(body: &[u8], out: &mut Vec<u8>, entry: &mut Entry, gone: &mut Gone) -> Result<(), Refused> {
    let bad = || Refused("a description of an elementary stream makes no sense".into());
    let (tag, stream, _) = descriptor(body.get(4..).unwrap_or_default()).ok_or_else(bad)?;
    let flags = *stream.get(2).ok_or_else(bad)?;
    if tag != 3 || flags & 0x40 != 0 {
        return refused("its samples lie somewhere else (a stream by address)");
    }
    let skipped = 3 + if flags & 0x80 != 0 { 2 } else { 0 } + if flags & 0x20 != 0 { 2 } else { 0 };
    let mut inner = stream.get(..2).ok_or_else(bad)?.to_vec();
    inner.push(flags & 0x1F);
    let mut rest = stream.get(skipped..).ok_or_else(bad)?;
    while let Some((tag, body, after)) = descriptor(rest) {
        rest = after;
        match tag {
            4 => inner.extend(put_descriptor(4, &decoder(body, entry, gone).ok_or_else(bad)??)),
            6 if body.len() <= 64 => inner.extend(put_descriptor(6, body)),
            _ => gone.note_in(body, "notes of the recorder"),
        }
    }
    let whole = [&[0; 4], put_descriptor(3, &inner).as_slice()].concat();
    put_bytes(out, *b"esds", &whole);
    Ok(())
}

fn decoder(body: &[u8], entry: &mut Entry, gone: &mut Gone) -> Option<Result<Vec<u8>, Refused>> {
    let fixed = body.get(..13)?;
    let object_type = *fixed.first()?;
    let Some((codec, browser)) = codec::of_object_type(object_type) else {
        return Some(refused(format!(
            "kith does not know what is in it (object type {object_type:#04x}) and cannot clean it"
        )));
    };
    (entry.codec, entry.browser) = (codec.into(), browser);
    let has_user_data = matches!(object_type, 0x20 | 0x60..=0x65 | 0x6A);
    if has_user_data {
        entry.units = Some(Units::Mpeg4);
    }
    let mut clean = fixed.to_vec();
    let mut rest = body.get(13..)?;
    while let Some((tag, info, after)) = descriptor(rest) {
        rest = after;
        if tag == 5 && info.len() <= MAX_CONFIG {
            let (info, behind) = info.split_at_checked(most_config(object_type)).unwrap_or((info, &[]));
            gone.note_filling(behind, "notes of the recorder");
            let mut info = info.to_vec();
            for (from, to) in if has_user_data { user_data(&info) } else { Vec::new() } {
                gone.note_filling(info.get(from..to).unwrap_or_default(), "software");
                info.get_mut(from..to).unwrap_or_default().fill(0xFF);
            }
            clean.extend(put_descriptor(5, &info));
        }
    }
    Some(Ok(clean))
}
