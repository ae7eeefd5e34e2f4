//! Checks the recorded calls of the JavaScript contracts after a soak.

use crate::support::call_log::{CallLog, Repeats};
use crate::support::client::Client;

/// The allowed outcomes of a call while faults are injected. The called method takes no time, so no
/// call may overrun its limit. Two faults in a row may keep its api from Redis until its deadline.
const ALLOWED: [&str; 8] = [
    "ok",
    "contract_crashed",
    "contract_quarantined",
    "deadline",
    "no_capacity",
    "outcome_unknown",
    "overloaded",
    "queue_unavailable",
];

/// The minimum success rate of all calls, in percent.
const MIN_SUCCESS_PERCENT: usize = 60;

/// Checks the invariants of the calls and returns a summary line.
pub(crate) async fn check(log: &CallLog, client: &Client) -> String {
    log.check_allowing(client, &ALLOWED, Repeats::ByCallers)
        .await;
    let (all, well) = (log.calls.len(), log.succeeded());
    assert!(
        well * 100 >= all * MIN_SUCCESS_PERCENT,
        "only {well} of {all} calls succeeded"
    );
    format!("{log}, each answered once")
}
