//! Commands about the page, programs, and what is shown.

use crate::api::Scope;
use clap::{Args, Subcommand, ValueEnum};

/// `kith open`
#[derive(Args, Debug)]
pub struct Open {
    /// An invite, certificate or link to ask about (kith:..., a file with it, or - for stdin)
    pub link: Option<String>,
    /// Print the address, which works once, instead of opening a browser
    #[arg(long)]
    pub print: bool,
}

/// `kith install`
#[derive(Args, Debug)]
pub struct Install {
    /// Start the node now and with each login
    #[arg(long)]
    pub at_login: bool,
}

/// What a token is for.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum TokenScope {
    /// See and search
    Read,
    /// Fetch and play
    Watch,
    /// Publish and withdraw
    Publish,
    /// Everything
    Admin,
}

impl TokenScope {
    /// As the API takes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => Scope::Read.as_str(),
            Self::Watch => Scope::Watch.as_str(),
            Self::Publish => Scope::Publish.as_str(),
            Self::Admin => Scope::Admin.as_str(),
        }
    }
}

/// `kith token`
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make a token for a program, and print it once
    Create {
        /// What it is called
        name: String,
        /// What it may be used for; may be given several times
        #[arg(long, value_enum, default_value = "read")]
        scope: Vec<TokenScope>,
    },
    /// All tokens, without themselves
    List,
    /// Make a token useless, at once
    Revoke {
        /// What it is called
        name: String,
    },
}

/// `kith hide`
#[derive(Args, Debug)]
pub struct Hide {
    /// An id, word:WORD, friend:NAME, or a friend's name or a word; without, what is hidden
    pub what: Option<String>,
    /// Show it again
    #[arg(long, requires = "what")]
    pub undo: bool,
}
