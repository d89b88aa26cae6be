//! Invites: raw bytes, text, and signed bytes around good, signed and arbitrary certificates.
#![no_main]

use kith_crypto::cert::Certificate;
use kith_crypto::codec::Writer;
use kith_crypto::invite::Invite;
use kith_fuzz::{certificate, check_certificate, form, identity, signed};
use libfuzzer_sys::fuzz_target;

fn check(bytes: &[u8]) {
    let Ok(invite) = Invite::decode(bytes) else { return };
    assert_eq!(invite.encoded(), bytes);
    assert_eq!(Invite::from_text(&invite.to_text()).as_ref(), Ok(&invite));
    check_certificate(&invite.inviter, invite.inviter.encoded());
    if &invite.inviter.keys == identity().public() {
        let again = Invite::sign(identity(), invite.inviter.clone(), invite.secret.clone(), invite.expires);
        assert_eq!(again.encoded(), bytes);
    }
}

fuzz_target!(|data: &[u8]| {
    let (form, rest) = form(data);
    let around = |cert: &[u8]| {
        let mut w = Writer::new();
        w.u8(1).raw(&[form; 32]).u32(u32::from(form) << 20).bytes16(cert);
        signed(b"kith invite v1", w.into_bytes())
    };
    match form % 6 {
        0 => check(rest),
        1 => {
            let text = String::from_utf8_lossy(rest);
            let prefixed = format!("kith:i1:{text}");
            for text in [text.as_ref(), &prefixed] {
                if let Ok(invite) = Invite::from_text(text) {
                    assert_eq!(invite.to_text(), text.trim());
                }
            }
        }
        2 => check(&signed(b"kith invite v1", rest.to_vec())),
        3 => check(&around(rest)),
        4 => check(&around(&certificate(rest))),
        _ => {
            let cert = Certificate::sign(identity(), "Ana", &[], 1, 2).expect("a plain name");
            let mut bytes = around(cert.encoded());
            check(&bytes);
            // Then with one byte changed and the tail cut or extended.
            if let [at, value, tail @ ..] = rest {
                let len = bytes.len();
                bytes[usize::from(*at) % len] ^= value;
                bytes.extend_from_slice(tail);
                check(&bytes);
            }
        }
    }
});
