//! Parsing Redis streams whose entries have a single field, `b`.

use redis::Value;

use super::{Queue, QueueError};

/// The consumer group of every stream that has a single reader.
pub(super) const GROUP: &str = "g";

/// The consumer within [`GROUP`].
pub(super) const CONSUMER: &str = "c";

/// One entry.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: String,
    pub(super) body: Vec<u8>,
}

/// Parses an `XREAD` or `XREADGROUP` reply over one stream without copying the bodies. An entry
/// that was deleted while it was pending has no body and is left out.
pub(super) fn parse_read(reply: Value) -> Result<Vec<Entry>, QueueError> {
    let stream = match reply {
        Value::Nil => return Ok(Vec::new()),
        Value::Array(streams) => streams.into_iter().next(),
        other => return Err(unexpected(&other)),
    };
    let Some(Value::Array(mut name_and_entries)) = stream else {
        return Ok(Vec::new());
    };
    match name_and_entries.pop() {
        Some(Value::Array(entries)) => entries.into_iter().filter_map(entry).collect(),
        other => Err(unexpected(&other)),
    }
}

/// Parses an `XAUTOCLAIM` reply.
pub(super) fn parse_autoclaim(reply: Value) -> Result<Vec<Entry>, QueueError> {
    let Value::Array(parts) = reply else {
        return Err(unexpected(&reply));
    };
    match parts.into_iter().nth(1) {
        Some(Value::Array(entries)) => entries.into_iter().filter_map(entry).collect(),
        other => Err(unexpected(&other)),
    }
}

/// Reads up to `count` entries of a stream after `from` without delivering them to a consumer.
pub(super) async fn read_range(
    queue: &Queue,
    stream: &str,
    from: &str,
    count: usize,
) -> Result<Vec<Entry>, QueueError> {
    let reply: Value = redis::cmd("XRANGE")
        .arg(&[stream, from, "+", "COUNT"])
        .arg(count)
        .query_async(&mut queue.pooled().await?)
        .await?;
    match reply {
        Value::Array(entries) => entries.into_iter().filter_map(entry).collect(),
        other => Err(unexpected(&other)),
    }
}

fn entry(value: Value) -> Option<Result<Entry, QueueError>> {
    let Value::Array(parts) = value else {
        return Some(Err(unexpected(&value)));
    };
    let mut parts = parts.into_iter();
    match (parts.next(), parts.next()) {
        (Some(Value::BulkString(id)), Some(Value::Array(mut fields))) => {
            let Some(Value::BulkString(body)) = fields.pop() else {
                return Some(Err(unexpected(&fields)));
            };
            Some(Ok(Entry {
                id: String::from_utf8_lossy(&id).into_owned(),
                body,
            }))
        }
        (Some(_), Some(Value::Nil)) => None,
        other => Some(Err(unexpected(&other))),
    }
}

fn unexpected(value: &impl std::fmt::Debug) -> QueueError {
    let mut text = format!("{value:?}");
    text.truncate(text.floor_char_boundary(200));
    QueueError::Unexpected(text)
}

/// The id of an entry: milliseconds and a sequence number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EntryId(u64, u64);

impl std::fmt::Display for EntryId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.0, self.1)
    }
}

impl EntryId {
    pub(super) fn parse(text: &str) -> Self {
        let (millis, sequence) = text.split_once('-').unwrap_or((text, "0"));
        Self(
            millis.parse().unwrap_or_default(),
            sequence.parse().unwrap_or_default(),
        )
    }
}

/// Whether an error says that the group already exists.
pub(super) fn is_busy_group(error: &redis::RedisError) -> bool {
    error.code() == Some("BUSYGROUP")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_ids_are_ordered_as_numbers() {
        assert!(EntryId::parse("9-2") < EntryId::parse("10-1"));
        assert!(EntryId::parse("10-2") < EntryId::parse("10-10"));
    }
}
