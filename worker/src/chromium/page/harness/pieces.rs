//! Cuts a long text into pieces for the way to a page.

/// How much of a text is sent in one message, in bytes. A browser reads one message at a time, at
/// about 8 ms for a megabyte, and the calls of its other pages wait meanwhile.
pub(crate) const PIECE: usize = 128 << 10;

/// A text that is sent piece by piece.
#[derive(Debug)]
pub(crate) struct Pieces<T> {
    text: T,
    sent: usize,
}

impl<T: AsRef<str>> Pieces<T> {
    pub(crate) fn of(text: T) -> Self {
        Self { text, sent: 0 }
    }

    /// The next piece: at most [`PIECE`] bytes, cut between characters. None at the end.
    pub(crate) fn next(&mut self) -> Option<&str> {
        let rest = &self.text.as_ref()[self.sent..];
        let piece = &rest[..rest.floor_char_boundary(PIECE)];
        self.sent += piece.len();
        (!piece.is_empty()).then_some(piece)
    }

    /// Whether every piece was returned.
    pub(crate) fn is_empty(&self) -> bool {
        self.sent == self.text.as_ref().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Vec<String> {
        let mut pieces = Pieces::of(text);
        let mut all = Vec::new();
        while let Some(piece) = pieces.next() {
            all.push(piece.to_owned());
        }
        assert!(pieces.is_empty());
        all
    }

    #[test]
    fn pieces_are_cut_between_characters_and_lose_nothing() {
        assert!(cut("").is_empty());
        assert_eq!(cut("abc"), ["abc"]);
        let text = format!("a{}", "\u{1f600}".repeat(PIECE / 3));
        let pieces = cut(&text);
        assert_eq!(pieces.concat(), text);
        assert_eq!(pieces.len(), 2);
        assert_eq!(pieces[0].len(), PIECE - 3);
        assert_eq!(cut(&"x".repeat(PIECE)).len(), 1);
        assert_eq!(cut(&"x".repeat(PIECE + 1)).len(), 2);
    }
}
