//! Stream addresses: one URL, every kind of range, and nothing else on that listener.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::*;

/// How soon an answer to a range must have come, first byte to last, on an object not yet fetched.
const FIRST: Duration = Duration::from_secs(5);

/// `kith watch ID --player print`, whether it stays or ends after printing.
struct Watch {
    child: Child,
    lines: Receiver<String>,
    url: String,
}

impl Watch {
    fn start(node: &Node, id: &str) -> Self {
        let mut command = command(&node.home, &["watch", id, "--player", "print"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        let url = lines.recv_timeout(SOON).expect("watch prints an address");
        assert!(url.starts_with("http://127.0.0.1:"), "{url}");
        Self { child, lines, url }
    }

    fn path(&self, web: &str) -> String {
        let path = self.url.strip_prefix(&format!("http://{web}")).expect("the node's own listener");
        path.to_owned()
    }

    fn prints_nothing_more(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        assert_eq!(self.lines.iter().collect::<Vec<_>>(), Vec::<String>::new());
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) struct Response {
    pub(crate) status: u16,
    head: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// All that comes until the connection ends.
    pub(crate) fn read(stream: &mut TcpStream) -> Self {
        let mut bytes = Vec::new();
        let outcome = stream.read_to_end(&mut bytes);
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no HTTP answer: {outcome:?}, {} bytes", bytes.len()));
        let text = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let mut lines = text.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let pairs = lines.filter_map(|line| line.split_once(": "));
        let head = pairs.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
        Self { status, head, body: bytes[end + 4..].to_vec() }
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.head.get(name).map_or("", String::as_str)
    }
}

/// One request on a connection of its own; headers as given, `Host` included.
pub(crate) fn send(web: &str, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    let mut stream = TcpStream::connect(web).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    // A server may answer and close before it has read an unreasonable request.
    let _ = stream.write_all(request.as_bytes());
    Response::read(&mut stream)
}

pub(crate) fn get(web: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    send(web, "GET", path, &[&[("Host", web)], headers].concat())
}

fn range(web: &str, path: &str, range: &str) -> Response {
    get(web, path, &[("Range", range)])
}

#[test]
fn an_address_answers_every_kind_of_range() {
    let Some(clip) = long_video(3, 300_000) else { return };
    let [a, b] = line_of::<2>();
    let id = id_of(&publish(&a, &clip.path, "Lapwing", "friends"));
    wait_found(&b, "lapwing", &id);
    let watch = Watch::start(&b, &id);
    let (web, bytes, len) = (b.web(), &clip.bytes, clip.bytes.len());
    let path = watch.path(&web);

    let whole = get(&web, &path, &[]);
    assert_eq!(whole.status, 200);
    assert!(whole.body == *bytes, "{} of {len} bytes", whole.body.len());
    assert_eq!(whole.header("content-length"), len.to_string());
    assert_eq!(whole.header("accept-ranges"), "bytes");
    assert_eq!(whole.header("content-type"), "video/mp4");
    assert_eq!(whole.header("x-content-type-options"), "nosniff");
    assert!(whole.header("content-security-policy").contains("sandbox"));
    assert!(!whole.head.contains_key("access-control-allow-origin"));
    let etag = whole.header("etag");
    assert!(etag.starts_with('"') && etag.ends_with('"') && etag.contains(&id), "{etag}");

    let last = len - 1;
    for (asked, from, to) in [
        ("bytes=0-0".to_owned(), 0, 0),
        ("bytes=0-99".to_owned(), 0, 99),
        ("bytes=65530-65541".to_owned(), 65_530, 65_541), // across two blocks
        ("bytes=65536-131071".to_owned(), 65_536, 131_071),
        (format!("bytes={}-", len - 10), len - 10, last),
        ("bytes=0-".to_owned(), 0, last),
        ("bytes=-1".to_owned(), last, last),
        ("bytes=-1000".to_owned(), len - 1_000, last),
        (format!("bytes=-{}", len * 2), 0, last),
        (format!("bytes={}-{}", len - 5, len + 5), len - 5, last), // end clamped
        ("bytes=7-18446744073709551615".to_owned(), 7, last),
    ] {
        let part = range(&web, &path, &asked);
        assert_eq!(part.status, 206, "{asked}");
        assert_eq!(part.header("content-range"), format!("bytes {from}-{to}/{len}"), "{asked}");
        assert_eq!(part.header("content-length"), (to - from + 1).to_string(), "{asked}");
        assert!(part.body == bytes[from..=to], "{asked}: other bytes");
    }
    for asked in [format!("bytes={len}-"), format!("bytes={}-{}", len + 1, len + 9), "bytes=-0".to_owned()] {
        let beyond = range(&web, &path, &asked);
        assert_eq!(beyond.status, 416, "{asked}");
        assert_eq!(beyond.header("content-range"), format!("bytes */{len}"), "{asked}");
    }
    // What is not a byte range is as if it was not there.
    for asked in ["bytes=9-1", "bytes=a-b", "lines=1-2", "bytes", "bytes=--1"] {
        assert_eq!(range(&web, &path, asked).status, 200, "{asked}");
    }

    let head = send(&web, "HEAD", &path, &[("Host", &web)]);
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), len.to_string());
    assert_eq!(head.header("etag"), etag);

    let part = [("Range", "bytes=5-9"), ("If-Range", etag)];
    assert_eq!(get(&web, &path, &part).status, 206, "the same version");
    let other = [("Range", "bytes=5-9"), ("If-Range", "\"another\"")];
    let changed = get(&web, &path, &other);
    assert_eq!((changed.status, changed.body.len()), (200, len), "another version is sent whole");

    let duration = ffprobe(&watch.url);
    assert!((duration - 3.0).abs() < 0.2, "{duration}");
    watch.prints_nothing_more();
}

#[test]
fn the_listener_serves_stream_addresses_only() {
    let Some(clip) = sample_video(2) else { return };
    let node = Node::start("Ana");
    let id = id_of(&publish(&node, &clip.path, "Dunlin", "friends"));
    let watch = Watch::start(&node, &id);
    let web = node.web();
    let path = watch.path(&web);
    assert_eq!(get(&web, &path, &[]).status, 200, "the address itself works");

    for host in ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "127.0.0.1:1", ""] {
        let status = send(&web, "GET", &path, &[("Host", host)]).status;
        assert!([400, 403, 404].contains(&status), "host {host:?} got {status}");
    }
    assert!([403, 404].contains(&send(&web, "GET", &path, &[("Host", "evil.example")]).status));
    let capability = path.rsplit('/').find(|part| part.len() >= 16).expect("a capability in the path");
    for guess in ["a".repeat(capability.len()), "A".into(), "..".into(), id, capability[1..].into()] {
        assert_eq!(get(&web, &path.replace(capability, &guess), &[]).status, 404, "guess {guess}");
    }
    for other in ["/", "/media/", "/api/status", "/index.html", "/../../etc/passwd", "/metrics"] {
        let answer = get(&web, other, &[]);
        assert!([403, 404].contains(&answer.status), "{other} got {}", answer.status);
        assert!(!String::from_utf8_lossy(&answer.body).contains("Dunlin"));
    }
    for method in ["POST", "PUT", "DELETE"] {
        let headers = [("Host", web.as_str()), ("Content-Length", "0")];
        let status = send(&web, method, &path, &headers).status;
        assert!([403, 404, 405].contains(&status), "{method} got {status}");
    }
}

#[test]
fn unreasonable_requests_cost_little_and_others_are_answered() {
    let Some(clip) = sample_video(2) else { return };
    let node = Node::start("Ana");
    let id = id_of(&publish(&node, &clip.path, "Sanderling", "friends"));
    let watch = Watch::start(&node, &id);
    let web = node.web();
    let path = watch.path(&web);

    // A request that never ends is dropped, and meanwhile others are served.
    let mut slow = TcpStream::connect(&web).unwrap();
    slow.write_all(format!("GET {path} HTTP/1.1\r\nHost: {web}\r\nX-Slow: ").as_bytes()).unwrap();
    let dropped = thread::spawn(move || {
        slow.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let outcome = slow.read_to_end(&mut Vec::new());
        !matches!(outcome, Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
    });

    let overlapping = vec!["0-"; 10_000].join(",");
    let status = range(&web, &path, &format!("bytes={overlapping}")).status;
    assert!([200, 206, 400, 416, 431].contains(&status), "10,000 overlapping ranges got {status}");
    let several = range(&web, &path, "bytes=0-9,20-29");
    assert!([200, 206].contains(&several.status));
    if several.status == 200 {
        assert!(several.body == clip.bytes);
    }

    let idle: Vec<_> = (0..200).filter_map(|_| TcpStream::connect(&web).ok()).collect();
    drop(idle);
    assert_eq!(range(&web, &path, "bytes=-1").status, 206, "still served");
    assert!(dropped.join().unwrap(), "a request without an end is dropped within 20 s");
    assert_eq!(range(&web, &path, "bytes=-1").status, 206, "still served");
}

#[test]
fn a_player_sees_the_beginning_and_the_end_before_the_whole_is_there() {
    let Some(clip) = long_video(3, 24 << 20) else { return };
    let [a, b, c] = line_of::<3>();
    let id = id_of(&publish(&a, &clip.path, "Whimbrel", "fof"));
    wait_found(&c, "whimbrel", &id);
    wait_found(&b, "whimbrel", &id);

    let begun = Instant::now();
    let watch = Watch::start(&c, &id);
    let path = watch.path(&c.web());
    let first = range(&c.web(), &path, "bytes=0-4095");
    let took = begun.elapsed();
    assert!(first.status == 206 && first.body == clip.bytes[..4_096]);
    assert!(took < FIRST, "the first range through a common friend took {took:?}");

    // A seek to the end is answered at once, not after everything before it.
    let begun = Instant::now();
    let watch_direct = Watch::start(&b, &id);
    let path = watch_direct.path(&b.web());
    let last = range(&b.web(), &path, "bytes=-1000");
    let took = begun.elapsed();
    assert!(last.status == 206 && last.body == clip.bytes[clip.bytes.len() - 1_000..]);
    assert!(took < FIRST, "the end took {took:?}");

    // Two readers of one file do not disturb each other, and the whole is right in the end.
    let (web, other) = (c.web(), watch.path(&c.web()));
    let reader = thread::spawn(move || get(&web, &other, &[]).body);
    assert!(range(&c.web(), &watch.path(&c.web()), "bytes=-1000").body == last.body);
    assert!(reader.join().unwrap() == clip.bytes);
    let duration = ffprobe(&watch.url);
    assert!((duration - 3.0).abs() < 0.2, "{duration}");
}

/// A player that was still reading once had a removed video fetched again, because a block that is
/// not here any more looked like one that was damaged.
#[test]
fn a_video_that_is_removed_while_it_is_watched_stays_removed() {
    let Some(clip) = long_video(3, 24 << 20) else { return };
    let [a, b] = line_of::<2>();
    let id = id_of(&publish(&a, &clip.path, "Whimbrel", "friends"));
    wait_found(&b, "whimbrel", &id);
    json(&b, &["get", &id]);
    let kept = || json(&b, &["video", "list", "--all"]).as_array().unwrap().len();
    assert_eq!(kept(), 1);

    let watch = Watch::start(&b, &id);
    let web = b.web();
    let mut player = TcpStream::connect(&web).unwrap();
    player.set_read_timeout(Some(SOON)).unwrap();
    write!(player, "GET {} HTTP/1.1\r\nHost: {web}\r\nConnection: close\r\n\r\n", watch.path(&web)).unwrap();
    let mut beginning = vec![0; 64 << 10];
    player.read_exact(&mut beginning).unwrap();
    assert_eq!(json(&b, &["video", "rm", &id])["removed"], true);
    // It gets what was read ahead for it and then an end.
    let mut rest = Vec::new();
    let _ = player.read_to_end(&mut rest);
    assert!(rest.len() < clip.bytes.len(), "{} bytes came after the removal", rest.len());
    never_within(Duration::from_secs(3), "the video comes back", || kept() > 0);
    // Whoever asks for it by name gets it again.
    json(&b, &["get", &id]);
    assert_eq!(kept(), 1);
}

#[test]
fn only_what_is_known_can_be_watched() {
    let node = Node::start("Ana");
    kith(&node, &["watch", &"cd".repeat(32), "--player", "print"]).expect_refusal(&[4]);
    kith(&node, &["watch", &"cd".repeat(32), "--player", "nonsense"]).expect_code(&[2]);
}

/// A real mpv, with neither window nor sound.
#[test]
fn mpv_plays_what_is_not_here_yet() {
    let Some(clip) = sample_video(3) else { return };
    if std::process::Command::new("mpv").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "mpv is missing: apt-get install mpv");
        println!("mpv is missing, this test did nothing: apt-get install mpv");
        return;
    }
    let [a, b] = line_of::<2>();
    let id = id_of(&publish(&a, &clip.path, "Otters", "friends"));
    wait_found(&b, "otters", &id);
    let settings = b.scratch("mpv");
    std::fs::create_dir_all(&settings).unwrap();
    std::fs::write(settings.join("mpv.conf"), "vo=null\nao=null\nterminal=no\n").unwrap();
    let mut watch = command(&b.home, &["watch", &id, "--player", "mpv"]);
    watch.env("MPV_HOME", &settings);
    Running::start(watch, b"").finish(Duration::from_secs(30)).expect_code(&[0]);
    let got = kith(&b, &["get", &id, "--json"]).json();
    assert_eq!(got["bytes"].as_u64(), Some(std::fs::metadata(&clip.path).unwrap().len()));
}
