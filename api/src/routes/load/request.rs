//! The body of a load: checks every field and decodes the executable.

use serde::Deserialize;
use serde_json::Value;
use shared::protocol::id::{ContractAddress, InvalidAddress};
use shared::protocol::job::{ContractSpec, EngineKind, KeptLogs, Limits, Load};
use shared::queue::blobs::digest;
use shared::schemas::Schemas;
use utoipa::ToSchema;

use super::executable;
use crate::access::Caller;
use crate::error::{ApiError, Fields};
use crate::source_maps::MAP_LIMIT;

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
    /// The source map of a JavaScript executable, as its compiler or bundler wrote it. The stacks
    /// of errors then name places in the sources.
    #[schema(value_type = Option<Object>)]
    #[serde(default)]
    source_map: Value,
    /// JSON Schemas (2020-12) of the arguments and results of endpoints, by which every call is
    /// checked: `{"METHOD": {"argument": SCHEMA, "result": SCHEMA}}`, 64 KiB at most.
    #[schema(value_type = Option<Object>)]
    #[serde(default)]
    schemas: Value,
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
    /// Whether the last lines that the contract writes to its console are kept while nobody follows
    /// them.
    #[schema(value_type = Option<KeptLogs>)]
    #[serde(default)]
    logs: Value,
}

/// Checks a request of a caller; returns the job and the decoded executable.
pub(super) fn parse(
    request: LoadRequest,
    default: EngineKind,
    caller: &Caller,
) -> Result<(Load, String), ApiError> {
    let mut wrong = Fields::new();
    let address = read(
        &mut wrong,
        "contractAddress",
        request.contract_address,
        |value| address(value, caller),
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
    let source_map = optional(&mut wrong, "sourceMap", request.source_map, |value| {
        source_map_text(value, engine)
    });
    let schemas = optional(&mut wrong, "schemas", request.schemas, |value| {
        schemas_text(&value)
    });
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
    let logs = optional(&mut wrong, "logs", request.logs, |value| kept_logs(&value));
    let (Some(address), Some(executable), true) = (address, executable, wrong.is_empty()) else {
        return Err(refusal(wrong));
    };
    let (schemas, source_map) = (schemas.as_deref(), source_map.as_deref());
    let executable = match engine {
        EngineKind::Javascript => executable::javascript(executable, schemas, source_map)?,
        EngineKind::Docker => executable::image(&executable, schemas)?,
    };
    let spec = ContractSpec {
        engine,
        digest: digest(executable.as_bytes()),
        limits: limits.unwrap_or_default(),
        idempotent: idempotent.unwrap_or(false),
        replicas: replicas.unwrap_or(1),
        keep_logs: matches!(logs, Some(KeptLogs::Keep)),
    };
    let load = Load {
        address,
        spec,
        seen: None,
    };
    Ok((load, executable))
}

/// The error that names every invalid field.
fn refusal(wrong: Fields) -> ApiError {
    let list: Vec<_> = wrong
        .iter()
        .map(|(field, why)| format!("{field} {why}"))
        .collect();
    ApiError::InvalidRequest(list.join("; "), wrong)
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

fn address(value: Value, caller: &Caller) -> Result<ContractAddress, String> {
    let address = caller.address(&text(value)?);
    address.map_err(|reason: InvalidAddress| reason.to_string())
}

fn executable_text(value: Value) -> Result<String, String> {
    let text = text(value)?;
    if text.is_empty() {
        Err("is empty".to_owned())
    } else {
        Ok(text)
    }
}

/// A source map is an object, or its text.
fn source_map_text(value: Value, engine: EngineKind) -> Result<String, String> {
    let text = match value {
        Value::String(text) if text.trim_start().starts_with('{') => text,
        value @ Value::Object(_) => value.to_string(),
        _ => return Err("must be an object".to_owned()),
    };
    if engine != EngineKind::Javascript {
        return Err("is only for javascript contracts".to_owned());
    }
    if text.len() > MAP_LIMIT {
        return Err(format!("must have at most {MAP_LIMIT} bytes"));
    }
    Ok(text)
}

fn kept_logs(value: &Value) -> Result<KeptLogs, String> {
    match value.as_str() {
        Some("keep") => Ok(KeptLogs::Keep),
        _ => Err("must be \"keep\"".to_owned()),
    }
}

/// The text of schemas, which are compiled to find what is wrong with them.
fn schemas_text(value: &Value) -> Result<String, String> {
    let text = value.to_string();
    let compiled = Schemas::compile(&text);
    compiled.map(|_| text).map_err(|error| error.to_string())
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
        ..
    } = limits;
    if let Some((name, most)) = limits.quota().invalid() {
        return Err(format!("{name} must be 1 to {most}"));
    }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::routes::json;

    fn request(body: &str) -> Result<(Load, String), ApiError> {
        let caller = Caller::anybody();
        parse(json(body.as_bytes())?, EngineKind::Javascript, &caller)
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
        assert!(!load.spec.keep_logs);
    }

    #[test]
    fn output_is_kept_on_request() {
        let body = r#"{"contractAddress":"a","executable":"{a(){}}","logs":"keep"}"#;
        let (load, _) = request(body).unwrap();
        assert!(load.spec.keep_logs);
    }

    #[test]
    fn every_invalid_field_is_reported() {
        let body = r#"{"contractAddress":"a b","executable":7,"engine":"cobol","replicas":0,
                "limits":{"timeoutMs":0},"idempotent":"yes","logs":"all","sourceMap":1,
                "schemas":{"a":{"argument":{"$ref":"http://127.0.0.1/"}}}}"#;
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
            "logs",
            "replicas",
            "schemas",
            "sourceMap",
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
                drop(parse(request, EngineKind::Javascript, &Caller::anybody()));
            }
        }

        #[test]
        fn no_field_value_makes_the_parser_panic(
            address in value(), executable in value(), engine in value(), limits in value(), more in value(),
        ) {
            let request = LoadRequest {
                contract_address: address,
                executable,
                source_map: more.clone(),
                schemas: more.clone(),
                engine,
                limits,
                replicas: more.clone(),
                logs: more.clone(),
                idempotent: more,
            };
            if let Ok((load, executable)) = parse(request, EngineKind::Docker, &Caller::anybody()) {
                prop_assert!(!executable.is_empty());
                prop_assert_eq!(load.spec.digest, digest(executable.as_bytes()));
            }
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
