//! One contract's calls: how many are under way, whose clock runs, and what became of each.
//!
//! At most two messages are under way, so that the page never waits for the worker, each with a lane of
//! its browser's, and what is submitted meanwhile gathers. The page takes messages in turn: the clock
//! of the first one runs, the second one's starts when the first is answered. A call that gave a promise
//! has a clock of its own.
//!
//! A page in which a call ran over its limit is done for: its own loop may be ended, but not what the
//! contract has left behind in timers and queues.

mod freeze;
mod overrun;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::value::RawValue;
use shared::protocol::job::Limits;
use shared::protocol::reply::Failure;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::chromium::browser::send_slots::{Claim, Lane};
use crate::chromium::config::ChromiumConfig;
use crate::chromium::page::blank::{BlankPage, Page};
use crate::chromium::page::harness::handle::Reply;
use crate::chromium::page::harness::protocol::{self as harness, News, SLICE_MS};
use crate::sandbox::{CallId, Event, Instance, Invocation, StartError};
use freeze::Rest;
use overrun::Verdict;

/// Calls in one message, and messages under way.
const BATCH: usize = 128;
const FLIGHTS: usize = 2;
/// A second message leaves only with so many calls: whatever it holds, a message costs the worker,
/// the browser and the page the same, and the page takes them in turn anyway.
const WORTH_A_SECOND: usize = 32;
/// A message under way for longer gives its lane back: calls that compute hold up no other contract's.
const LANE_TIME: Duration = Duration::from_millis(2 * SLICE_MS);
/// Promises that may be pending in one page.
const PENDING: usize = 1024;
/// A message that takes longer than this keeps the page from settling promises: a promise that is
/// overdue by then is judged when the message is answered.
const STUCK: Duration = Duration::from_millis(100);
/// A clock that strikes this late tells of a worker that stood still itself. What the page answered
/// meanwhile is then given as long again to be read, before anybody is judged.
const STALLED: Duration = Duration::from_millis(100);

/// One contract in its page.
pub struct ContractPage {
    page: Page,
    endpoints: Vec<String>,
    call_limit: Duration,
    result_limit: u32,
    /// Every call without an event.
    calls: HashMap<CallId, Place>,
    flights: VecDeque<Flight>,
    /// For the next of them.
    claim: Claim,
    /// Since when the first flight has the page to itself.
    turn: Instant,
    /// Calls that gave a promise, oldest first; some may have ended.
    promises: VecDeque<(Instant, CallId)>,
    pending: usize,
    collecting: Option<Reply>,
    clock: Pin<Box<Sleep>>,
    /// Nobody is judged before.
    mercy: Instant,
    /// Without calls.
    rest: Rest,
    /// Under way once a limit has passed.
    judging: Option<BoxFuture<'static, Verdict>>,
    over: bool,
}

/// Where a call is.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// In a message that is not answered.
    Flight,
    /// It was started at this time, and its promise is pending.
    Pending(Instant),
}

/// A message under way.
struct Flight {
    calls: Vec<CallId>,
    since: Instant,
    reply: Reply,
    lane: Option<Lane>,
}

/// What [`ContractPage::next`] waits for.
enum Step {
    Landed(usize, Result<String, String>),
    Admitted(Lane),
    Collected(Result<String, String>),
    Judged(Verdict),
    Overdue,
    Died(String),
}

impl fmt::Debug for ContractPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("ContractPage");
        shown
            .field("endpoints", &self.endpoints)
            .field("calls", &self.calls.len());
        shown.finish_non_exhaustive()
    }
}

impl ContractPage {
    /// Evaluates an executable in a page that nobody has yet.
    pub(super) async fn load(
        blank: BlankPage,
        config: &ChromiumConfig,
        limits: &Limits,
        executable: &str,
    ) -> Result<Self, StartError> {
        let own = limits
            .timeout_ms
            .map(|ms| Duration::from_millis(ms.max(1).into()));
        let call_limit = own.map_or(config.call_limit, |own| own.min(config.call_limit));
        let own = limits.result_bytes;
        let result_limit = own.map_or(config.result_limit, |own| own.min(config.result_limit));

        let page = blank.dedicate(config, limits, result_limit).await;
        let mut page = page.map_err(|trouble| StartError::Unavailable(trouble.to_string()))?;
        match page.load(executable, config.load_limit).await {
            Ok(endpoints) => {
                page.activity.set(false);
                Ok(Self {
                    page,
                    endpoints,
                    call_limit,
                    result_limit,
                    calls: HashMap::new(),
                    flights: VecDeque::new(),
                    claim: Claim::None,
                    turn: Instant::now(),
                    promises: VecDeque::new(),
                    pending: 0,
                    collecting: None,
                    clock: Box::pin(sleep_until(Instant::now())),
                    mercy: Instant::now(),
                    rest: Rest::begin(),
                    judging: None,
                    over: false,
                })
            }
            Err(error) => {
                page.close().await;
                Err(error)
            }
        }
    }

    /// Polls everything that is under way. All state is in `self`: a poll that is not followed by
    /// another loses nothing.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        if self.over {
            return Poll::Pending;
        }
        if let Some(judging) = &mut self.judging {
            return judging.poll_unpin(cx).map(Step::Judged);
        }
        for (index, flight) in self.flights.iter_mut().enumerate() {
            if let Poll::Ready(answer) = flight.reply.poll_unpin(cx) {
                return Poll::Ready(Step::Landed(index, answer));
            }
        }
        if let Claim::Queued(queued) = &mut self.claim
            && let Poll::Ready(lane) = queued.poll_unpin(cx)
        {
            return Poll::Ready(Step::Admitted(lane));
        }
        if let Some(collecting) = &mut self.collecting
            && let Poll::Ready(answer) = collecting.poll_unpin(cx)
        {
            return Poll::Ready(Step::Collected(answer));
        }
        if let Poll::Ready(reason) = self.page.death.poll_unpin(cx) {
            return Poll::Ready(Step::Died(reason));
        }
        if self.calls.is_empty() {
            return self.poll_rest(cx);
        }
        while let Some(end) = self.end_of_lane() {
            ready!(self.poll_clock(end, cx));
            self.free_lanes();
        }
        let Some(deadline) = self.deadline() else {
            return Poll::Pending;
        };
        self.poll_clock(deadline, cx).map(|()| Step::Overdue)
    }

    fn poll_clock(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if self.clock.deadline() != deadline {
            self.clock.as_mut().reset(deadline);
        }
        self.clock.poll_unpin(cx)
    }

    /// When the next message has had its lane for long enough; before any deadline.
    fn end_of_lane(&self) -> Option<Instant> {
        let holders = self.flights.iter().filter(|flight| flight.lane.is_some());
        holders.map(|flight| flight.since + LANE_TIME).min()
    }

    fn free_lanes(&mut self) {
        let now = Instant::now();
        for flight in &mut self.flights {
            if flight.since + LANE_TIME <= now {
                flight.lane = None;
            }
        }
    }

    /// When the next limit passes.
    fn deadline(&mut self) -> Option<Instant> {
        let slice = Duration::from_millis(SLICE_MS);
        let message = self
            .flights
            .front()
            .map(|_| self.turn + self.call_limit + slice);
        let promise = self.oldest_promise().map(|since| since + self.call_limit);
        let deadline = match (message, promise) {
            (Some(message), Some(promise)) if promise < self.turn + STUCK => {
                Some(message.min(promise))
            }
            (message, promise) => message.or(promise),
        };
        deadline.map(|deadline| deadline.max(self.mercy))
    }

    /// Since when the oldest promise is pending.
    fn oldest_promise(&mut self) -> Option<Instant> {
        while let Some((since, call)) = self.promises.front() {
            if matches!(self.calls.get(call), Some(Place::Pending(_))) {
                return Some(*since);
            }
            self.promises.pop_front();
        }
        None
    }

    /// Acts on what happened. Empty: no call has ended.
    fn advance(&mut self, step: Step) -> Vec<Event> {
        match step {
            Step::Landed(index, Ok(answer)) => self.land(index, &answer),
            Step::Admitted(lane) => {
                self.claim = Claim::Lane(lane);
                Vec::new()
            }
            Step::Collected(Ok(answer)) => {
                self.collecting = None;
                let since = self.turn;
                let events = self.read(&answer, since);
                self.or_lose(events)
            }
            Step::Landed(_, Err(reason)) | Step::Collected(Err(reason)) | Step::Died(reason) => {
                self.lose(reason)
            }
            Step::Overdue if self.clock.deadline().elapsed() > STALLED => {
                self.mercy = Instant::now() + STALLED;
                Vec::new()
            }
            Step::Overdue => {
                self.judging = Some(self.begin_judgement());
                Vec::new()
            }
            Step::Judged(verdict) => self.judge(&verdict),
        }
    }

    /// A message was answered, and with it every call in it.
    fn land(&mut self, index: usize, answer: &str) -> Vec<Event> {
        let Some(flight) = self.flights.remove(index) else {
            return Vec::new();
        };
        let since = self.turn.max(flight.since);
        if index == 0 {
            self.turn = Instant::now();
        }
        let mut events = self.read(answer, since);
        let left_out = |call| matches!(self.calls.get(call), Some(Place::Flight));
        if flight.calls.iter().any(left_out) {
            events = Err("the page left calls unanswered".to_owned());
        }
        self.or_lose(events)
    }

    /// Turns an answer into events. Whatever names a call that is not under way is a forgery.
    fn read(&mut self, answer: &str, since: Instant) -> Result<Vec<Event>, String> {
        let answer = harness::parse(answer, self.result_limit).map_err(|e| e.to_string())?;
        let now = Instant::now();
        let mut events = Vec::with_capacity(answer.news.len());
        for (call, news) in answer.news {
            if !self.take(call, news, since, now, &mut events) {
                return Err(
                    "the page answered a call twice, or one that it was not given".to_owned(),
                );
            }
        }
        if self.pending > 0 && self.collecting.is_none() {
            self.collecting = Some(self.page.harness.collect());
        }
        Ok(events)
    }

    /// Takes note of one call's news; false when there is no such call.
    fn take(
        &mut self,
        call: CallId,
        news: News,
        since: Instant,
        now: Instant,
        events: &mut Vec<Event>,
    ) -> bool {
        match (news, self.calls.get(&call).copied()) {
            // The answer that carries the promise's result may overtake the one that announces it.
            (News::Later, None) => {}
            (_, None) | (News::Later | News::Skipped, Some(Place::Pending(_))) => return false,
            (News::Later, Some(Place::Flight)) => {
                self.calls.insert(call, Place::Pending(since));
                self.promises.push_back((since, call));
                self.pending += 1;
            }
            (News::Skipped, Some(Place::Flight)) => {
                self.calls.remove(&call);
                events.push(Event::NotStarted(call));
            }
            (News::Ended(outcome), Some(place)) => {
                let since = match place {
                    Place::Flight => since,
                    Place::Pending(since) => since,
                };
                self.finish(call, outcome, now.duration_since(since), events);
            }
        }
        true
    }

    fn finish(
        &mut self,
        call: CallId,
        outcome: Result<Box<RawValue>, Failure>,
        elapsed: Duration,
        events: &mut Vec<Event>,
    ) {
        if let Some(Place::Pending(_)) = self.calls.remove(&call) {
            self.pending -= 1;
        }
        events.push(Event::Done {
            call,
            outcome,
            elapsed,
        });
    }

    fn or_lose(&mut self, events: Result<Vec<Event>, String>) -> Vec<Event> {
        events.unwrap_or_else(|reason| self.lose(reason))
    }

    fn lose(&mut self, reason: String) -> Vec<Event> {
        self.over = true;
        self.flights.clear();
        self.claim = Claim::None;
        self.collecting = None;
        self.judging = None;
        vec![Event::Lost { reason }]
    }
}

impl Instance for ContractPage {
    fn endpoints(&self) -> Option<&[String]> {
        Some(&self.endpoints)
    }

    fn reserve(&mut self) -> usize {
        if self.over || self.judging.is_some() || self.flights.len() >= FLIGHTS {
            return 0;
        }
        let room = BATCH.min(PENDING.saturating_sub(self.pending));
        if room > 0 && matches!(self.claim, Claim::None) {
            self.claim = self.page.claim_lane();
        }
        match self.claim {
            Claim::Lane(_) => room,
            Claim::None | Claim::Queued(_) => 0,
        }
    }

    fn worthwhile(&self) -> usize {
        if self.flights.is_empty() {
            1
        } else {
            WORTH_A_SECOND
        }
    }

    fn submit(&mut self, calls: &[Invocation<'_>]) {
        let claim = std::mem::replace(&mut self.claim, Claim::None);
        if calls.is_empty() || self.over {
            return;
        }
        let lane = match claim {
            Claim::Lane(lane) => Some(lane),
            Claim::None | Claim::Queued(_) => None,
        };
        let since = Instant::now();
        if self.flights.is_empty() {
            self.turn = since;
        }
        let wake = self.rest.is_frozen();
        self.rest = Rest::begin();
        self.calls
            .extend(calls.iter().map(|call| (call.id, Place::Flight)));
        self.flights.push_back(Flight {
            calls: calls.iter().map(|call| call.id).collect(),
            since,
            reply: self.page.harness.run(harness::encode(calls), wake),
            lane,
        });
        self.page.activity.set(true);
    }

    async fn next(&mut self) -> Vec<Event> {
        loop {
            let step = poll_fn(|cx| self.poll_step(cx)).await;
            let room = matches!(step, Step::Landed(..) | Step::Admitted(_));
            let events = self.advance(step);
            if self.calls.is_empty() {
                self.page.activity.set(false);
                self.rest = Rest::begin();
            }
            // Whether or not calls have ended, the next message may leave now.
            if room || !events.is_empty() {
                return events;
            }
        }
    }

    async fn close(self) {
        self.page.close().await;
    }
}
