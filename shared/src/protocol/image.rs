//! Recognises image references among executables. An api must not decode a reference as base64, and
//! a worker must not pull an archive.
//!
//! ```
//! use shared::protocol::image::{canonical, is_id, is_reference, registry, split_tag};
//!
//! assert!(is_reference("ghcr.io/acme/prices:1.4"));
//! assert!(!is_reference("H4sIAAAAAAAA"), "an archive in base64 has upper case letters");
//! assert_eq!(registry("ghcr.io/acme/prices:1.4"), "ghcr.io");
//! assert_eq!(split_tag("localhost:5000/prices:1.4"), ("localhost:5000/prices", Some("1.4")));
//! assert_eq!(canonical("prices"), "docker.io/library/prices:latest");
//! assert!(is_id("0123456789ab"), "a daemon would search its images for this id");
//! ```

/// An image that a contract runs, in a form that can never stand for another image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedImage {
    /// `sha256:...`, the id by which a daemon that has the image knows it.
    pub id: String,
    /// A reference by digest from which exactly this image can be pulled. None if it did not come
    /// from a registry.
    pub source: Option<String>,
}

/// The longest name, tag and digest with their separators: 255 + 1 + 128 + 1 + 71.
const MAX_LENGTH: usize = 456;

/// The registry of references that name none.
const HUB: &str = "docker.io";

/// Whether a text is an image reference: `[HOST[:PORT]/]NAME[:TAG][@sha256:DIGEST]`.
///
/// Names are lower case, so that hardly any base64 text is one.
///
/// ```
/// use shared::protocol::image::is_reference;
///
/// assert!(is_reference("alpine"));
/// assert!(is_reference("127.0.0.1:5000/team/app:latest"));
/// assert!(!is_reference("Alpine"));
/// ```
pub fn is_reference(text: &str) -> bool {
    if text.len() > MAX_LENGTH {
        return false;
    }
    let (named, digest) = match text.split_once('@') {
        Some((named, digest)) => (named, Some(digest)),
        None => (text, None),
    };
    let (name, tag) = split_tag(named);
    is_name(name) && tag.is_none_or(is_tag) && digest.is_none_or(is_digest)
}

/// Splits the tag off a reference without a digest. A colon before a slash belongs to a port.
///
/// ```
/// use shared::protocol::image::split_tag;
///
/// assert_eq!(split_tag("alpine:3"), ("alpine", Some("3")));
/// assert_eq!(split_tag("localhost:5000/alpine"), ("localhost:5000/alpine", None));
/// ```
pub fn split_tag(named: &str) -> (&str, Option<&str>) {
    match named.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (named, None),
    }
}

/// The registry of a reference: its first part if that looks like a host name, else `docker.io`.
///
/// ```
/// use shared::protocol::image::registry;
///
/// assert_eq!(registry("library/alpine"), "docker.io");
/// assert_eq!(registry("localhost/alpine"), "localhost");
/// ```
pub fn registry(reference: &str) -> &str {
    match reference.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => HUB,
    }
}

/// Whether a reference is the id of an image on some daemon: `sha256:` and 64 hexadecimal digits,
/// or 12 or more of them alone. An id names no registry, and what it stands for depends on the
/// daemon.
///
/// ```
/// use shared::protocol::image::is_id;
///
/// assert!(is_id("0123456789ab"));
/// assert!(!is_id("0123456789ab:latest"));
/// assert!(!is_id("cafe"));
/// ```
pub fn is_id(reference: &str) -> bool {
    const SHORTEST: usize = 12;
    let digits = reference.strip_prefix("sha256:").unwrap_or(reference);
    digits.len() >= SHORTEST && digits.bytes().all(is_hex)
}

/// The whole form of a reference: with its registry, and a tag or a digest. A daemon never takes it
/// for an id.
///
/// ```
/// use shared::protocol::image::canonical;
///
/// assert_eq!(canonical("acme/app:1"), "docker.io/acme/app:1");
/// assert_eq!(canonical("r.example:5000/app"), "r.example:5000/app:latest");
/// ```
pub fn canonical(reference: &str) -> String {
    let (named, digest) = match reference.split_once('@') {
        Some((named, digest)) => (named, Some(digest)),
        None => (reference, None),
    };
    let (name, tag) = split_tag(named);
    let name = canonical_name(name);
    match (tag, digest) {
        (None, None) => format!("{name}:latest"),
        (Some(tag), None) => format!("{name}:{tag}"),
        // Daemons ignore a tag beside a digest.
        (_, Some(digest)) => format!("{name}@{digest}"),
    }
}

/// The whole form of a name without tag and digest.
///
/// ```
/// use shared::protocol::image::canonical_name;
///
/// assert_eq!(canonical_name("alpine"), "docker.io/library/alpine");
/// assert_eq!(canonical_name("GHCR.io/acme/app"), "ghcr.io/acme/app");
/// ```
pub fn canonical_name(name: &str) -> String {
    let host = registry(name);
    let path = name
        .strip_prefix(host)
        .and_then(|rest| rest.strip_prefix('/'))
        .unwrap_or(name);
    let host = host.to_ascii_lowercase();
    // The old name of the same registry.
    let is_hub = host == HUB || host == "index.docker.io";
    let host = if is_hub { HUB } else { &host };
    if is_hub && !path.contains('/') {
        format!("{host}/library/{path}")
    } else {
        format!("{host}/{path}")
    }
}

fn is_name(name: &str) -> bool {
    let (host, path) = match name.split_once('/') {
        Some((host, path)) if registry(name) == host => (Some(host), path),
        _ => (None, name),
    };
    host.is_none_or(is_host) && path.split('/').all(is_component)
}

fn is_host(host: &str) -> bool {
    let (name, port) = host.split_once(':').unwrap_or((host, "0"));
    let of_name = |b: u8| b.is_ascii_alphanumeric() || b".-".contains(&b);
    !name.is_empty()
        && name.bytes().all(of_name)
        && !port.is_empty()
        && port.bytes().all(|b| b.is_ascii_digit())
}

fn is_component(component: &str) -> bool {
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = [component.bytes().next(), component.bytes().next_back()];
    ends.iter().all(|end| end.as_ref().is_some_and(plain))
        && component.bytes().all(|b| plain(&b) || b"._-".contains(&b))
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&tag.len())
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b".-".contains(&b))
}

fn is_digest(digest: &str) -> bool {
    digest
        .strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(is_hex))
}

fn is_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_recognised() {
        let digest = format!("@sha256:{}", "0a".repeat(32));
        for name in [
            "alpine",
            "library/alpine",
            "a/b/c",
            "localhost/x",
            "r.example/x",
            "127.0.0.1:5000/x_y",
        ] {
            for tag in ["", ":latest", ":1.0-RC_2"] {
                for digest in ["", &digest] {
                    let text = format!("{name}{tag}{digest}");
                    assert!(is_reference(&text), "{text}");
                }
            }
        }
    }

    #[test]
    fn other_texts_are_not_recognised() {
        let long = "a".repeat(MAX_LENGTH + 1);
        for text in [
            "",
            "Alpine",
            "YWxwaW5l",
            "H4sIAAAA",
            "a b",
            "a:",
            ":a",
            "a@sha256:1",
            "/a",
            "a/",
            "-a",
            "a//b",
            "{ add: 1 }",
            "a:b:c/d e",
            "a:b:c/d",
            "a:b/c",
            "a\n",
            &long,
        ] {
            assert!(!is_reference(text), "{text:?}");
        }
    }

    #[test]
    fn a_port_is_not_a_tag() {
        assert_eq!(split_tag("h:1/a"), ("h:1/a", None));
        assert_eq!(split_tag("h:1/a:b"), ("h:1/a", Some("b")));
    }

    #[test]
    fn ids_are_recognised() {
        let whole = "0a".repeat(32);
        for id in [
            "0123456789ab",
            "abcdefabcdef0",
            &whole,
            &format!("sha256:{whole}"),
            "sha256:0123456789ab",
        ] {
            assert!(is_reference(id) && is_id(id), "{id}");
        }
        for name in [
            "cafe",
            "0123456789ag",
            "acme/0123456789ab",
            "sha256:1.0",
            "0123456789ab:1",
        ] {
            assert!(!is_id(name), "{name}");
        }
    }

    #[test]
    fn references_have_one_whole_form() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for (reference, whole) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("docker.io/alpine:3", "docker.io/library/alpine:3"),
            ("index.docker.io/a/b", "docker.io/a/b:latest"),
            ("cafe", "docker.io/library/cafe:latest"),
            ("localhost/a", "localhost/a:latest"),
            ("Example.COM:5000/a/b:C", "example.com:5000/a/b:C"),
            (
                &format!("a:1@{digest}"),
                &format!("docker.io/library/a@{digest}"),
            ),
        ] {
            assert_eq!(canonical(reference), whole);
            assert_eq!(canonical(whole), whole);
            assert!(is_reference(whole), "{whole}");
        }
    }

    #[test]
    fn a_registry_looks_like_a_host() {
        for (reference, host) in [
            ("alpine", "docker.io"),
            ("library/alpine", "docker.io"),
            ("localhost/a", "localhost"),
            ("h:1/a:b", "h:1"),
            ("ghcr.io/a/b@sha256:0", "ghcr.io"),
        ] {
            assert_eq!(registry(reference), host);
        }
    }
}
