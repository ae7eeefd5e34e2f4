//! Reading an inbox.

use redis::Value;
use redis::aio::MultiplexedConnection;

use crate::protocol::id::WorkerId;
use crate::queue::counts::Observed;
use crate::queue::stream::{CONSUMER, Entry, EntryId, GROUP, parse_read};
use crate::queue::timing::{BLOCK, millis};
use crate::queue::{Queue, QueueError};
use crate::service::backoff::Backoff;

/// Entries that a worker reads at once.
const READ_COUNT: usize = 64;

/// An entry of an inbox. It stays pending until it is acknowledged.
#[derive(Debug)]
pub struct Received {
    /// The id of the entry, for its acknowledgement.
    pub entry: String,
    /// The frame, undecoded.
    pub frame: Vec<u8>,
}

/// Reads the inbox of one worker over a connection of its own.
#[derive(Debug)]
pub struct Reader {
    queue: Queue,
    inbox: String,
    connection: Option<Observed<MultiplexedConnection>>,
    /// Whether entries may be pending that were delivered to an earlier connection and lost.
    recovering: bool,
    /// The last entry that was returned. Ids grow, and entries are delivered in their order.
    last: EntryId,
    backoff: Backoff,
}

impl Queue {
    /// How many entries of a worker's inbox are not acknowledged.
    pub async fn inbox_depth(&self, worker: WorkerId) -> Result<u32, QueueError> {
        Ok(redis::cmd("XLEN")
            .arg(self.keys().inbox(worker))
            .query_async(&mut self.shared())
            .await?)
    }
}

impl Reader {
    /// Reads the inbox of `worker`.
    pub fn new(queue: Queue, worker: WorkerId) -> Self {
        let inbox = queue.keys().inbox(worker);
        Self {
            queue,
            inbox,
            connection: None,
            recovering: true,
            last: EntryId::default(),
            backoff: Backoff::redis(),
        }
    }

    /// Waits up to two seconds for new entries. The result is empty if none came.
    ///
    /// After an error of Redis it logs the error and waits before it returns.
    pub async fn read(&mut self) -> Vec<Received> {
        match self.try_read().await {
            Ok(entries) => {
                self.backoff.reset();
                entries
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read the inbox");
                self.connection = None;
                self.backoff.wait().await;
                Vec::new()
            }
        }
    }

    async fn try_read(&mut self) -> Result<Vec<Received>, QueueError> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => {
                self.recovering = true;
                none.insert(self.queue.blocking().await?)
            }
        };
        if self.recovering {
            // Entries that were delivered to a broken connection and lost are pending. They are
            // younger than every entry that did arrive.
            let pending = read_group(connection, &self.inbox, &self.last.to_string()).await?;
            self.recovering = !pending.is_empty();
            if self.recovering {
                return Ok(self.accept(pending));
            }
        }
        let new = read_group(connection, &self.inbox, ">").await?;
        Ok(self.accept(new))
    }

    /// Returns the entries that were not returned before.
    fn accept(&mut self, entries: Vec<Entry>) -> Vec<Received> {
        let mut received = Vec::with_capacity(entries.len());
        for Entry { id, body } in entries {
            let position = EntryId::parse(&id);
            if position > self.last {
                self.last = position;
                received.push(Received {
                    entry: id,
                    frame: body,
                });
            }
        }
        received
    }
}

async fn read_group(
    connection: &mut Observed<MultiplexedConnection>,
    inbox: &str,
    from: &str,
) -> Result<Vec<Entry>, QueueError> {
    let reply: Value = redis::cmd("XREADGROUP")
        .arg(&["GROUP", GROUP, CONSUMER, "COUNT"])
        .arg(READ_COUNT)
        .arg("BLOCK")
        .arg(millis(BLOCK))
        .arg(&["STREAMS", inbox, from])
        .query_async(connection)
        .await
        // The inbox was closed during the read.
        .or_else(|error| match error.code() {
            Some("UNBLOCKED") => Ok(Value::Nil),
            _ => Err(error),
        })?;
    parse_read(reply)
}
