//! Cleaning beside `cp`, and a film of a gibibyte from its file to a friend's search.
//!
//! `cargo bench -p kith-node --bench clean -- [MIB [RUNS]]` makes films of that size with ffmpeg (MP4 with its index at the
//! end, fragmented MP4, Matroska) below `TMPDIR`, where it needs four times the size; `-- hours [HOURS]` measures the memory
//! that a long film's index takes.

// A bench that can't go on has nothing to report but why.
#![allow(clippy::unwrap_used, clippy::panic)]

// The same nodes as in the end-to-end tests; the bench needs only some of their verbs.
#[allow(dead_code)]
mod figures;
#[allow(dead_code)]
#[path = "../e2e/harness.rs"]
mod harness;
#[allow(dead_code, unreachable_pub, unused_imports)]
#[path = "../../node/src/media_type.rs"]
mod media_type;
#[allow(dead_code, unreachable_pub, unused_imports)]
#[path = "../../node/src/video/mod.rs"]
mod video;

use figures::Table;
use harness::{Node, Running, befriend, command, found, id_of, wait_until};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const STEP: Duration = Duration::from_secs(900);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let number = |at: usize, default: u64| args.get(at).and_then(|text| text.parse().ok()).unwrap_or(default);
    if args.first().is_some_and(|first| first == "hours") {
        return memory(number(1, 6));
    }
    speed(number(0, 1024), number(1, 5));
}

fn ffmpeg(args: &[&str]) {
    let made = Command::new("ffmpeg").args(["-nostdin", "-v", "error", "-y"]).args(args).status();
    assert!(made.expect("ffmpeg is installed").success(), "{args:?}");
}

/// Films of about so many mebibytes: the same seconds over and over, none of them encoded more than once.
fn films(dir: &Path, mib: u64) -> Vec<(&'static str, PathBuf)> {
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let seconds = path("seconds.mp4");
    let picture = "testsrc2=size=1280x720:rate=25:duration=10";
    ffmpeg(&[
        "-f",
        "lavfi",
        "-i",
        picture,
        "-f",
        "lavfi",
        "-i",
        "sine=duration=10",
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-b:v",
        "8M",
        "-minrate",
        "8M",
        "-maxrate",
        "8M",
        "-bufsize",
        "8M",
        "-x264-params",
        "nal-hrd=cbr",
        "-c:a",
        "aac",
        "-metadata",
        "location=+47.1234+008.5678/",
        &seconds,
    ]);
    let times = ((mib << 20) / fs::metadata(&seconds).unwrap().len()).max(1).to_string();
    let kinds: [(&str, &str, &[&str]); 3] = [
        ("MP4, index at the end", "film.mp4", &[]),
        ("MP4 in fragments", "parts.mp4", &["-movflags", "frag_keyframe+empty_moov+default_base_moof"]),
        ("Matroska", "film.mkv", &[]),
    ];
    kinds
        .into_iter()
        .map(|(what, name, more)| {
            let to = path(name);
            ffmpeg(&[&["-stream_loop", &times, "-i", &seconds, "-c", "copy"], more, &[to.as_str()]].concat());
            (what, PathBuf::from(to))
        })
        .collect()
}

fn timed(work: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    work();
    begun.elapsed().as_secs_f64()
}

/// Writes the clean form of a film; how long the plan took of it.
fn clean(from: &Path, to: &Path) -> f64 {
    let source = File::open(from).unwrap();
    let begun = Instant::now();
    let ready = video::plan(&source).unwrap().expect("a film");
    let planned = begun.elapsed().as_secs_f64();
    let mut out = File::create(to).unwrap();
    let mut reading = ready.plan.read();
    loop {
        let chunk = reading.next(&source, 1 << 20).unwrap();
        if chunk.is_empty() {
            break;
        }
        out.write_all(&chunk).unwrap();
    }
    out.sync_all().unwrap();
    planned
}

fn speed(mib: u64, runs: u64) {
    println!("films of {mib} MiB, {runs} runs, median (min to max); cp with an fsync in the same run is 1");
    let dir = tempfile::tempdir().unwrap();
    let films = films(dir.path(), mib);
    let out = dir.path().join("out");
    let mut table = Table::default();
    for run in 0..runs {
        eprintln!("run {} of {runs}", run + 1);
        for (what, film) in &films {
            let copied = timed(|| {
                // A copy that shares its blocks with the source would be no copy.
                assert!(
                    Command::new("cp").arg("--reflink=never").args([film, &out]).status().unwrap().success()
                );
                File::open(&out).unwrap().sync_all().unwrap();
            });
            fs::remove_file(&out).unwrap();
            let mut planned = 0.0;
            let cleaned = timed(|| planned = clean(film, &out));
            fs::remove_file(&out).unwrap();
            table.add(&format!("cleaning, {what}: speed as a fraction of cp"), "", copied / cleaned);
            table.add(&format!("cleaning, {what}: part of it that is the plan"), "", planned / cleaned);
        }
    }
    // From the file to a friend's search.
    let (a, b) = (Node::start("Ana"), Node::start("Bo"));
    befriend(&a, &b);
    let (_, film) = &films[0];
    let size = fs::metadata(film).unwrap().len() as f64 / f64::from(1 << 30);
    for run in 0..runs {
        let title = format!("run{run}");
        let args = ["publish", film.to_str().unwrap(), "--title", &title, "--json"];
        let mut id = String::new();
        let published =
            timed(|| id = id_of(&Running::start(command(&a.home, &args), b"").finish(STEP).json()));
        let seen =
            published + timed(|| wait_until(STEP, "a friend sees it", || found(&b, &title, &id).is_some()));
        table.add("publishing with cleaning: s a GiB", "", published / size);
        table.add("until a friend's search shows it: s a GiB", "<= 15", seen / size);
        for video in harness::json(&a, &["video", "list"]).as_array().unwrap() {
            harness::kith(&a, &["video", "rm", video["id"].as_str().unwrap()]).expect_code(&[0]);
        }
    }
    table.print();
}

/// The memory that `kith publish --dry-run` takes for a film of so many hours.
fn memory(hours: u64) {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let seconds = path("minute.mp4");
    ffmpeg(&[
        "-f",
        "lavfi",
        "-i",
        "color=size=32x32:rate=30:duration=60",
        "-f",
        "lavfi",
        "-i",
        "anullsrc=r=48000",
        "-t",
        "60",
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-bf",
        "2",
        "-c:a",
        "aac",
        "-b:a",
        "8k",
        &seconds,
    ]);
    let times = (hours * 60 - 1).to_string();
    for (what, name) in [("MP4", "film.mp4"), ("Matroska", "film.mkv")] {
        let film = path(name);
        ffmpeg(&["-stream_loop", &times, "-i", &seconds, "-c", "copy", &film]);
        let script = "exec \"$0\" publish --dry-run --json \"$1\" > /dev/null";
        let out = Command::new("/usr/bin/env")
            .args(["python3", "-c", MEASURE, "sh", "-c", script, env!("CARGO_BIN_EXE_kith"), &film])
            .output()
            .unwrap();
        assert!(out.status.success(), "{what}, {hours} hours: {}", String::from_utf8_lossy(&out.stderr));
        let kib: f64 = String::from_utf8_lossy(&out.stdout).trim().parse().unwrap();
        let size = fs::metadata(&film).unwrap().len() >> 20;
        println!("{what}, {hours} hours, {size} MiB: {:.1} MB at most", kib * 1024.0 / 1e6);
    }
}

/// Runs its arguments and prints the most memory that they had, in KiB.
const MEASURE: &str = "import os,sys
pid=os.spawnvp(os.P_NOWAIT,sys.argv[1],sys.argv[1:])
_,status,use=os.wait4(pid,0)
assert status==0,status
print(use.ru_maxrss)";
