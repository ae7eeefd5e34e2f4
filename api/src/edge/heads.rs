//! Refuses requests because of their heads, before anything else is done for them:
//!
//! - requests that another server or a proxy could read otherwise than this one,
//! - requests that a foreign web page sent through the browser of somebody who may use the api.
//!
//! The second kind matters only while callers need no key: whoever reaches the port may use it
//! then, and a browser on the same machine reaches it for every page that it shows. A page cannot
//! know a key.

use std::net::{Ipv4Addr, Ipv6Addr};

use http::header::{HOST, ORIGIN, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Version};

use super::Origins;
use crate::error::{ApiError, Fields};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// The rules for heads.
#[derive(Debug, Clone)]
pub(crate) struct Heads {
    /// The origins whose pages may use the api.
    pub(crate) origins: Origins,
    /// Whether callers need no key.
    pub(crate) is_open: bool,
}

impl Heads {
    /// Checks a request that arrived at a loopback address, or at another one.
    pub(crate) fn check<B>(&self, request: &Request<B>, at_loopback: bool) -> Result<(), ApiError> {
        let host = host(request)?;
        check_transfer_encoding(request.headers())?;
        if !self.is_open {
            return Ok(());
        }
        if at_loopback && host.is_some_and(|host| !is_loopback(host)) {
            return Err(ApiError::ForeignHost);
        }
        self.check_origin(request, host)
    }

    /// Refuses what a page of a foreign origin sends. Clients that are no browsers send none of
    /// these headers.
    fn check_origin<B>(&self, request: &Request<B>, host: Option<&str>) -> Result<(), ApiError> {
        let headers = request.headers();
        if let Some(origin) = headers.get(ORIGIN) {
            let is_own = host.is_some_and(|host| is_same_origin(origin, host));
            if is_own || self.origins.has(origin) {
                return Ok(());
            }
            return Err(ApiError::ForeignOrigin);
        }
        let is_foreign = headers
            .get(SEC_FETCH_SITE)
            .is_some_and(|site| site == "cross-site");
        if is_foreign && !is_link(request.method(), headers) {
            return Err(ApiError::ForeignOrigin);
        }
        Ok(())
    }
}

/// The request's `Host`. Only HTTP/1.0 permits to leave it out.
fn host<B>(request: &Request<B>) -> Result<Option<&str>, ApiError> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host,
        (None, None) if request.version() < Version::HTTP_11 => return Ok(None),
        _ => return Err(ambiguous("exactly one Host header")),
    };
    let host = host.to_str().ok().filter(|host| is_authority(host));
    let host = host.ok_or_else(|| ambiguous("a host and perhaps a port in the Host header"))?;
    // The target of a request to a proxy names the host as well.
    let target = request.uri().authority();
    if target.is_some_and(|target| !target.as_str().eq_ignore_ascii_case(host)) {
        return Err(ambiguous(
            "the same host in its target and in the Host header",
        ));
    }
    Ok(Some(host))
}

/// A host name or address with or without a port.
fn is_authority(text: &str) -> bool {
    let (host, port) = split_port(text);
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let is_host = match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(is_name),
    };
    is_host && port.is_none_or(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

/// Whether a name in `Host` leads to this machine whoever resolves it. Another name may have been
/// made to do so by the owner of the page that is shown (DNS rebinding).
fn is_loopback(host: &str) -> bool {
    let (host, _) = split_port(host);
    if let Some(address) = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        return address
            .parse::<Ipv6Addr>()
            .is_ok_and(|ip| ip.to_canonical().is_loopback());
    }
    if let Ok(address) = host.parse::<Ipv4Addr>() {
        return address.is_loopback();
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let last = name.rsplit('.').next().unwrap_or_default();
    last.eq_ignore_ascii_case("localhost")
}

/// Whether a page of `origin` was served by this api under the name `host`, perhaps through a
/// proxy that speaks TLS.
fn is_same_origin(origin: &HeaderValue, host: &str) -> bool {
    let origin = origin.to_str().unwrap_or_default();
    let served = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"));
    served.is_some_and(|served| served.eq_ignore_ascii_case(host))
}

/// Whether a person followed a link to this service: that changes nothing, and the page that had
/// the link does not see the response.
fn is_link(method: &Method, headers: &HeaderMap) -> bool {
    let is = |name, value| {
        headers
            .get(name)
            .is_some_and(|actual: &HeaderValue| actual == value)
    };
    method == Method::GET && is(SEC_FETCH_MODE, "navigate") && is(SEC_FETCH_DEST, "document")
}

/// Servers disagree about requests with several codings, and about codings that they do not know.
fn check_transfer_encoding(headers: &HeaderMap) -> Result<(), ApiError> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(ambiguous("no Transfer-Encoding but one chunked")),
    }
}

fn ambiguous(required: &str) -> ApiError {
    ApiError::InvalidRequest(format!("The request must have {required}"), Fields::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(heads: &Heads, at_loopback: bool, given: &[(&str, &str)]) -> Option<&'static str> {
        let mut request = Request::post("/loadSmartContract");
        for (name, value) in given {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap();
        heads
            .check(&request, at_loopback)
            .err()
            .map(|error| error.code())
    }

    fn heads(is_open: bool) -> Heads {
        let origins = "https://console.example".parse().unwrap();
        Heads { origins, is_open }
    }

    #[test]
    fn a_request_names_its_host_once() {
        for hosts in [
            &[][..],
            &["localhost", "localhost"],
            &[""],
            &["a b"],
            &["me@a"],
            &["a/b"],
            &["a:b"],
            &["[::g]"],
        ] {
            let given: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
            assert_eq!(
                refused(&heads(false), false, &given),
                Some("invalid_request"),
                "{hosts:?}"
            );
        }
        for host in ["localhost", "a_b.example:80", "10.0.0.1:", "[fe80::1]:9000"] {
            assert_eq!(
                refused(&heads(false), false, &[("host", host)]),
                None,
                "{host}"
            );
        }
        let old = Request::get("/readyz")
            .version(Version::HTTP_10)
            .body(())
            .unwrap();
        assert!(heads(true).check(&old, true).is_ok());
        let proxied = Request::get("http://localhost/readyz").header(HOST, "other");
        assert!(
            heads(false)
                .check(&proxied.body(()).unwrap(), true)
                .is_err()
        );
    }

    #[test]
    fn only_one_chunked_coding_is_accepted() {
        let with = |codings: &[&'static str]| {
            let mut given = vec![("host", "a")];
            given.extend(codings.iter().map(|coding| ("transfer-encoding", *coding)));
            refused(&heads(false), false, &given)
        };
        assert_eq!(with(&["Chunked"]), None);
        for codings in [
            &["gzip, chunked"][..],
            &["chunked", "chunked"],
            &["chunked, chunked"],
            &["identity"],
        ] {
            assert_eq!(with(codings), Some("invalid_request"), "{codings:?}");
        }
    }

    #[test]
    fn a_loopback_address_takes_loopback_names_only() {
        for host in [
            "localhost:9000",
            "LOCALHOST.",
            "api.localhost",
            "127.8.0.1",
            "[::1]:9000",
            "[::ffff:127.0.0.1]",
        ] {
            assert_eq!(
                refused(&heads(true), true, &[("host", host)]),
                None,
                "{host}"
            );
        }
        for host in [
            "evil.example:9000",
            "localhost.evil.example",
            "10.0.0.1",
            "0.0.0.0",
            "[::]",
            "notlocalhost",
        ] {
            assert_eq!(
                refused(&heads(true), true, &[("host", host)]),
                Some("foreign_host"),
                "{host}"
            );
            assert_eq!(
                refused(&heads(true), false, &[("host", host)]),
                None,
                "{host}"
            );
            assert_eq!(
                refused(&heads(false), true, &[("host", host)]),
                None,
                "{host}"
            );
        }
    }

    #[test]
    fn foreign_pages_are_refused_where_no_key_is_needed() {
        let from = |given: &[(&'static str, &'static str)], is_open| {
            let given = [&[("host", "localhost:9000")][..], given].concat();
            refused(&heads(is_open), true, &given)
        };
        for foreign in [
            &[("origin", "http://evil.example")][..],
            &[("origin", "null")],
            &[("origin", "http://localhost:3000")],
            &[("origin", "http://localhost:9000.evil.example")],
            &[("sec-fetch-site", "cross-site")],
            // A form of another page.
            &[
                ("sec-fetch-site", "cross-site"),
                ("sec-fetch-mode", "navigate"),
                ("sec-fetch-dest", "document"),
            ],
        ] {
            assert_eq!(from(foreign, true), Some("foreign_origin"), "{foreign:?}");
            assert_eq!(from(foreign, false), None, "{foreign:?}");
        }
        for own in [
            &[][..],
            &[
                ("origin", "http://localhost:9000"),
                ("sec-fetch-site", "same-origin"),
            ],
            &[
                ("origin", "https://console.example"),
                ("sec-fetch-site", "cross-site"),
            ],
            &[("sec-fetch-site", "none")],
        ] {
            assert_eq!(from(own, true), None, "{own:?}");
        }
        let link = Request::get("/docs/")
            .header(HOST, "localhost:9000")
            .header(SEC_FETCH_SITE, "cross-site")
            .header(SEC_FETCH_MODE, "navigate")
            .header(SEC_FETCH_DEST, "document");
        assert!(heads(true).check(&link.body(()).unwrap(), true).is_ok());
    }
}
