//! Search in what is known here.

use super::*;

/// The requests.
pub(super) fn routes() -> Router<Api> {
    Router::new().route("/api/search", get(search))
}

#[derive(OpenApi)]
#[openapi(paths(search))]
pub(super) struct Docs;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct SearchRequest {
    /// Words, or their beginnings.
    words: String,
    /// `mine`, `friends` or `fof`.
    scope: Option<String>,
    /// At most so many, 50 if not said, 1000 at most.
    limit: Option<usize>,
    /// At least so many seconds long.
    min_dur: Option<u32>,
    /// At most so many seconds long.
    max_dur: Option<u32>,
}

/// A video that somebody tells of.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct FoundVideo {
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) text: String,
    pub(crate) tags: Vec<String>,
    pub(crate) mime: String,
    pub(crate) duration_s: Option<u32>,
    pub(crate) bytes: u64,
    /// The day, in Unix seconds.
    pub(crate) published: u64,
    /// 0 own, 1 friend, 2 friend of a friend.
    pub(crate) distance: u8,
    /// The direct friend who tells of it.
    pub(crate) via: Option<String>,
    /// Channels come later: null.
    pub(crate) channel: Option<String>,
    /// More is better.
    pub(crate) score: f32,
}

pub(super) fn found_video(
    cx: &Context<'_>,
    listing: &kith_onion::catalogue::Listing,
    score: f32,
) -> FoundVideo {
    let entry = &listing.entry;
    let friends = &cx.service.state().friends;
    let via = (listing.distance > 0)
        .then(|| listing.sources.first().and_then(|(key, _)| friends.get(key)).map(|f| f.name.clone()))
        .flatten();
    FoundVideo {
        id: entry.root().to_hex(),
        title: entry.title.clone(),
        text: entry.text.clone(),
        tags: entry.tags.clone(),
        mime: entry.mime.clone(),
        duration_s: duration(entry.duration_s),
        bytes: entry.bytes,
        published: u64::from(entry.published_day) * DAY_S,
        distance: listing.distance,
        via,
        channel: None,
        score,
    }
}

/// What was found.
#[derive(Serialize, ToSchema)]
pub(crate) struct SearchAnswer {
    pub(crate) results: Vec<FoundVideo>,
    /// When friends' friends' entries come next.
    pub(crate) next_batch_s: Option<u64>,
}

/// Searches what is known here; nothing is sent because of it.
#[utoipa::path(get, path = "/api/search", tag = "videos", security(("token" = ["read"])),
    params(SearchRequest),
    responses((status = 200, body = SearchAnswer, description = "the best first")))]
async fn search(State(api): State<Api>, Query(request): Query<SearchRequest>) -> Answer<SearchAnswer> {
    let furthest = match request.scope.as_deref() {
        Some("mine") => 0,
        Some("friends") => 1,
        None | Some("fof") => 2,
        Some(_) => return Err(Failure::new(Exit::Usage, "--scope is mine, friends or fof").into()),
    };
    let limit = request.limit.unwrap_or(50).clamp(1, 1000);
    let lengths = request.min_dur.unwrap_or(0)..=request.max_dur.unwrap_or(u32::MAX);
    Ok(Json(api.find(request.words, limit, furthest, lengths).await?))
}

impl Api {
    /// Searches what is known here: at most so many, no further away, no shorter and no longer.
    pub(crate) async fn find(
        &self,
        words: String,
        limit: usize,
        furthest: u8,
        lengths: std::ops::RangeInclusive<u32>,
    ) -> Result<SearchAnswer, Failure> {
        self.call(move |cx| {
            let keep = |brief: kith_onion::catalogue::Brief| {
                brief.distance <= furthest && lengths.contains(&brief.duration_s)
            };
            let found = cx.service.search(cx.core, &words, limit, keep);
            Ok(SearchAnswer {
                results: found.iter().map(|f| found_video(cx, &f.listing, f.score)).collect(),
                next_batch_s: cx.core.next_relayed_pull(cx.now).map(|d| d.as_secs()),
            })
        })
        .await
    }
}
