//! What is published here, and publishing.

use super::document::{Caller, Scope};
use super::*;
use crate::publish::{Film, SourceId};
use crate::service::Publishing;
use axum::Extension;
use kith_crypto::kdf::{self, Label};

/// The requests.
pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/api/videos", get(videos))
        .route("/api/videos/{id}", get(video).delete(remove_video))
        .route("/api/videos/{id}/unshare", post(unshare))
        .route("/api/videos/{id}/share", post(share))
        .route("/api/videos/{id}/edit", post(edit))
        .route("/api/publish", post(publish_video))
        .route("/api/published", post(published))
}

#[derive(OpenApi)]
#[openapi(paths(videos, video, remove_video, unshare, share, edit, publish_video, published))]
pub(super) struct Docs;

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
        Some(Audience::Circle(id)) => {
            let name = state.circles.get(&id).map_or("(removed)", |c| c.name.as_str());
            format!("circle:{name}")
        }
    }
}

pub(super) fn audience_of(state: &crate::records::State, to: &str) -> Result<Audience, Failure> {
    match to {
        "friends" => Ok(Audience::Friends),
        "fof" => Ok(Audience::Fof),
        _ => match to.split_once(':') {
            Some(("friend", name)) => {
                state.friend_named(name).map(Audience::One).ok_or_else(|| no_friend(name))
            }
            Some(("circle", name)) => {
                let found = state.circle_named(name).map(|(id, _)| Audience::Circle(id));
                found.ok_or_else(|| super::circles::no_circle(name))
            }
            _ => {
                let what =
                    format!("--to {to} is not an audience: use friends, fof, friend:NAME or circle:NAME");
                Err(Failure::new(Exit::Usage, what))
            }
        },
    }
}

/// A video that was published here.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct PublicationView {
    pub(crate) id: String,
    /// Reads it, whoever has it; not for who may only see.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) link: Option<String>,
    pub(crate) title: String,
    pub(crate) text: String,
    pub(crate) tags: Vec<String>,
    pub(crate) mime: String,
    /// Null where the file does not say.
    pub(crate) duration_s: Option<u32>,
    /// Length of what viewers get.
    pub(crate) bytes: u64,
    pub(crate) blocks: u64,
    /// `nobody`, `friends`, `fof`, `friend:NAME` or `circle:NAME`.
    pub(crate) audience: String,
    /// Unix seconds.
    pub(crate) published: u64,
    /// How it is kept; null: its blocks are not here.
    pub(crate) class: Option<&'static str>,
    pub(crate) damaged_blocks: u64,
    /// Only of a new publication: what plays it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) plays: Option<String>,
    /// Only of a new publication: what was removed from the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stripped: Option<Vec<String>>,
    /// Only of a new publication: the file may name places, devices and dates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) metadata_kept: Option<bool>,
}

fn publication_view(cx: &Context<'_>, p: &Publication) -> PublicationView {
    PublicationView {
        id: p.cap.root.to_hex(),
        link: Some(p.cap.to_link()),
        title: p.title.clone(),
        text: p.text.clone(),
        tags: p.tags.clone(),
        mime: p.mime.clone(),
        duration_s: duration(p.duration_s),
        bytes: p.bytes,
        blocks: p.blocks,
        audience: audience_text(cx.service.state(), p.audience),
        published: p.created_s,
        class: cx.service.store().object(&p.cap.root).map(|kept| kept.class.as_str()),
        damaged_blocks: cx.service.heal.blocks_of(&p.cap.root),
        plays: None,
        stripped: None,
        metadata_kept: None,
    }
}

/// 0 is unknown.
pub(super) const fn duration(seconds: u32) -> Option<u32> {
    if seconds == 0 { None } else { Some(seconds) }
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

impl Api {
    /// Everything that was published here, the latest first.
    pub(crate) async fn publication_list(&self) -> Result<Vec<PublicationView>, Failure> {
        self.call(|cx| {
            let mut all: Vec<&Publication> = cx.service.state().publications.values().collect();
            all.sort_by_key(|p| std::cmp::Reverse(p.created_s));
            Ok(all.into_iter().map(|p| publication_view(cx, p)).collect())
        })
        .await
    }

    /// What is known of a video.
    pub(crate) async fn video(&self, id: String) -> Result<VideoView, Failure> {
        self.call(move |cx| {
            let (root, _) = cx.service.resolve(cx.core, &id)?;
            if let Some(p) = cx.service.state().publications.get(&root) {
                return Ok(VideoView::Own(publication_view(cx, p)));
            }
            match cx.core.listing(&root) {
                Some(listing) => Ok(VideoView::Told(found_video(cx, &listing, 0.0))),
                None => Err(Failure::new(Exit::NotFound, "nothing is known of this video but its blocks")),
            }
        })
        .await
    }
}

/// What is known of a video.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum VideoView {
    /// It was published here.
    Own(PublicationView),
    /// Friends tell of it.
    Told(FoundVideo),
}

/// Everything that was published here.
#[utoipa::path(get, path = "/api/videos", tag = "videos", security(("token" = ["read"])),
    params(Page),
    responses((status = 200, body = Vec<PublicationView>, description = "the latest first")))]
async fn videos(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Query(page): Query<Page>,
) -> Result<Paged<PublicationView>, ApiError> {
    let mut all = api.publication_list().await?;
    if !may_have_links(&caller) {
        all.iter_mut().for_each(|video| video.link = None);
    }
    Ok(page.of(all, |video| video.id.clone())?)
}

fn own(cx: &Context<'_>, id: &str) -> Result<Root, Failure> {
    let (root, _) = cx.service.resolve(cx.core, id)?;
    if cx.service.state().publications.contains_key(&root) {
        return Ok(root);
    }
    Err(Failure::new(Exit::Refused, "this video was not published here"))
}

/// One video.
#[utoipa::path(get, path = "/api/videos/{id}", tag = "videos", security(("token" = ["read"])),
    params(("id" = String, Path, description = "the id, a unique beginning of 8 digits or more, or a link")),
    responses((status = 200, body = VideoView, description = "what is known of it")))]
async fn video(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Answer<VideoView> {
    let mut video = api.video(id).await?;
    if let VideoView::Own(own) = &mut video {
        own.link = own.link.take().filter(|_| may_have_links(&caller));
    }
    Ok(Json(video))
}

/// Who may play or publish may have what reads a video.
fn may_have_links(caller: &Caller) -> bool {
    caller.has(Scope::Watch) || caller.has(Scope::Publish)
}

/// A video that is shared with nobody any more.
#[derive(Serialize, ToSchema)]
struct UnsharedVideo {
    id: String,
    audience: &'static str,
}

/// Withdraws a video from everybody; it stays here.
#[utoipa::path(post, path = "/api/videos/{id}/unshare", tag = "videos", security(("token" = ["publish"])),
    params(("id" = String, Path, description = "the id, a unique beginning of 8 digits or more, or a link")),
    responses((status = 200, body = UnsharedVideo, description = "it is shared with nobody")))]
async fn unshare(State(api): State<Api>, Path(id): Path<String>) -> Answer<UnsharedVideo> {
    let (root, stored) = api
        .call(move |cx| {
            cx.check_writable()?;
            let root = own(cx, &id)?;
            let stored = cx.store(vec![Record::Unshared(root)]);
            cx.core.withdraw(cx.now, root);
            cx.service.look_at_own(cx.now, root);
            Ok((root, stored))
        })
        .await?;
    durable(stored).await?;
    Ok(Json(UnsharedVideo { id: root.to_hex(), audience: "nobody" }))
}

/// With whom a video is to be shared.
#[derive(Deserialize, ToSchema)]
struct ShareRequest {
    /// `friends`, `fof`, `friend:NAME` or `circle:NAME`.
    to: String,
}

/// Shares an own video with others than before: those who may no longer see it lose it with their next look.
#[utoipa::path(post, path = "/api/videos/{id}/share", tag = "videos", security(("token" = ["publish"])),
    params(("id" = String, Path, description = "the id, a unique beginning of 8 digits or more, or a link")),
    request_body = ShareRequest,
    responses((status = 200, body = PublicationView, description = "as it is now")))]
async fn share(
    State(api): State<Api>,
    Path(id): Path<String>,
    Json(request): Json<ShareRequest>,
) -> Answer<PublicationView> {
    change(&api, id, move |cx, publication| {
        publication.audience = Some(audience_of(cx.service.state(), &request.to)?);
        Ok(())
    })
    .await
}

/// Other words about a video.
#[derive(Deserialize, ToSchema)]
struct EditRequest {
    title: Option<String>,
    text: Option<String>,
    tags: Option<Vec<String>>,
}

/// Changes the words about an own video in what friends are told. The video stays the same, with the words that
/// were sealed into it when it was published.
#[utoipa::path(post, path = "/api/videos/{id}/edit", tag = "videos", security(("token" = ["publish"])),
    params(("id" = String, Path, description = "the id, a unique beginning of 8 digits or more, or a link")),
    request_body = EditRequest,
    responses((status = 200, body = PublicationView, description = "as it is now")))]
async fn edit(
    State(api): State<Api>,
    Path(id): Path<String>,
    Json(request): Json<EditRequest>,
) -> Answer<PublicationView> {
    change(&api, id, move |_, publication| {
        let old = publication.clone();
        let meta = Meta {
            title: request.title.unwrap_or(old.title),
            text: request.text.unwrap_or(old.text),
            tags: request.tags.unwrap_or(old.tags),
            ..Meta::default()
        };
        meta.check()?;
        (publication.title, publication.text, publication.tags) = (meta.title, meta.text, meta.tags);
        Ok(())
    })
    .await
}

/// Changes what is said of an own video, here and at friends.
async fn change(
    api: &Api,
    id: String,
    how: impl FnOnce(&Context<'_>, &mut Publication) -> Result<(), Failure> + Send + 'static,
) -> Answer<PublicationView> {
    let (view, stored) = api
        .call(move |cx| {
            cx.check_writable()?;
            let root = own(cx, &id)?;
            let state = cx.service.state();
            let mut publication = state.publications.get(&root).cloned().ok_or_else(bug)?;
            how(cx, &mut publication)?;
            let stored = cx.store(vec![Record::Published(Box::new(publication.clone()))]);
            if let Some(audience) = publication.audience {
                cx.core.publish(cx.now, entry_of(&publication), audience, true);
            }
            cx.service.offer_again(cx.now, cx.core, root);
            cx.service.look_at_own(cx.now, root);
            Ok((publication_view(cx, &publication), stored))
        })
        .await?;
    durable(stored).await?;
    Ok(Json(view))
}

/// A video that is gone.
#[derive(Serialize, ToSchema)]
struct RemovedVideo {
    id: String,
    removed: bool,
}

/// Withdraws a video and deletes it here.
#[utoipa::path(delete, path = "/api/videos/{id}", tag = "videos", security(("token" = ["publish"])),
    params(("id" = String, Path, description = "the id, a unique beginning of 8 digits or more, or a link")),
    responses((status = 200, body = RemovedVideo, description = "it is gone")))]
async fn remove_video(State(api): State<Api>, Path(id): Path<String>) -> Answer<RemovedVideo> {
    let (root, stored) = api
        .call(move |cx| {
            cx.check_not_read_only()?;
            let root = match own(cx, &id) {
                Err(e) if e.exit == Exit::Refused => {
                    let (root, _) = cx.service.resolve(cx.core, &id)?;
                    if cx.service.store().object(&root).is_none()
                        && !cx.service.state().known.contains_key(&root)
                    {
                        return Err(e);
                    }
                    root
                }
                other => other?,
            };
            cx.service.end_fetches_of(cx.now, cx.core, cx.storage, root);
            cx.service.drop_mirror(cx.now, cx.core, cx.storage, root);
            let state = cx.service.state();
            let recorded = state.publications.contains_key(&root) || state.known.contains_key(&root);
            let stored = cx.store(if recorded { vec![Record::Removed(root)] } else { Vec::new() });
            cx.core.withdraw(cx.now, root);
            cx.core.release(&root);
            cx.service.look_at_own(cx.now, root);
            Ok((root, stored))
        })
        .await?;
    // On a full disk the record waits, and what is removed makes room for it.
    let waits = match stored.await {
        Ok(Ok(())) => None,
        Ok(Err(Unstored::Waits { why, done })) => Some((why, done)),
        Ok(Err(Unstored::Never(why))) => return Err(why.into()),
        Err(_) => return Err(Failure::new(Exit::NotRunning, "the node is stopping").into()),
    };
    let store = api.store.clone();
    let removed = tokio::task::spawn_blocking(move || store.remove(&root)).await;
    match removed.map_err(|_| bug())? {
        // Its blocks did not come out of a backup.
        Err(kith_store::StoreError::NotFound) => {}
        other => other.map_err(Failure::from)?,
    }
    if let Some((why, done)) = waits {
        api.call(|cx| {
            cx.storage.log(crate::storage::Log::Retry);
            Ok(())
        })
        .await?;
        if !matches!(tokio::time::timeout(ROOM_WAIT, done).await, Ok(Ok(()))) {
            return Err(why.into());
        }
    }
    Ok(Json(RemovedVideo { id: root.to_hex(), removed: true }))
}

/// So long a removal waits for the room that it made itself.
const ROOM_WAIT: Duration = Duration::from_secs(5);

/// The header that carries a publish request's description as ASCII JSON.
pub const PUBLISH_HEADER: &str = "kith-publish";

/// Publishes the request's body. The header `kith-publish` describes it, as ASCII JSON. For uploads that go on
/// after a broken connection see `/api/uploads`.
#[utoipa::path(post, path = "/api/publish", tag = "videos", security(("token" = ["publish"])),
    params(("kith-publish" = String, Header, description = "a `Meta` as ASCII JSON")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = PublicationView, description = "it is published")))]
async fn publish_video(State(api): State<Api>, request: Request) -> Answer<PublicationView> {
    let (parts, body) = request.into_parts();
    let meta = parts.headers.get(PUBLISH_HEADER).and_then(|v| serde_json::from_slice(v.as_bytes()).ok());
    let meta = meta.ok_or_else(|| Failure::new(Exit::Usage, "the request lacks its description"));
    let checked = match meta {
        Ok(meta) => check_publication(&api, meta, body.size_hint().exact()).await,
        Err(e) => Err(e),
    };
    match checked {
        Ok((meta, audience)) => {
            let (chunks, incoming) = mpsc::channel(4);
            let published = begin_publication(&api, meta, audience, incoming, Box::new(|_| Ok(())))?;
            if let Some(rest) = forward(body, chunks).await {
                api.tasks.spawn("refused upload", drain(rest));
            }
            Ok(Json(published.await?))
        }
        Err(refused) => {
            api.tasks.spawn("refused upload", drain(body));
            Err(refused.into())
        }
    }
}

/// A file that may have been published before.
#[derive(Deserialize, ToSchema)]
struct SourceRequest {
    source: SourceId,
    /// For whom.
    to: String,
}

/// As what a file was published before.
#[derive(Serialize, ToSchema)]
struct PublishedSource {
    /// Null: it was not, or that video is gone.
    video: Option<PublicationView>,
}

/// Names a file and its audience so that nobody else can tell which they are.
pub(super) fn mark_of(state: &crate::records::State, source: &SourceId, to: &str) -> Option<[u8; 32]> {
    let (length, me) = (source.bytes.to_le_bytes(), state.me.as_ref()?);
    let parts =
        [me.secret.expose(), source.path.as_bytes(), &length, source.modified.as_bytes(), to.as_bytes()];
    Some(*kdf::derive(Label::SOURCE, &parts).expose())
}

/// Whether a file was published before for the same people: by its path, length and time.
#[utoipa::path(post, path = "/api/published", tag = "videos", security(("token" = ["publish"])),
    request_body = SourceRequest,
    responses((status = 200, body = PublishedSource, description = "as what")))]
async fn published(State(api): State<Api>, Json(request): Json<SourceRequest>) -> Answer<PublishedSource> {
    let video = api
        .call(move |cx| {
            let state = cx.service.state();
            let root = mark_of(state, &request.source, &request.to).and_then(|mark| state.sources.get(&mark));
            let publication = root.and_then(|root| state.publications.get(root));
            // What was withdrawn since is not out any more.
            Ok(publication.filter(|p| p.audience.is_some()).map(|p| publication_view(cx, p)))
        })
        .await?;
    Ok(Json(PublishedSource { video }))
}

/// What can be refused before anything is sent.
pub(super) async fn check_publication(
    api: &Api,
    meta: Meta,
    len: Option<u64>,
) -> Result<(Meta, Audience), Failure> {
    meta.check()?;
    let to = meta.to.clone();
    let audience = api
        .call(move |cx| {
            cx.check_writable()?;
            audience_of(cx.service.state(), &to)
        })
        .await?;
    api.store.room_for(kith_crypto::content::padded_blocks(len.unwrap_or(0)))?;
    Ok((meta, audience))
}

/// Chunks of a file, `None` at its end.
pub(super) type Incoming = mpsc::Receiver<Result<Option<Bytes>, Failure>>;

/// What is asked about a film that was looked at, before anything of it is stored.
pub(super) type Agreed = Box<dyn FnOnce(&Film) -> Result<(), Failure> + Send>;

/// Publishes what comes, whoever waits for the answer. `agreed` is asked about a film that is cleaned here.
pub(super) fn begin_publication(
    api: &Api,
    meta: Meta,
    audience: Audience,
    mut incoming: Incoming,
    agreed: Agreed,
) -> Result<impl Future<Output = Result<PublicationView, Failure>> + use<>, Failure> {
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(|_| Failure::new(Exit::Failure, "the system gives no randomness"))?;
    let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());

    let store = api.store.clone();
    let about = meta.clone();
    let commands = api.commands.clone();
    let work = tokio::task::spawn_blocking(move || {
        let (mut publication, mut permit) = (None, None);
        let next = || match incoming.blocking_recv() {
            Some(chunk) => chunk,
            // The node is stopping: what came is not the whole.
            None => Err(Failure::new(Exit::Interrupted, "the file ended before it was complete")),
        };
        publish::run(&store, &about, Key::new(key), now_s, next, agreed, |stored| {
            let p = Publication {
                cap: stored.cap.clone(),
                title: about.title.clone(),
                text: about.text.clone(),
                tags: about.tags.clone(),
                mime: stored.mime.clone(),
                bytes: stored.len,
                duration_s: stored.duration_s,
                blocks: stored.geometry.data_count(),
                audience: Some(audience),
                created_s: now_s,
            };
            let record = Record::Published(Box::new(p.clone())).encode();
            publication = Some(p);
            permit = permit_publishing(&commands);
            record
        })
        .and_then(|stored| Ok((stored, publication.ok_or_else(bug)?, permit)))
    });
    // What is stored becomes part of the state, whoever still waits for the answer.
    let driver = api.clone();
    let begin = api.clone();
    Ok(begin.begin("publication", async move {
        let (stored, publication, permit) = work.await.map_err(|_| bug())??;
        driver
            .call(move |cx| {
                let _permit = permit;
                let verify = stored.cap.verify_cap();
                cx.service.state_mut().apply(Record::Published(Box::new(publication.clone())));
                cx.core.hold(cx.now, verify, stored.geometry);
                cx.core.publish(cx.now, entry_of(&publication), audience, true);
                cx.service.look_at_own(cx.now, publication.cap.root);
                if let Some(source) = &meta.source
                    && let Some(mark) = mark_of(cx.service.state(), source, &meta.to)
                {
                    // Lost with the power, it costs publishing once more.
                    drop(cx.store(vec![Record::Source(mark, stored.cap.root)]));
                }
                let mut view = publication_view(cx, &publication);
                view.plays = Some(stored.film.probe.plays());
                view.stripped = Some(stored.film.stripped);
                view.metadata_kept = Some(stored.film.metadata_kept);
                Ok(view)
            })
            .await
    }))
}

/// Waits, on a blocking thread, until the journal is not being written anew; from then on it is not,
/// until the permit goes. `None`: the node is stopping.
fn permit_publishing(commands: &mpsc::Sender<Command>) -> Option<Publishing> {
    let (sender, permit) = oneshot::channel();
    let ask: crate::service::Job = Box::new(move |cx| cx.service.permit_publishing(sender));
    commands.blocking_send(Command::Run(ask)).ok()?;
    permit.blocking_recv().ok()
}

/// So long the rest of a refused upload is taken.
const DRAIN: Duration = Duration::from_secs(30);

/// Takes the rest of an upload that was refused and throws it away. Were the connection closed instead,
/// whoever is still sending would see that before the answer.
async fn drain(mut body: Body) {
    let rest = async {
        while let Some(Ok(_)) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {}
    };
    let _ = tokio::time::timeout(DRAIN, rest).await;
}

/// Moves a request's body into a bounded channel; a broken body is an error there, never an end. What
/// nobody takes any more comes back.
async fn forward(mut body: Body, to: mpsc::Sender<Result<Option<Bytes>, Failure>>) -> Option<Body> {
    loop {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        let chunk = match frame {
            None => {
                let _ = to.send(Ok(None)).await;
                return None;
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(bytes) => Ok(Some(bytes)),
                Err(_) => continue,
            },
            Some(Err(_)) => Err(Failure::new(Exit::Interrupted, "the file ended before it was complete")),
        };
        let failed = chunk.is_err();
        if to.send(chunk).await.is_err() {
            return (!failed).then_some(body);
        }
        if failed {
            return None;
        }
    }
}
