//! Real players on streams that are still arriving over slow links: mpv and Chromium play them, seek in
//! them, and play on when the publisher dies.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::*;
use crate::players::chromium::Chromium;
use crate::players::mpv::{Mpv, Stalled};
use crate::wan::{Path as Link, Wan};

/// How long a picture may take: players, nodes and links share two cores with other tests.
const PICTURE: Duration = Duration::from_secs(30);
/// mpv begins with next to nothing ahead, and may stop once more for that: so much, and after that this
/// share of the time that it plays.
const FIRST_STOP: Duration = Duration::from_millis(1_200);
const STALLED: f64 = 0.05;
const SECONDS: u32 = 40;
/// 70 percent of the path: 1.4 of 2 megabits.
const KILOBITS: u32 = 1_300;

fn path(megabits: f64) -> Link {
    Link::new(10, megabits)
}

/// `kith watch --player mpv`, with an mpv that shows nothing and can be watched.
fn watch_with_mpv(node: &Node, id: &str, more: &[&str]) -> (Running, Mpv) {
    let folder = node.scratch("mpv");
    let socket = Mpv::config(&folder);
    let mut command = command(&node.home, &[&["watch", id, "--player", "mpv"], more].concat());
    command.env("MPV_HOME", &folder);
    let running = Running::start(command, b"");
    (running, Mpv::connect(&socket, PICTURE))
}

fn stream_of(node: &Node, id: &str, route: &str) -> String {
    let printed = kith(node, &["watch", id, "--player", "print", "--route", route]);
    printed.expect_code(&[0]);
    printed.out().trim().to_owned()
}

fn have_bytes(node: &Node) -> (u64, u64) {
    let streams: Value = request(node, "GET", "/api/streams");
    let of = |name: &str| streams[0][name].as_u64().unwrap_or(0);
    (of("have_bytes"), of("total_bytes"))
}

#[track_caller]
fn is_smooth(stalled: Stalled, played: Duration) {
    let allowed = FIRST_STOP + played.mul_f64(STALLED);
    assert!(stalled.total < allowed, "{stalled:?} in {played:?}");
}

#[test]
fn mpv_plays_seeks_and_plays_on_when_the_publisher_dies() {
    let _alone = without_tor_networks();
    if !has_program("mpv", "mpv") {
        return;
    }
    let Some(clip) = paced_video(SECONDS, KILOBITS) else { return };
    // Cleo knows Bo and Dia, who both know Ana. Dia has the video already.
    let [mut a, b, c, d] = ["Ana", "Bo", "Cleo", "Dia"].map(|name| Wan::around(name, path(2.0), &[], &[]).1);
    for (one, other) in [(&a, &b), (&b, &c), (&a, &d), (&d, &c)] {
        befriend(one, other);
    }
    let id = id_of(&publish(&a, &clip.path, "Bittern", "fof"));
    wait_found(&c, "bittern", &id);
    wait_found(&d, "bittern", &id);
    json(&d, &["get", &id]);

    let (watching, mpv) = watch_with_mpv(&c, &id, &[]);
    assert!(mpv.first_picture(PICTURE).is_some(), "a picture is shown");
    let begun = Instant::now();
    assert!(mpv.wait_position_beyond(4.0, PICTURE).is_some(), "the position advances");
    let (have, total) = have_bytes(&c);
    assert!(have < total, "it plays while it downloads: {have} of {total}");
    is_smooth(mpv.stalled(begun), begun.elapsed());

    // Far behind what has come.
    let sought = mpv.seek(f64::from(SECONDS) - 12.0);
    assert!(mpv.landed(sought, PICTURE).is_some(), "the seek lands");
    a.kill9();
    let begun = Instant::now();
    assert_eq!(mpv.end(Duration::from_secs(60)).as_deref(), Some("eof"), "it plays to the end");
    is_smooth(mpv.stalled(begun), begun.elapsed().max(Duration::from_secs(10)));
    watching.finish(SOON).expect_code(&[0]);
    // The address has died with its player.
    assert_eq!(request(&c, "GET", "/api/streams"), serde_json::json!([]));
}

#[test]
fn a_player_begins_where_it_is_told() {
    if !has_program("mpv", "mpv") {
        return;
    }
    let Some(clip) = paced_video(SECONDS, KILOBITS) else { return };
    let [a, c] = ["Ana", "Cleo"].map(|name| Wan::around(name, path(4.0), &[], &[]).1);
    befriend(&a, &c);
    let id = id_of(&publish(&a, &clip.path, "Bittern", "friends"));
    wait_found(&c, "bittern", &id);
    let (mut watching, mpv) = watch_with_mpv(&c, &id, &["--from", "0:30"]);
    assert!(mpv.first_picture(PICTURE).is_some());
    let at = mpv.position().expect("mpv knows where it is");
    assert!((29.0..33.0).contains(&at), "{at}");
    watching.kill();
    // Who is gone takes the address along, and the fetch.
    wait_until(SOON, "the address dies with its player", || {
        request(&c, "GET", "/api/streams") == serde_json::json!([]) && json(&c, &["status"])["fetches"] == 0
    });
}

/// Three relays and a browser.
#[test]
fn chromium_plays_and_seeks_through_three_relays() {
    let _alone = without_tor_networks();
    if !has_program("chromedriver", "chromium-driver") || !has_program("chromium", "chromium") {
        return;
    }
    let Some(clip) = paced_video(SECONDS, KILOBITS) else { return };
    let env = [("KITH_PRIVACY", ""), ("KITH_CIRCUIT_PACE", "1s"), ("KITH_CIRCUIT_SNAPSHOT", "500ms")];
    let nodes = ["Cleo", "Gus", "Lea", "Rob", "Ana"].map(|name| Wan::around(name, path(4.0), &env, &[]).1);
    nodes.windows(2).for_each(|pair| befriend(&pair[0], &pair[1]));
    let [c, _, _, r, a] = &nodes;
    let published = publish(a, &clip.path, "Bittern", "fof");
    let (id, link) = (id_of(&published), published["link"].as_str().expect("a link"));
    wait_found(r, "bittern", &id);
    let ready = || {
        let report = json(c, &["net", "circuits"]);
        let own = report["own"].as_array().expect("a list").clone();
        own.iter().any(|c| c["state"] == "ready" && c["relays"].as_u64() >= Some(3))
    };
    wait_until(Duration::from_secs(60), "a circuit stands", ready);
    let chromium = Chromium::start().expect("chromium and its driver are there");
    let url = stream_of(c, link, "onion");
    chromium.open(&url);
    wait_until(PICTURE, "the browser shows a player", || chromium.video_state().is_some());
    chromium.play();
    let begun = Instant::now();
    let shown = chromium.first_picture(PICTURE);
    assert!(shown.is_some(), "a picture is shown: {:?} {:?}", chromium.video_state(), chromium.console());
    assert!(chromium.wait_time_beyond(3.0, PICTURE), "it plays: {:?}", chromium.video_state());
    let (have, total) = have_bytes(c);
    assert!(have < total, "it plays while it downloads: {have} of {total}");
    is_smooth(chromium.stalled(begun + Duration::from_secs(2)), Duration::from_secs(10));
    let sought = chromium.seek(f64::from(SECONDS) - 10.0);
    assert!(chromium.landed(sought, PICTURE).is_some(), "the seek lands: {:?}", chromium.video_state());
    assert!(chromium.wait_time_beyond(f64::from(SECONDS) - 8.0, PICTURE), "{:?}", chromium.video_state());
}

/// What opens a browser gets an address that works once, and VLC a list that only its user can read.
#[test]
fn other_players_get_the_address_where_nobody_else_sees_it() {
    let Some(clip) = sample_video(2) else { return };
    let a = Node::start("Ana");
    let id = id_of(&publish(&a, &clip.path, "Bittern", "friends"));
    let bin = a.scratch("bin");
    std::fs::create_dir(&bin).unwrap();
    let seen = a.scratch("seen");
    let fake = |name: &str, script: String| {
        use std::os::unix::fs::PermissionsExt;
        let path = bin.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    };
    let shown = seen.display();
    fake("vlc", format!("stat -c %a \"$3\" >{shown}; cat \"$3\" >>{shown}; echo \"$*\" >>{shown}"));
    fake("xdg-open", format!("echo \"$1\" >{shown}.part; mv {shown}.part {shown}"));
    let watch = |player: &str| {
        let mut command = command(&a.home, &["watch", &id, "--player", player, "--from", "1"]);
        command.env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
        Running::start(command, b"")
    };
    watch("vlc").finish(SOON).expect_code(&[0]);
    let text = std::fs::read_to_string(&seen).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines[0], lines[1], lines[2]), ("600", "#EXTM3U", "#EXTVLCOPT:start-time=1"), "{text}");
    assert!(lines[3].starts_with("http://127.0.0.1:") && !lines[4].contains("media"), "{text}");

    std::fs::remove_file(&seen).unwrap();
    let mut watching = watch("browser");
    wait_until(SOON, "the browser is told an address", || seen.exists());
    let url = std::fs::read_to_string(&seen).unwrap();
    let web = a.web();
    let path = url.trim().strip_prefix(&format!("http://{web}")).expect("the node's listener");
    let path = path.strip_suffix("#t=1").expect("the time is in the address");
    let head = crate::watch::send(&web, "HEAD", path, &[("Host", &web)]);
    assert_eq!(head.status, 405, "looking at it does not use it up");
    let first = crate::watch::get(&web, path, &[]);
    assert_eq!(first.status, 303);
    let media = first.header("location").to_owned();
    assert!(media.starts_with("/media/"), "{media}");
    assert_eq!(crate::watch::get(&web, path, &[]).status, 404, "it works once");
    assert!(crate::watch::get(&web, &media, &[]).body == clip.bytes);
    assert!(watching.is_running(), "the browser plays on");
    watching.kill();
    wait_until(SOON, "the address dies", || crate::watch::get(&web, &media, &[]).status == 404);
}

#[test]
fn get_writes_into_a_pipe_while_the_rest_arrives() {
    use std::io::Read;
    let Some(clip) = paced_video(SECONDS, KILOBITS) else { return };
    let [a, c] = ["Ana", "Cleo"].map(|name| Wan::around(name, path(4.0), &[], &[]).1);
    befriend(&a, &c);
    let id = id_of(&publish(&a, &clip.path, "Bittern", "friends"));
    wait_found(&c, "bittern", &id);
    let mut get = command(&c.home, &["get", &id, "-o", "-"]);
    let mut get = get.stdout(std::process::Stdio::piped()).spawn().expect("it starts");
    let mut out = get.stdout.take().expect("it is piped");
    let mut bytes = vec![0; 1000];
    out.read_exact(&mut bytes).expect("the first bytes");
    assert_eq!(json(&c, &["status"])["fetches"], 1, "the rest is still coming");
    out.read_to_end(&mut bytes).expect("all of it");
    assert!(bytes == clip.bytes && get.wait().expect("it ends").success());
}

/// What ffmpeg makes says how long it is, wherever it says it; people see it in search.
#[test]
fn videos_say_how_long_they_are() {
    let Some(clip) = sample_video(3) else { return };
    let a = Node::start("Ana");
    let made = |name: &str, options: &[&str]| {
        let file = a.scratch(name);
        let mut ffmpeg = std::process::Command::new("ffmpeg");
        ffmpeg.args(["-nostdin", "-loglevel", "error", "-i"]).arg(&clip.path).args(options).arg(&file);
        assert!(ffmpeg.status().expect("ffmpeg starts").success(), "{name}");
        file
    };
    let fragments = ["-c", "copy", "-movflags", "+frag_keyframe+empty_moov"];
    for (name, options, seconds) in [
        ("quick.mp4", &["-c", "copy", "-movflags", "+faststart"][..], 3),
        ("late.mov", &["-c", "copy"], 3),
        ("some.mkv", &["-c", "copy"], 3),
        ("some.webm", &["-an", "-c:v", "libvpx", "-deadline", "realtime"], 3),
        ("fragments.mp4", &fragments, 0),
        ("transport.ts", &["-c", "copy"], 3),
    ] {
        let id = id_of(&publish(&a, &made(name, options), name, "friends"));
        let said = json(&a, &["video", "show", &id])["duration_s"].as_u64();
        // Sound may end a little after the picture.
        let fits = said.map_or(seconds == 0, |said| (seconds..=seconds + 1).contains(&said));
        assert!(fits, "{name}: {said:?}");
    }
}
