//! The onion layer of circuits: how a builder and each relay agree on keys, and what each of them
//! does to a cell's body. Format: `docs/protocol/circuit.md`.
//!
//! One `Noise_NK` handshake per hop gives four keys. A forward cell carries one tag per relay in a
//! stack of six slots; each relay checks the first, takes its layer off the rest, and fills the free
//! slot, so that neither length nor content shows where it stands, and a changed cell dies at the
//! first honest relay. A backward cell gains a layer and a tag at each relay and is checked by the
//! builder alone. No key ever meets a counter twice in one direction, and every counter is implicit:
//! links keep the order of cells, so a replayed, swapped or missing cell fails its tag.
//!
//! Who builds which circuit, and when, belongs to the callers: this module knows no cells but their
//! bodies, no circuit ids and no time.

mod builder;
mod relay;

pub use builder::{HopLayer, Layers, TooManyHops};
pub use relay::RelayLayer;

use crate::aead::TAG_LEN;
use crate::noise::{Handshake, NoiseFailed};
use crate::rng::Rng;
use crate::secret::Key;
use x25519_dalek::{PublicKey, StaticSecret};

/// Slots of the tag stack, and so the most relays that a circuit can have.
pub const MAX_HOPS: usize = 6;
/// Bytes of the tag stack.
pub const STACK_LEN: usize = 96;
/// Bytes behind it.
pub const PAYLOAD_LEN: usize = 3992;
/// Bytes of a relay cell's body: tag stack, payload.
pub const BODY_LEN: usize = STACK_LEN + PAYLOAD_LEN;
/// Bytes of the first handshake message: an X25519 key and a tag.
pub const CREATE_LEN: usize = 48;

/// A relay cell's body.
pub type Body = [u8; BODY_LEN];

// A cell has 4096 bytes, 8 of them for circuit id, command and reserve.
const _: () = assert!(STACK_LEN == MAX_HOPS * TAG_LEN && BODY_LEN == 4096 - 8);

/// The X25519 key of one node towards one friend for one epoch. It is drawn and not derived, so that
/// nothing which is kept opens the circuits of an epoch whose keys are gone.
#[derive(Clone)]
pub struct OnionKey {
    secret: Key,
    public: [u8; 32],
}

impl OnionKey {
    /// A fresh key.
    pub fn generate(rng: &mut Rng) -> Self {
        let secret = Key::new(rng.bytes());
        let public = PublicKey::from(&StaticSecret::from(*secret.expose())).to_bytes();
        Self { secret, public }
    }

    /// What the friend is told.
    pub const fn public(&self) -> &[u8; 32] {
        &self.public
    }
}

impl std::fmt::Debug for OnionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnionKey(..)")
    }
}

/// The builder's side of one CREATE or EXTEND under way.
#[derive(Debug)]
pub struct Building(Handshake);

impl Building {
    /// Starts towards the relay whose onion key of `epoch` is `peer`: message 1.
    pub fn start(
        peer: &[u8; 32],
        epoch: u16,
        rng: &mut Rng,
    ) -> Result<(Self, [u8; CREATE_LEN]), NoiseFailed> {
        let mut noise = Handshake::to_relay(peer, &prologue(epoch), rng)?;
        let message = noise.write(&[])?.try_into().map_err(|_| NoiseFailed)?;
        Ok((Self(noise), message))
    }

    /// Reads the relay's message 2: the layer of that hop, and what the relay put into the message.
    pub fn finish(mut self, message2: &[u8]) -> Result<(HopLayer, Vec<u8>), NoiseFailed> {
        let payload = self.0.read(message2)?;
        let (first, second) = self.0.into_raw_split()?;
        Ok((HopLayer::new(&first, &second), payload))
    }
}

/// A relay's answer to a CREATE: its layer, and message 2 with `payload` inside. It fails if message 1
/// was not made for this key and epoch.
pub fn answer(
    key: &OnionKey,
    epoch: u16,
    message1: &[u8; CREATE_LEN],
    payload: &[u8],
    rng: &mut Rng,
) -> Result<(RelayLayer, Vec<u8>), NoiseFailed> {
    let mut noise = Handshake::as_relay(&key.secret, &prologue(epoch), rng)?;
    noise.read(message1)?;
    let message2 = noise.write(payload)?;
    let (first, second) = noise.into_raw_split()?;
    Ok((RelayLayer::new(&first, &second), message2))
}

/// Both sides name the epoch, so a key that is used past its time fails even if it is still there.
fn prologue(epoch: u16) -> [u8; 17] {
    let [low, high] = epoch.to_le_bytes();
    let mut out = *b"kith circuit v1\0\0";
    let [.., a, b] = &mut out;
    (*a, *b) = (low, high);
    out
}

#[cfg(test)]
mod appearance;

#[cfg(test)]
mod tests {
    use super::*;
    use snow::params::{CipherChoice, DHChoice, HashChoice};
    use snow::resolvers::{CryptoResolver, DefaultResolver};
    use snow::types::{Cipher, Dh, Hash, Random};

    /// A circuit by real handshakes: the builder's layers, and each relay's, guard first.
    pub(super) fn circuit(hops: usize, rng: &mut Rng) -> (Layers, Vec<RelayLayer>) {
        let (mut layers, mut relays) = (Layers::default(), Vec::new());
        for _ in 0..hops {
            let (hop, relay) = hop(rng);
            layers.push(hop).unwrap();
            relays.push(relay);
        }
        (layers, relays)
    }

    pub(super) fn hop(rng: &mut Rng) -> (HopLayer, RelayLayer) {
        let key = OnionKey::generate(rng);
        let (building, message1) = Building::start(key.public(), 7, rng).unwrap();
        let (relay, message2) = answer(&key, 7, &message1, b"", rng).unwrap();
        (building.finish(&message2).unwrap().0, relay)
    }

    /// A body with `payload` and nothing in its stack.
    pub(super) fn body(payload: &[u8; PAYLOAD_LEN]) -> Body {
        let mut body = [0; BODY_LEN];
        body[STACK_LEN..].copy_from_slice(payload);
        body
    }

    fn created(rng: &mut Rng, message: impl Fn(&mut [u8; CREATE_LEN])) -> Result<(), NoiseFailed> {
        let key = OnionKey::generate(rng);
        let (building, mut message1) = Building::start(key.public(), 7, rng)?;
        message(&mut message1);
        let (_, message2) = answer(&key, 7, &message1, b"list", rng)?;
        assert_eq!(building.finish(&message2)?.1, b"list");
        Ok(())
    }

    #[test]
    fn a_relay_answers_what_was_made_for_its_key_and_epoch() {
        let mut rng = Rng::from_seed([1; 32]);
        created(&mut rng, |_| ()).unwrap();
        let (key, other) = (OnionKey::generate(&mut rng), OnionKey::generate(&mut rng));
        let (_, message1) = Building::start(key.public(), 7, &mut rng).unwrap();
        assert!(answer(&key, 7, &message1, b"", &mut rng).is_ok());
        assert!(answer(&key, 8, &message1, b"", &mut rng).is_err());
        assert!(answer(&key, 7 << 8, &message1, b"", &mut rng).is_err());
        assert!(answer(&other, 7, &message1, b"", &mut rng).is_err());
        for bit in 0..CREATE_LEN * 8 {
            // Bit 255 of an X25519 key is ignored by the curve (RFC 7748, section 5), not by the hash.
            assert!(created(&mut rng, |m| m[bit / 8] ^= 1 << (bit % 8)).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_builder_refuses_every_other_answer() {
        let mut rng = Rng::from_seed([2; 32]);
        let key = OnionKey::generate(&mut rng);
        let mut answered = |change: &dyn Fn(&mut Vec<u8>)| {
            let (building, message1) = Building::start(key.public(), 7, &mut rng).unwrap();
            let (_, mut message2) = answer(&key, 7, &message1, b"list", &mut rng).unwrap();
            change(&mut message2);
            building.finish(&message2).map(|(_, payload)| payload)
        };
        assert_eq!(answered(&|_| ()).unwrap(), b"list");
        for bit in 0..(CREATE_LEN + 4) * 8 {
            assert!(answered(&|m| m[bit / 8] ^= 1 << (bit % 8)).is_err(), "bit {bit}");
        }
        for len in 0..CREATE_LEN + 4 {
            assert!(answered(&|m| m.truncate(len)).is_err(), "cut to {len}");
        }
        assert!(answered(&|m| m.push(0)).is_err());
        let (building, _) = Building::start(key.public(), 7, &mut rng).unwrap();
        let (_, message1) = Building::start(key.public(), 7, &mut rng).unwrap();
        let (_, message2) = answer(&key, 7, &message1, b"list", &mut rng).unwrap();
        assert!(building.finish(&message2).is_err(), "the answer to another circuit");
    }

    /// X25519 that does not look at its result. With a `point`, that stands for the fresh key, and what
    /// others compute with it is taken to be zeros.
    #[derive(Default)]
    struct Unchecked {
        point: Option<[u8; 32]>,
        public: [u8; 32],
        secret: Option<StaticSecret>,
    }

    impl Dh for Unchecked {
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
            let secret = StaticSecret::from(<[u8; 32]>::try_from(privkey).unwrap());
            self.public = PublicKey::from(&secret).to_bytes();
            self.secret = Some(secret);
        }
        fn generate(&mut self, _: &mut dyn Random) -> Result<(), snow::Error> {
            match self.point {
                Some(point) => self.public = point,
                None => self.set(&[9; 32]),
            }
            Ok(())
        }
        fn pubkey(&self) -> &[u8] {
            &self.public
        }
        fn privkey(&self) -> &[u8] {
            &[0; 32]
        }
        fn dh(&self, peer: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
            let peer = PublicKey::from(<[u8; 32]>::try_from(&peer[..32]).unwrap());
            let shared = self.secret.as_ref().map_or([0; 32], |s| s.diffie_hellman(&peer).to_bytes());
            out[..32].copy_from_slice(&shared);
            Ok(())
        }
    }

    struct NotRandom;

    impl Random for NotRandom {
        fn try_fill_bytes(&mut self, _: &mut [u8]) -> Result<(), snow::Error> {
            Ok(())
        }
    }

    struct Resolver(Option<[u8; 32]>);

    impl CryptoResolver for Resolver {
        fn resolve_rng(&self) -> Option<Box<dyn Random>> {
            Some(Box::new(NotRandom))
        }
        fn resolve_dh(&self, _: &DHChoice) -> Option<Box<dyn Dh>> {
            Some(Box::new(Unchecked { point: self.0, ..Unchecked::default() }))
        }
        fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
            DefaultResolver.resolve_hash(choice)
        }
        fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
            DefaultResolver.resolve_cipher(choice)
        }
    }

    fn unchecked(point: Option<[u8; 32]>) -> snow::Builder<'static> {
        let name = "Noise_NK_25519_ChaChaPoly_BLAKE2s".parse().unwrap();
        let builder = snow::Builder::with_resolver(name, Box::new(Resolver(point)));
        builder.prologue(b"kith circuit v1\x07\0").unwrap()
    }

    /// The u-coordinates of low order and those that are not reduced, as listed in
    /// <https://cr.yp.to/ecdh.html#validate>. Whoever sends one knows the shared secret, so everything
    /// else in the messages fits; the control shows that without the check they are taken.
    #[test]
    fn points_of_low_order_are_refused() {
        let hex = |text: &str| -> [u8; 32] {
            data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap().try_into().unwrap()
        };
        let points = [
            [0; 32],
            hex("0100000000000000000000000000000000000000000000000000000000000000"),
            hex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
            hex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
            hex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
            hex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
            hex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
        ];
        let mut rng = Rng::from_seed([3; 32]);
        let key = OnionKey::generate(&mut rng);
        let secret = key.secret.expose();
        let mut buf = [0; 128];
        for point in points {
            assert!(Building::start(&point, 7, &mut rng).is_err(), "as a relay's key");

            let liar = unchecked(Some(point)).remote_public_key(&key.public).unwrap();
            let mut forged = [0; CREATE_LEN];
            liar.build_initiator().unwrap().write_message(&[], &mut forged).unwrap();
            assert_eq!(forged[..32], point);
            let control = unchecked(None).local_private_key(secret).unwrap();
            control.build_responder().unwrap().read_message(&forged, &mut buf).unwrap();
            assert!(answer(&key, 7, &forged, b"", &mut rng).is_err(), "as a builder's key");

            let answer_by_liar = |message1: &[u8]| {
                let (mut buf, mut out) = ([0; 128], [0; CREATE_LEN]);
                let liar = unchecked(Some(point)).local_private_key(secret).unwrap();
                let mut liar = liar.build_responder().unwrap();
                liar.read_message(message1, &mut buf).unwrap();
                liar.write_message(&[], &mut out).unwrap();
                out
            };
            let control = unchecked(None).remote_public_key(&key.public).unwrap();
            let mut control = control.build_initiator().unwrap();
            let len = control.write_message(&[], &mut buf).unwrap();
            let forged = answer_by_liar(&buf[..len]);
            control.read_message(&forged, &mut buf).unwrap();
            let (building, message1) = Building::start(key.public(), 7, &mut rng).unwrap();
            assert!(building.finish(&answer_by_liar(&message1)).is_err(), "in the answer");
        }
    }

    #[test]
    fn keys_do_not_print_themselves() {
        let mut rng = Rng::from_seed([4; 32]);
        let key = OnionKey::generate(&mut rng);
        let (building, message1) = Building::start(key.public(), 0, &mut rng).unwrap();
        let (relay, message2) = answer(&key, 0, &message1, b"", &mut rng).unwrap();
        assert_eq!(
            format!("{key:?} {building:?} {relay:?}"),
            "OnionKey(..) Building(Handshake(..)) RelayLayer(..)"
        );
        assert_eq!(format!("{:?}", building.finish(&message2).unwrap().0), "HopLayer(..)");
    }
}
