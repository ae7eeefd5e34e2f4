//! Tokens of an identity provider: JWT (RFC 7519), signed with a key from `JWT_KEYS_FILE`.
//!
//! The claim `scope` says what a token permits, as the scopes of a key do. The provider can rotate
//! its keys: when a token names one that is not known, the file is read again.

mod jwks;
#[cfg(test)]
mod tests;
mod verify;

use std::io::{Error, ErrorKind as IoErrorKind};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Validation, decode, decode_header, get_current_timestamp};
use moka::sync::Cache;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;
use tokio::sync::Mutex;
use tokio::time::Instant;

use self::jwks::{FILE_LIMIT, KeySet};
use super::caller::Caller;

/// How much the clocks of the provider and of this machine may differ, in seconds.
const SKEW: u64 = 30;

/// How often the file is read again, so that keys that were removed from it are forgotten.
const READ_EVERY: Duration = Duration::from_mins(1);

/// How often it is read again at most, because a token names a key that is not known.
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
    /// `JWT_KEYS_FILE`.
    pub keys_file: PathBuf,
}

/// The keys of the provider cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenKeysError {
    /// The file cannot be read.
    #[error("JWT_KEYS_FILE {0}: {1}")]
    File(PathBuf, Error),
    /// It holds something else.
    #[error("JWT_KEYS_FILE {0} is not a JSON Web Key Set: {1}")]
    NotASet(PathBuf, serde_json::Error),
    /// It has no key of a kind that is supported.
    #[error("JWT_KEYS_FILE {0} has no key for RS256, ES256 or EdDSA")]
    NoKey(PathBuf),
}

/// Recognises tokens.
#[derive(Debug)]
pub(crate) struct Tokens {
    config: TokenConfig,
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
}

impl Tokens {
    /// Reads the keys.
    pub(crate) async fn open(config: TokenConfig) -> Result<Self, TokenKeysError> {
        verify::install();
        let keys = read(&config.keys_file).await?;
        Ok(Self {
            config,
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
        self.read_after(READ_EVERY).await;
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
        let Claims { sub, scope, exp } = claims.map_err(|error| why(error.kind()))?.claims;
        let caller = Arc::new(Caller::of_token(&sub, &scope));
        let known = Known {
            caller: caller.clone(),
            expires: exp,
        };
        self.known.insert(digest, known);
        Ok(caller)
    }

    /// As if the file was last read some time ago.
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

    /// Reads the file again, if the last time is so long ago. Others who want that wait.
    async fn read_after(&self, pause: Duration) {
        let mut read_at = self.read_at.lock().await;
        if read_at.elapsed() < pause {
            return;
        }
        match read(&self.config.keys_file).await {
            Ok(keys) => *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys),
            Err(error) => {
                tracing::warn!(%error, "keys of tokens cannot be read, the old ones stay");
            }
        }
        *read_at = Instant::now();
    }
}

async fn read(file: &PathBuf) -> Result<KeySet, TokenKeysError> {
    let text = read_text(file).await;
    let text = text.map_err(|error| TokenKeysError::File(file.clone(), error))?;
    let keys =
        KeySet::parse(&text).map_err(|error| TokenKeysError::NotASet(file.clone(), error))?;
    if keys.is_empty() {
        return Err(TokenKeysError::NoKey(file.clone()));
    }
    Ok(keys)
}

async fn read_text(file: &PathBuf) -> Result<String, Error> {
    let mut text = String::new();
    let limited = tokio::fs::File::open(file).await?.take(FILE_LIMIT + 1);
    let length = { limited }.read_to_string(&mut text).await?;
    if u64::try_from(length).is_ok_and(|length| length > FILE_LIMIT) {
        return Err(Error::new(
            IoErrorKind::FileTooLarge,
            "it has more than 1 MiB",
        ));
    }
    Ok(text)
}

const UNREADABLE: &str = "The credential is neither a key nor a token that can be read";
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
