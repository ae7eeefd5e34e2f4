//! Which images callers may name: the operator's patterns.
//!
//! A reference is a request into the network, made by the daemon, for whoever loads a contract. It
//! can also name whatever image the daemon has. So nothing is pulled or run by a reference that the
//! operator has not allowed.

use std::str::FromStr;

use glob::{MatchOptions, Pattern};
use shared::protocol::image::{canonical, canonical_name, is_id, split_tag};

/// `*` stands for anything but a slash, so that it never leads to another registry.
const MATCHING: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// The images that contracts may name; by default none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedImages(Vec<AllowedImage>);

/// One pattern: `[REGISTRY/]NAME[:TAG][@DIGEST]` with wildcards.
#[derive(Debug, Clone, PartialEq, Eq)]
struct AllowedImage {
    name: Pattern,
    version: Version,
}

/// Which versions of an image a pattern allows.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Version {
    Any,
    Tag(Pattern),
    Digest(String),
}

impl AllowedImages {
    /// Whether contracts may run this reference.
    pub(super) fn has(&self, reference: &str) -> bool {
        let whole = canonical(reference);
        !is_id(reference) && self.0.iter().any(|pattern| pattern.allows(&whole))
    }
}

impl FromStr for AllowedImages {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let patterns = text.split(',').map(str::trim);
        let patterns = patterns.filter(|pattern| !pattern.is_empty());
        patterns.map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl FromStr for AllowedImage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let pattern = |text: &str| {
            Pattern::new(text).map_err(|error| format!("{text:?} is not a pattern: {}", error.msg))
        };
        let (named, digest) = match text.split_once('@') {
            Some((named, digest)) => (named, Some(digest)),
            None => (text, None),
        };
        let (name, tag) = split_tag(named);
        // `**` alone matches every registry; any other pattern without one is for docker.io.
        let name = if name.starts_with("**") {
            name.to_owned()
        } else {
            canonical_name(name)
        };
        let version = match (tag, digest) {
            (_, Some(digest)) => Version::Digest(digest.to_owned()),
            (Some(tag), None) => Version::Tag(pattern(tag)?),
            (None, None) => Version::Any,
        };
        Ok(Self {
            name: pattern(&name)?,
            version,
        })
    }
}

impl AllowedImage {
    /// Whether it allows a reference in its whole form.
    fn allows(&self, whole: &str) -> bool {
        let (name, tag, digest) = if let Some((name, digest)) = whole.split_once('@') {
            (name, None, Some(digest))
        } else {
            let (name, tag) = split_tag(whole);
            (name, tag, None)
        };
        let has_version = match &self.version {
            Version::Any => true,
            // A digest can stand for any content, whatever the tag beside it says.
            Version::Tag(pattern) => tag.is_some_and(|tag| pattern.matches_with(tag, MATCHING)),
            Version::Digest(allowed) => digest == Some(allowed),
        };
        has_version && self.name.matches_with(name, MATCHING)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(patterns: &str, reference: &str) -> bool {
        patterns.parse::<AllowedImages>().unwrap().has(reference)
    }

    #[test]
    fn only_what_a_pattern_matches_is_allowed() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let (by_digest, pinned) = (format!("acme/app@{digest}"), format!("acme/app:1@{digest}"));
        for (patterns, reference, expected) in [
            ("", "alpine", false),
            ("alpine", "alpine", true),
            ("alpine", "docker.io/library/alpine:3", true),
            ("alpine", "r.example/library/alpine", false),
            ("alpine", "alpine-too", false),
            ("alpine*", "alpine-too", true),
            ("*", "alpine", true),
            ("*", "acme/app", false),
            ("acme/*", "acme/app:1", true),
            ("acme/*", "acme/team/app", false),
            ("acme/**", "acme/team/app", true),
            ("docker.io/library/*", "alpine", true),
            (
                "ghcr.io/acme/*, r.example:5000/*",
                "r.example:5000/app",
                true,
            ),
            ("ghcr.io/acme/*", "r.example/ghcr.io/acme/app", false),
            ("*.example.com/app", "a.example.com/app", true),
            ("*.example.com/app", "evil.test/a.example.com/app", false),
            ("127.0.0.1:*/app", "127.0.0.1:5000/app", true),
            ("127.0.0.1:*/app", "127.0.0.1:5000/a/path", false),
            ("**", "r.example:5000/team/app:1", true),
            ("acme/app:1.*", "acme/app:1.4", true),
            ("acme/app:1.*", "acme/app", false),
            ("acme/app:1", &pinned, false),
            ("acme/app", &pinned, true),
            (&by_digest, &pinned, true),
            (&by_digest, "acme/app:1", false),
            ("**", "0123456789ab", false),
            ("**", &digest, false),
        ] {
            assert_eq!(
                allows(patterns, reference),
                expected,
                "{patterns}: {reference}"
            );
        }
    }

    #[test]
    fn a_broken_pattern_is_refused() {
        for text in ["acme/[a", "acme/***", "ok, acme/a**b"] {
            assert!(text.parse::<AllowedImages>().is_err(), "{text}");
        }
    }
}
