//! Backing up and restoring.

use super::*;
use crate::backup::{self, Request, Snapshot};
use crate::cli;
use crate::client;
use crate::frames::{Frame, Frames};
use crate::interruptible::{self, Interrupted};
use crate::new_file::NewFile;
use crate::passphrase::{self, Passphrase};
use crate::up;
use kith_store::Store;
use kith_store::archive::Sealer;

/// The variable with a backup's passphrase.
const VARIABLE: &str = "KITH_BACKUP_PASSPHRASE";
/// What nobody can be asked for.
const HOW: &str = "give --passphrase-file FILE, or set KITH_BACKUP_PASSPHRASE";

fn missing() -> Failure {
    Failure::new(Exit::Usage, format!("a backup has a passphrase of its own: {HOW}"))
}

fn new_passphrase(args: &cli::Backup) -> Result<Passphrase, Failure> {
    match passphrase::given(args.passphrase_file.as_deref(), VARIABLE)? {
        Some(given) => Ok(given),
        None => passphrase::asked_twice(false)?.flatten().ok_or_else(missing),
    }
}

fn known_passphrase(args: &cli::Restore) -> Result<Passphrase, Failure> {
    match passphrase::given(args.passphrase_file.as_deref(), VARIABLE)? {
        Some(given) => Ok(given),
        None => passphrase::asked()?.ok_or_else(missing),
    }
}

impl Shell {
    /// `kith backup`
    pub async fn backup(&self, args: &cli::Backup) -> Result<(), Failure> {
        let file = NewFile::begin(&args.file)?;
        let path = file.path().display().to_string();
        let is_up = self.client.is_up().await;
        if !is_up && !Store::exists(&self.paths.store_dir) {
            return Err(Failure::new(Exit::NotFound, "there is no node in this home to back up: see --home"));
        }
        let passphrase = new_passphrase(args)?;
        let header = backup::header()?;
        let key = header.key_of_passphrase(&passphrase).ok_or_else(missing)?;
        let sealer = Sealer::begin(file, &header, &key).context(format!("cannot write {path}"))?;
        let (file, mut value) =
            if is_up { self.running(args, sealer).await? } else { self.stopped(args, sealer).await? };
        let bytes = file.finish()?;
        passphrase::warn_if_loose(args.passphrase_file.as_deref());
        if let Some(fields) = value.as_object_mut() {
            fields.insert("path".into(), json!(path));
            fields.insert("bytes".into(), json!(bytes));
        }
        let shown = pick(&value, &["path", "bytes", "friends", "publications", "objects", "created"]);
        self.print(&shown, || {
            let holds = match args.content {
                true => format!("and the {} videos that are stored here", number(&value, "objects")),
                false => "without the videos themselves (--content adds them)".into(),
            };
            format!(
                "Wrote {path}, {}: this node's identity, {} friends, circles, settings, {} publications, {holds}.\n\
                 Not in it: what friends share (they tell it anew), open invites.\n\
                 Keep its passphrase elsewhere: without it the file is of no use to anybody.",
                human_bytes(bytes),
                number(&value, "friends"),
                number(&value, "publications"),
            )
        })
    }

    /// From the running node, which says what the backup holds at one moment.
    async fn running(
        &self,
        args: &cli::Backup,
        sealer: Sealer<NewFile>,
    ) -> Result<(NewFile, Value), Failure> {
        let request = format!("/api/backup?content={}", args.content);
        let body = self.client.start(Method::GET, &request, None).await?.into_body();
        let (sealer, value) = receive(body, sealer, "backing up").await?;
        Ok((sealer.finish().context("cannot write the backup")?, value))
    }

    /// From the store of a node that does not run.
    async fn stopped(
        &self,
        args: &cli::Backup,
        sealer: Sealer<NewFile>,
    ) -> Result<(NewFile, Value), Failure> {
        let locked = Store::needs_passphrase(&self.paths.store_dir)?;
        let store_passphrase = if locked {
            let given = passphrase::given(None, passphrase::VARIABLE)?;
            let advice = "the store is locked: start the node first, or set KITH_PASSPHRASE";
            Some(given.ok_or_else(|| Failure::new(Exit::NotRunning, advice))?)
        } else {
            None
        };
        let (paths, content, path) = (self.paths.clone(), args.content, args.file.clone());
        interruptible::run(move |interrupted| {
            let home = up::open(&paths, store_passphrase.as_ref().map(|p| p.as_slice()))?;
            let config = std::fs::read(&paths.config_file).ok();
            let snapshot = Snapshot::of(&home.state, &home.store, up::unix_now());
            let blocks = if content { snapshot.block_count(&home.store) } else { 0 };
            let progress = bar(Some(blocks * BLOCK_LEN), "backing up");
            let mut moved = || progress.inc(BLOCK_LEN);
            let to = UntilInterrupted { to: sealer, interrupted };
            let written = snapshot.write(&home.store, config.as_deref(), content, to, &mut moved);
            progress.finish_and_clear();
            let (UntilInterrupted { to, .. }, objects) = written.map_err(|e| backup::failure(e, &path))?;
            let file = to.finish().context("cannot write the backup")?;
            Ok((file, crate::api::backup_json(&snapshot, objects)))
        })
        .await
    }
}

/// Takes what is written until the command is interrupted.
struct UntilInterrupted<'a, W> {
    to: W,
    interrupted: &'a Interrupted,
}

impl<W: Write> Write for UntilInterrupted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.interrupted.check()?;
        self.to.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

const BLOCK_LEN: u64 = kith_crypto::content::BLOCK_LEN as u64;

/// Writes the data of an answer in frames to `to` until it ends; returns what it says at its end.
pub(super) async fn receive<W: Write>(
    mut body: hyper::body::Incoming,
    mut to: W,
    what: &'static str,
) -> Result<(W, Value), Failure> {
    let progress = bar(Some(0), what);
    let mut frames = Frames::default();
    while let Some(chunk) = client::next(&mut body).await? {
        frames.push(&chunk);
        while let Some(frame) = frames.next_frame()? {
            match frame {
                Frame::Data(bytes) => {
                    progress.inc(bytes.len() as u64);
                    to.write_all(&bytes).context("cannot write the file")?;
                }
                Frame::Progress(value) => progress.set_length(number(&value, "total_bytes")),
                Frame::Done(value) => {
                    progress.finish_and_clear();
                    return Ok((to, value));
                }
                Frame::Failed(error) => {
                    progress.finish_and_clear();
                    return Err(client::failure_of(&error));
                }
            }
        }
    }
    progress.finish_and_clear();
    Err(Failure::new(Exit::NotRunning, "the node ended: nothing was written"))
}

/// What is left to do where there are friends.
const NEXT: &str = "\nNo friend's node answers it before the friend agrees, because a thief with your backup would \
                    look the same. Ask each of them, by another way than kith, to run:\n  \
                    kith friend verify YOUR-NAME-THERE --restored\n\
                    Friends you made since the backup need a new invite; those you removed since are back: \
                    remove them again. `kith doctor` says who is missing.";

/// What a restore asks for, or is given.
pub struct Asked {
    passphrase: Passphrase,
    store_passphrase: Option<Passphrase>,
    len: u64,
}

fn passphrase_files(args: &cli::Restore) -> [&Option<PathBuf>; 2] {
    [&args.passphrase_file, &args.store_passphrase_file]
}

/// The part of `kith restore` that looks before anything is made, and may ask at a terminal.
pub fn ask_restore(paths: &Paths, args: &cli::Restore) -> Result<Asked, Failure> {
    backup::check_free(paths)?;
    let (_, len) = crate::new_file::open_plain(&args.file)?;
    if passphrase_files(args).iter().all(|file| file.as_deref() == Some(Path::new("-"))) {
        return Err(Failure::new(Exit::Usage, "only one of the passphrases can come from standard input"));
    }
    let passphrase = known_passphrase(args)?;
    let store_passphrase = passphrase::given(args.store_passphrase_file.as_deref(), passphrase::VARIABLE)?;
    Ok(Asked { passphrase, store_passphrase, len })
}

/// `kith restore`: needs no node, and makes one. Dropped before its end, it makes none.
pub async fn restore(paths: &Paths, args: &cli::Restore, asked: Asked, json: bool) -> Result<(), Failure> {
    let (file, home) = (args.file.clone(), paths.clone());
    let made = interruptible::run(move |interrupted| {
        let request = Request {
            file: &file,
            paths: &home,
            passphrase: &asked.passphrase,
            store_passphrase: asked.store_passphrase.as_ref().map(|p| p.as_slice()),
            interrupted,
        };
        let progress = bar(Some(asked.len), "restoring");
        let made = backup::restore(&request, &mut |bytes| progress.set_position(bytes));
        progress.finish_and_clear();
        made
    })
    .await?;
    let both = passphrase_files(args);
    both.iter().for_each(|file| passphrase::warn_if_loose(file.as_deref()));
    let value = json!({
        "name": made.name,
        "fingerprint": made.fingerprint,
        "friends": made.friends,
        "publications": made.publications,
        "objects": made.objects,
        "created": made.created_s,
        "config": if made.config_kept { "kept" } else { "restored" },
    });
    if json {
        return out(&value.to_string());
    }
    let missing = match (made.publications, made.objects) {
        (0, _) | (_, 1..) => "",
        _ => {
            "\nThe videos themselves were not in the backup: `kith get ID` brings one back from a friend who has it."
        }
    };
    let config = if made.config_kept { "\nconfig.toml was there already and stays as it is." } else { "" };
    let next = if made.friends.is_empty() { "" } else { NEXT };
    out(&format!(
        "Made the node of {} as it was {}.\nFingerprint {}\n{} friends, {} publications, {} videos.{missing}{config}\n\
         Start it with `kith up`; the old node must not run any more.{next}",
        safe(&made.name),
        moment(made.created_s),
        made.fingerprint,
        made.friends.len(),
        made.publications,
        made.objects,
    ))
}
