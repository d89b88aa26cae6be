//! The builder's layers of one circuit. Format: `docs/protocol/circuit.md`.
//!
//! Sealing goes from the last hop outwards. A relay fills the slot that its own tag leaves free, so
//! the tail of the stack that each relay gets is known before anything is sealed, and each tag must
//! cover it; the builder works it out first and lets the last hop's unused slots encrypt to it.

use super::relay::{Hop, KEPT_LEN, Nonce, Stream, xor_stream};
use super::{Body, MAX_HOPS, STACK_LEN};
use crate::aead::{TAG_LEN, Unauthentic};
use crate::kdf::{self, Label};
use crate::rng::Rng;
use crate::secret::Key;

/// The circuit has as many relays as the tag stack has slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyHops;

impl std::fmt::Display for TooManyHops {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a circuit has at most {MAX_HOPS} relays")
    }
}

impl std::error::Error for TooManyHops {}

/// What the builder shares with one relay.
pub struct HopLayer {
    hop: Hop,
    /// The forward key once more, for its keystream alone: ring gives that out with a tag only.
    forward: Key,
}

impl std::fmt::Debug for HopLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HopLayer(..)")
    }
}

impl HopLayer {
    pub(super) fn new(first: &Key, second: &Key) -> Self {
        let forward = kdf::derive(Label::CIRCUIT_FORWARD, &[first.expose(), second.expose()]);
        Self { hop: Hop::new(first, second), forward }
    }
}

/// The builder's layers, guard first.
#[derive(Debug, Default)]
pub struct Layers(Vec<HopLayer>);

impl Layers {
    /// Adds the relay that the circuit was extended to.
    pub fn push(&mut self, hop: HopLayer) -> Result<(), TooManyHops> {
        if self.0.len() >= MAX_HOPS {
            return Err(TooManyHops);
        }
        // All room at once: a vector that grows leaves copies of its keys behind, which nobody wipes.
        self.0.reserve_exact(MAX_HOPS - self.0.len());
        self.0.push(hop);
        Ok(())
    }

    /// Relays of the circuit.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no relay yet.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Seals `body`, whose bytes from 96 on are the plain payload for the last hop, into the cell for
    /// the guard.
    ///
    /// Without a relay, or after the last number that a counter has, the body is blank: nothing goes
    /// out in the clear or under a nonce that was used.
    pub fn seal(&mut self, body: &mut Body, rng: &mut Rng) {
        if self.try_seal(body, rng).is_none() {
            body.fill(0);
        }
    }

    fn try_seal(&mut self, body: &mut Body, rng: &mut Rng) -> Option<()> {
        let mut nonces = [Nonce::default(); MAX_HOPS];
        for (layer, nonce) in self.0.iter_mut().zip(&mut nonces) {
            *nonce = layer.hop.forward_count.next()?;
        }
        let (last, before) = self.0.split_last()?;
        let hops = before.iter().zip(nonces);

        // What stands in front of the fillers is of no use and overwritten below.
        let mut tail = [0; KEPT_LEN];
        for (layer, nonce) in hops.clone() {
            xor_stream(Stream::OfSealedData, &layer.forward, nonce, &mut tail);
            tail.copy_within(TAG_LEN.., 0);
            let (_, filler) = tail.split_at_mut(KEPT_LEN - TAG_LEN);
            filler.fill(0);
            xor_stream(Stream::Own, &layer.hop.filler, nonce, filler);
        }
        let last_nonce = *nonces.get(before.len())?;
        xor_stream(Stream::OfSealedData, &last.forward, last_nonce, &mut tail);
        let (unused, _) = tail.split_at_mut_checked(KEPT_LEN - before.len() * TAG_LEN)?;
        rng.fill(unused);

        let (stack, _) = body.split_at_mut(STACK_LEN);
        let (_, kept) = stack.split_at_mut(TAG_LEN);
        kept.copy_from_slice(&tail);
        seal_one(last, last_nonce, body);
        for (layer, nonce) in hops.rev() {
            // The slot that falls off is the filler which this relay will put there again.
            body.copy_within(..KEPT_LEN, TAG_LEN);
            seal_one(layer, nonce, body);
        }
        Some(())
    }

    /// Opens a cell from the guard: checks the tags of all relays and leaves the plain payload in
    /// `body[96..]`.
    ///
    /// The slots behind the last relay's tag are noise that nobody reads: no tag covers them, and a
    /// change there neither fails nor reaches the payload.
    ///
    /// # Errors
    /// A cell was changed, replayed, swapped or dropped, by whichever relay. The circuit must be
    /// killed: nothing opens after that, and `body` holds nothing of use.
    pub fn open(&mut self, body: &mut Body) -> Result<(), Unauthentic> {
        let opened = self.try_open(body);
        if opened.is_err() {
            self.0.iter_mut().for_each(|layer| layer.hop.backward_count.spend());
        }
        opened
    }

    fn try_open(&mut self, body: &mut Body) -> Result<(), Unauthentic> {
        if self.0.is_empty() {
            return Err(Unauthentic);
        }
        for HopLayer { hop, .. } in &mut self.0 {
            let nonce = hop.backward_count.next().ok_or(Unauthentic)?;
            let (stack, payload) = body.split_at_mut(STACK_LEN);
            let (tag, _) = stack.split_at_mut(TAG_LEN);
            hop.backward.open_detached(nonce, tag, payload)?;
            stack.copy_within(TAG_LEN.., 0);
            let (kept, _) = stack.split_at_mut(KEPT_LEN);
            xor_stream(Stream::Own, &hop.backward_tags, nonce, kept);
        }
        Ok(())
    }
}

/// Seals everything behind the first slot and puts its tag there.
fn seal_one(layer: &HopLayer, nonce: Nonce, body: &mut Body) {
    let (first, sealed) = body.split_at_mut(TAG_LEN);
    let tag = layer.hop.forward.seal_detached(nonce, sealed);
    first.copy_from_slice(tag.as_ref());
}

#[cfg(test)]
mod tests {
    use super::super::tests::{body, circuit, hop};
    use super::super::{BODY_LEN, PAYLOAD_LEN, RelayLayer};
    use super::*;
    use crate::rng::Rng;
    use proptest::prelude::*;

    fn payload(rng: &mut Rng) -> [u8; PAYLOAD_LEN] {
        rng.bytes()
    }

    /// Takes a cell from the builder past `relays`.
    fn forward(relays: &mut [RelayLayer], cell: &mut Body) -> Result<(), Unauthentic> {
        relays.iter_mut().try_for_each(|relay| relay.forward(cell))
    }

    /// Takes a cell that the last of `relays` makes to the link that leads to relay `to`.
    fn backward(relays: &mut [RelayLayer], to: usize, cell: &mut Body, rng: &mut Rng) {
        let (last, before) = relays.split_last_mut().unwrap();
        if to <= before.len() {
            last.originate(cell, rng);
        }
        before.iter_mut().skip(to).rev().for_each(|relay| relay.backward(cell));
    }

    fn both_ways(layers: &mut Layers, relays: &mut [RelayLayer], rng: &mut Rng) {
        let plain = payload(rng);
        let mut cell = body(&plain);
        layers.seal(&mut cell, rng);
        forward(relays, &mut cell).unwrap();
        assert_eq!(cell[STACK_LEN..], plain);
        // More cells come back than go out, so that the counters of the directions differ.
        for _ in 0..2 {
            let plain = payload(rng);
            let mut cell = body(&plain);
            backward(relays, 0, &mut cell, rng);
            layers.open(&mut cell).unwrap();
            assert_eq!(cell[STACK_LEN..], plain);
        }
    }

    #[test]
    fn cells_pass_circuits_of_every_length_both_ways() {
        let mut rng = Rng::from_seed([1; 32]);
        for hops in 1..=MAX_HOPS {
            let (mut layers, mut relays) = circuit(hops, &mut rng);
            for _ in 0..50 {
                both_ways(&mut layers, &mut relays, &mut rng);
            }
        }
    }

    #[test]
    fn a_circuit_in_use_grows_up_to_the_last_slot() {
        let mut rng = Rng::from_seed([2; 32]);
        let (mut layers, mut relays) = (Layers::default(), Vec::new());
        for hops in 1..=MAX_HOPS {
            let (layer, relay) = hop(&mut rng);
            layers.push(layer).unwrap();
            relays.push(relay);
            assert_eq!(layers.len(), hops);
            for _ in 0..5 {
                both_ways(&mut layers, &mut relays, &mut rng);
            }
        }
        assert_eq!(layers.push(hop(&mut rng).0), Err(TooManyHops));
        assert_eq!(layers.len(), MAX_HOPS);
        both_ways(&mut layers, &mut relays, &mut rng);
    }

    #[test]
    fn nothing_goes_out_in_the_clear() {
        let mut rng = Rng::from_seed([3; 32]);
        let mut cell = body(&[7; PAYLOAD_LEN]);
        Layers::default().seal(&mut cell, &mut rng);
        assert_eq!(cell, [0; BODY_LEN], "no relay to seal for");
        assert_eq!(Layers::default().open(&mut body(&[7; PAYLOAD_LEN])), Err(Unauthentic));

        let (mut layers, _) = circuit(3, &mut rng);
        layers.0[1].hop.forward_count.set(u64::MAX);
        let mut cell = body(&[7; PAYLOAD_LEN]);
        layers.seal(&mut cell, &mut rng);
        assert_eq!(cell, [0; BODY_LEN], "no number left");
    }

    /// Sends the cells of `order` over the link to relay `link`, and says where the first is refused.
    /// Relays before and behind that link are honest and see the order that this makes.
    fn refused_at(hops: usize, link: usize, order: &[usize], backwards: bool) -> Option<usize> {
        let mut rng = Rng::from_seed([4; 32]);
        let (mut layers, mut relays) = circuit(hops, &mut rng);
        let mut cells = [body(&[7; PAYLOAD_LEN]); 3];
        for cell in &mut cells {
            if backwards {
                backward(&mut relays, link, cell, &mut rng);
            } else {
                layers.seal(cell, &mut rng);
                forward(&mut relays[..link], cell).unwrap();
            }
        }
        order.iter().position(|index| {
            let mut cell = cells[*index];
            if backwards {
                relays[..link].iter_mut().rev().for_each(|relay| relay.backward(&mut cell));
                layers.open(&mut cell).is_err()
            } else {
                relays[link].forward(&mut cell).is_err()
            }
        })
    }

    #[test]
    fn replays_swaps_and_gaps_are_refused_on_every_link() {
        for hops in 1..=MAX_HOPS {
            for link in 0..hops {
                for backwards in [false, true] {
                    let at = |order: &[usize]| refused_at(hops, link, order, backwards);
                    assert_eq!(at(&[0, 1, 2]), None);
                    assert_eq!(at(&[0, 0]), Some(1), "replay");
                    assert_eq!(at(&[0, 1, 0]), Some(2), "late replay");
                    assert_eq!(at(&[1, 0]), Some(0), "swap");
                    assert_eq!(at(&[0, 2]), Some(1), "gap");
                    assert_eq!(at(&[2]), Some(0), "start in the middle");
                }
            }
        }
    }

    #[test]
    fn a_cell_of_another_circuit_is_refused() {
        let mut rng = Rng::from_seed([5; 32]);
        let (mut layers, mut relays) = circuit(3, &mut rng);
        let (mut others, mut strangers) = circuit(3, &mut rng);
        let mut cell = body(&[7; PAYLOAD_LEN]);
        layers.seal(&mut cell, &mut rng);
        assert_eq!(forward(&mut strangers, &mut cell), Err(Unauthentic));
        let mut cell = body(&[7; PAYLOAD_LEN]);
        backward(&mut relays, 0, &mut cell, &mut rng);
        assert_eq!(others.open(&mut cell), Err(Unauthentic));
        // A cell that is sent back where it came from.
        let (mut layers, _) = circuit(3, &mut rng);
        let mut cell = body(&[7; PAYLOAD_LEN]);
        layers.seal(&mut cell, &mut rng);
        assert_eq!(layers.open(&mut cell), Err(Unauthentic));
    }

    fn flip(cell: &mut Body, bit: usize) {
        cell[bit / 8] ^= 1 << (bit % 8);
    }

    proptest! {
        /// Whatever bit changes on whatever link: the relay behind that link refuses the cell.
        #[test]
        fn a_changed_forward_cell_dies_at_the_next_relay(
            seed: [u8; 32], hops in 1..=MAX_HOPS, link: prop::sample::Index, bit in 0..BODY_LEN * 8,
        ) {
            let mut rng = Rng::from_seed(seed);
            let (mut layers, mut relays) = circuit(hops, &mut rng);
            let link = link.index(hops);
            let mut cell = body(&[7; PAYLOAD_LEN]);
            layers.seal(&mut cell, &mut rng);
            forward(&mut relays[..link], &mut cell).unwrap();
            flip(&mut cell, bit);
            prop_assert_eq!(relays[link].forward(&mut cell), Err(Unauthentic));
        }

        /// The same backward, where the builder refuses it. Slots behind the last relay's tag are noise
        /// that no tag covers: a change there reaches nothing.
        #[test]
        fn a_changed_backward_cell_dies_at_the_builder(
            seed: [u8; 32], hops in 1..=MAX_HOPS, link: prop::sample::Index,
            bit in prop_oneof![0..STACK_LEN * 8, 0..BODY_LEN * 8],
        ) {
            let mut rng = Rng::from_seed(seed);
            let (mut layers, mut relays) = circuit(hops, &mut rng);
            let link = link.index(hops);
            let plain = payload(&mut rng);
            let mut cell = body(&plain);
            backward(&mut relays, link, &mut cell, &mut rng);
            flip(&mut cell, bit);
            relays[..link].iter_mut().rev().for_each(|relay| relay.backward(&mut cell));
            let noise = (hops - link) * TAG_LEN * 8..STACK_LEN * 8;
            if noise.contains(&bit) {
                prop_assert_eq!(layers.open(&mut cell), Ok(()));
                prop_assert_eq!(&cell[STACK_LEN..], &plain[..]);
            } else {
                prop_assert_eq!(layers.open(&mut cell), Err(Unauthentic));
                let mut next = body(&plain);
                backward(&mut relays, 0, &mut next, &mut rng);
                prop_assert_eq!(layers.open(&mut next), Err(Unauthentic), "a circuit that is dead");
            }
        }
    }
}
