//! Odd sources and targets: what `publish` reads and where `get` writes. A title is only a title.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::harness::*;

fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn odd_sources_are_published_exactly_or_refused_plainly() {
    let node = Node::start("Ana");
    for len in [0, 1, 65_535, 65_536, 65_537] {
        let (path, bytes) = random_file(&node, "odd.bin", len);
        let args = ["publish", path.to_str().unwrap(), "--title", "Odd", "--any-file", "--json"];
        let answer = kith(&node, &args);
        if len == 0 && answer.code != 0 {
            answer.expect_refusal(&[1, 2, 10]);
            continue;
        }
        let id = id_of(&answer.json());
        let out = node.scratch(&format!("out-{len}.bin"));
        kith(&node, &["get", &id, "-o", out.to_str().unwrap()]).expect_code(&[0]);
        assert_same(&out, &bytes);
    }

    let pipe = node.scratch("pipe");
    fifo(&pipe);
    for source in [pipe.as_path(), Path::new("/dev/zero"), &node.home, &node.scratch("absent.mp4")] {
        let args = ["publish", source.to_str().unwrap(), "--title", "Odd", "--any-file"];
        kith(&node, &args).expect_refusal(&[1, 2, 4, 10]);
    }
    let huge = node.scratch("sparse.bin");
    fs::File::create(&huge).unwrap().set_len(5 << 40).unwrap();
    let args = ["publish", huge.to_str().unwrap(), "--title", "Odd", "--any-file"];
    kith(&node, &args).expect_refusal(&[1, 2, 9, 10]);
}

#[test]
fn a_title_never_becomes_a_path_and_a_target_is_never_followed() {
    let node = Node::start("Ana");
    let (path, bytes) = random_file(&node, "one.bin", 100_000);
    let file = path.to_str().unwrap();
    for title in ["../../.ssh/authorized_keys", "/etc/kith-title", "CON", "trailing.", &"x".repeat(90)] {
        let answer = kith(&node, &["publish", file, "--title", title, "--any-file", "--json"]).json();
        assert_eq!(json(&node, &["get", &id_of(&answer)])["path"], serde_json::Value::Null);
    }
    let long = "x".repeat(4_000);
    kith(&node, &["publish", file, "--title", &long, "--any-file"]).expect_refusal(&[2]);
    assert!(!node.home.join(".ssh").exists() && !node.scratch(".ssh").exists());

    let id = id_of(&publish(&node, &path, "Plain", "friends"));
    let get = |target: &Path| kith(&node, &["get", &id, "-o", target.to_str().unwrap()]);
    let (victim, link, pipe) = (node.scratch("victim"), node.scratch("link"), node.scratch("pipe"));
    fs::write(&victim, "precious").unwrap();
    symlink(&victim, &link).unwrap();
    fifo(&pipe);
    let dangling = node.scratch("dangling");
    symlink(node.scratch("not-made"), &dangling).unwrap();
    for target in [&link, &dangling, &pipe, &node.home, &node.scratch("no/such/folder.bin")] {
        get(target).expect_refusal(&[1, 2, 4, 5]);
    }
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    assert!(!node.scratch("not-made").exists());
    let good = node.scratch("good.bin");
    get(&good).expect_code(&[0]);
    assert_same(&good, &bytes);
}
