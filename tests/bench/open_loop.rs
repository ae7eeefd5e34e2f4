//! The generator of open-loop load: calls are due at a constant rate, whether or not earlier ones
//! are answered. Latency counts from the time a call was due, so a stall cannot hide: late calls
//! and unsent calls both count.

use std::thread;
use std::time::{Duration, Instant};

use futures::future::join_all;
use reqwest::RequestBuilder;
use tokio::runtime::Handle;

use crate::latencies::Latencies;
use crate::support::client::try_send;

/// The result of a load.
pub(crate) struct OpenLoopResult {
    pub(crate) latencies: Latencies,
    /// Calls that were not answered with 200.
    pub(crate) failed: usize,
}

/// Calls `rate` times a second.
pub(crate) async fn run(request: RequestBuilder, rate: u32, span: Duration) -> OpenLoopResult {
    let calls = rate * u32::try_from(span.as_secs()).expect("some seconds");
    let tokio = Handle::current();
    // A thread's sleep is accurate to about 60 µs. tokio's is accurate to a millisecond, which is
    // as long as a call.
    let pacer = tokio::task::spawn_blocking(move || {
        let start = Instant::now();
        let send = |number: u32| {
            let due = start + Duration::from_secs(1) * number / rate;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            tokio.spawn(call(request.try_clone().expect("its body is text"), due))
        };
        (0..calls).map(send).collect::<Vec<_>>()
    });
    let in_flight = pacer.await.expect("the pacer does not panic");
    let ended = join_all(in_flight).await.into_iter();
    let ended: Vec<_> = ended
        .map(|call| call.expect("a call does not panic"))
        .collect();
    OpenLoopResult {
        failed: ended.iter().filter(|(_, well)| !well).count(),
        latencies: Latencies::new(ended.into_iter().map(|(time, _)| time).collect()),
    }
}

/// Returns the time since the call was due, and whether it succeeded.
async fn call(request: RequestBuilder, due: Instant) -> (Duration, bool) {
    let answer = try_send(request).await;
    (
        due.elapsed(),
        answer.is_ok_and(|answer| answer.status == 200),
    )
}
