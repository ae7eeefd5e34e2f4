//! One compiled schema, and what a value lacks by it.

use std::time::Duration;

use jsonschema::{Draft, PatternOptions, ValidationError, Validator};
use serde_json::Value;

use super::metered::{Metered, MeteredNode};
use super::rules::Budget;
use super::{meter, rules};

/// What one check may cost. Finding out what is wrong may cost as much again, twice.
const EFFORT: meter::Budget = meter::Budget {
    looks: 4_000_000,
    time: Duration::from_millis(200),
};

/// What a check may cost that runs between other calls on the same thread.
const QUICK: meter::Budget = meter::Budget {
    looks: 50_000,
    time: Duration::from_millis(2),
};

/// The violations that are reported.
const REPORTED: usize = 10;

/// The most bytes of a violation's path, and of its message.
const TEXT: usize = 200;

/// The sizes of compiled regular expressions, in bytes. The first that is enough for all of a
/// schema's is taken, the last is the limit.
const REGEX_SIZES: [usize; 5] = [1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10];

/// A regular expression of this many bytes takes up to 1 ns for each byte of a text: 8 µs were
/// measured for `(x{1,30}){1,20}y`, which takes 64 KiB.
const SIZE_PER_NS: usize = 8;

/// What a check takes in memory for each byte of its schema.
const MEMORY_PER_BYTE: usize = 30;

/// The check of one schema.
#[derive(Debug)]
pub struct Check {
    validator: Validator<Metered>,
    /// How long reading a byte of a text may take, in nanoseconds; see [`meter::run`].
    byte_ns: u64,
    /// About what it takes in memory, in bytes.
    memory: usize,
}

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
        let patterns = rules::apply(schema, budget)?;
        let mut refused = String::new();
        for size in REGEX_SIZES {
            let byte_ns = if patterns == 0 { 0 } else { size / SIZE_PER_NS };
            match build(schema, size) {
                Ok(validator) => {
                    return Ok(Self {
                        validator,
                        byte_ns: byte_ns as u64,
                        memory: MEMORY_PER_BYTE * schema.to_string().len()
                            + 2 * patterns * (size + regex_cache(size)),
                    });
                }
                Err(error) => refused = error,
            }
            if patterns == 0 {
                break;
            }
        }
        Err(refused)
    }

    /// About what it takes in memory, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.memory
    }

    /// Checks a JSON text. May take a fifth of a second.
    pub fn check(&self, json: &str) -> Result<(), Rejection> {
        self.check_within(json, EFFORT)
    }

    /// As [`Self::check`], but gives up after a few milliseconds.
    pub fn check_quickly(&self, json: &str) -> Result<(), Rejection> {
        self.check_within(json, QUICK)
    }

    /// Whether [`Self::check_quickly`] accepts a text. Does not find out what is wrong with it.
    pub fn is_quickly_valid(&self, json: &str) -> bool {
        let Ok(value) = serde_json::from_str(json) else {
            return false;
        };
        self.is_valid(&value, QUICK) == Ok(true)
    }

    fn is_valid(&self, value: &Value, effort: meter::Budget) -> Result<bool, meter::Stopped> {
        meter::run(effort, self.byte_ns, || {
            self.validator.is_valid(MeteredNode(value))
        })
    }

    fn check_within(&self, json: &str, effort: meter::Budget) -> Result<(), Rejection> {
        let value: Value =
            serde_json::from_str(json).map_err(|error| Rejection::Unreadable(error.to_string()))?;
        match self.is_valid(&value, effort) {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.violations(&value, effort)),
            Err(_) => Err(Rejection::TooCostly),
        }
    }

    /// What a value lacks that is not valid.
    fn violations(&self, value: &Value, effort: meter::Budget) -> Rejection {
        let described = |error: ValidationError<'_>| {
            violation(&error, |error| error.masked_with("the value").to_string())
        };
        let all = || {
            let errors = self.validator.iter_errors(MeteredNode(value));
            errors.take(REPORTED).map(described).collect()
        };
        let first = || {
            let error = self.validator.validate(MeteredNode(value)).err();
            error.map(described).into_iter().collect()
        };
        let found = meter::run(effort, self.byte_ns, all);
        let found = found.or_else(|_| meter::run(effort, self.byte_ns, first));
        found.map_or(Rejection::TooCostly, |mut violations: Vec<Violation>| {
            // The validator's own order is not the same in every build.
            violations.sort_by(|a, b| (&a.path, &a.message).cmp(&(&b.path, &b.message)));
            Rejection::Violations(violations)
        })
    }
}

/// How many bytes a thread keeps while it matches a regular expression of this size, and as many
/// while it matches it backwards. With less, ordinary ones take longer.
fn regex_cache(size: usize) -> usize {
    (4 * size).clamp(8 << 10, 64 << 10)
}

/// Compiles a schema whose regular expressions have at most `size` bytes.
fn build(schema: &Value, size: usize) -> Result<Validator<Metered>, String> {
    let patterns = PatternOptions::regex()
        .size_limit(size)
        .dfa_size_limit(regex_cache(size));
    let compiled = jsonschema::options_for::<Metered>()
        .with_draft(Draft::Draft202012)
        .should_validate_formats(false)
        .with_pattern_options(patterns)
        .offline()
        .build(schema);
    compiled.map_err(|error| {
        let Violation { path, message } = violation(&error, |error| error.to_string());
        format!("{path}: {message}")
    })
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
