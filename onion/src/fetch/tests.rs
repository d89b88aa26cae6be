//! What a fetch asks for and takes, step by step.

use super::*;
use crate::session::Have;
use kith_crypto::content::{Builder, Head, ReadCap};
use kith_crypto::secret::Key;
use std::collections::HashMap;

pub(super) type Object = (ReadCap, HashMap<Position, Vec<u8>>);

pub(super) fn object(blocks: u64) -> Object {
    let mut builder = Builder::new(Key::new([9; 32]));
    let mut all = HashMap::new();
    for i in 0..blocks {
        let sealed = builder.push(i.to_le_bytes().to_vec()).unwrap();
        all.insert(sealed.position, sealed.bytes);
    }
    let (cap, _) = builder.finish(&Head::default(), |s| {
        all.insert(s.position, s.bytes);
    });
    (cap, all)
}

/// Runs sessions that answer at once and in order; `lie` changes what a session sends.
fn run(
    object: &Object,
    sessions: &[SessionId],
    mut lie: impl FnMut(SessionId, Position, &mut Vec<u8>),
) -> Vec<SessionId> {
    let mut fetch = Fetch::new(object.0.verify_cap());
    let mut liars = Vec::new();
    let mut now = Duration::ZERO;
    let mut queue: Vec<(SessionId, Position)> = Vec::new();
    for id in sessions {
        let Message::Start { resume, count, .. } = fetch.session_opened(now, *id) else { panic!() };
        queue.extend(burst(0, count).filter(|_| !resume).map(|p| (*id, p)));
    }
    for _ in 0..100_000 {
        now += Duration::from_millis(1);
        if queue.is_empty() {
            break;
        }
        let (id, position) = queue.remove(0);
        if liars.contains(&id) {
            continue;
        }
        let message = match object.1.get(&position) {
            Some(bytes) => {
                let mut bytes = bytes.clone();
                lie(id, position, &mut bytes);
                Message::Block(position, bytes)
            }
            None => Message::Lack(position),
        };
        match fetch.message(now, id, message) {
            Ok(Some(_)) => fetch.written(),
            Ok(None) => {}
            Err(over) => {
                assert_eq!(over, Over::Lied);
                fetch.session_closed(id);
                liars.push(id);
            }
        }
        for id in sessions.iter().filter(|s| !liars.contains(s)) {
            match fetch.next_wants(now, *id) {
                Some(Message::Want(wants)) => queue.extend(wants.into_iter().map(|w| (*id, w.position))),
                Some(Message::Cancel(back)) => queue.retain(|(s, p)| s != id || !back.contains(p)),
                _ => {}
            }
        }
    }
    assert!(fetch.is_complete(), "{} of the blocks", fetch.have_count());
    liars
}

#[test]
fn fetches_small_and_two_level_objects() {
    for blocks in [1, 3, 40, 2100] {
        assert!(run(&object(blocks), &[(1, 2)], |_, _, _| {}).is_empty());
    }
}

#[test]
fn a_liar_is_dropped_after_one_block_and_the_rest_comes_from_elsewhere() {
    let mut lies = 0;
    let liars = run(&object(60), &[(1, 2), (3, 4)], |id, position, bytes| {
        if id == (1, 2) && matches!(position, Position::Data(_)) {
            bytes[100] ^= 1;
            lies += 1;
        }
    });
    assert_eq!((liars, lies), (vec![(1, 2)], 1));
}

#[test]
fn readers_come_first_and_memory_is_bounded() {
    let (cap, blocks) = object(500);
    let mut fetch = Fetch::new(cap.verify_cap());
    let id = (1, 1);
    fetch.session_opened(Duration::ZERO, id);
    fetch
        .message(Duration::ZERO, id, Message::Block(Position::Root, blocks[&Position::Root].clone()))
        .unwrap();
    for position in burst(0, FIRST_BURST).skip(1) {
        let message = match blocks.get(&position) {
            Some(bytes) => Message::Block(position, bytes.clone()),
            None => Message::Lack(position),
        };
        fetch.message(Duration::ZERO, id, message).unwrap();
    }
    (0..6).for_each(|_| fetch.written());
    fetch.set_reader(Duration::ZERO, 1, Some(Place::unpaced(300)));
    let Some(Message::Want(wants)) = fetch.next_wants(Duration::ZERO, id) else { panic!() };
    let positions: Vec<_> = wants.iter().map(|w| w.position).collect();
    assert_eq!(positions[..2], [Position::Data(300), Position::Data(301)]);
    for i in 300..600 {
        let Some(bytes) = blocks.get(&Position::Data(i)) else { break };
        if fetch.asked.contains_key(&Position::Data(i)) {
            fetch
                .message(Duration::from_millis(i), id, Message::Block(Position::Data(i), bytes.clone()))
                .unwrap();
        }
        fetch.next_wants(Duration::from_millis(i), id);
        assert!(fetch.asked.len() + fetch.unwritten <= MAX_UNWRITTEN + 32);
    }
    assert!(fetch.unwritten > 20, "nothing was written, so the fetch stopped asking");
}

#[test]
fn resumes_without_asking_again() {
    let (cap, blocks) = object(50);
    let root = blocks[&Position::Root].clone();
    let have = |p: Position| !matches!(p, Position::Data(i) if i >= 48);
    let mut fetch = Fetch::resume(cap.verify_cap(), root, have).unwrap();
    let Message::Start { resume: true, first: 48, count: 0 } = fetch.session_opened(Duration::ZERO, (1, 1))
    else {
        panic!()
    };
    let Some(Message::Want(wants)) = fetch.next_wants(Duration::ZERO, (1, 1)) else { panic!() };
    assert_eq!(
        wants.iter().map(|w| w.position).collect::<Vec<_>>(),
        [Position::Data(48), Position::Data(49)]
    );
}

#[test]
fn a_holder_that_lacks_a_block_is_left_and_not_asked_for_ever() {
    let (cap, blocks) = object(9);
    let mut fetch = Fetch::new(cap.verify_cap());
    let (id, now) = ((1, 1), Duration::ZERO);
    fetch.session_opened(now, id);
    fetch.message(now, id, Message::Have(Have::All)).unwrap();
    let root = Message::Block(Position::Root, blocks[&Position::Root].clone());
    fetch.message(now, id, root).unwrap();
    assert!(fetch.message(now, id, Message::Lack(Position::Node(0))).unwrap().is_none());
    assert_eq!(fetch.message(now, id, Message::Lack(Position::Data(1))).unwrap_err(), Over::Gone);
    assert_eq!(fetch.message(now, id, Message::Lack(Position::Data(8))).unwrap_err(), Over::Lied);
}

#[test]
fn who_has_nothing_leaves_it_to_another() {
    let object = object(3);
    let mut fetch = Fetch::new(object.0.verify_cap());
    let now = Duration::ZERO;
    fetch.session_opened(now, (1, 1));
    let start = fetch.session_opened(now, (2, 2));
    assert!(matches!(start, Message::Start { resume: true, count: 0, .. }));
    assert_eq!(fetch.message(now, (1, 1), Message::Lack(Position::Root)).unwrap_err(), Over::Gone);
    fetch.session_closed((1, 1));
    let mut left = 100;
    while let Some(Message::Want(wants)) = fetch.next_wants(now, (2, 2)) {
        for want in wants {
            let block = Message::Block(want.position, object.1[&want.position].clone());
            assert!(fetch.message(now, (2, 2), block).unwrap().is_some());
            fetch.written();
        }
        left -= 1;
        assert!(left > 0);
    }
    assert!(fetch.is_complete());
}

/// A fetch of five hundred blocks whose session has brought what comes first.
fn reading(place: Place) -> Fetch {
    let (mut fetch, _) = begun(&object(500), |_| true);
    (0..MAX_UNWRITTEN).for_each(|_| fetch.written());
    fetch.set_whole(Duration::ZERO, false);
    fetch.set_reader(Duration::ZERO, 1, Some(place));
    fetch
}

fn wants(fetch: &mut Fetch, now: Duration) -> Vec<(u64, u16)> {
    let Some(Message::Want(wants)) = fetch.next_wants(now, (1, 1)) else { panic!("it wants nothing") };
    wants.iter().map(|want| (want.position.index(), want.deadline_ms)).collect()
}

#[test]
fn a_reader_who_goes_elsewhere_takes_its_requests_back() {
    let now = Duration::ZERO;
    let mut fetch = reading(Place::unpaced(100));
    let asked = wants(&mut fetch, now);
    assert_eq!(asked[..2], [(100, 0), (101, 0)]);
    fetch.set_reader(now, 1, Some(Place::unpaced(101)));
    assert!(fetch.taking_back().is_empty(), "it goes on");
    fetch.set_reader(now, 1, Some(Place::unpaced(300)));
    let Some(Message::Cancel(back)) = fetch.next_wants(now, (1, 1)) else { panic!("nothing is taken back") };
    // What is next there is on its way already.
    let rest: Vec<u64> = asked[1..].iter().map(|(index, _)| *index).collect();
    assert_eq!(back.iter().map(|position| position.index()).collect::<Vec<_>>(), rest);
    assert_eq!(wants(&mut fetch, now)[0], (300, 0));
}

#[test]
fn what_a_player_has_in_hand_is_due_later_and_runs_out() {
    let in_hand = Duration::from_secs(6);
    let place = Place { in_hand, ..Place::new(100, 65_552) };
    assert_eq!(wants(&mut reading(place), Duration::ZERO)[..2], [(100, 6_000), (101, 7_000)]);
    let mut fetch = reading(place);
    assert_eq!(fetch.buffered(Duration::from_secs(2)), Some(Duration::from_secs(4)));
    assert_eq!(wants(&mut fetch, Duration::from_secs(2))[..2], [(100, 4_000), (101, 5_000)]);
}

#[test]
fn silence_is_noticed() {
    let (cap, _) = object(2);
    let mut fetch = Fetch::new(cap.verify_cap());
    fetch.session_opened(Duration::ZERO, (1, 1));
    assert!(fetch.stalled(SESSION_STALL).is_empty());
    assert_eq!(fetch.stalled(fetch.poll_timeout().unwrap()), [(1, 1)]);
}

/// A fetch whose session has answered the first burst of a two-level object, up to the node.
fn begun(object: &Object, bring: impl Fn(Position) -> bool) -> (Fetch, Result<(), Over>) {
    let mut fetch = Fetch::new(object.0.verify_cap());
    fetch.session_opened(Duration::ZERO, (1, 1));
    let mut result = Ok(());
    for position in burst(0, FIRST_BURST).filter(|p| bring(*p)) {
        let message = match object.1.get(&position) {
            Some(bytes) => Message::Block(position, bytes.clone()),
            None => Message::Lack(position),
        };
        result = result.and(fetch.message(Duration::ZERO, (1, 1), message).map(drop));
    }
    (fetch, result)
}

#[test]
fn data_before_the_node_that_was_asked_first_is_a_lie() {
    // Taking it and asking again would never end.
    let object = object(2100);
    assert!(begun(&object, |_| true).1.is_ok());
    assert_eq!(begun(&object, |p| !matches!(p, Position::Node(_))).1, Err(Over::Lied));
}

#[test]
fn a_holder_says_once_what_it_has_and_once_that_it_has_all() {
    let object = object(3);
    let have = |fetch: &mut Fetch, have| fetch.message(Duration::ZERO, (1, 1), Message::Have(have)).map(drop);
    let (mut fetch, _) = begun(&object, |_| true);
    assert_eq!(have(&mut fetch, Have::All), Ok(()));
    assert_eq!(have(&mut fetch, Have::All), Err(Over::Lied));
    let (mut fetch, _) = begun(&object, |_| true);
    assert_eq!(have(&mut fetch, Have::Spans(Vec::new())), Ok(()));
    assert_eq!(have(&mut fetch, Have::Spans(Vec::new())), Err(Over::Lied));
    assert_eq!(have(&mut fetch, Have::All), Ok(()));
}

#[test]
fn dripping_does_not_keep_a_session() {
    let object = object(40);
    let (mut fetch, _) = begun(&object, |_| true);
    (0..MAX_UNWRITTEN).for_each(|_| fetch.written());
    let id = (1, 1);
    let mut now = Duration::ZERO;
    let Some(Message::Want(wants)) = fetch.next_wants(now, id) else { panic!() };
    // Every block but the first one comes, each just before the silence would be noticed.
    for want in wants.iter().skip(1).cycle().take(20) {
        now += SESSION_STALL - Duration::from_millis(1);
        let bytes = object.1[&want.position].clone();
        let _ = fetch.message(now, id, Message::Block(want.position, bytes));
        if !fetch.stalled(now).is_empty() {
            break;
        }
    }
    assert!(now <= BLOCK_STALL + SESSION_STALL, "{now:?}");
}

/// What only the publisher has comes before what a viewer has, too, however far it is. The end of a long film was
/// asked of nobody until readers came near, and was gone with the publisher.
#[test]
fn the_far_end_of_a_film_is_rare_too() {
    let (cap, blocks) = object(1_000);
    let mut fetch = Fetch::new(cap.verify_cap());
    fetch.set_whole(Duration::ZERO, false);
    fetch.set_reader(Duration::ZERO, 1, Some(Place::new(0, 20_000)));
    let [publisher, viewer] = [(1, 1), (2, 1)];
    for id in [publisher, viewer] {
        fetch.session_opened(Duration::ZERO, id);
    }
    let root = Message::Block(Position::Root, blocks[&Position::Root].clone());
    fetch.message(Duration::ZERO, publisher, root).unwrap();
    let geometry = fetch.geometry().unwrap();
    let spans = Spans::of(geometry);
    fetch.message(Duration::ZERO, publisher, Message::Have(Have::All)).unwrap();
    // The viewer has all but the last spans, an hour away.
    let last = spans.count() as u32 - 3;
    let near: Vec<u32> = (0..last).collect();
    fetch.message(Duration::ZERO, viewer, Message::Have(Have::Spans(spans.map(&near)))).unwrap();
    for seed in 0..50 {
        fetch.set_seed(seed);
        let (span, _) = fetch.rarest_span(Duration::ZERO, geometry, publisher).unwrap();
        assert!(span >= u64::from(last), "span {span} of {last}, seed {seed}");
    }
}
