//! What is said between the worker and the harness, the code in a page that makes the calls.
//!
//! Text only: how it travels is `page`'s, what it means for a call's caller is `instance`'s. What
//! comes from a page is not to be trusted: a contract that breaks into its own harness may answer
//! anything. It can only hurt itself, because nothing is taken that [`parse`] does not check.

use std::fmt::Write as _;

use serde_json::value::RawValue;
use shared::protocol::reply::{Failure, FailureCode};

use crate::sandbox::{CallId, Invocation};

/// How long the harness goes on to start calls of one message, in milliseconds; its `SLICE`.
pub(crate) const SLICE_MS: u64 = 5;

const SOURCE: &str = include_str!("harness.js");

/// The expression that makes a harness with this limit for results, in bytes; null in any document
/// but the contract's own.
pub(crate) fn expression(url: &str, result_limit: u32) -> String {
    format!(
        "document.URL === \"{url}\" ? {}({result_limit}) : null",
        SOURCE.trim_end()
    )
}

/// The calls as the harness' `run` takes them: `[[id,"method"],[id,"method",argument]]`.
pub(crate) fn encode(calls: &[Invocation<'_>]) -> String {
    let mut text = String::with_capacity(32 * calls.len() + 2);
    text.push('[');
    for (index, call) in calls.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let method = serde_json::Value::from(call.method);
        // Writing to a string does not fail.
        _ = write!(text, "{comma}[{},{method}", call.id.0);
        if let Some(argument) = call.argument {
            text.push(',');
            text.push_str(argument.get());
        }
        text.push(']');
    }
    text.push(']');
    text
}

/// What the harness tells.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The call that was running; none but in the answer of `status`.
    pub(crate) running: Option<CallId>,
    /// In the order in which things happened.
    pub(crate) news: Vec<(CallId, News)>,
}

/// What the harness tells of one call.
#[derive(Debug)]
pub(crate) enum News {
    /// It ended.
    Ended(Result<Box<RawValue>, Failure>),
    /// It was started; its promise is pending.
    Later,
    /// It was not started.
    Skipped,
}

/// An answer that is none: the contract has got hold of the harness.
#[derive(Debug, thiserror::Error)]
#[error("the page gave a malformed answer")]
pub(crate) struct Malformed;

/// Reads an answer. A result is valid JSON of at most `result_limit` bytes, or it is refused.
pub(crate) fn parse(answer: &str, result_limit: u32) -> Result<Answer, Malformed> {
    let mut lines = answer.split('\n');
    let running: i64 = lines
        .next()
        .and_then(|line| line.parse().ok())
        .ok_or(Malformed)?;
    let running = u32::try_from(running).ok().map(CallId);
    let news = lines
        .map(|line| parse_line(line, result_limit))
        .collect::<Result<_, _>>()?;
    Ok(Answer { running, news })
}

/// Reads `ID KIND` or `ID KIND JSON`.
fn parse_line(line: &str, result_limit: u32) -> Result<(CallId, News), Malformed> {
    let (id, rest) = line.split_once(' ').ok_or(Malformed)?;
    let (kind, json) = rest.split_once(' ').unwrap_or((rest, ""));
    let failed = |code, message: String| News::Ended(Err(Failure::started(code, message)));
    let too_large = || {
        failed(
            FailureCode::ResultTooLarge,
            format!("The result is over {result_limit} bytes"),
        )
    };
    let news = match kind {
        "ok" if json.len() as u64 > u64::from(result_limit) => too_large(),
        // One scan, no tree: the check that only JSON leaves the sandbox.
        "ok" => News::Ended(Ok(
            RawValue::from_string(json.to_owned()).map_err(|_| Malformed)?
        )),
        "failed" => failed(FailureCode::ExecutionFailed, sentence(json)?),
        "notjson" => failed(FailureCode::ResultNotJson, sentence(json)?),
        "toolarge" => too_large(),
        "unknown" => News::Ended(Err(Failure::not_started(
            FailureCode::EndpointNotFound,
            "The contract has no such endpoint",
        ))),
        "later" => News::Later,
        "skipped" => News::Skipped,
        _ => return Err(Malformed),
    };
    Ok((CallId(id.parse().map_err(|_| Malformed)?), news))
}

fn sentence(json: &str) -> Result<String, Malformed> {
    serde_json::from_str(json).map_err(|_| Malformed)
}

/// What became of an executable.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Loaded {
    /// It is a contract with these endpoints.
    Contract(Vec<String>),
    /// It ran, and left nothing to call.
    Nothing,
    /// It does not compile, or threw this.
    Threw(String),
}

impl Loaded {
    /// Reads the answer of the harness' `load`.
    pub(crate) fn parse(answer: &str) -> Result<Self, Malformed> {
        match answer.split_once(' ') {
            None if answer == "none" => Ok(Self::Nothing),
            Some(("endpoints", names)) => serde_json::from_str(names)
                .map(Self::Contract)
                .map_err(|_| Malformed),
            Some(("threw", text)) => sentence(text).map(Self::Threw),
            _ => Err(Malformed),
        }
    }
}

/// Whether a source looks like an object in parentheses or braces rather than like a script: the
/// first thing in it that is neither space nor comment says so.
pub(crate) fn looks_like_literal(source: &str) -> bool {
    let mut rest = source;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
        rest = if let Some(comment) = rest.strip_prefix("//") {
            comment
                .split_once(['\n', '\r', '\u{2028}', '\u{2029}'])
                .map_or("", |(_, after)| after)
        } else if let Some(comment) = rest.strip_prefix("/*") {
            comment.split_once("*/").map_or("", |(_, after)| after)
        } else {
            return rest.starts_with(['{', '(']);
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    fn outcome(line: &str) -> Result<Result<Box<RawValue>, Failure>, Malformed> {
        match parse(&format!("-1\n{line}"), 10)?.news.remove(0).1 {
            News::Ended(outcome) => Ok(outcome),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn calls_are_written_with_their_arguments_as_they_are() {
        let argument = raw(r#"{"__proto__":1e999,"a":"\ud800"}"#);
        let calls = [
            Invocation {
                id: CallId(7),
                method: "a\"\n",
                argument: None,
            },
            Invocation {
                id: CallId(8),
                method: "b",
                argument: Some(&argument),
            },
        ];
        let expected = r#"[[7,"a\"\n"],[8,"b",{"__proto__":1e999,"a":"\ud800"}]]"#;
        assert_eq!(encode(&calls), expected);
        assert_eq!(encode(&[]), "[]");
    }

    #[test]
    fn an_answer_is_read() {
        let text = "3\n1 ok {\"a\":1}\n2 later\n4 skipped\n3 failed \"Error: a b\"";
        let answer = parse(text, 100).unwrap();
        assert_eq!(answer.running, Some(CallId(3)));
        let ids: Vec<u32> = answer.news.iter().map(|(id, _)| id.0).collect();
        assert_eq!(ids, [1, 2, 4, 3]);
        assert!(matches!(&answer.news[0].1, News::Ended(Ok(json)) if json.get() == "{\"a\":1}"));
        assert!(matches!(answer.news[1].1, News::Later));
        assert!(matches!(answer.news[2].1, News::Skipped));
        let News::Ended(Err(failure)) = &answer.news[3].1 else {
            panic!()
        };
        assert_eq!(failure.message, "Error: a b");
        assert_eq!(parse("-1", 1).unwrap().running, None);
    }

    #[test]
    fn a_forged_answer_is_refused() {
        let forged = [
            "1 ok",
            "1 ok ",
            "1 ok {",
            "1 ok 1 2",
            "1 ok \u{1}",
            "1 failed x",
            "1 failed",
            "1",
            "x ok 1",
            "-1 ok 1",
            "1 nonsense 1",
            "",
            "1  ok 1",
            "1 ok \"\u{1}\"",
        ];
        for line in forged {
            assert!(outcome(line).is_err(), "{line:?}");
        }
        for text in ["", "x", "\n1 ok 1", "-1 0"] {
            assert!(parse(text, 10).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_result_is_measured_in_bytes() {
        assert!(outcome("1 ok \"12345678\"").unwrap().is_ok());
        for line in ["1 ok \"123456789\"", "1 ok \"ääääü\"", "1 toolarge"] {
            let failure = outcome(line).unwrap().unwrap_err();
            assert_eq!(failure.code, FailureCode::ResultTooLarge, "{line}");
        }
    }

    #[test]
    fn what_serde_cannot_hold_passes_as_text() {
        assert_eq!(
            outcome(r#"1 ok "\ud800""#).unwrap().unwrap().get(),
            r#""\ud800""#
        );
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        let answer = parse(&format!("-1\n1 ok {deep}"), 20_000).unwrap();
        assert!(matches!(&answer.news[0].1, News::Ended(Ok(json)) if json.get() == deep));
    }

    #[test]
    fn the_answer_to_a_load_is_read() {
        let contract = Loaded::Contract(vec!["a".into(), "b".into()]);
        assert_eq!(Loaded::parse(r#"endpoints ["a","b"]"#).unwrap(), contract);
        assert_eq!(Loaded::parse("none").unwrap(), Loaded::Nothing);
        assert_eq!(
            Loaded::parse(r#"threw "E: x""#).unwrap(),
            Loaded::Threw("E: x".into())
        );
        for text in ["", "endpoints", "endpoints [1]", "threw", "other 1"] {
            assert!(Loaded::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_literal_is_told_from_a_script() {
        let literals = [
            "{}",
            " \u{feff}\n{",
            "// a\n/* b { */ {}",
            "(x)",
            "//\r{",
            "/**/{",
        ];
        for source in literals {
            assert!(looks_like_literal(source), "{source:?}");
        }
        for source in [
            "",
            "function init(){}",
            "// {",
            "/* {",
            "const a = {}",
            "\"use strict\"; {",
        ] {
            assert!(!looks_like_literal(source), "{source:?}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_the_reader_panic(text in ".{0,200}") {
            drop(parse(&text, 100));
            drop(Loaded::parse(&text));
            looks_like_literal(&text);
        }

        /// Lines that are almost right are the interesting ones.
        #[test]
        fn what_is_taken_for_a_result_is_json_within_its_limit(
            lines in prop::collection::vec("[0-9]{1,3} (ok|failed|later|x)( [\\[\\]{}\",:0-9a-z\\\\]{0,20})?", 0..5),
        ) {
            let text = format!("-1\n{}", lines.join("\n"));
            if let Ok(answer) = parse(&text, 10) {
                for (_, news) in answer.news {
                    if let News::Ended(Ok(json)) = news {
                        prop_assert!(json.get().len() <= 10);
                        prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(json.get()).is_ok());
                    }
                }
            }
        }

        #[test]
        fn calls_are_one_json_text_whatever_their_methods(methods in prop::collection::vec(".{0,20}", 0..5)) {
            let calls: Vec<_> = (0..)
                .zip(&methods)
                .map(|(id, method)| Invocation { id: CallId(id), method, argument: None })
                .collect();
            let read: Vec<(u32, String)> = serde_json::from_str(&encode(&calls)).unwrap();
            let expected: Vec<_> = (0..).zip(methods.iter().cloned()).collect();
            prop_assert_eq!(read, expected);
        }
    }

    #[test]
    fn the_slice_is_the_harness_own() {
        assert!(SOURCE.contains(&format!("const SLICE = {SLICE_MS};")));
    }
}
