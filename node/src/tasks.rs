//! Tasks of the API and of players: each has a name, is counted, and ends at shutdown. The driver and
//! the task that waits for its end are the only others in a node.

use std::future::Future;
use std::sync::{Arc, Mutex};
use tokio::task::JoinSet;

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
    async fn nothing_is_left_after_shutdown() {
        let tasks = Tasks::default();
        tasks.spawn("short", async {});
        tasks.spawn("endless", std::future::pending());
        tokio::task::yield_now().await;
        tasks.shutdown().await;
        assert_eq!(tasks.running(), 0);
    }
}
