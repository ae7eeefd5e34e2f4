//! The form of a key as its owner has it: `esk_ID_SECRET`. The id finds the key's record, the
//! secret proves that the caller may use it.

use std::fmt::Write as _;

use rand::distr::{Alphanumeric, SampleString};
use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// What every key begins with, so that scanners for leaked secrets can find it.
const PREFIX: &str = "esk_";

/// The characters of an id: 71 bits, so that ids do not collide.
const ID_LENGTH: usize = 12;

/// The characters of a secret: 43 letters and digits have 256 bits.
const SECRET_LENGTH: usize = 43;

/// The SHA-256 of a secret.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hash([u8; 32]);

/// A new key. Whoever made it passes it on once; nothing keeps it.
pub(crate) struct Token {
    pub(crate) id: String,
    pub(crate) text: SecretString,
    pub(crate) hash: Hash,
}

/// A key that a caller sent.
pub(crate) struct Presented<'a> {
    pub(crate) id: &'a str,
    pub(crate) hash: Hash,
}

impl Hash {
    fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret.as_bytes()).into())
    }

    /// Reads what [`Self::to_hex`] has written.
    pub(crate) fn from_hex(text: &str) -> Option<Self> {
        let digits: Vec<u8> = text
            .chars()
            .map(|c| c.to_digit(16))
            .map(|digit| u8::try_from(digit?).ok())
            .collect::<Option<_>>()?;
        let (pairs, []) = digits.as_chunks::<2>() else {
            return None;
        };
        let bytes: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
        bytes.try_into().ok().map(Self)
    }

    pub(crate) fn to_hex(self) -> String {
        self.0.iter().fold(String::new(), |mut text, byte| {
            // Writing to a string does not fail.
            _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// Compares in a time that does not depend on how much is equal.
    pub(crate) fn equals(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Token {
    /// Generates a key with the random numbers of the operating system.
    pub(crate) fn generate() -> Self {
        // Without random numbers from the system nothing here could be safe: then it panics.
        let mut random = UnwrapErr(SysRng);
        let id = Alphanumeric.sample_string(&mut random, ID_LENGTH);
        let secret = Alphanumeric.sample_string(&mut random, SECRET_LENGTH);
        let hash = Hash::of(&secret);
        let text = format!("{PREFIX}{id}_{secret}").into();
        Self { id, text, hash }
    }

    /// Reads a key from a file.
    pub(crate) fn read(text: &SecretString) -> Option<Self> {
        let presented = Presented::parse(text.expose_secret())?;
        Some(Self {
            id: presented.id.to_owned(),
            hash: presented.hash,
            text: text.clone(),
        })
    }
}

impl<'a> Presented<'a> {
    /// Whether a text looks like a key rather than a token.
    pub(crate) fn has_form(text: &str) -> bool {
        text.starts_with(PREFIX)
    }

    /// Parses a key; `None` if the text has another form.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let is_plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let is_key = id.len() == ID_LENGTH && secret.len() == SECRET_LENGTH;
        (is_key && is_plain(id) && is_plain(secret)).then(|| Self {
            id,
            hash: Hash::of(secret),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_key_is_recognised() {
        let (token, other) = (Token::generate(), Token::generate());
        let text = token.text.expose_secret();
        assert_eq!(text.len(), 60);
        let presented = Presented::parse(text).unwrap();
        assert_eq!(presented.id, token.id);
        assert!(presented.hash.equals(&token.hash));
        assert!(!presented.hash.equals(&other.hash));
        let stored = Hash::from_hex(&token.hash.to_hex()).unwrap();
        assert!(stored.equals(&token.hash));
    }

    #[test]
    fn other_texts_are_no_keys() {
        let text = Token::generate().text.expose_secret().to_owned();
        let cut = text[..59].to_owned();
        let marked = format!("{}*", &text[..59]);
        for other in [
            "",
            "esk_",
            "esk_a_b",
            &cut,
            &marked,
            &text.to_uppercase(),
            &format!("{text}x"),
        ] {
            assert!(Presented::parse(other).is_none(), "{other}");
        }
        assert!(Hash::from_hex("0g").is_none() && Hash::from_hex("00").is_none());
    }
}
