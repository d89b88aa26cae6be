//! Friend graphs to simulate on. Real circles of friends lie between COM and WS (clustering about 0.1
//! to 0.5); BA is the case with hubs. Everything is decided by the generator that comes in.

use kith_crypto::rng::Rng;
use std::collections::BTreeSet;

/// Kinds of friend graphs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ring lattice with a tenth of the edges moved (Watts and Strogatz 1998).
    Ws,
    /// Preferential attachment (Barabasi and Albert 1999).
    Ba,
    /// Nested communities of 25, of 500 and of all with 50, 35 and 15 % of the edges; people differ in
    /// how many friends they have (log-normal).
    Com,
}

/// An undirected graph: neighbours of each node in ascending order.
#[derive(Clone, Debug)]
pub struct Graph {
    starts: Vec<usize>,
    neighbours: Vec<u32>,
    owners: Vec<u32>,
}

impl Graph {
    /// A graph of a kind with `n` nodes of about `degree` friends.
    pub fn new(kind: Kind, n: usize, degree: usize, rng: &mut Rng) -> Self {
        match kind {
            Kind::Ws => watts_strogatz(n, degree, rng),
            Kind::Ba => barabasi_albert(n, degree, rng),
            Kind::Com => communities(n, degree, &[(25, 0.5), (500, 0.35), (n, 0.15)], rng),
        }
    }

    /// The graph of these edges; loops and repetitions are left out.
    pub fn from_edges(n: usize, edges: impl IntoIterator<Item = (usize, usize)>) -> Self {
        let both = edges.into_iter().filter(|(a, b)| a != b).flat_map(|(a, b)| [(a, b), (b, a)]);
        let set: BTreeSet<(usize, usize)> = both.collect();
        let mut starts = vec![0; n + 1];
        set.iter().for_each(|(a, _)| starts[a + 1] += 1);
        (0..n).for_each(|i| starts[i + 1] += starts[i]);
        let neighbours = set.iter().map(|(_, b)| *b as u32).collect();
        let owners = set.iter().map(|(a, _)| *a as u32).collect();
        Self { starts, neighbours, owners }
    }

    /// The graph with attackers beside it who have two friends each among the old nodes: `per_node`
    /// such friendships for each old node.
    pub fn with_fake_friends(&self, per_node: f64, rng: &mut Rng) -> Self {
        let n = self.len();
        let fakes = (n as f64 * per_node / 2.0) as usize;
        let old = (0..self.neighbours.len()).map(|e| (self.owners[e] as usize, self.neighbours[e] as usize));
        let new: Vec<_> = (0..2 * fakes).map(|i| (n + i / 2, below(rng, n))).collect();
        Self::from_edges(n + fakes, old.chain(new))
    }

    /// Nodes.
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Friends of a node.
    pub fn friends(&self, node: u32) -> &[u32] {
        &self.neighbours[self.edges(node)]
    }

    /// How many friends a node has.
    pub fn degree(&self, node: u32) -> usize {
        self.edges(node).len()
    }

    /// The numbers of the directed edges that leave a node.
    pub fn edges(&self, node: u32) -> std::ops::Range<usize> {
        self.starts[node as usize]..self.starts[node as usize + 1]
    }

    /// Number of directed edges.
    pub fn edge_count(&self) -> usize {
        self.neighbours.len()
    }

    /// Both ends of a directed edge.
    pub fn ends(&self, edge: usize) -> (u32, u32) {
        (self.owners[edge], self.neighbours[edge])
    }

    /// Whether two nodes are friends.
    pub fn are_friends(&self, a: u32, b: u32) -> bool {
        self.friends(a).binary_search(&b).is_ok()
    }

    /// Mean number of friends.
    pub fn mean_degree(&self) -> f64 {
        self.edge_count() as f64 / self.len() as f64
    }

    /// Mean share of a node's pairs of friends that are friends of each other.
    pub fn clustering(&self) -> f64 {
        let of = |node: u32| {
            let friends = self.friends(node);
            let pairs = friends.len() * friends.len().saturating_sub(1) / 2;
            let later =
                |(i, a): (usize, &u32)| friends[i + 1..].iter().filter(|b| self.are_friends(*a, **b)).count();
            let closed: usize = friends.iter().enumerate().map(later).sum();
            if pairs == 0 { 0.0 } else { closed as f64 / pairs as f64 }
        };
        (0..self.len() as u32).map(of).sum::<f64>() / self.len() as f64
    }
}

fn watts_strogatz(n: usize, degree: usize, rng: &mut Rng) -> Graph {
    let mut edges = Vec::new();
    for node in 0..n {
        for step in 1..=degree / 2 {
            let moved = unit(rng) < 0.1;
            edges.push((node, if moved { below(rng, n) } else { (node + step) % n }));
        }
    }
    Graph::from_edges(n, edges)
}

fn barabasi_albert(n: usize, degree: usize, rng: &mut Rng) -> Graph {
    let each = (degree / 2).max(1);
    let mut edges: Vec<(usize, usize)> = (0..=each).flat_map(|a| (0..a).map(move |b| (a, b))).collect();
    // Each node stands here once for each of its edges, so that drawing from it prefers hubs.
    let mut ends: Vec<usize> = edges.iter().flat_map(|(a, b)| [*a, *b]).collect();
    for node in each + 1..n {
        let mut targets = BTreeSet::new();
        while targets.len() < each {
            targets.insert(ends[below(rng, ends.len())]);
        }
        for target in targets {
            edges.push((node, target));
            ends.extend([node, target]);
        }
    }
    Graph::from_edges(n, edges)
}

fn communities(n: usize, degree: usize, levels: &[(usize, f64)], rng: &mut Rng) -> Graph {
    // `before[i]` is the sum of the weights of the nodes in front of node i.
    let mut before = vec![0.0];
    for i in 0..n {
        before.push(before[i] + (0.6 * normal(rng)).exp());
    }
    let draw = |rng: &mut Rng, low: usize, high: usize| {
        let at = before[low] + unit(rng) * (before[high] - before[low]);
        before.partition_point(|w| *w <= at).saturating_sub(1).min(n - 1)
    };
    // An eighth more than wanted: edges that are drawn twice count once.
    let wanted = (n * degree / 2) as f64 * 1.12;
    let mut edges = Vec::new();
    for (size, share) in levels {
        for _ in 0..(wanted * share) as usize {
            let a = draw(rng, 0, n);
            let low = a / size * size;
            edges.push((a, draw(rng, low, (low + size).min(n))));
        }
    }
    Graph::from_edges(n, edges)
}

/// A number below `n`.
pub fn below(rng: &mut Rng, n: usize) -> usize {
    rng.range(0, n as u64 - 1) as usize
}

/// A number from 0 up to and without 1.
pub fn unit(rng: &mut Rng) -> f64 {
    rng.range(0, (1 << 53) - 1) as f64 / (1_u64 << 53) as f64
}

/// A number of the standard normal distribution (Box and Muller 1958).
fn normal(rng: &mut Rng) -> f64 {
    let radius = (-2.0 * (1.0 - unit(rng)).ln()).sqrt();
    radius * (std::f64::consts::TAU * unit(rng)).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn graphs_have_the_shape_they_are_known_for() {
        // Degree and clustering of 10,000 nodes, as the design's tables have them.
        for (kind, degree, mean, clustering) in [
            (Kind::Ws, 14, 14.0, 0.47..0.56),
            (Kind::Ba, 15, 14.0, 0.005..0.03),
            (Kind::Com, 15, 14.3, 0.06..0.12),
        ] {
            let graph = Graph::new(kind, 10_000, degree, &mut Rng::from_seed([1; 32]));
            assert!((graph.mean_degree() - mean).abs() < 0.5, "{kind:?}: {}", graph.mean_degree());
            assert!(clustering.contains(&graph.clustering()), "{kind:?}: {}", graph.clustering());
        }
    }

    #[test]
    fn the_seed_decides_the_graph() {
        let of = |seed| Graph::new(Kind::Com, 500, 15, &mut Rng::from_seed([seed; 32]));
        assert_eq!(of(1).neighbours, of(1).neighbours);
        assert_ne!(of(1).neighbours, of(2).neighbours);
    }

    #[test]
    fn fake_friends_have_two_edges_each() {
        let mut rng = Rng::from_seed([1; 32]);
        let honest = Graph::new(Kind::Com, 1000, 15, &mut rng);
        let graph = honest.with_fake_friends(0.5, &mut rng);
        assert_eq!(graph.len(), 1250);
        assert!((1000..1250).all(|fake| (1..=2).contains(&graph.degree(fake))));
        assert_eq!(honest.friends(7).iter().filter(|f| !graph.are_friends(7, **f)).count(), 0);
    }
}
