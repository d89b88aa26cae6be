//! The journal's records: what this node must never forget, and the state that replaying them gives.
//! Format: `docs/protocol/records.md`. The store keeps them as opaque bytes.
//!
//! Invariant: applying all records in order gives [`State`]; [`State::live`] writes records that
//! give the same state again, which is what compaction keeps.

use kith_crypto::cert::{Address, Certificate, MAX_CERT_LEN};
use kith_crypto::codec::{DecodeError, Reader, Writer};
use kith_crypto::content::{ReadCap, Root, VerifyCap};
use kith_crypto::identity::{Identity, PublicKeys};
use kith_crypto::invite::{Invite, MAX_INVITE_LEN};
use kith_crypto::onion_address::OnionSecret;
use kith_crypto::pair::PairRoot;
use kith_crypto::secret::Key;
use kith_onion::catalogue::Audience;
use kith_onion::handshake::Who;
use kith_onion::ratchet::{NextPsk, Ratchet};
use kith_onion::{Change, FriendKey, FriendRecord, GivenInvite, InviteId, NewKeys, Traffic};
use std::collections::{BTreeMap, BTreeSet};

/// Who this node is.
pub struct Myself {
    /// `[sign, noise, pair]`.
    pub secrets: [[u8; 32]; 3],
    /// Secret of this node alone.
    pub secret: Key,
    /// The name that friends see.
    pub name: String,
    /// Unix seconds.
    pub created_s: u64,
    /// Number of the link keys in `secrets`: 0 until they were rotated.
    pub own_keys: u32,
    /// When they were rotated (unix seconds), 0 for never.
    pub rotated_s: u64,
    /// Older link keys that friends may still know: number, Noise secret, pair secret.
    pub older: Vec<(u32, Key, Key)>,
}

impl std::fmt::Debug for Myself {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Myself(..)")
    }
}

impl Drop for Myself {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.secrets);
    }
}

impl Myself {
    /// The identity with its keys ready for use.
    pub fn identity(&self) -> Identity {
        Identity::from_secrets(self.secrets)
    }

    /// The same person with older link keys.
    pub fn older_identities(&self) -> Vec<(u32, Identity)> {
        let [sign, ..] = self.secrets;
        let identity =
            |noise: &Key, pair: &Key| Identity::from_secrets([sign, *noise.expose(), *pair.expose()]);
        self.older.iter().map(|(number, noise, pair)| (*number, identity(noise, pair))).collect()
    }
}

/// A friend.
#[derive(Clone, Debug)]
pub struct Friend {
    /// What the protocol needs.
    pub record: FriendRecord,
    /// The name that this node uses.
    pub name: String,
    /// Unix seconds.
    pub since_s: u64,
    /// Traffic in all.
    pub traffic: Traffic,
    /// When the owner compared fingerprints (unix seconds), if ever.
    pub verified_s: Option<u64>,
    /// When the friend last showed new link keys (unix seconds), if ever.
    pub rotated_s: Option<u64>,
}

impl Friend {
    /// Records that give this friend again.
    fn live(&self, key: FriendKey) -> Vec<Record> {
        let record = &self.record;
        let mut out = vec![Record::Friend(Box::new(self.clone()))];
        if record.ratchet != Ratchet::initial(&record.root) {
            out.push(Record::Ratchet(key, Box::new(record.ratchet.clone())));
        }
        if record.keys_since_s > 0 {
            let new = NewKeys { keys: record.keys, root: record.root.clone(), since_s: record.keys_since_s };
            out.push(Record::FriendKeys(key, Box::new(new), self.rotated_s.unwrap_or(0)));
        }
        out.extend(self.verified_s.map(|at| Record::Verified(key, at)));
        out
    }
}

/// An own publication.
#[derive(Clone, Debug)]
pub struct Publication {
    /// Reads it.
    pub cap: ReadCap,
    /// Title.
    pub title: String,
    /// Text.
    pub text: String,
    /// Tags.
    pub tags: Vec<String>,
    /// Media type.
    pub mime: String,
    /// Length in bytes.
    pub bytes: u64,
    /// Duration in seconds, 0 when unknown.
    pub duration_s: u32,
    /// Data blocks.
    pub blocks: u64,
    /// Who may see it; `None`: kept, but shared with nobody.
    pub audience: Option<Audience>,
    /// Unix seconds.
    pub created_s: u64,
}

/// How far a friend is trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// May be the first relay of own circuits.
    Close,
    /// As a friend.
    #[default]
    Normal,
    /// Never a relay.
    Low,
}

impl Trust {
    const ALL: [Self; 3] = [Self::Close, Self::Normal, Self::Low];

    /// Its name in commands and the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Close => "close",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }

    /// The trust with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|trust| trust.as_str() == name)
    }
}

/// What this node has set for a friend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// How far it is trusted.
    pub trust: Trust,
    /// Most bytes a second to the friend.
    pub up: Option<u64>,
    /// Most bytes a second from the friend.
    pub down: Option<u64>,
    /// No link, no dials, silence; the friendship stays.
    pub blocked: bool,
}

/// Friends to publish to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Circle {
    /// Its name.
    pub name: String,
    /// Who is in it.
    pub members: BTreeSet<FriendKey>,
}

/// What neither search nor pages show here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hidden {
    /// A video.
    Video(Root),
    /// Whatever has this word.
    Word(String),
    /// What only this friend tells of.
    Friend(FriendKey),
}

/// A token for a program; the text itself is not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// BLAKE3 of the text.
    pub hash: [u8; 32],
    /// One bit for each scope.
    pub scopes: u8,
    /// Unix seconds.
    pub created_s: u64,
}

/// One record.
#[derive(Debug)]
pub enum Record {
    /// Identity, once.
    Myself(Myself),
    /// A friend, with everything known of it.
    Friend(Box<Friend>),
    /// A friend was removed; its view log lives until the views of others have forgotten it.
    FriendRemoved(FriendKey),
    /// The view log of a removed friend is gone.
    ViewDropped(FriendKey),
    /// Highest counter sent.
    CounterOut(FriendKey, u64),
    /// Highest counter accepted.
    CounterIn(FriendKey, u64),
    /// A friend's addresses.
    Addresses(FriendKey, u64, Vec<Address>),
    /// A friend, or who uses an invite, is reached through Tor alone, or by any way again.
    TorOnly(Who, bool),
    /// The secret of the own onion service.
    Onion(OnionSecret),
    /// The node uses nothing but Tor, or other ways again.
    NothingButTor(bool),
    /// Traffic in all.
    Traffic(FriendKey, Traffic),
    /// What a friend gave and took while others waited, in bytes, as of this time (Unix seconds).
    Credit(FriendKey, u64, u64, u64),
    /// An invite given.
    Given(GivenInvite),
    /// A first flight of an invite was answered.
    InviteTry(InviteId, [u8; 24]),
    /// An invite belongs to this key.
    InviteBound(InviteId, [u8; 32]),
    /// An invite, given or taken, is over.
    InviteDone(InviteId),
    /// An invite taken.
    Taken(InviteId, Invite),
    /// A publication, new or changed.
    Published(Box<Publication>),
    /// A publication is no longer shared with anybody.
    Unshared(Root),
    /// A publication is gone.
    Removed(Root),
    /// The own name changed.
    Renamed(String),
    /// Where the PSKs of a friendship stand.
    Ratchet(FriendKey, Box<Ratchet>),
    /// New own link keys: number, Noise secret, pair secret, unix seconds. With the keys of
    /// [`Record::Myself`] it only says their number.
    Rotated(u32, Key, Key, u64),
    /// Older own link keys that friends may still know: number, Noise secret, pair secret.
    Older(u32, Key, Key),
    /// A friend has new link keys, since these unix seconds here.
    FriendKeys(FriendKey, Box<NewKeys>, u64),
    /// A friend knows these own link keys.
    OwnKeys(FriendKey, u32, PairRoot),
    /// The owner compared fingerprints with a friend (unix seconds), or takes that back (0).
    Verified(FriendKey, u64),
    /// A friend is called something else here.
    FriendNamed(FriendKey, String),
    /// What this node has set for a friend.
    FriendSettings(FriendKey, Settings),
    /// A link to the friend stood, at this time in Unix seconds.
    Met(FriendKey, u64),
    /// A circle with all its members.
    Circle(u64, Circle),
    /// A circle is gone.
    CircleRemoved(u64),
    /// How far the round of checks over the store is.
    Scrub(Scrub),
    /// So many blocks of an object are damaged here; 0: it is whole again, or gone.
    Damaged(Root, u64),
    /// This node was restored from a backup at this time (unix seconds), and its owner agrees that the
    /// friend's node makes new keys with it; 0: that is done.
    Restored(FriendKey, u64),
    /// Reads an object whose blocks did not come out of a backup.
    Known(ReadCap),
    /// The routes of own circuits, whole.
    Routes(Vec<u8>),
    /// The file with this mark was published as this object.
    Source([u8; 32], Root),
    /// The videos of this folder are published for these people; for nobody: it is not watched any more.
    Folder(String, String),
    /// A copy that is kept for others.
    Mirror(Box<Mirror>),
    /// A copy is not kept for others any more.
    MirrorGone(Root),
    /// A friend is asked to keep a copy of an own video, or does; 255: it is to end.
    Offered(Root, FriendKey, u8),
    /// That is over.
    OfferOver(Root, FriendKey),
    /// So many bytes are kept for a friend; 0: nothing.
    MirrorQuota(FriendKey, u64),
    /// An object from further away that is given from a time on (unix ms): 1 a cover, 2 watched; 0: no longer.
    Cover(Root, u8, u64),
    /// How often this node is on line in each hour of the day, and up to which hour since 1970 that was counted.
    Hours([u8; 24], u64),
    /// The same of a friend, as it says.
    FriendHours(FriendKey, [u8; 24]),
    /// Something is hidden, or shown again.
    Hidden(Hidden, bool),
    /// A token with this name.
    Token(String, Token),
    /// A token is no good any more.
    TokenRevoked(String),
}

/// A copy that is kept for others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Checks and gives blocks.
    pub cap: VerifyCap,
    /// For whom; `None`: by the wish of this node's owner.
    pub friend: Option<FriendKey>,
    /// Day since 1970 after which it need not be kept; 0: never.
    pub expires_day: u32,
    /// It may be given to those who ask through circuits.
    pub travels: bool,
    /// It was here before a friend asked for it, and stays when that friend ends it.
    pub was_here: bool,
    /// It has not come from that friend anew yet: until it has, nothing shows that it was here.
    pub is_hidden: bool,
}

/// State of an offer that is to end.
pub const ENDING: u8 = 255;

/// The round of checks over everything stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scrub {
    /// When this round began (unix seconds), 0 before the first.
    pub started_s: u64,
    /// The last object that was checked; `None`: none yet, or all.
    pub after: Option<Root>,
    /// What was found in this round.
    pub found: u32,
    /// When the last whole round ended (unix seconds), 0 for never.
    pub ended_s: u64,
    /// What was found in it.
    pub found_before: u32,
}

fn put_key(w: &mut Writer, key: FriendKey) {
    w.raw(&key.0);
}

fn put_text(w: &mut Writer, text: &str) {
    w.bytes16(text.as_bytes());
}

fn take_text(r: &mut Reader<'_>) -> Result<String, DecodeError> {
    r.text16(8192, "text").map(str::to_owned)
}

fn put_traffic(w: &mut Writer, t: Traffic) {
    w.u64(t.sent).u64(t.received).u64(t.relayed);
}

fn take_traffic(r: &mut Reader<'_>) -> Result<Traffic, DecodeError> {
    Ok(Traffic { sent: r.u64()?, received: r.u64()?, relayed: r.u64()? })
}

fn put_audience(w: &mut Writer, audience: Option<Audience>) {
    match audience {
        None => w.u8(0),
        Some(Audience::Friends) => w.u8(1),
        Some(Audience::Fof) => w.u8(2),
        Some(Audience::One(key)) => w.u8(3).raw(&key.0),
        Some(Audience::Circle(id)) => w.u8(4).u64(id),
    };
}

fn take_audience(r: &mut Reader<'_>) -> Result<Option<Audience>, DecodeError> {
    let bad = r.invalid("audience");
    Ok(match r.u8()? {
        0 => None,
        1 => Some(Audience::Friends),
        2 => Some(Audience::Fof),
        3 => Some(Audience::One(FriendKey(r.array()?))),
        4 => Some(Audience::Circle(r.u64()?)),
        _ => return Err(bad),
    })
}

impl Record {
    /// Whether it makes secrets in earlier records useless, so that they are to be erased.
    pub const fn erases(&self) -> bool {
        matches!(
            self,
            Self::FriendRemoved(_)
                | Self::InviteDone(_)
                | Self::Removed(_)
                | Self::MirrorGone(_)
                | Self::Ratchet(..)
                | Self::Rotated(..)
                | Self::OwnKeys(..)
                | Self::FriendKeys(..)
        )
    }

    /// The record's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        match self {
            Self::Myself(me) => {
                w.u8(1);
                me.secrets.iter().for_each(|s| {
                    w.raw(s);
                });
                w.raw(me.secret.expose()).u64(me.created_s);
                put_text(&mut w, &me.name);
            }
            Self::Friend(friend) => {
                w.u8(2);
                let keys = &friend.record.keys;
                w.raw(&keys.noise).raw(&keys.sign).raw(&keys.pair).raw(friend.record.root.key().expose());
                w.u64(friend.record.addrs_seq).u64(friend.record.counter_in).u64(friend.record.counter_out);
                w.u64(friend.since_s);
                put_traffic(&mut w, friend.traffic);
                put_text(&mut w, &friend.name);
                Address::encode_list(&friend.record.addrs, &mut w);
                w.u32(friend.record.own_keys);
            }
            Self::FriendRemoved(key) => put_key(w.u8(3), *key),
            Self::ViewDropped(key) => put_key(w.u8(4), *key),
            Self::CounterOut(key, n) => {
                w.u8(5).raw(&key.0).u64(*n);
            }
            Self::CounterIn(key, n) => {
                w.u8(6).raw(&key.0).u64(*n);
            }
            Self::Addresses(key, seq, addrs) => {
                w.u8(7).raw(&key.0).u64(*seq);
                Address::encode_list(addrs, &mut w);
            }
            Self::Traffic(key, traffic) => {
                w.u8(8).raw(&key.0);
                put_traffic(&mut w, *traffic);
            }
            Self::Credit(key, given, taken, at_s) => {
                w.u8(42).raw(&key.0).u64(*given).u64(*taken).u64(*at_s);
            }
            Self::Given(invite) => {
                w.u8(9).u64(invite.id.0).raw(invite.secret.expose()).u32(invite.expires);
                w.u8(u8::from(invite.bound.is_some())).raw(&invite.bound.unwrap_or_default());
                w.u8(invite.tries.len() as u8);
                invite.tries.iter().for_each(|t| {
                    w.raw(t);
                });
            }
            Self::InviteTry(id, nonce) => {
                w.u8(10).u64(id.0).raw(nonce);
            }
            Self::InviteBound(id, key) => {
                w.u8(11).u64(id.0).raw(key);
            }
            Self::InviteDone(id) => {
                w.u8(12).u64(id.0);
            }
            Self::Taken(id, invite) => {
                w.u8(13).u64(id.0).bytes16(invite.encoded());
            }
            Self::Published(p) => {
                w.u8(14).raw(&p.cap.root.0).raw(p.cap.key.expose());
                w.u64(p.bytes).u32(p.duration_s).u64(p.blocks).u64(p.created_s);
                put_audience(&mut w, p.audience);
                for text in [&p.title, &p.text, &p.mime] {
                    put_text(&mut w, text);
                }
                w.u8(p.tags.len() as u8);
                p.tags.iter().for_each(|t| put_text(&mut w, t));
            }
            Self::Unshared(root) => {
                w.u8(15).raw(&root.0);
            }
            Self::Removed(root) => {
                w.u8(16).raw(&root.0);
            }
            Self::Renamed(name) => put_text(w.u8(17), name),
            Self::Ratchet(key, ratchet) => {
                w.u8(18).raw(&key.0).u32(ratchet.generation).raw(ratchet.psk.expose()).u64(ratchet.since_s);
                w.u8(u8::from(ratchet.next.is_some()));
                if let Some(next) = &ratchet.next {
                    w.u32(next.generation).raw(next.psk.expose()).u8(u8::from(next.confirmed));
                }
            }
            Self::Rotated(number, noise, pair, at) => {
                w.u8(19).u32(*number).raw(noise.expose()).raw(pair.expose()).u64(*at);
            }
            Self::Older(number, noise, pair) => {
                w.u8(23).u32(*number).raw(noise.expose()).raw(pair.expose());
            }
            Self::FriendKeys(key, new, at) => {
                w.u8(20).raw(&key.0).raw(&new.keys.noise).raw(&new.keys.pair).raw(new.root.key().expose());
                w.u32(new.since_s).u64(*at);
            }
            Self::OwnKeys(key, number, root) => {
                w.u8(21).raw(&key.0).u32(*number).raw(root.key().expose());
            }
            Self::Verified(key, at) => {
                w.u8(22).raw(&key.0).u64(*at);
            }
            Self::FriendNamed(key, name) => put_text(w.u8(24).raw(&key.0), name),
            Self::FriendSettings(key, settings) => {
                w.u8(25).raw(&key.0).u8(settings.trust as u8).u8(u8::from(settings.blocked));
                for rate in [settings.up, settings.down] {
                    // No limit that anybody can set is 0.
                    w.u64(rate.unwrap_or(0));
                }
            }
            Self::Met(key, at_s) => {
                w.u8(26).raw(&key.0).u64(*at_s);
            }
            Self::Circle(id, circle) => {
                put_text(w.u8(27).u64(*id), &circle.name);
                w.u32(circle.members.len() as u32);
                circle.members.iter().for_each(|key| {
                    w.raw(&key.0);
                });
            }
            Self::CircleRemoved(id) => {
                w.u8(28).u64(*id);
            }
            Self::Scrub(scrub) => {
                w.u8(30).u64(scrub.started_s).u8(u8::from(scrub.after.is_some()));
                w.raw(&scrub.after.map_or([0; 32], |root| root.0)).u32(scrub.found);
                w.u64(scrub.ended_s).u32(scrub.found_before);
            }
            Self::Damaged(root, blocks) => {
                w.u8(31).raw(&root.0).u64(*blocks);
            }
            Self::Restored(key, at_s) => {
                w.u8(40).raw(&key.0).u64(*at_s);
            }
            Self::Known(cap) => {
                w.u8(41).raw(&cap.root.0).raw(cap.key.expose());
            }
            Self::Routes(bytes) => {
                w.u8(50).raw(bytes);
            }
            Self::Source(mark, root) => {
                w.u8(32).raw(mark).raw(&root.0);
            }
            Self::Folder(path, to) => {
                put_text(w.u8(33), path);
                put_text(&mut w, to);
            }
            Self::Mirror(mirror) => {
                w.u8(70).raw(&mirror.cap.root.0).raw(mirror.cap.tree.expose());
                w.u8(u8::from(mirror.friend.is_some()))
                    .raw(&mirror.friend.map_or([0; 32], |friend| friend.0));
                w.u32(mirror.expires_day).u8(u8::from(mirror.travels));
                w.u8(u8::from(mirror.was_here) | u8::from(mirror.is_hidden) << 1);
            }
            Self::TorOnly(who, only) => {
                w.u8(80).u8(u8::from(*only));
                match who {
                    Who::Friend(key) => put_key(w.u8(0), *key),
                    Who::Invite(id) => {
                        w.u8(1).u64(id.0);
                    }
                }
            }
            Self::Onion(secret) => {
                w.u8(81).raw(secret.seed().expose());
            }
            Self::NothingButTor(only) => {
                w.u8(82).u8(u8::from(*only));
            }
            Self::MirrorGone(root) => {
                w.u8(71).raw(&root.0);
            }
            Self::Offered(root, friend, state) => {
                w.u8(72).raw(&root.0).raw(&friend.0).u8(*state);
            }
            Self::OfferOver(root, friend) => {
                w.u8(73).raw(&root.0).raw(&friend.0);
            }
            Self::MirrorQuota(friend, bytes) => {
                w.u8(74).raw(&friend.0).u64(*bytes);
            }
            Self::Cover(root, kind, from_ms) => {
                w.u8(75).raw(&root.0).u8(*kind).u64(*from_ms);
            }
            Self::Hours(hours, until) => {
                w.u8(76).raw(hours).u64(*until);
            }
            Self::FriendHours(friend, hours) => {
                w.u8(77).raw(&friend.0).raw(hours);
            }
            Self::Hidden(hidden, is_hidden) => {
                w.u8(60).u8(u8::from(*is_hidden));
                match hidden {
                    Hidden::Video(root) => {
                        w.u8(0).raw(&root.0);
                    }
                    Hidden::Word(word) => put_text(w.u8(1), word),
                    Hidden::Friend(key) => put_key(w.u8(2), *key),
                }
            }
            Self::Token(name, token) => {
                w.u8(61).raw(&token.hash).u8(token.scopes).u64(token.created_s);
                put_text(&mut w, name);
            }
            Self::TokenRevoked(name) => put_text(w.u8(62), name),
        }
        w.into_bytes()
    }

    /// Reads a record. `None`: a kind of a later release, which is skipped.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, DecodeError> {
        let mut r = Reader::new(bytes);
        let key = |r: &mut Reader<'_>| r.array().map(FriendKey);
        let id = |r: &mut Reader<'_>| r.u64().map(InviteId);
        let record = match r.u8()? {
            1 => Self::Myself(Myself {
                secrets: [r.array()?, r.array()?, r.array()?],
                secret: Key::new(r.array()?),
                created_s: r.u64()?,
                name: take_text(&mut r)?,
                own_keys: 0,
                rotated_s: 0,
                older: Vec::new(),
            }),
            2 => {
                let keys = PublicKeys { noise: r.array()?, sign: r.array()?, pair: r.array()? };
                let root = PairRoot::from_key(Key::new(r.array()?));
                let (addrs_seq, counter_in, counter_out) = (r.u64()?, r.u64()?, r.u64()?);
                let since_s = r.u64()?;
                let traffic = take_traffic(&mut r)?;
                let name = take_text(&mut r)?;
                let addrs = Address::decode_list(&mut r)?;
                // Journals from before link keys could be rotated end here.
                let own_keys = if r.remaining().is_empty() { 0 } else { r.u32()? };
                let record = FriendRecord {
                    addrs_seq,
                    counter_in,
                    counter_out,
                    ..FriendRecord::new(keys, root, addrs, own_keys)
                };
                let (verified_s, rotated_s) = (None, None);
                Self::Friend(Box::new(Friend { record, name, since_s, traffic, verified_s, rotated_s }))
            }
            3 => Self::FriendRemoved(key(&mut r)?),
            4 => Self::ViewDropped(key(&mut r)?),
            5 => Self::CounterOut(key(&mut r)?, r.u64()?),
            6 => Self::CounterIn(key(&mut r)?, r.u64()?),
            7 => Self::Addresses(key(&mut r)?, r.u64()?, Address::decode_list(&mut r)?),
            8 => Self::Traffic(key(&mut r)?, take_traffic(&mut r)?),
            42 => Self::Credit(key(&mut r)?, r.u64()?, r.u64()?, r.u64()?),
            9 => {
                let (id, secret, expires) = (id(&mut r)?, Key::new(r.array()?), r.u32()?);
                let (is_bound, bound) = (r.flag("bound")?, r.array()?);
                let count = r.u8()?;
                let tries = (0..count).map(|_| r.array()).collect::<Result<_, _>>()?;
                Self::Given(GivenInvite { id, secret, expires, tries, bound: is_bound.then_some(bound) })
            }
            10 => Self::InviteTry(id(&mut r)?, r.array()?),
            11 => Self::InviteBound(id(&mut r)?, r.array()?),
            12 => Self::InviteDone(id(&mut r)?),
            13 => {
                let id = id(&mut r)?;
                let bad = r.invalid("invite");
                let bytes = r.bytes16(MAX_INVITE_LEN.max(MAX_CERT_LEN), "invite")?;
                Self::Taken(id, Invite::decode(bytes).map_err(|_| bad)?)
            }
            14 => {
                let cap = ReadCap { root: Root(r.array()?), key: Key::new(r.array()?) };
                let (bytes, duration_s, blocks, created_s) = (r.u64()?, r.u32()?, r.u64()?, r.u64()?);
                let audience = take_audience(&mut r)?;
                let title = take_text(&mut r)?;
                let text = take_text(&mut r)?;
                let mime = take_text(&mut r)?;
                let count = r.u8()?;
                let tags = (0..count).map(|_| take_text(&mut r)).collect::<Result<_, _>>()?;
                Self::Published(Box::new(Publication {
                    cap,
                    title,
                    text,
                    tags,
                    mime,
                    bytes,
                    duration_s,
                    blocks,
                    audience,
                    created_s,
                }))
            }
            15 => Self::Unshared(Root(r.array()?)),
            16 => Self::Removed(Root(r.array()?)),
            17 => Self::Renamed(take_text(&mut r)?),
            18 => {
                let key = key(&mut r)?;
                let (generation, psk, since_s) = (r.u32()?, Key::new(r.array()?), r.u64()?);
                let next = if r.flag("next")? {
                    let (generation, psk) = (r.u32()?, Key::new(r.array()?));
                    Some(NextPsk { generation, psk, confirmed: r.flag("confirmed")? })
                } else {
                    None
                };
                Self::Ratchet(key, Box::new(Ratchet { generation, psk, since_s, next }))
            }
            19 => Self::Rotated(r.u32()?, Key::new(r.array()?), Key::new(r.array()?), r.u64()?),
            20 => {
                let key = key(&mut r)?;
                let keys = PublicKeys { sign: key.0, noise: r.array()?, pair: r.array()? };
                let root = PairRoot::from_key(Key::new(r.array()?));
                Self::FriendKeys(key, Box::new(NewKeys { keys, root, since_s: r.u32()? }), r.u64()?)
            }
            21 => Self::OwnKeys(key(&mut r)?, r.u32()?, PairRoot::from_key(Key::new(r.array()?))),
            22 => Self::Verified(key(&mut r)?, r.u64()?),
            23 => Self::Older(r.u32()?, Key::new(r.array()?), Key::new(r.array()?)),
            24 => Self::FriendNamed(key(&mut r)?, take_text(&mut r)?),
            25 => {
                let friend = key(&mut r)?;
                let bad = r.invalid("trust");
                let trust = Trust::ALL.get(usize::from(r.u8()?)).copied().ok_or(bad)?;
                let blocked = r.flag("blocked")?;
                let [up, down] = [r.u64()?, r.u64()?].map(|rate| (rate > 0).then_some(rate));
                Self::FriendSettings(friend, Settings { trust, up, down, blocked })
            }
            26 => Self::Met(key(&mut r)?, r.u64()?),
            27 => {
                let (id, name) = (r.u64()?, take_text(&mut r)?);
                let count = r.u32()?;
                let members = (0..count).map(|_| key(&mut r)).collect::<Result<_, _>>()?;
                Self::Circle(id, Circle { name, members })
            }
            28 => Self::CircleRemoved(r.u64()?),
            30 => {
                let (started_s, is_inside, after) = (r.u64()?, r.flag("place")?, r.array()?);
                let after = is_inside.then_some(Root(after));
                let (found, ended_s, found_before) = (r.u32()?, r.u64()?, r.u32()?);
                Self::Scrub(Scrub { started_s, after, found, ended_s, found_before })
            }
            31 => Self::Damaged(Root(r.array()?), r.u64()?),
            32 => Self::Source(r.array()?, Root(r.array()?)),
            33 => Self::Folder(take_text(&mut r)?, take_text(&mut r)?),
            70 => {
                let cap = VerifyCap { root: Root(r.array()?), tree: Key::new(r.array()?) };
                let (is_for_friend, friend) = (r.flag("friend")?, key(&mut r)?);
                let friend = is_for_friend.then_some(friend);
                let (expires_day, travels) = (r.u32()?, r.flag("travels")?);
                let bad = r.invalid("was here");
                let (was_here, is_hidden) = match r.u8()? {
                    0 => (false, false),
                    1 => (true, false),
                    3 => (true, true),
                    _ => return Err(bad),
                };
                Self::Mirror(Box::new(Mirror { cap, friend, expires_day, travels, was_here, is_hidden }))
            }
            80 => {
                let only = r.flag("tor only")?;
                let bad = r.invalid("who");
                let who = match r.u8()? {
                    0 => Who::Friend(key(&mut r)?),
                    1 => Who::Invite(id(&mut r)?),
                    _ => return Err(bad),
                };
                Self::TorOnly(who, only)
            }
            81 => Self::Onion(OnionSecret::from_seed(Key::new(r.array()?))),
            82 => Self::NothingButTor(r.flag("nothing but tor")?),
            71 => Self::MirrorGone(Root(r.array()?)),
            72 => Self::Offered(Root(r.array()?), key(&mut r)?, r.u8()?),
            73 => Self::OfferOver(Root(r.array()?), key(&mut r)?),
            74 => Self::MirrorQuota(key(&mut r)?, r.u64()?),
            75 => Self::Cover(Root(r.array()?), r.u8()?, r.u64()?),
            76 => Self::Hours(r.array()?, r.u64()?),
            77 => Self::FriendHours(key(&mut r)?, r.array()?),
            40 => Self::Restored(key(&mut r)?, r.u64()?),
            41 => Self::Known(ReadCap { root: Root(r.array()?), key: Key::new(r.array()?) }),
            50 => Self::Routes(r.take(r.remaining().len())?.to_vec()),
            60 => {
                let is_hidden = r.flag("hidden")?;
                let bad = r.invalid("hidden");
                let hidden = match r.u8()? {
                    0 => Hidden::Video(Root(r.array()?)),
                    1 => Hidden::Word(take_text(&mut r)?),
                    2 => Hidden::Friend(key(&mut r)?),
                    _ => return Err(bad),
                };
                Self::Hidden(hidden, is_hidden)
            }
            61 => {
                let (hash, scopes, created_s) = (r.array()?, r.u8()?, r.u64()?);
                Self::Token(take_text(&mut r)?, Token { hash, scopes, created_s })
            }
            62 => Self::TokenRevoked(take_text(&mut r)?),
            _ => return Ok(None),
        };
        r.finish()?;
        Ok(Some(record))
    }

    /// The record of a change that the protocol core asked to keep.
    pub fn of_change(change: &Change, name: impl FnOnce(&Certificate) -> String, now_s: u64) -> Self {
        match change {
            Change::CounterOut(key, n) => Self::CounterOut(*key, *n),
            Change::CounterIn(key, n) => Self::CounterIn(*key, *n),
            Change::InviteTry(id, nonce) => Self::InviteTry(*id, *nonce),
            Change::InviteBound(id, key) => Self::InviteBound(*id, *key),
            Change::InviteDone(id) => Self::InviteDone(*id),
            Change::TorOnly(key) => Self::TorOnly(Who::Friend(*key), true),
            Change::Addresses(key, seq, addrs) => Self::Addresses(*key, *seq, addrs.clone()),
            Change::FriendAdded(cert, record) => Self::Friend(Box::new(Friend {
                record: (**record).clone(),
                name: name(cert),
                since_s: now_s,
                traffic: Traffic::default(),
                verified_s: None,
                rotated_s: None,
            })),
            Change::Ratchet(key, ratchet) => Self::Ratchet(*key, ratchet.clone()),
            Change::FriendKeys(key, new) => Self::FriendKeys(*key, new.clone(), now_s),
            Change::Routes(bytes) => Self::Routes(bytes.clone()),
            Change::OwnKeys(key, number, root) => Self::OwnKeys(*key, *number, root.clone()),
        }
    }
}

/// What the journal says.
#[derive(Debug, Default)]
pub struct State {
    /// Who this node is.
    pub me: Option<Myself>,
    /// Friends.
    pub friends: BTreeMap<FriendKey, Friend>,
    /// Removed friends whose view logs still exist.
    pub gone: BTreeSet<FriendKey>,
    /// Invites given and not used up.
    pub given: BTreeMap<InviteId, GivenInvite>,
    /// Invites taken and not completed.
    pub taken: BTreeMap<InviteId, Invite>,
    /// Own publications.
    pub publications: BTreeMap<Root, Publication>,
    /// What is set for friends; nothing means the defaults.
    pub settings: BTreeMap<FriendKey, Settings>,
    /// Who is reached through Tor alone.
    pub tor_only: BTreeSet<Who>,
    /// The secret of the own onion service, once there was one.
    pub onion: Option<OnionSecret>,
    /// The node was last started with nothing but Tor.
    pub nothing_but_tor: bool,
    /// When a link to a friend stood last, in Unix seconds, to the day.
    pub met: BTreeMap<FriendKey, u64>,
    /// Circles.
    pub circles: BTreeMap<u64, Circle>,
    /// What neither search nor pages show.
    pub hidden: BTreeSet<Hidden>,
    /// Tokens for programs, by name.
    pub tokens: BTreeMap<String, Token>,
    /// Copies that are kept for others.
    pub mirrors: BTreeMap<Root, Mirror>,
    /// Friends who keep copies of own videos, or are asked to, and how each stands.
    pub offered: BTreeMap<(Root, FriendKey), u8>,
    /// For which friends so many bytes are kept.
    pub mirror_quotas: BTreeMap<FriendKey, u64>,
    /// Objects from further away that are given, why (1 cover, 2 watched), and from when on (unix ms).
    pub covers: BTreeMap<Root, (u8, u64)>,
    /// How often this node is on line in each hour of the day, and up to when that was counted.
    pub hours: ([u8; 24], u64),
    /// How often friends are, as they say.
    pub friend_hours: BTreeMap<FriendKey, [u8; 24]>,
    /// Watched folders, and for whom.
    pub folders: BTreeMap<String, String>,
    /// Marks of files that were published, and as which objects.
    pub sources: BTreeMap<[u8; 32], Root>,
    /// The round of checks over the store.
    pub scrub: Scrub,
    /// Objects with damaged blocks, and how many.
    pub damaged: BTreeMap<Root, u64>,
    /// Friends with whom this node has made no new keys since it was restored, and when that was.
    pub restored: BTreeMap<FriendKey, u64>,
    /// What friends gave and took while others waited, and as of when.
    pub credit: BTreeMap<FriendKey, (u64, u64, u64)>,
    /// Read keys of objects whose blocks did not come out of a backup.
    pub known: BTreeMap<Root, Key>,
    /// The routes of own circuits, as the core wrote them.
    pub routes: Option<Vec<u8>>,
}

impl State {
    /// Applies one record.
    pub fn apply(&mut self, record: Record) {
        match record {
            Record::Myself(me) => self.me = Some(me),
            Record::Friend(friend) => {
                let key = FriendKey(friend.record.keys.sign);
                self.gone.remove(&key);
                self.restored.remove(&key);
                self.credit.remove(&key);
                self.credit.remove(&key);
                self.friends.insert(key, *friend);
            }
            Record::FriendRemoved(key) => {
                self.friends.remove(&key);
                self.forget_settings(key);
                self.gone.insert(key);
            }
            Record::ViewDropped(key) => {
                self.gone.remove(&key);
            }
            Record::CounterOut(key, n) => self.friend(key, |f| f.record.counter_out = n),
            Record::CounterIn(key, n) => self.friend(key, |f| f.record.counter_in = n),
            Record::Addresses(key, seq, addrs) => self.friend(key, |f| {
                f.record.addrs_seq = seq;
                f.record.addrs = addrs;
            }),
            Record::Traffic(key, traffic) => self.friend(key, |f| f.traffic = traffic),
            Record::Credit(key, given, taken, at_s) => {
                if self.friends.contains_key(&key) {
                    self.credit.insert(key, (given, taken, at_s));
                }
            }
            Record::Given(invite) => {
                self.given.insert(invite.id, invite);
            }
            Record::InviteTry(id, nonce) => {
                if let Some(invite) = self.given.get_mut(&id) {
                    invite.tries.push(nonce);
                }
            }
            Record::InviteBound(id, key) => {
                if let Some(invite) = self.given.get_mut(&id) {
                    invite.bound = Some(key);
                }
            }
            Record::TorOnly(who, true) => {
                let is_known = match who {
                    Who::Friend(key) => self.friends.contains_key(&key),
                    Who::Invite(id) => self.given.contains_key(&id) || self.taken.contains_key(&id),
                };
                if is_known {
                    self.tor_only.insert(who);
                }
            }
            Record::TorOnly(who, false) => drop(self.tor_only.remove(&who)),
            Record::Onion(secret) => self.onion = Some(secret),
            Record::NothingButTor(only) => self.nothing_but_tor = only,
            Record::InviteDone(id) => {
                self.given.remove(&id);
                self.taken.remove(&id);
                self.tor_only.remove(&Who::Invite(id));
            }
            Record::Taken(id, invite) => {
                self.taken.insert(id, invite);
            }
            Record::Published(publication) => {
                self.publications.insert(publication.cap.root, *publication);
            }
            Record::Unshared(root) => {
                if let Some(publication) = self.publications.get_mut(&root) {
                    publication.audience = None;
                }
            }
            Record::Removed(root) => {
                self.publications.remove(&root);
                self.known.remove(&root);
                self.sources.retain(|_, of| *of != root);
                self.mirrors.remove(&root);
                self.covers.remove(&root);
            }
            Record::Restored(key, 0) => drop(self.restored.remove(&key)),
            Record::Restored(key, at_s) => drop(self.restored.insert(key, at_s)),
            Record::Known(cap) => drop(self.known.insert(cap.root, cap.key)),
            Record::Routes(bytes) => self.routes = Some(bytes),
            Record::Folder(path, to) if to.is_empty() => drop(self.folders.remove(&path)),
            Record::Folder(path, to) => drop(self.folders.insert(path, to)),
            Record::Mirror(mirror) => drop(self.mirrors.insert(mirror.cap.root, *mirror)),
            Record::MirrorGone(root) => drop(self.mirrors.remove(&root)),
            Record::Offered(root, friend, state) => {
                if self.friends.contains_key(&friend) {
                    self.offered.insert((root, friend), state);
                }
            }
            Record::OfferOver(root, friend) => drop(self.offered.remove(&(root, friend))),
            Record::MirrorQuota(friend, 0) => drop(self.mirror_quotas.remove(&friend)),
            Record::MirrorQuota(friend, bytes) => {
                if self.friends.contains_key(&friend) {
                    self.mirror_quotas.insert(friend, bytes);
                }
            }
            Record::Cover(root, 0, _) => drop(self.covers.remove(&root)),
            Record::Cover(root, kind, from_ms) => drop(self.covers.insert(root, (kind, from_ms))),
            Record::Hours(hours, until) => self.hours = (hours, until),
            Record::FriendHours(friend, hours) => {
                if self.friends.contains_key(&friend) {
                    self.friend_hours.insert(friend, hours);
                }
            }
            Record::Source(mark, root) => {
                if self.publications.contains_key(&root) {
                    self.sources.insert(mark, root);
                }
            }
            Record::Hidden(hidden, true) => drop(self.hidden.insert(hidden)),
            Record::Hidden(hidden, false) => drop(self.hidden.remove(&hidden)),
            Record::Token(name, token) => drop(self.tokens.insert(name, token)),
            Record::TokenRevoked(name) => drop(self.tokens.remove(&name)),
            Record::Renamed(name) => {
                if let Some(me) = &mut self.me {
                    me.name = name;
                }
            }
            Record::Ratchet(key, ratchet) => self.friend(key, |f| f.record.ratchet = *ratchet),
            Record::Rotated(number, noise, pair, at) => {
                if let Some(me) = &mut self.me {
                    let [sign, old_noise, old_pair] = me.secrets;
                    if noise != Key::new(old_noise) {
                        me.older.push((me.own_keys, Key::new(old_noise), Key::new(old_pair)));
                        me.secrets = [sign, *noise.expose(), *pair.expose()];
                    }
                    (me.own_keys, me.rotated_s) = (number, at);
                }
            }
            Record::Older(number, noise, pair) => {
                if let Some(me) = &mut self.me {
                    me.older.push((number, noise, pair));
                }
            }
            Record::FriendKeys(key, new, at) => self.friend(key, |f| {
                f.record.keys = new.keys;
                f.record.root = new.root;
                f.record.keys_since_s = new.since_s;
                f.rotated_s = (at > 0).then_some(at);
            }),
            Record::OwnKeys(key, number, root) => self.friend(key, |f| {
                f.record.own_keys = number;
                f.record.root = root;
            }),
            Record::Verified(key, at) => self.friend(key, |f| f.verified_s = (at > 0).then_some(at)),
            Record::FriendNamed(key, name) => self.friend(key, |f| f.name = name),
            Record::FriendSettings(key, settings) => {
                if settings == Settings::default() {
                    self.settings.remove(&key);
                } else {
                    self.settings.insert(key, settings);
                }
            }
            Record::Met(key, at_s) => {
                self.met.insert(key, at_s);
            }
            Record::Scrub(scrub) => self.scrub = scrub,
            Record::Damaged(root, 0) => {
                self.damaged.remove(&root);
            }
            Record::Damaged(root, blocks) => {
                self.damaged.insert(root, blocks);
            }
            Record::Circle(id, circle) => {
                self.circles.insert(id, circle);
            }
            Record::CircleRemoved(id) => {
                self.circles.remove(&id);
                for publication in self.publications.values_mut() {
                    if publication.audience == Some(Audience::Circle(id)) {
                        publication.audience = None;
                    }
                }
            }
        }
    }

    fn forget_settings(&mut self, key: FriendKey) {
        self.settings.remove(&key);
        self.hidden.remove(&Hidden::Friend(key));
        self.mirror_quotas.remove(&key);
        self.friend_hours.remove(&key);
        self.offered.retain(|(_, friend), _| *friend != key);
        self.mirrors.retain(|_, mirror| mirror.friend != Some(key));
        self.met.remove(&key);
        self.tor_only.remove(&Who::Friend(key));
        self.restored.remove(&key);
        self.circles.values_mut().for_each(|circle| {
            circle.members.remove(&key);
        });
    }

    /// What is set for a friend.
    pub fn settings_of(&self, key: FriendKey) -> Settings {
        self.settings.get(&key).copied().unwrap_or_default()
    }

    /// The circle with this name.
    pub fn circle_named(&self, name: &str) -> Option<(u64, &Circle)> {
        self.circles.iter().find(|(_, circle)| circle.name == name).map(|(id, circle)| (*id, circle))
    }

    fn friend(&mut self, key: FriendKey, change: impl FnOnce(&mut Friend)) {
        if let Some(friend) = self.friends.get_mut(&key) {
            change(friend);
        }
    }

    /// Records that give this state again.
    pub fn live(&self) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        if let Some(me) = &self.me {
            let copy = Myself {
                secrets: me.secrets,
                secret: me.secret.clone(),
                name: me.name.clone(),
                created_s: me.created_s,
                own_keys: 0,
                rotated_s: 0,
                older: Vec::new(),
            };
            out.push(Record::Myself(copy).encode());
            if me.own_keys > 0 {
                let [_, noise, pair] = me.secrets.map(Key::new);
                out.push(Record::Rotated(me.own_keys, noise, pair, me.rotated_s).encode());
            }
            // Older link keys go when the last friend knows newer ones.
            let known = self.friends.values().map(|f| f.record.own_keys).min().unwrap_or(me.own_keys);
            let older = me.older.iter().filter(|(number, ..)| *number >= known);
            out.extend(older.map(|(number, n, p)| Record::Older(*number, n.clone(), p.clone()).encode()));
        }
        for (key, friend) in &self.friends {
            out.extend(friend.live(*key).iter().map(Record::encode));
        }
        out.extend(self.gone.iter().map(|key| Record::FriendRemoved(*key).encode()));
        out.extend(self.given.values().map(|i| Record::Given(i.clone()).encode()));
        out.extend(self.taken.iter().map(|(id, i)| Record::Taken(*id, i.clone()).encode()));
        let publications = self.publications.values();
        out.extend(publications.map(|p| Record::Published(Box::new(p.clone())).encode()));
        let folders = self.folders.iter();
        out.extend(folders.map(|(path, to)| Record::Folder(path.clone(), to.clone()).encode()));
        out.extend(self.mirrors.values().map(|mirror| Record::Mirror(Box::new(mirror.clone())).encode()));
        out.extend(self.offered.iter().map(|((root, f), state)| Record::Offered(*root, *f, *state).encode()));
        out.extend(self.mirror_quotas.iter().map(|(key, bytes)| Record::MirrorQuota(*key, *bytes).encode()));
        out.extend(
            self.covers.iter().map(|(root, (kind, from))| Record::Cover(*root, *kind, *from).encode()),
        );
        out.extend((self.hours.1 > 0).then(|| Record::Hours(self.hours.0, self.hours.1).encode()));
        out.extend(self.friend_hours.iter().map(|(key, hours)| Record::FriendHours(*key, *hours).encode()));
        out.extend(self.sources.iter().map(|(mark, root)| Record::Source(*mark, *root).encode()));
        out.extend(self.settings.iter().map(|(key, s)| Record::FriendSettings(*key, *s).encode()));
        out.extend(self.tor_only.iter().map(|who| Record::TorOnly(*who, true).encode()));
        out.extend(self.onion.iter().map(|secret| Record::Onion(secret.clone()).encode()));
        out.extend(self.nothing_but_tor.then(|| Record::NothingButTor(true).encode()));
        out.extend(self.met.iter().map(|(key, at_s)| Record::Met(*key, *at_s).encode()));
        out.extend(self.circles.iter().map(|(id, c)| Record::Circle(*id, c.clone()).encode()));
        out.extend((self.scrub != Scrub::default()).then(|| Record::Scrub(self.scrub).encode()));
        out.extend(self.damaged.iter().map(|(root, blocks)| Record::Damaged(*root, *blocks).encode()));
        let credit = |(key, c): (&FriendKey, &(u64, u64, u64))| Record::Credit(*key, c.0, c.1, c.2).encode();
        out.extend(self.credit.iter().map(credit));
        out.extend(self.restored.iter().map(|(key, at_s)| Record::Restored(*key, *at_s).encode()));
        let known = self.known.iter().map(|(root, key)| ReadCap { root: *root, key: key.clone() });
        out.extend(known.map(|cap| Record::Known(cap).encode()));
        out.extend(self.routes.iter().map(|bytes| Record::Routes(bytes.clone()).encode()));
        out.extend(self.hidden.iter().map(|hidden| Record::Hidden(hidden.clone(), true).encode()));
        let tokens = self.tokens.iter();
        out.extend(tokens.map(|(name, token)| Record::Token(name.clone(), token.clone()).encode()));
        out
    }

    /// A name for a new friend: its own, with a number if another friend has it already.
    pub fn free_name(&self, wanted: &str) -> String {
        let taken = |name: &str| [".", ".."].contains(&name) || self.friends.values().any(|f| f.name == name);
        if !taken(wanted) {
            return wanted.to_owned();
        }
        let mut number = 2;
        loop {
            let name = format!("{wanted} {number}");
            if !taken(&name) {
                return name;
            }
            number += 1;
        }
    }

    /// The friend with this name.
    pub fn friend_named(&self, name: &str) -> Option<FriendKey> {
        self.friends.iter().find(|(_, f)| f.name == name).map(|(key, _)| *key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kith_crypto::rng::Rng;
    use proptest::prelude::*;

    fn publication(n: u8) -> Publication {
        Publication {
            cap: ReadCap { root: Root([n; 32]), key: Key::new([9; 32]) },
            title: "Zoo".into(),
            text: "x".into(),
            tags: vec!["a".into(), "b".into()],
            mime: "video/mp4".into(),
            bytes: 5,
            duration_s: 1,
            blocks: 2,
            audience: Some(Audience::One(FriendKey([4; 32]))),
            created_s: 7,
        }
    }

    fn records() -> Vec<Record> {
        let id = Identity::generate(&mut Rng::from_seed([1; 32]));
        let other = Identity::generate(&mut Rng::from_seed([2; 32]));
        let cert = Certificate::sign(&other, "Bo", &[], 1, 2).unwrap();
        let key = FriendKey(other.public().sign);
        let record = FriendRecord {
            keys: *other.public(),
            root: PairRoot::new(&id, other.public(), None).unwrap(),
            addrs: vec![Address::Ip("127.0.0.1:9".parse().unwrap())],
            addrs_seq: 1,
            counter_in: 2,
            counter_out: 3,
            ratchet: Ratchet::initial(&PairRoot::from_key(Key::new([0; 32]))),
            own_keys: 0,
            keys_since_s: 0,
        };
        let next = Some(NextPsk { generation: 4, psk: Key::new([31; 32]), confirmed: true });
        let ratchet = Ratchet { generation: 3, psk: Key::new([30; 32]), since_s: 33, next };
        let newer = other.rotated(&mut Rng::from_seed([3; 32]));
        let root = PairRoot::from_key(Key::new([32; 32]));
        let new = NewKeys { keys: *newer.public(), root: root.clone(), since_s: 34 };
        let invite = Invite::sign(&other, cert, Key::new([3; 32]), 99);
        let given = GivenInvite {
            id: InviteId(4),
            secret: Key::new([5; 32]),
            expires: 6,
            tries: vec![[7; 24]],
            bound: None,
        };
        let friend = Friend {
            record,
            name: "Bo".into(),
            since_s: 8,
            traffic: Traffic::default(),
            verified_s: None,
            rotated_s: None,
        };
        vec![
            Record::Myself(Myself {
                secrets: id.secrets(),
                secret: Key::new([8; 32]),
                name: "Ana".into(),
                created_s: 1,
                own_keys: 0,
                rotated_s: 0,
                older: Vec::new(),
            }),
            Record::Friend(Box::new(friend)),
            Record::CounterOut(key, 10),
            Record::CounterIn(key, 11),
            Record::Addresses(key, 12, vec![]),
            Record::Traffic(key, Traffic { sent: 1, received: 2, relayed: 3 }),
            Record::Credit(key, 4, 5, 6),
            Record::Given(given),
            Record::InviteTry(InviteId(4), [8; 24]),
            Record::InviteBound(InviteId(4), [9; 32]),
            Record::Taken(InviteId(5), invite),
            Record::InviteDone(InviteId(6)),
            Record::Published(Box::new(publication(1))),
            Record::Published(Box::new(publication(2))),
            Record::Source([3; 32], Root([1; 32])),
            Record::Mirror(Box::new(Mirror {
                cap: VerifyCap { root: Root([61; 32]), tree: Key::new([62; 32]) },
                friend: Some(key),
                expires_day: 63,
                travels: true,
                was_here: false,
                is_hidden: false,
            })),
            Record::Mirror(Box::new(Mirror {
                cap: VerifyCap { root: Root([64; 32]), tree: Key::new([65; 32]) },
                friend: None,
                expires_day: 0,
                travels: false,
                was_here: true,
                is_hidden: true,
            })),
            Record::MirrorGone(Root([66; 32])),
            Record::Folder("/films".into(), "fof".into()),
            Record::Folder("/old".into(), "friends".into()),
            Record::Folder("/old".into(), String::new()),
            Record::Offered(Root([1; 32]), key, 2),
            Record::Offered(Root([2; 32]), key, ENDING),
            Record::OfferOver(Root([2; 32]), key),
            Record::MirrorQuota(key, 67),
            Record::Cover(Root([68; 32]), 1, 69),
            Record::Cover(Root([70; 32]), 2, 71),
            Record::Cover(Root([70; 32]), 0, 0),
            Record::Hours([72; 24], 73),
            Record::FriendHours(key, [74; 24]),
            Record::Source([4; 32], Root([2; 32])),
            Record::Unshared(Root([1; 32])),
            Record::Removed(Root([2; 32])),
            Record::FriendRemoved(FriendKey([77; 32])),
            Record::ViewDropped(FriendKey([78; 32])),
            Record::Renamed("Ann".into()),
            Record::Ratchet(key, Box::new(ratchet)),
            Record::Rotated(1, Key::new([41; 32]), Key::new([42; 32]), 43),
            Record::Rotated(2, Key::new([44; 32]), Key::new([45; 32]), 46),
            Record::FriendKeys(key, Box::new(new), 47),
            Record::OwnKeys(key, 1, root),
            Record::Verified(key, 48),
            Record::FriendNamed(key, "Bob".into()),
            Record::FriendSettings(
                key,
                Settings { trust: Trust::Low, up: Some(5), down: None, blocked: true },
            ),
            Record::Met(key, 13),
            Record::TorOnly(Who::Friend(key), true),
            Record::TorOnly(Who::Invite(InviteId(5)), true),
            Record::TorOnly(Who::Invite(InviteId(4)), true),
            Record::TorOnly(Who::Invite(InviteId(4)), false),
            Record::Onion(OnionSecret::from_seed(Key::new([79; 32]))),
            Record::NothingButTor(true),
            Record::Circle(14, Circle { name: "Zoo".into(), members: [key].into() }),
            Record::Circle(15, Circle { name: "Gone".into(), members: BTreeSet::new() }),
            Record::CircleRemoved(15),
            Record::Scrub(Scrub {
                started_s: 16,
                after: Some(Root([17; 32])),
                found: 18,
                ..Scrub::default()
            }),
            Record::Damaged(Root([19; 32]), 20),
            Record::Damaged(Root([21; 32]), 22),
            Record::Damaged(Root([21; 32]), 0),
            Record::Restored(key, 16),
            Record::Known(ReadCap { root: Root([33; 32]), key: Key::new([34; 32]) }),
            Record::Routes(vec![1, 2, 3]),
            Record::Hidden(Hidden::Video(Root([35; 32])), true),
            Record::Hidden(Hidden::Word("zoo".into()), true),
            Record::Hidden(Hidden::Friend(key), true),
            Record::Hidden(Hidden::Word("ark".into()), true),
            Record::Hidden(Hidden::Word("ark".into()), false),
            Record::Token("kodi".into(), Token { hash: [36; 32], scopes: 3, created_s: 37 }),
            Record::Token("old".into(), Token { hash: [38; 32], scopes: 1, created_s: 39 }),
            Record::TokenRevoked("old".into()),
        ]
    }

    #[test]
    fn every_record_round_trips() {
        for record in records() {
            let bytes = record.encode();
            let back = Record::decode(&bytes).unwrap().unwrap();
            assert_eq!(back.encode(), bytes, "{record:?}");
        }
        assert!(Record::decode(&[200, 1, 2]).unwrap().is_none());
    }

    #[test]
    fn live_records_give_the_same_state() {
        let mut state = State::default();
        records().into_iter().for_each(|r| state.apply(r));
        let mut again = State::default();
        for bytes in state.live() {
            again.apply(Record::decode(&bytes).unwrap().unwrap());
        }
        assert_eq!(state.live(), again.live());
        assert_eq!(again.me.as_ref().unwrap().name, "Ann");
        let friend = again.friends.values().next().unwrap();
        assert_eq!((friend.record.counter_out, friend.record.counter_in), (10, 11));
        assert_eq!(again.publications.len(), 1);
        assert_eq!((again.restored.len(), again.known.len()), (1, 1));
        assert_eq!(again.tor_only.len(), 2);
        assert_eq!(again.onion.as_ref().unwrap().seed(), &Key::new([79; 32]));
        assert_eq!(
            (again.hidden.len(), again.tokens.keys().map(String::as_str).collect()),
            (3, vec!["kodi"])
        );
        assert!(again.publications.values().all(|p| p.audience.is_none()));
        assert_eq!(again.free_name("Bob"), "Bob 2");
        assert_eq!((friend.verified_s, friend.rotated_s, friend.record.own_keys), (Some(48), Some(47), 1));
        assert_eq!(friend.record.ratchet.to_call().psk, Key::new([31; 32]));
        let me = again.me.as_ref().unwrap();
        assert_eq!((me.own_keys, me.secrets[1], me.rotated_s), (2, [44; 32], 46));
        // The friend knows the first rotated keys: those are kept, the ones before are not.
        assert_eq!(me.older.iter().map(|o| o.0).collect::<Vec<_>>(), [1]);
        assert_eq!(me.older_identities()[0].1.secrets()[1], [41; 32]);
    }

    #[test]
    fn friends_from_before_rotation_are_read() {
        let friend = records().into_iter().find(|r| matches!(r, Record::Friend(_))).unwrap().encode();
        let old = &friend[..friend.len() - 4];
        let Record::Friend(back) = Record::decode(old).unwrap().unwrap() else { panic!() };
        assert_eq!(back.record.own_keys, 0);
        assert_eq!(back.record.ratchet, Ratchet::initial(&back.record.root));
    }

    #[test]
    fn a_removed_friend_leaves_circles_and_settings_and_a_removed_circle_shares_nothing() {
        let mut state = State::default();
        records().into_iter().for_each(|r| state.apply(r));
        let key = *state.friends.keys().next().unwrap();
        assert_eq!((state.settings_of(key).trust, state.met[&key]), (Trust::Low, 13));
        let mut shown = publication(9);
        shown.audience = Some(Audience::Circle(14));
        state.apply(Record::Published(Box::new(shown)));
        assert_eq!(state.circle_named("Zoo").unwrap().1.members.len(), 1);
        state.apply(Record::FriendRemoved(key));
        assert_eq!(state.circle_named("Zoo").unwrap().1.members.len(), 0);
        assert!(state.settings.is_empty() && state.met.is_empty());
        let before = state.live();
        state.apply(Record::CircleRemoved(14));
        assert_ne!(state.live(), before);
        assert!(state.publications[&Root([9; 32])].audience.is_none());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Record::decode(&bytes);
        }
    }
}
