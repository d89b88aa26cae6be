//! One seed decides a whole run. A failure names the seed and the line that replays it.

use std::env;

/// Runs `scenario` with `usual` seeds, with as many as `KITH_SIM_SEEDS` says, or only with the one
/// in `KITH_SIM_SEED`. `name` is the test's name.
pub fn run(name: &str, usual: u64, scenario: impl Fn(u64)) {
    let number = |key: &str| env::var(key).ok().and_then(|v| v.parse::<u64>().ok());
    let seeds = match number("KITH_SIM_SEED") {
        Some(seed) => seed..=seed,
        None => 1..=number("KITH_SIM_SEEDS").unwrap_or(usual),
    };
    for seed in seeds {
        let _report = Report { name, seed };
        scenario(seed);
    }
}

/// Speaks up when a scenario panics: `Drop` runs while the stack unwinds.
struct Report<'a> {
    name: &'a str,
    seed: u64,
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{} failed with seed {}. Replay:", self.name, self.seed);
            eprintln!("KITH_SIM_SEED={} cargo test -p kith-tests {}", self.seed, self.name);
        }
    }
}
