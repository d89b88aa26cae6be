//! Certificates: raw bytes, text, and signed bytes with arbitrary fields.
#![no_main]

use kith_crypto::cert::Certificate;
use kith_fuzz::{certificate, check_certificate, form};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (form, rest) = form(data);
    match form % 4 {
        0 => {
            if let Ok(cert) = Certificate::decode(rest) {
                check_certificate(&cert, rest);
            }
        }
        1 => {
            let text = String::from_utf8_lossy(rest);
            let prefixed = format!("kith:c1:{text}");
            for text in [text.as_ref(), &prefixed] {
                if let Ok(cert) = Certificate::from_text(text) {
                    assert_eq!(cert.to_text(), text.trim());
                }
            }
        }
        _ => {
            let bytes = certificate(rest);
            if let Ok(cert) = Certificate::decode(&bytes) {
                check_certificate(&cert, &bytes);
            }
        }
    }
});
