//! How much is kept, what gives way, and what is kept for good.

use super::*;
use kith_store::{Class, Freed, ObjectInfo, Usage};

/// The requests.
pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/api/store/quota", get(quota))
        .route("/api/store/gc", post(gc))
        .route("/api/store/objects", get(objects))
        .route("/api/videos/{id}/pin", post(pin))
        .route("/api/videos/{id}/unpin", post(unpin))
}

fn by_class(numbers: [u64; 4]) -> serde_json::Map<String, Value> {
    Class::ALL.iter().zip(numbers).map(|(class, number)| (class.as_str().to_owned(), json!(number))).collect()
}

/// Objects by class.
pub(super) fn objects_json(usage: &Usage) -> Value {
    by_class(usage.objects).into()
}

/// Bytes by class, with what is being published and the sum.
pub(super) fn used_json(usage: &Usage) -> Value {
    let mut used = by_class(usage.bytes);
    used.insert("publishing".into(), json!(usage.claimed_bytes));
    used.insert("total".into(), json!(usage.total()));
    used.into()
}

fn quota_json(store: &Store) -> Value {
    let (limits, usage) = (store.limits(), store.usage());
    json!({
        "quota_bytes": limits.quota,
        "keep_free_bytes": limits.keep_free,
        "free_bytes": store.free_bytes(),
        "used_bytes": used_json(&usage),
        "objects": objects_json(&usage),
        "share_bytes": {
            "cached": limits.share(Class::Cached),
            "mirrored": limits.share(Class::Mirrored),
        },
        "evicted": usage.evicted,
    })
}

async fn quota(State(api): State<Api>) -> Answer {
    Ok(Json(quota_json(&api.store)))
}

/// Everything that is kept here, as far as it is known by a title.
async fn objects(State(api): State<Api>) -> Answer {
    let store = api.store.clone();
    let mut kept = tokio::task::spawn_blocking(move || store.objects()).await.map_err(|_| bug())?;
    kept.sort_by_key(|info| (info.class, std::cmp::Reverse(info.used_day), info.root));
    let list = api
        .call(move |cx| {
            let title = |root: &Root| {
                let own = cx.service.state().publications.get(root).map(|p| p.title.clone());
                own.or_else(|| cx.core.listing(root).map(|listing| listing.entry.title))
            };
            let row = |info: &ObjectInfo| {
                json!({
                    "id": info.root.to_hex(),
                    "title": title(&info.root),
                    "class": info.class.as_str(),
                    "complete": info.complete,
                    "bytes": Store::pack_len(info.data_count),
                    "used": u64::from(info.used_day) * DAY_S,
                })
            };
            Ok(kept.iter().map(row).collect::<Vec<_>>())
        })
        .await?;
    Ok(Json(Value::Array(list)))
}

#[derive(Deserialize)]
struct GcRequest {
    #[serde(default)]
    dry_run: bool,
}

fn freed_json(freed: &Freed, dry_run: bool) -> Value {
    let video = |info: &ObjectInfo| {
        let bytes = Store::pack_len(info.data_count);
        json!({"id": info.root.to_hex(), "class": info.class.as_str(), "bytes": bytes})
    };
    json!({
        "dry_run": dry_run,
        "videos": freed.objects.iter().map(video).collect::<Vec<_>>(),
        "files": freed.files,
        "freed_bytes": freed.bytes,
    })
}

async fn gc(State(api): State<Api>, Json(request): Json<GcRequest>) -> Answer {
    let dry_run = request.dry_run;
    let freed = free(&api, dry_run).await?;
    Ok(Json(freed_json(&freed, dry_run)))
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

fn kept_json(info: &ObjectInfo) -> Value {
    json!({
        "id": info.root.to_hex(),
        "class": info.class.as_str(),
        "complete": info.complete,
        "bytes": Store::pack_len(info.data_count),
    })
}

async fn pin(State(api): State<Api>, Path(id): Path<String>) -> Answer {
    let info = kept(&api, id).await?;
    let store = api.store.clone();
    let pinned = tokio::task::spawn_blocking(move || store.pin(&info.root)).await.map_err(|_| bug())?;
    Ok(Json(kept_json(&pinned.map_err(Failure::from)?)))
}

async fn unpin(State(api): State<Api>, Path(id): Path<String>) -> Answer {
    let info = kept(&api, id).await?;
    if info.is_own() {
        let what = "this video is your own and always kept: `kith video rm` deletes it";
        return Err(Failure::new(Exit::Refused, what).into());
    }
    let (store, now_s) = (api.store.clone(), crate::up::unix_now());
    let unpinned = tokio::task::spawn_blocking(move || store.unpin(&info.root, now_s));
    let unpinned = unpinned.await.map_err(|_| bug())?;
    Ok(Json(kept_json(&unpinned.map_err(Failure::from)?)))
}
