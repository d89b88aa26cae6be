//! The formats of this crate against the annotated files in `tests/vectors/onion`: what stands in
//! them is decoded, encoded again and compared, and everything in `bad-*` is refused.
//! Formats: `docs/protocol/link.md`, `catalogue.md`, `tunnel.md`.

// Helpers of tests fail by panicking; vectors are files.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

#[path = "../../tests/vectors/file.rs"]
mod file;

use file::{Fields, Folder};
use kith_crypto::cert::Address;
use kith_crypto::circuit::{PAYLOAD_LEN, STACK_LEN};
use kith_crypto::codec::DecodeError;
use kith_crypto::content::{Position, Root, SEALED_LEN, VerifyCap};
use kith_crypto::identity::Identity;
use kith_crypto::kdf;
use kith_crypto::noise::{Handshake, Pattern, Session};
use kith_crypto::ratchet::{KEM_KEY_LEN, KEM_TEXT_LEN};
use kith_crypto::rng::Rng;
use kith_crypto::secret::Key;
use kith_onion::cell::{self, BODY_LEN, CELL_LEN, CellRef, Command, TunOpen};
use kith_onion::circuit::{CREATED_LEN, Create, Relayed, decode_created};
use kith_onion::control::{
    Confirm, Control, Counters, Delta, MESSAGE_HEAD, MirrorOffer, MirrorState, Offer, Part, Reply, ViewOp,
    addresses_to_sign, encode_addresses,
};
use kith_onion::entry::{Eid, Entry};
use kith_onion::handle::{Handle, LIST_BYTES, Listed, decode_list, encode_list};
use kith_onion::link::{Link, Outgoing};
use kith_onion::schedule::{Allowance, Flow};
use kith_onion::session::{Assembler, ByteQueue, Have, Message, Want};
use std::time::Duration;

const FOLDER: Folder = Folder("onion");

fn with(bytes: &[u8], at: usize, new: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + new.len()].copy_from_slice(new);
    bytes
}

fn without_end(bytes: &[u8]) -> Vec<u8> {
    bytes[..bytes.len() - 1].to_vec()
}

fn cell(circ: u32, command: Command, front: &[u8]) -> Vec<u8> {
    let mut cell = [0; CELL_LEN];
    cell::begin(&mut cell, circ, command)[..front.len()].copy_from_slice(front);
    cell.to_vec()
}

fn decode_cell(bytes: &[u8]) -> Result<(u32, Command, Vec<u8>), DecodeError> {
    let cell = bytes.try_into().map_err(|_| DecodeError::Truncated { at: bytes.len() })?;
    CellRef::decode(cell).map(|c| (c.circ, c.command, c.body.to_vec()))
}

fn tun_open() -> TunOpen {
    TunOpen {
        locator: [0xa1; 16],
        hops_left: 1,
        sealed: true,
        spreads: false,
        nonce: [0xb2; 16],
        message: (0..48).collect(),
    }
}

/// Checks a cell's file and gives its body.
fn check_cell(
    name: &str,
    about: &str,
    circ: u32,
    command: Command,
    front: &[u8],
    pieces: &[(&str, usize)],
) -> Vec<u8> {
    let head = [("circ", 4), ("command", 1), ("reserved", 3)];
    let pieces: Vec<_> = head.into_iter().chain(pieces.iter().copied()).collect();
    let fields = Fields::new(about).cut(&cell(circ, command, front), &pieces, "zeros");
    let bytes = FOLDER.check(name, fields);
    let (circ_back, command_back, body) = decode_cell(&bytes).unwrap();
    assert_eq!((circ_back, command_back), (circ, command));
    assert_eq!(cell(circ, command, &body), bytes);
    body
}

#[test]
fn cells() {
    check_cell("cell_pad", "PAD: keeps the link alive", 0, Command::Pad, &[], &[]);
    check_cell("cell_destroy", "DESTROY of tunnel 6", 6, Command::Destroy, &[], &[]);
    check_cell("cell_tun_no", "TUN_NO of tunnel 6", 6, Command::TunNo, &[], &[]);

    let open = tun_open();
    let pieces = [
        ("locator", 16),
        ("hops left", 1),
        ("flags", 1),
        ("nonce", 16),
        ("want", 1),
        ("message length", 2),
        ("message", 48),
    ];
    let body = check_cell(
        "cell_tun_open",
        "TUN_OPEN, sealed, one more hop",
        6,
        Command::TunOpen,
        &open.encode(),
        &pieces,
    );
    assert_eq!(TunOpen::decode(&body), Ok(open));
    FOLDER.check_bad(
        "tun_open",
        &[
            ("truncated", body[..60].to_vec()),
            ("two-hops", with(&body, 16, &[2])),
            ("spreads-unsealed", with(&body, 17, &[2])),
            ("unknown-flag", with(&body, 17, &[5])),
            ("wants-two", with(&body, 34, &[2])),
            ("message-too-long", with(&body, 35, &257_u16.to_le_bytes())),
            ("padding", with(&body, BODY_LEN - 1, &[1])),
        ],
        TunOpen::decode,
    );

    let message: Vec<u8> = (0..48).collect();
    let front = cell::encode_tun_ok(&message);
    let pieces = [("message length", 2), ("message", 48)];
    let body = check_cell("cell_tun_ok", "TUN_OK", 6, Command::TunOk, &front, &pieces);
    assert_eq!(cell::decode_tun_ok(&body), Ok(message));
    FOLDER.check_bad(
        "tun_ok",
        &[
            ("truncated", body[..40].to_vec()),
            ("message-too-long", with(&body, 0, &257_u16.to_le_bytes())),
            ("padding", with(&body, BODY_LEN - 1, &[1])),
        ],
        cell::decode_tun_ok,
    );

    let credits = [(6, 16), (9, 64)];
    let front = cell::encode_credits(&credits);
    let pieces = [
        ("count", 2),
        ("circ 1", 4),
        ("cells 1", 2),
        ("reserved 1", 2),
        ("circ 2", 4),
        ("cells 2", 2),
        ("reserved 2", 2),
    ];
    let body = check_cell("cell_credit", "CREDIT for two tunnels", 0, Command::Credit, &front, &pieces);
    assert_eq!(cell::decode_credits(&body), Ok(credits.to_vec()));
    FOLDER.check_bad(
        "credit",
        &[
            ("truncated", body[..10].to_vec()),
            ("count-too-high", with(&body, 0, &501_u16.to_le_bytes())),
            ("reserved", with(&body, 8, &[1])),
            ("padding", with(&body, BODY_LEN - 1, &[1])),
        ],
        cell::decode_credits,
    );

    let pieces = [("stream bytes", 2), ("stream", 5)];
    let body = check_cell(
        "cell_control",
        "CONTROL: the message HINT",
        0,
        Command::Control,
        &[&[5, 0], Control::Hint.encode().as_slice()].concat(),
        &pieces,
    );
    let body: [u8; BODY_LEN] = body.try_into().unwrap();
    assert_eq!(Link::new(sessions().0).control(&body).unwrap(), [Control::Hint]);
    let mut queue = ByteQueue::default();
    Message::Bye.push_to(&mut queue);
    let mut bye = [0; 5];
    queue.take(&mut bye);
    let front = [&[5, 0], bye.as_slice()].concat();
    check_cell("cell_data", "DATA of a direct session: the message BYE", 6, Command::Data, &front, &pieces);

    let good = cell(6, Command::Data, &[]);
    FOLDER.check_bad(
        "cell",
        &[
            ("truncated", without_end(&good)),
            ("command-unknown", with(&good, 4, &[11])),
            ("reserved", with(&good, 7, &[1])),
        ],
        decode_cell,
    );
}

/// Pieces of a payload: names and lengths of its data, in order.
fn check_relayed(name: &str, about: &str, stream: u16, message: &Relayed, data: &[(&str, usize)]) -> Vec<u8> {
    let mut body = [0; BODY_LEN];
    message.write(stream, &mut body);
    let head = [("stream", 2), ("type", 1), ("flags", 1), ("length", 2), ("reserved", 2)];
    let pieces: Vec<_> = head.into_iter().chain(data.iter().copied()).collect();
    let fields = Fields::new(about)
        .note("the payload behind the 96 bytes of tags, as builder and end see it")
        .cut(&body[STACK_LEN..], &pieces, "zeros");
    let bytes = FOLDER.check(name, fields);
    body[STACK_LEN..].copy_from_slice(&bytes);
    assert_eq!(Relayed::read(&body), Ok((stream, message.clone())));
    bytes
}

#[test]
fn circuits() {
    let create = Create { epoch: 20_421, message: [0xc1; 48] };
    let pieces = [("epoch", 2), ("message", 48)];
    let body = check_cell("cell_create", "CREATE", 8, Command::Create, &create.encode(), &pieces);
    assert_eq!(Create::decode(&body), Ok(create));
    FOLDER.check_bad(
        "create",
        &[("truncated", body[..49].to_vec()), ("padding", with(&body, BODY_LEN - 1, &[1]))],
        Create::decode,
    );
    let created = [0xc2; CREATED_LEN];
    let body =
        check_cell("cell_created", "CREATED", 8, Command::Created, &created, &[("message", CREATED_LEN)]);
    assert_eq!(decode_created(&body), Ok(created.to_vec()));
    FOLDER.check_bad(
        "created",
        &[("truncated", body[..CREATED_LEN - 1].to_vec()), ("padding", with(&body, CREATED_LEN, &[1]))],
        decode_created,
    );

    let listed = |n: u8| Listed {
        handle: Handle([n; 8]),
        key: [n + 1; 32],
        epoch: 20_421,
        uptime: 15,
        rate: 3,
        ageing: n == 2,
    };
    let list = [listed(1), listed(2)];
    let entry =
        [("handle", 8), ("key", 32), ("epoch", 2), ("uptime", 1), ("rate", 1), ("flags", 1), ("reserved", 3)];
    let pieces: Vec<_> = [("status", 1), ("count", 1)].into_iter().chain(entry).chain(entry).collect();
    let fields =
        Fields::new("handle list of two, one of them ageing").cut(&encode_list(&list), &pieces, "zeros");
    let bytes = FOLDER.check("handle_list", fields);
    assert!(decode_list(&bytes) == Ok(list.to_vec()));
    FOLDER.check_bad(
        "handle_list",
        &[
            ("status", with(&bytes, 0, &[1])),
            ("seventeen", with(&bytes, 1, &[17])),
            ("flags", with(&bytes, 46, &[2])),
            ("reserved", with(&bytes, 49, &[1])),
            ("class", with(&bytes, 44, &[16])),
            ("twice", with(&bytes, 50, &[1; 8])),
            ("padding", with(&bytes, LIST_BYTES - 1, &[1])),
            ("truncated", without_end(&bytes)),
        ],
        decode_list,
    );

    let wait = Duration::from_millis(1234);
    let extend = Relayed::Extend { handle: Handle([0xa1; 8]), create, wait };
    let pieces = [("handle", 8), ("wait ms", 2), ("epoch", 2), ("message", 48)];
    let extend = check_relayed("relayed_extend", "EXTEND", 0, &extend, &pieces);
    let extended = Relayed::Extended { message: Some(created.to_vec()), took: wait };
    let pieces = [("answer", 1), ("took ms", 2), ("message", CREATED_LEN)];
    check_relayed("relayed_extended", "EXTENDED", 0, &extended, &pieces);
    let none = Relayed::Extended { message: None, took: Duration::ZERO };
    let none = check_relayed("relayed_extended_not", "EXTENDED: it could not be", 0, &none, &pieces);
    check_relayed("relayed_ping", "PING", 0, &Relayed::Ping(wait), &[("wait ms", 2)]);
    check_relayed("relayed_pong", "PONG", 0, &Relayed::Pong, &[]);
    let open = Relayed::Open {
        locator: [0xa1; 16],
        spread: 2,
        want: 4,
        nonce: [0xb2; 16],
        message: (0..48).collect(),
    };
    let pieces =
        [("locator", 16), ("spread", 1), ("want", 1), ("nonce", 16), ("message length", 2), ("message", 48)];
    let open = check_relayed("relayed_open", "OPEN", 1, &open, &pieces);
    let opened = Relayed::Opened((0..48).collect());
    check_relayed("relayed_opened", "OPENED", 1, &opened, &[("message length", 2), ("message", 48)]);
    check_relayed("relayed_refused", "REFUSED", 1, &Relayed::Refused, &[]);
    let record = Relayed::Data(vec![0xda; 3968]);
    let data = check_relayed("relayed_data", "DATA: a record of a tunnel", 1, &record, &[("record", 3968)]);
    check_relayed("relayed_close", "CLOSE", 1, &Relayed::Close, &[]);
    check_relayed("relayed_idle", "IDLE", 0, &Relayed::Idle, &[]);
    FOLDER.check_bad(
        "relayed",
        &[
            ("type-0", with(&open, 2, &[0])),
            ("type-11", with(&open, 2, &[11])),
            ("flags", with(&open, 3, &[1])),
            ("reserved", with(&open, 6, &[1])),
            ("length-beyond", with(&open, 4, &3985_u16.to_le_bytes())),
            ("padding", with(&open, PAYLOAD_LEN - 1, &[1])),
            ("spread-three", with(&open, 8 + 16, &[3])),
            ("wants-none", with(&open, 8 + 17, &[0])),
            ("wants-five", with(&open, 8 + 17, &[5])),
            ("message-too-long", with(&open, 8 + 34, &257_u16.to_le_bytes())),
            ("extend-short", with(&extend, 4, &59_u16.to_le_bytes())),
            ("refusal-with-message", with(&none, 20, &[1])),
            ("record-short", with(&data, 4, &3967_u16.to_le_bytes())),
        ],
        |bytes| {
            let mut body = [0; BODY_LEN];
            body[STACK_LEN..].copy_from_slice(bytes);
            Relayed::read(&body)
        },
    );
}

fn sessions() -> (Session, Session) {
    let psk = Key::new([8; 32]);
    let mut i = Handshake::initiate(Pattern::Tunnel, &psk, b"vector", &mut Rng::from_seed([1; 32])).unwrap();
    let mut r = Handshake::respond(Pattern::Tunnel, &psk, b"vector", &mut Rng::from_seed([2; 32])).unwrap();
    r.read(&i.write(&[]).unwrap()).unwrap();
    i.read(&r.write(&[]).unwrap()).unwrap();
    (i.into_session().unwrap(), r.into_session().unwrap())
}

#[test]
fn records() {
    let (ours, theirs) = sessions();
    let (mut a, mut b) = (Link::new(ours), Link::new(theirs));
    a.send(&Control::Hint).unwrap();
    let mut wire = vec![0; 2 * kith_onion::link::RECORD_LEN];
    let used = a.transmit(Duration::ZERO, &mut { Allowance::ALL }, &mut wire).unwrap();
    let wire = &wire[..used];
    let fields = Fields::new("one record of one cell: the cell in cell_control.hex")
        .note("session: noise_nn.hex in the folder crypto, from its first transport message on")
        .piece("length message (opens to 0010, 4096)", &wire[..18])
        .piece("cells message, first 32 bytes", &wire[18..50])
        .piece("cells message, tag", &wire[used - 16..])
        .piece("BLAKE3 of the whole record", &kdf::hash(wire));
    FOLDER.check("record", fields);
    assert_eq!(used, 18 + CELL_LEN + 16);
    let cells = b.receive(&mut &wire[..]).unwrap().unwrap();
    assert_eq!(cells, cell(0, Command::Control, &[&[5, 0], Control::Hint.encode().as_slice()].concat()));
}

#[test]
fn sealed_cells() {
    let (ours, mut theirs) = sessions();
    let (outer, outer_theirs) = sessions();
    let (mut a, mut b) = (Link::new(outer), Link::new(outer_theirs));
    let mut queue = ByteQueue::default();
    Message::Bye.push_to(&mut queue);
    a.open_tunnel(6, Flow::default(), Outgoing::Session { queue, seal: Some(ours) });
    let mut wire = vec![0; 2 * kith_onion::link::RECORD_LEN];
    let used = a.transmit(Duration::ZERO, &mut { Allowance::ALL }, &mut wire).unwrap();
    let cells = b.receive(&mut &wire[..used]).unwrap().unwrap();
    let fields = Fields::new("DATA of a sealed session: the message BYE under the session of noise_nn.hex")
        .note("the sealed record has 3968 bytes: length 2, reserved 6, stream 3944, tag 16")
        .piece("cell header", &cells[..8])
        .piece("sealed record, first 32 bytes", &cells[8..40])
        .piece("sealed record, tag", &cells[3960..3976])
        .piece("zeros", &cells[3976..])
        .piece("BLAKE3 of the whole cell", &kdf::hash(&cells));
    FOLDER.check("cell_data_sealed", fields);
    let body: [u8; BODY_LEN] = cells[8..].try_into().unwrap();
    let mut plain = vec![0; kith_onion::link::TUNNEL_RECORD_LEN];
    let stream = kith_onion::link::open_sealed(&mut theirs, &body, &mut plain).unwrap();
    assert_eq!(stream, [8, 0, 0, 0, 0]);
    let mut changed = body;
    changed[BODY_LEN - 1] = 1;
    assert!(kith_onion::link::open_sealed(&mut sessions().1, &changed, &mut plain).is_err());
}

/// As a link reads it: the type's cap before the body.
fn decode_control(bytes: &[u8]) -> Result<Control, DecodeError> {
    let (head, body) = bytes.split_first_chunk::<MESSAGE_HEAD>().ok_or(DecodeError::Truncated { at: 0 })?;
    let len = u32::from_le_bytes(head[1..].try_into().unwrap()) as usize;
    let max = Control::max_len(head[0]).ok_or(DecodeError::Invalid { at: 0, what: "message type" })?;
    if len > max {
        return Err(DecodeError::TooLarge { at: 1, what: "message length" });
    }
    let body = body.get(..len).ok_or(DecodeError::Truncated { at: MESSAGE_HEAD })?;
    Control::decode(head[0], body)
}

fn check_control(
    name: &str,
    about: &str,
    message: &Control,
    pieces: &[(&str, usize)],
    rest: &str,
) -> Vec<u8> {
    let head = [("type", 1), ("length", 4)];
    let pieces: Vec<_> = head.into_iter().chain(pieces.iter().copied()).collect();
    let bytes = FOLDER.check(name, Fields::new(about).cut(&message.encode(), &pieces, rest));
    let back = decode_control(&bytes).unwrap();
    assert_eq!((&back, back.encode()), (message, bytes.clone()));
    bytes
}

fn relabel(message: &[u8], body: &[u8]) -> Vec<u8> {
    [&message[..1], &(body.len() as u32).to_le_bytes(), body].concat()
}

#[test]
fn control_messages() {
    let id = Identity::from_secrets([[1; 32], [2; 32], [3; 32]]);
    let list = encode_addresses(&[Address::Ip("192.0.2.7:5483".parse().unwrap())]);
    let signature = id.sign(&addresses_to_sign(9, &list));
    let hello = check_control(
        "control_hello",
        "HELLO",
        &Control::Hello { features: 0, unix_ms: 1_700_000_000_123 },
        &[("features", 8), ("unix_ms", 8)],
        "",
    );
    let addresses = check_control(
        "control_addresses",
        "ADDRESSES, signed by the identity in crypto/identity.hex",
        &Control::Addresses { seq: 9, list, signature },
        &[
            ("seq", 8),
            ("address count", 1),
            ("type", 1),
            ("address length", 1),
            ("address", 6),
            ("signature", 64),
        ],
        "",
    );
    let certificate = check_control(
        "control_certificate",
        "CERTIFICATE; the certificate itself is only bytes here",
        &Control::Certificate(vec![0xce; 5]),
        &[("certificate length", 2), ("certificate", 5)],
        "",
    );
    check_control("control_welcome", "WELCOME", &Control::Welcome, &[], "");
    check_control("control_hint", "HINT", &Control::Hint, &[], "");
    check_control("control_goodbye", "GOODBYE", &Control::Goodbye, &[], "");
    let pull = check_control(
        "control_pull",
        "PULL of the relayed part",
        &Control::Pull { part: Part::Relayed, log: 5, since: 6 },
        &[("part", 1), ("log", 8), ("since", 8)],
        "",
    );
    let delta = check_control(
        "control_delta",
        "DELTA of the own part: an entry that is gone and one that is there (entry.hex)",
        &Control::Delta(Delta {
            part: Part::Own,
            log: 0x0102_0304_0506_0709,
            upto: 2,
            restart: true,
            more: false,
            next_batch_ms: 60_000,
            batch_ms: 1_800_000,
            ops: vec![ViewOp::Del(Eid([0xd1; 8])), ViewOp::Add(Eid([0xe2; 8]), Entry::sample())],
        }),
        &[
            ("part", 1),
            ("log", 8),
            ("upto", 8),
            ("restart", 1),
            ("more", 1),
            ("next batch ms", 4),
            ("batch ms", 4),
            ("change count", 2),
            ("change 1 (gone)", 1),
            ("eid 1", 8),
            ("change 2 (there)", 1),
            ("eid 2", 8),
            ("entry length", 2),
        ],
        "entry and zeros",
    );
    let counters = Counters { accepted: 1_700_000_000_001, used: 1_700_000_000_002 };
    let key = [0xe1; KEM_KEY_LEN];
    let text = [0xc1; KEM_TEXT_LEN];
    let offer = check_control(
        "control_offer",
        "OFFER; key and proof are only bytes here (crypto/ratchet.hex has real ones)",
        &Control::Offer(Box::new(Offer { generation: 8, counters, have: [0xaf; 16], key })),
        &[("generation", 4), ("accepted counter", 8), ("used counter", 8), ("have", 16)],
        "key",
    );
    let reply = check_control(
        "control_reply",
        "REPLY",
        &Control::Reply(Box::new(Reply { generation: 8, counters, key, text })),
        &[("generation", 4), ("accepted counter", 8), ("used counter", 8), ("key", KEM_KEY_LEN)],
        "ciphertext",
    );
    let confirm = Control::Confirm(Box::new(Confirm { text, proof: [0xbf; 16] }));
    let confirm =
        check_control("control_confirm", "CONFIRM", &confirm, &[("ciphertext", KEM_TEXT_LEN)], "proof");
    check_control("control_done", "DONE", &Control::Done([0xbf; 16]), &[], "proof");
    check_control("control_ping", "PING", &Control::Ping(7), &[], "number");
    check_control("control_pong", "PONG", &Control::Pong(7), &[], "number");
    let keys = check_control(
        "control_keys",
        "KEYS; root id and certificate are only bytes here",
        &Control::Keys { base: [0xba; 16], certificate: vec![0xce; 5] },
        &[("base", 16), ("certificate length", 2)],
        "certificate",
    );
    check_control("control_keys_known", "KEYS_KNOWN", &Control::KeysKnown([0xba; 16]), &[], "root");
    let onion_key = check_control(
        "control_onion_key",
        "ONION_KEY",
        &Control::OnionKey { epoch: 20_421, key: [0xe7; 32] },
        &[("epoch", 2)],
        "key",
    );
    let cap = VerifyCap { root: Root([0x4d; 32]), tree: Key::new([0x7e; 32]) };
    let offer_mirror = check_control(
        "control_mirror_offer",
        "MIRROR_OFFER of an object of at most 2^20 bytes, also for circuits",
        &Control::MirrorOffer(Box::new(MirrorOffer {
            cap,
            size_class: 20,
            expires_day: 20_500,
            travels: true,
        })),
        &[("root", 32), ("tree key", 32), ("size class", 1), ("expires", 4)],
        "flags",
    );
    let answer_mirror = check_control(
        "control_mirror_answer",
        "MIRROR_ANSWER: it is whole",
        &Control::MirrorAnswer { root: Root([0x4d; 32]), state: MirrorState::Whole, room: 1 << 30 },
        &[("root", 32), ("state", 1)],
        "room",
    );
    check_control("control_mirror_end", "MIRROR_END", &Control::MirrorEnd(Root([0x4d; 32])), &[], "root");
    check_control("control_hours", "HOURS", &Control::Hours([0x80; 24]), &[], "share of each hour");
    let body = |message: &[u8]| message[5..].to_vec();
    let surplus = |message: &[u8]| relabel(message, &[&message[5..], &[0]].concat());
    let nine = [[9; 8].as_slice(), &[9], [1, 6, 127, 0, 0, 1, 1, 0].repeat(9).as_slice(), &[0; 64]].concat();
    let late = body(&delta).len() - 1;
    FOLDER.check_bad(
        "control",
        &[
            ("type-0", with(&hello, 0, &[0])),
            ("type-22", with(&hello, 0, &[22])),
            ("mirror-offer-truncated", relabel(&offer_mirror, &offer_mirror[5..70])),
            ("mirror-offer-flags", with(&offer_mirror, 74, &[2])),
            ("mirror-answer-state", with(&answer_mirror, 37, &[3])),
            ("mirror-answer-trailing", surplus(&answer_mirror)),
            ("onion-key-truncated", relabel(&onion_key, &onion_key[5..20])),
            ("onion-key-trailing", surplus(&onion_key)),
            ("keys-truncated", relabel(&keys, &keys[5..25])),
            ("keys-trailing", surplus(&keys)),
            ("offer-truncated", relabel(&offer, &offer[5..600])),
            ("offer-too-long", surplus(&offer)),
            ("reply-truncated", relabel(&reply, &reply[5..2000])),
            ("reply-too-long", surplus(&reply)),
            ("confirm-truncated", relabel(&confirm, &confirm[5..1100])),
            ("confirm-too-long", surplus(&confirm)),
            ("hello-truncated", relabel(&hello, &hello[5..20])),
            ("hello-too-long", surplus(&hello)),
            ("addresses-trailing", surplus(&addresses)),
            ("addresses-truncated", relabel(&addresses, &addresses[5..40])),
            ("nine-addresses", relabel(&addresses, &nine)),
            ("address-port-0", with(&addresses, 20, &[0, 0])),
            ("certificate-too-long", relabel(&certificate, &[&[1, 8], vec![0; 2048].as_slice()].concat())),
            ("certificate-trailing", surplus(&certificate)),
            ("hint-with-body", vec![5, 1, 0, 0, 0, 0]),
            ("pull-part-2", with(&pull, 5, &[2])),
            ("pull-truncated", relabel(&pull, &pull[5..15])),
            ("delta-restart-flag", with(&delta, 5 + 17, &[2])),
            ("delta-change-kind", with(&delta, 5 + 29, &[3])),
            ("delta-count-too-high", with(&delta, 5 + 27, &u16::MAX.to_le_bytes())),
            ("delta-bad-entry", with(&delta, 5 + 49, &[2])),
            ("delta-entry-too-long", with(&delta, 5 + 47, &513_u16.to_le_bytes())),
            ("delta-padding", with(&delta, 5 + late, &[1])),
            ("delta-not-padded", relabel(&delta, &delta[5..5 + late])),
            ("delta-too-long", with(&delta, 1, &(16 * 16_384 + 1_u32).to_le_bytes())),
        ],
        decode_control,
    );
}

fn decode_session(bytes: &[u8]) -> Result<Vec<Message>, DecodeError> {
    let mut out = Vec::new();
    Assembler::default().feed(bytes, &mut out)?;
    Ok(out)
}

fn encode_session(message: Message) -> Vec<u8> {
    let mut queue = ByteQueue::default();
    message.push_to(&mut queue);
    let mut bytes = vec![0; queue.len()];
    queue.take(&mut bytes);
    bytes
}

fn check_session(name: &str, about: &str, message: Message, pieces: &[(&str, usize)]) -> Vec<u8> {
    let head = [("type", 1), ("length", 4)];
    let pieces: Vec<_> = head.into_iter().chain(pieces.iter().copied()).collect();
    let bytes = FOLDER.check(name, Fields::new(about).cut(&encode_session(message.clone()), &pieces, ""));
    let back = decode_session(&bytes).unwrap();
    assert!(back == [message], "{name}");
    assert!(encode_session(back.into_iter().next().unwrap()) == bytes, "{name}");
    bytes
}

#[test]
fn session_messages() {
    let want = |position, deadline_ms| Want { position, deadline_ms };
    let start = check_session(
        "session_start",
        "START from nothing: four blocks from block 7",
        Message::Start { resume: false, first: 7, count: 4 },
        &[("resume", 1), ("first", 4), ("count", 2)],
    );
    let wants = check_session(
        "session_want",
        "WANT of data block 300 in 250 ms and of node block 1 without hurry",
        Message::Want(vec![want(Position::Data(300), 250), want(Position::Node(1), u16::MAX)]),
        &[
            ("count", 2),
            ("level 1", 1),
            ("index 1", 4),
            ("deadline 1", 2),
            ("level 2", 1),
            ("index 2", 4),
            ("deadline 2", 2),
        ],
    );
    check_session(
        "session_cancel",
        "CANCEL of the head",
        Message::Cancel(vec![Position::Head]),
        &[("count", 2), ("level", 1), ("index", 4)],
    );
    let all = check_session(
        "session_have_all",
        "HAVE everything",
        Message::Have(Have::All),
        &[("complete", 1), ("map length", 2)],
    );
    check_session(
        "session_have_spans",
        "HAVE the spans 0, 1 and 15 of 16 blocks each",
        Message::Have(Have::Spans(vec![3, 0x80])),
        &[("complete", 1), ("map length", 2), ("map", 2)],
    );
    let block = check_session(
        "session_block",
        "BLOCK: data block 5",
        Message::Block(Position::Data(5), vec![6; SEALED_LEN]),
        &[("level", 1), ("index", 4), ("sealed block", SEALED_LEN)],
    );
    let lack = check_session(
        "session_lack",
        "LACK of data block 5",
        Message::Lack(Position::Data(5)),
        &[("level", 1), ("index", 4)],
    );
    check_session("session_busy", "BUSY for 30 s", Message::Busy(30), &[("seconds", 2)]);
    check_session("session_bye", "BYE", Message::Bye, &[]);
    check_session(
        "session_later",
        "LATER: data block 5",
        Message::Later(Position::Data(5)),
        &[("level", 1), ("index", 4)],
    );
    check_session(
        "session_more",
        "MORE: the spans 2 and 262143 have come",
        Message::More(vec![2, 262_143]),
        &[("count", 2), ("span", 4), ("span", 4)],
    );
    let many = [&65_u16.to_le_bytes()[..], &[0; 64 * 7]].concat();
    FOLDER.check_bad(
        "session",
        &[
            ("type-0", with(&start, 0, &[0])),
            ("type-11", with(&start, 0, &[11])),
            ("start-length", with(&start, 1, &[8])),
            ("start-resume-flag", with(&start, 5, &[2])),
            ("want-count-too-high", relabel(&wants, &many)),
            ("want-truncated", relabel(&wants, &wants[5..18])),
            ("want-trailing", relabel(&wants, &[&wants[5..], &[0]].concat())),
            ("want-too-long", with(&wants, 1, &(2 + 65 * 7_u32).to_le_bytes())),
            ("level-4", with(&lack, 5, &[4])),
            ("second-root", with(&with(&lack, 5, &[2]), 6, &[1])),
            ("have-all-with-map", relabel(&all, &[1, 1, 0, 0xff])),
            ("have-flag", with(&all, 5, &[2])),
            ("block-too-short", with(&block, 1, &(SEALED_LEN as u32 + 4).to_le_bytes())),
            ("block-of-level-4", with(&block, 5, &[4])),
            ("length-of-4-gib", with(&wants, 1, &u32::MAX.to_le_bytes())),
        ],
        decode_session,
    );
}

#[test]
fn entries() {
    let entry = Entry::sample();
    let fields = Fields::new("catalogue entry").cut(
        &entry.encode(),
        &[
            ("version", 1),
            ("hops left", 1),
            ("root", 32),
            ("read key", 32),
            ("bytes", 8),
            ("duration_s", 4),
            ("published day", 4),
            ("expires day", 4),
            ("media type length", 1),
            ("media type", 9),
            ("title length", 1),
            ("title", 16),
            ("text length", 1),
            ("text", 6),
            ("tag count", 1),
            ("tag 1 length", 1),
            ("tag 1", 7),
            ("tag 2 length", 1),
            ("tag 2", 3),
        ],
        "",
    );
    let good = FOLDER.check("entry", fields);
    let back = Entry::decode(&good).unwrap();
    assert_eq!((&back, back.encode()), (&entry, good.clone()));
    // Positions: 86 media type, 96 title, 113 text, 120 tags.
    FOLDER.check_bad(
        "entry",
        &[
            ("truncated", without_end(&good)),
            ("trailing", [good.as_slice(), &[0]].concat()),
            ("version", with(&good, 0, &[2])),
            ("two-hops", with(&good, 1, &[2])),
            ("media-type-too-long", with(&good, 86, &[41])),
            ("title-too-long", with(&good, 96, &[97])),
            ("title-not-utf8", with(&good, 97, &[0xff])),
            ("text-too-long", with(&good, 113, &[181])),
            ("tag-count-too-high", with(&good, 120, &[33])),
            ("tag-too-long", [&good[..120], &[1, 33], &[b'x'; 33]].concat()),
            (
                "tags-too-long",
                [
                    &good[..120],
                    &[3],
                    [[20].as_slice(), &[b'x'; 20]].concat().repeat(3).as_slice(),
                    &[1, b'y'],
                ]
                .concat(),
            ),
            (
                "tags-over-64-bytes",
                [
                    &good[..120],
                    &[4],
                    [[20].as_slice(), &[b'x'; 20]].concat().repeat(3).as_slice(),
                    &[1, b'y'],
                ]
                .concat(),
            ),
            ("tag-empty", [&good[..120], &[1, 0]].concat()),
            ("too-long", vec![1; 513]),
        ],
        Entry::decode,
    );
}
