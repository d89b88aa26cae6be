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
/// told of the object, and over how many links (1 or 2) it lies behind them, nearest first; where there
/// are any, it goes to them and spreads no more. Else to all `others` who are on line and know circuits,
/// or to some of them that are drawn.
pub fn next_for<T>(
    straight: impl IntoIterator<Item = (T, u8)>,
    others: impl IntoIterator<Item = T>,
    left: u8,
    rng: &mut Rng,
) -> Vec<Next<T>> {
    let to_holder = |(to, links): (T, u8)| Next { to, hops_left: links.saturating_sub(1), spreads: false };
    let mut next: Vec<Next<T>> = straight.into_iter().take(MAX_ONWARD).map(to_holder).collect();
    if next.is_empty()
        && let Some(hops_left) = left.checked_sub(1)
    {
        next = others.into_iter().map(|to| Next { to, hops_left, spreads: true }).collect();
        // Not always the same ones, where there are many.
        while next.len() > MAX_SPREAD_TO {
            let out = rng.range(0, next.len() as u64 - 1) as usize;
            next.swap_remove(out);
        }
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
    fn who_knows_the_way_is_asked_alone() {
        let next = next_for([(1, 1), (2, 2), (3, 2), (4, 2), (5, 2)], [6, 7], 2, &mut rng());
        let expected = [(1, 0), (2, 1), (3, 1), (4, 1)];
        assert_eq!(next, expected.map(|(to, hops_left)| Next { to, hops_left, spreads: false }));
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
