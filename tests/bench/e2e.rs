//! End-to-end bench: real `kith` processes on loopback, next to a raw TCP copy of the same bytes in
//! the same run. Prints one table of medians.
//!
//! `cargo bench -p kith-node --bench e2e -- [MIB [RUNS]]`; default 1024 MiB, three runs. It needs
//! six times the size below `TMPDIR`. `catalogue.batch` is one second instead of half an hour,
//! which shortens waiting between measurements and no measured figure: friends pull what is a
//! friend's own after a hint, whatever the batch.
//!
//! `-- onion [MIB [RUNS]]` measures circuits instead; see `onion.rs`. `-- watch [PLAYS] [PART..]` measures
//! films that are watched while they arrive; see `watch.rs`.

// A bench that can't go on has nothing to report but why.
#![allow(clippy::unwrap_used, clippy::panic)]

// The same nodes as in the end-to-end tests; the bench needs only some of their verbs.
#[allow(dead_code)]
mod figures;
mod films;
#[allow(dead_code)]
#[path = "../e2e/harness.rs"]
mod harness;
mod onion;
#[allow(dead_code)]
#[path = "../e2e/players/mod.rs"]
mod players;
#[allow(dead_code)]
#[path = "../e2e/wan.rs"]
mod wan;
mod watch;

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use figures::*;
use films::{MIB, STEP, write_random};
use harness::*;

const IDLE: Duration = Duration::from_secs(20);
const STARTS: usize = 5;

fn main() {
    // cargo adds flags of its own (`--bench`).
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    if words.first().is_some_and(|word| word == "watch") {
        println!("{}", machine());
        warn_of_debug();
        return watch::run(&words[1..]);
    }
    let is_onion = words.first().is_some_and(|word| word == "onion");
    let numbers: Vec<u64> = words.iter().skip(is_onion.into()).map(|word| word.parse().unwrap()).collect();
    if is_onion {
        println!("{}", machine());
        warn_of_debug();
        return onion::run(&numbers);
    }
    let size_mib = numbers.first().copied().unwrap_or(1_024).max(1);
    let runs = numbers.get(1).copied().unwrap_or(3).max(1);
    require_space(size_mib * MIB * 6);

    println!("{}", machine());
    println!("{size_mib} MiB an object, {runs} runs with fresh nodes and objects, median (min to max)");
    warn_of_debug();
    let mut table = Table::default();
    for run in 1..=runs {
        eprintln!("run {run} of {runs}");
        transfer_run(size_mib * MIB, &mut table);
    }
    eprintln!("starting and idling");
    start_times(&mut table);
    idle(&mut table);
    table.print();
}

fn warn_of_debug() {
    if cfg!(debug_assertions) {
        println!("THIS IS A DEBUG BUILD: its figures say nothing");
    }
}

// ---- one run ------------------------------------------------------------------------------------

fn transfer_run(size: u64, table: &mut Table) {
    let [a, b, c] = line_of::<3>();
    let gib = size as f64 / (1_024 * MIB) as f64;
    let source = a.scratch("source.bin");
    write_random(&source, size);
    let raw = raw_copy(size);
    table.add("raw TCP copy: MiB/s", "", size as f64 / MIB as f64 / raw.seconds);
    table.add("raw TCP copy: CPU-s/GiB, both ends", "", raw.cpu / gib);

    // Both copies of the source have it in the page cache: written once, read once before.
    fs::read(&source).map(drop).unwrap();
    let cpu_before = own_cpu() + children_cpu();
    let copied = plain_copy(&source, &a.scratch("copy.bin"));
    let copy_cpu = own_cpu() + children_cpu() - cpu_before;
    // What any program pays here to move the bytes over TCP and to read and write them once.
    let moved_cpu = raw.cpu + copy_cpu;
    table.add("cp + fsync: CPU-s/GiB", "", copy_cpu / gib);
    let before = Usage::of(&a);
    let publishing = Instant::now();
    let direct = publish_timed(&a, &source, "direct", "friends");
    let published = publishing.elapsed().as_secs_f64();
    let used = Usage::of(&a).since(&before) + direct.client_cpu;
    table.add("publish: s", "", published);
    table.add("publish: times cp + fsync", "", published / copied);
    table.add("publish: CPU-s/GiB", "", used / gib);

    let announced = Instant::now();
    wait_until(STEP, "a direct friend sees it", || found(&b, "direct", &direct.id).is_some());
    table.add("publish returned -> friend's search shows it: s", "", announced.elapsed().as_secs_f64());

    let got = measure_get(&b, &direct.id, &[], "direct", &[&a, &b]);
    table.add("get, direct: s", "", got.seconds);
    table.add("get, direct: fraction of raw speed", "", raw.seconds / got.seconds);
    table.add("get, direct: CPU-s/GiB, both nodes", "<= 3.5", got.cpu.iter().sum::<f64>() / gib);
    let times = got.cpu.iter().sum::<f64>() / moved_cpu;
    table.add("get, direct: CPU, times raw TCP and cp together", "", times);
    table.add("get, direct: peak MB, source", "<= 60", got.peak_mb[0]);
    table.add("get, direct: peak MB, requester", "<= 60", got.peak_mb[1]);

    let far = publish_timed(&a, &source, "relayed", "fof");
    wait_until(STEP, "a friend's friend sees it", || found(&c, "relayed", &far.id).is_some());
    let got = measure_get(&c, &far.id, &[], "fof", &[&a, &b, &c]);
    table.add("get, one relay: s", "", got.seconds);
    table.add("get, one relay: fraction of raw speed", "", raw.seconds / got.seconds);
    table.add("get, one relay: CPU-s/GiB, three nodes", "<= 6", got.cpu.iter().sum::<f64>() / gib);
    for (who, peak) in ["source", "relay", "requester"].into_iter().zip(got.peak_mb) {
        table.add(&format!("get, one relay: peak MB, {who}"), "<= 60", peak);
    }
}

struct Published {
    id: String,
    client_cpu: f64,
}

fn publish_timed(node: &Node, file: &Path, title: &str, to: &str) -> Published {
    let before = children_cpu();
    let args = [
        "publish",
        file.to_str().unwrap(),
        "--title",
        title,
        "--to",
        to,
        "--any-file",
        "--keep-metadata",
        "--json",
    ];
    let answer = Running::start(command(&node.home, &args), b"").finish(STEP).json();
    Published { id: id_of(&answer), client_cpu: children_cpu() - before }
}

struct Got {
    seconds: f64,
    cpu: Vec<f64>,
    peak_mb: Vec<f64>,
}

/// `get` without `-o`: from store to store, verified. Time is that of the whole command.
fn measure_get(node: &Node, id: &str, more: &[&str], mode: &str, all: &[&Node]) -> Got {
    all.iter().for_each(|n| forget_peak(n));
    let before: Vec<Usage> = all.iter().map(|n| Usage::of(n)).collect();
    let begun = Instant::now();
    let answer = Running::start(command(&node.home, &[&["get", id, "--json"], more].concat()), b"")
        .finish(STEP)
        .json();
    let seconds = begun.elapsed().as_secs_f64();
    assert_eq!(answer["mode"], mode, "{answer}");
    let cpu = all.iter().zip(&before).map(|(n, b)| Usage::of(n).since(b)).collect();
    Got { seconds, cpu, peak_mb: all.iter().map(|n| memory_mb(n, "VmHWM:")).collect() }
}

fn start_times(table: &mut Table) {
    let mut node = Node::start("Ana");
    for _ in 0..STARTS {
        assert!(node.terminate().success());
        let begun = Instant::now();
        node.up("127.0.0.1:0", &[]);
        table.add("up to ready, key file: s", "<= 0.3", begun.elapsed().as_secs_f64());
    }
}

fn idle(table: &mut Table) {
    let [a, _b] = line_of::<2>();
    let_pass(Duration::from_secs(5));
    let before = Usage::of(&a);
    let begun = Instant::now();
    let_pass(IDLE);
    let share = Usage::of(&a).since(&before) / begun.elapsed().as_secs_f64();
    table.add("idle, one friend: % of a core", "<= 0.5", share * 100.0);
    table.add("idle, one friend: resident MB", "<= 40", memory_mb(&a, "VmRSS:"));
}

// ---- what it is compared with -------------------------------------------------------------------

/// Seconds for `cp` and an fsync of the copy, which is removed.
fn plain_copy(from: &Path, to: &Path) -> f64 {
    let begun = Instant::now();
    // A copy that shares its blocks with the source would be no copy.
    let status = Command::new("cp").arg("--reflink=never").arg(from).arg(to).status().unwrap();
    assert!(status.success());
    File::open(to).unwrap().sync_all().unwrap();
    let seconds = begun.elapsed().as_secs_f64();
    fs::remove_file(to).unwrap();
    seconds
}

fn require_space(bytes: u64) {
    let folder = std::env::temp_dir();
    let volume = rustix::fs::statvfs(&folder).unwrap();
    let free = volume.f_bavail * volume.f_frsize;
    if free < bytes {
        let (folder, needed, free) = (folder.display(), bytes / MIB, free / MIB);
        eprintln!(
            "{folder} has {free} MiB free and the bench needs {needed}: set TMPDIR or give a smaller size"
        );
        std::process::exit(1);
    }
}
