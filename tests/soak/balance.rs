//! What the book-keepers' calls came to.

use crate::support::call_log::{CallLog, Repeats};
use crate::support::client::Client;

/// How a call may end while faults strike; each of them is an answer. What they call takes no time, so
/// none of them may run over it; but two faults in a row may keep its api from Redis until its deadline.
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

/// Of all calls, how many must have succeeded: percent.
const MOST: usize = 60;

/// Checks the books; gives them as a line.
pub(crate) async fn of_calls(log: &CallLog, client: &Client) -> String {
    log.check_allowing(client, &ALLOWED, Repeats::ByCallers)
        .await;
    let (all, well) = (log.calls.len(), log.succeeded());
    assert!(
        well * 100 >= all * MOST,
        "only {well} of {all} calls have succeeded"
    );
    format!("{log}, each answered once")
}
