//! Key derivation: BLAKE3 `derive_key` (BLAKE3 specification, section 2.3) under labels that all
//! stand in this file, so that two uses can never share a key by accident.

use crate::secret::Key;

/// A derivation context. The list below is complete: nothing else derives a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label(&'static str);

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        impl Label {
            $($(#[$doc])* pub const $name: Label = Label(concat!("kith 2026 v1 ", $text));)*
            /// Every label there is.
            pub const ALL: &'static [Label] = &[$(Label::$name),*];
        }
    };
}

labels! {
    /// Root secret of a friendship, from both pair keys (`docs/protocol/link.md`).
    PAIR_ROOT = "pair root";
    /// Names a pair root without giving it away.
    PAIR_ROOT_ID = "pair root id";
    /// Root of an invite, from its secret.
    INVITE_ROOT = "invite root";
    /// Tag key of one direction (caller to callee).
    TAG = "link tag";
    /// Wrapper key of one direction: child for the fixed-size box.
    WRAP_HEAD = "link wrap head";
    /// Wrapper key of one direction: child for the Noise message's box.
    WRAP_BODY = "link wrap body";
    /// Noise PSK of generation 0.
    PSK0 = "link psk0";
    /// Noise PSK of recovery handshakes.
    RECOVER = "link recover";
    /// What an exchange of the ratchet said, in one value.
    RATCHET_TRANSCRIPT = "ratchet transcript";
    /// Noise PSK of the next generation.
    RATCHET_PSK = "ratchet psk";
    /// Key of the proofs that a side has the next PSK.
    RATCHET_PROOF = "ratchet proof";
    /// Hash of a certificate's keys, input of the pair root.
    IDENTITY = "identity keys";
    /// Short fingerprint that people compare.
    FINGERPRINT = "fingerprint";
    /// The same as words.
    FINGERPRINT_WORDS = "fingerprint words";
    /// Tree key of an object, from its read key.
    TREE = "object tree";
    /// Data-block key of an object, from its read key.
    BLOCK = "object block";
    /// Head-block key of an object, from its read key.
    HEAD = "object head";
    /// Locator of an object, from its root.
    LOCATOR = "object locator";
    /// Hourly form of a locator.
    LOCATOR_HOUR = "object locator hour";
    /// Forward key of one hop of a circuit, from its handshake (`docs/protocol/circuit.md`).
    CIRCUIT_FORWARD = "circuit forward";
    /// Key of the bytes that fill the tag stack of forward cells.
    CIRCUIT_FILLER = "circuit filler";
    /// Backward key of one hop.
    CIRCUIT_BACKWARD = "circuit backward";
    /// Key that hides the tags of backward cells.
    CIRCUIT_BACKWARD_TAGS = "circuit backward tags";
    /// PSK of a tunnel's handshake, from the tree key.
    TUNNEL_PSK = "tunnel psk";
    /// Pack key, from the store key and the pack's salt.
    PACK = "store pack";
    /// Pack header key.
    PACK_HEADER = "store pack header";
    /// File name of a pack.
    PACK_NAME = "store pack name";
    /// Key of the journal's key file.
    JOURNAL_KEYS = "store journal keys";
    /// Key of one view log.
    VIEW_LOG = "store view log";
    /// File name of a view log.
    VIEW_NAME = "store view name";
    /// Index keys (what sled sees as keys).
    INDEX_KEY = "store index key";
    /// Index values.
    INDEX_VALUE = "store index value";
    /// Wraps the store key under a passphrase or marks a plain key file.
    STORE_KEY = "store key wrap";
    /// Entry id of one entry in one friend's view.
    ENTRY_ID = "catalogue entry id";
    /// Mark of a file that was published, by its path, length and time.
    SOURCE = "publication source";
    /// Delay of a holder or relay per (locator, link).
    TUNNEL_DELAY = "tunnel delay";
    /// Handle of a friend in a node's handle lists, and the order in which friends are listed.
    HANDLE = "circuit handle";
    /// Key of the names under which a node keeps which routes a context has used.
    CONTEXT = "circuit context";
    /// Which third hop a context uses.
    ROUTE_SLOT = "circuit route slot";
    /// The part of a node's response times that stays the same for one guard.
    RESPONSE_TIME = "circuit response time";
    /// Secret of the bundles from one friend to another, from their pair root.
    BUNDLE = "bundle";
    /// Key of one archive file (backup or bundle).
    ARCHIVE = "archive";
    /// Tells the right key of an archive from a wrong one.
    ARCHIVE_CHECK = "archive check";
    /// Key of an archive's chunks.
    ARCHIVE_CHUNK = "archive chunk";
    /// Seed of a generator derived from another secret.
    SEED = "seed";
}

/// Derives a key from `parts`, each prefixed with its length so that no two lists of parts collide.
pub fn derive(label: Label, parts: &[&[u8]]) -> Key {
    let mut hasher = blake3::Hasher::new_derive_key(label.0);
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    Key::new(*hasher.finalize().as_bytes())
}

/// A keyed MAC (BLAKE3 keyed hash) cut to 16 bytes.
pub fn mac16(key: &Key, message: &[u8]) -> [u8; 16] {
    let mut out = [0; 16];
    let full = blake3::keyed_hash(key.expose(), message);
    out.iter_mut().zip(full.as_bytes()).for_each(|(o, b)| *o = *b);
    out
}

/// Plain BLAKE3 of `bytes`.
pub fn hash(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_distinct() {
        let mut seen = std::collections::HashSet::new();
        for label in Label::ALL {
            assert!(seen.insert(label.0), "{label:?} stands twice");
        }
    }

    #[test]
    fn parts_do_not_run_together() {
        assert_ne!(derive(Label::SEED, &[b"ab", b"c"]), derive(Label::SEED, &[b"a", b"bc"]));
        assert_ne!(derive(Label::SEED, &[b"abc"]), derive(Label::TREE, &[b"abc"]));
    }
}
