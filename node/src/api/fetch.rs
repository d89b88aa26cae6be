//! Getting and watching.

use super::*;
use crate::privacy::Told;

/// The requests.
pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/api/way", post(way))
        .route("/api/fetches", post(fetch))
        .route("/api/objects/{id}/content", get(content))
        .route("/api/streams", post(open_stream))
        .route("/api/streams/{name}", delete(close_stream))
}

/// Progress lines come this far apart.
pub(super) const PROGRESS_EVERY: Duration = Duration::from_millis(200);

#[derive(Deserialize)]
struct FetchRequest {
    id: String,
    route: Option<String>,
}

fn route_of(text: Option<&str>) -> Result<Route, Failure> {
    match text {
        None | Some("auto") => Ok(Route::Auto),
        Some("direct") => Ok(Route::Direct),
        Some("fof") => Ok(Route::Fof),
        Some("onion") => Ok(Route::Onion),
        Some(_) => Err(Failure::new(Exit::Usage, "--route is auto, direct, fof or onion")),
    }
}

/// Which way a video would come, and who learns what from it. Nothing is asked of anybody.
async fn way(State(api): State<Api>, Json(request): Json<FetchRequest>) -> Answer {
    let route = route_of(request.route.as_deref())?;
    let told = api
        .call(move |cx| {
            let (root, _) = cx.service.resolve(cx.core, &request.id)?;
            Ok(cx.service.way(cx.now, cx.core, &root, route))
        })
        .await?;
    Ok(Json(told.json()))
}

/// An object that is here or on its way, and who learns what from that.
struct Begun {
    wanted: Wanted,
    told: Told,
    root: Root,
    route: Route,
}

impl Begun {
    async fn new(api: &Api, id: String, route: Route) -> Result<Self, Failure> {
        api.call(move |cx| {
            let (root, _) = cx.service.resolve(cx.core, &id)?;
            let told = cx.service.way(cx.now, cx.core, &root, route);
            Ok(Self { wanted: cx.service.want(cx.now, cx.core, &id, route)?, told, root, route })
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
async fn fetch(State(api): State<Api>, Json(request): Json<FetchRequest>) -> Result<Response, ApiError> {
    let route = route_of(request.route.as_deref())?;
    let started = Instant::now();
    let begun = Begun::new(&api, request.id, route).await?;
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
        let mut value = told.json();
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

/// The plaintext of an object that is here.
async fn content(State(api): State<Api>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let wanted = api.call(move |cx| cx.service.want(cx.now, cx.core, &id, Route::Auto)).await?;
    let (cap, handle) = match wanted {
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

async fn open_stream(State(api): State<Api>, Json(request): Json<FetchRequest>) -> Answer {
    let route = route_of(request.route.as_deref())?;
    let mut begun = Begun::new(&api, request.id, route).await?;
    // A player could not say why nothing comes.
    begun.wait(&api).await?;
    let (cap, handle) = match begun.wanted {
        Wanted::Local(cap) => (cap, None),
        Wanted::Fetching(cap, handle) => (cap, Some(handle)),
    };
    let (url, name) = api.streams.open(cap, handle)?;
    let mut value = json!({"url": url, "name": name, "expires_s": crate::stream::LIFETIME.as_secs()});
    add(&mut value, "who_learns", json!(begun.told.who_learns));
    Ok(Json(value))
}

async fn close_stream(State(api): State<Api>, Path(name): Path<String>) -> Answer {
    Ok(Json(json!({"closed": api.streams.close(&name)})))
}
