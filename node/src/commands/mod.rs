//! What each command does: ask the node, show the answer. No state, no protocol.

mod about;
mod backup;
mod bundle;
mod circles;
mod circuits;
mod config;
mod doctor;
mod fetch;
mod folders;
mod friends;
mod install;
mod limits;
mod mirrors;
mod node;
mod page;
mod publish;
mod quota;
mod rekey;
mod store;
mod tor;
mod videos;
mod watch;

pub use about::{completions, man, version};
pub use backup::{ask_restore, restore};
pub use node::paths;
pub use rekey::rekey;

use crate::client::Client;
use crate::config::parse_duration;
use crate::exit::{Context, Exit, Failure};
use crate::paths::Paths;
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

/// A running command: the node's client, and how to show things.
pub struct Shell {
    /// Where everything lies.
    pub paths: Paths,
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

/// Shows how an index is made anew at a start, when that takes more than a second.
pub struct IndexBar {
    since: Instant,
    bar: std::cell::OnceCell<ProgressBar>,
}

impl Default for IndexBar {
    fn default() -> Self {
        Self { since: Instant::now(), bar: std::cell::OnceCell::new() }
    }
}

impl IndexBar {
    /// So many of so many videos are done.
    pub fn show(&self, done: u64, total: u64) {
        if self.bar.get().is_some() || self.since.elapsed() > Duration::from_secs(1) {
            let bar = self.bar.get_or_init(|| videos_bar("making the index anew"));
            bar.set_length(total);
            bar.set_position(done);
        }
    }
}

impl Drop for IndexBar {
    fn drop(&mut self) {
        self.bar.get().inspect(|bar| bar.finish_and_clear());
    }
}

/// A bar that counts videos.
fn videos_bar(what: &'static str) -> ProgressBar {
    let bar = bar(Some(0), what);
    if let Ok(style) = ProgressStyle::with_template("{msg} {bar:30} {pos}/{len} videos {eta} left") {
        bar.set_style(style);
    }
    bar
}

impl Shell {
    async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.client.call(Method::GET, path, None).await
    }

    fn print(&self, value: &Value, human: impl FnOnce() -> String) -> Result<(), Failure> {
        if self.json { out(&value.to_string()) } else { out(human().trim_end()) }
    }
}

fn fields(value: &Value) -> String {
    let fields = value.as_object().into_iter().flatten();
    fields.map(|(name, value)| format!("{name:16} {}\n", field(name, value))).collect()
}

/// Fields whose numbers are moments in Unix seconds.
const MOMENTS: [&str; 6] = ["since", "met", "verified", "keys_rotated", "created", "expires"];

fn field(name: &str, value: &Value) -> String {
    match value {
        Value::String(text) => safe(text),
        Value::Array(list) => list.iter().map(|v| field(name, v)).collect::<Vec<_>>().join(", "),
        Value::Object(parts) => {
            parts.iter().map(|(k, v)| format!("{k} {}", field(k, v))).collect::<Vec<_>>().join(", ")
        }
        Value::Null => "-".into(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::Number(number) => match number.as_u64() {
            Some(bytes) if name.ends_with("bytes") => human_bytes(bytes),
            Some(at) if MOMENTS.contains(&name) => moment(at),
            _ => number.to_string(),
        },
    }
}

/// A moment by this machine's clock on the wall.
fn moment(unix_s: u64) -> String {
    let time = i64::try_from(unix_s).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    time.map_or_else(
        || "-".into(),
        |t| t.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M").to_string(),
    )
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
