//! Pages, graphics processes and browsers that die.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{alone, builder, generations, load_recorders, shared};
use crate::support::client::Client;
use crate::support::farm::Farm;
use crate::support::load::{Load, Pace};
use crate::support::processes::{self, ProcessInfo};
use crate::support::wait::{self, DEFAULT_LIMIT};

/// From the loss of a page to an answer of its replacement.
const PAGE_RECOVERY: Duration = Duration::from_secs(1);

#[tokio::test]
async fn fault_09_kill_the_renderer_of_a_page() {
    let _machine = alone().await;
    let mut farm = builder().start().await;
    let client = farm.client().clone();
    let addresses = load_recorders(&client, 3).await;
    let work = async {
        let argument = json!({ "id": 0, "ms": 500 });
        client
            .execute(&addresses[0], "work", &argument)
            .await
            .data();
    };
    let renderer = farm.busy_renderer(0, work).await;
    let before = generations(&client, &addresses).await;
    let load = Load::start(&farm.clients, &addresses[1..], Pace::STEADY);
    load.full_pace().await;
    let killed = Instant::now();
    renderer.kill();
    let answer = answers_with_newer_generation(&client, &addresses[0], before[0]).await;
    let took = killed.elapsed();
    eprintln!("kill of a page to its next answer: {took:.2?}");
    assert!(took < PAGE_RECOVERY, "{took:?}");
    assert!(answer > before[0]);
    load.full_pace().await;
    load.end().await.check(&client, &["ok"]).await;
    assert_eq!(
        generations(&client, &addresses[1..]).await,
        before[1..],
        "neighbours were lost"
    );
    farm.wait_until_recovered().await;
    farm.stop().await;
}

#[tokio::test]
async fn fault_09_a_page_out_of_memory() {
    let _machine = alone().await;
    let mut farm = builder().env("CHROMIUM_HEAP_MB", "64").start().await;
    let client = farm.client().clone();
    let addresses = load_recorders(&client, 2).await;
    let before = generations(&client, &addresses).await;
    let load = Load::start(&farm.clients, &addresses[1..], Pace::STEADY);
    load.full_pace().await;
    client
        .call(&addresses[0], "fill")
        .await
        .error(500, "contract_crashed");
    let crashed = Instant::now();
    let answer = answers_with_newer_generation(&client, &addresses[0], before[0]).await;
    let took = crashed.elapsed();
    eprintln!("a page out of memory to its next answer: {took:.2?}");
    assert!(took < PAGE_RECOVERY, "{took:?}");
    assert!(answer > before[0]);
    load.full_pace().await;
    load.end().await.check(&client, &["ok"]).await;
    assert_eq!(
        generations(&client, &addresses[1..]).await,
        before[1..],
        "neighbours were lost"
    );
    farm.wait_until_recovered().await;
    farm.stop().await;
}

/// Calls until a newer generation answers, which must succeed. Returns that generation.
async fn answers_with_newer_generation(client: &Client, address: &str, before: u64) -> u64 {
    wait::until("a new page", DEFAULT_LIMIT, async || {
        let answer = client.execute(address, "known", &json!([])).await;
        assert!([200, 500].contains(&answer.status), "{answer:?}");
        Some(answer)
            .filter(|answer| answer.status == 200)
            .map(|answer| answer.generation())
            .filter(|now| *now > before)
    })
    .await
}

/// Chromium gives up after several deaths of its graphics process, although no page may use it.
/// Then the worker restarts the browser.
#[tokio::test]
async fn fault_09_kill_the_graphics_process() {
    const KILLS: usize = 6;
    let _machine = shared().await;
    let mut farm = builder().start().await;
    let client = farm.client().clone();
    let addresses = load_recorders(&client, 3).await;
    let load = Load::start(&farm.clients, &addresses, Pace::STEADY);
    load.full_pace().await;
    let graphics = |farm: &Farm| {
        let all = processes::descendants(farm.workers[0].pid());
        let mut drawing = all.into_iter();
        drawing.find(|seen| seen.command.contains("--type=gpu-process"))
    };
    for _ in 0..KILLS {
        let drawing = wait::until("the graphics process", DEFAULT_LIMIT, async || {
            graphics(&farm)
        })
        .await;
        drawing.kill();
        let gone = async || !drawing.runs();
        wait::until_true("its end", DEFAULT_LIMIT, gone).await;
        for address in &addresses {
            answers_with_newer_generation(&client, address, 0).await;
        }
    }
    load.full_pace().await;
    load.end().await.check(&client, &["ok"]).await;
    farm.all_run();
    farm.wait_until_recovered().await;
    farm.stop().await;
}

#[tokio::test]
async fn fault_10_kill_the_browser() {
    let _machine = shared().await;
    let mut farm = builder().start().await;
    let client = farm.client().clone();
    let addresses = load_recorders(&client, 10).await;
    let before = generations(&client, &addresses).await;
    let load = Load::start(&farm.clients, &addresses, Pace::STEADY);
    load.full_pace().await;
    let browsers = farm.browsers(0);
    assert_eq!(browsers.len(), 1, "{browsers:#?}");
    let killed = Instant::now();
    browsers.iter().for_each(ProcessInfo::kill);
    for (address, before) in addresses.iter().zip(before) {
        answers_with_newer_generation(&client, address, before).await;
    }
    let took = killed.elapsed();
    eprintln!("kill of the browser until all 10 contracts answer: {took:.2?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    load.full_pace().await;
    load.end().await.check(&client, &["ok"]).await;
    farm.all_run();
    farm.wait_until_recovered().await;
    farm.stop().await;
}
