//! Catalogue entries.
#![no_main]

use kith_fuzz::form;
use kith_onion::entry::{Entry, MAX_ENTRY_LEN};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (form, rest) = form(data);
    // Raw, or the texts behind a good fixed part.
    let bytes = match form % 2 {
        0 => rest.to_vec(),
        _ => [[1, form >> 1 & 1].as_slice(), &[5; 64], &[form; 20], rest].concat(),
    };
    let Ok(entry) = Entry::decode(&bytes) else { return };
    assert!(bytes.len() <= MAX_ENTRY_LEN);
    assert_eq!(entry.encode(), bytes);
});
