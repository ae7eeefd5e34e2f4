//! Placement: loads of contracts without an owner. One stream per engine, read by every worker that
//! has room.

use redis::aio::MultiplexedConnection;
use redis::{Script, Value};

use super::counts::Observed;
use super::stream::{Entry, is_busy_group, parse_autoclaim, parse_read, read_range};
use super::timing::{ABANDONED_LOAD, PLACEMENT_BLOCK, millis};
use super::{Queue, QueueError};
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
    pub async fn settle_load(&self, engine: EngineKind, entry: &str) -> Result<(), QueueError> {
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
    engine: EngineKind,
    worker: WorkerId,
    connection: Option<Observed<MultiplexedConnection>>,
    backoff: Backoff,
}

/// A load that was read. It stays pending until it is [settled](Queue::settle_load).
#[derive(Debug)]
pub struct Received {
    /// The id of the entry, to settle it.
    pub entry: String,
    /// The frame, undecoded.
    pub frame: Vec<u8>,
}

impl Reader {
    /// Reads loads for `engine` on behalf of `worker`.
    pub fn new(queue: Queue, engine: EngineKind, worker: WorkerId) -> Self {
        Self {
            queue,
            engine,
            worker,
            connection: None,
            backoff: Backoff::redis(),
        }
    }

    /// Waits up to half a second for one load.
    ///
    /// After an error of Redis it logs the error and waits before it returns.
    ///
    /// It reads one load at a time. Redis serves readers in the order in which they wait, so loads
    /// spread over the workers.
    pub async fn read(&mut self) -> Option<Received> {
        match self.try_read().await {
            Ok(received) => {
                self.backoff.reset();
                received
            }
            Err(error) => {
                tracing::warn!(engine = %self.engine, %error, "cannot read placements");
                self.connection = None;
                self.backoff.wait().await;
                None
            }
        }
    }

    async fn try_read(&mut self) -> Result<Option<Received>, QueueError> {
        let stream = self.queue.keys().placement(self.engine);
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(join(&self.queue, &stream).await?),
        };
        let reply: Value = redis::cmd("XREADGROUP")
            .arg(&[
                "GROUP",
                WORKERS,
                &self.worker.to_string(),
                "COUNT",
                "1",
                "BLOCK",
            ])
            .arg(millis(PLACEMENT_BLOCK))
            .arg(&["STREAMS", &stream, ">"])
            .query_async(connection)
            .await?;
        if let Some(entry) = parse_read(reply)?.pop() {
            return Ok(Some(Received {
                entry: entry.id,
                frame: entry.body,
            }));
        }
        take_abandoned(connection, &stream, self.worker).await
    }
}

/// Takes over a load that another worker received and did not settle, because it died or failed.
async fn take_abandoned(
    connection: &mut Observed<MultiplexedConnection>,
    stream: &str,
    worker: WorkerId,
) -> Result<Option<Received>, QueueError> {
    let reply = redis::cmd("XAUTOCLAIM")
        .arg(&[stream, WORKERS, &worker.to_string()])
        .arg(millis(ABANDONED_LOAD))
        .arg(&["0", "COUNT", "1"])
        .query_async(connection)
        .await?;
    let entry = parse_autoclaim(reply)?.pop();
    Ok(entry.map(|Entry { id, body }| Received {
        entry: id,
        frame: body,
    }))
}

/// Connects, and creates the consumer group if it does not exist yet.
async fn join(queue: &Queue, stream: &str) -> Result<Observed<MultiplexedConnection>, QueueError> {
    let mut connection = queue.blocking().await?;
    let created = redis::cmd("XGROUP")
        .arg(&["CREATE", stream, WORKERS, "0", "MKSTREAM"])
        .query_async::<()>(&mut connection)
        .await;
    match created {
        Err(error) if !is_busy_group(&error) => Err(error.into()),
        _ => Ok(connection),
    }
}
