//! Brings outcomes back: first the replies, then the acknowledgement of the inbox entries whose
//! jobs are all answered. A worker that dies in between leaves proof of what it was asked.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use shared::protocol::frame::{Item, Reply, encode_item, has_room, pack_replies};
use shared::protocol::id::{ApiId, JobId, WorkerId};
use shared::protocol::reply::{Failure, Output};
use shared::queue::Queue;
use shared::service::backoff::Backoff;
use shared::service::batch::join_batch;
use shared::service::lifecycle::Lifecycle;
use shared::service::telemetry::traces::Span;
use tokio::sync::mpsc;

use crate::fence::Fence;

/// Replies packed in one round trip at most.
const BATCH: usize = 1024;

/// An inbox entry whose jobs are not all settled yet.
#[derive(Debug)]
struct Entry {
    id: String,
    open: AtomicUsize,
}

/// One job to be answered: settling consumes it. Dropped unsettled, its entry stays pending.
#[derive(Debug)]
pub(crate) struct Delivery {
    settler: Settler,
    entry: Arc<Entry>,
    api: Option<ApiId>,
    id: JobId,
    /// When the caller stops waiting, by Redis' clock.
    pub(crate) deadline: u64,
    /// When the job was taken from the inbox.
    pub(crate) received: Instant,
    /// The job's part of its request's trace.
    span: Span,
}

/// What else a reply tells.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ran {
    /// The contract's generation.
    pub(crate) generation: Option<u64>,
    /// How long the job ran.
    pub(crate) time: Option<Duration>,
}

impl Ran {
    /// Tells a span how its job ended.
    pub(crate) fn tell<T>(self, span: &mut Span, outcome: &Result<T, Failure>) {
        if !span.is_recording() {
            return;
        }
        if let Some(generation) = self.generation {
            span.set(
                "execution.generation",
                i64::try_from(generation).unwrap_or(i64::MAX),
            );
        }
        if let Some(time) = self.time {
            span.set("execution.run_ms", time.as_secs_f64() * 1000.0);
        }
        if let Err(failure) = outcome {
            span.fail(failure.code.name());
        }
    }
}

impl Delivery {
    /// From now on the job is traced; `span` ends with it.
    pub(crate) fn trace(&mut self, span: Span) {
        self.span = span;
    }

    /// Answers the job.
    pub(crate) fn settle(mut self, outcome: Result<Output, Failure>, ran: Ran) {
        ran.tell(&mut self.span, &outcome);
        let reply = self.api.map(|api| {
            let ran_us = ran
                .time
                .map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
            let reply = Reply {
                id: self.id,
                generation: ran.generation,
                ran_us,
                outcome,
            };
            (api, encode_item(&reply))
        });
        self.settler.send(Settled {
            entry: self.entry,
            reply,
        });
    }

    /// Answers that the job failed without having been started.
    pub(crate) fn refuse(self, failure: Failure) {
        self.settle(Err(failure), Ran::default());
    }

    /// The job, and who sent it.
    pub(crate) fn name(&self) -> (Option<ApiId>, JobId) {
        (self.api, self.id)
    }

    /// Settles a job that nobody awaits an answer to, or that was answered before.
    pub(crate) fn dismiss(self) {
        self.settler.send(Settled {
            entry: self.entry,
            reply: None,
        });
    }
}

struct Settled {
    entry: Arc<Entry>,
    reply: Option<(ApiId, Item)>,
}

/// Takes outcomes; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Settler {
    worker: WorkerId,
    settled: mpsc::UnboundedSender<Settled>,
}

impl Settler {
    /// A settler for a new worker, and what must be [run](Settling::run) for it.
    pub(crate) fn new(queue: Queue) -> (Self, Settling) {
        let worker = WorkerId::random();
        // Unbounded: nothing is settled that was not taken in, and what is taken in is bounded.
        let (sender, settled) = mpsc::unbounded_channel();
        (
            Self {
                worker,
                settled: sender,
            },
            Settling {
                queue,
                worker,
                settled,
            },
        )
    }

    /// The worker that it settles for.
    pub(crate) fn worker(&self) -> WorkerId {
        self.worker
    }

    /// The deliveries of one inbox entry: job and deadline each, awaited by `api`.
    pub(crate) fn deliveries(
        &self,
        entry: String,
        api: Option<ApiId>,
        jobs: impl ExactSizeIterator<Item = (JobId, u64)>,
    ) -> impl Iterator<Item = Delivery> {
        let entry = Arc::new(Entry {
            id: entry,
            open: AtomicUsize::new(jobs.len()),
        });
        let settler = self.clone();
        let received = Instant::now();
        jobs.map(move |(id, deadline)| Delivery {
            settler: settler.clone(),
            entry: entry.clone(),
            api,
            id,
            deadline,
            received,
            span: Span::default(),
        })
    }

    /// Acknowledges an entry that has no job to answer.
    pub(crate) fn acknowledge(&self, entry: String) {
        let entry = Arc::new(Entry {
            id: entry,
            open: AtomicUsize::new(1),
        });
        self.send(Settled { entry, reply: None });
    }

    fn send(&self, settled: Settled) {
        // Fails only after a stop that did not wait; then the entry stays pending, as it should.
        let _ = self.settled.send(settled);
    }
}

/// The task behind a [`Settler`].
#[derive(Debug)]
pub(crate) struct Settling {
    queue: Queue,
    worker: WorkerId,
    settled: mpsc::UnboundedReceiver<Settled>,
}

impl Settling {
    /// Runs until every [`Settler`] is gone and all is settled. While one round trip is under way,
    /// the next batch gathers.
    ///
    /// While the `fence` is closed nothing is sent: others may have given the jobs to somebody else.
    pub(crate) async fn run(mut self, fence: Arc<Fence>, life: Lifecycle) {
        let mut batch = Vec::with_capacity(BATCH);
        while self.settled.recv_many(&mut batch, BATCH).await > 0 {
            let room = BATCH - batch.len();
            join_batch(&mut batch, room, || self.settled.try_recv().ok()).await;
            let (frames, entries) = self.pack(batch.drain(..));
            tokio::select! {
                () = fence.open() => {}
                () = life.stopping() => {}
            }
            let mut backoff = Backoff::redis();
            while let Err(error) = self.queue.settle(self.worker, &frames, &entries).await {
                tracing::warn!(%error, "cannot settle");
                tokio::select! {
                    () = backoff.wait() => {}
                    () = life.stopping() => return,
                }
            }
        }
    }

    /// Sorts outcomes by who awaits them; tells the entries that are done.
    fn pack(&self, batch: impl Iterator<Item = Settled>) -> (Vec<(ApiId, Vec<u8>)>, Vec<String>) {
        let mut by_api: HashMap<ApiId, Vec<Item>> = HashMap::new();
        let mut entries = Vec::new();
        for Settled { entry, reply } in batch {
            if let Some((api, item)) = reply {
                by_api.entry(api).or_default().push(item);
            }
            if entry.open.fetch_sub(1, Ordering::Relaxed) == 1 {
                entries.push(entry.id.clone());
            }
        }
        let mut frames = Vec::new();
        for (api, items) in by_api {
            let mut rest = items.as_slice();
            while !rest.is_empty() {
                let (frame, later) = rest.split_at(frame_length(rest));
                frames.push((api, pack_replies(self.worker, frame)));
                rest = later;
            }
        }
        (frames, entries)
    }
}

/// How many of `items` fit into one frame.
fn frame_length(items: &[Item]) -> usize {
    let mut bytes = 0;
    items
        .iter()
        .enumerate()
        .take_while(|(index, item)| {
            let fits = has_room(*index, bytes, item.len());
            bytes += item.len() + 1;
            fits
        })
        .count()
}
