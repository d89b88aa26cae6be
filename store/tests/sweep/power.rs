//! Power that goes, and processes that are killed, at any operation: of the workload, of the recovery
//! after it, of a migration.

use crate::kit::model::{Look, Loss, Model};
use crate::kit::workload::{DIR, Run, Step, options, reopen, workload};
use crate::{Effort, Figures, NORMAL, arc, finish, for_each_number, go_on, kit, long};
use kith_store::Store;
use kith_store::backend::{Backend, Crashing, Memory};
use std::path::Path;

pub(crate) type Make = fn() -> Crashing;

/// Opens an image, compares, opens it again, and goes on with it.
pub(crate) fn try_image(image: &Memory, allowed: &[Model], again: bool) -> Result<(), Loss> {
    let backend = arc(image.clone());
    let (store, model, first, _) = reopen(&backend, allowed, Look::Blocks)?;
    drop(store);
    let (store, model, second, torn) = reopen(&backend, &[model], Look::Marks)?;
    if torn > 0 || first != second {
        return Err("the second start is not like the first".into());
    }
    let mut steps = finish(&model);
    if again {
        steps.extend(workload(1));
    }
    if steps.is_empty() {
        return Ok(());
    }
    let model = go_on(&backend, store, model, &steps)?;
    reopen(&backend, &[model], Look::Blocks).map(drop)
}

/// The process is killed and not the power: the store is opened on what was written, works on, and
/// then the power goes.
fn try_kill(disk: &Crashing, allowed: &[Model], again: bool, figures: &mut Figures, context: &str) {
    let killed = disk.after_kill();
    let backend = arc(killed.clone());
    let started = (|| {
        let (store, model, ..) = reopen(&backend, allowed, Look::Blocks)?;
        let mut steps = finish(&model);
        if again {
            steps.extend(workload(1));
        } else {
            steps.push(Step::Append(vec![b"after the kill".to_vec()]));
        }
        go_on(&backend, store, model, &steps)
    })();
    let model = started.as_ref().ok().cloned();
    figures.note(|| format!("{context}, killed"), started.map(drop));
    let Some(model) = model else { return };
    for seed in [0, 17] {
        let allowed = std::slice::from_ref(&model);
        let result = reopen(&arc(killed.image(seed)), allowed, Look::Blocks).map(drop);
        figures.note(|| format!("{context}, killed, power lost later, image {seed}"), result);
    }
}

/// Crashes the recovery of `image` at every operation.
fn try_nested(image: &Memory, allowed: &[Model], seeds: u64, figures: &mut Figures, context: &str) {
    for m in 1.. {
        let disk = Crashing::from(image);
        disk.power_off_at(m);
        let mut run = Run::on(arc(disk.clone()), Model::default());
        let opened = run.open();
        run.close();
        let Some(at) = disk.stopped() else {
            figures.operations = figures.operations.max(disk.operations());
            figures.note(|| format!("{context}, recovered"), opened.map_err(|e| e.to_string()));
            return;
        };
        figures.runs += 1;
        for seed in [0, 3].into_iter().chain(100 * m..100 * m + seeds) {
            let result = try_image(&disk.image(seed), allowed, false);
            figures.note(|| format!("{context}, recovery cut off at {at}, image {seed}"), result);
        }
        try_kill(&disk, allowed, false, figures, &format!("{context}, recovery cut off at {at}"));
    }
}

/// Cuts the power at every operation of `steps`.
pub(crate) fn power_sweep(make: Make, steps: &[Step], effort: Effort) -> Figures {
    for_each_number(|n| {
        let n = n * effort.every;
        let disk = make();
        disk.power_off_at(n);
        let mut run = Run::on(arc(disk.clone()), Model::default());
        let result = run.go(steps);
        run.close();
        let Some(at) = disk.stopped() else {
            assert!(result.is_ok(), "{result:?}");
            return (false, Figures { operations: disk.operations(), ..Figures::default() });
        };
        let (mut figures, allowed) = (Figures { runs: 1, ..Figures::default() }, run.allowed());
        let again = n.is_multiple_of(effort.again_every);
        for seed in (0..effort.seeds.min(4)).chain((4..effort.seeds).map(|seed| seed + 1000 * n)) {
            let result = try_image(&disk.image(seed), &allowed, again && seed % 3 == 0);
            figures.note(|| format!("power cut off at {at}, image {seed}"), result);
        }
        try_kill(&disk, &allowed, again, &mut figures, &format!("{at}"));
        if n.is_multiple_of(effort.nested_every) {
            let context = format!("power cut off at {at}, image {n}");
            try_nested(&disk.image(4 + n), &allowed, effort.seeds.min(10) / 4, &mut figures, &context);
        }
        (true, figures)
    })
}

#[test]
fn the_power_may_go_at_any_operation() {
    power_sweep(Crashing::default, &workload(0), NORMAL).assert_nothing_was_lost("power sweep");
}

/// A store of format version 1 that a release of that time made, in memory.
fn old_store() -> (Memory, Model) {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/store/v1");
    let memory = Memory::default();
    for path in kit::files(&fixture) {
        let name = Path::new(DIR).join(path.strip_prefix(&fixture).unwrap());
        memory.make_dir(name.parent().unwrap()).unwrap();
        memory.create(&name).unwrap().write_at(0, &std::fs::read(&path).unwrap()).unwrap();
    }
    let opened = Store::open_on(arc(copy(&memory)), &options()).unwrap();
    assert!(opened.migrated && opened.records.len() == 10);
    let views = [7_u8, 8].map(|friend| ([friend; 32], vec![vec![friend; 100], vec![friend + 1; 10]]));
    let model = Model { made: true, views: views.into(), ..Model::default() }
        .after(&Step::Publish((1, 1), Vec::new()))
        .after(&Step::Begin((2, 1)));
    (memory, Model { records: opened.records, ..model })
}

/// A copy that shares nothing.
fn copy(memory: &Memory) -> Memory {
    Crashing::from(memory).image(0)
}

#[test]
fn a_migration_may_lose_power_at_any_operation() {
    let (memory, model) = old_store();
    let mut figures = Figures::default();
    try_nested(&memory, &[model], 4, &mut figures, "migration");
    figures.report("migration sweep");
    assert!(figures.losses.is_empty(), "{:?}", figures.losses);
    assert!(figures.operations > 40, "{figures:?}");
}

/// Not part of a normal run: more images of each crash, every recovery crashed at every operation.
#[test]
#[ignore = "takes minutes; see the head of this file"]
fn long_power_sweep() {
    power_sweep(Crashing::default, &workload(0), long()).assert_nothing_was_lost("long power sweep");
}
