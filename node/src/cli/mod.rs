//! The command line's grammar. Names and flags are a contract with scripts: `docs/commands.md`.

mod friends;
mod keep;
mod operator;
mod page;

pub use friends::{Circle, Friend, TorWay, Trust};
pub use keep::{Backup, Bundle, Restore};
pub use operator::{Config, Kind, Limits, Net, Off, Schedule};
pub use page::{Hide, Install, Open, Token};

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Share video with the people you trust and, through them, with the people they trust.
#[derive(Debug, Parser)]
#[command(
    name = "kith",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub struct Cli {
    /// Keep one whole node under this folder (also: KITH_HOME)
    #[arg(long, global = true, value_name = "DIR")]
    pub home: Option<PathBuf>,
    /// Print one JSON document instead of text for people
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the node in the foreground (initialises on first run)
    Up(Up),
    /// Ask the node to stop
    Stop,
    /// What the node is doing
    Status,
    /// Where everything lies
    Paths,
    /// See it work: real nodes on this machine, from invite to playing video
    Demo(Demo),
    /// Make identity and store without starting
    Init(Init),
    /// Show your own certificate
    Id(Id),
    /// Invite, add and see friends
    Friend {
        /// What to do
        #[command(subcommand)]
        command: Friend,
    },
    /// Circles of friends to publish to
    Circle {
        /// What to do
        #[command(subcommand)]
        command: Circle,
    },
    /// Publish videos: files, folders, or - for stdin
    Publish(Publish),
    /// See and withdraw what you published
    Video {
        /// What to do
        #[command(subcommand)]
        command: Video,
    },
    /// Search what your friends and their friends share; nothing leaves this machine
    Search(Search),
    /// Fetch a video
    Get(Get),
    /// Watch a video while it downloads
    Watch(Watch),
    /// Folders whose videos are published by themselves
    Folder {
        /// What to do
        #[command(subcommand)]
        command: Folder,
    },
    /// Keep copies for friends, or of a video
    Mirror {
        /// What to do
        #[command(subcommand)]
        command: Mirror,
    },
    /// What is stored
    Store {
        /// What to do
        #[command(subcommand)]
        command: StoreCommand,
    },
    /// Write all that cannot be made again into one sealed file
    Backup(Backup),
    /// Make a node from a backup
    Restore(Restore),
    /// Carry videos to a friend on a stick
    Bundle {
        /// What to do
        #[command(subcommand)]
        command: Bundle,
    },
    /// Limits of speed, and circuits
    Net {
        /// What to do
        #[command(subcommand)]
        command: Net,
    },
    /// See and change the configuration
    Config {
        /// What to do
        #[command(subcommand)]
        command: Config,
    },
    /// Hide a video, a word or a friend's videos from search and pages here
    Hide(Hide),
    /// Open the page in your browser
    Open(Open),
    /// Tokens for programs
    Token {
        /// What to do
        #[command(subcommand)]
        command: Token,
    },
    /// What moves, a line of JSON each
    Events,
    /// The latest lines of the node's log
    Log {
        /// Go on with those that come
        #[arg(long)]
        follow: bool,
    },
    /// Say what is wrong and what to do about it
    Doctor {
        /// Only about this friend
        name: Option<String>,
    },
    /// Put the node into the menu, open kith: links with it, and make it a service
    Install(Install),
    /// Take back what install did; the node's data stays
    Uninstall,
    /// Print what makes a shell complete commands
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Write manual pages, one a command
    Man {
        /// An existing folder
        dir: PathBuf,
    },
    /// This program's version and what it was built with
    Version,
}

/// `kith up`
#[derive(Args, Debug, Default)]
pub struct Up {
    /// The name that friends see
    #[arg(long)]
    pub name: Option<String>,
    /// Where friends connect (port 0: any free one)
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Vec<String>,
    /// What goes into certificates and invites (default: this machine's addresses)
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Vec<String>,
    /// Where players connect, on this machine only
    #[arg(long, value_name = "ADDR:PORT")]
    pub web: Option<String>,
    /// Reach friends through Tor: on beside other ways, only and nothing else
    #[arg(long, value_enum)]
    pub tor: Option<TorMode>,
    /// Read the store's passphrase from this file (- for stdin; also: KITH_PASSPHRASE; else it is asked)
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// Set a configuration key for this start
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// Whether Tor is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TorMode {
    /// No Tor at all
    Off,
    /// An onion address beside the others; friends are called through Tor when nothing else answers
    On,
    /// Nothing but Tor: no friend learns this machine's address
    Only,
}

impl TorMode {
    /// As the configuration names it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
            Self::Only => "only",
        }
    }
}

/// `kith demo`
#[derive(Args, Debug)]
pub struct Demo {
    /// End after the last step, with status 0 only if every step worked
    #[arg(long)]
    pub exit: bool,
    /// How many nodes (3 to 8): from 7 on they stand in a ring and show circuits, else in a line
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u8).range(3..=8))]
    pub nodes: u8,
}

/// `kith init`
#[derive(Args, Debug)]
pub struct Init {
    /// The name that friends see
    #[arg(long)]
    pub name: Option<String>,
    /// Lock the store with the passphrase in this file (- for stdin; also: KITH_PASSPHRASE; else it is asked)
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
}

/// `kith id`
#[derive(Args, Debug)]
pub struct Id {
    /// Show it as a QR code
    #[arg(long)]
    pub qr: bool,
    /// Write it to a file
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// The one that holds your onion address alone
    #[arg(long)]
    pub tor: bool,
    /// What to do with it
    #[command(subcommand)]
    pub command: Option<IdCommand>,
}

/// `kith id ...`
#[derive(Clone, Debug, Subcommand)]
pub enum IdCommand {
    /// Another name that friends see
    Rename {
        /// The name
        name: String,
    },
    /// Draw new link keys: friends take them over, fingerprint and friendships stay
    Rotate,
}

/// `kith publish`
#[derive(Args, Debug)]
pub struct Publish {
    /// Files, folders with files, or - for stdin
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Title (default: the file's name)
    #[arg(long)]
    pub title: Option<String>,
    /// Description
    #[arg(long, default_value = "")]
    pub text: String,
    /// A tag; may be given several times
    #[arg(long)]
    pub tag: Vec<String>,
    /// Language, like en or pt-BR
    #[arg(long, default_value = "")]
    pub lang: String,
    /// Licence, like CC-BY-4.0
    #[arg(long, default_value = "")]
    pub licence: String,
    /// Who may see it: friends, fof (friends and their friends), friend:NAME or circle:NAME
    #[arg(long, default_value = "friends", value_name = "AUDIENCE")]
    pub to: String,
    /// Captions (SubRip or WebVTT), like film.de.srt; may be given several times
    #[arg(long, value_name = "FILE")]
    pub captions: Vec<PathBuf>,
    /// Chapters: lines like "12:30 The otters"; keep: those that are in the film
    #[arg(long, value_name = "FILE")]
    pub chapters: Option<PathBuf>,
    /// A picture for the film (JPEG, PNG or WebP); auto: one out of the film, with ffmpeg
    #[arg(long, value_name = "FILE")]
    pub poster: Option<PathBuf>,
    /// Small pictures of all of the film, with ffmpeg
    #[arg(long)]
    pub storyboard: bool,
    /// Make an MP4 of what browsers do not play, with ffmpeg: pictures as they are, sound as AAC
    #[arg(long)]
    pub convert: bool,
    /// Say what would be published and what would be removed, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Publish the file byte for byte: nothing removed, nothing moved
    #[arg(long)]
    pub keep_metadata: bool,
    /// Accept a file that is no video
    #[arg(long)]
    pub any_file: bool,
}

/// `kith video`
#[derive(Debug, Subcommand)]
pub enum Video {
    /// Everything you published
    List {
        /// Everything that is kept here: also what you fetched
        #[arg(long)]
        all: bool,
    },
    /// One video
    Show {
        /// Id, or its first 8 digits or more
        id: String,
    },
    /// Withdraw a video and delete it here
    Rm {
        /// Id, or its first 8 digits or more
        id: String,
    },
    /// Withdraw a video from everybody; it stays here
    Unshare {
        /// Id, or its first 8 digits or more
        id: String,
    },
    /// Keep a fetched video for good
    Pin {
        /// Id, or its first 8 digits or more
        id: String,
    },
    /// Let a pinned video give way again when there is no room
    Unpin {
        /// Id, or its first 8 digits or more
        id: String,
    },
    /// Change the words about a video that you published
    Edit(Edit),
    /// Share a video that you published with others
    Share {
        /// Id, or its first 8 digits or more
        id: String,
        /// Who may see it: friends, fof, friend:NAME or circle:NAME
        #[arg(long, value_name = "AUDIENCE")]
        to: String,
    },
    /// Check every byte of a video that is kept here
    Verify {
        /// Id, or its first 8 digits or more
        id: String,
    },
    /// Write a video that is here into a file
    Export {
        /// Id, or its first 8 digits or more
        id: String,
        /// A file, or a folder (default: this one) in which a name is made from the title
        #[arg(short = 'o', long, value_name = "PATH", default_value = ".")]
        output: PathBuf,
    },
    /// How many copies there are, and who keeps them
    Health {
        /// Id, or its first 8 digits or more
        id: String,
        /// Ask friends to keep copies
        #[arg(long)]
        ask: bool,
    },
}

/// `kith video edit`
#[derive(Args, Debug)]
pub struct Edit {
    /// Id, or its first 8 digits or more
    pub id: String,
    /// Another title
    #[arg(long)]
    pub title: Option<String>,
    /// Another description
    #[arg(long)]
    pub text: Option<String>,
    /// Other tags; may be given several times, and empty for none
    #[arg(long)]
    pub tag: Option<Vec<String>>,
}

/// `kith folder`
#[derive(Debug, Subcommand)]
pub enum Folder {
    /// Publish what is in a folder, now and later
    Add {
        /// The folder
        path: PathBuf,
        /// Who may see it: friends, fof (friends and their friends), friend:NAME or circle:NAME
        #[arg(long, default_value = "friends", value_name = "AUDIENCE")]
        to: String,
    },
    /// Watched folders, and what is wrong with files in them
    List,
    /// Watch a folder no longer; what was published stays published
    Rm {
        /// The folder
        path: PathBuf,
    },
}

/// `kith mirror`
#[derive(Debug, Subcommand)]
pub enum Mirror {
    /// Keep copies for a friend up to a size, or a copy of one video
    Add {
        /// friend:NAME, an id or a link
        target: String,
        /// How much is kept for a friend, like 5GB
        #[arg(long, value_name = "SIZE", value_parser = size)]
        quota: Option<u64>,
    },
    /// What is kept for whom
    List,
    /// Keep nothing more for a friend, or give one copy up
    Rm {
        /// friend:NAME or an id
        target: String,
    },
}

fn size(text: &str) -> Result<u64, String> {
    crate::config::size::parse(text)
        .ok_or_else(|| "a size is a number with a unit, like 500MB or 5GB".to_owned())
}

/// How far a search looks.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Scope {
    /// What you published
    Mine,
    /// And what friends published
    Friends,
    /// And what their friends published
    Fof,
}

/// `kith search`
#[derive(Args, Debug)]
pub struct Search {
    /// Words, or their beginnings
    #[arg(required = true)]
    pub words: Vec<String>,
    /// How far to look
    #[arg(long, value_enum, default_value_t = Scope::Fof)]
    pub scope: Scope,
    /// At least so many seconds long
    #[arg(long, value_name = "SECONDS")]
    pub min_dur: Option<u32>,
    /// At most so many seconds long
    #[arg(long, value_name = "SECONDS")]
    pub max_dur: Option<u32>,
    /// At most so many results
    #[arg(long, default_value_t = 50)]
    pub limit: usize,
}

/// Which way a video may come.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum RouteChoice {
    /// The way that the privacy mode takes (kith config set privacy fast|normal|strict)
    Auto,
    /// From a friend who has it
    Direct,
    /// Through a common friend, who knows
    Fof,
    /// Through relays that are not told who wants it
    Onion,
}

impl RouteChoice {
    /// As the API takes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Direct => "direct",
            Self::Fof => "fof",
            Self::Onion => "onion",
        }
    }
}

/// `kith get`
#[derive(Args, Debug)]
pub struct Get {
    /// Id, its first 8 digits or more, or a link (kith:r1:..., a file with it, or - for stdin)
    pub id: String,
    /// Write it to this new file (- for stdout); without, it stays in the store
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Which way it may come
    #[arg(long, value_enum, default_value_t = RouteChoice::Auto)]
    pub route: RouteChoice,
}

/// A player.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Player {
    /// mpv, in a window
    Mpv,
    /// VLC
    Vlc,
    /// Your browser: not all formats play there
    Browser,
    /// Print the stream address and leave the rest to you
    Print,
}

/// Seconds from `12:30`, `1:02:03` or `90`.
fn play_time(text: &str) -> Result<u64, String> {
    let wrong = || "a time is minutes and seconds like 12:30, 1:02:03, or seconds like 90".to_owned();
    let parts: Vec<&str> = text.split(':').collect();
    let number = |part: &&str| match part.bytes().all(|b| b.is_ascii_digit()) {
        true => part.parse::<u64>().ok(),
        false => None,
    };
    let numbers: Vec<u64> = parts.iter().map(number).collect::<Option<_>>().ok_or_else(wrong)?;
    let small = numbers.iter().skip(1).all(|n| *n < 60);
    let seconds = numbers.iter().try_fold(0_u64, |all, n| all.checked_mul(60)?.checked_add(*n));
    seconds.filter(|_| small && numbers.len() <= 3).ok_or_else(wrong)
}

/// `kith watch`
#[derive(Args, Debug)]
pub struct Watch {
    /// Id, its first 8 digits or more, or a link (kith:r1:..., a file with it, or - for stdin)
    pub id: String,
    /// What plays it; without this mpv, VLC or the browser, whichever is there first
    #[arg(long, value_enum)]
    pub player: Option<Player>,
    /// Where to begin: 12:30, 1:02:03 or seconds
    #[arg(long, value_name = "TIME", value_parser = play_time)]
    pub from: Option<u64>,
    /// Which way it may come
    #[arg(long, value_enum, default_value_t = RouteChoice::Auto)]
    pub route: RouteChoice,
}

/// `kith store`
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// How much is stored
    Stats,
    /// Show or set how much all videos may take
    Quota {
        /// A size like 500MB, 20GiB or 1.5TB
        size: Option<String>,
    },
    /// Free what gives way beyond the quota's shares, and leftover files
    Gc {
        /// Only list what would go
        #[arg(long)]
        dry_run: bool,
    },
    /// Change the passphrase, or lock with a key file instead
    ///
    /// The key below the lock stays the same: whoever has an old copy of store.key and knows its
    /// passphrase opens copies of this store as before. The node must be stopped.
    Rekey(Rekey),
    /// Read and check everything stored, mend it, and fetch damaged blocks again
    Verify(Verify),
    /// Make the index anew from the journal, while the node runs
    Reindex,
}

/// `kith store rekey`
#[derive(Args, Debug)]
pub struct Rekey {
    /// Read the passphrase that the store has now from this file (- for stdin; also: KITH_PASSPHRASE)
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// Read the new passphrase from this file (- for stdin; also: KITH_NEW_PASSPHRASE)
    #[arg(long, value_name = "FILE")]
    pub new_passphrase_file: Option<PathBuf>,
    /// Lock with the key file alone: its permissions are then the whole protection
    #[arg(long, conflicts_with = "new_passphrase_file")]
    pub no_passphrase: bool,
}

/// `kith store verify`
#[derive(Args, Debug)]
pub struct Verify {
    /// Check this video alone
    pub id: Option<String>,
    /// Tell what is wrong and change nothing
    #[arg(long)]
    pub no_heal: bool,
    /// Go on without records that the journal lost before the node started
    #[arg(long, conflicts_with_all = ["no_heal", "id"])]
    pub accept_loss: bool,
}
