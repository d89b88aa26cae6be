//! What can be counted about bytes that shall look random, and how surprising each count is.
//!
//! Every figure is a number of standard deviations (`z`) from what uniform random bytes give, so one
//! bound serves all of them. The counts are those of the usual batteries (monobit, runs, serial
//! correlation, chi-square), and those that would find the mistakes that such wrappers have been made
//! with: X25519 keys, counters, tags and nonces that come again.

use curve25519_dalek::montgomery::MontgomeryPoint;
use std::collections::HashSet;

/// More standard deviations than this are no chance: some 2,000 counts of one sample exceed it once in
/// a thousand samples.
pub const SURPRISING: f64 = 5.0;

/// One count.
#[derive(Clone, Debug, PartialEq)]
pub struct Count {
    /// What was counted.
    pub what: String,
    /// Standard deviations from the expectation.
    pub z: f64,
}

/// The counts that are no chance.
pub fn surprises(counts: &[Count]) -> Vec<&Count> {
    counts.iter().filter(|c| c.z.abs() > SURPRISING || !c.z.is_finite()).collect()
}

/// All counts over the first `len` bytes of each sample.
pub fn judge(samples: &[Vec<u8>], len: usize) -> Vec<Count> {
    let rows: Vec<&[u8]> = samples.iter().map(|s| &s[..len]).collect();
    let mut counts = Vec::new();
    bits(&rows, len, &mut counts);
    values(&rows, len, &mut counts);
    whole(&rows, &mut counts);
    neighbours(&rows, len, &mut counts);
    curve_points(&rows, len, &mut counts);
    counts
}

fn count(counts: &mut Vec<Count>, what: String, z: f64) {
    counts.push(Count { what, z });
}

fn binomial(hits: u64, of: u64, chance: f64) -> f64 {
    let of = of as f64;
    (hits as f64 - of * chance) / (of * chance * (1.0 - chance)).sqrt()
}

/// Chi-square as standard deviations (Wilson and Hilferty 1931).
fn chi_square(seen: &[u64]) -> f64 {
    let expected = seen.iter().sum::<u64>() as f64 / seen.len() as f64;
    let chi: f64 = seen.iter().map(|n| (*n as f64 - expected).powi(2) / expected).sum();
    let free = (seen.len() - 1) as f64;
    let spread = 2.0 / (9.0 * free);
    ((chi / free).cbrt() - (1.0 - spread)) / spread.sqrt()
}

/// Each bit of each position.
fn bits(rows: &[&[u8]], len: usize, counts: &mut Vec<Count>) {
    for at in 0..len {
        for bit in 0..8 {
            let ones = rows.iter().filter(|row| row[at] >> bit & 1 == 1).count() as u64;
            count(counts, format!("byte {at}, bit {bit} is set"), binomial(ones, rows.len() as u64, 0.5));
        }
    }
}

/// Values of each position, and of all together.
fn values(rows: &[&[u8]], len: usize, counts: &mut Vec<Count>) {
    let mut all = [0_u64; 256];
    for at in 0..len {
        let mut seen = [0_u64; 256];
        for row in rows {
            seen[usize::from(row[at])] += 1;
        }
        all.iter_mut().zip(&seen).for_each(|(all, n)| *all += n);
        count(counts, format!("values of byte {at}"), chi_square(&seen));
    }
    count(counts, "values of all bytes".into(), chi_square(&all));
}

/// Monobit, runs and serial correlation over everything in a row.
fn whole(rows: &[&[u8]], counts: &mut Vec<Count>) {
    let bytes: Vec<u8> = rows.concat();
    let total = bytes.len() as u64 * 8;
    let ones = bytes.iter().map(|b| u64::from(b.count_ones())).sum();
    count(counts, "set bits in all".into(), binomial(ones, total, 0.5));
    // A run ends where a bit differs from the next one.
    let inside = bytes.iter().map(|b| u64::from(((b ^ (b >> 1)) & 0x7F).count_ones())).sum::<u64>();
    let between = bytes.windows(2).filter(|w| (w[0] & 1) != (w[1] >> 7)).count() as u64;
    count(counts, "runs of equal bits".into(), binomial(inside + between, total - 1, 0.5));
    count(counts, "serial correlation".into(), correlation(bytes.windows(2).map(|w| (w[0], w[1]))));
}

/// The same position in one sample and the next: counters, tags and nonces that come again or grow.
fn neighbours(rows: &[&[u8]], len: usize, counts: &mut Vec<Count>) {
    for at in 0..len {
        let pairs = || rows.windows(2).map(|w| (w[0][at], w[1][at]));
        let same = pairs().filter(|(a, b)| a == b).count() as u64;
        let z = binomial(same, rows.len() as u64 - 1, 1.0 / 256.0);
        count(counts, format!("byte {at} is that of the sample before"), z);
        count(counts, format!("byte {at} follows that of the sample before"), correlation(pairs()));
    }
}

fn correlation(pairs: impl Iterator<Item = (u8, u8)>) -> f64 {
    // Uniform bytes: mean 127.5, variance (256^2 - 1) / 12.
    let (mut sum, mut n) = (0.0, 0.0_f64);
    for (a, b) in pairs {
        sum += (f64::from(a) - 127.5) * (f64::from(b) - 127.5);
        n += 1.0;
    }
    sum / (65_535.0 / 12.0) / n.sqrt()
}

/// Samples that are looked at for curve points; each costs a square root at each position.
const POINT_SAMPLES: usize = 1_000;

/// Where an X25519 key would stand: half of all 32-byte strings are u-coordinates on the curve, and
/// every public key is (Legendre test).
fn curve_points(rows: &[&[u8]], len: usize, counts: &mut Vec<Count>) {
    let rows = &rows[..rows.len().min(POINT_SAMPLES)];
    for at in 0..(len + 1).saturating_sub(32) {
        let is_point = |row: &&&[u8]| {
            let u: [u8; 32] = row[at..at + 32].try_into().expect("32 bytes");
            MontgomeryPoint(u).to_edwards(0).is_some()
        };
        let points = rows.iter().filter(is_point).count() as u64;
        count(counts, format!("curve points at byte {at}"), binomial(points, rows.len() as u64, 0.5));
    }
}

/// How often a 16-byte string that was there before, at whatever place, comes again.
pub fn repeats(samples: &[Vec<u8>], len: usize) -> usize {
    let mut seen = HashSet::new();
    let windows = samples.iter().flat_map(|s| s[..len].windows(16));
    windows.filter(|w| !seen.insert(u128::from_le_bytes((*w).try_into().expect("16 bytes")))).count()
}

/// Set bits a byte: all of a sample together.
pub fn popcount(sample: &[u8]) -> f64 {
    sample.iter().map(|b| f64::from(b.count_ones())).sum::<f64>() / sample.len() as f64
}

/// Whether lengths are spread evenly over `low..=high`, and do not follow from one sample to the next.
pub fn judge_lengths(lengths: &[usize], low: usize, high: usize) -> Vec<Count> {
    let mut seen = vec![0_u64; high - low + 1];
    let mut counts = Vec::new();
    let outside = lengths.iter().filter(|l| !(low..=high).contains(l)).count();
    count(&mut counts, "lengths out of range".into(), if outside == 0 { 0.0 } else { f64::INFINITY });
    lengths.iter().filter(|l| (low..=high).contains(l)).for_each(|l| seen[l - low] += 1);
    count(&mut counts, "lengths".into(), chi_square(&seen));
    let middle = (low + high) as f64 / 2.0;
    let spread = ((high - low + 1) as f64).powi(2) / 12.0;
    let sum: f64 = lengths.windows(2).map(|w| (w[0] as f64 - middle) * (w[1] as f64 - middle)).sum();
    let z = sum / spread / ((lengths.len() - 1) as f64).sqrt();
    count(&mut counts, "a length follows the one before".into(), z);
    counts
}

/// Probability that two samples of one distribution differ at least as much as these (Kolmogorov and
/// Smirnov, two samples, asymptotic).
pub fn same_distribution(a: &[f64], b: &[f64]) -> f64 {
    let sorted = |sample: &[f64]| {
        let mut sorted = sample.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted
    };
    let (a, b) = (sorted(a), sorted(b));
    let share = |sample: &[f64], x: f64| sample.partition_point(|v| *v <= x) as f64 / sample.len() as f64;
    let gap = a.iter().chain(&b).map(|x| (share(&a, *x) - share(&b, *x)).abs()).fold(0.0, f64::max);
    let n = (a.len() * b.len()) as f64 / (a.len() + b.len()) as f64;
    let lambda = (n.sqrt() + 0.12 + 0.11 / n.sqrt()) * gap;
    let term =
        |k: i32| (-2.0 * f64::from(k * k) * lambda * lambda).exp() * if k % 2 == 1 { 1.0 } else { -1.0 };
    if lambda < 0.2 { 1.0 } else { (2.0 * (1..100).map(term).sum::<f64>()).clamp(0.0, 1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kith_crypto::rng::Rng;

    #[test]
    fn samples_of_one_distribution_agree_and_others_do_not() {
        let mut rng = Rng::from_seed([1; 32]);
        let mut draw = |low, high| (0..1_000).map(|_| rng.range(low, high) as f64).collect::<Vec<_>>();
        let (a, b, other) = (draw(10_000, 60_000), draw(10_000, 60_000), draw(15_000, 65_000));
        assert!(same_distribution(&a, &b) > 0.05);
        assert!(same_distribution(&a, &other) < 0.001);
        assert!((same_distribution(&a, &a) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn chi_square_is_standard_normal_for_uniform_counts_and_large_for_others() {
        let mut rng = Rng::from_seed([2; 32]);
        let mut seen = [0_u64; 256];
        (0..100_000).for_each(|_| seen[rng.range(0, 255) as usize] += 1);
        assert!(chi_square(&seen).abs() < 4.0);
        seen[7] += 400;
        assert!(chi_square(&seen) > SURPRISING);
    }
}
