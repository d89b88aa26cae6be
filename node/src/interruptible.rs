//! Blocking work of a command that can be interrupted: it is told to stop and waited for, so that it
//! takes its unfinished files away before the process ends.
//!
//! Invariant: when the future of [`run`] is gone, so is the work. What it removes is its own matter.

use crate::exit::{Exit, Failure};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// Longest wait for the work's end: deriving a key from a passphrase cannot be stopped and takes
/// seconds on a slow machine; a disk that hangs must not hold the process for ever.
const PATIENCE: Duration = Duration::from_secs(20);

/// Says whether whoever waited for the work has gone.
#[derive(Clone, Debug, Default)]
pub struct Interrupted(Arc<AtomicBool>);

impl Interrupted {
    /// An error once it was interrupted.
    pub fn check(&self) -> std::io::Result<()> {
        match self.0.load(Ordering::Acquire) {
            true => Err(std::io::Error::other("interrupted")),
            false => Ok(()),
        }
    }
}

/// Tells the work to stop, and waits until it has let go of everything.
struct Waiting {
    interrupted: Interrupted,
    over: Receiver<()>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.interrupted.0.store(true, Ordering::Release);
        // Nothing is ever sent: the other end goes with the work.
        let _ = self.over.recv_timeout(PATIENCE);
    }
}

/// Runs blocking work that looks at [`Interrupted`] now and then.
pub async fn run<T: Send + 'static>(
    work: impl FnOnce(&Interrupted) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let interrupted = Interrupted::default();
    let told = interrupted.clone();
    let (alive, over) = std::sync::mpsc::sync_channel::<()>(0);
    let _waiting = Waiting { interrupted, over };
    let working = tokio::task::spawn_blocking(move || {
        let done = work(&told);
        drop(alive);
        done
    });
    working.await.map_err(|_| Failure::new(Exit::Failure, "a part of the command failed"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_goes_waits_for_the_works_end() {
        assert_eq!(run(|_| Ok(7)).await.unwrap(), 7, "the control: it ends by itself");
        let dir = tempfile::tempdir().unwrap();
        let part = dir.path().join("part");
        let (begun, beginning) = tokio::sync::oneshot::channel();
        let path = part.clone();
        let work = run(move |interrupted| {
            std::fs::write(&path, "half").unwrap();
            let _ = begun.send(());
            while interrupted.check().is_ok() {
                std::thread::yield_now();
            }
            std::fs::remove_file(&path).unwrap();
            Ok(())
        });
        tokio::select! {
            biased;
            _ = work => panic!("it ends only when it is interrupted"),
            _ = beginning => {}
        }
        assert!(!part.exists());
    }
}
