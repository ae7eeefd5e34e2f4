//! A rolling upgrade: the programs of an earlier version are replaced under load, the workers
//! first, then the apis.
//!
//! `make upgrade FROM=REVISION` builds that version and runs this module. `UPGRADE_FROM` names the
//! folder of its programs; without it these tests fail.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};

use crate::support::call_log::{CONTRACT, Call, CallLog, Repeats};
use crate::support::chaos::JoinedWorker;
use crate::support::client::Client;
use crate::support::farm::Farm;
use crate::support::load::{Load, Pace};
use crate::support::programs;
use crate::support::wait;

/// Contracts that are called throughout the upgrade.
const CONTRACTS: usize = 12;

/// Workers of each version.
const WORKERS: usize = 3;

/// How long it may take until the registry lists what only workers of the earlier version knew: two
/// comparisons.
const LISTED_WITHIN: Duration = Duration::from_mins(1);

/// How many contracts are loaded until both versions own one. No worker prefers one version.
const ATTEMPTS: usize = 40;

#[tokio::test]
async fn a_rolling_upgrade_loses_neither_contracts_nor_calls() {
    let mut upgrade = Upgrade::start().await;
    upgrade.add_new_workers().await;
    upgrade.everything_works("beside old workers").await;
    for old in 0..WORKERS {
        upgrade.farm.workers[old].terminate().await;
        upgrade.load.full_pace().await;
    }
    upgrade.everything_works("through old apis").await;
    upgrade.replace_apis().await;
    upgrade.finish().await;
}

#[tokio::test]
async fn a_worker_of_either_version_may_die_during_the_upgrade() {
    let mut upgrade = Upgrade::start().await;
    let new = upgrade.add_new_workers().await;
    upgrade.farm.workers[0].kill().await;
    let recovered = upgrade.load.full_pace().await;
    eprintln!("an old worker killed, to full pace: {recovered:.2?}");
    upgrade
        .everything_works("after an old worker has died")
        .await;
    upgrade.farm.workers[new[0].index].kill().await;
    let recovered = upgrade.load.full_pace().await;
    eprintln!("a new worker killed, to full pace: {recovered:.2?}");
    upgrade
        .everything_works("after a new worker has died")
        .await;
    for old in 1..WORKERS {
        upgrade.farm.workers[old].terminate().await;
        upgrade.load.full_pace().await;
    }
    upgrade.replace_apis().await;
    upgrade.finish().await;
}

/// A farm of the earlier version under load, and what is known of it.
struct Upgrade {
    farm: Farm,
    load: Load,
    addresses: Vec<String>,
    generations: HashMap<String, u64>,
    old_workers: BTreeSet<String>,
}

impl Upgrade {
    async fn start() -> Self {
        let farm = Farm::builder()
            .programs(&earlier_programs())
            .env("REAP_GRACE_MS", "0")
            .apis(2)
            .workers(WORKERS)
            .start()
            .await;
        let client = farm.client();
        let addresses: Vec<_> = (0..CONTRACTS).map(|number| format!("c{number}")).collect();
        for address in &addresses {
            client.must_load(address, CONTRACT).await;
        }
        let two = json!({ "contractAddress": "two", "executable": CONTRACT, "replicas": 2 });
        client
            .post("/loadSmartContract", &two)
            .await
            .is_no_content();
        let load = Load::retrying(1, &farm.clients, &addresses, Pace::STEADY);
        load.full_pace().await;
        let mut upgrade = Self {
            old_workers: farm
                .redis
                .workers(farm.prefix())
                .await
                .into_iter()
                .collect(),
            generations: HashMap::new(),
            farm,
            load,
            addresses,
        };
        upgrade.generations = upgrade.current_generations().await;
        upgrade.farm.use_programs(&programs::folder());
        upgrade
    }

    async fn current_generations(&self) -> HashMap<String, u64> {
        let client = self.farm.client();
        let each = self.addresses.iter().map(async |address| {
            let generation = client.generation(address).await;
            (address.clone(), generation)
        });
        join_all(each).await.into_iter().collect()
    }

    async fn add_new_workers(&mut self) -> Vec<JoinedWorker> {
        let mut new = Vec::new();
        for _ in 0..WORKERS {
            new.push(self.farm.join().await);
        }
        self.load.full_pace().await;
        new
    }

    /// One after the other, on the port of the earlier one.
    async fn replace_apis(&mut self) {
        for api in 0..self.farm.apis.len() {
            self.farm.replace_api(api).await;
            self.load.full_pace().await;
            self.everything_works(&format!("{} apis replaced", api + 1))
                .await;
        }
    }

    /// Loads, calls, reloads and unloads contracts, each request through another api, until a
    /// worker of every version that is left has owned one.
    async fn everything_works(&self, when: &str) {
        let clients = &self.farm.clients;
        let living = self.farm.redis.workers(self.farm.prefix()).await;
        let versions: BTreeSet<bool> = living.iter().map(|id| self.is_old(id)).collect();
        let mut seen = BTreeSet::new();
        for number in 0..ATTEMPTS {
            let address = format!("mixed{number}");
            let through = |step: usize| &clients[(number + step) % clients.len()];
            through(0).must_load(&address, CONTRACT).await;
            let owner = through(1).owner(&address).await.expect("it has an owner");
            seen.insert(self.is_old(&owner));
            life_of_a_contract(&address, through(1), through(0)).await;
            if seen == versions && number >= 2 * clients.len() {
                eprintln!("{when}: {} contracts came and went", number + 1);
                return;
            }
        }
        panic!("{when}: only one version owned contracts; old: {seen:?}");
    }

    fn is_old(&self, worker: &str) -> bool {
        // The last four digits of an id change when a worker is given another one.
        let process = |id: &str| id[..28].to_owned();
        self.old_workers
            .iter()
            .any(|old| process(old) == process(worker))
    }

    /// Ends the load and checks that every contract has one owner and has kept its order.
    async fn finish(mut self) {
        self.load.full_pace().await;
        check_calls(&self.load.end().await, self.farm.client()).await;
        let client = self.farm.client().clone();
        for client in &self.farm.clients {
            is_listed(client, &self.addresses).await;
        }
        let places = CONTRACTS as u64 + 2;
        wait::until_true(
            "each contract to have one place",
            LISTED_WITHIN,
            async || {
                let workers = client.workers().await;
                let used = workers.iter().filter_map(|worker| worker["used"].as_u64());
                used.sum::<u64>() == places
            },
        )
        .await;
        let hosts = client.contract("two").await["hosts"].clone();
        let hosts = hosts.as_array().expect("a list").iter();
        let hosts: BTreeSet<_> = hosts.map(Value::to_string).collect();
        assert_eq!(hosts.len(), 2, "the owners of the replicas: {hosts:?}");
        for address in &self.addresses {
            let generation = counts_in_one_page(&client, address).await;
            let before = self.generations[address];
            assert!(
                generation > before,
                "{address}: {generation} after {before}"
            );
        }
        client.unload("two").await.is_no_content();
        self.farm.wait_until_recovered_within(LISTED_WITHIN).await;
        self.farm.stop().await;
    }
}

fn earlier_programs() -> PathBuf {
    let folder = std::env::var_os("UPGRADE_FROM").expect(
        "UPGRADE_FROM names the programs of the earlier version: use `make upgrade FROM=..`",
    );
    PathBuf::from(folder)
}

/// Calls, reloads and unloads a contract that has just been loaded.
async fn life_of_a_contract(address: &str, one: &Client, other: &Client) {
    let first = one.execute(address, "add", &json!(1)).await;
    assert_eq!(first.data()["count"], 1, "{first:?}");
    one.must_load(address, CONTRACT).await;
    let second = other.execute(address, "add", &json!(2)).await;
    assert_eq!(
        second.data()["count"],
        2,
        "an identical load keeps the state: {second:?}"
    );
    let reloaded = format!("{CONTRACT}\n// another executable");
    other.must_load(address, &reloaded).await;
    let third = one.execute(address, "add", &json!(3)).await;
    assert_eq!(
        third.data()["count"],
        1,
        "a reload resets the state: {third:?}"
    );
    assert!(
        third.generation() > second.generation(),
        "{second:?} {third:?}"
    );
    one.unload(address).await.is_no_content();
    for client in [one, other] {
        client
            .call(address, "add")
            .await
            .error(404, "contract_not_loaded");
    }
}

/// Every call succeeded, or it was not started and says so.
async fn check_calls(log: &CallLog, client: &Client) {
    let failed = log.calls.iter().filter(|call| !call.succeeded());
    let retryable = |call: &&Call| call.never_started();
    let (retryable, failed): (Vec<_>, Vec<_>) = failed.partition(retryable);
    assert!(failed.is_empty(), "{failed:#?}");
    let mut allowed: Vec<_> = retryable.iter().map(|call| call.outcome()).collect();
    allowed.push("ok".to_owned());
    let allowed: Vec<_> = allowed.iter().map(String::as_str).collect();
    log.check_allowing(client, &allowed, Repeats::ByCallers)
        .await;
}

/// Every contract is listed exactly once.
async fn is_listed(client: &Client, addresses: &[String]) {
    let mut expected: Vec<_> = addresses
        .iter()
        .map(String::as_str)
        .chain(["two"])
        .collect();
    expected.sort_unstable();
    wait::until_none(LISTED_WITHIN, async || {
        let listed = client.contracts().await;
        let mut listed: Vec<_> = listed
            .iter()
            .filter_map(|contract| contract["contractAddress"].as_str())
            .collect();
        listed.sort_unstable();
        let differs = listed != expected;
        differs
            .then(|| format!("listed: {listed:?}"))
            .into_iter()
            .collect()
    })
    .await;
}

/// Two pages would not count on from each other. Returns the generation.
async fn counts_in_one_page(client: &Client, address: &str) -> u64 {
    let first = client.execute(address, "add", &json!("a")).await;
    let count = first.data()["count"].as_u64().expect("a number");
    for more in 1..=5 {
        let answer = client.execute(address, "add", &json!("b")).await;
        assert_eq!(answer.data()["count"], count + more, "{answer:?}");
        assert_eq!(answer.generation(), first.generation());
    }
    first.generation()
}
