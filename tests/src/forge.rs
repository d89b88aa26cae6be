//! Flights as somebody makes them who holds some of a pair's keys and not others, and a bare core that
//! answers them: no world around it, only time, storage that always succeeds, and what it sends.

use kith_crypto::aead::seal_record;
use kith_crypto::cert::{Address, Certificate};
use kith_crypto::codec::Writer;
use kith_crypto::frame::seal_first;
use kith_crypto::identity::{Identity, PublicKeys};
use kith_crypto::invite::Invite;
use kith_crypto::kdf::{self, Label};
use kith_crypto::noise::{Handshake, Pattern};
use kith_crypto::pair::{INVITED, PairRoot};
use kith_crypto::rng::Rng;
use kith_crypto::secret::Key;
use kith_onion::catalogue::Pace;
use kith_onion::handshake::Who;
use kith_onion::{
    ConnId, Core, Event, FetchEvent, FriendKey, FriendRecord, GivenInvite, InviteId, Limits, Now, Output,
    Setup,
};
use std::time::Duration;

/// Wall clock of the beginning, in Unix milliseconds.
pub const BEGINNING_MS: u64 = 1_767_225_600_000;

/// Person number `n`.
pub fn person(n: u8) -> Identity {
    Identity::generate(&mut Rng::from_seed([n; 32]))
}

/// A person's certificate.
pub fn certificate(id: &Identity, n: u8) -> Certificate {
    let addr = Address::Ip(([10, 0, 0, n], 5483).into());
    Certificate::sign(id, "Ana", &[addr], 1, u32::MAX).expect("a plain name")
}

/// What two people share who exchanged certificates.
pub fn root(me: &Identity, peer: &PublicKeys) -> PairRoot {
    PairRoot::new(me, peer, None).expect("genuine keys contribute to the secret")
}

/// First flights from one person to another.
#[derive(Debug)]
pub struct Flights<'a> {
    /// Who calls.
    pub me: &'a Identity,
    /// Who is called.
    pub peer: &'a PublicKeys,
    /// Their secret.
    pub root: PairRoot,
    /// Invited person to inviter, by this secret, instead of friend to friend.
    pub by_invite: bool,
    /// Noise prologue of this version.
    pub version: &'a [u8],
    /// Noise PSK, if not that of the pair.
    pub psk: Option<Key>,
    /// Named generation of the PSK.
    pub psk_gen: u32,
}

impl<'a> Flights<'a> {
    /// Proper ones from a friend.
    pub fn friend(me: &'a Identity, peer: &'a PublicKeys) -> Self {
        let root = root(me, peer);
        Self { me, peer, root, by_invite: false, version: b"kith link v1", psk: None, psk_gen: 0 }
    }

    /// Proper ones from somebody who holds an invite.
    pub fn invited(me: &'a Identity, invite: &'a Invite) -> Self {
        let peer = &invite.inviter.keys;
        let root = PairRoot::of_invite(&invite.secret, peer);
        Self { root, by_invite: true, ..Self::friend(me, peer) }
    }

    fn caller(&self) -> [u8; 32] {
        if self.by_invite { INVITED } else { self.me.public().hash() }
    }

    /// Noise message 1 alone.
    pub fn message(&self, rng: &mut Rng) -> Vec<u8> {
        let (caller, callee) = (self.caller(), self.peer.hash());
        let prologue = if self.by_invite {
            [self.version, b" invite", &callee].concat()
        } else {
            [self.version, b" friends", &caller, &callee].concat()
        };
        let pattern = if self.by_invite {
            Pattern::Invite { me: self.me }
        } else {
            Pattern::Friends { me: self.me, peer: &self.peer.noise }
        };
        let psk = self.psk.clone().unwrap_or_else(|| self.root.psk0());
        let mut noise = Handshake::initiate(pattern, &psk, &prologue, rng).expect("a handshake");
        noise.write(&[]).expect("a first message")
    }

    /// A flight around the handshake's message.
    pub fn flight(&self, counter: u64, rng: &mut Rng) -> Vec<u8> {
        let message = self.message(rng);
        self.around(&message, counter, rng)
    }

    /// A flight around any message.
    pub fn around(&self, message: &[u8], counter: u64, rng: &mut Rng) -> Vec<u8> {
        let direction = self.root.direction(&self.caller(), &self.peer.hash());
        seal_first(&direction, counter, self.psk_gen, message, rng).0
    }

    /// A flight whose fixed part says any length and flags, around any plaintext.
    pub fn odd(&self, counter: u64, body_len: u16, flags: u16, plain: &[u8], rng: &mut Rng) -> Vec<u8> {
        let (caller, callee) = (self.caller(), self.peer.hash());
        let key = |label| kdf::derive(label, &[self.root.key().expose(), &caller, &callee]);
        let nonce: [u8; 24] = rng.bytes();
        let tag = kdf::mac16(&key(Label::TAG), &nonce);
        let aad = [tag.as_slice(), &nonce].concat();
        let mut head = Writer::new();
        head.u64(counter).u32(self.psk_gen).u16(body_len).u16(flags);
        let head = seal_record(&key(Label::WRAP_HEAD), &nonce, &aad, head.as_bytes());
        let body = seal_record(&key(Label::WRAP_BODY), &nonce, &aad, plain);
        [aad.as_slice(), &head, &body].concat()
    }
}

/// A core without a world.
#[derive(Debug)]
pub struct Bare {
    /// The core.
    pub core: Core,
    /// Virtual time.
    pub at: Duration,
    /// Connections that it closed since somebody looked, and when.
    pub closed: Vec<(Duration, ConnId)>,
    /// Calls that it wants to make.
    pub dials: Vec<Who>,
    /// Calls that are to be given up.
    pub undialled: Vec<Who>,
    /// What became of fetches.
    pub fetched: Vec<FetchEvent>,
    /// Its connections go through Tor.
    pub tor: bool,
    /// The addresses of the newest of them.
    pub dialled: Vec<Address>,
    out: Vec<u8>,
}

impl Bare {
    /// Person `n` with these friends, and as many half-open connections as anybody likes.
    pub fn new(n: u8, friends: &[&Identity], seed: u8) -> Self {
        Self::limited(n, friends, seed, (f64::MAX, f64::MAX))
    }

    /// The same with a limit on each friend's handshakes: a second, and saved up.
    pub fn limited(n: u8, friends: &[&Identity], seed: u8, calls: (f64, f64)) -> Self {
        let me = person(n);
        let cert = certificate(&me, n);
        let mut bare = Self {
            core: Core::new(Setup {
                identity: person(n),
                pace: Pace { batch: Duration::from_secs(1_800), spread: Duration::from_secs(3_600) },
                limits: Limits { half_open: usize::MAX, half_open_per_source: usize::MAX, calls },
                secret: Key::new([n; 32]),
                seed: [seed; 32],
            }),
            at: Duration::ZERO,
            closed: Vec::new(),
            dials: Vec::new(),
            undialled: Vec::new(),
            fetched: Vec::new(),
            tor: false,
            dialled: Vec::new(),
            out: vec![0; 1 << 17],
        };
        bare.core.set_certificate(bare.now(), cert);
        for friend in friends {
            let shared = root(&me, friend.public());
            let record = FriendRecord::new(*friend.public(), shared, certificate(friend, 99).addrs, 0);
            bare.core.add_friend(bare.now(), record);
        }
        bare.settle();
        bare
    }

    /// Gives an invite.
    pub fn invite(&mut self, n: u8, id: u64) -> Invite {
        let (secret, expires) = (Key::new([id as u8; 32]), u32::MAX);
        let given =
            GivenInvite { id: InviteId(id), secret: secret.clone(), expires, tries: Vec::new(), bound: None };
        self.core.give_invite(given);
        let me = person(n);
        Invite::sign(&me, certificate(&me, n), secret, expires)
    }

    /// Its clocks.
    pub fn now(&self) -> Now {
        Now { at: self.at, unix_ms: BEGINNING_MS + self.at.as_millis() as u64 }
    }

    /// Storage answers at once; what is to be dialled or closed is noted.
    pub fn settle(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Persist(ticket, _) => {
                    let now = self.now();
                    self.core.persisted(now, ticket);
                }
                Output::Close(conn) => {
                    self.closed.push((self.at, conn));
                    let now = self.now();
                    self.core.lost(now, conn);
                }
                Output::Dial(who, addrs) => {
                    self.dials.push(who);
                    self.dialled = addrs;
                }
                Output::Undial(who) => self.undialled.push(who),
                Output::Event(Event::Fetch(_, event)) => self.fetched.push(event),
                _ => {}
            }
        }
    }

    /// Somebody connects.
    pub fn accept(&mut self, source: u64) -> ConnId {
        let now = self.now();
        let conn = self.core.accepted_through(now, source, self.tor);
        self.settle();
        conn
    }

    /// Bytes arrive; returns what it answers at once.
    pub fn input(&mut self, conn: ConnId, bytes: &[u8]) -> Vec<u8> {
        let now = self.now();
        self.core.input(now, conn, bytes);
        self.settle();
        self.transmit(conn)
    }

    /// Everything it has to say on a connection.
    pub fn transmit(&mut self, conn: ConnId) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let now = self.now();
            let n = self.core.transmit(now, conn, &mut self.out);
            self.settle();
            if n == 0 {
                return all;
            }
            all.extend_from_slice(&self.out[..n]);
        }
    }

    /// A connection is gone.
    pub fn lose(&mut self, conn: ConnId) {
        let now = self.now();
        self.core.lost(now, conn);
        self.settle();
    }

    /// Time passes up to a moment.
    pub fn run_to(&mut self, end: Duration) {
        while let Some(next) = self.core.poll_timeout().filter(|at| *at <= end) {
            self.at = self.at.max(next);
            let now = self.now();
            self.core.timeout(now);
            self.settle();
        }
        self.at = self.at.max(end);
    }

    /// Time passes until it wants to dial, and somebody is there: whom it dials, and on which
    /// connection.
    pub fn dial(&mut self) -> (Who, ConnId) {
        while self.dials.is_empty() {
            let next = self.core.poll_timeout().expect("a friend that is off line is dialled again");
            self.run_to(next);
        }
        let who = self.dials.remove(0);
        let now = self.now();
        let conn = self.core.dialled_through(now, who, self.tor);
        self.settle();
        (who, conn)
    }

    /// The first flight of the next dial. The connection is lost right after.
    pub fn next_flight(&mut self) -> (Who, Vec<u8>) {
        let (who, conn) = self.dial();
        let flight = self.transmit(conn);
        self.lose(conn);
        (who, flight)
    }
}

/// One Diffie-Hellman on the curve: what costs are compared with.
pub fn x25519(secret: [u8; 32], point: [u8; 32]) -> [u8; 32] {
    x25519_dalek::x25519(secret, point)
}

/// Names a person among friends.
pub fn key_of(id: &Identity) -> FriendKey {
    FriendKey(id.public().sign)
}
