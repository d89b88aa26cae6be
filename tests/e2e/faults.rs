//! Faults of the machine under a running node: its store moves away or becomes read-only, file
//! descriptors or memory run short, a file comes from a later release, strangers make the log long.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::harness::*;
use crate::rest::{Files, assert_same_files, snapshot};

const MIB: usize = 1 << 20;
const TOLD: Duration = Duration::from_secs(20);

fn try_publish(node: &Node, file: &Path, title: &str) -> Output {
    let args = ["publish", file.to_str().unwrap(), "--title", title, "--any-file", "--json"];
    Running::start(command(&node.home, &args), b"").finish(TOLD)
}

fn get(node: &Node, id: &str) -> Output {
    let out = node.scratch("read-back.bin");
    let _ = fs::remove_file(&out);
    Running::start(command(&node.home, &["get", id, "-o", out.to_str().unwrap()]), b"").finish(TOLD)
}

// ---- the store goes away ------------------------------------------------------------------------

#[test]
fn a_store_that_moved_away_is_named_and_nothing_is_lost() {
    let [mut a, b] = line_of::<2>();
    let (path, bytes) = random_file(&a, "one.bin", MIB);
    let id = id_of(&publish(&a, &path, "Dunlin", "friends"));
    let (store, moved) = (a.home.join("store"), a.home.join("moved"));
    fs::rename(&store, &moved).unwrap();
    // Long enough that the refusal comes while the file is still on its way to the node.
    let (long, _) = random_file(&a, "long.bin", 24 * MIB);
    let refused = try_publish(&a, &long, "Redshank");
    refused.expect_refusal(&[1, 4, 9]);
    assert!(refused.err().contains(store.to_str().unwrap()), "the path is named: {}", refused.err());
    // It stays up: the link lives and questions are answered.
    kith(&a, &["status"]).expect_code(&[0]);
    kith(&b, &["friend", "ping", "Ana", "-c", "1"]).expect_code(&[0]);
    assert!(!store.join("packs").exists(), "no second store grows in the old place");
    fs::rename(&moved, &store).unwrap();
    get(&a, &id).expect_code(&[0]);
    assert_same(&a.scratch("read-back.bin"), &bytes);
    a.restart();
    wait_connected(&a, &b);
    get(&a, &id).expect_code(&[0]);
    assert_same(&a.scratch("read-back.bin"), &bytes);
    try_publish(&a, &path, "Redshank").expect_code(&[0]);
    assert!(!a.log().contains("damaged"), "{}", a.log());
}

/// A folder mounted upon itself, read-only; undone when dropped.
struct ReadOnly(PathBuf);

impl ReadOnly {
    fn mount(folder: &Path) -> Option<Self> {
        let run = |args: &[&str]| {
            let output = Command::new("mount").args(args).arg(folder).output();
            output.is_ok_and(|output| output.status.success())
        };
        let bound = run(&["--bind", folder.to_str()?]);
        let guard = bound.then(|| Self(folder.to_owned()))?;
        run(&["-o", "remount,bind,ro"]).then_some(guard)
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_disk_that_became_read_only_still_serves() {
    let [mut a, b] = line_of::<2>();
    let (path, bytes) = random_file(&a, "one.bin", MIB);
    let id = id_of(&publish(&a, &path, "Dunlin", "friends"));
    wait_found(&b, "dunlin", &id);
    let Some(read_only) = ReadOnly::mount(&a.home.join("store")) else {
        return lacks("this test mounts a file system: run it as root");
    };
    let refused = try_publish(&a, &path, "Redshank");
    refused.expect_refusal(&[1, 5, 9]);
    kith(&a, &["status"]).expect_code(&[0]);
    get(&a, &id).expect_code(&[0]);
    assert_same(&a.scratch("read-back.bin"), &bytes);
    get(&b, &id).expect_code(&[0]);
    assert_same(&b.scratch("read-back.bin"), &bytes);
    drop(read_only);
    a.restart();
    try_publish(&a, &path, "Redshank").expect_code(&[0]);
    get(&a, &id).expect_code(&[0]);
}

// ---- descriptors and memory ---------------------------------------------------------------------

#[test]
fn without_file_descriptors_links_live_and_the_log_says_it_once() {
    let [a, b] = line_of::<2>();
    let pid = Pid::from_raw(a.pid().cast_signed()).unwrap();
    let limit = Rlimit { current: Some(64), maximum: Some(64) };
    prlimit(Some(pid), Resource::Nofile, limit).unwrap();
    // More than there is room for: players that say nothing, and strangers.
    let (web, listen) = (a.web(), a.listen());
    let held: Vec<TcpStream> =
        (0..60).flat_map(|_| [TcpStream::connect(&web), TcpStream::connect(&listen)]).flatten().collect();
    wait_until(TOLD, "the node says that it takes no more", || a.log().contains("not accepted"));
    for _ in 0..3 {
        kith(&b, &["friend", "ping", "Ana", "-c", "1"]).expect_code(&[0]);
    }
    let_pass(Duration::from_secs(3));
    kith(&b, &["friend", "ping", "Ana", "-c", "1"]).expect_code(&[0]);
    let log = a.log();
    for what in ["players are not accepted", "connections are not accepted"] {
        assert!(log.matches(what).count() <= 1, "each is said once:\n{log}");
    }
    drop(held);
    wait_until(SOON, "commands are answered again", || {
        Running::start(command(&a.home, &["status"]), b"").finish(TOLD).code == 0
    });
    let (path, bytes) = random_file(&a, "one.bin", MIB);
    let id = id_of(&publish(&a, &path, "Dunlin", "friends"));
    wait_found(&b, "dunlin", &id);
    get(&b, &id).expect_code(&[0]);
    assert_same(&b.scratch("read-back.bin"), &bytes);
}

/// A group of processes with a limit of memory (cgroup 1 or 2); removed when dropped.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    fn new(bytes: u64) -> Option<Self> {
        let name = format!("kith-test-{}", std::process::id());
        let (folder, limit) = if Path::new("/sys/fs/cgroup/memory").is_dir() {
            (Path::new("/sys/fs/cgroup/memory").join(name), "memory.limit_in_bytes")
        } else {
            (Path::new("/sys/fs/cgroup").join(name), "memory.max")
        };
        fs::create_dir(&folder).ok()?;
        let group = Self(folder);
        fs::write(group.0.join(limit), bytes.to_string()).ok()?;
        Some(group)
    }

    fn take(&self, node: &Node) -> bool {
        fs::write(self.0.join("cgroup.procs"), node.pid().to_string()).is_ok()
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        wait_until(TOLD, "the group is empty", || fs::remove_dir(&self.0).is_ok());
    }
}

/// Most memory that was resident so far, in MiB.
fn peak_mib(node: &Node) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[test]
fn a_node_lives_in_a_quarter_of_a_gibibyte() {
    let group = MemoryGroup::new(256 << 20);
    // With a passphrase, which takes 64 MiB for a moment.
    let [a, b] = line_named(["Ana", "Bo"], &[("KITH_PASSPHRASE", "a small house")]);
    if !group.as_ref().is_some_and(|group| [&a, &b].into_iter().all(|node| group.take(node))) {
        eprintln!("no group with a limit of memory can be made here: only the peak is checked");
    }
    let (path, bytes) = random_file(&a, "big.bin", 96 * MIB);
    let id = id_of(&publish(&a, &path, "Dunlin", "friends"));
    wait_found(&b, "dunlin", &id);
    let strangers: Vec<TcpStream> = (0..64).flat_map(|_| TcpStream::connect(a.listen())).collect();
    let begun = Instant::now();
    get(&b, &id).expect_code(&[0]);
    assert_same(&b.scratch("read-back.bin"), &bytes);
    let peaks = [&a, &b].map(peak_mib);
    eprintln!("peaks {peaks:?} MiB, {:.1} s for 96 MiB", begun.elapsed().as_secs_f64());
    assert!(peaks.iter().all(|peak| *peak < 200), "{peaks:?} MiB");
    drop((strangers, a, b));
}

// ---- later releases -----------------------------------------------------------------------------

/// Files of this program's formats: they begin with `KITH`, and byte 8 is the version.
fn versioned(folder: &Path) -> Vec<PathBuf> {
    let files = snapshot(folder);
    files.into_iter().filter(|(_, (bytes, ..))| bytes.starts_with(b"KITH")).map(|(path, _)| path).collect()
}

#[test]
fn files_of_a_later_release_are_refused_or_left_alone() {
    let [mut a, mut b] = line_of::<2>();
    let (path, _) = random_file(&a, "one.bin", MIB);
    let id = id_of(&publish(&a, &path, "Dunlin", "friends"));
    wait_found(&b, "dunlin", &id);
    get(&b, &id).expect_code(&[0]);
    for node in [&mut a, &mut b] {
        assert!(node.terminate().success());
    }
    let store = b.home.join("store");
    let files = versioned(&store);
    let kinds = ["store.key", "journal", "packs", "views"];
    for kind in kinds {
        let there = files.iter().any(|file| file.strip_prefix(&store).unwrap().starts_with(kind));
        assert!(there, "there is nothing of {kind} among {files:?}");
    }
    for file in files {
        let good = fs::read(&file).unwrap();
        let mut later = good.clone();
        later[8] = 250;
        if file.starts_with(store.join("views")) {
            // With records that open, the version is a flipped bit and the log is asked for anew.
            later[41..].iter_mut().for_each(|byte| *byte ^= 0x5a);
        }
        fs::write(&file, &later).unwrap();
        let before = snapshot(&store);
        let name = file.strip_prefix(&store).unwrap().to_owned();
        if name.starts_with("packs") {
            // One object cannot be read; everything else can, and the file waits for its release.
            b.up("127.0.0.1:0", &[]);
            get(&b, &id).expect_code(&[1, 4, 5, 6, 7, 8]);
            assert!(b.terminate().success());
            assert_eq!(fs::read(&file).unwrap(), later, "{} was touched", name.display());
        } else {
            let refused = kith_at(&b.home, &up_args(&b.home, "127.0.0.1:0", &[]));
            refused.expect_refusal(&[1, 2, 5, 8]);
            let text = refused.err();
            assert!(text.contains("later release") && text.contains(file.to_str().unwrap()), "{text}");
            // The index is read before the views; it is an index, and may be written anew at any time.
            let truth =
                |all: Files| all.into_iter().filter(|(path, _)| !path.starts_with(store.join("index")));
            assert_same_files(&truth(before).collect(), &truth(snapshot(&store)).collect());
        }
        fs::write(&file, &good).unwrap();
    }
    b.up("127.0.0.1:0", &[]);
    get(&b, &id).expect_code(&[0]);
}

// ---- the log ------------------------------------------------------------------------------------

#[test]
fn who_makes_noise_does_not_make_the_log_long() {
    let node = Node::start_with("Ana", &[("KITH_LOG_LEVEL", "trace")]);
    let before = node.log().len();
    for _ in 0..20 {
        let strangers: Vec<TcpStream> = (0..30).flat_map(|_| TcpStream::connect(node.listen())).collect();
        drop(strangers);
        let players: Vec<TcpStream> = (0..30).flat_map(|_| TcpStream::connect(node.web())).collect();
        drop(players);
    }
    kith(&node, &["status"]).expect_code(&[0]);
    let more = node.log().len() - before;
    assert!(more < 4_096, "1,200 connections made {more} bytes of log:\n{}", node.log());
}
