use super::*;
use crate::handle::LIST_LEN;
use kith_crypto::codec::DecodeError;
use kith_crypto::rng::Rng;
use proptest::prelude::*;
use std::collections::BTreeMap;

const START: u64 = 20_000 * DAY_MS;

fn rng(seed: u8) -> Rng {
    Rng::from_seed([seed; 32])
}

fn friend(n: u8) -> FriendKey {
    FriendKey([n; 32])
}

fn candidate(n: u8) -> Candidate {
    Candidate { friend: friend(n), trust: Trust::Normal, verified: false, uptime: 200, can_relay: true }
}

fn candidates(n: u8) -> Vec<Candidate> {
    (1..=n).map(candidate).collect()
}

fn listed(n: u8) -> Listed {
    Listed { handle: Handle([n; 8]), key: [n; 32], epoch: 0, uptime: 12, rate: 2, ageing: false }
}

fn list(from: u8) -> Vec<Listed> {
    (from..from + 16).map(listed).collect()
}

/// Routes with guards, second hops and all third hops drawn.
fn drawn(seed: u8) -> Routes {
    let (mut routes, mut rng) = (Routes::default(), rng(seed));
    assert!(routes.refresh(START, &candidates(9), &mut rng));
    for pair in [Pair::Primary, Pair::Reserve] {
        assert!(routes.second(pair, &list(20), START, false, &mut rng).changed);
        for slot in 0..SLOTS {
            assert!(routes.next(pair, slot, 2, &list(40), START, false, &mut rng).changed);
        }
    }
    routes
}

fn restart(routes: &mut Routes) {
    let bytes = routes.encode();
    let again = Routes::decode(&bytes).unwrap();
    assert!(again == *routes && again.encode() == bytes);
    *routes = again;
}

fn thirds(routes: &Routes, pair: Pair) -> Vec<Handle> {
    routes.way(pair).slots.iter().filter_map(|hops| Some(hops.first()?.handle)).collect()
}

// Guards.

#[test]
fn guards_come_from_the_best_tier_there_is() {
    let (mut routes, mut rng) = (Routes::default(), rng(1));
    let mut all = candidates(9);
    assert!(!routes.refresh(START, &[], &mut rng) && routes.tier().is_none());
    assert!(routes.refresh(START, &all, &mut rng));
    assert_eq!(routes.tier(), Some(Tier::All));
    assert_ne!(routes.guard(Pair::Primary), routes.guard(Pair::Reserve));
    assert!(!routes.refresh(START, &all, &mut rng));
    // Verified friends take over, then the only close one: with one, there is no reserve.
    all.iter_mut().take(2).for_each(|c| c.verified = true);
    assert!(routes.refresh(START, &all, &mut rng));
    assert_eq!(routes.tier(), Some(Tier::Verified));
    let guards = [Pair::Primary, Pair::Reserve].map(|pair| routes.guard(pair));
    assert!([friend(1), friend(2)].iter().all(|f| guards.contains(&Some(*f))));
    all[4].trust = Trust::Close;
    assert!(routes.refresh(START, &all, &mut rng));
    assert_eq!((routes.tier(), routes.guard(Pair::Primary)), (Some(Tier::Close), Some(friend(5))));
    assert_eq!(routes.guard(Pair::Reserve), None);
    // Marked low or gone: replaced at once.
    all[4].trust = Trust::Low;
    assert!(routes.refresh(START, &all, &mut rng));
    let primary = routes.guard(Pair::Primary).unwrap();
    assert_eq!(routes.tier(), Some(Tier::Verified));
    all.retain(|c| c.friend != primary);
    let reserve = routes.guard(Pair::Reserve);
    assert!(routes.refresh(START, &all, &mut rng));
    assert_eq!(routes.guard(Pair::Primary), reserve, "the reserve takes over");
    all.clear();
    assert!(routes.refresh(START, &all, &mut rng));
    assert_eq!((routes.guard(Pair::Primary), routes.tier()), (None, None));
}

#[test]
fn guards_stay_when_they_are_off_line_and_slow() {
    let mut rng = rng(2);
    for days in [1, 30, 59] {
        let mut routes = drawn(2);
        let all: Vec<_> =
            candidates(9).into_iter().map(|c| Candidate { can_relay: false, uptime: 0, ..c }).collect();
        let mut others = all.clone();
        others.push(candidate(10));
        assert!(!routes.refresh(START + days * DAY_MS, &all, &mut rng), "{days}");
        assert!(!routes.refresh(START + days * DAY_MS, &others, &mut rng));
    }
    // A close friend that never relayed makes no tier; a close guard that is off line still does.
    let mut all = candidates(3);
    all[2] = Candidate { trust: Trust::Close, can_relay: false, ..all[2] };
    let mut routes = Routes::default();
    assert!(routes.refresh(START, &all, &mut rng));
    assert_eq!(routes.tier(), Some(Tier::All));
    all[2].can_relay = true;
    assert!(routes.refresh(START, &all, &mut rng));
    all[2].can_relay = false;
    assert!(!routes.refresh(START, &all, &mut rng));
    assert_eq!((routes.tier(), routes.guard(Pair::Reserve)), (Some(Tier::Close), None));
}

#[test]
fn guards_are_drawn_anew_after_sixty_to_ninety_days() {
    let mut lives = BTreeSet::new();
    for seed in 0..40 {
        let (mut routes, mut rng) = (drawn(seed), rng(seed));
        let change = (0..).find(|day| routes.refresh(START + day * DAY_MS, &candidates(9), &mut rng));
        lives.insert(change.unwrap());
    }
    assert!(lives.first() >= Some(&60) && lives.last() <= Some(&90) && lives.len() > 10, "{lives:?}");
}

#[test]
fn what_follows_a_guard_goes_with_it() {
    let mut routes = drawn(3);
    let mut rng = rng(3);
    let (primary, reserve) = (routes.guard(Pair::Primary).unwrap(), routes.reserve.clone());
    let all: Vec<_> = candidates(9).into_iter().filter(|c| c.friend != primary).collect();
    assert!(routes.refresh(START, &all, &mut rng));
    assert_eq!(routes.primary, reserve);
    assert!(routes.guard(Pair::Reserve).is_some() && routes.reserve.second.is_none());
    assert!(routes.second(Pair::Reserve, &list(60), START, false, &mut rng).changed);
}

#[test]
fn better_friends_are_drawn_more_often() {
    let mut all = candidates(2);
    all[0].uptime = 255;
    all[1].uptime = 0;
    let mut rng = rng(4);
    let drawn = |rng: &mut Rng| {
        let mut routes = Routes::default();
        routes.refresh(START, &all, rng);
        routes.guard(Pair::Primary)
    };
    let best = (0..1000).filter(|_| drawn(&mut rng) == Some(friend(1))).count();
    assert!((850..950).contains(&best), "{best} of 1000, expected 900");
}

// Later hops.

#[test]
fn hops_stay_for_thirty_to_sixty_days() {
    for seed in 0..20 {
        let (mut routes, mut rng) = (drawn(seed), rng(seed));
        let kept: Vec<_> = (0..29)
            .map(|day| {
                let now = START + day * DAY_MS;
                let second = routes.second(Pair::Primary, &list(20), now, true, &mut rng);
                let third = routes.next(Pair::Primary, 1, 2, &list(40), now, true, &mut rng);
                restart(&mut routes);
                (second, third)
            })
            .collect();
        assert!(kept.iter().all(|k| *k == kept[0] && !k.0.changed && !k.1.changed), "{kept:?}");
        let late = START + 60 * DAY_MS;
        assert!(routes.second(Pair::Primary, &list(20), late, false, &mut rng).changed);
    }
}

#[test]
fn a_missing_hop_is_waited_for_unless_playback_needs_it() {
    for playback in [false, true] {
        let (mut routes, mut rng) = (drawn(5), rng(5));
        let second = routes.primary.second.unwrap().handle;
        let without: Vec<_> = list(20).into_iter().filter(|l| l.handle != second).collect();
        let mut ask = |routes: &mut Routes, list: &[Listed], minutes: u64| {
            let step = routes.second(Pair::Primary, list, START + minutes * MINUTE_MS, playback, &mut rng);
            restart(routes);
            step
        };
        assert_eq!(ask(&mut routes, &[], 0).chosen, None, "an empty list replaces nothing");
        assert_eq!(ask(&mut routes, &list(20), 20), Step { chosen: Some(second), changed: false });
        let step = ask(&mut routes, &without, 21);
        assert_eq!(step.changed, playback);
        if playback {
            assert!(step.chosen.is_some() && step.chosen != Some(second));
            assert!(thirds(&routes, Pair::Primary).is_empty(), "they were on the old hop's list");
            continue;
        }
        assert_eq!(ask(&mut routes, &without, 30).chosen, None);
        assert_eq!(ask(&mut routes, &list(20), 30).chosen, Some(second), "back again: counted anew");
        assert_eq!(ask(&mut routes, &without, 31).chosen, None);
        assert_eq!(ask(&mut routes, &without, 40).chosen, None);
        assert!(ask(&mut routes, &without, 41).changed);
    }
}

#[test]
fn third_hops_differ_as_long_as_the_list_allows_it() {
    for seed in 0..30 {
        let distinct: BTreeSet<_> = thirds(&drawn(seed), Pair::Primary).into_iter().collect();
        assert_eq!(distinct.len(), SLOTS);
    }
    let (mut routes, mut rng) = (drawn(1), rng(1));
    routes.primary.slots = Default::default();
    for slot in 0..SLOTS {
        assert!(routes.next(Pair::Primary, slot, 2, &list(40)[..1], START, false, &mut rng).chosen.is_some());
    }
    assert_eq!(thirds(&routes, Pair::Primary), [Handle([40; 8]); SLOTS]);
}

#[test]
fn ageing_handles_are_taken_only_when_there_is_nothing_else() {
    let ageing = |n| Listed { ageing: true, uptime: 15, rate: 15, ..listed(n) };
    for seed in 0..30 {
        let (mut routes, mut rng) = (drawn(seed), rng(seed));
        routes.primary.slots = Default::default();
        let list = [ageing(70), listed(71), ageing(72), listed(73)];
        for slot in 0..SLOTS {
            let step = routes.next(Pair::Primary, slot, 2, &list, START, true, &mut rng);
            assert!([71, 73].map(|n| Some(Handle([n; 8]))).contains(&step.chosen));
        }
        routes.primary.second = None;
        let step = routes.second(Pair::Primary, &[ageing(70)], START, false, &mut rng);
        assert_eq!(step, Step { chosen: Some(Handle([70; 8])), changed: true });
        // One that grows old while it is in use stays.
        let step = routes.second(Pair::Primary, &[ageing(70), listed(71)], START + 1, true, &mut rng);
        assert_eq!(step, Step { chosen: Some(Handle([70; 8])), changed: false });
    }
}

#[test]
fn steady_relays_are_drawn_more_often_and_quick_ones_are_not() {
    let (mut routes, mut rng) = (drawn(1), rng(1));
    let list = [Listed { uptime: 15, rate: 15, ..listed(1) }, Listed { uptime: 15, rate: 0, ..listed(2) }];
    let mut first = 0;
    for _ in 0..1000 {
        routes.primary.second = None;
        let step = routes.second(Pair::Primary, &list, START, false, &mut rng);
        first += usize::from(step.chosen == Some(Handle([1; 8])));
    }
    assert!((440..560).contains(&first), "rates do not count: {first}");
    let list = [Listed { uptime: 15, ..listed(1) }, Listed { uptime: 0, ..listed(2) }];
    let mut first = 0;
    for _ in 0..1000 {
        routes.primary.second = None;
        let step = routes.second(Pair::Primary, &list, START, false, &mut rng);
        first += usize::from(step.chosen == Some(Handle([1; 8])));
    }
    assert!((700..790).contains(&first), "23 of 31: {first}");
}

#[test]
fn more_relays_follow_their_third_hop() {
    let (mut routes, mut rng) = (drawn(6), rng(6));
    let mut ask = |routes: &mut Routes, hop, from, now| {
        let step = routes.next(Pair::Primary, 0, hop, &list(from), now, true, &mut rng);
        restart(routes);
        step
    };
    assert_eq!(ask(&mut routes, 4, 80, START).chosen, None, "no relay before it");
    let fourth = ask(&mut routes, 3, 60, START);
    assert!(fourth.changed);
    assert_eq!(ask(&mut routes, 3, 60, START).chosen, fourth.chosen);
    assert!(ask(&mut routes, 4, 80, START).changed && ask(&mut routes, 5, 100, START).changed);
    for hop in [0, 1, 6, usize::MAX] {
        assert_eq!(ask(&mut routes, hop, 80, START), Step { chosen: None, changed: false });
    }
    // The third hop is replaced: what stood behind it is over.
    routes.failed(Pair::Primary, 0, 2, START, true);
    assert!(ask(&mut routes, 2, 40, START).changed);
    assert_eq!(routes.primary.slots[0].len(), 1);
}

#[test]
fn failures_replace_the_third_hop_and_late_the_second() {
    let (mut routes, mut rng) = (drawn(7), rng(7));
    let guards = [Pair::Primary, Pair::Reserve].map(|pair| routes.guard(pair));
    let second = routes.primary.second.unwrap().handle;
    let before = thirds(&routes, Pair::Primary);
    let mut third = |routes: &mut Routes, slot, minutes: u64| {
        restart(routes);
        routes.next(Pair::Primary, slot, 2, &list(40), START + minutes * MINUTE_MS, false, &mut rng).chosen
    };
    // Ten minutes of failures, unless it worked in between.
    for minutes in [0, 9] {
        routes.failed(Pair::Primary, 0, 2, START + minutes * MINUTE_MS, false);
        assert_eq!(third(&mut routes, 0, minutes), Some(before[0]));
    }
    routes.worked(Pair::Primary, 0);
    routes.failed(Pair::Primary, 0, 3, START + 11 * MINUTE_MS, false);
    assert_eq!(third(&mut routes, 0, 11), Some(before[0]));
    routes.failed(Pair::Primary, 0, 3, START + 21 * MINUTE_MS, false);
    let replaced = third(&mut routes, 0, 21).unwrap();
    assert!(!before.contains(&replaced), "another one than before and than the other slots have");
    assert_eq!(third(&mut routes, 1, 21), Some(before[1]), "other slots stay");
    // Playback does not wait; but a circuit that stands after all speaks for the hop.
    routes.failed(Pair::Primary, 1, 2, START, true);
    routes.worked(Pair::Primary, 1);
    assert_eq!(third(&mut routes, 1, 21), Some(before[1]));
    routes.failed(Pair::Primary, 1, 2, START, true);
    assert_ne!(third(&mut routes, 1, 21), Some(before[1]));
    // With nothing else on the list, what failed is tried again.
    let now = START + 22 * MINUTE_MS;
    let held = routes.primary.slots[2][0].handle;
    let only: Vec<_> = list(40).into_iter().filter(|l| l.handle == held).collect();
    routes.failed(Pair::Primary, 2, 2, now, true);
    let step = routes.next(Pair::Primary, 2, 2, &only, now, true, &mut rng);
    assert_eq!(step, Step { chosen: Some(held), changed: false });
    // The second hop: a whole day, and not a pause in it.
    let second_at = |routes: &mut Routes, hours: u64, rng: &mut Rng| {
        routes.failed(Pair::Primary, 0, 1, START + hours * HOUR_MS, true);
        routes.second(Pair::Primary, &list(20), START + hours * HOUR_MS, true, rng).chosen
    };
    for hours in (0..24).chain(40..64) {
        assert_eq!(second_at(&mut routes, hours, &mut rng), Some(second), "{hours}");
    }
    assert_ne!(second_at(&mut routes, 64, &mut rng), Some(second));
    // Guards: never.
    for hours in 0..2000 {
        routes.failed(Pair::Primary, 0, 0, START + hours * HOUR_MS, true);
    }
    assert!(!routes.refresh(START + 59 * DAY_MS, &candidates(9), &mut rng));
    assert_eq!([Pair::Primary, Pair::Reserve].map(|pair| routes.guard(pair)), guards);
}

#[test]
fn oneself_is_no_relay() {
    let (mut routes, mut rng) = (drawn(8), rng(8));
    let me = routes.primary.slots[1][0].handle;
    routes.unsuitable(Pair::Primary, 1, 2);
    for n in 0..100 {
        restart(&mut routes);
        let step = routes.next(Pair::Primary, 1, 2, &list(40), START + n, false, &mut rng);
        assert!(step.chosen.is_some() && step.chosen != Some(me));
        routes.failed(Pair::Primary, 1, 2, START + n, true);
    }
    let only: Vec<_> = list(40).into_iter().filter(|l| l.handle == me).collect();
    let step = routes.next(Pair::Primary, 1, 2, &only, START + DAY_MS, true, &mut rng);
    assert_eq!(step.chosen, None);
    let second = routes.primary.second.unwrap().handle;
    routes.unsuitable(Pair::Primary, 0, 1);
    let step = routes.second(Pair::Primary, &list(20), START, false, &mut rng);
    assert!(step.changed && step.chosen != Some(second));
}

#[test]
fn a_clock_that_was_far_ahead_does_not_pin_routes_for_years() {
    let (mut routes, mut rng) = (Routes::default(), rng(9));
    let future = START + 10_000 * DAY_MS;
    routes.refresh(future, &candidates(9), &mut rng);
    routes.second(Pair::Primary, &list(20), future, false, &mut rng);
    let guard = routes.guard(Pair::Primary);
    assert!(routes.refresh(START, &candidates(9), &mut rng), "only its end is moved");
    assert_eq!(routes.guard(Pair::Primary), guard);
    let step = routes.second(Pair::Primary, &list(20), START, false, &mut rng);
    assert!(step.chosen.is_some() && !step.changed);
    assert!(routes.second(Pair::Primary, &list(20), START + 60 * DAY_MS, false, &mut rng).changed);
    assert!(routes.refresh(START + 90 * DAY_MS, &candidates(9), &mut rng));
}

// Contexts.

fn secret() -> Key {
    Key::new([3; 32])
}

#[test]
fn contexts_spread_evenly_over_the_slots_and_stay_there() {
    let mut counts = [0; SLOTS];
    for n in 0..3000_u32 {
        let mut context = [0; 32];
        context[..4].copy_from_slice(&n.to_le_bytes());
        let slot = Routes::slot_of(&secret(), &context);
        assert_eq!(slot, Routes::slot_of(&secret(), &context));
        counts[slot] += 1;
    }
    assert!(counts.iter().all(|n| (900..1100).contains(n)), "{counts:?}");
}

#[test]
fn a_fifth_route_is_refused_until_an_old_one_is_over() {
    let (mut routes, mut rng) = (drawn(1), rng(1));
    let key = secret();
    let mut new = 40;
    let mut use_new = |routes: &mut Routes, day: u64| {
        let now = START + day * DAY_MS;
        new += 1;
        routes.next(Pair::Primary, 0, 2, &[listed(new)], now, true, &mut rng);
        let answer = routes.allow(&key, &[77; 32], Pair::Primary, 0, now);
        restart(routes);
        answer
    };
    for day in 0..4 {
        assert_eq!(use_new(&mut routes, day), Ok(true));
    }
    assert_eq!(routes.allow(&key, &[77; 32], Pair::Primary, 0, START + 3 * DAY_MS), Ok(false));
    assert_eq!(use_new(&mut routes, 5), Err(TooManyRoutes));
    assert_eq!(use_new(&mut routes, 30), Err(TooManyRoutes));
    assert_eq!(routes.route_count(&key, &[77; 32], START + 30 * DAY_MS), 4);
    assert_eq!(use_new(&mut routes, 31), Ok(true), "the first one is more than thirty days ago");
    // Another context, and another secret's view of the same one, have their own count.
    let now = START + 31 * DAY_MS;
    assert_eq!(routes.allow(&key, &[2; 32], Pair::Primary, 0, now), Ok(true));
    assert_eq!(routes.route_count(&Key::new([9; 32]), &[77; 32], now), 0);
    assert_eq!(routes.route_count(&key, &[77; 32], now + 40 * DAY_MS), 0);
    assert!(!routes.encode().windows(16).any(|w| w == [77; 16]), "contexts are not stored as they are");
}

#[test]
fn a_circuit_keeps_the_name_of_the_route_it_was_built_over() {
    let (mut routes, mut rng) = (drawn(1), rng(1));
    let old = routes.route(Pair::Primary, 0);
    assert_eq!(routes.allow(&secret(), &[77; 32], Pair::Primary, 0, START), Ok(true));
    routes.failed(Pair::Primary, 0, 2, START, true);
    assert!(routes.next(Pair::Primary, 0, 2, &list(40), START, true, &mut rng).changed);
    assert_ne!(routes.route(Pair::Primary, 0), old);
    assert_eq!(routes.allow_route(&secret(), &[77; 32], old, START), Ok(false));
    assert_eq!(routes.route_count(&secret(), &[77; 32], START), 1);
    // Moved as a whole, it is the same route.
    let new = routes.route(Pair::Primary, 0);
    routes.primary.slots.swap(0, 1);
    std::mem::swap(&mut routes.primary, &mut routes.reserve);
    assert_eq!(routes.route(Pair::Reserve, 1), new);
}

#[test]
fn contexts_are_bounded_and_pruned() {
    let mut routes = drawn(1);
    let key = secret();
    let context = |n: u32| {
        let mut context = [0; 32];
        context[..4].copy_from_slice(&n.to_le_bytes());
        context
    };
    for n in 0..MAX_CONTEXTS as u32 {
        let name = [n.to_le_bytes(), [0; 4], [0; 4], [0; 4]].concat();
        let used = contexts::Used { route: RouteName([0; 8]), day: 20_000 - u32::from(n == 7) };
        routes.contexts.used.insert(name.try_into().unwrap(), vec![used]);
    }
    assert_eq!(routes.allow(&key, &context(1), Pair::Primary, 0, START), Ok(true));
    assert_eq!(routes.contexts.used.len(), MAX_CONTEXTS);
    assert!(!routes.contexts.used.keys().any(|name| name[0] == 7 && name[1..].iter().all(|b| *b == 0)));
    assert_eq!(routes.route_count(&key, &context(1), START), 1);
    restart(&mut routes);
    assert_eq!(routes.allow(&key, &context(2), Pair::Primary, 0, START + 31 * DAY_MS), Ok(true));
    assert_eq!(routes.contexts.used.len(), 1, "the others are over");
}

/// A core as it drives the policy: it builds over the primary pair, falls back to the reserve, and
/// asks for each context before using a circuit. The network fails at random places.
struct Driven {
    routes: Routes,
    rng: Rng,
    seen: BTreeMap<[u8; 32], BTreeSet<RouteName>>,
    refused: usize,
}

impl Driven {
    fn attempt(&mut self, context: [u8; 32], now: u64, playback: bool) {
        let slot = Routes::slot_of(&secret(), &context);
        for pair in [Pair::Primary, Pair::Reserve] {
            self.routes.refresh(now, &candidates(9), &mut self.rng);
            restart(&mut self.routes);
            // Lists lose members now and then.
            let drop = self.rng.range(0, 63) as u8;
            let shorter =
                |from: u8| list(from).into_iter().filter(move |l| l.handle != Handle([from + drop; 8]));
            let seconds: Vec<_> = shorter(20).collect();
            let thirds: Vec<_> = shorter(40).collect();
            if self.routes.second(pair, &seconds, now, playback, &mut self.rng).chosen.is_none() {
                continue;
            }
            restart(&mut self.routes);
            if self.routes.next(pair, slot, 2, &thirds, now, playback, &mut self.rng).chosen.is_none() {
                continue;
            }
            restart(&mut self.routes);
            let reached = self.rng.range(0, 4) as usize;
            if reached < 3 {
                self.routes.failed(pair, slot, reached, now, playback);
                continue;
            }
            self.routes.worked(pair, slot);
            match self.routes.allow(&secret(), &context, pair, slot, now) {
                Ok(_) => {
                    self.seen.entry(context).or_default().insert(self.routes.route(pair, slot));
                }
                Err(TooManyRoutes) => self.refused += 1,
            }
            if reached == 4 {
                return;
            }
            self.routes.failed(pair, slot, 3, now, playback);
        }
    }
}

#[test]
fn two_hundred_failures_in_thirty_days_never_make_a_fifth_route() {
    for playback in [false, true] {
        let mut refused = 0;
        for seed in 0..10 {
            let mut core = Driven { routes: drawn(seed), rng: rng(seed), seen: BTreeMap::new(), refused: 0 };
            let guards = [Pair::Primary, Pair::Reserve].map(|pair| core.routes.guard(pair));
            for n in 0..400 {
                core.attempt([(n % 3) as u8; 32], START + n * 100 * MINUTE_MS, playback);
            }
            assert!(core.seen.len() == 3 && core.seen.values().all(|routes| routes.len() <= MAX_ROUTES));
            assert_eq!([Pair::Primary, Pair::Reserve].map(|pair| core.routes.guard(pair)), guards);
            refused += core.refused;
        }
        assert!(refused > 0 || !playback, "the cap was never reached: the test shows nothing");
    }
}

#[test]
fn guard_and_second_hop_are_the_same_for_all_contexts() {
    let mut core = Driven { routes: drawn(1), rng: rng(1), seen: BTreeMap::new(), refused: 0 };
    let before = [core.routes.primary.guard, core.routes.reserve.guard];
    for n in 0..200_u8 {
        let slot = Routes::slot_of(&secret(), &[n; 32]);
        let second = core.routes.second(Pair::Primary, &list(20), START, true, &mut core.rng);
        let third = core.routes.next(Pair::Primary, slot, 2, &list(40), START, true, &mut core.rng);
        assert_eq!(second.chosen, core.routes.primary.second.map(|hop| hop.handle));
        assert_eq!(third.chosen, Some(thirds(&core.routes, Pair::Primary)[slot]));
        assert!(!second.changed && !third.changed);
        core.routes.allow(&secret(), &[n; 32], Pair::Primary, slot, START).unwrap();
    }
    assert_eq!([core.routes.primary.guard, core.routes.reserve.guard], before);
}

// Stored form.

#[test]
fn other_stored_forms_are_refused() {
    let good = drawn(1).encode();
    assert_eq!(Routes::decode(&good).unwrap().encode(), good);
    assert!(Routes::decode(&[]).is_err());
    assert!(Routes::decode(&[&good[..], &[0]].concat()).is_err());
    for len in 0..good.len() {
        assert!(Routes::decode(&good[..len]).is_err(), "cut at {len}");
    }
    let second = 2 + 1 + 32 + 8 + 1;
    for (at, value, why) in [
        (0, 2, "version"),
        (1, 4, "tier"),
        (2, 2, "flag"),
        (second - 1, 2, "flag"),
        (second + 16, 8, "unknown flag of a hop"),
        (second + 17, 5, "more hops than a route has"),
    ] {
        let mut bad = good.clone();
        bad[at] = value;
        assert!(Routes::decode(&bad).is_err(), "{why}");
    }
    let refused = |change: &dyn Fn(&mut Routes)| {
        let mut routes = drawn(1);
        change(&mut routes);
        Routes::decode(&routes.encode()).unwrap_err()
    };
    refused(&|r| r.reserve.guard = r.primary.guard);
    refused(&|r| r.primary = Way::default());
    refused(&|r| r.primary.unsuitable = vec![Handle([1; 8]); 2]);
    refused(&|r| r.primary.unsuitable = (0..17).map(|n| Handle([n; 8])).collect());
    refused(&|r| r.primary.second = r.primary.second.map(|h| Hop { failing_ms: Some((2, 1)), ..h }));
    let context = |r: &mut Routes, used: Vec<contexts::Used>| {
        r.contexts.used.insert([1; 16], used);
    };
    refused(&|r| context(r, Vec::new()));
    refused(&|r| context(r, vec![contexts::Used { route: RouteName([1; 8]), day: 1 }; 2]));
    refused(&|r| context(r, (0..5).map(|n| contexts::Used { route: RouteName([n; 8]), day: 1 }).collect()));
    let mut many = drawn(1).encode();
    let end = many.len();
    many[end - 4..].copy_from_slice(&20_001_u32.to_le_bytes());
    assert_eq!(Routes::decode(&many), Err(DecodeError::TooLarge { at: end - 4, what: "contexts" }));
}

proptest! {
    #[test]
    fn a_changed_stored_form_is_another_or_refused(i in 0_usize..400, bit in 0_u8..8) {
        let mut bytes = drawn(1).encode();
        if let Some(b) = bytes.get_mut(i) { *b ^= 1 << bit; }
        if let Ok(routes) = Routes::decode(&bytes) {
            prop_assert_eq!(routes.encode(), bytes);
        }
    }

    #[test]
    fn any_lists_and_times_never_panic(ops in proptest::collection::vec((0_u8..7, any::<u64>(), 0_usize..8, 0_usize..8, any::<bool>()), 0..60)) {
        let (mut routes, mut rng) = (Routes::default(), rng(1));
        for (op, now, slot, hop, playback) in ops {
            let some = list((now % 200) as u8);
            let some = &some[..(now as usize) % (LIST_LEN + 1)];
            let pair = if playback { Pair::Primary } else { Pair::Reserve };
            match op {
                0 => { routes.refresh(now, &candidates((now % 12) as u8), &mut rng); }
                1 => { routes.second(pair, some, now, playback, &mut rng); }
                2 => { routes.next(pair, slot, hop, some, now, playback, &mut rng); }
                3 => { routes.failed(pair, slot, hop, now, playback); }
                4 => routes.worked(pair, slot),
                5 => routes.unsuitable(pair, slot, hop),
                _ => { let _ = routes.allow(&secret(), &[slot as u8; 32], pair, slot, now); }
            }
            restart(&mut routes);
        }
    }
}
