//! Search in what is known here.

use super::*;

/// The requests.
pub(super) fn routes() -> Router<Api> {
    Router::new().route("/api/search", get(search))
}

#[derive(Deserialize)]
struct SearchRequest {
    words: String,
    scope: Option<String>,
    limit: Option<usize>,
    min_dur: Option<u32>,
    max_dur: Option<u32>,
}

pub(super) fn listing_json(cx: &Context<'_>, listing: &kith_onion::catalogue::Listing, score: f32) -> Value {
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
