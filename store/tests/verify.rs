//! Verification finds every changed byte, names it rightly, and what it mends or asks for makes the
//! store whole again. Nothing here touches a disk: the damage is done to files in memory.
#![allow(clippy::unwrap_used)] // a failure here fails the test

mod kit;

use kit::world::{PAGE, PLACE, World, records};
use kith_crypto::content::{Geometry, Position};
use kith_store::{FileType, Outcome};
use std::path::Path;

/// Offsets to flip: all, or the first and last bytes of each field and some between.
fn offsets(len: usize, fields: &[usize], step: usize) -> Vec<usize> {
    let mut at = 0;
    let mut all: Vec<usize> = (0..len).step_by(step).collect();
    for field in fields {
        all.extend([at, at + field / 2, at + field - 1]);
        at += field;
    }
    all.extend([len - 1]);
    all.retain(|at| *at < len);
    all.sort_unstable();
    all.dedup();
    all
}

/// Flips each of these bytes of the own or the partial pack. Returns how many.
fn flip_pack(world: &mut World, number: usize, every_byte: bool) -> usize {
    let path = world.pack(number);
    let len = world.bytes(&path).len();
    let total = world.objects[number].0.geometry.total() as usize;
    let maps = len - 2 * PAGE;
    let step = if every_byte { 1 } else { 127 };
    let mut all: Vec<(usize, &str)> = Vec::new();
    all.extend(offsets(PAGE, &[8, 1, 32, 24, 4015, 16], step).into_iter().map(|at| (at, "header")));
    for slot in 0..total {
        let place = offsets(PLACE, &[65_552, 16], if every_byte { 97 } else { 32_771 });
        all.extend(place.into_iter().map(|at| (PAGE + slot * PLACE + at, "block")));
    }
    let gap = PAGE + total * PLACE;
    all.extend((gap..maps).step_by(step).map(|at| (at, "gap")));
    for copy in [maps, maps + PAGE] {
        all.extend(offsets(PAGE, &[8, 24, 4048, 16], step).into_iter().map(|at| (copy + at, "map")));
    }
    let (object, here) = &world.objects[number];
    let (root, geometry) = (object.cap.root, object.geometry);
    let empty: Vec<usize> = (0..total).filter(|slot| !is_here(geometry, here, *slot)).collect();
    for (at, kind) in &all {
        world.flip(&path, *at);
        let findings = world.verify(&world.only(number));
        assert!(!findings.is_empty(), "{kind}: byte {at} of {len} was not noticed");
        let finding = &findings[0];
        assert_eq!((finding.file, finding.object, &finding.path), (FileType::Pack, Some(root), &path));
        let in_empty = empty.contains(&((at - PAGE.min(*at)) / PLACE));
        let lost = *kind == "block" && !in_empty;
        let expected = if lost { (Outcome::Fetch, 1) } else { (Outcome::Mended, 0) };
        assert_eq!((finding.outcome, finding.blocks), expected, "{kind} {at}: {findings:?}");
        world.heal(&findings);
        let left = world.verify(&world.only(number));
        assert_eq!(left, [], "{kind}: after byte {at} was mended");
    }
    all.len()
}

fn is_here(geometry: Geometry, here: &[Position], slot: usize) -> bool {
    here.iter().any(|p| geometry.slot(*p) == Some(slot as u64))
}

/// Flips each byte of a small file that verification mends or asks to be written anew.
fn flip_small(world: &mut World, name: &str, file: FileType) -> usize {
    let len = world.bytes(&world.path(name)).len();
    for at in 0..len {
        let path = world.files().into_keys().find(|p| kind_of(p) == file).unwrap();
        world.flip(&path, at);
        let findings = world.verify(&world.whole());
        assert_eq!(findings.len(), 1, "{name}: byte {at} of {len}: {findings:?}");
        assert_eq!((findings[0].file, &findings[0].path), (file, &path));
        world.heal(&findings);
        assert_eq!(world.verify(&world.whole()), [], "{name}: after byte {at} was mended");
    }
    len
}

fn kind_of(path: &Path) -> FileType {
    let text = path.to_str().unwrap();
    match () {
        () if text.ends_with("store.key") => FileType::KeyFile,
        () if text.ends_with("journal/keys") => FileType::JournalKeys,
        () if text.contains("/journal/") => FileType::Journal,
        () if text.contains("/views/") => FileType::ViewLog,
        () if text.ends_with(".pack") => FileType::Pack,
        () => FileType::Other,
    }
}

/// View logs are checked where they are open.
fn flip_views(world: &mut World) -> usize {
    let mut count = 0;
    for view in &mut world.views {
        let len = world.memory.files().into_iter().find(|(p, _)| p == view.path()).unwrap().1.len();
        for at in 0..len {
            assert!(world.memory.tamper(view.path(), |bytes| bytes[at] ^= 0x11));
            assert!(!view.verify().unwrap_or(false), "byte {at} of {len}");
            view.rewrite(&records(10..14)).unwrap();
            assert!(view.verify().unwrap());
            count += 1;
        }
    }
    count
}

fn flip_all(every_byte: bool) {
    let mut world = World::new();
    assert_eq!(world.verify(&world.whole()), [], "a store without damage");
    let mut figures = Vec::new();
    for number in [0, 1] {
        let flips = flip_pack(&mut world, number, every_byte);
        figures.push((["own pack", "partial pack"][number], flips));
        world = world.reopen();
    }
    for (name, file) in [
        ("store.key", FileType::KeyFile),
        ("journal/keys", FileType::JournalKeys),
        ("journal/00000001.log", FileType::Journal),
    ] {
        figures.push((file.as_str(), flip_small(&mut world, name, file)));
        world = world.reopen();
    }
    figures.push((FileType::ViewLog.as_str(), flip_views(&mut world)));
    world.reopen();
    for (file, flips) in figures {
        println!("{file}: {flips} flipped bytes, 0 undetected");
    }
}

#[test]
fn flipped_bytes_are_found_and_mended() {
    flip_all(false);
}

/// `cargo test -p kith-store --release --test verify -- --ignored --nocapture every_flipped_byte`
#[test]
#[ignore = "takes a minute or two: every byte of header and maps, every 97th of each block"]
fn every_flipped_byte_is_found_and_mended() {
    flip_all(true);
}
