//! Commands about the node itself: configuration, limits, what is wrong, pages and completions.

use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

/// `kith config`
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Show one key, or all, and where each value comes from
    Get {
        /// A key, like limits.up
        key: Option<String>,
    },
    /// Change one key in config.toml; comments stay
    Set {
        /// A key, like limits.up
        key: String,
        /// Its value; lists have commas
        #[arg(allow_hyphen_values = true)]
        value: String,
    },
    /// Tell every problem of a configuration file with its line
    Validate {
        /// The file (default: the one that the node reads)
        file: Option<PathBuf>,
    },
    /// Where config.toml lies
    Path,
}

/// `kith net`
#[derive(Debug, Subcommand)]
pub enum Net {
    /// Show or set limits of speed
    Limits(Limits),
    /// Weekly windows of time with other limits
    Schedule {
        /// What to do (default: list)
        #[command(subcommand)]
        command: Option<Schedule>,
    },
    /// Your own circuits, those of others through this node, and cover
    Circuits,
    /// How quickly each friend on line answers
    Check,
    /// How Tor stands, and this node's onion address
    Tor,
}

/// What a limit applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Your own videos and what you fetch
    Own,
    /// What this node passes on between friends
    Fof,
    /// Circuits of others through this node
    Onion,
}

impl Kind {
    /// As configuration keys name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Fof => "fof",
            Self::Onion => "onion",
        }
    }
}

/// A switch that can only be turned off.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Off {
    /// No limits
    Off,
}

/// `kith net limits`
#[derive(Args, Debug)]
pub struct Limits {
    /// Remove all limits, or those of --kind
    #[arg(value_enum, conflicts_with_all = ["up", "down"])]
    pub off: Option<Off>,
    /// Most that leaves, like 500kB/s, 2MB/s, 1.5MiB/s or off
    #[arg(long, value_name = "RATE")]
    pub up: Option<String>,
    /// Most that comes
    #[arg(long, value_name = "RATE")]
    pub down: Option<String>,
    /// Limit only this kind of traffic
    #[arg(long, value_enum)]
    pub kind: Option<Kind>,
}

/// `kith net schedule`
#[derive(Debug, Subcommand)]
pub enum Schedule {
    /// Add a window, like "mon-fri 08:00-18:00" --up 1MB/s (local time)
    Add {
        /// DAYS FROM-TO: mon, mon-fri, mon+wed or daily, then 08:00-18:00
        window: String,
        /// Most that leaves meanwhile
        #[arg(long, value_name = "RATE")]
        up: Option<String>,
        /// Most that comes meanwhile
        #[arg(long, value_name = "RATE")]
        down: Option<String>,
        /// Limit only this kind of traffic
        #[arg(long, value_enum)]
        kind: Option<Kind>,
    },
    /// All windows with their numbers
    List,
    /// Remove a window
    Rm {
        /// Its number in the list
        number: usize,
    },
}
