//! How often hostile nodes stand at the ends of a route.

use super::network::{Adversary, Network};
use super::{Estimate, seeded};
use crate::graphs::{Graph, below, unit};
use kith_onion::route::{Pair, SLOTS};

/// Shares of routes, each with its interval.
#[derive(Clone, Copy, Debug)]
pub struct Capture {
    /// The guard is hostile.
    pub guard: Estimate,
    /// The third relay is hostile.
    pub end: Estimate,
    /// Both are.
    pub both: Estimate,
    /// The third relay is hostile, of the routes with an honest guard.
    pub end_behind_honest_guard: Estimate,
}

/// Origins of one set of hostile nodes. Routes of one set are not independent of each other, sets are.
const ORIGINS: usize = 50;

/// Draws `trials` routes of honest origins. Hostile are the nodes from number `honest` on if there are
/// any, and a share of all others.
pub fn capture(
    graph: &Graph,
    honest: usize,
    share: f64,
    adversary: Adversary,
    trials: usize,
    seed: u64,
) -> Capture {
    let mut samples = [const { Vec::new() }; 4];
    for block in 0..trials.div_ceil(ORIGINS) {
        let mut rng = seeded(seed, block as u64);
        let is_hostile = (0..graph.len()).map(|node| node >= honest || unit(&mut rng) < share).collect();
        let mut network = Network::new(graph, is_hostile, adversary, &mut rng);
        let (mut routes_seen, mut counts) = (0, [0; 4]);
        while routes_seen < ORIGINS {
            let origin = below(&mut rng, honest) as u32;
            if network.is_hostile(origin) || graph.degree(origin) < super::repeated::MIN_DEGREE {
                continue;
            }
            let mut routes = network.fresh(origin, &mut rng);
            let slot = below(&mut rng, SLOTS);
            // No route: the guard has no other friends, and the reserve pair would be used.
            let walked = network.walk(origin, &mut routes, (Pair::Primary, slot), &mut rng);
            let Some([guard, _, end]) = walked else { continue };
            let (guard, end) = (network.is_hostile(guard), network.is_hostile(end));
            routes_seen += 1;
            [guard, end, guard && end, !guard && end]
                .iter()
                .zip(&mut counts)
                .for_each(|(is, n)| *n += usize::from(*is));
        }
        let of = |n: usize, of: usize| n as f64 / of.max(1) as f64;
        for (i, samples) in samples.iter_mut().enumerate() {
            samples.push(of(counts[i], if i == 3 { ORIGINS - counts[0] } else { ORIGINS }));
        }
    }
    let [guard, end, both, end_behind_honest_guard] = samples.map(|samples| Estimate::of(&samples));
    Capture { guard, end, both, end_behind_honest_guard }
}
