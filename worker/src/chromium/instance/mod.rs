//! One loaded contract: sends its calls to its page, and reports what happened to each.
//!
//! At most two messages are in flight, so that the page never waits for the worker. Each message
//! has a send slot of its browser. Calls that are submitted meanwhile gather for the next message.
//! The arguments of a message, and those of all calls in flight, are bounded together: they live in
//! the contract's heap, where a text of JSON becomes up to twenty-five times as large.
//!
//! A page in which a call ran over its time limit is not used any more. Its running code can be
//! terminated, but not what the contract has left in timers and queues.
//!
//! - [`message`] takes one message to the page.
//! - [`in_flight`] tracks messages, calls and their time.
//! - [`call_state`] says where a call is.
//! - [`cpu`] shares the processor time of the page among its calls.
//! - [`overrun`] finds the call to blame when a limit has passed.
//! - [`freeze`] freezes an idle page.

mod call_state;
mod cpu;
mod freeze;
mod in_flight;
mod message;
mod overrun;

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use shared::protocol::job::{ContractSpec, EffectiveLimits};
use shared::protocol::schemas::SchemaText;
use tokio::time::{Instant, Sleep, sleep_until};

use super::browser::death_watch::PageDeath;
use super::browser::send_slots::{SendSlot, SlotRequest};
use super::config::ChromiumConfig;
use super::page::blank::BlankPage;
use super::page::harness::handle::PendingReply;
use super::page::harness::pieces::PIECE;
use super::page::harness::protocol::{self, ReplyRules};
use super::page::loaded::{LoadError, Loaded, LoadedPage};
use crate::sandbox::{Event, Instance, Invocation, LossCause, MemoryGauge, Room};
use call_state::CallState;
use cpu::{CpuMeter, Mark};
use freeze::IdleState;
use in_flight::InFlight;
use message::Message;
use overrun::Inspection;

/// Calls in one message at most.
const BATCH: usize = 128;
/// Messages in flight at most.
const MESSAGES: usize = 2;
/// A second message is sent only with at least so many calls, or if the next one is a
/// [large](LARGE_CALL) one. A small message costs the worker, the browser and the page the same
/// whatever it holds, and the page works on messages in order anyway.
const SECOND_MESSAGE_CALLS: usize = 32;
/// A call with an argument of so many bytes costs more than its message does. The worker and the
/// browser then work on one message while the page works on the other.
const LARGE_CALL: usize = 16 << 10;
/// How many bytes the arguments of a message have together, unless it is a single call: what is not
/// sent in pieces.
const MESSAGE_BYTES: usize = PIECE - (16 << 10);
/// How many bytes the arguments of all calls in flight have together, unless it is a single call. A
/// contract holds the arguments of its pending promises.
const IN_FLIGHT_BYTES: usize = 4 << 20;
/// Promises that may be pending in one page.
const PENDING: usize = 1024;
/// A timer that fires this late shows that the worker itself was not running. The replies of that
/// time then get as long again to be read, before any call is blamed.
const STALLED: Duration = Duration::from_millis(100);

/// One contract in its page.
pub struct ContractPage {
    page: LoadedPage,
    endpoints: Vec<String>,
    schemas: Option<SchemaText>,
    in_flight: InFlight,
    /// For the next message.
    slot_request: SlotRequest,
    /// The reply with the results of promises.
    collecting: Option<PendingReply>,
    clock: Pin<Box<Sleep>>,
    /// No call is blamed before this time.
    grace_until: Instant,
    /// Used while no call is in flight.
    idle: IdleState,
    /// Present once a limit has passed.
    inspecting: Option<BoxFuture<'static, Inspection>>,
    /// The page is lost.
    over: bool,
}

/// What [`ContractPage::next`] waits for.
enum Step {
    /// The page replied to a message, or to a piece of one; the index of the message.
    Replied(usize, Result<String, String>),
    SlotGranted(SendSlot),
    /// Promises have settled.
    Collected(Result<String, String>),
    Inspected(Inspection),
    Overdue,
    Died(PageDeath),
}

impl fmt::Debug for ContractPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("ContractPage");
        shown
            .field("endpoints", &self.endpoints)
            .field("calls", &self.in_flight.calls());
        shown.finish_non_exhaustive()
    }
}

impl ContractPage {
    /// Evaluates an executable in a blank page.
    pub(super) async fn load(
        blank: BlankPage,
        config: &ChromiumConfig,
        spec: &ContractSpec,
        limits: &EffectiveLimits,
        executable: &str,
    ) -> Result<Self, LoadError> {
        let call_limit = Duration::from_millis(limits.timeout_ms.into());
        let page = blank.dedicate(config, limits).await;
        let mut page = page.map_err(|error| LoadError::PageLost(error.to_string()))?;
        match page.load(executable, config.load_limit).await {
            Ok(Loaded {
                endpoints,
                schemas,
                offsets,
                has_source_map,
            }) => {
                page.activity.set(false);
                let rules = ReplyRules {
                    result_limit: limits.result_bytes,
                    offsets,
                    source_map: has_source_map.then(|| spec.digest.clone()),
                };
                let cpu = CpuMeter::new(page.renderers());
                Ok(Self {
                    page,
                    endpoints,
                    schemas: schemas.map(SchemaText::new),
                    in_flight: InFlight::new(call_limit, rules, cpu),
                    slot_request: SlotRequest::None,
                    collecting: None,
                    clock: Box::pin(sleep_until(Instant::now())),
                    grace_until: Instant::now(),
                    idle: IdleState::begin(),
                    inspecting: None,
                    over: false,
                })
            }
            Err(error) => {
                page.close().await;
                Err(error)
            }
        }
    }

    /// Polls everything that is in flight. All state is in `self`, so a dropped poll loses nothing.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        if self.over {
            return Poll::Pending;
        }
        if let Some(inspecting) = &mut self.inspecting {
            return inspecting.poll_unpin(cx).map(Step::Inspected);
        }
        if let Poll::Ready((index, reply)) = self.in_flight.poll_reply(cx) {
            return Poll::Ready(Step::Replied(index, reply));
        }
        if let SlotRequest::Queued(queued) = &mut self.slot_request
            && let Poll::Ready(slot) = queued.poll_unpin(cx)
        {
            return Poll::Ready(Step::SlotGranted(slot));
        }
        if let Some(collecting) = &mut self.collecting
            && let Poll::Ready(reply) = collecting.poll_unpin(cx)
        {
            return Poll::Ready(Step::Collected(reply));
        }
        if let Poll::Ready(death) = self.page.death.poll_unpin(cx) {
            return Poll::Ready(Step::Died(death));
        }
        if self.in_flight.calls() == 0 {
            self.idle.poll(&self.page.harness, self.clock.as_mut(), cx);
            return Poll::Pending;
        }
        while let Some(end) = self.in_flight.slot_deadline() {
            ready!(self.poll_clock(end, cx));
            self.in_flight.free_slots();
        }
        let Some(deadline) = self.in_flight.deadline() else {
            return Poll::Pending;
        };
        let deadline = deadline.max(self.grace_until);
        self.poll_clock(deadline, cx).map(|()| Step::Overdue)
    }

    fn poll_clock(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if self.clock.deadline() != deadline {
            self.clock.as_mut().reset(deadline);
        }
        self.clock.poll_unpin(cx)
    }

    /// Acts on what happened. Without events, no call has ended.
    fn advance(&mut self, step: Step) -> Vec<Event> {
        match step {
            Step::Replied(index, Ok(_)) if self.in_flight.proceed(index, &self.page.harness) => {
                Vec::new()
            }
            Step::Replied(index, Ok(reply)) => self.read_reply(index, &reply),
            Step::SlotGranted(slot) => {
                self.slot_request = SlotRequest::Granted(slot);
                Vec::new()
            }
            Step::Collected(Ok(reply)) => {
                self.collecting = None;
                self.in_flight.measure();
                let since = self.in_flight.front_since();
                let events = self.read(&reply, since);
                self.or_lose(events)
            }
            Step::Replied(_, Err(reason)) | Step::Collected(Err(reason)) => {
                self.lose(reason, LossCause::Crash)
            }
            Step::Died(PageDeath { reason, cause }) => self.lose(reason, cause),
            Step::Overdue if self.clock.deadline().elapsed() > STALLED => {
                self.grace_until = Instant::now() + STALLED;
                Vec::new()
            }
            Step::Overdue if self.was_stalled() => Vec::new(),
            Step::Overdue => {
                let harness = self.page.harness.clone();
                self.inspecting = Some(overrun::inspect(harness, &self.in_flight));
                Vec::new()
            }
            Step::Inspected(inspection) => {
                let mut events = overrun::resolve(&mut self.in_flight, &inspection);
                let reason = "a call ran longer than its limit".to_owned();
                events.extend(self.lose(reason, LossCause::Timeout));
                events
            }
        }
    }

    /// Gives the calls in flight the time for which the browser itself was stalled. False if they
    /// have had it.
    fn was_stalled(&mut self) -> bool {
        let now = Instant::now();
        let Some(deadline) = self.in_flight.deadline() else {
            return false;
        };
        let begun = deadline.checked_sub(self.in_flight.call_limit());
        let stalled = self.page.stalled_between(begun.unwrap_or(deadline), now);
        let later = deadline + stalled;
        if stalled.is_zero() || later <= now {
            return false;
        }
        self.grace_until = later;
        true
    }

    /// Reads the reply to a message, which must mention every call of the message.
    fn read_reply(&mut self, index: usize, reply: &str) -> Vec<Event> {
        let Some((message, since)) = self.in_flight.remove_message(index) else {
            return Vec::new();
        };
        let mut events = self.read(reply, since);
        let is_unanswered = |call| matches!(self.in_flight.state(call), Some(CallState::InMessage));
        if message.calls.into_iter().any(is_unanswered) {
            events = Err("the page left calls unanswered".to_owned());
        }
        self.or_lose(events)
    }

    /// Turns a reply into events, and waits for promises if there are any.
    fn read(&mut self, reply: &str, since: Mark) -> Result<Vec<Event>, String> {
        let events = self.in_flight.read(reply, since)?;
        if self.in_flight.pending() > 0 && self.collecting.is_none() {
            self.collecting = Some(self.page.harness.collect());
        }
        Ok(events)
    }

    fn or_lose(&mut self, events: Result<Vec<Event>, String>) -> Vec<Event> {
        events.unwrap_or_else(|reason| self.lose(reason, LossCause::Crash))
    }

    fn lose(&mut self, reason: String, cause: LossCause) -> Vec<Event> {
        let cause = match cause {
            LossCause::Crash if self.in_flight.is_only_reading() => LossCause::Arguments,
            cause => cause,
        };
        self.over = true;
        self.in_flight.clear_messages();
        self.slot_request = SlotRequest::None;
        self.collecting = None;
        self.inspecting = None;
        vec![Event::Lost { reason, cause }]
    }
}

impl Instance for ContractPage {
    fn endpoints(&self) -> Option<&[String]> {
        Some(&self.endpoints)
    }

    fn memory(&self) -> Option<MemoryGauge> {
        let mut renderers = self.page.renderers().iter().copied();
        let renderer = renderers.next().filter(|_| renderers.next().is_none())?;
        Some(MemoryGauge::new(move || renderer.own_memory()))
    }

    fn schemas(&self) -> Option<&SchemaText> {
        self.schemas.as_ref()
    }

    fn reserve(&mut self, next: usize) -> Room {
        let calls = &self.in_flight;
        let is_full = calls.calls() > 0 && calls.bytes() + next > IN_FLIGHT_BYTES;
        if self.over
            || self.inspecting.is_some()
            || calls.messages() >= MESSAGES
            || calls.is_reading()
            || is_full
        {
            return Room::NONE;
        }
        let room = Room {
            calls: BATCH.min(PENDING.saturating_sub(calls.pending())),
            bytes: MESSAGE_BYTES,
        };
        if room.calls > 0 && matches!(self.slot_request, SlotRequest::None) {
            self.slot_request = self.page.request_send_slot();
        }
        match self.slot_request {
            SlotRequest::Granted(_) => room,
            SlotRequest::None | SlotRequest::Queued(_) => Room::NONE,
        }
    }

    fn worthwhile(&self, next: usize) -> usize {
        if self.in_flight.messages() == 0 || next >= LARGE_CALL {
            1
        } else {
            SECOND_MESSAGE_CALLS
        }
    }

    fn submit(&mut self, calls: &[Invocation<'_>]) {
        let request = std::mem::replace(&mut self.slot_request, SlotRequest::None);
        if calls.is_empty() || self.over {
            return;
        }
        let slot = match request {
            SlotRequest::Granted(slot) => Some(slot),
            SlotRequest::None | SlotRequest::Queued(_) => None,
        };
        let wake = self.idle.is_frozen();
        self.idle = IdleState::begin();
        let ids = calls.iter().map(|call| call.id).collect();
        let text = protocol::encode(calls);
        let message = Message::send(ids, text, &self.page.harness, wake, slot);
        let sizes = calls.iter().map(Invocation::size);
        self.in_flight.add(message, sizes);
        self.page.activity.set(true);
    }

    async fn next(&mut self) -> Vec<Event> {
        loop {
            let step = poll_fn(|cx| self.poll_step(cx)).await;
            let has_room = matches!(step, Step::Replied(..) | Step::SlotGranted(_));
            let events = self.advance(step);
            if self.in_flight.calls() == 0 {
                self.page.activity.set(false);
                self.idle = IdleState::begin();
            }
            // Returns without events, too, when the next message may be sent now.
            if has_room || !events.is_empty() {
                return events;
            }
        }
    }

    async fn close(self) {
        self.page.close().await;
    }
}
