//! The calls of one contract to its container: their concurrency, their time limits and their
//! outcomes.
//!
//! After a call that exceeds its limit or whose connection breaks, the container is probed: it must
//! still respond to a request. If it does not respond, it is lost. It gets no more calls during the
//! probe.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use serde_json::value::RawValue;
use shared::protocol::image::PinnedImage;
use shared::protocol::job::Limits;
use shared::protocol::reply::{Failure, FailureCode};
use tokio::time::{Instant, timeout};

use super::client::{CallError, ContractClient};
use super::config::DockerConfig;
use super::container::Container;
use crate::sandbox::{CallId, CallOutput, CallTime, Event, Instance, Invocation, LossCause, Room};

/// How long a failed probe waits for the report of the container's death, which names the cause and
/// what the contract printed last.
const DEATH_REPORT_LIMIT: Duration = Duration::from_secs(1);

/// One contract in its container.
pub struct ContractContainer {
    container: Container,
    client: ContractClient,
    call_limit: Duration,
    probe_limit: Duration,
    concurrency: usize,
    calls: FuturesUnordered<BoxFuture<'static, Ended>>,
    /// Calls with a broken connection. It is not known yet whether the container died.
    broken: Vec<(CallId, String, Duration)>,
    /// The probe in progress, if there is one.
    probe: Option<BoxFuture<'static, Probe>>,
    lost: bool,
}

/// A call that ended.
struct Ended {
    call: CallId,
    end: End,
    elapsed: Duration,
}

/// What a probe has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    /// The contract responds.
    Responds,
    /// The contract refuses or breaks off connections.
    Refuses,
    /// Nothing happened in time. The contract or a busy machine may be the cause.
    Silent,
}

enum End {
    Answered(Result<Box<RawValue>, Failure>),
    NotSent(String),
    Broken(String),
    TimedOut,
}

/// What [`ContractContainer::next`] waits for.
enum Step {
    /// With the cause, and what the container printed last.
    Died(String, Vec<String>),
    Probed(Probe),
    Ended(Ended),
    Printed(Vec<String>),
}

impl ContractContainer {
    pub(super) fn new(container: Container, config: &DockerConfig, limits: &Limits) -> Self {
        let limits = config.limits(limits);
        Self {
            client: ContractClient::new(container.address, limits.result_bytes as usize),
            container,
            call_limit: Duration::from_millis(limits.timeout_ms.into()),
            probe_limit: config.probe_limit,
            concurrency: limits.concurrency.unwrap_or(config.concurrency) as usize,
            calls: FuturesUnordered::new(),
            broken: Vec::new(),
            probe: None,
            lost: false,
        }
    }

    async fn step(&mut self) -> Step {
        let probe = async {
            match &mut self.probe {
                Some(probe) => probe.await,
                None => std::future::pending().await,
            }
        };
        let output = &mut self.container.output;
        tokio::select! {
            biased;
            Some(ended) = self.calls.next() => Step::Ended(ended),
            cause = self.container.watch.death() => Step::Died(cause, output.rest().await),
            found = probe => Step::Probed(found),
            lines = output.next() => Step::Printed(lines),
        }
    }

    fn advance(&mut self, step: Step) -> Vec<Event> {
        match step {
            Step::Died(reason, lines) => {
                let mut events = vec![Event::Written(lines)];
                events.extend(self.lose(reason, LossCause::Crash));
                events
            }
            Step::Printed(lines) => vec![Event::Written(lines)],
            Step::Probed(found) => {
                self.probe = None;
                let cause = match found {
                    Probe::Responds => return self.fail_broken_calls(),
                    Probe::Refuses => LossCause::Crash,
                    Probe::Silent => LossCause::Unresponsive,
                };
                self.lose("it does not respond".to_owned(), cause)
            }
            Step::Ended(first) => {
                let mut events: Vec<_> = self.end_call(first).into_iter().collect();
                // Calls that have ended meanwhile are reported together.
                while let Some(Some(ended)) = self.calls.next().now_or_never() {
                    events.extend(self.end_call(ended));
                }
                events
            }
        }
    }

    fn end_call(&mut self, Ended { call, end, elapsed }: Ended) -> Option<Event> {
        let outcome = match end {
            End::Answered(outcome) => outcome,
            End::NotSent(reason) => {
                tracing::debug!(reason, "call not sent");
                self.start_probe();
                return Some(Event::NotStarted(call));
            }
            End::Broken(reason) => {
                self.start_probe();
                self.broken.push((call, reason, elapsed));
                return None;
            }
            End::TimedOut => {
                self.start_probe();
                let message = format!(
                    "The call ran longer than {} ms",
                    self.call_limit.as_millis()
                );
                Err(Failure::started(FailureCode::ExecutionTimeout, message))
            }
        };
        Some(Event::Done {
            call,
            outcome,
            time: CallTime { elapsed, cpu: None },
            output: CallOutput::default(),
        })
    }

    /// Starts to probe the container, unless a probe is in progress.
    fn start_probe(&mut self) {
        if self.probe.is_none() {
            let (client, limit) = (self.client.clone(), self.probe_limit);
            let mut notice = self.container.watch.notice();
            self.probe = Some(
                async move {
                    let found = probe(&client, limit).await;
                    if found != Probe::Responds {
                        // The container's own watch reports a death with its cause, also one that
                        // is reported just after the watch was polled and before the probe is.
                        let reported = timeout(DEATH_REPORT_LIMIT, notice.death()).await;
                        if reported.is_ok() {
                            std::future::pending::<()>().await;
                        }
                    }
                    found
                }
                .boxed(),
            );
        }
    }

    /// Fails the calls with a broken connection: the container responds, so the contract closed it.
    fn fail_broken_calls(&mut self) -> Vec<Event> {
        let failed = self.broken.drain(..).map(|(call, reason, elapsed)| {
            let message = format!("The contract broke off its response: {reason}");
            let outcome = Err(Failure::started(FailureCode::ExecutionFailed, message));
            Event::Done {
                call,
                outcome,
                time: CallTime { elapsed, cpu: None },
                output: CallOutput::default(),
            }
        });
        failed.collect()
    }

    fn lose(&mut self, reason: String, cause: LossCause) -> Vec<Event> {
        self.lost = true;
        self.probe = None;
        self.broken.clear();
        // A dropped call closes its connection.
        self.calls.clear();
        vec![Event::Lost { reason, cause }]
    }
}

/// Asks the contract for any response, at most for `limit`.
async fn probe(client: &ContractClient, limit: Duration) -> Probe {
    match timeout(limit, client.ping()).await {
        Ok(Ok(_)) => Probe::Responds,
        Ok(Err(CallError::NoConnection(_))) | Err(_) => Probe::Silent,
        Ok(Err(CallError::NotSent(_) | CallError::Broken(_))) => Probe::Refuses,
    }
}

/// Runs one call within its limit. The connection is closed if the call times out or is dropped.
async fn run_call(
    client: ContractClient,
    call: CallId,
    method: String,
    argument: Bytes,
    limit: Duration,
) -> Ended {
    let since = Instant::now();
    let end = match timeout(limit, client.call(&method, argument)).await {
        Ok(Ok(outcome)) => End::Answered(outcome),
        Ok(Err(CallError::NotSent(reason) | CallError::NoConnection(reason))) => {
            End::NotSent(reason)
        }
        Ok(Err(CallError::Broken(reason))) => End::Broken(reason),
        Err(_) => End::TimedOut,
    };
    Ended {
        call,
        end,
        elapsed: since.elapsed(),
    }
}

impl Instance for ContractContainer {
    /// None: only the contract itself knows its endpoints.
    fn endpoints(&self) -> Option<&[String]> {
        None
    }

    fn image(&self) -> Option<&PinnedImage> {
        Some(&self.container.image.pin)
    }

    fn follow(&mut self, wanted: bool) {
        self.container.output.follow(wanted);
    }

    fn reserve(&mut self, _: usize) -> Room {
        if self.lost || self.probe.is_some() {
            return Room::NONE;
        }
        let running = self.calls.len() + self.broken.len();
        Room {
            calls: self.concurrency.saturating_sub(running),
            // Each call is a request of its own.
            bytes: usize::MAX,
        }
    }

    fn submit(&mut self, calls: &[Invocation<'_>]) {
        for call in calls {
            let argument = call
                .argument
                .map(|json| Bytes::copy_from_slice(json.get().as_bytes()));
            let call = run_call(
                self.client.clone(),
                call.id,
                call.method.to_owned(),
                argument.unwrap_or_default(),
                self.call_limit,
            );
            self.calls.push(call.boxed());
        }
    }

    /// The list may be empty after a successful probe: then calls may be submitted again.
    async fn next(&mut self) -> Vec<Event> {
        loop {
            let step = self.step().await;
            let probed = matches!(step, Step::Probed(_));
            let events = self.advance(step);
            if probed || !events.is_empty() {
                return events;
            }
        }
    }

    async fn close(self) {
        let Self {
            container, calls, ..
        } = self;
        drop(calls);
        container.remove().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const PATIENCE: Duration = Duration::from_secs(30);

    async fn listener() -> (TcpListener, ContractClient) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = ContractClient::new(listener.local_addr().unwrap(), 1000);
        (listener, client)
    }

    #[tokio::test]
    async fn a_contract_that_sends_any_response_responds() {
        let (listener, client) = listener().await;
        let answering = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1000];
            assert_ne!(stream.read(&mut request).await.unwrap(), 0);
            stream.write_all(b"HTTP/1.1 500 No\r\n\r\n").await.unwrap();
            stream
        };
        let (_stream, found) = tokio::join!(answering, probe(&client, PATIENCE));
        assert_eq!(found, Probe::Responds);
    }

    /// Only the silence may be the machine's fault.
    #[tokio::test]
    async fn a_contract_that_refuses_connections_is_told_from_a_silent_one() {
        let (listener, client) = listener().await;
        // The kernel accepts the connection, and nothing reads from it.
        let silent = probe(&client, Duration::from_millis(50)).await;
        assert_eq!(silent, Probe::Silent);
        drop(listener);
        assert_eq!(probe(&client, PATIENCE).await, Probe::Refuses);
    }

    #[tokio::test]
    async fn a_contract_that_breaks_off_connections_refuses_them() {
        let (listener, client) = listener().await;
        let breaking = async {
            // The client tries again on another connection at most a few times.
            loop {
                drop(listener.accept().await.unwrap());
            }
        };
        let found = tokio::select! {
            found = probe(&client, PATIENCE) => found,
            () = breaking => unreachable!("it accepts for ever"),
        };
        assert_eq!(found, Probe::Refuses);
    }
}
