//! Circles: sets of friends to publish to. Who is in one may change; what was published to it follows.

use super::friends::friend_called;
use super::*;
use crate::records::Circle;
use std::collections::BTreeSet;

/// Most circles of one node.
const MAX_CIRCLES: usize = 256;

/// The requests.
pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/api/circles", get(circles).post(create))
        .route("/api/circles/{name}", delete(remove))
        .route("/api/circles/{name}/members", post(change))
}

#[derive(OpenApi)]
#[openapi(paths(circles, create, remove, change))]
pub(super) struct Docs;

/// A circle.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct CircleView {
    pub(crate) name: String,
    /// Who is in it, by name.
    pub(crate) friends: Vec<String>,
    /// How many videos are published to it.
    pub(crate) videos: usize,
}

fn circle_view(cx: &Context<'_>, id: u64, circle: &Circle) -> CircleView {
    let state = cx.service.state();
    let mut friends: Vec<String> =
        circle.members.iter().filter_map(|key| state.friends.get(key)).map(|f| f.name.clone()).collect();
    friends.sort_unstable();
    let videos = state.publications.values().filter(|p| p.audience == Some(Audience::Circle(id))).count();
    CircleView { name: circle.name.clone(), friends, videos }
}

/// Tells the core who is in each circle.
pub(crate) fn tell_all(cx: &mut Context<'_>) {
    let all = cx.service.state().circles.iter();
    let all: Vec<(u64, BTreeSet<FriendKey>)> = all.map(|(id, c)| (*id, c.members.clone())).collect();
    all.into_iter().for_each(|(id, members)| cx.core.set_circle(cx.now, id, members));
}

fn called(cx: &Context<'_>, name: &str) -> Result<(u64, Circle), Failure> {
    let found = cx.service.state().circle_named(name).map(|(id, circle)| (id, circle.clone()));
    found.ok_or_else(|| no_circle(name))
}

pub(super) fn no_circle(name: &str) -> Failure {
    Failure::new(Exit::NotFound, format!("there is no circle called {name}: see `kith circle list`"))
}

impl Api {
    /// All circles by name.
    pub(crate) async fn circle_list(&self) -> Result<Vec<CircleView>, Failure> {
        self.call(|cx| {
            let circles = cx.service.state().circles.iter();
            let mut list: Vec<CircleView> = circles.map(|(id, c)| circle_view(cx, *id, c)).collect();
            list.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(list)
        })
        .await
    }
}

/// All circles.
#[utoipa::path(get, path = "/api/circles", tag = "friends", security(("token" = ["read"])),
    params(Page),
    responses((status = 200, body = Vec<CircleView>, description = "circles by name")))]
async fn circles(State(api): State<Api>, Query(page): Query<Page>) -> Result<Paged<CircleView>, ApiError> {
    Ok(page.of(api.circle_list().await?, |circle| circle.name.clone())?)
}

/// A new circle.
#[derive(Deserialize, ToSchema)]
struct CreateRequest {
    name: String,
}

/// Makes an empty circle.
#[utoipa::path(post, path = "/api/circles", tag = "friends", security(("token" = ["admin"])),
    request_body = CreateRequest,
    responses((status = 200, body = CircleView, description = "the circle")))]
async fn create(State(api): State<Api>, Json(request): Json<CreateRequest>) -> Answer<CircleView> {
    let name = crate::up::plain_name(&request.name)?;
    let (value, stored) = api
        .call(move |cx| {
            cx.check_writable()?;
            let state = cx.service.state();
            if state.circle_named(&name).is_some() {
                return Err(Failure::new(Exit::Usage, format!("there is a circle called {name} already")));
            }
            if state.circles.len() >= MAX_CIRCLES {
                return Err(Failure::new(
                    Exit::Full,
                    format!("{MAX_CIRCLES} circles are the most: remove one"),
                ));
            }
            // Never used before: what was published to a circle that is gone must not reach a new one.
            let last = state.circles.keys().next_back().copied().unwrap_or(0);
            let id = cx.now.unix_ms.max(last + 1);
            let circle = Circle { name, members: BTreeSet::new() };
            let value = circle_view(cx, id, &circle);
            Ok((value, cx.store(vec![Record::Circle(id, circle)])))
        })
        .await?;
    durable(stored).await?;
    Ok(Json(value))
}

/// Friends by name.
#[derive(Deserialize, ToSchema)]
struct ChangeRequest {
    #[serde(default)]
    add: Vec<String>,
    #[serde(default)]
    drop: Vec<String>,
}

/// Puts friends into a circle, and takes friends out.
#[utoipa::path(post, path = "/api/circles/{name}/members", tag = "friends", security(("token" = ["admin"])),
    params(("name" = String, Path, description = "what the circle is called")),
    request_body = ChangeRequest,
    responses((status = 200, body = CircleView, description = "the circle")))]
async fn change(
    State(api): State<Api>,
    Path(name): Path<String>,
    Json(request): Json<ChangeRequest>,
) -> Answer<CircleView> {
    let (value, stored) = api
        .call(move |cx| {
            cx.check_writable()?;
            let (id, mut circle) = called(cx, &name)?;
            for friend in &request.add {
                circle.members.insert(friend_called(cx, friend)?);
            }
            for friend in &request.drop {
                circle.members.remove(&friend_called(cx, friend)?);
            }
            let stored = cx.store(vec![Record::Circle(id, circle.clone())]);
            cx.core.set_circle(cx.now, id, circle.members.clone());
            Ok((circle_view(cx, id, &circle), stored))
        })
        .await?;
    durable(stored).await?;
    Ok(Json(value))
}

/// What was removed.
#[derive(Serialize, ToSchema)]
struct RemovedCircle {
    removed: String,
    /// So many videos are shared with nobody now.
    unshared: usize,
}

/// Removes a circle; what was published to it is shared with nobody.
#[utoipa::path(delete, path = "/api/circles/{name}", tag = "friends", security(("token" = ["admin"])),
    params(("name" = String, Path, description = "what the circle is called")),
    responses((status = 200, body = RemovedCircle, description = "it is gone")))]
async fn remove(State(api): State<Api>, Path(name): Path<String>) -> Answer<RemovedCircle> {
    let shown = name.clone();
    let (unshared, stored) = api
        .call(move |cx| {
            cx.check_writable()?;
            let (id, _) = called(cx, &name)?;
            let publications = cx.service.state().publications.values();
            let roots: Vec<Root> = publications
                .filter(|p| p.audience == Some(Audience::Circle(id)))
                .map(|p| p.cap.root)
                .collect();
            let stored = cx.store(vec![Record::CircleRemoved(id)]);
            cx.core.set_circle(cx.now, id, BTreeSet::new());
            roots.iter().for_each(|root| {
                cx.core.withdraw(cx.now, *root);
            });
            Ok((roots.len(), stored))
        })
        .await?;
    durable(stored).await?;
    Ok(Json(RemovedCircle { removed: shown, unshared }))
}
