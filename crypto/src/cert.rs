//! Friend certificates: what a person gives to a friend so that both nodes can meet.
//! Format: `docs/protocol/friends.md`.

use crate::codec::{DecodeError, Reader, Writer};
use crate::identity::{Identity, PublicKeys};
use crate::onion_address::{self, OnionAddress};
use crate::text;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Largest encoded certificate; longer input is refused before it is parsed.
pub const MAX_CERT_LEN: usize = 2048;
/// Longest name in bytes.
pub const MAX_NAME_LEN: usize = 64;
/// Most addresses of one node.
pub const MAX_ADDRS: usize = 8;
const MAX_HOST_LEN: usize = 200;
const VERSION: u8 = 1;
const SIGN_CONTEXT: &[u8] = b"kith certificate v1";
const SCHEME: &str = "kith:c1:";

/// Where a node can be reached.
#[derive(Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// IP address and TCP port.
    Ip(SocketAddr),
    /// Host name and TCP port.
    Host(String, u16),
    /// Onion service and its port.
    Onion(OnionAddress, u16),
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Addresses of friends never reach a log; people see them by `Display`.
        f.write_str("Address(..)")
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip(addr) => write!(f, "{addr}"),
            Self::Host(host, port) => write!(f, "{host}:{port}"),
            Self::Onion(onion, port) => write!(f, "{onion}:{port}"),
        }
    }
}

// Registry of address types: 1 IPv4, 2 IPv6, 3 onion service, 4 LAN hint (reserved),
// 5 relay by friend (reserved), 6 host name.
impl Address {
    /// Whether `host` can be a host name: letters, digits, dots and hyphens.
    pub fn is_host(host: &str) -> bool {
        !host.is_empty()
            && host.len() <= MAX_HOST_LEN
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-')
            // The system's resolver must never see one (RFC 7686).
            && !OnionAddress::is_onion_host(host)
    }

    /// Whether it can be reached without anybody learning where it is: through Tor.
    pub const fn is_onion(&self) -> bool {
        matches!(self, Self::Onion(..))
    }

    fn encode(&self, w: &mut Writer) {
        let mut value = Writer::new();
        let (kind, port) = match self {
            Self::Ip(addr) => match addr.ip() {
                IpAddr::V4(ip) => {
                    value.raw(&ip.octets());
                    (1, addr.port())
                }
                IpAddr::V6(ip) => {
                    value.raw(&ip.octets());
                    (2, addr.port())
                }
            },
            Self::Host(host, port) => {
                value.raw(text::cut(host, MAX_HOST_LEN).as_bytes());
                (6, *port)
            }
            Self::Onion(onion, port) => {
                value.raw(onion.letters().as_bytes());
                (3, *port)
            }
        };
        value.u16(port);
        w.u8(kind).bytes8(value.as_bytes());
    }

    fn decode(r: &mut Reader<'_>) -> Result<Option<Self>, DecodeError> {
        let bad = r.invalid("address");
        let kind = r.u8()?;
        let value = r.bytes8(MAX_HOST_LEN + 2, "address")?;
        let (host, port) = value.split_last_chunk::<2>().ok_or(bad)?;
        let port = u16::from_le_bytes(*port);
        if port == 0 {
            return Err(bad);
        }
        match kind {
            1 => {
                let octets: [u8; 4] = host.try_into().map_err(|_| bad)?;
                Ok(Some(Self::Ip((Ipv4Addr::from(octets), port).into())))
            }
            2 => {
                let octets: [u8; 16] = host.try_into().map_err(|_| bad)?;
                Ok(Some(Self::Ip((Ipv6Addr::from(octets), port).into())))
            }
            6 => {
                let host = std::str::from_utf8(host).map_err(|_| bad)?;
                if Self::is_host(host) { Ok(Some(Self::Host(host.to_owned(), port))) } else { Err(bad) }
            }
            3 => {
                let letters = std::str::from_utf8(host).map_err(|_| bad)?;
                if letters.len() != onion_address::LETTERS {
                    return Err(bad);
                }
                let onion = OnionAddress::from_letters(letters).ok_or(bad)?;
                // One spelling, so that what was signed is what is written again.
                if onion.letters() == letters { Ok(Some(Self::Onion(onion, port))) } else { Err(bad) }
            }
            // Kinds of later releases are skipped: a certificate with such an address stays usable.
            4 | 5 | 7..=63 => Ok(None),
            _ => Err(bad),
        }
    }

    /// Writes a counted list of at most [`MAX_ADDRS`] addresses.
    pub fn encode_list(addrs: &[Self], w: &mut Writer) {
        let addrs = addrs.iter().take(MAX_ADDRS);
        w.u8(addrs.len() as u8);
        addrs.for_each(|a| a.encode(w));
    }

    /// Reads what [`Address::encode_list`] wrote; kinds of later releases are left out.
    pub fn decode_list(r: &mut Reader<'_>) -> Result<Vec<Self>, DecodeError> {
        let at = r.at();
        let count = usize::from(r.u8()?);
        if count > MAX_ADDRS {
            return Err(DecodeError::TooLarge { at, what: "address count" });
        }
        let mut addrs = Vec::with_capacity(count);
        for _ in 0..count {
            addrs.extend(Self::decode(r)?);
        }
        Ok(addrs)
    }
}

/// Why a certificate or an invite was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CertError {
    /// Longer than any valid one.
    TooLong,
    /// Not text of the expected kind (`kith:c1:`, `kith:i1:`).
    Scheme,
    /// A character outside base64url; `at` counts characters.
    Encoding {
        /// Position of the character.
        at: usize,
    },
    /// The bytes are not in the one allowed form.
    Malformed(DecodeError),
    /// A version of a later release.
    Version(u8),
    /// The signature is not the named key's.
    Forged,
}

impl std::fmt::Display for CertError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooLong => f.write_str("it is longer than any valid one"),
            Self::Scheme => f.write_str("it does not start as one (kith:...)"),
            Self::Encoding { at } => write!(f, "character {at} cannot be in it"),
            Self::Malformed(e) => e.fmt(f),
            Self::Version(v) => write!(f, "it has version {v}, which this release does not know"),
            Self::Forged => f.write_str("its signature is wrong: it was changed or forged"),
        }
    }
}

impl std::error::Error for CertError {}

impl From<DecodeError> for CertError {
    fn from(e: DecodeError) -> Self {
        Self::Malformed(e)
    }
}

/// A signed certificate. A value of this type has a valid signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The node's public keys.
    pub keys: PublicKeys,
    /// The name its owner gave it.
    pub name: String,
    /// Where it can be reached.
    pub addrs: Vec<Address>,
    /// Unix seconds.
    pub created: u32,
    /// Unix seconds.
    pub expires: u32,
    encoded: Vec<u8>,
}

impl Certificate {
    /// Makes and signs a certificate. `None` if the name is not a plain name of at most 64 bytes.
    pub fn sign(id: &Identity, name: &str, addrs: &[Address], created: u32, expires: u32) -> Option<Self> {
        if !text::is_plain_name(name, MAX_NAME_LEN) {
            return None;
        }
        let keys = *id.public();
        let mut w = Writer::new();
        w.u8(VERSION).raw(&keys.noise).raw(&keys.sign).raw(&keys.pair).bytes8(name.as_bytes());
        Address::encode_list(addrs, &mut w);
        w.u32(created).u32(expires);
        let signature = id.sign(&[SIGN_CONTEXT, w.as_bytes()].concat());
        w.raw(&signature);
        let addrs = addrs.iter().take(MAX_ADDRS).cloned().collect();
        Some(Self { keys, name: name.to_owned(), addrs, created, expires, encoded: w.into_bytes() })
    }

    /// Parses strictly and checks the signature. Expiry is the caller's to judge: it has a clock.
    pub fn decode(bytes: &[u8]) -> Result<Self, CertError> {
        if bytes.len() > MAX_CERT_LEN {
            return Err(CertError::TooLong);
        }
        let mut r = Reader::new(bytes);
        let version = r.u8()?;
        if version != VERSION {
            return Err(CertError::Version(version));
        }
        let keys = PublicKeys { noise: r.array()?, sign: r.array()?, pair: r.array()? };
        let bad_name = r.invalid("name");
        let name = r.text8(MAX_NAME_LEN, "name")?;
        if !text::is_plain_name(name, MAX_NAME_LEN) {
            return Err(bad_name.into());
        }
        let addrs = Address::decode_list(&mut r)?;
        let (created, expires) = (r.u32()?, r.u32()?);
        if expires < created {
            return Err(r.invalid("expiry").into());
        }
        let signed_len = r.at();
        let signature = r.array()?;
        r.finish()?;
        let signed = bytes.get(..signed_len).unwrap_or_default();
        if !keys.verify(&[SIGN_CONTEXT, signed].concat(), &signature) {
            return Err(CertError::Forged);
        }
        Ok(Self { keys, name: name.to_owned(), addrs, created, expires, encoded: bytes.to_vec() })
    }

    /// The signed bytes.
    pub fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    /// One line of text: `kith:c1:` and base64url.
    pub fn to_text(&self) -> String {
        to_text(SCHEME, &self.encoded)
    }

    /// Reads one line of text.
    pub fn from_text(text: &str) -> Result<Self, CertError> {
        Self::decode(&from_text(SCHEME, text, MAX_CERT_LEN)?)
    }
}

pub(crate) fn to_text(scheme: &str, bytes: &[u8]) -> String {
    format!("{scheme}{}", data_encoding::BASE64URL_NOPAD.encode(bytes))
}

pub(crate) fn from_text(scheme: &str, text: &str, max_bytes: usize) -> Result<Vec<u8>, CertError> {
    let text = text.trim();
    let body = text.strip_prefix(scheme).ok_or(CertError::Scheme)?;
    if body.len() > max_bytes * 4 / 3 + 2 {
        return Err(CertError::TooLong);
    }
    data_encoding::BASE64URL_NOPAD
        .decode(body.as_bytes())
        .map_err(|e| CertError::Encoding { at: scheme.len() + e.position + 1 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use proptest::prelude::*;

    fn sample() -> (Identity, Certificate) {
        let id = Identity::generate(&mut Rng::from_seed([3; 32]));
        let addrs = [
            Address::Ip("127.0.0.1:5483".parse().unwrap()),
            Address::Ip("[2001:db8::1]:5483".parse().unwrap()),
            Address::Host("node.example".into(), 5483),
            Address::Onion(OnionAddress::of(id.public().sign).unwrap(), 5483),
        ];
        let cert = Certificate::sign(&id, "Ana", &addrs, 1_000, 2_000).unwrap();
        (id, cert)
    }

    #[test]
    fn round_trips() {
        let (_, cert) = sample();
        assert_eq!(Certificate::from_text(&cert.to_text()), Ok(cert.clone()));
        assert_eq!(cert.addrs.len(), 4);
    }

    #[test]
    fn every_changed_bit_truncation_and_extension_is_refused() {
        let (_, cert) = sample();
        let good = cert.encoded();
        for i in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.to_vec();
                bad[i] ^= 1 << bit;
                assert!(Certificate::decode(&bad).is_err(), "byte {i} bit {bit}");
            }
            assert!(Certificate::decode(&good[..i]).is_err());
        }
        assert!(Certificate::decode(&[good, b"x"].concat()).is_err());
        assert_eq!(Certificate::decode(&vec![0; 10_000_000]), Err(CertError::TooLong));
    }

    #[test]
    fn bad_names_cannot_be_signed() {
        let (id, _) = sample();
        assert!(Certificate::sign(&id, "a\u{1b}[2J", &[], 1, 2).is_none());
        assert!(Certificate::sign(&id, "", &[], 1, 2).is_none());
    }

    #[test]
    fn unknown_address_kinds_are_skipped() {
        let mut w = Writer::new();
        w.u8(2).u8(4).bytes8(&[7; 58]).u8(1).bytes8(&[127, 0, 0, 1, 1, 0]);
        let bytes = w.into_bytes();
        let list = Address::decode_list(&mut Reader::new(&bytes)).unwrap();
        assert_eq!(list, [Address::Ip("127.0.0.1:1".parse().unwrap())]);
    }

    #[test]
    fn onion_addresses_have_one_spelling_and_are_no_host_names() {
        let onion = OnionAddress::of(sample().0.public().sign).unwrap();
        let list = |letters: &str, kind: u8| {
            let mut w = Writer::new();
            w.u8(1).u8(kind).bytes8(&[letters.as_bytes(), &[1, 0]].concat());
            Address::decode_list(&mut Reader::new(&w.into_bytes()))
        };
        assert_eq!(list(&onion.letters(), 3), Ok(vec![Address::Onion(onion, 1)]));
        assert!(list(&onion.letters().to_uppercase(), 3).is_err());
        assert!(list(&onion.letters()[1..], 3).is_err());
        assert!(list(&"a".repeat(56), 3).is_err());
        // As a host name the system would ask a name server for it.
        assert!(list(&onion.to_string(), 6).is_err());
        assert!(!Address::is_host("x.OnioN") && !Address::is_host("x.onion."));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Certificate::decode(&bytes);
            let _ = Address::decode_list(&mut Reader::new(&bytes));
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".{0,200}") {
            let _ = Certificate::from_text(&text);
            let _ = Certificate::from_text(&format!("kith:c1:{text}"));
        }
    }
}
