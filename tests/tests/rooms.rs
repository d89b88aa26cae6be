//! The pure rooms know no sockets, files, clocks or databases: not even by way of a dependency.

use std::process::Command;

const BANNED: [&str; 6] = ["tokio", "mio", "socket2", "axum", "sled", "kith-store"];

#[test]
fn pure_rooms_depend_on_nothing_that_touches_the_world() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let arguments = ["tree", "--offline", "-p", "kith-crypto", "-p", "kith-onion", "-e", "normal"];
    let output = Command::new(cargo)
        .args(arguments)
        .args(["--prefix", "none", "--format", "{p}"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    let names: Vec<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.contains(&"snow") && names.contains(&"kith-onion"), "the tree was read: {tree}");
    for name in BANNED {
        assert!(!names.contains(&name), "{name} is in a pure room");
    }
}
