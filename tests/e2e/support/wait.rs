//! Waiting for a condition: the only place that sleeps.

use std::time::{Duration, Instant};

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(20);

/// The deadline of whatever has no better one. Generous: it is reached only by a failing test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Asks `probe` until it gives a value.
///
/// # Panics
/// After `limit`, naming `what` was waited for.
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
            "waited {limit:?} in vain for: {what}"
        );
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Asks `condition` until it holds; see [`until`].
pub(crate) async fn until_true(
    what: &str,
    limit: Duration,
    mut condition: impl AsyncFnMut() -> bool,
) {
    until(what, limit, async || condition().await.then_some(())).await;
}

/// Asks `complaints` until there are none.
///
/// # Panics
/// After `limit`, with the last ones.
pub(crate) async fn until_none(limit: Duration, mut complaints: impl AsyncFnMut() -> Vec<String>) {
    let start = Instant::now();
    loop {
        let left = complaints().await;
        if left.is_empty() {
            return;
        }
        assert!(start.elapsed() < limit, "still, after {limit:?}: {left:#?}");
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Lets time pass that belongs to what is tested: how long a fault lasts, when the next call is
/// due. Never instead of a condition.
pub(crate) async fn lasts(time: Duration) {
    tokio::time::sleep(time).await;
}
