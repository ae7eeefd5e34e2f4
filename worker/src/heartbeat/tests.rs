//! What a worker does that was fenced although it lives, on a real Redis.

use shared::protocol::job::Load;
use shared::queue::ownership::{Failover, Sandbox, Standing};

use super::*;
use crate::contracts::Tenure;
use crate::test_farm::{PATIENCE, TestFarm, address, claim, eventually, own, spec, take};

/// Starts the heartbeat of a worker.
async fn beat(worker: &Arc<Worker>) {
    let farm = worker.queue.farm(None).await.unwrap();
    worker.life.spawn("heartbeat", run(worker.clone(), farm));
}

/// Waits until a fenced worker acts again. Returns its id.
async fn acts_again(worker: &Worker, fenced: WorkerId) -> WorkerId {
    let again = async {
        worker.identity.changed_from(fenced).await;
        worker.fence.opened().await;
        worker.id()
    };
    tokio::time::timeout(PATIENCE, again).await.unwrap()
}

async fn end(worker: Arc<Worker>) {
    worker.life.stop();
    worker.life.join().await;
}

#[tokio::test]
async fn a_fenced_worker_takes_its_next_id_and_keeps_what_nobody_took() {
    let farm = TestFarm::start();
    let worker = farm.worker().await;
    let other = farm.worker().await;
    let fenced = worker.id();
    for contract in ["kept", "released", "taken", "unloaded"] {
        own(&worker, contract).await;
    }
    let before = farm.standing(&worker, &address("released")).await;
    farm.fence(&worker, fenced).await;
    // A reaper is at it, and has found calls of every contract in the inbox.
    let reap = async |contract: &str| {
        let standing = farm.standing(&worker, &address(contract)).await;
        let reaped = other
            .queue
            .fail_over(&address(contract), standing, true, 60_000)
            .await;
        assert_eq!(reaped.unwrap(), Failover::Released, "{contract}");
    };
    reap("released").await;
    reap("taken").await;
    take(&other.queue, "taken", other.id()).await;
    let gone = farm.standing(&worker, &address("unloaded")).await;
    other
        .queue
        .unload(&address("unloaded"), gone)
        .await
        .unwrap();

    beat(&worker).await;
    let id = acts_again(&worker, fenced).await;
    assert_eq!(id, fenced.next_epoch());
    assert!(id.same_process(fenced) && id != fenced);
    for contract in ["kept", "released"] {
        let standing = farm.standing(&worker, &address(contract)).await;
        assert_eq!(standing.owner, Some(id), "{contract}");
        assert!(worker.contracts.get(&address(contract)).is_some());
    }
    let after = farm.standing(&worker, &address("released")).await;
    assert_eq!(
        after.generation, before.generation,
        "its sandbox is the same"
    );
    for contract in ["taken", "unloaded"] {
        eventually("the contract to be closed", async || {
            worker.contracts.get(&address(contract)).is_none()
        })
        .await;
    }
    let taken = farm.standing(&worker, &address("taken")).await;
    assert_eq!(taken.owner, Some(other.id()));
    let own_list = worker.queue.keys().own(id);
    let mut listed: Vec<String> = farm.command(&["SMEMBERS", &own_list]).await;
    listed.sort();
    assert_eq!(listed, ["kept", "released"]);
    // It did not die of the contracts that it was running.
    for contract in ["released", "taken"] {
        let record = format!("test:{{c:{contract}}}");
        let deaths: Vec<Option<u64>> = farm.command(&["HMGET", &record, "death1", "death2"]).await;
        assert_eq!(deaths, [Some(0), Some(0)], "{contract}");
    }
    end(worker).await;
}

/// What was under way when the worker was fenced goes on under the id that it began with.
#[tokio::test]
async fn an_operation_under_way_ends_under_its_old_id() {
    let farm = TestFarm::start();
    let worker = farm.worker().await;
    let fenced = worker.id();
    let (kept, _kept_ends) = claim(&worker, "kept").await;
    let (lost, _lost_ends) = claim(&worker, "lost").await;
    farm.fence(&worker, fenced).await;
    beat(&worker).await;
    let id = acts_again(&worker, fenced).await;
    for loading in [&kept, &lost] {
        assert_eq!(loading.tenure.worker(), fenced, "the load has not ended");
        assert!(!loading.tenure.is_in_service());
    }
    // The load of one ends before the reaper came, that of the other one after it.
    let standing = farm.standing(&worker, &address("lost")).await;
    let reaped = worker
        .queue
        .fail_over(&address("lost"), standing, true, 60_000)
        .await;
    assert_eq!(reaped.unwrap(), Failover::Gone, "a first load is forgotten");
    let sandbox = Sandbox::default();
    assert!(kept.tenure.record_load(&spec(), &sandbox).await.unwrap());
    assert!(!lost.tenure.record_load(&spec(), &sandbox).await.unwrap());
    let standing = farm.standing(&worker, &address("kept")).await;
    assert_eq!(standing.owner, Some(fenced));

    assert!(kept.tenure.enter_service(&worker).await.unwrap());
    let standing = farm.standing(&worker, &address("kept")).await;
    assert_eq!(standing, Standing::of(id, kept.tenure.generation()));
    let record = worker.queue.contract(&address("lost")).await.unwrap();
    assert_eq!(record, None);
    end(worker).await;
}

/// A load has ended under the old id, but another worker has the contract by now.
#[tokio::test]
async fn a_load_that_ends_too_late_gets_nothing() {
    let farm = TestFarm::start();
    let worker = farm.worker().await;
    let other = farm.worker().await;
    let fenced = worker.id();
    let (late, _ends) = claim(&worker, "late").await;
    let recorded = late.tenure.record_load(&spec(), &Sandbox::default()).await;
    assert!(recorded.unwrap());
    farm.fence(&worker, fenced).await;
    beat(&worker).await;
    acts_again(&worker, fenced).await;
    let generation = take(&other.queue, "late", other.id()).await;
    assert!(!late.tenure.enter_service(&worker).await.unwrap());
    let expected = Standing::of(other.id(), generation);
    assert_eq!(farm.standing(&worker, &address("late")).await, expected);
    end(worker).await;
}

/// A fenced worker must not act before it has resumed its contracts, however soon it has a lease.
#[tokio::test]
async fn the_fence_opens_only_after_the_contracts_are_resumed() {
    let farm = TestFarm::start();
    let worker = farm.worker().await;
    let fenced = worker.id();
    own(&worker, "abcd").await;
    let received = std::time::Instant::now();
    farm.fence(&worker, fenced).await;
    beat(&worker).await;
    let changed = worker.identity.changed_from(fenced);
    tokio::time::timeout(PATIENCE, changed).await.unwrap();
    assert!(worker.fence.is_closed(), "its next id may still be lost");
    let id = acts_again(&worker, fenced).await;
    let standing = farm.standing(&worker, &address("abcd")).await;
    assert_eq!(standing.owner, Some(id));
    assert!(
        worker.fence.lease_lost_since(received),
        "earlier jobs are void"
    );
    end(worker).await;
}

/// A lease that has lapsed is renewed: until somebody fences the worker, it keeps everything.
#[tokio::test]
async fn a_lapsed_lease_is_renewed_under_the_same_id() {
    let farm = TestFarm::start();
    let worker = farm.worker().await;
    let id = worker.id();
    own(&worker, "abcd").await;
    farm.command::<()>(&["DEL", &worker.queue.keys().lease(id)])
        .await;
    beat(&worker).await;
    eventually("the lease to be renewed", async || {
        worker.queue.is_alive(id).await.unwrap()
    })
    .await;
    assert_eq!(worker.id(), id);
    let standing = farm.standing(&worker, &address("abcd")).await;
    assert_eq!(standing.owner, Some(id));
    end(worker).await;
}

/// Redis has been restarted, and all leases have lapsed. Whoever looks at an owner's lease finds
/// none, but the owner lives: the look must not be enough for a claim, however late it comes.
#[tokio::test]
async fn row_2_a_claim_does_not_trust_that_an_owner_s_lease_has_lapsed() {
    let farm = TestFarm::start();
    let owner = farm.worker().await;
    let other = farm.worker().await;
    own(&owner, "abcd").await;
    let before = farm.standing(&owner, &address("abcd")).await;
    let load = Load {
        address: address("abcd"),
        spec: spec(),
        seen: Some(before.generation),
    };
    farm.command::<()>(&["DEL", &owner.queue.keys().lease(owner.id())])
        .await;
    other.fence.lease_renewed(Moment::now());
    let claimed = Tenure::claim(&other, &load).await.unwrap();
    assert!(claimed.is_none(), "its owner may be back any moment");
    // It is.
    let renewed = owner.queue.renew_lease(owner.id()).await.unwrap();
    assert_eq!(renewed, Renewal::Held);
    assert_eq!(farm.standing(&owner, &address("abcd")).await, before);

    // Only the fence permits the claim, and nothing can take it back.
    farm.fence(&owner, owner.id()).await;
    other.fence.lease_renewed(Moment::now());
    let claimed = Tenure::claim(&other, &load).await.unwrap();
    assert!(claimed.is_some());
    let renewed = owner.queue.renew_lease(owner.id()).await.unwrap();
    assert_eq!(renewed, Renewal::Fenced);
}
