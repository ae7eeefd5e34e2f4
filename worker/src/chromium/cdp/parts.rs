//! Takes a message from the browser apart, without reading what is in it.

use bytes::Bytes;

use super::cbor::CborError;
use super::cbor::decode::{Unread, entries, from_slice};
use super::events::Event;

/// The parts of a message. A reply has a number, an event a method.
#[derive(Debug, Default)]
pub(super) struct MessageParts {
    pub(super) number: Option<u32>,
    pub(super) result: Option<Bytes>,
    pub(super) error: Option<Bytes>,
    pub(super) method: String,
    pub(super) params: Bytes,
    pub(super) session: Option<String>,
}

impl MessageParts {
    /// Takes a message apart. Its values stay encoded.
    pub(super) fn read(message: &Bytes) -> Result<Self, CborError> {
        let mut parts = Self::default();
        entries(message, |key, Unread(value)| {
            match key {
                "id" => parts.number = Some(from_slice(value)?),
                "result" => parts.result = Some(message.slice_ref(value)),
                "error" => parts.error = Some(message.slice_ref(value)),
                "method" => parts.method = from_slice(value)?,
                "params" => parts.params = message.slice_ref(value),
                "sessionId" => parts.session = Some(from_slice(value)?),
                _ => {}
            }
            Ok(())
        })?;
        Ok(parts)
    }

    /// The event of a message of `size` bytes that is no reply.
    pub(super) fn into_event(self, size: usize) -> Event {
        Event {
            method: self.method,
            session: self.session,
            params: self.params,
            size,
        }
    }
}
