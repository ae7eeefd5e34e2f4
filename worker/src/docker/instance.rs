//! One contract's calls to its container: how many run at once, their clocks, and what becomes of
//! them when the container is in doubt.
//!
//! A call that runs over its limit or breaks off puts the container in doubt: it is asked whether
//! it still answers. If it does not, it is lost; meanwhile it gets no more calls.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use serde_json::value::RawValue;
use shared::protocol::job::Limits;
use shared::protocol::reply::{Failure, FailureCode};
use tokio::time::{Instant, timeout};

use super::DockerConfig;
use super::container::Container;
use super::http::{Http, Trouble};
use crate::sandbox::{CallId, Event, Instance, Invocation};

/// How long the news of a death may take, once a container does not answer: it says more.
const NEWS_LIMIT: Duration = Duration::from_millis(250);

/// One contract in its container.
pub struct ContractContainer {
    container: Container,
    http: Http,
    call_limit: Duration,
    probe_limit: Duration,
    concurrency: usize,
    calls: FuturesUnordered<BoxFuture<'static, Ended>>,
    /// Calls that broke off: whether they died with the container is not known yet.
    broken: Vec<(CallId, String, Duration)>,
    /// Under way while the container is in doubt.
    probe: Option<BoxFuture<'static, bool>>,
    over: bool,
}

/// A call that ended, one way or another.
struct Ended {
    call: CallId,
    end: End,
    elapsed: Duration,
}

enum End {
    Answered(Result<Box<RawValue>, Failure>),
    NotSent(String),
    Broken(String),
    Overdue,
}

/// What [`ContractContainer::next`] waits for.
enum Step {
    Died(String),
    Probed(bool),
    Ended(Ended),
}

impl ContractContainer {
    pub(super) fn new(container: Container, config: &DockerConfig, limits: &Limits) -> Self {
        let own = limits
            .timeout_ms
            .map(|ms| Duration::from_millis(ms.max(1).into()));
        let result = limits
            .result_bytes
            .map_or(usize::MAX, |bytes| bytes as usize);
        let concurrency = limits
            .concurrency
            .map_or(usize::MAX, |calls| calls.max(1) as usize);
        Self {
            http: Http::new(container.address, result.min(config.result_limit)),
            container,
            call_limit: own.map_or(config.call_limit, |own| own.min(config.call_limit)),
            probe_limit: config.probe_limit,
            concurrency: concurrency.min(config.concurrency),
            calls: FuturesUnordered::new(),
            broken: Vec::new(),
            probe: None,
            over: false,
        }
    }

    async fn step(&mut self) -> Step {
        let probe = async {
            match &mut self.probe {
                Some(probe) => probe.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(ended) = self.calls.next() => Step::Ended(ended),
            how = self.container.watch.death() => Step::Died(how),
            answers = probe => Step::Probed(answers),
        }
    }

    fn advance(&mut self, step: Step) -> Vec<Event> {
        match step {
            Step::Died(reason) => self.lose(reason),
            Step::Probed(answers) => {
                self.probe = None;
                if answers {
                    self.clear()
                } else {
                    self.lose("it does not answer".to_owned())
                }
            }
            Step::Ended(first) => {
                let mut events: Vec<_> = self.take(first).into_iter().collect();
                // What else has ended meanwhile saves a turn.
                while let Some(Some(ended)) = self.calls.next().now_or_never() {
                    events.extend(self.take(ended));
                }
                events
            }
        }
    }

    fn take(&mut self, Ended { call, end, elapsed }: Ended) -> Option<Event> {
        let outcome = match end {
            End::Answered(outcome) => outcome,
            End::NotSent(reason) => {
                tracing::debug!(reason, "a call could not be sent");
                self.doubt();
                return Some(Event::NotStarted(call));
            }
            End::Broken(reason) => {
                self.doubt();
                self.broken.push((call, reason, elapsed));
                return None;
            }
            End::Overdue => {
                self.doubt();
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
            elapsed,
        })
    }

    /// Asks the container whether it still answers.
    fn doubt(&mut self) {
        if self.probe.is_none() {
            let (http, limit) = (self.http.clone(), self.probe_limit);
            let mut news = self.container.watch.news();
            self.probe = Some(
                async move {
                    let answers = timeout(limit, http.answers()).await.unwrap_or(false);
                    if !answers {
                        // The container's own watch reports it; this only leaves time for it.
                        let _ = timeout(NEWS_LIMIT, news.death()).await;
                    }
                    answers
                }
                .boxed(),
            );
        }
    }

    /// The container answers: what broke off was the contract's doing.
    fn clear(&mut self) -> Vec<Event> {
        let failed = self.broken.drain(..).map(|(call, reason, elapsed)| {
            let message = format!("The contract broke off its answer: {reason}");
            let outcome = Err(Failure::started(FailureCode::ExecutionFailed, message));
            Event::Done {
                call,
                outcome,
                elapsed,
            }
        });
        failed.collect()
    }

    fn lose(&mut self, reason: String) -> Vec<Event> {
        self.over = true;
        self.probe = None;
        self.broken.clear();
        // Dropped, a call closes its connection.
        self.calls.clear();
        vec![Event::Lost { reason }]
    }
}

/// Makes one call within its limit. Dropped or overdue, its connection is closed.
async fn make(http: Http, call: CallId, method: String, argument: Bytes, limit: Duration) -> Ended {
    let since = Instant::now();
    let end = match timeout(limit, http.call(&method, argument)).await {
        Ok(Ok(outcome)) => End::Answered(outcome),
        Ok(Err(Trouble::NotSent(reason))) => End::NotSent(reason),
        Ok(Err(Trouble::Broken(reason))) => End::Broken(reason),
        Err(_) => End::Overdue,
    };
    Ended {
        call,
        end,
        elapsed: since.elapsed(),
    }
}

impl Instance for ContractContainer {
    /// Only the contract knows.
    fn endpoints(&self) -> Option<&[String]> {
        None
    }

    fn image(&self) -> Option<&str> {
        Some(&self.container.image.id)
    }

    fn reserve(&mut self) -> usize {
        if self.over || self.probe.is_some() {
            return 0;
        }
        self.concurrency
            .saturating_sub(self.calls.len() + self.broken.len())
    }

    fn submit(&mut self, calls: &[Invocation<'_>]) {
        for call in calls {
            let argument = call
                .argument
                .map(|json| Bytes::copy_from_slice(json.get().as_bytes()));
            let call = make(
                self.http.clone(),
                call.id,
                call.method.to_owned(),
                argument.unwrap_or_default(),
                self.call_limit,
            );
            self.calls.push(call.boxed());
        }
    }

    /// May be empty after a doubt was cleared: there is room again.
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
