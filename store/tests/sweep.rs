//! The store on disks that fail and lose power, at every single operation.
//!
//! A workload (`kit::workload`) runs until operation n fails, for every n; then the disk as it may
//! be afterwards is opened and compared with the model: every acknowledged thing there and whole,
//! every unacknowledged one there or not, nothing half, nothing left over, nothing to be mended by
//! hand. The positive controls do the same on disks that lie, and must find losses.
//!
//! More of it: `cargo test -p kith-store --release --test sweep -- --ignored --nocapture`, with
//! `KITH_SWEEP_SEEDS` for the number of images per crash.

mod kit;

use kit::model::{Loss, Model};
use kit::workload::{Run, Step, Thing, reopen, workload};
use kith_store::backend::{Backend, Crashing, Failing, Fault, Lasting, Memory, Operation};
use kith_store::{Store, StoreError};
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
    /// Images of each crash.
    seeds: u64,
    /// Of so many crashes one goes through the whole workload again afterwards.
    again_every: u64,
    /// Of so many crashes one has its recovery crashed at every operation.
    nested_every: u64,
}

const NORMAL: Effort = Effort { seeds: 7, again_every: 9, nested_every: 23 };

fn long() -> Effort {
    let seeds = std::env::var("KITH_SWEEP_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(40);
    Effort { seeds, again_every: 1, nested_every: 1 }
}

type Make = fn() -> Crashing;

/// Calls `one` with 1, 2, 3, ... on two threads until it says that there is nothing more.
fn for_each_operation(one: impl Fn(u64) -> (bool, Figures) + Sync) -> Figures {
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
    run.can_be_read()?;
    run.close();
    Ok(run.model)
}

/// Opens an image, compares, opens it again, and goes on with it.
fn try_image(image: &Memory, allowed: &[Model], again: bool) -> Result<(), Loss> {
    let backend = arc(image.clone());
    let (store, model, first, _) = reopen(&backend, allowed)?;
    drop(store);
    let (store, model, second, torn) = reopen(&backend, &[model])?;
    if torn > 0 || first != second {
        return Err("the second start is not like the first".into());
    }
    let mut steps = finish(&model);
    if again {
        steps.extend(workload(1));
    }
    let model = go_on(&backend, store, model, &steps)?;
    reopen(&backend, &[model]).map(drop)
}

/// The process is killed and not the power: the store is opened on what was written, works on, and
/// then the power goes.
fn try_kill(disk: &Crashing, allowed: &[Model], again: bool, figures: &mut Figures, context: &str) {
    let killed = disk.after_kill();
    let backend = arc(killed.clone());
    let started = (|| {
        let (store, model, ..) = reopen(&backend, allowed)?;
        let mut steps = finish(&model);
        if again {
            steps.extend(workload(1));
        } else {
            steps.push(Step::Append(vec![b"after the kill".to_vec()]));
        }
        go_on(&backend, store, model, &steps)
    })();
    let model = started.as_ref().ok().cloned();
    // A view log is a copy of what the friend sends again: what was not synced may still go.
    let before = |model: &Model| {
        let views = allowed.iter().map(|before| before.views.clone());
        views.map(|views| Model { views, ..model.clone() }).collect::<Vec<_>>()
    };
    figures.note(|| format!("{context}, killed"), started.map(drop));
    let Some(model) = model else { return };
    for seed in [0, 1, 2, 17] {
        let mut allowed = vec![model.clone()];
        if !again {
            allowed.extend(before(&model));
        }
        let result = reopen(&arc(killed.image(seed)), &allowed).map(drop);
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
            let _ = opened;
            return;
        };
        figures.runs += 1;
        for seed in [0, 1, 2, 3].into_iter().chain(100 * m..100 * m + seeds) {
            let result = try_image(&disk.image(seed), allowed, false);
            figures.note(|| format!("{context}, recovery cut off at {at}, image {seed}"), result);
        }
    }
}

/// Cuts the power at every operation of `steps`.
fn power_sweep(make: Make, steps: &[Step], effort: Effort) -> Figures {
    for_each_operation(|n| {
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
        let again = n % effort.again_every == 0;
        for seed in (0..4).chain((4..effort.seeds).map(|seed| seed + 1000 * n)) {
            let result = try_image(&disk.image(seed), &allowed, again && seed % 3 == 0);
            figures.note(|| format!("power cut off at {at}, image {seed}"), result);
        }
        try_kill(&disk, &allowed, again, &mut figures, &format!("{at}"));
        if n % effort.nested_every == 0 {
            let context = format!("power cut off at {at}, image {n}");
            try_nested(&disk.image(4 + n), &allowed, effort.seeds.min(3), &mut figures, &context);
        }
        (true, figures)
    })
}

#[test]
fn the_power_may_go_at_any_operation() {
    power_sweep(Crashing::default, &workload(0), NORMAL).assert_nothing_was_lost("power sweep");
}
