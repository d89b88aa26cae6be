//! A campaign of `kill -9` against two real nodes, compared with a model of what they have promised.
//!
//! Each round lets one operation run and kills a process at a random moment of it: the publisher while
//! it publishes or withdraws, the requester, the holder or both while one fetches, and every now and
//! then the same process again while it starts. Then everything is started as a user would, and what
//! was acknowledged must be there, whole, and offered to the friend; what was not is absent or whole.
//! The short run is a test; the long one is `cargo bench -p kith-node --bench kills -- 500`.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use crate::harness::*;

const KIB: u64 = 1 << 10;
/// Kills until the two nodes are replaced by fresh ones, which bounds the disk.
const EPOCH: u64 = 50;
/// Publications that one node keeps; the oldest is withdrawn for the next.
const KEPT: usize = 12;
/// How long an interrupted fetch may take to go on.
const RESUME: Duration = Duration::from_secs(60);

/// A seeded generator (splitmix64): a campaign is told again from its seed, up to the machine's pace.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// A moment of something that takes about `time`, now and then just after it.
    fn moment(&mut self, time: Duration) -> Duration {
        time.mul_f64(self.below(1_100) as f64 / 1_000.0)
    }
}

/// What a campaign found.
#[derive(Default)]
pub(crate) struct Tally {
    /// Kills by what was going on.
    pub(crate) kills: BTreeMap<&'static str, u64>,
    /// Kills that struck before the operation had been acknowledged.
    pub(crate) under_way: u64,
    /// Publications, fetches and withdrawals that were acknowledged.
    pub(crate) acknowledged: u64,
    /// Publications that had not been acknowledged and were there all the same, whole.
    pub(crate) unacknowledged_whole: u64,
    /// Files read back and compared byte for byte.
    pub(crate) compared: u64,
    /// Seconds from starting a killed node to its ready line.
    pub(crate) restarts: Vec<f64>,
}

impl Tally {
    /// Kills in all.
    pub(crate) fn total(&self) -> u64 {
        self.kills.values().sum()
    }
}

struct Item {
    title: String,
    id: String,
    bytes: Vec<u8>,
}

struct Campaign {
    dice: Dice,
    seed: u64,
    tally: Tally,
    a: Node,
    b: Node,
    items: Vec<Item>,
    made: u64,
    /// Seconds that a publication, a fetch and a start take here for a megabyte, undisturbed.
    publish_s: f64,
    fetch_s: f64,
    start_s: f64,
}

/// Kills processes until there were `kills` kills. Fails with the seed and the round when anything is
/// not as promised.
pub(crate) fn campaign(kills: u64, seed: u64, mut progress: impl FnMut(&Tally)) -> Tally {
    let mut tally = Tally::default();
    let mut epoch = 0;
    while tally.total() < kills {
        let mut campaign = Campaign::begin(seed.wrapping_add(epoch), std::mem::take(&mut tally));
        let end = (campaign.tally.total() + EPOCH).min(kills);
        while campaign.tally.total() < end {
            campaign.round();
            progress(&campaign.tally);
        }
        campaign.everything_is_there();
        tally = campaign.end();
        epoch += 1;
    }
    tally
}

/// Which process is killed.
#[derive(Clone, Copy)]
enum Whom {
    Holder,
    Requester,
    Both,
}

impl Campaign {
    fn begin(seed: u64, tally: Tally) -> Self {
        let [a, b] = line_of::<2>();
        let dice = Dice(seed);
        let (items, made) = (Vec::new(), 0);
        let mut new =
            Self { dice, seed, tally, a, b, items, made, publish_s: 1.0, fetch_s: 1.0, start_s: 1.0 };
        // How long things take here, so that the moments are spread over the whole of them.
        let (title, bytes) = new.draw(1 << 20);
        let begun = Instant::now();
        let code = new.publishing(&title, &bytes).finish(RESUME).code;
        assert_eq!(code, 0);
        new.publish_s = begun.elapsed().as_secs_f64();
        new.learn(title, bytes);
        let id = new.items[0].id.clone();
        wait_found(&new.b, &new.items[0].title, &id);
        let begun = Instant::now();
        new.fetching(&id).finish(RESUME).expect_code(&[0]);
        new.fetch_s = begun.elapsed().as_secs_f64();
        assert!(new.a.terminate().success());
        let begun = Instant::now();
        new.a.restart();
        new.start_s = begun.elapsed().as_secs_f64();
        wait_connected(&new.a, &new.b);
        new
    }

    fn end(self) -> Tally {
        self.tally
    }

    fn draw(&mut self, len: u64) -> (String, Vec<u8>) {
        self.made += 1;
        (format!("item{:04}", self.made), random_bytes(usize::try_from(len).unwrap()))
    }

    fn size(&mut self) -> u64 {
        // Mostly about one megabyte, at times eight.
        match self.dice.below(8) {
            0 => KIB * 8 * KIB,
            1 => KIB * (2 + self.dice.below(6)) * KIB,
            _ => KIB * (200 + self.dice.below(1_400)),
        }
    }

    fn publishing(&self, title: &str, bytes: &[u8]) -> Running {
        let path = self.a.scratch("source.bin");
        fs::write(&path, bytes).unwrap();
        let args =
            ["publish", path.to_str().unwrap(), "--title", title, "--keep-metadata", "--any-file", "--json"];
        Running::start(command(&self.a.home, &args), b"")
    }

    fn fetching(&self, id: &str) -> Running {
        let out = self.b.scratch("out.bin");
        let _ = fs::remove_file(&out);
        Running::start(command(&self.b.home, &["get", id, "-o", out.to_str().unwrap(), "--json"]), b"")
    }

    fn listed(&self) -> BTreeMap<String, String> {
        let list = json(&self.a, &["video", "list"]);
        let rows = list.as_array().expect("a list").iter();
        rows.map(|row| (row["title"].as_str().unwrap().to_owned(), id_of(row))).collect()
    }

    /// Takes a publication into the model.
    fn learn(&mut self, title: String, bytes: Vec<u8>) {
        let id = self
            .listed()
            .get(&title)
            .unwrap_or_else(|| panic!("{title} was acknowledged and is lost"))
            .clone();
        self.items.push(Item { title, id, bytes });
    }

    fn round(&mut self) {
        match self.dice.below(10) {
            0..4 => self.kill_in_publish(),
            4..6 => self.kill_in_fetch(Whom::Requester, "requester fetches"),
            6..8 => self.kill_in_fetch(Whom::Holder, "holder serves"),
            8 => self.kill_in_fetch(Whom::Both, "both in a fetch"),
            _ => self.kill_in_withdrawal(),
        }
        self.promises_hold();
    }

    fn killed(&mut self, what: &'static str, running: &mut Running) {
        *self.tally.kills.entry(what).or_default() += 1;
        self.tally.under_way += u64::from(running.is_running());
    }

    /// Starts what was killed, sometimes not at the first attempt.
    fn revive(&mut self, holder: bool, requester: bool) {
        for (is, whose) in [(holder, 0), (requester, 1)] {
            if !is {
                continue;
            }
            let again = self.dice.below(3) == 0;
            let after = self.dice.moment(Duration::from_secs_f64(self.start_s));
            let node = if whose == 0 { &mut self.a } else { &mut self.b };
            if again {
                node.up_and_kill9(after);
                *self.tally.kills.entry("while it starts").or_default() += 1;
            }
            let begun = Instant::now();
            node.restart();
            self.tally.restarts.push(begun.elapsed().as_secs_f64());
        }
        wait_connected(&self.a, &self.b);
    }

    fn kill_in_publish(&mut self) {
        let len = self.size();
        let (title, bytes) = self.draw(len);
        let time = Duration::from_secs_f64(self.publish_s * (1.0 + len as f64 / (4 << 20) as f64));
        let mut publishing = self.publishing(&title, &bytes);
        let_pass(self.dice.moment(time));
        self.killed("publisher publishes", &mut publishing);
        self.a.kill9();
        let acknowledged = publishing.finish(RESUME).code == 0;
        self.revive(true, false);
        if acknowledged {
            self.tally.acknowledged += 1;
            self.learn(title, bytes);
        } else if self.listed().contains_key(&title) {
            // It may be there, and then it is whole, as everything is.
            self.tally.unacknowledged_whole += 1;
            self.learn(title, bytes);
        } else {
            return;
        }
        self.whole_on_both(self.items.len() - 1);
    }

    fn kill_in_fetch(&mut self, whom: Whom, what: &'static str) {
        let len = self.size();
        let (title, bytes) = self.draw(len);
        self.publishing(&title, &bytes).finish(RESUME).expect_code(&[0]);
        self.tally.acknowledged += 1;
        self.learn(title, bytes);
        let (title, id) = self.items.last().map(|item| (item.title.clone(), item.id.clone())).unwrap();
        wait_found(&self.b, &title, &id);
        let mut fetching = self.fetching(&id);
        let time = Duration::from_secs_f64(self.fetch_s * (1.0 + len as f64 / (4 << 20) as f64));
        let_pass(self.dice.moment(time));
        self.killed(what, &mut fetching);
        let (holder, requester) = (!matches!(whom, Whom::Requester), !matches!(whom, Whom::Holder));
        if holder {
            self.a.kill9();
        }
        if requester {
            self.b.kill9();
        }
        if matches!(whom, Whom::Both) {
            *self.tally.kills.entry(what).or_default() += 1;
        }
        self.revive(holder, requester);
        if fetching.finish(RESUME).code == 0 {
            self.tally.acknowledged += 1;
            assert_same(&self.b.scratch("out.bin"), &self.items.last().unwrap().bytes);
            // What was said to be here is here, also without the friend.
            if requester {
                assert_eq!(json(&self.b, &["get", &id])["mode"], "local", "{title} was fetched");
            }
        }
        self.whole_on_both(self.items.len() - 1);
    }

    fn kill_in_withdrawal(&mut self) {
        let index = usize::try_from(self.dice.below(self.items.len() as u64)).unwrap();
        let id = self.items[index].id.clone();
        let mut removing = Running::start(command(&self.a.home, &["video", "rm", &id]), b"");
        let_pass(self.dice.moment(Duration::from_millis(60)));
        self.killed("publisher withdraws", &mut removing);
        self.a.kill9();
        let acknowledged = removing.finish(RESUME).code == 0;
        self.revive(true, false);
        let there = self.listed().contains_key(&self.items[index].title);
        if acknowledged {
            self.tally.acknowledged += 1;
            assert!(!there, "what was withdrawn came back");
        }
        if there {
            self.whole_on_both(index);
        } else {
            self.items.remove(index);
            self.at_least_one();
        }
    }

    /// Reads an item back on its own node and through the friend.
    fn whole_on_both(&mut self, index: usize) {
        let item = &self.items[index];
        let out = self.a.scratch("own.bin");
        let _ = fs::remove_file(&out);
        kith(&self.a, &["get", &item.id, "-o", out.to_str().unwrap()]).expect_code(&[0]);
        assert_same(&out, &item.bytes);
        wait_found(&self.b, &item.title, &item.id);
        wait_until(RESUME, "the friend gets it", || {
            self.fetching(&item.id).finish(RESUME).expect_code(&[0, 6, 7]).code == 0
        });
        assert_same(&self.b.scratch("out.bin"), &item.bytes);
        self.tally.compared += 2;
    }

    /// Nothing is lost, nobody complains, and it is not for lack of anything to lose.
    fn promises_hold(&mut self) {
        let listed = self.listed();
        for item in &self.items {
            assert_eq!(listed.get(&item.title), Some(&item.id), "seed {}: {} is lost", self.seed, item.title);
        }
        assert_eq!(listed.len(), self.items.len(), "seed {}: {listed:?}", self.seed);
        assert!(friend(&self.a, "Bo").is_some() && friend(&self.b, "Ana").is_some(), "friendships stay");
        for node in [&self.a, &self.b] {
            assert!(json(node, &["status"])["read_only"].is_null());
            let log = node.log();
            assert!(!log.contains("damaged") && !log.contains("panicked"), "seed {}:\n{log}", self.seed);
        }
        let index = usize::try_from(self.dice.below(self.items.len() as u64)).unwrap();
        self.whole_on_both(index);
        if self.items.len() > KEPT {
            let item = self.items.remove(0);
            kith(&self.a, &["video", "rm", &item.id]).expect_code(&[0]);
        }
    }

    fn at_least_one(&mut self) {
        if self.items.is_empty() {
            let (title, bytes) = self.draw(KIB * 300);
            self.publishing(&title, &bytes).finish(RESUME).expect_code(&[0]);
            self.learn(title, bytes);
        }
    }

    fn everything_is_there(&mut self) {
        for index in 0..self.items.len() {
            self.whole_on_both(index);
        }
    }
}

#[test]
fn random_kills_lose_nothing() {
    let seed = std::process::id().into();
    let tally = campaign(6, seed, |_| {});
    assert!(tally.total() >= 6 && tally.compared >= 6, "seed {seed}: {:?}", tally.kills);
}

/// A disk that loses what it said it had: the campaign would not pass over it.
#[test]
fn a_loss_is_noticed() {
    let mut campaign = Campaign::begin(1, Tally::default());
    campaign.promises_hold();
    let journal = campaign.a.home.join("store/journal");
    let saved: Vec<_> = fs::read_dir(&journal)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (fs::read(&path).unwrap(), path))
        .collect();
    let (title, bytes) = campaign.draw(KIB);
    campaign.publishing(&title, &bytes).finish(RESUME).expect_code(&[0]);
    campaign.learn(title, bytes);
    campaign.a.kill9();
    for (bytes, path) in saved {
        fs::write(path, bytes).unwrap();
    }
    campaign.a.restart();
    let judged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| campaign.promises_hold()));
    let why = *judged.expect_err("a publication is gone").downcast::<String>().unwrap();
    assert!(why.contains("item0002 is lost"), "{why}");
}
