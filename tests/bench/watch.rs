//! Watching while it downloads: real processes over links with delay, jitter and rate (`e2e/wan.rs`), and
//! readers that behave like players.
//!
//! Direct: 20 ms and 20 Mbit/s one way. Three relays: 150 ms over the four links of the way, 8 Mbit/s each.
//! A film starts when a second of it is there. A reader that plays begins with two seconds and takes what
//! comes at once; where it would have waited is worked out from when each byte came.

use std::time::{Duration, Instant};

use crate::figures::*;
use crate::films::*;
use crate::harness::*;
use crate::players::chromium::Chromium;
use crate::players::mpv::Mpv;
use crate::wan::{Path, Wan};

/// `-- watch [PLAYS] [PART..]`: plays and seeks of each kind; parts: direct, relays, sources, pictures,
/// copies5, copies10, copies20, leaves.
pub(crate) fn run(words: &[String]) {
    let only: Vec<&str> = words.iter().map(String::as_str).filter(|w| w.parse::<u64>().is_err()).collect();
    let plays = words.iter().find_map(|w| w.parse().ok()).unwrap_or(10_usize);
    let wants = |part: &str| only.is_empty() || only.contains(&part);
    let mut table = Table::default();
    if wants("direct") {
        direct(plays, &mut table);
    }
    if wants("relays") {
        relays(plays, &mut table);
    }
    if wants("sources") {
        three_sources(&mut table);
    }
    if wants("pictures") {
        pictures(&mut table);
    }
    for (part, viewers) in [("copies5", 5), ("copies10", 10), ("copies20", 20)] {
        if wants(part) {
            copies(viewers, &mut table);
        }
    }
    if wants("leaves") {
        leaves(10, &mut table);
    }
    table.print();
}

fn direct(plays: usize, table: &mut Table) {
    eprintln!("direct, 20 ms, 20 Mbit/s");
    let path = Path::new(20, 20.0);
    let [(_, a), (_, c)] = ["Ana", "Cleo"].map(|name| Wan::around(name, path, &[], &[]));
    befriend(&a, &c);
    let wait = |title: &str, id: &str| wait_until(STEP, "it is known", || found(&c, title, id).is_some());
    let reach = [["<= 0.6", "<= 1.5"], ["<= 0.4", "<= 1.2"], ["<= 0.1", ">= 97"]];
    measure("direct", reach, 20.0, plays, (&c, &a), ("direct", &wait), table);
}

fn relays(plays: usize, table: &mut Table) {
    eprintln!("three relays, 150 ms, 8 Mbit/s");
    let env = [("KITH_PRIVACY", ""), ("KITH_CIRCUIT_SNAPSHOT", "500ms")];
    let path = Path { delay: Duration::from_micros(37_500), ..Path::new(37, 8.0) };
    // The viewer is told of entries and makes circuits as shipped while it watches: what that takes counts.
    let batch = ["--set", "catalogue.batch=30min"];
    let nodes = ["Cleo", "Gus", "Lea", "Rob", "Ana"].map(|name| {
        let node = Wan::around(name, path, &env, if name == "Cleo" { &batch } else { &[] }).1;
        json(&node, &["config", "set", "circuit.pace", "2s"]);
        node
    });
    nodes.windows(2).for_each(|pair| befriend(&pair[0], &pair[1]));
    let [c, _, _, r, a] = &nodes;
    let wait = |title: &str, id: &str| {
        wait_until(STEP, "the last relay knows of it", || found(r, title, id).is_some());
        wait_until(STEP, "a circuit waits ready", || {
            let report = json(c, &["net", "circuits"]);
            let own = report["own"].as_array().unwrap().clone();
            own.iter().any(|c| c["state"] == "ready" && c["relays"].as_u64() >= Some(3))
        });
        if title.ends_with("film") {
            json(c, &["config", "set", "circuit.pace", "60s"]);
        }
    };
    let reach = [["<= 1.5", "<= 3"], ["<= 1.2", "<= 2.5"], ["<= 0.5", ">= 95"]];
    measure("3 relays", reach, 8.0, plays, (c, a), ("onion", &wait), table);
}

/// Three friends, each with a third of the reader's rate, against one of them.
fn three_sources(table: &mut Table) {
    eprintln!("three sources and one");
    let limit = ["--set", "limits.up=700kB/s"];
    let [a, b, d] = ["Ana", "Bo", "Dia"].map(|name| {
        let mut node = Node::stopped(name, &[]);
        node.up("127.0.0.1:0", &[&["--name", name], &limit[..]].concat());
        node
    });
    let c = Node::start("Cleo");
    for (one, other) in [(&a, &b), (&a, &d), (&a, &c), (&b, &c), (&d, &c)] {
        befriend(one, other);
    }
    let film = |title: &str, holders: &[&Node]| {
        let (id, _) = publish_film(&a, title, 12 * MIB, 60, "fof");
        for node in holders.iter().chain([&&c]) {
            wait_until(STEP, "it is known", || found(node, title, &id).is_some());
        }
        holders.iter().for_each(|node| drop(json(node, &["get", &id])));
        let begun = Instant::now();
        let got = json(&c, &["get", &id]);
        (begun.elapsed().as_secs_f64(), got["sources"].as_f64().unwrap())
    };
    let (one, _) = film("one", &[]);
    let (three, sources) = film("three", &[&b, &d]);
    table.add("sources that gave it", "3", sources);
    table.add("three sources: times one", ">= 2.5", one / three);
}

// ---- real players -------------------------------------------------------------------------------

/// Loopback: from asking for the stream to the first byte, and to the first picture in each player.
fn pictures(table: &mut Table) {
    eprintln!("first pictures");
    let Some(clip) = paced_video(30, 4_000) else { return };
    let env = [("KITH_PRIVACY", "fast"), ("KITH_CIRCUIT_PACE", "100ms"), ("KITH_CIRCUIT_SNAPSHOT", "500ms")];
    let nodes = line_named(["Cleo", "Gus", "Lea", "Rob", "Ana"], &env);
    let [c, g, l, r, a] = &nodes;
    let chromium = Chromium::start();
    for (way, viewer, publisher, route) in
        [("direct", c, g, "direct"), ("fof", c, l, "fof"), ("3 relays", c, a, "onion")]
    {
        for n in 0..6 {
            // The same film anew: nobody has it yet.
            let file = publisher.scratch(&format!("film{way}{n}.mp4"));
            std::fs::write(&file, [clip.bytes.as_slice(), &[n; 8]].concat()).unwrap();
            let title = format!("film{}{n}", way.replace(' ', ""));
            let answer = publish(publisher, &file, &title, "fof");
            let (id, link) = (id_of(&answer), answer["link"].as_str().unwrap().to_owned());
            let knows = if route == "onion" { r } else { viewer };
            wait_until(STEP, "it is known", || found(knows, &title, &id).is_some());
            if route == "onion" {
                wait_until(STEP, "a circuit waits ready", || {
                    let report = json(c, &["net", "circuits"]);
                    let own = report["own"].as_array().unwrap().clone();
                    own.iter().any(|c| c["state"] == "ready" && c["relays"].as_u64() >= Some(3))
                });
            }
            let begun = Instant::now();
            let stream = Stream::open(viewer, &link, route);
            let url = format!("http://{}{}", stream.web, stream.path);
            let since = |at: Option<Instant>| at.map_or(f64::NAN, |at| (at - begun).as_secs_f64() * 1e3);
            match n % 3 {
                0 => {
                    let opened = begun.elapsed().as_secs_f64();
                    let first = (opened + stream.read(0, 1)[0]) * 1e3;
                    table.add(&format!("loopback, {way}: first byte, ms"), "", first);
                }
                1 => {
                    let mpv = Mpv::start(&viewer.scratch("mpv"), &url);
                    let shown = since(mpv.first_picture(STEP));
                    table.add(&format!("loopback, {way}: first picture in mpv, ms"), "", shown);
                }
                _ => {
                    let Some(chromium) = &chromium else { continue };
                    chromium.open(&url);
                    let shown = since(chromium.first_picture(STEP));
                    table.add(&format!("loopback, {way}: first picture in Chromium, ms"), "", shown);
                }
            }
            stream.close(viewer);
        }
    }
}

// ---- swarms -------------------------------------------------------------------------------------

/// A publisher who sends four times the film's rate, and viewers who send twice the rate, friends of the
/// publisher and of the three before and the three after each.
fn swarm(viewers: usize, title: &str) -> (Node, Vec<Node>, String) {
    let up = |name: &str, rate: u64| {
        let mut node = Node::stopped(name, &[]);
        let limit = format!("limits.up={}kB/s", rate / 1000);
        // As shipped: asking every friend for news each second would take a good part of these limits.
        let batch = "catalogue.batch=30min";
        node.up("127.0.0.1:0", &["--name", name, "--set", &limit, "--set", batch]);
        node
    };
    let publisher = up("Ana", SWARM_RATE * 4);
    let nodes: Vec<Node> = (0..viewers).map(|n| up(&format!("Viewer{n}"), SWARM_RATE * 2)).collect();
    let id = meet(&publisher, &nodes, title, befriend);
    (publisher, nodes, id)
}

fn copies(viewers: usize, table: &mut Table) {
    eprintln!("{viewers} viewers");
    let (publisher, nodes, id) = swarm(viewers, "swarm");
    count_copies(&format!("{viewers} viewers"), &publisher, &nodes, &id, table);
}

/// The publisher is killed when it has sent 1.2 copies, if the viewers need as much.
fn leaves(viewers: usize, table: &mut Table) {
    eprintln!("the publisher leaves");
    let (mut publisher, nodes, id) = swarm(viewers, "orphan");
    let before = sent(&publisher);
    let enough = 1.2 * COPY;
    let mut sent_then = 0.0;
    let watched = all_watch(&nodes, &id, || {
        let begun = |node: &Node| json(node, &["status"])["fetches"].as_u64() == Some(1);
        wait_until(STEP, "all watch", || nodes.iter().all(begun));
        let done = || !nodes.iter().any(begun);
        wait_until(STEP * 2, "it has sent 1.2 copies", || sent(&publisher) - before >= enough || done());
        sent_then = (sent(&publisher) - before) / COPY;
        publisher.kill9();
    });
    let share = watched.iter().filter(|(all, _)| *all).count() as f64 / viewers as f64;
    let waited = watched.iter().map(|(_, waited)| waited).sum::<f64>() / viewers as f64;
    table.add("publisher killed after 1.2 copies: had sent", "", sent_then);
    table.add("publisher killed after 1.2 copies: viewers who saw all", "1", share);
    table.add("publisher killed after 1.2 copies: % of the film waited", "", waited / SWARM_S as f64 * 100.0);
}
