//! Many circuits of one origin towards one hostile end that knows that they belong together.

use super::network::{Adversary, MADE_UP, Network, UNIX_MS};
use super::posterior::{ByEdge, Seen, Tracer, by_origin, by_origin_of_two, scaled};
use super::{Estimate, seeded};
use crate::graphs::{Graph, below, unit};
use kith_crypto::rng::Rng;
use kith_crypto::secret::Key;
use kith_onion::route::{Pair, Routes, SLOTS};
use std::collections::{BTreeMap, BTreeSet};

/// Numbers of circuits after which the adversary's knowledge is looked at.
pub const AFTER: [usize; 4] = [1, 4, 16, 64];
/// Origins have at least so many friends: who has fewer is found by other means.
pub(crate) const MIN_DEGREE: usize = 4;

/// How circuits choose their routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// As shipped; all circuits are of one context.
    OneContext,
    /// As shipped; each circuit is of a context of its own, which the adversary links all the same.
    ManyContexts,
    /// As shipped, one context that is played while every third circuit fails at a random place: third
    /// hops are replaced, and the reserve pair steps in.
    Failures,
    /// Control: the policy forgets everything before each circuit.
    Fresh,
    /// Control: both guards take turns, and all that follows them is forgotten.
    TwoGuards,
}

impl Policy {
    /// All of them, the shipped ones first.
    pub const ALL: [Self; 5] =
        [Self::OneContext, Self::ManyContexts, Self::Failures, Self::TwoGuards, Self::Fresh];
}

/// What the adversary knows after [`AFTER`] circuits.
#[derive(Clone, Debug)]
pub struct Repeated {
    /// Entropy of the origin in bits: two to its power is the effective set.
    pub bits: [Estimate; 4],
    /// Share of origins that are named: the adversary is right, and more than nine tenths sure.
    pub named: [Estimate; 4],
    /// Share of origins of which a guard in use was hostile.
    pub hostile_guard: Estimate,
    /// Share of circuits that did not come about, as the context had used four routes.
    pub refused: f64,
    /// What the adversary gave the true origin, less what it expected to give it: the difference is
    /// nothing on average if the adversary reasons rightly.
    pub bias: [Estimate; 4],
}

/// Runs `trials` origins, each among hostile nodes of its own.
pub fn repeated(graph: &Graph, share: f64, policy: Policy, trials: usize, seed: u64) -> Repeated {
    let [mut bits, mut named, mut bias] = [const { [const { Vec::new() }; 4] }; 3];
    let (mut hostile_guards, mut refused) = (Vec::new(), 0);
    let mut trial = 0;
    while hostile_guards.len() < trials {
        trial += 1;
        let mut rng = seeded(seed, trial);
        let is_hostile: Vec<bool> = (0..graph.len()).map(|_| unit(&mut rng) < share).collect();
        let mut network = Network::new(graph, is_hostile, Adversary::Honest, &mut rng);
        let origin = below(&mut rng, graph.len()) as u32;
        if network.is_hostile(origin) || graph.degree(origin) < MIN_DEGREE {
            continue;
        }
        let Some(circuits) = draw(&mut network, origin, policy, &mut rng) else { continue };
        hostile_guards.push(f64::from(u8::from(circuits.has_hostile_guard)));
        refused += circuits.refused;
        for (i, belief) in judge(&network, origin, policy, &circuits.seen).into_iter().enumerate() {
            bits[i].push(belief.bits);
            named[i].push(f64::from(u8::from(belief.right > 0.9)));
            bias[i].push(belief.right - belief.expected);
        }
    }
    Repeated {
        bits: bits.map(|samples| Estimate::of(&samples)),
        named: named.map(|samples| Estimate::of(&samples)),
        hostile_guard: Estimate::of(&hostile_guards),
        refused: refused as f64 / (trials * AFTER[3]) as f64,
        bias: bias.map(|samples| Estimate::of(&samples)),
    }
}

struct Circuits {
    /// Which pair each circuit went over, and what was seen of it.
    seen: Vec<(Pair, Seen)>,
    has_hostile_guard: bool,
    refused: usize,
}

fn draw(network: &mut Network<'_>, origin: u32, policy: Policy, rng: &mut Rng) -> Option<Circuits> {
    let secret = Key::new(rng.bytes());
    let mut routes = network.fresh(origin, rng);
    let context = rng.bytes();
    let (mut seen, mut refused, mut used) = (Vec::new(), 0, BTreeSet::new());
    for circuit in 0..AFTER[3] {
        let context = if policy == Policy::ManyContexts { rng.bytes() } else { context };
        let slot = Routes::slot_of(&secret, &context);
        let walked = match policy {
            Policy::OneContext | Policy::ManyContexts => {
                let walked = network.walk(origin, &mut routes, (Pair::Primary, slot), rng)?;
                routes.allow(&secret, &context, Pair::Primary, slot, UNIX_MS).ok()?;
                Some((Pair::Primary, walked))
            }
            Policy::Failures => with_failures(network, origin, &mut routes, (&secret, &context), rng),
            Policy::Fresh => {
                // A guard without other friends gives no route: another one is drawn.
                let mut walk = || {
                    let mut fresh = network.fresh(origin, rng);
                    network.walk(origin, &mut fresh, (Pair::Primary, below(rng, SLOTS)), rng)
                };
                Some((Pair::Primary, (0..10).find_map(|_| walk())?))
            }
            Policy::TwoGuards => {
                let pair = if circuit % 2 == 0 { Pair::Primary } else { Pair::Reserve };
                Some((pair, network.walk(origin, &mut routes.clone(), (pair, slot), rng)?))
            }
        };
        match walked {
            Some((pair, route)) => {
                debug_assert!(!route.contains(&MADE_UP));
                used.insert(route[0]);
                seen.push((pair, Seen::of(network, route)));
            }
            None if circuit == 0 => return None,
            None => {
                refused += 1;
                // Nothing new is seen.
                seen.extend(seen.last().copied());
            }
        }
    }
    let has_hostile_guard = used.iter().any(|guard| network.is_hostile(*guard));
    Some(Circuits { seen, has_hostile_guard, refused })
}

/// A core that plays: it tries the primary pair twice, as the first failure may have led to another
/// third hop, then the reserve pair.
fn with_failures(
    network: &mut Network<'_>,
    origin: u32,
    routes: &mut Routes,
    (secret, context): (&Key, &[u8; 32]),
    rng: &mut Rng,
) -> Option<(Pair, [u32; 3])> {
    let slot = Routes::slot_of(secret, context);
    for pair in [Pair::Primary, Pair::Primary, Pair::Reserve, Pair::Reserve] {
        let Some(route) = network.walk(origin, routes, (pair, slot), rng) else { continue };
        if below(rng, 3) == 0 {
            let reached = below(rng, 4);
            routes.failed(pair, slot, reached, UNIX_MS, true);
            continue;
        }
        routes.worked(pair, slot);
        if routes.allow(secret, context, pair, slot, UNIX_MS).is_ok() {
            return Some((pair, route));
        }
    }
    None
}

/// What the adversary believes about the origin.
struct Belief {
    bits: f64,
    /// Probability of the true one.
    right: f64,
    /// What that is on average, going by the belief itself.
    expected: f64,
}

/// The belief after each number of circuits.
fn judge(network: &Network<'_>, origin: u32, policy: Policy, seen: &[(Pair, Seen)]) -> [Belief; 4] {
    let mut tracer = Tracer::new(network);
    let (mut origins, mut edges) = (None, BTreeMap::<Pair, Option<ByEdge>>::new());
    let mut done = 0;
    AFTER.map(|n| {
        let seen = &seen[..n];
        if seen.iter().any(|(_, seen)| *seen == Seen::Origin) {
            return Belief { bits: 0.0, right: 1.0, expected: 1.0 };
        }
        for (pair, seen) in &seen[std::mem::replace(&mut done, n)..] {
            match policy {
                Policy::Fresh => {
                    tracer.multiply_by_origin(&mut origins, *seen);
                }
                Policy::TwoGuards => {
                    tracer.multiply_behind_guard(edges.entry(*pair).or_default(), *seen);
                }
                // Guard and second hop stay: what counts is which thirds were seen.
                Policy::OneContext | Policy::ManyContexts | Policy::Failures => {}
            }
        }
        if policy == Policy::Fresh {
            return weigh(origin, origins.iter().flat_map(|logs| scaled(logs)).collect());
        }
        let behind: Vec<ByEdge> = match policy {
            Policy::TwoGuards => edges.values().flatten().map(|logs| scaled(logs)).collect(),
            _ => {
                let of = |pair| seen.iter().filter(|(p, _)| *p == pair).map(|(_, s)| *s).collect::<Vec<_>>();
                let pairs = [of(Pair::Primary), of(Pair::Reserve)];
                pairs.iter().filter(|s| !s.is_empty()).map(|s| tracer.behind_guard(s)).collect()
            }
        };
        weigh(
            origin,
            match behind.as_slice() {
                [one] => by_origin(network.graph, one),
                [one, other] => by_origin_of_two(network.graph, one, other),
                _ => BTreeMap::new(),
            },
        )
    })
}

fn weigh(origin: u32, likelihood: BTreeMap<u32, f64>) -> Belief {
    let total: f64 = likelihood.values().sum();
    let belief = |of: &dyn Fn(f64) -> f64| {
        likelihood.values().map(|l| l / total).filter(|p| *p > 1e-12).map(of).sum::<f64>()
    };
    Belief {
        bits: belief(&|p| -p * p.log2()),
        right: likelihood.get(&origin).map_or(0.0, |l| l / total),
        expected: belief(&|p| p * p),
    }
}
