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
    /// The same with what Dolby Vision adds to pictures.
    Dolby(u8),
    /// Units of AV1.
    Av1,
    /// A picture of MPEG-4 Visual, in which user data may stand.
    Mpeg4,
    /// A frame of ProRes.
    ProRes,
    /// A frame of AAC; the first one of a track may begin with a name.
    Aac,
    /// Captions in boxes.
    WebVtt,
    /// Words behind their length, and boxes that say how they are shown.
    TimedText,
}

impl Units {
    /// The same, where a track says that it has Dolby Vision.
    pub const fn with_dolby(self) -> Self {
        if let Self::Hevc(width) = self { Self::Dolby(width) } else { self }
    }
}

const TOO_MUCH: &str = "it has far too much in it that would go";
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
        Units::Avc(width) | Units::Hevc(width) | Units::Dolby(width) => {
            nal_units(source, at, end, width, of, patches)?
        }
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
            // Length, `icpf` (both left out in Matroska), length of the header, version: then who made it.
            let start = source.piece(at, len.min(16) as usize)?;
            let header = if start.get(4..8) == Some(b"icpf") { 8 } else { 0 };
            if len >= header + 8 {
                over(source, at + header + 4, Fill::Bytes(Box::new(*b"apl0")), patches)?;
            }
        }
        Units::WebVtt | Units::TimedText => captions(source, at, len, of, patches)?,
        Units::Aac => {
            if let Some((from, to)) = fill_element(&source.piece(at, len.min(512) as usize)?) {
                over(source, at + from as u64, Fill::Same(0, (to - from) as u64), patches)?;
            }
        }
    }
    if patches.len() > MAX_PATCHES {
        return refused(TOO_MUCH);
    }
    Ok(())
}

/// What becomes of a box of captions.
enum Caption {
    Stays,
    /// It becomes free space.
    Goes,
    /// It is one caption, whose boxes are looked through.
    Opens,
}

/// The boxes of captions, by what `becomes` says of their kind and the length of what is in them.
fn boxes(
    bytes: &[u8],
    at: u64,
    becomes: fn(&[u8], usize) -> Caption,
    over: &mut dyn FnMut(u64, Fill) -> Result<(), Refused>,
) -> Result<(), Refused> {
    let mut from = 0;
    while let Some(head) = bytes.get(from..).and_then(<[u8]>::first_chunk::<8>) {
        let (len, kind) = head.split_at(4);
        let len = len.iter().fold(0_usize, |n, byte| n << 8 | usize::from(*byte));
        let Some(body) = bytes.get(from + 8..from.saturating_add(len)).filter(|_| len >= 8) else {
            return refused("a caption in it makes no sense");
        };
        let place = at + from as u64;
        match becomes(kind, body.len()) {
            Caption::Stays => {}
            Caption::Goes => {
                over(place + 4, Fill::Bytes(Box::new(*b"free")))?;
                over(place + 8, Fill::Same(0, body.len() as u64))?;
            }
            Caption::Opens => boxes(body, place + 8, in_a_caption, over)?,
        }
        from += len;
    }
    match bytes.get(from..) {
        None | Some([]) => Ok(()),
        Some(_) => refused("a caption in it makes no sense"),
    }
}

/// A caption, or that there is none (ISO/IEC 14496-30 6.6).
fn of_web_vtt(kind: &[u8], len: usize) -> Caption {
    match kind {
        b"vttc" => Caption::Opens,
        b"vtte" if len == 0 => Caption::Stays,
        _ => Caption::Goes,
    }
}

/// Words, and where they are shown. No caption lies in another.
fn in_a_caption(kind: &[u8], len: usize) -> Caption {
    match kind {
        b"payl" => Caption::Stays,
        b"sttg" if len <= 128 => Caption::Stays,
        _ => Caption::Goes,
    }
}

/// Styles, colours, places, times: what is short, and no addresses behind words (3GPP TS 26.245 5.17).
fn of_timed_text(kind: &[u8], len: usize) -> Caption {
    match kind {
        b"styl" if len <= 2 + 12 * 256 => Caption::Stays,
        b"hlit" | b"hclr" | b"dlay" | b"tbox" | b"blnk" | b"twrp" if len <= 8 => Caption::Stays,
        b"krok" if len <= 6 + 8 * 256 => Caption::Stays,
        _ => Caption::Goes,
    }
}

fn captions(
    source: &dyn Source,
    at: u64,
    len: u64,
    of: Units,
    patches: &mut Vec<(u64, Fill)>,
) -> Result<(), Refused> {
    if len > MAX_UNIT {
        return refused("a caption in it is far too long");
    }
    let bytes = source.piece(at, len as usize)?;
    let mut over = |at, fill| over(source, at, fill, patches);
    if of == Units::WebVtt {
        return boxes(&bytes, at, of_web_vtt, &mut over);
    }
    let Some(words) = bytes.first_chunk::<2>().map(|len| usize::from(u16::from_be_bytes(*len))) else {
        return Ok(());
    };
    let Some(behind) = bytes.get(2 + words..) else { return refused("a caption in it makes no sense") };
    boxes(behind, at + 2 + words as u64, of_timed_text, &mut over)
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
        // What does not keep to it cannot be looked through.
        if at > end {
            return refused("its pictures are not stored as their description says");
        }
        let (what, header) = match of {
            Units::Avc(_) => (avc_unit(first & 0x1F), 1),
            _ => (hevc_unit(first >> 1 & 0x3F, of), 2),
        };
        let (body, len) = (begin + header, length.saturating_sub(header));
        match what {
            Unit::Picture => {}
            Unit::Notes if len > 0 => unit_of_notes(source, body, len, of, patches)?,
            Unit::Filling => over(source, body, Fill::Same(0xFF, len.saturating_sub(1)), patches)?,
            Unit::Unknown | Unit::Notes => over(source, body, Fill::Same(0xFF, len), patches)?,
        }
    }
    Ok(())
}

enum Unit {
    /// Pictures and what decoders need for them.
    Picture,
    /// Messages (SEI).
    Notes,
    /// Bytes of 255 and a last one.
    Filling,
    /// What decoders pass over.
    Unknown,
}

/// ITU-T H.264 table 7-1.
const fn avc_unit(kind: u8) -> Unit {
    match kind {
        1..=5 | 7..=11 | 13..=15 | 19..=21 => Unit::Picture,
        6 => Unit::Notes,
        12 => Unit::Filling,
        _ => Unit::Unknown,
    }
}

/// ITU-T H.265 table 7-1; 62 and 63 hold what Dolby Vision adds to pictures, where there is that.
const fn hevc_unit(kind: u8, of: Units) -> Unit {
    match kind {
        0..=9 | 16..=21 | 32..=37 => Unit::Picture,
        62 | 63 if matches!(of, Units::Dolby(_)) => Unit::Picture,
        39 | 40 => Unit::Notes,
        38 => Unit::Filling,
        _ => Unit::Unknown,
    }
}

fn unit_of_notes(
    source: &dyn Source,
    at: u64,
    len: u64,
    of: Units,
    patches: &mut Vec<(u64, Fill)>,
) -> Result<(), Refused> {
    if len > MAX_UNIT {
        return over(source, at, Fill::Same(0xFF, len), patches);
    }
    let unit = source.piece(at, len as usize)?;
    rewrite(at, &unit, &without_messages(&unit, of), patches)
}

/// A unit of the same length, in which messages that may hold anything have a reserved type and hold nothing.
fn without_messages(unit: &[u8], of: Units) -> Vec<u8> {
    // Two zeros and the byte that keeps a start code out stay: without the zeros it would count.
    let is_kept_out = |at: usize| at >= 2 && unit.get(at - 2..=at) == Some(&[0, 0, 3]);
    let mut clean = unit.to_vec();
    for (kind, from, to) in messages(unit, of) {
        if let Some(place) = kind.and_then(|kind| clean.get_mut(kind)) {
            *place = RESERVED;
        }
        for at in (from..to).filter(|at| !(*at..=at + 2).any(is_kept_out)) {
            // Behind it stands nothing larger (ITU-T H.264 7.4.1).
            let filling = if at >= 1 && is_kept_out(at - 1) { 3 } else { 0xFF };
            clean.get_mut(at).into_iter().for_each(|byte| *byte = filling);
        }
    }
    clean
}

/// Bytes that stand as such in one patch; of more, those that repeat are counted.
const SHORT: usize = 24;

/// Puts what changed over what stands there, in few patches of bounded size.
fn rewrite(at: u64, old: &[u8], new: &[u8], patches: &mut Vec<(u64, Fill)>) -> Result<(), Refused> {
    let differs = |n: &usize| old.get(*n) != new.get(*n);
    let mut from = 0;
    while let Some(first) = (from..new.len()).find(differs) {
        if patches.len() > MAX_PATCHES {
            return refused(TOO_MUCH);
        }
        let left = new.get(first..).unwrap_or_default();
        let same = left.iter().take_while(|byte| Some(*byte) == left.first()).count();
        let (len, fill) = if same > SHORT {
            (same, Fill::Same(left.first().copied().unwrap_or_default(), same as u64))
        } else {
            let last = (first..new.len().min(first + SHORT)).rfind(differs).unwrap_or(first);
            (last + 1 - first, Fill::Bytes(new.get(first..=last).unwrap_or_default().into()))
        };
        patches.push((at + first as u64, fill));
        from = first + len;
    }
    Ok(())
}

/// User data of no registered kind: they begin with 16 bytes that say whose they are, and decoders refuse shorter ones.
const UNREGISTERED: usize = 5;
/// A type that is reserved, and passed over by all decoders.
const RESERVED: u8 = 254;

/// Whether a message is one of those that decoders and players use, and no longer than such a one can be (ITU-T H.264 D.1,
/// H.265 D.2). The time codes of a recorder are not among them (H.264 type 1, H.265 type 136).
const fn is_for_decoding(kind: usize, len: usize, of: Units) -> bool {
    let is_avc = matches!(of, Units::Avc(_));
    match kind {
        // Buffering, pan and scan, film grain.
        0 | 2 | 19 => len <= 128,
        // Recovery; frames packed for 3D; how the display is turned.
        6 | 47 => len <= 8,
        45 => len <= 16,
        // Mastering display, light level, transfer characteristics, ambient light.
        137 => len == 24,
        144 => len == 4,
        147 => len == 1,
        148 => len == 8,
        // Repetition of a marking; stereo.
        7 if is_avc => len <= 64,
        21 if is_avc => len <= 2,
        // Fields and delays; sets in use, decoding units; checks of pictures; projections of all-round pictures.
        1 if !is_avc => len <= 128,
        129 | 130 if !is_avc => len <= 32,
        132 if !is_avc => len <= 49,
        150..=156 if !is_avc => len <= 128,
        _ => false,
    }
}

/// Registered data that say how to show the pictures, or captions (ITU-T T.35: the United States, and ATSC, SMPTE, DTG
/// or Dolby); others hold what their makers like.
fn is_for_display(data: &[u8]) -> bool {
    [&[0xB5, 0, 0x31][..], &[0xB5, 0, 0x3C], &[0xB5, 0, 0x2F], &[0xB5, 0, 0x3B]]
        .iter()
        .any(|known| data.starts_with(known))
}

/// The bodies of messages that may hold anything, as they stand in the unit, and where the type of each stands if it has
/// to be another.
fn messages(unit: &[u8], of: Units) -> Vec<(Option<usize>, usize, usize)> {
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
            found.push((None, from, unit.len().saturating_sub(1).max(from)));
            break;
        };
        let body: Vec<u8> = plain.iter().skip(at).take(3).map(|(_, byte)| *byte).collect();
        let stays = match kind {
            4 => is_for_display(&body),
            kind => is_for_decoding(kind, len, of),
        };
        if !stays {
            let place = plain.get(begin).map_or(unit.len(), |(place, _)| *place);
            // Bytes of 255 in front make a number that means nothing to anybody.
            let is_short = kind < 255 && kind != UNREGISTERED && kind != usize::from(RESERVED);
            let from = plain.get(at).map_or(unit.len(), |(place, _)| *place);
            let to = plain.get(end).map_or(unit.len(), |(place, _)| *place);
            found.push((is_short.then_some(place), from, to));
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
        assert_eq!(messages(&unit, Units::Hevc(4)), [(None, 7, 13)]);
        assert_eq!(messages(&unit, Units::Avc(4)), [(Some(0), 2, 5), (None, 7, 13)], "a time code");
        let sample_bytes = [&[0, 0, 0, 15, 6][..], &unit, &[0, 0, 0, 2, 0x65, 5]].concat();
        let mut patches = Vec::new();
        let source = Bytes(sample_bytes.clone());
        sample(&source, 0, sample_bytes.len() as u64, Units::Avc(4), &mut patches).unwrap();
        // The type, its body; the body of the other one, but for what keeps a start code out.
        let clean = [254, 3, 255, 255, 255, 5, 5, 0, 0, 3, 3, 255, 255];
        assert_eq!(patches, [(5, Fill::Bytes(Box::new(clean)))]);
        let mut patches = Vec::new();
        sample(&source, 0, sample_bytes.len() as u64, Units::Hevc(4), &mut patches).unwrap();
        assert_eq!(patches, []);
    }

    #[test]
    fn registered_data_stay_where_they_say_how_to_show_pictures() {
        let caption = [4, 4, 0xB5, 0, 0x31, 7, 4, 4, 0x26, 0, 1, 7, 0x80];
        assert_eq!(messages(&caption, Units::Avc(4)), [(Some(6), 8, 12)]);
    }

    #[test]
    fn what_no_decoder_knows_goes() {
        // A reserved message, one of H.265's time codes, a nesting of others; then light levels, which stay.
        let unit = [200, 2, 7, 7, 136, 1, 9, 133, 2, 5, 5, 144, 4, 1, 2, 3, 4, 0x80];
        let expected = [254, 2, 0xFF, 0xFF, 254, 1, 0xFF, 254, 2, 0xFF, 0xFF, 144, 4, 1, 2, 3, 4, 0x80];
        let of = |unit: &[u8], head: &[u8]| {
            [&((unit.len() + head.len()) as u32).to_be_bytes(), head, unit].concat()
        };
        let clean = of(&expected, &[39 << 1, 1]);
        assert_eq!(patched(&of(&unit, &[39 << 1, 1]), Units::Hevc(4)), clean);
        assert_eq!(patched(&clean, Units::Hevc(4)), clean);
        // Units of no known type, and what fills.
        for (head, kept) in [(&[24_u8][..], 0), (&[12], 1)] {
            let clean = patched(&of(b"where", head), Units::Avc(4));
            assert_eq!(clean, of(&[&[0xFF; 5][..5 - kept], &b"where"[5 - kept..]].concat(), head));
        }
        let dolby = of(b"how", &[62 << 1, 1]);
        assert_eq!(patched(&dolby, Units::Dolby(4)), dolby);
        assert_eq!(patched(&dolby, Units::Hevc(4)), of(b"\xFF\xFF\xFF", &[62 << 1, 1]));
        // Words behind what a message can say.
        let long = of(&[&[144, 9][..], &[1, 2, 3, 4], b"where", &[0x80]].concat(), &[39 << 1, 1]);
        assert_eq!(patched(&long, Units::Hevc(4))[6..], [&[254, 9][..], &[0xFF; 9], &[0x80]].concat());
    }

    /// What counts of a unit, without the bytes that keep start codes out.
    fn counted(unit: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut zeros = 0;
        for byte in unit {
            if zeros >= 2 && *byte == 3 {
                zeros = 0;
                continue;
            }
            zeros = if *byte == 0 { zeros + 1 } else { 0 };
            out.push(*byte);
        }
        out
    }

    /// A message that goes is as long as before for decoders, whatever stood in it: the next one stays where it was.
    #[test]
    fn what_keeps_start_codes_out_counts_for_nothing() {
        let captions = [4, 4, 0xB5, 0, 0x31, 7, 0x80];
        for body in [
            &[5, 0, 0, 3, 1, 2, 3][..],
            &[4, 0, 0, 3, 0, 0],
            &[5, 0, 0, 3, 0, 0, 3, 2],
            &[3, 9, 0, 0],
            &[2, 0, 0, 3],
        ] {
            let unit = [&[1][..], body, &captions].concat();
            let out = without_messages(&unit, Units::Avc(4));
            assert_eq!(counted(&out).len(), counted(&unit).len(), "{unit:?} became {out:?}");
            assert!(counted(&out).ends_with(&captions), "{unit:?} became {out:?}");
            assert_eq!(without_messages(&out, Units::Avc(4)), out);
        }
    }

    #[test]
    fn pictures_that_are_stored_otherwise_are_refused() {
        let start_codes = [&[0, 0, 0, 1, 0x67, 1, 2, 3, 0, 0, 0, 1, 6, 5][..], b"where it was"].concat();
        let look = |of| sample(&Bytes(start_codes.clone()), 0, start_codes.len() as u64, of, &mut Vec::new());
        assert!(look(Units::Avc(4)).unwrap_err().0.contains("not stored as their description"));
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
    fn captions_keep_their_words_and_how_they_are_shown() {
        let one = |kind: &[u8; 4], body: &[u8]| {
            [&(body.len() as u32 + 8).to_be_bytes(), kind.as_slice(), body].concat()
        };
        let cue = |name: &[u8], free: &[u8; 4]| {
            one(b"vttc", &[one(free, name), one(b"sttg", b"line:0"), one(b"payl", b"Hello")].concat())
        };
        let captions = [cue(b"where", b"iden"), one(b"vtta", b"who"), one(b"vtte", b"")].concat();
        let clean = [cue(&[0; 5], b"free"), one(b"free", &[0; 3]), one(b"vtte", b"")].concat();
        assert_eq!(patched(&captions, Units::WebVtt), clean);
        assert_eq!(patched(&clean, Units::WebVtt), clean);
        let words = [&[0, 5][..], b"Hello", &one(b"hlit", &[0, 1, 0, 2])].concat();
        let text = [&words[..], &one(b"href", b"where")].concat();
        assert_eq!(patched(&text, Units::TimedText), [&words[..], &one(b"free", &[0; 5])].concat());
        // Captions in captions are none, however deep.
        let deep: Vec<u8> =
            (1..=100_000_u32).rev().flat_map(|n| [(n * 8).to_be_bytes(), *b"vttc"].concat()).collect();
        let flat = patched(&deep, Units::WebVtt);
        assert_eq!(flat[..16], [&deep[..12], b"free"].concat());
        assert!(flat[16..].iter().all(|byte| *byte == 0));
        let broken = Bytes([&words[..], b"no box"].concat());
        assert!(sample(&broken, 0, broken.size(), Units::TimedText, &mut Vec::new()).is_err());
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
        assert_eq!(&patched(&frame[8..], Units::ProRes)[4..8], b"apl0", "as in Matroska");
    }

    proptest! {
        #[test]
        fn any_sample_is_survived_and_nothing_outside_is_touched(
            bytes in proptest::collection::vec(prop_oneof![Just(0_u8), Just(6), Just(255), Just(5), any::<u8>()], 0..300),
            width in 1_u8..=4,
            from in 0_u64..50,
            len in 0_u64..400,
        ) {
            for of in [
                Units::Avc(width), Units::Hevc(width), Units::Av1, Units::Mpeg4, Units::ProRes, Units::Aac,
                Units::WebVtt, Units::TimedText,
            ] {
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
