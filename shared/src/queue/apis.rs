//! Which apis are alive: those that send heartbeats.

use super::stream::GROUP;
use super::timing::{API_KEYS, millis};
use super::{Queue, QueueError};
use crate::protocol::id::ApiId;

impl Queue {
    /// Registers an api or renews its registration. Also sets the clock. False if its reply stream
    /// did not exist: it was created, and any replies in an earlier one are lost.
    pub async fn api_heartbeat(&self, api: ApiId) -> Result<bool, QueueError> {
        let replies = self.keys().replies(api);
        let mut heartbeat = redis::pipe();
        heartbeat
            .cmd("PEXPIRE")
            .arg(&replies)
            .arg(millis(API_KEYS))
            .cmd("TIME");
        let (alive, time): (bool, (u64, u64)) = self
            .report(heartbeat, self.keys().apis(), api.to_string())
            .await?;
        self.clock().set(time);
        if alive {
            return Ok(true);
        }
        // XGROUP CREATE is the only command that creates an empty stream. Workers append with
        // NOMKSTREAM, so the stream must exist. A stream without an expiry would stay for ever, so
        // this is a transaction.
        redis::pipe()
            .atomic()
            .cmd("XGROUP")
            .arg(&["CREATE", &replies, GROUP, "0", "MKSTREAM"])
            .ignore()
            .cmd("XGROUP")
            .arg(&["DESTROY", &replies, GROUP])
            .ignore()
            .cmd("PEXPIRE")
            .arg(&replies)
            .arg(millis(API_KEYS))
            .ignore()
            .query_async::<()>(&mut self.shared())
            .await?;
        Ok(false)
    }

    /// Removes everything that Redis stores about an api.
    pub async fn remove_api(&self, api: ApiId) -> Result<(), QueueError> {
        redis::pipe()
            .cmd("DEL")
            .arg(self.keys().replies(api))
            .ignore()
            .cmd("ZREM")
            .arg(self.keys().apis())
            .arg(api.to_string())
            .ignore()
            .query_async::<()>(&mut self.pooled().await?)
            .await?;
        Ok(())
    }

    /// Removes apis whose keys have expired from the list of apis.
    pub(super) async fn remove_expired_apis(&self) -> Result<(), QueueError> {
        let since = self.clock().now_ms().saturating_sub(millis(API_KEYS));
        Ok(redis::cmd("ZREMRANGEBYSCORE")
            .arg(self.keys().apis())
            .arg("-inf")
            .arg(since)
            .query_async(&mut self.shared())
            .await?)
    }
}
