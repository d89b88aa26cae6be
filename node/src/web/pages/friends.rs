//! Friends: inviting, adding, comparing fingerprints, circles, trust, limits, given and taken.

use super::*;
use crate::api::FriendView;
use axum::extract::Path;

pub(super) async fn page(page: Page) -> Response {
    with_link(&page, None).await
}

/// The page, opened with a link: it asks before anything is done.
pub(super) async fn link(page: Page, State(web): State<Web>, Path(name): Path<String>) -> Response {
    let link = web.sessions.link(&name);
    match link.as_deref() {
        // The link stays in memory: looking at a page leaves no trace on the disk.
        Some(video) if video.starts_with("kith:r1:") => watch::of_link(&page, video.to_owned()).await,
        link => with_link(&page, link).await,
    }
}

async fn with_link(page: &Page, link: Option<&str>) -> Response {
    match made(page, link).await {
        Ok(response) => response,
        Err(failure) => page.failed("/friends", &failure),
    }
}

async fn made(page: &Page, link: Option<&str>) -> Result<Response, Failure> {
    let (friends, circles) = tokio::try_join!(page.api.friend_list(), page.api.circle_list())?;
    let me = page.api.own_id().await?;
    let mode = page.api.facts.tor.mode().as_str();
    let body = html! {
        h1 { (page.t("friends.title")) }
        div.two {
            section.box {
                h2 { (page.t("friends.invite")) }
                p { (page.t("friends.invite_how")) }
                @if mode == "on" {
                    label.check { input #invite_tor type="checkbox"; span { (page.t("friends.tor_invite")) } }
                }
                button #invite { (page.t("friends.make_invite")) }
                div #invited hidden {}
            }
            section.box {
                h2 { (page.t("friends.add")) }
                form #add {
                    label.full { span.hidden { (page.t("friends.add_what")) }
                        textarea name="invite" rows="3" required autofocus[link.is_some()] spellcheck="false"
                            placeholder=(page.t("friends.add_what")) { (link.unwrap_or_default()) }
                    }
                    @if mode == "on" {
                        label.check { input type="checkbox" name="tor"; span { (page.t("friends.tor_add")) } }
                    }
                    button { (page.t("friends.add_go")) }
                }
                @if link.is_some() { p.warn { (page.t("friends.add_asked")) } }
            }
        }
        @if friends.is_empty() { div.empty { p { (page.t("friends.none")) } } }
        ul #friends.rows {
            @for friend in &friends { (row(page, friend, &me.fingerprint, &me.words)) }
        }
        section.box {
            h2 { (page.t("friends.circles")) }
            p.dim { (page.t("friends.circles_how")) }
            form.line #circle {
                label.grow { span.hidden { (page.t("friends.circle_name")) }
                    input name="name" required maxlength="64" placeholder=(page.t("friends.circle_name"));
                }
                button { (page.t("friends.circle_make")) }
            }
            @for circle in &circles {
                fieldset.circle data-circle=(circle.name) {
                    legend dir="auto" { (safe(&circle.name)) }
                    @for friend in friends.iter().filter(|friend| friend.since.is_some()) {
                        label.check {
                            input type="checkbox" value=(friend.name) checked[circle.friends.contains(&friend.name)];
                            span dir="auto" { (safe(&friend.name)) }
                        }
                    }
                    p.dim { (page.f("friends.circle_videos", &[&circle.videos])) }
                    button.danger data-act="circle-rm" { (page.t("friends.circle_rm")) }
                }
            }
        }
    };
    Ok(page.document("/friends", page.t("friends.title"), Some("friends.js"), body))
}

fn row(page: &Page, friend: &FriendView, own_print: &str, own_words: &str) -> Markup {
    let name = safe(&friend.name);
    let rate = |limit: Option<u64>| limit.map(|rate| format!("{rate}B/s")).unwrap_or_default();
    html! {
        li.friend data-name=(friend.name) data-print=(friend.fingerprint) {
            details {
                summary {
                    span.dot.on[friend.state == "online"] {}
                    b dir="auto" { (name) }
                    span.state { (page.t(&format!("state.{}", if friend.blocked { "blocked" } else { friend.state }))) }
                    @if friend.verified.is_some() { span.badge { (page.t("friends.verified")) } }
                    @if friend.through_tor == Some(true) { span.badge { (page.t("friends.by_tor")) } }
                    span.about.traffic {
                        (page.f("friends.traffic", &[
                            &human_bytes(friend.sent_bytes),
                            &human_bytes(friend.received_bytes),
                            &human_bytes(friend.relayed_bytes),
                        ]))
                    }
                }
                @if friend.since.is_some() {
                    div.two {
                        section {
                            h3 { (page.t("friends.compare")) }
                            p { (page.t("friends.compare_how")) }
                            dl {
                                dt { (page.f("friends.theirs", &[&name])) }
                                dd { code { (friend.fingerprint) } br; span.words data-words {} }
                                dt { (page.t("friends.yours")) }
                                dd { code { (own_print) } br; span.words { (own_words) } }
                            }
                            @if friend.verified.is_none() {
                                button data-act="verify" { (page.t("friends.same")) }
                            } @else {
                                button.plain data-act="unverify" { (page.t("friends.not_same")) }
                            }
                            @if friend.state != "online" {
                                p.dim { (page.t("friends.restored_how")) }
                                button.plain data-act="restored" { (page.t("friends.restored")) }
                            }
                        }
                        section {
                            label { (page.t("friends.trust"))
                                select name="trust" {
                                    @for trust in ["close", "normal", "low"] {
                                        option value=(trust) selected[friend.trust == trust] {
                                            (page.t(&format!("trust.{trust}")))
                                        }
                                    }
                                }
                            }
                            @if page.api.facts.tor.mode() == crate::config::Tor::On {
                                label { (page.t("friends.tor"))
                                    select name="tor" {
                                        @for way in ["auto", "only"] {
                                            option value=(way) selected[friend.tor == way] { (page.t(&format!("tor_way.{way}"))) }
                                        }
                                    }
                                }
                            }
                            form.line data-form="limit" {
                                label { (page.t("friends.up")) input name="up" placeholder="500kB/s" value=(rate(friend.limits.up)); }
                                label { (page.t("friends.down")) input name="down" placeholder="2MB/s" value=(rate(friend.limits.down)); }
                                button { (page.t("friends.set")) }
                            }
                            form.line data-form="rename" {
                                label.grow { (page.t("friends.rename")) input name="new" required maxlength="64" value=(friend.name); }
                                button { (page.t("friends.set")) }
                            }
                            p.acts {
                                button.plain data-act="ping" { (page.t("friends.ping")) }
                                button.plain data-act=(if friend.blocked { "unblock" } else { "block" }) {
                                    (page.t(if friend.blocked { "friends.unblock" } else { "friends.block" }))
                                }
                                button.danger data-act="remove" { (page.t("friends.remove")) }
                            }
                        }
                    }
                } @else {
                    p { (page.t("friends.pending_means")) }
                    button.danger data-act="remove" { (page.t("friends.take_back")) }
                }
            }
        }
    }
}
