//! How used each worker is. The least used ones take the next loads.

use super::{Queue, QueueError};
use crate::protocol::id::WorkerId;
use crate::protocol::job::EngineKind;

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
        let (least,): (Vec<(String, f64)>,) = redis::pipe()
            .cmd("ZADD")
            .arg(&key)
            .arg(usage)
            .arg(worker.to_string())
            .ignore()
            .cmd("ZRANGE")
            .arg(&key)
            .arg(&["0", "0", "WITHSCORES"])
            .query_async(&mut self.pooled().await?)
            .await?;
        Ok(least.first().map_or(usage, |(_, least)| *least))
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
}
