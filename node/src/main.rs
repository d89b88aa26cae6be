//! `kith`: share video with the people you trust and, through them, with the people they trust.
//!
//! This crate is everything that touches the world: sockets, clock, files of the user, HTTP, the
//! command line. Decisions of the protocol are in `kith-onion`, keys in `kith-crypto`, what is at
//! rest in `kith-store`.

pub mod api;
pub mod backup;
pub mod bundle;
pub mod check;
pub mod cli;
pub mod client;
pub mod commands;
pub mod config;
pub mod content;
pub mod demo;
pub mod doctor;
pub mod driver;
pub mod duration;
pub mod exit;
#[cfg(target_os = "linux")]
pub mod ffmpeg;
pub mod films;
pub mod frames;
pub mod heal;
pub mod interruptible;
pub mod journal;
pub mod limits;
pub mod logs;
pub mod media_type;
pub mod new_file;
pub mod passphrase;
pub mod paths;
pub mod platform;
pub mod privacy;
pub mod publish;
pub mod ranges;
pub mod rates;
pub mod records;
pub mod scrub;
pub mod search;
pub mod service;
pub mod storage;
pub mod stream;
pub mod tasks;
pub mod terminal;
pub mod transport;
pub mod up;
pub mod video;
pub mod web;

use crate::cli::{Cli, Command};
use crate::client::Client;
use crate::commands::Shell;
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::passphrase::Passphrase;
use crate::paths::Paths;
use crate::terminal::Style;
use clap::Parser;
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    if std::env::args_os().nth(1).is_some_and(|first| first == platform::confined::ARGUMENT) {
        // This process becomes another program; nothing of the node is in it.
        let why = platform::confined::become_program(std::env::args_os().skip(2));
        eprintln!("kith: the program could not be confined: {why}");
        return ExitCode::from(126);
    }
    std::panic::set_hook(Box::new(tasks::panicked));
    // Before anything secret is read, whatever the command.
    if let Err(e) = platform::keep_memory_private() {
        return fail(&Failure::from(e).context("cannot keep memory out of core files"));
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return usage(&e),
    };
    keep_freed_memory();
    // Two threads carry a node: one busy with links, one with the disk's answers and players.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(e) => return fail(&Failure::from(e).context("cannot start")),
    };
    let result = runtime.block_on(run(cli));
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure),
    }
}

/// glibc gives the top of its heap back after every block of a video and takes it again for the next
/// one, which costs more than copying it. Freeing one large allocation makes it keep some (the
/// dynamic threshold of mallopt(3), `M_MMAP_THRESHOLD`); elsewhere this does nothing.
fn keep_freed_memory() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(4 * 1024 * 1024)));
}

fn usage(e: &clap::Error) -> ExitCode {
    if !e.use_stderr() {
        // Help and version; a closed pipe is no error of ours.
        let _ = commands::out(e.render().to_string().trim_end());
        return ExitCode::SUCCESS;
    }
    if e.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        eprintln!("{}", e.render());
        return Exit::Usage.into();
    }
    let text = e.render().to_string();
    // What is wrong, and which arguments, stand before the first empty line.
    let lines: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let what = lines.join(" ");
    fail(&Failure::new(Exit::Usage, format!("{}: see `kith --help`", what.trim_start_matches("error: "))))
}

fn fail(failure: &Failure) -> ExitCode {
    commands::note(&format!("kith: {failure}"));
    failure.exit.into()
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let uid = rustix::process::getuid().as_raw();
    let paths = Paths::resolve(cli.home.as_deref(), |name| std::env::var_os(name), uid)?;
    if matches!(
        &cli.command,
        Command::Restore(_) | Command::Backup(_) | Command::Store { command: cli::StoreCommand::Rekey(_) }
    ) {
        // They make files of the node, like `up` and `init`.
        platform::keep_files_private();
    }
    let style = if cli.json { Style::PLAIN } else { Style::of_stdout() };
    match cli.command {
        Command::Up(args) => up(paths, args, cli.json).await,
        Command::Init(args) => init(&paths, &args, cli.json).await,
        Command::Restore(args) => restore(&paths, &args, cli.json).await,
        Command::Demo(args) => demo::run(&args).await,
        Command::Paths => commands::paths(&up::paths_json(&paths), cli.json),
        Command::Completions { shell } => commands::completions(shell),
        Command::Man { dir } => commands::man(&dir, cli.json),
        Command::Version => commands::version(cli.json),
        Command::Store { command: cli::StoreCommand::Rekey(args) } => {
            commands::rekey(&paths, &args, cli.json).await
        }
        other => {
            let client = Client::new(paths.socket.clone());
            let shell = Shell { paths, client, json: cli.json, style };
            let mut interrupt = signal(SignalKind::interrupt())?;
            tokio::select! {
                done = ask(&shell, other) => done,
                _ = interrupt.recv() => Err(Failure::new(Exit::Interrupted, "interrupted; what came is kept")),
            }
        }
    }
}

/// What a restore made so far goes with it when it is interrupted.
async fn restore(paths: &Paths, args: &cli::Restore, json: bool) -> Result<(), Failure> {
    // Questions come first: at them Ctrl-C is a key.
    let asked = commands::ask_restore(paths, args)?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // The future is gone, and with it the work, before an answer is given.
    tokio::select! {
        done = commands::restore(paths, args, asked, json) => return done,
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    let what = match kith_store::Store::exists(&paths.store_dir) {
        true => "interrupted, but the node was made already: start it with `kith up`",
        false => "interrupted; nothing was made",
    };
    Err(Failure::new(Exit::Interrupted, what))
}

async fn ask(shell: &Shell, command: Command) -> Result<(), Failure> {
    match command {
        Command::Stop => shell.stop().await,
        Command::Status => shell.status().await,
        Command::Id(args) => shell.id(&args).await,
        Command::Friend { command } => friend(shell, command).await,
        Command::Circle { command } => shell.circle(&command).await,
        Command::Publish(args) => shell.publish(&args).await,
        Command::Video { command } => match command {
            cli::Video::List { all: true } => shell.kept().await,
            cli::Video::List { all: false } => shell.videos().await,
            cli::Video::Show { id } => shell.video(&id).await,
            cli::Video::Rm { id } => shell.remove_video(&id).await,
            cli::Video::Unshare { id } => shell.unshare(&id).await,
            cli::Video::Pin { id } => shell.pin(&id, true).await,
            cli::Video::Unpin { id } => shell.pin(&id, false).await,
            cli::Video::Edit(args) => shell.edit_video(&args).await,
            cli::Video::Share { id, to } => shell.share_video(&id, &to).await,
            cli::Video::Verify { id } => shell.verify_video(id).await,
            cli::Video::Export { id, output } => shell.export_video(&id, &output).await,
            cli::Video::Health { id, ask } => shell.health(&id, ask).await,
        },
        Command::Search(args) => shell.search(&args).await,
        Command::Get(args) => shell.fetch(&args).await,
        Command::Watch(args) => shell.watch(&args).await,
        Command::Folder { command } => match command {
            cli::Folder::Add { path, to } => shell.add_folder(&path, &to).await,
            cli::Folder::List => shell.folders().await,
            cli::Folder::Rm { path } => shell.remove_folder(&path).await,
        },
        Command::Mirror { command } => match command {
            cli::Mirror::Add { target, quota } => shell.add_mirror(&target, quota).await,
            cli::Mirror::List => shell.mirrors().await,
            cli::Mirror::Rm { target } => shell.remove_mirror(&target).await,
        },
        Command::Store { command } => match command {
            cli::StoreCommand::Stats => shell.store_stats().await,
            cli::StoreCommand::Quota { size } => shell.quota(size.as_deref()).await,
            cli::StoreCommand::Gc { dry_run } => shell.gc(dry_run).await,
            // Handled before a node is asked.
            cli::StoreCommand::Rekey(_) => Ok(()),
            cli::StoreCommand::Verify(args) => shell.verify_store(&args).await,
            cli::StoreCommand::Reindex => shell.reindex().await,
        },
        Command::Backup(args) => shell.backup(&args).await,
        Command::Bundle { command } => shell.bundle(&command).await,
        Command::Net { command } => shell.net(&command).await,
        Command::Config { command } => shell.config(&command).await,
        Command::Install(args) => shell.install(&args).await,
        Command::Uninstall => shell.uninstall().await,
        Command::Hide(args) => shell.hide(&args).await,
        Command::Open(args) => shell.open(&args).await,
        Command::Token { command } => shell.token(&command).await,
        Command::Events => shell.events().await,
        Command::Log { follow } => shell.log(follow).await,
        Command::Doctor { name } => shell.doctor(name.as_deref()).await,
        // Handled before a node is asked.
        Command::Up(_) | Command::Init(_) | Command::Restore(_) => Ok(()),
        Command::Demo(_) | Command::Paths => Ok(()),
        Command::Completions { .. } | Command::Man { .. } | Command::Version => Ok(()),
    }
}

async fn friend(shell: &Shell, command: cli::Friend) -> Result<(), Failure> {
    match command {
        cli::Friend::Invite { expires, tor } => shell.invite(expires.as_deref(), tor).await,
        cli::Friend::Add { invite, tor } => shell.add(&invite, tor).await,
        cli::Friend::List => shell.friends().await,
        cli::Friend::Show { name } => shell.friend(&name).await,
        cli::Friend::Remove { name } => shell.remove_friend(&name).await,
        cli::Friend::Rename { name, new } => shell.rename(&name, &new).await,
        cli::Friend::Trust { name, trust } => shell.trust(&name, trust).await,
        cli::Friend::Limit { name, off: Some(_), .. } => shell.limit(&name, Some("off"), Some("off")).await,
        cli::Friend::Limit { name, off: None, up, down } => {
            shell.limit(&name, up.as_deref(), down.as_deref()).await
        }
        cli::Friend::Tor { name, way } => shell.friend_tor(&name, way).await,
        cli::Friend::Block { name } => shell.block(&name, true).await,
        cli::Friend::Unblock { name } => shell.block(&name, false).await,
        cli::Friend::Ping { name, count } => shell.ping(&name, count).await,
        cli::Friend::Verify { name, fingerprint, restored, undo } => {
            shell.verify(&name, fingerprint.as_deref(), restored, undo).await
        }
    }
}

/// The keys that flags of `up` set.
fn sets(args: &cli::Up) -> Vec<String> {
    let mut sets = args.set.clone();
    if !args.listen.is_empty() {
        sets.push(format!("listen={}", args.listen.join(",")));
    }
    if !args.advertise.is_empty() {
        sets.push(format!("advertise={}", args.advertise.join(",")));
    }
    if let Some(web) = &args.web {
        sets.push(format!("web={web}"));
    }
    if let Some(tor) = args.tor {
        sets.push(format!("tor.mode={}", tor.as_str()));
    }
    sets
}

async fn up(paths: Paths, args: cli::Up, json: bool) -> Result<(), Failure> {
    platform::keep_files_private();
    let sets = sets(&args);
    let load = || Config::load(&paths.config_file, &sets, |name| std::env::var(name).ok());
    let mut config = load()?;
    let is_new = !kith_store::Store::exists(&paths.store_dir);
    let passphrase = store_passphrase(&paths, args.passphrase_file.as_deref())?;
    if is_new && !json {
        paths.prepare(rustix::process::getuid().as_raw())?;
        ask_cover(&paths, &sets)?;
        config = load()?;
    }
    logs::start(config.log_level);
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let moved = paths.socket_moved;
    let running = up::start(up::Request { paths, config, sets, name: args.name, passphrase }).await?;
    passphrase::warn_if_loose(args.passphrase_file.as_deref());
    if json {
        commands::out(&json!(running.ready).to_string())?;
    } else {
        welcome(&json!(running.ready), moved)?;
    }
    let stop = running.stop.clone();
    let finished = running.finish();
    tokio::pin!(finished);
    tokio::select! {
        () = &mut finished => return Ok(()),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    let _ = stop.send(tokio::sync::oneshot::channel().0).await;
    finished.await;
    Ok(())
}

/// A person at a terminal is asked once, in one sentence, whether this node keeps videos as a cover.
fn ask_cover(paths: &Paths, sets: &[String]) -> Result<(), Failure> {
    let key = config::edit::key("mirror.cover")?;
    let loaded = config::Loaded::load(&paths.config_file, sets, |name| std::env::var(name).ok())?;
    let is_said = loaded.value(key).is_some_and(|(_, origin)| !matches!(origin, config::Origin::Default));
    if is_said || !std::io::stdin().is_terminal() {
        return Ok(());
    }
    eprint!(
        "Keep some videos drawn at random from friends' friends and give them to others, so that nobody can tell \
         which ones you watch (in the mode normal)? [Y/n] "
    );
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    read.map_err(|e| Failure::from(e).context("cannot read the answer"))?;
    if answer.trim().to_lowercase().starts_with('n') {
        config::edit::set_in(&paths.config_file, &[(key, config::Given::Text("off".into()))])?;
    }
    Ok(())
}

/// The passphrase of the store that is to be opened or made. A person at a terminal is asked: for the
/// passphrase of a store that has one, and whether a new store gets one.
fn store_passphrase(paths: &Paths, file: Option<&Path>) -> Result<Option<Passphrase>, Failure> {
    if let Some(given) = passphrase::given(file, passphrase::VARIABLE)? {
        return Ok(Some(given));
    }
    if !kith_store::Store::exists(&paths.store_dir) {
        return Ok(passphrase::asked_twice(true)?.flatten());
    }
    if !kith_store::Store::needs_passphrase(&paths.store_dir)? {
        return Ok(None);
    }
    passphrase::asked()?.map(Some).ok_or_else(|| {
        let what = "this store is locked with a passphrase: give it with --passphrase-file FILE (- for stdin) \
                    or in KITH_PASSPHRASE, or start from a terminal";
        Failure::new(Exit::Usage, what)
    })
}

fn welcome(ready: &Value, moved: bool) -> Result<(), Failure> {
    let text = |name: &str| ready.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
    let listen: Vec<&str> = ready
        .get("listen")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let onion = text("onion");
    let places: Vec<&str> = listen.into_iter().chain((!onion.is_empty()).then_some(onion.as_str())).collect();
    let places = if places.is_empty() { "nothing: it only calls".into() } else { places.join(", ") };
    commands::out(&format!(
        "kith is running. Friends reach it on {places}; the page is at {}.\nFingerprint {}",
        text("web"),
        text("node")
    ))?;
    if !onion.is_empty() {
        commands::out("Tor is starting; kith net tor says how it stands.")?;
    }
    if moved {
        commands::out(&format!(
            "The socket lies at {}, because its usual path is too long.",
            text("socket")
        ))?;
    }
    commands::out("Next, in another terminal: kith open (the page), or kith friend invite. Stop with Ctrl-C.")
}

async fn init(paths: &Paths, args: &cli::Init, json: bool) -> Result<(), Failure> {
    platform::keep_files_private();
    let uid = rustix::process::getuid().as_raw();
    paths.prepare(uid)?;
    let config = Config::load(&paths.config_file, &[], |name| std::env::var(name).ok())?;
    let name = args.name.clone().unwrap_or(config.name);
    let passphrase = match kith_store::Store::exists(&paths.store_dir) {
        // It is going to be refused, so nothing is asked.
        true => None,
        false => {
            let passphrase = store_passphrase(paths, args.passphrase_file.as_deref())?;
            if !json {
                ask_cover(paths, &[])?;
            }
            passphrase
        }
    };
    Config::write_default(&paths.config_file)?;
    let (copy, wished) = (paths.clone(), name.clone());
    let made = tokio::task::spawn_blocking(move || {
        up::create(&copy, &wished, passphrase.as_ref().map(|p| p.as_slice()))
    });
    let home = made.await.map_err(|_| Failure::new(Exit::Failure, "making the store failed"))??;
    passphrase::warn_if_loose(args.passphrase_file.as_deref());
    let fingerprint = home.state.me.as_ref().map(|m| m.identity().public().fingerprint()).unwrap_or_default();
    if json {
        return commands::out(&json!({"name": name, "fingerprint": fingerprint}).to_string());
    }
    commands::out(&format!(
        "Made the node of {}.\nFingerprint {fingerprint}\nStart it with `kith up`.",
        terminal::safe(&name)
    ))
}
