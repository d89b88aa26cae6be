//! Every attack at a small size: nothing that is promised fails, and each attack succeeds once its
//! defence is off. `--example attacks` prints the whole table at full size.

use kith_tests::attacks::{ALL, Effort, Verdict};

fn attacks(ids: &[&str]) {
    for id in ids {
        let (_, attack) = ALL.iter().find(|(name, _)| name == id).expect("its number stands in the list");
        for row in attack(Effort::SMALL) {
            println!("{row}");
            assert_ne!(
                row.control_succeeds,
                Some(false),
                "an attack that fails either way proves nothing: {row}"
            );
            assert!(row.verdict != Verdict::Fails || !row.promised, "{row}");
        }
    }
}

#[test]
fn a_guard_cannot_tell_who_began_a_circuit() {
    attacks(&["A11"]);
}

#[test]
fn what_use_tells_a_guard_is_reported() {
    attacks(&["A12"]);
}

#[test]
fn changed_and_odd_cells_end_where_they_come_first() {
    attacks(&["A20", "A22", "A39", "A40"]);
}

#[test]
fn loops_floods_and_readers_that_never_read_cost_the_attacker() {
    attacks(&["A25", "A26", "A27", "A29"]);
}

#[test]
fn routes_give_away_no_more_than_is_said() {
    attacks(&["A28", "A30", "A35", "A37"]);
}

#[test]
fn what_must_leave_no_trace_leaves_none() {
    attacks(&["quiet search", "no spread", "listers"]);
}

#[test]
fn all_are_run() {
    let here = include_str!("attacks.rs");
    assert!(ALL.iter().all(|(id, _)| here.contains(&format!("\"{id}\""))));
}
