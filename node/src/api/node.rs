//! The node itself.

use super::*;
use crate::privacy::CircuitSummary;
use crate::{doctor, privacy};
use kith_crypto::cert::{Address, Certificate};
use kith_crypto::rng::Rng;
use kith_onion::ratchet::OutOfStep;
use kith_onion::{NoOnion, Privacy};
use std::collections::BTreeMap;

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

#[derive(OpenApi)]
#[openapi(paths(status, paths, stop, id, rotate, store_stats, doctor))]
pub(super) struct Docs;

/// How many friends there are.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct FriendCount {
    pub(crate) online: usize,
    pub(crate) total: usize,
    /// Invites that wait.
    pub(crate) pending: usize,
}

/// What the node is doing.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Status {
    pub(crate) name: Option<String>,
    pub(crate) friends: FriendCount,
    /// Entries that friends told of.
    pub(crate) entries: usize,
    /// Published here.
    pub(crate) videos: usize,
    pub(crate) fetches: usize,
    /// When friends' friends' entries come next.
    pub(crate) next_batch_s: Option<u64>,
    /// Why nothing is stored any more.
    pub(crate) read_only: Option<String>,
    pub(crate) disk_full: Option<String>,
    /// Videos that gave way to others since the start.
    pub(crate) evicted: u64,
    pub(crate) damaged: store::DamageCount,
    pub(crate) clock_skew_s: Option<i64>,
    pub(crate) privacy: &'static str,
    pub(crate) privacy_in_effect: &'static str,
    pub(crate) circuits: CircuitSummary,
    #[serde(flatten)]
    pub(crate) ready: Ready,
    pub(crate) uptime_s: u64,
    /// What an inviter must know.
    pub(crate) reach_note: Option<String>,
    pub(crate) tor: crate::transport::tor::View,
}

impl Api {
    /// What the node is doing.
    pub(crate) async fn status(&self) -> Result<Status, Failure> {
        let facts = self.facts.clone();
        self.call(move |cx| {
            let state = cx.service.state();
            let online = state.friends.keys().filter(|k| cx.core.is_online(**k)).count();
            let friends = FriendCount { online, total: state.friends.len(), pending: state.taken.len() };
            Ok(Status {
                name: state.me.as_ref().map(|m| m.name.clone()),
                friends,
                entries: cx.core.entry_count(),
                videos: state.publications.len(),
                fetches: cx.service.fetch_count(),
                next_batch_s: cx.core.next_relayed_pull(cx.now).map(|d| d.as_secs()),
                read_only: cx.service.read_only().map(str::to_owned),
                disk_full: disk_full(cx),
                evicted: cx.service.store().usage().evicted,
                damaged: cx.service.heal.count().into(),
                clock_skew_s: cx.service.clock_warning().map(|ms| ms / 1000),
                privacy: privacy::mode_name(cx.core.privacy()),
                privacy_in_effect: privacy::mode_name(cx.core.privacy()),
                circuits: privacy::circuit_summary(cx),
                ready: facts.ready.clone(),
                uptime_s: facts.started.elapsed().as_secs(),
                reach_note: facts.reach_note.clone(),
                tor: facts.tor.view(),
            })
        })
        .await
    }
}

/// What the node is doing.
#[utoipa::path(get, path = "/api/status", tag = "node", security(("token" = ["read"])),
    responses((status = 200, body = Status, description = "the state")))]
async fn status(State(api): State<Api>) -> Answer<Status> {
    Ok(Json(api.status().await?))
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

/// Where everything lies.
#[utoipa::path(get, path = "/api/paths", tag = "node", security(("token" = ["admin"])),
    responses((status = 200, body = BTreeMap<String, String>, description = "paths by what lies there")))]
async fn paths(State(api): State<Api>) -> Answer<Value> {
    Ok(Json(api.facts.paths.clone()))
}

/// The node is ending.
#[derive(Serialize, ToSchema)]
struct Stopping {
    stopping: bool,
    pid: u32,
}

/// Ends the node.
#[utoipa::path(post, path = "/api/stop", tag = "node", security(("token" = ["admin"])),
    responses((status = 200, body = Stopping, description = "it is ending")))]
async fn stop(State(api): State<Api>) -> Answer<Stopping> {
    let (sender, _) = oneshot::channel();
    let pid = std::process::id();
    api.stop
        .send(sender)
        .await
        .map_err(|_| Failure::new(Exit::NotRunning, "the node is stopping already"))?;
    Ok(Json(Stopping { stopping: true, pid }))
}

/// How the own link keys stand.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct OwnKeys {
    /// When they were drawn anew, in Unix seconds.
    pub(crate) rotated: Option<u64>,
    /// Friends who know older ones only.
    pub(crate) friends_with_old: usize,
}

/// Who this node is.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct OwnId {
    pub(crate) name: Option<String>,
    pub(crate) fingerprint: String,
    /// The same in twelve words.
    pub(crate) words: String,
    pub(crate) keys: OwnKeys,
    pub(crate) certificate: String,
    /// The same with the onion address alone; null: there is none.
    pub(crate) tor_certificate: Option<String>,
    pub(crate) addresses: Vec<String>,
    /// When the certificate expires, in Unix seconds.
    pub(crate) expires: u32,
}

impl Api {
    /// Who this node is.
    pub(crate) async fn own_id(&self) -> Result<OwnId, Failure> {
        self.call(|cx| own_id(cx.service.state(), cx.core)).await
    }
}

/// Who this node is.
#[utoipa::path(get, path = "/api/id", tag = "node", security(("token" = ["admin"])),
    responses((status = 200, body = OwnId, description = "certificate and fingerprint")))]
async fn id(State(api): State<Api>) -> Answer<OwnId> {
    Ok(Json(api.own_id().await?))
}

fn own_id(state: &crate::records::State, core: &Core) -> Result<OwnId, Failure> {
    let cert =
        core.certificate().ok_or_else(|| Failure::new(Exit::Failure, "the certificate is not made yet"))?;
    let rotated = state.me.as_ref().map(|m| m.rotated_s).filter(|at| *at > 0);
    Ok(OwnId {
        name: state.me.as_ref().map(|m| m.name.clone()),
        fingerprint: core.me().fingerprint(),
        words: core.me().fingerprint_words().join(" "),
        keys: OwnKeys { rotated, friends_with_old: core.friends_with_old_keys() },
        certificate: cert.to_text(),
        tor_certificate: core.hidden_certificate().filter(|c| !c.addrs.is_empty()).map(Certificate::to_text),
        addresses: addresses(&cert.addrs),
        expires: cert.expires,
    })
}

/// Between two rotations: certificates are ordered by the second.
const ROTATE_EVERY_S: u64 = 60;

/// New link keys: stored first, then used, then shown to friends.
#[utoipa::path(post, path = "/api/id/rotate", tag = "node", security(("token" = ["admin"])),
    responses((status = 200, body = OwnId, description = "certificate and fingerprint")))]
async fn rotate(State(api): State<Api>) -> Answer<OwnId> {
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
            crate::up::renew_certificates(cx, &addrs)?;
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

/// What is stored.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct StoreStats {
    pub(crate) objects: u64,
    pub(crate) pack_bytes: u64,
    pub(crate) journal_bytes: u64,
    pub(crate) view_bytes: u64,
    pub(crate) index_bytes: u64,
    pub(crate) free_bytes: u64,
    pub(crate) quota_bytes: u64,
    pub(crate) keep_free_bytes: u64,
    /// By class, with `publishing` and `total`.
    pub(crate) used_bytes: BTreeMap<&'static str, u64>,
    /// Objects by class.
    pub(crate) classes: BTreeMap<&'static str, u64>,
    pub(crate) evicted: u64,
    pub(crate) disk_full: Option<String>,
    pub(crate) read_only: bool,
    pub(crate) read_only_reason: Option<String>,
    pub(crate) damaged: store::DamageCount,
    pub(crate) scrub: store::ScrubView,
}

/// What is stored.
#[utoipa::path(get, path = "/api/store", tag = "store", security(("token" = ["read"])),
    responses((status = 200, body = StoreStats, description = "sizes and counts")))]
async fn store_stats(State(api): State<Api>) -> Answer<StoreStats> {
    Ok(Json(api.store_stats().await?))
}

impl Api {
    /// What is stored.
    pub(crate) async fn store_stats(&self) -> Result<StoreStats, Failure> {
        let api = self;
        let store = api.store.clone();
        let stats = tokio::task::spawn_blocking(move || store.stats())
            .await
            .map_err(|_| Failure::new(Exit::Failure, "the store did not answer"))?;
        let (full, why, checks) = api
            .call(|cx| {
                let checks = (cx.service.heal.count().into(), store::scrub_view(cx));
                Ok((disk_full(cx), cx.service.read_only().map(str::to_owned), checks))
            })
            .await?;
        let (damaged, scrub) = checks;
        let (limits, usage) = (api.store.limits(), api.store.usage());
        Ok(StoreStats {
            objects: stats.objects,
            pack_bytes: stats.pack_bytes,
            journal_bytes: stats.journal_bytes,
            view_bytes: stats.view_bytes,
            index_bytes: stats.index_bytes,
            free_bytes: stats.free_bytes,
            quota_bytes: limits.quota,
            keep_free_bytes: limits.keep_free,
            used_bytes: super::quota::used_by_class(&usage),
            classes: super::quota::by_class(usage.objects),
            evicted: usage.evicted,
            disk_full: full,
            read_only: why.is_some(),
            read_only_reason: why,
            damaged,
            scrub,
        })
    }
}

/// What the node knows for `kith doctor`.
#[utoipa::path(get, path = "/api/doctor", tag = "node", security(("token" = ["admin"])),
    responses((status = 200, body = doctor::Node, description = "facts")))]
async fn doctor(State(api): State<Api>) -> Answer<doctor::Node> {
    Ok(Json(api.doctor().await?))
}

impl Api {
    /// What the node knows for `kith doctor`.
    pub(crate) async fn doctor(&self) -> Result<doctor::Node, Failure> {
        let api = self;
        let facts = api.facts.clone();
        api.call(move |cx| {
            let friends = doctor_friends(cx);
            Ok(doctor::Node {
                read_only: cx.service.read_only().map(str::to_owned),
                disk_full: disk_full(cx),
                damaged: store::damaged_texts(cx),
                journal_damaged: cx.service.is_damaged(),
                clock_skew_s: cx.service.clock_warning().map(|ms| ms / 1000),
                listen: facts.ready.listen.clone(),
                tor: Some(facts.tor.view()),
                advertised: addresses(cx.core.certificate().map_or(&[], |c| &c.addrs)),
                circuits: doctor_circuits(cx),
                friends,
            })
        })
        .await
    }
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
