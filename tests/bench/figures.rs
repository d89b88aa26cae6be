//! What benches share: the system's counters of processes, and one table of medians.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Instant;

use crate::harness::{Node, random_bytes};

const COPY_BUFFER: usize = 64 << 10;

// ---- the system's counters ----------------------------------------------------------------------

/// CPU seconds of a node's process so far.
pub(crate) struct Usage(f64);

impl Usage {
    pub(crate) fn of(node: &Node) -> Self {
        Self(stat(&format!("/proc/{}/stat", node.pid()), [14, 15]))
    }

    pub(crate) fn since(&self, before: &Self) -> f64 {
        self.0 - before.0
    }
}

pub(crate) fn own_cpu() -> f64 {
    stat("/proc/self/stat", [14, 15])
}

/// CPU seconds of the commands that have ended and were waited for.
pub(crate) fn children_cpu() -> f64 {
    stat("/proc/self/stat", [16, 17])
}

/// The sum of two tick counters of proc_pid_stat(5), in seconds; fields count from 1.
pub(crate) fn stat(path: &str, fields: [usize; 2]) -> f64 {
    let text = fs::read_to_string(path).unwrap();
    // The second field is a name in brackets that may hold spaces; the third follows it.
    let rest: Vec<&str> = text.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u64 = fields.iter().map(|field| rest[field - 3].parse::<u64>().unwrap()).sum();
    ticks as f64 / ticks_per_second()
}

pub(crate) fn ticks_per_second() -> f64 {
    static TICKS: std::sync::OnceLock<f64> = std::sync::OnceLock::new();
    *TICKS.get_or_init(|| {
        let output = Command::new("getconf").arg("CLK_TCK").output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
    })
}

/// A line of proc_pid_status(5) in millions of bytes.
pub(crate) fn memory_mb(node: &Node, key: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kib * 1_024.0 / 1e6
}

/// Starts the peak of a process's memory anew (proc_pid_clear_refs(5)), so that each step has its
/// own.
pub(crate) fn forget_peak(node: &Node) {
    fs::write(format!("/proc/{}/clear_refs", node.pid()), "5").unwrap();
}

pub(crate) fn machine() -> String {
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
pub(crate) struct Table(Vec<Row>);

struct Row {
    what: String,
    reach: &'static str,
    figures: Vec<f64>,
}

impl Table {
    pub(crate) fn add(&mut self, what: &str, reach: &'static str, figure: f64) {
        match self.0.iter_mut().find(|row| row.what == what) {
            Some(row) => row.figures.push(figure),
            None => self.0.push(Row { what: what.to_owned(), reach, figures: vec![figure] }),
        }
    }

    pub(crate) fn print(&mut self) {
        println!("{:<50} {:>9}  {:<20} to reach", "figure", "median", "(min to max)");
        for Row { what, reach, figures } in &mut self.0 {
            figures.sort_by(f64::total_cmp);
            let (low, high) = (figures[0], figures[figures.len() - 1]);
            let spread = format!("({low:.2} to {high:.2})");
            println!("{what:<50} {:>9.2}  {spread:<20} {reach}", median(figures));
        }
    }
}

pub(crate) fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}

// ---- what it is compared with -------------------------------------------------------------------

/// A plain copy over loopback.
pub(crate) struct RawCopy {
    pub(crate) seconds: f64,
    /// Both ends.
    pub(crate) cpu: f64,
}

/// The same number of bytes through a loopback TCP connection between two threads.
pub(crate) fn raw_copy(size: u64) -> RawCopy {
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
