//! The background tasks of an engine: they restart browsers, create spare pages, follow events.
//!
//! They end after every other task of the process, because contracts are closed through them. So
//! the [`Lifecycle`] does not wait for them, but it supervises them: a panic in one of them, or an
//! unexpected end, stops the process with an error. Otherwise the worker would stay ready without
//! being able to start a sandbox.

use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use shared::service::lifecycle::Lifecycle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The background tasks of one engine. Clones are handles on the same tasks.
#[derive(Debug, Clone)]
pub(crate) struct EngineTasks {
    life: Lifecycle,
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl EngineTasks {
    /// No tasks yet; those that are spawned are supervised by `life`.
    pub(crate) fn new(life: Lifecycle) -> Self {
        Self {
            life,
            stop: CancellationToken::new(),
            tracker: TaskTracker::new(),
        }
    }

    /// Cancelled when the engine shuts down. Every task must end soon after that, and not before.
    pub(crate) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Spawns a supervised task.
    #[expect(clippy::disallowed_methods, reason = "the task is supervised here")]
    pub(crate) fn spawn(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let (life, stop) = (self.life.clone(), self.stop.clone());
        self.tracker.spawn(async move {
            let outcome = AssertUnwindSafe(task).catch_unwind().await;
            if outcome.is_err() {
                tracing::error!(task = name, "task panicked: shutting down");
                life.fail();
            } else if !stop.is_cancelled() {
                tracing::error!(task = name, "task ended unexpectedly: shutting down");
                life.fail();
            }
        });
    }

    /// Ends all tasks and waits for them.
    pub(crate) async fn shutdown(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supervised() -> (Lifecycle, EngineTasks) {
        let life = Lifecycle::new();
        (life.clone(), EngineTasks::new(life))
    }

    #[tokio::test]
    async fn a_panic_in_a_task_stops_the_process_with_an_error() {
        let (life, tasks) = supervised();
        tasks.spawn("breaks", async { panic!("on purpose") });
        life.stopping().await;
        tasks.shutdown().await;
        assert!(life.has_failed());
    }

    #[tokio::test]
    async fn a_panic_during_the_shutdown_is_an_error_too() {
        let (life, tasks) = supervised();
        let stop = tasks.stop().clone();
        tasks.spawn("breaks", async move {
            stop.cancelled().await;
            panic!("on purpose");
        });
        tasks.shutdown().await;
        assert!(life.has_failed());
    }

    #[tokio::test]
    async fn a_task_that_ends_too_early_stops_the_process_with_an_error() {
        let (life, tasks) = supervised();
        tasks.spawn("ends", async {});
        life.stopping().await;
        tasks.shutdown().await;
        assert!(life.has_failed());
    }

    #[tokio::test]
    async fn tasks_outlive_the_process_stop_and_end_with_the_engine() {
        let (life, tasks) = supervised();
        let stop = tasks.stop().clone();
        tasks.spawn("waits", async move { stop.cancelled().await });
        life.stop();
        // It does not wait for the engine's tasks.
        life.join().await;
        assert_eq!(tasks.tracker.len(), 1);
        tasks.shutdown().await;
        assert!(tasks.tracker.is_empty() && !life.has_failed());
    }
}
