//! What the cells of a circuit look like on its links: nothing in them shows a position, a length or
//! that two of them carry the same.

use super::tests::{body, circuit};
use super::{BODY_LEN, Body, MAX_HOPS, PAYLOAD_LEN, STACK_LEN};
use crate::aead::TAG_LEN;
use crate::rng::Rng;
use std::collections::HashSet;

/// More standard deviations than this are no chance.
const SURPRISING: f64 = 5.0;
/// Cells per length of circuit: 32,000 bytes a slot.
const CELLS: usize = 2_000;

/// How surprising the frequencies of byte values are, in standard deviations (chi-square; Wilson and
/// Hilferty 1931).
fn surprise(bytes: impl Iterator<Item = u8>) -> f64 {
    let mut seen = [0_u32; 256];
    bytes.for_each(|byte| seen[usize::from(byte)] += 1);
    let expected = f64::from(seen.iter().sum::<u32>()) / 256.0;
    let chi: f64 = seen.iter().map(|n| (f64::from(*n) - expected).powi(2) / expected).sum();
    let spread = 2.0 / (9.0 * 255.0);
    ((chi / 255.0).cbrt() - (1.0 - spread)) / f64::sqrt(spread)
}

fn slot(cells: &[Body], slot: usize) -> impl Iterator<Item = u8> {
    cells.iter().flat_map(move |cell| cell[slot * TAG_LEN..][..TAG_LEN].iter().copied())
}

/// The same payload over and over: on each link, the cells that pass it forward, and those backward.
/// One link more forward than there are: what the last relay is left with.
fn links(hops: usize, cells: usize, rng: &mut Rng) -> (Vec<Vec<Body>>, Vec<Vec<Body>>) {
    let (mut layers, mut relays) = circuit(hops, rng);
    let (mut there, mut back) = (vec![Vec::new(); hops + 1], vec![Vec::new(); hops]);
    for _ in 0..cells {
        let mut cell = body(&[7; PAYLOAD_LEN]);
        layers.seal(&mut cell, rng);
        there[0].push(cell);
        for (relay, link) in relays.iter_mut().zip(&mut there[1..]) {
            relay.forward(&mut cell).unwrap();
            link.push(cell);
        }
        let mut cell = body(&[7; PAYLOAD_LEN]);
        for (index, relay) in relays.iter_mut().enumerate().rev() {
            if index + 1 == hops {
                relay.originate(&mut cell, rng)
            } else {
                relay.backward(&mut cell)
            }
            back[index].push(cell);
        }
    }
    (there, back)
}

#[test]
fn every_slot_looks_random_on_every_link() {
    let mut rng = Rng::from_seed([1; 32]);
    for hops in 1..=MAX_HOPS {
        let (there, back) = links(hops, CELLS, &mut rng);
        for (link, cells) in there.iter().chain(&back).enumerate() {
            for at in 0..MAX_HOPS {
                let z = surprise(slot(cells, at));
                assert!(z.abs() < SURPRISING, "{hops} relays, link {link}, slot {at}: {z}");
            }
        }
        for (link, cells) in there[..hops].iter().chain(&back).enumerate() {
            let z = surprise(cells.iter().take(50).flat_map(|cell| cell[STACK_LEN..].iter().copied()));
            assert!(z.abs() < SURPRISING, "{hops} relays, payload on link {link}: {z}");
        }
    }
}

/// The count above sees a stack whose free slots are left as they are, even if only one cell in fifty
/// shows it.
#[test]
fn a_slot_that_is_not_filled_would_be_seen() {
    let mut rng = Rng::from_seed([2; 32]);
    let (mut there, _) = links(3, CELLS, &mut rng);
    let free = MAX_HOPS - 1;
    assert!(surprise(slot(&there[1], free)).abs() < SURPRISING);
    there[1].iter_mut().step_by(50).for_each(|cell| cell[free * TAG_LEN..STACK_LEN].fill(0));
    assert!(surprise(slot(&there[1], free)) > SURPRISING);
    let plain = body(&[7; PAYLOAD_LEN]);
    assert!(surprise(plain.iter().copied()) > SURPRISING);
}

#[test]
fn the_same_payload_twice_shares_no_block_on_any_two_links() {
    let mut rng = Rng::from_seed([3; 32]);
    let mut seen = HashSet::new();
    let mut count = 0;
    for hops in [3, MAX_HOPS] {
        let (there, back) = links(hops, 2, &mut rng);
        // The last relay holds the plaintext: that is no link.
        for cell in there[..hops].iter().chain(&back).flatten() {
            for window in cell.windows(16) {
                assert!(seen.insert(u128::from_le_bytes(window.try_into().unwrap())));
                count += 1;
            }
        }
    }
    assert_eq!(count, (3 + MAX_HOPS) * 2 * 2 * (BODY_LEN - 15));
}
