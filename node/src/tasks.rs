//! Tasks of the API and of players: each has a name, is counted, and ends at shutdown. The driver and
//! the task that waits for its end are the only others in a node.

use std::future::Future;
use std::io::Write as _;
use std::sync::{Arc, Mutex};
use tokio::task::JoinSet;

/// Says on standard error where a part of the program failed, and not with what: the values that an
/// assertion shows may be somebody's.
pub fn panicked(info: &std::panic::PanicHookInfo<'_>) {
    let place = info.location().map_or_else(String::new, |at| format!(" at {}:{}", at.file(), at.line()));
    let _ = writeln!(std::io::stderr(), "kith: a part panicked{place}: please report this line");
}

/// Runs what the node cannot live without. A node that lost its journal's thread, say, would promise
/// what nobody writes down: `on_panic` ends the process instead, and the next start finds everything
/// that was acknowledged.
pub fn vital(work: impl FnOnce(), on_panic: impl FnOnce()) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err() {
        on_panic();
    }
}

/// Ends the process after a vital part has failed.
pub fn end_at_once() {
    let _ = writeln!(
        std::io::stderr(),
        "kith: the node failed and stops; start it again, nothing stored is lost"
    );
    std::process::exit(1);
}

/// Tracked tasks of one node.
#[derive(Clone, Default)]
pub struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl Tasks {
    /// Spawns a task. After [`Tasks::shutdown`] it is dropped unstarted at the next shutdown.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        if let Ok(mut set) = self.0.lock() {
            while set.try_join_next().is_some() {}
            set.spawn(async move {
                task.await;
                tracing::trace!("task {name} ended");
            });
        }
    }

    /// Tasks that have not ended.
    #[cfg(test)]
    pub fn running(&self) -> usize {
        self.0.lock().map_or(0, |mut set| {
            while set.try_join_next().is_some() {}
            set.len()
        })
    }

    /// Cancels all tasks and waits for their end.
    pub async fn shutdown(&self) {
        let mut set = match self.0.lock() {
            Ok(mut set) => std::mem::take(&mut *set),
            Err(_) => return,
        };
        set.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_ends_alone() {
        let tasks = Tasks::default();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        tasks.spawn("bad", async { panic!("on purpose, in a test") });
        tasks.spawn("good", async {
            let _ = sender.send(7);
        });
        assert_eq!(receiver.await, Ok(7));
        tasks.shutdown().await;
        assert_eq!(tasks.running(), 0);
    }

    #[test]
    fn a_vital_part_that_panics_is_answered_and_one_that_ends_is_not() {
        let mut ended = 0;
        vital(|| {}, || ended += 1);
        assert_eq!(ended, 0);
        vital(|| panic!("on purpose, in a test"), || ended += 1);
        assert_eq!(ended, 1);
    }

    #[tokio::test]
    async fn nothing_is_left_after_shutdown() {
        let tasks = Tasks::default();
        tasks.spawn("short", async {});
        tasks.spawn("endless", std::future::pending());
        tokio::task::yield_now().await;
        tasks.shutdown().await;
        assert_eq!(tasks.running(), 0);
    }
}
