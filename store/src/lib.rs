//! Everything at rest of one kith node, in one folder: sealed, durable, and of no use to whoever
//! finds the disk without the store key.
//!
//! - `store.key`: the store key, under a passphrase or guarded by its permissions.
//! - `journal/`: the truth, an append-only file of sealed records.
//! - `packs/`: the blocks, one file per object; only verified blocks get in.
//! - `views/`: what each friend's catalogue looks like from here.
//! - `index/`: quick look-ups, made from the journal and free to lose.
//!
//! This crate blocks and knows nothing of peers, circuits, HTTP or an async runtime. Formats and
//! write orders: `docs/protocol/store.md`.
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod adopt;
pub mod archive;
pub mod backend;
mod disk;
mod error;
mod index;
mod journal;
mod keyfile;
mod ledger;
mod lock;
mod log;
mod object;
mod open_packs;
mod opening;
mod pack;
mod quota;
mod rekey;
mod spool;
mod store;
#[cfg(test)]
mod vectors;
mod verify;
mod view;

pub use adopt::{Adopted, Claim};
pub use error::StoreError;
pub use keyfile::Unlock;
pub use ledger::{Limits, Room, Usage};
pub use object::{Class, ObjectInfo};
pub use opening::{Opened, Options};
pub use pack::{Pack, Publishing};
pub use quota::{Freed, InUse};
pub use spool::{Spool, Spooled};
pub use store::{Stats, Store};
pub use verify::{Checked, FileType, Finding, Outcome, Scope, Verify};
pub use view::ViewLog;
