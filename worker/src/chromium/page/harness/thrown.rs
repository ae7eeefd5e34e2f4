//! What the harness reports about an executable, and about what a contract has thrown.

use shared::protocol::reply::StackEntry;

use super::form::Offsets;
use super::protocol::{MalformedReply, text};
use super::stack;

/// What the contract has thrown.
pub(super) struct Thrown {
    pub(super) text: String,
    pub(super) entries: Vec<StackEntry>,
}

impl Thrown {
    /// Reads a text, or a list of a text and a stack.
    pub(super) fn read(json: &str, offsets: Offsets) -> Result<Self, MalformedReply> {
        let (text, stack) = if json.starts_with('[') {
            serde_json::from_str::<(String, String)>(json).map_err(|_| MalformedReply)?
        } else {
            (text(json)?, String::new())
        };
        let entries = stack::read(&stack, offsets);
        Ok(Self { text, entries })
    }
}

/// What the harness reports about an executable.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LoadOutcome {
    /// A contract with these endpoints, and the JSON text of its schemas if it has some.
    Contract(Vec<String>, Option<String>),
    /// The executable ran, but defined no endpoints.
    NoEndpoints,
    /// The executable does not compile.
    Invalid(String),
    /// The executable threw this, at this place if it is known.
    Threw(String, Option<StackEntry>),
}

impl LoadOutcome {
    /// Reads the reply of the harness' `load`.
    pub(crate) fn parse(reply: &str, offsets: Offsets) -> Result<Self, MalformedReply> {
        match reply.split_once(' ') {
            None if reply == "none" => Ok(Self::NoEndpoints),
            Some(("endpoints", rest)) => {
                let (names, schemas) = match rest.split_once('\n') {
                    Some((names, json)) => {
                        let json = json.strip_prefix("schemas ").ok_or(MalformedReply)?;
                        (names, Some(json.to_owned()))
                    }
                    None => (rest, None),
                };
                let names = serde_json::from_str(names).map_err(|_| MalformedReply)?;
                Ok(Self::Contract(names, schemas))
            }
            Some(("invalid", text)) => self::text(text).map(Self::Invalid),
            Some(("threw", json)) => {
                let Thrown { text, entries } = Thrown::read(json, offsets)?;
                Ok(Self::Threw(text, entries.into_iter().next()))
            }
            _ => Err(MalformedReply),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn loaded(reply: &str) -> Result<LoadOutcome, MalformedReply> {
        LoadOutcome::parse(reply, Offsets::default())
    }

    #[test]
    fn the_reply_to_a_load_is_parsed() {
        let contract = |schemas: Option<&str>| {
            LoadOutcome::Contract(vec!["a".into(), "b".into()], schemas.map(str::to_owned))
        };
        assert_eq!(loaded(r#"endpoints ["a","b"]"#).unwrap(), contract(None));
        let reply = "endpoints [\"a\",\"b\"]\nschemas {\"a\":{}}";
        assert_eq!(loaded(reply).unwrap(), contract(Some(r#"{"a":{}}"#)));
        assert_eq!(loaded("none").unwrap(), LoadOutcome::NoEndpoints);
        assert_eq!(
            loaded(r#"invalid "E: x""#).unwrap(),
            LoadOutcome::Invalid("E: x".into())
        );
        assert_eq!(
            loaded(r#"threw "E: x""#).unwrap(),
            LoadOutcome::Threw("E: x".into(), None)
        );
        assert_eq!(
            loaded(r#"threw ["E: x","    at f (contract.js:4:2)\n    at g (contract.js:5:1)"]"#)
                .unwrap(),
            LoadOutcome::Threw("E: x".into(), Some(StackEntry::new(Some("f".into()), 2, 2)))
        );
        for text in [
            "",
            "endpoints",
            "endpoints [1]",
            "endpoints []\nother {}",
            "invalid",
            "threw",
            "other 1",
        ] {
            assert!(loaded(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_reply_makes_the_parser_panic(text in ".{0,200}") {
            drop(loaded(&text));
        }
    }
}
