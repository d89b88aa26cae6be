//! The configuration: every key with its default, its comment and its parser, in one table.
//!
//! Invariant: a [`Config`] holds only values that its keys allow, whatever they came from. Later
//! sources win: default, `config.toml`, `KITH_*` variables, `--set`; a bad value is an error even
//! where a later source would replace it, so that it does not surprise on another day.

pub mod edit;
mod keys;
pub mod size;

pub use keys::KEYS;

use crate::limits::Look;
use crate::rates::Limits;
use crate::service::MirrorSettings;
use crate::terminal;
use kith_crypto::cert::{Address, MAX_NAME_LEN};
use kith_crypto::text;
use kith_onion::{CircuitSettings, Privacy};
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write as _};
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

const MAX_LISTEN: usize = 16;
const MAX_SHOWN_VALUE: usize = 80;
const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
// Longer times make no sense for any key and would only come near the end of the clock.
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// Whether the node uses Tor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tor {
    /// No Tor at all.
    Off,
    /// Beside TCP.
    On,
    /// Nothing else.
    Only,
}

impl Tor {
    /// The word that means this mode.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
            Self::Only => "only",
        }
    }
}

/// How the node uses Tor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TorConfig {
    /// Whether.
    pub mode: Tor,
    /// Bridge lines, as the Tor Project gives them out.
    pub bridges: Vec<String>,
    /// Programs of pluggable transports: names and path.
    pub transports: Vec<(Vec<String>, String)>,
    /// Somebody chose the mode, instead of leaving it.
    pub is_chosen: bool,
    /// `auto`, `off`, `lite` or `full`.
    pub vanguards: &'static str,
    /// Another program's Tor, instead of the client inside.
    pub socks: Option<SocketAddr>,
    /// The onion service that such a program keeps for this node.
    pub onion: Option<Address>,
    /// Where it forwards to, on this machine only.
    pub listen: SocketAddr,
    /// A file that describes another network than the public one.
    pub network: Option<PathBuf>,
}

/// Which messages reach the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// None.
    Off,
    /// Faults.
    Error,
    /// Faults and what may become one.
    Warn,
    /// Also what happens.
    Info,
    /// Also why.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    const ALL: [Self; 6] = [Self::Off, Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// The word that means this level, in the configuration and to `tracing`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// The values of all keys. Field names follow the keys, with `_` for `.`; what belongs together is one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The name that friends see first.
    pub name: String,
    /// Where friends can connect; empty means nowhere.
    pub listen: Vec<SocketAddr>,
    /// What certificates and invites say; empty means the addresses of the interfaces.
    pub advertise: Vec<Address>,
    /// Where the page and the stream addresses are; always loopback.
    pub web: SocketAddr,
    /// Use of Tor.
    pub tor: TorConfig,
    /// The privacy mode.
    pub privacy: Privacy,
    /// Cover traffic, and everything about circuits but their share.
    pub circuits: CircuitSettings,
    /// Percent of a busy link that circuits of others may use.
    pub circuit_share: u8,
    /// Copies for others.
    pub mirror: MirrorSettings,
    /// How the page looks.
    pub look: Look,
    /// Length of a batch of relayed catalogue entries.
    pub catalogue_batch: Duration,
    /// Time over which a new friend's older entries enter the views of others.
    pub catalogue_spread: Duration,
    /// Which messages reach the log.
    pub log_level: LogLevel,
    /// Most inbound links that have not finished their handshake.
    pub link_half_open: usize,
    /// How long a new invite can be used.
    pub invite_expires: Duration,
    /// How long a round of checks over everything stored takes; `None`: no such rounds.
    pub store_scrub: Option<Duration>,
    /// Limits of speed.
    pub limits: Limits,
    /// How much may be kept.
    pub store: kith_store::Limits,
}

/// One key of the configuration.
#[derive(Debug)]
pub struct KeySpec {
    /// Its dotted name.
    pub name: &'static str,
    /// Its default, as it would stand in `config.toml`.
    pub default: &'static str,
    /// What it is for, for people.
    pub comment: &'static str,
    /// What may be given, for people.
    pub allowed: &'static str,
    /// Whether a running node takes a new value at once; other keys wait for the next start.
    pub live: bool,
    parse: fn(&mut Config, &Given) -> Result<(), Refusal>,
}

impl KeySpec {
    /// The environment variable of this key: `catalogue.batch` is `KITH_CATALOGUE_BATCH`.
    pub fn env_name(&self) -> String {
        format!("KITH_{}", self.name.replace('.', "_").to_ascii_uppercase())
    }

    /// The key with this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// Whether the key allows this value.
    fn check(&self, given: &Given, origin: &Origin) -> Result<(), ConfigError> {
        let mut scratch = Config::placeholders();
        self.apply_to(&mut scratch, given, origin)
    }

    fn apply(&self, to: &mut Loaded, given: Given, origin: &Origin) -> Result<(), ConfigError> {
        self.apply_to(&mut to.config, &given, origin)?;
        to.values.insert(self.name, (given, origin.clone()));
        Ok(())
    }

    fn apply_to(&self, config: &mut Config, given: &Given, origin: &Origin) -> Result<(), ConfigError> {
        (self.parse)(config, given).map_err(|Refusal(reason)| ConfigError::Value {
            key: self.name,
            value: text::cut(&given.to_string(), MAX_SHOWN_VALUE).to_owned(),
            origin: origin.clone(),
            reason,
            allowed: self.allowed,
        })
    }
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The table of this release.
    Default,
    /// A configuration file.
    File(PathBuf),
    /// An environment variable with this name.
    Env(String),
    /// `--set` on the command line.
    Set,
    /// The arguments of a command.
    Command,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the defaults"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Env(name) => f.write_str(name),
            Self::Set => f.write_str("--set"),
            Self::Command => f.write_str("the command"),
        }
    }
}

/// What is wrong with the configuration. `Display` is one line that is safe to print.
#[derive(Debug)]
pub enum ConfigError {
    /// A key does not allow this value.
    Value {
        /// The key.
        key: &'static str,
        /// The value, shortened.
        value: String,
        /// Where it came from.
        origin: Origin,
        /// Why not, if there is more to say than what is allowed.
        reason: Option<&'static str>,
        /// What is allowed.
        allowed: &'static str,
    },
    /// There is no such key.
    Unknown {
        /// What was given.
        key: String,
        /// Where it came from.
        origin: Origin,
        /// The key that is most like it.
        nearest: &'static str,
    },
    /// The text cannot be read as `KEY=VALUE` or as TOML.
    Syntax {
        /// Where it came from.
        origin: Origin,
        /// What is wrong, and where.
        what: String,
    },
    /// The file cannot be read or written.
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = match self {
            Self::Value { key, value, origin, reason, allowed } => {
                let reason = reason.unwrap_or("not a value of this key");
                format!("{key}: \"{value}\" from {origin} is refused: {reason}; allowed: {allowed}")
            }
            Self::Unknown { key, origin, nearest } => {
                format!(
                    "unknown key \"{}\" in {origin}; did you mean {nearest}?",
                    text::cut(key, MAX_SHOWN_VALUE)
                )
            }
            Self::Syntax { origin, what } => format!("{origin}: {what}"),
            Self::File { path, source } => format!("{}: {source}", path.display()),
        };
        f.write_str(&terminal::safe(&line))
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl Config {
    /// The configuration from all sources; see [`Loaded::load`].
    pub fn load(
        file: &Path,
        sets: &[String],
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        Loaded::load(file, sets, env).map(|loaded| loaded.config)
    }

    /// Whether nobody wished for another place to listen than the usual one.
    pub fn listens_by_default(&self) -> bool {
        Loaded::defaults(&|_| None).is_ok_and(|usual| usual.config.listen == self.listen)
    }

    /// The defaults with these values, whatever a file says.
    pub fn of(changes: &[(&'static KeySpec, Given)]) -> Result<Self, ConfigError> {
        let mut alone = Loaded::defaults(&|_| None)?;
        for (key, given) in changes {
            key.apply(&mut alone, given.clone(), &Origin::Command)?;
        }
        Ok(alone.config)
    }

    /// The text of a new `config.toml`: each key with its comment and its default, commented out,
    /// so that a later release may choose better defaults.
    pub fn default_toml() -> String {
        let mut out = String::from("# Configuration of kith. Remove the # before a key to change it.\n");
        for key in KEYS {
            out.push('\n');
            for line in key.comment.lines() {
                out.extend(["# ", line, "\n"]);
            }
            out.extend(["# Allowed: ", key.allowed, ".\n#", key.name, " = ", key.default, "\n"]);
        }
        out
    }

    /// Writes [`Config::default_toml`] for the user alone if there is no such file yet, and says
    /// whether it did. An existing file is never touched.
    pub fn write_default(file: &Path) -> Result<bool, ConfigError> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let created = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
        match created.and_then(|mut out| out.write_all(Self::default_toml().as_bytes())) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(source) => Err(ConfigError::File { path: file.to_owned(), source }),
        }
    }

    // What the defaults of the table replace, so that each default stands once.
    fn placeholders() -> Self {
        Self {
            name: String::new(),
            listen: Vec::new(),
            advertise: Vec::new(),
            web: SocketAddr::from((Ipv6Addr::LOCALHOST, 0)),
            tor: TorConfig {
                mode: Tor::Off,
                bridges: Vec::new(),
                transports: Vec::new(),
                is_chosen: false,
                vanguards: "auto",
                socks: None,
                onion: None,
                listen: SocketAddr::from((Ipv6Addr::LOCALHOST, 0)),
                network: None,
            },
            privacy: Privacy::Strict,
            circuits: CircuitSettings::default(),
            circuit_share: 0,
            mirror: MirrorSettings::default(),
            look: Look::AUTO,
            catalogue_batch: YEAR,
            catalogue_spread: YEAR,
            log_level: LogLevel::Off,
            link_half_open: 0,
            invite_expires: Duration::ZERO,
            store_scrub: None,
            limits: Limits::default(),
            store: kith_store::Limits::NONE,
        }
    }
}

/// A configuration, and where each of its values came from.
#[derive(Debug)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    values: BTreeMap<&'static str, (Given, Origin)>,
}

impl Loaded {
    /// The configuration from all sources. A file that does not exist says nothing; an empty
    /// variable counts as unset; variables that match no key are not looked at.
    pub fn load(
        file: &Path,
        sets: &[String],
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let mut config = Self::defaults(&env)?;
        config.read_toml(&read(file)?, &Origin::File(file.to_owned()))?;
        for key in KEYS {
            // As the flag is called.
            let short = (key.name == "tor.mode").then(|| "KITH_TOR".to_owned());
            for variable in short.into_iter().chain([key.env_name()]) {
                if let Some(value) = env(&variable).filter(|value| !value.is_empty()) {
                    key.apply(&mut config, Given::Text(value), &Origin::Env(variable))?;
                }
            }
        }
        for set in sets {
            let (name, value) = set.split_once('=').ok_or_else(|| ConfigError::Syntax {
                origin: Origin::Set,
                what: format!("\"{}\" is not KEY=VALUE", text::cut(set, MAX_SHOWN_VALUE)),
            })?;
            known(name.trim(), &Origin::Set)?.apply(
                &mut config,
                Given::Text(value.to_owned()),
                &Origin::Set,
            )?;
        }
        let mode = config.values.get("tor.mode");
        config.config.tor.is_chosen = mode.is_some_and(|(_, origin)| *origin != Origin::Default);
        Ok(config)
    }

    /// A key's value as it was given, a list as its items, and where it came from.
    pub fn value(&self, key: &KeySpec) -> Option<(&Given, &Origin)> {
        self.values.get(key.name).map(|(given, origin)| (given, origin))
    }

    fn defaults(env: &impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let config = Config::placeholders();
        let mut loaded = Self { config, values: BTreeMap::new() };
        let lines: Vec<String> = KEYS.iter().map(|key| format!("{} = {}", key.name, key.default)).collect();
        loaded.read_toml(&lines.join("\n"), &Origin::Default)?;
        let mut users = ["USER", "LOGNAME"].into_iter().filter_map(env);
        if let Some(user) = users.find(|user| text::is_plain_name(user, MAX_NAME_LEN)) {
            loaded.config.name.clone_from(&user);
            loaded.values.insert("name", (Given::Text(user), Origin::Default));
        }
        Ok(loaded)
    }

    fn read_toml(&mut self, toml: &str, origin: &Origin) -> Result<(), ConfigError> {
        let table: toml::Table = toml.parse().map_err(|error: toml::de::Error| {
            let before = toml.get(..error.span().map_or(0, |span| span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            ConfigError::Syntax { origin: origin.clone(), what: format!("line {line}: {}", error.message()) }
        })?;
        let mut values = Vec::new();
        flatten("", &table, &mut values);
        for (name, value) in values {
            known(&name, origin)?.apply(self, Given::of(value), origin)?;
        }
        Ok(())
    }
}

fn read(file: &Path) -> Result<String, ConfigError> {
    match std::fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        answer => answer.map_err(|source| ConfigError::File { path: file.to_owned(), source }),
    }
}

// Nested tables and dotted keys both become dotted names.
fn flatten<'a>(prefix: &str, table: &'a toml::Table, out: &mut Vec<(String, &'a toml::Value)>) {
    for (name, value) in table {
        let full = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            toml::Value::Table(inner) => flatten(&full, inner, out),
            _ => out.push((full, value)),
        }
    }
}

fn known(name: &str, origin: &Origin) -> Result<&'static KeySpec, ConfigError> {
    // As the flag is called.
    let name = if name == "tor" { "tor.mode" } else { name };
    KeySpec::find(name).ok_or_else(|| ConfigError::Unknown {
        key: name.to_owned(),
        origin: origin.clone(),
        nearest: nearest(text::cut(name, MAX_SHOWN_VALUE)),
    })
}

// The last part of a key counts as well: who writes `batch` means `catalogue.batch`.
fn nearest(name: &str) -> &'static str {
    let likeness = |key: &&KeySpec| {
        let last = key.name.rsplit('.').next().unwrap_or(key.name);
        edits(name, key.name).min(edits(name, last))
    };
    KEYS.iter().min_by_key(likeness).map_or("", |key| key.name)
}

// Levenshtein's distance, one row at a time.
fn edits(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (index, a) in from.chars().enumerate() {
        let (mut diagonal, mut left) = (index, index + 1);
        let mut cells = row.iter_mut();
        if let Some(first) = cells.next() {
            *first = left;
        }
        for (cell, b) in cells.zip(to.chars()) {
            left = (diagonal + usize::from(a != b)).min(*cell + 1).min(left + 1);
            diagonal = std::mem::replace(cell, left);
        }
    }
    row.last().copied().unwrap_or_default()
}

// Why a parser refuses; `None` if what is allowed says it all.
#[derive(Debug)]
struct Refusal(Option<&'static str>);

const NOT_ALLOWED: Refusal = Refusal(None);

/// A value as it was written, before its key has a say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given {
    /// One.
    Text(String),
    /// Several.
    List(Vec<String>),
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::List(items) => f.write_str(&items.join(",")),
        }
    }
}

impl Given {
    fn of(value: &toml::Value) -> Self {
        let plain = |value: &toml::Value| match value {
            toml::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        match value {
            toml::Value::Array(items) => Self::List(items.iter().map(plain).collect()),
            other => Self::Text(plain(other)),
        }
    }

    fn text(&self) -> Result<&str, Refusal> {
        match self {
            Self::Text(text) => Ok(text),
            Self::List(_) => Err(Refusal(Some("one value is wanted, not a list"))),
        }
    }

    // Text is a list with commas, because variables and `--set` know nothing else.
    fn list<T>(&self, max: usize, parse: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, Refusal> {
        let items: Vec<&str> = match self {
            Self::Text(text) if text.trim().is_empty() => Vec::new(),
            Self::Text(text) => text.split(',').map(str::trim).collect(),
            Self::List(items) => items.iter().map(String::as_str).collect(),
        };
        if items.len() > max {
            return Err(Refusal(Some("too many")));
        }
        items.into_iter().map(|item| parse(item).ok_or(NOT_ALLOWED)).collect()
    }

    fn duration(&self, min: Duration) -> Result<Duration, Refusal> {
        let duration = parse_duration(self.text()?).ok_or(NOT_ALLOWED)?;
        match duration {
            short if short < min => Err(Refusal(Some("too short"))),
            long if long > YEAR => Err(Refusal(Some("too long"))),
            fine => Ok(fine),
        }
    }

    fn count(&self, min: usize, max: usize) -> Result<usize, Refusal> {
        let count = self.text()?.parse().ok();
        count.filter(|count| (min..=max).contains(count)).ok_or(NOT_ALLOWED)
    }
}

// Units in milliseconds, the largest first.
const UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1)];

/// Reads a duration: a whole number and one of `ms`, `s`, `min`, `h`, `d`, without a space.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.find(|c: char| !c.is_ascii_digit())?)?;
    let (_, millis) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let count: u64 = digits.parse().ok()?;
    Some(Duration::from_millis(count.checked_mul(*millis)?))
}

/// Writes a duration so that [`parse_duration`] reads it: in the largest unit that fits without a
/// rest. What is below a millisecond is lost.
pub fn format_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    let fitting = UNITS.iter().find(|(_, unit)| millis.is_multiple_of(*unit));
    fitting.map_or_else(|| format!("{millis}ms"), |(name, unit)| format!("{}{name}", millis / unit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kith_onion::Cover;
    use proptest::prelude::*;

    fn load(toml: &str, sets: &[&str], vars: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        std::fs::write(&file, toml).unwrap();
        let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
        Config::load(&file, &sets, |name| vars.iter().find(|(k, _)| *k == name).map(|(_, v)| (*v).to_owned()))
    }

    fn refusal(toml: &str, sets: &[&str], vars: &[(&str, &str)]) -> String {
        load(toml, sets, vars).unwrap_err().to_string()
    }

    #[test]
    fn defaults_are_the_promised_ones() {
        let config = Config::load(Path::new("/nonexistent/config.toml"), &[], |_| None).unwrap();
        assert_eq!(config.name, "kith");
        assert_eq!(config.listen, ["0.0.0.0:5483".parse().unwrap(), "[::]:5483".parse().unwrap()]);
        assert!(config.advertise.is_empty());
        assert_eq!(config.web, "127.0.0.1:5484".parse().unwrap());
        assert_eq!((config.tor.mode, config.privacy), (Tor::Off, Privacy::Normal));
        assert_eq!(config.catalogue_batch, Duration::from_secs(1_800));
        assert_eq!(config.catalogue_spread, Duration::from_secs(3 * 86_400));
        assert_eq!((config.circuits, config.circuit_share), (CircuitSettings::default(), 20));
        assert_eq!(config.circuits.pace, Duration::from_secs(60));
        assert_eq!(config.circuits.snapshot, Duration::from_secs(6 * 3_600));
        assert_eq!((config.log_level, config.link_half_open), (LogLevel::Warn, 64));
        assert_eq!(config.invite_expires, Duration::from_secs(7 * 86_400));
        assert_eq!(config.store, kith_store::Limits { quota: 20 << 30, keep_free: 512 << 20 });
    }

    #[test]
    fn the_user_gives_the_name_if_it_can_be_one() {
        assert_eq!(load("", &[], &[("USER", "ana")]).unwrap().name, "ana");
        assert_eq!(load("", &[], &[("USER", "a\u{1b}"), ("LOGNAME", "bo")]).unwrap().name, "bo");
        assert_eq!(load("name = \"Zoë\"", &[], &[("USER", "ana")]).unwrap().name, "Zoë");
    }

    #[test]
    fn later_sources_win() {
        let toml = "catalogue.batch = \"1s\"\n[catalogue]\n";
        assert!(load(toml, &[], &[]).is_err(), "a table cannot be opened twice");
        let toml = "[catalogue]\nbatch = \"1s\"\nspread = \"0s\"";
        let vars =
            [("KITH_CATALOGUE_BATCH", "2s"), ("KITH_HOME", "/x"), ("KITH_LOGS", "x"), ("KITH_WEB", "")];
        let batch = |config: Config| config.catalogue_batch.as_secs();
        assert_eq!(batch(load(toml, &[], &[]).unwrap()), 1);
        assert_eq!(batch(load(toml, &[], &vars).unwrap()), 2);
        assert_eq!(batch(load(toml, &["catalogue.batch=3s", "catalogue.batch=4s"], &vars).unwrap()), 4);
        assert_eq!(batch(load("catalogue.batch = \"9s\"", &[], &[]).unwrap()), 9);
    }

    #[test]
    fn lists_read_from_everywhere() {
        let two = ["127.0.0.1:0".parse().unwrap(), "[::1]:1".parse().unwrap()];
        assert_eq!(load("listen = [\"127.0.0.1:0\", \"[::1]:1\"]", &[], &[]).unwrap().listen, two);
        assert_eq!(load("listen = \"127.0.0.1:0, [::1]:1\"", &[], &[]).unwrap().listen, two);
        assert_eq!(load("", &["listen=127.0.0.1:0,[::1]:1"], &[]).unwrap().listen, two);
        assert_eq!(load("", &[], &[("KITH_LISTEN", "127.0.0.1:0,[::1]:1")]).unwrap().listen, two);
        assert!(load("", &["listen="], &[]).unwrap().listen.is_empty());
        let advertise = load("", &["advertise=a.example:1,[2001:db8::1]:2"], &[]).unwrap().advertise;
        assert_eq!(load("[tor]\nmode = \"only\"", &[], &[]).unwrap().tor.mode, Tor::Only);
        assert_eq!(load("tor = \"on\"", &["tor=off"], &[]).unwrap().tor.mode, Tor::Off);
        assert_eq!(load("", &[], &[("KITH_TOR", "only")]).unwrap().tor.mode, Tor::Only);
        assert_eq!(load("", &[], &[("KITH_TOR_MODE", "on")]).unwrap().tor.mode, Tor::On);
        let tor =
            load("[tor]\ntransports = [\"obfs4+meek=/usr/bin/x\"]\nsocks = \"127.0.0.1:9050\"", &[], &[]);
        let tor = tor.unwrap().tor;
        assert_eq!(tor.transports, [(vec!["obfs4".to_owned(), "meek".to_owned()], "/usr/bin/x".to_owned())]);
        assert_eq!(tor.socks, Some("127.0.0.1:9050".parse().unwrap()));
        assert_eq!(advertise[0], Address::Host("a.example".to_owned(), 1));
        assert_eq!(advertise[1], Address::Ip("[2001:db8::1]:2".parse().unwrap()));
        for bad in
            ["a.example", "a.example:0", "1.2.3:4", "0.0.0.0:5", "a_b:1", "a b:1", ":1", "x:70000", "a:1,"]
        {
            assert!(load("", &[&format!("advertise={bad}")], &[]).is_err(), "{bad}");
        }
    }

    #[test]
    fn errors_say_what_where_and_what_is_allowed() {
        let text = refusal("", &["catalogue.batch=99ms"], &[]);
        for part in ["catalogue.batch", "\"99ms\"", "--set", "too short", "from 100ms"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(refusal("", &[], &[("KITH_WEB", "0.0.0.0:80")]).contains("only this machine"));
        assert!(refusal("tor = \"maybe\"", &[], &[]).contains("config.toml"));
        assert!(refusal("[tor]\nbridges = [\"\"]", &[], &[]).contains("tor.bridges"));
        assert!(refusal("tor.listen = \"0.0.0.0:1\"", &[], &[]).contains("this machine"));
        assert!(refusal("tor.onion = \"a.example:1\"", &[], &[]).contains("tor.onion"));
        assert!(refusal("privacy = [\"fast\"]", &[], &[]).contains("not a list"));
        assert!(refusal("\n\nname = ", &[], &[]).contains("line 3"));
        assert!(refusal("", &["nonsense"], &[]).contains("KEY=VALUE"));
        assert!(!refusal("", &["name=\u{1b}[2J\n"], &[]).contains(['\u{1b}', '\n']));
        assert!(refusal("", &[&format!("name={}", "x".repeat(9_999))], &[]).len() < 400);
        for bad in ["link.half_open=0", "link.half_open=-1", "log.level=loud", "web=localhost:1", "name="] {
            assert!(load("", &[bad], &[]).is_err(), "{bad}");
        }
        let listed = vec!["1.2.3.4:5"; MAX_LISTEN + 1].join(",");
        assert!(refusal("", &[&format!("listen={listed}")], &[]).contains("too many"));
    }

    #[test]
    fn circuits_are_set_as_people_write_it() {
        let cover = |text: &str| load("", &[&format!("cover={text}")], &[]).map(|c| c.circuits.cover);
        assert_eq!(cover("off").unwrap(), Cover::Off);
        assert_eq!(cover("idle").unwrap(), Cover::Idle);
        assert_eq!(cover("constant 16kB/s").unwrap(), Cover::Constant(16_000));
        assert_eq!(cover("constant 256kB/s").unwrap(), Cover::Constant(256_000));
        for bad in ["on", "constant", "constant off", "constant 1kB/s", "constant 257kB/s", "16kB/s"] {
            assert!(cover(bad).unwrap_err().to_string().contains("constant 16kB/s"), "{bad}");
        }
        let config = load("circuit.relay = \"off\"\ncircuit.relays = 6", &["circuit.share=90"], &[]).unwrap();
        assert_eq!((config.circuits.relay, config.circuits.relays, config.circuit_share), (false, 6, 90));
        for bad in ["circuit.relays=2", "circuit.relays=7", "circuit.share=0", "circuit.share=91"] {
            assert!(load("", &[bad], &[]).is_err(), "{bad}");
        }
        assert!(load("circuit.relay = 1", &[], &[]).is_err());
    }

    #[test]
    fn a_bad_value_is_an_error_even_if_replaced() {
        assert!(load("privacy = \"loud\"", &["privacy=fast"], &[]).is_err());
    }

    #[test]
    fn unknown_keys_name_the_nearest() {
        assert!(refusal("", &["catalog.batch=1s"], &[]).contains("did you mean catalogue.batch?"));
        assert!(refusal("batch = \"1s\"", &[], &[]).contains("did you mean catalogue.batch?"));
        assert!(refusal("[web]\nport = 1", &[], &[]).contains("did you mean"));
        assert!(refusal("", &[&format!("{}=1", "ü".repeat(9_999))], &[]).len() < 200);
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(edits("", "abc"), 3);
    }

    #[test]
    fn the_written_file_changes_nothing_until_it_is_edited() {
        let text = Config::default_toml();
        assert_eq!(load(&text, &[], &[]).unwrap(), load("", &[], &[]).unwrap());
        let opened: Vec<&str> = text.lines().map(|line| line.strip_prefix('#').unwrap_or(line)).collect();
        let opened: Vec<&str> = opened.into_iter().filter(|line| !line.starts_with(' ')).collect();
        let mut said = load(&opened.join("\n"), &[], &[]).unwrap();
        assert!(std::mem::take(&mut said.tor.is_chosen));
        assert_eq!(said, load("", &[], &[]).unwrap());
        assert_eq!(opened.iter().filter(|line| !line.is_empty()).count(), KEYS.len());
    }

    #[test]
    fn the_file_is_written_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        assert!(Config::write_default(&file).unwrap());
        std::fs::write(&file, "name = \"Ana\"").unwrap();
        assert!(!Config::write_default(&file).unwrap());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "name = \"Ana\"");
        assert!(matches!(Config::write_default(&dir.path().join("no/x")), Err(ConfigError::File { .. })));
    }

    #[test]
    fn durations_read_and_write() {
        let cases =
            [("250ms", 250), ("1s", 1_000), ("30min", 1_800_000), ("12h", 43_200_000), ("3d", 259_200_000)];
        for (text, millis) in cases {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)));
            assert_eq!(format_duration(Duration::from_millis(millis)), text);
        }
        for bad in
            ["", "5", "s", "5 s", "-5s", "+5s", "1.5h", "5m", "5S", "1h30min", "99999999999999999999s", "９s"]
        {
            assert_eq!(parse_duration(bad), None, "{bad:?}");
        }
        assert_eq!(parse_duration(&format!("{}d", u64::MAX)), None);
    }

    proptest! {
        #[test]
        fn written_durations_read_back(millis in any::<u64>()) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Some(duration));
        }

        #[test]
        fn any_setting_is_survived(set in any::<String>(), toml in any::<String>(), pick in 0..KEYS.len()) {
            let keyed = format!("{}={set}", KEYS[pick].name);
            for set in [set, keyed] {
                if let Err(error) = load(&toml, &[&set], &[]) {
                    prop_assert!(!error.to_string().chars().any(char::is_control));
                }
            }
        }
    }
}
