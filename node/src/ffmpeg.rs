//! What ffmpeg does for a film, if it is there and asked for: a poster, a storyboard, another container. It runs
//! confined ([`crate::platform::confined`]), reads from a pipe wherever that is possible, and may open nothing by
//! an address.

use crate::platform::confined::{self, Bounds};
use crate::video::{Browser, Kind, Probe, Reading, Refused, Source};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Pictures on a storyboard, and in a row of it.
const PICTURES: u64 = 60;
const COLUMNS: u8 = 10;
/// The largest picture that is taken from it.
const MAX_PICTURE: u64 = 8 << 20;
/// So long a poster may take, and a storyboard or another container for each hour of film.
const QUICK: Duration = Duration::from_secs(60);
const SLOW: Duration = Duration::from_secs(1800);
/// Containers that are read. Lists of addresses, which would make it open others, are none of them.
const CONTAINERS: &str =
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpegts,mpeg,avi,flv,asf,ogg,dv,mxf,rm,nut,swf,ivf";

fn refused<T>(why: impl Into<String>) -> Result<T, Refused> {
    Err(Refused(why.into()))
}

/// Where ffmpeg is.
pub fn find() -> Result<PathBuf, Refused> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("ffmpeg")).find(|file| file.is_file());
    found.ok_or_else(|| {
        Refused("ffmpeg is not installed (apt-get install ffmpeg): all else works without it".into())
    })
}

/// The container of a film as ffmpeg calls it.
fn container(mime: &str) -> &'static str {
    match mime {
        "video/x-matroska" | "video/webm" => "matroska",
        "video/mp2t" => "mpegts",
        _ => "mov",
    }
}

/// A picture out of the beginning of a film, as JPEG.
pub fn poster(film: Reading, source: &dyn Source, probe: &Probe) -> Result<Vec<u8>, Refused> {
    // Not the first one, which is black so often; the most typical of some.
    let skipped = if probe.duration_ms > 20_000 { "5" } else { "0" };
    let args = ["-ss", skipped, "-i", "pipe:0", "-map", "0:v:0", "-an", "-vf", "thumbnail=50,scale=640:-2"];
    picture(film, source, &probe.mime, &args, QUICK)
}

/// Small pictures of all of a film in rows of [`COLUMNS`]: the sheet as JPEG, and milliseconds from one to the next.
pub fn storyboard(film: Reading, source: &dyn Source, probe: &Probe) -> Result<(Vec<u8>, u32, u8), Refused> {
    if probe.duration_ms < 2 * PICTURES {
        return refused("a storyboard needs a film that says how long it is");
    }
    let step_ms = probe.duration_ms.div_ceil(PICTURES);
    let filter =
        format!("fps=1000/{step_ms}:round=up,scale=160:-2,tile={COLUMNS}x{}", PICTURES / u64::from(COLUMNS));
    let args = ["-skip_frame", "nokey", "-i", "pipe:0", "-map", "0:v:0", "-an", "-vf", &filter];
    let sheet = picture(film, source, &probe.mime, &args, slow(probe))?;
    Ok((sheet, u32::try_from(step_ms).unwrap_or(u32::MAX), COLUMNS))
}

fn slow(probe: &Probe) -> Duration {
    SLOW * (1 + (probe.duration_ms / 3_600_000).min(24) as u32)
}

/// ffmpeg within bounds, which opens nothing but by this protocol.
fn command(bounds: &Bounds, protocol: &str) -> Result<Command, Refused> {
    let mut command = confined::command(&find()?, bounds).map_err(|e| Refused(e.what))?;
    // With all that it might start it is ended as one.
    command.process_group(0);
    command.args(["-nostdin", "-v", "error", "-protocol_whitelist", protocol]);
    Ok(command)
}

fn picture(
    film: Reading,
    source: &dyn Source,
    mime: &str,
    args: &[&str],
    most: Duration,
) -> Result<Vec<u8>, Refused> {
    let bounds = Bounds { cpu_s: most.as_secs(), file_bytes: MAX_PICTURE, ..Bounds::default() };
    let mut command = command(&bounds, "pipe")?;
    command.args(["-threads", "2", "-f", container(mime)]);
    command.args(args).args(["-frames:v", "1", "-c:v", "mjpeg", "-q:v", "4", "-f", "image2pipe", "pipe:1"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| Refused(format!("ffmpeg could not be started: {e}")))?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let running = Running::new(child, most);
    let mut out = Vec::new();
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut bytes = Vec::new();
            let read = stdout.map(|stdout| stdout.take(MAX_PICTURE).read_to_end(&mut bytes));
            if read.is_some_and(|read| read.is_ok()) { bytes } else { Vec::new() }
        });
        feed(film, source, stdin, most);
        out = reading.join().unwrap_or_default();
    });
    running.end()?;
    if out.is_empty() { refused("ffmpeg found no picture in it") } else { Ok(out) }
}

/// Gives a film to the program until it has enough.
fn feed(mut film: Reading, source: &dyn Source, stdin: Option<std::process::ChildStdin>, most: Duration) {
    let Some(mut stdin) = stdin else { return };
    let begun = Instant::now();
    while begun.elapsed() < most {
        match film.next(source, 1 << 18) {
            Ok(chunk) if !chunk.is_empty() && stdin.write_all(&chunk).is_ok() => {}
            _ => break,
        }
    }
}

/// What the program says at most.
const MAX_WORDS: u64 = 4096;

/// The program at work: what it says is read all the time, and it is ended when it takes too long, whatever waits for
/// its pipes meanwhile.
struct Running {
    watch: std::thread::JoinHandle<Option<std::process::ExitStatus>>,
    words: Arc<Mutex<String>>,
}

impl Running {
    fn new(mut child: Child, most: Duration) -> Self {
        let words = Arc::new(Mutex::new(String::new()));
        let (stderr, said) = (child.stderr.take(), words.clone());
        let watch = std::thread::spawn(move || {
            let listening = std::thread::spawn(move || listen(stderr, &said));
            let begun = Instant::now();
            let status = loop {
                match child.try_wait() {
                    Ok(Some(status)) => break Some(status),
                    Ok(None) if begun.elapsed() < most => std::thread::sleep(Duration::from_millis(20)),
                    _ => {
                        end_group(&child);
                        let _ = child.kill();
                        let _ = child.wait();
                        break None;
                    }
                }
            };
            let _ = listening.join();
            status
        });
        Self { watch, words }
    }

    /// Waits for it.
    fn end(self) -> Result<(), Refused> {
        match self.watch.join().ok().flatten() {
            Some(status) if status.success() => Ok(()),
            Some(_) => {
                let said = self.words.lock().unwrap_or_else(PoisonError::into_inner);
                let last =
                    said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("without a word");
                refused(format!("ffmpeg could not read it: {last}"))
            }
            None => refused("ffmpeg took too long and was ended"),
        }
    }
}

fn end_group(child: &Child) {
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(group) = pid {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
}

/// Reads all that the program says and keeps the beginning.
fn listen(stderr: Option<ChildStderr>, said: &Mutex<String>) {
    let Some(mut stderr) = stderr else { return };
    let mut first = Vec::new();
    let _ = stderr.by_ref().take(MAX_WORDS).read_to_end(&mut first);
    *said.lock().unwrap_or_else(PoisonError::into_inner) = String::from_utf8_lossy(&first).into_owned();
    let _ = std::io::copy(&mut stderr, &mut std::io::sink());
}

/// Writes the film in `input` as an MP4 into `folder`: pictures as they are, sound as AAC unless browsers play it.
/// `probe`: what is known of it.
pub fn convert(input: &Path, probe: Option<&Probe>, folder: &Path) -> Result<PathBuf, Refused> {
    let out = folder.join("film.mp4");
    let plays = |kind: Kind| {
        let mut tracks = probe.into_iter().flat_map(|probe| &probe.tracks).filter(|track| track.kind == kind);
        tracks.all(|track| track.browser == Browser::Yes)
    };
    let sound = if probe.is_some_and(|probe| !probe.tracks.is_empty()) && plays(Kind::Audio) {
        "copy"
    } else {
        "aac"
    };
    let most = probe.map_or(SLOW, slow);
    let len = std::fs::metadata(input).map_or(0, |about| about.len());
    let bounds = Bounds {
        cpu_s: most.as_secs(),
        file_bytes: len.saturating_mul(2).saturating_add(64 << 20),
        reads: vec![input.to_owned()],
        writes: Some(folder.to_owned()),
    };
    let mut command = command(&bounds, "file")?;
    command.args(["-format_whitelist", CONTAINERS, "-i"]);
    command.arg(input).args(["-map", "0:v:0", "-map", "0:a?", "-map_metadata", "-1", "-map_chapters", "-1"]);
    command.args(["-c:v", "copy", "-c:a", sound, "-f", "mp4"]).arg(&out);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().map_err(|e| Refused(format!("ffmpeg could not be started: {e}")))?;
    Running::new(child, most).end()?;
    Ok(out)
}
