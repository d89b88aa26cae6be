//! Uploads that survive a broken connection: the bytes go straight into publishing, which waits for the
//! next ones. Nothing of the file lies on the disk unsealed.

use super::videos::{PublicationView, begin_publication, check_publication};
use super::*;
use crate::publish::Film;
use axum::routing::patch;
use std::collections::BTreeMap;
use std::sync::Mutex;
use tokio::sync::watch;

/// Uploads at once.
const MAX_UPLOADS: usize = 16;
/// Ended ones that are still told of.
const MAX_TOLD: usize = 64;
/// A request that brings nothing for so long is over.
const SILENT: Duration = Duration::from_secs(60);
/// The rest of a refused request is taken for so long, so that its sender hears why.
const DRAIN: Duration = Duration::from_secs(10);
/// An upload that nothing comes for ends.
const IDLE: Duration = Duration::from_secs(600);
/// And what became of it is told for so long.
const TOLD: Duration = Duration::from_secs(600);
/// The header that says where the bytes of a request begin.
const OFFSET: &str = "upload-offset";

/// The requests.
pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/api/uploads", get(list).post(create))
        .route("/api/uploads/{upload}", patch(append).get(show).delete(cancel))
        .route("/api/uploads/{upload}/publish", post(go_on))
        .route("/api/title", post(title))
}

#[derive(OpenApi)]
#[openapi(paths(list, create, append, show, cancel, go_on, title))]
pub(super) struct Docs;

type Outcome = Option<Result<PublicationView, Failure>>;
type Chunks = mpsc::Sender<Result<Option<Bytes>, Failure>>;

struct Upload {
    title: String,
    bytes: u64,
    offset: u64,
    /// Taken while a request brings bytes; gone when all are there.
    to: Option<Chunks>,
    is_ending: bool,
    touched: Instant,
    outcome: watch::Receiver<Outcome>,
    /// What was found in the film, when it was to be looked at first.
    looked: watch::Receiver<Option<LookedView>>,
    /// Lets it be published then; gone once it was.
    go: Option<oneshot::Sender<()>>,
}

/// Uploads that are under way.
#[derive(Clone, Default)]
pub struct Uploads(Arc<Mutex<BTreeMap<String, Upload>>>);

impl Uploads {
    fn with<T>(&self, work: impl FnOnce(&mut BTreeMap<String, Upload>) -> T) -> T {
        // Nothing here panics while it holds the lock.
        let mut all = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        work(&mut all)
    }

    fn view(&self, name: &str) -> Result<UploadView, Failure> {
        self.with(|all| all.get(name).map(|upload| upload.view(name))).ok_or_else(gone)
    }
}

/// How an upload stands.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct UploadView {
    pub(crate) upload: String,
    pub(crate) title: String,
    pub(crate) bytes: u64,
    /// So much is here: the next bytes begin there.
    pub(crate) offset: u64,
    /// `receiving`, `storing`, `looked` (it waits for `/publish`), `published` or `failed`.
    pub(crate) state: &'static str,
    /// What was found, if it was to be looked at first.
    pub(crate) looked: Option<LookedView>,
    pub(crate) video: Option<PublicationView>,
    pub(crate) failed: Option<Problem>,
}

/// What publishing would do to a film.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct LookedView {
    /// What plays it.
    pub(crate) plays: String,
    /// What would be removed from it.
    pub(crate) stripped: Vec<String>,
}

impl UploadView {
    fn is_under_way(&self) -> bool {
        self.video.is_none() && self.failed.is_none()
    }
}

impl Upload {
    fn view(&self, name: &str) -> UploadView {
        let outcome = self.outcome.borrow().clone();
        let state = match &outcome {
            Some(Ok(_)) => "published",
            Some(Err(_)) => "failed",
            None if self.waits() => "looked",
            None if self.is_ending => "storing",
            None => "receiving",
        };
        let (video, failed) = match outcome {
            Some(Ok(video)) => (Some(video), None),
            Some(Err(failure)) => (None, Some(Problem::from(&failure))),
            None => (None, None),
        };
        let (title, bytes, offset) = (self.title.clone(), self.bytes, self.offset);
        let looked = self.looked.borrow().clone();
        UploadView { upload: name.to_owned(), title, bytes, offset, state, looked, video, failed }
    }

    /// Whether it was looked at and nobody has said yet that it shall be published.
    fn waits(&self) -> bool {
        self.go.is_some() && self.looked.borrow().is_some()
    }

    fn is_over(&self) -> bool {
        let left = self.touched.elapsed();
        if self.outcome.borrow().is_some() {
            left > TOLD
        } else {
            (!self.is_ending || self.waits()) && left > IDLE
        }
    }
}

fn gone() -> Failure {
    Failure::new(Exit::NotFound, "there is no such upload any more: begin anew")
}

/// A file that is to come.
#[derive(Deserialize, ToSchema)]
struct UploadRequest {
    /// Its length.
    bytes: u64,
    /// Only say what would be removed, and wait for `/publish` before anything of it is stored for good.
    #[serde(default)]
    look_first: bool,
    /// What is said of it.
    #[serde(flatten)]
    meta: Meta,
}

impl Api {
    /// How all uploads stand.
    pub(crate) fn upload_list(&self) -> Vec<UploadView> {
        self.uploads.with(|all| {
            all.retain(|_, upload| !upload.is_over());
            let told = |all: &BTreeMap<String, Upload>| {
                all.iter().filter(|(_, upload)| upload.outcome.borrow().is_some()).count()
            };
            while told(all) > MAX_TOLD {
                let ended = all.iter().filter(|(_, upload)| upload.outcome.borrow().is_some());
                let Some(oldest) =
                    ended.min_by_key(|(_, upload)| upload.touched).map(|(name, _)| name.clone())
                else {
                    break;
                };
                all.remove(&oldest);
            }
            all.iter().map(|(name, upload)| upload.view(name)).collect()
        })
    }
}

/// How all uploads stand.
#[utoipa::path(get, path = "/api/uploads", tag = "videos", security(("token" = ["publish"])),
    responses((status = 200, body = Vec<UploadView>, description = "their states")))]
async fn list(State(api): State<Api>) -> Answer<Vec<UploadView>> {
    Ok(Json(api.upload_list()))
}

/// A file that somebody may publish.
#[derive(Deserialize, ToSchema)]
struct FileName {
    name: String,
}

/// What a file may be called.
#[derive(Serialize, ToSchema)]
struct Title {
    title: String,
}

/// A title by the name of a file, without when it was made: as `kith publish` takes it.
#[utoipa::path(post, path = "/api/title", tag = "videos", security(("token" = ["publish"])),
    request_body = FileName, responses((status = 200, body = Title, description = "a title")))]
async fn title(Json(file): Json<FileName>) -> Answer<Title> {
    Ok(Json(Title { title: crate::films::title_of(std::path::Path::new(&file.name)) }))
}

/// Announces a file that is to be published; its bytes follow by `PATCH`.
#[utoipa::path(post, path = "/api/uploads", tag = "videos", security(("token" = ["publish"])),
    request_body = UploadRequest,
    responses((status = 200, body = UploadView, description = "where the bytes go")))]
async fn create(State(api): State<Api>, Json(request): Json<UploadRequest>) -> Answer<UploadView> {
    let look_first = request.look_first;
    let is_cleaned = |meta: &Meta| meta.film.is_none() && !meta.keep_metadata && !meta.any_file;
    if look_first && !is_cleaned(&request.meta) {
        let what = "only a video that is cleaned here can be looked at first";
        return Err(Failure::new(Exit::Usage, what).into());
    }
    let (meta, audience) = check_publication(&api, request.meta, Some(request.bytes)).await?;
    let under_way = api.upload_list().iter().filter(|upload| upload.is_under_way()).count();
    if under_way >= MAX_UPLOADS {
        let what = format!("{MAX_UPLOADS} uploads at once are the most: wait for one");
        return Err(Failure::new(Exit::Full, what).into());
    }
    let name = crate::stream::random_name()?;
    let title = meta.title.clone();
    let (chunks, incoming) = mpsc::channel(4);
    let (tell, looked) = watch::channel(None);
    let (go, may_go) = oneshot::channel();
    let agreed = move |film: &Film| {
        if !look_first {
            return Ok(());
        }
        let (plays, stripped) = (film.probe.plays(), film.stripped.clone());
        tell.send_replace(Some(LookedView { plays, stripped }));
        may_go.blocking_recv().map_err(|_| Failure::new(Exit::Interrupted, "it was not published"))
    };
    let published = begin_publication(&api, meta, audience, incoming, Box::new(agreed))?;
    let (told, outcome) = watch::channel(None);
    let uploads = api.uploads.clone();
    let waited = name.clone();
    api.tasks.spawn("upload", async move {
        let mut published = std::pin::pin!(published);
        let result = loop {
            tokio::select! {
                result = &mut published => break result,
                // Without its sender publishing ends, and says so.
                () = tokio::time::sleep(IDLE / 10) => uploads.with(|all| {
                    all.retain(|name, upload| *name != waited || !upload.is_over());
                }),
            }
        };
        told.send_replace(Some(result));
    });
    let (bytes, to, touched) = (request.bytes, Some(chunks), Instant::now());
    let go = look_first.then_some(go);
    let upload = Upload { title, bytes, offset: 0, to, is_ending: false, touched, outcome, looked, go };
    let view = upload.view(&name);
    api.uploads.with(|all| all.insert(name.clone(), upload));
    if bytes == 0 {
        let headers =
            [(axum::http::HeaderName::from_static(OFFSET), axum::http::HeaderValue::from_static("0"))];
        return append(State(api), Path(name), headers.into_iter().collect(), Body::empty()).await;
    }
    Ok(Json(view))
}

/// The sender of an upload, for one request; it goes back when that is over.
struct Taken {
    uploads: Uploads,
    name: String,
    to: Option<Chunks>,
}

impl Taken {
    fn passed(&self, len: u64) {
        self.uploads.with(|all| {
            if let Some(upload) = all.get_mut(&self.name) {
                (upload.offset, upload.touched) = (upload.offset + len, Instant::now());
            }
        });
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let to = self.to.take();
        self.uploads.with(|all| {
            if let Some(upload) = all.get_mut(&self.name).filter(|upload| !upload.is_ending) {
                upload.to = to;
            }
        });
    }
}

fn take(api: &Api, name: &str, from: u64) -> Result<(Taken, u64), Failure> {
    let usage = |what: String| Failure::new(Exit::Usage, what);
    api.uploads.with(|all| {
        let upload = all.get_mut(name).ok_or_else(gone)?;
        if from != upload.offset {
            return Err(usage(format!("the next bytes begin at {}", upload.offset)));
        }
        let to = upload.to.take().ok_or_else(|| usage("another request brings this file already".into()))?;
        upload.touched = Instant::now();
        let left = upload.bytes - upload.offset;
        Ok((Taken { uploads: api.uploads.clone(), name: name.to_owned(), to: Some(to) }, left))
    })
}

/// Brings bytes; the header `upload-offset` says where they begin. The answer comes when they are taken, and
/// for the last ones when the video is published.
#[utoipa::path(patch, path = "/api/uploads/{upload}", tag = "videos", security(("token" = ["publish"])),
    params(("upload" = String, Path, description = "its name"),
        ("upload-offset" = u64, Header, description = "where the bytes begin")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = UploadView, description = "how it stands")))]
async fn append(
    State(api): State<Api>,
    Path(name): Path<String>,
    headers: axum::http::HeaderMap,
    mut body: Body,
) -> Answer<UploadView> {
    let from = headers.get(OFFSET).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
    let from = from.ok_or_else(|| Failure::new(Exit::Usage, "upload-offset says where the bytes begin"))?;
    let (taken, mut left) = take(&api, &name, from)?;
    let to = taken.to.clone().ok_or_else(bug)?;
    loop {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
        // A connection that broke or fell silent: what came is kept, the rest comes with another request.
        let Ok(frame) = tokio::time::timeout(SILENT, frame).await else {
            return Ok(Json(api.uploads.view(&name)?));
        };
        let Some(frame) = frame else { break };
        let Ok(frame) = frame else { return Ok(Json(api.uploads.view(&name)?)) };
        let Ok(bytes) = frame.into_data() else { continue };
        let len = bytes.len() as u64;
        if len > left {
            return Err(Failure::new(Exit::Usage, "these are more bytes than were announced").into());
        }
        if to.send(Ok(Some(bytes))).await.is_err() {
            // It was refused: the rest is taken all the same, else its sender would not hear why.
            let rest = async {
                while let Some(Ok(_)) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {}
            };
            let _ = tokio::time::timeout(DRAIN, rest).await;
            break;
        }
        left -= len;
        taken.passed(len);
    }
    if left > 0 && !to.is_closed() {
        return Ok(Json(api.uploads.view(&name)?));
    }
    let outcome = api.uploads.with(|all| {
        let upload = all.get_mut(&name)?;
        upload.is_ending = true;
        Some((upload.outcome.clone(), upload.looked.clone()))
    });
    let (outcome, mut looked) = outcome.ok_or_else(gone)?;
    let _ = to.send(Ok(None)).await;
    drop((to, taken));
    tokio::select! {
        ended = ended(outcome) => ended?,
        Ok(_) = looked.wait_for(Option::is_some) => {}
    }
    Ok(Json(api.uploads.view(&name)?))
}

/// Waits until an upload is published; why it was not is an error.
async fn ended(mut outcome: watch::Receiver<Outcome>) -> Result<(), Failure> {
    let stopping = |_| Failure::new(Exit::NotRunning, "the node is stopping");
    match outcome.wait_for(Option::is_some).await.map_err(stopping)?.clone() {
        Some(Err(failure)) => Err(failure),
        _ => Ok(()),
    }
}

/// Publishes what was looked at. The answer comes when it is published.
#[utoipa::path(post, path = "/api/uploads/{upload}/publish", tag = "videos", security(("token" = ["publish"])),
    params(("upload" = String, Path, description = "its name")),
    responses((status = 200, body = UploadView, description = "how it stands")))]
async fn go_on(State(api): State<Api>, Path(name): Path<String>) -> Answer<UploadView> {
    let outcome = api.uploads.with(|all| {
        let upload = all.get_mut(&name).ok_or_else(gone)?;
        if upload.waits()
            && let Some(go) = upload.go.take()
        {
            upload.touched = Instant::now();
            let _ = go.send(());
        } else if !upload.is_ending {
            return Err(Failure::new(Exit::Usage, "not all of it is here yet"));
        }
        Ok(upload.outcome.clone())
    })?;
    ended(outcome).await?;
    Ok(Json(api.uploads.view(&name)?))
}

/// How an upload stands.
#[utoipa::path(get, path = "/api/uploads/{upload}", tag = "videos", security(("token" = ["publish"])),
    params(("upload" = String, Path, description = "its name")),
    responses((status = 200, body = UploadView, description = "its state")))]
async fn show(State(api): State<Api>, Path(name): Path<String>) -> Answer<UploadView> {
    Ok(Json(api.uploads.view(&name)?))
}

/// What was given up.
#[derive(Serialize, ToSchema)]
struct Cancelled {
    cancelled: bool,
}

/// Gives an upload up.
#[utoipa::path(delete, path = "/api/uploads/{upload}", tag = "videos", security(("token" = ["publish"])),
    params(("upload" = String, Path, description = "its name")),
    responses((status = 200, body = Cancelled, description = "it is gone")))]
async fn cancel(State(api): State<Api>, Path(name): Path<String>) -> Answer<Cancelled> {
    let cancelled = api.uploads.with(|all| {
        let stored = |upload: &Upload| {
            upload.is_ending && !upload.waits() && !matches!(*upload.outcome.borrow(), Some(Err(_)))
        };
        if all.get(&name).is_some_and(stored) {
            let what = "all of it is here and it is being published: delete the video instead";
            return Err(Failure::new(Exit::Refused, what));
        }
        Ok(all.remove(&name).is_some())
    })?;
    Ok(Json(Cancelled { cancelled }))
}
