//! What may never stand in a log, at any level: ids, titles, tags, search words, names, addresses of
//! friends and fingerprints.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::thread;

use crate::harness::*;

const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];
const NAMES: [&str; 3] = ["Zyxanabel", "Quorbolan", "Wumpcleoth"];
const TITLE: &str = "Ornitorrinco nadador";
const TAG: &str = "kvetchtag";
const QUERY: &str = "flibbertigibbet";

/// Needles that occur in a text.
fn occurring<'a>(text: &str, needles: &'a [String]) -> Vec<&'a str> {
    let text = text.to_lowercase();
    needles.iter().filter(|n| text.contains(&n.to_lowercase())).map(String::as_str).collect()
}

fn read_below(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            read_below(&entry.path(), text);
        } else if let Ok(bytes) = fs::read(entry.path()) {
            text.push_str(&String::from_utf8_lossy(&bytes));
        }
    }
}

/// A life of three nodes: friends, videos, searches, playing, losses, noise. Returns what each log
/// holds and what must not be in it.
fn life(level: &str) -> Vec<(String, Vec<String>)> {
    let [mut a, mut b, mut c] = line_named(NAMES, &[("KITH_LOG_LEVEL", level)]);
    let (path, _) = random_file(&a, "one.bin", 300_000);
    let file = path.to_str().unwrap();
    let args = ["publish", file, "--title", TITLE, "--tag", TAG, "--to", "fof", "--any-file", "--json"];
    let id = id_of(&kith(&a, &args).json());
    wait_found(&b, TAG, &id);
    wait_found(&c, TAG, &id);
    json(&c, &["search", QUERY]);
    kith(&c, &["get", &id]).expect_code(&[0]);
    let url = kith(&b, &["watch", &id, "--player", "print"]);
    let url = url.expect_code(&[0]).out().trim().to_owned();
    let (authority, rest) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut player = TcpStream::connect(authority).unwrap();
    write!(player, "GET /{rest} HTTP/1.1\r\nhost: {authority}\r\nrange: bytes=5-\r\n\r\n").unwrap();
    drop(player);
    kith(&b, &["get", &"ef".repeat(32)]).expect_refusal(&[4]);
    kith(&b, &["friend", "show", NAMES[0]]).expect_code(&[0]);
    let strangers: Vec<TcpStream> = (0..20)
        .map(|i| {
            let mut stream = TcpStream::connect(a.listen()).unwrap();
            let _ = stream.write_all(&random_bytes(72 + i));
            stream
        })
        .collect();
    let spare = invite(&a);
    let addresses = [&a, &b, &c].map(|n| n.listen());
    let prints = [&a, &b, &c].map(|n| json(n, &["id"])["fingerprint"].as_str().unwrap().to_owned());
    kith(&b, &["friend", "block", NAMES[2]]).expect_code(&[0]);
    kith(&b, &["friend", "unblock", NAMES[2]]).expect_code(&[0]);
    wait_connected(&b, &c);
    a.kill9();
    wait_until(SOON, "the loss is seen", || !is_online(&b, NAMES[0]));
    kith(&b, &["doctor"]).expect_code(&[0, 1]);
    a.restart();
    wait_connected(&a, &b);
    kith(&b, &["friend", "remove", NAMES[2]]).expect_code(&[0]);
    kith(&c, &["doctor"]).expect_code(&[0, 1]);
    drop(strangers);
    let token = rest.rsplit('/').find(|part| part.len() > 15).unwrap_or(rest).to_owned();
    let mut all = vec![id.clone(), id[..8].to_owned(), id[..16].to_owned(), token];
    all.extend([TITLE, "ornitorrinco", TAG, QUERY, "ef".repeat(4).as_str()].map(str::to_owned));
    all.extend(prints.iter().cloned().chain([spare[spare.len() - 40..].to_owned()]));
    for node in [&mut a, &mut b, &mut c] {
        assert!(node.terminate().success());
    }
    let logs = [&a, &b, &c].into_iter().enumerate().map(|(me, node)| {
        let mut text = node.log();
        read_below(&node.home.join("log"), &mut text);
        let mut needles = all.clone();
        let others = (0..3).filter(|other| *other != me);
        needles.extend(others.flat_map(|other| [NAMES[other].to_owned(), addresses[other].clone()]));
        // The ready line names one's own fingerprint and addresses, as it promises; nobody else's.
        let ready = node.ready.to_string();
        assert_eq!(occurring(&ready, &needles[needles.len() - 4..]), [""; 0], "{level}");
        (text, needles)
    });
    logs.collect()
}

#[test]
fn no_log_at_any_level_names_a_person_a_video_or_a_place() {
    let lives = thread::scope(|scope| {
        let lives = LEVELS.map(|level| scope.spawn(move || life(level)));
        lives.map(|life| life.join().unwrap())
    });
    for (level, logs) in LEVELS.iter().zip(&lives) {
        for (text, needles) in logs {
            let found = occurring(text, needles);
            assert!(found.is_empty(), "at {level} a log holds {found:?}:\n{text}");
        }
    }
    // Something is logged, and one planted word would have been seen.
    let (text, needles) = &lives[4][1];
    assert!(text.contains("a friend's link stands"), "{text}");
    for needle in needles {
        assert!(occurring(&format!("{text} INFO kith: {needle}\n"), needles).contains(&needle.as_str()));
    }
    // The same line many times is one line a minute.
    let (text, _) = &lives[2][0];
    let lines: Vec<&str> = text.lines().filter_map(|l| l.split_once(": ")).map(|(_, line)| line).collect();
    let most = lines.iter().map(|line| lines.iter().filter(|l| l == &line).count()).max();
    assert!(most.is_some_and(|n| n <= 3), "three starts at most, not {most:?} of one line:\n{text}");
}
