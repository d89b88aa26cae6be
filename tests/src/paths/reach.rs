//! How far a request gets from the end of a circuit (table 9.7 of the design): an entry of the origin's
//! own catalogue, whose publisher is two links away, asked for by way of the third relay.
//!
//! Routes are drawn by the shipped policy among the nodes on line. Where the request goes on is decided by
//! [`kith_onion::spread::next_for`] and by each node's [`Catalogue`], which was told by its friends when all
//! of them were on line. What is the simulation's own is that a request moves one link at a time
//! everywhere; [`cores`] runs whole nodes beside it.

use super::network::{Adversary, Network, key, number};
use super::{Estimate, repeated::MIN_DEGREE, seeded};
use crate::graphs::{Graph, below, unit};
use crate::sim::{NodeId, Outcome, World};
use kith_crypto::content::{ReadCap, Root};
use kith_crypto::rng::Rng;
use kith_crypto::secret::Key;
use kith_onion::catalogue::{Audience, Catalogue, Pace};
use kith_onion::control::{Delta, Part, ViewOp};
use kith_onion::entry::{Eid, Entry};
use kith_onion::route::{Pair, SLOTS};
use kith_onion::spread::{Next, next_for};
use kith_onion::{CircuitSettings, FriendKey, Now, Privacy, Route};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// Links that a request may spread over: by the end's own catalogue alone, one, two (as shipped).
pub const SPREADS: [u8; 3] = [0, 1, 2];
const DAY: u32 = 20_000;

/// What became of requests.
#[derive(Clone, Debug)]
pub struct Reach {
    /// Share of requests that reach the publisher from one third relay, for each of [`SPREADS`].
    pub once: [Estimate; 3],
    /// The same as shipped, when the next third relay is asked after a refusal: all three of them.
    pub all: Estimate,
    /// Links from origin to publisher where it was reached as shipped.
    pub links: Estimate,
    /// Requests on all links together, as shipped.
    pub messages: Estimate,
    /// Those of them that still spread.
    pub spread: Estimate,
    /// Share of origins whose circuit had to go over a first relay that told of the object itself.
    pub reduced: Estimate,
}

/// Draws who is on line, and the friendships between those who are.
fn those_on_line(graph: &Graph, online: f64, rng: &mut Rng) -> (Vec<bool>, Graph) {
    let up: Vec<bool> = (0..graph.len()).map(|_| unit(rng) < online).collect();
    let edges = (0..graph.edge_count()).map(|e| graph.ends(e));
    let both = |(a, b): &(u32, u32)| up[*a as usize] && up[*b as usize];
    let living = Graph::from_edges(graph.len(), edges.filter(both).map(|(a, b)| (a as usize, b as usize)));
    (up, living)
}

/// Runs `trials` origins among nodes of which such a share is on line.
pub fn reach(graph: &Graph, online: f64, trials: usize, seed: u64) -> Reach {
    let mut once = [const { Vec::new() }; 3];
    let [mut all, mut links, mut messages, mut spread, mut reduced] = [const { Vec::new() }; 5];
    // Who is on line changes a few times: routes and lists are drawn anew each time.
    const EACH: usize = 25;
    let mut block = 0;
    while all.len() < trials {
        let mut rng = seeded(seed, block);
        block += 1;
        let (_, living) = those_on_line(graph, online, &mut rng);
        let mut network = Network::new(&living, vec![false; graph.len()], Adversary::Honest, &mut rng);
        for _ in 0..EACH {
            let origin = below(&mut rng, graph.len()) as u32;
            let Some(publisher) = two_links_away(&living, origin, &mut rng) else { continue };
            if graph.degree(origin) < MIN_DEGREE {
                continue;
            }
            let mut routes = network.fresh(origin, &mut rng);
            let carries = |pair| routes.guard(pair).is_none_or(|g| graph.are_friends(number(g), publisher));
            let pair =
                if carries(Pair::Primary) && !carries(Pair::Reserve) { Pair::Reserve } else { Pair::Primary };
            let is_reduced = carries(pair);
            let first = below(&mut rng, SLOTS);
            let mut world = Spreading::new(graph, &living, origin, publisher);
            let mut reached = None;
            let mut walked = 0;
            for slot in (0..SLOTS).map(|n| (first + n) % SLOTS) {
                let Some([_, second, third]) = network.walk(origin, &mut routes, (pair, slot), &mut rng)
                else {
                    continue;
                };
                walked += 1;
                if walked == 1 {
                    let of = |left| world.ask(third, second, left, &mut rng);
                    let found = SPREADS.map(of);
                    once.iter_mut()
                        .zip(&found)
                        .for_each(|(o, (d, ..))| o.push(f64::from(u8::from(d.is_some()))));
                    messages.push(found[2].1 as f64);
                    spread.push(found[2].2 as f64);
                    reached = found[2].0;
                    links.extend(reached.map(|depth| 3.0 + f64::from(depth)));
                } else if reached.is_none() {
                    reached = world.ask(third, second, SPREADS[2], &mut rng).0;
                }
            }
            if walked > 0 {
                all.push(f64::from(u8::from(reached.is_some())));
                reduced.push(f64::from(u8::from(is_reduced)));
            }
        }
        if block > 20 * trials as u64 {
            break; // a graph in which hardly anybody has a route
        }
    }
    Reach {
        once: once.map(|o| Estimate::of_shares(&o)),
        all: Estimate::of_shares(&all),
        links: Estimate::of(&links),
        messages: Estimate::of(&messages),
        spread: Estimate::of(&spread),
        reduced: Estimate::of_shares(&reduced),
    }
}

/// What became of requests for an object that its publisher, who may be off line, and some of its friends keep.
#[derive(Clone, Debug)]
pub struct Availability {
    /// A copy is on line within 2, 3, 4 and 6 links over nodes on line, whatever way a request could take.
    pub within: [Estimate; 4],
    /// Share of requests through common friends that reach a copy.
    pub fof: Estimate,
    /// Share of those from the ends of circuits, all three third relays, among origins that have one.
    pub circuits: Estimate,
    /// Share of requests that reach a copy by either.
    pub either: Estimate,
}

/// Runs `trials` origins on line, whose publisher is two links away and on line or not like everybody; `copies` of its
/// friends keep the object.
pub fn availability(graph: &Graph, online: f64, copies: usize, trials: usize, seed: u64) -> Availability {
    let mut within = [const { Vec::new() }; 4];
    let [mut fof, mut circuits, mut either] = [const { Vec::new() }; 3];
    const EACH: usize = 25;
    let mut block = 0;
    let share = |found: bool| f64::from(u8::from(found));
    while fof.len() < trials && block < 20 * trials as u64 {
        let mut rng = seeded(seed, block);
        block += 1;
        let (up, living) = those_on_line(graph, online, &mut rng);
        let mut network = Network::new(&living, vec![false; graph.len()], Adversary::Honest, &mut rng);
        for _ in 0..EACH {
            let origin = below(&mut rng, graph.len()) as u32;
            let Some(publisher) = two_links_away(graph, origin, &mut rng).filter(|_| up[origin as usize])
            else {
                continue;
            };
            let mut friends: Vec<u32> =
                graph.friends(publisher).iter().copied().filter(|friend| *friend != origin).collect();
            let mut holders = BTreeSet::from([publisher]);
            while holders.len() <= copies && !friends.is_empty() {
                holders.insert(friends.swap_remove(below(&mut rng, friends.len())));
            }
            let mut world = Spreading::new(graph, &living, origin, publisher);
            world.holders = holders;
            let near = world.nearest();
            for (links, found) in [2, 3, 4, 6].into_iter().zip(&mut within) {
                found.push(share(near.is_some_and(|near| near <= links)));
            }
            let by_friends = world.by_friends();
            fof.push(share(by_friends));
            let mut routes = network.fresh(origin, &mut rng);
            let (mut walked, mut found) = (false, false);
            for slot in 0..SLOTS {
                if let Some([_, second, third]) =
                    network.walk(origin, &mut routes, (Pair::Primary, slot), &mut rng)
                {
                    walked = true;
                    found |= world.ask(third, second, SPREADS[2], &mut rng).0.is_some();
                }
            }
            if walked {
                circuits.push(share(found));
            }
            either.push(share(by_friends || found));
        }
    }
    Availability {
        within: within.map(|w| Estimate::of_shares(&w)),
        fof: Estimate::of_shares(&fof),
        circuits: Estimate::of_shares(&circuits),
        either: Estimate::of_shares(&either),
    }
}

fn two_links_away(graph: &Graph, origin: u32, rng: &mut Rng) -> Option<u32> {
    let near: BTreeSet<u32> = graph.friends(origin).iter().copied().collect();
    let theirs = near.iter().flat_map(|friend| graph.friends(*friend)).copied();
    let far: BTreeSet<u32> = theirs.filter(|node| *node != origin && !near.contains(node)).collect();
    (!far.is_empty()).then(|| far.iter().nth(below(rng, far.len())).copied()).flatten()
}

/// The nodes around one object.
struct Spreading<'a> {
    /// All friendships: what was told stays known when a friend is off line.
    all: &'a Graph,
    /// Those of nodes on line.
    living: &'a Graph,
    origin: u32,
    publisher: u32,
    /// Who keeps it: the publisher, and mirrors.
    holders: BTreeSet<u32>,
    /// Who is how far from the publisher, up to two links: nobody else was told.
    distance: BTreeMap<u32, u8>,
    catalogues: BTreeMap<u32, Catalogue>,
}

impl<'a> Spreading<'a> {
    fn new(all: &'a Graph, living: &'a Graph, origin: u32, publisher: u32) -> Self {
        let mut distance = BTreeMap::from([(publisher, 0)]);
        for step in 1..=2 {
            let edge: Vec<u32> = distance.iter().filter(|(_, d)| **d + 1 == step).map(|(n, _)| *n).collect();
            for friend in edge.into_iter().flat_map(|node| all.friends(node)) {
                distance.entry(*friend).or_insert(step);
            }
        }
        let holders = BTreeSet::from([publisher]);
        Self { all, living, origin, publisher, holders, distance, catalogues: BTreeMap::new() }
    }

    /// Links from the origin to the nearest copy, over nodes on line.
    fn nearest(&self) -> Option<u8> {
        let (mut seen, mut edge) = (BTreeSet::from([self.origin]), vec![self.origin]);
        for links in 0..=6 {
            if edge.iter().any(|node| self.holders.contains(node)) {
                return Some(links);
            }
            let next = edge.iter().flat_map(|node| self.living.friends(*node)).copied();
            edge = next.filter(|node| seen.insert(*node)).collect();
        }
        None
    }

    /// Whom a node passes a request for one link more on to: friends on line who published it, or else those who told
    /// of it as a friend's.
    fn passes(&mut self, at: u32, from: u32) -> Vec<FriendKey> {
        let living = self.living;
        let is_friend = |to: &FriendKey| living.are_friends(at, number(*to)) && *to != key(from);
        let Some(catalogue) = self.catalogue(at) else { return Vec::new() };
        let pointers = catalogue.pointers(key(from), &root());
        if pointers.is_empty() {
            return Vec::new();
        }
        let publishers: Vec<FriendKey> = pointers.into_iter().filter(is_friend).collect();
        if !publishers.is_empty() {
            return publishers.into_iter().take(4).collect();
        }
        let told = catalogue.onward(&root()).into_iter().filter(|(_, links)| *links == 2);
        told.map(|(friend, _)| friend).filter(is_friend).take(4).collect()
    }

    /// Whether a common friend finds a copy: the one who is asked keeps it, or who is asked in turn.
    fn by_friends(&mut self) -> bool {
        let (origin, living) = (self.origin, self.living);
        let told = self.catalogue(origin).map(|c| c.onward(&root())).unwrap_or_default();
        let told: Vec<u32> = told.into_iter().map(|(friend, _)| number(friend)).collect();
        told.into_iter().filter(|friend| living.are_friends(origin, *friend)).any(|friend| {
            self.holders.contains(&friend)
                || self.passes(friend, origin).iter().any(|next| self.holders.contains(&number(*next)))
        })
    }

    /// What a node's friends told it, or nothing.
    fn catalogue(&mut self, node: u32) -> Option<&Catalogue> {
        self.distance.get(&node)?;
        let Self { all, publisher, distance, catalogues, .. } = self;
        let heard = || {
            let tells = |friend: &u32| match distance.get(friend)? {
                0 => Some((key(*friend), Part::Own)),
                // Who has it from the publisher tells all others.
                1 if node != *publisher => Some((key(*friend), Part::Relayed)),
                _ => None,
            };
            told(all.friends(node).iter().filter_map(tells))
        };
        Some(catalogues.entry(node).or_insert_with(heard))
    }

    /// Asks from the end of a circuit that came over `from`. After how many links the publisher was
    /// reached, and how many requests it took, in all and that still spread.
    fn ask(&mut self, end: u32, from: u32, left: u8, rng: &mut Rng) -> (Option<u8>, usize, usize) {
        struct Request {
            at: u32,
            from: u32,
            depth: u8,
            left: u8,
            spreads: bool,
            /// It went through the origin: nobody takes an answer through itself.
            through_origin: bool,
        }
        let mut queue =
            VecDeque::from([Request { at: end, from, depth: 0, left, spreads: true, through_origin: false }]);
        let (mut known, mut reached, mut messages, mut spread) = (BTreeSet::new(), None, 0, 0);
        let root = root();
        while let Some(r) = queue.pop_front() {
            let through_origin = r.through_origin || r.at == self.origin;
            if self.holders.contains(&r.at) {
                if !through_origin {
                    reached = reached.or(Some(r.depth));
                }
                if r.depth > 0 {
                    continue; // it answers, and passes nothing on
                }
            }
            let living = self.living;
            let is_friend = |to: &FriendKey| living.are_friends(r.at, number(*to));
            let next: Vec<Next<FriendKey>> = if r.spreads {
                // A request that came over another friend before is refused.
                if !known.insert(r.at) {
                    continue;
                }
                let onward = self.catalogue(r.at).map(|c| c.onward(&root)).unwrap_or_default();
                let straight = onward.into_iter().filter(|(to, _)| *to != key(r.from) && is_friend(to));
                let others = living.friends(r.at).iter().filter(|f| **f != r.from).map(|f| key(*f));
                next_for(straight, others, r.left, rng)
            } else if r.left > 0 {
                let pass = self.passes(r.at, r.from).into_iter();
                pass.map(|to| Next { to, hops_left: r.left - 1, spreads: false }).collect()
            } else {
                Vec::new()
            };
            messages += next.len();
            spread += next.iter().filter(|n| n.spreads).count();
            let on = |n: Next<FriendKey>| Request {
                at: number(n.to),
                from: r.at,
                depth: r.depth + 1,
                left: n.hops_left,
                spreads: n.spreads,
                through_origin,
            };
            queue.extend(next.into_iter().map(on));
        }
        (reached, messages, spread)
    }
}

fn entry() -> Entry {
    Entry { published_day: DAY, expires_day: DAY + 30, ..Entry::sample() }
}

fn root() -> Root {
    entry().root()
}

/// A catalogue in which these friends told of the one object.
fn told(friends: impl Iterator<Item = (FriendKey, Part)>) -> Catalogue {
    let pace = Pace { batch: Duration::from_secs(60), spread: Duration::from_secs(60) };
    let now = Now { at: Duration::from_secs(60), unix_ms: u64::from(DAY) * 86_400_000 };
    let mut catalogue = Catalogue::new(pace, Key::new([1; 32]), Rng::from_seed([2; 32]));
    for (friend, part) in friends {
        catalogue.add_friend(friend);
        catalogue.connected(Now { at: Duration::ZERO, ..now }, friend);
        catalogue.timeout(now);
        while catalogue.poll().is_some() {}
        let entry = Entry { hops_left: u8::from(part == Part::Own), ..entry() };
        let ops = vec![ViewOp::Add(Eid([1; 8]), entry)];
        let delta = Delta {
            part,
            log: 1,
            upto: 1,
            restart: true,
            more: false,
            next_batch_ms: 60_000,
            batch_ms: 60_000,
            ops,
        };
        catalogue.delta(now, friend, delta);
    }
    catalogue
}

// Whole nodes.

/// What whole nodes did: share of fetches that were served through a circuit, and requests on all links
/// for each.
#[derive(Clone, Copy, Debug)]
pub struct Served {
    /// Share that came whole.
    pub whole: Estimate,
    /// Requests that spread, on all links, for each fetch.
    pub spread: Estimate,
}

/// Runs a world of whole nodes on a graph of some hundred, all on line, in which `trials` of them fetch what
/// was published two links away.
pub fn cores(graph: &Graph, trials: usize, seed: u64) -> Served {
    const MINUTE: Duration = Duration::from_secs(60);
    let mut rng = seeded(seed, 1);
    let mut world = World::with_nodes(seed, graph.len());
    let quiet = CircuitSettings {
        pace: 10 * MINUTE,
        snapshot: Duration::from_secs(20),
        ..CircuitSettings::default()
    };
    (0..graph.len()).for_each(|node| world.set_circuits(node, Privacy::Normal, quiet));
    let edges = (0..graph.edge_count()).map(|e| graph.ends(e)).filter(|(a, b)| a < b);
    let edges: Vec<(NodeId, NodeId)> = edges.map(|(a, b)| (a as usize, b as usize)).collect();
    edges.iter().for_each(|(a, b)| world.introduce(*a, *b));
    let up = world.run_until(2 * MINUTE, |w| edges.iter().all(|(a, b)| w.linked(*a, *b)));
    assert!(up, "everybody is linked");
    let mut pairs: Vec<(NodeId, ReadCap)> = Vec::new();
    while pairs.len() < trials {
        let origin = below(&mut rng, graph.len()) as u32;
        if graph.degree(origin) < MIN_DEGREE || pairs.iter().any(|(o, _)| *o == origin as usize) {
            continue;
        }
        let Some(publisher) = two_links_away(graph, origin, &mut rng) else { continue };
        let cap = world.publish(publisher as usize, "Otters", 1_000, Audience::Fof);
        pairs.push((origin as usize, cap));
    }
    world.run(MINUTE);
    let spread = |w: &World| (0..graph.len()).map(|n| w.nodes[n].core().load().spread).sum::<u64>();
    let (mut whole, mut spreads) = (Vec::new(), Vec::new());
    for (origin, cap) in pairs {
        assert_eq!(world.distance(origin, &cap), Some(2), "it was told of");
        // Only who fetches is in a hurry: the others' circuits would take most of the time.
        world.set_circuits(origin, Privacy::Normal, World::quick_circuits());
        if !world.run_until(3 * MINUTE, |w| w.ready(origin) >= SLOTS) {
            continue; // its first relay has nobody else
        }
        let before = spread(&world);
        let came = world.fetch_now(origin, &cap, Route::Onion, MINUTE) == Outcome::Complete;
        world.run(Duration::from_secs(4));
        whole.push(f64::from(u8::from(came)));
        spreads.push((spread(&world) - before) as f64);
        world.set_circuits(origin, Privacy::Normal, quiet);
    }
    Served { whole: Estimate::of_shares(&whole), spread: Estimate::of(&spreads) }
}
