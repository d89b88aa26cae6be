//! The adversary's reasoning: it knows every friendship, the policy, and at which place of the route
//! each of its relays stands; it sees the end of every circuit. It does not know the lists of honest
//! nodes, of which the policy shows it a random part only.
//!
//! Routes are followed backwards over neighbours, so that the work depends on degrees and not on the
//! size of the network.

use super::network::Network;
use crate::graphs::Graph;
use std::collections::BTreeMap;

/// What one circuit tells: the honest node next to the hostile relay that is nearest to the origin, or
/// the last relay, which the hostile end sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Seen {
    /// The guard is hostile.
    Origin,
    /// The second relay is, and sees the guard.
    Guard(u32),
    /// The third relay is, and sees the second.
    Second(u32),
    /// No relay is: the end sees the third.
    Third(u32),
}

impl Seen {
    pub(super) fn of(network: &Network<'_>, [guard, second, third]: [u32; 3]) -> Self {
        match [guard, second, third].map(|relay| network.is_hostile(relay)) {
            [true, _, _] => Self::Origin,
            [_, true, _] => Self::Guard(guard),
            [_, _, true] => Self::Second(second),
            _ => Self::Third(third),
        }
    }
}

/// Likelihood of what was seen behind one guard, by the directed edge from that guard to the origin.
pub(super) type ByEdge = Vec<(usize, f64)>;

/// Follows routes backwards.
pub(super) struct Tracer<'a> {
    graph: &'a Graph,
    is_honest: Vec<bool>,
    /// Likelihood by edge; only what `touched` names is not zero.
    sums: Vec<f64>,
    touched: Vec<usize>,
    /// The same by origin.
    origin_sums: Vec<f64>,
}

impl<'a> Tracer<'a> {
    pub(super) fn new(network: &Network<'a>) -> Self {
        let graph = network.graph;
        let is_honest = network.is_hostile.iter().map(|is| !is).collect();
        let (sums, origin_sums) = (vec![0.0; graph.edge_count()], vec![0.0; graph.len()]);
        Self { graph, is_honest, sums, touched: Vec::new(), origin_sums }
    }

    /// The likelihood of circuits that had guard and second relay in common, and third relays that
    /// were drawn one after the other without repeating any.
    pub(super) fn behind_guard(&mut self, seen: &[Seen]) -> ByEdge {
        self.trace(seen);
        let touched = std::mem::take(&mut self.touched);
        touched.into_iter().map(|edge| (edge, std::mem::take(&mut self.sums[edge]))).collect()
    }

    /// Multiplies in one more circuit of the same guard, in logarithms.
    pub(super) fn multiply_behind_guard(&mut self, logs: &mut Option<ByEdge>, seen: Seen) {
        self.trace(&[seen]);
        multiply(logs, &self.touched, &self.sums, |edge| edge);
        self.touched.drain(..).for_each(|edge| self.sums[edge] = 0.0);
    }

    /// Multiplies in one more circuit of the same origin, in logarithms.
    pub(super) fn multiply_by_origin(&mut self, logs: &mut Option<Vec<(u32, f64)>>, seen: Seen) {
        self.trace(&[seen]);
        let mut origins = Vec::new();
        for edge in self.touched.drain(..) {
            let origin = self.graph.ends(edge).1;
            let sum = &mut self.origin_sums[origin as usize];
            if *sum == 0.0 {
                origins.push(origin);
            }
            *sum += std::mem::take(&mut self.sums[edge]) / self.graph.degree(origin) as f64;
        }
        multiply(logs, &origins, &self.origin_sums, |origin| origin as usize);
        origins.into_iter().for_each(|origin| self.origin_sums[origin as usize] = 0.0);
    }

    fn honest(&self, nodes: &'a [u32]) -> impl Iterator<Item = u32> + use<'_, 'a> {
        nodes.iter().copied().filter(|node| self.is_honest[*node as usize])
    }

    fn add(&mut self, edge: usize, value: f64) {
        if self.sums[edge] == 0.0 {
            self.touched.push(edge);
        }
        self.sums[edge] += value;
    }

    fn trace(&mut self, seen: &[Seen]) {
        let graph = self.graph;
        let known = |pick: fn(&Seen) -> Option<u32>| seen.iter().find_map(pick);
        if let Some(guard) = known(|s| if let Seen::Guard(g) = s { Some(*g) } else { None }) {
            return self.add_origins(guard, &[], None, |_| 1.0);
        }
        let mut thirds: Vec<u32> =
            seen.iter().filter_map(|s| if let Seen::Third(w) = s { Some(*w) } else { None }).collect();
        thirds.sort_unstable();
        thirds.dedup();
        let seconds: Vec<u32> = match known(|s| if let Seen::Second(v) = s { Some(*v) } else { None }) {
            Some(second) => vec![second],
            None => thirds.first().map(|w| self.honest(graph.friends(*w)).collect()).unwrap_or_default(),
        };
        for second in seconds.into_iter().filter(|v| thirds.iter().all(|w| graph.are_friends(*v, *w))) {
            let guards: Vec<u32> =
                self.honest(graph.friends(second)).filter(|g| !thirds.contains(g)).collect();
            for guard in guards {
                // The list leaves out whom the circuit came from, and oneself is no third relay.
                let from_guard = (graph.degree(guard) - 1) as f64;
                self.add_origins(guard, &thirds, Some(second), |origin| {
                    let own = usize::from(graph.are_friends(second, origin));
                    let from_second = graph.degree(second) - 1 - own;
                    let drawn = (0..thirds.len()).map(|i| (from_second - i) as f64);
                    1.0 / (from_guard * drawn.product::<f64>())
                });
            }
        }
    }

    fn add_origins(
        &mut self,
        guard: u32,
        thirds: &[u32],
        second: Option<u32>,
        likelihood: impl Fn(u32) -> f64,
    ) {
        for edge in self.graph.edges(guard) {
            let origin = self.graph.ends(edge).1;
            let may = self.is_honest[origin as usize]
                && self.graph.degree(origin) >= super::repeated::MIN_DEGREE
                && Some(origin) != second
                && !thirds.contains(&origin);
            if may {
                self.add(edge, likelihood(origin));
            }
        }
    }
}

fn multiply<K: Copy>(
    logs: &mut Option<Vec<(K, f64)>>,
    touched: &[K],
    sums: &[f64],
    place: impl Fn(K) -> usize,
) {
    match logs {
        None => *logs = Some(touched.iter().map(|k| (*k, sums[place(*k)].ln())).collect()),
        Some(logs) => logs.retain_mut(|(k, log)| {
            let p = sums[place(*k)];
            *log += p.ln();
            p > 0.0
        }),
    }
}

/// Likelihoods from logarithms, scaled so that the greatest is 1.
pub(super) fn scaled<K: Copy>(logs: &[(K, f64)]) -> Vec<(K, f64)> {
    let top = logs.iter().map(|(_, log)| *log).fold(f64::NEG_INFINITY, f64::max);
    logs.iter().map(|(k, log)| (*k, (log - top).exp())).filter(|(_, p)| *p > 0.0).collect()
}

/// Likelihood by origin, from that behind its guard.
pub(super) fn by_origin(graph: &Graph, guard: &[(usize, f64)]) -> BTreeMap<u32, f64> {
    let mut out = BTreeMap::new();
    for (edge, p) in guard {
        let origin = graph.ends(*edge).1;
        *out.entry(origin).or_insert(0.0) += p / graph.degree(origin) as f64;
    }
    out
}

/// Likelihood by origin, from those behind its two guards, which are different friends.
pub(super) fn by_origin_of_two(
    graph: &Graph,
    first: &[(usize, f64)],
    second: &[(usize, f64)],
) -> BTreeMap<u32, f64> {
    let by_edge: BTreeMap<usize, f64> = second.iter().copied().collect();
    let both: ByEdge = first.iter().filter_map(|(edge, p)| Some((*edge, p * by_edge.get(edge)?))).collect();
    let (first, second, both) = (by_origin(graph, first), by_origin(graph, second), by_origin(graph, &both));
    let mut out = BTreeMap::new();
    for (origin, p) in &first {
        let Some(q) = second.get(origin) else { continue };
        // Sums over the friends: the product of both sums, less the pairs of a friend with itself.
        let degree = graph.degree(*origin) as f64;
        let same = both.get(origin).copied().unwrap_or(0.0) * degree;
        let pairs = p * degree * q * degree - same;
        if pairs > 0.0 {
            out.insert(*origin, pairs / (degree * (degree - 1.0)));
        }
    }
    out
}
