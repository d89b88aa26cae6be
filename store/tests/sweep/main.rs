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

mod controls;
mod faults;
#[path = "../kit/mod.rs"]
mod kit;
mod lives;
mod power;

use kit::model::{Loss, Model};
use kit::workload::{Run, Step, Thing};
use kith_store::Store;
use kith_store::backend::Backend;
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
