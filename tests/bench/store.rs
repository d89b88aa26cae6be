//! The store at size: how quick, how large, and how both grow. Prints tables of medians; every
//! figure of speed stands beside a plain copy or read of the same bytes in the same run.
//!
//! `cargo bench -p kith-node --bench store -- speed [MIB [RUNS]]` publishes and reads one object;
//! `-- halves [OBJECTS]` deletes half of all objects and compares the disk with what is left;
//! `-- objects own|fetched [COUNT..]` starts nodes with so many objects;
//! `-- bytes [GIB..]` reads and opens stores with so many GiB.
//! All of them write below `TMPDIR`; `speed` needs four times the size there.

// A bench that can't go on has nothing to report but why.
#![allow(clippy::unwrap_used, clippy::panic)]

// The same nodes as in the end-to-end tests; the bench needs only some of their verbs.
#[allow(dead_code)]
mod figures;
#[allow(dead_code)]
#[path = "../e2e/harness.rs"]
mod harness;
// The node's own way of publishing, with a file for the request.
#[allow(dead_code, unreachable_pub, unused_imports)]
#[path = "../../node/src/duration.rs"]
mod duration;
#[allow(dead_code, unreachable_pub, unused_imports)]
#[path = "../../node/src/media_type.rs"]
mod media_type;
#[allow(dead_code, unreachable_pub)]
#[path = "../../node/src/publish.rs"]
mod publish;
#[allow(dead_code, unreachable_pub, unused_imports)]
#[path = "../../node/src/video/mod.rs"]
mod video;
// How the journal keeps a publication.
#[allow(dead_code, unreachable_pub, unused_imports)]
#[path = "../../node/src/records.rs"]
mod records;

#[path = "store/objects.rs"]
mod objects;
#[path = "store/size.rs"]
mod size;
#[path = "store/speed.rs"]
mod speed;

/// What publishing needs of the node's errors.
#[allow(dead_code, unreachable_pub)]
mod exit {
    use kith_store::StoreError;

    #[derive(Clone, Copy, Debug)]
    pub enum Exit {
        Failure,
        Usage,
        UnsupportedMedia,
    }

    #[derive(Debug)]
    pub struct Failure(pub Exit, pub String);

    impl Failure {
        pub fn new(exit: Exit, what: impl Into<String>) -> Self {
            Self(exit, what.into())
        }
    }

    impl From<StoreError> for Failure {
        fn from(e: StoreError) -> Self {
            Self(Exit::Failure, e.to_string())
        }
    }
}

fn main() {
    // cargo adds flags of its own (`--bench`).
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let numbers: Vec<u64> = words.iter().skip(1).filter_map(|w| w.parse().ok()).collect();
    let number = |at: usize, default: u64| numbers.get(at).copied().unwrap_or(default);
    let command = words.first().map_or("speed", String::as_str);
    if !command.starts_with("child") {
        println!("{}", figures::machine());
        if cfg!(debug_assertions) {
            println!("THIS IS A DEBUG BUILD: its figures say nothing");
        }
    }
    match command {
        "child-random" => size::child_random(&words[1..]),
        "speed" => speed::run(number(0, 4096), number(1, 3)),
        "child-publish" => speed::child_publish(&words[1..]),
        "child-fill" => objects::child_fill(&words[1..]),
        "child-read" => speed::child_read(&words[1..]),
        "halves" => size::halves(number(0, 64)),
        "bytes" => size::bytes(if numbers.is_empty() { &[1, 4, 16] } else { &numbers }),
        "objects" => {
            let counts = if numbers.is_empty() { vec![1_000, 10_000, 100_000] } else { numbers };
            let own = words.get(1).is_none_or(|kind| kind != "fetched");
            objects::run(own, &counts);
        }
        other => panic!("{other}: speed, halves, objects or bytes"),
    }
}
