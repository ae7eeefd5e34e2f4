//! The calls of one contract that are in flight: the message that each was sent in, whose time is
//! running, and what each reply means.
//!
//! A page works on its messages in order. So the time of the first message runs, and the time of
//! the second one starts when the first is answered. A call that returned a promise has a time
//! limit of its own, until the promise settles.

use std::collections::{HashMap, VecDeque};
use std::task::{Context, Poll};
use std::time::Duration;

use serde_json::value::RawValue;
use shared::protocol::job::MAX_LINES;
use shared::protocol::reply::Failure;
use tokio::time::Instant;

use super::call_state::CallState;
use super::cpu::{CpuMeter, Mark};
use super::message::Message;
use crate::chromium::page::harness::handle::Harness;
use crate::chromium::page::harness::protocol::{self, CallUpdate, ReplyRules, SLICE_MS};
use crate::sandbox::{CallId, CallOutput, CallTime, Event};

/// How long a page may take to read one piece of a message, at least. It replies at once unless
/// something else runs in it.
const READ_LIMIT: Duration = Duration::from_secs(2);
/// A message that takes longer than this keeps the page from settling promises. A promise that
/// becomes overdue later than that is examined only when the message is answered.
const STUCK: Duration = Duration::from_millis(100);

/// A call without an event.
struct Call {
    state: CallState,
    /// The size of its argument, in bytes.
    size: usize,
    /// What it has written so far.
    output: CallOutput,
}

/// The calls in flight to one page.
pub(super) struct InFlight {
    call_limit: Duration,
    rules: ReplyRules,
    /// Every call without an event.
    calls: HashMap<CallId, Call>,
    /// The sizes of their arguments together, in bytes.
    bytes: usize,
    messages: VecDeque<Message>,
    /// Since when the page works on the first message.
    front_since: Mark,
    cpu: CpuMeter,
    /// Calls that returned a promise, oldest first. Some may have ended.
    promises: VecDeque<(Instant, CallId)>,
    /// How many calls have returned a promise.
    pending: usize,
    /// For how many of these the promise has settled.
    settled: usize,
    /// When the page has last replied.
    last_reply: Instant,
}

impl InFlight {
    pub(super) fn new(call_limit: Duration, rules: ReplyRules, cpu: CpuMeter) -> Self {
        Self {
            call_limit,
            rules,
            calls: HashMap::new(),
            bytes: 0,
            messages: VecDeque::new(),
            front_since: cpu.mark(Instant::now()),
            cpu,
            promises: VecDeque::new(),
            pending: 0,
            settled: 0,
            last_reply: Instant::now(),
        }
    }

    pub(super) fn call_limit(&self) -> Duration {
        self.call_limit
    }

    pub(super) fn rules(&self) -> &ReplyRules {
        &self.rules
    }

    /// How many calls have no event yet.
    pub(super) fn calls(&self) -> usize {
        self.calls.len()
    }

    /// The sizes of the arguments of these calls together, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many messages have no reply.
    pub(super) fn messages(&self) -> usize {
        self.messages.len()
    }

    /// Whether the page is still reading a message.
    pub(super) fn is_reading(&self) -> bool {
        self.messages.iter().any(Message::is_reading)
    }

    /// Whether there are calls, and none of them was started: the page is reading all of them.
    pub(super) fn is_only_reading(&self) -> bool {
        let reading = self.messages.iter().filter(|message| message.is_reading());
        let unread: usize = reading.map(|message| message.calls.len()).sum();
        unread > 0 && unread == self.calls.len()
    }

    /// How many calls have returned a promise and have no result yet.
    pub(super) fn pending(&self) -> usize {
        self.pending
    }

    /// The state of a call that has no event yet.
    pub(super) fn state(&self, call: CallId) -> Option<CallState> {
        self.calls.get(&call).map(|call| call.state)
    }

    /// The calls with a pending promise, and when each was started.
    pub(super) fn pending_calls(&self) -> impl Iterator<Item = (CallId, Mark)> {
        self.calls.iter().filter_map(|(id, call)| match call.state {
            CallState::Pending(since) => Some((*id, since)),
            CallState::InMessage | CallState::Settled(_) => None,
        })
    }

    /// The calls of the first message without a reply.
    pub(super) fn front_calls(&self) -> &[CallId] {
        self.messages
            .front()
            .map_or(&[][..], |message| &message.calls)
    }

    /// Since when the page works on the first message.
    pub(super) fn front_since(&self) -> Mark {
        self.front_since
    }

    /// Whether the calls of the first message have been in work for longer than a call may run.
    pub(super) fn is_front_overdue(&self) -> bool {
        let runs = self.messages.front().is_some_and(|m| !m.is_reading());
        runs && self.front_since.at.elapsed() >= self.call_limit
    }

    /// Records a message that was sent, with the sizes of its calls' arguments.
    pub(super) fn add(&mut self, message: Message, sizes: impl Iterator<Item = usize>) {
        if self.calls.is_empty() {
            self.cpu.start();
        }
        if self.messages.is_empty() {
            self.front_since = self.cpu.mark(message.started());
        }
        for (id, size) in message.calls.iter().zip(sizes) {
            let state = CallState::InMessage;
            let output = CallOutput::default();
            self.calls.insert(
                *id,
                Call {
                    state,
                    size,
                    output,
                },
            );
            self.bytes += size;
        }
        self.messages.push_back(message);
    }

    /// Waits for the reply to any message; returns the message's index, too. Cancel safe.
    pub(super) fn poll_reply(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<(usize, Result<String, String>)> {
        for (index, message) in self.messages.iter_mut().enumerate() {
            if let Poll::Ready(reply) = message.poll_reply(cx) {
                return Poll::Ready((index, reply));
            }
        }
        Poll::Pending
    }

    /// Sends the rest of a message that the page is still reading; false if it was read before.
    pub(super) fn proceed(&mut self, index: usize, harness: &Harness) -> bool {
        let Some(message) = self.messages.get_mut(index).filter(|m| m.is_reading()) else {
            return false;
        };
        message.proceed(harness);
        if index == 0 {
            self.measure();
            self.front_since = self.cpu.mark(Instant::now());
        }
        true
    }

    /// Removes a message that was answered. Returns since when the page has worked on it, too.
    pub(super) fn remove_message(&mut self, index: usize) -> Option<(Message, Mark)> {
        self.measure();
        let message = self.messages.remove(index)?;
        let mut since = self.front_since;
        since.at = since.at.max(message.started());
        if index == 0 {
            self.front_since = self.cpu.mark(Instant::now());
        }
        Some((message, since))
    }

    /// Shares the page's processor time since the last measurement among the calls that ran.
    pub(super) fn measure(&mut self) {
        let front = self.messages.front().filter(|m| !m.is_reading());
        let front = front.map_or(0, |message| message.calls.len());
        self.cpu.share(front + self.pending - self.settled);
    }

    /// What the calls are measured by, as it shows now.
    pub(super) fn mark(&self) -> Mark {
        self.cpu.mark(Instant::now())
    }

    /// Forgets all messages.
    pub(super) fn clear_messages(&mut self) {
        self.messages.clear();
    }

    /// When the next message has held its send slot for long enough. That is before any deadline.
    pub(super) fn slot_deadline(&self) -> Option<Instant> {
        self.messages
            .iter()
            .filter_map(Message::slot_deadline)
            .min()
    }

    /// Frees the send slots that were held for long enough.
    pub(super) fn free_slots(&mut self) {
        let now = Instant::now();
        for message in &mut self.messages {
            if message.slot_deadline().is_some_and(|end| end <= now) {
                message.free_slot();
            }
        }
    }

    /// When the next call will have run for longer than its limit.
    pub(super) fn deadline(&mut self) -> Option<Instant> {
        let limit = self.call_limit;
        let promise = self.oldest_promise().map(|since| since + limit);
        let Some(front) = self.messages.front() else {
            // The page only has to send the results of settled promises.
            let sending = (self.settled > 0).then(|| self.last_reply + limit);
            return sending.into_iter().chain(promise).min();
        };
        let message = self.front_since.at
            + if front.is_reading() {
                limit.max(READ_LIMIT)
            } else {
                limit + Duration::from_millis(SLICE_MS)
            };
        match promise {
            Some(promise) if promise < self.front_since.at + STUCK => Some(message.min(promise)),
            _ => Some(message),
        }
    }

    /// Since when the oldest promise is pending.
    fn oldest_promise(&mut self) -> Option<Instant> {
        while let Some((since, call)) = self.promises.front() {
            if matches!(self.state(*call), Some(CallState::Pending(_))) {
                return Some(*since);
            }
            self.promises.pop_front();
        }
        None
    }

    /// Turns a reply into events. A reply that names a call that is not in flight is forged.
    pub(super) fn read(&mut self, reply: &str, since: Mark) -> Result<Vec<Event>, String> {
        let reply = protocol::parse(reply, &self.rules).map_err(|e| e.to_string())?;
        let now = self.mark();
        self.last_reply = now.at;
        let mut events = Vec::with_capacity(reply.updates.len());
        for (call, update) in reply.updates {
            if !self.apply(call, update, since, now, &mut events) {
                return Err("the page replied to a call that is not in flight".to_owned());
            }
        }
        Ok(events)
    }

    /// Records an update of one call; false if there is no such call.
    pub(super) fn apply(
        &mut self,
        call: CallId,
        update: CallUpdate,
        since: Mark,
        now: Mark,
        events: &mut Vec<Event>,
    ) -> bool {
        match (update, self.state(call)) {
            // The reply with a promise's result may overtake the reply that reports the promise.
            // The status repeats that a promise has settled.
            (CallUpdate::Pending, None | Some(CallState::Settled(_)))
            | (CallUpdate::Settled, Some(CallState::Settled(_))) => {}
            (_, None)
            | (CallUpdate::Pending, Some(CallState::Pending(_)))
            | (CallUpdate::NotStarted, Some(CallState::Pending(_) | CallState::Settled(_))) => {
                return false;
            }
            (CallUpdate::Output(output), Some(_)) => self.set_output(call, output),
            (CallUpdate::UnknownOutput(output), Some(_)) => {
                events.push(Event::Written(output.last(MAX_LINES as usize)));
            }
            (CallUpdate::Pending, Some(CallState::InMessage)) => {
                self.set_state(call, CallState::Pending(since));
                self.promises.push_back((since.at, call));
            }
            (CallUpdate::Settled, Some(state @ (CallState::InMessage | CallState::Pending(_)))) => {
                self.set_state(call, CallState::Settled(state.time(since, now)));
            }
            (CallUpdate::NotStarted, Some(CallState::InMessage)) => {
                self.remove(call);
                events.push(Event::NotStarted(call));
            }
            (CallUpdate::Ended(outcome), Some(state)) => {
                self.finish(call, outcome, state.time(since, now), events);
            }
        }
        true
    }

    fn set_state(&mut self, id: CallId, state: CallState) {
        if let Some(call) = self.calls.get_mut(&id) {
            let before = std::mem::replace(&mut call.state, state);
            self.pending -= usize::from(before.has_promise());
            self.settled -= usize::from(before.is_settled());
            self.pending += usize::from(state.has_promise());
            self.settled += usize::from(state.is_settled());
        }
    }

    /// Records what a call has written so far, if it is in flight.
    pub(super) fn set_output(&mut self, id: CallId, output: CallOutput) {
        if let Some(call) = self.calls.get_mut(&id) {
            call.output = output;
        }
    }

    /// Removes a call; returns what it has written.
    fn remove(&mut self, id: CallId) -> CallOutput {
        let Some(call) = self.calls.remove(&id) else {
            return CallOutput::default();
        };
        self.bytes -= call.size;
        self.pending -= usize::from(call.state.has_promise());
        self.settled -= usize::from(call.state.is_settled());
        call.output
    }

    /// Ends a call.
    pub(super) fn finish(
        &mut self,
        call: CallId,
        outcome: Result<Box<RawValue>, Failure>,
        time: CallTime,
        events: &mut Vec<Event>,
    ) {
        let output = self.remove(call);
        events.push(Event::Done {
            call,
            outcome,
            time,
            output,
        });
    }
}
