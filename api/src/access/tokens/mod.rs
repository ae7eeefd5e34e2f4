//! Tokens of an identity provider: JWT (RFC 7519), signed with a key from `JWT_KEYS_FILE` or
//! `JWT_KEYS_URL`.
//!
//! The claim `scope` says what a token permits, as the scopes of a key do. The provider can rotate
//! its keys: when a token names one that is not known, they are read again.

mod jwks;
mod source;
#[cfg(test)]
mod tests;
mod verify;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Validation, decode, decode_header, get_current_timestamp};
use moka::sync::Cache;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use shared::protocol::tenant::Tenant;
use shared::service::lifecycle::Lifecycle;
use tokio::sync::Mutex;
use tokio::time::Instant;

use self::jwks::KeySet;
pub use self::source::{KeySource, KeysUrl, TokenKeysError};
use super::caller::Caller;
use crate::limits::Meters;

/// How much the clocks of the provider and of this machine may differ, in seconds.
const SKEW: u64 = 30;

/// How often the keys are read again, so that those that were removed are forgotten.
const READ_EVERY: Duration = Duration::from_mins(1);

/// How often they are read again at most, because a token names a key that is not known.
const READ_AGAIN: Duration = Duration::from_secs(10);

/// How long a token that was verified is not verified again.
const REMEMBERED_FOR: Duration = Duration::from_secs(5);

/// How many tokens are remembered.
const REMEMBERED: u64 = 10_000;

/// What tokens must say, and where the keys are.
#[derive(Debug, Clone)]
pub struct TokenConfig {
    /// `JWT_ISSUER`.
    pub issuer: String,
    /// `JWT_AUDIENCE`.
    pub audience: String,
    /// `JWT_KEYS_FILE` or `JWT_KEYS_URL`.
    pub keys: KeySource,
    /// `JWT_TENANT_CLAIM`.
    pub tenant_claim: Option<String>,
}

/// Recognises tokens.
#[derive(Debug)]
pub(crate) struct Tokens {
    config: TokenConfig,
    meters: Arc<Meters>,
    keys: RwLock<Arc<KeySet>>,
    read_at: Mutex<Instant>,
    known: Cache<[u8; 32], Known>,
}

/// A token that was verified.
#[derive(Debug, Clone)]
struct Known {
    caller: Arc<Caller>,
    /// When it expires, in seconds since the epoch.
    expires: u64,
}

/// The claims that matter here. The library checks the others.
#[derive(Debug, Deserialize)]
struct Claims {
    #[serde(default)]
    sub: String,
    #[serde(default)]
    scope: String,
    exp: u64,
    #[serde(flatten)]
    others: HashMap<String, Value>,
}

impl Tokens {
    /// Reads the keys.
    pub(crate) async fn open(
        config: TokenConfig,
        meters: Arc<Meters>,
    ) -> Result<Self, TokenKeysError> {
        verify::install();
        let keys = config.keys.read().await?;
        Ok(Self {
            config,
            meters,
            keys: RwLock::new(Arc::new(keys)),
            read_at: Mutex::new(Instant::now()),
            known: Cache::builder()
                .max_capacity(REMEMBERED)
                .time_to_live(REMEMBERED_FOR)
                .build(),
        })
    }

    /// The caller whom a token names. An error says what is wrong with it.
    pub(crate) async fn recognise(&self, token: &str) -> Result<Arc<Caller>, &'static str> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        if let Some(known) = self.known.get(&digest) {
            if known.expires + SKEW > get_current_timestamp() {
                return Ok(known.caller);
            }
            return Err(EXPIRED);
        }
        let header = decode_header(token).map_err(|_| UNREADABLE)?;
        if header.crit.is_some() {
            return Err("The token has critical headers, which are not supported");
        }
        let mut keys = self.keys();
        if keys.find(header.kid.as_deref()).is_none() {
            self.read_after(READ_AGAIN).await;
            keys = self.keys();
        }
        let key = keys.find(header.kid.as_deref());
        let key = key.ok_or("The token is signed with a key that is not in the key set")?;
        let mut rules = Validation::new(key.algorithm);
        rules.leeway = SKEW;
        rules.validate_nbf = true;
        rules.set_issuer(&[&self.config.issuer]);
        rules.set_audience(&[&self.config.audience]);
        rules.set_required_spec_claims(&["exp", "iss", "aud"]);
        let claims = decode::<Claims>(token, &key.key, &rules);
        let claims = claims.map_err(|error| why(error.kind()))?.claims;
        let tenant = self.tenant(&claims)?;
        let caller = Arc::new(Caller::of_token(
            &claims.sub,
            tenant,
            &claims.scope,
            &self.meters,
        ));
        let known = Known {
            caller: caller.clone(),
            expires: claims.exp,
        };
        self.known.insert(digest, known);
        Ok(caller)
    }

    /// The tenant that a token names. Where tokens must name one, none is not the default tenant.
    fn tenant(&self, claims: &Claims) -> Result<Tenant, &'static str> {
        let Some(claim) = &self.config.tenant_claim else {
            return Ok(Tenant::default());
        };
        let named = match claim.as_str() {
            "sub" => Some(claims.sub.as_str()),
            "scope" => Some(claims.scope.as_str()),
            claim => claims.others.get(claim).and_then(Value::as_str),
        };
        named.and_then(|name| name.parse().ok()).ok_or(NO_TENANT)
    }

    /// Reads the keys again each minute, until the process stops.
    pub(crate) async fn run(self: Arc<Self>, life: Lifecycle) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(READ_EVERY) => self.read_after(READ_AGAIN).await,
                () = life.stopping() => return,
            }
        }
    }

    /// As if the keys were last read some time ago.
    #[cfg(test)]
    async fn lapse(&self) {
        *self.read_at.lock().await -= READ_AGAIN;
    }

    fn keys(&self) -> Arc<KeySet> {
        self.keys
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Reads the keys again, if the last time is so long ago. Others who want that wait.
    async fn read_after(&self, pause: Duration) {
        let mut read_at = self.read_at.lock().await;
        if read_at.elapsed() < pause {
            return;
        }
        match self.config.keys.read().await {
            Ok(keys) => *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys),
            Err(error) => {
                tracing::warn!(%error, "keys of tokens cannot be read, the old ones stay");
            }
        }
        *read_at = Instant::now();
    }
}

const UNREADABLE: &str = "The credential is neither a key nor a token that can be read";
const NO_TENANT: &str = "The token names no tenant of 1 to 64 characters of a-z 0-9 . _ -";
const EXPIRED: &str = "The token has expired";

fn why(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::ExpiredSignature => EXPIRED,
        ErrorKind::ImmatureSignature => "The token is not valid yet",
        ErrorKind::InvalidIssuer => "The token has another issuer",
        ErrorKind::InvalidAudience => "The token is for another audience",
        ErrorKind::InvalidAlgorithm => "The token's algorithm is not that of its key",
        ErrorKind::InvalidSignature => "The token's signature is wrong",
        ErrorKind::MissingRequiredClaim(_) => "The token lacks exp, iss or aud",
        _ => UNREADABLE,
    }
}
