//! What a link costs on top of its seal, in full records of eight cells: both ends together, next
//! to sealing and opening the same bytes with the bare session and to copying them; and what the
//! order of leaving costs, next to plain turns.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use kith_crypto::content::{Position, SEALED_LEN};
use kith_crypto::noise::{Handshake, OVERHEAD, Pattern, Session};
use kith_crypto::rng::Rng;
use kith_crypto::secret::Key;
use kith_onion::cell::{CELL_LEN, CellRef, STREAM_LEN};
use kith_onion::link::{Link, MAX_CELLS, Outgoing, RECORD_LEN, open_plain};
use kith_onion::schedule::{Allowance, Class, Flow, Schedule, Turn, Weights};
use kith_onion::session::{Assembler, ByteQueue, Message};
use std::collections::{BTreeMap, VecDeque};
use std::hint::black_box;
use std::time::Duration;

/// Cells of one record's worth of one tunnel.
const PLAIN: usize = MAX_CELLS * CELL_LEN;
const STREAM: usize = MAX_CELLS * STREAM_LEN;
const CIRC: u32 = 2;

fn sessions() -> (Session, Session) {
    let (psk, mut rng) = (Key::new([1; 32]), Rng::from_seed([2; 32]));
    let mut a = Handshake::initiate(Pattern::Tunnel, &psk, b"", &mut rng).expect("a handshake");
    let mut b = Handshake::respond(Pattern::Tunnel, &psk, b"", &mut rng).expect("a handshake");
    b.read(&a.write(b"").expect("message 1")).expect("message 1");
    a.read(&b.write(b"").expect("message 2")).expect("message 2");
    (a.into_session().expect("a session"), b.into_session().expect("a session"))
}

fn link(c: &mut Criterion) {
    let mut group = c.benchmark_group("link");
    group
        .throughput(Throughput::Bytes(PLAIN as u64))
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    group.bench_function("reference: copy", |b| {
        let (plain, mut out) = (vec![7; PLAIN], vec![0; PLAIN]);
        b.iter(|| black_box(out.as_mut_slice()).copy_from_slice(black_box(&plain)));
    });
    group.bench_function("reference: session seal and open", |b| {
        let (mut ours, mut theirs) = sessions();
        let plain = vec![7; PLAIN];
        let (mut wire, mut back) = (vec![0; PLAIN + OVERHEAD], vec![0; PLAIN + OVERHEAD]);
        b.iter(|| {
            let n = ours.seal(black_box(&plain), &mut wire).expect("a record");
            theirs.open(&wire[..n], &mut back).expect("the same record")
        });
    });
    group.bench_function("transmit and receive", |b| {
        let (ours, theirs) = sessions();
        let (mut ours, mut theirs) = (Link::new(ours), Link::new(theirs));
        ours.open_tunnel(
            CIRC,
            Flow::default(),
            Outgoing::Session { queue: ByteQueue::default(), seal: None },
        );
        let mut wire = vec![0; RECORD_LEN];
        // What the tunnel carries comes from storage: making it is not the link's cost.
        b.iter_batched(
            || vec![7; STREAM],
            |bytes| {
                ours.with_queue(CIRC, |queue| queue.push(bytes));
                let n = ours.transmit(Duration::ZERO, &mut { Allowance::ALL }, &mut wire).expect("a record");
                let mut input = &wire[..n];
                let record = theirs.receive(&mut input).expect("good bytes").expect("a whole record");
                let mut got = 0;
                for cell in record.as_chunks::<CELL_LEN>().0 {
                    let cell = CellRef::decode(cell).expect("a cell");
                    got += open_plain(cell.body).expect("stream bytes").len();
                }
                theirs.recycle(record);
                black_box(ours.take_left());
                assert_eq!((n, got), (RECORD_LEN, STREAM), "one full record");
                ours.credit(CIRC, MAX_CELLS as u16).expect("what was used");
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();

    let mut group = c.benchmark_group("assembler");
    let mut queue = ByteQueue::default();
    (0..16).for_each(|i| Message::Block(Position::Data(i), vec![7; SEALED_LEN]).push_to(&mut queue));
    let mut stream = vec![0; queue.len()];
    queue.take(&mut stream);
    group
        .throughput(Throughput::Bytes(stream.len() as u64))
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    group.bench_function("reference: copy by block", |b| {
        b.iter(|| black_box(&stream).chunks(SEALED_LEN).map(<[u8]>::to_vec).collect::<Vec<_>>());
    });
    group.bench_function("feed by cell, 16 blocks", |b| {
        b.iter(|| {
            let (mut assembler, mut out) = (Assembler::default(), Vec::new());
            for bytes in black_box(&stream).chunks(STREAM_LEN) {
                assembler.feed(bytes, &mut out).expect("good messages");
            }
            out
        });
    });
    group.finish();
}

/// Tunnels that all have something to send, of eight friends in two classes.
const TUNNELS: u32 = 64;

fn flow(circ: u32) -> Flow {
    let class = if circ.is_multiple_of(2) { Class::Own } else { Class::Fof };
    Flow { class, from: circ % 8 }
}

fn order(c: &mut Criterion) {
    let mut group = c.benchmark_group("order of leaving");
    group
        .throughput(Throughput::Elements(MAX_CELLS as u64))
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    group.bench_function("reference: plain turns of 64 tunnels, 8 cells", |b| {
        let mut tunnels: BTreeMap<u32, bool> = (0..TUNNELS).map(|circ| (circ, true)).collect();
        let mut turn: VecDeque<u32> = (0..TUNNELS).collect();
        b.iter(|| {
            for _ in 0..MAX_CELLS {
                let circ = turn.pop_front().expect("all are ready");
                *tunnels.get_mut(black_box(&circ)).expect("it is there") = true;
                turn.push_back(circ);
            }
        });
    });
    group.bench_function("schedule of 64 tunnels, 8 cells", |b| {
        let mut tunnels: BTreeMap<u32, u64> = (0..TUNNELS).map(|circ| (circ, 0)).collect();
        let mut schedule = Schedule::new(Weights::default());
        (0..TUNNELS).for_each(|circ| schedule.ready(circ, flow(circ), 0));
        b.iter(|| {
            for _ in 0..MAX_CELLS {
                let Some(Turn::Tunnel(served)) = schedule.next(&Allowance::ALL) else { return };
                *tunnels.get_mut(black_box(&served.circ)).expect("it is there") = served.sent;
                schedule.done(served, true);
            }
        });
    });
    group.finish();

    let mut group = c.benchmark_group("link");
    group
        .throughput(Throughput::Bytes(PLAIN as u64))
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    group.bench_function("transmit, 64 tunnels", |b| {
        let mut ours = Link::new(sessions().0);
        for circ in 0..TUNNELS {
            ours.open_tunnel(circ, flow(circ), Outgoing::Session { queue: ByteQueue::default(), seal: None });
        }
        let (mut wire, mut next) = (vec![0; RECORD_LEN], 0);
        b.iter_batched(
            || vec![vec![7; STREAM_LEN]; MAX_CELLS],
            |pieces| {
                for piece in pieces {
                    next = (next + 1) % TUNNELS;
                    ours.with_queue(next, |queue| queue.push(piece));
                    ours.credit(next, 1).expect("what is used next");
                }
                let n = ours.transmit(Duration::ZERO, &mut { Allowance::ALL }, &mut wire).expect("a record");
                assert_eq!(n, RECORD_LEN);
                ours.take_left()
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, link, order);
criterion_main!(benches);
