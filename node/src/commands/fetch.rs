//! `kith get`.

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
        if to_stdout {
            return self.pipe(body).await;
        }
        let response = self.client.start(Method::POST, "/api/fetches", Some(body)).await?;
        let mut value = self.follow(response).await?;
        let mut saved = None;
        if let Some(mut target) = target {
            let path = format!("/api/objects/{}/content", text(&value, "id"));
            let written = self.copy(&path, &mut |chunk| target.write(chunk)).await?;
            if written != number(&value, "bytes") {
                return Err(cut_short());
            }
            saved = Some(target.finish()?);
        }
        let path = saved.as_ref().map(|p| p.display().to_string());
        if let Some(fields) = value.as_object_mut() {
            fields.remove("event");
            fields.insert("path".into(), json!(path));
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

    /// Reads a video's contents in order, while it comes.
    async fn copy(
        &self,
        path: &str,
        to: &mut dyn FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<u64, Failure> {
        let mut content = self.client.start(Method::GET, path, None).await?.into_body();
        let mut written = 0;
        while let Some(chunk) = client::next(&mut content).await? {
            written += chunk.len() as u64;
            to(&chunk)?;
        }
        Ok(written)
    }

    /// Writes a video to standard output from its first verified block on. What follows says why it
    /// broke off, if it does.
    async fn pipe(&self, body: Value) -> Result<(), Failure> {
        let route = text(&body, "route").to_owned();
        let id = text(&body, "id").to_owned();
        let response = self.client.start(Method::POST, "/api/fetches", Some(body)).await?;
        let path = format!("/api/objects/{id}/content?route={route}");
        let mut write =
            |chunk: &[u8]| std::io::stdout().write_all(chunk).context("cannot write to standard output");
        let copy = self.copy(&path, &mut write);
        let follow = self.follow(response);
        tokio::pin!(copy, follow);
        let (followed, written) = tokio::select! {
            followed = &mut follow => (followed?, copy.await?),
            copied = &mut copy => match copied {
                Ok(written) => (follow.await?, written),
                // A reader who has gone is no reason to go on; a fetch that failed says more.
                Err(failure) if matches!(failure.exit, Exit::Failure | Exit::Verification) => return Err(failure),
                Err(failure) => return Err(follow.await.err().unwrap_or(failure)),
            },
        };
        std::io::stdout().flush().context("cannot write to standard output")?;
        if written == number(&followed, "bytes") { Ok(()) } else { Err(cut_short()) }
    }

    /// Says who learns what, before anybody is asked for anything. False: there is no way yet, and
    /// nothing was said.
    pub(super) async fn tell_who_learns(&self, body: &Value) -> Result<bool, Failure> {
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
}

fn cut_short() -> Failure {
    Failure::new(Exit::Verification, "the video could not be read whole: try again")
}

pub(super) fn note_who_learns(value: &Value) {
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
