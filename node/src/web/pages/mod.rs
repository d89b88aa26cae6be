//! The page's documents. Everything to read is in them; scripts make them live.
//!
//! Foreign text (titles, names, words of friends) only gets here through maud's escaping, after
//! [`crate::terminal::safe`] has made what changes the direction of writing or cannot be seen visible.

mod friends;
mod help;
mod home;
mod library;
mod network;
mod publish;
mod search;
mod settings;
mod store;
mod watch;
mod welcome;

use super::Web;
use super::sessions::Session;
use super::texts::{LANGUAGES, Texts};
use crate::api::{Api, FoundVideo, Status};
use crate::exit::Failure;
use crate::terminal::{self, human_bytes};
use axum::Router;
use axum::extract::{Extension, FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use std::convert::Infallible;
use std::fmt::Display;

/// The documents.
pub(super) fn routes() -> Router<Web> {
    Router::new()
        .route("/", get(home::page))
        .route("/welcome", get(welcome::page))
        .route("/watch/{id}", get(watch::page))
        .route("/poster/{id}", get(poster_file))
        .route("/search", get(search::page))
        .route("/publish", get(publish::page))
        .route("/library", get(library::page))
        .route("/friends", get(friends::page))
        .route("/link/{name}", get(friends::link))
        .route("/network", get(network::page))
        .route("/store", get(store::page))
        .route("/settings", get(settings::page))
        .route("/help", get(help::page))
}

/// Places of the page: path, key of the name.
const PLACES: [(&str, &str); 8] = [
    ("/", "nav.home"),
    ("/publish", "nav.publish"),
    ("/library", "nav.library"),
    ("/friends", "nav.friends"),
    ("/network", "nav.network"),
    ("/store", "nav.store"),
    ("/settings", "nav.settings"),
    ("/help", "nav.help"),
];

/// What every document needs.
#[derive(Clone)]
pub(super) struct Page {
    api: Api,
    texts: &'static Texts,
    theme: &'static str,
    csrf: String,
}

impl FromRequestParts<Web> for Page {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, web: &Web) -> Result<Self, Infallible> {
        let session = Extension::<Session>::from_request_parts(parts, &()).await;
        let accepted = parts.headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok());
        let look = web.api.settings.look();
        let texts = Texts::of(look.language).unwrap_or_else(|| Texts::accepted(accepted));
        let csrf = session.map(|Extension(session)| session.csrf).unwrap_or_default();
        let State(web) = State::<Web>::from_request_parts(parts, web).await?;
        Ok(Self { api: web.api, texts, theme: look.theme, csrf })
    }
}

impl Page {
    /// A text.
    fn t<'a>(&'a self, key: &'a str) -> &'a str {
        self.texts.get(key)
    }

    /// A text with values.
    fn f(&self, key: &str, values: &[&dyn Display]) -> String {
        self.texts.fill(key, values)
    }

    /// A whole document. `script`: its module beside the common one.
    fn document(&self, path: &str, title: &str, script: Option<&str>, body: Markup) -> Response {
        let words = self.texts.part("js").to_string().replace('<', "\\u003c");
        let markup = html! {
            (DOCTYPE)
            html lang=(self.texts.tag) data-theme=(self.theme) {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    meta name="csrf" content=(self.csrf);
                    title { (title) " · Kithcast" }
                    link rel="icon" href="/assets/icon.svg" type="image/svg+xml";
                    link rel="stylesheet" href="/assets/app.css";
                    script type="module" src="/assets/app.js" {}
                    @if let Some(script) = script {
                        script type="module" src={ "/assets/" (script) } {}
                    }
                    script type="application/json" id="texts" { (PreEscaped(words)) }
                }
                body {
                    a.skip href="#main" { (self.t("nav.skip")) }
                    header.top {
                        a.brand href="/" { (logo()) span { "Kithcast" } }
                        form.find role="search" action="/search" method="get" {
                            input type="search" name="q" autocomplete="off" maxlength="200"
                                aria-label=(self.t("nav.search")) placeholder=(self.t("nav.search"));
                        }
                        nav aria-label=(self.t("nav.places")) {
                            @for (place, name) in PLACES {
                                a href=(place) aria-current=[(place == path).then_some("page")] {
                                    (self.t(name))
                                }
                            }
                        }
                    }
                    main #main tabindex="-1" { (body) }
                    div #notes role="status" aria-live="polite" {}
                    noscript { p.noscript { (self.t("nav.noscript")) } }
                }
            }
        };
        Html(markup.into_string()).into_response()
    }

    /// A document that says what went wrong.
    fn failed(&self, path: &str, failure: &Failure) -> Response {
        let body = html! {
            h1 { (self.t("error.title")) }
            p.warn { (failure) }
            p { a href="/" { (self.t("error.back")) } }
        };
        let status = StatusCode::from_u16(failure.exit.http_status());
        let mut response = self.document(path, self.t("error.title"), None, body);
        *response.status_mut() = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response
    }

    /// Videos as cards.
    fn cards(&self, videos: &[FoundVideo]) -> Markup {
        html! {
            ul.cards {
                @for video in videos { (self.card(video)) }
            }
        }
    }

    fn card(&self, video: &FoundVideo) -> Markup {
        html! {
            li.card data-id=(video.id) {
                a href={ "/watch/" (video.id) } {
                    span.poster {
                        (poster(&video.id))
                        @if let Some(seconds) = video.duration_s { span.length { (clock(seconds)) } }
                    }
                    span.name dir="auto" { (safe(&video.title)) }
                }
                span.about { (self.about(video)) }
            }
        }
    }

    /// From whom a video is, and of when.
    fn about(&self, video: &FoundVideo) -> String {
        let via = safe(video.via.as_deref().unwrap_or_default());
        let whose = match video.distance {
            0 => self.t("video.own").to_owned(),
            1 => self.f("video.of_friend", &[&via]),
            _ => self.f("video.of_fof", &[&via]),
        };
        format!("{whose} · {} · {}", human_bytes(video.bytes), day(video.published))
    }

    /// What is wrong with the node, if anything.
    fn warnings(&self, status: &Status) -> Markup {
        let damaged = status.damaged.objects;
        html! {
            @for text in [&status.read_only, &status.disk_full].into_iter().flatten() { p.warn { (safe(text)) } }
            @if damaged > 0 { p.warn { (self.f("home.damaged", &[&damaged])) } }
            @if status.clock_skew_s.is_some() { p.warn { (self.t("home.clock")) } }
            @if ["starting", "failed"].contains(&status.tor.state.as_str()) {
                p.warn { (network::tor_state(self, &status.tor)) }
            }
        }
    }
}

/// Foreign text for a document.
fn safe(text: &str) -> String {
    terminal::safe(text)
}

/// `1:02:03`
fn clock(seconds: u32) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// A day from Unix seconds.
fn day(unix_s: u64) -> String {
    let time = jiff::Timestamp::from_second(i64::try_from(unix_s).unwrap_or(0)).unwrap_or_default();
    time.strftime("%Y-%m-%d").to_string()
}

fn logo() -> Markup {
    html! {
        svg viewBox="0 0 32 32" aria-hidden="true" {
            circle cx="11" cy="16" r="9" fill="none" stroke="currentColor" stroke-width="3" {}
            circle cx="21" cy="16" r="9" fill="none" stroke="currentColor" stroke-width="3" {}
            path d="M14.5 12.5v7l5-3.5z" fill="currentColor" {}
        }
    }
}

/// A picture for a video without one, always the same for the same id.
fn poster(id: &str) -> Markup {
    picture(id, true)
}

fn picture(id: &str, sign: bool) -> Markup {
    let nibble = |at: usize| id.as_bytes().get(at).and_then(|b| char::from(*b).to_digit(16)).unwrap_or(0);
    let hue = (nibble(0) * 16 + nibble(1)) * 360 / 256;
    let color = |shift: u32, light: u32| format!("hsl({} 34% {light}%)", (hue + shift) % 360);
    html! {
        svg viewBox="0 0 160 90" preserveAspectRatio="xMidYMid slice" aria-hidden="true" {
            rect width="160" height="90" fill=(color(0, 30)) {}
            @for n in 0..3_u32 {
                @let at = n as usize * 3 + 2;
                circle cx=(nibble(at) * 10) cy=(nibble(at + 1) * 6) r=(18 + nibble(at + 2) * 2)
                    fill=(color(30 + n * 40, 38 + n * 6)) fill-opacity="0.55" {}
            }
            @if sign { path d="M70 33v24l20-12z" fill="#fff" fill-opacity="0.85" {} }
        }
    }
}

/// The poster of a video that is here, or the same picture as a file, for the player.
async fn poster_file(page: Page, axum::extract::Path(id): axum::extract::Path<String>) -> Response {
    if let Ok(Some(head)) = page.api.head_here(id.clone()).await
        && !head.poster.is_empty()
    {
        return ([(header::CONTENT_TYPE, "image/jpeg")], head.poster).into_response();
    }
    let picture =
        picture(&id, false).into_string().replacen("<svg", "<svg xmlns=\"http://www.w3.org/2000/svg\"", 1);
    ([(header::CONTENT_TYPE, "image/svg+xml")], picture).into_response()
}

fn bare(title: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                link rel="icon" href="/assets/icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="/assets/app.css";
            }
            body { main.bare { (logo()) (body) } }
        }
    }
}

/// What somebody sees who has not logged in: the same whatever was asked for.
pub(super) fn stranger() -> Markup {
    let texts = Texts::accepted(None);
    bare(
        "kith",
        &html! {
            h1 { (texts.get("login.title")) }
            p { (texts.get("login.how")) }
            pre { "kith open" }
            p.dim { (texts.get("login.why")) }
        },
    )
}

/// On the way in.
pub(super) fn entering(place: &str) -> Markup {
    let texts = Texts::accepted(None);
    bare("kith", &html! { p { a href=(place) { (texts.get("login.enter")) } } })
}

/// Languages to choose from.
fn languages() -> impl Iterator<Item = (&'static str, &'static str)> {
    LANGUAGES.iter().map(|(tag, name, _)| (*tag, *name))
}
