//! Secrets are in no log, answer, metric or value of Redis. They are planted, used in right and
//! wrong ways, and then searched for.

use redis::AsyncCommands;
use reqwest::Method;
use serde_json::json;
use tempfile::TempDir;

use super::tokens::Provider;
use super::{SCOPES, create, of_tenant};
use crate::support::client::{Client, send};
use crate::support::farm::Farm;
use crate::support::process::Process;

const PASSWORD: &str = "planted-password-of-redis";

/// A user of Redis with a password that both programs are started with.
async fn with_password(farm: &mut Farm) {
    let mut redis = farm.redis.connection().await;
    redis::cmd("ACL")
        .arg(&["SETUSER", "farm", "on", "~*", "&*", "+@all"])
        .arg(format!(">{PASSWORD}"))
        .exec_async(&mut redis)
        .await
        .expect("a user");
    let url = farm.redis.url();
    let url = url.replace("redis://", &format!("redis://farm:{PASSWORD}@"));
    farm.spawn_api(&[("REDIS_URL", &url)]);
    farm.spawn_worker(&[("REDIS_URL", &url)]);
}

/// All values of Redis, uncompressed.
async fn values(farm: &Farm) -> Vec<String> {
    let mut redis = farm.redis.connection().await;
    let plain = redis::cmd("CONFIG")
        .arg(&["SET", "rdbcompression", "no"])
        .exec_async(&mut redis)
        .await;
    plain.expect("Redis can be configured");
    let mut values = Vec::new();
    for name in farm.redis.keys().await {
        let value: Option<Vec<u8>> = redis::cmd("DUMP")
            .arg(&name)
            .query_async(&mut redis)
            .await
            .expect("a value");
        values.push(name);
        values.push(String::from_utf8_lossy(&value.unwrap_or_default()).into_owned());
    }
    let _: () = redis.ping().await.expect("Redis answers");
    values
}

/// What an api says to a secret that was sent where it does not belong, and to a wrong one.
async fn misplaced(admin: &Client, secret: &str) -> [String; 2] {
    let request = Client::new(admin.port()).request(Method::GET, "/metrics");
    let answer = send(request.header("authorization", format!("Basic {secret}"))).await;
    let refused = admin.as_caller(&format!("{secret}x")).get("/metrics").await;
    [
        answer.body,
        format!("{:?}", refused.headers) + &refused.body,
    ]
}

#[tokio::test]
async fn no_secret_is_anywhere() {
    let folder = TempDir::new().expect("a folder can be made");
    let file = folder.path().join("admin.key");
    let provider = Provider::new();
    let builder = Farm::builder()
        .env("RUST_LOG", "trace")
        .env("ADMIN_KEY_FILE", &file.display().to_string());
    let mut farm = provider
        .trusted_by(builder.env("AUTH", "keys,jwt"))
        .start()
        .await;
    let admin_key = std::fs::read_to_string(&file).expect("the file was written");
    let admin_key = admin_key.trim().to_owned();
    with_password(&mut farm).await;
    farm.clients[0] = farm.clients[0].as_caller(&admin_key);
    let admin = farm.clients[0].clone();
    let (id, key) = create(&admin, &SCOPES).await;
    let token = provider.token("contracts:load contracts:execute farm:read contracts:unload");
    let forged = Provider::new().token("farm:read");
    let with_token = admin.as_caller(&token);
    let contract = "{ echo: (a) => a, fail: () => { throw new Error('no') } }";
    with_token.must_load("abcd", contract).await;
    let mut seen = vec![
        with_token.call("abcd", "echo").await.body,
        with_token.call("abcd", "fail").await.body,
        with_token.get("/metrics").await.body,
        admin.as_caller(&key).get("/contracts").await.body,
        admin.as_caller(&forged).get("/contracts").await.body,
        admin.get("/usage").await.body,
        admin.get("/keys?tenant=*").await.body,
        admin.get(&format!("/keys/{id}")).await.body,
        // Sent by mistake, where texts are repeated in the refusal and in the log.
        admin.post("/keys", &json!({ "scopes": [key] })).await.body,
        admin.get(&format!("/contracts/{key}")).await.body,
        admin.get(&format!("/no/such/{token}")).await.body,
    ];
    let tenant = of_tenant(&admin, "acme", &["farm:read"]).await;
    seen.push(tenant.get("/usage").await.body);
    for secret in [&key, &token, &admin_key] {
        seen.extend(misplaced(&admin, secret).await);
    }
    seen.extend(values(&farm).await);
    with_token.unload("abcd").await.is_no_content();
    seen.extend(farm.apis.iter().chain(&farm.workers).map(Process::log));
    assert!(
        seen.iter().any(|text| text.contains(&id)),
        "the search finds what is there"
    );
    let signature = |token: &str| token.rsplit('.').next().expect("a signature").to_owned();
    let secrets = [
        key[17..].to_owned(),
        admin_key[17..].to_owned(),
        signature(&token),
        signature(&forged),
        PASSWORD.to_owned(),
    ];
    for text in &seen {
        let found = secrets.iter().find(|secret| text.contains(*secret));
        assert_eq!(found, None, "{text}");
    }
    farm.stop_ignoring_keys().await;
}
