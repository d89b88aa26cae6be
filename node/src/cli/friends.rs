//! Commands about friends and circles of friends.

use clap::{Subcommand, ValueEnum};

/// How far a friend is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Trust {
    /// May be the first relay of your circuits
    Close,
    /// As a friend
    Normal,
    /// Never used as a relay
    Low,
}

impl Trust {
    /// As the API names it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Close => "close",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

/// By which ways a friend is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TorWay {
    /// Directly, and through Tor when nothing else answers
    Auto,
    /// Through Tor alone; this friend learns no other address of yours from now on
    Only,
}

/// `kith friend`
#[derive(Debug, Subcommand)]
pub enum Friend {
    /// Make an invite: one line, for one person, for some days
    Invite {
        /// How long it can be used, like 12h or 7d
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
        /// Only your onion address stands in it, and the friend is reached through Tor alone
        #[arg(long)]
        tor: bool,
    },
    /// Use an invite or a certificate (the text, a file with it, or - for stdin)
    Add {
        /// The invite (kith:i1:...), or the certificate (kith:c1:...) of a friend who adds yours too
        invite: String,
        /// Reach this friend through Tor alone, and give it no other address of yours
        #[arg(long)]
        tor: bool,
    },
    /// All friends
    List,
    /// One friend
    Show {
        /// The friend's name here
        name: String,
    },
    /// End a friendship
    Remove {
        /// The friend's name here
        name: String,
    },
    /// Call a friend something else here
    Rename {
        /// The friend's name here
        name: String,
        /// The new one
        new: String,
    },
    /// Say how far you trust a friend
    Trust {
        /// The friend's name here
        name: String,
        /// close, normal or low
        #[arg(value_enum)]
        trust: Trust,
    },
    /// Limit the speed of one friend
    Limit {
        /// The friend's name here
        name: String,
        /// Remove both limits
        #[arg(value_enum, conflicts_with_all = ["up", "down"])]
        off: Option<super::Off>,
        /// Most that goes to this friend, like 500kB/s, 2MB/s or off
        #[arg(long, value_name = "RATE")]
        up: Option<String>,
        /// Most that comes from this friend
        #[arg(long, value_name = "RATE")]
        down: Option<String>,
    },
    /// Say whether a friend is reached through Tor alone
    Tor {
        /// The friend's name here
        name: String,
        /// auto or only
        #[arg(value_enum)]
        way: TorWay,
    },
    /// Close the link to a friend and stay silent, without ending the friendship
    Block {
        /// The friend's name here
        name: String,
    },
    /// Undo a block
    Unblock {
        /// The friend's name here
        name: String,
    },
    /// Measure the round trip to a friend
    Ping {
        /// The friend's name here
        name: String,
        /// How often, once a second
        #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
        count: u16,
    },
    /// Compare fingerprints: without one both are shown, with one the friend is marked as verified
    Verify {
        /// The friend's name here
        name: String,
        /// The friend's fingerprint, as the friend read it to you
        #[arg(conflicts_with_all = ["restored", "undo"])]
        fingerprint: Option<String>,
        /// The friend's node was restored from a backup: let it back in for a day
        #[arg(long, conflicts_with = "undo")]
        restored: bool,
        /// No longer verified
        #[arg(long)]
        undo: bool,
    },
}

/// `kith circle`
#[derive(Debug, Subcommand)]
pub enum Circle {
    /// Make a circle of friends to publish to
    Create {
        /// Its name
        name: String,
    },
    /// All circles
    List,
    /// Put friends into a circle; they see what was published to it
    Add {
        /// The circle
        name: String,
        /// Friends' names
        #[arg(required = true)]
        friends: Vec<String>,
    },
    /// Take friends out of a circle; they no longer see what was published to it
    Drop {
        /// The circle
        name: String,
        /// Friends' names
        #[arg(required = true)]
        friends: Vec<String>,
    },
    /// Remove a circle; what was published to it is shared with nobody
    Rm {
        /// The circle
        name: String,
    },
}
