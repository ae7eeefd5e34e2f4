//! The reply stream of an api: workers append frames of replies, only the api reads and trims it.

use redis::Value;
use redis::aio::MultiplexedConnection;

use super::counts::Observed;
use super::stream::{GROUP, parse_read};
use super::timing::{BLOCK, millis};
use super::{Queue, QueueError};
use crate::protocol::id::{ApiId, WorkerId};
use crate::service::backoff::Backoff;

/// The approximate limit of entries in a reply stream. An api that reads at all stays far below it.
const MAX_LENGTH: usize = 20_000;

/// Entries that an api reads at once.
const READ_COUNT: usize = 256;

impl Queue {
    /// Appends frames of replies, then acknowledges inbox entries of `worker`, in one round trip.
    ///
    /// Repeating it after an error is safe: an api drops a second reply to the same job. Redis
    /// drops a reply to an api that is gone.
    pub async fn settle(
        &self,
        worker: WorkerId,
        replies: &[(ApiId, Vec<u8>)],
        acknowledge: &[String],
    ) -> Result<(), QueueError> {
        if replies.is_empty() && acknowledge.is_empty() {
            return Ok(());
        }
        let mut pipe = redis::pipe();
        for (api, frame) in replies {
            pipe.cmd("XADD")
                .arg(self.keys().replies(*api))
                .arg(&["NOMKSTREAM", "MAXLEN", "~"])
                .arg(MAX_LENGTH)
                .arg(&["*", "b"])
                .arg(frame)
                .ignore();
        }
        if !acknowledge.is_empty() {
            let inbox = self.keys().inbox(worker);
            pipe.cmd("XACK")
                .arg(&inbox)
                .arg(GROUP)
                .arg(acknowledge)
                .ignore();
            pipe.cmd("XDEL").arg(&inbox).arg(acknowledge).ignore();
        }
        Ok(pipe.query_async(&mut self.shared()).await?)
    }

    /// Removes the entries of a reply stream before `last`, which was read.
    pub async fn trim_replies(&self, api: ApiId, last: &str) -> Result<(), QueueError> {
        Ok(redis::cmd("XTRIM")
            .arg(self.keys().replies(api))
            .arg(&["MINID", last])
            .query_async(&mut self.shared())
            .await?)
    }
}

/// Reads the reply stream of one api over a connection of its own.
#[derive(Debug)]
pub struct Reader {
    queue: Queue,
    stream: String,
    connection: Option<Observed<MultiplexedConnection>>,
    last: String,
    backoff: Backoff,
}

impl Reader {
    /// Reads the replies to `api`, from the first one.
    pub fn new(queue: Queue, api: ApiId) -> Self {
        let stream = queue.keys().replies(api);
        Self {
            queue,
            stream,
            connection: None,
            last: "0-0".to_owned(),
            backoff: Backoff::redis(),
        }
    }

    /// Waits up to two seconds for frames. The result is empty if none came.
    ///
    /// After an error of Redis it logs the error and waits before it returns. No reply is lost,
    /// because reading continues at the same position.
    pub async fn read(&mut self) -> Vec<Vec<u8>> {
        match self.try_read().await {
            Ok(frames) => {
                self.backoff.reset();
                frames
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read the replies");
                self.connection = None;
                self.backoff.wait().await;
                Vec::new()
            }
        }
    }

    /// Whether the last read succeeded.
    pub fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// The last entry that was read.
    pub fn last(&self) -> &str {
        &self.last
    }

    async fn try_read(&mut self) -> Result<Vec<Vec<u8>>, QueueError> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(self.queue.blocking().await?),
        };
        let reply: Value = redis::cmd("XREAD")
            .arg("COUNT")
            .arg(READ_COUNT)
            .arg("BLOCK")
            .arg(millis(BLOCK))
            .arg(&["STREAMS", &self.stream, &self.last])
            .query_async(connection)
            .await?;
        let entries = parse_read(reply)?;
        if let Some(entry) = entries.last() {
            self.last.clone_from(&entry.id);
        }
        Ok(entries.into_iter().map(|entry| entry.body).collect())
    }
}
