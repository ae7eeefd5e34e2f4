//! Reading an inbox.

use redis::Value;

use crate::protocol::id::WorkerId;
use crate::queue::counts::Observed;
use crate::queue::in_hand::{CatchUp, CatchUpRequest, EntryRef, InHand, Pending};
use crate::queue::nodes::Blocking;
use crate::queue::stream::{CONSUMER, Entry, GROUP, PendingEntries, parse_pending, remove_deleted};
use crate::queue::timing::{BLOCK, millis};
use crate::queue::{Queue, QueueError};
use crate::service::backoff::Backoff;

/// Entries that a worker reads at once.
const READ_COUNT: usize = 64;

/// An entry of an inbox. It stays pending until it is acknowledged.
#[derive(Debug)]
pub struct Received {
    /// The entry, to acknowledge it. It is not returned again while this value or a clone exists.
    pub entry: EntryRef,
    /// The frame, undecoded.
    pub frame: Vec<u8>,
    /// The entry was returned and settled before, but Redis has lost that. Its jobs may have been
    /// started, and their replies may be lost.
    pub returned_before: bool,
}

/// Reads the inbox of one worker over a connection of its own.
#[derive(Debug)]
pub struct Reader {
    queue: Queue,
    inbox: String,
    connection: Option<Observed<Blocking>>,
    in_hand: InHand,
    catch_up: CatchUp,
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
                self.connection = None;
                tracing::warn!(%error, "cannot read the inbox");
                self.queue.find_servers().await;
                self.backoff.wait().await;
                Vec::new()
            }
        }
    }

    async fn try_read(&mut self) -> Result<Vec<Received>, QueueError> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => {
                let connection = none.insert(self.queue.blocking(&self.inbox).await?);
                self.catch_up.connected(&mut self.in_hand);
                connection
            }
        };
        while let Some(from) = self.catch_up.position() {
            let in_hand = self.in_hand.now();
            let pending = read_group(connection, &self.inbox, &from.to_string()).await?;
            remove_deleted(connection, &self.inbox, GROUP, &pending.deleted).await?;
            self.catch_up.listed(pending.last, &mut self.in_hand);
            let sort = |entry: Entry| match self.in_hand.take_pending(&entry.id, &in_hand) {
                Pending::InHand => None,
                Pending::New(reference) => Some(received(reference, entry, false)),
                Pending::ReturnedBefore(reference) => Some(received(reference, entry, true)),
            };
            let lost: Vec<_> = pending.entries.into_iter().filter_map(sort).collect();
            if !lost.is_empty() {
                return Ok(lost);
            }
        }
        let delivered = read_group(connection, &self.inbox, ">").await?.entries;
        let take = |entry: Entry| {
            let reference = self.in_hand.take_delivered(&entry.id)?;
            Some(received(reference, entry, false))
        };
        Ok(delivered.into_iter().filter_map(take).collect())
    }
}

fn received(reference: EntryRef, entry: Entry, returned_before: bool) -> Received {
    Received {
        entry: reference,
        frame: entry.body,
        returned_before,
    }
}

async fn read_group(
    connection: &mut Observed<Blocking>,
    inbox: &str,
    from: &str,
) -> Result<PendingEntries, QueueError> {
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
    parse_pending(reply)
}
