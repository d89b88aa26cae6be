//! Configuration, limits and circuits of the running node.

use super::*;
use crate::limits::Live;
use crate::privacy;

/// The requests.
pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/api/config", get(config))
        .route("/api/config/reload", post(reload))
        .route("/api/limits", get(limits))
        .route("/api/circuits", get(circuits))
}

async fn config(State(api): State<Api>) -> Answer {
    Ok(Json(api.settings.shown()?))
}

async fn limits(State(api): State<Api>) -> Answer {
    Ok(Json(api.settings.limits_json()))
}

async fn reload(State(api): State<Api>) -> Answer {
    let Live { rates, store, privacy, circuits, budgets } = api.settings.reload()?;
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

async fn circuits(State(api): State<Api>) -> Answer {
    let share = api.settings.circuit_share();
    Ok(Json(api.call(move |cx| Ok(privacy::circuits_json(cx, share))).await?))
}
