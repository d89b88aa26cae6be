//! The first flights of a link, on both sides. Silence is the only answer to anything that is not
//! exactly right: every refusal here looks the same to the peer. Format: `docs/protocol/link.md`.

use crate::core::{FriendKey, InviteId};
use kith_crypto::frame::{self, Claim, FlightNonce, HEAD1_LEN, HEAD2_LEN, Head1};
use kith_crypto::identity::{Identity, PublicKeys};
use kith_crypto::noise::{Handshake, Pattern, Session};
use kith_crypto::pair::{Direction, INVITED, PairRoot};
use kith_crypto::rng::Rng;
use kith_crypto::secret::Key;

/// Generation of the PSK that this release uses; later ones count up with each ratchet.
pub const PSK_GEN: u32 = 0;
const PROLOGUE: &[u8] = b"kith link v1";

/// Whose keys a link was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Who {
    /// An established friend.
    Friend(FriendKey),
    /// A pending invite, given or taken.
    Invite(InviteId),
}

/// What a handshake with one peer needs.
#[derive(Clone, Debug)]
pub struct Peer {
    who: Who,
    /// The peer's Noise key; unknown for an invite that somebody else is to use.
    noise: Option<[u8; 32]>,
    inbound: Direction,
    outbound: Direction,
    psk: Key,
    inbound_prologue: Vec<u8>,
    outbound_prologue: Vec<u8>,
}

impl Peer {
    /// A friend.
    pub fn friend(me: &PublicKeys, friend: &PublicKeys, root: &PairRoot) -> Self {
        let (mine, theirs) = (me.hash(), friend.hash());
        let prologue = |a: &[u8], b: &[u8]| [PROLOGUE, b" friends", a, b].concat();
        Self {
            who: Who::Friend(FriendKey(friend.sign)),
            noise: Some(friend.noise),
            inbound: root.direction(&theirs, &mine),
            outbound: root.direction(&mine, &theirs),
            psk: root.psk0(),
            inbound_prologue: prologue(&theirs, &mine),
            outbound_prologue: prologue(&mine, &theirs),
        }
    }

    /// An invite: `expected` is the inviter's Noise key on the invited side.
    pub fn invite(id: InviteId, inviter: &PublicKeys, secret: &Key, expected: Option<[u8; 32]>) -> Self {
        let root = PairRoot::of_invite(secret, inviter);
        let hash = inviter.hash();
        // One direction exists; the other's keys only serve the answers on the way back.
        let (there, back) = (root.direction(&INVITED, &hash), root.direction(&hash, &INVITED));
        let (inbound, outbound) = if expected.is_some() { (back, there) } else { (there, back) };
        let prologue = [PROLOGUE, b" invite", &hash].concat();
        Self {
            who: Who::Invite(id),
            noise: expected,
            inbound,
            outbound,
            psk: root.psk0(),
            inbound_prologue: prologue.clone(),
            outbound_prologue: prologue,
        }
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
    /// The channel.
    pub session: Session,
    /// The peer's Noise key.
    pub peer_noise: [u8; 32],
}

fn establish(noise: Handshake, who: Who) -> Result<Established, Refused> {
    let peer_noise = noise.remote_static().ok_or(Refused)?;
    Ok(Established { who, session: noise.into_session()?, peer_noise })
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
    noise: Handshake,
    next: NextFlight,
}

impl Caller {
    /// Flight 1. `counter` was stored before this call.
    pub fn start(me: &Identity, peer: Peer, counter: u64, rng: &mut Rng) -> Result<(Self, Vec<u8>), Refused> {
        let mut noise = Handshake::initiate(peer.pattern(me), &peer.psk, &peer.outbound_prologue, rng)?;
        let message = noise.write(&[])?;
        let (flight, nonce) = frame::seal_first(&peer.outbound, counter, PSK_GEN, &message, rng);
        Ok((Self { peer, noise, next: NextFlight::new(nonce) }, flight))
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
        Ok(Ok((establish(self.noise, self.peer.who)?, flight)))
    }
}

/// The answering side, until it knows who calls.
#[derive(Debug, Default)]
pub struct Callee {
    buf: Vec<u8>,
}

/// The answering side after the fixed part was recognised: the counter is to be checked.
pub struct Recognised {
    peer: Peer,
    claim: Claim,
    head: Head1,
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
        if head.psk_gen != PSK_GEN {
            return Err(Refused);
        }
        Ok(Ok(Recognised { peer, claim, head, buf: Vec::new() }))
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

    /// Takes bytes of the Noise message. When it is complete and verified, what is left is to store
    /// the counter or nonce durably and then to [`Verified::answer`].
    pub fn input(
        mut self,
        me: &Identity,
        input: &mut &[u8],
        rng: &mut Rng,
    ) -> Result<Result<Verified, Self>, Refused> {
        if !fill(&mut self.buf, self.head.body_len, input) {
            return Ok(Err(self));
        }
        let message = frame::open_first(&self.peer.inbound, &self.claim, &self.buf)?;
        let mut noise =
            Handshake::respond(self.peer.pattern(me), &self.peer.psk, &self.peer.inbound_prologue, rng)?;
        noise.read(&message)?;
        Ok(Ok(Verified { peer: self.peer, noise, nonce: self.head.nonce, counter: self.head.counter }))
    }
}

/// Flight 1 is genuine. Nothing was sent yet.
#[derive(Debug)]
pub struct Verified {
    peer: Peer,
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
            Who::Friend(_) => Answered::Done(establish(self.noise, self.peer.who)?),
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
        Ok(Ok(establish(self.noise, self.peer.who)?))
    }
}
