//! Attacks what circuits defend, and prints what came of it:
//! `cargo run --release -p kith-tests --example attacks -- [--seeds N] [--only A11]`.
//! Every row has a control, the same attack with the defence off. What the figures mean:
//! `docs/threat-model.md`.

use kith_tests::attacks::{ALL, Effort, HEAD, Verdict};
use std::time::Instant;

fn main() {
    let (effort, only) = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(what) => {
            eprintln!("attacks: {what}. Usage: attacks [--seeds N] [--only A11]");
            std::process::exit(2);
        }
    };
    println!("{} seeds; \u{b1} and brackets are 95 % intervals.\n\n{HEAD}", effort.seeds);
    let mut failed = false;
    for (id, attack) in ALL.iter().filter(|(id, _)| only.as_ref().is_none_or(|o| o == id)) {
        let begun = Instant::now();
        for row in attack(effort) {
            println!("{row}");
            failed |= row.control_succeeds == Some(false) || row.promised && row.verdict == Verdict::Fails;
        }
        eprintln!("{id}: {:.0?}", begun.elapsed());
    }
    if failed {
        std::process::exit(1);
    }
}

fn options(mut args: impl Iterator<Item = String>) -> Result<(Effort, Option<String>), String> {
    let (mut effort, mut only) = (Effort { seeds: 20, full: true }, None);
    while let Some(name) = args.next() {
        let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--seeds" => {
                let seeds = value.parse().ok().filter(|n| (1..=1_000_000).contains(n));
                effort.seeds = seeds.ok_or_else(|| format!("--seeds needs a number, not '{value}'"))?;
            }
            "--only" if ALL.iter().any(|(id, _)| *id == value) => only = Some(value),
            "--only" => {
                let ids: Vec<&str> = ALL.iter().map(|(id, _)| *id).collect();
                return Err(format!("there is no attack {value}; there are {}", ids.join(", ")));
            }
            _ => return Err(format!("there is no option {name}")),
        }
    }
    Ok((effort, only))
}
