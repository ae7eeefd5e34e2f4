//! The calls of one contract that are in flight: the message that each was sent in, whose time is
//! running, and what each reply means.
//!
//! A page works on its messages in order. So the time of the first message runs, and the time of
//! the second one starts when the first is answered. A call that returned a promise has a time
//! limit of its own.

use std::collections::{HashMap, VecDeque};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use serde_json::value::RawValue;
use shared::protocol::reply::Failure;
use tokio::time::Instant;

use crate::chromium::browser::send_slots::SendSlot;
use crate::chromium::page::harness::handle::PendingReply;
use crate::chromium::page::harness::protocol::{self, CallUpdate, SLICE_MS};
use crate::sandbox::{CallId, Event};

/// A message that is in flight for longer frees its send slot, so that calls that compute delay no
/// other contract's.
const SLOT_TIME: Duration = Duration::from_millis(2 * SLICE_MS);
/// A message that takes longer than this keeps the page from settling promises. A promise that
/// becomes overdue later than that is examined only when the message is answered.
const STUCK: Duration = Duration::from_millis(100);

/// Where a call is.
#[derive(Debug, Clone, Copy)]
pub(super) enum CallState {
    /// In a message without a reply.
    InMessage,
    /// It was started at this time, and its promise is pending.
    Pending(Instant),
}

/// A message without a reply.
pub(super) struct Message {
    pub(super) calls: Vec<CallId>,
    sent: Instant,
    reply: PendingReply,
    slot: Option<SendSlot>,
}

/// The calls in flight to one page.
pub(super) struct InFlight {
    call_limit: Duration,
    result_limit: u32,
    /// Every call without an event.
    calls: HashMap<CallId, CallState>,
    messages: VecDeque<Message>,
    /// Since when the page works on the first message.
    front_since: Instant,
    /// Calls that returned a promise, oldest first. Some may have ended.
    promises: VecDeque<(Instant, CallId)>,
    /// How many calls have a pending promise.
    pending: usize,
}

impl InFlight {
    pub(super) fn new(call_limit: Duration, result_limit: u32) -> Self {
        Self {
            call_limit,
            result_limit,
            calls: HashMap::new(),
            messages: VecDeque::new(),
            front_since: Instant::now(),
            promises: VecDeque::new(),
            pending: 0,
        }
    }

    pub(super) fn call_limit(&self) -> Duration {
        self.call_limit
    }

    pub(super) fn result_limit(&self) -> u32 {
        self.result_limit
    }

    /// How many calls have no event yet.
    pub(super) fn calls(&self) -> usize {
        self.calls.len()
    }

    /// How many messages have no reply.
    pub(super) fn messages(&self) -> usize {
        self.messages.len()
    }

    /// How many calls have a pending promise.
    pub(super) fn pending(&self) -> usize {
        self.pending
    }

    /// The state of a call that has no event yet.
    pub(super) fn state(&self, call: CallId) -> Option<CallState> {
        self.calls.get(&call).copied()
    }

    /// The calls with a pending promise, and when each was started.
    pub(super) fn pending_calls(&self) -> impl Iterator<Item = (CallId, Instant)> {
        self.calls.iter().filter_map(|(call, state)| match state {
            CallState::Pending(since) => Some((*call, *since)),
            CallState::InMessage => None,
        })
    }

    /// The calls of the first message without a reply.
    pub(super) fn front_calls(&self) -> &[CallId] {
        self.messages
            .front()
            .map_or(&[][..], |message| &message.calls)
    }

    /// Since when the page works on the first message.
    pub(super) fn front_since(&self) -> Instant {
        self.front_since
    }

    /// Whether the first message has been in work for longer than a call may run.
    pub(super) fn is_front_overdue(&self) -> bool {
        !self.messages.is_empty() && self.front_since.elapsed() >= self.call_limit
    }

    /// Records a message that was sent.
    pub(super) fn add(
        &mut self,
        calls: Vec<CallId>,
        sent: Instant,
        reply: PendingReply,
        slot: Option<SendSlot>,
    ) {
        if self.messages.is_empty() {
            self.front_since = sent;
        }
        self.calls
            .extend(calls.iter().map(|call| (*call, CallState::InMessage)));
        self.messages.push_back(Message {
            calls,
            sent,
            reply,
            slot,
        });
    }

    /// Waits for the reply to any message; returns the message's index, too. Cancel safe.
    pub(super) fn poll_reply(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<(usize, Result<String, String>)> {
        for (index, message) in self.messages.iter_mut().enumerate() {
            if let Poll::Ready(reply) = message.reply.poll_unpin(cx) {
                return Poll::Ready((index, reply));
            }
        }
        Poll::Pending
    }

    /// Removes a message that was answered. Returns since when the page has worked on it, too.
    pub(super) fn remove_message(&mut self, index: usize) -> Option<(Message, Instant)> {
        let message = self.messages.remove(index)?;
        let since = self.front_since.max(message.sent);
        if index == 0 {
            self.front_since = Instant::now();
        }
        Some((message, since))
    }

    /// Forgets all messages.
    pub(super) fn clear_messages(&mut self) {
        self.messages.clear();
    }

    /// When the next message has held its send slot for long enough. That is before any deadline.
    pub(super) fn slot_deadline(&self) -> Option<Instant> {
        let holders = self.messages.iter().filter(|m| m.slot.is_some());
        holders.map(|message| message.sent + SLOT_TIME).min()
    }

    /// Frees the send slots that were held for long enough.
    pub(super) fn free_slots(&mut self) {
        let now = Instant::now();
        for message in &mut self.messages {
            if message.sent + SLOT_TIME <= now {
                message.slot = None;
            }
        }
    }

    /// When the next call will have run for longer than its limit.
    pub(super) fn deadline(&mut self) -> Option<Instant> {
        let slice = Duration::from_millis(SLICE_MS);
        let message = self
            .messages
            .front()
            .map(|_| self.front_since + self.call_limit + slice);
        let promise = self.oldest_promise().map(|since| since + self.call_limit);
        match (message, promise) {
            (Some(message), Some(promise)) if promise < self.front_since + STUCK => {
                Some(message.min(promise))
            }
            (message, promise) => message.or(promise),
        }
    }

    /// Since when the oldest promise is pending.
    fn oldest_promise(&mut self) -> Option<Instant> {
        while let Some((since, call)) = self.promises.front() {
            if matches!(self.calls.get(call), Some(CallState::Pending(_))) {
                return Some(*since);
            }
            self.promises.pop_front();
        }
        None
    }

    /// Turns a reply into events. A reply that names a call that is not in flight is forged.
    pub(super) fn read(&mut self, reply: &str, since: Instant) -> Result<Vec<Event>, String> {
        let reply = protocol::parse(reply, self.result_limit).map_err(|e| e.to_string())?;
        let now = Instant::now();
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
        since: Instant,
        now: Instant,
        events: &mut Vec<Event>,
    ) -> bool {
        match (update, self.calls.get(&call).copied()) {
            // The reply with a promise's result may overtake the reply that reports the promise.
            (CallUpdate::Pending, None) => {}
            (_, None)
            | (CallUpdate::Pending | CallUpdate::NotStarted, Some(CallState::Pending(_))) => {
                return false;
            }
            (CallUpdate::Pending, Some(CallState::InMessage)) => {
                self.calls.insert(call, CallState::Pending(since));
                self.promises.push_back((since, call));
                self.pending += 1;
            }
            (CallUpdate::NotStarted, Some(CallState::InMessage)) => {
                self.calls.remove(&call);
                events.push(Event::NotStarted(call));
            }
            (CallUpdate::Ended(outcome), Some(state)) => {
                let since = match state {
                    CallState::InMessage => since,
                    CallState::Pending(since) => since,
                };
                self.finish(call, outcome, now.duration_since(since), events);
            }
        }
        true
    }

    /// Ends a call.
    pub(super) fn finish(
        &mut self,
        call: CallId,
        outcome: Result<Box<RawValue>, Failure>,
        elapsed: Duration,
        events: &mut Vec<Event>,
    ) {
        if let Some(CallState::Pending(_)) = self.calls.remove(&call) {
            self.pending -= 1;
        }
        events.push(Event::Done {
            call,
            outcome,
            elapsed,
        });
    }
}
