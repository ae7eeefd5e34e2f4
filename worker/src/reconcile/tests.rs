//! What a comparison repairs, on a real Redis.

use shared::protocol::frame::unpack_jobs;
use shared::protocol::job::{EngineKind, Job};
use shared::queue::ownership::Standing;
use shared::queue::placement;

use super::*;
use crate::test_farm::{TestFarm, address, claim, eventually, own, spec, take};

/// Compares, and waits until everything that is to be closed is closed.
async fn compare(worker: &Arc<Worker>) {
    compare_all(worker).await.unwrap();
}

async fn is_closed(worker: &Arc<Worker>, text: &str) {
    let contract = address(text);
    eventually("the contract to be closed", async || {
        worker.contracts.get(&contract).is_none()
    })
    .await;
}

/// The contracts that are offered to the workers.
async fn offered(worker: &Worker, count: usize) -> Vec<String> {
    let queue = worker.queue.clone();
    let mut offers = placement::Reader::new(queue, EngineKind::Javascript, WorkerId::random());
    let mut found = Vec::new();
    while found.len() < count {
        if let Some(offer) = offers.read().await {
            let frame = unpack_jobs(&offer.frame).unwrap();
            let Job::Load(load) = &frame.jobs[0].job else {
                panic!("{frame:?}")
            };
            found.push(load.address.to_string());
        }
    }
    found
}

#[tokio::test]
async fn a_lost_record_is_restored() {
    let farm = TestFarm::start();
    let worker = farm.worker().await;
    let contract = own(&worker, "abcd").await;
    let before = worker.queue.contract(&address("abcd")).await.unwrap();
    farm.command::<()>(&["DEL", "test:{c:abcd}", "test:contracts"])
        .await;
    compare(&worker).await;
    let after = worker.queue.contract(&address("abcd")).await.unwrap();
    assert!(after.is_some() && after == before, "{after:?}");
    assert_eq!(contract.tenure.worker(), worker.id());
    let listed = worker.queue.list_contracts(None, 10).await.unwrap();
    assert_eq!(listed.contracts.len(), 1, "it is listed as well");
}

/// Redis has lost the last change of a record, not the whole of it.
#[tokio::test]
async fn a_record_that_was_set_back_is_restored() {
    let farm = TestFarm::start();
    let worker = farm.worker().await;
    let contract = own(&worker, "abcd").await;
    let earlier = contract.tenure.generation() - 1;
    let earlier = earlier.to_string();
    farm.command::<()>(&["HSET", "test:{c:abcd}", "gen", &earlier, "owner", ""])
        .await;
    compare(&worker).await;
    let expected = Standing::of(worker.id(), contract.tenure.generation());
    assert_eq!(farm.standing(&worker, &address("abcd")).await, expected);
    assert!(worker.contracts.get(&address("abcd")).is_some());
}

#[tokio::test]
async fn a_contract_that_another_worker_has_taken_is_closed() {
    let farm = TestFarm::start();
    let worker = farm.worker().await;
    own(&worker, "abcd").await;
    own(&worker, "kept").await;
    let other = farm.worker().await;
    let generation = take(&other.queue, "abcd", other.id()).await;
    compare(&worker).await;
    is_closed(&worker, "abcd").await;
    let expected = Standing::of(other.id(), generation);
    assert_eq!(farm.standing(&worker, &address("abcd")).await, expected);
    assert!(worker.contracts.get(&address("kept")).is_some());
    assert_eq!(worker.contracts.len(), 1, "its capacity is free");
}

#[tokio::test]
async fn an_unloaded_contract_is_closed_and_does_not_rise_again() {
    let farm = TestFarm::start();
    let worker = farm.worker().await;
    own(&worker, "abcd").await;
    let standing = farm.standing(&worker, &address("abcd")).await;
    let unloaded = worker.queue.unload(&address("abcd"), standing).await;
    assert!(unloaded.unwrap().done().is_some());
    compare(&worker).await;
    is_closed(&worker, "abcd").await;
    let record = worker.queue.contract(&address("abcd")).await.unwrap();
    assert_eq!(record, None);
}

#[tokio::test]
async fn a_quarantined_contract_is_closed_and_stays_quarantined() {
    let farm = TestFarm::start();
    let worker = farm.worker().await;
    own(&worker, "abcd").await;
    let standing = farm.standing(&worker, &address("abcd")).await;
    let quarantined = worker
        .queue
        .quarantine(&address("abcd"), standing, 60_000)
        .await;
    assert!(quarantined.unwrap().done().is_some());
    compare(&worker).await;
    is_closed(&worker, "abcd").await;
    let found = worker.queue.ownership(&address("abcd")).await.unwrap();
    assert!(found.quarantined && found.standing.owner.is_none());
}

/// The answer of a claim was lost, or a claim could not be withdrawn: the registry assigns
/// contracts to this worker that it does not have.
#[tokio::test]
async fn an_assignment_that_the_worker_does_not_know_is_dropped_and_offered() {
    let farm = TestFarm::start();
    let worker = farm.worker().await;
    own(&worker, "kept").await;
    take(&worker.queue, "stale", worker.id()).await;
    // The list is a superset: it may name what the worker never got.
    let other = farm.worker().await.id();
    take(&worker.queue, "others", other).await;
    let own_list = worker.queue.keys().own(worker.id());
    farm.command::<()>(&["SADD", &own_list, "others", "nothing"])
        .await;
    compare(&worker).await;
    let stale = farm.standing(&worker, &address("stale")).await;
    assert_eq!(stale.owner, None);
    assert_eq!(offered(&worker, 1).await, ["stale"]);
    let others = farm.standing(&worker, &address("others")).await;
    assert_eq!(others.owner, Some(other), "it is another worker's");
    let listed: Vec<String> = farm.command(&["SMEMBERS", &own_list]).await;
    assert_eq!(listed, ["kept"]);
    let waiting: u64 = farm.command(&["XLEN", "test:place:javascript"]).await;
    assert_eq!(waiting, 1, "only this one is offered");
}

/// A load or an unload that is under way decides itself.
#[tokio::test]
async fn a_comparison_leaves_contracts_alone_that_are_being_loaded() {
    let farm = TestFarm::start();
    let worker = farm.worker().await;
    let (loading, _ends) = claim(&worker, "loading").await;
    own(&worker, "locked").await;
    take(&worker.queue, "unknown", worker.id()).await;
    let _locks = [
        worker.contracts.lock(&address("locked")).await,
        worker.contracts.lock(&address("unknown")).await,
    ];
    farm.command::<()>(&["DEL", "test:{c:locked}", "test:{c:loading}"])
        .await;
    compare(&worker).await;
    assert!(worker.contracts.get(&address("loading")).is_some());
    assert!(!loading.tenure.is_in_service());
    for contract in ["loading", "locked"] {
        let record = worker.queue.contract(&address(contract)).await.unwrap();
        assert_eq!(record, None, "{contract}");
    }
    let unknown = farm.standing(&worker, &address("unknown")).await;
    assert_eq!(unknown.owner, Some(worker.id()));
}

/// A comparison may find a contract that could not be resumed when the worker took its next id.
#[tokio::test]
async fn a_comparison_resumes_what_an_earlier_id_owns() {
    let farm = TestFarm::start();
    let worker = farm.worker().await;
    let contract = own(&worker, "abcd").await;
    let generation = contract.tenure.generation();
    let next = worker.id().next_epoch();
    assert!(worker.queue.register_worker(next).await.unwrap());
    worker.identity.renew(next, Moment::now());
    compare(&worker).await;
    let expected = Standing::of(next, generation);
    assert_eq!(farm.standing(&worker, &address("abcd")).await, expected);
    assert_eq!(contract.tenure.worker(), next);
    assert_eq!(contract.spec, spec());
}

/// A server of a cluster that had the record comes back without its data, while the worker has
/// taken another id. A contract that was unloaded leaves a trace.
#[tokio::test]
async fn a_contract_without_a_trace_is_restored_by_the_next_id() {
    let farm = TestFarm::start();
    let worker = farm.worker().await;
    own(&worker, "lost").await;
    own(&worker, "unloaded").await;
    let next = worker.id().next_epoch();
    let standing = farm.standing(&worker, &address("unloaded")).await;
    let unloaded = worker.queue.unload(&address("unloaded"), standing).await;
    assert!(unloaded.unwrap().done().is_some());
    farm.command::<()>(&["DEL", "test:{c:lost}"]).await;
    assert!(worker.queue.register_worker(next).await.unwrap());
    worker.identity.renew(next, Moment::now());
    compare(&worker).await;
    let restored = farm.standing(&worker, &address("lost")).await;
    assert_eq!(restored.owner, Some(next));
    is_closed(&worker, "unloaded").await;
    let record = worker.queue.contract(&address("unloaded")).await.unwrap();
    assert_eq!(record, None);
}
