//! Frames of handshake flights: arbitrary bytes, arbitrary plaintext inside good boxes (a friend
//! that misbehaves), and the answering side's states on top.
#![no_main]

use kith_crypto::aead::seal_record;
use kith_crypto::codec::{Reader, Writer};
use kith_crypto::frame::{self, Claim, HEAD1_LEN, HEAD2_LEN, MAX_BODY_LEN};
use kith_crypto::identity::Identity;
use kith_crypto::kdf::{self, Label};
use kith_crypto::pair::PairRoot;
use kith_crypto::rng::Rng;
use kith_crypto::secret::Key;
use kith_fuzz::{form, identity, padded};
use kith_onion::handshake::{Callee, Caller, Mode, Peer, Secret};
use libfuzzer_sys::fuzz_target;

const NONCE: [u8; 24] = [4; 24];
const BEFORE: [u8; 24] = [5; 24];

fn friend() -> Identity {
    Identity::from_secrets([[4; 32], [5; 32], [6; 32]])
}

fn root() -> PairRoot {
    PairRoot::from_key(Key::new([9; 32]))
}

fn secret() -> Secret {
    Secret { mode: Mode::Generation(0), psk: root().psk0() }
}

/// A key of the direction in which the friend calls.
fn key(label: Label) -> Key {
    kdf::derive(label, &[root().key().expose(), &friend().public().hash(), &identity().public().hash()])
}

/// The answering side, fed in pieces. It may only ever refuse: nobody made a Noise message.
fn answer(flight: &[u8], step: usize) {
    let me = identity();
    let peer = Peer::friend(me.public(), 0, friend().public(), &root());
    let mut rng = Rng::from_seed([1; 32]);
    let mut callee = Some(Callee::default());
    let mut recognised = None;
    for mut piece in flight.chunks(step) {
        if let Some(state) = callee.take() {
            let find = |claim: &Claim| peer.claimed_by(claim).then(|| peer.clone());
            match state.input(&mut piece, find) {
                Ok(Ok(next)) => recognised = Some(next.admit(secret())),
                Ok(Err(same)) => callee = Some(same),
                Err(_) => return,
            }
        }
        if let Some(state) = recognised.take() {
            match state.input(me, &mut piece, &mut rng) {
                Ok(Ok(_)) => panic!("a first message without its sender's key was accepted"),
                Ok(Err(same)) => recognised = Some(same),
                Err(_) => return,
            }
        }
    }
}

/// The calling side, fed in pieces with what no callee made.
fn call(answer: &[u8], step: usize) {
    let mut rng = Rng::from_seed([2; 32]);
    let peer = Peer::friend(identity().public(), 0, friend().public(), &root());
    let (caller, _) = Caller::start(identity(), peer, &secret(), 1, &mut rng).expect("a first flight");
    let mut state = Some(caller);
    for mut piece in answer.chunks(step) {
        let Some(caller) = state.take() else { return };
        match caller.input(&mut piece, &mut rng) {
            Ok(Ok(_)) => panic!("a link stands with nobody"),
            Ok(Err(same)) => state = Some(same),
            Err(_) => return,
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let (form, rest) = form(data);
    let me = identity().public().hash();
    let direction = root().direction(&friend().public().hash(), &me);
    let step = usize::from(form / 8) * 16 + 1;
    match form % 5 {
        0 => {
            let claim = Claim::read(&padded::<HEAD1_LEN>(rest));
            assert!(!claim.is_from(&direction), "a tag was guessed");
            assert!(claim.open(&direction).is_err());
            assert!(frame::open_first(&direction, &claim, rest).is_err());
            assert!(frame::open_next_head(&direction, &BEFORE, &padded::<HEAD2_LEN>(rest)).is_err());
            assert!(frame::open_next(&direction, &BEFORE, &NONCE, rest).is_err());
            answer(rest, step);
        }
        1 => call(rest, step),
        // Flight 1 with arbitrary plaintext in both boxes.
        2 | 3 => {
            let mut r = Reader::new(rest);
            let (Ok(counter), Ok(generation), Ok(len), Ok(flags)) = (r.u64(), r.u32(), r.u16(), r.u16())
            else {
                return;
            };
            let plain = r.remaining();
            // Mostly the true length and no flags, so that the body is reached.
            let (len, flags, generation) =
                if form % 5 == 3 { ((plain.len() + 16) as u16, 0, 0) } else { (len, flags, generation) };
            let tag = kdf::mac16(&key(Label::TAG), &NONCE);
            let aad = [tag.as_slice(), &NONCE].concat();
            let mut w = Writer::new();
            w.u64(counter).u32(generation).u16(len).u16(flags);
            let head = seal_record(&key(Label::WRAP_HEAD), &NONCE, &aad, w.as_bytes());
            let body = seal_record(&key(Label::WRAP_BODY), &NONCE, &aad, plain);
            let flight = [aad.as_slice(), &head, &body].concat();
            let claim = Claim::read(flight.first_chunk().expect("a whole head"));
            assert!(claim.is_from(&direction) && claim.nonce() == &NONCE);
            match claim.open(&direction) {
                Ok(opened) => {
                    assert!((flags > 255 || flags <= 1) && (18..=MAX_BODY_LEN).contains(&usize::from(len)));
                    let fields = (opened.counter, opened.psk_gen, opened.body_len, opened.nonce);
                    assert_eq!(fields, (counter, generation, usize::from(len), NONCE));
                }
                Err(_) => {
                    assert!((2..256).contains(&flags) || !(18..=MAX_BODY_LEN).contains(&usize::from(len)))
                }
            }
            if let Ok(message) = frame::open_first(&direction, &claim, &body) {
                assert_eq!(plain[2..2 + message.len()], message);
            }
            answer(&flight, step);
        }
        // Flight 2 or 3 with arbitrary plaintext in both boxes.
        _ => {
            let mut r = Reader::new(rest);
            let Ok(len) = r.u16() else { return };
            let plain = r.remaining();
            let mut head = NONCE.to_vec();
            head.extend(seal_record(&key(Label::WRAP_HEAD), &NONCE, &BEFORE, &len.to_le_bytes()));
            let body = seal_record(&key(Label::WRAP_BODY), &NONCE, &BEFORE, plain);
            let opened =
                frame::open_next_head(&direction, &BEFORE, head.first_chunk().expect("a whole head"));
            let good = (18..=MAX_BODY_LEN).contains(&usize::from(len));
            assert_eq!(opened.ok(), good.then_some((NONCE, usize::from(len))));
            if let Ok(message) = frame::open_next(&direction, &BEFORE, &NONCE, &body) {
                assert_eq!(plain[2..2 + message.len()], message);
            }
        }
    }
});
