//! What builders, relays and ends of circuits read: creations, payloads, handle lists, layers, and the
//! routes that a node stored.
#![no_main]

use kith_crypto::aead::TAG_LEN;
use kith_crypto::circuit::{
    BODY_LEN, Body, Building, CREATE_LEN, Layers, OnionKey, RelayLayer, STACK_LEN, answer,
};
use kith_crypto::rng::Rng;
use kith_fuzz::{form, is_padded, padded};
use kith_onion::circuit::{CREATED_LEN, Create, Relayed, decode_created, peek_record, write_record};
use kith_onion::handle::{LIST_BYTES, LIST_LEN, decode_list, encode_list};
use kith_onion::route::{Pair, Routes};
use libfuzzer_sys::fuzz_target;

fn payload(body: &Body) {
    let record = peek_record(body);
    match Relayed::read(body) {
        Ok((stream, message)) => {
            let mut again = [0; BODY_LEN];
            message.write(stream, &mut again);
            assert_eq!(again[STACK_LEN..], body[STACK_LEN..], "one form for each message");
            match &message {
                Relayed::Data(bytes) => {
                    assert_eq!(record, Some((stream, bytes.as_slice())));
                    let mut short = [0; BODY_LEN];
                    write_record(stream, bytes, &mut short);
                    assert_eq!(short, again);
                }
                _ => assert_eq!(record, None),
            }
        }
        Err(_) => assert_eq!(record, None, "both ways of reading agree"),
    }
}

fn list(bytes: &[u8]) {
    if let Ok(list) = decode_list(bytes) {
        assert!(list.len() <= LIST_LEN && encode_list(&list) == bytes);
        // Whatever a list says, a route made of it has no relay that is not in it.
        let mut routes = Routes::default();
        let step = routes.second(Pair::Primary, &list, 1, true, &mut Rng::from_seed([1; 32]));
        assert!(step.chosen.is_none(), "without a guard nothing is chosen");
    }
}

/// A circuit of so many relays: the builder's side, and each relay's.
fn circuit(hops: usize, rng: &mut Rng) -> (Layers, Vec<RelayLayer>) {
    let (mut layers, mut relays) = (Layers::default(), Vec::new());
    for _ in 0..hops {
        let key = OnionKey::generate(rng);
        let (building, message) = Building::start(key.public(), 7, rng).expect("a good key");
        let (layer, answer) = answer(&key, 7, &message, &[0; LIST_BYTES], rng).expect("for this key");
        let (hop, list) = building.finish(&answer).expect("from this key");
        assert!(answer.len() == CREATED_LEN && decode_list(&list).is_ok());
        layers.push(hop).expect("six at most");
        relays.push(layer);
    }
    (layers, relays)
}

/// Cells both ways through a circuit, of which some are changed, left out, doubled or made up: those
/// that came as they left are read, and at the first other one the circuit is over.
fn layers(data: &[u8]) {
    let Some((first, mut rest)) = data.split_first() else { return };
    let mut rng = Rng::from_seed([3; 32]);
    let hops = usize::from(first % 6) + 1;
    let (mut builder, mut relays) = circuit(hops, &mut rng);
    let mut last: Option<Body> = None;
    while let [step, at, what, more @ ..] = rest {
        rest = more;
        let mut body = padded::<BODY_LEN>(more);
        let plain = body;
        let (forward, kind) = (step & 1 == 0, step >> 1 & 7);
        if forward {
            builder.seal(&mut body, &mut rng);
        } else {
            let from = relays.last_mut().expect("there is one");
            from.originate(&mut body, &mut rng);
        }
        let sent = body;
        match kind {
            1 => body[usize::from(*at) * 16 % BODY_LEN] ^= what | 1,
            2 => body = last.unwrap_or(plain),
            3 => body = plain,
            4 => continue, // lost on the way
            _ => {}
        }
        last = Some(sent);
        // Backward, the slots behind the last relay's tag are noise that no tag covers.
        let same = body[STACK_LEN..] == sent[STACK_LEN..]
            && if forward {
                body[..STACK_LEN] == sent[..STACK_LEN]
            } else {
                body[..TAG_LEN] == sent[..TAG_LEN]
            };
        let read = if forward {
            relays.iter_mut().try_for_each(|relay| relay.forward(&mut body)).is_ok()
        } else {
            let (_, before) = relays.split_last_mut().expect("there is one");
            before.iter_mut().rev().for_each(|relay| relay.backward(&mut body));
            builder.open(&mut body).is_ok()
        };
        if !read {
            return;
        }
        assert!(same, "what was changed is not read");
        assert_eq!(body[STACK_LEN..], plain[STACK_LEN..], "what was not changed is");
    }
}

fuzz_target!(|data: &[u8]| {
    let (form, rest) = form(data);
    match form % 7 {
        0 => {
            if let Ok(create) = Create::decode(rest) {
                assert!(is_padded(&create.encode(), rest));
                let key = OnionKey::generate(&mut Rng::from_seed([2; 32]));
                let made = answer(&key, create.epoch, &create.message, &[], &mut Rng::from_seed([2; 32]));
                assert!(made.is_err(), "nobody without the key makes a creation for it");
            }
            if let Ok(message) = decode_created(rest) {
                assert!(message.len() == CREATED_LEN && is_padded(&message, rest));
                let key = OnionKey::generate(&mut Rng::from_seed([2; 32]));
                let (building, first) =
                    Building::start(key.public(), 1, &mut Rng::from_seed([4; 32])).expect("a good key");
                assert!(first.len() == CREATE_LEN && building.finish(&message).is_err());
            }
        }
        1 => payload(&padded(rest)),
        // A head that passes, so that more of the body is reached.
        2 => {
            let mut body = [0; BODY_LEN];
            let [kind, rest @ ..] = rest else { return };
            let data = &rest[..rest.len().min(3984)];
            let head = [1, 0, kind % 11, 0, data.len() as u8, (data.len() >> 8) as u8, 0, 0];
            body[STACK_LEN..][..8].copy_from_slice(&head);
            body[STACK_LEN + 8..][..data.len()].copy_from_slice(data);
            payload(&body);
        }
        3 => list(rest),
        4 => list(&padded::<LIST_BYTES>(rest)),
        5 => {
            if let Ok(routes) = Routes::decode(rest) {
                assert_eq!(routes.encode(), rest);
                for pair in [Pair::Primary, Pair::Reserve] {
                    routes.route(pair, usize::from(rest.len() as u8 % 4));
                }
            }
        }
        _ => layers(rest),
    }
});
