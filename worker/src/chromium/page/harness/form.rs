//! How an executable begins: what comes before its first statement, and whether that may be an
//! expression.

use shared::protocol::{schemas, source_map};

use crate::chromium::cdp::commands::Place;

/// What the harness puts before an executable that may be an expression; spaces of that length if
/// it is none. Its `SET_VALUE`.
const SET_VALUE: &str = "$executable$=";

/// An executable, cut before its first statement.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Executable<'a> {
    /// A byte order mark, a hashbang, comments and directives such as `"use strict"`.
    pub(crate) head: String,
    /// The executable from its first statement on, without schemas and a source map in it.
    pub(crate) body: &'a str,
    pub(crate) has_source_map: bool,
}

impl<'a> Executable<'a> {
    pub(crate) fn of(source: &'a str) -> Self {
        let source = source.trim_start_matches('\u{feff}');
        // A hashbang is allowed in the first line of a file only. As a comment it has its length.
        let (start, rest) = match source.strip_prefix("#!") {
            Some(rest) => ("//", after_line(rest)),
            None => ("", source),
        };
        let body = without_prologue(rest);
        let head = &source[..source.len() - body.len()];
        let code = source_map::without(body);
        Self {
            head: format!("{start}{}", &head[start.len()..]),
            body: schemas::without(code.unwrap_or(body)),
            has_source_map: code.is_some(),
        }
    }

    /// Whether the executable may be an expression, such as an object literal: whether its first
    /// statement begins with a brace or a parenthesis.
    pub(crate) fn may_be_expression(&self) -> bool {
        self.body.starts_with(['{', '('])
    }

    /// Where the places of what the harness runs are in the executable.
    pub(crate) fn offsets(&self) -> Offsets {
        self.offsets_behind(if self.may_be_expression() {
            SET_VALUE
        } else {
            ""
        })
    }

    /// A place in the executable, from the place in what the harness' `locate` compiles. None if
    /// it is not in the executable.
    pub(crate) fn place(&self, compiled: Place) -> Option<Place> {
        let before = if self.may_be_expression() {
            "throw 0;0,"
        } else {
            "throw 0;"
        };
        let column = self
            .offsets_behind(before)
            .column(compiled.line, compiled.column)?;
        Some(Place { column, ..compiled })
    }

    /// The offsets if this text is put before the body.
    fn offsets_behind(&self, inserted: &str) -> Offsets {
        let last_line = self.head.rsplit(is_line_end).next().unwrap_or_default();
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Offsets {
            line: number(line_ends(&self.head)),
            column: number(last_line.encode_utf16().count()),
            inserted: number(inserted.len()),
        }
    }
}

/// Where places in a compiled text are in the executable: the text has something in addition,
/// before the executable's body.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Offsets {
    /// Where the body begins, counted from zero, in UTF-16 units.
    line: u32,
    column: u32,
    /// The length of what is before it.
    inserted: u32,
}

impl Offsets {
    /// The column in the executable, both counted from zero. None for a place that is in what was
    /// added.
    pub(crate) fn column(self, line: u32, column: u32) -> Option<u32> {
        if line == self.line && column >= self.column {
            let column = column.checked_sub(self.inserted)?;
            (column >= self.column).then_some(column)
        } else {
            Some(column)
        }
    }
}

const fn is_line_end(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{2028}' | '\u{2029}')
}

fn line_ends(text: &str) -> usize {
    text.matches(is_line_end).count() - text.matches("\r\n").count()
}

/// The text from the end of its first line on.
fn after_line(text: &str) -> &str {
    text.find(is_line_end).map_or("", |end| &text[end..])
}

/// The text without the spaces, comments and directives that it begins with.
fn without_prologue(text: &str) -> &str {
    let mut rest = text;
    loop {
        let trimmed = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
        rest = if trimmed.starts_with("//") || trimmed.starts_with("<!--") {
            after_line(trimmed)
        } else if let Some(comment) = trimmed.strip_prefix("/*") {
            comment.split_once("*/").map_or("", |(_, after)| after)
        } else if let Some(after) = without_directive(trimmed) {
            after
        } else {
            return trimmed;
        };
    }
}

/// The text after the directive `"use strict"` that it begins with.
fn without_directive(text: &str) -> Option<&str> {
    let after = ["\"use strict\"", "'use strict'"]
        .iter()
        .find_map(|directive| text.strip_prefix(directive))?;
    if let Some(after) = after.trim_start_matches([' ', '\t']).strip_prefix(';') {
        return Some(after);
    }
    // Without a semicolon, only a line break ends it, and not before what continues it.
    let next = after.trim_start_matches([' ', '\t']);
    let continues = |next: &str| {
        next.trim_start()
            .starts_with(['(', '[', '`', '.', ',', '?'])
    };
    (next.starts_with(is_line_end) && !continues(next)).then_some(after)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_executable_is_cut_before_its_first_statement() {
        let table = [
            ("{}", "", "{}"),
            ("", "", ""),
            ("\u{feff}{}", "", "{}"),
            (" \u{feff}\n{", " \u{feff}\n", "{"),
            ("// a\n/* b { */ {}", "// a\n/* b { */ ", "{}"),
            ("//\r{", "//\r", "{"),
            ("/**/{", "/**/", "{"),
            ("// {", "// {", ""),
            ("/* {", "/* {", ""),
            (
                "\u{feff}#!/usr/bin/env node\n({})",
                "///usr/bin/env node\n",
                "({})",
            ),
            ("#!x", "//x", ""),
            ("<!-- x\n{}", "<!-- x\n", "{}"),
            ("'use strict'; {}", "'use strict'; ", "{}"),
            ("\"use strict\";\n({});", "\"use strict\";\n", "({});"),
            ("// a\n'use strict'\n{}", "// a\n'use strict'\n", "{}"),
            ("'use strict'\n(1)", "", "'use strict'\n(1)"),
            ("'use strict' + 1", "", "'use strict' + 1"),
            ("const a = {}", "", "const a = {}"),
        ];
        for (source, head, body) in table {
            let expected = Executable {
                head: head.to_owned(),
                body,
                has_source_map: false,
            };
            assert_eq!(Executable::of(source), expected, "{source:?}");
        }
    }

    #[test]
    fn what_begins_with_a_bracket_may_be_an_expression() {
        for source in ["{}", "(x)", "// a\n{", "'use strict'; ({})"] {
            assert!(Executable::of(source).may_be_expression(), "{source:?}");
        }
        for source in ["", "function init() {}", "// {", "let a = {}", "[]"] {
            assert!(!Executable::of(source).may_be_expression(), "{source:?}");
        }
    }

    #[test]
    fn places_are_those_in_the_source() {
        let place = |source, line, column| {
            let place = Executable::of(source).place(Place { line, column })?;
            Some((place.line, place.column))
        };
        assert_eq!(place("{ f: ) }", 0, 15), Some((0, 5)));
        assert_eq!(place("let a = ;", 0, 16), Some((0, 8)));
        assert_eq!(place("// x\r\n{ f: ) }", 1, 15), Some((1, 5)));
        assert_eq!(place("/* \u{1f600} */ { f: ) }", 0, 24), Some((0, 14)));
        assert_eq!(place("{\n) }", 1, 0), Some((1, 0)));
        assert_eq!(place("{", 0, 3), None);
    }

    proptest! {
        #[test]
        fn no_source_makes_the_cut_panic(source in "(#!|//|/\\*|<!--|'use strict'|;|\\{|\\PC|\n|\u{feff}){0,12}") {
            let executable = Executable::of(&source);
            let whole = executable.head.clone() + executable.body;
            let marks = 3 * source.matches('\u{feff}').count();
            prop_assert!(source.len() - whole.len() <= marks);
            executable.place(Place { line: 1, column: 3 });
        }
    }
}
