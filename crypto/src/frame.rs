//! The random-looking frame around handshake messages (decision 3). Without the pair's keys no byte
//! of a flight can be told from random. Format: `docs/protocol/link.md`.
//!
//! Flight 1 is `tag 16 | nonce 24 | box(ctr 8, psk_gen 4, body_len 2, flags 2) | box(message, pad)`,
//! flights 2 and 3 are `nonce 24 | box(body_len 2) | box(message, pad)`, bound to the nonce of the
//! flight before. All boxes are XChaCha20-Poly1305 under sub-keys of the direction's wrapper key.

use crate::aead::{self, TAG_LEN};
use crate::codec::{Reader, Writer};
use crate::kdf;
use crate::pair::Direction;
use crate::rng::Rng;

/// Bytes that the callee reads before it knows the rest's length.
pub const HEAD1_LEN: usize = 16 + 24 + 16 + TAG_LEN;
/// Bytes of flight 2's and 3's fixed part.
pub const HEAD2_LEN: usize = 24 + 2 + TAG_LEN;
/// Largest second part of any flight.
pub const MAX_BODY_LEN: usize = 2048;
const MIN_BODY_LEN: usize = 2 + TAG_LEN;
/// Random padding of at most so many bytes hides which handshake a flight belongs to.
const MAX_PAD: u64 = 512;

/// A nonce of a flight.
pub type FlightNonce = [u8; 24];

/// The frame is not one of ours. It never says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotOurs;

/// Opened fixed part of flight 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head1 {
    /// Strictly increasing per direction.
    pub counter: u64,
    /// Generation of the PSK inside.
    pub psk_gen: u32,
    /// What kind of handshake it is, and by which version of the protocol.
    pub flags: Flags,
    /// Bytes that follow.
    pub body_len: usize,
    /// Nonce of this flight.
    pub nonce: FlightNonce,
}

/// The two last bytes of flight 1's fixed part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// A recovery handshake: its PSK is the recovery PSK of the pair.
    pub recover: bool,
    /// Major version of the protocol less one: 0 is version 1. The prologue binds the version too;
    /// this only lets the callee say on its own side why it does not answer.
    pub later: u8,
}

impl Flags {
    const fn to_bytes(self) -> [u8; 2] {
        [self.recover as u8, self.later]
    }

    /// `None`: a bit of this version that has no meaning is set.
    const fn from_bytes([low, later]: [u8; 2]) -> Option<Self> {
        match (low, later) {
            (0, _) => Some(Self { recover: false, later }),
            (1, _) => Some(Self { recover: true, later }),
            // What the bits of a later version mean is not known here.
            (_, 0) => None,
            _ => Some(Self { recover: false, later }),
        }
    }
}

/// The tag at the start of flight 1, before anybody is recognised.
#[derive(Clone, Copy)]
pub struct Claim {
    tag: [u8; 16],
    nonce: FlightNonce,
    boxed: [u8; 32],
}

impl Claim {
    /// Splits the first 72 bytes.
    pub fn read(head: &[u8; HEAD1_LEN]) -> Self {
        let mut claim = Self { tag: [0; 16], nonce: [0; 24], boxed: [0; 32] };
        let fields = claim.tag.iter_mut().chain(&mut claim.nonce).chain(&mut claim.boxed);
        fields.zip(head).for_each(|(o, b)| *o = *b);
        claim
    }

    /// Whether the flight claims to come in this direction: one MAC, compared in constant time.
    pub fn is_from(&self, direction: &Direction) -> bool {
        use subtle::ConstantTimeEq;
        kdf::mac16(&direction.tag, &self.nonce).ct_eq(&self.tag).into()
    }

    /// Opens the fixed part.
    pub fn open(&self, direction: &Direction) -> Result<Head1, NotOurs> {
        let plain =
            aead::open_record(&direction.head, &self.nonce, &self.aad(), &self.boxed).map_err(|_| NotOurs)?;
        let mut r = Reader::new(&plain);
        let mut parse = || Ok((r.u64()?, r.u32()?, r.u16()?, r.array()?));
        let (counter, psk_gen, body_len, flags) = parse().map_err(|_: crate::codec::DecodeError| NotOurs)?;
        let body_len = usize::from(body_len);
        let flags = Flags::from_bytes(flags).ok_or(NotOurs)?;
        if !(MIN_BODY_LEN..=MAX_BODY_LEN).contains(&body_len) {
            return Err(NotOurs);
        }
        Ok(Head1 { counter, psk_gen, flags, body_len, nonce: self.nonce })
    }

    /// Nonce of the flight, to remember against repeats.
    pub const fn nonce(&self) -> &FlightNonce {
        &self.nonce
    }

    fn aad(&self) -> Vec<u8> {
        [self.tag.as_slice(), &self.nonce].concat()
    }
}

fn pad_body(message: &[u8], rng: &mut Rng) -> Vec<u8> {
    let room = (MAX_BODY_LEN - MIN_BODY_LEN).saturating_sub(message.len()) as u64;
    let pad = rng.range(0, MAX_PAD.min(room)) as usize;
    let mut w = Writer::new();
    w.bytes16(message);
    let len = w.len() + pad;
    w.pad_to(len);
    w.into_bytes()
}

fn unpad_body(plain: &[u8]) -> Result<Vec<u8>, NotOurs> {
    Reader::new(plain).bytes16(MAX_BODY_LEN, "message").map(<[u8]>::to_vec).map_err(|_| NotOurs)
}

/// Flight 1 of an ordinary handshake, and its nonce.
pub fn seal_first(
    direction: &Direction,
    counter: u64,
    psk_gen: u32,
    message: &[u8],
    rng: &mut Rng,
) -> (Vec<u8>, FlightNonce) {
    seal_first_as(direction, counter, psk_gen, Flags::default(), message, rng)
}

/// Flight 1 of any kind, and its nonce.
pub fn seal_first_as(
    direction: &Direction,
    counter: u64,
    psk_gen: u32,
    flags: Flags,
    message: &[u8],
    rng: &mut Rng,
) -> (Vec<u8>, FlightNonce) {
    let nonce: FlightNonce = rng.bytes();
    let tag = kdf::mac16(&direction.tag, &nonce);
    let aad = [tag.as_slice(), &nonce].concat();
    let body = aead::seal_record(&direction.body, &nonce, &aad, &pad_body(message, rng));
    let mut head = Writer::new();
    head.u64(counter).u32(psk_gen).u16(body.len() as u16).raw(&flags.to_bytes());
    let head = aead::seal_record(&direction.head, &nonce, &aad, head.as_bytes());
    ([aad.as_slice(), &head, &body].concat(), nonce)
}

/// Opens the second part of flight 1.
pub fn open_first(direction: &Direction, claim: &Claim, body: &[u8]) -> Result<Vec<u8>, NotOurs> {
    let plain = aead::open_record(&direction.body, &claim.nonce, &claim.aad(), body).map_err(|_| NotOurs)?;
    unpad_body(&plain)
}

/// Flight 2 or 3, bound to the nonce of the flight before.
pub fn seal_next(
    direction: &Direction,
    before: &FlightNonce,
    message: &[u8],
    rng: &mut Rng,
) -> (Vec<u8>, FlightNonce) {
    let nonce: FlightNonce = rng.bytes();
    let body = aead::seal_record(&direction.body, &nonce, before, &pad_body(message, rng));
    let head = aead::seal_record(&direction.head, &nonce, before, &(body.len() as u16).to_le_bytes());
    ([nonce.as_slice(), &head, &body].concat(), nonce)
}

/// Opens the fixed part of flight 2 or 3: its nonce and the length of what follows.
pub fn open_next_head(
    direction: &Direction,
    before: &FlightNonce,
    head: &[u8; HEAD2_LEN],
) -> Result<(FlightNonce, usize), NotOurs> {
    let (nonce, boxed) = head.split_first_chunk::<24>().ok_or(NotOurs)?;
    let plain = aead::open_record(&direction.head, nonce, before, boxed).map_err(|_| NotOurs)?;
    let len = usize::from(u16::from_le_bytes(plain.try_into().map_err(|_| NotOurs)?));
    if (MIN_BODY_LEN..=MAX_BODY_LEN).contains(&len) { Ok((*nonce, len)) } else { Err(NotOurs) }
}

/// Opens the second part of flight 2 or 3.
pub fn open_next(
    direction: &Direction,
    before: &FlightNonce,
    nonce: &FlightNonce,
    body: &[u8],
) -> Result<Vec<u8>, NotOurs> {
    unpad_body(&aead::open_record(&direction.body, nonce, before, body).map_err(|_| NotOurs)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pair::PairRoot;
    use crate::secret::Key;

    fn directions() -> (Direction, Direction) {
        let root = PairRoot::from_key(Key::new([9; 32]));
        (root.direction(&[1; 32], &[2; 32]), root.direction(&[2; 32], &[1; 32]))
    }

    #[test]
    fn flights_round_trip() {
        let (there, back) = directions();
        let mut rng = Rng::from_seed([1; 32]);
        let (flight, nonce) = seal_first(&there, 77, 3, b"noise one", &mut rng);
        let (head, body) = flight.split_first_chunk::<HEAD1_LEN>().unwrap();
        let claim = Claim::read(head);
        assert!(claim.is_from(&there) && !claim.is_from(&back));
        let opened = claim.open(&there).unwrap();
        assert_eq!((opened.counter, opened.psk_gen, opened.body_len), (77, 3, body.len()));
        assert_eq!(open_first(&there, &claim, body).unwrap(), b"noise one");

        let (flight, _) = seal_next(&back, &nonce, b"noise two", &mut rng);
        let (head, body) = flight.split_first_chunk::<HEAD2_LEN>().unwrap();
        let (nonce2, len) = open_next_head(&back, &nonce, head).unwrap();
        assert_eq!(len, body.len());
        assert_eq!(open_next(&back, &nonce, &nonce2, body).unwrap(), b"noise two");
        assert!(open_next_head(&back, &[0; 24], head).is_err());
    }

    #[test]
    fn flags_name_recovery_and_later_versions() {
        let (there, _) = directions();
        let mut rng = Rng::from_seed([1; 32]);
        let mut opened = |flags| {
            let (flight, _) = seal_first_as(&there, 1, 0, flags, b"m", &mut rng);
            Claim::read(flight.first_chunk().unwrap()).open(&there).map(|head| head.flags)
        };
        for flags in [
            Flags::default(),
            Flags { recover: true, later: 0 },
            Flags { recover: false, later: 1 },
            Flags { recover: true, later: 255 },
        ] {
            assert_eq!(opened(flags), Ok(flags));
        }
        assert_eq!(Flags::from_bytes([2, 0]), None, "a bit without meaning");
        assert!(Flags::from_bytes([2, 1]).is_some(), "a later version may give it one");
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let (there, _) = directions();
        let (flight, _) = seal_first(&there, 1, 0, b"m", &mut Rng::from_seed([2; 32]));
        for i in 0..flight.len() {
            let mut bad = flight.clone();
            bad[i] ^= 0x80;
            let (head, body) = bad.split_first_chunk::<HEAD1_LEN>().unwrap();
            let claim = Claim::read(head);
            let passed = claim.is_from(&there)
                && claim.open(&there).is_ok()
                && open_first(&there, &claim, body).is_ok();
            assert!(!passed, "byte {i}");
        }
    }

    #[test]
    fn flights_look_random() {
        // 2,000 flights: every bit position of the fixed part is set in about half of them.
        let (there, _) = directions();
        let mut rng = Rng::from_seed([3; 32]);
        let mut ones = [0_u32; HEAD1_LEN * 8];
        for counter in 0..2_000 {
            let (flight, _) = seal_first(&there, counter, 0, &[0; 48], &mut rng);
            for (i, count) in ones.iter_mut().enumerate() {
                *count += u32::from(flight[i / 8] >> (i % 8) & 1);
            }
        }
        // Six standard deviations (sqrt(2000)/2 = 22.4) around 1000: a fixed bit would give 0 or 2000.
        assert!(ones.iter().all(|n| (866..=1134).contains(n)));
    }
}
