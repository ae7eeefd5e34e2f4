//! While Redis is down, nothing that was promised is lost, and callers receive an error.

use serde_json::json;

use crate::support::farm::Farm;
use crate::support::wait::{self, DEFAULT_LIMIT};

const CONTRACT: &str = "{ echo: (a) => a }";

#[tokio::test]
async fn a_call_during_a_redis_outage_is_refused_and_can_be_retried() {
    let mut farm = Farm::start().await;
    let client = farm.client().clone();
    client.must_load("abcd", CONTRACT).await;
    farm.redis.process().kill().await;
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
        "the api to say that it cannot serve",
        DEFAULT_LIMIT,
        async || client.get("/readyz").await.status == 503,
    )
    .await;

    // Redis comes back empty. A contract that is loaded again is served again.
    farm.restart_redis().await;
    wait::until_true(
        "the api to say that it can serve",
        DEFAULT_LIMIT,
        async || client.get("/readyz").await.status == 200,
    )
    .await;
    client.must_load("again", CONTRACT).await;
    assert_eq!(client.execute("again", "echo", &json!(1)).await.data(), 1);
    farm.stop_ignoring_keys().await;
}
