//! Appends what contracts write to their streams in Redis, while somebody follows them or if they
//! were loaded so. Calls never wait for that: what Redis does not take in time is left out.

use std::collections::HashMap;

use futures::{StreamExt, stream};
use shared::protocol::id::ContractAddress;
use shared::queue::Queue;
use shared::queue::logs::{LogLine, Retention};
use shared::service::lifecycle::Lifecycle;
use tokio::sync::mpsc;

/// The outputs of calls that wait for Redis. Each has 48 KiB at most. As many are on their way.
const WAITING: usize = 64;

/// Contracts whose output is sent at once.
const PARALLEL: usize = 8;

/// Takes the outputs of calls.
#[derive(Debug, Clone)]
pub(crate) struct LogWriter(mpsc::Sender<Written>);

/// Sends them to Redis.
pub(crate) struct LogTask(mpsc::Receiver<Written>);

#[derive(Debug)]
struct Written {
    contract: ContractAddress,
    retention: Retention,
    lines: Vec<LogLine>,
}

impl LogWriter {
    pub(crate) fn new() -> (Self, LogTask) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self(sender), LogTask(receiver))
    }

    /// Appends lines to the stream of a contract, or of the contract that it is a replica of. False
    /// if others wait already: then they are left out.
    pub(crate) fn append(
        &self,
        contract: &ContractAddress,
        retention: Retention,
        lines: Vec<LogLine>,
    ) -> bool {
        let contract = contract.replica(1);
        let written = Written {
            contract,
            retention,
            lines,
        };
        self.0.try_send(written).is_ok()
    }
}

impl LogTask {
    /// Runs until the process stops. What is written while Redis takes a batch is the next one.
    pub(crate) async fn run(mut self, queue: Queue, life: Lifecycle) {
        let mut batch = Vec::with_capacity(WAITING);
        loop {
            let count = tokio::select! {
                count = self.0.recv_many(&mut batch, WAITING) => count,
                () = life.stopping() => 0,
            };
            if count == 0 {
                return;
            }
            stream::iter(by_contract(batch.drain(..)))
                .for_each_concurrent(PARALLEL, |written| append(&queue, written))
                .await;
        }
    }
}

/// Joins the outputs of each contract, in their order.
fn by_contract(batch: impl Iterator<Item = Written>) -> Vec<Written> {
    let mut places: HashMap<ContractAddress, usize> = HashMap::new();
    let mut joined: Vec<Written> = Vec::new();
    for written in batch {
        if let Some(place) = places.get(&written.contract).copied() {
            joined[place].lines.extend(written.lines);
        } else {
            places.insert(written.contract.clone(), joined.len());
            joined.push(written);
        }
    }
    joined
}

async fn append(queue: &Queue, written: Written) {
    let Written {
        contract,
        retention,
        lines,
    } = written;
    if let Err(error) = queue.append_logs(&contract, &lines, retention).await {
        tracing::debug!(%contract, %error, "output of calls not stored");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(contract: &str, text: &str) -> Written {
        Written {
            contract: contract.parse().unwrap(),
            retention: Retention::Kept,
            lines: vec![LogLine {
                request: String::new(),
                method: String::new(),
                text: text.to_owned(),
            }],
        }
    }

    #[test]
    fn outputs_of_a_contract_are_joined_in_order() {
        let batch = [written("a", "1"), written("b", "2"), written("a", "3")];
        let joined = by_contract(batch.into_iter());
        let texts = |written: &Written| -> Vec<_> {
            let lines = written.lines.iter();
            lines.map(|line| line.text.clone()).collect()
        };
        let texts: Vec<_> = joined.iter().map(texts).collect();
        assert_eq!(texts, [vec!["1", "3"], vec!["2"]]);
    }

    #[test]
    fn what_finds_no_room_is_left_out() {
        let (writer, _task) = LogWriter::new();
        let contract = "a".parse().unwrap();
        let append = || writer.append(&contract, Retention::Kept, Vec::new());
        assert!((0..WAITING).all(|_| append()));
        assert!(!append());
    }
}
