//! What each command does: ask the node, show the answer. No state, no protocol.

use crate::cli;
use crate::client::{self, Client};
use crate::config::parse_duration;
use crate::exit::{Context, Exit, Failure};
use crate::terminal::{Style, Table, human_bytes, human_duration, human_rate, safe};
use axum::body::Bytes;
use hyper::Method;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest invite or link that is read from a file or stdin.
const MAX_TEXT: u64 = 64 * 1024;
const CHUNK: usize = 256 * 1024;

/// A running command: the node's client, and how to show things.
pub struct Shell {
    /// The node.
    pub client: Client,
    /// One JSON document instead of text.
    pub json: bool,
    /// Colours of standard output.
    pub style: Style,
}

/// Writes to standard output. A reader that has gone is no error of ours.
pub fn out(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.write_all(b"\n"))
        .and_then(|()| stdout.flush())
    {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.context("cannot write the output"),
    }
}

/// Writes a line to standard error.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", safe(text));
}

/// The fields of a documented answer, in place of all that the API says.
fn pick(value: &Value, names: &[&str]) -> Value {
    names
        .iter()
        .map(|name| ((*name).to_owned(), value[*name].clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Percent-encodes one part of a path or query.
fn encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or("")
}

fn number(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or(0)
}

/// An invite or link: the argument itself, a file's content, or stdin for `-`.
pub fn text_argument(argument: &str) -> Result<String, Failure> {
    let read = |from: &mut dyn Read, name: &str| {
        let mut bytes = Vec::new();
        from.take(MAX_TEXT + 1).read_to_end(&mut bytes).context(format!("cannot read {name}"))?;
        if bytes.len() as u64 > MAX_TEXT {
            return Err(Failure::new(
                Exit::Refused,
                format!("{name} is far too long to be an invite or a link"),
            ));
        }
        String::from_utf8(bytes)
            .map_err(|_| Failure::new(Exit::Refused, format!("{name} holds bytes that are no text")))
    };
    if argument == "-" {
        return read(&mut std::io::stdin().lock(), "standard input");
    }
    let path = Path::new(argument);
    if !argument.starts_with("kith:") && path.is_file() {
        let mut file = std::fs::File::open(path).context(format!("cannot open {}", path.display()))?;
        return read(&mut file, &path.display().to_string());
    }
    Ok(argument.to_owned())
}

/// A passphrase from a file, stdin or the environment.
pub fn passphrase(file: Option<&Path>) -> Result<Option<Vec<u8>>, Failure> {
    const MAX: u64 = 4096;
    let mut bytes = Vec::new();
    match file {
        Some(path) if path == Path::new("-") => {
            std::io::stdin()
                .lock()
                .take(MAX + 1)
                .read_to_end(&mut bytes)
                .context("cannot read the passphrase")?;
        }
        Some(path) => {
            let file = std::fs::File::open(path)
                .context(format!("cannot open the passphrase file {}", path.display()))?;
            file.take(MAX + 1).read_to_end(&mut bytes).context("cannot read the passphrase")?;
        }
        None => match std::env::var_os("KITH_PASSPHRASE") {
            Some(value) => bytes = std::os::unix::ffi::OsStringExt::into_vec(value),
            None => return Ok(None),
        },
    }
    while matches!(bytes.last(), Some(b'\n' | b'\r')) {
        bytes.pop();
    }
    if bytes.is_empty() {
        return Err(Failure::new(Exit::Usage, "the passphrase is empty: it would protect nothing"));
    }
    if bytes.len() as u64 > MAX {
        return Err(Failure::new(Exit::Usage, format!("the passphrase is longer than {MAX} bytes")));
    }
    Ok(Some(bytes))
}

/// A QR code of two half-block rows a line.
pub fn qr(text: &str) -> Option<String> {
    let code = qrcode::QrCode::with_error_correction_level(text, qrcode::EcLevel::L).ok()?;
    let mut picture = code.render::<qrcode::render::unicode::Dense1x2>();
    // Terminals are mostly dark: light modules are drawn, so that scanners see dark ones on light.
    Some(
        picture
            .dark_color(qrcode::render::unicode::Dense1x2::Light)
            .light_color(qrcode::render::unicode::Dense1x2::Dark)
            .build(),
    )
}

fn bar(total: Option<u64>, what: &'static str) -> ProgressBar {
    if !std::io::stderr().is_terminal() || std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty()) {
        return ProgressBar::hidden();
    }
    let (bar, template) = match total {
        Some(total) => {
            (ProgressBar::new(total), "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} left")
        }
        None => (ProgressBar::new_spinner(), "{msg} {spinner} {bytes} {bytes_per_sec}"),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar
}

impl Shell {
    async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.client.call(Method::GET, path, None).await
    }

    fn print(&self, value: &Value, human: impl FnOnce() -> String) -> Result<(), Failure> {
        if self.json { out(&value.to_string()) } else { out(human().trim_end()) }
    }

    /// `kith stop`
    pub async fn stop(&self) -> Result<(), Failure> {
        let value = self.client.call(Method::POST, "/api/stop", None).await?;
        let until = Instant::now() + Duration::from_secs(30);
        while self.client.is_up().await {
            if Instant::now() > until {
                return Err(Failure::new(Exit::TimedOut, "the node does not end: look at its output"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.print(&json!({"stopped": true, "pid": value.get("pid")}), || "The node has stopped.".into())
    }

    /// `kith status`
    pub async fn status(&self) -> Result<(), Failure> {
        let value = self.get("/api/status").await?;
        self.print(&value, || {
            let friends = value.get("friends").cloned().unwrap_or_default();
            let listen: Vec<&str> =
                value.get("listen").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
            let mut lines = vec![
                format!("{}  {}", self.style.bold(&safe(text(&value, "name"))), text(&value, "node")),
                format!(
                    "up {}, process {}, version {}",
                    human_duration(Duration::from_secs(number(&value, "uptime_s"))),
                    number(&value, "pid"),
                    text(&value, "version")
                ),
                format!("friends: {} of {} online", number(&friends, "online"), number(&friends, "total")),
                format!("videos: {} published here, {} known in all", number(&value, "videos"), number(&value, "entries")),
                format!("listening for friends on {}", listen.join(", ")),
                "privacy: fast. Friends who give you a video see that you want it; a common friend sees both sides."
                    .into(),
            ];
            if let Some(why) = value.get("read_only").and_then(Value::as_str) {
                lines.push(self.style.red(&format!("the store is read-only: {why}")));
            }
            if let Some(skew) = value.get("clock_skew_s").and_then(Value::as_i64) {
                lines.push(self.style.yellow(&format!("a friend's clock differs by {} minutes", skew / 60)));
            }
            lines.join("\n")
        })
    }

    /// `kith id`
    pub async fn id(&self, args: &cli::Id) -> Result<(), Failure> {
        let value = self.get("/api/id").await?;
        let certificate = text(&value, "certificate");
        if let Some(path) = &args.out {
            let file = new_file(path)?;
            writeln!(&file, "{certificate}").context(format!("cannot write {}", path.display()))?;
        }
        self.print(&value, || {
            let mut lines = format!(
                "{}\nfingerprint {}\n{certificate}",
                safe(text(&value, "name")),
                text(&value, "fingerprint")
            );
            if args.qr {
                lines.push('\n');
                lines.push_str(&qr(certificate).unwrap_or_default());
            }
            lines
        })
    }

    // Friends.

    /// `kith friend invite`
    pub async fn invite(&self, expires: Option<&str>) -> Result<(), Failure> {
        let expires_s = match expires {
            None => None,
            Some(time) => Some(parse_duration(time).filter(|d| d.as_secs() >= 1).ok_or_else(|| {
                Failure::new(Exit::Usage, format!("--expires {time} is not a time: use one like 12h or 7d"))
            })?),
        };
        let body = json!({"expires_s": expires_s.map(|d| d.as_secs())});
        let value = self.client.call(Method::POST, "/api/invites", Some(body)).await?;
        let invite = text(&value, "invite").to_owned();
        if let Some(why) = value.get("note").and_then(Value::as_str) {
            note(&format!("kith: {why}"));
        }
        if self.json {
            return out(&json!({"invite": invite, "expires": value.get("expires")}).to_string());
        }
        out(&invite)?;
        if std::io::stdout().is_terminal() {
            if let Some(picture) = qr(&invite) {
                out(&picture)?;
            }
            out(
                "Give this line to one friend, over a way that others do not read. They run:  kith friend add -",
            )?;
        }
        Ok(())
    }

    /// `kith friend add`
    pub async fn add(&self, argument: &str) -> Result<(), Failure> {
        let invite = text_argument(argument)?;
        let value =
            self.client.call(Method::POST, "/api/friends", Some(json!({"invite": invite.trim()}))).await?;
        let shown =
            json!({"name": value["name"], "fingerprint": value["fingerprint"], "state": value["state"]});
        self.print(&shown, || {
            let name = safe(text(&value, "name"));
            match text(&value, "state") {
                _ if value.get("already").is_some() => format!("{name} is already a friend."),
                "online" => format!(
                    "{name} is a friend now. Compare fingerprints when you meet: {}",
                    text(&value, "fingerprint")
                ),
                _ => format!("{name} cannot be reached now. The invite is kept and tried until it expires."),
            }
        })
    }

    /// `kith friend list`
    pub async fn friends(&self) -> Result<(), Failure> {
        let value = self.get("/api/friends").await?;
        let list = value.as_array().cloned().unwrap_or_default();
        self.print(&value, || {
            if list.is_empty() {
                return "No friends yet. Make an invite with `kith friend invite`.".into();
            }
            let mut table = Table::new(["NAME", "STATE", "SENT", "RECEIVED", "RELAYED", "FINGERPRINT"])
                .right(2)
                .right(3)
                .right(4);
            for f in &list {
                table.row([
                    text(f, "name"),
                    text(f, "state"),
                    &human_bytes(number(f, "sent_bytes")),
                    &human_bytes(number(f, "received_bytes")),
                    &human_bytes(number(f, "relayed_bytes")),
                    text(f, "fingerprint"),
                ]);
            }
            table.render(self.style)
        })
    }

    /// `kith friend show`
    pub async fn friend(&self, name: &str) -> Result<(), Failure> {
        let value = self.get(&format!("/api/friends/{}", encode(name))).await?;
        self.print(&value, || fields(&value))
    }

    /// `kith friend remove`
    pub async fn remove_friend(&self, name: &str) -> Result<(), Failure> {
        let value = self.client.call(Method::DELETE, &format!("/api/friends/{}", encode(name)), None).await?;
        self.print(&value, || {
            format!("{} is no longer a friend. What they already have stays with them.", safe(name))
        })
    }

    // Videos.

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
        let (sender, answer) =
            self.client.upload("/api/publish", (crate::api::PUBLISH_HEADER, header), len).await?;
        let (chunks, mut incoming) = tokio::sync::mpsc::channel::<Result<Bytes, Failure>>(4);
        let path = args.file.clone();
        let reading = tokio::task::spawn_blocking(move || read_source(source, len, &path, &chunks));
        let feed = async {
            let mut sender = Some(sender);
            while let Some(chunk) = incoming.recv().await {
                let chunk = chunk?;
                progress.inc(chunk.len() as u64);
                match &sender {
                    Some(to) if to.send(chunk).await.is_ok() => {}
                    // The node has answered already: its answer says why.
                    _ => sender = None,
                }
            }
            Ok::<(), Failure>(())
        };
        tokio::pin!(answer, feed);
        let mut value = tokio::select! {
            value = &mut answer => value?,
            fed = &mut feed => {
                fed?;
                answer.await?
            }
        };
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

    /// `kith get`
    pub async fn fetch(&self, args: &cli::Get) -> Result<(), Failure> {
        let to_stdout = args.output.as_deref() == Some(Path::new("-"));
        // A target that cannot be written is refused before anything is fetched.
        let target = match &args.output {
            Some(path) if !to_stdout => Some(Target::new(path)?),
            _ => None,
        };
        let id = text_argument(&args.id)?;
        let body = json!({"id": id.trim(), "route": args.route.as_str()});
        let response = self.client.start(Method::POST, "/api/fetches", Some(body)).await?;
        let mut value = self.follow(response).await?;
        let mut saved = None;
        if to_stdout || target.is_some() {
            let path = format!("/api/objects/{}/content", text(&value, "id"));
            let mut content = self.client.start(Method::GET, &path, None).await?.into_body();
            let mut target = target;
            let mut stdout = std::io::stdout();
            let mut written = 0;
            while let Some(chunk) = client::next(&mut content).await? {
                written += chunk.len() as u64;
                match &mut target {
                    Some(target) => target.write(&chunk)?,
                    None => stdout.write_all(&chunk).context("cannot write to standard output")?,
                }
            }
            if written != number(&value, "bytes") {
                return Err(Failure::new(Exit::Verification, "the video could not be read whole: try again"));
            }
            if let Some(target) = target {
                saved = Some(target.finish()?);
            }
        }
        let path = saved.as_ref().map(|p| p.display().to_string());
        if let Some(fields) = value.as_object_mut() {
            fields.remove("event");
            fields.insert("path".into(), json!(path));
        }
        if to_stdout {
            return Ok(());
        }
        let shown = pick(&value, &["id", "path", "bytes", "seconds", "mode", "hops", "sources"]);
        self.print(&shown, || {
            let way = match text(&value, "mode") {
                "local" => "it was here already".to_owned(),
                "direct" => "directly from a friend".to_owned(),
                _ => "through a common friend".to_owned(),
            };
            let seconds = value.get("seconds").and_then(Value::as_f64).unwrap_or(0.0);
            let bytes = number(&value, "bytes");
            let rate = human_rate(bytes, Duration::from_secs_f64(seconds.max(0.001)));
            let place =
                path.as_deref().map_or_else(|| "kept in the store".to_owned(), |p| format!("saved as {p}"));
            format!("\"{}\": {} {way}, {rate}, {place}", safe(text(&value, "title")), human_bytes(bytes))
        })
    }

    /// Shows a fetch's progress until it ends.
    async fn follow(&self, response: hyper::Response<hyper::body::Incoming>) -> Result<Value, Failure> {
        let mut body = response.into_body();
        let mut pending = Vec::new();
        let progress = bar(Some(0), "fetching");
        while let Some(chunk) = client::next(&mut body).await? {
            pending.extend_from_slice(&chunk);
            while let Some(end) = pending.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                let value: Value = serde_json::from_slice(&line).unwrap_or_default();
                match text(&value, "event") {
                    "progress" => {
                        progress.set_length(number(&value, "total_bytes"));
                        progress.set_position(number(&value, "have_bytes"));
                    }
                    "done" => {
                        progress.finish_and_clear();
                        return Ok(value);
                    }
                    "error" => {
                        progress.finish_and_clear();
                        return Err(client::failure_of(&value["error"]));
                    }
                    _ => {}
                }
            }
        }
        Err(Failure::new(
            Exit::NotRunning,
            "the node ended; what came is kept, the same command goes on with it",
        ))
    }

    /// `kith watch`
    pub async fn watch(&self, args: &cli::Watch) -> Result<(), Failure> {
        let id = text_argument(&args.id)?;
        if args.player == cli::Player::Mpv && !on_path("mpv") {
            return Err(Failure::new(
                Exit::Failure,
                "mpv is not installed: install it (`apt-get install mpv`), or use --player print with another player",
            ));
        }
        let body = json!({"id": id.trim(), "route": args.route.as_str()});
        let stream = self.client.call(Method::POST, "/api/streams", Some(body)).await?;
        let url = text(&stream, "url").to_owned();
        if args.player == cli::Player::Print {
            return out(&url);
        }
        let status = play(&url).await;
        let path = format!("/api/streams/{}", text(&stream, "name"));
        let _ = self.client.call(Method::DELETE, &path, None).await;
        status
    }

    /// `kith store stats`
    pub async fn store_stats(&self) -> Result<(), Failure> {
        let value = self.get("/api/store").await?;
        self.print(&value, || {
            let size = |name| human_bytes(number(&value, name));
            format!(
                "{} videos, {} on disk\njournal {}, catalogue {}, index {}\nfree on this disk: {}",
                number(&value, "objects"),
                size("pack_bytes"),
                size("journal_bytes"),
                size("view_bytes"),
                size("index_bytes"),
                size("free_bytes")
            )
        })
    }
}

/// `kith paths`: the answer does not need a running node.
pub fn paths(value: &Value, json: bool) -> Result<(), Failure> {
    if json { out(&value.to_string()) } else { out(fields(value).trim_end()) }
}

fn fields(value: &Value) -> String {
    let fields = value.as_object().into_iter().flatten();
    let line = |(name, value): (&String, &Value)| {
        let shown = match value {
            Value::String(text) => safe(text),
            Value::Array(list) => {
                list.iter().filter_map(Value::as_str).map(safe).collect::<Vec<_>>().join(", ")
            }
            Value::Null => "-".into(),
            other => other.to_string(),
        };
        format!("{name:16} {shown}\n")
    };
    fields.map(line).collect()
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

fn new_file(path: &Path) -> Result<std::fs::File, Failure> {
    let made = std::fs::OpenOptions::new().write(true).create_new(true).open(path);
    made.map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Failure::new(Exit::Failure, format!("{} exists already: choose another name", path.display()))
        }
        _ => Failure::from(e).context(format!("cannot make {}", path.display())),
    })
}

/// A file in the making: nothing has its name before it is whole.
struct Target {
    path: PathBuf,
    part: PathBuf,
    file: std::fs::File,
}

impl Target {
    fn new(path: &Path) -> Result<Self, Failure> {
        // Whatever lies there, a link or a pipe included, is not touched.
        if path.symlink_metadata().is_ok() {
            let what = format!("{} exists already: choose another name", path.display());
            return Err(Failure::new(Exit::Failure, what));
        }
        let mut name = path.file_name().map(std::ffi::OsStr::to_owned).unwrap_or_default();
        name.push(format!(".part-{}", std::process::id()));
        let part = path.with_file_name(name);
        let file = new_file(&part)?;
        Ok(Self { path: path.to_owned(), part, file })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.file.write_all(bytes).context(format!("cannot write {}", self.part.display()))
    }

    fn finish(self) -> Result<PathBuf, Failure> {
        let shown = self.path.display().to_string();
        self.file.sync_all().context(format!("cannot write {shown}"))?;
        // A hard link refuses to replace what came meanwhile; a rename would not.
        match std::fs::hard_link(&self.part, &self.path) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(Failure::new(
                    Exit::Failure,
                    format!("{shown} exists already: choose another name"),
                ));
            }
            // Some file systems know no hard links.
            Err(_) => std::fs::rename(&self.part, &self.path).context(format!("cannot make {shown}"))?,
        }
        Ok(self.path.clone())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.part);
    }
}

fn on_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// Plays an address with mpv. The address goes in by stdin, so that no other user sees it among the
/// processes.
async fn play(url: &str) -> Result<(), Failure> {
    use tokio::io::AsyncWriteExt;
    let mut child = tokio::process::Command::new("mpv")
        .args(["--no-ytdl", "--load-unsafe-playlists=no", "--playlist=-"])
        .stdin(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start mpv")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(format!("{url}\n").as_bytes()).await.context("cannot talk to mpv")?;
    }
    let status = child.wait().await.context("mpv could not be waited for")?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(Exit::Failure, "mpv could not play this video: see what it says above"))
}
