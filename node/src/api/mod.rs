//! The HTTP API: what the command line says to the node over its unix socket, and the page and programs
//! over loopback. One function a request; what touches the protocol runs as a closure between two turns of
//! the driver.
//!
//! The socket is 0600, so whoever can connect is the node's owner. On loopback `web` decides who may ask
//! what, by the scopes that the document (`/api/openapi.json`) names.

mod around;
mod backup;
mod bundle;
mod circles;
pub mod document;
mod events;
mod fetch;
pub mod folders;
mod friends;
mod hidden;
mod mirrors;
mod net;
mod node;
mod once;
mod page;
mod quota;
mod search;
mod store;
mod tokens;
mod uploads;
mod videos;

pub(crate) use around::{Around, PartView, place_of};
pub use backup::done_json as backup_json;
pub(crate) use circles::CircleView;
pub use document::Scope;
pub(crate) use friends::FriendView;
pub(crate) use node::Status;
pub use once::Once;
pub use page::Places;
pub use store::title_of;
pub use uploads::Uploads;
pub(crate) use videos::VideoView;
pub use videos::{PUBLISH_HEADER, entry_of};

use friends::no_friend;
pub(crate) use search::FoundVideo;
use search::found_video;
use videos::duration;

use crate::content::{ChannelBody, Reader, WrittenBody};
use crate::exit::{Exit, Failure};
use crate::journal::{Stored, Unstored};
use crate::limits::LiveConfig;
use crate::publish::{self, Meta};
use crate::records::{Publication, Record};
use crate::service::{Command, Context, FetchStatus, Wanted};
use crate::stream::Streams;
use crate::tasks::Tasks;
use crate::web::Sessions;
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
use utoipa::{IntoParams, OpenApi, ToSchema};

const DAY_S: u64 = 86_400;
/// Longest request that is read whole.
const MAX_BODY: usize = 1 << 20;

/// Facts that do not change while the node runs.
pub struct Facts {
    /// When it started.
    pub started: Instant,
    /// The ready line.
    pub ready: Ready,
    /// What `kith paths` shows.
    pub paths: Value,
    /// How long invites live.
    pub invite_expires: Duration,
    /// Whether anybody outside can reach the advertised addresses.
    pub reach_note: Option<String>,
    /// How Tor stands.
    pub tor: crate::transport::tor::Handle,
}

/// What `kith up` prints when it is ready.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Ready {
    /// This program's.
    pub version: &'static str,
    /// Its fingerprint.
    pub node: String,
    /// Its process.
    pub pid: u32,
    /// Where friends reach it.
    pub listen: Vec<String>,
    /// Its address over Tor.
    pub onion: Option<String>,
    /// Where the page is.
    pub web: String,
    /// Where commands reach it.
    pub socket: String,
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
    /// Logins and sessions of the page.
    pub sessions: Sessions,
    /// Uploads that are under way.
    pub uploads: Uploads,
    /// What was found in watched folders.
    pub watched: folders::Watched,
    /// Where people are in videos.
    pub places: Places,
    /// Answers to what is done once.
    pub once: Once,
    /// Tracked tasks.
    pub tasks: Tasks,
    /// Unchanging facts.
    pub facts: Arc<Facts>,
    /// Where the configuration comes from, and the limits in force.
    pub settings: LiveConfig,
    /// Asks the process to end.
    pub stop: mpsc::Sender<oneshot::Sender<()>>,
}

/// An error as the API gives it, everywhere (RFC 9457).
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Problem {
    /// Always `about:blank`: the code says which.
    r#type: &'static str,
    /// The status in words.
    title: &'static str,
    /// The status.
    status: u16,
    /// The command line's exit, by name.
    code: &'static str,
    /// One line: what, where, what next.
    detail: String,
}

impl From<&Failure> for Problem {
    fn from(failure: &Failure) -> Self {
        let status = status_of(failure.exit);
        Self {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            code: failure.exit.name(),
            detail: failure.to_string(),
        }
    }
}

fn status_of(exit: Exit) -> StatusCode {
    StatusCode::from_u16(exit.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// A failure on its way out.
pub(crate) struct ApiError(pub(crate) Failure);

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let headers = [("content-type", "application/problem+json")];
        (status_of(self.0.exit), headers, Json(Problem::from(&self.0))).into_response()
    }
}

fn error_json(failure: &Failure) -> Value {
    json!(Problem::from(failure))
}

/// Which part of a list is wanted.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Page {
    /// At most so many.
    limit: Option<usize>,
    /// Those after this one, as the `Link` header of the part before names it.
    after: Option<String>,
}

impl Page {
    /// That part; `key` names each.
    fn of<T>(self, mut all: Vec<T>, key: impl Fn(&T) -> String) -> Result<Paged<T>, Failure> {
        if let Some(after) = &self.after {
            let gone = || Failure::new(Exit::Usage, "this part of the list is gone: begin anew");
            let at = all.iter().position(|one| key(one) == *after).ok_or_else(gone)?;
            all.drain(..=at);
        }
        let limit = self.limit.unwrap_or(usize::MAX).max(1);
        let more = all.len() > limit;
        all.truncate(limit);
        let last = all.last().filter(|_| more).map(|last| percent(&key(last)));
        let next = last.map(|last| format!("?limit={limit}&after={last}"));
        Ok(Paged { items: all, next })
    }
}

/// A text as part of an address.
pub(crate) fn percent(text: &str) -> String {
    let keep = |b: u8| b.is_ascii_alphanumeric() || b"-_~".contains(&b);
    text.bytes().map(|b| if keep(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// A part of a list; the next is named by a `Link` header (RFC 8288).
pub(crate) struct Paged<T> {
    items: Vec<T>,
    next: Option<String>,
}

impl<T: Serialize> IntoResponse for Paged<T> {
    fn into_response(self) -> Response {
        let mut response = Json(self.items).into_response();
        let link = self.next.and_then(|next| format!("<{next}>; rel=\"next\"").parse().ok());
        response.headers_mut().extend(link.map(|link| (axum::http::header::LINK, link)));
        response
    }
}

/// What a handler gives.
type Answer<T> = Result<Json<T>, ApiError>;

impl Api {
    /// The requests; who may send them is for the caller.
    pub fn router(self) -> Router {
        let parts = [
            node::routes(),
            net::routes(),
            quota::routes(),
            friends::routes(),
            circles::routes(),
            videos::routes(),
            mirrors::routes(),
            folders::routes(),
            around::routes(),
            search::routes(),
            fetch::routes(),
            store::routes(),
            backup::routes(),
            bundle::routes(),
            document::routes(),
            hidden::routes(),
            tokens::routes(),
            uploads::routes(),
            events::routes(),
            page::routes(),
        ];
        parts
            .into_iter()
            .fold(Router::new(), Router::merge)
            // What the document does not tell of does not exist.
            .route_layer(axum::middleware::from_fn(document::only_documented))
            .route_layer(axum::middleware::from_fn_with_state(self.clone(), once::once))
            .layer(axum::extract::DefaultBodyLimit::max(MAX_BODY))
            .layer(axum::middleware::map_response(document::as_problem))
            .fallback(|| async { ApiError(Failure::new(Exit::NotFound, "there is no such request")) })
            .with_state(self)
    }

    /// The same for the unix socket: whoever can connect there is the node's owner.
    pub fn owners_router(self) -> Router {
        self.router().layer(axum::Extension(document::Caller::Owner))
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
    fn begin<T: Send + 'static, W: Future<Output = Result<T, Failure>> + Send + 'static>(
        &self,
        name: &'static str,
        work: W,
    ) -> impl Future<Output = Result<T, Failure>> + use<T, W> {
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
