//! Several apis and workers on one Redis form one service.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::client::Client;
use crate::support::farm::Farm;
use crate::support::wait::{self, DEFAULT_LIMIT};

/// Every contract returns its own name, so that an answer of another contract is noticed.
fn named(name: &str) -> String {
    format!(
        "let calls = 0;
         function who(a) {{ calls += 1; return ['{name}', a] }}
         function calls_so_far() {{ return calls }}
         function init() {{ return {{ who, calls_so_far }} }}"
    )
}

/// Loads contracts `c0`, `c1`, .. concurrently, distributed over all clients.
async fn load_many(clients: &[Client], count: usize) {
    let mut loads = JoinSet::new();
    for number in 0..count {
        let client = clients[number % clients.len()].clone();
        loads.spawn(async move {
            let address = format!("c{number}");
            (client.load(&address, &named(&address)).await, address)
        });
    }
    for (loaded, address) in loads.join_all().await {
        assert_eq!(loaded.status, 204, "{address}: {loaded:?}");
    }
}

#[tokio::test]
async fn two_apis_and_two_workers_share_twenty_contracts() {
    let farm = Farm::builder().apis(2).workers(2).start().await;
    load_many(&farm.clients, 20).await;
    let mut owners = BTreeMap::new();
    for number in 0..20 {
        let owner = farm
            .client()
            .owner(&format!("c{number}"))
            .await
            .expect("an owner");
        *owners.entry(owner).or_insert(0) += 1;
    }
    assert_eq!(owners.len(), 2, "{owners:?}");
    assert!(
        owners.values().all(|contracts| *contracts >= 5),
        "{owners:?}"
    );

    // 200 simultaneous calls: each receives the answer to its own argument, from its own contract.
    let mut calls = JoinSet::new();
    for number in 0..200 {
        let client = farm.clients[number % 2].clone();
        let address = format!("c{}", number % 20);
        calls.spawn(async move {
            let argument = json!({ "number": number, "text": format!("n{number}") });
            let answer = client.execute(&address, "who", &argument).await;
            assert_eq!(answer.data(), json!([address, argument]));
        });
    }
    calls.join_all().await;
    for number in 0..20 {
        let calls = farm.clients[number % 2]
            .call(&format!("c{number}"), "calls_so_far")
            .await;
        assert_eq!(calls.data(), 10, "c{number}");
    }
    farm.stop().await;
}

#[tokio::test]
async fn a_fresh_worker_takes_the_next_contracts() {
    let builder = Farm::builder().env("WORKER_CAPACITY", "16");
    let mut farm = builder.start().await;
    for number in 0..8 {
        let address = format!("old{number}");
        farm.client().must_load(&address, &named(&address)).await;
    }
    let old = farm.client().owner("old0").await;
    farm.add_worker().await;
    let client = farm.client();
    // In turns, three of six would go to each.
    wait::until_true("the fresh worker to take them", DEFAULT_LIMIT, async || {
        let mut all_fresh = true;
        for number in 0..6 {
            let address = format!("new{number}");
            client.must_load(&address, &named(&address)).await;
            all_fresh &= client.owner(&address).await != old;
        }
        for number in 0..6 {
            client.unload(&format!("new{number}")).await.is_no_content();
        }
        all_fresh
    })
    .await;
    farm.stop().await;
}

#[tokio::test]
async fn concurrent_calls_of_one_contract_get_their_own_answers() {
    let farm = Farm::builder().apis(2).start().await;
    let client = farm.client();
    let executable = "{
        now: (a) => ['now', a],
        later: async (a) => { await null; return ['later', a] },
        fails: (a) => { throw new Error('no ' + a) },
    }";
    client.must_load("busy", executable).await;
    let mut calls = JoinSet::new();
    for number in 0..200 {
        let client = farm.clients[number % 2].clone();
        calls.spawn(async move {
            let argument = json!(number);
            match number % 3 {
                0 => assert_eq!(
                    client.execute("busy", "now", &argument).await.data(),
                    json!(["now", number])
                ),
                1 => assert_eq!(
                    client.execute("busy", "later", &argument).await.data(),
                    json!(["later", number])
                ),
                _ => assert_eq!(
                    client
                        .execute("busy", "fails", &argument)
                        .await
                        .error_text(500, "execution_failed"),
                    format!("Error: no {number}")
                ),
            }
        });
    }
    calls.join_all().await;
    farm.stop().await;
}

#[tokio::test]
async fn every_api_reports_the_same_state() {
    let farm = Farm::builder().apis(2).workers(2).start().await;
    let [one, two] = &farm.clients[..] else {
        unreachable!("two apis were asked for")
    };
    one.must_load("abcd", &named("abcd")).await;
    assert_eq!(
        two.execute("abcd", "who", &json!(1)).await.data(),
        json!(["abcd", 1])
    );
    assert_eq!(
        one.execute("abcd", "who", &json!(2)).await.data(),
        json!(["abcd", 2])
    );
    assert_eq!(two.call("abcd", "calls_so_far").await.data(), 2);
    let reported: [Value; 2] = [one.contract("abcd").await, two.contract("abcd").await];
    assert_eq!(reported[0]["host"], reported[1]["host"]);
    assert_eq!(reported[0]["generation"], reported[1]["generation"]);

    // Both apis know the owner by now. Both must learn that the contract is unloaded, and then
    // loaded again.
    two.unload("abcd").await.is_no_content();
    one.call("abcd", "who")
        .await
        .error(404, "contract_not_loaded");
    two.call("abcd", "who")
        .await
        .error(404, "contract_not_loaded");
    assert_eq!(one.contracts().await, Vec::<Value>::new());
    two.must_load("abcd", &named("again")).await;
    assert_eq!(
        one.execute("abcd", "who", &json!(3)).await.data(),
        json!(["again", 3])
    );
    farm.stop().await;
}

#[tokio::test]
async fn farms_share_a_redis_by_their_prefix() {
    let farm = Farm::builder().prefix("other:").start().await;
    farm.client().must_load("abcd", &named("abcd")).await;
    let keys = farm.redis.keys().await;
    assert!(!keys.is_empty());
    assert!(keys.iter().all(|key| key.starts_with("other:")), "{keys:?}");
    farm.stop().await;
}
