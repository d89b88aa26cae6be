//! Publishing: from a stream of bytes of unknown length to a stored object, with memory bounded by the tree's
//! ids. One thread takes in and seals, another writes the pack.
//!
//! What stands around a film (poster, captions, chapters) comes before it in the same stream, as [`Meta::extras`]
//! says. A film that its sender has not cleaned is kept sealed on the disk until all of it is there, and cleaned
//! from there: its index may stand at its end.

use crate::duration::Meter;
use crate::exit::{Exit, Failure};
use crate::media_type;
use crate::video::{self, Kind, Probe, Reading, Refused, captions, picture};
use axum::body::Bytes;
use kith_crypto::aead::TAG_LEN;
use kith_crypto::content::{
    self, BLOCK_LEN, Builder, Geometry, Head, Part, ReadCap, SEALED_LEN, Sealed, Track,
};
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
    /// What the sender found in the film and did to it; without it the node looks and cleans.
    #[serde(default)]
    pub film: Option<Film>,
    /// What stands before the film in the bytes that follow, in this order.
    #[serde(default)]
    pub extras: Vec<Extra>,
    /// Show viewers the chapters that are in the file.
    #[serde(default)]
    pub file_chapters: bool,
    /// Which file this is, so that it is not published again.
    #[serde(default)]
    pub source: Option<SourceId>,
}

/// What names a file until it changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SourceId {
    /// Its whole path.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// When it changed, as the system says it.
    pub modified: String,
}

/// A film and what was done to it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Film {
    /// What is in it.
    pub probe: Probe,
    /// What went, in plain words.
    pub stripped: Vec<String>,
    /// Whether it holds what can be cleaned and was not.
    pub metadata_kept: bool,
}

/// What stands around a film.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExtraKind {
    /// A picture: JPEG, PNG or WebP.
    Poster,
    /// SubRip or WebVTT.
    Captions,
    /// Lines of a time and a title.
    Chapters,
    /// Pictures of all of the film in rows, as one JPEG.
    Storyboard,
}

/// A file around the film.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Extra {
    /// What it is.
    pub kind: ExtraKind,
    /// Its length.
    pub bytes: u64,
    /// Of captions: language tag or empty.
    #[serde(default)]
    pub lang: String,
    /// Of captions: what people see in a list.
    #[serde(default)]
    pub label: String,
    /// Of a storyboard: milliseconds from one picture to the next.
    #[serde(default)]
    pub step_ms: u32,
    /// Of a storyboard: pictures in a row.
    #[serde(default)]
    pub columns: u8,
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
        if self.extras.len() > content::MAX_PARTS {
            let what = format!("{} files around the film are the most", content::MAX_PARTS);
            return Err(Failure::new(Exit::Usage, what));
        }
        for extra in &self.extras {
            too_long("language of captions", extra.lang.len(), 16)?;
            too_long("name of captions", extra.label.len(), 64)?;
            if extra.bytes > MAX_EXTRA {
                let what =
                    format!("a file around the film has more than {} MiB: make it smaller", MAX_EXTRA >> 20);
                return Err(Failure::new(Exit::Usage, what));
            }
        }
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

/// The largest file around a film.
const MAX_EXTRA: u64 = picture::MAX_LEN as u64;

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
    /// What was found in it and done to it.
    pub film: Film,
}

/// Chunks of any length, of which some bytes can be taken by themselves.
pub struct Chunks<F> {
    next: F,
    rest: Bytes,
    /// Nothing more is asked for: what ended once would be broken off when asked again.
    is_over: bool,
}

impl<F: FnMut() -> Result<Option<Bytes>, Failure>> Chunks<F> {
    /// From what gives the next chunk.
    pub const fn new(next: F) -> Self {
        Self { next, rest: Bytes::new(), is_over: false }
    }

    /// The next bytes; `None` at the end.
    fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        if !self.rest.is_empty() {
            return Ok(Some(std::mem::take(&mut self.rest)));
        }
        if self.is_over {
            return Ok(None);
        }
        let chunk = (self.next)()?;
        self.is_over = chunk.is_none();
        Ok(chunk)
    }

    /// Exactly so many bytes.
    fn take(&mut self, len: u64) -> Result<Vec<u8>, Failure> {
        let mut out = Vec::new();
        while (out.len() as u64) < len {
            let Some(chunk) = self.chunk()? else {
                return Err(Failure::new(Exit::Usage, "the bytes ended within a file around the film"));
            };
            self.rest = chunk;
            let missing = (len - out.len() as u64) as usize;
            out.extend_from_slice(&self.rest.split_to(self.rest.len().min(missing)));
        }
        Ok(out)
    }

    /// The first bytes of what is left, which stay.
    fn peek(&mut self, len: usize) -> Result<Bytes, Failure> {
        let mut seen = Vec::new();
        while seen.len() < len {
            match self.chunk()? {
                Some(chunk) => seen.extend_from_slice(&chunk),
                None => break,
            }
        }
        self.rest = seen.into();
        Ok(self.rest.slice(..self.rest.len().min(len)))
    }
}

/// What stands around a film, made ready.
#[derive(Debug, Default)]
struct Around {
    poster: Vec<u8>,
    chapters: Vec<(u64, String)>,
    parts: Vec<(Part, Vec<u8>)>,
}

impl Around {
    fn take<F: FnMut() -> Result<Option<Bytes>, Failure>>(
        extras: &[Extra],
        from: &mut Chunks<F>,
    ) -> Result<Self, Failure> {
        let mut around = Self::default();
        for extra in extras {
            let bytes = from.take(extra.bytes)?;
            let named = |what: &str| {
                let what = what.to_owned();
                move |Refused(why): Refused| {
                    Failure::new(Exit::UnsupportedMedia, format!("the {what}: {why}"))
                }
            };
            let (lang, label) = (extra.lang.clone(), extra.label.clone());
            match extra.kind {
                ExtraKind::Poster => {
                    around.poster =
                        picture::poster(&bytes, content::MAX_POSTER_LEN).map_err(named("poster"))?;
                }
                ExtraKind::Chapters => {
                    around.chapters = captions::chapters(&bytes).map_err(named("chapters"))?
                }
                ExtraKind::Captions => {
                    let vtt = captions::to_vtt(&bytes).map_err(named("captions"))?.into_bytes();
                    around.parts.push((Part { kind: CAPTIONS, lang, label, ..Part::default() }, vtt));
                }
                ExtraKind::Storyboard => {
                    let sheet = picture::sheet(&bytes, content::MAX_PART_LEN).map_err(named("storyboard"))?;
                    let (step_ms, columns) = (extra.step_ms, extra.columns);
                    around
                        .parts
                        .push((Part { kind: STORYBOARD, step_ms, columns, ..Part::default() }, sheet));
                }
            }
        }
        Ok(around)
    }
}

/// Kinds of parts behind the film.
pub const CAPTIONS: u8 = 1;
/// See [`CAPTIONS`].
pub const STORYBOARD: u8 = 2;

/// The film as its viewers get it, and what is known of it.
enum Input<F> {
    /// As it comes.
    Stream(Chunks<F>),
    /// From where it was kept until all of it was there.
    Kept { file: Box<kith_store::Spooled>, reading: Reading },
}

impl video::Source for kith_store::Spooled {
    fn size(&self) -> u64 {
        self.len()
    }

    fn read_at(&self, at: u64, buf: &mut [u8]) -> std::io::Result<usize> {
        self.read_at(at, buf).map_err(std::io::Error::other)
    }
}

impl<F: FnMut() -> Result<Option<Bytes>, Failure>> Input<F> {
    fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        match self {
            Self::Stream(chunks) => chunks.chunk(),
            Self::Kept { file, reading } => {
                let bytes = reading.next(file.as_ref(), BLOCK_LEN);
                let bytes = bytes.map_err(|e| {
                    Failure::new(Exit::Failure, format!("cannot read what was uploaded: {e}"))
                })?;
                Ok((!bytes.is_empty()).then(|| bytes.into()))
            }
        }
    }
}

/// The advice for what cannot be cleaned.
pub fn uncleanable(Refused(why): Refused) -> Failure {
    let what = format!(
        "this file cannot be cleaned: {why}; --keep-metadata publishes it as it is, with all it tells"
    );
    Failure::new(Exit::UnsupportedMedia, what)
}

/// What is no video.
pub fn no_video() -> Failure {
    Failure::new(
        Exit::UnsupportedMedia,
        "this is not a video file that kith knows (MP4, MOV, Matroska, WebM, MPEG-TS): publish it as it is with \
         --any-file",
    )
}

/// Looks at a film that comes, and keeps and cleans it if its sender did not.
fn input<F: FnMut() -> Result<Option<Bytes>, Failure>>(
    store: &Store,
    meta: &Meta,
    mut chunks: Chunks<F>,
    agreed: impl FnOnce(&Film) -> Result<(), Failure>,
) -> Result<(Input<F>, Film), Failure> {
    let start = chunks.peek(media_type::SNIFF_LEN)?;
    let Some(mime) = media_type::sniff(&start) else {
        if !meta.any_file {
            return Err(no_video());
        }
        let probe = Probe::of_type("application/octet-stream");
        return Ok((Input::Stream(chunks), Film { probe, stripped: Vec::new(), metadata_kept: false }));
    };
    if let Some(film) = &meta.film {
        // What browsers and players get is judged by the bytes alone.
        let same = |said: &str| said == mime || (said, mime) == ("video/mp4", "video/quicktime");
        if !same(&film.probe.mime) {
            return Err(Failure::new(Exit::Usage, "the film is of another kind than was said"));
        }
        return Ok((Input::Stream(chunks), film.clone()));
    }
    if meta.keep_metadata {
        let film = Film { probe: Probe::of_type(mime), stripped: Vec::new(), metadata_kept: true };
        return Ok((Input::Stream(chunks), film));
    }
    video::can_clean(mime).map_err(uncleanable)?;
    let mut spool = store.spool()?;
    while let Some(chunk) = chunks.chunk()? {
        spool.write(&chunk)?;
    }
    let file = Box::new(spool.finish()?);
    let ready = video::plan(file.as_ref()).map_err(uncleanable)?.ok_or_else(no_video)?;
    let film = Film { probe: ready.report.probe, stripped: ready.report.stripped, metadata_kept: false };
    store.room_for(content::padded_blocks(ready.plan.size()))?;
    agreed(&film)?;
    Ok((Input::Kept { file, reading: ready.plan.read() }, film))
}

/// Blocks of full length out of chunks of any length.
struct Blocks<F> {
    input: Input<F>,
    rest: Bytes,
    done: bool,
}

impl<F: FnMut() -> Result<Option<Bytes>, Failure>> Blocks<F> {
    fn next(&mut self) -> Result<Vec<u8>, Failure> {
        // Room for both seals: the block's and the pack's.
        let mut block = Vec::with_capacity(SEALED_LEN + TAG_LEN);
        while block.len() < BLOCK_LEN && !self.done {
            if self.rest.is_empty() {
                match self.input.chunk()? {
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
    /// Sends all data blocks on: the film, what lies behind it, and those that pad the length. Ends quietly when
    /// nobody takes them.
    fn run<F: FnMut() -> Result<Option<Bytes>, Failure>>(
        &mut self,
        mut blocks: Blocks<F>,
        parts: &mut [(Part, Vec<u8>)],
        to: &SyncSender<Sealed>,
    ) -> Result<(), Failure> {
        loop {
            let block = blocks.next()?;
            self.len += block.len() as u64;
            self.meter.take(&block);
            let last = block.len() < BLOCK_LEN;
            if (!block.is_empty() || self.len == 0) && !self.push(block, to)? {
                return Ok(());
            }
            if last {
                break;
            }
        }
        let mut all = self.len;
        for (part, bytes) in parts {
            part.block = self.builder.data_count() as u32;
            part.len = bytes.len() as u32;
            all = self.builder.data_count() * BLOCK_LEN as u64 + bytes.len() as u64;
            for chunk in bytes.chunks(BLOCK_LEN) {
                let mut block = Vec::with_capacity(SEALED_LEN + TAG_LEN);
                block.extend_from_slice(chunk);
                if !self.push(block, to)? {
                    return Ok(());
                }
            }
        }
        while self.builder.data_count() < content::padded_blocks(all) {
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

/// Stores an object from `next_chunk` (`None` ends it). `agreed` is asked about a film that was looked at here,
/// before anything of it is stored. `record` makes the journal record that is committed together with it.
pub fn run(
    store: &Store,
    meta: &Meta,
    key: Key,
    now_s: u64,
    next_chunk: impl FnMut() -> Result<Option<Bytes>, Failure>,
    agreed: impl FnOnce(&Film) -> Result<(), Failure>,
    record: impl FnOnce(&Stored) -> Vec<u8>,
) -> Result<Stored, Failure> {
    let mut chunks = Chunks::new(next_chunk);
    let mut around = Around::take(&meta.extras, &mut chunks)?;
    let (input, film) = input(store, meta, chunks, agreed)?;
    if meta.file_chapters && around.chapters.is_empty() {
        around.chapters.clone_from(&film.probe.chapters);
    }
    let blocks = Blocks { input, rest: Bytes::new(), done: false };
    let publishing = store.publish()?;
    let meter = Meter::new(&film.probe.mime);
    let mut sealing = Sealing { builder: Builder::new(key), len: 0, meter };
    let mut publishing = std::thread::scope(|scope| {
        let (sender, sealed) = sync_channel(QUEUE);
        let writing = scope.spawn(move || write(publishing, &sealed));
        let done = sealing.run(blocks, &mut around.parts, &sender);
        drop(sender);
        // When writing ended early, that is why sealing did.
        let ended = || Failure::new(Exit::Failure, "publishing was interrupted");
        let publishing = writing.join().map_err(|_| ended())??;
        done.map(|()| publishing)
    })?;
    let Sealing { builder, len, meter } = sealing;
    let duration_ms = if film.probe.duration_ms > 0 { film.probe.duration_ms } else { meter.finish() };
    let mime = film.probe.mime.clone();
    let head = Head {
        title: meta.title.clone(),
        text: meta.text.clone(),
        tags: meta.tags.clone(),
        mime: mime.clone(),
        lang: meta.lang.clone(),
        licence: meta.licence.clone(),
        len,
        duration_ms,
        tracks: film.probe.tracks.iter().map(head_track).collect(),
        chapters: around.chapters,
        poster: around.poster,
        parts: around.parts.into_iter().map(|(part, _)| part).collect(),
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
    let stored = Stored { cap, geometry, len, mime, duration_s, film };
    let record = record(&stored);
    publishing.commit(&stored.cap, geometry, now_s, record)?;
    Ok(stored)
}

/// A track as viewers are told of it.
fn head_track(track: &video::Track) -> Track {
    let pixels = |n: Option<u32>| n.and_then(|n| u16::try_from(n).ok()).unwrap_or_default();
    Track {
        kind: match track.kind {
            Kind::Video => 0,
            Kind::Audio => 1,
            Kind::Text => 2,
        },
        browser: track.browser as u8,
        width: pixels(track.width),
        height: pixels(track.height),
        codec: track.codec.clone(),
        lang: track.lang.clone().unwrap_or_default(),
    }
}
