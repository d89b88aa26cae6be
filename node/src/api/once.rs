//! A POST with an `Idempotency-Key` is done once: who asks again with the same key gets the same answer
//! (draft-ietf-httpapi-idempotency-key-header). What answers with a stream knows no keys.

use super::*;
use axum::body::to_bytes;
use axum::http::{HeaderValue, Method, header};
use axum::middleware::Next;
use std::collections::HashMap;
use std::sync::Mutex;
use tokio::sync::watch;

/// The header.
const KEY: &str = "idempotency-key";
/// Longest key in bytes.
const MAX_KEY: usize = 128;
/// Answers that are remembered, and for how long.
const MAX_ANSWERS: usize = 256;
const LIFE: Duration = Duration::from_secs(600);

#[derive(Clone, Debug)]
struct Given {
    status: StatusCode,
    kind: Option<HeaderValue>,
    bytes: Bytes,
}

type Waiting = watch::Receiver<Option<Given>>;

/// When it was asked first, the hash of its body and the answer, by path, caller and key.
type Answers = HashMap<(String, Option<[u8; 32]>, String), (Instant, [u8; 32], Waiting)>;

/// What was done once.
#[derive(Clone, Default)]
pub struct Once(Arc<Mutex<Answers>>);

impl Once {
    fn with<T>(&self, work: impl FnOnce(&mut Answers) -> T) -> T {
        // Nothing here panics while it holds the lock.
        work(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

fn is_stream(path: &str) -> bool {
    [
        "/api/fetches",
        "/api/streams",
        "/api/store/verify",
        "/api/store/reindex",
        "/api/publish",
        "/api/bundles/",
        "/api/backup/",
    ]
    .iter()
    .any(|stream| path.starts_with(stream))
}

/// Does what has a key once, whoever still waits for it.
pub(super) async fn once(State(api): State<Api>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let key = request.headers().get(KEY).and_then(|key| key.to_str().ok()).map(str::to_owned);
    let Some(key) = key.filter(|_| request.method() == Method::POST && !is_stream(&path)) else {
        return next.run(request).await;
    };
    if key.is_empty() || key.len() > MAX_KEY {
        let what = format!("an Idempotency-Key has 1 to {MAX_KEY} characters");
        return ApiError(Failure::new(Exit::Usage, what)).into_response();
    }
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY).await else {
        return ApiError(Failure::new(Exit::Usage, "this request is too long for a key")).into_response();
    };
    // Nobody gets the answer to somebody else's request, or to another one.
    let caller = parts.extensions.get::<document::Caller>().map(document::Caller::mark);
    let place = (path, caller, key);
    let hash = *blake3::hash(&body).as_bytes();
    let request = Request::from_parts(parts, Body::from(body));
    let (sender, receiver) = watch::channel(None);
    let known = api.once.with(|all| {
        all.retain(|_, (made, ..)| made.elapsed() < LIFE);
        if let Some((_, asked, known)) = all.get(&place) {
            return Some((*asked == hash).then(|| known.clone()));
        }
        if all.len() >= MAX_ANSWERS
            && let Some(oldest) =
                all.iter().min_by_key(|(_, (made, ..))| *made).map(|(place, _)| place.clone())
        {
            all.remove(&oldest);
        }
        all.insert(place, (Instant::now(), hash, receiver.clone()));
        None
    });
    let mut waiting = match known {
        Some(Some(known)) => known,
        Some(None) => {
            let what = "this key was used for another request: use a new one";
            return ApiError(Failure::new(Exit::Usage, what)).into_response();
        }
        None => {
            api.tasks.spawn("request with a key", async move {
                let (parts, body) = next.run(request).await.into_parts();
                let bytes = to_bytes(body, MAX_BODY).await.unwrap_or_default();
                let kind = parts.headers.get(header::CONTENT_TYPE).cloned();
                sender.send_replace(Some(Given { status: parts.status, kind, bytes }));
            });
            receiver
        }
    };
    let given = waiting.wait_for(Option::is_some).await.ok().and_then(|given| given.clone());
    let Some(Given { status, kind, bytes }) = given else {
        return ApiError(Failure::new(Exit::NotRunning, "the node is stopping")).into_response();
    };
    let mut response = (status, bytes).into_response();
    response.headers_mut().extend(kind.map(|kind| (header::CONTENT_TYPE, kind)));
    response
}
