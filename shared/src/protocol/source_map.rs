//! The source map in an executable: a comment in its last line, as compilers write it.
//!
//! The api puts the map that a load brings along into such a comment, so that it is stored with the
//! executable. It applies the map to the stacks of errors. The worker leaves it out of the page.

/// How the comment begins. The rest of the line is a data URL.
pub const COMMENT: &str = "//# sourceMappingURL=data:";

/// Where the last line's comment begins, if there is one.
fn start(executable: &str) -> Option<usize> {
    let start = executable.trim_end().rfind(COMMENT)?;
    let is_line = start == 0 || executable[..start].ends_with(['\n', '\r']);
    let is_last = !executable[start..].trim_end().contains(['\n', '\r']);
    (is_line && is_last).then_some(start)
}

/// The executable without its source map; none if it has none.
///
/// ```
/// use shared::protocol::source_map;
///
/// let executable = "{ a() {} }\n//# sourceMappingURL=data:application/json,{}\n";
/// assert_eq!(source_map::without(executable), Some("{ a() {} }\n"));
/// assert_eq!(source_map::without("{ a() {} }"), None);
/// ```
pub fn without(executable: &str) -> Option<&str> {
    start(executable).map(|start| &executable[..start])
}

/// The data URL of the source map, after its `data:`.
///
/// ```
/// use shared::protocol::source_map;
///
/// let executable = "{ a() {} }\n//# sourceMappingURL=data:application/json,{}\n";
/// assert_eq!(source_map::of(executable), Some("application/json,{}"));
/// ```
pub fn of(executable: &str) -> Option<&str> {
    start(executable).map(|start| executable[start + COMMENT.len()..].trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_line_is_a_source_map() {
        let comment = format!("{COMMENT}application/json;base64,e30=");
        for executable in [
            format!("{comment}\n{{ a() {{}} }}"),
            format!("{{ a: () => `{comment}` }}"),
            "//# sourceMappingURL=a.js.map".to_owned(),
            String::new(),
        ] {
            assert_eq!(without(&executable), None, "{executable}");
            assert_eq!(of(&executable), None, "{executable}");
        }
        for end in ["", "\n", "\r\n\n"] {
            let executable = format!("a\r{comment}{end}");
            assert_eq!(without(&executable), Some("a\r"));
            assert_eq!(of(&executable), Some("application/json;base64,e30="));
        }
    }
}
