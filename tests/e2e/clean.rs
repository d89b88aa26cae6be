//! What is published is clean: files with things planted in every known place come out without them and play as
//! before, as independent readers say; hostile files do nothing. The files are made by `tests/corpus`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::harness::*;

/// Making a corpus takes some ten seconds, and more beside other tests.
const MAKING: Duration = Duration::from_secs(200);
/// So long kith may take for one hostile file, in seconds of the processor.
const CPU_S: u32 = 5;
/// And so much memory, in KiB.
const MEMORY_KIB: u32 = 64 * 1024;

fn has_tools() -> bool {
    let all = [
        ("python3", "python3"),
        ("ffmpeg", "ffmpeg"),
        ("exiftool", "libimage-exiftool-perl"),
        ("mkvmerge", "mkvtoolnix"),
    ];
    all.into_iter().all(|(program, package)| has_program(program, package))
}

/// Makes a corpus and returns where it lies, with what its list says.
fn corpus(node: &Node, script: &str, list: &str) -> (PathBuf, Vec<Value>) {
    let folder = node.scratch(script);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpus").join(script);
    let mut command = Command::new("python3");
    command.arg("-B").arg(script).arg(&folder).stdout(Stdio::null());
    let mut making = command.spawn().expect("python3 starts");
    let mut status = None;
    wait_until(MAKING, "the corpus is made", || {
        status = making.try_wait().unwrap();
        status.is_some()
    });
    assert!(status.unwrap().success());
    let list = fs::read(folder.join(list)).unwrap();
    (folder, serde_json::from_slice(&list).unwrap())
}

fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"))
}

/// All that exiftool and ffprobe say of a file, but for its name and what the file system knows.
fn readers(file: &str) -> String {
    let exif = run("exiftool", &["-a", "-u", "-U", "-G1", "-ee3", file]);
    let probe = run(
        "ffprobe",
        &["-v", "error", "-show_format", "-show_streams", "-show_chapters", "-show_packets", file],
    );
    let exif = String::from_utf8_lossy(&exif.stdout).into_owned();
    let probe = String::from_utf8_lossy(&probe.stdout).into_owned();
    let own =
        |line: &&str| !["[System]", "[ExifTool]", "filename="].iter().any(|start| line.starts_with(start));
    exif.lines().chain(probe.lines()).filter(own).collect::<Vec<_>>().join("\n")
}

/// What pictures and sounds are when they are decoded, and what the decoder says.
fn decoded(file: &str) -> (String, String) {
    let args = ["-v", "error", "-i", file, "-map", "0:v:0", "-map", "0:a?", "-f", "md5", "-"];
    let out = run("ffmpeg", &args);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    (text(&out.stdout), text(&out.stderr))
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// What is wrong with a clean file.
fn faults(before: &Path, after: &Path, listed: &Value) -> Vec<String> {
    let (old, new) = (fs::read(before).unwrap(), fs::read(after).unwrap());
    let mut faults = Vec::new();
    for plant in listed["plants"].as_array().unwrap() {
        let pattern = plant["pattern_hex"].as_str().unwrap();
        let pattern = data_encoding(pattern);
        if !pattern.is_empty() && contains(&new, &pattern) {
            faults.push(format!("{} survives: {}", plant["place"], plant["form"]));
        }
    }
    let utf16 = |be: bool| -> Vec<u8> {
        "KITHPLANT".bytes().flat_map(|byte| if be { [0, byte] } else { [byte, 0] }).collect()
    };
    for marker in [b"KITHPLANT".to_vec(), utf16(true), utf16(false), b"Lavc".to_vec(), b"Lavf".to_vec()] {
        if contains(&new, &marker) {
            faults.push(format!("{} is left", String::from_utf8_lossy(&marker)));
        }
    }
    let said = readers(after.to_str().unwrap());
    for sign in ["KITHPLANT", "2019:07:13", "2019-07-13", "47.1234", "47 deg 7'", "creation_time", "GPS"] {
        if said.contains(sign) {
            faults.push(format!("a reader says {sign}"));
        }
    }
    // What people wrote to be read stays: subtitles.
    let mut rest = old.as_slice();
    while let Some(at) = rest.windows(9).position(|window| window == b"KEEPTHIS ") {
        let word = &rest[at..(at + 12).min(rest.len())];
        if !contains(&new, word) {
            faults.push(format!("{} is gone", String::from_utf8_lossy(word)));
        }
        rest = &rest[at + 9..];
    }
    let (was, is) = (decoded(before.to_str().unwrap()), decoded(after.to_str().unwrap()));
    if was.0 != is.0 || !is.1.is_empty() {
        faults.push(format!("it does not play as before: {was:?} {is:?}"));
    }
    faults
}

fn data_encoding(hex: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len() / 2).map(|i| digit(2 * i)).collect()
}

/// What no cleaning without re-encoding can do is refused, each for its reason.
const REFUSED: [(&str, &str); 5] = [
    ("42_mp4_cenc.mp4", "DRM"),
    ("44_mov_mjpeg.mov", "Motion JPEG"),
    ("45_mov_cmov.mov", "compressed"),
    ("57_mkv_two_segments.mkv", "more than one film"),
    ("64_mkv_zlib.mkv", "packed"),
];

#[test]
fn nothing_that_was_planted_survives_and_everything_plays() {
    if !has_tools() {
        return;
    }
    let node = Node::start("Ana");
    let (folder, listed) = corpus(&node, "planted.py", "plants.json");
    assert!(listed.len() >= 60, "{}", listed.len());
    let all = kith(&node, &["publish", folder.to_str().unwrap(), "--json"]);
    let said = all.err();
    let published: Vec<Value> = serde_json::from_slice(&all.expect_code(&[10]).stdout).unwrap();
    let by_title: BTreeMap<&str, &Value> =
        published.iter().map(|v| (v["title"].as_str().unwrap(), v)).collect();
    let out = node.scratch("clean");
    fs::create_dir(&out).unwrap();
    let (mut faulty, mut clean) = (Vec::new(), 0);
    for file in &listed {
        let name = file["name"].as_str().unwrap();
        let stem = name.rsplit_once('.').unwrap().0;
        let Some(video) = by_title.get(stem) else {
            let reason = REFUSED.iter().find(|(refused, _)| *refused == name);
            let (_, reason) = reason.unwrap_or_else(|| panic!("{name} was refused: {said}"));
            let line = said.lines().find(|line| line.contains(name)).unwrap_or_default();
            assert!(line.contains(reason), "{name}: {said}");
            continue;
        };
        assert!(!video["stripped"].as_array().unwrap().is_empty(), "{video}");
        let to = out.join(name);
        kith(&node, &["get", video["id"].as_str().unwrap(), "-o", to.to_str().unwrap()]).expect_code(&[0]);
        let found = faults(&folder.join(name), &to, file);
        clean += usize::from(found.is_empty());
        faulty.extend(found.into_iter().map(|fault| format!("{name}: {fault}")));
    }
    assert_eq!(faulty, Vec::<String>::new());
    assert_eq!((published.len(), clean), (listed.len() - REFUSED.len(), published.len()));

    let plants: usize = listed.iter().map(|file| file["plants"].as_array().unwrap().len()).sum();
    eprintln!(
        "{} files with {plants} plants: {} refused, {} clean and playing, 0 plants left",
        listed.len(),
        REFUSED.len(),
        published.len()
    );

    // The same command goes on where it was: nothing is published twice.
    let again = kith(&node, &["publish", folder.to_str().unwrap(), "--json"]);
    let again: Vec<Value> = serde_json::from_slice(&again.expect_code(&[10]).stdout).unwrap();
    let ids = |all: &[Value]| all.iter().map(id_of).collect::<Vec<_>>();
    assert_eq!(ids(&again), ids(&published));

    // Byte for byte, with all it tells, when that is what is wanted.
    let file = folder.join("02_mp4_ilst.mp4");
    let kept = kith(&node, &["publish", file.to_str().unwrap(), "--keep-metadata", "--json"]).json();
    let to = out.join("kept.mp4");
    kith(&node, &["get", &id_of(&kept), "-o", to.to_str().unwrap()]).expect_code(&[0]);
    assert_eq!(
        (fs::read(&to).unwrap(), &kept["stripped"]),
        (fs::read(&file).unwrap(), &serde_json::json!([]))
    );
    // The readers do see what is there.
    assert!(readers(to.to_str().unwrap()).contains("KITHPLANT"));
}

/// `kith publish --dry-run` with little memory and little time.
fn limited(node: &Node, file: &Path) -> Output {
    let limits = format!("ulimit -d {MEMORY_KIB}; ulimit -t {CPU_S}; exec \"$@\"");
    let args = ["publish", "--dry-run", "--json", file.to_str().unwrap()];
    let mut command = Command::new("sh");
    command.arg("-c").arg(limits).arg("sh").arg(env!("CARGO_BIN_EXE_kith")).args(args);
    command.env("KITH_HOME", &node.home).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn hostile_files_are_refused_or_cleaned_with_little_memory_and_time() {
    if !has_tools() {
        return;
    }
    let node = Node::start("Ana");
    let (folder, listed) = corpus(&node, "hostile.py", "hostile.json");
    assert!(listed.len() >= 60, "{}", listed.len());
    let mut cleaned = Vec::new();
    for file in &listed {
        let path = folder.join(file["name"].as_str().unwrap());
        let out = limited(&node, &path);
        let said = String::from_utf8_lossy(&out.stderr);
        match out.status.code() {
            Some(0) => cleaned.push(path),
            Some(10) => assert_eq!(said.lines().count(), 1, "{said}"),
            // Nothing but the limits ends it otherwise.
            other => panic!("{file}: {other:?} {said}"),
        }
    }
    assert!(cleaned.len() >= 20 && cleaned.len() < listed.len() / 2, "{} pass", cleaned.len());
    eprintln!(
        "{} hostile files: {} cleaned, {} refused",
        listed.len(),
        cleaned.len(),
        listed.len() - cleaned.len()
    );
    // What the node itself cleans, and what it makes of those that pass: again a film, in which nothing is left.
    let out = node.scratch("clean.bin");
    for path in cleaned {
        let bytes = fs::read(&path).unwrap();
        let video = kith_with(&node, &["publish", "-", "--title", "x", "--json"], &bytes).json();
        kith(&node, &["get", &id_of(&video), "-o", out.to_str().unwrap()]).expect_code(&[0]);
        let again = limited(&node, &out);
        let again: Value = serde_json::from_slice(&again.stdout).unwrap_or_else(|_| panic!("{path:?}"));
        assert_eq!(again["stripped"], serde_json::json!([]), "{path:?}");
        assert_eq!(again["bytes"], again["bytes_after"], "{path:?}");
        fs::remove_file(&out).unwrap();
    }
    // The node still stands.
    kith(&node, &["status"]).expect_code(&[0]);

    // Five terabytes of nothing, of which little is read.
    let sparse = node.scratch("sparse.mp4");
    let file = fs::File::create(&sparse).unwrap();
    fs::set_permissions(&sparse, fs::Permissions::from_mode(0o600)).unwrap();
    std::io::Write::write_all(
        &mut &file,
        b"\0\0\0\x18ftypisom\0\0\0\0isommp42\0\0\0\x01mdat\0\0\x05\0\0\0\0\0",
    )
    .unwrap();
    if file.set_len(5 << 40).is_ok() {
        let refused = kith(&node, &["publish", sparse.to_str().unwrap()]);
        refused.expect_refusal(&[2]);
        assert!(refused.err().contains("256 GiB"), "{}", refused.err());
    }
}
