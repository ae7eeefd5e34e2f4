//! Appends what contracts write to their streams in Redis, while somebody follows them. Calls never
//! wait for that: what Redis does not take in time is left out.

use shared::protocol::id::ContractAddress;
use shared::queue::Queue;
use shared::queue::logs::LogLine;
use shared::service::lifecycle::Lifecycle;
use tokio::sync::mpsc;

/// The outputs of calls that wait for Redis. Each has 48 KiB at most.
const WAITING: usize = 64;

/// Takes the outputs of calls.
#[derive(Debug, Clone)]
pub(crate) struct LogWriter(mpsc::Sender<Written>);

/// Sends them to Redis.
pub(crate) struct LogTask(mpsc::Receiver<Written>);

#[derive(Debug)]
struct Written {
    contract: ContractAddress,
    lines: Vec<LogLine>,
}

impl LogWriter {
    pub(crate) fn new() -> (Self, LogTask) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self(sender), LogTask(receiver))
    }

    /// Appends lines to the stream of a contract, or of the contract that it is a replica of.
    pub(crate) fn append(&self, contract: &ContractAddress, lines: Vec<LogLine>) {
        let contract = contract.replica(1);
        let count = lines.len();
        if self.0.try_send(Written { contract, lines }).is_err() {
            tracing::debug!(count, "output of a call not stored, others wait already");
        }
    }
}

impl LogTask {
    pub(crate) async fn run(mut self, queue: Queue, life: Lifecycle) {
        loop {
            let written = tokio::select! {
                written = self.0.recv() => written,
                () = life.stopping() => None,
            };
            let Some(Written { contract, lines }) = written else {
                return;
            };
            if let Err(error) = queue.append_logs(&contract, &lines).await {
                tracing::debug!(%contract, %error, "output of a call not stored");
            }
        }
    }
}
