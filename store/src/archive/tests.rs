//! Every byte of an archive counts: flips, cuts, swaps, repeats and additions are noticed, and objects
//! come in only as their tree names them.

use super::*;
use crate::vectors;
use crate::{Opened, Options, Store, Unlock};
use kith_crypto::content::{Builder, Head, Position, ReadCap, Root, SEALED_LEN, Sealed, TreeError};
use proptest::prelude::*;
use std::collections::BTreeMap;

const CHEAP: Cost = Cost { memory_kib: 64, passes: 1 };
const SECRET: [u8; 32] = [7; 32];

fn header() -> Header {
    Header::bundle([2; 32])
}

fn key(header: &Header) -> ArchiveKey {
    header.key(&Key::new(SECRET))
}

fn archive(fill: impl FnOnce(&mut ItemWriter<Sealer<Vec<u8>>>)) -> Vec<u8> {
    let header = header();
    let sealer = Sealer::begin(Vec::new(), &header, &key(&header)).unwrap();
    let mut items = ItemWriter::begin(sealer, 9).unwrap();
    fill(&mut items);
    items.seal().unwrap().0
}

fn read_with(bytes: &[u8], secret: &Key) -> Result<Vec<Item>, ArchiveError> {
    let locked = Locked::read(bytes)?;
    let key = locked.header().key(secret);
    let mut items = ItemReader::new(locked.open(&key)?);
    let mut out = Vec::new();
    while let Some(item) = items.next_item()? {
        out.push(item);
    }
    Ok(out)
}

fn read(bytes: &[u8]) -> Result<Vec<Item>, ArchiveError> {
    read_with(bytes, &Key::new(SECRET))
}

fn small() -> Vec<u8> {
    archive(|items| items.record(b"a record").unwrap())
}

/// Several chunks: 0, 1 and 2 are not the last.
fn long() -> Vec<u8> {
    archive(|items| (0..3).for_each(|n| items.record(&vec![n; CHUNK_LEN]).unwrap()))
}

#[test]
fn what_went_in_comes_out() {
    let items = read(&small()).unwrap();
    let counts = Counts { records: 1, ..Counts::default() };
    let record = Item::Record(Zeroizing::new(b"a record".to_vec()));
    assert_eq!(items, [Item::About(9), record, Item::End(counts)]);
    assert_eq!(small().len(), HEADER_LEN + SEALED_CHUNK_LEN);
    let items = read(&long()).unwrap();
    assert_eq!(items.len(), 5);
    assert_eq!(long().len(), HEADER_LEN + 4 * SEALED_CHUNK_LEN);
}

#[test]
fn items_that_end_with_a_chunk_need_no_other_one() {
    // About 13, record 5 + n, end 29 bytes.
    for extra in [0, 1] {
        let bytes = archive(|items| items.record(&vec![1; CHUNK_LEN - 13 - 5 - 29 + extra]).unwrap());
        assert_eq!(bytes.len(), HEADER_LEN + (1 + extra) * SEALED_CHUNK_LEN);
        assert_eq!(read(&bytes).unwrap().len(), 3);
    }
}

#[test]
fn a_flipped_byte_anywhere_is_noticed() {
    let good = small();
    // The whole header, both ends of the chunk, and a step through it that meets every residue of 64.
    let inner = (HEADER_LEN + 200..good.len() - 40).step_by(61);
    for at in (0..HEADER_LEN + 200).chain(inner).chain(good.len() - 40..good.len()) {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        let error = read(&bad).unwrap_err();
        let expected = match at {
            0..8 => matches!(error, ArchiveError::NotAnArchive),
            8 => matches!(error, ArchiveError::Newer(_) | ArchiveError::Damaged(_)),
            _ => matches!(error, ArchiveError::Damaged(_)),
        };
        assert!(expected, "byte {at}: {error:?}");
    }
}

#[test]
fn every_cut_is_noticed_and_so_is_what_was_added() {
    let good = long();
    let interesting = (0..HEADER_LEN + 3).chain((1..5).flat_map(|n| {
        let end = HEADER_LEN + n * SEALED_CHUNK_LEN;
        end - 3..(end + 3).min(HEADER_LEN + 4 * SEALED_CHUNK_LEN)
    }));
    for len in interesting.filter(|len| *len < good.len()) {
        let error = read(&good[..len]).unwrap_err();
        match len {
            0..8 => assert!(matches!(error, ArchiveError::NotAnArchive), "{len}: {error:?}"),
            8..HEADER_LEN => assert!(matches!(error, ArchiveError::Damaged(_)), "{len}: {error:?}"),
            _ => assert!(matches!(error, ArchiveError::Cut), "{len}: {error:?}"),
        }
    }
    for more in [1, 16, SEALED_CHUNK_LEN - 1, SEALED_CHUNK_LEN, 2 * SEALED_CHUNK_LEN] {
        let long = [&good[..], &vec![0; more]].concat();
        assert!(read(&long).is_err(), "{more} bytes more");
    }
}

#[test]
fn swapped_repeated_and_missing_chunks_are_noticed() {
    let good = long();
    let (head, rest) = good.split_at(HEADER_LEN);
    let chunks: Vec<&[u8]> = rest.chunks(SEALED_CHUNK_LEN).collect();
    let build = |order: &[usize]| {
        let parts: Vec<&[u8]> = order.iter().map(|n| chunks[*n]).collect();
        [head, &parts.concat()].concat()
    };
    assert!(read(&build(&[0, 1, 2, 3])).is_ok(), "the control");
    for order in [&[1, 0, 2, 3][..], &[0, 1, 1, 2, 3], &[0, 2, 3], &[1, 2, 3], &[0, 1, 2, 3, 3], &[3]] {
        assert!(read(&build(order)).is_err(), "{order:?}");
    }
    // Chunks of another archive under the same secret.
    let other = Header::bundle([3; 32]);
    let mut sealer = Sealer::begin(Vec::new(), &other, &key(&other)).unwrap();
    sealer.write_all(&[0; 3 * CHUNK_LEN]).unwrap();
    let other = sealer.finish().unwrap();
    let second = &other[HEADER_LEN + SEALED_CHUNK_LEN..][..SEALED_CHUNK_LEN];
    assert!(read(&[head, chunks[0], second, chunks[2], chunks[3]].concat()).is_err());
}

#[test]
fn a_wrong_key_is_told_from_damage() {
    assert!(matches!(read_with(&small(), &Key::new([8; 32])), Err(ArchiveError::WrongKey)));
    let header = Header::backup(CHEAP, [5; 32]);
    let key = header.key_of_passphrase(b"right").unwrap();
    let bytes = Sealer::begin(Vec::new(), &header, &key).unwrap().finish().unwrap();
    let locked = Locked::read(&bytes[..]).unwrap();
    assert!(locked.fits(&locked.header().key_of_passphrase(b"right").unwrap()));
    assert!(!locked.fits(&locked.header().key_of_passphrase(b"wrong").unwrap()));
    assert!(super::tests::header().key_of_passphrase(b"right").is_none(), "a bundle has no passphrase");
}

#[test]
fn a_cost_that_would_take_all_memory_is_refused() {
    let bomb = Header::backup(Cost { memory_kib: u32::MAX, passes: 1 }, [0; 32]);
    assert!(bomb.key_of_passphrase(b"x").is_none());
}

/// Plaintext that somebody with the key wrote wrongly.
fn forged(plain: &[u8]) -> Vec<u8> {
    let header = header();
    let mut sealer = Sealer::begin(Vec::new(), &header, &key(&header)).unwrap();
    sealer.write_all(plain).unwrap();
    sealer.finish().unwrap()
}

#[test]
fn items_out_of_order_too_long_or_miscounted_are_refused() {
    let about = [&[1, 8, 0, 0, 0][..], &[0; 8]].concat();
    let end = |records: u8| [&[6, 24, 0, 0, 0, records][..], &[0; 23]].concat();
    let record = [2, 1, 0, 0, 0, 77];
    let good = [&about[..], &record, &end(1)].concat();
    assert!(read(&forged(&good)).is_ok(), "the control");
    let block = [&[5, 25, 0, 1, 0][..], &[0; 9 + SEALED_LEN]].concat();
    let cases: [(&str, Vec<u8>); 9] = [
        ("no time first", [&record[..], &end(1)].concat()),
        ("two times", [&about[..], &about, &end(0)].concat()),
        ("a wrong count", [&about[..], &record, &end(2)].concat()),
        ("an empty record", [&about[..], &[2, 0, 0, 0, 0], &end(1)].concat()),
        ("a length beyond all", [&about[..], &[2, 255, 255, 255, 255]].concat()),
        ("an unknown kind", [&about[..], &[7, 0, 0, 0, 0], &end(0)].concat()),
        ("a block of no object", [&about[..], &block, &end(0)].concat()),
        ("something after the end", [&good[..], &[1]].concat()),
        ("no end", about.clone()),
    ];
    for (what, plain) in cases {
        assert!(matches!(read(&forged(&plain)), Err(ArchiveError::Damaged(_))), "{what}");
    }
}

// Objects.

struct Object {
    cap: ReadCap,
    blocks: BTreeMap<Position, Vec<u8>>,
    geometry: kith_crypto::content::Geometry,
}

fn object(blocks: u64, key: u8) -> Object {
    let mut builder = Builder::new(Key::new([key; 32]));
    let mut all: Vec<Sealed> = (0..blocks).map(|i| builder.push(i.to_le_bytes().to_vec()).unwrap()).collect();
    let (cap, geometry) = builder.finish(&Head { len: blocks * 65_536, ..Head::default() }, |s| all.push(s));
    Object { cap, geometry, blocks: all.into_iter().map(|s| (s.position, s.bytes)).collect() }
}

fn store(dir: &std::path::Path) -> Store {
    let Opened { store, .. } = Store::create(&Options { dir, unlock: Unlock::KeyFile, cost: CHEAP }).unwrap();
    store
}

fn publish(store: &Store, object: &Object) {
    let mut publishing = store.publish().unwrap();
    let data = object.blocks.iter().filter(|(p, _)| matches!(p, Position::Data(_)));
    let rest = object.blocks.iter().filter(|(p, _)| !matches!(p, Position::Data(_)));
    for (position, bytes) in data.chain(rest) {
        publishing.write(Sealed { position: *position, bytes: bytes.clone() }).unwrap();
    }
    publishing.commit(&object.cap, object.geometry, 5, vec![1]).unwrap();
}

fn item(object: &Object) -> ObjectItem {
    ObjectItem {
        root: object.cap.root,
        tree: object.cap.verify_cap().tree,
        read: None,
        class: None,
        data_count: object.geometry.data_count(),
        added_unix_s: 0,
        blocks: object.geometry.total(),
    }
}

/// Imports the one object of an archive.
fn import(store: &Store, bytes: &[u8], read: Option<Key>) -> Result<Option<Kept>, ArchiveError> {
    let locked = Locked::read(bytes)?;
    let key = key(locked.header());
    let mut items = ItemReader::new(locked.open(&key)?);
    let mut open = None;
    let result = loop {
        match items.next_item() {
            Ok(Some(Item::Object(item))) => open = Some(Importer::begin(store, &item, read.clone(), 7)),
            Ok(Some(Item::Block(position, sealed))) => {
                if let Err(e) = open.as_mut().unwrap().block(position, sealed) {
                    break Err(e);
                }
            }
            Ok(Some(_)) => {}
            Ok(None) => break Ok(()),
            Err(e) => break Err(e),
        }
    };
    let kept = open.map_or(Ok(None), Importer::finish)?;
    result.map(|()| kept)
}

#[test]
fn an_object_goes_from_store_to_store_and_stays_what_it_is() {
    // Two levels of nodes need their order.
    for blocks in [1, 3, 2050] {
        let object = object(blocks, 1);
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (from, to) = (store(from.path()), store(to.path()));
        publish(&from, &object);
        let info = from.object(&object.cap.root).unwrap();
        let mut count = 0;
        let bytes = archive(|items| {
            let written = write_object(&from, &info, false, items, &mut || count += 1).unwrap();
            assert_eq!(written, object.geometry.total());
        });
        assert_eq!(count, object.geometry.total());
        let items = read(&bytes).unwrap();
        let Some(Item::Object(carried)) = items.get(1) else { panic!("{items:?}") };
        assert!(carried.read.is_none() && carried.class.is_none(), "a bundle reads nothing");

        let kept = import(&to, &bytes, Some(object.cap.key.clone())).unwrap().unwrap();
        assert!(kept.complete && kept.new == kept.total && kept.present == kept.total);
        let info = to.object(&object.cap.root).unwrap();
        assert!(info.complete && info.read.as_ref() == Some(&object.cap.key));
        let pack = to.pack(&object.cap.root).unwrap();
        assert!(object.blocks.iter().all(|(p, bytes)| pack.read(*p).unwrap() == *bytes));
        let again = import(&to, &bytes, None).unwrap().unwrap();
        assert_eq!((again.new, again.complete), (0, true));
    }
}

#[test]
fn a_read_key_of_something_else_is_left_aside() {
    let object = object(1, 1);
    let dir = tempfile::tempdir().unwrap();
    let to = store(dir.path());
    let bytes = whole(&object, |_, _| {});
    import(&to, &bytes, Some(Key::new([99; 32]))).unwrap();
    assert!(to.object(&object.cap.root).unwrap().read.is_none());
}

/// An archive of the object whose blocks `meddle` may change.
fn whole(object: &Object, meddle: impl Fn(Position, &mut Vec<u8>)) -> Vec<u8> {
    archive(|items| {
        items.object(item(object)).unwrap();
        let mut order: Vec<Position> = object.blocks.keys().copied().collect();
        order.sort_by_key(|p| match p {
            Position::Root => 0,
            Position::Head => 1,
            Position::Node(_) => 2,
            Position::Data(_) => 3,
        });
        for position in order {
            let mut bytes = object.blocks[&position].clone();
            meddle(position, &mut bytes);
            items.block(position, bytes).unwrap();
        }
    })
}

#[test]
fn a_liar_is_refused_at_the_first_bad_block_and_what_was_good_stays() {
    let object = object(5, 1);
    let dir = tempfile::tempdir().unwrap();
    let to = store(dir.path());
    let bad = whole(&object, |p, bytes| {
        if p == Position::Data(3) {
            bytes[9] ^= 1
        }
    });
    let error = import(&to, &bad, None).unwrap_err();
    assert!(
        matches!(error, ArchiveError::Block(root, Position::Data(3), TreeError::Id) if root == object.cap.root)
    );
    let pack = to.pack(&object.cap.root).unwrap();
    assert!(pack.has(Position::Data(2)) && !pack.has(Position::Data(3)) && !pack.is_complete());
    // The liar is known as one also for what is here already; the rest comes from an honest one.
    let bad = whole(&object, |p, bytes| {
        if p == Position::Head {
            bytes[0] ^= 1
        }
    });
    assert!(matches!(import(&to, &bad, None), Err(ArchiveError::Block(_, Position::Head, _))));
    let kept = import(&to, &whole(&object, |_, _| {}), None).unwrap().unwrap();
    assert!(kept.complete && kept.new == 2);
}

#[test]
fn a_wrong_root_a_wrong_tree_key_and_a_wrong_shape_store_nothing() {
    let object = object(2, 1);
    let dir = tempfile::tempdir().unwrap();
    let to = store(dir.path());
    let with = |change: fn(&mut ObjectItem), first: Position| {
        archive(|items| {
            let mut about = item(&object);
            change(&mut about);
            items.object(about).unwrap();
            items.block(first, object.blocks[&first].clone()).unwrap();
        })
    };
    let cases = [
        with(|about| about.root = Root([1; 32]), Position::Root),
        with(|about| about.tree = Key::new([1; 32]), Position::Root),
        with(|about| about.data_count = 3, Position::Root),
        with(|_| {}, Position::Head),
    ];
    for bytes in cases {
        assert!(import(&to, &bytes, None).is_err());
        assert!(to.objects().is_empty());
    }
    let control = with(|_| {}, Position::Root);
    assert_eq!(import(&to, &control, None).unwrap().unwrap().present, 1);
}

#[test]
fn a_partial_object_travels_as_far_as_it_is_here() {
    let object = object(2050, 1);
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (a, b) = (store(a.path()), store(b.path()));
    let some = archive(|items| {
        items.object(item(&object)).unwrap();
        for position in [Position::Root, Position::Node(1), Position::Data(2048), Position::Data(2046)] {
            items.block(position, object.blocks[&position].clone()).unwrap();
        }
    });
    assert_eq!(import(&a, &some, None).unwrap().unwrap().present, 4);
    let info = a.object(&object.cap.root).unwrap();
    assert_eq!(block_count(&a, &object.cap.root), 4);
    let onward = archive(|items| {
        write_object(&a, &info, false, items, &mut || {}).unwrap();
    });
    let kept = import(&b, &onward, None).unwrap().unwrap();
    assert_eq!((kept.present, kept.complete), (4, false));
    // A data block without the node above it cannot be checked.
    let orphan = archive(|items| {
        items.object(item(&object)).unwrap();
        for position in [Position::Root, Position::Data(5)] {
            items.block(position, object.blocks[&position].clone()).unwrap();
        }
    });
    assert!(matches!(import(&b, &orphan, None), Err(ArchiveError::Block(_, _, TreeError::NodeMissing(0)))));
}

#[test]
fn vectors_stand() {
    let head_fields: &[(usize, &str)] =
        &[(8, "magic KITHARC 00"), (1, "version 1"), (1, "kind"), (4, "memory_kib"), (4, "passes")];
    let rest: &[(usize, &str)] = &[
        (32, "salt"),
        (16, "check: mac16(derive(ARCHIVE_CHECK, [file key]), the 50 bytes before)"),
        (8, "sum: first 8 bytes of BLAKE3 of the 66 bytes before"),
    ];
    let fields = [head_fields, rest].concat();
    vectors::check("archive_header_bundle", &small()[..HEADER_LEN], &fields);
    let backup = Header::backup(CHEAP, [5; 32]);
    let key = backup.key_of_passphrase(b"one two three").unwrap();
    let bytes = Sealer::begin(Vec::new(), &backup, &key).unwrap().finish().unwrap();
    vectors::check("archive_header_backup", &bytes[..HEADER_LEN], &fields);
    // Where a chunk begins and ends; its middle is zeros under the cipher.
    let sealed = &small()[HEADER_LEN..];
    let ends = [&sealed[..64], &sealed[sealed.len() - 16..]].concat();
    vectors::check(
        "archive_chunk_ends",
        &ends,
        &[(64, "first bytes of the only chunk: items of one record `a record`, made at 9"), (16, "its tag")],
    );
    let object = ObjectItem {
        root: Root([1; 32]),
        tree: Key::new([2; 32]),
        read: Some(Key::new([3; 32])),
        class: Some(1),
        data_count: 4,
        added_unix_s: 5,
        blocks: 6,
    };
    let mut items = ItemWriter::begin(Vec::new(), 9).unwrap();
    items.record(b"a record").unwrap();
    items.config(b"name = \"x\"").unwrap();
    items.object(object).unwrap();
    let (plain, _) = items.finish().unwrap();
    vectors::check(
        "archive_items",
        &plain,
        &[
            (5, "ABOUT, 8 bytes"),
            (8, "created, Unix seconds"),
            (5, "RECORD, 8 bytes"),
            (8, "the record"),
            (5, "CONFIG, 10 bytes"),
            (10, "the file"),
            (5, "OBJECT, 122 bytes"),
            (32, "root"),
            (32, "tree key"),
            (1, "class 1: pinned"),
            (1, "it has a read key"),
            (32, "read key"),
            (8, "data blocks of the object"),
            (8, "added, Unix seconds"),
            (8, "most blocks that follow"),
            (5, "END, 24 bytes"),
            (8, "records"),
            (8, "objects"),
            (8, "blocks"),
        ],
    );
}

proptest! {
    #[test]
    fn any_bytes_give_an_error_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(read(&bytes).is_err());
        let _ = read(&[&small()[..HEADER_LEN], &bytes].concat());
    }

    #[test]
    fn any_plaintext_gives_items_or_an_error(plain in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = read(&forged(&plain));
        let about = [&[1, 8, 0, 0, 0][..], &[0; 8]].concat();
        let _ = read(&forged(&[&about[..], &plain].concat()));
    }

    #[test]
    fn any_records_come_back(records in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..90_000), 0..4)) {
        let bytes = archive(|items| records.iter().for_each(|r| items.record(r).unwrap()));
        let back: Vec<Vec<u8>> = read(&bytes).unwrap().into_iter().filter_map(|item| match item {
            Item::Record(bytes) => Some(bytes.to_vec()),
            _ => None,
        }).collect();
        prop_assert_eq!(back, records);
    }
}
