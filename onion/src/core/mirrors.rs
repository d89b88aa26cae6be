//! Copies that are kept for others: what is said about them on links, and to whom they are given.
//! Page: `docs/protocol/mirrors.md`.
//!
//! A mirror has the verify capability alone: it checks and gives blocks that it cannot read. Whoever asks proves
//! the tree key, and that is what the publisher gave to those who may have the video; so a mirror gives it to
//! whoever can prove it. What this node published itself is never given by these rules, whatever a friend offers.
//!
//! What is kept for whom, and for how long, the node remembers; the core carries the messages and judges requests.

use super::*;
use crate::control::Control;
pub use crate::control::{MirrorOffer, MirrorState};
use kith_crypto::content::VerifyCap;

/// Bit of `HELLO`: the sender understands what is said about mirrors.
pub(super) const MIRRORS: u64 = 4;

/// Why a whole object is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Kept {
    /// It was published here, or fetched by its owner's wish: given as audience and mode say.
    #[default]
    Own,
    /// For others, with the owner's consent: given to whoever proves its tree key, in all modes.
    Mirror {
        /// Also to those who ask through circuits: it was published for friends of friends.
        travels: bool,
    },
    /// It was drawn at random from what friends tell of, to be given from this time on (unix ms), in `normal` only.
    Cover(u64),
    /// It came from further away because somebody watched it. Given like a cover, and only while at least as many of
    /// those are.
    Watched(u64),
}

/// What is said about copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MirrorEvent {
    /// A friend asks to keep a copy.
    Offered(MirrorOffer),
    /// A friend answers an offer.
    Answered {
        /// Of which object.
        root: Root,
        /// How it stands there.
        state: MirrorState,
        /// Bytes that the friend still has for this node.
        room: u64,
    },
    /// A friend ends a copy: the publisher wants it gone, or the mirror gave it up.
    Ended(Root),
    /// When a friend's node is usually on line: for each hour of a day (UTC) how often, of 255.
    Hours([u8; 24]),
}

/// Friends who must have asked for something before it is kept because of that.
pub const ASKED_BY: usize = 3;
/// Within so long.
const ASKED_WITHIN: Duration = Duration::from_secs(7 * 86_400);
/// Objects that are counted, at most; and requests of each, by which a repeat is known.
const MAX_ASKED: usize = 2048;
const MAX_ASKS: usize = 16;

/// What friends asked for, for themselves or for others, that is not here: who, by which request, and when. In memory
/// only, and only while the owner wants to keep what is asked for.
#[derive(Debug, Default)]
pub(super) struct Asked {
    is_on: bool,
    roots: BTreeMap<Root, Vec<(FriendKey, [u8; 16], Duration)>>,
}

/// Hourly names of what is given though no friend tells of it.
#[derive(Debug, Default)]
pub(super) struct Unlisted {
    hour: u64,
    names: BTreeMap<[u8; 16], Root>,
}

fn hourly_names(root: Root, hour: u64) -> impl Iterator<Item = [u8; 16]> {
    let cap = VerifyCap { root, tree: kith_crypto::secret::Key::new([0; 32]) };
    (hour.saturating_sub(1)..=hour + 1).map(move |hour| cap.locator().at_hour(hour))
}

impl Core {
    /// A complete object is stored here, for a reason that decides to whom it is given.
    pub fn hold_as(&mut self, now: Now, cap: VerifyCap, geometry: Geometry, kept: Kept) {
        let root = cap.root;
        self.hold(now, cap, geometry);
        self.set_kept(now, root, kept);
    }

    /// The reason for which an object is here has changed.
    pub fn set_kept(&mut self, now: Now, root: Root, kept: Kept) {
        if kept == Kept::Own {
            self.kept.remove(&root);
        } else {
            self.kept.insert(root, kept);
        }
        self.name_again(now, root);
        self.end_unshared(now, root);
    }

    /// Why an object is here.
    pub fn kept(&self, root: &Root) -> Kept {
        self.kept.get(root).copied().unwrap_or_default()
    }

    /// A friend keeps a copy of this object, or is asked to: it may have it, whoever else may.
    pub fn let_mirror(&mut self, now: Now, root: Root, friend: FriendKey, may: bool) {
        let friends = self.mirrors_of.entry(root).or_default();
        if may {
            friends.insert(friend);
        } else {
            friends.remove(&friend);
            if friends.is_empty() {
                self.mirrors_of.remove(&root);
            }
            self.end_unshared(now, root);
        }
        self.name_again(now, root);
    }

    /// Asks a friend to keep a copy. False: no link stands, or it does not understand.
    pub fn offer_mirror(&mut self, now: Now, friend: FriendKey, offer: MirrorOffer) -> bool {
        self.let_mirror(now, offer.cap.root, friend, true);
        self.say_to(now, friend, &Control::MirrorOffer(Box::new(offer)))
    }

    /// Answers a friend's offer.
    pub fn answer_mirror(
        &mut self,
        now: Now,
        friend: FriendKey,
        root: Root,
        state: MirrorState,
        room: u64,
    ) -> bool {
        self.say_to(now, friend, &Control::MirrorAnswer { root, state, room })
    }

    /// Tells a friend that a copy is to end, or has ended.
    pub fn end_mirror(&mut self, now: Now, friend: FriendKey, root: Root) -> bool {
        self.say_to(now, friend, &Control::MirrorEnd(root))
    }

    /// Tells a friend when this node is usually on line.
    pub fn tell_hours(&mut self, now: Now, friend: FriendKey, hours: [u8; 24]) -> bool {
        self.say_to(now, friend, &Control::Hours(hours))
    }

    /// Whether a friend is on line and understands what is said about mirrors.
    pub fn can_mirror(&self, friend: FriendKey) -> bool {
        self.friends.get(&friend).is_some_and(|f| f.link.is_some() && f.mirrors)
    }

    fn say_to(&mut self, now: Now, friend: FriendKey, message: &Control) -> bool {
        let link = self.friends.get(&friend).filter(|f| f.mirrors).and_then(|f| f.link);
        link.inspect(|id| self.send_control(now, *id, message)).is_some()
    }

    /// A friend says something about copies.
    pub(super) fn mirror_message(&mut self, now: Now, friend: FriendKey, message: Control) {
        // What is more than anybody has a use for is dropped; the next link brings it again.
        if !self.within(friend, now, |asks| &mut asks.mirrors) {
            return;
        }
        let event = match message {
            Control::MirrorOffer(offer) => MirrorEvent::Offered(*offer),
            Control::MirrorAnswer { root, state, room } => MirrorEvent::Answered { root, state, room },
            Control::MirrorEnd(root) => MirrorEvent::Ended(root),
            Control::Hours(hours) => MirrorEvent::Hours(hours),
            _ => return,
        };
        self.event(Event::Mirror(friend, event));
    }

    // What is asked for.

    /// Counts from now on what friends ask for, or forgets it.
    pub fn count_asks(&mut self, is_on: bool) {
        if self.asked.is_on != is_on {
            self.asked = Asked { is_on, ..Asked::default() };
        }
    }

    /// A friend asks for something that is not here.
    pub(super) fn note_asked(&mut self, now: Now, friend: FriendKey, root: Root, nonce: [u8; 16]) {
        let is_no_matter = !self.asked.is_on
            || self.catalogue.is_own(&root)
            || self.held.contains_key(&root)
            || self.circuits.is_own_nonce(&nonce);
        if is_no_matter {
            return;
        }
        let roots = &mut self.asked.roots;
        if !roots.contains_key(&root) && roots.len() >= MAX_ASKED {
            let last = |asks: &Vec<(FriendKey, [u8; 16], Duration)>| asks.iter().map(|(.., at)| *at).max();
            let oldest = roots.iter().min_by_key(|(_, asks)| last(asks)).map(|(root, _)| *root);
            oldest.and_then(|oldest| roots.remove(&oldest));
        }
        let asks = roots.entry(root).or_default();
        asks.retain(|(.., at)| now.at.saturating_sub(*at) < ASKED_WITHIN);
        // One request comes by several friends, and a friend asks more than once.
        if asks.iter().any(|(_, known, _)| *known == nonce) {
            return;
        }
        asks.retain(|(other, ..)| *other != friend);
        if asks.len() >= MAX_ASKS {
            asks.remove(0);
        }
        asks.push((friend, nonce, now.at));
    }

    /// What at least three friends asked for within a week, and who they are.
    pub fn asked_for(&self, now: Now) -> Vec<(Root, Vec<FriendKey>)> {
        let by = |asks: &[(FriendKey, [u8; 16], Duration)]| -> Vec<FriendKey> {
            let live = asks.iter().filter(|(friend, _, at)| {
                self.friends.contains_key(friend) && now.at.saturating_sub(*at) < ASKED_WITHIN
            });
            live.map(|(friend, ..)| *friend).collect()
        };
        let all = self.asked.roots.iter().map(|(root, asks)| (*root, by(asks)));
        all.filter(|(root, friends)| friends.len() >= ASKED_BY && !self.held.contains_key(root)).collect()
    }

    // Requests.

    /// The object that a request names.
    pub(super) fn located(&self, wanted: &[u8; 16]) -> Option<Root> {
        self.catalogue.located(wanted).or_else(|| self.unlisted.names.get(wanted).copied())
    }

    /// Makes the names of this hour, and of those before and after, for what no friend tells of.
    fn name_unlisted(&mut self, hour: u64) {
        let roots: BTreeSet<Root> = self.kept.keys().chain(self.mirrors_of.keys()).copied().collect();
        let names = roots.into_iter().flat_map(|root| hourly_names(root, hour).map(move |name| (name, root)));
        self.unlisted = Unlisted { hour, names: names.collect() };
    }

    /// The same after one object came or went.
    fn name_again(&mut self, now: Now, root: Root) {
        let hour = self.common_time(now).hour();
        if self.unlisted.hour != hour {
            return self.name_unlisted(hour);
        }
        let is_unlisted = self.kept.contains_key(&root) || self.mirrors_of.contains_key(&root);
        for name in hourly_names(root, hour) {
            if is_unlisted {
                self.unlisted.names.insert(name, root);
            } else {
                self.unlisted.names.remove(&name);
            }
        }
    }

    /// It may be another hour now.
    pub(super) fn rename_unlisted(&mut self, now: Now) {
        let hour = self.common_time(now).hour();
        if !self.unlisted.names.is_empty() && self.unlisted.hour != hour {
            self.name_unlisted(hour);
        }
    }

    /// Whether a friend may have an object by what stands here, before any audience.
    pub(super) fn serves_for_others(&self, asker: FriendKey, root: &Root) -> bool {
        if self.mirrors_of.get(root).is_some_and(|friends| friends.contains(&asker)) {
            return true;
        }
        if self.catalogue.is_own(root) {
            return false;
        }
        match self.kept(root) {
            Kept::Own => false,
            Kept::Mirror { .. } => true,
            Kept::Cover(from) => self.is_covering(from),
            Kept::Watched(from) => self.is_covering(from) && self.may_show_watched(),
        }
    }

    /// The same for whoever comes by a circuit.
    pub(super) fn serves_circuits_for_others(&self, root: &Root) -> bool {
        if self.catalogue.is_own(root) {
            return false;
        }
        match self.kept(root) {
            Kept::Own => false,
            Kept::Mirror { travels } => travels,
            Kept::Cover(from) => self.is_covering(from),
            Kept::Watched(from) => self.is_covering(from) && self.may_show_watched(),
        }
    }

    fn is_covering(&self, from: u64) -> bool {
        self.circuits.privacy == Privacy::Normal && self.clock_ms >= from
    }

    /// What was watched is shown among at least as many covers, so that holding says nothing about watching.
    fn may_show_watched(&self) -> bool {
        let shown = |is: fn(&Kept) -> Option<u64>| {
            let all = self.kept.iter().filter(|(root, _)| self.holds_all(root));
            all.filter_map(|(_, kept)| is(kept)).filter(|from| self.clock_ms >= *from).count()
        };
        let covers = shown(|kept| if let Kept::Cover(from) = kept { Some(*from) } else { None });
        let watched = shown(|kept| if let Kept::Watched(from) = kept { Some(*from) } else { None });
        watched <= covers
    }
}
