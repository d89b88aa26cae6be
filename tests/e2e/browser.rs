//! A browser that uses the page as a person does, and what keeps an eye on it: where its requests go, what
//! it complains of, what keeps people from using it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::*;
use crate::players::webdriver::Driver;

/// How long something on the page may take.
const SHOWN: Duration = Duration::from_secs(15);
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser with one page.
pub(crate) struct Browser {
    driver: Driver,
    /// `http://HOST:PORT` that all requests must go to.
    pub(crate) origin: String,
}

impl Browser {
    /// A browser for a node's page, logged in. Nothing where the programs are not installed, which is a
    /// failure in CI.
    pub(crate) fn of(node: &Node) -> Option<Self> {
        let browser = Self::with(&[], format!("http://{}", node.web()))?;
        browser.log_in(node);
        Some(browser)
    }

    /// A browser with more flags.
    pub(crate) fn with(flags: &[String], origin: String) -> Option<Self> {
        let there = ["chromium", "chromedriver"].map(|program| has_program(program, "chromium-driver"));
        if !there.iter().all(|there| *there) {
            return None;
        }
        let browser = Self { driver: Driver::start_with(flags, "normal")?, origin };
        browser.size(1280, 900);
        Some(browser)
    }

    #[track_caller]
    pub(crate) fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        self.driver.call(method, path, body).unwrap_or_else(|e| panic!("{method} {path} {body}: {e}"))
    }

    /// Opens the page by a login that works once.
    #[track_caller]
    pub(crate) fn log_in(&self, node: &Node) {
        let url = json(node, &["open", "--print"])["url"].as_str().unwrap().to_owned();
        self.call("POST", "/url", &json!({ "url": url }));
        self.wait_js("it is in", "!location.pathname.startsWith('/login')");
    }

    /// Goes to a place of the page.
    #[track_caller]
    pub(crate) fn go(&self, path: &str) {
        let url = format!("{}{path}", self.origin);
        self.call("POST", "/url", &json!({ "url": url }));
    }

    /// What a function with this body returns in the page.
    #[track_caller]
    pub(crate) fn js(&self, body: &str) -> Value {
        self.driver.script(body).unwrap_or_else(|e| panic!("{body}: {e}"))
    }

    /// Waits until an expression holds in the page.
    #[track_caller]
    pub(crate) fn wait_js(&self, what: &str, expression: &str) {
        let holds = || self.driver.script(&format!("return Boolean({expression})")).is_ok_and(|v| v == true);
        assert!(poll(SHOWN, holds), "not on the page: {what} ({}), {:?}", self.text(), self.complaints());
    }

    /// What the page says.
    pub(crate) fn text(&self) -> String {
        let text = self.driver.script("return document.body.innerText").unwrap_or_default();
        text.as_str().unwrap_or_default().to_owned()
    }

    #[track_caller]
    pub(crate) fn wait_text(&self, what: &str) {
        assert!(poll(SHOWN, || self.text().contains(what)), "not on the page: {what} in {}", self.text());
    }

    #[track_caller]
    fn element(&self, query: &str) -> String {
        let mut found = None;
        poll(SHOWN, || {
            let asked = json!({ "using": "css selector", "value": query });
            found = self.driver.call("POST", "/element", &asked).ok();
            found.is_some()
        });
        let found = found.unwrap_or_else(|| panic!("no {query} in {}", self.text()));
        found[ELEMENT].as_str().expect("an element has an id").to_owned()
    }

    #[track_caller]
    pub(crate) fn click(&self, query: &str) {
        let id = self.element(query);
        let mut said = String::new();
        let clicked = || match self.driver.call("POST", &format!("/element/{id}/click"), &json!({})) {
            Ok(_) => true,
            Err(e) => {
                said = e;
                false
            }
        };
        assert!(poll(SHOWN, clicked), "{query}: {said}");
    }

    /// Types into a field; for one of files its path.
    #[track_caller]
    pub(crate) fn type_in(&self, query: &str, text: &str) {
        let id = self.element(query);
        self.call("POST", &format!("/element/{id}/value"), &json!({ "text": text }));
    }

    /// Presses keys, wherever the focus is.
    pub(crate) fn press(&self, key: &str) {
        let actions = [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})];
        let keys = json!({"actions": [{"type": "key", "id": "keyboard", "actions": actions}]});
        self.call("POST", "/actions", &keys);
    }

    pub(crate) fn cdp(&self, command: &str, params: &Value) -> Value {
        self.call("POST", "/goog/cdp/execute", &json!({"cmd": command, "params": params}))
    }

    pub(crate) fn size(&self, width: u32, height: u32) {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.cdp("Emulation.setDeviceMetricsOverride", &metrics);
    }

    pub(crate) fn scheme(&self, scheme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.cdp("Emulation.setEmulatedMedia", &json!({ "features": features }));
    }

    /// Keeps a picture of the whole page among what the test run made.
    pub(crate) fn picture(&self, name: &str) {
        let size = self.cdp("Page.getLayoutMetrics", &json!({}))["cssContentSize"].clone();
        let height = size["height"].as_f64().unwrap_or(900.0).min(4_000.0);
        let clip = json!({"x": 0, "y": 0, "width": size["width"], "height": height, "scale": 1});
        let wish = json!({"format": "png", "captureBeyondViewport": true, "clip": clip});
        let data = self.cdp("Page.captureScreenshot", &wish)["data"].as_str().unwrap_or_default().to_owned();
        fs::write(artefacts().join(format!("{name}.png")), base64(&data)).expect("a picture can be kept");
    }

    /// What the browser has complained of since the last call, but for a directive that it does not know.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let log = self.call("POST", "/se/log", &json!({ "type": "browser" }));
        let lines = log.as_array().into_iter().flatten().filter_map(|entry| entry["message"].as_str());
        lines.filter(|line| !line.contains("directive 'webrtc'")).map(str::to_owned).collect()
    }

    /// Addresses of everything that was asked for since the last call.
    pub(crate) fn requests(&self) -> Vec<String> {
        let log = self.call("POST", "/se/log", &json!({ "type": "performance" }));
        let lines = log.as_array().into_iter().flatten().filter_map(|entry| entry["message"].as_str());
        let messages = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let asked = messages.filter(|m| m["message"]["method"] == "Network.requestWillBeSent");
        asked.filter_map(|m| m["message"]["params"]["request"]["url"].as_str().map(str::to_owned)).collect()
    }

    /// Nothing went elsewhere. Files that the page hands out are of its own origin, too.
    #[track_caller]
    pub(crate) fn assert_own_requests(&self) {
        let own = |url: &&String| {
            let url = url.strip_prefix("blob:").unwrap_or(url);
            url.starts_with(&format!("{}/", self.origin))
                // The browser's own first page.
                || ["about:", "data:", "chrome:", "chrome-untrusted:"].iter().any(|own| url.starts_with(own))
        };
        let requests = self.requests();
        let elsewhere: Vec<&String> = requests.iter().filter(|url| !own(url)).collect();
        assert!(elsewhere.is_empty(), "{elsewhere:?}");
    }

    /// What axe-core finds on the page as it is; nothing where it is not there, which is a failure in CI.
    pub(crate) fn axe(&self) -> Vec<String> {
        let Some(source) = axe() else { return Vec::new() };
        // The page's policy lets no foreign script in; what WebDriver evaluates is not the page's.
        self.js(&source);
        self.js("window.found = null; axe.run(document, { resultTypes: ['violations'] }).then((r) => { window.found = r.violations; });");
        self.wait_js("axe is done", "window.found");
        let found = self.js("return window.found.map((v) => v.id + ': ' + v.nodes.map((n) => n.target.join(' ') + ' ' + n.failureSummary).join('; '))");
        found.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    }
}

/// Where pictures lie.
fn artefacts() -> PathBuf {
    let dir = target().join("page-pictures");
    fs::create_dir_all(&dir).expect("a folder for pictures");
    dir
}

fn target() -> PathBuf {
    // .../target/debug/kith
    Path::new(env!("CARGO_BIN_EXE_kith")).ancestors().nth(2).expect("a target folder").to_owned()
}

fn axe() -> Option<String> {
    let file = target().join("axe/package/axe.min.js");
    let found = fs::read_to_string(&file).ok();
    if found.is_none() {
        let how = format!("axe-core is not there: .ci/run puts it into {}", file.display());
        lacks(&how);
    }
    found
}

fn base64(text: &str) -> Vec<u8> {
    let value = |b: u8| match b {
        b'A'..=b'Z' => b - b'A',
        b'a'..=b'z' => b - b'a' + 26,
        b'0'..=b'9' => b - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let bits: Vec<u8> = text.bytes().filter(|b| *b != b'=').map(value).collect();
    let group = |four: &[u8]| {
        let all = four.iter().fold(0_u32, |all, six| all << 6 | u32::from(*six)) << (6 * (4 - four.len()));
        all.to_be_bytes()[1..four.len()].to_vec()
    };
    bits.chunks(4).flat_map(group).collect()
}
