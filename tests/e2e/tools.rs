//! The operator's tools: configuration, limits and schedule, doctor, pages, completions, version.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::*;

#[test]
fn a_key_is_set_in_its_file_and_comments_stay() {
    let mut node = Node::start("Ana");
    let file = kith(&node, &["config", "path"]).out().trim().to_owned();
    let before = fs::read_to_string(&file).unwrap();
    let set = kith(&node, &["config", "set", "limits.up", "2MB/s", "--json"]).json();
    assert_eq!((&set["value"], &set["restart"]), (&"2MB/s".into(), &false.into()), "{set}");
    let set = kith(&node, &["config", "set", "log.level", "error", "--json"]).json();
    assert_eq!(set["restart"], true, "{set}");
    let after = fs::read_to_string(&file).unwrap();
    let changed = before.lines().zip(after.lines()).filter(|(a, b)| a != b).count();
    assert_eq!((changed, before.lines().count()), (2, after.lines().count()));

    // Where a value comes from, and what the running node has.
    let row = json(&node, &["config", "get", "limits.up"]);
    assert_eq!(
        (&row["value"], &row["origin"], &row["from"]),
        (&"2MB/s".into(), &"file".into(), &file.into())
    );
    let row = json(&node, &["config", "get", "catalogue.batch"]);
    assert_eq!((&row["value"], &row["origin"]), (&"30min".into(), &"default".into()));
    assert_eq!((&row["running"]["value"], &row["running"]["origin"]), (&"1s".into(), &"set".into()), "{row}");
    let mut by_variable = command(&node.home, &["config", "get", "privacy", "--json"]);
    by_variable.env("KITH_PRIVACY", "strict");
    let row = Running::start(by_variable, b"").finish(SOON).json();
    assert_eq!((&row["origin"], &row["from"]), (&"environment".into(), &"KITH_PRIVACY".into()));
    let all = json(&node, &["config", "get"]);
    assert!(all.as_array().unwrap().len() > 20, "{all}");

    for (key, value) in
        [("limits.up", "fast"), ("link.half_open", "0"), ("limit.up", "1MB/s"), ("web", "0.0.0.0:80")]
    {
        let refused = kith(&node, &["config", "set", key, value]);
        refused.expect_refusal(&[2]);
        assert!(key != "limit.up" || refused.err().contains("limits.up"), "{}", refused.err());
    }
    assert_eq!(fs::read_to_string(kith(&node, &["config", "path"]).out().trim()).unwrap(), after);
    node.restart();
    assert_eq!(json(&node, &["config", "get", "log.level"])["running"]["value"], "error");
}

#[test]
fn every_problem_of_a_file_is_told_with_its_line() {
    let node = Node::stopped("Ana", &[]);
    let file = node.scratch("my.toml");
    fs::write(&file, "name = 'Ana'\nlissten = []\n\n[link]\nhalf_open = 0\n").unwrap();
    let path = file.to_str().unwrap();
    let bad = kith_at(&node.home, &["config", "validate", path]);
    bad.expect_refusal(&[2]);
    assert!(
        bad.out().contains("my.toml:2: lissten") && bad.out().contains("did you mean listen?"),
        "{}",
        bad.out()
    );
    assert!(bad.out().contains("my.toml:5: link.half_open"), "{}", bad.out());
    let bad = kith_at(&node.home, &["config", "validate", path, "--json"]);
    let value: Value = serde_json::from_slice(&bad.expect_code(&[2]).stdout).unwrap();
    assert_eq!((&value["problems"][0]["line"], &value["problems"][1]["line"]), (&2.into(), &5.into()));
    fs::write(&file, b"name = 'Ana'\n# \xff\n").unwrap();
    assert!(
        kith_at(&node.home, &["config", "validate", path]).expect_code(&[2]).out().contains("my.toml:2:")
    );
    fs::write(&file, "name = 'Ana'\n").unwrap();
    kith_at(&node.home, &["config", "validate", path]).expect_code(&[0]);
    kith_at(&node.home, &["config", "validate", "/nonexistent.toml"]).expect_refusal(&[4]);
}

#[test]
fn limits_hold_at_once_and_windows_come_and_go() {
    let mut node = Node::start("Ana");
    let all = |up: Value, down: Value| (up, down);
    let now = |node: &Node| {
        let value = json(node, &["net", "limits"]);
        (value["up"].clone(), value["down"].clone())
    };
    assert_eq!(now(&node), all(Value::Null, Value::Null));
    kith(&node, &["net", "limits", "--up", "1.5MiB/s", "--down", "2MB/s"]).expect_code(&[0]);
    assert_eq!(now(&node), all(1_572_864.into(), 2_000_000.into()));
    let fof = kith(&node, &["net", "limits", "--up", "100kB/s", "--kind", "fof", "--json"]).json();
    assert_eq!((&fof["fof"]["up"], &fof["own"]["up"]), (&100_000.into(), &Value::Null), "{fof}");
    for wrong in [&["--up", "fast"][..], &["--kind", "own"], &["--up", "1MB/s", "--kind", "tor"]] {
        kith(&node, &[&["net", "limits"], wrong].concat()).expect_code(&[2]);
    }

    kith(&node, &["net", "schedule", "add", "daily 00:00-24:00", "--up", "500kB/s"]).expect_code(&[0]);
    assert_eq!(now(&node), all(500_000.into(), 2_000_000.into()));
    let list = kith(&node, &["net", "schedule", "list", "--json"]).json();
    assert_eq!(list, json!([{"n": 1, "window": "daily 00:00-24:00 up=500kB/s", "active": true}]));
    for wrong in ["someday 08:00-18:00", "mon 8-18", "mon 08:00-18:00"] {
        let refused = kith(&node, &["net", "schedule", "add", wrong]);
        refused.expect_refusal(&[2]);
    }
    node.restart();
    assert_eq!(now(&node), all(500_000.into(), 2_000_000.into()), "kept in the file");
    assert!(node.terminate().success());
    assert_eq!(now(&node), all(500_000.into(), 2_000_000.into()), "shown without a node, too");
    node.restart();
    kith(&node, &["net", "schedule", "rm", "2"]).expect_refusal(&[4]);
    kith(&node, &["net", "schedule", "rm", "1"]).expect_code(&[0]);
    assert_eq!(now(&node), all(1_572_864.into(), 2_000_000.into()));
    kith(&node, &["net", "limits", "off"]).expect_code(&[0]);
    assert_eq!(now(&node), all(Value::Null, Value::Null));
    assert_eq!(json(&node, &["net", "limits"])["fof"]["up"], Value::Null);

    // Local time counts: a window that holds now in one zone does not hold in another.
    assert!(node.terminate().success());
    let minute = |zone: &str, window: &str| {
        kith(&node, &["net", "schedule", "add", window, "--up", "9kB/s"]).expect_code(&[0]);
        let mut shown = command(&node.home, &["net", "schedule", "list", "--json"]);
        shown.env("TZ", zone);
        let list = Running::start(shown, b"").finish(SOON).json();
        kith(&node, &["net", "schedule", "rm", "1"]).expect_code(&[0]);
        list[0]["active"].as_bool().unwrap()
    };
    // Half of the day holds in exactly one of two zones twelve hours apart.
    let halves = ["UTC0", "XYZ12"].map(|zone| minute(zone, "daily 00:00-12:00"));
    assert!(halves[0] != halves[1], "{halves:?}");
}

/// Publishes so many bytes on one node and gets them on the other; returns the seconds it took.
fn seconds_for(a: &Node, b: &Node, len: usize, title: &str) -> f64 {
    let (path, _) = random_file(a, title, len);
    let id = id_of(&publish(a, &path, title, "friends"));
    wait_found(b, title, &id);
    kith(b, &["get", &id, "--json"]).json()["seconds"].as_f64().unwrap()
}

#[test]
fn a_limit_slows_what_it_is_for_and_is_gone_at_once() {
    const LEN: usize = 2_000_000;
    let [a, b] = line_of::<2>();
    let free = seconds_for(&a, &b, LEN, "unlimited");
    // What may leave in one burst, and what was saved up, does not count: a fourth is generous.
    let least = LEN as f64 / 500_000.0 * 0.75;
    kith(&a, &["net", "limits", "--up", "500kB/s"]).expect_code(&[0]);
    let slow = seconds_for(&a, &b, LEN, "global");
    kith(&a, &["net", "limits", "off"]).expect_code(&[0]);
    kith(&a, &["friend", "limit", "Bo", "--up", "500kB/s"]).expect_code(&[0]);
    let friend = seconds_for(&a, &b, LEN, "friend");
    kith(&a, &["friend", "limit", "Bo", "off"]).expect_code(&[0]);
    kith(&b, &["net", "schedule", "add", "daily 00:00-24:00", "--down", "500kB/s"]).expect_code(&[0]);
    let window = seconds_for(&a, &b, LEN, "window");
    kith(&b, &["net", "schedule", "rm", "1"]).expect_code(&[0]);
    assert!(
        [slow, friend, window].iter().all(|s| *s >= least),
        "{slow} {friend} {window} s, least {least} s"
    );
    let after = seconds_for(&a, &b, LEN, "again");
    // The control: without limits the same takes less.
    let slowest = free.max(after);
    let quickest = slow.min(friend).min(window);
    assert!(slowest < quickest, "{free} s before and {after} s after, {quickest} s with a limit");
}

fn findings(node: &Node, about: &[&str], code: i32) -> Vec<(String, String, String)> {
    let output = kith(node, &[&["doctor"], about, &["--json"]].concat());
    output.expect_code(&[code]);
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["ok"], code == 0, "{value}");
    let text = |f: &Value, name: &str| f[name].as_str().unwrap().to_owned();
    let list = value["findings"].as_array().unwrap();
    list.iter().map(|f| (text(f, "about"), text(f, "level"), text(f, "what"))).collect()
}

#[test]
fn doctor_says_what_is_wrong_with_a_friend() {
    let [mut a, b] = line_of::<2>();
    let found = findings(&b, &[], 0);
    assert!(found.contains(&("Ana".into(), "fine".into(), "online".into())), "{found:?}");
    assert!(found.iter().any(|f| f.0 == "network" && f.2.contains("this machine only")), "{found:?}");
    assert_eq!(findings(&b, &["Ana"], 0).len(), 1);
    kith(&b, &["doctor", "Nobody"]).expect_refusal(&[4]);

    let address = a.listen();
    assert!(a.terminate().success());
    let about_ana = |node: &Node| {
        let output = kith(node, &["doctor", "Ana", "--json"]);
        let value: Value = serde_json::from_slice(&output.stdout).unwrap();
        value["findings"][0]["what"].as_str().unwrap().to_owned()
    };
    wait_until(SOON, "the refused address is named", || {
        about_ana(&b).contains(&format!("{address} refused"))
    });
    findings(&b, &["Ana"], 1);
    let plain = kith(&b, &["doctor", "Ana"]);
    plain.expect_refusal(&[1]);
    assert!(plain.out().contains("last met") && plain.out().contains("kith status"), "{}", plain.out());

    // Something else answers on that address, and stays silent.
    let _other = std::net::TcpListener::bind(&address).unwrap();
    wait_until(Duration::from_secs(60), "silence is named", || about_ana(&b).contains("answered but silent"));
}

#[test]
fn doctor_looks_at_files_and_at_a_node_that_does_not_run() {
    use std::os::unix::fs::PermissionsExt;
    let mut node = Node::stopped("Ana", &[]);
    let none = findings(&node, &[], 1);
    assert!(none.iter().any(|f| f.2 == "there is no node here yet"), "{none:?}");
    node.up("127.0.0.1:0", &["--name", "Ana"]);
    findings(&node, &[], 0);
    assert!(node.terminate().success());
    assert!(findings(&node, &[], 1).iter().any(|f| f.2 == "the node is not running"));
    kith(&node, &["doctor", "Ana"]).expect_refusal(&[3]);
    node.restart();
    let store = node.home.join("store");
    let config = kith(&node, &["config", "path"]).out().trim().to_owned();
    fs::set_permissions(&store, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(&config, "privacy = 'paranoid'\n").unwrap();
    let wrong = findings(&node, &[], 1);
    assert!(wrong.iter().any(|f| f.0 == "files" && f.2.contains("has mode 755")), "{wrong:?}");
    assert!(wrong.iter().any(|f| f.0 == "config" && f.2.contains(":1: privacy")), "{wrong:?}");
}

#[test]
fn pages_completions_and_version_need_no_node() {
    let node = Node::stopped("Ana", &[]);
    let version = kith_at(&node.home, &["version", "--json"]).json();
    assert_eq!((&version["version"], &version["protocol"]), (&env!("CARGO_PKG_VERSION").into(), &1.into()));
    assert!(version["rustc"].as_str().unwrap().starts_with("rustc "), "{version}");
    assert!(version["target"].as_str().unwrap().contains('-') && version["features"].is_array(), "{version}");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = kith_at(&node.home, &["completions", shell]);
        assert!(script.expect_code(&[0]).out().contains("schedule"), "{shell}");
    }
    kith_at(&node.home, &["completions", "cobol"]).expect_code(&[2]);
    let pages = node.scratch("man");
    kith_at(&node.home, &["man", pages.to_str().unwrap()]).expect_refusal(&[4]);
    fs::create_dir(&pages).unwrap();
    let listed = kith_at(&node.home, &["man", pages.to_str().unwrap(), "--json"]).json();
    assert_eq!(listed["pages"].as_array().unwrap().len(), fs::read_dir(&pages).unwrap().count());
    for page in ["kith.1", "kith-friend-rename.1", "kith-net-schedule-add.1"] {
        let text = fs::read_to_string(pages.join(page)).unwrap();
        assert!(text.contains(".TH") && text.contains("kith"), "{page}");
    }
}
