//! MPEG transport streams: what is in them, from the first tables (ISO/IEC 13818-1 2.4.4).

use super::{Browser, Kind, Probe, Refused, Source, Track, codec};
use std::collections::BTreeMap;

/// Bytes of a packet.
const PACKET: usize = 188;
/// So much of the beginning is looked at.
const LOOKED_AT: u64 = 1 << 20;
/// Tracks at most.
const MAX_TRACKS: usize = 64;

/// What a transport stream has; the first programme counts.
pub fn probe(source: &dyn Source) -> Result<Probe, Refused> {
    let bytes = source.piece(0, source.size().min(LOOKED_AT) as usize)?;
    // Sections of a table, by the number of the packets that carry it.
    let mut sections: BTreeMap<u16, Vec<u8>> = BTreeMap::new();
    let mut programme = None;
    let mut tracks = Vec::new();
    for packet in bytes.chunks_exact(PACKET) {
        let Some((pid, starts, payload)) = payload(packet) else { continue };
        let wanted = pid == 0 || programme == Some(pid);
        if !wanted {
            continue;
        }
        let section = sections.entry(pid).or_default();
        if starts {
            section.clear();
            let skipped = usize::from(*payload.first().unwrap_or(&0)) + 1;
            section.extend_from_slice(payload.get(skipped..).unwrap_or_default());
        } else if !section.is_empty() && section.len() < 4096 {
            section.extend_from_slice(payload);
        }
        let Some(whole) = whole(section) else { continue };
        if pid == 0 {
            programme = programme.or_else(|| first_programme(whole));
        } else if tracks.is_empty() {
            tracks = streams(whole);
        }
        if !tracks.is_empty() {
            break;
        }
    }
    let (mime, chapters) = ("video/mp2t".to_owned(), Vec::new());
    Ok(Probe { mime, duration_ms: 0, tracks, browser: Browser::No, chapters, hidden_ms: 0 })
}

/// Number, whether a table begins in it, and contents of a packet.
fn payload(packet: &[u8]) -> Option<(u16, bool, &[u8])> {
    let [0x47, high, low, control, rest @ ..] = packet else { return None };
    let pid = u16::from(high & 0x1F) << 8 | u16::from(*low);
    let rest = match control >> 4 & 3 {
        1 => rest,
        3 => rest.get(usize::from(*rest.first()?) + 1..)?,
        _ => return None,
    };
    Some((pid, high & 0x40 != 0, rest))
}

/// A section without what follows it, once all of it is there.
fn whole(section: &[u8]) -> Option<&[u8]> {
    let len = usize::from(u16::from_be_bytes([*section.get(1)?, *section.get(2)?]) & 0x0FFF);
    section.get(..3 + len)
}

fn first_programme(pat: &[u8]) -> Option<u16> {
    let list = pat.get(8..pat.len().checked_sub(4)?)?;
    let pids = list.as_chunks::<4>().0.iter();
    pids.map(|[n0, n1, p0, p1]| (u16::from_be_bytes([*n0, *n1]), u16::from_be_bytes([*p0, *p1]) & 0x1FFF))
        .find(|(number, _)| *number != 0)
        .map(|(_, pid)| pid)
}

fn streams(pmt: &[u8]) -> Vec<Track> {
    let mut tracks = Vec::new();
    let length = |bytes: &[u8], at: usize| {
        Some(usize::from(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]) & 0x0FFF))
    };
    let mut rest =
        length(pmt, 10).and_then(|info| pmt.get(12 + info..pmt.len().saturating_sub(4))).unwrap_or_default();
    while let Some(info) = length(rest, 3).filter(|_| tracks.len() < MAX_TRACKS) {
        if let Some((kind, codec)) = rest.first().and_then(|number| codec::of_stream_type(*number)) {
            let (codec, browser) = (codec.to_owned(), Browser::No);
            tracks.push(Track { kind, codec, lang: None, width: None, height: None, browser });
        }
        rest = rest.get(5 + info..).unwrap_or_default();
    }
    tracks.sort_by_key(|track| track.kind != Kind::Video);
    tracks
}
