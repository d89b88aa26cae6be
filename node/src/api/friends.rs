//! Invites and friends.

use super::*;
use crate::privacy::tell_trust_of;
use crate::records::{Friend, Settings, Trust};
use kith_crypto::cert::Certificate;
use kith_onion::Traffic;

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
        .route("/api/friends/{name}/block", post(block))
        .route("/api/friends/{name}/unblock", post(unblock))
        .route("/api/friends/{name}/ping", post(ping))
        .route("/api/friends/{name}/verify", post(verify))
}

/// A friend that was invited is waited for this long before the invite counts as pending.
const INVITE_WAIT: Duration = Duration::from_secs(20);

#[derive(Deserialize)]
struct InviteRequest {
    expires_s: Option<u64>,
}

async fn invite(State(api): State<Api>, Json(request): Json<InviteRequest>) -> Answer {
    let lifetime = request.expires_s.map_or(api.facts.invite_expires, Duration::from_secs);
    let note = api.facts.reach_note.clone();
    let (text, expires, stored) = api
        .call(move |cx| {
            cx.check_writable()?;
            let me = cx.service.state().me.as_ref();
            let me = me.ok_or_else(|| Failure::new(Exit::Failure, "this node has no identity"))?.identity();
            let cert = cx.core.certificate().cloned();
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
            let stored = cx.store(vec![Record::Given(given.clone())]);
            cx.core.give_invite(given);
            Ok((invite.to_text(), expires, stored))
        })
        .await?;
    durable(stored).await?;
    Ok(Json(json!({"invite": text, "expires": expires, "note": note})))
}

#[derive(Deserialize)]
struct AddRequest {
    invite: String,
}

enum Added {
    Already(Value),
    Waiting(InviteId, oneshot::Receiver<InviteOutcome>, oneshot::Receiver<Stored>),
}

async fn add_friend(State(api): State<Api>, Json(request): Json<AddRequest>) -> Answer {
    let refused = |what: String| Failure::new(Exit::Refused, what);
    if request.invite.starts_with("kith:c1:") {
        return add_certificate(&api, &request.invite).await;
    }
    let invite = Invite::from_text(&request.invite)
        .map_err(|e| refused(format!("this invite cannot be used: {e}. Ask for it once more")))?;
    let (name, fingerprint) = (invite.inviter.name.clone(), invite.inviter.keys.fingerprint());
    let key = FriendKey(invite.inviter.keys.sign);
    let added = api
        .call(move |cx| {
            cx.check_writable()?;
            begin_adding(cx, invite, key)
        })
        .await?;
    let (id, outcome, stored) = match added {
        Added::Already(value) => return Ok(Json(value)),
        Added::Waiting(id, outcome, stored) => (id, outcome, stored),
    };
    durable(stored).await?;
    let outcome = tokio::time::timeout(INVITE_WAIT, outcome).await;
    let wanted = name.clone();
    let answer = |name: &str, state: &str, note: Option<String>| {
        Ok(Json(json!({"name": name, "fingerprint": fingerprint, "state": state, "note": note})))
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
            answer(&name, if matches!(online, Ok(Ok(()))) { "online" } else { "pending" }, note)
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
        _ => answer(&name, "pending", None),
    }
}

fn begin_adding(cx: &mut Context<'_>, invite: Invite, key: FriendKey) -> Result<Added, Failure> {
    let refused = |what: &str| Failure::new(Exit::Refused, what);
    if invite.inviter.keys.sign == cx.core.me().sign {
        return Err(refused("this is your own invite: give it to a friend, who adds you with it"));
    }
    if let Some(value) = already(cx, key) {
        return Ok(Added::Already(value));
    }
    let expires = invite.expires.min(invite.inviter.expires);
    check_dates(unix_s(cx.now), "invite", invite.inviter.created, expires)?;
    let state = cx.service.state();
    let same = state.taken.iter().find(|(_, i)| i.encoded() == invite.encoded()).map(|(id, _)| *id);
    if let Some(id) = same {
        // Given again while it waits: tried at once.
        cx.core.take_invite(cx.now, id, invite);
        let (sender, stored) = oneshot::channel();
        let _ = sender.send(Ok(()));
        return Ok(Added::Waiting(id, cx.service.await_invite(id), stored));
    }
    check_room(cx)?;
    let id = InviteId(cx.now.unix_ms ^ u64::from_le_bytes(first8(invite.secret.expose())));
    let stored = cx.store(vec![Record::Taken(id, invite.clone())]);
    let outcome = cx.service.await_invite(id);
    cx.core.take_invite(cx.now, id, invite);
    Ok(Added::Waiting(id, outcome, stored))
}

/// What is said of somebody who is a friend already.
fn already(cx: &Context<'_>, key: FriendKey) -> Option<Value> {
    let friend = cx.service.state().friends.get(&key)?;
    let fingerprint = friend.record.keys.fingerprint();
    let state = state_of(cx, key);
    Some(json!({"name": friend.name, "fingerprint": fingerprint, "state": state, "already": true}))
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
async fn add_certificate(api: &Api, text: &str) -> Answer {
    let cert = Certificate::from_text(text).map_err(|e| {
        Failure::new(Exit::Refused, format!("this certificate cannot be used: {e}. Ask for it once more"))
    })?;
    let (value, stored) = api
        .call(move |cx| {
            cx.check_writable()?;
            let key = FriendKey(cert.keys.sign);
            if cert.keys.sign == cx.core.me().sign {
                let what = "this is your own certificate: give it to a friend, and add theirs";
                return Err(Failure::new(Exit::Refused, what));
            }
            if let Some(value) = already(cx, key) {
                return Ok((value, None));
            }
            check_dates(unix_s(cx.now), "certificate", cert.created, cert.expires)?;
            check_room(cx)?;
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
            let stored = cx.store(vec![Record::Friend(Box::new(friend))]);
            cx.core.add_friend(cx.now, record);
            tell_trust_of(cx.now, cx.core, cx.service.state(), key);
            let note = same_name(cx, key, &cert.name, &name);
            let fingerprint = cert.keys.fingerprint();
            let value = json!({"name": name, "fingerprint": fingerprint, "state": "pending", "note": note});
            Ok((value, Some(stored)))
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

fn friend_json(cx: &Context<'_>, key: FriendKey) -> Option<Value> {
    let friend = cx.service.state().friends.get(&key)?;
    let traffic = cx.service.traffic(cx.core, key);
    let state = cx.service.state();
    let settings = state.settings_of(key);
    let circles = state.circles.values().filter(|c| c.members.contains(&key));
    Some(json!({
        "name": friend.name,
        "fingerprint": friend.record.keys.fingerprint(),
        "state": state_of(cx, key),
        "since": friend.since_s,
        "trust": settings.trust.as_str(),
        "sent_bytes": traffic.sent,
        "received_bytes": traffic.received,
        "relayed_bytes": traffic.relayed,
        "blocked": settings.blocked,
        "limits": {"up": settings.up, "down": settings.down},
        "circles": circles.map(|c| c.name.as_str()).collect::<Vec<_>>(),
        "met": state.met.get(&key),
        "verified": friend.verified_s,
        "keys_rotated": friend.rotated_s,
    }))
}

/// `pending`: no link has ever stood; the other side may not have added this node yet.
fn state_of(cx: &Context<'_>, key: FriendKey) -> &'static str {
    match (cx.core.is_online(key), cx.service.state().met.contains_key(&key)) {
        (true, _) => "online",
        (false, true) => "offline",
        (false, false) => "pending",
    }
}

fn pending_json(invite: &Invite) -> Value {
    json!({
        "name": invite.inviter.name,
        "fingerprint": invite.inviter.keys.fingerprint(),
        "state": "pending",
        "since": null,
        "trust": "normal",
        "sent_bytes": 0,
        "received_bytes": 0,
        "relayed_bytes": 0,
        "blocked": false,
        "limits": {"up": null, "down": null},
        "circles": [],
        "met": null,
        "verified": null,
        "keys_rotated": null,
    })
}

async fn friends(State(api): State<Api>) -> Answer {
    let list = api
        .call(|cx| {
            let keys: Vec<FriendKey> = cx.service.state().friends.keys().copied().collect();
            let mut list: Vec<Value> = keys.into_iter().filter_map(|k| friend_json(cx, k)).collect();
            list.sort_by_key(|f| f.get("name").map(ToString::to_string));
            list.extend(cx.service.state().taken.values().map(pending_json));
            Ok(list)
        })
        .await?;
    Ok(Json(Value::Array(list)))
}

pub(super) fn no_friend(name: &str) -> Failure {
    Failure::new(Exit::NotFound, format!("there is no friend called {name}: see `kith friend list`"))
}

async fn show_friend(State(api): State<Api>, Path(name): Path<String>) -> Answer {
    let value = api
        .call(move |cx| {
            let state = cx.service.state();
            let Some(key) = state.friend_named(&name) else {
                let pending = state.taken.values().find(|i| i.inviter.name == name);
                return pending.map(pending_json).ok_or_else(|| no_friend(&name));
            };
            let mut value = friend_json(cx, key).unwrap_or_default();
            if let Some(fields) = value.as_object_mut() {
                let addrs: Vec<String> = cx.core.addresses(key).iter().map(ToString::to_string).collect();
                fields.insert("addresses".into(), json!(addrs));
            }
            Ok(value)
        })
        .await?;
    Ok(Json(value))
}

async fn remove_friend(State(api): State<Api>, Path(name): Path<String>) -> Answer {
    let shown = name.clone();
    let stored = api
        .call(move |cx| {
            cx.check_writable()?;
            let state = cx.service.state();
            if let Some(key) = state.friend_named(&name) {
                let mut records = vec![Record::FriendRemoved(key)];
                records.extend(end_link(cx, key));
                let stored = cx.store(records);
                // Who comes back with a new invite begins without the old limits and circles.
                cx.core.set_friend_rates(cx.now, key, None, None);
                super::circles::tell_all(cx);
                return Ok(stored);
            }
            let pending = state.taken.iter().find(|(_, i)| i.inviter.name == name).map(|(id, _)| *id);
            let id = pending.ok_or_else(|| no_friend(&name))?;
            cx.core.cancel_invite(cx.now, id);
            Ok(cx.store(vec![Record::InviteDone(id)]))
        })
        .await?;
    durable(stored).await?;
    Ok(Json(json!({"removed": shown})))
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
pub(super) fn friend_called(cx: &Context<'_>, name: &str) -> Result<FriendKey, Failure> {
    cx.service.state().friend_named(name).ok_or_else(|| no_friend(name))
}

/// Changes what is set for a friend; the answer is the friend as `show` gives it.
async fn set(
    api: &Api,
    name: String,
    change: impl FnOnce(&mut Settings) -> Result<(), Failure> + Send + 'static,
) -> Answer {
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
                let record = cx.service.state().friends.get(&key).map(|f| f.record.clone());
                cx.core.add_friend(cx.now, record.ok_or_else(bug)?);
            }
            cx.core.set_friend_rates(cx.now, key, settings.up, settings.down);
            tell_trust_of(cx.now, cx.core, cx.service.state(), key);
            Ok((friend_json(cx, key).unwrap_or_default(), stored))
        })
        .await?;
    durable(stored).await?;
    Ok(Json(value))
}

#[derive(Deserialize)]
struct RenameRequest {
    new: String,
}

async fn rename(
    State(api): State<Api>,
    Path(name): Path<String>,
    Json(request): Json<RenameRequest>,
) -> Answer {
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
            Ok((friend_json(cx, key).unwrap_or_default(), stored))
        })
        .await?;
    durable(stored).await?;
    Ok(Json(value))
}

#[derive(Deserialize)]
struct TrustRequest {
    trust: String,
}

async fn trust(
    State(api): State<Api>,
    Path(name): Path<String>,
    Json(request): Json<TrustRequest>,
) -> Answer {
    let trust = Trust::from_name(&request.trust)
        .ok_or_else(|| Failure::new(Exit::Usage, "trust is close, normal or low"))?;
    set(&api, name, move |settings| {
        settings.trust = trust;
        Ok(())
    })
    .await
}

#[derive(Deserialize)]
struct LimitRequest {
    up: Option<String>,
    down: Option<String>,
}

async fn limit(
    State(api): State<Api>,
    Path(name): Path<String>,
    Json(request): Json<LimitRequest>,
) -> Answer {
    let read = |text: Option<String>| text.map(|t| crate::limits::rate(&t)).transpose();
    let (up, down) = (read(request.up)?, read(request.down)?);
    set(&api, name, move |settings| {
        settings.up = up.unwrap_or(settings.up);
        settings.down = down.unwrap_or(settings.down);
        Ok(())
    })
    .await
}

async fn block(State(api): State<Api>, Path(name): Path<String>) -> Answer {
    set(&api, name, |settings| {
        settings.blocked = true;
        Ok(())
    })
    .await
}

async fn unblock(State(api): State<Api>, Path(name): Path<String>) -> Answer {
    set(&api, name, |settings| {
        settings.blocked = false;
        Ok(())
    })
    .await
}

async fn ping(State(api): State<Api>, Path(name): Path<String>) -> Answer {
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
        Ok(Ok(took)) => Ok(Json(json!({"name": shown, "ms": took.as_secs_f64() * 1000.0}))),
        _ => {
            let seconds = PING_WAIT.as_secs();
            let what = format!("no answer from {shown} within {seconds} s: try again, or see `kith doctor`");
            Err(Failure::new(Exit::TimedOut, what).into())
        }
    }
}

#[derive(Deserialize)]
struct VerifyRequest {
    fingerprint: Option<String>,
    #[serde(default)]
    restored: bool,
    #[serde(default)]
    undo: bool,
}

/// Fingerprints are compared by people: case, spaces and hyphens do not count.
fn same_fingerprint(a: &str, b: &str) -> bool {
    let plain = |text: &str| -> String {
        text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_uppercase()).collect()
    };
    plain(a) == plain(b)
}

async fn verify(
    State(api): State<Api>,
    Path(name): Path<String>,
    Json(request): Json<VerifyRequest>,
) -> Answer {
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
            let value = json!({
                "name": name,
                "fingerprint": theirs,
                "words": words,
                "own_fingerprint": cx.core.me().fingerprint(),
                "own_words": cx.core.me().fingerprint_words().join(" "),
                "verified": verified,
            });
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
