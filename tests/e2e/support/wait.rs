//! Waiting for a condition: the only place that sleeps.

use std::time::{Duration, Instant};

/// How often a condition is checked.
const INTERVAL: Duration = Duration::from_millis(20);

/// The limit of waits that need no special one. It is generous: only a failing test reaches it.
pub(crate) const DEFAULT_LIMIT: Duration = Duration::from_secs(30);

/// Calls `probe` until it returns a value.
///
/// # Panics
/// After `limit`, with the text `what`.
pub(crate) async fn until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(
            start.elapsed() < limit,
            "waited {limit:?} without success for: {what}"
        );
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Calls `condition` until it returns true; see [`until`].
pub(crate) async fn until_true(
    what: &str,
    limit: Duration,
    mut condition: impl AsyncFnMut() -> bool,
) {
    until(what, limit, async || condition().await.then_some(())).await;
}

/// Calls `problems` until it returns none.
///
/// # Panics
/// After `limit`, with the last ones.
pub(crate) async fn until_none(limit: Duration, mut problems: impl AsyncFnMut() -> Vec<String>) {
    let start = Instant::now();
    loop {
        let left = problems().await;
        if left.is_empty() {
            return;
        }
        assert!(start.elapsed() < limit, "still, after {limit:?}: {left:#?}");
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Lets time pass that is part of the test: the length of a fault, or the time until the next call.
/// Never instead of waiting for a condition.
pub(crate) async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}
