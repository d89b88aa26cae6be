//! Invites: one line that makes two people friends. Single-use and expiring; the secret in it is
//! the PSK of the first handshake (decision 6). Format: `docs/protocol/friends.md`.

use crate::cert::{self, CertError, Certificate, MAX_CERT_LEN};
use crate::codec::{Reader, Writer};
use crate::identity::Identity;
use crate::secret::Key;

const VERSION: u8 = 1;
const SCHEME: &str = "kith:i1:";
const SIGN_CONTEXT: &[u8] = b"kith invite v1";
/// Largest encoded invite.
pub const MAX_INVITE_LEN: usize = MAX_CERT_LEN + 128;

/// An invite whose signatures are valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invite {
    /// One-time secret.
    pub secret: Key,
    /// Unix seconds.
    pub expires: u32,
    /// Who invites.
    pub inviter: Certificate,
    encoded: Vec<u8>,
}

impl Invite {
    /// Makes and signs an invite.
    pub fn sign(id: &Identity, inviter: Certificate, secret: Key, expires: u32) -> Self {
        let mut w = Writer::new();
        w.u8(VERSION).raw(secret.expose()).u32(expires).bytes16(inviter.encoded());
        let signature = id.sign(&[SIGN_CONTEXT, w.as_bytes()].concat());
        w.raw(&signature);
        Self { secret, expires, inviter, encoded: w.into_bytes() }
    }

    /// Parses strictly and checks both signatures. Expiry is the caller's to judge.
    pub fn decode(bytes: &[u8]) -> Result<Self, CertError> {
        if bytes.len() > MAX_INVITE_LEN {
            return Err(CertError::TooLong);
        }
        let mut r = Reader::new(bytes);
        let version = r.u8()?;
        if version != VERSION {
            return Err(CertError::Version(version));
        }
        let secret = Key::new(r.array()?);
        let expires = r.u32()?;
        let cert_bytes = r.bytes16(MAX_CERT_LEN, "certificate")?;
        let signed = bytes.get(..r.at()).unwrap_or_default();
        let signature = r.array()?;
        r.finish()?;
        let inviter = Certificate::decode(cert_bytes)?;
        if !inviter.keys.verify(&[SIGN_CONTEXT, signed].concat(), &signature) {
            return Err(CertError::Forged);
        }
        Ok(Self { secret, expires, inviter, encoded: bytes.to_vec() })
    }

    /// The signed bytes; they hold the secret.
    pub fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    /// One line of text: `kith:i1:` and base64url.
    pub fn to_text(&self) -> String {
        cert::to_text(SCHEME, &self.encoded)
    }

    /// Reads one line of text.
    pub fn from_text(text: &str) -> Result<Self, CertError> {
        Self::decode(&cert::from_text(SCHEME, text, MAX_INVITE_LEN)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn sample() -> Invite {
        let id = Identity::generate(&mut Rng::from_seed([4; 32]));
        let cert = Certificate::sign(&id, "Bo", &[], 1_000, 9_000).unwrap();
        Invite::sign(&id, cert, Key::new([5; 32]), 5_000)
    }

    #[test]
    fn round_trips_and_refuses_every_change() {
        let invite = sample();
        assert_eq!(Invite::from_text(&invite.to_text()), Ok(invite.clone()));
        let good = invite.encoded.clone();
        for i in 0..good.len() {
            let mut bad = good.clone();
            bad[i] ^= 0x10;
            assert!(Invite::decode(&bad).is_err(), "byte {i}");
            assert!(Invite::decode(&good[..i]).is_err());
        }
        assert!(Invite::from_text(&"kith:i1:AAAA".repeat(100_000)).is_err());
    }

    #[test]
    fn another_identity_cannot_reuse_a_certificate() {
        let invite = sample();
        let thief = Identity::generate(&mut Rng::from_seed([6; 32]));
        let forged = Invite::sign(&thief, invite.inviter, Key::new([7; 32]), 5_000);
        assert_eq!(Invite::decode(&forged.encoded), Err(CertError::Forged));
    }

    #[test]
    fn debug_hides_the_secret() {
        assert!(!format!("{:?}", sample().secret).contains('5'));
    }
}
