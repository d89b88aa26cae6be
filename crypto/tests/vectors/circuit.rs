//! Vectors of circuits: one hop's handshake, and a cell each way through three relays. Everything in
//! them is computed a second time from the page: the handshake by snow alone, the layers by the
//! chacha20poly1305 crate. Format: `docs/protocol/circuit.md`.

use super::file::Fields;
use super::{FOLDER, with, without_end};
use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher};
use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::{Aead, KeyInit};
use kith_crypto::aead::Unauthentic;
use kith_crypto::circuit::{
    BODY_LEN, Body, Building, HopLayer, Layers, OnionKey, PAYLOAD_LEN, RelayLayer, STACK_LEN, answer,
};
use kith_crypto::kdf::{self, Label};
use kith_crypto::noise::NoiseFailed;
use kith_crypto::rng::Rng;

const EPOCH: u16 = 7;
/// Both directions of `circuit_layers`: where its cells begin, behind three hops' four keys.
const KEYS_LEN: usize = 3 * 4 * 32;

/// Seeds of one hop: of the onion key, of the builder's and of the relay's side of the handshake.
struct Seeds(u8);

impl Seeds {
    fn key(&self) -> Rng {
        Rng::from_seed([self.0 + 1; 32])
    }
    fn builder(&self) -> Rng {
        Rng::from_seed([self.0 + 2; 32])
    }
    fn relay(&self) -> Rng {
        Rng::from_seed([self.0 + 3; 32])
    }
    fn onion_key(&self) -> OnionKey {
        OnionKey::generate(&mut self.key())
    }
}

/// What a hop's handshake says and yields.
struct Hop {
    message1: Vec<u8>,
    message2: Vec<u8>,
    split: [[u8; 32]; 2],
}

/// The fresh key that a handshake draws from its generator: behind two forks.
fn ephemeral(mut rng: Rng) -> [u8; 32] {
    rng.fork().fork().bytes()
}

/// The handshake by snow with its own primitives.
#[allow(clippy::disallowed_methods)] // a vector fixes its ephemeral keys
fn by_snow(seeds: &Seeds, payload: &[u8]) -> Hop {
    let prologue = [&b"kith circuit v1"[..], &EPOCH.to_le_bytes()].concat();
    let builder = || {
        let name = "Noise_NK_25519_ChaChaPoly_BLAKE2s".parse().unwrap();
        snow::Builder::new(name).prologue(&prologue).unwrap()
    };
    let (fresh, theirs) = (ephemeral(seeds.builder()), ephemeral(seeds.relay()));
    let (secret, public): ([u8; 32], _) = (seeds.key().bytes(), *seeds.onion_key().public());
    let i = builder().remote_public_key(&public).unwrap().fixed_ephemeral_key_for_testing_only(&fresh);
    let r = builder().local_private_key(&secret).unwrap().fixed_ephemeral_key_for_testing_only(&theirs);
    let (mut i, mut r) = (i.build_initiator().unwrap(), r.build_responder().unwrap());
    let (mut sent, mut read) = ([0; 128], [0; 128]);
    let mut pass = |from: &mut snow::HandshakeState, to: &mut snow::HandshakeState, payload: &[u8]| {
        let len = from.write_message(payload, &mut sent).unwrap();
        assert_eq!(to.read_message(&sent[..len], &mut read).unwrap(), payload.len());
        sent[..len].to_vec()
    };
    let message1 = pass(&mut i, &mut r, &[]);
    let message2 = pass(&mut r, &mut i, payload);
    let (first, second) = i.dangerously_get_raw_split();
    Hop { message1, message2, split: [first, second] }
}

/// The four keys, in the order of the page.
fn keys(hop: &Hop) -> [[u8; 32]; 4] {
    let [first, second] = &hop.split;
    let labels = [
        Label::CIRCUIT_FORWARD,
        Label::CIRCUIT_FILLER,
        Label::CIRCUIT_BACKWARD,
        Label::CIRCUIT_BACKWARD_TAGS,
    ];
    labels.map(|label| *kdf::derive(label, &[first, second]).expose())
}

const KEY_NAMES: [&str; 4] = ["forward key", "filler key", "backward key", "backward tags key"];

fn built(seeds: &Seeds, payload: &[u8]) -> (HopLayer, RelayLayer, Hop) {
    let key = seeds.onion_key();
    let (building, message1) = Building::start(key.public(), EPOCH, &mut seeds.builder()).unwrap();
    let (relay, message2) = answer(&key, EPOCH, &message1, payload, &mut seeds.relay()).unwrap();
    let (layer, read) = building.finish(&message2).unwrap();
    assert_eq!(read, payload);
    let hop = by_snow(seeds, payload);
    assert_eq!((&hop.message1[..], &hop.message2), (&message1[..], &message2));
    (layer, relay, hop)
}

#[test]
fn handshake() {
    let seeds = Seeds(0);
    let (_, _, hop) = built(&seeds, b"list");
    let mut fields = Fields::new("Noise_NK_25519_ChaChaPoly_BLAKE2s: CREATE and CREATED of epoch 7")
        .note("prologue \"kith circuit v1\" and 0700; payloads: none, \"list\"")
        .note("Rng seeds: onion key 01.., builder 02.., relay 03..")
        .piece("onion secret", &seeds.key().bytes::<32>())
        .piece("onion key", seeds.onion_key().public())
        .piece("builder's ephemeral secret", &ephemeral(seeds.builder()))
        .piece("relay's ephemeral secret", &ephemeral(seeds.relay()))
        .piece("message 1", &hop.message1)
        .piece("message 2", &hop.message2)
        .piece("split, builder's half", &hop.split[0])
        .piece("split, relay's half", &hop.split[1]);
    for (name, key) in KEY_NAMES.iter().zip(keys(&hop)) {
        fields = fields.piece(name, &key);
    }
    FOLDER.check("noise_nk", fields);

    let other = Seeds(0x10).onion_key();
    let start = |key: &OnionKey, epoch| {
        Building::start(key.public(), epoch, &mut seeds.builder()).unwrap().1.to_vec()
    };
    FOLDER.check_bad(
        "circuit_create",
        &[
            ("key", with(&hop.message1, 0, &[hop.message1[0] ^ 1])),
            ("tag", with(&hop.message1, 47, &[hop.message1[47] ^ 1])),
            ("truncated", without_end(&hop.message1)),
            ("other-epoch", start(&seeds.onion_key(), EPOCH + 1)),
            ("other-relay", start(&other, EPOCH)),
        ],
        |bytes| {
            let message1 = bytes.try_into().map_err(|_| NoiseFailed)?;
            answer(&seeds.onion_key(), EPOCH, message1, b"list", &mut seeds.relay())
        },
    );
    FOLDER.check_bad(
        "circuit_created",
        &[
            ("key", with(&hop.message2, 0, &[hop.message2[0] ^ 1])),
            ("payload", with(&hop.message2, 32, &[hop.message2[32] ^ 1])),
            ("truncated", without_end(&hop.message2)),
            ("of-another-circuit", built(&Seeds(0x10), b"list").2.message2),
        ],
        |bytes| {
            let key = seeds.onion_key();
            Building::start(key.public(), EPOCH, &mut seeds.builder()).unwrap().0.finish(bytes)
        },
    );
}

/// A circuit of three relays, the same each time.
struct Circuit {
    layers: Layers,
    relays: Vec<RelayLayer>,
    keys: Vec<[[u8; 32]; 4]>,
    rng: Rng,
}

impl Circuit {
    fn new() -> Self {
        let (mut layers, mut relays, mut all) = (Layers::default(), Vec::new(), Vec::new());
        for seeds in [Seeds(0x10), Seeds(0x20), Seeds(0x30)] {
            let (layer, relay, hop) = built(&seeds, b"");
            layers.push(layer).unwrap();
            relays.push(relay);
            all.push(keys(&hop));
        }
        Self { layers, relays, keys: all, rng: Rng::from_seed([0x41; 32]) }
    }

    /// The next cell on each link from the builder on, and what the last relay is left with.
    fn there(&mut self) -> Vec<Body> {
        let mut cell = [7; BODY_LEN];
        self.layers.seal(&mut cell, &mut self.rng);
        let mut links = vec![cell];
        for relay in &mut self.relays {
            relay.forward(&mut cell).unwrap();
            links.push(cell);
        }
        assert_eq!(cell[STACK_LEN..], [7; PAYLOAD_LEN]);
        links
    }

    /// The next cell on each link from the last relay on; the builder has not opened it.
    fn back(&mut self) -> Vec<Body> {
        let mut cell = [8; BODY_LEN];
        let (last, before) = self.relays.split_last_mut().unwrap();
        last.originate(&mut cell, &mut self.rng);
        let mut links = vec![cell];
        for relay in before.iter_mut().rev() {
            relay.backward(&mut cell);
            links.push(cell);
        }
        links
    }
}

fn nonce(number: u64) -> [u8; 12] {
    [&[0; 4][..], &number.to_le_bytes()].concat().try_into().unwrap()
}

fn unsealed(key: &[u8; 32], number: u64, tag: &[u8], text: &[u8]) -> Vec<u8> {
    let sealed = [text, tag].concat();
    ChaCha20Poly1305::new(key.into()).decrypt(&nonce(number).into(), &sealed[..]).unwrap()
}

/// What a relay makes of a forward cell.
fn relayed([forward, filler, ..]: &[[u8; 32]; 4], number: u64, cell: &[u8]) -> Vec<u8> {
    let opened = unsealed(forward, number, &cell[..16], &cell[16..]);
    let mut free = [0; 16];
    ChaCha20::new(filler.into(), &nonce(number).into()).apply_keystream(&mut free);
    [&opened[..80], &free, &opened[80..]].concat()
}

/// What the builder makes of one relay's layer of a backward cell; the last slot is nothing.
fn opened([.., backward, tags]: &[[u8; 32]; 4], number: u64, cell: &[u8]) -> Vec<u8> {
    let payload = unsealed(backward, number, &cell[..16], &cell[96..]);
    let mut kept = cell[16..96].to_vec();
    ChaCha20::new(tags.into(), &nonce(number).into()).apply_keystream(&mut kept);
    [&kept[..], &[0; 16], &payload].concat()
}

fn slots(mut fields: Fields, link: &str, cell: &Body) -> Fields {
    for (index, slot) in cell[..STACK_LEN].chunks(16).enumerate() {
        fields = fields.piece(&format!("{link}, slot {}", index + 1), slot);
    }
    fields
}

fn whole(fields: Fields, link: &str, cell: &Body) -> Fields {
    slots(fields, link, cell).piece(&format!("{link}, payload"), &cell[STACK_LEN..])
}

fn short(fields: Fields, link: &str, cell: &Body) -> Fields {
    slots(fields, link, cell).piece(&format!("{link}, BLAKE3 of the payload"), &kdf::hash(&cell[STACK_LEN..]))
}

#[test]
fn layers() {
    let mut circuit = Circuit::new();
    let (there, back) = ([circuit.there(), circuit.there()], [circuit.back(), circuit.back()]);
    let mut fields = Fields::new("circuit_layers: the second cell (counter 1) of three relays each way")
        .note("Rng seeds as in noise_nk.hex: relay 1 11.., 12.., 13..; relay 2 21..; relay 3 31..; epoch 7")
        .note("payloads of message 2: none; Rng seed of unused slots 41..: two cells there, two back")
        .note("plain payloads: 07*3992 there, 08*3992 back");
    for (relay, keys) in circuit.keys.iter().enumerate() {
        for (name, key) in KEY_NAMES.iter().zip(keys) {
            fields = fields.piece(&format!("relay {}, {name}", relay + 1), key);
        }
    }
    fields = whole(fields, "builder to relay 1", &there[1][0]);
    fields = whole(fields, "relay 1 to builder", &back[1][2]);
    fields = short(fields, "relay 1 to relay 2", &there[1][1]);
    fields = short(fields, "relay 2 to relay 3", &there[1][2]);
    fields = short(fields, "relay 3 to relay 2", &back[1][0]);
    fields = short(fields, "relay 2 to relay 1", &back[1][1]);
    let bytes = FOLDER.check("circuit_layers", fields);

    let (cells, _) = bytes[KEYS_LEN..].split_at(2 * BODY_LEN);
    let (mut cell, mut answer) = (cells[..BODY_LEN].to_vec(), cells[BODY_LEN..].to_vec());
    for (keys, next) in circuit.keys.iter().zip(&there[1][1..]) {
        cell = relayed(keys, 1, &cell);
        assert_eq!(cell, next);
    }
    assert_eq!(cell[STACK_LEN..], [7; PAYLOAD_LEN]);
    for (index, keys) in circuit.keys.iter().enumerate() {
        answer = opened(keys, 1, &answer);
        // One slot less is left of the stack that the relay before got, and nothing of the last one's.
        let tags = 16 * (2 - index);
        let before = back[1].iter().rev().nth(index + 1);
        assert!(before.is_none_or(|b| answer[..tags] == b[..tags] && answer[96..] == b[96..]));
    }
    assert_eq!(answer[STACK_LEN..], [8; PAYLOAD_LEN]);
}

#[test]
fn changed_cells() {
    let mut circuit = Circuit::new();
    let there = [circuit.there(), circuit.there(), circuit.there()].map(|links| links[0].to_vec());
    let back = [circuit.back(), circuit.back(), circuit.back()].map(|links| links[2].to_vec());
    let flipped = |cell: &[u8], at: usize| with(cell, at, &[cell[at] ^ 1]);
    let unused = 3 * 16;
    FOLDER.check_bad(
        "circuit_forward",
        &[
            ("last-slot", flipped(&there[1], STACK_LEN - 1)),
            ("payload", flipped(&there[1], BODY_LEN - 1)),
            ("replay", there[0].clone()),
            ("gap", there[2].clone()),
        ],
        |bytes| -> Result<Body, Unauthentic> {
            let mut circuit = Circuit::new();
            circuit.there();
            let mut cell = bytes.try_into().map_err(|_| Unauthentic)?;
            circuit.relays[0].forward(&mut cell).map(|()| cell)
        },
    );
    let open = |bytes: &[u8]| -> Result<Vec<u8>, Unauthentic> {
        let mut circuit = Circuit::new();
        let mut first = circuit.back()[2];
        circuit.layers.open(&mut first).unwrap();
        let mut cell: Body = bytes.try_into().map_err(|_| Unauthentic)?;
        circuit.layers.open(&mut cell).map(|()| cell[STACK_LEN..].to_vec())
    };
    FOLDER.check_bad(
        "circuit_backward",
        &[
            ("last-tag", flipped(&back[1], unused - 1)),
            ("payload", flipped(&back[1], BODY_LEN - 1)),
            ("replay", back[0].clone()),
        ],
        open,
    );
    assert_eq!(open(&back[1]).unwrap(), [8; PAYLOAD_LEN]);
    assert_eq!(open(&flipped(&back[1], unused)).unwrap(), [8; PAYLOAD_LEN], "no tag, so nothing to check");
}
