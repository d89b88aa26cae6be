//! Noise handshakes and sessions (Noise Protocol Framework, revision 34) through snow.
//!
//! One resolver for all: X25519 with a contributory check (RFC 7748, section 6.1) and randomness
//! from the caller's seed; ChaCha20-Poly1305 by ring; BLAKE2s by snow. A session rekeys each
//! direction by count (section 11.3 of the specification), so both sides agree without messages.
//! The handshake with a relay of a circuit ends in its raw split instead: its cells have their own
//! layers (`crate::circuit`).

use crate::identity::Identity;
use crate::rng::Rng;
use crate::secret::Key;
use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver, RingResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState, TransportState};
use std::sync::Mutex;
use x25519_dalek::{PublicKey, StaticSecret};

/// Bytes that a session adds to each message.
pub const OVERHEAD: usize = 16;
/// Largest Noise message (Noise, section 3).
pub const MAX_MESSAGE_LEN: usize = 65_535;
/// Messages per direction between two rekeys.
const REKEY_AFTER: u64 = 1 << 16;

/// The handshake or session failed. It never says why: a peer must not be able to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoiseFailed;

impl std::fmt::Display for NoiseFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the secure channel failed")
    }
}

impl std::error::Error for NoiseFailed {}

#[derive(Default)]
struct X25519 {
    secret: [u8; 32],
    public: [u8; 32],
}

impl Drop for X25519 {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.secret);
    }
}

impl X25519 {
    fn install(&mut self, secret: [u8; 32]) {
        self.public = PublicKey::from(&StaticSecret::from(secret)).to_bytes();
        self.secret = secret;
    }
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }
    fn pub_len(&self) -> usize {
        32
    }
    fn priv_len(&self) -> usize {
        32
    }
    fn set(&mut self, privkey: &[u8]) {
        if let Ok(secret) = privkey.try_into() {
            self.install(secret);
        }
    }
    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), snow::Error> {
        let mut secret = [0; 32];
        rng.try_fill_bytes(&mut secret)?;
        self.install(secret);
        Ok(())
    }
    fn pubkey(&self) -> &[u8] {
        &self.public
    }
    fn privkey(&self) -> &[u8] {
        &self.secret
    }
    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let peer: [u8; 32] = pubkey.get(..32).and_then(|p| p.try_into().ok()).ok_or(snow::Error::Dh)?;
        let shared = StaticSecret::from(self.secret).diffie_hellman(&PublicKey::from(peer));
        let out = out.get_mut(..32).ok_or(snow::Error::Dh)?;
        if !shared.was_contributory() {
            return Err(snow::Error::Dh);
        }
        out.copy_from_slice(shared.as_bytes());
        Ok(())
    }
}

struct Seeded(Rng);

impl Random for Seeded {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        self.0.fill(dest);
        Ok(())
    }
}

struct Resolver(Mutex<Rng>);

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Seeded(self.0.lock().ok()?.fork())))
    }
    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        matches!(choice, DHChoice::Curve25519).then(|| Box::<X25519>::default() as Box<dyn Dh>)
    }
    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }
    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        RingResolver.resolve_cipher(choice)
    }
}

/// Which handshake, with what it needs.
#[derive(Clone, Copy, Debug)]
pub enum Pattern<'a> {
    /// Between friends: both static keys known (`KKpsk0`).
    Friends {
        /// Own identity.
        me: &'a Identity,
        /// The friend's Noise key.
        peer: &'a [u8; 32],
    },
    /// First contact by invite: static keys are exchanged inside (`XXpsk0`).
    Invite {
        /// Own identity.
        me: &'a Identity,
    },
    /// Inside a tunnel: no static keys, the PSK is the object's (`NNpsk0`).
    Tunnel,
}

/// The handshake with a relay of a circuit: only the relay has a static key, and there is no PSK.
const RELAY: &str = "Noise_NK_25519_ChaChaPoly_BLAKE2s";

fn builder<'a>(name: &str, prologue: &'a [u8], rng: &mut Rng) -> Result<Builder<'a>, NoiseFailed> {
    let params: NoiseParams = name.parse().map_err(|_| NoiseFailed)?;
    let resolver = Box::new(Resolver(Mutex::new(rng.fork())));
    Builder::with_resolver(params, resolver).prologue(prologue).map_err(|_| NoiseFailed)
}

/// A handshake under way.
pub struct Handshake(Box<HandshakeState>);

impl std::fmt::Debug for Handshake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handshake(..)")
    }
}

impl Handshake {
    /// Starts as the side that writes first.
    pub fn initiate(p: Pattern<'_>, psk: &Key, prologue: &[u8], rng: &mut Rng) -> Result<Self, NoiseFailed> {
        Self::start(p, psk, prologue, rng, true)
    }

    /// Starts as the side that reads first.
    pub fn respond(p: Pattern<'_>, psk: &Key, prologue: &[u8], rng: &mut Rng) -> Result<Self, NoiseFailed> {
        Self::start(p, psk, prologue, rng, false)
    }

    fn start(
        pattern: Pattern<'_>,
        psk: &Key,
        prologue: &[u8],
        rng: &mut Rng,
        initiator: bool,
    ) -> Result<Self, NoiseFailed> {
        let name = match pattern {
            Pattern::Friends { .. } => "Noise_KKpsk0_25519_ChaChaPoly_BLAKE2s",
            Pattern::Invite { .. } => "Noise_XXpsk0_25519_ChaChaPoly_BLAKE2s",
            Pattern::Tunnel => "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s",
        };
        let mut builder = builder(name, prologue, rng)?.psk(0, psk.expose()).map_err(|_| NoiseFailed)?;
        if let Pattern::Friends { me, .. } | Pattern::Invite { me } = pattern {
            builder = builder.local_private_key(me.noise().expose()).map_err(|_| NoiseFailed)?;
        }
        if let Pattern::Friends { peer, .. } = pattern {
            builder = builder.remote_public_key(peer).map_err(|_| NoiseFailed)?;
        }
        let built = if initiator { builder.build_initiator() } else { builder.build_responder() };
        built.map(|s| Self(Box::new(s))).map_err(|_| NoiseFailed)
    }

    /// Starts towards a relay that is known by its onion key alone, from a caller without a name.
    pub(crate) fn to_relay(peer: &[u8; 32], prologue: &[u8], rng: &mut Rng) -> Result<Self, NoiseFailed> {
        let builder = builder(RELAY, prologue, rng)?.remote_public_key(peer).map_err(|_| NoiseFailed)?;
        builder.build_initiator().map(|s| Self(Box::new(s))).map_err(|_| NoiseFailed)
    }

    /// Starts as that relay, which reads first.
    pub(crate) fn as_relay(secret: &Key, prologue: &[u8], rng: &mut Rng) -> Result<Self, NoiseFailed> {
        let builder =
            builder(RELAY, prologue, rng)?.local_private_key(secret.expose()).map_err(|_| NoiseFailed)?;
        builder.build_responder().map(|s| Self(Box::new(s))).map_err(|_| NoiseFailed)
    }

    /// The next handshake message, with `payload` inside.
    pub fn write(&mut self, payload: &[u8]) -> Result<Vec<u8>, NoiseFailed> {
        let mut out = vec![0; payload.len() + 160];
        let len = self.0.write_message(payload, &mut out).map_err(|_| NoiseFailed)?;
        out.truncate(len);
        Ok(out)
    }

    /// Reads the peer's next handshake message and returns its payload.
    pub fn read(&mut self, message: &[u8]) -> Result<Vec<u8>, NoiseFailed> {
        let mut out = vec![0; message.len()];
        let len = self.0.read_message(message, &mut out).map_err(|_| NoiseFailed)?;
        out.truncate(len);
        Ok(out)
    }

    /// The peer's static key, once it is known.
    pub fn remote_static(&self) -> Option<[u8; 32]> {
        self.0.get_remote_static()?.try_into().ok()
    }

    /// The handshake hash, the same on both sides once the handshake is over (Noise, section 11.2).
    pub fn hash(&self) -> [u8; 32] {
        let mut out = [0; 32];
        out.iter_mut().zip(self.0.get_handshake_hash()).for_each(|(o, b)| *o = *b);
        out
    }

    /// Ends the handshake in its two keys, the initiator's direction first (Noise, section 5.2, Split).
    /// snow gives them out at any time; before the end they would be keys that nothing authenticated.
    pub(crate) fn into_raw_split(mut self) -> Result<(Key, Key), NoiseFailed> {
        if !self.0.is_handshake_finished() {
            return Err(NoiseFailed);
        }
        let (first, second) = self.0.dangerously_get_raw_split();
        Ok((Key::new(first), Key::new(second)))
    }

    /// Ends the handshake.
    pub fn into_session(self) -> Result<Session, NoiseFailed> {
        if !self.0.is_handshake_finished() {
            return Err(NoiseFailed);
        }
        let state = self.0.into_transport_mode().map_err(|_| NoiseFailed)?;
        Ok(Session { state: Box::new(state), sent: 0, received: 0 })
    }
}

/// An established channel: messages in order, each read exactly once.
pub struct Session {
    state: Box<TransportState>,
    sent: u64,
    received: u64,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Session(..)")
    }
}

impl Session {
    /// Seals `plain` into the front of `out`, which has room for `plain.len() + 16` bytes.
    /// Returns the bytes used.
    pub fn seal(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, NoiseFailed> {
        let len = self.state.write_message(plain, out).map_err(|_| NoiseFailed)?;
        self.sent += 1;
        if self.sent.is_multiple_of(REKEY_AFTER) {
            self.state.rekey_outgoing();
        }
        Ok(len)
    }

    /// Opens the next message into `out`, which is at least as long as `sealed`.
    /// Returns the length of the plaintext.
    pub fn open(&mut self, sealed: &[u8], out: &mut [u8]) -> Result<usize, NoiseFailed> {
        let len = self.state.read_message(sealed, out).map_err(|_| NoiseFailed)?;
        self.received += 1;
        if self.received.is_multiple_of(REKEY_AFTER) {
            self.state.rekey_incoming();
        }
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> (Identity, Identity, Rng) {
        let mut rng = Rng::from_seed([1; 32]);
        (Identity::generate(&mut rng), Identity::generate(&mut rng), rng)
    }

    fn friends(
        a: &Identity,
        b: &Identity,
        psk: (&Key, &Key),
        rng: &mut Rng,
    ) -> Result<(Session, Session), NoiseFailed> {
        let mut i =
            Handshake::initiate(Pattern::Friends { me: a, peer: &b.public().noise }, psk.0, b"p", rng)?;
        let mut r =
            Handshake::respond(Pattern::Friends { me: b, peer: &a.public().noise }, psk.1, b"p", rng)?;
        r.read(&i.write(b"")?)?;
        i.read(&r.write(b"")?)?;
        Ok((i.into_session()?, r.into_session()?))
    }

    #[test]
    fn friends_meet_and_rekey_in_step() {
        let (a, b, mut rng) = ids();
        let psk = Key::new([5; 32]);
        let (mut i, mut r) = friends(&a, &b, (&psk, &psk), &mut rng).unwrap();
        let (mut sealed, mut plain) = ([0; 64], [0; 64]);
        for n in 0..(REKEY_AFTER + 10) {
            let len = i.seal(&n.to_le_bytes(), &mut sealed).unwrap();
            let len = r.open(&sealed[..len], &mut plain).unwrap();
            assert_eq!(plain[..len], n.to_le_bytes());
        }
    }

    #[test]
    fn wrong_psk_or_key_fails_at_the_first_message() {
        let (a, b, mut rng) = ids();
        assert!(friends(&a, &b, (&Key::new([5; 32]), &Key::new([6; 32])), &mut rng).is_err());
        let stranger = Identity::generate(&mut rng);
        let psk = Key::new([5; 32]);
        let p = Pattern::Friends { me: &stranger, peer: &b.public().noise };
        let mut i = Handshake::initiate(p, &psk, b"p", &mut rng).unwrap();
        let p = Pattern::Friends { me: &b, peer: &a.public().noise };
        let mut r = Handshake::respond(p, &psk, b"p", &mut rng).unwrap();
        assert!(r.read(&i.write(b"").unwrap()).is_err());
    }

    #[test]
    fn low_order_ephemerals_are_refused() {
        let (a, b, mut rng) = ids();
        let psk = Key::new([5; 32]);
        let p = Pattern::Friends { me: &b, peer: &a.public().noise };
        let mut r = Handshake::respond(p, &psk, b"p", &mut rng).unwrap();
        assert!(r.read(&[0; 48]).is_err());
    }

    #[test]
    fn invite_handshake_reveals_both_keys() {
        let (a, b, mut rng) = ids();
        let psk = Key::new([7; 32]);
        let mut i = Handshake::initiate(Pattern::Invite { me: &a }, &psk, b"i", &mut rng).unwrap();
        let mut r = Handshake::respond(Pattern::Invite { me: &b }, &psk, b"i", &mut rng).unwrap();
        r.read(&i.write(b"").unwrap()).unwrap();
        i.read(&r.write(b"").unwrap()).unwrap();
        r.read(&i.write(b"").unwrap()).unwrap();
        assert_eq!(i.remote_static(), Some(b.public().noise));
        assert_eq!(r.remote_static(), Some(a.public().noise));
        assert!(i.into_session().is_ok() && r.into_session().is_ok());
    }

    #[test]
    fn a_raw_split_needs_a_finished_handshake() {
        let mut rng = Rng::from_seed([9; 32]);
        let secret = Key::new([3; 32]);
        let public = PublicKey::from(&StaticSecret::from(*secret.expose())).to_bytes();
        let both = |rng: &mut Rng| {
            let i = Handshake::to_relay(&public, b"c", rng).unwrap();
            (i, Handshake::as_relay(&secret, b"c", rng).unwrap())
        };
        let (i, r) = both(&mut rng);
        assert!(i.into_raw_split().is_err() && r.into_raw_split().is_err());
        let (mut i, mut r) = both(&mut rng);
        r.read(&i.write(b"").unwrap()).unwrap();
        assert!(i.into_raw_split().is_err() && r.into_raw_split().is_err());
        let (mut i, mut r) = both(&mut rng);
        r.read(&i.write(b"").unwrap()).unwrap();
        i.read(&r.write(b"").unwrap()).unwrap();
        let (i, r) = (i.into_raw_split().unwrap(), r.into_raw_split().unwrap());
        assert!(i == r && i.0 != i.1);
    }

    #[test]
    fn a_seed_replays_a_handshake() {
        let (a, b, _) = ids();
        let psk = Key::new([7; 32]);
        let first = |seed| {
            let mut rng = Rng::from_seed([seed; 32]);
            let p = Pattern::Friends { me: &a, peer: &b.public().noise };
            Handshake::initiate(p, &psk, b"p", &mut rng).unwrap().write(b"").unwrap()
        };
        assert_eq!(first(1), first(1));
        assert_ne!(first(1), first(2));
    }
}
