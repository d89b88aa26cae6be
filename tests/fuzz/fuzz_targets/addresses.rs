//! Lists of addresses, as certificates and announcements hold them.
#![no_main]

use kith_crypto::cert::{Address, MAX_ADDRS};
use kith_crypto::codec::Reader;
use kith_onion::control::encode_addresses;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut r = Reader::new(data);
    let Ok(addrs) = Address::decode_list(&mut r) else { return };
    assert!(addrs.len() <= MAX_ADDRS);
    // Kinds of later releases are skipped; without any, the list has one encoding.
    if usize::from(data[0]) == addrs.len() {
        assert_eq!(encode_addresses(&addrs), data[..r.at()]);
    }
    let bytes = encode_addresses(&addrs);
    let mut again = Reader::new(&bytes);
    assert_eq!(Address::decode_list(&mut again), Ok(addrs));
    assert_eq!(again.finish(), Ok(()));
});
