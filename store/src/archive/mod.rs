//! The sealed archive file of backups and bundles: header, key, and the stream of sealed chunks.
//!
//! Format: `docs/protocol/archive.md`. The stream is STREAM (Hoang, Reyhanitabar, Rogaway, Vizár,
//! "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance", CRYPTO 2015), with the
//! nonce of the age format (age-encryption.org/v1): an 11-byte counter and a byte that marks the last
//! chunk. Invariant: what [`Opener`] gives was written by somebody with the key, in this order and
//! from the start; a file that was cut, continued, reordered or changed ends in an error. Memory is
//! two chunks. What stands inside is `item`'s; files, names and passphrases are the caller's.

mod error;
mod item;
mod objects;
#[cfg(test)]
mod tests;

pub use error::ArchiveError;
pub use item::{Counts, Item, ItemReader, ItemWriter, ObjectItem};
pub use objects::{Importer, Kept, block_count, class_of, write_object};

use kith_crypto::aead::{BulkKey, TAG_LEN};
use kith_crypto::codec::{DecodeError, Reader, Writer};
use kith_crypto::kdf::{self, Label, derive};
use kith_crypto::passphrase::{self, Cost};
use kith_crypto::secret::Key;
use std::io::{self, Read, Write};
use zeroize::Zeroizing;

const MAGIC: [u8; 8] = *b"KITHARC\0";
const VERSION: u8 = 1;
/// Bytes of the header that key and check stand on.
const HEAD_LEN: usize = 8 + 1 + 1 + 4 + 4 + 32;
const CHECK_LEN: usize = 16;
const SUM_LEN: usize = 8;
/// Bytes before the first chunk.
pub const HEADER_LEN: usize = HEAD_LEN + CHECK_LEN + SUM_LEN;
/// Plaintext bytes of a chunk; every chunk is full, the last one with zeros.
pub const CHUNK_LEN: usize = 65_536;
/// A chunk in the file.
pub const SEALED_CHUNK_LEN: usize = CHUNK_LEN + TAG_LEN;

/// What an archive is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A node, under a passphrase.
    Backup,
    /// Blocks for one friend, under what the two share.
    Bundle,
}

impl Kind {
    const fn number(self) -> u8 {
        match self {
            Self::Backup => 1,
            Self::Bundle => 2,
        }
    }
}

/// The readable part of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    kind: Kind,
    cost: Option<Cost>,
    salt: [u8; 32],
}

impl Header {
    /// A backup's header; `salt` is random.
    pub const fn backup(cost: Cost, salt: [u8; 32]) -> Self {
        Self { kind: Kind::Backup, cost: Some(cost), salt }
    }

    /// A bundle's header; `salt` is random.
    pub const fn bundle(salt: [u8; 32]) -> Self {
        Self { kind: Kind::Bundle, cost: None, salt }
    }

    /// What the archive is for.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    fn head(&self) -> Vec<u8> {
        let cost = self.cost.unwrap_or(Cost { memory_kib: 0, passes: 0 });
        let mut w = Writer::new();
        w.raw(&MAGIC).u8(VERSION).u8(self.kind.number()).u32(cost.memory_kib).u32(cost.passes);
        w.raw(&self.salt);
        w.into_bytes()
    }

    fn decode(head: &[u8]) -> Result<Self, ArchiveError> {
        let wrong = |_: DecodeError| ArchiveError::Damaged("its header is incomplete");
        let mut r = Reader::new(head);
        if r.array().map_err(wrong)? != MAGIC {
            return Err(ArchiveError::NotAnArchive);
        }
        let version = r.u8().map_err(wrong)?;
        if version > VERSION {
            return Err(ArchiveError::Newer(version));
        }
        let kind = r.u8().map_err(wrong)?;
        let cost = Cost { memory_kib: r.u32().map_err(wrong)?, passes: r.u32().map_err(wrong)? };
        let salt = r.array().map_err(wrong)?;
        let none = cost == Cost { memory_kib: 0, passes: 0 };
        match (version, kind) {
            (VERSION, 1) if !none => Ok(Self::backup(cost, salt)),
            (VERSION, 2) if none => Ok(Self::bundle(salt)),
            _ => Err(ArchiveError::Damaged("its header makes no sense")),
        }
    }

    /// The key of an archive from the two friends' secret ([`kith_crypto::pair::PairRoot::bundle`]).
    pub fn key(&self, secret: &Key) -> ArchiveKey {
        ArchiveKey(derive(Label::ARCHIVE, &[&self.head(), secret.expose()]))
    }

    /// The key of a backup. `None` for a bundle, and for a cost that is out of range.
    pub fn key_of_passphrase(&self, passphrase: &[u8]) -> Option<ArchiveKey> {
        let salt = self.salt.first_chunk::<16>()?;
        Some(self.key(&passphrase::derive(passphrase, salt, self.cost?)?))
    }
}

/// What an archive is sealed under.
#[derive(Clone, Debug)]
pub struct ArchiveKey(Key);

impl ArchiveKey {
    fn check(&self, head: &[u8]) -> [u8; CHECK_LEN] {
        kdf::mac16(&derive(Label::ARCHIVE_CHECK, &[self.0.expose()]), head)
    }

    fn chunks(&self) -> BulkKey {
        BulkKey::new(&derive(Label::ARCHIVE_CHUNK, &[self.0.expose()]))
    }
}

/// Shows damage to the header before anything slow is tried. It protects nothing: anybody can make it.
fn sum(bytes: &[u8]) -> [u8; SUM_LEN] {
    kdf::hash(bytes).first_chunk().copied().unwrap_or_default()
}

/// Nonce of a chunk: 11-byte counter, most significant byte first, and 1 for the last one.
fn nonce(counter: u64, last: bool) -> [u8; 12] {
    let mut nonce = [0; 12];
    let [_, _, _, number @ .., flag] = &mut nonce;
    *number = counter.to_be_bytes();
    *flag = u8::from(last);
    nonce
}

/// Writes an archive. Without [`Sealer::finish`] the file is one that nobody accepts.
pub struct Sealer<W> {
    out: W,
    cipher: BulkKey,
    /// Plaintext of the chunk that is being filled.
    chunk: Zeroizing<Vec<u8>>,
    counter: u64,
}

impl<W> std::fmt::Debug for Sealer<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer").field("counter", &self.counter).finish_non_exhaustive()
    }
}

impl<W: Write> Sealer<W> {
    /// Writes the header. A header's salt is used for one archive only.
    pub fn begin(mut out: W, header: &Header, key: &ArchiveKey) -> io::Result<Self> {
        let mut bytes = header.head();
        let check = key.check(&bytes);
        bytes.extend_from_slice(&check);
        let sum = sum(&bytes);
        bytes.extend_from_slice(&sum);
        out.write_all(&bytes)?;
        let chunk = Zeroizing::new(Vec::with_capacity(SEALED_CHUNK_LEN));
        Ok(Self { out, cipher: key.chunks(), chunk, counter: 0 })
    }

    fn seal(&mut self, last: bool) -> io::Result<()> {
        self.cipher.seal(nonce(self.counter, last), &[], &mut self.chunk);
        self.out.write_all(&self.chunk)?;
        self.chunk.clear();
        self.counter += 1;
        Ok(())
    }

    /// Fills the last chunk with zeros, marks it as the last, and gives the file back, not yet synced.
    pub fn finish(mut self) -> io::Result<W> {
        self.chunk.resize(CHUNK_LEN, 0);
        self.seal(true)?;
        self.out.flush()?;
        Ok(self.out)
    }
}

impl<W: Write> Write for Sealer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A full chunk waits for what comes after it: it may be the last one.
        if self.chunk.len() == CHUNK_LEN && !bytes.is_empty() {
            self.seal(false)?;
        }
        let room = CHUNK_LEN - self.chunk.len();
        let taken = bytes.get(..room).unwrap_or(bytes);
        self.chunk.extend_from_slice(taken);
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // only whole chunks leave
    }
}

/// An archive whose header was read and whose key is still to be found.
#[derive(Debug)]
pub struct Locked<R> {
    from: R,
    header: Header,
    check: [u8; CHECK_LEN],
}

impl<R: Read> Locked<R> {
    /// Reads the header.
    pub fn read(mut from: R) -> Result<Self, ArchiveError> {
        let mut bytes = Vec::with_capacity(HEADER_LEN);
        from.by_ref().take(HEADER_LEN as u64).read_to_end(&mut bytes)?;
        let mut r = Reader::new(&bytes);
        let cut = |_| ArchiveError::Damaged("it ends in the middle of its header");
        if !bytes.starts_with(&MAGIC) {
            return Err(ArchiveError::NotAnArchive);
        }
        // A later version may have another header: it is told before anything else is believed.
        if let Some(version) = bytes.get(8).filter(|v| **v > VERSION) {
            return Err(ArchiveError::Newer(*version));
        }
        let head = r.take(HEAD_LEN).map_err(cut)?;
        let check = r.array().map_err(cut)?;
        if r.array::<SUM_LEN>().map_err(cut)? != sum(&[head, &check].concat()) {
            return Err(ArchiveError::Damaged("its header was changed"));
        }
        Ok(Self { header: Header::decode(head)?, check, from })
    }

    /// The header.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Whether this is the key. A wrong one is told from damage by the header's check.
    pub fn fits(&self, key: &ArchiveKey) -> bool {
        // Plain comparison: whoever could measure it has the file and tries keys without asking.
        key.check(&self.header.head()) == self.check
    }

    /// Opens the archive. [`ArchiveError::WrongKey`] if the key is another.
    pub fn open(self, key: &ArchiveKey) -> Result<Opener<R>, ArchiveError> {
        if !self.fits(key) {
            return Err(ArchiveError::WrongKey);
        }
        let mut opener = Opener {
            from: self.from,
            cipher: key.chunks(),
            ahead: Vec::new(),
            plain: Zeroizing::new(Vec::new()),
            used: 0,
            counter: 0,
            ended: false,
        };
        opener.ahead = opener.raw()?;
        Ok(opener)
    }
}

/// Reads an archive's plaintext.
pub struct Opener<R> {
    from: R,
    cipher: BulkKey,
    /// The next sealed chunk, empty at the end of the file.
    ahead: Vec<u8>,
    plain: Zeroizing<Vec<u8>>,
    used: usize,
    counter: u64,
    /// The last chunk is in `plain`.
    ended: bool,
}

impl<R> std::fmt::Debug for Opener<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opener").field("counter", &self.counter).finish_non_exhaustive()
    }
}

impl<R: Read> Opener<R> {
    fn raw(&mut self) -> Result<Vec<u8>, ArchiveError> {
        let mut bytes = Vec::with_capacity(SEALED_CHUNK_LEN);
        self.from.by_ref().take(SEALED_CHUNK_LEN as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Opens the next chunk; false after the last.
    fn advance(&mut self) -> Result<bool, ArchiveError> {
        if self.ended {
            return Ok(false);
        }
        let sealed = std::mem::take(&mut self.ahead);
        if sealed.len() != SEALED_CHUNK_LEN {
            return Err(ArchiveError::Cut);
        }
        self.ahead = self.raw()?;
        let last = self.ahead.is_empty();
        let open = |last: bool| {
            let mut bytes = Zeroizing::new(sealed.clone());
            let opened = self.cipher.open_vec(nonce(self.counter, last), &[], &mut bytes);
            opened.is_ok().then_some(bytes)
        };
        self.plain = match open(last) {
            Some(plain) => plain,
            None if open(!last).is_none() => return Err(ArchiveError::Damaged("a part of it was changed")),
            None if last => return Err(ArchiveError::Cut),
            None => return Err(ArchiveError::Damaged("something was added to its end")),
        };
        (self.used, self.ended) = (0, last);
        self.counter += 1;
        Ok(true)
    }

    /// Fills `out`.
    pub(crate) fn fill(&mut self, mut out: &mut [u8]) -> Result<(), ArchiveError> {
        while !out.is_empty() {
            let rest = self.plain.get(self.used..).unwrap_or_default();
            if rest.is_empty() {
                if self.advance()? {
                    continue;
                }
                return Err(ArchiveError::Damaged("it ends before what it announces"));
            }
            let n = rest.len().min(out.len());
            let (now, later) = out.split_at_mut(n);
            now.copy_from_slice(rest.get(..n).unwrap_or_default());
            self.used += n;
            out = later;
        }
        Ok(())
    }

    /// The end of what was announced: this is the last chunk, and only zeros are left in it.
    pub(crate) fn finish(&self) -> Result<(), ArchiveError> {
        let rest = self.plain.get(self.used..).unwrap_or_default();
        if !self.ended || rest.iter().any(|byte| *byte != 0) {
            return Err(ArchiveError::Damaged("it goes on after its end"));
        }
        Ok(())
    }
}
