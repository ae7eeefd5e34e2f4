//! `GET /contracts/{contractAddress}/logs`: what a contract writes to its console, as server-sent
//! events.
//!
//! A follower asks the contract's owners, again and again, to keep what it writes, and reads the
//! stream that they append to. So lines exist only while somebody follows, unless the contract was
//! loaded so that they are kept.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, stream};
use http::{HeaderMap, HeaderName};
use serde::Deserialize;
use serde_json::json;
use shared::protocol::id::ContractAddress;
use shared::queue::logs::{InvalidLogId, LogId, LogLine, LogPage};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::access::{By, Permission};
use crate::error::ApiError;
use crate::openapi::failures::LogFailures;
use crate::routes::{pages, path};
use crate::state::AppState;

/// How many followers an api has at most.
pub(crate) const FOLLOWERS: usize = 32;

/// How often the owners are asked to go on, and for how long they do. Another owner learns of the
/// followers within this time.
const ASK_EVERY: Duration = Duration::from_secs(5);
const ASK_FOR_MS: u32 = 20_000;

/// How often the stream is read.
const READ_EVERY: Duration = Duration::from_millis(300);

/// How many lines are read at once.
const LINES: usize = 100;

/// An event that says nothing, so that proxies keep the connection open.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// For how long one request follows. The client connects again, with the last id.
const LONGEST: Duration = Duration::from_hours(1);

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Whether the lines to come are wanted, too.
#[derive(Debug, Deserialize)]
pub(crate) struct LogsQuery {
    #[serde(default)]
    follow: bool,
}

/// Follow what a contract writes to its console
///
/// A stream of server-sent events, `text/event-stream`. Each line is an event `line`, whose data is
/// `{"time", "call", "method", "line"}`; `call` is the id of the call's request, or null if it is
/// not known which call has written the line. An event `gap` says that lines may be missing. The
/// last 1,000 lines of a contract are kept, 256 KiB at most: while somebody follows and for a
/// minute after the last one, or for 7 days if the contract was loaded with `"logs": "keep"`.
#[utoipa::path(
    get,
    path = "/contracts/{contractAddress}/logs",
    tag = "Contracts",
    operation_id = "followContract",
    params(
        ("contractAddress" = String, Path, pattern = "^[A-Za-z0-9._:-]{1,128}$", example = "abcd"),
        ("follow" = Option<bool>, Query, description = "Whether to wait for the lines to come; \
            otherwise the response ends after those that are kept"),
        ("Last-Event-ID" = Option<String>, Header, pattern = "^[0-9]{1,15}-[0-9]{1,15}$", description = "Continue \
            after this event"),
    ),
    responses(
        (status = 200, body = String, content_type = "text/event-stream"),
        LogFailures,
    ),
)]
pub(crate) async fn follow(
    State(state): State<AppState>,
    By(caller): By,
    parts: Result<Path<String>, PathRejection>,
    query: Result<Query<LogsQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let contract = caller.contract(Permission::LogsRead, &path::<String>(parts)?)?;
    let query = pages::query(query)?;
    let last = headers.get(LAST_EVENT_ID).map(|id| {
        let id = id.to_str().map_err(|_| InvalidLogId)?;
        id.parse::<LogId>()
    });
    let last = last
        .transpose()
        .map_err(|reason| ApiError::field("Last-Event-ID", reason.to_string()))?;
    if state.queue.contract(&contract).await?.is_none() {
        return Err(ApiError::ContractNotLoaded);
    }
    let place = state.followers.clone().try_acquire_owned();
    let follower = Follower {
        _place: place.map_err(|_| ApiError::too_many_followers())?,
        state,
        contract,
        last,
        follows: query.follow,
        asked: None,
        begun: Instant::now(),
        events: VecDeque::new(),
    };
    let keep_alive = KeepAlive::new().interval(HEARTBEAT);
    Ok(Sse::new(follower.events())
        .keep_alive(keep_alive)
        .into_response())
}

/// One reader of a contract's lines.
struct Follower {
    _place: OwnedSemaphorePermit,
    state: AppState,
    contract: ContractAddress,
    /// The last line that was sent.
    last: Option<LogId>,
    follows: bool,
    /// When the owners were asked last.
    asked: Option<Instant>,
    begun: Instant,
    events: VecDeque<Event>,
}

impl Follower {
    fn events(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, async |mut follower| {
            let event = follower.next().await?;
            Some((Ok(event), follower))
        })
    }

    /// Waits for the next event. None if there will be no more.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if self.begun.elapsed() > LONGEST || !self.ask().await {
                return None;
            }
            // While Redis does not answer, the follower waits.
            let page = self
                .state
                .queue
                .read_logs(&self.contract, self.last, LINES)
                .await;
            self.take(page.unwrap_or_default());
            if self.events.is_empty() {
                if !self.follows {
                    return None;
                }
                tokio::select! {
                    () = tokio::time::sleep(READ_EVERY) => {}
                    () = self.state.life.draining() => return None,
                }
            }
        }
    }

    /// Asks the owners to keep what the contract writes. False if it is not loaded any more.
    async fn ask(&mut self) -> bool {
        if !self.follows || self.asked.is_some_and(|asked| asked.elapsed() < ASK_EVERY) {
            return true;
        }
        self.asked = Some(Instant::now());
        let asking = self.state.dispatcher.follow(&self.contract, ASK_FOR_MS);
        // If that fails, they are asked again soon.
        asking.await.unwrap_or(true)
    }

    fn take(&mut self, page: LogPage) {
        if let (Some(last), Some(oldest)) = (self.last, page.oldest)
            && last < oldest
        {
            let data = json!({ "after": last.to_string() }).to_string();
            self.events
                .push_back(Event::default().event("gap").data(data));
        }
        for (id, line) in page.lines {
            self.last = Some(id);
            self.events.push_back(event(id, &line));
        }
    }
}

fn event(id: LogId, line: &LogLine) -> Event {
    let known = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let data = json!({
        "time": id.time,
        "call": known(&line.request),
        "method": known(&line.method),
        "line": line.text,
    });
    let event = Event::default().event("line").id(id.to_string());
    event.data(data.to_string())
}
