//! Tests of contract records as others read them: routes, listings.

use shared::queue::contracts::Route;

use super::*;

/// Where the jobs of a contract are sent.
pub(crate) async fn route_of(queue: &Queue, contract: &ContractAddress) -> Route {
    let record = queue.contract(contract).await.unwrap();
    queue.route(record).await.unwrap()
}

#[tokio::test]
async fn a_contract_is_routed_to_its_living_owner() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let worker = worker(&queue).await;
    let contract = address("abcd");
    assert_eq!(route_of(&queue, &contract).await, Route::NotLoaded);
    let generation = load(&queue, &contract, worker, &spec("1")).await;
    let Route::Assigned(owner, record) = route_of(&queue, &contract).await else {
        panic!()
    };
    assert_eq!((owner, &record.spec), (worker, &spec("1")));
    assert_eq!(record.standing(), Standing::of(worker, generation));
    queue.abandon_worker(worker).await.unwrap();
    let route = route_of(&queue, &contract).await;
    assert!(matches!(route, Route::Unassigned(_)), "{route:?}");
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
    load(&queue, &contract, worker, &spec("1")).await;
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
    let generation = load(&queue, &contract, worker, &spec("1")).await;
    let listed = queue.owned_by(worker).await.unwrap();
    assert_eq!(listed, std::slice::from_ref(&contract));
    let expected = Standing::of(worker, generation);
    let dropped = queue.drop_ownership(&contract, expected).await.unwrap();
    assert_eq!(dropped, Outcome::Done(generation));
    assert_eq!(queue.owned_by(worker).await.unwrap(), []);
    let Route::Unassigned(record) = route_of(&queue, &contract).await else {
        panic!()
    };
    assert_eq!(record.standing(), Standing::unassigned(generation));
    let listed = queue.list_contracts(None, 10).await.unwrap().contracts;
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (&listed[0].address, &listed[0].record),
        (&contract, &record)
    );
}
