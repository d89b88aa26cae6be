//! Deterministic randomness from a seed that the caller draws (ChaCha20, RFC 8439, by rand_chacha).

use rand_chacha::ChaCha20Rng;
use rand_core::{CryptoRng, RngCore, SeedableRng};

/// A cryptographic generator. The same seed gives the same bytes, which is what lets the simulator
/// replay a run; in the node the seed comes from the operating system.
#[derive(Clone)]
pub struct Rng(ChaCha20Rng);

impl Rng {
    /// A generator that is determined by `seed`.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(ChaCha20Rng::from_seed(seed))
    }

    /// `N` fresh random bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.0.fill_bytes(&mut out);
        out
    }

    /// Fills `out` with random bytes.
    pub fn fill(&mut self, out: &mut [u8]) {
        self.0.fill_bytes(out);
    }

    /// A number drawn evenly from `low..=high` (an empty range gives `low`).
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        let span = high.saturating_sub(low).saturating_add(1);
        // 64 bits against ranges of at most some 10^10: the bias is below 2^-30.
        low.saturating_add(self.0.next_u64() % span)
    }

    /// A generator of its own for one part, independent of what this one yields later.
    pub fn fork(&mut self) -> Self {
        Self::from_seed(self.bytes())
    }
}

impl RngCore for Rng {
    fn next_u32(&mut self) -> u32 {
        self.0.next_u32()
    }
    fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }
    fn fill_bytes(&mut self, dest: &mut [u8]) {
        self.0.fill_bytes(dest);
    }
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), rand_core::Error> {
        self.0.try_fill_bytes(dest)
    }
}

impl CryptoRng for Rng {}

impl std::fmt::Debug for Rng {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rng(..)")
    }
}
