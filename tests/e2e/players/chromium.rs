//! A headless Chromium that shows a media address in its own media document.
//!
//! A document with `Content-Security-Policy: sandbox` runs no callbacks: neither listeners nor timers,
//! only what WebDriver evaluates directly. So a thread asks for the state of the video again and again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::mpv::Stalled;
use super::webdriver::Driver;
use crate::harness::poll;

/// Between two looks at the video; nothing is measured more exactly.
const SAMPLE: Duration = Duration::from_millis(50);
/// How long the browser may take to leave a page.
const LEAVE: Duration = Duration::from_secs(10);
const STATE: &str = "const v = document.querySelector('video');
    return v && [location.href, v.currentTime, v.duration, v.readyState, v.paused, v.ended, v.seeking,
        v.error ? v.error.code + ' ' + v.error.message : v.networkState == 3 ? 'no source' : null,
        v.buffered.length ? v.buffered.end(v.buffered.length - 1) : 0];";

/// The video element at one time.
#[derive(Clone, Debug)]
pub(crate) struct VideoState {
    /// When it was asked for.
    pub(crate) at: Instant,
    pub(crate) current_time: f64,
    pub(crate) duration: Option<f64>,
    /// From 2 on there is a picture, from 3 on playback can go on.
    pub(crate) ready_state: u64,
    pub(crate) paused: bool,
    pub(crate) ended: bool,
    pub(crate) seeking: bool,
    pub(crate) error: Option<String>,
    /// The end of the last part that is buffered.
    pub(crate) buffered_end: f64,
}

impl VideoState {
    /// Nothing while there is no video, or that of another page.
    fn ask(driver: &Driver, url: &str) -> Option<Self> {
        let (at, v) = (Instant::now(), driver.script(STATE).ok()?);
        (v[0] == url).then_some(())?;
        Some(Self {
            at,
            current_time: v[1].as_f64()?,
            duration: v[2].as_f64(),
            ready_state: v[3].as_u64()?,
            paused: v[4].as_bool()?,
            ended: v[5].as_bool()?,
            seeking: v[6].as_bool()?,
            error: v[7].as_str().map(str::to_owned),
            buffered_end: v[8].as_f64()?,
        })
    }

    fn has_picture(&self) -> bool {
        self.ready_state >= 2 && !self.seeking
    }

    fn is_stalled(&self) -> bool {
        self.ready_state < 3 && !(self.seeking || self.paused || self.ended)
    }
}

struct Shared {
    driver: Driver,
    stop: AtomicBool,
    /// The address that was opened last, and its video since then.
    seen: Mutex<(String, Vec<VideoState>)>,
}

impl Shared {
    fn seen<T>(&self, look: impl FnOnce(&mut String, &mut Vec<VideoState>) -> T) -> T {
        let mut seen = self.seen.lock().expect("no thread failed");
        let (url, samples) = &mut *seen;
        look(url, samples)
    }

    fn sample(&self) {
        let url = self.seen(|url, _| url.clone());
        let Some(state) = VideoState::ask(&self.driver, &url) else { return };
        self.seen(|now, samples| {
            if *now == url {
                samples.push(state)
            }
        });
    }
}

/// A browser with one page; dropping it ends all of its processes.
pub(crate) struct Chromium {
    shared: Arc<Shared>,
    sampler: Option<JoinHandle<()>>,
}

impl Chromium {
    /// Nothing where the programs are not installed.
    pub(crate) fn start() -> Option<Self> {
        let driver = Driver::start()?;
        let shared = Arc::new(Shared { driver, stop: AtomicBool::new(false), seen: Mutex::default() });
        let sampled = Arc::clone(&shared);
        let sampler = thread::spawn(move || {
            while !poll(SAMPLE, || sampled.stop.load(Ordering::Relaxed)) {
                sampled.sample();
            }
        });
        Some(Self { shared, sampler: Some(sampler) })
    }

    #[track_caller]
    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = self.shared.driver.call(method, path, body);
        answer.unwrap_or_else(|e| panic!("{method} {path} {body}: {e}"))
    }

    /// Goes to a media address, as from the address bar; returns when it set out.
    pub(crate) fn open(&self, url: &str) -> Instant {
        // The page that is left would answer for the new one until that is there.
        self.call("POST", "/url", &json!({ "url": "about:blank" }));
        let is_blank = || self.shared.driver.script("return location.href").is_ok_and(|v| v == "about:blank");
        assert!(poll(LEAVE, is_blank), "the page before {url} is not left");
        self.shared.seen(|now, samples| {
            url.clone_into(now);
            samples.clear();
        });
        let at = Instant::now();
        self.call("POST", "/url", &json!({ "url": url }));
        at
    }

    /// What a function with this body returns in the page.
    #[track_caller]
    pub(crate) fn script(&self, js: &str) -> Value {
        self.shared.driver.script(js).unwrap_or_else(|e| panic!("{js}: {e}"))
    }

    /// What the browser has complained of since the last call: policies, requests that failed.
    pub(crate) fn console(&self) -> Vec<String> {
        let log = self.call("POST", "/se/log", &json!({ "type": "browser" }));
        let lines = log.as_array().into_iter().flatten().filter_map(|entry| entry["message"].as_str());
        lines.map(str::to_owned).collect()
    }

    /// Nothing until the media document is there.
    pub(crate) fn video_state(&self) -> Option<VideoState> {
        VideoState::ask(&self.shared.driver, &self.shared.seen(|url, _| url.clone()))
    }

    /// Begins playback, where the page does not begin it: a sandbox has no autoplay.
    pub(crate) fn play(&self) {
        self.script("document.querySelector('video').play()");
    }

    /// Clicks on the picture, which begins or pauses playback.
    pub(crate) fn click(&self) {
        let found = self.call("POST", "/element", &json!({ "using": "css selector", "value": "video" }));
        let id = found.as_object().and_then(|o| o.values().next()?.as_str()).expect("an element has an id");
        self.call("POST", &format!("/element/{id}/click"), &json!({}));
    }

    /// Goes to a place; returns when the browser had taken that, for [`Chromium::landed`].
    pub(crate) fn seek(&self, seconds: f64) -> Instant {
        self.script(&format!("document.querySelector('video').currentTime = {seconds}"));
        Instant::now()
    }

    fn wait(&self, timeout: Duration, is: impl Fn(&VideoState) -> bool) -> Option<Instant> {
        let mut found = None;
        poll(timeout, || {
            found = self.shared.seen(|_, samples| samples.iter().find(|s| is(s)).map(|s| s.at));
            found.is_some()
        });
        found
    }

    /// When a picture was there for the first time since the address was opened.
    pub(crate) fn first_picture(&self, timeout: Duration) -> Option<Instant> {
        self.wait(timeout, VideoState::has_picture)
    }

    /// How long after `sought` the picture of that place was there.
    pub(crate) fn landed(&self, sought: Instant, timeout: Duration) -> Option<Duration> {
        self.wait(timeout, |s| s.at > sought && s.has_picture()).map(|at| at - sought)
    }

    pub(crate) fn wait_time_beyond(&self, seconds: f64, timeout: Duration) -> bool {
        let now = Instant::now();
        self.wait(timeout, |s| s.at > now && s.has_picture() && s.current_time > seconds).is_some()
    }

    /// How playback stalled since then, and after it could go on for the first time. Waiting for a seek
    /// to land is no stall.
    pub(crate) fn stalled(&self, since: Instant) -> Stalled {
        self.shared.seen(|_, samples| {
            let mut stalled = Stalled::default();
            let mut before = false;
            let played = samples.iter().skip_while(|s| s.paused || s.ready_state < 3);
            for (state, next) in played.clone().zip(played.skip(1)).filter(|(state, _)| state.at >= since) {
                let is = state.is_stalled();
                stalled.times += usize::from(is && !before);
                stalled.total += if is { next.at - state.at } else { Duration::ZERO };
                before = is;
            }
            stalled
        })
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // The browser ends with the last owner of the driver, which is this one then.
        let _ = self.sampler.take().map(JoinHandle::join);
    }
}
