//! What sealing, building and verifying cost per block of 64 KiB, next to a plain copy and a plain
//! hash of the same bytes.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use kith_crypto::aead::{BulkKey, TAG_LEN};
use kith_crypto::content::{BLOCK_LEN, Builder, Head, Position, SEALED_LEN, Sealed, Tree};
use kith_crypto::secret::Key;
use std::hint::black_box;
use std::time::Duration;

/// A buffer with the plaintext of a block and room for the tag.
fn block() -> Vec<u8> {
    let mut out = Vec::with_capacity(SEALED_LEN + TAG_LEN);
    out.resize(BLOCK_LEN, 7);
    out
}

fn content(c: &mut Criterion) {
    let mut group = c.benchmark_group("block");
    group
        .throughput(Throughput::Bytes(BLOCK_LEN as u64))
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_millis(1500));

    let plain = block();
    group.bench_function("reference: copy", |b| {
        let mut out = vec![0; BLOCK_LEN];
        b.iter(|| black_box(out.as_mut_slice()).copy_from_slice(black_box(&plain)));
    });
    group.bench_function("reference: BLAKE3", |b| b.iter(|| blake3::hash(black_box(&plain))));

    let key = BulkKey::new(&Key::new([1; 32]));
    let nonce = Position::Data(3).nonce();
    group.bench_function("seal", |b| {
        let mut buf = block();
        b.iter(|| {
            buf.truncate(BLOCK_LEN);
            key.seal(nonce, &[], black_box(&mut buf));
        });
    });
    group.bench_function("copy and open", |b| {
        let mut sealed = block();
        key.seal(nonce, &[], &mut sealed);
        let mut buf = vec![0; SEALED_LEN];
        // Opening is in place, so each run needs the sealed bytes again.
        b.iter(|| {
            buf.copy_from_slice(&sealed);
            key.open(nonce, &[], black_box(&mut buf)).expect("its own block").len()
        });
    });

    let mut builder = Builder::new(Key::new([2; 32]));
    let mut all: Vec<Sealed> = (0..16).filter_map(|_| builder.push(block())).collect();
    let data = all.first().expect("sixteen were pushed").bytes.clone();
    let head = Head { len: 16 * BLOCK_LEN as u64, ..Head::default() };
    let (cap, _) = builder.finish(&head, |sealed| all.push(sealed));
    let root = all.pop().expect("the root comes last").bytes;
    let (mut tree, _) = Tree::open(&cap.verify_cap(), root).expect("its own root");
    group.bench_function("Tree::verify", |b| {
        // The same buffer goes in and comes back.
        let mut buf = data.clone();
        b.iter(|| {
            let block = tree.verify(Position::Data(0), std::mem::take(&mut buf)).expect("its own block");
            buf = block.into_bytes();
        });
    });
    group.bench_function("Builder::push", |b| {
        let mut builder = Builder::new(Key::new([3; 32]));
        b.iter_batched(
            block,
            |block| {
                // The largest object is out of reach of any measurement, but stay safe.
                if let Some(sealed) = builder.push(block) {
                    return sealed.bytes;
                }
                builder = Builder::new(Key::new([3; 32]));
                Vec::new()
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, content);
criterion_main!(benches);
