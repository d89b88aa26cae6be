//! Cells that make circuits, and what travels inside them between builder and the circuit's end.
//! Format: `docs/protocol/circuit.md`.
//!
//! Relays see `CREATE`, `CREATED` and `RELAY` cells and nothing of what is inside: types, lengths and
//! streams stand in the payload, which only the end of the circuit and the builder can read.

use crate::cell::MAX_TUN_MESSAGE;
use crate::handle::{Handle, LIST_BYTES};
use kith_crypto::circuit::{Body, CREATE_LEN, PAYLOAD_LEN, STACK_LEN};
use kith_crypto::codec::{DecodeError, Reader, Writer};
use std::time::Duration;

/// Bytes of Noise message 2: ephemeral key, sealed list, tag.
pub const CREATED_LEN: usize = 32 + LIST_BYTES + 16;
/// Bytes of a payload's head: `stream 2 | type 1 | flags 1 | len 2 | reserved 2`.
pub const PAYLOAD_HEAD: usize = 8;
/// Bytes that one payload carries.
pub const PAYLOAD_DATA: usize = PAYLOAD_LEN - PAYLOAD_HEAD;
/// Fewest and most relays of an own circuit.
pub const RELAYS: std::ops::RangeInclusive<u8> = 3..=6;
/// Most answers that one request may bring.
pub const MAX_ANSWERS: u8 = 4;
/// Links that a request may spread from the circuit's end.
pub const MAX_SPREAD: u8 = 2;

/// Number of the message that carries records.
const DATA: u8 = 8;

/// A stream of a circuit. 0 is the circuit itself.
pub type StreamId = u16;

/// `CREATE`: `epoch 2 | Noise message 48`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Create {
    /// Day of the onion key.
    pub epoch: u16,
    /// Message 1 of `Noise_NK`.
    pub message: [u8; CREATE_LEN],
}

impl Create {
    /// The front of the cell's body.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u16(self.epoch).raw(&self.message);
        w.into_bytes()
    }

    /// Reads a cell's body.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(body);
        let create = Self { epoch: r.u16()?, message: r.array()? };
        r.zeros()?;
        Ok(create)
    }
}

/// Reads the body of `CREATED`: message 2, always [`CREATED_LEN`] bytes.
pub fn decode_created(body: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut r = Reader::new(body);
    let message = r.take(CREATED_LEN)?.to_vec();
    r.zeros()?;
    Ok(message)
}

/// What builder and end say to each other.
#[derive(Clone, PartialEq, Eq)]
pub enum Relayed {
    /// Builder: make the circuit longer, and answer after exactly so long, whatever came of it.
    Extend {
        /// One of the end's friends.
        handle: Handle,
        /// What the friend is asked.
        create: Create,
        /// When to answer.
        wait: Duration,
    },
    /// End: what came of it. Self, back, not a friend, off line, refused and slow look alike.
    Extended {
        /// Message 2 of the new relay.
        message: Option<Vec<u8>>,
        /// How long the new relay took to answer.
        took: Duration,
    },
    /// Builder: answer after so long.
    Ping(Duration),
    /// End: the answer.
    Pong,
    /// Builder: look for an object near the end. Answers come on this stream and those after it.
    Open {
        /// Locator in the form of the current hour.
        locator: [u8; 16],
        /// Links that the request may spread.
        spread: u8,
        /// Most answers.
        want: u8,
        /// Tells repeats apart.
        nonce: [u8; 16],
        /// First message of the handshake inside (NNpsk0).
        message: Vec<u8>,
    },
    /// End: somebody has it; second message of the handshake inside.
    Opened(Vec<u8>),
    /// End: nobody more answers.
    Refused,
    /// A record of a tunnel.
    Data(Vec<u8>),
    /// The stream is over.
    Close,
    /// Builder: nothing. A circuit that is used has a cell at each tick.
    Idle,
}

impl std::fmt::Debug for Relayed {
    /// What kind it is: locators, nonces and records stay out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Relayed({})", self.number())
    }
}

/// A duration as whole milliseconds in two bytes.
fn millis(time: Duration) -> u16 {
    u16::try_from(time.as_millis()).unwrap_or(u16::MAX)
}

impl Relayed {
    // Registry of types: 1 extend, 2 extended, 3 ping, 4 pong, 5 open, 6 opened, 7 refused, 8 data,
    // 9 close, 10 idle.
    const fn number(&self) -> u8 {
        match self {
            Self::Extend { .. } => 1,
            Self::Extended { .. } => 2,
            Self::Ping(_) => 3,
            Self::Pong => 4,
            Self::Open { .. } => 5,
            Self::Opened(_) => 6,
            Self::Refused => 7,
            Self::Data(_) => DATA,
            Self::Close => 9,
            Self::Idle => 10,
        }
    }

    /// Writes the payload behind the tag stack of a cell's body.
    pub fn write(&self, stream: StreamId, body: &mut Body) {
        let mut w = Writer::new();
        match self {
            Self::Extend { handle, create, wait } => {
                w.raw(&handle.0).u16(millis(*wait)).raw(&create.encode());
            }
            Self::Extended { message, took } => {
                w.u8(u8::from(message.is_some())).u16(millis(*took));
                match message {
                    Some(message) => w.raw(message),
                    None => w.raw(&[0; CREATED_LEN]),
                };
            }
            Self::Ping(wait) => {
                w.u16(millis(*wait));
            }
            Self::Pong | Self::Refused | Self::Close | Self::Idle => {}
            Self::Open { locator, spread, want, nonce, message } => {
                w.raw(locator).u8(*spread).u8(*want).raw(nonce).bytes16(message);
            }
            Self::Opened(message) => {
                w.bytes16(message);
            }
            Self::Data(record) => {
                w.raw(record);
            }
        }
        write_payload(stream, self.number(), w.as_bytes(), body);
    }

    /// Reads the payload of a cell's body.
    pub fn read(body: &Body) -> Result<(StreamId, Self), DecodeError> {
        let payload = body.get(STACK_LEN..).unwrap_or_default();
        let mut r = Reader::new(payload);
        let (stream, number, flags, len, reserved) = (r.u16()?, r.u8()?, r.u8()?, r.u16()?, r.u16()?);
        if flags != 0 || reserved != 0 {
            return Err(DecodeError::Invalid { at: 3, what: "reserved bits" });
        }
        let data = r.take(usize::from(len))?;
        r.zeros()?;
        Ok((stream, Self::decode(number, data)?))
    }

    fn decode(number: u8, data: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(data);
        let wait = |r: &mut Reader<'_>| Ok(Duration::from_millis(r.u16()?.into()));
        let message = match number {
            1 => Self::Extend {
                handle: Handle(r.array()?),
                wait: wait(&mut r)?,
                create: Create { epoch: r.u16()?, message: r.array()? },
            },
            2 => {
                let (good, took) = (r.flag("answer")?, wait(&mut r)?);
                let message = r.take(CREATED_LEN)?;
                if !good && message.iter().any(|b| *b != 0) {
                    return Err(r.invalid("message of a refusal"));
                }
                Self::Extended { message: good.then(|| message.to_vec()), took }
            }
            3 => Self::Ping(wait(&mut r)?),
            4 => Self::Pong,
            5 => {
                let locator = r.array()?;
                let bad = r.invalid("spread or answers");
                let (spread, want) = (r.u8()?, r.u8()?);
                if spread > MAX_SPREAD || !(1..=MAX_ANSWERS).contains(&want) {
                    return Err(bad);
                }
                let nonce = r.array()?;
                let message = r.bytes16(MAX_TUN_MESSAGE, "handshake message")?.to_vec();
                Self::Open { locator, spread, want, nonce, message }
            }
            6 => Self::Opened(r.bytes16(MAX_TUN_MESSAGE, "handshake message")?.to_vec()),
            7 => Self::Refused,
            DATA => Self::Data(r.take(crate::link::TUNNEL_RECORD_LEN)?.to_vec()),
            9 => Self::Close,
            10 => Self::Idle,
            _ => return Err(r.invalid("message type")),
        };
        r.finish()?;
        Ok(message)
    }
}

/// Writes a payload: head, data, zeros.
fn write_payload(stream: StreamId, number: u8, data: &[u8], body: &mut Body) {
    let Some((_, payload)) = body.split_first_chunk_mut::<STACK_LEN>() else { return };
    let Some((head, rest)) = payload.split_first_chunk_mut::<PAYLOAD_HEAD>() else { return };
    let ([s0, s1], [l0, l1]) = (stream.to_le_bytes(), (data.len() as u16).to_le_bytes());
    *head = [s0, s1, number, 0, l0, l1, 0, 0];
    if let Some((to, zeros)) = rest.split_at_mut_checked(data.len()) {
        to.copy_from_slice(data);
        zeros.fill(0);
    }
}

/// Writes a `DATA` payload without a message in between.
pub fn write_record(stream: StreamId, record: &[u8], body: &mut Body) {
    write_payload(stream, DATA, record, body);
}

/// The record of a `DATA` payload, without a copy; `None` for everything else.
pub fn peek_record(body: &Body) -> Option<(StreamId, &[u8])> {
    let (_, payload) = body.split_first_chunk::<STACK_LEN>()?;
    let (head, data) = payload.split_first_chunk::<PAYLOAD_HEAD>()?;
    let [s0, s1, DATA, 0, l0, l1, 0, 0] = *head else { return None };
    let len = usize::from(u16::from_le_bytes([l0, l1]));
    let (record, rest) = data.split_at_checked(len)?;
    (len == crate::link::TUNNEL_RECORD_LEN && rest.iter().all(|b| *b == 0))
        .then_some((u16::from_le_bytes([s0, s1]), record))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kith_crypto::circuit::BODY_LEN;
    use proptest::prelude::*;

    fn samples() -> Vec<Relayed> {
        let create = Create { epoch: 7, message: [3; CREATE_LEN] };
        let wait = Duration::from_millis(1234);
        let message: Vec<u8> = (0..48).collect();
        vec![
            Relayed::Extend { handle: Handle([5; 8]), create, wait },
            Relayed::Extended { message: Some(vec![9; CREATED_LEN]), took: wait },
            Relayed::Extended { message: None, took: Duration::ZERO },
            Relayed::Ping(wait),
            Relayed::Pong,
            Relayed::Open { locator: [1; 16], spread: 2, want: 4, nonce: [2; 16], message: message.clone() },
            Relayed::Opened(message),
            Relayed::Refused,
            Relayed::Data(vec![8; crate::link::TUNNEL_RECORD_LEN]),
            Relayed::Close,
            Relayed::Idle,
        ]
    }

    #[test]
    fn every_message_round_trips() {
        for message in samples() {
            let mut body = [0xEE; BODY_LEN];
            message.write(513, &mut body);
            assert_eq!(Relayed::read(&body), Ok((513, message.clone())));
            let as_record = peek_record(&body);
            match &message {
                Relayed::Data(record) => assert_eq!(as_record, Some((513, record.as_slice()))),
                _ => assert_eq!(as_record, None),
            }
            // What is behind the data is zero, and nothing else is taken.
            *body.last_mut().unwrap() = 1;
            assert!(Relayed::read(&body).is_err());
        }
        let mut body = [0xEE; BODY_LEN];
        let mut other = [0xDD; BODY_LEN];
        let record = vec![8; crate::link::TUNNEL_RECORD_LEN];
        write_record(513, &record, &mut body);
        Relayed::Data(record).write(513, &mut other);
        assert_eq!(body[STACK_LEN..], other[STACK_LEN..]);
        let create = Create { epoch: 9, message: [1; CREATE_LEN] };
        assert_eq!(Create::decode(&create.encode()), Ok(create));
    }

    #[test]
    fn unknown_types_and_bits_are_refused() {
        for number in (0..=255).filter(|n| !(1..=10).contains(n)) {
            let mut body = [0; BODY_LEN];
            write_payload(1, number, &[], &mut body);
            assert!(Relayed::read(&body).is_err());
        }
        for at in [3, 6, 7] {
            let mut body = [0; BODY_LEN];
            Relayed::Pong.write(1, &mut body);
            body[STACK_LEN + at] = 1;
            assert!(Relayed::read(&body).is_err());
        }
    }

    proptest! {
        #[test]
        fn arbitrary_payloads_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1200)) {
            let mut body = [0; BODY_LEN];
            body[STACK_LEN..][..bytes.len()].copy_from_slice(&bytes);
            if let Ok((stream, message)) = Relayed::read(&body) {
                let mut again = [0; BODY_LEN];
                message.write(stream, &mut again);
                prop_assert_eq!(&again[..], &body[..]);
            }
            let _ = Create::decode(&bytes);
            let _ = decode_created(&bytes);
        }
    }
}
