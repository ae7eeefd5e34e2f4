//! Reads values from CBOR.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::value::BorrowedStrDeserializer;
use serde::de::{DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, forward_to_deserialize_any};

use super::{
    ARRAY, BINARY, CborError, DOUBLE, ENVELOPE, ENVELOPE_HEAD, FALSE, MAP, Major, NULL, STOP, TRUE,
};

/// Values within values at most. The protocol's own limit is 300; no message that is read here has
/// more than ten.
const DEPTH: u32 = 64;

/// Reads one value.
pub(in crate::chromium::cdp) fn from_slice<'de, T: Deserialize<'de>>(
    bytes: &'de [u8],
) -> Result<T, CborError> {
    Reader::new(bytes, usize::MAX).whole()
}

/// Reads one value; a text of more than `limit` bytes is cut without reading the rest.
pub(in crate::chromium::cdp) fn from_slice_cut<'de, T: Deserialize<'de>>(
    bytes: &'de [u8],
    limit: usize,
) -> Result<T, CborError> {
    Reader::new(bytes, limit).whole()
}

/// A value that is not read: its bytes.
#[derive(Debug, Clone, Copy)]
pub(in crate::chromium::cdp) struct Unread<'a>(pub(in crate::chromium::cdp) &'a [u8]);

/// Reads the entries of the map that a message is, without the values that are maps themselves.
pub(in crate::chromium::cdp) fn entries<'a>(
    message: &'a [u8],
    mut entry: impl FnMut(&str, Unread<'a>) -> Result<(), CborError>,
) -> Result<(), CborError> {
    let mut reader = Reader::new(message, usize::MAX);
    let content = reader.envelope()?;
    reader.end()?;
    let mut reader = Reader::new(content, usize::MAX);
    reader.expect(MAP)?;
    while reader.peek()? != STOP {
        let key = reader.text()?;
        let before = reader.rest;
        reader.skip()?;
        let length = before.len() - reader.rest.len();
        entry(&key, Unread(&before[..length]))?;
    }
    reader.expect(STOP)?;
    reader.end()
}

/// The value of the first entry of a message that may be cut off, if that is `id`.
pub(in crate::chromium::cdp) fn first_number(begin: &[u8]) -> Option<u32> {
    let mut reader = Reader::new(begin.get(ENVELOPE_HEAD..)?, usize::MAX);
    reader.expect(MAP).ok()?;
    let is_id = reader.text().ok()? == "id";
    let (Major::Unsigned, number) = reader.head().ok()? else {
        return None;
    };
    u32::try_from(number).ok().filter(|_| is_id)
}

struct Reader<'de> {
    rest: &'de [u8],
    /// The size of a text beyond which it is cut, in bytes.
    text_limit: usize,
    depth: u32,
}

impl<'de> Reader<'de> {
    fn new(bytes: &'de [u8], text_limit: usize) -> Self {
        Self {
            rest: bytes,
            text_limit,
            depth: 0,
        }
    }

    fn whole<T: Deserialize<'de>>(mut self) -> Result<T, CborError> {
        let value = T::deserialize(&mut self)?;
        self.end()?;
        Ok(value)
    }

    fn end(&self) -> Result<(), CborError> {
        match self.rest.len() {
            0 => Ok(()),
            trailing => Err(CborError::Trailing(trailing)),
        }
    }

    fn peek(&self) -> Result<u8, CborError> {
        self.rest.first().copied().ok_or(CborError::CutOff)
    }

    fn expect(&mut self, byte: u8) -> Result<(), CborError> {
        match self.peek()? {
            found if found == byte => self.take(1).map(drop),
            found => Err(CborError::Unexpected(found)),
        }
    }

    fn take(&mut self, length: usize) -> Result<&'de [u8], CborError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(CborError::CutOff)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CborError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(CborError::CutOff)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// Takes the head of a value: its kind and its number.
    fn head(&mut self) -> Result<(Major, u64), CborError> {
        let first = self.peek()?;
        let major = match first >> 5 {
            0 => Major::Unsigned,
            1 => Major::Negative,
            2 => Major::Bytes,
            3 => Major::Text,
            _ => return Err(CborError::Unexpected(first)),
        };
        self.take(1)?;
        let number = match first & 0x1f {
            small @ 0..=0x17 => small.into(),
            0x18 => u8::from_be_bytes(self.array()?).into(),
            0x19 => u16::from_be_bytes(self.array()?).into(),
            0x1a => u32::from_be_bytes(self.array()?).into(),
            0x1b => u64::from_be_bytes(self.array()?),
            _ => return Err(CborError::Unexpected(first)),
        };
        Ok((major, number))
    }

    /// Takes the content of a text or byte string.
    fn content(&mut self, length: u64) -> Result<&'de [u8], CborError> {
        let length = usize::try_from(length).map_err(|_| CborError::CutOff)?;
        self.take(length)
    }

    /// Takes an envelope; returns its content.
    fn envelope(&mut self) -> Result<&'de [u8], CborError> {
        for byte in &ENVELOPE {
            self.expect(*byte)?;
        }
        let length = u32::from_be_bytes(self.array()?);
        self.content(length.into())
    }

    fn text(&mut self) -> Result<Cow<'de, str>, CborError> {
        let first = self.peek()?;
        match self.head()? {
            (Major::Text, length) => {
                let bytes = self.content(length)?;
                self.utf8(bytes)
            }
            (Major::Bytes, length) => {
                let bytes = self.content(length)?;
                self.utf16(bytes).map(Cow::Owned)
            }
            _ => Err(CborError::Unexpected(first)),
        }
    }

    fn utf8(&self, bytes: &'de [u8]) -> Result<Cow<'de, str>, CborError> {
        if bytes.len() > self.text_limit {
            return Ok(String::from_utf8_lossy(&bytes[..self.text_limit]));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| CborError::Text)?;
        Ok(Cow::Borrowed(text))
    }

    fn utf16(&self, bytes: &[u8]) -> Result<String, CborError> {
        let (units, []) = bytes.as_chunks::<2>() else {
            return Err(CborError::Text);
        };
        let units = &units[..units.len().min(self.text_limit)];
        let units = units.iter().copied().map(u16::from_le_bytes);
        let mut text = String::with_capacity(units.len());
        text.extend(
            char::decode_utf16(units).map(|read| read.unwrap_or(char::REPLACEMENT_CHARACTER)),
        );
        Ok(text)
    }

    /// Takes binary data; returns it as base64.
    fn binary(&mut self) -> Result<String, CborError> {
        self.expect(BINARY)?;
        Ok(BASE64.encode(self.byte_string()?))
    }

    fn byte_string(&mut self) -> Result<&'de [u8], CborError> {
        let first = self.peek()?;
        match self.head()? {
            (Major::Bytes, length) => self.content(length),
            _ => Err(CborError::Unexpected(first)),
        }
    }

    /// Takes a value without reading it. An envelope is skipped whole.
    fn skip(&mut self) -> Result<(), CborError> {
        match self.peek()? {
            FALSE | TRUE | NULL => self.take(1).map(drop),
            DOUBLE => self.take(1 + size_of::<f64>()).map(drop),
            BINARY => {
                self.take(1)?;
                self.byte_string().map(drop)
            }
            first if first == ENVELOPE[0] => self.envelope().map(drop),
            ARRAY | MAP => {
                self.take(1)?;
                self.nested(|reader| {
                    while reader.peek()? != STOP {
                        reader.skip()?;
                    }
                    reader.take(1).map(drop)
                })
            }
            _ => match self.head()? {
                (Major::Bytes | Major::Text, length) => self.content(length).map(drop),
                (Major::Unsigned | Major::Negative, _) => Ok(()),
            },
        }
    }

    fn nested<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, CborError>,
    ) -> Result<T, CborError> {
        if self.depth == DEPTH {
            return Err(CborError::TooDeep);
        }
        self.depth += 1;
        let value = read(self);
        self.depth -= 1;
        value
    }

    /// Reads the elements of an array or the entries of a map, with its stop byte.
    fn container<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, CborError>,
    ) -> Result<T, CborError> {
        self.take(1)?;
        self.nested(|reader| {
            let value = read(reader)?;
            reader.expect(STOP)?;
            Ok(value)
        })
    }

    #[expect(clippy::cast_possible_wrap, reason = "the numbers have 32 bits")]
    fn number<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, CborError> {
        let first = self.peek()?;
        match self.head()? {
            (Major::Unsigned, number) if u32::try_from(number).is_ok() => visitor.visit_u64(number),
            (Major::Negative, number) if u32::try_from(number).is_ok() => {
                visitor.visit_i64(-1 - number as i64)
            }
            _ => Err(CborError::Unexpected(first)),
        }
    }
}

impl<'de> Deserializer<'de> for &mut Reader<'de> {
    type Error = CborError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CborError> {
        let first = self.peek()?;
        match first {
            FALSE | TRUE => {
                self.take(1)?;
                visitor.visit_bool(first == TRUE)
            }
            NULL => {
                self.take(1)?;
                visitor.visit_unit()
            }
            DOUBLE => {
                self.take(1)?;
                visitor.visit_f64(f64::from_be_bytes(self.array()?))
            }
            BINARY => visitor.visit_string(self.binary()?),
            ARRAY => self.container(|reader| visitor.visit_seq(Elements(reader))),
            MAP => self.container(|reader| visitor.visit_map(Elements(reader))),
            first if first == ENVELOPE[0] => {
                let mut content = Reader {
                    rest: self.envelope()?,
                    ..*self
                };
                let value = content.nested(|reader| reader.deserialize_any(visitor))?;
                content.end()?;
                Ok(value)
            }
            _ if first >> 5 <= Major::Negative as u8 => self.number(visitor),
            _ => match self.text()? {
                Cow::Borrowed(text) => visitor.visit_borrowed_str(text),
                Cow::Owned(text) => visitor.visit_string(text),
            },
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CborError> {
        if self.peek()? == NULL {
            self.take(1)?;
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, CborError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, CborError> {
        match self.text()? {
            Cow::Borrowed(text) => visitor.visit_enum(BorrowedStrDeserializer::new(text)),
            text @ Cow::Owned(_) => visitor.visit_enum(text.into_deserializer()),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CborError> {
        self.skip()?;
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct identifier
    }
}

/// The elements of an array, or the entries of a map.
struct Elements<'a, 'de>(&'a mut Reader<'de>);

impl<'de> Elements<'_, 'de> {
    fn next<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, CborError> {
        if self.0.peek()? == STOP {
            return Ok(None);
        }
        seed.deserialize(&mut *self.0).map(Some)
    }
}

impl<'de> SeqAccess<'de> for Elements<'_, 'de> {
    type Error = CborError;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, CborError> {
        self.next(seed)
    }
}

impl<'de> MapAccess<'de> for Elements<'_, 'de> {
    type Error = CborError;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, CborError> {
        self.next(seed)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, CborError> {
        seed.deserialize(&mut *self.0)
    }
}
