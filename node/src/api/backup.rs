//! `GET /api/backup`: everything that a backup holds, as frames. The command seals it under the
//! passphrase, which so never gets here.

use super::*;
use crate::backup::{self, Snapshot};
use crate::frames::{Frame, FrameWriter};
use kith_store::archive::SEALED_CHUNK_LEN;

/// The requests.
pub(super) fn routes() -> Router<Api> {
    Router::new().route("/api/backup", get(make))
}

#[derive(OpenApi)]
#[openapi(paths(make))]
pub(super) struct Docs;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Wish {
    /// With the videos.
    #[serde(default)]
    content: bool,
}

/// Everything that a backup holds, as frames that the command seals; over the unix socket only.
#[utoipa::path(get, path = "/api/backup", tag = "node", security(("token" = ["admin"])),
    params(Wish),
    responses((status = 200, description = "frames", content_type = "application/octet-stream")))]
async fn make(State(api): State<Api>, Query(wish): Query<Wish>) -> Result<Response, ApiError> {
    let snapshot = api
        .call(|cx| {
            let now_s = unix_s(cx.now);
            Ok(Snapshot::of(cx.service.state(), cx.service.store(), now_s))
        })
        .await?;
    let (sender, body) = ChannelBody::new(None);
    let store = api.store.clone();
    let config = api.facts.paths["config"].as_str().map(str::to_owned);
    let writing = tokio::task::spawn_blocking(move || {
        let config = config.and_then(|path| std::fs::read(path).ok());
        let mut frames = FrameWriter::new(sender);
        let blocks = if wish.content { snapshot.block_count(&store) } else { 0 };
        let total = json!({"total_bytes": blocks * SEALED_CHUNK_LEN as u64});
        let _ = frames.send(&Frame::Progress(total));
        let copy = FrameWriter::new(frames.sender());
        let end = match snapshot.write(&store, config.as_deref(), wish.content, copy, &mut || {}) {
            Ok((mut written, objects)) => {
                let _ = std::io::Write::flush(&mut written);
                Frame::Done(done_json(&snapshot, objects))
            }
            Err(e) => Frame::Failed(error_json(&backup::failure(e, std::path::Path::new("the store")))),
        };
        let _ = frames.send(&end);
    });
    api.tasks.spawn("backup", async move { drop(writing.await) });
    Ok(([("content-type", "application/octet-stream")], Body::new(body)).into_response())
}

/// What a backup's maker is told.
pub fn done_json(snapshot: &Snapshot, objects: u64) -> Value {
    json!({
        "friends": snapshot.friends,
        "publications": snapshot.publications,
        "objects": objects,
        "created": snapshot.created_s,
    })
}
