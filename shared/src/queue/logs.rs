//! What contracts write to their consoles: a short stream for each contract that somebody follows,
//! or that was loaded so that its last lines are kept. Other contracts have none.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use redis::Script;

use super::timing::millis;
use super::{Queue, QueueError};
use crate::protocol::id::ContractAddress;

/// The lines of one contract that are kept, and how many bytes they have together.
const KEPT_LINES: usize = 1000;
const KEPT_BYTES: usize = 256 * 1024;

/// How many bytes the kept lines of all contracts have together. The more contracts keep some, the
/// fewer each of them keeps, down to [`LEAST_BYTES`]. If even so they have too many, the sweep
/// removes those of the contracts that have written nothing for the longest time.
const ALL_BYTES: usize = 32 * 1024 * 1024;
const LEAST_BYTES: usize = 16 * 1024;

/// The most bytes of a line that is kept.
const LINE: usize = 1024;

/// For how many bytes a line counts beside its texts.
const LINE_OVERHEAD: usize = 32;

/// How long the lines of a contract are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// For a minute after the last one: somebody follows them.
    Followed,
    /// For 7 days after the last one, unless the contract is unloaded before.
    Kept,
}

impl Retention {
    fn time(self) -> Duration {
        match self {
            Self::Followed => Duration::from_mins(1),
            Self::Kept => Duration::from_hours(7 * 24),
        }
    }
}

/// Appends lines, and removes the oldest ones beyond the bounds. `KEYS` are the contract's record,
/// the stream, and how many bytes its lines have: to add them up each time would cost more than to
/// append. A contract that is not loaded any more gets no line. Returns how many lines there are.
const APPEND: &str = "
if redis.call('EXISTS', KEYS[1]) == 0 then
    redis.call('DEL', KEYS[2], KEYS[3])
    return 0
end
local life, overhead = ARGV[1], tonumber(ARGV[4])
local most_lines, most_bytes = tonumber(ARGV[2]), tonumber(ARGV[3])
local bytes = 0
if redis.call('XLEN', KEYS[2]) > 0 then
    bytes = math.max(tonumber(redis.call('GET', KEYS[3]) or '0'), 0)
end
for i = 5, #ARGV, 3 do
    redis.call('XADD', KEYS[2], '*', 'r', ARGV[i], 'm', ARGV[i + 1], 't', ARGV[i + 2])
    bytes = bytes + #ARGV[i] + #ARGV[i + 1] + #ARGV[i + 2] + overhead
end
local lines = redis.call('XLEN', KEYS[2])
while lines > most_lines or bytes > most_bytes do
    local oldest = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 100)
    if #oldest == 0 then bytes = 0 break end
    for _, line in ipairs(oldest) do
        if lines <= most_lines and bytes <= most_bytes then break end
        local fields = line[2]
        bytes = bytes - #fields[2] - #fields[4] - #fields[6] - overhead
        lines = lines - 1
    end
    redis.call('XTRIM', KEYS[2], 'MAXLEN', lines)
end
if #ARGV >= 5 then redis.call('PEXPIRE', KEYS[2], life) end
redis.call('SET', KEYS[3], bytes, 'PX', life)
return lines
";

/// A line that a contract has written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// The id of the request whose call has written it. Empty if that is not known.
    pub request: String,
    /// The endpoint of this call. Empty if it is not known.
    pub method: String,
    /// The text.
    pub text: String,
}

impl LogLine {
    /// A line of which it is not known which call has written it.
    pub fn of_no_call(text: String) -> Self {
        Self {
            request: String::new(),
            method: String::new(),
            text,
        }
    }

    /// How many bytes of memory it takes, about.
    pub fn bytes(&self) -> usize {
        self.request.len() + self.method.len() + self.text.len() + size_of::<Self>()
    }
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
    /// Appends lines of a contract, unless it is not loaded any more.
    pub async fn append_logs(
        &self,
        address: &ContractAddress,
        lines: &[LogLine],
        retention: Retention,
    ) -> Result<(), QueueError> {
        let most_bytes = match retention {
            Retention::Followed => KEPT_BYTES,
            Retention::Kept => share(self.list_kept(address).await?),
        };
        let bounding = self.bound_logs(address, lines, retention, most_bytes);
        if bounding.await? == 0 && retention == Retention::Kept {
            self.unlist_kept(address.as_str()).await?;
        }
        Ok(())
    }

    /// Notes that lines of a contract are kept; returns of how many contracts some are.
    async fn list_kept(&self, address: &ContractAddress) -> Result<usize, QueueError> {
        let list = self.keys().kept_logs();
        let (count,): (usize,) = redis::pipe()
            .cmd("ZADD")
            .arg(&list)
            .arg(self.clock().now_ms())
            .arg(address.as_str())
            .ignore()
            .cmd("ZCARD")
            .arg(&list)
            .query_async(&mut self.pooled().await?)
            .await?;
        Ok(count)
    }

    /// Appends lines, if any, and removes the oldest ones beyond the bounds; returns how many there
    /// are.
    async fn bound_logs(
        &self,
        address: &ContractAddress,
        lines: &[LogLine],
        retention: Retention,
        most_bytes: usize,
    ) -> Result<usize, QueueError> {
        let [stream, bytes] = self.keys().logs(address);
        let script = Script::new(APPEND);
        let mut appending = script.key(self.keys().contract(address));
        appending.key(stream).key(bytes);
        appending
            .arg(millis(retention.time()))
            .arg(KEPT_LINES)
            .arg(most_bytes)
            .arg(LINE_OVERHEAD);
        for line in &lines[lines.len().saturating_sub(KEPT_LINES)..] {
            let text = &line.text[..line.text.floor_char_boundary(LINE)];
            appending.arg(&[line.request.as_str(), &line.method, text]);
        }
        let mut connection = self.pooled().await?;
        Ok(appending.invoke_async(&mut connection).await?)
    }

    /// Reads at most `count` lines of a contract that come after this one, or from the oldest one.
    pub async fn read_logs(
        &self,
        address: &ContractAddress,
        after: Option<LogId>,
        count: usize,
    ) -> Result<LogPage, QueueError> {
        let [key, _] = self.keys().logs(address);
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
            .arg(&self.keys().logs(address))
            .query_async::<()>(&mut self.pooled().await?)
            .await?;
        self.unlist_kept(address.as_str()).await
    }

    async fn unlist_kept(&self, address: &str) -> Result<(), QueueError> {
        Ok(redis::cmd("ZREM")
            .arg(self.keys().kept_logs())
            .arg(address)
            .query_async(&mut self.pooled().await?)
            .await?)
    }

    /// Applies the bound of all kept lines: each append applied the share of its time.
    pub(super) async fn sweep_logs(&self) -> Result<(), QueueError> {
        // The contracts that have written last come first.
        let listed: Vec<String> = redis::cmd("ZREVRANGE")
            .arg(self.keys().kept_logs())
            .arg(&["0", "-1"])
            .query_async(&mut self.pooled().await?)
            .await?;
        let share = share(listed.len());
        for (place, address) in listed.iter().enumerate() {
            let has_lines = match ContractAddress::try_from(address.clone()) {
                Ok(_) if share * place >= ALL_BYTES => false,
                Ok(address) => {
                    let bounding = self.bound_logs(&address, &[], Retention::Kept, share);
                    bounding.await? > 0
                }
                Err(_) => false,
            };
            if !has_lines {
                self.remove_listed(address).await?;
            }
        }
        Ok(())
    }

    async fn remove_listed(&self, address: &str) -> Result<(), QueueError> {
        match ContractAddress::try_from(address.to_owned()) {
            Ok(address) => self.remove_logs(&address).await,
            Err(_) => self.unlist_kept(address).await,
        }
    }
}

/// How many bytes the lines of a contract may have, if so many contracts keep some.
fn share(contracts: usize) -> usize {
    (ALL_BYTES / contracts.max(1)).clamp(LEAST_BYTES, KEPT_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_kept_lines_together_are_bounded() {
        assert_eq!(share(0), KEPT_BYTES);
        assert_eq!(share(128), KEPT_BYTES);
        assert_eq!(share(1024), ALL_BYTES / 1024);
        assert_eq!(share(100_000), LEAST_BYTES);
    }

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
