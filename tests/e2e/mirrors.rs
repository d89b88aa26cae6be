//! Copies that outlive their publisher: kept by friends who agreed to, given to those who may have the video, gone
//! when it is withdrawn.

use std::time::Duration;

use serde_json::{Value, json as value};

use crate::harness::*;

/// A copy is offered, fetched and told of within some seconds; nodes share two cores with other tests.
const COPIED: Duration = Duration::from_secs(60);

fn class_of(node: &Node, id: &str) -> Option<String> {
    let kept = json(node, &["video", "list", "--all"]);
    let row = kept.as_array().unwrap().iter().find(|row| row["id"] == id)?.clone();
    (row["complete"] == true).then(|| row["class"].as_str().unwrap().to_owned())
}

fn files_below(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let list = std::fs::read_dir(folder).into_iter().flatten().flatten();
    list.flat_map(|entry| if entry.path().is_dir() { files_below(&entry.path()) } else { vec![entry.path()] })
        .collect()
}

fn copies(node: &Node) -> Vec<Value> {
    json(node, &["mirror", "list"])["copies"].as_array().unwrap().clone()
}

fn wait_for_copy(owner: &Node, mirror: &Node, id: &str) {
    if !poll(COPIED, || class_of(mirror, id).as_deref() == Some("mirrored")) {
        let health = api(owner, "POST", &format!("/api/videos/{id}/health"), Some(&value!({})));
        panic!("no copy is kept: {health} {} {:?}", json(mirror, &["mirror", "list"]), class_of(mirror, id));
    }
    let path = format!("/api/videos/{id}/health");
    wait_until(COPIED, "the publisher knows", || {
        let health = api(owner, "POST", &path, Some(&value!({})));
        health["mirrors"].as_array().unwrap().iter().any(|copy| copy["state"] == "whole")
    });
}

/// Ana publishes; Mia keeps copies for her; Bo knows both, and Cleo knows Bo.
fn four() -> [Node; 4] {
    let nodes = ["Ana", "Mia", "Bo", "Cleo"].map(Node::start);
    let [a, m, b, c] = &nodes;
    for (one, other) in [(a, m), (a, b), (m, b), (b, c)] {
        befriend(one, other);
    }
    nodes
}

#[test]
fn a_reader_two_links_away_plays_what_its_publisher_no_longer_gives() {
    let Some(clip) = sample_video(4) else { return };
    let [mut a, m, b, c] = four();
    kith(&m, &["mirror", "add", "friend:Ana", "--quota", "50MB"]).expect_code(&[0]);
    let file = clip.path.to_str().unwrap();
    let id = id_of(&json(&a, &["publish", file, "--title", "Bittern", "--to", "fof"]));
    wait_found(&c, "bittern", &id);
    wait_found(&b, "bittern", &id);
    wait_for_copy(&a, &m, &id);
    // Who has nothing of it finds the copies, and has nothing of it then.
    wait_until(COPIED, "both copies answer", || {
        let health = json(&b, &["video", "health", &id]);
        (&health["state"], &health["here"], &health["whole"]) == (&"good".into(), &false.into(), &2.into())
    });
    assert_eq!(json(&b, &["video", "list", "--all"]), value!([]));
    let health = json(&a, &["video", "health", &id]);
    assert_eq!(
        (&health["state"], &health["here"], &health["whole"]),
        (&"good".into(), &true.into(), &1.into()),
        "{health}"
    );
    let list = json(&m, &["mirror", "list"]);
    assert_eq!(
        (&list["friends"][0]["friend"], &list["friends"][0]["videos"]),
        (&"Ana".into(), &1.into()),
        "{list}"
    );
    assert!(list["friends"][0]["used_bytes"].as_u64().unwrap() > 0);

    a.kill9();
    // Mia's node has told Bo of it as a friend's; he asks her for Cleo.
    let out = c.scratch("film.mp4");
    let got = kith(&c, &["get", &id, "-o", out.to_str().unwrap(), "--route", "fof", "--json"]).json();
    assert_eq!(got["mode"], "fof", "{got}");
    let whole = json(&c, &["video", "list", "--all"]);
    assert_eq!(whole[0]["complete"], true, "{whole}");
    // It plays: ffmpeg reads all of it.
    let decoded = std::process::Command::new("ffmpeg")
        .args(["-v", "error", "-xerror", "-i", out.to_str().unwrap(), "-f", "null", "-"])
        .output()
        .unwrap();
    assert!(decoded.status.success() && decoded.stderr.is_empty(), "{decoded:?}");
}

#[test]
fn a_mirror_cannot_read_what_it_keeps_and_gives_it_up_when_it_is_withdrawn() {
    let [mut a, mut m, b, c] = four();
    let (path, bytes) = random_file(&a, "one.bin", 700_000);
    let args = ["publish", path.to_str().unwrap(), "--title", "Snipe", "--to", "friend:Bo", "--any-file"];
    let id = id_of(&json(&a, &args));
    wait_found(&b, "snipe", &id);
    // Nobody has agreed to anything: nothing is kept, and the owner is told.
    let health = json(&a, &["video", "health", &id]);
    assert_eq!(health["state"], "thin", "{health}");
    assert!(health["advice"].as_str().unwrap().contains("ask friends"), "{health}");
    assert!(copies(&m).is_empty());
    kith(&m, &["mirror", "add", "friend:Ana"]).expect_refusal(&[2]);
    kith(&m, &["mirror", "add", "friend:Nobody", "--quota", "1GB"]).expect_refusal(&[4]);
    kith(&m, &["mirror", "rm", "friend:Ana"]).expect_refusal(&[4]);
    kith(&m, &["mirror", "add", "friend:Ana", "--quota", "50MB"]).expect_code(&[0]);
    kith(&a, &["video", "health", &id, "--ask"]).expect_code(&[0]);
    wait_for_copy(&a, &m, &id);

    // Mia has the blocks and neither title nor key.
    assert!(found(&m, "snipe", &id).is_none());
    assert_eq!(copies(&m)[0]["title"], Value::Null);
    kith(&m, &["get", &id]).expect_refusal(&[5]);
    let raw = std::fs::read(&path).unwrap();
    for file in files_below(&m.home) {
        let stored = std::fs::read(&file).unwrap_or_default();
        assert!(!stored.windows(64).any(|window| window == &raw[..64]), "{}", file.display());
    }
    // A restart changes nothing of it.
    m.restart();
    wait_connected(&m, &b);
    wait_connected(&m, &a);

    a.kill9();
    let out = b.scratch("one.bin");
    let got = kith(&b, &["get", &id, "-o", out.to_str().unwrap(), "--route", "direct", "--json"]).json();
    assert_eq!((&got["mode"], &got["hops"]), (&"direct".into(), &1.into()), "{got}");
    assert_same(&out, &bytes);
    // Cleo is not in the audience, and nobody tells her of it.
    kith(&c, &["get", &id]).expect_refusal(&[4]);

    // Withdrawn while the mirror is away: it hears of it when it comes back.
    m.kill9();
    a.restart();
    kith(&a, &["video", "unshare", &id]).expect_code(&[0]);
    m.restart();
    wait_until(COPIED, "the copy is gone", || copies(&m).is_empty() && class_of(&m, &id).is_none());
    let path = format!("/api/videos/{id}/health");
    wait_until(COPIED, "and the publisher knows", || {
        api(&a, "POST", &path, Some(&value!({})))["mirrors"].as_array().unwrap().is_empty()
    });
}

#[test]
fn a_friend_gets_no_more_room_than_was_agreed_to() {
    let [a, m] = line_named(["Ana", "Mia"], &[]);
    kith(&m, &["mirror", "add", "friend:Ana", "--quota", "2MB"]).expect_code(&[0]);
    let publish_one = |name: &str, len: usize| {
        let (path, _) = random_file(&a, name, len);
        id_of(&json(&a, &["publish", path.to_str().unwrap(), "--any-file"]))
    };
    let small = publish_one("small.bin", 1_000_000);
    wait_for_copy(&a, &m, &small);
    let large = publish_one("large.bin", 1_500_000);
    let path = format!("/api/videos/{large}/health");
    wait_until(COPIED, "it was asked and refused", || {
        let health = api(&a, "POST", &path, Some(&value!({})));
        health["mirrors"].as_array().unwrap().is_empty() && health["state"] == "thin"
    });
    let used = json(&m, &["mirror", "list"])["friends"][0]["used_bytes"].as_u64().unwrap();
    assert!(used <= 2_000_000 && copies(&m).len() == 1, "{used}");
    // Both sides can end it.
    let gone = json(&m, &["mirror", "rm", "friend:Ana"]);
    assert_eq!(gone["copies"], 1);
    wait_until(COPIED, "the copy is gone", || class_of(&m, &small).is_none());
    let small_health = format!("/api/videos/{small}/health");
    wait_until(COPIED, "and Ana knows", || {
        api(&a, "POST", &small_health, Some(&value!({})))["mirrors"].as_array().unwrap().is_empty()
    });
    // What is agreed to later counts as well.
    kith(&a, &["video", "unshare", &large]).expect_code(&[0]);
    kith(&m, &["mirror", "add", "friend:Ana", "--quota", "2MB"]).expect_code(&[0]);
    kith(&a, &["video", "health", &small, "--ask"]).expect_code(&[0]);
    wait_for_copy(&a, &m, &small);
    kith(&m, &["mirror", "add", "friend:Ana", "--quota", "500kB"]).expect_code(&[0]);
    wait_until(COPIED, "the copy is gone", || copies(&m).is_empty() && class_of(&m, &small).is_none());
}

#[test]
fn a_friend_who_goes_takes_its_copies_along_and_what_was_here_before_stays() {
    let [a, m] = line_named(["Ana", "Mia"], &[]);
    let publish_one = |name: &str| {
        let (path, _) = random_file(&a, name, 300_000);
        id_of(&json(&a, &["publish", path.to_str().unwrap(), "--any-file", "--title", name]))
    };
    let watched = publish_one("watched.bin");
    wait_found(&m, "watched", &watched);
    kith(&m, &["get", &watched]).expect_code(&[0]);
    assert_eq!(class_of(&m, &watched).as_deref(), Some("cached"));
    let sent = || friend(&a, "Mia").unwrap()["sent_bytes"].as_u64().unwrap();
    let before = sent();
    kith(&m, &["mirror", "add", "friend:Ana", "--quota", "5MB"]).expect_code(&[0]);
    kith(&a, &["video", "health", &watched, "--ask"]).expect_code(&[0]);
    wait_for_copy(&a, &m, &watched);
    // Ana cannot tell that it was here: it came once more.
    assert!(sent() - before > 300_000, "{} bytes", sent() - before);
    let other = publish_one("other.bin");
    wait_for_copy(&a, &m, &other);
    kith(&m, &["friend", "remove", "Ana"]).expect_code(&[0]);
    wait_until(COPIED, "the copy is gone", || class_of(&m, &other).is_none());
    assert!(copies(&m).is_empty());
    assert_eq!(class_of(&m, &watched).as_deref(), Some("cached"), "what Mia watched is hers");
}

#[test]
fn what_was_withdrawn_is_given_to_nobody_any_more() {
    let [a, m, b] = line_named(["Ana", "Mia", "Bo"], &[]);
    let (path, _) = random_file(&a, "one.bin", 300_000);
    let args = ["publish", path.to_str().unwrap(), "--title", "Whimbrel", "--to", "fof", "--any-file"];
    let published = json(&a, &args);
    let (id, link) = (id_of(&published), published["link"].as_str().unwrap().to_owned());
    wait_found(&m, "whimbrel", &id);
    wait_found(&b, "whimbrel", &id);
    kith(&m, &["mirror", "add", &id]).expect_code(&[0]);
    wait_until(COPIED, "it is kept", || class_of(&m, &id).is_some());
    // Other people for it are no withdrawal from those who may have it still.
    kith(&a, &["video", "share", &id, "--to", "friends"]).expect_code(&[0]);
    kith(&a, &["video", "edit", &id, "--title", "Little curlew"]).expect_code(&[0]);
    wait_found(&m, "curlew", &id);
    assert_eq!(copies(&m).len(), 1);
    kith(&a, &["video", "unshare", &id]).expect_code(&[0]);
    wait_until(COPIED, "it is kept for nobody", || copies(&m).is_empty());
    assert!(class_of(&m, &id).is_some(), "Mia has it still");
    kith(&b, &["get", &link, "-o", b.scratch("one.bin").to_str().unwrap(), "--route", "direct"])
        .expect_refusal(&[6]);
}

#[test]
fn a_chosen_video_is_kept_for_others() {
    let [a, m, b] = line_named(["Ana", "Mia", "Bo"], &[("KITH_PRIVACY", "strict")]);
    let (path, bytes) = random_file(&a, "one.bin", 300_000);
    let args = ["publish", path.to_str().unwrap(), "--title", "Ruff", "--to", "fof", "--any-file"];
    let id = id_of(&json(&a, &args));
    wait_found(&b, "ruff", &id);
    wait_found(&m, "ruff", &id);
    kith(&m, &["get", &id, "--route", "direct"]).expect_code(&[0]);
    // In `strict` what was only fetched is given to nobody.
    let other = b.scratch("none.bin");
    drop(a);
    kith(&b, &["get", &id, "-o", other.to_str().unwrap(), "--route", "fof"]).expect_refusal(&[6]);
    kith(&m, &["mirror", "add", &id]).expect_code(&[0]);
    let out = b.scratch("one.bin");
    kith(&b, &["get", &id, "-o", out.to_str().unwrap(), "--route", "fof"]).expect_code(&[0]);
    assert_same(&out, &bytes);
    kith(&m, &["mirror", "rm", &id]).expect_code(&[0]);
    assert!(copies(&m).is_empty());
    assert_eq!(class_of(&m, &id).as_deref(), Some("cached"), "it is still here for its owner");
}
