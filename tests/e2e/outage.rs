//! While Redis is down, nothing that was promised is lost, and callers receive an error.

use serde_json::{Value, json};

use crate::support::farm::Farm;
use crate::support::wait::{self, DEFAULT_LIMIT};

const CONTRACT: &str = "{ echo: (a) => a }";

#[tokio::test]
async fn a_call_during_a_redis_outage_is_refused_and_can_be_retried() {
    let mut farm = Farm::start().await;
    let client = farm.client().clone();
    client.must_load("abcd", CONTRACT).await;
    farm.redis.process.kill().await;
    client
        .call("abcd", "echo")
        .await
        .error(503, "queue_unavailable");
    client
        .load("other", CONTRACT)
        .await
        .error(503, "queue_unavailable");
    client.unload("abcd").await.error(503, "queue_unavailable");
    client
        .get("/contracts")
        .await
        .error(503, "queue_unavailable");
    assert_eq!(client.get("/healthz").await.status, 200);
    wait::until_true(
        "the api to say that it can run nothing",
        DEFAULT_LIMIT,
        async || client.farm_status().await.as_deref() == Some("unavailable"),
    )
    .await;
    // No load balancer may take it out of service: callers and operators would get no response.
    let ready = client.get("/readyz").await;
    assert_eq!(
        (ready.status, &ready.json()["workers"]),
        (200, &Value::Null)
    );
    let reason = ready.json()["reason"].as_str().map(str::to_owned);
    assert!(
        reason.is_some_and(|reason| reason.contains("queue")),
        "{ready:?}"
    );

    // Redis comes back empty. A contract that is loaded again is served again.
    farm.restart_redis().await;
    wait::until_true(
        "the api to say that it can serve",
        DEFAULT_LIMIT,
        async || client.farm_status().await.as_deref() == Some("ready"),
    )
    .await;
    client.must_load("again", CONTRACT).await;
    assert_eq!(client.execute("again", "echo", &json!(1)).await.data(), 1);
    farm.stop_ignoring_keys().await;
}
