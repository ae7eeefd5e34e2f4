//! Tests of contract records: ownership, routes, generations.

use shared::queue::contracts::{Claim, Route};

use super::*;

#[tokio::test]
async fn a_contract_has_one_owner() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (one, other) = (worker(&queue).await, worker(&queue).await);
    let contract = address("abcd");
    assert_eq!(queue.route(&contract).await.unwrap(), Route::NotLoaded);

    assert_eq!(
        queue.claim(&contract, one, None, &spec("1")).await.unwrap(),
        Claim::Granted(1)
    );
    let refused = queue
        .claim(&contract, other, None, &spec("2"))
        .await
        .unwrap();
    assert_eq!(refused, Claim::OwnedBy(one));
    assert_eq!(
        queue.raise_generation(&contract, one).await.unwrap(),
        Some(2)
    );
    assert_eq!(
        queue.raise_generation(&contract, other).await.unwrap(),
        None
    );
    let Route::Assigned(owner, record) = queue.route(&contract).await.unwrap() else {
        panic!()
    };
    assert_eq!((owner, record.spec, record.generation), (one, spec("1"), 2));

    // The owner is known to be dead, so another worker may take over.
    queue.remove_worker(one).await.unwrap();
    assert!(matches!(
        queue.route(&contract).await.unwrap(),
        Route::Unassigned(_)
    ));
    let taken = queue
        .claim(&contract, other, Some(one), &spec("1"))
        .await
        .unwrap();
    assert_eq!(taken, Claim::Granted(3));

    assert!(
        !queue.remove_contract(&contract, Some(one)).await.unwrap(),
        "no longer the owner"
    );
    assert!(queue.remove_contract(&contract, Some(other)).await.unwrap());
    assert_eq!(queue.route(&contract).await.unwrap(), Route::NotLoaded);
}

/// However long the whole farm was down, a reaper finds the contracts of dead workers.
#[tokio::test]
async fn the_list_of_owned_contracts_does_not_expire() {
    const EXPIRE_EVERYTHING: &str = "
        for _, key in ipairs(redis.call('KEYS', '*')) do
            if redis.call('PTTL', key) >= 0 then redis.call('DEL', key) end
        end";
    let redis = Redis::start();
    let queue = redis.queue().await;
    let worker = worker(&queue).await;
    let contract = address("abcd");
    queue
        .claim(&contract, worker, None, &spec("1"))
        .await
        .unwrap();
    assert!(queue.renew_lease(worker).await.unwrap());
    redis.command::<()>(&["EVAL", EXPIRE_EVERYTHING, "0"]).await;
    assert!(!queue.is_alive(worker).await.unwrap());
    assert_eq!(queue.owned_by(worker).await.unwrap(), [contract]);
}

#[tokio::test]
async fn a_released_contract_stays_loaded() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let worker = worker(&queue).await;
    let contract = address("abcd");
    queue
        .claim(&contract, worker, None, &spec("1"))
        .await
        .unwrap();
    assert_eq!(
        queue.owned_by(worker).await.unwrap(),
        std::slice::from_ref(&contract)
    );
    assert!(queue.release(&contract, worker).await.unwrap());
    assert_eq!(queue.owned_by(worker).await.unwrap(), []);
    let Route::Unassigned(record) = queue.route(&contract).await.unwrap() else {
        panic!()
    };
    assert_eq!((record.owner, record.generation), (None, 1));
    let listed = queue.list_contracts(None, 10).await.unwrap().contracts;
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (&listed[0].address, &listed[0].record),
        (&contract, &record)
    );
}
