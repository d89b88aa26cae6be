//! How long a video is, found while its bytes go by once, whatever its size: `moov/mvhd` and `mehd` of MP4
//! and MOV (ISO/IEC 14496-12 8.2.2, 8.8.2), `Segment/Info` of Matroska and WebM (RFC 9559 5.1.2).
//!
//! Headers are followed, all else is skipped; at most [`MOST`] bytes are kept. What contradicts itself has no
//! duration. Whether a file is sound is for the probe to say.

/// The longest piece that is looked at whole: the beginning of an `mvhd`.
const MOST: usize = 32;
/// Nothing is taken to be longer than this: a hundred days.
const LONGEST_MS: f64 = 100.0 * 86_400_000.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    /// The header of a box or an element.
    Header,
    /// What is in one that matters.
    Inside(Field),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Mvhd,
    Mehd,
    TimestampScale,
    Duration,
}

/// What the next step is.
enum Step {
    /// So many bytes are needed to go on.
    Need(usize),
    /// So many are skipped, and then a header comes.
    Skip(u64),
    /// The beginning of a field, so many bytes of it, and then the rest that is skipped.
    Field(Field, usize, u64),
    /// Nothing more is of interest.
    Done,
}

/// Finds the duration of what goes by.
#[derive(Debug)]
pub struct Meter {
    is_ebml: bool,
    want: Want,
    need: usize,
    skip: u64,
    rest: u64,
    kept: Vec<u8>,
    done: bool,
    /// Units a second (MP4), or nanoseconds a unit (Matroska), and units.
    scale: f64,
    units: f64,
}

impl Meter {
    /// For a file of this type.
    pub fn new(mime: &str) -> Self {
        let is_ebml = matches!(mime, "video/x-matroska" | "video/webm");
        Self {
            is_ebml,
            want: Want::Header,
            need: if is_ebml { 2 } else { 8 },
            skip: 0,
            rest: 0,
            kept: Vec::with_capacity(MOST),
            done: !is_ebml && !matches!(mime, "video/mp4" | "video/quicktime"),
            scale: if is_ebml { 1e6 } else { 0.0 },
            units: 0.0,
        }
    }

    /// Takes the next bytes of the file.
    pub fn take(&mut self, mut bytes: &[u8]) {
        while !self.done && !bytes.is_empty() {
            let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
            self.skip -= skipped as u64;
            let (piece, rest) =
                bytes.split_at((skipped + self.need.saturating_sub(self.kept.len())).min(bytes.len()));
            self.kept.extend_from_slice(piece.get(skipped..).unwrap_or_default());
            bytes = rest;
            if self.skip == 0 && self.kept.len() >= self.need {
                self.step();
            }
        }
    }

    /// Milliseconds; 0 when it was not found.
    pub fn finish(&self) -> u64 {
        let ms = if self.is_ebml { self.units * self.scale / 1e6 } else { self.units * 1e3 / self.scale };
        if (1.0..=LONGEST_MS).contains(&ms) { ms as u64 } else { 0 }
    }

    fn step(&mut self) {
        let step = match self.want {
            Want::Inside(field) => {
                self.read(field);
                Some(Step::Skip(self.rest))
            }
            Want::Header if self.is_ebml => element(&self.kept),
            Want::Header => mp4_box(&self.kept),
        };
        let header = if self.is_ebml { 2 } else { 8 };
        (self.want, self.need) = match step {
            Some(Step::Need(bytes)) if bytes <= MOST => {
                self.need = bytes;
                return;
            }
            Some(Step::Skip(bytes)) => {
                self.skip = bytes;
                (Want::Header, header)
            }
            Some(Step::Field(field, len, rest)) if len <= MOST => {
                self.rest = rest;
                (Want::Inside(field), len)
            }
            _ => {
                self.done = true;
                return;
            }
        };
        self.kept.clear();
    }

    fn read(&mut self, field: Field) {
        let kept = self.kept.as_slice();
        let number = |at: usize, len: usize| {
            let bytes = kept.get(at..at + len)?;
            Some(bytes.iter().fold(0_u64, |n, byte| n << 8 | u64::from(*byte)))
        };
        // All ones mean that it is not known.
        let units = |at: usize, is_long: bool| {
            let (len, unknown) = if is_long { (8, u64::MAX) } else { (4, u32::MAX.into()) };
            number(at, len).filter(|n| *n != unknown)
        };
        let is_long = kept.first() == Some(&1);
        match field {
            Field::Mvhd => {
                let (scale, duration) = if is_long { (20, 24) } else { (12, 16) };
                self.scale = number(scale, 4).unwrap_or_default() as f64;
                self.units = units(duration, is_long).unwrap_or_default() as f64;
            }
            // The length of all fragments stands for that of a movie that has none of its own.
            Field::Mehd => self.units = self.units.max(units(4, is_long).unwrap_or_default() as f64),
            Field::TimestampScale => self.scale = number(0, kept.len()).unwrap_or_default() as f64,
            Field::Duration => {
                let of = |bits: u64| match kept.len() {
                    4 => f64::from(f32::from_bits(bits as u32)),
                    8 => f64::from_bits(bits),
                    _ => 0.0,
                };
                self.units = number(0, kept.len()).map_or(0.0, of);
            }
        }
    }
}

/// A box by its header: 32 bits of size, the type, and 64 bits of size where the first say 1.
fn mp4_box(kept: &[u8]) -> Option<Step> {
    let (size, rest) = kept.split_first_chunk()?;
    let (kind, rest) = rest.split_first_chunk::<4>()?;
    let (size, header) = match (u32::from_be_bytes(*size), rest.first_chunk()) {
        (1, None) => return Some(Step::Need(16)),
        (1, Some(size)) => (u64::from_be_bytes(*size), 16),
        // It reaches to the end of the file.
        (0, _) => (u64::MAX, 8),
        (size, _) => (size.into(), 8),
    };
    let body = size.checked_sub(header)?;
    let field = |field, len: usize| match body.checked_sub(len as u64) {
        Some(rest) => Step::Field(field, len, rest),
        None => Step::Done,
    };
    Some(match kind {
        b"moov" | b"mvex" => Step::Skip(0),
        b"mvhd" => field(Field::Mvhd, if body >= 32 { 32 } else { 20 }),
        b"mehd" => field(Field::Mehd, if body >= 12 { 12 } else { 8 }),
        _ => Step::Skip(body),
    })
}

/// An element by its header: an identity of up to four bytes and a size of up to eight, both of which say
/// how long they are by the zeros that they begin with (RFC 8794 4, 5).
fn element(kept: &[u8]) -> Option<Step> {
    const SEGMENT: u64 = 0x1853_8067;
    const INFO: u64 = 0x1549_A966;
    const CLUSTER: u64 = 0x1F43_B675;
    const TIMESTAMP_SCALE: u64 = 0x2A_D7B1;
    const DURATION: u64 = 0x4489;
    let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |n, byte| n << 8 | u64::from(*byte));
    let id_len = kept.first()?.leading_zeros() as usize + 1;
    let Some(first) = kept.get(id_len) else { return (id_len <= 4).then_some(Step::Need(id_len + 1)) };
    let size_len = first.leading_zeros() as usize + 1;
    if id_len > 4 || size_len > 8 {
        return None;
    }
    let Some(size) = kept.get(id_len..id_len + size_len) else { return Some(Step::Need(id_len + size_len)) };
    let most = (1_u64 << (7 * size_len)) - 1;
    let size = number(size) & most;
    let field = |field| match usize::try_from(size) {
        Ok(len @ 1..=8) => Step::Field(field, len, 0),
        _ => Step::Done,
    };
    Some(match number(kept.get(..id_len)?) {
        SEGMENT | INFO => Step::Skip(0),
        TIMESTAMP_SCALE => field(Field::TimestampScale),
        DURATION => field(Field::Duration),
        // What comes before the pictures has gone by. Of unknown length is nothing else.
        CLUSTER => Step::Done,
        _ if size == most => Step::Done,
        _ => Step::Skip(size),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn length(mime: &str, file: &[u8], piece: usize) -> u64 {
        let mut meter = Meter::new(mime);
        file.chunks(piece).for_each(|chunk| meter.take(chunk));
        assert!(meter.kept.len() <= MOST);
        meter.finish()
    }

    fn mp4(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
        [&(body.len() as u32 + 8).to_be_bytes(), kind.as_slice(), body].concat()
    }

    fn mvhd(version: u8, scale: u32, duration: u64) -> Vec<u8> {
        let mut body = vec![version, 0, 0, 0];
        if version == 1 {
            body.extend([[0; 8], [0; 8]].concat());
            body.extend(scale.to_be_bytes());
            body.extend(duration.to_be_bytes());
        } else {
            body.extend([0; 8]);
            body.extend(scale.to_be_bytes());
            body.extend((duration as u32).to_be_bytes());
        }
        body.extend([0; 80]);
        mp4(b"mvhd", &body)
    }

    #[test]
    fn an_mp4_says_its_length_wherever_its_moov_is() {
        let moov = mp4(b"moov", &[mvhd(0, 600, 1_500), mp4(b"trak", &[7; 300])].concat());
        let long = mp4(b"moov", &mvhd(1, 90_000, 90_000 * 7_200));
        let wide = [&1_u32.to_be_bytes(), b"mdat".as_slice(), &5_016_u64.to_be_bytes(), &[1; 5_000]].concat();
        let ftyp = mp4(b"ftyp", b"isom\0\0\0\0");
        for piece in [1, 3, 8, 4_096, 1 << 20] {
            assert_eq!(length("video/mp4", &[&ftyp[..], &moov, &wide].concat(), piece), 2_500);
            assert_eq!(length("video/quicktime", &[&ftyp[..], &wide, &moov].concat(), piece), 2_500);
            assert_eq!(length("video/mp4", &[&ftyp[..], &long].concat(), piece), 7_200_000);
        }
    }

    #[test]
    fn a_fragmented_one_says_it_elsewhere_or_nowhere() {
        let mehd = mp4(b"mehd", &[0, 0, 0, 0, 0, 0, 0x2E, 0xE0]);
        let moov = |mvex: Vec<u8>| mp4(b"moov", &[mvhd(0, 1_000, 0), mvex].concat());
        assert_eq!(length("video/mp4", &moov(mp4(b"mvex", &mehd)), 9), 12_000);
        assert_eq!(length("video/mp4", &moov(Vec::new()), 9), 0);
        assert_eq!(length("video/mp4", &mp4(b"moov", &mvhd(0, 1_000, u32::MAX.into())), 9), 0);
        assert_eq!(length("video/mp4", &mp4(b"moov", &mvhd(0, 0, 1_000)), 9), 0, "no seconds at all");
    }

    fn ebml(id: u32, body: &[u8]) -> Vec<u8> {
        let id = id.to_be_bytes();
        let id = &id[id.iter().position(|byte| *byte != 0).unwrap()..];
        [id, &(body.len() as u64 | 1 << 56).to_be_bytes(), body].concat()
    }

    #[test]
    fn a_matroska_says_its_length_before_its_pictures() {
        let head = ebml(0x1A45_DFA3, b"whatever");
        let scale = ebml(0x2A_D7B1, &[0x0F, 0x42, 0x40]);
        let of = |info: &[u8], size: &[u8]| {
            let segment = [&[0x18, 0x53, 0x80, 0x67], size].concat();
            let (void, cluster) = (ebml(0xEC, &[0; 90]), ebml(0x1F43_B675, &[9; 50]));
            [&head[..], &segment, &void, &ebml(0x1549_A966, info), &cluster].concat()
        };
        let unknown = [0x01, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF];
        let double = ebml(0x4489, &90_500.0_f64.to_be_bytes());
        let single = ebml(0x4489, &90_500.0_f32.to_be_bytes());
        for piece in [1, 5, 1 << 20] {
            assert_eq!(length("video/webm", &of(&[&scale[..], &double].concat(), &unknown), piece), 90_500);
            let known = of(&[&single[..], &scale].concat(), &[0x41, 0x00]);
            assert_eq!(length("video/x-matroska", &known, piece), 90_500);
        }
        assert_eq!(length("video/webm", &of(&ebml(0x4489, &f64::NAN.to_be_bytes()), &unknown), 7), 0);
        assert_eq!(length("video/webm", &of(&scale, &unknown), 7), 0);
    }

    #[test]
    fn others_have_none() {
        assert_eq!(length("video/mp2t", &mp4(b"moov", &mvhd(0, 600, 1_500)), 7), 0);
    }

    proptest! {
        #[test]
        fn whatever_comes_little_is_kept_and_pieces_do_not_matter(
            bytes in proptest::collection::vec(any::<u8>(), 0..400),
            piece in 1_usize..50,
            at in 0_usize..400,
        ) {
            let moov = mp4(b"moov", &mvhd(0, 600, 1_500));
            let at = at.min(bytes.len());
            for mime in ["video/mp4", "video/webm"] {
                for file in [&bytes, &[&bytes[..at], &moov, &bytes[at..]].concat()] {
                    prop_assert_eq!(length(mime, file, piece), length(mime, file, file.len().max(1)));
                }
            }
        }
    }
}
