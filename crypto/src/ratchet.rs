//! The post-quantum ratchet of a friendship: two ML-KEM-768 encapsulations (FIPS 203), one in each
//! direction, mixed into the PSK of the next links (decision 8). Format: `docs/protocol/ratchet.md`.
//!
//! `psk' = KDF(psk, ss_a, ss_b, handshake hash, transcript, generation)`: who records links today
//! and breaks X25519 later still lacks the encapsulated secrets, and who breaks ML-KEM still lacks
//! the old PSK and the session that carried the exchange. Both sides prove that they have psk'
//! before either uses it. The messages travel inside a Noise session; this module does not send.

use crate::kdf::{self, Label};
use crate::rng::Rng;
use crate::secret::Key;
use ml_kem::kem::{Decapsulate, KeyExport};
use ml_kem::{B32, MlKem768, Seed};
use subtle::ConstantTimeEq;

type SecretKey = ml_kem::DecapsulationKey<MlKem768>;
type PublicKey = ml_kem::EncapsulationKey<MlKem768>;

/// Bytes of an encapsulation key.
pub const KEM_KEY_LEN: usize = 1184;
/// Bytes of a ciphertext.
pub const KEM_TEXT_LEN: usize = 1088;

/// An encapsulation key on the wire.
pub type KemKey = [u8; KEM_KEY_LEN];
/// A ciphertext on the wire.
pub type KemText = [u8; KEM_TEXT_LEN];
/// Proves that its sender has the new PSK.
pub type Proof = [u8; 16];

/// The exchange failed: a key that is none, or a proof that does not fit. It never says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExchangeFailed;

/// What an exchange stands on: the PSK that it continues and the session that carries it.
#[derive(Clone, Debug)]
pub struct Base {
    /// The PSK of the present generation, or the recovery PSK.
    pub psk: Key,
    /// Handshake hash of the session that carries the exchange (Noise, section 11.2).
    pub hash: [u8; 32],
    /// The generation that the exchange makes.
    pub generation: u32,
}

fn secret_key(rng: &mut Rng) -> SecretKey {
    SecretKey::from_seed(Seed::from(rng.bytes::<64>()))
}

fn public_key(key: &SecretKey) -> Result<KemKey, ExchangeFailed> {
    key.encapsulation_key().to_bytes().as_slice().try_into().map_err(|_| ExchangeFailed)
}

/// A fresh shared secret for the holder of `key` (FIPS 203, section 7.2, with its input check).
fn encapsulate(key: &KemKey, rng: &mut Rng) -> Result<(KemText, Key), ExchangeFailed> {
    let encoded = key.as_slice().try_into().map_err(|_| ExchangeFailed)?;
    let key = PublicKey::new(&encoded).map_err(|_| ExchangeFailed)?;
    let (text, shared) = key.encapsulate_deterministic(&B32::from(rng.bytes::<32>()));
    Ok((text.as_slice().try_into().map_err(|_| ExchangeFailed)?, Key::new(shared.into())))
}

/// The shared secret in `text`; a wrong text gives a secret that nobody else has (implicit rejection).
fn decapsulate(key: &SecretKey, text: &KemText) -> Result<Key, ExchangeFailed> {
    let text = text.as_slice().try_into().map_err(|_| ExchangeFailed)?;
    Ok(Key::new(key.decapsulate(&text).into()))
}

fn next_psk(base: &Base, first: &Key, second: &Key, transcript: &[&[u8]]) -> Key {
    let transcript = kdf::derive(Label::RATCHET_TRANSCRIPT, transcript);
    let generation = base.generation.to_le_bytes();
    let parts: [&[u8]; 6] =
        [base.psk.expose(), first.expose(), second.expose(), &base.hash, transcript.expose(), &generation];
    kdf::derive(Label::RATCHET_PSK, &parts)
}

/// Proof of the side that began the exchange.
pub fn proof_of_first(psk: &Key) -> Proof {
    kdf::mac16(&kdf::derive(Label::RATCHET_PROOF, &[psk.expose()]), b"first")
}

/// Proof of the side that answered it.
pub fn proof_of_second(psk: &Key) -> Proof {
    kdf::mac16(&kdf::derive(Label::RATCHET_PROOF, &[psk.expose()]), b"second")
}

/// Whether a proof is the expected one, in constant time.
pub fn proves(expected: &Proof, given: &Proof) -> bool {
    expected.ct_eq(given).into()
}

/// The side that began: it has sent its key and waits for the other's.
pub struct First {
    secret: Box<SecretKey>,
    key: KemKey,
}

impl std::fmt::Debug for First {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("First(..)")
    }
}

impl First {
    /// Draws a key pair; the key is to be sent.
    pub fn begin(rng: &mut Rng) -> Result<(Self, KemKey), ExchangeFailed> {
        let secret = Box::new(secret_key(rng));
        let key = public_key(&secret)?;
        Ok((Self { secret, key }, key))
    }

    /// The other side has answered with its key and a ciphertext: the new PSK, which is to be
    /// stored before the ciphertext and [`proof_of_first`] are sent.
    pub fn answered(
        self,
        base: &Base,
        their_key: &KemKey,
        text: &KemText,
        rng: &mut Rng,
    ) -> Result<(Key, KemText), ExchangeFailed> {
        let first = decapsulate(&self.secret, text)?;
        let (own_text, second) = encapsulate(their_key, rng)?;
        let psk = next_psk(base, &first, &second, &[&self.key, their_key, text, &own_text]);
        Ok((psk, own_text))
    }
}

/// The side that answered: it has sent its key and a ciphertext.
pub struct Second {
    secret: Box<SecretKey>,
    shared: Key,
    their_key: Box<KemKey>,
    key: KemKey,
    text: KemText,
}

impl std::fmt::Debug for Second {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Second(..)")
    }
}

impl Second {
    /// Answers a key with an own one and a ciphertext, both to be sent.
    pub fn answer(their_key: &KemKey, rng: &mut Rng) -> Result<(Self, KemKey, KemText), ExchangeFailed> {
        let secret = Box::new(secret_key(rng));
        let key = public_key(&secret)?;
        let (text, shared) = encapsulate(their_key, rng)?;
        Ok((Self { secret, shared, their_key: Box::new(*their_key), key, text }, key, text))
    }

    /// The other side has sent its ciphertext and proof: the new PSK, which is to be stored before
    /// [`proof_of_second`] is sent.
    pub fn confirmed(self, base: &Base, text: &KemText, proof: &Proof) -> Result<Key, ExchangeFailed> {
        let second = decapsulate(&self.secret, text)?;
        let transcript: [&[u8]; 4] = [self.their_key.as_slice(), &self.key, &self.text, text];
        let psk = next_psk(base, &self.shared, &second, &transcript);
        if proves(&proof_of_first(&psk), proof) { Ok(psk) } else { Err(ExchangeFailed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(psk: u8) -> Base {
        Base { psk: Key::new([psk; 32]), hash: [2; 32], generation: 1 }
    }

    fn run(
        (a, b): (&Base, &Base),
        spoil: impl Fn(&mut KemKey, &mut KemText, &mut KemText),
    ) -> Result<(Key, Key), ExchangeFailed> {
        let mut rng = Rng::from_seed([4; 32]);
        let (first, key) = First::begin(&mut rng)?;
        let (second, mut their_key, mut text) = Second::answer(&key, &mut rng)?;
        let mut unused = [0; KEM_TEXT_LEN];
        spoil(&mut their_key, &mut text, &mut unused);
        let (psk, mut own_text) = first.answered(a, &their_key, &text, &mut rng)?;
        spoil(&mut [0; KEM_KEY_LEN], &mut unused, &mut own_text);
        let other = second.confirmed(b, &own_text, &proof_of_first(&psk))?;
        Ok((psk, other))
    }

    #[test]
    fn both_sides_get_the_same_new_psk() {
        let (a, b) = run((&base(1), &base(1)), |_, _, _| {}).unwrap();
        assert_eq!(a, b);
        assert_ne!(a, Key::new([1; 32]));
        assert!(proves(&proof_of_second(&a), &proof_of_second(&b)));
        assert!(!proves(&proof_of_first(&a), &proof_of_second(&a)));
    }

    #[test]
    fn another_base_or_a_flipped_bit_gives_no_psk() {
        assert!(run((&base(1), &base(2)), |_, _, _| {}).is_err());
        let other_session = Base { hash: [3; 32], ..base(1) };
        assert!(run((&base(1), &other_session), |_, _, _| {}).is_err());
        let other_generation = Base { generation: 2, ..base(1) };
        assert!(run((&base(1), &other_generation), |_, _, _| {}).is_err());
        let good = base(1);
        assert!(run((&good, &good), |_, text, _| text[7] ^= 1).is_err());
        assert!(run((&good, &good), |_, _, text| text[1087] ^= 0x80).is_err());
        // The key's last 32 bytes are a seed: any value is a key, only another one.
        assert!(run((&good, &good), |key, _, _| key[1183] ^= 1).is_err());
    }

    #[test]
    fn keys_out_of_range_are_refused() {
        // FIPS 203, section 7.2: coefficients of 12 bits at or above q = 3329 are no key.
        assert!(encapsulate(&[0xff; KEM_KEY_LEN], &mut Rng::from_seed([1; 32])).is_err());
    }

    #[test]
    fn secrets_do_not_depend_on_the_other_sides_randomness_alone() {
        let (first, key) = First::begin(&mut Rng::from_seed([1; 32])).unwrap();
        let (_, their_key, text) = Second::answer(&key, &mut Rng::from_seed([2; 32])).unwrap();
        let (one, _) = first.answered(&base(1), &their_key, &text, &mut Rng::from_seed([3; 32])).unwrap();
        let (first, _) = First::begin(&mut Rng::from_seed([1; 32])).unwrap();
        let (two, _) = first.answered(&base(1), &their_key, &text, &mut Rng::from_seed([4; 32])).unwrap();
        assert_ne!(one, two);
    }
}
