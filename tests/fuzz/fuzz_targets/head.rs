//! Head blocks: raw, and filled to the length of a block behind the right magic.
#![no_main]

use kith_crypto::content::{BLOCK_LEN, Head};
use kith_fuzz::{form, is_padded, padded};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (form, rest) = form(data);
    let block = match form % 4 {
        0 => rest.to_vec(),
        1 => padded::<BLOCK_LEN>(rest).to_vec(),
        2 => padded::<BLOCK_LEN>(&[b"KHD1", rest].concat()).to_vec(),
        _ => padded::<BLOCK_LEN>(&[b"KHD2", rest].concat()).to_vec(),
    };
    let Ok(head) = Head::decode(&block) else { return };
    let again = head.encode();
    assert_eq!(again.len(), BLOCK_LEN);
    if block.len() == BLOCK_LEN {
        assert_eq!(again, block);
    }
    // A shorter block is the same without padding.
    assert!(is_padded(block.get(..BLOCK_LEN).unwrap_or(&block), &again));
    assert_eq!(Head::decode(&again).as_ref(), Ok(&head));
});
