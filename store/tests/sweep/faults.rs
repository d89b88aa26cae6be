//! Operations that fail while the store goes on: it refuses or goes on as its rules say, what it holds can
//! be read, and a restart or a power cut afterwards finds every promise kept.

use crate::kit::model::{Look, Loss, Model};
use crate::kit::workload::{Run, Step, records, reopen, workload};
use crate::power::try_image;
use crate::{Figures, NORMAL, arc, for_each_number, go_on, long};
use kith_store::backend::{Crashing, Failing, Fault, Lasting, Operation, Verb};
use kith_store::{Store, StoreError};

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
            check_read_only_after(before.is_none().then_some(step), run, disk, full)?;
            continue;
        };
        disk.heal();
        let again = if *step == Step::Reopen || run.store().is_none() {
            run.close();
            run.open().map_err(|e| format!("does not open again: {e}"))?;
            run.step(step)
        } else {
            can_be_read(run, disk).map_err(|loss| format!("after {first}: {loss}"))?;
            check_read_only_after(before.is_none().then_some(step), run, disk, full)?;
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

/// A failed sync makes the store read-only, and so does a failed write but for want of room. Only a new
/// file that nothing names yet may find the disk full without harm.
fn check_read_only_after(failed_in: Option<&Step>, run: &Run, disk: &Faulty, full: bool) -> Result<(), Loss> {
    let (Some(step), Some(at)) = (failed_in.filter(|step| **step != Step::Reopen), disk.failed()) else {
        return Ok(());
    };
    let path = at.path.display().to_string();
    let new_segment = matches!(step, Step::Compact(_)) && path.ends_with(".log");
    let unnamed =
        new_segment || path.ends_with(".tmp") || path.ends_with(".torn") || path.contains("/packs/tmp/");
    let ends = match at.verb {
        Verb::Sync => !(full && unnamed),
        Verb::SyncDir => true,
        Verb::WriteAt => !full && !unnamed,
        _ => false,
    };
    if !ends {
        return Ok(());
    }
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

#[test]
fn a_store_with_a_torn_journal_opens_on_a_full_disk() {
    let disk = Crashing::default();
    let mut run = Run::on(arc(disk.clone()), Model::default());
    run.go(&[Step::Publish((1, 1), b"entry".to_vec()), Step::ViewAppend([1; 32], records("x", 2))]).unwrap();
    run.close();
    let image = disk.image(0);
    for (path, _) in image.files().iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "log")) {
        assert!(image.tamper(path, |bytes| bytes.extend([0xa5; 300])));
    }
    let full = Failing::over(arc(image));
    full.fail_at(0, Fault::Full, Lasting::UntilHealed);
    let backend = arc(full.clone());
    let (store, model, _, torn) = reopen(&backend, &run.allowed(), Look::Blocks).unwrap();
    assert_eq!(torn, 300);
    let refused = store.append(&[b"no room".to_vec()]);
    assert!(matches!(refused, Err(StoreError::Full { .. })) && !store.read_only(), "{refused:?}");
    full.heal();
    let model = go_on(&backend, store, model, &workload(1)).unwrap();
    reopen(&backend, &[model], Look::Blocks).unwrap();
}

/// Not part of a normal run: more images of each power cut after a fault.
#[test]
#[ignore = "takes minutes; see the head of this file"]
fn long_fault_sweep() {
    all_faults(long().after_faults).assert_nothing_was_lost("long fault sweep");
}
