//! Publishing, what was published, and searching.

use super::*;
use crate::cli;

const CHUNK: usize = 256 * 1024;

impl Shell {
    /// `kith publish`
    pub async fn publish(&self, args: &cli::Publish) -> Result<(), Failure> {
        let from_stdin = args.file == Path::new("-");
        let (source, len) = if from_stdin {
            (None, None)
        } else {
            Some(open_source(&args.file)?).map_or((None, None), |(f, n)| (Some(f), Some(n)))
        };
        let default_title = || match args.file.file_stem() {
            Some(stem) if !from_stdin => kith_crypto::text::cut(&stem.to_string_lossy(), 96).to_owned(),
            _ => "untitled".into(),
        };
        let meta = json!({
            "title": args.title.clone().unwrap_or_else(default_title),
            "text": args.text,
            "tags": args.tag,
            "lang": args.lang,
            "licence": args.licence,
            "to": args.to,
            "keep_metadata": args.keep_metadata,
            "any_file": args.any_file,
        });
        let header = ascii_json(&meta);
        if header.len() > 48 * 1024 {
            return Err(Failure::new(Exit::Usage, "title, text and tags are far too long: shorten them"));
        }
        let progress = bar(len, "publishing");
        let (chunks, incoming) = tokio::sync::mpsc::channel::<Result<Bytes, Failure>>(4);
        let path = args.file.clone();
        let reading = tokio::task::spawn_blocking(move || read_source(source, len, &path, &chunks));
        let sent = |bytes| progress.inc(bytes);
        let mut value = self
            .client
            .upload("/api/publish", (crate::api::PUBLISH_HEADER, header), len, incoming, sent)
            .await?;
        drop(reading);
        progress.finish_and_clear();
        let kept = value.as_object_mut().and_then(|v| v.remove("metadata_kept")) == Some(Value::Bool(true));
        if kept {
            note(
                "kith: the file was published with its metadata (place, device, dates, if it has them): \
                 this release does not clean it; --keep-metadata silences this",
            );
        }
        let shown = pick(&value, &["id", "link", "title", "bytes", "blocks", "audience", "stripped"]);
        self.print(&shown, || {
            let title = safe(text(&value, "title"));
            let size = human_bytes(number(&value, "bytes"));
            format!(
                "Published \"{title}\" ({size}) for {}.\nid    {}\nlink  {}",
                safe(text(&value, "audience")),
                text(&value, "id"),
                text(&value, "link")
            )
        })
    }

    /// `kith video list`
    pub async fn videos(&self) -> Result<(), Failure> {
        let value = self.get("/api/videos").await?;
        let list = value.as_array().cloned().unwrap_or_default();
        self.print(&value, || {
            if list.is_empty() {
                return "Nothing published yet. Start with `kith publish FILE`.".into();
            }
            let mut table = Table::new(["ID", "TITLE", "SIZE", "FOR"]).right(2);
            for v in &list {
                let id: String = text(v, "id").chars().take(16).collect();
                table.row([&id, text(v, "title"), &human_bytes(number(v, "bytes")), text(v, "audience")]);
            }
            table.render(self.style)
        })
    }

    /// `kith video show`
    pub async fn video(&self, id: &str) -> Result<(), Failure> {
        let value = self.get(&format!("/api/videos/{}", encode(id))).await?;
        self.print(&value, || fields(&value))
    }

    /// `kith video rm`
    pub async fn remove_video(&self, id: &str) -> Result<(), Failure> {
        let value = self.client.call(Method::DELETE, &format!("/api/videos/{}", encode(id)), None).await?;
        self.print(&value, || "Withdrawn and deleted here. Copies that others made stay with them.".into())
    }

    /// `kith video unshare`
    pub async fn unshare(&self, id: &str) -> Result<(), Failure> {
        let path = format!("/api/videos/{}/unshare", encode(id));
        let value = self.client.call(Method::POST, &path, None).await?;
        self.print(&value, || {
            "Withdrawn: friends' nodes forget it with their next look. It stays here.".into()
        })
    }

    /// `kith search`
    pub async fn search(&self, args: &cli::Search) -> Result<(), Failure> {
        let scope = match args.scope {
            cli::Scope::Mine => "mine",
            cli::Scope::Friends => "friends",
            cli::Scope::Fof => "fof",
        };
        let mut path =
            format!("/api/search?words={}&scope={scope}&limit={}", encode(&args.words.join(" ")), args.limit);
        if let Some(low) = args.min_dur {
            path.push_str(&format!("&min_dur={low}"));
        }
        if let Some(high) = args.max_dur {
            path.push_str(&format!("&max_dur={high}"));
        }
        let answer = self.get(&path).await?;
        if let Some(next) = answer.get("next_batch_s").and_then(Value::as_u64)
            && matches!(args.scope, cli::Scope::Fof)
        {
            let next = human_duration(Duration::from_secs(next.max(1)));
            note(&format!("kith: videos of friends' friends come in batches; the next is due in {next}"));
        }
        let results = answer.get("results").cloned().unwrap_or_else(|| json!([]));
        let list = results.as_array().cloned().unwrap_or_default();
        self.print(&results, || {
            if list.is_empty() {
                return "Nothing found. Try fewer or shorter words.".into();
            }
            let mut table = Table::new(["ID", "TITLE", "SIZE", "FROM"]).right(2);
            for v in &list {
                let id: String = text(v, "id").chars().take(16).collect();
                let from = match number(v, "distance") {
                    0 => "you".to_owned(),
                    1 => text(v, "via").to_owned(),
                    _ => format!("a friend of {}", text(v, "via")),
                };
                table.row([&id, text(v, "title"), &human_bytes(number(v, "bytes")), &from]);
            }
            table.render(self.style)
        })
    }
}

/// JSON in ASCII, as a header can carry it.
fn ascii_json(value: &Value) -> String {
    let mut out = String::new();
    for c in value.to_string().chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out
}

fn open_source(path: &Path) -> Result<(std::fs::File, u64), Failure> {
    let shown = path.display();
    let about = std::fs::metadata(path).context(format!("cannot open {shown}"))?;
    if about.is_dir() {
        return Err(Failure::new(Exit::Usage, format!("{shown} is a folder: name one file")));
    }
    if !about.is_file() {
        return Err(Failure::new(
            Exit::Usage,
            format!("{shown} is no regular file: pipe it in with `kith publish -`"),
        ));
    }
    if about.len() > kith_crypto::content::MAX_BLOCKS * kith_crypto::content::BLOCK_LEN as u64 {
        return Err(Failure::new(
            Exit::Usage,
            format!("{shown} is larger than 256 GiB, the most that is possible"),
        ));
    }
    let file = std::fs::File::open(path).context(format!("cannot open {shown}"))?;
    Ok((file, about.len()))
}

/// Reads a file or stdin into the channel. A file that changes meanwhile is an error, and its last
/// piece is held back until that is sure.
fn read_source(
    file: Option<std::fs::File>,
    len: Option<u64>,
    path: &Path,
    to: &tokio::sync::mpsc::Sender<Result<Bytes, Failure>>,
) {
    let result = (|| {
        let before =
            file.as_ref().map(std::fs::File::metadata).transpose().context("cannot read the file")?;
        let mut stdin = std::io::stdin();
        let mut held: Option<Vec<u8>> = None;
        let mut total = 0;
        loop {
            let mut chunk = vec![0; CHUNK];
            let mut filled = 0;
            while let Some(room) = chunk.get_mut(filled..).filter(|r| !r.is_empty()) {
                let n = match &file {
                    Some(file) => (&mut &*file).read(room),
                    None => stdin.read(room),
                };
                match n {
                    Ok(0) => break,
                    Ok(n) => filled += n,
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e).context(format!("cannot read {}", path.display())),
                }
            }
            chunk.truncate(filled);
            total += filled as u64;
            let end = chunk.len() < CHUNK;
            if end && let (Some(file), Some(before)) = (&file, &before) {
                let after = file.metadata().context("cannot read the file")?;
                if Some(total) != len
                    || after.len() != before.len()
                    || after.modified().ok() != before.modified().ok()
                {
                    let what = format!(
                        "{} changed while it was published: try again when it is finished",
                        path.display()
                    );
                    return Err(Failure::new(Exit::Failure, what));
                }
            }
            if let Some(held) = held.replace(chunk)
                && to.blocking_send(Ok(held.into())).is_err()
            {
                return Ok(());
            }
            if end {
                break;
            }
        }
        if let Some(held) = held.filter(|h| !h.is_empty()) {
            let _ = to.blocking_send(Ok(held.into()));
        }
        Ok(())
    })();
    if let Err(failure) = result {
        let _ = to.blocking_send(Err(failure));
    }
}
