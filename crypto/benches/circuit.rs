//! What each layer of a circuit costs per cell, next to a plain seal and a plain copy of a cell, and
//! what one hop's handshake costs, next to a plain X25519.

use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use kith_crypto::circuit::{BODY_LEN, Body, Building, HopLayer, Layers, OnionKey, RelayLayer, answer};
use kith_crypto::rng::Rng;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use std::hint::black_box;
use std::time::Duration;

/// A whole cell, as it crosses a link.
const CELL_LEN: usize = 4096;
/// What the forward layer encrypts: a body without its first tag.
const SEALED_LEN: usize = BODY_LEN - 16;

fn hop(rng: &mut Rng) -> (HopLayer, RelayLayer) {
    let key = OnionKey::generate(rng);
    let (building, message1) = Building::start(key.public(), 7, rng).expect("message 1");
    let (relay, message2) = answer(&key, 7, &message1, &[], rng).expect("message 2");
    (building.finish(&message2).expect("the layer").0, relay)
}

fn circuit(hops: usize, rng: &mut Rng) -> (Layers, Vec<RelayLayer>) {
    let mut layers = Layers::default();
    let relays = (0..hops).map(|_| {
        let (hop, relay) = hop(rng);
        layers.push(hop).expect("a free slot");
        relay
    });
    let relays = relays.collect();
    (layers, relays)
}

fn settings(group: &mut BenchmarkGroup<'_, WallTime>) {
    group
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_millis(1500));
}

fn cells(c: &mut Criterion) {
    let mut rng = Rng::from_seed([1; 32]);
    let mut group = c.benchmark_group("cell");
    settings(&mut group);
    group.throughput(Throughput::Bytes(CELL_LEN as u64));

    group.bench_function("reference: copy", |b| {
        let (from, mut to) = ([7; CELL_LEN], [0; CELL_LEN]);
        b.iter(|| black_box(&mut to).copy_from_slice(black_box(&from)));
    });
    group.bench_function("reference: ring seals 4072 bytes", |b| {
        let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &[1; 32]).expect("32 bytes"));
        let mut buf = [7; SEALED_LEN];
        b.iter(|| {
            let nonce = Nonce::assume_unique_for_key([2; 12]);
            key.seal_in_place_separate_tag(nonce, Aad::empty(), black_box(&mut buf)).expect("a tag")
        });
    });

    // A relay opens each cell once and in order: the sealing before each batch is not timed.
    let (mut layers, mut relays) = circuit(3, &mut rng);
    group.bench_function("relay, forward", |b| {
        b.iter_batched_ref(
            || {
                let mut body = [7; BODY_LEN];
                layers.seal(&mut body, &mut rng);
                body
            },
            |body| relays[0].forward(black_box(body)).expect("the next cell"),
            BatchSize::SmallInput,
        );
    });
    let mut body: Body = [7; BODY_LEN];
    group.bench_function("relay, backward", |b| b.iter(|| relays[0].backward(black_box(&mut body))));
    group.bench_function("last relay, originate", |b| {
        b.iter(|| relays[2].originate(black_box(&mut body), &mut rng));
    });
    group.bench_function("builder, seal, 3 relays", |b| {
        b.iter(|| layers.seal(black_box(&mut body), &mut rng));
    });
    for hops in [3, 4, 5] {
        let (mut layers, mut relays) = circuit(hops, &mut rng);
        group.bench_function(format!("builder, open, {hops} relays"), |b| {
            b.iter_batched_ref(
                || {
                    let mut body = [7; BODY_LEN];
                    let (last, before) = relays.split_last_mut().expect("a relay");
                    last.originate(&mut body, &mut rng);
                    before.iter_mut().rev().for_each(|relay| relay.backward(&mut body));
                    body
                },
                |body| layers.open(black_box(body)).expect("the next cell"),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn handshakes(c: &mut Criterion) {
    let mut rng = Rng::from_seed([2; 32]);
    let key = OnionKey::generate(&mut rng);
    let mut group = c.benchmark_group("create");
    settings(&mut group);
    group.bench_function("reference: one X25519", |b| {
        let secret = x25519_dalek::StaticSecret::from([3; 32]);
        let peer = x25519_dalek::PublicKey::from(*key.public());
        b.iter(|| black_box(&secret).diffie_hellman(black_box(&peer)));
    });
    let (_, message1) = Building::start(key.public(), 7, &mut rng).expect("message 1");
    group.bench_function("builder, start", |b| {
        b.iter(|| Building::start(black_box(key.public()), 7, &mut rng).expect("message 1"));
    });
    group.bench_function("relay, answer", |b| {
        b.iter(|| answer(&key, 7, black_box(&message1), &[], &mut rng).expect("message 2"));
    });
    group.bench_function("builder, finish", |b| {
        b.iter_batched(
            || {
                let (building, message1) = Building::start(key.public(), 7, &mut rng).expect("message 1");
                (building, answer(&key, 7, &message1, &[], &mut rng).expect("message 2").1)
            },
            |(building, message2)| building.finish(&message2).expect("the layer"),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, cells, handshakes);
criterion_main!(benches);
