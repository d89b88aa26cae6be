//! Who a node is: a signing key for certificates, an X25519 key for Noise alone, and a second
//! X25519 key for pair secrets (decision 1 of the protocol).

use crate::kdf::{self, Label};
use crate::rng::Rng;
use crate::secret::Key;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use x25519_dalek::{PublicKey, StaticSecret};

/// The public half of an identity.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKeys {
    /// X25519 key of link handshakes.
    pub noise: [u8; 32],
    /// Ed25519 key that signs certificates and announcements; names the friend.
    pub sign: [u8; 32],
    /// X25519 key of pair secrets.
    pub pair: [u8; 32],
}

impl std::fmt::Debug for PublicKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PublicKeys(..)")
    }
}

impl PublicKeys {
    /// Hash of the three keys: what pair secrets and handshakes are bound to.
    pub fn hash(&self) -> [u8; 32] {
        *kdf::derive(Label::IDENTITY, &[&self.noise, &self.sign, &self.pair]).expose()
    }

    /// What two people compare: 25 characters (125 bits) in groups of five. It is that of the signing
    /// key, which signs the two others: it stays the same when link keys are rotated.
    pub fn fingerprint(&self) -> String {
        let full = kdf::derive(Label::FINGERPRINT, &[&self.sign]);
        let text = data_encoding::BASE32_NOPAD.encode(full.expose());
        let chars: Vec<char> = text.chars().take(25).collect();
        chars.chunks(5).map(|group| group.iter().collect::<String>()).collect::<Vec<_>>().join("-")
    }

    /// The same for reading aloud: twelve words (132 bits) of the list of BIP 39, English.
    pub fn fingerprint_words(&self) -> [&'static str; 12] {
        let full = kdf::derive(Label::FINGERPRINT_WORDS, &[&self.sign]);
        let list = bip39::Language::English.word_list();
        let bit = |n: usize| full.expose().get(n / 8).is_some_and(|b| b >> (7 - n % 8) & 1 == 1);
        // Eleven bits a word, highest first; the list has 2048 words.
        std::array::from_fn(|word| {
            let index = (0..11).fold(0, |index, n| index << 1 | usize::from(bit(word * 11 + n)));
            list.get(index).copied().unwrap_or_default()
        })
    }

    /// Whether `signature` is this identity's over `message` (strict verification, RFC 8032).
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        VerifyingKey::from_bytes(&self.sign)
            .is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(signature)).is_ok())
    }
}

/// The private half.
pub struct Identity {
    sign: SigningKey,
    noise: Key,
    pair: Key,
    public: PublicKeys,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity(..)")
    }
}

impl Identity {
    /// Draws a new identity.
    pub fn generate(rng: &mut Rng) -> Self {
        Self::from_secrets([rng.bytes(), rng.bytes(), rng.bytes()])
    }

    /// The identity whose secrets are `[sign, noise, pair]`.
    pub fn from_secrets([sign, noise, pair]: [[u8; 32]; 3]) -> Self {
        let sign = SigningKey::from_bytes(&sign);
        let public_of = |secret: [u8; 32]| PublicKey::from(&StaticSecret::from(secret)).to_bytes();
        let public = PublicKeys {
            noise: public_of(noise),
            sign: sign.verifying_key().to_bytes(),
            pair: public_of(pair),
        };
        Self { sign, noise: Key::new(noise), pair: Key::new(pair), public }
    }

    /// The same person with new link keys: signing key kept, Noise and pair keys drawn anew.
    pub fn rotated(&self, rng: &mut Rng) -> Self {
        Self::from_secrets([self.sign.to_bytes(), rng.bytes(), rng.bytes()])
    }

    /// `[sign, noise, pair]`, for the journal only.
    pub fn secrets(&self) -> [[u8; 32]; 3] {
        [self.sign.to_bytes(), *self.noise.expose(), *self.pair.expose()]
    }

    /// The public half.
    pub const fn public(&self) -> &PublicKeys {
        &self.public
    }

    /// Private key of link handshakes; only the Noise wrapper uses it.
    pub(crate) const fn noise(&self) -> &Key {
        &self.noise
    }

    /// Signs `message`.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.sign.sign(message).to_bytes()
    }

    /// X25519 with a peer's pair key; `None` if the peer's key contributes nothing (RFC 7748, section 6.1).
    pub(crate) fn pair_dh(&self, peer: &[u8; 32]) -> Option<Key> {
        let shared = StaticSecret::from(*self.pair.expose()).diffie_hellman(&PublicKey::from(*peer));
        shared.was_contributory().then(|| Key::new(shared.to_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_and_compares() {
        let a = Identity::generate(&mut Rng::from_seed([1; 32]));
        let signature = a.sign(b"hello");
        assert!(a.public().verify(b"hello", &signature));
        assert!(!a.public().verify(b"hullo", &signature));
        assert_eq!(Identity::from_secrets(a.secrets()).public(), a.public());
        assert_eq!(a.public().fingerprint().len(), 29);
    }

    #[test]
    fn rotation_keeps_the_person_and_changes_the_links() {
        let mut rng = Rng::from_seed([1; 32]);
        let a = Identity::generate(&mut rng);
        let b = a.rotated(&mut rng);
        assert_eq!(a.public().sign, b.public().sign);
        assert_ne!((a.public().noise, a.public().pair), (b.public().noise, b.public().pair));
        assert_eq!(a.public().fingerprint(), b.public().fingerprint());
        assert_ne!(a.public().hash(), b.public().hash());
    }

    #[test]
    fn words_carry_132_bits() {
        let mut seen = std::collections::HashSet::new();
        let mut rng = Rng::from_seed([1; 32]);
        for _ in 0..200 {
            let words = Identity::generate(&mut rng).public().fingerprint_words();
            assert!(words.iter().all(|w| w.len() >= 3 && w.is_ascii()));
            seen.extend(words);
        }
        // 2,400 draws from 2,048 words: about 1,414 different ones.
        assert!(seen.len() > 1_300, "{}", seen.len());
    }

    #[test]
    fn low_order_pair_keys_are_refused() {
        let a = Identity::generate(&mut Rng::from_seed([2; 32]));
        assert!(a.pair_dh(&[0; 32]).is_none());
        let mut one = [0; 32];
        one[0] = 1;
        assert!(a.pair_dh(&one).is_none());
    }
}
