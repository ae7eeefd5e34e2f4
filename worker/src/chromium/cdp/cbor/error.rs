//! What is wrong with a message.

use std::fmt::Display;

use serde::{de, ser};

/// Why a value cannot be written, or a message cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CborError {
    /// The message ends in the middle of a value.
    #[error("the message is cut off")]
    CutOff,
    /// A byte that begins no value of the dialect.
    #[error("unexpected byte {0:#04x}")]
    Unexpected(u8),
    /// There is something after the value.
    #[error("there are {0} bytes after the value")]
    Trailing(usize),
    /// A text is not UTF-8, or has half a UTF-16 unit.
    #[error("a text is malformed")]
    Text,
    /// Values are nested too deeply.
    #[error("values are nested too deeply")]
    TooDeep,
    /// The dialect has no form for it.
    #[error("{0} cannot be written")]
    Unsupported(&'static str),
    /// The value has another form than its type.
    #[error("{0}")]
    Form(String),
}

impl de::Error for CborError {
    fn custom<T: Display>(message: T) -> Self {
        Self::Form(message.to_string())
    }
}

impl ser::Error for CborError {
    fn custom<T: Display>(message: T) -> Self {
        Self::Form(message.to_string())
    }
}
