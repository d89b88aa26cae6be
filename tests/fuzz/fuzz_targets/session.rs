//! The assembler of session messages: one stream in arbitrary pieces.
#![no_main]

use kith_crypto::codec::Reader;
use kith_crypto::content::{Position, SEALED_LEN};
use kith_onion::session::{Assembler, ByteQueue, Message};
use libfuzzer_sys::fuzz_target;

/// Raw bytes and whole messages in turn, so that what follows a block is reached, too.
fn stream(r: &mut Reader<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    while let Ok(kind) = r.u8() {
        match kind % 10 {
            0 if out.len() < 4 * SEALED_LEN => {
                let position = Position::Data(u64::from(kind) << 8);
                push(Message::Block(position, vec![kind; SEALED_LEN]), &mut out);
            }
            number @ 1..=9 => {
                // A message of this type with as long a body as the next byte says.
                let len = usize::from(r.u8().unwrap_or(0)).min(r.remaining().len());
                out.push(number);
                out.extend_from_slice(&(len as u32).to_le_bytes());
                out.extend_from_slice(r.take(len).unwrap_or_default());
            }
            _ => {
                let len = usize::from(kind / 8).min(r.remaining().len());
                out.extend_from_slice(r.take(len).unwrap_or_default());
            }
        }
    }
    out
}

fn push(message: Message, out: &mut Vec<u8>) {
    let mut queue = ByteQueue::default();
    message.push_to(&mut queue);
    let start = out.len();
    out.resize(start + queue.len(), 0);
    assert_eq!(queue.take(&mut out[start..]), out.len() - start);
    assert!(queue.is_empty());
}

fuzz_target!(|data: &[u8]| {
    let mut r = Reader::new(data);
    let Ok(raw) = r.u8() else { return };
    let cuts = r.bytes8(32, "cuts").unwrap_or_default();
    let stream = if raw.is_multiple_of(4) { r.remaining().to_vec() } else { stream(&mut r) };

    let (mut whole, mut pieces) = (Vec::new(), Vec::new());
    let fed_whole = Assembler::default().feed(&stream, &mut whole);
    let mut assembler = Assembler::default();
    let mut rest = &stream[..];
    let mut cuts = cuts.iter().cycle();
    let mut fed_pieces = Ok(());
    while !rest.is_empty() && fed_pieces.is_ok() {
        // Small cuts are bytes, large ones are cells and more.
        let cut =
            cuts.next().map_or(4086, |c| if *c < 128 { usize::from(*c) + 1 } else { usize::from(*c) * 64 });
        let (now, later) = rest.split_at(cut.min(rest.len()));
        fed_pieces = assembler.feed(now, &mut pieces);
        rest = later;
    }
    assert_eq!(fed_whole, fed_pieces);
    assert!(whole == pieces, "every split gives the same messages");

    let mut again = Vec::new();
    whole.into_iter().for_each(|message| push(message, &mut again));
    assert!(stream.starts_with(&again), "one message has one encoding");
});
