//! Which container a file is, told by its first bytes and never by its name or by what a friend
//! says.
//!
//! Invariant: an answer is one of five video types. Whatever a browser or player could take for a
//! document, a script or a list of addresses (HTML, SVG, playlists) has none. This is a first look
//! only; whether the file is sound is for the probe.
//!
//! Sources: ISO/IEC 14496-12 section 4.3 (`ftyp`), QuickTime File Format, RFC 8794 section 8
//! (EBML header), ISO/IEC 13818-1 section 2.4.3.2 (transport packets).

/// How many bytes of a file [`sniff`] looks at.
pub const SNIFF_LEN: usize = 512;

const MP4: &str = "video/mp4";
const QUICKTIME: &str = "video/quicktime";
const MATROSKA: &str = "video/x-matroska";
const WEBM: &str = "video/webm";
const TRANSPORT: &str = "video/mp2t";

/// The media type of a file that begins with `start`, or `None` if it is no video container that
/// kith knows. Only the first [`SNIFF_LEN`] bytes count; a shorter file is judged by what is there.
pub fn sniff(start: &[u8]) -> Option<&'static str> {
    let start = start.get(..SNIFF_LEN).unwrap_or(start);
    boxes(start).or_else(|| ebml(start)).or_else(|| transport(start))
}

/// What people call a container.
pub fn name(mime: &str) -> &'static str {
    match mime {
        MP4 => "MP4",
        QUICKTIME => "QuickTime",
        MATROSKA => "Matroska",
        WEBM => "WebM",
        TRANSPORT => "MPEG transport streams",
        _ => "this kind of file",
    }
}

/// What files of a container are called.
pub fn extension(mime: &str) -> &'static str {
    match mime {
        MP4 => "mp4",
        QUICKTIME => "mov",
        MATROSKA => "mkv",
        WEBM => "webm",
        TRANSPORT => "ts",
        _ => "bin",
    }
}

// MP4 and QuickTime: a row of boxes, each a 32-bit big-endian size and a type of four letters.
fn boxes(mut rest: &[u8]) -> Option<&'static str> {
    // A box has at least 8 bytes, so the row is short and ends.
    let mut skipped = false;
    loop {
        let Some((head, body)) = rest.split_first_chunk::<8>() else {
            // Filling that reaches out of sight: only old QuickTime files begin like this.
            return skipped.then_some(QUICKTIME);
        };
        let [s0, s1, s2, s3, kind @ ..] = *head;
        let size = u32::from_be_bytes([s0, s1, s2, s3]);
        match &kind {
            b"ftyp" => return brands(size, body),
            b"moov" => return (size >= 16 && movie_child(body)).then_some(QUICKTIME),
            // 0 reaches to the end of the file, 1 announces a 64-bit size.
            b"mdat" => return (size <= 1 || size >= 8).then_some(QUICKTIME),
            b"wide" | b"free" | b"skip" | b"pnot" if size >= 8 => {
                skipped = true;
                rest = usize::try_from(size).ok().and_then(|len| rest.get(len..)).unwrap_or_default();
            }
            _ => return None,
        }
    }
}

// What old writers put first into a `moov`; without this any text with these four letters passed.
fn movie_child(body: &[u8]) -> bool {
    let kinds: [&[u8; 4]; 8] = [b"mvhd", b"cmov", b"trak", b"udta", b"iods", b"rmra", b"prfl", b"free"];
    body.get(4..8).is_some_and(|kind| kinds.iter().any(|known| *known == kind))
}

fn brands(size: u32, body: &[u8]) -> Option<&'static str> {
    let inner = usize::try_from(size).ok()?.checked_sub(8)?;
    let body = body.get(..inner).unwrap_or(body);
    let (major, rest) = body.split_first_chunk::<4>()?;
    // The minor version follows; then the brands that readers may take instead.
    let others = rest.get(4..)?.as_chunks::<4>().0;
    match brand(major) {
        Brand::Movie(mime) => Some(mime),
        // Pictures and sound list film brands as compatible, so the first word is the last.
        Brand::NoVideo => None,
        Brand::Unknown => others.iter().find_map(|other| match brand(other) {
            Brand::Movie(mime) => Some(mime),
            Brand::NoVideo | Brand::Unknown => None,
        }),
    }
}

enum Brand {
    Movie(&'static str),
    NoVideo,
    Unknown,
}

fn brand(name: &[u8; 4]) -> Brand {
    match name {
        b"qt  " => Brand::Movie(QUICKTIME),
        b"isom" | b"avc1" | b"mp41" | b"mp42" | b"mp71" | b"M4V " | b"M4VH" | b"M4VP" | b"mmp4" | b"MSNV"
        | b"dash" | b"hvc1" | b"hev1" | b"av01" | b"vvc1" | b"f4v " | b"F4V " | b"XAVC" | b"cmfc"
        | b"cmf2" | b"cmfs" | b"dby1" | b"iphE" => Brand::Movie(MP4),
        [b'i', b's', b'o', b'1'..=b'9' | b'a'..=b'c'] => Brand::Movie(MP4),
        [b'3', b'g', b'p' | b'g' | b'e' | b's' | b'r' | b'2', _] => Brand::Movie(MP4),
        b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"mif1" | b"msf1" | b"avif" | b"avis"
        | b"M4A " | b"M4B " | b"M4P " | b"F4A " | b"F4B " | b"crx " | b"jp2 " | b"jpx " | b"jpm "
        | b"jxl " | b"aax " => Brand::NoVideo,
        _ => Brand::Unknown,
    }
}

// Matroska and WebM: an EBML header whose DocType says which.
fn ebml(start: &[u8]) -> Option<&'static str> {
    const DOC_TYPE: u64 = 0x4282;
    let mut rest = start.strip_prefix(b"\x1a\x45\xdf\xa3")?;
    let header_len = take_varint(&mut rest, true)?;
    // A header of unknown or large size is read as far as it can be seen.
    rest = usize::try_from(header_len).ok().and_then(|len| rest.get(..len)).unwrap_or(rest);
    loop {
        // Every round takes at least two bytes, so this ends.
        let id = take_varint(&mut rest, false)?;
        let len = usize::try_from(take_varint(&mut rest, true)?).ok()?;
        let (value, after) = rest.split_at_checked(len)?;
        rest = after;
        if id == DOC_TYPE {
            return doc_type(value);
        }
    }
}

fn doc_type(value: &[u8]) -> Option<&'static str> {
    // Strings may be padded with zero bytes (RFC 8794 section 7.4).
    match value.split(|b| *b == 0).next()? {
        b"matroska" => Some(MATROSKA),
        b"webm" => Some(WEBM),
        _ => None,
    }
}

// One EBML number: leading zero bits of the first byte count the bytes that follow; a size drops
// the marker bit, an id keeps it.
fn take_varint(rest: &mut &[u8], drop_marker: bool) -> Option<u64> {
    let (first, _) = rest.split_first()?;
    let len = first.leading_zeros() as usize + 1;
    let (bytes, after) = rest.split_at_checked(len).filter(|_| len <= 8)?;
    *rest = after;
    let value = bytes.iter().fold(0_u64, |value, b| value << 8 | u64::from(*b));
    Some(if drop_marker { value & !(1 << (7 * len)) } else { value })
}

// MPEG transport stream: packets of 188 bytes that all begin with 0x47.
fn transport(start: &[u8]) -> Option<&'static str> {
    [0, 188, 376].into_iter().all(|at| packet(start.get(at..).unwrap_or_default())).then_some(TRANSPORT)
}

// The sync byte is the letter G, so the rest of the packet's head must make sense as well: no
// transport error, and some payload or adaptation field.
fn packet(bytes: &[u8]) -> bool {
    matches!(bytes, [0x47, flags, _, control, ..] if flags & 0x80 == 0 && control & 0x30 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ftyp(major: &[u8; 4], others: &[&[u8; 4]]) -> Vec<u8> {
        let size = 16 + 4 * others.len() as u32;
        let mut bytes = size.to_be_bytes().to_vec();
        bytes.extend(b"ftyp");
        bytes.extend(major);
        bytes.extend([0, 0, 2, 0]);
        others.iter().for_each(|other| bytes.extend(*other));
        bytes.extend(b"\0\0\0\x08free");
        bytes
    }

    fn bx(size: u32, kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
        [&size.to_be_bytes()[..], kind, body].concat()
    }

    #[test]
    fn mp4_by_brand() {
        assert_eq!(sniff(&ftyp(b"isom", &[b"iso2", b"mp41"])), Some(MP4));
        assert_eq!(sniff(&ftyp(b"mp42", &[])), Some(MP4));
        assert_eq!(sniff(&ftyp(b"3gp5", &[])), Some(MP4));
        assert_eq!(sniff(&ftyp(b"qt  ", &[b"qt  "])), Some(QUICKTIME));
        assert_eq!(sniff(&ftyp(b"XYZ ", &[b"none", b"iso6"])), Some(MP4));
        assert_eq!(sniff(&ftyp(b"XYZ ", &[b"none"])), None);
        for still in [b"heic", b"avif", b"mif1", b"M4A ", b"jp2 "] {
            assert_eq!(sniff(&ftyp(still, &[b"isom", b"iso8", b"mp42"])), None);
        }
        assert_eq!(sniff(&bx(8, b"ftyp", b"isom\0\0\0\0")), None);
        assert_eq!(sniff(b"\0\0\0\x18ftypis"), None);
    }

    #[test]
    fn old_quicktime() {
        let mvhd = b"\0\0\0\x6cmvhd";
        assert_eq!(sniff(&bx(500, b"moov", mvhd)), Some(QUICKTIME));
        assert_eq!(sniff(&[bx(8, b"wide", b""), bx(99_999, b"mdat", b"x")].concat()), Some(QUICKTIME));
        assert_eq!(sniff(&bx(1, b"mdat", b"\0\0\0\x01\0\0\0\0")), Some(QUICKTIME));
        assert_eq!(sniff(&bx(60_000, b"free", b"")), Some(QUICKTIME));
        assert_eq!(sniff(&[bx(8, b"free", b""), ftyp(b"isom", &[])].concat()), Some(MP4));
        assert_eq!(sniff(&[bx(8, b"skip", b""), bx(8, b"nope", b"")].concat()), None);
        assert_eq!(sniff(b"The moov atom, explained at length"), None);
        assert_eq!(sniff(&bx(4, b"mdat", b"")), None);
        assert_eq!(sniff(&bx(0, b"wide", b"")), None);
    }

    #[test]
    fn matroska_and_webm() {
        let head = |doc: &[u8]| {
            let mut body = b"\x42\x86\x81\x01\x42\xf7\x81\x01\x42\x82".to_vec();
            body.push(0x80 | doc.len() as u8);
            body.extend(doc);
            let mut bytes = b"\x1a\x45\xdf\xa3\x01\0\0\0\0\0\0".to_vec();
            bytes.push(body.len() as u8);
            bytes.extend(body);
            bytes.extend(b"\x18\x53\x80\x67\x01\xff\xff\xff");
            bytes
        };
        assert_eq!(sniff(&head(b"matroska")), Some(MATROSKA));
        assert_eq!(sniff(&head(b"webm")), Some(WEBM));
        assert_eq!(sniff(&head(b"webm\0\0")), Some(WEBM));
        assert_eq!(sniff(&head(b"webmx")), None);
        assert_eq!(sniff(&head(b"")), None);
        let whole = head(b"matroska");
        assert_eq!(sniff(&whole[..20]), None);
        // The word alone, outside its element, proves nothing.
        assert_eq!(sniff(b"\x1a\x45\xdf\xa3\x84\x42\x86\x81\x01 webm"), None);
    }

    #[test]
    fn transport_stream() {
        let mut packets = vec![0_u8; 564];
        for at in [0, 188, 376] {
            packets[at..at + 4].copy_from_slice(&[0x47, 0x40, 0, 0x10]);
        }
        assert_eq!(sniff(&packets), Some(TRANSPORT));
        assert_eq!(sniff(&packets[..376]), None);
        packets[188] = 0;
        assert_eq!(sniff(&packets), None);
    }

    #[test]
    fn documents_and_lists_are_no_videos() {
        let others: [&[u8]; 12] = [
            b"",
            b"#EXTM3U\n#EXT-X-VERSION:3\n",
            b"<!DOCTYPE html><html>",
            b"<svg xmlns=\"http://www.w3.org/2000/svg\">",
            b"<?xml version=\"1.0\"?><MPD>",
            b"RIFF\0\0\0\0AVI LIST",
            b"\x89PNG\r\n\x1a\n",
            b"%PDF-1.7",
            b"PK\x03\x04",
            b"ID3\x04",
            b"OggS\0\x02",
            b"[playlist]\n",
        ];
        for other in others {
            assert_eq!(sniff(other), None, "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..600), pick in 0_usize..5) {
            sniff(&bytes);
            let starts: [&[u8]; 5] = [b"\0\0\0\x20ftyp", b"\0\0\0\x08wide", b"\x1a\x45\xdf\xa3", b"\0\0\x01\0moov", b"G"];
            let long = [starts[pick], &bytes].concat();
            prop_assert_eq!(sniff(&long), sniff(long.get(..SNIFF_LEN).unwrap_or(&long)));
        }
    }
}
