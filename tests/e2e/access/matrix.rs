//! Every route with every scope, from the `OpenAPI` document: a new route that needs no scope, and
//! does not say so, fails.

use reqwest::Method;
use serde_json::{Value, json};

use super::{SCOPES, caller, scope, start};
use crate::support::client::{Answer, Client, send};
use crate::support::farm::Farm;

/// Every documented operation, with what it needs.
fn operations(document: &Value) -> Vec<(Method, String, Option<String>)> {
    let paths = document["paths"].as_object().expect("paths");
    let operations = paths.iter().flat_map(|(path, item)| {
        // No part exists, so that nothing is changed.
        let path = path
            .replace("{contractAddress}", "abcd")
            .replace("{method}", "m");
        let path = path.replace("{id}", "0");
        let item = item.as_object().expect("a path has operations");
        item.iter().map(move |(method, operation)| {
            let method = method.to_uppercase().parse().expect("a method");
            (method, path.clone(), scope(operation))
        })
    });
    operations.collect()
}

async fn sent(client: &Client, method: &Method, path: &str) -> Answer {
    send(client.request(method.clone(), path)).await
}

#[tokio::test]
async fn every_route_takes_its_scope_only() {
    let farm = start(Farm::builder().workers(0)).await;
    let admin = farm.client();
    let anonymous = Client::new(admin.port());
    let operations = operations(&anonymous.get("/openapi.json").await.json());
    assert!(operations.len() > 14, "{operations:?}");
    let mut callers = Vec::new();
    for scope in SCOPES {
        callers.push((scope, caller(admin, &[scope]).await));
    }
    for (method, path, needed) in &operations {
        let answer = sent(&anonymous, method, path).await;
        let Some(needed) = needed else {
            assert!(
                !matches!(answer.status, 401 | 403),
                "{method} {path}: {answer:?}"
            );
            continue;
        };
        assert!(
            SCOPES.contains(&needed.as_str()),
            "{needed} is not in the matrix"
        );
        assert_eq!(answer.error(401, "unauthenticated")["started"], false);
        assert_eq!(
            answer.header("www-authenticate"),
            Some("Bearer realm=\"execution\"")
        );
        for (scope, client) in &callers {
            let answer = sent(client, method, path).await;
            if scope == needed {
                assert!(
                    !matches!(answer.status, 401 | 403),
                    "{method} {path}: {answer:?}"
                );
                continue;
            }
            assert_eq!(answer.error(403, "insufficient_scope")["started"], false);
            let expected = format!(
                "Bearer realm=\"execution\", error=\"insufficient_scope\", scope=\"{needed}\""
            );
            assert_eq!(answer.header("www-authenticate"), Some(expected.as_str()));
        }
    }
    farm.stop().await;
}

/// The document itself, and what cannot change anything, need no key.
#[tokio::test]
async fn the_open_routes_are_known() {
    let farm = start(Farm::builder().workers(0)).await;
    let anonymous = Client::new(farm.client().port());
    let document = anonymous.get("/openapi.json").await.json();
    let open = operations(&document)
        .into_iter()
        .filter(|(.., needed)| needed.is_none());
    let open: Vec<_> = open.map(|(_, path, _)| path).collect();
    assert_eq!(open, ["/healthz", "/readyz"]);
    assert_eq!(
        document["components"]["securitySchemes"]["key"]["scheme"],
        "bearer"
    );
    for path in ["/docs/", "/openapi.json", "/documentation/swagger.json"] {
        assert_eq!(anonymous.get(path).await.status, 200, "{path}");
    }
    anonymous
        .get("/no/such/route")
        .await
        .error(404, "route_not_found");
    sent(&anonymous, &Method::PUT, "/keys")
        .await
        .error(405, "method_not_allowed");
    farm.stop().await;
}

const ECHO: &str = "{ echo: (a) => a }";

#[tokio::test]
async fn a_glob_limits_a_scope_to_some_contracts() {
    let farm = start(Farm::builder()).await;
    let admin = farm.client();
    admin.must_load("pay-1", ECHO).await;
    admin.must_load("other", ECHO).await;
    let client = caller(
        admin,
        &[
            "contracts:load:pay-*",
            "contracts:execute:pay-*",
            "contracts:read:pay-*",
            "contracts:unload:pay-*",
        ],
    )
    .await;
    client.must_load("Pay-2", ECHO).await;
    assert_eq!(client.execute("pay-2", "echo", &json!(7)).await.data(), 7);
    client
        .load("other", ECHO)
        .await
        .error(403, "insufficient_scope");
    client
        .unload("other")
        .await
        .error(403, "insufficient_scope");
    // Whether it is loaded makes no difference.
    for address in ["other", "unknown"] {
        let refused = client.call(address, "echo").await;
        refused.error(403, "insufficient_scope");
        let missing = client.get(&format!("/contracts/{address}")).await;
        missing.error(404, "contract_not_loaded");
    }
    // A page is filled with what the caller may see, and its link does not name what it may not.
    let page = client.get("/contracts?limit=1").await;
    let listed = |answer: &Answer| answer.json()[0]["contractAddress"].clone();
    assert_eq!(listed(&page), "pay-1");
    let next = page.next_page().expect("there is a second contract");
    assert!(next.contains("pay-1"), "{next}");
    let page = client.get(&next).await;
    assert_eq!((listed(&page), page.next_page()), (json!("pay-2"), None));
    assert_eq!(admin.contracts().await.len(), 3);
    client.unload("pay-2").await.is_no_content();
    farm.stop().await;
}
