//! Invites and friends.

use super::*;

/// The requests.
pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/api/invites", post(invite))
        .route("/api/friends", get(friends).post(add_friend))
        .route("/api/friends/{name}", get(show_friend).delete(remove_friend))
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
    Waiting(InviteId, oneshot::Receiver<InviteOutcome>, oneshot::Receiver<Result<(), String>>),
}

async fn add_friend(State(api): State<Api>, Json(request): Json<AddRequest>) -> Answer {
    let refused = |what: String| Failure::new(Exit::Refused, what);
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
    let answer =
        |name: &str, state: &str| Ok(Json(json!({"name": name, "fingerprint": fingerprint, "state": state})));
    match outcome {
        Ok(Ok(InviteOutcome::Friends(friend))) => {
            let (name, up) = api
                .call(move |cx| {
                    let name = cx.service.state().friends.get(&friend).map(|f| f.name.clone());
                    Ok((name.unwrap_or_default(), cx.service.await_up(cx.core, friend)))
                })
                .await?;
            let online = tokio::time::timeout(Duration::from_secs(5), up).await;
            answer(&name, if matches!(online, Ok(Ok(()))) { "online" } else { "pending" })
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
        _ => answer(&name, "pending"),
    }
}

fn begin_adding(cx: &mut Context<'_>, invite: Invite, key: FriendKey) -> Result<Added, Failure> {
    let refused = |what: &str| Failure::new(Exit::Refused, what);
    if invite.inviter.keys == *cx.core.me() {
        return Err(refused("this is your own invite: give it to a friend, who adds you with it"));
    }
    let state = cx.service.state();
    if let Some(friend) = state.friends.get(&key) {
        let online = if cx.core.is_online(key) { "online" } else { "offline" };
        let fingerprint = friend.record.keys.fingerprint();
        let value =
            json!({"name": friend.name, "fingerprint": fingerprint, "state": online, "already": true});
        return Ok(Added::Already(value));
    }
    let now_s = unix_s(cx.now);
    if u64::from(invite.expires) <= now_s || u64::from(invite.inviter.expires) <= now_s {
        let ago = now_s.saturating_sub(u64::from(invite.expires.min(invite.inviter.expires)));
        let ago = crate::terminal::human_duration(Duration::from_secs(ago));
        return Err(Failure::new(Exit::Refused, format!("this invite expired {ago} ago: ask for a new one")));
    }
    let same = state.taken.iter().find(|(_, i)| i.encoded() == invite.encoded()).map(|(id, _)| *id);
    if let Some(id) = same {
        // Given again while it waits: tried at once.
        cx.core.take_invite(cx.now, id, invite);
        let (sender, stored) = oneshot::channel();
        let _ = sender.send(Ok(()));
        return Ok(Added::Waiting(id, cx.service.await_invite(id), stored));
    }
    let id = InviteId(cx.now.unix_ms ^ u64::from_le_bytes(first8(invite.secret.expose())));
    let stored = cx.store(vec![Record::Taken(id, invite.clone())]);
    let outcome = cx.service.await_invite(id);
    cx.core.take_invite(cx.now, id, invite);
    Ok(Added::Waiting(id, outcome, stored))
}

fn first8(bytes: &[u8; 32]) -> [u8; 8] {
    bytes.first_chunk::<8>().copied().unwrap_or_default()
}

fn friend_json(cx: &Context<'_>, key: FriendKey) -> Option<Value> {
    let friend = cx.service.state().friends.get(&key)?;
    let traffic = cx.service.traffic(cx.core, key);
    Some(json!({
        "name": friend.name,
        "fingerprint": friend.record.keys.fingerprint(),
        "state": if cx.core.is_online(key) { "online" } else { "offline" },
        "since": friend.since_s,
        "trust": "normal",
        "sent_bytes": traffic.sent,
        "received_bytes": traffic.received,
        "relayed_bytes": traffic.relayed,
    }))
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
                let noise = state.friends.get(&key).map(|f| f.record.keys.noise);
                // An invite that this friend completed must not let it in again.
                let theirs = state.given.values().filter(|i| i.bound.is_some() && i.bound == noise);
                let invites: Vec<InviteId> = theirs.map(|i| i.id).collect();
                cx.core.remove_friend(cx.now, key);
                invites.iter().for_each(|id| cx.core.withdraw_invite(*id));
                let mut records = vec![Record::FriendRemoved(key)];
                records.extend(invites.into_iter().map(Record::InviteDone));
                return Ok(cx.store(records));
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
