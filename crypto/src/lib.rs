//! Keys, sessions and sealed data of kith: everything that needs a secret, and nothing that needs
//! a socket, a file, a clock or a source of randomness of its own.
//!
//! Time and random seeds are arguments. Every key that exists is derived under one of the labels
//! in [`kdf::Label`]; every construction names its source where it is built.
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::panic, clippy::expect_used)]

pub mod aead;
pub mod cert;
pub mod circuit;
pub mod codec;
pub mod content;
pub mod frame;
pub mod identity;
pub mod invite;
pub mod kdf;
pub mod noise;
pub mod onion_address;
pub mod pair;
pub mod passphrase;
pub mod ratchet;
pub mod rng;
pub mod secret;
pub mod text;
