//! What a handshake between friends and the records of a session cost, next to a plain X25519, a
//! plain copy and a plain hash.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use kith_crypto::identity::Identity;
use kith_crypto::noise::{Handshake, OVERHEAD, Pattern, Session};
use kith_crypto::rng::Rng;
use kith_crypto::secret::Key;
use std::hint::black_box;
use std::time::Duration;

/// Plaintext of a full record: eight cells.
const RECORD: usize = 8 * 4096;

fn sessions(a: &Identity, b: &Identity, psk: &Key, rng: &mut Rng) -> (Session, Session) {
    let caller = Pattern::Friends { me: a, peer: &b.public().noise };
    let callee = Pattern::Friends { me: b, peer: &a.public().noise };
    let mut i = Handshake::initiate(caller, psk, b"bench", rng).expect("a handshake");
    let mut r = Handshake::respond(callee, psk, b"bench", rng).expect("a handshake");
    r.read(&i.write(&[]).expect("message 1")).expect("message 1");
    i.read(&r.write(&[]).expect("message 2")).expect("message 2");
    (i.into_session().expect("a session"), r.into_session().expect("a session"))
}

fn noise(c: &mut Criterion) {
    let mut rng = Rng::from_seed([1; 32]);
    let (a, b) = (Identity::generate(&mut rng), Identity::generate(&mut rng));
    let psk = Key::new([2; 32]);

    let mut group = c.benchmark_group("handshake");
    group
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_millis(1500));
    group.bench_function("reference: one X25519", |bench| {
        let secret = x25519_dalek::StaticSecret::from([3; 32]);
        let peer = x25519_dalek::PublicKey::from(b.public().noise);
        bench.iter(|| black_box(&secret).diffie_hellman(black_box(&peer)));
    });
    group.bench_function("KK, both sides", |bench| bench.iter(|| sessions(&a, &b, &psk, &mut rng)));
    group.finish();

    let mut group = c.benchmark_group("record");
    group
        .throughput(Throughput::Bytes(RECORD as u64))
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_millis(1500));
    let plain = vec![7; RECORD];
    group.bench_function("reference: copy", |bench| {
        let mut out = vec![0; RECORD];
        bench.iter(|| black_box(out.as_mut_slice()).copy_from_slice(black_box(&plain)));
    });
    group.bench_function("reference: BLAKE3", |bench| bench.iter(|| blake3::hash(black_box(&plain))));
    let (mut ours, _) = sessions(&a, &b, &psk, &mut rng);
    group.bench_function("seal", |bench| {
        let mut out = vec![0; RECORD + OVERHEAD];
        bench.iter(|| ours.seal(black_box(&plain), &mut out).expect("a record"));
    });
    // Each message opens once and in order: the sealing before each batch is not timed.
    let (mut ours, mut theirs) = sessions(&a, &b, &psk, &mut rng);
    group.bench_function("open", |bench| {
        let mut out = vec![0; RECORD + OVERHEAD];
        bench.iter_batched_ref(
            || {
                let mut sealed = vec![0; RECORD + OVERHEAD];
                ours.seal(&plain, &mut sealed).expect("a record");
                sealed
            },
            |sealed| theirs.open(black_box(sealed), &mut out).expect("the next record"),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, noise);
criterion_main!(benches);
