//! Real players that tests and benches can watch.

pub(crate) mod chromium;
pub(crate) mod mpv;
pub(crate) mod webdriver;
