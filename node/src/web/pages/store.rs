//! What is stored: how much, what gives way, whether it is whole, what leaves on a stick.

use super::*;
use crate::config::size;

pub(super) async fn page(page: Page) -> Response {
    match made(&page).await {
        Ok(response) => response,
        Err(failure) => page.failed("/store", &failure),
    }
}

async fn made(page: &Page) -> Result<Response, Failure> {
    let (quota, stats) = (page.api.quota(), page.api.store_stats().await?);
    let (friends, objects, mirrors) =
        tokio::try_join!(page.api.friend_list(), page.api.kept_objects(), page.api.mirror_list())?;
    let used = |class: &str| quota.used_bytes.get(class).copied().unwrap_or(0);
    let classes = ["own", "pinned", "mirrored", "cached"];
    let mut at = 0.0;
    let bars: Vec<(&str, f64, f64)> = classes
        .into_iter()
        .map(|class| {
            // What is there is seen, however little.
            let share = used(class) as f64 / quota.quota_bytes.max(1) as f64 * 1000.0;
            let width = if used(class) > 0 { share.max(6.0) } else { 0.0 };
            let from = at;
            at += width;
            (class, from, width)
        })
        .collect();
    let body = html! {
        h1 { (page.t("store.title")) }
        section.box {
            p.lead { (page.f("store.used", &[&human_bytes(used("total")), &human_bytes(quota.quota_bytes)])) }
            svg.usage viewBox="0 0 1000 24" preserveAspectRatio="none" role="img" aria-label=(page.t("store.picture")) {
                rect.all width="1000" height="24" {}
                @for (class, from, width) in &bars { rect class=(class) x=(from) width=(width) height="24" {} }
            }
            ul.legend {
                @for class in classes {
                    li { span class={ "key " (class) } {} (page.t(&format!("class.{class}"))) ": " (human_bytes(used(class))) }
                }
            }
            p.dim { (page.f("store.free", &[&human_bytes(quota.free_bytes), &human_bytes(quota.keep_free_bytes)])) }
            (page.warnings(&page.api.status().await?))
            form.line #quota {
                label { (page.t("store.quota")) input name="store.quota" placeholder="20GiB" value=(size::format(quota.quota_bytes)); }
                label { (page.t("store.keep_free")) input name="store.keep_free" placeholder="512MiB" value=(size::format(quota.keep_free_bytes)); }
                button { (page.t("friends.set")) }
            }
            p {
                button.plain data-act="gc_dry" { (page.t("store.gc_dry")) } " "
                button.plain data-act="gc" { (page.t("store.gc")) } " " span.dim { (page.t("store.gc_means")) } }
        }
        section.box {
            h2 { (page.t("store.whole")) }
            p { @match stats.scrub.ended {
                Some(at) => (page.f("store.scrubbed", &[&day(at), &stats.scrub.found])),
                None => (page.t("store.never_scrubbed")),
            } }
            form.line #check {
                label.grow { (page.t("store.check_what"))
                    select name="id" {
                        option value="" { (page.t("store.everything")) }
                        @for object in &objects {
                            option value=(object.id) {
                                @match &object.title { Some(title) => (safe(title)), None => (page.t("library.untitled")) }
                            }
                        }
                    }
                }
                label.check { input type="checkbox" name="only_look"; span { (page.t("store.only_look")) } }
                label.check { input type="checkbox" name="accept_loss"; span { (page.t("store.accept_loss")) } }
            }
            p.acts {
                button data-act="verify" { (page.t("store.verify")) }
                button.plain data-act="reindex" { (page.t("store.reindex")) }
            }
            progress #work value="0" max="1" hidden aria-label=(page.t("store.verify")) {}
            p #said.dim role="status" {}
            ul #found.rows {}
        }
        section.box {
            h2 { (page.t("store.others")) }
            p { (page.t("store.others_how")) }
            ul.rows {
                @for friend in &mirrors.friends {
                    li { span.grow { (safe(&friend.friend)) " "
                        span.about { (page.f("store.kept_for", &[&friend.videos, &human_bytes(friend.used_bytes), &human_bytes(friend.quota_bytes)])) } }
                        button.plain data-mirror={ "friend:" (friend.friend) } { (page.t("store.end")) } }
                }
                @for copy in mirrors.copies.iter().filter(|copy| !copy.target.starts_with("friend:")) {
                    li { span.grow dir="auto" {
                            @match &copy.title { Some(title) => (safe(title)), None => (page.t("library.untitled")) }
                            " " span.about { (human_bytes(copy.bytes)) } }
                        button.plain data-mirror=(copy.id) { (page.t("store.end")) } }
                }
            }
            form.line #mirror {
                label { (page.t("store.keep_for"))
                    select name="friend" { @for friend in friends.iter().filter(|f| f.since.is_some()) {
                        option value=(friend.name) { (safe(&friend.name)) }
                    } }
                }
                label { (page.t("store.up_to")) input name="quota" value="5GB" size="8" required; }
                button { (page.t("store.keep")) }
            }
            @if mirrors.covers + mirrors.watched > 0 {
                p.dim { (page.f("store.covers", &[&mirrors.covers, &mirrors.watched])) }
            }
        }
        section.box {
            h2 { (page.t("store.stick")) }
            p { (page.t("store.stick_how")) }
            form #export {
                label { (page.t("store.for_whom"))
                    select name="to" { @for friend in friends.iter().filter(|f| f.since.is_some()) {
                        option value=(friend.name) { (safe(&friend.name)) }
                    } }
                }
                fieldset {
                    legend { (page.t("store.which")) }
                    @for object in &objects {
                        label.check { input type="checkbox" name="id" value=(object.id);
                            span dir="auto" { @match &object.title { Some(title) => (safe(title)), None => (page.t("library.untitled")) } }
                        }
                    }
                }
                button { (page.t("store.export")) }
            }
            form.line #import {
                label.grow { (page.t("store.import")) input type="file" name="bundle" required; }
                button { (page.t("store.import_go")) }
            }
        }
    };
    Ok(page.document("/store", page.t("store.title"), Some("store.js"), body))
}
