//! How used each worker is. The least used ones take the next loads.
//!
//! A worker that was cut off may write its usage after its reaper has forgotten it. So every reader
//! checks whom it compares with, and the sweep removes what no reader meets.

use redis::Pipeline;

use super::{Queue, QueueError};
use crate::protocol::id::WorkerId;
use crate::protocol::job::EngineKind;

/// The ids of workers with their usage, the least used one first.
type Used = Vec<(String, f64)>;

impl Queue {
    /// Records how used a worker is, and returns how used the least used worker of the engine is.
    ///
    /// A worker without room records nothing, because it takes no loads.
    pub async fn compare_usage(
        &self,
        engine: EngineKind,
        worker: WorkerId,
        usage: f64,
    ) -> Result<f64, QueueError> {
        let key = self.keys().worker_usage(engine);
        let mut recording = redis::pipe();
        let command = recording.cmd("ZADD").arg(&key).arg(usage);
        command.arg(worker.to_string()).ignore();
        let mut least = self.used(recording, &key, 0).await?;
        while let Some((id, least_usage)) = least.pop() {
            let is_less = id != worker.to_string() && least_usage < usage;
            if is_less && self.is_no_worker(&id).await? {
                let mut removing = redis::pipe();
                removing.cmd("ZREM").arg(&key).arg(id).ignore();
                least = self.used(removing, &key, 0).await?;
            } else {
                return Ok(least_usage);
            }
        }
        Ok(usage)
    }

    /// Forgets how used a worker was that takes no more loads under this id.
    pub async fn forget_usage(
        &self,
        engine: EngineKind,
        worker: WorkerId,
    ) -> Result<(), QueueError> {
        Ok(redis::cmd("ZREM")
            .arg(self.keys().worker_usage(engine))
            .arg(worker.to_string())
            .query_async(&mut self.pooled().await?)
            .await?)
    }

    /// Removes what is recorded under ids that no worker has any more.
    pub(super) async fn sweep_usage(&self) -> Result<(), QueueError> {
        for engine in EngineKind::ALL {
            let key = self.keys().worker_usage(engine);
            for (id, _) in self.used(redis::pipe(), &key, -1).await? {
                if self.is_no_worker(&id).await? {
                    redis::cmd("ZREM")
                        .arg(&key)
                        .arg(id)
                        .query_async::<()>(&mut self.pooled().await?)
                        .await?;
                }
            }
        }
        Ok(())
    }

    /// Runs the commands, and reads the least used workers, up to the one of this index.
    async fn used(
        &self,
        mut commands: Pipeline,
        key: &str,
        last: isize,
    ) -> Result<Used, QueueError> {
        let reading = commands.cmd("ZRANGE").arg(key).arg(0).arg(last);
        reading.arg("WITHSCORES");
        let (used,): (Used,) = commands.query_async(&mut self.pooled().await?).await?;
        Ok(used)
    }

    /// Whether nobody acts under this id any more.
    async fn is_no_worker(&self, id: &str) -> Result<bool, QueueError> {
        match id.parse() {
            Ok(worker) => Ok(self.fate(worker).await?.may_be_replaced()),
            Err(_) => Ok(true),
        }
    }
}
