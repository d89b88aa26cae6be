//! Catalogue entries: what a friend learns about a video before asking for it.
//! Format: `docs/protocol/catalogue.md`.

use kith_crypto::codec::{DecodeError, Reader, Writer};
use kith_crypto::content::{ReadCap, Root};
use kith_crypto::secret::Key;
use kith_crypto::text;

/// Largest encoded entry.
pub const MAX_ENTRY_LEN: usize = 512;
/// Longest title in bytes.
pub const MAX_TITLE: usize = 96;
/// Longest text in bytes; the head block carries the whole.
pub const MAX_TEXT: usize = 180;
/// Most bytes of all tags with their lengths.
pub const MAX_TAGS_LEN: usize = 64;
const MAX_MIME: usize = 40;

/// Names an entry in one friend's view; drawn per view, so that two friends cannot compare.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Eid(pub [u8; 8]);

impl std::fmt::Debug for Eid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Eid(..)")
    }
}

/// One video, as a catalogue shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// Reads the object.
    pub cap: ReadCap,
    /// How many more links the entry may travel: 0 friends, 1 friends of friends.
    pub hops_left: u8,
    /// Title.
    pub title: String,
    /// Description, cut.
    pub text: String,
    /// Tags.
    pub tags: Vec<String>,
    /// Media type.
    pub mime: String,
    /// Duration in seconds, 0 when unknown.
    pub duration_s: u32,
    /// Length in bytes.
    pub bytes: u64,
    /// Day of publishing since the Unix epoch.
    pub published_day: u32,
    /// Day after which the entry is dropped unless renewed.
    pub expires_day: u32,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Titles, ids and keys are secret in logs.
        f.write_str("Entry(..)")
    }
}

/// Tags that fit an entry, in order.
pub fn fitting_tags(tags: &[String]) -> Vec<String> {
    let mut left = MAX_TAGS_LEN;
    let mut out = Vec::new();
    for tag in tags {
        let tag = text::cut(tag, 32);
        if tag.is_empty() || tag.len() + 1 > left {
            continue;
        }
        left -= tag.len() + 1;
        out.push(tag.to_owned());
    }
    out
}

impl Entry {
    /// The object.
    pub const fn root(&self) -> Root {
        self.cap.root
    }

    /// Encodes the entry; text fields beyond their caps are cut.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u8(1).u8(self.hops_left).raw(self.cap.root.as_bytes()).raw(self.cap.key.expose());
        w.u64(self.bytes).u32(self.duration_s).u32(self.published_day).u32(self.expires_day);
        w.bytes8(text::cut(&self.mime, MAX_MIME).as_bytes());
        w.bytes8(text::cut(&self.title, MAX_TITLE).as_bytes());
        w.bytes8(text::cut(&self.text, MAX_TEXT).as_bytes());
        let tags = fitting_tags(&self.tags);
        w.u8(tags.len() as u8);
        tags.iter().for_each(|tag| {
            w.bytes8(tag.as_bytes());
        });
        w.into_bytes()
    }

    /// Reads an entry.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_ENTRY_LEN {
            return Err(DecodeError::TooLarge { at: 0, what: "entry" });
        }
        let mut r = Reader::new(bytes);
        let bad = r.invalid("entry version");
        if r.u8()? != 1 {
            return Err(bad);
        }
        let bad = r.invalid("hops");
        let hops_left = r.u8()?;
        if hops_left > 1 {
            return Err(bad);
        }
        let cap = ReadCap { root: Root(r.array()?), key: Key::new(r.array()?) };
        let (size, duration_s, published_day, expires_day) = (r.u64()?, r.u32()?, r.u32()?, r.u32()?);
        let mime = r.text8(MAX_MIME, "media type")?.to_owned();
        let title = r.text8(MAX_TITLE, "title")?.to_owned();
        let text = r.text8(MAX_TEXT, "text")?.to_owned();
        let bad = r.invalid("tags");
        let count = usize::from(r.u8()?);
        if count > MAX_TAGS_LEN / 2 {
            return Err(bad);
        }
        let tags =
            (0..count).map(|_| r.text8(32, "tag").map(str::to_owned)).collect::<Result<Vec<_>, _>>()?;
        // The one allowed form is the one that encoding gives: no empty tags, no surplus.
        if fitting_tags(&tags) != tags {
            return Err(bad);
        }
        r.finish()?;
        Ok(Self {
            cap,
            hops_left,
            title,
            text,
            tags,
            mime,
            duration_s,
            bytes: size,
            published_day,
            expires_day,
        })
    }

    /// An entry for tests and vectors.
    #[doc(hidden)]
    pub fn sample() -> Self {
        Self {
            cap: ReadCap { root: Root([1; 32]), key: Key::new([2; 32]) },
            hops_left: 1,
            title: "A day at the zoo".into(),
            text: "Otters".into(),
            tags: vec!["animals".into(), "zoo".into()],
            mime: "video/mp4".into(),
            duration_s: 12,
            bytes: 1_234_567,
            published_day: 20_000,
            expires_day: 20_030,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn largest_entry_fits() {
        let entry = Entry {
            title: "t".repeat(200),
            text: "x".repeat(500),
            tags: vec!["y".repeat(40); 9],
            mime: "m".repeat(90),
            ..Entry::sample()
        };
        let bytes = entry.encode();
        assert!(bytes.len() <= MAX_ENTRY_LEN, "{}", bytes.len());
        assert_eq!(Entry::decode(&bytes).unwrap().encode(), bytes);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_are_canonical(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(entry) = Entry::decode(&bytes) {
                prop_assert_eq!(entry.encode(), bytes);
            }
        }

        #[test]
        fn a_changed_entry_is_another_or_refused(i in 0_usize..120, bit in 0_u8..8) {
            let good = Entry::sample().encode();
            let mut bad = good.clone();
            if let Some(b) = bad.get_mut(i) { *b ^= 1 << bit; }
            if let Ok(entry) = Entry::decode(&bad) {
                prop_assert_eq!(entry.encode(), bad);
            }
        }
    }
}
