//! The body of a load: checks every field and decodes the executable.

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use serde_json::Value;
use shared::protocol::id::{ContractAddress, InvalidAddress};
use shared::protocol::image::{is_id, is_reference};
use shared::protocol::job::{ContractSpec, EngineKind, Limits, Load};
use shared::queue::blobs::digest;
use utoipa::ToSchema;

use crate::error::{ApiError, Fields};

/// The standard alphabet. Padding is optional, because encoders differ in it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The length of the longest image reference in base64, with room for spaces around it. A longer
/// text is a tar.
const ENCODED_REFERENCE_LIMIT: usize = 2048;

/// The body of a load. Fields accept any value, so that every invalid one can be reported.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Load, description = "The contract to load.")]
pub(super) struct LoadRequest {
    /// Converted to lower case.
    #[schema(value_type = String, required = true, pattern = "^[A-Za-z0-9._:-]{1,128}$",
        examples("abcd"))]
    #[serde(default)]
    contract_address: Value,
    /// JavaScript source, an image reference, or an image's tar; plain or in base64.
    #[schema(value_type = String, required = true, min_length = 1,
        examples("{ add: ({number1, number2}) => number1 + number2 }"))]
    #[serde(default)]
    executable: Value,
    /// Defaults to the deployment's engine.
    #[schema(value_type = Option<EngineKind>)]
    #[serde(default)]
    engine: Value,
    /// A contract can only lower the worker's limits.
    #[schema(value_type = Option<Limits>)]
    #[serde(default)]
    limits: Value,
    /// How many workers run the contract, each with its own state.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 16)]
    #[serde(default)]
    replicas: Value,
    /// Whether a call whose worker died may run again. JavaScript calls always may.
    #[schema(value_type = Option<bool>)]
    #[serde(default)]
    idempotent: Value,
}

/// Checks a request; returns the job and the decoded executable.
pub(super) fn parse(request: LoadRequest, default: EngineKind) -> Result<(Load, String), ApiError> {
    let mut wrong = Fields::new();
    let address = read(
        &mut wrong,
        "contractAddress",
        request.contract_address,
        address_text,
    );
    let executable = read(
        &mut wrong,
        "executable",
        request.executable,
        executable_text,
    );
    let engine = optional(&mut wrong, "engine", request.engine, |value| {
        text(value)?.parse::<EngineKind>()
    });
    let engine = engine.unwrap_or(default);
    let limits = optional(&mut wrong, "limits", request.limits, |value| {
        limits_object(value, engine)
    });
    let replicas = optional(&mut wrong, "replicas", request.replicas, |value| {
        replica_count(&value)
    });
    let idempotent = optional(&mut wrong, "idempotent", request.idempotent, |value| {
        value
            .as_bool()
            .ok_or_else(|| "must be true or false".to_owned())
    });
    let (Some(address), Some(executable), true) = (address, executable, wrong.is_empty()) else {
        let list: Vec<_> = wrong
            .iter()
            .map(|(field, why)| format!("{field} {why}"))
            .collect();
        return Err(ApiError::InvalidRequest(list.join("; "), wrong));
    };
    let executable = match engine {
        EngineKind::Javascript => plain(executable),
        EngineKind::Docker => image(executable)?,
    };
    let spec = ContractSpec {
        engine,
        digest: digest(executable.as_bytes()),
        limits: limits.unwrap_or_default(),
        idempotent: idempotent.unwrap_or(false),
        replicas: replicas.unwrap_or(1),
    };
    let load = Load {
        address,
        spec,
        seen: None,
    };
    Ok((load, executable))
}

/// Reads a required field; records why it is invalid.
fn read<T>(
    wrong: &mut Fields,
    name: &'static str,
    value: Value,
    read: impl FnOnce(Value) -> Result<T, String>,
) -> Option<T> {
    let outcome = if value.is_null() {
        Err("is missing".to_owned())
    } else {
        read(value)
    };
    outcome.map_err(|reason| wrong.insert(name, reason)).ok()
}

/// Reads an optional field; records why it is invalid.
fn optional<T>(
    wrong: &mut Fields,
    name: &'static str,
    value: Value,
    read_value: impl FnOnce(Value) -> Result<T, String>,
) -> Option<T> {
    if value.is_null() {
        None
    } else {
        read(wrong, name, value, read_value)
    }
}

fn text(value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err("must be a string".to_owned()),
    }
}

fn address_text(value: Value) -> Result<ContractAddress, String> {
    text(value)?
        .parse()
        .map_err(|reason: InvalidAddress| reason.to_string())
}

fn executable_text(value: Value) -> Result<String, String> {
    let text = text(value)?;
    if text.is_empty() {
        Err("is empty".to_owned())
    } else {
        Ok(text)
    }
}

fn replica_count(value: &Value) -> Result<u32, String> {
    const MOST: u32 = ContractAddress::MAX_REPLICAS;
    let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
    number
        .filter(|number| (1..=MOST).contains(number))
        .ok_or_else(|| format!("must be a whole number from 1 to {MOST}"))
}

fn limits_object(value: Value, engine: EngineKind) -> Result<Limits, String> {
    // serde would accept an array as the fields in order.
    if !value.is_object() {
        return Err("must be an object".to_owned());
    }
    let limits: Limits = serde_json::from_value(value).map_err(|error| error.to_string())?;
    let Limits {
        timeout_ms,
        result_bytes,
        memory_mb,
        concurrency,
        network,
    } = limits;
    let numbers = [timeout_ms, result_bytes, memory_mb, concurrency];
    if numbers.contains(&Some(0)) {
        return Err("must be greater than 0".to_owned());
    }
    let docker_only = concurrency.is_some() || network.is_some();
    if docker_only && engine != EngineKind::Docker {
        return Err("concurrency and network are only for docker contracts".to_owned());
    }
    if memory_mb.is_some() && engine != EngineKind::Javascript {
        return Err("memoryMb is only for javascript contracts".to_owned());
    }
    Ok(limits)
}

/// Normalises a docker executable: an image reference, plain or in base64, or a tar, which stays in
/// base64 until a worker unpacks it. An encoded reference cannot be mistaken for a plain one: it
/// contains upper-case letters. Which references are allowed is the workers' decision; an id is
/// none, wherever the contract is placed.
fn image(executable: String) -> Result<String, ApiError> {
    let trimmed = executable.trim();
    if is_reference(trimmed) {
        return reference(trimmed);
    }
    let mut text = executable;
    text.retain(|c| !c.is_ascii_whitespace());
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
/// base64's alphabet.
fn plain(executable: String) -> String {
    // Nearly always, so that a large source is not copied.
    if !executable
        .bytes()
        .all(|b| b.is_ascii_whitespace() || is_base64(b))
    {
        return executable;
    }
    let encoded: Vec<u8> = executable
        .bytes()
        .filter(|b| !b.is_ascii_whitespace())
        .collect();
    match BASE64.decode(encoded).map(String::from_utf8) {
        Ok(Ok(decoded)) => decoded,
        _ => executable,
    }
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::routes::json;

    fn request(body: &str) -> Result<(Load, String), ApiError> {
        parse(json(body.as_bytes())?, EngineKind::Javascript)
    }

    #[test]
    fn base64_and_plain_are_the_same_contract() {
        let source = "{ add: ({a, b}) => a + b, ü: () => 'ü' }";
        let padded = base64::prelude::BASE64_STANDARD.encode(source);
        let wrapped: String = padded.chars().flat_map(|c| [c, '\n']).collect();
        for text in [&padded, padded.trim_end_matches('='), &wrapped, source] {
            assert_eq!(plain(text.to_owned()), source);
        }
    }

    #[test]
    fn a_reference_is_not_decoded_as_base64() {
        // Each of these is also valid base64.
        for reference in ["abcd", "registry/app1", "contracts/counter:1.0", " abcd\n"] {
            assert_eq!(image(reference.to_owned()).unwrap(), reference.trim());
            let encoded = base64::prelude::BASE64_STANDARD.encode(reference);
            assert_eq!(image(encoded).unwrap(), reference.trim());
        }
    }

    #[test]
    fn an_id_is_not_a_reference() {
        let whole = format!("sha256:{}", "0a".repeat(32));
        for id in ["0123456789ab", &whole] {
            let encoded = base64::prelude::BASE64_STANDARD.encode(id);
            for text in [id.to_owned(), encoded] {
                let refused = image(text.clone()).unwrap_err();
                assert!(matches!(refused, ApiError::InvalidExecutable(_)), "{text}");
            }
        }
    }

    #[test]
    fn a_tar_stays_in_base64() {
        let encoded = base64::prelude::BASE64_STANDARD.encode([0x1f, 0x8b, 0, 255].repeat(200));
        let wrapped: String = encoded.chars().flat_map(|c| [c, '\n']).collect();
        assert_eq!(image(wrapped).unwrap(), encoded);
    }

    #[test]
    fn docker_limits_are_refused_for_javascript() {
        let body = |engine| {
            format!(
                r#"{{"contractAddress":"a","executable":"abcd","engine":"{engine}",
                "limits":{{"concurrency":4}}}}"#
            )
        };
        assert!(request(&body("docker")).is_ok());
        assert!(request(&body("javascript")).is_err());
    }

    #[test]
    fn missing_fields_have_defaults() {
        let (load, _) = request(r#"{"contractAddress":"ABCD","executable":"{a(){}}"}"#).unwrap();
        assert_eq!(load.address.as_str(), "abcd");
        assert_eq!(load.spec.engine, EngineKind::Javascript);
        assert_eq!(load.spec.limits, Limits::default());
    }

    #[test]
    fn every_invalid_field_is_reported() {
        let body = r#"{"contractAddress":"a b","executable":7,"engine":"cobol","replicas":0,
                "limits":{"timeoutMs":0},"idempotent":"yes"}"#;
        let Err(ApiError::InvalidRequest(_, fields)) = request(body) else {
            panic!()
        };
        let names: Vec<_> = fields.keys().copied().collect();
        let all = [
            "contractAddress",
            "engine",
            "executable",
            "idempotent",
            "limits",
            "replicas",
        ];
        assert_eq!(names, all);
    }

    /// Any JSON value that a client may send.
    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map(".{0,6}", inner, 0..4)
                    .prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_body_makes_the_parser_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(request) = json(&body) {
                drop(parse(request, EngineKind::Javascript));
            }
        }

        #[test]
        fn no_field_value_makes_the_parser_panic(
            address in value(), executable in value(), engine in value(), limits in value(), more in value(),
        ) {
            let request = LoadRequest {
                contract_address: address,
                executable,
                engine,
                limits,
                replicas: more.clone(),
                idempotent: more,
            };
            if let Ok((load, executable)) = parse(request, EngineKind::Docker) {
                prop_assert!(!executable.is_empty());
                prop_assert_eq!(load.spec.digest, digest(executable.as_bytes()));
            }
        }

        #[test]
        fn a_source_is_never_decoded_as_base64(source in "\\{.{0,200}\\}") {
            prop_assert_eq!(plain(source.clone()), source);
        }
    }

    #[test]
    fn a_body_of_the_wrong_shape_is_refused() {
        for body in [
            "[]",
            "null",
            "1",
            r#"{"contractAddress":1}"#,
            r#"["abcd", "{ a: () => 1 }"]"#,
            r#"{"contractAddress":"a","executable":"{a(){}}","limits":[null,null]}"#,
            r#"{"limits":{"x":1}}"#,
            "{",
        ] {
            assert!(
                matches!(request(body), Err(ApiError::InvalidRequest(..))),
                "{body}"
            );
        }
    }
}
