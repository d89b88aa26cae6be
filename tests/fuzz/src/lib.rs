//! What several fuzz targets share: a fixed identity, and ways to make arbitrary bytes pass the
//! outer check (signature, seal, frame) of a format.

use kith_crypto::cert::Certificate;
use kith_crypto::codec::Writer;
use kith_crypto::identity::Identity;
use std::sync::OnceLock;

/// Splits off the byte that picks a form.
pub fn form(data: &[u8]) -> (u8, &[u8]) {
    data.split_first().map_or((0, data), |(first, rest)| (*first, rest))
}

/// The identity that signs in all targets.
pub fn identity() -> &'static Identity {
    static ID: OnceLock<Identity> = OnceLock::new();
    ID.get_or_init(|| Identity::from_secrets([[1; 32], [2; 32], [3; 32]]))
}

/// Appends the signature of [`identity`] over `context` and `bytes`.
pub fn signed(context: &[u8], mut bytes: Vec<u8>) -> Vec<u8> {
    let signature = identity().sign(&[context, &bytes].concat());
    bytes.extend_from_slice(&signature);
    bytes
}

/// A certificate whose keys and signature are right and whose other fields are arbitrary.
pub fn certificate(fields: &[u8]) -> Vec<u8> {
    let keys = identity().public();
    let mut w = Writer::new();
    w.u8(1).raw(&keys.noise).raw(&keys.sign).raw(&keys.pair).raw(fields);
    signed(b"kith certificate v1", w.into_bytes())
}

/// What must hold of every certificate that was accepted.
pub fn check_certificate(cert: &Certificate, bytes: &[u8]) {
    assert_eq!(cert.encoded(), bytes);
    assert_eq!(Certificate::from_text(&cert.to_text()).as_ref(), Ok(cert));
    // version, three keys, the name with its length, the count of addresses
    let count = bytes[97 + 1 + cert.name.len()];
    if &cert.keys == identity().public() && usize::from(count) == cert.addrs.len() {
        let again = Certificate::sign(identity(), &cert.name, &cert.addrs, cert.created, cert.expires);
        assert_eq!(again.expect("an accepted name can be signed").encoded(), bytes);
    }
}

/// Whether `front` is the front of `body` and the rest is zero.
pub fn is_padded(front: &[u8], body: &[u8]) -> bool {
    body.strip_prefix(front).is_some_and(|rest| rest.iter().all(|b| *b == 0))
}

/// Fixed-size copy: cut or filled with zeros.
pub fn padded<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.iter_mut().zip(bytes).for_each(|(o, b)| *o = *b);
    out
}
