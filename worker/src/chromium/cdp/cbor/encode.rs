//! Writes values as CBOR.

use serde::ser::{
    Impossible, SerializeMap, SerializeSeq, SerializeStruct, SerializeTuple, SerializeTupleStruct,
};
use serde::{Serialize, Serializer};

use super::{
    ARRAY, CborError, DOUBLE, ENVELOPE, ENVELOPE_HEAD, FALSE, MAP, Major, NULL, STOP, TRUE,
};

/// A value as CBOR. A map or struct is in an envelope, as a message must be.
pub(in crate::chromium::cdp) fn to_vec(value: &impl Serialize) -> Result<Vec<u8>, CborError> {
    let mut writer = Writer(Vec::with_capacity(256));
    value.serialize(&mut writer)?;
    Ok(writer.0)
}

struct Writer(Vec<u8>);

impl Writer {
    /// The head of a value: its kind and its number, in the shortest form.
    fn head(&mut self, major: Major, number: u64) {
        let kind = (major as u8) << 5;
        let bytes = number.to_be_bytes();
        match number {
            0..=0x17 => self.0.push(kind | bytes[7]),
            0x18..=0xff => self.0.extend([kind | 0x18, bytes[7]]),
            0x100..=0xffff => {
                self.0.push(kind | 0x19);
                self.0.extend_from_slice(&bytes[6..]);
            }
            0x1_0000..=0xffff_ffff => {
                self.0.push(kind | 0x1a);
                self.0.extend_from_slice(&bytes[4..]);
            }
            _ => {
                self.0.push(kind | 0x1b);
                self.0.extend_from_slice(&bytes);
            }
        }
    }
}

/// Writes the elements of an array or the entries of a map.
struct Elements<'a> {
    writer: &'a mut Writer,
    /// Where the envelope's content begins; none in an array.
    envelope: Option<usize>,
}

impl<'a> Elements<'a> {
    fn of_array(writer: &'a mut Writer) -> Self {
        writer.0.push(ARRAY);
        Self {
            writer,
            envelope: None,
        }
    }

    fn of_map(writer: &'a mut Writer) -> Self {
        writer.0.extend(ENVELOPE);
        writer.0.extend([0; ENVELOPE_HEAD - ENVELOPE.len()]);
        let content = writer.0.len();
        writer.0.push(MAP);
        Self {
            writer,
            envelope: Some(content),
        }
    }

    fn add(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), CborError> {
        value.serialize(&mut *self.writer)
    }

    fn finish(self) -> Result<(), CborError> {
        let bytes = &mut self.writer.0;
        bytes.push(STOP);
        if let Some(content) = self.envelope {
            let length = u32::try_from(bytes.len() - content)
                .map_err(|_| CborError::Unsupported("a map of more than 4 GiB"))?;
            let at = content - size_of::<u32>();
            bytes[at..content].copy_from_slice(&length.to_be_bytes());
        }
        Ok(())
    }
}

impl<'a> Serializer for &'a mut Writer {
    type Ok = ();
    type Error = CborError;
    type SerializeSeq = Elements<'a>;
    type SerializeTuple = Elements<'a>;
    type SerializeTupleStruct = Elements<'a>;
    type SerializeTupleVariant = Impossible<(), CborError>;
    type SerializeMap = Elements<'a>;
    type SerializeStruct = Elements<'a>;
    type SerializeStructVariant = Impossible<(), CborError>;

    fn serialize_bool(self, value: bool) -> Result<(), CborError> {
        self.0.push(if value { TRUE } else { FALSE });
        Ok(())
    }

    fn serialize_i8(self, value: i8) -> Result<(), CborError> {
        self.serialize_i64(value.into())
    }

    fn serialize_i16(self, value: i16) -> Result<(), CborError> {
        self.serialize_i64(value.into())
    }

    fn serialize_i32(self, value: i32) -> Result<(), CborError> {
        self.serialize_i64(value.into())
    }

    #[expect(clippy::cast_precision_loss, reason = "as in every JSON message")]
    fn serialize_i64(self, value: i64) -> Result<(), CborError> {
        if i32::try_from(value).is_err() {
            return self.serialize_f64(value as f64);
        }
        if value < 0 {
            self.head(Major::Negative, value.unsigned_abs() - 1);
        } else {
            self.head(Major::Unsigned, value.unsigned_abs());
        }
        Ok(())
    }

    fn serialize_u8(self, value: u8) -> Result<(), CborError> {
        self.serialize_i64(value.into())
    }

    fn serialize_u16(self, value: u16) -> Result<(), CborError> {
        self.serialize_i64(value.into())
    }

    fn serialize_u32(self, value: u32) -> Result<(), CborError> {
        self.serialize_i64(value.into())
    }

    #[expect(clippy::cast_precision_loss, reason = "as in every JSON message")]
    fn serialize_u64(self, value: u64) -> Result<(), CborError> {
        match i64::try_from(value) {
            Ok(value) => self.serialize_i64(value),
            Err(_) => self.serialize_f64(value as f64),
        }
    }

    fn serialize_f32(self, value: f32) -> Result<(), CborError> {
        self.serialize_f64(value.into())
    }

    fn serialize_f64(self, value: f64) -> Result<(), CborError> {
        self.0.push(DOUBLE);
        self.0.extend(value.to_be_bytes());
        Ok(())
    }

    fn serialize_char(self, value: char) -> Result<(), CborError> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<(), CborError> {
        self.head(Major::Text, value.len() as u64);
        self.0.extend_from_slice(value.as_bytes());
        Ok(())
    }

    fn serialize_bytes(self, _: &[u8]) -> Result<(), CborError> {
        Err(CborError::Unsupported("binary data"))
    }

    fn serialize_none(self) -> Result<(), CborError> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), CborError> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), CborError> {
        self.0.push(NULL);
        Ok(())
    }

    // A command without parameters.
    fn serialize_unit_struct(self, _: &'static str) -> Result<(), CborError> {
        Elements::of_map(self).finish()
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<(), CborError> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), CborError> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<(), CborError> {
        Err(CborError::Unsupported("a variant with a value"))
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Elements<'a>, CborError> {
        Ok(Elements::of_array(self))
    }

    fn serialize_tuple(self, _: usize) -> Result<Elements<'a>, CborError> {
        Ok(Elements::of_array(self))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Elements<'a>, CborError> {
        Ok(Elements::of_array(self))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, CborError> {
        Err(CborError::Unsupported("a variant with values"))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Elements<'a>, CborError> {
        Ok(Elements::of_map(self))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Elements<'a>, CborError> {
        Ok(Elements::of_map(self))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, CborError> {
        Err(CborError::Unsupported("a variant with fields"))
    }
}

impl SerializeSeq for Elements<'_> {
    type Ok = ();
    type Error = CborError;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), CborError> {
        self.add(value)
    }

    fn end(self) -> Result<(), CborError> {
        self.finish()
    }
}

impl SerializeTuple for Elements<'_> {
    type Ok = ();
    type Error = CborError;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), CborError> {
        self.add(value)
    }

    fn end(self) -> Result<(), CborError> {
        self.finish()
    }
}

impl SerializeTupleStruct for Elements<'_> {
    type Ok = ();
    type Error = CborError;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), CborError> {
        self.add(value)
    }

    fn end(self) -> Result<(), CborError> {
        self.finish()
    }
}

impl SerializeMap for Elements<'_> {
    type Ok = ();
    type Error = CborError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), CborError> {
        self.add(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), CborError> {
        self.add(value)
    }

    fn end(self) -> Result<(), CborError> {
        self.finish()
    }
}

impl SerializeStruct for Elements<'_> {
    type Ok = ();
    type Error = CborError;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> Result<(), CborError> {
        self.add(key)?;
        self.add(value)
    }

    fn end(self) -> Result<(), CborError> {
        self.finish()
    }
}
