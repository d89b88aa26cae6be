//! What a whole view of 1,000 entries costs: answering the pulls for it, and taking the pages in,
//! next to decoding and encoding the same entries alone.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use kith_crypto::content::{ReadCap, Root};
use kith_crypto::rng::Rng;
use kith_crypto::secret::Key;
use kith_onion::catalogue::{Act, Audience, Catalogue, Pace};
use kith_onion::control::{Delta, Part};
use kith_onion::entry::Entry;
use kith_onion::{FriendKey, Now};
use std::hint::black_box;
use std::time::Duration;

const ENTRIES: u16 = 1_000;
const DAY: u32 = 20_000;
const HOLDER: FriendKey = FriendKey([1; 32]);
const ASKER: FriendKey = FriendKey([2; 32]);

fn now(seconds: u64) -> Now {
    Now { at: Duration::from_secs(seconds), unix_ms: (u64::from(DAY) * 86_400 + seconds) * 1000 }
}

fn entry(n: u16) -> Entry {
    let mut root = [3; 32];
    root[..2].copy_from_slice(&n.to_be_bytes());
    Entry {
        cap: ReadCap { root: Root(root), key: Key::new([4; 32]) },
        title: format!("A day at the zoo, part {n}"),
        published_day: DAY,
        expires_day: DAY + 30,
        ..Entry::sample()
    }
}

fn catalogue(seed: u8, friend: FriendKey) -> Catalogue {
    let mut catalogue = Catalogue::new(Pace::default(), Key::new([seed; 32]), Rng::from_seed([seed; 32]));
    catalogue.add_friend(friend);
    catalogue
}

/// A catalogue that has asked `HOLDER` for its own part.
fn asking() -> Catalogue {
    let mut asker = catalogue(6, HOLDER);
    asker.connected(now(0), HOLDER);
    asker.timeout(now(2));
    let asks = |act| matches!(act, Act::Pull(friend, Part::Own, ..) if friend == HOLDER);
    assert!(std::iter::from_fn(|| asker.poll()).any(asks), "the first pull is due");
    asker
}

/// All pages of the holder's own part.
fn pull(holder: &mut Catalogue) -> Vec<Delta> {
    let (mut pages, mut log, mut since) = (Vec::new(), 0, 0);
    loop {
        let page = holder.pulled(now(1), ASKER, Part::Own, log, since).expect("a friend is answered");
        (log, since) = (page.log, page.upto);
        let more = page.more;
        pages.push(page);
        if !more {
            return pages;
        }
    }
}

/// Takes all pages in, asking for each.
fn take(asker: &mut Catalogue, pages: Vec<Delta>) {
    for (i, page) in pages.into_iter().enumerate() {
        if i > 0 {
            asker.timeout(now(2));
        }
        asker.delta(now(2), HOLDER, page);
        while let Some(act) = asker.poll() {
            black_box(act);
        }
    }
}

fn view(c: &mut Criterion) {
    let mut holder = catalogue(5, ASKER);
    (0..ENTRIES).for_each(|n| holder.publish(now(0), entry(n), Audience::Friends, true));
    let pages = pull(&mut holder);
    let told: usize = pages.iter().map(|p| p.ops.len()).sum();
    assert_eq!(told, usize::from(ENTRIES), "the pages hold the whole view");
    let mut asker = asking();
    take(&mut asker, pages.clone());
    assert_eq!(asker.len(), usize::from(ENTRIES), "the whole view was taken");

    let mut group = c.benchmark_group("view of 1,000 entries");
    group
        .throughput(Throughput::Elements(ENTRIES.into()))
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    let encoded: Vec<Vec<u8>> = (0..ENTRIES).map(|n| entry(n).encode()).collect();
    group.bench_function("reference: decode and encode", |b| {
        b.iter(|| {
            let decoded = black_box(&encoded).iter().map(|bytes| Entry::decode(bytes).expect("an entry"));
            decoded.map(|entry| entry.encode().len()).sum::<usize>()
        });
    });
    group.bench_function("pulled", |b| b.iter(|| pull(&mut holder)));
    group.bench_function("delta", |b| {
        b.iter_batched(
            || (asking(), pages.clone()),
            |(mut asker, pages)| {
                take(&mut asker, pages);
                asker
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, view);
criterion_main!(benches);
