//! The registry of contracts and executables: pages, races of loads and unloads, the sweep.

use shared::queue::blobs::digest;
use shared::queue::listing::{ContractPage, Position};

use super::*;

const AGES_AGO: &str = "1000";

/// Loads contracts and returns their owner.
async fn load(queue: &Queue, addresses: &[&str]) -> WorkerId {
    let worker = worker(queue).await;
    for contract in addresses {
        let contract = ContractAddress::try_from((*contract).to_owned()).unwrap();
        super::load(queue, &contract, worker, &spec("1")).await;
    }
    worker
}

async fn standing(queue: &Queue, contract: &ContractAddress) -> Standing {
    queue.ownership(contract).await.unwrap().standing
}

async fn unload(queue: &Queue, contract: &ContractAddress) {
    let expected = standing(queue, contract).await;
    let unloaded = queue.unload(contract, expected).await.unwrap();
    assert!(unloaded.done().is_some());
}

fn names(page: &ContractPage) -> Vec<&str> {
    let contracts = page.contracts.iter();
    contracts.map(|listed| listed.address.as_str()).collect()
}

/// Reads all pages and returns their contracts.
async fn pages(queue: &Queue, limit: usize) -> Vec<Vec<String>> {
    let (mut pages, mut after) = (Vec::new(), None::<Position>);
    loop {
        let page = queue.list_contracts(after.as_ref(), limit).await.unwrap();
        pages.push(names(&page).into_iter().map(str::to_owned).collect());
        after = page.next;
        if after.is_none() {
            return pages;
        }
    }
}

/// How often each command was run since the last call.
async fn commands(redis: &Redis) -> Vec<String> {
    let counts = redis.command_counts().await;
    redis.command::<()>(&["CONFIG", "RESETSTAT"]).await;
    let ours = |name: &str| !matches!(name, "info" | "config|resetstat" | "ping");
    let names = counts.iter().filter(|(name, _)| ours(name));
    let names = names.map(|(name, count)| format!("{name} {count}"));
    let mut names: Vec<_> = names.filter(|name| !name.starts_with("client")).collect();
    names.retain(|name| !name.starts_with("cluster"));
    names.sort();
    names
}

#[tokio::test]
async fn contracts_are_listed_by_pages() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    assert_eq!(pages(&queue, 2).await, [Vec::<String>::new()]);
    let owner = load(&queue, &["e", "d", "c", "b", "a"]).await;
    for (score, name) in ["e", "d", "c", "b", "a"].into_iter().enumerate() {
        redis
            .command::<()>(&["ZADD", "test:contracts", &score.to_string(), name])
            .await;
    }
    assert_eq!(
        pages(&queue, 2).await,
        [vec!["e", "d"], vec!["c", "b"], vec!["a"]]
    );
    assert_eq!(pages(&queue, 5).await, [["e", "d", "c", "b", "a"]]);
    let page = queue.list_contracts(None, 1).await.unwrap();
    assert!(page.living.contains(&owner));

    // The contract that the next page begins after may be gone, and others may have moved.
    unload(&queue, &address("e")).await;
    queue.enlist_contract(&address("d")).await.unwrap();
    let next = queue.list_contracts(page.next.as_ref(), 9).await.unwrap();
    assert_eq!(names(&next), ["c", "b", "a", "d"]);
}

#[tokio::test]
async fn contracts_of_one_moment_are_listed_by_pages() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    load(&queue, &["a", "b", "c", "d", "e", "f", "g"]).await;
    for contract in ["a", "b", "c", "d", "e", "f", "g"] {
        redis
            .command::<()>(&["ZADD", "test:contracts", AGES_AGO, contract])
            .await;
    }
    let expected = [vec!["a", "b"], vec!["c", "d"], vec!["e", "f"], vec!["g"]];
    assert_eq!(pages(&queue, 2).await, expected);
}

#[tokio::test]
async fn replicas_are_listed_with_their_contract() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (worker, three) = (
        worker(&queue).await,
        ContractSpec {
            replicas: 3,
            ..spec("1")
        },
    );
    for number in [3, 1, 2] {
        let replica = address("a").replica(number);
        super::load(&queue, &replica, worker, &three).await;
    }
    load(&queue, &["b"]).await;
    assert_eq!(pages(&queue, 1).await, [["a"], ["b"]]);
    let page = queue.list_contracts(None, 1).await.unwrap();
    assert_eq!(page.contracts[0].replicas.len(), 2);
}

/// One command finds the page, one pipeline reads all records, whatever the page's length.
#[tokio::test]
async fn a_page_costs_two_round_trips_and_no_walk_of_the_keys() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    load(&queue, &["a", "b", "c"]).await;
    commands(&redis).await;
    queue.list_contracts(None, 10).await.unwrap();
    assert_eq!(commands(&redis).await, ["hmget 3", "zrange 2"]);
}

#[tokio::test]
async fn an_unreadable_record_does_not_hide_the_others() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    load(&queue, &["a", "b"]).await;
    redis
        .command::<()>(&["HSET", "test:{c:a}", "spec", "{"])
        .await;
    assert_eq!(pages(&queue, 10).await, [["b"]]);
}

#[tokio::test]
async fn an_unloaded_contract_leaves_the_registry() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    load(&queue, &["a"]).await;
    let wrong = Standing::unassigned(standing(&queue, &address("a")).await.generation);
    let refused = queue.unload(&address("a"), wrong).await.unwrap();
    assert_eq!(refused.done(), None);
    assert_eq!(pages(&queue, 10).await, [["a"]], "it has an owner");
    unload(&queue, &address("a")).await;
    assert!(!redis.keys().await.contains(&"test:contracts".to_owned()));
}

/// A load that comes between the removal of the record and that of the entry keeps its entry.
#[tokio::test]
async fn an_unload_and_a_load_at_once_leave_the_contract_listed() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (contract, other) = (address("a"), worker(&queue).await);
    for _ in 0..200 {
        load(&queue, &["a"]).await;
        let loading = async {
            queue.enlist_contract(&contract).await.unwrap();
            while standing(&queue, &contract).await.owner.is_some() {}
            super::load(&queue, &contract, other, &spec("2")).await;
        };
        tokio::join!(unload(&queue, &contract), loading);
        assert_eq!(pages(&queue, 10).await, [["a"]]);
        redis.command::<()>(&["DEL", "test:{c:a}"]).await;
    }
}

#[tokio::test]
async fn a_farm_without_registry_gets_one() {
    // No version without a registry could run on a cluster.
    let redis = Redis::of_kind(Kind::One);
    let queue = redis.queue().await;
    let contracts: Vec<String> = (0..25).map(|number| format!("c{number}")).collect();
    load(
        &queue,
        &contracts.iter().map(String::as_str).collect::<Vec<_>>(),
    )
    .await;
    let content = b"{ a() {} }";
    let digest = digest(content);
    let reference = Reference::new(&address("c1"), &LoadId::new(1));
    queue
        .store_blob(&digest, content, &reference)
        .await
        .unwrap();
    redis
        .command::<()>(&["DEL", "test:contracts", "test:blobs"])
        .await;

    // Two at once: one does it, or both do the same.
    let filled = tokio::join!(queue.fill_registry(), queue.fill_registry());
    assert!(filled.0.is_ok() && filled.1.is_ok());
    let listed = pages(&queue, 4).await;
    assert_eq!(listed.len(), 7);
    let mut listed = listed.concat();
    listed.sort();
    let mut expected = contracts;
    expected.sort();
    assert_eq!(listed, expected);
    let blobs: Vec<String> = redis.command(&["ZRANGE", "test:blobs", "0", "-1"]).await;
    assert_eq!(blobs, [digest]);
    assert!(!redis.keys().await.contains(&"test:lock:fill".to_owned()));

    // It is done once.
    commands(&redis).await;
    queue.fill_registry().await.unwrap();
    assert_eq!(commands(&redis).await, ["exists 1"]);
}

#[tokio::test]
async fn entries_that_are_missing_are_added() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    load(&queue, &["a", "b"]).await;
    let (contracts, blobs) = ([address("a"), address("b"), address("c")], ["1", "1"]);
    redis.command::<()>(&["ZREM", "test:contracts", "a"]).await;
    let listed = queue.enlist_missing(&contracts, &blobs).await.unwrap();
    assert_eq!(listed, 3, "two contracts and one executable");
    commands(&redis).await;
    let listed = queue.enlist_missing(&contracts, &blobs).await.unwrap();
    assert_eq!(listed, 0);
    assert_eq!(commands(&redis).await, ["zmscore 2"]);
    assert_eq!(pages(&queue, 10).await.concat().len(), 2, "c is not loaded");
}

#[tokio::test]
async fn the_sweep_removes_old_entries_without_contract() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    load(&queue, &["loaded", "reloaded"]).await;
    for (score, name) in [
        (AGES_AGO, "gone"),
        (AGES_AGO, "loaded"),
        (AGES_AGO, "gone~2"),
    ] {
        redis
            .command::<()>(&["ZADD", "test:contracts", score, name])
            .await;
    }
    // Staged a moment ago: its record is about to be written.
    queue.enlist_contract(&address("staged")).await.unwrap();
    redis
        .command::<()>(&["ZADD", "test:blobs", AGES_AGO, "unused"])
        .await;
    assert!(queue.sweep().await.unwrap());
    let left: Vec<String> = redis
        .command(&["ZRANGE", "test:contracts", "0", "-1"])
        .await;
    assert_eq!(left, ["loaded", "reloaded", "staged"]);
    assert!(!redis.keys().await.contains(&"test:blobs".to_owned()));
}

#[tokio::test]
async fn the_sweep_offers_contracts_that_nobody_owns() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    load(&queue, &["free", "owned", "lost", "quarantined"]).await;
    let free = standing(&queue, &address("free")).await;
    queue.drop_ownership(&address("free"), free).await.unwrap();
    let quarantined = standing(&queue, &address("quarantined")).await;
    queue
        .quarantine(&address("quarantined"), quarantined, 60_000)
        .await
        .unwrap();
    let gone = WorkerId::random().to_string();
    redis
        .command::<()>(&["HSET", "test:{c:lost}", "owner", &gone])
        .await;
    assert!(queue.sweep().await.unwrap());
    let mut offers =
        placement::Reader::new(queue.clone(), EngineKind::Javascript, WorkerId::random());
    let mut offered = Vec::new();
    while offered.len() < 2 {
        if let Some(offer) = offers.read().await {
            let frame = unpack_jobs(&offer.frame).unwrap();
            let Job::Load(load) = &frame.jobs[0].job else {
                panic!("{frame:?}")
            };
            offered.push(load.address.to_string());
        }
    }
    assert_eq!(offered, ["free", "lost"]);
    let left: u64 = redis.command(&["XLEN", "test:place:javascript"]).await;
    assert_eq!(left, 2, "only these");
}

/// A replica whose contract is gone can be reached by nobody. One of a load that is still under way
/// is left alone.
#[tokio::test]
async fn the_sweep_unloads_replicas_without_their_contract() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let two = ContractSpec {
        replicas: 2,
        ..spec("1")
    };
    let owner = worker(&queue).await;
    for name in [
        "whole", "whole~2", "fewer", "fewer~2", "free~2", "owned~2", "young~2",
    ] {
        let contract = ContractAddress::try_from(name.to_owned()).unwrap();
        let spec = if name == "fewer" {
            spec("1")
        } else {
            two.clone()
        };
        super::load(&queue, &contract, owner, &spec).await;
        if name != "young~2" {
            redis
                .command::<()>(&["ZADD", "test:contracts", AGES_AGO, name])
                .await;
        }
    }
    let free = address("free").replica(2);
    let expected = standing(&queue, &free).await;
    queue.drop_ownership(&free, expected).await.unwrap();
    assert!(queue.sweep().await.unwrap());

    assert!(queue.contract(&free).await.unwrap().is_none());
    let mut inbox = inbox::Reader::new(queue.clone(), owner);
    let mut asked = Vec::new();
    while asked.len() < 2 {
        for received in inbox.read().await {
            let frame = unpack_jobs(&received.frame).unwrap();
            let Job::Unload(unload) = &frame.jobs[0].job else {
                panic!("{frame:?}")
            };
            asked.push(unload.address.to_string());
        }
    }
    asked.sort();
    assert_eq!(asked, ["fewer~2", "owned~2"]);
    let left: u64 = redis.command(&["XLEN", &queue.keys().inbox(owner)]).await;
    assert_eq!(left, 2, "only these");
    let left: Vec<String> = redis
        .command(&["ZRANGE", "test:contracts", "0", "-1"])
        .await;
    let kept = ["fewer", "fewer~2", "owned~2", "whole", "whole~2", "young~2"];
    assert_eq!(left, kept);
}

/// However many processes try, the farm is swept once per interval.
#[tokio::test]
async fn one_process_sweeps_at_a_time() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    load(&queue, &["a"]).await;
    let swept = four_sweeps(&queue).await;
    assert_eq!(swept.iter().filter(|swept| **swept).count(), 1);
    assert!(redis.expires("test:lock:sweep").await);
    assert!(!queue.sweep().await.unwrap(), "it was swept just now");
}

async fn four_sweeps(queue: &Queue) -> Vec<bool> {
    let mut swept = Vec::new();
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            tokio::spawn({
                let queue = queue.clone();
                async move { queue.sweep().await.unwrap() }
            })
        })
        .collect();
    for task in tasks {
        swept.push(task.await.unwrap());
    }
    swept
}

/// Whoever asks for a contract that is not loaded changes nothing in Redis.
#[tokio::test]
async fn the_farm_is_only_written_when_it_is_missing() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let farm = queue.farm(None).await.unwrap();
    commands(&redis).await;
    assert_eq!(queue.farm(Some(&farm)).await.unwrap(), farm);
    assert_eq!(commands(&redis).await, ["get 1"]);
}
