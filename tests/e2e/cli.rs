//! The command line as scripts and people use it: exit codes, JSON, secrets, terminals.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Duration;

use crate::harness::*;

fn mode(path: &std::path::Path) -> u32 {
    fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).permissions().mode()
        & 0o777
}

/// No byte that steers a terminal: ESC, the C1 controls and the bidi controls.
#[track_caller]
fn assert_plain(output: &Output) {
    for text in [output.out(), output.err()] {
        let bad = |c: char| {
            (c.is_control() && c != '\n') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        };
        assert!(!text.contains(bad), "{text:?}");
    }
}

#[test]
fn one_home_has_one_node() {
    let mut node = Node::start("Ana");
    assert_eq!(node.ready["pid"], node.pid());
    assert!(node.ready["version"].is_string() && node.ready["onion"].is_null(), "{}", node.ready);
    let second = kith_at(&node.home, &up_args(&node.home, "127.0.0.1:0", &[]));
    second.expect_refusal(&[1]);
    assert!(second.err().contains(&node.pid().to_string()), "{}", second.err());

    for args in [&["status"][..], &["paths"], &["store", "stats"], &["id"]] {
        assert!(json(&node, args).is_object(), "{args:?}");
    }
    for args in [&["friend", "list"][..], &["video", "list"], &["search", "zoo"]] {
        assert_eq!(json(&node, args), serde_json::json!([]), "{args:?}");
    }
    let socket = node.ready["socket"].as_str().unwrap();
    assert_eq!(mode(socket.as_ref()), 0o600, "the socket is its owner's");
    let elsewhere = tempfile::tempdir().unwrap();
    let home: &OsStr = node.home.as_ref();
    let by_flag: Vec<&OsStr> = vec!["status".as_ref(), "--json".as_ref(), "--home".as_ref(), home];
    assert!(kith_at(elsewhere.path(), &by_flag).json().is_object(), "--home goes before KITH_HOME");

    kith(&node, &["stop"]).expect_code(&[0]);
    assert_eq!(node.wait_for_end().code(), Some(0));
    kith(&node, &["status"]).expect_refusal(&[3]);
    node.restart();
    kith(&node, &["status"]).expect_code(&[0]);
}

#[test]
fn codes_tell_what_happened() {
    let fresh = Node::stopped("Ana", &[]);
    let started = Node::stopped("Bo", &[]);
    kith_at(&started.home, &["init", "--name", "Bo"]).expect_code(&[0]);
    let (film, _) = random_file(&fresh, "film.bin", 1_000);
    let film = film.to_str().unwrap();
    let id = "ab".repeat(32);
    for home in [&fresh.home, &started.home] {
        for args in [
            &["status"][..],
            &["stop"],
            &["friend", "list"],
            &["friend", "invite"],
            &["search", "zoo"],
            &["video", "list"],
            &["get", &id],
            &["watch", &id],
            &["publish", film, "--any-file"],
        ] {
            kith_at(home, args).expect_refusal(&[3]);
        }
    }
    for args in [&["--help"][..], &["up", "--help"], &["friend", "--help"], &["publish", "--help"]] {
        let help = kith_at(&fresh.home, args);
        help.expect_code(&[0]);
        assert!(help.out().contains("Usage"), "{}", help.out());
        assert_plain(&help);
    }
    for args in [
        &["--nonsense"][..],
        &["nonsense"],
        &["up", "--nonsense"],
        &["get"],
        &["publish"],
        &["search", "zoo", "--scope", "galaxy"],
        &["search", "zoo", "--limit", "many"],
        &["up", "--passphrase", "never in argv"],
        &["up", "--set", "no.such.key=1"],
        &["up", "--set", "catalogue.batch=soon"],
        &["up", "--listen", "nowhere"],
        &["up", "--web", "0.0.0.0:0"],
    ] {
        let refused = kith_at(&fresh.home, args);
        refused.expect_code(&[2]);
        assert!(!refused.err().is_empty() && !refused.err().contains("panicked"), "{}", refused.err());
        assert_plain(&refused);
    }
    // One line says which.
    let said = kith_at(&fresh.home, &["get"]).err();
    assert!(said.lines().count() == 1 && said.contains("<ID>") && !said.contains("::"), "{said}");
    let broken: [OsString; 2] = ["search".into(), OsStr::from_bytes(b"zo\xff\xfe").into()];
    assert!(!kith_at(&fresh.home, &broken).err().contains("panicked"));
    kith_at(&fresh.home, &broken).expect_code(&[2, 3]);
}

#[test]
fn a_closed_pipe_is_no_accident() {
    let node = Node::start("Ana");
    for args in [&["--help"][..], &["status"], &["status", "--json"], &["friend", "invite"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let run = Running::start_onto(Stdio::from(writer), command(&node.home, args), b"");
        let output = run.finish(Duration::from_secs(20));
        assert!(output.code != 101 && !output.err().contains("panicked"), "{args:?}: {}", output.err());
    }
}

#[test]
fn an_identity_stays() {
    let mut node = Node::stopped("Ana", &[]);
    kith_at(&node.home, &["init", "--name", "Ana"]).expect_code(&[0]);
    let config = node.home.join("config.toml");
    let written = fs::read_to_string(&config).expect("the configuration is written once");
    assert!(written.contains("batch"), "each key stands in it with a comment:\n{written}");
    // The certificate may need the running node; whoever gives it, it is the same.
    let before = kith_at(&node.home, &["id", "--json"]);
    before.expect_code(&[0, 3]);
    node.up("127.0.0.1:0", &[]);
    let running = json(&node, &["id"]);
    assert_eq!(running["name"], "Ana", "{running}");
    let fingerprint = running["fingerprint"].as_str().expect("a fingerprint").to_owned();
    if before.code == 0 {
        assert_eq!(before.json()["fingerprint"], fingerprint);
    }
    node.restart_at("127.0.0.1:0");
    assert_eq!(json(&node, &["id"])["fingerprint"], fingerprint);
    kith_at(&node.home, &["init", "--name", "Eve"]).expect_code(&[0, 1, 2, 5]);
    let after = json(&node, &["id"]);
    assert_eq!((&after["fingerprint"], &after["name"]), (&fingerprint.into(), &"Ana".into()));
    assert_eq!(fs::read_to_string(&config).unwrap(), written, "written once");

    let other = Node::start("Ana");
    assert_ne!(json(&other, &["id"])["fingerprint"], after["fingerprint"], "homes do not share keys");
}

#[test]
fn a_passphrase_opens_the_store_and_nothing_else_does() {
    let mut node = Node::stopped("Ana", &[]);
    let (right, wrong, empty) = (node.scratch("right"), node.scratch("wrong"), node.scratch("empty"));
    for (file, text) in
        [(&right, "correct horse battery\n"), (&wrong, "correct horse bakery\n"), (&empty, "")]
    {
        fs::write(file, text).unwrap();
        fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap();
    }
    let [right, wrong, empty] = [&right, &wrong, &empty].map(|path| path.to_str().unwrap());
    kith_at(&node.home, &["init", "--name", "Ana", "--passphrase-file", empty]).expect_refusal(&[1, 2, 5]);
    kith_at(&node.home, &["init", "--name", "Ana", "--passphrase-file", right]).expect_code(&[0]);

    let refused = [1, 2, 5, 8];
    for more in [&["--passphrase-file", wrong][..], &["--passphrase-file", empty], &[]] {
        let answer = kith_at(&node.home, &up_args(&node.home, "127.0.0.1:0", more));
        answer.expect_refusal(&refused);
        assert!(!answer.err().contains("horse"), "{}", answer.err());
    }
    node.up("127.0.0.1:0", &["--passphrase-file", right]);
    let fingerprint = json(&node, &["id"])["fingerprint"].clone();
    assert!(node.terminate().success());

    // From stdin, so that a secret need not even be in a file.
    let args = up_args(&node.home, "127.0.0.1:0", &["--passphrase-file", "-"]);
    let run = Running::start(command(&node.home, &args), b"correct horse battery\n");
    wait_until(SOON, "the node started with a passphrase from stdin", || kith(&node, &["status"]).code == 0);
    assert_eq!(json(&node, &["id"])["fingerprint"], fingerprint);
    kith(&node, &["stop"]).expect_code(&[0]);
    run.finish(SOON).expect_code(&[0]);
}

#[test]
fn a_key_file_that_others_can_read_is_refused() {
    let mut node = Node::start("Ana");
    assert!(node.terminate().success());
    let key = node.home.join("store").join("store.key");
    assert_eq!(mode(&key), 0o600);
    assert_eq!(mode(key.parent().unwrap()), 0o700);
    for loose in [0o644, 0o640, 0o604] {
        fs::set_permissions(&key, Permissions::from_mode(loose)).unwrap();
        let refused = kith_at(&node.home, &up_args(&node.home, "127.0.0.1:0", &[]));
        refused.expect_refusal(&[1, 2, 5]);
        assert!(refused.err().contains("chmod 600"), "{}", refused.err());
    }
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    node.restart();
}

#[test]
fn what_others_wrote_never_steers_a_terminal() {
    let [a, b] = line_of::<2>();
    let (path, _) = random_file(&a, "one.bin", 10_000);
    let path = path.to_str().unwrap();
    let good = id_of(&publish(&a, path.as_ref(), "Pelican plain", "friends"));
    wait_found(&b, "pelican", &good);
    let mut shown = Vec::new();
    for title in [
        "Pelican \u{1b}[2J\u{1b}]52;c;aGk=\u{7} end",
        "Pelican \u{202e}4pm\u{2066}",
        "Pelican \u{9b}31m\r\u{8}x",
    ] {
        let args =
            ["publish", path, "--title", title, "--text", title, "--tag", title, "--any-file", "--json"];
        let answer = kith(&a, &args);
        // Refusing such a title is as good as cleaning it.
        if answer.code == 0 {
            shown.push(id_of(&answer.json()));
        } else {
            answer.expect_refusal(&[1, 2]);
            assert_plain(&answer);
        }
    }
    for id in &shown {
        wait_found(&b, "pelican", id);
    }
    for node in [&a, &b] {
        for args in [&["search", "pelican"][..], &["video", "list"], &["friend", "list"], &["status"]] {
            let output = kith(node, args);
            output.expect_code(&[0]);
            assert_plain(&output);
        }
    }
    assert!(kith(&b, &["search", "pelican"]).out().contains("Pelican plain"));
    for id in &shown {
        assert_plain(&kith(&a, &["video", "show", id]));
        assert_plain(&kith(&b, &["get", id]));
    }
    let echo = kith(&a, &["friend", "show", "\u{1b}[2Jnobody\u{202e}"]);
    echo.expect_refusal(&[2, 4]);
    assert_plain(&echo);
    // A file or folder on the way can have any name, too.
    let odd = a.scratch("odd\u{1b}[2J.mp4");
    let refused = kith(&a, &["publish", odd.to_str().unwrap()]);
    refused.expect_refusal(&[1, 2, 4]);
    assert_plain(&refused);
}

#[test]
fn without_a_terminal_there_are_no_colours_and_no_bars() {
    let node = Node::start("Ana");
    let (path, _) = random_file(&node, "one.bin", 3 << 20);
    let published = kith(&node, &["publish", path.to_str().unwrap(), "--title", "Egret", "--any-file"]);
    published.expect_code(&[0]);
    assert_plain(&published);
    let mut plain = command(&node.home, &["status"]);
    plain.env("NO_COLOR", "1").env("CLICOLOR_FORCE", "1").env("TERM", "xterm-256color");
    let status = Running::start(plain, b"").finish(SOON);
    status.expect_code(&[0]);
    assert_plain(&status);
    assert_plain(&kith(&node, &["search", "egret"]));
    assert_plain(&kith(&node, &["get", &"ef".repeat(32)]));
}
