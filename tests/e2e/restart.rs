//! Processes that die at the worst moment, and nodes that move.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::harness::*;

const MIB: usize = 1 << 20;
/// How long an interrupted transfer may take to go on.
const RESUME: Duration = Duration::from_secs(60);

fn received(node: &Node, from: &str) -> u64 {
    friend(node, from).and_then(|row| row["received_bytes"].as_u64()).expect("a friend with counters")
}

fn start_get(node: &Node, id: &str, out: &Path) -> Running {
    Running::start(command(&node.home, &["get", id, "-o", out.to_str().unwrap(), "--json"]), b"")
}

/// A fetch under way.
struct Caught {
    id: String,
    bytes: Vec<u8>,
    get: Running,
    out: PathBuf,
}

/// Starts a fetch from `a` on `c` and returns once this part of the object has come through `via`
/// and more is to come: `a` is frozen then, so the fetch can't end. Fast machines get larger objects
/// until one is caught under way.
fn caught_under_way(a: &Node, c: &Node, via: &str, part: f64) -> Caught {
    for mib in [8, 32, 128] {
        let (path, bytes) = random_file(a, "big.bin", mib * MIB);
        let id = id_of(&publish(a, &path, "Albatross", "fof"));
        wait_found(c, "albatross", &id);
        let before = received(c, via);
        let out = c.scratch(&format!("out-{mib}.bin"));
        let mut get = start_get(c, &id, &out);
        let mut caught = false;
        wait_until(RESUME, "the fetch moves", || {
            let came = received(c, via).saturating_sub(before);
            let running = get.is_running();
            caught = running && came as f64 >= part * bytes.len() as f64;
            caught || !running
        });
        a.freeze();
        // What was on its way still arrives, and may be all that was missing.
        let_pass(Duration::from_millis(500));
        if caught && get.is_running() {
            return Caught { id, bytes, get, out };
        }
        a.thaw();
        get.finish(RESUME).expect_code(&[0]);
    }
    panic!("no fetch could be caught under way");
}

/// Fetches to a file, again and again while the way there is being mended.
#[track_caller]
fn fetch(node: &Node, id: &str, out: &Path, expected: &[u8]) {
    wait_until(RESUME, "the fetch ends", || {
        // What an interrupted command left is not in the way of the next one.
        let _ = fs::remove_file(out);
        start_get(node, id, out).finish(RESUME).expect_code(&[0, 6, 7]).code == 0
    });
    assert_same(out, expected);
}

#[test]
fn a_fetch_goes_on_after_the_relay_was_killed() {
    let [a, mut b, c] = line_of::<3>();
    let Caught { id, bytes, get, out } = caught_under_way(&a, &c, "Bo", 0.1);
    b.kill9();
    a.thaw();
    b.restart();
    wait_connected(&a, &b);
    wait_connected(&b, &c);
    // The command may have waited for the way to come back or have said that there is none.
    if get.finish(RESUME).expect_code(&[0, 6, 7]).code == 0 {
        assert_same(&out, &bytes);
    } else {
        fetch(&c, &id, &out, &bytes);
    }
}

#[test]
fn a_fetch_goes_on_after_the_requester_was_killed() {
    let [a, mut b] = line_of::<2>();
    let Caught { id, bytes, get, out } = caught_under_way(&a, &b, "Ana", 0.5);
    // Nothing more comes; two seconds are enough for the marks of what is there to reach the disk.
    let_pass(Duration::from_secs(2));
    b.kill9();
    a.thaw();
    assert_ne!(get.finish(RESUME).code, 0, "nobody was there to finish it");
    b.restart();
    let before = received(&b, "Ana");
    wait_connected(&a, &b);
    fetch(&b, &id, &out, &bytes);
    // Counters may or may not outlive the process; their difference tells in both cases.
    let came = received(&b, "Ana").saturating_sub(before);
    assert!(came < bytes.len() as u64 * 3 / 4, "half was there, and {came} bytes came again");
    assert_eq!(json(&b, &["get", &id])["mode"], "local");
}

#[test]
fn restarted_nodes_find_each_other() {
    let [mut a, mut b, mut c] = line_of::<3>();
    // Ana moves: only she knows both ends of that link now, so it is she who dials.
    let old = a.listen();
    a.restart_at("127.0.0.1:0");
    assert_ne!(a.listen(), old);
    wait_connected(&a, &b);
    // Bo moves: he dials Ana at the address that she announced on the link, not the invite's.
    b.restart_at("127.0.0.1:0");
    wait_connected(&a, &b);
    wait_connected(&b, &c);
    // All are away at once and come back where they were.
    for node in [&mut a, &mut b, &mut c] {
        assert!(node.terminate().success());
    }
    for node in [&mut a, &mut b, &mut c] {
        node.restart();
    }
    wait_connected(&a, &b);
    wait_connected(&b, &c);
    let (path, _) = random_file(&a, "one.bin", 100_000);
    let id = id_of(&publish(&a, &path, "Swift", "fof"));
    wait_found(&c, "swift", &id);
    assert_eq!(json(&c, &["get", &id])["mode"], "fof");
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let [mut a, mut b] = ["Ana", "Bo"].map(Node::start);
    let line = invite(&a);
    a.kill9();
    a.restart();
    // The invite was handed out, so it is still good after the kill.
    let added = kith_with(&b, &["friend", "add", "-", "--json"], line.as_bytes()).json();
    a.kill9();
    b.kill9();
    assert_eq!(added["state"], "online", "{added}");
    a.restart();
    b.restart();
    assert!(friend(&a, "Bo").is_some(), "the inviter has stored the friend");
    assert!(friend(&b, "Ana").is_some(), "the invited has stored the friend");
    wait_connected(&a, &b);

    let (path, bytes) = random_file(&a, "one.bin", MIB);
    let id = id_of(&publish(&a, &path, "Curlew", "friends"));
    a.kill9();
    a.restart();
    let list = json(&a, &["video", "list"]);
    assert!(list.as_array().unwrap().iter().any(|row| row["id"] == id), "{list}");
    wait_found(&b, "curlew", &id);
    fetch(&b, &id, &b.scratch("out.bin"), &bytes);
    b.kill9();
    b.restart();
    assert_eq!(json(&b, &["get", &id])["mode"], "local", "what was fetched stays");

    kith(&a, &["video", "rm", &id]).expect_code(&[0]);
    a.kill9();
    a.restart();
    assert!(json(&a, &["video", "list"]).as_array().unwrap().is_empty(), "removed stays removed");
}
