//! What a container prints, read from the daemon's log while somebody wants it.
//!
//! The daemon keeps the log whether it is read or not, so the contract never waits for a reader. A
//! reader that falls behind leaves lines out instead of reading all of them, and says so. Lines
//! that arrive again are known by their times: a reader that goes on asks for some again, and the
//! daemon repeats some when it begins a new file.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::query_parameters::LogsOptionsBuilder;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout_at};

/// Lines that are reported together.
const TOGETHER: usize = 100;

/// The most bytes of a line. The daemon passes on longer ones in parts of 16 KiB; all but the first
/// part are left out.
const LINE: usize = 2048;

/// Lines that are read in a second, of how many bytes together. Then the reader goes on with the
/// last ones.
const LINES_A_SECOND: usize = 1000;
const BYTES_A_SECOND: usize = 1 << 20;

/// How many of the last lines a reader begins with that went on.
const AGAIN: &str = "100";

/// How many lines are known again.
const KNOWN: usize = 4096;

/// How long a reader waits after the daemon has broken off.
const RETRY: Duration = Duration::from_secs(1);

/// How long the rest of the log is read after the container's death.
const REST_LIMIT: Duration = Duration::from_millis(500);

/// Reads the log of one container.
pub(super) struct ContainerOutput {
    daemon: bollard::Docker,
    name: String,
    /// How many lines of the past a reader begins with.
    past: &'static str,
    log: Log,
    seen: Seen,
    /// Where the log is read again: whether it has come to a line that had been read before.
    again: Option<bool>,
    /// Whether the last part of stdout, or of stderr, was not the end of its line.
    is_open: [bool; 2],
    /// Since the beginning of this second so many lines and bytes were read.
    second: (Instant, usize, usize),
    lines: Vec<String>,
    /// When what is left of the log of a dead container is not read any more.
    rest_until: Option<Instant>,
}

/// The lines that were read last, by their streams and times. One stream has no two lines of the
/// same nanosecond.
#[derive(Default)]
struct Seen {
    lines: VecDeque<(usize, String)>,
    /// The latest time of each stream, as the daemon writes it.
    latest: [String; 2],
}

/// Where the log is.
enum Log {
    /// Nobody wants it.
    Closed,
    Open(BoxStream<'static, Result<LogOutput, Error>>),
    /// It is opened again at this time.
    Pausing(Pin<Box<Sleep>>),
}

impl fmt::Debug for ContainerOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("ContainerOutput");
        shown.field("name", &self.name).finish_non_exhaustive()
    }
}

impl ContainerOutput {
    /// The log of the container of this name. It is read from its beginning if `is_kept`, otherwise
    /// from when somebody wants it.
    pub(super) fn new(daemon: bollard::Docker, name: String, is_kept: bool) -> Self {
        Self {
            daemon,
            name,
            past: if is_kept { "1000" } else { "0" },
            log: Log::Closed,
            seen: Seen::default(),
            again: None,
            is_open: [false; 2],
            second: (Instant::now(), 0, 0),
            lines: Vec::new(),
            rest_until: None,
        }
    }

    /// Whether somebody wants the output from now on.
    pub(super) fn follow(&mut self, wanted: bool) {
        match &self.log {
            Log::Closed if wanted => self.open(self.past),
            Log::Open(_) | Log::Pausing(_) if !wanted => {
                self.log = Log::Closed;
                self.seen = Seen::default();
                self.again = None;
            }
            _ => {}
        }
    }

    /// Waits for the next lines. Pending while nobody wants them. Cancel safe.
    pub(super) async fn next(&mut self) -> Vec<String> {
        loop {
            match &mut self.log {
                Log::Closed => std::future::pending().await,
                Log::Pausing(pause) => {
                    pause.await;
                    self.again = Some(false);
                    self.open(AGAIN);
                }
                Log::Open(log) => match log.next().await {
                    Some(Ok(part)) => {
                        self.take(&part);
                        self.take_ready();
                    }
                    ended => {
                        let error = ended.and_then(Result::err);
                        let error = error.as_ref().map(ToString::to_string);
                        tracing::debug!(container = self.name, error, "container log ended");
                        self.log = Log::Pausing(Box::pin(sleep(RETRY)));
                    }
                },
            }
            if !self.lines.is_empty() {
                return std::mem::take(&mut self.lines);
            }
        }
    }

    /// The rest of the log of a container that has died. Cancel safe.
    pub(super) async fn rest(&mut self) -> Vec<String> {
        let until = *self.rest_until.get_or_insert(Instant::now() + REST_LIMIT);
        let reading = async {
            while let Log::Open(log) = &mut self.log
                && let Some(Ok(part)) = log.next().await
            {
                self.take(&part);
                let surplus = self.lines.len().saturating_sub(LINES_A_SECOND);
                self.lines.drain(..surplus);
            }
        };
        // A log that does not end in time lacks its end.
        let _ = timeout_at(until, reading).await;
        std::mem::take(&mut self.lines)
    }

    fn open(&mut self, tail: &str) {
        let options = LogsOptionsBuilder::new()
            .follow(true)
            .stdout(true)
            .stderr(true)
            .timestamps(true)
            .tail(tail)
            .build();
        self.is_open = [false; 2];
        self.second = (Instant::now(), 0, 0);
        let log = self.daemon.logs(&self.name, Some(options));
        self.log = Log::Open(log.fuse().boxed());
    }

    /// Takes what the daemon has sent already, up to the bounds.
    fn take_ready(&mut self) {
        while self.lines.len() < TOGETHER
            && !self.has_read_enough()
            && let Log::Open(log) = &mut self.log
            && let Some(Some(Ok(part))) = log.next().now_or_never()
        {
            self.take(&part);
        }
        let end = self.second.0 + Duration::from_secs(1);
        if Instant::now() >= end {
            self.second = (Instant::now(), 0, 0);
        } else if self.has_read_enough() {
            self.log = Log::Pausing(Box::pin(sleep_until(end)));
        }
    }

    /// Whether no more is read in this second. What was read before counts as well.
    fn has_read_enough(&self) -> bool {
        let (_, lines, bytes) = self.second;
        lines > LINES_A_SECOND || bytes > BYTES_A_SECOND
    }

    fn take(&mut self, part: &LogOutput) {
        let stream = usize::from(matches!(part, LogOutput::StdErr { .. }));
        let part = part.as_ref();
        self.second.1 += 1;
        self.second.2 += part.len();
        let is_continued = std::mem::replace(&mut self.is_open[stream], !part.ends_with(b"\n"));
        let Some((time, line)) = line_of(part) else {
            return;
        };
        if !self.seen.is_new(stream, time) {
            self.again = self.again.map(|_| true);
            return;
        }
        if self.again.take() == Some(false) {
            self.lines.push("(lines may be missing)".to_owned());
        }
        if !is_continued {
            self.lines.push(line);
        }
    }
}

impl Seen {
    /// Whether a line was not read before. From now on it was.
    fn is_new(&mut self, stream: usize, time: &str) -> bool {
        let latest = &mut self.latest[stream];
        // An earlier time is new as well if the machine's clock was set back.
        let is_known = |(other, known): &(usize, String)| *other == stream && known == time;
        if time <= latest.as_str() && self.lines.iter().any(is_known) {
            return false;
        }
        time.clone_into(latest);
        if self.lines.len() == KNOWN {
            self.lines.pop_front();
        }
        self.lines.push_back((stream, time.to_owned()));
        true
    }
}

/// The time of a line and its text.
fn line_of(part: &[u8]) -> Option<(&str, String)> {
    let space = part.iter().position(|byte| *byte == b' ')?;
    let (time, text) = part.split_at(space);
    let time = str::from_utf8(time).ok()?;
    let text = String::from_utf8_lossy(&text[1..text.len().min(LINE + 1)]);
    Some((time, text.trim_end_matches(['\n', '\r']).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output() -> ContainerOutput {
        let daemon =
            bollard::Docker::connect_with_http("127.0.0.1:1", 1, bollard::API_DEFAULT_VERSION);
        ContainerOutput::new(daemon.unwrap(), "contract".to_owned(), false)
    }

    fn take(output: &mut ContainerOutput, time: u32, text: &str) {
        let message = format!("2026-01-01T00:00:{time:02}.000000000Z {text}").into();
        output.take(&LogOutput::StdOut { message });
    }

    #[test]
    fn lines_lose_their_times_and_what_is_too_long() {
        let mut output = output();
        take(&mut output, 1, "one\r\n");
        take(&mut output, 2, "\n");
        take(&mut output, 3, &"ü".repeat(9000));
        take(&mut output, 4, "its second part\n");
        take(&mut output, 5, "last\n");
        let lengths: Vec<_> = output
            .lines
            .iter()
            .map(|line| line.chars().count())
            .collect();
        assert_eq!(lengths, [3, 0, 1024, 4], "{:?}", output.lines);
        assert_eq!(
            (&output.lines[0][..], &output.lines[3][..]),
            ("one", "last")
        );
    }

    #[test]
    fn a_log_that_is_read_again_repeats_nothing_and_tells_of_gaps() {
        let mut output = output();
        take(&mut output, 1, "one\n");
        take(&mut output, 2, "two\n");
        output.again = Some(false);
        take(&mut output, 1, "one\n");
        take(&mut output, 2, "two\n");
        take(&mut output, 3, "three\n");
        output.again = Some(false);
        take(&mut output, 5, "five\n");
        // The daemon has begun a new file.
        take(&mut output, 3, "three\n");
        take(&mut output, 5, "five\n");
        // The clock was set back.
        take(&mut output, 4, "four\n");
        let missing = "(lines may be missing)";
        let expected = ["one", "two", "three", missing, "five", "four"];
        assert_eq!(output.lines, expected);
    }

    #[tokio::test]
    async fn a_flood_is_not_read_to_its_end() {
        let mut output = output();
        let flood = futures::stream::repeat_with(|| {
            let message = "2026-01-01T00:00:01.000000000Z x\n".into();
            Ok(LogOutput::StdErr { message })
        });
        output.log = Log::Open(flood.boxed());
        while matches!(output.log, Log::Open(_)) {
            output.take_ready();
            output.lines.clear();
        }
        assert!(matches!(output.log, Log::Pausing(_)));
    }
}
