//! The store on disks that fail and lose power, at every single operation.
//!
//! A workload (`kit::workload`) runs until operation n fails, for every n; then the disk as it may
//! be afterwards is opened and compared with the model: every acknowledged thing there and whole,
//! every unacknowledged one there or not, nothing half, nothing left over, nothing to be mended by
//! hand. The positive controls do the same on disks that lie, and must find losses.
//!
//! More of it: `cargo test -p kith-store --release --test sweep -- --ignored --nocapture`, with
//! `KITH_SWEEP_SEEDS` for the number of images per crash.

#![allow(clippy::unwrap_used, clippy::panic)] // a helper that fails fails its test

mod kit;

use kit::model::{Look, Loss, Model};
use kit::workload::{DIR, Run, Step, Thing, records, reopen, workload};
use kith_store::backend::{Backend, Crashing, Failing, Fault, Lasting, Memory, Operation, Verb};
use kith_store::{Store, StoreError};
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a sweep did, and what it found.
#[derive(Debug, Default)]
struct Figures {
    operations: u64,
    runs: u64,
    images: u64,
    losses: Vec<Loss>,
}

impl Figures {
    fn add(&mut self, other: Self) {
        self.operations = self.operations.max(other.operations);
        self.runs += other.runs;
        self.images += other.images;
        self.losses.extend(other.losses);
    }

    /// One image that was tried.
    fn note(&mut self, context: impl Fn() -> String, result: Result<(), Loss>) {
        self.images += 1;
        if let Err(loss) = result {
            self.losses.push(format!("{}: {loss}", context()));
        }
    }

    fn report(&self, name: &str) {
        println!(
            "{name}: {} operations, {} runs, {} disks opened, {} losses",
            self.operations,
            self.runs,
            self.images,
            self.losses.len()
        );
    }

    fn assert_nothing_was_lost(&self, name: &str) {
        self.report(name);
        let shown: Vec<_> = self.losses.iter().take(12).map(String::as_str).collect();
        assert!(self.losses.is_empty(), "{name}: {} losses\n{}", self.losses.len(), shown.join("\n"));
        assert!(self.operations > 100 && self.images > 100, "{self:?}");
    }
}

/// How much is tried.
#[derive(Clone, Copy, Debug)]
struct Effort {
    /// Of so many operations one is tried.
    every: u64,
    /// Images of each crash.
    seeds: u64,
    /// Images of each power cut after a fault.
    after_faults: u64,
    /// Of so many crashes one goes through the whole workload again afterwards.
    again_every: u64,
    /// Of so many crashes one has its recovery crashed at every operation.
    nested_every: u64,
}

const NORMAL: Effort = Effort { every: 1, seeds: 6, after_faults: 1, again_every: 11, nested_every: 37 };

/// Enough for a control.
const CONTROL: Effort =
    Effort { every: 5, seeds: 2, after_faults: 1, again_every: u64::MAX, nested_every: u64::MAX };

fn long() -> Effort {
    let seeds = std::env::var("KITH_SWEEP_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(40);
    Effort { every: 1, seeds, after_faults: seeds, again_every: 1, nested_every: 1 }
}

type Make = fn() -> Crashing;

/// Calls `one` with 1, 2, 3, ... on two threads until it says that there is nothing more.
fn for_each_number(one: impl Fn(u64) -> (bool, Figures) + Sync) -> Figures {
    let next = AtomicU64::new(1);
    let work = || {
        let mut figures = Figures::default();
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let (more, found) = one(n);
            figures.add(found);
            if !more {
                return figures;
            }
        }
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(work);
        let mut figures = work();
        figures.add(other.join().unwrap());
        figures
    })
}

fn arc(disk: impl Backend + 'static) -> Arc<dyn Backend> {
    Arc::new(disk)
}

/// The steps that finish every fetch that was begun.
fn finish(model: &Model) -> Vec<Step> {
    let open = model.objects.values().filter(|kept| !kept.complete).map(|kept| kept.thing);
    let steps = |which: Thing| {
        [Step::Begin(which), Step::Write(which, 0, usize::MAX), Step::Flush(which), Step::Complete(which)]
    };
    open.flat_map(steps).collect()
}

/// Everything that a reopened store must still be able to do.
fn go_on(backend: &Arc<dyn Backend>, store: Store, model: Model, steps: &[Step]) -> Result<Model, Loss> {
    let mut run = Run::with(Arc::clone(backend), store, model);
    run.go(steps).map_err(|e| format!("the store does not go on: {e} ({:?})", run.open_step))?;
    run.close();
    Ok(run.model)
}

/// Opens an image, compares, opens it again, and goes on with it.
fn try_image(image: &Memory, allowed: &[Model], again: bool) -> Result<(), Loss> {
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
fn power_sweep(make: Make, steps: &[Step], effort: Effort) -> Figures {
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

/// A disk on which something fails, and what the test needs to know of it.
#[derive(Clone)]
enum Faulty {
    Failing(Failing),
    /// A sync fails and gives up what it should have saved.
    Sync(Crashing),
}

impl Faulty {
    fn heal(&self) {
        if let Self::Failing(disk) = self {
            disk.heal();
        }
    }

    fn failed(&self) -> Option<Operation> {
        match self {
            Self::Failing(disk) => disk.failed(),
            Self::Sync(disk) => disk.failed(),
        }
    }
}

/// Goes through all steps although one operation fails, and checks the rules: after a failed write
/// or sync of the truth nothing more is written, otherwise the step can be done again; what there is
/// can be read in any case.
fn work_on(run: &mut Run, steps: &[Step], disk: &Faulty, full: bool) -> Result<(), Loss> {
    if let Err(e) = run.open() {
        if matches!(disk, Faulty::Sync(_)) {
            return Ok(()); // what a start on the same system finds, nobody can tell from what is saved
        }
        let at = disk.failed().ok_or_else(|| format!("nothing failed and still {e}"))?;
        disk.heal();
        run.open().map_err(|e| format!("{at}: does not open after the fault has gone: {e}"))?;
    }
    for (i, step) in steps.iter().enumerate() {
        let before = disk.failed();
        let stepped = run.step(step);
        if matches!(disk, Faulty::Sync(_)) && *step == Step::Reopen && before != disk.failed() {
            return Ok(()); // as above
        }
        let Err(first) = stepped else {
            check_read_only_after(before.is_none() && *step != Step::Reopen, run, disk, full)?;
            continue;
        };
        disk.heal();
        let again = if *step == Step::Reopen || run.store().is_none() {
            run.close();
            run.open().map_err(|e| format!("does not open again: {e}"))?;
            run.step(step)
        } else {
            can_be_read(run, disk).map_err(|loss| format!("after {first}: {loss}"))?;
            check_read_only_after(before.is_none(), run, disk, full)?;
            run.step(step)
        };
        match again {
            Ok(()) => {}
            // The first attempt went as far as its row.
            Err(StoreError::NotFound) if matches!(step, Step::Remove(_)) => run.settle(step),
            Err(StoreError::ReadOnly) if run.store().is_some_and(Store::read_only) => {
                if full && !disk.failed().is_some_and(|at| at.verb.is_sync()) {
                    return Err(format!("a full disk made the store read-only: {first}"));
                }
                return stays_read_only(run, steps.get(i..).unwrap_or_default(), disk);
            }
            Err(e) => return Err(format!("{step:?} failed with \"{first}\" and again with \"{e}\"")),
        }
    }
    Ok(())
}

/// A failed sync makes the store read-only. Only a new file that nothing names yet may find the disk
/// full without harm.
fn check_read_only_after(fresh: bool, run: &Run, disk: &Faulty, full: bool) -> Result<(), Loss> {
    let unnamed = |at: &Operation| {
        let path = at.path.display().to_string();
        path.ends_with(".tmp") || path.contains("journal/00000002.log") || path.ends_with(".torn")
    };
    let harmless = |at: &Operation| full && at.verb == Verb::Sync && unnamed(at);
    let failed = disk.failed().filter(|at| fresh && at.verb.is_sync() && !harmless(at));
    let Some(at) = failed else { return Ok(()) };
    match run.store() {
        Some(store) if !store.read_only() => Err(format!("{at} failed and the store writes on")),
        _ => Ok(()),
    }
}

/// A read-only store refuses every step that writes, and stays as it is.
fn stays_read_only(run: &mut Run, steps: &[Step], disk: &Faulty) -> Result<(), Loss> {
    let open_step = run.open_step.clone();
    let writes = |step: &&Step| {
        matches!(step, Step::Append(_) | Step::Publish(..) | Step::Compact(_) | Step::ViewAppend(..))
    };
    for step in steps.iter().filter(writes) {
        match run.step(step) {
            Err(StoreError::ReadOnly) => {}
            other => return Err(format!("a read-only store answers {other:?} to {step:?}")),
        }
    }
    run.open_step = open_step;
    can_be_read(run, disk)
}

/// Whether everything can be read. Exceptions: a block or map that the disk could not read counts as
/// damaged until the pack is opened again, and what is being removed from a full disk goes before
/// its row does.
fn can_be_read(run: &Run, disk: &Faulty) -> Result<(), Loss> {
    let unread = disk.failed().is_some_and(|at| at.verb == Verb::ReadAt);
    let removing = matches!(run.open_step, Some(Step::Remove(_) | Step::Evict));
    if unread || removing { Ok(()) } else { run.can_be_read() }
}

/// Lets every operation of `steps` fail, on a disk that then loses its power as well.
fn fault_sweep(steps: &[Step], fault: Option<Fault>, lasting: Lasting, seeds: u64) -> Figures {
    let mut figures = Figures::default();
    let mut n = 1;
    loop {
        let below = Crashing::default();
        let disk = match fault {
            Some(fault) => {
                let disk = Failing::over(arc(below.clone()));
                disk.fail_at(n, fault, lasting);
                Faulty::Failing(disk)
            }
            None => {
                below.fail_sync_at(n);
                Faulty::Sync(below.clone())
            }
        };
        let backend = match &disk {
            Faulty::Failing(disk) => arc(disk.clone()),
            Faulty::Sync(disk) => arc(disk.clone()),
        };
        let mut run = Run::on(backend, Model::default());
        let full = matches!(fault, Some(Fault::Full | Fault::FullAtSync | Fault::ShortFull));
        let worked = work_on(&mut run, steps, &disk, full);
        run.close();
        let Some(at) = disk.failed() else {
            figures.note(|| "without a fault".into(), worked);
            figures.operations = figures.operations.max(below.operations());
            return figures;
        };
        let context = format!("{fault:?} {lasting:?} at {at}");
        figures.runs += 1;
        let went_through = worked.is_ok();
        figures.note(|| context.clone(), worked);
        n = at.number + 1;
        if !went_through {
            continue;
        }
        let allowed = run.allowed();
        let reopened = reopen(&arc(below.after_kill()), &allowed, Look::Blocks).map(drop);
        figures.note(|| format!("{context}, restarted"), reopened);
        for seed in (0..seeds).map(|i| if i == 0 { 0 } else { 1000 * n + 3 + i }) {
            let result = try_image(&below.image(seed), &allowed, false);
            figures.note(|| format!("{context}, then power lost, image {seed}"), result);
        }
    }
}

fn all_faults(seeds: u64) -> Figures {
    let faults = [Fault::Io, Fault::Full, Fault::FullAtSync, Fault::ShortIo, Fault::ShortFull];
    let of = |lasting| faults.into_iter().map(move |fault| (Some(fault), lasting));
    let all: Vec<_> =
        of(Lasting::Once).chain(of(Lasting::UntilHealed)).chain([(None, Lasting::Once)]).collect();
    for_each_number(|n| match all.get(n as usize - 1) {
        Some((fault, lasting)) => (true, fault_sweep(&workload(0), *fault, *lasting, seeds)),
        None => (false, Figures::default()),
    })
}

#[test]
fn any_operation_may_fail() {
    all_faults(NORMAL.after_faults).assert_nothing_was_lost("fault sweep");
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
    let opened = Store::open_on(arc(copy(&memory)), &kit::workload::options()).unwrap();
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

/// The controls: disks that lie. The same sweep must find that acknowledged things are lost.
#[test]
fn a_disk_whose_syncs_do_nothing_is_found_out() {
    let figures = power_sweep(|| Crashing::default().with_lying_sync(), &workload(0), CONTROL);
    figures.report("control: syncs of files do nothing");
    assert!(figures.losses.len() > 50, "{figures:?}");
}

#[test]
fn a_disk_whose_folders_are_never_synced_is_found_out() {
    let figures = power_sweep(|| Crashing::default().with_lying_sync_dir(), &workload(0), CONTROL);
    figures.report("control: syncs of folders do nothing");
    assert!(figures.losses.len() > 50, "{figures:?}");
}

/// Power is cut after a publication was acknowledged; `lie` begins before it.
fn loss_of_a_publication(lie: fn(Crashing) -> Crashing) -> Result<(), Loss> {
    let disk = Crashing::default();
    let mut run = Run::on(arc(disk.clone()), Model::default());
    run.go(&[Step::Append(vec![b"before".to_vec()])]).map_err(|e| e.to_string())?;
    drop(lie(disk.clone()));
    run.step(&Step::Publish((1, 1), b"entry".to_vec())).map_err(|e| e.to_string())?;
    run.close();
    reopen(&arc(disk.image(0)), &run.allowed(), Look::Blocks).map(drop)
}

#[test]
fn a_publication_needs_the_sync_of_its_file_and_of_its_folder() {
    assert_eq!(loss_of_a_publication(|disk| disk), Ok(()));
    let files = loss_of_a_publication(Crashing::with_lying_sync).unwrap_err();
    assert!(files.contains("0 objects instead of 1") || files.contains("records"), "{files}");
    let folders = loss_of_a_publication(Crashing::with_lying_sync_dir).unwrap_err();
    assert!(folders.contains("0 packs for 1 objects"), "{folders}");
}

#[test]
fn a_changed_block_is_found_out() {
    let disk = Crashing::default();
    let mut run = Run::on(arc(disk.clone()), Model::default());
    run.go(&[Step::Publish((1, 1), b"entry".to_vec())]).unwrap();
    run.close();
    let image = disk.image(0);
    let (path, _) = image.files().into_iter().find(|(path, _)| is_pack(path)).unwrap();
    assert!(image.tamper(&path, |bytes| bytes[5000] ^= 1));
    let loss = reopen(&arc(image), &run.allowed(), Look::Blocks).map(drop).unwrap_err();
    assert!(loss.contains("cannot be read"), "{loss}");
}

fn is_pack(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "pack")
}

/// Steps that numbers stand for, in a store of this model.
fn drawn(model: &Model, code: u8, arg: u8, serial: usize) -> Vec<Step> {
    let n = usize::from(arg);
    let own: Thing = (60 + arg % 3, 1 + u64::from(arg % 2));
    let kept: Vec<_> = model.objects.values().collect();
    let any = (!kept.is_empty()).then(|| kept[n % kept.len()].thing);
    let friend = [1 + arg % 2; 32];
    let tag = format!("drawn {serial}");
    let fetched: Thing = match kept.iter().find(|kept| !kept.complete) {
        Some(kept) if n % 3 > 0 => kept.thing,
        _ => (70 + arg % 3, 1 + u64::from(arg % 2)),
    };
    match code % 14 {
        0 | 1 => vec![Step::Append(records(&tag, 1 + n % 4))],
        2 if !kept.iter().any(|kept| kept.thing == own) => vec![Step::Publish(own, tag.into_bytes())],
        3 => vec![Step::Begin(fetched)],
        4 | 5 => vec![Step::Begin(fetched), Step::Write(fetched, n % 3, 1 + n % 5)],
        6 => vec![Step::Begin(fetched), Step::Write(fetched, 0, 1 + n % 4), Step::Flush(fetched)],
        7 => vec![
            Step::Begin(fetched),
            Step::Write(fetched, 0, usize::MAX),
            Step::Flush(fetched),
            Step::Complete(fetched),
        ],
        8 => any.map(Step::Remove).into_iter().collect(),
        9 => vec![Step::Compact(model.records.iter().skip(n % 3).step_by(2).cloned().collect())],
        10 => vec![Step::ViewAppend(friend, records(&tag, 1 + n % 3))],
        11 if arg < 60 => vec![Step::ViewRemove(friend)],
        11 => vec![Step::ViewRewrite(friend, records(&tag, 1 + n % 2))],
        12 if arg < 100 => vec![Step::Evict],
        12 => any
            .map(|which| if arg.is_multiple_of(2) { Step::Pin(which) } else { Step::Unpin(which) })
            .into_iter()
            .collect(),
        13 => vec![Step::Reopen],
        _ => Vec::new(),
    }
}

/// One life of a disk: the steps until the power goes (or the process is killed).
type Life = (Vec<(u8, u8)>, u64, u64, bool);

fn live(lives: &[Life]) -> Result<(), Loss> {
    let (mut disk, mut model) = (Crashing::default(), Model::default());
    for (steps, off_at, seed, kill) in lives {
        disk.power_off_at(*off_at);
        let mut run = Run::on(arc(disk.clone()), model);
        let mut result = run.open();
        for (serial, (code, arg)) in steps.iter().enumerate() {
            for step in drawn(&run.model, *code, *arg, serial) {
                result = result.and_then(|()| run.step(&step));
            }
        }
        run.close();
        if let (Err(e), None) = (&result, disk.stopped()) {
            return Err(format!("{:?} fails on a healthy disk: {e}", run.open_step));
        }
        let allowed = run.allowed();
        let next = if *kill { disk.after_kill() } else { Crashing::from(&disk.image(*seed)) };
        let (store, believed, ..) = reopen(&arc(next.clone()), &allowed, Look::Blocks)?;
        drop(store);
        (disk, model) = (next.after_kill(), believed);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    /// Any steps, power cuts and kills at any points, several in a row.
    #[test]
    fn any_life_of_a_disk_keeps_every_promise(lives in proptest::collection::vec(
        (proptest::collection::vec(any::<(u8, u8)>(), 0..14), 1_u64..260, any::<u64>(), any::<bool>()), 1..5)
    ) {
        prop_assert_eq!(live(&lives), Ok(()));
    }
}

/// As many as `PROPTEST_CASES` says, or enough for each run of all tests.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(100)
}

/// Not part of a normal run: more images of each crash, every recovery crashed at every operation.
#[test]
#[ignore = "takes minutes; see the head of this file"]
fn long_power_sweep() {
    power_sweep(Crashing::default, &workload(0), long()).assert_nothing_was_lost("long power sweep");
}

/// Not part of a normal run: more images of each power cut after a fault.
#[test]
#[ignore = "takes minutes; see the head of this file"]
fn long_fault_sweep() {
    all_faults(long().after_faults).assert_nothing_was_lost("long fault sweep");
}
