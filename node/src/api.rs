//! The HTTP API over the unix socket: what the command line says to the node. One function a
//! request; what touches the protocol runs as a closure between two turns of the driver.
//!
//! The socket is 0600, so whoever can connect is the node's owner.

use crate::content::{ChannelBody, Reader};
use crate::exit::{Exit, Failure};
use crate::publish::{self, Meta};
use crate::records::{Publication, Record};
use crate::service::{Command, Context, FetchStatus, Wanted};
use crate::stream::Streams;
use crate::tasks::Tasks;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use kith_crypto::content::{BLOCK_LEN, Root};
use kith_crypto::invite::Invite;
use kith_crypto::secret::Key;
use kith_onion::catalogue::Audience;
use kith_onion::entry::Entry;
use kith_onion::{Core, FriendKey, GivenInvite, InviteId, InviteOutcome, Now, Route};
use kith_store::Store;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// A friend that was invited is waited for this long before the invite counts as pending.
const INVITE_WAIT: Duration = Duration::from_secs(20);
/// Progress lines come this far apart.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
const DAY_S: u64 = 86_400;

/// Facts that do not change while the node runs.
pub struct Facts {
    /// When it started.
    pub started: Instant,
    /// The ready line's fields.
    pub ready: Value,
    /// What `kith paths` shows.
    pub paths: Value,
    /// Privacy mode of the configuration.
    pub privacy: &'static str,
    /// How long invites live.
    pub invite_expires: Duration,
    /// Whether anybody outside can reach the advertised addresses.
    pub reach_note: Option<String>,
}

/// What all handlers share.
#[derive(Clone)]
pub struct Api {
    /// To the driver.
    pub commands: mpsc::Sender<Command>,
    /// The store, for reading and publishing.
    pub store: Arc<Store>,
    /// Stream addresses.
    pub streams: Streams,
    /// Tracked tasks.
    pub tasks: Tasks,
    /// Unchanging facts.
    pub facts: Arc<Facts>,
    /// Asks the process to end.
    pub stop: mpsc::Sender<oneshot::Sender<()>>,
}

/// An error as the API gives it: `{"code", "message"}`.
struct ApiError(Failure);

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.exit.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(error_json(&self.0))).into_response()
    }
}

fn error_json(failure: &Failure) -> Value {
    json!({"code": failure.exit.name(), "message": failure.to_string()})
}

type Answer = Result<Json<Value>, ApiError>;

impl Api {
    /// The routes.
    pub fn router(self) -> Router {
        Router::new()
            .route("/api/status", get(status))
            .route("/api/paths", get(paths))
            .route("/api/stop", post(stop))
            .route("/api/id", get(id))
            .route("/api/invites", post(invite))
            .route("/api/friends", get(friends).post(add_friend))
            .route("/api/friends/{name}", get(show_friend).delete(remove_friend))
            .route("/api/videos", get(videos))
            .route("/api/videos/{id}", get(video).delete(remove_video))
            .route("/api/videos/{id}/unshare", post(unshare))
            .route("/api/publish", post(publish_video))
            .route("/api/search", get(search))
            .route("/api/fetches", post(fetch))
            .route("/api/objects/{id}/content", get(content))
            .route("/api/streams", post(open_stream))
            .route("/api/streams/{name}", delete(close_stream))
            .route("/api/store", get(store_stats))
            .fallback(|| async { ApiError(Failure::new(Exit::NotFound, "there is no such request")) })
            .with_state(self)
    }

    /// Runs a closure on the driver and waits for its result.
    async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Context<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let (sender, receiver) = oneshot::channel();
        let job = Command::Run(Box::new(move |cx| drop(sender.send(job(cx)))));
        let gone = || Failure::new(Exit::NotRunning, "the node is stopping");
        self.commands.send(job).await.map_err(|_| gone())?;
        receiver.await.map_err(|_| gone())?
    }
}

async fn durable(stored: oneshot::Receiver<Result<(), String>>) -> Result<(), Failure> {
    match stored.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(e)) => Err(Failure::new(Exit::Failure, e)),
        Err(_) => Err(Failure::new(Exit::NotRunning, "the node is stopping")),
    }
}

fn unix_s(now: Now) -> u64 {
    now.unix_s()
}

// The node.

async fn status(State(api): State<Api>) -> Answer {
    let facts = api.facts.clone();
    let mut value = api
        .call(move |cx| {
            let state = cx.service.state();
            let online = state.friends.keys().filter(|k| cx.core.is_online(**k)).count();
            let next = cx.core.next_relayed_pull(cx.now).map(|d| d.as_secs());
            Ok(json!({
                "name": state.me.as_ref().map(|m| m.name.clone()),
                "friends": {"online": online, "total": state.friends.len(), "pending": state.taken.len()},
                "entries": cx.core.entry_count(),
                "videos": state.publications.len(),
                "fetches": cx.service.fetch_count(),
                "next_batch_s": next,
                "read_only": cx.service.read_only(),
                "clock_skew_s": cx.service.clock_warning().map(|ms| ms / 1000),
            }))
        })
        .await?;
    if let (Some(value), Some(ready)) = (value.as_object_mut(), facts.ready.as_object()) {
        ready.iter().for_each(|(k, v)| {
            value.insert(k.clone(), v.clone());
        });
        value.insert("uptime_s".into(), json!(facts.started.elapsed().as_secs()));
        value.insert("privacy".into(), json!(facts.privacy));
        value.insert("privacy_in_effect".into(), json!("fast"));
        value.insert("reach_note".into(), json!(facts.reach_note));
        if value.get("read_only").is_none_or(Value::is_null) && api.store.read_only() {
            value.insert("read_only".into(), json!("a write to disk failed: check the disk, then restart"));
        }
    }
    Ok(Json(value))
}

async fn paths(State(api): State<Api>) -> Answer {
    Ok(Json(api.facts.paths.clone()))
}

async fn stop(State(api): State<Api>) -> Answer {
    let (sender, _) = oneshot::channel();
    let pid = std::process::id();
    api.stop
        .send(sender)
        .await
        .map_err(|_| Failure::new(Exit::NotRunning, "the node is stopping already"))?;
    Ok(Json(json!({"stopping": true, "pid": pid})))
}

async fn id(State(api): State<Api>) -> Answer {
    let value = api.call(|cx| own_id(cx.service.state(), cx.core)).await?;
    Ok(Json(value))
}

fn own_id(state: &crate::records::State, core: &Core) -> Result<Value, Failure> {
    let cert =
        core.certificate().ok_or_else(|| Failure::new(Exit::Failure, "the certificate is not made yet"))?;
    Ok(json!({
        "name": state.me.as_ref().map(|m| m.name.clone()),
        "fingerprint": core.me().fingerprint(),
        "certificate": cert.to_text(),
        "addresses": cert.addrs.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "expires": cert.expires,
    }))
}

async fn store_stats(State(api): State<Api>) -> Answer {
    let store = api.store.clone();
    let stats = tokio::task::spawn_blocking(move || (store.stats(), store.read_only()))
        .await
        .map_err(|_| Failure::new(Exit::Failure, "the store did not answer"))?;
    let (stats, read_only) = stats;
    Ok(Json(json!({
        "objects": stats.objects,
        "pack_bytes": stats.pack_bytes,
        "journal_bytes": stats.journal_bytes,
        "view_bytes": stats.view_bytes,
        "index_bytes": stats.index_bytes,
        "free_bytes": stats.free_bytes,
        "read_only": read_only,
    })))
}

// Friends.

#[derive(Deserialize)]
struct InviteRequest {
    expires_s: Option<u64>,
}

async fn invite(State(api): State<Api>, Json(request): Json<InviteRequest>) -> Answer {
    let lifetime = request.expires_s.map_or(api.facts.invite_expires, Duration::from_secs);
    let note = api.facts.reach_note.clone();
    let (text, expires, stored) = api
        .call(move |cx| {
            cx.check_writable()?;
            let me = cx.service.state().me.as_ref();
            let me = me.ok_or_else(|| Failure::new(Exit::Failure, "this node has no identity"))?.identity();
            let cert = cx.core.certificate().cloned();
            let cert = cert.ok_or_else(|| Failure::new(Exit::Failure, "the certificate is not made yet"))?;
            let expires =
                u32::try_from(unix_s(cx.now).saturating_add(lifetime.as_secs())).unwrap_or(u32::MAX);
            let mut random = [0; 40];
            getrandom::fill(&mut random)
                .map_err(|_| Failure::new(Exit::Failure, "the system gives no randomness"))?;
            let (secret, id) = random.split_first_chunk::<32>().ok_or_else(bug)?;
            let id = InviteId(u64::from_le_bytes(id.try_into().map_err(|_| bug())?));
            let secret = Key::new(*secret);
            let invite = Invite::sign(&me, cert, secret.clone(), expires);
            let given = GivenInvite { id, secret, expires, tries: Vec::new(), bound: None };
            let stored = cx.store(vec![Record::Given(given.clone())]);
            cx.core.give_invite(given);
            Ok((invite.to_text(), expires, stored))
        })
        .await?;
    durable(stored).await?;
    Ok(Json(json!({"invite": text, "expires": expires, "note": note})))
}

fn bug() -> Failure {
    Failure::new(Exit::Failure, "something impossible happened: please report it")
}

#[derive(Deserialize)]
struct AddRequest {
    invite: String,
}

enum Added {
    Already(Value),
    Waiting(InviteId, oneshot::Receiver<InviteOutcome>, oneshot::Receiver<Result<(), String>>),
}

async fn add_friend(State(api): State<Api>, Json(request): Json<AddRequest>) -> Answer {
    let refused = |what: String| Failure::new(Exit::Refused, what);
    let invite = Invite::from_text(&request.invite)
        .map_err(|e| refused(format!("this invite cannot be used: {e}. Ask for it once more")))?;
    let (name, fingerprint) = (invite.inviter.name.clone(), invite.inviter.keys.fingerprint());
    let key = FriendKey(invite.inviter.keys.sign);
    let added = api
        .call(move |cx| {
            cx.check_writable()?;
            begin_adding(cx, invite, key)
        })
        .await?;
    let (id, outcome, stored) = match added {
        Added::Already(value) => return Ok(Json(value)),
        Added::Waiting(id, outcome, stored) => (id, outcome, stored),
    };
    durable(stored).await?;
    let outcome = tokio::time::timeout(INVITE_WAIT, outcome).await;
    let answer =
        |name: &str, state: &str| Ok(Json(json!({"name": name, "fingerprint": fingerprint, "state": state})));
    match outcome {
        Ok(Ok(InviteOutcome::Friends(friend))) => {
            let (name, up) = api
                .call(move |cx| {
                    let name = cx.service.state().friends.get(&friend).map(|f| f.name.clone());
                    Ok((name.unwrap_or_default(), cx.service.await_up(cx.core, friend)))
                })
                .await?;
            let online = tokio::time::timeout(Duration::from_secs(5), up).await;
            answer(&name, if matches!(online, Ok(Ok(()))) { "online" } else { "pending" })
        }
        Ok(Ok(InviteOutcome::Refused)) => {
            let stored = api
                .call(move |cx| {
                    cx.core.cancel_invite(cx.now, id);
                    Ok(cx.store(vec![Record::InviteDone(id)]))
                })
                .await?;
            durable(stored).await?;
            let what = "the inviter's node was reached and does not accept this invite: it was used, \
                        has expired or was withdrawn; ask for a new one";
            Err(refused(what.into()).into())
        }
        _ => answer(&name, "pending"),
    }
}

fn begin_adding(cx: &mut Context<'_>, invite: Invite, key: FriendKey) -> Result<Added, Failure> {
    let refused = |what: &str| Failure::new(Exit::Refused, what);
    if invite.inviter.keys == *cx.core.me() {
        return Err(refused("this is your own invite: give it to a friend, who adds you with it"));
    }
    let state = cx.service.state();
    if let Some(friend) = state.friends.get(&key) {
        let online = if cx.core.is_online(key) { "online" } else { "offline" };
        let fingerprint = friend.record.keys.fingerprint();
        let value =
            json!({"name": friend.name, "fingerprint": fingerprint, "state": online, "already": true});
        return Ok(Added::Already(value));
    }
    let now_s = unix_s(cx.now);
    if u64::from(invite.expires) <= now_s || u64::from(invite.inviter.expires) <= now_s {
        let ago = now_s.saturating_sub(u64::from(invite.expires.min(invite.inviter.expires)));
        let ago = crate::terminal::human_duration(Duration::from_secs(ago));
        return Err(Failure::new(Exit::Refused, format!("this invite expired {ago} ago: ask for a new one")));
    }
    let same = state.taken.iter().find(|(_, i)| i.encoded() == invite.encoded()).map(|(id, _)| *id);
    if let Some(id) = same {
        // Given again while it waits: tried at once.
        cx.core.take_invite(cx.now, id, invite);
        let (sender, stored) = oneshot::channel();
        let _ = sender.send(Ok(()));
        return Ok(Added::Waiting(id, cx.service.await_invite(id), stored));
    }
    let id = InviteId(cx.now.unix_ms ^ u64::from_le_bytes(first8(invite.secret.expose())));
    let stored = cx.store(vec![Record::Taken(id, invite.clone())]);
    let outcome = cx.service.await_invite(id);
    cx.core.take_invite(cx.now, id, invite);
    Ok(Added::Waiting(id, outcome, stored))
}

fn first8(bytes: &[u8; 32]) -> [u8; 8] {
    bytes.first_chunk::<8>().copied().unwrap_or_default()
}

fn friend_json(cx: &Context<'_>, key: FriendKey) -> Option<Value> {
    let friend = cx.service.state().friends.get(&key)?;
    let traffic = cx.service.traffic(cx.core, key);
    Some(json!({
        "name": friend.name,
        "fingerprint": friend.record.keys.fingerprint(),
        "state": if cx.core.is_online(key) { "online" } else { "offline" },
        "since": friend.since_s,
        "trust": "normal",
        "sent_bytes": traffic.sent,
        "received_bytes": traffic.received,
        "relayed_bytes": traffic.relayed,
    }))
}

fn pending_json(invite: &Invite) -> Value {
    json!({
        "name": invite.inviter.name,
        "fingerprint": invite.inviter.keys.fingerprint(),
        "state": "pending",
        "since": null,
        "trust": "normal",
        "sent_bytes": 0,
        "received_bytes": 0,
        "relayed_bytes": 0,
    })
}

async fn friends(State(api): State<Api>) -> Answer {
    let list = api
        .call(|cx| {
            let keys: Vec<FriendKey> = cx.service.state().friends.keys().copied().collect();
            let mut list: Vec<Value> = keys.into_iter().filter_map(|k| friend_json(cx, k)).collect();
            list.sort_by_key(|f| f.get("name").map(ToString::to_string));
            list.extend(cx.service.state().taken.values().map(pending_json));
            Ok(list)
        })
        .await?;
    Ok(Json(Value::Array(list)))
}

fn no_friend(name: &str) -> Failure {
    Failure::new(Exit::NotFound, format!("there is no friend called {name}: see `kith friend list`"))
}

async fn show_friend(State(api): State<Api>, Path(name): Path<String>) -> Answer {
    let value = api
        .call(move |cx| {
            let state = cx.service.state();
            let Some(key) = state.friend_named(&name) else {
                let pending = state.taken.values().find(|i| i.inviter.name == name);
                return pending.map(pending_json).ok_or_else(|| no_friend(&name));
            };
            let mut value = friend_json(cx, key).unwrap_or_default();
            if let Some(fields) = value.as_object_mut() {
                let addrs: Vec<String> = cx.core.addresses(key).iter().map(ToString::to_string).collect();
                fields.insert("addresses".into(), json!(addrs));
            }
            Ok(value)
        })
        .await?;
    Ok(Json(value))
}

async fn remove_friend(State(api): State<Api>, Path(name): Path<String>) -> Answer {
    let shown = name.clone();
    let stored = api
        .call(move |cx| {
            cx.check_writable()?;
            let state = cx.service.state();
            if let Some(key) = state.friend_named(&name) {
                let noise = state.friends.get(&key).map(|f| f.record.keys.noise);
                // An invite that this friend completed must not let it in again.
                let theirs = state.given.values().filter(|i| i.bound.is_some() && i.bound == noise);
                let invites: Vec<InviteId> = theirs.map(|i| i.id).collect();
                cx.core.remove_friend(cx.now, key);
                invites.iter().for_each(|id| cx.core.withdraw_invite(*id));
                let mut records = vec![Record::FriendRemoved(key)];
                records.extend(invites.into_iter().map(Record::InviteDone));
                return Ok(cx.store(records));
            }
            let pending = state.taken.iter().find(|(_, i)| i.inviter.name == name).map(|(id, _)| *id);
            let id = pending.ok_or_else(|| no_friend(&name))?;
            cx.core.cancel_invite(cx.now, id);
            Ok(cx.store(vec![Record::InviteDone(id)]))
        })
        .await?;
    durable(stored).await?;
    Ok(Json(json!({"removed": shown})))
}

// Videos.

/// The text of an audience, as `--to` takes it.
fn audience_text(state: &crate::records::State, audience: Option<Audience>) -> String {
    match audience {
        None => "nobody".into(),
        Some(Audience::Friends) => "friends".into(),
        Some(Audience::Fof) => "fof".into(),
        Some(Audience::One(key)) => {
            let name = state.friends.get(&key).map_or("(removed)", |f| f.name.as_str());
            format!("friend:{name}")
        }
    }
}

fn audience_of(state: &crate::records::State, to: &str) -> Result<Audience, Failure> {
    match to {
        "friends" => Ok(Audience::Friends),
        "fof" => Ok(Audience::Fof),
        _ => match to.strip_prefix("friend:") {
            Some(name) => state.friend_named(name).map(Audience::One).ok_or_else(|| no_friend(name)),
            None => {
                let what = format!("--to {to} is not an audience: use friends, fof or friend:NAME");
                Err(Failure::new(Exit::Usage, what))
            }
        },
    }
}

fn publication_json(cx: &Context<'_>, p: &Publication) -> Value {
    json!({
        "id": p.cap.root.to_hex(),
        "link": p.cap.to_link(),
        "title": p.title,
        "text": p.text,
        "tags": p.tags,
        "mime": p.mime,
        "duration_s": duration(p.duration_s),
        "bytes": p.bytes,
        "blocks": p.blocks,
        "audience": audience_text(cx.service.state(), p.audience),
        "published": p.created_s,
    })
}

fn duration(seconds: u32) -> Value {
    if seconds == 0 { Value::Null } else { json!(seconds) }
}

/// What the catalogue says about a publication.
pub fn entry_of(p: &Publication) -> Entry {
    Entry {
        cap: p.cap.clone(),
        hops_left: 0,
        title: p.title.clone(),
        text: p.text.clone(),
        tags: p.tags.clone(),
        mime: p.mime.clone(),
        duration_s: p.duration_s,
        bytes: p.bytes,
        published_day: (p.created_s / DAY_S) as u32,
        expires_day: 0,
    }
}

async fn videos(State(api): State<Api>) -> Answer {
    let list = api
        .call(|cx| {
            let mut all: Vec<&Publication> = cx.service.state().publications.values().collect();
            all.sort_by_key(|p| std::cmp::Reverse(p.created_s));
            Ok(all.into_iter().map(|p| publication_json(cx, p)).collect())
        })
        .await?;
    Ok(Json(Value::Array(list)))
}

fn own(cx: &Context<'_>, id: &str) -> Result<Root, Failure> {
    let (root, _) = cx.service.resolve(cx.core, id)?;
    if cx.service.state().publications.contains_key(&root) {
        return Ok(root);
    }
    Err(Failure::new(Exit::Refused, "this video was not published here"))
}

async fn video(State(api): State<Api>, Path(id): Path<String>) -> Answer {
    let value = api
        .call(move |cx| {
            let (root, _) = cx.service.resolve(cx.core, &id)?;
            if let Some(p) = cx.service.state().publications.get(&root) {
                return Ok(publication_json(cx, p));
            }
            match cx.core.listing(&root) {
                Some(listing) => Ok(listing_json(cx, &listing, 0.0)),
                None => Err(Failure::new(Exit::NotFound, "nothing is known of this video but its blocks")),
            }
        })
        .await?;
    Ok(Json(value))
}

async fn unshare(State(api): State<Api>, Path(id): Path<String>) -> Answer {
    let (root, stored) = api
        .call(move |cx| {
            cx.check_writable()?;
            let root = own(cx, &id)?;
            let stored = cx.store(vec![Record::Unshared(root)]);
            cx.core.withdraw(cx.now, root);
            Ok((root, stored))
        })
        .await?;
    durable(stored).await?;
    Ok(Json(json!({"id": root.to_hex(), "audience": "nobody"})))
}

async fn remove_video(State(api): State<Api>, Path(id): Path<String>) -> Answer {
    let (root, stored) = api
        .call(move |cx| {
            cx.check_writable()?;
            let root = match own(cx, &id) {
                Err(e) if e.exit == Exit::Refused => {
                    let (root, _) = cx.service.resolve(cx.core, &id)?;
                    cx.service.store().object(&root).ok_or(e)?;
                    root
                }
                other => other?,
            };
            cx.service.end_fetches_of(cx.now, cx.core, cx.storage, root);
            let published = cx.service.state().publications.contains_key(&root);
            let stored = cx.store(if published { vec![Record::Removed(root)] } else { Vec::new() });
            cx.core.withdraw(cx.now, root);
            cx.core.release(&root);
            Ok((root, stored))
        })
        .await?;
    durable(stored).await?;
    let store = api.store.clone();
    let removed = tokio::task::spawn_blocking(move || store.remove(&root)).await;
    removed.map_err(|_| bug())?.map_err(Failure::from)?;
    Ok(Json(json!({"id": root.to_hex(), "removed": true})))
}

/// The header that carries a publish request's description as ASCII JSON.
pub const PUBLISH_HEADER: &str = "kith-publish";

async fn publish_video(State(api): State<Api>, request: Request) -> Answer {
    let meta = request.headers().get(PUBLISH_HEADER).and_then(|v| serde_json::from_slice(v.as_bytes()).ok());
    let meta: Meta = meta.ok_or_else(|| Failure::new(Exit::Usage, "the request lacks its description"))?;
    meta.check()?;
    let to = meta.to.clone();
    let audience = api
        .call(move |cx| {
            cx.check_writable()?;
            audience_of(cx.service.state(), &to)
        })
        .await?;
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(|_| Failure::new(Exit::Failure, "the system gives no randomness"))?;
    let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());

    let (chunks, mut incoming) = mpsc::channel::<Result<Option<Bytes>, Failure>>(4);
    let store = api.store.clone();
    let about = meta.clone();
    let work = tokio::task::spawn_blocking(move || {
        let mut publication = None;
        let next = || match incoming.blocking_recv() {
            Some(Ok(bytes)) => Ok(bytes.map(Vec::from)),
            Some(Err(e)) => Err(e),
            // The node is stopping: what came is not the whole.
            None => Err(Failure::new(Exit::Interrupted, "the file ended before it was complete")),
        };
        publish::run(&store, &about, Key::new(key), now_s, next, |stored| {
            let p = Publication {
                cap: stored.cap.clone(),
                title: about.title.clone(),
                text: about.text.clone(),
                tags: about.tags.clone(),
                mime: stored.mime.clone(),
                bytes: stored.len,
                duration_s: 0,
                blocks: stored.geometry.data_count(),
                audience: Some(audience),
                created_s: now_s,
            };
            let record = Record::Published(Box::new(p.clone())).encode();
            publication = Some(p);
            record
        })
        .and_then(|stored| Ok((stored, publication.ok_or_else(bug)?)))
    });
    forward(request.into_body(), chunks).await;
    let (stored, publication) = work.await.map_err(|_| bug())??;
    let value = api
        .call(move |cx| {
            let verify = stored.cap.verify_cap();
            cx.service.state_mut().apply(Record::Published(Box::new(publication.clone())));
            cx.core.hold(cx.now, verify, stored.geometry);
            cx.core.publish(cx.now, entry_of(&publication), audience, true);
            let mut value = publication_json(cx, &publication);
            if let Some(fields) = value.as_object_mut() {
                fields.insert("stripped".into(), json!([]));
                let media = publication.mime != "application/octet-stream";
                fields.insert("metadata_kept".into(), json!(media && !meta.keep_metadata));
            }
            Ok(value)
        })
        .await?;
    Ok(Json(value))
}

/// Moves a request's body into a bounded channel; a broken body is an error there, never an end.
async fn forward(mut body: Body, to: mpsc::Sender<Result<Option<Bytes>, Failure>>) {
    loop {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        let chunk = match frame {
            None => {
                let _ = to.send(Ok(None)).await;
                return;
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(bytes) => Ok(Some(bytes)),
                Err(_) => continue,
            },
            Some(Err(_)) => Err(Failure::new(Exit::Interrupted, "the file ended before it was complete")),
        };
        let failed = chunk.is_err();
        if to.send(chunk).await.is_err() || failed {
            return;
        }
    }
}

// Search.

#[derive(Deserialize)]
struct SearchRequest {
    words: String,
    scope: Option<String>,
    limit: Option<usize>,
    min_dur: Option<u32>,
    max_dur: Option<u32>,
}

fn listing_json(cx: &Context<'_>, listing: &kith_onion::catalogue::Listing, score: f32) -> Value {
    let entry = &listing.entry;
    let friends = &cx.service.state().friends;
    let via = (listing.distance > 0)
        .then(|| listing.sources.first().and_then(|(key, _)| friends.get(key)).map(|f| f.name.clone()))
        .flatten();
    json!({
        "id": entry.root().to_hex(),
        "title": entry.title,
        "text": entry.text,
        "tags": entry.tags,
        "mime": entry.mime,
        "duration_s": duration(entry.duration_s),
        "bytes": entry.bytes,
        "published": u64::from(entry.published_day) * DAY_S,
        "distance": listing.distance,
        "via": via,
        "channel": null,
        "score": score,
    })
}

#[derive(Serialize)]
struct SearchAnswer {
    results: Vec<Value>,
    next_batch_s: Option<u64>,
}

async fn search(
    State(api): State<Api>,
    Query(request): Query<SearchRequest>,
) -> Result<Json<SearchAnswer>, ApiError> {
    let furthest = match request.scope.as_deref() {
        Some("mine") => 0,
        Some("friends") => 1,
        None | Some("fof") => 2,
        Some(_) => return Err(Failure::new(Exit::Usage, "--scope is mine, friends or fof").into()),
    };
    let limit = request.limit.unwrap_or(50).clamp(1, 1000);
    let (low, high) = (request.min_dur.unwrap_or(0), request.max_dur.unwrap_or(u32::MAX));
    let answer = api
        .call(move |cx| {
            let keep = |brief: kith_onion::catalogue::Brief| {
                brief.distance <= furthest && (low..=high).contains(&brief.duration_s)
            };
            let found = cx.service.search(cx.core, &request.words, limit, keep);
            Ok(SearchAnswer {
                results: found.iter().map(|f| listing_json(cx, &f.listing, f.score)).collect(),
                next_batch_s: cx.core.next_relayed_pull(cx.now).map(|d| d.as_secs()),
            })
        })
        .await?;
    Ok(Json(answer))
}

// Getting and watching.

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
        Some(_) => Err(Failure::new(Exit::Usage, "--route is auto, direct or fof")),
    }
}

/// Fetches an object; the answer is a line of JSON for each step, the last says how it ended.
async fn fetch(State(api): State<Api>, Json(request): Json<FetchRequest>) -> Result<Response, ApiError> {
    let route = route_of(request.route.as_deref())?;
    let started = Instant::now();
    let wanted = api.call(move |cx| cx.service.want(cx.now, cx.core, &request.id, route)).await?;
    let (sender, body) = ChannelBody::new(None);
    let copy = api.clone();
    api.tasks.spawn("fetch progress", async move {
        let last = match follow(&copy, wanted, started, &sender).await {
            Ok(value) => value,
            Err(failure) => json!({"event": "error", "error": error_json(&failure)}),
        };
        let _ = sender.send(line(&last)).await;
    });
    Ok(([("content-type", "application/x-ndjson")], Body::new(body)).into_response())
}

fn line(value: &Value) -> Bytes {
    Bytes::from(format!("{value}\n"))
}

async fn follow(
    api: &Api,
    wanted: Wanted,
    started: Instant,
    to: &mpsc::Sender<Bytes>,
) -> Result<Value, Failure> {
    let (cap, status) = match wanted {
        Wanted::Local(cap) => (cap, None),
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
        Some(s) => (if s.links > 1 { "fof" } else { "direct" }, s.links, s.sources),
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
                tracing::info!("a read ended early: {failure}");
            }
        });
    }
    let headers =
        [("content-type", "application/octet-stream".to_owned()), ("content-length", head.len.to_string())];
    Ok((headers, Body::new(body)).into_response())
}

async fn open_stream(State(api): State<Api>, Json(request): Json<FetchRequest>) -> Answer {
    let route = route_of(request.route.as_deref())?;
    let wanted = api.call(move |cx| cx.service.want(cx.now, cx.core, &request.id, route)).await?;
    let (cap, handle) = match wanted {
        Wanted::Local(cap) => (cap, None),
        Wanted::Fetching(cap, handle) => (cap, Some(handle)),
    };
    let (url, name) = api.streams.open(cap, handle)?;
    Ok(Json(json!({"url": url, "name": name, "expires_s": crate::stream::LIFETIME.as_secs()})))
}

async fn close_stream(State(api): State<Api>, Path(name): Path<String>) -> Answer {
    Ok(Json(json!({"closed": api.streams.close(&name)})))
}
