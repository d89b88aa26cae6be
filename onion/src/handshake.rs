//! The first flights of a link, on both sides. Silence is the only answer to anything that is not
//! exactly right: every refusal here looks the same to the peer. Format: `docs/protocol/link.md`.

use crate::core::{FriendKey, InviteId};
use kith_crypto::frame::{self, Claim, Flags, FlightNonce, HEAD1_LEN, HEAD2_LEN, Head1};
use kith_crypto::identity::{Identity, PublicKeys};
use kith_crypto::noise::{Handshake, Pattern, Session};
use kith_crypto::pair::{Direction, INVITED, PairRoot};
use kith_crypto::rng::Rng;
use kith_crypto::secret::Key;

/// Major version of the link protocol. It stands in the prologue of every handshake, so two versions
/// never meet by accident; flight 1 names it too, so that the owner can be told why.
pub const MAJOR: u8 = 1;
const PROLOGUE: &[u8] = b"kith link v1";

/// Whose keys a link was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Who {
    /// An established friend.
    Friend(FriendKey),
    /// A pending invite, given or taken.
    Invite(InviteId),
}

/// What kind of handshake it is. It stands in the prologue, and decides what the link may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// First contact: the PSK is the invite's.
    Invite,
    /// Between friends, under the PSK of this generation.
    Generation(u32),
    /// Between friends who lost step, under the recovery PSK (decision 9).
    Recovery,
}

/// A PSK and what it is for.
#[derive(Clone, Debug)]
pub struct Secret {
    /// What it is for.
    pub mode: Mode,
    /// The key.
    pub psk: Key,
}

/// What a handshake with one peer needs, except for the PSK.
#[derive(Clone, Debug)]
pub struct Peer {
    who: Who,
    /// Which of the own link keys the peer knows.
    own_keys: u32,
    /// The peer's Noise key; unknown for an invite that somebody else is to use.
    noise: Option<[u8; 32]>,
    inbound: Direction,
    outbound: Direction,
    /// Identity hashes as they stand in the prologue, of a call to here and of one from here.
    inbound_names: Vec<u8>,
    outbound_names: Vec<u8>,
}

impl Peer {
    /// A friend. `own_keys` counts which of the own link keys `me` is.
    pub fn friend(me: &PublicKeys, own_keys: u32, friend: &PublicKeys, root: &PairRoot) -> Self {
        let (mine, theirs) = (me.hash(), friend.hash());
        Self {
            who: Who::Friend(FriendKey(friend.sign)),
            own_keys,
            noise: Some(friend.noise),
            inbound: root.direction(&theirs, &mine),
            outbound: root.direction(&mine, &theirs),
            inbound_names: [theirs, mine].concat(),
            outbound_names: [mine, theirs].concat(),
        }
    }

    /// An invite, and its PSK: `expected` is the inviter's Noise key on the invited side.
    pub fn invite(
        id: InviteId,
        own_keys: u32,
        inviter: &PublicKeys,
        secret: &Key,
        expected: Option<[u8; 32]>,
    ) -> (Self, Secret) {
        let root = PairRoot::of_invite(secret, inviter);
        let hash = inviter.hash();
        // One direction exists; the other's keys only serve the answers on the way back.
        let (there, back) = (root.direction(&INVITED, &hash), root.direction(&hash, &INVITED));
        let (inbound, outbound) = if expected.is_some() { (back, there) } else { (there, back) };
        let peer = Self {
            who: Who::Invite(id),
            own_keys,
            noise: expected,
            inbound,
            outbound,
            inbound_names: hash.to_vec(),
            outbound_names: hash.to_vec(),
        };
        (peer, Secret { mode: Mode::Invite, psk: root.psk0() })
    }

    /// Which of the own link keys the peer knows.
    pub const fn own_keys(&self) -> u32 {
        self.own_keys
    }

    /// Whose peer this is.
    pub const fn who(&self) -> Who {
        self.who
    }

    /// Whether a first flight claims to come from this peer.
    pub fn claimed_by(&self, claim: &Claim) -> bool {
        claim.is_from(&self.inbound)
    }

    fn pattern<'a>(&'a self, me: &'a Identity) -> Pattern<'a> {
        match (self.who, &self.noise) {
            (Who::Friend(_), Some(peer)) => Pattern::Friends { me, peer },
            _ => Pattern::Invite { me },
        }
    }
}

/// The flight was not right. The connection falls silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

impl From<frame::NotOurs> for Refused {
    fn from(_: frame::NotOurs) -> Self {
        Self
    }
}

impl From<kith_crypto::noise::NoiseFailed> for Refused {
    fn from(_: kith_crypto::noise::NoiseFailed) -> Self {
        Self
    }
}

/// An established session and the key it was proved with.
#[derive(Debug)]
pub struct Established {
    /// Whose.
    pub who: Who,
    /// What the handshake was for.
    pub mode: Mode,
    /// Which of the own link keys the peer used.
    pub own_keys: u32,
    /// The channel.
    pub session: Session,
    /// Its handshake hash.
    pub hash: [u8; 32],
    /// The peer's Noise key.
    pub peer_noise: [u8; 32],
}

fn establish(noise: Handshake, peer: &Peer, mode: Mode) -> Result<Established, Refused> {
    let peer_noise = noise.remote_static().ok_or(Refused)?;
    let hash = noise.hash();
    let session = noise.into_session()?;
    Ok(Established { who: peer.who, mode, own_keys: peer.own_keys, session, hash, peer_noise })
}

fn prologue(mode: Mode, names: &[u8]) -> Vec<u8> {
    let kind: &[u8] = match mode {
        Mode::Invite => b" invite",
        Mode::Generation(_) => b" friends",
        Mode::Recovery => b" recover",
    };
    [PROLOGUE, kind, names].concat()
}

/// Takes up to what is missing of `want` bytes into `buf`; true when complete.
fn fill(buf: &mut Vec<u8>, want: usize, input: &mut &[u8]) -> bool {
    let missing = want.saturating_sub(buf.len());
    let (now, rest) = input.split_at(missing.min(input.len()));
    buf.extend_from_slice(now);
    *input = rest;
    buf.len() >= want
}

/// The receiving end of flight 2 or 3.
#[derive(Debug)]
struct NextFlight {
    before: FlightNonce,
    opened: Option<(FlightNonce, usize)>,
    buf: Vec<u8>,
}

impl NextFlight {
    const fn new(before: FlightNonce) -> Self {
        Self { before, opened: None, buf: Vec::new() }
    }

    fn input(
        &mut self,
        direction: &Direction,
        input: &mut &[u8],
    ) -> Result<Option<(Vec<u8>, FlightNonce)>, Refused> {
        if self.opened.is_none() {
            if !fill(&mut self.buf, HEAD2_LEN, input) {
                return Ok(None);
            }
            let head = self.buf.first_chunk::<HEAD2_LEN>().ok_or(Refused)?;
            self.opened = Some(frame::open_next_head(direction, &self.before, head)?);
            self.buf.clear();
        }
        let Some((nonce, len)) = self.opened else { return Ok(None) };
        if !fill(&mut self.buf, len, input) {
            return Ok(None);
        }
        Ok(Some((frame::open_next(direction, &self.before, &nonce, &self.buf)?, nonce)))
    }
}

/// The dialling side.
#[derive(Debug)]
pub struct Caller {
    peer: Peer,
    mode: Mode,
    noise: Handshake,
    next: NextFlight,
}

impl Caller {
    /// Flight 1. `counter` was stored before this call; `me` is the identity that the peer knows.
    pub fn start(
        me: &Identity,
        peer: Peer,
        secret: &Secret,
        counter: u64,
        rng: &mut Rng,
    ) -> Result<(Self, Vec<u8>), Refused> {
        let mode = secret.mode;
        let prologue = prologue(mode, &peer.outbound_names);
        let mut noise = Handshake::initiate(peer.pattern(me), &secret.psk, &prologue, rng)?;
        let message = noise.write(&[])?;
        let generation = if let Mode::Generation(generation) = mode { generation } else { 0 };
        let flags = Flags { recover: mode == Mode::Recovery, later: MAJOR - 1 };
        let (flight, nonce) = frame::seal_first_as(&peer.outbound, counter, generation, flags, &message, rng);
        Ok((Self { peer, mode, noise, next: NextFlight::new(nonce) }, flight))
    }

    /// Takes bytes of flight 2. When it is complete: the session, and flight 3 if there is one.
    pub fn input(
        mut self,
        input: &mut &[u8],
        rng: &mut Rng,
    ) -> Result<Result<(Established, Vec<u8>), Self>, Refused> {
        let Some((message, nonce)) = self.next.input(&self.peer.inbound, input)? else {
            return Ok(Err(self));
        };
        self.noise.read(&message)?;
        let mut flight = Vec::new();
        if let Who::Invite(_) = self.peer.who {
            // The inviter must be the one named in the invite, before anything of ours is shown.
            if self.noise.remote_static() != self.peer.noise {
                return Err(Refused);
            }
            let message = self.noise.write(&[])?;
            flight = frame::seal_next(&self.peer.outbound, &nonce, &message, rng).0;
        }
        Ok(Ok((establish(self.noise, &self.peer, self.mode)?, flight)))
    }
}

/// The answering side, until it knows who calls.
#[derive(Debug, Default)]
pub struct Callee {
    buf: Vec<u8>,
}

/// The answering side after the fixed part was recognised: version, counter and generation are to
/// be checked, and the PSK is to be chosen.
pub struct Recognised {
    peer: Peer,
    claim: Claim,
    head: Head1,
    secret: Option<Secret>,
    buf: Vec<u8>,
}

impl std::fmt::Debug for Recognised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Recognised(..)")
    }
}

impl Callee {
    /// Takes bytes of flight 1's fixed part; `find` looks the claim up among the known peers.
    pub fn input(
        mut self,
        input: &mut &[u8],
        find: impl FnOnce(&Claim) -> Option<Peer>,
    ) -> Result<Result<Recognised, Self>, Refused> {
        if !fill(&mut self.buf, HEAD1_LEN, input) {
            return Ok(Err(self));
        }
        let claim = Claim::read(self.buf.first_chunk::<HEAD1_LEN>().ok_or(Refused)?);
        let peer = find(&claim).ok_or(Refused)?;
        let head = claim.open(&peer.inbound)?;
        Ok(Ok(Recognised { peer, claim, head, secret: None, buf: Vec::new() }))
    }
}

impl Recognised {
    /// Whose flight it claims to be.
    pub const fn who(&self) -> Who {
        self.peer.who
    }

    /// Must be greater than the last accepted one of this friend.
    pub const fn counter(&self) -> u64 {
        self.head.counter
    }

    /// Must be new for this invite.
    pub const fn nonce(&self) -> &FlightNonce {
        &self.head.nonce
    }

    /// Major version of the protocol that the caller speaks.
    pub const fn major(&self) -> u16 {
        self.head.flags.later as u16 + 1
    }

    /// What the caller says the handshake is for.
    pub const fn mode(&self) -> Mode {
        match (self.peer.who, self.head.flags.recover) {
            (Who::Invite(_), _) => Mode::Invite,
            (Who::Friend(_), true) => Mode::Recovery,
            (Who::Friend(_), false) => Mode::Generation(self.head.psk_gen),
        }
    }

    /// Which of the own link keys the caller uses.
    pub const fn own_keys(&self) -> u32 {
        self.peer.own_keys
    }

    /// Everything that can be checked before the first Diffie-Hellman was right.
    #[must_use]
    pub fn admit(mut self, secret: Secret) -> Self {
        self.secret = Some(secret);
        self
    }

    /// Takes bytes of the Noise message. When it is complete and verified, what is left is to store
    /// the counter or nonce durably and then to [`Verified::answer`]. Refused until admitted.
    pub fn input(
        mut self,
        me: &Identity,
        input: &mut &[u8],
        rng: &mut Rng,
    ) -> Result<Result<Verified, Self>, Refused> {
        if !fill(&mut self.buf, self.head.body_len, input) {
            return Ok(Err(self));
        }
        let Secret { mode, psk } = self.secret.ok_or(Refused)?;
        let message = frame::open_first(&self.peer.inbound, &self.claim, &self.buf)?;
        let prologue = prologue(mode, &self.peer.inbound_names);
        let mut noise = Handshake::respond(self.peer.pattern(me), &psk, &prologue, rng)?;
        noise.read(&message)?;
        Ok(Ok(Verified { peer: self.peer, mode, noise, nonce: self.head.nonce, counter: self.head.counter }))
    }
}

/// Flight 1 is genuine. Nothing was sent yet.
#[derive(Debug)]
pub struct Verified {
    peer: Peer,
    mode: Mode,
    noise: Handshake,
    nonce: FlightNonce,
    counter: u64,
}

/// What the answer leads to.
#[derive(Debug)]
pub enum Answered {
    /// The session stands.
    Done(Established),
    /// An invite: flight 3 is still to come.
    Third(Box<Third>),
}

impl Verified {
    /// Whose flight it is.
    pub const fn who(&self) -> Who {
        self.peer.who
    }

    /// What the handshake is for.
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Which of the own link keys the caller used.
    pub const fn own_keys(&self) -> u32 {
        self.peer.own_keys
    }

    /// The counter to store.
    pub const fn counter(&self) -> u64 {
        self.counter
    }

    /// The nonce to store.
    pub const fn nonce(&self) -> FlightNonce {
        self.nonce
    }

    /// Flight 2. The caller has stored counter or nonce.
    pub fn answer(mut self, rng: &mut Rng) -> Result<(Answered, Vec<u8>), Refused> {
        let message = self.noise.write(&[])?;
        let (flight, nonce) = frame::seal_next(&self.peer.outbound, &self.nonce, &message, rng);
        let answered = match self.peer.who {
            Who::Friend(_) => Answered::Done(establish(self.noise, &self.peer, self.mode)?),
            Who::Invite(_) => {
                let next = NextFlight::new(nonce);
                Answered::Third(Box::new(Third { peer: self.peer, noise: self.noise, next }))
            }
        };
        Ok((answered, flight))
    }
}

/// Waits for flight 3 of an invite.
#[derive(Debug)]
pub struct Third {
    peer: Peer,
    noise: Handshake,
    next: NextFlight,
}

impl Third {
    /// Takes bytes of flight 3.
    pub fn input(mut self, input: &mut &[u8]) -> Result<Result<Established, Self>, Refused> {
        let Some((message, _)) = self.next.input(&self.peer.inbound, input)? else {
            return Ok(Err(self));
        };
        self.noise.read(&message)?;
        Ok(Ok(establish(self.noise, &self.peer, Mode::Invite)?))
    }
}
