//! Invites: what makes two nodes friends, and everything that must not.

use std::fs;
use std::time::Duration;

use crate::harness::*;

/// What a refused invite may end with: failure, usage, refused.
const REFUSED: [i32; 3] = [1, 2, 5];

#[track_caller]
fn refuse(node: &Node, invite: &[u8]) {
    kith_with(node, &["friend", "add", "-", "--json"], invite).expect_refusal(&REFUSED);
}

#[test]
fn an_invite_is_one_line_that_expires() {
    let node = Node::start("Ana");
    let answer = json(&node, &["friend", "invite"]);
    let line = answer["invite"].as_str().unwrap();
    assert!(line.starts_with("kith:") && !line.contains(char::is_whitespace), "{line}");
    assert!(answer["expires"].is_string() || answer["expires"].is_u64(), "{answer}");
    assert_ne!(line, invite(&node), "each invite has its own secret");
    let plain = kith(&node, &["friend", "invite"]);
    plain.expect_code(&[0]);
    assert!(plain.out().lines().any(|line| line.trim().starts_with("kith:")), "{}", plain.out());
    assert_eq!(friend_count(&node), 0);
}

#[test]
fn invites_that_are_not_good_are_refused_and_nothing_is_stored() {
    let [a, b] = ["Ana", "Bo"].map(Node::start);
    let good = invite(&a);
    refuse(&a, good.as_bytes()); // one's own

    // Every seventh character changed, one at a time; a sample over the whole length.
    let places: Vec<usize> = (0..good.len()).step_by(7).collect();
    for at in places.iter().step_by(places.len().div_ceil(14)) {
        let mut forged = good.clone().into_bytes();
        forged[*at] = if forged[*at] == b'Q' { b'x' } else { b'Q' };
        refuse(&b, &forged);
    }
    for end in [0, 4, 9, good.len() / 2, good.len() - 1] {
        refuse(&b, &good.as_bytes()[..end]);
    }
    refuse(&b, format!("{good}{}", "A".repeat(1_000_000)).as_bytes());
    refuse(&b, format!("kith:i1:{}", "A".repeat(1_000_000)).as_bytes());
    refuse(&b, &random_bytes(500));

    let short = kith(&a, &["friend", "invite", "--expires", "1s", "--json"]).json();
    let_pass(Duration::from_millis(2_200));
    refuse(&b, short["invite"].as_str().unwrap().as_bytes());

    assert_eq!((friend_count(&a), friend_count(&b)), (0, 0));
    // The same invite, unchanged, is good: everything above failed for its own reason.
    let added = kith_with(&b, &["friend", "add", "-", "--json"], good.as_bytes()).json();
    assert_eq!(added["state"], "online", "{added}");
}

#[test]
fn an_invite_makes_one_friend_and_no_second_one() {
    let [a, b, c] = ["Ana", "Bo", "Cleo"].map(Node::start);
    let line = invite(&a);
    let file = b.scratch("invite.txt");
    fs::write(&file, format!("{line}\n")).unwrap();
    let first = kith(&b, &["friend", "add", file.to_str().unwrap(), "--json"]).json();
    assert_eq!((&first["name"], &first["state"]), (&"Ana".into(), &"online".into()));
    wait_connected(&a, &b);

    // The friend may give it again, which changes nothing; nobody else may.
    let again = kith(&b, &["friend", "add", &line, "--json"]).json();
    assert_eq!(again["fingerprint"], first["fingerprint"]);
    refuse(&c, line.as_bytes());
    assert_eq!([&a, &b, &c].map(friend_count), [1, 1, 0]);
    // The inviter is told, until fingerprints were compared.
    let warned = || kith(&a, &["doctor", "Bo", "--json"]).out().contains("once more");
    assert!(warned());
    kith(&a, &["friend", "verify", "Bo", json(&b, &["id"])["words"].as_str().unwrap()]).expect_code(&[0]);
    assert!(!warned());
    assert_eq!(friend(&a, "Bo").unwrap()["state"], "online");
    let shown = json(&b, &["friend", "show", "Ana"]);
    assert_eq!((&shown["name"], &shown["fingerprint"]), (&"Ana".into(), &first["fingerprint"]));
    assert_eq!(json(&a, &["id"])["fingerprint"], first["fingerprint"]);
}

#[test]
fn an_invite_waits_for_an_inviter_who_is_away() {
    let [mut a, b] = ["Ana", "Bo"].map(Node::start);
    let line = invite(&a);
    assert!(a.terminate().success());
    let added = kith_with(&b, &["friend", "add", "-", "--json"], line.as_bytes()).json();
    assert_eq!((&added["name"], &added["state"]), (&"Ana".into(), &"pending".into()), "{added}");
    assert_eq!(friend(&b, "Ana").unwrap()["state"], "pending");
    a.restart();
    wait_connected(&a, &b);
    assert_eq!((friend_count(&a), friend_count(&b)), (1, 1));
}

#[test]
fn a_removed_friend_is_gone() {
    let [a, b] = line_of::<2>();
    let (path, _) = random_file(&b, "one.bin", 50_000);
    let id = id_of(&publish(&b, &path, "Kestrel", "friends"));
    wait_found(&a, "kestrel", &id);

    kith(&a, &["friend", "remove", "Bo"]).expect_code(&[0]);
    assert!(friend(&a, "Bo").is_none());
    wait_until(SOON, "the other side sees the friend offline", || {
        friend(&b, "Ana").is_some_and(|row| row["state"] == "offline")
    });
    wait_until(SOON, "the removed friend's entries leave the search", || found(&a, "kestrel", &id).is_none());
    kith(&a, &["get", &id]).expect_refusal(&[4, 6]);
    kith(&a, &["friend", "remove", "Bo"]).expect_refusal(&[4]);
    never_within(Duration::from_secs(2), "a removed friend comes back", || is_online(&b, "Ana"));

    // A new invite mends it.
    kith(&b, &["friend", "remove", "Ana"]).expect_code(&[0]);
    befriend(&a, &b);
}

#[test]
fn names_are_plain_text() {
    for name in ["A\u{1b}[2Jna", "An\u{202e}a", "A\nna", "", "\u{9b}31m"] {
        let node = Node::stopped(name, &[]);
        let refused = kith_at(&node.home, &["init", "--name", name]);
        refused.expect_refusal(&REFUSED);
        assert!(!refused.stderr.contains(&0x1b) && !refused.err().contains(['\u{202e}', '\u{9b}']));
        kith_at(&node.home, &up_args(&node.home, "127.0.0.1:0", &["--name", name])).expect_refusal(&REFUSED);
    }
    let node = Node::stopped("Zoë", &[]);
    kith_at(&node.home, &["init", "--name", "Zoë 動物園"]).expect_code(&[0]);
}
