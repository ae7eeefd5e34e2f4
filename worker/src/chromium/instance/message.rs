//! One message of calls on its way to a page.
//!
//! A long message is sent in pieces, two at a time: the browser passes one on while the page reads
//! the other, and the calls of other pages pass in between. Its calls start when the page has parsed
//! it: the time before counts as no call's.

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::FutureExt;
use tokio::time::Instant;

use crate::chromium::browser::send_slots::SendSlot;
use crate::chromium::page::harness::handle::{Harness, PendingReply};
use crate::chromium::page::harness::pieces::{PIECE, Pieces};
use crate::chromium::page::harness::protocol::SLICE_MS;
use crate::sandbox::CallId;

/// A message that is in flight for longer frees its send slot, so that calls that compute delay no
/// other contract's.
const SLOT_TIME: Duration = Duration::from_millis(2 * SLICE_MS);

/// Pieces of a message that are sent and not replied to, at most.
const PIECES: usize = 2;

/// A message without a reply.
pub(super) struct Message {
    pub(super) calls: Vec<CallId>,
    sent: Instant,
    /// When the page got the calls; as `sent` for a message that is not sent in pieces.
    started: Instant,
    stage: Stage,
    slot: Option<SendSlot>,
}

/// How far a message has got.
enum Stage {
    /// The page reads the calls.
    Reading(Reading),
    /// The page runs the calls.
    Running(PendingReply),
}

impl Message {
    /// Sends a message. `wake` unfreezes the page first.
    pub(super) fn send(
        calls: Vec<CallId>,
        text: String,
        harness: &Harness,
        wake: bool,
        slot: Option<SendSlot>,
    ) -> Self {
        let sent = Instant::now();
        let stage = if text.len() <= PIECE {
            Stage::Running(harness.run(&text, wake))
        } else {
            Stage::Reading(Reading::begin(text, harness, wake))
        };
        Self {
            calls,
            sent,
            started: sent,
            stage,
            slot,
        }
    }

    /// Whether the page has not got all of the message yet, so that no call of it was started.
    pub(super) fn is_reading(&self) -> bool {
        matches!(self.stage, Stage::Reading(..))
    }

    /// When the page may have begun with the calls.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// Waits for the next reply: to a piece, or to the whole message.
    pub(super) fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<Result<String, String>> {
        match &mut self.stage {
            Stage::Reading(reading) => reading.poll_reply(cx),
            Stage::Running(reply) => reply.poll_unpin(cx),
        }
    }

    /// Sends what follows a piece that was replied to: the next one, or the start of the calls.
    pub(super) fn proceed(&mut self, harness: &Harness) {
        if let Stage::Reading(reading) = &mut self.stage {
            reading.send(harness, false);
            if reading.is_over() {
                self.started = Instant::now();
                self.stage = Stage::Running(harness.run_taken());
            }
        }
    }

    /// When the message has held its send slot for long enough, if it holds one.
    pub(super) fn slot_deadline(&self) -> Option<Instant> {
        self.slot.as_ref().map(|_| self.sent + SLOT_TIME)
    }

    /// Frees the send slot.
    pub(super) fn free_slot(&mut self) {
        self.slot = None;
    }
}

/// The pieces of a message on their way.
struct Reading {
    pieces: Pieces<String>,
    /// In the order in which the pieces were sent, which is the order of the replies.
    replies: VecDeque<PendingReply>,
}

impl Reading {
    fn begin(text: String, harness: &Harness, wake: bool) -> Self {
        let pieces = Pieces::of(text);
        let replies = VecDeque::with_capacity(PIECES);
        let mut reading = Self { pieces, replies };
        reading.send(harness, wake);
        reading
    }

    /// Sends as many pieces as may be on their way. `wake` unfreezes the page first.
    fn send(&mut self, harness: &Harness, mut wake: bool) {
        while self.replies.len() < PIECES
            && let Some(piece) = self.pieces.next().map(str::to_owned)
        {
            let reply = harness.take(&piece, self.pieces.is_empty(), wake);
            self.replies.push_back(reply);
            wake = false;
        }
    }

    /// Whether every piece was replied to.
    fn is_over(&self) -> bool {
        self.replies.is_empty()
    }

    /// Waits for the reply to the oldest piece.
    fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<Result<String, String>> {
        let Some(reply) = self.replies.front_mut() else {
            return Poll::Pending;
        };
        let replied = ready!(reply.poll_unpin(cx));
        self.replies.pop_front();
        Poll::Ready(replied)
    }
}
