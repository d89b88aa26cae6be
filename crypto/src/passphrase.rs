//! Keys from passphrases: Argon2id, version 1.3 (RFC 9106).

use crate::secret::Key;
use zeroize::Zeroizing;

/// Cost of the derivation, stored beside what it protects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
}

impl Cost {
    /// RFC 9106, section 4, second recommended option: 64 MiB, three passes. One lane instead of four,
    /// because one thread computes it: lanes save whoever waits time and cost whoever guesses nothing.
    pub const RECOMMENDED: Cost = Cost { memory_kib: 64 * 1024, passes: 3 };
    /// The most that is accepted from a file, so that a forged header cannot take all memory.
    pub const MAX: Cost = Cost { memory_kib: 1024 * 1024, passes: 16 };
}

/// Derives a key from `passphrase` and a 16-byte random `salt`. The memory is wiped afterwards.
///
/// `None` when the cost is outside 8 KiB and one pass to [`Cost::MAX`].
pub fn derive(passphrase: &[u8], salt: &[u8; 16], cost: Cost) -> Option<Key> {
    if cost.memory_kib > Cost::MAX.memory_kib || cost.passes > Cost::MAX.passes {
        return None;
    }
    let params = argon2::Params::new(cost.memory_kib, cost.passes, 1, Some(32)).ok()?;
    let mut memory = Zeroizing::new(vec![argon2::Block::new(); params.block_count()]);
    let mut out = Zeroizing::new([0; 32]);
    argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params)
        .hash_password_into_with_memory(passphrase, salt, out.as_mut_slice(), memory.as_mut_slice())
        .ok()?;
    Some(Key::new(*out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depends_on_all_inputs_and_refuses_bombs() {
        let cheap = Cost { memory_kib: 64, passes: 1 };
        let a = derive(b"one", &[0; 16], cheap).unwrap();
        assert_eq!(a, derive(b"one", &[0; 16], cheap).unwrap());
        assert_ne!(a, derive(b"two", &[0; 16], cheap).unwrap());
        assert_ne!(a, derive(b"one", &[1; 16], cheap).unwrap());
        assert!(derive(b"one", &[0; 16], Cost { memory_kib: u32::MAX, passes: 1 }).is_none());
        assert!(derive(b"one", &[0; 16], Cost { memory_kib: 64, passes: 0 }).is_none());
    }
}
