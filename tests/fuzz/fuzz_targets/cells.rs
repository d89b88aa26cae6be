//! Cells and the bodies of tunnel control: openings, answers, credits.
#![no_main]

use kith_fuzz::{form, is_padded, padded};
use kith_onion::cell::{
    BODY_LEN, CELL_LEN, CellRef, MAX_CREDITS, TunOpen, begin, decode_credits, decode_tun_ok, encode_credits,
    encode_tun_ok,
};
use kith_onion::link::{InWindow, WINDOW_MAX, WINDOW_START, open_plain};
use libfuzzer_sys::fuzz_target;
use std::time::Duration;

fn bodies(body: &[u8]) {
    if let Ok(open) = TunOpen::decode(body) {
        assert!(open.hops_left <= 1 && is_padded(&open.encode(), body));
    }
    if let Ok(message) = decode_tun_ok(body) {
        assert!(is_padded(&encode_tun_ok(&message), body));
    }
    if let Ok(credits) = decode_credits(body) {
        assert!(credits.len() <= MAX_CREDITS && is_padded(&encode_credits(&credits), body));
    }
}

/// The receiver's window against a sender that keeps to what it was granted.
fn window(steps: &[u8]) {
    let mut window = InWindow::default();
    let (mut credit, mut held) = (WINDOW_START, 0_u32);
    let mut now = Duration::ZERO;
    for step in steps {
        now += Duration::from_millis(u64::from(*step));
        let n = u32::from(step >> 2) + 1;
        match step % 4 {
            0 | 1 => {
                for _ in 0..n {
                    let arrived = window.arrived(now);
                    assert_eq!(arrived.is_ok(), credit > 0, "exactly what was granted is accepted");
                    if arrived.is_err() {
                        return;
                    }
                    credit -= 1;
                    held += 1;
                }
            }
            2 => {
                let used = n.min(held);
                held -= used;
                window.consumed(used);
                // Some of them waited long: the window shrinks and grows again.
                let limits = (Duration::from_millis(100), Duration::from_millis(400));
                window.waited(Duration::from_millis(u64::from(n) * 10), limits);
            }
            _ => {
                let due = window.would_grant(now, n > 32);
                let most = if n % 3 == 0 { n } else { u32::MAX };
                let given = window.grant(now, n > 32, most, n % 2 == 0);
                assert_eq!(due && most > 0, given.is_some());
                credit += u32::from(given.unwrap_or(0));
            }
        }
        assert!(credit + held <= WINDOW_MAX, "a window never grows beyond its bound");
    }
}

fuzz_target!(|data: &[u8]| {
    let (form, rest) = form(data);
    match form % 4 {
        0 => {
            let cell = padded::<CELL_LEN>(rest);
            if let Ok(decoded) = CellRef::decode(&cell) {
                let mut again = [0xEE; CELL_LEN];
                begin(&mut again, decoded.circ, decoded.command).copy_from_slice(decoded.body);
                assert_eq!(again, cell);
            }
        }
        1 => bodies(rest),
        2 => window(rest),
        _ => {
            let body = padded::<BODY_LEN>(rest);
            bodies(&body);
            if let Ok(bytes) = open_plain(&body) {
                assert_eq!(bytes, &body[2..2 + bytes.len()]);
            }
        }
    }
});
