//! Commands of Chromium's debugging protocol: their deadlines, and the one that is sent for every
//! batch of calls. What is said with them belongs to their senders.

use std::borrow::Cow;
use std::fmt::Display;
use std::time::Duration;

use chromiumoxide::types::{Command, Method, MethodId};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

/// How long a command may take that does not depend on a contract's code. Chromium leaves a
/// command unanswered when its page goes away, and chromiumoxide then waits for half a minute.
pub(crate) const COMMAND_LIMIT: Duration = Duration::from_secs(5);

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    /// No answer in time.
    #[error("{0} was not answered within {1:?}")]
    Silent(Cow<'static, str>, Duration),
    /// The browser refused it, or is gone.
    #[error("{0}: {1}")]
    Refused(Cow<'static, str>, String),
    /// The process of a page ended before the page was made; another may fare better.
    #[error("a page's process ended while it was made")]
    Stillborn,
}

/// Awaits a command, but not for ever.
pub(crate) async fn within<T, E: Display>(
    limit: Duration,
    name: impl Into<Cow<'static, str>>,
    command: impl Future<Output = Result<T, E>>,
) -> Result<T, Trouble> {
    match timeout(limit, command).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Trouble::Refused(name.into(), error.to_string())),
        Err(_) => Err(Trouble::Silent(name.into(), limit)),
    }
}

/// `Runtime.callFunctionOn` with strings for arguments and a string for a result.
///
/// Leaner than the generated command: this one is the way of every call and every result.
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

    /// The function gives a promise: the answer is what it settles to.
    pub(crate) fn awaiting(self) -> Self {
        Self {
            await_promise: true,
            ..self
        }
    }

    /// With one more argument.
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

/// What a function gave back.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FunctionReturned {
    result: ReturnedValue,
    exception_details: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct ReturnedValue {
    value: Option<String>,
}

impl FunctionReturned {
    /// The string, if it is one. The harness' functions do not throw; what does is a stack that the
    /// contract filled, or an end from outside.
    pub(crate) fn into_text(self) -> Result<String, &'static str> {
        match (self.exception_details, self.result.value) {
            (None, Some(text)) => Ok(text),
            (None, None) => Err("the page answered nothing"),
            (Some(_), _) => Err("the page's harness threw"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_call_is_written_as_the_protocol_wants_it() {
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
        let text = |answer| -> Result<String, _> {
            serde_json::from_value::<FunctionReturned>(answer)
                .map_err(|_| "no answer")?
                .into_text()
        };
        let string = json!({"type": "string", "value": "a"});
        assert_eq!(text(json!({"result": string})), Ok("a".to_owned()));
        assert!(text(json!({"result": {"type": "undefined"}})).is_err());
        assert!(text(json!({"result": {"type": "number", "value": 1}})).is_err());
        assert!(text(json!({"result": string, "exceptionDetails": {"text": "Uncaught"}})).is_err());
    }
}
