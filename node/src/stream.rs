//! Stream addresses: one video per address, on loopback only. The address is the capability: 32
//! random bytes in the path, which die with the player or after twelve hours.
//!
//! Loopback is hostile ground: any page in a browser can send requests here. So the Host header must
//! be ours to the letter, nothing but `/media/CAPABILITY` answers, and only GET and HEAD.

use crate::content::{ChannelBody, Played, Reader};
use crate::exit::{Exit, Failure};
use crate::ranges::{self, RangeAnswer};
use crate::service::{Command, FetchHandle, Purpose, Wanted};
use crate::tasks::Tasks;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use kith_crypto::content::ReadCap;
use kith_onion::Route;
use kith_store::{InUse, Store};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// A stream address lives at most so long.
pub const LIFETIME: Duration = Duration::from_secs(12 * 3600);
/// Addresses at once; the oldest goes when there are more.
const MAX_STREAMS: usize = 64;
/// Old addresses are looked for so often.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// An address that works once waits at most so long for that.
const DOOR_LIFE: Duration = Duration::from_secs(60);
/// Types that are shown in place; everything else is a download.
const MEDIA_TYPES: [&str; 5] =
    ["video/mp4", "video/quicktime", "video/x-matroska", "video/webm", "video/mp2t"];

/// No scripts, no plugins, no forms, nothing from elsewhere. The origin stays its own and media may come
/// from it: without either a browser that is led to a film shows an empty player.
const POLICY: &str =
    "sandbox allow-same-origin; default-src 'none'; media-src 'self'; frame-ancestors 'none'";

struct Stream {
    cap: ReadCap,
    fetch: Option<Arc<FetchHandle>>,
    route: Route,
    made: Instant,
    /// Nobody was asked for it yet: the first reader begins that, if those learn of it who were named.
    waits: Option<WhoLearns>,
    /// The session of the page that it was made for.
    session: Option<String>,
    /// How far its player has got.
    played: Arc<Played>,
    /// What a player may ask for does not give way.
    _in_use: InUse,
}

/// The sentence of who learns what, as it was shown before play.
type WhoLearns = String;

/// How a stream stands.
pub struct StreamState {
    /// What it gives.
    pub cap: ReadCap,
    /// Which byte the picture has come to, as far as is known; else up to which it has been given.
    pub playing_at: u64,
    /// What brings it.
    pub fetch: Option<Arc<FetchHandle>>,
}

/// Addresses that lead to a stream once: they may be seen in the list of processes.
#[derive(Default)]
struct Doors(HashMap<String, (String, Instant)>);

/// The stream addresses of one node.
#[derive(Clone)]
pub struct Streams {
    streams: Arc<Mutex<HashMap<String, Stream>>>,
    doors: Arc<Mutex<Doors>>,
    store: Arc<Store>,
    commands: mpsc::Sender<Command>,
    tasks: Tasks,
    addr: SocketAddr,
}

impl Streams {
    /// No addresses yet; `addr` is where they will be served.
    pub fn new(store: Arc<Store>, commands: mpsc::Sender<Command>, tasks: Tasks, addr: SocketAddr) -> Self {
        let streams = Self { streams: Arc::default(), doors: Arc::default(), store, commands, tasks, addr };
        let swept = Arc::clone(&streams.streams);
        // What nobody looks at ends, too, and its fetch with it.
        streams.tasks.spawn("end of old streams", async move {
            loop {
                tokio::time::sleep(SWEEP_EVERY).await;
                if let Ok(mut streams) = swept.lock() {
                    streams.retain(|_, s| s.made.elapsed() < LIFETIME);
                }
            }
        });
        streams
    }

    /// Makes an address for a video.
    pub fn open(
        &self,
        cap: ReadCap,
        fetch: Option<FetchHandle>,
        route: Route,
    ) -> Result<(String, String), Failure> {
        self.add(cap, fetch, route, None)
    }

    /// An address for a page, for which nobody is asked for anything before it is read. If others would
    /// learn of it then than `who_learns` says, it gives nothing.
    pub fn open_lazy(
        &self,
        session: &str,
        cap: ReadCap,
        route: Route,
        who_learns: String,
    ) -> Result<(String, String), Failure> {
        self.add(cap, None, route, Some((session.to_owned(), who_learns)))
    }

    /// Ends the addresses that were made for a session.
    pub fn close_session(&self, session: &str) {
        if let Ok(mut streams) = self.streams.lock() {
            streams.retain(|_, s| s.session.as_deref() != Some(session));
        }
    }

    fn add(
        &self,
        cap: ReadCap,
        fetch: Option<FetchHandle>,
        route: Route,
        page: Option<(String, WhoLearns)>,
    ) -> Result<(String, String), Failure> {
        let (session, waits) = page.unzip();
        let name = random_name()?;
        if let Ok(mut streams) = self.streams.lock() {
            streams.retain(|_, s| s.made.elapsed() < LIFETIME);
            if streams.len() >= MAX_STREAMS
                && let Some(oldest) =
                    streams.iter().min_by_key(|(_, s)| (s.waits.is_none(), s.made)).map(|(k, _)| k.clone())
            {
                streams.remove(&oldest);
            }
            let in_use = self.store.begin_use(&cap.root);
            let fetch = fetch.map(Arc::new);
            let made = Instant::now();
            let played = Arc::default();
            let stream = Stream { cap, fetch, route, made, waits, session, played, _in_use: in_use };
            streams.insert(name.clone(), stream);
        }
        Ok((format!("http://{}/media/{name}", self.addr), name))
    }

    /// An address that leads to a stream once, within a minute.
    pub fn open_once(&self, name: &str) -> Result<String, Failure> {
        let door = random_name()?;
        if let Ok(mut doors) = self.doors.lock() {
            doors.0.retain(|_, (_, made)| made.elapsed() < DOOR_LIFE);
            doors.0.insert(door.clone(), (name.to_owned(), Instant::now()));
        }
        Ok(format!("http://{}/open/{door}", self.addr))
    }

    fn enter(&self, door: &str) -> Option<String> {
        let (name, made) = self.doors.lock().ok()?.0.remove(door)?;
        (made.elapsed() < DOOR_LIFE).then_some(name)
    }

    /// Ends an address; readers of it go on until they end.
    pub fn close(&self, name: &str) -> bool {
        self.streams.lock().is_ok_and(|mut streams| streams.remove(name).is_some())
    }

    /// How a stream stands, while its address lives.
    pub fn state(&self, name: &str) -> Option<StreamState> {
        let mut streams = self.streams.lock().ok()?;
        streams.retain(|_, s| s.made.elapsed() < LIFETIME);
        let stream = streams.get(name)?;
        let playing_at = stream.played.playing_at();
        Some(StreamState { cap: stream.cap.clone(), playing_at, fetch: stream.fetch.clone() })
    }

    /// Names of the addresses that live.
    pub fn names(&self) -> Vec<String> {
        self.streams.lock().map(|streams| streams.keys().cloned().collect()).unwrap_or_default()
    }

    /// A reader for one request. A fetch that ended without all of it is tried again: friends come back.
    async fn reader(&self, name: &str) -> Result<Option<Reader>, Failure> {
        let Some(StreamState { cap, fetch, .. }) = self.state(name) else { return Ok(None) };
        let failed = |fetch: &Arc<FetchHandle>| matches!(fetch.status.borrow().end, Some(Err(_)));
        let waits = self.streams.lock().ok().and_then(|s| s.get(name)?.waits.clone());
        let begins = waits.is_some() || fetch.as_ref().is_some_and(failed);
        let fetch = if begins { self.fetch_again(name, &cap, waits).await? } else { fetch };
        let played = self.streams.lock().ok().and_then(|s| s.get(name).map(|s| Arc::clone(&s.played)));
        let reader = Reader::new(self.store.clone(), cap, fetch, self.commands.clone());
        Ok(played.map(|played| reader.telling(played)))
    }

    async fn fetch_again(
        &self,
        name: &str,
        cap: &ReadCap,
        told: Option<WhoLearns>,
    ) -> Result<Option<Arc<FetchHandle>>, Failure> {
        let route = self.streams.lock().ok().and_then(|s| s.get(name).map(|s| s.route));
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let (link, root) = (cap.to_link(), cap.root);
        let job = Command::Run(Box::new(move |cx| {
            let route = route.unwrap_or(Route::Auto);
            let now = cx.service.way(cx.now, cx.core, &root, route);
            let is_as_told = told.is_none_or(|told| told == now.who_learns || now.is_local());
            let changed = || Failure::new(Exit::Refused, "others would learn of it now: open the page again");
            let wanted = match is_as_told {
                true => cx.service.want(cx.now, cx.core, &link, route, Purpose::Read),
                false => Err(changed()),
            };
            drop(sender.send(wanted));
        }));
        let stopping = || Failure::new(Exit::NotRunning, "the node is stopping");
        self.commands.send(job).await.map_err(|_| stopping())?;
        let fetch = match receiver.await.map_err(|_| stopping())?? {
            Wanted::Local(_) => None,
            Wanted::Fetching(_, handle) => Some(Arc::new(handle)),
        };
        if let Ok(mut streams) = self.streams.lock()
            && let Some(stream) = streams.get_mut(name)
        {
            (stream.fetch, stream.waits) = (fetch.clone(), None);
        }
        Ok(fetch)
    }

    /// Their routes; who may ask at all is for `web`.
    pub fn router(self) -> Router {
        Router::new()
            .route("/media/{name}", get(media).head(media))
            .route("/media/{name}/parts/{n}", get(part))
            // Whoever only asks what there is does not use it up.
            .route("/open/{door}", get(open_door).head(|| async { refuse(StatusCode::METHOD_NOT_ALLOWED) }))
            .with_state(self)
    }
}

/// 32 random bytes in hex.
pub(crate) fn random_name() -> Result<String, Failure> {
    let mut random = [0; 32];
    getrandom::fill(&mut random)
        .map_err(|_| Failure::new(Exit::Failure, "the system gives no randomness"))?;
    Ok(random.iter().map(|b| format!("{b:02x}")).collect())
}

async fn open_door(State(streams): State<Streams>, Path(door): Path<String>) -> Response {
    let Some(name) = streams.enter(&door) else { return refuse(StatusCode::NOT_FOUND) };
    let mut response = refuse(StatusCode::SEE_OTHER);
    insert(response.headers_mut(), header::LOCATION, &format!("/media/{name}"));
    response
}

fn refuse(status: StatusCode) -> Response {
    let mut response = status.into_response();
    protect(response.headers_mut());
    response
}

fn protect(headers: &mut HeaderMap) {
    crate::web::protect(headers, POLICY);
}

async fn media(State(streams): State<Streams>, Path(name): Path<String>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let answered = match streams.reader(&name).await {
        Ok(Some(reader)) => answer(&streams, reader, &parts).await,
        Ok(None) => return refuse(StatusCode::NOT_FOUND),
        Err(failure) => Err(failure),
    };
    match answered {
        Ok(response) => response,
        Err(failure) => {
            tracing::info!("a stream could not be served: {}", failure.exit);
            refuse(StatusCode::from_u16(failure.exit.http_status()).unwrap_or(StatusCode::BAD_GATEWAY))
        }
    }
}

/// Captions or a sheet of small pictures, which lie behind the film.
async fn part(State(streams): State<Streams>, Path((name, n)): Path<(String, usize)>) -> Response {
    let answered = match streams.reader(&name).await {
        Ok(Some(reader)) => answer_part(&streams, reader, n).await,
        Ok(None) => Ok(None),
        Err(failure) => Err(failure),
    };
    match answered {
        Ok(Some(response)) => response,
        Ok(None) => refuse(StatusCode::NOT_FOUND),
        Err(failure) => {
            refuse(StatusCode::from_u16(failure.exit.http_status()).unwrap_or(StatusCode::BAD_GATEWAY))
        }
    }
}

async fn answer_part(streams: &Streams, reader: Reader, n: usize) -> Result<Option<Response>, Failure> {
    let head = reader.head().await?;
    let found = head.parts.get(n).and_then(|part| Some((part, crate::api::place_of(part)?)));
    let Some((part, (start, end))) = found else { return Ok(None) };
    let mime = match part.kind {
        crate::publish::CAPTIONS => "text/vtt; charset=utf-8",
        crate::publish::STORYBOARD => "image/jpeg",
        _ => return Ok(None),
    };
    let (sender, body) = ChannelBody::new(Some(part.len.into()));
    let mut response = Response::new(Body::new(body));
    protect(response.headers_mut());
    insert(response.headers_mut(), header::CONTENT_TYPE, mime);
    streams.tasks.spawn("part reader", async move {
        if let Err(failure) = reader.send(start, end, sender).await {
            tracing::info!("what stands around a film ended early: {}", failure.exit);
        }
    });
    Ok(Some(response))
}

async fn answer(streams: &Streams, reader: Reader, request: &Parts) -> Result<Response, Failure> {
    let head = reader.head().await?;
    let etag = format!("\"{}\"", reader.id_hex());
    let headers = &request.headers;
    let text = |name| headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    let if_range = text(header::IF_RANGE).is_none_or(|v| v == etag);
    let several = headers.get_all(header::RANGE).iter().count() > 1;
    let wanted = if several { None } else { text(header::RANGE) };
    let range = ranges::parse(wanted, if_range, head.len);
    let mut response = Response::new(Body::empty());
    let (status, start, len) = match range {
        RangeAnswer::Whole => (StatusCode::OK, 0, head.len),
        RangeAnswer::Part { start, end_inclusive } => {
            let value = format!("bytes {start}-{end_inclusive}/{}", head.len);
            insert(response.headers_mut(), header::CONTENT_RANGE, &value);
            (StatusCode::PARTIAL_CONTENT, start, end_inclusive - start + 1)
        }
        RangeAnswer::Unsatisfiable => {
            insert(response.headers_mut(), header::CONTENT_RANGE, &format!("bytes */{}", head.len));
            (StatusCode::RANGE_NOT_SATISFIABLE, 0, 0)
        }
    };
    *response.status_mut() = status;
    protect(response.headers_mut());
    let shown = MEDIA_TYPES.contains(&head.mime.as_str());
    let mime = if shown { head.mime.as_str() } else { "application/octet-stream" };
    insert(response.headers_mut(), header::CONTENT_TYPE, mime);
    if !shown {
        insert(response.headers_mut(), header::CONTENT_DISPOSITION, "attachment");
    }
    insert(response.headers_mut(), header::ACCEPT_RANGES, "bytes");
    insert(response.headers_mut(), header::ETAG, &etag);
    insert(response.headers_mut(), header::CONTENT_LENGTH, &len.to_string());
    if len > 0 && request.method == Method::GET {
        let (sender, body) = ChannelBody::new(Some(len));
        *response.body_mut() = Body::new(body);
        streams.tasks.spawn("stream reader", async move {
            if let Err(failure) = reader.send(start, start + len - 1, sender).await {
                tracing::info!("a stream ended early: {}", failure.exit);
            }
        });
    }
    Ok(response)
}

fn insert(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
