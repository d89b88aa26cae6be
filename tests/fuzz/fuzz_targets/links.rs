//! Links to objects, and object ids in hexadecimal.
#![no_main]

use kith_crypto::content::{ReadCap, Root, VerifyCap};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    if let Some(root) = Root::from_hex(&text) {
        assert_eq!(root.to_hex(), text.to_lowercase());
    }
    for text in [text.to_string(), format!("kith:r1:{text}"), format!("kith:v1:{text}")] {
        if let Ok(cap) = ReadCap::from_link(&text) {
            assert_eq!(cap.to_link(), text.trim());
            assert_eq!(cap.locator(), cap.verify_cap().locator());
        }
        if let Ok(cap) = VerifyCap::from_link(&text) {
            assert_eq!(cap.to_link(), text.trim());
        }
    }
});
