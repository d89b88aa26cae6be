//! Backups, and bundles for a friend's stick.

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `kith backup`
#[derive(Args, Debug)]
pub struct Backup {
    /// A new file
    pub file: PathBuf,
    /// Also the videos that are stored here
    #[arg(long)]
    pub content: bool,
    /// Read the backup's passphrase from this file (- for stdin; also: KITH_BACKUP_PASSPHRASE)
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
}

/// `kith restore`
#[derive(Args, Debug)]
pub struct Restore {
    /// The backup
    pub file: PathBuf,
    /// Read the backup's passphrase from this file (- for stdin; also: KITH_BACKUP_PASSPHRASE)
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// Lock the new store with the passphrase in this file (- for stdin; also: KITH_PASSPHRASE)
    #[arg(long, value_name = "FILE")]
    pub store_passphrase_file: Option<PathBuf>,
}

/// `kith bundle ...`
#[derive(Debug, Subcommand)]
pub enum Bundle {
    /// Write videos into a file that only this friend can use
    Export {
        /// A new file
        file: PathBuf,
        /// The friend
        #[arg(long, value_name = "FRIEND")]
        to: String,
        /// Ids, or their first 8 digits or more
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Take in what a friend has written for you
    Import {
        /// The friend's file
        file: PathBuf,
    },
}
