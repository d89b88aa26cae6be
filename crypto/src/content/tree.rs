//! The tree of block ids, and the only way to a [`VerifiedBlock`].

use super::{BLOCK_LEN, BlockId, FANOUT, Position, SEALED_LEN, VerifyCap};
use crate::aead::BulkKey;
use crate::codec::{DecodeError, Reader, Writer};
use std::collections::BTreeMap;

/// Data blocks of the largest object: two levels, 256 GiB.
pub const MAX_BLOCKS: u64 = (FANOUT * FANOUT) as u64;
/// Node blocks that a tree keeps in memory (4 MiB, which cover 8 GiB of video); more are asked again.
const NODES_KEPT: usize = 64;
const ROOT_MAGIC: [u8; 4] = *b"KRT1";

/// How many blocks of each kind an object has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    data_count: u64,
}

impl Geometry {
    /// One data block.
    pub const SMALLEST: Geometry = Geometry { data_count: 1 };

    /// The shape of an object with so many data blocks; `None` outside 1 to [`MAX_BLOCKS`].
    pub fn of(data_count: u64) -> Option<Self> {
        (1..=MAX_BLOCKS).contains(&data_count).then_some(Self { data_count })
    }

    /// Data blocks.
    pub const fn data_count(self) -> u64 {
        self.data_count
    }

    /// Node blocks between root and data: none while the root can name all data blocks.
    pub const fn node_count(self) -> u32 {
        if self.data_count <= FANOUT as u64 { 0 } else { self.data_count.div_ceil(FANOUT as u64) as u32 }
    }

    /// All blocks: data, nodes, head and root.
    pub const fn total(self) -> u64 {
        self.data_count + self.node_count() as u64 + 2
    }

    /// A dense number for each position: data first, then nodes, head, root. `None` outside the object.
    pub fn slot(self, position: Position) -> Option<u64> {
        let nodes = u64::from(self.node_count());
        match position {
            Position::Data(i) if i < self.data_count => Some(i),
            Position::Node(i) if u64::from(i) < nodes => Some(self.data_count + u64::from(i)),
            Position::Head => Some(self.data_count + nodes),
            Position::Root => Some(self.data_count + nodes + 1),
            _ => None,
        }
    }

    /// The node block that names a data block, if there are node blocks.
    pub fn parent(self, data_index: u64) -> Option<u32> {
        (self.node_count() > 0).then_some((data_index / FANOUT as u64) as u32)
    }
}

/// Why a block was refused. A peer that sent it misbehaved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TreeError {
    /// Not 65,552 bytes.
    Length,
    /// The bytes do not have the id that the tree names.
    Id,
    /// The block has the right id and cannot be opened or parsed: the publisher made it so.
    Malformed,
    /// No such position in this object.
    Position,
    /// The node block above it is not in memory: load it first.
    NodeMissing(u32),
}

impl std::fmt::Display for TreeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Length => "a block has the wrong length",
            Self::Id => "a block does not match its id",
            Self::Malformed => "the object's tree is malformed",
            Self::Position => "the object has no such block",
            Self::NodeMissing(_) => "the node block above is not loaded",
        })
    }
}

impl std::error::Error for TreeError {}

/// A sealed block that hashes to the id which the verified tree names for its position. Only
/// verification makes one, so whoever takes one needs no check of its own.
#[derive(Debug)]
pub struct VerifiedBlock {
    position: Position,
    bytes: Vec<u8>,
}

impl VerifiedBlock {
    /// Where it belongs.
    pub const fn position(&self) -> Position {
        self.position
    }

    /// The sealed bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The sealed bytes, taken.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// The verified part of an object's tree: root, and the node blocks seen lately.
#[derive(Debug)]
pub struct Tree {
    cipher: BulkKey,
    geometry: Geometry,
    head: BlockId,
    children: Vec<BlockId>,
    nodes: BTreeMap<u32, Vec<BlockId>>,
    recent: Vec<u32>,
}

pub(super) fn encode_root(geometry: Geometry, head: BlockId, children: &[BlockId]) -> Vec<u8> {
    let mut w = Writer::new();
    w.raw(&ROOT_MAGIC).u8(u8::from(geometry.node_count() > 0)).u64(geometry.data_count);
    w.raw(head.as_bytes());
    children.iter().for_each(|id| {
        w.raw(id.as_bytes());
    });
    w.pad_to(BLOCK_LEN);
    w.into_bytes()
}

pub(super) fn encode_node(ids: &[BlockId]) -> Vec<u8> {
    let mut w = Writer::new();
    w.u8(1).u16(ids.len() as u16);
    ids.iter().for_each(|id| {
        w.raw(id.as_bytes());
    });
    w.pad_to(BLOCK_LEN);
    w.into_bytes()
}

fn take_ids(r: &mut Reader<'_>, count: usize) -> Result<Vec<BlockId>, DecodeError> {
    (0..count).map(|_| r.array().map(BlockId)).collect()
}

fn check_id(sealed: &[u8], id: BlockId) -> Result<(), TreeError> {
    if sealed.len() != SEALED_LEN {
        return Err(TreeError::Length);
    }
    if BlockId::of(sealed) == id { Ok(()) } else { Err(TreeError::Id) }
}

impl Tree {
    /// Opens the sealed root of the object that `cap` names; the block comes back verified.
    pub fn open(cap: &VerifyCap, sealed_root: Vec<u8>) -> Result<(Self, VerifiedBlock), TreeError> {
        check_id(&sealed_root, BlockId(cap.root.0))?;
        let cipher = BulkKey::new(&cap.tree);
        let mut plain = sealed_root.clone();
        cipher.open_vec(Position::Root.nonce(), &[], &mut plain).map_err(|_| TreeError::Malformed)?;
        let (geometry, head, children) = Self::parse_root(&plain).map_err(|_| TreeError::Malformed)?;
        let tree = Self { cipher, geometry, head, children, nodes: BTreeMap::new(), recent: Vec::new() };
        Ok((tree, VerifiedBlock { position: Position::Root, bytes: sealed_root }))
    }

    fn parse_root(plain: &[u8]) -> Result<(Geometry, BlockId, Vec<BlockId>), DecodeError> {
        let mut r = Reader::new(plain);
        if r.array()? != ROOT_MAGIC {
            return Err(DecodeError::Invalid { at: 0, what: "root version" });
        }
        let level = r.u8()?;
        let geometry = Geometry::of(r.u64()?).ok_or(DecodeError::Invalid { at: 5, what: "block count" })?;
        if level != u8::from(geometry.node_count() > 0) {
            return Err(DecodeError::Invalid { at: 4, what: "tree level" });
        }
        let head = BlockId(r.array()?);
        let count = match geometry.node_count() {
            0 => geometry.data_count,
            nodes => u64::from(nodes),
        };
        let children = take_ids(&mut r, count as usize)?; // at most FANOUT by Geometry
        r.zeros()?;
        Ok((geometry, head, children))
    }

    /// The object's shape.
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Whether the node block is in memory, so that its data blocks can be verified.
    pub fn has_node(&self, index: u32) -> bool {
        self.nodes.contains_key(&index)
    }

    /// The id that the verified tree names for a position (root excluded: its id is the object's).
    pub fn id_of(&self, position: Position) -> Result<BlockId, TreeError> {
        match position {
            Position::Root => Err(TreeError::Position),
            Position::Head => Ok(self.head),
            Position::Node(i) if self.geometry.node_count() > 0 => {
                self.children.get(i as usize).copied().ok_or(TreeError::Position)
            }
            Position::Node(_) => Err(TreeError::Position),
            Position::Data(i) => match self.geometry.parent(i) {
                None => self.children.get(i as usize).copied().ok_or(TreeError::Position),
                Some(_) if i >= self.geometry.data_count => Err(TreeError::Position),
                Some(node) => {
                    let ids = self.nodes.get(&node).ok_or(TreeError::NodeMissing(node))?;
                    ids.get((i % FANOUT as u64) as usize).copied().ok_or(TreeError::Position)
                }
            },
        }
    }

    /// Checks a sealed block against the tree. A node block is also opened and remembered.
    pub fn verify(&mut self, position: Position, sealed: Vec<u8>) -> Result<VerifiedBlock, TreeError> {
        check_id(&sealed, self.id_of(position)?)?;
        if let Position::Node(index) = position {
            self.remember(index, &sealed)?;
        }
        Ok(VerifiedBlock { position, bytes: sealed })
    }

    fn remember(&mut self, index: u32, sealed: &[u8]) -> Result<(), TreeError> {
        let mut plain = sealed.to_vec();
        self.cipher
            .open_vec(Position::Node(index).nonce(), &[], &mut plain)
            .map_err(|_| TreeError::Malformed)?;
        let before = u64::from(index) * FANOUT as u64;
        let expected = (self.geometry.data_count - before.min(self.geometry.data_count)).min(FANOUT as u64);
        let ids = Self::parse_node(&plain, expected as usize).map_err(|_| TreeError::Malformed)?;
        self.nodes.insert(index, ids);
        self.recent.retain(|i| *i != index);
        self.recent.push(index);
        if self.recent.len() > NODES_KEPT {
            let oldest = self.recent.remove(0);
            self.nodes.remove(&oldest);
        }
        Ok(())
    }

    fn parse_node(plain: &[u8], expected: usize) -> Result<Vec<BlockId>, DecodeError> {
        let mut r = Reader::new(plain);
        if r.u8()? != 1 || usize::from(r.u16()?) != expected {
            return Err(DecodeError::Invalid { at: 0, what: "node size" });
        }
        let ids = take_ids(&mut r, expected)?;
        r.zeros()?;
        Ok(ids)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Builder, Head, ReadKeys};
    use super::*;
    use crate::content::Sealed;
    use crate::secret::Key;

    /// An object of `blocks` data blocks with all its sealed blocks.
    fn object(blocks: u64, key: u8) -> (super::super::ReadCap, Geometry, Vec<Sealed>) {
        let mut builder = Builder::new(Key::new([key; 32]));
        let mut all: Vec<Sealed> =
            (0..blocks).map(|i| builder.push(i.to_le_bytes().to_vec()).unwrap()).collect();
        let (cap, geometry) =
            builder.finish(&Head { len: blocks * 65_536, ..Head::default() }, |s| all.push(s));
        (cap, geometry, all)
    }

    fn find(all: &[Sealed], p: Position) -> Vec<u8> {
        all.iter().find(|s| s.position == p).unwrap().bytes.clone()
    }

    #[test]
    fn small_object_verifies_and_opens() {
        let (cap, geometry, all) = object(3, 1);
        assert_eq!((geometry.node_count(), geometry.total()), (0, 5));
        let (mut tree, root) = Tree::open(&cap.verify_cap(), find(&all, Position::Root)).unwrap();
        assert_eq!(root.position(), Position::Root);
        for sealed in all.iter().filter(|s| s.position != Position::Root) {
            let block = tree.verify(sealed.position, sealed.bytes.clone()).unwrap();
            let mut plain = block.into_bytes();
            ReadKeys::new(&cap.key).open(sealed.position, &mut plain).unwrap();
            if let Position::Data(i) = sealed.position {
                assert_eq!(&plain[..8], &i.to_le_bytes());
            }
        }
        assert_eq!(tree.verify(Position::Data(3), vec![0; SEALED_LEN]).unwrap_err(), TreeError::Position);
        assert_eq!(tree.verify(Position::Node(0), vec![0; SEALED_LEN]).unwrap_err(), TreeError::Position);
    }

    #[test]
    fn two_levels_need_the_node_first() {
        let (cap, geometry, all) = object(2047, 2);
        assert_eq!(geometry.node_count(), 2);
        let (mut tree, _) = Tree::open(&cap.verify_cap(), find(&all, Position::Root)).unwrap();
        let last = find(&all, Position::Data(2046));
        assert_eq!(tree.verify(Position::Data(2046), last.clone()).unwrap_err(), TreeError::NodeMissing(1));
        tree.verify(Position::Node(1), find(&all, Position::Node(1))).unwrap();
        tree.verify(Position::Data(2046), last).unwrap();
        let wrong_place = find(&all, Position::Node(0));
        assert_eq!(tree.verify(Position::Node(1), wrong_place).unwrap_err(), TreeError::Id);
    }

    #[test]
    fn every_changed_block_is_refused() {
        let (cap, _, all) = object(2, 3);
        let (mut tree, _) = Tree::open(&cap.verify_cap(), find(&all, Position::Root)).unwrap();
        for sealed in &all {
            let mut bad = sealed.bytes.clone();
            bad[SEALED_LEN / 2] ^= 4;
            let refused = match sealed.position {
                Position::Root => Tree::open(&cap.verify_cap(), bad).map(|_| ()),
                p => tree.verify(p, bad).map(|_| ()),
            };
            assert_eq!(refused.unwrap_err(), TreeError::Id);
        }
        assert_eq!(tree.verify(Position::Head, vec![1, 2, 3]).unwrap_err(), TreeError::Length);
    }

    #[test]
    fn equal_plaintext_under_two_keys_shares_no_block() {
        let (_, _, a) = object(2, 4);
        let (_, _, b) = object(2, 5);
        for x in &a {
            assert!(b.iter().all(|y| BlockId::of(&x.bytes) != BlockId::of(&y.bytes)));
        }
    }

    #[test]
    fn verify_cap_reads_no_data() {
        let (cap, _, all) = object(1, 6);
        let verify = cap.verify_cap();
        for p in [Position::Data(0), Position::Head] {
            let mut sealed = find(&all, p);
            assert!(BulkKey::new(&verify.tree).open_vec(p.nonce(), &[], &mut sealed).is_err());
        }
    }
}
