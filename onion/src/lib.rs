//! The protocol of kith as state machines without I/O: links between friends, the catalogue they
//! exchange, tunnels through common friends and the decisions of a fetch.
//!
//! Nothing here opens a socket, reads a clock or draws randomness of its own: bytes, time
//! ([`Now`]) and a seed come in, bytes and [`Output`]s come out. The node's driver and the
//! simulator drive the very same [`Core`].
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::panic, clippy::expect_used)]

pub mod budget;
pub mod catalogue;
pub mod cell;
pub mod circuit;
pub mod control;
mod core;
pub mod entry;
pub mod fetch;
pub mod handle;
pub mod handshake;
pub mod hours;
pub mod link;
pub mod ratchet;
pub mod route;
pub mod schedule;
pub mod serving;
pub mod session;
pub mod spread;
mod time;
mod tunnel;

pub use crate::core::*;
pub use time::Now;
