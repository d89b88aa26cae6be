//! What stands in an archive: a list of items, each with its kind and length, closed by counts.
//!
//! Format: `docs/protocol/archive.md`, "Items". Invariant: a length is checked against the kind's
//! limit before anything is allocated, one item has one encoding, and nothing follows the end.

use super::{ArchiveError, Opener, Sealer};
use kith_crypto::codec::{DecodeError, Reader, Writer};
use kith_crypto::content::{Geometry, Position, Root, SEALED_LEN};
use kith_crypto::secret::Key;
use std::io::{self, Read, Write};
use zeroize::Zeroizing;

const ABOUT: u8 = 1;
const RECORD: u8 = 2;
const CONFIG: u8 = 3;
const OBJECT: u8 = 4;
const BLOCK: u8 = 5;
const END: u8 = 6;
/// Longest record or configuration.
const MAX_BYTES: usize = 1 << 20;
const OBJECT_LEN: usize = 32 + 32 + 1 + 1 + 32 + 8 + 8 + 8;
const BLOCK_HEAD: usize = 1 + 8;
/// Own, pinned, cached, mirrored.
const CLASSES: u8 = 4;
/// A bundle does not say why its maker keeps something.
const NO_CLASS: u8 = 255;

/// An object, before its blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectItem {
    /// Its id.
    pub root: Root,
    /// Its tree key.
    pub tree: Key,
    /// Its read key; never in a bundle.
    pub read: Option<Key>,
    /// Why it was kept, as the store's rows number it: 0 own, 1 pinned, 2 cached, 3 mirrored; never in
    /// a bundle.
    pub class: Option<u8>,
    /// Data blocks of the whole object.
    pub data_count: u64,
    /// When it was added, in seconds since 1970; 0 in a bundle.
    pub added_unix_s: u64,
    /// At most so many blocks follow.
    pub blocks: u64,
}

/// How much an archive holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records of the node.
    pub records: u64,
    /// Objects.
    pub objects: u64,
    /// Blocks of all objects.
    pub blocks: u64,
}

/// One thing in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Item {
    /// When the archive was made, in seconds since 1970. The first item, once.
    About(u64),
    /// A record of the node, opaque here.
    Record(Zeroizing<Vec<u8>>),
    /// The node's configuration file.
    Config(Vec<u8>),
    /// An object; its blocks follow.
    Object(ObjectItem),
    /// A sealed block of the object before: root first, nodes before what they name.
    Block(Position, Vec<u8>),
    /// The end.
    End(Counts),
}

impl Item {
    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut w = Writer::new();
        let number = match self {
            Self::About(created) => {
                w.u64(*created);
                ABOUT
            }
            Self::Record(bytes) => {
                w.raw(bytes);
                RECORD
            }
            Self::Config(bytes) => {
                w.raw(bytes);
                CONFIG
            }
            Self::Object(object) => {
                object.encode(&mut w);
                OBJECT
            }
            Self::Block(position, sealed) => {
                w.u8(position.level()).u64(position.index()).raw(sealed);
                BLOCK
            }
            Self::End(counts) => {
                w.u64(counts.records).u64(counts.objects).u64(counts.blocks);
                END
            }
        };
        let body = Zeroizing::new(w.into_bytes());
        let mut out = Zeroizing::new(Vec::with_capacity(5 + body.len()));
        out.push(number);
        out.extend_from_slice(&(body.len() as u32).to_le_bytes());
        out.extend_from_slice(&body);
        out
    }

    fn decode(kind: u8, body: Zeroizing<Vec<u8>>) -> Result<Self, DecodeError> {
        let mut r = Reader::new(&body);
        let item = match kind {
            ABOUT => Self::About(r.u64()?),
            RECORD => return Ok(Self::Record(body)),
            CONFIG => return Ok(Self::Config(body.to_vec())),
            OBJECT => Self::Object(ObjectItem::decode(&mut r)?),
            BLOCK => {
                let bad = r.invalid("position");
                let position = Position::from_parts(r.u8()?, r.u64()?).ok_or(bad)?;
                Self::Block(position, r.take(SEALED_LEN)?.to_vec())
            }
            _ => Self::End(Counts { records: r.u64()?, objects: r.u64()?, blocks: r.u64()? }),
        };
        r.finish()?;
        Ok(item)
    }
}

impl ObjectItem {
    fn encode(&self, w: &mut Writer) {
        w.raw(self.root.as_bytes()).raw(self.tree.expose());
        w.u8(self.class.unwrap_or(NO_CLASS)).u8(u8::from(self.read.is_some()));
        w.raw(self.read.as_ref().map_or(&[0; 32], |key| key.expose()));
        w.u64(self.data_count).u64(self.added_unix_s).u64(self.blocks);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (root, tree) = (Root(r.array()?), Key::new(r.array()?));
        let bad = r.invalid("class");
        let class = match r.u8()? {
            NO_CLASS => None,
            class if class < CLASSES => Some(class),
            _ => return Err(bad),
        };
        let bad = r.invalid("unused read key");
        let has_read = r.flag("read key")?;
        let read: [u8; 32] = r.array()?;
        if !has_read && read != [0; 32] {
            return Err(bad);
        }
        let bad = r.invalid("block count");
        let (data_count, added_unix_s, blocks) = (r.u64()?, r.u64()?, r.u64()?);
        let geometry = Geometry::of(data_count).ok_or(bad)?;
        if blocks > geometry.total() {
            return Err(bad);
        }
        let read = has_read.then(|| Key::new(read));
        Ok(Self { root, tree, read, class, data_count, added_unix_s, blocks })
    }
}

/// Writes items into an archive and counts them.
#[derive(Debug)]
pub struct ItemWriter<W> {
    to: W,
    counts: Counts,
}

impl<W: Write> ItemWriter<W> {
    /// Begins with the time of making, in seconds since 1970.
    pub fn begin(to: W, created_s: u64) -> io::Result<Self> {
        let mut writer = Self { to, counts: Counts::default() };
        writer.put(&Item::About(created_s))?;
        Ok(writer)
    }

    fn put(&mut self, item: &Item) -> io::Result<()> {
        self.to.write_all(&item.encode())
    }

    /// Appends a record of the node, of at most 1 MiB.
    pub fn record(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.counts.records += 1;
        self.put(&Item::Record(Zeroizing::new(bytes.to_vec())))
    }

    /// Appends the configuration file, of at most 1 MiB.
    pub fn config(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.put(&Item::Config(bytes.to_vec()))
    }

    /// Begins an object.
    pub fn object(&mut self, object: ObjectItem) -> io::Result<()> {
        self.counts.objects += 1;
        self.put(&Item::Object(object))
    }

    /// Appends a sealed block of the object begun last.
    pub fn block(&mut self, position: Position, sealed: Vec<u8>) -> io::Result<()> {
        self.counts.blocks += 1;
        self.put(&Item::Block(position, sealed))
    }

    /// Ends the list.
    pub fn finish(mut self) -> io::Result<(W, Counts)> {
        self.put(&Item::End(self.counts))?;
        Ok((self.to, self.counts))
    }
}

impl<W: Write> ItemWriter<Sealer<W>> {
    /// Ends the list and the archive.
    pub fn seal(self) -> io::Result<(W, Counts)> {
        let (sealer, counts) = self.finish()?;
        Ok((sealer.finish()?, counts))
    }
}

/// Reads items out of an archive.
#[derive(Debug)]
pub struct ItemReader<R> {
    from: Opener<R>,
    counts: Counts,
    /// Blocks that may still follow for the object begun last.
    blocks_left: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Start,
    Items,
    Ended,
}

fn limit(kind: u8) -> Option<(usize, usize)> {
    Some(match kind {
        ABOUT => (8, 8),
        RECORD => (1, MAX_BYTES),
        CONFIG => (0, MAX_BYTES),
        OBJECT => (OBJECT_LEN, OBJECT_LEN),
        BLOCK => (BLOCK_HEAD + SEALED_LEN, BLOCK_HEAD + SEALED_LEN),
        END => (24, 24),
        _ => return None,
    })
}

impl<R: Read> ItemReader<R> {
    /// Reads items from an opened archive.
    pub fn new(from: Opener<R>) -> Self {
        Self { from, counts: Counts::default(), blocks_left: 0, state: State::Start }
    }

    /// The next item; `None` after [`Item::End`], which is given out once.
    pub fn next_item(&mut self) -> Result<Option<Item>, ArchiveError> {
        if self.state == State::Ended {
            return Ok(None);
        }
        let mut head = [0; 5];
        self.from.fill(&mut head)?;
        let [kind, len @ ..] = head;
        let len = u32::from_le_bytes(len) as usize;
        let bad = ArchiveError::Damaged("it holds something that is no item");
        let Some((least, most)) = limit(kind) else { return Err(bad) };
        if !(least..=most).contains(&len) {
            return Err(bad);
        }
        let mut body = Zeroizing::new(vec![0; len]);
        self.from.fill(&mut body)?;
        let item = Item::decode(kind, body).map_err(|_| bad)?;
        self.check(&item)?;
        Ok(Some(item))
    }

    fn check(&mut self, item: &Item) -> Result<(), ArchiveError> {
        let first = matches!(item, Item::About(_));
        if first != (self.state == State::Start) {
            return Err(ArchiveError::Damaged("its items stand in a wrong order"));
        }
        self.state = State::Items;
        match item {
            Item::Record(_) => self.counts.records += 1,
            Item::Object(object) => {
                self.counts.objects += 1;
                self.blocks_left = object.blocks;
            }
            Item::Block(..) => {
                self.counts.blocks += 1;
                let left = self.blocks_left.checked_sub(1);
                self.blocks_left = left.ok_or(ArchiveError::Damaged("it holds a block of no object"))?;
            }
            Item::End(counts) => {
                if *counts != self.counts {
                    return Err(ArchiveError::Damaged("its contents are not what it says at its end"));
                }
                self.from.finish()?;
                self.state = State::Ended;
            }
            Item::About(_) | Item::Config(_) => {}
        }
        Ok(())
    }
}
