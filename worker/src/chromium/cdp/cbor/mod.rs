//! Chromium's dialect of CBOR, the binary form of the debugging protocol.
//!
//! Chromium reads and writes a small part of CBOR (RFC 8949) and accepts nothing else. General
//! CBOR libraries write maps and arrays of known length, which Chromium refuses, and read a text of
//! 16-bit units as binary data. So the dialect has a serializer and a deserializer of its own for
//! serde:
//!
//! - Every map is in an *envelope*: tag 24 and a byte string with a length of 32 bits. A reader can
//!   skip it without reading it.
//! - Maps and arrays have no length; a stop byte ends them.
//! - A text is UTF-8, or a byte string of UTF-16 in little-endian order. The latter may hold lone
//!   surrogates, which become U+FFFD.
//! - Binary data is a byte string with tag 22. The protocol's types hold it as base64.
//! - Integers have 32 bits; other numbers are doubles.
//!
//! Neither side builds a tree of values.

pub(super) mod decode;
pub(super) mod encode;
mod error;

pub(crate) use error::CborError;

/// The first bytes of an envelope: tag 24, then a byte string with a length of 32 bits. The length
/// follows.
pub(super) const ENVELOPE: [u8; 3] = [0xd8, 0x18, 0x5a];
/// The size of an envelope's head, in bytes.
pub(super) const ENVELOPE_HEAD: usize = ENVELOPE.len() + size_of::<u32>();

/// The first byte of binary data: tag 22.
const BINARY: u8 = 0xd6;
const ARRAY: u8 = 0x9f;
const MAP: u8 = 0xbf;
const STOP: u8 = 0xff;
const FALSE: u8 = 0xf4;
const TRUE: u8 = 0xf5;
const NULL: u8 = 0xf6;
const DOUBLE: u8 = 0xfb;

/// The kind of a value with a number in its head: the upper three bits of its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Major {
    Unsigned = 0,
    Negative = 1,
    Bytes = 2,
    Text = 3,
}

#[cfg(test)]
mod tests;
