//! What contracts write to their consoles while somebody follows it: a short stream for each
//! contract. It ends soon after its last line, so it takes room only while there is a reader.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::timing::millis;
use super::{Queue, QueueError};
use crate::protocol::id::ContractAddress;

/// The lines of one contract that are kept.
const KEPT_LINES: usize = 1000;

/// The most bytes of a line that is kept.
const LINE: usize = 1024;

/// How long the lines are kept after the last one.
const KEPT_FOR: Duration = Duration::from_mins(1);

/// A line that a call has written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// The id of the call's request, if it is known.
    pub request: String,
    /// The endpoint.
    pub method: String,
    /// The text.
    pub text: String,
}

/// The place of a line in its contract's stream, which begins with its time: milliseconds since
/// the epoch by the clock of Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogId {
    /// The time.
    pub time: u64,
    number: u64,
}

/// A text is no [`LogId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be the id of an event, such as 1767225600000-0")]
pub struct InvalidLogId;

impl FromStr for LogId {
    type Err = InvalidLogId;

    fn from_str(text: &str) -> Result<Self, InvalidLogId> {
        let (time, number) = text.split_once('-').ok_or(InvalidLogId)?;
        let parse = |part: &str| part.parse().map_err(|_| InvalidLogId);
        Ok(Self {
            time: parse(time)?,
            number: parse(number)?,
        })
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.time, self.number)
    }
}

/// An entry of the stream: its id, and names and values of its fields in turn.
type Entry = (String, Vec<String>);

/// Some lines of a contract.
#[derive(Debug, Default)]
pub struct LogPage {
    /// The oldest line that is kept. A reader that has read up to an earlier one may lack some.
    pub oldest: Option<LogId>,
    /// The lines, oldest first.
    pub lines: Vec<(LogId, LogLine)>,
}

impl Queue {
    /// Appends lines of a contract.
    pub async fn append_logs(
        &self,
        address: &ContractAddress,
        lines: &[LogLine],
    ) -> Result<(), QueueError> {
        let key = self.keys().logs(address);
        let mut appending = redis::pipe();
        for LogLine {
            request,
            method,
            text,
        } in lines
        {
            let text = &text[..text.floor_char_boundary(LINE)];
            let command = appending.cmd("XADD").arg(&key);
            command.arg("MAXLEN").arg(KEPT_LINES).arg("*");
            command
                .arg(&["r", request, "m", method, "t", text])
                .ignore();
        }
        appending
            .cmd("PEXPIRE")
            .arg(&key)
            .arg(millis(KEPT_FOR))
            .ignore();
        appending
            .query_async::<()>(&mut self.pooled().await?)
            .await?;
        Ok(())
    }

    /// Reads at most `count` lines of a contract that come after this one, or from the oldest one.
    pub async fn read_logs(
        &self,
        address: &ContractAddress,
        after: Option<LogId>,
        count: usize,
    ) -> Result<LogPage, QueueError> {
        let key = self.keys().logs(address);
        let start = after.map_or_else(|| "-".to_owned(), |id| format!("({id}"));
        let (oldest, found): (Vec<Entry>, Vec<Entry>) = redis::pipe()
            .cmd("XRANGE")
            .arg(&key)
            .arg(&["-", "+", "COUNT", "1"])
            .cmd("XRANGE")
            .arg(&key)
            .arg(&[&start, "+", "COUNT"])
            .arg(count)
            .query_async(&mut self.pooled().await?)
            .await?;
        let oldest = oldest.first().and_then(|(id, _)| id.parse().ok());
        let lines = found.into_iter().filter_map(|(id, fields)| {
            let [_, request, _, method, _, text] = fields.try_into().ok()?;
            let line = LogLine {
                request,
                method,
                text,
            };
            Some((id.parse().ok()?, line))
        });
        Ok(LogPage {
            oldest,
            lines: lines.collect(),
        })
    }

    /// Removes the lines of a contract.
    pub async fn remove_logs(&self, address: &ContractAddress) -> Result<(), QueueError> {
        redis::cmd("UNLINK")
            .arg(self.keys().logs(address))
            .query_async::<()>(&mut self.pooled().await?)
            .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written() {
        let id: LogId = "1767225600000-7".parse().unwrap();
        assert_eq!(id.to_string(), "1767225600000-7");
        assert!(id < "1767225600000-10".parse().unwrap());
        for wrong in ["", "1", "1-", "a-1", "1-1-1", "-"] {
            assert_eq!(wrong.parse::<LogId>(), Err(InvalidLogId), "{wrong}");
        }
    }
}
