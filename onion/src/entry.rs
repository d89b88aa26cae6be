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
const MAX_TAG: usize = 32;

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
        let tag = text::cut(tag, MAX_TAG);
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
        EntryRef::decode(bytes).map(|entry| entry.to_entry())
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

/// An entry as it lies in its encoded form: nothing is copied.
#[derive(Clone, Copy)]
pub struct EntryRef<'a> {
    /// The object.
    pub root: Root,
    /// How many more links it may travel.
    pub hops_left: u8,
    /// Title.
    pub title: &'a str,
    /// Description, cut.
    pub text: &'a str,
    /// Day of publishing since the Unix epoch.
    pub published_day: u32,
    /// Day after which the entry is dropped unless renewed.
    pub expires_day: u32,
    key: &'a [u8; 32],
    mime: &'a str,
    duration_s: u32,
    bytes: u64,
    /// Each with its length before it.
    tags: &'a [u8],
}

impl std::fmt::Debug for EntryRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EntryRef(..)")
    }
}

impl<'a> EntryRef<'a> {
    /// Reads an entry. The one allowed form is the one that [`Entry::encode`] gives.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
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
        let root = Root(r.array()?);
        let bad = r.invalid("key");
        let key = r.take(32)?.first_chunk().ok_or(bad)?;
        let (size, duration_s, published_day, expires_day) = (r.u64()?, r.u32()?, r.u32()?, r.u32()?);
        let mime = r.text8(MAX_MIME, "media type")?;
        let title = r.text8(MAX_TITLE, "title")?;
        let text = r.text8(MAX_TEXT, "text")?;
        let tags = read_tags(&mut r)?;
        r.finish()?;
        Ok(Self {
            root,
            hops_left,
            title,
            text,
            published_day,
            expires_day,
            key,
            mime,
            duration_s,
            bytes: size,
            tags,
        })
    }

    /// The tags.
    pub fn tags(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut r = Reader::new(self.tags);
        std::iter::from_fn(move || r.text8(MAX_TAG, "tag").ok())
    }

    /// A copy with its own memory.
    pub fn to_entry(&self) -> Entry {
        Entry {
            cap: ReadCap { root: self.root, key: Key::new(*self.key) },
            hops_left: self.hops_left,
            title: self.title.to_owned(),
            text: self.text.to_owned(),
            tags: self.tags().map(str::to_owned).collect(),
            mime: self.mime.to_owned(),
            duration_s: self.duration_s,
            bytes: self.bytes,
            published_day: self.published_day,
            expires_day: self.expires_day,
        }
    }
}

/// The tags as they lie there. The one allowed form is the one that encoding gives: no empty tags,
/// no surplus.
fn read_tags<'a>(r: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    let bad = r.invalid("tags");
    let count = usize::from(r.u8()?);
    if count > MAX_TAGS_LEN / 2 {
        return Err(bad);
    }
    let (all, before) = (r.remaining(), r.at());
    let mut any_empty = false;
    for _ in 0..count {
        any_empty |= r.text8(MAX_TAG, "tag")?.is_empty();
    }
    let len = r.at() - before;
    all.get(..len).filter(|_| !any_empty && len <= MAX_TAGS_LEN).ok_or(bad)
}

/// Where an encoded entry has what each mention of it keeps apart.
const HOPS_AT: usize = 1;
const ROOT_AT: usize = 2;
const DURATION_AT: usize = 74;
const PUBLISHED_AT: usize = 78;
const EXPIRES_AT: usize = 82;

/// The words of an entry: its encoded form without hops and expiry, which each friend's mention of
/// the object has of its own.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct EntryWords(Box<[u8]>);

impl std::fmt::Debug for EntryWords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EntryWords(..)")
    }
}

impl EntryWords {
    /// The words of an encoded entry that has been decoded once.
    pub(crate) fn of(encoded: &[u8]) -> Self {
        let mut words: Box<[u8]> = encoded.into();
        put(&mut words, HOPS_AT, &[0]);
        put(&mut words, EXPIRES_AT, &[0; 4]);
        Self(words)
    }

    /// The whole encoded entry again.
    pub(crate) fn entry(&self, hops_left: u8, expires_day: u32) -> Vec<u8> {
        let mut entry = self.0.to_vec();
        put(&mut entry, HOPS_AT, &[hops_left]);
        put(&mut entry, EXPIRES_AT, &expires_day.to_le_bytes());
        entry
    }

    pub(crate) fn read(&self) -> Option<EntryRef<'_>> {
        EntryRef::decode(&self.0).ok()
    }

    pub(crate) fn root(&self) -> Root {
        Root(self.field(ROOT_AT))
    }

    pub(crate) fn duration_s(&self) -> u32 {
        u32::from_le_bytes(self.field(DURATION_AT))
    }

    pub(crate) fn published_day(&self) -> u32 {
        u32::from_le_bytes(self.field(PUBLISHED_AT))
    }

    pub(crate) const fn len(&self) -> usize {
        self.0.len()
    }

    fn field<const N: usize>(&self, at: usize) -> [u8; N] {
        self.0.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N])
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
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

    #[test]
    fn words_keep_everything_but_hops_and_expiry() {
        let entry = Entry::sample();
        let words = EntryWords::of(&entry.encode());
        assert_eq!((words.root(), words.published_day()), (entry.root(), entry.published_day));
        assert_eq!(words.duration_s(), entry.duration_s);
        assert_eq!(words.entry(entry.hops_left, entry.expires_day), entry.encode());
        let other = Entry { hops_left: 0, expires_day: 1, ..entry };
        assert!(EntryWords::of(&other.encode()) == words);
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
