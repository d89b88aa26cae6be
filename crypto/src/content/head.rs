//! The head block: what a viewer learns about an object before its data.

use super::BLOCK_LEN;
use crate::codec::{DecodeError, Reader, Writer};
use crate::text;

/// Longest title in bytes.
pub const MAX_TITLE_LEN: usize = 96;
/// Longest description in bytes.
pub const MAX_TEXT_LEN: usize = 4096;
/// Most tags of one object.
pub const MAX_TAGS: usize = 8;
/// Longest tag in bytes.
pub const MAX_TAG_LEN: usize = 32;
const MAGIC: [u8; 4] = *b"KHD1";

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
}

/// Why a head block cannot be used.
pub type HeadError = DecodeError;

impl Head {
    /// The 65,536-byte plaintext of the head block. Fields beyond their caps are cut.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.raw(&MAGIC).u64(self.len).u64(self.duration_ms);
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
        w.pad_to(BLOCK_LEN);
        w.into_bytes()
    }

    /// Reads the plaintext of a head block.
    pub fn decode(block: &[u8]) -> Result<Self, HeadError> {
        let mut r = Reader::new(block);
        if r.array()? != MAGIC {
            return Err(DecodeError::Invalid { at: 0, what: "head version" });
        }
        let (len, duration_ms) = (r.u64()?, r.u64()?);
        let title = r.text8(MAX_TITLE_LEN, "title")?.to_owned();
        let text = r.text16(MAX_TEXT_LEN, "description")?.to_owned();
        let count = usize::from(r.u8()?);
        if count > MAX_TAGS {
            return Err(r.invalid("tag count"));
        }
        let tags =
            (0..count).map(|_| r.text8(MAX_TAG_LEN, "tag").map(str::to_owned)).collect::<Result<_, _>>()?;
        let mime = r.text8(64, "media type")?.to_owned();
        let lang = r.text8(64, "language")?.to_owned();
        let licence = r.text8(64, "licence")?.to_owned();
        r.zeros()?;
        Ok(Self { title, text, tags, mime, lang, licence, len, duration_ms })
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
}
