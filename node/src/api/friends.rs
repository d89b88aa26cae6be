//! Invites and friends.

use super::document::{Caller, Scope};
use super::*;
use crate::privacy::tell_trust_of;
use crate::records::{Friend, Settings, Trust};
use axum::Extension;
use kith_crypto::cert::Certificate;
use kith_onion::Traffic;
use kith_onion::handshake::Who;

/// A ping is waited for this long.
const PING_WAIT: Duration = Duration::from_secs(5);
/// Most friends of one node, invites that wait included. Links, views and dials are bounded with it.
const MAX_FRIENDS: usize = 1024;
/// A certificate may come from a clock that is ahead by so much.
const CLOCK_SLACK_S: u64 = DAY_S;

/// The requests.
pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/api/invites", post(invite))
        .route("/api/friends", get(friends).post(add_friend))
        .route("/api/friends/{name}", get(show_friend).delete(remove_friend))
        .route("/api/friends/{name}/rename", post(rename))
        .route("/api/friends/{name}/trust", post(trust))
        .route("/api/friends/{name}/limit", post(limit))
        .route("/api/friends/{name}/tor", post(tor))
        .route("/api/friends/{name}/block", post(block))
        .route("/api/friends/{name}/unblock", post(unblock))
        .route("/api/friends/{name}/ping", post(ping))
        .route("/api/friends/{name}/verify", post(verify))
}

#[derive(OpenApi)]
#[openapi(paths(
    invite,
    friends,
    add_friend,
    show_friend,
    remove_friend,
    rename,
    trust,
    limit,
    tor,
    block,
    unblock,
    ping,
    verify
))]
pub(super) struct Docs;

/// A friend that was invited is waited for this long before the invite counts as pending.
const INVITE_WAIT: Duration = Duration::from_secs(20);

/// What an invite should be like.
#[derive(Deserialize, ToSchema)]
struct InviteRequest {
    /// How long it can be used, in seconds; without as `invite.expires` says.
    expires_s: Option<u64>,
    /// Only the onion address stands in it, and the friend is reached through Tor alone.
    #[serde(default)]
    tor_only: bool,
}

/// A new invite.
#[derive(Serialize, ToSchema)]
pub(crate) struct NewInvite {
    /// For one friend.
    pub(crate) invite: String,
    /// Unix seconds.
    pub(crate) expires: u32,
    /// What the inviter must know.
    pub(crate) note: Option<String>,
}

/// Makes an invite for one friend.
#[utoipa::path(post, path = "/api/invites", tag = "friends", security(("token" = ["admin"])),
    request_body = InviteRequest,
    responses((status = 200, body = NewInvite, description = "the invite")))]
async fn invite(State(api): State<Api>, Json(request): Json<InviteRequest>) -> Answer<NewInvite> {
    let lifetime = request.expires_s.map_or(api.facts.invite_expires, Duration::from_secs);
    let tor_only = request.tor_only;
    let needs_onion = tor_only || api.facts.tor.mode() == crate::config::Tor::Only;
    if needs_onion && api.facts.tor.onion().is_none() {
        return Err(no_onion().into());
    }
    let note = api.facts.reach_note.clone().filter(|_| !tor_only);
    let (text, expires, stored) = api
        .call(move |cx| {
            cx.check_writable()?;
            let me = cx.service.state().me.as_ref();
            let me = me.ok_or_else(|| Failure::new(Exit::Failure, "this node has no identity"))?.identity();
            let cert = if tor_only { cx.core.hidden_certificate() } else { cx.core.certificate() };
            let cert = cert.cloned();
            let cert = cert.ok_or_else(|| Failure::new(Exit::Failure, "the certificate is not made yet"))?;
            let expires =
                u32::try_from(unix_s(cx.now).saturating_add(lifetime.as_secs())).unwrap_or(u32::MAX);
            check_room(cx)?;
            let mut random = [0; 40];
            getrandom::fill(&mut random)
                .map_err(|_| Failure::new(Exit::Failure, "the system gives no randomness"))?;
            let (secret, id) = random.split_first_chunk::<32>().ok_or_else(bug)?;
            let id = InviteId(u64::from_le_bytes(id.try_into().map_err(|_| bug())?));
            let secret = Key::new(*secret);
            let invite = Invite::sign(&me, cert, secret.clone(), expires);
            let given = GivenInvite { id, secret, expires, tries: Vec::new(), bound: None };
            let mut records = vec![Record::Given(given.clone())];
            if tor_only {
                records.push(Record::TorOnly(Who::Invite(id), true));
                cx.core.set_tor_only(cx.now, Who::Invite(id), true);
            }
            let stored = cx.store(records);
            cx.core.give_invite(given);
            Ok((invite.to_text(), expires, stored))
        })
        .await?;
    durable(stored).await?;
    Ok(Json(NewInvite { invite: text, expires, note }))
}

/// Who is to be added.
#[derive(Deserialize, ToSchema)]
struct AddRequest {
    /// An invite, or a certificate.
    invite: String,
    /// The friend is reached through Tor alone.
    #[serde(default)]
    tor_only: bool,
}

/// This node has no onion address.
fn no_onion() -> Failure {
    let what = "this node is not reached through Tor: start it with --tor on (or only), and with tor.onion if tor.socks \
                is set";
    Failure::new(Exit::Usage, what)
}

/// Refuses what names other places than onion services where only those are called.
fn check_addresses(
    tor: &crate::transport::tor::Handle,
    tor_only: bool,
    what: &str,
    addrs: &[kith_crypto::cert::Address],
) -> Result<(), Failure> {
    use crate::config::Tor;
    let refused = |why: String| Err(Failure::new(Exit::Refused, why));
    let again = if what == "invite" { "kith friend invite --tor" } else { "kith id --tor" };
    if tor.mode() == Tor::Only && addrs.iter().any(|addr| !addr.is_onion()) {
        return refused(format!(
            "this {what} says where your friend is, and this node uses nothing but Tor: ask for one that holds an \
             onion address alone ({again})"
        ));
    }
    if tor_only && tor.mode() == Tor::Off {
        return Err(no_onion());
    }
    if tor_only && !addrs.iter().any(|addr| addr.is_onion()) {
        return refused(format!("this {what} holds no onion address: ask for one that does ({again})"));
    }
    Ok(())
}

/// Who was added.
#[derive(Serialize, ToSchema)]
pub(crate) struct AddedFriend {
    /// What the friend is called here.
    name: String,
    fingerprint: String,
    /// `online`, `offline` or `pending`.
    state: &'static str,
    /// What its owner must know.
    note: Option<String>,
    /// It was a friend before.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    already: bool,
}

enum Added {
    Already(AddedFriend),
    Waiting(InviteId, oneshot::Receiver<InviteOutcome>, oneshot::Receiver<Stored>),
}

/// Adds a friend by an invite or a certificate.
#[utoipa::path(post, path = "/api/friends", tag = "friends", security(("token" = ["admin"])),
    request_body = AddRequest,
    responses((status = 200, body = AddedFriend, description = "stored on both sides, or queued as pending")))]
async fn add_friend(State(api): State<Api>, Json(request): Json<AddRequest>) -> Answer<AddedFriend> {
    let refused = |what: String| Failure::new(Exit::Refused, what);
    if request.invite.starts_with("kith:c1:") {
        return add_certificate(&api, &request.invite, request.tor_only).await;
    }
    let invite = Invite::from_text(&request.invite)
        .map_err(|e| refused(format!("this invite cannot be used: {e}. Ask for it once more")))?;
    let (name, fingerprint) = (invite.inviter.name.clone(), invite.inviter.keys.fingerprint());
    let key = FriendKey(invite.inviter.keys.sign);
    let tor_only = request.tor_only;
    check_addresses(&api.facts.tor, tor_only, "invite", &invite.inviter.addrs)?;
    let added = api
        .call(move |cx| {
            cx.check_writable()?;
            begin_adding(cx, invite, key, tor_only)
        })
        .await?;
    let (id, outcome, stored) = match added {
        Added::Already(value) => return Ok(Json(value)),
        Added::Waiting(id, outcome, stored) => (id, outcome, stored),
    };
    durable(stored).await?;
    let outcome = tokio::time::timeout(INVITE_WAIT, outcome).await;
    let wanted = name.clone();
    let answer = |name: String, state: &'static str, note: Option<String>| {
        Ok(Json(AddedFriend { name, fingerprint, state, note, already: false }))
    };
    match outcome {
        Ok(Ok(InviteOutcome::Friends(friend))) => {
            let (name, note, up) = api
                .call(move |cx| {
                    let name = cx.service.state().friends.get(&friend).map(|f| f.name.clone());
                    let name = name.unwrap_or_default();
                    let note = same_name(cx, friend, &wanted, &name);
                    Ok((name, note, cx.service.await_up(cx.core, friend)))
                })
                .await?;
            let online = tokio::time::timeout(Duration::from_secs(5), up).await;
            answer(name, if matches!(online, Ok(Ok(()))) { "online" } else { "pending" }, note)
        }
        Ok(Ok(InviteOutcome::Refused)) => {
            let stored = api
                .call(move |cx| {
                    cx.core.cancel_invite(cx.now, id);
                    Ok(cx.store(vec![Record::InviteDone(id)]))
                })
                .await?;
            durable(stored).await?;
            let what = "the inviter's node was reached and does not accept this invite: it was used, \
                        has expired or was withdrawn; ask for a new one";
            Err(refused(what.into()).into())
        }
        _ => answer(name, "pending", None),
    }
}

/// All invites of somebody that are waiting are used through Tor alone.
fn wait_for_tor(cx: &mut Context<'_>, inviter: FriendKey) -> Vec<Record> {
    let taken = cx.service.state().taken.iter();
    let ids =
        taken.filter(|(_, invite)| invite.inviter.keys.sign == inviter.0).map(|(id, _)| Who::Invite(*id));
    let all: Vec<Who> = ids.collect();
    all.iter().for_each(|who| cx.core.set_tor_only(cx.now, *who, true));
    all.into_iter().map(|who| Record::TorOnly(who, true)).collect()
}

fn begin_adding(
    cx: &mut Context<'_>,
    invite: Invite,
    key: FriendKey,
    tor_only: bool,
) -> Result<Added, Failure> {
    let refused = |what: &str| Failure::new(Exit::Refused, what);
    if invite.inviter.keys.sign == cx.core.me().sign {
        return Err(refused("this is your own invite: give it to a friend, who adds you with it"));
    }
    if let Some(value) = already(cx, key, tor_only) {
        return Ok(Added::Already(value));
    }
    let expires = invite.expires.min(invite.inviter.expires);
    check_dates(unix_s(cx.now), "invite", invite.inviter.created, expires)?;
    let state = cx.service.state();
    let same = state.taken.iter().find(|(_, i)| i.encoded() == invite.encoded()).map(|(id, _)| *id);
    if let Some(id) = same {
        // Given again while it waits: tried at once.
        let records = if tor_only { wait_for_tor(cx, key) } else { Vec::new() };
        let stored = cx.store(records);
        cx.core.take_invite(cx.now, id, invite);
        return Ok(Added::Waiting(id, cx.service.await_invite(id), stored));
    }
    check_room(cx)?;
    let id = InviteId(cx.now.unix_ms ^ u64::from_le_bytes(first8(invite.secret.expose())));
    let mut records = vec![Record::Taken(id, invite.clone())];
    if tor_only {
        records.push(Record::TorOnly(Who::Invite(id), true));
        cx.core.set_tor_only(cx.now, Who::Invite(id), true);
        // An older one of the same friend would go there directly.
        records.extend(wait_for_tor(cx, key));
    }
    let stored = cx.store(records);
    let outcome = cx.service.await_invite(id);
    cx.core.take_invite(cx.now, id, invite);
    Ok(Added::Waiting(id, outcome, stored))
}

/// What is said of somebody who is a friend already. That it is to be reached through Tor alone holds all the same.
fn already(cx: &mut Context<'_>, key: FriendKey, tor_only: bool) -> Option<AddedFriend> {
    let friend = cx.service.state().friends.get(&key)?;
    let (name, fingerprint) = (friend.name.clone(), friend.record.keys.fingerprint());
    if tor_only && !cx.service.state().tor_only.contains(&Who::Friend(key)) {
        drop(cx.store(vec![Record::TorOnly(Who::Friend(key), true)]));
        cx.core.set_tor_only(cx.now, Who::Friend(key), true);
    }
    Some(AddedFriend { name, fingerprint, state: state_of(cx, key), note: None, already: true })
}

/// Refuses what is not valid now, and names both dates.
fn check_dates(now_s: u64, what: &str, created: u32, expires: u32) -> Result<(), Failure> {
    let day = |s: u64| {
        let time = jiff::Timestamp::from_second(i64::try_from(s).unwrap_or(i64::MAX)).unwrap_or_default();
        time.strftime("%Y-%m-%d %H:%M UTC").to_string()
    };
    let (from, to) = (day(u64::from(created)), day(u64::from(expires)));
    let why = if u64::from(expires) <= now_s {
        format!("this {what} was made on {from} and expired on {to}: ask for a new one")
    } else if u64::from(created) > now_s + CLOCK_SLACK_S {
        format!("this {what} is valid from {from} to {to} and it is {} here: check the clock", day(now_s))
    } else {
        return Ok(());
    };
    Err(Failure::new(Exit::Refused, why))
}

fn check_room(cx: &Context<'_>) -> Result<(), Failure> {
    let state = cx.service.state();
    let now_s = unix_s(cx.now);
    let given = state.given.values().filter(|i| u64::from(i.expires) > now_s).count();
    if state.friends.len() + state.taken.len() + given < MAX_FRIENDS {
        return Ok(());
    }
    let what = format!("{MAX_FRIENDS} friends and open invites are the most: remove some first");
    Err(Failure::new(Exit::Full, what))
}

/// A new friend whose own name belonged to somebody else already got another one: both are named.
fn same_name(cx: &Context<'_>, friend: FriendKey, wanted: &str, name: &str) -> Option<String> {
    let state = cx.service.state();
    let other = state.friend_named(wanted).filter(|other| *other != friend && wanted != name)?;
    let print = |key| state.friends.get(&key).map(|f| f.record.keys.fingerprint()).unwrap_or_default();
    Some(format!(
        "a friend called {wanted} exists already (fingerprint {}); the new one (fingerprint {}) is called {name} here",
        print(other),
        print(friend)
    ))
}

/// A certificate without an invite: the friendship works once the other side adds ours, too.
async fn add_certificate(api: &Api, text: &str, tor_only: bool) -> Answer<AddedFriend> {
    let cert = Certificate::from_text(text).map_err(|e| {
        Failure::new(Exit::Refused, format!("this certificate cannot be used: {e}. Ask for it once more"))
    })?;
    check_addresses(&api.facts.tor, tor_only, "certificate", &cert.addrs)?;
    let (value, stored) = api
        .call(move |cx| {
            cx.check_writable()?;
            let key = FriendKey(cert.keys.sign);
            if cert.keys.sign == cx.core.me().sign {
                let what = "this is your own certificate: give it to a friend, and add theirs";
                return Err(Failure::new(Exit::Refused, what));
            }
            if let Some(value) = already(cx, key, tor_only) {
                return Ok((value, None));
            }
            check_dates(unix_s(cx.now), "certificate", cert.created, cert.expires)?;
            check_room(cx)?;
            cx.core.set_tor_only(cx.now, Who::Friend(key), tor_only);
            let record = cx.core.friendship(&cert);
            let record = record
                .ok_or_else(|| Failure::new(Exit::Refused, "this certificate has keys that are no good"))?;
            let name = cx.service.state().free_name(&cert.name);
            let friend = Friend {
                record: record.clone(),
                name: name.clone(),
                since_s: unix_s(cx.now),
                traffic: Traffic::default(),
                verified_s: None,
                rotated_s: None,
            };
            let mut records = vec![Record::Friend(Box::new(friend))];
            if tor_only {
                records.push(Record::TorOnly(Who::Friend(key), true));
            }
            let stored = cx.store(records);
            cx.core.add_friend(cx.now, record);
            tell_trust_of(cx.now, cx.core, cx.service.state(), key);
            let note = same_name(cx, key, &cert.name, &name);
            let fingerprint = cert.keys.fingerprint();
            Ok((AddedFriend { name, fingerprint, state: "pending", note, already: false }, Some(stored)))
        })
        .await?;
    if let Some(stored) = stored {
        durable(stored).await?;
    }
    Ok(Json(value))
}

fn first8(bytes: &[u8; 32]) -> [u8; 8] {
    bytes.first_chunk::<8>().copied().unwrap_or_default()
}

/// Limits of one friend, in bytes a second; null is none.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct FriendLimits {
    /// Most to the friend.
    pub(crate) up: Option<u64>,
    /// Most from it.
    pub(crate) down: Option<u64>,
}

/// A friend, or an invite that waits.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct FriendView {
    /// What the friend is called here.
    pub(crate) name: String,
    pub(crate) fingerprint: String,
    /// `online`, `offline`, or `pending` while no link has ever stood.
    pub(crate) state: &'static str,
    /// Unix seconds; null while pending.
    pub(crate) since: Option<u64>,
    /// `close`, `normal` or `low`.
    pub(crate) trust: &'static str,
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
    /// Forwarded for others, counted at the friend they came from.
    pub(crate) relayed_bytes: u64,
    pub(crate) blocked: bool,
    pub(crate) limits: FriendLimits,
    pub(crate) circles: Vec<String>,
    /// When a link stood last, to the day, in Unix seconds.
    pub(crate) met: Option<u64>,
    /// When fingerprints were compared.
    pub(crate) verified: Option<u64>,
    /// When the friend showed new link keys.
    pub(crate) keys_rotated: Option<u64>,
    /// By which ways the friend is reached: `auto` or `only` (through Tor alone).
    pub(crate) tor: &'static str,
    /// Whether the link that stands goes through Tor; null: none stands.
    pub(crate) through_tor: Option<bool>,
    /// Only of one friend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) addresses: Option<Vec<String>>,
}

fn friend_view(cx: &Context<'_>, key: FriendKey) -> Option<FriendView> {
    let friend = cx.service.state().friends.get(&key)?;
    let traffic = cx.service.traffic(cx.core, key);
    let state = cx.service.state();
    let settings = state.settings_of(key);
    let circles = state.circles.values().filter(|c| c.members.contains(&key));
    Some(FriendView {
        name: friend.name.clone(),
        fingerprint: friend.record.keys.fingerprint(),
        state: state_of(cx, key),
        since: Some(friend.since_s),
        trust: settings.trust.as_str(),
        sent_bytes: traffic.sent,
        received_bytes: traffic.received,
        relayed_bytes: traffic.relayed,
        blocked: settings.blocked,
        limits: FriendLimits { up: settings.up, down: settings.down },
        circles: circles.map(|c| c.name.clone()).collect(),
        met: state.met.get(&key).copied(),
        verified: friend.verified_s,
        keys_rotated: friend.rotated_s,
        tor: if cx.core.is_tor_only(Who::Friend(key)) { "only" } else { "auto" },
        through_tor: cx.core.is_through_tor(key),
        addresses: None,
    })
}

/// `pending`: no link has ever stood; the other side may not have added this node yet.
fn state_of(cx: &Context<'_>, key: FriendKey) -> &'static str {
    match (cx.core.is_online(key), cx.service.state().met.contains_key(&key)) {
        (true, _) => "online",
        (false, true) => "offline",
        (false, false) => "pending",
    }
}

fn pending_view(invite: &Invite) -> FriendView {
    FriendView {
        name: invite.inviter.name.clone(),
        fingerprint: invite.inviter.keys.fingerprint(),
        state: "pending",
        since: None,
        trust: "normal",
        sent_bytes: 0,
        received_bytes: 0,
        relayed_bytes: 0,
        blocked: false,
        limits: FriendLimits { up: None, down: None },
        circles: Vec::new(),
        met: None,
        verified: None,
        keys_rotated: None,
        tor: "auto",
        through_tor: None,
        addresses: None,
    }
}

impl Api {
    /// All friends by name, and then invites that wait.
    pub(crate) async fn friend_list(&self) -> Result<Vec<FriendView>, Failure> {
        self.call(|cx| {
            let keys = cx.service.state().friends.keys();
            let mut list: Vec<FriendView> = keys.filter_map(|key| friend_view(cx, *key)).collect();
            list.sort_by(|a, b| a.name.cmp(&b.name));
            list.extend(cx.service.state().taken.values().map(pending_view));
            Ok(list)
        })
        .await
    }
}

/// All friends, and invites that wait.
#[utoipa::path(get, path = "/api/friends", tag = "friends", security(("token" = ["read"])),
    params(Page),
    responses((status = 200, body = Vec<FriendView>, description = "friends by name")))]
async fn friends(State(api): State<Api>, Query(page): Query<Page>) -> Result<Paged<FriendView>, ApiError> {
    Ok(page.of(api.friend_list().await?, |friend| friend.fingerprint.clone())?)
}

pub(super) fn no_friend(name: &str) -> Failure {
    Failure::new(Exit::NotFound, format!("there is no friend called {name}: see `kith friend list`"))
}

/// One friend.
#[utoipa::path(get, path = "/api/friends/{name}", tag = "friends", security(("token" = ["read"])),
    params(("name" = String, Path, description = "what the friend is called here")),
    responses((status = 200, body = FriendView, description = "with addresses")))]
async fn show_friend(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Answer<FriendView> {
    let value = api
        .call(move |cx| {
            let state = cx.service.state();
            let Ok(key) = friend_called(cx, &name) else {
                let pending = pending_called(state, &name).and_then(|id| state.taken.get(&id));
                return pending.map(pending_view).ok_or_else(|| no_friend(&name));
            };
            let addresses = || cx.core.addresses(key).iter().map(ToString::to_string).collect();
            let view = friend_view(cx, key).ok_or_else(bug)?;
            // Where friends are is told to whom this node's own addresses are.
            Ok(FriendView { addresses: caller.has(Scope::Admin).then(addresses), ..view })
        })
        .await?;
    Ok(Json(value))
}

/// Who was removed.
#[derive(Serialize, ToSchema)]
pub(super) struct RemovedFriend {
    removed: String,
}

/// Ends a friendship, or takes an invite back that waits.
#[utoipa::path(delete, path = "/api/friends/{name}", tag = "friends", security(("token" = ["admin"])),
    params(("name" = String, Path, description = "what the friend is called here")),
    responses((status = 200, body = RemovedFriend, description = "it is gone")))]
async fn remove_friend(State(api): State<Api>, Path(name): Path<String>) -> Answer<RemovedFriend> {
    let shown = name.clone();
    let stored = api
        .call(move |cx| {
            cx.check_writable()?;
            let state = cx.service.state();
            // By its fingerprint a pending one is told from a friend of the same name.
            let is_pending = |(_, i): &(&InviteId, &Invite)| i.inviter.keys.fingerprint() == name;
            let named = state.taken.iter().find(is_pending).map(|(id, _)| *id);
            if let (Ok(key), None) = (friend_called(cx, &name), named) {
                let mut records = vec![Record::FriendRemoved(key)];
                cx.service.drop_mirrors_of(cx.now, cx.core, cx.storage, key);
                records.extend(end_link(cx, key));
                let stored = cx.store(records);
                // Who comes back with a new invite begins without the old limits and circles.
                cx.core.set_friend_rates(cx.now, key, None, None);
                super::circles::tell_all(cx);
                return Ok(stored);
            }
            let id = pending_called(state, &name).ok_or_else(|| no_friend(&name))?;
            cx.core.cancel_invite(cx.now, id);
            Ok(cx.store(vec![Record::InviteDone(id)]))
        })
        .await?;
    durable(stored).await?;
    Ok(Json(RemovedFriend { removed: shown }))
}

/// Ends the link to a friend for good: what comes from it now meets silence.
fn end_link(cx: &mut Context<'_>, key: FriendKey) -> Vec<Record> {
    let state = cx.service.state();
    let noise = state.friends.get(&key).map(|f| f.record.keys.noise);
    // An invite that this friend completed must not let it in again.
    let theirs = state.given.values().filter(|i| i.bound.is_some() && i.bound == noise);
    let given: Vec<InviteId> = theirs.map(|i| i.id).collect();
    // Nor one of its own that still waits here.
    let theirs = state.taken.iter().filter(|(_, i)| i.inviter.keys.sign == key.0);
    let taken: Vec<InviteId> = theirs.map(|(id, _)| *id).collect();
    cx.core.remove_friend(cx.now, key);
    given.iter().for_each(|id| cx.core.withdraw_invite(cx.now, *id));
    taken.iter().for_each(|id| cx.core.cancel_invite(cx.now, *id));
    given.into_iter().chain(taken).map(Record::InviteDone).collect()
}

/// The friend with this name; one that has not been added on both sides has no settings yet.
/// A fingerprint names it, too.
pub(super) fn friend_called(cx: &Context<'_>, name: &str) -> Result<FriendKey, Failure> {
    let state = cx.service.state();
    let by_print = || {
        let mut friends = state.friends.iter();
        friends.find(|(_, f)| f.record.keys.fingerprint() == name).map(|(key, _)| *key)
    };
    state.friend_named(name).or_else(by_print).ok_or_else(|| no_friend(name))
}

/// An invite that waits, by its inviter's name or fingerprint.
fn pending_called(state: &crate::records::State, name: &str) -> Option<InviteId> {
    let is_it = |i: &Invite| i.inviter.keys.fingerprint() == name || i.inviter.name == name;
    state.taken.iter().find(|(_, i)| is_it(i)).map(|(id, _)| *id)
}

/// Changes what is set for a friend; the answer is the friend as `show` gives it.
async fn set(
    api: &Api,
    name: String,
    change: impl FnOnce(&mut Settings) -> Result<(), Failure> + Send + 'static,
) -> Answer<FriendView> {
    let (value, stored) = api
        .call(move |cx| {
            cx.check_writable()?;
            let key = friend_called(cx, &name)?;
            let before = cx.service.state().settings_of(key);
            let mut settings = before;
            change(&mut settings)?;
            let mut records = vec![Record::FriendSettings(key, settings)];
            if settings.blocked && !before.blocked {
                records.extend(end_link(cx, key));
            }
            let stored = cx.store(records);
            cx.core.set_refused(key, settings.blocked);
            if before.blocked && !settings.blocked {
                // The friend may know link keys that nobody else knows any more.
                let older = cx.service.state().me.as_ref().map(|m| m.older_identities());
                cx.core.add_older_keys(older.unwrap_or_default());
                if cx.service.state().tor_only.contains(&Who::Friend(key)) {
                    cx.core.set_tor_only(cx.now, Who::Friend(key), true);
                }
                let record = cx.service.state().friends.get(&key).map(|f| f.record.clone());
                cx.core.add_friend(cx.now, record.ok_or_else(bug)?);
            }
            cx.core.set_friend_rates(cx.now, key, settings.up, settings.down);
            tell_trust_of(cx.now, cx.core, cx.service.state(), key);
            Ok((friend_view(cx, key).ok_or_else(bug)?, stored))
        })
        .await?;
    durable(stored).await?;
    Ok(Json(value))
}

/// Another name.
#[derive(Deserialize, ToSchema)]
struct RenameRequest {
    new: String,
}

/// Calls a friend something else here.
#[utoipa::path(post, path = "/api/friends/{name}/rename", tag = "friends", security(("token" = ["admin"])),
    params(("name" = String, Path, description = "what the friend is called here")),
    request_body = RenameRequest,
    responses((status = 200, body = FriendView, description = "the friend")))]
async fn rename(
    State(api): State<Api>,
    Path(name): Path<String>,
    Json(request): Json<RenameRequest>,
) -> Answer<FriendView> {
    let new = crate::up::plain_name(&request.new)?;
    let (value, stored) = api
        .call(move |cx| {
            cx.check_writable()?;
            let key = friend_called(cx, &name)?;
            let state = cx.service.state();
            if state.friend_named(&new).is_some_and(|other| other != key) {
                let what = format!("another friend is called {new} already: choose another name");
                return Err(Failure::new(Exit::Usage, what));
            }
            let stored = cx.store(vec![Record::FriendNamed(key, new)]);
            Ok((friend_view(cx, key).ok_or_else(bug)?, stored))
        })
        .await?;
    durable(stored).await?;
    Ok(Json(value))
}

/// How far a friend is trusted.
#[derive(Deserialize, ToSchema)]
struct TrustRequest {
    /// `close`, `normal` or `low`.
    trust: String,
}

/// Says how far a friend is trusted with circuits.
#[utoipa::path(post, path = "/api/friends/{name}/trust", tag = "friends", security(("token" = ["admin"])),
    params(("name" = String, Path, description = "what the friend is called here")),
    request_body = TrustRequest,
    responses((status = 200, body = FriendView, description = "the friend")))]
async fn trust(
    State(api): State<Api>,
    Path(name): Path<String>,
    Json(request): Json<TrustRequest>,
) -> Answer<FriendView> {
    let trust = Trust::from_name(&request.trust)
        .ok_or_else(|| Failure::new(Exit::Usage, "trust is close, normal or low"))?;
    set(&api, name, move |settings| {
        settings.trust = trust;
        Ok(())
    })
    .await
}

/// Rates like `500kB/s`, or `off`; what is not given stays.
#[derive(Deserialize, ToSchema)]
struct LimitRequest {
    up: Option<String>,
    down: Option<String>,
}

/// Limits what goes to a friend and comes from it.
#[utoipa::path(post, path = "/api/friends/{name}/limit", tag = "friends", security(("token" = ["admin"])),
    params(("name" = String, Path, description = "what the friend is called here")),
    request_body = LimitRequest,
    responses((status = 200, body = FriendView, description = "the friend")))]
async fn limit(
    State(api): State<Api>,
    Path(name): Path<String>,
    Json(request): Json<LimitRequest>,
) -> Answer<FriendView> {
    let read = |text: Option<String>| text.map(|t| crate::limits::rate(&t)).transpose();
    let (up, down) = (read(request.up)?, read(request.down)?);
    set(&api, name, move |settings| {
        settings.up = up.unwrap_or(settings.up);
        settings.down = down.unwrap_or(settings.down);
        Ok(())
    })
    .await
}

/// By which ways a friend is reached.
#[derive(Deserialize, ToSchema)]
struct TorRequest {
    /// Through Tor alone, and it learns no other address of this node from now on.
    only: bool,
}

/// Says whether a friend is reached through Tor alone.
#[utoipa::path(post, path = "/api/friends/{name}/tor", tag = "friends", security(("token" = ["admin"])),
    params(("name" = String, Path, description = "what the friend is called here")),
    request_body = TorRequest,
    responses((status = 200, body = FriendView, description = "the friend")))]
async fn tor(
    State(api): State<Api>,
    Path(name): Path<String>,
    Json(request): Json<TorRequest>,
) -> Answer<FriendView> {
    use crate::config::Tor;
    let only = request.only;
    match api.facts.tor.mode() {
        Tor::Off if only => return Err(no_onion().into()),
        Tor::Only if !only => {
            let what = "this node uses nothing but Tor, for every friend: start it with --tor on first";
            return Err(Failure::new(Exit::Refused, what).into());
        }
        _ => {}
    }
    let (value, stored) = api
        .call(move |cx| {
            cx.check_writable()?;
            let key = friend_called(cx, &name)?;
            let known = cx.core.addresses(key).iter().any(|addr| addr.is_onion());
            if only && !known {
                let what = format!(
                    "no onion address of {name} is known, so nobody could be reached: ask them to use Tor as well \
                     (--tor on)"
                );
                return Err(Failure::new(Exit::Refused, what));
            }
            let stored = cx.store(vec![Record::TorOnly(Who::Friend(key), only)]);
            cx.core.set_tor_only(cx.now, Who::Friend(key), only);
            Ok((friend_view(cx, key).ok_or_else(bug)?, stored))
        })
        .await?;
    durable(stored).await?;
    Ok(Json(value))
}

/// No link to a friend until it is unblocked; the friendship stays.
#[utoipa::path(post, path = "/api/friends/{name}/block", tag = "friends", security(("token" = ["admin"])),
    params(("name" = String, Path, description = "what the friend is called here")),
    responses((status = 200, body = FriendView, description = "the friend")))]
async fn block(State(api): State<Api>, Path(name): Path<String>) -> Answer<FriendView> {
    set(&api, name, |settings| {
        settings.blocked = true;
        Ok(())
    })
    .await
}

/// Links again.
#[utoipa::path(post, path = "/api/friends/{name}/unblock", tag = "friends", security(("token" = ["admin"])),
    params(("name" = String, Path, description = "what the friend is called here")),
    responses((status = 200, body = FriendView, description = "the friend")))]
async fn unblock(State(api): State<Api>, Path(name): Path<String>) -> Answer<FriendView> {
    set(&api, name, |settings| {
        settings.blocked = false;
        Ok(())
    })
    .await
}

/// How long an answer took.
#[derive(Serialize, ToSchema)]
struct Pong {
    name: String,
    ms: f64,
}

/// Asks a friend's node for an answer.
#[utoipa::path(post, path = "/api/friends/{name}/ping", tag = "friends", security(("token" = ["read"])),
    params(("name" = String, Path, description = "what the friend is called here")),
    responses((status = 200, body = Pong, description = "the answer came")))]
async fn ping(State(api): State<Api>, Path(name): Path<String>) -> Answer<Pong> {
    let shown = name.clone();
    let pong = api
        .call(move |cx| {
            let key = friend_called(cx, &name)?;
            if !cx.core.ping(cx.now, key) {
                let what = format!("{name} is offline: see `kith doctor`");
                return Err(Failure::new(Exit::Unreachable, what));
            }
            Ok(cx.service.await_pong(key))
        })
        .await?;
    match tokio::time::timeout(PING_WAIT, pong).await {
        Ok(Ok(took)) => Ok(Json(Pong { name: shown, ms: took.as_secs_f64() * 1000.0 })),
        _ => {
            let seconds = PING_WAIT.as_secs();
            let what = format!("no answer from {shown} within {seconds} s: try again, or see `kith doctor`");
            Err(Failure::new(Exit::TimedOut, what).into())
        }
    }
}

/// What is known of a friend's keys by another way.
#[derive(Deserialize, ToSchema)]
struct VerifyRequest {
    /// Letters or words, as the friend reads them out.
    fingerprint: Option<String>,
    /// The friend says that its node came out of a backup.
    #[serde(default)]
    restored: bool,
    /// Takes it back.
    #[serde(default)]
    undo: bool,
}

/// Fingerprints to compare.
#[derive(Serialize, ToSchema)]
pub(crate) struct Verified {
    pub(crate) name: String,
    pub(crate) fingerprint: String,
    /// The same in twelve words.
    pub(crate) words: String,
    pub(crate) own_fingerprint: String,
    pub(crate) own_words: String,
    /// When they were compared, in Unix seconds.
    pub(crate) verified: Option<u64>,
}

/// Fingerprints are compared by people: case, spaces and hyphens do not count.
fn same_fingerprint(a: &str, b: &str) -> bool {
    let plain = |text: &str| -> String {
        text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_uppercase()).collect()
    };
    plain(a) == plain(b)
}

/// Shows fingerprints, and notes that they were compared.
#[utoipa::path(post, path = "/api/friends/{name}/verify", tag = "friends", security(("token" = ["admin"])),
    params(("name" = String, Path, description = "what the friend is called here")),
    request_body = VerifyRequest,
    responses((status = 200, body = Verified, description = "fingerprints of both")))]
async fn verify(
    State(api): State<Api>,
    Path(name): Path<String>,
    Json(request): Json<VerifyRequest>,
) -> Answer<Verified> {
    let (value, stored) = api
        .call(move |cx| {
            cx.check_writable()?;
            let key = friend_called(cx, &name)?;
            let friends = &cx.service.state().friends;
            let keys = friends.get(&key).map(|f| f.record.keys).ok_or_else(bug)?;
            let (theirs, words) = (keys.fingerprint(), keys.fingerprint_words().join(" "));
            let mut records = Vec::new();
            if let Some(given) = &request.fingerprint {
                if !same_fingerprint(given, &theirs) && !same_fingerprint(given, &words) {
                    let what = format!(
                        "this is not {name}'s fingerprint, which is {theirs} here: somebody may stand between \
                         you; remove this friend and make a new invite"
                    );
                    return Err(Failure::new(Exit::Verification, what));
                }
                records.push(Record::Verified(key, unix_s(cx.now)));
            }
            if request.undo {
                records.push(Record::Verified(key, 0));
            }
            if request.restored && !cx.core.allow_restored(cx.now, key) {
                let what = format!("{name} is blocked: unblock first");
                return Err(Failure::new(Exit::Refused, what));
            }
            let stored = cx.store(records);
            tell_trust_of(cx.now, cx.core, cx.service.state(), key);
            let verified = cx.service.state().friends.get(&key).and_then(|f| f.verified_s);
            let value = Verified {
                name,
                fingerprint: theirs,
                words,
                own_fingerprint: cx.core.me().fingerprint(),
                own_words: cx.core.me().fingerprint_words().join(" "),
                verified,
            };
            Ok((value, stored))
        })
        .await?;
    durable(stored).await?;
    Ok(Json(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_told_when_they_do_not_fit() {
        let now = 1_764_000_000; // 2025-11-24 16:00 UTC
        assert!(check_dates(now, "certificate", now as u32 - 5, now as u32 + 5).is_ok());
        assert!(check_dates(now, "certificate", now as u32 + 3_600, now as u32 + 7_200).is_ok());
        let expired = check_dates(now, "certificate", 1_700_000_000, now as u32).unwrap_err();
        assert!(expired.what.contains("2023-11-14 22:13 UTC"), "{expired}");
        assert!(expired.what.contains("expired on 2025-11-24 16:00 UTC"), "{expired}");
        let early = check_dates(now, "invite", now as u32 + 90_000, now as u32 + 180_000).unwrap_err();
        assert!(early.what.contains("2025-11-25") && early.what.contains("2025-11-26"), "{early}");
        assert_eq!((expired.exit, early.exit), (Exit::Refused, Exit::Refused));
    }
}
