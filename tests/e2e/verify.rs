//! Disks that change what they hold: damage is found, told, and mended from what friends have.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::harness::*;

/// Bytes of a block's place in a pack, and of what stands before the first.
const PLACE: usize = 65_568;
const HEADER: usize = 4096;

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all
}

/// The pack of the only object that a node keeps.
fn pack(node: &Node) -> PathBuf {
    let packs = files(&node.home.join("store/packs"));
    let [pack] = &packs[..] else { panic!("one pack, not {packs:?}") };
    pack.clone()
}

/// Changes one byte of each of these blocks, as a failing disk does: behind everybody's back.
fn damage(path: &Path, blocks: &[usize]) {
    let mut bytes = fs::read(path).unwrap();
    for block in blocks {
        bytes[HEADER + block * PLACE + 1000] ^= 0x40;
    }
    fs::write(path, bytes).unwrap();
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x40;
    fs::write(path, bytes).unwrap();
}

fn verify(node: &Node, more: &[&str]) -> (i32, Value) {
    let out = kith(node, &[&["store", "verify", "--json"], more].concat());
    (out.code, serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("{out:?}")))
}

fn states(report: &Value) -> Vec<(String, String, u64)> {
    let text = |finding: &Value, name: &str| finding[name].as_str().unwrap().to_owned();
    let findings = report["findings"].as_array().unwrap().iter();
    findings.map(|f| (text(f, "file"), text(f, "state"), f["blocks"].as_u64().unwrap())).collect()
}

fn found(file: &str, state: &str, blocks: u64) -> (String, String, u64) {
    (file.to_owned(), state.to_owned(), blocks)
}

#[track_caller]
fn assert_content(node: &Node, id: &str, expected: &[u8], name: &str) {
    let out = node.scratch(name);
    kith(node, &["get", id, "-o", out.to_str().unwrap()]).expect_code(&[0]);
    assert_same(&out, expected);
}

/// Two friends who both have a video of Ana's.
fn shared() -> ([Node; 2], String, Vec<u8>) {
    let [a, b] = line_of::<2>();
    let (path, bytes) = random_file(&a, "film.bin", 2_000_000);
    let id = id_of(&publish(&a, &path, "Goshawk", "friends"));
    wait_found(&b, "goshawk", &id);
    kith(&b, &["get", &id]).expect_code(&[0]);
    ([a, b], id, bytes)
}

#[test]
fn damaged_blocks_come_again_from_a_friend() {
    let ([a, b], id, bytes) = shared();
    for node in [&a, &b] {
        assert_eq!(verify(node, &[]).0, 0, "nothing is damaged yet");
        let path = pack(node);
        let before = fs::read(&path).unwrap();
        damage(&path, &[3, 7]);
        // Looking finds them and changes nothing.
        let damaged = fs::read(&path).unwrap();
        let (code, report) = verify(node, &["--no-heal"]);
        assert_eq!((code, states(&report)), (8, vec![found("pack", "damaged", 2)]), "{report}");
        assert_eq!(
            (report["findings"][0]["id"].as_str(), &report["findings"][0]["title"]),
            (Some(&id[..]), &"Goshawk".into())
        );
        assert!(fs::read(&path).unwrap() == damaged);
        // The publisher gets its own video back from the friend who fetched it.
        let (code, report) = verify(node, &[]);
        assert_eq!((code, states(&report)), (0, vec![found("pack", "fetched again", 2)]), "{report}");
        assert!(fs::read(&path).unwrap()[HEADER..HEADER + 30 * PLACE] == before[HEADER..HEADER + 30 * PLACE]);
        assert_content(node, &id, &bytes, "whole.bin");
        assert_eq!(verify(node, &[&id[..10]]).0, 0);
    }
    // Root and header of a pack are no more than other bytes.
    let path = pack(&b);
    let root = (fs::metadata(&path).unwrap().len() as usize - HEADER) / PLACE - 1;
    damage(&path, &[root]);
    flip(&path, 20);
    let (code, report) = verify(&b, &[]);
    assert_eq!(states(&report), [found("pack", "mended", 0), found("pack", "fetched again", 1)], "{report}");
    assert_eq!(code, 0);
    assert_content(&b, &id, &bytes, "again.bin");
}

#[test]
fn a_lost_pack_comes_again_whole() {
    let ([_a, b], id, bytes) = shared();
    let path = pack(&b);
    fs::remove_file(&path).unwrap();
    let (code, report) = verify(&b, &[]);
    assert_eq!((code, report["findings"][0]["state"].as_str()), (0, Some("fetched again")), "{report}");
    assert_content(&b, &id, &bytes, "whole.bin");
    assert_eq!(pack(&b), path);
}

#[test]
fn what_nobody_gives_is_told_and_healed_when_a_friend_is_back() {
    let ([mut a, mut b], id, bytes) = shared();
    assert!(a.terminate().success());
    wait_until(SOON, "Bo sees that Ana is gone", || !is_online(&b, "Ana"));
    damage(&pack(&b), &[3]);
    let out = kith(&b, &["store", "verify"]);
    out.expect_refusal(&[8]);
    assert!(out.err().contains("no friend who has them is on line"), "{}", out.err());
    assert!(out.out().contains("Goshawk"), "{}", out.out());
    assert_eq!(json(&b, &["status"])["damaged"]["blocks"], 1);
    let doctor = kith(&b, &["doctor"]);
    assert!(
        doctor.code != 0 && doctor.out().contains("1 block of") && doctor.out().contains("(Goshawk)"),
        "{doctor:?}"
    );
    b.kill9();
    b.restart();
    assert_eq!(json(&b, &["status"])["damaged"]["blocks"], 1, "a restart does not forget it");
    // A reader is told, and what is whole is still read.
    let refused = kith(&b, &["get", &id, "-o", b.scratch("no.bin").to_str().unwrap()]);
    refused.expect_code(&[6, 8]);
    // Nobody asks again: the friend comes back, and the block with her.
    a.restart();
    wait_until(SOON, "the block is back", || json(&b, &["status"])["damaged"]["blocks"] == 0);
    assert_content(&b, &id, &bytes, "whole.bin");
    assert_eq!(verify(&b, &[]).0, 0);
    kith(&b, &["doctor"]).expect_code(&[0, 1]);
}

#[test]
fn a_reader_waits_for_a_damaged_block() {
    let ([_a, b], id, bytes) = shared();
    damage(&pack(&b), &[5, 9]);
    assert_content(&b, &id, &bytes, "read.bin");
    assert_eq!(verify(&b, &[]).0, 0, "reading has mended it");
}

#[test]
fn the_journal_its_keys_and_the_key_file_are_written_again() {
    let ([a, mut b], id, bytes) = shared();
    let store = b.home.join("store");
    let segment = || {
        files(&store.join("journal")).into_iter().find(|p| p.extension().is_some_and(|e| e == "log")).unwrap()
    };
    for (path, file, at) in [
        (segment(), "journal", 300),
        (store.join("journal/keys"), "journal keys", 40),
        (store.join("store.key"), "key file", 70),
    ] {
        flip(&path, at);
        let (code, report) = verify(&b, &["--no-heal"]);
        assert_eq!((code, states(&report)), (8, vec![found(file, "left", 0)]), "{report}");
        let (code, report) = verify(&b, &[]);
        assert_eq!((code, states(&report)), (0, vec![found(file, "mended", 0)]), "{report}");
    }
    let view = files(&store.join("views"));
    let [view] = &view[..] else { panic!("one friend, one view log: {view:?}") };
    flip(view, 200);
    let (code, report) = verify(&b, &[]);
    assert_eq!((code, states(&report)), (0, vec![found("view log", "mended", 0)]), "{report}");
    b.kill9();
    b.restart();
    wait_connected(&a, &b);
    assert_eq!(verify(&b, &[]).0, 0);
    assert_content(&b, &id, &bytes, "whole.bin");
    assert!(!b.log().contains("damaged and were skipped"), "{}", b.log());
}

/// Where the boxes of a log's records begin, from a place on where a record begins, and their lengths.
fn boxes(log: &[u8], mut at: usize) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    while at < log.len() {
        let len = u32::from_le_bytes(log[at..at + 4].try_into().unwrap()) as usize;
        found.push((at + 44, len));
        at += 44 + len;
    }
    found
}

#[test]
fn a_video_whose_record_was_lost_is_found_in_its_own_file() {
    let mut a = Node::start("Ana");
    let (path, bytes) = random_file(&a, "film.bin", 300_000);
    let journal = a.home.join("store/journal/00000001.log");
    let before = fs::metadata(&journal).unwrap().len() as usize;
    let id = id_of(&publish(&a, &path, "Goshawk", "friends"));
    let (_, second) = (0, random_file(&a, "other.bin", 100_000).0);
    publish(&a, &second, "Merlin", "friends");
    assert!(a.terminate().success());
    // The index would know the row, so it goes too.
    fs::remove_dir_all(a.home.join("store/index")).unwrap();
    // The row of the video comes first. The hours on line may have been noted just before: they are shorter.
    let row = boxes(&fs::read(&journal).unwrap(), before).into_iter().find(|(_, len)| *len > 80);
    flip(&journal, row.unwrap().0 + 36);
    a.restart();
    assert!(a.log().contains("1 videos whose records were lost are kept again"), "{}", a.log());
    assert_eq!(json(&a, &["store", "stats"])["objects"], 2);
    assert_content(&a, &id, &bytes, "whole.bin");
    let (code, report) = verify(&a, &[]);
    assert_eq!((code, states(&report)), (8, vec![found("journal", "lost", 0)]), "{report}");
    assert!(kith(&a, &["doctor"]).out().contains("records of the journal are lost"));
    assert_eq!(verify(&a, &["--accept-loss"]).0, 0);
    a.restart();
    assert_eq!(verify(&a, &[]).0, 0);
    assert_content(&a, &id, &bytes, "still.bin");
}

#[test]
fn the_index_is_made_anew_on_demand() {
    let ([_a, b], id, bytes) = shared();
    let made = json(&b, &["store", "reindex"]);
    assert_eq!(made["objects"], 1);
    assert!(made["objects_per_second"].as_f64().is_some_and(|rate| rate > 0.0), "{made}");
    assert_content(&b, &id, &bytes, "whole.bin");
    assert_eq!(verify(&b, &[]).0, 0);
}

#[test]
fn the_scrub_finds_damage_by_itself() {
    let a = Node::start("Ana");
    let (path, _) = random_file(&a, "film.bin", 500_000);
    let id = id_of(&publish(&a, &path, "Goshawk", "friends"));
    let mut b = Node::stopped("Bo", &[]);
    b.up("127.0.0.1:0", &["--name", "Bo", "--set", "store.scrub=2s"]);
    befriend(&a, &b);
    wait_found(&b, "goshawk", &id);
    kith(&b, &["get", &id]).expect_code(&[0]);
    let path = pack(&b);
    let before = fs::read(&path).unwrap();
    damage(&path, &[2]);
    let same = |bytes: Vec<u8>| {
        bytes[HEADER + 2 * PLACE..HEADER + 3 * PLACE] == before[HEADER + 2 * PLACE..HEADER + 3 * PLACE]
    };
    wait_until(SOON, "the block is back", || same(fs::read(&path).unwrap()));
    wait_until(SOON, "a round is over", || json(&b, &["store", "stats"])["scrub"]["ended"].is_u64());
    // Its place and its findings outlive a restart.
    b.kill9();
    b.up("127.0.0.1:0", &[]);
    assert!(json(&b, &["store", "stats"])["scrub"]["ended"].is_u64());
    assert_eq!(json(&b, &["config", "get", "store.scrub"])["value"], "30d");
}

#[test]
fn a_check_can_be_interrupted() {
    let a = Node::start("Ana");
    let (path, _) = random_file(&a, "film.bin", 40_000_000);
    publish(&a, &path, "Goshawk", "friends");
    let mut check = Running::start(command(&a.home, &["store", "verify"]), b"");
    let_pass(Duration::from_millis(15));
    check.kill();
    let _ = check.finish(SOON);
    // Whether it was over or not: the next one is not in its way for long.
    wait_until(SOON, "another check runs", || kith(&a, &["store", "verify"]).code == 0);
    kith(&a, &["store", "verify", "0123456789"]).expect_refusal(&[4]);
}
