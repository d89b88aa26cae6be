//! Publishing: from a stream of bytes of unknown length to a stored object, in one pass and with
//! memory bounded by the tree's ids. One thread takes in and seals, another writes the pack.

use crate::duration::Meter;
use crate::exit::{Exit, Failure};
use crate::media_type;
use axum::body::Bytes;
use kith_crypto::aead::TAG_LEN;
use kith_crypto::content::{self, BLOCK_LEN, Builder, Geometry, Head, ReadCap, SEALED_LEN, Sealed};
use kith_crypto::secret::Key;
use kith_store::{Publishing, Store, StoreError};
use serde::{Deserialize, Serialize};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use utoipa::ToSchema;

/// Sealed blocks that wait to be written.
const QUEUE: usize = 16;

/// What the publisher says about a file.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Meta {
    /// Title.
    pub title: String,
    /// Description.
    #[serde(default)]
    pub text: String,
    /// Tags.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Language tag or empty.
    #[serde(default)]
    pub lang: String,
    /// Licence or empty.
    #[serde(default)]
    pub licence: String,
    /// `friends`, `fof` or `friend:NAME`.
    pub to: String,
    /// Publish the file byte for byte.
    #[serde(default)]
    pub keep_metadata: bool,
    /// Accept what is no media file.
    #[serde(default)]
    pub any_file: bool,
}

impl Meta {
    /// Refuses what would have to be cut.
    pub fn check(&self) -> Result<(), Failure> {
        let too_long = |what: &str, len: usize, max: usize| {
            if len <= max {
                return Ok(());
            }
            let what = format!("the {what} has {len} bytes, {max} are allowed: shorten it");
            Err(Failure::new(Exit::Usage, what))
        };
        if self.title.trim().is_empty() {
            return Err(Failure::new(Exit::Usage, "the title is empty: give one with --title"));
        }
        too_long("title", self.title.len(), content::MAX_TITLE_LEN)?;
        too_long("text", self.text.len(), content::MAX_TEXT_LEN)?;
        too_long("language", self.lang.len(), 64)?;
        too_long("licence", self.licence.len(), 64)?;
        if self.tags.len() > content::MAX_TAGS {
            let what = format!("there are {} tags, {} are allowed", self.tags.len(), content::MAX_TAGS);
            return Err(Failure::new(Exit::Usage, what));
        }
        self.tags.iter().try_for_each(|tag| too_long("tag", tag.len(), content::MAX_TAG_LEN))?;
        let fitting = kith_onion::entry::fitting_tags(&self.tags);
        if fitting.len() != self.tags.len() {
            let max = kith_onion::entry::MAX_TAGS_LEN;
            let what =
                format!("the tags are too long together ({max} bytes with one more for each) or empty");
            return Err(Failure::new(Exit::Usage, what));
        }
        Ok(())
    }
}

/// A stored object.
#[derive(Debug)]
pub struct Stored {
    /// Reads it.
    pub cap: ReadCap,
    /// Its shape.
    pub geometry: Geometry,
    /// True length in bytes.
    pub len: u64,
    /// Media type.
    pub mime: String,
    /// Seconds, 0 when the file does not say.
    pub duration_s: u32,
}

/// Blocks of full length out of chunks of any length.
struct Blocks<F> {
    next_chunk: F,
    rest: Bytes,
    done: bool,
}

impl<F: FnMut() -> Result<Option<Bytes>, Failure>> Blocks<F> {
    fn next(&mut self) -> Result<Vec<u8>, Failure> {
        // Room for both seals: the block's and the pack's.
        let mut block = Vec::with_capacity(SEALED_LEN + TAG_LEN);
        while block.len() < BLOCK_LEN && !self.done {
            if self.rest.is_empty() {
                match (self.next_chunk)()? {
                    Some(chunk) => self.rest = chunk,
                    None => self.done = true,
                }
                continue;
            }
            let piece = self.rest.split_to(self.rest.len().min(BLOCK_LEN - block.len()));
            block.extend_from_slice(&piece);
        }
        Ok(block)
    }
}

/// The half of publishing that seals and hashes.
struct Sealing {
    builder: Builder,
    len: u64,
    meter: Meter,
}

impl Sealing {
    /// Sends all data blocks on, with those that pad the length. Ends quietly when nobody takes them.
    fn run<F: FnMut() -> Result<Option<Bytes>, Failure>>(
        &mut self,
        first: Vec<u8>,
        mut blocks: Blocks<F>,
        to: &SyncSender<Sealed>,
    ) -> Result<(), Failure> {
        let mut block = first;
        loop {
            self.len += block.len() as u64;
            self.meter.take(&block);
            let last = block.len() < BLOCK_LEN;
            if (!block.is_empty() || self.len == 0) && !self.push(block, to)? {
                return Ok(());
            }
            if last {
                break;
            }
            block = blocks.next()?;
        }
        while self.builder.data_count() < content::padded_blocks(self.len) {
            if !self.push(Vec::with_capacity(SEALED_LEN + TAG_LEN), to)? {
                break;
            }
        }
        Ok(())
    }

    /// Seals a block; tells whether it is still wanted.
    fn push(&mut self, block: Vec<u8>, to: &SyncSender<Sealed>) -> Result<bool, Failure> {
        let sealed = self.builder.push(block).ok_or_else(|| {
            Failure::new(Exit::Usage, "the file is larger than 256 GiB, the most that is possible")
        })?;
        Ok(to.send(sealed).is_ok())
    }
}

/// The half of publishing that writes.
fn write(mut publishing: Publishing, sealed: &Receiver<Sealed>) -> Result<Publishing, StoreError> {
    sealed.iter().try_for_each(|sealed| publishing.write(sealed))?;
    Ok(publishing)
}

/// Stores an object from `next_chunk` (`None` ends it). `record` makes the journal record that is
/// committed together with it.
pub fn run(
    store: &Store,
    meta: &Meta,
    key: Key,
    now_s: u64,
    next_chunk: impl FnMut() -> Result<Option<Bytes>, Failure>,
    record: impl FnOnce(&Stored) -> Vec<u8>,
) -> Result<Stored, Failure> {
    let mut blocks = Blocks { next_chunk, rest: Bytes::new(), done: false };
    let first = blocks.next()?;
    let mime = match media_type::sniff(first.get(..media_type::SNIFF_LEN).unwrap_or(&first)) {
        Some(mime) => mime,
        None if meta.any_file => "application/octet-stream",
        None => {
            return Err(Failure::new(
                Exit::UnsupportedMedia,
                "this is not a video file that kith knows (MP4, MOV, Matroska, WebM, MPEG-TS): \
                 publish it as it is with --any-file",
            ));
        }
    };
    let publishing = store.publish()?;
    let mut sealing = Sealing { builder: Builder::new(key), len: 0, meter: Meter::new(mime) };
    let mut publishing = std::thread::scope(|scope| {
        let (sender, sealed) = sync_channel(QUEUE);
        let writing = scope.spawn(move || write(publishing, &sealed));
        let done = sealing.run(first, blocks, &sender);
        drop(sender);
        // When writing ended early, that is why sealing did.
        let ended = || Failure::new(Exit::Failure, "publishing was interrupted");
        let publishing = writing.join().map_err(|_| ended())??;
        done.map(|()| publishing)
    })?;
    let Sealing { builder, len, meter } = sealing;
    let duration_ms = meter.finish();
    let head = Head {
        title: meta.title.clone(),
        text: meta.text.clone(),
        tags: meta.tags.clone(),
        mime: mime.to_owned(),
        lang: meta.lang.clone(),
        licence: meta.licence.clone(),
        len,
        duration_ms,
    };
    let mut failed = None;
    let (cap, geometry) = builder.finish(&head, |sealed| {
        if failed.is_none() {
            failed = publishing.write(sealed).err();
        }
    });
    if let Some(e) = failed {
        return Err(e.into());
    }
    let duration_s = duration_ms.div_ceil(1000) as u32;
    let stored = Stored { cap, geometry, len, mime: mime.to_owned(), duration_s };
    let record = record(&stored);
    publishing.commit(&stored.cap, geometry, now_s, record)?;
    Ok(stored)
}
