//! The tracks of a Matroska file and its few other facts, in their clean form (RFC 9559 5.1.2, 5.1.4).

use super::super::notes::Gone;
use super::super::units::{Units, user_data};
use super::super::{Browser, Kind, Refused, Track, codec, is_language, mp4, refused};
use super::ebml::{Id, child, children, number, put, put_number};

/// Tracks at most.
const MAX_TRACKS: usize = 256;
/// A decoder's configuration at most.
const MAX_PRIVATE: usize = 1 << 20;

/// A track that stays.
pub struct Kept {
    /// Its number.
    pub number: u64,
    /// What people see of it.
    pub track: Track,
    /// Whether its blocks hold subtitles as text.
    pub is_text: bool,
    /// What its blocks consist of, where notes can stand between.
    pub units: Option<Units>,
    /// How its blocks are packed.
    pub packing: Packing,
    /// Whether additions to its blocks are pictures (transparency).
    pub has_alpha: bool,
}

/// How blocks are packed (RFC 9559 5.1.4.1.31).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Packing {
    /// They are not.
    #[default]
    None,
    /// By zlib.
    Zlib,
    /// Without these bytes that all begin with.
    Start(Vec<u8>),
}

/// All tracks that stay, and their clean element.
#[derive(Default)]
pub struct Tracks {
    /// They.
    pub kept: Vec<Kept>,
    /// The contents of `Tracks`.
    pub clean: Vec<u8>,
}

impl Tracks {
    /// Reads the contents of `Tracks`; those in `without` go.
    pub fn of(body: &[u8], without: &[u64], gone: &mut Gone) -> Result<Self, Refused> {
        let mut tracks = Self::default();
        for entry in children(body) {
            let entry = entry?;
            match entry.id {
                0xAE => tracks.take(entry.body, without, gone)?,
                0xBF | 0xEC => gone.note_filling(entry.body, "padding"),
                _ => gone.note_in(entry.body, "other metadata"),
            }
        }
        if !tracks.kept.iter().any(|kept| kept.track.kind != Kind::Text) {
            return refused("it has no pictures or sound that kith knows");
        }
        Ok(tracks)
    }

    /// The track of a block.
    pub fn get(&self, number: u64) -> Option<&Kept> {
        self.kept.iter().find(|kept| kept.number == number)
    }

    fn take(&mut self, body: &[u8], without: &[u64], gone: &mut Gone) -> Result<(), Refused> {
        let of = |id| child(body, id).map(|value| value.and_then(number));
        let (Some(track_number), Some(kind)) = (of(0xD7)?, of(0x83)?) else {
            return refused("a track lacks its number or its type");
        };
        let id = child(body, 0x86)?.map(text).unwrap_or_default();
        let kind = match kind {
            1 => Kind::Video,
            2 => Kind::Audio,
            17 => Kind::Text,
            _ => {
                gone.note("timed metadata track");
                return Ok(());
            }
        };
        if without.contains(&track_number) {
            gone.note("positions in a subtitle track");
            return Ok(());
        }
        let Some((codec, browser)) = codec::of_matroska(&id) else {
            // Without them the film plays; what nobody here knows may keep words anywhere.
            if kind == Kind::Text {
                gone.note("subtitles of a kind that kith does not know");
                return Ok(());
            }
            return refused(format!("kith does not know what is in it ({id}) and cannot clean it"));
        };
        if self.kept.len() == MAX_TRACKS {
            return refused("it has far too many tracks");
        }
        let mut clean = Vec::new();
        let mut packing = Packing::None;
        let mut has_dolby = false;
        for part in children(body) {
            let part = part?;
            match part.id {
                // A random number, by which the same recording could be known again.
                0x73C5 => put_number(&mut clean, part.id, track_number),
                0x63A2 => put(&mut clean, part.id, &private(&id, part.body, gone)?),
                0x86 => put(&mut clean, part.id, id.as_bytes()),
                0xE0 => put(&mut clean, part.id, &keep(part.body, &VIDEO, gone)?),
                0xE1 => put(&mut clean, part.id, &keep(part.body, &AUDIO, gone)?),
                0x6D80 => {
                    packing = packing_of(part.body)?;
                    put(&mut clean, part.id, &encodings(part.body)?);
                }
                // What players need for Dolby Vision and 3D pictures.
                0x41E4 => match child(part.body, 0x41E7)?.and_then(number) {
                    Some(mapping @ (0x6476_6343 | 0x6476_7643 | 0x6876_6345 | 0x6D76_6343)) => {
                        has_dolby |= matches!(mapping, 0x6476_6343 | 0x6476_7643);
                        put(&mut clean, part.id, &keep(part.body, &MAPPING, gone)?);
                    }
                    _ => gone.note_in(part.body, "other metadata"),
                },
                0x22_B59C | 0x22_B59D if !is_language(part.body) => gone.note_in(part.body, "other metadata"),
                0x536E => gone.note_filling(part.body, "track names"),
                0x25_8688 => gone.note_filling(part.body, "software"),
                0xEC | 0xBF => gone.note_filling(part.body, "padding"),
                _ if PLAIN.contains(&part.id) && part.body.len() <= plain_len(part.id) => {
                    put(&mut clean, part.id, part.body);
                }
                _ => gone.note_in(part.body, "other metadata"),
            }
        }
        put(&mut self.clean, 0xAE, &clean);
        let browser = if kind == Kind::Text { Browser::No } else { browser };
        let video = child(body, 0xE0)?.unwrap_or_default();
        let pixels = |id| child(video, id).map(|n| n.and_then(number).map(|n| n as u32));
        let lang = child(body, 0x22_B59C)?.map(text).filter(|lang| lang.len() == 3 && lang != "und");
        let config = child(body, 0x63A2)?.unwrap_or_default();
        let units = match id.as_str() {
            "V_MPEG4/ISO/AVC" => mp4::units_of(*b"avcC", config),
            "V_MPEGH/ISO/HEVC" => mp4::units_of(*b"hvcC", config),
            "V_AV1" => Some(Units::Av1),
            "V_PRORES" => Some(Units::ProRes),
            "V_MPEG1" | "V_MPEG2" => Some(Units::Mpeg4),
            _ if id.starts_with("V_MPEG4/ISO") => Some(Units::Mpeg4),
            _ if id.starts_with("A_AAC") => Some(Units::Aac),
            _ => None,
        };
        let units = if has_dolby { units.map(Units::with_dolby) } else { units };
        if units.is_none() && matches!(id.as_str(), "V_MPEG4/ISO/AVC" | "V_MPEGH/ISO/HEVC") {
            return refused("a decoder's configuration is missing");
        }
        if units.is_some() && kind == Kind::Video && packing != Packing::None {
            return refused(
                "its pictures are packed in an old way: `mkvmerge --compression -1:none -o new.mkv old.mkv` unpacks them",
            );
        }
        let track =
            Track { kind, codec: codec.into(), lang, width: pixels(0xB0)?, height: pixels(0xBA)?, browser };
        let has_alpha = child(video, 0x53C0)?.and_then(number) == Some(1);
        let is_text = id.starts_with("S_TEXT") || matches!(id.as_str(), "S_ASS" | "S_SSA");
        let units = units.filter(|_| packing == Packing::None);
        self.kept.push(Kept { number: track_number, track, is_text, units, packing, has_alpha });
        Ok(())
    }
}

fn text(body: &[u8]) -> String {
    let end = body.iter().position(|byte| *byte == 0).unwrap_or(body.len()).min(64);
    body.get(..end)
        .unwrap_or_default()
        .iter()
        .filter(|b| b.is_ascii_graphic())
        .map(|b| char::from(*b))
        .collect()
}

/// What a decoder needs of a track besides what is treated on its own.
const PLAIN: [Id; 20] = [
    0xD7, 0x83, 0xB9, 0x88, 0x55AA, 0x55AB, 0x55AC, 0x55AD, 0x55AE, 0x55AF, 0x9C, 0x6DE7, 0x6DF8, 0x23_E383,
    0x23_4E7A, 0x23_314F, 0x55EE, 0x22_B59C, 0x22_B59D, 0xAA,
];

/// Numbers have eight bytes at most; languages are words that were looked at.
const fn plain_len(id: Id) -> usize {
    if matches!(id, 0x22_B59C | 0x22_B59D) { 40 } else { 8 }
}

/// Elements that stay, and what stays in them.
struct Allowed {
    values: &'static [Id],
    inner: &'static [(Id, &'static Allowed)],
    most: usize,
}

const MASTERING: Allowed = Allowed {
    values: &[0x55D1, 0x55D2, 0x55D3, 0x55D4, 0x55D5, 0x55D6, 0x55D7, 0x55D8, 0x55D9, 0x55DA],
    inner: &[],
    most: 8,
};
const COLOUR: Allowed = Allowed {
    values: &[
        0x55B1, 0x55B2, 0x55B3, 0x55B4, 0x55B5, 0x55B6, 0x55B7, 0x55B8, 0x55B9, 0x55BA, 0x55BB, 0x55BC,
        0x55BD,
    ],
    inner: &[(0x55D0, &MASTERING)],
    most: 8,
};
const PROJECTION: Allowed =
    Allowed { values: &[0x7671, 0x7672, 0x7673, 0x7674, 0x7675], inner: &[], most: 64 };
const VIDEO: Allowed = Allowed {
    values: &[
        0x9A, 0x9D, 0x53B8, 0x53C0, 0xB0, 0xBA, 0x54AA, 0x54BB, 0x54CC, 0x54DD, 0x54B0, 0x54BA, 0x54B2,
        0x54B3, 0x2E_B524,
    ],
    inner: &[(0x55B0, &COLOUR), (0x7670, &PROJECTION)],
    most: 8,
};
const AUDIO: Allowed = Allowed { values: &[0xB5, 0x78B5, 0x9F, 0x6264, 0x52F1], inner: &[], most: 8 };
const MAPPING: Allowed = Allowed { values: &[0x41F0, 0x41E7, 0x41ED], inner: &[], most: 4096 };

fn keep(body: &[u8], allowed: &Allowed, gone: &mut Gone) -> Result<Vec<u8>, Refused> {
    let mut out = Vec::new();
    for part in children(body) {
        let part = part?;
        if allowed.values.contains(&part.id) && part.body.len() <= allowed.most {
            put(&mut out, part.id, part.body);
        } else if let Some((_, inner)) = allowed.inner.iter().find(|(id, _)| *id == part.id) {
            put(&mut out, part.id, &keep(part.body, inner, gone)?);
        } else {
            gone.note_in(part.body, "other metadata");
        }
    }
    Ok(out)
}

/// How blocks are packed. What is sealed cannot be played by anybody.
fn encodings(body: &[u8]) -> Result<Vec<u8>, Refused> {
    const COMPRESSION: Allowed = Allowed { values: &[0x4254, 0x4255], inner: &[], most: 64 };
    const ENCODING: Allowed =
        Allowed { values: &[0x5031, 0x5032, 0x5033], inner: &[(0x5034, &COMPRESSION)], most: 8 };
    const ALL: Allowed = Allowed { values: &[], inner: &[(0x6240, &ENCODING)], most: 0 };
    for encoding in children(body) {
        let encoding = encoding?;
        if encoding.id == 0x6240 && child(encoding.body, 0x5035)?.is_some() {
            return refused("it is protected (DRM)");
        }
    }
    keep(body, &ALL, &mut Gone::default())
}

fn packing_of(body: &[u8]) -> Result<Packing, Refused> {
    let mut encodings = children(body);
    let Some(encoding) = encodings.next() else { return Ok(Packing::None) };
    if encodings.next().is_some() {
        return refused("its blocks are packed more than once");
    }
    let compression = child(encoding?.body, 0x5034)?.unwrap_or_default();
    match child(compression, 0x4254)?.and_then(number) {
        None | Some(0) => Ok(Packing::Zlib),
        Some(3) => Ok(Packing::Start(child(compression, 0x4255)?.unwrap_or_default().to_vec())),
        _ => refused("its blocks are packed in a way that kith does not know"),
    }
}

/// A decoder's configuration without comments.
fn private(id: &str, body: &[u8], gone: &mut Gone) -> Result<Vec<u8>, Refused> {
    if body.len() > MAX_PRIVATE {
        return refused("a track describes itself with far too many bytes");
    }
    let clean = match id {
        "V_MPEG4/ISO/AVC" => mp4::parameter_sets(*b"avcC", body),
        "V_MPEGH/ISO/HEVC" => mp4::parameter_sets(*b"hvcC", body),
        "V_AV1" => mp4::parameter_sets(*b"av1C", body),
        "A_VORBIS" => xiph(body, b"\x03vorbis", &[1]),
        "V_THEORA" => xiph(body, b"\x81theora", &[]),
        // Its first block alone: the others are comments and pictures (RFC 9639 8).
        "A_FLAC" => body.get(..42).filter(|info| info.starts_with(b"fLaC")).map(|info| {
            let mut info = info.to_vec();
            if let Some(first) = info.get_mut(4) {
                *first |= 0x80;
            }
            info
        }),
        "A_OPUS" => {
            let len =
                if body.get(18) == Some(&0) { 19 } else { 21 + usize::from(*body.get(9).unwrap_or(&0)) };
            body.get(..len).map(<[u8]>::to_vec)
        }
        "S_TEXT/ASS" | "S_TEXT/SSA" | "S_ASS" | "S_SSA" => Some(script(body)),
        "V_MPEG1" | "V_MPEG2" | "V_MPEG4/ISO/SP" | "V_MPEG4/ISO/ASP" | "V_MPEG4/ISO/AP" => {
            let mut config = body.to_vec();
            for (from, to) in user_data(body) {
                config.get_mut(from..to).unwrap_or_default().fill(0xFF);
            }
            Some(config)
        }
        "S_VOBSUB" => Some(lines(body, |line| line.starts_with("size:") || line.starts_with("palette:"))),
        _ if id.starts_with("S_TEXT") => Some(Vec::new()),
        // No longer than they can be.
        "V_VP8" | "V_VP9" | "A_AC3" | "A_EAC3" | "A_ALAC" | "A_TRUEHD" | "A_MLP" | "V_PRORES" => short(body),
        _ if ["A_AAC", "A_MPEG", "A_PCM", "A_DTS"].iter().any(|kind| id.starts_with(kind)) => short(body),
        _ => Some(body.to_vec()),
    };
    let clean = clean.ok_or_else(|| Refused(format!("a track's description makes no sense ({id})")))?;
    if clean != body {
        gone.note("comments of the encoder");
    }
    Ok(clean)
}

/// What such decoders can need of a configuration.
fn short(body: &[u8]) -> Option<Vec<u8>> {
    Some(body.get(..body.len().min(64)).unwrap_or_default().to_vec())
}

/// Three packets in a row of lengths (RFC 9559 5.1.4, Xiph lacing); the second one holds words.
fn xiph(body: &[u8], comment: &[u8], end: &[u8]) -> Option<Vec<u8>> {
    let (count, mut rest) = body.split_first()?;
    if *count != 2 {
        return None;
    }
    let mut lens = [0_usize; 2];
    for len in &mut lens {
        loop {
            let (byte, after) = rest.split_first()?;
            rest = after;
            *len += usize::from(*byte);
            if *byte != 255 {
                break;
            }
        }
    }
    let [first, second] = lens;
    let (first, rest) = rest.split_at_checked(first)?;
    let (_, third) = rest.split_at_checked(second)?;
    // No name of the program, no comments.
    let empty = [comment, &[0; 8], end].concat();
    let mut out = vec![2];
    for len in [first.len(), empty.len()] {
        out.extend(std::iter::repeat_n(255, len / 255));
        out.push((len % 255) as u8);
    }
    out.extend([first, &empty, third].concat());
    Some(out)
}

fn lines(body: &[u8], keep: impl Fn(&str) -> bool) -> Vec<u8> {
    let text = String::from_utf8_lossy(body);
    let kept: Vec<&str> = text.lines().filter(|line| keep(line.trim_start_matches('\u{feff}'))).collect();
    (kept.join("\n") + "\n").into_bytes()
}

/// The head of a script of subtitles: how it is drawn, and not who made it when.
fn script(body: &[u8]) -> Vec<u8> {
    const KEPT: [&str; 11] = [
        "[",
        "ScriptType:",
        "PlayResX:",
        "PlayResY:",
        "LayoutResX:",
        "LayoutResY:",
        "WrapStyle:",
        "ScaledBorderAndShadow:",
        "YCbCr Matrix:",
        "Format:",
        "Style:",
    ];
    lines(body, |line| KEPT.iter().any(|known| line.starts_with(known)))
}
