//! Stream addresses: one video per address, on loopback only. The address is the capability: 32
//! random bytes in the path, which die with the player or after twelve hours.
//!
//! Loopback is hostile ground: any page in a browser can send requests here. So the Host header must
//! be ours to the letter, nothing but `/media/CAPABILITY` answers, and only GET and HEAD.

use crate::content::{ChannelBody, Reader};
use crate::exit::Failure;
use crate::ranges::{self, RangeAnswer};
use crate::service::{Command, FetchHandle};
use crate::tasks::Tasks;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use kith_crypto::content::ReadCap;
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
/// Types that are shown in place; everything else is a download.
const MEDIA_TYPES: [&str; 5] =
    ["video/mp4", "video/quicktime", "video/x-matroska", "video/webm", "video/mp2t"];

struct Stream {
    cap: ReadCap,
    fetch: Option<Arc<FetchHandle>>,
    made: Instant,
    /// What a player may ask for does not give way.
    _in_use: InUse,
}

/// The stream addresses of one node.
#[derive(Clone)]
pub struct Streams {
    streams: Arc<Mutex<HashMap<String, Stream>>>,
    store: Arc<Store>,
    commands: mpsc::Sender<Command>,
    tasks: Tasks,
    addr: SocketAddr,
}

impl Streams {
    /// No addresses yet; `addr` is where they will be served.
    pub fn new(store: Arc<Store>, commands: mpsc::Sender<Command>, tasks: Tasks, addr: SocketAddr) -> Self {
        Self { streams: Arc::default(), store, commands, tasks, addr }
    }

    /// Makes an address for a video.
    pub fn open(&self, cap: ReadCap, fetch: Option<FetchHandle>) -> Result<(String, String), Failure> {
        let mut random = [0; 32];
        getrandom::fill(&mut random)
            .map_err(|_| Failure::new(crate::exit::Exit::Failure, "the system gives no randomness"))?;
        let name: String = random.iter().map(|b| format!("{b:02x}")).collect();
        if let Ok(mut streams) = self.streams.lock() {
            streams.retain(|_, s| s.made.elapsed() < LIFETIME);
            if streams.len() >= MAX_STREAMS
                && let Some(oldest) = streams.iter().min_by_key(|(_, s)| s.made).map(|(k, _)| k.clone())
            {
                streams.remove(&oldest);
            }
            let in_use = self.store.begin_use(&cap.root);
            let stream = Stream { cap, fetch: fetch.map(Arc::new), made: Instant::now(), _in_use: in_use };
            streams.insert(name.clone(), stream);
        }
        Ok((format!("http://{}/media/{name}", self.addr), name))
    }

    /// Ends an address; readers of it go on until they end.
    pub fn close(&self, name: &str) -> bool {
        self.streams.lock().is_ok_and(|mut streams| streams.remove(name).is_some())
    }

    fn reader(&self, name: &str) -> Option<Reader> {
        let mut streams = self.streams.lock().ok()?;
        streams.retain(|_, s| s.made.elapsed() < LIFETIME);
        let stream = streams.get(name)?;
        Some(Reader::new(self.store.clone(), stream.cap.clone(), stream.fetch.clone(), self.commands.clone()))
    }

    /// The listener's routes.
    pub fn router(self) -> Router {
        Router::new()
            .route("/media/{name}", get(media).head(media))
            .fallback(|| async { refuse(StatusCode::NOT_FOUND) })
            .layer(axum::middleware::from_fn_with_state(self.clone(), guard))
            .with_state(self)
    }
}

fn refuse(status: StatusCode) -> Response {
    let mut response = status.into_response();
    protect(response.headers_mut());
    response
}

fn protect(headers: &mut HeaderMap) {
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'; frame-ancestors 'none'"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
}

/// Only requests that name this listener exactly: a page that makes its own name point here
/// (DNS rebinding) sends its own name.
async fn guard(State(streams): State<Streams>, request: Request, next: axum::middleware::Next) -> Response {
    let port = streams.addr.port();
    let allowed = [
        streams.addr.to_string(),
        format!("localhost:{port}"),
        format!("127.0.0.1:{port}"),
        format!("[::1]:{port}"),
    ];
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let named = hosts.next().and_then(|h| h.to_str().ok()).is_some_and(|h| allowed.iter().any(|a| a == h));
    let absolute = request.uri().authority().is_some();
    if !named || hosts.next().is_some() || absolute {
        return refuse(StatusCode::FORBIDDEN);
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return refuse(StatusCode::METHOD_NOT_ALLOWED);
    }
    next.run(request).await
}

async fn media(State(streams): State<Streams>, Path(name): Path<String>, request: Request) -> Response {
    let Some(reader) = streams.reader(&name) else { return refuse(StatusCode::NOT_FOUND) };
    let (parts, _) = request.into_parts();
    match answer(&streams, reader, &parts).await {
        Ok(response) => response,
        Err(failure) => {
            tracing::info!("a stream could not be served: {}", failure.exit);
            refuse(StatusCode::from_u16(failure.exit.http_status()).unwrap_or(StatusCode::BAD_GATEWAY))
        }
    }
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
