//! Tests of the scripts that change the owner of a contract: each case in which they refuse.

use shared::queue::contracts::{ContractRecord, Route};
use shared::queue::ownership::{ChangeId, Failover, Host};

use super::contracts::route_of;
use super::*;

const QUARANTINE_MS: u64 = 60_000;

async fn record(queue: &Queue, contract: &ContractAddress) -> ContractRecord {
    queue
        .contract(contract)
        .await
        .unwrap()
        .expect("it is loaded")
}

async fn standing(queue: &Queue, contract: &ContractAddress) -> Standing {
    queue.ownership(contract).await.unwrap().standing
}

#[tokio::test]
async fn a_contract_has_one_owner() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (one, other) = (worker(&queue).await, worker(&queue).await);
    let contract = address("abcd");
    let generation = load(&queue, &contract, one, &spec("1")).await;
    let now = queue.clock().now_ms();
    assert!(
        generation.abs_diff(now) < 10_000,
        "made from the time of Redis"
    );
    let owned = Standing::of(one, generation);
    for expected in [
        Standing::default(),
        Standing::unassigned(generation),
        Standing::of(one, generation - 1),
        Standing::of(other, generation),
    ] {
        let claimed = queue
            .claim(&contract, expected, other, Some(&spec("2")))
            .await;
        assert_eq!(claimed.unwrap(), Outcome::Refused(owned), "{expected:?}");
    }
    assert_eq!(queue.owned_by(other).await.unwrap(), []);
    let next = queue.claim(&contract, owned, other, Some(&spec("2"))).await;
    let next = next
        .unwrap()
        .done()
        .expect("the owner is known to be fenced");
    assert!(next > generation);
    assert_eq!(standing(&queue, &contract).await, Standing::of(other, next));
}

/// Row 1: a host that was replaced by a reload changes nothing of its successor.
#[tokio::test]
async fn row_1_a_replaced_host_does_no_harm() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (worker, contract) = (worker(&queue).await, address("abcd"));
    let first = load(&queue, &contract, worker, &spec("1")).await;
    let replaced = Standing::of(worker, first);
    let id = LoadId::new(first);
    let switch = async || {
        let load = (&id, &spec("2"));
        let sandbox = Sandbox::default();
        queue.switch_load(&contract, replaced, load, &sandbox).await
    };
    let second = switch().await.unwrap().done().expect("it is the owner");
    assert!(second > first);
    let again = switch().await.unwrap();
    assert_eq!(
        again,
        Outcome::Done(second),
        "sent again, the answer is the same"
    );
    let current = Outcome::Refused(Standing::of(worker, second));
    let change = ChangeId::random();
    let raised = queue.raise_generation(&contract, replaced, &change).await;
    assert_eq!(raised.unwrap(), current);
    let quarantined = queue.quarantine(&contract, replaced, QUARANTINE_MS).await;
    assert_eq!(quarantined.unwrap(), current);
    let noted = queue
        .note_sandbox(&contract, replaced, &Sandbox::default())
        .await;
    assert_eq!(noted.unwrap(), current);
    assert_eq!(
        queue.drop_ownership(&contract, replaced).await.unwrap(),
        current
    );
    assert_eq!(queue.unload(&contract, replaced).await.unwrap(), current);
    let found = record(&queue, &contract).await;
    assert_eq!((found.spec, found.generation), (spec("2"), second));
    assert_eq!(queue.owned_by(worker).await.unwrap(), [contract]);
}

#[tokio::test]
async fn a_generation_is_raised_once_for_one_change() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (worker, contract) = (worker(&queue).await, address("abcd"));
    let generation = load(&queue, &contract, worker, &spec("1")).await;
    let (held, change) = (Standing::of(worker, generation), ChangeId::random());
    let raise = async |change: &ChangeId| {
        let raised = queue.raise_generation(&contract, held, change).await;
        raised.unwrap()
    };
    let raised = raise(&change).await;
    assert!(raised.done().is_some_and(|raised| raised > generation));
    assert_eq!(raise(&change).await, raised);
    assert!(raise(&ChangeId::random()).await.done().is_none());
}

/// Row 3: a load that fails leaves everything as it was, even a quarantine.
#[tokio::test]
async fn row_3_only_a_successful_load_lifts_a_quarantine() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (worker, contract) = (worker(&queue).await, address("abcd"));
    let generation = load(&queue, &contract, worker, &spec("1")).await;
    let held = Standing::of(worker, generation);
    let quarantined = queue.quarantine(&contract, held, QUARANTINE_MS).await;
    assert_eq!(quarantined.unwrap(), Outcome::Done(generation));
    let free = Standing::unassigned(generation);
    let adopted = queue.claim(&contract, free, worker, None).await.unwrap();
    assert_eq!(adopted, Outcome::Refused(free), "it is quarantined");

    let claimed = queue.claim(&contract, free, worker, Some(&spec("2"))).await;
    let claimed = Standing::of(worker, claimed.unwrap().done().unwrap());
    let route = route_of(&queue, &contract).await;
    assert!(matches!(route, Route::Quarantined(_)), "{route:?}");
    let dropped = queue.drop_ownership(&contract, claimed).await.unwrap();
    assert!(dropped.done().is_some(), "the load has failed");
    let Route::Quarantined(record) = route_of(&queue, &contract).await else {
        panic!("a failed load has lifted the quarantine")
    };
    assert_eq!(record.spec, spec("1"));

    load(&queue, &contract, worker, &spec("2")).await;
    let route = route_of(&queue, &contract).await;
    assert!(matches!(route, Route::Assigned(..)), "{route:?}");
}

#[tokio::test]
async fn a_first_load_that_fails_is_forgotten() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (worker, contract) = (worker(&queue).await, address("abcd"));
    let claimed = queue
        .claim(&contract, Standing::default(), worker, Some(&spec("1")))
        .await;
    let generation = claimed.unwrap().done().unwrap();
    assert_eq!(route_of(&queue, &contract).await, Route::NotLoaded);
    let held = Standing::of(worker, generation);
    let dropped = queue.drop_ownership(&contract, held).await.unwrap();
    assert_eq!(dropped, Outcome::Done(generation));
    let past = standing(&queue, &contract).await;
    assert_eq!(past, Standing::unassigned(generation));
    assert!(redis.expires(&queue.keys().past(&contract)).await);
    let listed = queue.list_contracts(None, 10).await.unwrap().contracts;
    assert_eq!(listed, []);
}

/// Row 10: neither an offer nor a load that was asked for before brings an unloaded contract back.
#[tokio::test]
async fn row_10_an_unloaded_contract_does_not_rise() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (worker, contract) = (worker(&queue).await, address("abcd"));
    let generation = load(&queue, &contract, worker, &spec("1")).await;
    let held = Standing::of(worker, generation);
    let unloaded = queue.unload(&contract, held).await.unwrap();
    let past = unloaded.done().expect("it is the owner");
    assert!(past > generation);
    let again = queue.unload(&contract, held).await.unwrap();
    assert_eq!(again, Outcome::Done(past), "it is unloaded already");
    for seen in [Standing::default(), Standing::unassigned(generation)] {
        let claimed = queue.claim(&contract, seen, worker, Some(&spec("1"))).await;
        assert_eq!(
            claimed.unwrap(),
            Outcome::Refused(Standing::unassigned(past))
        );
    }
    let now = Standing::unassigned(past);
    let adopted = queue.claim(&contract, now, worker, None).await.unwrap();
    assert_eq!(adopted, Outcome::Refused(now));
    assert!(!queue.is_offer_due(&contract).await.unwrap());
    let later = load(&queue, &contract, worker, &spec("1")).await;
    assert!(later > past);
}

/// Row 9: an unload through a host that has lost the contract changes nothing.
#[tokio::test]
async fn row_9_a_stale_host_does_not_unload() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (stale, owner) = (worker(&queue).await, worker(&queue).await);
    let contract = address("abcd");
    let generation = load(&queue, &contract, stale, &spec("1")).await;
    let held = Standing::of(stale, generation);
    queue.drop_ownership(&contract, held).await.unwrap();
    let current = load(&queue, &contract, owner, &spec("1")).await;
    let refused = queue.unload(&contract, held).await.unwrap();
    assert_eq!(refused, Outcome::Refused(Standing::of(owner, current)));
    assert_eq!(record(&queue, &contract).await.generation, current);
}

#[tokio::test]
async fn the_third_death_within_an_hour_quarantines() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let contract = address("abcd");
    for death in 1..=3 {
        let worker = worker(&queue).await;
        let generation = load(&queue, &contract, worker, &spec("1")).await;
        let dead = Standing::of(worker, generation);
        let late = Standing::of(worker, generation - 1);
        let fail_over = async |expected| {
            let outcome = queue
                .fail_over(&contract, expected, true, QUARANTINE_MS)
                .await;
            outcome.unwrap()
        };
        assert_eq!(fail_over(late).await, Failover::Gone);
        let expected = if death < 3 {
            Failover::Released
        } else {
            Failover::Quarantined
        };
        assert_eq!(fail_over(dead).await, expected, "death {death}");
        // A reaper that died here has neither offered the contract nor reported it.
        assert_eq!(fail_over(dead).await, expected, "death {death}, again");
    }
    let route = route_of(&queue, &contract).await;
    assert!(matches!(route, Route::Quarantined(_)), "{route:?}");
    let next = worker(&queue).await;
    load(&queue, &contract, next, &spec("1")).await;
    let route = route_of(&queue, &contract).await;
    assert!(matches!(route, Route::Assigned(..)), "{route:?}");
}

#[tokio::test]
async fn a_first_load_whose_worker_dies_is_forgotten() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (worker, contract) = (worker(&queue).await, address("abcd"));
    let claimed = queue
        .claim(&contract, Standing::default(), worker, Some(&spec("1")))
        .await;
    let dead = Standing::of(worker, claimed.unwrap().done().unwrap());
    let outcome = queue.fail_over(&contract, dead, true, QUARANTINE_MS).await;
    assert_eq!(outcome.unwrap(), Failover::Gone);
    let past = standing(&queue, &contract).await;
    assert_eq!(past, Standing::unassigned(dead.generation));
}

#[tokio::test]
async fn a_process_resumes_what_nobody_took() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (fenced, other) = (worker(&queue).await, worker(&queue).await);
    let next = next_id(&queue, fenced).await;
    let [kept, freed, taken, gone, reloaded, banned] =
        ["kept", "freed", "taken", "gone", "reloaded", "banned"].map(address);
    let mut records = Vec::new();
    for contract in [&kept, &freed, &taken, &gone, &reloaded, &banned] {
        load(&queue, contract, fenced, &spec("1")).await;
        records.push(record(&queue, contract).await);
    }
    let held = |index: usize| records[index].standing();
    queue.drop_ownership(&freed, held(1)).await.unwrap();
    queue.drop_ownership(&taken, held(2)).await.unwrap();
    load(&queue, &taken, other, &spec("1")).await;
    queue.unload(&gone, held(3)).await.unwrap();
    queue.drop_ownership(&reloaded, held(4)).await.unwrap();
    load(&queue, &reloaded, other, &spec("2")).await;
    queue
        .quarantine(&banned, held(5), QUARANTINE_MS)
        .await
        .unwrap();
    let resume = async |index: usize, contract| {
        let load = &records[index].load;
        let outcome = queue
            .resume_ownership(contract, held(index), next, load)
            .await;
        outcome.unwrap().done().is_some()
    };
    assert!(resume(0, &kept).await && resume(1, &freed).await);
    assert!(resume(0, &kept).await, "sent again, the answer is the same");
    for (index, contract) in [(2, &taken), (3, &gone), (4, &reloaded), (5, &banned)] {
        assert!(!resume(index, contract).await, "{contract}");
    }
    let mut listed = queue.owned_by(next).await.unwrap();
    listed.sort();
    assert_eq!(listed, [freed, kept.clone()]);
    let found = record(&queue, &kept).await;
    assert_eq!(found.standing(), Standing::of(next, records[0].generation));
}

/// Row 6: what Redis has lost is written back. What is newer, or another worker's, is not.
#[tokio::test]
async fn row_6_a_lost_record_is_restored() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (worker, other) = (worker(&queue).await, worker(&queue).await);
    let contract = address("abcd");
    load(&queue, &contract, worker, &spec("1")).await;
    let before = record(&queue, &contract).await;
    let host = Host {
        generation: before.generation,
        load: before.load.clone(),
        spec: before.spec.clone(),
        sandbox: Sandbox::default(),
    };
    let restore = async || {
        let outcome = queue.restore_ownership(&contract, worker, &host).await;
        outcome.unwrap().done().is_some()
    };
    redis.command::<()>(&["FLUSHALL"]).await;
    for id in [worker, other] {
        assert!(queue.register_worker(id).await.unwrap());
    }
    assert!(restore().await, "Redis has lost its data");
    assert_eq!(record(&queue, &contract).await, before);
    assert_eq!(
        queue.owned_by(worker).await.unwrap(),
        std::slice::from_ref(&contract)
    );

    queue
        .drop_ownership(&contract, before.standing())
        .await
        .unwrap();
    assert!(restore().await, "nobody has taken it");
    let held = before.standing();
    queue
        .quarantine(&contract, held, QUARANTINE_MS)
        .await
        .unwrap();
    assert!(!restore().await, "it is quarantined");
    load(&queue, &contract, other, &spec("2")).await;
    assert!(!restore().await, "another worker has it");
    let newer = record(&queue, &contract).await.standing();
    queue.unload(&contract, newer).await.unwrap();
    assert!(!restore().await, "it was unloaded");
}

#[tokio::test]
async fn a_record_of_an_older_version_is_read_and_claimed() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (worker, contract) = (worker(&queue).await, address("abcd"));
    let key = queue.keys().contract(&contract);
    let old = WorkerId::random().to_string();
    let text = serde_json::to_string(&spec("1")).unwrap();
    redis
        .command::<()>(&["HSET", &key, "owner", &old, "gen", "7", "spec", &text])
        .await;
    let found = queue.ownership(&contract).await.unwrap();
    assert_eq!(found.load, Some(LoadId::default()));
    let claimed = queue.claim(&contract, found.standing, worker, None).await;
    let generation = claimed.unwrap().done().expect("the owner is gone");
    assert!(generation > 7);
    let held = Standing::of(worker, generation);
    let next = next_id(&queue, worker).await;
    let resumed = queue
        .resume_ownership(&contract, held, next, &LoadId::default())
        .await;
    assert_eq!(resumed.unwrap(), Outcome::Done(generation));
}
