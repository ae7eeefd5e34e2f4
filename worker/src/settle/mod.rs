//! Replies to jobs and acknowledges them. Both together is called *settling* a job.
//!
//! One transaction sends the replies and acknowledges the inbox entries whose jobs are all
//! answered, which removes them from the inbox. Until then the entries stay pending: they are the
//! recovery record of the jobs that the worker was given.
//!
//! A [`Delivery`] is one job on its way to its outcome; `delivery.rs`. This file sends outcomes.

mod delivery;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use shared::protocol::frame::{Item, has_room, pack_replies};
use shared::protocol::id::{ApiId, JobId, WorkerId};
use shared::queue::settlement::Settlement;
use shared::queue::{EntryRef, Queue};
use shared::service::backoff::Backoff;
use shared::service::batch::join_batch;
use shared::service::lifecycle::Lifecycle;
use shared::service::telemetry::traces::Span;
use tokio::sync::mpsc;

pub(crate) use self::delivery::Delivery;
use crate::fence::Fence;
use crate::identity::Identity;
pub(crate) use crate::run_info::RunInfo;

/// The maximum number of jobs settled in one round trip.
const BATCH: usize = 1024;

/// An inbox entry with jobs that are not settled yet.
#[derive(Debug)]
struct Entry {
    /// The worker id whose inbox it is in.
    worker: WorkerId,
    reference: EntryRef,
    unsettled: AtomicUsize,
}

/// A settled job that was not sent to Redis yet.
struct Settled {
    entry: Arc<Entry>,
    reply: Option<(ApiId, Item)>,
}

/// Accepts the outcomes of jobs. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Settler {
    settled: mpsc::UnboundedSender<Settled>,
    life: Lifecycle,
}

impl Settler {
    /// A settler for a new worker, and the task that must be [run](SettleTask::run) for it.
    pub(crate) fn new(
        queue: Queue,
        identity: Arc<Identity>,
        life: Lifecycle,
    ) -> (Self, SettleTask) {
        // An unbounded channel is safe: only accepted jobs are settled, and their number is
        // bounded.
        let (sender, settled) = mpsc::unbounded_channel();
        (
            Self {
                settled: sender,
                life,
            },
            SettleTask {
                settlement: Settlement::new(queue),
                identity,
                settled,
            },
        )
    }

    /// The deliveries of one entry in the inbox of `worker` that `api` sent. Each job comes with
    /// its deadline.
    pub(crate) fn deliveries(
        &self,
        worker: WorkerId,
        entry: EntryRef,
        api: Option<ApiId>,
        jobs: impl ExactSizeIterator<Item = (JobId, u64)>,
    ) -> impl Iterator<Item = Delivery> {
        let entry = Arc::new(Entry {
            worker,
            reference: entry,
            unsettled: AtomicUsize::new(jobs.len()),
        });
        let settler = self.clone();
        let received = Instant::now();
        jobs.map(move |(id, deadline)| Delivery {
            settler: settler.clone(),
            entry: Some(entry.clone()),
            api,
            id,
            deadline,
            received,
            span: Span::default(),
            request: None,
        })
    }

    /// Acknowledges an entry without jobs.
    pub(crate) fn acknowledge(&self, worker: WorkerId, entry: EntryRef) {
        let entry = Arc::new(Entry {
            worker,
            reference: entry,
            unsettled: AtomicUsize::new(1),
        });
        self.send(Settled { entry, reply: None });
    }

    fn send(&self, settled: Settled) {
        // Fails only after a forced stop. Then the entry must stay pending.
        let _ = self.settled.send(settled);
    }
}

/// The task behind a [`Settler`].
#[derive(Debug)]
pub(crate) struct SettleTask {
    settlement: Settlement,
    identity: Arc<Identity>,
    settled: mpsc::UnboundedReceiver<Settled>,
}

impl SettleTask {
    /// Runs until every [`Settler`] is dropped and every job is settled. While one round trip is in
    /// progress, the next batch accumulates.
    ///
    /// While the `fence` is closed, nothing is sent: another worker may have the jobs by now.
    pub(crate) async fn run(mut self, fence: Arc<Fence>, life: Lifecycle) {
        let mut batch = Vec::with_capacity(BATCH);
        while self.next(&mut batch, &fence).await {
            let room = BATCH - batch.len();
            join_batch(&mut batch, room, || self.settled.try_recv().ok()).await;
            tokio::select! {
                () = fence.opened() => {}
                () = life.stopping() => {}
            }
            let worker = self.identity.id();
            let (frames, entries) = pack(worker, batch.drain(..));
            let mut backoff = Backoff::redis();
            while let Err(error) = self.settlement.settle(worker, &frames, &entries).await {
                tracing::warn!(%error, "jobs not settled yet");
                tokio::select! {
                    () = backoff.wait() => {}
                    () = life.stopping() => return,
                }
            }
        }
    }

    /// Waits for settled jobs. Acknowledges meanwhile what the last batch has left. False if there
    /// will be no more jobs.
    async fn next(&mut self, batch: &mut Vec<Settled>, fence: &Fence) -> bool {
        let mut backoff = Backoff::redis();
        while let Some(span) = self.settlement.is_due_after() {
            let more = self.settled.recv_many(batch, BATCH);
            if let Ok(1..) = tokio::time::timeout(span, more).await {
                return true;
            }
            if !fence.is_closed()
                && let Err(error) = self.settlement.finish().await
            {
                tracing::warn!(%error, "jobs not acknowledged yet");
                backoff.wait().await;
            }
            if self.settled.is_closed() && self.settled.is_empty() {
                break;
            }
        }
        self.settled.recv_many(batch, BATCH).await > 0
    }
}

/// Packs the replies of `worker` into frames, per api, and lists the entries of its inbox whose
/// jobs are all settled. The inbox that the worker had before it was fenced is gone: a reaper has
/// reported on its entries.
fn pack(
    worker: WorkerId,
    batch: impl Iterator<Item = Settled>,
) -> (Vec<(ApiId, Vec<u8>)>, Vec<EntryRef>) {
    let mut by_api: HashMap<ApiId, Vec<Item>> = HashMap::new();
    let mut entries = Vec::new();
    for Settled { entry, reply } in batch {
        if let Some((api, item)) = reply {
            by_api.entry(api).or_default().push(item);
        }
        if entry.unsettled.fetch_sub(1, Ordering::Relaxed) == 1 && entry.worker == worker {
            entries.push(entry.reference.clone());
        }
    }
    let mut frames = Vec::new();
    for (api, items) in by_api {
        let mut rest = items.as_slice();
        while !rest.is_empty() {
            let (frame, later) = rest.split_at(frame_length(rest));
            frames.push((api, pack_replies(worker, frame)));
            rest = later;
        }
    }
    (frames, entries)
}

/// The number of `items` that fit into one frame.
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

#[cfg(test)]
mod tests {
    use shared::protocol::reply::Output;

    use super::*;

    /// A settler whose outcomes are collected instead of sent.
    fn settler() -> (Settler, mpsc::UnboundedReceiver<Settled>) {
        let (settled, outcomes) = mpsc::unbounded_channel();
        let life = Lifecycle::new();
        (Settler { settled, life }, outcomes)
    }

    fn delivery(settler: &Settler) -> Delivery {
        let jobs = [(JobId(7), 0)].into_iter();
        let mut deliveries = settler.deliveries(
            WorkerId::random(),
            EntryRef::from("1-0"),
            Some(ApiId::random()),
            jobs,
        );
        deliveries.next().expect("there is one job")
    }

    #[test]
    fn a_dropped_job_is_answered_as_possibly_started() {
        let (settler, mut outcomes) = settler();
        drop(delivery(&settler));
        let settled = outcomes.try_recv().unwrap();
        let (_, reply) = settled.reply.unwrap();
        let reply: serde_json::Value = serde_json::from_slice(&reply).unwrap();
        assert!(reply.to_string().contains("worker_lost"), "{reply}");
        assert!(reply.to_string().contains(r#""started":true"#), "{reply}");
    }

    #[test]
    fn a_job_is_settled_once() {
        let (settler, mut outcomes) = settler();
        delivery(&settler).settle(Ok(Output::Done), RunInfo::default());
        assert!(outcomes.try_recv().unwrap().reply.is_some());
        delivery(&settler).acknowledge();
        assert!(outcomes.try_recv().unwrap().reply.is_none());
        assert!(outcomes.try_recv().is_err());
    }

    /// A worker that was fenced answers what it still runs, under its next id. The entries of its
    /// earlier inbox are not acknowledged in the new one, where the same name may be another entry.
    #[test]
    fn entries_of_an_earlier_id_are_not_acknowledged() {
        let (settler, mut outcomes) = settler();
        let fenced = WorkerId::random();
        let (api, current) = (ApiId::random(), fenced.next_epoch());
        let mut batch = Vec::new();
        for worker in [fenced, current] {
            let jobs = [(JobId(7), 0)].into_iter();
            let entry = EntryRef::from("1-0");
            for delivery in settler.deliveries(worker, entry, Some(api), jobs) {
                delivery.settle(Ok(Output::Done), RunInfo::default());
                batch.push(outcomes.try_recv().unwrap());
            }
        }
        let (frames, entries) = pack(current, batch.into_iter());
        assert_eq!(entries.len(), 1, "only that of the current inbox");
        let [(to, frame)] = &frames[..] else {
            panic!("{frames:?}")
        };
        let replies = shared::protocol::frame::unpack_replies(frame).unwrap();
        assert_eq!((*to, replies.replies.len()), (api, 2), "both are answered");
    }

    #[test]
    fn an_entry_is_in_hand_until_all_of_its_jobs_are_settled() {
        let (settler, mut outcomes) = settler();
        let jobs = [(JobId(1), 0), (JobId(2), 0)].into_iter();
        let entry = EntryRef::from("1-0");
        let in_hand = entry.downgrade();
        let deliveries: Vec<_> = settler
            .deliveries(WorkerId::random(), entry, None, jobs)
            .collect();
        for delivery in deliveries {
            delivery.acknowledge();
        }
        assert!(in_hand.upgrade().is_some());
        drop(outcomes.try_recv());
        assert!(in_hand.upgrade().is_some(), "one job is not settled");
        drop(outcomes.try_recv());
        assert!(in_hand.upgrade().is_none());
    }
}
