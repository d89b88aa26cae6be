//! Capabilities. Read cap → verify cap → locator, each a one-way step: whoever holds one can make
//! the later ones and none of the earlier.

use super::{Root, id, tree_key};
use crate::kdf::{self, Label};
use crate::secret::Key;

id! {
    /// Lets its holder ask for a tunnel to the object, nothing else.
    Locator
}

impl Locator {
    /// The form that goes over a link in one hour: `BLAKE3(locator || hour)[..16]`, domain-separated.
    pub fn at_hour(&self, hour: u64) -> [u8; 16] {
        let full = kdf::derive(Label::LOCATOR_HOUR, &[&self.0, &hour.to_le_bytes()]);
        let mut out = [0; 16];
        out.iter_mut().zip(full.expose()).for_each(|(o, b)| *o = *b);
        out
    }
}

/// Walk, check, keep and serve an object without being able to read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyCap {
    /// The object.
    pub root: Root,
    /// Key of root and node blocks.
    pub tree: Key,
}

/// Read an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadCap {
    /// The object.
    pub root: Root,
    /// The key that all others come from.
    pub key: Key,
}

/// Why a link is not a capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CapError {
    /// It does not start with `kith:r1:` or `kith:v1:`.
    Scheme,
    /// The wrong number of characters.
    Length,
    /// A character outside base64url, or bits that must be zero and are not.
    Encoding,
}

impl std::fmt::Display for CapError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Scheme => "a link starts with kith:r1:",
            Self::Length => "the link is incomplete or too long",
            Self::Encoding => "the link holds a character that cannot be in it",
        })
    }
}

impl std::error::Error for CapError {}

fn encode(scheme: &str, root: &Root, key: &Key) -> String {
    let mut bytes = [0; 64];
    bytes.iter_mut().zip(root.0.iter().chain(key.expose())).for_each(|(o, b)| *o = *b);
    format!("{scheme}{}", data_encoding::BASE64URL_NOPAD.encode(&bytes))
}

fn decode(scheme: &str, text: &str) -> Result<(Root, Key), CapError> {
    let body = text.trim().strip_prefix(scheme).ok_or(CapError::Scheme)?;
    if body.len() != 86 {
        return Err(CapError::Length);
    }
    let bytes = data_encoding::BASE64URL_NOPAD.decode(body.as_bytes()).map_err(|_| CapError::Encoding)?;
    let (root, key) = bytes.split_first_chunk::<32>().ok_or(CapError::Length)?;
    let key: [u8; 32] = key.try_into().map_err(|_| CapError::Length)?;
    Ok((Root(*root), Key::new(key)))
}

impl ReadCap {
    const SCHEME: &str = "kith:r1:";

    /// What lets others check and keep the object, but not read it.
    pub fn verify_cap(&self) -> VerifyCap {
        VerifyCap { root: self.root, tree: tree_key(&self.key) }
    }

    /// What asks for the object.
    pub fn locator(&self) -> Locator {
        locator(&self.root)
    }

    /// The link that people pass on: `kith:r1:` and 86 characters.
    pub fn to_link(&self) -> String {
        encode(Self::SCHEME, &self.root, &self.key)
    }

    /// Reads a link.
    pub fn from_link(text: &str) -> Result<Self, CapError> {
        decode(Self::SCHEME, text).map(|(root, key)| Self { root, key })
    }
}

impl VerifyCap {
    const SCHEME: &str = "kith:v1:";

    /// What asks for the object.
    pub fn locator(&self) -> Locator {
        locator(&self.root)
    }

    /// PSK of the handshake inside a tunnel to this object (decision 21): only who may verify or
    /// read it can ask or answer.
    pub fn tunnel_psk(&self) -> Key {
        kdf::derive(Label::TUNNEL_PSK, &[self.tree.expose()])
    }

    /// `kith:v1:` and 86 characters.
    pub fn to_link(&self) -> String {
        encode(Self::SCHEME, &self.root, &self.tree)
    }

    /// Reads a link.
    pub fn from_link(text: &str) -> Result<Self, CapError> {
        decode(Self::SCHEME, text).map(|(root, tree)| Self { root, tree })
    }
}

fn locator(root: &Root) -> Locator {
    Locator(*kdf::derive(Label::LOCATOR, &[&root.0]).expose())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_round_trip_and_refuse_changes() {
        let cap = ReadCap { root: Root([1; 32]), key: Key::new([2; 32]) };
        let link = cap.to_link();
        assert_eq!(ReadCap::from_link(&link), Ok(cap.clone()));
        assert_eq!(ReadCap::from_link(&format!("  {link}\n")), Ok(cap.clone()));
        assert_eq!(ReadCap::from_link("http://x"), Err(CapError::Scheme));
        assert_eq!(ReadCap::from_link(&link[..link.len() - 1]), Err(CapError::Length));
        assert_eq!(ReadCap::from_link(&link.replace('A', "!")), Err(CapError::Encoding));
        assert_eq!(VerifyCap::from_link(&link), Err(CapError::Scheme));
        let verify = cap.verify_cap();
        assert_eq!(VerifyCap::from_link(&verify.to_link()), Ok(verify.clone()));
        assert_ne!(verify.tree, cap.key);
        assert_eq!(verify.locator(), cap.locator());
        assert_ne!(cap.locator().at_hour(1), cap.locator().at_hour(2));
    }
}
