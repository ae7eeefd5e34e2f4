//! Tenants share a farm without seeing each other.

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::{SCOPES, create, created_by_command, of_tenant, start, stop};
use crate::support::client::{Answer, Client, send};
use crate::support::farm::Farm;
use crate::support::wait::{self, DEFAULT_LIMIT};

/// A contract that says whose it is.
fn owned_by(tenant: &str) -> String {
    format!("{{ whose: () => '{tenant}' }}")
}

async fn whose(client: &Client, address: &str) -> Value {
    client.call(address, "whose").await.data()
}

/// The addresses and tenants that a list names.
fn listed(contracts: &[Value]) -> Vec<(String, Option<String>)> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let contracts = contracts.iter().map(|contract| {
        let address = text(&contract["contractAddress"]).expect("an address");
        (address, text(&contract["tenant"]))
    });
    contracts.collect()
}

#[tokio::test]
async fn the_same_address_is_another_contract_for_each_tenant() {
    let farm = start(Farm::builder().env("LOG_FORMAT", "json")).await;
    let admin = farm.client();
    let acme = of_tenant(admin, "acme", &SCOPES).await;
    let other = of_tenant(admin, "other", &SCOPES).await;
    for (client, name) in [(admin, "default"), (&acme, "acme"), (&other, "other")] {
        client.must_load("Shared", &owned_by(name)).await;
    }
    acme.must_load("only.acme", &owned_by("acme")).await;
    for (client, name) in [(admin, "default"), (&acme, "acme"), (&other, "other")] {
        assert_eq!(whose(client, "shared").await, name);
        assert_eq!(client.contract("shared").await["contractAddress"], "shared");
    }
    let own = |address: &str| (address.to_owned(), None);
    assert_eq!(
        listed(&acme.contracts().await),
        [own("shared"), own("only.acme")]
    );
    assert_eq!(listed(&other.contracts().await), [own("shared")]);
    assert_eq!(listed(&admin.contracts().await), [own("shared")]);

    // Pages and rankings.
    let page = acme.get("/contracts?limit=1").await;
    let next = page.next_page().expect("there is a second contract");
    assert!(next.ends_with("-shared"), "{next}");
    let page = acme.get(&next).await.json();
    assert_eq!(page[0]["contractAddress"], "only.acme");
    let ranking = other.get("/contracts?sort=calls").await.json();
    assert_eq!(ranking.as_array().map(Vec::len), Some(1), "{ranking}");

    // What one unloads is not what another has.
    other.unload("shared").await.is_no_content();
    other
        .call("shared", "whose")
        .await
        .error(404, "contract_not_loaded");
    assert_eq!(whose(&acme, "shared").await, "acme");
    assert_eq!(whose(admin, "shared").await, "default");

    let log = farm.apis[0].log();
    let is_of_other = |line: &Value| line["tenant"] == "other" && line["contract"] == "shared";
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    assert!(
        lines.into_iter().any(|line: Value| is_of_other(&line)),
        "{log}"
    );
    stop(farm).await;
}

/// What may be sent to every operation that is about a contract, so that it is about `address`.
fn requests(document: &Value, address: &str) -> Vec<(String, Method, String, Option<Value>)> {
    let paths = document["paths"].as_object().expect("paths");
    let mut requests = Vec::new();
    for (route, item) in paths {
        for (method, operation) in item.as_object().expect("operations") {
            let body = &operation["requestBody"]["content"]["application/json"]["schema"]["$ref"];
            let schema = body.as_str().and_then(|name| document.pointer(&name[1..]));
            let is_in_body =
                schema.is_some_and(|schema| schema["properties"]["contractAddress"].is_object());
            let is_in_path = route.contains("{contractAddress}");
            if !is_in_body && !is_in_path {
                continue;
            }
            let path = route
                .replace("{contractAddress}", address)
                .replace("{method}", "whose")
                .replace("{id}", "0");
            let body = is_in_body
                .then(|| json!({ "contractAddress": address, "executable": owned_by("other") }));
            let method = method.to_uppercase().parse().expect("a method");
            requests.push((route.clone(), method, path, body));
        }
    }
    requests
}

fn with(client: &Client, method: &Method, path: &str, body: Option<&Value>) -> RequestBuilder {
    let request = client.request(method.clone(), path);
    match body {
        Some(body) => request.json(body),
        None => request,
    }
}

/// From the document, so that a new route that forgets the tenant fails.
#[tokio::test]
async fn no_route_reaches_the_contract_of_another_tenant() {
    let farm = start(Farm::builder()).await;
    let admin = farm.client();
    let acme = of_tenant(admin, "acme", &SCOPES).await;
    let other = of_tenant(admin, "other", &SCOPES).await;
    acme.must_load("secret", &owned_by("acme")).await;
    let generation = acme.generation("secret").await;
    let document = admin.get("/openapi.json").await.json();
    let requests = requests(&document, "secret");
    assert!(requests.len() >= 4, "{requests:?}");
    for client in [&other, admin] {
        for (route, method, path, body) in &requests {
            let answer = send(with(client, method, path, body.as_ref())).await;
            match route.as_str() {
                // Loads a contract of the caller's own, and unloads it again.
                "/loadSmartContract" => {
                    answer.is_no_content();
                    assert_eq!(whose(client, "secret").await, "other");
                    client.unload("secret").await.is_no_content();
                }
                "/unloadSmartContract" => answer.is_no_content(),
                _ => drop(answer.error(404, "contract_not_loaded")),
            }
            assert_eq!(
                whose(&acme, "secret").await,
                "acme",
                "after {method} {route}"
            );
            // Nobody can name the contract by the name that it has inside the farm.
            let inside = path.replace("secret", "acme%2Fsecret");
            let body = body.clone().map(|mut body| {
                body["contractAddress"] = json!("acme/secret");
                body
            });
            let answer = send(with(client, method, &inside, body.as_ref())).await;
            answer.error(400, "invalid_request");
        }
    }
    assert_eq!(acme.generation("secret").await, generation);
    stop(farm).await;
}

#[tokio::test]
async fn only_the_farms_operator_sees_all_tenants() {
    let farm = start(Farm::builder()).await;
    let admin = farm.client();
    let acme = of_tenant(admin, "acme", &SCOPES).await;
    let reader = super::caller(admin, &["contracts:read", "farm:read"]).await;
    acme.must_load("abcd", &owned_by("acme")).await;
    admin.must_load("abcd", &owned_by("default")).await;
    let all = admin.get("/contracts?tenant=*&limit=1").await;
    let entry =
        |address: &str, tenant: Option<&str>| (address.to_owned(), tenant.map(str::to_owned));
    let page = |answer: &Answer| listed(answer.json().as_array().expect("a list"));
    assert_eq!(page(&all), [entry("abcd", Some("acme"))]);
    let next = all.next_page().expect("there is another contract");
    assert_eq!(page(&admin.get(&next).await), [entry("abcd", None)]);
    let of_acme = admin.get("/contracts?tenant=acme").await;
    assert_eq!(page(&of_acme), [entry("abcd", Some("acme"))]);
    let shown = admin.get("/contracts/abcd?tenant=acme").await.json();
    assert_eq!(
        (&shown["contractAddress"], &shown["tenant"]),
        (&json!("abcd"), &json!("acme"))
    );
    for path in [
        "/contracts?tenant=*",
        "/contracts?tenant=other",
        "/contracts/abcd?tenant=default",
    ] {
        let refused = acme.get(path).await;
        let text = refused.error_text(403, "insufficient_scope");
        assert!(text.contains("default tenant"), "{text}");
        reader
            .get(path.replace("=default", "=acme").as_str())
            .await
            .error(403, "insufficient_scope");
    }
    // The farm that all share is not the business of one tenant.
    for path in ["/workers", "/metrics"] {
        acme.get(path).await.error(403, "insufficient_scope");
        assert_eq!(reader.get(path).await.status, 200);
    }
    let worker = admin.workers().await[0]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    acme.drain(&worker).await.error(403, "insufficient_scope");
    admin
        .get("/contracts?tenant=A")
        .await
        .error(400, "invalid_request");
    stop(farm).await;
}

#[tokio::test]
async fn keys_are_managed_within_their_tenant() {
    let farm = start(Farm::builder().workers(0)).await;
    let admin = farm.client();
    let acme = of_tenant(admin, "acme", &["keys:manage", "contracts:read"]).await;
    let (of_default, _) = create(admin, &["contracts:read"]).await;
    // Without a tenant, the manager's own.
    let (own, _) = create(&acme, &["contracts:read"]).await;
    let shown = acme.get(&format!("/keys/{own}")).await.json();
    assert_eq!(shown["tenant"], "acme");
    let ids = async |client: &Client, path: &str| -> Vec<String> {
        let keys = client.get(path).await.json();
        let keys = keys.as_array().expect("a list").iter();
        keys.map(|key| key["id"].as_str().expect("an id").to_owned())
            .collect()
    };
    assert_eq!(ids(&acme, "/keys").await.len(), 2);
    assert!(!ids(admin, "/keys").await.contains(&own));
    assert!(ids(admin, "/keys?tenant=*").await.contains(&own));
    assert_eq!(ids(admin, "/keys?tenant=acme").await.len(), 2);
    for tenant in ["default", "other"] {
        let wanted = json!({ "tenant": tenant, "scopes": ["contracts:read"] });
        acme.post("/keys", &wanted)
            .await
            .error(403, "insufficient_scope");
    }
    for wrong in ["Acme", "a/b", "*", ""] {
        let wanted = json!({ "tenant": wrong, "scopes": ["contracts:read"] });
        let refused = admin
            .post("/keys", &wanted)
            .await
            .error(400, "invalid_request");
        assert!(refused["fields"]["tenant"].is_string(), "{refused}");
    }
    let path = format!("/keys/{of_default}");
    acme.get(&path).await.error(404, "key_not_found");
    send(acme.request(Method::DELETE, &path))
        .await
        .error(404, "key_not_found");
    assert_eq!(admin.get(&path).await.json()["state"], "active");
    let path = format!("/keys/{own}");
    send(admin.request(Method::DELETE, &path))
        .await
        .is_no_content();

    let key = created_by_command(&farm, &["--scope", "keys:manage", "--tenant", "acme"]).await;
    assert_eq!(ids(&admin.as_caller(&key), "/keys").await.len(), 3);
    stop(farm).await;
}

#[tokio::test]
async fn dead_letters_are_for_the_tenant_of_their_contract() {
    let farm = start(Farm::builder().workers(0)).await;
    let admin = farm.client();
    let acme = of_tenant(admin, "acme", &["farm:read", "farm:operate"]).await;
    let other = of_tenant(admin, "other", &["farm:read", "farm:operate"]).await;
    let mut redis = farm.redis.connection().await;
    for contract in ["acme/loop", "plain", "acme/lost"] {
        redis::cmd("XADD")
            .arg(&[
                "exec:dead-letters",
                "*",
                "kind",
                "quarantine",
                "contract",
                contract,
            ])
            .exec_async(&mut redis)
            .await
            .expect("an entry");
    }
    redis::cmd("XADD")
        .arg(&[
            "exec:dead-letters",
            "*",
            "kind",
            "unreadable",
            "stream",
            "x",
        ])
        .exec_async(&mut redis)
        .await
        .expect("an entry");
    let own = acme.dead_letters().await;
    let contracts: Vec<_> = own.iter().map(|letter| &letter["contract"]).collect();
    assert_eq!(contracts, ["lost", "loop"], "{own:?}");
    assert!(
        own.iter().all(|letter| letter.get("tenant").is_none()),
        "{own:?}"
    );
    assert_eq!(other.dead_letters().await, Vec::<Value>::new());
    assert_eq!(admin.dead_letters().await.len(), 2);
    let all = admin.get("/dead-letters?tenant=*").await.json();
    assert_eq!(
        (all.as_array().map(Vec::len), &all[1]["tenant"]),
        (Some(4), &json!("acme"))
    );
    let path = |letter: &Value| format!("/dead-letters/{}", letter["id"].as_str().expect("an id"));
    let delete =
        async |client: &Client, path: &str| send(client.request(Method::DELETE, path)).await;
    let first = path(&own[0]);
    delete(&other, &first)
        .await
        .error(404, "dead_letter_not_found");
    assert_eq!(acme.dead_letters().await.len(), 2);
    delete(&acme, &first).await.is_no_content();
    delete(&acme, &first)
        .await
        .error(404, "dead_letter_not_found");
    delete(admin, &path(&own[1])).await.is_no_content();
    assert_eq!(acme.dead_letters().await, Vec::<Value>::new());
    farm.stop_ignoring_keys().await;
}

/// The name that a contract has inside the farm is in no answer to its tenant.
#[tokio::test]
async fn a_tenant_never_sees_the_name_inside_the_farm() {
    let farm = start(Farm::builder()).await;
    let admin = farm.client();
    let acme = of_tenant(admin, "acme", &SCOPES).await;
    let mut answers = vec![
        acme.load("abcd", &owned_by("acme")).await,
        acme.load("bad", "{ a: (").await,
        acme.call("abcd", "whose").await,
        acme.call("abcd", "none").await,
        acme.call("missing", "none").await,
        acme.get("/contracts?limit=1").await,
        acme.get("/contracts/abcd").await,
        acme.get("/contracts?sort=calls").await,
        acme.get("/dead-letters").await,
        acme.get("/openapi.json").await,
    ];
    let thrower = "{ fail: () => { throw new Error('no') }, loop: () => { for (;;); } }";
    let body = json!({ "contractAddress": "thrower", "executable": thrower, "replicas": 1,
        "limits": { "timeoutMs": 50 } });
    answers.push(acme.post("/loadSmartContract", &body).await);
    answers.push(acme.call("thrower", "fail").await);
    answers.push(acme.call("thrower", "loop").await);
    answers.push(acme.get("/contracts?limit=1").await);
    let two = json!({ "contractAddress": "two", "executable": "{a(){}}", "replicas": 9 });
    answers.push(acme.post("/loadSmartContract", &two).await);
    let limited = of_tenant(admin, "acme", &["contracts:read:x*"]).await;
    answers.push(limited.call("abcd", "whose").await);
    answers.push(limited.get("/contracts/abcd").await);
    let is_inside = |text: &str| text.contains("acme/") || text.contains("acme%2F");
    for answer in &answers {
        assert!(!is_inside(&answer.body), "{answer:?}");
        for value in answer.headers.values() {
            assert!(
                !is_inside(&String::from_utf8_lossy(value.as_bytes())),
                "{answer:?}"
            );
        }
    }
    // It is what the farm stores.
    let keys = farm.redis.keys().await;
    assert!(
        keys.iter().any(|key| key.contains("{c:acme/abcd}")),
        "{keys:?}"
    );
    stop(farm).await;
}

#[tokio::test]
async fn a_change_is_recorded_with_its_tenant() {
    let farm = start(Farm::builder().workers(0).env("LOG_FORMAT", "json")).await;
    let admin = farm.client();
    let acme = of_tenant(admin, "acme", &["contracts:unload"]).await;
    acme.unload("abcd").await.is_no_content();
    let log = farm.apis[0].log();
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let audits: Vec<Value> = lines
        .filter(|line: &Value| line["target"] == "audit" && line["action"] == "unload")
        .collect();
    let [unload] = &audits[..] else {
        panic!("{audits:?}")
    };
    assert_eq!(
        (&unload["tenant"], &unload["subject"]),
        (&json!("acme"), &json!("abcd"))
    );
    let connection = farm.redis.connection().await;
    wait::until_true("the entry in Redis", DEFAULT_LIMIT, async || {
        let entries: redis::Value = redis::cmd("XRANGE")
            .arg(&["exec:audit", "-", "+"])
            .query_async(&mut connection.clone())
            .await
            .expect("the stream");
        let text = format!("{entries:?}");
        text.contains("'tenant'") && text.contains("'acme'") || text.contains("\"acme\"")
    })
    .await;
    stop(farm).await;
}
