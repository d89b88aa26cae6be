//! Search. The answer is in the document, too: it works without scripts.

use super::*;
use axum::extract::Query;
use serde::Deserialize;

const MOST: usize = 60;

#[derive(Deserialize)]
pub(super) struct Asked {
    #[serde(default)]
    q: String,
    #[serde(default)]
    scope: String,
    /// Minutes.
    #[serde(default)]
    min: String,
    #[serde(default)]
    max: String,
}

pub(super) async fn page(page: Page, Query(asked): Query<Asked>) -> Response {
    let seconds = |text: &str| text.trim().parse::<u32>().ok().map(|minutes| minutes.saturating_mul(60));
    let (low, high) = (seconds(&asked.min).unwrap_or(0), seconds(&asked.max).unwrap_or(u32::MAX));
    let furthest = ["mine", "friends"].iter().position(|scope| *scope == asked.scope).unwrap_or(2) as u8;
    let found = match page.api.find(asked.q.clone(), MOST, furthest, low..=high).await {
        Ok(found) => found,
        Err(failure) => return page.failed("/search", &failure),
    };
    let body = html! {
        h1 { (page.t("search.title")) }
        form.search #search action="/search" method="get" {
            label.wide {
                span.hidden { (page.t("nav.search")) }
                input type="search" name="q" value=(asked.q) autofocus autocomplete="off" maxlength="200"
                    placeholder=(page.t("search.hint"));
            }
            label { (page.t("search.scope"))
                select name="scope" {
                    @for scope in ["fof", "friends", "mine"] {
                        option value=(scope) selected[asked.scope == scope] {
                            (page.t(&format!("scope.{scope}")))
                        }
                    }
                }
            }
            label { (page.t("search.min")) input type="number" name="min" min="0" inputmode="numeric" value=(asked.min); }
            label { (page.t("search.max")) input type="number" name="max" min="0" inputmode="numeric" value=(asked.max); }
            button { (page.t("search.go")) }
        }
        p.dim { (page.t("search.private")) }
        p #count aria-live="polite" {
            @if !asked.q.trim().is_empty() { (page.f("search.found", &[&found.results.len()])) }
        }
        div #results {
            @if !asked.q.trim().is_empty() && found.results.is_empty() { p.empty { (page.t("search.none")) } }
            (page.cards(&found.results))
        }
        @if let Some(seconds) = found.next_batch_s {
            p.dim { (page.f("home.batch", &[&seconds.div_ceil(60).max(1)])) }
        }
    };
    page.document("/search", page.t("search.title"), Some("search.js"), body)
}
