//! Configuration, limits and circuits of the running node.

use super::*;
use crate::config::Tor;
use crate::limits::{ConfigValue, LimitsView, Live};
use crate::privacy::{self, Circuits};
use std::collections::BTreeMap;

/// The requests.
pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/api/config", get(config).patch(change))
        .route("/api/config/reload", post(reload))
        .route("/api/limits", get(limits))
        .route("/api/circuits", get(circuits))
        .route("/api/tor", get(tor))
}

#[derive(OpenApi)]
#[openapi(paths(config, change, limits, reload, circuits, tor))]
pub(super) struct Docs;

/// Every key as the node reads it now.
#[utoipa::path(get, path = "/api/config", tag = "settings", security(("token" = ["read"])),
    responses((status = 200, body = BTreeMap<String, ConfigValue>, description = "values by key")))]
async fn config(State(api): State<Api>) -> Answer<BTreeMap<String, ConfigValue>> {
    Ok(Json(api.settings.shown()?))
}

/// Changes keys in the configuration's file, all of them or none, and takes those that may change while the
/// node runs. The body has texts by key; lists have commas.
#[utoipa::path(patch, path = "/api/config", tag = "settings", security(("token" = ["admin"])),
    request_body = BTreeMap<String, String>,
    responses((status = 200, body = BTreeMap<String, ConfigValue>, description = "values by key")))]
async fn change(
    State(api): State<Api>,
    Json(changes): Json<BTreeMap<String, String>>,
) -> Answer<BTreeMap<String, ConfigValue>> {
    let changes: Vec<(String, String)> = changes.into_iter().collect();
    let (settings, only) = (api.settings.clone(), api.facts.tor.mode() == Tor::Only);
    tokio::task::spawn_blocking(move || settings.change(&changes, only)).await.map_err(|_| bug())??;
    reload(State(api)).await
}

/// Limits of speed, and what holds at this minute.
#[utoipa::path(get, path = "/api/limits", tag = "settings", security(("token" = ["read"])),
    responses((status = 200, body = LimitsView, description = "limits")))]
async fn limits(State(api): State<Api>) -> Answer<LimitsView> {
    Ok(Json(api.settings.limits()))
}

/// Reads the configuration's file again.
#[utoipa::path(post, path = "/api/config/reload", tag = "settings", security(("token" = ["admin"])),
    responses((status = 200, body = BTreeMap<String, ConfigValue>, description = "values by key")))]
async fn reload(State(api): State<Api>) -> Answer<BTreeMap<String, ConfigValue>> {
    let Live { rates, store, privacy, circuits, budgets, mirror } = api.settings.reload()?;
    api.call(move |cx| {
        cx.core.set_rates(cx.now, rates);
        if cx.core.privacy() != privacy {
            cx.core.set_privacy(cx.now, privacy);
        }
        if cx.core.circuit_settings() != circuits {
            cx.core.set_circuits(cx.now, circuits);
        }
        if cx.core.budgets() != budgets {
            cx.core.set_budgets(budgets);
        }
        cx.service.set_mirrors(mirror);
        Ok(())
    })
    .await?;
    if store != api.store.limits() {
        api.store.set_limits(store);
        // A lower quota holds at once, as far as something gives way.
        super::quota::free(&api, false).await?;
    }
    config(State(api)).await
}

impl Api {
    /// Circuits, own and of others.
    pub(crate) async fn circuits(&self) -> Result<Circuits, Failure> {
        let share = self.settings.circuit_share();
        self.call(move |cx| Ok(privacy::circuits(cx, share))).await
    }
}

/// How Tor stands.
#[utoipa::path(get, path = "/api/tor", tag = "network", security(("token" = ["read"])),
    responses((status = 200, body = crate::transport::tor::View, description = "how it stands")))]
async fn tor(State(api): State<Api>) -> Answer<crate::transport::tor::View> {
    Ok(Json(api.facts.tor.view()))
}

/// Own circuits, those of others through this node, and cover.
#[utoipa::path(get, path = "/api/circuits", tag = "network", security(("token" = ["read"])),
    responses((status = 200, body = Circuits, description = "circuits")))]
async fn circuits(State(api): State<Api>) -> Answer<Circuits> {
    Ok(Json(api.circuits().await?))
}
