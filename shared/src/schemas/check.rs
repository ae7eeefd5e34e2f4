//! One compiled schema, and what a value lacks by it.

use jsonschema::{Draft, PatternOptions, ValidationError, Validator};
use serde_json::Value;

use super::metered::{Metered, MeteredNode};
use super::rules::Budget;
use super::{meter, rules};

/// What one check may cost; see [`meter::run`]. A fifth of a second at most.
const EFFORT: u64 = 4_000_000;

/// What a check may cost that runs between other calls on the same thread.
const QUICK: u64 = 50_000;

/// What it may cost to find more than the first violation.
const ALL_VIOLATIONS: u64 = 20_000;

/// The violations that are reported.
const REPORTED: usize = 10;

/// The most bytes of a violation's path, and of its message.
const TEXT: usize = 200;

/// The most bytes of one compiled regular expression, and of what is kept while it is matched.
const REGEX: usize = 64 << 10;

/// The check of one schema.
#[derive(Debug)]
pub struct Check(Validator<Metered>);

/// Where and why a value is not what its schema says.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Violation {
    /// The place in the value, as a JSON pointer. Empty for the whole value.
    #[cfg_attr(feature = "openapi", schema(example = "/number1"))]
    pub path: String,
    /// What is wrong there.
    pub message: String,
}

/// Why a value is rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejection {
    /// It is not what the schema says; the first violations.
    Violations(Vec<Violation>),
    /// It is JSON, but not of the kind that can be checked: it is nested deeper than 128 levels,
    /// or has a number that is out of range, or half a surrogate pair.
    Unreadable(String),
    /// The check costs more than it may.
    TooCostly,
}

impl Check {
    /// Compiles a schema. An error begins with the place in the schema.
    pub(super) fn compile(schema: &Value, budget: &mut Budget) -> Result<Self, String> {
        rules::apply(schema, budget)?;
        let patterns = PatternOptions::regex()
            .size_limit(REGEX)
            .dfa_size_limit(REGEX);
        let compiled = jsonschema::options_for::<Metered>()
            .with_draft(Draft::Draft202012)
            .should_validate_formats(false)
            .with_pattern_options(patterns)
            .offline()
            .build(schema);
        compiled.map(Self).map_err(|error| {
            let Violation { path, message } = violation(&error, |error| error.to_string());
            format!("{path}: {message}")
        })
    }

    /// Checks a JSON text. May take a fifth of a second.
    pub fn check(&self, json: &str) -> Result<(), Rejection> {
        self.check_within(json, EFFORT)
    }

    /// As [`Self::check`], but gives up after a few milliseconds.
    pub fn check_quickly(&self, json: &str) -> Result<(), Rejection> {
        self.check_within(json, QUICK)
    }

    fn check_within(&self, json: &str, effort: u64) -> Result<(), Rejection> {
        let value: Value =
            serde_json::from_str(json).map_err(|error| Rejection::Unreadable(error.to_string()))?;
        match meter::run(effort, || self.0.is_valid(MeteredNode(&value))) {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.violations(&value, effort)),
            Err(_) => Err(Rejection::TooCostly),
        }
    }

    /// What a value lacks that is not valid.
    fn violations(&self, value: &Value, effort: u64) -> Rejection {
        let described = |error: ValidationError<'_>| {
            violation(&error, |error| error.masked_with("the value").to_string())
        };
        let all = meter::run(effort.min(ALL_VIOLATIONS), || {
            let errors = self.0.iter_errors(MeteredNode(value)).take(REPORTED);
            errors.map(described).collect()
        });
        let found = all.or_else(|_| {
            let first = || self.0.validate(MeteredNode(value)).err();
            meter::run(effort, || first().map(described).into_iter().collect())
        });
        found.map_or(Rejection::TooCostly, Rejection::Violations)
    }
}

fn violation(
    error: &ValidationError<'_>,
    message: impl Fn(&ValidationError<'_>) -> String,
) -> Violation {
    Violation {
        path: cut(error.instance_path().as_str().to_owned()),
        message: cut(message(error)),
    }
}

fn cut(mut text: String) -> String {
    if text.len() > TEXT {
        text.truncate(text.floor_char_boundary(TEXT));
        text.push('…');
    }
    text
}
