//! How much a node keeps: the quota, what gives way, and disks that get full.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::harness::*;

const MIB: usize = 1 << 20;
/// A video of so many bytes needs exactly this many blocks: nothing is padded.
const VIDEO: usize = 16 * 65_536;

fn quota(node: &Node) -> Value {
    json(node, &["store", "quota"])
}

fn used(node: &Node, class: &str) -> u64 {
    quota(node)["used_bytes"][class].as_u64().unwrap()
}

fn objects(node: &Node, class: &str) -> u64 {
    quota(node)["objects"][class].as_u64().unwrap()
}

fn try_publish(node: &Node, file: &Path) -> Output {
    kith(
        node,
        &["publish", file.to_str().unwrap(), "--title", "x", "--keep-metadata", "--any-file", "--json"],
    )
}

/// A node whose configuration says how much it keeps.
fn start(name: &str, quota: &str) -> Node {
    let mut node = Node::stopped(name, &[]);
    kith_at(&node.home, &["init", "--name", name]).expect_code(&[0]);
    for (key, value) in [("store.quota", quota), ("store.keep_free", "0B")] {
        kith_at(&node.home, &["config", "set", key, value]).expect_code(&[0]);
    }
    node.up("127.0.0.1:0", &[]);
    node
}

#[test]
fn publishing_beyond_the_quota_says_what_raises_it() {
    let node = start("Ana", "8MiB");
    let (big, _) = random_file(&node, "big.bin", 6 * MIB);
    let (small, _) = random_file(&node, "small.bin", VIDEO);
    let id = id_of(&publish(&node, &big, "Albatross", "friends"));
    let refused = try_publish(&node, &big);
    refused.expect_refusal(&[9]);
    for part in ["quota of 8.0 MiB", "kith store quota 13MiB", "available"] {
        assert!(refused.err().contains(part), "{part} in {}", refused.err());
    }
    // A stream says its length with its end only; it is refused on the way, and leaves nothing.
    let mut args = vec!["publish", "-", "--title", "x", "--any-file", "--keep-metadata"];
    kith_with(&node, &args, &random_bytes(4 * MIB)).expect_refusal(&[9]);
    assert_eq!((objects(&node, "own"), used(&node, "publishing")), (1, 0));
    assert_eq!(json(&node, &["store", "gc", "--dry-run"])["files"], 0);
    args[0] = "publish";
    id_of(&publish(&node, &small, "Booby", "friends"));

    // Less than is kept already cannot be; more holds at once.
    let refused = kith(&node, &["store", "quota", "4MiB"]);
    refused.expect_refusal(&[9]);
    assert!(refused.err().contains("8MiB"), "{}", refused.err());
    kith(&node, &["store", "quota", "2"]).expect_refusal(&[2]);
    let set = json(&node, &["store", "quota", "16MiB"]);
    assert_eq!(set["quota_bytes"], 16 << 20);
    assert_eq!(json(&node, &["config", "get", "store.quota"])["value"], "16MiB");
    publish(&node, &big, "Cormorant", "friends");
    let stats = json(&node, &["store", "stats"]);
    assert_eq!((&stats["quota_bytes"], &stats["classes"]["own"]), (&(16 << 20).into(), &3.into()));
    assert_eq!((&stats["disk_full"], &stats["read_only"]), (&Value::Null, &false.into()));

    kith(&node, &["video", "pin", &id]).expect_code(&[0]);
    kith(&node, &["video", "unpin", &id]).expect_refusal(&[5]);
    let list = json(&node, &["video", "list"]);
    assert!(list.as_array().unwrap().iter().all(|row| row["class"] == "own"), "{list}");
}

#[test]
fn what_was_fetched_gives_way_and_what_is_pinned_stays() {
    let (a, b) = (Node::start("Ana"), start("Bo", "8MiB")); // a cache of one video
    befriend(&a, &b);
    let titles = ["albatross", "booby", "cormorant", "dunlin"];
    let ids = titles.map(|title| {
        let (path, _) = random_file(&a, &format!("{title}.bin"), VIDEO);
        id_of(&publish(&a, &path, title, "friends"))
    });
    let fetch = |n: usize| {
        wait_found(&b, titles[n], &ids[n]);
        json(&b, &["get", &ids[n]])["mode"].clone()
    };
    assert_eq!(fetch(0), "direct");
    assert_eq!(json(&b, &["video", "pin", &ids[0]])["class"], "pinned");
    assert_eq!(fetch(1), "direct");
    assert_eq!((objects(&b, "pinned"), objects(&b, "cached")), (1, 1));
    assert_eq!(fetch(2), "direct", "it takes the place of the one before");
    assert_eq!((objects(&b, "pinned"), objects(&b, "cached")), (1, 1));
    assert_eq!(json(&b, &["status"])["evicted"], 1);
    assert_eq!((fetch(0), fetch(2)), ("local".into(), "local".into()));
    assert_eq!(fetch(1), "direct", "it can be fetched again");

    let all = json(&b, &["video", "list", "--all"]);
    let rows: Vec<_> =
        all.as_array().unwrap().iter().map(|row| (row["title"].clone(), row["class"].clone())).collect();
    let expected = [("albatross", "pinned"), ("booby", "cached")];
    assert_eq!(rows, expected.map(|(title, class)| (title.into(), class.into())));
    assert!(all[0]["complete"] == true && all[0]["bytes"].as_u64() > Some(VIDEO as u64), "{all}");

    // Own videos push out the cache and stop at what is pinned.
    let (path, _) = random_file(&b, "own.bin", 6 * MIB);
    publish(&b, &path, "Own", "friends");
    assert_eq!((objects(&b, "own"), objects(&b, "pinned"), objects(&b, "cached")), (1, 1, 0));
    assert_eq!(fetch(0), "local");
    wait_found(&b, titles[3], &ids[3]);
    let refused = kith(&b, &["get", &ids[3]]);
    refused.expect_refusal(&[9]);
    assert!(refused.err().contains("kith store quota"), "{}", refused.err());

    // Unpinned it gives way again, and gc says so before and after.
    json(&b, &["video", "unpin", &ids[0]]);
    kith(&b, &["video", "pin", &ids[1]]).expect_refusal(&[4]);
    assert_eq!(fetch(3), "direct");
    assert_eq!((objects(&b, "pinned"), objects(&b, "cached")), (0, 1));
    kith(&b, &["store", "quota", "7MiB"]).expect_code(&[0]);
    assert_eq!(objects(&b, "cached"), 0, "a lower quota holds at once");
    assert_eq!(json(&b, &["store", "gc"])["freed_bytes"], 0);
}

/// A node that let a copy go passes on what it gave itself before, instead of promising it.
#[test]
fn what_gave_way_is_not_offered_any_more() {
    let (a, b, c) = (Node::start("Ana"), start("Bo", "8MiB"), Node::start("Cleo"));
    befriend(&a, &b);
    befriend(&b, &c);
    let videos = ["albatross", "booby"].map(|title| {
        let (path, bytes) = random_file(&a, &format!("{title}.bin"), VIDEO);
        let id = id_of(&publish(&a, &path, title, "fof"));
        wait_found(&b, title, &id);
        wait_found(&c, title, &id);
        json(&b, &["get", &id]);
        (id, bytes)
    });
    assert_eq!(json(&b, &["status"])["evicted"], 1, "the first gave way to the second");
    let sent = || friend(&a, "Bo").unwrap()["sent_bytes"].as_u64().unwrap();
    let from_ana = [1, 0].map(|n: usize| {
        let ((id, bytes), before) = (&videos[n], sent());
        let out = c.scratch(&format!("{n}.out"));
        kith(&c, &["get", id, "-o", out.to_str().unwrap()]).expect_code(&[0]);
        assert_same(&out, bytes);
        sent() - before
    });
    assert!(from_ana[0] < VIDEO as u64 / 4, "Bo gives what he has: {from_ana:?}");
    assert!(from_ana[1] > VIDEO as u64, "and passes on what he let go: {from_ana:?}");
}

#[test]
fn a_lower_share_is_what_gc_frees() {
    let (a, b) = (Node::start("Ana"), start("Bo", "20MiB")); // a cache of three
    befriend(&a, &b);
    let mut ids = Vec::new();
    for title in ["albatross", "booby", "cormorant"] {
        let (path, _) = random_file(&a, &format!("{title}.bin"), VIDEO);
        let id = id_of(&publish(&a, &path, title, "friends"));
        wait_found(&b, title, &id);
        json(&b, &["get", &id]);
        ids.push(id);
    }
    json(&b, &["get", &ids[0]]); // used last
    json(&b, &["video", "pin", &ids[2]]);
    json(&b, &["video", "unpin", &ids[2]]);
    assert_eq!(json(&b, &["store", "gc"])["videos"].as_array().unwrap().len(), 0);
    kith(&b, &["config", "set", "store.quota", "12MiB"]).expect_code(&[0]);
    assert_eq!(objects(&b, "cached"), 2);
    assert_eq!(json(&b, &["get", &ids[0]])["mode"], "local");
    assert_eq!(json(&b, &["get", &ids[2]])["mode"], "local");
    assert_eq!(json(&b, &["get", &ids[1]])["mode"], "direct", "it was used least recently");
}

// ---- a full disk --------------------------------------------------------------------------------

/// A small file system at a node's home, taken away when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one; nothing where that is not allowed (which is a failure in CI).
    fn at(home: &Path, mib: u32) -> Option<Self> {
        let mounted = rustix::process::geteuid().is_root()
            && Command::new("mount")
                .args(["-t", "tmpfs", "-o", &format!("size={mib}m,mode=700"), "kith-e2e"])
                .arg(home)
                .status()
                .is_ok_and(|status| status.success());
        if !mounted {
            lacks("this test needs root: it mounts a small file system");
        }
        mounted.then(|| Self(home.to_owned()))
    }

    /// Takes all the room that is left; returns the file that holds it.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&path).unwrap();
        let page = [1; 4096];
        while file.write_all(&page).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let status = Command::new("umount").arg("--lazy").arg(&self.0).status();
        assert!(status.is_ok_and(|s| s.success()) || std::thread::panicking(), "unmounting failed");
    }
}

/// Makes circles until one is refused; the last page of the journal may take a few. Returns the names
/// that were made, also of one that is in effect and waits to be written.
fn circles_until_full(node: &Node) -> Vec<String> {
    let mut made = Vec::new();
    for n in 0..100 {
        let name = format!("circle{n:02}");
        let out = kith(node, &["circle", "create", &name]);
        if out.code == 0 {
            made.push(name);
            continue;
        }
        out.expect_refusal(&[9]);
        // Something that nobody asked for may have met the full disk before.
        match out.err() {
            text if text.contains("in effect") && text.contains(" needed, ") => made.push(name),
            text => assert!(text.contains("nothing was done"), "{text}"),
        }
        return made;
    }
    panic!("the disk is not full");
}

fn circles(node: &Node) -> Vec<String> {
    let list = json(node, &["circle", "list"]);
    list.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect()
}

fn disk_full(node: &Node) -> Option<String> {
    json(node, &["status"])["disk_full"].as_str().map(str::to_owned)
}

#[test]
fn a_full_disk_stops_new_things_only_and_until_there_is_room() {
    let mut b = Node::stopped("Bo", &[]);
    // Dropped after the node that runs on it: declared before it is started would be too late.
    let Some(disk) = SmallDisk::at(&b.home, 24) else { return };
    b.up("127.0.0.1:0", &["--name", "Bo", "--set", "store.keep_free=0B"]);
    let a = Node::start("Ana");
    let mut c = Node::start("Cleo");
    befriend(&a, &b);
    befriend(&b, &c);
    let (path, bytes) = random_file(&a, "one.bin", 2 * MIB);
    let far = id_of(&publish(&a, &path, "Albatross", "fof"));
    wait_found(&c, "albatross", &far);
    let (path, own_bytes) = random_file(&b, "own.bin", 2 * MIB);
    let own = id_of(&publish(&b, &path, "Booby", "friends"));
    assert_eq!(disk_full(&b), None);

    let filler = disk.fill();
    // A command whose records find no room says that they wait; later ones are refused.
    let made = circles_until_full(&b);
    let refused = kith(&b, &["circle", "create", "refused"]);
    refused.expect_refusal(&[9]);
    assert!(refused.err().contains("nothing was done"), "{}", refused.err());
    let (path, _) = random_file(&a, "two.bin", 2 * MIB);
    let refused = try_publish(&b, &path);
    refused.expect_refusal(&[9]);
    let refused = kith(&b, &["get", &far]);
    refused.expect_refusal(&[9]);
    assert!(refused.err().contains("needed"), "{}", refused.err());
    assert!(disk_full(&b).is_some_and(|why| why.contains("make room")));
    assert_eq!(json(&b, &["store", "stats"])["read_only"], false);
    let doctor = kith(&b, &["doctor", "--json"]);
    assert_eq!(doctor.code, 1);
    assert!(doctor.out().contains("the disk is full"), "{}", doctor.out());

    // Meanwhile it streams what it has, gives it to friends, and passes on between friends.
    let out = b.scratch("streamed.bin");
    kith(&b, &["get", &own, "-o", out.to_str().unwrap()]).expect_code(&[0]);
    assert_same(&out, &own_bytes);
    let out = c.scratch("far.bin");
    let got = json(&c, &["get", &far, "-o", out.to_str().unwrap()]);
    assert_eq!(got["mode"], "fof");
    assert_same(&out, &bytes);
    wait_found(&a, "booby", &own);
    assert_eq!(json(&a, &["get", &own])["mode"], "direct");
    // A new session needs a counter that is written first: it waits.
    c.restart();
    never_within(std::time::Duration::from_secs(3), "a new session without a durable counter", || {
        is_online(&b, "Cleo")
    });

    fs::remove_file(&filler).unwrap();
    wait_until(SOON, "the node goes on", || disk_full(&b).is_none());
    wait_connected(&b, &c);
    publish(&b, &path, "Cormorant", "friends");
    json(&b, &["get", &far]);
    assert_eq!(circles(&b), made);
    b.kill9();

    // It also starts on a full disk, and everything is there.
    let filler = disk.fill();
    b.restart();
    assert_eq!(circles(&b), made);
    assert_eq!(json(&b, &["get", &far])["mode"], "local");
    fs::remove_file(&filler).unwrap();
    for (id, expected) in [(&far, &bytes), (&own, &own_bytes)] {
        let out = b.scratch(&format!("{id}.out"));
        kith(&b, &["get", id, "-o", out.to_str().unwrap()]).expect_code(&[0]);
        assert_same(&out, expected);
    }
    wait_connected(&a, &b);
    let log = b.log();
    assert!(log.matches("there is room on the disk again").count() >= 1, "{log}");
    assert!(!log.contains("damaged"), "{log}");
    drop(b);
    drop(disk);
}

/// On a disk that is full to the last byte a removal makes the room for its own record.
#[test]
fn a_video_can_be_removed_from_a_full_disk() {
    let mut node = Node::stopped("Ana", &[]);
    let Some(disk) = SmallDisk::at(&node.home, 16) else { return };
    node.up("127.0.0.1:0", &["--name", "Ana", "--set", "store.keep_free=0B"]);
    let source = tempfile::tempdir().unwrap();
    let path = source.path().join("v.bin");
    fs::write(&path, random_bytes(2 * MIB)).unwrap();
    let ids = ["one", "two"].map(|title| id_of(&publish(&node, &path, title, "friends")));
    disk.fill();
    let mut made = circles_until_full(&node);
    kith(&node, &["video", "rm", &ids[0]]).expect_code(&[0]);
    wait_until(SOON, "there is room", || disk_full(&node).is_none());
    kith(&node, &["circle", "create", "later"]).expect_code(&[0]);
    made.push("later".into());
    node.kill9();
    node.restart();
    let list = json(&node, &["video", "list"]);
    assert_eq!(list.as_array().unwrap().len(), 1, "{list}");
    assert_eq!(list[0]["id"], ids[1]);
    assert_eq!(circles(&node), made);
    drop(node);
    drop(disk);
}
