//! The header `Call-Logs`: how many lines of a call's output its caller wants if the call fails.

use http::{HeaderMap, HeaderName};
use shared::protocol::job::MAX_LINES;

use crate::error::ApiError;

pub(crate) const CALL_LOGS: HeaderName = HeaderName::from_static("call-logs");

/// How many lines the caller of a request wants. None if none.
pub(crate) fn wanted(headers: &HeaderMap) -> Result<Option<u32>, ApiError> {
    let Some(value) = headers.get(CALL_LOGS) else {
        return Ok(None);
    };
    let digits = value
        .to_str()
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let lines = digits.and_then(|text| text.parse::<u32>().ok());
    match lines.filter(|lines| *lines <= MAX_LINES) {
        Some(lines) => Ok((lines > 0).then_some(lines)),
        None => Err(ApiError::field(
            "Call-Logs",
            format!("must be 0 to {MAX_LINES}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_asked_for_by_number() {
        let wanted = |value: &'static str| {
            let headers = HeaderMap::from_iter([(CALL_LOGS, value.parse().unwrap())]);
            wanted(&headers).map_err(|error| error.code())
        };
        assert_eq!(wanted("20"), Ok(Some(20)));
        assert_eq!(wanted("0"), Ok(None));
        for wrong in ["", "101", "-1", "all", "+5"] {
            assert_eq!(wanted(wrong), Err("invalid_request"), "{wrong}");
        }
        assert!(super::wanted(&HeaderMap::new()).unwrap().is_none());
    }
}
