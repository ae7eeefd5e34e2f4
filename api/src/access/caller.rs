//! Who sent a request, and what they may do.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;
use shared::protocol::id::ContractAddress;
use shared::queue::key_store::KeyRecord;

use super::scope::{Permission, SCOPES_LIMIT, Scope, Scopes};
use crate::error::{ApiError, cut};

/// The sender of a request.
#[derive(Debug)]
pub(crate) struct Caller {
    /// The key's id, or who the caller is otherwise; for logs.
    pub(crate) name: String,
    pub(crate) scopes: Scopes,
}

impl Caller {
    /// Whoever reaches an api that needs no key.
    pub(crate) fn anybody() -> Self {
        Self {
            name: "anybody".to_owned(),
            scopes: Scopes::all(),
        }
    }

    /// The owner of a key.
    pub(crate) fn of_key(id: &str, record: &KeyRecord) -> Self {
        let scope = |text: &String| {
            let parsed = text.parse::<Scope>();
            // A newer version may know more scopes.
            parsed
                .inspect_err(|error| tracing::warn!(key = id, %error, "scope ignored"))
                .ok()
        };
        Self {
            name: format!("key:{id}"),
            scopes: record.scopes.iter().filter_map(scope).collect(),
        }
    }

    /// Whom a token names. Scopes of other services may be among its own.
    pub(crate) fn of_token(subject: &str, scope: &str) -> Self {
        let scopes = scope
            .split(' ')
            .filter_map(|text| text.parse::<Scope>().ok());
        Self {
            name: format!("token:{}", cut(subject)),
            scopes: scopes.take(SCOPES_LIMIT).collect(),
        }
    }

    /// Fails unless the caller may do this for some address.
    pub(crate) fn may(&self, permission: Permission) -> Result<(), ApiError> {
        if self.scopes.has(permission) {
            return Ok(());
        }
        Err(ApiError::InsufficientScope(permission.name().to_owned()))
    }

    /// Fails unless the caller may do this for an address.
    pub(crate) fn may_for(
        &self,
        permission: Permission,
        address: &ContractAddress,
    ) -> Result<(), ApiError> {
        if self.scopes.permits(permission, address) {
            return Ok(());
        }
        let needed = format!("{}:{address}", permission.name());
        Err(ApiError::InsufficientScope(needed))
    }

    /// Whether the caller may see a contract.
    pub(crate) fn sees(&self, address: &ContractAddress) -> bool {
        self.scopes.permits(Permission::ContractsRead, address)
    }
}

/// The caller, whom the layer around the routes has recognised.
pub(crate) struct By(pub(crate) Arc<Caller>);

impl<S: Sync> FromRequestParts<S> for By {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let caller = parts.extensions.get::<Arc<Caller>>().cloned();
        // Without the layer nobody may do anything.
        caller.map(By).ok_or(ApiError::Unauthenticated(None))
    }
}
