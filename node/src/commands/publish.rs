//! Publishing files, folders and standard input.
//!
//! A file is looked at and cleaned here, where any part of it can be read; what the node gets is clean already.
//! Standard input is cleaned by the node.

use super::*;
use crate::cli;
use crate::films::{AUTO, Looked, Wishes, beside, extra, look, send_extras, send_file, source_of, walk};
use crate::publish::{Extra, ExtraKind, Film, Meta};
use crate::video::Probe;
use std::collections::VecDeque;
use std::sync::Mutex;
use tokio::sync::mpsc::Sender;

const CHUNK: usize = 256 * 1024;
/// The longest description that a request's header can carry.
const MAX_HEADER: usize = 48 * 1024;

/// A file on its way, and what stands around it.
struct Item {
    path: PathBuf,
    title: String,
    extras: Vec<(Extra, PathBuf)>,
}

impl Shell {
    /// `kith publish`
    pub async fn publish(&self, args: &cli::Publish) -> Result<(), Failure> {
        if let [file] = args.files.as_slice()
            && file == Path::new("-")
        {
            return self.publish_stdin(args).await;
        }
        let is_one = matches!(args.files.as_slice(), [file] if !file.is_dir());
        let items = items(args)?;
        if args.dry_run {
            return self.dry_run(args, items, is_one).await;
        }
        self.publish_files(args, items, is_one).await
    }

    async fn publish_stdin(&self, args: &cli::Publish) -> Result<(), Failure> {
        if args.dry_run {
            let what = "a dry run needs a file: standard input can be read only once";
            return Err(Failure::new(Exit::Usage, what));
        }
        let extras = extras(args)?;
        let title = args.title.clone().unwrap_or_else(|| "untitled".into());
        let meta = meta(args, title, &extras, None)?;
        let progress = bar(None, "publishing");
        let (chunks, incoming) = tokio::sync::mpsc::channel(4);
        let reading = tokio::task::spawn_blocking(move || {
            let result = send_extras(&extras, &chunks).and_then(|()| send_stdin(&chunks));
            if let Err(failure) = result {
                let _ = chunks.blocking_send(Err(failure));
            }
        });
        let sent = |bytes| progress.inc(bytes);
        let header = (crate::api::PUBLISH_HEADER, header(&meta)?);
        let mut value = self.client.upload("/api/publish", header, None, incoming, sent).await?;
        drop(reading);
        progress.finish_and_clear();
        warn_kept(&mut value, args);
        let shown = contract(&value);
        self.print(&shown, || told(&value))
    }

    async fn publish_files(
        &self,
        args: &cli::Publish,
        items: Vec<Item>,
        is_one: bool,
    ) -> Result<(), Failure> {
        let total =
            items.iter().filter_map(|item| std::fs::metadata(&item.path).ok()).map(|about| about.len()).sum();
        let count = items.len();
        let progress = bar(Some(total), "publishing");
        let waiting: Mutex<VecDeque<Item>> = Mutex::new(items.into());
        // Nothing panics while it holds a lock.
        let next = || waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop_front();
        let worker = || async {
            let mut done = Vec::new();
            while let Some(item) = next() {
                if count > 1 {
                    let name = item.path.file_name().unwrap_or_default().to_string_lossy();
                    progress.set_message(format!("publishing {}", safe(&name)));
                }
                let path = item.path.clone();
                let result = self.publish_file(args, item, &progress).await;
                if count > 1 {
                    progress.suspend(|| tell_result(&path, &result));
                }
                let stop = matches!(&result, Err(e) if matches!(e.exit, Exit::NotRunning | Exit::Full));
                done.push((path, result));
                if stop {
                    break;
                }
            }
            done
        };
        // Two at once: while one is looked at, the other is sealed.
        let (mut done, second) = tokio::join!(worker(), worker());
        done.extend(second);
        progress.finish_and_clear();
        if is_one && let Some((_, result)) = done.pop() {
            let mut value = result?;
            warn_kept(&mut value, args);
            let shown = contract(&value);
            return self.print(&shown, || told(&value));
        }
        done.sort_by(|(a, _), (b, _)| a.cmp(b));
        let published: Vec<Value> =
            done.iter().filter_map(|(_, result)| result.as_ref().ok()).map(contract).collect();
        let failed = count - published.len();
        let shown = Value::Array(published);
        self.print(&shown, || format!("Published {} of {count} files.", count - failed))?;
        if failed == 0 {
            return Ok(());
        }
        let first = done.into_iter().find_map(|(_, result)| result.err());
        let exit = first.map_or(Exit::Interrupted, |failure| failure.exit);
        Err(Failure::new(
            exit,
            format!("{failed} of {count} files were not published: the same command goes on"),
        ))
    }

    async fn publish_file(
        &self,
        args: &cli::Publish,
        item: Item,
        progress: &ProgressBar,
    ) -> Result<Value, Failure> {
        let source = source_of(&item.path)?;
        let mark = (args.files.len() > 1 || args.files.iter().any(|path| path.is_dir())).then_some(source);
        if let Some(source) = &mark {
            let body = json!({ "source": source, "to": args.to });
            let known = self.client.call(Method::POST, "/api/published", Some(body)).await?;
            if let Some(video) = known.get("video").filter(|video| video.is_object()) {
                let mut video = video.clone();
                if let Some(video) = video.as_object_mut() {
                    video.insert("stripped".into(), json!([]));
                    video.insert("already".into(), true.into());
                }
                progress.inc(std::fs::metadata(&item.path).map_or(0, |about| about.len()));
                return Ok(video);
            }
        }
        let looked = self.looked(args, &item, true).await?;
        let mut meta = meta(args, item.title.clone(), &item.extras, looked.film.clone())?;
        meta.source = mark;
        meta.extras.splice(0..0, looked.made.iter().map(|(extra, _)| extra.clone()));
        meta.check()?;
        let extras_len: u64 = meta.extras.iter().map(|extra| extra.bytes).sum();
        let len = looked.plan.size() + extras_len;
        let before = looked.len;
        let (chunks, incoming) = tokio::sync::mpsc::channel(4);
        let reading = tokio::task::spawn_blocking(move || {
            for (_, bytes) in &looked.made {
                let _ = chunks.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
            }
            let result = send_extras(&item.extras, &chunks).and_then(|()| send_file(looked, &chunks));
            if let Err(failure) = result {
                let _ = chunks.blocking_send(Err(failure));
            }
        });
        let sent = |bytes| progress.inc(bytes);
        let header = (crate::api::PUBLISH_HEADER, header(&meta)?);
        let value = self.client.upload("/api/publish", header, Some(len), incoming, sent).await;
        drop(reading);
        if value.is_ok() {
            progress.inc(before.saturating_sub(len));
        }
        value
    }

    /// A file that was looked at; with `makes` also what is made of it.
    async fn looked(&self, args: &cli::Publish, item: &Item, makes: bool) -> Result<Looked, Failure> {
        let (path, keep, any) = (item.path.clone(), args.keep_metadata, args.any_file);
        let wishes = Wishes {
            convert: args.convert,
            poster: makes && args.poster.as_deref() == Some(Path::new(AUTO)),
            storyboard: makes && args.storyboard,
        };
        tokio::task::spawn_blocking(move || look(&path, keep, any, wishes)).await.map_err(|_| lost())?
    }

    async fn dry_run(&self, args: &cli::Publish, items: Vec<Item>, is_one: bool) -> Result<(), Failure> {
        let mut all = Vec::new();
        let mut failed = None;
        for item in items {
            match self.looked(args, &item, false).await {
                Ok(looked) => all.push(plan_view(&item, &looked)),
                Err(failure) if is_one => return Err(failure),
                Err(failure) => {
                    all.push(json!({ "path": item.path.display().to_string(), "error": failure.what }));
                    failed.get_or_insert(failure);
                }
            }
        }
        let value = if is_one { all.first().cloned().unwrap_or_default() } else { Value::Array(all.clone()) };
        self.print(&value, || {
            let parts: Vec<String> = all.iter().map(|view| plan_text(view, &args.to)).collect();
            parts.join("\n")
        })?;
        match failed {
            Some(failure) => {
                Err(Failure::new(failure.exit, "some of the files cannot be published as they are"))
            }
            None => Ok(()),
        }
    }
}

fn lost() -> Failure {
    Failure::new(Exit::Failure, "looking at the file was interrupted")
}

/// What scripts rely on.
fn contract(value: &Value) -> Value {
    pick(value, &["id", "link", "title", "bytes", "blocks", "audience", "stripped"])
}

fn warn_kept(value: &mut Value, args: &cli::Publish) {
    let kept = value.as_object_mut().and_then(|v| v.remove("metadata_kept")) == Some(Value::Bool(true));
    if kept && !args.keep_metadata {
        note("kith: the file was published with its metadata (place, device, dates, if it has them)");
    }
}

fn told(value: &Value) -> String {
    let mut out = format!(
        "Published \"{}\" ({}) for {}.",
        safe(text(value, "title")),
        human_bytes(number(value, "bytes")),
        safe(text(value, "audience")),
    );
    if let Some(list) = words(value, "stripped") {
        out.push_str(&format!("\nRemoved: {list}."));
    }
    let plays = text(value, "plays");
    if !plays.is_empty() {
        out.push_str(&format!("\nIt {}.", safe(plays)));
    }
    out.push_str(&format!("\nid    {}\nlink  {}", text(value, "id"), text(value, "link")));
    out
}

fn words(value: &Value, name: &str) -> Option<String> {
    let list = value.get(name)?.as_array().filter(|list| !list.is_empty())?;
    Some(
        list.iter()
            .filter_map(Value::as_str)
            .map(|word| safe(word).to_string())
            .collect::<Vec<_>>()
            .join(", "),
    )
}

fn tell_result(path: &Path, result: &Result<Value, Failure>) {
    let shown = path.display();
    match result {
        Ok(value) if value.get("already").is_some() => note(&format!("kith: {shown}: published before")),
        Ok(value) => note(&format!("kith: {shown}: {}", text(value, "id"))),
        Err(failure) => note(&format!("kith: {shown}: {}", failure.what)),
    }
}

fn plan_view(item: &Item, looked: &Looked) -> Value {
    let none = Probe::of_type("application/octet-stream");
    let probe = looked.film.as_ref().map_or(&none, |film| &film.probe);
    let stripped = looked.film.as_ref().map_or(&[][..], |film| &film.stripped);
    let extras: Vec<String> = item.extras.iter().map(|(_, path)| path.display().to_string()).collect();
    json!({
        "path": item.path.display().to_string(),
        "title": item.title,
        "mime": probe.mime,
        "duration_s": probe.duration_ms.div_ceil(1000),
        "tracks": probe.tracks,
        "plays": if looked.film.is_some() { probe.plays() } else { "is no video".into() },
        "browser": probe.browser,
        "chapters": probe.chapters.len(),
        "bytes": looked.len,
        "bytes_after": looked.plan.size(),
        "stripped": stripped,
        "extras": extras,
    })
}

fn plan_text(view: &Value, to: &str) -> String {
    let path = safe(text(view, "path")).to_string();
    if let Some(error) = view.get("error").and_then(Value::as_str) {
        return format!("{path}\n  cannot be published: {}", safe(error));
    }
    let mut lines = vec![path];
    let mut line = |name: &str, what: String| lines.push(format!("  {name:<9} {what}"));
    line("title", safe(text(view, "title")).to_string());
    line("for", safe(to).to_string());
    let mut what = text(view, "mime").to_owned();
    if number(view, "duration_s") > 0 {
        what.push_str(&format!(", {}", human_duration(Duration::from_secs(number(view, "duration_s")))));
    }
    for track in view["tracks"].as_array().into_iter().flatten() {
        what.push_str(&format!(", {}", safe(text(track, "codec"))));
        if number(track, "width") > 0 {
            what.push_str(&format!(" {}x{}", number(track, "width"), number(track, "height")));
        }
        if !text(track, "lang").is_empty() {
            what.push_str(&format!(" ({})", safe(text(track, "lang"))));
        }
    }
    line("is", what);
    line("plays", safe(text(view, "plays")).to_string());
    line("removed", words(view, "stripped").unwrap_or_else(|| "nothing".into()));
    if number(view, "chapters") > 0 {
        line(
            "chapters",
            format!("{} in the file: --chapters keep shows them to viewers", number(view, "chapters")),
        );
    }
    if let Some(extras) = words(view, "extras") {
        line("with", extras);
    }
    line(
        "size",
        format!("{} of {}", human_bytes(number(view, "bytes_after")), human_bytes(number(view, "bytes"))),
    );
    lines.join("\n")
}

fn meta(
    args: &cli::Publish,
    title: String,
    extras: &[(Extra, PathBuf)],
    film: Option<Film>,
) -> Result<Meta, Failure> {
    let meta = Meta {
        title,
        text: args.text.clone(),
        tags: args.tag.clone(),
        lang: args.lang.clone(),
        licence: args.licence.clone(),
        to: args.to.clone(),
        keep_metadata: args.keep_metadata,
        any_file: args.any_file,
        film,
        extras: extras.iter().map(|(extra, _)| extra.clone()).collect(),
        file_chapters: args.chapters.as_deref() == Some(Path::new(KEEP)),
        source: None,
    };
    meta.check()?;
    Ok(meta)
}

/// In place of a file with chapters: those that the film has.
const KEEP: &str = "keep";

fn header(meta: &Meta) -> Result<String, Failure> {
    let header = ascii_json(&serde_json::to_value(meta).map_err(|_| lost())?);
    if header.len() > MAX_HEADER {
        return Err(Failure::new(Exit::Usage, "title, text and tags are far too long: shorten them"));
    }
    Ok(header)
}

/// The files that were named, with those of folders.
fn items(args: &cli::Publish) -> Result<Vec<Item>, Failure> {
    let mut files = Vec::new();
    for path in &args.files {
        if path == Path::new("-") {
            return Err(Failure::new(Exit::Usage, "- is standard input: name it alone"));
        }
        if path.is_dir() {
            walk(path, &mut files)?;
        } else {
            files.push(path.clone());
        }
    }
    if files.is_empty() {
        return Err(Failure::new(Exit::NotFound, "there is no video in this folder"));
    }
    let is_one = matches!(args.files.as_slice(), [file] if !file.is_dir());
    let poster = args.poster.as_deref().is_some_and(|path| path != Path::new(AUTO));
    let named = args.title.is_some() || poster || args.chapters.is_some() || !args.captions.is_empty();
    if !is_one && named {
        let what = "--title, --poster, --captions and --chapters belong to one file: name one";
        return Err(Failure::new(Exit::Usage, what));
    }
    let item = |path: PathBuf| {
        let title = args.title.clone().unwrap_or_else(|| crate::films::title_of(&path));
        let extras = if is_one { extras(args)? } else { beside(&path)? };
        Ok(Item { path, title, extras })
    };
    files.into_iter().map(item).collect()
}

/// What was named around one film.
fn extras(args: &cli::Publish) -> Result<Vec<(Extra, PathBuf)>, Failure> {
    let poster = args.poster.iter().filter(|path| *path != Path::new(AUTO));
    let poster = poster.map(|path| extra(ExtraKind::Poster, path));
    let chapters = args.chapters.iter().filter(|path| *path != Path::new(KEEP));
    let chapters = chapters.map(|path| extra(ExtraKind::Chapters, path));
    let captions = args.captions.iter().map(|path| extra(ExtraKind::Captions, path));
    poster.chain(chapters).chain(captions).collect()
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

fn send_stdin(to: &Sender<Result<Bytes, Failure>>) -> Result<(), Failure> {
    let mut stdin = std::io::stdin();
    loop {
        let mut chunk = vec![0; CHUNK];
        let n = match stdin.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e).context("cannot read standard input"),
        };
        chunk.truncate(n);
        if to.blocking_send(Ok(chunk.into())).is_err() {
            return Ok(());
        }
    }
}
