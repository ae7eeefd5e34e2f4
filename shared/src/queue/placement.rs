//! Loads that have no host yet: one stream per engine, read by every worker that has room.

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

/// Loads that one worker has in hand at most: far more than it takes at once.
const TAKEN: usize = 1000;

/// The group that all workers form.
const WORKERS: &str = "workers";

impl Queue {
    /// Appends a load for whichever worker has room. `api` awaits the reply, if any.
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

    /// Removes a load that is settled: as a whole, or an entry would stay that nobody reads again.
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

    /// The loads that a worker was given and has not settled.
    pub(super) async fn pending_loads(
        &self,
        engine: EngineKind,
        worker: WorkerId,
    ) -> Result<Vec<Entry>, QueueError> {
        let stream = self.keys().placement(engine);
        let pending: Result<Vec<(String, String, u64, u64)>, _> = redis::cmd("XPENDING")
            .arg(&[&stream, WORKERS, "-", "+"])
            .arg(TAKEN)
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

    /// Offers anew what a dead worker was given and did not settle, and ends its membership.
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
        let handed_on = script
            .key(self.keys().placement(engine))
            .arg(WORKERS)
            .arg(worker.to_string())
            .arg(TAKEN)
            .invoke_async::<()>(&mut self.pooled().await?)
            .await
            .map_err(QueueError::from);
        match handed_on {
            Err(error) if error.is_no_group() => Ok(()),
            other => other,
        }
    }

    /// Ends a worker's membership in the placement group of `engine`, unless it has left loads
    /// unsettled: these would go with it, and are for another worker to take over.
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

/// Reads the placement stream of one engine, over a connection of its own.
#[derive(Debug)]
pub struct Reader {
    queue: Queue,
    engine: EngineKind,
    worker: WorkerId,
    connection: Option<Observed<MultiplexedConnection>>,
    backoff: Backoff,
}

/// A load to be hosted: pending until it is [settled](Queue::settle_load).
#[derive(Debug)]
pub struct Received {
    /// Names the entry when it is settled.
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

    /// Waits up to half a second for one load. Trouble with Redis is logged and waited out.
    ///
    /// One at a time: Redis serves readers in the order in which they wait, so that loads spread
    /// over the workers by themselves.
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
        abandoned(connection, &stream, self.worker).await
    }
}

/// Takes a load over that a worker was given and did not settle: it died, or has given up.
async fn abandoned(
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

/// Connects, and makes the group where it does not exist yet.
async fn join(queue: &Queue, stream: &str) -> Result<Observed<MultiplexedConnection>, QueueError> {
    let mut connection = queue.blocking().await?;
    let made = redis::cmd("XGROUP")
        .arg(&["CREATE", stream, WORKERS, "0", "MKSTREAM"])
        .query_async::<()>(&mut connection)
        .await;
    match made {
        Err(error) if !is_busy_group(&error) => Err(error.into()),
        _ => Ok(connection),
    }
}
