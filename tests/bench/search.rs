//! Search at size: a node whose friends have told it many entries, opened from its files.
//!
//! `cargo bench -p kith-node --bench search -- [FRIENDS [ENTRIES [QUERIES]]]`; default 200 friends
//! with 100,000 entries in all and 400 queries. It writes a home with real view logs, starts the
//! release binary on it and asks through the API. Prints start-up time, memory over the idle node
//! and the time of each kind of query, next to a plain scan of the same texts in the same run; then, in a real
//! browser, the time from a key to the list, and what the pages weigh.

// A bench that can't go on has nothing to report but why.
#![allow(clippy::unwrap_used, clippy::panic)]

// The same nodes as in the end-to-end tests; the bench needs only some of their verbs.
#[allow(dead_code)]
#[path = "../e2e/harness.rs"]
mod harness;
// And the same browser.
#[allow(dead_code)]
#[path = "../e2e/browser.rs"]
mod browser;
#[allow(dead_code)]
#[path = "../e2e/players/mod.rs"]
mod players;
// How the journal keeps a friend.
#[allow(dead_code, unreachable_pub, unused_imports)]
#[path = "../../node/src/records.rs"]
mod records;
// The index itself, for what a page of a friend's view costs it.
#[allow(dead_code, unreachable_pub, unused_imports)]
#[path = "../../node/src/search/mod.rs"]
mod search;

use harness::{Node, command, json, lines_of};
use kith_crypto::content::{ReadCap, Root};
use kith_crypto::identity::Identity;
use kith_crypto::pair::PairRoot;
use kith_crypto::passphrase::Cost;
use kith_crypto::rng::Rng;
use kith_crypto::secret::Key;
use kith_onion::catalogue::{Catalogue, Pace};
use kith_onion::entry::{Entry, fitting_tags};
use kith_onion::{FriendKey, FriendRecord, Now, Traffic};
use kith_store::{Options, Store, Unlock};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const STARTS: usize = 5;
const READY: Duration = Duration::from_secs(60);
/// Different words of all titles and texts.
const VOCABULARY: u64 = 4_000;
const DAY_S: u64 = 86_400;

fn main() {
    // cargo adds flags of its own (`--bench`).
    let numbers: Vec<usize> =
        std::env::args().skip(1).filter(|a| !a.starts_with('-')).map(|a| a.parse().unwrap()).collect();
    let friends = numbers.first().copied().unwrap_or(200).max(1);
    let entries = numbers.get(1).copied().unwrap_or(100_000).max(friends);
    let queries = numbers.get(2).copied().unwrap_or(400).max(1);
    if cfg!(debug_assertions) {
        println!("THIS IS A DEBUG BUILD: its figures say nothing");
    }

    let home = Home::make();
    let (idle_start, idle) = home.measure(STARTS);
    let mut words = Words::new();
    let texts = home.fill(friends, entries, &mut words);
    let bytes: usize = texts.iter().map(|t| t.0.len() + t.1.len()).sum();
    println!("{entries} entries of {friends} friends, {bytes} bytes of titles and texts");

    let (start, full) = home.measure(STARTS);
    println!("{:<46} {:>9} {:>9}  to reach", "figure", "median", "max");
    let part = |list: &[(f64, f64)], pick: fn(&(f64, f64)) -> f64| list.iter().map(pick).collect::<Vec<_>>();
    row("idle: up to ready, ms", &part(&idle_start, |s| s.0), "");
    row("up to ready, ms", &part(&start, |s| s.0), "<= 1000");
    row("up to ready, ms of all cores", &part(&start, |s| s.1), "");
    row("idle: resident, MiB", &idle.iter().map(|m| m.resident).collect::<Vec<_>>(), "");
    row("resident, MiB", &full.iter().map(|m| m.resident).collect::<Vec<_>>(), "");
    row("peak, MiB", &full.iter().map(|m| m.peak).collect::<Vec<_>>(), "");
    let over = |pick: fn(&Memory) -> f64| {
        median(&full.iter().map(pick).collect::<Vec<_>>())
            - median(&idle.iter().map(pick).collect::<Vec<_>>())
    };
    println!("{:<46} {:>9.1} {:>9}  <= 64", "resident over idle, MiB", over(|m| m.resident), "");
    println!("{:<46} {:>9.1} {:>9}", "peak over idle's peak, MiB", over(|m| m.peak), "");

    let mut up = Up::start(&home.node.home);
    let mut api = up.api();
    let known = api.get("/api/status")["entries"].as_u64().unwrap();
    println!("{:<46} {known:>9}", "entries that the node says it knows");
    let mut all = Vec::new();
    for (kind, list) in words.queries(queries) {
        let mut times = Vec::new();
        for query in &list {
            let path = format!("/api/search?words={}&limit=50", query.replace(' ', "+"));
            let begun = Instant::now();
            let answer = api.get(&path);
            times.push(begun.elapsed().as_secs_f64() * 1e3);
            let hits = answer["results"].as_array().unwrap().len();
            assert!(kind.hits.is_none_or(|has| has == (hits > 0)), "{query:?} has {hits} hits");
        }
        percentiles(&format!("search, {}: ms", kind.name), &times, "<= 10");
        if kind.usual {
            all.extend(times);
        }
    }
    percentiles("search, all usual kinds: ms", &all, "<= 10");

    let usual = words.queries(40).into_iter().filter(|(kind, _)| kind.usual);
    let scans: Vec<f64> = usual.flat_map(|(_, list)| list).map(|query| scan(&texts, &query)).collect();
    percentiles("reference, plain scan: ms", &scans, "");
    println!("{:<46} {:>9.3}", "search p50 / scan p50", at(&all, 0.5) / at(&scans, 0.5));
    browse(&home, &mut words);
    up.stop();
    index_page(&texts);
    drop_view(&mut words);
}

/// The page in a real browser: from a key to the list, and what the pages weigh.
fn browse(home: &Home, words: &mut Words) {
    let kith = |args: &[&str]| {
        let output = command(&home.node.home, args).output().unwrap();
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let url = kith(&["open", "--print", "--json"])["url"].as_str().unwrap().to_owned();
    let origin = url.split("/login/").next().unwrap().to_owned();
    let Some(browser) = browser::Browser::with(&[], origin) else { return };
    browser.call("POST", "/url", &serde_json::json!({ "url": url }));
    browser.wait_js("it is in", "!location.pathname.startsWith('/login')");
    browser.go("/search");
    browser.js("window.times = []; let pressed = 0;
         document.addEventListener('keydown', () => { pressed = performance.now(); }, true);
         const seen = () => { times.push(performance.now() - pressed); };
         new MutationObserver(seen).observe(document.querySelector('#results'), { childList: true });
         document.querySelector('#search input').focus();");
    let (mut keys, mut times) = (0_u64, Vec::new());
    for (kind, queries) in words.queries(12).into_iter().filter(|(kind, _)| kind.usual) {
        for query in queries {
            for letter in query.chars().filter(char::is_ascii) {
                browser.press(&letter.to_string());
                keys += 1;
                browser.wait_js(kind.name, &format!("times.length >= {keys}"));
            }
            // The next one begins in an empty field.
            browser.js("const field = document.querySelector('#search input'); field.value = '';");
        }
    }
    let all = browser.js("return times");
    times.extend(all.as_array().unwrap().iter().filter_map(serde_json::Value::as_f64));
    percentiles("page: from key to list: ms", &times, "<= 50 (p99)");
    let common = words.all[0].clone();
    let found = kith(&["search", &common, "--json"]);
    let watch = format!("/watch/{}", found[0]["id"].as_str().unwrap());
    for (path, name) in [("/", "Home"), (watch.as_str(), "Watch")] {
        browser.requests();
        browser.go(path);
        browser.wait_js("it is there", "document.readyState === 'complete'");
        let parts = "Promise.all([location.href, ...[...document.querySelectorAll('script[src], link[rel=stylesheet]')].map((e) => e.src || e.href)]
            .map(async (url) => { const raw = await (await fetch(url)).blob();
                const packed = await new Response(raw.stream().pipeThrough(new CompressionStream('gzip'))).blob(); return [raw.size, packed.size]; }))";
        browser.js(&format!("window.sizes = null; {parts}.then((all) => {{ window.sizes = all; }});"));
        browser.wait_js("sizes", "window.sizes");
        let sizes = browser.js("return window.sizes");
        let sum =
            |n: usize| sizes.as_array().unwrap().iter().map(|s| s[n].as_f64().unwrap()).sum::<f64>() / 1000.0;
        row(&format!("page: weight of {name}, packed, kB"), &[sum(1)], "<= 60");
        row(&format!("page: weight of {name}, as it is, kB"), &[sum(0)], "");
    }
}

/// Milliseconds to look at every title and text for all words.
fn scan(texts: &[(String, String)], query: &str) -> f64 {
    let begun = Instant::now();
    let words: Vec<String> = query.split(' ').map(str::to_lowercase).collect();
    let matching = |t: &&(String, String)| {
        let (title, text) = (t.0.to_lowercase(), t.1.to_lowercase());
        words.iter().all(|w| title.contains(w.as_str()) || text.contains(w.as_str()))
    };
    std::hint::black_box(texts.iter().filter(matching).count());
    begun.elapsed().as_secs_f64() * 1e3
}

/// What the index does with as many entries as a page of 256 KiB has, when it has all others.
fn index_page(texts: &[(String, String)]) {
    let mut index = search::Index::new();
    let begun = Instant::now();
    let insert = |index: &mut search::Index, id: usize, t: &(String, String)| {
        index.insert(id as _, search::Doc { title: &t.0, text: &t.1, ..search::Doc::default() });
    };
    texts.iter().enumerate().for_each(|(id, t)| insert(&mut index, id, t));
    println!("{:<46} {:>9.1}", "index of all entries from nothing: ms", begun.elapsed().as_secs_f64() * 1e3);
    let mut times = Vec::new();
    for page in texts.chunks(700).take(20) {
        let begun = Instant::now();
        page.iter().enumerate().for_each(|(n, t)| insert(&mut index, texts.len() + n, t));
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    percentiles("index of a page of 700 entries: ms", &times, "");
}

/// What it takes to drop all that one friend told, among the entries of others.
fn drop_view(words: &mut Words) {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let now = Now { at: Duration::ZERO, unix_ms: now_ms };
    let (mut rng, mut texts) = (Rng::from_seed([9; 32]), Vec::new());
    let mut catalogue = Catalogue::new(Pace::default(), Key::new([1; 32]), Rng::from_seed([1; 32]));
    let mut index = search::Index::new();
    for n in 0..10 {
        let friend = FriendKey([n; 32]);
        catalogue.add_friend(friend);
        for _ in 0..8000 {
            let record = add(&mut rng, words, &mut texts);
            catalogue.restore(now, friend, &record).unwrap();
        }
    }
    let all = sync(&mut catalogue, &mut index, usize::MAX);
    assert_eq!(all, 80_000);
    catalogue.timeout(now);
    let begun = Instant::now();
    catalogue.forget_view(now, FriendKey([3; 32]));
    let forgotten = begun.elapsed().as_secs_f64() * 1e3;
    while catalogue.poll().is_some() {}
    let mut turns = Vec::new();
    while catalogue.unsearched() > 0 {
        let begun = Instant::now();
        sync(&mut catalogue, &mut index, 100);
        turns.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    assert_eq!(index.len(), 72_000, "the friend's 8,000 are gone from search");
    println!("{:<46} {forgotten:>9.2}", "forget one view of 8,000 of 80,000 entries: ms");
    percentiles("search forgets them, a turn of 100: ms", &turns, "");
}

/// Lets the index see what changed, as the node does.
fn sync(catalogue: &mut Catalogue, index: &mut search::Index, most: usize) -> usize {
    let mut done = 0;
    while done < most
        && let Some((id, searchable)) = catalogue.next_unsearched()
    {
        done += 1;
        match searchable {
            Some(s) => {
                let (title, text) = (s.entry.title, s.entry.text);
                index.insert(id.0, search::Doc { title, text, source: s.teller, ..search::Doc::default() });
            }
            None => {
                index.remove(id.0);
            }
        }
    }
    done
}

// ---- the home -----------------------------------------------------------------------------------

struct Home {
    node: Node,
    store: PathBuf,
}

#[derive(Clone, Copy)]
struct Memory {
    resident: f64,
    peak: f64,
}

impl Home {
    fn make() -> Self {
        let mut node = Node::stopped("Ana", &[]);
        node.up("127.0.0.1:0", &["--name", "Ana"]);
        let store = PathBuf::from(json(&node, &["paths"])["store"].as_str().unwrap());
        assert!(node.terminate().success());
        Self { node, store }
    }

    /// Starts the node several times: milliseconds to the ready line, and memory a little later.
    fn measure(&self, times: usize) -> (Vec<(f64, f64)>, Vec<Memory>) {
        (0..times)
            .map(|_| {
                let mut up = Up::start(&self.node.home);
                // Asked once, so that everything a search needs is there.
                up.api().get("/api/search?words=zzzzzz");
                harness::let_pass(Duration::from_millis(500));
                let memory = up.memory();
                let ready = (up.ready_ms, up.cpu_ms);
                up.stop();
                (ready, memory)
            })
            .unzip()
    }

    /// Writes friends and what they told into journal and view logs. Returns titles and texts.
    fn fill(&self, friends: usize, entries: usize, words: &mut Words) -> Vec<(String, String)> {
        let options = Options { dir: &self.store, unlock: Unlock::KeyFile, cost: Cost::RECOMMENDED };
        let store = Store::open(&options).unwrap().store;
        let mut rng = Rng::from_seed([7; 32]);
        let mut texts = Vec::with_capacity(entries);
        let mut journal = Vec::new();
        for n in 0..friends {
            let identity = Identity::generate(&mut rng);
            let root = PairRoot::from_key(Key::new(rng.bytes()));
            let record = FriendRecord::new(*identity.public(), root, Vec::new(), 0);
            let key = record.keys.sign;
            let traffic = Traffic::default();
            let friend = records::Friend {
                record,
                name: format!("Friend {n}"),
                since_s: 1,
                traffic,
                verified_s: None,
                rotated_s: None,
            };
            journal.push(records::Record::Friend(Box::new(friend)).encode());
            let share = entries * (n + 1) / friends - entries * n / friends;
            let told: Vec<Vec<u8>> = (0..share).map(|_| add(&mut rng, words, &mut texts)).collect();
            store.view_log(&key).unwrap().0.rewrite(&told).unwrap();
        }
        store.append(&journal).unwrap();
        texts
    }
}

/// A record of a view log, `docs/protocol/catalogue.md`: "there".
fn add(rng: &mut Rng, words: &mut Words, texts: &mut Vec<(String, String)>) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let today = (now / DAY_S) as u32;
    // Half of them come from friends of friends, a quarter may travel on.
    let relayed = rng.range(0, 1) == 0;
    let tags: Vec<String> = (0..rng.range(0, 4)).map(|_| words.draw()).collect();
    let (title_words, text_len) = (rng.range(3, 8), rng.range(100, 300));
    let mut text = words.sentence(80);
    text.truncate(text_len as usize);
    let entry = Entry {
        cap: ReadCap { root: Root(rng.bytes()), key: Key::new(rng.bytes()) },
        hops_left: u8::from(!relayed && rng.range(0, 1) == 0),
        title: words.sentence(title_words as usize),
        text,
        tags: fitting_tags(&tags),
        mime: "video/mp4".into(),
        duration_s: rng.range(10, 7200) as u32,
        bytes: rng.range(1_000_000, 4_000_000_000),
        published_day: today - rng.range(0, 20) as u32,
        expires_day: today + rng.range(5, 30) as u32,
    };
    let encoded = entry.encode();
    let entry = Entry::decode(&encoded).unwrap();
    texts.push((entry.title, entry.text));
    let mut record = vec![1, u8::from(relayed)];
    record.extend_from_slice(&((now - DAY_S) * 1000).to_le_bytes());
    record.extend_from_slice(&rng.bytes::<8>());
    record.extend_from_slice(&encoded);
    record
}

// ---- a running node -----------------------------------------------------------------------------

struct Up {
    child: Child,
    ready: serde_json::Value,
    ready_ms: f64,
    cpu_ms: f64,
}

impl Up {
    /// Starts with the usual configuration; the harness shortens batches, which matters here.
    fn start(home: &Path) -> Self {
        let args = ["up", "--listen", "127.0.0.1:0", "--web", "127.0.0.1:0", "--json"];
        let mut command = command(home, &args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let begun = Instant::now();
        let mut child = command.spawn().unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        let line = lines.recv_timeout(READY).unwrap();
        let ready_ms = begun.elapsed().as_secs_f64() * 1e3;
        let cpu_ms = cpu_ms(child.id());
        Self { child, ready: serde_json::from_str(&line).unwrap(), ready_ms, cpu_ms }
    }

    fn api(&mut self) -> Api {
        Api(UnixStream::connect(self.ready["socket"].as_str().unwrap()).unwrap())
    }

    fn memory(&self) -> Memory {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let mib = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
            line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
        };
        Memory { resident: mib("VmRSS:"), peak: mib("VmHWM:") }
    }

    fn stop(&mut self) {
        let mut api = self.api();
        let _ = write!(api.0, "POST /api/stop HTTP/1.1\r\nhost: kith\r\ncontent-length: 0\r\n\r\n");
        assert!(self.child.wait().unwrap().success());
    }
}

/// Milliseconds of all cores that a process took so far, in steps of ten: proc_pid_stat(5).
fn cpu_ms(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = text.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: f64 = fields[11..13].iter().map(|f| f.parse::<f64>().unwrap()).sum();
    ticks * 10.0
}

impl Drop for Up {
    fn drop(&mut self) {
        // Fails when the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One connection to the API that is used for all requests.
struct Api(UnixStream);

impl Api {
    fn get(&mut self, path: &str) -> serde_json::Value {
        write!(self.0, "GET {path} HTTP/1.1\r\nhost: kith\r\n\r\n").unwrap();
        let mut bytes = Vec::new();
        let mut piece = vec![0; 64 * 1024];
        let head = loop {
            let n = self.0.read(&mut piece).unwrap();
            assert!(n > 0, "the node ended the connection");
            bytes.extend_from_slice(&piece[..n]);
            if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
        };
        let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
        assert!(text.starts_with("http/1.1 200"), "{text}");
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:")).unwrap();
        let length: usize = length.trim().parse().unwrap();
        while bytes.len() < head + length {
            let n = self.0.read(&mut piece).unwrap();
            assert!(n > 0, "the node ended the connection");
            bytes.extend_from_slice(&piece[..n]);
        }
        serde_json::from_slice(&bytes[head..head + length]).unwrap()
    }
}

// ---- words --------------------------------------------------------------------------------------

struct Kind {
    name: &'static str,
    /// Whether there are hits, where that is known.
    hits: Option<bool>,
    /// What people ask; the others try to be slow.
    usual: bool,
}

/// A made-up language: a few words are in most texts, most are rare.
struct Words {
    rng: Rng,
    all: Vec<String>,
}

impl Words {
    fn new() -> Self {
        let mut rng = Rng::from_seed([8; 32]);
        let syllable = |rng: &mut Rng| {
            let (head, tail) = (b"bdfgklmnprstvwz", b"aeiou");
            let head = head[rng.range(0, head.len() as u64 - 1) as usize];
            [head, tail[rng.range(0, 4) as usize]].map(char::from)
        };
        let mut all = std::collections::BTreeSet::new();
        while all.len() < VOCABULARY as usize {
            all.insert((0..rng.range(1, 4)).flat_map(|_| syllable(&mut rng)).collect::<String>());
        }
        let mut all: Vec<String> = all.into_iter().collect();
        for i in (1..all.len()).rev() {
            all.swap(i, rng.range(0, i as u64) as usize);
        }
        Self { rng, all }
    }

    /// Zipf's law, roughly: the n-th word is drawn with a probability near 1/n.
    fn draw(&mut self) -> String {
        let share = self.rng.range(0, 1 << 20) as f64 / f64::from(1 << 20);
        let at = (VOCABULARY as f64).powf(share) as usize - 1;
        self.all[at.min(self.all.len() - 1)].clone()
    }

    fn sentence(&mut self, words: usize) -> String {
        (0..words).map(|_| self.draw()).collect::<Vec<_>>().join(" ")
    }

    /// So many different queries of each kind.
    fn queries(&mut self, count: usize) -> Vec<(Kind, Vec<String>)> {
        let usual = |name, hits| Kind { name, hits: Some(hits), usual: true };
        let slow = |name, hits| Kind { name, hits, usual: false };
        let make = |kind, words: &mut dyn FnMut(&Self, usize) -> String| {
            (kind, (0..count).map(|n| words(self, n)).collect::<Vec<_>>())
        };
        let spread = |n: usize, list: &[String]| list[n * list.len() / count].clone();
        let letters = "abdefgiklmnoprstuvwz";
        let letter = |n: usize| letters.chars().nth(n % letters.len()).unwrap();
        vec![
            make(usual("one word", true), &mut |w, n| spread(n, &w.all)),
            make(usual("prefix of two letters", true), &mut |w, n| spread(n, &w.all)[..2].to_owned()),
            make(usual("two common words", true), &mut |w, n| {
                format!("{} {}", w.all[n % 20], w.all[20 + n % 30])
            }),
            make(usual("very common word", true), &mut |w, n| w.all[n % 10].clone()),
            make(usual("nothing", false), &mut |w, n| format!("{}xqy{n}", spread(n, &w.all))),
            make(slow("one letter", Some(true)), &mut |_, n| {
                // Consonants only: words of this language begin with one.
                "bdfgklmnprstvwz".chars().nth(n % 15).unwrap().to_string()
            }),
            make(slow("few of very many", Some(false)), &mut |w, n| format!("{}&scope=mine", w.all[n % 10])),
            make(slow("16 letters", None), &mut |_, n| {
                let many: Vec<String> = (0..16).map(|i| letter(n + i).to_string()).collect();
                many.join(" ")
            }),
            make(slow("a flood of Unicode", None), &mut |_, n| "%EF%B7%BA".repeat(20 + n % 60)),
        ]
    }
}

// ---- figures ------------------------------------------------------------------------------------

fn at(times: &[f64], share: f64) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

fn median(figures: &[f64]) -> f64 {
    at(figures, 0.5)
}

fn row(what: &str, figures: &[f64], reach: &str) {
    println!("{what:<46} {:>9.1} {:>9.1}  {reach}", median(figures), at(figures, 1.0));
}

fn percentiles(what: &str, times: &[f64], reach: &str) {
    let (p50, p99, most) = (at(times, 0.5), at(times, 0.99), at(times, 1.0));
    println!("{what:<46} p50 {p50:>7.2}  p99 {p99:>7.2}  max {most:>7.2}  {reach}");
}
