//! The HTTP API over the unix socket: what the command line says to the node. One function a
//! request; what touches the protocol runs as a closure between two turns of the driver.
//!
//! The socket is 0600, so whoever can connect is the node's owner.

mod backup;
mod bundle;
mod circles;
mod fetch;
mod friends;
mod net;
mod node;
mod quota;
mod search;
mod store;
mod videos;

pub use backup::done_json as backup_json;
pub use store::title_of;
pub use videos::{PUBLISH_HEADER, entry_of};

use friends::no_friend;
use search::listing_json;
use videos::duration;

use crate::content::{ChannelBody, Reader};
use crate::exit::{Exit, Failure};
use crate::journal::{Stored, Unstored};
use crate::limits::LiveConfig;
use crate::publish::{self, Meta};
use crate::records::{Publication, Record};
use crate::service::{Command, Context, FetchStatus, Wanted};
use crate::stream::Streams;
use crate::tasks::Tasks;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use kith_crypto::content::{BLOCK_LEN, Root};
use kith_crypto::invite::Invite;
use kith_crypto::secret::Key;
use kith_onion::catalogue::Audience;
use kith_onion::entry::Entry;
use kith_onion::{Core, FriendKey, GivenInvite, InviteId, InviteOutcome, Now, Route};
use kith_store::Store;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

const DAY_S: u64 = 86_400;

/// Facts that do not change while the node runs.
pub struct Facts {
    /// When it started.
    pub started: Instant,
    /// The ready line's fields.
    pub ready: Value,
    /// What `kith paths` shows.
    pub paths: Value,
    /// How long invites live.
    pub invite_expires: Duration,
    /// Whether anybody outside can reach the advertised addresses.
    pub reach_note: Option<String>,
}

/// What all handlers share.
#[derive(Clone)]
pub struct Api {
    /// To the driver.
    pub commands: mpsc::Sender<Command>,
    /// The store, for reading and publishing.
    pub store: Arc<Store>,
    /// Stream addresses.
    pub streams: Streams,
    /// Tracked tasks.
    pub tasks: Tasks,
    /// Unchanging facts.
    pub facts: Arc<Facts>,
    /// Where the configuration comes from, and the limits in force.
    pub settings: LiveConfig,
    /// Asks the process to end.
    pub stop: mpsc::Sender<oneshot::Sender<()>>,
}

/// An error as the API gives it: `{"code", "message"}`.
struct ApiError(Failure);

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.exit.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(error_json(&self.0))).into_response()
    }
}

fn error_json(failure: &Failure) -> Value {
    json!({"code": failure.exit.name(), "message": failure.to_string()})
}

type Answer = Result<Json<Value>, ApiError>;

impl Api {
    /// The routes.
    pub fn router(self) -> Router {
        Router::new()
            .merge(node::routes())
            .merge(net::routes())
            .merge(quota::routes())
            .merge(friends::routes())
            .merge(circles::routes())
            .merge(videos::routes())
            .merge(search::routes())
            .merge(fetch::routes())
            .merge(store::routes())
            .merge(backup::routes())
            .merge(bundle::routes())
            .fallback(|| async { ApiError(Failure::new(Exit::NotFound, "there is no such request")) })
            .with_state(self)
    }

    /// Runs a closure on the driver and waits for its result.
    async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Context<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let (sender, receiver) = oneshot::channel();
        let job = Command::Run(Box::new(move |cx| drop(sender.send(job(cx)))));
        let gone = || Failure::new(Exit::NotRunning, "the node is stopping");
        self.commands.send(job).await.map_err(|_| gone())?;
        receiver.await.map_err(|_| gone())?
    }
}

impl Api {
    /// Begins work that goes on to its end even if nobody waits for the answer any more; only the
    /// node's own end cancels it.
    fn begin<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> impl Future<Output = Result<T, Failure>> {
        let (sender, receiver) = oneshot::channel();
        self.tasks.spawn(name, async move { drop(sender.send(work.await)) });
        async move { receiver.await.map_err(|_| Failure::new(Exit::NotRunning, "the node is stopping"))? }
    }
}

/// Waits until records are durable. On a full disk they wait longer than anybody: that is said.
async fn durable(stored: oneshot::Receiver<Stored>) -> Result<(), Failure> {
    match stored.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(Unstored::Waits { why, .. } | Unstored::Never(why))) => Err(why),
        Err(_) => Err(Failure::new(Exit::NotRunning, "the node is stopping")),
    }
}

fn unix_s(now: Now) -> u64 {
    now.unix_s()
}

fn bug() -> Failure {
    Failure::new(Exit::Failure, "something impossible happened: please report it")
}
