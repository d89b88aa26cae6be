//! Whom a request from the end of a circuit goes on to: the decision alone, without links or cells.
//! Page: `docs/protocol/circuit.md`.

use kith_crypto::rng::Rng;

/// Friends that one request spreads to.
pub const MAX_SPREAD_TO: usize = 16;
/// Friends that one request is passed straight on to.
pub const MAX_ONWARD: usize = 4;

/// One friend that a request goes on to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next<T> {
    /// Who.
    pub to: T,
    /// Links that it may go on from there.
    pub hops_left: u8,
    /// It is still looking for somebody who knows the way.
    pub spreads: bool,
}

/// Whom a request that may still spread over `left` links goes on to. `straight`: friends on line who
/// told of the object, and over how many links (1 or 2) it lies behind them. Those who published it
/// themselves are asked alone. Where there is none, it goes to some of the others that are drawn, as a copy may be
/// kept behind any of them, and spreads to all `others` who are on line and know circuits, or to some of
/// them that are drawn.
pub fn next_for<T: Copy + PartialEq>(
    straight: impl IntoIterator<Item = (T, u8)>,
    others: impl IntoIterator<Item = T>,
    left: u8,
    rng: &mut Rng,
) -> Vec<Next<T>> {
    let to_holder = |(to, links): (T, u8)| Next { to, hops_left: links.saturating_sub(1), spreads: false };
    // Not always the same ones, where there are many.
    let mut draw = |all: &mut Vec<Next<T>>, most: usize| {
        while all.len() > most {
            let out = rng.range(0, all.len() as u64 - 1) as usize;
            all.swap_remove(out);
        }
    };
    let (publishers, told): (Vec<_>, Vec<_>) = straight.into_iter().partition(|(_, links)| *links == 1);
    let has_publisher = !publishers.is_empty();
    let straight = if has_publisher { publishers } else { told };
    let mut next: Vec<Next<T>> = straight.into_iter().map(to_holder).collect();
    draw(&mut next, MAX_ONWARD);
    if !has_publisher && let Some(hops_left) = left.checked_sub(1) {
        let asked: Vec<T> = next.iter().map(|next| next.to).collect();
        let others = others.into_iter().filter(|to| !asked.contains(to));
        let mut spread = others.map(|to| Next { to, hops_left, spreads: true }).collect();
        draw(&mut spread, MAX_SPREAD_TO);
        next.extend(spread);
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rng() -> Rng {
        Rng::from_seed([1; 32])
    }

    #[test]
    fn who_published_it_is_asked_alone() {
        let next = next_for([(1, 1), (2, 2), (3, 2), (4, 1), (5, 2)], [6, 7], 2, &mut rng());
        assert_eq!(next, [1, 4].map(|to| Next { to, hops_left: 0, spreads: false }));
    }

    #[test]
    fn without_a_publisher_copies_are_looked_for_everywhere() {
        let next = next_for([(2, 2), (3, 2)], [2, 6, 7], 2, &mut rng());
        let straight = [2, 3].map(|to| Next { to, hops_left: 1, spreads: false });
        let spread = [6, 7].map(|to| Next { to, hops_left: 1, spreads: true });
        assert_eq!(next, [straight, spread].concat());
        let many = next_for((0..9).map(|n| (n, 2)), [], 0, &mut rng());
        assert_eq!(many.len(), MAX_ONWARD);
    }

    #[test]
    fn where_nobody_does_it_spreads_while_it_may() {
        assert_eq!(next_for([], [6, 7], 0, &mut rng()), []);
        let next = next_for([], [6, 7], 2, &mut rng());
        assert_eq!(next, [6, 7].map(|to| Next { to, hops_left: 1, spreads: true }));
        assert!(next_for([], [6], 1, &mut rng()).iter().all(|n| n.hops_left == 0 && n.spreads));
    }

    #[test]
    fn many_friends_take_turns() {
        let mut rng = rng();
        let drawn: Vec<Vec<u32>> =
            (0..20).map(|_| next_for([], 0..40, 1, &mut rng).iter().map(|n| n.to).collect()).collect();
        assert!(drawn.iter().all(|d| d.len() == MAX_SPREAD_TO));
        assert!((0..40).all(|f| drawn.iter().any(|d| d.contains(&f))), "all of them at some time");
    }
}
