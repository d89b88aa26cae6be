//! What must not be found on a disk or in a log: titles, names of friends and circles, ids, keys,
//! blocks as friends see them, search words, invites, passphrases; nor when anything was done. Names
//! and words here are such that nothing else contains them by accident.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kith_crypto::cert::Certificate;
use kith_crypto::content::{BlockId, Builder, ReadCap};
use serde_json::Value;

use crate::harness::*;

const NAMES: [&str; 3] = ["Zyxanabel", "Quorbolan", "Wumpcleoth"];
const TITLE: &str = "Ornitorrinco nadador";
const TAG: &str = "kvetchtag";
const TEXT: &str = "snorkelprosa";
const CIRCLE: &str = "Gamboliers";
const RENAMED: &str = "Xylofoonvriend";
const PASSPHRASE: &str = "vexillomorph gargoyle";

/// The needles that occur in `bytes`, by description.
fn occurring<'a>(bytes: &[u8], needles: &'a [(String, Vec<u8>)]) -> Vec<&'a str> {
    let contains = |needle: &[u8]| {
        let first = needle[0];
        let mut rest = bytes;
        // Jumping from first byte to first byte keeps this quick without an optimising compiler.
        while let Some(at) = rest.iter().position(|b| *b == first) {
            rest = &rest[at..];
            if rest.starts_with(needle) {
                return true;
            }
            rest = &rest[1..];
        }
        false
    };
    needles.iter().filter(|(_, needle)| contains(needle)).map(|(name, _)| name.as_str()).collect()
}

/// Calls `visit` with every regular file below a folder; returns how many there were.
fn each_file(folder: &Path, visit: &mut impl FnMut(&Path, &[u8])) -> usize {
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            count += each_file(&entry.path(), visit);
        } else if kind.is_file() {
            visit(&entry.path(), &fs::read(entry.path()).unwrap());
            count += 1;
        }
    }
    count
}

fn raw(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

/// What an object is known by on links and in links: ids of blocks, keys, blocks as others see them.
fn traces_of_object(link: &str, bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let cap = ReadCap::from_link(link).unwrap();
    let mut traces = vec![
        ("the link".to_owned(), link["kith:r1:".len()..].into()),
        ("the read key".to_owned(), cap.key.expose().to_vec()),
        ("the tree key".to_owned(), cap.verify_cap().tree.expose().to_vec()),
        ("the locator".to_owned(), cap.locator().0.to_vec()),
    ];
    // The same key seals the same blocks again.
    let mut builder = Builder::new(cap.key.clone());
    for block in bytes.chunks(65_536).take(3) {
        let sealed = builder.push(block.to_vec()).unwrap();
        let id = BlockId::of(&sealed.bytes);
        traces.push((format!("the id of {:?}", sealed.position), id.0.to_vec()));
        traces.push((format!("the id of {:?} in hex", sealed.position), hex(&id.0).into_bytes()));
        traces.push((format!("{:?} as friends see it", sealed.position), sealed.bytes[100..132].to_vec()));
    }
    traces
}

/// What a node is known by.
fn traces_of_node(id: &Value) -> Vec<(String, Vec<u8>)> {
    let text = id["certificate"].as_str().unwrap();
    let cert = Certificate::from_text(text).unwrap();
    let mut traces = vec![
        ("a fingerprint".to_owned(), id["fingerprint"].as_str().unwrap().into()),
        ("a fingerprint's words".to_owned(), id["words"].to_string().trim_matches('"').into()),
        ("the hash of a friend's keys".to_owned(), cert.keys.hash().to_vec()),
        ("a certificate".to_owned(), cert.encoded()[cert.encoded().len() - 32..].to_vec()),
        ("a certificate as text".to_owned(), text[text.len() - 40..].into()),
    ];
    for key in [cert.keys.sign, cert.keys.noise, cert.keys.pair] {
        traces.push(("a friend's key".to_owned(), key.to_vec()));
        traces.push(("a friend's key in hex".to_owned(), hex(&key).into_bytes()));
    }
    traces
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Fails when a needle stands in a file, in its name or in the log.
fn assert_silent(node: &Node, needles: &[(String, Vec<u8>)]) {
    let count = each_file(&node.home, &mut |path, bytes| {
        let found = occurring(bytes, needles);
        assert!(found.is_empty(), "{} holds {found:?}", path.display());
        let name = path.strip_prefix(&node.home).unwrap().to_str().unwrap();
        let found = occurring(name.as_bytes(), needles);
        assert!(found.is_empty(), "{name} is named after {found:?}");
    });
    assert!(count >= 4, "{} has only {count} files: looked at the wrong place?", node.home.display());
    let log = node.log();
    assert!(!log.is_empty(), "at level trace something is logged");
    let found = occurring(log.as_bytes(), needles);
    assert!(found.is_empty(), "the log of {} holds {found:?}", node.name);
}

/// Every file is its owner's, every folder too, and no time stamp of the store tells of a day.
fn assert_closed(folder: &Path, in_index: bool) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let meta = path.symlink_metadata().unwrap();
        let want = if meta.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(meta.mode() & 0o777, want, "{}", path.display());
        let in_index = in_index || path.ends_with("index");
        if meta.is_dir() {
            assert_closed(&path, in_index);
        } else if !in_index {
            // sled sets its own, and it is named in docs/protocol/store.md.
            assert_eq!((meta.mtime(), meta.mtime_nsec()), (0, 0), "{} tells when", path.display());
        }
    }
}

/// Friends, circles, publications for all audiences, searches, fetches, players, changes and refusals.
fn a_life(nodes: &[Node; 3], file: &str) -> (Vec<(String, String)>, String) {
    let [a, b, c] = nodes;
    let about = ["--title", TITLE, "--tag", TAG, "--text", TEXT, "--json"];
    let publish = |to: &str| {
        let answer = kith(a, &[&["publish", file, "--to", to], &about[..]].concat()).json();
        (id_of(&answer), answer["link"].as_str().unwrap().to_owned())
    };
    kith(a, &["circle", "create", CIRCLE]).expect_code(&[0]);
    kith(a, &["circle", "add", CIRCLE, NAMES[1]]).expect_code(&[0]);
    let published = vec![publish("fof"), publish(&format!("circle:{CIRCLE}")), publish("friend:Quorbolan")];
    let id = published[0].0.as_str();
    wait_found(c, "ornitorrinco", id);
    // Looked for, and nowhere to be found: a word that only the search has seen.
    json(c, &["search", "flibbertigibbet"]);
    for (id, _) in &published {
        wait_found(b, TAG, id);
        assert_eq!(json(b, &["get", id])["mode"], "direct");
    }
    assert_eq!(json(c, &["get", id])["mode"], "fof");
    kith(c, &["watch", id, "--player", "print"]).expect_code(&[0]);
    kith(c, &["watch", id, "--player", "nonsense"]).expect_code(&[2]);
    kith(b, &["friend", "rename", NAMES[2], RENAMED]).expect_code(&[0]);
    kith(b, &["friend", "limit", RENAMED, "--up", "5MB/s"]).expect_code(&[0]);
    kith(b, &["friend", "block", RENAMED]).expect_code(&[0]);
    kith(b, &["friend", "unblock", RENAMED]).expect_code(&[0]);
    kith(b, &["friend", "ping", NAMES[0], "-c", "1"]).expect_code(&[0]);
    let print = json(a, &["id"])["fingerprint"].as_str().unwrap().to_owned();
    kith(b, &["friend", "verify", NAMES[0], &print]).expect_code(&[0]);
    kith(a, &["video", "unshare", &published[1].0]).expect_code(&[0]);
    kith(a, &["video", "rm", &published[2].0]).expect_code(&[0]);
    kith(a, &["circle", "drop", CIRCLE, NAMES[1]]).expect_code(&[0]);
    kith(a, &["get", &"ef".repeat(32)]).expect_refusal(&[4]);
    kith(a, &["doctor"]).expect_code(&[0, 1]);
    (published, invite(a))
}

#[test]
fn disks_and_logs_keep_secrets() {
    let Some(clip) = sample_video(2) else { return };
    let env = [("KITH_LOG_LEVEL", "trace"), ("KITH_PASSPHRASE", PASSPHRASE)];
    let mut nodes = line_named(NAMES, &env);
    let (published, pending) = a_life(&nodes, clip.path.to_str().unwrap());

    let words =
        [TITLE, "Ornitorrinco", "ornitorrinco", TAG, TEXT, CIRCLE, RENAMED, PASSPHRASE, "flibbertigibbet"];
    let mut needles: Vec<(String, Vec<u8>)> = words.map(|w| (w.to_owned(), w.into())).into();
    needles.push(("an invite".into(), pending[pending.len() - 60..].into()));
    needles.push(("the video".into(), clip.bytes[1_000..1_032].to_vec()));
    for (id, link) in &published {
        needles.push(("an id in hex".into(), id.clone().into_bytes()));
        needles.push(("an id's first half in hex".into(), id[..32].into()));
        needles.push(("an id".into(), raw(id)));
        needles.extend(traces_of_object(link, &clip.bytes));
    }
    needles.extend(nodes.iter().flat_map(|node| traces_of_node(&json(node, &["id"]))));
    // Not even the own name stands there: `up --name` keeps it in the sealed journal, and config.toml
    // has only a name that its owner puts there.
    needles.extend(NAMES.map(|name| (name.to_owned(), name.into())));

    for running in [true, false] {
        for node in &mut nodes {
            assert!(running || node.terminate().success());
        }
        nodes.iter().for_each(|node| assert_silent(node, &needles));
    }
    for node in &nodes {
        assert_closed(&node.home.join("store"), false);
        assert_eq!(fs::metadata(node.home.join("config.toml")).unwrap().mode() & 0o777, 0o600);
    }
    // The search itself can find: everything that is planted is seen, in a file, a name and a log.
    for (name, needle) in &needles {
        let planted = nodes[0].home.join("planted");
        fs::write(&planted, [&random_bytes(500)[..], needle].concat()).unwrap();
        let mut seen = Vec::new();
        each_file(&nodes[0].home, &mut |path, bytes| {
            if path == planted {
                seen.extend(occurring(bytes, &needles).into_iter().map(str::to_owned));
            }
        });
        assert!(seen.contains(name), "{name} would not have been found");
    }
}
