//! Executables as clients write them: plain or in base64, with a source map or without.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use shared::protocol::image::{is_id, is_reference};
use shared::protocol::{schemas, source_map};

use crate::error::ApiError;

/// The standard alphabet. Padding is optional, because encoders differ in it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The length of the longest image reference in base64, with room for spaces around it. A longer
/// text is a tar.
const ENCODED_REFERENCE_LIMIT: usize = 2048;

/// Decodes a JavaScript executable, and puts its schemas and its source map into it, if there are
/// any.
pub(super) fn javascript(
    executable: String,
    schemas: Option<&str>,
    map: Option<&str>,
) -> Result<String, ApiError> {
    let mut source = plain(executable)?;
    if schemas.is_none() && map.is_none() {
        return Ok(source);
    }
    let code = source_map::without(&source).map(str::len);
    let map = match map {
        Some(map) => Some(format!("application/json;base64,{}", BASE64.encode(map))),
        None => source_map::of(&source).map(str::to_owned),
    };
    source.truncate(code.unwrap_or(source.len()));
    if let Some(schemas) = schemas {
        schemas::append(&mut source, schemas);
    }
    if let Some(map) = map {
        let comment = source_map::COMMENT;
        // Writing to a string cannot fail.
        _ = writeln!(source, "\n{comment}{map}");
    }
    Ok(source)
}

/// Normalises a docker executable, and puts its schemas behind it, if there are any.
///
/// It is an image reference, plain or in base64, or a tar, which stays in base64 until a worker
/// unpacks it. An encoded reference cannot be mistaken for a plain one: it
/// contains upper-case letters. Which references are allowed is the workers' decision; an id is
/// none, wherever the contract is placed.
pub(super) fn image(executable: &str, schemas: Option<&str>) -> Result<String, ApiError> {
    let mut image = image_of(executable)?;
    if let Some(schemas) = schemas {
        schemas::append(&mut image, schemas);
    }
    Ok(image)
}

fn image_of(executable: &str) -> Result<String, ApiError> {
    let trimmed = executable.trim();
    if is_reference(trimmed) {
        return reference(trimmed);
    }
    let text = base64_text(executable);
    if text.len() > ENCODED_REFERENCE_LIMIT {
        return Ok(text);
    }
    match BASE64.decode(&text).map(String::from_utf8) {
        Ok(Ok(decoded)) if is_reference(decoded.trim()) => reference(decoded.trim()),
        _ => Ok(text),
    }
}

fn reference(text: &str) -> Result<String, ApiError> {
    if is_id(text) {
        return Err(ApiError::InvalidExecutable(format!(
            "{text} is the id of an image. Use a reference, such as registry/name:tag"
        )));
    }
    Ok(text.to_owned())
}

/// Decodes base64. No flag is needed: a JavaScript source always contains a character outside
/// base64's alphabets, because a contract has a bracket.
fn plain(executable: String) -> Result<String, ApiError> {
    // Nearly always, so that a large source is not copied.
    let source = executable.trim_start_matches('\u{feff}');
    if !source
        .bytes()
        .all(|b| b.is_ascii_whitespace() || is_base64(b))
    {
        return Ok(executable);
    }
    let refused = |reason: &dyn std::fmt::Display| {
        ApiError::InvalidExecutable(format!(
            "The executable is neither JavaScript nor JavaScript in base64: {reason}"
        ))
    };
    let decoded = BASE64.decode(base64_text(source));
    let decoded = decoded.map_err(|error| refused(&error))?;
    String::from_utf8(decoded).map_err(|_| refused(&"what it encodes is not UTF-8 text"))
}

/// Base64 in its standard alphabet, without spaces. Many encoders write the URL-safe alphabet.
fn base64_text(text: &str) -> String {
    let standard = |c| match c {
        '-' => '+',
        '_' => '/',
        other => other,
    };
    let visible = text.chars().filter(|c| !c.is_ascii_whitespace());
    visible.map(standard).collect()
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'-' | b'_')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn base64_and_plain_are_the_same_contract() {
        let source = "{ add: ({a, b}) => a + b, ü: () => 'ü' }";
        let padded = base64::prelude::BASE64_STANDARD.encode(source);
        let wrapped: String = padded.chars().flat_map(|c| [c, '\n']).collect();
        for text in [&padded, padded.trim_end_matches('='), &wrapped, source] {
            assert_eq!(plain(text.to_owned()).unwrap(), source);
        }
    }

    #[test]
    fn base64_in_the_alphabet_of_urls_is_decoded() {
        let source = "{ a: () => '\u{ff}\u{bf}??>>~~' }";
        let encoded = base64::prelude::BASE64_URL_SAFE.encode(source);
        assert!(encoded.contains('-') || encoded.contains('_'), "{encoded}");
        for text in [encoded.as_str(), encoded.trim_end_matches('=')] {
            assert_eq!(plain(text.to_owned()).unwrap(), source);
        }
        let tar = base64::prelude::BASE64_URL_SAFE.encode([0x1f, 0x8b, 0xff, 0xbf].repeat(600));
        let standard =
            base64::prelude::BASE64_STANDARD.encode([0x1f, 0x8b, 0xff, 0xbf].repeat(600));
        assert_eq!(image_of(&tar).unwrap(), standard);
    }

    #[test]
    fn base64_that_encodes_no_text_is_refused() {
        let bytes = base64::prelude::BASE64_STANDARD.encode([0xff, 0xfe, b'{', 0]);
        for (text, reason) in [
            (bytes.as_str(), "not UTF-8 text"),
            ("abcde", "Invalid input length"),
        ] {
            let Err(ApiError::InvalidExecutable(message)) = plain(text.to_owned()) else {
                panic!("{text} was accepted");
            };
            assert!(message.contains(reason), "{message}");
        }
    }

    #[test]
    fn a_reference_is_not_decoded_as_base64() {
        // Each of these is also valid base64.
        for reference in ["abcd", "registry/app1", "contracts/counter:1.0", " abcd\n"] {
            assert_eq!(image_of(reference).unwrap(), reference.trim());
            let encoded = base64::prelude::BASE64_STANDARD.encode(reference);
            assert_eq!(image_of(&encoded).unwrap(), reference.trim());
        }
    }

    #[test]
    fn an_id_is_not_a_reference() {
        let whole = format!("sha256:{}", "0a".repeat(32));
        for id in ["0123456789ab", &whole] {
            let encoded = base64::prelude::BASE64_STANDARD.encode(id);
            for text in [id.to_owned(), encoded] {
                let refused = image_of(&text).unwrap_err();
                assert!(matches!(refused, ApiError::InvalidExecutable(_)), "{text}");
            }
        }
    }

    #[test]
    fn a_tar_stays_in_base64() {
        let encoded = base64::prelude::BASE64_STANDARD.encode([0x1f, 0x8b, 0, 255].repeat(200));
        let wrapped: String = encoded.chars().flat_map(|c| [c, '\n']).collect();
        assert_eq!(image_of(&wrapped).unwrap(), encoded);
    }

    #[test]
    fn a_source_map_is_put_into_the_executable_once() {
        let with_map = |source: &str| javascript(source.to_owned(), None, Some("{}")).unwrap();
        let once = with_map("{ a() {} }");
        assert_eq!(source_map::of(&once), Some("application/json;base64,e30="));
        assert_eq!(source_map::without(&once), Some("{ a() {} }\n"));
        let twice = with_map(&once);
        assert_eq!(twice.matches(source_map::COMMENT).count(), 1);
    }

    #[test]
    fn schemas_are_put_before_a_source_map_and_behind_an_image() {
        let comment = source_map::COMMENT;
        let source = format!("{{ a() {{}} }}\n{comment}application/json,{{}}\n");
        let with = javascript(source.clone(), Some(r#"{"a":{}}"#), None).unwrap();
        assert_eq!(schemas::of(&with), Some(r#"{"a":{}}"#));
        assert_eq!(source_map::of(&with), source_map::of(&source));
        let code = source_map::without(&with).unwrap();
        assert_eq!(schemas::without(code).trim_end(), "{ a() {} }");
        let image = image("registry/app:1", Some("{}")).unwrap();
        assert_eq!(schemas::without(&image), "registry/app:1\n");
        assert_eq!(schemas::of(&image), Some("{}"));
    }

    proptest! {
        #[test]
        fn a_source_is_never_decoded_as_base64(source in "\\{.{0,200}\\}") {
            prop_assert_eq!(plain(source.clone()).unwrap(), source);
        }
    }
}
