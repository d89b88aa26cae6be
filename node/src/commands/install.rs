//! `kith install` and `kith uninstall`: an entry in the menu, `kith:` links, and a service that starts with
//! the login. Only files of this user; the node's own data is never touched.

use super::*;
use crate::cli;
use std::process::{Command, Stdio};

const SERVICE: &str = include_str!("../../assets/install/kith.service");
/// What takes mounts and a user namespace of its own. Where the system lets no user have those the service would not start.
const MOUNTS: &str = "ProtectSystem=strict
ProtectHome=tmpfs
@BINDS@
PrivateTmp=yes
PrivateDevices=yes
PrivateUsers=yes
ProtectProc=invisible
ProtectClock=yes
ProtectHostname=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
CapabilityBoundingSet=";
/// The service ended because it could not have them (systemd.exec(5): namespaces, user, capabilities).
const NO_MOUNTS: [&str; 3] = ["ExecMainStatus=226", "ExecMainStatus=217", "ExecMainStatus=218"];
/// So long a service is given to start.
const STARTS_WITHIN: Duration = Duration::from_secs(2);
const ENTRY: &str = include_str!("../../assets/install/kith.desktop");
const ICON: &str = include_str!("../../assets/page/icon.svg");
const UNIT: &str = "kith.service";
const DESKTOP: &str = "kith.desktop";
const SCHEME: &str = "x-scheme-handler/kith";

/// Where the files go (XDG Base Directory Specification 0.8; systemd.unit(5)).
struct Places {
    unit: PathBuf,
    entry: PathBuf,
    icon: PathBuf,
    /// Which program opens what.
    links: PathBuf,
}

impl Places {
    fn find() -> Result<Self, Failure> {
        let absolute =
            |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = absolute("HOME").ok_or_else(|| Failure::new(Exit::Usage, "HOME is not set: set it"))?;
        let config = absolute("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config"));
        let data = absolute("XDG_DATA_HOME").unwrap_or_else(|| home.join(".local/share"));
        Ok(Self {
            unit: config.join("systemd/user").join(UNIT),
            entry: data.join("applications").join(DESKTOP),
            icon: data.join("icons/hicolor/scalable/apps/kith.svg"),
            links: config.join("mimeapps.list"),
        })
    }
}

/// A path as it may stand between double quotes in a unit or desktop entry; none that would need more.
fn quotable(path: &Path) -> Result<&str, Failure> {
    let plain = |text: &&str| !text.chars().any(|c| c.is_control() || "\"\\$`%".contains(c));
    path.to_str().filter(plain).ok_or_else(|| {
        let what = format!("the path {} has characters that services cannot have: move it", path.display());
        Failure::new(Exit::Usage, what)
    })
}

/// The flag that says which node is meant, where it is not the user's usual one.
fn home(paths: &Paths) -> Result<String, Failure> {
    paths.home.as_deref().map_or(Ok(String::new()), |home| Ok(format!("--home \"{}\" ", quotable(home)?)))
}

/// The unit for a program and the folders that it needs; `mounts`: with those that it sees alone.
fn unit(program: &Path, paths: &Paths, mounts: bool) -> Result<String, Failure> {
    let service = SERVICE.replace("@KITH@", quotable(program)?).replace("@HOME@", &home(paths)?);
    // What only this shell knows the service would not.
    let mut places = Vec::new();
    for name in ["XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"] {
        if let Some(dir) = std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute()) {
            places.push(format!("Environment=\"{name}={}\"\n", quotable(&dir)?));
        }
    }
    let service = service.replace("@PLACES@\n", &places.concat());
    if !mounts {
        return Ok(service.replace("@MOUNTS@\n", ""));
    }
    let config = paths.config_file.parent().unwrap_or(&paths.config_file);
    let runtime = paths.socket.parent().unwrap_or(&paths.socket);
    let mut binds = Vec::new();
    for dir in [config, &paths.data_dir, &paths.state_dir] {
        binds.push(format!("BindPaths=\"{}\"", quotable(dir)?));
    }
    // Made anew with each login; the service makes its own.
    binds.push(format!("BindPaths=-\"{}\"", quotable(runtime)?));
    binds.push(format!("BindReadOnlyPaths=\"{}\"", quotable(program)?));
    binds.dedup();
    Ok(service.replace("@MOUNTS@", MOUNTS).replace("@BINDS@", &binds.join("\n")))
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let shown = path.display();
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).context(format!("cannot make {}", dir.display()))?;
    }
    std::fs::write(path, text).context(format!("cannot write {shown}"))
}

/// Takes our line out of the list of programs that open links.
fn forget_links(list: &Path) -> Result<(), Failure> {
    let Ok(text) = std::fs::read_to_string(list) else { return Ok(()) };
    let ours = |line: &&str| {
        [format!("{SCHEME}={DESKTOP}"), format!("{SCHEME}={DESKTOP};")].iter().any(|l| l == line)
    };
    if !text.lines().any(|line| ours(&line)) {
        return Ok(());
    }
    let rest: String = text.lines().filter(|line| !ours(line)).flat_map(|line| [line, "\n"]).collect();
    std::fs::write(list, rest).context(format!("cannot write {}", list.display()))
}

/// Runs a program of the desktop; whether it is there and did it.
fn ran(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Whether the service runs, and goes on.
async fn is_active() -> bool {
    let until = Instant::now() + STARTS_WITHIN;
    while ran("systemctl", &["--user", "is-active", "--quiet", UNIT]) {
        if Instant::now() >= until {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    false
}

/// Whether the service did not start because it could have no mounts of its own.
fn lacks_mounts() -> bool {
    let mut command = Command::new("systemctl");
    command.args(["--user", "show", UNIT, "-p", "ExecMainStatus"]).stdin(Stdio::null()).stderr(Stdio::null());
    let said = command.output().map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    said.is_ok_and(|said| NO_MOUNTS.contains(&said.trim()))
}

/// Makes the desktop see what changed, as far as it is there.
fn refresh(places: &Places) {
    if let Some(dir) = places.entry.parent().and_then(Path::to_str) {
        ran("update-desktop-database", &[dir]);
    }
}

impl Shell {
    /// `kith install`
    pub async fn install(&self, args: &cli::Install) -> Result<(), Failure> {
        let places = Places::find()?;
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut notes = Vec::new();
        // The folders must be there for the service to have them.
        self.paths.prepare(rustix::process::getuid().as_raw())?;
        write(&places.unit, &unit(&program, &self.paths, true)?)?;
        let entry = ENTRY.replace("@KITH@", quotable(&program)?).replace("@HOME@", &home(&self.paths)?);
        write(&places.entry, &entry)?;
        write(&places.icon, ICON)?;
        refresh(&places);
        let links = ran("xdg-mime", &["default", DESKTOP, SCHEME]);
        if !links {
            notes
                .push("kith: links are not opened by it: xdg-mime is missing (package xdg-utils)".to_owned());
        }
        let known = ran("systemctl", &["--user", "daemon-reload"]);
        let mut started =
            args.at_login && ran("systemctl", &["--user", "enable", "--now", UNIT]) && is_active().await;
        if args.at_login && !started && known && lacks_mounts() {
            write(&places.unit, &unit(&program, &self.paths, false)?)?;
            ran("systemctl", &["--user", "daemon-reload"]);
            started = ran("systemctl", &["--user", "restart", UNIT]) && is_active().await;
            notes.push(
                "this system gives services of users no mounts of their own: the node sees your files".into(),
            );
        }
        if args.at_login && !started {
            notes.push(format!(
                "the service was not enabled: {}; later: systemctl --user enable --now {UNIT}",
                if known {
                    "systemctl --user status kith says why"
                } else {
                    "no systemd of this user answers"
                }
            ));
        }
        let locked = kith_store::Store::needs_passphrase(&self.paths.store_dir).unwrap_or(false);
        if locked {
            notes.push(
                "this store has a passphrase, which a service cannot be asked for: start kith up yourself"
                    .into(),
            );
        }
        let value = json!({
            "unit": places.unit.display().to_string(),
            "entry": places.entry.display().to_string(),
            "icon": places.icon.display().to_string(),
            "links": links,
            "at_login": started,
            "notes": notes,
        });
        self.print(&value, || {
            let mut lines = format!(
                "Wrote {}\n      {}\n      {}\n",
                places.unit.display(),
                places.entry.display(),
                places.icon.display()
            );
            lines.push_str(&match started {
                true => "The node runs now and with each login.".to_owned(),
                false => format!("Start it with each login: systemctl --user enable --now {UNIT}"),
            });
            notes.iter().for_each(|note| lines.push_str(&format!("\n{note}")));
            lines
        })
    }

    /// `kith uninstall`
    pub async fn uninstall(&self) -> Result<(), Failure> {
        let places = Places::find()?;
        ran("systemctl", &["--user", "disable", "--now", UNIT]);
        let mut removed = Vec::new();
        for path in [&places.unit, &places.entry, &places.icon] {
            match std::fs::remove_file(path) {
                Ok(()) => removed.push(path.display().to_string()),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(Failure::from(e).context(format!("cannot remove {}", path.display()))),
            }
        }
        forget_links(&places.links)?;
        refresh(&places);
        ran("systemctl", &["--user", "daemon-reload"]);
        let value = json!({"removed": removed, "kept": self.paths.data_dir.display().to_string()});
        self.print(&value, || {
            let what = if removed.is_empty() { "Nothing was installed.".into() } else { format!("Removed {}", removed.join("\n        ")) };
            format!(
                "{what}\nYour node is kept in {}: remove that folder to lose who you are, and this program with \
                 `cargo uninstall kith-node` or by hand.",
                self.paths.data_dir.display()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_names_program_and_folders_and_nothing_of_them_ends_a_quote() {
        let env = |name: &str| (name == "HOME").then(|| "/home/ana".into());
        let paths = Paths::resolve(None, env, 1000).unwrap();
        let made = |mounts| unit(Path::new("/home/ana/.cargo/bin/kith"), &paths, mounts).unwrap();
        let (unit, bare) = (made(true), made(false));
        assert!(unit.contains("ExecStart=\"/home/ana/.cargo/bin/kith\" up\n"), "{unit}");
        assert!(unit.contains("BindPaths=\"/home/ana/.local/share/kith\"\n"), "{unit}");
        assert!(unit.contains("RuntimeDirectory=kith\n") && !unit.contains("@HOME@"), "{unit}");
        assert!(!unit.contains('@') || unit.matches('@').count() == 1, "only @system-service: {unit}");
        assert!(
            bare.contains("SystemCallFilter") && !bare.contains("Bind") && !bare.contains("@MOUNTS@"),
            "{bare}"
        );
        let env = |name: &str| (name == "HOME").then(|| "/home/ana".into());
        let apart = Paths::resolve(Some(Path::new("/data/kith")), env, 1000).unwrap();
        let apart = super::unit(Path::new("/bin/kith"), &apart, true).unwrap();
        assert!(apart.contains("ExecStart=\"/bin/kith\" --home \"/data/kith\" up\n"), "{apart}");
        for bad in ["/x\"y", "/x\ny", "/x$y", "/x%y", "/x\\y"] {
            assert!(quotable(Path::new(bad)).is_err(), "{bad:?}");
        }
    }
}
