//! Placement: loads of contracts without an owner. One stream per engine, read by every worker that
//! has room.

use std::time::Duration;

use redis::Script;

use super::counts::Observed;
use super::in_hand::{CatchUp, InHand, Pending};
use super::nodes::Blocking;
use super::stream::{
    Entry, PendingEntries, is_busy_group, parse_pending, parse_range, read_range, remove_deleted,
};
use super::timing::{ABANDONED_LOAD, PLACEMENT_BLOCK, millis};
use super::{CatchUpRequest, EntryRef, Queue, QueueError};
use crate::protocol::frame::{Envelope, encode_item, pack_jobs};
use crate::protocol::id::{ApiId, WorkerId};
use crate::protocol::job::EngineKind;
use crate::service::backoff::Backoff;

/// Loads that one worker may have pending: far more than it reads at once.
const PENDING_LIMIT: usize = 1000;

/// The consumer group of all workers.
const WORKERS: &str = "workers";

impl Queue {
    /// Appends a load for any worker that has room. The reply goes to `api`, if there is one.
    pub async fn place(
        &self,
        engine: EngineKind,
        api: Option<ApiId>,
        load: &Envelope,
    ) -> Result<(), QueueError> {
        Ok(redis::cmd("XADD")
            .arg(self.keys().placement(engine))
            .arg(&["*", "b"])
            .arg(pack_jobs(api, [encode_item(load)]))
            .query_async(&mut self.pooled().await?)
            .await?)
    }

    /// Acknowledges and removes a load that is done. Both happen in one transaction: an entry that
    /// was only acknowledged would stay for ever.
    pub async fn settle_load(
        &self,
        engine: EngineKind,
        entry: &EntryRef,
    ) -> Result<(), QueueError> {
        let entry = entry.id();
        let stream = self.keys().placement(engine);
        redis::pipe()
            .atomic()
            .cmd("XACK")
            .arg(&[&stream, WORKERS, entry])
            .ignore()
            .cmd("XDEL")
            .arg(&[&stream, entry])
            .ignore()
            .query_async::<()>(&mut self.pooled().await?)
            .await?;
        Ok(())
    }

    /// The loads that a worker received and has not settled.
    pub(super) async fn pending_loads(
        &self,
        engine: EngineKind,
        worker: WorkerId,
    ) -> Result<Vec<Entry>, QueueError> {
        let stream = self.keys().placement(engine);
        let pending: Result<Vec<(String, String, u64, u64)>, _> = redis::cmd("XPENDING")
            .arg(&[&stream, WORKERS, "-", "+"])
            .arg(PENDING_LIMIT)
            .arg(worker.to_string())
            .query_async(&mut self.pooled().await?)
            .await;
        let pending = match pending.map_err(QueueError::from) {
            Err(error) if error.is_no_group() => return Ok(Vec::new()),
            other => other?,
        };
        let mut loads = Vec::new();
        for (id, ..) in pending {
            let found = read_range(self, &stream, &id, 1).await?;
            loads.extend(found.into_iter().filter(|entry| entry.id == id));
        }
        Ok(loads)
    }

    /// Appends again the loads that a dead worker received and did not settle, and removes the
    /// worker from the consumer group.
    pub(super) async fn requeue_loads(
        &self,
        engine: EngineKind,
        worker: WorkerId,
    ) -> Result<(), QueueError> {
        self.forget_usage(engine, worker).await?;
        let script = Script::new(
            "local taken = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', ARGV[3], ARGV[2])
             for _, load in ipairs(taken) do
                 local found = redis.call('XRANGE', KEYS[1], load[1], load[1])
                 if found[1] then redis.call('XADD', KEYS[1], '*', unpack(found[1][2])) end
                 redis.call('XACK', KEYS[1], ARGV[1], load[1])
                 redis.call('XDEL', KEYS[1], load[1])
             end
             redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])",
        );
        let requeued = script
            .key(self.keys().placement(engine))
            .arg(WORKERS)
            .arg(worker.to_string())
            .arg(PENDING_LIMIT)
            .invoke_async::<()>(&mut self.pooled().await?)
            .await
            .map_err(QueueError::from);
        match requeued {
            Err(error) if error.is_no_group() => Ok(()),
            other => other,
        }
    }

    /// Removes a worker from the placement group of `engine`, unless it has unsettled loads. Those
    /// would be removed with it, and another worker is to take them over.
    pub async fn leave_placement_group(
        &self,
        engine: EngineKind,
        worker: WorkerId,
    ) -> Result<(), QueueError> {
        self.forget_usage(engine, worker).await?;
        let script = Script::new(
            "if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) == 0 then
                 redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
             end",
        );
        let left = script
            .key(self.keys().placement(engine))
            .arg(WORKERS)
            .arg(worker.to_string())
            .invoke_async::<()>(&mut self.pooled().await?)
            .await
            .map_err(QueueError::from);
        match left {
            Err(error) if error.is_no_group() => Ok(()),
            other => other,
        }
    }
}

/// Reads the placement stream of one engine over a connection of its own.
#[derive(Debug)]
pub struct Reader {
    queue: Queue,
    stream: String,
    engine: EngineKind,
    worker: WorkerId,
    connection: Option<Observed<Blocking>>,
    in_hand: InHand,
    catch_up: CatchUp,
    backoff: Backoff,
}

/// A load that was read. It stays pending until it is [settled](Queue::settle_load).
#[derive(Debug)]
pub struct Received {
    /// The entry, to settle it. It is not returned again while this value or a clone exists.
    pub entry: EntryRef,
    /// The frame, undecoded.
    pub frame: Vec<u8>,
    /// The entry was returned before, but is neither in hand nor settled. Its load may have been
    /// carried out, and its reply may be lost.
    pub returned_before: bool,
}

impl Reader {
    /// Reads loads for `engine` on behalf of `worker`.
    pub fn new(queue: Queue, engine: EngineKind, worker: WorkerId) -> Self {
        Self {
            stream: queue.keys().placement(engine),
            queue,
            engine,
            worker,
            connection: None,
            in_hand: InHand::default(),
            catch_up: CatchUp::default(),
            backoff: Backoff::redis(),
        }
    }

    /// The same reader, which answers these requests. Only one reader may do so at a time.
    #[must_use]
    pub fn answering(mut self, requests: CatchUpRequest) -> Self {
        self.catch_up.answer(requests);
        self
    }

    /// Asks this reader to inspect its pending entries again.
    pub fn catch_up_requests(&self) -> CatchUpRequest {
        self.catch_up.requests()
    }

    /// Waits up to half a second for one load.
    ///
    /// After an error of Redis it logs the error and waits before it returns.
    ///
    /// It reads one load at a time. Redis serves readers in the order in which they wait, so loads
    /// spread over the workers.
    pub async fn read(&mut self) -> Option<Received> {
        self.read_within(Some(PLACEMENT_BLOCK)).await
    }

    /// As [`Reader::read`], without waiting: only a load that no waiting worker has taken.
    pub async fn read_left_over(&mut self) -> Option<Received> {
        self.read_within(None).await
    }

    async fn read_within(&mut self, wait: Option<Duration>) -> Option<Received> {
        match self.try_read(wait).await {
            Ok(received) => {
                self.backoff.reset();
                received
            }
            Err(error) => {
                self.connection = None;
                tracing::warn!(engine = %self.engine, %error, "cannot read placements");
                self.queue.find_servers().await;
                self.backoff.wait().await;
                None
            }
        }
    }

    async fn try_read(&mut self, wait: Option<Duration>) -> Result<Option<Received>, QueueError> {
        let mut connection = if let Some(connection) = self.connection.take() {
            connection
        } else {
            let connection = join(&self.queue, &self.stream).await?;
            self.catch_up.connected(&mut self.in_hand);
            connection
        };
        let received = self.read_from(&mut connection, wait).await?;
        self.connection = Some(connection);
        Ok(received)
    }

    async fn read_from(
        &mut self,
        connection: &mut Observed<Blocking>,
        wait: Option<Duration>,
    ) -> Result<Option<Received>, QueueError> {
        while let Some(from) = self.catch_up.position() {
            let in_hand = self.in_hand.now();
            let mut pending = self.read_group(connection, &from.to_string(), None).await?;
            remove_deleted(connection, &self.stream, WORKERS, &pending.deleted).await?;
            self.catch_up.listed(pending.last, &mut self.in_hand);
            let Some(entry) = pending.entries.pop() else {
                continue;
            };
            match self.in_hand.take_pending(&entry.id, &in_hand) {
                Pending::InHand => {}
                Pending::New(reference) => return Ok(Some(received(reference, entry, false))),
                Pending::ReturnedBefore(reference) => {
                    return Ok(Some(received(reference, entry, true)));
                }
            }
        }
        let delivered = match self.read_group(connection, ">", wait).await?.entries.pop() {
            None => self.take_abandoned(connection).await?,
            delivered => delivered,
        };
        Ok(delivered.and_then(|entry| {
            let reference = self.in_hand.take_delivered(&entry.id)?;
            Some(received(reference, entry, false))
        }))
    }

    async fn read_group(
        &self,
        connection: &mut Observed<Blocking>,
        from: &str,
        wait: Option<Duration>,
    ) -> Result<PendingEntries, QueueError> {
        let mut read = redis::cmd("XREADGROUP");
        read.arg(&["GROUP", WORKERS, &self.worker.to_string()])
            .arg(&["COUNT", "1"]);
        if let Some(wait) = wait {
            read.arg("BLOCK").arg(millis(wait));
        }
        let reply = read
            .arg(&["STREAMS", &self.stream, from])
            .query_async(connection)
            .await?;
        parse_pending(reply)
    }

    /// Takes over a load that another worker received, did not settle, and cannot settle any more:
    /// the worker is gone. Usually a reaper has handed on such loads. A load of a worker that lives
    /// is never taken, however old it is.
    async fn take_abandoned(
        &self,
        connection: &mut Observed<Blocking>,
    ) -> Result<Option<Entry>, QueueError> {
        let (keys, stream) = (self.queue.keys(), &self.stream);
        let old: Vec<(String, String, u64, u64)> = redis::cmd("XPENDING")
            .arg(&[stream, WORKERS, "IDLE"])
            .arg(millis(ABANDONED_LOAD))
            .arg(&["-", "+"])
            .arg(PENDING_LIMIT)
            .query_async(connection)
            .await?;
        for (id, consumer, ..) in old {
            let Ok(owner) = consumer.parse::<WorkerId>() else {
                continue;
            };
            let exists: u64 = redis::cmd("EXISTS")
                .arg(&[keys.lease(owner), keys.inbox(owner)])
                .query_async(connection)
                .await?;
            if exists > 0 || owner == self.worker {
                continue;
            }
            let claimed = redis::cmd("XCLAIM")
                .arg(&[stream, WORKERS, &self.worker.to_string()])
                .arg(millis(ABANDONED_LOAD))
                .arg(&id)
                .query_async(connection)
                .await?;
            if let Some(entry) = parse_range(claimed)?.pop() {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }
}

fn received(reference: EntryRef, entry: Entry, returned_before: bool) -> Received {
    Received {
        entry: reference,
        frame: entry.body,
        returned_before,
    }
}

/// Connects, and creates the consumer group if it does not exist yet.
async fn join(queue: &Queue, stream: &str) -> Result<Observed<Blocking>, QueueError> {
    let mut connection = queue.blocking(stream).await?;
    let created = redis::cmd("XGROUP")
        .arg(&["CREATE", stream, WORKERS, "0", "MKSTREAM"])
        .query_async::<()>(&mut connection)
        .await;
    match created {
        Err(error) if !is_busy_group(&error) => Err(error.into()),
        _ => Ok(connection),
    }
}
