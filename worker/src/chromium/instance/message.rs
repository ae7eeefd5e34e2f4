//! One message of calls on its way to a page.
//!
//! A long message is sent in pieces, each after the reply to the one before, so that the calls of
//! other pages pass in between. Its calls start when the page has parsed it: the time before counts
//! as no call's.

use std::task::{Context, Poll};
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

/// A message without a reply.
pub(super) struct Message {
    pub(super) calls: Vec<CallId>,
    sent: Instant,
    /// When the page got the calls; as `sent` for a message that is not sent in pieces.
    started: Instant,
    stage: Stage,
    slot: Option<SendSlot>,
}

/// How far a message has got. The reply is the one to what was sent last.
enum Stage {
    /// The page reads the calls.
    Reading(Pieces<String>, PendingReply),
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
            Stage::Running(harness.run(text, wake))
        } else {
            let mut pieces = Pieces::of(text);
            let reply = send_piece(&mut pieces, harness, wake);
            Stage::Reading(pieces, reply)
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

    /// Waits for the reply to what was sent last.
    pub(super) fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<Result<String, String>> {
        let (Stage::Reading(_, reply) | Stage::Running(reply)) = &mut self.stage;
        reply.poll_unpin(cx)
    }

    /// Sends what follows the piece that was replied to: the next one, or the start of the calls.
    pub(super) fn proceed(&mut self, harness: &Harness) {
        if let Stage::Reading(pieces, reply) = &mut self.stage {
            if pieces.is_empty() {
                self.started = Instant::now();
                self.stage = Stage::Running(harness.run_taken());
            } else {
                *reply = send_piece(pieces, harness, false);
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

fn send_piece(pieces: &mut Pieces<String>, harness: &Harness, wake: bool) -> PendingReply {
    let piece = pieces.next().unwrap_or_default().to_owned();
    harness.take(&piece, pieces.is_empty(), wake)
}
