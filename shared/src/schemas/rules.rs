//! What a schema may be: a JSON Schema 2020-12 that refers to nothing outside itself, and whose
//! size, nesting and regular expressions are bounded.
//!
//! What a check costs beyond that is bounded while it runs, each time that it looks at the value
//! ([`meter`](super::meter)). Here it is made sure that it does look at the value: how many
//! subschemas apply to one value without going into it, and how deep they are nested, is bounded.

use std::collections::HashMap;

use serde_json::{Map, Value};

/// The subschemas of one contract.
const SUBSCHEMAS: usize = 1000;

/// How deep subschemas may be nested.
const DEPTH: usize = 32;

/// How many subschemas may apply to one value, where each reference counts as what it refers to.
const APPLIED: u64 = 10_000;

/// How deep these may be nested.
const APPLIED_DEPTH: u64 = 64;

/// The regular expressions of one contract.
const PATTERNS: usize = 20;

/// The characters of a regular expression. What it compiles to is bounded as well.
const PATTERN: usize = 500;

/// What identifies the only supported version, if a schema names one.
const VERSION: &str = "https://json-schema.org/draft/2020-12/schema";

/// Keywords whose value is a schema: for the value itself, and for what is in it.
const ONE: [&str; 4] = ["else", "if", "not", "then"];
const ONE_INSIDE: [&str; 7] = [
    "additionalProperties",
    "contains",
    "contentSchema",
    "items",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
];

/// Keywords whose value is a list of schemas.
const LIST: [&str; 3] = ["allOf", "anyOf", "oneOf"];
const LIST_INSIDE: [&str; 1] = ["prefixItems"];

/// Keywords whose value is an object of schemas.
const MAP: [&str; 1] = ["dependentSchemas"];
const MAP_INSIDE: [&str; 4] = ["$defs", "definitions", "patternProperties", "properties"];

/// Keywords that are refused: they make names or refer to them, other than places in the same
/// schema, or they are of earlier versions, which the library applies all the same.
const REFUSED: [&str; 8] = [
    "additionalItems",
    "dependencies",
    "$anchor",
    "$dynamicAnchor",
    "$dynamicRef",
    "$id",
    "$recursiveRef",
    "$vocabulary",
];

/// What the schemas of one contract may still have.
#[derive(Debug)]
pub(super) struct Budget {
    subschemas: usize,
    patterns: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            subschemas: SUBSCHEMAS,
            patterns: PATTERNS,
        }
    }
}

/// Checks a schema against the rules, and counts its regular expressions. The error begins with the
/// place in it.
pub(super) fn apply(schema: &Value, budget: &mut Budget) -> Result<usize, String> {
    let before = budget.patterns;
    let mut walk = Walk {
        budget,
        places: HashMap::new(),
    };
    walk.schema(schema, "", 0)?;
    let mut applied = Applied {
        places: &walk.places,
        known: HashMap::new(),
    };
    walk.places
        .keys()
        .try_for_each(|place| applied.size(place).map(drop))?;
    Ok(before - walk.budget.patterns)
}

/// What applies to the same value as a subschema does: the places of other subschemas.
type Places = HashMap<String, Vec<String>>;

/// Visits every subschema.
struct Walk<'a> {
    budget: &'a mut Budget,
    /// All subschemas, by JSON pointers.
    places: Places,
}

impl Walk<'_> {
    fn schema(&mut self, schema: &Value, place: &str, depth: usize) -> Result<(), String> {
        if depth > DEPTH {
            return Err(format!("{place} is nested deeper than {DEPTH} schemas"));
        }
        take(&mut self.budget.subschemas, place, "subschemas", SUBSCHEMAS)?;
        let mut applied = Vec::new();
        match schema {
            Value::Object(keywords) => {
                self.own(keywords, place, &mut applied)?;
                for (keyword, value) in keywords {
                    let place = format!("{place}/{}", escaped(keyword));
                    self.below(keyword, value, &place, depth + 1, &mut applied)?;
                }
            }
            Value::Bool(_) => {}
            _ => {
                return Err(format!(
                    "{place} must be a schema: an object, true or false"
                ));
            }
        }
        self.places.insert(place.to_owned(), applied);
        Ok(())
    }

    /// Visits the subschemas in the value of one keyword.
    fn below(
        &mut self,
        keyword: &str,
        value: &Value,
        place: &str,
        depth: usize,
        applied: &mut Vec<String>,
    ) -> Result<(), String> {
        let (is_here, subschemas) = match value {
            Value::Array(list) => (LIST.contains(&keyword), of_list(keyword, list, place)),
            Value::Object(map) if MAP.contains(&keyword) || MAP_INSIDE.contains(&keyword) => {
                let named = map
                    .iter()
                    .map(|(name, value)| (format!("{place}/{}", escaped(name)), value));
                (MAP.contains(&keyword), named.collect())
            }
            value if ONE.contains(&keyword) || ONE_INSIDE.contains(&keyword) => {
                (ONE.contains(&keyword), vec![(place.to_owned(), value)])
            }
            _ => return Ok(()),
        };
        for (place, schema) in subschemas {
            self.schema(schema, &place, depth)?;
            if is_here {
                applied.push(place);
            }
        }
        Ok(())
    }

    /// Checks a schema's own keywords.
    fn own(
        &mut self,
        keywords: &Map<String, Value>,
        place: &str,
        applied: &mut Vec<String>,
    ) -> Result<(), String> {
        if let Some(name) = REFUSED.iter().find(|name| keywords.contains_key(**name)) {
            return Err(format!("{place}/{name} is not supported"));
        }
        if keywords
            .get("$schema")
            .is_some_and(|version| version != VERSION)
        {
            return Err(format!("{place}/$schema must be {VERSION}, or missing"));
        }
        if let Some(Value::String(reference)) = keywords.get("$ref") {
            let Some(target) = reference.strip_prefix('#') else {
                return Err(format!(
                    "{place}/$ref must begin with \"#\": nothing is fetched"
                ));
            };
            applied.push(target.to_owned());
        }
        let pattern = keywords.get("pattern").and_then(Value::as_str);
        let of_names = keywords.get("patternProperties").and_then(Value::as_object);
        let of_names = of_names.into_iter().flat_map(Map::keys).map(String::as_str);
        for pattern in pattern.into_iter().chain(of_names) {
            take(
                &mut self.budget.patterns,
                place,
                "regular expressions",
                PATTERNS,
            )?;
            if pattern.len() > PATTERN {
                return Err(format!(
                    "{place} has a regular expression of more than {PATTERN} bytes"
                ));
            }
        }
        Ok(())
    }
}

fn of_list<'a>(keyword: &str, list: &'a [Value], place: &str) -> Vec<(String, &'a Value)> {
    if !LIST.contains(&keyword) && !LIST_INSIDE.contains(&keyword) {
        return Vec::new();
    }
    let numbered = |(index, value)| (format!("{place}/{index}"), value);
    list.iter().enumerate().map(numbered).collect()
}

fn take(left: &mut usize, place: &str, what: &str, most: usize) -> Result<(), String> {
    let less = left.checked_sub(1);
    *left = less.ok_or_else(|| format!("{place}: there are more than {most} {what}"))?;
    Ok(())
}

/// Counts what applies to one value.
struct Applied<'a> {
    places: &'a Places,
    /// Of each subschema: how many apply with it, and how deep they are nested. None while it is
    /// being counted.
    known: HashMap<&'a str, Option<(u64, u64)>>,
}

impl<'a> Applied<'a> {
    fn size(&mut self, place: &'a str) -> Result<(u64, u64), String> {
        match self.known.get(place) {
            Some(Some(size)) => return Ok(*size),
            Some(None) => {
                return Err(format!(
                    "{place} refers to itself without going into the value"
                ));
            }
            None => {}
        }
        let others = self.places.get(place);
        let others = others.ok_or_else(|| format!("#{place} is no subschema of this schema"))?;
        self.known.insert(place, None);
        let (mut count, mut depth) = (1_u64, 1_u64);
        for other in others {
            let (its_count, its_depth) = self.size(other)?;
            count = count.saturating_add(its_count);
            depth = depth.max(its_depth + 1);
        }
        if count > APPLIED || depth > APPLIED_DEPTH {
            return Err(format!(
                "{place}: more than {APPLIED} subschemas apply to one value, or more than \
                 {APPLIED_DEPTH} within each other"
            ));
        }
        self.known.insert(place, Some((count, depth)));
        Ok((count, depth))
    }
}

/// A part of a JSON pointer.
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}
