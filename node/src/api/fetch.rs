//! Getting and watching.

use super::document::Caller;
use super::*;
use crate::privacy::{Told, WayView};
use crate::service::Purpose;
use axum::Extension;
use axum::extract::Query;
use kith_crypto::content::Geometry;
use kith_onion::session::Spans;

/// The requests.
pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/api/way", post(way))
        .route("/api/fetches", post(fetch))
        .route("/api/objects/{id}/content", get(content))
        .route("/api/streams", post(open_stream).get(list_streams))
        .route("/api/streams/{name}", delete(close_stream).get(show_stream))
}

/// Progress lines come this far apart.
pub(super) const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// And the states of a stream.
const STATE_EVERY: Duration = Duration::from_millis(500);

#[derive(OpenApi)]
#[openapi(paths(way, fetch, content, open_stream, list_streams, close_stream, show_stream))]
pub(super) struct Docs;

/// What is wanted, and by which way.
#[derive(Deserialize, ToSchema)]
struct FetchRequest {
    /// The id, a unique beginning of 8 digits or more, or a link.
    id: String,
    /// `auto`, `direct`, `fof` or `onion`.
    route: Option<String>,
    /// The address lives as long as the answer is read, which is a line of JSON for each state.
    #[serde(default)]
    hold: bool,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ContentRequest {
    /// `auto`, `direct`, `fof` or `onion`.
    route: Option<String>,
}

pub(super) fn route_of(text: Option<&str>) -> Result<Route, Failure> {
    match text {
        None | Some("auto") => Ok(Route::Auto),
        Some("direct") => Ok(Route::Direct),
        Some("fof") => Ok(Route::Fof),
        Some("onion") => Ok(Route::Onion),
        Some(_) => Err(Failure::new(Exit::Usage, "--route is auto, direct, fof or onion")),
    }
}

impl Api {
    /// Which way a video would come, and who learns what from it. Nothing is asked of anybody.
    pub(crate) async fn way(&self, id: String, route: Route) -> Result<WayView, Failure> {
        self.call(move |cx| {
            let (root, _) = cx.service.resolve(cx.core, &id)?;
            Ok(cx.service.way(cx.now, cx.core, &root, route).view())
        })
        .await
    }
}

/// Which way a video would come, and who learns what from it. Nothing is asked of anybody.
#[utoipa::path(post, path = "/api/way", tag = "videos", security(("token" = ["read"])),
    request_body = FetchRequest,
    responses((status = 200, body = WayView, description = "the way")))]
async fn way(State(api): State<Api>, Json(request): Json<FetchRequest>) -> Answer<WayView> {
    let route = route_of(request.route.as_deref())?;
    Ok(Json(api.way(request.id, route).await?))
}

/// An object that is here or on its way, and who learns what from that.
struct Begun {
    wanted: Wanted,
    told: Told,
    root: Root,
    route: Route,
}

impl Begun {
    async fn new(api: &Api, id: String, route: Route, purpose: Purpose) -> Result<Self, Failure> {
        api.call(move |cx| {
            let (root, _) = cx.service.resolve(cx.core, &id)?;
            let told = cx.service.way(cx.now, cx.core, &root, route);
            let wanted = cx.service.want(cx.now, cx.core, &id, route, purpose)?;
            Ok(Self { wanted, told, root, route })
        })
        .await
    }

    /// Where there was no way at first: waits until a source was found, or until it is clear that there
    /// is none. True if it has changed what is told.
    async fn wait(&mut self, api: &Api) -> Result<bool, Failure> {
        let Wanted::Fetching(_, handle) = &self.wanted else { return Ok(false) };
        if !self.told.is_none() {
            return Ok(false);
        }
        let mut status = handle.status.clone();
        let gone = |_| Failure::new(Exit::NotRunning, "the node is stopping");
        let status = status.wait_for(|s| s.links > 0 || s.end.is_some()).await.map_err(gone)?.clone();
        status.end.unwrap_or(Ok(()))?;
        let (root, route) = (self.root, self.route);
        self.told =
            api.call(move |cx| Ok(cx.service.way_found(cx.now, cx.core, &root, route, status.links))).await?;
        Ok(true)
    }
}

/// Fetches an object; the answer is a line of JSON for each step, the last says how it ended.
#[utoipa::path(post, path = "/api/fetches", tag = "videos", security(("token" = ["watch"])),
    request_body = FetchRequest,
    responses((status = 200, description = "lines of JSON: `way`, `progress`, then `done` or `error`", content_type = "application/x-ndjson")))]
async fn fetch(State(api): State<Api>, Json(request): Json<FetchRequest>) -> Result<Response, ApiError> {
    let route = route_of(request.route.as_deref())?;
    let started = Instant::now();
    let begun = Begun::new(&api, request.id, route, Purpose::Keep).await?;
    let (sender, body) = ChannelBody::new(None);
    let copy = api.clone();
    api.tasks.spawn("fetch progress", async move {
        let last = match tell_and_follow(&copy, begun, started, &sender).await {
            Ok(value) => value,
            Err(failure) => json!({"event": "error", "error": error_json(&failure)}),
        };
        let _ = sender.send(line(&last)).await;
    });
    Ok(([("content-type", "application/x-ndjson")], Body::new(body)).into_response())
}

/// Says who learns what, and follows.
async fn tell_and_follow(
    api: &Api,
    mut begun: Begun,
    started: Instant,
    to: &mpsc::Sender<Bytes>,
) -> Result<Value, Failure> {
    let way = |told: &Told| {
        let mut value = json!(told.view());
        add(&mut value, "event", json!("way"));
        line(&value)
    };
    let _ = to.send(way(&begun.told)).await;
    tokio::select! {
        changed = begun.wait(api) => if changed? {
            let _ = to.send(way(&begun.told)).await;
        },
        () = to.closed() => return Err(Failure::new(Exit::Interrupted, "nobody waits for it any more")),
    }
    let mut value = follow(api, begun.wanted, started, to).await?;
    add(&mut value, "who_learns", json!(begun.told.who_learns));
    Ok(value)
}

fn add(value: &mut Value, name: &str, field: Value) {
    if let Some(fields) = value.as_object_mut() {
        fields.insert(name.into(), field);
    }
}

pub(super) fn line(value: &Value) -> Bytes {
    Bytes::from(format!("{value}\n"))
}

async fn follow(
    api: &Api,
    wanted: Wanted,
    started: Instant,
    to: &mpsc::Sender<Bytes>,
) -> Result<Value, Failure> {
    let (cap, status) = match wanted {
        Wanted::Local(cap) => {
            super::bundle::learn(api, &cap).await;
            (cap, None)
        }
        Wanted::Fetching(cap, handle) => {
            let mut receiver = handle.status.clone();
            let mut told = None::<Instant>;
            let last = loop {
                let status: FetchStatus = receiver.borrow_and_update().clone();
                if let Some(end) = &status.end {
                    end.clone()?;
                    break status;
                }
                if told.is_none_or(|at| at.elapsed() >= PROGRESS_EVERY) {
                    told = Some(Instant::now());
                    let value = json!({
                        "event": "progress",
                        "have_bytes": status.have_blocks * BLOCK_LEN as u64,
                        "total_bytes": status.total_blocks * BLOCK_LEN as u64,
                        "links": status.links,
                    });
                    if to.send(line(&value)).await.is_err() {
                        return Err(Failure::new(Exit::Interrupted, "nobody waits for it any more"));
                    }
                }
                tokio::select! {
                    changed = receiver.changed() => if changed.is_err() {
                        return Err(Failure::new(Exit::NotRunning, "the node is stopping"));
                    },
                    () = to.closed() => {
                        return Err(Failure::new(Exit::Interrupted, "nobody waits for it any more"));
                    }
                    () = tokio::time::sleep(Duration::from_secs(1)) => {}
                }
            };
            (cap, Some(last))
        }
    };
    let reader = Reader::new(api.store.clone(), cap.clone(), None, api.commands.clone());
    let head = reader.head().await?;
    let (mode, hops, sources) = match &status {
        None => ("local", 0, 0),
        Some(s) => (mode_of(s.links), s.links, s.sources),
    };
    Ok(json!({
        "event": "done",
        "id": cap.root.to_hex(),
        "bytes": head.len,
        "seconds": started.elapsed().as_secs_f64(),
        "mode": mode,
        "hops": hops,
        "sources": sources,
        "title": head.title,
        "mime": head.mime,
    }))
}

/// What a source so many friend links away is called. Whoever it is: relays and holders are counted,
/// never named.
const fn mode_of(links: u8) -> &'static str {
    match links {
        0 | 1 => "direct",
        2 => "fof",
        _ => "onion",
    }
}

/// The plaintext of an object that is here; over the unix socket also of one on its way.
#[utoipa::path(get, path = "/api/objects/{id}/content", tag = "videos", security(("token" = ["watch"])),
    params(("id" = String, Path, description = "the id, a unique beginning of 8 digits or more, or a link"), ContentRequest),
    responses((status = 200, description = "the bytes", content_type = "application/octet-stream")))]
async fn content(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Query(request): Query<ContentRequest>,
) -> Result<Response, ApiError> {
    let route = route_of(request.route.as_deref())?;
    if caller != Caller::Owner {
        // Reading changes nothing: who wants what is not here asks for it first.
        let wanted = id.clone();
        let way = api.way(wanted, route).await?;
        if way.way != "local" {
            let what = "this video is not here yet: fetch it first (POST /api/fetches)";
            return Err(Failure::new(Exit::NotFound, what).into());
        }
    }
    let want = move |cx: &mut Context<'_>| cx.service.want(cx.now, cx.core, &id, route, Purpose::Keep);
    let (cap, handle) = match api.call(want).await? {
        Wanted::Local(cap) => (cap, None),
        Wanted::Fetching(cap, handle) => (cap, Some(Arc::new(handle))),
    };
    let reader = Reader::new(api.store.clone(), cap, handle, api.commands.clone());
    let head = reader.head().await?;
    let (sender, body) = ChannelBody::new(Some(head.len));
    if head.len > 0 {
        api.tasks.spawn("content reader", async move {
            if let Err(failure) = reader.send(0, head.len - 1, sender).await {
                tracing::info!("a read ended early: {}", failure.exit);
            }
        });
    }
    let headers =
        [("content-type", "application/octet-stream".to_owned()), ("content-length", head.len.to_string())];
    Ok((headers, Body::new(body)).into_response())
}

/// A stream address.
#[derive(Serialize, ToSchema)]
struct OpenStream {
    /// For a player on this machine.
    url: String,
    /// What ends it.
    name: String,
    expires_s: u64,
    /// One sentence.
    who_learns: String,
}

/// Makes a stream address.
#[utoipa::path(post, path = "/api/streams", tag = "streams", security(("token" = ["watch"])),
    request_body = FetchRequest,
    responses((status = 200, body = OpenStream, description = "the address; with `hold` lines of JSON, the first is the address, then states")))]
async fn open_stream(
    State(api): State<Api>,
    Json(request): Json<FetchRequest>,
) -> Result<Response, ApiError> {
    let route = route_of(request.route.as_deref())?;
    let mut begun = Begun::new(&api, request.id, route, Purpose::Read).await?;
    // A player could not say why nothing comes.
    begun.wait(&api).await?;
    let (cap, handle) = match begun.wanted {
        Wanted::Local(cap) => (cap, None),
        Wanted::Fetching(cap, handle) => (cap, Some(handle)),
    };
    let (url, name) = api.streams.open(cap, handle, route)?;
    let who_learns = begun.told.who_learns.clone();
    let opened = OpenStream { url, name, expires_s: crate::stream::LIFETIME.as_secs(), who_learns };
    if !request.hold {
        return Ok(Json(opened).into_response());
    }
    let mut value = json!(opened);
    let name = opened.name;
    add(&mut value, "event", json!("open"));
    add(&mut value, "open_url", json!(api.streams.open_once(&name)?));
    let (sender, body) = ChannelBody::new(None);
    let copy = api.clone();
    api.tasks.spawn("stream states", async move {
        let mut next = Some(value);
        while let Some(value) = next
            && sender.send(line(&value)).await.is_ok()
        {
            tokio::select! {
                () = tokio::time::sleep(STATE_EVERY) => {}
                () = sender.closed() => break,
            }
            next = copy.stream(&name).await.map(|state| {
                let mut state = json!(state);
                add(&mut state, "event", json!("state"));
                state
            });
        }
        copy.streams.close(&name);
    });
    Ok(([("content-type", "application/x-ndjson")], Body::new(body)).into_response())
}

/// Whether there was something to end.
#[derive(Serialize, ToSchema)]
struct ClosedStream {
    closed: bool,
}

/// Ends a stream address; readers of it go on until they end.
#[utoipa::path(delete, path = "/api/streams/{name}", tag = "streams", security(("token" = ["watch"])),
    params(("name" = String, Path, description = "its name")),
    responses((status = 200, body = ClosedStream, description = "it is gone")))]
async fn close_stream(State(api): State<Api>, Path(name): Path<String>) -> Answer<ClosedStream> {
    Ok(Json(ClosedStream { closed: api.streams.close(&name) }))
}

/// How a stream stands.
#[utoipa::path(get, path = "/api/streams/{name}", tag = "streams", security(("token" = ["watch"])),
    params(("name" = String, Path, description = "its name")),
    responses((status = 200, body = StreamView, description = "its state")))]
async fn show_stream(State(api): State<Api>, Path(name): Path<String>) -> Answer<StreamView> {
    let gone = || Failure::new(Exit::NotFound, "this stream address has ended");
    Ok(Json(api.stream(&name).await.ok_or_else(gone)?))
}

/// How all streams stand.
#[utoipa::path(get, path = "/api/streams", tag = "streams", security(("token" = ["watch"])),
    responses((status = 200, body = Vec<StreamView>, description = "their states")))]
async fn list_streams(State(api): State<Api>) -> Answer<Vec<StreamView>> {
    Ok(Json(api.stream_list().await))
}

/// What is here of a video that is played, what was asked for, how far its player has read.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct StreamView {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) complete: bool,
    pub(crate) have_bytes: u64,
    pub(crate) total_bytes: u64,
    pub(crate) asked_bytes: u64,
    /// Where the picture should be, or what was read.
    pub(crate) playing_at_bytes: u64,
    /// What is here ahead of the picture with the least.
    pub(crate) ahead_s: Option<u64>,
    pub(crate) sources: usize,
    /// Bytes for each character of `spans`.
    pub(crate) span_bytes: u64,
    /// `1` where all of it is here.
    pub(crate) spans: String,
    /// `local`, `direct`, `fof` or `onion`.
    pub(crate) mode: &'static str,
    /// Why nothing more comes.
    pub(crate) failed: Option<Problem>,
}

impl Api {
    /// How all streams stand.
    pub(crate) async fn stream_list(&self) -> Vec<StreamView> {
        let mut all = Vec::new();
        for name in self.streams.names() {
            all.extend(self.stream(&name).await);
        }
        all
    }

    /// How a stream stands, while its address lives.
    pub(crate) async fn stream(&self, name: &str) -> Option<StreamView> {
        stream_view(self, name).await
    }
}

async fn stream_view(api: &Api, name: &str) -> Option<StreamView> {
    let state = api.streams.state(name)?;
    let root = state.cap.root;
    let status = state.fetch.as_ref().map(|fetch| fetch.status.borrow().clone());
    let failed = status.as_ref().and_then(|status| status.end.clone()).and_then(Result::err);
    let fetch = state.fetch.as_ref().map(|fetch| fetch.id);
    let buffer = match fetch {
        Some(fetch) => api.call(move |cx| Ok(cx.core.fetch_buffer(cx.now, fetch))).await.ok()?,
        None => None,
    };
    // Without a fetch that goes on, what is stored is what there is.
    let store = api.store.clone();
    let pack = tokio::task::spawn_blocking(move || store.pack(&root).ok()).await.ok().flatten();
    let geometry = pack.as_ref().map(|pack| pack.geometry());
    let spans = match (&buffer, &pack) {
        (Some(buffer), _) => buffer.spans.clone(),
        (None, Some(pack)) if pack.is_complete() => vec![0xff; span_count(pack.geometry()).div_ceil(8)],
        _ => Vec::new(),
    };
    let blocks = |blocks: u64| blocks * BLOCK_LEN as u64;
    let data = geometry.map_or(0, Geometry::data_count);
    let others = geometry.map_or(0, |g| g.total() - g.data_count());
    let have = pack.as_ref().map_or(0, |pack| pack.present().saturating_sub(others).min(data));
    let complete = pack.as_ref().is_some_and(|pack| pack.is_complete());
    Some(StreamView {
        name: name.to_owned(),
        id: root.to_hex(),
        complete,
        have_bytes: blocks(have),
        total_bytes: blocks(data),
        asked_bytes: blocks(buffer.as_ref().map_or(0, |buffer| buffer.asked_blocks)),
        playing_at_bytes: state.playing_at,
        ahead_s: buffer.as_ref().and_then(|buffer| buffer.ahead).map(|ahead| ahead.as_secs().min(86_400)),
        sources: buffer.as_ref().map_or(0, |buffer| buffer.sessions),
        span_bytes: blocks(geometry.map_or(0, |g| Spans::of(g).blocks())),
        spans: geometry.map_or_else(String::new, |g| bits(&spans, span_count(g))),
        mode: status.as_ref().filter(|s| s.links > 0).map_or("local", |status| mode_of(status.links)),
        failed: failed.as_ref().map(Problem::from),
    })
}

fn span_count(geometry: Geometry) -> usize {
    Spans::of(geometry).count() as usize
}

/// One character for each span: `1` is here whole.
fn bits(map: &[u8], count: usize) -> String {
    let is_set = |n: usize| map.get(n / 8).is_some_and(|byte| byte >> (n % 8) & 1 == 1);
    (0..count).map(|n| if is_set(n) { '1' } else { '0' }).collect()
}
