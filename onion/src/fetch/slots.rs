//! A set of block slots.

/// A set of block slots.
#[derive(Clone, Debug, Default)]
pub struct Slots {
    words: Vec<u64>,
    len: u64,
    count: u64,
}

impl Slots {
    /// `len` empty slots.
    pub fn new(len: u64) -> Self {
        Self { words: vec![0; len.div_ceil(64) as usize], len, count: 0 }
    }

    /// Whether a slot is set.
    pub fn has(&self, slot: u64) -> bool {
        self.words.get((slot / 64) as usize).is_some_and(|w| w >> (slot % 64) & 1 == 1)
    }

    /// Sets or clears a slot.
    pub fn set(&mut self, slot: u64, on: bool) {
        if slot >= self.len || self.has(slot) == on {
            return;
        }
        if let Some(word) = self.words.get_mut((slot / 64) as usize) {
            *word ^= 1 << (slot % 64);
            self.count = if on { self.count + 1 } else { self.count - 1 };
        }
    }

    /// Slots that are set.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The first empty slot in `from..end`.
    pub fn next_empty(&self, from: u64, end: u64) -> Option<u64> {
        let mut slot = from;
        while slot < end {
            let word = self.words.get((slot / 64) as usize)? >> (slot % 64);
            let run = u64::from(word.trailing_ones());
            if run < 64 - slot % 64 {
                return Some(slot + run).filter(|s| *s < end);
            }
            slot += 64 - slot % 64;
        }
        None
    }
}
