//! The content tree: how a file becomes sealed blocks with ids, what proves that a block belongs to
//! an object, and which capability allows what. Format: `docs/protocol/content.md`.
//!
//! A file is padded (Padmé), cut into blocks of 64 KiB and sealed; a block's id is BLAKE3 of its
//! ciphertext. Ids are collected in node blocks with a fan-out of 2046 and in one root; the root's
//! id names the object. Nothing here does I/O: the builder is fed plaintext, the tree is fed sealed
//! blocks, and only [`Tree::verify`] can make a [`VerifiedBlock`].

mod build;
mod caps;
mod head;
mod tree;

pub use build::{Builder, Sealed};
pub use caps::{CapError, Locator, ReadCap, VerifyCap};
pub use head::{
    Head, HeadError, MAX_CHAPTERS, MAX_PART_LEN, MAX_PARTS, MAX_POSTER_LEN, MAX_TAG_LEN, MAX_TAGS,
    MAX_TEXT_LEN, MAX_TITLE_LEN, MAX_TRACKS, Part, Track,
};
pub use tree::{Geometry, MAX_BLOCKS, Tree, TreeError, VerifiedBlock};

use crate::aead::{BulkKey, TAG_LEN, Unauthentic};
use crate::kdf::{self, Label};
use crate::secret::Key;

/// Plaintext bytes of every block.
pub const BLOCK_LEN: usize = 65_536;
/// Bytes of a sealed block, on the wire and inside a pack.
pub const SEALED_LEN: usize = BLOCK_LEN + TAG_LEN;
/// Ids in a full node block or root.
pub const FANOUT: usize = 2046;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// The 32 bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                // Ids are secret in logs: they tell what somebody holds.
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    };
}
pub(crate) use id;

id! {
    /// BLAKE3 of a sealed block.
    BlockId
}
id! {
    /// The id of an object: BLAKE3 of its sealed root.
    Root
}

impl BlockId {
    /// The id of a sealed block.
    pub fn of(sealed: &[u8]) -> Self {
        Self(kdf::hash(sealed))
    }
}

impl Root {
    /// 64 lower-case hexadecimal digits.
    pub fn to_hex(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.0)
    }

    /// Reads 64 hexadecimal digits of either case.
    pub fn from_hex(text: &str) -> Option<Self> {
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?;
        Some(Self(bytes.try_into().ok()?))
    }
}

/// Where a block stands in its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Position {
    /// The root node.
    Root,
    /// The head block: title, type, true length.
    Head,
    /// A node block below the root, by index.
    Node(u32),
    /// A data block, by index.
    Data(u64),
}

impl Position {
    /// Level byte of the nonce: data 0, nodes 1, root 2, head 3.
    pub const fn level(self) -> u8 {
        match self {
            Self::Data(_) => 0,
            Self::Node(_) => 1,
            Self::Root => 2,
            Self::Head => 3,
        }
    }

    /// Index within the level.
    pub const fn index(self) -> u64 {
        match self {
            Self::Data(i) => i,
            Self::Node(i) => i as u64,
            Self::Root | Self::Head => 0,
        }
    }

    /// The position with this level byte and index, if there is one.
    pub fn from_parts(level: u8, index: u64) -> Option<Self> {
        match (level, index) {
            (0, i) => Some(Self::Data(i)),
            (1, i) => u32::try_from(i).ok().map(Self::Node),
            (2, 0) => Some(Self::Root),
            (3, 0) => Some(Self::Head),
            _ => None,
        }
    }

    /// `level 1 || 0^3 || LE64 index` (decision 27): unique within one object's keys.
    pub fn nonce(self) -> [u8; 12] {
        let mut nonce = [0; 12];
        let [first, _, _, _, rest @ ..] = &mut nonce;
        *first = self.level();
        *rest = self.index().to_le_bytes();
        nonce
    }
}

/// The keys of one object, all children of its read key, which itself encrypts nothing.
#[derive(Debug)]
pub struct ReadKeys {
    tree: Key,
    tree_cipher: BulkKey,
    block_cipher: BulkKey,
    head_cipher: BulkKey,
}

impl ReadKeys {
    /// Derives the tree, block and head keys.
    pub fn new(read: &Key) -> Self {
        let tree = tree_key(read);
        Self {
            tree_cipher: BulkKey::new(&tree),
            tree,
            block_cipher: BulkKey::new(&kdf::derive(Label::BLOCK, &[read.expose()])),
            head_cipher: BulkKey::new(&kdf::derive(Label::HEAD, &[read.expose()])),
        }
    }

    /// The tree key: what a verify capability holds.
    pub const fn tree(&self) -> &Key {
        &self.tree
    }

    fn cipher(&self, position: Position) -> &BulkKey {
        match position {
            Position::Root | Position::Node(_) => &self.tree_cipher,
            Position::Head => &self.head_cipher,
            Position::Data(_) => &self.block_cipher,
        }
    }

    /// Seals a whole plaintext block in place: 65,536 bytes become 65,552.
    pub(crate) fn seal(&self, position: Position, block: &mut Vec<u8>) {
        self.cipher(position).seal(position.nonce(), &[], block);
    }

    /// Opens a sealed block in place: 65,552 bytes become 65,536.
    pub fn open(&self, position: Position, block: &mut Vec<u8>) -> Result<(), Unauthentic> {
        self.cipher(position).open_vec(position.nonce(), &[], block)
    }
}

fn tree_key(read: &Key) -> Key {
    kdf::derive(Label::TREE, &[read.expose()])
}

/// Length after padding: Padmé (Nikitin et al., PETS 2019, section 4.2), which hides the exact
/// length at a cost of at most 12 %, then up to whole blocks (at least one).
pub fn padded_blocks(len: u64) -> u64 {
    let padded = if len < 2 {
        len
    } else {
        let exponent = u64::from(len.ilog2());
        let significant = u64::from((exponent as u32).checked_ilog2().unwrap_or(0)) + 1;
        let mask = (1_u64 << exponent.saturating_sub(significant)) - 1;
        len.saturating_add(mask) & !mask
    };
    padded.div_ceil(BLOCK_LEN as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padme_values() {
        // Values of the paper's formula: 9 -> 10, 33 -> 36; then whole blocks.
        assert_eq!(padded_blocks(0), 1);
        assert_eq!(padded_blocks(65_536), 1);
        assert_eq!(padded_blocks(65_537), 2);
        let gib = 1 << 30;
        assert_eq!(padded_blocks(gib), gib / 65_536);
        let waste = padded_blocks(gib + 1) as f64 * 65_536.0 / (gib as f64);
        assert!(waste < 1.05, "{waste}");
        for shift in 17..40 {
            let len = (1_u64 << shift) + 12_345;
            let padded = padded_blocks(len) * 65_536;
            assert!(padded >= len && (padded as f64) < 1.12 * len as f64 + 65_536.0);
        }
    }

    #[test]
    fn nonces_differ_between_positions() {
        let all = [Position::Root, Position::Head, Position::Node(0), Position::Data(0), Position::Data(1)];
        for (i, a) in all.iter().enumerate() {
            for b in all.iter().skip(i + 1) {
                assert_ne!(a.nonce(), b.nonce());
            }
            assert_eq!(Position::from_parts(a.level(), a.index()), Some(*a));
        }
        assert_eq!(Position::from_parts(2, 1), None);
        assert_eq!(Position::from_parts(9, 0), None);
    }
}
