//! What times, gaps, counts and credit tell a relay about where it stands in a circuit (A11, A12).
//!
//! Every relay of a small world is curious and honest: it writes down what it sees, and believes that
//! the friend a circuit came from began it, or that it did not. Only the second relay of somebody
//! else's circuit is in doubt with the first; the last one knows that it is the last.

use super::learn::{Sample, Told, told};
use super::{Effort, Row, Verdict, hits, percent, policy};
use crate::graphs::{Graph, Kind};
use crate::paths::seeded;
use crate::sim::{NodeId, World};
use kith_crypto::content::ReadCap;
use kith_onion::budget::{Budgets, Defences};
use kith_onion::catalogue::{Audience, Pace};
use kith_onion::cell::Command;
use kith_onion::{CircuitSettings, FriendKey, Noted, Notes, Privacy, Route};
use std::collections::BTreeMap;
use std::time::Duration;

/// The first of the features of a circuit in use that are about credit.
const CREDIT_FROM: usize = 16;
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// One-way times between two nodes, in milliseconds.
const LATENCIES: (u64, u64) = (5, 150);

/// So many nodes, each with some six friends, at random distances.
pub fn friends(seed: u64, count: usize, defences: Defences, circuits: CircuitSettings, pace: Pace) -> World {
    let mut world = World::new(seed);
    for _ in 0..count {
        let id = world.add_node("Ana", pace);
        let budgets = Budgets { defences, ..Budgets::default() };
        world.nodes[id].budgets = budgets;
        world.act(id, |core, _| core.set_budgets(budgets));
        world.set_circuits(id, Privacy::Normal, circuits);
        world.act(id, |core, _| core.take_notes(Some(Notes::default())));
    }
    let graph = Graph::new(Kind::Ws, count, 6, &mut seeded(seed, 1));
    let edges = (0..graph.edge_count()).map(|e| graph.ends(e)).filter(|(a, b)| a < b);
    let edges: Vec<(NodeId, NodeId)> = edges.map(|(a, b)| (a as usize, b as usize)).collect();
    edges.iter().for_each(|(a, b)| world.introduce(*a, *b));
    let up = world.run_until(2 * MINUTE, |w| edges.iter().all(|(a, b)| w.linked(*a, *b)));
    assert!(up, "everybody is linked");
    // Guards are drawn now. A friend who is near would have been there first: that is no timing.
    world.run(5 * SECOND);
    world.spread_out(LATENCIES);
    world
}

/// One circuit as one of its relays saw it.
#[derive(Debug, Default)]
struct Track {
    created: Duration,
    from: Option<FriendKey>,
    /// Round trip to the friend it came from, which any two friends can measure.
    round_trip: Duration,
    /// When this relay, as the end, was told to answer.
    asked: Option<Duration>,
    next: Option<(FriendKey, u32)>,
    next_created: Option<Duration>,
    /// Cells from the friend, and towards it.
    forward: Vec<Duration>,
    backward: Vec<Duration>,
    /// Credit from the friend: when, and how much.
    credit: Vec<(Duration, u16)>,
    /// The friend ended it.
    ended: Option<Duration>,
    /// Whether the friend began it: what is to be guessed.
    own: bool,
}

/// All circuits of a world that went on behind their relay.
fn tracks(world: &mut World) -> Vec<Track> {
    let count = world.nodes.len();
    let keys: BTreeMap<FriendKey, NodeId> = (0..count).map(|id| (world.nodes[id].key(), id)).collect();
    let notes: Vec<_> = (0..count).map(|id| world.act(id, |core, _| core.noted())).collect();
    // Who began what, by asker, asked and number; numbers come again only with a new link.
    let mut owns: BTreeMap<(NodeId, NodeId, u32), Vec<(Duration, bool)>> = BTreeMap::new();
    for (id, notes) in notes.iter().enumerate() {
        for note in notes {
            if let Noted::Began { own } = note.what {
                owns.entry((id, keys[&note.friend], note.circ)).or_default().push((note.at, own));
            }
        }
    }
    let mut all = Vec::new();
    for (id, notes) in notes.into_iter().enumerate() {
        let mut here: BTreeMap<(FriendKey, u32), Track> = BTreeMap::new();
        let mut behind: BTreeMap<(FriendKey, u32), (FriendKey, u32)> = BTreeMap::new();
        for note in notes {
            let place = (note.friend, note.circ);
            match note.what {
                Noted::Came(Command::Create, _) => {
                    let began = owns.get(&(keys[&note.friend], id, note.circ));
                    let own = began.and_then(|b| b.iter().rev().find(|(at, _)| *at <= note.at));
                    let round_trip = 2 * world.latency(id, keys[&note.friend]);
                    let own = own.is_some_and(|(_, own)| *own);
                    let from = Some(note.friend);
                    let track = Track { created: note.at, from, round_trip, own, ..Track::default() };
                    all.extend(here.insert(place, track));
                }
                Noted::Asked(wait) => {
                    here.get_mut(&place).into_iter().for_each(|t| t.asked = t.asked.or(Some(wait)));
                }
                Noted::Goes(friend, circ) => {
                    if let Some(track) = here.get_mut(&place) {
                        track.next = Some((friend, circ));
                        behind.insert((friend, circ), place);
                    }
                }
                Noted::Came(Command::Created, _) => {
                    if let Some(track) = behind.get(&place).and_then(|place| here.get_mut(place)) {
                        track.next_created = Some(note.at);
                    }
                }
                Noted::Came(Command::Relay, _) => match here.get_mut(&place) {
                    Some(track) => track.forward.push(note.at),
                    None => {
                        if let Some(track) = behind.get(&place).and_then(|place| here.get_mut(place)) {
                            track.backward.push(note.at);
                        }
                    }
                },
                Noted::Credit(cells) => {
                    if let Some(track) = here.get_mut(&place) {
                        track.credit.push((note.at, cells));
                    }
                }
                Noted::Came(Command::Destroy, _) => {
                    if let Some(track) = here.get_mut(&place) {
                        track.ended = Some(note.at);
                    }
                }
                _ => {}
            }
        }
        all.extend(here.into_values());
    }
    all.retain(|t| t.next_created.is_some());
    all
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Mean, standard deviation, least and most.
fn shape(values: &[f64]) -> [f64; 4] {
    let n = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / n;
    let spread = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
    let least = values.iter().copied().fold(f64::INFINITY, f64::min).min(1e9);
    [mean, spread, least, values.iter().copied().fold(0.0, f64::max)]
}

fn gaps(times: &[Duration]) -> Vec<f64> {
    times.windows(2).map(|w| millis(w[1].saturating_sub(w[0]))).collect()
}

/// From each of `from` to the first of `to` that comes after it.
fn reactions(from: &[Duration], to: &[Duration]) -> Vec<f64> {
    let next = |at: &Duration| to.get(to.partition_point(|t| t < at)).map(|t| millis(*t - *at));
    from.iter().filter_map(next).collect()
}

impl Track {
    /// The first so many minutes of it.
    fn first(mut self, time: Duration) -> Self {
        let until = self.created + time;
        self.forward.retain(|at| *at < until);
        self.backward.retain(|at| *at < until);
        self.credit.retain(|(at, _)| *at < until);
        self.ended = self.ended.filter(|at| *at < until);
        self
    }

    /// What a relay sees while a circuit is built and waits.
    fn building(&self) -> Option<Sample> {
        let asked = millis(self.asked?);
        let trip = millis(self.round_trip);
        // The first cell is the request to go on, which this relay answers itself.
        let (first, later) = self.forward.split_first()?;
        let answers = reactions(later, &self.backward);
        let back = reactions(&self.backward, later);
        let [mean, spread, least, most] = shape(&answers);
        let [gap_mean, gap_spread, gap_least, gap_most] = shape(&gaps(&self.forward));
        let start = millis(first.saturating_sub(self.created));
        let at = |n: usize| answers.get(n).copied().unwrap_or(-1.0);
        let end =
            self.ended.and_then(|end| self.backward.last().map(|last| millis(end.saturating_sub(*last))));
        let lowest = least.min(asked) + trip;
        let features = vec![
            asked,
            asked + trip,
            trip,
            mean,
            spread,
            least,
            most,
            lowest,
            most.max(asked) + trip,
            mean - asked,
            least - asked,
            at(0) - asked,
            at(1) - at(0),
            start,
            start - trip,
            gap_mean,
            gap_spread,
            gap_least,
            gap_most,
            shape(&back)[2] - trip,
            shape(&back)[0],
            end.unwrap_or(-1.0),
            end.unwrap_or(-1e4) - trip,
            self.forward.len() as f64,
            later.len() as f64 - self.backward.len() as f64,
            self.credit.len() as f64 / self.backward.len().max(1) as f64,
        ];
        Some(Sample { features, is: self.own })
    }

    /// What a relay sees while a circuit is used.
    fn in_use(&self, (since, until): (Duration, Duration)) -> Option<Sample> {
        let during = |at: &Duration| *at >= since && *at < until;
        let of = |times: &[Duration]| times.iter().copied().filter(during).collect::<Vec<_>>();
        let (forward, backward) = (of(&self.forward), of(&self.backward));
        if forward.len() < 2 || backward.len() < 20 {
            return None;
        }
        let trip = millis(self.round_trip);
        let back = reactions(&backward, &forward);
        let first = *back.first()?;
        // From the last cell of what came to whatever is said after it.
        let bulk = backward.windows(2).rposition(|w| w[1] - w[0] < Duration::from_millis(300))? + 1;
        let after = reactions(&backward[bulk..=bulk], &forward);
        let after = after.first().copied().unwrap_or(1e5);
        let [mean, spread, least, most] = shape(&back);
        let [gap_mean, gap_spread, gap_least, gap_most] = shape(&gaps(&forward));
        let credit = of(&self.credit.iter().map(|c| c.0).collect::<Vec<_>>());
        let amounts = self.credit.iter().filter(|c| during(&c.0)).map(|c| f64::from(c.1));
        let amounts: Vec<f64> = amounts.collect();
        // Credit for a cell cannot come before a round trip has passed.
        let paid = reactions(&backward.iter().map(|t| *t + self.round_trip).collect::<Vec<_>>(), &credit);
        let [paid_mean, paid_spread, paid_least, _] = shape(&paid);
        let [credit_mean, credit_spread, ..] = shape(&gaps(&credit));
        let end = self.ended.filter(|end| during(end));
        let end = end.map_or(-1.0, |end| millis(end.saturating_sub(backward[bulk])));
        let features = vec![
            trip,
            first,
            first - trip,
            after,
            after - trip,
            mean,
            spread,
            least,
            least - trip,
            most,
            gap_mean,
            gap_spread,
            gap_least,
            gap_most,
            end,
            end - trip,
            // Credit from here on: see `CREDIT_FROM`.
            paid_mean,
            paid_spread,
            paid_least,
            credit_mean,
            credit_spread,
            shape(&amounts)[0],
            shape(&amounts)[3],
            amounts.iter().sum::<f64>() - backward.len() as f64,
            shape(&gaps(&backward))[0],
            shape(&gaps(&backward))[1],
            shape(&gaps(&backward))[3],
            gaps(&backward).iter().filter(|g| **g > 10.0).count() as f64,
            gaps(&backward).iter().filter(|g| **g > 1.5).count() as f64,
            gaps(&backward).iter().filter(|g| **g > 3.0 && **g < 100.0).sum::<f64>(),
        ];
        Some(Sample { features, is: self.own })
    }
}

/// So long each idle circuit is watched: those that began a step later must not show by being watched less.
const WATCHED: Duration = Duration::from_secs(40 * 60);

/// Circuits that were built at the usual pace in a world of idle nodes, as their first and second
/// relays saw them. Circuits of the first minutes are left out: [`first_circuits`].
pub fn building(seed: u64, nodes: usize, minutes: u32, defences: Defences) -> Vec<Sample> {
    let pace = Pace::default();
    let mut world = friends(seed, nodes, defences, CircuitSettings::default(), pace);
    let begin = world.now;
    world.run(minutes * MINUTE);
    let tracks = tracks(&mut world);
    let whole = |t: &Track| t.created > begin + 5 * MINUTE && t.created + WATCHED <= world.now;
    tracks.into_iter().filter(whole).filter_map(|t| t.first(WATCHED).building()).collect()
}

/// Circuits that came from a friend within ten seconds after it started, and how many of them it began
/// itself. The others have been there for long.
fn first_circuits(seed: u64, nodes: usize) -> (usize, usize) {
    let pace = Pace::default();
    let mut world = friends(seed, nodes, Defences::default(), CircuitSettings::default(), pace);
    world.run(10 * MINUTE);
    let id = seed as usize % nodes;
    world.crash(id);
    world.run(MINUTE);
    let started = world.now;
    world.start(id);
    world.act(id, |core, _| core.take_notes(Some(Notes::default())));
    world.run(3 * MINUTE);
    let key = world.nodes[id].key();
    let soon = |t: &&Track| t.created >= started && t.created < started + 10 * SECOND;
    let tracks = tracks(&mut world);
    let tracks: Vec<&Track> = tracks.iter().filter(|t| t.from == Some(key)).filter(soon).collect();
    (tracks.iter().filter(|t| t.own).count(), tracks.len())
}

/// Circuits that fetched an object.
pub fn in_use(seed: u64, nodes: usize, defences: Defences) -> Vec<Sample> {
    let pace = Pace { batch: Duration::from_secs(10), spread: Duration::from_secs(10) };
    let circuits = CircuitSettings { snapshot: Duration::from_secs(60), ..CircuitSettings::default() };
    let mut world = friends(seed, nodes, defences, circuits, pace);
    let caps: Vec<_> = (0..nodes).map(|id| world.publish(id, "Otters", 400_000, Audience::Fof)).collect();
    world.run(4 * MINUTE);
    let mut fetched = Vec::new();
    for id in 0..nodes {
        let near = |cap: &&ReadCap| world.distance(id, cap) == Some(2);
        let Some(cap) = caps.iter().cycle().skip(id + 3).take(nodes).find(near).cloned() else { continue };
        let since = world.now;
        world.fetch(id, &cap, Route::Onion);
        world.run_until(MINUTE, |w| w.outcome(id, &cap).is_some());
        world.run(3 * SECOND);
        fetched.push((since, world.now));
    }
    let tracks = tracks(&mut world);
    let samples = tracks.iter().flat_map(|t| fetched.iter().filter_map(|time| t.in_use(*time)));
    samples.collect()
}

fn show(told: &Told, worlds: usize) -> String {
    let Told { accuracy, auc, samples } = told;
    format!("{} right, AUC {auc:.2} ({samples} circuits, {worlds} worlds)", percent(*accuracy))
}

/// What was seen in worlds of their own, as many at a time as there are cores.
fn seen(count: u64, of: impl Fn(u64) -> Vec<Sample> + Sync) -> Vec<Vec<Sample>> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let each = |core: u64| (1..=count).skip(core as usize).step_by(cores as usize);
    let mut worlds: Vec<(u64, Vec<Sample>)> = std::thread::scope(|scope| {
        let of = &of;
        let run = |core| scope.spawn(move || each(core).map(|seed| (seed, of(seed))).collect::<Vec<_>>());
        let running: Vec<_> = (0..cores).map(run).collect();
        running.into_iter().flat_map(|thread| thread.join().expect("a world ran")).collect()
    });
    worlds.sort_by_key(|(seed, _)| *seed);
    worlds.into_iter().map(|(_, world)| world).collect()
}

fn worlds(count: u64, of: impl Fn(u64) -> Vec<Sample> + Sync) -> (Told, usize) {
    let worlds = seen(count, of);
    (told(&worlds), worlds.len())
}

fn above(told: &Told, points: f64) -> bool {
    told.accuracy.mean - told.accuracy.half > 0.5 + points
}

/// Building and waiting circuits.
pub fn a11(effort: Effort) -> Vec<Row> {
    let nodes = effort.or(20, 12);
    let minutes = effort.or(70, 65);
    let all = Defences::default();
    let timed = Defences { equal_answers: false, ..all };
    let closed = Defences { open_loop: false, ..timed };
    let (shipped, n) =
        worlds(effort.or(effort.seeds * 8, effort.seeds), |seed| building(seed, nodes, minutes, all));
    let (timed, m) = worlds(effort.or(6, 1), |seed| building(seed, nodes, minutes, timed));
    let (closed, k) = worlds(effort.or(4, 1), |seed| building(seed, nodes, minutes, closed));
    let first = (1..=effort.or(effort.seeds, 3)).map(|seed| first_circuits(seed, nodes));
    let first = first.fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    let mut rows = policy::prior_rows(effort);
    rows.push(Row {
        id: "A11",
        attack: "relay tells by times, gaps, response times, counts and credit whether its friend began a circuit",
        figure: show(&shipped, n),
        bound: "50 % + 2 points (both equally frequent)".into(),
        control: format!(
            "answers when they can: {}; steps when the one before was answered, too: {}",
            show(&timed, m),
            show(&closed, k)
        ),
        verdict: Verdict::no_better_than_half(shipped.accuracy, 0.02),
        control_succeeds: Some(above(&timed, 0.02) && above(&closed, 0.3)),
        promised: true,
    });
    rows.push(Row {
        id: "A11",
        attack: "relay looks at the circuits that a friend asks for within ten seconds after it started",
        figure: format!("the friend's own: {}", hits(first.0, first.1)),
        bound: "printed".into(),
        control: "nothing is defended".into(),
        verdict: Verdict::Reported,
        control_succeeds: None,
        promised: false,
    });
    rows
}

/// Circuits in use.
pub fn a12(effort: Effort) -> Vec<Row> {
    let nodes = effort.or(16, 12);
    let ticks = Defences { ticks: false, ..Defences::default() };
    let usual = |seed| in_use(seed, nodes, Defences::default());
    // Some two points have to be told apart: that takes thousands of circuits.
    let seeds = effort.or(effort.seeds * 8, effort.seeds);
    let shipped = seen(seeds, usual);
    let (bare, m) = worlds(effort.or(6, 2), |seed| in_use(seed, nodes, ticks));
    // Credit and the gaps of what comes are looked at apart: links grant credit as it is used up, and each
    // link on the way smooths what comes a little more, so that they show how far the source is.
    let cells = |s: &Sample| Sample { features: s.features[..CREDIT_FROM].to_vec(), is: s.is };
    let cells: Vec<Vec<Sample>> = shipped.iter().map(|w| w.iter().map(cells).collect()).collect();
    let row = |attack, right: &Told, promised| Row {
        id: "A12",
        attack,
        figure: show(right, shipped.len()),
        bound: "50 % + 2 points".into(),
        control: format!("requests leave when something came: {}", show(&bare, m)),
        verdict: Verdict::no_better_than_half(right.accuracy, 0.02),
        control_succeeds: Some(above(&bare, 0.2)),
        promised,
    };
    vec![
        row(
            "relay tells by what its friend sends in a transfer whether it began the circuit",
            &told(&cells),
            true,
        ),
        // Known not to hold: the threat model says so.
        row("the same, and by the friend's credit and the gaps of what comes", &told(&shipped), false),
    ]
}
