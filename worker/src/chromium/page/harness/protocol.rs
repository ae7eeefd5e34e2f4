//! The text protocol between the worker and the harness.
//!
//! Replies from a page are not trusted: a contract that breaks into its own harness can reply
//! anything. It can only harm itself, because [`parse`] checks everything. `handle` sends the
//! texts; `instance` decides what a reply means for a call.

use std::fmt::Write as _;

use serde_json::value::RawValue;
use shared::protocol::reply::{Failure, FailureCode, Stack};

use super::form::Offsets;
use super::output;
use super::thrown::Thrown;
use crate::sandbox::{CallId, CallOutput, Invocation};

/// For how long the harness starts calls of one message, in milliseconds; its `SLICE`.
pub(crate) const SLICE_MS: u64 = 5;

/// The harness: one function, in the order of its parts.
const SOURCE: &str = concat!(
    include_str!("page/begin.js"),
    include_str!("page/builtins.js"),
    include_str!("page/values.js"),
    include_str!("page/errors.js"),
    include_str!("page/calls.js"),
    include_str!("page/console.js"),
    include_str!("page/source.js"),
    include_str!("page/end.js"),
);

/// The expression that creates a harness with this result limit, in bytes. It is null in any
/// document other than the one at `url`.
pub(crate) fn expression(url: &str, result_limit: u32) -> String {
    format!(
        "document.URL === \"{url}\" ? {}({result_limit}) : null",
        SOURCE.trim_end()
    )
}

/// The calls in the form that the harness' `run` reads: `[[id,"method"],[id,"method",argument]]`.
/// After the argument, the number of lines of output that are kept.
pub(crate) fn encode(calls: &[Invocation<'_>]) -> String {
    let mut text = String::with_capacity(32 * calls.len() + 2);
    text.push('[');
    for (index, call) in calls.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let method = serde_json::Value::from(call.method);
        // Writing to a string cannot fail.
        _ = write!(text, "{comma}[{},{method}", call.id.0);
        if let Some(argument) = call.argument {
            text.push(',');
            text.push_str(argument.get());
            if call.logs > 0 {
                _ = write!(text, ",{}", call.logs);
            }
        }
        text.push(']');
    }
    text.push(']');
    text
}

/// A reply of the harness' `run`, `collect` or `status`.
#[derive(Debug)]
pub(crate) struct HarnessReply {
    /// The call that was running; only `status` reports one.
    pub(crate) running: Option<CallId>,
    /// In the order in which they happened.
    pub(crate) updates: Vec<(CallId, CallUpdate)>,
}

/// What the harness reports about one call.
#[derive(Debug)]
pub(crate) enum CallUpdate {
    /// The call ended.
    Ended(Result<Box<RawValue>, Failure>),
    /// The call was started; its promise is pending.
    Pending,
    /// The call's promise has settled; its outcome follows.
    Settled,
    /// The call was not started.
    NotStarted,
    /// What the call has written so far. Replaces an earlier update of this kind.
    Output(CallOutput),
    /// Lines of which it is not known which call has written them.
    UnknownOutput(CallOutput),
}

/// A reply that the harness does not send: the contract has changed the harness.
#[derive(Debug, thiserror::Error)]
#[error("the page sent a malformed reply")]
pub(crate) struct MalformedReply;

/// What the replies of one contract are read by.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReplyRules {
    /// How many bytes a result may have.
    pub(crate) result_limit: u32,
    /// Where the places in stacks are in the executable.
    pub(crate) offsets: Offsets,
    /// The name of the executable in the store, if it has a source map.
    pub(crate) source_map: Option<String>,
}

impl ReplyRules {
    /// The failure of a call that threw.
    fn thrown(&self, json: &str) -> Result<Failure, MalformedReply> {
        let Thrown { text, entries } = Thrown::read(json, self.offsets)?;
        let source_map = self.source_map.clone();
        let stack = Stack {
            entries,
            source_map,
        };
        Ok(Failure::started(FailureCode::ExecutionFailed, text).at(stack))
    }
}

/// Reads a reply. A result that is not JSON, or of more bytes than its limit, becomes a failure of
/// its call.
pub(crate) fn parse(reply: &str, rules: &ReplyRules) -> Result<HarnessReply, MalformedReply> {
    let mut lines = reply.split('\n');
    let running: i64 = lines
        .next()
        .and_then(|line| line.parse().ok())
        .ok_or(MalformedReply)?;
    let running = u32::try_from(running).ok().map(CallId);
    let updates = lines
        .map(|line| parse_line(line, rules))
        .collect::<Result<_, _>>()?;
    Ok(HarnessReply { running, updates })
}

/// Reads `ID KIND` or `ID KIND JSON`.
fn parse_line(line: &str, rules: &ReplyRules) -> Result<(CallId, CallUpdate), MalformedReply> {
    let result_limit = rules.result_limit;
    let (id, rest) = line.split_once(' ').ok_or(MalformedReply)?;
    let (kind, json) = rest.split_once(' ').unwrap_or((rest, ""));
    let failed = |code, message: String| CallUpdate::Ended(Err(Failure::started(code, message)));
    let too_large = || {
        failed(
            FailureCode::ResultTooLarge,
            format!("The result is over {result_limit} bytes"),
        )
    };
    let update = match kind {
        "ok" if json.len() as u64 > u64::from(result_limit) => too_large(),
        // Checks with one scan, and without a tree, that only JSON leaves the sandbox.
        "ok" => match RawValue::from_string(json.to_owned()) {
            Ok(json) => CallUpdate::Ended(Ok(json)),
            Err(_) => failed(FailureCode::ResultNotJson, "it is not JSON text".to_owned()),
        },
        "failed" => CallUpdate::Ended(Err(rules.thrown(json)?)),
        "notjson" => failed(FailureCode::ResultNotJson, text(json)?),
        "toolarge" => too_large(),
        "unknown" => CallUpdate::Ended(Err(Failure::not_started(
            FailureCode::EndpointNotFound,
            "The contract has no such endpoint",
        ))),
        "later" => CallUpdate::Pending,
        "settled" => CallUpdate::Settled,
        "skipped" => CallUpdate::NotStarted,
        "output" => CallUpdate::Output(output::read(json)?),
        "unknown-output" => CallUpdate::UnknownOutput(output::read(json)?),
        _ => return Err(MalformedReply),
    };
    Ok((CallId(id.parse().map_err(|_| MalformedReply)?), update))
}

pub(super) fn text(json: &str) -> Result<String, MalformedReply> {
    serde_json::from_str(json).map_err(|_| MalformedReply)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shared::protocol::reply::{MESSAGE_LIMIT, StackEntry};

    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    fn rules(result_limit: u32) -> ReplyRules {
        ReplyRules {
            result_limit,
            ..ReplyRules::default()
        }
    }

    fn outcome(line: &str) -> Result<Result<Box<RawValue>, Failure>, MalformedReply> {
        match parse(&format!("-1\n{line}"), &rules(10))?
            .updates
            .remove(0)
            .1
        {
            CallUpdate::Ended(outcome) => Ok(outcome),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn calls_are_encoded_with_their_arguments_unchanged() {
        let argument = raw(r#"{"__proto__":1e999,"a":"\ud800"}"#);
        let calls = [
            Invocation {
                id: CallId(7),
                method: "a\"\n",
                argument: None,
                logs: 5,
            },
            Invocation {
                id: CallId(8),
                method: "b",
                argument: Some(&argument),
                logs: 0,
            },
            Invocation {
                id: CallId(9),
                method: "c",
                argument: Some(&argument),
                logs: 20,
            },
        ];
        let argument = argument.get();
        let expected = format!(r#"[[7,"a\"\n"],[8,"b",{argument}],[9,"c",{argument},20]]"#);
        assert_eq!(encode(&calls), expected);
        assert_eq!(encode(&[]), "[]");
    }

    #[test]
    fn a_reply_is_parsed() {
        let text = "3\n1 ok {\"a\":1}\n2 later\n4 skipped\n3 failed \"Error: a b\"";
        let reply = parse(text, &rules(100)).unwrap();
        assert_eq!(reply.running, Some(CallId(3)));
        let ids: Vec<u32> = reply.updates.iter().map(|(id, _)| id.0).collect();
        assert_eq!(ids, [1, 2, 4, 3]);
        assert!(
            matches!(&reply.updates[0].1, CallUpdate::Ended(Ok(json)) if json.get() == "{\"a\":1}")
        );
        assert!(matches!(reply.updates[1].1, CallUpdate::Pending));
        assert!(matches!(reply.updates[2].1, CallUpdate::NotStarted));
        let CallUpdate::Ended(Err(failure)) = &reply.updates[3].1 else {
            panic!()
        };
        assert_eq!(failure.message, "Error: a b");
        assert_eq!(parse("-1", &rules(1)).unwrap().running, None);
    }

    #[test]
    fn a_result_that_is_not_json_fails_only_its_call() {
        for line in [
            "1 ok",
            "1 ok ",
            "1 ok {",
            "1 ok 1 2",
            "1 ok \u{1}",
            "1 ok \"\u{1}\"",
        ] {
            let failure = outcome(line).unwrap().unwrap_err();
            assert_eq!(failure.code, FailureCode::ResultNotJson, "{line:?}");
        }
        let reply = parse("-1\n1 ok {\n2 ok 7", &rules(10)).unwrap();
        assert!(matches!(&reply.updates[1].1, CallUpdate::Ended(Ok(json)) if json.get() == "7"));
    }

    #[test]
    fn a_forged_reply_is_refused() {
        let forged = [
            "1 failed x",
            "1 failed [\"a\"]",
            "1 failed [\"a\",\"b\",\"c\"]",
            "1 failed [\"a\",1]",
            "1 failed",
            "1",
            "x ok 1",
            "-1 ok 1",
            "1 nonsense 1",
            "",
            "1  ok 1",
        ];
        for line in forged {
            assert!(outcome(line).is_err(), "{line:?}");
        }
        for text in ["", "x", "\n1 ok 1", "-1 0"] {
            assert!(parse(text, &rules(10)).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_result_limit_counts_bytes() {
        assert!(outcome("1 ok \"12345678\"").unwrap().is_ok());
        for line in ["1 ok \"123456789\"", "1 ok \"ääääü\"", "1 toolarge"] {
            let failure = outcome(line).unwrap().unwrap_err();
            assert_eq!(failure.code, FailureCode::ResultTooLarge, "{line}");
        }
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let line = format!("1 failed \"a{}\"", "\u{e9}".repeat(10_000));
        let message = outcome(&line).unwrap().unwrap_err().message;
        assert_eq!(message.len(), MESSAGE_LIMIT - 1);
        assert!(message.ends_with('\u{e9}'));
    }

    #[test]
    fn a_failure_has_the_places_of_its_stack() {
        let line =
            r#"1 failed ["E: x","    at f (contract.js:4:2)\n    at run (<anonymous>:9:9)"]"#;
        let failure = outcome(line).unwrap().unwrap_err();
        assert_eq!(failure.message, "E: x");
        let entries = failure.stack.unwrap().entries;
        assert_eq!(entries, [StackEntry::new(Some("f".into()), 2, 2)]);
        let without = outcome(r#"1 failed ["E: x","    at run (<anonymous>:9:9)"]"#);
        assert_eq!(without.unwrap().unwrap_err().stack, None);
    }

    #[test]
    fn json_that_serde_cannot_represent_passes_as_text() {
        assert_eq!(
            outcome(r#"1 ok "\ud800""#).unwrap().unwrap().get(),
            r#""\ud800""#
        );
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        let reply = parse(&format!("-1\n1 ok {deep}"), &rules(20_000)).unwrap();
        assert!(matches!(&reply.updates[0].1, CallUpdate::Ended(Ok(json)) if json.get() == deep));
    }

    proptest! {
        #[test]
        fn no_reply_makes_the_parser_panic(text in ".{0,200}") {
            drop(parse(&text, &rules(100)));
        }

        /// Generates lines that are almost valid, which are the ones that could slip through.
        #[test]
        fn an_accepted_result_is_json_within_its_limit(
            lines in prop::collection::vec("[0-9]{1,3} (ok|failed|later|x)( [\\[\\]{}\",:0-9a-z\\\\]{0,20})?", 0..5),
        ) {
            let text = format!("-1\n{}", lines.join("\n"));
            if let Ok(reply) = parse(&text, &rules(10)) {
                for (_, update) in reply.updates {
                    if let CallUpdate::Ended(Ok(json)) = update {
                        prop_assert!(json.get().len() <= 10);
                        prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(json.get()).is_ok());
                    }
                }
            }
        }

        #[test]
        fn encoded_calls_are_one_json_text_for_any_method(methods in prop::collection::vec(".{0,20}", 0..5)) {
            let calls: Vec<_> = (0..)
                .zip(&methods)
                .map(|(id, method)| Invocation { id: CallId(id), method, argument: None, logs: 0 })
                .collect();
            let read: Vec<(u32, String)> = serde_json::from_str(&encode(&calls)).unwrap();
            let expected: Vec<_> = (0..).zip(methods.iter().cloned()).collect();
            prop_assert_eq!(read, expected);
        }
    }

    #[test]
    fn the_slice_equals_the_harness_constant() {
        assert!(SOURCE.contains(&format!("const SLICE = {SLICE_MS};")));
    }
}
