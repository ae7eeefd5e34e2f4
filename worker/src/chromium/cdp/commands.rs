//! The command that is sent for every batch of calls.

use chromiumoxide_types::{Command, Method, MethodId};
use serde::{Deserialize, Serialize};

/// How much of a long text is one argument, in bytes. V8 compiles each argument as a script of its
/// own, and one long argument costs it twice as much as short ones: its copies are too large for the
/// pages of the heap and for the processor's cache, and from 16,384 characters on the hashes of all
/// scripts of one length are equal.
const PART: usize = 8_000;

/// `Runtime.callFunctionOn` with a string as its result.
///
/// It is leaner than the generated command, since every call and every result is sent with it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CallFunction {
    object_id: String,
    function_declaration: &'static str,
    arguments: Vec<Argument>,
    await_promise: bool,
    return_by_value: bool,
    silent: bool,
}

/// One argument, passed by value.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Argument {
    value: serde_json::Value,
}

impl CallFunction {
    /// Calls a function with the object as `this`.
    pub(crate) fn new(object_id: String, function_declaration: &'static str) -> Self {
        Self {
            object_id,
            function_declaration,
            arguments: Vec::new(),
            await_promise: false,
            return_by_value: true,
            silent: true,
        }
    }

    /// The function returns a promise; the reply is the promise's result.
    pub(crate) fn awaiting(self) -> Self {
        Self {
            await_promise: true,
            ..self
        }
    }

    /// Adds an argument.
    pub(crate) fn argument(mut self, value: impl Into<serde_json::Value>) -> Self {
        self.arguments.push(Argument {
            value: value.into(),
        });
        self
    }

    /// Adds a text as one or more arguments, which the function joins.
    pub(crate) fn text(mut self, mut text: &str) -> Self {
        while !text.is_empty() {
            let (part, rest) = text.split_at(text.floor_char_boundary(PART));
            self = self.argument(part);
            text = rest;
        }
        self
    }
}

impl Method for CallFunction {
    fn identifier(&self) -> MethodId {
        "Runtime.callFunctionOn".into()
    }
}

impl Command for CallFunction {
    type Response = FunctionReturned;
}

/// What a function returned.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FunctionReturned {
    result: ReturnedValue,
    exception_details: Option<ExceptionDetails>,
}

/// What a function threw. Its text is the page's, and is not read.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExceptionDetails {
    line_number: u32,
    column_number: u32,
    #[serde(rename = "exception")]
    thrown: Option<ThrownValue>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ThrownValue {
    class_name: Option<String>,
}

/// A place in a script, counted from zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) line: u32,
    pub(crate) column: u32,
}

#[derive(Debug, Deserialize)]
struct ReturnedValue {
    value: Option<String>,
}

impl FunctionReturned {
    /// Where the syntax error is that the function threw, if it threw one.
    pub(crate) fn syntax_error(self) -> Option<Place> {
        let details = self.exception_details?;
        let class = details.thrown?.class_name?;
        (class == "SyntaxError").then_some(Place {
            line: details.line_number,
            column: details.column_number,
        })
    }

    /// The string, if it is one. The harness' functions do not throw by themselves: an exception
    /// means that the contract exhausted the stack, or that execution was terminated.
    pub(crate) fn into_text(self) -> Result<String, &'static str> {
        match (self.exception_details, self.result.value) {
            (None, Some(text)) => Ok(text),
            (None, None) => Err("the page returned no text"),
            (Some(_), _) => Err("the page's harness threw an exception"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_call_is_serialized_as_the_protocol_requires() {
        let call = CallFunction::new("7.1".into(), "function f() {}")
            .argument("a")
            .argument(true);
        let expected = json!({
            "objectId": "7.1",
            "functionDeclaration": "function f() {}",
            "arguments": [{"value": "a"}, {"value": true}],
            "awaitPromise": false,
            "returnByValue": true,
            "silent": true,
        });
        assert_eq!(serde_json::to_value(call).unwrap(), expected);
    }

    #[test]
    fn a_long_text_is_several_arguments() {
        let parts = |text: &str| -> Vec<String> {
            let call = CallFunction::new("7.1".into(), "function f() {}").text(text);
            let parts = call.arguments.into_iter();
            parts
                .map(|part| part.value.as_str().unwrap().to_owned())
                .collect()
        };
        assert!(parts("").is_empty());
        assert_eq!(parts("abc"), ["abc"]);
        assert_eq!(parts(&"x".repeat(PART)).len(), 1);
        let text = format!("a{}", "\u{1f600}".repeat(PART / 2));
        assert_eq!(parts(&text).concat(), text);
        assert_eq!(parts(&text).len(), 3);
        assert!(parts(&text).iter().all(|part| part.len() <= PART));
    }

    #[test]
    fn only_a_string_is_a_result() {
        let text = |reply| -> Result<String, _> {
            serde_json::from_value::<FunctionReturned>(reply)
                .map_err(|_| "no reply")?
                .into_text()
        };
        let string = json!({"type": "string", "value": "a"});
        assert_eq!(text(json!({"result": string})), Ok("a".to_owned()));
        assert!(text(json!({"result": {"type": "undefined"}})).is_err());
        assert!(text(json!({"result": {"type": "number", "value": 1}})).is_err());
        let thrown = json!({"text": "Uncaught", "lineNumber": 1, "columnNumber": 2});
        assert!(text(json!({"result": string, "exceptionDetails": thrown})).is_err());
    }
}
