//! Keys of friendships on real processes: rotation, a home restored from a copy, erasure. What faults
//! in between do is the simulator's (`tests/tests/keys.rs`).

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::harness::*;

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn id(node: &Node) -> Value {
    json(node, &["id"])
}

#[test]
fn rotated_link_keys_reach_friends_and_keep_the_fingerprint() {
    let [mut a, mut b, mut c] = line_of();
    let before = id(&b);
    let open = invite(&b);
    // Cleo is away when it happens.
    let cleo = c.listen();
    c.terminate();
    let rotated = json(&b, &["id", "rotate"]);
    assert_eq!(rotated["fingerprint"], before["fingerprint"]);
    assert_eq!(rotated["words"], before["words"]);
    assert_ne!(rotated["certificate"], before["certificate"]);
    kith(&b, &["id", "rotate"]).expect_refusal(&[5]);
    wait_until(SOON, "Ana knows the new keys", || id(&b)["keys"]["friends_with_old"] == 1);
    c.restart_at(&cleo);
    wait_until(SOON, "Cleo knows them too", || id(&b)["keys"]["friends_with_old"] == 0);

    // An invite from before names the old keys: it has ended.
    let late = Node::start("Dora");
    let added = kith_with(&late, &["friend", "add", "-", "--json"], open.as_bytes());
    assert!(added.code != 0 || added.json()["state"] == "pending", "{}", added.out());
    assert!(friend(&b, "Dora").is_none());

    // The new keys carry links after everybody started anew, and what travels over them.
    for node in [&mut a, &mut b, &mut c] {
        node.restart();
    }
    wait_connected(&a, &b);
    wait_connected(&b, &c);
    let (file, bytes) = random_file(&a, "film.bin", 300_000);
    let published = publish(&a, &file, "whimbrel", "fof");
    wait_found(&c, "whimbrel", &id_of(&published));
    let out = c.scratch("film.bin");
    json(&c, &["get", &id_of(&published), "-o", out.to_str().unwrap()]);
    assert_same(&out, &bytes);
}

#[test]
fn a_restored_home_comes_back_when_both_owners_say_so() {
    let [mut a, mut b] = ["Ana", "Bo"].map(Node::start);
    let certificate = |node: &Node| id(node)["certificate"].as_str().unwrap().to_owned();
    let (of_a, of_b) = (certificate(&a), certificate(&b));
    // Bo's home is copied when the friendship is young, and everything goes on.
    let (ana, bo) = (a.listen(), b.listen());
    a.terminate();
    kith_with(&b, &["friend", "add", "-"], of_a.as_bytes()).expect_code(&[0]);
    b.terminate();
    let backup = b.scratch("backup");
    copy_folder(&b.home, &backup);
    a.restart_at(&ana);
    b.restart_at(&bo);
    kith_with(&a, &["friend", "add", "-"], of_b.as_bytes()).expect_code(&[0]);
    wait_connected(&a, &b);

    b.terminate();
    fs::remove_dir_all(&b.home).unwrap();
    copy_folder(&backup, &b.home);
    b.restart_at(&bo);
    let says = |node: &Node, name: &str| {
        let output = kith(node, &["doctor", name, "--json"]);
        output.out().contains("out of step")
    };
    wait_until(SOON, "Ana is asked about Bo", || says(&a, "Bo"));
    never_within(std::time::Duration::from_secs(4), "they connect by themselves", || is_online(&a, "Bo"));
    json(&a, &["friend", "verify", "Bo", "--restored"]);
    json(&b, &["friend", "verify", "Ana", "--restored"]);
    wait_connected(&a, &b);
    assert!(!says(&a, "Bo"), "nothing is wrong any more");
}

#[test]
fn secrets_of_a_removed_friend_leave_the_disk_at_once() {
    let [a, _b] = line_of();
    let store = json(&a, &["paths"])["store"].as_str().unwrap().to_owned();
    let keys = Path::new(&store).join("journal").join("keys");
    let key_file = || fs::read(&keys).unwrap_or_else(|e| panic!("{}: {e}", keys.display()));
    let before = key_file();
    json(&a, &["friend", "trust", "Bo", "normal"]);
    never_within(std::time::Duration::from_secs(2), "erasure without a reason", || key_file() != before);
    kith(&a, &["friend", "remove", "Bo"]).expect_code(&[0]);
    // The journal was written anew under another key; the old key is gone from the disk.
    wait_until(SOON, "the journal has another key", || key_file() != before);
    wait_until(SOON, "the node goes on", || friend_count(&a) == 0);
}

/// An invite of theirs that still waits here would make a friend of them once more.
#[test]
fn who_is_blocked_or_removed_takes_waiting_invites_along() {
    let [a, mut b] = ["Ana", "Bo"].map(Node::start);
    // Ana takes Bo's invite while Bo is away; then Bo comes back elsewhere and takes Ana's.
    let waiting = invite(&b);
    b.terminate();
    assert_eq!(
        kith_with(&a, &["friend", "add", "-", "--json"], waiting.as_bytes()).json()["state"],
        "pending"
    );
    b.restart_at("127.0.0.1:0");
    befriend(&a, &b);
    let pending = || json(&a, &["status"])["friends"]["pending"].clone();
    assert_eq!(pending(), 1, "the control: it still waits");
    kith(&a, &["friend", "block", "Bo"]).expect_code(&[0]);
    assert_eq!(pending(), 0);
}
