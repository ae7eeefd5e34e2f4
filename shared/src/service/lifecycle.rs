//! The lifecycle of a process: tracked tasks, and a shutdown in two phases.
//!
//! First the process drains: it accepts no new work and finishes what it has. Then it stops:
//! everything that still runs ends at once. A [`Lifecycle`] is passed in and is never a static, so
//! that two programs can run in one test process.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A handle to the lifecycle of the process. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Lifecycle {
    draining: CancellationToken,
    stopping: CancellationToken,
    tasks: TaskTracker,
    failed: Arc<AtomicBool>,
}

impl Lifecycle {
    /// The lifecycle of a process that has just started.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts draining.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Stops the process. Also starts draining.
    pub fn stop(&self) {
        self.draining.cancel();
        self.stopping.cancel();
    }

    /// Stops the process because a part of it cannot continue. `main` exits with an error.
    pub fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
        self.stop();
    }

    /// Waits until draining starts.
    pub async fn draining(&self) {
        self.draining.cancelled().await;
    }

    /// Waits until the process stops.
    pub async fn stopping(&self) {
        self.stopping.cancelled().await;
    }

    /// Whether draining has started.
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Whether the second phase has begun.
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }

    /// Whether [`Self::fail`] was called.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Spawns a task that the process waits for. It must end soon after [`Self::stopping`]. A panic
    /// in it stops the process, because the task may have left an inconsistent state.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let life = self.clone();
        self.tasks.spawn(async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                tracing::error!(task = name, "task panicked: shutting down");
                life.fail();
            }
        });
    }

    /// Waits until every spawned task has ended.
    pub async fn join(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Handles signals: the first SIGTERM or SIGINT starts draining, a second one or the end of
    /// `grace` stops the process. Runs until the process stops.
    ///
    /// Draining may also have been requested otherwise. Then the first signal changes nothing: who
    /// sends it has not waited for anything yet.
    pub async fn follow_signals(self, mut signals: Signals, grace: Duration) {
        let is_signalled = tokio::select! {
            () = signals.next() => true,
            () = self.draining() => false,
            () = self.stopping() => return,
        };
        tracing::info!(grace_ms = grace.as_millis(), "draining");
        self.drain();
        let second = async {
            if !is_signalled {
                signals.next().await;
            }
            signals.next().await;
        };
        tokio::select! {
            () = second => tracing::warn!("second signal: stopping at once"),
            () = tokio::time::sleep(grace) => tracing::warn!("grace period over: stopping"),
            () = self.stopping() => return,
        }
        self.stop();
    }
}

/// The signals that shut a process down.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Installs the handlers. From now on these signals do not kill the process.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_a_task_stops_the_process() {
        let life = Lifecycle::new();
        life.spawn("breaks", async { panic!("on purpose") });
        life.stopping().await;
        life.join().await;
        assert!(life.has_failed());
    }

    #[tokio::test]
    async fn stopping_implies_draining() {
        let life = Lifecycle::new();
        life.stop();
        life.draining().await;
        assert!(life.is_draining() && !life.has_failed());
    }
}
