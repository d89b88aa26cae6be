//! What a video file is, and how it becomes one that tells nobody who made it, where and when.
//!
//! [`plan`] looks at a file and says what is in it ([`Probe`]), what goes ([`Report`]), and of which pieces
//! the clean file consists ([`Plan`]). Nothing is re-encoded. A plan is small, whatever the size of the file:
//! what is kept is named by place, and read only when the plan is carried out.
//!
//! Invariants: only what is known is kept, so what a writer will invent tomorrow goes as well. What cannot be
//! made sense of is refused with its reason and never passed on half clean. Work and memory are bounded by
//! what the file really holds, never by a number in it: [`MAX_INDEX`] for the index of a film, and the caps
//! named in each file.
//!
//! Sources: ISO/IEC 14496-12 (boxes), 14496-14 and -15 (MP4, AVC), QuickTime File Format; RFC 8794 (EBML),
//! RFC 9559 (Matroska); ISO/IEC 13818-1 (transport streams).

pub mod captions;
pub mod codec;
pub mod matroska;
pub mod mp4;
pub mod notes;
pub mod picture;
pub mod plan;
pub mod telemetry;
pub mod transport;
pub mod units;

pub use notes::Gone;
pub use plan::{Fill, Piece, Plan, Reading};

use crate::media_type;
use serde::{Deserialize, Serialize};
use std::io;
use std::time::{Duration, Instant};
use utoipa::ToSchema;

/// The largest index (`moov`, or all of a Matroska file but its clusters) that is held in memory.
pub const MAX_INDEX: u64 = 24 << 20;

/// A file, of which any part can be read.
pub trait Source: Send + Sync {
    /// Its length in bytes.
    fn size(&self) -> u64;
    /// Reads into `buf` from `at`; fewer bytes only at the end.
    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Exactly `len` bytes at `at`. `len` is what the caller bounded.
    fn piece(&self, at: u64, len: usize) -> Result<Vec<u8>, Refused> {
        let mut bytes = vec![0; len];
        let got = self.read_at(at, &mut bytes).map_err(|e| Refused(format!("it cannot be read: {e}")))?;
        if got < len {
            return Err(Refused("it ends in the middle".into()));
        }
        Ok(bytes)
    }
}

/// A file that is looked at for so long and no longer, whatever its contents make of that.
struct Timed<'a> {
    source: &'a dyn Source,
    until: Instant,
}

impl<'a> Timed<'a> {
    /// Two minutes, and a second for each four MiB: a slow disk is not to blame.
    fn new(source: &'a dyn Source) -> Self {
        let allowed = Duration::from_secs(120 + source.size() / (4 << 20));
        Self { source, until: Instant::now() + allowed }
    }
}

impl Source for Timed<'_> {
    fn size(&self) -> u64 {
        self.source.size()
    }

    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        if Instant::now() >= self.until {
            return Err(io::Error::other("looking through it takes far too long for its size"));
        }
        self.source.read_at(at, buf)
    }
}

impl Source for std::fs::File {
    fn size(&self) -> u64 {
        self.metadata().map_or(0, |about| about.len())
    }

    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(room) = buf.get_mut(filled..).filter(|room| !room.is_empty()) {
            match std::os::unix::fs::FileExt::read_at(self, room, at + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(filled)
    }
}

/// Why a file cannot be cleaned: the end of a sentence that begins with what was wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(pub String);

/// A reason as an error.
fn refused<T>(why: impl Into<String>) -> Result<T, Refused> {
    Err(Refused(why.into()))
}

/// What kind of track.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Pictures.
    Video,
    /// Sound.
    Audio,
    /// Subtitles.
    Text,
}

/// A track of the film that viewers get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Track {
    /// Pictures, sound or subtitles.
    pub kind: Kind,
    /// The codec, as people call it.
    pub codec: String,
    /// Language (three letters), where the file says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lang: Option<String>,
    /// Pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// Pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// Whether browsers play this codec.
    pub browser: Browser,
}

/// Whether browsers play something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Browser {
    /// All of them.
    Yes,
    /// Some of them, or on some machines.
    Some,
    /// None: mpv or VLC.
    No,
}

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Probe {
    /// Its type, by content.
    pub mime: String,
    /// Milliseconds; 0: it does not say.
    pub duration_ms: u64,
    /// Its tracks.
    pub tracks: Vec<Track>,
    /// Whether a browser plays it.
    pub browser: Browser,
    /// Chapters in it: when each begins (milliseconds), and its title.
    pub chapters: Vec<(u64, String)>,
    /// Milliseconds of pictures or sound that an edit list hides: players leave them out, and they are in the file.
    pub hidden_ms: u64,
}

impl Probe {
    /// A file of which nothing but the type is known.
    pub fn of_type(mime: &str) -> Self {
        let (mime, tracks, chapters) = (mime.to_owned(), Vec::new(), Vec::new());
        Self { mime, duration_ms: 0, tracks, browser: Browser::No, chapters, hidden_ms: 0 }
    }

    /// A sentence for who publishes: what plays it.
    pub fn plays(&self) -> String {
        let codecs: Vec<&str> =
            self.tracks.iter().filter(|t| t.browser != Browser::Yes).map(|t| t.codec.as_str()).collect();
        let what =
            if codecs.is_empty() { media_type::name(&self.mime).to_owned() } else { codecs.join(", ") };
        let plays = match self.browser {
            Browser::Yes => "plays in browsers".into(),
            Browser::Some => format!("plays in some browsers only ({what}); mpv and VLC play it"),
            Browser::No => format!("needs mpv or VLC: browsers do not play {what}"),
        };
        match self.hidden_ms.div_ceil(1000) {
            0 => plays,
            hidden => format!(
                "{plays}; {hidden} s that were cut away are hidden, not gone: anybody can bring them back, so export \
                 it anew from the editor if that matters"
            ),
        }
    }
}

/// What happened to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What the viewers get.
    pub probe: Probe,
    /// What went, in plain words.
    pub stripped: Vec<String>,
}

/// A file that is about to be published.
#[derive(Debug)]
pub struct Ready {
    /// What is in it and what goes.
    pub report: Report,
    /// The clean file.
    pub plan: Plan,
}

/// Whether files of this type can be cleaned at all.
pub fn can_clean(mime: &str) -> Result<(), Refused> {
    if mime == "video/mp2t" {
        refused("kith cannot clean MPEG transport streams, and --convert makes an MP4 of them")
    } else {
        Ok(())
    }
}

/// Plans the clean form of `source`. `None`: it is no video that kith knows.
pub fn plan(source: &dyn Source) -> Result<Option<Ready>, Refused> {
    let Some(mime) = type_of(source)? else { return Ok(None) };
    can_clean(mime)?;
    let source = &Timed::new(source);
    let is_mp4 = matches!(mime, "video/mp4" | "video/quicktime");
    let ready = if is_mp4 { mp4::plan(source, mime)? } else { matroska::plan(source, mime)? };
    Ok(Some(ready))
}

/// What a file is, without any change. What cannot be read further has a type only.
pub fn probe(source: &dyn Source) -> Result<Option<Probe>, Refused> {
    let Some(mime) = type_of(source)? else { return Ok(None) };
    let source = &Timed::new(source);
    let found = match mime {
        "video/mp4" | "video/quicktime" => mp4::plan(source, mime).map(|ready| ready.report.probe),
        "video/x-matroska" | "video/webm" => matroska::plan(source, mime).map(|ready| ready.report.probe),
        _ => transport::probe(source),
    };
    Ok(Some(found.unwrap_or_else(|_| Probe::of_type(mime))))
}

/// Whether this is a video of a kind that kith knows.
pub fn is_video(source: &dyn Source) -> bool {
    type_of(source).is_ok_and(|mime| mime.is_some())
}

fn type_of(source: &dyn Source) -> Result<Option<&'static str>, Refused> {
    let mut start = vec![0; media_type::SNIFF_LEN];
    let got = source.read_at(0, &mut start).map_err(|e| Refused(format!("it cannot be read: {e}")))?;
    start.truncate(got);
    Ok(media_type::sniff(&start))
}

/// Chapters as far as they can be told to viewers.
fn told_chapters(all: Vec<(u64, String)>) -> Vec<(u64, String)> {
    let cut =
        |title: String| kith_crypto::text::cut(title.trim(), kith_crypto::content::MAX_TITLE_LEN).to_owned();
    let all = all.into_iter().take(kith_crypto::content::MAX_CHAPTERS);
    all.map(|(begins, title)| (begins, cut(title))).collect()
}

/// Whether something is a language tag (RFC 5646): words of letters and digits, eight at most each.
fn is_language(tag: &[u8]) -> bool {
    let word = |word: &[u8]| (1..=8).contains(&word.len()) && word.iter().all(u8::is_ascii_alphanumeric);
    tag.len() <= 35 && tag.split(|byte| *byte == b'-').all(word)
}

/// What browsers make of tracks together: the picture must play, and the worst of all counts.
fn browsers(container: Browser, tracks: &[Track]) -> Browser {
    let tracks = tracks.iter().filter(|track| track.kind != Kind::Text);
    tracks.map(|track| track.browser).fold(container, Ord::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A file in memory.
    pub(super) struct Bytes(pub(super) Vec<u8>);

    impl Source for Bytes {
        fn size(&self) -> u64 {
            self.0.len() as u64
        }

        fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<usize> {
            let rest = usize::try_from(at).ok().and_then(|at| self.0.get(at..)).unwrap_or_default();
            let len = rest.len().min(buf.len());
            buf[..len].copy_from_slice(&rest[..len]);
            Ok(len)
        }
    }

    const CLIP: &[u8] = include_bytes!("../../assets/sample.mp4");

    fn element(id: u32, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        matroska::ebml::put(&mut out, id, body);
        out
    }

    /// A small Matroska file with something in all places.
    fn matroska() -> Vec<u8> {
        let head = element(0x1A45_DFA3, &element(0x4282, b"matroska"));
        let info = [
            element(0x2A_D7B1, &[0x0F, 0x42, 0x40]),
            element(0x7BA9, b"KITHPLANT"),
            element(0x4D80, b"Lavf"),
        ];
        let track = |number: u8, kind: u8, codec: &[u8], private: &[u8]| {
            let parts = [
                element(0xD7, &[number]),
                element(0x73C5, &[9, 9, 9]),
                element(0x83, &[kind]),
                element(0x86, codec),
                element(0x536E, b"KITHPLANT"),
                element(0x63A2, private),
            ];
            element(0xAE, &parts.concat())
        };
        let avcc = [1, 100, 0, 10, 0xFF, 0xE1, 0, 2, 0x67, 1, 1, 0, 2, 0x68, 2];
        let tracks = [track(1, 1, b"V_MPEG4/ISO/AVC", &avcc), track(2, 17, b"S_TEXT/UTF8", b"")].concat();
        let sei = [0, 0, 0, 14, 6, 5, 9, b'K', b'I', b'T', b'H', b'P', b'L', b'A', b'N', b'T', 0x80, 0];
        let block = |track: u8, data: &[u8]| element(0xA3, &[&[0x80 | track, 0, 0, 0x80], data].concat());
        let cluster = |time: u8| {
            let text =
                element(0xA0, &[element(0xA1, b"\x82\0\0\0Hello"), element(0x75A1, b"KITHPLANT")].concat());
            let parts = [
                element(0xE7, &[time]),
                block(1, &sei),
                text,
                block(7, b"KITHPLANT"),
                element(0xEC, b"KITHPLANT"),
            ];
            element(0x1F43_B675, &parts.concat())
        };
        let cue = |time: u8, at: u16| {
            let place = [element(0xF7, &[1]), element(0xF1, &at.to_be_bytes())].concat();
            element(0xBB, &[element(0xB3, &[time]), element(0xB7, &place)].concat())
        };
        let front = [
            element(0x1549_A966, &info.concat()),
            element(0x1654_AE6B, &tracks),
            element(0x1254_C367, b"\x73\x73\x89KITHPLANT"),
        ]
        .concat();
        let first = front.len() as u16;
        let cues = [cue(0, first), cue(9, first + cluster(0).len() as u16)].concat();
        let body = [front, cluster(0), cluster(9), element(0x1C53_BB6B, &cues)].concat();
        [head, element(0x1853_8067, &body), b"KITHPLANT".to_vec()].concat()
    }

    fn cleaned(file: &[u8]) -> Result<(Vec<u8>, Report), Refused> {
        let source = Bytes(file.to_vec());
        let Some(ready) = plan(&source)? else { return refused("no video") };
        let len = ready.plan.size();
        let mut reading = ready.plan.read();
        let mut out = Vec::new();
        loop {
            let next = reading.next(&source, 10_000).unwrap();
            if next.is_empty() {
                break;
            }
            out.extend(next);
        }
        assert_eq!(out.len() as u64, len);
        Ok((out, ready.report))
    }

    #[test]
    fn a_clean_matroska_has_its_places_where_they_are() {
        let (clean, report) = cleaned(&matroska()).unwrap();
        assert!(!clean.windows(9).any(|w| w == b"KITHPLANT"));
        let gone =
            ["notes between pictures and sounds", "other metadata", "padding", "software", "tags", "title"];
        assert!(gone.iter().all(|what| report.stripped.iter().any(|s| s == what)), "{:?}", report.stripped);
        assert!(report.stripped.contains(&"trailing bytes".to_owned()));
        // Each place for seeking names the beginning of a cluster.
        let at = |bytes: &[u8], from: usize| {
            clean[from..].windows(bytes.len()).position(|w| w == bytes).map(|n| n + from)
        };
        let segment = at(&[0x18, 0x53, 0x80, 0x67], 0).unwrap();
        let body = segment + 4 + matroska::ebml::varint(&clean[segment + 4..]).unwrap().1;
        let cluster = [0x1F, 0x43, 0xB6, 0x75];
        let first = at(&cluster, 0).unwrap();
        let second = at(&cluster, first + 4).unwrap();
        let mut from = 0;
        for wanted in [first, second] {
            from = at(&[0xF1, 0x88], from).unwrap() + 2;
            let place = u64::from_be_bytes(clean[from..from + 8].try_into().unwrap());
            assert_eq!(place as usize + body, wanted);
        }
        // Words stay.
        assert!(at(b"Hello", 0).is_some());
    }

    #[test]
    fn what_a_film_is_is_said() {
        let (clean, report) = cleaned(CLIP).unwrap();
        let probe = report.probe;
        assert_eq!((probe.mime.as_str(), probe.browser), ("video/mp4", Browser::Yes));
        assert_eq!(probe.plays(), "plays in browsers");
        assert!(
            probe.duration_ms > 1_000
                && probe.tracks.iter().any(|t| t.kind == Kind::Video && t.width > Some(0))
        );
        assert_eq!(&clean[4..8], b"ftyp");
        let second = u32::from_be_bytes(clean[..4].try_into().unwrap()) as usize;
        assert_eq!(&clean[second + 4..second + 8], b"moov", "the index comes first");
        let film = cleaned(&matroska()).unwrap().1.probe;
        assert_eq!((film.browser, film.tracks.len()), (Browser::Some, 2));
    }

    #[test]
    fn a_clean_file_stays_as_it_is() {
        for file in [CLIP.to_vec(), matroska()] {
            let (once, _) = cleaned(&file).unwrap();
            let (twice, report) = cleaned(&once).unwrap();
            assert!(once == twice);
            assert_eq!(report.stripped, Vec::<String>::new());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn broken_files_are_refused_or_become_clean_ones(
            is_mp4 in any::<bool>(),
            changes in proptest::collection::vec((any::<u32>(), any::<u8>(), 0_u8..4), 1..6),
            cut in proptest::option::of(any::<u32>()),
        ) {
            let mut file = if is_mp4 { CLIP.to_vec() } else { matroska() };
            // Changes where the index is: everywhere else is film.
            let index = if is_mp4 { 3_000.min(file.len()) } else { file.len() };
            for (at, byte, how) in changes {
                let at = at as usize % index.min(file.len());
                match how {
                    0 => file[at] = byte,
                    1 => file[at] ^= 1 << (byte % 8),
                    2 => file[at] = 0xFF,
                    _ => { file.remove(at); }
                }
            }
            if let Some(cut) = cut {
                file.truncate(cut as usize % file.len());
            }
            if let Ok((once, _)) = cleaned(&file) {
                prop_assert!(once.len() < file.len() + 4_096);
                // What was made of it is a film that is clean.
                let again = cleaned(&once);
                prop_assert!(again.is_ok(), "{:?}", again.err());
                let (twice, report) = again.unwrap();
                prop_assert_eq!(report.stripped, Vec::<String>::new());
                prop_assert!(once == twice, "{:x?}\n{:x?}", &once[..500.min(once.len())], &twice[..500.min(twice.len())]);
            }
        }
    }
}
