//! Backups and bundles with real processes. What thirty days do to the keys is the simulator's
//! (`tests/tests/keys.rs`); every byte of the archive is the store's (`store/src/archive/tests.rs`).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::*;

const SECRET: &[u8] = b"one two three";

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

/// A backup of this node beside its home.
#[track_caller]
fn back_up(node: &Node, name: &str, more: &[&str]) -> (PathBuf, Value) {
    let file = node.scratch(name);
    let args = [&["backup", text(&file), "--passphrase-file", "-", "--json"], more].concat();
    let value = kith_with(node, &args, SECRET).json();
    (file, value)
}

fn restore(node: &Node, file: &Path, passphrase: &[u8]) -> Output {
    kith_with(node, &["restore", text(file), "--passphrase-file", "-", "--json"], passphrase)
}

/// All names below a folder.
fn names(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            all.extend(names(&entry.path()));
        }
        all.push(entry.path());
    }
    all.sort();
    all
}

fn doctor(node: &Node, name: &str) -> String {
    kith(node, &["doctor", name, "--json"]).out()
}

fn link_anew(a: &mut Node, b: &mut Node) {
    for node in [&mut *a, &mut *b] {
        node.restart();
    }
    wait_connected(a, b);
}

/// The main promise: the home is lost, the backup is there, the friend says yes, and a video comes.
#[test]
fn a_lost_home_comes_back_from_its_backup_when_the_friend_agrees() {
    let [mut a, mut b] = line_of();
    let (film, bytes) = random_file(&b, "film.bin", 300_000);
    let id = id_of(&publish(&b, &film, "Sandpiper", "friends"));
    wait_found(&a, "sandpiper", &id);
    json(&a, &["get", &id]);
    let gone = id_of(&publish(&b, &random_file(&b, "gone.bin", 9_000).0, "Gone", "friends"));
    json(&b, &["circle", "create", "Near"]);
    json(&b, &["circle", "add", "Near", "Ana"]);
    json(&b, &["config", "set", "limits.up", "7MB/s"]);
    let (file, made) = back_up(&b, "b.kith", &[]);
    assert_eq!((&made["friends"], &made["publications"]), (&1.into(), &2.into()), "{made}");
    assert_eq!(made["objects"], 0, "small without content: {made}");
    assert!(made["bytes"].as_u64().unwrap() < 200_000, "{made}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let before = json(&b, &["id"]);

    // Life goes on: new links, another friend's film, then the disk dies.
    link_anew(&mut a, &mut b);
    let (theirs, their_bytes) = random_file(&a, "theirs.bin", 200_000);
    let theirs = id_of(&publish(&a, &theirs, "Whimbrel", "friends"));
    wait_found(&b, "whimbrel", &theirs);
    let listen = b.listen();
    b.kill9();
    fs::remove_dir_all(&b.home).unwrap();

    let restored = restore(&b, &file, SECRET).json();
    assert_eq!(restored["fingerprint"], before["fingerprint"]);
    assert_eq!(restored["friends"], serde_json::json!(["Ana"]));
    assert_eq!(restored["config"], "restored");
    b.restart_at(&listen);
    assert_eq!(json(&b, &["config", "get", "limits.up"])["value"], "7MB/s");
    assert_eq!(json(&b, &["circle", "list"])[0]["friends"], serde_json::json!(["Ana"]));
    assert_eq!(json(&b, &["video", "list"]).as_array().unwrap().len(), 2);

    // The control: nothing connects before the friend's owner says so, and both are told what to do.
    wait_until(SOON, "Ana is asked about Bo", || doctor(&a, "Bo").contains("friend verify Bo --restored"));
    assert!(doctor(&b, "Ana").contains("since you restored a backup"), "{}", doctor(&b, "Ana"));
    never_within(Duration::from_secs(4), "they connect by themselves", || is_online(&a, "Bo"));
    json(&a, &["friend", "verify", "Bo", "--restored"]);
    wait_connected(&a, &b);
    wait_until(SOON, "nothing is wrong here any more", || !doctor(&b, "Ana").contains("restored"));

    wait_found(&b, "whimbrel", &theirs);
    let out = b.scratch("theirs-back.bin");
    json(&b, &["get", &theirs, "-o", text(&out)]);
    assert_same(&out, &their_bytes);
    // What it published itself was not in the small backup: the entries are back, the bytes are not. A
    // friend who has them gives them back, over the network or by a bundle; what nobody has can be
    // withdrawn.
    let own = b.scratch("own.bin");
    let (stick, _) = export(&a, "back.kith", "Bo", &[&id]);
    assert_eq!(json(&b, &["get", &id, "-o", text(&own)])["mode"], "direct");
    assert_same(&own, &bytes);
    fs::remove_file(&own).unwrap();
    assert_eq!(json(&b, &["bundle", "import", text(&stick)])["videos"][0]["readable"], true);
    assert_eq!(json(&b, &["get", &id, "-o", text(&own)])["mode"], "local");
    assert_same(&own, &bytes);
    json(&b, &["video", "rm", &gone]);
    assert_eq!(json(&b, &["video", "list"]).as_array().unwrap().len(), 1);

    // The link stays after restarts of both: the word was needed once.
    link_anew(&mut a, &mut b);

    // The same file again, generations later: each way back has turned the ratchet on.
    let listen = b.listen();
    b.kill9();
    fs::remove_dir_all(&b.home).unwrap();
    restore(&b, &file, SECRET).json();
    b.restart_at(&listen);
    wait_until(SOON, "Ana is asked again", || doctor(&a, "Bo").contains("friend verify Bo --restored"));
    json(&a, &["friend", "verify", "Bo", "--restored"]);
    wait_connected(&a, &b);
}

#[test]
fn content_comes_along_when_asked_and_keys_of_what_was_fetched_always() {
    let [a, mut b] = line_of();
    let (own, own_bytes) = random_file(&b, "own.bin", 200_000);
    let own = id_of(&publish(&b, &own, "Own", "friends"));
    let (theirs, their_bytes) = random_file(&a, "theirs.bin", 150_000);
    let theirs = id_of(&publish(&a, &theirs, "Theirs", "friends"));
    wait_found(&b, "theirs", &theirs);
    json(&b, &["get", &theirs]);
    let (whole, made) = back_up(&b, "whole.kith", &["--content"]);
    assert_eq!(made["objects"], 2, "{made}");
    let (small, _) = back_up(&b, "small.kith", &[]);
    // A node that does not run can be backed up, too.
    b.terminate();
    let (still, made) = back_up(&b, "still.kith", &["--content"]);
    assert_eq!((&made["objects"], &made["friends"]), (&2.into(), &1.into()));
    assert!(fs::metadata(&still).unwrap().len() >= fs::metadata(&whole).unwrap().len());

    for (file, objects) in [(&whole, 2), (&still, 2), (&small, 0)] {
        fs::remove_dir_all(&b.home).unwrap();
        assert_eq!(restore(&b, file, SECRET).json()["objects"], objects);
        b.restart_at("127.0.0.1:0");
        if objects == 2 {
            for (id, bytes) in [(&own, &own_bytes), (&theirs, &their_bytes)] {
                let out = b.scratch(&format!("{id}-{}", file.file_name().unwrap().display()));
                assert_eq!(json(&b, &["get", id, "-o", text(&out)])["mode"], "local");
                assert_same(&out, bytes);
            }
        } else {
            // Known, so that it can be fetched again, but not here.
            kith(&b, &["get", &theirs]).expect_refusal(&[6]);
            json(&b, &["video", "rm", &theirs]);
            kith(&b, &["get", &theirs]).expect_refusal(&[4]);
        }
        b.terminate();
    }
}

#[test]
fn a_restore_that_cannot_be_leaves_nothing_and_touches_nothing() {
    let b = Node::start("Bo");
    let (file, _) = back_up(&b, "b.kith", &[]);
    let good = fs::read(&file).unwrap();
    // A node is here: it stays.
    let before = json(&b, &["id"])["fingerprint"].clone();
    let refused = restore(&b, &file, SECRET);
    refused.expect_refusal(&[1]);
    assert!(refused.err().contains("there is a node"), "{}", refused.err());
    assert_eq!(json(&b, &["id"])["fingerprint"], before);
    // A backup replaces no file, follows no link and writes into no pipe.
    let args = ["backup", text(&file), "--passphrase-file", "-"];
    kith_with(&b, &args, SECRET).expect_refusal(&[1]);
    assert_eq!(fs::read(&file).unwrap(), good);
    let link = b.scratch("link.kith");
    std::os::unix::fs::symlink(b.scratch("nowhere"), &link).unwrap();
    kith_with(&b, &["backup", text(&link), "--passphrase-file", "-"], SECRET).expect_refusal(&[1]);
    assert!(!b.scratch("nowhere").exists());
    kith(&b, &["backup", text(&b.scratch("no.kith"))]).expect_refusal(&[2]);
    assert!(!b.scratch("no.kith").exists());

    let empty = Node::stopped("Empty", &[]);
    fs::remove_dir(&empty.home).unwrap();
    let attempt = |bytes: &[u8], passphrase: &[u8], code: i32, says: &str| {
        let file = empty.scratch("attempt.kith");
        fs::write(&file, bytes).unwrap();
        let output = restore(&empty, &file, passphrase);
        output.expect_refusal(&[code]);
        assert!(output.err().contains(says), "{says:?} is not in: {}", output.err());
        assert_eq!(names(&empty.home), Vec::<PathBuf>::new(), "{says}");
        assert!(!empty.home.exists(), "{says}");
    };
    attempt(&good, b"one two", 5, "the passphrase does not open");
    attempt(&good[..good.len() - 1], SECRET, 8, "incomplete");
    attempt(&good[..40], SECRET, 8, "its header");
    attempt(&[&good[..], &[0; 9]].concat(), SECRET, 8, "use another copy");
    attempt(b"KITHJRN\0", SECRET, 5, "neither a backup nor a bundle");
    attempt(b"", SECRET, 5, "neither a backup nor a bundle");
    for at in [30, 70, good.len() / 2] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        attempt(&bad, SECRET, 8, "damaged");
    }
    let mut later = good.clone();
    later[8] = 9;
    attempt(&later, SECRET, 5, "later release");
    kith_with(&empty, &["restore", text(&empty.scratch("none")), "--passphrase-file", "-"], SECRET)
        .expect_refusal(&[4]);

    // The control: the same file, unharmed. What a killed restore left aside is no hindrance.
    fs::create_dir_all(empty.home.join("store.restoring").join("journal")).unwrap();
    let file = empty.scratch("good.kith");
    fs::write(&file, &good).unwrap();
    assert_eq!(restore(&empty, &file, SECRET).json()["fingerprint"], before);
    assert!(!empty.home.join("store.restoring").exists());
}

/// Killed at whatever moment, a restore leaves a whole node or none, and the next one works.
#[test]
fn a_killed_restore_leaves_no_half_node() {
    let b = Node::start("Bo");
    let (film, _) = random_file(&b, "film.bin", 6 << 20);
    publish(&b, &film, "Godwit", "friends");
    let (file, _) = back_up(&b, "b.kith", &["--content"]);
    let fingerprint = json(&b, &["id"])["fingerprint"].clone();
    let mut node = Node::stopped("Again", &[]);
    let aside = node.home.join("store.restoring");
    let args = ["restore", text(&file), "--passphrase-file", "-", "--json"];
    let (mut killed, mut whole) = (0, 0);
    for pause in [0, 1, 5, 20, 60, 150] {
        let mut restore = Running::start(command(&node.home, &args), SECRET);
        wait_until(SOON, "the restore has begun", || aside.exists() || !restore.is_running());
        let_pass(Duration::from_millis(pause));
        restore.kill();
        killed += u32::from(restore.finish(SOON).code != 0);
        let store = node.home.join("store");
        if store.exists() {
            whole += 1;
            node.restart_at("127.0.0.1:0");
            assert_eq!(json(&node, &["id"])["fingerprint"], fingerprint);
            assert_eq!(json(&node, &["store", "stats"])["objects"], 1);
            node.terminate();
            fs::remove_dir_all(&store).unwrap();
        }
    }
    assert!(killed > 0, "the control: some were killed in the middle");
    eprintln!("{killed} restores killed, {whole} nodes whole");
    assert_eq!(self::restore(&node, &file, SECRET).json()["fingerprint"], fingerprint);
    assert!(!aside.exists());
}

/// Ctrl-C and a service manager's SIGTERM left the half-made store, keys and all, beside the node.
#[test]
fn an_interrupted_restore_takes_away_what_it_made() {
    let b = Node::start("Bo");
    let (film, _) = random_file(&b, "film.bin", 24 << 20);
    publish(&b, &film, "Godwit", "friends");
    let (file, _) = back_up(&b, "b.kith", &["--content"]);
    let node = Node::stopped("Again", &[]);
    let aside = node.home.join("store.restoring");
    let before = names(&node.home);
    let args = ["restore", text(&file), "--passphrase-file", "-", "--json"];
    for signal in [Signal::INT, Signal::TERM] {
        let mut restore = Running::start(command(&node.home, &args), SECRET);
        wait_until(SOON, "the restore has begun", || aside.exists() || !restore.is_running());
        restore.signal(signal);
        assert_eq!(restore.finish(SOON).code, 130);
        assert_eq!(names(&node.home), before, "nothing is left");
    }
    // The control: a kill leaves it, `init` says so, and the next restore takes it away.
    let mut restore = Running::start(command(&node.home, &args), SECRET);
    wait_until(SOON, "the restore has begun", || aside.exists() || !restore.is_running());
    restore.kill();
    assert_ne!(restore.finish(SOON).code, 0);
    assert!(aside.exists());
    assert_eq!(self::restore(&node, &file, SECRET).code, 0);
    assert!(!aside.exists());
}

/// The file of a backup of a stopped node stayed half-made under its passing name.
#[test]
fn an_interrupted_backup_leaves_no_part() {
    let mut b = Node::start("Bo");
    let (film, _) = random_file(&b, "film.bin", 24 << 20);
    publish(&b, &film, "Godwit", "friends");
    b.terminate();
    let file = b.scratch("b.kith");
    let folder = file.parent().unwrap().to_path_buf();
    let parts = || names(&folder).into_iter().filter(|path| text(path).contains(".part-")).count();
    let args = ["backup", text(&file), "--passphrase-file", "-", "--json", "--content"];
    for pause in [0, 400] {
        let mut backup = Running::start(command(&b.home, &args), SECRET);
        wait_until(SOON, "the backup has begun", || parts() > 0 || !backup.is_running());
        let_pass(Duration::from_millis(pause));
        backup.signal(Signal::INT);
        let code = backup.finish(SOON).code;
        assert!(code == 130 || pause > 0 && code == 0, "{code}");
        assert_eq!((parts(), file.exists()), (0, code == 0));
        let _ = fs::remove_file(&file);
    }
    // The control: a kill leaves it.
    let mut backup = Running::start(command(&b.home, &args), SECRET);
    wait_until(SOON, "the backup has begun", || parts() > 0 || !backup.is_running());
    backup.kill();
    backup.finish(SOON);
    assert_eq!(parts(), 1);
}

/// A clone beside the original: both cannot be meant, and the friend is told while the original is on
/// line.
#[test]
fn a_clone_from_a_backup_is_noticed_by_the_friend() {
    let [a, b] = line_of();
    let (file, _) = back_up(&b, "b.kith", &[]);
    assert!(!doctor(&a, "Bo").contains("runs twice"), "the control: nothing is wrong yet");
    let mut clone = Node::stopped("Clone", &[]);
    restore(&clone, &file, SECRET).json();
    clone.restart_at("127.0.0.1:0");
    wait_until(SOON, "Ana learns of it", || doctor(&a, "Bo").contains("runs twice"));
    assert!(is_online(&a, "Bo") && is_online(&b, "Ana"), "the original stays linked");
    assert!(!is_online(&clone, "Ana"));
}

fn export(node: &Node, name: &str, to: &str, ids: &[&str]) -> (PathBuf, Value) {
    let file = node.scratch(name);
    let args = [&["bundle", "export", text(&file), "--to", to], ids].concat();
    (file.clone(), json(node, &args))
}

#[test]
fn a_bundle_brings_a_friend_what_the_network_then_need_not() {
    let [mut a, b, c] = line_of();
    let (film, bytes) = random_file(&a, "film.bin", 8 << 20);
    let id = id_of(&publish(&a, &film, "Turnstone", "friends"));
    let (other, _) = random_file(&a, "other.bin", 70_000);
    let other = id_of(&publish(&a, &other, "Dunlin", "friend:Bo"));
    wait_found(&b, "turnstone", &id);
    let (file, made) = export(&a, "for-bo.kith", "Bo", &[&id, &other[..10]]);
    assert_eq!((&made["objects"], &made["complete"], &made["to"]), (&2.into(), &2.into(), &"Bo".into()));
    a.terminate();

    // A third person cannot open it, and hears so long before it was read to its end (which once broke
    // the connection before the answer); and it is no backup.
    let refused = kith(&c, &["bundle", "import", text(&file)]);
    refused.expect_refusal(&[5]);
    assert!(refused.err().contains("not for this node"), "{}", refused.err());
    kith_with(&Node::stopped("N", &[]), &["restore", text(&file), "--passphrase-file", "-"], SECRET)
        .expect_refusal(&[5]);

    // A stick that was pulled out early, then the whole one, then once more.
    let whole = fs::read(&file).unwrap();
    let cut = b.scratch("cut.kith");
    fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let refused = kith(&b, &["bundle", "import", text(&cut)]);
    refused.expect_refusal(&[8]);
    assert!(refused.err().contains("incomplete") && refused.err().contains("kept"), "{}", refused.err());
    let first = json(&b, &["bundle", "import", text(&file)]);
    assert_eq!(
        (&first["from"], &first["objects"], &first["complete"]),
        (&"Ana".into(), &2.into(), &2.into())
    );
    assert!(first["new_blocks"].as_u64().unwrap() > 0, "{first}");
    let again = json(&b, &["bundle", "import", text(&file)]);
    assert_eq!(again["new_blocks"], 0, "{again}");
    let out = b.scratch("film.bin");
    assert_eq!(json(&b, &["get", &id, "-o", text(&out)])["mode"], "local");
    assert_same(&out, &bytes);
}

/// What is missing comes over the network, and only that; and a bundle shows nothing to whom its
/// videos were not shown.
#[test]
fn a_partial_bundle_is_completed_by_the_network_and_widens_no_audience() {
    let [a, b, c] = line_of();
    let (film, bytes) = random_file(&a, "film.bin", 4 << 20);
    let published = publish(&a, &film, "Curlew", "friend:Bo");
    let (id, link) = (id_of(&published), published["link"].as_str().unwrap().to_owned());
    wait_found(&b, "curlew", &id);
    // Bo gets half of it from a stick.
    let (file, _) = export(&a, "for-bo.kith", "Bo", &[&id]);
    let whole = fs::read(&file).unwrap();
    let cut = b.scratch("cut.kith");
    fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    kith(&b, &["bundle", "import", text(&cut)]).expect_refusal(&[8]);
    let received = |node: &Node| friend(node, "Ana").unwrap()["received_bytes"].as_u64().unwrap();
    let before = received(&b);
    let out = b.scratch("film.bin");
    json(&b, &["get", &id, "-o", text(&out)]);
    assert_same(&out, &bytes);
    let came = received(&b) - before;
    assert!(came < bytes.len() as u64 * 3 / 4, "{came} bytes came for the missing half");

    // Bo passes it on to Cleo, whom Ana did not show it: she gets blocks and nothing to read them by.
    let (file, _) = export(&b, "for-cleo.kith", "Cleo", &[&id]);
    let imported = json(&c, &["bundle", "import", text(&file)]);
    assert_eq!((&imported["from"], &imported["videos"][0]["readable"]), (&"Bo".into(), &false.into()));
    kith(&c, &["get", &id]).expect_refusal(&[5]);
    assert!(found(&c, "curlew", &id).is_none());
    // With the link, which is what gives the right, it is there.
    let out = c.scratch("film.bin");
    assert_eq!(json(&c, &["get", &link, "-o", text(&out)])["mode"], "local");
    assert_same(&out, &bytes);
}

#[test]
fn exports_are_refused_before_a_file_is_made() {
    let [a, b] = line_of();
    let (film, _) = random_file(&a, "film.bin", 10_000);
    let id = id_of(&publish(&a, &film, "Knot", "friends"));
    wait_found(&b, "knot", &id);
    let file = b.scratch("x.kith");
    let export = |node: &Node, to: &str, id: &str, code: i32| {
        kith(node, &["bundle", "export", text(&file), "--to", to, id]).expect_refusal(&[code]);
        assert!(!file.exists() && names(file.parent().unwrap()).iter().all(|n| !text(n).contains("part-")));
    };
    export(&b, "Zoe", &id, 4);
    export(&b, "Ana", &id, 4);
    export(&b, "Ana", "ffffffff", 4);
    json(&a, &["friend", "block", "Bo"]);
    export(&a, "Bo", &id, 5);
}
