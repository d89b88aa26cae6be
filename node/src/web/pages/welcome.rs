//! The first minute: who one is, how private, and an invite in hand.

use super::*;

pub(super) async fn page(page: Page) -> Response {
    let status = match page.api.status().await {
        Ok(status) => status,
        Err(failure) => return page.failed("/welcome", &failure),
    };
    let cover = page.api.keeps_covers().await.unwrap_or(true);
    let name = status.name.clone().unwrap_or_default();
    let body = html! {
        div.narrow {
            h1 { (page.t("welcome.title")) }
            p.lead { (page.t("welcome.lead")) }
            form #welcome {
                fieldset {
                    legend { (page.t("welcome.name")) }
                    label { span.hidden { (page.t("welcome.name")) }
                        input name="name" value=(name) required maxlength="64" autocomplete="off";
                    }
                    p.dim { (page.t("welcome.name_why")) }
                }
                fieldset {
                    legend { (page.t("welcome.privacy")) }
                    (modes(&page, status.privacy))
                    label.check { input type="checkbox" name="cover" checked[cover];
                        span { (page.t("welcome.cover")) } }
                }
                button.big { (page.t("welcome.invite")) }
            }
            div #invite hidden {}
            p { a href="/friends" { (page.t("welcome.have")) } " · " a href="/" { (page.t("welcome.later")) } }
        }
    };
    page.document("/welcome", page.t("welcome.title"), Some("welcome.js"), body)
}

/// The three modes, in plain words.
pub(super) fn modes(page: &Page, chosen: &str) -> Markup {
    html! {
        div.modes {
            @for mode in ["fast", "normal", "strict"] {
                label.mode {
                    input type="radio" name="privacy" value=(mode) checked[mode == chosen];
                    span {
                        b { (page.t(&format!("privacy.{mode}"))) }
                        small { (page.t(&format!("privacy.{mode}_means"))) }
                    }
                }
            }
        }
    }
}
