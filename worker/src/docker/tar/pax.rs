//! The records of a PAX extended header, as far as they matter for what a file takes on disk.

/// The records of one file.
#[derive(Debug, Default)]
pub(super) struct Records {
    /// Replaces the name in the header.
    pub(super) path: Option<Vec<u8>>,
    /// Replaces the size in the header.
    pub(super) size: Option<u64>,
    /// The size of a sparse file, with its holes.
    pub(super) sparse_size: Option<u64>,
    /// The name of a sparse file.
    pub(super) sparse_name: Option<Vec<u8>>,
}

impl Records {
    /// None if a record or a number is wrong.
    pub(super) fn parse(mut body: &[u8]) -> Option<Self> {
        let mut records = Self::default();
        while !body.is_empty() {
            let (key, value, rest) = split_record(body)?;
            body = rest;
            // An empty value stands for the one in the header.
            let text = || (!value.is_empty()).then(|| value.to_vec());
            match key {
                b"path" => records.path = text(),
                b"GNU.sparse.name" => records.sparse_name = text(),
                b"size" if value.is_empty() => records.size = None,
                b"size" => records.size = Some(decimal(value)?),
                // Which one counts depends on the version of the format.
                b"GNU.sparse.size" | b"GNU.sparse.realsize" if !value.is_empty() => {
                    records.sparse_size = records.sparse_size.max(Some(decimal(value)?));
                }
                _ => {}
            }
        }
        Some(records)
    }
}

/// Splits off the first record: `LENGTH KEY=VALUE\n`. The length counts all of it.
fn split_record(body: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = body.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&body[..space])?).ok()?;
    let (record, rest) = body.split_at_checked(length)?;
    let text = record.strip_suffix(b"\n")?.get(space + 1..)?;
    let equals = text.iter().position(|byte| *byte == b'=')?;
    Some((&text[..equals], &text[equals + 1..], rest))
}

fn decimal(digits: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_plain)
}
