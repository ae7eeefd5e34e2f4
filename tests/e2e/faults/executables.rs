//! The executables stored in Redis. Without them no other worker can take over a contract.

use serde_json::json;
use shared::queue::blobs::digest;

use super::{FAILOVER, builder, shared};
use crate::support::call_log::CONTRACT;
use crate::support::wait::{self, DEFAULT_LIMIT};

#[tokio::test]
async fn fault_18_redis_fails_to_record_a_load_at_first() {
    let _machine = shared().await;
    let mut farm = builder().start().await;
    let client = farm.client().clone();
    // As long as this key is not a set, nothing can be added to it.
    let references = format!("exec:{{blob:{}}}:refs", digest(CONTRACT.as_bytes()));
    farm.redis_command::<()>(&["SET", &references, "in the way"])
        .await;
    client.must_load("recorder", CONTRACT).await;
    farm.redis_command::<()>(&["DEL", &references]).await;
    wait::until_true("the load to be recorded", DEFAULT_LIMIT, async || {
        let known: Vec<String> = farm.redis_command(&["SMEMBERS", &references]).await;
        matches!(&known[..], [load] if load.starts_with("recorder@"))
    })
    .await;
    farm.join().await;
    farm.workers[0].kill().await;
    let answer = wait::until("an answer", FAILOVER, async || {
        Some(client.execute("recorder", "add", &json!(1)).await)
    })
    .await;
    assert_eq!(answer.data()["count"], 1);
    farm.wait_until_recovered().await;
    farm.stop().await;
}

#[tokio::test]
async fn fault_12_a_contract_whose_executable_is_missing() {
    let _machine = shared().await;
    let mut farm = builder().start().await;
    let client = farm.client().clone();
    client.must_load("recorder", CONTRACT).await;
    let executable = format!("exec:{{blob:{}}}", digest(CONTRACT.as_bytes()));
    let removed: u64 = farm.redis_command(&["DEL", &executable]).await;
    assert_eq!(removed, 1);
    // The owning worker holds the executable itself, so calls still succeed.
    assert_eq!(
        client.execute("recorder", "add", &json!(1)).await.data()["count"],
        1
    );
    farm.join().await;
    farm.workers[0].kill().await;
    wait::until_true(
        "the contract to be reported as not loaded",
        DEFAULT_LIMIT,
        async || {
            let answer = client.execute("recorder", "add", &json!(2)).await;
            answer.json()["code"] == "contract_not_loaded"
        },
    )
    .await;
    let letters = client.dead_letters().await;
    assert_eq!(letters.len(), 1, "{letters:#?}");
    assert_eq!(
        (&letters[0]["kind"], &letters[0]["contract"]),
        (&json!("lost"), &json!("recorder"))
    );
    client.must_load("recorder", CONTRACT).await;
    assert_eq!(
        client.execute("recorder", "add", &json!(3)).await.data()["count"],
        1
    );
    farm.redis_command::<()>(&["DEL", "exec:dead-letters"])
        .await;
    farm.wait_until_recovered().await;
    farm.stop().await;
}
