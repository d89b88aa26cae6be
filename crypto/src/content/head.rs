//! The head block: what a viewer learns about an object before its data.

use super::BLOCK_LEN;
use crate::codec::{DecodeError, Reader, Writer};
use crate::text;

/// Longest title in bytes, of a video or a chapter.
pub const MAX_TITLE_LEN: usize = 96;
/// Longest description in bytes.
pub const MAX_TEXT_LEN: usize = 4096;
/// Most tags of one object.
pub const MAX_TAGS: usize = 8;
/// Longest tag in bytes.
pub const MAX_TAG_LEN: usize = 32;
/// Most tracks that are told of.
pub const MAX_TRACKS: usize = 32;
/// Most chapters.
pub const MAX_CHAPTERS: usize = 200;
/// The largest poster in bytes.
pub const MAX_POSTER_LEN: usize = 32_768;
/// Most parts behind the film.
pub const MAX_PARTS: usize = 16;
/// The longest part behind the film in bytes.
pub const MAX_PART_LEN: usize = 1 << 20;
const MAGIC: [u8; 4] = *b"KHD2";
/// Heads that end after the licence, as nothing stands around the film.
const MAGIC_1: [u8; 4] = *b"KHD1";

/// A track of the film.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Track {
    /// 0 pictures, 1 sound, 2 subtitles.
    pub kind: u8,
    /// 0 all browsers play it, 1 some, 2 none.
    pub browser: u8,
    /// Pixels, 0 unless pictures.
    pub width: u16,
    /// Pixels, 0 unless pictures.
    pub height: u16,
    /// The codec as people call it, at most 32 bytes.
    pub codec: String,
    /// Language or empty, at most 16 bytes.
    pub lang: String,
}

/// What lies behind the film in the same object, each in blocks of its own.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Part {
    /// 1 captions (WebVTT), 2 storyboard (JPEG). Others are for later releases.
    pub kind: u8,
    /// The data block that it begins with.
    pub block: u32,
    /// Its length in bytes, at most [`MAX_PART_LEN`].
    pub len: u32,
    /// Of a storyboard: milliseconds from one picture to the next.
    pub step_ms: u32,
    /// Of a storyboard: pictures in a row.
    pub columns: u8,
    /// Language or empty, at most 16 bytes.
    pub lang: String,
    /// What people see in a list, at most 64 bytes.
    pub label: String,
}

/// What the head block says.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Head {
    /// Title, at most [`MAX_TITLE_LEN`] bytes.
    pub title: String,
    /// Description, at most [`MAX_TEXT_LEN`] bytes.
    pub text: String,
    /// Tags, at most [`MAX_TAGS`] of [`MAX_TAG_LEN`] bytes.
    pub tags: Vec<String>,
    /// Media type, like `video/mp4`.
    pub mime: String,
    /// Language tag (BCP 47) or empty.
    pub lang: String,
    /// Licence or empty.
    pub licence: String,
    /// True length of the file in bytes.
    pub len: u64,
    /// Duration in milliseconds, 0 when unknown.
    pub duration_ms: u64,
    /// Tracks, at most [`MAX_TRACKS`].
    pub tracks: Vec<Track>,
    /// When each chapter begins (milliseconds) and its title, at most [`MAX_CHAPTERS`].
    pub chapters: Vec<(u64, String)>,
    /// A picture (JPEG), at most [`MAX_POSTER_LEN`] bytes, or nothing.
    pub poster: Vec<u8>,
    /// What lies behind the film, at most [`MAX_PARTS`].
    pub parts: Vec<Part>,
}

/// Why a head block cannot be used.
pub type HeadError = DecodeError;

fn list<T>(
    r: &mut Reader<'_>,
    most: usize,
    what: &'static str,
    mut one: impl FnMut(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = usize::from(r.u8()?);
    if count > most {
        return Err(r.invalid(what));
    }
    (0..count).map(|_| one(r)).collect()
}

impl Head {
    /// The 65,536-byte plaintext of the head block. Fields beyond their caps are cut.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        let has_more = self.has_more();
        w.raw(if has_more { &MAGIC } else { &MAGIC_1 }).u64(self.len).u64(self.duration_ms);
        w.bytes8(text::cut(&self.title, MAX_TITLE_LEN).as_bytes());
        w.bytes16(text::cut(&self.text, MAX_TEXT_LEN).as_bytes());
        let tags = self.tags.iter().take(MAX_TAGS);
        w.u8(tags.len() as u8);
        for tag in tags {
            w.bytes8(text::cut(tag, MAX_TAG_LEN).as_bytes());
        }
        for field in [&self.mime, &self.lang, &self.licence] {
            w.bytes8(text::cut(field, 64).as_bytes());
        }
        if has_more {
            self.encode_more(&mut w);
        }
        w.pad_to(BLOCK_LEN);
        w.into_bytes()
    }

    const fn has_more(&self) -> bool {
        !(self.tracks.is_empty()
            && self.chapters.is_empty()
            && (self.poster.is_empty() || self.poster.len() > MAX_POSTER_LEN)
            && self.parts.is_empty())
    }

    fn encode_more(&self, w: &mut Writer) {
        let tracks = self.tracks.iter().take(MAX_TRACKS);
        w.u8(tracks.len() as u8);
        for track in tracks {
            w.u8(track.kind.min(2)).u8(track.browser.min(2)).u16(track.width).u16(track.height);
            w.bytes8(text::cut(&track.codec, 32).as_bytes()).bytes8(text::cut(&track.lang, 16).as_bytes());
        }
        let chapters = self.chapters.iter().take(MAX_CHAPTERS);
        w.u8(chapters.len() as u8);
        for (begins_ms, title) in chapters {
            w.u64(*begins_ms).bytes8(text::cut(title, MAX_TITLE_LEN).as_bytes());
        }
        w.bytes16(if self.poster.len() > MAX_POSTER_LEN { &[] } else { &self.poster });
        let parts = self.parts.iter().take(MAX_PARTS);
        w.u8(parts.len() as u8);
        for part in parts {
            w.u8(part.kind).u32(part.block).u32(part.len).u32(part.step_ms).u8(part.columns);
            w.bytes8(text::cut(&part.lang, 16).as_bytes()).bytes8(text::cut(&part.label, 64).as_bytes());
        }
    }

    /// Reads the plaintext of a head block.
    pub fn decode(block: &[u8]) -> Result<Self, HeadError> {
        let mut r = Reader::new(block);
        let magic = r.array()?;
        if magic != MAGIC && magic != MAGIC_1 {
            return Err(DecodeError::Invalid { at: 0, what: "head version" });
        }
        let (len, duration_ms) = (r.u64()?, r.u64()?);
        let title = r.text8(MAX_TITLE_LEN, "title")?.to_owned();
        let text = r.text16(MAX_TEXT_LEN, "description")?.to_owned();
        let tags = list(&mut r, MAX_TAGS, "tag count", |r| r.text8(MAX_TAG_LEN, "tag").map(str::to_owned))?;
        let mime = r.text8(64, "media type")?.to_owned();
        let lang = r.text8(64, "language")?.to_owned();
        let licence = r.text8(64, "licence")?.to_owned();
        let mut head = Self { title, text, tags, mime, lang, licence, len, duration_ms, ..Self::default() };
        if magic == MAGIC {
            head.decode_more(&mut r)?;
            // One head, one form.
            if !head.has_more() {
                return Err(DecodeError::Invalid { at: 0, what: "head version" });
            }
        }
        r.zeros()?;
        Ok(head)
    }

    fn decode_more(&mut self, r: &mut Reader<'_>) -> Result<(), DecodeError> {
        let kind = |r: &mut Reader<'_>, what| {
            let kind = r.u8()?;
            if kind <= 2 { Ok(kind) } else { Err(r.invalid(what)) }
        };
        self.tracks = list(r, MAX_TRACKS, "track count", |r| {
            Ok(Track {
                kind: kind(r, "kind of track")?,
                browser: kind(r, "what browsers play")?,
                width: r.u16()?,
                height: r.u16()?,
                codec: r.text8(32, "codec")?.to_owned(),
                lang: r.text8(16, "language")?.to_owned(),
            })
        })?;
        self.chapters = list(r, MAX_CHAPTERS, "chapter count", |r| {
            Ok((r.u64()?, r.text8(MAX_TITLE_LEN, "chapter")?.to_owned()))
        })?;
        self.poster = r.bytes16(MAX_POSTER_LEN, "poster")?.to_vec();
        self.parts = list(r, MAX_PARTS, "part count", |r| {
            let (kind, block, len, step_ms) = (r.u8()?, r.u32()?, r.u32()?, r.u32()?);
            if len as usize > MAX_PART_LEN {
                return Err(r.invalid("length of a part"));
            }
            let columns = r.u8()?;
            let lang = r.text8(16, "language")?.to_owned();
            let label = r.text8(64, "label")?.to_owned();
            Ok(Part { kind, block, len, step_ms, columns, lang, label })
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_cut() {
        let head = Head {
            title: "zoo ".repeat(40),
            tags: vec!["animals".into(); 12],
            mime: "video/mp4".into(),
            len: 77,
            ..Head::default()
        };
        let block = head.encode();
        assert_eq!(block.len(), BLOCK_LEN);
        let back = Head::decode(&block).unwrap();
        assert_eq!((back.title.len(), back.tags.len(), back.len), (96, 8, 77));
        assert_eq!(back.encode(), block);
        let mut bad = block;
        bad[BLOCK_LEN - 1] = 1;
        assert!(Head::decode(&bad).is_err());
    }

    /// A head that is as long as can be.
    fn full() -> Head {
        let long = "ü".repeat(3000);
        let track =
            Track { kind: 1, browser: 2, width: 9, height: 8, codec: long.clone(), lang: long.clone() };
        let part =
            Part { kind: 1, block: 7, len: 9, lang: long.clone(), label: long.clone(), ..Part::default() };
        Head {
            title: long.clone(),
            text: long.clone(),
            tags: vec![long.clone(); 9],
            mime: long.clone(),
            lang: long.clone(),
            licence: long.clone(),
            len: u64::MAX,
            duration_ms: u64::MAX,
            tracks: vec![track; 40],
            chapters: vec![(u64::MAX, long); 300],
            poster: vec![7; MAX_POSTER_LEN],
            parts: vec![part; 20],
        }
    }

    #[test]
    fn the_longest_head_fits() {
        let block = full().encode();
        assert_eq!(block.len(), BLOCK_LEN);
        let back = Head::decode(&block).unwrap();
        assert_eq!((back.tracks.len(), back.chapters.len(), back.parts.len()), (32, 200, 16));
        assert_eq!((back.poster.len(), back.parts[0].label.len()), (MAX_POSTER_LEN, 64));
        assert_eq!(back.encode(), block);
    }

    #[test]
    fn heads_of_the_first_form_are_read() {
        let head = Head { title: "zoo".into(), len: 5, ..Head::default() };
        let mut block = head.encode();
        assert_eq!((&block[..4], Head::decode(&block).unwrap()), (&b"KHD1"[..], head.clone()));
        block[..4].copy_from_slice(b"KHD2");
        assert!(Head::decode(&block).is_err());
        let later = Head { chapters: vec![(1, "a".into())], ..head };
        let mut block = later.encode();
        block[..4].copy_from_slice(b"KHD1");
        assert!(Head::decode(&block).is_err());
    }
}
