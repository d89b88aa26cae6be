//! Links, circuits, rates and limits, and what each party can learn.

use super::*;
use crate::limits::UpDown;

/// How Tor stands, and the modes to choose from.
fn tor(page: &Page) -> Markup {
    let tor = page.api.facts.tor.view();
    html! {
        section.box #tor {
            h2 { (page.t("tor.title")) }
            p #tor_state .warn[tor.state == "failed"] { (tor_state(page, &tor)) }
            @if let Some(onion) = &tor.onion {
                p { (page.t("tor.onion")) " " code { (safe(onion)) } }
                @if let Some(service) = &tor.service { p.dim { (page.t(&format!("tor_service.{service}"))) } }
            }
            @if let Some(by) = tor.by.as_ref().filter(|by| *by != "built in") { p.dim { (safe(by)) } }
            form.line #tor_mode {
                label { (page.t("tor.mode"))
                    select name="mode" {
                        @for mode in ["off", "on", "only"] {
                            option value=(mode) selected[tor.mode == mode] { (page.t(&format!("tor_mode.{mode}"))) }
                        }
                    }
                }
                button { (page.t("friends.set")) }
            }
            p.dim { (page.t(&format!("tor_means.{}", tor.mode))) }
            @if tor.mode != "only" { p.dim { (page.t("tor.only_loses")) } }
        }
    }
}

pub(super) fn tor_state(page: &Page, tor: &crate::transport::tor::View) -> String {
    let why = tor.why.as_deref().map(safe).unwrap_or_default();
    match tor.state.as_str() {
        "starting" => page.f("tor_state.starting", &[&tor.percent.unwrap_or(0), &why]),
        "failed" => page.f("tor_state.failed", &[&why]),
        state => page.t(&format!("tor_state.{state}")).to_owned(),
    }
}

pub(super) async fn page(page: Page) -> Response {
    match made(&page).await {
        Ok(response) => response,
        Err(failure) => page.failed("/network", &failure),
    }
}

async fn made(page: &Page) -> Result<Response, Failure> {
    let (friends, circuits) = tokio::try_join!(page.api.friend_list(), page.api.circuits())?;
    let limits = page.api.settings.limits();
    let online = friends.iter().filter(|friend| friend.state == "online").count();
    let sum = |of: fn(&crate::api::FriendView) -> u64| human_bytes(friends.iter().map(of).sum());
    let rate = |limit: Option<u64>| {
        limit.map_or_else(|| page.t("network.no_limit").to_owned(), |r| format!("{}/s", human_bytes(r)))
    };
    let own = &circuits.own;
    let body = html! {
        h1 { (page.t("network.title")) }
        section.box {
            h2 { (page.t("network.links")) }
            p { (page.f("home.friends", &[&online, &friends.len()])) }
            table #rates {
                thead { tr { th { (page.t("network.kind")) } th { (page.t("network.now")) } th { (page.t("network.total")) } } }
                tbody {
                    tr data-rate="sent" { th scope="row" { (page.t("network.sent")) } td { "–" } td { (sum(|f| f.sent_bytes)) } }
                    tr data-rate="received" { th scope="row" { (page.t("network.received")) } td { "–" } td { (sum(|f| f.received_bytes)) } }
                    tr data-rate="relayed" { th scope="row" { (page.t("network.relayed")) } td { "–" } td { (sum(|f| f.relayed_bytes)) } }
                }
            }
            p.dim { (page.t("network.relayed_means")) }
            p { button.plain data-act="check" { (page.t("network.check")) } }
            ul #checked.plain {}
        }
        (tor(page))
        section.box {
            h2 { (page.t("network.circuits")) }
            p #circuits { (page.f("network.circuits_now", &[
                &circuits.summary.ready, &circuits.summary.building, &circuits.summary.used, &circuits.summary.relayed,
            ])) }
            @if let Some(lacks) = circuits.summary.lacks { p.warn { (page.t(&format!("lacks.{lacks}"))) } }
            @if !own.is_empty() {
                table {
                    thead { tr { th { (page.t("network.hops")) } th { (page.t("network.age")) } th { (page.t("network.state")) } } }
                    tbody { @for one in own {
                        tr { td { (one.relays) } td { (clock(u32::try_from(one.age_s).unwrap_or(u32::MAX))) }
                            td { (page.t(&format!("circuit.{}", one.state))) } }
                    } }
                }
            }
            p.dim { (page.f("network.cover", &[&page.t(&format!("cover.{}", circuits.cover.mode)), &human_bytes(circuits.cover.bytes_per_day)])) }
        }
        section.box {
            h2 { (page.t("learn.title")) }
            @let only = page.api.facts.tor.mode() == crate::config::Tor::Only;
            @if only { p.warn { (page.t("learn.tor_only")) } }
            (picture(page))
            dl.learn {
                @for who in ["friend", "common", "guard", "relay", "holder", "provider", "stranger"] {
                    dt { (page.t(&format!("learn.{who}"))) }
                    dd { @match (who, only) {
                        ("stranger", true) => (page.t("learn.stranger_learns_tor")),
                        _ => (page.t(&format!("learn.{who}_learns"))),
                    } }
                }
            }
        }
        section.box {
            h2 { (page.t("network.limits")) }
            form #limits {
                @for (key, name, up, down) in [
                    ("limits", "network.all", limits.up, limits.down),
                    ("limits.own", "network.own", limits.own.up, limits.own.down),
                    ("limits.fof", "network.fof", limits.fof.up, limits.fof.down),
                    ("limits.onion", "network.onion", limits.onion.up, limits.onion.down),
                ] {
                    fieldset.line {
                        legend { (page.t(name)) }
                        (limit(page, key, UpDown { up, down }, &rate))
                    }
                }
                button { (page.t("friends.set")) }
            }
            p.dim { (page.t("network.limits_how")) }
            h3 { (page.t("network.schedule")) }
            ul.rows {
                @for window in &limits.schedule {
                    li data-window=(window.window) {
                        span.grow { (safe(&window.window)) @if window.active { " · " (page.t("network.active")) } }
                        button.plain data-act="window-rm" { (page.t("network.window_rm")) }
                    }
                }
            }
            form.line #window {
                label.grow { (page.t("network.window")) input name="window" required placeholder="mon-fri 08:00-18:00 up=1MB/s"; }
                button { (page.t("network.window_add")) }
            }
        }
    };
    Ok(page.document("/network", page.t("network.title"), Some("network.js"), body))
}

fn limit(page: &Page, key: &str, limits: UpDown, rate: &dyn Fn(Option<u64>) -> String) -> Markup {
    html! {
        @for (side, value) in [("up", limits.up), ("down", limits.down)] {
            label { (page.t(&format!("friends.{side}"))) " (" (rate(value)) ")"
                input name={ (key) "." (side) } placeholder="500kB/s, off";
            }
        }
    }
}

/// Who stands where: you, relays, who gives it; each sees its neighbours.
fn picture(page: &Page) -> Markup {
    html! {
        figure {
            ol.chain {
                @for who in ["you", "guard", "relay", "relay", "holder"] {
                    li.you[who == "you"] { span.node aria-hidden="true" {} (page.t(&format!("learn.at_{who}"))) }
                }
            }
            figcaption { (page.t("learn.picture")) }
        }
    }
}
