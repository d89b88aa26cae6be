//! In which hours of the day nodes are usually on line, and whose hours complement each other.
//! Page: `docs/protocol/mirrors.md`.

/// For each hour of a day (UTC) how often a node was on line then, of 255.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Hours(pub [u8; 24]);

/// Each day counts an eighth of what is known.
const WEIGHT: i32 = 8;

impl Hours {
    /// Takes another hour since 1970 down, in which the node was on line or not.
    pub fn note(&mut self, hour: u64, online: bool) {
        if let Some(share) = self.0.get_mut((hour % 24) as usize) {
            let wanted = if online { 255 } else { 0 };
            let step = (wanted - i32::from(*share)) / WEIGHT;
            // The last steps are shorter than one.
            let step = if step == 0 { (wanted - i32::from(*share)).signum() } else { step };
            *share = (i32::from(*share) + step).clamp(0, 255) as u8;
        }
    }

    /// Takes all hours from `until` on up to `now` down: all but the last were missed. At most two weeks count.
    pub fn note_until(&mut self, until: u64, now: u64) {
        let first = until.max(now.saturating_sub(14 * 24));
        (first..now).for_each(|hour| self.note(hour, false));
        self.note(now, true);
    }

    /// How much of the time at least one of both is on line, of 255 in each hour.
    fn with(&self, other: &Self) -> Self {
        let mut both = [0; 24];
        for ((both, a), b) in both.iter_mut().zip(self.0).zip(other.0) {
            let away = u32::from(255 - a) * u32::from(255 - b) / 255;
            *both = (255 - away) as u8;
        }
        Self(both)
    }

    fn sum(&self) -> u32 {
        self.0.iter().map(|share| u32::from(*share)).sum()
    }
}

/// Which of `candidates` to ask for copies, up to `count`, so that with those who have one already somebody is on
/// line as much of the day as can be: each time the one who adds most. Among equals the first.
pub fn complements<T: Copy>(have: &[Hours], candidates: &[(T, Hours)], count: usize) -> Vec<T> {
    let mut covered = have.iter().fold(Hours::default(), |sum, hours| sum.with(hours));
    let mut left: Vec<&(T, Hours)> = candidates.iter().collect();
    let mut chosen = Vec::new();
    while chosen.len() < count {
        let gain = |(_, hours): &(T, Hours)| covered.with(hours).sum();
        let Some(best) = (0..left.len()).rev().max_by_key(|at| left.get(*at).map(|c| gain(c))) else { break };
        let (who, hours) = left.remove(best);
        covered = covered.with(hours);
        chosen.push(*who);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(from: usize, to: usize) -> Hours {
        let mut hours = [0; 24];
        hours[from..to].fill(255);
        Hours(hours)
    }

    #[test]
    fn a_habit_shows_after_some_days_and_fades() {
        let mut seen = Hours::default();
        // From eight to ten in the evening, for a month; counted when the node runs.
        let mut until = 0;
        for day in 0..30_u64 {
            for hour in [20, 21] {
                seen.note_until(until, day * 24 + hour);
                until = day * 24 + hour + 1;
            }
        }
        assert!(seen.0[20] > 240 && seen.0[21] > 240 && seen.0[19] == 0, "{seen:?}");
        seen.note_until(until, until + 20 * 24);
        assert!(seen.0[20] < 60, "{seen:?}");
        let mut always = Hours::default();
        (0..400).for_each(|hour| always.note(hour, true));
        assert!(always.0.iter().all(|share| *share > 200));
        (0..24_000).for_each(|hour| always.note(hour, true));
        assert_eq!(always.0, [255; 24]);
    }

    #[test]
    fn who_is_there_when_the_others_are_not_is_asked_first() {
        let own = hours(8, 18);
        let others = [(1, hours(9, 17)), (2, hours(18, 23)), (3, hours(0, 8)), (4, hours(19, 22))];
        assert_eq!(complements(&[own], &others, 3), [3, 2, 1]);
        assert_eq!(complements(&[own, hours(0, 8)], &others, 1), [2]);
        assert_eq!(complements(&[own], &others, 9).len(), 4);
        // Nothing is known: the first ones.
        let unknown = [(5, Hours::default()), (6, Hours::default())];
        assert_eq!(complements(&[own], &unknown, 1), [5]);
        assert_eq!(complements::<u8>(&[own], &[], 3), []);
    }
}
