//! The node itself.

use super::*;

/// The requests.
pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/api/status", get(status))
        .route("/api/paths", get(paths))
        .route("/api/stop", post(stop))
        .route("/api/id", get(id))
        .route("/api/store", get(store_stats))
}

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
