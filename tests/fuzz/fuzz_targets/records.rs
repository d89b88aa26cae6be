//! What a link reads after the handshake: sealed lengths and cells from a peer that holds the session
//! and says anything, the control stream across cells, and sealed cells of tunnels.
#![no_main]

use kith_crypto::codec::Reader;
use kith_crypto::noise::{Handshake, MAX_MESSAGE_LEN, OVERHEAD, Pattern, Session};
use kith_crypto::rng::Rng;
use kith_crypto::secret::Key;
use kith_fuzz::{form, padded};
use kith_onion::cell::{BODY_LEN, CELL_LEN};
use kith_onion::control::{Control, MESSAGE_HEAD};
use kith_onion::link::{Link, MAX_CELLS, TUNNEL_RECORD_LEN, open_sealed};
use libfuzzer_sys::fuzz_target;

/// Most that one Noise message holds.
const MAX_PLAIN: usize = MAX_MESSAGE_LEN - OVERHEAD;

fn sessions() -> (Session, Session) {
    let (psk, mut rng) = (Key::new([1; 32]), Rng::from_seed([2; 32]));
    let mut a = Handshake::initiate(Pattern::Tunnel, &psk, b"", &mut rng).expect("a handshake");
    let mut b = Handshake::respond(Pattern::Tunnel, &psk, b"", &mut rng).expect("a handshake");
    b.read(&a.write(b"").expect("message 1")).expect("message 1");
    a.read(&b.write(b"").expect("message 2")).expect("message 2");
    (a.into_session().expect("a session"), b.into_session().expect("a session"))
}

fn seal(session: &mut Session, plain: &[u8]) -> Vec<u8> {
    let mut out = vec![0; plain.len() + OVERHEAD];
    let len = session.seal(plain, &mut out).expect("a Noise message");
    out.truncate(len);
    out
}

/// Lengths and bodies from somebody who holds the session; only whole cells of the length that was
/// named come out, and nothing after the first mistake.
fn records(r: &mut Reader<'_>) {
    let (mut theirs, ours) = sessions();
    let mut ours = Link::new(ours);
    while let (Ok(how), Ok(step)) = (r.u8(), r.u8()) {
        let cells = usize::from(how) % (MAX_CELLS + 2);
        let odd = how >= 0xC0;
        let named = if odd { r.u16().unwrap_or(0) } else { (cells * CELL_LEN) as u16 };
        let body =
            vec![step; if how & 0x20 == 0 { usize::from(named).min(MAX_PLAIN) } else { cells * CELL_LEN }];
        let mut wire = seal(&mut theirs, &named.to_le_bytes());
        wire.extend(seal(&mut theirs, &body));
        if how & 0x30 == 0x30 {
            let at = usize::from(step) * 61 % wire.len();
            wire[at] ^= 1;
        }
        let right = usize::from(named) == body.len()
            && (1..=MAX_CELLS).contains(&(body.len() / CELL_LEN))
            && body.len().is_multiple_of(CELL_LEN)
            && how & 0x30 != 0x30;
        let mut came = Vec::new();
        for mut piece in wire.chunks(usize::from(step) * 16 + 1) {
            while !piece.is_empty() {
                match ours.receive(&mut piece) {
                    Ok(Some(cells)) => {
                        came.extend_from_slice(&cells);
                        ours.recycle(cells);
                    }
                    Ok(None) => {}
                    Err(_) => {
                        assert!(!right, "a good record was refused");
                        return;
                    }
                }
            }
        }
        assert!(came.is_empty() || (right && came == body), "what came is what was sealed");
        assert!(!right || came == body, "a good record comes out at once");
    }
}

/// The control stream: however it is cut into cells, the same messages come out.
fn control(r: &mut Reader<'_>) {
    let Ok(cuts) = r.bytes8(32, "cuts") else { return };
    let mut stream = Vec::new();
    while let Ok(number) = r.u8() {
        // A message with a body of its own, or bytes as they are.
        let body = r.bytes8(255, "body").unwrap_or_default();
        if number < 0xF0 {
            stream.push(number % 22);
            stream.extend_from_slice(&(body.len() as u32).to_le_bytes());
        }
        stream.extend_from_slice(body);
    }
    let mut link = Link::new(sessions().0);
    let (mut messages, mut rest, mut cuts) = (Vec::new(), &stream[..], cuts.iter().cycle());
    while !rest.is_empty() {
        let cut = cuts.next().map_or(BODY_LEN - 2, |c| usize::from(*c) + 1);
        let (now, later) = rest.split_at(cut.min(rest.len()));
        rest = later;
        let mut body = [0; BODY_LEN];
        body[..2].copy_from_slice(&(now.len() as u16).to_le_bytes());
        body[2..2 + now.len()].copy_from_slice(now);
        match link.control(&body) {
            Ok(more) => messages.extend(more),
            Err(_) => break,
        }
    }
    let again: Vec<u8> = messages.iter().flat_map(Control::encode).collect();
    assert!(stream.starts_with(&again), "one message has one encoding");
    assert!(messages.len() <= stream.len() / MESSAGE_HEAD);
}

fuzz_target!(|data: &[u8]| {
    let (form, rest) = form(data);
    let mut r = Reader::new(rest);
    match form % 4 {
        0 => records(&mut r),
        1 => control(&mut r),
        2 => {
            let mut link = Link::new(sessions().0);
            for mut piece in rest.chunks(usize::from(form) + 1) {
                match link.receive(&mut piece) {
                    Ok(record) => assert!(record.is_none(), "a record was guessed"),
                    Err(_) => return,
                }
            }
        }
        // A tunnel's cell, sealed by its other end.
        _ => {
            let (mut theirs, mut ours) = sessions();
            let plain: [u8; TUNNEL_RECORD_LEN - OVERHEAD] = padded(rest);
            let mut body = [0; BODY_LEN];
            theirs.seal(&plain, &mut body).expect("a record fits a cell");
            if form >= 0xF0 {
                body[usize::from(form) * 16] ^= 1;
            }
            let mut out = vec![0; TUNNEL_RECORD_LEN];
            let Ok(bytes) = open_sealed(&mut ours, &body, &mut out) else { return };
            assert!(form < 0xF0, "a changed cell was opened");
            assert_eq!(plain[2..8], [0; 6]);
            assert_eq!(bytes, &plain[8..8 + usize::from(u16::from_le_bytes([plain[0], plain[1]]))]);
        }
    }
});
