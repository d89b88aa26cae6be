//! Bundles for a friend's stick, and from one.

use super::backup::receive;
use super::*;
use crate::cli;
use crate::new_file::{NewFile, open_plain};

/// Bytes read from the file at once.
const CHUNK: usize = 256 * 1024;

impl Shell {
    /// `kith bundle ...`
    pub async fn bundle(&self, command: &cli::Bundle) -> Result<(), Failure> {
        match command {
            cli::Bundle::Export { file, to, ids } => self.export(file, to, ids).await,
            cli::Bundle::Import { file } => self.import(file).await,
        }
    }

    async fn export(&self, file: &Path, to: &str, ids: &[String]) -> Result<(), Failure> {
        let file = NewFile::begin(file)?;
        let path = file.path().display().to_string();
        let ids: Vec<String> = ids
            .iter()
            .map(|id| text_argument(id).map(|id| id.trim().to_owned()))
            .collect::<Result<_, _>>()?;
        let body = json!({"to": to, "ids": ids});
        let response = self.client.start(Method::POST, "/api/bundles/export", Some(body)).await?;
        let (file, mut value) = receive(response.into_body(), file, "writing").await?;
        let bytes = file.finish()?;
        if let Some(fields) = value.as_object_mut() {
            fields.insert("path".into(), json!(path));
            fields.insert("bytes".into(), json!(bytes));
            fields.insert("to".into(), json!(to));
        }
        let shown = pick(&value, &["path", "bytes", "to", "objects", "complete", "blocks"]);
        self.print(&shown, || {
            let (objects, complete) = (number(&value, "objects"), number(&value, "complete"));
            let partial = match objects - complete.min(objects) {
                0 => String::new(),
                n => format!(" ({n} of them not complete here)"),
            };
            format!(
                "Wrote {path}, {}: {objects} videos{partial} for {}, whose node alone can open it: kith bundle \
                 import FILE\nIt brings no right to see them: they need an entry in the catalogue, or the link.",
                human_bytes(bytes),
                safe(to)
            )
        })
    }

    async fn import(&self, file: &Path) -> Result<(), Failure> {
        let (file, len) = open_plain(file)?;
        let progress = bar(Some(len), "importing");
        let header = ("content-type", "application/octet-stream".to_owned());
        let (chunks, incoming) = tokio::sync::mpsc::channel::<Result<Bytes, Failure>>(4);
        let reading = tokio::task::spawn_blocking(move || read_whole(file, len, &chunks));
        let sent = |bytes| progress.inc(bytes);
        let value = self.client.upload("/api/bundles/import", header, Some(len), incoming, sent).await?;
        drop(reading);
        progress.finish_and_clear();
        self.print(&value, || imported(&value))
    }
}

fn imported(value: &Value) -> String {
    let videos = value["videos"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut lines = vec![format!(
        "From {}: {} videos, {} of them complete now, {} new blocks, each checked.",
        safe(text(value, "from")),
        number(value, "objects"),
        number(value, "complete"),
        number(value, "new_blocks")
    )];
    for video in videos {
        let id: String = text(video, "id").chars().take(8).collect();
        let missing = match number(video, "missing") {
            0 => "complete".to_owned(),
            n => format!("{n} of {} blocks missing: kith get {id}", number(video, "blocks")),
        };
        let readable = match video["readable"] {
            Value::Bool(true) => "",
            _ => "; nobody has shown it to you yet: ask for its link",
        };
        lines.push(format!("  {id}  {missing}{readable}"));
    }
    lines.join("\n")
}

/// Reads a file of `len` bytes into a bounded channel; one that changes meanwhile is an error.
fn read_whole(mut file: std::fs::File, len: u64, to: &tokio::sync::mpsc::Sender<Result<Bytes, Failure>>) {
    let mut left = len;
    while left > 0 {
        let mut chunk = Vec::with_capacity(CHUNK);
        let wanted = left.min(CHUNK as u64);
        let read = Read::by_ref(&mut file).take(wanted).read_to_end(&mut chunk);
        let next = match read {
            Ok(n) if n as u64 == wanted => Ok(Bytes::from(chunk)),
            Ok(_) => Err(Failure::new(Exit::Failure, "the file became shorter while it was read")),
            Err(e) => Err(Failure::from(e).context("cannot read the bundle")),
        };
        left -= wanted;
        let failed = next.is_err();
        if to.blocking_send(next).is_err() || failed {
            return;
        }
    }
}
