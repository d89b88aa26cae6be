//! What stands at rest and who gets at it: passphrases from every source, another lock, key files that
//! are too open, one process per home, and memory that leaves no core file.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use crate::harness::*;

const TOLD: Duration = Duration::from_secs(20);

/// Files with their bytes, modes and time stamps.
pub(crate) type Files = BTreeMap<PathBuf, (Vec<u8>, u32, i64)>;

/// Every file below a folder; the lock file, whose content is a process id, without its content.
pub(crate) fn snapshot(folder: &Path) -> Files {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let meta = path.symlink_metadata().unwrap();
        if meta.is_dir() {
            all.extend(snapshot(&path));
        } else if meta.is_file() {
            let is_lock = path.file_name().is_some_and(|name| name == "lock");
            let bytes = if is_lock { Vec::new() } else { fs::read(&path).unwrap() };
            all.insert(path, (bytes, meta.mode() & 0o777, meta.mtime()));
        }
    }
    all
}

#[track_caller]
fn assert_untouched(folder: &Path, before: &Files) {
    assert_same_files(before, &snapshot(folder));
}

/// Fails naming the files that differ, without printing their bytes.
#[track_caller]
pub(crate) fn assert_same_files(before: &Files, after: &Files) {
    assert!(before.keys().eq(after.keys()), "{:?}\nbecame {:?}", before.keys(), after.keys());
    let changed: Vec<&PathBuf> =
        before.iter().filter(|(path, what)| after[*path] != **what).map(|(path, _)| path).collect();
    assert!(changed.is_empty(), "changed: {changed:?}");
}

/// A file that only its owner reads, beside the node's home.
fn secret_file(node: &Node, name: &str, text: &str) -> String {
    let path = node.scratch(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

fn up(node: &Node, more: &[&str]) -> Output {
    kith_at(&node.home, &up_args(&node.home, "127.0.0.1:0", more))
}

// ---- a person at a terminal ---------------------------------------------------------------------

/// A command whose standard input and error are a terminal, and what that shows.
struct AtTerminal {
    run: Running,
    keys: File,
    slave: File,
    shown: Arc<Mutex<String>>,
    seen: usize,
}

impl AtTerminal {
    fn start(mut command: Command) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let flags = rustix::fs::OFlags::NOCTTY.bits().cast_signed();
        let name = Path::new(std::ffi::OsStr::from_bytes(name.as_bytes()));
        let slave = OpenOptions::new().read(true).write(true).custom_flags(flags).open(name).unwrap();
        let keys = File::from(master);
        let mut screen = keys.try_clone().unwrap();
        let shown = Arc::new(Mutex::new(String::new()));
        let written = shown.clone();
        thread::spawn(move || {
            let mut bytes = [0; 1024];
            while let Ok(n @ 1..) = screen.read(&mut bytes) {
                written.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..n]));
            }
        });
        let (stdin, stderr) = (slave.try_clone().unwrap(), slave.try_clone().unwrap());
        command.stdin(Stdio::from(stdin)).stdout(Stdio::piped()).stderr(Stdio::from(stderr));
        Self { run: Running::of(command.spawn().expect("the command starts")), keys, slave, shown, seen: 0 }
    }

    /// Waits for a question and answers it.
    #[track_caller]
    fn answer(&mut self, question: &str, keys: &str) {
        self.expect(question);
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    #[track_caller]
    fn expect(&mut self, text: &str) {
        let (shown, seen) = (self.shown.clone(), &mut self.seen);
        wait_until(TOLD, &format!("the terminal shows {text:?}"), || {
            let shown = shown.lock().unwrap();
            let at = shown[*seen..].find(text);
            at.inspect(|at| *seen += at + text.len()).is_some()
        });
    }

    fn echoes(&self) -> bool {
        let modes = tcgetattr(&self.slave).unwrap().local_modes;
        modes.contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG)
    }

    /// The exit code, once the terminal is as it was and has shown nothing of `secrets`.
    #[track_caller]
    fn finish(self, secrets: &[&str]) -> (i32, String) {
        let Self { run, shown, slave, keys, .. } = self;
        let output = run.finish(TOLD);
        let modes = tcgetattr(&slave).unwrap().local_modes;
        assert!(modes.contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG), "{modes:?}");
        drop((slave, keys));
        let shown = shown.lock().unwrap().clone();
        for secret in secrets {
            assert!(!shown.contains(secret) && !output.out().contains(secret), "{shown}");
        }
        (output.code, shown)
    }
}

#[test]
fn a_person_at_a_terminal_is_asked_and_nothing_is_shown() {
    const SECRET: &str = "quagga in stripes";
    let node = Node::stopped("Ana", &[]);
    let init = || AtTerminal::start(command(&node.home, &["init", "--name", "Ana"]));
    // Somebody changes his mind, at either question.
    for at in 0..2 {
        let mut asked = init();
        if at == 1 {
            asked.answer("New passphrase (Enter for none): ", "quagga\n");
        }
        asked.expect(["none): ", "again: "][at]);
        wait_until(TOLD, "nothing that is typed is shown", || !asked.echoes());
        asked.keys.write_all(b"quag\x03").unwrap();
        assert_eq!(asked.finish(&["quag"]).0, 130);
        assert!(!node.home.join("store/store.key").exists(), "and nothing was made");
    }
    let mut asked = init();
    asked.answer("none): ", "quagga in strips\n");
    asked.answer("again: ", "quagga in stripes\n");
    asked.answer("none): ", "quagga in\x15quagga in stripex\x7fs\n");
    asked.answer("again: ", "quagga in stripes\r");
    asked.answer("[Y/n] ", "\n");
    let (code, shown) = asked.finish(&["quagga"]);
    assert_eq!((code, shown.contains("differ")), (0, true), "{shown}");

    let mut asked = AtTerminal::start(command(&node.home, &up_args(&node.home, "127.0.0.1:0", &[])));
    asked.answer("Passphrase: ", "quagga in strips\n");
    let (code, shown) = asked.finish(&["quagga"]);
    assert!(code == 5 && shown.contains("does not open"), "{code}: {shown}");
    let mut asked = AtTerminal::start(command(&node.home, &up_args(&node.home, "127.0.0.1:0", &[])));
    asked.answer("Passphrase: ", &format!("{SECRET}\n"));
    wait_until(SOON, "the node runs", || kith(&node, &["status"]).code == 0);
    assert!(asked.echoes(), "the terminal is given back while the node runs");
    kith(&node, &["stop"]).expect_code(&[0]);
    assert_eq!(asked.finish(&["quagga"]).0, 0);
}

#[test]
fn enter_alone_makes_a_store_with_a_key_file() {
    let mut node = Node::stopped("Ana", &[]);
    let mut asked = AtTerminal::start(command(&node.home, &["init", "--name", "Ana"]));
    asked.answer("none): ", "\n");
    // One sentence about covers, once.
    asked.answer("[Y/n] ", "n\n");
    assert_eq!(asked.finish(&[]).0, 0);
    node.up("127.0.0.1:0", &[]);
    assert_eq!(json(&node, &["config", "get", "mirror.cover"])["value"], "off");
}

#[test]
fn the_first_start_asks_about_covers_where_nothing_is_there_yet() {
    let node = Node::stopped("Ana", &[]);
    // As a person starts it.
    let up = |home: &Path| {
        let mut args = up_args(home, "127.0.0.1:0", &[]);
        args.retain(|arg| *arg != "--json");
        AtTerminal::start(command(home, &args))
    };
    let home = node.home.join("new");
    let mut asked = up(&home);
    asked.answer("none): ", "\n");
    asked.answer("[Y/n] ", "n\n");
    wait_until(SOON, "the node runs", || kith_at(&home, &["status"]).code == 0);
    assert_eq!(kith_at(&home, &["config", "get", "mirror.cover", "--json"]).json()["value"], "off");
    kith_at(&home, &["stop"]).expect_code(&[0]);
    assert_eq!(asked.finish(&[]).0, 0);
    // Other words in a file that came first are no answer; one that says it is.
    for (key, value, is_asked) in [("log.level", "warn", true), ("mirror.cover", "on", false)] {
        let home = node.home.join(value);
        kith_at(&home, &["config", "set", key, value]).expect_code(&[0]);
        let mut asked = up(&home);
        asked.answer("none): ", "\n");
        if is_asked {
            asked.answer("[Y/n] ", "\n");
        }
        wait_until(SOON, "the node runs", || kith_at(&home, &["status"]).code == 0);
        kith_at(&home, &["stop"]).expect_code(&[0]);
        assert_eq!(asked.finish(&[]).0, 0);
    }
}

// ---- scripts ------------------------------------------------------------------------------------

#[test]
fn a_wrong_passphrase_says_so_and_harms_nothing() {
    let node = Node::stopped("Ana", &[]);
    let [right, wrong] = ["correct horse", "correct hearse"].map(|text| secret_file(&node, text, text));
    let store = node.home.join("store");
    kith_at(&node.home, &["init", "--name", "Ana", "--passphrase-file", &right]).expect_code(&[0]);
    let before = snapshot(&store);

    let refused = up(&node, &["--passphrase-file", &wrong]);
    refused.expect_refusal(&[5]);
    assert!(refused.err().contains("does not open"), "{}", refused.err());
    assert_untouched(&store, &before);
    let refused = up(&node, &[]);
    refused.expect_refusal(&[2]);
    assert!(refused.err().contains("--passphrase-file") && refused.err().contains("KITH_PASSPHRASE"));
    assert_untouched(&store, &before);
    let mut by_variable = command(&node.home, &up_args(&node.home, "127.0.0.1:0", &[]));
    by_variable.env("KITH_PASSPHRASE", "correct hearse");
    Running::start(by_variable, b"").finish(TOLD).expect_refusal(&[5]);
    assert_untouched(&store, &before);
    // The file goes before the variable.
    let mut both = command(&node.home, &up_args(&node.home, "127.0.0.1:0", &["--passphrase-file", &wrong]));
    both.env("KITH_PASSPHRASE", "correct horse");
    Running::start(both, b"").finish(TOLD).expect_refusal(&[5]);

    let mut by_variable = command(&node.home, &up_args(&node.home, "127.0.0.1:0", &[]));
    by_variable.env("KITH_PASSPHRASE", "correct horse");
    let run = Running::start(by_variable, b"");
    wait_until(SOON, "the variable opens it", || kith(&node, &["status"]).code == 0);
    kith(&node, &["stop"]).expect_code(&[0]);
    run.finish(TOLD).expect_code(&[0]);

    // A passphrase that others may have read is used, with a warning.
    fs::set_permissions(&right, Permissions::from_mode(0o644)).unwrap();
    let warned = kith_at(&node.home, &["store", "rekey", "--passphrase-file", &right, "--no-passphrase"]);
    warned.expect_code(&[0]);
    assert!(warned.err().contains("0600"), "{}", warned.err());
    // A passphrase for a store that has none: its owner believes in a protection that is not there.
    up(&node, &["--passphrase-file", &right]).expect_code(&[2]);
}

#[test]
fn another_lock_keeps_everything_and_shuts_the_old_one_out() {
    let mut node = Node::start("Ana");
    let (path, bytes) = random_file(&node, "one.bin", 300_000);
    let id = id_of(&publish(&node, &path, "Wigeon", "friends"));
    let [one, two] = ["passphrase one", "passphrase two"].map(|text| secret_file(&node, text, text));
    let key = node.home.join("store/store.key");
    let rekey = |home: &Path, more: &[&str]| kith_at(home, &[&["store", "rekey"], more].concat());
    let refused = rekey(&node.home, &["--new-passphrase-file", &one]);
    refused.expect_refusal(&[1]);
    assert!(refused.err().contains(&node.pid().to_string()) && refused.err().contains("kith stop"));
    assert!(node.terminate().success());

    rekey(&node.home, &[]).expect_refusal(&[2]);
    rekey(&node.home, &["--new-passphrase-file", "-", "--passphrase-file", "-"]).expect_refusal(&[2]);
    rekey(&node.home, &["--new-passphrase-file", &one, "--no-passphrase"]).expect_code(&[2]);
    let nowhere = tempfile::tempdir().unwrap();
    rekey(nowhere.path(), &["--no-passphrase"]).expect_refusal(&[4]);

    let done = rekey(&node.home, &["--new-passphrase-file", &one, "--json"]).json();
    assert_eq!(done["locked_by"], "passphrase", "{done}");
    up(&node, &[]).expect_refusal(&[2]);
    let (old_copy, before) = (fs::read(&key).unwrap(), snapshot(&node.home.join("store")));
    rekey(&node.home, &["--passphrase-file", &two, "--no-passphrase"]).expect_refusal(&[5]);
    rekey(&node.home, &["--no-passphrase"]).expect_refusal(&[2]);
    assert_untouched(&node.home.join("store"), &before);
    let mut from_variables = command(&node.home, &["store", "rekey"]);
    from_variables.env("KITH_PASSPHRASE", "passphrase one").env("KITH_NEW_PASSPHRASE", "passphrase two");
    Running::start(from_variables, b"").finish(TOLD).expect_code(&[0]);
    assert_eq!(fs::symlink_metadata(&key).unwrap().mode() & 0o777, 0o600);
    up(&node, &["--passphrase-file", &one]).expect_refusal(&[5]);

    let out = node.scratch("out.bin");
    node.up("127.0.0.1:0", &["--passphrase-file", &two]);
    kith(&node, &["get", &id, "-o", out.to_str().unwrap()]).expect_code(&[0]);
    assert_same(&out, &bytes);
    assert!(node.terminate().success());

    // What the help says: an old copy with its old passphrase still opens this store.
    let new_copy = fs::read(&key).unwrap();
    fs::write(&key, old_copy).unwrap();
    node.up("127.0.0.1:0", &["--passphrase-file", &one]);
    assert!(node.terminate().success());
    fs::write(&key, new_copy).unwrap();
    // At a terminal: the old one once, the new one twice.
    let mut asked = AtTerminal::start(command(&node.home, &["store", "rekey"]));
    asked.answer("Passphrase: ", "passphrase two\n");
    asked.answer("New passphrase: ", "passphrase three\n");
    asked.answer("again: ", "passphrase three\n");
    assert_eq!(asked.finish(&["passphrase three"]).0, 0);
    let done = kith_at_with(
        &node.home,
        &["store", "rekey", "--passphrase-file", "-", "--no-passphrase", "--json"],
        b"passphrase three\n",
    );
    assert_eq!(done.json()["locked_by"], "key file");
    node.up("127.0.0.1:0", &[]);
    assert_eq!(json(&node, &["video", "list"])[0]["id"], id);
}

#[test]
fn a_killed_rekey_leaves_the_old_lock_or_the_new_one() {
    let node = Node::stopped("Ana", &[]);
    kith_at(&node.home, &["init", "--name", "Ana"]).expect_code(&[0]);
    let locks = [secret_file(&node, "one", "passphrase one"), secret_file(&node, "two", "passphrase two")];
    let change = |from: &str, to: &str| {
        let args = ["store", "rekey", "--passphrase-file", from, "--new-passphrase-file", to];
        Running::start(command(&node.home, &args), b"")
    };
    kith_at(&node.home, &["store", "rekey", "--new-passphrase-file", &locks[0]]).expect_code(&[0]);
    let begun = Instant::now();
    change(&locks[0], &locks[1]).finish(TOLD).expect_code(&[0]);
    let takes = begun.elapsed();
    let (mut now, mut changed) = (1, 0);
    for i in 0..6 {
        let mut run = change(&locks[now], &locks[1 - now]);
        // Mostly towards the end, where the file is replaced.
        let_pass(takes.mul_f64([0.2, 0.7, 0.9, 0.96, 1.0, 1.1][i]));
        run.kill();
        drop(run);
        // Exactly one of the two opens it.
        let by_new = change(&locks[1 - now], &locks[1 - now]).finish(TOLD);
        by_new.expect_code(&[0, 5]);
        change(&locks[now], &locks[now]).finish(TOLD).expect_code(&[5 - by_new.code]);
        if by_new.code == 0 {
            (now, changed) = (1 - now, changed + 1);
        }
        let left: Vec<_> =
            fs::read_dir(node.home.join("store")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(!left.iter().any(|name| name.to_string_lossy().ends_with(".tmp")), "{left:?}");
    }
    println!("{changed} of 6 killed changes had been made");
}

// ---- key files ----------------------------------------------------------------------------------

#[test]
fn the_advice_about_a_loose_key_file_can_be_pasted() {
    let node = Node::stopped("Ana", &[]);
    let home = node.scratch("it's a home");
    kith_at(&home, &["init", "--name", "Ana"]).expect_code(&[0]);
    let key = home.join("store/store.key");
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    let before = snapshot(&home.join("store"));
    let refused = kith_at(&home, &up_args(&home, "127.0.0.1:0", &[]));
    refused.expect_refusal(&[5]);
    assert_untouched(&home.join("store"), &before);
    let text = refused.err();
    let advice = text.split('`').nth(1).expect("a command in backticks");
    assert!(advice.starts_with("chmod 600 "), "{text}");
    assert!(Command::new("sh").arg("-c").arg(advice).status().unwrap().success(), "{advice}");
    assert_eq!(fs::metadata(&key).unwrap().mode() & 0o777, 0o600);
    let run = Running::start(command(&home, &up_args(&home, "127.0.0.1:0", &[])), b"");
    wait_until(SOON, "it starts then", || kith_at(&home, &["status"]).code == 0);
    kith_at(&home, &["stop"]).expect_code(&[0]);
    run.finish(TOLD).expect_code(&[0]);

    let elsewhere = node.scratch("elsewhere.key");
    fs::rename(&key, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &key).unwrap();
    let refused = kith_at(&home, &up_args(&home, "127.0.0.1:0", &[]));
    refused.expect_refusal(&[5]);
    assert!(refused.err().contains("symbolic link"), "{}", refused.err());
}

// ---- one process per home -----------------------------------------------------------------------

#[test]
fn every_path_to_a_home_meets_the_same_lock() {
    let mut node = Node::start("Ana");
    let link = node.scratch("link");
    std::os::unix::fs::symlink(&node.home, &link).unwrap();
    for home in [&node.home, &link] {
        let begun = Instant::now();
        let second = kith_at(home, &up_args(home, "127.0.0.1:0", &[]));
        second.expect_refusal(&[1]);
        assert!(second.err().contains(&node.pid().to_string()), "{}", second.err());
        assert!(begun.elapsed() < Duration::from_secs(4), "who lives is not waited for");
    }
    // One that is stopped by a debugger, say, lives too.
    node.freeze();
    up(&node, &[]).expect_refusal(&[1]);
    node.thaw();
    kith(&node, &["status"]).expect_code(&[0]);
    // After a kill the file still names the process, and is no obstacle.
    let pid = node.pid();
    node.kill9();
    assert_eq!(fs::read_to_string(node.home.join("store/lock")).unwrap().trim(), pid.to_string());
    node.restart();
}

#[test]
fn a_node_starts_right_after_another_was_killed() {
    let mut node = Node::start("Ana");
    for _ in 0..6 {
        // Killed and not waited for: the system may still be taking it down when the next one starts.
        let pid = Pid::from_raw(node.pid().cast_signed()).unwrap();
        let old = node.let_go();
        kill_process(pid, Signal::KILL).unwrap();
        node.up("127.0.0.1:0", &[]);
        drop(old);
    }
    kith(&node, &["status"]).expect_code(&[0]);
}

/// `kith stop` used to return when the socket was gone, a moment before the store was free.
#[test]
fn after_stop_the_store_is_free() {
    let mut node = Node::start("Ana");
    for _ in 0..10 {
        kith(&node, &["stop"]).expect_code(&[0]);
        let old = node.let_go();
        node.up("127.0.0.1:0", &[]);
        old.finish(TOLD).expect_code(&[0]);
    }
}

// ---- memory -------------------------------------------------------------------------------------

/// Names that look like core files in a folder.
fn cores(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names.map(|name| name.to_string_lossy().into_owned()).filter(|name| name.contains("core")).collect()
}

#[test]
fn a_node_that_aborts_leaves_no_core_file() {
    let node = Node::stopped("Ana", &[]);
    let here = node.scratch("here");
    fs::create_dir(&here).unwrap();
    // As a user's shell with core files switched on would start it.
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -c unlimited 2>/dev/null; exec \"$0\" \"$@\"", KITH]);
    shell.args(up_args(&node.home, "127.0.0.1:0", &[])).current_dir(&here).env("HOME", &node.home);
    let mut run = Running::start(shell, b"");
    wait_until(SOON, "the node runs", || kith(&node, &["status"]).code == 0);
    let pid = json(&node, &["status"])["pid"].as_u64().unwrap();
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(line.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{line}");
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::ABORT).unwrap();
    wait_until(TOLD, "it ends", || !run.is_running());
    assert_eq!(cores(&here), [""; 0]);

    // The same end does leave one where nothing is done about it, if the system writes them here.
    let control =
        Command::new("sh").args(["-c", "ulimit -c unlimited && kill -ABRT $$"]).current_dir(&here).status();
    if control.is_err() || cores(&here).is_empty() {
        eprintln!("this system writes no core files here: the limit is checked, its effect is not");
    }
}

#[test]
fn other_processes_of_the_same_user_cannot_read_the_memory() {
    const NOBODY: u32 = 65_534;
    let as_root = rustix::process::geteuid().is_root();
    let dir = tempfile::tempdir().unwrap();
    if as_root {
        std::os::unix::fs::chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let home = dir.path().join("home");
    let mut node = command(&home, &up_args(&home, "127.0.0.1:0", &[]));
    let mut control = Command::new("sleep");
    control.arg("60").stdin(Stdio::null());
    for command in [&mut node, &mut control] {
        command.current_dir("/");
        if as_root {
            command.uid(NOBODY).gid(NOBODY);
        }
    }
    if as_root && !is_reachable_by_all(Path::new(KITH)) {
        return eprintln!("the binary lies where only root gets to: run this test as another user");
    }
    let owner = |pid: u32| fs::metadata(format!("/proc/{pid}/environ")).map(|meta| meta.uid()).ok();
    let mut child = control.spawn().unwrap();
    let (of_control, pid) = (owner(child.id()), child.id());
    child.kill().unwrap();
    child.wait().unwrap();
    let me = if as_root { NOBODY } else { rustix::process::geteuid().as_raw() };
    assert_eq!(of_control, Some(me), "process {pid} is like any other");

    let run = Running::start(node, b"");
    wait_until(SOON, "the node runs", || kith_at(&home, &["status"]).code == 0);
    let pid = kith_at(&home, &["status", "--json"]).json()["pid"].as_u64().unwrap();
    assert_eq!(owner(u32::try_from(pid).unwrap()), Some(0), "what is not dumpable belongs to root");
    kith_at(&home, &["stop"]).expect_code(&[0]);
    run.finish(TOLD).expect_code(&[0]);
}

fn is_reachable_by_all(path: &Path) -> bool {
    path.ancestors().all(|part| fs::metadata(part).is_ok_and(|meta| meta.mode() & 0o001 != 0))
}
