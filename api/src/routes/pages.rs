//! Lists by pages: which page a query asks for, and the header that leads to the next one.

use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use http::HeaderName;
use http::header::LINK;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::{ApiError, Fields};

/// How many entries a page has if the caller does not say.
const DEFAULT_LIMIT: usize = 100;

/// How many entries a page has at most.
pub(crate) const MAX_LIMIT: usize = 1000;

/// The header with the address of the next page.
pub(crate) type NextPage = Option<[(HeaderName, String); 1]>;

/// Which page is asked for.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct PageQuery {
    limit: Option<String>,
    pub(crate) after: Option<String>,
    /// Whose entries, where not the caller's own tenant's.
    pub(crate) tenant: Option<String>,
}

impl PageQuery {
    /// How many entries the page has at most.
    pub(crate) fn limit(&self) -> Result<usize, ApiError> {
        let Some(text) = &self.limit else {
            return Ok(DEFAULT_LIMIT);
        };
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        let limit = text
            .parse()
            .ok()
            .filter(|limit| is_number && (1..=MAX_LIMIT).contains(limit));
        limit.ok_or_else(|| ApiError::field("limit", format!("must be 1 to {MAX_LIMIT}")))
    }
}

/// The header with a link, if there is one.
pub(crate) fn next_page(link: Option<String>) -> NextPage {
    link.map(|link| [(LINK, link)])
}

/// The parameters of a query.
pub(crate) fn query<T: DeserializeOwned>(
    query: Result<Query<T>, QueryRejection>,
) -> Result<T, ApiError> {
    match query {
        Ok(Query(parameters)) => Ok(parameters),
        Err(rejection) => {
            let reason = rejection.body_text();
            Err(ApiError::InvalidRequest(reason, Fields::new()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_from_1_to_1000() {
        let limit = |limit: Option<&str>| {
            let query = PageQuery {
                limit: limit.map(str::to_owned),
                ..PageQuery::default()
            };
            query.limit()
        };
        assert_eq!(limit(None).unwrap(), 100);
        assert_eq!(limit(Some("1000")).unwrap(), 1000);
        for wrong in ["", "0", "1001", "+5", "-1", "many", "1e2"] {
            let refused = limit(Some(wrong)).unwrap_err();
            assert_eq!(refused.code(), "invalid_request", "{wrong}");
        }
    }
}
