//! While Redis is away nothing is lost that was promised, and everyone is told.

use serde_json::json;

use crate::support::farm::Farm;
use crate::support::wait::{self, PATIENCE};

const CONTRACT: &str = "{ echo: (a) => a }";

#[tokio::test]
async fn without_redis_a_call_is_refused_and_may_be_tried_again() {
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
        "the api to say that it cannot serve",
        PATIENCE,
        async || client.get("/readyz").await.status == 503,
    )
    .await;

    // An empty Redis comes back: whoever loads again is served again.
    farm.restart_redis().await;
    wait::until_true("the api to say that it can serve", PATIENCE, async || {
        client.get("/readyz").await.status == 200
    })
    .await;
    client.must_load("again", CONTRACT).await;
    assert_eq!(client.execute("again", "echo", &json!(1)).await.data(), 1);
    farm.stop_whatever_is_in_redis().await;
}
