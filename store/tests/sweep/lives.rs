//! Random lives of a disk: any steps, cut off anywhere, several times in a row.

use crate::arc;
use crate::kit::model::{Look, Loss, Model};
use crate::kit::workload::{Run, Step, Thing, records, reopen};
use kith_store::backend::Crashing;
use proptest::prelude::*;

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
