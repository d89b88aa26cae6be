//! What the page needs beyond what commands ask: names, pictures of codes, places in videos, backups that
//! a browser takes away.

use super::*;
use crate::backup::{self as archive, Snapshot};
use kith_store::archive::Sealer;
use qrcode::{EcLevel, QrCode};
use std::collections::HashMap;
use std::sync::Mutex;
use zeroize::Zeroizing;

/// Videos whose places are remembered.
const MAX_BEGUN: usize = 50;
/// Who is so near the end has seen it.
const SEEN: f64 = 0.95;
/// Shortest passphrase of a backup in bytes.
const MIN_PASSPHRASE: usize = 8;

/// The requests.
pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/api/qr", post(qr))
        .route("/api/id/rename", post(rename))
        .route("/api/latest", get(latest))
        .route("/api/videos/{id}/position", post(position))
        .route("/api/backup/sealed", post(sealed))
}

#[derive(OpenApi)]
#[openapi(paths(qr, rename, latest, position, sealed))]
pub(super) struct Docs;

/// Where people are in videos; only while the node runs.
#[derive(Clone, Default)]
pub struct Places(Arc<Mutex<HashMap<Root, (f64, Instant)>>>);

/// A stream address of the page.
pub(crate) struct PageStream {
    pub(crate) name: String,
    /// On this listener.
    pub(crate) path: String,
}

impl Api {
    /// Whether there is an open invite.
    pub(crate) async fn has_invited(&self) -> Result<bool, Failure> {
        self.call(|cx| Ok(!cx.service.state().given.is_empty())).await
    }

    /// What friends published last.
    pub(crate) async fn latest(&self, most: usize) -> Result<Vec<FoundVideo>, Failure> {
        self.call(move |cx| {
            let listings = cx.service.latest(cx.core, most);
            Ok(listings.iter().map(|listing| found_video(cx, listing, 0.0)).collect())
        })
        .await
    }

    /// Videos that were begun here, the latest first, with the second that was reached.
    pub(crate) async fn begun(&self) -> Result<Vec<(FoundVideo, f64)>, Failure> {
        let places = self.places.0.lock().map(|places| places.clone()).unwrap_or_default();
        let mut places: Vec<(Root, (f64, Instant))> = places.into_iter().collect();
        places.sort_by_key(|(_, (_, at))| std::cmp::Reverse(*at));
        self.call(move |cx| {
            let known = places.iter().filter_map(|(root, (seconds, _))| {
                let video = found_video(cx, &cx.core.listing(root)?, 0.0);
                let all = f64::from(video.duration_s?);
                (*seconds < all * SEEN).then_some((video, *seconds))
            });
            Ok(known.take(8).collect())
        })
        .await
    }

    /// Whether an id or link names something that can be asked for.
    pub(crate) async fn knows(&self, id: String) -> Result<bool, Failure> {
        self.call(move |cx| {
            let (root, cap) = cx.service.resolve(cx.core, &id)?;
            Ok(cap.is_some() || cx.service.read_cap(cx.core, &root).is_ok())
        })
        .await
    }

    /// How a video is kept, if it is.
    pub(crate) async fn class_of(&self, id: String) -> Result<Option<&'static str>, Failure> {
        self.call(move |cx| {
            let (root, _) = cx.service.resolve(cx.core, &id)?;
            Ok(cx.service.store().object(&root).map(|object| object.class.as_str()))
        })
        .await
    }

    /// An address for the page's player. Nobody is asked for anything before that reads.
    pub(crate) async fn lazy_stream(
        &self,
        session: &str,
        id: String,
        route: Route,
        who_learns: String,
    ) -> Result<PageStream, Failure> {
        let cap = self
            .call(move |cx| {
                let (root, cap) = cx.service.resolve(cx.core, &id)?;
                cap.map_or_else(|| cx.service.read_cap(cx.core, &root), Ok)
            })
            .await?;
        let (_, name) = self.streams.open_lazy(session, cap, route, who_learns)?;
        Ok(PageStream { path: format!("/media/{name}"), name })
    }
}

/// A text to show as a code.
#[derive(Deserialize, ToSchema)]
struct QrRequest {
    text: String,
}

/// A QR code: rows of `0` and `1`, without the quiet zone.
#[derive(Serialize, ToSchema)]
struct QrRows {
    rows: Vec<String>,
}

/// Draws a QR code (ISO/IEC 18004).
#[utoipa::path(post, path = "/api/qr", tag = "node", security(("token" = ["read"])), request_body = QrRequest,
    responses((status = 200, body = QrRows, description = "the code")))]
async fn qr(Json(request): Json<QrRequest>) -> Answer<QrRows> {
    let code = QrCode::with_error_correction_level(request.text.as_bytes(), EcLevel::L)
        .map_err(|_| Failure::new(Exit::Usage, "this text is too long for a code"))?;
    let colors = code.to_colors();
    let row = |row: &[qrcode::Color]| row.iter().map(|c| c.select('1', '0')).collect();
    Ok(Json(QrRows { rows: colors.chunks(code.width()).map(row).collect() }))
}

/// Another name for this node.
#[derive(Deserialize, ToSchema)]
struct NameRequest {
    name: String,
}

/// Changes the name that friends see.
#[utoipa::path(post, path = "/api/id/rename", tag = "node", security(("token" = ["admin"])),
    request_body = NameRequest,
    responses((status = 200, body = node::OwnId, description = "certificate and fingerprint")))]
async fn rename(State(api): State<Api>, Json(request): Json<NameRequest>) -> Answer<node::OwnId> {
    let name = crate::up::plain_name(request.name.trim())?;
    let stored = api
        .call(move |cx| {
            cx.check_writable()?;
            let addrs = cx.core.certificate().map(|c| c.addrs.clone()).unwrap_or_default();
            let stored = cx.store(vec![Record::Renamed(name)]);
            crate::up::renew_certificates(cx, &addrs)?;
            Ok(stored)
        })
        .await?;
    durable(stored).await?;
    Ok(Json(api.own_id().await?))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Most {
    /// At most so many, 24 if not said, 200 at most.
    limit: Option<usize>,
}

/// What friends published last, and what they passed on.
#[utoipa::path(get, path = "/api/latest", tag = "videos", security(("token" = ["read"])), params(Most),
    responses((status = 200, body = Vec<FoundVideo>, description = "the latest day first")))]
async fn latest(State(api): State<Api>, Query(most): Query<Most>) -> Answer<Vec<FoundVideo>> {
    Ok(Json(api.latest(most.limit.unwrap_or(24).clamp(1, 200)).await?))
}

/// Where somebody is in a video.
#[derive(Deserialize, ToSchema)]
struct PositionRequest {
    seconds: f64,
}

/// It is remembered.
#[derive(Serialize, ToSchema)]
struct Remembered {
    id: String,
    seconds: f64,
}

/// Remembers where somebody is in a video, in memory only.
#[utoipa::path(post, path = "/api/videos/{id}/position", tag = "videos", security(("token" = ["watch"])),
    params(("id" = String, Path, description = "its id")), request_body = PositionRequest,
    responses((status = 200, body = Remembered, description = "it is remembered while the node runs")))]
async fn position(
    State(api): State<Api>,
    Path(id): Path<String>,
    Json(request): Json<PositionRequest>,
) -> Answer<Remembered> {
    let root = api.call(move |cx| Ok(cx.service.resolve(cx.core, &id)?.0)).await?;
    let seconds = request.seconds.clamp(0.0, 1e6);
    if let Ok(mut places) = api.places.0.lock() {
        places.insert(root, (seconds, Instant::now()));
        if places.len() > MAX_BEGUN
            && let Some(oldest) = places.iter().min_by_key(|(_, (_, at))| *at).map(|(root, _)| *root)
        {
            places.remove(&oldest);
        }
    }
    Ok(Json(Remembered { id: root.to_hex(), seconds }))
}

/// How a backup is to be sealed.
#[derive(Deserialize, ToSchema)]
struct SealRequest {
    /// At least eight bytes.
    passphrase: String,
    /// With the videos.
    #[serde(default)]
    content: bool,
}

/// Bytes on their way to whoever asked.
pub(super) struct ToBody(mpsc::Sender<std::io::Result<Bytes>>);

impl std::io::Write for ToBody {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let gone = |_| std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes))).map_err(gone)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A backup, sealed under a passphrase as `kith backup` seals it.
#[utoipa::path(post, path = "/api/backup/sealed", tag = "node", security(("token" = ["admin"])),
    request_body = SealRequest,
    responses((status = 200, description = "the file", content_type = "application/octet-stream")))]
async fn sealed(State(api): State<Api>, Json(request): Json<SealRequest>) -> Result<Response, ApiError> {
    let SealRequest { passphrase, content } = request;
    let passphrase = Zeroizing::new(passphrase);
    if passphrase.len() < MIN_PASSPHRASE {
        let what =
            format!("a backup's passphrase has at least {MIN_PASSPHRASE} letters: choose a longer one");
        return Err(Failure::new(Exit::Usage, what).into());
    }
    let snapshot =
        api.call(|cx| Ok(Snapshot::of(cx.service.state(), cx.service.store(), unix_s(cx.now)))).await?;
    let header = archive::header()?;
    let config = api.facts.paths["config"].as_str().map(str::to_owned);
    let store = api.store.clone();
    Ok(written(&api, "sealed backup", "my-node.kith", move |out| {
        let key = header.key_of_passphrase(passphrase.as_bytes()).ok_or(std::io::ErrorKind::InvalidInput)?;
        let config = config.and_then(|path| std::fs::read(path).ok());
        let sealer = Sealer::begin(out, &header, &key)?;
        let written = snapshot.write(&store, config.as_deref(), content, sealer, &mut || {});
        let (sealer, _) = written.map_err(std::io::Error::other)?;
        std::io::Write::flush(&mut sealer.finish()?)
    }))
}

/// A file for a browser, written by a thread as it is taken. When that fails the answer is cut, and the browser
/// says so.
pub(super) fn written(
    api: &Api,
    task: &'static str,
    name: &str,
    write: impl FnOnce(std::io::BufWriter<ToBody>) -> std::io::Result<()> + Send + 'static,
) -> Response {
    let (sender, body) = WrittenBody::new();
    let out = std::io::BufWriter::with_capacity(64 << 10, ToBody(sender.clone()));
    let writing = tokio::task::spawn_blocking(move || write(out));
    api.tasks.spawn(task, async move {
        let result = writing.await.unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into()));
        if let Err(e) = result {
            tracing::warn!("a file for the page was not finished");
            let _ = sender.send(Err(e)).await;
        }
    });
    let headers = [
        ("content-type", "application/octet-stream".to_owned()),
        ("content-disposition", format!("attachment; filename=\"{name}\"")),
    ];
    (headers, Body::new(body)).into_response()
}
