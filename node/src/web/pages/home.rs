//! Where one arrives: what goes on, what one was watching, what friends brought.

use super::*;
use axum::response::Redirect;

/// Videos on the first page.
const LATEST: usize = 24;

pub(super) async fn page(page: Page) -> Response {
    match made(&page).await {
        Ok(response) => response,
        Err(failure) => page.failed("/", &failure),
    }
}

async fn made(page: &Page) -> Result<Response, Failure> {
    let status = page.api.status().await?;
    if status.friends.total + status.friends.pending + status.videos == 0 && !page.api.has_invited().await? {
        return Ok(Redirect::to("/welcome").into_response());
    }
    let (latest, begun) = (page.api.latest(LATEST).await?, page.api.begun().await?);
    let (online, total) = (status.friends.online, status.friends.total);
    let body = html! {
        h1.quiet { (page.t("home.title")) }
        section.health #health aria-label=(page.t("home.health")) {
            p {
                span.dot.on[online > 0] {}
                span data-live="friends" { (page.f("home.friends", &[&online, &total])) }
                " · " (page.t(&format!("circuits.{}", circuits_key(&status))))
                " · " (page.f("home.privacy", &[&page.t(&format!("privacy.{}", status.privacy))]))
            }
            (page.warnings(&status))
        }
        @if !begun.is_empty() {
            h2 { (page.t("home.continue")) }
            ul.cards {
                @for (video, seconds) in &begun {
                    li.card {
                        a href={ "/watch/" (video.id) "?t=" (*seconds as u64) } {
                            span.poster {
                                (poster(&video.id))
                                @if let Some(all) = video.duration_s {
                                    span.length { (clock(*seconds as u32)) " / " (clock(all)) }
                                }
                            }
                            span.name dir="auto" { (safe(&video.title)) }
                        }
                        span.about { (page.about(video)) }
                    }
                }
            }
        }
        h2 { (page.t("home.new")) }
        @if latest.is_empty() {
            div.empty {
                p { (page.t("home.empty")) }
                p {
                    a.button href="/friends" { (page.t("home.invite")) } " "
                    a.button.plain href="/publish" { (page.t("home.publish")) }
                }
                @if let Some(seconds) = status.next_batch_s {
                    p.dim { (page.f("home.batch", &[&seconds.div_ceil(60).max(1)])) }
                }
            }
        } @else {
            (page.cards(&latest))
        }
    };
    Ok(page.document("/", page.t("home.title"), None, body))
}

fn circuits_key(status: &Status) -> &'static str {
    let circuits = &status.circuits;
    match (status.privacy, circuits.lacks) {
        ("fast", _) => "unused",
        _ if circuits.ready + circuits.used > 0 => "ready",
        (_, Some("too_few_relays")) => "too_few",
        _ => "building",
    }
}
