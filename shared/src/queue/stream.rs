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

/// The pending entries of a consumer.
#[derive(Debug, Default)]
pub(super) struct PendingEntries {
    pub(super) entries: Vec<Entry>,
    /// The ids of entries that were deleted while they were pending.
    pub(super) deleted: Vec<String>,
    /// The last id of both. None if nothing was listed.
    pub(super) last: Option<EntryId>,
}

/// Parses an `XREAD` or `XREADGROUP` reply over one stream without copying the bodies. An entry
/// that was deleted while it was pending has no body and is left out.
pub(super) fn parse_read(reply: Value) -> Result<Vec<Entry>, QueueError> {
    Ok(parse_pending(reply)?.entries)
}

/// As [`parse_read`], with the entries that were deleted.
pub(super) fn parse_pending(reply: Value) -> Result<PendingEntries, QueueError> {
    let mut pending = PendingEntries::default();
    for value in entries_of_one_stream(reply)? {
        let (id, body) = parts(value)?;
        pending.last = Some(EntryId::parse(&id));
        match body {
            Some(body) => pending.entries.push(Entry { id, body }),
            None => pending.deleted.push(id),
        }
    }
    Ok(pending)
}

fn entries_of_one_stream(reply: Value) -> Result<Vec<Value>, QueueError> {
    let stream = match reply {
        Value::Nil => return Ok(Vec::new()),
        Value::Array(streams) => streams.into_iter().next(),
        other => return Err(unexpected(&other)),
    };
    let Some(Value::Array(mut name_and_entries)) = stream else {
        return Ok(Vec::new());
    };
    match name_and_entries.pop() {
        Some(Value::Array(entries)) => Ok(entries),
        other => Err(unexpected(&other)),
    }
}

/// Parses an `XRANGE` or `XCLAIM` reply. Entries that were deleted are left out.
pub(super) fn parse_range(reply: Value) -> Result<Vec<Entry>, QueueError> {
    let Value::Array(entries) = reply else {
        return Err(unexpected(&reply));
    };
    let mut parsed = Vec::with_capacity(entries.len());
    for value in entries.into_iter().filter(|value| *value != Value::Nil) {
        let (id, body) = parts(value)?;
        parsed.extend(body.map(|body| Entry { id, body }));
    }
    Ok(parsed)
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
    parse_range(reply)
}

/// Acknowledges pending entries that no longer exist, so that they are not listed again.
pub(super) async fn remove_deleted(
    connection: &mut impl redis::aio::ConnectionLike,
    stream: &str,
    group: &str,
    deleted: &[String],
) -> Result<(), QueueError> {
    if deleted.is_empty() {
        return Ok(());
    }
    Ok(redis::cmd("XACK")
        .arg(&[stream, group])
        .arg(deleted)
        .query_async(connection)
        .await?)
}

/// The id of an entry and its body, unless it was deleted.
fn parts(value: Value) -> Result<(String, Option<Vec<u8>>), QueueError> {
    let Value::Array(parts) = value else {
        return Err(unexpected(&value));
    };
    let mut parts = parts.into_iter();
    let (id, body) = match (parts.next(), parts.next()) {
        (Some(Value::BulkString(id)), Some(Value::Array(mut fields))) => match fields.pop() {
            Some(Value::BulkString(body)) => (id, Some(body)),
            other => return Err(unexpected(&other)),
        },
        (Some(Value::BulkString(id)), Some(Value::Nil)) => (id, None),
        other => return Err(unexpected(&other)),
    };
    Ok((String::from_utf8_lossy(&id).into_owned(), body))
}

fn unexpected(value: &impl std::fmt::Debug) -> QueueError {
    let mut text = format!("{value:?}");
    text.truncate(text.floor_char_boundary(200));
    QueueError::Unexpected(text)
}

/// The id of an entry: milliseconds and a sequence number.
///
/// Within the life of a stream, ids grow. A stream that Redis has lost and that is created again
/// may use lower ones, if the clock of Redis went back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
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
