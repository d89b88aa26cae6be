//! Where a friendship stands in its post-quantum ratchet, and the exchange that moves it on.
//! Pure state; the core stores and sends. Format and order: `docs/protocol/ratchet.md`.
//!
//! Invariant (decision 8): the sides differ by at most one generation. The *first* side (the one with
//! the lower Noise key) stores a new PSK before it shows its proof, the *second* stores it before it
//! shows its own; so when the second has it, the first has it too. A side calls under a new PSK only
//! when it knows that the other has it, and answers to both until the new one was proved by a
//! handshake. Nothing is ever thrown away that the other side may still call with.

use crate::control::Counters;
use crate::handshake::{Mode, Secret};
use kith_crypto::pair::PairRoot;
use kith_crypto::ratchet::{Base, First, Proof, Second};
use kith_crypto::secret::Key;
use std::time::Duration;

/// A PSK that no handshake has proved yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextPsk {
    /// Its generation.
    pub generation: u32,
    /// The key.
    pub psk: Key,
    /// The other side is known to have it.
    pub confirmed: bool,
}

/// The PSKs of a friendship, as the journal keeps them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ratchet {
    /// Generation that the last handshake proved.
    pub generation: u32,
    /// Its PSK.
    pub psk: Key,
    /// Unix seconds when it was first proved; 0 for the first one.
    pub since_s: u64,
    /// The next one, after an exchange.
    pub next: Option<NextPsk>,
}

impl Ratchet {
    /// The first generation, from the pair root.
    pub fn initial(root: &PairRoot) -> Self {
        Self { generation: 0, psk: root.psk0(), since_s: 0, next: None }
    }

    /// What to call with.
    pub fn to_call(&self) -> Secret {
        match &self.next {
            Some(next) if next.confirmed => secret(next.generation, &next.psk),
            _ => secret(self.generation, &self.psk),
        }
    }

    /// What to answer a call under `generation` with; `None`: this side is out of step.
    pub fn to_answer(&self, generation: u32) -> Option<Secret> {
        match &self.next {
            Some(next) if next.generation == generation => Some(secret(generation, &next.psk)),
            _ if self.generation == generation => Some(secret(generation, &self.psk)),
            _ => None,
        }
    }

    /// The other side has used the next PSK, or has proved to have it. True if that is news.
    pub fn confirm(&mut self, generation: u32) -> bool {
        match &mut self.next {
            Some(next) if next.generation == generation && !next.confirmed => {
                next.confirmed = true;
                true
            }
            _ => false,
        }
    }

    /// A session under `generation` stands: an older PSK has done its work. `None`: no such PSK.
    pub fn prove(&mut self, generation: u32, now_s: u64) -> Option<bool> {
        if let Some(next) = self.next.take_if(|next| next.generation == generation) {
            (self.generation, self.psk, self.since_s) = (generation, next.psk, now_s);
            return Some(true);
        }
        (self.generation == generation).then_some(false)
    }

    /// The newest generation that this side knows of.
    pub fn newest(&self) -> u32 {
        self.next.as_ref().map_or(self.generation, |next| next.generation.max(self.generation))
    }

    /// Whether an exchange may begin: none has ended without being proved.
    pub fn is_settled(&self) -> bool {
        self.next.as_ref().is_none_or(|next| !next.confirmed)
    }
}

fn secret(generation: u32, psk: &Key) -> Secret {
    Secret { mode: Mode::Generation(generation), psk: psk.clone() }
}

/// An exchange under way on one connection.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) connection: u32,
    pub(crate) step: Step,
}

#[derive(Debug)]
pub(crate) enum Step {
    /// First side: the offer is out.
    Offered(Box<First>, u32),
    /// First side: the new PSK is stored or being stored, the other's proof is awaited.
    Confirming,
    /// Second side: the reply is out.
    Replied(Box<Second>, Box<Base>, Counters),
    /// Second side: the new PSK is being stored.
    Storing,
}

/// What is said when storage has answered.
#[derive(Debug)]
pub(crate) enum Stored {
    /// First side: ciphertext and proof.
    Confirm(Box<crate::control::Confirm>),
    /// Second side: its proof.
    Done(Proof),
}

/// How a friend's keys stand to ours, when they do not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutOfStep {
    /// The friend calls with older keys, or asks to recover: restored from a backup, or a copy.
    TheyAreBehind,
    /// The friend calls with keys that are newer than ours: this node was restored or copied.
    WeAreBehind,
}

/// Ages of a PSK at which its first side begins the next exchange, shortest and longest.
pub(crate) const RATCHET_AFTER_S: (u64, u64) = (20 * 3600, 23 * 3600);
/// A link is at least so old when an exchange begins on it (decision 10).
pub(crate) const RATCHET_SETTLE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn ratchet() -> Ratchet {
        Ratchet::initial(&PairRoot::from_key(Key::new([1; 32])))
    }

    fn with_next(confirmed: bool) -> Ratchet {
        let next = Some(NextPsk { generation: 1, psk: Key::new([9; 32]), confirmed });
        Ratchet { next, ..ratchet() }
    }

    #[test]
    fn calls_use_a_new_psk_only_when_the_other_side_has_it() {
        assert_eq!(ratchet().to_call().mode, Mode::Generation(0));
        assert_eq!(with_next(false).to_call().mode, Mode::Generation(0));
        assert_eq!(with_next(true).to_call().mode, Mode::Generation(1));
    }

    #[test]
    fn both_generations_are_answered_until_the_new_one_is_proved() {
        for confirmed in [false, true] {
            let mut ratchet = with_next(confirmed);
            assert!(ratchet.to_answer(0).is_some() && ratchet.to_answer(1).is_some());
            assert!(ratchet.to_answer(2).is_none());
            assert_eq!(ratchet.prove(1, 5), Some(true));
            assert!(ratchet.to_answer(0).is_none() && ratchet.to_answer(1).is_some());
            assert_eq!((ratchet.prove(1, 6), ratchet.since_s), (Some(false), 5));
            assert_eq!(ratchet.prove(0, 6), None);
        }
    }

    #[test]
    fn a_call_under_the_new_psk_confirms_it_once() {
        let mut ratchet = with_next(false);
        assert!(ratchet.is_settled());
        assert!(ratchet.confirm(1) && !ratchet.confirm(1) && !ratchet.is_settled());
    }
}
