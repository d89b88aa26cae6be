//! Watching one video.

use super::*;
use crate::api::VideoView;
use axum::extract::{Path, Query};
use kith_onion::Route;
use serde::Deserialize;

#[derive(Deserialize)]
pub(super) struct Asked {
    /// Seconds.
    #[serde(default)]
    t: u64,
}

pub(super) async fn page(page: Page, Path(id): Path<String>, Query(asked): Query<Asked>) -> Response {
    match made(&page, id, asked.t).await {
        Ok(response) => response,
        Err(failure) => page.failed("/watch", &failure),
    }
}

/// What is shown of a video, whoever published it.
struct Shown {
    id: String,
    title: String,
    text: String,
    tags: Vec<String>,
    mime: String,
    duration_s: Option<u32>,
    about: String,
    own: bool,
}

impl Shown {
    fn of(page: &Page, video: VideoView) -> Self {
        match video {
            VideoView::Own(p) => Self {
                about: format!(
                    "{} · {} · {}",
                    library::audience(page, &p.audience),
                    human_bytes(p.bytes),
                    day(p.published)
                ),
                id: p.id,
                title: p.title,
                text: p.text,
                tags: p.tags,
                mime: p.mime,
                duration_s: p.duration_s,
                own: true,
            },
            VideoView::Told(f) => Self {
                about: page.about(&f),
                own: f.distance == 0,
                id: f.id,
                title: f.title,
                text: f.text,
                tags: f.tags,
                mime: f.mime,
                duration_s: f.duration_s,
            },
        }
    }
}

async fn made(page: &Page, id: String, from: u64) -> Result<Response, Failure> {
    let shown = match page.api.video(id.clone()).await {
        Ok(video) => Shown::of(page, video),
        // By a link from elsewhere, or what is kept without its entry: it can be played all the same.
        Err(_) if page.api.knows(id.clone()).await? => Shown {
            title: page.t("library.untitled").to_owned(),
            text: String::new(),
            tags: Vec::new(),
            mime: String::new(),
            duration_s: None,
            about: String::new(),
            own: false,
            id,
        },
        Err(failure) => return Err(failure),
    };
    let way = page.api.way(shown.id.clone(), Route::Auto).await?;
    let stream = page.api.lazy_stream(&page.csrf, shown.id.clone()).await?;
    let class = page.api.class_of(shown.id.clone()).await?;
    let plays = ["video/mp4", "video/webm", "video/quicktime"].contains(&shown.mime.as_str());
    let src = if from > 0 { format!("{}#t={from}", stream.path) } else { stream.path.clone() };
    let title = safe(&shown.title);
    let body = html! {
        article.watch #watch data-id=(shown.id) data-stream=(stream.name)
            data-duration=[shown.duration_s] {
            video #player controls preload="none" src=(src) aria-label=(title) {}
            div.map role="img" aria-label=(page.t("watch.map")) {
                canvas #map width="1000" height="10" {}
            }
            p.stream #stream aria-live="off" { span #state { (page.t("watch.ready")) } }
            h1 dir="auto" { (title) }
            p.about { (shown.about) }
            p.learns #learns { (page.t(&format!("way.{}", way.way))) " " (safe(&way.who_learns)) }
            @if !plays { p.warn { (page.t("watch.maybe_not")) } }
            div.acts {
                @if !shown.own {
                    @let pinned = class == Some("pinned");
                    button.plain data-act=(if pinned { "unpin" } else { "pin" }) {
                        (page.t(if pinned { "watch.unpin" } else { "watch.pin" }))
                    }
                    button.plain data-act="hide" { (page.t("watch.hide")) }
                }
                button.plain data-act="copy" data-url=(stream.url) { (page.t("watch.copy")) }
                a.button.plain href={ "/api/objects/" (shown.id) "/content" } download=(title) { (page.t("watch.save")) }
            }
            @if !shown.text.is_empty() { p.text dir="auto" { (safe(&shown.text)) } }
            @if !shown.tags.is_empty() {
                ul.tags { @for tag in &shown.tags {
                    li { a dir="auto" href={ "/search?q=" (query(tag)) } { (safe(tag)) } }
                } }
            }
            details {
                summary { (page.t("watch.keys")) }
                p { (page.t("watch.keys_list")) }
            }
        }
    };
    Ok(page.document("/watch", &title, Some("watch.js"), body))
}

/// A text as part of an address.
fn query(text: &str) -> String {
    let keep = |b: u8| b.is_ascii_alphanumeric();
    text.bytes().map(|b| if keep(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
