//! Getting and watching.

use super::*;
use crate::cli;
use crate::client;

impl Shell {
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
        self.tell_who_learns(&body).await?;
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
                "fof" => "through a common friend".to_owned(),
                _ => "through relays".to_owned(),
            };
            let seconds = value.get("seconds").and_then(Value::as_f64).unwrap_or(0.0);
            let bytes = number(&value, "bytes");
            let rate = human_rate(bytes, Duration::from_secs_f64(seconds.max(0.001)));
            let place =
                path.as_deref().map_or_else(|| "kept in the store".to_owned(), |p| format!("saved as {p}"));
            format!("\"{}\": {} {way}, {rate}, {place}", safe(text(&value, "title")), human_bytes(bytes))
        })
    }

    /// Says who learns what, before anybody is asked for anything. False: there is no way yet, and
    /// nothing was said.
    async fn tell_who_learns(&self, body: &Value) -> Result<bool, Failure> {
        if self.json {
            return Ok(true);
        }
        let way = self.client.call(Method::POST, "/api/way", Some(body.clone())).await?;
        match text(&way, "way") {
            // What is here already makes nobody learn anything.
            "local" => Ok(true),
            "none" => Ok(false),
            _ => {
                note_who_learns(&way);
                Ok(true)
            }
        }
    }

    /// Shows a fetch's progress until it ends.
    async fn follow(&self, response: hyper::Response<hyper::body::Incoming>) -> Result<Value, Failure> {
        let progress = bar(Some(0), "fetching");
        let mut first = true;
        let broken = "the node ended; what came is kept, the same command goes on with it";
        let last = client::lines(response, broken, |line| {
            if text(line, "event") == "progress" {
                progress.set_length(number(line, "total_bytes"));
                progress.set_position(number(line, "have_bytes"));
            }
            // The first was asked for before; another one comes when there is a way at last.
            if text(line, "event") == "way" && !std::mem::take(&mut first) && !self.json {
                progress.suspend(|| note_who_learns(line));
            }
        })
        .await;
        progress.finish_and_clear();
        last
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
        let told = self.tell_who_learns(&body).await?;
        let stream = self.client.call(Method::POST, "/api/streams", Some(body)).await?;
        let url = text(&stream, "url").to_owned();
        if !told {
            note_who_learns(&stream);
        }
        if args.player == cli::Player::Print {
            return out(&url);
        }
        let status = play(&url).await;
        let path = format!("/api/streams/{}", text(&stream, "name"));
        let _ = self.client.call(Method::DELETE, &path, None).await;
        status
    }
}

fn note_who_learns(value: &Value) {
    note(&format!("who learns what: {}", text(value, "who_learns")));
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
