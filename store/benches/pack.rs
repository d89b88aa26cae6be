//! What a pack costs per block, against writing and reading the same bytes plainly, and against the
//! seal alone. Syncs are left out on both sides: they measure the disk.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kith_crypto::aead::BulkKey;
use kith_crypto::content::{BLOCK_LEN, Builder, Geometry, Head, Position, ReadCap, SEALED_LEN, Sealed, Tree};
use kith_crypto::passphrase::Cost;
use kith_crypto::secret::Key;
use kith_store::{Options, Store, Unlock};
use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

const BLOCKS: u64 = 256;
const PLACE_LEN: u64 = SEALED_LEN as u64 + 16;

fn object() -> (ReadCap, Vec<Sealed>) {
    let mut builder = Builder::new(Key::new([1; 32]));
    let mut blocks: Vec<_> = (0..BLOCKS).filter_map(|i| builder.push(vec![i as u8; BLOCK_LEN])).collect();
    let head = Head { len: BLOCKS * BLOCK_LEN as u64, ..Head::default() };
    let (cap, _) = builder.finish(&head, |sealed| blocks.push(sealed));
    (cap, blocks)
}

/// A block with room for the seal, as a caller that cares about copies hands it over.
fn roomy(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(SEALED_LEN + 16);
    out.extend_from_slice(bytes);
    out
}

/// Times `iters` runs of `step(i)`; before each round of [`BLOCKS`] `fresh` prepares untimed.
fn rounds<S>(iters: u64, mut fresh: impl FnMut() -> S, mut step: impl FnMut(&mut S, u64)) -> Duration {
    let mut total = Duration::ZERO;
    let mut left = iters;
    while left > 0 {
        let mut state = fresh();
        let started = Instant::now();
        (0..left.min(BLOCKS)).for_each(|i| step(&mut state, i));
        total += started.elapsed();
        left -= left.min(BLOCKS);
    }
    total
}

fn pack(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let options = Options { dir: dir.path(), unlock: Unlock::KeyFile, cost: Cost::RECOMMENDED };
    let store = Store::create(&options).expect("a new store").store;
    let (cap, blocks) = object();
    let verify = cap.verify_cap();
    let root = blocks.last().expect("the root comes last").bytes.clone();
    let block = blocks.first().expect("there is data").bytes.clone();
    let plain_path = dir.path().join("plain");
    let plain = || File::options().create(true).truncate(true).read(true).write(true).open(&plain_path);

    let mut group = c.benchmark_group("pack");
    group.throughput(Throughput::Bytes(BLOCK_LEN as u64)).sample_size(20);
    group.bench_function("write plain", |b| {
        let bytes = vec![7; PLACE_LEN as usize];
        b.iter_custom(|iters| {
            rounds(
                iters,
                || plain().expect("a file"),
                |file, i| file.write_all_at(&bytes, i * PLACE_LEN).expect("a write"),
            )
        });
    });
    group.bench_function("seal only", |b| {
        let key = BulkKey::new(&Key::new([3; 32]));
        b.iter_custom(|iters| {
            rounds(
                iters,
                || vec![roomy(&block); 1],
                |state, i| {
                    if let Some(bytes) = state.first_mut() {
                        bytes.truncate(SEALED_LEN);
                        key.seal(Position::Data(i).nonce(), &[], black_box(bytes));
                    }
                },
            )
        });
    });
    group.bench_function("write fetched", |b| {
        b.iter_custom(|iters| {
            let fresh = || {
                let _ = store.remove(&verify.root);
                let (mut tree, root) = Tree::open(&verify, root.clone()).expect("its own root");
                let pack = store.begin_fetch(&verify, None, &root, tree.geometry(), 0).expect("a pack");
                let verified: Vec<_> = blocks
                    .iter()
                    .take(BLOCKS as usize)
                    .rev()
                    .map(|s| tree.verify(s.position, roomy(&s.bytes)).expect("its own block"))
                    .collect();
                (pack, verified)
            };
            rounds(iters, fresh, |(pack, verified), _| {
                pack.write(verified.pop().expect("one block per step")).expect("a write");
            })
        });
    });
    let _ = store.remove(&verify.root);
    group.bench_function("write published", |b| {
        b.iter_custom(|iters| {
            let fresh = || {
                let copies: Vec<_> = blocks
                    .iter()
                    .take(BLOCKS as usize)
                    .rev()
                    .map(|s| Sealed { position: s.position, bytes: roomy(&s.bytes) })
                    .collect();
                (store.publish().expect("a new pack"), copies)
            };
            rounds(iters, fresh, |(publishing, copies), _| {
                publishing.write(copies.pop().expect("one block per step")).expect("a write");
            })
        });
    });
    let mut publishing = store.publish().expect("a new pack");
    blocks.into_iter().for_each(|sealed| publishing.write(sealed).expect("a write"));
    let geometry = Geometry::of(BLOCKS).expect("a shape");
    publishing.commit(&cap, geometry, 0, Vec::new()).expect("a commit");
    let open = store.pack(&verify.root).expect("the pack");
    group.bench_function("read", |b| {
        b.iter_custom(|iters| {
            rounds(
                iters,
                || (),
                |(), i| {
                    black_box(open.read(Position::Data(i)).expect("the block"));
                },
            )
        });
    });
    let file = plain().expect("a file");
    file.write_all_at(&vec![7; (BLOCKS * PLACE_LEN) as usize], 0).expect("a write");
    group.bench_function("read plain", |b| {
        b.iter_custom(|iters| {
            rounds(
                iters,
                || vec![0; PLACE_LEN as usize],
                |bytes, i| file.read_exact_at(bytes, i * PLACE_LEN).expect("a read"),
            )
        });
    });
    group.finish();

    let mut group = c.benchmark_group("store");
    group.sample_size(20);
    group.bench_function("append one record, durable", |b| {
        b.iter(|| store.append(&[vec![1; 200]]).expect("an append"));
    });
    drop((open, store));
    group.bench_function("open and close", |b| {
        b.iter(|| Store::open(&options).expect("the store"));
    });
    group.finish();
}

criterion_group!(benches, pack);
criterion_main!(benches);
