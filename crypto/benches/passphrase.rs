//! What opening a store with a passphrase costs: time of one derivation at the recommended cost, and
//! the memory that it takes while it lasts.
//!
//! `cargo bench -p kith-crypto --bench passphrase`

// A bench measures time; the crate itself has none.
#![allow(clippy::disallowed_methods)]

use kith_crypto::passphrase::{Cost, derive};
use std::hint::black_box;
use std::time::Instant;

const RUNS: usize = 11;

fn main() {
    let before = peak_kib();
    let mut times: Vec<f64> = (0..RUNS)
        .map(|run| {
            let begun = Instant::now();
            black_box(derive(b"correct horse battery", &[run as u8; 16], Cost::RECOMMENDED));
            begun.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let Cost { memory_kib, passes } = Cost::RECOMMENDED;
    println!("Argon2id, {memory_kib} KiB, {passes} passes, 1 lane, {RUNS} runs");
    println!("median {:.0} ms ({:.0} to {:.0})", times[RUNS / 2], times[0], times[RUNS - 1]);
    if let (Some(before), Some(after)) = (before, peak_kib()) {
        println!("peak of resident memory: {after} KiB, {} KiB more than before", after - before);
    }
}

/// Most memory that was resident so far; nothing where the system does not say.
fn peak_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}
