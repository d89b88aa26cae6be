//! Certificates and friends: what is refused and how, what belongs to one friend, who sees what in a
//! circle. Rows 17 to 30 of the catalogue of bad input, one test for each that is not told elsewhere.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kith_crypto::cert::Certificate;
use kith_crypto::identity::Identity;
use kith_crypto::rng::Rng;
use serde_json::{Value, json};

use crate::harness::*;

/// What a refused certificate ends with.
const REFUSED: [i32; 1] = [5];

fn certificate(node: &Node) -> String {
    json(node, &["id"])["certificate"].as_str().unwrap().to_owned()
}

fn now_s() -> u32 {
    u32::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

/// A certificate of somebody who exists nowhere else.
fn stranger(number: u64, name: &str, created: u32, expires: u32) -> String {
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    let identity = Identity::generate(&mut Rng::from_seed(seed));
    Certificate::sign(&identity, name, &[], created, expires).unwrap().to_text()
}

#[track_caller]
fn add(node: &Node, text: &str) -> Output {
    kith_with(node, &["friend", "add", "-", "--json"], text.as_bytes())
}

fn state(node: &Node, name: &str) -> Value {
    friend(node, name).map_or(Value::Null, |row| row["state"].clone())
}

/// What `doctor` says about a friend.
fn diagnosis(node: &Node, name: &str) -> String {
    let output = kith(node, &["doctor", name, "--json"]);
    output.expect_code(&[0, 1]);
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    value["findings"][0]["what"].as_str().unwrap().to_owned()
}

// Row 17, and two-way exchange of certificates without an invite.
#[test]
fn a_key_that_is_not_known_meets_silence_until_it_is_added() {
    let [a, b] = ["Ana", "Bo"].map(Node::start);
    let added = add(&b, &certificate(&a)).json();
    assert_eq!((&added["name"], &added["state"]), (&"Ana".into(), &"pending".into()), "{added}");
    wait_until(SOON, "the call was answered by silence", || {
        diagnosis(&b, "Ana") == "waiting to be added back"
    });
    assert_eq!((friend_count(&a), state(&b, "Ana")), (0, "pending".into()));
    let added = add(&a, &certificate(&b)).json();
    assert_eq!(added["name"], "Bo");
    wait_connected(&a, &b);
    let (path, bytes) = random_file(&a, "one.bin", 100_000);
    let id = id_of(&publish(&a, &path, "Curlew", "friends"));
    wait_found(&b, "curlew", &id);
    let out = b.scratch("out.bin");
    kith(&b, &["get", &id, "-o", out.to_str().unwrap()]).expect_code(&[0]);
    assert_same(&out, &bytes);
}

// Rows 18 and 22.
#[test]
fn a_certificate_twice_is_one_friend_and_ones_own_is_none() {
    let node = Node::start("Ana");
    let cert = stranger(1, "Bo", now_s() - 10, now_s() + 1_000);
    let first = add(&node, &cert).json();
    let again = add(&node, &cert);
    assert_eq!(again.json(), first);
    let plain = kith_with(&node, &["friend", "add", "-"], cert.as_bytes());
    assert!(plain.expect_code(&[0]).out().contains("already a friend"), "{}", plain.out());
    assert_eq!(friend_count(&node), 1);
    let own = add(&node, &certificate(&node));
    own.expect_refusal(&REFUSED);
    assert!(own.err().contains("your own"), "{}", own.err());
    assert_eq!(friend_count(&node), 1);
}

// Row 19.
#[test]
fn a_name_that_is_taken_is_never_given_to_another_key() {
    let node = Node::start("Ana");
    let (from, to) = (now_s() - 10, now_s() + 1_000);
    let first = add(&node, &stranger(1, "Bo", from, to)).json();
    let second = add(&node, &stranger(2, "Bo", from, to));
    let warning = second.err();
    let second = second.json();
    assert_eq!((&first["name"], &second["name"]), (&"Bo".into(), &"Bo 2".into()));
    for friend in [&first, &second] {
        assert!(warning.contains(friend["fingerprint"].as_str().unwrap()), "{warning}");
    }
    assert_eq!(friend(&node, "Bo").unwrap()["fingerprint"], first["fingerprint"]);
    // By invite, too: the inviter's name is taken here.
    let other = Node::start("Bo");
    let third = kith_with(&node, &["friend", "add", "-", "--json"], invite(&other).as_bytes());
    assert!(third.err().contains(first["fingerprint"].as_str().unwrap()), "{}", third.err());
    assert_eq!(third.json()["name"], "Bo 3");
    assert_eq!(state(&node, "Bo 3"), "online");
}

// Row 20.
#[test]
fn a_certificate_out_of_its_time_is_refused_with_both_dates() {
    let node = Node::start("Ana");
    // 2001-09-09 and 2004-01-10; 2096-10-02 and 2100-08-... are beyond: both dates are told.
    let expired = add(&node, &stranger(1, "Bo", 1_000_000_000, 1_073_741_824));
    expired.expect_refusal(&REFUSED);
    assert!(
        expired.err().contains("2001-09-09") && expired.err().contains("2004-01-10"),
        "{}",
        expired.err()
    );
    let early = add(&node, &stranger(2, "Cleo", 4_000_000_000, 4_100_000_000));
    early.expect_refusal(&REFUSED);
    assert!(early.err().contains("2096-10-02") && early.err().contains("2099-12-03"), "{}", early.err());
    assert_eq!(friend_count(&node), 0);
    add(&node, &stranger(1, "Bo", now_s() - 10, now_s() + 1_000)).expect_code(&[0]);
}

// Rows 21 and 23.
#[test]
fn a_changed_certificate_is_refused_with_the_place_and_nothing_is_kept() {
    let node = Node::start("Ana");
    let good = stranger(1, "Bo", now_s() - 10, now_s() + 1_000);
    let body = good.strip_prefix("kith:c1:").unwrap();
    for at in (0..body.len()).step_by(body.len() / 12) {
        let mut changed = body.to_owned().into_bytes();
        changed[at] = if changed[at] == b'B' { b'C' } else { b'B' };
        let changed = format!("kith:c1:{}", String::from_utf8(changed).unwrap());
        add(&node, &changed).expect_refusal(&REFUSED);
    }
    for end in [1, 5, body.len() / 2, body.len() - 1] {
        add(&node, &format!("kith:c1:{}", &body[..end])).expect_refusal(&REFUSED);
    }
    let wrong_base = format!("kith:c1:{}+{}", &body[..20], &body[21..]);
    let refused = add(&node, &wrong_base);
    refused.expect_refusal(&REFUSED);
    assert!(refused.err().contains("character 2"), "names the place: {}", refused.err());
    let cut = add(&node, &good[..good.len() / 2 / 4 * 4]);
    assert!(cut.expect_refusal(&REFUSED).err().contains("byte"), "names the place: {}", cut.err());
    add(&node, &format!("kith:c9:{body}")).expect_refusal(&REFUSED);

    // 10 MB: from stdin, from a file, and straight to the API.
    let long = format!("kith:c1:{}", "A".repeat(10_000_000));
    add(&node, &long).expect_refusal(&REFUSED);
    let file = node.scratch("long.txt");
    fs::write(&file, &long).unwrap();
    kith(&node, &["friend", "add", file.to_str().unwrap()]).expect_refusal(&REFUSED);
    let (status, _) = Api::connect(&node).post("/api/friends", &json!({ "invite": &long[..1_000_000] }));
    assert_eq!(status, 403);

    assert_eq!(friend_count(&node), 0);
    add(&node, &good).expect_code(&[0]);
    assert_eq!(friend_count(&node), 1);
}

// Row 24.
#[test]
fn an_invite_used_twice_fails_the_second_time_and_the_first_friend_stays() {
    let [a, b, c] = ["Ana", "Bo", "Cleo"].map(Node::start);
    let line = invite(&a);
    add(&b, &line).json();
    wait_connected(&a, &b);
    let second = add(&c, &line);
    second.expect_refusal(&REFUSED);
    assert!(second.err().contains("was used"), "{}", second.err());
    assert_eq!([&a, &b, &c].map(friend_count), [1, 1, 0]);
    assert!(is_online(&a, "Bo") && is_online(&b, "Ana"));
}

fn stored(node: &Node) -> u64 {
    json(node, &["store", "stats"])["pack_bytes"].as_u64().unwrap_or(0)
}

/// Waits until what was on its way has come and no more follows.
#[track_caller]
fn stalled(node: &Node) -> u64 {
    let mut last = 0;
    wait_until(SOON, "no more comes", || {
        let before = std::mem::replace(&mut last, stored(node));
        // The disk may lag behind the link.
        let_pass(Duration::from_secs(2));
        before == last
    });
    never_within(Duration::from_secs(2), "more comes after all", || stored(node) > last);
    last
}

// Row 26.
#[test]
fn a_friend_removed_in_the_middle_of_a_transfer_gets_no_more() {
    let [a, b] = line_of::<2>();
    let (path, bytes) = random_file(&a, "big.bin", 48 << 20);
    let id = id_of(&publish(&a, &path, "Gannet", "friends"));
    wait_found(&b, "gannet", &id);
    let mut get = Running::start(command(&b.home, &["get", &id]), b"");
    wait_until(SOON, "some of it has come", || stored(&b) > 200_000);
    // Stopped in the middle, so that what follows surely happens during the transfer.
    b.freeze();
    kith(&a, &["friend", "remove", "Bo"]).expect_code(&[0]);
    b.thaw();
    wait_until(SOON, "the link is closed", || !is_online(&b, "Ana"));
    let part = stalled(&b);
    assert!((200_000..48 << 20).contains(&part), "{part} bytes are kept");
    assert!(get.is_running() && !is_online(&b, "Ana"), "it waits for the friend, who does not come back");
    get.kill();

    // What had come is used when they are friends again.
    kith(&b, &["friend", "remove", "Ana"]).expect_code(&[0]);
    befriend(&a, &b);
    wait_found(&b, "gannet", &id);
    let out = b.scratch("out.bin");
    kith(&b, &["get", &id, "-o", out.to_str().unwrap()]).expect_code(&[0]);
    assert_same(&out, &bytes);
}

// Row 27.
#[test]
fn what_was_queued_for_a_removed_friend_is_never_sent_nor_is_the_friend_back_after_a_crash() {
    let [mut a, mut b] = line_of::<2>();
    let (path, _) = random_file(&a, "one.bin", 50_000);
    let seen = id_of(&publish(&a, &path, "Dunlin seen", "friends"));
    wait_found(&b, "dunlin", &seen);
    assert!(b.terminate().success());
    let queued = id_of(&publish(&a, &path, "Dunlin queued", "friends"));
    kith(&a, &["friend", "remove", "Bo"]).expect_code(&[0]);
    a.kill9();
    a.restart();
    b.restart();
    assert_eq!(friend_count(&a), 0, "no resurrection");
    never_within(Duration::from_secs(4), "the removed friend hears of it", || {
        is_online(&b, "Ana") || found(&b, "dunlin", &queued).is_some()
    });
    assert_eq!(friend_count(&a), 0);
}

/// One connection to the API, for tests that ask a thousand times.
struct Api(BufReader<UnixStream>);

impl Api {
    fn connect(node: &Node) -> Self {
        let socket = node.ready["socket"].as_str().unwrap();
        Self(BufReader::new(UnixStream::connect(socket).unwrap()))
    }

    fn post(&mut self, path: &str, body: &Value) -> (u16, Value) {
        let body = body.to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: kith\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        self.0.get_mut().write_all(&[head.as_bytes(), body.as_bytes()].concat()).unwrap();
        let (mut status, mut len) = (0, 0);
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
                status = rest[..3].parse().unwrap();
            }
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                len = value.trim().parse().unwrap();
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut answer = vec![0; len];
        self.0.read_exact(&mut answer).unwrap();
        (status, serde_json::from_slice(&answer).unwrap_or_default())
    }
}

fn resident_kib(node: &Node) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

// Row 28.
#[test]
fn a_thousand_friends_cost_little_and_there_is_an_end() {
    let node = Node::start("Ana");
    let mut api = Api::connect(&node);
    let (from, to) = (now_s() - 10, now_s() + 10_000);
    let mut sizes = vec![resident_kib(&node)];
    for number in 0..1_024 {
        let cert = stranger(number, &format!("Friend {number}"), from, to);
        let (status, answer) = api.post("/api/friends", &json!({ "invite": cert }));
        assert_eq!(status, 200, "{number}: {answer}");
        if number % 256 == 255 {
            sizes.push(resident_kib(&node));
        }
    }
    assert_eq!(friend_count(&node), 1_024);
    let plain = kith(&node, &["friend", "list"]);
    assert_eq!(plain.expect_code(&[0]).out().lines().count(), 1_025);
    eprintln!("resident KiB with 0, 256, 512, 768 and 1024 friends: {sizes:?}");
    // The last quarter costs no more than a generous share for each friend: nothing grows with the
    // square of their number.
    let last = sizes[4].saturating_sub(sizes[3]);
    assert!(last < 256 * 64, "{sizes:?} KiB");
    let one_more = stranger(9_999, "Too many", from, to);
    let (status, answer) = api.post("/api/friends", &json!({ "invite": one_more }));
    assert_eq!((status, &answer["code"]), (507, &"full".into()), "{answer}");
    kith(&node, &["friend", "invite"]).expect_refusal(&[9]);
    kith(&node, &["friend", "remove", "Friend 7"]).expect_code(&[0]);
    let (status, _) = api.post("/api/friends", &json!({ "invite": one_more }));
    assert_eq!(status, 200);
}

// Row 29; loose permissions of the key file are in `cli`.
#[test]
fn a_key_file_that_is_a_link_or_loose_is_refused_with_the_way_out() {
    let mut node = Node::start("Ana");
    assert!(node.terminate().success());
    let key = node.home.join("store").join("store.key");
    let elsewhere = node.scratch("elsewhere.key");
    fs::rename(&key, &elsewhere).unwrap();
    symlink(&elsewhere, &key).unwrap();
    let refused = kith_at(&node.home, &up_args(&node.home, "127.0.0.1:0", &[]));
    refused.expect_refusal(&[1, 5]);
    assert!(refused.err().contains("symbolic link"), "{}", refused.err());
    fs::remove_file(&key).unwrap();
    fs::rename(&elsewhere, &key).unwrap();
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    let refused = kith_at(&node.home, &up_args(&node.home, "127.0.0.1:0", &[]));
    let advice = format!("chmod 600 {}", key.display());
    assert!(refused.expect_refusal(&[1, 5]).err().contains(&advice), "{}", refused.err());
    // And `doctor` says the same.
    let doctor = kith(&node, &["doctor"]);
    doctor.expect_code(&[1]);
    assert!(doctor.out().contains("has mode 644") && doctor.out().contains("chmod 600"), "{}", doctor.out());
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    node.restart();
}

// Row 30; wrong and empty ones are in `cli`.
#[test]
fn passphrases_of_any_bytes_work_and_huge_ones_are_refused() {
    let mut node = Node::stopped("Ana", &[]);
    let (odd, huge, near) = (node.scratch("odd"), node.scratch("huge"), node.scratch("near"));
    fs::write(&odd, b"\xff\xfe pass \x00\x80 phrase\n").unwrap();
    fs::write(&near, b"\xff\xfe pass \x00\x81 phrase\n").unwrap();
    fs::write(&huge, vec![b'x'; 1 << 20]).unwrap();
    let [odd, huge, near] = [&odd, &huge, &near].map(|p| p.to_str().unwrap());
    let init = |file| kith_at(&node.home, &["init", "--name", "Ana", "--passphrase-file", file]);
    assert!(init(huge).expect_refusal(&[2]).err().contains("4096"));
    init(odd).expect_code(&[0]);
    for file in [huge, near] {
        let answer = kith_at(&node.home, &up_args(&node.home, "127.0.0.1:0", &["--passphrase-file", file]));
        answer.expect_refusal(&[1, 2, 5]);
    }
    let mut by_variable = command(&node.home, &up_args(&node.home, "127.0.0.1:0", &[]));
    by_variable.env("KITH_PASSPHRASE", std::ffi::OsStr::from_bytes(b"\xff wrong"));
    Running::start(by_variable, b"").finish(SOON).expect_refusal(&[1, 2, 5]);
    // Nothing was locked out by all that.
    node.up("127.0.0.1:0", &["--passphrase-file", odd]);
}

// ---- what belongs to one friend -----------------------------------------------------------------

#[test]
fn a_friend_has_another_name_trust_and_limits_here() {
    let [a, mut b] = line_of::<2>();
    let renamed = kith(&b, &["friend", "rename", "Ana", "Ana of the zoo", "--json"]).json();
    assert_eq!(renamed["name"], "Ana of the zoo");
    kith(&b, &["friend", "rename", "Ana", "x"]).expect_refusal(&[4]);
    kith(&b, &["friend", "rename", "Ana of the zoo", "\u{1b}[2J"]).expect_refusal(&[2]);
    assert_eq!(kith(&b, &["friend", "trust", "Ana of the zoo", "close", "--json"]).json()["trust"], "close");
    kith(&b, &["friend", "trust", "Ana of the zoo", "much"]).expect_code(&[2]);
    let limited = ["friend", "limit", "Ana of the zoo", "--up", "1.5MiB/s", "--down", "500kB/s", "--json"];
    let limits = kith(&b, &limited).json()["limits"].clone();
    assert_eq!(limits, json!({"up": 1_572_864, "down": 500_000}));
    kith(&b, &["friend", "limit", "Ana of the zoo", "--up", "fast"]).expect_refusal(&[2]);
    let half = kith(&b, &["friend", "limit", "Ana of the zoo", "--up", "off", "--json"]).json();
    assert_eq!(half["limits"], json!({"up": null, "down": 500_000}));
    b.kill9();
    b.restart();
    let row = friend(&b, "Ana of the zoo").unwrap();
    assert_eq!((&row["trust"], &row["limits"]["down"]), (&"close".into(), &500_000.into()), "{row}");
    assert!(row["met"].is_u64(), "{row}");
    kith(&b, &["friend", "limit", "Ana of the zoo", "off"]).expect_code(&[0]);
    assert_eq!(friend(&b, "Ana of the zoo").unwrap()["limits"], json!({"up": null, "down": null}));
    wait_until(SOON, "the link stands under the new name", || is_online(&b, "Ana of the zoo"));
    assert_eq!(friend(&a, "Bo").unwrap()["trust"], "normal", "what is set here is nobody else's matter");
    // A second one may not have the same name.
    add(&b, &stranger(1, "Cleo", now_s() - 10, now_s() + 1_000)).expect_code(&[0]);
    kith(&b, &["friend", "rename", "Cleo", "Ana of the zoo"]).expect_refusal(&[2]);
}

#[test]
fn a_blocked_friend_meets_silence_and_comes_back_unchanged() {
    let [mut a, b] = line_of::<2>();
    let (path, bytes) = random_file(&b, "one.bin", 50_000);
    let id = id_of(&publish(&b, &path, "Turnstone", "friends"));
    let mine = id_of(&publish(&a, &path, "Redshank", "friends"));
    wait_found(&a, "turnstone", &id);
    wait_found(&b, "redshank", &mine);
    assert_eq!(kith(&a, &["friend", "block", "Bo", "--json"]).json()["blocked"], true);
    wait_until(SOON, "the link is closed", || !is_online(&b, "Ana"));
    wait_until(SOON, "the entries are gone from the search", || found(&a, "turnstone", &id).is_none());
    kith(&b, &["get", &mine]).expect_refusal(&[6]);
    assert_eq!(diagnosis(&a, "Bo"), "blocked by you");
    wait_until(SOON, "calls meet silence", || diagnosis(&b, "Ana").contains("answered but silent"));
    // Unblocked, the friend is back with the same secrets; then blocked once more.
    kith(&a, &["friend", "unblock", "Bo"]).expect_code(&[0]);
    wait_connected(&a, &b);
    kith(&a, &["friend", "block", "Bo"]).expect_code(&[0]);
    // A fresh invite that found its way to the blocked friend does not undo the block.
    kith(&b, &["friend", "remove", "Ana"]).expect_code(&[0]);
    add(&b, &invite(&a));
    never_within(Duration::from_secs(3), "a blocked friend is online", || is_online(&a, "Bo"));
    a.kill9();
    a.restart();
    never_within(Duration::from_secs(2), "a restart undoes the block", || is_online(&a, "Bo"));
    assert_eq!(friend(&a, "Bo").unwrap()["blocked"], true);
    assert_eq!(friend_count(&a), 1, "the friendship is kept");

    kith(&a, &["friend", "unblock", "Bo"]).expect_code(&[0]);
    // The friend had removed this side: an invite renews the friendship.
    let added = add(&b, &invite(&a)).json();
    assert_eq!(added["name"], "Ana", "{added}");
    wait_connected(&a, &b);
    wait_found(&a, "turnstone", &id);
    let out = a.scratch("out.bin");
    kith(&a, &["get", &id, "-o", out.to_str().unwrap()]).expect_code(&[0]);
    assert_same(&out, &bytes);
}

// ---- circles ------------------------------------------------------------------------------------

/// A hub with two friends.
fn hub() -> [Node; 3] {
    let nodes = ["Ana", "Bo", "Cleo"].map(Node::start);
    befriend(&nodes[0], &nodes[1]);
    befriend(&nodes[0], &nodes[2]);
    nodes
}

#[test]
fn a_circle_sees_what_is_for_it_as_long_as_one_is_in_it() {
    let [mut a, b, c] = hub();
    kith(&a, &["circle", "create", "family"]).expect_code(&[0]);
    kith(&a, &["circle", "create", "family"]).expect_refusal(&[2]);
    kith(&a, &["circle", "add", "family", "Nobody"]).expect_refusal(&[4]);
    kith(&a, &["circle", "add", "work", "Bo"]).expect_refusal(&[4]);
    let circle = kith(&a, &["circle", "add", "family", "Bo", "--json"]).json();
    assert_eq!(circle, json!({"name": "family", "friends": ["Bo"], "videos": 0}));
    let (path, _) = random_file(&a, "one.bin", 80_000);
    let nobody = ["publish", path.to_str().unwrap(), "--title", "x", "--to", "circle:work", "--any-file"];
    kith(&a, &nobody).expect_refusal(&[4]);
    let shown = publish(&a, &path, "Avocet", "circle:family");
    assert_eq!(shown["audience"], "circle:family");
    let id = id_of(&shown);
    let open = id_of(&publish(&a, &path, "Avocet for all", "friends"));
    wait_found(&b, "avocet", &id);
    wait_found(&c, "avocet", &open);
    assert!(found(&c, "avocet", &id).is_none(), "not in the circle");
    kith(&c, &["get", &id]).expect_refusal(&[4, 5, 6]);
    kith(&b, &["get", &id]).expect_code(&[0]);

    // Who joins sees what is there already; who leaves loses it, also after a restart.
    kith(&a, &["circle", "add", "family", "Cleo"]).expect_code(&[0]);
    wait_found(&c, "avocet", &id);
    kith(&a, &["circle", "drop", "family", "Bo"]).expect_code(&[0]);
    wait_until(SOON, "who was dropped no longer sees it", || found(&b, "avocet", &id).is_none());
    a.restart();
    wait_connected(&a, &b);
    wait_connected(&a, &c);
    assert_eq!(json(&a, &["circle", "list"]), json!([{"name": "family", "friends": ["Cleo"], "videos": 1}]));
    never_within(Duration::from_secs(2), "a restart shows it again", || found(&b, "avocet", &id).is_some());
    assert!(found(&c, "avocet", &id).is_some());

    let gone = kith(&a, &["circle", "rm", "family", "--json"]).json();
    assert_eq!(gone, json!({"removed": "family", "unshared": 1}));
    wait_until(SOON, "nobody sees it", || found(&c, "avocet", &id).is_none());
    assert_eq!(json(&a, &["video", "show", &id])["audience"], "nobody");
    // A new circle of that name has nothing to do with the old one.
    kith(&a, &["circle", "create", "family"]).expect_code(&[0]);
    kith(&a, &["circle", "add", "family", "Bo"]).expect_code(&[0]);
    never_within(Duration::from_secs(2), "an old video is in a new circle", || {
        found(&b, "avocet", &id).is_some()
    });
}

#[test]
fn who_is_dropped_from_a_circle_gets_no_more_in_the_middle_of_a_transfer() {
    let [a, b, _c] = hub();
    kith(&a, &["circle", "create", "family"]).expect_code(&[0]);
    kith(&a, &["circle", "add", "family", "Bo"]).expect_code(&[0]);
    let (path, _) = random_file(&a, "big.bin", 48 << 20);
    let id = id_of(&publish(&a, &path, "Sanderling", "circle:family"));
    wait_found(&b, "sanderling", &id);
    let mut get = Running::start(command(&b.home, &["get", &id]), b"");
    wait_until(SOON, "some of it has come", || stored(&b) > 200_000);
    b.freeze();
    kith(&a, &["circle", "drop", "family", "Bo"]).expect_code(&[0]);
    b.thaw();
    let part = stalled(&b);
    assert!((200_000..48 << 20).contains(&part) && get.is_running(), "{part} bytes have come");
    assert!(is_online(&a, "Bo"), "the friend itself stays");
}

// ---- the way to a friend ------------------------------------------------------------------------

#[test]
fn a_ping_measures_the_way_to_a_friend() {
    let [a, mut b] = line_of::<2>();
    let pings = kith(&a, &["friend", "ping", "Bo", "-c", "3", "--json"]).json();
    assert_eq!(pings["name"], "Bo");
    let times = pings["ms"].as_array().unwrap();
    let sound = |ms: &Value| ms.as_f64().is_some_and(|ms| ms > 0.0 && ms < 5_000.0);
    assert!(times.len() == 3 && times.iter().all(sound), "{pings}");
    assert!(kith(&a, &["friend", "ping", "Bo"]).expect_code(&[0]).out().contains(" ms"));
    kith(&a, &["friend", "ping", "Nobody"]).expect_refusal(&[4]);
    b.freeze();
    kith(&a, &["friend", "ping", "Bo"]).expect_refusal(&[7]);
    b.thaw();
    assert!(b.terminate().success());
    wait_until(SOON, "the loss is seen", || !is_online(&a, "Bo"));
    kith(&a, &["friend", "ping", "Bo"]).expect_refusal(&[6]);
}

#[test]
fn a_friend_is_verified_by_the_right_fingerprint_only() {
    let [a, mut b] = line_of::<2>();
    let print = json(&a, &["id"])["fingerprint"].as_str().unwrap().to_owned();
    let shown = json(&b, &["friend", "verify", "Ana"]);
    assert_eq!(
        (&shown["fingerprint"], &shown["verified"]),
        (&print.as_str().into(), &Value::Null),
        "{shown}"
    );
    assert_eq!(shown["own_fingerprint"], json(&b, &["id"])["fingerprint"]);
    let own = shown["own_fingerprint"].as_str().unwrap();
    kith(&b, &["friend", "verify", "Ana", own]).expect_refusal(&[8]);
    assert!(friend(&b, "Ana").unwrap()["verified"].is_null());
    let words = shown["words"].as_str().unwrap();
    assert_eq!(words.split(' ').count(), 12);
    kith(&b, &["friend", "verify", "Ana", words]).expect_code(&[0]);
    kith(&b, &["friend", "verify", "Ana", "--undo"]).expect_code(&[0]);
    let typed = print.to_lowercase().replace('-', " ");
    kith(&b, &["friend", "verify", "Ana", &typed]).expect_code(&[0]);
    b.kill9();
    b.restart();
    assert!(friend(&b, "Ana").unwrap()["verified"].is_u64());
    kith(&b, &["friend", "verify", "Ana", "--undo"]).expect_code(&[0]);
    assert!(friend(&b, "Ana").unwrap()["verified"].is_null());
}
