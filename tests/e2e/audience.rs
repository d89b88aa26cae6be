//! Who sees what: audiences, withdrawal, and what `publish` accepts.

use std::time::Duration;

use serde_json::Value;

use crate::harness::*;

/// Two batches and their jitter: what has not come by then was not sent.
const BATCHES: Duration = Duration::from_millis(2_700);

fn listed(node: &Node, id: &str) -> Option<Value> {
    let list = json(node, &["video", "list"]);
    list.as_array().expect("an array").iter().find(|row| row["id"] == id).cloned()
}

#[test]
fn friends_of_friends_see_only_what_is_for_them() {
    let [a, b, c] = line_of::<3>();
    let (path, bytes) = random_file(&a, "one.bin", 200_000);
    let near = id_of(&publish(&a, &path, "Heron near", "friends"));
    let path_text = path.to_str().unwrap();
    let default = ["publish", path_text, "--title", "Heron default", "--any-file", "--json"];
    let default = id_of(&kith(&a, &default).json());
    let far = id_of(&publish(&a, &path, "Heron far", "fof"));
    assert!(near != default && default != far, "every publication has its own key and id");

    for id in [&near, &default, &far] {
        assert_eq!(wait_found(&b, "heron", id)["distance"], 1);
    }
    wait_found(&c, "heron", &far);
    never_within(BATCHES, "a friend of a friend sees what is for friends", || {
        found(&c, "heron", &near).is_some() || found(&c, "heron", &default).is_some()
    });
    kith(&c, &["get", &near]).expect_refusal(&[4, 5, 6]);
    let out = b.scratch("out.bin");
    let got = kith(&b, &["get", &near, "-o", out.to_str().unwrap(), "--json"]).json();
    assert_eq!(got["mode"], "direct");
    assert_same(&out, &bytes);
}

#[test]
fn one_friend_sees_what_is_for_one_friend() {
    let [a, b, c] = line_of::<3>();
    let (path, _) = random_file(&b, "one.bin", 100_000);
    let only_ana = id_of(&publish(&b, &path, "Osprey secret", "friend:Ana"));
    let all = id_of(&publish(&b, &path, "Osprey open", "friends"));

    wait_found(&a, "osprey", &only_ana);
    wait_found(&c, "osprey", &all);
    never_within(BATCHES, "another friend sees what is for one friend", || {
        found(&c, "osprey", &only_ana).is_some()
    });
    assert_eq!(json(&a, &["get", &only_ana])["mode"], "direct");
    kith(&c, &["get", &only_ana]).expect_refusal(&[4, 5, 6]);

    let nobody =
        ["publish", path.to_str().unwrap(), "--title", "Lost", "--to", "friend:Nobody", "--any-file"];
    kith(&b, &nobody).expect_refusal(&[2, 4]);
    let wrong = ["publish", path.to_str().unwrap(), "--title", "Lost", "--to", "everyone", "--any-file"];
    kith(&b, &wrong).expect_code(&[2]);
    assert!(json(&b, &["search", "lost"]).as_array().unwrap().is_empty(), "nothing was published");
}

#[test]
fn what_is_withdrawn_vanishes() {
    let [a, b] = line_of::<2>();
    let (path, _) = random_file(&a, "one.bin", 100_000);
    let [shared, removed, kept] = ["Plover one", "Plover two", "Plover three"]
        .map(|title| id_of(&publish(&a, &path, title, "friends")));
    for id in [&shared, &removed, &kept] {
        wait_found(&b, "plover", id);
        assert!(listed(&a, id).is_some());
    }
    let shown = json(&a, &["video", "show", &shared]);
    assert_eq!(shown["id"], shared.as_str());
    assert_eq!(shown["title"], "Plover one");
    assert_eq!(shown["bytes"], 100_000);
    kith(&a, &["video", "show", &"ab".repeat(32)]).expect_refusal(&[4]);

    kith(&a, &["video", "unshare", &shared]).expect_code(&[0]);
    kith(&a, &["video", "rm", &removed]).expect_code(&[0]);
    wait_until(SOON, "withdrawn entries leave the friend's search", || {
        found(&b, "plover", &shared).is_none() && found(&b, "plover", &removed).is_none()
    });
    for id in [&shared, &removed] {
        kith(&b, &["get", id]).expect_refusal(&[4, 6]);
    }
    assert!(found(&b, "plover", &kept).is_some(), "the third one stays");
    assert_eq!(json(&b, &["get", &kept])["mode"], "direct");

    assert!(listed(&a, &shared).is_some(), "unshared is not removed");
    assert_eq!(json(&a, &["get", &shared])["mode"], "local");
    assert!(listed(&a, &removed).is_none());
    kith(&a, &["get", &removed]).expect_refusal(&[4]);
}

#[test]
fn stdin_is_a_source() {
    let [a, b] = line_of::<2>();
    let bytes = random_bytes(300_001);
    let args = ["publish", "-", "--title", "Gannet stream", "--to", "friends", "--any-file", "--json"];
    let answer = kith_with(&a, &args, &bytes).json();
    assert_eq!(answer["bytes"], bytes.len());
    let id = id_of(&answer);
    wait_found(&b, "gannet", &id);
    let out = b.scratch("out.bin");
    kith(&b, &["get", &id, "-o", out.to_str().unwrap()]).expect_code(&[0]);
    assert_same(&out, &bytes);
}

#[test]
fn only_media_is_published_unasked_and_what_goes_from_it_is_said() {
    let Some(clip) = sample_video(2) else { return };
    let node = Node::start("Ana");
    let (path, _) = random_file(&node, "one.bin", 5_000);
    kith(&node, &["publish", path.to_str().unwrap(), "--title", "Noise"]).expect_refusal(&[10]);
    kith(&node, &["publish", "/nonexistent/film.mp4"]).expect_refusal(&[1, 2, 4]);
    assert!(json(&node, &["video", "list"]).as_array().unwrap().is_empty());

    let file = clip.path.to_str().unwrap();
    let plain = kith(&node, &["publish", file, "--title", "Clip", "--json"]);
    plain.expect_code(&[0]);
    assert!(plain.stderr.is_empty(), "nothing to warn about: {}", plain.err());
    let stripped = &plain.json()["stripped"];
    assert!(stripped.as_array().unwrap().contains(&"software".into()), "{stripped}");

    let kept = kith(&node, &["publish", file, "--title", "Clip", "--keep-metadata", "--json"]);
    kept.expect_code(&[0]);
    assert!(kept.stderr.is_empty(), "nothing to warn about: {}", kept.err());
    assert_eq!(kept.json()["stripped"], serde_json::json!([]));
    assert_eq!(json(&node, &["video", "list"]).as_array().unwrap().len(), 2);
}

#[test]
fn what_was_fetched_can_be_removed() {
    let [a, b] = line_of::<2>();
    let (path, bytes) = random_file(&a, "big.bin", 3_000_000);
    let id = id_of(&publish(&a, &path, "Heron", "friends"));
    wait_found(&b, "heron", &id);
    let stored = |node: &Node| json(node, &["store", "stats"])["objects"].as_u64();
    kith(&b, &["get", &id]).expect_code(&[0]);
    assert_eq!(stored(&b), Some(1));
    kith(&b, &["video", "rm", &id]).expect_code(&[0]);
    assert_eq!(stored(&b), Some(0), "the copy is gone from the disk");
    // It is still listed by its publisher, and can be fetched again whole.
    let out = b.scratch("again.bin");
    let got = kith(&b, &["get", &id, "-o", out.to_str().unwrap(), "--json"]).json();
    assert_eq!(got["mode"], "direct");
    assert_same(&out, &bytes);
}
