//! The generator of open load: calls that are due at a constant rate, whether or not the earlier ones
//! are answered. Each is timed from when it was due, so that what stalls cannot hide: neither the calls
//! that were sent late because of it, nor those that were not sent at all.

use std::thread;
use std::time::{Duration, Instant};

use futures::future::join_all;
use reqwest::RequestBuilder;
use tokio::runtime::Handle;

use crate::latencies::Latencies;
use crate::support::client::try_send;

/// What came of a load.
pub(crate) struct Paced {
    pub(crate) latencies: Latencies,
    /// Calls that were not answered with 200.
    pub(crate) failed: usize,
}

/// Calls `rate` times a second.
pub(crate) async fn run(request: RequestBuilder, rate: u32, span: Duration) -> Paced {
    let calls = rate * u32::try_from(span.as_secs()).expect("some seconds");
    let tokio = Handle::current();
    // A thread's sleep ends within some 60 µs, tokio's within a millisecond: as long as a call takes.
    let pacer = tokio::task::spawn_blocking(move || {
        let start = Instant::now();
        let send = |number: u32| {
            let due = start + Duration::from_secs(1) * number / rate;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            tokio.spawn(call(request.try_clone().expect("its body is text"), due))
        };
        (0..calls).map(send).collect::<Vec<_>>()
    });
    let under_way = pacer.await.expect("the pacer does not panic");
    let ended = join_all(under_way).await.into_iter();
    let ended: Vec<_> = ended
        .map(|call| call.expect("a call does not panic"))
        .collect();
    Paced {
        failed: ended.iter().filter(|(_, well)| !well).count(),
        latencies: Latencies::new(ended.into_iter().map(|(time, _)| time).collect()),
    }
}

/// Gives the time since it was due, and whether it went well.
async fn call(request: RequestBuilder, due: Instant) -> (Duration, bool) {
    let answer = try_send(request).await;
    (
        due.elapsed(),
        answer.is_ok_and(|answer| answer.status == 200),
    )
}
