//! The page in a real browser: what people do, what hostile pages try, and whether everybody can use it.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::browser::Browser;
use crate::harness::*;

/// Places of the page, and how their pictures are called.
const PAGES: [(&str, &str); 12] = [
    ("/", "home"),
    ("/welcome", "welcome"),
    ("/search?q=grebe", "search"),
    ("/publish", "publish"),
    ("/library?show=own", "library"),
    ("/library?show=cached", "library-fetched"),
    ("/library?show=hidden", "library-hidden"),
    ("/friends", "friends"),
    ("/network", "network"),
    ("/store", "store"),
    ("/settings", "settings"),
    ("/help", "help"),
];

/// From two fresh nodes to a film that plays, as people would do it: at most six things on each side.
/// Hers: up, open, make an invite, send it, choose a file, publish. His: up, open, "I was given an invite",
/// paste and add, choose the film, play.
#[test]
fn from_two_fresh_nodes_to_a_playing_film() {
    let Some(clip) = paced_video(40, 300) else { return };
    let (a, b) = (Node::start("Ana"), Node::start("Bo"));
    let Some(hers) = Browser::of(&a) else { return };
    let his = Browser::of(&b).expect("there was one");

    // A first run ends with an invite in hand.
    hers.wait_text("Welcome");
    hers.click("#welcome button");
    hers.wait_js("an invite", "document.querySelector('#invite textarea')?.value.startsWith('kith:i1:')");
    hers.click("#invite details summary");
    hers.wait_js("its code", "document.querySelector('.qr path')?.getAttribute('d').length > 1000");
    let invite = hers.js("return document.querySelector('#invite textarea').value");
    his.wait_text("Welcome");
    his.click("a[href='/friends']");
    his.type_in("#add textarea", invite.as_str().unwrap());
    his.click("#add button");
    // It is said for some seconds; then the page shows her.
    his.wait_js(
        "Ana is a friend",
        "document.body.innerText.includes('Ana is a friend now') || document.querySelector('.friend[data-name=Ana]')",
    );

    // She drops a file; he sees it while he types.
    hers.go("/publish");
    hers.type_in("input[type=file]", clip.path.to_str().unwrap());
    hers.js("const title = document.querySelector('#uploads input'); title.value = 'Great crested grebe';");
    hers.click("#uploads button:not(.plain)");
    hers.wait_text("Published.");
    let id = hers.js("return document.querySelector('#uploads a').href.split('/').pop()");
    wait_found(&b, "grebe", id.as_str().unwrap());
    his.go("/search");
    his.type_in("#search input[name=q]", "greb");
    his.wait_js(
        "a card as he types",
        "document.querySelector('#results .card .name')?.textContent === 'Great crested grebe'",
    );
    his.click("#results .card a");
    his.wait_text("Who learns what:");
    his.wait_text("Ana will see that you watch this");
    his.wait_text("Nobody is asked for anything before you press play.");

    // It plays while it comes, seeks, and the map shows what is here.
    his.js("document.activeElement?.blur()");
    his.press("k");
    his.wait_js("it plays", "document.querySelector('video').currentTime > 1");
    his.press("7");
    his.wait_js(
        "it sought",
        "document.querySelector('video').currentTime > 28 && document.querySelector('video').readyState > 2",
    );
    his.wait_js("the map", "document.querySelector('#map').dataset.spans?.includes('1')");
    his.wait_js("the map has colour", "document.querySelector('#map').getContext('2d').getImageData(0, 0, 1000, 10).data.some((v) => v > 0)");
    his.wait_js(
        "where it comes from",
        "/friends|own store|All of it/.test(document.querySelector('#state').textContent)",
    );
    his.press("k");
    his.wait_js("it stands", "document.querySelector('video').paused");

    // The first page offers to go on.
    his.go("/");
    his.wait_text("Continue watching");
    his.wait_js("with the film", "document.querySelector('.card a').href.includes('?t=')");

    // Limits hold, and logging out is out.
    his.go("/network");
    his.type_in("#limits input[name='limits.up']", "500kB/s");
    his.click("#limits button");
    wait_until(SOON, "the limit holds", || json(&b, &["net", "limits"])["up"] == 500_000);
    his.go("/settings");
    his.click("#logout");
    his.wait_text("Logged out");
    his.go("/");
    his.wait_text("kith open");
    for browser in [&hers, &his] {
        browser.assert_own_requests();
        let complaints = browser.complaints();
        let other: Vec<&String> = complaints.iter().filter(|line| !line.contains("403")).collect();
        assert!(other.is_empty(), "{other:?}");
    }
}

/// Every page, at two widths and in both schemes: pictures are kept, axe-core finds nothing, nothing is wider
/// than the screen, nothing comes from elsewhere.
#[test]
fn every_page_is_for_everybody() {
    let [a, b] = line_of::<2>();
    let Some(clip) = sample_video(4) else { return };
    let id = id_of(&publish(&a, &clip.path, "Little grebe", "fof"));
    publish(
        &b,
        &clip.path,
        "Black-necked grebe, with a title that is long enough for two lines of a card",
        "friends",
    );
    wait_found(&b, "little", &id);
    kith(&b, &["hide", "word:heron"]).expect_code(&[0]);
    kith(&b, &["circle", "create", "Birds"]).expect_code(&[0]);
    kith(&b, &["token", "create", "player", "--scope", "watch"]).expect_code(&[0]);
    kith(&b, &["get", &id]).expect_code(&[0]);
    let Some(browser) = Browser::of(&b) else { return };
    let watch = format!("/watch/{id}");
    let pages: Vec<(&str, &str)> = PAGES.into_iter().chain([(watch.as_str(), "watch")]).collect();
    let mut found = Vec::new();
    for (scheme, width, height) in
        [("light", 1280, 900), ("dark", 1280, 900), ("light", 360, 780), ("dark", 360, 780)]
    {
        browser.size(width, height);
        browser.scheme(scheme);
        for (path, name) in &pages {
            browser.go(path);
            // Nothing jumps while a page comes (Layout Instability API).
            browser.js("window.shift = null; let sum = 0; new PerformanceObserver((list) => {
                for (const entry of list.getEntries()) if (!entry.hadRecentInput) sum += entry.value; window.shift = sum;
            }).observe({ type: 'layout-shift', buffered: true }); setTimeout(() => { window.shift ??= 0; }, 100);");
            browser.wait_js("shifts are counted", "window.shift !== null");
            let shift = browser.js("return window.shift").as_f64().unwrap();
            browser.js("document.querySelectorAll('details').forEach((d) => { d.open = true; })");
            assert!(shift < 0.01, "{name} at {width} shifts by {shift}");
            browser.picture(&format!("{name}-{scheme}-{width}"));
            let wide = browser.js("return document.documentElement.scrollWidth - innerWidth");
            assert!(wide.as_i64().unwrap() <= 0, "{name} at {width} is {wide} too wide");
            // Contrast depends on the scheme, structure on the width.
            if (scheme, width) != ("dark", 360) {
                found.extend(browser.axe().into_iter().map(|one| format!("{name} {scheme} {width}: {one}")));
            }
        }
    }
    assert!(found.is_empty(), "{} things: {}", found.len(), found.join("\n"));
    browser.assert_own_requests();
    let complaints = browser.complaints();
    assert!(complaints.is_empty(), "{complaints:?}");

    // Everything can be reached and seen with the keyboard alone: each stop has a visible outline.
    browser.size(1280, 900);
    for path in ["/", "/friends", watch.as_str(), "/settings"] {
        browser.go(path);
        let stops = browser.js("return [...document.querySelectorAll('a[href], button, input, select, textarea, summary, video')]
            .filter((e) => e.checkVisibility() && e.tabIndex >= 0 && !e.disabled && e.type !== 'radio').length");
        let mut seen = std::collections::BTreeSet::new();
        for n in 0..stops.as_u64().unwrap() + 5 {
            browser.press("\u{e004}");
            let outline = browser.js("const e = document.activeElement; const s = getComputedStyle(e);
                return e === document.body ? null : [[...document.all].indexOf(e) + ' ' + e.outerHTML.slice(0, 120), s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2];");
            if outline.is_null() {
                continue;
            }
            assert!(
                outline[1] == true || outline[0].as_str().unwrap().contains("<video"),
                "{path} stop {n}: {}",
                outline[0]
            );
            seen.insert(outline[0].as_str().unwrap().to_owned());
        }
        assert!(seen.len() as u64 * 10 >= stops.as_u64().unwrap() * 8, "{path}: {} of {stops}", seen.len());
    }
    // What is asked before something is lost can be left by the keyboard.
    browser.go("/settings");
    browser.click("#stop");
    browser.wait_js("it asks", "document.querySelector('dialog[open]')");
    browser.press("\u{e00c}");
    browser.wait_js("it was left", "!document.querySelector('dialog')");
    assert_eq!(json(&b, &["status"])["name"], "Bo");
}

/// Reading, searching and watching work without scripts.
#[test]
fn without_scripts_one_can_read_search_and_watch() {
    let [a, b] = line_of::<2>();
    let Some(clip) = sample_video(3) else { return };
    let id = id_of(&publish(&a, &clip.path, "Slavonian grebe", "friends"));
    wait_found(&b, "slavonian", &id);
    let Some(browser) = Browser::of(&b) else { return };
    browser.cdp("Emulation.setScriptExecutionDisabled", &json!({"value": true}));
    browser.go("/");
    browser.wait_text("Slavonian grebe");
    browser.wait_text("Without scripts you can read, search and watch here.");
    browser.go("/search?q=slavo");
    browser.wait_text("1 found");
    browser.click("#results .card a");
    browser.wait_text("Who learns what:");
    // WebDriver speaks to the element itself.
    browser.js("document.querySelector('video').play()");
    browser.wait_js("it plays", "document.querySelector('video').currentTime > 0.5");
}

/// What a page of elsewhere tries through the browser of somebody who is logged in: forms, pictures, scripts,
/// frames, its own name made to point here.
#[test]
fn hostile_pages_change_nothing_and_read_nothing() {
    let node = Node::start("Ana");
    let web = node.web();
    let port = web.rsplit(':').next().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let evil = listener.local_addr().unwrap().port();
    let target = format!("http://{web}");
    let page = format!(
        "<!DOCTYPE html><title>x</title><img src='{target}/api/stop' onload='document.title+=\"L\"'>\
         <iframe name=f src='{target}/settings'></iframe>\
         <form id=plain method=post action='{target}/api/circles' enctype='text/plain' target=f><input name='{{\"name\":\"Evil\",\"a\":\"' value='\"}}'></form>\
         <form id=form method=post action='{target}/api/stop' target=f></form>\
         <form id=out method=post action='{target}/logout' target=f></form>\
         <script src='{target}/assets/app.js'></script><link rel=stylesheet href='{target}/assets/app.css'>\
         <video src='{target}/media/00'></video>\
         <script>window.tried = 0; window.read = [];\
         for (const id of ['plain','form','out']) document.getElementById(id).submit();\
         for (const [path, init] of [['/api/status', {{}}], ['/api/status', {{credentials:'include'}}], ['/api/openapi.json', {{}}],\
           ['/api/circles', {{method:'POST', credentials:'include', mode:'no-cors', body:'{{\"name\":\"Evil\"}}'}}],\
           ['/api/circles', {{method:'POST', credentials:'include', headers:{{'content-type':'application/json','x-kith-csrf':'1'}}, body:'{{\"name\":\"Evil\"}}'}}],\
           ['/api/config', {{method:'PATCH', credentials:'include', body:'{{\"privacy\":\"strict\"}}'}}]])\
           fetch('{target}' + path, init).then((r) => r.text()).then((t) => t && window.read.push(t), () => {{}}).finally(() => window.tried++);\
         try {{ const s = new EventSource('{target}/api/events', {{withCredentials:true}}); s.onmessage = s.onopen = () => window.read.push('events'); }} catch {{}}\
         </script>"
    );
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n", page.len());
    let answer = format!("{head}Connection: close\r\n\r\n{page}");
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            // Browsers open connections before they use them.
            let answer = answer.clone();
            thread::spawn(move || {
                if stream.read(&mut [0; 4_096]).is_ok_and(|n| n > 0) {
                    let _ = stream.write_all(answer.as_bytes());
                }
            });
        }
    });
    // Its name points to this machine, as after DNS rebinding.
    let map = "--host-resolver-rules=MAP evil.example 127.0.0.1".to_owned();
    let Some(browser) = Browser::with(&[map], target) else { return };
    browser.log_in(&node);
    // Elsewhere by its name, another port of the same site, and a file of a stranger.
    for from in [
        format!("http://evil.example:{evil}/"),
        format!("http://127.0.0.1:{evil}/"),
        format!("http://localhost:{evil}/"),
    ] {
        browser.call("POST", "/url", &json!({ "url": from }));
        browser.wait_js("it tried", "window.tried === 6");
        thread::sleep(Duration::from_millis(500));
        assert_eq!(browser.js("return window.read"), json!([]), "{from}");
        assert_eq!(browser.js("return document.title"), "x", "{from}");
        assert_eq!(browser.js("return frames[0] && (() => { try { return frames[0].document.body.innerHTML.length; } catch { return 0; } })()"), 0, "{from}");
    }
    // The rebound name itself: same origin for the browser, nothing here answers it.
    browser.call("POST", "/url", &json!({ "url": format!("http://evil.example:{port}/") }));
    browser.wait_js("refused", "document.readyState === 'complete'");
    assert!(browser.text().is_empty() || !browser.text().contains("Ana"), "{}", browser.text());
    let got = browser.js("const r = new XMLHttpRequest(); r.open('GET', '/api/status', false); try { r.send(); } catch { return 'x'; } return r.status + r.responseText;");
    assert!(got == "403" || got == "x", "{got}");
    // Nothing happened, and who was in is still in.
    assert_eq!(json(&node, &["circle", "list"]), json!([]));
    assert_ne!(json(&node, &["status"])["privacy"], "strict");
    browser.go("/friends");
    browser.wait_text("Invite a friend");
}

/// Publishing by dropping, several at once, with words that a hostile title may try.
#[test]
fn files_are_dropped_and_titles_stay_words() {
    let node = Node::start("Ana");
    let Some(browser) = Browser::of(&node) else { return };
    browser.go("/publish");
    browser.click("input[name=any_file]");
    browser.js(
        "const data = new DataTransfer();
         for (const name of ['<img src=x onerror=window.hit=1>.bin', 'two.bin']) data.items.add(new File([new Uint8Array(9000000)], name));
         document.querySelector('#drop').dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true }));",
    );
    browser.wait_js("both are listed", "document.querySelectorAll('#uploads li').length === 2");
    browser.js("document.querySelectorAll('#uploads button:not(.plain)').forEach((b) => b.click())");
    wait_until(SOON, "both are there", || json(&node, &["video", "list"]).as_array().unwrap().len() == 2);
    browser.wait_js("both are told", "document.querySelectorAll('#uploads a').length === 2");
    browser.go("/library?show=own");
    browser.wait_text("<img src=x onerror=window.hit=1>");
    assert_eq!(
        browser.js("return [document.querySelectorAll('main img').length, window.hit ?? 0]"),
        json!([0, 0])
    );
    // Room and wholeness, as the commands tell them: nothing gives way, one video is looked at and whole.
    browser.go("/store");
    browser.click("[data-act=gc_dry]");
    browser.wait_text("Would go: 0 videos");
    browser.js("document.querySelector('#check select').selectedIndex = 1");
    browser.click("#check [name=only_look]");
    browser.click("[data-act=verify]");
    browser.wait_text("Everything is whole.");
    browser.go("/library?show=own");
    // What is removed asks first.
    browser.click("[data-act=remove]");
    browser.click("dialog button[value=yes]");
    wait_until(SOON, "one is left", || json(&node, &["video", "list"]).as_array().unwrap().len() == 1);
    let complaints = browser.complaints();
    assert!(complaints.is_empty(), "{complaints:?}");
}

/// A film is looked at first and published when one says so; its small pictures show above the map.
#[test]
fn a_film_is_looked_at_first_and_its_small_pictures_show() {
    let Some(clip) = paced_video(30, 300) else { return };
    let film = clip.path.to_str().unwrap();
    let node = Node::start("Ana");
    let Some(browser) = Browser::of(&node) else { return };
    let count = || json(&node, &["video", "list"]).as_array().unwrap().len();
    browser.go("/publish");
    browser.click("input[name=look_first]");
    browser.type_in("input[type=file]", film);
    browser.click("#uploads button:not(.plain)");
    browser.wait_text("Would be removed:");
    browser.wait_text("Publish now");
    assert_eq!(count(), 0, "nothing is published yet");
    let told = api(&node, "GET", "/api/uploads", None);
    assert_eq!(told[0]["state"], "looked");
    // Given up, it is gone; looked at once more, it is published.
    browser.click("#uploads button.plain");
    browser.wait_js("it is gone", "document.querySelectorAll('#uploads li').length === 0");
    assert_eq!(api(&node, "GET", "/api/uploads", None), json!([]));
    browser.type_in("input[type=file]", film);
    browser.click("#uploads button:not(.plain)");
    browser.wait_text("Publish now");
    browser.click("#uploads button:not(.plain)");
    browser.wait_text("Published.");
    assert_eq!(count(), 1);
    // Only what is cleaned can be looked at first.
    let bad = json!({"bytes": 9, "title": "x", "to": "friends", "look_first": true, "any_file": true});
    let refused = api(&node, "POST", "/api/uploads", Some(&bad));
    assert!(refused["detail"].as_str().unwrap().contains("cleaned"), "{refused}");

    let sheet = json(&node, &["publish", film, "--title", "Otters", "--storyboard"]);
    browser.go(&format!("/watch/{}", id_of(&sheet)));
    browser.press("k");
    browser.wait_js("it plays", "document.querySelector('video').currentTime > 0.2");
    let point = "const map = document.querySelector('#map'), box = map.getBoundingClientRect();
         for (const kind of ['pointermove', 'click']) map.dispatchEvent(new PointerEvent(kind, \
         { clientX: box.left + box.width * 0.5, bubbles: true }))";
    browser.js(point);
    browser.wait_js(
        "its pictures are there",
        &format!("(() => {{ {point}; return !document.querySelector('#peek').hidden; }})()"),
    );
    browser.picture("storyboard");
    assert_eq!(browser.js("return document.querySelector('#peek').dataset.n"), "30");
    assert_eq!(browser.js("return document.querySelector('#peek').width"), 160);
    browser.wait_js("it went there", "document.querySelector('video').currentTime >= 15");
    browser.assert_own_requests();
    let complaints = browser.complaints();
    assert!(complaints.is_empty(), "{complaints:?}");
}

/// Copies are counted and kept by the page, words and audience change, a folder is watched; a name of a file with a date
/// makes a title without it.
#[test]
fn what_was_published_is_changed_and_kept() {
    let [a, b] = line_of::<2>();
    let Some(clip) = sample_video(3) else { return };
    let file = clip.path.to_str().unwrap();
    let args = ["publish", file, "--title", "Horned grebe", "--to", "fof", "--lang", "en", "--tag", "bird"];
    let id = id_of(&json(&a, &args));
    wait_found(&b, "horned", &id);
    let Some(hers) = Browser::of(&a) else { return };
    let his = Browser::of(&b).expect("there was one");

    his.go(&format!("/watch/{id}"));
    // A copy has five seconds to answer.
    wait_until(Duration::from_secs(60), "the copy answers", || {
        his.click("[data-act=health]");
        poll(Duration::from_secs(10), || his.text().contains("copies and"))
            && his.text().contains("1 whole copies and 0 partial ones answered")
    });
    his.wait_text("you can keep a copy for others");
    assert_eq!(json(&b, &["video", "list", "--all"]), json!([]), "nothing came");
    his.click("[data-act=mirror]");
    wait_until(SOON, "a copy is kept", || json(&b, &["video", "list", "--all"])[0]["class"] == "mirrored");
    his.wait_text("No longer keep a copy for others");
    his.click("[data-act=unmirror]");
    wait_until(SOON, "it is not kept", || json(&b, &["mirror", "list"])["copies"] == json!([]));

    hers.go(&format!("/watch/{id}"));
    hers.wait_text("Language: en");
    // Who cannot be chosen any more is not replaced by somebody else.
    let only = json(&a, &["publish", file, "--title", "Smew", "--to", "friend:Bo"]);
    kith(&a, &["friend", "remove", "Bo"]).expect_code(&[0]);
    hers.go(&format!("/watch/{}", id_of(&only)));
    hers.js("const form = document.querySelector('#change'); form.closest('details').open = true; form.elements.title.value = 'Smew 2';");
    let before = json(&a, &["video", "show", &id_of(&only)])["audience"].clone();
    hers.click("#change button");
    wait_until(SOON, "it was changed", || json(&a, &["video", "show", &id_of(&only)])["title"] == "Smew 2");
    assert_eq!(json(&a, &["video", "show", &id_of(&only)])["audience"], before);
    hers.go(&format!("/watch/{id}"));
    hers.click("[data-act=ask_copies]");
    hers.wait_text("copies and");
    hers.js("const form = document.querySelector('#change'); form.closest('details').open = true;
        form.elements.title.value = 'Eared grebe'; form.elements.tags.value = 'bird, lake'; form.elements.to.value = 'friends';");
    hers.click("#change button");
    wait_until(SOON, "it was changed", || {
        let video = json(&a, &["video", "show", &id]);
        video["title"] == "Eared grebe"
            && video["audience"] == "friends"
            && video["tags"] == json!(["bird", "lake"])
    });

    let folder = a.scratch("films");
    std::fs::create_dir(&folder).unwrap();
    hers.go("/library?show=own");
    hers.type_in("#folder input", folder.to_str().unwrap());
    hers.click("#folder button");
    hers.wait_text("0 videos, 0 of them waiting");
    std::fs::copy(file, folder.join("Slavonian grebe.mp4")).unwrap();
    wait_until(Duration::from_secs(60), "it is published", || {
        json(&a, &["video", "list"])
            .as_array()
            .unwrap()
            .iter()
            .any(|video| video["title"] == "Slavonian grebe")
    });
    hers.go("/library?show=own");
    hers.click("[data-act=unwatch]");
    wait_until(SOON, "it is not watched", || json(&a, &["folder", "list"]) == json!([]));

    let dated = a.scratch("PXL_20240131_142233456.mp4");
    std::fs::copy(file, &dated).unwrap();
    hers.go("/publish");
    hers.type_in("input[type=file]", dated.to_str().unwrap());
    hers.wait_js("a title", "document.querySelector('#uploads input').value === 'untitled'");
    for browser in [&hers, &his] {
        let complaints = browser.complaints();
        assert!(complaints.is_empty(), "{complaints:?}");
    }
}
