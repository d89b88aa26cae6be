//! Addresses of onion services, version 3 (Tor's rend-spec-v3, section 6: "Encoding onion addresses"): the
//! service's Ed25519 key, two bytes of checksum and the version, as 56 letters of base32.

use crate::rng::Rng;
use crate::secret::Key;
use data_encoding::BASE32_NOPAD;
use ed25519_dalek::{SigningKey, VerifyingKey};
use sha3::{Digest, Sha3_256};

/// Letters of an address, without `.onion`.
pub const LETTERS: usize = 56;
const VERSION: u8 = 3;
const CHECKSUM_CONTEXT: &[u8] = b".onion checksum";
const SUFFIX: &str = ".onion";

/// The address of an onion service: whoever knows it can ask for a connection, and nobody learns from it where
/// the service is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OnionAddress([u8; 32]);

impl std::fmt::Debug for OnionAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // As with other addresses: none reaches a log by accident.
        f.write_str("OnionAddress(..)")
    }
}

impl std::fmt::Display for OnionAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.letters())?;
        f.write_str(SUFFIX)
    }
}

impl OnionAddress {
    /// Of a key; `None`: it is none.
    pub fn of(key: [u8; 32]) -> Option<Self> {
        let point = VerifyingKey::from_bytes(&key).ok()?;
        (!point.is_weak()).then_some(Self(key))
    }

    /// The service's Ed25519 key.
    pub const fn key(&self) -> &[u8; 32] {
        &self.0
    }

    /// The address without `.onion`.
    pub fn letters(&self) -> String {
        let [first, second] = self.checksum();
        let mut bytes = self.0.to_vec();
        bytes.extend([first, second, VERSION]);
        BASE32_NOPAD.encode(&bytes).to_ascii_lowercase()
    }

    /// From [`OnionAddress::letters`]; `None`: a letter is wrong, or it is of another version.
    pub fn from_letters(letters: &str) -> Option<Self> {
        if letters.len() != LETTERS {
            return None;
        }
        let bytes = BASE32_NOPAD.decode(letters.to_ascii_uppercase().as_bytes()).ok()?;
        let (key, rest) = bytes.split_first_chunk::<32>()?;
        let address = Self::of(*key)?;
        let [first, second] = address.checksum();
        (rest == [first, second, VERSION]).then_some(address)
    }

    /// From a host name that ends in `.onion`.
    pub fn from_host(host: &str) -> Option<Self> {
        let (letters, suffix) = host.split_at_checked(host.len().checked_sub(SUFFIX.len())?)?;
        suffix.eq_ignore_ascii_case(SUFFIX).then(|| Self::from_letters(letters)).flatten()
    }

    /// Whether a host name can only be that of an onion service, a good one or not.
    pub fn is_onion_host(host: &str) -> bool {
        // With a dot at its end it is the same name.
        let host = host.trim_end_matches('.');
        host.len() >= SUFFIX.len()
            && host.get(host.len() - SUFFIX.len()..).is_some_and(|end| end.eq_ignore_ascii_case(SUFFIX))
    }

    fn checksum(&self) -> [u8; 2] {
        let hash =
            Sha3_256::new().chain_update(CHECKSUM_CONTEXT).chain_update(self.0).chain_update([VERSION]);
        let hash: [u8; 32] = hash.finalize().into();
        let [first, second, ..] = hash;
        [first, second]
    }
}

/// The secret of an own onion service: an Ed25519 seed (RFC 8032), of which the service's key is made.
#[derive(Clone, Debug)]
pub struct OnionSecret(Key);

impl OnionSecret {
    /// A new one.
    pub fn generate(rng: &mut Rng) -> Self {
        Self(Key::new(rng.bytes()))
    }

    /// From what was kept.
    pub const fn from_seed(seed: Key) -> Self {
        Self(seed)
    }

    /// What to keep.
    pub const fn seed(&self) -> &Key {
        &self.0
    }

    /// The service's address.
    pub fn address(&self) -> OnionAddress {
        OnionAddress(SigningKey::from_bytes(self.0.expose()).verifying_key().to_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Addresses that the Tor Project publishes (its own web site, and DuckDuckGo's service).
    const KNOWN: [&str; 2] = [
        "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion",
        "duckduckgogg42xjoc72x3sjasowoarfbgcmvfimaftt6twagswzczad.onion",
    ];

    #[test]
    fn addresses_that_others_made_are_read() {
        for host in KNOWN {
            let address = OnionAddress::from_host(host).unwrap();
            assert_eq!(address.to_string(), host);
            assert_eq!(OnionAddress::from_host(&host.to_uppercase()), Some(address));
        }
    }

    #[test]
    fn every_wrong_letter_is_noticed() {
        let [host, _] = KNOWN;
        for at in 0..LETTERS {
            let mut wrong = host.as_bytes().to_vec();
            wrong[at] = if wrong[at] == b'a' { b'b' } else { b'a' };
            assert_eq!(OnionAddress::from_host(std::str::from_utf8(&wrong).unwrap()), None, "{at}");
        }
        for bad in
            ["", ".onion", "x.onion", &host[1..], &host[..LETTERS], "ä.onion", "expyuzz4wqqyqhjn.onion"]
        {
            assert_eq!(OnionAddress::from_host(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn anything_is_read_or_refused(host in ".{0,80}") {
            if let Some(address) = OnionAddress::from_host(&host) {
                prop_assert_eq!(address.to_string(), host.to_ascii_lowercase());
            }
        }

        #[test]
        fn a_made_address_is_read_again(seed: [u8; 32]) {
            let address = OnionSecret::generate(&mut crate::rng::Rng::from_seed(seed)).address();
            prop_assert_eq!(OnionAddress::from_host(&address.to_string()), Some(address));
            prop_assert_eq!(OnionAddress::of(*address.key()), Some(address));
        }
    }
}
