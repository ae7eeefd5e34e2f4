//! Who may do what, where callers need a key.

mod audit;
mod keys;
mod limits;
mod matrix;
mod secrets;
mod tenants;
mod tokens;

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::farm::{Builder, Farm};
use crate::support::process::Process;
use crate::support::programs;
use crate::support::wait::DEFAULT_LIMIT;

/// Starts a farm whose callers need a key. Its clients have one that permits everything.
async fn start(builder: Builder) -> Farm {
    let mut farm = builder.env("AUTH", "keys").start().await;
    let key = created_by_command(&farm, &["--admin"]).await;
    for client in &mut farm.clients {
        *client = client.as_caller(&key);
    }
    farm
}

/// Creates a key as an operator does.
pub(crate) async fn created_by_command(farm: &Farm, arguments: &[&str]) -> String {
    let mut command = programs::api();
    command
        .env("REDIS_URL", farm.redis.url())
        .env("REDIS_PREFIX", farm.prefix())
        .args(["keys", "create"])
        .args(arguments);
    let mut process = Process::start("keys", command, farm.folder());
    let status = process.end(DEFAULT_LIMIT).await;
    let printed = process.log();
    assert!(status.success(), "{printed}");
    let key = printed.trim();
    assert!(key.starts_with("esk_") && key.len() == 60, "{printed}");
    key.to_owned()
}

/// Creates a key with these scopes, and returns its id and itself.
async fn create(admin: &Client, scopes: &[&str]) -> (String, String) {
    let answer = admin.post("/keys", &json!({ "scopes": scopes })).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let created = answer.json();
    let text = |field: &str| created[field].as_str().expect("it is text").to_owned();
    (text("id"), text("key"))
}

/// A client with a new key of a tenant, for these scopes.
async fn of_tenant(admin: &Client, tenant: &str, scopes: &[&str]) -> Client {
    let wanted = json!({ "tenant": tenant, "scopes": scopes });
    let answer = admin.post("/keys", &wanted).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let created = answer.json();
    assert_eq!(created["tenant"], tenant);
    admin.as_caller(created["key"].as_str().expect("a key"))
}

/// All scopes.
const SCOPES: [&str; 9] = [
    "contracts:load",
    "contracts:execute",
    "contracts:read",
    "contracts:unload",
    "calls:read",
    "logs:read",
    "farm:read",
    "farm:operate",
    "keys:manage",
];

/// Unloads the contracts of all tenants, and ends the farm.
pub(crate) async fn stop(farm: Farm) {
    let admin = farm.client();
    let contracts = admin.get("/contracts?tenant=*&limit=1000").await.json();
    for contract in contracts.as_array().expect("a list") {
        let text = |field: &str| contract[field].as_str().map(str::to_owned);
        let (Some(address), Some(tenant)) = (text("contractAddress"), text("tenant")) else {
            continue;
        };
        let client = of_tenant(admin, &tenant, &["contracts:unload"]).await;
        client.unload(&address).await.is_no_content();
    }
    farm.stop().await;
}

/// A client with a new key for these scopes.
async fn caller(admin: &Client, scopes: &[&str]) -> Client {
    admin.as_caller(&create(admin, scopes).await.1)
}

/// The scope that a security requirement of an operation names. `None`: it needs nothing.
fn scope(operation: &Value) -> Option<String> {
    let needs = operation["security"].as_array();
    let needs = needs.unwrap_or_else(|| panic!("nobody said what this route needs: {operation}"));
    let need = needs.first()?;
    let scope = need["key"][0].as_str();
    Some(
        scope
            .unwrap_or_else(|| panic!("no scope: {need}"))
            .to_owned(),
    )
}
