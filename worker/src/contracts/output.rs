//! What a contract writes to its console: who wants it, and how it gets to Redis.
//!
//! Lines are stored while somebody follows the contract, and always if it was loaded so. Otherwise
//! nothing is asked of the sandbox but what the callers of single calls want.

use shared::protocol::job::MAX_LINES;
use shared::queue::logs::{LogLine, Retention};

use super::handle::Call;
use super::task::ContractTask;
use crate::sandbox::{CallOutput, Engine};

impl<E: Engine> ContractTask<E> {
    /// Whether somebody follows what the contract writes.
    pub(super) fn is_followed(&self) -> bool {
        let now = self.worker.queue.clock().now_ms();
        self.ends.status.is_followed_at(now)
    }

    /// Whether what the contract writes is stored now.
    pub(super) fn wants_output(&self) -> bool {
        self.spec.keep_logs || self.is_followed()
    }

    /// Stores what a call has written, if that is wanted.
    pub(super) fn store_output(&self, call: &Call, output: &CallOutput) {
        if !output.lines.is_empty() && self.wants_output() {
            let lines = output.clone().last(MAX_LINES as usize);
            self.store(call.delivery.request(), &call.method, lines);
        }
    }

    /// Stores lines of which it is not known during which call they were written, if that is
    /// wanted.
    pub(super) fn store_written(&self, lines: Vec<String>) {
        if !lines.is_empty() && self.wants_output() {
            self.store(None, "", lines);
        }
    }

    fn store(&self, request: Option<&str>, method: &str, lines: Vec<String>) {
        let retention = if self.spec.keep_logs {
            Retention::Kept
        } else {
            Retention::Followed
        };
        let lines = lines.into_iter().map(|text| LogLine {
            request: request.unwrap_or_default().to_owned(),
            method: method.to_owned(),
            text,
        });
        self.worker.logs.append(self.address(), retention, lines);
    }
}
