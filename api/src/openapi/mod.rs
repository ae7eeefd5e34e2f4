//! The `OpenAPI` document, built from the descriptions beside the handlers.
//!
//! This file only lists the routes. `router` binds them, `error` assigns the statuses, and
//! `failures` describes the responses that the handlers declare.

pub(crate) mod failures;

use utoipa::OpenApi;

use crate::access::Security;
use crate::error::ErrorBody;
use crate::routes::{
    contracts, dead_letters, description, execute, health, keys, load, logs, metrics, tenants,
    unload, usage, workers,
};

/// The document as it is served.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Execution Service",
        description = "Runs smart contracts in isolation. Load a contract, call its methods, unload \
            it.\n\nEvery failure has the same body. If it has `\"started\": false`, nothing was \
            executed and the request can safely be repeated.",
    ),
    paths(
        load::load,
        execute::execute,
        unload::unload,
        contracts::list,
        contracts::show,
        description::describe,
        logs::follow,
        workers::list,
        workers::drain,
        dead_letters::list,
        dead_letters::remove,
        keys::create,
        keys::list,
        keys::show,
        keys::revoke,
        tenants::list,
        tenants::show,
        tenants::limit,
        tenants::unlimit,
        usage::show,
        health::alive,
        health::ready,
        metrics::show,
    ),
    modifiers(&Security),
    components(schemas(ErrorBody<'static>)),
    tags(
        (name = "Contracts", description = "Load, call and unload contracts"),
        (name = "Farm", description = "Operate the farm"),
        (name = "Keys", description = "Who may use the service"),
        (name = "Tenants", description = "What tenants may use, and what was used"),
        (name = "Process", description = "Monitor this process"),
    ),
)]
pub(crate) struct Description;

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_document_has_version_3_1() {
        let json = serde_json::to_value(Description::openapi()).unwrap();
        assert!(json["openapi"].as_str().unwrap().starts_with("3.1."));
    }

    #[test]
    fn every_reference_resolves() {
        fn references(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(fields) => {
                    for (name, value) in fields {
                        match value {
                            Value::String(text) if name == "$ref" => found.push(text.clone()),
                            _ => references(value, found),
                        }
                    }
                }
                Value::Array(items) => items.iter().for_each(|item| references(item, found)),
                _ => {}
            }
        }
        let json = serde_json::to_value(Description::openapi()).unwrap();
        let mut found = Vec::new();
        references(&json, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(json.pointer(pointer).is_some(), "{reference}");
        }
    }
}
