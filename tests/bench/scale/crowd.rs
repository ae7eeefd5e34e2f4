//! Many simulated processes at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::iter;
use shared::protocol::id::WorkerId;
use shared::queue::RedisConfig;
use shared::service::lifecycle::Lifecycle;

use super::api::Api;
use super::worker::Worker;

/// How many processes start at once.
const STARTS: usize = 64;

/// How workers are called.
#[derive(Debug, Clone, Copy)]
pub(super) struct Calling {
    /// The callers of each api.
    pub(super) callers: usize,
    /// How many calls a caller makes at once.
    pub(super) in_a_frame: usize,
    /// How long a caller waits at least from one frame to the next.
    pub(super) interval: Duration,
}

/// Apis and workers.
pub(super) struct Crowd {
    pub(super) apis: Vec<Arc<Api>>,
    pub(super) workers: Vec<Arc<Worker>>,
    taken_over: Arc<AtomicUsize>,
}

impl Crowd {
    /// Starts so many apis and workers. Each worker has room for `capacity` contracts.
    pub(super) async fn start(
        redis: &RedisConfig,
        apis: usize,
        workers: usize,
        capacity: usize,
    ) -> Self {
        let taken_over = Arc::new(AtomicUsize::new(0));
        let starting = (0..workers).map(|_| Worker::start(redis, capacity, taken_over.clone()));
        let workers: Vec<_> = iter(starting).buffer_unordered(STARTS).collect().await;
        let starting = (0..apis).map(|_| Api::start(redis));
        let apis: Vec<_> = iter(starting).buffer_unordered(STARTS).collect().await;
        let started = "Redis accepts a process more";
        Self {
            apis: apis.into_iter().map(|api| api.expect(started)).collect(),
            workers: workers.into_iter().map(|one| one.expect(started)).collect(),
            taken_over,
        }
    }

    /// Starts everything that the processes do beside their calls.
    pub(super) fn maintain(&self) {
        self.apis.iter().for_each(Api::maintain);
        self.workers.iter().for_each(Worker::maintain);
    }

    /// Starts callers of these workers. They end when the value that is returned stops.
    pub(super) fn call(&self, workers: &[Arc<Worker>], calling: Calling) -> Lifecycle {
        let life = Lifecycle::new();
        let workers: Arc<[WorkerId]> = workers.iter().map(|worker| worker.id).collect();
        for api in &self.apis {
            api.call(&workers, calling, &life);
        }
        life
    }

    /// How many calls were answered so far.
    pub(super) fn answered(&self) -> u64 {
        let answered = self.apis.iter().map(|api| &api.answered);
        answered.map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// How many contracts workers have taken over so far.
    pub(super) fn taken_over(&self) -> usize {
        self.taken_over.load(Ordering::Relaxed)
    }

    /// Records latencies from now on, or no more.
    pub(super) fn record(&self, records: bool) {
        for api in &self.apis {
            api.records.store(records, Ordering::Relaxed);
        }
    }

    /// The latencies that were recorded, which are then forgotten.
    pub(super) fn take_latencies(&self) -> Vec<Duration> {
        self.apis
            .iter()
            .flat_map(|api| api.take_latencies())
            .collect()
    }

    /// Ends all processes.
    pub(super) async fn end(self) {
        let lives = self.apis.iter().map(|api| &api.life);
        let lives = lives.chain(self.workers.iter().map(|worker| &worker.life));
        let lives: Vec<_> = lives.cloned().collect();
        lives.iter().for_each(Lifecycle::stop);
        for life in lives {
            life.join().await;
            assert!(
                !life.has_failed(),
                "a task of a simulated process has panicked"
            );
        }
        let undelivered: u64 = self.apis.iter().map(|api| api.undelivered()).sum();
        assert_eq!(undelivered, 0, "calls did not reach their workers");
    }
}
