//! The events that the worker needs. Every other event is dropped unread.
//!
//! A page can cause most events, as often as it likes, and puts texts of its own into them. So an
//! event is a few short fields here, and what a page says beyond their limit is not read.

use bytes::Bytes;
use chromiumoxide_cdp::cdp::browser_protocol::fetch::RequestId;
use chromiumoxide_cdp::cdp::browser_protocol::target::TargetId;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::cbor::CborError;
use super::cbor::decode::from_slice_cut;

/// The size of a text in an event beyond which it is cut, in bytes. The longest one that is needed
/// is the URL of a page's document.
const TEXT_LIMIT: usize = 256;
/// Paused requests that wait for a decision at most. While there are more, nothing is read from the
/// browser.
const REQUESTS: usize = 256;

/// A request that waits for a decision.
#[derive(Debug)]
pub(crate) struct PausedRequest {
    pub(crate) id: RequestId,
    /// The frame that sent it; a page's main frame has the page's id.
    pub(crate) frame: TargetId,
    pub(crate) is_document: bool,
    pub(crate) method: String,
    /// Cut to 256 bytes.
    pub(crate) url: String,
    /// The size of the whole event, in bytes.
    pub(crate) size: usize,
}

/// The end of a session with a page.
#[derive(Debug)]
pub(crate) struct SessionEnd {
    pub(crate) session: String,
    pub(crate) cause: EndCause,
}

/// Why a session with a page ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndCause {
    /// The page's process ended.
    Crashed,
    /// The page was closed.
    Closed,
}

/// The events of one browser.
#[derive(Debug)]
pub(crate) struct Events {
    pub(crate) requests: mpsc::Receiver<PausedRequest>,
    /// At most two for each page.
    pub(crate) ends: mpsc::UnboundedReceiver<SessionEnd>,
}

/// Passes events on.
#[derive(Debug)]
pub(super) struct EventSender {
    requests: mpsc::Sender<PausedRequest>,
    ends: mpsc::UnboundedSender<SessionEnd>,
}

/// An event as it was received.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) method: String,
    pub(super) session: Option<String>,
    pub(super) params: Bytes,
    /// The size of the whole message, in bytes.
    pub(super) size: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RequestPaused {
    request_id: RequestId,
    frame_id: TargetId,
    resource_type: String,
    request: Request,
}

#[derive(Deserialize)]
struct Request {
    url: String,
    method: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DetachedFromTarget {
    session_id: String,
}

pub(super) fn channel() -> (EventSender, Events) {
    let (requests, paused) = mpsc::channel(REQUESTS);
    let (ends, ended) = mpsc::unbounded_channel();
    let events = Events {
        requests: paused,
        ends: ended,
    };
    (EventSender { requests, ends }, events)
}

impl EventSender {
    /// Passes an event on if it is needed; returns the session that it ends, if any.
    pub(super) async fn pass(&self, event: Event) -> Result<Option<String>, CborError> {
        let ended = match (event.method.as_str(), event.session) {
            ("Fetch.requestPaused", None) => {
                let paused: RequestPaused = from_slice_cut(&event.params, TEXT_LIMIT)?;
                let request = PausedRequest {
                    id: paused.request_id,
                    frame: paused.frame_id,
                    is_document: paused.resource_type == "Document",
                    method: paused.request.method,
                    url: paused.request.url,
                    size: event.size,
                };
                // Fails when the browser's tasks have ended.
                _ = self.requests.send(request).await;
                return Ok(None);
            }
            ("Inspector.targetCrashed", Some(session)) => SessionEnd {
                session,
                cause: EndCause::Crashed,
            },
            ("Target.detachedFromTarget", None) => {
                let detached: DetachedFromTarget = from_slice_cut(&event.params, TEXT_LIMIT)?;
                SessionEnd {
                    session: detached.session_id,
                    cause: EndCause::Closed,
                }
            }
            _ => return Ok(None),
        };
        let closed = (ended.cause == EndCause::Closed).then(|| ended.session.clone());
        // Fails when the browser's tasks have ended.
        _ = self.ends.send(ended);
        Ok(closed)
    }
}
