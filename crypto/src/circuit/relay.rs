//! One relay's layer, and what it shares with the builder's view of that relay: the four keys and the
//! counters. Format: `docs/protocol/circuit.md`.
//!
//! Invariant: a counter is taken before its keys are used and never given out again.

use super::{Body, STACK_LEN};
use crate::aead::{BulkKey, TAG_LEN, Unauthentic};
use crate::kdf::{self, Label};
use crate::rng::Rng;
use crate::secret::Key;
use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher, StreamCipherSeek};

/// Bytes of the slots that stay when one of them leaves the stack.
pub(super) const KEPT_LEN: usize = STACK_LEN - TAG_LEN;

/// A nonce of RFC 8439.
pub(super) type Nonce = [u8; 12];

/// What a keystream is for decides the block counter that it starts at.
#[derive(Clone, Copy)]
pub(super) enum Stream {
    /// A key of its own: block 0.
    Own,
    /// The same bytes as ChaCha20-Poly1305 encrypts with under this key and nonce: block 1, as block 0
    /// makes the Poly1305 key (RFC 8439, section 2.8).
    OfSealedData,
}

/// XORs ChaCha20 (RFC 8439, section 2.4) into `buf`, which is at most a stack: the stream has 256 GiB.
pub(super) fn xor_stream(stream: Stream, key: &Key, nonce: Nonce, buf: &mut [u8]) {
    let mut cipher = ChaCha20::new(key.expose().into(), &nonce.into());
    if let Stream::OfSealedData = stream {
        cipher.seek(64_u32);
    }
    cipher.apply_keystream(buf);
}

/// The number of the next cell of one hop in one direction. The last number is never given out: there
/// the counter stays, so it cannot wrap to nonces that were used.
#[derive(Default)]
pub(super) struct Counter(u64);

impl Counter {
    /// Zeros, then the number: `0^4 || LE64(n)`.
    pub(super) fn next(&mut self) -> Option<Nonce> {
        let number = self.0.to_le_bytes();
        self.0 = self.0.checked_add(1)?;
        let mut nonce = [0; 12];
        nonce.iter_mut().skip(4).zip(number).for_each(|(to, from)| *to = from);
        Some(nonce)
    }

    /// No cell more: what comes after a cell that failed is not for this circuit.
    pub(super) fn spend(&mut self) {
        self.0 = u64::MAX;
    }

    #[cfg(test)]
    pub(super) fn set(&mut self, number: u64) {
        self.0 = number;
    }
}

/// The keys and counters of one hop, the same at both of its ends. The keys of the streams wipe
/// themselves; those that ring has prepared it does not wipe.
pub(super) struct Hop {
    pub(super) forward: BulkKey,
    pub(super) filler: Key,
    pub(super) backward: BulkKey,
    pub(super) backward_tags: Key,
    pub(super) forward_count: Counter,
    pub(super) backward_count: Counter,
}

impl Hop {
    /// From the raw split of the hop's handshake. Both halves go into every key: which direction a key
    /// serves is said by its label.
    pub(super) fn new(first: &Key, second: &Key) -> Self {
        let derive = |label| kdf::derive(label, &[first.expose(), second.expose()]);
        Self {
            forward: BulkKey::new(&derive(Label::CIRCUIT_FORWARD)),
            filler: derive(Label::CIRCUIT_FILLER),
            backward: BulkKey::new(&derive(Label::CIRCUIT_BACKWARD)),
            backward_tags: derive(Label::CIRCUIT_BACKWARD_TAGS),
            forward_count: Counter::default(),
            backward_count: Counter::default(),
        }
    }
}

/// What a relay knows of one circuit.
pub struct RelayLayer(pub(super) Hop);

impl std::fmt::Debug for RelayLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RelayLayer(..)")
    }
}

impl RelayLayer {
    pub(super) fn new(first: &Key, second: &Key) -> Self {
        Self(Hop::new(first, second))
    }

    /// Forward: checks the first tag, takes this relay's layer off the other slots and the payload,
    /// shifts the slots to the front and fills the last one.
    ///
    /// # Errors
    /// A cell was changed, replayed, swapped or dropped. The circuit must be killed: the layer opens
    /// no cell after that, and `body` holds nothing of use.
    pub fn forward(&mut self, body: &mut Body) -> Result<(), Unauthentic> {
        let hop = &mut self.0;
        let nonce = hop.forward_count.next().ok_or(Unauthentic)?;
        let (tag, sealed) = body.split_at_mut(TAG_LEN);
        if let Err(unauthentic) = hop.forward.open_detached(nonce, tag, sealed) {
            hop.forward_count.spend();
            return Err(unauthentic);
        }
        body.copy_within(TAG_LEN..STACK_LEN, 0);
        let (stack, _) = body.split_at_mut(STACK_LEN);
        let (_, free) = stack.split_at_mut(KEPT_LEN);
        free.fill(0);
        xor_stream(Stream::Own, &hop.filler, nonce, free);
        Ok(())
    }

    /// Backward: hides the slots that stay, shifts them to the back, adds this relay's layer to the
    /// payload and its tag in front. The last slot falls off; the builder's path is short enough
    /// that it holds no tag.
    ///
    /// After the last number that a counter has, which no circuit lives to see, the body is blank
    /// rather than sealed a second time under one nonce.
    pub fn backward(&mut self, body: &mut Body) {
        let hop = &mut self.0;
        let Some(nonce) = hop.backward_count.next() else {
            body.fill(0);
            return;
        };
        let (stack, payload) = body.split_at_mut(STACK_LEN);
        let tag = hop.backward.seal_detached(nonce, payload);
        let (kept, _) = stack.split_at_mut(KEPT_LEN);
        xor_stream(Stream::Own, &hop.backward_tags, nonce, kept);
        stack.copy_within(..KEPT_LEN, TAG_LEN);
        let (first, _) = stack.split_at_mut(TAG_LEN);
        first.copy_from_slice(tag.as_ref());
    }

    /// Backward from the circuit's end, where `body[96..]` holds the plain payload: the slots that no
    /// tag is in are random, like every slot on every link.
    pub fn originate(&mut self, body: &mut Body, rng: &mut Rng) {
        let (stack, _) = body.split_at_mut(STACK_LEN);
        rng.fill(stack);
        self.backward(body);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{body, circuit};
    use super::super::{BODY_LEN, PAYLOAD_LEN};
    use super::*;
    use crate::rng::Rng;
    use chacha20poly1305::ChaCha20Poly1305;
    use chacha20poly1305::aead::{Aead, KeyInit};
    use proptest::prelude::*;

    fn halves() -> (Key, Key) {
        (Key::new([1; 32]), Key::new([2; 32]))
    }

    fn key(label: Label) -> Key {
        let (first, second) = halves();
        kdf::derive(label, &[first.expose(), second.expose()])
    }

    fn named(label: Label) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new(key(label).expose().into())
    }

    fn stream(label: Label, nonce: Nonce, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        ChaCha20::new(key(label).expose().into(), &nonce.into()).apply_keystream(&mut out);
        out
    }

    fn nonce(number: u64) -> Nonce {
        [&[0; 4][..], &number.to_le_bytes()].concat().try_into().unwrap()
    }

    proptest! {
        /// The forward layer is RFC 8439 as another crate implements it, with its tag in front.
        #[test]
        fn forward_equals_the_named_crate(seed: [u8; 32], number in 0..u64::MAX) {
            let (first, second) = halves();
            let mut relay = RelayLayer::new(&first, &second);
            relay.0.forward_count.set(number);
            let mut inner = [0; BODY_LEN - TAG_LEN];
            Rng::from_seed(seed).fill(&mut inner);
            let sealed =
                named(Label::CIRCUIT_FORWARD).encrypt(&nonce(number).into(), &inner[..]).unwrap();
            let (text, tag) = sealed.split_at(inner.len());
            let mut cell: Body = [tag, text].concat().try_into().unwrap();
            relay.forward(&mut cell).unwrap();
            let filler = stream(Label::CIRCUIT_FILLER, nonce(number), TAG_LEN);
            let expected = [&inner[..KEPT_LEN], &filler, &inner[KEPT_LEN..]].concat();
            prop_assert_eq!(&cell[..], &expected[..]);
        }

        #[test]
        fn backward_equals_the_named_crate(seed: [u8; 32], number in 0..u64::MAX) {
            let (first, second) = halves();
            let mut relay = RelayLayer::new(&first, &second);
            relay.0.backward_count.set(number);
            let mut cell = [0; BODY_LEN];
            Rng::from_seed(seed).fill(&mut cell);
            let (stack, payload) = cell.split_at(STACK_LEN);
            let sealed =
                named(Label::CIRCUIT_BACKWARD).encrypt(&nonce(number).into(), payload).unwrap();
            let (text, tag) = sealed.split_at(PAYLOAD_LEN);
            let hidden = stream(Label::CIRCUIT_BACKWARD_TAGS, nonce(number), KEPT_LEN);
            let kept: Vec<u8> = stack.iter().zip(hidden).map(|(a, b)| a ^ b).collect();
            let expected = [tag, &kept, text].concat();
            relay.backward(&mut cell);
            prop_assert_eq!(&cell[..], &expected[..]);
        }
    }

    /// The keystream of sealed data is the one that the AEAD uses, which the builder's tails need.
    #[test]
    fn sealed_zeros_are_the_keystream() {
        let mut zeros = [0; KEPT_LEN];
        let _tag = BulkKey::new(&Key::new([3; 32])).seal_detached(nonce(5), &mut zeros);
        let mut ours = [0; KEPT_LEN];
        xor_stream(Stream::OfSealedData, &Key::new([3; 32]), nonce(5), &mut ours);
        assert_eq!(ours, zeros);
    }

    #[test]
    fn a_layer_that_failed_opens_nothing_more() {
        let mut rng = Rng::from_seed([4; 32]);
        let (mut layers, mut relays) = circuit(2, &mut rng);
        let plain = [7; PAYLOAD_LEN];
        let mut cells = [body(&plain); 3];
        cells.iter_mut().for_each(|cell| layers.seal(cell, &mut rng));
        relays[0].forward(&mut cells[0]).unwrap();
        assert_eq!(relays[0].forward(&mut cells[2]), Err(Unauthentic));
        assert_eq!(relays[0].forward(&mut cells[1]), Err(Unauthentic));
    }

    #[test]
    fn a_counter_ends_and_does_not_wrap() {
        let mut counter = Counter::default();
        assert_eq!((counter.next(), counter.next()), (Some(nonce(0)), Some(nonce(1))));
        counter.set(u64::MAX - 1);
        assert_eq!(counter.next(), Some(nonce(u64::MAX - 1)));
        assert_eq!((counter.next(), counter.next()), (None, None));

        let mut rng = Rng::from_seed([5; 32]);
        let (mut layers, mut relays) = circuit(1, &mut rng);
        relays[0].0.backward_count.set(u64::MAX - 1);
        let mut cell = body(&[7; PAYLOAD_LEN]);
        relays[0].originate(&mut cell, &mut rng);
        assert_ne!(cell, [0; BODY_LEN]);
        relays[0].originate(&mut cell, &mut rng);
        assert_eq!(cell, [0; BODY_LEN], "blank, and not sealed again");
        assert_eq!(layers.open(&mut cell), Err(Unauthentic));
        relays[0].0.forward_count.set(u64::MAX);
        let mut cell = body(&[7; PAYLOAD_LEN]);
        layers.seal(&mut cell, &mut rng);
        assert_eq!(relays[0].forward(&mut cell), Err(Unauthentic));
    }
}
