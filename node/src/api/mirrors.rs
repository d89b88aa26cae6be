//! Copies for others, and how many copies of a video there are.

use super::document::{Caller, Scope};
use super::*;
use crate::records::Mirror;
use axum::Extension;
use kith_crypto::content::Position;
use kith_onion::{FetchId, Route};

/// The requests.
pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/api/mirrors", get(mirrors).post(add))
        .route("/api/mirrors/{target}", axum::routing::delete(remove))
        .route("/api/videos/{id}/health", post(health))
}

#[derive(OpenApi)]
#[openapi(paths(mirrors, add, remove, health))]
pub(super) struct Docs;

/// A copy that is kept for others.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct MirrorView {
    /// `friend:NAME`, or the id of a video that the owner chose.
    pub(crate) target: String,
    pub(crate) id: String,
    /// Null: this node cannot read it.
    pub(crate) title: Option<String>,
    /// Takes so much room; 0 until known.
    pub(crate) bytes: u64,
    pub(crate) complete: bool,
    /// Unix seconds; null: for good.
    pub(crate) expires: Option<u64>,
}

/// What is kept for a friend.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct MirrorQuotaView {
    pub(crate) friend: String,
    pub(crate) quota_bytes: u64,
    pub(crate) used_bytes: u64,
    pub(crate) videos: usize,
}

/// All that is kept for others.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct MirrorList {
    /// For which friends, and how much.
    pub(crate) friends: Vec<MirrorQuotaView>,
    /// Each copy.
    pub(crate) copies: Vec<MirrorView>,
    /// Videos drawn at random so that what is watched does not show.
    pub(crate) covers: usize,
    /// Watched from further away, and given among those.
    pub(crate) watched: usize,
}

fn mirror_view(cx: &Context<'_>, mirror: &Mirror) -> MirrorView {
    let (state, root) = (cx.service.state(), mirror.cap.root);
    let copy = cx.service.copy_state(&root);
    let name = |friend| state.friends.get(&friend).map_or("(removed)", |f| f.name.as_str());
    MirrorView {
        target: mirror.friend.map_or_else(|| root.to_hex(), |friend| format!("friend:{}", name(friend))),
        id: root.to_hex(),
        title: cx.core.listing(&root).map(|listing| listing.entry.title),
        bytes: copy.bytes,
        complete: copy.complete,
        expires: (mirror.expires_day > 0).then(|| u64::from(mirror.expires_day) * DAY_S),
    }
}

impl Api {
    /// Whether videos drawn at random are kept.
    pub(crate) async fn keeps_covers(&self) -> Result<bool, Failure> {
        self.call(|cx| Ok(cx.service.keeps_covers())).await
    }

    /// Whether a copy of a video is kept for others because its owner said so.
    pub(crate) async fn keeps_by_wish(&self, id: String) -> Result<bool, Failure> {
        self.call(move |cx| {
            let (root, _) = cx.service.resolve(cx.core, &id)?;
            Ok(cx.service.state().mirrors.get(&root).is_some_and(|mirror| mirror.friend.is_none()))
        })
        .await
    }

    /// All that is kept for others.
    pub(crate) async fn mirror_list(&self) -> Result<MirrorList, Failure> {
        self.call(|cx| {
            let state = cx.service.state();
            let friends = state.mirror_quotas.iter().filter_map(|(key, quota)| {
                let videos = state.mirrors.values().filter(|mirror| mirror.friend == Some(*key)).count();
                Some(MirrorQuotaView {
                    friend: state.friends.get(key)?.name.clone(),
                    quota_bytes: *quota,
                    used_bytes: cx.service.mirrored_for(*key),
                    videos,
                })
            });
            let (covers, watched) = cx.service.cover_counts();
            let copies = state.mirrors.values().map(|mirror| mirror_view(cx, mirror)).collect();
            Ok(MirrorList { friends: friends.collect(), copies, covers, watched })
        })
        .await
    }
}

/// All that is kept for others.
#[utoipa::path(get, path = "/api/mirrors", tag = "mirrors", security(("token" = ["read"])),
    responses((status = 200, body = MirrorList, description = "for whom, and each copy")))]
async fn mirrors(State(api): State<Api>) -> Answer<MirrorList> {
    Ok(Json(api.mirror_list().await?))
}

/// For whom, or of what, a copy is to be kept.
#[derive(Deserialize, ToSchema)]
struct MirrorRequest {
    /// `friend:NAME`, an id or a link.
    target: String,
    /// For a friend: so much.
    #[serde(default)]
    quota_bytes: Option<u64>,
}

/// What was agreed to.
#[derive(Serialize, ToSchema)]
struct MirrorAdded {
    target: String,
    quota_bytes: Option<u64>,
}

/// Keeps copies for a friend up to a size, or a copy of one video.
#[utoipa::path(post, path = "/api/mirrors", tag = "mirrors", security(("token" = ["admin"])),
    request_body = MirrorRequest,
    responses((status = 200, body = MirrorAdded, description = "from now on")))]
async fn add(State(api): State<Api>, Json(request): Json<MirrorRequest>) -> Answer<MirrorAdded> {
    let (added, stored) = api
        .call(move |cx| {
            cx.check_writable()?;
            if let Some(name) = request.target.strip_prefix("friend:") {
                let friend =
                    cx.service.state().friend_named(name).ok_or_else(|| super::friends::no_friend(name))?;
                let quota = request.quota_bytes.filter(|bytes| *bytes > 0).ok_or_else(|| {
                    Failure::new(Exit::Usage, "say how much may be kept for a friend, like --quota 5GB")
                })?;
                let stored = cx.store(vec![Record::MirrorQuota(friend, quota)]);
                cx.service.keep_within_quota(cx.now, cx.core, cx.storage, friend);
                cx.service.mirror_friend_up(cx.now, cx.core, friend);
                return Ok((MirrorAdded { target: request.target, quota_bytes: Some(quota) }, stored));
            }
            if request.quota_bytes.is_some() {
                return Err(Failure::new(
                    Exit::Usage,
                    "--quota belongs to a friend: kith mirror add friend:NAME",
                ));
            }
            let (root, linked) = cx.service.resolve(cx.core, &request.target)?;
            if cx.service.state().publications.contains_key(&root) {
                let what = "this video is your own: ask friends for copies with `kith video health ID --ask`";
                return Err(Failure::new(Exit::Refused, what));
            }
            let cap = match linked {
                Some(cap) => cap,
                None => cx.service.read_cap(cx.core, &root)?,
            };
            let record = cx.service.add_mirror(cx.now, cx.core, cx.storage, &cap);
            // A link from elsewhere is not in the catalogue: its key is kept with it.
            let known = Record::Known(cap);
            let stored = cx.store(vec![record, known]);
            Ok((MirrorAdded { target: root.to_hex(), quota_bytes: None }, stored))
        })
        .await?;
    durable(stored).await?;
    Ok(Json(added))
}

/// What is not kept any more.
#[derive(Serialize, ToSchema)]
struct MirrorRemoved {
    target: String,
    /// Copies that were given up.
    copies: usize,
}

/// Keeps nothing more for a friend, or gives one copy up.
#[utoipa::path(delete, path = "/api/mirrors/{target}", tag = "mirrors", security(("token" = ["admin"])),
    params(("target" = String, Path, description = "`friend:NAME` or an id")),
    responses((status = 200, body = MirrorRemoved, description = "what went")))]
async fn remove(State(api): State<Api>, Path(target): Path<String>) -> Answer<MirrorRemoved> {
    let removed = api
        .call(move |cx| {
            cx.check_writable()?;
            let state = cx.service.state();
            let roots: Vec<Root> = if let Some(name) = target.strip_prefix("friend:") {
                let friend = state.friend_named(name).ok_or_else(|| super::friends::no_friend(name))?;
                let own = state.mirrors.values().filter(|mirror| mirror.friend == Some(friend));
                let roots: Vec<Root> = own.map(|mirror| mirror.cap.root).collect();
                if !state.mirror_quotas.contains_key(&friend) && roots.is_empty() {
                    return Err(Failure::new(Exit::NotFound, format!("nothing is kept for {name}")));
                }
                drop(cx.store(vec![Record::MirrorQuota(friend, 0)]));
                roots
            } else {
                let starts = |root: &&Root| target.len() >= 8 && root.to_hex().starts_with(&target);
                let found: Vec<Root> = state.mirrors.keys().filter(starts).copied().collect();
                if found.len() != 1 {
                    return Err(Failure::new(
                        Exit::NotFound,
                        "no copy of this video is kept: see `kith mirror list`",
                    ));
                }
                found
            };
            let copies = roots.len();
            for root in roots {
                cx.service.drop_mirror(cx.now, cx.core, cx.storage, root);
            }
            Ok(MirrorRemoved { target, copies })
        })
        .await?;
    Ok(Json(removed))
}

/// A friend who keeps a copy, or was asked to.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct CopyView {
    pub(crate) friend: String,
    /// `asked`, `coming` or `whole`.
    pub(crate) state: &'static str,
    pub(crate) online: bool,
}

/// How many copies of a video there are.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    pub(crate) id: String,
    /// All of it is here.
    pub(crate) here: bool,
    /// Whole copies that answered now, the one here not counted.
    pub(crate) whole: usize,
    /// Parts of copies that answered now.
    pub(crate) partial: usize,
    /// Friends who keep copies for this node, or were asked to.
    pub(crate) mirrors: Vec<CopyView>,
    /// `good`, `thin` or `gone`.
    pub(crate) state: &'static str,
    pub(crate) advice: Option<&'static str>,
}

/// What is to be done besides.
#[derive(Default, Deserialize, ToSchema)]
struct HealthRequest {
    /// Ask friends for copies, which needs the scope `publish`.
    #[serde(default)]
    ask: bool,
    /// Which way others are asked: `auto`, `direct`, `fof` or `onion`.
    #[serde(default)]
    route: Option<String>,
}

/// So long copies have to answer.
const ANSWERS: Duration = Duration::from_secs(5);

/// Looks for copies of a video, and asks friends for more. Who is asked learns that this node asks.
#[utoipa::path(post, path = "/api/videos/{id}/health", tag = "mirrors", security(("token" = ["watch"])),
    params(("id" = String, Path, description = "the id, a unique beginning of 8 digits or more, or a link")),
    request_body = HealthRequest,
    responses((status = 200, body = Health, description = "copies")))]
async fn health(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Json(request): Json<HealthRequest>,
) -> Answer<Health> {
    if request.ask && !caller.has(Scope::Publish) {
        return Err(
            Failure::new(Exit::Refused, "who asks friends for copies needs the scope `publish`").into()
        );
    }
    // It ends even when whoever asked does not wait.
    let (sender, found) = tokio::sync::oneshot::channel();
    let tasks = api.tasks.clone();
    tasks.spawn("health", async move { drop(sender.send(count_copies(&api, id, request).await)) });
    Ok(Json(found.await.map_err(|_| bug())??))
}

async fn count_copies(api: &Api, id: String, request: HealthRequest) -> Result<Health, Failure> {
    let route = super::fetch::route_of(request.route.as_deref())?;
    let (root, look) = api.call(move |cx| begin_look(cx, &id, route, request.ask)).await?;
    if look.is_some() {
        tokio::time::sleep(ANSWERS).await;
    }
    api.call(move |cx| {
        let (whole, partial) = look.map_or((0, 0), |look| {
            let copies = cx.core.fetch_copies(look);
            cx.core.end_look(cx.now, look);
            copies
        });
        Ok(health_of(cx, &root, whole, partial))
    })
    .await
}

/// Asks friends what they have of a video, without fetching anything of it.
fn begin_look(
    cx: &mut Context<'_>,
    id: &str,
    route: Route,
    ask: bool,
) -> Result<(Root, Option<FetchId>), Failure> {
    let (root, linked) = cx.service.resolve(cx.core, id)?;
    let is_own = cx.service.state().publications.contains_key(&root);
    if ask {
        if !is_own {
            return Err(Failure::new(Exit::Refused, "only for own videos friends are asked to keep copies"));
        }
        cx.service.ask_for_copies(cx.now, root);
    }
    let cap = match linked {
        Some(cap) => cap,
        None => cx.service.read_cap(cx.core, &root)?,
    };
    // The root is needed to understand what the others have.
    let sealed = cx.service.store().pack(&root).and_then(|pack| pack.read(Position::Root)).ok();
    let route = if is_own { Route::Direct } else { route };
    // What is for friends alone is not asked for through others.
    if cx.service.friends_only(cx.core, &root, route).is_some() {
        let what = "this is shared with friends only, and friends are not asked directly here: its copies cannot be counted";
        return Err(Failure::new(Exit::Unreachable, what));
    }
    Ok((root, cx.core.look(cx.now, cap.verify_cap(), route, sealed)))
}

fn health_of(cx: &Context<'_>, root: &Root, whole: usize, partial: usize) -> Health {
    let state = cx.service.state();
    let mirrors: Vec<CopyView> = cx
        .service
        .copies_of(root)
        .into_iter()
        .filter_map(|(key, copy)| {
            Some(CopyView {
                friend: state.friends.get(&key)?.name.clone(),
                state: ["asked", "coming", "whole"].get(usize::from(copy)).copied().unwrap_or("asked"),
                online: cx.core.is_online(key),
            })
        })
        .collect();
    let here = cx.service.is_here(root);
    let is_own = state.publications.contains_key(root);
    let kept = mirrors.iter().filter(|copy| copy.state == "whole").count();
    // What only one node has is gone when that one is.
    let verdict = match whole.max(kept) + usize::from(here) {
        0 => "gone",
        1 => "thin",
        _ => "good",
    };
    let advice = match (verdict, is_own) {
        ("thin", true) => Some(
            "only this node has it: ask friends to keep copies (`kith mirror add friend:YOU --quota 5GB` there, \
             then `kith video health ID --ask` here)",
        ),
        ("thin", false) => Some("keep a copy for others: kith mirror add ID"),
        ("gone", _) => Some("nobody who has it is on line now: try again later"),
        _ => None,
    };
    Health { id: root.to_hex(), here, whole, partial, mirrors, state: verdict, advice }
}
