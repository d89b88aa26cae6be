//! Root and node blocks that a publisher made badly: right ids and seals, arbitrary plaintext; and
//! blocks that were not sealed at all.
#![no_main]

use kith_crypto::aead::BulkKey;
use kith_crypto::codec::{Reader, Writer};
use kith_crypto::content::{
    BLOCK_LEN, BlockId, FANOUT, Geometry, MAX_BLOCKS, Position, Root, SEALED_LEN, Tree, TreeError, VerifyCap,
};
use kith_crypto::secret::Key;
use kith_fuzz::{form, padded};
use libfuzzer_sys::fuzz_target;

const KEY: [u8; 32] = [7; 32];

fn seal(position: Position, plain: &[u8]) -> Vec<u8> {
    let mut block = padded::<BLOCK_LEN>(plain).to_vec();
    BulkKey::new(&Key::new(KEY)).seal(position.nonce(), &[], &mut block);
    block
}

fn open(sealed: Vec<u8>) -> Result<Tree, TreeError> {
    let cap = VerifyCap { root: Root(BlockId::of(&sealed).0), tree: Key::new(KEY) };
    let (tree, block) = Tree::open(&cap, sealed.clone())?;
    assert_eq!((block.position(), block.bytes()), (Position::Root, &*sealed));
    Ok(tree)
}

/// What the root says, written again by the format's description.
fn root_again(tree: &Tree) -> Vec<u8> {
    let geometry = tree.geometry();
    let nodes = geometry.node_count();
    let mut w = Writer::new();
    w.raw(b"KRT1").u8(u8::from(nodes > 0)).u64(geometry.data_count());
    w.raw(tree.id_of(Position::Head).expect("every object has a head").as_bytes());
    let count = if nodes > 0 { u64::from(nodes) } else { geometry.data_count() };
    for i in 0..count {
        let position = if nodes > 0 { Position::Node(i as u32) } else { Position::Data(i) };
        w.raw(tree.id_of(position).expect("the root names its children").as_bytes());
    }
    w.pad_to(BLOCK_LEN);
    w.into_bytes()
}

fn root(plain: &[u8]) {
    let plain = padded::<BLOCK_LEN>(plain);
    let Ok(mut tree) = open(seal(Position::Root, &plain)) else { return };
    assert_eq!(root_again(&tree), plain);
    let geometry = tree.geometry();
    let outside = [
        Position::Root,
        Position::Data(geometry.data_count()),
        Position::Data(u64::MAX),
        Position::Node(geometry.node_count()),
        Position::Node(u32::MAX),
    ];
    for position in outside {
        assert_eq!(tree.id_of(position), Err(TreeError::Position));
        assert!(tree.verify(position, vec![0; SEALED_LEN]).is_err());
    }
}

fn node(rest: &[u8]) {
    let mut r = Reader::new(rest);
    let (Ok(count), Ok(declared)) = (r.u32(), r.u8()) else { return };
    let data_count = u64::from(count) % MAX_BLOCKS + 1;
    let geometry = Geometry::of(data_count).expect("the count is in range");
    // The last node is the one that may be short.
    let index = geometry.node_count().saturating_sub(1);
    let expected = (data_count - u64::from(index) * FANOUT as u64).min(FANOUT as u64);
    let mut w = Writer::new();
    // Mostly the count that is expected, so that the ids behind it are reached.
    let declared = if declared < 200 { expected as u16 } else { u16::from(declared) * 16 };
    w.u8(1).u16(declared).raw(r.remaining());
    let plain = padded::<BLOCK_LEN>(w.as_bytes());
    let sealed = seal(Position::Node(index), &plain);
    let mut w = Writer::new();
    w.raw(b"KRT1").u8(u8::from(geometry.node_count() > 0)).u64(data_count).raw(&[9; 32]);
    (0..index).for_each(|_| {
        w.raw(&[8; 32]);
    });
    w.raw(&BlockId::of(&sealed).0);
    let mut tree = open(seal(Position::Root, w.as_bytes())).expect("a root of the right form");
    let first = u64::from(index) * FANOUT as u64;
    match tree.verify(Position::Node(index), sealed.clone()) {
        Ok(block) => {
            assert_eq!((block.position(), block.bytes()), (Position::Node(index), &*sealed));
            assert!(tree.has_node(index) && u64::from(declared) == expected);
            let mut w = Writer::new();
            w.u8(1).u16(expected as u16);
            for i in first..data_count {
                w.raw(tree.id_of(Position::Data(i)).expect("the node names it").as_bytes());
            }
            w.pad_to(BLOCK_LEN);
            assert_eq!(w.as_bytes(), plain);
            assert_eq!(tree.id_of(Position::Data(data_count)), Err(TreeError::Position));
        }
        Err(e) => {
            assert!(!tree.has_node(index));
            let expected = if geometry.node_count() > 0 { TreeError::Malformed } else { TreeError::Position };
            assert_eq!(e, expected);
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let (form, rest) = form(data);
    match form % 5 {
        // Not sealed: any length, and the right one.
        0 => assert!(open(rest.to_vec()).is_err()),
        1 => assert!(open(padded::<SEALED_LEN>(rest).to_vec()).is_err()),
        2 => root(rest),
        3 => root(&[b"KRT1", rest].concat()),
        _ => node(rest),
    }
});
