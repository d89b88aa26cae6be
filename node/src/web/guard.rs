//! Who may ask the loopback listener for what. Loopback is hostile ground: any page in a browser, and any
//! program of anybody on this machine, can send requests here.
//!
//! Invariant: before a request is routed its Host is this listener to the letter, its Origin is none or
//! ours, and the browser does not say that another site sent it. What is refused gets a constant answer.

use super::Web;
use super::sessions::Session;
use crate::api::document::{Caller, Scope, Who};
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::SocketAddr;
use std::time::Duration;

/// Longest body of a request that is read whole, and how long it may take.
const MAX_BODY: usize = 1 << 20;
const BODY_TIME: Duration = Duration::from_secs(10);
/// What a request that changes something carries besides the cookie.
pub(crate) const CSRF_HEADER: &str = "x-kith-csrf";

/// Everything that the page loads is its own; no inline script, no form that goes elsewhere, no WebRTC where
/// a browser knows that directive (CSP 3; others ignore it, and nothing of the page uses it).
pub(super) const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     media-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'; webrtc 'block'";

const PERMISSIONS: &str = "camera=(), microphone=(), geolocation=(), display-capture=(), usb=(), serial=(), hid=(), \
     midi=(), payment=(), browsing-topics=()";

/// Headers that go with everything from this listener.
pub(crate) fn protect(headers: &mut HeaderMap, policy: &'static str) {
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::X_DNS_PREFETCH_CONTROL, "off"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    for (name, value) in [
        ("cross-origin-resource-policy", "same-origin"),
        ("cross-origin-opener-policy", "same-origin"),
        ("permissions-policy", PERMISSIONS),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// The answer to what is refused: the same whatever the reason.
pub(crate) fn refuse() -> Response {
    let mut response = StatusCode::FORBIDDEN.into_response();
    protect(response.headers_mut(), PAGE_POLICY);
    response
}

fn only<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, ()> {
    let mut all = headers.get_all(name).iter();
    let Some(first) = all.next() else { return Ok(None) };
    let text = first.to_str().map_err(drop)?;
    if all.next().is_some() { Err(()) } else { Ok(Some(text)) }
}

/// Whether a request may be from this machine's page, a player or a program. A page that makes its own
/// name point here (DNS rebinding) sends its own name as Host.
fn is_ours(addr: SocketAddr, request: &Request) -> bool {
    let headers = request.headers();
    let port = addr.port();
    let hosts =
        [addr.to_string(), format!("localhost:{port}"), format!("127.0.0.1:{port}"), format!("[::1]:{port}")];
    let Ok(Some(host)) = only(headers, "host") else { return false };
    if !hosts.iter().any(|known| known == host) || request.uri().authority().is_some() {
        return false;
    }
    let (Ok(origin), Ok(site)) = (only(headers, "origin"), only(headers, "sec-fetch-site")) else {
        return false;
    };
    let reads = [Method::GET, Method::HEAD].contains(request.method());
    // `none`: typed, or from a bookmark. Other ports of this machine are the same site, not the same origin.
    let site_is_ours = match site {
        None | Some("same-origin") => true,
        Some("none") => reads,
        Some(_) => false,
    };
    site_is_ours && origin.is_none_or(|origin| origin.strip_prefix("http://") == Some(host))
}

/// Refuses what cannot be ours, before anything is routed.
pub(super) async fn outer(State(addr): State<SocketAddr>, request: Request, next: Next) -> Response {
    if is_ours(addr, &request) { next.run(request).await } else { refuse() }
}

/// The value of this listener's cookie. Cookies know no ports: the name has it.
pub(super) fn cookie<'a>(web: &Web, headers: &'a HeaderMap) -> Option<&'a str> {
    let name = web.cookie_name();
    let mut all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    all.find_map(|value| {
        let mut pairs = value.split(';').filter_map(|pair| pair.trim().split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    })
}

/// The session of a request of the page.
pub(super) fn session(web: &Web, headers: &HeaderMap) -> Option<Session> {
    web.sessions.session(cookie(web, headers)?)
}

/// What a request of the page or of a program may do; `None`: nothing.
async fn caller(web: &Web, method: &Method, headers: &HeaderMap) -> Option<Caller> {
    match only(headers, "authorization").ok()? {
        Some(given) => {
            let (hash, scopes) = web.api.scopes_of(given.strip_prefix("Bearer ")?).await;
            (!scopes.is_empty()).then_some(Caller::Web(Who::Token(hash), scopes))
        }
        None => {
            let cookie = cookie(web, headers)?;
            let session = web.sessions.session(cookie)?;
            let reads = [Method::GET, Method::HEAD].contains(method);
            // Browsers send an Origin with everything that changes something.
            let proves = || {
                headers.contains_key(header::ORIGIN)
                    && only(headers, CSRF_HEADER).ok().flatten() == Some(session.csrf.as_str())
            };
            (reads || proves()).then(|| Caller::Web(Who::Session(cookie.to_owned()), vec![Scope::Admin]))
        }
    }
}

/// Paths whose bodies are streams.
fn is_stream(path: &str) -> bool {
    ["/api/publish", "/api/uploads/", "/api/bundles/import"].iter().any(|long| path.starts_with(long))
}

/// Lets a request into the API with what its sender may do.
pub(super) async fn api(State(web): State<Web>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let Some(caller) = caller(&web, &parts.method, &parts.headers).await else { return refuse() };
    parts.extensions.insert(caller);
    let body = if is_stream(parts.uri.path()) {
        body
    } else {
        match tokio::time::timeout(BODY_TIME, to_bytes(body, MAX_BODY)).await {
            Ok(Ok(bytes)) => Body::from(bytes),
            Ok(Err(_)) => return protected(StatusCode::PAYLOAD_TOO_LARGE.into_response()),
            Err(_) => return protected(StatusCode::REQUEST_TIMEOUT.into_response()),
        }
    };
    protected(next.run(Request::from_parts(parts, body)).await)
}

fn protected(mut response: Response) -> Response {
    protect(response.headers_mut(), PAGE_POLICY);
    response
}
