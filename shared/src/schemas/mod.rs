//! Checks the arguments and results of contracts by their JSON Schemas.
//!
//! Schemas come from the authors of contracts, who may be hostile, and are compiled and applied
//! beside the calls of everybody else. So nothing here depends on what a schema looks like: its
//! size, nesting and regular expressions are bounded when it is compiled ([`rules`]), and what one
//! check may cost is bounded while it runs ([`meter`]). Nothing is ever fetched.
//!
//! The api compiles what a load brings along, and checks calls; the worker compiles what a contract
//! provides itself.

mod check;
mod meter;
mod metered;
mod rules;

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

pub use self::check::{Check, Rejection, Violation};

/// The most bytes of a contract's schemas, as JSON text.
pub const TEXT_LIMIT: usize = 64 << 10;

/// The stack of the thread that compiles. A chain of references takes some for each of its links.
const COMPILER_STACK: usize = 64 << 20;

/// Why schemas are refused. The text names the method and the place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidSchemas(String);

/// The compiled schemas of one contract.
#[derive(Debug)]
pub struct Schemas {
    methods: HashMap<String, MethodSchemas>,
}

#[derive(Debug, Default)]
struct MethodSchemas {
    argument: Option<Check>,
    result: Option<Check>,
}

/// What a contract says about one method.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Declared {
    argument: Option<Value>,
    result: Option<Value>,
}

impl Schemas {
    /// Compiles the schemas of a contract. Takes some milliseconds at most; it must not be called
    /// on a thread that serves calls.
    ///
    /// ```
    /// use shared::schemas::Schemas;
    ///
    /// let text = r#"{"add": {"argument": {"type": "object", "required": ["a"]}}}"#;
    /// let schemas = Schemas::compile(text)?;
    /// let check = schemas.argument("add").ok_or("it has one")?;
    /// assert!(check.check(r#"{"a": 1}"#).is_ok());
    /// assert!(check.check("{}").is_err());
    /// assert!(Schemas::compile(r#"{"add": {"argument": {"type": "sum"}}}"#).is_err());
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn compile(text: &str) -> Result<Self, InvalidSchemas> {
        if text.len() > TEXT_LIMIT {
            return Err(InvalidSchemas(format!("have more than {TEXT_LIMIT} bytes")));
        }
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(COMPILER_STACK);
            let running = thread.spawn_scoped(scope, || compile(text));
            let running = running.map_err(|_| busy())?;
            running.join().unwrap_or_else(|_| Err(broken()))
        })
    }

    /// About what they take in memory, in bytes.
    pub fn memory(&self) -> usize {
        let checks = self
            .methods
            .values()
            .flat_map(|method| [&method.argument, &method.result]);
        checks.flatten().map(Check::memory).sum()
    }

    /// The check of a method's arguments.
    pub fn argument(&self, method: &str) -> Option<&Check> {
        self.methods.get(method)?.argument.as_ref()
    }

    /// The check of a method's results.
    pub fn result(&self, method: &str) -> Option<&Check> {
        self.methods.get(method)?.result.as_ref()
    }
}

fn busy() -> InvalidSchemas {
    InvalidSchemas("cannot be compiled at present; try again later".to_owned())
}

fn broken() -> InvalidSchemas {
    InvalidSchemas("cannot be compiled".to_owned())
}

fn compile(text: &str) -> Result<Schemas, InvalidSchemas> {
    let not_schemas = |error: serde_json::Error| {
        InvalidSchemas(format!(
            "must be {{\"METHOD\": {{\"argument\": SCHEMA, \"result\": SCHEMA}}}}: {error}"
        ))
    };
    let declared: HashMap<String, Declared> = serde_json::from_str(text).map_err(not_schemas)?;
    let mut budget = rules::Budget::default();
    let mut methods = HashMap::with_capacity(declared.len());
    for (method, Declared { argument, result }) in declared {
        let mut compile = |schema: Option<Value>, part: &str| {
            let compiled = schema.map(|schema| Check::compile(&schema, &mut budget));
            let named = |reason| InvalidSchemas(format!("{method}.{part}{reason}"));
            compiled.transpose().map_err(named)
        };
        let schemas = MethodSchemas {
            argument: compile(argument, "argument")?,
            result: compile(result, "result")?,
        };
        methods.insert(method, schemas);
    }
    Ok(Schemas { methods })
}

#[cfg(test)]
mod tests;
