//! How much is kept, what gives way, and what is kept for good.

use super::*;
use kith_store::{Class, Freed, ObjectInfo, Usage};
use std::collections::BTreeMap;

/// The requests.
pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/api/store/quota", get(quota))
        .route("/api/store/gc", post(gc))
        .route("/api/store/objects", get(objects))
        .route("/api/videos/{id}/pin", post(pin))
        .route("/api/videos/{id}/unpin", post(unpin))
}

#[derive(OpenApi)]
#[openapi(paths(quota, gc, objects, pin, unpin))]
pub(super) struct Docs;

/// Numbers by class.
pub(super) fn by_class(numbers: [u64; 4]) -> BTreeMap<&'static str, u64> {
    Class::ALL.iter().zip(numbers).map(|(class, number)| (class.as_str(), number)).collect()
}

/// Bytes by class, with what is being published and the sum.
pub(super) fn used_by_class(usage: &Usage) -> BTreeMap<&'static str, u64> {
    let mut used = by_class(usage.bytes);
    used.insert("publishing", usage.claimed_bytes);
    used.insert("total", usage.total());
    used
}

/// What may be used by what gives way.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Shares {
    pub(crate) cached: u64,
    pub(crate) mirrored: u64,
}

/// How much may be kept, and is.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct QuotaView {
    pub(crate) quota_bytes: u64,
    /// Left free on the disk.
    pub(crate) keep_free_bytes: u64,
    pub(crate) free_bytes: u64,
    /// By class, with `publishing` and `total`.
    pub(crate) used_bytes: BTreeMap<&'static str, u64>,
    /// Counts by class.
    pub(crate) objects: BTreeMap<&'static str, u64>,
    pub(crate) share_bytes: Shares,
    /// Videos that gave way since the start.
    pub(crate) evicted: u64,
}

impl Api {
    /// How much may be kept, and is.
    pub(crate) fn quota(&self) -> QuotaView {
        let (limits, usage) = (self.store.limits(), self.store.usage());
        QuotaView {
            quota_bytes: limits.quota,
            keep_free_bytes: limits.keep_free,
            free_bytes: self.store.free_bytes(),
            used_bytes: used_by_class(&usage),
            objects: by_class(usage.objects),
            share_bytes: Shares {
                cached: limits.share(Class::Cached),
                mirrored: limits.share(Class::Mirrored),
            },
            evicted: usage.evicted,
        }
    }
}

/// How much may be kept, and is.
#[utoipa::path(get, path = "/api/store/quota", tag = "store", security(("token" = ["read"])),
    responses((status = 200, body = QuotaView, description = "sizes")))]
async fn quota(State(api): State<Api>) -> Answer<QuotaView> {
    Ok(Json(api.quota()))
}

/// Something that is kept here.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct KeptObject {
    pub(crate) id: String,
    pub(crate) title: Option<String>,
    /// `own`, `pinned`, `mirrored` or `cached`.
    pub(crate) class: &'static str,
    pub(crate) complete: bool,
    pub(crate) bytes: u64,
    /// When it was used last, to the day, in Unix seconds.
    pub(crate) used: u64,
}

/// Everything that is kept here, as far as it is known by a title.
#[utoipa::path(get, path = "/api/store/objects", tag = "store", security(("token" = ["read"])),
    params(Page),
    responses((status = 200, body = Vec<KeptObject>, description = "own ones first")))]
async fn objects(State(api): State<Api>, Query(page): Query<Page>) -> Result<Paged<KeptObject>, ApiError> {
    Ok(page.of(api.kept_objects().await?, |object| object.id.clone())?)
}

impl Api {
    /// Everything that is kept here.
    pub(crate) async fn kept_objects(&self) -> Result<Vec<KeptObject>, Failure> {
        let api = self;
        let store = api.store.clone();
        let mut kept = tokio::task::spawn_blocking(move || store.objects()).await.map_err(|_| bug())?;
        kept.sort_by_key(|info| (info.class, std::cmp::Reverse(info.used_day), info.root));
        api.call(move |cx| {
            let title = |root: &Root| {
                let own = cx.service.state().publications.get(root).map(|p| p.title.clone());
                own.or_else(|| cx.core.listing(root).map(|listing| listing.entry.title))
            };
            let row = |info: &ObjectInfo| KeptObject {
                id: info.root.to_hex(),
                title: title(&info.root),
                class: info.class.as_str(),
                complete: info.complete,
                bytes: Store::pack_len(info.data_count),
                used: u64::from(info.used_day) * DAY_S,
            };
            Ok(kept.iter().map(row).collect::<Vec<_>>())
        })
        .await
    }
}

/// Whether anything is to be removed.
#[derive(Deserialize, ToSchema)]
struct GcRequest {
    /// Only say what would go.
    #[serde(default)]
    dry_run: bool,
}

/// A video that gives way.
#[derive(Serialize, ToSchema)]
struct FreedVideo {
    id: String,
    class: &'static str,
    bytes: u64,
}

/// What gave way, or would.
#[derive(Serialize, ToSchema)]
struct FreedView {
    dry_run: bool,
    videos: Vec<FreedVideo>,
    /// Leftover files.
    files: u64,
    freed_bytes: u64,
}

/// Frees what gives way beyond the quota's shares, and leftover files.
#[utoipa::path(post, path = "/api/store/gc", tag = "store", security(("token" = ["admin"])),
    request_body = GcRequest,
    responses((status = 200, body = FreedView, description = "what went")))]
async fn gc(State(api): State<Api>, Json(request): Json<GcRequest>) -> Answer<FreedView> {
    let dry_run = request.dry_run;
    let freed = free(&api, dry_run).await?;
    let video = |info: &ObjectInfo| FreedVideo {
        id: info.root.to_hex(),
        class: info.class.as_str(),
        bytes: Store::pack_len(info.data_count),
    };
    let videos = freed.objects.iter().map(video).collect();
    Ok(Json(FreedView { dry_run, videos, files: freed.files, freed_bytes: freed.bytes }))
}

/// Lets go what gives way beyond the limits.
pub(super) async fn free(api: &Api, dry_run: bool) -> Result<Freed, Failure> {
    api.call(|cx| cx.check_not_read_only()).await?;
    let store = api.store.clone();
    let freed = tokio::task::spawn_blocking(move || store.gc(dry_run)).await.map_err(|_| bug())??;
    // What gave way is not offered any more, and what waited for room is written.
    api.call(|cx| {
        cx.storage.log(crate::storage::Log::Retry);
        Ok(())
    })
    .await?;
    Ok(freed)
}

/// The object that an id names, if it is kept here.
async fn kept(api: &Api, id: String) -> Result<ObjectInfo, Failure> {
    api.call(move |cx| {
        cx.check_not_read_only()?;
        let (root, _) = cx.service.resolve(cx.core, &id)?;
        cx.service.store().object(&root).ok_or_else(|| {
            Failure::new(
                Exit::NotFound,
                "nothing of this video is stored here: fetch it first with `kith get`",
            )
        })
    })
    .await
}

/// How a video is kept.
#[derive(Serialize, ToSchema)]
struct Pinned {
    id: String,
    class: &'static str,
    complete: bool,
    bytes: u64,
}

impl Pinned {
    fn of(info: &ObjectInfo) -> Self {
        Self {
            id: info.root.to_hex(),
            class: info.class.as_str(),
            complete: info.complete,
            bytes: Store::pack_len(info.data_count),
        }
    }
}

/// Keeps a fetched video for good.
#[utoipa::path(post, path = "/api/videos/{id}/pin", tag = "videos", security(("token" = ["watch"])),
    params(("id" = String, Path, description = "the id, a unique beginning of 8 digits or more, or a link")),
    responses((status = 200, body = Pinned, description = "how it is kept")))]
async fn pin(State(api): State<Api>, Path(id): Path<String>) -> Answer<Pinned> {
    let info = kept(&api, id).await?;
    let store = api.store.clone();
    let pinned = tokio::task::spawn_blocking(move || store.pin(&info.root)).await.map_err(|_| bug())?;
    Ok(Json(Pinned::of(&pinned.map_err(Failure::from)?)))
}

/// Lets a pinned video give way again.
#[utoipa::path(post, path = "/api/videos/{id}/unpin", tag = "videos", security(("token" = ["watch"])),
    params(("id" = String, Path, description = "the id, a unique beginning of 8 digits or more, or a link")),
    responses((status = 200, body = Pinned, description = "how it is kept")))]
async fn unpin(State(api): State<Api>, Path(id): Path<String>) -> Answer<Pinned> {
    let info = kept(&api, id).await?;
    if info.is_own() {
        let what = "this video is your own and always kept: `kith video rm` deletes it";
        return Err(Failure::new(Exit::Refused, what).into());
    }
    let (store, now_s) = (api.store.clone(), crate::up::unix_now());
    let unpinned = tokio::task::spawn_blocking(move || store.unpin(&info.root, now_s));
    let unpinned = unpinned.await.map_err(|_| bug())?;
    Ok(Json(Pinned::of(&unpinned.map_err(Failure::from)?)))
}
