//! The adversary's learning: boosted stumps (Friedman 2001, logistic loss) over whatever features an
//! attack can think of. They find thresholds and edges, which is what timing gives away, and need no
//! tuning to speak of.

use crate::paths::Estimate;

/// One thing that was seen: its features, and which of two kinds it was.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Numbers; all samples have as many.
    pub features: Vec<f64>,
    /// What is to be guessed.
    pub is: bool,
}

const ROUNDS: usize = 80;
const RATE: f64 = 0.15;
const THRESHOLDS: usize = 40;

struct Stump {
    feature: usize,
    threshold: f64,
    values: [f64; 2],
}

/// A trained guesser.
pub struct Guesser {
    base: f64,
    stumps: Vec<Stump>,
}

impl Guesser {
    /// Learns from samples; both kinds weigh the same, however many there are of each.
    pub fn learn(samples: &[&Sample]) -> Self {
        let weights = weights(samples);
        let width = samples.first().map_or(0, |s| s.features.len());
        let cuts: Vec<Vec<f64>> = (0..width).map(|f| cuts(samples, f)).collect();
        let mut scores = vec![0.0; samples.len()];
        let mut stumps = Vec::new();
        for _ in 0..ROUNDS {
            // Gradient and curvature of the logistic loss.
            let slopes: Vec<(f64, f64)> = samples
                .iter()
                .zip(&scores)
                .zip(&weights)
                .map(|((s, score), w)| {
                    let p = 1.0 / (1.0 + f64::exp(-score));
                    (w * (f64::from(u8::from(s.is)) - p), w * p * (1.0 - p))
                })
                .collect();
            let Some(stump) = best(samples, &slopes, &cuts) else { break };
            samples.iter().zip(&mut scores).for_each(|(s, score)| *score += stump.value(&s.features));
            stumps.push(stump);
        }
        Self { base: 0.0, stumps }
    }

    /// Above zero: it is.
    pub fn score(&self, features: &[f64]) -> f64 {
        self.base + self.stumps.iter().map(|s| s.value(features)).sum::<f64>()
    }
}

impl Stump {
    fn value(&self, features: &[f64]) -> f64 {
        self.values[usize::from(features[self.feature] > self.threshold)]
    }
}

fn weights(samples: &[&Sample]) -> Vec<f64> {
    let all = samples.len() as f64;
    let yes = samples.iter().filter(|s| s.is).count() as f64;
    let of = |s: &&Sample| all / 2.0 / if s.is { yes } else { all - yes }.max(1.0);
    samples.iter().map(of).collect()
}

/// Where a feature may be cut: between its quantiles, closer together at both ends.
fn cuts(samples: &[&Sample], feature: usize) -> Vec<f64> {
    let mut values: Vec<f64> = samples.iter().map(|s| s.features[feature]).collect();
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values[((values.len() - 1) as f64 * share) as usize];
    let mut cuts: Vec<f64> = (1..THRESHOLDS)
        .map(|i| i as f64 / THRESHOLDS as f64)
        .chain([0.005, 0.01, 0.015, 0.985, 0.99, 0.995])
        .map(at)
        .collect();
    cuts.sort_by(f64::total_cmp);
    cuts.dedup();
    cuts
}

fn best(samples: &[&Sample], slopes: &[(f64, f64)], cuts: &[Vec<f64>]) -> Option<Stump> {
    // As if a few samples more stood on each side: small sides say little.
    let calm = samples.len() as f64 * 0.002 + 1.0;
    let total = slopes.iter().fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
    let mut found: Option<(f64, Stump)> = None;
    for (feature, cuts) in cuts.iter().enumerate() {
        // Sums of the samples below each cut.
        let mut below = vec![(0.0, 0.0); cuts.len() + 1];
        for (sample, (g, h)) in samples.iter().zip(slopes) {
            let place = cuts.partition_point(|cut| *cut < sample.features[feature]);
            below[place].0 += g;
            below[place].1 += h;
        }
        let mut left = (0.0, 0.0);
        for (cut, (g, h)) in cuts.iter().zip(&below) {
            left = (left.0 + g, left.1 + h);
            let right = (total.0 - left.0, total.1 - left.1);
            let gain = left.0 * left.0 / (left.1 + calm) + right.0 * right.0 / (right.1 + calm);
            if found.as_ref().is_none_or(|(most, _)| gain > *most) {
                let values = [RATE * left.0 / (left.1 + calm), RATE * right.0 / (right.1 + calm)];
                found = Some((gain, Stump { feature, threshold: *cut, values }));
            }
        }
    }
    found.map(|(_, stump)| stump)
}

/// How well two kinds can be told apart.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// Share of right guesses where both kinds are equally frequent: 1/2 is none better than a coin.
    pub accuracy: Estimate,
    /// Chance that one of the first kind looks more like it than one of the other.
    pub auc: f64,
    /// Samples.
    pub samples: usize,
}

/// Learns from half of the worlds and guesses in the others, and the other way round. Samples of one
/// world are not independent of each other; worlds are.
pub fn told(worlds: &[Vec<Sample>]) -> Told {
    let mut scored: Vec<Vec<(f64, bool)>> = worlds.iter().map(|_| Vec::new()).collect();
    // A single world is split by turns.
    if worlds.len() < 2 {
        let all: Vec<&Sample> = worlds.iter().flatten().collect();
        for half in 0..2 {
            let of = |at: usize| all.iter().skip(at).step_by(2).copied().collect::<Vec<_>>();
            let guesser = Guesser::learn(&of(half));
            scored[0].extend(of(1 - half).iter().map(|s| (guesser.score(&s.features), s.is)));
        }
    } else {
        for half in 0..2 {
            let from: Vec<&Sample> = worlds.iter().skip(half).step_by(2).flatten().collect();
            let guesser = Guesser::learn(&from);
            for at in (1 - half..worlds.len()).step_by(2) {
                scored[at] = worlds[at].iter().map(|s| (guesser.score(&s.features), s.is)).collect();
            }
        }
    }
    let all: Vec<(f64, bool)> = scored.iter().flatten().copied().collect();
    let right = |of: bool, scored: &[(f64, bool)]| {
        let mine: Vec<f64> = scored.iter().filter(|(_, is)| *is == of).map(|(score, _)| *score).collect();
        let hits = mine.iter().map(|s| if *s == 0.0 { 0.5 } else { f64::from(u8::from((*s > 0.0) == of)) });
        (hits.sum::<f64>(), mine.len() as f64)
    };
    let accuracy = |scored: &[(f64, bool)]| {
        let (yes, no) = (right(true, scored), right(false, scored));
        (yes.1 > 0.0 && no.1 > 0.0).then(|| (yes.0 / yes.1 + no.0 / no.1) / 2.0)
    };
    let mean = accuracy(&all).unwrap_or(0.5);
    // By worlds where there are enough of them, and never narrower than independent samples allow.
    let by_world: Vec<f64> = scored.iter().filter_map(|s| accuracy(s)).collect();
    let (yes, no) = (right(true, &all).1.max(1.0), right(false, &all).1.max(1.0));
    let binomial = 1.96 * (mean * (1.0 - mean) / 4.0 * (1.0 / yes + 1.0 / no)).sqrt();
    let half = if by_world.len() >= 5 { Estimate::of(&by_world).half.max(binomial) } else { binomial };
    Told { accuracy: Estimate { mean, half }, auc: auc(&all), samples: all.len() }
}

fn auc(scored: &[(f64, bool)]) -> f64 {
    let mut sorted = scored.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut rank_sum, mut yes, mut at) = (0.0, 0.0, 0);
    while at < sorted.len() {
        let same = sorted[at..].iter().take_while(|s| s.0 == sorted[at].0).count();
        let mean_rank = at as f64 + (same as f64 + 1.0) / 2.0;
        let hits = sorted[at..at + same].iter().filter(|s| s.1).count() as f64;
        rank_sum += hits * mean_rank;
        yes += hits;
        at += same;
    }
    let no = sorted.len() as f64 - yes;
    if yes == 0.0 || no == 0.0 { 0.5 } else { (rank_sum - yes * (yes + 1.0) / 2.0) / (yes * no) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graphs::unit;
    use crate::paths::seeded;

    fn worlds(shift: f64) -> Vec<Vec<Sample>> {
        let mut rng = seeded(1, 0);
        let mut sample = |n: usize| {
            let is = n.is_multiple_of(2);
            let x = unit(&mut rng) + if is { shift } else { 0.0 };
            Sample { features: vec![unit(&mut rng), x], is }
        };
        (0..8).map(|_| (0..500).map(&mut sample).collect()).collect()
    }

    #[test]
    fn a_shift_is_found_and_nothing_where_there_is_none() {
        // Two uniform laws that are half a width apart: three guesses in four are right.
        let half = told(&worlds(0.5));
        assert!((half.accuracy.mean - 0.75).abs() < 0.03, "{half:?}");
        let none = told(&worlds(0.0));
        assert!((none.accuracy.mean - 0.5).abs() < 0.03 && (none.auc - 0.5).abs() < 0.03, "{none:?}");
        assert!((told(&worlds(1.5)).auc - 1.0).abs() < 0.01);
    }
}
