//! Publishing: a place to drop files on, and who may see them.

use super::*;

pub(super) async fn page(page: Page) -> Response {
    let (friends, circles) = match tokio::try_join!(page.api.friend_list(), page.api.circle_list()) {
        Ok(both) => both,
        Err(failure) => return page.failed("/publish", &failure),
    };
    let body = html! {
        h1 { (page.t("publish.title")) }
        p { (page.t("publish.who")) }
        form #publish {
            label.drop #drop {
                strong { (page.t("publish.drop")) }
                input type="file" name="files" multiple accept="video/*,.mkv,.ts,.mov,.mp4,.webm,.srt,.vtt,.jpg,.jpeg,.png,.webp";
                span.dim { (page.t("publish.kinds")) }
            }
            div.fields {
                label { (page.t("publish.to"))
                    select name="to" { (audiences(&page, &friends, &circles, "friends")) }
                }
                label { (page.t("publish.tags")) input name="tags" autocomplete="off"; }
                label.wide { (page.t("publish.text")) textarea name="text" rows="3" maxlength="4096" {} }
                label { (page.t("publish.lang")) input name="lang" maxlength="16" autocomplete="off"; }
                label { (page.t("publish.licence")) input name="licence" maxlength="64" autocomplete="off"; }
            }
            label.check { input type="checkbox" name="look_first"; span { (page.t("publish.look_first")) } }
            label.check { input type="checkbox" name="chapters"; span { (page.t("publish.chapters")) } }
            label.check { input type="checkbox" name="keep_metadata"; span { (page.t("publish.keep")) } }
            label.check { input type="checkbox" name="any_file"; span { (page.t("publish.any_file")) } }
            p.dim { (page.t("publish.metadata")) }
            p.dim { (page.t("publish.beside")) }
        }
        ul #uploads.rows aria-label=(page.t("publish.progress")) {}
    };
    page.document("/publish", page.t("publish.title"), Some("publish.js"), body)
}

/// Everybody to publish to; one is chosen.
pub(super) fn audiences(
    page: &Page,
    friends: &[crate::api::FriendView],
    circles: &[crate::api::CircleView],
    chosen: &str,
) -> Markup {
    let option =
        |value: &str, said: &str| html! { option value=(value) selected[value == chosen] { (said) } };
    let named = |kind: &str, name: &str| option(&format!("{kind}:{name}"), &safe(name).to_string());
    let circle = |name: &str| circles.iter().any(|circle| circle.name == name);
    let friend = |name: &str| friends.iter().any(|friend| friend.since.is_some() && friend.name == name);
    // Who cannot be chosen any more stays chosen until somebody else is: nobody else is to see it by an oversight.
    let is_there = match chosen.split_once(':') {
        Some(("circle", name)) => circle(name),
        Some(("friend", name)) => friend(name),
        _ => matches!(chosen, "friends" | "fof"),
    };
    html! {
        @if !is_there { (option(chosen, &library::audience(page, chosen))) }
        (option("friends", page.t("audience.friends")))
        (option("fof", page.t("audience.fof")))
        @if !circles.is_empty() {
            optgroup label=(page.t("audience.circles")) {
                @for circle in circles { (named("circle", &circle.name)) }
            }
        }
        optgroup label=(page.t("audience.one")) {
            @for friend in friends.iter().filter(|friend| friend.since.is_some()) { (named("friend", &friend.name)) }
        }
    }
}
