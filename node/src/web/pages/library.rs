//! What is one's own, what is kept, what is hidden.

use super::*;
use axum::extract::Query;
use serde::Deserialize;

#[derive(Deserialize)]
pub(super) struct Asked {
    #[serde(default)]
    show: String,
}

pub(super) async fn page(page: Page, Query(asked): Query<Asked>) -> Response {
    match made(&page, &asked.show).await {
        Ok(response) => response,
        Err(failure) => page.failed("/library", &failure),
    }
}

async fn made(page: &Page, show: &str) -> Result<Response, Failure> {
    let show = ["own", "pinned", "cached", "hidden"].into_iter().find(|s| *s == show).unwrap_or("own");
    let tabs = html! {
        nav.tabs aria-label=(page.t("library.filter")) {
            @for tab in ["own", "pinned", "cached", "hidden"] {
                a href={ "/library?show=" (tab) } aria-current=[(tab == show).then_some("page")] {
                    (page.t(&format!("library.{tab}")))
                }
            }
        }
    };
    let list = match show {
        "own" => own(page).await?,
        "hidden" => hidden(page).await?,
        class => kept(page, class).await?,
    };
    let body = html! {
        h1 { (page.t("library.title")) }
        (tabs)
        (list)
    };
    Ok(page.document("/library", page.t("library.title"), Some("library.js"), body))
}

async fn own(page: &Page) -> Result<Markup, Failure> {
    let videos = page.api.publication_list().await?;
    let folders = folders(page).await?;
    Ok(html! {
        @if videos.is_empty() {
            div.empty { p { (page.t("library.no_own")) } p { a.button href="/publish" { (page.t("home.publish")) } } }
        }
        ul.rows {
            @for video in &videos {
                li data-id=(video.id) {
                    span.poster.small { (poster(&video.id)) }
                    span.grow {
                        a.name dir="auto" href={ "/watch/" (video.id) } { (safe(&video.title)) }
                        span.about {
                            (audience(page, &video.audience)) " · " (human_bytes(video.bytes)) " · " (day(video.published))
                            @if video.damaged_blocks > 0 { " · " (page.f("library.damaged", &[&video.damaged_blocks])) }
                        }
                    }
                    @if video.audience != "nobody" {
                        button.plain data-act="unshare" { (page.t("library.unshare")) }
                    }
                    button.danger data-act="remove" { (page.t("library.remove")) }
                }
            }
        }
        (folders)
    })
}

/// Folders of this machine whose videos are published by themselves.
async fn folders(page: &Page) -> Result<Markup, Failure> {
    let (folders, friends, circles) =
        tokio::try_join!(page.api.folder_list(), page.api.friend_list(), page.api.circle_list())?;
    Ok(html! {
        section.box {
            h2 { (page.t("library.folders")) }
            p.dim { (page.t("library.folders_how")) }
            ul.rows {
                @for folder in &folders {
                    li data-path=(folder.path) {
                        span.grow {
                            b dir="auto" { (safe(&folder.path)) }
                            span.about { (audience(page, &folder.to)) " · " (page.f("library.folder_has", &[&folder.videos, &folder.waiting])) }
                            @if let Some(problem) = &folder.problem { span.about.warn { (safe(problem)) } }
                            @for (file, why) in &folder.problems { span.about dir="auto" { (safe(file)) ": " (safe(why)) } }
                        }
                        button.plain data-act="unwatch" { (page.t("library.folder_end")) }
                    }
                }
            }
            form.line #folder {
                label.grow { (page.t("library.folder_path"))
                    input name="path" required autocomplete="off" placeholder="/home/ana/films"; }
                label { (page.t("publish.to"))
                    select name="to" { (publish::audiences(page, &friends, &circles, "friends")) } }
                button { (page.t("library.folder_add")) }
            }
        }
    })
}

/// An audience in words.
pub(super) fn audience(page: &Page, text: &str) -> String {
    match text.split_once(':') {
        Some(("friend", name)) => page.f("audience.named", &[&safe(name)]),
        Some(("circle", name)) => page.f("audience.circle", &[&safe(name)]),
        _ => page.t(&format!("audience.{text}")).to_owned(),
    }
}

async fn kept(page: &Page, class: &str) -> Result<Markup, Failure> {
    let objects = page.api.kept_objects().await?;
    let kept: Vec<_> = objects.iter().filter(|object| object.class == class).collect();
    let (act, word) = if class == "pinned" { ("unpin", "watch.unpin") } else { ("pin", "watch.pin") };
    Ok(html! {
        @if kept.is_empty() { div.empty { p { (page.t(&format!("library.no_{class}"))) } } }
        ul.rows {
            @for object in kept {
                li data-id=(object.id) {
                    span.poster.small { (poster(&object.id)) }
                    span.grow {
                        a.name dir="auto" href={ "/watch/" (object.id) } {
                            @match &object.title {
                                Some(title) => (safe(title)),
                                None => (page.t("library.untitled")),
                            }
                        }
                        span.about {
                            (human_bytes(object.bytes)) " · " (day(object.used))
                            @if !object.complete { " · " (page.t("library.partial")) }
                        }
                    }
                    button.plain data-act=(act) { (page.t(word)) }
                    button.danger data-act="remove" { (page.t("library.remove")) }
                }
            }
        }
    })
}

async fn hidden(page: &Page) -> Result<Markup, Failure> {
    let hidden = page.api.hidden_list().await?;
    Ok(html! {
        p.dim { (page.t("library.hidden_means")) }
        form.line #hide {
            label.grow { span.hidden { (page.t("library.hide_word")) }
                input name="what" required maxlength="64" placeholder=(page.t("library.hide_word"));
            }
            button { (page.t("watch.hide")) }
        }
        @if hidden.is_empty() { div.empty { p { (page.t("library.no_hidden")) } } }
        ul.rows {
            @for one in &hidden {
                @let what = if one.kind == "video" { one.what.clone() } else { format!("{}:{}", one.kind, one.what) };
                li data-what=(what) {
                    span.grow dir="auto" {
                        b { (page.t(&format!("hidden.{}", one.kind))) } " "
                        (safe(one.title.as_deref().unwrap_or(&one.what)))
                    }
                    button.plain data-act="show" { (page.t("library.show")) }
                }
            }
        }
    })
}
