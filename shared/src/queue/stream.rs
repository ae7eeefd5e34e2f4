//! Redis streams whose entries have the one field `b`.

use redis::Value;

use super::{Queue, QueueError};

/// The consumer group of every stream that is read by a group of one.
pub(super) const GROUP: &str = "g";

/// The consumer within [`GROUP`].
pub(super) const CONSUMER: &str = "c";

/// One entry.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: String,
    pub(super) body: Vec<u8>,
}

/// Takes the entries out of an `XREAD` or `XREADGROUP` reply over one stream, without copying the
/// bodies. An entry that was deleted while it was pending has no body and is left out.
pub(super) fn entries(reply: Value) -> Result<Vec<Entry>, QueueError> {
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

/// Takes the entries out of an `XAUTOCLAIM` reply.
pub(super) fn claimed(reply: Value) -> Result<Vec<Entry>, QueueError> {
    let Value::Array(parts) = reply else {
        return Err(unexpected(&reply));
    };
    match parts.into_iter().nth(1) {
        Some(Value::Array(entries)) => entries.into_iter().filter_map(entry).collect(),
        other => Err(unexpected(&other)),
    }
}

/// Up to `count` entries of a stream after `from`, read without taking them.
pub(super) async fn range(
    queue: &Queue,
    stream: &str,
    from: &str,
    count: usize,
) -> Result<Vec<Entry>, QueueError> {
    let reply: Value = redis::cmd("XRANGE")
        .arg(&[stream, from, "+", "COUNT"])
        .arg(count)
        .query_async(&mut queue.cold().await?)
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

/// Whether an error says that the group is there already.
pub(super) fn is_busy_group(error: &redis::RedisError) -> bool {
    error.code() == Some("BUSYGROUP")
}
