//! A key's secret is in the one response that creates it, and nowhere else.

use redis::AsyncCommands;
use reqwest::Method;

use super::{caller, create, start};
use crate::support::client::{Client, send};
use crate::support::farm::Farm;
use crate::support::process::Process;

#[tokio::test]
async fn a_secret_is_in_no_log_metric_or_redis_value() {
    let builder = Farm::builder().env("RUST_LOG", "trace").apis(2);
    let farm = start(builder).await;
    let admin = farm.client();
    let (id, key) = create(admin, &["contracts:load", "contracts:execute", "farm:read"]).await;
    let client = admin.as_caller(&key);
    client.must_load("abcd", "{ echo: (a) => a }").await;
    client.call("abcd", "echo").await.data();
    let mut seen = vec![client.get("/metrics").await.body];
    seen.push(client.get("/contracts").await.body);
    // Sent where it does not belong.
    let request = Client::new(admin.port()).request(Method::GET, "/metrics");
    seen.push(
        send(request.header("authorization", format!("Basic {key}")))
            .await
            .body,
    );
    let wrong = caller(admin, &["farm:read"]).await;
    seen.push(wrong.get(&format!("/keys/{id}")).await.body);
    for path in ["/keys", &format!("/keys/{id}")] {
        seen.push(admin.get(path).await.body);
    }
    let mut redis = farm.redis.connection().await;
    let plain = redis::cmd("CONFIG")
        .arg(&["SET", "rdbcompression", "no"])
        .exec_async(&mut redis)
        .await;
    plain.expect("Redis can be configured");
    for name in farm.redis.keys().await {
        let value: Vec<u8> = redis::cmd("DUMP")
            .arg(&name)
            .query_async(&mut redis)
            .await
            .expect("a value");
        seen.push(name);
        seen.push(String::from_utf8_lossy(&value).into_owned());
    }
    let _: () = redis.ping().await.expect("Redis answers");
    seen.extend(farm.apis.iter().chain(&farm.workers).map(Process::log));
    let secret = &key[17..];
    assert!(
        seen.iter().any(|text| text.contains(&id)),
        "the search finds what is there"
    );
    for text in &seen {
        assert!(!text.contains(secret), "{text}");
    }
    farm.stop().await;
}
