//! mpv with neither window nor sound, watched over its JSON socket.
//!
//! What mpv reports is kept with the time it came: with `vo=null` the first picture is the first
//! `playback-restart`, a seek has landed at the `playback-restart` after its `seek`, and playback stands
//! still for want of bytes while `paused-for-cache` is true.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::poll;

/// How long mpv may take to make its socket, and to answer a request.
const ANSWER: Duration = Duration::from_secs(10);
/// How the program under test starts mpv: the address comes by stdin.
pub(crate) const ARGUMENTS: [&str; 3] = ["--no-ytdl", "--load-unsafe-playlists=no", "--playlist=-"];
/// What is observed; `seeking` tells a connection that comes late that there is a picture already.
const OBSERVED: [&str; 3] = ["paused-for-cache", "time-pos", "seeking"];

/// How often playback stood still for want of bytes, and for how long altogether.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stalled {
    pub(crate) times: usize,
    pub(crate) total: Duration,
}

/// An event, or a property that has changed.
struct Record {
    at: Instant,
    name: String,
    data: Value,
}

impl Record {
    /// A picture of the place that was asked for is shown.
    fn is_picture(&self) -> bool {
        self.name == "playback-restart" || (self.name == "seeking" && self.data == false)
    }
}

#[derive(Default)]
struct Log {
    records: Vec<Record>,
    replies: BTreeMap<u64, Value>,
    /// As reported last: while `seeking`, it is the place where playback goes.
    position: Option<f64>,
    /// The picture of the place where playback goes, or begins, is not there yet.
    seeking: bool,
    ended: bool,
}

impl Log {
    fn add(&mut self, mut line: Value) {
        let at = Instant::now();
        if let Some(id) = line["request_id"].as_u64() {
            self.replies.insert(id, line);
            return;
        }
        let key = if line["event"] == "property-change" { "name" } else { "event" };
        let Some(name) = line[key].as_str().map(str::to_owned) else { return };
        let data = if name == "end-file" { line["reason"].take() } else { line["data"].take() };
        let record = Record { at, name, data };
        match record.name.as_str() {
            "start-file" | "seek" => self.seeking = true,
            "time-pos" => self.position = record.data.as_f64(),
            _ if record.is_picture() => self.seeking = false,
            _ => {}
        }
        self.records.push(record);
    }

    fn first(&self, since: Instant, is: impl Fn(&Record) -> bool) -> Option<Instant> {
        self.records.iter().find(|r| r.at >= since && is(r)).map(|r| r.at)
    }
}

/// A running mpv; one that was started here ends with it.
pub(crate) struct Mpv {
    stream: UnixStream,
    log: Arc<(Mutex<Log>, Condvar)>,
    requests: AtomicU64,
    connected: Instant,
    child: Option<Child>,
}

impl Mpv {
    /// Writes the configuration for an mpv with `MPV_HOME=dir`; returns where its socket will be.
    pub(crate) fn config(dir: &Path) -> PathBuf {
        fs::create_dir_all(dir).expect("the folder can be made");
        let socket = dir.join("ipc");
        assert!(socket.as_os_str().len() < 100, "too long for a socket: {}", socket.display());
        // A socket that an earlier mpv left would be connected to instead of awaited.
        let _ = fs::remove_file(&socket);
        let mut text = format!("input-ipc-server=\"{}\"\n", socket.display());
        text += "vo=null\nao=null\nterminal=no\nforce-window=no\nload-scripts=no\n";
        text += "pause=no\nidle=no\nkeep-open=no\nresume-playback=no\n";
        fs::write(dir.join("mpv.conf"), text).expect("the configuration can be written");
        socket
    }

    /// Plays an address as the program under test does.
    pub(crate) fn start(dir: &Path, url: &str) -> Self {
        let socket = Self::config(dir);
        let mut command = Command::new("mpv");
        command.args(ARGUMENTS).env("MPV_HOME", dir).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("mpv starts");
        let mut list = child.stdin.take().expect("stdin is piped");
        writeln!(list, "{url}").expect("mpv reads its list");
        drop(list);
        let mut mpv = Self::connect(&socket, ANSWER);
        mpv.child = Some(child);
        mpv
    }

    /// Watches an mpv that somebody else starts, or has just started. The socket is there before mpv
    /// opens the address.
    #[track_caller]
    pub(crate) fn connect(socket: &Path, deadline: Duration) -> Self {
        let (connected, mut stream) = (Instant::now(), None);
        poll(deadline, || {
            stream = UnixStream::connect(socket).ok();
            stream.is_some()
        });
        let stream = stream.unwrap_or_else(|| panic!("no mpv at {} within {deadline:?}", socket.display()));
        let reader = BufReader::new(stream.try_clone().expect("a stream can be cloned"));
        let log = Arc::new((Mutex::new(Log { seeking: true, ..Log::default() }), Condvar::new()));
        let filled = Arc::clone(&log);
        thread::spawn(move || {
            let lines = reader.lines().map_while(Result::ok).map(Some);
            for line in lines.chain([None]) {
                let mut log = filled.0.lock().expect("no thread failed");
                match line {
                    Some(line) => log.add(serde_json::from_str(&line).unwrap_or_default()),
                    None => log.ended = true,
                }
                filled.1.notify_all();
            }
        });
        let mpv = Self { stream, log, requests: AtomicU64::new(1), connected, child: None };
        for (id, property) in OBSERVED.iter().enumerate() {
            mpv.request(json!(["observe_property", id + 1, property]));
        }
        mpv
    }

    /// Looks again after each report until there is something, the time is over or mpv has ended.
    fn wait<T>(&self, time: Duration, mut look: impl FnMut(&Log) -> Option<T>) -> Option<T> {
        let (end, mut log) = (Instant::now() + time, self.log.0.lock().expect("no thread failed"));
        loop {
            let (found, left) = (look(&log), end.saturating_duration_since(Instant::now()));
            if found.is_some() || log.ended || left.is_zero() {
                return found;
            }
            log = self.log.1.wait_timeout(log, left).expect("no thread failed").0;
        }
    }

    /// The data of the answer; nothing where mpv refuses or is gone.
    fn request(&self, command: Value) -> Option<Value> {
        let id = self.requests.fetch_add(1, Ordering::Relaxed);
        let line = format!("{}\n", json!({ "command": command, "request_id": id }));
        (&self.stream).write_all(line.as_bytes()).ok()?;
        let reply = self.wait(ANSWER, |log| log.replies.get(&id).cloned())?;
        (reply["error"] == "success").then(|| reply["data"].clone())
    }

    /// Seconds into the video, by mpv's own account: 0 before the first picture, the target at once
    /// while it seeks.
    pub(crate) fn position(&self) -> Option<f64> {
        self.request(json!(["get_property", "time-pos"]))?.as_f64()
    }

    pub(crate) fn paused_for_cache(&self) -> bool {
        self.request(json!(["get_property", "paused-for-cache"])) == Some(Value::Bool(true))
    }

    /// Goes to a place; returns when that was asked, for [`Mpv::landed`].
    pub(crate) fn seek(&self, seconds: f64) -> Instant {
        let sought = Instant::now();
        self.log.0.lock().expect("no thread failed").seeking = true;
        self.request(json!(["seek", seconds, "absolute"])).expect("mpv seeks");
        sought
    }

    /// When a picture was shown for the first time.
    pub(crate) fn first_picture(&self, timeout: Duration) -> Option<Instant> {
        self.wait(timeout, |log| log.first(self.connected, Record::is_picture))
    }

    /// How long after `sought` the picture of that place was shown.
    pub(crate) fn landed(&self, sought: Instant, timeout: Duration) -> Option<Duration> {
        self.wait(timeout, |log| {
            let begun = log.first(sought, |r| r.name == "seek")?;
            Some(log.first(begun, Record::is_picture)? - sought)
        })
    }

    /// How long it took until a picture beyond that place was shown.
    pub(crate) fn wait_position_beyond(&self, seconds: f64, timeout: Duration) -> Option<Duration> {
        let asked = Instant::now();
        let beyond = |log: &Log| log.position.filter(|position| !log.seeking && *position > seconds);
        self.wait(timeout, beyond).map(|_| asked.elapsed())
    }

    /// How playback stalled since then and after the first picture; a stall that goes on counts until now.
    pub(crate) fn stalled(&self, since: Instant) -> Stalled {
        let log = self.log.0.lock().expect("no thread failed");
        let mut stalled = Stalled::default();
        let Some(first) = log.first(self.connected, Record::is_picture) else { return stalled };
        let (since, mut begun) = (since.max(first), None);
        let changes = log.records.iter().filter(|r| r.name == "paused-for-cache" || r.name == "end-file");
        for (at, is) in changes.map(|r| (r.at, r.data == true)).chain([(Instant::now(), false)]) {
            if is {
                begun = begun.or(Some(at));
            } else if let Some(begun) = begun.take().filter(|_| at > since) {
                stalled.times += 1;
                stalled.total += at - since.max(begun);
            }
        }
        stalled
    }

    /// Why the file ended: `eof`, `error`, `quit`; nothing when it had not by then.
    pub(crate) fn end(&self, timeout: Duration) -> Option<String> {
        let is = |r: &&Record| r.name == "end-file";
        self.wait(timeout, |log| Some(log.records.iter().find(is)?.data.as_str()?.to_owned()))
    }
}

impl Drop for Mpv {
    fn drop(&mut self) {
        // Ends the thread that reads.
        let _ = self.stream.shutdown(Shutdown::Both);
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
