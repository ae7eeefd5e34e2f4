//! Reads the stacks of errors: which places of the executable the calls in them are at.
//!
//! A stack is a text that the contract may have written itself. So it can only name places; what
//! does not look like one is left out.

use shared::protocol::reply::{Stack, StackEntry};

use super::form::Offsets;

/// How the harness names the executable in stacks; its `URL_COMMENT`.
const NAME: &str = "contract.js:";

/// The lines that `Function` puts before the body that it is given.
const WRAPPER_LINES: u32 = 2;

/// Names that V8 gives to functions without a name, and to the executable itself.
const NAMELESS: [&str; 3] = ["", "eval", "<anonymous>"];

/// The entries of a stack that are in the executable, innermost first. A harness' own functions and
/// the engine's are left out.
pub(crate) fn read(text: &str, offsets: Offsets) -> Vec<StackEntry> {
    text.lines()
        .filter_map(|line| entry(line, offsets))
        .take(Stack::MOST_ENTRIES)
        .collect()
}

/// Reads `    at FUNCTION (contract.js:LINE:COLUMN)`, or without a function.
fn entry(line: &str, offsets: Offsets) -> Option<StackEntry> {
    let call = line.strip_prefix("    at ")?;
    let call = call.strip_prefix("async ").unwrap_or(call);
    let with_function = call
        .strip_suffix(')')
        .and_then(|call| call.rsplit_once(" ("));
    let (function, place) = with_function.unwrap_or(("", call));
    let (line, column) = place.strip_prefix(NAME)?.split_once(':')?;
    let line = line.parse::<u32>().ok()?.checked_sub(1 + WRAPPER_LINES)?;
    let column = column.parse::<u32>().ok()?.checked_sub(1)?;
    let column = offsets.column(line, column)?;
    let function = (!NAMELESS.contains(&function)).then(|| function.to_owned());
    Some(StackEntry::new(function, line + 1, column + 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::form::Executable;
    use super::*;

    fn places(source: &str, stack: &str) -> Vec<(Option<String>, u32, u32)> {
        let offsets = Executable::of(source).offsets();
        let entries = read(stack, offsets).into_iter();
        entries
            .map(|entry| (entry.function, entry.line, entry.column))
            .collect()
    }

    #[test]
    fn the_calls_in_the_executable_are_read() {
        let stack = "    at deep (contract.js:3:26)\n    at async Object.f (contract.js:4:1)\n    \
                     at eval (contract.js:5:3)\n    at contract.js:6:2\n    \
                     at Array.map (<anonymous>)\n    at start (<anonymous>:486:21)\n    \
                     at eval (eval at f (contract.js), <anonymous>:3:7)";
        let expected = [
            (Some("deep".to_owned()), 1, 26),
            (Some("Object.f".to_owned()), 2, 1),
            (None, 3, 3),
            (None, 4, 2),
        ];
        assert_eq!(places("function init() {}", stack), expected);
    }

    #[test]
    fn places_are_those_in_the_source() {
        let stack = "    at f (contract.js:4:20)";
        assert_eq!(places("// a\n{ f() { x } }", stack)[0].2, 7);
        assert_eq!(places("// a\nfunction f() {}", stack)[0].2, 20);
        assert_eq!(places("{ f() { x } }", stack)[0].2, 20);
    }

    #[test]
    fn a_forged_stack_names_at_most_places() {
        for stack in [
            "    at f (contract.js:1:1)",
            "    at f (contract.js:9999999999:1)",
            "    at f (contract.js:3:0)",
            "    at f (contract.js:3)",
            "    at f (http://example.com/contract.js:3:1)",
            "at f (contract.js:3:1)",
        ] {
            assert!(places("{}", stack).is_empty(), "{stack}");
        }
        let long = format!("    at {} (contract.js:9:9)\n", "ä".repeat(1000)).repeat(50);
        let found = places("{}", &long);
        assert_eq!(found.len(), Stack::MOST_ENTRIES);
        assert!(
            found
                .iter()
                .all(|(name, ..)| name.as_ref().unwrap().len() <= 100)
        );
    }

    proptest! {
        #[test]
        fn no_stack_makes_the_reader_panic(stack in "(    at |contract.js|[():0-9 \n]|\\PC){0,40}") {
            places("{}", &stack);
        }
    }
}
