//! Random `kill -9` of real nodes, compared with a model after each: `tests/e2e/kills.rs` says how.
//!
//! `cargo bench -p kith-node --bench kills -- [KILLS [SEED]]`; default 500. Ends with status 0 only if
//! nothing was lost. Two gigabytes below `TMPDIR` are enough.

// A campaign that can't go on has nothing to report but why.
#![allow(clippy::unwrap_used, clippy::panic)]

// The same nodes as in the end-to-end tests; the campaign needs only some of their verbs.
#[allow(dead_code)]
#[path = "../e2e/harness.rs"]
mod harness;
#[path = "../e2e/kills.rs"]
mod kills;

use std::time::Instant;

fn main() {
    // cargo adds flags of its own (`--bench`).
    let numbers: Vec<u64> =
        std::env::args().skip(1).filter(|a| !a.starts_with('-')).map(|a| a.parse().unwrap()).collect();
    let kills = numbers.first().copied().unwrap_or(500);
    let seed = numbers.get(1).copied().unwrap_or_else(|| u64::from(std::process::id()) << 16);
    println!("{kills} kills, seed {seed}");
    let begun = Instant::now();
    let mut told = 0;
    let tally = kills::campaign(kills, seed, |tally| {
        if tally.total() / 10 > told {
            told = tally.total() / 10;
            eprintln!("{} kills, {:.0} s", tally.total(), begun.elapsed().as_secs_f64());
        }
    });
    let mut restarts = tally.restarts.clone();
    restarts.sort_by(f64::total_cmp);
    for (what, count) in &tally.kills {
        println!("{count:6}  {what}");
    }
    println!(
        "{:6}  kills in all, {} of them before the operation was acknowledged",
        tally.total(),
        tally.under_way
    );
    println!("{:6}  operations acknowledged", tally.acknowledged);
    println!("{:6}  publications not acknowledged and there, whole", tally.unacknowledged_whole);
    println!("{:6}  files read back and compared", tally.compared);
    println!(
        "{:6.3}  s from start to ready after a kill, median; {:.3} at most",
        restarts.get(restarts.len() / 2).copied().unwrap_or(0.0),
        restarts.last().copied().unwrap_or(0.0)
    );
    println!(
        "     0  losses (one would have ended this with its seed); {:.0} s",
        begun.elapsed().as_secs_f64()
    );
}
