//! `store.key`: the one secret that everything else at rest comes from.
//!
//! Format: `docs/protocol/store.md`, "Key file". The file holds a random store key in a box, either
//! under a passphrase (Argon2id) or, without one, under a key that anybody can derive: then the
//! file's permissions are the whole protection, and loose ones are refused.

use crate::StoreError;
use crate::backend::Kind;
use crate::disk::{self, At, Disk};
use kith_crypto::aead::{RECORD_NONCE_LEN, TAG_LEN, open_record, seal_record};
use kith_crypto::codec::{DecodeError, Reader, Writer};
use kith_crypto::kdf::{Label, derive};
use kith_crypto::passphrase::{self, Cost};
use kith_crypto::secret::Key;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

const MAGIC: [u8; 8] = *b"KITHKEY\0";
const VERSION: u8 = 1;
const KIND_PLAIN: u8 = 0;
const KIND_PASSPHRASE: u8 = 1;
const NONCE_AT: usize = 8 + 1 + 1 + 16 + 4 + 4;
const FILE_LEN: usize = NONCE_AT + RECORD_NONCE_LEN + 32 + TAG_LEN;

/// How the store key is protected.
#[derive(Clone, Copy)]
pub enum Unlock<'a> {
    /// By the permissions of the key file alone.
    KeyFile,
    /// By a passphrase, which must not be empty.
    Passphrase(&'a [u8]),
}

impl std::fmt::Debug for Unlock<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::KeyFile => "KeyFile",
            Self::Passphrase(_) => "Passphrase(..)",
        })
    }
}

impl<'a> Unlock<'a> {
    fn passphrase(self) -> Result<Option<&'a [u8]>, StoreError> {
        match self {
            Self::KeyFile => Ok(None),
            Self::Passphrase([]) => Err(StoreError::EmptyPassphrase),
            Self::Passphrase(text) => Ok(Some(text)),
        }
    }
}

/// The key file of a store folder.
pub(crate) fn path(dir: &Path) -> PathBuf {
    dir.join("store.key")
}

/// Everything in the file but the key itself.
#[derive(Debug, PartialEq, Eq)]
struct Envelope {
    salt: [u8; 16],
    cost: Option<Cost>, // `None`: no passphrase
    nonce: [u8; RECORD_NONCE_LEN],
    sealed: Vec<u8>,
}

impl Envelope {
    /// The bytes before the nonce, which the box authenticates.
    fn head(salt: &[u8; 16], cost: Option<Cost>) -> Vec<u8> {
        let mut w = Writer::new();
        let kind = if cost.is_some() { KIND_PASSPHRASE } else { KIND_PLAIN };
        let cost = cost.unwrap_or(Cost { memory_kib: 0, passes: 0 });
        w.raw(&MAGIC).u8(VERSION).u8(kind).raw(salt).u32(cost.memory_kib).u32(cost.passes);
        w.into_bytes()
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Self::head(&self.salt, self.cost);
        bytes.extend_from_slice(&self.nonce);
        bytes.extend_from_slice(&self.sealed);
        bytes
    }

    /// `Ok(Err(version))` for a file of a later release.
    fn decode(bytes: &[u8]) -> Result<Result<Self, u8>, DecodeError> {
        let mut r = Reader::new(bytes);
        if r.array()? != MAGIC {
            return Err(DecodeError::Invalid { at: 0, what: "magic" });
        }
        let version = r.u8()?;
        if version > VERSION {
            return Ok(Err(version));
        }
        if version != VERSION {
            return Err(DecodeError::Invalid { at: 8, what: "version" });
        }
        let kind = r.u8()?;
        let salt = r.array()?;
        let cost = Cost { memory_kib: r.u32()?, passes: r.u32()? };
        let cost = match (kind, cost) {
            (KIND_PLAIN, Cost { memory_kib: 0, passes: 0 }) => None,
            (KIND_PASSPHRASE, cost) => Some(cost),
            _ => return Err(DecodeError::Invalid { at: 9, what: "kind" }),
        };
        let nonce = r.array()?;
        let sealed = r.take(32 + TAG_LEN)?.to_vec();
        r.finish()?;
        Ok(Ok(Self { salt, cost, nonce, sealed }))
    }

    fn wrap_key(salt: &[u8; 16], cost: Option<Cost>, passphrase: Option<&[u8]>) -> Result<Key, StoreError> {
        match (cost, passphrase) {
            (None, None) => Ok(derive(Label::STORE_KEY, &[&[KIND_PLAIN], salt])),
            (None, Some(_)) => Err(StoreError::PassphraseNotUsed),
            (Some(_), None) => Err(StoreError::PassphraseNeeded),
            (Some(cost), Some(text)) => {
                let stretched = passphrase::derive(text, salt, cost)
                    .ok_or(StoreError::Misuse("the passphrase cost is out of range"))?;
                Ok(derive(Label::STORE_KEY, &[&[KIND_PASSPHRASE], salt, stretched.expose()]))
            }
        }
    }

    fn seal(
        store: &Key,
        unlock: Unlock<'_>,
        cost: Cost,
        salt: [u8; 16],
        nonce: [u8; RECORD_NONCE_LEN],
    ) -> Result<Self, StoreError> {
        let passphrase = unlock.passphrase()?;
        let cost = passphrase.map(|_| cost);
        let wrap = Self::wrap_key(&salt, cost, passphrase)?;
        let sealed = seal_record(&wrap, &nonce, &Self::head(&salt, cost), store.expose());
        Ok(Self { salt, cost, nonce, sealed })
    }

    fn open(&self, unlock: Unlock<'_>, path: &Path) -> Result<Key, StoreError> {
        let wrap = match Self::wrap_key(&self.salt, self.cost, unlock.passphrase()?) {
            // Here the cost comes from the file, not from the caller.
            Err(StoreError::Misuse(_)) => Err(StoreError::damaged(path, "passphrase cost out of range")),
            other => other,
        }?;
        let plain = open_record(&wrap, &self.nonce, &Self::head(&self.salt, self.cost), &self.sealed)
            .map(Zeroizing::new)
            .map_err(|_| match self.cost {
                // With a passphrase a wrong one and a changed file look the same.
                Some(_) => StoreError::WrongPassphrase { path: path.to_owned() },
                None => StoreError::damaged(path, "its contents fail their check"),
            })?;
        let bytes: [u8; 32] =
            plain.as_slice().try_into().map_err(|_| StoreError::damaged(path, "wrong length"))?;
        Ok(Key::new(bytes))
    }
}

/// Draws a store key and writes its file. The name appears only when the contents are durable.
pub(crate) fn create(disk: &Disk, dir: &Path, unlock: Unlock<'_>, cost: Cost) -> Result<Key, StoreError> {
    let path = path(dir);
    if disk.exists(&path) {
        return Err(StoreError::Exists { path });
    }
    let store = Key::new(disk::random()?);
    let envelope = Envelope::seal(&store, unlock, cost, disk::random()?, disk::random()?)?;
    let temp = disk::beside(&path);
    disk.remove(&temp)?; // of a creation that was killed; the caller holds the store's lock
    let file = disk.create_new(&temp)?;
    file.write_at(0, &envelope.encode()).at(&temp)?;
    file.settle();
    file.sync().at(&temp)?;
    // A hard link fails where a rename would replace, so a key file is never overwritten.
    match disk.backend().link(&temp, &path) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(StoreError::Exists { path });
        }
        // File systems without links: the lock is held and the name was free above.
        Err(_) => disk.rename(&temp, &path)?,
        Ok(()) => disk.remove(&temp)?,
    }
    disk.sync_dir(dir)?;
    Ok(store)
}

fn load(disk: &Disk, dir: &Path) -> Result<Envelope, StoreError> {
    let path = path(dir);
    match disk.kind(&path)? {
        None => return Err(StoreError::NoStore { path: dir.to_owned() }),
        Some(Kind::File) => {}
        Some(_) => return Err(StoreError::NotAFile { path }),
    }
    // Opened without following links, and judged by the open file: nobody can swap it in between.
    let file = disk.open(&path)?;
    if file.mode().at(&path)? & 0o077 != 0 {
        return Err(StoreError::Permissions { path });
    }
    let len = file.len().at(&path)?.min(FILE_LEN as u64 + 1);
    let bytes = file.read_at(0, len as usize).at(&path)?;
    match Envelope::decode(&bytes) {
        Ok(Ok(envelope)) => Ok(envelope),
        Ok(Err(version)) => Err(StoreError::NewerVersion { path, version }),
        Err(_) => Err(StoreError::damaged(&path, "not a key file or incomplete")),
    }
}

/// Reads and opens the key file.
pub(crate) fn open(disk: &Disk, dir: &Path, unlock: Unlock<'_>) -> Result<Key, StoreError> {
    load(disk, dir)?.open(unlock, &path(dir))
}

/// Whether the key file is under a passphrase.
pub(crate) fn needs_passphrase(disk: &Disk, dir: &Path) -> Result<bool, StoreError> {
    Ok(load(disk, dir)?.cost.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    const CHEAP: Cost = Cost { memory_kib: 64, passes: 1 };

    #[test]
    fn vector_kind_0() {
        let store = Key::new([0x11; 32]);
        let file = Envelope::seal(&store, Unlock::KeyFile, CHEAP, [0x22; 16], [0x33; 24]).unwrap();
        let bytes = file.encode();
        assert_eq!(bytes.len(), FILE_LEN);
        crate::vectors::check(
            "key_file_kind_0",
            &bytes,
            &[
                (8, "magic KITHKEY 00"),
                (1, "version 1"),
                (1, "kind 0: no passphrase"),
                (16, "salt"),
                (4, "memory_kib, 0 for kind 0"),
                (4, "passes, 0 for kind 0"),
                (24, "nonce"),
                (48, "box: store key of 32 bytes 11, under derive(STORE_KEY, [00, salt])"),
            ],
        );
        assert_eq!(Envelope::decode(&bytes).unwrap().unwrap(), file);
        assert_eq!(file.open(Unlock::KeyFile, Path::new("k")).unwrap(), store);
    }

    #[test]
    fn each_wrong_way_in_has_its_own_answer() {
        let dir = tempfile::tempdir().unwrap();
        let made = create(&Disk::real(), dir.path(), Unlock::Passphrase(b"right"), CHEAP).unwrap();
        assert_eq!(open(&Disk::real(), dir.path(), Unlock::Passphrase(b"right")).unwrap(), made);
        assert!(needs_passphrase(&Disk::real(), dir.path()).unwrap());
        assert!(matches!(
            open(&Disk::real(), dir.path(), Unlock::Passphrase(b"wrong")),
            Err(StoreError::WrongPassphrase { .. })
        ));
        assert!(matches!(
            open(&Disk::real(), dir.path(), Unlock::KeyFile),
            Err(StoreError::PassphraseNeeded)
        ));
        assert!(matches!(
            open(&Disk::real(), dir.path(), Unlock::Passphrase(b"")),
            Err(StoreError::EmptyPassphrase)
        ));
        assert!(matches!(
            create(&Disk::real(), dir.path(), Unlock::KeyFile, CHEAP),
            Err(StoreError::Exists { .. })
        ));
        let plain = tempfile::tempdir().unwrap();
        create(&Disk::real(), plain.path(), Unlock::KeyFile, CHEAP).unwrap();
        assert!(!needs_passphrase(&Disk::real(), plain.path()).unwrap());
        assert!(matches!(
            open(&Disk::real(), plain.path(), Unlock::Passphrase(b"x")),
            Err(StoreError::PassphraseNotUsed)
        ));
    }

    #[test]
    fn loose_permissions_links_and_later_versions_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        create(&Disk::real(), dir.path(), Unlock::KeyFile, CHEAP).unwrap();
        let file = path(dir.path());
        for mode in [0o640, 0o604, 0o620, 0o601] {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = open(&Disk::real(), dir.path(), Unlock::KeyFile).unwrap_err();
            assert!(error.to_string().contains(&format!("chmod 600 {}", file.display())), "{error}");
        }
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[8] = 2;
        std::fs::write(&file, &bytes).unwrap();
        assert!(matches!(
            open(&Disk::real(), dir.path(), Unlock::KeyFile),
            Err(StoreError::NewerVersion { version: 2, .. })
        ));
        let elsewhere = dir.path().join("elsewhere");
        std::fs::rename(&file, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &file).unwrap();
        assert!(matches!(open(&Disk::real(), dir.path(), Unlock::KeyFile), Err(StoreError::NotAFile { .. })));
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        create(&Disk::real(), dir.path(), Unlock::KeyFile, CHEAP).unwrap();
        let file = path(dir.path());
        let bytes = std::fs::read(&file).unwrap();
        for i in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[i] ^= 1;
            std::fs::write(&file, &bad).unwrap();
            assert!(open(&Disk::real(), dir.path(), Unlock::KeyFile).is_err(), "byte {i}");
            std::fs::write(&file, &bytes[..i]).unwrap();
            assert!(open(&Disk::real(), dir.path(), Unlock::KeyFile).is_err(), "cut at {i}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_to_themselves_or_not_at_all(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut with_magic = MAGIC.to_vec();
            with_magic.push(VERSION);
            with_magic.extend_from_slice(&bytes);
            for input in [&bytes, &with_magic] {
                if let Ok(Ok(envelope)) = Envelope::decode(input) {
                    prop_assert_eq!(&envelope.encode(), input);
                }
            }
        }
    }
}
