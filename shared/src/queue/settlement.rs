//! Settles the jobs of a worker, batch after batch: replies to the apis, and acknowledgements to
//! the worker's inbox.
//!
//! With one server, a batch is one transaction. In a cluster, replies and inbox may be on different
//! servers. An entry is then acknowledged with the next batch, when its replies are stored; nobody
//! waits for that. While the server of a reply stream is away, its replies are kept and sent again,
//! and the other apis get theirs.

use std::time::Duration;

use futures::future::{join, join_all};
use tokio::time::Instant;

use super::timing::{ACKNOWLEDGE_AFTER, ANSWERS_WITHIN, API_KEYS, HEARTBEAT, RESPONSE_TIMEOUT};
use super::{EntryRef, Queue, QueueError};
use crate::protocol::id::{ApiId, WorkerId};

/// Batches whose replies are kept at most. Then the worker waits for the server that is away.
const KEPT: usize = 64;

/// Bytes of replies that are kept at most: 64 MiB.
const KEPT_BYTES: usize = 64 << 20;

/// A frame of replies, and the api that it is for.
type Frame = (ApiId, Vec<u8>);

/// Settles the jobs of a worker.
#[derive(Debug)]
pub struct Settlement {
    queue: Queue,
    /// Entries whose replies are stored, to be acknowledged in the inbox of that worker.
    owed: Option<(WorkerId, Vec<EntryRef>)>,
    kept: Vec<Kept>,
    /// When what is kept was sent last.
    sent_again: Instant,
}

/// A batch of which some replies could not be stored.
#[derive(Debug)]
struct Kept {
    since: Instant,
    worker: WorkerId,
    replies: Vec<Frame>,
    entries: Vec<EntryRef>,
}

impl Settlement {
    /// Settles nothing yet.
    pub fn new(queue: Queue) -> Self {
        Self {
            queue,
            owed: None,
            kept: Vec::new(),
            sent_again: Instant::now(),
        }
    }

    /// When [`Self::finish`] should be called at the latest, counted from the last batch.
    pub fn is_due_after(&self) -> Option<Duration> {
        match (&self.owed, self.kept.is_empty()) {
            (Some(_), _) => Some(ACKNOWLEDGE_AFTER),
            (None, false) => Some(HEARTBEAT),
            (None, true) => None,
        }
    }

    /// As [`Queue::settle`]. It may be repeated after an error.
    pub async fn settle(
        &mut self,
        worker: WorkerId,
        replies: &[Frame],
        entries: &[EntryRef],
    ) -> Result<(), QueueError> {
        if !self.queue.is_cluster() {
            return self.queue.settle(worker, replies, entries).await;
        }
        self.send_again().await?;
        let not_stored = self.send(worker, replies).await?;
        if not_stored.is_empty() {
            self.owed = (!entries.is_empty()).then(|| (worker, entries.to_vec()));
        } else {
            self.kept.push(Kept {
                since: Instant::now(),
                worker,
                replies: not_stored,
                entries: entries.to_vec(),
            });
        }
        Ok(())
    }

    /// Acknowledges what is still owed, and sends again what is kept.
    pub async fn finish(&mut self) -> Result<(), QueueError> {
        if let Some((worker, _)) = self.owed {
            self.acknowledge(worker).await?;
            self.owed = None;
        }
        self.send_again().await
    }

    /// Sends what is kept, unless that was tried less than a heartbeat ago.
    async fn send_again(&mut self) -> Result<(), QueueError> {
        if self.kept.is_empty() || self.sent_again.elapsed() < HEARTBEAT {
            return Ok(());
        }
        let Self { queue, kept, .. } = self;
        let sending = kept.iter_mut().map(async |batch| {
            let replies = batch.replies.iter();
            let sent = replies.map(|reply| queue.send_reply(reply, ANSWERS_WITHIN));
            let mut sent = join_all(sent).await.into_iter();
            let is_stored = |sent: Option<Result<(), _>>| matches!(sent, Some(Ok(())));
            batch.replies.retain(|_| !is_stored(sent.next()));
        });
        join_all(sending).await;
        self.sent_again = Instant::now();
        let mut failure = None;
        for batch in std::mem::take(&mut self.kept) {
            if batch.replies.is_empty() && failure.is_none() {
                let settling = self.queue.settle(batch.worker, &[], &batch.entries);
                match settling.await {
                    Ok(()) => continue,
                    Err(error) => failure = Some(error),
                }
            }
            // A stream whose server was away for longer has expired: its api does not wait.
            if batch.since.elapsed() < API_KEYS {
                self.kept.push(batch);
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Sends replies, and acknowledges what is owed. Returns the replies that could not be stored
    /// on another server than that of the worker's inbox.
    async fn send(
        &mut self,
        worker: WorkerId,
        replies: &[Frame],
    ) -> Result<Vec<Frame>, QueueError> {
        let own = self.queue.server_of_inbox(worker);
        let sending = replies.iter().map(async |reply| {
            let (api, _) = reply;
            if self.keeps_for(*api) {
                return Ok(false);
            }
            if self.queue.server_of_replies(*api) == own {
                let sent = self.queue.send_reply(reply, RESPONSE_TIMEOUT).await;
                return sent.map(|()| true);
            }
            match self.queue.send_reply(reply, ANSWERS_WITHIN).await {
                Ok(()) => Ok(true),
                Err(error) if self.is_full() => Err(error),
                Err(error) => {
                    tracing::debug!(%api, %error, "replies kept, their server is away");
                    Ok(false)
                }
            }
        });
        let (sent, acknowledged) = join(join_all(sending), self.acknowledge(worker)).await;
        acknowledged?;
        self.owed = None;
        let sent: Vec<bool> = sent.into_iter().collect::<Result<_, _>>()?;
        let not_stored = replies.iter().zip(sent).filter(|(_, stored)| !stored);
        Ok(not_stored.map(|(reply, _)| reply.clone()).collect())
    }

    /// Whether replies to this api are waiting, so that more of them need not be tried.
    fn keeps_for(&self, api: ApiId) -> bool {
        let mut batches = self.kept.iter();
        !self.is_full()
            && batches.any(|batch| batch.replies.iter().any(|(waiting, _)| *waiting == api))
    }

    fn is_full(&self) -> bool {
        let frames = self.kept.iter().flat_map(|batch| &batch.replies);
        let bytes: usize = frames.map(|(_, frame)| frame.len()).sum();
        self.kept.len() >= KEPT || bytes >= KEPT_BYTES
    }

    /// Acknowledges what is owed to the inbox of `worker`. That of an earlier id is gone.
    async fn acknowledge(&self, worker: WorkerId) -> Result<(), QueueError> {
        match &self.owed {
            Some((owner, entries)) if *owner == worker => {
                self.queue.settle(worker, &[], entries).await
            }
            _ => Ok(()),
        }
    }
}

impl Queue {
    async fn send_reply(&self, reply: &Frame, limit: Duration) -> Result<(), QueueError> {
        let mut pipe = redis::pipe();
        self.add_replies(&mut pipe, std::slice::from_ref(reply));
        Ok(pipe.query_async(&mut self.shared_within(limit)).await?)
    }
}
