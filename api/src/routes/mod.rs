//! The handlers, one file per route: what a request takes and what the response holds.
//!
//! `dispatch` brings jobs to workers; `error` assigns the statuses of failures.

pub(crate) mod contracts;
pub(crate) mod dead_letters;
pub(crate) mod description;
pub(crate) mod docs;
pub(crate) mod execute;
pub(crate) mod health;
pub(crate) mod keys;
pub(crate) mod load;
pub(crate) mod logs;
pub(crate) mod metrics;
mod pages;
pub(crate) mod tenants;
pub(crate) mod unload;
pub(crate) mod usage;
pub(crate) mod workers;

use axum::extract::Path;
use axum::extract::path::ErrorKind;
use axum::extract::rejection::PathRejection;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use shared::protocol::id::InvalidAddress;

use crate::error::{ApiError, Fields};

/// The names of path parameters, the same as in `router`.
const ADDRESS: &str = "contractAddress";
const METHOD: &str = "method";
const ID: &str = "id";

/// Extracts the path parameters, which may be percent-encoded.
fn path<T: DeserializeOwned>(path: Result<Path<T>, PathRejection>) -> Result<T, ApiError> {
    path.map(|Path(parts)| parts)
        .map_err(|rejection| match rejection {
            PathRejection::FailedToDeserializePathParams(failed) => match failed.into_kind() {
                ErrorKind::InvalidUtf8InPathParam { key } if key == METHOD => {
                    ApiError::field(METHOD, "is not UTF-8")
                }
                ErrorKind::InvalidUtf8InPathParam { key } if key == ID => {
                    ApiError::field(ID, "is not UTF-8")
                }
                _ => ApiError::field(ADDRESS, InvalidAddress.to_string()),
            },
            other => ApiError::InvalidRequest(other.body_text(), Fields::new()),
        })
}

/// Reads a field of a body that is an object, for `deserialize_with`. serde would accept an array as
/// its fields in order.
fn object<'de, D, T>(field: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    let Some(fields) = Option::<Map<String, Value>>::deserialize(field)? else {
        return Ok(None);
    };
    let read = serde_json::from_value(Value::Object(fields));
    read.map(Some).map_err(D::Error::custom)
}

/// Parses a JSON body, which must be an object.
fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    // serde would accept an array as the fields in order.
    if body.trim_ascii_start().first() == Some(&b'[') {
        let message = "The request body is invalid: it must be a JSON object".to_owned();
        return Err(ApiError::InvalidRequest(message, Fields::new()));
    }
    serde_json::from_slice(body).map_err(|error| {
        ApiError::InvalidRequest(
            format!("The request body is invalid: {error}"),
            Fields::new(),
        )
    })
}
