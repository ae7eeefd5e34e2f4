//! Cuts the texts that leave this process.

use std::borrow::Cow;

/// How many characters of a text leave this process, in a response or a log line. Texts hold what
/// callers and contracts wrote: a field's name, the names of endpoints, an error's message, which
/// has 2,000 characters at most and may have an explanation around it.
const TEXT_LIMIT: usize = 2200;

/// Cuts a text to [`TEXT_LIMIT`] characters.
pub(crate) fn cut(text: &str) -> Cow<'_, str> {
    if text.len() <= TEXT_LIMIT {
        return text.into();
    }
    let mut ends = text.char_indices().map(|(end, _)| end).skip(TEXT_LIMIT - 1);
    match (ends.next(), ends.next()) {
        (Some(end), Some(_)) => format!("{}…", &text[..end]).into(),
        _ => text.into(),
    }
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
}
