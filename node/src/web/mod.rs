//! The loopback listener: the page, the API for the page and for programs, and stream addresses.
//!
//! Invariant: `guard` sees every request before anything is routed; what is not a stream address, a login
//! or a file of the page needs a session or a token.

mod guard;
pub mod pages;
mod sessions;
pub mod texts;

pub(crate) use guard::protect;
pub use sessions::{LOGIN_LIFE, Sessions};

use crate::api::Api;
use crate::stream::Streams;
use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use guard::PAGE_POLICY;
use std::net::SocketAddr;

/// Files of the page: name, type, contents.
const ASSETS: [(&str, &str, &str); 12] = [
    ("app.css", "text/css; charset=utf-8", include_str!("../../assets/page/app.css")),
    ("icon.svg", "image/svg+xml", include_str!("../../assets/page/icon.svg")),
    ("app.js", JS, include_str!("../../assets/page/app.js")),
    ("search.js", JS, include_str!("../../assets/page/search.js")),
    ("watch.js", JS, include_str!("../../assets/page/watch.js")),
    ("publish.js", JS, include_str!("../../assets/page/publish.js")),
    ("friends.js", JS, include_str!("../../assets/page/friends.js")),
    ("library.js", JS, include_str!("../../assets/page/library.js")),
    ("network.js", JS, include_str!("../../assets/page/network.js")),
    ("store.js", JS, include_str!("../../assets/page/store.js")),
    ("settings.js", JS, include_str!("../../assets/page/settings.js")),
    ("welcome.js", JS, include_str!("../../assets/page/welcome.js")),
];
const JS: &str = "text/javascript; charset=utf-8";

/// What the listener serves from.
#[derive(Clone)]
pub struct Web {
    /// What it asks.
    pub api: Api,
    /// Stream addresses.
    pub streams: Streams,
    /// Who has logged in.
    pub sessions: Sessions,
    /// Where it listens.
    pub addr: SocketAddr,
}

impl Web {
    fn cookie_name(&self) -> String {
        format!("kith_{}", self.addr.port())
    }

    /// All routes of the listener.
    pub fn router(self) -> Router {
        let api = self.api.clone().router();
        let api = api.layer(middleware::from_fn_with_state(self.clone(), guard::api));
        let pages = pages::routes().layer(middleware::from_fn_with_state(self.clone(), page));
        let open = Router::new()
            .route("/assets/{name}", get(asset))
            // Whoever only asks what there is does not use it up.
            .route("/login/{name}", get(log_in).head(|| async { StatusCode::METHOD_NOT_ALLOWED }))
            .route("/logout", post(log_out));
        Router::new()
            .merge(pages)
            .merge(open)
            .with_state(self.clone())
            .merge(self.streams.clone().router())
            .fallback_service(api)
            .layer(middleware::from_fn_with_state(self.addr, guard::outer))
    }
}

async fn asset(Path(name): Path<String>) -> Response {
    let Some((_, kind, text)) = ASSETS.iter().find(|(known, ..)| *known == name) else {
        return guard::refuse();
    };
    let mut response = text.into_response();
    protect(response.headers_mut(), PAGE_POLICY);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Lets a page be made for who has logged in.
async fn page(State(web): State<Web>, mut request: Request, next: Next) -> Response {
    let mut response = match guard::session(&web, request.headers()) {
        Some(session) => {
            request.extensions_mut().insert(session);
            next.run(request).await
        }
        None => (StatusCode::FORBIDDEN, Html(pages::stranger().into_string())).into_response(),
    };
    protect(response.headers_mut(), PAGE_POLICY);
    response
}

/// Turns an address that works once into a cookie. The page follows by itself: a redirect would count as
/// coming from wherever the address was clicked, and the cookie would not go with it.
async fn log_in(State(web): State<Web>, Path(name): Path<String>) -> Response {
    let Ok(Some((cookie, place))) = web.sessions.log_in(&name) else {
        let mut response = (StatusCode::FORBIDDEN, Html(pages::stranger().into_string())).into_response();
        protect(response.headers_mut(), PAGE_POLICY);
        return response;
    };
    let mut response = Html(pages::entering(&place).into_string()).into_response();
    protect(response.headers_mut(), PAGE_POLICY);
    let cookie = format!("{}={cookie}; HttpOnly; SameSite=Strict; Path=/", web.cookie_name());
    for (name, value) in [(header::SET_COOKIE, cookie), (header::REFRESH, format!("0;url={place}"))] {
        response.headers_mut().extend(HeaderValue::from_str(&value).ok().map(|value| (name, value)));
    }
    response
}

/// Ends a session.
async fn log_out(State(web): State<Web>, request: Request) -> Response {
    let headers = request.headers();
    let given = headers.get(guard::CSRF_HEADER).and_then(|value| value.to_str().ok());
    let session = guard::session(&web, headers).filter(|session| given == Some(&session.csrf));
    let Some(session) = session.filter(|_| headers.contains_key(header::ORIGIN)) else {
        return guard::refuse();
    };
    web.streams.close_session(&session.csrf);
    guard::cookie(&web, headers).into_iter().for_each(|cookie| web.sessions.log_out(cookie));
    let mut response = StatusCode::NO_CONTENT.into_response();
    protect(response.headers_mut(), PAGE_POLICY);
    let clear = format!("{}=; HttpOnly; SameSite=Strict; Path=/; Max-Age=0", web.cookie_name());
    response
        .headers_mut()
        .extend(HeaderValue::from_str(&clear).ok().map(|value| (header::SET_COOKIE, value)));
    response
}
