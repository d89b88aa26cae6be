//! What must not be found on a disk or in a log: titles, names of friends, ids, search words,
//! invites. Names and words here are such that nothing else contains them by accident.

use std::fs;
use std::path::Path;

use crate::harness::*;

const NAMES: [&str; 3] = ["Zyxanabel", "Quorbolan", "Wumpcleoth"];
const TITLE: &str = "Ornitorrinco nadador";
const TAG: &str = "kvetchtag";
const TEXT: &str = "snorkelprosa";

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

#[test]
fn disks_and_logs_keep_secrets() {
    let Some(clip) = sample_video(2) else { return };
    let mut nodes = line_named(NAMES, &[("KITH_LOG_LEVEL", "trace")]);
    let [a, b, c] = &nodes;
    let file = clip.path.to_str().unwrap();
    let args = ["publish", file, "--to", "fof", "--title", TITLE, "--tag", TAG, "--text", TEXT, "--json"];
    let id = id_of(&kith(a, &args).json());
    wait_found(c, "ornitorrinco", &id);
    // Looked for, and nowhere to be found: a word that only the search has seen.
    json(c, &["search", "flibbertigibbet"]);
    wait_found(b, TAG, &id);
    assert_eq!(json(c, &["get", &id])["mode"], "fof");
    assert_eq!(json(b, &["get", &id])["mode"], "direct");
    kith(c, &["watch", &id, "--player", "nonsense"]).expect_code(&[2]);
    let pending = invite(a);

    let words = [TITLE, "Ornitorrinco", "ornitorrinco", TAG, TEXT, "flibbertigibbet"];
    let mut needles: Vec<(String, Vec<u8>)> = words.map(|w| (w.to_owned(), w.into())).into();
    needles.push(("the id in hex".into(), id.clone().into_bytes()));
    needles.push(("the id's first half in hex".into(), id[..32].into()));
    needles.push(("the id".into(), raw(&id)));
    needles.push(("an invite".into(), pending[pending.len() - 60..].into()));
    needles.push(("the video".into(), clip.bytes[1_000..1_032].to_vec()));

    for node in &mut nodes {
        assert!(node.terminate().success());
    }
    for node in &nodes {
        let mut needles = needles.clone();
        // A node may write its own name into its own configuration, never a friend's.
        let others = NAMES.iter().filter(|name| **name != node.name);
        needles.extend(others.map(|name| ((*name).to_owned(), name.as_bytes().to_vec())));
        let count = each_file(&node.home, &mut |path, bytes| {
            let found = occurring(bytes, &needles);
            assert!(found.is_empty(), "{} holds {found:?}", path.display());
        });
        assert!(count >= 4, "{} has only {count} files: looked at the wrong place?", node.home.display());
        let log = node.log();
        assert!(!log.is_empty(), "at level trace something is logged");
        let found = occurring(log.as_bytes(), &needles);
        assert!(found.is_empty(), "the log of {} holds {found:?}", node.name);
    }
    // The search itself can find: one planted word is enough to be seen.
    let planted = nodes[0].home.join("planted");
    fs::write(&planted, [&random_bytes(500)[..], TITLE.as_bytes(), &raw(&id)].concat()).unwrap();
    let mut seen = Vec::new();
    each_file(&nodes[0].home, &mut |_, bytes| {
        seen.extend(occurring(bytes, &needles).into_iter().map(str::to_owned));
    });
    assert!(seen.iter().any(|s| s == TITLE) && seen.iter().any(|s| s == "the id"), "{seen:?}");
}
