//! A fetch among holders of all kinds that come, go, put off, lack and lie in any order.

use super::tests::{Object, object};
use super::*;
use crate::serving::is_hurry;
use crate::session::Have;
use proptest::prelude::*;
use std::collections::BTreeSet;

const BLOCKS: u64 = 700;
const STEP: Duration = Duration::from_millis(20);

fn geometry() -> Geometry {
    Geometry::of(BLOCKS).expect("it is small")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Whole,
    Parts,
    /// Says that it has all, and has nothing.
    Empty,
    /// Changes what it sends.
    Liar,
}

/// A holder as it is: what it was asked for and has not answered.
#[derive(Debug)]
struct Holder {
    kind: Kind,
    asked: Vec<Want>,
    /// Spans that it has said it has.
    told: BTreeSet<u32>,
    /// Blocks that it has put off.
    later: BTreeSet<Position>,
}

struct Play<'a> {
    object: &'a Object,
    fetch: Fetch,
    now: Duration,
    holders: BTreeMap<SessionId, Holder>,
    opened: u32,
}

impl Play<'_> {
    fn spans(&self) -> Spans {
        Spans::of(geometry())
    }

    fn open(&mut self, kind: Kind) {
        self.opened += 1;
        let id = (1, self.opened);
        let Message::Start { resume, first, count } = self.fetch.session_opened(self.now, id) else {
            panic!()
        };
        let burst = burst(first.into(), count).filter(|_| !resume);
        let asked = burst.map(|position| Want { position, deadline_ms: 0 }).collect();
        let told = if kind == Kind::Parts { BTreeSet::from([3]) } else { BTreeSet::new() };
        let have = match kind {
            Kind::Parts => Have::Spans(self.spans().map(&[3])),
            _ => Have::All,
        };
        self.holders.insert(id, Holder { kind, asked, told, later: BTreeSet::new() });
        self.hear(id, Message::Have(have));
    }

    fn close(&mut self, id: SessionId) {
        self.holders.remove(&id);
        self.fetch.session_closed(id);
        self.ask();
    }

    /// The fetch takes a message; who told the truth is not called a liar.
    fn hear(&mut self, id: SessionId, message: Message) {
        let kind = self.holders[&id].kind;
        match self.fetch.message(self.now, id, message) {
            Ok(Some(_)) => self.fetch.written(),
            Ok(None) => {}
            Err(over) => {
                assert!(kind == Kind::Liar || kind == Kind::Empty && over == Over::Gone, "{kind:?} {over:?}");
                self.close(id);
            }
        }
        self.ask();
    }

    /// A holder answers one of its requests, what proves others first.
    fn answer(&mut self, id: SessionId, nth: u64, later: bool) {
        let (object, spans) = (self.object, self.spans());
        let Some(holder) = self.holders.get_mut(&id).filter(|holder| !holder.asked.is_empty()) else {
            return;
        };
        let proof = holder.asked.iter().position(|want| !matches!(want.position, Position::Data(_)));
        let Want { position, deadline_ms } =
            holder.asked.remove(proof.unwrap_or(nth as usize % holder.asked.len()));
        let due = Duration::from_millis(deadline_ms.into());
        let has = |index| holder.kind != Kind::Parts || holder.told.contains(&(spans.of_block(index) as u32));
        let message = match (position, object.1.get(&position)) {
            (_, None) => Message::Lack(position),
            _ if holder.kind == Kind::Empty => Message::Lack(position),
            (Position::Data(index), _) if !has(index) => Message::Lack(position),
            (Position::Data(_), _) if later && !is_hurry(due) && holder.later.insert(position) => {
                Message::Later(position)
            }
            (_, Some(bytes)) if holder.kind == Kind::Liar => {
                Message::Block(position, bytes.iter().map(|b| b ^ 1).collect())
            }
            (_, Some(bytes)) => Message::Block(position, bytes.clone()),
        };
        self.hear(id, message);
    }

    /// Sends what the fetch wants, and checks it.
    fn ask(&mut self) {
        self.fetch.session_ids().into_iter().for_each(|id| self.ask_one(id));
        // What one takes over is taken back from another.
        self.fetch.taking_back().into_iter().for_each(|id| self.ask_one(id));
        self.check();
    }

    fn ask_one(&mut self, id: SessionId) {
        while let Some(message) = self.fetch.next_wants(self.now, id) {
            let holder = self.holders.get_mut(&id).expect("it is asked while its session stands");
            match message {
                Message::Cancel(back) => holder.asked.retain(|want| !back.contains(&want.position)),
                Message::Want(wants) => {
                    for want in wants {
                        // What is due sooner than was said is asked for again.
                        let again = holder.asked.extract_if(.., |other| other.position == want.position);
                        let sooner = |before: Want| want.deadline_ms < before.deadline_ms;
                        assert!(again.collect::<Vec<_>>().into_iter().all(sooner), "{want:?} again");
                        if let (Kind::Parts, Position::Data(index)) = (holder.kind, want.position) {
                            let span = Spans::of(geometry()).of_block(index) as u32;
                            assert!(holder.told.contains(&span), "{want:?} is not there");
                        }
                        assert!(!self.fetch.has(want.position), "{want:?} is here");
                        holder.asked.push(want);
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn check(&self) {
        let mut times: BTreeMap<Position, usize> = BTreeMap::new();
        for (id, holder) in &self.holders {
            // What is to be taken back with the next message does not count.
            let back = &self.fetch.sessions[id].cancels;
            let asked = holder.asked.iter().filter(|want| !back.contains(&want.position));
            asked.for_each(|want| *times.entry(want.position).or_default() += 1);
        }
        // The first burst is asked for before anything is known.
        let first = |position: &Position| burst(0, FIRST_BURST).any(|other| other == *position);
        assert!(times.iter().all(|(position, n)| *n <= 2 || first(position)), "{times:?}");
        assert!(self.fetch.asked_count() <= MAX_UNDER_WAY + burst(0, FIRST_BURST).count());
        assert_eq!(self.fetch.session_ids().len(), self.holders.len());
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        for id in self.fetch.stalled(self.now) {
            self.close(id);
        }
        if self.fetch.take_look(self.now) {
            self.ask();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn whoever_comes_and_goes_nobody_honest_is_called_a_liar_and_it_completes(
        seed: u64,
        steps in proptest::collection::vec((0_u8..16, any::<u64>()), 50..600),
    ) {
        let object = object(BLOCKS);
        let mut fetch = Fetch::new(object.0.verify_cap());
        fetch.set_seed(seed);
        let mut play = Play { object: &object, fetch, now: STEP, holders: BTreeMap::new(), opened: 0 };
        for (step, n) in steps {
            let nth = play.holders.keys().copied().nth(n as usize % play.holders.len().max(1));
            match step {
                0 if play.holders.len() < 6 => {
                    let kinds = [Kind::Whole, Kind::Parts, Kind::Parts, Kind::Empty, Kind::Liar];
                    play.open(kinds[n as usize % kinds.len()]);
                }
                1 if n % 4 == 0 => nth.into_iter().for_each(|id| play.close(id)),
                2 => {
                    let place = Place { in_hand: Duration::from_millis(n % 30_000), ..Place::new(n % BLOCKS, 200_000 + n % 1_000_000) };
                    play.fetch.set_reader(play.now, n % 2, (n % 5 > 0).then_some(place));
                    play.ask();
                }
                3 => {
                    play.fetch.set_whole(play.now, n % 2 == 0);
                    play.ask();
                }
                4 => play.pass(Duration::from_millis(n % 4_000)),
                5 => {
                    let parts = nth.filter(|id| play.holders[id].kind == Kind::Parts);
                    if let Some(id) = parts {
                        let span = n as u32 % play.spans().count() as u32;
                        play.holders.get_mut(&id).expect("it stands").told.insert(span);
                        play.hear(id, Message::More(vec![span]));
                    }
                }
                _ => {
                    play.pass(STEP);
                    nth.into_iter().for_each(|id| play.answer(id, n / 7, step == 6));
                }
            }
        }
        // One good holder is enough in the end.
        play.fetch.set_whole(play.now, true);
        play.open(Kind::Whole);
        for round in 0..40_000 {
            if play.fetch.is_complete() {
                break;
            }
            play.pass(STEP);
            let ids: Vec<SessionId> = play.holders.keys().copied().collect();
            ids.into_iter().for_each(|id| play.answer(id, round, false));
        }
        prop_assert!(play.fetch.is_complete(), "{} of {}", play.fetch.have_count(), geometry().total());
    }
}
