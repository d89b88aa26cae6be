//! Simulations of what the shipped route policy gives away, on friend graphs of thousands of nodes.
//!
//! Every list comes from [`kith_onion::handle::Handles`] and every route from
//! [`kith_onion::route::Routes`]; only the adversary's reasoning is the simulation's own. Policies
//! that the design rejects run beside it as positive controls: an adversary that could not use them
//! would prove nothing about the shipped one. Definitions and figures: `docs/protocol/circuit.md`.

mod capture;
pub(crate) mod network;
mod posterior;
mod reach;
pub(crate) mod repeated;

pub use capture::{Capture, capture};
pub use network::{Adversary, Network};
pub use reach::{Availability, Reach, SPREADS, Served, availability, cores, reach};
pub use repeated::{AFTER, Policy, Repeated, repeated};

use kith_crypto::rng::Rng;

/// A mean with its 95 % interval.
#[derive(Clone, Copy, Debug)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Half the width of the interval.
    pub half: f64,
}

impl Estimate {
    /// The mean of samples that are independent of each other. A single one says nothing of its interval.
    pub fn of(samples: &[f64]) -> Self {
        let n = samples.len().max(1) as f64;
        let mean = samples.iter().sum::<f64>() / n;
        let variance = samples.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let half = if samples.len() < 2 { f64::INFINITY } else { 1.96 * (variance / n).sqrt() };
        Self { mean, half }
    }

    /// The mean of shares between 0 and 1. Where all are the same, the interval is that of the rule of
    /// three (Hanley and Lippman-Hand 1983).
    pub fn of_shares(samples: &[f64]) -> Self {
        match Self::of(samples) {
            Self { mean, half: 0.0 } => Self { mean, half: (3.0 / samples.len() as f64).min(1.0) },
            estimate => estimate,
        }
    }
}

/// The seed of one run, from a number that can be printed.
pub fn seeded(seed: u64, what: u64) -> Rng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&what.to_le_bytes());
    Rng::from_seed(bytes)
}
