//! The contracts that the benchmarks call, and their requests.

/// The contract at `abcd`, as in the README. Its own work is nearly nothing.
pub(crate) const ADD: &str = "{ add: ({ number1, number2 }) => number1 + number2 }";

/// As [`ADD`], with a line on the console.
pub(crate) const ADD_WITH_LINE: &str = "{ add: ({ number1, number2 }) => {
    console.log('adding', number1, number2);
    return number1 + number2;
} }";

pub(crate) const ADD_BODY: &str = r#"{"number1":1,"number2":2}"#;

pub(crate) const ECHO: &str = "{ echo: (a) => a }";

/// Answers after `ms` milliseconds.
pub(crate) const LATER: &str = "{ later: (ms) => new Promise((resolve) => {
    setTimeout(resolve, ms, null);
}) }";

/// Each call waits 50 ms, 16 calls at a time, so waiting is the limit and not computing.
pub(crate) const WAITING: &str = "
    let free = 16;
    const line = [];

    async function wait() {
        if (free > 0) free -= 1;
        else await new Promise((resolve) => line.push(resolve));
        await new Promise((resolve) => setTimeout(resolve, 50));
        const next = line.shift();
        if (next === undefined) free += 1;
        else next();
    }

    function init() {
        return { wait };
    }
";

/// A contract as [`ADD`], whose executable differs for each number.
pub(crate) fn add(number: usize) -> String {
    format!("{ADD} // {number}")
}

/// The path of a method.
pub(crate) fn path(address: &str, method: &str) -> String {
    format!("/execute/{address}/{method}")
}

/// A JSON string of `bytes` bytes.
pub(crate) fn text(bytes: usize) -> String {
    format!("\"{}\"", "x".repeat(bytes - 2))
}
