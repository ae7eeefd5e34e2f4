//! Texts that leave this process, in a response or a log line: they are cut, and credentials in
//! them are masked. Texts hold what callers wrote, and some write a key where it does not belong.

use std::borrow::Cow;

/// How many characters of a text leave this process. Texts hold what callers and contracts wrote: a
/// field's name, the names of endpoints, an error's message, which has 2,000 characters at most and
/// may have an explanation around it.
const TEXT_LIMIT: usize = 2200;

/// How a key begins. Its id follows, and then its secret.
const KEY: &str = "esk_";

/// How a token (JWT) begins: its header is a JSON object in base64. Its signature comes last.
const TOKEN: &str = "eyJ";

/// The characters of keys and tokens.
fn is_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}

/// Cuts a text to [`TEXT_LIMIT`] characters, and masks secrets in it.
pub(crate) fn cut(text: &str) -> Cow<'_, str> {
    match masked(text) {
        Cow::Borrowed(text) => shortened(text),
        Cow::Owned(text) => shortened(&text).into_owned().into(),
    }
}

fn shortened(text: &str) -> Cow<'_, str> {
    if text.len() <= TEXT_LIMIT {
        return text.into();
    }
    let mut ends = text.char_indices().map(|(end, _)| end).skip(TEXT_LIMIT - 1);
    match (ends.next(), ends.next()) {
        (Some(end), Some(_)) => format!("{}…", &text[..end]).into(),
        _ => text.into(),
    }
}

/// The text with the secret of every key, and the signature of every token, replaced.
fn masked(text: &str) -> Cow<'_, str> {
    let (mut safe, mut rest) = (String::new(), text);
    while let Some(start) = [KEY, TOKEN].iter().filter_map(|mark| rest.find(mark)).min() {
        let (before, credential) = rest.split_at(start);
        let end = credential.find(|c| !is_part(c)).unwrap_or(credential.len());
        let (credential, after) = credential.split_at(end);
        safe.push_str(before);
        safe.push_str(public_part(credential));
        if public_part(credential).len() < credential.len() {
            safe.push_str("***");
        }
        rest = after;
    }
    if safe.is_empty() {
        return rest.into();
    }
    (safe + rest).into()
}

/// What anybody may see of a credential: the id of a key, header and claims of a token.
fn public_part(credential: &str) -> &str {
    let secret = if let Some(key) = credential.strip_prefix(KEY) {
        key.find('_').map(|at| KEY.len() + at)
    } else {
        let has_claims = credential.matches('.').count() > 1;
        has_claims.then(|| credential.rfind('.')).flatten()
    };
    secret.map_or(credential, |at| &credential[..=at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        for character in ["a", "ü"] {
            let longest = character.repeat(TEXT_LIMIT);
            assert_eq!(cut(&longest), longest);
            let end = format!("{character}…");
            let text = character.repeat(TEXT_LIMIT + 1);
            let cut = cut(&text);
            assert!(cut.ends_with(&end), "{cut}");
            assert_eq!(cut.chars().count(), TEXT_LIMIT);
        }
    }

    #[test]
    fn credentials_are_masked() {
        for (text, safe) in [
            (
                "a key esk_abc_SECRET, and more",
                "a key esk_abc_***, and more",
            ),
            ("/contracts/esk_abc_SECRET", "/contracts/esk_abc_***"),
            ("esk_a_ONE esk_b_TWO", "esk_a_*** esk_b_***"),
            ("\"eyJh.eyJz.SIG-na_ture\"", "\"eyJh.eyJz.***\""),
            ("eyJh.eyJz.", "eyJh.eyJz."),
            ("esk_", "esk_"),
            ("desk_lamp is a name", "desk_lamp is a name"),
            ("esk_ü", "esk_ü"),
            ("heyJude", "heyJude"),
            ("nothing", "nothing"),
        ] {
            assert_eq!(cut(text), safe, "{text}");
        }
    }
}
