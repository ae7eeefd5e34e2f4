//! The command that is sent for every batch of calls.

use chromiumoxide_types::{Command, Method, MethodId};
use serde::{Deserialize, Serialize};

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
