//! Messages of a link's control stream: `type 1 | len 4 | body`. Format: `docs/protocol/link.md`.

use crate::entry::{Eid, Entry};
use kith_crypto::cert::{Address, MAX_CERT_LEN};
use kith_crypto::codec::{DecodeError, Reader, Writer};
use kith_crypto::content::{Root, VerifyCap};
use kith_crypto::ratchet::{KEM_KEY_LEN, KEM_TEXT_LEN, KemKey, KemText, Proof};
use kith_crypto::secret::Key;

/// Bytes before a message's body.
pub const MESSAGE_HEAD: usize = 5;
/// Replies of the catalogue are padded to multiples of this.
pub const DELTA_UNIT: usize = 16 * 1024;
/// Largest catalogue reply; more follows on the next pull.
pub const MAX_DELTA: usize = 16 * DELTA_UNIT;
const ADDRS_CONTEXT: &[u8] = b"kith addresses v1";

/// Which half of a friend's view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// What the friend itself published.
    Own,
    /// What the friend's friends published for friends of friends.
    Relayed,
}

impl Part {
    /// Both parts.
    pub const BOTH: [Part; 2] = [Part::Own, Part::Relayed];

    /// Number on the wire.
    pub const fn number(self) -> u8 {
        match self {
            Self::Own => 0,
            Self::Relayed => 1,
        }
    }

    /// The part with this number.
    pub const fn from_number(n: u8) -> Option<Self> {
        match n {
            0 => Some(Self::Own),
            1 => Some(Self::Relayed),
            _ => None,
        }
    }
}

/// One change of a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ViewOp {
    /// An entry is there, or has this new form.
    Add(Eid, Entry),
    /// The entry is gone.
    Del(Eid),
}

/// A page of changes of one part of a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// Which part.
    pub part: Part,
    /// Names the log that `upto` counts in.
    pub log: u64,
    /// Position after this page.
    pub upto: u64,
    /// The page starts a whole new view: what is not in it (and the pages after) is gone.
    pub restart: bool,
    /// More pages follow at once.
    pub more: bool,
    /// Milliseconds until the sender's next batch of relayed entries.
    pub next_batch_ms: u32,
    /// Length of the sender's batches in milliseconds.
    pub batch_ms: u32,
    /// The changes, in order.
    pub ops: Vec<ViewOp>,
}

/// A control message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// First message of each side on each link; nothing else is acted on before it.
    Hello {
        /// Feature bits of later releases; unknown ones are ignored.
        features: u64,
        /// The sender's wall clock.
        unix_ms: u64,
    },
    /// The sender's current addresses, signed; the highest `seq` counts.
    Addresses {
        /// Increases with each announcement.
        seq: u64,
        /// Where the sender can be reached now: an encoded list, kept as it was signed, because it
        /// may hold kinds of addresses that this release skips.
        list: Vec<u8>,
        /// Ed25519 over context, seq and list.
        signature: [u8; 64],
    },
    /// Own certificate, on the session of an invite.
    Certificate(Vec<u8>),
    /// The certificate was stored.
    Welcome,
    /// The part of the sender's view has changed.
    Hint,
    /// Asks for changes since a position.
    Pull {
        /// Which part.
        part: Part,
        /// The log that `since` counts in, 0 for none.
        log: u64,
        /// Position up to which the caller knows the log.
        since: u64,
    },
    /// Answer to a pull.
    Delta(Delta),
    /// The sender is going away on purpose; no need to redial at once.
    Goodbye,
    /// Begins an exchange of the post-quantum ratchet.
    Offer(Box<Offer>),
    /// Answers an offer.
    Reply(Box<Reply>),
    /// The side that began has stored the new PSK.
    Confirm(Box<Confirm>),
    /// The side that answered has stored it too.
    Done(Proof),
    /// Asks for an answer at once.
    Ping(u64),
    /// The answer, with the same number.
    Pong(u64),
    /// The sender has new link keys.
    Keys {
        /// Names the pair root that the new one is made from.
        base: [u8; 16],
        /// The sender's certificate with the new keys.
        certificate: Vec<u8>,
    },
    /// The keys are stored: names the pair root that they made.
    KeysKnown([u8; 16]),
    /// The sender may be asked to relay circuits, with this key; it is for the receiver alone.
    OnionKey {
        /// Day that the key is for.
        epoch: u16,
        /// X25519; zeros: the sender relays no circuits (any more).
        key: [u8; 32],
    },
    /// Asks the receiver to keep a copy of an object.
    MirrorOffer(Box<MirrorOffer>),
    /// How a copy stands that was asked for.
    MirrorAnswer {
        /// Of which object.
        root: Root,
        /// How it stands.
        state: MirrorState,
        /// Bytes that the sender still keeps for the receiver.
        room: u64,
    },
    /// A copy is to end, or has ended.
    MirrorEnd(Root),
    /// For each hour of a day (UTC) how often the sender is on line, of 255.
    Hours([u8; 24]),
}

/// See [`Control::MirrorOffer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorOffer {
    /// Checks and gives blocks; does not read.
    pub cap: VerifyCap,
    /// The object has at most two to the power of this bytes.
    pub size_class: u8,
    /// Day since 1970 after which the copy need not be kept.
    pub expires_day: u32,
    /// It may be given to those who ask through circuits.
    pub travels: bool,
}

/// How a copy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MirrorState {
    /// It is not kept.
    Refused,
    /// It is being fetched.
    Taken,
    /// It is whole.
    Whole,
}

/// Counters of a direction as one side knows them; they count after a recovery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Highest counter that the sender accepted from the receiver.
    pub accepted: u64,
    /// Highest counter that the sender has used towards the receiver.
    pub used: u64,
}

/// See [`Control::Offer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The generation to be made.
    pub generation: u32,
    /// The sender's counters.
    pub counters: Counters,
    /// Proof of a PSK from an exchange whose end the sender has not seen; zeros for none.
    pub have: Proof,
    /// Encapsulation key.
    pub key: KemKey,
}

/// See [`Control::Reply`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The generation that is made: the offered one, or a later one after a recovery.
    pub generation: u32,
    /// The sender's counters.
    pub counters: Counters,
    /// Encapsulation key.
    pub key: KemKey,
    /// Ciphertext for the offered key.
    pub text: KemText,
}

/// See [`Control::Confirm`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirm {
    /// Ciphertext for the replied key.
    pub text: KemText,
    /// Proof of the new PSK.
    pub proof: Proof,
}

const COUNTERS_LEN: usize = 16;

/// What addresses are signed as.
pub fn addresses_to_sign(seq: u64, list: &[u8]) -> Vec<u8> {
    let mut w = Writer::new();
    w.raw(ADDRS_CONTEXT).u64(seq).raw(list);
    w.into_bytes()
}

/// The encoded form of a list of addresses.
pub fn encode_addresses(addrs: &[Address]) -> Vec<u8> {
    let mut w = Writer::new();
    Address::encode_list(addrs, &mut w);
    w.into_bytes()
}

impl Control {
    // Registry of types: 1 hello, 2 addresses, 3 certificate, 4 welcome, 5 hint, 6 pull, 7 delta,
    // 8 goodbye, 9 offer, 10 reply, 11 confirm, 12 done, 13 ping, 14 pong,
    // 15 keys, 16 keys known, 17 onion key, 18 mirror offer, 19 mirror answer, 20 mirror end,
    // 21 hours.
    const fn number(&self) -> u8 {
        match self {
            Self::Hello { .. } => 1,
            Self::Addresses { .. } => 2,
            Self::Certificate(_) => 3,
            Self::Welcome => 4,
            Self::Hint => 5,
            Self::Pull { .. } => 6,
            Self::Delta(_) => 7,
            Self::Goodbye => 8,
            Self::Offer(_) => 9,
            Self::Reply(_) => 10,
            Self::Confirm(_) => 11,
            Self::Done(_) => 12,
            Self::Ping(_) => 13,
            Self::Pong(_) => 14,
            Self::Keys { .. } => 15,
            Self::KeysKnown(_) => 16,
            Self::OnionKey { .. } => 17,
            Self::MirrorOffer(_) => 18,
            Self::MirrorAnswer { .. } => 19,
            Self::MirrorEnd(_) => 20,
            Self::Hours(_) => 21,
        }
    }

    /// Largest body of a message type; `None` for unknown types, which close the link.
    pub const fn max_len(number: u8) -> Option<usize> {
        Some(match number {
            1 => 16,
            2 => 2048,
            3 => MAX_CERT_LEN + 2,
            4 | 5 | 8 => 0,
            6 => 17,
            7 => MAX_DELTA,
            9 => 4 + COUNTERS_LEN + 16 + KEM_KEY_LEN,
            10 => 4 + COUNTERS_LEN + KEM_KEY_LEN + KEM_TEXT_LEN,
            11 => KEM_TEXT_LEN + 16,
            12 => 16,
            13 | 14 => 8,
            15 => 16 + MAX_CERT_LEN + 2,
            16 => 16,
            17 => 34,
            18 => 70,
            19 => 41,
            20 => 32,
            21 => 24,
            _ => return None,
        })
    }

    /// The whole message with its head.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        match self {
            Self::Hello { features, unix_ms } => {
                w.u64(*features).u64(*unix_ms);
            }
            Self::Addresses { seq, list, signature } => {
                w.u64(*seq).raw(list).raw(signature);
            }
            Self::Certificate(cert) => {
                w.bytes16(cert);
            }
            Self::Welcome | Self::Hint | Self::Goodbye => {}
            Self::Pull { part, log, since } => {
                w.u8(part.number()).u64(*log).u64(*since);
            }
            Self::Delta(delta) => delta.encode(&mut w),
            Self::Offer(o) => {
                o.counters.encode(w.u32(o.generation));
                w.raw(&o.have).raw(&o.key);
            }
            Self::Reply(o) => {
                o.counters.encode(w.u32(o.generation));
                w.raw(&o.key).raw(&o.text);
            }
            Self::Confirm(o) => {
                w.raw(&o.text).raw(&o.proof);
            }
            Self::Done(proof) => {
                w.raw(proof);
            }
            Self::Ping(n) | Self::Pong(n) => {
                w.u64(*n);
            }
            Self::Keys { base, certificate } => {
                w.raw(base).bytes16(certificate);
            }
            Self::KeysKnown(root) => {
                w.raw(root);
            }
            Self::OnionKey { epoch, key } => {
                w.u16(*epoch).raw(key);
            }
            Self::MirrorOffer(offer) => {
                w.raw(&offer.cap.root.0).raw(offer.cap.tree.expose()).u8(offer.size_class);
                w.u32(offer.expires_day).u8(u8::from(offer.travels));
            }
            Self::MirrorAnswer { root, state, room } => {
                w.raw(&root.0).u8(*state as u8).u64(*room);
            }
            Self::MirrorEnd(root) => {
                w.raw(&root.0);
            }
            Self::Hours(hours) => {
                w.raw(hours);
            }
        }
        let mut message = Writer::new();
        message.u8(self.number()).u32(w.len() as u32).raw(w.as_bytes());
        message.into_bytes()
    }

    /// Reads the body of a message of type `number`.
    pub fn decode(number: u8, body: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(body);
        let message = match number {
            1 => Self::Hello { features: r.u64()?, unix_ms: r.u64()? },
            2 => {
                let seq = r.u64()?;
                let start = r.at();
                Address::decode_list(&mut r)?;
                let list = body.get(start..r.at()).unwrap_or_default().to_vec();
                Self::Addresses { seq, list, signature: r.array()? }
            }
            3 => Self::Certificate(r.bytes16(MAX_CERT_LEN, "certificate")?.to_vec()),
            4 => Self::Welcome,
            5 => Self::Hint,
            6 => Self::Pull { part: read_part(&mut r)?, log: r.u64()?, since: r.u64()? },
            7 => Self::Delta(Delta::decode(&mut r)?),
            8 => Self::Goodbye,
            9 => Self::Offer(Box::new(Offer {
                generation: r.u32()?,
                counters: Counters::decode(&mut r)?,
                have: r.array()?,
                key: r.array()?,
            })),
            10 => Self::Reply(Box::new(Reply {
                generation: r.u32()?,
                counters: Counters::decode(&mut r)?,
                key: r.array()?,
                text: r.array()?,
            })),
            11 => Self::Confirm(Box::new(Confirm { text: r.array()?, proof: r.array()? })),
            12 => Self::Done(r.array()?),
            13 => Self::Ping(r.u64()?),
            14 => Self::Pong(r.u64()?),
            15 => {
                Self::Keys { base: r.array()?, certificate: r.bytes16(MAX_CERT_LEN, "certificate")?.to_vec() }
            }
            16 => Self::KeysKnown(r.array()?),
            17 => Self::OnionKey { epoch: r.u16()?, key: r.array()? },
            18 => Self::MirrorOffer(Box::new(MirrorOffer {
                cap: VerifyCap { root: Root(r.array()?), tree: Key::new(r.array()?) },
                size_class: r.u8()?,
                expires_day: r.u32()?,
                travels: r.flag("travels")?,
            })),
            19 => Self::MirrorAnswer {
                root: Root(r.array()?),
                state: match r.u8()? {
                    0 => MirrorState::Refused,
                    1 => MirrorState::Taken,
                    2 => MirrorState::Whole,
                    _ => return Err(r.invalid("state of a mirror")),
                },
                room: r.u64()?,
            },
            20 => Self::MirrorEnd(Root(r.array()?)),
            21 => Self::Hours(r.array()?),
            _ => return Err(r.invalid("message type")),
        };
        r.finish()?;
        Ok(message)
    }
}

impl Counters {
    fn encode(self, w: &mut Writer) {
        w.u64(self.accepted).u64(self.used);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { accepted: r.u64()?, used: r.u64()? })
    }
}

fn read_part(r: &mut Reader<'_>) -> Result<Part, DecodeError> {
    let bad = r.invalid("part");
    Part::from_number(r.u8()?).ok_or(bad)
}

impl Delta {
    fn encode(&self, w: &mut Writer) {
        w.u8(self.part.number()).u64(self.log).u64(self.upto);
        w.u8(u8::from(self.restart)).u8(u8::from(self.more)).u32(self.next_batch_ms).u32(self.batch_ms);
        w.u16(self.ops.len() as u16);
        for op in &self.ops {
            match op {
                ViewOp::Add(eid, entry) => w.u8(1).raw(&eid.0).bytes16(&entry.encode()),
                ViewOp::Del(eid) => w.u8(2).raw(&eid.0),
            };
        }
        let padded = w.len().div_ceil(DELTA_UNIT) * DELTA_UNIT;
        w.pad_to(padded);
    }

    /// Bytes that a page's fixed part takes.
    pub const FIXED_LEN: usize = 29;
    /// Bytes that one change takes at most.
    pub const MAX_OP_LEN: usize = 11 + crate::entry::MAX_ENTRY_LEN;

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let part = read_part(r)?;
        let (log, upto) = (r.u64()?, r.u64()?);
        let (restart, more) = (r.flag("restart")?, r.flag("more")?);
        let (next_batch_ms, batch_ms) = (r.u32()?, r.u32()?);
        let count = usize::from(r.u16()?);
        // Every change takes at least 9 bytes, so the page itself bounds what is reserved.
        let mut ops = Vec::with_capacity(count.min(r.remaining().len() / 9));
        for _ in 0..count {
            let bad = r.invalid("change");
            ops.push(match r.u8()? {
                1 => {
                    let eid = Eid(r.array()?);
                    let at = r.at();
                    let bytes = r.bytes16(crate::entry::MAX_ENTRY_LEN, "entry")?;
                    let entry =
                        Entry::decode(bytes).map_err(|_| DecodeError::Invalid { at, what: "entry" })?;
                    ViewOp::Add(eid, entry)
                }
                2 => ViewOp::Del(Eid(r.array()?)),
                _ => return Err(bad),
            });
        }
        let used = r.at();
        r.zeros()?;
        let padding = r.remaining().len();
        if !(used + padding).is_multiple_of(DELTA_UNIT) || padding >= DELTA_UNIT {
            return Err(DecodeError::Invalid { at: used, what: "padding" });
        }
        r.take(padding)?;
        Ok(Self { part, log, upto, restart, more, next_batch_ms, batch_ms, ops })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(message: &Control) {
        let bytes = message.encode();
        let len = u32::from_le_bytes(bytes[1..5].try_into().unwrap()) as usize;
        assert_eq!(len, bytes.len() - MESSAGE_HEAD);
        assert!(len <= Control::max_len(bytes[0]).unwrap());
        assert_eq!(Control::decode(bytes[0], &bytes[5..]).as_ref(), Ok(message));
    }

    #[test]
    fn every_message_round_trips() {
        round_trip(&Control::Hello { features: 3, unix_ms: 9 });
        let list = encode_addresses(&[Address::Ip("127.0.0.1:9".parse().unwrap())]);
        round_trip(&Control::Addresses { seq: 1, list, signature: [7; 64] });
        // A kind of a later release is skipped and stays under the signature.
        let list = [1, 4, 4, 9, 9, 1, 0].to_vec();
        round_trip(&Control::Addresses { seq: 1, list, signature: [7; 64] });
        round_trip(&Control::Certificate(vec![1, 2, 3]));
        round_trip(&Control::Welcome);
        round_trip(&Control::Hint);
        round_trip(&Control::Goodbye);
        let counters = Counters { accepted: 7, used: 9 };
        let (key, text) = ([3; KEM_KEY_LEN], [4; KEM_TEXT_LEN]);
        round_trip(&Control::Offer(Box::new(Offer { generation: 2, counters, have: [5; 16], key })));
        round_trip(&Control::Reply(Box::new(Reply { generation: 2, counters, key, text })));
        round_trip(&Control::Confirm(Box::new(Confirm { text, proof: [6; 16] })));
        round_trip(&Control::Done([7; 16]));
        round_trip(&Control::Ping(8));
        round_trip(&Control::Pong(8));
        round_trip(&Control::Keys { base: [1; 16], certificate: vec![2; 9] });
        round_trip(&Control::KeysKnown([1; 16]));
        round_trip(&Control::OnionKey { epoch: 3, key: [4; 32] });
        round_trip(&Control::Pull { part: Part::Relayed, log: 5, since: 6 });
        let ops = vec![ViewOp::Del(Eid([1; 8])), ViewOp::Add(Eid([2; 8]), Entry::sample())];
        let delta = Delta {
            part: Part::Own,
            log: 1,
            upto: 2,
            restart: true,
            more: false,
            next_batch_ms: 3,
            batch_ms: 4,
            ops,
        };
        let message = Control::Delta(delta);
        assert_eq!((message.encode().len() - MESSAGE_HEAD) % DELTA_UNIT, 0);
        round_trip(&message);
    }

    proptest! {
        #[test]
        fn arbitrary_bodies_never_panic(number: u8, body in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(message) = Control::decode(number, &body) {
                // One value has one encoding.
                prop_assert_eq!(&message.encode()[5..], &body[..]);
            }
        }
    }
}
