//! A swarm of viewers around one publisher: the shipped fetch and the shipped holder's side, with uplinks
//! as the only limit. Definitions of the scenarios: design section 9.9.
//!
//! Time goes in steps. A message arrives in the next step; an uplink is shared by the sessions that have
//! something to send, in equal parts, as TCP shares it. The seed decides everything.

use kith_crypto::content::{Builder, Geometry, Head, Position, SEALED_LEN, VerifyCap};
use kith_crypto::rng::Rng;
use kith_crypto::secret::Key;
use kith_onion::fetch::{Fetch, Place, Progress, Rules, SessionId, burst};
use kith_onion::serving::{Crowd, Serving};
use kith_onion::session::{Have, MAX_POSITIONS, Message, Spans, Want};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

/// One step.
const STEP: Duration = Duration::from_millis(100);
/// Who had nothing is asked again after this, as the core does.
const ASK_AGAIN: Duration = Duration::from_secs(15);
/// What a player wants ahead before it begins.
const START_BUFFER_S: f64 = 5.0;
/// The publisher.
const SEED: usize = 0;

/// A scenario.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Viewers.
    pub viewers: usize,
    /// They come within so many seconds.
    pub arrive_s: f64,
    /// Length of the video in seconds.
    pub length_s: f64,
    /// Bytes a second of it.
    pub bitrate: u64,
    /// Friends' nodes that each viewer finds.
    pub degree: usize,
    /// Upload of a viewer, and of the publisher, in bitrates.
    pub upload: (f64, f64),
    /// Share of a viewer's sessions that break in a second, and are replaced.
    pub churn: f64,
    /// The publisher leaves after so many seconds, or after sending so many copies.
    pub leaves: Option<Leaves>,
    /// The rules of viewers.
    pub rules: Rules,
    /// The publisher sends what it has sent least.
    pub least_sent: bool,
    /// Owners set limits: what leaves is shared among friends by those, and not by turns.
    pub limited: bool,
    /// Decides the rest.
    pub seed: u64,
}

/// When the publisher leaves.
#[derive(Clone, Copy, Debug)]
pub enum Leaves {
    /// After so many seconds.
    After(f64),
    /// After so many copies.
    Sent(f64),
}

impl Scenario {
    /// Eighty viewers within five minutes of ten minutes at a megabit a second.
    pub fn eighty(upload: (f64, f64), seed: u64) -> Self {
        Self {
            viewers: 80,
            arrive_s: 300.0,
            length_s: 600.0,
            bitrate: 125_000,
            degree: 6,
            upload,
            churn: 0.001,
            leaves: None,
            rules: Rules::default(),
            least_sent: true,
            limited: false,
            seed,
        }
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Seconds from coming to playing: mean and 90th percentile.
    pub start_s: (f64, f64),
    /// Seconds without a picture over the video's length, mean of the viewers.
    pub stalled: f64,
    /// Viewers who stalled for more than a fiftieth of the video.
    pub disturbed: f64,
    /// Of the viewers, those who got all of it.
    pub finished: f64,
    /// Of the blocks, those that some viewer had at the end.
    pub alive: f64,
    /// Copies that the publisher sent.
    pub copies: f64,
    /// Of the blocks that came, those that were new.
    pub useful: f64,
}

/// The video, sealed.
struct Object {
    cap: VerifyCap,
    geometry: Geometry,
    blocks: HashMap<Position, Vec<u8>>,
}

impl Object {
    fn new(data_blocks: u64) -> Self {
        let mut builder = Builder::new(Key::new([9; 32]));
        let mut blocks = HashMap::new();
        for index in 0..data_blocks {
            let sealed = builder.push(index.to_le_bytes().to_vec()).expect("it is short");
            blocks.insert(sealed.position, sealed.bytes);
        }
        let (cap, geometry) = builder.finish(&Head::default(), |sealed| {
            blocks.insert(sealed.position, sealed.bytes);
        });
        Self { cap: cap.verify_cap(), geometry, blocks }
    }
}

/// A holder's session with one viewer.
struct Out {
    serving: Serving,
    /// Which session between the two.
    nth: u32,
    /// Spans that were told; `None`: all.
    told: Option<usize>,
    sending: Option<(Position, f64)>,
}

struct Node {
    /// `None`: the publisher.
    fetch: Option<Fetch>,
    out: BTreeMap<usize, Out>,
    crowd: Crowd<usize>,
    neighbours: BTreeSet<usize>,
    online: bool,
    upload: f64,
    sent: f64,
    came_at: f64,
    started_at: Option<f64>,
    /// Seconds into the video.
    at: f64,
    stalled: f64,
    ended: bool,
}

enum Letter {
    Ask(usize, SessionId, Message),
    Answer(SessionId, usize, Message),
}

struct Swarm {
    scenario: Scenario,
    object: Object,
    nodes: Vec<Node>,
    letters: Vec<Letter>,
    /// Whom to ask again who had nothing yet, and when.
    refused: Vec<(Duration, usize, usize)>,
    opened: u32,
    rng: Rng,
    now: Duration,
}

/// Plays a scenario to its end.
pub fn play(scenario: Scenario) -> Outcome {
    let data = (scenario.length_s * scenario.bitrate as f64 / 65_536.0).ceil() as u64;
    let mut swarm = Swarm::new(scenario, Object::new(data));
    let end = scenario.arrive_s + scenario.length_s * 3.0;
    while swarm.now.as_secs_f64() < end && !swarm.is_over() {
        swarm.step();
    }
    swarm.outcome()
}

impl Swarm {
    fn new(scenario: Scenario, object: Object) -> Self {
        let mut full = [7; 32];
        full[..8].copy_from_slice(&scenario.seed.to_le_bytes());
        let mut rng = Rng::from_seed(full);
        let node = |came_at: f64, upload: f64| Node {
            fetch: None,
            out: BTreeMap::new(),
            crowd: Crowd::default(),
            neighbours: BTreeSet::new(),
            online: false,
            upload: upload * scenario.bitrate as f64,
            sent: 0.0,
            came_at,
            started_at: None,
            at: 0.0,
            stalled: 0.0,
            ended: false,
        };
        let mut times: Vec<f64> = (0..scenario.viewers).map(|_| unit(&mut rng) * scenario.arrive_s).collect();
        times.sort_by(f64::total_cmp);
        let (viewer, seed) = scenario.upload;
        let mut nodes = vec![Node { online: true, ..node(0.0, seed) }];
        nodes.extend(times.into_iter().map(|came_at| {
            let mut fetch = Fetch::new(object.cap.clone());
            fetch.set_rules(scenario.rules);
            fetch.set_seed(u64::from_le_bytes(rng.bytes()));
            Node { fetch: Some(fetch), ..node(came_at, viewer) }
        }));
        Self {
            scenario,
            object,
            nodes,
            letters: Vec::new(),
            refused: Vec::new(),
            opened: 0,
            rng,
            now: Duration::ZERO,
        }
    }

    fn is_over(&self) -> bool {
        self.nodes.iter().skip(1).all(|node| node.ended)
    }

    fn step(&mut self) {
        self.now += STEP;
        let second = self.now.as_secs_f64();
        self.come_and_go(second);
        let due = |(at, ..): &(Duration, usize, usize)| *at <= self.now;
        let (again, later) = std::mem::take(&mut self.refused).into_iter().partition(due);
        self.refused = later;
        let again: Vec<(Duration, usize, usize)> = again;
        // Who has been silent for too long is left, as the core does.
        let stalled = |(viewer, node): (usize, &Node)| -> Vec<(usize, usize)> {
            let silent = node.fetch.iter().flat_map(|fetch| fetch.stalled(self.now));
            silent.map(|(holder, _)| (viewer, holder as usize)).collect()
        };
        let silent: Vec<_> = self.nodes.iter().enumerate().flat_map(stalled).collect();
        for (viewer, holder) in silent {
            self.close(viewer, holder);
        }
        for (_, viewer, holder) in again {
            if self.nodes[viewer].neighbours.contains(&holder) {
                self.open(viewer, holder);
            }
        }
        let mut busy = BTreeSet::new();
        for letter in std::mem::take(&mut self.letters) {
            match letter {
                Letter::Ask(viewer, session, message) => self.asked(viewer, session, message),
                Letter::Answer(session, viewer, message) => {
                    self.answered(session, viewer, message);
                    busy.insert(viewer);
                }
            }
        }
        self.watch(second, &mut busy);
        for viewer in busy {
            self.ask(viewer);
        }
        (0..self.nodes.len()).for_each(|holder| self.send(holder));
    }

    // Who is there.

    fn come_and_go(&mut self, second: f64) {
        let step = STEP.as_secs_f64();
        for id in 1..self.nodes.len() {
            if !self.nodes[id].online && self.nodes[id].came_at <= second {
                self.nodes[id].online = true;
                if let Some(fetch) = &mut self.nodes[id].fetch {
                    fetch.set_whole(self.now, false);
                    fetch.set_reader(self.now, 1, Some(Place::new(0, self.scenario.bitrate)));
                }
                (0..self.scenario.degree).for_each(|_| self.befriend(id));
            }
        }
        let sent = self.nodes[SEED].sent / self.bytes();
        let leaves = match self.scenario.leaves {
            Some(Leaves::After(time)) => second >= time,
            Some(Leaves::Sent(copies)) => sent >= copies,
            None => false,
        };
        if leaves && self.nodes[SEED].online {
            self.leave(SEED);
        }
        if self.scenario.churn > 0.0 {
            for id in 0..self.nodes.len() {
                for other in self.nodes[id].neighbours.clone() {
                    if other > id && unit(&mut self.rng) < self.scenario.churn * step {
                        self.part(id, other);
                        self.befriend(id);
                    }
                }
            }
        }
    }

    fn bytes(&self) -> f64 {
        self.object.geometry.data_count() as f64 * SEALED_LEN as f64
    }

    /// Another friend's node for this one.
    fn befriend(&mut self, id: usize) {
        let free = |other: &usize| {
            *other != id && self.nodes[*other].online && !self.nodes[id].neighbours.contains(other)
        };
        let others: Vec<usize> = (0..self.nodes.len()).filter(free).collect();
        if others.is_empty() || !self.nodes[id].online {
            return;
        }
        let other = others[self.rng.range(0, others.len() as u64 - 1) as usize];
        self.nodes[id].neighbours.insert(other);
        self.nodes[other].neighbours.insert(id);
        for (viewer, holder) in [(id, other), (other, id)] {
            self.open(viewer, holder);
        }
    }

    fn open(&mut self, viewer: usize, holder: usize) {
        let now = self.now;
        let root = self.object.cap.root;
        // Who has no span yet refuses, like a node does.
        if self.nodes[holder].fetch.as_ref().is_some_and(|fetch| fetch.spans().is_empty()) {
            self.refused.push((now + ASK_AGAIN, viewer, holder));
            return;
        }
        let wanting = |fetch: &&mut Fetch| !fetch.is_complete();
        let Some(fetch) = self.nodes[viewer].fetch.as_mut().filter(wanting) else { return };
        self.opened += 1;
        let session = (holder as u32, self.opened);
        let start = fetch.session_opened(now, session);
        let serving = Serving::new(root, Spans::of(self.object.geometry));
        let out = Out { serving, nth: self.opened, told: None, sending: None };
        self.nodes[holder].out.insert(viewer, out);
        self.nodes[holder].crowd.sessions += 1;
        self.letters.push(Letter::Ask(viewer, session, start));
    }

    fn close(&mut self, viewer: usize, holder: usize) {
        let Some(out) = self.nodes[holder].out.remove(&viewer) else { return };
        self.nodes[holder].crowd.sessions -= 1;
        self.nodes[holder].crowd.gate.forget(self.now, viewer);
        if let Some(fetch) = &mut self.nodes[viewer].fetch {
            fetch.session_closed((holder as u32, out.nth));
        }
    }

    fn part(&mut self, one: usize, other: usize) {
        self.nodes[one].neighbours.remove(&other);
        self.nodes[other].neighbours.remove(&one);
        self.close(one, other);
        self.close(other, one);
    }

    fn leave(&mut self, id: usize) {
        for other in self.nodes[id].neighbours.clone() {
            self.part(id, other);
            // Whoever loses a friend's node finds another.
            self.befriend(other);
        }
        self.nodes[id].online = false;
    }

    // Holders.

    fn asked(&mut self, viewer: usize, session: SessionId, message: Message) {
        let now = self.now;
        let holder = session.0 as usize;
        let spans = self.nodes[holder].fetch.as_ref().map(|f| (f.span_map(), f.spans().len()));
        let whole = self.nodes[holder].fetch.as_ref().is_none_or(Fetch::is_complete);
        let same = |out: &&mut Out| out.nth == session.1;
        let least_sent = self.scenario.least_sent;
        let Node { out, crowd, .. } = &mut self.nodes[holder];
        let Some(out) = out.get_mut(&viewer).filter(same) else { return };
        match message {
            Message::Start { resume, first, count } => {
                if !resume {
                    let positions = burst(u64::from(first), count);
                    let want = |p| Want { position: p, deadline_ms: 0 };
                    for position in positions {
                        out.serving.want(now, want(position));
                    }
                }
                let have = match spans.filter(|_| !whole) {
                    Some((map, count)) => {
                        out.told = Some(count);
                        Have::Spans(map)
                    }
                    None => Have::All,
                };
                self.letters.push(Letter::Answer(session, viewer, Message::Have(have)));
            }
            Message::Want(wants) => {
                wants.into_iter().for_each(|want| out.serving.want(now, want));
                let put_off = out.serving.put_off(now, crowd.of_all(whole && least_sent)).into_iter();
                let letter = |position| Letter::Answer(session, viewer, Message::Later(position));
                self.letters.extend(put_off.map(letter));
            }
            Message::Cancel(positions) => out.serving.cancel(&positions),
            other => unreachable!("a viewer does not say {other:?}"),
        }
    }

    /// Sends for one step, in equal parts.
    fn send(&mut self, holder: usize) {
        if !self.nodes[holder].online {
            return;
        }
        let mut left = self.nodes[holder].upload * STEP.as_secs_f64();
        self.nodes[holder].crowd.gate.expire(self.now);
        loop {
            self.begin_blocks(holder);
            let node = &mut self.nodes[holder];
            let busy = node.out.values().filter(|out| out.sending.is_some()).count();
            if busy == 0 || left < 1.0 {
                return;
            }
            // Until the first of them has its block out.
            let least = node.out.values().filter_map(|out| out.sending).map(|(_, rest)| rest);
            let share = (left / busy as f64).min(least.fold(f64::INFINITY, f64::min));
            for (viewer, out) in &mut node.out {
                let Some((position, rest)) = &mut out.sending else { continue };
                *rest -= share;
                left -= share;
                node.sent += share;
                node.crowd.gate.note(self.now, *viewer, rest.max(0.0) as usize);
                if *rest < 1.0 {
                    let position = *position;
                    out.sending = None;
                    node.crowd.gate.note(self.now, *viewer, 0);
                    let session = (holder as u32, out.nth);
                    let block = Message::Block(position, self.object.blocks[&position].clone());
                    self.letters.push(Letter::Answer(session, *viewer, block));
                }
            }
        }
    }

    /// Those whose turn it is begin a block, as many as may.
    fn begin_blocks(&mut self, holder: usize) {
        let now = self.now;
        let whole = self.nodes[holder].fetch.as_ref().is_none_or(Fetch::is_complete);
        let several = whole && self.scenario.least_sent;
        let limited = self.scenario.limited;
        loop {
            let Node { out, crowd, fetch, .. } = &mut self.nodes[holder];
            let crowd_now = crowd.of_all(several);
            let wants = |out: &&Out| out.sending.is_none() && out.serving.waiting() > 0;
            let cycle = crowd.gate.cycle(out.values().filter(wants).count());
            let turn = |(viewer, out): (&usize, &Out)| {
                Some((out.serving.next_turn(now, crowd_now, cycle)?, *viewer))
            };
            let next = out.iter().filter(|(_, out)| out.sending.is_none()).filter_map(turn).min();
            let Some((_, viewer)) = next else { return };
            let Some(out) = out.get_mut(&viewer) else { return };
            let viewer = &viewer;
            if !limited && !crowd.gate.is_open(*viewer) {
                return;
            }
            let session = (holder as u32, out.nth);
            for position in out.serving.put_off(now, crowd.of_all(several)) {
                self.letters.push(Letter::Answer(session, *viewer, Message::Later(position)));
            }
            let Some(position) = out.serving.next_wanted(now, crowd.of_all_mut(several)) else { continue };
            let has = match fetch {
                Some(fetch) => fetch.has(position),
                None => self.object.geometry.slot(position).is_some(),
            };
            if has {
                out.sending = Some((position, SEALED_LEN as f64));
                crowd.gate.note(now, *viewer, SEALED_LEN);
            } else {
                self.letters.push(Letter::Answer(session, *viewer, Message::Lack(position)));
            }
        }
    }

    // Viewers.

    fn answered(&mut self, session: SessionId, viewer: usize, message: Message) {
        let now = self.now;
        let Some(fetch) = &mut self.nodes[viewer].fetch else { return };
        let before = fetch.spans().len();
        match fetch.message(now, session, message) {
            Ok(Some(Progress::Root(..) | Progress::Block(_))) => fetch.written(),
            Ok(None) => {}
            Err(over) => unreachable!("an honest holder is taken for {over:?}"),
        }
        let complete = fetch.is_complete();
        let spans = fetch.spans().get(before..).unwrap_or_default().to_vec();
        if !spans.is_empty() {
            self.tell(viewer, complete);
        }
        if complete {
            self.nodes[viewer].neighbours.clone().into_iter().for_each(|other| self.close(viewer, other));
        }
    }

    /// Tells whom parts are sent what has come.
    fn tell(&mut self, holder: usize, complete: bool) {
        let node = &mut self.nodes[holder];
        let Some(fetch) = &node.fetch else { return };
        for (viewer, out) in &mut node.out {
            let Some(told) = out.told else { continue };
            let session = (holder as u32, out.nth);
            if complete {
                out.told = None;
                self.letters.push(Letter::Answer(session, *viewer, Message::Have(Have::All)));
                continue;
            }
            out.told = Some(fetch.spans().len());
            for some in fetch.spans().get(told..).unwrap_or_default().chunks(MAX_POSITIONS) {
                self.letters.push(Letter::Answer(session, *viewer, Message::More(some.to_vec())));
            }
        }
    }

    fn ask(&mut self, viewer: usize) {
        let now = self.now;
        let Some(fetch) = &mut self.nodes[viewer].fetch else { return };
        let mut out = Vec::new();
        for id in fetch.session_ids() {
            while let Some(message) = fetch.next_wants(now, id) {
                out.push((id, message));
            }
        }
        for id in fetch.taking_back() {
            while let Some(message) = fetch.next_wants(now, id) {
                out.push((id, message));
            }
        }
        let letter = |(id, message): (SessionId, Message)| Letter::Ask(viewer, id, message);
        self.letters.extend(out.into_iter().map(letter));
    }

    /// Players go on.
    fn watch(&mut self, second: f64, busy: &mut BTreeSet<usize>) {
        let step = STEP.as_secs_f64();
        let Scenario { length_s, bitrate, .. } = self.scenario;
        let block_s = 65_536.0 / bitrate as f64;
        let last = self.object.geometry.data_count() - 1;
        for (id, node) in self.nodes.iter_mut().enumerate().skip(1) {
            let Some(fetch) = node.fetch.as_mut().filter(|_| node.online && !node.ended) else { continue };
            if fetch.take_look(self.now) {
                busy.insert(id);
            }
            let block = ((node.at / block_s) as u64).min(last);
            let here = fetch.has(Position::Data(block));
            match node.started_at {
                None => {
                    let needed = ((START_BUFFER_S / block_s).ceil() as u64).min(last);
                    if (0..=needed).all(|index| fetch.has(Position::Data(index))) {
                        node.started_at = Some(second - node.came_at);
                    }
                }
                Some(_) if here => node.at += step,
                Some(_) => node.stalled += step,
            }
            if node.at >= length_s {
                node.ended = true;
            }
            let now_at = ((node.at / block_s) as u64).min(last);
            if now_at != block || !here {
                let place = Place::new(now_at, bitrate);
                fetch.set_reader(self.now, 1, Some(place));
                busy.insert(id);
            }
        }
    }

    fn outcome(&self) -> Outcome {
        let viewers: Vec<&Node> = self.nodes.iter().skip(1).collect();
        let of = |count: usize| count as f64 / viewers.len().max(1) as f64;
        let mut starts: Vec<f64> = viewers.iter().filter_map(|node| node.started_at).collect();
        starts.sort_by(f64::total_cmp);
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let stalls: Vec<f64> = viewers.iter().map(|node| node.stalled / self.scenario.length_s).collect();
        let fetches = || self.nodes.iter().filter_map(|node| node.fetch.as_ref());
        let alive = |index: &u64| fetches().any(|fetch| fetch.has(Position::Data(*index)));
        let data = self.object.geometry.data_count();
        let (useful, wasted) = fetches().fold((0, 0), |(useful, wasted), fetch| {
            let received = fetch.received();
            (useful + received.useful, wasted + received.wasted)
        });
        let complete = |node: &&&Node| node.fetch.as_ref().is_some_and(Fetch::is_complete);
        Outcome {
            start_s: (mean(&starts), starts.get(starts.len() * 9 / 10).copied().unwrap_or(f64::NAN)),
            stalled: mean(&stalls),
            disturbed: of(stalls.iter().filter(|stalled| **stalled > 0.02).count()),
            finished: of(viewers.iter().filter(complete).count()),
            alive: (0..data).filter(alive).count() as f64 / data as f64,
            copies: self.nodes[SEED].sent / self.bytes(),
            useful: useful as f64 / (useful + wasted).max(1) as f64,
        }
    }
}

fn unit(rng: &mut Rng) -> f64 {
    (u64::from_le_bytes(rng.bytes()) >> 11) as f64 / (1_u64 << 53) as f64
}
