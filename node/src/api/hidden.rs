//! What neither search nor pages show: videos, words, friends. Only here; nobody learns of it.

use super::friends::friend_called;
use super::*;
use crate::records::Hidden;

/// Most things that are hidden.
const MAX_HIDDEN: usize = 1024;
/// Longest word in bytes.
const MAX_WORD: usize = 64;

/// The requests.
pub(super) fn routes() -> Router<Api> {
    Router::new().route("/api/hidden", get(list).post(change))
}

#[derive(OpenApi)]
#[openapi(paths(list, change))]
pub(super) struct Docs;

/// Something that is hidden.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct HiddenView {
    /// `video`, `word` or `friend`.
    pub(crate) kind: &'static str,
    /// An id, a word, or a friend's name.
    pub(crate) what: String,
    /// A video's title, where it is known.
    pub(crate) title: Option<String>,
}

/// What is to be hidden or shown again.
#[derive(Deserialize, ToSchema)]
struct HideRequest {
    /// An id, `word:WORD`, `friend:NAME`, or a friend's name or a word as it is.
    what: String,
    /// Show it again.
    #[serde(default)]
    undo: bool,
}

fn view(cx: &Context<'_>, hidden: &Hidden) -> HiddenView {
    let (kind, what, title) = match hidden {
        Hidden::Video(root) => ("video", root.to_hex(), title_of(cx, root)),
        Hidden::Word(word) => ("word", word.clone(), None),
        Hidden::Friend(key) => {
            let name = cx.service.state().friends.get(key).map(|f| f.name.clone());
            ("friend", name.unwrap_or_default(), None)
        }
    };
    HiddenView { kind, what, title }
}

/// What a person means: an id, else a friend, else a word.
fn meant(cx: &Context<'_>, what: &str) -> Result<Hidden, Failure> {
    let word = |word: &str| {
        let folded = crate::search::folded(word);
        if folded.is_empty() || folded.contains(' ') || folded.len() > MAX_WORD {
            let what = format!("{word} is not one word: hide them one by one");
            return Err(Failure::new(Exit::Usage, what));
        }
        Ok(Hidden::Word(folded))
    };
    let what = what.trim();
    match what.split_once(':') {
        Some(("word", rest)) => return word(rest),
        Some(("friend", name)) => return friend_called(cx, name).map(Hidden::Friend),
        _ => {}
    }
    let is_id = what.len() >= crate::service::MIN_ID_PREFIX && what.bytes().all(|b| b.is_ascii_hexdigit());
    if is_id || what.starts_with("kith:") {
        return Ok(Hidden::Video(cx.service.resolve(cx.core, what)?.0));
    }
    match cx.service.state().friend_named(what) {
        Some(key) => Ok(Hidden::Friend(key)),
        None => word(what),
    }
}

impl Api {
    /// What is hidden.
    pub(crate) async fn hidden_list(&self) -> Result<Vec<HiddenView>, Failure> {
        self.call(|cx| Ok(cx.service.state().hidden.iter().map(|hidden| view(cx, hidden)).collect())).await
    }
}

/// What search and pages do not show.
#[utoipa::path(get, path = "/api/hidden", tag = "videos", security(("token" = ["read"])), params(Page),
    responses((status = 200, body = Vec<HiddenView>, description = "all that is hidden")))]
async fn list(State(api): State<Api>, Query(page): Query<Page>) -> Result<Paged<HiddenView>, ApiError> {
    Ok(page.of(api.hidden_list().await?, |hidden| format!("{}:{}", hidden.kind, hidden.what))?)
}

/// Hides a video, a word or what a friend tells of, or shows it again.
#[utoipa::path(post, path = "/api/hidden", tag = "videos", security(("token" = ["admin"])),
    request_body = HideRequest,
    responses((status = 200, body = HiddenView, description = "what is hidden, or shown again")))]
async fn change(State(api): State<Api>, Json(request): Json<HideRequest>) -> Answer<HiddenView> {
    let (view, stored) = api
        .call(move |cx| {
            cx.check_writable()?;
            let hidden = meant(cx, &request.what)?;
            let state = cx.service.state();
            if request.undo && !state.hidden.contains(&hidden) {
                return Err(Failure::new(Exit::NotFound, "this is not hidden: see `kith hide`"));
            }
            if !request.undo && state.hidden.len() >= MAX_HIDDEN {
                let what = format!("{MAX_HIDDEN} hidden things are the most: show some again");
                return Err(Failure::new(Exit::Full, what));
            }
            let view = view(cx, &hidden);
            Ok((view, cx.store(vec![Record::Hidden(hidden, !request.undo)])))
        })
        .await?;
    durable(stored).await?;
    Ok(Json(view))
}
