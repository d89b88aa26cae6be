//! One process per store: an operating-system lock on the file `lock`.
//!
//! The lock ends with the process however it ends, so a file left by a crash is no obstacle. The
//! process id inside is for the message, and tells whether waiting makes sense: a process that was
//! just killed holds the lock until the system has taken its memory back.

use crate::StoreError;
use crate::backend;
use crate::disk::At;
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

/// The held lock. Dropping it frees the store.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Lock {
    pub(crate) fn take(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("lock");
        let mut file = backend::open_or_create(&path).at(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => wait_for(&mut file, &path, is_ending)?,
            Err(TryLockError::Error(source)) => return Err(StoreError::io(&path, source)),
        }
        // The number is for the message only: a full disk must not keep the store shut.
        let _ = file.set_len(0).and_then(|()| file.rewind());
        let _ = writeln!(file, "{}", std::process::id());
        backend::settle(&file);
        Ok(Self(file))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing alone is not enough: a child process that is being started right now holds a copy
        // of the open file until it executes its program, and the lock would live as long.
        let _ = self.0.unlock();
    }
}

/// How long the lock of a process that is ending is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Gets the lock from a process of which `ends` says that it will not hold it for long.
fn wait_for(file: &mut File, path: &Path, ends: impl Fn(Option<u32>) -> bool) -> Result<(), StoreError> {
    if ends(holder(file)) && locked_within(file, path, PATIENCE)? {
        return Ok(());
    }
    Err(StoreError::Locked { pid: holder(file), path: path.to_owned() })
}

/// The process that the lock file names.
fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    Read::by_ref(file).take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Waits for the lock. The system offers no limit of time for that, so a thread waits; one that
/// waits in vain gives the lock back as soon as it gets it, and ends with the process at the latest.
fn locked_within(file: &File, path: &Path, time: Duration) -> Result<bool, StoreError> {
    let waiting = file.try_clone().at(path)?;
    let (sender, receiver) = sync_channel(0);
    std::thread::Builder::new()
        .name("kith-lock".into())
        .spawn(move || {
            // Without room in the channel it is only taken by somebody who still waits.
            if let Err(unheard) = sender.send(waiting.lock())
                && unheard.0.is_ok()
            {
                let _ = waiting.unlock();
            }
        })
        .at(path)?;
    match receiver.recv_timeout(time) {
        Ok(result) => result.map(|()| true).at(path),
        Err(_) => Ok(false),
    }
}

/// Waits until no process has the store in `dir` open; `false` when `time` was not enough.
pub(crate) fn wait_until_free(dir: &Path, time: Duration) -> Result<bool, StoreError> {
    let path = dir.join("lock");
    let file = match File::open(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(true),
        other => other.at(&path)?,
    };
    let free = locked_within(&file, &path, time)?;
    if free {
        file.unlock().at(&path)?;
    }
    Ok(free)
}

/// Whether the process is gone or on its way out. An unknown one may be starting right now.
fn is_ending(pid: Option<u32>) -> bool {
    let Some(pid) = pid.and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed())) else {
        return true;
    };
    match rustix::process::test_kill_process(pid) {
        Err(e) => e == rustix::io::Errno::SRCH,
        Ok(()) => std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()))
            .is_ok_and(|status| status_says_ending(&status)),
    }
}

/// Whether `/proc/PID/status` shows a process that has ended but for its entry, or that a SIGKILL is
/// on its way to. A system without such files says nothing.
fn status_says_ending(status: &str) -> bool {
    let field = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.map(str::trim).unwrap_or_default()
    };
    let killed = |mask: &str| u64::from_str_radix(mask, 16).is_ok_and(|mask| mask & (1 << 8) != 0);
    field("State").starts_with(['Z', 'X']) || killed(field("SigPnd")) || killed(field("ShdPnd"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    #[test]
    fn the_lock_of_a_process_that_ends_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let held = std::sync::Mutex::new(Some(Lock::take(dir.path()).unwrap()));
        let path = dir.path().join("lock");
        let mut file = backend::open_or_create(&path).unwrap();
        let asked = |pid| {
            assert_eq!(pid, Some(std::process::id()));
            held.lock().unwrap().take();
            true
        };
        assert!(file.try_lock().is_err());
        wait_for(&mut file, &path, asked).unwrap();
        assert!(matches!(Lock::take(dir.path()), Err(StoreError::Locked { .. })));
    }

    #[test]
    fn a_real_process_that_exits_while_another_waits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let mut command = std::process::Command::new("flock");
        command.arg("-o").arg(&path).args(["sh", "-c", "echo held; read line"]);
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let Ok(mut child) = spawned else { return eprintln!("this test needs flock (util-linux)") };
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut file = backend::open_or_create(&path).unwrap();
        assert!(file.try_lock().is_err(), "the child holds it");
        assert!(matches!(wait_for(&mut file, &path, |_| false), Err(StoreError::Locked { .. })));
        // The child ends when its input does, which is only after somebody began to wait.
        let input = std::sync::Mutex::new(child.stdin.take());
        wait_for(&mut file, &path, |_| input.lock().unwrap().take().is_some()).unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn patience_ends_and_leaves_the_lock_to_whom_it_belongs() {
        let dir = tempfile::tempdir().unwrap();
        let held = Lock::take(dir.path()).unwrap();
        let path = dir.path().join("lock");
        let file = backend::open_or_create(&path).unwrap();
        assert!(!locked_within(&file, &path, Duration::ZERO).unwrap());
        drop((held, file));
        // Whoever waited in vain may have it for a moment.
        let file = backend::open_or_create(&path).unwrap();
        assert!(locked_within(&file, &path, Duration::from_secs(60)).unwrap());
    }

    #[test]
    fn whoever_waits_for_the_end_leaves_the_store_free() {
        let dir = tempfile::tempdir().unwrap();
        assert!(wait_until_free(dir.path(), Duration::ZERO).unwrap(), "there is no store");
        let held = Lock::take(dir.path()).unwrap();
        assert!(!wait_until_free(dir.path(), Duration::ZERO).unwrap());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| wait_until_free(dir.path(), Duration::from_secs(60)));
            drop(held);
            assert!(waiting.join().unwrap().unwrap());
        });
        drop(Lock::take(dir.path()).unwrap());
    }

    #[test]
    fn who_lives_is_told_from_who_is_ending() {
        assert!(is_ending(None));
        assert!(!is_ending(Some(std::process::id())));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        assert!(is_ending(Some(pid)), "it was waited for, so it is gone");
        let alive =
            "Name:\tkith\nState:\tS (sleeping)\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000004000\n";
        assert!(!status_says_ending(alive));
        assert!(status_says_ending(&alive.replace("S (sl", "Z (zo")));
        assert!(status_says_ending(&alive.replace("ShdPnd:\t0000000000004000", "ShdPnd:\t0000000000004100")));
        assert!(!status_says_ending(""));
    }

    /// A store could not be opened again right after it was closed when another thread was just
    /// starting a program: the fork had copied the open lock file.
    #[test]
    fn a_copy_of_the_open_file_does_not_keep_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let held = Lock::take(dir.path()).unwrap();
        let _copy = held.0.try_clone().unwrap();
        drop(held);
        Lock::take(dir.path()).unwrap();
    }

    #[test]
    fn the_second_is_told_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let held = Lock::take(dir.path()).unwrap();
        match Lock::take(dir.path()) {
            Err(StoreError::Locked { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        drop(held);
        Lock::take(dir.path()).unwrap();
    }
}
