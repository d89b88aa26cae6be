//! Watched folders: what is put there is published, for whom the folder says.
//!
//! Folders are looked at every few seconds. A file is taken when it did not change between two looks, once for its path,
//! length and time; what changed is published anew, and what is deleted stays published.

use super::videos::{begin_publication, check_publication, mark_of};
use super::*;
use crate::films;
use crate::publish::SourceId;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Mutex;

/// The requests.
pub(super) fn routes() -> Router<Api> {
    Router::new().route("/api/folders", get(folders).post(add).delete(remove))
}

#[derive(OpenApi)]
#[openapi(paths(folders, add, remove))]
pub(super) struct Docs;

/// How often folders are looked at.
const EVERY: Duration = Duration::from_secs(4);
/// Folders at most.
const MAX_FOLDERS: usize = 64;
/// Problems that are told of at most.
const MAX_PROBLEMS: usize = 1000;

/// What was found at the last look.
#[derive(Clone, Default)]
pub struct Watched(Arc<Mutex<BTreeMap<String, Found>>>);

#[derive(Clone, Default)]
struct Found {
    videos: usize,
    waiting: usize,
    problem: Option<String>,
    /// Files that could not be published, as they were then.
    problems: BTreeMap<PathBuf, (SourceId, String)>,
}

impl Watched {
    fn with<T>(&self, work: impl FnOnce(&mut BTreeMap<String, Found>) -> T) -> T {
        // Nothing here panics while it holds the lock.
        work(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

/// A watched folder.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct FolderView {
    pub(crate) path: String,
    /// For whom.
    pub(crate) to: String,
    /// Videos that are there.
    pub(crate) videos: usize,
    /// Of those, not published yet.
    pub(crate) waiting: usize,
    /// Why the folder cannot be read.
    pub(crate) problem: Option<String>,
    /// Files that cannot be published, and why.
    pub(crate) problems: BTreeMap<String, String>,
}

impl Api {
    /// Watched folders.
    pub(crate) async fn folder_list(&self) -> Result<Vec<FolderView>, Failure> {
        let folders = self.call(|cx| Ok(cx.service.state().folders.clone())).await?;
        let found = self.watched.with(|all| all.clone());
        let view = |(path, to): (String, String)| {
            let Found { videos, waiting, problem, problems } = found.get(&path).cloned().unwrap_or_default();
            let problems =
                problems.into_iter().map(|(file, (_, why))| (file.display().to_string(), why)).collect();
            FolderView { path, to, videos, waiting, problem, problems }
        };
        Ok(folders.into_iter().map(view).collect())
    }
}

/// Watched folders.
#[utoipa::path(get, path = "/api/folders", tag = "videos", security(("token" = ["admin"])),
    responses((status = 200, body = Vec<FolderView>, description = "each with what was found last")))]
async fn folders(State(api): State<Api>) -> Answer<Vec<FolderView>> {
    Ok(Json(api.folder_list().await?))
}

/// A folder to watch.
#[derive(Deserialize, ToSchema)]
struct FolderRequest {
    /// Its whole path.
    path: String,
    /// For whom; without, only to remove it.
    #[serde(default)]
    to: String,
}

/// What was agreed to.
#[derive(Serialize, ToSchema)]
struct FolderChanged {
    path: String,
    to: Option<String>,
}

/// Watches a folder: its videos are published for these people from now on.
#[utoipa::path(post, path = "/api/folders", tag = "videos", security(("token" = ["admin"])),
    request_body = FolderRequest,
    responses((status = 200, body = FolderChanged, description = "it is watched")))]
async fn add(State(api): State<Api>, Json(request): Json<FolderRequest>) -> Answer<FolderChanged> {
    let path = PathBuf::from(&request.path);
    if !path.is_absolute() {
        return Err(Failure::new(Exit::Usage, "a folder is named by its whole path").into());
    }
    // The node must be able to read it, whoever asks.
    let read =
        tokio::task::spawn_blocking(move || std::fs::read_dir(path).map(drop)).await.map_err(|_| bug())?;
    read.map_err(|e| Failure::from(e).context(format!("the node cannot read {}", request.path)))?;
    let stored = api
        .call(move |cx| {
            cx.check_writable()?;
            super::videos::audience_of(cx.service.state(), &request.to)?;
            if cx.service.state().folders.len() >= MAX_FOLDERS {
                return Err(Failure::new(Exit::Full, format!("{MAX_FOLDERS} watched folders are the most")));
            }
            let stored = cx.store(vec![Record::Folder(request.path.clone(), request.to.clone())]);
            Ok((FolderChanged { path: request.path, to: Some(request.to) }, stored))
        })
        .await?;
    let (changed, stored) = stored;
    durable(stored).await?;
    Ok(Json(changed))
}

/// Watches a folder no longer. What was published from it stays published.
#[utoipa::path(delete, path = "/api/folders", tag = "videos", security(("token" = ["admin"])),
    request_body = FolderRequest,
    responses((status = 200, body = FolderChanged, description = "it is not watched any more")))]
async fn remove(State(api): State<Api>, Json(request): Json<FolderRequest>) -> Answer<FolderChanged> {
    let (changed, stored) = api
        .call(move |cx| {
            cx.check_writable()?;
            if !cx.service.state().folders.contains_key(&request.path) {
                let what = format!("{} is not watched: see `kith folder list`", request.path);
                return Err(Failure::new(Exit::NotFound, what));
            }
            let stored = cx.store(vec![Record::Folder(request.path.clone(), String::new())]);
            Ok((FolderChanged { path: request.path, to: None }, stored))
        })
        .await?;
    durable(stored).await?;
    api.watched.with(|all| all.remove(&changed.path));
    Ok(Json(changed))
}

/// Looks at watched folders for ever.
pub async fn run(api: Api) {
    // Files as they were at the last look.
    let mut seen: HashMap<PathBuf, SourceId> = HashMap::new();
    let mut took = Duration::ZERO;
    loop {
        // Large folders are looked at less often: looking takes a fiftieth of the time at most.
        tokio::time::sleep(EVERY.max(took * 50)).await;
        let Ok(folders) = api.call(|cx| Ok(cx.service.state().folders.clone())).await else { return };
        let mut now_seen = HashMap::new();
        took = Duration::ZERO;
        for (path, to) in folders {
            took += look(&api, &path, &to, &seen, &mut now_seen).await;
        }
        seen = now_seen;
    }
}

/// One look at one folder; how long it took to find what is there.
async fn look(
    api: &Api,
    folder: &str,
    to: &str,
    seen: &HashMap<PathBuf, SourceId>,
    now_seen: &mut HashMap<PathBuf, SourceId>,
) -> Duration {
    let begun = std::time::Instant::now();
    let path = PathBuf::from(folder);
    let files = tokio::task::spawn_blocking(move || {
        let mut files = Vec::new();
        films::walk(&path, &mut files)?;
        Ok::<_, Failure>(
            files
                .into_iter()
                .filter_map(|file| Some((films::source_of(&file).ok()?, file)))
                .collect::<Vec<_>>(),
        )
    });
    let files = files.await;
    let took = begun.elapsed();
    let files = match files {
        Ok(Ok(files)) => files,
        Ok(Err(failure)) => {
            api.watched.with(|all| all.entry(folder.to_owned()).or_default().problem = Some(failure.what));
            return took;
        }
        Err(_) => return took,
    };
    let (asked, wanted) = (files.clone(), to.to_owned());
    let waiting = api.call(move |cx| {
        let state = cx.service.state();
        let is_out = |source: &SourceId| {
            mark_of(state, source, &wanted).is_some_and(|mark| state.sources.contains_key(&mark))
        };
        Ok(asked.into_iter().filter(|(source, _)| !is_out(source)).collect::<Vec<_>>())
    });
    let waiting = waiting.await.unwrap_or_default();
    now_seen.extend(files.iter().map(|(source, file)| (file.clone(), source.clone())));
    api.watched.with(|all| {
        let found = all.entry(folder.to_owned()).or_default();
        (found.videos, found.waiting, found.problem) = (files.len(), waiting.len(), None);
        found.problems.retain(|file, (was, _)| waiting.iter().any(|(source, f)| f == file && source == was));
    });
    for (source, file) in waiting {
        let failed =
            api.watched.with(|all| all.get(folder).is_some_and(|found| found.problems.contains_key(&file)));
        // What still changes is not finished.
        if failed || seen.get(&file) != Some(&source) {
            continue;
        }
        let result = publish_file(api, &file, source.clone(), to).await;
        api.watched.with(|all| {
            let found = all.entry(folder.to_owned()).or_default();
            match result {
                Ok(()) => found.waiting = found.waiting.saturating_sub(1),
                Err(failure) if found.problems.len() < MAX_PROBLEMS => {
                    found.problems.insert(file, (source, failure.what));
                }
                Err(_) => {}
            }
        });
    }
    took
}

async fn publish_file(api: &Api, file: &std::path::Path, source: SourceId, to: &str) -> Result<(), Failure> {
    let path = file.to_owned();
    let nothing = films::Wishes { convert: false, poster: false, storyboard: false };
    let looked = tokio::task::spawn_blocking(move || {
        let extras = films::beside(&path)?;
        Ok::<_, Failure>((films::look(&path, false, false, nothing)?, extras))
    });
    let (looked, extras) = looked.await.map_err(|_| bug())??;
    let meta = Meta {
        title: films::title_of(file),
        to: to.to_owned(),
        film: looked.film.clone(),
        extras: extras.iter().map(|(extra, _)| extra.clone()).collect(),
        source: Some(source),
        ..Meta::default()
    };
    let (meta, audience) = check_publication(api, meta, Some(looked.plan.size())).await?;
    let (chunks, mut read) = mpsc::channel::<Result<Bytes, Failure>>(4);
    let (to_node, incoming) = mpsc::channel(4);
    let published = begin_publication(api, meta, audience, incoming, Box::new(|_| Ok(())))?;
    let reading = tokio::task::spawn_blocking(move || {
        if let Err(failure) =
            films::send_extras(&extras, &chunks).and_then(|()| films::send_file(looked, &chunks))
        {
            let _ = chunks.blocking_send(Err(failure));
        }
    });
    let feeding = async move {
        while let Some(chunk) = read.recv().await {
            let failed = chunk.is_err();
            if to_node.send(chunk.map(Some)).await.is_err() || failed {
                return;
            }
        }
        let _ = to_node.send(Ok(None)).await;
    };
    let (published, ()) = tokio::join!(published, feeding);
    let _ = reading.await;
    published.map(drop)
}
