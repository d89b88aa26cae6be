//! Tokens for programs, and logins of the page. A token is shown once and kept as a hash.

use super::document::Scope;
use super::*;
use crate::records::Token;

/// Most tokens of one node.
const MAX_TOKENS: usize = 64;
/// What each token begins with.
const PREFIX: &str = "kith_";

/// The requests.
pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/api/tokens", get(list).post(create))
        .route("/api/tokens/{name}", delete(revoke))
        .route("/api/logins", post(login))
}

#[derive(OpenApi)]
#[openapi(paths(list, create, revoke, login))]
pub(super) struct Docs;

/// A token, without itself.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct TokenView {
    pub(crate) name: String,
    pub(crate) scopes: Vec<Scope>,
    /// Unix seconds.
    pub(crate) created: u64,
}

/// A new token.
#[derive(Serialize, ToSchema)]
struct NewToken {
    name: String,
    scopes: Vec<Scope>,
    /// Shown this once. It goes into `Authorization: Bearer`.
    token: String,
}

/// What a token is for.
#[derive(Deserialize, ToSchema)]
struct TokenRequest {
    name: String,
    scopes: Vec<Scope>,
}

/// A login of the page.
#[derive(Serialize, ToSchema)]
struct Login {
    /// Works once.
    url: String,
    expires_s: u64,
}

/// Where a login leads.
#[derive(Deserialize, ToSchema)]
struct LoginRequest {
    /// An invite, certificate or link that the page is to ask about.
    link: Option<String>,
}

fn bits(scopes: &[Scope]) -> u8 {
    scopes.iter().fold(0, |bits, scope| bits | 1 << (*scope as u8))
}

fn scopes(bits: u8) -> Vec<Scope> {
    Scope::ALL.into_iter().filter(|scope| bits >> (*scope as u8) & 1 == 1).collect()
}

fn hash(token: &str) -> [u8; 32] {
    *blake3::hash(token.as_bytes()).as_bytes()
}

impl Api {
    /// All tokens by name.
    pub(crate) async fn token_list(&self) -> Result<Vec<TokenView>, Failure> {
        self.call(|cx| {
            let view = |(name, token): (&String, &Token)| TokenView {
                name: name.clone(),
                scopes: scopes(token.scopes),
                created: token.created_s,
            };
            Ok(cx.service.state().tokens.iter().map(view).collect())
        })
        .await
    }

    /// The hash of a token, and what it may be used for; nothing, if there is none like it.
    pub(crate) async fn scopes_of(&self, token: &str) -> ([u8; 32], Vec<Scope>) {
        let hash = hash(token);
        (hash, self.scopes_of_hash(hash).await)
    }

    /// The same by the hash.
    pub(crate) async fn scopes_of_hash(&self, hash: [u8; 32]) -> Vec<Scope> {
        let found = self.call(move |cx| {
            let tokens = cx.service.state().tokens.values();
            Ok(tokens.filter(|t| t.hash == hash).fold(0, |bits, token| bits | token.scopes))
        });
        found.await.map(scopes).unwrap_or_default()
    }
}

/// All tokens.
#[utoipa::path(get, path = "/api/tokens", tag = "settings", security(("token" = ["admin"])), params(Page),
    responses((status = 200, body = Vec<TokenView>, description = "by name")))]
async fn list(State(api): State<Api>, Query(page): Query<Page>) -> Result<Paged<TokenView>, ApiError> {
    Ok(page.of(api.token_list().await?, |token| token.name.clone())?)
}

/// Makes a token for a program.
#[utoipa::path(post, path = "/api/tokens", tag = "settings", security(("token" = ["admin"])),
    request_body = TokenRequest,
    responses((status = 200, body = NewToken, description = "the token, shown this once")))]
async fn create(State(api): State<Api>, Json(request): Json<TokenRequest>) -> Answer<NewToken> {
    let name = crate::up::plain_name(&request.name)?;
    let mut scopes = request.scopes;
    scopes.sort_unstable();
    scopes.dedup();
    if scopes.is_empty() {
        let what = "a token needs a scope: read, watch, publish or admin";
        return Err(Failure::new(Exit::Usage, what).into());
    }
    let token = format!("{PREFIX}{}", crate::stream::random_name()?);
    let (bits, hash, wanted) = (bits(&scopes), hash(&token), name.clone());
    let stored = api
        .call(move |cx| {
            cx.check_writable()?;
            let tokens = &cx.service.state().tokens;
            if tokens.contains_key(&wanted) {
                let what = format!("there is a token called {wanted} already: revoke it first");
                return Err(Failure::new(Exit::Usage, what));
            }
            if tokens.len() >= MAX_TOKENS {
                let what = format!("{MAX_TOKENS} tokens are the most: revoke one");
                return Err(Failure::new(Exit::Full, what));
            }
            let token = Token { hash, scopes: bits, created_s: unix_s(cx.now) };
            Ok(cx.store(vec![Record::Token(wanted, token)]))
        })
        .await?;
    durable(stored).await?;
    Ok(Json(NewToken { name, scopes, token }))
}

/// What was revoked.
#[derive(Serialize, ToSchema)]
struct RevokedToken {
    revoked: String,
}

/// Makes a token useless, at once.
#[utoipa::path(delete, path = "/api/tokens/{name}", tag = "settings", security(("token" = ["admin"])),
    params(("name" = String, Path, description = "its name")),
    responses((status = 200, body = RevokedToken, description = "it is no good any more")))]
async fn revoke(State(api): State<Api>, Path(name): Path<String>) -> Answer<RevokedToken> {
    let shown = name.clone();
    let stored = api
        .call(move |cx| {
            cx.check_writable()?;
            if !cx.service.state().tokens.contains_key(&name) {
                let what = format!("there is no token called {name}: see `kith token list`");
                return Err(Failure::new(Exit::NotFound, what));
            }
            Ok(cx.store(vec![Record::TokenRevoked(name)]))
        })
        .await?;
    durable(stored).await?;
    Ok(Json(RevokedToken { revoked: shown }))
}

/// Makes an address that opens the page once.
#[utoipa::path(post, path = "/api/logins", tag = "settings", security(("token" = ["admin"])),
    request_body = LoginRequest,
    responses((status = 200, body = Login, description = "the address")))]
async fn login(State(api): State<Api>, Json(request): Json<LoginRequest>) -> Answer<Login> {
    let path = api.sessions.make_login(request.link)?;
    let web = api.facts.ready.web.trim_end_matches('/');
    Ok(Json(Login { url: format!("{web}{path}"), expires_s: crate::web::LOGIN_LIFE.as_secs() }))
}
