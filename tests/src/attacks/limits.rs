//! Work and memory that a friend can take from a relay (A26, A27), and the least length of a circuit
//! (A29).

use super::{Effort, Row, hits};
use crate::sim::{Hostile, NodeId, World};
use kith_onion::budget::{Budgets, Defences};
use kith_onion::cell::Command;
use kith_onion::circuit::Relayed;
use kith_onion::{CircuitSettings, OwnState, Privacy};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Circuits stand after seconds.
fn quick() -> CircuitSettings {
    CircuitSettings { pace: Duration::from_millis(500), snapshot: 2 * SECOND, ..CircuitSettings::default() }
}

fn set_budgets(world: &mut World, budgets: Budgets) {
    for id in 0..world.nodes.len() {
        world.nodes[id].budgets = budgets;
        world.act(id, |core, _| core.set_budgets(budgets));
    }
}

/// What comes of a builder who asks its ends for answers and takes none.
struct Unread {
    /// Most cells that waited in one circuit, and in all.
    one: usize,
    all: usize,
    /// The attacker's circuits that ended, and whether another builder's stands and is answered.
    ended: usize,
    other: bool,
}

const UNREAD: usize = 30;

fn unread(seed: u64, cap: usize, defences: Defences) -> Option<Unread> {
    let mut world = World::ring(seed, 7, CircuitSettings { pace: 10 * MINUTE, ..quick() });
    // The relay's alone: the attacker's node has no part in this.
    let budgets = Budgets { relayed_cells: cap, defences, ..Budgets::default() };
    world.nodes[1].budgets = budgets;
    world.act(1, |core, _| core.set_budgets(budgets));
    world.run(20 * SECOND);
    let mut other = Hostile::begin(&mut world, 2, 1)?;
    let mut mine = Vec::new();
    while mine.len() < UNREAD {
        mine.extend(Hostile::begin(&mut world, 0, 1));
        world.run(Duration::from_millis(300));
    }
    let mut seen = Unread { one: 0, all: 0, ended: 0, other: true };
    for n in 0..400 {
        for built in &mut mine {
            built.say(&mut world, 0, &Relayed::Ping(Duration::ZERO));
        }
        world.run(Duration::from_millis(200));
        let load = world.nodes[1].core().load();
        (seen.one, seen.all) = (seen.one.max(load.most_relayed), seen.all.max(load.relayed));
        if n % 50 == 0 {
            other.say(&mut world, 0, &Relayed::Ping(Duration::ZERO));
            world.run(SECOND);
            seen.other &= matches!(other.hear(&mut world), Some((_, 0, Relayed::Pong)));
        }
    }
    for built in &mut mine {
        seen.ended += usize::from(!built.stands(&mut world));
    }
    Some(seen)
}

/// Readers that never read.
pub fn a26(effort: Effort) -> Vec<Row> {
    // Low, so that it is reached.
    const CAP: usize = 600;
    let run = |cap: usize, defences: Defences| -> Vec<Unread> {
        (1..=effort.seeds.min(5)).filter_map(|seed| unread(seed, cap, defences)).collect()
    };
    let capped = run(CAP, Defences::default());
    let free = run(usize::MAX / 8, Defences { bounded_answers: false, ..Defences::default() });
    let most = |of: &[Unread], what: fn(&Unread) -> usize| of.iter().map(what).max().unwrap_or(0);
    let others = capped.iter().filter(|r| r.other).count();
    let ended: usize = capped.iter().map(|r| r.ended).sum();
    let (one, all) = (most(&capped, |r| r.one), most(&capped, |r| r.all));
    let (free_one, free_all) = (most(&free, |r| r.one), most(&free, |r| r.all));
    vec![Row {
        id: "A26",
        attack: "30 circuits that ask and never take an answer",
        figure: format!(
            "{all} cells held at most, {one} in one circuit; {} of the attacker's end; another friend is served in {}",
            hits(ended, capped.len() * UNREAD),
            hits(others, capped.len())
        ),
        bound: format!("{CAP} cells (the cap, set low), 256 in one; only the attacker loses"),
        control: format!("without caps: {free_all} cells, {free_one} in one circuit, and growing"),
        verdict: (all <= CAP && one <= 256 && others == capped.len() && !capped.is_empty()).into(),
        control_succeeds: Some(free_all > 2 * CAP && free_one > 256),
        promised: true,
    }]
}

/// A friend asks for `rate` circuits a second for ten seconds: answers it got, most circuits held, and
/// how long another friend's circuit took meanwhile (worst of several).
fn flooded(seed: u64, rate: usize, defences: Defences) -> (usize, usize, Duration) {
    const FLOODER: NodeId = 0;
    const RELAY: NodeId = 1;
    const OTHER: NodeId = 2;
    let mut world = World::ring(seed, 7, CircuitSettings { pace: 10 * MINUTE, ..quick() });
    set_budgets(&mut world, Budgets { defences, ..Budgets::default() });
    world.listen(FLOODER, false);
    world.run(20 * SECOND);
    let before = world.count_heard(FLOODER, RELAY, Command::Created);
    let (mut most, mut worst) = (0, Duration::ZERO);
    for tick in 0..100 {
        for _ in 0..rate / 10 {
            let Some((_, create)) = world.create_cell(FLOODER, RELAY) else { continue };
            let circ = world.free_circ(FLOODER, RELAY);
            world.send_cell(FLOODER, RELAY, circ, Command::Create, create.encode());
        }
        world.run(Duration::from_millis(100));
        most = most.max(world.nodes[RELAY].core().load().circuits);
        if tick % 20 == 10 {
            let begun = world.now;
            match Hostile::begin(&mut world, OTHER, RELAY) {
                Some(built) => built.end(&mut world),
                None => worst = Duration::MAX,
            }
            worst = worst.max(world.now - begun);
        }
    }
    (world.count_heard(FLOODER, RELAY, Command::Created) - before, most, worst)
}

/// Floods of requests for circuits.
pub fn a27(effort: Effort) -> Vec<Row> {
    let rate = effort.or(2_000, 200);
    let on = flooded(1, rate, Defences::default());
    let quiet = flooded(1, 0, Defences::default());
    let off = flooded(1, effort.or(400, 200), Defences { counted_creates: false, ..Defences::default() });
    vec![Row {
        id: "A27",
        attack: "asks for circuits as fast as it can",
        figure: format!(
            "{rate} a second for 10 s: {} answered, {} circuits held; another friend's takes {} ms (quiet: {} ms)",
            on.0,
            on.1,
            on.2.as_millis(),
            quiet.2.as_millis()
        ),
        bound: "16 + 4 a second answered, 64 held, no slower than 1.1 times".into(),
        control: format!("{} answered, {} held", off.0, off.1),
        verdict: (on.0 <= 16 + 4 * 12 + 4 && on.1 <= quiet.1 + 64 && on.2 <= quiet.2.mul_f64(1.1)).into(),
        control_succeeds: Some(off.0 > 200 && off.1 > 64),
        promised: true,
    }]
}

/// Circuits that were built too short.
pub fn a29(effort: Effort) -> Vec<Row> {
    let run = |seed: u64, relays: u8, defences: Defences| {
        let mut world = World::ring(seed, 7, quick());
        set_budgets(&mut world, Budgets { defences, ..Budgets::default() });
        for id in 0..7 {
            world.set_circuits(id, Privacy::Normal, CircuitSettings { relays, ..quick() });
        }
        let mut short = 0;
        let mut seen = 0;
        for _ in 0..40 {
            world.run(SECOND);
            for id in 0..7 {
                let report = world.nodes[id].core().circuit_report(world.time(id));
                let usable = report.own.iter().filter(|c| c.state != OwnState::Building);
                let lengths: Vec<u8> = usable.map(|c| c.relays).collect();
                seen += lengths.len();
                short += lengths.iter().filter(|n| **n < 3).count();
            }
        }
        (seen, short)
    };
    let (mut seen, mut short) = (0, 0);
    for seed in 1..=effort.seeds {
        for relays in effort.or(&[0, 1, 2, 3, 4, 5, 6][..], &[1, 3, 5][..]) {
            let one = run(seed, *relays, Defences::default());
            (seen, short) = (seen + one.0, short + one.1);
        }
    }
    // The last check before use is an assertion that stays in release builds: it must be able to fail.
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !info.to_string().contains("three relays at least") {
            usual(info);
        }
    }));
    let lax = Defences { three_relays: false, ..Defences::default() };
    let stopped = catch_unwind(AssertUnwindSafe(|| run(1, 2, lax))).is_err();
    vec![Row {
        id: "A29",
        attack: "makes a node build circuits of 0 to 6 relays by its settings",
        figure: format!("{} looks at circuits in use or ready: {short} with less than three relays", seen),
        bound: "0".into(),
        control: format!("asked to use one of two relays, the node stops: {stopped}"),
        verdict: (short == 0 && seen > 0).into(),
        control_succeeds: Some(stopped),
        promised: true,
    }]
}
