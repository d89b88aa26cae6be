//! `kith store rekey`: another lock for the store of a stopped node.

use super::*;
use crate::cli;
use crate::passphrase::{self, NEW_VARIABLE, Passphrase, VARIABLE};
use kith_crypto::passphrase::Cost;
use kith_store::{Store, StoreError, Unlock};

/// What locks the store before and after.
struct Locks {
    old: Option<Passphrase>,
    new: Option<Passphrase>,
}

fn unlock(passphrase: Option<&Passphrase>) -> Unlock<'_> {
    passphrase.map_or(Unlock::KeyFile, |text| Unlock::Passphrase(text))
}

/// `kith store rekey`
pub async fn rekey(paths: &Paths, args: &cli::Rekey, json: bool) -> Result<(), Failure> {
    let dir = paths.store_dir.clone();
    let needed = Store::needs_passphrase(&dir)?;
    let locks = Locks { old: old(args, needed)?, new: new(args)? };
    let has_new = locks.new.is_some();
    let change =
        move || Store::rekey(&dir, unlock(locks.old.as_ref()), unlock(locks.new.as_ref()), Cost::RECOMMENDED);
    let changed = tokio::task::spawn_blocking(change).await;
    match changed.map_err(|_| Failure::new(Exit::Failure, "changing the lock failed"))? {
        Err(StoreError::Locked { pid: Some(pid), .. }) => {
            let what =
                format!("the node is running as process {pid}: stop it with `kith stop`, then try again");
            return Err(Failure::new(Exit::Failure, what));
        }
        other => other?,
    }
    for file in [&args.passphrase_file, &args.new_passphrase_file] {
        passphrase::warn_if_loose(file.as_deref());
    }
    if json {
        return out(&json!({"locked_by": if has_new { "passphrase" } else { "key file" }}).to_string());
    }
    let how = if has_new { "the new passphrase" } else { "its key file alone: keep it to yourself" };
    out(&format!(
        "The store opens with {how}.\n\
         The key below that lock is the same: old copies of store.key still open copies of this store."
    ))
}

fn old(args: &cli::Rekey, needed: bool) -> Result<Option<Passphrase>, Failure> {
    let stdin = |file: &Option<PathBuf>| file.as_deref() == Some(Path::new("-"));
    if stdin(&args.passphrase_file) && stdin(&args.new_passphrase_file) {
        let what = "only one passphrase can come from standard input: give the other in a file or variable";
        return Err(Failure::new(Exit::Usage, what));
    }
    match passphrase::given(args.passphrase_file.as_deref(), VARIABLE)? {
        Some(given) => Ok(Some(given)),
        None if !needed => Ok(None),
        None => passphrase::asked()?.map(Some).ok_or_else(|| {
            let what = format!(
                "this store is locked with a passphrase: give it with --passphrase-file FILE (- for stdin) or in {VARIABLE}"
            );
            Failure::new(Exit::Usage, what)
        }),
    }
}

fn new(args: &cli::Rekey) -> Result<Option<Passphrase>, Failure> {
    if args.no_passphrase {
        return Ok(None);
    }
    if let Some(given) = passphrase::given(args.new_passphrase_file.as_deref(), NEW_VARIABLE)? {
        return Ok(Some(given));
    }
    passphrase::asked_twice(false)?.ok_or_else(|| {
        let what = format!(
            "no new passphrase: give it with --new-passphrase-file FILE (- for stdin) or in {NEW_VARIABLE}, or say --no-passphrase"
        );
        Failure::new(Exit::Usage, what)
    })
}
