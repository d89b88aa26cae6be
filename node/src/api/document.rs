//! `/api/openapi.json`: what can be asked, told by the handlers themselves. It also says which scope a
//! request needs, and what it does not tell of is not answered.

use super::*;
use axum::extract::MatchedPath;
use axum::http::Method;
use axum::middleware::Next;
use std::collections::HashMap;
use std::sync::LazyLock;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::{Content, Ref, ResponseBuilder};

/// What a token may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// See how the node does, search, list.
    Read,
    /// Fetch and play.
    Watch,
    /// Publish and withdraw.
    Publish,
    /// Everything.
    Admin,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Read, Self::Watch, Self::Publish, Self::Admin];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Watch => "watch",
            Self::Publish => "publish",
            Self::Admin => "admin",
        }
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "kith",
        description = "A friend-to-friend video node. Errors are problem+json with the command line's exit as `code`. A POST with an `Idempotency-Key` is done once."
    ),
    paths(openapi),
    components(schemas(Problem))
)]
struct Docs;

/// The requests.
pub(super) fn routes() -> Router<Api> {
    Router::new().route("/api/openapi.json", get(openapi))
}

static DOCUMENT: LazyLock<utoipa::openapi::OpenApi> = LazyLock::new(|| {
    let mut all = Docs::openapi();
    all.info.version = env!("CARGO_PKG_VERSION").to_owned();
    for part in [
        node::Docs::openapi(),
        net::Docs::openapi(),
        quota::Docs::openapi(),
        friends::Docs::openapi(),
        circles::Docs::openapi(),
        videos::Docs::openapi(),
        mirrors::Docs::openapi(),
        folders::Docs::openapi(),
        around::Docs::openapi(),
        search::Docs::openapi(),
        fetch::Docs::openapi(),
        store::Docs::openapi(),
        backup::Docs::openapi(),
        bundle::Docs::openapi(),
        hidden::Docs::openapi(),
        tokens::Docs::openapi(),
        uploads::Docs::openapi(),
        events::Docs::openapi(),
        page::Docs::openapi(),
    ] {
        all.merge(part);
    }
    use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    all.components.get_or_insert_default().add_security_scheme("token", bearer);
    let problem = Content::new(Some(Ref::from_schema_name("Problem")));
    let problem =
        ResponseBuilder::new().description("what went wrong").content("application/problem+json", problem);
    let problem = problem.build();
    for item in all.paths.paths.values_mut() {
        let PathItem { get, post, put, patch, delete, .. } = item;
        for operation in [get, post, put, patch, delete].into_iter().flatten() {
            operation.responses.responses.insert("default".into(), problem.clone().into());
        }
    }
    all
});

/// Scope of each request.
static SCOPES: LazyLock<HashMap<(Method, String), Scope>> = LazyLock::new(|| {
    let mut scopes = HashMap::new();
    for (path, item) in &DOCUMENT.paths.paths {
        for (method, operation) in operations(item) {
            scopes.insert((method, path.clone()), scope_in(operation));
        }
    }
    scopes
});

fn operations(item: &PathItem) -> impl Iterator<Item = (Method, &Operation)> {
    let all = [
        (Method::GET, &item.get),
        (Method::POST, &item.post),
        (Method::PUT, &item.put),
        (Method::PATCH, &item.patch),
        (Method::DELETE, &item.delete),
        (Method::HEAD, &item.head),
    ];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_ref()?)))
}

fn scope_in(operation: &Operation) -> Scope {
    let named = |scope: &Scope| {
        let value = json!(operation.security);
        value.to_string().contains(&format!("\"{}\"", scope.as_str()))
    };
    Scope::ALL.into_iter().find(named).unwrap_or(Scope::Admin)
}

/// The scope that a request needs; `None`: there is no such request.
pub(crate) fn scope_of(method: &Method, path: &str) -> Option<Scope> {
    // Whoever may get something may ask whether it is there.
    let method = if method == Method::HEAD { &Method::GET } else { method };
    SCOPES.get(&(method.clone(), path.to_owned())).copied()
}

/// Who sends a request. One that says nothing of it is refused.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Over the unix socket: the node's owner.
    Owner,
    /// Over loopback.
    Web(Who, Vec<Scope>),
}

/// Who asks over loopback. It never prints: a cookie lets its holder in.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Who {
    /// The page, by its cookie.
    Session(String),
    /// A program, by the hash of its token.
    Token([u8; 32]),
}

/// What leaves the node unsealed, or would outlive a token, is for the unix socket alone.
const OWNERS: [&str; 2] = ["/api/backup", "/api/logins"];

impl Caller {
    /// Whether it has a scope.
    pub(crate) fn has(&self, scope: Scope) -> bool {
        match self {
            Self::Owner => true,
            Self::Web(_, scopes) => scopes.contains(&scope) || scopes.contains(&Scope::Admin),
        }
    }

    /// Tells it from all others, and gives nothing of it away.
    pub(crate) fn mark(&self) -> [u8; 32] {
        match self {
            Self::Owner => [0; 32],
            Self::Web(Who::Session(cookie), _) => *blake3::hash(cookie.as_bytes()).as_bytes(),
            Self::Web(Who::Token(hash), _) => *hash,
        }
    }

    fn may(&self, needs: Scope, path: &str) -> bool {
        self.has(needs) && (*self == Self::Owner || !OWNERS.contains(&path))
    }

    /// Whether it may still ask: a token may be revoked, a session may have logged out.
    pub(crate) async fn is_valid(&self, api: &Api) -> bool {
        match self {
            Self::Owner => true,
            Self::Web(Who::Session(cookie), _) => api.sessions.session(cookie).is_some(),
            Self::Web(Who::Token(hash), _) => !api.scopes_of_hash(*hash).await.is_empty(),
        }
    }
}

/// Lets through what the document tells of, from whom it says.
pub(super) async fn only_documented(request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let Some(needs) = scope_of(request.method(), path) else {
        return ApiError(Failure::new(Exit::NotFound, "there is no such request")).into_response();
    };
    match request.extensions().get::<Caller>() {
        Some(caller) if caller.may(needs, path) => next.run(request).await,
        _ => {
            let what = format!("this needs a token with the scope {}: kith token create", needs.as_str());
            ApiError(Failure::new(Exit::Refused, what)).into_response()
        }
    }
}

/// What axum says of a request that it cannot read, in the form of all errors.
pub(super) async fn as_problem(response: Response) -> Response {
    let kind = response.headers().get(axum::http::header::CONTENT_TYPE);
    let is_text = kind.is_none_or(|kind| kind.as_bytes().starts_with(b"text/plain"));
    if !response.status().is_client_error() || !is_text {
        return response;
    }
    let text = axum::body::to_bytes(response.into_body(), 4096).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let what = if text.is_empty() { "this request cannot be read" } else { text.trim() };
    ApiError(Failure::new(Exit::Usage, what)).into_response()
}

/// This document.
#[utoipa::path(get, path = "/api/openapi.json", tag = "node", security(("token" = ["read"])),
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json")))]
async fn openapi() -> Json<Value> {
    Json(json!(*DOCUMENT))
}
