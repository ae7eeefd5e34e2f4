//! The schemas of a contract's arguments and results, as they travel and are stored.
//!
//! The api puts the schemas that a load brings along into a comment behind the executable, so that
//! they are stored with it. The worker takes them out again, or the ones that the contract itself
//! provides, and records them. [`crate::schemas`] reads them.

use std::sync::Arc;

use super::source_map;
use crate::queue::blobs;

/// How the comment begins. The rest of the line is the schemas.
const COMMENT: &str = "//# contractSchemas=";

/// The schemas of one contract, as JSON text:
/// `{"METHOD": {"argument": SCHEMA, "result": SCHEMA}, ...}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaText {
    text: Arc<str>,
    digest: Arc<str>,
}

impl SchemaText {
    /// Names a text by its digest.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        let text = text.into();
        let digest = blobs::digest(text.as_bytes()).into();
        Self { text, digest }
    }

    /// The JSON text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// SHA-256 of the text, in lower-case hexadecimal. Calls name the schemas by it that their
    /// arguments were checked by.
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

/// Puts schemas behind an executable without a source map. They are the text of a JSON value, in one
/// line.
pub fn append(executable: &mut String, schemas: &str) {
    executable.push('\n');
    executable.push_str(COMMENT);
    // In JSON these are in strings only. In JavaScript they would end the comment.
    let one_line = schemas.replace('\u{2028}', r"\u2028");
    executable.push_str(&one_line.replace('\u{2029}', r"\u2029"));
}

/// The text of the schemas in an executable, which may have a source map behind them.
///
/// ```
/// use shared::protocol::schemas;
///
/// let mut executable = "{ a() {} }".to_owned();
/// assert_eq!(schemas::of(&executable), None);
/// schemas::append(&mut executable, "{}");
/// assert_eq!(schemas::of(&executable), Some("{}"));
/// assert_eq!(schemas::without(&executable), "{ a() {} }\n");
/// ```
pub fn of(executable: &str) -> Option<&str> {
    let code = source_map::without(executable).unwrap_or(executable);
    start(code).map(|start| code[start + COMMENT.len()..].trim_end())
}

/// An executable without a source map, without its schemas.
pub fn without(code: &str) -> &str {
    start(code).map_or(code, |start| &code[..start])
}

/// Where the comment begins, if it is the last line.
fn start(code: &str) -> Option<usize> {
    let start = code.trim_end().rfind(['\n', '\r']).map_or(0, |end| end + 1);
    code[start..].starts_with(COMMENT).then_some(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_are_found_before_a_source_map_only() {
        let mut executable = "a".to_owned();
        append(&mut executable, r#"{"a":{}}"#);
        let map = format!(
            "{executable}\n{}application/json,{{}}\n",
            source_map::COMMENT
        );
        for text in [&executable, &format!("{executable}\n"), &map] {
            assert_eq!(of(text), Some(r#"{"a":{}}"#), "{text}");
        }
        let code = source_map::without(&map).unwrap();
        assert_eq!(without(code), "a\n");
        let above = format!("{executable}\nb");
        assert_eq!((of(&above), without(&above)), (None, above.as_str()));
        assert_eq!((of(""), without("")), (None, ""));
    }

    #[test]
    fn schemas_stay_in_one_line_of_javascript() {
        let mut executable = "a".to_owned();
        append(
            &mut executable,
            "{\"a\":{\"description\":\"\u{2028}b\u{2029}\"}}",
        );
        let text = of(&executable).unwrap();
        assert!(text.is_ascii(), "{text}");
        let value: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(value["a"]["description"], "\u{2028}b\u{2029}");
    }

    #[test]
    fn a_text_is_named_by_its_digest() {
        let schemas = SchemaText::new("{}");
        assert_eq!(schemas.digest().len(), 64);
        assert_ne!(schemas, SchemaText::new("{ }"));
    }
}
