//! What the catalogue does with what friends tell, restarts and time.

use super::taken::Told;
use super::*;
use crate::control::{Delta, ViewOp};
use crate::time::Now;
use kith_crypto::rng::Rng;
use proptest::prelude::*;

fn node() -> (Catalogue, Now) {
    let pace = Pace { batch: Duration::from_secs(60), spread: Duration::from_secs(600) };
    let now = Now { at: Duration::ZERO, unix_ms: 20_000 * DAY_S * 1000 };
    (Catalogue::new(pace, Key::new([1; 32]), Rng::from_seed([2; 32])), now)
}

fn friend(n: u8) -> FriendKey {
    FriendKey([n; 32])
}

/// Hands in what `from` says of the sample object in its own part.
fn hear(catalogue: &mut Catalogue, now: Now, from: FriendKey, eid: u8, change: impl FnOnce(&mut Entry)) {
    let mut entry = Entry { published_day: 20_000, expires_day: 20_030, ..Entry::sample() };
    change(&mut entry);
    take(catalogue, now, from, Part::Own, Eid([eid; 8]), &entry);
}

/// Hands in any entry and returns the records for the friend's view log.
fn take(c: &mut Catalogue, now: Now, from: FriendKey, part: Part, eid: Eid, entry: &Entry) -> Vec<Vec<u8>> {
    let encoded = entry.encode();
    let head = EntryRef::decode(&encoded).unwrap().into();
    let mut records = Vec::new();
    c.add(now, from, Told { part, eid, entry: &encoded, head, release_ms: now.unix_ms }, &mut records);
    records
}

fn title(catalogue: &Catalogue) -> String {
    catalogue.listing(&Entry::sample().root()).map_or_else(String::new, |l| l.entry.title)
}

#[test]
fn nobody_changes_what_another_friend_said() {
    let (mut c, now) = node();
    (1..=3).for_each(|n| c.add_friend(friend(n)));
    hear(&mut c, now, friend(1), 1, |_| {});
    hear(&mut c, now, friend(2), 2, |e| {
        e.title = "Something else".into();
        e.cap.key = Key::new([9; 32]);
    });
    assert_eq!(title(&c), Entry::sample().title);
    c.timeout(now);
    // Friend 1 is told what friend 2 says, everybody else what the first one said.
    let told = |c: &Catalogue, to| {
        c.relayed_entry(now, to, &Entry::sample().root()).map(|e| Entry::decode(&e).unwrap().title)
    };
    assert_eq!(told(&c, friend(1)).as_deref(), Some("Something else"));
    assert_eq!(told(&c, friend(3)), Some(Entry::sample().title));
    // When the first is gone, the other's words are all there is.
    assert!(c.drop_mention(now.unix_ms, friend(1), Eid([1; 8])));
    assert_eq!(title(&c), "Something else");
    assert_eq!(c.listing(&Entry::sample().root()).unwrap().entry.cap.key, Key::new([9; 32]));
}

#[test]
fn the_first_may_change_its_words_and_each_mention_expires_alone() {
    let (mut c, now) = node();
    (1..=2).for_each(|n| c.add_friend(friend(n)));
    hear(&mut c, now, friend(1), 1, |e| e.expires_day = 20_001);
    hear(&mut c, now, friend(2), 2, |_| {});
    hear(&mut c, now, friend(1), 1, |e| {
        e.title = "Renamed".into();
        e.expires_day = 20_001;
    });
    assert_eq!(title(&c), "Renamed");
    let later = Now { at: Duration::from_secs(7200), unix_ms: 20_003 * DAY_S * 1000 };
    c.timeout(later);
    assert_eq!(title(&c), Entry::sample().title, "friend 1 has not renewed, friend 2's words stay");
}

#[test]
fn a_view_survives_its_log() {
    let (mut c, now) = node();
    (1..=2).for_each(|n| c.add_friend(friend(n)));
    hear(&mut c, now, friend(1), 1, |_| {});
    hear(&mut c, now, friend(2), 2, |e| e.title = "Mine".into());
    let (mut again, _) = node();
    for n in 1..=2 {
        again.add_friend(friend(n));
        for record in c.snapshot(friend(n)) {
            again.restore(now, friend(n), &record).unwrap();
        }
        assert_eq!(again.snapshot(friend(n)), c.snapshot(friend(n)));
    }
}

// Shares.

const DAY: u32 = 20_000;

fn small(entries: usize, all: usize) -> Shares {
    Shares { view_entries: entries, view_bytes: 1 << 20, entries: all, bytes: 1 << 22 }
}

fn node_with(shares: Shares) -> (Catalogue, Now) {
    let pace = Pace { batch: Duration::from_secs(60), spread: Duration::from_secs(600) };
    let now = Now { at: Duration::ZERO, unix_ms: u64::from(DAY) * DAY_S * 1000 };
    (Catalogue::with_shares(pace, shares, Key::new([1; 32]), Rng::from_seed([2; 32])), now)
}

/// The entry number `n` of a teller, published so many days ago.
fn nth(teller: u8, n: u32, days_ago: u32) -> (Eid, Entry) {
    let mut root = [teller; 32];
    root[..4].copy_from_slice(&n.to_be_bytes());
    let mut entry = Entry { published_day: DAY - days_ago, expires_day: DAY + 30, ..Entry::sample() };
    entry.cap.root = Root(root);
    entry.hops_left = 0;
    let mut eid = [teller; 8];
    eid[..4].copy_from_slice(&n.to_be_bytes());
    (Eid(eid), entry)
}

fn tell(c: &mut Catalogue, now: Now, teller: u8, n: u32, days_ago: u32) -> Vec<Vec<u8>> {
    let (eid, entry) = nth(teller, n, days_ago);
    take(c, now, friend(teller), Part::Own, eid, &entry)
}

fn knows(c: &Catalogue, teller: u8, n: u32) -> bool {
    c.listing(&nth(teller, n, 0).1.root()).is_some()
}

/// Everything that a catalogue keeps for entries agrees with everything else.
fn check(c: &Catalogue) {
    let mut size = Size::default();
    for view in c.views.values() {
        let mut parts = [Size::default(); 2];
        for (eid, id) in &view.eids {
            let known = c.objects.get(*id).expect("an id names an object");
            let heard = known.mention(view.no, *eid).expect("and a mention of it");
            parts[usize::from(heard.part.number())].add(known.words_of(heard).len());
            size.add(known.words_of(heard).len());
            assert!(heard.copy.as_ref().is_none_or(|copy| **copy != known.words), "no needless copy");
        }
        assert_eq!([view.own.size, view.relayed.size], parts);
    }
    assert_eq!(c.size, size);
    let mentions: usize = c.objects.iter().map(|(_, k)| k.heard().len()).sum();
    assert_eq!(mentions, size.entries, "no mention without an id");
    assert_eq!(c.listed, c.objects.iter().filter(|(_, k)| k.listed).count());
    assert!(c.objects.iter().all(|(_, k)| !k.is_forgotten()), "nothing is kept for nobody");
    for (id, known) in c.objects.iter() {
        assert_eq!(c.objects.find(&known.words.root()), Some(id));
    }
}

#[test]
fn an_oversized_view_keeps_its_newest() {
    let flood = |shares| {
        let (mut c, now) = node_with(shares);
        (1..=2).for_each(|n| c.add_friend(friend(n)));
        tell(&mut c, now, 2, 0, 900);
        // In no order of days.
        (0..1000).for_each(|n| drop(tell(&mut c, now, 1, n, n * 7 % 1000)));
        check(&c);
        (c, now)
    };
    let (c, _) = flood(Shares::none());
    assert_eq!(c.len(), 1001, "without shares all are kept");
    let (mut c, now) = flood(small(100, 1000));
    assert_eq!(c.count(friend(1)).entries, 100);
    assert_eq!(c.count(friend(1)).over_share, 900);
    let newest = (0..1000).filter(|n| n * 7 % 1000 < 100);
    assert!(newest.into_iter().all(|n| knows(&c, 1, n)), "the newest are kept");
    assert!(knows(&c, 2, 0), "another's older entry stays");
    // What gives way is told to the view log, and what finds no place is not.
    assert!(tell(&mut c, now, 1, 2000, 500).is_empty());
    let records = tell(&mut c, now, 1, 2001, 0);
    assert_eq!(records.iter().map(|r| r[0]).collect::<Vec<_>>(), [1, 2]);
    check(&c);
}

#[test]
fn large_entries_count_by_their_bytes() {
    let len = nth(1, 0, 0).1.encode().len();
    let (mut c, now) = node_with(Shares { view_bytes: 10 * len, ..small(100, 1000) });
    c.add_friend(friend(1));
    (0..50).for_each(|n| drop(tell(&mut c, now, 1, n, n)));
    assert_eq!((c.count(friend(1)).entries, c.count(friend(1)).bytes), (10, 10 * len));
    // Longer words of an entry that is there push out others of the same friend.
    let (eid, entry) = nth(1, 0, 0);
    let longer = Entry { text: "x".repeat(100), ..entry };
    take(&mut c, now, friend(1), Part::Own, eid, &longer);
    assert!(c.count(friend(1)).bytes <= 10 * len && c.count(friend(1)).entries < 10);
    check(&c);
}

#[test]
fn the_largest_view_gives_way_when_all_is_full() {
    let poison = |shares| {
        let (mut c, now) = node_with(shares);
        (1..=4).for_each(|n| c.add_friend(friend(n)));
        for teller in 2..=4 {
            (0..50).for_each(|n| drop(tell(&mut c, now, teller, n, 900)));
        }
        // The poison is newer than all honest entries.
        (0..5000).for_each(|n| drop(tell(&mut c, now, 1, n, 0)));
        check(&c);
        c
    };
    let c = poison(small(1000, 300));
    assert!((2..=4).all(|n| c.count(friend(n)).entries == 50 && c.count(friend(n)).over_share == 0));
    assert_eq!(c.count(friend(1)).entries, 150, "what others leave free");
    // The control: without a largest view to take from, the memory is not held.
    assert_eq!(poison(Shares::none()).len(), 5150);
}

#[test]
fn dates_and_ids_that_cannot_be_are_dropped_and_counted() {
    let (mut c, now) = node_with(Shares::default());
    c.add_friend(friend(1));
    let (eid, entry) = nth(1, 0, 0);
    let dated = |published_day, expires_day| Entry { published_day, expires_day, ..entry.clone() };
    for bad in [dated(DAY, DAY - 1), dated(DAY, DAY + 61), dated(DAY + 3, DAY + 30)] {
        assert!(take(&mut c, now, friend(1), Part::Own, eid, &bad).is_empty());
    }
    assert_eq!((c.count(friend(1)).dated, c.len()), (3, 0));
    // A clock two days ahead is no crime.
    assert!(!take(&mut c, now, friend(1), Part::Own, eid, &dated(DAY + 2, DAY + 30)).is_empty());
    // An id that names another entry, or the same one in another part.
    let (_, other) = nth(1, 1, 0);
    assert!(take(&mut c, now, friend(1), Part::Own, eid, &other).is_empty());
    assert!(take(&mut c, now, friend(1), Part::Relayed, eid, &entry).is_empty());
    // A third link.
    let far = Entry { hops_left: 1, ..other };
    assert!(take(&mut c, now, friend(1), Part::Relayed, Eid([9; 8]), &far).is_empty());
    assert_eq!((c.count(friend(1)).invalid, c.len()), (3, 1));
    assert_eq!(c.count(friend(1)).dropped(), 6);
    // The same object under a new id takes the place of the old one.
    let records = take(&mut c, now, friend(1), Part::Own, Eid([8; 8]), &entry);
    assert_eq!(records.iter().map(|r| r[0]).collect::<Vec<_>>(), [2, 1]);
    assert_eq!((c.len(), c.count(friend(1)).entries), (1, 1));
    check(&c);
}

#[test]
fn a_long_view_is_taken_in_pieces_and_the_link_stays() {
    let (mut c, mut now) = node_with(small(500, 1000));
    c.add_friend(friend(1));
    c.connected(now, friend(1));
    let mut pulls = 0;
    let mut next = 0;
    let mut hours = BTreeSet::new();
    while next < 1_000_000 && pulls < 300 {
        now.at = c.poll_timeout().unwrap().max(now.at);
        now.unix_ms = u64::from(DAY) * DAY_S * 1000 + now.at.as_millis() as u64;
        c.timeout(now);
        while let Some(act) = c.poll() {
            let Act::Pull(_, Part::Own, log, since) = act else { continue };
            assert!((log, since) == (7, u64::from(next)) || next == 0, "it goes on where it stopped");
            pulls += 1;
            hours.insert(now.at.as_secs() / 3600);
            let ops =
                (next..next + 60).map(|n| nth(1, n, n % 900)).map(|(eid, e)| ViewOp::Add(eid, e)).collect();
            let restart = next == 0;
            next += 60;
            let (next_batch_ms, batch_ms) = (60_000, 60_000);
            let upto = next.into();
            c.delta(
                now,
                friend(1),
                Delta { part: Part::Own, log: 7, upto, restart, more: true, next_batch_ms, batch_ms, ops },
            );
        }
    }
    assert_eq!(pulls, 300);
    assert!(hours.len() >= 3, "80 pages an hour: {hours:?}");
    assert_eq!(c.count(friend(1)).entries, 500);
    check(&c);
}

/// Told in another way, it has the words that it is told with now, also while others still have the old ones.
#[test]
fn what_is_told_anew_has_the_new_words() {
    let (mut c, now) = node();
    (1..=2).for_each(|n| c.add_friend(friend(n)));
    hear(&mut c, now, friend(1), 1, |_| {});
    c.timeout(now);
    assert!(c.drop_mention(now.unix_ms, friend(1), Eid([1; 8])));
    hear(&mut c, now, friend(1), 1, |e| e.title = "Renamed".into());
    assert_eq!(title(&c), "Renamed");
    check(&c);
}

/// What a friend takes back was withdrawn when nobody else tells of it, and not when its time is over anyway.
#[test]
fn what_nobody_tells_of_any_more_was_withdrawn() {
    let taken_back = |others: u8, expires_day: u32| {
        let (mut c, now) = node();
        (1..=1 + others).for_each(|n| c.add_friend(friend(n)));
        (1..=1 + others).for_each(|n| hear(&mut c, now, friend(n), n, |e| e.expires_day = expires_day));
        let asks =
            |c: &mut Catalogue| std::iter::from_fn(|| c.poll()).any(|act| matches!(act, Act::Pull(..)));
        c.connected(now, friend(1));
        let now = Now { at: now.at + Duration::from_secs(2), unix_ms: now.unix_ms + 2000 };
        c.timeout(now);
        assert!(asks(&mut c), "it asks for news");
        let ops = vec![ViewOp::Del(Eid([1; 8]))];
        let (part, log, upto, more) = (Part::Own, 7, 1, false);
        let delta =
            Delta { part, log, upto, restart: false, more, next_batch_ms: 60_000, batch_ms: 60_000, ops };
        c.delta(now, friend(1), delta);
        let withdrawn = Act::Withdrawn(Entry::sample().root());
        std::iter::from_fn(|| c.poll()).any(|act| act == withdrawn)
    };
    assert!(taken_back(0, 20_030));
    assert!(!taken_back(1, 20_030));
    assert!(!taken_back(0, 20_000));
}

// Sets.

#[test]
fn a_view_is_forgotten_as_a_set() {
    let (mut c, now) = node();
    (1..=3).for_each(|n| c.add_friend(friend(n)));
    for n in 0..200 {
        tell(&mut c, now, 1, n, 0);
        tell(&mut c, now, 2, n, 0);
    }
    // Both tell of the sample for friends of friends, the first with misleading words.
    hear(&mut c, now, friend(1), 1, |e| e.title = "Poison".into());
    hear(&mut c, now, friend(2), 2, |_| {});
    c.timeout(now);
    while c.next_unsearched().is_some() {}
    c.forget_view(now, friend(1));
    assert!((0..200).all(|n| !knows(&c, 1, n) && knows(&c, 2, n)));
    assert_eq!(title(&c), Entry::sample().title, "the other one's words count now");
    // Search hears of each once.
    let seen: Vec<bool> = std::iter::from_fn(|| c.next_unsearched().map(|(_, s)| s.is_some())).collect();
    assert_eq!(seen.iter().filter(|found| !**found).count(), 200);
    check(&c);
    // What others were told goes from their views at its own time, and then nothing is left.
    assert_eq!(c.count(friend(1)).entries, 1);
    let later = Now { at: Duration::from_secs(7200), unix_ms: now.unix_ms + 7_200_000 };
    c.timeout(later);
    assert_eq!(c.count(friend(1)).entries, 0);
    check(&c);
    assert!(c.due.iter().all(|(at, _)| *at <= later.unix_ms), "nothing waits for it");
}

#[test]
fn a_forgotten_view_stays_forgotten_after_a_restart() {
    let (mut c, now) = node();
    c.add_friend(friend(1));
    let mut log = Vec::new();
    let mut write = |c: &mut Catalogue| {
        while let Some(act) = c.poll() {
            match act {
                Act::DropView(_) => log.clear(),
                Act::Record(_, records) => log.extend(records),
                _ => {}
            }
        }
        log.clone()
    };
    log_told(&mut c, now);
    c.timeout(now);
    write(&mut c);
    c.forget_view(now, friend(1));
    let log = write(&mut c);
    let (mut again, _) = node();
    again.add_friend(friend(1));
    log.iter().for_each(|record| again.restore(now, friend(1), record).unwrap());
    assert_eq!(again.roots().count(), 0);
    assert_eq!(again.count(friend(1)), c.count(friend(1)), "what is leaving leaves here too");
    let leaves = |c: &Catalogue| {
        let known = c.objects.by_root(&Entry::sample().root()).expect("it is leaving");
        known.heard().iter().map(|h| h.leave_ms).collect::<Vec<_>>()
    };
    assert_eq!(leaves(&again), leaves(&c), "at the same time");
    check(&again);
}

/// Friend 1 tells three entries, one of which travels.
fn log_told(c: &mut Catalogue, now: Now) {
    (0..2).for_each(|n| drop(tell(c, now, 1, n, 0)));
    hear(c, now, friend(1), 9, |_| {});
}

#[test]
fn an_ignored_friend_is_neither_asked_nor_shown() {
    let (mut c, mut now) = node();
    (1..=2).for_each(|n| c.add_friend(friend(n)));
    tell(&mut c, now, 1, 0, 0);
    (1..=2).for_each(|n| c.connected(now, friend(n)));
    c.set_ignored(now, friend(1), true);
    assert!(c.is_ignored(friend(1)) && !knows(&c, 1, 0));
    assert!(tell(&mut c, now, 1, 1, 0).is_empty() && !knows(&c, 1, 1));
    let asked = |c: &mut Catalogue, now| {
        c.timeout(now);
        let acts: Vec<Act> = std::iter::from_fn(|| c.poll()).collect();
        [1, 2].map(|n| acts.iter().any(|act| matches!(act, Act::Pull(f, ..) if *f == friend(n))))
    };
    now.at += Duration::from_secs(2);
    c.hinted(now, friend(1));
    now.at += Duration::from_secs(10);
    assert_eq!(asked(&mut c, now), [false, true]);
    c.disconnected(friend(1));
    c.connected(now, friend(1));
    now.at += Duration::from_secs(10);
    assert!(!asked(&mut c, now)[0]);
    c.set_ignored(now, friend(1), false);
    now.at += Duration::from_secs(10);
    assert!(asked(&mut c, now)[0], "asked for everything again");
    assert!(!tell(&mut c, now, 1, 0, 0).is_empty() && knows(&c, 1, 0));
    check(&c);
}

#[test]
fn a_lost_friends_untold_entries_go_at_once() {
    let (mut c, now) = node();
    (1..=2).for_each(|n| c.add_friend(friend(n)));
    log_told(&mut c, now);
    c.timeout(now);
    c.remove_friend(now, friend(1));
    assert_eq!((c.roots().count(), c.count(friend(1)).entries), (0, 1));
    check(&c);
}

/// A publisher who lost blocks gets them back from friends who have them, whatever its audience was;
/// nobody else gets what was published for friends alone.
#[test]
fn a_publisher_is_served_what_it_published_itself() {
    let (mut c, now) = node();
    (1..=3).for_each(|n| c.add_friend(friend(n)));
    let root = Entry::sample().root();
    hear(&mut c, now, friend(1), 1, |e| e.hops_left = 0);
    assert_eq!([1, 2, 3].map(|n| c.may_serve(friend(n), &root)), [true, false, false]);
    hear(&mut c, now, friend(2), 2, |e| e.hops_left = 1);
    assert_eq!([1, 2, 3].map(|n| c.may_serve(friend(n), &root)), [true, true, true]);
    // Who took it back gets it no more.
    assert!(c.drop_mention(now.unix_ms, friend(1), Eid([1; 8])));
    assert!(c.drop_mention(now.unix_ms, friend(2), Eid([2; 8])));
    assert_eq!([1, 2, 3].map(|n| c.may_serve(friend(n), &root)), [false; 3]);
    // A relayed mention is not a publication of who told it.
    let entry = Entry { published_day: 20_000, expires_day: 20_030, ..Entry::sample() };
    take(&mut c, now, friend(3), Part::Relayed, Eid([3; 8]), &entry);
    assert!(!c.may_serve(friend(3), &root));
}

/// Any friend can list any root as its own. Who was dropped from the audience of an own publication
/// got it back by that, and could let others in: the publisher of a video is who decides, not who
/// says so later.
#[test]
fn listing_a_video_of_this_node_lets_nobody_in() {
    let root = Entry::sample().root();
    let served = |c: &Catalogue| [1, 2, 3].map(|n| c.may_serve(friend(n), &root));
    // The control: what this node fetched goes back to the friend who published it, and to whom
    // that friend let in.
    let (mut c, now) = node();
    (1..=3).for_each(|n| c.add_friend(friend(n)));
    hear(&mut c, now, friend(1), 1, |e| e.hops_left = 0);
    assert_eq!(served(&c), [true, false, false]);

    let (mut c, now) = node();
    (1..=3).for_each(|n| c.add_friend(friend(n)));
    c.set_circle(7, [friend(1), friend(2)].into());
    c.publish(now, Entry::sample(), Audience::Circle(7), true);
    assert_eq!(served(&c), [true, true, false]);
    hear(&mut c, now, friend(1), 1, |e| e.hops_left = 1);
    assert_eq!(served(&c), [true, true, false], "its word lets nobody in");
    c.set_circle(7, [friend(2)].into());
    assert_eq!(served(&c), [false, true, false], "dropped from the circle");
    assert!(c.withdraw(root));
    assert_eq!(served(&c), [false; 3], "withdrawn");

    // After a restart the catalogue is told what was published once.
    let (mut c, now) = node();
    (1..=3).for_each(|n| c.add_friend(friend(n)));
    c.note_published(root);
    hear(&mut c, now, friend(1), 1, |e| e.hops_left = 1);
    assert_eq!(served(&c), [false; 3]);
}

// Locators.

#[test]
fn locators_follow_the_hours_and_the_objects() {
    let (mut c, now) = node();
    c.add_friend(friend(1));
    let locator = |entry: &Entry, hour| entry.cap.locator().at_hour(hour);
    c.set_hour(100);
    hear(&mut c, now, friend(1), 1, |_| {});
    let sample = Entry::sample();
    for hour in [99, 100, 101] {
        assert_eq!(c.located(&locator(&sample, hour)), Some(sample.root()));
    }
    assert_eq!(c.located(&locator(&sample, 102)), None);
    // What a friend's friend published is found too, for requests from circuits: asked there.
    let (eid, far) = nth(1, 5, 0);
    take(&mut c, now, friend(1), Part::Relayed, eid, &far);
    assert_eq!(c.located(&locator(&far, 100)), Some(far.root()));
    assert_eq!(c.onward(&far.root()), [(friend(1), 2)]);
    assert_eq!(c.onward(&sample.root()).first(), Some(&(friend(1), 1)));
    assert!(c.pointers(friend(9), &far.root()).is_empty(), "a friend's request goes no third link");
    c.set_hour(102);
    assert_eq!(c.located(&locator(&sample, 103)), Some(sample.root()));
    assert_eq!(c.located(&locator(&sample, 100)), None);
    assert!(c.drop_mention(now.unix_ms, friend(1), Eid([1; 8])));
    assert_eq!(c.located(&locator(&sample, 102)), None);
}

#[test]
fn locators_of_many_are_made_in_steps() {
    let (mut c, now) = node_with(Shares::default());
    c.add_friend(friend(1));
    for n in 0..2500 {
        let (eid, entry) = nth(1, n, 0);
        take(&mut c, now, friend(1), Part::Own, eid, &Entry { hops_left: 1, ..entry });
    }
    let last = nth(1, 2499, 0).1.cap.locator().at_hour(7);
    let mut steps = 0;
    c.set_hour(7);
    while c.located(&last).is_none() {
        assert_eq!(c.poll_timeout(), Some(Duration::ZERO), "it wants to go on");
        c.set_hour(7);
        steps += 1;
    }
    assert_eq!(steps, 2);
    c.timeout(now);
    assert!(c.poll_timeout() > Some(Duration::ZERO));
}

// Any history.

#[derive(Clone, Debug)]
enum Step {
    Tell { teller: u8, relayed: bool, n: u32, eid: u8, days: u32, hops: u8, words: u8 },
    Withdraw { teller: u8, eid: u8 },
    Publish { n: u32 },
    Retract { n: u32 },
    Lose(u8),
    Befriend(u8),
    Forget(u8),
    Ignore(u8, bool),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let teller = 1_u8..4;
    let told = (teller.clone(), any::<bool>(), 0_u32..6, 0_u8..8, 0_u32..40, 0_u8..2, 0_u8..3);
    let tell = told.prop_map(|(teller, relayed, n, eid, days, hops, words)| Step::Tell {
        teller,
        relayed,
        n,
        eid,
        days,
        hops,
        words,
    });
    let step = prop_oneof![
        12 => tell,
        3 => (teller.clone(), 0_u8..8).prop_map(|(teller, eid)| Step::Withdraw { teller, eid }),
        1 => (0_u32..6).prop_map(|n| Step::Publish { n }),
        1 => (0_u32..6).prop_map(|n| Step::Retract { n }),
        1 => teller.clone().prop_map(Step::Lose),
        2 => teller.clone().prop_map(Step::Befriend),
        1 => teller.clone().prop_map(Step::Forget),
        1 => (teller, any::<bool>()).prop_map(|(teller, ignored)| Step::Ignore(teller, ignored)),
        3 => (1_u64..200_000).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 0..80)
}

fn play(c: &mut Catalogue, now: &mut Now, step: &Step) {
    match step {
        Step::Tell { teller, relayed, n, eid, days, hops, words } => {
            let mut entry = nth(0, *n, *days).1;
            entry.title = format!("words {words}");
            (entry.hops_left, entry.expires_day) = (*hops, DAY + 40 - days);
            let part = if *relayed { Part::Relayed } else { Part::Own };
            if c.views.get(&friend(*teller)).is_some_and(|v| !v.gone) {
                take(c, *now, friend(*teller), part, Eid([*eid; 8]), &entry);
            }
        }
        Step::Withdraw { teller, eid } => {
            c.drop_mention(now.unix_ms, friend(*teller), Eid([*eid; 8]));
        }
        Step::Publish { n } => c.publish(*now, nth(0, *n, 0).1, Audience::Fof, true),
        Step::Retract { n } => {
            c.withdraw(nth(0, *n, 0).1.root());
        }
        Step::Lose(n) => c.remove_friend(*now, friend(*n)),
        Step::Befriend(n) => c.add_friend(friend(*n)),
        Step::Forget(n) => c.forget_view(*now, friend(*n)),
        Step::Ignore(n, ignored) => c.set_ignored(*now, friend(*n), *ignored),
        Step::Wait(seconds) => {
            now.at += Duration::from_secs(*seconds);
            now.unix_ms += seconds * 1000;
            c.timeout(*now);
        }
    }
}

proptest! {
    #[test]
    fn any_history_leaves_a_sound_catalogue(steps in steps()) {
        let (mut c, mut now) = node_with(small(4, 9));
        // What search was told last of each place.
        let mut shown = BTreeMap::new();
        for step in &steps {
            play(&mut c, &mut now, step);
            check(&c);
            prop_assert!(c.size.entries <= 9);
            while let Some((id, searchable)) = c.next_unsearched() {
                shown.insert(id, searchable.map(|s| (s.entry.root, s.entry.title.to_owned())));
            }
            for (id, _) in c.objects.iter() {
                let brief = c.entry(id).map(|l| (l.distance, l.entry.duration_s));
                prop_assert_eq!(c.brief(id).map(|b| (b.distance, b.duration_s)), brief);
            }
            let shown: BTreeMap<Root, String> = shown.values().flatten().cloned().collect();
            let listed = c.roots().map(|root| (root, c.listing(&root).unwrap().entry.title)).collect();
            prop_assert_eq!(shown, listed, "search knows what the catalogue knows");
        }
        // Without friends and own publications nothing is left in the end.
        for n in 0..6 {
            c.withdraw(nth(0, n, 0).1.root());
        }
        (1..4).for_each(|n| c.remove_friend(now, friend(n)));
        play(&mut c, &mut now, &Step::Wait(100_000));
        play(&mut c, &mut now, &Step::Wait(100_000));
        prop_assert_eq!((c.len(), c.views.len(), c.size), (0, 0, Size::default()));
    }
}
