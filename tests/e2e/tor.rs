//! Over a Tor network of the tests' own (`tornet.rs`): friends who do not even see each other's address.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::browser::Browser;
use crate::harness::*;
use crate::tornet::{Network, Place, Watch};

/// Tor builds circuits, publishes the service and looks for that of the friend.
const OVER_TOR: Duration = Duration::from_secs(90);

fn start(network: &Network, place: &Place, name: &str, listen: &str, more: &[&str]) -> Node {
    let file = network.file();
    let mut node = Node::stopped_in(&place.space.0, name, &[("KITH_TOR_NETWORK", file.to_str().unwrap())]);
    node.up(listen, &[&["--name", name], more].concat());
    node
}

fn tor(node: &Node) -> Value {
    json(node, &["net", "tor"])
}

#[track_caller]
fn wait_ready(node: &Node) {
    wait_until(OVER_TOR, &format!("{}: Tor is ready: {}", node.name, tor(node)), || {
        tor(node)["state"] == "ready"
    });
}

/// Adds by an invite and waits for the link, which goes through Tor.
#[track_caller]
fn befriend_over_tor(inviter: &Node, invited: &Node, more: &[&str]) -> Duration {
    let line = json(inviter, &[&["friend", "invite"], more].concat())["invite"].as_str().unwrap().to_owned();
    let begun = Instant::now();
    kith_with(invited, &["friend", "add", "-", "--json"], line.as_bytes()).json();
    wait_until(OVER_TOR, &format!("{} sees {}", invited.name, inviter.name), || {
        is_online(invited, &inviter.name)
    });
    let took = begun.elapsed();
    wait_until(SOON, "and is seen", || is_online(inviter, &invited.name));
    for (node, other) in [(inviter, invited), (invited, inviter)] {
        assert_eq!(friend(node, &other.name).unwrap()["through_tor"], true);
    }
    took
}

/// Nothing but connections to relays was seen, and no socket is open to anybody else; at least so many are to them.
#[track_caller]
fn assert_only_tor(watch: &Watch, place: &Place, node: &Node, least: usize) {
    let (other, relays) = watch.seen();
    assert!(other.is_empty(), "{} left Tor: {other:#?}", node.name);
    assert!(relays > 100, "the capture saw only {relays} packets");
    let sockets = place.sockets(node.pid());
    let to_relays = |line: &String| {
        let peer = line.split(' ').nth(5).unwrap_or_default();
        line.starts_with("tcp") && peer.starts_with("10.") && peer.ends_with(":5000")
    };
    assert!(sockets.iter().all(to_relays), "{}: {sockets:#?}", node.name);
    assert!(sockets.len() >= least, "the sockets of {} are not seen", node.name);
}

/// The bytes behind an address that `watch` printed, read where the node is.
fn read_in(place: &Place, url: &str) -> Vec<u8> {
    let out =
        place.space.command("curl").args(["-sS", "-m", "60", url]).stdin(Stdio::null()).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

/// Invite, publish, search, fetch and watch, with nothing else than Tor: no packet and no socket beside it, also
/// while Tor is away and when it comes back.
#[test]
fn with_nothing_but_tor_nothing_else_leaves() {
    let Some(mut network) = Network::start() else { return };
    if !has_program("curl", "curl") {
        return;
    }
    let places = [network.place(), network.place(), network.place()];
    let [at_a, at_b, at_c] = &places;
    let (Some(watch_a), Some(watch_b)) = (network.watch(at_a), network.watch(at_b)) else { return };
    let only = ["--tor", "only"];
    let mut a = start(&network, at_a, "Ana", "", &only);
    let b = start(&network, at_b, "Bo", "", &only);
    assert_eq!(a.ready["listen"], Value::Array(Vec::new()));
    let onion = a.ready["onion"].as_str().unwrap().to_owned();
    assert!(onion.ends_with(".onion:5483"), "{onion}");
    [&a, &b].into_iter().for_each(wait_ready);
    assert_eq!(json(&a, &["id"])["addresses"], serde_json::json!([onion]));
    let took = befriend_over_tor(&a, &b, &[]);
    eprintln!("a link over Tor after {took:?}");

    let (path, bytes) = random_file(&a, "film.bin", 3_000_000);
    let id = id_of(&publish(&a, &path, "Kestrel", "friends"));
    wait_found(&b, "kestrel", &id);
    let url = kith(&b, &["watch", &id, "--player", "print"]).out();
    let read = read_in(at_b, url.trim());
    assert!(read == bytes, "what was watched is not what was published: {} bytes", read.len());
    let fetched = json(&b, &["get", &id]);
    assert_eq!(fetched["bytes"], bytes.len());

    // Who says where it is is turned away, and by an invite without that is a friend.
    let c = start(&network, at_c, "Cleo", &format!("{}:0", at_c.address), &["--tor", "on"]);
    let telling = invite(&c);
    let refused = kith_with(&a, &["friend", "add", "-"], telling.as_bytes());
    assert!(refused.expect_refusal(&[5]).err().contains("--tor"), "{}", refused.err());
    let telling = json(&c, &["id"])["certificate"].as_str().unwrap().to_owned();
    kith_with(&a, &["friend", "add", "-"], telling.as_bytes()).expect_refusal(&[5]);
    wait_ready(&c);
    befriend_over_tor(&c, &a, &["--tor"]);
    let shown = json(&a, &["friend", "show", "Cleo"]);
    assert!(
        shown["addresses"].as_array().unwrap().iter().all(|addr| addr.as_str().unwrap().contains(".onion:"))
    );
    assert_eq!(json(&c, &["friend", "show", "Ana"])["tor"], "only");

    // Tor goes away while something is fetched: it waits, says why, and goes on where it was.
    let (path, bytes) = random_file(&a, "long.bin", 24_000_000);
    let id = id_of(&publish(&a, &path, "Merlin", "friends"));
    wait_found(&b, "merlin", &id);
    let out = b.scratch("merlin.bin");
    let mut fetch = Running::start(command(&b.home, &["get", &id, "-o", out.to_str().unwrap()]), b"");
    let begun = Instant::now();
    let before = on_disk(&b.home.join("store"));
    wait_until(OVER_TOR, "some of it is here", || on_disk(&b.home.join("store")) > before + 2_000_000);
    // Directories of the network came and went meanwhile, and what is published stays so.
    wait_until(OVER_TOR, "the service is published", || tor(&b)["service"] != "starting");
    // All but the authorities.
    network.kill_relays(3);
    wait_until(Duration::from_secs(150), "the link is gone", || !is_online(&b, "Ana"));
    assert!(fetch.is_running(), "the fetch waits");
    network.start_relays();
    let back = Instant::now();
    wait_until(Duration::from_secs(150), "the link is back", || is_online(&b, "Ana"));
    eprintln!("the link is back {:?} after Tor was", back.elapsed());
    fetch.finish(Duration::from_secs(120)).expect_code(&[0]);
    assert_same(&out, &bytes);
    eprintln!("24 MB with Tor killed in between: {:?}", begun.elapsed());

    // What would show where this node is is refused.
    assert!(a.terminate().success());
    for wrong in [["--listen", "0.0.0.0:0"], ["--advertise", "192.0.2.1:5483"]] {
        let args = ["up", "--tor", "only", wrong[0], wrong[1]];
        let refused = kith(&a, &args);
        assert!(refused.expect_refusal(&[2]).err().contains("nothing but Tor"), "{}", refused.err());
    }
    a.up("", &only);
    assert_eq!(a.ready["onion"], onion.as_str(), "the address stays");
    wait_until(OVER_TOR, "the friend calls again", || is_online(&a, "Bo"));
    assert_only_tor(&watch_a, at_a, &a, 1);
    assert_only_tor(&watch_b, at_b, &b, 1);
}

/// Bytes that the files below a folder take on the disk.
fn on_disk(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(about) if about.is_dir() => on_disk(&entry.path()),
            Ok(about) => about.blocks() * 512,
            // It went meanwhile.
            Err(_) => 0,
        })
        .sum()
}

/// Beside TCP: Tor is what is left when nothing else answers, and all there is for a friend marked so.
#[test]
fn beside_tcp_tor_is_what_is_left() {
    let Some(mut network) = Network::start() else { return };
    let places = [(); 5].map(|()| network.place());
    let [at_a, at_b, at_c, at_d, at_e] = &places;
    let mut other = network.other_tor(at_c);
    let on = ["--tor", "on"];
    let mut a = start(&network, at_a, "Ana", &format!("{}:5483", at_a.address), &on);
    let mut b = start(&network, at_b, "Bo", &format!("{}:5483", at_b.address), &on);
    befriend(&a, &b);
    assert_eq!(friend(&b, "Ana").unwrap()["through_tor"], false, "the quicker way comes first");
    [&a, &b].into_iter().for_each(wait_ready);
    let known = json(&b, &["friend", "show", "Ana"])["addresses"].as_array().unwrap().len();
    assert_eq!(known, 2, "both addresses are told");

    // Nobody listens there any more: Tor is left.
    for node in [&mut a, &mut b] {
        assert!(node.terminate().success());
        node.up("", &["--tor", "on", "--set", "listen="]);
    }
    wait_until(OVER_TOR, "the link goes through Tor", || {
        friend(&b, "Ana").is_some_and(|row| row["through_tor"] == true)
    });

    // Both listen again, and Bo is to be reached through Tor alone: Ana's address is not told any more.
    for (node, place) in [(&mut a, at_a), (&mut b, at_b)] {
        assert!(node.terminate().success());
        node.up(&format!("{}:5483", place.address), &on);
    }
    wait_until(OVER_TOR, "there is a link", || is_online(&a, "Bo"));
    let marked = json(&a, &["friend", "tor", "Bo", "only"]);
    assert_eq!(marked["tor"], "only");
    wait_until(OVER_TOR, "through Tor", || friend(&a, "Bo").is_some_and(|row| row["through_tor"] == true));
    wait_until(SOON, "Bo forgets where Ana is", || {
        let known = json(&b, &["friend", "show", "Ana"])["addresses"].clone();
        known.as_array().unwrap().iter().all(|addr| addr.as_str().unwrap().contains(".onion:"))
    });
    never_within(Duration::from_secs(3), "a direct link", || {
        friend(&a, "Bo").is_some_and(|row| row["through_tor"] == false)
    });
    assert!(a.terminate().success());
    a.up(&format!("{}:5483", at_a.address), &on);
    // Both build circuits anew, and one of them publishes its service.
    wait_until(OVER_TOR, "still through Tor", || {
        friend(&a, "Bo").is_some_and(|row| row["through_tor"] == true)
    });
    json(&a, &["friend", "tor", "Bo", "auto"]);
    wait_until(OVER_TOR, "Bo knows where Ana is again", || {
        json(&b, &["friend", "show", "Ana"])["addresses"].as_array().unwrap().len() == 2
    });

    // Another program's Tor: calls go through its proxy, and what it forwards comes in.
    let onion = format!("tor.onion={}", other.onion().unwrap());
    let proxy = ["--tor", "only", "--set", "tor.socks=127.0.0.1:9050", "--set", &onion];
    let c = start(&network, at_c, "Cleo", "", &proxy);
    wait_ready(&c);
    assert_eq!(c.ready["onion"], other.onion().unwrap().as_str());
    befriend_over_tor(&a, &c, &["--tor"]);
    befriend_over_tor(&c, &b, &[]);
    let (path, bytes) = random_file(&a, "long.bin", 16_000_000);
    let id = id_of(&publish(&a, &path, "Hobby", "friends"));
    wait_found(&c, "hobby", &id);
    let out = c.scratch("hobby.bin");
    let before = on_disk(&c.home.join("store"));
    let mut fetch = Running::start(command(&c.home, &["get", &id, "-o", out.to_str().unwrap()]), b"");
    wait_until(OVER_TOR, "some of it is here", || on_disk(&c.home.join("store")) > before + 2_000_000);
    other.kill();
    wait_until(SOON, "it is told", || tor(&c)["state"] == "failed");
    assert!(fetch.is_running() && !is_online(&c, "Ana"));
    other.start();
    wait_ready(&c);
    // It builds circuits and publishes the service anew first.
    fetch.finish(OVER_TOR).expect_code(&[0]);
    assert_same(&out, &bytes);

    // Through a bridge, and through nothing else.
    let (line, place) = network.bridge(0);
    let bridges = format!("tor.bridges={line}");
    let Some(watch) = network.watch(at_d) else { return };
    let d = start(&network, at_d, "Dora", "", &["--tor", "only", "--set", &bridges]);
    wait_ready(&d);
    assert_eq!(tor(&d)["bridges"], 1);
    befriend_over_tor(&c, &d, &[]);
    assert_only_tor(&watch, at_d, &d, 1);
    let sockets = at_d.sockets(d.pid());
    assert!(sockets.iter().all(|socket| socket.split(' ').nth(5) == Some(place.as_str())), "{sockets:#?}");
    // Through one that looks like nothing known, for which another program speaks.
    let Some((line, transport, place)) = network.disguised_bridge() else { return };
    let sets = [format!("tor.bridges={line}"), format!("tor.transports={transport}")];
    let Some(watch) = network.watch(at_e) else { return };
    let mut e = start(&network, at_e, "Eli", "", &["--tor", "only", "--set", &sets[0], "--set", &sets[1]]);
    wait_ready(&e);
    befriend_over_tor(&d, &e, &[]);
    assert_only_tor(&watch, at_e, &e, 0);
    assert_eq!(watch.elsewhere(&place), [""; 0]);
    let speaks = || at_e.processes().iter().filter(|name| *name == "obfs4proxy").count();
    assert_eq!(speaks(), 1, "{:?}", at_e.processes());
    assert!(e.terminate().success());
    wait_until(SOON, "it ends with the node", || speaks() == 0);

    // Bridges are for the client inside.
    let both = ["up", "--tor", "only", "--set", "tor.socks=127.0.0.1:9050", "--set", &bridges];
    let refused = Node::stopped("Flo", &[]);
    kith(&refused, &both).expect_refusal(&[2]);
}

/// A bridge that nothing here can speak to is refused at once.
#[test]
fn bridges_need_their_programs() {
    let node = Node::stopped("Ana", &[]);
    let bridge = "tor.bridges=obfs4 192.0.2.3:443 ABCDEF0123456789ABCDEF0123456789ABCDEF01 cert=x iat-mode=0";
    let up = |sets: &[&str]| {
        let refused = kith(&node, &[&["up", "--tor", "only"], sets].concat());
        refused.expect_refusal(&[2]).err().to_owned()
    };
    let lacks = up(&["--set", bridge]);
    assert!(lacks.contains("bridge 1 needs a program for the transport obfs4"), "{lacks}");
    let other = up(&["--set", bridge, "--set", "tor.transports=snowflake=/bin/true"]);
    assert!(other.contains("tor.transports, such as obfs4="), "{other}");
    let gone = up(&["--set", bridge, "--set", "tor.transports=obfs4+meek=/nowhere/lyrebird"]);
    assert!(gone.contains("there is no program /nowhere/lyrebird for obfs4 and meek"), "{gone}");
}

/// A Tor that is not there: its proxy, and an onion service that it would keep.
const NO_TOR: [&str; 6] = [
    "--set",
    "tor.socks=127.0.0.1:9",
    "--set",
    "tor.onion=2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion:5483",
    "--set",
    "tor.listen=127.0.0.1:0",
];

/// A node that used nothing but Tor does so until somebody says otherwise.
#[test]
fn nothing_but_tor_is_not_left_by_accident() {
    let mut node = Node::stopped("Ana", &[]);
    node.up("", &[&["--tor", "only"][..], &NO_TOR].concat());
    assert!(kith(&node, &["status"]).out().contains("nothing but Tor is used: "));
    assert!(node.terminate().success());
    for forgotten in [&["up"][..], &["up", "--web", "127.0.0.1:0"]] {
        let refused = kith(&node, forgotten);
        assert!(
            refused.expect_refusal(&[2]).err().contains("started with nothing but Tor"),
            "{}",
            refused.err()
        );
    }
    // The file says it for good, and then takes nothing that would show where the node is.
    kith(&node, &["config", "set", "tor.mode", "only"]).expect_code(&[0]);
    for (key, value) in
        [("advertise", "192.0.2.1:5483"), ("listen", "0.0.0.0:5483"), ("tor.socks", "192.0.2.1:9050")]
    {
        let refused = kith(&node, &["config", "set", key, value]);
        assert!(refused.expect_refusal(&[2]).err().contains("nothing but Tor"), "{}", refused.err());
        assert!(!json(&node, &["config", "get", key])["value"].to_string().contains("192.0.2.1"));
    }
    node.up("", &NO_TOR);
    assert_eq!(json(&node, &["net", "tor"])["mode"], "only");
    kith(&node, &["config", "set", "advertise", "192.0.2.1:5483"]).expect_refusal(&[2]);
    let leak = serde_json::json!({ "advertise": "192.0.2.1:5483" });
    let refused = api(&node, "PATCH", "/api/config", Some(&leak));
    assert!(refused["detail"].as_str().unwrap().contains("nothing but Tor"), "{refused}");
    assert!(node.terminate().success());
    // Said is said; after that nothing needs to be.
    node.up("127.0.0.1:0", &["--tor", "off"]);
    assert!(node.log().contains("friends learn this machine's address"), "{}", node.log());
    assert!(node.terminate().success());
    kith(&node, &["config", "set", "tor.mode", "off"]).expect_code(&[0]);
    node.up("127.0.0.1:0", &[]);
    assert!(node.terminate().success());
    let far = kith(&node, &["up", "--tor", "only", "--set", "tor.socks=192.0.2.1:9050"]);
    assert!(far.expect_refusal(&[2]).err().contains("on this machine"), "{}", far.err());
}

/// Who adds a second invite through Tor alone is not led to the same friend by the first.
#[test]
fn an_invite_through_tor_alone_holds_for_older_ones_of_the_same_friend() {
    let on = [&["--tor", "on"][..], &NO_TOR].concat();
    let start = |name: &str| {
        let mut node = Node::stopped(name, &[]);
        node.up("127.0.0.1:0", &[&["--name", name], &on[..]].concat());
        node
    };
    let (a, mut b) = (start("Ana"), start("Bo"));
    let direct = invite(&b);
    let hidden = json(&b, &["friend", "invite", "--tor"])["invite"].as_str().unwrap().to_owned();
    let listen = b.listen();
    assert!(b.terminate().success());
    let add = |args: &[&str], line: &str| {
        let added = kith_with(&a, &[&["friend", "add", "-", "--json"], args].concat(), line.as_bytes());
        assert_eq!(added.json()["state"], "pending");
    };
    add(&[], &direct);
    add(&["--tor"], &hidden);
    b.up(&listen, &on);
    never_within(Duration::from_secs(5), "the older invite is used", || is_online(&b, "Ana"));
}

/// A proxy that is not there is told, and nothing takes its place.
#[test]
fn without_its_proxy_tor_failed_and_nothing_takes_its_place() {
    let mut node = Node::stopped("Ana", &[]);
    node.up("", &["--name", "Ana", "--tor", "only", "--set", "tor.socks=127.0.0.1:9"]);
    wait_until(SOON, "it failed", || tor(&node)["state"] == "failed");
    assert_eq!(tor(&node)["onion"], Value::Null);
    assert!(kith(&node, &["status"]).out().contains("Tor failed: the proxy at 127.0.0.1:9"));
    let other = Node::start("Bo");
    let line = invite(&other);
    kith_with(&node, &["friend", "add", "-"], line.as_bytes()).expect_refusal(&[5]);
    let doctor = kith(&node, &["doctor"]);
    assert!(doctor.out().contains("start Tor there"), "{}", doctor.out());
    // No way to be reached: nothing to invite with.
    kith(&node, &["friend", "invite", "--tor"]).expect_refusal(&[2]);
    kith(&other, &["friend", "invite", "--tor"]).expect_refusal(&[2]);
    kith(&other, &["id", "--tor"]).expect_refusal(&[2]);
    if let Some(browser) = Browser::of(&node) {
        browser.go("/network");
        browser.wait_text("Tor failed: the proxy at 127.0.0.1:9");
        browser.wait_text("not where you are");
        browser.wait_js("the mode", "document.querySelector('#tor_mode select').value === 'only'");
        browser.picture("tor-failed");
        let complaints = browser.complaints();
        assert!(complaints.is_empty(), "{complaints:?}");
    }
    let listens = Command::new("ss").args(["-Hlntup"]).output();
    if let Ok(listens) = listens {
        let shown = String::from_utf8_lossy(&listens.stdout).into_owned();
        let own = format!("pid={},", node.pid());
        let outside = shown.lines().filter(|l| l.contains(&own) && !l.contains("127.0.0.1:")).count();
        assert_eq!(outside, 0, "{shown}");
    }
}

/// A Tor that finds nobody says how far it is and what it waits for, and nothing takes its place.
#[test]
fn a_tor_that_starts_says_what_it_waits_for() {
    // Authorities where nobody listens.
    let ident = "A".repeat(40);
    let folder = tempfile::tempdir().unwrap();
    let network = folder.path().join("network.toml");
    let text = format!(
        "[tor_network]\nfallback_caches = [{{ rsa_identity = \"{ident}\", ed_identity = \"{}\", orports = [\"127.0.0.1:9\"] }}]\n\
         [tor_network.authorities]\nv3idents = [\"{ident}\"]\n",
        "A".repeat(43)
    );
    fs::write(&network, text).unwrap();
    let file = network.to_str().unwrap();
    let mut node = Node::stopped("Bo", &[("KITH_TOR_NETWORK", file)]);
    node.up("", &["--tor", "only"]);
    let told = tor(&node);
    assert_eq!((&told["mode"], &told["state"]), (&"only".into(), &"starting".into()), "{told}");
    assert!(told["percent"].as_u64().unwrap() < 100 && !told["why"].as_str().unwrap().is_empty(), "{told}");
    assert!(kith(&node, &["net", "tor"]).out().contains("%"), "people see it, too");
}
