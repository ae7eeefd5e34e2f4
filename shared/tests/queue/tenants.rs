//! What tenants have, may use and have used; quotas that several processes lease from.

use shared::protocol::tenant::Tenant;
use shared::queue::allowances::{Granted, Wanted};
use shared::queue::tenants::TenantLimits;
use shared::queue::usage::{OTHERS, Usage, UsedBy};

use super::*;

fn tenant(name: &str) -> Tenant {
    name.parse().unwrap()
}

fn wanted(queue: &Queue, quota: u64, window: Duration, units: u64) -> Wanted {
    Wanted {
        key: queue.keys().allowance("k:test", "calls"),
        quota,
        window,
        units,
        slice: quota / 10,
    }
}

async fn lease(queue: &Queue, wanted: &Wanted) -> Granted {
    let mut granted = queue.lease_allowances(std::slice::from_ref(wanted)).await;
    granted.pop().unwrap().unwrap()
}

#[tokio::test]
async fn a_window_is_granted_at_once_and_then_as_it_is_earned() {
    let redis = Redis::start();
    let (one, two) = (redis.queue().await, redis.queue().await);
    let hour = Duration::from_hours(1);
    // Slices of two processes, and then what is left.
    let slice = wanted(&one, 100, hour, 40);
    assert_eq!(lease(&one, &slice).await, Granted::Units(40));
    assert_eq!(lease(&two, &slice).await, Granted::Units(40));
    assert_eq!(lease(&one, &slice).await, Granted::Units(20));
    let Granted::NotBefore(time) = lease(&two, &slice).await else {
        panic!("nothing is left")
    };
    // A slice of 10 is earned in 6 min.
    let minutes = time.as_secs_f64() / 60.0;
    assert!((5.0..=6.1).contains(&minutes), "{time:?}");
    redis.command::<()>(&["FLUSHALL"]).await;

    // A thousand a second: what was granted comes back soon.
    let fast = wanted(&one, 1000, Duration::from_secs(1), 1000);
    assert_eq!(lease(&one, &fast).await, Granted::Units(1000));
    tokio::time::timeout(LONG, async {
        while !matches!(lease(&one, &fast).await, Granted::Units(_)) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("units are earned");
    // The key goes by itself.
    let left: i64 = redis.command(&["PTTL", &fast.key]).await;
    assert!((0..=1100).contains(&left), "{left}");
}

#[tokio::test]
async fn limits_are_read_when_they_change() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let (version, none) = queue.tenant_limits(None).await.unwrap().unwrap();
    assert!(none.is_empty());
    assert_eq!(queue.tenant_limits(Some(version)).await.unwrap(), None);
    let limits = TenantLimits {
        calls_per_second: Some(5),
        contracts: Some(2),
        ..TenantLimits::default()
    };
    for name in ["acme", "default"] {
        let set = queue.set_tenant_limits(&tenant(name), &limits).await;
        assert!(set.unwrap());
    }
    let (next, all) = queue.tenant_limits(Some(version)).await.unwrap().unwrap();
    assert_eq!((all.len(), all[&tenant("acme")]), (2, limits));
    assert!(queue.remove_tenant_limits(&tenant("acme")).await.unwrap());
    assert!(!queue.remove_tenant_limits(&tenant("acme")).await.unwrap());
    let (_, all) = queue.tenant_limits(Some(next)).await.unwrap().unwrap();
    assert_eq!(all.into_keys().collect::<Vec<_>>(), [Tenant::default()]);
    redis.command::<()>(&["FLUSHALL"]).await;
    let (_, lost) = queue.tenant_limits(Some(next + 1)).await.unwrap().unwrap();
    assert!(lost.is_empty());
}

#[tokio::test]
async fn a_tenant_has_what_it_has_loaded() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let worker = worker(&queue).await;
    let acme = tenant("acme");
    for name in ["acme/one", "acme/two", "acme/two~2", "other/one", "one"] {
        let contract = ContractAddress::try_from(name.to_owned()).unwrap();
        load(&queue, &contract, worker, &spec("1")).await;
    }
    // Listed, but never loaded.
    let contract = ContractAddress::of(&acme, "failed").unwrap();
    queue.enlist_contract(&contract).await.unwrap();
    let holdings = queue.holdings(&acme).await.unwrap();
    let mut names: Vec<_> = holdings.keys().map(ToString::to_string).collect();
    names.sort();
    assert_eq!(names, ["acme/one", "acme/two", "acme/two~2"]);
    let own = queue.holdings(&Tenant::default()).await.unwrap();
    assert_eq!(own.len(), 1);
    assert!(queue.holdings(&tenant("none")).await.unwrap().is_empty());
}

#[tokio::test]
async fn use_is_added_up_and_bounded() {
    let redis = Redis::start();
    let queue = redis.queue().await;
    let acme = tenant("acme");
    let used = |calls, errors, cpu_us| Usage {
        calls,
        errors,
        cpu_us,
    };
    for _ in 0..2 {
        let parts = [
            (UsedBy::Caller, "key:a", used(3, 1, 500)),
            (UsedBy::Contract, "a|b:c", used(3, 1, 500)),
        ];
        queue.add_usage(&acme, &parts).await.unwrap();
    }
    let (since, usage) = queue.usage(&acme, 1).await.unwrap();
    assert_eq!(usage.all, used(6, 2, 1000));
    let contract = (UsedBy::Contract, "a|b:c".to_owned());
    assert_eq!(usage.parts[&contract], used(6, 2, 1000));
    assert!(since % 86_400_000 == 0 && since <= queue.clock().now_ms());
    let (_, other) = queue.usage(&tenant("other"), 31).await.unwrap();
    assert!(other.parts.is_empty());

    // Whoever comes when a day is full is counted with others.
    for batch in 0..8 {
        let names: Vec<_> = (0..1000).map(|n| format!("key:{batch}-{n}")).collect();
        let parts: Vec<_> = names
            .iter()
            .map(|name| (UsedBy::Caller, name.as_str(), used(1, 0, 0)))
            .collect();
        queue.add_usage(&acme, &parts).await.unwrap();
    }
    let (_, usage) = queue.usage(&acme, 1).await.unwrap();
    assert_eq!(usage.all.calls, 8006);
    assert!(usage.parts.len() < 6010, "{}", usage.parts.len());
    let others = (UsedBy::Caller, OTHERS.to_owned());
    assert!(usage.parts[&others].calls > 1000);
}
