//! End-to-end tests: the real `kith` binary, several processes on loopback, real video made and
//! read back by ffmpeg. They are a target of the crate `node`, because only there cargo names the
//! binary that it has just built. Each test has its own nodes with their own temporary homes.
//!
//! The nodes run with `catalogue.batch` and `catalogue.spread` of one second instead of half an
//! hour and three days; nothing else differs from what users run.

// Helpers of tests fail by panicking; a failed expectation is what a test is for.
#![allow(clippy::unwrap_used, clippy::panic)]

mod around;
mod audience;
mod backup;
mod browse;
mod browser;
mod clean;
mod cli;
mod faults;
mod flood;
mod friends;
mod harness;
mod invites;
mod keys;
mod kills;
mod line;
mod links;
mod logs;
mod mirrors;
mod onion;
mod page;
mod play;
#[allow(dead_code)] // the benches use more of it
mod players;
mod quota;
mod rest;
mod restart;
mod secrets;
mod sources;
mod strangers;
mod tools;
mod tor;
mod tornet;
mod verify;
mod wan;
mod watch;
