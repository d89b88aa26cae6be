//! Append-only files of sealed records: the form that the journal and the view logs share.
//!
//! Format: `docs/protocol/store.md`, "Log". Invariant: what [`Log::append`] returned for is on disk
//! and is replayed for ever; nothing valid is ever cut off. Each record authenticates the hash of
//! the one before it, so a record that was taken out, moved or brought from another file shows.
//! Which file, which header and which key belong together is the callers' matter.

use crate::StoreError;
use crate::backend::File;
use crate::disk::{self, At, Disk};
use kith_crypto::aead::{RECORD_NONCE_LEN, TAG_LEN, open_record, seal_record};
use kith_crypto::codec::{Reader, Writer};
use kith_crypto::kdf;
use kith_crypto::secret::Key;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Largest payload of one record.
pub(crate) const MAX_PAYLOAD_LEN: usize = 1 << 20;
/// Bytes in a box before its payload: the place of the record in its append.
const PLACE_LEN: usize = 4 + 1;
/// Bytes of a record before its box: length, hash of the record before, nonce.
const PREFIX_LEN: usize = 4 + 16 + RECORD_NONCE_LEN;
/// Bytes of boxes that are tried in search of a record behind a damaged one. Random bytes look like
/// a record at one offset of 4096, so this covers any real journal; it bounds what a made-up file costs.
const SEARCH_BUDGET: usize = 64 << 20;

/// Records from which on a file is worth several threads, and how many they are at most.
const LONG: usize = 2_000;
const MOST_CORES: usize = 4;

/// First 16 bytes of BLAKE3 of a record (or of the file's header): the link of the chain.
pub(crate) type Hash16 = [u8; 16];

/// Links to a record, or to the header of a file.
pub(crate) fn link(bytes: &[u8]) -> Hash16 {
    disk::first16(&kdf::hash(bytes))
}

/// The key of one file and what its records authenticate beside their predecessor.
#[derive(Debug)]
pub(crate) struct Seal {
    key: Key,
    /// Magic and identity of the file (segment number or salt).
    scope: Vec<u8>,
    /// Whether boxes name the place of the record in its append, as all but the first format do.
    placed: bool,
}

/// Where a record stands in the append that wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// Bytes of the append before the record.
    before: u32,
    part: Part,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// More records of the append follow.
    More = 0,
    /// The append ends with this one.
    Last = 1,
    /// No record: what stands before it was synced.
    Proof = 2,
}

impl Place {
    /// An append of one record.
    const ALONE: Self = Self { before: 0, part: Part::Last };
    const PROOF: Self = Self { before: 0, part: Part::Proof };
}

impl Seal {
    pub(crate) fn new(key: Key, magic: &[u8; 8], identity: &[u8]) -> Self {
        let mut scope = magic.to_vec();
        scope.extend_from_slice(identity);
        Self { key, scope, placed: true }
    }

    /// Of a file in the first format, whose records stand for themselves.
    pub(crate) const fn unplaced(mut self) -> Self {
        self.placed = false;
        self
    }

    fn aad(&self, prev: &Hash16) -> Vec<u8> {
        let mut aad = self.scope.clone();
        aad.extend_from_slice(prev);
        aad
    }

    /// Appends one record to `out` and returns its link.
    fn encode(
        &self,
        prev: &Hash16,
        nonce: &[u8; RECORD_NONCE_LEN],
        (place, payload): (Place, &[u8]),
        out: &mut Writer,
    ) -> Hash16 {
        let mut plain = Writer::new();
        if self.placed {
            plain.u32(place.before).u8(place.part as u8);
        }
        let plain = Zeroizing::new(plain.raw(payload).as_bytes().to_vec());
        let sealed = seal_record(&self.key, nonce, &self.aad(prev), &plain);
        let mut record = Writer::new();
        record.u32(sealed.len() as u32).raw(prev).raw(nonce).raw(&sealed); // the caller keeps the cap
        out.raw(record.as_bytes());
        link(record.as_bytes())
    }

    fn open(&self, frame: &Frame<'_>) -> Option<(Place, Vec<u8>)> {
        let mut plain = open_record(&self.key, &frame.nonce, &self.aad(&frame.prev), frame.sealed).ok()?;
        if !self.placed {
            return Some((Place::ALONE, plain));
        }
        let mut r = Reader::new(&plain);
        let before = r.u32().ok()?;
        let part = match r.u8().ok()? {
            0 => Part::More,
            1 => Part::Last,
            2 => Part::Proof,
            _ => return None,
        };
        let place = Place { before, part };
        plain.drain(..PLACE_LEN);
        Some((place, plain))
    }
}

/// A stretch of bytes that has the form of a record.
struct Frame<'a> {
    prev: Hash16,
    nonce: [u8; RECORD_NONCE_LEN],
    sealed: &'a [u8],
    whole: &'a [u8],
}

impl<'a> Frame<'a> {
    fn at_start(bytes: &'a [u8]) -> Option<Self> {
        let mut r = Reader::new(bytes);
        let len = r.u32().ok()? as usize;
        if !(TAG_LEN..=PLACE_LEN + MAX_PAYLOAD_LEN + TAG_LEN).contains(&len) {
            return None;
        }
        let (prev, nonce) = (r.array().ok()?, r.array().ok()?);
        let sealed = r.take(len).ok()?;
        Some(Self { prev, nonce, sealed, whole: bytes.get(..PREFIX_LEN + len)? })
    }
}

/// One record that was read back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) payload: Vec<u8>,
    pub(crate) link: Hash16,
}

/// What a file held.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    pub(crate) records: Vec<Record>,
    /// Damaged stretches and breaks of the chain, each counted once.
    pub(crate) damaged: u64,
    /// Offset behind the last valid record; what follows is a torn tail.
    end: usize,
    /// Link of the last valid record.
    last: Hash16,
    /// Whether everything in the file is known to have been synced once.
    proven: bool,
}

/// Where a record was found, and whether what comes before it is missing.
#[derive(Clone, Copy, Debug)]
struct Spot {
    at: usize,
    end: usize,
    place: Place,
    broken: bool,
    link: Hash16,
}

impl Replay {
    /// Where the last valid record ends.
    pub(crate) const fn end(&self) -> End {
        End { at: self.end as u64, last: self.last }
    }
}

/// Place and payload of a record, and its link.
type Opened = ((Place, Vec<u8>), Hash16);

/// Reads all records of a long file without any damage, on all cores; `None` for any other file.
fn whole(seal: &Seal, bytes: &[u8], header_len: usize) -> Option<Replay> {
    let mut rest = bytes.get(header_len..)?;
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let frame = Frame::at_start(rest)?;
        rest = rest.get(frame.whole.len()..)?;
        frames.push(frame);
    }
    if frames.len() < LONG {
        return None;
    }
    let open = |frame: &Frame<'_>| Some((seal.open(frame)?, link(frame.whole)));
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get().min(MOST_CORES));
    let parts: Option<Vec<Vec<Opened>>> = std::thread::scope(|scope| {
        let chunks = frames.chunks(frames.len().div_ceil(cores));
        let readers: Vec<_> =
            chunks.map(|part| scope.spawn(move || part.iter().map(open).collect::<Option<_>>())).collect();
        readers.into_iter().map(|reader| reader.join().ok().flatten()).collect()
    });
    let header = bytes.get(..header_len)?;
    let mut out = Replay { end: header.len(), last: link(header), ..Replay::default() };
    let mut spots = Vec::with_capacity(frames.len());
    for (frame, ((place, payload), link)) in frames.iter().zip(parts?.into_iter().flatten()) {
        if frame.prev != out.last {
            return None;
        }
        let at = out.end;
        (out.end, out.last) = (at + frame.whole.len(), link);
        spots.push(Spot { at, end: out.end, place, broken: false, link });
        if place.part != Part::Proof {
            out.records.push(Record { payload, link });
        }
    }
    out.proven = spots.last().is_some_and(|spot| spot.place.part == Part::Proof);
    unfinished(&spots, header.len(), bytes.len()).is_none().then_some(out)
}

/// Reads all records of a file whose header takes `header_len` bytes.
fn replay(seal: &Seal, bytes: &[u8], header_len: usize) -> Replay {
    let header = bytes.get(..header_len).unwrap_or(bytes);
    let mut out = Replay { end: header.len(), last: link(header), ..Replay::default() };
    let mut spots: Vec<Spot> = Vec::new();
    let mut budget = SEARCH_BUDGET;
    let mut gave_up = false;
    while let Some(rest) = bytes.get(out.end..).filter(|rest| !rest.is_empty()) {
        let (skipped, frame, (place, payload)) = match next(seal, rest, &mut budget) {
            Found::Record(skipped, frame, opened) => (skipped, frame, opened),
            Found::Nothing => break,
            Found::GaveUp => {
                gave_up = true;
                break;
            }
        };
        // Behind damage the predecessor is unknown. A wrong link without damage means that a whole
        // record was taken out; the rest is still what this node wrote, so it is kept.
        let broken = skipped > 0 || frame.prev != out.last;
        let at = out.end + skipped;
        out.last = link(frame.whole);
        out.end = at + frame.whole.len();
        spots.push(Spot { at, end: out.end, place, broken, link: out.last });
        if place.part != Part::Proof {
            out.records.push(Record { payload, link: out.last });
        }
    }
    if let Some(kept) = unfinished(&spots, header.len(), bytes.len()).filter(|_| !gave_up) {
        let gone = spots.split_off(kept);
        let gone = gone.iter().filter(|spot| spot.place.part != Part::Proof).count();
        out.records.truncate(out.records.len() - gone);
        out.end = spots.last().map_or(header.len(), |spot| spot.end);
        out.last = spots.last().map_or_else(|| link(header), |spot| spot.link);
    }
    out.damaged = spots.iter().filter(|spot| spot.broken).count() as u64 + u64::from(gave_up);
    out.proven = spots.last().is_none_or(|spot| spot.place.part == Part::Proof);
    out
}

/// How many records stand before the last append, if that one was cut short: some of it is there and
/// some is not, and neither another append nor a proof stands behind it. It was never promised then,
/// and goes as a whole.
///
/// Damage to the last append after a kill looks the same, and what it held is set aside as a torn
/// tail is. Where the damage begins before the append, it is none of a cut, and everything is kept.
fn unfinished(spots: &[Spot], header_len: usize, file_len: usize) -> Option<usize> {
    let newest = spots.last()?;
    let start = newest.at.checked_sub(newest.place.before as usize)?;
    let kept = spots.partition_point(|spot| spot.at < start);
    let (before, append) = spots.split_at_checked(kept)?;
    let ends = newest.place.part != Part::More;
    let is_whole = ends
        && append.first().is_some_and(|first| first.at == start)
        && append.iter().skip(1).all(|spot| !spot.broken);
    let more_behind = ends && newest.end < file_len;
    let untouched_before = before.last().map_or(header_len, |spot| spot.end) == start;
    (!is_whole && !more_behind && untouched_before).then_some(kept)
}

enum Found<'a> {
    /// Bytes skipped, the record and what it holds.
    Record(usize, Frame<'a>, (Place, Vec<u8>)),
    Nothing,
    GaveUp,
}

/// The next record that opens: at the start, else where the bad record's own length points to,
/// else at the first offset behind.
fn next<'a>(seal: &Seal, bytes: &'a [u8], budget: &mut usize) -> Found<'a> {
    let first = Frame::at_start(bytes);
    if let Some(frame) = first {
        if let Some(payload) = seal.open(&frame) {
            return Found::Record(0, frame, payload);
        }
        let skipped = frame.whole.len();
        if let Some(frame) = bytes.get(skipped..).and_then(Frame::at_start)
            && let Some(payload) = seal.open(&frame)
        {
            return Found::Record(skipped, frame, payload);
        }
    }
    for skipped in 1..bytes.len() {
        let Some(frame) = bytes.get(skipped..).and_then(Frame::at_start) else { continue };
        let Some(left) = budget.checked_sub(frame.sealed.len()) else { return Found::GaveUp };
        *budget = left;
        if let Some(payload) = seal.open(&frame) {
            return Found::Record(skipped, frame, payload);
        }
    }
    Found::Nothing
}

/// Whether the record right behind the header opens, whatever the header says.
pub(crate) fn opens_first(seal: &Seal, bytes: &[u8], header_len: usize) -> bool {
    bytes.get(header_len..).and_then(Frame::at_start).is_some_and(|frame| seal.open(&frame).is_some())
}

/// An open log, ready to append.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: Box<dyn File>,
    seal: Seal,
    last: Hash16,
    end: u64,
    /// Nothing was appended since the last proof.
    proven: bool,
    disk: Disk,
}

impl Log {
    /// Writes a new file with `payloads` and syncs it. The caller makes the name durable.
    pub(crate) fn create(
        path: &Path,
        header: &[u8],
        seal: Seal,
        payloads: &[Vec<u8>],
        disk: &Disk,
    ) -> Result<(Self, Vec<Hash16>), StoreError> {
        let file = disk.create_new(path)?;
        let (mut bytes, links) = encode_all(&seal, link(header), payloads, header.to_vec(), false)?;
        let mut last = links.last().copied().unwrap_or_else(|| link(header));
        if !links.is_empty() && seal.placed {
            // The file gets its name after it was synced, so whoever finds it may take it as proven.
            let (proof, behind) = encode_proof(&seal, last)?;
            bytes.extend_from_slice(&proof);
            last = behind;
        }
        let written = file.write_at(0, &bytes).and_then(|()| file.sync()).at(path);
        disk.measured(written, bytes.len() as u64)?;
        let (path, disk) = (path.to_owned(), disk.clone());
        Ok((Self { path, file, seal, last, end: bytes.len() as u64, proven: true, disk }, links))
    }

    /// Reads a whole file; `seal` makes the key from the header.
    pub(crate) fn read(
        disk: &Disk,
        path: &Path,
        header_len: usize,
        seal: impl FnOnce(&[u8]) -> Result<Seal, StoreError>,
    ) -> Result<(Replay, Seal, Vec<u8>), StoreError> {
        let bytes = disk.read(path)?;
        let header = bytes.get(..header_len);
        let seal = seal(header.ok_or_else(|| StoreError::damaged(path, "its header is cut off"))?)?;
        let replay = whole(&seal, &bytes, header_len).unwrap_or_else(|| replay(&seal, &bytes, header_len));
        Ok((replay, seal, bytes))
    }

    /// Opens a file for appending, behind its last valid record. A torn tail is moved to the file
    /// `.torn` beside it, for whoever wants to look; returns how many bytes that were.
    pub(crate) fn open(
        path: &Path,
        header_len: usize,
        seal: impl FnOnce(&[u8]) -> Result<Seal, StoreError>,
        disk: &Disk,
    ) -> Result<(Self, Replay, u64), StoreError> {
        let (replay, seal, bytes) = Self::read(disk, path, header_len, seal)?;
        let file = disk.open(path)?;
        let torn = bytes.get(replay.end..).unwrap_or_default();
        if !torn.is_empty() {
            match set_aside(disk, path, torn) {
                // Nothing in it was promised, and a full disk must not keep the store shut.
                Err(StoreError::Full { .. }) => {}
                other => other?,
            }
            file.set_len(replay.end as u64).and_then(|()| file.sync()).at(path)?;
        }
        let (path, disk) = (path.to_owned(), disk.clone());
        let (last, end, proven) = (replay.last, replay.end as u64, replay.proven);
        let log = Self { path, file, seal, last, end, proven, disk };
        Ok((log, replay, torn.len() as u64))
    }

    /// Appends records with one write and one sync; on return they are durable, and a kill before
    /// leaves all of them or none. Returns their links.
    /// A full disk ([`StoreError::Full`]) leaves the log as it was, ready for the next attempt.
    pub(crate) fn append(&mut self, payloads: &[Vec<u8>]) -> Result<Vec<Hash16>, StoreError> {
        self.disk.check()?;
        let (bytes, links) = encode_all(&self.seal, self.last, payloads, Vec::new(), true)?;
        let Some(last) = links.last() else { return Ok(links) };
        let written =
            self.disk.measured(self.file.write_at(self.end, &bytes).at(&self.path), bytes.len() as u64);
        if matches!(written, Err(StoreError::Full { .. })) {
            // No sync was tried, so nobody doubts what the disk holds: the part that was written is cut
            // off. Left there, it might come back as records that were refused.
            let cut = self.file.set_len(self.end).and_then(|()| self.file.sync()).at(&self.path);
            self.disk.guard(cut)?;
            return written.map(|()| links);
        }
        self.disk.guard(written.and_then(|()| self.file.sync().at(&self.path)))?;
        self.last = *last;
        self.end += bytes.len() as u64;
        self.proven = false;
        Ok(links)
    }

    /// Writes down that all appends were synced, so that damage to the last one can be told from a
    /// write that was cut short. For the close; an append proves what stands before it as well.
    pub(crate) fn prove(&mut self) -> Result<(), StoreError> {
        self.disk.check()?;
        if self.proven || !self.seal.placed {
            return Ok(());
        }
        let (bytes, last) = encode_proof(&self.seal, self.last)?;
        let written = self.file.write_at(self.end, &bytes).and_then(|()| self.file.sync());
        if written.is_err() {
            let _ = self.file.set_len(self.end); // else a part of it, on a full disk say, is a torn tail
        }
        written.at(&self.path)?;
        (self.last, self.proven) = (last, true);
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// The same open file, which has another name now.
    pub(crate) fn renamed(mut self, path: &Path) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    /// Makes durable what was found on opening.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        self.disk.guard(self.file.sync().at(&self.path))
    }

    /// Bytes of the file.
    pub(crate) const fn len_bytes(&self) -> u64 {
        self.end
    }

    /// Where the log ends, and the link of its last record.
    pub(crate) const fn end(&self) -> End {
        End { at: self.end, last: self.last }
    }
}

/// Where a log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    at: u64,
    last: Hash16,
}

/// Reads a file again. True if it is what was written to it: every record opens, each follows the one before, and
/// the last is the one that memory says, where memory says (`None`: wherever the file ends).
pub(crate) fn read_again(
    disk: &Disk,
    path: &Path,
    header_len: usize,
    seal: impl FnOnce(&[u8]) -> Result<Seal, StoreError>,
    end: Option<End>,
) -> Result<(bool, Vec<Record>), StoreError> {
    let (replay, _, bytes) = Log::read(disk, path, header_len, seal)?;
    let whole = replay.damaged == 0 && replay.end == bytes.len();
    Ok((whole && end.is_none_or(|end| end == replay.end()), replay.records))
}

impl Drop for Log {
    fn drop(&mut self) {
        self.file.settle();
    }
}

/// A proof, chained from `last`, and its link.
fn encode_proof(seal: &Seal, last: Hash16) -> Result<(Vec<u8>, Hash16), StoreError> {
    let mut w = Writer::new();
    let link = seal.encode(&last, &disk::random()?, (Place::PROOF, &[]), &mut w);
    Ok((w.into_bytes(), link))
}

/// The records of `payloads` behind `out`, chained from `last`; `together` as one append, of which a
/// reader takes all or none.
fn encode_all(
    seal: &Seal,
    mut last: Hash16,
    payloads: &[Vec<u8>],
    out: Vec<u8>,
    together: bool,
) -> Result<(Vec<u8>, Vec<Hash16>), StoreError> {
    if payloads.iter().any(|p| p.len() > MAX_PAYLOAD_LEN) {
        return Err(StoreError::Misuse("a record is larger than 1 MiB"));
    }
    let mut w = Writer::new();
    w.raw(&out);
    let mut nonces = vec![[0; RECORD_NONCE_LEN]; payloads.len()];
    disk::fill_random(nonces.as_flattened_mut())?;
    let mut links = Vec::with_capacity(payloads.len());
    for (i, (payload, nonce)) in payloads.iter().zip(&nonces).enumerate() {
        let before = u32::try_from(w.len() - out.len())
            .map_err(|_| StoreError::Misuse("records of more than 4 GiB at once"))?;
        let part = if i + 1 == payloads.len() { Part::Last } else { Part::More };
        let place = if together { Place { before, part } } else { Place::ALONE };
        last = seal.encode(&last, nonce, (place, payload), &mut w);
        links.push(last);
    }
    Ok((w.into_bytes(), links))
}

pub(crate) fn set_aside(disk: &Disk, path: &Path, torn: &[u8]) -> Result<(), StoreError> {
    let aside = path.with_extension("torn");
    let file = disk.open_or_create(&aside)?;
    let end = file.len().at(&aside)?;
    file.write_at(end, torn).and_then(|()| file.sync()).at(&aside)?;
    file.settle();
    disk.sync_parent(&aside)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEADER: &[u8; 17] = b"KITHJRNL\x02\x07\0\0\0\0\0\0\0";

    fn seal() -> Seal {
        Seal::new(Key::new([0x44; 32]), b"KITHJRNL", &7_u64.to_le_bytes())
    }

    /// A file with appends of these sizes, and where its records start.
    fn appends(payloads: &[&[u8]], sizes: &[usize]) -> (Vec<u8>, Vec<usize>) {
        let (mut w, mut last, mut starts) = (Writer::new(), link(HEADER), vec![]);
        w.raw(HEADER);
        for size in sizes {
            let start = w.len();
            for i in 0..*size {
                let part = if i + 1 == *size { Part::Last } else { Part::More };
                let place = Place { before: (w.len() - start) as u32, part };
                let n = starts.len();
                starts.push(w.len());
                last = seal().encode(&last, &[n as u8; 24], (place, payloads[n]), &mut w);
            }
        }
        assert_eq!(starts.len(), payloads.len());
        (w.into_bytes(), starts)
    }

    /// Each record appended by itself.
    fn file(payloads: &[&[u8]]) -> (Vec<u8>, Vec<usize>) {
        appends(payloads, &vec![1; payloads.len()])
    }

    fn payloads(replay: &Replay) -> Vec<&[u8]> {
        replay.records.iter().map(|r| r.payload.as_slice()).collect()
    }

    #[test]
    fn vector_journal_record() {
        let (bytes, _) = appends(&[b"\x01first", b"\x01second"], &[2]);
        crate::vectors::check(
            "journal_record",
            &bytes,
            &[
                (8, "segment header: magic KITHJRNL"),
                (1, "version 2"),
                (8, "segment number 7"),
                (4, "record 1: length of the box, 5 + 6 + 16"),
                (16, "prev: BLAKE3 of the segment header, first 16 bytes"),
                (24, "nonce"),
                (27, "box of 00000000 00 01 'first' under key 44..44, AAD = magic, segment number, prev"),
                (4, "record 2 of the same append: length of the box, 5 + 7 + 16"),
                (16, "prev: BLAKE3 of record 1, first 16 bytes"),
                (24, "nonce"),
                (28, "box of 47000000 01 01 'second': 71 bytes of the append before it, and its end"),
            ],
        );
        let back = replay(&seal(), &bytes, HEADER.len());
        assert_eq!(payloads(&back), [b"\x01first".as_slice(), b"\x01second"]);
    }

    #[test]
    fn a_long_file_is_read_alike_by_several_threads() {
        let payloads: Vec<Vec<u8>> = (0..LONG + 7).map(|n| n.to_le_bytes().to_vec()).collect();
        let (bytes, links) = encode_all(&seal(), link(HEADER), &payloads, HEADER.to_vec(), true).unwrap();
        let (fast, slow) = (whole(&seal(), &bytes, 17).unwrap(), replay(&seal(), &bytes, 17));
        assert_eq!(fast.records, slow.records);
        assert_eq!((fast.end, fast.last, fast.damaged), (slow.end, slow.last, slow.damaged));
        assert_eq!(links.last(), Some(&fast.last));
        // Whatever is amiss is left to the careful reader.
        for at in [17, bytes.len() / 2, bytes.len() - 1] {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(whole(&seal(), &bad, 17).is_none());
        }
        assert!(whole(&seal(), &bytes[..bytes.len() - 1], 17).is_none());
    }

    #[test]
    fn a_bad_record_in_the_middle_costs_only_itself() {
        let (good, starts) = file(&[b"one", b"two", b"three"]);
        for at in starts[1]..starts[2] {
            let mut bad = good.clone();
            bad[at] ^= 0x80;
            let back = replay(&seal(), &bad, HEADER.len());
            assert_eq!(payloads(&back), [b"one".as_slice(), b"three"], "byte {at}");
            assert_eq!((back.damaged, back.end), (1, good.len()), "byte {at}");
        }
    }

    /// Records of one append used to count each by itself, so a power cut could leave the row of a
    /// publication without its entry, and a torn record before a whole one was reported as damage.
    #[test]
    fn an_append_that_was_cut_short_goes_as_a_whole() {
        let (good, starts) = appends(&[b"kept", b"one", b"two", b"three"], &[1, 3]);
        let end_of = |i: usize| starts.get(i + 1).copied().unwrap_or(good.len());
        for lost in 1_u8..8 {
            let mut torn = good.clone();
            for i in (0..3).filter(|i| lost >> i & 1 == 1) {
                torn[starts[i + 1]..end_of(i + 1)].fill(0);
            }
            let back = replay(&seal(), &torn, HEADER.len());
            assert_eq!((payloads(&back), back.damaged), (vec![b"kept".as_slice()], 0), "{lost:b}");
            assert_eq!((back.end, back.last), (starts[1], back.records[0].link), "{lost:b}");
        }
        assert_eq!(replay(&seal(), &good, HEADER.len()).records.len(), 4);
    }

    #[test]
    fn what_was_appended_behind_proves_an_append() {
        let (good, starts) = appends(&[b"one", b"two", b"three"], &[2, 1]);
        let mut bad = good.clone();
        bad[starts[0] + 50] ^= 1;
        let back = replay(&seal(), &bad, HEADER.len());
        assert_eq!((payloads(&back), back.damaged), (vec![b"two".as_slice(), b"three"], 1));
        // Even when what was appended behind is torn itself.
        bad.truncate(good.len() - 1);
        let back = replay(&seal(), &bad, HEADER.len());
        assert_eq!((payloads(&back), back.damaged, back.end), (vec![b"two".as_slice()], 1, starts[2]));
    }

    /// Damage to the last append used to pass for a write that was cut short, even when the log had
    /// been closed in peace.
    #[test]
    fn a_close_proves_the_last_append() {
        let dir = tempfile::tempdir().unwrap();
        let (path, disk) = (dir.path().join("log"), Disk::real());
        let (mut log, _) = Log::create(&path, HEADER, seal(), &[], &disk).unwrap();
        log.append(&[b"one".to_vec(), b"two".to_vec()]).unwrap();
        for _ in 0..2 {
            log.prove().unwrap(); // once is enough
        }
        drop(log);
        let good = std::fs::read(&path).unwrap();
        for at in HEADER.len()..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            let back = replay(&seal(), &bad, HEADER.len());
            // A damaged proof proves nothing and costs nothing.
            let (records, damaged) = if at < HEADER.len() + 2 * 68 { (1, 1) } else { (2, 0) };
            assert_eq!((back.records.len(), back.damaged), (records, damaged), "byte {at}");
        }
        let (mut log, back, _) = Log::open(&path, HEADER.len(), |_| Ok(seal()), &disk).unwrap();
        assert!(back.proven && log.len_bytes() == good.len() as u64);
        log.append(&[b"three".to_vec()]).unwrap();
        drop(log);
        let (back, _, _) = Log::read(&disk, &path, HEADER.len(), |_| Ok(seal())).unwrap();
        assert_eq!((payloads(&back), back.damaged), (vec![b"one".as_slice(), b"two", b"three"], 0));
        assert!(!back.proven);
    }

    #[test]
    fn damage_that_begins_before_a_cut_append_costs_nothing_else() {
        let (mut bytes, starts) = appends(&[b"one", b"two", b"three", b"four"], &[2, 2]);
        bytes[starts[1]..starts[3]].fill(0);
        let back = replay(&seal(), &bytes, HEADER.len());
        assert_eq!((payloads(&back), back.damaged), (vec![b"one".as_slice(), b"four"], 1));
        assert_eq!(back.end, bytes.len(), "nothing is cut off");
    }

    #[test]
    fn a_record_taken_out_is_counted() {
        let (mut bytes, starts) = file(&[b"one", b"two", b"three"]);
        bytes.drain(starts[1]..starts[2]);
        let back = replay(&seal(), &bytes, HEADER.len());
        assert_eq!((payloads(&back), back.damaged), (vec![b"one".as_slice(), b"three"], 1));
    }

    #[test]
    fn every_torn_tail_is_found() {
        let (good, starts) = file(&[b"one", b"two"]);
        for cut in starts[1]..good.len() {
            let back = replay(&seal(), &good[..cut], HEADER.len());
            assert_eq!((payloads(&back), back.damaged), (vec![b"one".as_slice()], 0));
            assert_eq!(back.end, starts[1]);
            // A file system may have made the file longer without writing the data.
            let mut zeros = good[..cut].to_vec();
            zeros.resize(good.len() + 100, 0);
            let back = replay(&seal(), &zeros, HEADER.len());
            assert_eq!((back.records.len(), back.damaged), (1, 0));
        }
    }

    #[test]
    fn a_full_disk_that_cannot_be_cut_back_ends_writing() {
        let dir = tempfile::tempdir().unwrap();
        let (path, disk) = (dir.path().join("log"), Disk::real());
        let (mut log, _) = Log::create(&path, HEADER, seal(), &[], &disk).unwrap();
        log.append(&[b"kept".to_vec()]).unwrap();
        let good = std::mem::replace(&mut log.file, crate::backend::full());
        assert!(log.append(&[b"lost".to_vec()]).is_err());
        log.file = good;
        assert!(matches!(log.append(&[b"late".to_vec()]), Err(StoreError::ReadOnly)));
        let (again, _, _) = Log::read(&disk, &path, HEADER.len(), |_| Ok(seal())).unwrap();
        assert_eq!(payloads(&again), [b"kept"]);
    }

    #[test]
    fn a_torn_tail_is_set_aside_and_writing_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let (path, disk) = (dir.path().join("00000007.log"), Disk::real());
        let (bytes, starts) = file(&[b"one", b"two"]);
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        let (mut log, back, torn) = Log::open(&path, HEADER.len(), |_| Ok(seal()), &disk).unwrap();
        assert_eq!((back.records.len(), torn), (1, (bytes.len() - 1 - starts[1]) as u64));
        let aside = std::fs::read(dir.path().join("00000007.torn")).unwrap();
        assert_eq!(aside, bytes[starts[1]..bytes.len() - 1]);
        log.append(&[b"three".to_vec(), b"four".to_vec()]).unwrap();
        drop(log);
        let (_, back, torn) = Log::open(&path, HEADER.len(), |_| Ok(seal()), &disk).unwrap();
        assert_eq!(payloads(&back), [b"one".as_slice(), b"three", b"four"]);
        assert_eq!((back.damaged, torn), (0, 0));
    }

    proptest! {
        #[test]
        fn any_bytes_replay_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let back = replay(&seal(), &bytes, HEADER.len());
            prop_assert!(back.records.is_empty() && back.end <= bytes.len());
        }

        #[test]
        fn what_is_written_comes_back(list in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..12)) {
            let slices: Vec<&[u8]> = list.iter().map(Vec::as_slice).collect();
            let (bytes, _) = file(&slices);
            let back = replay(&seal(), &bytes, HEADER.len());
            prop_assert_eq!(payloads(&back), slices);
            prop_assert_eq!((back.damaged, back.end), (0, bytes.len()));
        }

        #[test]
        fn one_changed_byte_costs_at_most_one_record(at in 17_usize..500, bit in 0_u8..8) {
            let (mut bytes, _) = file(&[&[1; 60], &[2; 60], &[3; 60], &[4; 60]]);
            let at = at.min(bytes.len() - 1);
            bytes[at] ^= 1 << bit;
            let back = replay(&seal(), &bytes, HEADER.len());
            prop_assert_eq!(back.records.len(), 3);
        }
    }
}
