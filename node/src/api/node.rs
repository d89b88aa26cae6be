//! The node itself.

use super::*;
use crate::{doctor, privacy};
use kith_crypto::cert::Address;
use kith_crypto::rng::Rng;
use kith_onion::ratchet::OutOfStep;
use kith_onion::{NoOnion, Privacy};

/// The requests.
pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/api/status", get(status))
        .route("/api/paths", get(paths))
        .route("/api/stop", post(stop))
        .route("/api/id", get(id))
        .route("/api/id/rotate", post(rotate))
        .route("/api/store", get(store_stats))
        .route("/api/doctor", get(doctor))
}

async fn status(State(api): State<Api>) -> Answer {
    let facts = api.facts.clone();
    let mut value = api
        .call(move |cx| {
            let state = cx.service.state();
            let online = state.friends.keys().filter(|k| cx.core.is_online(**k)).count();
            let next = cx.core.next_relayed_pull(cx.now).map(|d| d.as_secs());
            Ok(json!({
                "name": state.me.as_ref().map(|m| m.name.clone()),
                "friends": {"online": online, "total": state.friends.len(), "pending": state.taken.len()},
                "entries": cx.core.entry_count(),
                "videos": state.publications.len(),
                "fetches": cx.service.fetch_count(),
                "next_batch_s": next,
                "read_only": cx.service.read_only(),
                "disk_full": disk_full(cx),
                "evicted": cx.service.store().usage().evicted,
                "damaged": store::damaged_json(cx.service.heal.count()),
                "clock_skew_s": cx.service.clock_warning().map(|ms| ms / 1000),
                "privacy": privacy::mode_name(cx.core.privacy()),
                "privacy_in_effect": privacy::mode_name(cx.core.privacy()),
                "circuits": privacy::summary_json(cx),
            }))
        })
        .await?;
    if let (Some(value), Some(ready)) = (value.as_object_mut(), facts.ready.as_object()) {
        ready.iter().for_each(|(k, v)| {
            value.insert(k.clone(), v.clone());
        });
        value.insert("uptime_s".into(), json!(facts.started.elapsed().as_secs()));
        value.insert("reach_note".into(), json!(facts.reach_note));
    }
    Ok(Json(value))
}

/// Less free space than this counts as a full disk: not much more than a few blocks fit.
const NEXT_TO_NOTHING: u64 = 1 << 20;

/// What is said of a full disk, whether or not something waits for room.
fn disk_full(cx: &Context<'_>) -> Option<String> {
    let free = cx.service.store().free_bytes();
    cx.service.full().map(str::to_owned).or_else(|| {
        (free < NEXT_TO_NOTHING).then(|| {
            format!(
                "the disk is full: {} free; make room on it, for example by `kith store gc`",
                crate::terminal::human_bytes(free)
            )
        })
    })
}

async fn paths(State(api): State<Api>) -> Answer {
    Ok(Json(api.facts.paths.clone()))
}

async fn stop(State(api): State<Api>) -> Answer {
    let (sender, _) = oneshot::channel();
    let pid = std::process::id();
    api.stop
        .send(sender)
        .await
        .map_err(|_| Failure::new(Exit::NotRunning, "the node is stopping already"))?;
    Ok(Json(json!({"stopping": true, "pid": pid})))
}

async fn id(State(api): State<Api>) -> Answer {
    let value = api.call(|cx| own_id(cx.service.state(), cx.core)).await?;
    Ok(Json(value))
}

fn own_id(state: &crate::records::State, core: &Core) -> Result<Value, Failure> {
    let cert =
        core.certificate().ok_or_else(|| Failure::new(Exit::Failure, "the certificate is not made yet"))?;
    Ok(json!({
        "name": state.me.as_ref().map(|m| m.name.clone()),
        "fingerprint": core.me().fingerprint(),
        "words": core.me().fingerprint_words().join(" "),
        "keys": {
            "rotated": state.me.as_ref().map(|m| m.rotated_s).filter(|at| *at > 0),
            "friends_with_old": core.friends_with_old_keys(),
        },
        "certificate": cert.to_text(),
        "addresses": cert.addrs.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "expires": cert.expires,
    }))
}

/// Between two rotations: certificates are ordered by the second.
const ROTATE_EVERY_S: u64 = 60;

/// New link keys: stored first, then used, then shown to friends.
async fn rotate(State(api): State<Api>) -> Answer {
    let (identity, stored) = api
        .call(|cx| {
            cx.check_writable()?;
            let now_s = unix_s(cx.now);
            let state = cx.service.state();
            let me = state.me.as_ref().ok_or_else(bug)?;
            if me.rotated_s.saturating_add(ROTATE_EVERY_S) > now_s {
                return Err(Failure::new(Exit::Refused, "the link keys are new already: wait a minute"));
            }
            let mut seed = [0; 32];
            getrandom::fill(&mut seed)
                .map_err(|_| Failure::new(Exit::Failure, "the system gives no randomness"))?;
            let identity = me.identity().rotated(&mut Rng::from_seed(seed));
            let [_, noise, pair] = identity.secrets().map(Key::new);
            // Open invites name the old keys: they end.
            let mut records: Vec<Record> = state.given.keys().map(|id| Record::InviteDone(*id)).collect();
            let number = me.own_keys.saturating_add(1);
            records.push(Record::Rotated(number, noise, pair, now_s));
            Ok(((number, identity), cx.store(records)))
        })
        .await?;
    let work = api.clone();
    let waits = match stored.await {
        Ok(Ok(())) => None,
        // The keys are used once they are written, not before.
        Ok(Err(Unstored::Waits { done, .. })) => Some(done),
        Ok(Err(Unstored::Never(why))) => return Err(why.into()),
        Err(_) => return Err(Failure::new(Exit::NotRunning, "the node is stopping").into()),
    };
    let later = waits.is_some();
    let value = api.begin("rotation", async move {
        if let Some(done) = waits {
            done.await.map_err(|_| Failure::new(Exit::NotRunning, "the node is stopping"))?;
        }
        let (number, identity) = identity;
        work.call(move |cx| {
            cx.core.rotate(cx.now, number, identity);
            let addrs = cx.core.certificate().map(|c| c.addrs.clone()).unwrap_or_default();
            let me = cx.service.state().me.as_ref().ok_or_else(bug)?;
            let cert = crate::up::own_certificate(me, &addrs, cx.now)?;
            cx.core.set_certificate(cx.now, cert);
            own_id(cx.service.state(), cx.core)
        })
        .await
    });
    if later {
        let what = "the disk is full: the new keys are written and used once there is room on it";
        return Err(Failure::new(Exit::Full, what).into());
    }
    Ok(Json(value.await?))
}

async fn store_stats(State(api): State<Api>) -> Answer {
    let store = api.store.clone();
    let stats = tokio::task::spawn_blocking(move || store.stats())
        .await
        .map_err(|_| Failure::new(Exit::Failure, "the store did not answer"))?;
    let (full, why, checks) = api
        .call(|cx| Ok((disk_full(cx), cx.service.read_only().map(str::to_owned), store::checks_json(cx))))
        .await?;
    let (limits, usage) = (api.store.limits(), api.store.usage());
    Ok(Json(json!({
        "objects": stats.objects,
        "pack_bytes": stats.pack_bytes,
        "journal_bytes": stats.journal_bytes,
        "view_bytes": stats.view_bytes,
        "index_bytes": stats.index_bytes,
        "free_bytes": stats.free_bytes,
        "quota_bytes": limits.quota,
        "keep_free_bytes": limits.keep_free,
        "used_bytes": super::quota::used_json(&usage),
        "classes": super::quota::objects_json(&usage),
        "evicted": usage.evicted,
        "disk_full": full,
        "read_only": why.is_some(),
        "read_only_reason": why,
        "damaged": checks["damaged"],
        "scrub": checks["scrub"],
    })))
}

/// What the node knows for `kith doctor`.
async fn doctor(State(api): State<Api>) -> Answer {
    let facts = api.facts.clone();
    let node = api
        .call(move |cx| {
            let friends = doctor_friends(cx);
            let listen = facts.ready["listen"].as_array().into_iter().flatten();
            Ok(doctor::Node {
                read_only: cx.service.read_only().map(str::to_owned),
                disk_full: disk_full(cx),
                damaged: store::damaged_texts(cx),
                journal_damaged: cx.service.is_damaged(),
                clock_skew_s: cx.service.clock_warning().map(|ms| ms / 1000),
                listen: listen.filter_map(Value::as_str).map(str::to_owned).collect(),
                advertised: addresses(cx.core.certificate().map_or(&[], |c| &c.addrs)),
                circuits: doctor_circuits(cx),
                friends,
            })
        })
        .await?;
    Ok(Json(serde_json::to_value(node).map_err(|_| bug())?))
}

/// What matters of circuits. In `fast` nothing waits for them.
fn doctor_circuits(cx: &Context<'_>) -> Option<doctor::Circuits> {
    let mode = cx.core.privacy();
    let wanted = mode != Privacy::Fast && !cx.service.state().friends.is_empty();
    wanted.then(|| doctor::Circuits {
        strict: mode == Privacy::Strict,
        relays: cx.core.circuit_settings().relays,
        too_few_relays: cx.core.circuit_report(cx.now).lacks == Some(NoOnion::TooFewRelays),
        guard_away_s: cx.service.guard_away(cx.now).map(|away| away.as_secs()),
    })
}

fn addresses(list: &[Address]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn doctor_friends(cx: &Context<'_>) -> Vec<doctor::Friend> {
    let state = cx.service.state();
    let friends = state.friends.iter().map(|(key, friend)| {
        let reach = cx.core.reach(cx.now, *key);
        let out_of_step = reach.as_ref().and_then(|r| r.out_of_step).map(|side| match side {
            OutOfStep::TheyAreBehind => doctor::OutOfStep::Theirs,
            OutOfStep::WeAreBehind => doctor::OutOfStep::Ours,
        });
        doctor::Friend {
            name: friend.name.clone(),
            online: cx.core.is_online(*key),
            blocked: state.settings_of(*key).blocked,
            invite_expires: None,
            met: state.met.get(key).copied(),
            addresses: addresses(&friend.record.addrs),
            last_dial: cx.service.last_dial(*key).cloned(),
            out_of_step,
            restored: state.restored.contains_key(key),
            other_version: reach.and_then(|r| r.other_version),
            // Comparing fingerprints settles it.
            invite_reused: friend.verified_s.is_none() && cx.service.invite_reused(*key),
        }
    });
    let invites = state.taken.values().map(|invite| doctor::Friend {
        name: invite.inviter.name.clone(),
        invite_expires: Some(u64::from(invite.expires)),
        addresses: addresses(&invite.inviter.addrs),
        last_dial: cx.service.last_dial(FriendKey(invite.inviter.keys.sign)).cloned(),
        ..doctor::Friend::default()
    });
    let mut all: Vec<doctor::Friend> = friends.chain(invites).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}
