//! The bytes of a pack: header page, places of the positions, presence maps.
//!
//! Format: `docs/protocol/store.md`, "Pack". Pure functions over bytes. That positions are written
//! once and marked late is the matter of `pack::Pack`.

use kith_crypto::aead::{RECORD_NONCE_LEN, TAG_LEN, open_record, seal_record};
use kith_crypto::codec::{DecodeError, Reader, Writer};
use kith_crypto::content::{Geometry, Root, SEALED_LEN};
use kith_crypto::kdf::{Label, derive};
use kith_crypto::secret::Key;

const MAGIC: [u8; 8] = *b"KITHPACK";
const VERSION: u8 = 1;
/// Bytes of the header, and the unit of the presence maps.
pub(crate) const PAGE_LEN: usize = 4096;
/// Bytes of one position: the sealed block, sealed once more.
pub(crate) const PLACE_LEN: usize = SEALED_LEN + TAG_LEN;
const HEADER_PLAIN_LEN: usize = PAGE_LEN - 8 - 1 - 32 - RECORD_NONCE_LEN - TAG_LEN;
/// Bytes of a map that are not its plaintext: generation, nonce, tag.
const MAP_EXTRA_LEN: usize = 8 + RECORD_NONCE_LEN + TAG_LEN;

/// What the header says, once opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) root: Root,
    pub(crate) tree: Key,
    pub(crate) geometry: Geometry,
}

/// Why a header page cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    Newer(u8),
    Damaged,
}

impl From<DecodeError> for HeaderError {
    fn from(_: DecodeError) -> Self {
        Self::Damaged
    }
}

/// The two keys of one pack.
#[derive(Debug)]
pub(crate) struct PackKeys {
    pub(crate) blocks: Key,
    meta: Key,
    salt: [u8; 32],
}

impl PackKeys {
    pub(crate) fn new(store: &Key, salt: [u8; 32]) -> Self {
        Self {
            blocks: derive(Label::PACK, &[store.expose(), &salt]),
            meta: derive(Label::PACK_HEADER, &[store.expose(), &salt]),
            salt,
        }
    }

    /// What header and maps authenticate: magic, version, salt; maps add their generation.
    fn aad(&self) -> Writer {
        let mut w = Writer::new();
        w.raw(&MAGIC).u8(VERSION).raw(&self.salt);
        w
    }

    pub(crate) fn encode_header(&self, nonce: &[u8; RECORD_NONCE_LEN], header: &Header) -> Vec<u8> {
        let mut plain = Writer::new();
        plain.raw(header.root.as_bytes()).raw(header.tree.expose()).u64(header.geometry.data_count());
        plain.pad_to(HEADER_PLAIN_LEN);
        let mut page = self.aad();
        page.raw(nonce);
        page.raw(&seal_record(&self.meta, nonce, self.aad().as_bytes(), plain.as_bytes()));
        page.into_bytes()
    }

    /// Opens a header page.
    pub(crate) fn decode_header(store: &Key, page: &[u8]) -> Result<(Header, Self), HeaderError> {
        let mut r = Reader::new(page);
        if r.array()? != MAGIC {
            return Err(HeaderError::Damaged);
        }
        match r.u8()? {
            VERSION => {}
            version if version > VERSION => return Err(HeaderError::Newer(version)),
            _ => return Err(HeaderError::Damaged),
        }
        let keys = Self::new(store, r.array()?);
        let nonce = r.array()?;
        let sealed = r.take(HEADER_PLAIN_LEN + TAG_LEN)?;
        r.finish()?;
        let plain = open_record(&keys.meta, &nonce, keys.aad().as_bytes(), sealed)
            .map_err(|_| HeaderError::Damaged)?;
        let mut r = Reader::new(&plain);
        let (root, tree) = (Root(r.array()?), Key::new(r.array()?));
        let geometry = Geometry::of(r.u64()?).ok_or(HeaderError::Damaged)?;
        r.zeros()?;
        Ok((Header { root, tree, geometry }, keys))
    }

    pub(crate) fn encode_map(
        &self,
        layout: Layout,
        generation: u64,
        nonce: &[u8; RECORD_NONCE_LEN],
        map: &Map,
    ) -> Vec<u8> {
        let mut plain = Writer::new();
        match map {
            Map::Complete => plain.u8(1),
            Map::Partial(bits) => plain.u8(0).raw(&bits.0),
        };
        plain.pad_to(layout.map_len - MAP_EXTRA_LEN);
        let mut bytes = Writer::new();
        bytes.u64(generation).raw(nonce);
        let aad = self.aad().u64(generation).as_bytes().to_vec();
        bytes.raw(&seal_record(&self.meta, nonce, &aad, plain.as_bytes()));
        bytes.into_bytes()
    }

    /// Generation and contents of one copy, if it is whole.
    pub(crate) fn decode_map(&self, layout: Layout, bytes: &[u8]) -> Option<(u64, Map)> {
        let mut r = Reader::new(bytes);
        let generation = r.u64().ok()?;
        let nonce = r.array().ok()?;
        let aad = self.aad().u64(generation).as_bytes().to_vec();
        let plain = open_record(&self.meta, &nonce, &aad, r.remaining()).ok()?;
        let mut r = Reader::new(&plain);
        let map = match r.flag("complete").ok()? {
            true => Map::Complete,
            false => Map::Partial(Bits::from_bytes(r.take(layout.bits_len()).ok()?, layout.total)),
        };
        r.zeros().ok()?;
        Some((generation, map))
    }
}

/// Which positions of a pack are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Map {
    Complete,
    Partial(Bits),
}

/// One bit per slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bits(Vec<u8>);

impl Bits {
    pub(crate) fn none(total: u64) -> Self {
        Self(vec![0; total.div_ceil(8) as usize]) // at most half a MiB, by Geometry
    }

    pub(crate) fn all(total: u64) -> Self {
        Self::from_bytes(&vec![0xff; total.div_ceil(8) as usize], total)
    }

    /// Takes over stored bytes; bits behind the last slot are dropped, so that counts are right.
    fn from_bytes(bytes: &[u8], total: u64) -> Self {
        let mut bits = Self(bytes.to_vec());
        if let (Some(last), rest @ 1..) = (bits.0.last_mut(), total % 8) {
            *last &= (1 << rest) - 1;
        }
        bits
    }

    pub(crate) fn has(&self, slot: u64) -> bool {
        self.0.get((slot / 8) as usize).is_some_and(|byte| byte >> (slot % 8) & 1 == 1)
    }

    /// Sets or clears a bit; tells whether that changed it.
    pub(crate) fn set(&mut self, slot: u64, on: bool) -> bool {
        let Some(byte) = self.0.get_mut((slot / 8) as usize) else { return false };
        let before = *byte;
        if on {
            *byte |= 1 << (slot % 8);
        } else {
            *byte &= !(1 << (slot % 8));
        }
        before != *byte
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.iter().map(|byte| u64::from(byte.count_ones())).sum()
    }
}

/// Where everything stands in a pack of one geometry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    total: u64,
    map_len: usize,
}

impl Layout {
    pub(crate) const fn of(geometry: Geometry) -> Self {
        let total = geometry.total();
        let map_len = (MAP_EXTRA_LEN + 1 + total.div_ceil(8) as usize).next_multiple_of(PAGE_LEN);
        Self { total, map_len }
    }

    const fn bits_len(self) -> usize {
        self.total.div_ceil(8) as usize
    }

    pub(crate) const fn map_len(self) -> usize {
        self.map_len
    }

    /// Offset of copy A (0) or B (1) of the presence map.
    pub(crate) const fn map_at(self, copy: u64) -> u64 {
        place_at(self.total).next_multiple_of(PAGE_LEN as u64) + copy * self.map_len as u64
    }
}

/// Bytes of a whole pack.
pub(crate) const fn pack_len(geometry: Geometry) -> u64 {
    Layout::of(geometry).map_at(2)
}

/// Offset of a slot. It does not depend on the number of slots, so that data can be written while
/// their number is still unknown.
pub(crate) const fn place_at(slot: u64) -> u64 {
    PAGE_LEN as u64 + slot * PLACE_LEN as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys() -> PackKeys {
        PackKeys::new(&Key::new([0x55; 32]), [0x66; 32])
    }

    fn header() -> Header {
        let geometry = Geometry::of(3).unwrap();
        Header { root: Root([0x77; 32]), tree: Key::new([0x88; 32]), geometry }
    }

    #[test]
    fn vector_pack_header() {
        let page = keys().encode_header(&[0x99; 24], &header());
        assert_eq!(page.len(), PAGE_LEN);
        crate::vectors::check(
            "pack_header",
            &page,
            &[
                (8, "magic KITHPACK"),
                (1, "version 1"),
                (32, "salt"),
                (24, "nonce"),
                (4031, "box of root 77..77, tree key 88..88, data count 3, zeros; store key 55..55"),
            ],
        );
        let (back, _) = PackKeys::decode_header(&Key::new([0x55; 32]), &page).unwrap();
        assert_eq!(back, header());
    }

    #[test]
    fn any_changed_byte_of_header_or_map_is_noticed() {
        let page = keys().encode_header(&[1; 24], &header());
        let layout = Layout::of(header().geometry);
        let map = keys().encode_map(layout, 5, &[2; 24], &Map::Partial(Bits::none(5)));
        for i in 0..PAGE_LEN {
            let (mut bad_page, mut bad_map) = (page.clone(), map.clone());
            bad_page[i] ^= 1;
            bad_map[i] ^= 1;
            assert!(PackKeys::decode_header(&Key::new([0x55; 32]), &bad_page).is_err());
            assert!(keys().decode_map(layout, &bad_map).is_none());
        }
        let mut newer = page;
        newer[8] = 9;
        let refused = PackKeys::decode_header(&Key::new([0x55; 32]), &newer);
        assert_eq!(refused.unwrap_err(), HeaderError::Newer(9));
    }

    #[test]
    fn maps_come_back() {
        for count in [1, 6, 7, 2046, 2047, 300_000] {
            let geometry = Geometry::of(count).unwrap();
            let layout = Layout::of(geometry);
            let mut bits = Bits::none(geometry.total());
            bits.set(geometry.total() - 1, true);
            for map in [Map::Partial(bits), Map::Partial(Bits::all(geometry.total())), Map::Complete] {
                let bytes = keys().encode_map(layout, 7, &[3; 24], &map);
                assert_eq!(bytes.len(), layout.map_len());
                assert_eq!(keys().decode_map(layout, &bytes), Some((7, map)));
            }
            assert_eq!(Bits::all(geometry.total()).count(), geometry.total());
            assert!(layout.map_at(0) >= place_at(geometry.total()));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..5000), count in 1_u64..100_000) {
            let layout = Layout::of(Geometry::of(count).unwrap());
            prop_assert!(PackKeys::decode_header(&Key::new([0; 32]), &bytes).is_err());
            prop_assert!(keys().decode_map(layout, &bytes).is_none());
            let mut page = MAGIC.to_vec();
            page.push(VERSION);
            page.extend_from_slice(&bytes);
            page.resize(PAGE_LEN, 0);
            prop_assert!(PackKeys::decode_header(&Key::new([0; 32]), &page).is_err());
        }

        #[test]
        fn headers_round_trip(root: [u8; 32], tree: [u8; 32], salt: [u8; 32], nonce: [u8; 24], count in 1_u64..4_000_000) {
            let header = Header { root: Root(root), tree: Key::new(tree), geometry: Geometry::of(count).unwrap() };
            let store = Key::new([1; 32]);
            let page = PackKeys::new(&store, salt).encode_header(&nonce, &header);
            prop_assert_eq!(PackKeys::decode_header(&store, &page).unwrap().0, header);
        }
    }
}
