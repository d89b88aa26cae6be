//! Nodes with many objects: start-up, memory, one more of everything, and what it takes on disk.
//!
//! The stores are made through the store's own API on a backend that leaves out the blocks (their
//! places are holes) and does not wait for the disk: so 100,000 packs take gigabytes less and
//! minutes instead of an hour. All other bytes are what a node writes.

use crate::figures::{median, stat};
use crate::harness::{Node, command, json, kith, let_pass, lines_of};
use crate::records::{Publication, Record};
use crate::speed::{options, write_random};
use kith_crypto::content::{Builder, Geometry, Head, ReadCap, Sealed, Tree};
use kith_crypto::rng::Rng;
use kith_crypto::secret::Key;
use kith_onion::catalogue::Audience;
use kith_store::backend::{Backend, File, Held, Kind, Real};
use kith_store::{Opened, Store, StoreError};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const STARTS: usize = 3;
const READY: Duration = Duration::from_secs(120);
/// Bytes of a sealed block in its place.
const PLACE_LEN: usize = kith_crypto::content::SEALED_LEN + 16;
const WORDS: u64 = 4_000;

pub(crate) fn run(own: bool, counts: &[u64]) {
    let mut home = Home::make();
    let kind = if own { "own publications" } else { "fetched objects" };
    println!("{kind}; packs without their blocks, see tests/bench/store/objects.rs");
    let mut columns = Vec::new();
    for count in counts {
        eprintln!("making {count}");
        home.fill(own, *count);
        eprintln!("measuring {count}");
        columns.push(home.measure(own));
    }
    print!("{:<44}", "figure");
    counts.iter().for_each(|count| print!("{count:>12}"));
    println!();
    let rows = columns.first().map_or(0, Vec::len);
    for row in 0..rows {
        print!("{:<44}", columns[0][row].0);
        columns.iter().for_each(|column| print!("{:>12.2}", column[row].1));
        println!();
    }
}

/// Fills the store in a folder, to look at a node with many objects more closely.
pub(crate) fn child_fill(args: &[String]) {
    let store = Store::open_on(Arc::new(Sparse), &options(Path::new(&args[0]))).unwrap().store;
    let mut maker = Maker { rng: Rng::from_seed([7; 32]) };
    (0..args[2].parse().unwrap()).for_each(|_| maker.add(&store, args[1] == "own"));
}

struct Home {
    node: Node,
    store: PathBuf,
    made: u64,
    maker: Maker,
}

struct Maker {
    rng: Rng,
}

type Row = (&'static str, f64);

impl Home {
    fn make() -> Self {
        let mut node = Node::stopped("Ana", &[]);
        node.up("127.0.0.1:0", &["--name", "Ana"]);
        let store = PathBuf::from(json(&node, &["paths"])["store"].as_str().unwrap());
        assert!(node.terminate().success());
        Self { node, store, made: 0, maker: Maker { rng: Rng::from_seed([7; 32]) } }
    }

    fn fill(&mut self, own: bool, count: u64) {
        let store = Store::open_on(Arc::new(Sparse), &options(&self.store)).unwrap().store;
        while self.made < count {
            self.made += 1;
            self.maker.add(&store, own);
        }
    }

    fn measure(&mut self, own: bool) -> Vec<Row> {
        let mut rows = Vec::new();
        Up::start(&self.node.home).stop(); // the first start writes what later ones find
        let (mut starts, mut cpu) = (Vec::new(), Vec::new());
        let (mut resident, mut peak) = (0.0, 0.0);
        for _ in 0..STARTS {
            let up = Up::start(&self.node.home);
            let_pass(Duration::from_millis(500));
            starts.push(up.ready_ms);
            cpu.push(up.ready_cpu_ms);
            (resident, peak) = (up.memory("VmRSS:"), up.memory("VmHWM:"));
            up.stop();
        }
        rows.push(("up to ready after a clean stop: ms", middle(starts)));
        rows.push(("the same: ms of CPU", middle(cpu)));
        rows.push(("resident: MB", resident));
        rows.push(("peak while starting: MB", peak));
        let (mut killed, mut cpu) = (Vec::new(), Vec::new());
        for _ in 0..STARTS {
            drop(Up::start(&self.node.home)); // drop kills
            let up = Up::start(&self.node.home);
            killed.push(up.ready_ms);
            cpu.push(up.ready_cpu_ms);
            up.stop();
        }
        rows.push(("up to ready after kill -9: ms", middle(killed)));
        rows.push(("the same: ms of CPU", middle(cpu)));
        self.node.up("127.0.0.1:0", &[]);
        let source = self.node.scratch("one.bin");
        write_random(&source, 65_536);
        let args = ["publish", source.to_str().unwrap(), "--to", "friends", "--any-file", "--json"];
        let idle =
            middle((0..5).map(|_| timed(|| drop(kith(&self.node, &["status", "--json"]).json()))).collect());
        let mut ids = Vec::new();
        let publish = (0..5).map(|_| timed(|| ids.push(kith(&self.node, &args).json()))).collect();
        rows.push(("kith status: ms", idle));
        rows.push(("kith publish of 64 KiB: ms", middle(publish)));
        let id = ids[0]["id"].as_str().unwrap().to_owned();
        let show = (0..5).map(|_| timed(|| drop(kith(&self.node, &["video", "show", &id, "--json"]).json())));
        rows.push(("kith video show: ms", middle(show.collect())));
        if own {
            let words = ["search", "w001", "w2f", "--scope", "mine", "--json"];
            let search = (0..5).map(|_| timed(|| drop(kith(&self.node, &words).json())));
            rows.push(("kith search, two words: ms", middle(search.collect())));
        }
        for id in &ids {
            kith(&self.node, &["video", "rm", id["id"].as_str().unwrap()]);
        }
        assert!(self.node.terminate().success());
        self.in_process(&mut rows);
        rows
    }

    fn in_process(&self, rows: &mut Vec<Row>) {
        let open = || Store::open(&options(&self.store)).unwrap();
        let mut opened = Vec::new();
        for _ in 0..STARTS {
            opened.push(timed(|| {
                let Opened { store, index_rebuilt, .. } = open();
                assert!(!index_rebuilt);
                drop(store);
            }));
        }
        rows.push(("store: open and close: ms", middle(opened)));
        std::fs::remove_dir_all(self.store.join("index")).unwrap();
        let mut store = None;
        let rebuilding = timed(|| store = Some(open()));
        let Opened { store, records, index_rebuilt, .. } = store.unwrap();
        assert!(index_rebuilt);
        let objects = store.objects();
        rows.push(("store: open without an index: ms", rebuilding));
        let mut rng = Rng::from_seed([1; 32]);
        let looks = 10_000.min(objects.len() * 10);
        let looking = timed(|| {
            for _ in 0..looks {
                let at = rng.range(0, objects.len() as u64 - 1) as usize;
                assert!(store.object(&objects[at].root).is_some());
            }
        });
        rows.push(("store: look-up by root: us", looking * 1e3 / looks as f64));
        let stats = store.stats();
        rows.push(("journal: bytes an object", stats.journal_bytes as f64 / objects.len() as f64));
        rows.push(("store: compaction: ms", timed(|| store.compact(&records).unwrap())));
        let journal = store.stats().journal_bytes as f64;
        rows.push(("journal, compacted: bytes an object", journal / objects.len() as f64));
        drop(store);
        let index = Real.used_bytes(&self.store.join("index"));
        rows.push(("index: bytes an object", index as f64 / objects.len() as f64));
    }
}

impl Maker {
    fn add(&mut self, store: &Store, own: bool) {
        if own { self.publish(store) } else { self.fetch(store) }
    }

    fn blocks(&mut self) -> (ReadCap, Geometry, Vec<Sealed>, String) {
        let mut builder = Builder::new(Key::new(self.rng.bytes()));
        let mut blocks = vec![builder.push(Vec::with_capacity(PLACE_LEN)).unwrap()];
        let title = self.sentence(6);
        let head = Head { title: title.clone(), len: 65_536, ..Head::default() };
        let (cap, geometry) = builder.finish(&head, |sealed| blocks.push(sealed));
        (cap, geometry, blocks, title)
    }

    fn publish(&mut self, store: &Store) {
        let (cap, geometry, blocks, title) = self.blocks();
        let publication = Publication {
            cap: cap.clone(),
            title,
            text: self.sentence(25),
            tags: vec![self.sentence(1), self.sentence(1)],
            mime: "video/mp4".into(),
            bytes: 65_536,
            duration_s: 60,
            blocks: 1,
            audience: Some(Audience::Fof),
            created_s: 1_790_000_000,
        };
        let mut publishing = store.publish().unwrap();
        blocks.into_iter().for_each(|sealed| publishing.write(sealed).unwrap());
        let record = Record::Published(Box::new(publication)).encode();
        publishing.commit(&cap, geometry, 1_790_000_000, record).unwrap();
    }

    fn fetch(&mut self, store: &Store) {
        let (cap, geometry, mut blocks, _) = self.blocks();
        let root = blocks.pop().unwrap();
        let (mut tree, root) = Tree::open(&cap.verify_cap(), root.bytes).unwrap();
        let pack =
            store.begin_fetch(&cap.verify_cap(), Some(&cap.key), &root, geometry, 1_790_000_000).unwrap();
        for sealed in blocks {
            pack.write(tree.verify(sealed.position, sealed.bytes).unwrap()).unwrap();
        }
        store.mark_complete(&cap.root).unwrap();
    }

    /// Words of a made-up language, few of which are common.
    fn sentence(&mut self, count: usize) -> String {
        let mut word = || {
            let share = self.rng.range(0, 1 << 20) as f64 / f64::from(1 << 20);
            format!("w{:03x}", (WORDS as f64).powf(share) as u64)
        };
        (0..count).map(|_| word()).collect::<Vec<_>>().join(" ")
    }
}

fn middle(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    median(&figures)
}

/// Milliseconds.
fn timed(work: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    work();
    begun.elapsed().as_secs_f64() * 1e3
}

/// A node with the usual configuration. Dropped, it is killed.
struct Up {
    child: Child,
    ready_ms: f64,
    /// Milliseconds of all cores that it took.
    ready_cpu_ms: f64,
}

impl Up {
    fn start(home: &Path) -> Self {
        let mut command = command(home, &["up", "--listen", "127.0.0.1:0", "--web", "127.0.0.1:0", "--json"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let begun = Instant::now();
        let mut child = command.spawn().unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        lines.recv_timeout(READY).unwrap();
        let ready_ms = begun.elapsed().as_secs_f64() * 1e3;
        let ready_cpu_ms = stat(&format!("/proc/{}/stat", child.id()), [14, 15]) * 1e3;
        Self { child, ready_ms, ready_cpu_ms }
    }

    fn memory(&self, key: &str) -> f64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1_024.0 / 1e6
    }

    fn stop(mut self) {
        use rustix::process::{Pid, Signal, kill_process};
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // Fails when the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Real files in which the places of blocks stay holes, and nobody waits for the disk.
#[derive(Debug)]
pub(crate) struct Sparse;

#[derive(Debug)]
struct SparseFile(Box<dyn File>);

impl File for SparseFile {
    fn read_at(&self, at: u64, len: usize) -> io::Result<Vec<u8>> {
        self.0.read_at(at, len)
    }
    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() == PLACE_LEN { Ok(()) } else { self.0.write_at(at, bytes) }
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    fn mode(&self) -> io::Result<u32> {
        self.0.mode()
    }
    fn settle(&self) {
        self.0.settle();
    }
}

impl Backend for Sparse {
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(Box::new(SparseFile(Real.create(path)?)))
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(Box::new(SparseFile(Real.open(path)?)))
    }
    fn kind(&self, path: &Path) -> io::Result<Kind> {
        Real.kind(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Real.rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        Real.link(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        Real.remove(path)
    }
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        Real.make_dir(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<(PathBuf, Kind)>> {
        Real.list(dir)
    }
    fn sync_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }
    fn lock(&self, dir: &Path) -> Result<Box<dyn Held>, StoreError> {
        Real.lock(dir)
    }
    fn used_bytes(&self, dir: &Path) -> u64 {
        Real.used_bytes(dir)
    }
    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        Real.free_bytes(dir)
    }
    fn is_real(&self) -> bool {
        true
    }
}
