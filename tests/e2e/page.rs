//! The loopback listener as programs and hostile pages see it: who may ask for what, what is told of it,
//! and what is done once.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::*;
use crate::watch::{Response, get};

/// A request with a body, on a connection of its own. `Host` is the listener's unless it is given.
pub(crate) fn ask(web: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    let mut stream = TcpStream::connect(web).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    let mut request =
        format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        request += &format!("Host: {web}\r\n");
    }
    headers.iter().for_each(|(name, value)| request += &format!("{name}: {value}\r\n"));
    let _ = stream.write_all(format!("{request}\r\n").as_bytes());
    let _ = stream.write_all(body);
    Response::read(&mut stream)
}

/// A browser that has logged in, without a browser.
pub(crate) struct Login {
    pub(crate) web: String,
    cookie: String,
    csrf: String,
}

impl Login {
    pub(crate) fn new(node: &Node) -> Self {
        let web = node.web();
        let url = text(&json(node, &["open", "--print"]), "url");
        let path = url.strip_prefix(&format!("http://{web}")).expect("the node's own listener").to_owned();
        let entered = get(&web, &path, &[]);
        assert_eq!(entered.status, 200);
        let set = entered.header("set-cookie").to_owned();
        assert!(set.contains("; HttpOnly; SameSite=Strict; Path=/"), "{set}");
        let cookie = set.split(';').next().unwrap().to_owned();
        let page = get(&web, "/help", &[("Cookie", &cookie)]);
        assert_eq!(page.status, 200);
        let page = String::from_utf8(page.body).unwrap();
        let csrf =
            page.split("name=\"csrf\" content=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        Self { web, cookie, csrf }
    }

    /// What the page sends.
    pub(crate) fn ask(&self, method: &str, path: &str, more: &[(&str, &str)], body: &[u8]) -> Response {
        let origin = format!("http://{}", self.web);
        let own = [
            ("Cookie", self.cookie.as_str()),
            ("x-kith-csrf", &self.csrf),
            ("Origin", &origin),
            ("Sec-Fetch-Site", "same-origin"),
            ("Content-Type", "application/json"),
        ];
        ask(&self.web, method, path, &[&own[..], more].concat(), body)
    }

    fn json(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = self.ask(method, path, &[], body.to_string().as_bytes());
        assert_eq!(answer.status, 200, "{method} {path}: {}", String::from_utf8_lossy(&answer.body));
        serde_json::from_slice(&answer.body).unwrap()
    }

    pub(crate) fn page(&self, path: &str) -> String {
        let page = get(&self.web, path, &[("Cookie", &self.cookie)]);
        assert_eq!(page.status, 200, "{path}");
        String::from_utf8(page.body).unwrap()
    }
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_else(|| panic!("{name} in {value}")).to_owned()
}

const PAGES: [&str; 9] =
    ["/", "/publish", "/library", "/friends", "/network", "/store", "/settings", "/help", "/search?q=x"];

/// A60: forms of a Host header by which a page of elsewhere, or a rebound name, could get here.
#[test]
fn nobody_gets_in_by_a_host_an_origin_or_a_site_of_elsewhere() {
    let node = Node::start("Ana");
    let login = Login::new(&node);
    let web = node.web();
    let port = web.rsplit(':').next().unwrap().to_owned();
    let cookie = login.cookie.clone();
    let own = format!("http://{web}");
    let hosts = [
        "evil.example".to_owned(),
        format!("evil.example:{port}"),
        format!("127.0.0.1.evil.example:{port}"),
        format!("localhost.:{port}"),
        format!("127.0.0.1.:{port}"),
        format!("LOCALHOST:{port}"),
        "localhost".into(),
        "127.0.0.1".into(),
        "127.0.0.1:1".into(),
        format!("127.1:{port}"),
        format!("0.0.0.0:{port}"),
        format!("2130706433:{port}"),
        format!("0x7f000001:{port}"),
        format!("[::]:{port}"),
        format!("[::ffff:127.0.0.1]:{port}"),
        format!("[0:0:0:0:0:0:0:1]:{port}"),
        format!("user@127.0.0.1:{port}"),
        format!("127.0.0.1:{port}, evil.example"),
        format!("127.0.0.1:0{port}"),
        String::new(),
    ];
    let paths =
        ["/", "/api/status", "/api/openapi.json", "/assets/app.css", "/media/00", "/login/00", "/nowhere"];
    let mut bodies = BTreeSet::new();
    let mut cases = 0;
    let mut refused = |answer: Response, what: String| {
        assert!([403, 400].contains(&answer.status), "{what} got {}", answer.status);
        assert!(answer.header("access-control-allow-origin").is_empty());
        bodies.insert((answer.status, answer.body));
        cases += 1;
    };
    for host in &hosts {
        for path in paths {
            let answer = ask(&web, "GET", path, &[("Host", host), ("Cookie", &cookie)], b"");
            refused(answer, format!("Host {host:?} {path}"));
        }
    }
    // Two, or none, or in the request line.
    let two = ask(
        &web,
        "GET",
        "/api/status",
        &[("Host", &web), ("Host", "evil.example"), ("Cookie", &cookie)],
        b"",
    );
    refused(two, "two hosts".into());
    for target in ["http://evil.example/api/status".to_owned(), format!("{own}/api/status")] {
        refused(ask(&web, "GET", &target, &[("Cookie", &cookie)], b""), target);
    }
    for origin in [
        "http://evil.example",
        "null",
        "https://127.0.0.1",
        "http://127.0.0.1:1",
        "http://localhost",
        "file://",
    ] {
        for path in paths {
            refused(
                ask(&web, "GET", path, &[("Origin", origin), ("Cookie", &cookie)], b""),
                format!("Origin {origin}"),
            );
        }
    }
    for site in ["cross-site", "same-site", "evil"] {
        for path in paths {
            let headers = [("Sec-Fetch-Site", site), ("Cookie", cookie.as_str())];
            refused(ask(&web, "GET", path, &headers, b""), format!("site {site} {path}"));
        }
    }
    // A bookmark may read, not change.
    let headers =
        [("Sec-Fetch-Site", "none"), ("Cookie", &cookie), ("Origin", &own), ("x-kith-csrf", &login.csrf)];
    refused(ask(&web, "POST", "/api/stop", &headers, b""), "a bookmark that changes something".into());
    assert!(cases > 200, "{cases}");
    assert!(
        bodies.iter().filter(|(status, _)| *status == 403).count() == 1,
        "one constant answer: {bodies:?}"
    );
    // The same with what is ours works: the control.
    for host in [web.clone(), format!("localhost:{port}"), format!("[::1]:{port}")] {
        let origin = format!("http://{host}");
        let headers = [("Host", host.as_str()), ("Origin", &origin), ("Cookie", &cookie)];
        assert_eq!(ask(&web, "GET", "/api/status", &headers, b"").status, 200, "{host}");
    }
    assert_eq!(
        get(&web, "/", &[("Sec-Fetch-Site", "none"), ("Cookie", &cookie)]).status,
        303,
        "to the welcome"
    );
}

/// A61: what other pages can make a browser send changes nothing.
#[test]
fn nothing_changes_without_a_cookie_an_origin_and_the_pages_own_token() {
    let node = Node::start("Ana");
    let login = Login::new(&node);
    let (web, own) = (node.web(), format!("http://{}", node.web()));
    let changes: [(&str, &str, &str); 6] = [
        ("POST", "/api/circles", r#"{"name":"Zoo"}"#),
        ("POST", "/api/invites", "{}"),
        ("PATCH", "/api/config", r#"{"privacy":"strict"}"#),
        ("POST", "/api/tokens", r#"{"name":"x","scopes":["admin"]}"#),
        ("POST", "/api/hidden", r#"{"what":"word:zoo"}"#),
        ("POST", "/api/stop", ""),
    ];
    let (cookie, csrf) = (login.cookie.as_str(), login.csrf.as_str());
    let wrong = "0".repeat(64);
    let sets: [&[(&str, &str)]; 8] = [
        &[],
        &[("Cookie", cookie)],
        &[("Cookie", cookie), ("Origin", &own)],
        &[("Cookie", cookie), ("x-kith-csrf", csrf)],
        &[("Cookie", cookie), ("Origin", &own), ("x-kith-csrf", &wrong)],
        &[("Cookie", cookie), ("Origin", &own), ("x-kith-csrf", csrf), ("x-kith-csrf", csrf)],
        &[("Origin", &own), ("x-kith-csrf", csrf)],
        &[("Cookie", cookie), ("Origin", "null"), ("x-kith-csrf", csrf)],
    ];
    let kinds =
        ["application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"];
    for (method, path, body) in changes {
        for set in sets {
            for kind in kinds {
                let headers = [set, &[("Content-Type", kind)]].concat();
                let answer = ask(&web, method, path, &headers, body.as_bytes());
                assert_eq!((answer.status, answer.body.len()), (403, 0), "{method} {path} {headers:?}");
            }
        }
        // Nor by GET, whatever is behind the path.
        let address = format!("{path}?name=Zoo&what=zoo&privacy=strict");
        let answer = get(&web, &address, &[("Cookie", cookie)]);
        assert!([200, 404, 405].contains(&answer.status), "{}", answer.status);
    }
    let state = [json(&node, &["circle", "list"]), json(&node, &["token", "list"]), json(&node, &["hide"])];
    assert!(state.iter().all(|list| list.as_array().unwrap().is_empty()), "{state:?}");
    assert_ne!(json(&node, &["status"])["privacy"], "strict");
    // The page itself can: the control.
    login.json("POST", "/api/circles", &json!({"name": "Zoo"}));
    assert_eq!(json(&node, &["circle", "list"])[0]["name"], "Zoo");
}

#[test]
fn a_login_works_once_and_ends_when_one_logs_out() {
    let mut node = Node::start("Ana");
    let web = node.web();
    let url = text(&json(&node, &["open", "--print"]), "url");
    let path = url.strip_prefix(&format!("http://{web}")).unwrap();
    // Whoever only asks what there is does not use it up.
    assert_eq!(crate::watch::send(&web, "HEAD", path, &[("Host", &web)]).status, 405);
    assert_eq!(get(&web, path, &[]).status, 200);
    let again = get(&web, path, &[]);
    assert_eq!(again.status, 403);
    assert_eq!(again.body, get(&web, "/friends", &[]).body, "the same for whoever is not in");
    assert!(!String::from_utf8_lossy(&again.body).contains("Ana"));

    let login = Login::new(&node);
    assert_eq!(login.ask("GET", "/api/status", &[], b"").status, 200);
    let no_token = ask(&web, "POST", "/logout", &[("Cookie", &login.cookie)], b"");
    assert_eq!(no_token.status, 403);
    assert_eq!(login.ask("POST", "/logout", &[], b"").status, 204);
    assert_eq!(login.ask("GET", "/api/status", &[], b"").status, 403);
    // Sessions end with the node.
    let login = Login::new(&node);
    node.restart();
    assert_eq!(get(&node.web(), "/api/status", &[("Cookie", &login.cookie)]).status, 403);
}

#[test]
fn a_token_does_what_its_scopes_say() {
    let node = Node::start("Ana");
    let web = node.web();
    let token = |name: &str, scopes: &[&str]| {
        let scopes = scopes.iter().flat_map(|scope| ["--scope", scope]);
        let args: Vec<&str> = ["token", "create", name].into_iter().chain(scopes).collect();
        text(&json(&node, &args), "token")
    };
    let [read, watch, publish, admin] =
        [["read"], ["watch"], ["publish"], ["admin"]].map(|scopes| token(scopes[0], &scopes));
    let both = token("both", &["read", "publish"]);
    let status = |token: &str, method: &str, path: &str, body: &str| {
        let bearer = format!("Bearer {token}");
        ask(
            &web,
            method,
            path,
            &[("Authorization", &bearer), ("Content-Type", "application/json")],
            body.as_bytes(),
        )
        .status
    };
    let circle = |n: usize| format!(r#"{{"name":"circle {n}"}}"#);
    for (n, (token, expected)) in [
        (&read, [200, 403, 403, 403]),
        (&watch, [403, 404, 403, 403]),
        (&publish, [403, 403, 404, 403]),
        (&both, [200, 403, 404, 403]),
        (&admin, [200, 404, 404, 200]),
    ]
    .into_iter()
    .enumerate()
    {
        let unknown = format!("/api/videos/{}", "0".repeat(64));
        let got = [
            status(token, "GET", "/api/status", ""),
            status(token, "POST", &format!("{unknown}/pin"), ""),
            status(token, "DELETE", &unknown, ""),
            status(token, "POST", "/api/circles", &circle(n)),
        ];
        assert_eq!(got, expected, "{n}");
        // What would hand out the node's secrets unsealed is for the unix socket alone.
        assert_eq!(status(token, "GET", "/api/backup", ""), 403);
        // And so is what would outlive a token.
        assert_eq!(status(token, "POST", "/api/logins", "{}"), 403);
    }
    for wrong in ["", "kith_", "x", &format!("kith_{}", "0".repeat(64)), &read[..read.len() - 1]] {
        assert_eq!(status(wrong, "GET", "/api/status", ""), 403, "{wrong:?}");
    }
    let basic = ask(&web, "GET", "/api/status", &[("Authorization", &format!("Basic {read}"))], b"");
    assert_eq!(basic.status, 403);
    // No pages for programs, and the token is nowhere but with who has it.
    let bearer = format!("Bearer {admin}");
    assert_eq!(get(&web, "/settings", &[("Authorization", &bearer)]).status, 403);
    let list = json(&node, &["token", "list"]);
    assert_eq!(list.as_array().unwrap().len(), 5);
    assert!(!list.to_string().contains(&read[5..]), "{list}");
    kith(&node, &["token", "revoke", "read"]).expect_code(&[0]);
    assert_eq!(status(&read, "GET", "/api/status", ""), 403);
    kith(&node, &["token", "revoke", "read"]).expect_refusal(&[4]);
    kith(&node, &["token", "create", "both"]).expect_refusal(&[2]);
}

/// E7 rows 98, 100: bodies too long and too slow, and paths that go up.
#[test]
fn long_slow_and_crooked_requests_are_refused() {
    let node = Node::start("Ana");
    let login = Login::new(&node);
    let long = vec![b' '; (1 << 20) + 1];
    assert_eq!(login.ask("POST", "/api/circles", &[], &long).status, 413);
    let fits = [&br#"{"name":"Zoo"}"#[..], &vec![b' '; (1 << 20) - 20]].concat();
    assert_eq!(login.ask("POST", "/api/circles", &[], &fits).status, 200);
    for path in [
        "/api/../api/status",
        "/api/%2e%2e/status",
        "/assets/../../Cargo.toml",
        "/assets/..%2f..%2fCargo.toml",
        "/assets/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/watch/../../etc/passwd",
        "//etc/passwd",
        "/api//status",
        "/api/status/",
        "/API/status",
        "/api/status%00",
        "/assets/app.css/",
    ] {
        let answer = get(&login.web, path, &[("Cookie", &login.cookie)]);
        assert!([403, 404, 400].contains(&answer.status), "{path}: {}", answer.status);
    }
    for method in ["OPTIONS", "TRACE", "CONNECT", "FOO", "PUT"] {
        let answer = login.ask(method, "/api/status", &[], b"");
        assert!([400, 403, 404, 405].contains(&answer.status), "{method}: {}", answer.status);
        assert!(answer.header("access-control-allow-methods").is_empty());
    }
    // A body that never ends is not waited for.
    let begun = Instant::now();
    let mut slow = TcpStream::connect(&login.web).unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let head = format!(
        "POST /api/circles HTTP/1.1\r\nHost: {0}\r\nOrigin: http://{0}\r\nCookie: {1}\r\nx-kith-csrf: {2}\r\n\
         Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{",
        login.web, login.cookie, login.csrf
    );
    slow.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    let _ = slow.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(begun.elapsed() < Duration::from_secs(25));
    // The node is as it was.
    assert_eq!(json(&node, &["circle", "list"]).as_array().unwrap().len(), 1);
}

/// A62 and A66 on the page: foreign words are words.
#[test]
fn titles_with_markup_and_unseen_characters_are_shown_as_text() {
    let [a, b] = line_of::<2>();
    let hostile = [
        "<script>document.title='x'</script> Otter",
        "<img src=http://127.0.0.1:1/x onerror=alert(1)> Otter",
        "\"><svg onload=alert(1)> Otter",
        "'-alert(1)-' {{7*7}} ${7*7} Otter",
        "https://evil.example/ javascript:alert(1) Otter",
        "Otter \u{202e}4pm.exe\u{2066}\u{200b}\u{200d}\u{feff}\u{ad} end",
        "Otter \u{1b}[31mred\u{7}\u{9b}31m bell",
        "Otter Z\u{351}\u{352}\u{353}\u{354}\u{355}\u{356}\u{357}\u{358}\u{359}algo",
        "Otter </title><base href=//evil.example/> &amp; &#60;",
    ];
    let file = a.scratch("otter.bin");
    std::fs::write(&file, random_bytes(10_000)).unwrap();
    let mut ids = Vec::new();
    for (n, title) in hostile.iter().enumerate() {
        std::fs::write(&file, random_bytes(10_000 + n)).unwrap();
        let args = [
            "publish",
            file.to_str().unwrap(),
            "--title",
            title,
            "--text",
            title,
            "--tag",
            "x",
            "--any-file",
        ];
        ids.push(text(&json(&a, &args), "id"));
    }
    ids.iter().for_each(|id| drop(wait_found(&b, "otter", id)));
    let login = Login::new(&b);
    let mut pages = vec![login.page("/"), login.page("/search?q=otter"), login.page("/library?show=own")];
    pages.extend(ids.iter().map(|id| login.page(&format!("/watch/{id}"))));
    let mut shown = 0;
    for page in &pages {
        let lower = page.to_lowercase();
        for bad in ["<script>document", "<img", "<svg onload", "<base", "onerror=alert(1)>", "</title><base"]
        {
            assert!(!lower.contains(bad), "{bad}");
        }
        let unseen = [
            '\u{202e}', '\u{2066}', '\u{200b}', '\u{feff}', '\u{ad}', '\u{1b}', '\u{7}', '\u{9b}', '\u{359}',
        ];
        assert!(!page.contains(unseen), "something that cannot be seen");
        // No foreign text is an address.
        for link in page.split("href=\"").skip(1).chain(page.split("src=\"").skip(1)) {
            assert!(link.starts_with(['/', '#']), "{}", &link[..link.len().min(40)]);
        }
        shown += page.matches("&lt;script&gt;document").count();
    }
    assert!(shown >= 3, "it is there, as text: {shown}");
    let terminal = kith(&b, &["search", "otter"]).out();
    assert!(!terminal.contains(['\u{202e}', '\u{1b}', '\u{7}', '\u{9b}', '\u{200b}', '\u{359}']));
    assert!(terminal.contains("<script>document"), "text is text there");
}

/// A62: whatever is in a file, its address shows it as media or not at all.
#[test]
fn what_is_no_media_is_never_shown_in_place() {
    let node = Node::start("Ana");
    let login = Login::new(&node);
    let mp4 = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom";
    let files: [(&str, Vec<u8>, &str); 6] = [
        (
            "svg",
            b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>".to_vec(),
            "application/octet-stream",
        ),
        ("html", b"<!DOCTYPE html><script>alert(1)</script>".to_vec(), "application/octet-stream"),
        ("playlist", b"#EXTM3U\nhttp://127.0.0.1:1/x.ts\n".to_vec(), "application/octet-stream"),
        ("xml", b"<?xml version='1.0'?><x/>".to_vec(), "application/octet-stream"),
        ("polyglot", [&mp4[..], b"<html><script>alert(1)</script>"].concat(), "video/mp4"),
        ("empty", Vec::new(), "application/octet-stream"),
    ];
    for (name, bytes, kind) in files {
        let file = node.scratch(name);
        std::fs::write(&file, &bytes).unwrap();
        let args = ["publish", file.to_str().unwrap(), "--any-file", "--keep-metadata"];
        let id = text(&json(&node, &args), "id");
        let page = login.page(&format!("/watch/{id}"));
        let media = page.split("src=\"/media/").nth(1).unwrap().split('"').next().unwrap();
        let answer = get(&login.web, &format!("/media/{media}"), &[]);
        assert_eq!((answer.status, answer.header("content-type")), (200, kind), "{name}");
        assert_eq!(answer.body, bytes, "{name}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert!(answer.header("content-security-policy").starts_with("sandbox"), "{name}");
        assert_eq!(answer.header("content-disposition"), if kind == "video/mp4" { "" } else { "attachment" });
        assert!(answer.header("set-cookie").is_empty());
        // The API gives it as a download, never as a document.
        let saved = login.ask("GET", &format!("/api/objects/{id}/content"), &[], b"");
        assert_eq!(saved.header("content-type"), "application/octet-stream");
        assert_eq!(saved.header("x-content-type-options"), "nosniff");
    }
}

/// Opening a page asks nobody for anything; that begins with the player's first request.
#[test]
fn a_page_asks_nobody_before_play() {
    let [a, b] = line_of::<2>();
    let Some(clip) = sample_video(2) else { return };
    let id = id_of(&publish(&a, &clip.path, "Grebe", "friends"));
    wait_found(&b, "grebe", &id);
    let login = Login::new(&b);
    let page = login.page(&format!("/watch/{id}"));
    assert!(page.contains("Who learns what: Ana will see that you watch this"), "{page}");
    assert!(page.contains("preload=\"none\""));
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(json(&b, &["status"])["fetches"], 0);
    assert!(json(&b, &["video", "list", "--all"]).as_array().unwrap().is_empty());
    // Opened again it has the same address.
    let media =
        |page: &str| page.split("src=\"/media/").nth(1).unwrap().split('"').next().unwrap().to_owned();
    assert_ne!(media(&page), media(&login.page(&format!("/watch/{id}"))));
    // What has changed since is not played as if it had not: nobody learns but who was named.
    let friend = text(&json(&b, &["friend", "list"])[0], "name");
    kith(&b, &["friend", "rename", &friend, "Hanna"]).expect_code(&[0]);
    assert_eq!(get(&login.web, &format!("/media/{}", media(&page)), &[]).status, 403);
    assert_eq!(json(&b, &["status"])["fetches"], 0);
    let page = login.page(&format!("/watch/{id}"));
    assert!(page.contains("Who learns what: Hanna will see that you watch this"), "{page}");
    let headers = [("Cookie", login.cookie.as_str()), ("Accept-Language", "de")];
    let german = get(&login.web, &format!("/watch/{id}"), &headers);
    let said = "Wer erfährt was: für Hanna wird sichtbar, dass du dies schaust";
    assert!(String::from_utf8(german.body).unwrap().contains(said));
    assert_eq!(get(&login.web, &format!("/media/{}", media(&page)), &[]).body, clip.bytes);
    assert_eq!(json(&b, &["video", "list", "--all"])[0]["id"], id.as_str());
    // A file that is not here is not fetched because somebody reads its address.
    let (path, _) = random_file(&a, "other.bin", 5_000);
    let other =
        text(&json(&a, &["publish", path.to_str().unwrap(), "--title", "Pochard", "--any-file"]), "id");
    wait_found(&b, "pochard", &other);
    assert_eq!(login.ask("GET", &format!("/api/objects/{other}/content"), &[], b"").status, 404);
    assert_eq!(json(&b, &["video", "list", "--all"]).as_array().unwrap().len(), 1);
}

/// An upload goes on where a connection broke, and what is published is what was sent.
#[test]
fn an_upload_goes_on_after_a_broken_connection() {
    let node = Node::start("Ana");
    let login = Login::new(&node);
    let bytes = random_bytes(3_000_000);
    let about = json!({"bytes": bytes.len(), "title": "Wigeon", "to": "friends", "any_file": true});
    let upload = login.json("POST", "/api/uploads", &about);
    let path = format!("/api/uploads/{}", text(&upload, "upload"));
    // The first part breaks off.
    let mut broken = TcpStream::connect(&login.web).unwrap();
    let head = format!(
        "PATCH {path} HTTP/1.1\r\nHost: {0}\r\nOrigin: http://{0}\r\nCookie: {1}\r\nx-kith-csrf: {2}\r\n\
         upload-offset: 0\r\nContent-Length: {3}\r\n\r\n",
        login.web,
        login.cookie,
        login.csrf,
        bytes.len()
    );
    broken.write_all(head.as_bytes()).unwrap();
    broken.write_all(&bytes[..1_000_000]).unwrap();
    let offset = || login.json("GET", &path, &Value::Null)["offset"].as_u64().unwrap() as usize;
    wait_until(SOON, "some is here", || offset() > 500_000);
    // Nobody goes on without saying where.
    assert_eq!(login.ask("PATCH", &path, &[], b"x").status, 400);
    // While one brings it another is refused.
    let second = login.ask("PATCH", &path, &[("upload-offset", &offset().to_string())], b"x");
    assert_eq!(second.status, 400);
    drop(broken);
    let at = offset();
    assert!(at <= 1_000_000);
    wait_until(SOON, "it may go on", || {
        login.ask("PATCH", &path, &[("upload-offset", &offset().to_string())], b"").status == 200
    });
    let at = offset();
    assert_eq!(login.ask("PATCH", &path, &[("upload-offset", "0")], &bytes).status, 400, "not from there");
    let over = [&bytes[at..], b"x"].concat();
    let done = if at < bytes.len() {
        assert_eq!(login.ask("PATCH", &path, &[("upload-offset", &at.to_string())], &over[..10]).status, 200);
        login.ask("PATCH", &path, &[("upload-offset", &(at + 10).to_string())], &bytes[at + 10..])
    } else {
        unreachable!("the rest was not sent")
    };
    let done: Value = serde_json::from_slice(&done.body).unwrap();
    assert_eq!(done["state"], "published", "{done}");
    let id = text(&done["video"], "id");
    let out = node.scratch("out.bin");
    kith(&node, &["get", &id, "-o", out.to_str().unwrap()]).expect_code(&[0]);
    assert_same(&out, &bytes);
    assert_eq!(login.ask("DELETE", &path, &[], b"").status, 403, "what is published is not given up");

    // One that is given up leaves nothing, and one with a bad audience does not begin.
    let upload = login.json("POST", "/api/uploads", &about);
    let path = format!("/api/uploads/{}", text(&upload, "upload"));
    assert_eq!(login.json("DELETE", &path, &Value::Null)["cancelled"], true);
    assert_eq!(login.ask("GET", &path, &[], b"").status, 404);
    let bad = json!({"bytes": 1, "title": "x", "to": "circle:none"});
    assert_eq!(login.ask("POST", "/api/uploads", &[], bad.to_string().as_bytes()).status, 404);
    wait_until(SOON, "one video", || json(&node, &["video", "list"]).as_array().unwrap().len() == 1);
}

#[test]
fn a_request_with_a_key_is_done_once() {
    let node = Node::start("Ana");
    let login = Login::new(&node);
    let invite = |key: &str| {
        let answer = login.ask("POST", "/api/invites", &[("Idempotency-Key", key)], b"{}");
        assert_eq!(answer.status, 200);
        String::from_utf8(answer.body).unwrap()
    };
    let first = invite("one");
    assert_eq!(first, invite("one"));
    assert_ne!(first, invite("two"));
    let other = login.ask("POST", "/api/invites", &[("Idempotency-Key", "one")], br#"{"expires_s":60}"#);
    assert_eq!(other.status, 400, "the key was for another request");
    // Failures are remembered, too, and another path is another matter.
    let circle =
        || login.ask("POST", "/api/circles", &[("Idempotency-Key", "one")], br#"{"name":"Zoo"}"#).status;
    assert_eq!([circle(), circle()], [200, 200]);
    assert_eq!(json(&node, &["circle", "list"]).as_array().unwrap().len(), 1);
    // Nobody gets somebody else's answer.
    let token = text(&json(&node, &["token", "create", "p", "--scope", "admin"]), "token");
    let bearer = format!("Bearer {token}");
    let headers = [
        ("Authorization", bearer.as_str()),
        ("Idempotency-Key", "one"),
        ("Content-Type", "application/json"),
    ];
    let other = ask(&login.web, "POST", "/api/invites", &headers, b"{}");
    assert!(other.status == 200);
    let read = text(&json(&node, &["token", "create", "r"]), "token");
    let bearer = format!("Bearer {read}");
    let headers = [
        ("Authorization", bearer.as_str()),
        ("Idempotency-Key", "one"),
        ("Content-Type", "application/json"),
    ];
    assert_eq!(ask(&login.web, "POST", "/api/invites", &headers, b"{}").status, 403);
}

#[test]
fn lists_come_in_parts_and_errors_in_one_form() {
    let node = Node::start("Ana");
    let login = Login::new(&node);
    let names: Vec<String> = (0..5).map(|n| format!("circle {n}")).collect();
    names.iter().for_each(|name| drop(kith(&node, &["circle", "create", name]).out()));
    let (mut got, mut query) = (Vec::new(), "?limit=2".to_owned());
    for part in 0.. {
        assert!(part < 4);
        let answer = login.ask("GET", &format!("/api/circles{}", query.replace(' ', "%20")), &[], b"");
        let list: Vec<Value> = serde_json::from_slice(&answer.body).unwrap();
        assert!(list.len() <= 2);
        got.extend(list.iter().map(|circle| text(circle, "name")));
        let link = answer.header("link").to_owned();
        let Some(next) = link.strip_prefix('<').and_then(|rest| rest.split('>').next()) else { break };
        assert!(link.ends_with("; rel=\"next\""));
        query = next.to_owned();
    }
    assert_eq!(got, names);
    assert_eq!(login.ask("GET", "/api/circles?after=gone", &[], b"").status, 400);
    for (method, path, body, status, code) in [
        ("GET", "/api/friends/Nobody", "", 404, "not_found"),
        ("POST", "/api/circles", r#"{"name":"circle 1"}"#, 400, "usage"),
        ("POST", "/api/friends", r#"{"invite":"x"}"#, 403, "refused"),
        ("GET", "/api/nowhere", "", 404, "not_found"),
        ("POST", "/api/circles", "{", 400, "usage"),
        ("POST", "/api/circles", r#"{"nome":1}"#, 400, "usage"),
        ("GET", "/api/search", "", 400, "usage"),
        ("POST", "/api/store/verify", r#"{"heal":false,"accept_loss":true}"#, 400, "usage"),
    ] {
        let answer = login.ask(method, path, &[], body.as_bytes());
        assert_eq!(answer.status, status, "{method} {path} {body}");
        assert_eq!(answer.header("content-type"), "application/problem+json", "{path} {body}");
        let problem: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((&problem["code"], &problem["status"]), (&json!(code), &json!(status)), "{problem}");
        assert!(!text(&problem, "detail").contains('\n') && !text(&problem, "title").is_empty());
    }
}

/// Every request that the document tells of is answered, and as it says; there are no others.
#[test]
fn the_document_tells_what_is_answered() {
    let [a, b] = line_of::<2>();
    let Some(clip) = sample_video(1) else { return };
    let id = id_of(&publish(&a, &clip.path, "Smew", "fof"));
    wait_found(&b, "smew", &id);
    kith(&a, &["circle", "create", "Zoo"]).expect_code(&[0]);
    kith(&a, &["hide", "word:zoo"]).expect_code(&[0]);
    kith(&a, &["token", "create", "p"]).expect_code(&[0]);
    let login = Login::new(&a);
    let document = login.json("GET", "/api/openapi.json", &Value::Null);
    assert_eq!(document["openapi"], "3.1.0");
    let schemas = &document["components"]["schemas"];
    let friend = text(&json(&a, &["friend", "list"])[0], "name");
    let mut seen = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert!(operation["security"][0]["token"][0].is_string(), "{method} {path} says no scope");
            assert!(
                operation["description"].is_string() || operation["summary"].is_string(),
                "{method} {path}"
            );
            seen += 1;
            let long = ["/api/events", "/api/backup", "/api/stop"];
            if long.contains(&path.as_str()) {
                continue;
            }
            // What changes something is asked of what is not there.
            let (id, friend, circle) = match method.as_str() {
                "get" => (id.as_str(), friend.as_str(), "Zoo"),
                _ => ("0123456789", "Nobody", "Nobody"),
            };
            let name = if path.contains("/friends/") { friend } else { circle };
            let path = path.replace("{id}", id).replace("{upload}", "x").replace("{name}", name);
            if method == "get" {
                let query = if path == "/api/search" { "?words=smew" } else { "" };
                let answer = login.ask("GET", &format!("{path}{query}"), &[], b"");
                let schema = &operation["responses"]["200"]["content"]["application/json"]["schema"];
                if answer.status == 200 && !schema.is_null() {
                    let value: Value = serde_json::from_slice(&answer.body).unwrap();
                    fits(&value, schema, schemas).unwrap_or_else(|e| panic!("{path}: {e} in {value}"));
                } else {
                    let missing = ["/api/uploads/x", "/api/streams/Zoo", "/api/openapi.json"];
                    assert!(
                        answer.status == 200 || missing.contains(&path.as_str()),
                        "{path}: {}",
                        answer.status
                    );
                }
            } else {
                // An empty body is refused by the request itself, not because there is none.
                let answer = login.ask(&method.to_uppercase(), &path, &[], b"");
                let said = String::from_utf8_lossy(&answer.body);
                assert!(
                    answer.status != 405 && !said.contains("there is no such request"),
                    "{method} {path}: {said}"
                );
            }
        }
    }
    assert!(seen > 60, "{seen}");
}

/// Several schemas of objects as one.
fn joined(parts: &[Value], all: &Value) -> Value {
    let mut whole = json!({"type": "object", "properties": {}, "required": []});
    for part in parts {
        let part = part["$ref"].as_str().map_or(part, |name| &all[name.rsplit('/').next().unwrap()]);
        let fields = part["properties"].as_object().unwrap().clone();
        whole["properties"].as_object_mut().unwrap().extend(fields);
        let required = part["required"].as_array().cloned().unwrap_or_default();
        whole["required"].as_array_mut().unwrap().extend(required);
    }
    whole
}

/// Whether a value is as a schema of OpenAPI 3.1 says, as far as this document uses it.
fn fits(value: &Value, schema: &Value, all: &Value) -> Result<(), String> {
    if let Some(name) = schema["$ref"].as_str() {
        return fits(value, &all[name.rsplit('/').next().unwrap()], all).map_err(|e| format!("{name}: {e}"));
    }
    if let Some(parts) = schema["allOf"].as_array() {
        return fits(value, &joined(parts, all), all);
    }
    for list in ["oneOf", "anyOf"] {
        if let Some(parts) = schema[list].as_array() {
            let none = || format!("{value} fits none of {list}");
            return parts.iter().any(|part| fits(value, part, all).is_ok()).then_some(()).ok_or_else(none);
        }
    }
    let is = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let named: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => return Ok(()),
    };
    let may = |name: &&str| *name == is || *name == "number" && is == "integer";
    // Texts and lists of the configuration are told as objects of any kind.
    let any =
        named == ["object"] && schema["properties"].is_null() && schema["additionalProperties"].is_null();
    if !any && !named.iter().any(may) {
        return Err(format!("{is} where {named:?} is told"));
    }
    if let Some(items) = value.as_array() {
        return items.iter().try_for_each(|item| fits(item, &schema["items"], all));
    }
    let Some(fields) = value.as_object() else { return Ok(()) };
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        fields.get(name).ok_or_else(|| format!("{name} is missing"))?;
    }
    for (name, field) in fields {
        let told = &schema["properties"][name.as_str()];
        let told = if told.is_null() { &schema["additionalProperties"] } else { told };
        if told.is_null() && !any && schema["properties"].is_object() {
            return Err(format!("{name} is not told of"));
        }
        fits(field, told, all).map_err(|e| format!("{name}: {e}"))?;
    }
    Ok(())
}

/// What moves is told as it moves.
#[test]
fn events_tell_what_moves() {
    let [a, b] = line_of::<2>();
    let login = Login::new(&a);
    let mut events = TcpStream::connect(&login.web).unwrap();
    events.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let head = format!("GET /api/events HTTP/1.1\r\nHost: {}\r\nCookie: {}\r\n\r\n", login.web, login.cookie);
    events.write_all(head.as_bytes()).unwrap();
    let mut told = String::new();
    let mut hear = |events: &mut TcpStream, what: &str| {
        wait_until(SOON, what, || {
            let mut buffer = [0; 16_384];
            if let Ok(n) = events.read(&mut buffer) {
                told += &String::from_utf8_lossy(&buffer[..n]);
            }
            told.contains(what)
        });
    };
    for name in ["status", "friends", "streams", "uploads", "circuits"] {
        hear(&mut events, &format!("event: {name}\ndata: "));
    }
    assert!(first_words(&login).contains("content-type: text/event-stream"));
    drop(b);
    hear(&mut events, "\"state\":\"offline\"");
    // Many listeners are refused, and those that are gone make room.
    let mut more: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut one = TcpStream::connect(&login.web).unwrap();
            one.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            one.write_all(head.as_bytes()).unwrap();
            one
        })
        .collect();
    let refused = more.iter_mut().filter_map(|one| {
        let mut status = [0; 12];
        one.read_exact(&mut status).ok().filter(|()| status == *b"HTTP/1.1 507")
    });
    assert!(refused.count() >= 4);
    drop((more, events));
    wait_until(SOON, "room again", || first_words(&login).contains("content-type: text/event-stream"));
}

/// The beginning of the answer to a listener that goes at once.
fn first_words(login: &Login) -> String {
    let mut one = TcpStream::connect(&login.web).unwrap();
    one.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    write!(one, "GET /api/events HTTP/1.1\r\nHost: {}\r\nCookie: {}\r\n\r\n", login.web, login.cookie)
        .unwrap();
    let mut buffer = [0; 4_096];
    let n = one.read(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..n]).into_owned()
}

/// Everything of the page comes from its own listener and is small.
#[test]
fn pages_are_small_and_name_nothing_of_elsewhere() {
    let [a, _b] = line_of::<2>();
    let login = Login::new(&a);
    for path in PAGES {
        let page = login.page(path);
        assert!(
            !page.contains("http://") && !page.contains("https://") && !page.contains("style="),
            "{path}"
        );
        assert!(page.starts_with("<!DOCTYPE html><html lang=\"en\""), "{path}");
    }
    // As the browser asks, and as it is set.
    let german =
        get(&login.web, "/friends", &[("Cookie", &login.cookie), ("Accept-Language", "de-DE,en;q=0.5")]);
    assert!(String::from_utf8(german.body).unwrap().contains("<html lang=\"de\""));
    login.json("PATCH", "/api/config", &json!({"page.language": "de", "page.theme": "dark"}));
    let page = login.page("/friends");
    assert!(page.contains("<html lang=\"de\" data-theme=\"dark\">") && page.contains("Freunde"), "{page}");
}

/// Hiding is local, holds for search and pages, and can be taken back.
#[test]
fn what_is_hidden_is_shown_nowhere() {
    let [a, b] = line_of::<2>();
    let mut ids = Vec::new();
    for (n, title) in ["Crane one", "Crane two", "Heron three"].iter().enumerate() {
        let (path, _) = random_file(&a, "x.bin", 5_000 + n);
        let args = ["publish", path.to_str().unwrap(), "--title", title, "--tag", "bird", "--any-file"];
        ids.push(text(&json(&a, &args), "id"));
    }
    ids.iter().for_each(|id| drop(wait_found(&b, "bird", id)));
    let login = Login::new(&b);
    let found = || json(&b, &["search", "bird"]).as_array().unwrap().len();
    let home = || login.page("/").matches("class=\"card\"").count();
    assert_eq!((found(), home()), (3, 3));
    for (what, left) in [(ids[0].as_str(), 2), ("word:HERON", 1), ("friend:Ana", 0)] {
        kith(&b, &["hide", what]).expect_code(&[0]);
        assert_eq!((found(), home()), (left, left), "{what}");
    }
    assert_eq!(json(&b, &["hide"]).as_array().unwrap().len(), 3);
    let mut b = b;
    b.restart();
    let found = |b: &Node| json(b, &["search", "bird"]).as_array().unwrap().len();
    wait_until(SOON, "it stays hidden", || found(&b) == 0);
    for (what, left) in [("friend:Ana", 1), ("heron", 2), (ids[0].as_str(), 3)] {
        kith(&b, &["hide", what, "--undo"]).expect_code(&[0]);
        assert_eq!(found(&b), left, "{what}");
    }
    kith(&b, &["hide", "heron", "--undo"]).expect_refusal(&[4]);
    kith(&b, &["hide", "two words"]).expect_refusal(&[2]);
    kith(&b, &["hide", &"0".repeat(64)]).expect_refusal(&[4]);
}

/// `kith:` links open the page, which asks before anything is done.
#[test]
fn a_link_opens_the_page_and_the_page_asks() {
    let (a, b) = (Node::start("Ana"), Node::start("Bo"));
    let web = b.web();
    let follow = |link: &str| {
        let url = text(&json(&b, &["open", "--print", link]), "url");
        let entered = get(&web, url.strip_prefix(&format!("http://{web}")).unwrap(), &[]);
        let cookie = entered.header("set-cookie").split(';').next().unwrap().to_owned();
        let place = entered.header("refresh").strip_prefix("0;url=").unwrap().to_owned();
        assert!(!place.contains("kith"), "the address says nothing: {place}");
        get(&web, &place, &[("Cookie", &cookie)])
    };
    let line = invite(&a);
    let page = String::from_utf8(follow(&line).body).unwrap();
    assert!(page.contains(&line) && page.contains("Add it only if you expected it"), "{page}");
    assert!(json(&b, &["friend", "list"]).as_array().unwrap().is_empty());
    // A video's link leads to the video, which nobody is asked for yet.
    let (path, _) = random_file(&a, "x.bin", 1_000);
    let published = json(&a, &["publish", path.to_str().unwrap(), "--any-file"]);
    let answer = follow(&text(&published, "link"));
    let page = String::from_utf8(answer.body).unwrap();
    assert!(answer.status == 200 && page.contains("<video") && page.contains("class=\"learns\""), "{page}");
    assert_eq!(json(&b, &["status"])["fetches"], 0);
    // What is no link is asked about as it is, and adding it is refused.
    let page = String::from_utf8(follow("kith:<script>alert(1)</script>").body).unwrap();
    assert!(page.contains("kith:&lt;script&gt;") && !page.contains("<script>alert"), "{page}");
}

/// Menu entry, links and service: written for this user, and gone again with nothing else.
#[test]
fn what_install_wrote_uninstall_takes_away() {
    let node = Node::stopped("Ana", &[]);
    let home = node.scratch("user");
    std::fs::create_dir_all(&home).unwrap();
    let run = |args: &[&str]| {
        let mut command = command(&node.home, args);
        command.env("HOME", &home).env("XDG_RUNTIME_DIR", &home);
        command
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_DATA_HOME")
            .env_remove("DBUS_SESSION_BUS_ADDRESS");
        Running::start(command, b"").finish(SOON).json()
    };
    let installed = run(&["install", "--json"]);
    let read = |name: &str| std::fs::read_to_string(text(&installed, name)).unwrap();
    let program = env!("CARGO_BIN_EXE_kith");
    assert!(
        read("unit").contains(&format!("ExecStart=\"{program}\" --home \"{}\" up", node.home.display())),
        "{}",
        read("unit")
    );
    assert!(
        read("entry").contains(&format!("Exec=\"{program}\" --home \"{}\" open %u", node.home.display()))
            && read("entry").contains("x-scheme-handler/kith;")
    );
    assert!(read("icon").starts_with("<svg"));
    let removed = run(&["uninstall", "--json"]);
    assert_eq!(removed["removed"].as_array().unwrap().len(), 3, "{removed}");
    assert!(
        ["unit", "entry", "icon"].iter().all(|name| !std::path::Path::new(&text(&installed, name)).exists())
    );
    assert!(run(&["uninstall", "--json"])["removed"].as_array().unwrap().is_empty());
}

/// What moves comes as lines, the log and the links can be asked for, and the own name changes.
#[test]
fn events_and_log_come_as_lines() {
    let node = Node::start("Ana");
    let mut command = command(&node.home, &["events"]);
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = lines_of(child.stdout.take().unwrap());
    let mut names = BTreeSet::new();
    while names.len() < 5 {
        let line: Value = serde_json::from_str(&lines.recv_timeout(SOON).expect("an event")).unwrap();
        assert!(line["data"].is_object() || line["data"].is_array(), "{line}");
        names.insert(text(&line, "event"));
    }
    assert_eq!(names, ["status", "friends", "streams", "uploads", "circuits"].map(str::to_owned).into());
    let _ = child.kill();
    let _ = child.wait();
    kith(&node, &["log"]).expect_code(&[0]);
    assert_eq!(json(&node, &["id", "rename", "Anna"])["name"], "Anna");
    kith(&node, &["id", "rename", ".."]).expect_refusal(&[2]);
    assert_eq!(json(&node, &["net", "check"])["links"], json!([]));
}

/// A program that may only look gets nothing that plays a video, or that says where friends are.
#[test]
fn who_may_only_look_gets_no_capabilities() {
    let [a, b] = line_of::<2>();
    let (path, _) = random_file(&b, "x.bin", 1_000);
    kith(&b, &["publish", path.to_str().unwrap(), "--any-file"]).expect_code(&[0]);
    let login = Login::new(&b);
    let id = text(&json(&b, &["video", "list"])[0], "id");
    login.page(&format!("/watch/{id}"));
    let friend = text(&json(&b, &["friend", "list"])[0], "name");
    let get = |scope: &str, path: &str| {
        let name = format!("{scope} {path}").replace('/', " ");
        let token = text(&json(&b, &["token", "create", &name, "--scope", scope]), "token");
        let bearer = format!("Bearer {token}");
        let mut one = TcpStream::connect(&login.web).unwrap();
        one.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        write!(
            one,
            "GET {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: {bearer}\r\nConnection: close\r\n\r\n",
            login.web
        )
        .unwrap();
        let mut bytes = Vec::new();
        let _ = one.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let show = format!("/api/friends/{friend}");
    for (scope, path, secret, shown) in [
        ("read", "/api/events", "\"spans\"", false),
        ("admin", "/api/events", "\"spans\"", true),
        ("read", "/api/videos", "kith:r1:", false),
        ("watch", "/api/events", "event: ", false),
        ("admin", "/api/videos", "kith:r1:", true),
        ("read", &show, "\"addresses\"", false),
        ("admin", &show, "\"addresses\"", true),
    ] {
        let said = get(scope, path);
        assert_eq!(said.contains(secret), shown, "{scope} {path}: {said}");
    }
    drop(a);
}

/// A pending invite of somebody who has a friend's name is not that friend.
#[test]
fn a_pending_namesake_is_told_from_a_friend() {
    let [_a, b] = line_of::<2>();
    let name = text(&json(&b, &["friend", "list"])[0], "name");
    let namesake = Node::start(&name);
    let line = invite(&namesake);
    drop(namesake);
    let file = b.scratch("invite");
    std::fs::write(&file, line).unwrap();
    assert_eq!(json(&b, &["friend", "add", file.to_str().unwrap()])["state"], "pending");
    let list = json(&b, &["friend", "list"]);
    let pending = list.as_array().unwrap().iter().find(|f| f["state"] == "pending").unwrap();
    let login = Login::new(&b);
    login.json("DELETE", &format!("/api/friends/{}", text(pending, "fingerprint")), &Value::Null);
    let left = json(&b, &["friend", "list"]);
    assert_eq!(left.as_array().unwrap().len(), 1, "{left}");
    assert_eq!((text(&left[0], "name"), text(&left[0], "state")), (name, "online".into()));
}

/// Other users of this machine are strangers to the page, whatever they know.
#[test]
fn another_user_of_the_machine_meets_silence() {
    let node = Node::start("Ana");
    let login = Login::new(&node);
    if !rustix::process::geteuid().is_root() {
        return lacks("this test becomes another user: run it as root");
    }
    let ask = |as_other: bool| {
        let url = format!("http://{}/api/status", login.web);
        let cookie = format!("Cookie: {}", login.cookie);
        let curl = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-m", "5", "-H", &cookie, &url];
        let (program, args) = match as_other {
            true => ("setpriv", [&["--reuid=65534", "--regid=65534", "--clear-groups"], &curl[..]].concat()),
            false => (curl[0], curl[1..].to_vec()),
        };
        let output = std::process::Command::new(program).args(args).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    if !has_program("curl", "curl") {
        return;
    }
    assert_eq!((ask(false).as_str(), ask(true).as_str()), ("200", "000"));
}
