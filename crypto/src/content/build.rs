//! Publishing: plaintext in, sealed blocks out, in order, with memory bounded by the tree's ids.

use super::tree::{self, Geometry, MAX_BLOCKS};
use super::{BLOCK_LEN, BlockId, FANOUT, Head, Position, ReadCap, ReadKeys, Root};
use crate::secret::Key;

/// A sealed block and where it belongs.
#[derive(Debug)]
pub struct Sealed {
    /// Where it stands in the object.
    pub position: Position,
    /// 65,552 bytes.
    pub bytes: Vec<u8>,
}

/// Turns one plaintext into one object. Every publish attempt takes a new random read key, so the
/// same file published twice shares no block.
#[derive(Debug)]
pub struct Builder {
    read: Key,
    keys: ReadKeys,
    leaves: Vec<BlockId>,
}

impl Builder {
    /// Starts an object under a fresh random key.
    pub fn new(read: Key) -> Self {
        Self { keys: ReadKeys::new(&read), read, leaves: Vec::new() }
    }

    /// Data blocks so far.
    pub fn data_count(&self) -> u64 {
        self.leaves.len() as u64
    }

    /// Seals the next data block. `block` is at most 65,536 bytes and is zero-filled to that length.
    ///
    /// `None` when the object has reached its largest size (256 GiB).
    pub fn push(&mut self, mut block: Vec<u8>) -> Option<Sealed> {
        let index = self.data_count();
        if index >= MAX_BLOCKS {
            return None;
        }
        block.resize(BLOCK_LEN, 0);
        Some(Self::finish_block(&self.keys, Position::Data(index), block, &mut self.leaves))
    }

    fn finish_block(
        keys: &ReadKeys,
        position: Position,
        mut block: Vec<u8>,
        ids: &mut Vec<BlockId>,
    ) -> Sealed {
        keys.seal(position, &mut block);
        ids.push(BlockId::of(&block));
        Sealed { position, bytes: block }
    }

    /// Ends the object: node blocks, head and root follow in that order, then the capability.
    ///
    /// The caller has pushed [`super::padded_blocks`] blocks for `head.len`.
    pub fn finish(self, head: &Head, mut emit: impl FnMut(Sealed)) -> (ReadCap, Geometry) {
        let mut ids = Vec::new();
        emit(Self::finish_block(&self.keys, Position::Head, head.encode(), &mut ids));
        let head_id = ids.pop().unwrap_or(BlockId([0; 32]));
        let geometry = Geometry::of(self.data_count()).unwrap_or(Geometry::SMALLEST);
        let children = if geometry.node_count() == 0 {
            self.leaves
        } else {
            for (i, chunk) in self.leaves.chunks(FANOUT).enumerate() {
                let position = Position::Node(i as u32);
                emit(Self::finish_block(&self.keys, position, tree::encode_node(chunk), &mut ids));
            }
            ids
        };
        let plain = tree::encode_root(geometry, head_id, &children);
        let mut root_ids = Vec::new();
        let root = Self::finish_block(&self.keys, Position::Root, plain, &mut root_ids);
        let id = Root(BlockId::of(&root.bytes).0);
        emit(root);
        (ReadCap { root: id, key: self.read }, geometry)
    }
}
