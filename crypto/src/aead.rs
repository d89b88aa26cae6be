//! Authenticated encryption: ChaCha20-Poly1305 (RFC 8439) for bulk data and XChaCha20-Poly1305
//! (draft-irtf-cfrg-xchacha) for records with random nonces.
//!
//! Both use ring's implementation of the cipher, which is faster than chacha20poly1305 on blocks and
//! on short records; tests check them against that crate byte for byte.

use crate::secret::Key;
use chacha20::cipher::generic_array::GenericArray;
use chacha20::cipher::typenum::U10;
use chacha20::hchacha;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};
use zeroize::Zeroizing;

/// Bytes that sealing adds.
pub const TAG_LEN: usize = 16;
/// Bytes of a random nonce of [`seal_record`].
pub const RECORD_NONCE_LEN: usize = 24;

/// The data was not sealed under this key, nonce and context, or was changed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unauthentic;

impl std::fmt::Display for Unauthentic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("data failed its integrity check")
    }
}

impl std::error::Error for Unauthentic {}

/// A ChaCha20-Poly1305 key for blocks. The caller never uses a nonce for two plaintexts.
pub struct BulkKey(LessSafeKey);

impl BulkKey {
    /// Prepares `key` for use.
    #[allow(clippy::expect_used)] // a 32-byte key always has the length that the cipher asks for
    pub fn new(key: &Key) -> Self {
        let unbound = UnboundKey::new(&CHACHA20_POLY1305, key.expose()).expect("a key has 32 bytes");
        Self(LessSafeKey::new(unbound))
    }

    /// Encrypts `buf` in place and appends the 16-byte tag.
    #[allow(clippy::expect_used)] // ring refuses only inputs of 256 GiB and more
    pub fn seal(&self, nonce: [u8; 12], aad: &[u8], buf: &mut Vec<u8>) {
        buf.reserve_exact(TAG_LEN);
        self.0
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), buf)
            .expect("a block is far below the cipher's limit");
    }

    /// Decrypts `buf` (ciphertext and tag) in place and returns the plaintext part.
    pub fn open<'a>(
        &self,
        nonce: [u8; 12],
        aad: &[u8],
        buf: &'a mut [u8],
    ) -> Result<&'a mut [u8], Unauthentic> {
        self.0
            .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(aad), buf)
            .map_err(|_| Unauthentic)
    }

    /// Encrypts `buf` in place, without associated data, and returns its tag.
    #[allow(clippy::expect_used)] // ring refuses only inputs of 256 GiB and more
    pub(crate) fn seal_detached(&self, nonce: [u8; 12], buf: &mut [u8]) -> Tag {
        self.0
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), buf)
            .expect("a cell is far below the cipher's limit")
    }

    /// Decrypts in place what [`BulkKey::seal_detached`] made. On an error the content of `buf` is
    /// of no use.
    pub(crate) fn open_detached(
        &self,
        nonce: [u8; 12],
        tag: &[u8],
        buf: &mut [u8],
    ) -> Result<(), Unauthentic> {
        let tag = Tag::try_from(tag).map_err(|_| Unauthentic)?;
        self.0
            .open_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), tag, buf, 0..)
            .map(|_| ())
            .map_err(|_| Unauthentic)
    }

    /// Like [`BulkKey::open`], and cuts the tag off `buf`.
    pub fn open_vec(&self, nonce: [u8; 12], aad: &[u8], buf: &mut Vec<u8>) -> Result<(), Unauthentic> {
        let len = self.open(nonce, aad, buf)?.len();
        buf.truncate(len);
        Ok(())
    }
}

impl std::fmt::Debug for BulkKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BulkKey(..)")
    }
}

/// The one-time key and nonce that XChaCha20-Poly1305 seals with: HChaCha20 of the key and the first
/// 16 bytes of the nonce, then four zeros and its last 8.
fn record_cipher(key: &Key, nonce: &[u8; RECORD_NONCE_LEN]) -> (BulkKey, [u8; 12]) {
    let (input, rest) = nonce.split_at(16);
    let sub = Zeroizing::new(<[u8; 32]>::from(hchacha::<U10>(
        key.expose().into(),
        GenericArray::from_slice(input),
    )));
    let mut inner = [0; 12];
    inner.iter_mut().skip(4).zip(rest).for_each(|(to, from)| *to = *from);
    (BulkKey::new(&Key::new(*sub)), inner)
}

/// Seals `plaintext` under a random 24-byte `nonce`: `plaintext.len() + 16` bytes, nonce not included.
pub fn seal_record(key: &Key, nonce: &[u8; RECORD_NONCE_LEN], aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let (cipher, nonce) = record_cipher(key, nonce);
    let mut out = Vec::with_capacity(plaintext.len() + TAG_LEN);
    out.extend_from_slice(plaintext);
    cipher.seal(nonce, aad, &mut out);
    out
}

/// Opens what [`seal_record`] made.
pub fn open_record(
    key: &Key,
    nonce: &[u8; RECORD_NONCE_LEN],
    aad: &[u8],
    sealed: &[u8],
) -> Result<Vec<u8>, Unauthentic> {
    let (cipher, nonce) = record_cipher(key, nonce);
    let mut out = sealed.to_vec();
    cipher.open_vec(nonce, aad, &mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chacha20poly1305::aead::{Aead, KeyInit, Payload};
    use proptest::prelude::*;

    #[test]
    fn bulk_cipher_equals_the_named_crate() {
        let key = Key::new([7; 32]);
        let mut ours = b"the same bytes from two implementations".to_vec();
        let theirs = chacha20poly1305::ChaCha20Poly1305::new(key.expose().into())
            .encrypt(&[3; 12].into(), Payload { msg: &ours, aad: b"aad" })
            .unwrap();
        BulkKey::new(&key).seal([3; 12], b"aad", &mut ours);
        assert_eq!(ours, theirs);
        BulkKey::new(&key).open_vec([3; 12], b"aad", &mut ours).unwrap();
        assert_eq!(ours, b"the same bytes from two implementations");
    }

    #[test]
    fn a_changed_byte_is_refused() {
        let key = Key::new([1; 32]);
        let sealed = seal_record(&key, &[9; 24], b"ctx", b"secret");
        assert_eq!(open_record(&key, &[9; 24], b"ctx", &sealed).unwrap(), b"secret");
        for i in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[i] ^= 1;
            assert_eq!(open_record(&key, &[9; 24], b"ctx", &bad), Err(Unauthentic));
        }
        assert_eq!(open_record(&key, &[9; 24], b"other", &sealed), Err(Unauthentic));
    }

    proptest! {
        #[test]
        fn records_equal_the_named_crate(key: [u8; 32], nonce: [u8; 24], aad: Vec<u8>, msg in proptest::collection::vec(any::<u8>(), 0..600)) {
            let theirs = chacha20poly1305::XChaCha20Poly1305::new(&key.into())
                .encrypt(&nonce.into(), Payload { msg: &msg, aad: &aad })
                .unwrap();
            let key = Key::new(key);
            prop_assert_eq!(seal_record(&key, &nonce, &aad, &msg), theirs.clone());
            prop_assert_eq!(open_record(&key, &nonce, &aad, &theirs), Ok(msg));
        }
    }
}
