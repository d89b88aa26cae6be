//! Bundles: sealed here, because their key comes from the friendship; files are the command's.

use super::*;
use crate::backup;
use crate::bundle::{self, Imported, MAX_OBJECTS, Receiver, Sender};
use crate::frames::{Frame, FrameWriter};
use kith_crypto::content::{Geometry, Position, ReadCap, Tree, VerifyCap};
use kith_store::ObjectInfo;
use kith_store::archive::{SEALED_CHUNK_LEN, block_count};
use std::path::PathBuf;

/// The requests.
pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/api/bundles/export", post(export))
        .route("/api/bundles/file", post(file))
        .route("/api/bundles/import", post(import))
}

#[derive(OpenApi)]
#[openapi(paths(export, file, import))]
pub(super) struct Docs;

/// What goes to whom.
#[derive(Deserialize, ToSchema)]
struct Wish {
    /// A friend's name.
    to: String,
    ids: Vec<String>,
}

/// The secret of bundles between this node and a friend, in one direction.
fn secret(cx: &Context<'_>, friend: FriendKey, to_friend: bool) -> Option<Key> {
    let me = cx.core.me().sign;
    let root = &cx.service.state().friends.get(&friend)?.record.root;
    Some(if to_friend { root.bundle(&me, &friend.0) } else { root.bundle(&friend.0, &me) })
}

fn chosen(cx: &Context<'_>, ids: &[String]) -> Result<Vec<ObjectInfo>, Failure> {
    let mut objects: Vec<ObjectInfo> = Vec::new();
    for id in ids {
        let (root, _) = cx.service.resolve(cx.core, id)?;
        let object = cx.service.store().object(&root).ok_or_else(|| {
            Failure::new(Exit::NotFound, "nothing of this video is stored here: `kith get` it first")
        })?;
        if objects.iter().all(|known| known.root != root) {
            objects.push(object);
        }
    }
    Ok(objects)
}

/// Videos for a friend's stick, sealed for that friend.
#[utoipa::path(post, path = "/api/bundles/export", tag = "store", security(("token" = ["admin"])),
    request_body = Wish,
    responses((status = 200, description = "frames", content_type = "application/octet-stream")))]
async fn export(State(api): State<Api>, Json(wish): Json<Wish>) -> Result<Response, ApiError> {
    let (objects, secret, now_s) = wished(&api, wish).await?;
    let (sender, body) = ChannelBody::new(None);
    let store = api.store.clone();
    let writing = tokio::task::spawn_blocking(move || {
        let mut frames = FrameWriter::new(sender);
        let blocks: u64 = objects.iter().map(|object| block_count(&store, &object.root)).sum();
        let _ = frames.send(&Frame::Progress(json!({"total_bytes": blocks * SEALED_CHUNK_LEN as u64})));
        let copy = FrameWriter::new(frames.sender());
        let end = match bundle::export(&store, &objects, &secret, now_s, copy, &mut || {}) {
            Ok((_, counts)) => {
                let complete = objects.iter().filter(|object| object.complete).count();
                Frame::Done(json!({"objects": counts.objects, "blocks": counts.blocks, "complete": complete}))
            }
            Err(e) => Frame::Failed(error_json(&backup::failure(e, std::path::Path::new("the store")))),
        };
        let _ = frames.send(&end);
    });
    api.tasks.spawn("bundle", async move { drop(writing.await) });
    Ok(([("content-type", "application/octet-stream")], Body::new(body)).into_response())
}

/// The objects of a bundle, its secret, and now.
async fn wished(api: &Api, wish: Wish) -> Result<(Vec<ObjectInfo>, Key, u64), Failure> {
    if wish.ids.len() > MAX_OBJECTS {
        let what = format!("a bundle holds at most {MAX_OBJECTS} videos: make several");
        return Err(Failure::new(Exit::Usage, what));
    }
    api.call(move |cx| {
        let state = cx.service.state();
        let friend = state.friend_named(&wish.to).ok_or_else(|| no_friend(&wish.to))?;
        if state.settings_of(friend).blocked {
            let what = format!("{} is blocked by you: kith friend unblock", wish.to);
            return Err(Failure::new(Exit::Refused, what));
        }
        let secret = secret(cx, friend, true).ok_or_else(|| no_friend(&wish.to))?;
        Ok((chosen(cx, &wish.ids)?, secret, unix_s(cx.now)))
    })
    .await
}

/// The same as a file that a browser takes away.
#[utoipa::path(post, path = "/api/bundles/file", tag = "store", security(("token" = ["admin"])),
    request_body = Wish,
    responses((status = 200, description = "the bundle", content_type = "application/octet-stream")))]
async fn file(State(api): State<Api>, Json(wish): Json<Wish>) -> Result<Response, ApiError> {
    let (objects, secret, now_s) = wished(&api, wish).await?;
    if objects.is_empty() {
        return Err(Failure::new(Exit::Usage, "no video is chosen: choose one or more").into());
    }
    let store = api.store.clone();
    Ok(super::page::written(&api, "bundle file", "videos.kith", move |out| {
        bundle::export(&store, &objects, &secret, now_s, out, &mut || {})
            .map(|_| ())
            .map_err(std::io::Error::other)
    }))
}

/// One video of a bundle.
#[derive(Serialize, ToSchema)]
struct BundledVideo {
    id: String,
    blocks: u64,
    new: u64,
    missing: u64,
    /// False until it is in the catalogue here, or its link is used.
    readable: bool,
}

/// What a bundle brought.
#[derive(Serialize, ToSchema)]
struct ImportedView {
    from: String,
    objects: usize,
    complete: usize,
    new_blocks: u64,
    videos: Vec<BundledVideo>,
}

/// Takes in a bundle.
#[utoipa::path(post, path = "/api/bundles/import", tag = "store", security(("token" = ["admin"])),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = ImportedView, description = "what it brought")))]
async fn import(State(api): State<Api>, request: Request) -> Answer<ImportedView> {
    let senders = api
        .call(|cx| {
            cx.check_writable()?;
            let state = cx.service.state();
            let friends = state.friends.iter().filter_map(|(key, friend)| {
                let blocked = state.settings_of(*key).blocked;
                Some(Sender {
                    key: *key,
                    name: friend.name.clone(),
                    blocked,
                    secret: secret(cx, *key, false)?,
                })
            });
            Ok(friends.collect::<Vec<_>>())
        })
        .await?;
    let (chunks, incoming) = mpsc::channel::<Result<Option<Bytes>, Failure>>(4);
    let store = api.store.clone();
    let dir = PathBuf::from(api.facts.paths["store"].as_str().unwrap_or("."));
    let mut node = Node { commands: api.commands.clone(), dir };
    let work = tokio::task::spawn_blocking(move || {
        let body = Incoming { from: incoming, rest: Bytes::new(), ended: false };
        bundle::import(&store, body, &senders, &mut node)
    });
    // What is being stored is stored to its end, whoever still waits for the answer.
    let value = api.begin("bundle", async move {
        let imported = work.await.map_err(|_| bug())??;
        Ok(imported_view(&imported))
    });
    // Beside the answer, which may come before the end: a refused bundle is not read in vain, and the
    // connection is not broken off before its sender has heard why.
    api.tasks.spawn("bundle upload", feed(request.into_body(), chunks));
    Ok(Json(value.await?))
}

/// Moves a request's body into a bounded channel; what nobody takes any more is read and thrown away.
async fn feed(mut body: Body, to: mpsc::Sender<Result<Option<Bytes>, Failure>>) {
    loop {
        match std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            None => return drop(to.send(Ok(None)).await),
            Some(Ok(frame)) => {
                if let Ok(bytes) = frame.into_data() {
                    let _ = to.send(Ok(Some(bytes))).await;
                }
            }
            Some(Err(_)) => {
                let cut = Failure::new(Exit::Interrupted, "the file ended before it was complete");
                return drop(to.send(Err(cut)).await);
            }
        }
    }
}

fn imported_view(imported: &Imported) -> ImportedView {
    let videos = imported.objects.iter().map(|kept| BundledVideo {
        id: kept.root.to_hex(),
        blocks: kept.total,
        new: kept.new,
        missing: kept.total - kept.present,
        readable: !imported.unreadable.contains(&kept.root),
    });
    ImportedView {
        from: imported.from.name.clone(),
        objects: imported.objects.len(),
        complete: imported.objects.iter().filter(|kept| kept.complete).count(),
        new_blocks: imported.objects.iter().map(|kept| kept.new).sum(),
        videos: videos.collect(),
    }
}

/// Remembers what reads an object whose blocks came before the right to read them, by a bundle.
pub(super) async fn learn(api: &Api, cap: &ReadCap) {
    if api.store.object(&cap.root).is_none_or(|object| object.read.is_some()) {
        return;
    }
    let (store, cap) = (api.store.clone(), cap.clone());
    let learned = tokio::task::spawn_blocking(move || {
        let root_block = store.pack(&cap.root).and_then(|pack| pack.read(Position::Root)).ok()?;
        // A link with a wrong key does not open the tree.
        let (tree, block) = Tree::open(&cap.verify_cap(), root_block).ok()?;
        store
            .begin_fetch(&cap.verify_cap(), Some(&cap.key), &block, tree.geometry(), crate::up::unix_now())
            .ok()
    });
    let _ = learned.await;
}

/// A request's body for a thread that may wait.
struct Incoming {
    from: mpsc::Receiver<Result<Option<Bytes>, Failure>>,
    rest: Bytes,
    ended: bool,
}

impl std::io::Read for Incoming {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        while self.rest.is_empty() && !self.ended {
            match self.from.blocking_recv() {
                Some(Ok(Some(bytes))) => self.rest = bytes,
                Some(Ok(None)) => self.ended = true,
                Some(Err(_)) | None => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let n = self.rest.len().min(out.len());
        if let (Some(to), Some(from)) = (out.get_mut(..n), self.rest.get(..n)) {
            to.copy_from_slice(from);
        }
        self.rest = self.rest.split_off(n);
        Ok(n)
    }
}

/// The node, asked by the thread that imports.
struct Node {
    commands: mpsc::Sender<Command>,
    dir: PathBuf,
}

impl Node {
    fn ask<T: Send + 'static>(&self, job: impl FnOnce(&mut Context<'_>) -> T + Send + 'static) -> Option<T> {
        let (sender, receiver) = oneshot::channel();
        let job = Command::Run(Box::new(move |cx| drop(sender.send(job(cx)))));
        self.commands.blocking_send(job).ok()?;
        receiver.blocking_recv().ok()
    }
}

impl Receiver for Node {
    fn read_key(&mut self, root: &Root) -> Option<Key> {
        let root = *root;
        self.ask(move |cx| cx.service.read_cap(cx.core, &root).ok().map(|cap| cap.key)).flatten()
    }

    fn make_room(&mut self, _root: &Root, bytes: u64) -> Result<(), Failure> {
        bundle::check_disk(&self.dir, bytes)
    }

    fn complete(&mut self, cap: VerifyCap, geometry: Geometry) {
        self.ask(move |cx| {
            // It may have been removed meanwhile.
            if cx.service.store().object(&cap.root).is_some() {
                cx.core.hold(cx.now, cap, geometry);
            }
        });
    }

    fn now_s(&self) -> u64 {
        crate::up::unix_now()
    }
}
