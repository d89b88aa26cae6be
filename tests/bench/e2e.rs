//! End-to-end bench: real `kith` processes on loopback, next to a raw TCP copy of the same bytes in
//! the same run. Prints one table of medians.
//!
//! `cargo bench -p kith-node --bench e2e -- [MIB [RUNS]]`; default 1024 MiB, three runs. It needs
//! six times the size below `TMPDIR`. `catalogue.batch` is one second instead of half an hour,
//! which shortens waiting between measurements and no measured figure: friends pull what is a
//! friend's own after a hint, whatever the batch.

// A bench that can't go on has nothing to report but why.
#![allow(clippy::unwrap_used, clippy::panic)]

// The same nodes as in the end-to-end tests; the bench needs only some of their verbs.
#[allow(dead_code)]
#[path = "../e2e/harness.rs"]
mod harness;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use harness::*;

const MIB: u64 = 1 << 20;
const COPY_BUFFER: usize = 64 << 10;
/// How long one measured step may take before the bench gives up.
const STEP: Duration = Duration::from_secs(600);
const IDLE: Duration = Duration::from_secs(20);
const STARTS: usize = 5;

fn main() {
    // cargo adds flags of its own (`--bench`).
    let numbers: Vec<u64> =
        std::env::args().skip(1).filter(|a| !a.starts_with('-')).map(|a| a.parse().unwrap()).collect();
    let size_mib = numbers.first().copied().unwrap_or(1_024).max(1);
    let runs = numbers.get(1).copied().unwrap_or(3).max(1);
    require_space(size_mib * MIB * 6);

    println!("{}", machine());
    println!("{size_mib} MiB an object, {runs} runs with fresh nodes and objects, median (min to max)");
    if cfg!(debug_assertions) {
        println!("THIS IS A DEBUG BUILD: its figures say nothing");
    }
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

    let got = measure_get(&b, &direct.id, "direct", &[&a, &b]);
    table.add("get, direct: s", "", got.seconds);
    table.add("get, direct: fraction of raw speed", "", raw.seconds / got.seconds);
    table.add("get, direct: CPU-s/GiB, both nodes", "<= 3.5", got.cpu.iter().sum::<f64>() / gib);
    let times = got.cpu.iter().sum::<f64>() / moved_cpu;
    table.add("get, direct: CPU, times raw TCP and cp together", "", times);
    table.add("get, direct: peak MB, source", "<= 60", got.peak_mb[0]);
    table.add("get, direct: peak MB, requester", "<= 60", got.peak_mb[1]);

    let far = publish_timed(&a, &source, "relayed", "fof");
    wait_until(STEP, "a friend's friend sees it", || found(&c, "relayed", &far.id).is_some());
    let got = measure_get(&c, &far.id, "fof", &[&a, &b, &c]);
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
    let args = ["publish", file.to_str().unwrap(), "--title", title, "--to", to, "--any-file", "--json"];
    let answer = Running::start(command(&node.home, &args), b"").finish(STEP).json();
    Published { id: id_of(&answer), client_cpu: children_cpu() - before }
}

struct Got {
    seconds: f64,
    cpu: Vec<f64>,
    peak_mb: Vec<f64>,
}

/// `get` without `-o`: from store to store, verified. Time is that of the whole command.
fn measure_get(node: &Node, id: &str, mode: &str, all: &[&Node]) -> Got {
    all.iter().for_each(|n| forget_peak(n));
    let before: Vec<Usage> = all.iter().map(|n| Usage::of(n)).collect();
    let begun = Instant::now();
    let answer = Running::start(command(&node.home, &["get", id, "--json"]), b"").finish(STEP).json();
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

struct RawCopy {
    seconds: f64,
    cpu: f64,
}

/// The same number of bytes through a loopback TCP connection between two threads.
fn raw_copy(size: u64) -> RawCopy {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let data = random_bytes(COPY_BUFFER);
    let cpu_before = own_cpu();
    let begun = Instant::now();
    let sender = thread::spawn(move || {
        let mut to = TcpStream::connect(address).unwrap();
        let mut left = size;
        while left > 0 {
            let now = usize::try_from(left).unwrap_or(usize::MAX).min(data.len());
            to.write_all(&data[..now]).unwrap();
            left -= now as u64;
        }
    });
    let (mut from, _) = listener.accept().unwrap();
    let (mut buffer, mut came) = (vec![0; COPY_BUFFER], 0);
    while let n @ 1.. = from.read(&mut buffer).unwrap() {
        came += n as u64;
    }
    let seconds = begun.elapsed().as_secs_f64();
    sender.join().unwrap();
    assert_eq!(came, size);
    RawCopy { seconds, cpu: own_cpu() - cpu_before }
}

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

fn write_random(path: &Path, size: u64) {
    let mut file = File::create(path).unwrap();
    let mut left = size;
    while left > 0 {
        let bytes = random_bytes(usize::try_from(left.min(8 * MIB)).unwrap());
        file.write_all(&bytes).unwrap();
        left -= bytes.len() as u64;
    }
    file.sync_all().unwrap();
}

// ---- the system's counters ----------------------------------------------------------------------

/// CPU seconds of a node's process so far.
struct Usage(f64);

impl Usage {
    fn of(node: &Node) -> Self {
        Self(stat(&format!("/proc/{}/stat", node.pid()), [14, 15]))
    }

    fn since(&self, before: &Self) -> f64 {
        self.0 - before.0
    }
}

fn own_cpu() -> f64 {
    stat("/proc/self/stat", [14, 15])
}

/// CPU seconds of the commands that have ended and were waited for.
fn children_cpu() -> f64 {
    stat("/proc/self/stat", [16, 17])
}

/// The sum of two tick counters of proc_pid_stat(5), in seconds; fields count from 1.
fn stat(path: &str, fields: [usize; 2]) -> f64 {
    let text = fs::read_to_string(path).unwrap();
    // The second field is a name in brackets that may hold spaces; the third follows it.
    let rest: Vec<&str> = text.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u64 = fields.iter().map(|field| rest[field - 3].parse::<u64>().unwrap()).sum();
    ticks as f64 / ticks_per_second()
}

fn ticks_per_second() -> f64 {
    static TICKS: std::sync::OnceLock<f64> = std::sync::OnceLock::new();
    *TICKS.get_or_init(|| {
        let output = Command::new("getconf").arg("CLK_TCK").output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
    })
}

/// A line of proc_pid_status(5) in millions of bytes.
fn memory_mb(node: &Node, key: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kib * 1_024.0 / 1e6
}

/// Starts the peak of a process's memory anew (proc_pid_clear_refs(5)), so that each step has its
/// own.
fn forget_peak(node: &Node) {
    fs::write(format!("/proc/{}/clear_refs", node.pid()), "5").unwrap();
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

fn machine() -> String {
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or("unknown");
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let model = model.trim_start_matches([' ', '\t', ':']);
    format!("machine: {cores} cores, {model}, Linux {}", kernel.trim())
}

// ---- the table ----------------------------------------------------------------------------------

/// Rows in the order of their first figure.
#[derive(Default)]
struct Table(Vec<Row>);

struct Row {
    what: String,
    reach: &'static str,
    figures: Vec<f64>,
}

impl Table {
    fn add(&mut self, what: &str, reach: &'static str, figure: f64) {
        match self.0.iter_mut().find(|row| row.what == what) {
            Some(row) => row.figures.push(figure),
            None => self.0.push(Row { what: what.to_owned(), reach, figures: vec![figure] }),
        }
    }

    fn print(&mut self) {
        println!("{:<50} {:>9}  {:<20} to reach", "figure", "median", "(min to max)");
        for Row { what, reach, figures } in &mut self.0 {
            figures.sort_by(f64::total_cmp);
            let (low, high) = (figures[0], figures[figures.len() - 1]);
            let spread = format!("({low:.2} to {high:.2})");
            println!("{what:<50} {:>9.2}  {spread:<20} {reach}", median(figures));
        }
    }
}

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}
