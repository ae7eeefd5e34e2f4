//! The `OpenAPI` document of one contract: its endpoints with their schemas, so that clients can be
//! generated.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};
use shared::protocol::reply::ContractStatus;
use utoipa::OpenApi;

use crate::openapi::Description;

/// Keywords whose values are data in which a `$ref` means nothing.
const DATA: [&str; 4] = ["const", "default", "enum", "examples"];

/// Keywords whose values are schemas by names, which are no keywords.
const NAMED: [&str; 5] = [
    "$defs",
    "definitions",
    "dependentSchemas",
    "patternProperties",
    "properties",
];

/// Describes the endpoints of a contract. Where they are not known, as those of containers, these
/// are the methods that its schemas name.
pub(crate) fn describe(contract: &ContractStatus) -> Value {
    let schemas = contract.schemas.as_ref().and_then(Value::as_object);
    let mut methods: Vec<_> = contract.endpoints.iter().collect();
    if methods.is_empty() {
        methods = schemas.into_iter().flat_map(Map::keys).collect();
    }
    methods.sort_unstable();
    let mut components = common();
    let mut paths = Map::new();
    for (index, method) in methods.into_iter().enumerate() {
        let name = component_name(method, index);
        let mut schema_of = |part: &str| {
            let mut schema = schemas?.get(method)?.get(part)?.clone();
            let name = format!("{name}.{part}");
            relocate(&mut schema, &name);
            components.insert(name.clone(), schema);
            Some(json!({ "$ref": format!("#/components/schemas/{name}") }))
        };
        let (argument, result) = (schema_of("argument"), schema_of("result"));
        let address = contract.contract_address.as_str();
        let method = utf8_percent_encode(method, NON_ALPHANUMERIC);
        let path = format!("/execute/{address}/{method}");
        paths.insert(path, operation(&name, argument, result));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": contract.contract_address.as_str(),
            "version": contract.digest.get(..12).unwrap_or(&contract.digest),
            "description": "The endpoints of one contract.",
        },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": { "schemas": components },
    })
}

fn operation(name: &str, argument: Option<Value>, result: Option<Value>) -> Value {
    let error = json!({ "$ref": "#/components/schemas/Error" });
    let error = json!({ "application/json": { "schema": error } });
    let result = json!({
        "type": "object",
        "properties": { "data": result.unwrap_or(Value::Bool(true)) },
        "required": ["data"],
    });
    json!({
        "post": {
            "operationId": name,
            "requestBody": {
                "required": argument.is_some(),
                "content": { "application/json": { "schema": argument.unwrap_or(Value::Bool(true)) } },
            },
            "responses": {
                "200": {
                    "description": "The result",
                    "content": { "application/json": { "schema": result } },
                },
                "422": { "description": "`argument_invalid`", "content": error.clone() },
                "default": { "description": "A failure", "content": error },
            },
        },
    })
}

/// The schemas of failures, which are the same for all contracts.
fn common() -> Map<String, Value> {
    let document = serde_json::to_value(Description::openapi()).unwrap_or_default();
    let all = &document["components"]["schemas"];
    ["Error", "StackEntry", "Violation"]
        .into_iter()
        .map(|name| (name.to_owned(), all[name].clone()))
        .collect()
}

/// A method's name, if components may have it.
fn component_name(method: &str, index: usize) -> String {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let is_allowed = !method.is_empty() && method.chars().all(is_allowed);
    if is_allowed {
        method.to_owned()
    } else {
        format!("method.{index}")
    }
}

/// Makes the references within a schema lead to where it is in the document.
fn relocate(schema: &mut Value, name: &str) {
    match schema {
        Value::Object(keywords) => {
            for (keyword, value) in keywords {
                match value {
                    Value::String(reference) if keyword == "$ref" => {
                        if let Some(place) = reference.strip_prefix('#') {
                            *reference = format!("#/components/schemas/{name}{place}");
                        }
                    }
                    _ if DATA.contains(&keyword.as_str()) => {}
                    Value::Object(schemas) if NAMED.contains(&keyword.as_str()) => {
                        schemas
                            .values_mut()
                            .for_each(|schema| relocate(schema, name));
                    }
                    value => relocate(value, name),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| relocate(value, name)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use shared::protocol::reply::ContractState;

    use super::*;

    fn contract(endpoints: &[&str], schemas: &Value) -> ContractStatus {
        let status = json!({
            "contractAddress": "abcd",
            "engine": "javascript",
            "state": ContractState::Ready,
            "endpoints": endpoints,
            "host": null,
            "replicas": 1,
            "hosts": [],
            "generation": 1,
            "digest": "ab".repeat(32),
            "schemas": schemas,
        });
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn every_endpoint_is_described_with_its_schemas() {
        let schemas = json!({
            "add": {
                "argument": {
                    "$ref": "#/$defs/pair",
                    "$defs": {
                        "pair": { "type": "object" },
                        "default": { "$ref": "#/$defs/pair" },
                    },
                    "default": { "$ref": "#/data" },
                },
                "result": { "type": "number" },
            },
        });
        let document = describe(&contract(&["add", "a b/{c}"], &schemas));
        let add = &document["paths"]["/execute/abcd/add"]["post"];
        assert_eq!(add["operationId"], "add");
        let argument = &add["requestBody"]["content"]["application/json"]["schema"]["$ref"];
        let pointer = argument.as_str().unwrap().strip_prefix('#').unwrap();
        let schema = document.pointer(pointer).unwrap();
        let pair = schema["$ref"].as_str().unwrap().strip_prefix('#').unwrap();
        assert_eq!(document.pointer(pair), Some(&json!({ "type": "object" })));
        assert_eq!(schema["default"]["$ref"], "#/data");
        assert_eq!(schema["$defs"]["default"]["$ref"], schema["$ref"]);
        let result = &add["responses"]["200"]["content"]["application/json"]["schema"];
        let data = json!({ "$ref": "#/components/schemas/add.result" });
        assert_eq!(result["properties"]["data"], data);
        let other = &document["paths"]["/execute/abcd/a%20b%2F%7Bc%7D"]["post"];
        assert_eq!(other["requestBody"]["required"], false);
        assert!(document["components"]["schemas"]["Error"].is_object());
    }

    #[test]
    fn a_contract_without_known_endpoints_is_described_by_its_schemas() {
        let document = describe(&contract(&[], &json!({ "sum": { "result": {} } })));
        assert!(document["paths"]["/execute/abcd/sum"].is_object());
        let nothing = describe(&contract(&[], &Value::Null));
        assert_eq!(nothing["paths"], json!({}));
    }
}
