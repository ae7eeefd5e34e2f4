//! Who may do what: recognises the sender of each request, and refuses what they may not do.
//!
//! | file | what it does |
//! |---|---|
//! | `config` | whether callers need a key |
//! | `needs` | what each route needs, in one list |
//! | `scope` | what a caller may do, and for which contracts |
//! | `caller` | the sender of a request, as the handlers see it |
//! | `view` | what belongs to the caller's tenant; addresses of callers and of the farm |
//! | `token` | the form of a key, and its secret |
//! | `table` | all keys in memory |
//! | `tokens/` | tokens of an identity provider (JWT) |
//! | `first_key` | the key with which others are made |
//!
//! Whether a caller may do something for some address is checked here, before the body is read.
//! For the address itself the handlers check it, because it may be in the body.

mod caller;
mod config;
pub mod first_key;
mod needs;
mod scope;
mod table;
mod token;
mod tokens;
mod view;

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use shared::queue::key_store::KeyStore;

pub(crate) use self::caller::{By, Caller};
pub use self::config::{ACCESS_SETTINGS, AccessConfig, Auth};
pub(crate) use self::needs::Security;
use self::needs::{Need, need};
pub(crate) use self::scope::{
    InvalidScope, Permission, SCOPES_LENGTH, SCOPES_LIMIT, Scope, Scopes,
};
pub(crate) use self::table::{Key, KeyTable, Unknown};
use self::token::Presented;
pub(crate) use self::token::Token;
use self::tokens::Tokens;
pub use self::tokens::{KeySource, KeysUrl, TokenConfig, TokenKeysError};
pub(crate) use self::view::View;
use crate::error::ApiError;
use crate::limits::Meters;
use crate::request_log::OfTenant;
use crate::state::AppState;

/// Recognises callers.
#[derive(Debug)]
pub(crate) struct Access {
    auth: Auth,
    pub(crate) tokens: Option<Arc<Tokens>>,
    pub(crate) keys: Arc<KeyTable>,
    anybody: Arc<Caller>,
}

/// The layer around the routes.
pub(crate) async fn guard(
    State(state): State<AppState>,
    mut request: Request,
    next: Next,
) -> Response {
    let route = request.extensions().get::<MatchedPath>();
    let need = need(request.method(), route.map(MatchedPath::as_str));
    let now = || state.queue.clock().now_ms();
    match state.access.admit(need, request.headers(), now).await {
        Ok(caller) => {
            let Some(caller) = caller else {
                return next.run(request).await;
            };
            let tenant = (!caller.tenant.is_default()).then(|| caller.tenant.clone());
            request.extensions_mut().insert(caller);
            let mut response = next.run(request).await;
            if let Some(tenant) = tenant {
                response.extensions_mut().insert(OfTenant(tenant));
            }
            response
        }
        Err(refused) => refused.into_response(),
    }
}

impl Access {
    pub(crate) async fn open(
        config: &AccessConfig,
        store: KeyStore,
        meters: &Arc<Meters>,
    ) -> Result<Self, TokenKeysError> {
        let tokens = match &config.tokens {
            Some(tokens) => Some(Arc::new(
                Tokens::open(tokens.clone(), meters.clone()).await?,
            )),
            None => None,
        };
        Ok(Self {
            auth: config.auth,
            tokens,
            keys: Arc::new(KeyTable::new(store, meters.clone())),
            anybody: Arc::new(Caller::anybody()),
        })
    }

    /// The caller, if they may send the request. None if it needs nothing.
    async fn admit(
        &self,
        need: Option<Need>,
        headers: &HeaderMap,
        now: impl FnOnce() -> u64,
    ) -> Result<Option<Arc<Caller>>, ApiError> {
        match need {
            Some(Need::Nothing) => Ok(None),
            Some(Need::Scope(permission)) => {
                let caller = self.recognise(headers, now).await?;
                caller.may(permission)?;
                Ok(Some(caller))
            }
            Some(Need::OfFarm(permission)) => {
                let caller = self.recognise(headers, now).await?;
                caller.may_for_farm(permission)?;
                Ok(Some(caller))
            }
            None => Err(ApiError::InsufficientScope("no key has it".to_owned())),
        }
    }

    async fn recognise(
        &self,
        headers: &HeaderMap,
        now: impl FnOnce() -> u64,
    ) -> Result<Arc<Caller>, ApiError> {
        if self.auth.is_off() {
            return Ok(self.anybody.clone());
        }
        let credential = bearer(headers)?;
        match &self.tokens {
            Some(tokens) if !self.auth.keys || !Presented::has_form(credential) => {
                let recognised = tokens.recognise(credential).await;
                recognised.map_err(|why| ApiError::Unauthenticated(Some(why)))
            }
            _ => self.by_key(credential, now()).await,
        }
    }

    async fn by_key(&self, token: &str, now: u64) -> Result<Arc<Caller>, ApiError> {
        let refused = |why| Err(ApiError::Unauthenticated(Some(why)));
        let Some(presented) = Presented::parse(token) else {
            return refused("The key has another form than esk_ID_SECRET");
        };
        let found = self.keys.find(presented.id).await;
        let key = match found.map_err(|Unknown| ApiError::queue_unavailable())? {
            Some(key) if key.hash.equals(&presented.hash) => key,
            _ => return refused("The key is unknown, or its secret is wrong"),
        };
        if !key.is_valid(now) {
            return refused("The key was revoked or has expired");
        }
        key.use_at(now);
        Ok(key.caller.clone())
    }
}

/// What the header `Authorization` holds.
fn bearer(headers: &HeaderMap) -> Result<&str, ApiError> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let value = match (given.next(), given.next()) {
        (None, _) => return Err(ApiError::Unauthenticated(None)),
        (Some(value), None) => value,
        (Some(_), Some(_)) => {
            return Err(ApiError::Unauthenticated(Some(
                "There are several Authorization headers",
            )));
        }
    };
    let parts = value.to_str().ok().and_then(|text| text.split_once(' '));
    match parts {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(ApiError::Unauthenticated(Some(
            "The Authorization header must be: Bearer KEY",
        ))),
    }
}
