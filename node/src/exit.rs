//! How a command ends: the exit codes, the `code` of API errors and their HTTP status, in one
//! table, and the one-line failure that carries them.
//!
//! Invariant: a number or a name, once released, keeps its meaning; scripts and the page rely on
//! both. Which fault maps to which exit is decided where the fault is understood.

use crate::config::ConfigError;
use crate::config::size;
use crate::paths::PathError;
use crate::terminal;
use crate::terminal::human_bytes;
use kith_store::{Room, StoreError};
use std::fmt;
use std::io;

/// How a command or an API call ends. The discriminant is the process's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// A failure that no other code names.
    Failure = 1,
    /// The caller asked for something that makes no sense.
    Usage = 2,
    /// The node is not running.
    NotRunning = 3,
    /// No such video, friend or file.
    NotFound = 4,
    /// Known, but not for this caller: audience or permission.
    Refused = 5,
    /// The friend or the network cannot be reached.
    Unreachable = 6,
    /// It took too long.
    TimedOut = 7,
    /// What arrived is not what was promised.
    Verification = 8,
    /// Disk or quota full.
    Full = 9,
    /// Not a kind of media that kith handles.
    UnsupportedMedia = 10,
    /// Interrupted by the user.
    Interrupted = 130,
}

impl Exit {
    /// Every exit, in the order of the codes.
    pub const ALL: [Self; 12] = [
        Self::Done,
        Self::Failure,
        Self::Usage,
        Self::NotRunning,
        Self::NotFound,
        Self::Refused,
        Self::Unreachable,
        Self::TimedOut,
        Self::Verification,
        Self::Full,
        Self::UnsupportedMedia,
        Self::Interrupted,
    ];

    // The one table: name and HTTP status of each exit.
    const fn row(self) -> (&'static str, u16) {
        match self {
            Self::Done => ("done", 200),
            Self::Failure => ("failure", 500),
            Self::Usage => ("usage", 400),
            Self::NotRunning => ("not_running", 503),
            Self::NotFound => ("not_found", 404),
            Self::Refused => ("refused", 403),
            Self::Unreachable => ("unreachable", 503),
            Self::TimedOut => ("timed_out", 504),
            // The node stands between the caller and whoever sent the wrong bytes: a bad gateway.
            Self::Verification => ("verification", 502),
            Self::Full => ("full", 507),
            Self::UnsupportedMedia => ("unsupported_media", 415),
            Self::Interrupted => ("interrupted", 503),
        }
    }

    /// The process's exit code.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The stable name, used as `code` in API errors.
    pub const fn name(self) -> &'static str {
        self.row().0
    }

    /// The HTTP status of an API answer that ends like this.
    pub const fn http_status(self) -> u16 {
        self.row().1
    }

    /// The exit that an API error's `code` names.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|exit| exit.name() == name)
    }

    /// The exit that suits an error of the operating system.
    pub fn of_io(kind: io::ErrorKind) -> Self {
        use io::ErrorKind as Kind;
        match kind {
            Kind::NotFound => Self::NotFound,
            Kind::PermissionDenied | Kind::ReadOnlyFilesystem => Self::Refused,
            Kind::ConnectionRefused
            | Kind::ConnectionReset
            | Kind::ConnectionAborted
            | Kind::NotConnected
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::NetworkDown
            | Kind::AddrNotAvailable => Self::Unreachable,
            Kind::TimedOut => Self::TimedOut,
            Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => Self::Full,
            Kind::Interrupted => Self::Interrupted,
            _ => Self::Failure,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a command failed: one line that says what, where, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The class of the failure.
    pub exit: Exit,
    /// What happened. It may hold foreign text; only [`fmt::Display`] makes it safe to print.
    pub what: String,
}

impl Failure {
    /// A failure of the given class.
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into() }
    }

    /// The same failure with `context` in front: `context: what`.
    #[must_use]
    pub fn context(self, context: impl fmt::Display) -> Self {
        Self { exit: self.exit, what: format!("{context}: {}", self.what) }
    }

    /// The same failure with advice on what to do next: `what; advice`.
    #[must_use]
    pub fn advise(self, advice: impl fmt::Display) -> Self {
        Self { exit: self.exit, what: format!("{}; {advice}", self.what) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&terminal::safe(&self.what))
    }
}

impl std::error::Error for Failure {}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(Exit::of_io(error.kind()), error.to_string())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let exit = match &error {
            ConfigError::File { source, .. } => Exit::of_io(source.kind()),
            _ => Exit::Usage,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<PathError> for Failure {
    fn from(error: PathError) -> Self {
        let exit = match &error {
            PathError::NoHome => Exit::Usage,
            PathError::Unsafe { .. } => Exit::Refused,
            PathError::Io { source, .. } => Exit::of_io(source.kind()),
        };
        Self::new(exit, error.to_string())
    }
}

/// Says what was being done when an error struck.
pub trait Context<T> {
    /// Turns the error into a [`Failure`] that begins with `context`.
    fn context(self, context: impl fmt::Display) -> Result<T, Failure>;
}

impl<T, E: Into<Failure>> Context<T> for Result<T, E> {
    fn context(self, context: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|error| error.into().context(context))
    }
}

impl From<StoreError> for Failure {
    fn from(e: StoreError) -> Self {
        let exit = match &e {
            StoreError::Full { .. } | StoreError::NoRoom { .. } => Exit::Full,
            StoreError::NotFound | StoreError::NoStore { .. } => Exit::NotFound,
            StoreError::DamagedBlock(_) | StoreError::Damaged { .. } => Exit::Verification,
            _ => Exit::Failure,
        };
        let what = match &e {
            StoreError::NoRoom { what: Room::Quota, needed, available, limit } => {
                // A stream of unknown length is refused where it does not fit any more.
                let more = if human_bytes(*needed) == human_bytes(*available) { "more than " } else { "" };
                let enough = limit.saturating_add(needed.saturating_sub(*available));
                format!(
                    "{more}{} needed and {} available in the quota of {}: raise it with `kith store quota {}`, \
                     or remove or unpin videos",
                    human_bytes(*needed),
                    human_bytes(*available),
                    human_bytes(*limit),
                    size::at_least(enough)
                )
            }
            _ => e.to_string(),
        };
        Self::new(exit, what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn codes_and_names_are_the_promised_ones() {
        let codes: Vec<u8> = Exit::ALL.iter().map(|e| e.code()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 130]);
        let names: Vec<&str> = Exit::ALL.iter().map(|e| e.name()).collect();
        let promised = "done failure usage not_running not_found refused unreachable timed_out \
                        verification full unsupported_media interrupted";
        assert_eq!(names.join(" "), promised);
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), Exit::ALL.len());
    }

    #[test]
    fn names_lead_back_and_statuses_are_errors() {
        for exit in Exit::ALL {
            assert_eq!(Exit::from_name(exit.name()), Some(exit));
            assert_eq!(exit == Exit::Done, exit.http_status() < 400, "{exit}");
        }
        assert_eq!(Exit::from_name("nonsense"), None);
    }

    #[test]
    fn io_errors_are_classed_and_get_a_context() {
        let full: Result<(), io::Error> = Err(io::Error::from(io::ErrorKind::StorageFull));
        let failure = full.context("writing a pack").unwrap_err();
        assert_eq!(failure.exit, Exit::Full);
        assert!(failure.to_string().starts_with("writing a pack: "), "{failure}");
        assert_eq!(Failure::from(io::Error::other("odd")).exit, Exit::Failure);
        assert_eq!(Exit::of_io(io::ErrorKind::ConnectionRefused), Exit::Unreachable);
    }

    #[test]
    fn display_is_one_line_without_control_characters() {
        let failure =
            Failure::new(Exit::NotFound, "no film \"\u{1b}[2Ja\r\nb\u{9b}31m\u{202e}\"").advise("look");
        let line = failure.to_string();
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(line.ends_with("; look"));
    }
}
