//! Publishing files, folders and standard input.
//!
//! A file is looked at and cleaned here, where any part of it can be read; what the node gets is clean already.
//! Standard input is cleaned by the node.

use super::*;
use crate::cli;
use crate::publish::{self, Extra, ExtraKind, Film, Meta};
use crate::video::{self, Plan, Probe};
use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;
use tokio::sync::mpsc::Sender;

const CHUNK: usize = 256 * 1024;
/// Files of a folder at most.
const MAX_FILES: usize = 10_000;
/// The longest description that a request's header can carry.
const MAX_HEADER: usize = 48 * 1024;

/// A file on its way, and what stands around it.
struct Item {
    path: PathBuf,
    title: String,
    extras: Vec<(Extra, PathBuf)>,
}

/// A file that was looked at.
struct Looked {
    file: std::fs::File,
    /// What the file lies in, if it was made for this.
    _folder: Option<tempfile::TempDir>,
    /// Its path.
    path: PathBuf,
    /// Pictures that were made of it, before what else stands around it.
    made: Vec<(Extra, Vec<u8>)>,
    len: u64,
    film: Option<Film>,
    plan: Plan,
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

/// In place of a file with a picture: one out of the film.
const AUTO: &str = "auto";

/// What ffmpeg is to do.
#[derive(Clone, Copy)]
struct Wishes {
    convert: bool,
    poster: bool,
    storyboard: bool,
}

/// A file, its kind and its clean form, and what ffmpeg makes of it.
fn look(path: &Path, keep_metadata: bool, any_file: bool, wishes: Wishes) -> Result<Looked, Failure> {
    let plays =
        |looked: &Looked| looked.film.as_ref().is_some_and(|f| f.probe.browser == video::Browser::Yes);
    let mut looked = match clean(path, keep_metadata, any_file) {
        Ok(looked) if !wishes.convert || plays(&looked) => looked,
        Err(failure) if !wishes.convert => return Err(failure),
        _ => converted(path, keep_metadata)?,
    };
    if wishes.poster || wishes.storyboard {
        looked.made = pictures(&looked, wishes)?;
    }
    Ok(looked)
}

#[cfg(target_os = "linux")]
fn converted(path: &Path, keep_metadata: bool) -> Result<Looked, Failure> {
    let failed = |video::Refused(why): video::Refused| {
        Failure::new(Exit::UnsupportedMedia, format!("{}: it could not be converted: {why}", path.display()))
    };
    let (file, _) = open_source(path)?;
    let probe = video::probe(&file).ok().flatten();
    let folder =
        tempfile::Builder::new().prefix("kith-convert-").tempdir().context("cannot make a folder")?;
    let input = std::fs::canonicalize(path).context(format!("cannot open {}", path.display()))?;
    let made = crate::ffmpeg::convert(&input, probe.as_ref(), folder.path()).map_err(failed)?;
    let looked = clean(&made, keep_metadata, false)?;
    Ok(Looked { _folder: Some(folder), ..looked })
}

#[cfg(target_os = "linux")]
fn pictures(looked: &Looked, wishes: Wishes) -> Result<Vec<(Extra, Vec<u8>)>, Failure> {
    let failed = |what: &'static str| {
        move |video::Refused(why): video::Refused| {
            Failure::new(Exit::UnsupportedMedia, format!("the {what} could not be made: {why}"))
        }
    };
    let Some(film) = &looked.film else {
        return Err(Failure::new(Exit::UnsupportedMedia, "a picture can be made of videos only"));
    };
    let extra = |kind, bytes: &[u8], step_ms, columns| Extra {
        kind,
        bytes: bytes.len() as u64,
        lang: String::new(),
        label: String::new(),
        step_ms,
        columns,
    };
    let mut made = Vec::new();
    if wishes.poster {
        let jpeg = crate::ffmpeg::poster(looked.plan.clone().read(), &looked.file, &film.probe);
        let jpeg = jpeg.map_err(failed("poster"))?;
        made.push((extra(ExtraKind::Poster, &jpeg, 0, 0), jpeg));
    }
    if wishes.storyboard {
        let sheet = crate::ffmpeg::storyboard(looked.plan.clone().read(), &looked.file, &film.probe);
        let (jpeg, step_ms, columns) = sheet.map_err(failed("storyboard"))?;
        made.push((extra(ExtraKind::Storyboard, &jpeg, step_ms, columns), jpeg));
    }
    Ok(made)
}

#[cfg(not(target_os = "linux"))]
fn converted(_: &Path, _: bool) -> Result<Looked, Failure> {
    Err(Failure::new(Exit::UnsupportedMedia, "ffmpeg is used on Linux only, where it can be confined"))
}

#[cfg(not(target_os = "linux"))]
fn pictures(_: &Looked, _: Wishes) -> Result<Vec<(Extra, Vec<u8>)>, Failure> {
    Err(Failure::new(Exit::UnsupportedMedia, "ffmpeg is used on Linux only, where it can be confined"))
}

/// A file, its kind and its clean form.
fn clean(path: &Path, keep_metadata: bool, any_file: bool) -> Result<Looked, Failure> {
    let (file, len) = open_source(path)?;
    let named =
        |failure: Failure| Failure::new(failure.exit, format!("{}: {}", path.display(), failure.what));
    let (film, plan) = if keep_metadata {
        let probe = video::probe(&file).map_err(|e| named(publish::uncleanable(e)))?;
        let film = probe.map(|probe| Film { probe, stripped: Vec::new(), metadata_kept: true });
        (film, Plan::whole(len))
    } else {
        match video::plan(&file).map_err(|e| named(publish::uncleanable(e)))? {
            Some(ready) => {
                let (probe, stripped) = (ready.report.probe, ready.report.stripped);
                (Some(Film { probe, stripped, metadata_kept: false }), ready.plan)
            }
            None => (None, Plan::whole(len)),
        }
    };
    if film.is_none() && !any_file {
        return Err(named(publish::no_video()));
    }
    Ok(Looked { file, _folder: None, path: path.to_owned(), made: Vec::new(), len, film, plan })
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
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let title = kith_crypto::text::cut(stem.trim(), kith_crypto::content::MAX_TITLE_LEN).to_owned();
        let title = args.title.clone().unwrap_or(title);
        let extras = if is_one { extras(args)? } else { beside(&path)? };
        Ok(Item { path, title, extras })
    };
    files.into_iter().map(item).collect()
}

/// The videos in a folder and those below it, by name. Hidden files and links are left out.
fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let shown = folder.display();
    let list = std::fs::read_dir(folder).context(format!("cannot read {shown}"))?;
    let mut names: Vec<std::fs::DirEntry> =
        list.collect::<Result<_, _>>().context(format!("cannot read {shown}"))?;
    names.sort_by_key(std::fs::DirEntry::file_name);
    for entry in names {
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let kind = entry.file_type().context(format!("cannot read {shown}"))?;
        let path = entry.path();
        if kind.is_dir() {
            walk(&path, files)?;
        } else if kind.is_file() && std::fs::File::open(&path).is_ok_and(|file| video::is_video(&file)) {
            if files.len() == MAX_FILES {
                let what =
                    format!("there are more than {MAX_FILES} videos in this folder: name a smaller one");
                return Err(Failure::new(Exit::Usage, what));
            }
            files.push(path);
        }
    }
    Ok(())
}

fn extra(kind: ExtraKind, path: &Path) -> Result<(Extra, PathBuf), Failure> {
    let about = std::fs::metadata(path).context(format!("cannot open {}", path.display()))?;
    if !about.is_file() {
        return Err(Failure::new(Exit::Usage, format!("{} is no regular file", path.display())));
    }
    let lang = if kind == ExtraKind::Captions { language(path) } else { String::new() };
    let extra = Extra { kind, bytes: about.len(), label: lang.clone(), lang, step_ms: 0, columns: 0 };
    Ok((extra, path.to_owned()))
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

/// The language in a name like `film.de.srt`.
fn language(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let last = stem.rsplit_once('.').map_or("", |(_, last)| last);
    let is_tag = (2..=16).contains(&last.len())
        && last.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && last.split('-').next().is_some_and(|first| (2..=3).contains(&first.len()));
    if is_tag { last.to_owned() } else { String::new() }
}

/// Captions, chapters and a poster that lie beside a film under its name.
fn beside(film: &Path) -> Result<Vec<(Extra, PathBuf)>, Failure> {
    let (Some(folder), Some(stem)) = (film.parent(), film.file_stem()) else { return Ok(Vec::new()) };
    let prefix = format!("{}.", stem.to_string_lossy());
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let list = std::fs::read_dir(folder).context(format!("cannot read {}", folder.display()))?;
    let mut found = Vec::new();
    for entry in list {
        let entry = entry.context(format!("cannot read {}", folder.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(rest) =
            name.strip_prefix(&prefix).filter(|_| entry.file_type().is_ok_and(|kind| kind.is_file()))
        else {
            continue;
        };
        let kind = match rest.rsplit('.').next().unwrap_or_default() {
            "srt" | "vtt" if rest.matches('.').count() <= 1 => ExtraKind::Captions,
            "jpg" | "jpeg" | "png" | "webp" if !rest.contains('.') => ExtraKind::Poster,
            _ => continue,
        };
        let is_second =
            kind == ExtraKind::Poster && found.iter().any(|(extra, _): &(Extra, _)| extra.kind == kind);
        if found.len() < kith_crypto::content::MAX_PARTS && !is_second {
            found.push(extra(kind, &entry.path())?);
        }
    }
    found.sort_by(|(_, a), (_, b)| a.cmp(b));
    Ok(found)
}

/// What names a file until it changes.
fn source_of(path: &Path) -> Result<publish::SourceId, Failure> {
    let about = std::fs::metadata(path).context(format!("cannot open {}", path.display()))?;
    let whole = std::fs::canonicalize(path).context(format!("cannot open {}", path.display()))?;
    let modified = i128::from(about.mtime()) * 1_000_000_000 + i128::from(about.mtime_nsec());
    let path = whole.to_string_lossy().into_owned();
    Ok(publish::SourceId { path, bytes: about.len(), modified: modified.to_string() })
}

fn send_extras(extras: &[(Extra, PathBuf)], to: &Sender<Result<Bytes, Failure>>) -> Result<(), Failure> {
    for (extra, path) in extras {
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).context(format!("cannot open {}", path.display()))?;
        file.take(extra.bytes + 1)
            .read_to_end(&mut bytes)
            .context(format!("cannot read {}", path.display()))?;
        if bytes.len() as u64 != extra.bytes {
            return Err(changed(path));
        }
        let _ = to.blocking_send(Ok(bytes.into()));
    }
    Ok(())
}

fn changed(path: &Path) -> Failure {
    let what = format!("{} changed while it was published: try again when it is finished", path.display());
    Failure::new(Exit::Failure, what)
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

/// Sends the clean form of a file. A file that changes meanwhile is an error, and its last piece is held back
/// until that is sure.
fn send_file(looked: Looked, to: &Sender<Result<Bytes, Failure>>) -> Result<(), Failure> {
    let Looked { file, len, plan, path, _folder, .. } = looked;
    let path = path.as_path();
    let before = file.metadata().context("cannot read the file")?;
    let mut reading = plan.read();
    let mut held: Option<Vec<u8>> = None;
    loop {
        let chunk = reading.next(&file, CHUNK).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => changed(path),
            _ => Failure::new(Exit::Failure, format!("cannot read {}: {e}", path.display())),
        })?;
        let is_end = chunk.is_empty();
        if is_end {
            let after = file.metadata().context("cannot read the file")?;
            if after.len() != len || after.modified().ok() != before.modified().ok() {
                return Err(changed(path));
            }
        }
        if let Some(held) = held.replace(chunk)
            && to.blocking_send(Ok(held.into())).is_err()
        {
            return Ok(());
        }
        if is_end {
            return Ok(());
        }
    }
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
