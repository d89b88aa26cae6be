//! What two friends share: the pair root, and per direction the keys that make their first flights
//! look like noise to everybody else (decisions 2 and 3).

use crate::identity::{Identity, PublicKeys};
use crate::kdf::{self, Label};
use crate::secret::Key;

/// The fixed secret of a friendship. Kept in the journal; never a key of anything itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairRoot(Key);

impl PairRoot {
    /// From both pair keys, both identities (in byte order, so both sides agree) and the secret of
    /// the invite that made the friendship, if one did. `None` if the peer's key is of low order.
    pub fn new(me: &Identity, peer: &PublicKeys, invite_secret: Option<&Key>) -> Option<Self> {
        let shared = me.pair_dh(&peer.pair)?;
        let (mine, theirs) = (me.public().hash(), peer.hash());
        let (low, high) = if mine < theirs { (mine, theirs) } else { (theirs, mine) };
        let secret: &[u8] = invite_secret.map_or(&[], |s| s.expose());
        Some(Self(kdf::derive(Label::PAIR_ROOT, &[shared.expose(), &low, &high, secret])))
    }

    /// The root of an invite: its one direction is from the invited to the inviter.
    pub fn of_invite(secret: &Key, inviter: &PublicKeys) -> Self {
        Self(kdf::derive(Label::INVITE_ROOT, &[secret.expose(), &inviter.hash()]))
    }

    /// Restores a root from the journal.
    pub const fn from_key(key: Key) -> Self {
        Self(key)
    }

    /// For the journal.
    pub const fn key(&self) -> &Key {
        &self.0
    }

    /// Names this root to the other side without giving it away.
    pub fn id(&self) -> [u8; 16] {
        kdf::mac16(&kdf::derive(Label::PAIR_ROOT_ID, &[self.0.expose()]), b"id")
    }

    /// Keys of the direction in which `caller` dials `callee`.
    pub fn direction(&self, caller: &[u8; 32], callee: &[u8; 32]) -> Direction {
        let child = |label| kdf::derive(label, &[self.0.expose(), caller, callee]);
        Direction { tag: child(Label::TAG), head: child(Label::WRAP_HEAD), body: child(Label::WRAP_BODY) }
    }

    /// Noise PSK of generation 0.
    pub fn psk0(&self) -> Key {
        kdf::derive(Label::PSK0, &[self.0.expose()])
    }

    /// Secret of the bundles that `sender` makes for `recipient` (their signing keys).
    pub fn bundle(&self, sender: &[u8; 32], recipient: &[u8; 32]) -> Key {
        kdf::derive(Label::BUNDLE, &[self.0.expose(), sender, recipient])
    }

    /// Noise PSK of recovery handshakes (decision 9). It never changes, so what it protects is an
    /// exchange of new secrets and nothing else.
    pub fn recovery_psk(&self) -> Key {
        kdf::derive(Label::RECOVER, &[self.0.expose()])
    }
}

/// Identity hash that stands for the invited side, whom the inviter does not know yet.
pub const INVITED: [u8; 32] = [0; 32];

/// Tag and wrapper keys of one direction.
#[derive(Clone, Debug)]
pub struct Direction {
    pub(crate) tag: Key,
    pub(crate) head: Key,
    pub(crate) body: Key,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn both_sides_agree_and_directions_differ() {
        let a = Identity::generate(&mut Rng::from_seed([1; 32]));
        let b = Identity::generate(&mut Rng::from_seed([2; 32]));
        let secret = Key::new([3; 32]);
        let ab = PairRoot::new(&a, b.public(), Some(&secret)).unwrap();
        assert_eq!(ab, PairRoot::new(&b, a.public(), Some(&secret)).unwrap());
        assert_ne!(ab, PairRoot::new(&a, b.public(), None).unwrap());
        let (ha, hb) = (a.public().hash(), b.public().hash());
        assert_ne!(ab.direction(&ha, &hb).tag, ab.direction(&hb, &ha).tag);
        assert_ne!(ab.direction(&ha, &hb).head, ab.direction(&ha, &hb).body);
    }
}
