//! Contracts that repeatedly crash their worker or page are quarantined.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{builder, generations, load_recorders, shared};
use crate::support::call_log::CONTRACT;
use crate::support::client::{Answer, Client};
use crate::support::farm::Farm;
use crate::support::wait::{self, DEFAULT_LIMIT};

#[tokio::test]
async fn fault_12_a_contract_whose_worker_dies_three_times() {
    let _machine = shared().await;
    // One contract per worker, so that the killed workers own no other contract.
    let mut farm = builder()
        .workers(0)
        .env("WORKER_CAPACITY", "1")
        .start()
        .await;
    let mut members = vec![farm.join().await, farm.join().await];
    let client = farm.client().clone();
    let addresses = load_recorders(&client, 2).await;
    let before = client.generation(&addresses[1]).await;
    for death in 1..=3 {
        let owner = client.owner(&addresses[0]).await.expect("it has an owner");
        members.push(farm.join().await);
        let member = members
            .iter()
            .find(|member| member.id == owner)
            .expect("a worker of the farm");
        let index = member.index;
        // The call that is in flight when the worker dies. Only a call in flight counts as a cause.
        let running = tokio::spawn(slow_call(client.clone(), addresses[0].clone(), death));
        wait::until_true("the call to run", DEFAULT_LIMIT, async || {
            client.contract(&addresses[0]).await["queueDepth"] != 0
        })
        .await;
        farm.workers[index].kill().await;
        let answer = running.await.expect("the caller does not panic");
        if death < 3 {
            assert_eq!(answer.data()["count"], 1, "{answer:?}");
        } else {
            // The call was assigned to a worker, so it must not be reported as never started.
            let error = answer.error(502, "outcome_unknown");
            assert!(error["started"].is_null(), "{error}");
        }
    }
    let answer = client.execute(&addresses[0], "add", &json!(4)).await;
    assert_eq!(answer.error(503, "contract_quarantined")["started"], false);
    assert_eq!(client.contract(&addresses[0]).await["state"], "quarantined");
    let untouched = client.execute(&addresses[1], "add", &json!(1)).await;
    assert_eq!(
        (untouched.data()["count"].clone(), untouched.generation()),
        (json!(1), before)
    );

    // Loading the contract again lifts the quarantine.
    client.must_load(&addresses[0], CONTRACT).await;
    assert_eq!(
        client.execute(&addresses[0], "add", &json!(9)).await.data()["count"],
        1
    );
    assert_eq!(client.contract(&addresses[0]).await["state"], "ready");
    delete_the_dead_letter(&farm, &addresses[0]).await;
    farm.wait_until_recovered().await;
    farm.stop().await;
}

async fn slow_call(client: Client, address: String, id: u64) -> Answer {
    let argument = json!({ "id": id, "ms": 1_000 });
    client.execute(&address, "wait", &argument).await
}

#[tokio::test]
async fn fault_12_a_contract_whose_page_crashes_five_times() {
    const QUARANTINE: Duration = Duration::from_secs(4);
    let _machine = shared().await;
    let mut farm = builder()
        .env("CHROMIUM_HEAP_MB", "64")
        .env("QUARANTINE_MS", "4000")
        .start()
        .await;
    let client = farm.client().clone();
    let addresses = load_recorders(&client, 2).await;
    let before = generations(&client, &addresses).await;
    // Calls that overrun their limit also cost a page, but do not count.
    for _ in 0..2 {
        client
            .call(&addresses[1], "forever")
            .await
            .error(504, "execution_timeout");
    }
    let quarantined = wait::until("the quarantine", DEFAULT_LIMIT, async || {
        let answer = client.call(&addresses[0], "fill").await;
        Some(answer).filter(|answer| answer.status != 500)
    })
    .await;
    let since = Instant::now();
    quarantined.error(503, "contract_quarantined");
    assert_eq!(client.contract(&addresses[0]).await["state"], "quarantined");
    assert_eq!(
        client.execute(&addresses[1], "add", &json!(1)).await.data()["count"],
        1
    );
    assert!(client.generation(&addresses[1]).await > before[1]);
    // The quarantine ends by itself.
    let answer = wait::until("the end of the quarantine", DEFAULT_LIMIT, async || {
        let answer = client.execute(&addresses[0], "add", &json!(1)).await;
        if answer.status != 200 {
            answer.error(503, "contract_quarantined");
        }
        Some(answer).filter(|answer| answer.status == 200)
    })
    .await;
    let lasted = since.elapsed();
    eprintln!("a quarantine of {QUARANTINE:?} has lasted {lasted:.2?}");
    assert!(lasted > QUARANTINE / 2, "{lasted:?}");
    assert!(answer.generation() > before[0]);
    delete_the_dead_letter(&farm, &addresses[0]).await;
    farm.wait_until_recovered().await;
    farm.stop().await;
}

#[tokio::test]
async fn fault_12_a_contract_that_the_next_worker_cannot_load() {
    /// Takes two seconds to evaluate.
    const SLOW: &str = "const end = Date.now() + 2000; while (Date.now() < end);
        function init() { return { one: () => 1 } }";
    let _machine = shared().await;
    let mut farm = builder().start().await;
    let client = farm.client().clone();
    client.must_load("slow", SLOW).await;
    let impatient = farm.join_with(&[("LOAD_TIMEOUT_MS", "1000")]).await;
    farm.workers[0].kill().await;
    let answer = wait::until("the quarantine", DEFAULT_LIMIT, async || {
        let answer = client.call("slow", "one").await;
        Some(answer).filter(|answer| answer.json()["code"] == "contract_quarantined")
    })
    .await;
    answer.error(503, "contract_quarantined");
    // The contract is still known. It runs again on a worker that gives it enough time to load.
    assert_eq!(client.contract("slow").await["state"], "quarantined");
    farm.join().await;
    farm.workers[impatient.index].terminate().await;
    client.must_load("slow", SLOW).await;
    assert_eq!(client.call("slow", "one").await.data(), 1);
    delete_the_dead_letter(&farm, "slow").await;
    farm.wait_until_recovered().await;
    farm.stop().await;
}

/// Checks that there is exactly one dead letter, which names the contract, and deletes it.
async fn delete_the_dead_letter(farm: &Farm, address: &str) {
    let client: &Client = farm.client();
    let letters = client.dead_letters().await;
    let of_kind: Vec<&Value> = letters
        .iter()
        .filter(|letter| letter["kind"] == "quarantine")
        .collect();
    let [letter] = of_kind[..] else {
        panic!("expected one quarantined contract: {letters:#?}")
    };
    assert!(letter.to_string().contains(address), "{letter}");
    assert_eq!(letters.len(), 1, "{letters:#?}");
    let path = format!(
        "/dead-letters/{}",
        letter["id"].as_str().expect("an id is text")
    );
    let delete = client.request(reqwest::Method::DELETE, &path);
    crate::support::client::send(delete).await.is_no_content();
    farm.redis_command::<()>(&["DEL", "exec:dead-letters"])
        .await;
}
