//! Help: keys, what is wrong, where things lie, the latest lines of the log.

use super::*;
use crate::doctor::{Facts, Level, findings};

const QUESTIONS: [(&str, &str); 7] = [
    ("help.q7", "help.a7"),
    ("help.q1", "help.a1"),
    ("help.q2", "help.a2"),
    ("help.q3", "help.a3"),
    ("help.q4", "help.a4"),
    ("help.q5", "help.a5"),
    ("help.q6", "help.a6"),
];

pub(super) async fn page(page: Page) -> Response {
    let node = match page.api.doctor().await {
        Ok(node) => node,
        Err(failure) => return page.failed("/help", &failure),
    };
    let facts = Facts {
        now: crate::up::unix_now(),
        initialised: true,
        free_bytes: Some(page.api.store.free_bytes()),
        node: Some(node),
        ..Facts::default()
    };
    let mut found = findings(&facts);
    found.retain(|finding| finding.level > Level::Fine);
    let only = page.api.facts.tor.mode() == crate::config::Tor::Only;
    let lines = crate::logs::recent(0);
    let last = lines.len().saturating_sub(50);
    let body = html! {
        h1 { (page.t("help.title")) }
        section.box {
            h2 { (page.t("help.wrong")) }
            @if found.is_empty() { p { (page.t("help.fine")) } }
            ul.rows { @for finding in &found {
                li { span.grow dir="auto" {
                    b { (safe(&finding.about)) } ": " (safe(&finding.what))
                    span.about { (safe(&finding.why)) @if !finding.act.is_empty() { " – " (safe(&finding.act)) } }
                } }
            } }
        }
        section.box {
            h2 { (page.t("help.questions")) }
            @for (question, answer) in QUESTIONS {
                details { summary { (page.t(question)) } p { @match (answer, only) {
                    ("help.a3", true) => (page.t("help.a3_tor")),
                    _ => (page.t(answer)),
                } } }
            }
        }
        section.box {
            h2 { (page.t("watch.keys")) }
            p { (page.t("watch.keys_list")) }
            p { (page.t("help.keys")) }
        }
        section.box {
            h2 { (page.t("help.paths")) }
            dl { @for (name, path) in page.api.facts.paths.as_object().into_iter().flatten() {
                dt { (name) } dd { code { (safe(path.as_str().unwrap_or_default())) } }
            } }
        }
        section.box {
            h2 { (page.t("help.log")) }
            p.dim { (page.t("help.log_how")) }
            @if lines.is_empty() { p { (page.t("help.no_log")) } }
            pre.log tabindex="0" hidden[lines.is_empty()] { @for line in lines.iter().skip(last) { (safe(&line.line)) "\n" } }
        }
    };
    page.document("/help", page.t("help.title"), None, body)
}
