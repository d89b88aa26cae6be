//! MPEG transport streams: what is in them, from the first tables (ISO/IEC 13818-1 2.4.4), and how long they are, from the
//! first clock and the last (2.4.3.5).

use super::{Browser, Kind, Probe, Refused, Source, Track, codec};
use std::collections::BTreeMap;

/// Bytes of a packet.
const PACKET: usize = 188;
/// So much of the beginning, and of the end, is looked at.
const LOOKED_AT: u64 = 1 << 20;
/// Clocks count so far, 90 a millisecond, and begin again.
const CLOCK_BITS: u32 = 33;
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
    let duration_ms = duration_ms(source, &bytes)?;
    Ok(Probe { mime, duration_ms, tracks, browser: Browser::No, chapters, hidden_ms: 0 })
}

/// From the first clock to the last one of the same packets; 0: there are none.
fn duration_ms(source: &dyn Source, begin: &[u8]) -> Result<u64, Refused> {
    let Some((pid, first)) = begin.chunks_exact(PACKET).find_map(clock) else { return Ok(0) };
    let size = source.size();
    let packets_before = size.saturating_sub(LOOKED_AT) / PACKET as u64;
    let from = packets_before * PACKET as u64;
    let end = source.piece(from, (size - from) as usize)?;
    let last = end.chunks_exact(PACKET).rev().filter_map(clock).find(|(other, _)| *other == pid);
    let ticks = last.map_or(0, |(_, last)| last.wrapping_sub(first) & ((1 << CLOCK_BITS) - 1));
    Ok(ticks / 90)
}

/// The number of a packet that carries a clock, and what that says.
fn clock(packet: &[u8]) -> Option<(u16, u64)> {
    let [0x47, high, low, control, len, flags, b4, b3, b2, b1, b0, ..] = packet else { return None };
    let has = control & 0x20 != 0 && *len >= 7 && flags & 0x10 != 0;
    let ticks =
        [b4, b3, b2, b1].iter().fold(0, |n, byte| n << 8 | u64::from(**byte)) << 1 | u64::from(b0 >> 7);
    has.then_some((u16::from(high & 0x1F) << 8 | u16::from(*low), ticks))
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

#[cfg(test)]
mod tests {
    use super::super::tests::Bytes;
    use super::*;

    fn packet(pid: u8, ticks: Option<u64>) -> Vec<u8> {
        let mut packet = vec![0x47, 0, pid, 0x10];
        if let Some(ticks) = ticks {
            let clock = [(ticks >> 25) as u8, (ticks >> 17) as u8, (ticks >> 9) as u8, (ticks >> 1) as u8];
            packet[3] = 0x30;
            packet.extend([&[7, 0x10][..], &clock, &[(ticks << 7) as u8, 0]].concat());
        }
        packet.resize(PACKET, 0xFF);
        packet
    }

    #[test]
    fn it_is_as_long_as_its_clock_says() {
        let of = |packets: &[Vec<u8>]| probe(&Bytes(packets.concat())).unwrap().duration_ms;
        let filling: Vec<Vec<u8>> = (0..12_000).map(|_| packet(9, None)).collect();
        let begin = [packet(9, None), packet(7, Some(900))];
        let end = [packet(7, Some(900 + 90 * 61_000)), packet(8, Some(5)), packet(9, None)];
        assert_eq!(of(&[&begin[..], &filling, &end].concat()), 61_000);
        // The clock begins again at its end.
        let around = [packet(7, Some((1 << CLOCK_BITS) - 90)), packet(7, Some(90 * 999))];
        assert_eq!(of(&around), 1000);
        assert_eq!(of(&filling), 0);
        assert_eq!(of(&begin), 0);
    }
}
