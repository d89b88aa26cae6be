//! Where a node's files lie: one folder for the whole node, or the XDG folders of the user.
//!
//! Invariant: every path is absolute, two homes never share a path, and the socket's path is short
//! enough for the system. Nothing is touched until [`Paths::prepare`], which leaves the socket in
//! a folder that only its user can enter if that folder is not the home itself.
//!
//! Source: XDG Base Directory Specification 0.8.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Longest path of a unix socket in bytes, without the closing zero (`unix(7)`; BSDs have 104).
pub const MAX_SOCKET_PATH: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

const OWN_FOLDER: &str = "kith";
const SOCKET_NAME: &str = "kith.sock";

/// Where everything of one node lies. All paths are absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// The home that was asked for with `--home` or `KITH_HOME`.
    pub home: Option<PathBuf>,
    /// The configuration.
    pub config_file: PathBuf,
    /// What must never be lost: identity and store lie here.
    pub data_dir: PathBuf,
    /// Packs, journal and index.
    pub store_dir: PathBuf,
    /// What may be lost.
    pub state_dir: PathBuf,
    /// Log files.
    pub log_dir: PathBuf,
    /// The socket of the API.
    pub socket: PathBuf,
    /// Whether the socket had to leave its usual place because its path would be too long.
    pub socket_moved: bool,
}

/// Why there is no usable place.
#[derive(Debug)]
pub enum PathError {
    /// Neither a home nor the user's own folder is known.
    NoHome,
    /// A folder exists that others may own or enter.
    Unsafe {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The system refused.
    Io {
        /// What was being made or looked at.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHome => f.write_str("no place for the node's files: HOME is not set; give --home DIR"),
            Self::Unsafe { path, why } => {
                write!(f, "the folder {} {why}; remove it or choose another --home", path.display())
            }
            Self::Io { path, source } => write!(f, "{}: {source}", path.display()),
        }
    }
}

impl std::error::Error for PathError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::NoHome | Self::Unsafe { .. } => None,
        }
    }
}

impl Paths {
    /// The paths for `home` (what `--home` said), the environment and the user's id.
    ///
    /// An empty variable counts as unset, and so does an XDG variable with a relative path, as
    /// the specification wants. The working folder matters only if the home is relative.
    pub fn resolve(
        home: Option<&Path>,
        env: impl Fn(&str) -> Option<OsString>,
        uid: u32,
    ) -> Result<Self, PathError> {
        let var = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let folders = Folders { var: &var, uid };
        match home.map(Path::to_owned).filter(|h| !h.as_os_str().is_empty()).or_else(|| var("KITH_HOME")) {
            Some(home) => folders.under_home(&home),
            None => folders.under_xdg(),
        }
    }

    /// Each path with a name, for people and for `kith paths`.
    pub fn listed(&self) -> [(&'static str, &Path); 6] {
        [
            ("config", &self.config_file),
            ("data", &self.data_dir),
            ("store", &self.store_dir),
            ("state", &self.state_dir),
            ("log", &self.log_dir),
            ("socket", &self.socket),
        ]
    }

    /// Makes the folders that are missing, for the user alone, and checks the socket's folder.
    /// The store's own folder is left to the store.
    pub fn prepare(&self, uid: u32) -> Result<(), PathError> {
        let config_dir = self.config_file.parent().unwrap_or(&self.data_dir);
        for folder in [config_dir, &self.data_dir, &self.state_dir] {
            make_private(folder)?;
        }
        let Some(folder) = self.socket.parent() else { return Ok(()) };
        make_private(folder)?;
        // How open a home is, is its user's choice; the socket's own mode protects it there.
        if self.home.as_deref() == Some(folder) { Ok(()) } else { check_private(folder, uid) }
    }
}

struct Folders<'a> {
    var: &'a dyn Fn(&str) -> Option<PathBuf>,
    uid: u32,
}

impl Folders<'_> {
    fn under_home(&self, home: &Path) -> Result<Paths, PathError> {
        let absolute = std::path::absolute(home);
        let absolute = absolute.map_err(|source| PathError::Io { path: home.to_owned(), source })?;
        // Rebuilt from its parts, so that a closing slash makes no other socket.
        let home: PathBuf = absolute.components().collect();
        let usual = home.join(SOCKET_NAME);
        let socket_moved = !fits(&usual);
        Ok(Paths {
            config_file: home.join("config.toml"),
            data_dir: home.clone(),
            store_dir: home.join("store"),
            state_dir: home.clone(),
            log_dir: home.join("log"),
            socket: if socket_moved { self.short_socket(&home) } else { usual },
            socket_moved,
            home: Some(home),
        })
    }

    fn under_xdg(&self) -> Result<Paths, PathError> {
        let config = self.xdg("XDG_CONFIG_HOME", ".config")?;
        let data_dir = self.xdg("XDG_DATA_HOME", ".local/share")?;
        let state_dir = self.xdg("XDG_STATE_HOME", ".local/state")?;
        let usual = self.runtime_folder().unwrap_or_else(|| state_dir.clone()).join(SOCKET_NAME);
        let socket_moved = !fits(&usual);
        Ok(Paths {
            home: None,
            config_file: config.join("config.toml"),
            store_dir: data_dir.join("store"),
            log_dir: state_dir.join("log"),
            socket: if socket_moved { self.short_socket(&data_dir) } else { usual },
            socket_moved,
            data_dir,
            state_dir,
        })
    }

    fn absolute_var(&self, name: &str) -> Option<PathBuf> {
        (self.var)(name).filter(|path| path.is_absolute())
    }

    fn xdg(&self, name: &str, below_home: &str) -> Result<PathBuf, PathError> {
        let base = self.absolute_var(name).or_else(|| Some(self.absolute_var("HOME")?.join(below_home)));
        Ok(base.ok_or(PathError::NoHome)?.join(OWN_FOLDER))
    }

    fn runtime_folder(&self) -> Option<PathBuf> {
        Some(self.absolute_var("XDG_RUNTIME_DIR")?.join(OWN_FOLDER))
    }

    // A place for the socket of the node in `folder`, told apart from other nodes by a hash.
    fn short_socket(&self, folder: &Path) -> PathBuf {
        let name = short_name(folder);
        let in_runtime = self.runtime_folder().map(|runtime| runtime.join(&name));
        in_runtime
            .filter(|path| fits(path))
            .unwrap_or_else(|| PathBuf::from(format!("/tmp/kith-{}", self.uid)).join(name))
    }
}

fn fits(socket: &Path) -> bool {
    socket.as_os_str().as_bytes().len() <= MAX_SOCKET_PATH
}

// 64 bits are plenty for the homes of one user, who has no reason to attack himself.
fn short_name(folder: &Path) -> String {
    let hash = kith_crypto::kdf::hash(folder.as_os_str().as_bytes());
    let hex: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    hex + ".sock"
}

fn make_private(folder: &Path) -> Result<(), PathError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|source| PathError::Io { path: folder.to_owned(), source })
}

// A folder in a shared place may have been made by somebody else before, as a trap: it counts only
// if it is a real folder of this user. Then nobody else can replace it, because the places above
// are the user's own or have the sticky bit, and closing it is safe.
fn check_private(folder: &Path, uid: u32) -> Result<(), PathError> {
    let io = |source| PathError::Io { path: folder.to_owned(), source };
    let unsafe_because = |why| PathError::Unsafe { path: folder.to_owned(), why };
    let found = fs::symlink_metadata(folder).map_err(io)?;
    if !found.is_dir() {
        return Err(unsafe_because("is a link or no folder"));
    }
    if found.uid() != uid {
        return Err(unsafe_because("belongs to another user"));
    }
    if found.mode() & 0o077 != 0 {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(io)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const XDG: [(&str, &str); 5] = [
        ("HOME", "/home/ana"),
        ("XDG_CONFIG_HOME", "/c"),
        ("XDG_DATA_HOME", "/d"),
        ("XDG_STATE_HOME", "/s"),
        ("XDG_RUNTIME_DIR", "/run/user/7"),
    ];

    fn resolve(home: Option<&str>, vars: &[(&str, &str)]) -> Result<Paths, PathError> {
        let env = |name: &str| vars.iter().find(|(k, _)| *k == name).map(|(_, v)| OsString::from(v));
        Paths::resolve(home.map(Path::new), env, 7)
    }

    #[test]
    fn a_home_holds_everything() {
        let paths = resolve(Some("/srv/n1/"), &XDG).unwrap();
        assert_eq!(paths.home.as_deref(), Some(Path::new("/srv/n1")));
        assert_eq!(paths.config_file, Path::new("/srv/n1/config.toml"));
        assert_eq!(paths.store_dir, Path::new("/srv/n1/store"));
        assert_eq!(paths.socket, Path::new("/srv/n1/kith.sock"));
        assert!(!paths.socket_moved);
        assert!(paths.listed().iter().all(|(_, path)| path.starts_with("/srv/n1")));
        assert_eq!(resolve(None, &[("KITH_HOME", "/srv/n1")]).unwrap(), paths);
        assert_eq!(resolve(Some("/srv/n1"), &[("KITH_HOME", "/other")]).unwrap(), paths);
    }

    #[test]
    fn relative_homes_become_absolute() {
        let paths = resolve(Some("n1"), &[]).unwrap();
        assert_eq!(paths.store_dir, std::env::current_dir().unwrap().join("n1/store"));
    }

    #[test]
    fn xdg_folders_and_their_defaults() {
        let paths = resolve(None, &XDG).unwrap();
        assert_eq!(paths.config_file, Path::new("/c/kith/config.toml"));
        assert_eq!(paths.store_dir, Path::new("/d/kith/store"));
        assert_eq!(paths.log_dir, Path::new("/s/kith/log"));
        assert_eq!(paths.socket, Path::new("/run/user/7/kith/kith.sock"));
        let vars = [("HOME", "/home/ana"), ("XDG_DATA_HOME", "relative"), ("XDG_CONFIG_HOME", "")];
        let paths = resolve(None, &vars).unwrap();
        assert_eq!(paths.config_file, Path::new("/home/ana/.config/kith/config.toml"));
        assert_eq!(paths.data_dir, Path::new("/home/ana/.local/share/kith"));
        assert_eq!(paths.socket, Path::new("/home/ana/.local/state/kith/kith.sock"));
        assert!(matches!(resolve(None, &[]), Err(PathError::NoHome)));
    }

    #[test]
    fn long_homes_move_the_socket() {
        let long = |len: usize| format!("/{}", "h".repeat(len - 1));
        let room = MAX_SOCKET_PATH - "/kith.sock".len();
        let just = resolve(Some(&long(room)), &XDG).unwrap();
        assert!(!just.socket_moved && just.socket.as_os_str().len() == MAX_SOCKET_PATH);
        let over = resolve(Some(&long(room + 1)), &XDG).unwrap();
        assert!(over.socket_moved);
        assert!(over.socket.starts_with("/run/user/7/kith"), "{:?}", over.socket);
        let other = resolve(Some(&long(room + 2)), &XDG).unwrap();
        assert_ne!(over.socket, other.socket);
        // Without a runtime folder, or with one that is too long itself: the shared one.
        for vars in [vec![], vec![("XDG_RUNTIME_DIR", long(100))]] {
            let vars: Vec<(&str, &str)> =
                vars.iter().map(|(k, v): &(&str, String)| (*k, v.as_str())).collect();
            let shared = resolve(Some(&long(room + 1)), &vars).unwrap();
            assert!(shared.socket.starts_with("/tmp/kith-7"), "{:?}", shared.socket);
            assert_eq!(shared.socket.file_name(), over.socket.file_name());
            assert!(shared.socket.as_os_str().len() <= MAX_SOCKET_PATH);
        }
    }

    #[test]
    fn folders_are_made_for_the_user_alone() {
        let dir = tempfile::tempdir().unwrap();
        let uid = fs::metadata(dir.path()).unwrap().uid();
        let home = dir.path().join("a/home");
        let paths = Paths::resolve(Some(&home), |_| None, uid).unwrap();
        paths.prepare(uid).unwrap();
        paths.prepare(uid).unwrap();
        assert_eq!(fs::metadata(&home).unwrap().mode() & 0o777, 0o700);
        // A home that its user has opened stays open.
        fs::set_permissions(&home, fs::Permissions::from_mode(0o750)).unwrap();
        paths.prepare(uid).unwrap();
        assert_eq!(fs::metadata(&home).unwrap().mode() & 0o777, 0o750);
    }

    #[test]
    fn a_foreign_or_false_socket_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let uid = fs::metadata(dir.path()).unwrap().uid();
        let folder = dir.path().join("sockets");
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
        check_private(&folder, uid).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
        assert!(matches!(check_private(&folder, uid + 1), Err(PathError::Unsafe { .. })));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&folder, &link).unwrap();
        assert!(matches!(check_private(&link, uid), Err(PathError::Unsafe { .. })));
    }
}
