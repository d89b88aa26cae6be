//! Nodes as child processes, the command line as its users see it, and the only place that waits.
//!
//! A [`Node`] owns its home and its process: dropping it ends the process by id and removes the
//! home. Every wait has a deadline, so a hanging node is a failed test and not a hanging one.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// The binary under test.
pub(crate) const KITH: &str = env!("CARGO_BIN_EXE_kith");
/// Most tests fetch through a common friend by `--route auto`, which is what `fast` does; a handful of
/// nodes makes no circuits. Tests of the other modes give a node this variable with another value, or
/// an empty one for the default.
const PRIVACY: (&str, &str) = ("KITH_PRIVACY", "fast");
/// How long a node may take to print its ready line.
const READY: Duration = Duration::from_secs(20);
/// How long a single command may take.
const COMMAND: Duration = Duration::from_secs(60);
/// How long a node may take to end after SIGTERM.
const STOP: Duration = Duration::from_secs(5);
/// How long something that travels between nodes may take: connecting, catalogue batches.
pub(crate) const SOON: Duration = Duration::from_secs(30);

// ---- waiting ------------------------------------------------------------------------------------

/// Asks again until `holds` or the time is over; the only place that sleeps.
pub(crate) fn poll(time: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + time;
    let mut pause = Duration::from_millis(2);
    loop {
        if holds() {
            return true;
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        thread::sleep(pause.min(left));
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Waits until `holds`; fails the test, naming `what`, when it does not happen in time.
#[track_caller]
pub(crate) fn wait_until(time: Duration, what: &str, holds: impl FnMut() -> bool) {
    assert!(poll(time, holds), "not within {time:?}: {what}");
}

/// Fails the test if `happens` becomes true within `time`.
#[track_caller]
pub(crate) fn never_within(time: Duration, what: &str, happens: impl FnMut() -> bool) {
    assert!(!poll(time, happens), "must not happen: {what}");
}

/// Lets time pass that the test itself is about (an expiry, an idle measurement).
pub(crate) fn let_pass(time: Duration) {
    poll(time, || false);
}

// ---- commands -----------------------------------------------------------------------------------

/// What a finished command left behind.
#[derive(Debug)]
pub(crate) struct Output {
    /// Exit code; -1 after a signal.
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

impl Output {
    pub(crate) fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub(crate) fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// The one JSON document on stdout of a command that succeeded.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        self.expect_code(&[0]);
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|e| panic!("stdout is not one JSON document: {e}\n{}", self.out()))
    }

    #[track_caller]
    pub(crate) fn expect_code(&self, allowed: &[i32]) -> &Self {
        assert!(
            allowed.contains(&self.code),
            "exit code {} instead of {allowed:?}\nstdout: {}\nstderr: {}",
            self.code,
            self.out(),
            self.err()
        );
        self
    }

    /// A refusal as the contract has it: one of these codes and one line on stderr.
    #[track_caller]
    pub(crate) fn expect_refusal(&self, allowed: &[i32]) -> &Self {
        self.expect_code(allowed);
        let text = self.err();
        // What a fetch says before it asks anybody is no error.
        let is_error = |line: &&str| !line.trim().is_empty() && !line.starts_with("who learns what: ");
        let lines = text.lines().filter(is_error).count();
        assert_eq!(lines, 1, "an error is one line, not:\n{text}");
        assert!(!text.contains("panicked"), "{text}");
        self
    }
}

/// A command that is still running; its outputs are collected by threads, so it never blocks.
pub(crate) struct Running {
    child: Child,
    stdout: Option<thread::JoinHandle<Vec<u8>>>,
    stderr: Option<thread::JoinHandle<Vec<u8>>>,
}

impl Running {
    pub(crate) fn start(command: Command, stdin: &[u8]) -> Self {
        Self::start_onto(Stdio::piped(), command, stdin)
    }

    /// Like [`Running::start`], with stdout going somewhere else.
    pub(crate) fn start_onto(stdout: Stdio, mut command: Command, stdin: &[u8]) -> Self {
        command.stdin(Stdio::piped()).stdout(stdout).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the command starts");
        let mut pipe = child.stdin.take().expect("stdin is piped");
        let bytes = stdin.to_vec();
        // A command may refuse without reading its input: a broken pipe is its right.
        thread::spawn(move || pipe.write_all(&bytes));
        let (stdout, stderr) = (child.stdout.take().map(collect), child.stderr.take().map(collect));
        Self { child, stdout, stderr }
    }

    /// A child that was started in another way, with nothing on stdin to be written.
    pub(crate) fn of(mut child: Child) -> Self {
        let (stdout, stderr) = (child.stdout.take().map(collect), child.stderr.take().map(collect));
        Self { child, stdout, stderr }
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("the child can be asked").is_none()
    }

    pub(crate) fn kill(&mut self) {
        // Only fails when the process has ended already.
        let _ = self.child.kill();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the signal can be sent");
    }

    /// Waits for the end of the command; one that takes longer is killed and fails the test.
    #[track_caller]
    pub(crate) fn finish(mut self, time: Duration) -> Output {
        if !poll(time, || !self.is_running()) {
            self.kill();
            let _ = self.child.wait();
            let err = self.stderr.take().map(|t| t.join().unwrap_or_default()).unwrap_or_default();
            panic!("the command did not end within {time:?}: {}", String::from_utf8_lossy(&err));
        }
        self.collected()
    }

    fn collected(&mut self) -> Output {
        let status = self.child.wait().expect("the child can be waited for");
        let join = |handle: Option<thread::JoinHandle<Vec<u8>>>| {
            handle.map(|h| h.join().expect("the reader does not fail")).unwrap_or_default()
        };
        let (stdout, stderr) = (join(self.stdout.take()), join(self.stderr.take()));
        Output { code: status.code().unwrap_or(-1), stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

fn collect(mut from: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is still what the command wrote.
        let _ = from.read_to_end(&mut bytes);
        bytes
    })
}

/// `kith` with nothing inherited that could steer it: no `KITH_*`, and a home of its own.
pub(crate) fn command<S: AsRef<OsStr>>(home: &Path, args: &[S]) -> Command {
    let mut command = Command::new(KITH);
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("KITH_") || key == "NO_COLOR" {
            command.env_remove(key);
        }
    }
    command.env("KITH_HOME", home).env("HOME", home).args(args);
    command
}

/// Runs `kith` on a home, whether or not a node runs there.
#[track_caller]
pub(crate) fn kith_at<S: AsRef<OsStr>>(home: &Path, args: &[S]) -> Output {
    Running::start(command(home, args), b"").finish(COMMAND)
}

/// Like [`kith_at`], with something on stdin.
#[track_caller]
pub(crate) fn kith_at_with<S: AsRef<OsStr>>(home: &Path, args: &[S], stdin: &[u8]) -> Output {
    Running::start(command(home, args), stdin).finish(COMMAND)
}

/// Runs `kith` against a running node.
#[track_caller]
pub(crate) fn kith<S: AsRef<OsStr>>(node: &Node, args: &[S]) -> Output {
    kith_at(&node.home, args)
}

/// Runs `kith` against a running node with something on stdin.
#[track_caller]
pub(crate) fn kith_with<S: AsRef<OsStr>>(node: &Node, args: &[S], stdin: &[u8]) -> Output {
    kith_at_with(&node.home, args, stdin)
}

/// Runs a reading command with `--json` and returns the document.
#[track_caller]
pub(crate) fn json(node: &Node, args: &[&str]) -> Value {
    kith(node, &[args, &["--json"]].concat()).json()
}

// ---- nodes --------------------------------------------------------------------------------------

/// A running (or killed) node with its own home.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) home: PathBuf,
    pub(crate) ready: Value,
    env: Vec<(String, String)>,
    /// The network namespace that its process runs in.
    pub(crate) netns: Option<String>,
    child: Option<Child>,
    log: PathBuf,
    /// Removed last, when the process is gone.
    dir: TempDir,
}

impl Node {
    pub(crate) fn start(name: &str) -> Self {
        Self::start_with(name, &[])
    }

    /// Starts a node with more environment variables.
    pub(crate) fn start_with(name: &str, env: &[(&str, &str)]) -> Self {
        let mut node = Self::stopped(name, env);
        node.up("127.0.0.1:0", &["--name", name]);
        node
    }

    /// A home without a process, for tests that start it in another way.
    pub(crate) fn stopped(name: &str, env: &[(&str, &str)]) -> Self {
        let dir = tempfile::Builder::new().prefix("kith-e2e-").tempdir().expect("a temporary folder");
        let home = dir.path().join("home");
        fs::create_dir(&home).expect("the home can be made");
        let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let log = dir.path().join("stderr.log");
        Self { name: name.to_owned(), home, ready: Value::Null, env, netns: None, child: None, log, dir }
    }

    /// The same for a process that will run in a network namespace.
    pub(crate) fn stopped_in(netns: &str, name: &str, env: &[(&str, &str)]) -> Self {
        let mut node = Self::stopped(name, env);
        node.netns = Some(netns.to_owned());
        node
    }

    /// Starts the process on this home and reads its ready line.
    #[track_caller]
    pub(crate) fn up(&mut self, listen: &str, more: &[&str]) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let mut command = command(&self.home, &up_args(&self.home, listen, more));
        if let Some(netns) = &self.netns {
            command = in_namespace(netns, &command);
        }
        let log = File::options().create(true).append(true).open(&self.log).expect("the log opens");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        command.env(PRIVACY.0, PRIVACY.1);
        command.envs(self.env.iter().map(|(k, v)| (k, v)));
        let mut child = command.spawn().expect("kith starts");
        let lines = lines_of(child.stdout.take().expect("stdout is piped"));
        self.child = Some(child);
        let line = lines
            .recv_timeout(READY)
            .unwrap_or_else(|_| panic!("no ready line from {} within {READY:?}:\n{}", self.name, self.log()));
        self.ready = serde_json::from_str(&line)
            .unwrap_or_else(|e| panic!("the ready line is not JSON: {e}: {line}\n{}", self.log()));
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("the node runs").id()
    }

    /// The first address on which friends reach this node.
    pub(crate) fn listen(&self) -> String {
        let places = self.ready["listen"].as_array().expect("the ready line names listen addresses");
        // With nothing but Tor there are none.
        places.first().and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// `host:port` of the loopback HTTP listener.
    pub(crate) fn web(&self) -> String {
        let url = self.ready["web"].as_str().expect("the ready line names the web address");
        let authority = url.strip_prefix("http://").expect("an http address").trim_end_matches('/');
        authority.to_owned()
    }

    /// SIGKILL: nothing can be tidied up.
    pub(crate) fn kill9(&mut self) {
        let mut child = self.child.take().expect("the node runs");
        child.kill().expect("a running node can be killed");
        child.wait().expect("and waited for");
    }

    /// Hands over the process, which is ended when it is dropped; the node can be started again.
    pub(crate) fn let_go(&mut self) -> Running {
        Running::of(self.child.take().expect("the node runs"))
    }

    /// Starts the process where it was and kills it so long after, ready or not.
    pub(crate) fn up_and_kill9(&mut self, after: Duration) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let mut command = command(&self.home, &up_args(&self.home, &self.listen(), &[]));
        let log = File::options().create(true).append(true).open(&self.log).expect("the log opens");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.env(PRIVACY.0, PRIVACY.1);
        command.envs(self.env.iter().map(|(k, v)| (k, v)));
        self.child = Some(command.spawn().expect("kith starts"));
        let_pass(after);
        self.kill9();
    }

    /// SIGSTOP: the process keeps its connections and says nothing.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT after [`Node::freeze`].
    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("the node runs");
        kill_process(Pid::from_child(child), signal).expect("the signal can be sent");
    }

    /// SIGTERM and the exit status; the test fails if it takes more than five seconds.
    #[track_caller]
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_for_end()
    }

    /// Waits for a process that was asked to end.
    #[track_caller]
    pub(crate) fn wait_for_end(&mut self) -> ExitStatus {
        let child = self.child.as_mut().expect("the node runs");
        let mut status = None;
        wait_until(STOP, "the node ends", || {
            status = child.try_wait().expect("the child can be asked");
            status.is_some()
        });
        self.child = None;
        status.expect("it has ended")
    }

    /// Starts again on the same home and the same port, after ending the process if it runs.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        let listen = self.listen();
        self.restart_at(&listen);
    }

    /// Starts again on the same home and another address. The name is not given again: it belongs
    /// to the home.
    #[track_caller]
    pub(crate) fn restart_at(&mut self, listen: &str) {
        if self.child.is_some() {
            self.terminate();
        }
        self.up(listen, &[]);
    }

    /// What the process has written to stderr over all its starts.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// A path beside the home, removed with the node.
    pub(crate) fn scratch(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(child) = self.child.as_mut() {
            let _ = kill_process(Pid::from_child(child), Signal::TERM);
            if !poll(STOP, || !matches!(child.try_wait(), Ok(None))) {
                let _ = child.kill();
            }
            let _ = child.wait();
        }
        if thread::panicking() {
            let log = self.log();
            let from = log.lines().count().saturating_sub(20);
            for line in log.lines().skip(from) {
                eprintln!("[{}] {line}", self.name);
            }
        }
    }
}

/// Does it on a thread inside a network namespace: sockets that are made there stay there.
pub(crate) fn in_space<T: Send>(name: &str, act: impl FnOnce() -> T + Send) -> T {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    use std::os::fd::AsFd as _;
    let inside = || {
        let space = File::open(Path::new("/run/netns").join(name)).expect("the namespace");
        move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("root may enter it");
        act()
    };
    std::thread::scope(|scope| scope.spawn(inside).join().expect("the thread ends"))
}

/// The same command in a network namespace; its process has the id of the command itself.
pub(crate) fn in_namespace(netns: &str, command: &Command) -> Command {
    let mut inside = Command::new("ip");
    inside.args(["netns", "exec", netns]).arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => inside.env(key, value),
            None => inside.env_remove(key),
        };
    }
    inside
}

/// The arguments with which every node here is started; without a place to listen none is named.
pub(crate) fn up_args(home: &Path, listen: &str, more: &[&str]) -> Vec<OsString> {
    let mut args: Vec<OsString> = vec!["up".into(), "--home".into(), home.into()];
    let rest = ["--web", "127.0.0.1:0", "--json"];
    if !listen.is_empty() {
        args.extend(["--listen", listen].map(Into::into));
    }
    let faster = ["--set", "catalogue.batch=1s", "--set", "catalogue.spread=1s"];
    args.extend(rest.iter().chain(&faster).chain(more).map(Into::into));
    args
}

pub(crate) fn lines_of(stdout: ChildStdout) -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            // Nobody listens after the ready line; the pipe is still drained.
            let _ = send.send(line);
        }
    });
    receive
}

// ---- friends ------------------------------------------------------------------------------------

/// A fresh invite of this node.
#[track_caller]
pub(crate) fn invite(node: &Node) -> String {
    let answer = json(node, &["friend", "invite"]);
    answer["invite"].as_str().expect("an invite is text").to_owned()
}

/// The row of `friend list` with this name.
#[track_caller]
pub(crate) fn friend(node: &Node, name: &str) -> Option<Value> {
    let list = json(node, &["friend", "list"]);
    list.as_array().expect("a list").iter().find(|row| row["name"] == name).cloned()
}

#[track_caller]
pub(crate) fn friend_count(node: &Node) -> usize {
    json(node, &["friend", "list"]).as_array().expect("a list").len()
}

pub(crate) fn is_online(node: &Node, name: &str) -> bool {
    friend(node, name).is_some_and(|row| row["state"] == "online")
}

/// Waits until both sides say that they are connected.
#[track_caller]
pub(crate) fn wait_connected(a: &Node, b: &Node) {
    wait_until(SOON, &format!("{} sees {} online", a.name, b.name), || is_online(a, &b.name));
    wait_until(SOON, &format!("{} sees {} online", b.name, a.name), || is_online(b, &a.name));
}

/// Makes two running nodes friends: an invite on one, `friend add -` on the other.
#[track_caller]
pub(crate) fn befriend(inviter: &Node, invited: &Node) {
    let line = invite(inviter);
    let added = kith_with(invited, &["friend", "add", "-", "--json"], line.as_bytes()).json();
    assert_eq!(added["name"], inviter.name.as_str(), "{added}");
    assert_eq!(added["state"], "online", "{added}");
    wait_connected(inviter, invited);
}

const NAMES: [&str; 4] = ["Ana", "Bo", "Cleo", "Dora"];

/// Starts `N` nodes whose neighbours are friends.
#[track_caller]
pub(crate) fn line_of<const N: usize>() -> [Node; N] {
    line_named(std::array::from_fn(|i| NAMES[i]), &[])
}

/// Like [`line_of`], with names and environment.
#[track_caller]
pub(crate) fn line_named<const N: usize>(names: [&str; N], env: &[(&str, &str)]) -> [Node; N] {
    let nodes = names.map(|name| Node::start_with(name, env));
    for pair in nodes.windows(2) {
        befriend(&pair[0], &pair[1]);
    }
    nodes
}

// ---- objects ------------------------------------------------------------------------------------

/// Publishes a file byte for byte; returns what `publish --json` said.
#[track_caller]
pub(crate) fn publish(node: &Node, file: &Path, title: &str, to: &str) -> Value {
    let file = file.to_str().expect("temporary paths are text");
    let args = ["publish", file, "--title", title, "--to", to, "--keep-metadata", "--any-file", "--json"];
    kith(node, &args).json()
}

/// The id in an answer of `publish` or a row of `search`.
#[track_caller]
pub(crate) fn id_of(answer: &Value) -> String {
    let id = answer["id"].as_str().unwrap_or_else(|| panic!("no id in {answer}"));
    assert!(id.len() == 64 && id.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c)), "{id}");
    id.to_owned()
}

/// The row for `id` among the results of a search for `words`.
#[track_caller]
pub(crate) fn found(node: &Node, words: &str, id: &str) -> Option<Value> {
    let rows = json(node, &["search", words]);
    rows.as_array().expect("an array").iter().find(|row| row["id"] == id).cloned()
}

/// Waits until a search shows the object, and returns its row.
#[track_caller]
pub(crate) fn wait_found(node: &Node, words: &str, id: &str) -> Value {
    let mut row = None;
    wait_until(SOON, &format!("{} finds {words:?}", node.name), || {
        row = found(node, words, id);
        row.is_some()
    });
    row.expect("it was found")
}

/// Bytes that no two calls share and that do not compress.
pub(crate) fn random_bytes(len: usize) -> Vec<u8> {
    use std::hash::{BuildHasher, RandomState};
    let mut state = RandomState::new().hash_one(len) | 1;
    let mut bytes = vec![0; len];
    for chunk in bytes.chunks_mut(8) {
        // xorshift64*: fast, and looks like nothing to a sniffer of file types.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let word = state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
    bytes
}

/// Writes a file of random bytes beside the node's home.
pub(crate) fn random_file(node: &Node, name: &str, len: usize) -> (PathBuf, Vec<u8>) {
    let (path, bytes) = (node.scratch(name), random_bytes(len));
    fs::write(&path, &bytes).expect("a file can be written");
    (path, bytes)
}

/// Compares a file with what it must hold, without printing either.
#[track_caller]
pub(crate) fn assert_same(path: &Path, expected: &[u8]) {
    let bytes = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(bytes.len(), expected.len(), "length of {}", path.display());
    if bytes != expected {
        let first = bytes.iter().zip(expected).position(|(a, b)| a != b);
        panic!("{} differs from byte {first:?} on", path.display());
    }
}

/// One request over the node's socket, without a command in between.
pub(crate) fn api(node: &Node, method: &str, path: &str, body: Option<&Value>) -> Value {
    let socket = node.ready["socket"].as_str().expect("the node names its socket");
    let mut socket = UnixStream::connect(socket).expect("the node listens");
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: kith\r\nConnection: close\r\n");
    let body = body.map(Value::to_string).unwrap_or_default();
    if !body.is_empty() {
        request += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    }
    socket.write_all(format!("{request}\r\n{body}").as_bytes()).expect("the node takes a request");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("the node answers");
    let (_, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {answer}"))
}

/// What the node's API shows there.
pub(crate) fn request(node: &Node, method: &str, path: &str) -> Value {
    api(node, method, path, None)
}

// ---- real video ---------------------------------------------------------------------------------

/// A video that ffmpeg made.
pub(crate) struct Clip {
    pub(crate) path: PathBuf,
    pub(crate) bytes: Vec<u8>,
    _dir: TempDir,
}

/// A real MP4 of so many seconds, or nothing where ffmpeg is absent (which is a failure in CI).
pub(crate) fn sample_video(seconds: u32) -> Option<Clip> {
    static MADE: LazyLock<Mutex<BTreeMap<u32, Vec<u8>>>> = LazyLock::new(Mutex::default);
    if !has_ffmpeg() {
        return None;
    }
    let dir = tempfile::Builder::new().prefix("kith-clip-").tempdir().expect("a temporary folder");
    let path = dir.path().join("clip.mp4");
    let mut made = MADE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let bytes = made.entry(seconds).or_insert_with(|| {
        encode(seconds, &path);
        fs::read(&path).expect("ffmpeg wrote the clip")
    });
    fs::write(&path, &*bytes).expect("the clip can be written");
    Some(Clip { path, bytes: bytes.clone(), _dir: dir })
}

/// A real MP4 that is at least `len` bytes long: a `free` box of noise stands behind the video.
pub(crate) fn long_video(seconds: u32, len: usize) -> Option<Clip> {
    let mut clip = sample_video(seconds)?;
    let noise = random_bytes(len);
    let size = u32::try_from(noise.len() + 8).expect("a small box");
    clip.bytes.extend(size.to_be_bytes());
    clip.bytes.extend(b"free");
    clip.bytes.extend(noise);
    fs::write(&clip.path, &clip.bytes).expect("the clip can be written");
    Some(clip)
}

/// A real MP4 of so many seconds and kilobits a second, with a picture to seek to in each second.
pub(crate) fn paced_video(seconds: u32, kilobits: u32) -> Option<Clip> {
    if !has_ffmpeg() {
        return None;
    }
    let dir = tempfile::Builder::new().prefix("kith-clip-").tempdir().expect("a temporary folder");
    let path = dir.path().join("clip.mp4");
    let picture = format!("testsrc2=size=640x360:rate=25:duration={seconds}");
    let sound = format!("sine=frequency=440:duration={seconds}");
    let rate = format!("{kilobits}k");
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-loglevel", "error", "-f", "lavfi", "-i", &picture]);
    command.args(["-f", "lavfi", "-i", &sound, "-c:v", "libx264", "-preset", "ultrafast"]);
    command.args(["-pix_fmt", "yuv420p", "-g", "25", "-b:v", &rate, "-minrate", &rate, "-maxrate", &rate]);
    command.args(["-bufsize", &rate, "-x264-params", "nal-hrd=cbr", "-c:a", "aac", "-b:a", "64k"]);
    command.args(["-movflags", "+faststart", "-threads", "1"]).arg(&path);
    assert!(command.status().expect("ffmpeg starts").success(), "ffmpeg could not make the clip");
    let bytes = fs::read(&path).expect("ffmpeg wrote the clip");
    Some(Clip { path, bytes, _dir: dir })
}

/// Whether a program is there; if not, says how to get it, which is a failure in CI.
pub(crate) fn has_program(program: &str, package: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    if !there {
        lacks(&format!("this test needs {program}: apt-get install {package}"));
    }
    there
}

/// A Tor network and its clients take both processors for minutes, and what is played meanwhile stops for that.
static TOR_NETWORKS: RwLock<()> = RwLock::new(());

/// Waits until no film is played that must not stop.
pub(crate) fn tor_network() -> RwLockReadGuard<'static, ()> {
    TOR_NETWORKS.read().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until no Tor network stands, and keeps others from being made.
pub(crate) fn without_tor_networks() -> RwLockWriteGuard<'static, ()> {
    TOR_NETWORKS.write().unwrap_or_else(PoisonError::into_inner)
}

/// Says what a test needs that is not here; with `CI=true` it fails. Past the runner, which shows what failing tests print.
pub(crate) fn lacks(advice: &str) {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{advice}");
    let _ = writeln!(std::io::stderr(), "{advice}");
}

fn has_ffmpeg() -> bool {
    let runs = |tool: &str| {
        Command::new(tool).arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    };
    let there = runs("ffmpeg") && runs("ffprobe");
    if !there {
        lacks("this test needs ffmpeg and ffprobe: apt-get install ffmpeg");
    }
    there
}

fn encode(seconds: u32, to: &Path) {
    let picture = format!("testsrc2=size=320x180:rate=24:duration={seconds}");
    let sound = format!("sine=frequency=440:duration={seconds}");
    let status = Command::new("ffmpeg")
        .args(["-nostdin", "-loglevel", "error", "-f", "lavfi", "-i", &picture, "-f", "lavfi", "-i", &sound])
        .args(["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac"])
        .args(["-shortest", "-movflags", "+faststart", "-threads", "1"])
        .arg(to)
        .status();
    assert!(status.expect("ffmpeg starts").success(), "ffmpeg could not make the clip");
}

/// Duration in seconds as ffprobe reads it from a path or an address; fails if it finds no video
/// stream.
#[track_caller]
pub(crate) fn ffprobe(source: &str) -> f64 {
    let mut command = Command::new("ffprobe");
    command.args(["-v", "error", "-of", "json", "-show_entries", "format=duration:stream=codec_type"]);
    command.arg(source);
    let probed = Running::start(command, b"").finish(COMMAND).json();
    let streams = probed["streams"].as_array().expect("ffprobe lists streams");
    assert!(streams.iter().any(|s| s["codec_type"] == "video"), "{probed}");
    let duration = probed["format"]["duration"].as_str().expect("ffprobe names a duration");
    duration.parse().expect("the duration is a number")
}
