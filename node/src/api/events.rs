//! What moves, as server-sent events (WHATWG HTML 9.2), and the latest lines of the log.

use super::document::{Caller, Scope};
use super::*;
use crate::logs::{self, LogLine};
use axum::Extension;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What moves is looked at so often.
const EVERY: Duration = Duration::from_secs(1);
/// Listeners at once.
const MAX_LISTENERS: usize = 16;
/// Something is said at least so often, so that a listener that is gone is noticed.
const ALIVE: Duration = Duration::from_secs(15);
static LISTENERS: AtomicUsize = AtomicUsize::new(0);

/// The requests.
pub(super) fn routes() -> Router<Api> {
    Router::new().route("/api/events", get(events)).route("/api/log", get(log))
}

#[derive(OpenApi)]
#[openapi(paths(events, log))]
pub(super) struct Docs;

struct Listener;

impl Listener {
    fn new() -> Result<Self, Failure> {
        if LISTENERS.fetch_add(1, Ordering::AcqRel) < MAX_LISTENERS {
            return Ok(Self);
        }
        LISTENERS.fetch_sub(1, Ordering::AcqRel);
        let what = format!("{MAX_LISTENERS} listeners at once are the most: close some pages");
        Err(Failure::new(Exit::Full, what))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        LISTENERS.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Api {
    /// Everything that moves, by name.
    async fn moving(&self, caller: &Caller) -> Result<[(&'static str, Value); 5], Failure> {
        let mut status = json!(self.status().await?);
        // What changes by itself is no news.
        if let Some(fields) = status.as_object_mut() {
            fields.retain(|name, _| !["uptime_s", "next_batch_s"].contains(&name.as_str()));
        }
        let mut circuits = json!(self.circuits().await?);
        if let Some(own) = circuits["own"].as_array_mut() {
            own.iter_mut().filter_map(Value::as_object_mut).for_each(|own| drop(own.remove("age_s")));
        }
        // Names of streams are what plays them; uploads tell links.
        let streams = if caller.has(Scope::Watch) { self.stream_list().await } else { Vec::new() };
        let uploads = if caller.has(Scope::Publish) { self.upload_list() } else { Vec::new() };
        Ok([
            ("status", status),
            ("friends", json!(self.friend_list().await?)),
            ("streams", json!(streams)),
            ("uploads", json!(uploads)),
            ("circuits", circuits),
        ])
    }
}

/// Everything that moves: at first all of it, then what has changed, at most once a second. Names are
/// `status`, `friends`, `streams`, `uploads` and `circuits`; data is JSON as the request of that name gives, empty
/// where the scope of that request is missing.
#[utoipa::path(get, path = "/api/events", tag = "node", security(("token" = ["read"])),
    responses((status = 200, description = "server-sent events", content_type = "text/event-stream")))]
async fn events(State(api): State<Api>, Extension(caller): Extension<Caller>) -> Result<Response, ApiError> {
    let listener = Listener::new()?;
    let (sender, body) = ChannelBody::new(None);
    let copy = api.clone();
    api.tasks.spawn("events", async move {
        let _listener = listener;
        let mut told: [Option<String>; 5] = Default::default();
        let mut last = Instant::now();
        // Who is no longer in hears nothing more.
        while caller.is_valid(&copy).await
            && let Ok(now) = copy.moving(&caller).await
        {
            let mut text = String::new();
            for ((name, value), told) in now.into_iter().zip(&mut told) {
                let value = value.to_string();
                if told.as_ref() != Some(&value) {
                    text.push_str(&format!("event: {name}\ndata: {value}\n\n"));
                    *told = Some(value);
                }
            }
            if text.is_empty() && last.elapsed() > ALIVE {
                text.push_str(":\n\n");
            }
            if !text.is_empty() {
                last = Instant::now();
                if sender.send(Bytes::from(text)).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = sender.closed() => return,
            }
        }
    });
    Ok(([("content-type", "text/event-stream")], Body::new(body)).into_response())
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Since {
    /// Lines after the one with this number.
    after: Option<u64>,
}

/// The latest lines of the log.
#[utoipa::path(get, path = "/api/log", tag = "node", security(("token" = ["admin"])), params(Since),
    responses((status = 200, body = Vec<LogLine>, description = "in order")))]
async fn log(Query(since): Query<Since>) -> Answer<Vec<LogLine>> {
    Ok(Json(logs::recent(since.after.unwrap_or(0))))
}
