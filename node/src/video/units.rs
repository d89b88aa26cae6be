//! Notes that encoders and cameras put between the pictures and sounds themselves: messages of H.264 and H.265
//! (SEI), units of AV1, the name of the program in ProRes and AAC. They are overwritten at their length, so nothing
//! moves.
//!
//! Sources: ITU-T H.264 7.3.1, 7.3.2.3, D.1; ITU-T H.265 7.3.1.2, 7.3.5; ISO/IEC 14496-15 5.3.2; AV1 bitstream
//! specification 5.3, 5.8; SMPTE RDD 36 5.1; ISO/IEC 14496-3 4.4.2.7.

use super::plan::MAX_PATCHES;
use super::{Fill, Refused, Source, refused};

/// What the samples of a track consist of, where notes can stand between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Units {
    /// Units of H.264, each behind its length of so many bytes.
    Avc(u8),
    /// Units of H.265.
    Hevc(u8),
    /// Units of AV1.
    Av1,
    /// A picture of MPEG-4 Visual, in which user data may stand.
    Mpeg4,
    /// A frame of ProRes.
    ProRes,
    /// A frame of AAC; the first one of a track may begin with a name.
    Aac,
}

/// The largest unit that is looked into; a larger one is overwritten.
const MAX_UNIT: u64 = 1 << 20;
/// A picture that is read as a whole, at most.
const MAX_PICTURE: u64 = 16 << 20;

/// Looks at one sample.
pub fn sample(
    source: &dyn Source,
    at: u64,
    len: u64,
    of: Units,
    patches: &mut Vec<(u64, Fill)>,
) -> Result<(), Refused> {
    let end = at.saturating_add(len);
    match of {
        Units::Avc(width) | Units::Hevc(width) => nal_units(source, at, end, width, of, patches)?,
        Units::Av1 => obus(source, at, end, patches)?,
        Units::Mpeg4 => {
            if len > MAX_PICTURE {
                return refused("a picture in it is far too long");
            }
            for (from, to) in user_data(&source.piece(at, len as usize)?) {
                over(source, at + from as u64, Fill::Same(0xFF, (to - from) as u64), patches)?;
            }
        }
        Units::ProRes => {
            // Length, `icpf`, length of the header, version: then who made it.
            if source.piece(at, len.min(16) as usize)?.get(4..8) == Some(b"icpf") && len >= 16 {
                over(source, at + 12, Fill::Bytes(Box::new(*b"apl0")), patches)?;
            }
        }
        Units::Aac => {
            if let Some((from, to)) = fill_element(&source.piece(at, len.min(512) as usize)?) {
                over(source, at + from as u64, Fill::Same(0, (to - from) as u64), patches)?;
            }
        }
    }
    if patches.len() > MAX_PATCHES {
        return refused("it has far too much in it that would go");
    }
    Ok(())
}

/// Puts something over a place, unless it stands there already: a clean file stays as it is.
fn over(source: &dyn Source, at: u64, fill: Fill, patches: &mut Vec<(u64, Fill)>) -> Result<(), Refused> {
    let len = fill.size();
    let stands = |old: &[u8]| match &fill {
        Fill::Same(byte, _) => old.iter().all(|here| here == byte),
        Fill::Bytes(new) => old == &**new,
    };
    if len > 0 && (len > MAX_UNIT || !stands(&source.piece(at, len as usize)?)) {
        patches.push((at, fill));
    }
    Ok(())
}

/// What stands behind start codes for user data (`00 00 01 B2`), up to the next start code (ISO/IEC 14496-2 6.2.2.1).
pub fn user_data(bytes: &[u8]) -> Vec<(usize, usize)> {
    let code = |at: usize| bytes.get(at..at + 3) == Some(&[0, 0, 1]);
    let mut found = Vec::new();
    let mut at = 0;
    while at + 4 <= bytes.len() {
        if !code(at) || bytes.get(at + 3) != Some(&0xB2) {
            at += 1;
            continue;
        }
        let from = at + 4;
        let to = (from..bytes.len()).find(|at| code(*at)).unwrap_or(bytes.len());
        if to > from {
            found.push((from, to));
        }
        at = to.max(from);
    }
    found
}

fn nal_units(
    source: &dyn Source,
    mut at: u64,
    end: u64,
    width: u8,
    of: Units,
    patches: &mut Vec<(u64, Fill)>,
) -> Result<(), Refused> {
    let width = u64::from(width);
    while at + width < end {
        // The length, and the header of the unit.
        let mut head = [0; 6];
        let got = source.read_at(at, &mut head).map_err(|e| Refused(format!("it cannot be read: {e}")))?;
        let (length, unit) = head.split_at(width as usize);
        let length = length.iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
        let Some(first) = unit.first().filter(|_| got > width as usize) else { break };
        let begin = at + width;
        at = begin.saturating_add(length);
        // A stream that does not keep to it is the decoder's business.
        if at > end {
            break;
        }
        let (is_sei, header) = match of {
            Units::Avc(_) => (first & 0x1F == 6, 1),
            _ => (matches!(first >> 1 & 0x3F, 39 | 40), 2),
        };
        if is_sei && length > header {
            unit_of_notes(source, begin + header, length - header, patches)?;
        }
    }
    Ok(())
}

fn unit_of_notes(
    source: &dyn Source,
    at: u64,
    len: u64,
    patches: &mut Vec<(u64, Fill)>,
) -> Result<(), Refused> {
    if len > MAX_UNIT {
        return over(source, at, Fill::Same(0xFF, len), patches);
    }
    let unit = source.piece(at, len as usize)?;
    let over = |(from, to)| over(source, at + from as u64, Fill::Same(0xFF, (to - from) as u64), patches);
    messages(&unit).into_iter().try_for_each(over)
}

/// Registered data that say how to show the pictures, or captions (ITU-T T.35: the United States, and ATSC, SMPTE, DTG
/// or Dolby); others hold what their makers like.
fn is_for_display(data: &[u8]) -> bool {
    [&[0xB5, 0, 0x31][..], &[0xB5, 0, 0x3C], &[0xB5, 0, 0x2F], &[0xB5, 0, 0x3B]]
        .iter()
        .any(|known| data.starts_with(known))
}

/// The bodies of messages that may hold anything, as they stand in the unit.
fn messages(unit: &[u8]) -> Vec<(usize, usize)> {
    // Without the bytes that keep start codes out, and where each byte stands.
    let mut plain = Vec::with_capacity(unit.len());
    let mut zeros = 0;
    for (at, byte) in unit.iter().enumerate() {
        if zeros >= 2 && *byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if *byte == 0 { zeros + 1 } else { 0 };
        plain.push((at, *byte));
    }
    let mut found = Vec::new();
    let mut at = 0;
    // A number is as many bytes of 255 as it takes, and the rest.
    let number = |at: &mut usize| {
        let mut sum = 0_usize;
        loop {
            let (_, byte) = plain.get(*at)?;
            *at += 1;
            sum = sum.checked_add(usize::from(*byte))?;
            if *byte != 255 {
                return Some(sum);
            }
        }
    };
    // Two bytes at least, and the bit that ends the unit.
    while at + 2 < plain.len() {
        let begin = at;
        let message = number(&mut at).zip(number(&mut at));
        let message = message.and_then(|(kind, len)| Some((kind, len, at.checked_add(len)?)));
        let Some((kind, len, end)) = message.filter(|(.., end)| *end <= plain.len()) else {
            // What makes no sense goes as it is, but for the end of the unit.
            let from = plain.get(begin).map_or(unit.len(), |(place, _)| *place);
            found.push((from, unit.len().saturating_sub(1).max(from)));
            break;
        };
        let body: Vec<u8> = plain.iter().skip(at).take(3).map(|(_, byte)| *byte).collect();
        // Unregistered data, and registered ones of others.
        if len > 0 && (kind == 5 || (kind == 4 && !is_for_display(&body))) {
            let from = plain.get(at).map_or(unit.len(), |(place, _)| *place);
            let to = plain.get(end).map_or(unit.len(), |(place, _)| *place);
            found.push((from, to));
        }
        at = end;
    }
    found
}

/// Units of AV1: metadata that do not say how to show the pictures become padding, and padding becomes zeros.
fn obus(source: &dyn Source, mut at: u64, end: u64, patches: &mut Vec<(u64, Fill)>) -> Result<(), Refused> {
    while at < end {
        let start = source.piece(at, (end - at).min(16) as usize)?;
        let Some(first) = start.first() else { break };
        let header = 1 + usize::from(first >> 2 & 1);
        // Without a size a unit reaches to the end of its sample.
        let (size, size_len) = if first & 2 != 0 {
            let Some(size) = leb128(start.get(header..).unwrap_or_default()) else { break };
            size
        } else {
            ((end - at).saturating_sub(header as u64), 0)
        };
        let body = at + (header + size_len) as u64;
        let Some(next) = body.checked_add(size).filter(|next| *next <= end) else { break };
        let metadata = leb128(start.get(header + size_len..).unwrap_or_default());
        let goes = match first >> 3 & 0xF {
            5 => match metadata {
                Some((1..=3, _)) => false,
                Some((4, len)) => !is_for_display(start.get(header + size_len + len..).unwrap_or_default()),
                _ => true,
            },
            9..=15 => true,
            _ => false,
        };
        if goes {
            over(source, at, Fill::Bytes(Box::new([first & 0x87 | 15 << 3])), patches)?;
            // Padding ends with a bit of its own (AV1 5.7, 5.3.4).
            if let Some(zeros) = size.checked_sub(1) {
                over(source, body, Fill::Same(0, zeros), patches)?;
                over(source, body + zeros, Fill::Bytes(Box::new([0x80])), patches)?;
            }
        }
        at = next;
    }
    Ok(())
}

/// A number in groups of seven bits, and its bytes (AV1 4.10.5).
fn leb128(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut number = 0;
    for (i, byte) in bytes.iter().take(8).enumerate() {
        number |= u64::from(byte & 0x7F) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((number, i + 1));
        }
    }
    None
}

/// What fills the first element of a frame, if that is all it does: encoders write their name into it. Three bits
/// say what it is, four its length, or 15 and eight more bits.
fn fill_element(frame: &[u8]) -> Option<(usize, usize)> {
    let bits = frame.iter().take(3).fold(0_u32, |n, byte| n << 8 | u32::from(*byte));
    if frame.len() < 4 || bits >> 21 != 6 {
        return None;
    }
    let short = (bits >> 17 & 0xF) as usize;
    let (len, from) = if short == 15 { (14 + (bits >> 9 & 0xFF) as usize, 15) } else { (short, 7) };
    // Four bits say what it holds; 0 and 1 are fillings.
    let kind = frame.iter().skip(from / 8).take(2).fold(0_u32, |n, byte| n << 8 | u32::from(*byte));
    if kind >> (12 - from % 8) & 0xF > 1 {
        return None;
    }
    let (begin, end) = ((from + 4).div_ceil(8), (from + 8 * len) / 8);
    (begin < end && end <= frame.len()).then_some((begin, end))
}

#[cfg(test)]
mod tests {
    use super::super::tests::Bytes;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_messages_of_their_own_go() {
        // Type 1 with three bytes, type 5 with five (one start code kept out in it), the end.
        let unit = [1, 3, 9, 9, 9, 5, 5, 0, 0, 3, 1, 7, 8, 0x80];
        assert_eq!(messages(&unit), [(7, 13)]);
        let sample_bytes = [&[0, 0, 0, 15, 6][..], &unit, &[0, 0, 0, 2, 0x65, 5]].concat();
        let mut patches = Vec::new();
        let source = Bytes(sample_bytes.clone());
        sample(&source, 0, sample_bytes.len() as u64, Units::Avc(4), &mut patches).unwrap();
        assert_eq!(patches, [(12, Fill::Same(0xFF, 6))]);
        let mut patches = Vec::new();
        sample(&source, 0, sample_bytes.len() as u64, Units::Hevc(4), &mut patches).unwrap();
        assert_eq!(patches, []);
    }

    #[test]
    fn registered_data_stay_where_they_say_how_to_show_pictures() {
        let caption = [4, 4, 0xB5, 0, 0x31, 7, 4, 4, 0x26, 0, 1, 7, 0x80];
        assert_eq!(messages(&caption), [(8, 12)]);
    }

    fn patched(bytes: &[u8], of: Units) -> Vec<u8> {
        let mut patches = Vec::new();
        sample(&Bytes(bytes.to_vec()), 0, bytes.len() as u64, of, &mut patches).unwrap();
        let mut out = bytes.to_vec();
        for (at, fill) in patches {
            match fill {
                Fill::Same(byte, len) => out[at as usize..(at + len) as usize].fill(byte),
                Fill::Bytes(new) => out[at as usize..at as usize + new.len()].copy_from_slice(&new),
            }
        }
        out
    }

    #[test]
    fn metadata_of_av1_become_padding() {
        // Time, light level, HDR10+, something else's, a frame.
        let units = [
            &[0x12, 0][..],
            &[0x2A, 3, 1, 8, 8],
            &[0x2A, 5, 4, 0xB5, 0, 0x3C, 1],
            &[0x2A, 4, 4, 0x26, b'K', b'P'],
            &[0x30, 9, 9],
        ];
        let expected = [units[0], units[1], units[2], &[0x7A, 4, 0, 0, 0, 0x80], units[4]].concat();
        assert_eq!(patched(&units.concat(), Units::Av1), expected);
    }

    #[test]
    fn the_name_in_a_frame_of_sound_goes() {
        // 110 1111, 00000001: fifteen bytes, 0000: a filling; then the name, and what follows.
        let frame = [&[0xDE, 0x02, 0x00][..], b"Lavc59.37.100", &[0; 1], &[0x21, 0x1B]].concat();
        let clean = patched(&frame, Units::Aac);
        assert!(!clean.windows(4).any(|w| w == b"Lavc"));
        assert_eq!((&clean[..3], &clean[16..]), (&frame[..3], &frame[16..]));
        let sound = [0x21, 0x1B, 0x80, 0, 5, 6];
        assert_eq!(patched(&sound, Units::Aac), sound);
    }

    #[test]
    fn user_data_of_old_pictures_go_and_start_codes_stay() {
        let mut picture = b"\0\0\x01\xB2who made it\0\0\x01\xB6pixels\0\0\x01\xB2where".to_vec();
        for (from, to) in user_data(&picture) {
            picture[from..to].fill(0xFF);
        }
        let clean =
            [b"\0\0\x01\xB2" as &[u8], &[0xFF; 11], b"\0\0\x01\xB6pixels\0\0\x01\xB2", &[0xFF; 5]].concat();
        assert_eq!(picture, clean);
    }

    #[test]
    fn a_frame_of_prores_does_not_say_who_made_it() {
        let frame = [&[0, 0, 0, 40][..], b"icpf", &[0, 148, 0, 0], b"Lavc", &[1, 2, 3]].concat();
        assert_eq!(&patched(&frame, Units::ProRes)[12..16], b"apl0");
    }

    proptest! {
        #[test]
        fn any_sample_is_survived_and_nothing_outside_is_touched(
            bytes in proptest::collection::vec(prop_oneof![Just(0_u8), Just(6), Just(255), Just(5), any::<u8>()], 0..300),
            width in 1_u8..=4,
            from in 0_u64..50,
            len in 0_u64..400,
        ) {
            for of in [Units::Avc(width), Units::Hevc(width), Units::Av1, Units::Mpeg4, Units::ProRes, Units::Aac] {
                let mut patches = Vec::new();
                let source = Bytes(bytes.clone());
                let len = len.min((bytes.len() as u64).saturating_sub(from));
                if sample(&source, from, len, of, &mut patches).is_ok() {
                    for (at, fill) in patches {
                        let size = match fill {
                            Fill::Same(_, size) => size,
                            Fill::Bytes(new) => new.len() as u64,
                        };
                        prop_assert!(at >= from && at + size <= from + len);
                    }
                }
            }
        }
    }
}
