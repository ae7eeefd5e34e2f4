//! Appends what contracts write to their streams in Redis, while somebody follows them or if they
//! were loaded so. Calls never wait for that: of what Redis does not take in time, the oldest lines
//! are left out, and the next ones follow a note of how many are missing.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{StreamExt, stream};
use shared::protocol::id::ContractAddress;
use shared::queue::Queue;
use shared::queue::logs::{LogLine, Retention};
use shared::service::lifecycle::Lifecycle;
use tokio::sync::Notify;

/// The lines of one contract that wait for Redis: as many as it keeps of them, see
/// [`shared::queue::logs`].
const LINES: usize = 1000;

/// Their bytes. While the lines of all contracts have more than [`ALL_BYTES`], a contract that
/// writes may have only [`LEAST_BYTES`].
const BYTES: usize = 256 << 10;
const ALL_BYTES: usize = 8 << 20;
const LEAST_BYTES: usize = 16 << 10;

/// Contracts whose output is sent at once.
const PARALLEL: usize = 8;

/// Takes what contracts write.
#[derive(Debug, Clone)]
pub(crate) struct LogWriter(Arc<Shared>);

/// Writes it to Redis; see [`LogTask::run`].
#[derive(Debug)]
pub(crate) struct LogTask(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    written: Notify,
}

/// The lines that wait.
#[derive(Debug, Default)]
struct Waiting {
    contracts: HashMap<ContractAddress, Pending>,
    bytes: usize,
}

/// The lines of one contract, and how many older ones were left out.
#[derive(Debug)]
struct Pending {
    retention: Retention,
    lines: VecDeque<LogLine>,
    bytes: usize,
    dropped: usize,
}

impl LogWriter {
    pub(crate) fn new() -> (Self, LogTask) {
        let shared = Arc::<Shared>::default();
        (Self(shared.clone()), LogTask(shared))
    }

    /// Appends lines to the stream of a contract, or of the contract that it is a replica of.
    pub(crate) fn append(
        &self,
        contract: &ContractAddress,
        retention: Retention,
        lines: impl IntoIterator<Item = LogLine>,
    ) {
        let contract = contract.replica(1);
        self.0.waiting().append(contract, retention, lines);
        self.0.written.notify_one();
    }
}

impl LogTask {
    /// Runs until the process stops. What is written while Redis takes lines comes next.
    pub(crate) async fn run(self, queue: Queue, life: Lifecycle) {
        loop {
            tokio::select! {
                () = self.0.written.notified() => {}
                () = life.stopping() => return,
            }
            let taken = std::mem::take(&mut *self.0.waiting());
            stream::iter(taken.contracts)
                .for_each_concurrent(PARALLEL, |(contract, pending)| {
                    self.append(&queue, contract, pending)
                })
                .await;
        }
    }

    async fn append(&self, queue: &Queue, contract: ContractAddress, pending: Pending) {
        let retention = pending.retention;
        let count = pending.dropped + pending.lines.len();
        let lines = pending.with_note();
        if let Err(error) = queue.append_logs(&contract, &lines, retention).await {
            tracing::debug!(%contract, %error, "output of calls not stored");
            self.0.waiting().drop_lines(contract, retention, count);
        }
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // The lines and their sums are changed without a panic in between.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Counts lines that Redis did not take.
    fn drop_lines(&mut self, contract: ContractAddress, retention: Retention, count: usize) {
        self.of(contract, retention).dropped += count;
    }

    fn of(&mut self, contract: ContractAddress, retention: Retention) -> &mut Pending {
        let pending = self.contracts.entry(contract).or_insert(Pending {
            retention,
            lines: VecDeque::new(),
            bytes: 0,
            dropped: 0,
        });
        pending.retention = retention;
        pending
    }

    fn append(
        &mut self,
        contract: ContractAddress,
        retention: Retention,
        lines: impl IntoIterator<Item = LogLine>,
    ) {
        let mut sum = self.bytes;
        let own = self.of(contract, retention);
        for line in lines {
            let bytes = line.bytes();
            own.lines.push_back(line);
            own.bytes += bytes;
            sum += bytes;
            let most = if sum > ALL_BYTES { LEAST_BYTES } else { BYTES };
            while own.lines.len() > LINES || own.bytes > most {
                let Some(oldest) = own.lines.pop_front() else {
                    break;
                };
                own.bytes -= oldest.bytes();
                sum -= oldest.bytes();
                own.dropped += 1;
            }
        }
        self.bytes = sum;
    }
}

impl Pending {
    /// The lines, after one that says how many are missing.
    fn with_note(mut self) -> Vec<LogLine> {
        if self.dropped > 0 {
            let text = format!("({} lines dropped)", self.dropped);
            self.lines.push_front(LogLine::of_no_call(text));
        }
        self.lines.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(waiting: &mut Waiting, contract: &str, lines: impl IntoIterator<Item = String>) {
        let lines = lines.into_iter().map(LogLine::of_no_call);
        waiting.append(contract.parse().unwrap(), Retention::Kept, lines);
    }

    /// The texts that are stored for a contract.
    fn stored(waiting: &mut Waiting, contract: &str) -> Vec<String> {
        let lines = waiting.contracts.remove(&contract.parse().unwrap());
        let lines = lines.unwrap().with_note().into_iter();
        lines.map(|line| line.text).collect()
    }

    #[test]
    fn lines_of_a_contract_are_joined_in_order() {
        let mut waiting = Waiting::default();
        for (contract, text) in [("a", "1"), ("b", "2"), ("a", "3")] {
            append(&mut waiting, contract, [text.to_owned()]);
        }
        assert_eq!(stored(&mut waiting, "a"), ["1", "3"]);
        assert_eq!(stored(&mut waiting, "b"), ["2"]);
    }

    #[test]
    fn the_last_lines_have_room_whatever_was_written_before() {
        let mut waiting = Waiting::default();
        append(
            &mut waiting,
            "a",
            (0..5000).map(|number| number.to_string()),
        );
        let lines = stored(&mut waiting, "a");
        assert_eq!(lines.len(), LINES + 1);
        assert_eq!(lines[0], "(4000 lines dropped)");
        assert_eq!(lines[LINES], "4999");

        let long = || (0..900).map(|_| "x".repeat(1000));
        append(&mut waiting, "a", long().chain(["the end".to_owned()]));
        let lines = stored(&mut waiting, "a");
        assert!(
            (100..BYTES / 1000 + 2).contains(&lines.len()),
            "{}",
            lines.len()
        );
        assert_eq!(lines[lines.len() - 1], "the end");
    }

    #[test]
    fn lines_that_redis_did_not_take_are_counted() {
        let mut waiting = Waiting::default();
        append(&mut waiting, "a", ["1".to_owned()]);
        waiting.drop_lines("a".parse().unwrap(), Retention::Kept, 7);
        assert_eq!(stored(&mut waiting, "a"), ["(7 lines dropped)", "1"]);
    }

    #[test]
    fn the_lines_of_all_contracts_are_bounded() {
        let mut waiting = Waiting::default();
        for number in 0..200 {
            let long = (0..900).map(|_| "x".repeat(1000));
            append(&mut waiting, &format!("a{number}"), long);
        }
        let sum: usize = waiting.contracts.values().map(|lines| lines.bytes).sum();
        assert_eq!(waiting.bytes, sum);
        assert!(sum < ALL_BYTES + BYTES + 200 * LEAST_BYTES, "{sum}");
        assert!(
            waiting
                .contracts
                .values()
                .all(|lines| !lines.lines.is_empty())
        );
    }
}
