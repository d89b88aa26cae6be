//! Circuits between real processes: the three privacy modes, what each says and does, and a friend of
//! a friend of a friend of a friend who gets a video from somebody nobody names.
//!
//! `circuit.pace` and `circuit.snapshot` are shortened from a minute and six hours; what a circuit is
//! and who may be in it is what users run.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kith_crypto::passphrase::Cost;
use kith_store::{Options, Store, Unlock};
use serde_json::Value;

use crate::harness::*;
use crate::wan::{Path as Link, Wan};

/// How long circuits may take to stand at this pace.
const CIRCUITS: Duration = Duration::from_secs(60);
/// How long a fetch may take whose circuit broke.
const REPAIRED: Duration = Duration::from_secs(120);

const PACE: (&str, &str) = ("KITH_CIRCUIT_PACE", "100ms");
const SNAPSHOT: (&str, &str) = ("KITH_CIRCUIT_SNAPSHOT", "500ms");
/// The mode that users have unless they choose another. An empty variable says nothing.
const NORMAL: [(&str, &str); 3] = [("KITH_PRIVACY", ""), PACE, SNAPSHOT];
const STRICT: [(&str, &str); 3] = [("KITH_PRIVACY", "strict"), PACE, SNAPSHOT];
const FAST: [(&str, &str); 3] = [("KITH_PRIVACY", "fast"), PACE, SNAPSHOT];

const LINE: [&str; 5] = ["Cleo", "Gus", "Lea", "Rob", "Ana"];

fn circuits(node: &Node) -> Value {
    json(node, &["net", "circuits"])
}

/// Own circuits with all their relays that wait for use.
fn ready(node: &Node) -> usize {
    let report = circuits(node);
    let own = report["own"].as_array().expect("a list of own circuits");
    own.iter().filter(|c| c["state"] == "ready" && c["relays"].as_u64() >= Some(3)).count()
}

fn relayed(node: &Node) -> u64 {
    circuits(node)["relayed"].as_u64().expect("a count")
}

#[track_caller]
fn wait_ready(node: &Node) {
    wait_until(CIRCUITS, &format!("{} has a circuit", node.name), || ready(node) > 0);
}

#[track_caller]
fn wait_lacks(node: &Node, lack: &str) {
    wait_until(CIRCUITS, &format!("{} lacks {lack}", node.name), || circuits(node)["lacks"] == lack);
}

/// Publishes noise for friends of friends; its link, its id and what it is.
fn publish_noise(node: &Node, title: &str, len: usize) -> (String, String, Vec<u8>) {
    let (path, bytes) = random_file(node, &format!("{title}.bin"), len);
    let answer = publish(node, &path, title, "fof");
    (answer["link"].as_str().expect("a link").to_owned(), id_of(&answer), bytes)
}

fn get_into(node: &Node, what: &str, route: &str, out: &Path) -> Output {
    kith(node, &["get", what, "--route", route, "-o", out.to_str().expect("text")])
}

/// Neither an answer nor a note about a fetch names who was on the way.
#[track_caller]
fn names_nobody(text: &str, nodes: &[Node]) {
    for node in nodes {
        let fingerprint = node.ready["node"].as_str().expect("a fingerprint");
        assert!(!text.contains(fingerprint), "{} is named in {text}", node.name);
        let named = text.split(|c: char| !c.is_alphanumeric()).any(|word| word == node.name);
        assert!(!named, "{} is named in {text}", node.name);
    }
}

// ---- through a circuit --------------------------------------------------------------------------

/// Nodes in a line, each of which all others reach over a path like that.
fn line_over(path: Link, env: &[(&str, &str)]) -> [Node; 5] {
    let nodes = LINE.map(|name| Wan::around(name, path, env, &[]).1);
    nodes.windows(2).for_each(|pair| befriend(&pair[0], &pair[1]));
    nodes
}

/// Links as people have them: answers come after hundreds of milliseconds, and cells wait for the rate.
#[test]
fn a_video_comes_through_three_relays_over_slow_links() {
    let nodes = line_over(Link::new(20, 16.0), &[NORMAL[0], ("KITH_CIRCUIT_PACE", "2s"), SNAPSHOT]);
    let [c, _, _, r, a] = &nodes;
    let (link, id, bytes) = publish_noise(a, "Heron", 3_000_000);
    wait_found(r, "heron", &id);
    wait_ready(c);
    let out = c.scratch("out.bin");
    get_into(c, &link, "onion", &out).expect_code(&[0]);
    assert_same(&out, &bytes);
}

#[test]
fn a_video_comes_through_three_relays_and_nobody_on_the_way_is_named() {
    let nodes = line_named(LINE, &NORMAL);
    let [c, g, l, r, a] = &nodes;
    let (link, id, bytes) = publish_noise(a, "Heron", 3_000_000);
    wait_found(r, "heron", &id);
    wait_ready(c);

    let out = c.scratch("out.bin");
    let got = kith(c, &["get", &link, "--route", "onion", "-o", out.to_str().unwrap(), "--json"]);
    assert_eq!(got.err(), "", "nothing is said beside a JSON document");
    let got = got.json();
    assert_eq!(got["mode"], "onion", "{got}");
    assert!(got["hops"].as_u64() >= Some(4), "three relays and whoever gives it: {got}");
    assert!(got["sources"].is_u64(), "{got}");
    assert_same(&out, &bytes);
    let shown = got.as_object().unwrap().iter().filter(|(name, _)| *name != "path");
    shown.for_each(|(_, value)| names_nobody(&value.to_string(), &nodes));

    // In normal `auto` goes the same way, and says before what that means.
    let (link, id, bytes) = publish_noise(a, "Egret", 500_000);
    wait_found(r, "egret", &id);
    let out = c.scratch("auto.bin");
    let got = get_into(c, &link, "auto", &out);
    got.expect_code(&[0]);
    assert_same(&out, &bytes);
    let told = got.err();
    assert!(told.contains("who learns what: nobody but your own node knows that it is you"), "{told}");
    assert!(!told.contains("reduced"), "the first relay does not carry it: {told}");
    names_nobody(&told, &nodes);

    // A named route is never replaced, and a player gets it that way, too.
    let (link, id, bytes) = publish_noise(a, "Stork", 200_000);
    wait_found(r, "stork", &id);
    kith(c, &["get", &link, "--route", "fof", "--json"]).expect_refusal(&[6]);
    let watch = kith(c, &["watch", &link, "--player", "print", "--route", "onion"]);
    watch.expect_code(&[0]);
    assert!(watch.err().contains("nobody but your own node"), "{}", watch.err());
    let (web, url) = (c.web(), watch.out());
    let path = url.trim().strip_prefix(&format!("http://{web}")).expect("the node's own listener");
    let played = crate::watch::get(&web, path, &[]).body;
    assert!(played == bytes, "{} of {} bytes", played.len(), bytes.len());

    for node in [g, l, r] {
        assert!(relayed(node) > 0, "{} relays", node.name);
    }
}

/// What a friend of a friend shares comes through a circuit although a common friend has it at hand.
#[test]
fn in_normal_the_common_friend_is_left_out() {
    // Cleo's common friend with Ana is Bo; her circuits begin at Gus, who knows nothing of it.
    let nodes = ["Cleo", "Bo", "Ana", "Gus", "Lea", "Rob"].map(|name| Node::start_with(name, &NORMAL));
    let [c, b, a, g, l, r] = &nodes;
    // Said before there is a circuit: what was built before is another matter.
    for (name, node, trust) in [("Bo", b, "low"), ("Gus", g, "close")] {
        befriend(c, node);
        kith(c, &["friend", "trust", name, trust]).expect_code(&[0]);
    }
    for (one, other) in [(b, a), (g, l), (l, r), (r, a)] {
        befriend(one, other);
    }
    let (_, id, bytes) = publish_noise(a, "Bittern", 700_000);
    wait_found(c, "bittern", &id);
    wait_found(r, "bittern", &id);
    wait_ready(c);
    let passed_on = || {
        let friends = ["Cleo", "Ana"].map(|name| friend(b, name).unwrap()["relayed_bytes"].as_u64().unwrap());
        friends.iter().sum::<u64>()
    };
    let before = passed_on();
    let out = c.scratch("out.bin");
    let got = get_into(c, &id, "auto", &out);
    got.expect_code(&[0]);
    assert_same(&out, &bytes);
    assert!(got.err().contains("nobody but your own node"), "{}", got.err());
    assert!(passed_on() - before < 100_000, "Bo passed it on");
}

#[test]
fn a_video_drawn_at_random_is_kept_and_given_to_others_unless_that_is_off() {
    let env = [NORMAL.as_slice(), &[("KITH_MIRROR_DELAY", "500ms")]].concat();
    let nodes = ["Cleo", "Bo", "Ana", "Gus", "Lea", "Rob"].map(|name| Node::start_with(name, &env));
    let [c, b, a, g, l, r] = &nodes;
    for (one, other) in [(c, b), (c, g), (b, a), (g, l), (l, r), (r, a)] {
        befriend(one, other);
    }
    kith(c, &["friend", "trust", "Gus", "close"]).expect_code(&[0]);
    kith(c, &["friend", "trust", "Bo", "low"]).expect_code(&[0]);
    let (_, id, bytes) = publish_noise(a, "Dotterel", 300_000);
    wait_found(c, "dotterel", &id);
    wait_ready(c);
    // Cleo watches nothing, and has it after a while.
    let covers = || {
        let list = json(c, &["mirror", "list"]);
        (list["covers"].as_u64().unwrap(), list["watched"].as_u64().unwrap())
    };
    wait_until(REPAIRED, "a cover is kept", || covers() == (1, 0));
    kith(a, &["stop"]).expect_code(&[0]);
    // Of Bo's friends only Cleo has it. She gives it when its time has come.
    let out = b.scratch("out.bin");
    let get = || get_into(b, &id, "direct", &out).code == 0;
    wait_until(CIRCUITS, "Bo has it from Cleo", get);
    assert_same(&out, &bytes);
    let listed = json(c, &["video", "list", "--all"]);
    assert!(listed.to_string().contains(&id), "{listed}");
    // Off: it is given to nobody any more.
    kith(b, &["video", "rm", &id]).expect_code(&[0]);
    kith(c, &["config", "set", "mirror.cover", "off"]).expect_code(&[0]);
    wait_until(CIRCUITS, "Cleo gives it to nobody", || !get());
}

#[test]
fn what_three_friends_asked_for_is_kept_by_who_agreed_to() {
    let keeps = [("KITH_MIRROR_DELAY", "500ms"), ("KITH_MIRROR_ASKED", "1GB")];
    let nodes = ["Cleo", "Gus", "Lea", "Rob", "Ana", "Dia", "Eve"].map(|name| {
        let own: &[_] = if name == "Cleo" { &keeps } else { &[("KITH_MIRROR_COVER", "off")] };
        Node::start_with(name, &[NORMAL.as_slice(), own].concat())
    });
    let [c, g, l, r, a, d, e] = &nodes;
    for (one, other) in [(c, g), (g, l), (l, r), (r, a), (a, c), (c, d), (c, e)] {
        befriend(one, other);
    }
    kith(c, &["friend", "trust", "Gus", "close"]).expect_code(&[0]);
    kith(c, &["friend", "trust", "Ana", "low"]).expect_code(&[0]);
    let (_, id, _) = publish_noise(a, "Garganey", 300_000);
    for node in [c, g, d, e] {
        wait_found(node, "garganey", &id);
    }
    wait_ready(c);
    let covers = || json(c, &["mirror", "list"])["covers"].as_u64().unwrap();
    let asks = |node: &Node, file: &str| {
        let got = get_into(node, &id, "fof", &node.scratch(file));
        assert_eq!(got.code, 0, "{}: {}", node.name, got.err());
    };
    // It passes on what two friends ask for, one of them twice, and keeps nothing of it.
    asks(g, "one.bin");
    asks(d, "one.bin");
    kith(d, &["video", "rm", &id]).expect_code(&[0]);
    asks(d, "two.bin");
    never_within(Duration::from_secs(10), "it is kept", || covers() > 0);
    asks(e, "one.bin");
    wait_until(REPAIRED, "it is kept", || covers() == 1);
    let listed = json(c, &["video", "list", "--all"]);
    assert!(listed.to_string().contains(&id), "{listed}");
}

#[test]
fn a_relay_that_is_killed_in_the_middle_costs_time_and_nothing_else() {
    let mut nodes = line_named(LINE, &NORMAL);
    kith(&nodes[4], &["net", "limits", "--up", "3MB/s"]).expect_code(&[0]);
    let (link, id, bytes) = publish_noise(&nodes[4], "Curlew", 16 << 20);
    wait_found(&nodes[3], "curlew", &id);
    wait_ready(&nodes[0]);
    let out = nodes[0].scratch("out.bin");
    let args = ["get", &link, "--route", "onion", "-o", out.to_str().unwrap(), "--json"];
    let getting = Running::start(command(&nodes[0].home, &args), b"");
    let received = |nodes: &[Node; 5]| friend(&nodes[0], "Gus").unwrap()["received_bytes"].as_u64().unwrap();
    wait_until(CIRCUITS, "a part is there", || received(&nodes) > 3 << 20);
    nodes[2].kill9();
    nodes[2].restart();
    let got = getting.finish(REPAIRED).json();
    assert_eq!(got["mode"], "onion", "{got}");
    assert_same(&out, &bytes);
}

#[test]
fn who_does_not_relay_is_in_no_circuit_until_it_does() {
    let nodes = LINE.map(|name| Node::start_with(name, &NORMAL));
    let [c, _, l, _, _] = &nodes;
    let set = kith(l, &["config", "set", "circuit.relay", "off", "--json"]).json();
    assert_eq!(set["restart"], false, "{set}");
    for pair in nodes.windows(2) {
        befriend(&pair[0], &pair[1]);
    }
    never_within(Duration::from_secs(10), "a circuit through Lea", || ready(c) > 0 || relayed(l) > 0);
    assert_eq!(circuits(c)["lacks"], "too_few_relays");
    let text = kith(l, &["net", "circuits"]).out();
    assert!(text.contains("relaying for others: off"), "{text}");

    kith(l, &["config", "set", "circuit.relay", "on"]).expect_code(&[0]);
    wait_ready(c);
    assert!(relayed(l) > 0);
}

// ---- routes stay --------------------------------------------------------------------------------

/// The journal of a node that has stopped.
fn journal(node: &Node) -> Vec<Vec<u8>> {
    let paths = json(node, &["paths"]);
    let dir = PathBuf::from(paths["store"].as_str().expect("where the store is"));
    let options = Options { dir: &dir, unlock: Unlock::KeyFile, cost: Cost::RECOMMENDED };
    Store::open(&options).expect("the store opens").records
}

/// The friend whose key comes first in the kept routes: the first relay.
fn first_relay(records: &[Vec<u8>]) -> String {
    let routes = records.iter().rev().find(|r| r.first() == Some(&50)).expect("routes are kept");
    let friends = records.iter().filter(|r| r.first() == Some(&2));
    let keyed = friends.map(|r| (&r[33..65], &r[185..]));
    let placed = keyed.filter_map(|(key, name)| {
        let at = routes.windows(32).position(|part| part == key)?;
        let len = usize::from(u16::from_le_bytes([name[0], name[1]]));
        Some((at, String::from_utf8(name[2..2 + len].to_vec()).expect("a name")))
    });
    placed.min().expect("a friend is named in the routes").1
}

#[test]
fn the_first_relay_stays_over_restarts_and_in_a_backup() {
    let mut nodes = ["Cleo", "Gus", "Hana", "Lea", "Rob"].map(|name| Node::start_with(name, &NORMAL));
    {
        let [c, g, h, l, r] = &nodes;
        for (one, other) in [(c, g), (c, h), (g, l), (h, l), (l, r)] {
            befriend(one, other);
        }
        for name in ["Gus", "Hana"] {
            kith(c, &["friend", "trust", name, "close"]).expect_code(&[0]);
        }
    }
    let mut seen = Vec::new();
    for _ in 0..4 {
        wait_ready(&nodes[0]);
        assert!(nodes[0].terminate().success());
        seen.push(first_relay(&journal(&nodes[0])));
        nodes[0].restart();
    }
    assert!(seen.windows(2).all(|two| two[0] == two[1]), "{seen:?}");

    let (backup, home) = (nodes[0].scratch("b.kith"), nodes[0].scratch("again"));
    let locked = |args: &[&str], home: &Path| {
        let mut command = command(home, args);
        command.env("KITH_BACKUP_PASSPHRASE", "correct horse battery");
        Running::start(command, b"").finish(SOON).expect_code(&[0]);
    };
    locked(&["backup", backup.to_str().unwrap()], &nodes[0].home);
    std::fs::create_dir(&home).unwrap();
    locked(&["restore", backup.to_str().unwrap()], &home);
    let paths = kith_at(&home, &["paths", "--json"]).json();
    let dir = PathBuf::from(paths["store"].as_str().unwrap());
    let options = Options { dir: &dir, unlock: Unlock::KeyFile, cost: Cost::RECOMMENDED };
    assert_eq!(first_relay(&Store::open(&options).unwrap().records), seen[0]);
}

// ---- no circuit ---------------------------------------------------------------------------------

#[test]
fn in_normal_a_friends_friends_video_waits_for_its_owners_word() {
    let [a, b, c] = line_named(["Ana", "Bo", "Cleo"], &NORMAL);
    let (link, id, bytes) = publish_noise(&a, "Plover", 300_000);
    wait_found(&c, "plover", &id);
    wait_lacks(&c, "too_few_relays");

    let refused = kith(&c, &["get", &id]);
    refused.expect_refusal(&[6]);
    for part in ["circuit of 3 relays", "common friend Bo, who will know", "--route fof"] {
        assert!(refused.err().contains(part), "{}", refused.err());
    }
    // The same for a player, which could not say why, and for a link.
    for what in [&id, &link] {
        let refused = kith(&c, &["watch", what, "--player", "print"]);
        refused.expect_refusal(&[6]);
        assert!(refused.err().contains("--route fof") && refused.out().is_empty(), "{}", refused.err());
    }
    // Who names the circuit gets the circuit or nothing.
    let refused = kith(&c, &["get", &id, "--route", "onion"]);
    refused.expect_refusal(&[6]);
    assert!(!refused.err().contains("--route fof"), "{}", refused.err());

    // Its owner's word.
    let out = c.scratch("out.bin");
    let got = get_into(&c, &id, "fof", &out);
    got.expect_code(&[0]);
    assert_same(&out, &bytes);
    assert!(got.err().contains("who learns what: Bo, your common friend, will know"), "{}", got.err());

    // A friend's own video needs neither.
    let got = kith(&b, &["get", &id]);
    got.expect_code(&[0]);
    assert!(got.err().contains("who learns what: Ana will see that you watch this"), "{}", got.err());
    // What is here already makes nobody learn anything.
    assert_eq!(kith(&b, &["get", &id]).err(), "");
}

#[test]
fn strict_takes_no_other_way() {
    let [a, b, c] = line_named(["Ana", "Bo", "Cleo"], &STRICT);
    let (_, id, _) = publish_noise(&a, "Dotterel", 300_000);
    wait_found(&c, "dotterel", &id);
    for node in [&b, &c] {
        wait_lacks(node, "too_few_relays");
        let refused = kith(node, &["get", &id, "--json"]);
        refused.expect_refusal(&[6]);
        assert!(!refused.err().contains("--route"), "{}", refused.err());
        let status = json(node, &["status"]);
        assert_eq!(status["privacy_in_effect"], "strict", "{status}");
    }
    let wrong = kith(&c, &["doctor"]);
    wrong.expect_code(&[1]);
    assert!(wrong.out().contains("circuits of 3 relays"), "{}", wrong.out());
    // A named route is its owner's word in every mode.
    assert_eq!(json(&b, &["get", &id, "--route", "direct"])["mode"], "direct");
    // What is shared with friends only comes that way or not at all, whatever is waited for.
    let (path, _) = random_file(&a, "near.bin", 100_000);
    let near = id_of(&publish(&a, &path, "Lapwing", "friends"));
    wait_found(&b, "lapwing", &near);
    for route in ["auto", "onion"] {
        let refused = kith(&b, &["get", &near, "--route", route]);
        refused.expect_refusal(&[6]);
        for part in ["with friends only", "Ana will see that you watch it if you say --route direct"] {
            assert!(refused.err().contains(part), "{}", refused.err());
        }
        assert!(!refused.err().contains("who learns what"), "nobody was asked: {}", refused.err());
    }
    assert_eq!(json(&b, &["get", &near, "--route", "direct"])["mode"], "direct");
}

#[test]
fn who_knows_nobody_is_told_so() {
    let a = Node::start_with("Ana", &NORMAL);
    let c = Node::start_with("Cleo", &NORMAL);
    let (link, _, _) = publish_noise(&a, "Godwit", 100_000);
    let refused = kith(&c, &["get", &link, "--route", "onion"]);
    refused.expect_refusal(&[6]);
    assert!(refused.err().contains("kith friend add"), "{}", refused.err());
    kith(&c, &["get", &link, "--route", "tor"]).expect_refusal(&[2]);
}

// ---- what is shown ------------------------------------------------------------------------------

#[test]
fn the_mode_is_changed_at_once_and_says_what_it_means() {
    let [a, b, c] = line_named(["Ana", "Bo", "Cleo"], &NORMAL);
    let (_, id, _) = publish_noise(&a, "Whimbrel", 100_000);
    wait_found(&c, "whimbrel", &id);
    for (mode, sentence) in [
        ("strict", "everything comes through relays or waits"),
        ("normal", "a friend's video comes directly"),
        ("fast", "everything comes the quickest way"),
    ] {
        let set = kith(&c, &["config", "set", "privacy", mode, "--json"]).json();
        assert_eq!(set["restart"], false, "{set}");
        let status = json(&c, &["status"]);
        assert_eq!((&status["privacy"], &status["privacy_in_effect"]), (&mode.into(), &mode.into()));
        let text = kith(&c, &["status"]).out();
        assert!(text.contains(&format!("privacy: {mode}: {sentence}")), "{text}");
    }
    // From now on a fetch takes the quickest way.
    let got = kith(&c, &["get", &id]);
    got.expect_code(&[0]);
    assert!(got.err().contains("who learns what: Bo, your common friend, will know"), "{}", got.err());
    kith(&b, &["config", "set", "privacy", "loud"]).expect_refusal(&[2]);
}

#[test]
fn a_node_says_what_circuits_it_has_and_what_they_cost() {
    let [a, b] = line_named(["Ana", "Bo"], &FAST);
    let report = circuits(&a);
    for (name, value) in [("relay", Value::from(true)), ("share", 20.into()), ("relays", 3.into())] {
        assert_eq!(report[name], value, "{report}");
    }
    assert_eq!(report["own"], serde_json::json!([]), "two nodes make no circuit");
    let idle = &report["cover"];
    assert_eq!((&idle["mode"], &idle["links"]), (&"idle".into(), &1.into()), "{idle}");
    assert_eq!(idle["bytes_per_day"], 11_796_480, "a cell each 30 s: {idle}");

    for (key, value) in [
        ("cover", "constant 16kB/s"),
        ("circuit.relay", "off"),
        ("circuit.relays", "4"),
        ("circuit.pace", "90s"),
        ("circuit.share", "50"),
    ] {
        let set = kith(&a, &["config", "set", key, value, "--json"]).json();
        // What the environment of the node says wins; both are known to it at once.
        assert_eq!(set["restart"], false, "{set}");
    }
    let report = circuits(&a);
    assert_eq!((&report["relay"], &report["relays"]), (&false.into(), &4.into()), "{report}");
    assert_eq!(report["share"], 50, "{report}");
    let cover = &report["cover"];
    assert_eq!((&cover["mode"], &cover["rate"]), (&"constant".into(), &16_000.into()), "{cover}");
    // A third more than the rate, which is what leaves at least.
    assert_eq!(cover["bytes_per_day_and_link"], 16_000_u64 * 86_400 * 4 / 3);
    let text = kith(&a, &["net", "circuits"]).out();
    for part in ["constant 16kB/s", "relaying for others: off", "No circuits of your own"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    kith(&b, &["config", "set", "circuit.relays", "7"]).expect_refusal(&[2]);
}

#[test]
fn circuits_are_counted_and_named_nowhere() {
    let nodes = line_named(LINE, &NORMAL);
    let [c, g, ..] = &nodes;
    wait_ready(c);
    let status = json(c, &["status"])["circuits"].clone();
    for name in ["ready", "building", "used", "relayed"] {
        assert!(status[name].is_u64(), "{name} in {status}");
    }
    assert_eq!((&status["guard_online"], &status["lacks"]), (&true.into(), &Value::Null), "{status}");
    assert_eq!(status["tier"], "all", "{status}");
    let text = kith(c, &["status"]).out();
    for part in ["nobody is marked close or verified", "kith friend trust NAME close", "carries all of it"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let report = circuits(c);
    for own in report["own"].as_array().unwrap() {
        let fields: Vec<&String> = own.as_object().unwrap().keys().collect();
        assert_eq!(fields, ["age_s", "relays", "state"], "nothing else is told of a circuit");
        assert!(own["relays"].as_u64() <= Some(3), "{own}");
    }
    for node in [c, g] {
        names_nobody(&circuits(node).to_string(), &nodes);
        names_nobody(&kith(node, &["net", "circuits"]).out(), &nodes);
    }
    // Gus knows how many pass, not whose they are.
    assert!(relayed(g) > 0);

    kith(c, &["friend", "trust", "Gus", "close"]).expect_code(&[0]);
    wait_until(CIRCUITS, "the first relay is drawn from close friends", || circuits(c)["tier"] == "close");
    let text = kith(c, &["status"]).out();
    assert!(text.contains("the first relay is the one friend marked close"), "{text}");
}
