//! The reply stream of an api: workers append frames of replies, only the api reads and trims it.

use redis::{Pipeline, Value};

use super::counts::Observed;
use super::nodes::Blocking;
use super::stream::{EntryId, GROUP, parse_read};
use super::timing::{BLOCK, millis};
use super::{EntryRef, Queue, QueueError};
use crate::protocol::id::{ApiId, WorkerId};
use crate::service::backoff::Backoff;

/// The approximate limit of entries in a reply stream. An api that reads at all stays far below it.
const MAX_LENGTH: usize = 20_000;

/// The position before the first entry of a stream.
const START: &str = "0-0";

/// Entries that an api reads at once.
const READ_COUNT: usize = 256;

impl Queue {
    /// Appends frames of replies and acknowledges inbox entries of `worker`, in one round trip and
    /// one transaction. If Redis refuses a reply, for example at maxmemory, no entry is
    /// acknowledged: an entry is the recovery record of its jobs until their replies are stored.
    ///
    /// Repeating it after an error is safe: an api drops a second reply to the same job. Redis
    /// drops a reply to an api that is gone.
    pub async fn settle(
        &self,
        worker: WorkerId,
        replies: &[(ApiId, Vec<u8>)],
        acknowledge: &[EntryRef],
    ) -> Result<(), QueueError> {
        if replies.is_empty() && acknowledge.is_empty() {
            return Ok(());
        }
        let mut pipe = redis::pipe();
        self.add_replies(&mut pipe, replies);
        if !replies.is_empty() && !acknowledge.is_empty() {
            if self.is_cluster() {
                // There is no transaction over two servers, so the replies come first.
                pipe.query_async::<()>(&mut self.shared()).await?;
                pipe.clear();
            } else {
                pipe.atomic();
            }
        }
        self.add_acknowledgement(&mut pipe, worker, acknowledge);
        Ok(pipe.query_async(&mut self.shared()).await?)
    }

    pub(super) fn add_replies(&self, pipe: &mut Pipeline, replies: &[(ApiId, Vec<u8>)]) {
        for (api, frame) in replies {
            pipe.cmd("XADD")
                .arg(self.keys().replies(*api))
                .arg(&["NOMKSTREAM", "MAXLEN", "~"])
                .arg(MAX_LENGTH)
                .arg(&["*", "b"])
                .arg(frame)
                .ignore();
        }
    }

    pub(super) fn add_acknowledgement(
        &self,
        pipe: &mut Pipeline,
        worker: WorkerId,
        entries: &[EntryRef],
    ) {
        if entries.is_empty() {
            return;
        }
        let inbox = self.keys().inbox(worker);
        let ids: Vec<_> = entries.iter().map(EntryRef::id).collect();
        pipe.cmd("XACK").arg(&inbox).arg(GROUP).arg(&ids).ignore();
        pipe.cmd("XDEL").arg(&inbox).arg(&ids).ignore();
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
    connection: Option<Observed<Blocking>>,
    last: String,
    /// Whether the stream may have been lost and created again since the last read.
    may_be_new: bool,
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
            last: START.to_owned(),
            may_be_new: false,
            backoff: Backoff::redis(),
        }
    }

    /// Waits up to two seconds for frames. The result is empty if none came.
    ///
    /// After an error of Redis it logs the error and waits before it returns. No reply is lost,
    /// because reading continues at the same position, or at the start of a new stream.
    pub async fn read(&mut self) -> Vec<Vec<u8>> {
        match self.try_read().await {
            Ok(frames) => {
                self.backoff.reset();
                frames
            }
            Err(error) => {
                self.connection = None;
                tracing::warn!(%error, "cannot read the replies");
                self.queue.find_servers().await;
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
            none => {
                self.may_be_new = true;
                none.insert(self.queue.blocking(&self.stream).await?)
            }
        };
        if self.may_be_new && self.last != START {
            if is_behind(connection, &self.stream, &self.last).await? {
                tracing::warn!("reply stream was created again; reading it from its start");
                START.clone_into(&mut self.last);
            }
            self.may_be_new = false;
        }
        let reply: Value = redis::cmd("XREAD")
            .arg("COUNT")
            .arg(READ_COUNT)
            .arg("BLOCK")
            .arg(millis(BLOCK))
            .arg(&["STREAMS", &self.stream, &self.last])
            .query_async(connection)
            .await?;
        let entries = parse_read(reply)?;
        match entries.last() {
            Some(entry) => self.last.clone_from(&entry.id),
            None => self.may_be_new = true,
        }
        Ok(entries.into_iter().map(|entry| entry.body).collect())
    }
}

/// Whether a stream has never reached the entry `last`, or does not exist. Then Redis has lost it,
/// and if its clock went back, new entries have lower ids than the ones that were read.
async fn is_behind(
    connection: &mut Observed<Blocking>,
    stream: &str,
    last: &str,
) -> Result<bool, QueueError> {
    let info: Result<Value, _> = redis::cmd("XINFO")
        .arg(&["STREAM", stream])
        .query_async(connection)
        .await;
    let info = match info {
        // There is no such key.
        Err(error) if error.code() == Some("ERR") => return Ok(true),
        info => info?,
    };
    let fields: std::collections::HashMap<String, Value> =
        redis::from_redis_value(info).map_err(|error| QueueError::Unexpected(error.to_string()))?;
    let generated = fields
        .get("last-generated-id")
        .and_then(|id| redis::from_redis_value_ref::<String>(id).ok())
        .ok_or_else(|| QueueError::Unexpected("XINFO without last-generated-id".to_owned()))?;
    Ok(EntryId::parse(&generated) < EntryId::parse(last))
}
