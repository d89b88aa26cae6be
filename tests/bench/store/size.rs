//! What a store takes on disk, and what grows with the bytes in it.

use crate::figures::median;
use crate::harness::random_bytes;
use crate::publish;
use crate::speed::{child, options, own_peak_mb, prepare};
use axum::body::Bytes;
use kith_crypto::aead::BulkKey;
use kith_crypto::content::{
    BLOCK_LEN, BlockId, FANOUT, MAX_BLOCKS, Position, ReadCap, ReadKeys, Root, Tree, VerifyCap,
};
use kith_crypto::rng::Rng;
use kith_crypto::secret::Key;
use kith_store::Store;
use kith_store::backend::{Backend, Real};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

const MIB: u64 = 1 << 20;
const READS: u64 = 1_000;

/// Publishes an object of random bytes as the node does.
fn publish_random(store: &Store, rng: &mut Rng, len: u64) -> ReadCap {
    let chunk = Bytes::from(random_bytes(MIB as usize));
    let mut left = len;
    let next = || {
        let n = left.min(MIB) as usize;
        left -= n as u64;
        Ok((n > 0).then(|| chunk.slice(..n)))
    };
    let meta = publish::Meta { title: "bench".into(), any_file: true, ..publish::Meta::default() };
    publish::run(store, &meta, Key::new(rng.bytes()), 1, next, |_| Ok(()), |_| vec![1; 300]).unwrap().cap
}

/// Disk used, journal, index and all, over the true lengths of what is stored, when half of it was
/// removed. Lengths are whole Padmé classes; what padding costs others is printed beside.
pub(crate) fn halves(objects: u64) {
    println!("{objects} objects of 16, 32, 64 and 128 MiB; then every second of each size is removed");
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(&options(dir.path())).unwrap().store;
    let mut rng = Rng::from_seed([5; 32]);
    let len_of = |n: u64| (16 * MIB) << (n % 4);
    let caps: Vec<_> = (0..objects).map(|n| publish_random(&store, &mut rng, len_of(n))).collect();
    let full: u64 = (0..objects).map(len_of).sum();
    let ratio = |stored: u64| Real.used_bytes(dir.path()) as f64 / stored as f64;
    println!("{:<52} {:.4}", "disk used / bytes stored, all there", ratio(full));
    let mut left = full;
    for (n, cap) in (0..).zip(&caps).filter(|(n, _)| n / 4 % 2 == 0) {
        store.remove(&cap.root).unwrap();
        left -= len_of(n);
    }
    println!("{:<52} {:.4}  <= 1.03", "disk used / bytes stored, half removed", ratio(left));
    drop(store);
    println!("{:<52} {:.4}  <= 1.03", "the same, store closed", ratio(left));
    for mib in [1, 4, 16, 64] {
        for more in [0, 1] {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::create(&options(dir.path())).unwrap().store;
            let len = mib * MIB + more;
            publish_random(&store, &mut rng, len);
            let used = Real.used_bytes(&dir.path().join("packs")) as f64 / len as f64;
            println!("{:<52} {used:.4}", format!("pack of one object of {mib} MiB + {more}: disk / length"));
        }
    }
}

/// Opening and random reads at more and more stored bytes: real packs first, then packs of the
/// largest objects of which only the root is there.
pub(crate) fn bytes(gibs: &[u64]) {
    let dir = tempfile::tempdir().unwrap();
    let (store_dir, links) = (dir.path().join("store"), dir.path().join("links"));
    drop(Store::create(&options(&store_dir)).unwrap());
    let (mut rng, mut caps) = (Rng::from_seed([6; 32]), Vec::new());
    println!(
        "{:<12} {:>10} {:>16} {:>16} {:>9}",
        "GiB", "open: ms", "read warm: us", "read cold: us", "peak MB"
    );
    for gib in gibs {
        let store = Store::open(&options(&store_dir)).unwrap().store;
        while (caps.len() as u64) < *gib {
            caps.push(publish_random(&store, &mut rng, 1_024 * MIB));
        }
        drop(store);
        let text = caps.iter().fold(String::new(), |mut text, cap| {
            writeln!(text, "{}", cap.to_link()).unwrap();
            text
        });
        std::fs::write(&links, text).unwrap();
        let once = |warm: bool| {
            if !warm {
                prepare(&store_dir.join("packs"), false);
            }
            let said = child(&["child-random", store_dir.to_str().unwrap(), links.to_str().unwrap()]);
            said.iter().map(|w| w.parse::<f64>().unwrap()).collect::<Vec<_>>()
        };
        let cold: Vec<_> = (0..3).map(|_| once(false)).collect();
        once(true);
        let warm: Vec<_> = (0..3).map(|_| once(true)).collect();
        let middle = |rows: &[Vec<f64>], at: usize| {
            let mut figures: Vec<f64> = rows.iter().map(|row| row[at]).collect();
            figures.sort_by(f64::total_cmp);
            median(&figures)
        };
        println!(
            "{gib:<12} {:>10.1} {:>16.1} {:>16.1} {:>9.1}",
            middle(&warm, 0),
            middle(&warm, 1),
            middle(&cold, 1),
            middle(&warm, 2)
        );
    }
    largest(dir.path());
}

/// Opens the store, reads random blocks of random objects. Says ms, us a read and peak of memory.
pub(crate) fn child_random(args: &[String]) {
    let begun = Instant::now();
    let store = Store::open(&options(Path::new(&args[0]))).unwrap().store;
    let opened = begun.elapsed().as_secs_f64() * 1e3;
    let links = std::fs::read_to_string(&args[1]).unwrap();
    let caps: Vec<_> = links.lines().map(|link| ReadCap::from_link(link).unwrap()).collect();
    let (mut rng, mut spent) = (Rng::from_seed([4; 32]), 0.0);
    for _ in 0..READS {
        let cap = &caps[rng.range(0, caps.len() as u64 - 1) as usize];
        let keys = ReadKeys::new(&cap.key);
        let position = Position::Data(rng.range(0, 1_024 * MIB / BLOCK_LEN as u64 - 1));
        let begun = Instant::now();
        let mut block = store.pack(&cap.root).unwrap().read(position).unwrap();
        keys.open(position, &mut block).unwrap();
        spent += begun.elapsed().as_secs_f64();
    }
    println!("{opened} {} {}", spent * 1e6 / READS as f64, own_peak_mb());
}

/// Forty objects of 256 GiB, 10 TiB in all, begun and sparse.
fn largest(dir: &Path) {
    let store_dir = dir.join("largest");
    let store = Store::create(&options(&store_dir)).unwrap().store;
    let mut rng = Rng::from_seed([2; 32]);
    let mut roots = Vec::new();
    for _ in 0..40 {
        let (cap, sealed) = root_of_largest(&mut rng);
        let (tree, root) = Tree::open(&cap, sealed).unwrap();
        store.begin_fetch(&cap, None, &root, tree.geometry(), 1).unwrap();
        roots.push(cap.root);
    }
    drop(store);
    let begun = Instant::now();
    let store = Store::open(&options(&store_dir)).unwrap().store;
    let opened = begun.elapsed().as_secs_f64() * 1e3;
    let begun = Instant::now();
    roots.iter().for_each(|root| drop(store.pack(root).unwrap().read(Position::Root).unwrap()));
    let read = begun.elapsed().as_secs_f64() * 1e6 / roots.len() as f64;
    println!("{:<12} {opened:>10.1} {read:>16.1} (packs opened and their roots read; sparse)", "10,240");
    println!("peak MB of the process that made and opened them: {:.1}", own_peak_mb());
}

/// The root of an object with the most blocks (`docs/protocol/content.md`), whose data nobody has.
fn root_of_largest(rng: &mut Rng) -> (VerifyCap, Vec<u8>) {
    let tree = Key::new(rng.bytes());
    let mut plain = b"KRT1\x01".to_vec();
    plain.extend_from_slice(&MAX_BLOCKS.to_le_bytes());
    (0..=FANOUT).for_each(|_| plain.extend_from_slice(&rng.bytes::<32>()));
    plain.resize(BLOCK_LEN, 0);
    BulkKey::new(&tree).seal(Position::Root.nonce(), &[], &mut plain);
    (VerifyCap { root: Root(BlockId::of(&plain).0), tree }, plain)
}
