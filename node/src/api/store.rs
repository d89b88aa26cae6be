//! Checking what is stored, and making the index anew.

use super::fetch::{PROGRESS_EVERY, line};
use super::*;
use crate::check::{Check, Report};
use crate::heal::Damaged;
use kith_store::{Finding, Outcome, Scope};

/// The requests.
pub(super) fn routes() -> Router<Api> {
    Router::new().route("/api/store/verify", post(verify)).route("/api/store/reindex", post(reindex))
}

#[derive(OpenApi)]
#[openapi(paths(verify, reindex))]
pub(super) struct Docs;

/// What is to be checked.
#[derive(Deserialize, ToSchema)]
struct VerifyRequest {
    /// One video alone.
    id: Option<String>,
    /// Mend, and fetch damaged blocks again.
    heal: bool,
    /// Go on without records that the journal lost before the start.
    #[serde(default)]
    accept_loss: bool,
}

/// What is damaged here.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct DamageCount {
    pub(crate) objects: u64,
    pub(crate) blocks: u64,
}

impl From<(u64, u64)> for DamageCount {
    fn from((objects, blocks): (u64, u64)) -> Self {
        Self { objects, blocks }
    }
}

/// The round of checks over everything stored.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct ScrubView {
    /// Unix seconds.
    pub(crate) started: Option<u64>,
    pub(crate) ended: Option<u64>,
    /// In the last whole round.
    pub(crate) found: u32,
    pub(crate) running: bool,
}

/// Nobody reads the answer any more.
fn left() -> Failure {
    Failure::new(Exit::Interrupted, "nobody waits for it any more")
}

async fn say(to: &mpsc::Sender<Bytes>, value: &Value) -> Result<(), Failure> {
    to.send(line(value)).await.map_err(|_| left())
}

/// Runs `work` as a task of its own; the answer is a line of JSON for each step, the last says how it
/// ended. The work ends when nobody reads the lines any more.
fn stream<W: Future<Output = Result<Value, Failure>> + Send + 'static>(
    api: &Api,
    name: &'static str,
    work: impl FnOnce(mpsc::Sender<Bytes>) -> W,
) -> Response {
    let (sender, body) = ChannelBody::new(None);
    let work = work(sender.clone());
    api.tasks.spawn(name, async move {
        let last = match work.await {
            Ok(value) => value,
            Err(failure) => json!({"event": "error", "error": error_json(&failure)}),
        };
        let _ = sender.send(line(&last)).await;
    });
    ([("content-type", "application/x-ndjson")], Body::new(body)).into_response()
}

/// Reads and checks everything stored.
#[utoipa::path(post, path = "/api/store/verify", tag = "store", security(("token" = ["admin"])),
    request_body = VerifyRequest,
    responses((status = 200, description = "lines of JSON: `finding`, `progress`, `healing`, then `done` or `error`", content_type = "application/x-ndjson")))]
async fn verify(State(api): State<Api>, Json(request): Json<VerifyRequest>) -> Result<Response, ApiError> {
    let VerifyRequest { id, heal, accept_loss } = request;
    if accept_loss && (!heal || id.is_some()) {
        let what = "to go on without lost records everything is checked and mended: ask for no less with it";
        return Err(Failure::new(Exit::Usage, what).into());
    }
    let (only, permit) = api
        .call(move |cx| {
            let only = id.map(|id| cx.service.resolve(cx.core, &id)).transpose()?.map(|(root, _)| root);
            if let Some(root) = only
                && cx.service.store().object(&root).is_none()
            {
                return Err(Failure::new(Exit::NotFound, "nothing of this video is stored here"));
            }
            let busy = || Failure::new(Exit::Failure, "a check is under way already: wait for it");
            let permit = cx.service.permit_check().ok_or_else(busy)?;
            if accept_loss {
                cx.service.accept_loss();
            }
            Ok((only, permit))
        })
        .await?;
    let copy = api.clone();
    Ok(stream(&api, "store check", move |to| async move {
        let _permit = permit;
        let started = Instant::now();
        if accept_loss {
            let written = copy.call(|cx| Ok(cx.service.rewrite_journal())).await?;
            let stopping = || Failure::new(Exit::NotRunning, "the node is stopping");
            let written = written.await.map_err(|_| stopping())?;
            written.map_err(|why| Failure::new(Exit::Failure, why))?;
        }
        let scope = Scope { only, ..Scope::default() };
        let check = Check::begin(copy.store.clone(), copy.commands.clone(), scope, heal).await?;
        let report = run(&copy, check, only.is_none(), heal, &to).await?;
        copy.call(move |cx| Ok(report_json(cx, &report, heal, started.elapsed()))).await
    }))
}

/// Checks everything and waits for what is fetched again, telling how it goes.
async fn run(
    api: &Api,
    mut check: Check,
    with_views: bool,
    heal: bool,
    to: &mpsc::Sender<Bytes>,
) -> Result<Report, Failure> {
    let mut told = None::<Instant>;
    while let Some(checked) = check.step().await? {
        for finding in &checked.findings {
            let finding = finding.clone();
            let value = api.call(move |cx| Ok(finding_json(cx, &finding, heal))).await?;
            say(to, &json!({"event": "finding", "finding": value})).await?;
        }
        if told.is_none_or(|at| at.elapsed() >= PROGRESS_EVERY) {
            told = Some(Instant::now());
            say(to, &progress(&check.report)).await?;
        } else if to.is_closed() {
            return Err(left());
        }
    }
    if with_views {
        check.views().await?;
    }
    if heal {
        healed(api, &check.report, to).await?;
    }
    Ok(check.report)
}

fn progress(report: &Report) -> Value {
    json!({
        "event": "progress",
        "have_bytes": report.bytes,
        "total_bytes": report.total_bytes,
        "objects": report.objects,
        "total_objects": report.object_count,
        "found": report.found,
    })
}

/// Waits until each damaged object is whole again or was tried in vain.
async fn healed(api: &Api, report: &Report, to: &mpsc::Sender<Bytes>) -> Result<(), Failure> {
    let roots: Vec<Root> =
        report.findings.iter().filter(|f| f.outcome == Outcome::Fetch).filter_map(|f| f.object).collect();
    if roots.is_empty() {
        return Ok(());
    }
    let mut over = api.call(move |cx| Ok(cx.service.heal.retry(cx.now, &roots))).await?;
    loop {
        let (objects, blocks) = api.call(|cx| Ok(cx.service.heal.count())).await?;
        say(to, &json!({"event": "healing", "objects": objects, "blocks": blocks})).await?;
        tokio::select! {
            _ = &mut over => return Ok(()),
            () = to.closed() => return Err(left()),
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

/// A video's title, if it is known here.
pub fn title_of(cx: &Context<'_>, root: &Root) -> Option<String> {
    let own = cx.service.state().publications.get(root).map(|p| p.title.clone());
    own.or_else(|| cx.core.listing(root).map(|listing| listing.entry.title))
}

/// What became of a finding by now.
fn state_of(cx: &Context<'_>, finding: &Finding, heal: bool) -> &'static str {
    let object = finding.object.and_then(|root| cx.service.store().object(&root));
    let damaged = finding.object.is_some_and(|root| cx.service.heal.blocks_of(&root) > 0);
    match finding.outcome {
        Outcome::Mended => "mended",
        Outcome::Fetch if damaged || !heal => "damaged",
        Outcome::Fetch => match object {
            Some(object) if object.complete => {
                let pack = cx.service.store().pack(&object.root);
                let whole = pack.is_ok_and(|pack| pack.is_complete());
                if whole { "fetched again" } else { "damaged" }
            }
            // It was never whole: `get` brings them with the others.
            Some(_) => "incomplete",
            None => "gone",
        },
        Outcome::Lost => "lost",
        Outcome::Foreign => "foreign",
        _ => "left",
    }
}

fn finding_json(cx: &Context<'_>, finding: &Finding, heal: bool) -> Value {
    json!({
        "file": finding.file.as_str(),
        "path": finding.path.display().to_string(),
        "id": finding.object.map(|root| root.to_hex()),
        "title": finding.object.and_then(|root| title_of(cx, &root)),
        "what": finding.what,
        "blocks": finding.blocks,
        "state": state_of(cx, finding, heal),
    })
}

fn report_json(cx: &Context<'_>, report: &Report, heal: bool, took: Duration) -> Value {
    let findings: Vec<Value> = report.findings.iter().map(|f| finding_json(cx, f, heal)).collect();
    let is_bad = |f: &Finding| matches!(state_of(cx, f, heal), "damaged" | "lost" | "left");
    // What is told without being listed is not known to be mended.
    let whole = report.found == report.findings.len() as u64 && !report.findings.iter().any(is_bad);
    json!({
        "event": "done",
        "objects": report.objects,
        "bytes": report.bytes,
        "seconds": took.as_secs_f64(),
        "found": report.found,
        "findings": findings,
        "damaged": DamageCount::from(cx.service.heal.count()),
        "whole": whole,
    })
}

/// What `store stats` says of checks.
pub(super) fn scrub_view(cx: &Context<'_>) -> ScrubView {
    let scrub = cx.service.state().scrub;
    let at = |s: u64| (s > 0).then_some(s);
    let is_over = scrub.ended_s > scrub.started_s || scrub.started_s == 0;
    ScrubView {
        started: at(scrub.started_s),
        ended: at(scrub.ended_s),
        found: if is_over { scrub.found_before } else { scrub.found },
        running: scrub.started_s > scrub.ended_s,
    }
}

/// A sentence about each damaged video.
pub(super) fn damaged_texts(cx: &Context<'_>) -> Vec<String> {
    cx.service.heal.list().iter().map(|damaged| damaged_text(cx, damaged)).collect()
}

fn damaged_text(cx: &Context<'_>, damaged: &Damaged) -> String {
    let id: String = damaged.root.to_hex().chars().take(16).collect();
    let title = title_of(cx, &damaged.root).map_or_else(String::new, |title| format!(" ({title})"));
    let blocks = match damaged.blocks {
        1 => "1 block".to_owned(),
        n => format!("{n} blocks"),
    };
    let hope = match (damaged.fetching, &damaged.why) {
        (true, _) | (_, None) => "being fetched again".to_owned(),
        (false, Some(why)) if why.exit == Exit::Unreachable => {
            "no friend who has it is on line; tried again when one is".to_owned()
        }
        (false, Some(why)) => format!("not fetched again ({}); tried again later", why.what),
    };
    let verb = if damaged.blocks == 1 { "is" } else { "are" };
    format!("{blocks} of {id}{title} {verb} damaged here: {hope}")
}

/// Makes the index anew while the node runs.
#[utoipa::path(post, path = "/api/store/reindex", tag = "store", security(("token" = ["admin"])),
    responses((status = 200, description = "lines of JSON: `progress`, then `done` or `error`", content_type = "application/x-ndjson")))]
async fn reindex(State(api): State<Api>) -> Response {
    let copy = api.clone();
    stream(&api, "reindex", move |to| async move {
        let started = Instant::now();
        let (told, mut progress) = tokio::sync::watch::channel((0, 0));
        let store = copy.store.clone();
        let mut work = tokio::task::spawn_blocking(move || {
            store.reindex(&|done, total| {
                told.send_replace((done, total));
            })
        });
        let objects = loop {
            tokio::select! {
                done = &mut work => break done.map_err(|_| bug())?.map_err(Failure::from)?,
                () = tokio::time::sleep(PROGRESS_EVERY) => {
                    let (done, total) = *progress.borrow_and_update();
                    let _ = say(&to, &json!({"event": "progress", "objects": done, "total_objects": total})).await;
                }
            }
        };
        let seconds = started.elapsed().as_secs_f64();
        let rate = objects as f64 / seconds.max(1e-9);
        Ok(
            json!({"event": "done", "objects": objects, "seconds": seconds, "objects_per_second": rate.round()}),
        )
    })
}
