//! Watching one video.

use super::*;
use crate::api::VideoView;
use crate::privacy::{Learns, WayView};
use axum::extract::{Path, Query};
use kith_onion::Route;
use serde::Deserialize;

#[derive(Deserialize)]
pub(super) struct Asked {
    /// Seconds.
    #[serde(default)]
    t: u64,
    /// Which way it may come.
    #[serde(default)]
    route: String,
}

/// Ways to choose from.
const ROUTES: [(&str, Route); 4] =
    [("auto", Route::Auto), ("direct", Route::Direct), ("fof", Route::Fof), ("onion", Route::Onion)];

pub(super) async fn page(page: Page, Path(id): Path<String>, Query(asked): Query<Asked>) -> Response {
    let route = ROUTES.into_iter().find(|(name, _)| *name == asked.route).unwrap_or(ROUTES[0]);
    match made(&page, id, asked.t, route).await {
        Ok(response) => response,
        Err(failure) => page.failed("/watch", &failure),
    }
}

/// The page of a video that a link from elsewhere names.
pub(super) async fn of_link(page: &Page, link: String) -> Response {
    match made(page, link, 0, ROUTES[0]).await {
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
    about: String,
    own: bool,
    /// Of an own one, for whom.
    audience: Option<String>,
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
                own: true,
                audience: Some(p.audience),
            },
            VideoView::Told(f) => Self {
                about: page.about(&f),
                own: f.distance == 0,
                id: f.id,
                title: f.title,
                text: f.text,
                tags: f.tags,
                mime: f.mime,
                audience: None,
            },
        }
    }
}

/// Who learns what, in the page's language.
fn who_learns(page: &Page, way: &WayView) -> String {
    let Learns { kind, names, others, then } = &way.learns;
    if page.texts.tag == "en" || page.texts.get(&format!("learns.{kind}")).starts_with("learns.") {
        return way.who_learns.clone();
    }
    let list = |names: &[String]| match names {
        [] => String::new(),
        [one] => one.clone(),
        [one, two] => page.f("learns.two", &[one, two]),
        [one, two, rest @ ..] => page.f("learns.more", &[one, two, &rest.len()]),
    };
    let mut said = page.f(&format!("learns.{kind}"), &[&list(names)]);
    if *others {
        said.push_str(page.t(&format!("learns.{kind}_others")));
    }
    if !then.is_empty() {
        said.push_str(&page.f("learns.then", &[&list(then)]));
    }
    said
}

/// Captions in a player's list.
fn caption_name(page: &Page, part: &crate::api::PartView) -> String {
    let name = if part.label.is_empty() { page.t("watch.captions") } else { part.label.as_str() };
    safe(name).to_string()
}

/// What stands around a film: chapters, tracks, licence.
fn around_film(page: &Page, around: Option<&crate::api::Around>, id: &str) -> Markup {
    let Some(around) = around else { return html! {} };
    let tracks: Vec<String> = around
        .tracks
        .iter()
        .map(|track| {
            let size =
                if track.width > 0 { format!(" {}×{}", track.width, track.height) } else { String::new() };
            let lang =
                if track.lang.is_empty() { String::new() } else { format!(" ({})", safe(&track.lang)) };
            format!("{}{size}{lang}", safe(&track.codec))
        })
        .collect();
    html! {
        @if !around.chapters.is_empty() {
            h2 { (page.t("watch.chapters")) }
            ol.chapters { @for chapter in &around.chapters {
                @let s = chapter.begins_ms / 1000;
                li { a dir="auto" data-seek=(s) href={ "/watch/" (id) "?t=" (s) } {
                    (format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)) " " (safe(&chapter.title))
                } }
            } }
        }
        @if !tracks.is_empty() { p.dim { (tracks.join(", ")) } }
        @if !around.lang.is_empty() { p.dim { (page.f("watch.lang", &[&safe(&around.lang)])) } }
        @if !around.licence.is_empty() { p.dim { (page.f("watch.licence", &[&safe(&around.licence)])) } }
    }
}

/// Other words about an own video, and other people for it.
async fn change(page: &Page, shown: &Shown, audience: &str) -> Result<Markup, Failure> {
    let (friends, circles) = tokio::try_join!(page.api.friend_list(), page.api.circle_list())?;
    Ok(html! {
        details {
            summary { (page.t("watch.change")) }
            p.dim { (page.t("watch.change_means")) }
            form #change {
                div.fields {
                    label.wide { (page.t("js.title")) input name="title" value=(shown.title) required maxlength="200"; }
                    label.wide { (page.t("publish.text")) textarea name="text" rows="3" maxlength="4096" { (shown.text) } }
                    label { (page.t("publish.tags")) input name="tags" value=(shown.tags.join(", ")) autocomplete="off"; }
                    label { (page.t("publish.to"))
                        select name="to" { (publish::audiences(page, &friends, &circles, audience)) }
                    }
                }
                button { (page.t("watch.change_go")) }
            }
        }
    })
}

async fn made(page: &Page, id: String, from: u64, route: (&str, Route)) -> Result<Response, Failure> {
    let shown = match page.api.video(id.clone()).await {
        Ok(video) => Shown::of(page, video),
        // By a link from elsewhere, or what is kept without its entry: it can be played all the same.
        Err(_) if page.api.knows(id.clone()).await? => Shown {
            title: page.t("library.untitled").to_owned(),
            text: String::new(),
            tags: Vec::new(),
            mime: String::new(),
            about: String::new(),
            own: false,
            audience: None,
            id,
        },
        Err(failure) => return Err(failure),
    };
    let way = page.api.way(shown.id.clone(), route.1).await?;
    let told = way.who_learns.clone();
    let stream = page.api.lazy_stream(&page.csrf, shown.id.clone(), route.1, told).await?;
    let class = page.api.class_of(shown.id.clone()).await?;
    let around = page.api.around(shown.id.clone()).await.ok().flatten();
    let kept = page.api.keeps_by_wish(shown.id.clone()).await?;
    let change = match &shown.audience {
        Some(audience) => change(page, &shown, audience).await?,
        None => html! {},
    };
    let plays = ["video/mp4", "video/webm", "video/quicktime"].contains(&shown.mime.as_str());
    let src = if from > 0 { format!("{}#t={from}", stream.path) } else { stream.path.clone() };
    let title = safe(&shown.title);
    let body = html! {
        article.watch #watch data-id=(shown.id) data-stream=(stream.name) data-route=(route.0)
            data-learns=(way.who_learns) data-title=(title) data-around=[around.is_some().then_some("")] {
            video #player controls preload="none" poster={ "/poster/" (shown.id.get(..16).unwrap_or("0")) } src=(src) aria-label=(title) {
                @for part in around.iter().flat_map(|a| &a.parts).filter(|part| part.kind == "captions") {
                    track kind="captions" src={ (stream.path) "/parts/" (part.n) }
                        srclang=[(!part.lang.is_empty()).then_some(&part.lang)]
                        label=(caption_name(page, part));
                }
            }
            div.map role="img" aria-label=(page.t("watch.map")) {
                canvas #map width="1000" height="10" {}
                canvas #peek hidden aria-hidden="true" {}
            }
            p.stream #stream aria-live="off" { span #state { (page.t("watch.ready")) } }
            h1 dir="auto" { (title) }
            p.about { (shown.about) }
            p.learns #learns { (page.t(&format!("way.{}", way.way))) " " (safe(&who_learns(page, &way))) }
            @if way.way != "local" {
                form.line action=[(!shown.id.contains(':')).then(|| format!("/watch/{}", shown.id))] method="get" {
                    label { (page.t("watch.route"))
                        select name="route" {
                            @for (name, _) in ROUTES {
                                option value=(name) selected[name == route.0] { (page.t(&format!("route.{name}"))) }
                            }
                        }
                    }
                    button.plain { (page.t("watch.route_go")) }
                }
            }
            @if !plays { p.warn { (page.t("watch.maybe_not")) } }
            div.acts {
                @if !shown.own {
                    @let pinned = class == Some("pinned");
                    button.plain data-act=(if pinned { "unpin" } else { "pin" }) {
                        (page.t(if pinned { "watch.unpin" } else { "watch.pin" }))
                    }
                    button.plain data-act="hide" { (page.t("watch.hide")) }
                }
                button.plain data-act="copy" { (page.t("watch.copy")) }
                button.plain data-act="save" { (page.t("watch.save")) }
            }
            @if !shown.text.is_empty() { p.text dir="auto" { (safe(&shown.text)) } }
            @if !shown.tags.is_empty() {
                ul.tags { @for tag in &shown.tags {
                    li { a dir="auto" href={ "/search?q=" (crate::api::percent(tag)) } { (safe(tag)) } }
                } }
            }
            div #around { (around_film(page, around.as_ref(), &shown.id)) }
            p #health.dim aria-live="polite" {}
            div.acts {
                button.plain data-act="health" { (page.t("watch.health")) }
                @if shown.own {
                    button.plain data-act="ask_copies" { (page.t("watch.ask_copies")) }
                } @else {
                    button.plain data-act=(if kept { "unmirror" } else { "mirror" }) {
                        (page.t(if kept { "watch.unmirror" } else { "watch.mirror" }))
                    }
                }
            }
            (change)
            details {
                summary { (page.t("watch.keys")) }
                p { (page.t("watch.keys_list")) }
            }
        }
    };
    // What was watched is not for the browser's list of pages.
    Ok(page.document("/watch", page.t("watch.title"), Some("watch.js"), body))
}
