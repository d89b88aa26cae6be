//! Messages of a link's control stream: type and body.
#![no_main]

use kith_fuzz::form;
use kith_onion::control::{Control, DELTA_UNIT, MESSAGE_HEAD};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (number, rest) = form(data);
    let mut body = rest.to_vec();
    // 0x80 and up: a page of the catalogue, padded to its unit.
    let number = if number < 0x80 { number } else { 7 };
    if number == 7 {
        body.resize(body.len().div_ceil(DELTA_UNIT).max(1) * DELTA_UNIT, 0);
    }
    let Ok(message) = Control::decode(number, &body) else { return };
    assert!(Control::max_len(number).is_some());
    let again = message.encode();
    assert_eq!(again[0], number);
    assert_eq!(again[1..MESSAGE_HEAD], (body.len() as u32).to_le_bytes());
    assert_eq!(again[MESSAGE_HEAD..], body[..]);
});
