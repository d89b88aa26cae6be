//! The formats of this crate against the annotated files in `tests/vectors/crypto`: what stands in
//! them is decoded, encoded again and compared, and everything in `bad-*` is refused.
//! Formats: `docs/protocol/friends.md`, `link.md`, `content.md`, `circuit.md`.

// Helpers of tests fail by panicking; vectors are files.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

#[path = "../../tests/vectors/file.rs"]
mod file;

#[path = "vectors/circuit.rs"]
mod circuit;

use file::{Fields, Folder};
use kith_crypto::aead::{self, BulkKey};
use kith_crypto::cert::{Address, CertError, Certificate};
use kith_crypto::content::{
    BLOCK_LEN, BlockId, Builder, CapError, FANOUT, Head, Locator, MAX_BLOCKS, Part, Position, ReadCap,
    ReadKeys, Root, Sealed, Track, Tree, TreeError, VerifyCap, padded_blocks,
};
use kith_crypto::frame::{self, Claim, HEAD1_LEN, HEAD2_LEN, NotOurs};
use kith_crypto::identity::Identity;
use kith_crypto::invite::Invite;
use kith_crypto::kdf::{self, Label};
use kith_crypto::noise::{Handshake, Pattern};
use kith_crypto::pair::{Direction, PairRoot};
use kith_crypto::ratchet::{Base, First, Second, proof_of_first, proof_of_second};
use kith_crypto::rng::Rng;
use kith_crypto::secret::Key;

const FOLDER: Folder = Folder("crypto");

fn ana() -> Identity {
    Identity::from_secrets([[1; 32], [2; 32], [3; 32]])
}

fn bo() -> Identity {
    Identity::from_secrets([[4; 32], [5; 32], [6; 32]])
}

fn certificate() -> Certificate {
    let addrs = [
        Address::Ip("192.0.2.7:5483".parse().unwrap()),
        Address::Ip("[2001:db8::7]:5483".parse().unwrap()),
        Address::Host("node.example".into(), 5483),
        Address::Onion(kith_crypto::onion_address::OnionAddress::of(bo().public().sign).unwrap(), 5483),
    ];
    Certificate::sign(&ana(), "Ana", &addrs, 1_700_000_000, 1_800_000_000).unwrap()
}

fn without_end(bytes: &[u8]) -> Vec<u8> {
    bytes[..bytes.len() - 1].to_vec()
}

fn with(bytes: &[u8], at: usize, new: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + new.len()].copy_from_slice(new);
    bytes
}

#[test]
fn identity() {
    let id = ana();
    let [sign, noise, pair] = id.secrets();
    let fields = Fields::new("identity: secrets, public keys, hash of the public keys")
        .note(format!("fingerprint: {}", id.public().fingerprint()))
        .note(format!("in words: {}", id.public().fingerprint_words().join(" ")))
        .piece("sign secret (Ed25519 seed)", &sign)
        .piece("noise secret (X25519)", &noise)
        .piece("pair secret (X25519)", &pair)
        .piece("noise", &id.public().noise)
        .piece("sign", &id.public().sign)
        .piece("pair", &id.public().pair)
        .piece("hash", &id.public().hash());
    let bytes = FOLDER.check("identity", fields);
    let part = |i: usize| -> [u8; 32] { bytes[32 * i..32 * (i + 1)].try_into().unwrap() };
    assert_eq!(Identity::from_secrets([part(0), part(1), part(2)]).public().hash(), part(6));
}

#[test]
fn certificates() {
    let cert = certificate();
    let fields = Fields::new("certificate of the identity in identity.hex").note(cert.to_text()).cut(
        cert.encoded(),
        &[
            ("version", 1),
            ("noise", 32),
            ("sign", 32),
            ("pair", 32),
            ("name length", 1),
            ("name", 3),
            ("address count", 1),
            ("address 1 type", 1),
            ("address 1 length", 1),
            ("address 1 (4 + port)", 6),
            ("address 2 type", 1),
            ("address 2 length", 1),
            ("address 2 (16 + port)", 18),
            ("address 3 type", 1),
            ("address 3 length", 1),
            ("address 3 (host + port)", 14),
            ("address 4 type", 1),
            ("address 4 length", 1),
            ("address 4 (onion + port)", 58),
            ("created", 4),
            ("expires", 4),
            ("signature", 64),
        ],
        "",
    );
    let good = FOLDER.check("certificate", fields);
    assert_eq!(Certificate::decode(&good), Ok(cert.clone()));
    assert_eq!(Certificate::from_text(&cert.to_text()), Ok(cert));

    // Positions: 97 name length, 98 name, 101 address count, 102 first type, 108 its port.
    let resigned = |body: &[u8]| {
        let signature = ana().sign(&[b"kith certificate v1", body].concat());
        [body, &signature].concat()
    };
    let body = &good[..good.len() - 64];
    let later = resigned(&with(body, 102, &[4]));
    let fields = Fields::new(
        "certificate whose first address has a type of a later release (4): it is skipped",
    )
    .cut(&later, &[("before", 102), ("address 1 type", 1)], "rest");
    let later = FOLDER.check("certificate-later-address", fields);
    let decoded = Certificate::decode(&later).unwrap();
    assert_eq!((decoded.addrs.len(), decoded.encoded()), (3, later.as_slice()));

    let long_name = [&good[..97], &[65], &[b'a'; 65], &good[101..]].concat();
    let nine = [1, 6, 127, 0, 0, 1, 1, 0].repeat(9);
    let nine = [&good[..101], &[9], nine.as_slice(), &good[good.len() - 72..]].concat();
    let expires_at = good.len() - 68;
    FOLDER.check_bad(
        "certificate",
        &[
            ("truncated", without_end(&good)),
            ("trailing", [good.as_slice(), &[0]].concat()),
            ("version", resigned(&with(body, 0, &[2]))),
            ("name-too-long", long_name),
            ("name-control-character", resigned(&with(body, 98, b"A\x1ba"))),
            ("name-not-utf8", resigned(&with(body, 98, &[0xff]))),
            ("name-empty", resigned(&[&body[..97], &[0], &body[101..]].concat())),
            ("nine-addresses", nine),
            ("address-type-0", resigned(&with(body, 102, &[0]))),
            ("address-type-64", resigned(&with(body, 102, &[64]))),
            ("address-length", resigned(&[&body[..103], &[5], &body[105..]].concat())),
            ("port-0", resigned(&with(body, 108, &[0, 0]))),
            ("expires-before-created", resigned(&with(body, expires_at, &[0; 4]))),
            ("forged", with(&good, good.len() - 1, &[good[good.len() - 1] ^ 1])),
            ("too-long", vec![1; 2049]),
        ],
        Certificate::decode,
    );
    let text = certificate().to_text();
    FOLDER.check_bad(
        "text-of-certificate",
        &[
            ("scheme", text.replace("c1", "c2").into_bytes()),
            ("character", text.replace("AQ", "A*").into_bytes()),
        ],
        |t| Certificate::from_text(std::str::from_utf8(t).unwrap()),
    );
}

#[test]
fn invites() {
    let cert = certificate();
    let invite = Invite::sign(&ana(), cert.clone(), Key::new([7; 32]), 1_750_000_000);
    let fields = Fields::new("invite of the certificate in certificate.hex").note(invite.to_text()).cut(
        invite.encoded(),
        &[
            ("version", 1),
            ("secret", 32),
            ("expires", 4),
            ("certificate length", 2),
            ("certificate", cert.encoded().len()),
            ("signature", 64),
        ],
        "",
    );
    let good = FOLDER.check("invite", fields);
    assert_eq!(Invite::decode(&good), Ok(invite.clone()));
    assert_eq!(Invite::from_text(&invite.to_text()), Ok(invite));

    let thief = Invite::sign(&bo(), cert, Key::new([7; 32]), 1_750_000_000);
    FOLDER.check_bad(
        "invite",
        &[
            ("truncated", without_end(&good)),
            ("trailing", [good.as_slice(), &[0]].concat()),
            ("version", with(&good, 0, &[2])),
            ("certificate-too-long", with(&good, 37, &2049_u16.to_le_bytes())),
            ("other-signer", thief.encoded().to_vec()),
            ("changed-secret", with(&good, 1, &[8])),
            ("too-long", vec![1; 2177]),
        ],
        Invite::decode,
    );
    let plain = |t: &[u8]| -> Result<(), CertError> {
        Invite::from_text(std::str::from_utf8(t).unwrap()).map(|_| ())
    };
    let certificate = certificate().to_text().into_bytes();
    FOLDER.check_bad("text-of-invite", &[("is-a-certificate", certificate)], plain);
}

#[test]
fn pair_roots() {
    let (ana, bo, secret) = (ana(), bo(), Key::new([7; 32]));
    let root = PairRoot::new(&ana, bo.public(), Some(&secret)).unwrap();
    assert_eq!(Some(&root), PairRoot::new(&bo, ana.public(), Some(&secret)).as_ref());
    let (a, b) = (ana.public().hash(), bo.public().hash());
    let child = |label| *kdf::derive(label, &[root.key().expose(), &a, &b]).expose();
    let fields = Fields::new("pair root of two identities and an invite's secret, and its children")
        .note("Ana: identity.hex; Bo: secrets 04.., 05.., 06..; keys of the direction Ana to Bo")
        .piece("identity hash of Ana", &a)
        .piece("identity hash of Bo", &b)
        .piece("invite secret", secret.expose())
        .piece("pair root", root.key().expose())
        .piece("pair root without an invite", PairRoot::new(&ana, bo.public(), None).unwrap().key().expose())
        .piece("root of the invite itself", PairRoot::of_invite(&secret, ana.public()).key().expose())
        .piece("id of the pair root", &root.id())
        .piece("tag key", &child(Label::TAG))
        .piece("head key", &child(Label::WRAP_HEAD))
        .piece("body key", &child(Label::WRAP_BODY))
        .piece("psk of generation 0", root.psk0().expose())
        .piece("psk of recovery handshakes", root.recovery_psk().expose());
    FOLDER.check("pair_root", fields);
}

fn frame_key(label: Label, caller: u8, callee: u8) -> Key {
    kdf::derive(label, &[&[9; 32], &[caller; 32], &[callee; 32]])
}

fn directions() -> (Direction, Direction) {
    let root = PairRoot::from_key(Key::new([9; 32]));
    (root.direction(&[1; 32], &[2; 32]), root.direction(&[2; 32], &[1; 32]))
}

/// The first seed whose padding keeps the vector short.
fn short_flight(make: impl Fn(&mut Rng) -> Vec<u8>) -> (u8, Vec<u8>) {
    let seeds = (0..=255).map(|seed: u8| (seed, make(&mut Rng::from_seed([seed; 32]))));
    seeds.min_by_key(|(_, flight)| flight.len()).unwrap()
}

#[test]
fn flights() {
    let (there, back) = directions();
    let (seed, flight) = short_flight(|rng| frame::seal_first(&there, 77, 0, &[0x4d; 48], rng).0);
    let fields = Fields::new("flight 1 around a Noise message of 48 bytes 4d; counter 77, psk_gen 0")
        .note("pair root 09.., caller 01.., callee 02..")
        .note(format!("Rng seed: 32 bytes {seed:02x}"))
        .cut(&flight, &[("tag", 16), ("nonce", 24), ("head box", 32)], "body box");
    let first = FOLDER.check("flight_1", fields);
    let open = |bytes: &[u8]| -> Result<(u64, u32, Vec<u8>), NotOurs> {
        let (head, body) = bytes.split_first_chunk::<HEAD1_LEN>().ok_or(NotOurs)?;
        let claim = Claim::read(head);
        if !claim.is_from(&there) {
            return Err(NotOurs);
        }
        let head = claim.open(&there)?;
        let body = body.get(..head.body_len).ok_or(NotOurs)?;
        Ok((head.counter, head.psk_gen, frame::open_first(&there, &claim, body)?))
    };
    assert_eq!(open(&first), Ok((77, 0, vec![0x4d; 48])));
    let nonce: [u8; 24] = first[16..40].try_into().unwrap();
    assert_eq!(kdf::mac16(&frame_key(Label::TAG, 1, 2), &nonce), first[..16]);

    let sealed_head = |body_len: u16, flags: u16| {
        let plain =
            [&77_u64.to_le_bytes()[..], &[0; 4], &body_len.to_le_bytes(), &flags.to_le_bytes()].concat();
        let head = aead::seal_record(&frame_key(Label::WRAP_HEAD, 1, 2), &nonce, &first[..40], &plain);
        with(&first, 40, &head)
    };
    let body_len = (first.len() - HEAD1_LEN) as u16;
    assert_eq!(sealed_head(body_len, 0), first);
    FOLDER.check_bad(
        "flight_1",
        &[
            ("truncated-head", first[..71].to_vec()),
            ("truncated-body", without_end(&first)),
            ("tag", with(&first, 0, &[first[0] ^ 1])),
            ("head-box", with(&first, 40, &[first[40] ^ 1])),
            ("body-box", with(&first, 72, &[first[72] ^ 1])),
            ("flags", sealed_head(body_len, 2)),
            ("body-too-long", sealed_head(2049, 0)),
            ("body-too-short", sealed_head(17, 0)),
        ],
        open,
    );

    let (seed, flight) = short_flight(|rng| frame::seal_next(&back, &nonce, &[0x4e; 48], rng).0);
    let fields =
        Fields::new("flight 2 around a Noise message of 48 bytes 4e, bound to the nonce in flight_1.hex")
            .note(format!("Rng seed: 32 bytes {seed:02x}"))
            .cut(&flight, &[("nonce", 24), ("head box", 18)], "body box");
    let second = FOLDER.check("flight_2", fields);
    let open_next = |before: &[u8; 24], bytes: &[u8]| -> Result<Vec<u8>, NotOurs> {
        let (head, body) = bytes.split_first_chunk::<HEAD2_LEN>().ok_or(NotOurs)?;
        let (nonce, len) = frame::open_next_head(&back, before, head)?;
        frame::open_next(&back, before, &nonce, body.get(..len).ok_or(NotOurs)?)
    };
    assert_eq!(open_next(&nonce, &second), Ok(vec![0x4e; 48]));
    assert_eq!(open_next(&[0; 24], &second), Err(NotOurs), "bound to the flight before");
    let nonce2: [u8; 24] = second[..24].try_into().unwrap();
    let long =
        aead::seal_record(&frame_key(Label::WRAP_HEAD, 2, 1), &nonce2, &nonce, &2049_u16.to_le_bytes());
    FOLDER.check_bad(
        "flight_2",
        &[
            ("truncated", without_end(&second)),
            ("head-box", with(&second, 24, &[second[24] ^ 1])),
            ("body-box", with(&second, 42, &[second[42] ^ 1])),
            ("body-too-long", with(&second, 24, &long)),
        ],
        |bytes| open_next(&nonce, bytes),
    );
}

#[test]
fn ratchet() {
    let base = Base { psk: Key::new([1; 32]), hash: [2; 32], generation: 7 };
    let (first, key) = First::begin(&mut Rng::from_seed([3; 32])).unwrap();
    let (second, their_key, text) = Second::answer(&key, &mut Rng::from_seed([4; 32])).unwrap();
    let (psk, own_text) = first.answered(&base, &their_key, &text, &mut Rng::from_seed([5; 32])).unwrap();
    assert_eq!(second.confirmed(&base, &own_text, &proof_of_first(&psk)).unwrap(), psk);
    let fields = Fields::new("ratchet: one exchange, the new PSK and both proofs")
        .note("base psk 01.., handshake hash 02.., generation 7")
        .note("Rng seeds: first's key 03.., second 04.., first's encapsulation 05..")
        .piece("first's key", &key)
        .piece("second's key", &their_key)
        .piece("second's ciphertext", &text)
        .piece("first's ciphertext", &own_text)
        .piece("psk", psk.expose())
        .piece("first's proof", &proof_of_first(&psk))
        .piece("second's proof", &proof_of_second(&psk));
    FOLDER.check("ratchet", fields);
}

/// The same keys and secrets as another implementation of FIPS 203, both ways.
#[test]
fn ml_kem_agrees_with_another_implementation() {
    use fips203::ml_kem_768 as other;
    use fips203::traits::{Decaps, Encaps, KeyGen, SerDes};
    use ml_kem::kem::{Decapsulate, KeyExport};
    for n in 0..20_u8 {
        let (d, z, m) = ([n; 32], [n ^ 0x5a; 32], [n.wrapping_mul(7); 32]);
        let (their_public, their_secret) = other::KG::keygen_from_seed(d, z);
        let seed: [u8; 64] = [d, z].concat().try_into().unwrap();
        let ours = ml_kem::DecapsulationKey::<ml_kem::MlKem768>::from_seed(seed.into());
        assert_eq!(ours.encapsulation_key().to_bytes().as_slice(), their_public.clone().into_bytes());

        let (text, shared) = ours.encapsulation_key().encapsulate_deterministic(&m.into());
        let bytes: [u8; 1088] = text.as_slice().try_into().unwrap();
        let theirs = their_secret.try_decaps(&other::CipherText::try_from_bytes(bytes).unwrap()).unwrap();
        assert_eq!(shared.as_slice(), theirs.into_bytes());

        let (shared, text) = their_public.encaps_from_seed(&m);
        let mut bytes = text.into_bytes();
        let opened = ours.decapsulate(&bytes.as_slice().try_into().unwrap());
        assert_eq!(opened.as_slice(), shared.into_bytes());
        // Implicit rejection: a flipped bit gives another secret, the same in both implementations.
        bytes[usize::from(n)] ^= 1;
        let text = other::CipherText::try_from_bytes(bytes).unwrap();
        let rejected = their_secret.try_decaps(&text).unwrap().into_bytes();
        let ours = ours.decapsulate(&bytes.as_slice().try_into().unwrap());
        assert_eq!(ours.as_slice(), rejected);
        assert_ne!(ours.as_slice(), opened.as_slice());
    }
}

#[test]
fn handshakes() {
    let (ana, bo, psk) = (ana(), bo(), Key::new([8; 32]));
    let both = |name: &str, i: Pattern<'_>, r: Pattern<'_>, flights: usize| {
        let mut i = Handshake::initiate(i, &psk, b"vector", &mut Rng::from_seed([1; 32])).unwrap();
        let mut r = Handshake::respond(r, &psk, b"vector", &mut Rng::from_seed([2; 32])).unwrap();
        let mut fields = Fields::new(name)
            .note("psk 08.., prologue \"vector\"; Rng seeds: initiator 01.., responder 02..; empty payloads")
            .note("identities: initiator Ana, responder Bo, as in pair_root.hex");
        for n in 1..=flights {
            let (from, to) = if n % 2 == 1 { (&mut i, &mut r) } else { (&mut r, &mut i) };
            let message = from.write(&[]).unwrap();
            assert_eq!(to.read(&message).unwrap(), b"");
            fields = fields.piece(&format!("message {n}"), &message);
        }
        let (mut i, mut r) = (i.into_session().unwrap(), r.into_session().unwrap());
        let (mut sealed, mut plain) = ([0; 21], [0; 21]);
        i.seal(b"hello", &mut sealed).unwrap();
        assert_eq!(r.open(&sealed, &mut plain).unwrap(), 5);
        fields.piece("first transport message (hello)", &sealed)
    };
    let friends = |me, peer| Pattern::Friends { me, peer };
    let kk = both(
        "Noise_KKpsk0_25519_ChaChaPoly_BLAKE2s",
        friends(&ana, &bo.public().noise),
        friends(&bo, &ana.public().noise),
        2,
    );
    FOLDER.check("noise_kk", kk);
    let invite = |me| Pattern::Invite { me };
    FOLDER.check("noise_xx", both("Noise_XXpsk0_25519_ChaChaPoly_BLAKE2s", invite(&ana), invite(&bo), 3));
    let nn = both("Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s", Pattern::Tunnel, Pattern::Tunnel, 2);
    FOLDER.check("noise_nn", nn);
}

#[test]
fn capabilities() {
    let cap = ReadCap { root: Root([0x11; 32]), key: Key::new([0x22; 32]) };
    let verify = cap.verify_cap();
    let hour = 472_222_u64;
    let fields = Fields::new("capabilities of one object: each follows from the one before, never back")
        .note(format!("read link: {}", cap.to_link()))
        .note(format!("verify link: {}", verify.to_link()))
        .piece("root", cap.root.as_bytes())
        .piece("read key", cap.key.expose())
        .piece("tree key", verify.tree.expose())
        .piece("locator", cap.locator().as_bytes())
        .piece("hour", &hour.to_le_bytes())
        .piece("locator in that hour", &cap.locator().at_hour(hour))
        .piece("psk of a tunnel", verify.tunnel_psk().expose());
    let bytes = FOLDER.check("capabilities", fields);
    let part = |i: usize| -> [u8; 32] { bytes[32 * i..32 * (i + 1)].try_into().unwrap() };
    let read = ReadCap { root: Root(part(0)), key: Key::new(part(1)) };
    assert_eq!(read.verify_cap().tree.expose(), &part(2));
    assert_eq!(read.verify_cap().locator(), Locator(part(3)));
    assert_eq!(ReadCap::from_link(&cap.to_link()), Ok(cap.clone()));
    assert_eq!(VerifyCap::from_link(&verify.to_link()), Ok(verify.clone()));

    let link = cap.to_link();
    let last = link.len() - 1;
    FOLDER.check_bad(
        "read-link",
        &[
            ("truncated", link.as_bytes()[..last].to_vec()),
            ("trailing", format!("{link}A").into_bytes()),
            ("version", link.replace("r1", "r2").into_bytes()),
            ("is-a-verify-link", verify.to_link().into_bytes()),
            ("character", with(link.as_bytes(), 20, b"+")),
            ("surplus-bits", with(link.as_bytes(), last, b"z")),
        ],
        |t| -> Result<ReadCap, CapError> { ReadCap::from_link(std::str::from_utf8(t).unwrap()) },
    );
}

fn object() -> (ReadCap, Vec<Sealed>) {
    let mut builder = Builder::new(Key::new([7; 32]));
    let mut all = vec![builder.push(b"otters at play".to_vec()).unwrap()];
    let (cap, _) = builder.finish(&head(), |s| all.push(s));
    (cap, all)
}

fn head() -> Head {
    Head {
        title: "Otters".into(),
        text: "At the zoo".into(),
        tags: vec!["zoo".into()],
        mime: "video/mp4".into(),
        lang: "en".into(),
        licence: "CC0".into(),
        len: 14,
        duration_ms: 2_500,
        tracks: vec![Track { width: 640, height: 360, codec: "H.264".into(), ..Track::default() }],
        chapters: vec![(1_000, "Out".into())],
        poster: vec![0xFF, 0xD8],
        parts: vec![Part {
            kind: 1,
            block: 1,
            len: 6,
            lang: "de".into(),
            label: "Deutsch".into(),
            ..Part::default()
        }],
    }
}

#[test]
fn objects() {
    let (cap, all) = object();
    let sealed = |p| all.iter().find(|s| s.position == p).unwrap().bytes.as_slice();
    let mut root = sealed(Position::Root).to_vec();
    ReadKeys::new(&cap.key).open(Position::Root, &mut root).unwrap();
    let child = |label| *kdf::derive(label, &[cap.key.expose()]).expose();
    let fields = Fields::new("object of one data block: \"otters at play\" and zeros; head as in head.hex")
        .piece("read key", cap.key.expose())
        .piece("tree key", &child(Label::TREE))
        .piece("block key", &child(Label::BLOCK))
        .piece("head key", &child(Label::HEAD))
        .piece("nonce of data block 0", &Position::Data(0).nonce())
        .piece("nonce of the head", &Position::Head.nonce())
        .piece("nonce of the root", &Position::Root.nonce())
        .piece("data block, sealed, first 32 bytes", &sealed(Position::Data(0))[..32])
        .piece("data block, tag", &sealed(Position::Data(0))[65_536..])
        .piece("data block, id", BlockId::of(sealed(Position::Data(0))).as_bytes())
        .piece("head, id", BlockId::of(sealed(Position::Head)).as_bytes())
        .piece("root, plaintext, magic", &root[..4])
        .piece("root, plaintext, level", &root[4..5])
        .piece("root, plaintext, data count", &root[5..13])
        .piece("root, plaintext, head id", &root[13..45])
        .piece("root, plaintext, child", &root[45..77])
        .piece("root, id of the object", cap.root.as_bytes());
    FOLDER.check("object", fields);
    let (mut tree, _) = Tree::open(&cap.verify_cap(), sealed(Position::Root).to_vec()).unwrap();
    for p in [Position::Head, Position::Data(0)] {
        tree.verify(p, sealed(p).to_vec()).unwrap();
    }
}

#[test]
fn heads() {
    let block = head().encode();
    let fields = Fields::new("plaintext of a head block").cut(
        &block,
        &[
            ("magic", 4),
            ("length", 8),
            ("duration_ms", 8),
            ("title length", 1),
            ("title", 6),
            ("text length", 2),
            ("text", 10),
            ("tag count", 1),
            ("tag 1 length", 1),
            ("tag 1", 3),
            ("media type length", 1),
            ("media type", 9),
            ("language length", 1),
            ("language", 2),
            ("licence length", 1),
            ("licence", 3),
            ("track count", 1),
            ("track 1, kind (pictures)", 1),
            ("track 1, browsers (all)", 1),
            ("track 1, width", 2),
            ("track 1, height", 2),
            ("track 1, codec length", 1),
            ("track 1, codec", 5),
            ("track 1, language length", 1),
            ("chapter count", 1),
            ("chapter 1, begins at ms", 8),
            ("chapter 1, title length", 1),
            ("chapter 1, title", 3),
            ("poster length", 2),
            ("poster", 2),
            ("part count", 1),
            ("part 1, kind (captions)", 1),
            ("part 1, first block", 4),
            ("part 1, length", 4),
            ("part 1, step in ms", 4),
            ("part 1, columns", 1),
            ("part 1, language length", 1),
            ("part 1, language", 2),
            ("part 1, label length", 1),
            ("part 1, label", 7),
        ],
        "padding",
    );
    let good = FOLDER.check("head", fields);
    let decoded = Head::decode(&good).unwrap();
    assert_eq!((&decoded, decoded.encode()), (&head(), good.clone()));
    FOLDER.check_bad(
        "head",
        &[
            ("truncated", good[..30].to_vec()),
            ("version", with(&good, 3, b"3")),
            ("first-form-with-more", with(&good, 3, b"1")),
            ("title-too-long", with(&good, 20, &[97])),
            ("title-not-utf8", with(&good, 21, &[0xff])),
            ("text-too-long", with(&good, 27, &4097_u16.to_le_bytes())),
            ("nine-tags", with(&good, 39, &[9])),
            ("33-tracks", with(&good, 61, &[33])),
            ("kind-of-track", with(&good, 62, &[3])),
            ("browsers", with(&good, 63, &[3])),
            ("201-chapters", with(&good, 75, &[201])),
            ("poster-too-long", with(&good, 88, &32_769_u16.to_le_bytes())),
            ("17-parts", with(&good, 92, &[17])),
            ("part-too-long", with(&good, 98, &1_048_577_u32.to_le_bytes())),
            ("padding", with(&good, BLOCK_LEN - 1, &[1])),
        ],
        Head::decode,
    );
}

/// Pads and seals a plaintext as the block at a position, under the tree key 33...
fn seal_tree(position: Position, plain: &[u8]) -> Vec<u8> {
    let mut block = plain.to_vec();
    block.resize(BLOCK_LEN.max(plain.len()), 0);
    BulkKey::new(&Key::new([0x33; 32])).seal(position.nonce(), &[], &mut block);
    block
}

fn open_root(plain: &[u8]) -> Result<Tree, TreeError> {
    let sealed = seal_tree(Position::Root, plain);
    let cap = VerifyCap { root: Root(BlockId::of(&sealed).0), tree: Key::new([0x33; 32]) };
    Tree::open(&cap, sealed).map(|(tree, _)| tree)
}

fn root_plain(level: u8, count: u64, children: &[BlockId]) -> Vec<u8> {
    let mut plain = [b"KRT1".as_slice(), &[level], &count.to_le_bytes(), &[0x44; 32]].concat();
    children.iter().for_each(|c| plain.extend(c.as_bytes()));
    plain
}

/// Whether a node block with this plaintext is taken as the second one of 2047 data blocks.
fn open_node(plain: &[u8]) -> Result<BlockId, TreeError> {
    let node = seal_tree(Position::Node(1), plain);
    let mut tree = open_root(&root_plain(1, 2047, &[BlockId([0; 32]), BlockId::of(&node)]))?;
    tree.verify(Position::Node(1), node)?;
    tree.id_of(Position::Data(2046))
}

#[test]
fn trees() {
    let ids = [BlockId([0x55; 32]), BlockId([0x66; 32])];
    let fields = Fields::new("plaintext of a root of two data blocks; zeros follow to 65,536 bytes").cut(
        &root_plain(0, 2, &ids),
        &[("magic", 4), ("level", 1), ("data count", 8), ("head id", 32), ("child 0", 32), ("child 1", 32)],
        "",
    );
    let good = FOLDER.check("root", fields);
    let tree = open_root(&good).unwrap();
    assert_eq!((tree.geometry().total(), tree.id_of(Position::Data(1))), (4, Ok(ids[1])));
    let full = [good.as_slice(), &vec![0; BLOCK_LEN - good.len() - 1], &[1]].concat();
    FOLDER.check_bad(
        "root",
        &[
            ("version", with(&good, 3, b"2")),
            ("level-too-high", with(&good, 4, &[1])),
            ("level-too-low", root_plain(0, 2047, &ids)),
            ("no-blocks", with(&good, 5, &[0])),
            ("too-many-blocks", with(&good, 5, &(MAX_BLOCKS + 1).to_le_bytes())),
            ("surplus-child", [good.as_slice(), &[0x77; 32]].concat()),
            ("padding", full),
            ("length", [good.as_slice(), &vec![0; BLOCK_LEN]].concat()),
        ],
        open_root,
    );

    let plain = [[1].as_slice(), &1_u16.to_le_bytes(), &[0x55; 32]].concat();
    let fields = Fields::new("plaintext of the second node block of 2047 data blocks; zeros follow").cut(
        &plain,
        &[("level", 1), ("count", 2), ("id of data block 2046", 32)],
        "",
    );
    let good = FOLDER.check("node", fields);
    assert_eq!(open_node(&good), Ok(ids[0]));
    FOLDER.check_bad(
        "node",
        &[
            ("level", with(&good, 0, &[2])),
            ("count-too-low", with(&good, 1, &[0])),
            ("count-too-high", with(&good, 1, &(FANOUT as u16).to_le_bytes())),
            ("surplus-id", [good.as_slice(), &[0x77; 32]].concat()),
        ],
        open_node,
    );
}

#[test]
fn padding() {
    let mib = 1 << 20;
    let gib = 1 << 30;
    let lengths = [
        0_u64,
        1,
        65_536,
        65_537,
        131_073,
        mib,
        mib + 1,
        10 * mib + 1,
        100_000_000,
        gib,
        gib + 1,
        5 * gib + 7,
    ];
    let mut fields = Fields::new("Padmé: length in bytes (8) and data blocks (8)");
    for len in lengths {
        let row = [len.to_le_bytes(), padded_blocks(len).to_le_bytes()].concat();
        fields = fields.piece(&format!("{len} -> {}", padded_blocks(len)), &row);
    }
    let table = FOLDER.check("padme", fields);
    for row in table.chunks(16) {
        let number = |b: &[u8]| u64::from_le_bytes(b.try_into().unwrap());
        assert_eq!(padded_blocks(number(&row[..8])), number(&row[8..]));
    }
}
