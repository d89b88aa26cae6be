//! One large object in and out, beside `cp` with an fsync and plain reads of the same sizes.
//!
//! Warm: the files that are read are in the page cache. Cold: they are synced and dropped from it.

use crate::figures::{Table, forget_peak, memory_mb};
use crate::harness::{Node, Running, command, json, random_bytes};
use crate::publish;
use axum::body::Bytes;
use kith_crypto::content::{BLOCK_LEN, Head, Position, ReadCap, ReadKeys};
use kith_crypto::passphrase::Cost;
use kith_crypto::rng::Rng;
use kith_crypto::secret::Key;
use kith_store::{Options, Store, Unlock};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
const STEP: Duration = Duration::from_secs(600);
/// Random reads of one round.
const READS: u64 = 2_000;
/// Threads that read at once, as in the node's reader.
const AHEAD: usize = 2;

pub(crate) fn options(dir: &Path) -> Options<'_> {
    Options { dir, unlock: Unlock::KeyFile, cost: Cost::RECOMMENDED }
}

pub(crate) fn run(mib: u64, runs: u64) {
    let size = mib.max(1) * MIB;
    println!("an object of {mib} MiB, {runs} runs, median (min to max)");
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source.bin");
    write_random(&source, size);
    let node = Node::start("Ana");
    let mut table = Table::default();
    for run in 1..=runs {
        for warm in [true, false] {
            eprintln!("run {run} of {runs}, {}", if warm { "warm" } else { "cold" });
            round(dir.path(), &source, &node, warm, &mut table);
        }
    }
    table.print();
}

fn round(dir: &Path, source: &Path, node: &Node, warm: bool, table: &mut Table) {
    let how = if warm { "warm" } else { "cold" };
    let mut add =
        |what: &str, reach: &'static str, figure: f64| table.add(&format!("{what}, {how}"), reach, figure);
    let size = fs::metadata(source).unwrap().len();
    let rate = |seconds: f64| size as f64 / MIB as f64 / seconds;

    prepare(source, warm);
    let copy = dir.join("copy.bin");
    let copied = timed(|| {
        // A copy that shares its blocks with the source would be no copy.
        assert!(Command::new("cp").arg("--reflink=never").args([source, &copy]).status().unwrap().success());
        File::open(&copy).unwrap().sync_all().unwrap();
    });
    add("cp + fsync: MiB/s", "", rate(copied));

    let store = dir.join("store");
    drop(Store::create(&options(&store)).unwrap());
    prepare(source, warm);
    let made = child(&["child-publish", store.to_str().unwrap(), source.to_str().unwrap()]);
    let (published, link) = (made[0].parse::<f64>().unwrap(), made[2].clone());
    add("publish, in process: MiB/s", "", rate(published));
    add("publish, in process: times the speed of cp", ">= 0.6", copied / published);
    add("publish, in process: peak MB", "<= 60", made[1].parse().unwrap());

    prepare(source, warm);
    forget_peak(node);
    let args = ["publish", source.to_str().unwrap(), "--to", "friends", "--any-file", "--json"];
    let mut answer = serde_json::Value::Null;
    let published = timed(|| answer = Running::start(command(&node.home, &args), b"").finish(STEP).json());
    add("kith publish: MiB/s", "", rate(published));
    add("kith publish: times the speed of cp", ">= 0.6", copied / published);
    add("kith publish: peak MB of the node", "<= 60", memory_mb(node, "VmHWM:"));

    // Reading back: the copy is the plain file of the same size and age.
    let packs = [store.join("packs"), PathBuf::from(json(node, &["paths"])["store"].as_str().unwrap())];
    let settle = || packs.iter().chain([&copy]).for_each(|path| prepare(path, warm));
    settle();
    // Before and after ours, and the quicker one counts: the disk may still be busy with what was written.
    let before = timed(|| read_whole(&copy));
    let ours = [1, AHEAD].map(|threads| {
        prepare(&packs[0], warm);
        child(&["child-read", store.to_str().unwrap(), &link, &threads.to_string(), "0"])
    });
    prepare(&copy, warm);
    let plain = before.min(timed(|| read_whole(&copy)));
    add("plain read in order: MiB/s", "", rate(plain));
    for (threads, got) in [1, AHEAD].into_iter().zip(ours) {
        let seconds: f64 = got[0].parse().unwrap();
        add(&format!("read in order, {threads} at a time: MiB/s"), "", rate(seconds));
        add(&format!("read in order, {threads} at a time: times plain"), ">= 0.7", plain / seconds);
        add(&format!("read in order, {threads} at a time: peak MB"), "<= 60", got[1].parse().unwrap());
    }
    settle();
    let cat = timed(|| {
        let mut cat = Command::new("cat").arg(&copy).stdout(Stdio::piped()).spawn().unwrap();
        drain(cat.stdout.take().unwrap());
        assert!(cat.wait().unwrap().success());
    });
    forget_peak(node);
    let id = answer["id"].as_str().unwrap().to_owned();
    let got = timed(|| {
        let mut get = command(&node.home, &["get", &id, "-o", "-"]);
        let mut child = get.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        drain(child.stdout.take().unwrap());
        assert!(child.wait().unwrap().success());
    });
    add("cat into a pipe: MiB/s", "", rate(cat));
    add("kith get -o -: MiB/s", "", rate(got));
    add("kith get -o -: times the speed of cat", ">= 0.7", cat / got);
    add("kith get -o -: peak MB of the node", "<= 60", memory_mb(node, "VmHWM:"));

    settle();
    let plain = timed(|| read_random(&copy));
    let reads = READS.to_string();
    let got: f64 = child(&["child-read", store.to_str().unwrap(), &link, "1", &reads])[0].parse().unwrap();
    add("plain random read of 64 KiB: us", "", plain / READS as f64 * 1e6);
    add("random read of 64 KiB: us", "", got / READS as f64 * 1e6);
    add("random read of 64 KiB: times plain", ">= 0.7", plain / got);

    fs::remove_file(&copy).unwrap();
    fs::remove_dir_all(&store).unwrap();
    json(node, &["video", "rm", &id]);
}

fn timed(work: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    work();
    begun.elapsed().as_secs_f64()
}

/// Runs this program for one step, so that its peak of memory is that step's.
pub(crate) fn child(args: &[&str]) -> Vec<String> {
    let output =
        Command::new(std::env::current_exe().unwrap()).args(args).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().split_whitespace().map(str::to_owned).collect()
}

pub(crate) fn own_peak_mb() -> f64 {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1_024.0 / 1e6
}

/// Publishes a file as the node does. Says seconds, peak of memory and the link.
pub(crate) fn child_publish(args: &[String]) {
    let (dir, source) = (Path::new(&args[0]), Path::new(&args[1]));
    let store = Store::open(&options(dir)).unwrap().store;
    let begun = Instant::now();
    let link = publish_file(&store, source);
    println!("{} {} {link}", begun.elapsed().as_secs_f64(), own_peak_mb());
}

fn publish_file(store: &Store, source: &Path) -> String {
    let mut file = File::open(source).unwrap();
    let mut seed = [0; 32];
    seed.copy_from_slice(&random_bytes(32));
    let key = Key::new(Rng::from_seed(seed).bytes());
    let meta = publish::Meta { title: "bench".into(), any_file: true, ..publish::Meta::default() };
    let next = || {
        let mut chunk = vec![0; 256 << 10];
        let n = file.read(&mut chunk).unwrap();
        chunk.truncate(n);
        Ok((n > 0).then(|| Bytes::from(chunk)))
    };
    let stored = publish::run(store, &meta, key, 1, next, |_| Ok(()), |_| vec![1]).unwrap();
    stored.cap.to_link()
}

/// Reads an object in order with so many threads, or at random places. Says seconds and peak.
pub(crate) fn child_read(args: &[String]) {
    let (dir, cap) = (Path::new(&args[0]), ReadCap::from_link(&args[1]).unwrap());
    let (threads, random): (usize, u64) = (args[2].parse().unwrap(), args[3].parse().unwrap());
    let store = Store::open(&options(dir)).unwrap().store;
    let (pack, keys) = (store.pack(&cap.root).unwrap(), ReadKeys::new(&cap.key));
    let read = |position: Position| {
        let mut block = pack.read(position).unwrap();
        keys.open(position, &mut block).unwrap();
        block
    };
    let blocks = Head::decode(&read(Position::Head)).unwrap().len / BLOCK_LEN as u64;
    let begun = Instant::now();
    if random > 0 {
        let mut rng = Rng::from_seed([3; 32]);
        for _ in 0..random {
            std::hint::black_box(read(Position::Data(rng.range(0, blocks - 1))));
        }
    } else {
        let next = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    loop {
                        // As the node's reader: each thread takes the next few blocks.
                        let from = next.fetch_add(4, Ordering::Relaxed);
                        if from >= blocks {
                            return;
                        }
                        if from.is_multiple_of(32) {
                            pack.will_read(from + 32, 32);
                        }
                        (from..blocks.min(from + 4))
                            .for_each(|i| drop(std::hint::black_box(read(Position::Data(i)))));
                    }
                });
            }
        });
    }
    println!("{} {}", begun.elapsed().as_secs_f64(), own_peak_mb());
}

fn drain(mut from: impl Read) {
    let mut buffer = vec![0; 256 << 10];
    while from.read(&mut buffer).unwrap() > 0 {}
}

fn read_whole(path: &Path) {
    let (file, mut buffer, mut at) = (File::open(path).unwrap(), vec![0; BLOCK_LEN], 0);
    // As cat and cp do.
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential).unwrap();
    while let n @ 1.. = file.read_at(&mut buffer, at).unwrap() {
        at += n as u64;
    }
}

fn read_random(path: &Path) {
    let (file, mut buffer) = (File::open(path).unwrap(), vec![0; BLOCK_LEN]);
    let blocks = file.metadata().unwrap().len() / BLOCK_LEN as u64;
    let mut rng = Rng::from_seed([3; 32]);
    for _ in 0..READS {
        file.read_exact_at(&mut buffer, rng.range(0, blocks - 1) * BLOCK_LEN as u64).unwrap();
    }
}

/// Brings all files below `path` into the page cache, or takes them out of it.
pub(crate) fn prepare(path: &Path, warm: bool) {
    if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| prepare(&entry.unwrap().path(), warm));
        return;
    }
    let Ok(file) = File::open(path) else { return };
    if warm {
        read_whole(path);
        return;
    }
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

pub(crate) fn write_random(path: &Path, size: u64) {
    let mut file = File::create(path).unwrap();
    let mut left = size;
    while left > 0 {
        let bytes = random_bytes(usize::try_from(left.min(8 * MIB)).unwrap());
        file.write_all(&bytes).unwrap();
        left -= bytes.len() as u64;
    }
    file.sync_all().unwrap();
}
