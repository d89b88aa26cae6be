//! Who is reached through Tor alone: called nowhere else, answered nowhere else, and told nothing else.

use kith_crypto::cert::{Address, Certificate};
use kith_crypto::content::{Root, VerifyCap};
use kith_crypto::identity::Identity;
use kith_crypto::onion_address::OnionAddress;
use kith_crypto::secret::Key;
use kith_onion::handshake::Who;
use kith_onion::{ConnId, FetchEvent, InviteId, Route};
use kith_tests::forge::{Bare, key_of, person};
use std::time::Duration;

fn ip(n: u8) -> Address {
    Address::Ip(([10, 0, 0, n], 5483).into())
}

fn onion(id: &Identity) -> Address {
    Address::Onion(OnionAddress::of(id.public().sign).expect("a good key"), 5483)
}

fn cert(id: &Identity, addrs: &[Address]) -> Certificate {
    Certificate::sign(id, "Ana", addrs, 1, u32::MAX).expect("a plain name")
}

/// Both addresses in one certificate, the onion address alone in the other.
fn with_onion(bare: &mut Bare, n: u8) {
    let id = person(n);
    let (cert, hidden) = (cert(&id, &[ip(n), onion(&id)]), cert(&id, &[onion(&id)]));
    bare.core.set_certificates(bare.now(), cert, hidden);
    bare.settle();
}

/// Two friends; the first is marked as reached through Tor alone by the second, if at all.
fn two(marked: bool) -> (Bare, Bare) {
    let (me, friend) = (person(0), person(1));
    let (mut a, mut b) = (Bare::new(0, &[&friend], 1), Bare::new(1, &[&me], 2));
    for (bare, n) in [(&mut a, 0), (&mut b, 1)] {
        with_onion(bare, n);
    }
    if marked {
        b.core.set_tor_only(b.now(), Who::Friend(key_of(&me)), true);
        b.settle();
    }
    (a, b)
}

/// Bytes go to and fro until both are quiet.
fn talk(a: &mut Bare, at_a: ConnId, b: &mut Bare, at_b: ConnId) {
    let mut bytes = a.transmit(at_a);
    for _ in 0..20 {
        bytes = b.input(at_b, &bytes);
        bytes.extend(b.transmit(at_b));
        bytes = a.input(at_a, &bytes);
        bytes.extend(a.transmit(at_a));
    }
}

/// The first calls until there is a link that counts, or some calls were made.
fn meet(a: &mut Bare, b: &mut Bare, through_tor: bool) -> Option<(ConnId, ConnId)> {
    (a.tor, b.tor) = (through_tor, through_tor);
    for _ in 0..6 {
        let (_, at_a) = a.dial();
        b.at = b.at.max(a.at);
        let at_b = b.accept(1);
        talk(a, at_a, b, at_b);
        if a.core.is_online(key_of(&person(1))) && b.core.is_online(key_of(&person(0))) {
            return Some((at_a, at_b));
        }
        a.lose(at_a);
        b.lose(at_b);
    }
    None
}

#[test]
fn who_is_reached_through_tor_alone_meets_silence_elsewhere() {
    let (mut a, mut b) = two(true);
    assert_eq!(meet(&mut a, &mut b, false), None);
    assert!(meet(&mut a, &mut b, true).is_some());
    assert_eq!(b.core.is_through_tor(key_of(&person(0))), Some(true));
    // The control: without the mark both ways are good.
    let (mut a, mut b) = two(false);
    assert!(meet(&mut a, &mut b, false).is_some());
    assert_eq!(b.core.is_through_tor(key_of(&person(0))), Some(false));
}

#[test]
fn it_learns_no_other_address_and_no_other_is_called() {
    let (ana, bo) = (person(0), person(1));
    let (mut a, mut b) = two(true);
    meet(&mut a, &mut b, true).unwrap();
    assert_eq!(a.core.addresses(key_of(&bo)), [onion(&bo)], "what Bo told Ana");
    assert_eq!(b.core.addresses(key_of(&ana)), [onion(&ana)], "what of Ana's Bo kept");
    // Taken back, everything is told on the link that stands.
    let (mut a, mut b) = two(true);
    let (at_a, at_b) = meet(&mut a, &mut b, true).unwrap();
    b.core.set_tor_only(b.now(), Who::Friend(key_of(&ana)), false);
    b.settle();
    talk(&mut b, at_b, &mut a, at_a);
    assert_eq!(a.core.addresses(key_of(&bo)).len(), 2);
    // Also by the friend who said it all along, on the next link.
    let (mut a, mut b) = two(true);
    let (at_a, at_b) = meet(&mut a, &mut b, true).unwrap();
    b.core.set_tor_only(b.now(), Who::Friend(key_of(&ana)), false);
    b.settle();
    assert_eq!(b.core.addresses(key_of(&ana)), [onion(&ana)]);
    a.lose(at_a);
    b.lose(at_b);
    meet(&mut a, &mut b, true).unwrap();
    assert_eq!(b.core.addresses(key_of(&ana)).len(), 2);
    // Marked while a direct link stands, that link ends, and only the onion address is called.
    let (mut a, mut b) = two(false);
    meet(&mut a, &mut b, false).unwrap();
    assert_eq!(b.core.addresses(key_of(&ana)).len(), 2);
    b.core.set_tor_only(b.now(), Who::Friend(key_of(&ana)), true);
    b.settle();
    assert!(!b.core.is_online(key_of(&ana)));
    b.dials.clear();
    b.dial();
    assert_eq!(b.dialled, [onion(&ana)]);
}

#[test]
fn with_nothing_but_tor_nothing_else_is_kept_or_called() {
    let ana = person(0);
    let (mut a, mut b) = two(false);
    b.core.set_all_tor_only();
    assert_eq!(meet(&mut a, &mut b, false), None);
    meet(&mut a, &mut b, true).unwrap();
    assert_eq!(b.core.addresses(key_of(&ana)), [onion(&ana)]);
    let stranger = person(7);
    let record = b.core.friendship(&cert(&stranger, &[ip(7), onion(&stranger)])).unwrap();
    assert_eq!(record.addrs, [onion(&stranger)]);
}

#[test]
fn the_quicker_way_comes_first_and_after_silence_the_other() {
    let ana = person(0);
    let (mut a, mut b) = two(false);
    meet(&mut a, &mut b, false).unwrap();
    let order = |b: &mut Bare| {
        b.dials.clear();
        let (_, conn) = b.dial();
        (b.dialled.clone(), conn)
    };
    // The friend goes; somebody else answers at its address, and says nothing.
    let goodbye: Vec<ConnId> = (1..20).collect();
    goodbye.into_iter().for_each(|conn| b.lose(conn));
    let (first, conn) = order(&mut b);
    assert_eq!(first, [ip(0), onion(&ana)]);
    b.transmit(conn);
    b.lose(conn);
    let (second, conn) = order(&mut b);
    assert_eq!(second, [onion(&ana), ip(0)]);
    b.transmit(conn);
    b.lose(conn);
    assert_eq!(order(&mut b).0, [ip(0), onion(&ana)]);
}

#[test]
fn who_comes_by_such_an_invite_is_reached_so() {
    let (ana, bo) = (person(0), person(1));
    let (mut a, mut b) = (Bare::new(0, &[], 1), Bare::new(1, &[], 2));
    for (bare, n) in [(&mut a, 0), (&mut b, 1)] {
        with_onion(bare, n);
    }
    let invite = b.invite(1, 5);
    b.core.set_tor_only(b.now(), Who::Invite(InviteId(5)), true);
    a.core.take_invite(a.now(), InviteId(6), invite);
    a.core.set_tor_only(a.now(), Who::Invite(InviteId(6)), true);
    a.settle();
    assert_eq!(meet(&mut a, &mut b, false), None, "an invite that goes through Tor alone");
    assert!(!b.core.is_friend(key_of(&ana)));
    meet(&mut a, &mut b, true).unwrap();
    assert!(b.core.is_tor_only(Who::Friend(key_of(&ana))));
    assert!(a.core.is_tor_only(Who::Friend(key_of(&bo))));
    // Ana's own certificate, which she showed, held no other address.
    assert_eq!(b.core.addresses(key_of(&ana)), [onion(&ana)]);
    assert_eq!(a.core.addresses(key_of(&bo)), [onion(&bo)]);
}

#[test]
fn what_waits_for_tor_is_tried_again_soon_and_counts_as_nothing() {
    let ana = person(0);
    let mut b = Bare::new(1, &[&ana], 2);
    let who = Who::Friend(key_of(&ana));
    let mut last = Duration::ZERO;
    for _ in 0..50 {
        while b.dials.is_empty() {
            let next = b.core.poll_timeout().unwrap();
            b.run_to(next);
        }
        b.dials.clear();
        if last > Duration::ZERO {
            let gap = b.at - last;
            assert!(gap >= Duration::from_secs(4) && gap <= Duration::from_secs(9), "{gap:?}");
        }
        last = b.at;
        b.core.dial_postponed(b.now(), who);
        b.settle();
    }
    assert_eq!(b.core.reach(b.now(), key_of(&ana)).unwrap().failed_dials, 0);
}

#[test]
fn a_call_that_is_given_up_is_made_again() {
    let (mut a, mut b) = (Bare::new(0, &[], 1), Bare::new(1, &[], 2));
    with_onion(&mut a, 0);
    with_onion(&mut b, 1);
    let invite = b.invite(1, 5);
    let who = Who::Invite(InviteId(6));
    a.core.take_invite(a.now(), InviteId(6), invite);
    a.run_to(Duration::from_secs(1));
    assert_eq!(std::mem::take(&mut a.dials), [who], "it is under way");
    a.core.set_tor_only(a.now(), who, true);
    a.core.dial_postponed(a.now(), who);
    a.run_to(Duration::from_secs(20));
    assert_eq!(a.dials, [who], "and made again");
}

/// An invite that is waiting is used through Tor alone once its inviter is marked.
#[test]
fn a_mark_holds_for_what_waits_of_the_same_friend() {
    let bo = person(1);
    let (mut a, mut b) = (Bare::new(0, &[&bo], 1), Bare::new(1, &[], 2));
    with_onion(&mut a, 0);
    let who = Who::Invite(InviteId(6));
    a.core.take_invite(a.now(), InviteId(6), b.invite(1, 5));
    a.settle();
    a.dials.clear();
    let conn = a.core.dialled_through(a.now(), who, false);
    a.core.set_tor_only(a.now(), Who::Friend(key_of(&bo)), true);
    a.settle();
    assert_eq!(a.undialled, [Who::Friend(key_of(&bo)), who]);
    assert_eq!(a.closed.iter().map(|(_, conn)| *conn).collect::<Vec<_>>(), [conn]);
}

/// While Tor is away, what only it can bring waits; the rest gives up as ever.
#[test]
fn a_fetch_waits_for_tor_when_nothing_else_can_bring_it() {
    let (ana, cleo) = (person(0), person(2));
    let ends = |marked: bool, from: u8, away: bool| {
        let mut b = Bare::new(1, &[&ana, &cleo], 2);
        b.core.set_tor_only(b.now(), Who::Friend(key_of(&ana)), marked);
        b.core.set_away(away);
        let cap = VerifyCap { root: Root([7; 32]), tree: Key::new([8; 32]) };
        let begun = b.core.start_fetch(b.now(), cap, Route::Friend(key_of(&person(from))), None);
        assert!(begun.is_some());
        b.run_to(Duration::from_secs(600));
        b.fetched.iter().any(|event| matches!(event, FetchEvent::Unreachable))
    };
    assert!(!ends(true, 0, true), "it waits for Tor");
    assert!(ends(true, 0, false), "Tor is there, and the friend is not");
    assert!(ends(true, 2, true), "the other friend is reached without Tor");
    assert!(ends(false, 0, true), "so is this one");
}
