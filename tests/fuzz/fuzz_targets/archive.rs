//! Backups and bundles: files that somebody else wrote, chunks under the right header, and items that
//! were sealed with the right key and mean anything.
#![no_main]

use kith_crypto::secret::Key;
use kith_fuzz::form;
use kith_store::archive::{ArchiveError, Header, Item, ItemReader, ItemWriter, Locked, Sealer};
use libfuzzer_sys::fuzz_target;
use std::io::Write;

fn header() -> Header {
    Header::bundle([2; 32])
}

fn secret() -> Key {
    Key::new([7; 32])
}

fn begin() -> Sealer<Vec<u8>> {
    let header = header();
    Sealer::begin(Vec::new(), &header, &header.key(&secret())).expect("memory")
}

fn read(file: &[u8]) -> Result<Vec<Item>, ArchiveError> {
    let locked = Locked::read(file)?;
    let key = locked.header().key(&secret());
    let mut items = ItemReader::new(locked.open(&key)?);
    let mut out = Vec::new();
    while let Some(item) = items.next_item()? {
        out.push(item);
    }
    Ok(out)
}

/// The plaintext of these items, written again.
fn again(items: Vec<Item>) -> Vec<u8> {
    let mut items = items.into_iter();
    let Some(Item::About(created)) = items.next() else { panic!("a time stands first") };
    let mut writer = ItemWriter::begin(Vec::new(), created).expect("memory");
    let mut last = None;
    for item in items {
        assert!(last.is_none(), "nothing follows the end");
        match item {
            Item::Record(bytes) => writer.record(&bytes).expect("memory"),
            Item::Config(bytes) => writer.config(&bytes).expect("memory"),
            Item::Object(object) => writer.object(object).expect("memory"),
            Item::Block(position, sealed) => writer.block(position, sealed).expect("memory"),
            Item::End(counts) => last = Some(counts),
            other => panic!("{other:?} stands once"),
        }
    }
    let (plain, counts) = writer.finish().expect("memory");
    assert_eq!(last, Some(counts));
    plain
}

fuzz_target!(|data: &[u8]| {
    let (form, rest) = form(data);
    match form % 3 {
        0 => assert!(read(rest).is_err(), "an archive was guessed"),
        1 => {
            let good = begin().finish().expect("memory");
            let file = [&good[..kith_store::archive::HEADER_LEN], rest].concat();
            assert!(read(&file).is_err(), "a chunk was guessed");
        }
        // The plaintext as it is, or after the item that has to stand first.
        _ => {
            let mut plain = Vec::new();
            if form >= 0x80 {
                plain.extend_from_slice(&[1, 8, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
            }
            plain.extend_from_slice(rest);
            let mut sealer = begin();
            sealer.write_all(&plain).expect("memory");
            let file = sealer.finish().expect("memory");
            if let Ok(items) = read(&file) {
                let encoded = again(items);
                let common = encoded.len().min(plain.len());
                assert_eq!(encoded[..common], plain[..common], "one item has one encoding");
                assert!(encoded[common..].iter().chain(&plain[common..]).all(|b| *b == 0));
            }
        }
    }
});
