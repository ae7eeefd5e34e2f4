//! One file per route: what it takes, what it gives. How a job is brought to a worker is
//! `dispatch`'s business, which status a failure has `error`'s.

pub(crate) mod contracts;
pub(crate) mod dead_letters;
pub(crate) mod docs;
pub(crate) mod execute;
pub(crate) mod health;
pub(crate) mod load;
pub(crate) mod metrics;
pub(crate) mod unload;
pub(crate) mod workers;

use axum::extract::Path;
use axum::extract::path::ErrorKind;
use axum::extract::rejection::PathRejection;
use serde::de::DeserializeOwned;
use shared::protocol::id::{ContractAddress, InvalidAddress};

use crate::error::{ApiError, Fields};

/// What a path's parts are called, in `router` too.
const ADDRESS: &str = "contractAddress";
const METHOD: &str = "method";
const ID: &str = "id";

/// Reads an address, and blames the field when it is none.
fn address(text: &str) -> Result<ContractAddress, ApiError> {
    text.parse()
        .map_err(|reason: InvalidAddress| ApiError::field(ADDRESS, reason.to_string()))
}

/// The parts of a path, which may be percent-encoded.
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

/// Reads a JSON body, an object, into a request.
fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    // A list would be read as the fields in their order.
    if body.trim_ascii_start().first() == Some(&b'[') {
        let message = "The body is not as expected: it must be an object".to_owned();
        return Err(ApiError::InvalidRequest(message, Fields::new()));
    }
    serde_json::from_slice(body).map_err(|error| {
        ApiError::InvalidRequest(
            format!("The body is not as expected: {error}"),
            Fields::new(),
        )
    })
}
