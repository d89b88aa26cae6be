//! What stands around a film in its sealed head: tracks, chapters, captions, a poster. Read from what is here; nobody
//! is asked for it.

use super::*;
use crate::publish::{CAPTIONS, STORYBOARD};
use kith_crypto::content::{BLOCK_LEN, Head, Part, Position, ReadCap, ReadKeys};

/// The requests.
pub(super) fn routes() -> Router<Api> {
    Router::new().route("/api/videos/{id}/around", get(around))
}

#[derive(OpenApi)]
#[openapi(paths(around))]
pub(super) struct Docs;

/// A track of the film.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct TrackView {
    /// `video`, `audio` or `text`.
    pub(crate) kind: &'static str,
    pub(crate) codec: String,
    pub(crate) lang: String,
    pub(crate) width: u16,
    pub(crate) height: u16,
    /// `yes`, `some` or `no`.
    pub(crate) browser: &'static str,
}

/// A chapter.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ChapterView {
    pub(crate) begins_ms: u64,
    pub(crate) title: String,
}

/// Captions, or a sheet of small pictures.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct PartView {
    /// Behind a stream's address: `/parts/N`.
    pub(crate) n: usize,
    /// `captions` or `storyboard`.
    pub(crate) kind: &'static str,
    pub(crate) lang: String,
    pub(crate) label: String,
    pub(crate) step_ms: u32,
    pub(crate) columns: u8,
}

/// What stands around a film.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Around {
    pub(crate) lang: String,
    pub(crate) licence: String,
    pub(crate) tracks: Vec<TrackView>,
    pub(crate) chapters: Vec<ChapterView>,
    pub(crate) parts: Vec<PartView>,
    pub(crate) poster: bool,
}

impl Around {
    fn of(head: Head) -> Self {
        let pick = |names: [&'static str; 3], n: u8| names.get(usize::from(n)).copied().unwrap_or("");
        let track = |track: kith_crypto::content::Track| TrackView {
            kind: pick(["video", "audio", "text"], track.kind),
            browser: pick(["yes", "some", "no"], track.browser),
            codec: track.codec,
            lang: track.lang,
            width: track.width,
            height: track.height,
        };
        let part = |(n, part): (usize, Part)| {
            let kind = match part.kind {
                CAPTIONS => "captions",
                STORYBOARD => "storyboard",
                _ => return None,
            };
            let Part { step_ms, columns, lang, label, .. } = part;
            Some(PartView { n, kind, lang, label, step_ms, columns })
        };
        let chapters = head.chapters.into_iter().map(|(begins_ms, title)| ChapterView { begins_ms, title });
        Self {
            tracks: head.tracks.into_iter().map(track).collect(),
            chapters: chapters.collect(),
            parts: head.parts.into_iter().enumerate().filter_map(part).collect(),
            poster: !head.poster.is_empty(),
            lang: head.lang,
            licence: head.licence,
        }
    }
}

/// Where a part lies in the object's bytes; `None`: nowhere, or it is empty.
pub(crate) fn place_of(part: &Part) -> Option<(u64, u64)> {
    let start = u64::from(part.block) * BLOCK_LEN as u64;
    (part.len > 0).then(|| (start, start + u64::from(part.len) - 1))
}

impl Api {
    /// The head of a video, if it is here.
    pub(crate) async fn head_here(&self, id: String) -> Result<Option<Head>, Failure> {
        let cap = self
            .call(move |cx| {
                let (root, cap) = cx.service.resolve(cx.core, &id)?;
                cap.map_or_else(|| cx.service.read_cap(cx.core, &root), Ok)
            })
            .await?;
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || read_head(&store, &cap)).await.map_err(|_| bug())
    }

    /// What stands around a film, if that is here.
    pub(crate) async fn around(&self, id: String) -> Result<Option<Around>, Failure> {
        Ok(self.head_here(id).await?.map(Around::of))
    }
}

fn read_head(store: &Store, cap: &ReadCap) -> Option<Head> {
    let mut block = store.pack(&cap.root).and_then(|pack| pack.read(Position::Head)).ok()?;
    ReadKeys::new(&cap.key).open(Position::Head, &mut block).ok()?;
    Head::decode(&block).ok()
}

/// What stands around a film. 404 while its head is not here: it comes with the first bytes that are played.
#[utoipa::path(get, path = "/api/videos/{id}/around", tag = "videos", security(("token" = ["watch"])),
    params(("id" = String, Path, description = "the id, a unique beginning of 8 digits or more, or a link")),
    responses((status = 200, body = Around, description = "tracks, chapters, captions")))]
async fn around(State(api): State<Api>, Path(id): Path<String>) -> Answer<Around> {
    let missing =
        || Failure::new(Exit::NotFound, "this is not here yet: it comes with the first bytes of the film");
    Ok(Json(api.around(id).await?.ok_or_else(missing)?))
}
