//! Reads what calls have written to their console.

use shared::protocol::job::MAX_LINES;

use super::protocol::MalformedReply;
use crate::sandbox::CallOutput;

/// The most bytes of a call's output: the harness' `OUTPUT` characters, of three bytes each.
const OUTPUT_BYTES: usize = 3 << 14;

/// The output of a call. The page keeps these bounds, unless the contract has changed the harness.
pub(super) fn read(json: &str) -> Result<CallOutput, MalformedReply> {
    let (dropped, lines, unknown): (u32, Vec<String>, u32) =
        serde_json::from_str(json).map_err(|_| MalformedReply)?;
    let bytes: usize = lines.iter().map(String::len).sum();
    if lines.len() > MAX_LINES as usize || bytes > OUTPUT_BYTES {
        return Err(MalformedReply);
    }
    Ok(CallOutput {
        dropped: dropped.into(),
        lines,
        unknown: unknown.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_read_within_its_bounds() {
        let read = |json: &str| read(json).map(|output| output.last(100));
        assert_eq!(read(r#"[0,["a","b"],0]"#).unwrap(), ["a", "b"]);
        let dropped = read(r#"[7,["a"],2]"#).unwrap();
        assert_eq!(dropped, ["(7 lines dropped)", "a"]);
        let many = serde_json::to_string(&(0, vec!["a"; 101], 0)).unwrap();
        let long = serde_json::to_string(&(0, vec!["a".repeat(50_000)], 0)).unwrap();
        let wrong = ["", "[]", r#"[0,["a"]]"#, r#"[-1,["a"],0]"#, r"[0,[1],0]"];
        for wrong in wrong.into_iter().chain([many.as_str(), &long]) {
            assert!(read(wrong).is_err(), "{wrong:.40}");
        }
    }
}
