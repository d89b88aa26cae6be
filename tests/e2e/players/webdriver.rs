//! chromedriver as a child, and one session of it with a browser that has no window.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::poll;

/// How long chromedriver may take for anything, starting the browser included.
const ANSWER: Duration = Duration::from_secs(30);
/// How long all processes may take to end by themselves.
const STOP: Duration = Duration::from_secs(3);
const PROGRAMS: [&str; 2] = ["chromedriver", "chromium"];
const FLAGS: [&str; 10] = [
    "--headless=new",
    // Root may not use the sandbox; without a zygote fewer processes outlive the browser for a moment.
    "--no-sandbox",
    "--no-zygote",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--mute-audio",
    "--no-first-run",
    "--password-store=basic",
    "--autoplay-policy=no-user-gesture-required",
];

/// chromedriver and the one browser that it has started; dropping it ends both.
pub(crate) struct Driver {
    child: Child,
    address: String,
    /// Empty before there is one.
    session: String,
    /// For everything that any of the processes writes.
    folder: PathBuf,
}

impl Driver {
    /// Nothing where the programs are not installed.
    pub(crate) fn start() -> Option<Self> {
        // Going to an address returns at once, not when a picture has come.
        Self::start_with(&[], "none")
    }

    /// The same with more flags of the browser, and what going to an address waits for.
    pub(crate) fn start_with(more: &[String], strategy: &str) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let path = env::var_os("PATH")?;
        let there = |program: &&str| env::split_paths(&path).any(|dir| dir.join(program).is_file());
        PROGRAMS.iter().all(there).then_some(())?;
        let name = format!("players-{}-{}", process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let folder = env::temp_dir().join(name);
        fs::create_dir_all(&folder).expect("a temporary folder");
        let mut command = Command::new(PROGRAMS[0]);
        // It chooses a free port and names it.
        command.arg("--port=0").env("HOME", &folder).env("TMPDIR", &folder).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("chromedriver starts");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let mut driver = Self { child, address: String::new(), session: String::new(), folder };
        let port = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let port = line.split_once("started successfully on port ")?.1;
            port.trim_end_matches('.').parse::<u16>().ok()
        });
        driver.address = format!("127.0.0.1:{}", port.expect("chromedriver names its port"));
        // What else it says is read, so that it never waits for a reader.
        thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        let mut flags = FLAGS.map(str::to_owned).to_vec();
        flags.push(format!("--user-data-dir={}", driver.folder.join("profile").display()));
        flags.extend(more.iter().cloned());
        let logs = json!({ "browser": "ALL", "performance": "ALL" });
        let wanted = json!({ "capabilities": { "alwaysMatch": { "pageLoadStrategy": strategy,
            "goog:loggingPrefs": logs, "goog:chromeOptions": { "args": flags } } } });
        let made = driver.call("POST", "/session", &wanted).expect("the browser starts");
        driver.session = made["sessionId"].as_str().expect("a session has an id").to_owned();
        Some(driver)
    }

    /// A request on a connection of its own; paths are those within the session once there is one.
    pub(crate) fn call(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let text = |e: std::io::Error| e.to_string();
        let mut stream = TcpStream::connect(&self.address).map_err(text)?;
        stream.set_read_timeout(Some(ANSWER)).map_err(text)?;
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let within = if self.session.is_empty() { "" } else { "/session/" };
        let mut request = format!("{method} {within}{}{path} HTTP/1.1\r\n", self.session);
        request += &format!("Host: {}\r\nConnection: close\r\n", self.address);
        request += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).map_err(text)?;
        let (mut reader, mut line, mut len) = (BufReader::new(stream), String::new(), 0);
        while reader.read_line(&mut line).map_err(text)? > 2 {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                len = value.trim().parse().map_err(|_| "not a length")?;
            }
            line.clear();
        }
        let mut bytes = vec![0; len];
        reader.read_exact(&mut bytes).map_err(text)?;
        let mut answer: Value = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
        match answer["value"]["error"].as_str() {
            Some(error) => Err(format!("{error}: {}", answer["value"]["message"])),
            None => Ok(answer["value"].take()),
        }
    }

    /// What a function with this body returns in the page.
    pub(crate) fn script(&self, js: &str) -> Result<Value, String> {
        self.call("POST", "/execute/sync", &json!({ "script": js, "args": [] }))
    }

    /// The processes that were given our folder: the browser and its crash handlers. All others of the
    /// browser end with it.
    fn processes(&self) -> Vec<String> {
        let folder = self.folder.to_string_lossy();
        let all = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
        let ours = all.filter(|process| {
            let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&*folder)
        });
        ours.map(|process| process.file_name().to_string_lossy().into_owned()).collect()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            // Ends the browser; one that does not listen is killed below.
            let _ = self.call("DELETE", "", &Value::Null);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !poll(STOP, || self.processes().is_empty()) {
            let _ = Command::new("kill").arg("-9").args(self.processes()).status();
            poll(STOP, || self.processes().is_empty());
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}
